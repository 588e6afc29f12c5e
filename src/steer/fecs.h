/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of context switches from the firmware of a real GPU's engine (FECS), by an event buffer
 * of our own; and the busy samples of the driver. docs/probes.md has the sequence and its answers.
 */
#pragma once

#include "steer/rm.h"

struct fecs;

/* For the device that is open under this index. */
int fecs_open(const struct steer_client *client, unsigned device, struct fecs **ret, bool *ret_all,
        uint32_t *ret_status);
struct fecs *fecs_close(struct fecs *fecs);

/* As in struct steer_backend. */
int fecs_records(struct fecs *fecs, struct steer_record *records, unsigned room,
        uint64_t *ret_until, bool *ret_lost);
/* Off: only the event buffer goes, as its memory need not be made anew; without one that is bound
 * the firmware records nothing. An error: it is good for fecs_close() alone. */
int fecs_record(struct fecs *fecs, bool on, uint32_t *ret_status);
int fecs_samples(struct fecs *fecs, uint64_t after, struct steer_sample *samples, unsigned room);
