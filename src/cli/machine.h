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

/* host_init(), and a link to NVIDIA's driver: to the simulated one where CLEAVE_SIM names GPUs, to
 * none where sysfs is a copy of another machine's. The link lasts as long as the program. Each NULL
 * is the usual place. */
void machine_host(
        struct host *ret, const char *sysfs, const char *proc, const char *dev, const char *state);

/* How a VM or a container gets what the record says was made. */
int machine_show(const struct host *host, const struct change *change, enum technique_form form,
        struct cleave_error *error);
int machine_show_container(
        const json_t *devices, enum technique_form form, struct cleave_error *error);
bool machine_is_container(enum technique_form form);

/* Prints a line for each obstacle, the blocking ones first, each with its hint. */
void machine_print_obstacles(FILE *out, const struct obstacles *obstacles);

/* Prints GPUs as survey_gpus() gives them. */
void machine_print_gpus(const json_t *gpus);
