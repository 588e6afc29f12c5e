/* SPDX-License-Identifier: Apache-2.0 */
/* What there is on this machine, for people and for JSON: every GPU on the PCI bus, what each
 * technique could do on it now, and what stands in the way. Looks only. */
#pragma once

#include <jansson.h>

#include "partition/technique.h"
#include "policy/advise.h"

/* An array with an object for each GPU, as docs/partitions.md describes; a new reference. */
int survey_gpus(const struct host *host, json_t **ret);

/* An array of the obstacles, with code, blocks, sentence and hint; a new reference. */
json_t *survey_obstacles(const struct obstacles *obstacles);

/* The machine for the advice, from the array of survey_gpus(), whose texts it borrows. memory: of
 * the smallest GPU, 0 if not known. */
void survey_machine(const json_t *gpus, uint64_t memory, struct advise_machine *ret);
