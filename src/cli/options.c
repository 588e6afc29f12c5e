/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEAR_WORD_MAX 31

const struct cli_verb *cli_verb_find(const char *name)
{
        for (size_t i = 0; i < cli_n_verbs; i++)
                if (strcmp(cli_verbs[i]->name, name) == 0)
                        return cli_verbs[i];
        return NULL;
}

static unsigned least(unsigned a, unsigned b)
{
        return a < b ? a : b;
}

/* How many letters have to be inserted, removed, changed or swapped with the next one (optimal
 * string alignment). UINT_MAX for words that are too long to be one of ours. */
static unsigned distance(const char *a, const char *b)
{
        unsigned d[NEAR_WORD_MAX + 2][NEAR_WORD_MAX + 2];
        size_t n = strlen(a), m = strlen(b);

        if (n > NEAR_WORD_MAX || m > NEAR_WORD_MAX)
                return -1u;
        for (size_t i = 0; i <= n; i++)
                d[i][0] = (unsigned)i;
        for (size_t j = 0; j <= m; j++)
                d[0][j] = (unsigned)j;
        for (size_t i = 1; i <= n; i++)
                for (size_t j = 1; j <= m; j++) {
                        unsigned same = a[i - 1] == b[j - 1] ? 0 : 1;

                        d[i][j] =
                                least(least(d[i - 1][j], d[i][j - 1]) + 1, d[i - 1][j - 1] + same);
                        if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                                d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
                }
        return d[n][m];
}

static void consider(const char *word, const char *candidate, unsigned *best, const char **nearest)
{
        unsigned d = distance(word, candidate);

        /* A start is not taken for the whole, but it is clear what was meant. */
        if (strncmp(word, candidate, strlen(word)) == 0)
                d = 1;
        if (d < *best) {
                *best = d;
                *nearest = candidate;
        }
}

const char *cli_nearest(const struct cli_verb *verb, const char *word)
{
        /* One slip in a short word, two in a longer one; more is another word. */
        unsigned best = strlen(word) < 5 ? 2 : 3;
        const char *nearest = NULL;

        if (verb)
                for (size_t i = 0; i < verb->n_options; i++)
                        consider(word, verb->options[i].name, &best, &nearest);
        else
                for (size_t i = 0; i < cli_n_verbs; i++)
                        if (!cli_verbs[i]->hidden)
                                consider(word, cli_verbs[i]->name, &best, &nearest);
        return nearest;
}

