/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "policy/switches_parts.h"

/* Other kernels than those of 0.1 and 5 ms may be cut sooner or later than that: where a slice is
 * so long that a run hardly ends there by chance, anything from the slice's end on is taken for a
 * cut, up to a 64th of the slice later. */
#define SLICE_LONG 2000000u
#define LATE_PART  64u
/* So many runs in a row that are as long as if cut were. */
#define CUTS_TELL 3u
/* So many slices in a row are told by the end of the last. */
#define SLICES_TOLD 64u
/* Records of what a call did may bear times from so long before it began until so long after it
 * returned. */
#define CALL_BEFORE 50000u
#define FREE_TELLS  (2 * MS) /* who can have the engine has it by then */
#define CALL_AFTER  (1 * MS)
/* Who has work when its channels are enabled has the engine by then. */
#define ENABLED_BY  (1500000u)
#define PAUSE_SHORT 276000u    /* two switches */
#define NEWCOMER    (50 * MS)  /* for so long who has just come is taken to work */
#define PAUSE_LONG  (500 * MS) /* it did not only wait for its next slice */
/* Samples and records do not begin and end together: such a part is taken for all. */
#define NEARLY_ALL 970000u
#define OFF_BY     0.06 /* of a sample's time */
#define SAMPLE_OLD (1200 * MS)
#define BUSY_NONE  5000u   /* ppm */
#define BUSY_FULL  900000u /* ppm */

void switches_init(struct switches *switches, const struct switches_costs *costs, uint64_t now)
{
        static const struct switches_costs h100 = SWITCHES_COSTS_H100;

        /* owners are when they come */
        memset(switches, 0, offsetof(struct switches, owner));
        switches->costs = costs ? *costs : h100;
        switches->now = switches->sampled = now;
        switches->rest.unsteady = true;
}

static enum switches_demand demand_of(const struct switches *switches,
        const struct switches_owner *owner, uint64_t at, uint64_t *ret_since);

static struct switches_owner *find(struct switches *switches, uint32_t id)
{
        for (uint32_t i = 0; i < switches->free; i++)
                if (id && switches->owner[i].id == id)
                        return &switches->owner[i];
        return NULL;
}

static struct switches_owner *get(struct switches *switches, uint32_t id, uint64_t now)
{
        struct switches_owner *owner = find(switches, id);

        if (owner)
                return owner;
        if (switches->free < SWITCHES_OWNERS)
                owner = &switches->owner[switches->free++];
        else {
                for (uint32_t i = 0; i < SWITCHES_OWNERS; i++) {
                        struct switches_owner *other = &switches->owner[i];

                        if (other != switches->holder && (!owner || other->seen < owner->seen))
                                owner = other;
                }
                if (switches->last.owner == owner)
                        switches->last.owner = NULL;
        }
        switches->rest.unsteady = true;
        *owner = (struct switches_owner){
                .id = id,
                .seen = now,
                .slice_ns = SWITCHES_SLICE,
                .first = now,
                .since = now,
                .part_ppm = PPM,
                .off_ppm = PPM,
        };
        return owner;
}

/* ---- calls ---- */

static void apply(struct switches *switches, const struct switches_event *event)
{
        struct switches_owner *owner;
        uint64_t since;

        switches->disturbed = true;
        if (event->type == SWITCHES_CALL) {
                switches->called = event->from;
                return;
        }
        owner = get(switches, event->id, event->at);
        switch (event->type) {
        case SWITCHES_CALL:
                return;
        case SWITCHES_SET_SLICE:
                if (owner == switches->holder && event->value != owner->slice_ns) {
                        switches->changed = true;
                        switches->slice_ns = MAX_OF(switches->slice_ns, event->value);
                }
                owner->slice_ns = event->value;
                return;
        case SWITCHES_SET_MODE:
                owner->thread_block = event->value;
                return;
        case SWITCHES_DISABLE:
                /* nothing can be seen of it meanwhile */
                if (!owner->disabled &&
                        demand_of(switches, owner, event->at, &since) == SWITCHES_NONE)
                        owner->asleep = since;
                break;
        case SWITCHES_ENABLE:
                break;
        }
        if (owner->disabled && event->type == SWITCHES_ENABLE)
                question_put(&owner->off, owner->switch_from, event->from);
        owner->disabled = event->type == SWITCHES_DISABLE;
        owner->switch_from = event->from;
        owner->switch_to = event->to;
        /* whoever waited does so no more */
        if (switches->sure && owner->disabled && owner != switches->holder) {
                sw_settle(switches, event->at);
                switches->sure = sw_is_awaited(switches, switches->holder);
        }
}

