/* SPDX-License-Identifier: Apache-2.0 */
/* cleave, the command: finds the verb, reads its options, calls it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/daemon.h"
#include "cli/help.h"
#include "cli/output.h"
#include "cli/verbs.h"

/* For the build: `cleave __scdoc PAGE` prints a man page. */
static int run_scdoc(const struct cli_args *args)
{
        if (help_manual(stdout, args->operands[0]) < 0)
                return cli_usage(args->verb, "there is no page %s", args->operands[0]);
        return output_end(CLI_OK);
}

static const struct cli_verb verb_scdoc = {
        .name = "__scdoc",
        .summary = "print the source of a man page",
        .operands = "PAGE",
        .description = "For the build.",
        .least = 1,
        .most = 1,
        .hidden = true,
        .run = run_scdoc,
};

/* For the completion scripts: names of what lives now, a line each. Says nothing where there is
 * no daemon, and starts none. */
static int run_complete(const struct cli_args *args)
{
        _cleanup_client_ struct client *client = NULL;
        bool tenants = strcmp(args->operands[0], "tenants") == 0;
        json_t *result = NULL, *item;
        size_t i;

        if (daemon_connect(0, &client, NULL, NULL) < 0)
                return CLI_UNREACHABLE;
        if (client_call(client, tenants ? "tenant.list" : "device.list", NULL, &result, NULL) < 0)
                return CLI_FAILED;
        json_array_foreach(json_object_get(result, tenants ? "tenants" : "devices"), i, item)
        {
                if (tenants)
                        printf("%s\n", output_text(json_object_get(item, "name"), ""));
                else
                        printf("%lld\n", json_integer_value(json_object_get(item, "index")));
        }
        json_decref(result);
        return output_end(CLI_OK);
}

static const struct cli_verb verb_complete = {
        .name = "__complete",
        .summary = "print names for a shell",
        .operands = "KIND",
        .description = "For the completion scripts.",
        .least = 1,
        .most = 1,
        .words = CLI_WORDS_LIST,
        .choices = "tenants devices",
        .hidden = true,
        .run = run_complete,
};

static int run_help(const struct cli_args *args)
{
        const struct cli_verb *verb;

        if (args->n_operands == 0) {
                help_overview(stdout);
                return output_end(CLI_OK);
        }
        verb = cli_verb_find(args->operands[0]);
        if (!verb)
                return cli_usage(NULL, "there is no verb %s", args->operands[0]);
        help_verb(stdout, verb);
        return output_end(CLI_OK);
}

const struct cli_verb verb_help = {
        .name = "help",
        .summary = "show help, also that of a verb",
        .operands = "[VERB]",
        .description = "Shows what cleave can do or, with a verb, what that verb does.",
        .most = 1,
        .words = CLI_WORDS_VERB,
        .run = run_help,
};

const struct cli_verb *const cli_verbs[] = {
        &verb_run,
        &verb_ps,
        &verb_inspect,
        &verb_set,
        &verb_stop,
        &verb_devices,
        &verb_release,
        &verb_advise,
        &verb_partition,
        &verb_passthrough,
        &verb_mps,
        &verb_bench,
        &verb_trace,
        &verb_replay,
        &verb_events,
        &verb_cdi,
        &verb_doctor,
        &verb_version,
        &verb_completion,
        &verb_help,
        &verb_scdoc,
        &verb_complete,
        &verb_container_hook,
};
const size_t cli_n_verbs = ARRAY_SIZE(cli_verbs);

static int unknown_verb(const char *word)
{
        const char *nearest = cli_nearest(NULL, word);

        if (nearest)
                return cli_usage(NULL, "there is no verb %s; did you mean %s?", word, nearest);
        return cli_usage(NULL, "there is no verb %s", word);
}

static int run_verb(const struct cli_verb *verb, int argc, char **argv)
{
        _cleanup_free_ char *error = NULL;
        struct cli_args args;
        int r;

        r = cli_args_parse(verb, argc, argv, &args, &error);
        if (r > 0) {
                help_verb(stdout, verb);
                return output_end(CLI_OK);
        }
        if (r < 0)
                return cli_usage(verb, "%s", error ?: "out of memory");
        r = verb->run(&args);
        cli_args_done(&args);
        return r;
}

int main(int argc, char **argv)
{
        const char *word = argc > 1 ? argv[1] : NULL;
        const struct cli_verb *verb;

        if (!word) {
                help_overview(stderr);
                return CLI_USAGE;
        }
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
                word = "help";
        else if (strcmp(word, "--version") == 0) {
                printf("cleave %s\n", CLEAVE_VERSION);
                return output_end(CLI_OK);
        } else if (word[0] == '-')
                return cli_usage(NULL, "there is no option %s before the verb", word);
        verb = cli_verb_find(word);
        if (!verb)
                return unknown_verb(word);
        return run_verb(verb, argc - 2, argv + 2);
}
