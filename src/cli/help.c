/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/help.h"

#include <errno.h>
#include <string.h>

#include "proto/environment.h"

#define HELP_WIDTH  80
#define HELP_INDENT 2
#define HELP_COLUMN 26 /* where the meaning of an option begins */

/* Prints text broken at blanks, every line but the first indented; a blank line begins a new
 * paragraph. column: where the cursor stands. */
static void wrap(FILE *out, const char *text, size_t indent, size_t column)
{
        while (*text) {
                size_t length = strcspn(text, " \n");

                if (column > indent && column + 1 + length > HELP_WIDTH) {
                        fprintf(out, "\n%*s", (int)indent, "");
                        column = indent;
                } else if (column > indent) {
                        fputc(' ', out);
                        column++;
                }
                fwrite(text, 1, length, out);
                column += length;
                text += length;
                if (text[0] == '\n' && text[1] == '\n') {
                        fprintf(out, "\n\n%*s", (int)indent, "");
                        column = indent;
                }
                text += strspn(text, " \n");
        }
        fputc('\n', out);
}

static void option_words(char *buffer, size_t size, const struct cli_option *option)
{
        char letter[8] = "    ";
        const char *open = "", *close = "";

        if (option->letter)
                snprintf(letter, sizeof(letter), "-%c, ", option->letter);
        if (option->argument) {
                open = option->optional ? "[=" : " ";
                close = option->optional ? "]" : "";
        }
        snprintf(buffer, size, "%s--%s%s%s%s", letter, option->name, open,
                option->argument ? option->argument : "", close);
}

static void help_option(FILE *out, const struct cli_option *option)
{
        char words[128], meaning[1024];
        size_t column;

        option_words(words, sizeof(words), option);
        fprintf(out, "%*s%s", HELP_INDENT, "", words);
        column = HELP_INDENT + strlen(words);
        if (column + 2 > HELP_COLUMN) {
                fputc('\n', out);
                column = 0;
        }
        fprintf(out, "%*s", (int)(HELP_COLUMN - column), "");
        snprintf(meaning, sizeof(meaning), "%s%s%s%s", option->help,
                option->preset ? " (default: " : "", option->preset ? option->preset : "",
                option->preset ? ")" : "");
        wrap(out, meaning, HELP_COLUMN, HELP_COLUMN);
}

static const struct cli_option option_help = {
        .name = "help",
        .letter = 'h',
        .help = "Show this help.",
};

static void synopsis(FILE *out, const struct cli_verb *verb)
{
        fprintf(out, "[OPTION...]%s%s%s", verb->command ? " [--]" : "", verb->operands ? " " : "",
                verb->operands ? verb->operands : "");
}

void help_verb(FILE *out, const struct cli_verb *verb)
{
        fprintf(out, "cleave %s - %s\n\nusage: cleave %s ", verb->name, verb->summary, verb->name);
        synopsis(out, verb);
        fputs("\n\n", out);
        wrap(out, verb->description, 0, 0);
        fputs("\noptions:\n", out);
        for (size_t i = 0; i < verb->n_options; i++)
                help_option(out, verb->options + i);
        help_option(out, &option_help);
        if (verb->examples)
                fputs("\nexamples:\n", out);
        for (const struct cli_example *e = verb->examples; e && e->command; e++)
                fprintf(out, "  %s\n      %s\n", e->command, e->meaning);
}

void help_overview(FILE *out)
{
        fputs("cleave - cut a GPU into shares with exact memory quotas\n\n"
              "usage: cleave VERB [OPTION...] [ARGUMENT...]\n\nverbs:\n",
                out);
        for (size_t i = 0; i < cli_n_verbs; i++)
                if (!cli_verbs[i]->hidden)
                        fprintf(out, "  %-12s%s\n", cli_verbs[i]->name, cli_verbs[i]->summary);
        fputs("\nfirst steps:\n"
              "  cleave run --memory 8G -- python train.py\n"
              "  cleave ps\n\n"
              "`cleave VERB --help` says more about a verb; `cleave doctor` says what is "
              "missing.\n",
                out);
}

/* Text as scdoc takes it literally. */
static void manual_text(FILE *out, const char *text)
{
        for (const char *p = text; *p; p++) {
                bool at_start = p == text || p[-1] == '\n';

                if (strchr("\\*_~<>", *p) || (at_start && strchr("#-.;|[]", *p)))
                        fputc('\\', out);
                fputc(*p, out);
        }
}

static void manual_head(FILE *out, const char *page, int section, const char *summary)
{
        fprintf(out, "%s(%d)\n\n# NAME\n\n%s - ", page, section, page);
        manual_text(out, summary);
        fputs("\n\n", out);
}

static void manual_option(FILE *out, const struct cli_option *option)
{
        if (option->letter)
                fprintf(out, "*-%c*, ", option->letter);
        fprintf(out, "*--%s*", option->name);
        if (option->argument) {
                fputs(option->optional ? "[=" : " ", out);
                fputc('_', out);
                manual_text(out, option->argument);
                fputc('_', out);
                if (option->optional)
                        fputc(']', out);
        }
        fputs("\n\t", out);
        manual_text(out, option->help);
        if (option->preset) {
                fputs(" Default: ", out);
                manual_text(out, option->preset);
                fputc('.', out);
        }
        fputs("\n\n", out);
}

static const struct {
        int status;
        const char *meaning;
} exit_statuses[] = {
        {CLI_OK, "Done."},
        {CLI_FAILED, "It failed."},
        {CLI_USAGE, "The command line, or a value on it, makes no sense."},
        {CLI_NOT_FOUND, "There is no such tenant or device."},
        {CLI_NOT_PERMITTED, "Not permitted to this user."},
        {CLI_UNREACHABLE, "The daemon cannot be reached."},
        {CLI_REFUSED, "Refused by policy: no room, beyond the device, beyond the ceiling, in use."},
};

