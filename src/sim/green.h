/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Green contexts: views of a device's primary context that are confined to some of its SMs. They
 * share its memory, modules and streams' order; what runs in them runs on their SMs. A CUgreenCtx
 * and the CUcontext made from it are one handle, as in the real driver.
 *
 * How a device is divided, and what each call answers, is as seen on an H100 under driver 580
 * (docs/benchmarks.md): 15 groups of 8 SMs with 12 left over, or 66 of 2. Which SMs share a group
 * is not imitated: here they are neighbours.
 */
#pragma once

#include "driver.h"

#define SIM_MAX_SMS 256

struct sim_sms {
        uint64_t word[SIM_MAX_SMS / 64];
};

static inline bool sms_have(const struct sim_sms *sms, unsigned sm)
{
        return sms->word[sm / 64] >> sm % 64 & 1;
}
static inline void sms_put(struct sim_sms *sms, unsigned sm)
{
        sms->word[sm / 64] |= 1ull << sm % 64;
}
unsigned sms_count(const struct sim_sms *sms);

#define SIM_GREEN_MAGIC 0x6e6572674d4953ull /* "SIMgren" */

/* Outlives its end, as contexts do, and is used again with another generation. */
struct sim_green {
        uint64_t magic;
        _Atomic uint32_t live;
        uint32_t generation;
        struct sim_context *context; /* the device's primary one */
        CUdevice device;
        uint64_t id;
        struct sim_sms sms;
        struct sim_green *next;
};

/* The one of that handle, alive or not; NULL: the handle is something else. */
struct sim_green *green_of(const void *handle);
static inline bool green_lives(const struct sim_green *green)
{
        return atomic_load_explicit(&green->live, memory_order_acquire) != 0;
}
/* context.c: the calling thread's current one, NULL: none, or an ordinary context is current. */
struct sim_green *green_current(void);
/* context.c: a number no other context or green context has had. */
uint64_t context_next_id(void);
/* All SMs of a device. */
struct sim_sms green_whole(const struct sim_device *device);
/* The SMs that a launch in green (NULL: an ordinary context) may use. */
struct sim_sms green_sms(const struct sim_green *green, const struct sim_device *device);

/* stream.c: a stream of a green context, for cuGreenCtxStreamCreate(). */
CUresult stream_create(struct sim_context *context, struct sim_green *green, unsigned int flags,
        int priority, CUstream *ret);
