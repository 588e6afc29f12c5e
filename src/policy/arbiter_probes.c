/* SPDX-License-Identifier: Apache-2.0 */
/* Where records leave open how long a tenant pauses: a short time in which that shows. */
#include "policy/arbiter_parts.h"

#define PROBE_SETTLES (12 * ARBITER_MS) /* what was seen up to then is of the time before */
#define PROBE_MOST    (200 * ARBITER_MS)
#define TURN_FILLED   (PPM / 10 * 7) /* a loop, or so many requests that turns are right for them */

unsigned arb_others_with_work(struct arbiter *arbiter, unsigned d, uint32_t t)
{
        const struct device *device = &arbiter->device[d];
        unsigned others = 0;

        for (unsigned i = 0; i < device->count; i++)
                others += device->order[i] != t &&
                          seat_of(arbiter, d, device->order[i])->kind != ARBITER_IDLE;
        return others;
}

/* A probe gives everybody else short slices: not where somebody has priority over the one who is
 * looked at, or is served first. Who is served first alone has long ones and all others the
 * shortest: his pauses show, and that he works off what has piled up is not taken for his kind. */
bool arb_may_probe(struct arbiter *arbiter, unsigned d, uint32_t t)
{
        const struct device *device = &arbiter->device[d];
        bool alone = true;

        if (arbiter->tenant[t].capped_off)
                return false;
        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->kind == ARBITER_IDLE)
                        continue;
                if (arbiter->tenant[device->order[i]].terms.priority >
                        arbiter->tenant[t].terms.priority)
                        return false;
                alone = alone && (!seat->first || device->order[i] == t);
        }
        if (device->latency && (alone || !seat_of(arbiter, d, t)->first))
                return false;
        return arb_others_with_work(arbiter, d, t) > 0;
}

void arb_begin_probe(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t now)
{
        struct device *device = &arbiter->device[d];

        device->probed = t;
        device->probe_begun = now;
        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                seat->probe_used = account_best(&seat->account);
        }
        device->probe_from = 0;
        device->probe_end = now + PROBE_MOST;
        device->stale = device->urgent = true;
        arbiter->next = MIN_OF(arbiter->next, now);
}

/* What everybody's part of a probe's time was, and he did not get: his next turns are so much
 * longer. The one who was looked at, too: a loop of short kernels loses the engine after each. */
static void note_lost(struct arbiter *arbiter, unsigned d, uint64_t now)
{
        const struct device *device = &arbiter->device[d];

        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);
                uint64_t used = account_best(&seat->account) - seat->probe_used;
                uint64_t due = (uint64_t)((double)(now - device->probe_begun) *
                                          (double)seat->target_ppm / PPM);

                if (has_claim(seat->kind) && due > used)
                        seat->lost_ns = MIN_OF(seat->lost_ns + due - used, ARBITER_FRAME_MAX);
        }
}

void arb_end_probe(struct arbiter *arbiter, unsigned d, uint64_t now, bool again)
{
        struct device *device = &arbiter->device[d];
        struct seat *seat = seat_of(arbiter, d, device->probed);

        if (again)
                seat->trial_pause = ARBITER_TRIAL_MIN;
        seat->trial_at = now + seat->trial_pause;
        seat->trial_pause = MIN_OF(2 * seat->trial_pause, ARBITER_TRIAL_MAX);
        note_lost(arbiter, d, now);
        device->probed = NONE;
        device->stale = device->urgent = true;
}

/* The window in which the probed tenant is judged begins when all have their slices, and what is
 * told is no longer of the time before. */
