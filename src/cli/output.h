/* SPDX-License-Identifier: Apache-2.0 */
/* What verbs print on standard output: a table for people, CSV, or JSON. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/options.h"

enum output_format {
        OUTPUT_TABLE,
        OUTPUT_JSON,
        OUTPUT_CSV,
};

/* The option every listing verb has; stands in its table. */
#define OUTPUT_OPTION                                                                              \
        {                                                                                          \
                .name = "output", .letter = 'o', .argument = "FORMAT", .words = CLI_WORDS_LIST,    \
                .choices = "table json csv", .help = "Print a table, JSON or CSV.",                \
                .preset = "table"                                                                  \
        }
#define OUTPUT_OPTION_NO_CSV                                                                       \
        {                                                                                          \
                .name = "output", .letter = 'o', .argument = "FORMAT", .words = CLI_WORDS_LIST,    \
                .choices = "table json", .help = "Print text for people, or JSON.",                \
                .preset = "table"                                                                  \
        }

/* value: of the option, NULL if it was not given. */
enum output_format output_format(const char *value);

/* Whether standard output takes colour: a terminal, and NO_COLOR not set. */
bool output_colour(void);
/* Whether standard output is a terminal. */
bool output_terminal(void);

enum output_tone {
        TONE_PLAIN,
        TONE_STRONG,
        TONE_FAINT,
        TONE_GOOD,
        TONE_WARN,
        TONE_BAD,
};
/* The sequence that begins a tone, TONE_PLAIN ends any; "" without colour. */
const char *output_tone(enum output_tone tone);

struct output_column {
        const char *title; /* NULL: not in the table for people */
        const char *field; /* name in CSV; NULL: not in CSV */
        bool right;        /* figures */
        bool last;         /* may be cut where the terminal ends */
};

struct output_table;

/* columns must live as long as the table. NULL if there is no memory. */
struct output_table *output_table_new(const struct output_column *columns, size_t n);
void output_table_free(struct output_table *table);

/* Begins a row; cells are then added from the left. Failures of memory are kept and returned by
 * output_table_print(). */
void output_row(struct output_table *table);
/* shown: for people; exact: for CSV, in base units (NULL: empty, which is unknown). */
void output_cell(
        struct output_table *table, enum output_tone tone, const char *shown, const char *exact);
/* json: a string or number of bytes; null and NULL are unknown, shown as "-". */
void output_cell_text(struct output_table *table, const json_t *json);
void output_cell_size(struct output_table *table, const json_t *json);
void output_cell_number(struct output_table *table, const json_t *json);

/* format: OUTPUT_TABLE or OUTPUT_CSV. 0 or -ENOMEM. */
int output_table_print(struct output_table *table, enum output_format format);

/* Prints the rows as CSV, after their header if that is wanted. 0 or -ENOMEM. */
int output_csv(struct output_table *table, bool header);

/* Prints object with "schema" before its other members: over several lines on a
 * terminal, else, and always by output_json_line(), in one. 0 or -ENOMEM. */
int output_json(json_t *object, const char *schema);
int output_json_line(json_t *object, const char *schema);

/* Size of a JSON number for people; "-" if it is none. Valid until the eighth next call. */
const char *output_size(const json_t *json);
/* Number of bytes, or 0 if it is none. */
uint64_t output_bytes(const json_t *json);
/* Text of a JSON string, or otherwise. */
const char *output_text(const json_t *json, const char *otherwise);

/* Ends standard output and tells a full disk or closed pipe: status, or CLI_FAILED. */
int output_end(int status);
