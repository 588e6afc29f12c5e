/* SPDX-License-Identifier: Apache-2.0 */
/* --compute, --compute-max and --priority, the same for every verb that has them. */
#pragma once

#include <jansson.h>

#include "base/error.h"

#define COMPUTE_OPTION                                                                             \
        {                                                                                          \
                .name = "compute", .letter = 'c', .argument = "PERCENT",                           \
                .help = "Share of the device's time that is guaranteed while there is work for "   \
                        "it, in whole percents; the guarantees on a device add up to at most "     \
                        "100.",                                                                    \
        }
#define COMPUTE_MAX_OPTION                                                                         \
        {                                                                                          \
                .name = "compute-max", .argument = "PERCENT",                                      \
                .help = "The most of the device's time that it gets, also when the device idles; " \
                        "100 is no cap.",                                                          \
        }
#define PRIORITY_OPTION                                                                            \
        {                                                                                          \
                .name = "priority", .argument = "LEVEL", .words = CLI_WORDS_LIST,                  \
                .choices = "high normal low",                                                      \
                .help = "Whose turn comes first: high is served before all others whenever it "    \
                        "has work, low takes what is left.",                                       \
        }

/* Adds what was given (NULL: not) to the params of a request. */
int compute_add(json_t *params, const char *share, const char *most, const char *priority,
        struct cleave_error *error);
