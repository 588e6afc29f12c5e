/* SPDX-License-Identifier: Apache-2.0 */
/* Duty cycles: periods, their phases and budgets. */
#include "policy/arbiter_parts.h"

#define PERIOD_LONG (100 * ARBITER_MS)
#define IDLE_NAP    (5 * ARBITER_MS)
/* Should the neighbours stop, it may use so much too much, once: it is taken off what comes. */
#define OVERRUN   (6 * ARBITER_MS)
#define OVERDRAFT (20 * ARBITER_MS) /* of a budget, that is always kept back */

/* The end of the tenant's period that now lies in. */
static uint64_t period_end_of(
        const struct arbiter *arbiter, const struct tenant *tenant, uint64_t now)
{
        uint64_t offset = arbiter->period / PPM * tenant->phase_ppm;
        uint64_t into = (now % arbiter->period + arbiter->period - offset) % arbiter->period;

        return now - into + arbiter->period;
}

/* A first period is as long as is left of it, and its budget in proportion. */
void arb_start_period(struct arbiter *arbiter, struct tenant *tenant, uint32_t t, uint64_t now)
{
        tenant->period_begun = now;
        tenant->period_end = period_end_of(arbiter, tenant, now);
        tenant->capped_off = false;
        for (unsigned i = 0; i < tenant->count; i++) {
                struct seat *seat = seat_of(arbiter, tenant->device[i], t);

                seat->period_used = account_best(&seat->account);
                seat->budget = (int64_t)part_of(tenant->period_end - now, tenant->terms.cap);
        }
}

static bool share_device(const struct tenant *a, const struct tenant *b)
{
        for (unsigned i = 0; i < a->count; i++)
                for (unsigned j = 0; j < b->count; j++)
                        if (a->device[i] == b->device[j])
                                return true;
        return false;
}

/* How much of two arcs of a circle of PPM coincides. */
static unsigned overlap(unsigned start_a, unsigned length_a, unsigned start_b, unsigned length_b)
{
        unsigned gap = (start_b + PPM - start_a) % PPM;
        unsigned both = 0;

        if (gap < length_a)
                both += MIN_OF(length_a - gap, length_b);
        if (gap + length_b > PPM)
                both += MIN_OF(gap + length_b - PPM, length_a);
        return both;
}

/* Where in the period the tenant's duty time meets the least of others': right after one of them,
 * or at its start. */
static void choose_phase(struct arbiter *arbiter, uint32_t t)
{
        struct tenant *tenant = &arbiter->tenant[t];
        unsigned length = tenant->terms.cap * (PPM / 100);
        uint64_t least = UINT64_MAX;

        for (uint32_t c = 0; c <= arbiter->top; c++) {
                const struct tenant *before = c ? &arbiter->tenant[c - 1] : NULL;
                unsigned start = 0;
                uint64_t cost = 0;

                if (before) {
                        if (c - 1 == t || !before->id || !is_capped(before) ||
                                !share_device(tenant, before))
                                continue;
                        start = (before->phase_ppm + before->terms.cap * (PPM / 100)) % PPM;
                }
                for (uint32_t o = 0; o < arbiter->top; o++) {
                        const struct tenant *other = &arbiter->tenant[o];

                        if (o != t && other->id && is_capped(other) && share_device(tenant, other))
                                cost += overlap(start, length, other->phase_ppm,
                                        other->terms.cap * (PPM / 100));
                }
                if (cost < least) {
                        least = cost;
                        tenant->phase_ppm = start;
                }
        }
}

/* Short periods where the calls they cost are affordable, and where the duty time or the pause is
 * long against them. */
void arb_choose_period(struct arbiter *arbiter, uint64_t now)
{
        uint64_t calls = 0, capped = 0, period = PERIOD;

        for (uint32_t t = 0; t < arbiter->top; t++) {
                const struct tenant *tenant = &arbiter->tenant[t];

                if (!tenant->id || !is_capped(tenant))
                        continue;
                capped++;
                calls += tenant->count * (arbiter->costs.disable_ns + arbiter->costs.enable_ns);
                if (MIN_OF(tenant->terms.cap, 100 - tenant->terms.cap) <= 2)
                        period = PERIOD_LONG;
        }
        if (calls * 100 > (capped + 1) * PERIOD)
                period = PERIOD_LONG;
        if (period == arbiter->period)
                return;
        arbiter->period = period;
        for (uint32_t t = 0; t < arbiter->top; t++) {
                struct tenant *tenant = &arbiter->tenant[t];
                uint64_t end;

                if (!tenant->id || !is_capped(tenant))
                        continue;
                end = period_end_of(arbiter, tenant, now);
                for (unsigned i = 0; i < tenant->count; i++)
                        seat_of(arbiter, tenant->device[i], t)->budget +=
                                (int64_t)part_of(end, tenant->terms.cap) -
                                (int64_t)part_of(tenant->period_end, tenant->terms.cap);
                tenant->period_end = end;
        }
}

/* A period is over: what was used too much is taken off the next, what a call of ours cut short by
 * a little is added. */
