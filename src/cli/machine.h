/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs about hardware share: the roots of the machine, obstacles, GPUs. */
#pragma once

#include <jansson.h>

#include "cli/options.h"
#include "partition/survey.h"

/* Where the machine's files are; for looking at a copy of another machine's. */
#define MACHINE_ROOTS(sysfs_index, proc_index)                                                     \
        [sysfs_index] = {.name = "sysfs",                                                          \
                .argument = "DIRECTORY",                                                           \
                .help = "Where sysfs is.",                                                         \
                .preset = "/sys"},                                                                 \
        [proc_index] = {.name = "proc",                                                            \
                .argument = "DIRECTORY",                                                           \
                .help = "Where proc is.",                                                          \
                .preset = "/proc"}

/* Prints a line for each obstacle, the blocking ones first, each with its hint. */
void machine_print_obstacles(FILE *out, const struct obstacles *obstacles);

/* Prints GPUs as survey_gpus() gives them. */
void machine_print_gpus(const json_t *gpus);
