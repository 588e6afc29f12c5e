/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two shared pages of a tenant.
 *
 *   grant page   written by the daemon, read by the tenant's processes (their descriptor cannot be
 *                mapped writable): what the tenant may use
 *   usage page   written by the tenant's processes and the daemon: what they use
 *
 * Both are memfds sealed against shrinking and growing, so neither side can make the other fault.
 * Words are in the machine's own byte order and naturally aligned. A reader checks magic, version
 * and size once, with cleave_grant_page_check() or cleave_usage_page_check(), and bounds every
 * index that it takes from a page. What stands in the usage page is the tenant's own word: the
 * daemon acts on it only inside that tenant, and compares it with the driver's count.
 *
 * Memory is counted in units of CLEAVE_UNIT bytes (4 KiB), the smallest block the driver gives.
 */
#pragma once

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "turns.h"

#define CLEAVE_GRANT_MAGIC  0x544e415247564c43ull /* "CLVGRANT" */
#define CLEAVE_USAGE_MAGIC  0x4547415355564c43ull /* "CLVUSAGE" */
#define CLEAVE_PAGE_VERSION 1u

#define CLEAVE_UNIT_SHIFT   12
#define CLEAVE_UNIT         (1ull << CLEAVE_UNIT_SHIFT)
#define CLEAVE_MAX_DEVICES  16u   /* of one tenant */
#define CLEAVE_MAX_SLOTS    4096u /* processes of one tenant; slot 0 is the daemon's */
#define CLEAVE_MAX_GROUPS   48u   /* channel groups of one process that are reported */
#define CLEAVE_MAX_UNKNOWN  8u    /* names of entries that we do not know, of one process */
#define CLEAVE_MAX_CHANNELS 12u   /* channels of one group that are reported */

/* bytes to units, rounded up; saturates instead of wrapping */
static inline uint64_t cleave_units(uint64_t bytes)
{
        return (bytes >> CLEAVE_UNIT_SHIFT) + ((bytes & (CLEAVE_UNIT - 1)) != 0);
}

/* FNV-1a; never 0 */
static inline uint64_t cleave_name_hash(const char *name)
{
        uint64_t hash = 0xcbf29ce484222325ull;

        for (; *name; name++)
                hash = (hash ^ (unsigned char)*name) * 0x100000001b3ull;
        return hash ? hash : 1;
}

enum cleave_gate_mode {
        CLEAVE_GATE_OPEN,  /* launches pass */
        CLEAVE_GATE_LEASE, /* see struct cleave_gate */
        CLEAVE_GATE_TURNS, /* the same; where slots say that they know it */
};

/* One device of a grant. Written by the daemon (release), read by the tenant (acquire). */
struct cleave_grant_device {
        uint8_t uuid[16];               /* the driver's, fixed before the page is shared */
        _Atomic uint64_t limit;         /* most units that the tenant may hold */
        _Atomic uint64_t guarantee;     /* units that are kept for it */
        _Atomic uint32_t compute_share; /* guaranteed share of time, percent; 0: none given */
        _Atomic uint32_t compute_max;   /* most, percent; 0: no cap */
        _Atomic uint32_t gate;          /* enum cleave_gate_mode */
        uint32_t reserved[5];
};
static_assert(sizeof(struct cleave_grant_device) == 64, "layout");
static_assert(offsetof(struct cleave_grant_device, limit) == 16, "layout");

struct cleave_grant_page {
        uint64_t magic;
        uint32_t version;
        uint32_t size; /* of this struct, as the writer knows it */
        uint64_t tenant;
        uint32_t devices;            /* how many of device[] are in use, fixed */
        _Atomic uint32_t generation; /* one more with each change of a grant */
        /* A tenant that shares its only device in space: the multiprocessors for contexts to come,
         * a bit for each unit of space_step of them; space_units 0: it does not. Read the set
         * between two looks at the version, see cleave_space_read(). */
        _Atomic uint32_t space_version; /* odd: the set is being written */
        _Atomic uint32_t space_step;    /* fixed */
        _Atomic uint32_t space_units;   /* that the device has, fixed */
        _Atomic uint32_t gates;         /* how many of device[] have a gate: 0 on most machines */
        _Atomic uint64_t space_set[2];
        struct cleave_grant_device device[CLEAVE_MAX_DEVICES];
};
static_assert(offsetof(struct cleave_grant_page, space_set) == 48, "layout");
static_assert(offsetof(struct cleave_grant_page, device) == 64, "layout");
static_assert(sizeof(struct cleave_grant_page) == 1088, "layout");
#define CLEAVE_GRANT_BYTES 4096u /* of the memfd */

