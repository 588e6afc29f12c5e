/* SPDX-License-Identifier: Apache-2.0 */
/* Who there is, with which terms, and what became of the calls. */
#include "policy/arbiter.h"

#include <errno.h>
#include <stdlib.h>

#include "policy/arbiter_parts.h"

int arbiter_new(unsigned devices, const struct arbiter_costs *costs, struct arbiter **ret)
{
        static const struct arbiter_costs h100 = ARBITER_COSTS_H100;
        struct arbiter *arbiter;

        if (devices == 0 || devices > ARBITER_MAX_DEVICES)
                return -EINVAL;
        arbiter = calloc(
                1, sizeof(*arbiter) + (size_t)devices * ARBITER_MAX_TENANTS * sizeof(struct seat));
        if (!arbiter)
                return -ENOMEM;
        arbiter->devices = devices;
        arbiter->costs = costs ? *costs : h100;
        arbiter->period = PERIOD;
        arbiter->disable_lead = arbiter->costs.disable_ns;
        arbiter->enable_lead = arbiter->costs.enable_ns;
        arbiter->call_budget = CALL_CREDIT;
        for (unsigned d = 0; d < devices; d++) {
                arbiter->cluster[d] = (struct turns){.devices = 1u << d, .holder = NONE};
                arbiter->device[d].alone =
                        (struct turns){.devices = 1u << d, .alone = true, .holder = NONE};
                arbiter->device[d].probed = NONE;
        }
        *ret = arbiter;
        return 0;
}

struct arbiter *arbiter_free(struct arbiter *arbiter)
{
        free(arbiter);
        return NULL;
}

static uint32_t find(const struct arbiter *arbiter, uint64_t id)
{
        for (uint32_t t = 0; t < arbiter->top; t++)
                if (id && arbiter->tenant[t].id == id)
                        return t;
        return NONE;
}

struct seat *arb_find_seat(struct arbiter *arbiter, uint64_t id, unsigned device)
{
        uint32_t t = find(arbiter, id);

        if (t == NONE || device >= arbiter->devices || !seat_of(arbiter, device, t)->present)
                return NULL;
        return seat_of(arbiter, device, t);
}

static bool terms_valid(const struct arbiter_terms *terms)
{
        return terms->share <= 100 && terms->cap <= 100 && terms->weight <= 1000 &&
               (terms->cap == 0 || terms->share <= terms->cap) && terms->priority >= ARBITER_LOW &&
               terms->priority <= ARBITER_HIGH;
}

int arbiter_fits(const struct arbiter *arbiter, const unsigned *devices, unsigned count,
        const struct arbiter_terms *terms, uint64_t except, unsigned *ret_available)
{
        unsigned available = 100;

        if (count == 0 || count > arbiter->devices || !terms_valid(terms))
                return -EINVAL;
        for (unsigned i = 0; i < count; i++) {
                const struct device *device;
                unsigned taken = 0;

                if (devices[i] >= arbiter->devices)
                        return -EINVAL;
                for (unsigned j = 0; j < i; j++)
                        if (devices[j] == devices[i])
                                return -EINVAL;
                device = &arbiter->device[devices[i]];
                for (unsigned k = 0; k < device->count; k++) {
                        const struct tenant *tenant = &arbiter->tenant[device->order[k]];

                        if (tenant->id != except)
                                taken += tenant->terms.share;
                }
                available = MIN_OF(available, 100 - MIN_OF(taken, 100u));
        }
        if (terms->share > available) {
                *ret_available = available;
                return -ENOSPC;
        }
        return 0;
}

/* urgent: somebody waits for it; who comes or goes waits for others' slices no longer than for his
 * own first work. */
static void touch_devices(struct arbiter *arbiter, const struct tenant *tenant, bool urgent)
{
        for (unsigned i = 0; i < tenant->count; i++) {
                arbiter->device[tenant->device[i]].stale = true;
                arbiter->device[tenant->device[i]].urgent |= urgent;
                arbiter->device[tenant->device[i]].latency_pause = ARBITER_TRIAL_MIN;
        }
}

static void take_terms(struct tenant *tenant, const struct arbiter_terms *terms)
{
        tenant->terms = *terms;
        if (!tenant->terms.weight)
                tenant->terms.weight = 100;
}

