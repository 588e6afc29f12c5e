/* SPDX-License-Identifier: Apache-2.0 */
/* When records can be done without for a while, and what is taken to be meanwhile. */
#include "base/cleanup.h"
#include "policy/switches_parts.h"

/* Before the first rest, each was cut so often. */
#define WHOLE_FIRST 3u
/* What each has used must be what its slice says, but for so much: with several groups, or on a
 * list of its own, it is not. */
#define REST_OFF 0.05
/* With a round so much longer or shorter all together work as much as before. */
#define ROUND_OFF 0.125
/* Of the runs of one with a backlog, and one more, at most one in so many ends for want of work. */
#define IDLE_PART 6u
/* Who is not seen while all others come so often has no work any more. */
#define ENDS_TELL 2u
/* All have been seen by then, if they are there. */
#define WAKING_MAX (500 * MS)
#define WAKING_LAG (20 * MS)
#define REST_PART  8u /* of the time since anything was seen to change */

/* A queue has nothing for an instant now and then, or seems to. */
void sw_note_end(struct switches *switches, struct switches_owner *owner)
{
        if (owner->end == SWITCHES_CUT && !owner->guessed) {
                owner->whole++;
                owner->fresh++;
        } else if (owner->end != SWITCHES_CUT)
                switches->rest.unsteady |= ++owner->idles * IDLE_PART > owner->whole + IDLE_PART;
}

/* From now on it is seen whether anything changes. */
static void begin_steady(struct switches *switches)
{
        for (uint32_t i = 0; i < switches->free; i++) {
                switches->owner[i].ran_ns = 0;
                switches->owner[i].whole = switches->owner[i].fresh = switches->owner[i].idles = 0;
        }
        switches->rest.steady = switches->now;
        switches->rest.switched = switches->switch_ns;
        switches->rest.learnt = false;
}

/* Has a backlog, and was seen to while all were steady. */
static bool is_backlogged(const struct switches *switches, const struct switches_owner *owner)
{
        return owner->end == SWITCHES_CUT && !owner->disabled &&
               (owner->seen >= switches->rest.steady || owner == switches->holder);
}

/* The slices of all who have a backlog, and what these have used since all are steady: by their
 * runs, as what was in question before may be answered since. */
static double sum_backlogged(const struct switches *switches, uint64_t *ret_used)
{
        double slices = 0;

        *ret_used = 0;
        for (uint32_t i = 0; i < switches->free; i++) {
                const struct switches_owner *owner = &switches->owner[i];

                if (!is_backlogged(switches, owner))
                        continue;
                slices += (double)owner->slice_ns;
                *ret_used += owner->ran_ns;
        }
        return slices;
}

void sw_look_for_changes(struct switches *switches)
{
        uint64_t used;
        double off;

        if (switches->rest.told) {
                off = sum_backlogged(switches, &used) - switches->rest.slices;
                switches->rest.unsteady |=
                        !switches->rest.learnt ||
                        (off < 0 ? -off : off) > ROUND_OFF * switches->rest.slices;
        }
        if (switches->rest.unsteady)
                begin_steady(switches);
        switches->rest.unsteady = switches->rest.told = false;
}

uint64_t switches_may_rest(const struct switches *switches)
{
        unsigned whole = switches->rest.learnt ? 1 : WHOLE_FIRST, count = 0;
        uint64_t used, change = switches->rest.steady;
        double slices;

        if (switches->rest.on || switches->rest.waking || switches->rest.unsteady ||
                switches->rest.told || switches->events > 0 ||
                switches->now < switches->rest.steady + SWITCHES_STEADY)
                return 0;
        slices = sum_backlogged(switches, &used);
        for (uint32_t i = 0; i < switches->free; i++) {
                const struct switches_owner *owner = &switches->owner[i];
                double expected, off;

                if (!is_backlogged(switches, owner)) {
                        if (owner->seen + SWITCHES_STEADY > switches->now)
                                return 0;
                        change = MAX_OF(change, owner->seen);
                        continue;
                }
                change = MAX_OF(change, owner->came);
                if (owner->fresh < whole || owner->slice_ns < SLICE_TELLS)
                        return 0;
                count++;
                expected = (double)used * (double)owner->slice_ns / slices;
                off = (double)owner->ran_ns - expected;
                if (!switches->rest.learnt &&
                        (off < 0 ? -off : off) > REST_OFF * expected + 2 * (double)owner->slice_ns)
                        return 0;
        }
        if (count < SWITCHES_REST_LEAST)
                return 0;
        /* who came or went lately may do so again at any moment */
        return MIN_OF(
                MAX_OF((switches->now - change) / REST_PART, SWITCHES_REST_SHORT), SWITCHES_REST);
}

