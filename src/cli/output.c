/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/output.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/format.h"

#define COLUMN_GAP 2

struct cell {
        char *shown;
        char *exact; /* NULL: unknown */
        enum output_tone tone;
};

struct output_table {
        const struct output_column *columns;
        size_t n_columns;
        struct cell *cells; /* whole rows */
        size_t n_cells;
        size_t filled; /* cells of the last row that have been set */
        bool failed;
};

enum output_format output_format(const char *value)
{
        if (value && strcmp(value, "json") == 0)
                return OUTPUT_JSON;
        if (value && strcmp(value, "csv") == 0)
                return OUTPUT_CSV;
        return OUTPUT_TABLE;
}

bool output_terminal(void)
{
        static int is = -1;

        if (is < 0)
                is = isatty(STDOUT_FILENO);
        return is;
}

bool output_colour(void)
{
        const char *none = getenv("NO_COLOR"), *term = getenv("TERM");

        return output_terminal() && !(none && *none) && !(term && strcmp(term, "dumb") == 0);
}

const char *output_tone(enum output_tone tone)
{
        static const char *const sequences[] = {
                [TONE_PLAIN] = "\033[0m",
                [TONE_STRONG] = "\033[1m",
                [TONE_FAINT] = "\033[2m",
                [TONE_GOOD] = "\033[32m",
                [TONE_WARN] = "\033[33m",
                [TONE_BAD] = "\033[31m",
        };

        return output_colour() ? sequences[tone] : "";
}

struct output_table *output_table_new(const struct output_column *columns, size_t n)
{
        struct output_table *table = calloc(1, sizeof(*table));

        if (!table)
                return NULL;
        table->columns = columns;
        table->n_columns = n;
        return table;
}

void output_table_free(struct output_table *table)
{
        if (!table)
                return;
        for (size_t i = 0; i < table->n_cells; i++) {
                free(table->cells[i].shown);
                free(table->cells[i].exact);
        }
        free(table->cells);
        free(table);
}

void output_row(struct output_table *table)
{
        size_t n = table->n_cells + table->n_columns;
        struct cell *cells;

        if (table->failed)
                return;
        cells = realloc(table->cells, n * sizeof(*cells));
        if (!cells) {
                table->failed = true;
                return;
        }
        memset(cells + table->n_cells, 0, table->n_columns * sizeof(*cells));
        table->cells = cells;
        table->n_cells = n;
        table->filled = 0;
}

void output_cell(
        struct output_table *table, enum output_tone tone, const char *shown, const char *exact)
{
        struct cell *cell;

        if (table->failed || table->n_cells == 0 || table->filled == table->n_columns)
                return;
        cell = table->cells + table->n_cells - table->n_columns + table->filled++;
        cell->tone = tone;
        cell->shown = strdup(shown);
        cell->exact = exact ? strdup(exact) : NULL;
        if (!cell->shown || (exact && !cell->exact))
                table->failed = true;
}

void output_cell_text(struct output_table *table, const json_t *json)
{
        const char *text = json_string_value(json);

        output_cell(table, TONE_PLAIN, text ?: "-", text);
}

void output_cell_size(struct output_table *table, const json_t *json)
{
        char shown[FORMAT_SIZE_MAX], exact[24];

        if (!json_is_integer(json)) {
                output_cell(table, TONE_PLAIN, "-", NULL);
                return;
        }
        format_size(shown, output_bytes(json));
        snprintf(exact, sizeof(exact), "%llu", (unsigned long long)output_bytes(json));
        output_cell(table, TONE_PLAIN, shown, exact);
}

void output_cell_number(struct output_table *table, const json_t *json)
{
        char text[24];

        if (!json_is_integer(json)) {
                output_cell(table, TONE_PLAIN, "-", NULL);
                return;
        }
        snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(json));
        output_cell(table, TONE_PLAIN, text, text);
}

/* Columns that UTF-8 text takes, where every character takes one; ours do. */
static size_t width_of(const char *text)
{
        size_t n = 0;

        for (; *text; text++)
                n += ((unsigned char)*text & 0xc0) != 0x80;
        return n;
}

/* Bytes of the first n characters. */
static size_t prefix_of(const char *text, size_t n)
{
        size_t i = 0;

        while (text[i]) {
                if (((unsigned char)text[i] & 0xc0) != 0x80 && n-- == 0)
                        break;
                i++;
        }
        return i;
}

