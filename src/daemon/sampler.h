/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the driver says of its devices' memory, asked by a thread of its own: while it takes down
 * the contexts of a process that has died it answers after up to 0.1 s, and somebody's turn may be
 * over meanwhile. A question and its answer at a time.
 */
#pragma once

#include <stdint.h>

#include "device/device.h"

struct sample {
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

/* Asks about a device, and waits for an answer, in microseconds. -EAGAIN: it was late, or one to
 * what was asked before still is; it will not be had. */
int sampler_ask(struct sampler *sampler, const struct device_backend *backend, void *handle,
        unsigned index, uint64_t patience_usec, struct sample *ret);
/* Waits until nothing is asked, as before the handle is used otherwise. NULL: there is none. */
void sampler_settle(struct sampler *sampler);

/* The same without a thread. */
void sample_take(
        const struct device_backend *backend, void *handle, unsigned index, struct sample *ret);