static void manual_statuses(FILE *out, const struct cli_verb *verb)
{
        fputs("# EXIT STATUS\n\n", out);
        if (verb && verb->usage_failure == CLI_RUN_FAILED) {
                fputs("The command's own. If a signal ended the command, the same signal ends\n"
                      "*cleave run*, so that a shell sees 128 and the signal's number. Besides:\n\n"
                      "*125*\n\tCleave could not start the command; the reason is on standard "
                      "error.\n\n"
                      "*126*\n\tThe command was found but could not be executed.\n\n"
                      "*127*\n\tThe command was not found.\n\n",
                        out);
                return;
        }
        for (size_t i = 0; i < sizeof(exit_statuses) / sizeof(exit_statuses[0]); i++) {
                fprintf(out, "*%d*\n\t", exit_statuses[i].status);
                manual_text(out, exit_statuses[i].meaning);
                fputs("\n\n", out);
        }
}

static void manual_verb(FILE *out, const struct cli_verb *verb)
{
        char page[64];

        snprintf(page, sizeof(page), "cleave-%s", verb->name);
        manual_head(out, page, 1, verb->summary);
        fprintf(out, "# SYNOPSIS\n\n*cleave %s* ", verb->name);
        fputs("\\[OPTION...\\]", out);
        if (verb->command)
                fputs(" \\[--\\]", out);
        if (verb->operands) {
                fputc(' ', out);
                manual_text(out, verb->operands);
        }
        fputs("\n\n# DESCRIPTION\n\n", out);
        manual_text(out, verb->description);
        fputs("\n\n# OPTIONS\n\n", out);
        for (size_t i = 0; i < verb->n_options; i++)
                manual_option(out, verb->options + i);
        manual_option(out, &option_help);
        if (verb->examples)
                fputs("# EXAMPLES\n\n", out);
        for (const struct cli_example *e = verb->examples; e && e->command; e++) {
                fputs("*", out);
                manual_text(out, e->command);
                fputs("*\n\t", out);
                manual_text(out, e->meaning);
                fputs("\n\n", out);
        }
        manual_statuses(out, verb);
        fputs("# SEE ALSO\n\n*cleave*(1), *cleaved*(8), *cleave-environment*(7)\n", out);
}

static void manual_cleave(FILE *out)
{
        manual_head(out, "cleave", 1, "cut a GPU into shares with exact memory quotas");
        fputs("# SYNOPSIS\n\n*cleave* VERB \\[OPTION...\\] \\[ARGUMENT...\\]\n\n# DESCRIPTION\n\n"
              "*cleave run* puts any unmodified CUDA program under an exact memory quota, on a "
              "real\n"
              "GPU or on a simulated one. The other verbs show and steer what runs. They speak "
              "with\n"
              "*cleaved*(8): the machine's, or one of the user's own that *cleave* starts on "
              "demand.\n\n"
              "Options may stand before and after other words; *--* ends them.\n\n# VERBS\n\n",
                out);
        for (size_t i = 0; i < cli_n_verbs; i++) {
                if (cli_verbs[i]->hidden)
                        continue;
                fprintf(out, "*cleave-%s*(1)\n\t", cli_verbs[i]->name);
                manual_text(out, cli_verbs[i]->summary);
                fputs("\n\n", out);
        }
        fputs("# OUTPUT\n\n"
              "What was asked for goes to standard output, everything else to standard error. "
              "Verbs\n"
              "that list something take *-o* _FORMAT_: *table* for people, *csv*, or *json*. JSON "
              "is\n"
              "one object whose member _schema_ names its form and version, such as\n"
              "\"cleave.ps/1\": within a version members are only added. Amounts of memory are in\n"
              "bytes, times in seconds since the epoch, and what is not known is null. The "
              "members\n"
              "are those of the control protocol.\n\n"
              "Colour is used on a terminal only, and not if *NO_COLOR* is set.\n\n",
                out);
        manual_statuses(out, NULL);
        fputs("# SEE ALSO\n\n*cleaved*(8), *cleave.conf*(5), *cleave-environment*(7)\n", out);
}

static void manual_environment(FILE *out)
{
        static const struct {
                const char *name;
                const char *meaning;
        } variables[] = {
#define X(identifier, name, meaning) {name, meaning},
                CLEAVE_ENVIRONMENT(X)
#undef X
        };

        manual_head(out, "cleave-environment", 7, "environment variables that Cleave reads");
        fputs("# DESCRIPTION\n\n", out);
        for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++) {
                fputc('*', out);
                manual_text(out, variables[i].name);
                fputs("*\n\t", out);
                manual_text(out, variables[i].meaning);
                fputs("\n\n", out);
        }
        fputs("*NO_COLOR*\n\tIf set to anything, *cleave* uses no colour.\n\n", out);
        fputs("# SEE ALSO\n\n*cleave*(1), *cleave-run*(1), *cleaved*(8)\n", out);
}

int help_manual(FILE *out, const char *page)
{
        const char *name = strncmp(page, "cleave-", 7) == 0 ? page + 7 : NULL;
        const struct cli_verb *verb;

        if (strcmp(page, "cleave") == 0) {
                manual_cleave(out);
                return 0;
        }
        if (strcmp(page, "cleave-environment") == 0) {
                manual_environment(out);
                return 0;
        }
        verb = name ? cli_verb_find(name) : NULL;
        if (!verb || verb->hidden)
                return -ENOENT;
        manual_verb(out, verb);
        return 0;
}
