/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the driver says of its devices' memory, asked by a thread of its own: it needs some 3 ms a
 * device, and up to 0.1 s while it takes down the contexts of a process that has died, and
 * somebody's turn may be over meanwhile. One question at a time; its answer is kept until it is
 * fetched.
 */
#pragma once

#include <stdint.h>

#include "device/device.h"

struct sample {
        uint64_t asked_at; /* usec of CLOCK_MONOTONIC */
        uint64_t took;     /* usec */
        int memory_result; /* as of the backend's memory() */
        struct device_memory memory;
        int processes_result;           /* as of its processes() */
        struct device_process *process; /* the caller's */
        size_t processes;
};

#define SAMPLER_PATIENT UINT64_MAX

struct sampler;
/* 0 or negative errno. */
int sampler_new(struct sampler **ret);
/* Waits for the answer to what was asked last. */
void sampler_free(struct sampler *sampler);

/* Asks about a device (index below DEVICE_MAX), unless an answer is there to what was asked at
 * since_usec or later, and waits for it for so many microseconds. -EAGAIN: it is late, or one to
 * what was asked before is: it can be fetched by asking again, with the same since_usec. */
int sampler_ask(struct sampler *sampler, const struct device_backend *backend, void *handle,
        unsigned index, uint64_t since_usec, uint64_t patience_usec, struct sample *ret);
/* Waits until nothing is asked, as before the handle is used otherwise, and forgets what was not
 * fetched. NULL: there is none. */
void sampler_settle(struct sampler *sampler);

/* The same without a thread. */
void sample_take(
        const struct device_backend *backend, void *handle, unsigned index, struct sample *ret);
