/* SPDX-License-Identifier: Apache-2.0 */
/* Shares as slices: targets, who is served first, and how long a round is. */
#include "policy/arbiter_parts.h"

#define POOL_ROUNDS      2
#define OWED_TIME        (60 * ARBITER_MS) /* for which nothing of a guarantee was given */
#define SWITCHING_MOST   (PPM / 5)         /* that guarantees make room for */
#define GUARANTEE_MARGIN 108               /* percent */
#define PROBE_OTHERS     200u /* us, the others' slices: ends can still be told by them */

/* The hardware keeps a count of 8 bits and a scale. */
static uint64_t quantize(uint64_t us)
{
        unsigned scale = 0;

        while (us >> scale > 255)
                scale++;
        return us >> scale << scale;
}

/* Hands out left among those of the priority whom pick chooses, by weight, each up to limit.
 * Returns what nobody could take. */
static uint64_t pour(struct arbiter *arbiter, unsigned d, enum arbiter_priority priority,
        bool second, uint64_t left)
{
        const struct device *device = &arbiter->device[d];

        for (;;) {
                uint64_t weights = 0, given = 0;

                for (unsigned pass = 0; pass < 2; pass++)
                        for (unsigned i = 0; i < device->count; i++) {
                                const struct tenant *tenant = &arbiter->tenant[device->order[i]];
                                struct seat *seat = seat_of(arbiter, d, device->order[i]);
                                unsigned limit =
                                        is_capped(tenant) ? tenant->terms.cap * (PPM / 100) : PPM;
                                /* what has a guarantee and a cap takes only what others leave */
                                bool last = is_capped(tenant) && tenant->terms.share > 0;
                                uint64_t part;

                                if (seat->kind == ARBITER_IDLE ||
                                        tenant->terms.priority != priority || last != second ||
                                        seat->target_ppm >= limit)
                                        continue;
                                if (!pass) {
                                        weights += tenant->terms.weight;
                                        continue;
                                }
                                part = left * tenant->terms.weight / weights;
                                part = MIN_OF(part, (uint64_t)(limit - seat->target_ppm));
                                seat->target_ppm += part;
                                given += part;
                        }
                if (!weights || !given)
                        return left;
                left -= given;
                if (left < 100)
                        return 0;
        }
}

/* What a guarantee needs for it to stand after switching has taken its part. */
static uint64_t safe_share(const struct tenant *tenant)
{
        return (uint64_t)tenant->terms.share * (PPM / 100) * GUARANTEE_MARGIN / 100;
}

/* Switching is paid for by whoever got more than his guarantee. */
static void secure_guarantees(struct arbiter *arbiter, unsigned d)
{
        const struct device *device = &arbiter->device[d];
        uint64_t missing = 0, surplus = 0, moved;

        for (unsigned pass = 0; pass < 2; pass++) {
                moved = MIN_OF(missing, surplus);
                for (unsigned i = 0; i < device->count; i++) {
                        const struct tenant *tenant = &arbiter->tenant[device->order[i]];
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);
                        uint64_t safe = safe_share(tenant);

                        if (seat->kind == ARBITER_IDLE)
                                continue;
                        if (seat->target_ppm < safe) {
                                uint64_t part = safe - seat->target_ppm;

                                if (!pass)
                                        missing += part;
                                else
                                        seat->target_ppm += part * moved / missing;
                        } else if (seat->target_ppm > safe) {
                                uint64_t part = seat->target_ppm - safe;

                                if (!pass)
                                        surplus += part;
                                else
                                        seat->target_ppm -= part * moved / surplus;
                        }
                }
                if (!missing || !surplus)
                        return;
        }
}

/* s_i of everybody who is active. */
void arb_set_targets(struct arbiter *arbiter, unsigned d)
{
        const struct device *device = &arbiter->device[d];
        uint64_t left = PPM;

        for (unsigned i = 0; i < device->count; i++) {
                const struct tenant *tenant = &arbiter->tenant[device->order[i]];
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                seat->target_ppm = 0;
                if (seat->kind == ARBITER_IDLE)
                        continue;
                seat->target_ppm = tenant->terms.share * (PPM / 100);
                left -= seat->target_ppm;
        }
        for (unsigned second = 0; second < 2; second++)
                for (int priority = ARBITER_HIGH; priority >= ARBITER_LOW; priority--)
                        left = pour(arbiter, d, (enum arbiter_priority)priority, second, left);
        secure_guarantees(arbiter, d);
        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->kind != ARBITER_IDLE && seat->target_ppm < ARBITER_FLOOR)
                        seat->target_ppm = ARBITER_FLOOR;
        }
}

