/* SPDX-License-Identifier: Apache-2.0 */
/* What is seen of tenants, and what they are predicted to have had between two looks. */
#include "policy/arbiter_parts.h"

#include <errno.h>

#define PAST_STEP    (ARBITER_MS / 2)
#define COMINGS_TIME (2000 * ARBITER_MS)
#define BEGINS_FOR                                                                                 \
        (500 * ARBITER_MS) /* who has just come makes some contexts, and then no more              \
                            */

static void predict(struct seat *seat, uint64_t ns, uint64_t now)
{
        unsigned last = (seat->pasts - 1) % PAST;

        account_predict(&seat->account, ns);
        seat->predicted_ns += ns;
        if (seat->pasts && now < seat->past[last].at + PAST_STEP)
                return;
        seat->past[seat->pasts % PAST].at = now;
        seat->past[seat->pasts++ % PAST].predicted_ns = seat->predicted_ns;
}

/* What has been predicted since then. */
static uint64_t predicted_since(const struct seat *seat, uint64_t at)
{
        uint64_t newer_at = 0, newer = seat->predicted_ns;

        for (unsigned i = 0; i < MIN_OF(seat->pasts, PAST); i++) {
                unsigned k = (seat->pasts - 1 - i) % PAST;

                if (seat->past[k].at > at) {
                        newer_at = seat->past[k].at;
                        newer = seat->past[k].predicted_ns;
                        continue;
                }
                if (newer_at)
                        newer = seat->past[k].predicted_ns +
                                (uint64_t)((double)(newer - seat->past[k].predicted_ns) *
                                           (double)(at - seat->past[k].at) /
                                           (double)(newer_at - seat->past[k].at));
                else
                        newer = seat->past[k].predicted_ns;
                break;
        }
        return seat->predicted_ns - newer;
}

/* What part of the time that it is given a tenant is predicted to use. One alone keeps the engine
 * whether it works or not, so no pause is seen, and it is taken for one with a backlog. */
static uint32_t fill_of(const struct seat *seat, unsigned running)
{
        return running == 1 && seat->sight.blind_alone ? MIN_OF(seat->fill_ppm, seat->alone_ppm)
                                                       : seat->fill_ppm;
}

static void settle(struct arbiter *arbiter, unsigned d, uint64_t now)
{
        struct device *device = &arbiter->device[d];
        struct account_claim claims[ARBITER_MAX_TENANTS];
        uint64_t had[ARBITER_MAX_TENANTS];
        uint64_t span, round = 0, switch_us;
        unsigned running = 0;

        if (now <= device->settled)
                return;
        span = now - device->settled;
        device->settled = now;
        switch_us = (arbiter->costs.switch_ns + arbiter->costs.save_ns) / 1000;
        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                claims[i].slice_us = slice_in_force(seat);
                claims[i].running = is_running(seat);
                if (claims[i].running) {
                        round += claims[i].slice_us + switch_us;
                        running++;
                }
        }
        account_divide(span, switch_us, claims, device->count, had);
        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->disabled || !claims[i].running)
                        predict(seat, 0, now);
                if (seat->disabled)
                        continue;
                seat->on_ns += span;
                if (claims[i].running) {
                        seat->offered_ns += had[i];
                        predict(seat, (uint64_t)((double)had[i] * fill_of(seat, running) / PPM),
                                now);
                } else if (!running)
                        seat->offered_ns += span;
                else
                        seat->offered_ns += (uint64_t)((double)span * claims[i].slice_us /
                                                       (round + claims[i].slice_us + switch_us));
        }
}

static void swap_disabled(struct seat *two[static 2])
{
        bool disabled = two[0]->disabled;

        two[0]->disabled = two[1]->disabled;
        two[1]->disabled = disabled;
}

/* Time has passed on a device with nothing changed since, but that turns which are kept by the
 * clock may have passed by themselves: what everybody had of it. */
void arb_settle(struct arbiter *arbiter, unsigned d, uint64_t now)
{
        uint64_t at, length[2];
        struct seat *two[2];
        bool swapped = false;

        if (arb_kept_turns(arbiter, d, two, &at, length) && now < at + ARBITER_FRAME_MAX)
                for (; at < now; swapped = !swapped) {
                        settle(arbiter, d, at);
                        swap_disabled(two);
                        at += length[!swapped];
                }
        settle(arbiter, d, now);
        if (swapped)
                swap_disabled(two);
}

void arb_settle_all(struct arbiter *arbiter, uint64_t now)
{
        for (unsigned d = 0; d < arbiter->devices; d++)
                arb_settle(arbiter, d, now);
}

uint64_t arb_ahead(const struct seat *seat)
{
        uint32_t fill = fill_of(seat, 1);

        return fill ? (uint64_t)((double)seat->account.predicted_ns * PPM / fill) : 0;
}

