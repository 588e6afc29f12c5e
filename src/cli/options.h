/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A verb of the command line, described once. Parsing, --help, the man page and the completion of
 * the shells are all made from the same const tables, so they cannot disagree.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Exit statuses. `run` has others: 125 ours, 126 and 127 as the shell, else the command's own. */
enum cli_exit {
        CLI_OK = 0,
        CLI_FAILED = 1,
        CLI_USAGE = 2,
        CLI_NOT_FOUND = 3,
        CLI_NOT_PERMITTED = 4,
        CLI_UNREACHABLE = 5,
        CLI_REFUSED = 6,
        CLI_RUN_FAILED = 125,
};

#define CLI_MAX_OPTIONS 24 /* of one verb */

/* What a word stands for, so that a shell can complete it. */
enum cli_words {
        CLI_WORDS_NONE,    /* free text */
        CLI_WORDS_LIST,    /* one of `choices` */
        CLI_WORDS_TENANT,  /* a tenant that lives now */
        CLI_WORDS_DEVICE,  /* a device's index */
        CLI_WORDS_COMMAND, /* a program, then its own arguments */
        CLI_WORDS_VERB,
};

struct cli_option {
        const char *name;     /* without the dashes */
        char letter;          /* 0: none */
        const char *argument; /* its name in the help; NULL: the option is a flag */
        bool optional;        /* the argument may be left out */
        bool repeatable;      /* may be given more than once */
        enum cli_words words;
        const char *choices; /* separated by blanks; the only ones, where words is LIST, and for an
                              * optional argument those that may also stand apart */
        const char *help;
        const char *preset; /* the default, as the help says it; NULL: none worth a word */
};

struct cli_example {
        const char *command;
        const char *meaning;
};

struct cli_args;

struct cli_verb {
        const char *name;
        const char *summary;     /* completes "cleave VERB - " */
        const char *operands;    /* of the synopsis, NULL: there are none */
        const char *description; /* paragraphs, separated by blank lines */
        const struct cli_option *options;
        size_t n_options;
        const struct cli_example *examples; /* ends with a NULL command */
        int least, most;                    /* number of operands; most < 0: no limit */
        enum cli_words words;               /* of the operands; LIST: of the first one */
        const char *choices;
        bool command;      /* the first operand ends the options: what follows is not ours */
        bool hidden;       /* not in the help; for our own scripts */
        int usage_failure; /* exit status of a usage error, where it is not CLI_USAGE */
        int (*run)(const struct cli_args *args); /* returns the exit status */
};

struct cli_args {
        const struct cli_verb *verb;
        const char
                *value[CLI_MAX_OPTIONS]; /* the last one given; "" for an optional one left out */
        int count[CLI_MAX_OPTIONS];
        char **operands; /* argv's own words, NULL at the end */
        int n_operands;
        /* All options as given, in order: for those that are repeatable. */
        struct {
                int option;
                const char *value;
        } * given;
        int n_given;
};

/* In the order in which the help shows them. */
extern const struct cli_verb *const cli_verbs[];
extern const size_t cli_n_verbs;

/* NULL: there is none of that name. */
const struct cli_verb *cli_verb_find(const char *name);

/* The verb or option (ours to print, without dashes) nearest to a misspelt word; NULL: none is
 * near. verb: NULL to look among the verbs. */
const char *cli_nearest(const struct cli_verb *verb, const char *word);

/* Reads the words after the verb. Options may stand after operands; "--" ends them.
 * argv is reordered: operands move to its front, and args points into it.
 * 0: args is set, done with cli_args_done(). 1: --help was asked for, and nothing else matters.
 * -EINVAL: a usage error, whose line is in ret_error (the caller frees it). -ENOMEM. */
int cli_args_parse(const struct cli_verb *verb, int argc, char **argv, struct cli_args *ret_args,
        char **ret_error);
void cli_args_done(struct cli_args *args);

/* Prints "cleave VERB: sentence" and the line that says where help is; returns the exit status. */
int cli_usage(const struct cli_verb *verb, const char *format, ...)
        __attribute__((format(printf, 2, 3)));