/*
 * The gate of a device of the grant. It stands behind the page proper, which is as it was before
 * there were gates. Times are CLOCK_MONOTONIC's, ns. Written by the daemon, read between two looks
 * at the version: see cleave_gate_read().
 *
 * CLEAVE_GATE_LEASE, where the driver lets nobody steer its scheduler: launches pass from one time
 * to another, with so much predicted work in flight (policy/gate.h).
 *
 * CLEAVE_GATE_TURNS, of short kernels that somebody waits for (policy/arbiter.h, struct
 * arbiter_turn): launches pass from one time to another and so again each period, and always after
 * good_until. They are not measured. With a period of 0 they always pass: then it is wanted_at
 * alone (struct cleave_gate_use) that is asked for.
 */
struct cleave_gate {
        _Atomic uint32_t
                version; /* odd: it is being written; also a futex, woken when it changes */
        _Atomic uint32_t rate_ppm; /* of the device's time, for when the daemon is gone */
        _Atomic uint64_t from, until;
        _Atomic uint64_t window_ns;  /* LEASE */
        _Atomic uint64_t written_at; /* the daemon was there; not part of what the version guards */
        _Atomic uint64_t period, good_until; /* TURNS */
        uint64_t reserved;
};
static_assert(sizeof(struct cleave_gate) == 64, "layout");
#define CLEAVE_GATE_OFFSET 2048u /* of the first, in the grant page's memfd */
static_assert(CLEAVE_GATE_OFFSET + CLEAVE_MAX_DEVICES * 64 <= CLEAVE_GRANT_BYTES, "layout");
/* The daemon writes again at the latest after that; later it is taken for dead, ns. */
#define CLEAVE_GATE_STALE 1000000000ull

/* state of a slot; only the daemon changes it */
enum cleave_slot_state {
        CLEAVE_SLOT_FREE = 0,
        CLEAVE_SLOT_LIVE = 1,      /* its process has a session */
        CLEAVE_SLOT_RETURNING = 2, /* the process is gone, its memory not yet given back */
};

/* A channel group of the process, as RM knows it. Written by the process before it raises
 * groups (release). handle 0: the entry is free. */
struct cleave_channel_group {
        _Atomic uint32_t handle;
        uint32_t client;
        uint32_t device;    /* index in the grant, UINT32_MAX: not known */
        uint32_t subdevice; /* handle */
        uint32_t engine;    /* RM_ENGINE_* */
        _Atomic uint32_t channels;
        uint32_t channel[CLEAVE_MAX_CHANNELS];
};
static_assert(sizeof(struct cleave_channel_group) == 72, "layout");

/*
 * One process of the tenant. Unless said otherwise a field is written by that process alone.
 * The words of the counter protocol (op to applied) are explained in counter.h.
 */
struct cleave_slot {
        _Atomic uint32_t state; /* enum cleave_slot_state, daemon */
        uint32_t pid;           /* in the daemon's namespace, daemon */
        uint64_t start_time;    /* field 22 of /proc/PID/stat, daemon */

        _Atomic uint64_t op;
        _Atomic uint64_t op_held; /* held[device of op] before op */
        _Atomic uint32_t op_target;
        _Atomic uint32_t
                seq; /* of the last op; goes on when the slot is given to another process */
        _Atomic uint64_t held[CLEAVE_MAX_DEVICES];    /* units */
        _Atomic uint32_t applied[CLEAVE_MAX_DEVICES]; /* written by helpers, only ever raised */

        _Atomic uint64_t peak[CLEAVE_MAX_DEVICES]; /* most units held at once */
        _Atomic uint64_t charges;                  /* allocations that passed */
        _Atomic uint64_t refusals;                 /* allocations refused by the limit */
        _Atomic uint64_t unknown_entries;          /* look-ups of names that we do not know */
        _Atomic uint32_t groups;                   /* entries of group[] ever used */
        _Atomic uint32_t lost_groups;              /* groups or channels that found no room */
        /* names of the first of them, by cleave_name_hash(); 0: free */
        _Atomic uint64_t unknown[CLEAVE_MAX_UNKNOWN];
        /* units of multiprocessors that contexts of it live on. Written before the context is made,
         * and then the grant's space_version is looked at once more: so either the daemon sees the
         * claim before it gives a unit away, or the process sees that it has (both sides write and
         * read sequentially consistent) */
        _Atomic uint64_t space_set[2];
        _Atomic uint32_t keeps_turns; /* 1: it knows CLEAVE_GATE_TURNS */
        uint32_t reserved;

