/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which tenant has which multiprocessors (SMs) of a device that is shared in space.
 *
 * The driver divides a device's SMs into units, always the same for all processes: on an H100 15 of
 * 8 SMs and one of the 12 that are left over, or on request 66 of 2 (docs/benchmarks.md). A set is
 * any number of units; neighbouring ones lie close to each other on the chip. All functions are
 * pure: a plan and what happens to it in, the plan out.
 *
 * - A tenant with a share has so many units from its admission to its end, and its set never
 * changes while a context of it lives: so it is chosen where it leaves the largest room behind.
 * - A share that is less than a unit is a part of one: tenants with such shares have a unit in
 * common, as long as their parts of it add up to 1, and divide its time (policy/gate.h).
 * - A best-effort tenant has at least one unit too, and divides with its like what is left over;
 * its set for new contexts grows and shrinks as tenants come and go.
 * - But for those, no unit is in two sets, and none is given away while a context of another tenant
 * lives on it
 *   ("held"): whoever wants it waits or is refused.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define SPACE_UNITS_MAX   128u
#define SPACE_TENANTS_MAX SPACE_UNITS_MAX /* nobody is without a unit */
#define SPACE_STEP        8u              /* SMs of a unit: what clusters of blocks need */
#define SPACE_STEP_FINE   2u              /* on request */

struct space_set {
        uint64_t word[SPACE_UNITS_MAX / 64];
};

static inline bool space_has(const struct space_set *set, unsigned unit)
{
        return set->word[unit / 64] >> unit % 64 & 1;
}
static inline void space_put(struct space_set *set, unsigned unit)
{
        set->word[unit / 64] |= 1ull << unit % 64;
}
static inline bool space_empty(const struct space_set *set)
{
        return !set->word[0] && !set->word[1];
}
static inline bool space_equal(const struct space_set *a, const struct space_set *b)
{
        return a->word[0] == b->word[0] && a->word[1] == b->word[1];
}
/* Whether a unit is in both. */
static inline bool space_meet(const struct space_set *a, const struct space_set *b)
{
        return (a->word[0] & b->word[0]) || (a->word[1] & b->word[1]);
}
unsigned space_count(const struct space_set *set);

/* How the driver divides a device. */
struct space_geometry {
        unsigned sms;   /* of the device */
        unsigned step;  /* SMs of a unit */
        unsigned units; /* all, the last of `rest` SMs if that is not 0 */
        unsigned rest;
};
/* 0; -EINVAL: it does not add up, or there are more units than SPACE_UNITS_MAX. */
int space_geometry_check(const struct space_geometry *geometry);
/* The SMs of a set. */
unsigned space_sms(const struct space_geometry *geometry, const struct space_set *set);
/* Units for so many percent of the device, from 1 to 100: the nearest number, at least one. */
unsigned space_units_of(const struct space_geometry *geometry, unsigned percent);
/* The same as hundredths of one unit; 0: it is one unit or more. */
unsigned space_part_of(const struct space_geometry *geometry, unsigned percent);
/*
 * Queues for work (CUDA_DEVICE_MAX_CONNECTIONS) for each process of a tenant of so many percent, 0:
 * best effort. A client of MPS has 2 by itself, and streams in one queue wait for each other: on an
 * H100 a pipeline over four streams ran at 56 % of the ideal with 2, at 98.9 % with 4, 99.2 % with
 * 8, as natively. All clients of a server share at least 112 and less than 128 (7 clients with 16
 * each and 14 with 8 found room, an 8th with 16 did not): all tenants together are given some 64,
 * so that further processes of theirs find room too.
 */
unsigned space_connections(unsigned percent);
#define SPACE_CONNECTIONS             64u
#define SPACE_CONNECTIONS_LEAST       2u
#define SPACE_CONNECTIONS_BEST_EFFORT 4u
#define SPACE_CONNECTIONS_MOST        8u

struct space_tenant {
        uint64_t id;
        unsigned units; /* that it is guaranteed; best effort: 1 */
        unsigned part;  /* hundredths of its one unit's time; 0: its units are its own */
        unsigned group; /* those with a unit in common have the same, above 0; the others 0 */
        bool best_effort;
        struct space_set set;  /* for contexts to come */
        struct space_set held; /* by contexts that live; always as its owner was told last */
};

struct space_plan {
        struct space_geometry geometry;
        unsigned tenants;
        struct space_tenant tenant[SPACE_TENANTS_MAX]; /* in order of arrival */
};

/* 0; what space_geometry_check() says. */
int space_plan_init(struct space_plan *plan, const struct space_geometry *geometry);
struct space_tenant *space_find(struct space_plan *plan, uint64_t id);

/* Units that a newcomer can be guaranteed. `held_too`: if best-effort tenants gave back what their
 * contexts hold beyond their guarantee. */
unsigned space_available(const struct space_plan *plan, bool held_too);
/* Admits a tenant with so many guaranteed units (best_effort: 1), and makes the sets anew.
 * 0; -EEXIST: it is there already; -EINVAL: 0 units or more than there are; -ENOSPC: more than
 * space_available(plan, true), now and until somebody leaves; -EBUSY: as long as contexts of
 * best-effort tenants hold units. Nothing has changed then. */
int space_admit(struct space_plan *plan, uint64_t id, unsigned units, bool best_effort);
/* The same for one that gets so many hundredths of a unit, 1 to 99: of the fullest that has room,
 * else of one of its own. */
int space_admit_part(struct space_plan *plan, uint64_t id, unsigned part);
/* Whether one would be found now. */
bool space_has_room(const struct space_plan *plan, unsigned part);
/* Puts a tenant back with the set it was given earlier, after a restart. 0; -EEXIST; -EINVAL. */
int space_restore(struct space_plan *plan, uint64_t id, unsigned units, bool best_effort,
        const struct space_set *set);
int space_restore_part(
        struct space_plan *plan, uint64_t id, unsigned part, const struct space_set *set);
/* It has ended. 0; -ENOENT. */
int space_leave(struct space_plan *plan, uint64_t id);
/* What its living contexts hold now. Units held by two tenants, which only a tenant that lies can
 * bring about, count as the one's whose set they are in. 0; -ENOENT. */
int space_hold(struct space_plan *plan, uint64_t id, const struct space_set *held);
/* Makes the sets for new contexts: after any of the above. */
void space_replan(struct space_plan *plan);

/* ---- time or space ---- */

enum sharing {
        SHARING_AUTO,
        SHARING_TEMPORAL,
        SHARING_SPATIAL,
};

struct sharing_case {
        enum sharing asked;
        bool untrusted;      /* it may harm neighbours: never in one fault domain with others */
        bool high, low;      /* priority */
        unsigned share, cap; /* percent, 0: none */
        bool part;           /* the share is less than the least set of SMs */
        unsigned temporal;   /* tenants of the device that share it in time */
        unsigned spatial;    /* and in space */
        bool capable;        /* the device can be shared in space */
        unsigned available;  /* percent of its SMs that can still be guaranteed */
        unsigned devices;    /* of the tenant */
};

struct sharing_choice {
        enum sharing sharing; /* AUTO: neither, the request is to be refused */
        const char *why;      /* a sentence without its full stop, static */
};

struct sharing_choice sharing_choose(const struct sharing_case *c);
/* "temporal", "spatial", "auto" */
const char *sharing_word(enum sharing sharing);
