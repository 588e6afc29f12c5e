/* SPDX-License-Identifier: Apache-2.0 */
/* The step: everything that is to be decided at a time, and the calls that follow. */
#include "policy/arbiter_parts.h"

#define CALL_LOST (200 * ARBITER_MS) /* a call not reported back by then is made again */
#define RETRY     (50 * ARBITER_MS)
/* Between calls that set slices, where nobody's terms changed: a round or two; less where a
 * guarantee does not stand. */
#define SET_PAUSE  (100 * ARBITER_MS)
#define SET_FORCED (50 * ARBITER_MS)
/* Of groups lately: from so many on their slices are set, and the hardware's list begun anew, too
 * often; until so few. */
#define COMINGS_MANY 3
#define COMINGS_FEW  1

static bool may_call(const struct seat *seat, enum call call, uint64_t now)
{
        const struct flight *flight = &seat->flight[call];

        if (flight->under_way)
                return now - flight->since >= CALL_LOST;
        return flight->failures == 0 || now - flight->since >= RETRY;
}

struct actions {
        struct arbiter_action *action;
        unsigned count;
};

static void act(struct arbiter *arbiter, struct actions *actions, enum arbiter_act what, unsigned d,
        uint32_t t, uint64_t now)
{
        struct seat *seat = seat_of(arbiter, d, t);
        enum call call = what == ARBITER_SET_SLICE  ? CALL_SLICE
                         : what == ARBITER_SET_MODE ? CALL_MODE
                                                    : CALL_SWITCH;

        seat->flight[call].under_way = true;
        seat->flight[call].since = now;
        seat->flight[call].epoch = seat->epoch;
        actions->action[actions->count++] = (struct arbiter_action){
                .act = what,
                .tenant = arbiter->tenant[t].id,
                .device = d,
                .batch = arbiter->batch,
                .slice_us = what == ARBITER_SET_SLICE ? seat->slice_wanted : 0,
                .thread_block = what == ARBITER_SET_MODE && seat->thread_block_wanted,
        };
}

static void switch_channels(
        struct arbiter *arbiter, unsigned d, struct actions *actions, bool disable, uint64_t now)
{
        const struct device *device = &arbiter->device[d];

        arbiter->batch++;
        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);
                bool is_so = seat->disabled == disable && (disable || !seat->in_part);

                if (seat->disabled_wanted != disable || is_so ||
                        !may_call(seat, CALL_SWITCH, now) || actions->count == ARBITER_MAX_ACTIONS)
                        continue;
                act(arbiter, actions, disable ? ARBITER_DISABLE : ARBITER_ENABLE, d,
                        device->order[i], now);
        }
}

/* So far that a guarantee, its own or another's, would not stand. */
static bool is_far_off(const struct seat *seat)
{
        return seat->kind != ARBITER_IDLE &&
               (seat->slice_us > 2 * seat->slice_wanted || 2 * seat->slice_us < seat->slice_wanted);
}

/* By the slices in force somebody would get less than nine tenths of his guarantee. Who has a turn
 * of his own shares it with nobody. */
static bool breaks_guarantee(struct arbiter *arbiter, unsigned d)
{
        const struct device *device = &arbiter->device[d];
        uint64_t sum = 0;

        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->turn != TURN_FREE)
                        return false;
                sum += seat->kind != ARBITER_IDLE ? slice_in_force(seat) : 0;
        }
        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->kind != ARBITER_IDLE &&
                        slice_in_force(seat) * 1000 <
                                sum * arbiter->tenant[device->order[i]].terms.share * 9)
                        return true;
        }
        return false;
}

/* What is wanted of a tenant's groups and not in force. */
struct change {
        bool slice, mode;
        bool forced;   /* a guarantee, its own or another's, does not stand without it */
        uint64_t cost; /* of what is not under way */
};

static struct change change_of(const struct arbiter *arbiter, const struct seat *seat, bool broken,
        bool guaranteed, uint64_t now)
{
        unsigned groups = seat->sight.groups ? seat->sight.groups : 1;
        struct change ret = {
                .slice = seat->slice_wanted && seat->slice_wanted != seat->slice_us,
                .mode = seat->thread_block_wanted != seat->thread_block,
        };

        ret.forced = ret.slice && (broken || (is_far_off(seat) && guaranteed));
        if (ret.slice && may_call(seat, CALL_SLICE, now))
                ret.cost += groups * arbiter->costs.slice_ns;
        if (ret.mode && may_call(seat, CALL_MODE, now))
                ret.cost += groups * arbiter->costs.slice_ns;
        return ret;
}

