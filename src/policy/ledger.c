/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "policy/ledger.h"

static uint64_t minus(uint64_t a, uint64_t b)
{
        return a > b ? a - b : 0;
}

static uint64_t plus(uint64_t a, uint64_t b)
{
        uint64_t sum;

        return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

/* What is not given to others because of this grant. */
static uint64_t kept(const struct ledger_grant *grant)
{
        return MAX_OF(grant->guarantee, grant->used);
}

void ledger_init(struct ledger *ledger)
{
        memset(ledger, 0, sizeof(*ledger));
}

void ledger_done(struct ledger *ledger)
{
        while (ledger->first) {
                struct ledger_tenant *tenant = ledger->first;

                ledger->first = tenant->next;
                free(tenant);
        }
}

struct ledger_tenant *ledger_find(const struct ledger *ledger, uint64_t id)
{
        struct ledger_tenant *tenant;

        for (tenant = ledger->first; tenant; tenant = tenant->next)
                if (tenant->id == id)
                        return tenant;
        return NULL;
}

struct ledger_grant *ledger_find_grant(struct ledger_tenant *tenant, unsigned device)
{
        for (unsigned i = 0; i < tenant->grants; i++)
                if (tenant->grant[i].device == device)
                        return &tenant->grant[i];
        return NULL;
}

uint64_t ledger_capacity(const struct ledger *ledger, unsigned device)
{
        const struct ledger_device *d = &ledger->device[device];

        return minus(d->total, d->reserved);
}

uint64_t ledger_kept(const struct ledger *ledger, unsigned device)
{
        uint64_t sum = 0;

        for (struct ledger_tenant *tenant = ledger->first; tenant; tenant = tenant->next) {
                const struct ledger_grant *grant = ledger_find_grant(tenant, device);

                if (grant && !tenant->waiting)
                        sum = plus(sum, kept(grant));
        }
        return sum;
}

uint64_t ledger_granted(const struct ledger *ledger, unsigned device)
{
        uint64_t sum = 0;

        for (struct ledger_tenant *tenant = ledger->first; tenant; tenant = tenant->next) {
                const struct ledger_grant *grant = ledger_find_grant(tenant, device);

                if (grant && !tenant->waiting)
                        sum = plus(sum, grant->guarantee);
        }
        return sum;
}

uint64_t ledger_granted_to(const struct ledger *ledger, uid_t uid, unsigned device)
{
        uint64_t sum = 0;

        for (struct ledger_tenant *tenant = ledger->first; tenant; tenant = tenant->next) {
                const struct ledger_grant *grant = ledger_find_grant(tenant, device);

                if (grant && tenant->uid == uid)
                        sum = plus(sum, grant->guarantee);
        }
        return sum;
}

unsigned ledger_tenants_of(const struct ledger *ledger, uid_t uid)
{
        unsigned count = 0;

        for (struct ledger_tenant *tenant = ledger->first; tenant; tenant = tenant->next)
                count += tenant->uid == uid;
        return count;
}

uint64_t ledger_available(const struct ledger *ledger, unsigned device)
{
        const struct ledger_device *d = &ledger->device[device];

        if (d->lost)
                return 0;
        return minus(
                minus(ledger_capacity(ledger, device), d->others), ledger_kept(ledger, device));
}

static int check_wants(const struct ledger *ledger, const struct ledger_want *wants, unsigned count)
{
        if (count == 0 || count > LEDGER_MAX_GRANTS)
                return -EINVAL;
        for (unsigned i = 0; i < count; i++) {
                if (wants[i].device >= ledger->devices || wants[i].guarantee == 0 ||
                        wants[i].maximum < wants[i].guarantee)
                        return -EINVAL;
                for (unsigned k = 0; k < i; k++)
                        if (wants[k].device == wants[i].device)
                                return -EINVAL;
        }
        return 0;
}

static int refuse(struct ledger_verdict *ret, enum cleave_reason reason, unsigned device,
        uint64_t wanted, uint64_t available, uint64_t ahead)
{
        if (ret)
                *ret = (struct ledger_verdict){
                        .reason = reason,
                        .device = device,
                        .wanted = wanted,
                        .available = available,
                        .ahead = ahead,
                };
        return reason_errno(reason);
}

/* Whether wants could ever be granted. */
static int check_possible(const struct ledger *ledger, const struct ledger_want *wants,
        unsigned count, struct ledger_verdict *ret_verdict)
{
        for (unsigned i = 0; i < count; i++) {
                unsigned device = wants[i].device;

                if (ledger->device[device].lost)
                        return refuse(ret_verdict, CLEAVE_REASON_DEVICE_LOST, device,
                                wants[i].guarantee, 0, 0);
                if (wants[i].maximum > ledger_capacity(ledger, device))
                        return refuse(ret_verdict, CLEAVE_REASON_BEYOND_DEVICE, device,
                                wants[i].maximum, ledger_capacity(ledger, device), 0);
        }
        return 0;
}

/* The first request that waits for that device and stands before end (NULL: any), or NULL. */
static const struct ledger_tenant *waiting_for(
        const struct ledger *ledger, unsigned device, const struct ledger_tenant *end)
{
        struct ledger_tenant *tenant;

        for (tenant = ledger->first; tenant && tenant != end; tenant = tenant->next)
                if (tenant->waiting && ledger_find_grant(tenant, device))
                        return tenant;
        return NULL;
}

/* Whether wants can be granted now to one who stands before end in the queue (NULL: at its end). */
static int check_room(const struct ledger *ledger, const struct ledger_want *wants, unsigned count,
        const struct ledger_tenant *end, struct ledger_verdict *ret_verdict)
{
        for (unsigned i = 0; i < count; i++) {
                unsigned device = wants[i].device;
                uint64_t available = ledger_available(ledger, device);
                const struct ledger_tenant *ahead = waiting_for(ledger, device, end);

                if (ledger->device[device].lost)
                        return refuse(ret_verdict, CLEAVE_REASON_DEVICE_LOST, device,
                                wants[i].guarantee, 0, 0);
                if (wants[i].guarantee > available || ahead)
                        return refuse(ret_verdict, CLEAVE_REASON_NO_ROOM, device,
                                wants[i].guarantee, available, ahead ? ahead->id : 0);
        }
        return 0;
}

static int append(struct ledger *ledger, uint64_t id, uid_t uid, const struct ledger_want *wants,
        unsigned count, bool waiting)
{
        struct ledger_tenant *tenant, **last = &ledger->first;

        tenant = calloc(1, sizeof(*tenant));
        if (!tenant)
                return -ENOMEM;
        tenant->id = id;
        tenant->uid = uid;
        tenant->waiting = waiting;
        tenant->grants = count;
        for (unsigned i = 0; i < count; i++)
                tenant->grant[i] = (struct ledger_grant){
                        .device = wants[i].device,
                        .guarantee = wants[i].guarantee,
                        .maximum = wants[i].maximum,
                        .limit = waiting ? 0 : wants[i].guarantee,
                };
        while (*last)
                last = &(*last)->next;
        *last = tenant;
        return 0;
}

int ledger_request(struct ledger *ledger, uint64_t id, uid_t uid, const struct ledger_want *wants,
        unsigned count, bool wait, struct ledger_verdict *ret_verdict)
{
        struct ledger_verdict verdict = {.reason = CLEAVE_REASON_NONE};
        bool waiting = false;
        int r;

        r = check_wants(ledger, wants, count);
        if (r < 0)
                return r;
        if (ledger_find(ledger, id))
                return -EEXIST;
        r = check_possible(ledger, wants, count, ret_verdict);
        if (r < 0)
                return r;
        r = check_room(ledger, wants, count, NULL, &verdict);
        if (r == -ENOSPC && wait)
                waiting = true;
        else if (r < 0) {
                if (ret_verdict)
                        *ret_verdict = verdict;
                return r;
        }
        r = append(ledger, id, uid, wants, count, waiting);
        if (r < 0)
                return r;
        ledger_update_limits(ledger);
        if (ret_verdict)
                *ret_verdict = verdict;
        return 0;
}

int ledger_restore(struct ledger *ledger, uint64_t id, uid_t uid, const struct ledger_want *wants,
        unsigned count)
{
        int r;

        r = check_wants(ledger, wants, count);
        if (r < 0)
                return r;
        if (ledger_find(ledger, id))
                return -EEXIST;
        return append(ledger, id, uid, wants, count, false);
}

uint64_t ledger_serve(struct ledger *ledger)
{
        struct ledger_tenant *tenant;

        for (tenant = ledger->first; tenant; tenant = tenant->next) {
                struct ledger_want wants[LEDGER_MAX_GRANTS];

                if (!tenant->waiting)
                        continue;
                for (unsigned i = 0; i < tenant->grants; i++)
                        wants[i] = (struct ledger_want){
                                .device = tenant->grant[i].device,
                                .guarantee = tenant->grant[i].guarantee,
                                .maximum = tenant->grant[i].maximum,
                        };
                if (check_room(ledger, wants, tenant->grants, tenant, NULL) < 0)
                        continue;
                tenant->waiting = false;
                for (unsigned i = 0; i < tenant->grants; i++)
                        tenant->grant[i].limit = tenant->grant[i].guarantee;
                ledger_update_limits(ledger);
                return tenant->id;
        }
        return 0;
}

int ledger_remove(struct ledger *ledger, uint64_t id)
{
        struct ledger_tenant **link;

        for (link = &ledger->first; *link; link = &(*link)->next)
                if ((*link)->id == id) {
                        struct ledger_tenant *tenant = *link;

                        *link = tenant->next;
                        free(tenant);
                        ledger_update_limits(ledger);
                        return 0;
                }
        return -ENOENT;
}

int ledger_resize(struct ledger *ledger, uint64_t id, const struct ledger_want *wants,
        unsigned count, bool force, struct ledger_verdict *ret_verdict)
{
        struct ledger_tenant *tenant = ledger_find(ledger, id);
        int r;

        if (!tenant || tenant->waiting)
                return -ENOENT;
        r = check_wants(ledger, wants, count);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < count; i++) {
                const struct ledger_grant *grant = ledger_find_grant(tenant, wants[i].device);
                uint64_t after, more, available;

                if (!grant)
                        return -EINVAL;
                if (wants[i].maximum > grant->maximum || wants[i].guarantee > grant->guarantee) {
                        r = check_possible(ledger, &wants[i], 1, ret_verdict);
                        if (r < 0)
                                return r;
                }
                if (wants[i].maximum < grant->used && !force)
                        return refuse(ret_verdict, CLEAVE_REASON_IN_USE, wants[i].device,
                                wants[i].maximum, grant->used, 0);
                /* what has to be there beyond what is kept for it already */
                after = MAX_OF(wants[i].guarantee, grant->used);
                more = minus(after, kept(grant));
                available = ledger_available(ledger, wants[i].device);
                if (more > 0) {
                        const struct ledger_tenant *ahead =
                                waiting_for(ledger, wants[i].device, NULL);

                        if (more > available || ahead)
                                return refuse(ret_verdict, CLEAVE_REASON_NO_ROOM, wants[i].device,
                                        wants[i].guarantee, plus(available, kept(grant)),
                                        ahead ? ahead->id : 0);
                }
        }
        for (unsigned i = 0; i < count; i++) {
                struct ledger_grant *grant = ledger_find_grant(tenant, wants[i].device);

                grant->guarantee = wants[i].guarantee;
                grant->maximum = wants[i].maximum;
        }
        ledger_update_limits(ledger);
        return 0;
}