int arbiter_admit(struct arbiter *arbiter, uint64_t now, uint64_t id, const unsigned *devices,
        unsigned count, const struct arbiter_terms *terms)
{
        struct tenant *tenant;
        unsigned available;
        uint32_t t = 0;
        int r;

        if (!id)
                return -EINVAL;
        if (find(arbiter, id) != NONE)
                return -EEXIST;
        r = arbiter_fits(arbiter, devices, count, terms, 0, &available);
        if (r < 0)
                return r;
        while (t < ARBITER_MAX_TENANTS && arbiter->tenant[t].id)
                t++;
        if (t == ARBITER_MAX_TENANTS)
                return -EUSERS;
        arb_settle_all(arbiter, now);
        tenant = &arbiter->tenant[t];
        *tenant = (struct tenant){.id = id, .count = count};
        take_terms(tenant, terms);
        arbiter->top = MAX_OF(arbiter->top, t + 1);
        for (unsigned i = 0; i < count; i++) {
                struct device *device = &arbiter->device[devices[i]];
                struct seat *seat = seat_of(arbiter, devices[i], t);

                tenant->device[i] = devices[i];
                device->order[device->count++] = t;
                /* until something is known of it, it may want everything it can get */
                *seat = (struct seat){
                        .present = true,
                        .kind = ARBITER_BACKLOGGED,
                        .fill_ppm = PPM,
                        .alone_ppm = PPM,
                        .wait_ppm = PPM,
                        .mark = {.at = now},
                        .turned_at = {now, now},
                        .trial_pause = ARBITER_TRIAL_MIN,
                };
        }
        arb_begin_cap(arbiter, t, now);
        touch_devices(arbiter, tenant, false);
        arbiter->next = now;
        return 0;
}

int arbiter_change(
        struct arbiter *arbiter, uint64_t now, uint64_t id, const struct arbiter_terms *terms)
{
        uint32_t t = find(arbiter, id);
        struct tenant *tenant;
        unsigned available;
        bool cap;
        int r;

        if (t == NONE)
                return -ENOENT;
        tenant = &arbiter->tenant[t];
        r = arbiter_fits(arbiter, tenant->device, tenant->count, terms, id, &available);
        if (r < 0)
                return r;
        arb_settle_all(arbiter, now);
        cap = terms->cap != tenant->terms.cap;
        take_terms(tenant, terms);
        if (cap)
                arb_begin_cap(arbiter, t, now);
        touch_devices(arbiter, tenant, true);
        arbiter->next = now;
        return 0;
}

int arbiter_leave(struct arbiter *arbiter, uint64_t now, uint64_t id)
{
        uint32_t t = find(arbiter, id);
        struct tenant *tenant;

        if (t == NONE)
                return -ENOENT;
        arb_settle_all(arbiter, now);
        tenant = &arbiter->tenant[t];
        touch_devices(arbiter, tenant, false);
        for (unsigned i = 0; i < tenant->count; i++) {
                struct device *device = &arbiter->device[tenant->device[i]];
                unsigned k = 0;

                while (device->order[k] != t)
                        k++;
                device->count--;
                memmove(&device->order[k], &device->order[k + 1],
                        (device->count - k) * sizeof(device->order[0]));
                seat_of(arbiter, tenant->device[i], t)->present = false;
        }
        for (unsigned d = 0; d < arbiter->devices; d++) {
                if (arbiter->cluster[d].holder == t)
                        arbiter->cluster[d].end = now;
                if (arbiter->device[d].alone.holder == t)
                        arbiter->device[d].alone.end = now;
                if (arbiter->device[d].probed == t)
                        arbiter->device[d].probed = NONE;
        }
        tenant->id = 0;
        while (arbiter->top > 0 && !arbiter->tenant[arbiter->top - 1].id)
                arbiter->top--;
        arb_choose_period(arbiter, now);
        arbiter->next = now;
        return 0;
}

uint64_t arbiter_next(const struct arbiter *arbiter)
{
        return arbiter->next;
}

bool arbiter_is_awaited(const struct arbiter *arbiter)
{
        for (unsigned d = 0; d < arbiter->devices; d++)
                if (arbiter->cluster[d].holder != NONE || arbiter->device[d].alone.holder != NONE)
                        return true;
        return false;
}

static void learn(uint64_t *lead, uint64_t seen)
{
        seen = MIN_OF(seen, 5 * ARBITER_MS);
        *lead = *lead - *lead / 8 + seen / 8;
}

void arbiter_acted(
        struct arbiter *arbiter, uint64_t now, const struct arbiter_action *action, int result)
{
        struct seat *seat = arb_find_seat(arbiter, action->tenant, action->device);
        enum call call = action->act == ARBITER_SET_SLICE  ? CALL_SLICE
                         : action->act == ARBITER_SET_MODE ? CALL_MODE
                                                           : CALL_SWITCH;
        struct flight *flight;
        bool all, kept;