void arb_watch_probe(struct arbiter *arbiter, unsigned d, uint64_t now)
{
        struct device *device = &arbiter->device[d];
        struct seat *seat;
        bool ready = true;

        if (device->probed == NONE)
                return;
        seat = seat_of(arbiter, d, device->probed);
        if (now >= device->probe_end || seat->kind == ARBITER_IDLE ||
                !arb_may_probe(arbiter, d, device->probed)) {
                arb_end_probe(arbiter, d, now, false);
                return;
        }
        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *other = seat_of(arbiter, d, device->order[i]);

                if (other->kind != ARBITER_IDLE)
                        ready = ready && other->slice_us == other->slice_wanted &&
                                (!other->disabled || arbiter->tenant[device->order[i]].capped_off);
        }
        if (device->probe_from == 0 && ready) {
                device->probe_from = now + PROBE_SETTLES;
                arb_mark(seat, now);
        }
        if (device->probe_from && now < device->probe_from)
                arb_mark(seat, now);
}

/* It has work again as soon as the others who are there, with the shortest slices, let it show. */
static bool comes_at_once(struct arbiter *arbiter, unsigned d, uint32_t t)
{
        const struct seat *seat = seat_of(arbiter, d, t);
        uint64_t away = 2 * arbiter->costs.switch_ns;
        double most = (double)(arb_others_with_work(arbiter, d, t) * (ARBITER_SHORT * 1000 + away));

        return seat->rate_ppm > 0 && seat->run_ns > 0 &&
               (double)seat->run_ns * PPM / (double)seat->rate_ppm <=
                       (double)(seat->run_ns + away) + most;
}

/* Somebody who is there has a lower priority. */
static bool is_above_another(struct arbiter *arbiter, unsigned d, uint32_t t)
{
        const struct device *device = &arbiter->device[d];

        for (unsigned i = 0; i < device->count; i++)
                if (seat_of(arbiter, d, device->order[i])->kind != ARBITER_IDLE &&
                        arbiter->tenant[device->order[i]].terms.priority <
                                arbiter->tenant[t].terms.priority)
                        return true;
        return false;
}

bool arb_is_starved(struct arbiter *arbiter, unsigned d, uint32_t t)
{
        const struct seat *seat = seat_of(arbiter, d, t);
        int64_t due = seat->target_ppm;

        if (seat->wait_ppm < PPM / 4 * 3)
                return false;
        /* served first, and yet each of its pauses costs it two switches */
        if (arbiter->device[d].latency) {
                if (!seat->first || !comes_at_once(arbiter, d, t))
                        return false;
                due = arbiter->tenant[t].terms.share * (PPM / 100);
        } else if (is_above_another(arbiter, d, t))
                /* to be served first is more than turns, and shows its pauses */
                return false;
        return seat->rate_ppm * 2 < due;
}

/* Its pauses are at least, and at most, so long. What follows for its kind, as far as it is open:
 * then, sooner or later, it is probed. */
bool arb_is_synchronous(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t least,
        uint64_t most, uint64_t limit, uint64_t now)
{
        struct device *device = &arbiter->device[d];
        struct seat *seat = seat_of(arbiter, d, t);
        bool probed = device->probed == t && device->probe_from;

        if (least > limit || most <= limit + limit / 2 || probed) {
                /* beside several others it may be as open as before */
                bool found = least <= limit &&
                             (most <= limit + limit / 2 || seat->kind == ARBITER_SYNCHRONOUS);

                if (probed) {
                        seat->probed_pause_ns = (least + most) / 2;
                        arb_end_probe(
                                arbiter, d, now, found != (seat->kind == ARBITER_SYNCHRONOUS));
                }
                return found;
        }
        /* a turn costs the others nothing that is theirs, and shows how it fills one */
        if (arb_is_starved(arbiter, d, t) ||
                (seat->turn == TURN_OWN && seat->fill_ppm >= TURN_FILLED))
                return true;
        /* two calls for everybody: of many tenants only now and then one */
        if (device->probed == NONE && now >= seat->trial_at && arbiter->call_budget > 0 &&
                arb_may_probe(arbiter, d, t))
                arb_begin_probe(arbiter, d, t, now);
        /* until then: what it was found to be last */
        return seat->probed_pause_ns && seat->probed_pause_ns <= limit + limit / 2;
}