static void follow_turns(struct switches *switches, struct switches_owner *owner, uint64_t until);

static void apply_until(struct switches *switches, uint64_t until)
{
        unsigned n = 0;

        for (uint32_t i = 0; switches->turning && i < switches->free; i++)
                if (switches->owner[i].turns.period)
                        follow_turns(switches, &switches->owner[i], until + CALL_BEFORE);
        while (n < switches->events && switches->event[n].at <= until)
                apply(switches, &switches->event[n++]);
        switches->events -= n;
        memmove(switches->event, switches->event + n,
                switches->events * sizeof(switches->event[0]));
}

static void push(struct switches *switches, const struct switches_event *event)
{
        unsigned k;

        if (event->type == SWITCHES_DISABLE || event->type == SWITCHES_ENABLE)
                switches->rest.unsteady = true;
        switches->rest.told = true;
        if (switches->events == SWITCHES_EVENTS)
                apply_until(switches, switches->event[0].at);
        k = switches->events++;
        for (; k > 0 && switches->event[k - 1].at > event->at; k--)
                switches->event[k] = switches->event[k - 1];
        switches->event[k] = *event;
}

void switches_call(struct switches *switches, uint64_t at)
{
        const struct switches_event event = {
                .at = at - MIN_OF(at, CALL_BEFORE),
                .type = SWITCHES_CALL,
                .from = at,
        };

        push(switches, &event);
}

void switches_slice(struct switches *switches, uint32_t id, uint64_t at, uint64_t slice_us)
{
        const struct switches_event event = {
                .at = at,
                .id = id,
                .type = SWITCHES_SET_SLICE,
                .value = slice_us ? slice_us * SWITCHES_TICK : SWITCHES_SLICE,
        };

        push(switches, &event);
}

void switches_mode(struct switches *switches, uint32_t id, uint64_t at, bool thread_block)
{
        const struct switches_event event = {
                .at = at,
                .id = id,
                .type = SWITCHES_SET_MODE,
                .value = thread_block,
        };

        push(switches, &event);
}

void switches_off(struct switches *switches, uint32_t id, uint64_t from, uint64_t to, bool disabled)
{
        const struct switches_event event = {
                .at = disabled ? from - MIN_OF(from, CALL_BEFORE) : to,
                .id = id,
                .type = disabled ? SWITCHES_DISABLE : SWITCHES_ENABLE,
                .from = from,
                .to = to,
        };

        push(switches, &event);
}

static void follow_turns(struct switches *switches, struct switches_owner *owner, uint64_t until)
{
        while (owner->turns_seen <= until) {
                uint64_t at = owner->turns_seen, next;
                bool off = cleave_turns_off(&owner->turns, at, &next);

                if (off != owner->turns_off) {
                        owner->turns_off = off;
                        switches_off(switches, owner->id, at, at, off);
                }
                if (next > until)
                        return;
                owner->turns_seen = next;
        }
}

void switches_keep(
        struct switches *switches, uint32_t id, uint64_t at, const struct cleave_turns *turns)
{
        struct switches_owner *owner = get(switches, id, at);

        at = MAX_OF(at, owner->turns_seen);
        follow_turns(switches, owner, at);
        owner->turns = *turns;
        owner->turns_seen = at;
        follow_turns(switches, owner, at);
        switches->turning = 0;
        for (uint32_t i = 0; i < switches->free; i++)
                switches->turning += switches->owner[i].turns.period != 0;
}

/* ---- slices ---- */

/* Whoever began to wait before this moment would have the engine by now, did he still wait; 0: such
 * a moment cannot be told. The phase of the slices is not relied on: calls may begin them anew. */
static uint64_t last_unwanted(const struct switches *switches, uint64_t now)
{
        const struct switches_owner *holder = switches->holder;
        uint64_t slice, begun = switches->begun;

        if (switches->rest.on || switches->rest.partial)
                return 0;
        if (!holder)
                return switches->freed && now > switches->freed + CALL_AFTER ? now : 0;
        /* a call that sets a slice gives the first in the list a new one, also if that has it */
        if (switches->disturbed && switches->called)
                begun = MAX_OF(begun, switches->called + CALL_AFTER);
        slice = switches->slice_ns + excess(switches, holder) + band(holder);
        return now > begun + slice ? now - slice : 0;
}

/* ---- account ---- */