void arb_mark(struct seat *seat, uint64_t now)
{
        seat->mark.predicted_ns = seat->account.predicted_ns;
        seat->mark.ahead_ns = arb_ahead(seat);
        seat->mark.at = now;
        seat->mark.used_ns = account_best(&seat->account);
        seat->mark.offered_ns = seat->offered_ns;
        seat->mark.starts = seat->sight.starts;
        seat->mark.wanted_ns = seat->sight.wanted_ns;
        seat->mark.sight_at = seat->sight.used_at ? seat->sight.used_at : now;
        seat->mark.doubt_ns = seat->sight.doubt_ns;
}

double arb_comings(const struct device *device, uint64_t now)
{
        uint64_t span = now - MIN_OF(device->came, now);

        return span < COMINGS_TIME ? device->comings * (1 - (double)span / COMINGS_TIME) : 0;
}

static void note_coming(struct device *device, uint64_t now)
{
        device->comings = arb_comings(device, now) + 1;
        device->came = now;
}

int arbiter_observe(struct arbiter *arbiter, uint64_t now, uint64_t id, unsigned device,
        const struct arbiter_sight *sight)
{
        struct seat *seat = arb_find_seat(arbiter, id, device);
        bool first, launched, stays;
        uint64_t since;

        if (!seat)
                return -ENOENT;
        arb_settle(arbiter, device, now);
        first = !seat->seen;
        if (sight->groups != seat->sight.groups)
                arbiter->device[device].stale = true;
        if (sight->used_known) {
                uint64_t before = account_best(&seat->account);
                uint64_t measured = seat->account.measured_ns;

                /* of the time before, not of what is on now; each source counts its own */
                if (seat->sight.used_known && seat->sight.source == sight->source)
                        seat->turn_used +=
                                (uint64_t)(sight->corrected_ns - seat->sight.corrected_ns);
                account_measure(&seat->account, sight->source, sight->used_ns, sight->precision_ns);
                /* what a source takes back is of some time ago, and not to be had again now */
                if (seat->account.measured_ns < measured)
                        seat->period_used -=
                                MIN_OF(seat->period_used, measured - seat->account.measured_ns);
                /* what has happened since is not in it yet */
                if (sight->used_at && sight->used_at < now)
                        account_predict(&seat->account, predicted_since(seat, sight->used_at));
                /* the first reading tells nothing of what was used since the tenant came */
                if (first && before > 0)
                        seat->mark.used_ns = account_best(&seat->account);
        }
        if (sight->epoch != seat->epoch) {
                /* new groups are enabled and have the driver's settings, and the others have not:
                 * who is to go on just now needs a call */
                seat->epoch = sight->epoch;
                if (!first && now >= seat->seen_since + BEGINS_FOR)
                        note_coming(&arbiter->device[device], now);
                seat->slice_us = 0;
                seat->thread_block = false;
                seat->in_part |= seat->disabled;
                arb_enabled(seat, now);
        }
        stays = !first && sight->demand == ARBITER_DEMAND_UNKNOWN &&
                seat->sight.demand == ARBITER_DEMAND_NONE && !seat->disabled &&
                sight->source == seat->sight.source && sight->starts == seat->sight.starts &&
                sight->used_ns <= seat->sight.used_ns + sight->precision_ns &&
                !(sight->launches_known && sight->launched_at > seat->sight.since);
        since = seat->sight.since;
        seat->sight = *sight;
        /* when it has some again, it has the engine before long, or shows that it waits */
        if (stays) {
                seat->sight.demand = ARBITER_DEMAND_NONE;
                seat->sight.since = since;
        }
        /* what it has launched since is not recorded yet */
        launched = sight->launches_known && sight->demand == ARBITER_DEMAND_NONE &&
                   sight->launched_at > sight->since;
        if (launched) {
                seat->sight.demand = ARBITER_DEMAND_UNKNOWN;
                seat->sight.since = sight->launched_at;
        }
        seat->seen = true;
        if (first) {
                seat->seen_since = now;
                arb_mark(seat, now);
        }
        if (seat->kind == ARBITER_IDLE) {
                bool used = account_best(&seat->account) >
                            seat->mark.used_ns + 2 * seat->sight.precision_ns;

                if (sight->demand == ARBITER_DEMAND_WORK || launched ||
                        (seat->rests && sight->launched_at != seat->rest_launched) ||
                        (sight->demand == ARBITER_DEMAND_UNKNOWN && used && !seat->rests)) {
                        seat->was_loop = seat->was_loop && now < seat->rested + ARB_LOOP_LASTS;
                        seat->kind = seat->was_loop ? ARBITER_SYNCHRONOUS : ARBITER_BACKLOGGED;
                        seat->queued_since = now;
                        seat->fill_ppm = PPM;
                        seat->settled_kind = false;
                        arbiter->device[device].stale = true;
                        arbiter->next = MIN_OF(arbiter->next, now);
                        arb_mark(seat, now);
                }
        } else if (sight->demand == ARBITER_DEMAND_NONE && !seat->settled_kind && first) {
                seat->kind = ARBITER_IDLE;
                arbiter->device[device].stale = true;
        }
        return 0;
}
