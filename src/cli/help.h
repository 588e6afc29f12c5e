/* SPDX-License-Identifier: Apache-2.0 */
/* What the tables of options.h are made into. All of it goes to the given stream. */
#pragma once

#include <stdio.h>

#include "cli/options.h"

/* `cleave --help`. */
void help_overview(FILE *out);
/* `cleave VERB --help`, at most 80 columns wide. */
void help_verb(FILE *out, const struct cli_verb *verb);

/* A man page as scdoc reads it: "cleave", "cleave-VERB" or "cleave-environment".
 * 0, -ENOENT: there is no such page. */
int help_manual(FILE *out, const char *page);

/* The script that completes cleave's words. 0, -ENOENT: not bash, zsh or fish. */
int help_completion(FILE *out, const char *shell);