/* Somebody else waits for as long as this one has the engine, and that is not only guessed. */
bool sw_is_awaited(const struct switches *switches, const struct switches_owner *owner)
{
        for (uint32_t i = 0; i < switches->free; i++) {
                const struct switches_owner *other = &switches->owner[i];

                if (other != owner && other->end == SWITCHES_CUT && !other->guessed &&
                        !other->disabled)
                        return true;
        }
        return false;
}

static void forget_waiting(
        struct switches *switches, const struct switches_owner *owner, uint64_t now)
{
        for (uint32_t i = 0; i < switches->free; i++) {
                struct switches_owner *other = &switches->owner[i];

                if (other != owner && other->end == SWITCHES_CUT && !other->disabled) {
                        switches->rest.unsteady = true;
                        other->end = SWITCHES_IDLE;
                        other->ended = MIN_OF(last_unwanted(switches, now), now);
                }
        }
}

/* In question; what has been so for too long is taken for what the rest of it was. */
static void ask(struct switches_owner *owner, uint64_t from, uint64_t to)
{
        int64_t lost = question_put(&owner->question, from, to);

        owner->judged_ns += (int64_t)((double)lost * owner->part_ppm / PPM);
}

/* More or less of the time between these two is sure than was thought. */
static void correct(struct switches *switches, uint64_t from, uint64_t to, int64_t ns)
{
        unsigned count = MIN_OF(switches->snapshots, SWITCHES_SNAPSHOTS);

        switches->holder->sure_ns += ns;
        switches->sure_ns += ns;
        for (unsigned i = 1; i <= count; i++) {
                struct switches_snapshot *snapshot =
                        &switches->snapshot[(switches->snapshots - i) % SWITCHES_SNAPSHOTS];

                if (snapshot->at <= from)
                        return;
                snapshot->sure_ns +=
                        snapshot->at >= to ? ns
                                           : (int64_t)((double)ns * (double)(snapshot->at - from) /
                                                       (double)(to - from));
        }
}

void sw_settle(struct switches *switches, uint64_t until)
{
        struct switches_owner *owner = switches->holder;

        if (!owner || until <= switches->settled)
                return;
        if (switches->sure && last_unwanted(switches, until)) {
                /* whoever was taken to wait has gone, or had nothing to do */
                uint64_t from = switches->settled - (uint64_t)switches->certain;

                switches->sure = false;
                forget_waiting(switches, owner, until);
                correct(switches, from, switches->settled, -switches->certain);
                ask(owner, from, switches->settled);
                switches->certain = 0;
        }
        if (switches->sure) {
                owner->sure_ns += (int64_t)(until - switches->settled);
                switches->sure_ns += (int64_t)(until - switches->settled);
                switches->certain += (int64_t)(until - switches->settled);
        } else
                ask(owner, switches->settled, until);
        switches->settled = until;
}

/* The end of a run was switching. */
static void take_off(struct switches *switches, uint64_t from, uint64_t to)
{
        int64_t ns = (int64_t)(to - from);
        int64_t rest = ns - question_take(&switches->holder->question, from, to);

        switches->holder->sure_ns -= rest;
        switches->sure_ns -= rest;
        switches->switch_ns += ns;
}

/* Between records the sums go on evenly, so that these moments are enough. */
void sw_take_snapshot(struct switches *switches, uint64_t at)
{
        const struct switches_snapshot *newest =
                &switches->snapshot[(switches->snapshots - 1) % SWITCHES_SNAPSHOTS];

        if (switches->snapshots && at < newest->at + SWITCHES_STEP)
                return;
        switches->snapshot[switches->snapshots++ % SWITCHES_SNAPSHOTS] = (struct switches_snapshot){
                .at = at,
                .sure_ns = switches->sure_ns,
                .switch_ns = switches->switch_ns,
        };
}

/* ---- records ---- */

enum place {
        INSIDE, /* of a slice */
        AT_END,
        UNTOLD,
        ROOM_MADE, /* elsewhere, when another came who had been kept off */
};

/* Where a run of that length ended, by its slices. */
static enum place place_of_end(
        const struct switches *switches, const struct switches_owner *owner, uint64_t length)
{
        bool is_long = owner->slice_ns >= SLICE_LONG;
        uint64_t early = is_long ? excess(switches, owner) : EARLY;
        uint64_t width = early + band(owner) + (is_long ? owner->slice_ns / LATE_PART : 0);
        uint64_t least = owner->slice_ns + excess(switches, owner) - early;
        uint64_t slices;

        if (length < least)
                return INSIDE;
        /* a call may have begun it anew */
        if (length > least + width && switches->disturbed && switches->called &&
                switches->begun + length <= switches->called + CALL_AFTER + least + width)
                return UNTOLD;
        slices = (length - least) / owner->slice_ns + 1;
        /* a call may begin them anew */
        if (slices > 1 && switches->disturbed)
                return UNTOLD;
        /* of the shortest each moment is one where such a run may end */
        if (owner->slice_ns <= width)
                return AT_END;
        if (slices > SLICES_TOLD)
                return UNTOLD;
        return (length - least) % owner->slice_ns <= width ? AT_END : INSIDE;
}