static bool elastic(const struct ledger_tenant *tenant, const struct ledger_grant *grant)
{
        return grant && !tenant->waiting && grant->maximum > kept(grant);
}

bool ledger_update_limits(struct ledger *ledger)
{
        bool changed = false;

        for (unsigned device = 0; device < ledger->devices; device++) {
                uint64_t surplus = ledger_available(ledger, device);
                struct ledger_tenant *tenant;
                unsigned takers = 0;

                /* nothing is lent of what somebody waits for */
                if (waiting_for(ledger, device, NULL))
                        surplus = 0;
                for (tenant = ledger->first; tenant; tenant = tenant->next)
                        takers += elastic(tenant, ledger_find_grant(tenant, device));
                for (tenant = ledger->first; tenant; tenant = tenant->next) {
                        struct ledger_grant *grant = ledger_find_grant(tenant, device);
                        uint64_t limit;

                        if (!grant || tenant->waiting)
                                continue;
                        limit = MIN_OF(grant->maximum, elastic(tenant, grant)
                                                               ? plus(kept(grant), surplus / takers)
                                                               : kept(grant));
                        limit = MAX_OF(limit, grant->guarantee);
                        changed = changed || limit != grant->limit;
                        grant->limit = limit;
                }
        }
        return changed;
}

bool ledger_check(const struct ledger *ledger)
{
        for (struct ledger_tenant *tenant = ledger->first; tenant; tenant = tenant->next) {
                for (struct ledger_tenant *other = tenant->next; other; other = other->next)
                        if (other->id == tenant->id)
                                return false;
                for (unsigned i = 0; i < tenant->grants; i++) {
                        const struct ledger_grant *grant = &tenant->grant[i];

                        if (grant->device >= ledger->devices || grant->guarantee == 0 ||
                                grant->maximum < grant->guarantee)
                                return false;
                        if (tenant->waiting ? grant->limit != 0
                                            : grant->limit < grant->guarantee ||
                                                      grant->limit > grant->maximum)
                                return false;
                        for (unsigned k = 0; k < i; k++)
                                if (tenant->grant[k].device == grant->device)
                                        return false;
                }
        }
        return true;
}