static size_t terminal_width(void)
{
        struct winsize size;

        if (!output_terminal() || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
                return SIZE_MAX;
        return size.ws_col;
}

static void print_padded(const char *text, size_t width, bool right, bool is_end)
{
        size_t pad = width - width_of(text);

        if (right)
                printf("%*s%s", (int)pad, "", text);
        else
                printf("%s%*s", text, is_end ? 0 : (int)pad, "");
}

static void print_last(const char *text, size_t room)
{
        if (width_of(text) <= room)
                fputs(text, stdout);
        else if (room > 1)
                printf("%.*s…", (int)prefix_of(text, room - 1), text);
}

static void print_row(
        const struct output_table *table, const struct cell *row, const size_t *widths)
{
        size_t column = 0, shown = 0, room = terminal_width();

        for (size_t i = 0; i < table->n_columns; i++) {
                const struct output_column *c = table->columns + i;
                const char *text = row ? row[i].shown : c->title;
                enum output_tone tone = row ? row[i].tone : TONE_FAINT;
                bool is_end = true;

                if (!c->title)
                        continue;
                for (size_t j = i + 1; j < table->n_columns; j++)
                        is_end = is_end && !table->columns[j].title;
                if (shown++) {
                        printf("%*s", COLUMN_GAP, "");
                        column += COLUMN_GAP;
                }
                if (tone != TONE_PLAIN)
                        fputs(output_tone(tone), stdout);
                if (c->last)
                        print_last(text ?: "", room > column ? room - column : 0);
                else
                        print_padded(text ?: "", widths[i], c->right, is_end);
                if (tone != TONE_PLAIN)
                        fputs(output_tone(TONE_PLAIN), stdout);
                column += widths[i];
        }
        putchar('\n');
}

static int print_people(const struct output_table *table)
{
        _cleanup_free_ size_t *widths = calloc(table->n_columns, sizeof(*widths));

        if (!widths)
                return -ENOMEM;
        for (size_t i = 0; i < table->n_columns; i++)
                widths[i] = table->columns[i].title ? width_of(table->columns[i].title) : 0;
        for (size_t i = 0; i < table->n_cells; i++) {
                size_t width = table->cells[i].shown ? width_of(table->cells[i].shown) : 0;

                widths[i % table->n_columns] = MAX_OF(widths[i % table->n_columns], width);
        }
        print_row(table, NULL, widths);
        for (size_t i = 0; i < table->n_cells; i += table->n_columns)
                print_row(table, table->cells + i, widths);
        return 0;
}

/* RFC 4180, with plain line ends. */
static void print_csv_field(const char *text)
{
        if (!text)
                return;
        if (!strpbrk(text, ",\"\r\n")) {
                fputs(text, stdout);
                return;
        }
        putchar('"');
        for (; *text; text++) {
                if (*text == '"')
                        putchar('"');
                putchar(*text);
        }
        putchar('"');
}

static void print_csv_row(const struct output_table *table, const struct cell *row)
{
        bool first = true;

        for (size_t i = 0; i < table->n_columns; i++) {
                if (!table->columns[i].field)
                        continue;
                if (!first)
                        putchar(',');
                first = false;
                print_csv_field(row ? row[i].exact : table->columns[i].field);
        }
        putchar('\n');
}

int output_csv(struct output_table *table, bool header)
{
        if (table->failed)
                return -ENOMEM;
        if (header)
                print_csv_row(table, NULL);
        for (size_t i = 0; i < table->n_cells; i += table->n_columns)
                print_csv_row(table, table->cells + i);
        return 0;
}

int output_table_print(struct output_table *table, enum output_format format)
{
        if (table->failed)
                return -ENOMEM;
        return format == OUTPUT_TABLE ? print_people(table) : output_csv(table, true);
}

static int print_json(json_t *object, const char *schema, size_t flags)
{
        json_t *whole = json_pack("{s:s}", "schema", schema);

        if (!whole || json_object_update(whole, object) < 0 ||
                json_dumpf(whole, stdout, flags) < 0) {
                json_decref(whole);
                return -ENOMEM;
        }
        putchar('\n');
        json_decref(whole);
        return 0;
}

int output_json(json_t *object, const char *schema)
{
        return print_json(object, schema, output_terminal() ? JSON_INDENT(2) : 0);
}

int output_json_line(json_t *object, const char *schema)
{
        return print_json(object, schema, JSON_COMPACT);
}

const char *output_size(const json_t *json)
{
        static char buffers[8][FORMAT_SIZE_MAX];
        static unsigned next;
        char *buffer = buffers[next++ % ARRAY_SIZE(buffers)];

        return json_is_integer(json) ? format_size(buffer, output_bytes(json)) : "-";
}

uint64_t output_bytes(const json_t *json)
{
        json_int_t value = json_integer_value(json);

        return value > 0 ? (uint64_t)value : 0;
}

const char *output_text(const json_t *json, const char *otherwise)
{
        return json_string_value(json) ?: otherwise;
}

int output_end(int status)
{
        if (fflush(stdout) == 0 && !ferror(stdout))
                return status;
        /* Who closed the pipe has seen enough, as with `| head`. */
        if (errno != EPIPE)
                fprintf(stderr, "cleave: cannot write the output: %s\n", strerror(errno));
        return status ?: CLI_FAILED;
}