/* The engine was idle while the owner could have had it. */
static bool was_idle_lately(const struct switches *switches, const struct switches_owner *owner)
{
        return switches->busy_from > 0 && switches->sampled + SAMPLE_OLD > switches->now &&
               switches->busy_ppm + owner->off_ppm < BUSY_FULL;
}

/* Where it cannot be told: as it ended when that was to be seen last. */
static enum switches_end as_before(struct switches_owner *owner)
{
        owner->guessed = true;
        return owner->told == SWITCHES_IDLE || owner->part_ppm < PPM / 2 ? SWITCHES_IDLE
                                                                         : SWITCHES_CUT;
}

/* Somebody else was enabled just then, which disturbs nobody: who has no work makes room for him,
 * wherever in a slice that is, and does so again and again if caps and programs are in step. */
static bool has_made_room(
        const struct switches *switches, const struct switches_owner *owner, uint64_t at)
{
        for (uint32_t i = 0; i < switches->free; i++) {
                const struct switches_owner *other = &switches->owner[i];

                if (other != owner && !other->disabled && other->switch_from > switches->begun &&
                        other->switch_from >= switches->called && at >= other->switch_from &&
                        at <= other->switch_to + CALL_AFTER)
                        return owner->slice_ns >= 4 * CALL_AFTER;
        }
        return false;
}

static enum switches_end how_ended(const struct switches *switches, struct switches_owner *owner,
        uint64_t at, enum place place)
{
        owner->guessed = false;
        if (owner->switch_from && at + CALL_BEFORE >= owner->switch_from &&
                (owner->disabled || at <= owner->switch_to) && at <= owner->switch_to + CALL_AFTER)
                return SWITCHES_OFF;
        /* which slice it had is not known */
        if (switches->changed)
                return as_before(owner);
        switch (place) {
        case ROOM_MADE:
                return SWITCHES_IDLE;
        case INSIDE:
                if (switches->called && at + CALL_BEFORE >= switches->called &&
                        at <= switches->called + CALL_AFTER)
                        return as_before(owner);
                return SWITCHES_IDLE;
        case AT_END:
                /* nobody waits all the time for an engine that is idle now and then */
                if (owner->slice_ns < SLICE_TELLS && was_idle_lately(switches, owner))
                        return SWITCHES_IDLE;
                /* by chance, others end so too, but hardly twice */
                return owner->end == SWITCHES_IDLE && !switches->sure && owner->cuts == 0
                               ? SWITCHES_IDLE
                               : SWITCHES_CUT;
        default:
                return as_before(owner);
        }
}

/* Its last run hardly ended for want of work: who is disabled is taken to have had work as when his
 * runs ended otherwise; who has just come has come to work. */
static bool is_firm(const struct switches_owner *owner)
{
        if (owner->end == SWITCHES_OFF)
                return owner->told != SWITCHES_IDLE;
        return owner->end == SWITCHES_CUT &&
               (!owner->guessed || owner->told == SWITCHES_CUT ||
                       (owner->told == SWITCHES_NEVER && owner->ended < owner->first + NEWCOMER));
}

/* Its end says how those runs end that are ended by force. One kernel is cut by many slices of the
 * shortest, which says nothing of longer ones. */
static bool tells(const struct switches_owner *owner)
{
        if (owner->end == SWITCHES_OFF || owner->guessed)
                return false;
        return owner->end == SWITCHES_IDLE || owner->told == SWITCHES_NEVER ||
               owner->slice_ns >= SLICE_TELLS || owner->cuts * owner->slice_ns >= SLICE_LONG;
}

/* Where it has the engine alone its pauses do not show, so that only the shortest of what is seen
 * without one tells: one in sixteen or so is shorter than this. */
static void note_burst(struct switches_owner *owner, uint64_t ran)
{
        uint64_t burst = owner->burst_ns += ran;

        if (owner->end != SWITCHES_IDLE)
                return;
        owner->burst_ns = 0;
        if (owner->guessed)
                return;
        if (!owner->short_ns)
                owner->short_ns = burst;
        else if (burst < owner->short_ns)
                owner->short_ns -= (owner->short_ns - burst) / 4;
        else
                owner->short_ns += MIN_OF((burst - owner->short_ns) / 64, owner->short_ns / 16);
}