        if (!seat)
                return;
        arb_settle(arbiter, action->device, now);
        /* by the clock, nobody has called */
        kept = arbiter->cluster[arbiter->device[action->device].cluster].kept;
        flight = &seat->flight[call];
        if (!flight->under_way)
                return;
        /* groups that have come meanwhile may not have been among them */
        all = flight->epoch == seat->epoch;
        flight->under_way = false;
        if (result < 0) {
                flight->failures++;
                flight->since = now;
                seat->in_part |= action->act == ARBITER_DISABLE;
                return;
        }
        flight->failures = 0;
        switch (action->act) {
        case ARBITER_SET_SLICE:
                if (all)
                        seat->slice_us = action->slice_us;
                break;
        case ARBITER_SET_MODE:
                if (all)
                        seat->thread_block = action->thread_block;
                break;
        case ARBITER_DISABLE:
                if (!kept)
                        learn(&arbiter->disable_lead, now - MIN_OF(flight->since, now));
                seat->disabled = all;
                seat->in_part = !all;
                arbiter->next = MIN_OF(arbiter->next, now);
                break;
        case ARBITER_ENABLE:
                if (!kept)
                        learn(&arbiter->enable_lead, now - MIN_OF(flight->since, now));
                arb_enabled(seat, now);
                seat->in_part = false;
                arbiter->next = MIN_OF(arbiter->next, now);
                break;
        }
}

int arbiter_let_go(struct arbiter *arbiter, uint64_t now, uint64_t id, unsigned device)
{
        struct seat *seat = arb_find_seat(arbiter, id, device);

        if (!seat)
                return -ENOENT;
        arb_settle(arbiter, device, now);
        arb_enabled(seat, now);
        arbiter->cluster[arbiter->device[device].cluster].kept = false;
        arbiter->next = now;
        return 0;
}

int arbiter_forget(struct arbiter *arbiter, uint64_t now, uint64_t id, unsigned device)
{
        struct seat *seat = arb_find_seat(arbiter, id, device);

        if (!seat)
                return -ENOENT;
        arb_settle(arbiter, device, now);
        seat->slice_us = 0;
        seat->thread_block = false;
        /* what was disabled may be so still, and is to be enabled if it is not disabled again */
        seat->in_part |= seat->disabled;
        arb_enabled(seat, now);
        arbiter->cluster[arbiter->device[device].cluster].kept = false;
        for (unsigned i = 0; i < CALLS; i++)
                seat->flight[i] = (struct flight){0};
        arbiter->device[device].stale = true;
        arbiter->device[device].urgent = true;
        arbiter->next = now;
        return 0;
}

void arbiter_resume(struct arbiter *arbiter, uint64_t now)
{
        for (unsigned d = 0; d < arbiter->devices; d++) {
                struct device *device = &arbiter->device[d];

                device->settled = MAX_OF(device->settled, now);
                device->stale = device->urgent = true;
                device->probed = NONE;
                device->alone.holder = arbiter->cluster[d].holder = NONE;
                for (unsigned i = 0; i < device->count; i++) {
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);

                        /* what is measured next goes on from here */
                        seat->account.source = ACCOUNT_RECORD;
                        seat->owed_ns = 0;
                        seat->turned_at[0] = seat->turned_at[1] = now;
                        arb_mark(seat, now);
                }
        }
        for (uint32_t t = 0; t < arbiter->top; t++)
                if (arbiter->tenant[t].id && is_capped(&arbiter->tenant[t]))
                        arb_start_period(arbiter, &arbiter->tenant[t], t, now);
        arbiter->next = now;
}

/* Whether records tell too late that it rests. */
static bool is_heard(const struct arbiter *arbiter, const struct seat *seat, unsigned d)
{
        const struct device *device = &arbiter->device[d];
        unsigned turns = 0;

        if (seat->turn == TURN_FREE || seat->kind != ARBITER_SYNCHRONOUS)
                return false;
        for (unsigned i = 0; i < device->count; i++)
                turns += seat_of((struct arbiter *)arbiter, d, device->order[i])->turn != TURN_FREE;
        return turns > 2 || seat->rests;
}

int arbiter_inspect(
        const struct arbiter *arbiter, uint64_t id, unsigned device, struct arbiter_state *ret)
{
        const struct seat *seat = arb_find_seat((struct arbiter *)arbiter, id, device);

        if (!seat)
                return -ENOENT;
        *ret = (struct arbiter_state){
                .kind = seat->kind,
                .disabled = seat->disabled,
                .capped_off = arbiter->tenant[find(arbiter, id)].capped_off,
                .turns = seat->turn != TURN_FREE,
                .heard = is_heard(arbiter, seat, device),
                .thread_block = seat->thread_block,
                .slice_us = seat->slice_us,
                .target_ppm = seat->target_ppm,
                .gpu_ns = seat->account.shown_ns,
                .error_ns = account_error(&seat->account),
                .source = seat->account.source,
        };
        for (unsigned i = 0; i < CALLS; i++)
                ret->refused |= seat->flight[i].failures >= 3;
        return 0;
}