        struct cleave_channel_group group[CLEAVE_MAX_GROUPS];
        /* behind a gate: when the work that it has launched is predicted to end */
        _Atomic uint64_t gate_busy[CLEAVE_MAX_DEVICES];
};
static_assert(offsetof(struct cleave_slot, op) == 16, "layout");
static_assert(offsetof(struct cleave_slot, held) == 40, "layout");
static_assert(offsetof(struct cleave_slot, peak) == 232, "layout");
static_assert(offsetof(struct cleave_slot, unknown) == 392, "layout");
static_assert(offsetof(struct cleave_slot, space_set) == 456, "layout");
static_assert(offsetof(struct cleave_slot, group) == 480, "layout");
static_assert(offsetof(struct cleave_slot, gate_busy) == 3936, "layout");
static_assert(sizeof(struct cleave_slot) <= 4096, "layout");

/* What a tenant's processes say of their launches on a device behind a gate. */
struct cleave_gate_use {
        _Atomic uint64_t used_ns;   /* GPU time: as predicted, corrected by what markers tell */
        _Atomic uint64_t wanted_at; /* CLOCK_MONOTONIC ns: one launched or waited to, last */
        _Atomic uint64_t
                passed_at; /* the same: one passed by the lease, last, if there is more than
                              one device behind a gate. For the tenant's own processes */
        uint64_t reserved[5];
};
static_assert(sizeof(struct cleave_gate_use) == 64, "layout");

struct cleave_usage_page {
        uint64_t magic;
        uint32_t version;
        uint32_t size;  /* of the memfd */
        uint32_t slots; /* how many there are, at most CLEAVE_MAX_SLOTS */
        uint32_t slot_bytes;
        uint64_t tenant;
        _Atomic uint32_t slots_used; /* no slot from this one on was ever given; daemon. A reader
                                        that goes over the slots stops here: each has a page of its
                                        own, which reading would make */
        uint32_t reserved[23];
        /* the tenant's total on each device: a counter word, see counter.h */
        _Alignas(64) _Atomic uint64_t used[CLEAVE_MAX_DEVICES];
        _Alignas(64) struct cleave_gate_use gate[CLEAVE_MAX_DEVICES];
};
#define CLEAVE_USAGE_HEAD  4096u
#define CLEAVE_SLOT_BYTES  4096u
#define CLEAVE_USAGE_BYTES (CLEAVE_USAGE_HEAD + CLEAVE_MAX_SLOTS * CLEAVE_SLOT_BYTES)
static_assert(sizeof(struct cleave_usage_page) <= CLEAVE_USAGE_HEAD, "layout");
static_assert(offsetof(struct cleave_usage_page, used) == 128, "layout");
static_assert(offsetof(struct cleave_usage_page, gate) == 256, "layout");

/* The slot of that index, or NULL if there is none. */
static inline struct cleave_slot *cleave_usage_slot(struct cleave_usage_page *page, uint32_t index)
{
        if (index >= CLEAVE_MAX_SLOTS)
                return NULL;
        return (struct cleave_slot *)((char *)page + CLEAVE_USAGE_HEAD +
                                      (size_t)index * CLEAVE_SLOT_BYTES);
}

/* The set for contexts to come, and its version. False: the daemon has been writing it for as long
 * as we care to wait. */
static inline bool cleave_space_read(
        const struct cleave_grant_page *page, uint64_t ret_set[2], uint32_t *ret_version)
{
        for (unsigned tries = 0; tries < 1000000; tries++) {
                uint32_t version = atomic_load(&page->space_version);

                ret_set[0] = atomic_load(&page->space_set[0]);
                ret_set[1] = atomic_load(&page->space_set[1]);
                if (!(version & 1) && atomic_load(&page->space_version) == version) {
                        *ret_version = version;
                        return true;
                }
        }
        return false;
}

/* By the daemon alone. */
static inline void cleave_space_write(struct cleave_grant_page *page, const uint64_t set[2])
{
        /* a writer that died in the middle left it odd */
        uint32_t version = atomic_load(&page->space_version) | 1;

        atomic_store(&page->space_version, version);
        atomic_store(&page->space_set[0], set[0]);
        atomic_store(&page->space_set[1], set[1]);
        atomic_store(&page->space_version, version + 1);
}