static void end_run(struct switches *switches, uint64_t at)
{
        struct switches_owner *owner = switches->holder;
        const struct switches_costs *costs = &switches->costs;
        uint64_t over, from, unit = switches->slice_ns;
        enum place place = place_of_end(switches, owner, at - switches->begun);

        if (has_made_room(switches, owner, at))
                place = place == AT_END ? UNTOLD : ROOM_MADE;
        sw_settle(switches, at);
        owner->end = how_ended(switches, owner, at, place);
        owner->made_room = place == ROOM_MADE;
        sw_note_end(switches, owner);
        owner->cuts = place == AT_END ? owner->cuts + 1 : 0;
        if (tells(owner))
                owner->told = owner->end;
        over = owner->end == SWITCHES_CUT   ? excess(switches, owner)
               : owner->end == SWITCHES_OFF ? costs->off_ns
                                            : costs->idle_ns;
        over = MIN_OF(over, at - switches->begun);
        owner->ended = at - over;
        owner->seen = at;
        note_burst(owner, owner->ended - switches->begun);
        owner->ran_ns +=
                owner->ended - MIN_OF(MAX_OF(switches->begun, switches->rest.steady), owner->ended);
        switches->last.owner = owner;
        switches->last.left = owner->ended;
        switches->last.before = owner->ended > switches->begun + switches->slice_ns + band(owner)
                                        ? owner->ended - switches->slice_ns - band(owner)
                                        : 0;
        take_off(switches, owner->ended, at);
        /* it had work when it was cut; how long before is not known, but hardly less */
        if (owner->end == SWITCHES_CUT && !owner->guessed) {
                from = owner->ended - MIN_OF(unit, owner->ended - switches->begun);
                correct(switches, from, owner->ended,
                        question_take(&owner->question, from, owner->ended));
        }
        if (owner->ends++ == 0 && owner->rate > 0 && owner->end == SWITCHES_CUT &&
                !switches->rest.unsteady && switches->rest.steady < switches->rest.woken)
                sw_correct_credit(switches, owner);
        sw_take_snapshot(switches, at);
        owner->last_from = switches->begun;
        owner->last_to = owner->ended;
        if (is_firm(owner))
                question_firm(&owner->question, owner->last_from, owner->last_to);
        /* whatever it did before, by now it has work for all of its slices */
        if (owner->cuts >= CUTS_TELL && owner->slice_ns >= SLICE_TELLS)
                owner->part_ppm = PPM;
        switches->holder = NULL;
        switches->freed = at;
}

/* It has run out of work at owner->ended and had some again between these times. */
static void end_pause(struct switches_owner *owner, uint64_t least, uint64_t most)
{
        least = MAX_OF(least, owner->ended);
        most = MAX_OF(most, least);
        /* it came back at once: if it paused at all, it was not for having been idle long; unless
           a call has ended its run, in the midst of a long pause */
        if (most < owner->ended + PAUSE_SHORT && !owner->guessed && !owner->made_room)
                question_firm(&owner->question, owner->last_from, owner->last_to);
        owner->starts++;
        owner->pause_ns += least - owner->ended;
        owner->doubt_ns += most - least;
        owner->since = least;
}

static void hold(struct switches *switches, struct switches_owner *owner, uint64_t from)
{
        switches->holder = owner;
        switches->begun = switches->settled = from;
        switches->slice_ns = owner->slice_ns;
        switches->changed = switches->disturbed = false;
        switches->certain = 0;
        switches->sure = false;
}

static void start_run(struct switches *switches, struct switches_owner *owner, uint64_t at)
{
        uint64_t latest = at - MIN_OF(switches->costs.restore_ns, at);
        bool followed = switches->last.owner && switches->last.owner != owner &&
                        switches->last.left >= owner->ended &&
                        at < switches->freed + 4 * switches->costs.restore_ns;

        if (switches->freed)
                switches->switch_ns +=
                        (int64_t)MIN_OF(switches->costs.restore_ns, at - switches->freed);
        sw_take_snapshot(switches, at);
        if (owner->end == SWITCHES_IDLE && owner->seen + PAUSE_LONG < at)
                owner->came = at;
        switches->rest.unsteady |= owner->end != SWITCHES_CUT && owner->seen + SWITCHES_STEADY < at;
        switch (owner->end) {
        case SWITCHES_IDLE:
                /* while it was disabled, that somebody else had the engine told nothing */
                if (followed)
                        end_pause(owner,
                                owner->switch_to > owner->ended &&
                                                switches->last.before < owner->switch_to
                                        ? owner->ended
                                        : switches->last.before,
                                MIN_OF(switches->last.left, latest));
                else
                        end_pause(owner, owner->ended, latest);
                break;
        case SWITCHES_OFF:
                if (owner->disabled || at <= owner->switch_to + ENABLED_BY)
                        break; /* it was kept from work that it had */
                if (!followed)
                        end_pause(owner, latest, latest);
                else if (switches->last.before > owner->switch_to)
                        end_pause(owner, switches->last.before, switches->last.left);
                break;
        case SWITCHES_NEVER:
                owner->starts++;
                break;
        case SWITCHES_CUT:
                break;
        }
        hold(switches, owner, at);
        owner->asleep = 0;
        switches->sure = sw_is_awaited(switches, owner);
        owner->seen = at;
}