static void roll_period(struct arbiter *arbiter, struct tenant *tenant, uint32_t t, uint64_t now)
{
        uint64_t end = period_end_of(arbiter, tenant, now);
        uint64_t length = end - tenant->period_end;

        for (unsigned i = 0; i < tenant->count; i++) {
                struct seat *seat = seat_of(arbiter, tenant->device[i], t);
                uint64_t used = account_best(&seat->account);
                int64_t left = seat->budget - (int64_t)(used - seat->period_used);

                /* of what a call of ours takes, so much is kept back: were it not carried, who has
                   less in a period would never have any */
                if (left > 0)
                        left = tenant->capped_off ? MIN_OF(left, (int64_t)MAX_OF(ARBITER_CREDIT,
                                                                         arbiter->disable_lead))
                                                  : 0;
                left = MAX_OF(left, -MAX_OF((int64_t)part_of(ARBITER_DEBT, tenant->terms.cap),
                                            (int64_t)OVERDRAFT));
                seat->budget = left + (int64_t)part_of(length, tenant->terms.cap);
                seat->period_used = used;
        }
        tenant->period_begun = tenant->period_end;
        tenant->period_end = end;
        tenant->capped_off = false;
}

/* What it may take of the next period's budget, where that is kept back: a turn may be longer than
 * the budget of a period, and of slices one falls into one period and two into the next, where the
 * guarantee would not stand were the second cut. */
static int64_t budget_ahead(const struct device *device, const struct seat *seat,
        const struct tenant *tenant, uint64_t now)
{
        uint64_t length = tenant->period_end - tenant->period_begun;
        int64_t most, owed;

        if (length >= ARBITER_FRAME_MAX)
                return 0;
        most = (int64_t)part_of(ARBITER_FRAME_MAX - length, tenant->terms.cap);
        if (seat->turn == TURN_OWN)
                return most;
        owed = arb_owed_to(device, seat, tenant, now);
        return MIN_OF(MAX_OF(owed, (int64_t)0), most);
}

/* More than all of the time since its cap came it cannot have used under it: what is found out now
 * is of the time before. */
static void forgive(struct arbiter *arbiter, const struct tenant *tenant, uint32_t t, uint64_t now)
{
        for (unsigned i = 0; i < tenant->count; i++) {
                struct seat *seat = seat_of(arbiter, tenant->device[i], t);
                uint64_t most = seat->cap_used + (now - tenant->cap_since);
                uint64_t used = account_best(&seat->account);

                if (used > most) {
                        seat->cap_used += used - most;
                        seat->period_used += used - most;
                }
        }
}

/* Switches a capped tenant off when its budget runs out, and says when to look again. */
uint64_t arb_watch_cap(struct arbiter *arbiter, uint32_t t, uint64_t now)
{
        struct tenant *tenant = &arbiter->tenant[t];
        uint64_t next;

        forgive(arbiter, tenant, t, now);
        if (now >= tenant->period_end)
                roll_period(arbiter, tenant, t, now);
        next = tenant->period_end;
        if (tenant->capped_off)
                return next;
        for (unsigned i = 0; i < tenant->count; i++) {
                const struct device *device = &arbiter->device[tenant->device[i]];
                const struct seat *seat = seat_of(arbiter, tenant->device[i], t);
                int64_t left =
                        seat->budget - (int64_t)(account_best(&seat->account) - seat->period_used);
                int64_t ahead = budget_ahead(device, seat, tenant, now);
                uint64_t round = 0;
                unsigned running = 0;
                double rate = 1;
                int64_t nap;

                /* the pace it can have beside the others, with something to spare */
                for (unsigned k = 0; k < device->count; k++) {
                        const struct seat *other =
                                seat_of(arbiter, tenant->device[i], device->order[k]);

                        if (other == seat || is_contending(other)) {
                                round += slice_in_force(other);
                                running++;
                        }
                }
                if (running > 1)
                        rate = MIN_OF(1.0, 1.25 * (double)slice_in_force(seat) / (double)round);
                /* should the others stop, it may use this much too much */
                left += ahead;
                nap = MIN_OF((int64_t)((double)left / rate), left + (int64_t)OVERRUN) -
                      (int64_t)arbiter->disable_lead;
                if (nap <= 0) {
                        /* a pause shorter than the calls that make it is owed to the next period */
                        if (left > 0 && tenant->period_end - now <
                                                arbiter->disable_lead + arbiter->enable_lead)
                                continue;
                        tenant->capped_off = true;
                        return tenant->period_end;
                }
                /* who has nothing to do now may begin before the next look */
                if (!is_running(seat))
                        nap = MAX_OF(nap, (int64_t)IDLE_NAP);
                next = MIN_OF(next, now + MAX_OF((uint64_t)nap, NAP_MIN));
        }
        return next;
}

void arb_begin_cap(struct arbiter *arbiter, uint32_t t, uint64_t now)
{
        arb_choose_period(arbiter, now);
        arbiter->tenant[t].capped_off = false;
        if (!is_capped(&arbiter->tenant[t]))
                return;
        choose_phase(arbiter, t);
        arb_start_period(arbiter, &arbiter->tenant[t], t, now);
        arbiter->tenant[t].cap_since = now;
        for (unsigned i = 0; i < arbiter->tenant[t].count; i++) {
                struct seat *seat = seat_of(arbiter, arbiter->tenant[t].device[i], t);

                seat->cap_used = seat->period_used;
        }
}