/* The gate of a device, an index below CLEAVE_MAX_DEVICES. */
static inline struct cleave_gate *cleave_gate(const struct cleave_grant_page *page, uint32_t device)
{
        return (struct cleave_gate *)((uintptr_t)page + CLEAVE_GATE_OFFSET) + device;
}

/* What stood in a gate at one time, and the version to wait on. False: the daemon has been writing
 * it for as long as we care to wait. */
static inline bool cleave_gate_read(const struct cleave_gate *gate, uint64_t *ret_from,
        uint64_t *ret_until, uint64_t *ret_window, uint32_t *ret_rate, uint32_t *ret_version)
{
        for (unsigned tries = 0; tries < 1000; tries++) {
                uint32_t version = atomic_load(&gate->version);

                *ret_from = atomic_load(&gate->from);
                *ret_until = atomic_load(&gate->until);
                *ret_window = atomic_load(&gate->window_ns);
                *ret_rate = atomic_load(&gate->rate_ppm);
                if (!(version & 1) && atomic_load(&gate->version) == version) {
                        *ret_version = version;
                        return true;
                }
        }
        return false;
}

/* The same of turns: whether it is another's now. If so, ret_wait: for so long. */
static inline bool cleave_gate_is_off(
        const struct cleave_gate *gate, uint64_t now, uint64_t *ret_wait, uint32_t *ret_version)
{
        for (unsigned tries = 0; tries < 1000; tries++) {
                uint32_t version = atomic_load(&gate->version);
                const struct cleave_turns turns = {
                        .from = atomic_load(&gate->from),
                        .until = atomic_load(&gate->until),
                        .period = atomic_load(&gate->period),
                        .good_until = atomic_load(&gate->good_until),
                };
                uint64_t next;
                bool off;

                if ((version & 1) || atomic_load(&gate->version) != version)
                        continue;
                off = cleave_turns_off(&turns, now, &next);
                *ret_wait = next - now;
                *ret_version = version;
                return off;
        }
        return false;
}

/* The version that it is to have when it is written. */
static inline uint32_t cleave_gate_begin(struct cleave_gate *gate)
{
        /* a writer that died in the middle left it odd */
        uint32_t version = atomic_load(&gate->version) | 1;

        atomic_store(&gate->version, version);
        return version + 1;
}

/* By the daemon alone, who wakes those who wait on the version afterwards. */
static inline void cleave_gate_write_turns(
        struct cleave_gate *gate, const struct cleave_turns *turns)
{
        uint32_t version = cleave_gate_begin(gate);

        atomic_store(&gate->from, turns->from);
        atomic_store(&gate->until, turns->until);
        atomic_store(&gate->period, turns->period);
        atomic_store(&gate->good_until, turns->good_until);
        atomic_store(&gate->version, version);
}

/* By the daemon alone, who wakes those who wait on the version afterwards. */
static inline void cleave_gate_write(struct cleave_gate *gate, uint64_t from, uint64_t until,
        uint64_t window_ns, uint32_t rate_ppm)
{
        uint32_t version = cleave_gate_begin(gate);

        atomic_store(&gate->from, from);
        atomic_store(&gate->until, until);
        atomic_store(&gate->window_ns, window_ns);
        atomic_store(&gate->rate_ppm, rate_ppm);
        atomic_store(&gate->version, version);
}

/* 0, -EBADMSG (not such a page), -EPROTO (another version), -EMSGSIZE (sizes do not fit).
 * mapped: bytes that the caller has mapped. */
static inline int cleave_grant_page_check(const struct cleave_grant_page *page, size_t mapped)
{
        if (mapped < sizeof(*page))
                return -EMSGSIZE;
        if (page->magic != CLEAVE_GRANT_MAGIC)
                return -EBADMSG;
        if (page->version != CLEAVE_PAGE_VERSION)
                return -EPROTO;
        if (page->size < sizeof(*page) || page->size > mapped || page->devices > CLEAVE_MAX_DEVICES)
                return -EMSGSIZE;
        return 0;
}

static inline int cleave_usage_page_check(const struct cleave_usage_page *page, size_t mapped)
{
        if (mapped < CLEAVE_USAGE_BYTES)
                return -EMSGSIZE;
        if (page->magic != CLEAVE_USAGE_MAGIC)
                return -EBADMSG;
        if (page->version != CLEAVE_PAGE_VERSION)
                return -EPROTO;
        if (page->size != CLEAVE_USAGE_BYTES || page->slots != CLEAVE_MAX_SLOTS ||
                page->slot_bytes != CLEAVE_SLOT_BYTES)
                return -EMSGSIZE;
        return 0;
}