void switches_record(struct switches *switches, uint32_t id, uint64_t at, bool start)
{
        struct switches_owner *owner;

        apply_until(switches, at);
        owner = get(switches, id, at);
        /* the clocks' offset is found anew now and then */
        at = MAX_OF(at, MAX_OF(switches->freed, switches->settled));
        switches->rest.nobody = false;
        if (start) {
                switches->rest.partial = false;
                if (switches->holder && switches->holder != owner)
                        end_run(switches, at);
                if (!switches->holder)
                        start_run(switches, owner, at);
                return;
        }
        if (switches->holder != owner) {
                /* the run began before the first record, or that was lost */
                hold(switches, owner, MAX_OF(switches->freed, MIN_OF(switches->now, at)));
                /* of how it ended its length tells nothing; the others wait as before */
                if (switches->rest.partial) {
                        switches->changed = true;
                        switches->sure = sw_is_awaited(switches, owner);
                }
        }
        switches->rest.partial = false;
        end_run(switches, at);
}

void sw_let_go(struct switches *switches, uint64_t now)
{
        sw_settle(switches, now);
        switches->holder = NULL;
        switches->last.owner = NULL;
        switches->sure = false;
        switches->freed = now;
}

void switches_lost(struct switches *switches, uint64_t now)
{
        sw_let_go(switches, now);
        switches->rest.unsteady = true;
}

/* ---- samples ---- */

/* Who did not take the engine when he could have it has no work, whoever has it next. */
static void forget_absent(struct switches *switches)
{
        if (switches->holder || !switches->last.owner || switches->rest.on ||
                switches->rest.partial)
                return;
        for (uint32_t i = 0; i < switches->free; i++) {
                struct switches_owner *owner = &switches->owner[i];
                uint64_t since = MAX_OF(switches->freed, owner->switch_to);

                if ((owner->end != SWITCHES_CUT && owner->end != SWITCHES_OFF) || owner->disabled ||
                        switches->now < since + FREE_TELLS)
                        continue;
                switches->rest.unsteady = true;
                owner->end = SWITCHES_IDLE;
                owner->guessed = false;
                owner->ended = since;
        }
}

void switches_look(struct switches *switches, uint64_t now)
{
        if (now < switches->now)
                return;
        if (switches->rest.on)
                sw_credit(switches, now);
        apply_until(switches, now);
        switches->now = now;
        sw_settle(switches, now);
        sw_take_snapshot(switches, now);
        if (switches->rest.waking)
                sw_look_for_credited(switches);
        forget_absent(switches);
        if (!switches->rest.on)
                sw_look_for_changes(switches);
}

/* What the sums were at that time. */
static bool look_back(const struct switches *switches, uint64_t at, struct switches_snapshot *ret)
{
        const struct switches_snapshot now = {
                .at = switches->now,
                .sure_ns = switches->sure_ns,
                .switch_ns = switches->switch_ns,
        };
        const struct switches_snapshot *b = &now;
        unsigned count = MIN_OF(switches->snapshots, SWITCHES_SNAPSHOTS);

        for (unsigned i = 1; i <= count; i++) {
                const struct switches_snapshot *a =
                        &switches->snapshot[(switches->snapshots - i) % SWITCHES_SNAPSHOTS];
                double part;

                if (at > b->at)
                        return false;
                if (at < a->at || b->at == a->at) {
                        b = a;
                        continue;
                }
                part = (double)(at - a->at) / (double)(b->at - a->at);
                ret->sure_ns = a->sure_ns + (int64_t)(part * (double)(b->sure_ns - a->sure_ns));
                ret->switch_ns =
                        a->switch_ns + (int64_t)(part * (double)(b->switch_ns - a->switch_ns));
                return true;
        }
        return false;
}