/* Each call that sets a slice begins the hardware's list anew, so that who comes late in it waits
 * longer, or for ever if such calls come more often than once in a round. So all that can wait wait
 * until the budget is enough for all of them at once. */
static void set_weights(struct arbiter *arbiter, struct actions *actions, uint64_t now)
{
        for (unsigned d = 0; d < arbiter->devices; d++) {
                struct device *device = &arbiter->device[d];
                bool waiting = false, guaranteed = false, broken = breaks_guarantee(arbiter, d);
                bool forced = false, all;
                uint64_t cost = 0;

                for (unsigned i = 0; i < device->count; i++)
                        guaranteed |= arbiter->tenant[device->order[i]].terms.share > 0 &&
                                      seat_of(arbiter, d, device->order[i])->kind != ARBITER_IDLE;
                for (unsigned i = 0; i < device->count; i++) {
                        struct change change = change_of(arbiter,
                                seat_of(arbiter, d, device->order[i]), broken, guaranteed, now);

                        cost += change.cost;
                        forced |= change.forced;
                }
                forced = forced && now >= device->set + SET_FORCED;
                all = device->urgent || (forced && arbiter->call_budget > 0) ||
                      (now >= device->set + SET_PAUSE &&
                              arbiter->call_budget >= (int64_t)MIN_OF(cost, CALL_CREDIT));
                for (unsigned i = 0; i < device->count; i++) {
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);
                        struct change change = change_of(arbiter, seat, broken, guaranteed, now);

                        arbiter->batch++;
                        if (!change.slice && !change.mode)
                                continue;
                        if ((!all && !(change.forced && forced)) ||
                                actions->count + 2 > ARBITER_MAX_ACTIONS) {
                                waiting = true;
                                continue;
                        }
                        arbiter->call_budget -= (int64_t)change.cost;
                        if (change.slice && may_call(seat, CALL_SLICE, now)) {
                                act(arbiter, actions, ARBITER_SET_SLICE, d, device->order[i], now);
                                device->set = now;
                        }
                        if (change.mode && may_call(seat, CALL_MODE, now))
                                act(arbiter, actions, ARBITER_SET_MODE, d, device->order[i], now);
                        /* what is under way may be of a moment ago, and to be set anew */
                        waiting |= seat->flight[CALL_SLICE].under_way ||
                                   seat->flight[CALL_MODE].under_way;
                }
                if (!waiting)
                        device->urgent = false;
        }
        arbiter->call_budget = MAX_OF(arbiter->call_budget, -(int64_t)CALL_CREDIT);
}

/* Only slices hold, and have held for a while: what is missed for a step costs nobody his part. */
static bool is_steady(const struct arbiter *arbiter, const struct device *device, uint64_t now)
{
        return now > device->changed + ARBITER_STEADY && !device->latency &&
               device->probed == NONE && arbiter->cluster[device->cluster].holder == NONE &&
               device->alone.holder == NONE;
}

/* When to look again if nobody needs it sooner. */
static uint64_t next_look(struct arbiter *arbiter, uint64_t now)
{
        bool used = false;

        for (unsigned d = 0; d < arbiter->devices; d++) {
                const struct device *device = &arbiter->device[d];
                unsigned many = 0;

                for (unsigned i = 0; i < device->count; i++)
                        many += seat_of(arbiter, d, device->order[i])->kind == ARBITER_BACKLOGGED;
                if (device->count > 0 && (many < ARBITER_MANY || !is_steady(arbiter, device, now)))
                        return now + ARBITER_REST;
                used |= device->count > 0;
        }
        return now + (used ? ARBITER_REST_MANY : ARBITER_REST);
}

/* Whether so many groups come and go that slices do not give queues what is theirs. */
static void watch_comings(struct arbiter *arbiter, unsigned d, uint64_t now)
{
        struct device *device = &arbiter->device[d];
        bool restless = arb_comings(device, now) >= (device->restless ? COMINGS_FEW : COMINGS_MANY);

        restless = restless && arb_are_queues(arbiter, d);
        device->stale |= restless != device->restless;
        device->restless = restless;
}

