/* SPDX-License-Identifier: Apache-2.0 */
/* What the probes share with the loads that they start: a page, and the clock. */
#pragma once

#include <assert.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum load_state {
        LOAD_STARTING,
        LOAD_READY, /* calibrated, waiting for go */
        LOAD_RUNNING,
        LOAD_FAILED,
};

enum load_wake {
        LOAD_WAKE_NOT,
        LOAD_WAKE_SELF, /* the load calls RESTART_RUNLIST */
        LOAD_WAKE_ASK,  /* the load sets pending and wakes who waits for it */
};

#define LOAD_LATENCIES 65536u
#define LOAD_CHANNELS  16u

/* Shared memory of each load, inherited as a descriptor. */
struct load_page {
        /* by the GPU */
        _Atomic uint64_t done; /* kernels finished */
        /* by the probe */
        _Atomic uint32_t go;
        _Atomic uint32_t stop;
        _Atomic uint32_t wake;  /* enum load_wake, after each launch */
        _Atomic uint32_t level; /* 1 + the interleave level wanted; 0 when the load has set it */
        /* by the load */
        _Atomic uint32_t state;              /* enum load_state */
        _Atomic uint32_t latencies;          /* written since the probe set it to 0 */
        _Atomic uint32_t pending;            /* 1: work waits; the probe sets it back to 0 */
        _Atomic uint32_t longest_us;         /* of all since then */
        uint32_t latency_us[LOAD_LATENCIES]; /* arrival to completion; not with queue */
        double unit_ns;                      /* one kernel in a full queue with the GPU to itself */
        uint64_t turns;                      /* of its loop */
        int32_t fd; /* of /dev/nvidiactl, the one that RM knows the driver library by */
        uint32_t client, subdevice; /* RM's names, */
        uint32_t group;             /* of the graphics/compute channel group */
        uint32_t channels, channel[LOAD_CHANNELS];
        uint32_t slice_status, level_status, wake_status;
        uint64_t wake_ns; /* longest RESTART_RUNLIST */
};
/* tests/gpu/compute reads these */
static_assert(offsetof(struct load_page, longest_us) == 36, "layout");
static_assert(offsetof(struct load_page, unit_ns) == 262184, "layout");
static_assert(offsetof(struct load_page, turns) == 262192, "layout");
static_assert(sizeof(struct load_page) <= 270336, "layout");

static inline uint64_t now_ns(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void sleep_ns(uint64_t ns)
{
        struct timespec t = {
                .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};

        nanosleep(&t, NULL);
}

static inline void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
        syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

static inline void futex_wake(_Atomic uint32_t *word)
{
        syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}