/* What is in question is taken to be as it was lately. */
static int64_t used_by(const struct switches_owner *owner)
{
        return owner->sure_ns + owner->judged_ns +
               (int64_t)((double)owner->question.ns * owner->part_ppm / PPM);
}

/* Of what is in question between these two times so much was work; of runs that ended by force not
 * less than that part. */
static void judge(struct switches *switches, uint64_t from, uint64_t to, double work, double least)
{
        int64_t loose[SWITCHES_OWNERS], firm[SWITCHES_OWNERS];
        double sum = 0, firms = 0, firm_part, rest_part, off_by;

        for (uint32_t i = 0; i < switches->free; i++) {
                struct switches_owner *owner = &switches->owner[i];

                /* a run that goes on is taken to end as the one before */
                if (owner == switches->holder && is_firm(owner))
                        question_firm(&owner->question, switches->begun, switches->settled);
                loose[i] = question_sum(&owner->question, from, to, &firm[i]);
                sum += (double)loose[i];
                firms += (double)firm[i];
        }
        if (sum <= 0)
                return;
        work = MIN_OF(MAX_OF(work, 0.0), sum);
        firm_part = firms > 0 ? MAX_OF(MIN_OF(1.0, work / firms), MIN_OF(1.0, least)) : 0;
        off_by = OFF_BY * (double)(to - from);
        rest_part = sum > firms ? MAX_OF(work - firms * firm_part, 0.0) / (sum - firms) : 0;
        for (uint32_t i = 0; i < switches->free; i++) {
                struct switches_owner *owner = &switches->owner[i];
                double given =
                        (double)firm[i] * firm_part + (double)(loose[i] - firm[i]) * rest_part;
                double part, trust;
                int64_t before = used_by(owner);

                if (loose[i] == 0)
                        continue;
                part = given / (double)loose[i];
                /* what is off by a little of the sample is off by much of the little that was in
                   question of one owner */
                trust = (double)loose[i] * (double)loose[i];
                trust /= trust + off_by * off_by;
                part = trust * part + (1 - trust) * owner->part_ppm / PPM;
                question_answer(&owner->question, from, to);
                owner->judged_ns += (int64_t)((double)loose[i] * part);
                if ((double)loose[i] > sum / 10) {
                        owner->part_ppm = (uint32_t)(part * PPM);
                        owner->sampled = true;
                }
                owner->corrected_ns += used_by(owner) - before;
        }
}

/* What part of that time an owner was disabled, or not there. */
static uint32_t off_part(const struct switches_owner *owner, uint64_t from, uint64_t to)
{
        int64_t firm, off = question_sum(&owner->off, from, to, &firm);

        if (owner->first > from)
                off += (int64_t)(MIN_OF(owner->first, to) - from);
        if (owner->disabled && owner->switch_from < to)
                off += (int64_t)(to - MAX_OF(owner->switch_from, from));
        return (uint32_t)MIN_OF((uint64_t)off * PPM / (to - from), (uint64_t)PPM);
}

void switches_busy(
        struct switches *switches, uint64_t from, uint64_t to, uint64_t busy_ns, uint32_t id)
{
        struct switches_snapshot a, b;
        int64_t loose = 0, firm, sure, switching;
        double work, least;

        if (from < switches->sampled)
                from = switches->sampled;
        if (to <= from)
                return;
        switches->sampled = to;
        switches->busy_ppm = (uint32_t)MIN_OF(busy_ns * PPM / (to - from), (uint64_t)PPM);
        switches->busy_from = from;
        for (uint32_t i = 0; i < switches->free; i++)
                switches->owner[i].off_ppm = off_part(&switches->owner[i], from, to);
        /* nobody has been seen to come: it was there before us */
        if (!switches->holder && !switches->freed && id && busy_ns > 0) {
                hold(switches, get(switches, id, from), from);
                switches->holder->first = switches->holder->since = from;
                switches->holder->sure_ns += (int64_t)busy_ns;
                switches->holder->part_ppm = switches->busy_ppm;
                /* later samples are of what comes after this one: no sum holds anything before */
                switches->settled = to;
                sw_settle(switches, switches->now);
                return;
        }
        /* it has had it since before anything was recorded again */
        if (switches->rest.nobody && from >= switches->rest.woken && (id || busy_ns == 0)) {
                switches->rest.nobody = switches->rest.partial = false;
                if (id) {
                        hold(switches, get(switches, id, from), switches->rest.woken);
                        switches->changed = true;
                        sw_settle(switches, switches->now);
                }
        }
        /* records may lag behind samples a little */
        if (!look_back(switches, from, &a) || to > switches->now + 20 * MS ||
                !look_back(switches, MIN_OF(to, switches->now), &b))
                return;
        for (uint32_t i = 0; i < switches->free; i++)
                loose += question_sum(&switches->owner[i].question, from, to, &firm);
        if (loose < (int64_t)(to - from) / 100)
                return;
        sure = b.sure_ns - a.sure_ns;
        switching = b.switch_ns - a.switch_ns;
        work = (double)((int64_t)busy_ns - switching - sure);
        if (work > (double)loose * NEARLY_ALL / PPM)
                work = (double)loose;
        /* what is too much in what was taken to be sure is not all taken off the rest */
        least = (double)((int64_t)busy_ns - switching) / (double)(sure + loose);
        judge(switches, from, to, work, MAX_OF(least, 0.0));
}

