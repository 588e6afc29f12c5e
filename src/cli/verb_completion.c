/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "cli/help.h"
#include "cli/output.h"
#include "cli/verbs.h"

static int run_completion(const struct cli_args *args)
{
        if (help_completion(stdout, args->operands[0]) < 0)
                return cli_usage(args->verb, "no completion for %s", args->operands[0]);
        return output_end(CLI_OK);
}

static const struct cli_example examples[] = {
        {"eval \"$(cleave completion bash)\"", "completion in this shell"},
        {"cleave completion fish > ~/.config/fish/completions/cleave.fish",
                "and for good, in fish"},
        {NULL, NULL},
};

const struct cli_verb verb_completion = {
        .name = "completion",
        .summary = "print the completion script of a shell",
        .operands = "SHELL",
        .description = "Prints a script by which the shell completes cleave's verbs, options and "
                       "the names of tenants. SHELL is bash, zsh or fish. An installed Cleave has "
                       "put these scripts where the shells look for them.",
        .examples = examples,
        .least = 1,
        .most = 1,
        .words = CLI_WORDS_LIST,
        .choices = "bash zsh fish",
        .run = run_completion,
};
