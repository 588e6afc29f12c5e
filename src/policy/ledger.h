/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's account of memory: who was promised how much of which device, and who waits for it.
 * Pure: no I/O, no clock, no globals; the manager tells it what it saw and asks what to do.
 *
 * All amounts are bytes. Of a device there is to give
 *
 *      capacity = total - reserved (the driver's own) - others
 *
 * where others is what processes of no tenant use and other daemons of the machine have claimed.
 * A tenant's grant has a guarantee, always kept for it, and a maximum. What stands between is lent
 * while nobody else wants it: its limit, what it may use now, lies anywhere between the two. While
 * a tenant uses more than its guarantee (lent memory, or a grant shrunk below its use), what it
 * uses is not given to others.
 *
 * Invariants (ledger_check()): the sum over the tenants of a device of max(guarantee, used) never
 * grows by an act of the ledger to more than the capacity; nor does the sum of max(limit, used).
 * Requests that wait are served in the order of their coming: none overtakes an earlier one that
 * wants a device of its own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define LEDGER_MAX_DEVICES 64u /* of the machine */
#define LEDGER_MAX_GRANTS  16u /* devices of one tenant */

struct ledger_device {
        uint64_t total;
        uint64_t reserved;
        uint64_t others;
        bool lost; /* nothing more is granted on it */
};

/* What is asked for on one device. */
struct ledger_want {
        unsigned device;
        uint64_t guarantee; /* above 0 */
        uint64_t maximum;   /* at least guarantee */
};

struct ledger_grant {
        unsigned device;
        uint64_t guarantee;
        uint64_t maximum;
        uint64_t used;  /* as last told */
        uint64_t limit; /* what the tenant may use now */
};

struct ledger_tenant {
        struct ledger_tenant *next; /* in the order of their coming */
        uint64_t id;
        uid_t uid;
        bool waiting; /* then grant[] is what it wants, and nothing is kept for it */
        unsigned grants;
        struct ledger_grant grant[LEDGER_MAX_GRANTS];
};

struct ledger {
        unsigned devices;
        struct ledger_device device[LEDGER_MAX_DEVICES];
        struct ledger_tenant *first;
};

/* Why a request was not granted, and the numbers. */
struct ledger_verdict {
        enum cleave_reason reason; /* NONE, NO_ROOM, BEYOND_DEVICE, DEVICE_LOST, IN_USE */
        unsigned device;           /* on which */
        uint64_t wanted;    /* bytes: the guarantee, or for a resize the guarantee after it */
        uint64_t available; /* bytes that could be granted there now */
        uint64_t ahead;     /* id of the request that waits before this one, or 0 */
};

void ledger_init(struct ledger *ledger);
void ledger_done(struct ledger *ledger);

/* The tenant of that id, or NULL. */
struct ledger_tenant *ledger_find(const struct ledger *ledger, uint64_t id);
/* Its grant on a device, or NULL. */
struct ledger_grant *ledger_find_grant(struct ledger_tenant *tenant, unsigned device);

/*
 * Asks for memory on count devices, all or nothing.
 *   0   granted, or, with wait, queued: the tenant is waiting then
 *   -ENOSPC (NO_ROOM), -EFBIG (BEYOND_DEVICE: more than the device could ever give, also with
 *   wait), -ENODEV (DEVICE_LOST): verdict says where and how much there is; nothing has changed
 *   -EINVAL (a device twice or unknown, none, a zero guarantee, maximum below it), -EEXIST (id),
 * -ENOMEM
 */
int ledger_request(struct ledger *ledger, uint64_t id, uid_t uid, const struct ledger_want *wants,
        unsigned count, bool wait, struct ledger_verdict *ret_verdict);

/* Enters a grant that was made earlier, whether or not it fits today; for recovery.
 * 0, -EINVAL, -EEXIST, -ENOMEM. */
int ledger_restore(struct ledger *ledger, uint64_t id, uid_t uid, const struct ledger_want *wants,
        unsigned count);

/* Grants the first waiting request that may now be served and returns its id; 0: none. To be
 * repeated until 0. */
uint64_t ledger_serve(struct ledger *ledger);

/* Takes a grant or a waiting request back. -ENOENT. */
int ledger_remove(struct ledger *ledger, uint64_t id);

/*
 * Changes the grants of a tenant, all or nothing; wants may name some of its devices.
 * Growing is admitted as a request is. Shrinking the maximum below what is used needs force: then
 * the difference stays kept until the use has fallen.
 * 0, -ENOENT, -EINVAL (no grant on that device), -EBUSY (IN_USE), -ENOSPC, -EFBIG, -ENODEV.
 */
int ledger_resize(struct ledger *ledger, uint64_t id, const struct ledger_want *wants,
        unsigned count, bool force, struct ledger_verdict *ret_verdict);

/* Sets every limit anew from what is used and who waits. True if one has changed. */
bool ledger_update_limits(struct ledger *ledger);

/* What a new request could get on a device now. */
uint64_t ledger_available(const struct ledger *ledger, unsigned device);
/* The most that could be granted were the device empty of tenants: total - reserved. */
uint64_t ledger_capacity(const struct ledger *ledger, unsigned device);
/* Sum of guarantees. */
uint64_t ledger_granted(const struct ledger *ledger, unsigned device);
/* Sum of max(guarantee, used). */
uint64_t ledger_kept(const struct ledger *ledger, unsigned device);
/* Guarantees of one uid on a device; its grants, waiting ones counted or not. */
uint64_t ledger_granted_to(const struct ledger *ledger, uid_t uid, unsigned device);
unsigned ledger_tenants_of(const struct ledger *ledger, uid_t uid);

/* Whether the account is sound in itself: each grant within its bounds, no id or device twice.
 * What the ledger cannot help (others or used grew) is not looked at. For tests and recovery. */
bool ledger_check(const struct ledger *ledger);