uint64_t switches_wants_busy(const struct switches *switches)
{
        bool loose = false, off = false;

        if ((!switches->freed && !switches->holder) || switches->rest.nobody)
                return SWITCHES_ASK_FIRST;
        for (uint32_t i = 0; i < switches->free; i++) {
                const struct switches_owner *owner = &switches->owner[i];

                loose |= owner->question.ns > (int64_t)MS || owner->slice_ns < SLICE_TELLS;
                off |= owner->switch_from && owner->switch_from + SAMPLE_OLD > switches->now;
        }
        return !loose ? 0 : off ? SWITCHES_ASK_OFTEN : SWITCHES_ASK;
}

/* ---- what is told ---- */

/* At a time up to which all records have come. */
static enum switches_demand demand_of(const struct switches *switches,
        const struct switches_owner *owner, uint64_t at, uint64_t *ret_since)
{
        uint64_t unwanted = last_unwanted(switches, at);

        *ret_since = owner->since;
        if (owner == switches->holder) {
                bool fresh = switches->sampled + SAMPLE_OLD > at &&
                             switches->busy_from >= switches->begun;

                if (switches->sure)
                        return SWITCHES_WORK;
                if (fresh && switches->busy_ppm <= BUSY_NONE) {
                        *ret_since = switches->busy_from;
                        return SWITCHES_NONE;
                }
                return fresh && switches->busy_ppm >= BUSY_FULL ? SWITCHES_WORK : SWITCHES_UNKNOWN;
        }
        if (owner->asleep) {
                *ret_since = owner->asleep;
                return SWITCHES_NONE;
        }
        switch (owner->end) {
        case SWITCHES_CUT:
                return SWITCHES_WORK;
        case SWITCHES_IDLE:
                /* while it is disabled, that others have the engine for so long tells nothing */
                if (owner->disabled || unwanted <= owner->ended ||
                        (owner->switch_to > owner->ended &&
                                unwanted <= owner->switch_to + CALL_AFTER))
                        return SWITCHES_UNKNOWN;
                *ret_since = owner->ended;
                return SWITCHES_NONE;
        case SWITCHES_OFF:
                if (owner->disabled || unwanted <= owner->switch_to + CALL_AFTER)
                        return SWITCHES_UNKNOWN;
                *ret_since = owner->switch_to;
                return SWITCHES_NONE;
        default:
                return SWITCHES_NONE;
        }
}

int switches_sight(struct switches *switches, uint32_t id, struct switches_sight *ret)
{
        struct switches_owner *owner = find(switches, id);
        uint64_t idle = 0, seen = switches->now;
        int64_t used;

        if (!owner || (owner->end == SWITCHES_NEVER && owner != switches->holder))
                return -ENOENT;
        used = used_by(owner);
        owner->shown_ns = (uint64_t)MAX_OF((int64_t)owner->shown_ns,
                owner->sampled ? used : owner->sure_ns + owner->judged_ns);
        ret->counted_ns = owner->shown_ns;
        ret->used_ns = (uint64_t)MAX_OF(used, (int64_t)0);
        ret->corrected_ns = owner->corrected_ns;
        ret->demand = demand_of(switches, owner, switches->now, &ret->since);
        /* what it wants while it is disabled is not to be seen */
        if (owner->asleep)
                seen = MIN_OF(owner->switch_from, seen);
        if (ret->demand == SWITCHES_NONE)
                idle = seen - MIN_OF(ret->since, seen);
        ret->starts = owner->starts;
        ret->wanted_ns = switches->now - owner->first;
        ret->wanted_ns -= MIN_OF(ret->wanted_ns, owner->pause_ns + idle);
        ret->doubt_ns = owner->doubt_ns + (switches->now - seen);
        ret->short_ns = owner->short_ns;
        return 0;
}
