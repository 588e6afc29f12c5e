/* SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/parse.h"
#include "cli/daemon.h"
#include "cli/verbs.h"

enum {
        OPT_SIGNAL,
        OPT_TIMEOUT,
};

static const struct cli_option options[] = {
        [OPT_SIGNAL] =
                {
                        .name = "signal",
                        .letter = 's',
                        .argument = "SIGNAL",
                        .help = "The first signal, by name or number.",
                        .preset = "TERM",
                },
        [OPT_TIMEOUT] =
                {
                        .name = "timeout",
                        .letter = 't',
                        .argument = "SECONDS",
                        .help = "After this long what still runs is killed; 'infinity': never.",
                        .preset = "10",
                },
};

static int parse_signal(const char *text, int *ret)
{
        uint64_t number;

        if (parse_unsigned(text, (uint64_t)SIGRTMAX, &number) == 0) {
                if (number == 0)
                        return -EINVAL;
                *ret = (int)number;
                return 0;
        }
        if (strncasecmp(text, "SIG", 3) == 0)
                text += 3;
        for (int i = 1; i < SIGRTMIN; i++) {
                const char *name = sigabbrev_np(i);

                if (name && strcasecmp(name, text) == 0) {
                        *ret = i;
                        return 0;
                }
        }
        return -EINVAL;
}

static int run_stop(const struct cli_args *args)
{
        _cleanup_client_ struct client *client = NULL;
        const char *timeout_text = args->value[OPT_TIMEOUT] ?: "10";
        uint64_t timeout;
        int number = SIGTERM, status = CLI_OK, r;

        if (args->value[OPT_SIGNAL] && parse_signal(args->value[OPT_SIGNAL], &number) < 0)
                return cli_usage(args->verb, "there is no signal %s", args->value[OPT_SIGNAL]);
        if (parse_duration(timeout_text, &timeout) < 0)
                return cli_usage(args->verb, "'%s' is no number of seconds", timeout_text);
        {
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;

                r = daemon_connect(DAEMON_START, &client, NULL, &error);
                if (r < 0)
                        return cli_report(args->verb, &error);
        }
        for (int i = 0; i < args->n_operands; i++) {
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                json_t *seconds = timeout == UINT64_MAX
                                          ? json_null()
                                          : json_real((double)timeout / (double)USEC_PER_SEC);

                r = client_call(client, "tenant.stop",
                        json_pack("{s:s, s:i, s:o}", "tenant", args->operands[i], "signal", number,
                                "timeout", seconds),
                        NULL, &error);
                /* The others are stopped all the same; the status is that of the first failure. */
                if (r < 0) {
                        int failed = cli_report(args->verb, &error);

                        status = status ?: failed;
                }
        }
        return status;
}

static const struct cli_example examples[] = {
        {"cleave stop train", "ask it to end, kill it after 10 s"},
        {"cleave stop --signal INT --timeout 60 a b", "two tenants, with more patience"},
        {NULL, NULL},
};

const struct cli_verb verb_stop = {
        .name = "stop",
        .summary = "end tenants",
        .operands = "TENANT...",
        .description = "Sends a signal to every process of a tenant and waits until the last has "
                       "gone. What still runs after the timeout is killed.",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .least = 1,
        .most = -1,
        .words = CLI_WORDS_TENANT,
        .run = run_stop,
};