void switches_rest(struct switches *switches, uint64_t now)
{
        uint64_t length = switches_may_rest(switches);
        double span = (double)(switches->now - switches->rest.steady);
        double slices;
        uint64_t used;

        now = MAX_OF(now, switches->now);
        slices = sum_backlogged(switches, &used);
        if (!switches->rest.learnt && span > 0) {
                switches->rest.work = (double)used / span;
                switches->rest.switching =
                        (double)(switches->switch_ns - switches->rest.switched) / span;
                switches->rest.slices = slices;
                switches->rest.learnt = true;
        }
        for (uint32_t i = 0; i < switches->free; i++) {
                struct switches_owner *owner = &switches->owner[i];

                owner->rate = is_backlogged(switches, owner)
                                      ? switches->rest.work * (double)owner->slice_ns / slices
                                      : 0;
                owner->rested_ns = used_of(owner);
                if (owner == switches->holder)
                        owner->rested_ns -= switches->certain;
                owner->rested = owner->ended;
        }
        switches->rest.on = true;
        switches->rest.until = now + length;
        /* that is as far as the records go */
        switches->rest.from = switches->rest.credited = switches->now;
        sw_let_go(switches, switches->now);
}

void sw_credit(struct switches *switches, uint64_t until)
{
        double span = (double)(until - MIN_OF(switches->rest.credited, until));

        for (uint32_t i = 0; i < switches->free; i++) {
                int64_t ns = (int64_t)(span * switches->owner[i].rate);

                switches->owner[i].sure_ns += ns;
                switches->sure_ns += ns;
        }
        switches->switch_ns += (int64_t)(span * switches->rest.switching);
        switches->rest.credited = MAX_OF(switches->rest.credited, until);
}

/* Each has the engine in strokes, as a rest begins and ends somewhere between two of his: from his
 * last end before to his first one after it he had what he is credited for that time, to the
 * stroke.
 */
void sw_correct_credit(struct switches *switches, struct switches_owner *owner)
{
        int64_t off = owner->rested_ns - used_of(owner), most = (int64_t)(2 * owner->slice_ns);

        off += (int64_t)(owner->rate *
                         (double)(owner->ended - MIN_OF(owner->rested, owner->ended)));
        off = MAX_OF(MIN_OF(off, most), -most);
        owner->sure_ns += off;
        switches->sure_ns += off;
}

bool switches_must_wake(const struct switches *switches, uint64_t now)
{
        return switches->rest.on && (switches->rest.unsteady || switches->rest.told ||
                                            switches->events > 0 || now >= switches->rest.until);
}

void switches_wake(struct switches *switches, uint64_t now)
{
        if (!switches->rest.on && !switches->rest.waking)
                return;
        now = MAX_OF(now, switches->now);
        if (switches->rest.on)
                sw_credit(switches, now);
        sw_let_go(switches, now);
        sw_take_snapshot(switches, now);
        switches->now = now;
        switches->rest.on = false;
        switches->rest.waking = switches->rest.partial = true;
        switches->rest.woken = now;
        for (uint32_t i = 0; i < switches->free; i++)
                switches->owner[i].ends = switches->owner[i].fresh = 0;
}

/* It has run out of work while nothing was recorded, one cannot say when: half of what it was
 * credited then was the others'. */
static void take_back(struct switches *switches, struct switches_owner *gone)
{
        double half = gone->rate * (double)(switches->rest.woken - switches->rest.from) / 2,
               sum = 0;

        for (uint32_t i = 0; i < switches->free; i++)
                sum += &switches->owner[i] != gone ? switches->owner[i].rate : 0;
        gone->rate = 0;
        if (sum <= 0)
                return;
        gone->sure_ns -= (int64_t)half;
        for (uint32_t i = 0; i < switches->free; i++)
                switches->owner[i].sure_ns += (int64_t)(half * switches->owner[i].rate / sum);
}

/* Who was credited and is not there any more. */
void sw_look_for_credited(struct switches *switches)
{
        bool all = true, seen = false, round = true;
        uint64_t longest = 0, since = switches->now - switches->rest.woken;

        for (uint32_t i = 0; i < switches->free; i++) {
                const struct switches_owner *owner = &switches->owner[i];

                seen |= owner->ends > 0 || owner == switches->holder;
                if (owner->rate <= 0 || owner->end != SWITCHES_CUT || owner->disabled)
                        continue;
                longest = MAX_OF(longest, owner->slice_ns + excess(switches, owner) + band(owner));
                if (owner->ends == 0 && owner != switches->holder)
                        all = false;
                else
                        round &= owner->ends >= ENDS_TELL;
        }
        if (!all && !(seen && round) && since < WAKING_MAX &&
                (seen || since < longest + WAKING_LAG))
                return;
        switches->rest.waking = false;
        if (all)
                return;
        /* nobody has been switched to: one has it, or none */
        switches->rest.nobody = !seen;
        switches->rest.unsteady = true;
        for (uint32_t i = 0; i < switches->free; i++) {
                struct switches_owner *owner = &switches->owner[i];

                if (owner->rate <= 0 || owner->end != SWITCHES_CUT || owner->disabled ||
                        owner->ends > 0 || owner == switches->holder)
                        continue;
                owner->end = SWITCHES_IDLE;
                owner->ended = switches->rest.woken;
                take_back(switches, owner);
        }
        if (switches->holder && switches->sure) {
                sw_settle(switches, switches->now);
                switches->sure = sw_is_awaited(switches, switches->holder);
        }
}