static int fail(char **ret_error, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int fail(char **ret_error, const char *format, ...)
{
        va_list list;
        int r;

        va_start(list, format);
        r = vasprintf(ret_error, format, list);
        va_end(list);
        return r < 0 ? -ENOMEM : -EINVAL;
}

static bool is_choice(const char *choices, const char *word)
{
        size_t n = strlen(word);

        for (const char *p = choices; n > 0 && (p = strstr(p, word)); p += n)
                if ((p == choices || p[-1] == ' ') && (p[n] == 0 || p[n] == ' '))
                        return true;
        return false;
}

static int accept(struct cli_args *args, int index, const char *value, char **ret_error)
{
        const struct cli_option *option = args->verb->options + index;

        if (args->count[index] && !option->repeatable && option->argument)
                return fail(ret_error, "--%s is given twice", option->name);
        if (value && option->words == CLI_WORDS_LIST && !(option->optional && !*value) &&
                !is_choice(option->choices, value))
                return fail(ret_error, "--%s takes one of %s, not '%s'", option->name,
                        option->choices, value);
        args->count[index]++;
        args->value[index] = value;
        args->given[args->n_given].option = index;
        args->given[args->n_given++].value = value;
        return 0;
}

static int find_long(const struct cli_verb *verb, const char *name, size_t length)
{
        for (size_t i = 0; i < verb->n_options; i++)
                if (strlen(verb->options[i].name) == length &&
                        strncmp(verb->options[i].name, name, length) == 0)
                        return (int)i;
        return -1;
}

static int find_letter(const struct cli_verb *verb, char letter)
{
        for (size_t i = 0; i < verb->n_options; i++)
                if (verb->options[i].letter == letter)
                        return (int)i;
        return -1;
}

/* Whether a word is one of the choices, or a list or multiple of them: h100, h100x2, a100,h100. */
static bool is_made_of_choices(const char *choices, const char *word)
{
        char part[NEAR_WORD_MAX + 1];

        for (;;) {
                size_t n = strcspn(word, ","), name = strcspn(word, "x,");

                if (name >= sizeof(part))
                        return false;
                snprintf(part, sizeof(part), "%.*s", (int)name, word);
                if (!is_choice(choices, part))
                        return false;
                if (name < n && strspn(word + name + 1, "0123456789") != n - name - 1)
                        return false;
                if (!word[n])
                        return true;
                word += n + 1;
        }
}

/* The next word, if it may be the argument of an option; an optional argument that stands apart is
 * taken only if it is made of the words that the option knows. */
static const char *next_word(const struct cli_option *option, int argc, char **argv, int *i)
{
        if (*i + 1 >= argc)
                return NULL;
        if (option->optional &&
                (!option->choices || !is_made_of_choices(option->choices, argv[*i + 1])))
                return NULL;
        return argv[++*i];
}

static int parse_long(struct cli_args *args, int argc, char **argv, int *i, char **ret_error)
{
        const char *word = argv[*i] + 2, *equals = strchr(word, '=');
        size_t length = equals ? (size_t)(equals - word) : strlen(word);
        int index = find_long(args->verb, word, length);
        const struct cli_option *option;
        const char *value = NULL;

        if (index < 0) {
                char name[NEAR_WORD_MAX + 1] = "";
                const char *nearest;

                if (length == strlen("help") && strncmp(word, "help", length) == 0 && !equals)
                        return 1;
                if (length < sizeof(name))
                        memcpy(name, word, length);
                nearest = length < sizeof(name) ? cli_nearest(args->verb, name) : NULL;
                if (nearest)
                        return fail(ret_error, "there is no option --%.*s; did you mean --%s?",
                                (int)length, word, nearest);
                return fail(ret_error, "there is no option --%.*s", (int)length, word);
        }
        option = args->verb->options + index;
        if (!option->argument && equals)
                return fail(ret_error, "--%s takes no argument", option->name);
        if (option->argument) {
                value = equals ? equals + 1 : next_word(option, argc, argv, i);
                if (!value && option->optional)
                        value = "";
                if (!value || (!*value && !option->optional))
                        return fail(ret_error, "--%s needs an argument, %s", option->name,
                                option->argument);
        }
        return accept(args, index, value, ret_error);
}

/* A word of letters: -aw, -ojson, -o json. */
static int parse_letters(struct cli_args *args, int argc, char **argv, int *i, char **ret_error)
{
        for (const char *p = argv[*i] + 1; *p; p++) {
                int r, index = find_letter(args->verb, *p);
                const struct cli_option *option;
                const char *value = NULL;

                if (index < 0 && *p == 'h')
                        return 1;
                if (index < 0)
                        return fail(ret_error, "there is no option -%c", *p);
                option = args->verb->options + index;
                if (option->argument) {
                        value = p[1] ? p + 1 : next_word(option, argc, argv, i);
                        if (!value && option->optional)
                                value = "";
                        if (!value)
                                return fail(ret_error, "-%c needs an argument, %s", *p,
                                        option->argument);
                }
                r = accept(args, index, value, ret_error);
                if (r < 0 || option->argument)
                        return r;
        }
        return 0;
}

static int parse_words(struct cli_args *args, int argc, char **argv, char **ret_error)
{
        const struct cli_verb *verb = args->verb;
        bool ended = false;
        int r;

        for (int i = 0; i < argc; i++) {
                char *word = argv[i];

                if (!ended && strcmp(word, "--") == 0) {
                        ended = true;
                } else if (!ended && word[0] == '-' && word[1]) {
                        if (word[1] == '-')
                                r = parse_long(args, argc, argv, &i, ret_error);
                        else
                                r = parse_letters(args, argc, argv, &i, ret_error);
                        if (r != 0)
                                return r;
                } else {
                        if (verb->command)
                                ended = true;
                        argv[args->n_operands++] = word;
                }
        }
        /* argv[argc] is the NULL that ends it, so there is always room for ours. */
        argv[args->n_operands] = NULL;
        if (args->n_operands < verb->least)
                return fail(ret_error, "%.*s is missing", (int)strcspn(verb->operands, " ."),
                        verb->operands);
        if (verb->most >= 0 && args->n_operands > verb->most)
                return fail(ret_error, "'%s' is one word too many", argv[verb->most]);
        if (verb->words == CLI_WORDS_LIST && args->n_operands > 0 &&
                !is_choice(verb->choices, argv[0]))
                return fail(ret_error, "'%s' is none of %s", argv[0], verb->choices);
        return 0;
}

int cli_args_parse(const struct cli_verb *verb, int argc, char **argv, struct cli_args *ret_args,
        char **ret_error)
{
        struct cli_args args = {.verb = verb, .operands = argv};
        int r;

        /* A word of n letters gives at most n options. */
        size_t most = 1;
        for (int i = 0; i < argc; i++)
                most += strlen(argv[i]);
        args.given = calloc(most, sizeof(*args.given));
        if (!args.given)
                return -ENOMEM;
        r = parse_words(&args, argc, argv, ret_error);
        if (r != 0) {
                cli_args_done(&args);
                return r;
        }
        *ret_args = args;
        return 0;
}

void cli_args_done(struct cli_args *args)
{
        if (!args)
                return;
        free(args->given);
        args->given = NULL;
        args->n_given = 0;
}

int cli_usage(const struct cli_verb *verb, const char *format, ...)
{
        va_list list;

        fprintf(stderr, "cleave%s%s: ", verb ? " " : "", verb ? verb->name : "");
        va_start(list, format);
        vfprintf(stderr, format, list);
        va_end(list);
        fprintf(stderr, "\ntry `cleave %s%s--help`\n", verb ? verb->name : "", verb ? " " : "");
        return verb && verb->usage_failure ? verb->usage_failure : CLI_USAGE;
}