/* So much may be owed before priority stands back; more where what is used is told late. */
int64_t arb_owed_limit(const struct seat *seat, const struct tenant *tenant)
{
        return MAX_OF((int64_t)part_of(OWED_TIME + (seat->sight.used_at ? OWED_TIME : 0),
                              tenant->terms.share),
                (int64_t)(8 * ARBITER_MS));
}

/* What a tenant with a backlog, or a loop, has got too little of its guarantee up to now. */
int64_t arb_owed_to(const struct device *device, const struct seat *seat,
        const struct tenant *tenant, uint64_t now)
{
        if ((seat->kind != ARBITER_BACKLOGGED && seat->kind != ARBITER_SYNCHRONOUS) ||
                !seat->settled_kind || now <= seat->mark.at)
                return 0;
        return seat->owed_ns + arb_due_of(device, seat, tenant, now - seat->mark.at) -
               (int64_t)(account_best(&seat->account) - seat->mark.used_ns);
}

/* Who is served before the rest because he comes and goes: the class of the highest priority, if
 * all of it do; else those who use less than they are guaranteed, beside others who take the rest.
 */
static bool choose_first(struct arbiter *arbiter, unsigned d)
{
        struct device *device = &arbiter->device[d];
        enum arbiter_priority top = ARBITER_LOW, bottom = ARBITER_HIGH;
        unsigned first = 0, rest = 0;
        bool by_class;

        for (unsigned i = 0; i < device->count; i++) {
                enum arbiter_priority priority = arbiter->tenant[device->order[i]].terms.priority;

                if (seat_of(arbiter, d, device->order[i])->kind == ARBITER_IDLE)
                        continue;
                top = MAX_OF(top, priority);
                bottom = MIN_OF(bottom, priority);
        }
        by_class = top > ARBITER_LOW;
        for (unsigned i = 0; by_class && i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                by_class = seat->kind == ARBITER_IDLE || seat->kind == ARBITER_SPORADIC ||
                           arbiter->tenant[device->order[i]].terms.priority < top;
        }
        by_class = by_class && bottom < top;
        for (unsigned i = 0; i < device->count; i++) {
                const struct tenant *tenant = &arbiter->tenant[device->order[i]];
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                seat->first =
                        seat->kind == ARBITER_SPORADIC &&
                        (by_class ? tenant->terms.priority == top
                                  : seat->run_ns > 0 && seat->run_ns < ARBITER_ROUND_MIN &&
                                                seat->mean_ppm <
                                                        (int64_t)tenant->terms.share * (PPM / 100));
                first += seat->first;
                rest += seat->kind != ARBITER_IDLE && !seat->first;
        }
        return first > 0 && (by_class || rest > 0);
}

/* Whether somebody is served first, with what that means for the targets of the rest. */
static bool find_latency(struct arbiter *arbiter, unsigned d)
{
        struct device *device = &arbiter->device[d];
        uint64_t there_and_back = 2 * arbiter->costs.switch_ns + arbiter->costs.save_ns;
        uint64_t used = 0, kept = 0, switching = 0, run;
        bool owed = false, any = choose_first(arbiter, d);

        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);
                const struct tenant *tenant = &arbiter->tenant[device->order[i]];

                if (device->settled < device->no_latency_until)
                        any = false;
                if (seat->kind == ARBITER_IDLE || !any)
                        continue;
                if (!seat->first) {
                        kept += tenant->terms.share * (PPM / 100);
                        owed |= arb_owed_to(device, seat, tenant, device->settled) >
                                arb_owed_limit(seat, tenant);
                        continue;
                }
                /* each of its runs costs a switch there and back */
                run = seat->mean_run_ns ? seat->mean_run_ns : ARBITER_MS;
                switching +=
                        (uint64_t)((double)seat->mean_ppm * (double)there_and_back / (double)run);
                used += (uint64_t)seat->mean_ppm;
        }
        used += switching;
        if (any && (owed || used + kept > PPM + PPM / 10)) {
                device->no_latency_until = device->settled + device->latency_pause;
                device->latency_pause = MIN_OF(2 * device->latency_pause, ARBITER_TRIAL_MAX);
                any = false;
        }
        device->switching_ppm = any ? (uint32_t)MIN_OF(switching, SWITCHING_MOST) : 0;
        /* what is guaranteed to the rest is a larger part of what is left for them */
        for (unsigned i = 0; i < device->count; i++) {
                const struct tenant *tenant = &arbiter->tenant[device->order[i]];
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                seat->stands_back = seat->first && !any && seat->sight.blind_alone &&
                                    device->settled < device->no_latency_until;
                seat->first = seat->first && any;
                if (any && seat->kind != ARBITER_IDLE && !seat->first)
                        seat->target_ppm = (unsigned)MAX_OF((uint64_t)seat->target_ppm,
                                safe_share(tenant) * PPM / (PPM - MIN_OF(used, PPM * 9ull / 10)));
        }
        return any;
}

