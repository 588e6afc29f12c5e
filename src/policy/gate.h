/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turns at the gate: who may launch on devices whose driver lets nobody steer their scheduler
 * (policy/arbiter.h does where it may be steered). A pure state machine of these devices: the clock
 * is an argument (nanoseconds, CLOCK_MONOTONIC where leases are to mean something), what is seen is
 * told to it, what each tenant may do is asked of it; no I/O, no globals, no allocation after
 * gate_new().
 *
 * A tenant may launch while it has a lease, that is between two times, and may have so much
 * predicted work in flight (`window`). While more than one wants to, leases are turns: one tenant
 * has the device, and the next one's lease begins when the work of the one before has ended. So
 * work is not mixed, and what it takes can be measured with events. GPU time is what the tenants'
 * own guards measure.
 *
 * Several devices. A tenant has one lease for all of its devices: its turn is on all of them at
 * once, and its cap is used up as soon as it is on one of them. So its collectives find their
 * partners. If one of them is at work when the turn ends and goes on, as it waits for a partner
 * that comes too late, the lease stays open on the devices where the partner may still come. While
 * it waits for the last of its devices, the others have those free that can be done by then.
 * Tenants that have no device in common do not know of each other.
 *
 * Whose turn. Each has a target: its guarantee, plus the parts that tenants without work leave,
 *   first to priority high, then normal, then low, within a class by weight to those without a cap,
 *   then up to their cap to those with one; GATE_FLOOR at least. Virtual time is time used divided
 *   by the target; the next turn is of the one who has least of it, priority high before the others
 *   where it is not ahead. Who wants nothing saves up one turn at most. A turn lasts
 *   target * GATE_ROUND, at least GATE_TURN_MIN; it ends early when its tenant has had nothing to
 *   do for GATE_WANTS and somebody waits, or when one of higher priority that is not ahead does.
 *   What runs longer than its turn is made up for, as it is counted; what is left unused in a turn
 *   that others wait for counts as used. A turn is lost to the next
 *   after GATE_DRAIN, whether or not the work of the one before has ended: a kernel that never ends
 *   cannot be taken off the device by anybody here.
 *
 * Caps. A budget of cap * period, added each period: 50 ms, or as long as it takes for
 *   GATE_TURN_MIN. Over-use is carried in full, a quarter of a budget that was not used too.
 *
 * While at most one wants to launch and has no cap, everybody has an open lease: who comes
 * does not wait for the next step.
 *
 * Accuracy: a turn can be passed by one kernel, or one graph; over a window of w a share is off by
 * (one turn + one kernel) / w at most, a cap by (its budget / 4 + one kernel + GATE_STEP) / w.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "policy/arbiter.h"

#define GATE_MAX_TENANTS ARBITER_MAX_TENANTS

#define GATE_MS           1000000ull
#define GATE_ROUND        (32 * GATE_MS)
#define GATE_TURN_MIN     (2 * GATE_MS)
#define GATE_PERIOD       (50 * GATE_MS)
#define GATE_DRAIN        (250 * GATE_MS)
#define GATE_STEP         (5 * GATE_MS)     /* between steps, at most */
#define GATE_LOOK         (1 * GATE_MS)     /* while work that was launched is waited for */
#define GATE_WATCH        (2 * GATE_MS)     /* while others wait for a turn to end */
#define GATE_WANTS        (5 * GATE_MS / 2) /* who wanted to launch so lately still does */
#define GATE_LINGER       (30 * GATE_MS)    /* and counts as active for so long */
#define GATE_FLOOR        5000u             /* ppm */
#define GATE_WINDOW       (2 * GATE_MS)     /* of predicted work in flight, while others wait */
#define GATE_WINDOW_ALONE (6 * GATE_MS)
#define GATE_FOREVER      UINT64_MAX

/* What is seen of a tenant on a device. */
struct gate_sight {
        uint64_t used_ns;    /* GPU time: grows, but may be corrected by a little */
        uint64_t wanted_at;  /* when it last launched or waited to; 0: never */
        uint64_t busy_until; /* when the work that it has launched is predicted to end */
};

/* What it may do, on one of its devices. */
struct gate_lease {
        uint64_t from, until; /* clock; GATE_FOREVER */
        uint64_t window_ns;
        uint32_t rate_ppm; /* what it has on average: it goes on so where leases no longer come */
};

struct gate_state {
        bool wants, holds, capped_off;
        uint32_t target_ppm;
};

struct gate;

/* -ENOMEM */
int gate_new(struct gate **ret);
struct gate *gate_free(struct gate *gate);

/* A tenant comes to a device, an index below ARBITER_MAX_DEVICES; once for each that it has.
 * Whether guarantees fit is for the caller to know: arbiter_fits(). id above 0. -EEXIST, -EINVAL
 * (id, device), -EUSERS (no room for another). */
int gate_admit(struct gate *gate, uint64_t now, uint64_t id, unsigned device,
        const struct arbiter_terms *terms);
/* -ENOENT */
int gate_change(struct gate *gate, uint64_t now, uint64_t id, const struct arbiter_terms *terms);
/* Its devices, all of them. */
int gate_leave(struct gate *gate, uint64_t now, uint64_t id);
int gate_observe(struct gate *gate, uint64_t id, unsigned device, const struct gate_sight *sight);

/* Decides. */
void gate_step(struct gate *gate, uint64_t now);
/* When the next step is wanted. */
uint64_t gate_next(const struct gate *gate);
/* -ENOENT */
int gate_get(const struct gate *gate, uint64_t id, unsigned device, struct gate_lease *ret);
int gate_inspect(const struct gate *gate, uint64_t id, struct gate_state *ret);