unsigned arbiter_step(struct arbiter *arbiter, uint64_t now, struct arbiter_action *actions)
{
        struct actions list = {.action = actions};
        uint64_t next = next_look(arbiter, now);
        bool stale = false;

        if (now > arbiter->looked) {
                uint64_t span = MIN_OF(now - arbiter->looked, 100 * CALL_CREDIT);

                arbiter->call_budget = MIN_OF((int64_t)CALL_CREDIT,
                        arbiter->call_budget + (int64_t)(span * ARBITER_CALL_SHARE / PPM));
                arbiter->looked = now;
        }
        for (unsigned d = 0; d < arbiter->devices; d++) {
                struct device *device = &arbiter->device[d];

                arb_settle(arbiter, d, now);
                arb_watch_probe(arbiter, d, now);
                for (unsigned i = 0; i < device->count; i++) {
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);

                        arb_notice_rest(arbiter, d, device->order[i], now);
                        arb_judge(arbiter, d, device->order[i], now);
                        if (seat->kind != ARBITER_IDLE && !is_steady(arbiter, device, now))
                                next = MIN_OF(next, now + ARBITER_LOOK);
                        if (device->latency &&
                                arb_owed_to(device, seat, &arbiter->tenant[device->order[i]], now) >
                                        arb_owed_limit(seat, &arbiter->tenant[device->order[i]]))
                                device->stale = true;
                }
                watch_comings(arbiter, d, now);
                if (device->round_due != device->round && now >= device->round_since + ROUND_STAYS)
                        device->stale = true;
                if (device->stale) {
                        arb_set_targets(arbiter, d);
                        arb_set_slices(arbiter, d);
                        device->stale = false;
                        device->changed = now;
                        stale = true;
                }
        }
        if (stale)
                arb_find_clusters(arbiter);
        for (uint32_t t = 0; t < arbiter->top; t++)
                if (arbiter->tenant[t].id && is_capped(&arbiter->tenant[t]))
                        next = MIN_OF(next, arb_watch_cap(arbiter, t, now));
        for (unsigned d = 0; d < arbiter->devices; d++)
                if (arbiter->device[d].cluster == d)
                        next = MIN_OF(next, arb_take_turns(arbiter, &arbiter->cluster[d], now));
        for (unsigned d = 0; d < arbiter->devices; d++) {
                struct device *device = &arbiter->device[d];
                uint32_t holder = arbiter->cluster[device->cluster].holder;
                bool held = false;

                for (unsigned i = 0; holder != NONE && i < device->count; i++)
                        held |= arb_in_row(
                                seat_of(arbiter, d, device->order[i]), device->order[i], holder);
                /* the turn of somebody who is not there */
                if (holder != NONE && !held) {
                        next = MIN_OF(next, arb_take_turns(arbiter, &device->alone, now));
                        holder = device->alone.holder;
                        held = holder != NONE;
                } else
                        device->alone.holder = NONE;
                if (held)
                        next = MIN_OF(next, now + ARBITER_TURN / 4);
                for (unsigned i = 0; i < device->count; i++) {
                        uint32_t t = device->order[i];
                        struct seat *seat = seat_of(arbiter, d, t);

                        /* who is asleep can only be seen to wake up while it is enabled */
                        seat->disabled_wanted =
                                arbiter->tenant[t].capped_off ||
                                (held && seat->turn != TURN_FREE && !arb_in_row(seat, t, holder) &&
                                        !(seat->sight.blind_alone &&
                                                seat->sight.demand == ARBITER_DEMAND_NONE));
                }
        }
        /* First off, then on: the other way round they would meet, and who has the longer kernels
           would have most of that time. Loops of like kernels share it, which is better than an
           engine that is idle. Device by device: one that waits for the calls of all others is
           idle for so long. */
        for (unsigned d = 0; d < arbiter->devices; d++) {
                bool alike = arb_are_like_loops(arbiter, d);

                switch_channels(arbiter, d, &list, !alike, now);
                switch_channels(arbiter, d, &list, alike, now);
        }
        set_weights(arbiter, &list, now);
        arbiter->next = MAX_OF(next, now + NAP_MIN);
        return list.count;
}