/* Round length: one of a few, so that small changes of what is seen cost no calls. sum: of the
 * targets. */
static uint64_t choose_round(struct arbiter *arbiter, unsigned d, unsigned active, uint64_t sum)
{
        static const uint64_t rounds[] = {ARBITER_ROUND_MIN, 12 * ARBITER_MS, 18 * ARBITER_MS,
                26 * ARBITER_MS, 36 * ARBITER_MS, ARBITER_ROUND_MAX};
        const struct device *device = &arbiter->device[d];
        uint64_t wanted = active * (arbiter->costs.switch_ns + arbiter->costs.save_ns) /
                          ARBITER_SWITCH_LOSS * PPM;
        uint64_t longest = ARBITER_ROUND_MAX;

        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                /* it waits for others while it has work, and gets less than it is due */
                if (seat->kind == ARBITER_SPORADIC && seat->run_ns && seat->wait_ppm >= PPM / 2 &&
                        seat->target_ppm && seat->rate_ppm < (int64_t)seat->target_ppm * 95 / 100)
                        wanted = MIN_OF(
                                wanted, (uint64_t)((double)seat->run_ns * PPM / seat->target_ppm));
                if (seat->kind != ARBITER_IDLE && seat->target_ppm && seat->target_ppm < sum) {
                        double part = (double)seat->target_ppm / (double)sum;

                        longest = MIN_OF(
                                longest, (uint64_t)(ARBITER_WINDOW_OFF / (part * (1 - part))));
                }
        }
        for (unsigned i = 0; i + 1 < ARRAY_SIZE(rounds); i++)
                if (wanted <= rounds[i] || longest < rounds[i + 1])
                        return rounds[i];
        return ARBITER_ROUND_MAX;
}

void arb_set_slices(struct arbiter *arbiter, unsigned d)
{
        struct device *device = &arbiter->device[d];
        bool latency = find_latency(arbiter, d);
        unsigned active = 0;
        uint64_t sum = 0, round;

        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->kind == ARBITER_IDLE)
                        continue;
                active++;
                sum += seat->target_ppm;
        }
        /* nobody must wait for slices that were meant for another mode */
        if (latency != device->latency)
                device->urgent = true;
        device->latency = latency;
        device->round_due = round = choose_round(arbiter, d, active, sum);
        if (active == device->active && device->settled < device->round_since + ROUND_STAYS)
                round = device->round;
        if (round != device->round || active != device->active) {
                device->round = round;
                device->round_since = device->settled;
                device->active = active;
        }
        if (device->probed == NONE)
                arb_assign_turns(arbiter, d, round, latency);
        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);
                unsigned groups = seat->sight.groups ? seat->sight.groups : 1;
                uint64_t slice, block = seat->sight.block_ns;

                /* by slices nothing is made up for, nor later what is long ago */
                if (device->probed == NONE && seat->turn == TURN_FREE)
                        seat->lost_ns = 0;
                /* it finds what it had, or the driver's own: nobody is disturbed for it */
                if (seat->kind == ARBITER_IDLE)
                        continue;
                if (device->probed != NONE) {
                        seat->turn = TURN_FREE;
                        slice = device->order[i] == device->probed ? ARBITER_TURN / 1000
                                                                   : PROBE_OTHERS;
                } else if (latency)
                        slice = seat->first ? ARBITER_LONG : ARBITER_SHORT;
                else if (seat->turn == TURN_POOL)
                        slice = ARBITER_FRAME_MAX / POOL_ROUNDS / 1000 * seat->target_ppm / sum;
                else
                        slice = round / 1000 * seat->target_ppm / sum;
                /* blocks: the mode in force stays in force in a band around the limit */
                seat->thread_block_wanted =
                        block > 0 && block * (seat->thread_block ? 40 : 50) <= slice * 1000;
                slice = MAX_OF(slice / groups, (uint64_t)ARBITER_SLICE_MIN);
                if (active > 1 || !seat->slice_us)
                        seat->slice_wanted = quantize(slice);
        }
}
