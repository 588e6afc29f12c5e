/* SPDX-License-Identifier: Apache-2.0 */
/* What kind of user each tenant is: with a backlog, a loop, or one that comes and goes. */
#include "policy/arbiter_parts.h"

#define WAITS_PART    8u /* of the time: who waits for less need not be one with work */
#define STREAK        5u
#define STREAK_FIRST  3u
#define STRAY_PART    4u /* of a window, without work at most */
#define LOOP_STEADY   (500 * ARBITER_MS)
#define FILL_LITTLE   400000u /* ppm of its turns; 10 us + synchronize fill 0.55 */
#define FILL_ALL      970000u
#define FILL_MOST     700000u
#define ALONE_MUCH    600000u /* less, and it may come and go */
#define KEEPS_MAYBE   4u
#define RESTS         (2 * ARBITER_MS) /* since its last launch */
#define UNTOLD_STARTS 3u
#define UNTOLD_FOR    (10000 * ARBITER_MS)
#define LATELY        (1000 * ARBITER_MS)
#define FIRST_STARTS  2
#define SERVED        95   /* percent of what it is due */
#define SLICES_MOST   100. /* of the shortest there are many, which tell no more for long */
#define QUEUE_AFTER   (300 * ARBITER_MS)

static void set_kind(struct arbiter *arbiter, unsigned d, struct seat *seat, enum arbiter_kind kind)
{
        seat->settled_kind = true;
        if (seat->kind == kind)
                return;
        seat->kind = kind;
        seat->lately_used = seat->lately_offered = 0;
        arbiter->device[d].stale = true;
}

/* With an unknown pause, whether a tenant that does not fill its slices would fill a turn. */
static enum arbiter_kind judge_by_trial(
        struct arbiter *arbiter, unsigned d, struct seat *seat, uint64_t now)
{
        bool full = seat->fill_ppm >= 700000;

        if (seat->trial && seat->turn == TURN_OWN) {
                if (full) {
                        /* now and then, see whether slices would do */
                        if (now < seat->trial_at)
                                return ARBITER_SYNCHRONOUS;
                        seat->trial = false;
                        seat->trial_at = now;
                        return ARBITER_BACKLOGGED;
                }
                seat->trial = false;
                seat->trial_at = now + seat->trial_pause;
                seat->trial_pause = MIN_OF(2 * seat->trial_pause, ARBITER_TRIAL_MAX);
                return ARBITER_SPORADIC;
        }
        if (seat->fill_ppm >= 850000)
                return ARBITER_BACKLOGGED;
        if (now >= seat->trial_at && arbiter->device[d].count > 1 &&
                seat->sight.precision_ns <= ARBITER_MS) {
                seat->trial = true;
                seat->trial_at = now + ARBITER_TRIAL_MAX;
                return ARBITER_SYNCHRONOUS;
        }
        return ARBITER_SPORADIC;
}

/* What part of its time a tenant that has work would use if it waited for nobody. */
double arb_busy_part(const struct seat *seat)
{
        if (seat->kind == ARBITER_BACKLOGGED)
                return 1;
        if (seat->kind != ARBITER_SYNCHRONOUS)
                return 0;
        /* where pauses are not seen, it was found out that it fills its turns so far */
        return seat->run_ns ? (double)seat->run_ns / (double)(seat->run_ns + seat->pause_ns)
                            : (double)seat->fill_ppm / PPM;
}

/* What a guarantee is of a span: of the time that is given out, and of a loop without its own
 * pauses. */
int64_t arb_due_of(const struct device *device, const struct seat *seat,
        const struct tenant *tenant, uint64_t span)
{
        double due = (double)part_of(span, tenant->terms.share);

        due *= (double)(PPM - device->switching_ppm) / PPM;
        if (seat->kind == ARBITER_SYNCHRONOUS)
                due *= arb_busy_part(seat);
        return (int64_t)due;
}

/* Between two moments without work, if these are such at all, it has had the engine for several of
 * its slices. Not all that was seen of one who has just begun was his running out of work. */
static bool is_mostly_cut(const struct seat *seat)
{
        return seat->lately_slices > 3 * (seat->lately_starts - FIRST_STARTS);
}

bool arb_is_queue(const struct seat *seat, uint64_t now)
{
        return seat->kind == ARBITER_BACKLOGGED && seat->settled_kind &&
               now >= seat->queued_since + QUEUE_AFTER &&
               (!seat->sight.starts_known || is_mostly_cut(seat));
}

/* What part of its time it uses while nobody else is there: from what is measured alone, as what is
 * predicted follows from this. */
static void learn_alone(struct seat *seat, uint64_t used, uint64_t offered)
{
        int64_t known = (int64_t)(used + seat->mark.predicted_ns - seat->account.predicted_ns);
        int64_t of = (int64_t)(offered + seat->mark.ahead_ns - arb_ahead(seat));
        uint64_t fill;

        if (of <= 0)
                return;
        fill = MIN_OF((uint64_t)MAX_OF(known, (int64_t)0) * PPM / (uint64_t)of, (uint64_t)PPM);
        seat->alone_ppm = fill > ALONE_MUCH
                                  ? PPM
                                  : MAX_OF((uint32_t)fill, seat->alone_ppm - seat->alone_ppm / 4);
}

/* Not in one window only: what a sample of the engine corrects is of up to a second before. */
static bool fills_all(const struct seat *seat)
{
        return seat->fill_ppm > FILL_ALL &&
               seat->lately_used * PPM > seat->lately_offered * FILL_ALL;
}

/* One that has been a loop for long is one after a window, too, some ms of which its host has kept
 * it from going on. It was one last until something else is seen: that one who is alone or has his
 * turn does not pause says nothing. */
static enum arbiter_kind keep_loop(
        struct seat *seat, enum arbiter_kind kind, bool seen, bool may_stray, uint64_t now)
{
        bool steady, strays;

        if (seat->kind != ARBITER_SYNCHRONOUS)
                seat->loop_since = now;
        steady = now >= seat->loop_since + LOOP_STEADY;
        strays = kind == ARBITER_SPORADIC && steady && may_stray;
        if (strays && !seat->strayed)
                kind = ARBITER_SYNCHRONOUS;
        seat->strayed = strays;
        if (kind == ARBITER_SYNCHRONOUS && (seen || seat->turn == TURN_OWN))
                seat->loop_seen = now;
        if (kind == ARBITER_SYNCHRONOUS)
                seat->was_loop = seat->was_loop || steady;
        else if (kind == ARBITER_IDLE || (kind == ARBITER_BACKLOGGED && seen))
                seat->was_loop = false;
        return kind;
}

/* A loop that has turns, as far as is seen of kernels that are just too long for it to keep these
 * by the clock: of several at a time, where it had the engine alone. */
static bool may_keep_turns(const struct seat *seat, enum arbiter_kind kind, uint64_t now)
{
        return kind == ARBITER_SYNCHRONOUS && seat->kind == kind && seat->turn == TURN_OWN &&
               now >= seat->loop_since + LOOP_STEADY && seat->sight.keeps_turns &&
               seat->sight.short_ns > ARB_KEEPS_MOST &&
               seat->sight.short_ns <= KEEPS_MAYBE * ARB_KEEPS_MOST;
}

/* One that has pauses, as was seen once, and does not fill its turns, in which they do not show: it
 * may be a loop that was taken for a queue when nobody else was there. */
static bool may_pause(
        const struct seat *seat, enum arbiter_kind kind, uint64_t starts, uint64_t now)
{
        return kind == ARBITER_BACKLOGGED && seat->kind == kind && seat->turn == TURN_OWN &&
               now >= seat->queued_since + QUEUE_AFTER && !starts && seat->sight.blind_alone &&
               seat->sight.short_ns > 0 && seat->sight.short_ns <= ARBITER_TURN / 4 &&
               seat->lately_used * PPM < seat->lately_offered * FILL_ALL;
}

/* It was a loop a moment ago, and would not be seen to pause now that nobody else is there. */
static bool was_loop_now(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t now)
{
        const struct seat *seat = seat_of(arbiter, d, t);

        return seat->was_loop && now < seat->loop_seen + ARB_LOOP_LASTS &&
               arb_others_with_work(arbiter, d, t) == 0;
}

/* It has its turn, and nobody else has the engine. */
static bool has_all(struct arbiter *arbiter, unsigned d, uint32_t t)
{
        const struct device *device = &arbiter->device[d];

        if (arbiter->cluster[device->cluster].holder != t || device->probed != NONE ||
                device->latency)
                return false;
        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->disabled ? device->order[i] == t
                                   : device->order[i] != t && is_running(seat))
                        return false;
        }
        return true;
}

/* It launches again as soon as it can, in a turn of its own, and has not for a while. */
static bool begins_to_rest(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t now)
{
        const struct seat *seat = seat_of(arbiter, d, t);
        const struct arbiter_sight *sight = &seat->sight;
        uint64_t since = MAX_OF(sight->launched_at, seat->on_since);
        uint64_t run = sight->short_ns ? sight->short_ns : seat->run_ns;
        uint64_t pause = MAX_OF(RESTS, run + run / 4 + RESTS / 2);

        return seat->kind == ARBITER_SYNCHRONOUS && seat->turn == TURN_OWN &&
               now >= seat->untold_until && now >= since + pause &&
               !(sight->demand == ARBITER_DEMAND_WORK && sight->used_at >= since + pause) &&
               has_all(arbiter, d, t);
}

void arb_notice_rest(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t now)
{
        struct seat *seat = seat_of(arbiter, d, t);
        struct arbiter_sight *sight = &seat->sight;

        if (!sight->launches_known || (seat->rests && (sight->launched_at != seat->rest_launched ||
                                                              arbiter->tenant[t].capped_off))) {
                if (seat->rests)
                        sight->demand = ARBITER_DEMAND_UNKNOWN;
                seat->rests = false;
        } else if (!seat->rests && begins_to_rest(arbiter, d, t, now)) {
                seat->rests = true;
                seat->rest_launched = sight->launched_at;
                seat->rest_since = now;
        }
        if (!seat->rests)
                return;
        /* then it has work by ways that are not ours */
        if (sight->used_at <= seat->rest_since)
                seat->rest_starts = sight->starts;
        else if (sight->starts > seat->rest_starts + UNTOLD_STARTS) {
                seat->rests = false;
                seat->untold_until = now + UNTOLD_FOR;
                return;
        }
        sight->demand = ARBITER_DEMAND_NONE;
        sight->since = seat->rest_launched;
}

/* What kind a tenant is, from a window of what it was offered, used and wanted. */
void arb_judge(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t now)
{
        const struct tenant *tenant = &arbiter->tenant[t];
        struct seat *seat = seat_of(arbiter, d, t);
        const struct arbiter_sight *sight = &seat->sight;
        uint64_t span = now - seat->mark.at;
        uint64_t used = account_best(&seat->account) - seat->mark.used_ns;
        uint64_t offered = seat->offered_ns - seat->mark.offered_ns;
        uint64_t starts = sight->starts - seat->mark.starts;
        uint64_t at = sight->used_at ? sight->used_at : now;
        uint64_t seen = at - MIN_OF(seat->mark.sight_at, at); /* span, of what was seen */
        uint64_t wanted = MIN_OF(sight->wanted_ns - seat->mark.wanted_ns, seen);
        uint64_t doubt = sight->doubt_ns - seat->mark.doubt_ns;
        uint64_t away = 2 * arbiter->costs.switch_ns;
        bool probed = arbiter->device[d].probed == t;
        bool exact = !sight->used_known || (sight->starts_known && sight->wanted_known);
        enum arbiter_kind kind;
        int64_t credit;
        double keep;
        bool idle, open = false; /* it may be a loop, and may be none */

        /* so it was when that was seen; its launches are seen at once */
        if (sight->demand == ARBITER_DEMAND_NONE &&
                (seat->rests ? now : at) >=
                        sight->since +
                                (seat->kind == ARBITER_SPORADIC ? ARBITER_LINGER : ARBITER_REST)) {
                seat->rate_ppm = 0;
                seat->fill_ppm = PPM;
                seat->lately_slices = seat->lately_starts = 0;
                if (seat->kind != ARBITER_IDLE)
                        seat->rested = sight->since;
                set_kind(arbiter, d, seat, ARBITER_IDLE);
                arb_mark(seat, now);
                return;
        }
        if (seat->rests) {
                arb_mark(seat, now);
                return;
        }
        if (account_best(&seat->account) < seat->mark.used_ns)
                used = 0;
        if (span < (exact ? ARBITER_WINDOW
                          : MAX_OF(ARBITER_WINDOW, 5 * arbiter->device[d].round)) ||
                (seat->turn != TURN_FREE && offered < 2 * ARBITER_TURN &&
                        span < 3 * ARBITER_FRAME_MAX) ||
                (probed && (!arbiter->device[d].probe_from ||
                                   now < arbiter->device[d].probe_from + ARBITER_WINDOW)))
                return;
        if (!sight->used_known) {
                set_kind(arbiter, d, seat, ARBITER_BACKLOGGED);
                arb_mark(seat, now);
                return;
        }
        /* switched off all the while: nothing can be said */
        if (!offered && !starts) {
                arb_mark(seat, now);
                return;
        }
        seat->rate_ppm = (int64_t)(used * PPM / span);
        if (seat->settled_kind)
                seat->mean_ppm += (seat->rate_ppm - seat->mean_ppm) / 8;
        else
                seat->mean_ppm = seat->rate_ppm;
        seat->fill_ppm = offered ? (uint32_t)MIN_OF(used * PPM / offered, (uint64_t)PPM) : PPM;
        learn_alone(seat, used, offered);
        keep = span < LATELY ? 1 - (double)span / LATELY : 0;
        seat->lately_slices = MIN_OF(SLICES_MOST,
                seat->lately_slices * keep + (double)used / 1000 / (double)slice_in_force(seat));
        seat->lately_starts = seat->lately_starts * keep + (double)starts;
        seat->lately_used = seat->lately_used * keep + (double)used;
        seat->lately_offered = seat->lately_offered * keep + (double)offered;
        /* in a turn of its own it has paused oftener than is seen */
        if (!(starts && sight->blind_alone && seat->turn == TURN_OWN && seat->run_ns &&
                    used / starts > seat->run_ns))
                seat->run_ns = sight->starts_known && starts ? used / starts : 0;
        if (seat->run_ns)
                seat->mean_run_ns = seat->mean_run_ns ? seat->mean_run_ns - seat->mean_run_ns / 8 +
                                                                seat->run_ns / 8
                                                      : seat->run_ns;
        seat->pause_ns =
                sight->starts_known && sight->wanted_known && starts ? (seen - wanted) / starts : 0;
        seat->wait_ppm = sight->wanted_known && seen ? wanted * PPM / seen : PPM;
        /* who has little at a time has next to nothing while he waits for others */
        if (sight->demand == ARBITER_DEMAND_WORK || used > sight->precision_ns + span / 1000 ||
                (sight->wanted_known && starts && wanted * WAITS_PART > seen))
                seat->worked = now;
        if (seat->worked != now && sight->demand == ARBITER_DEMAND_UNKNOWN &&
                now < seat->worked + 2 * arbiter->device[d].round)
                kind = seat->kind; /* its slice may not have come */
        else if (seat->worked != now)
                kind = (sight->demand == ARBITER_DEMAND_NONE && used > 0) ||
                                       (seat->kind == ARBITER_SPORADIC &&
                                               now < seat->worked + ARBITER_LINGER)
                               ? ARBITER_SPORADIC
                               : ARBITER_IDLE;
        else if (sight->starts_known && !starts) {
                /* In a turn of its own pauses do not show. Where it fills all of it, slices may do,
                 * and where it fills little, it may come and go by now. */
                if (sight->blind_alone && !probed &&
                        (seat->turn == TURN_OWN
                                        ? seat->kind == ARBITER_SYNCHRONOUS || seat->was_loop
                                        : was_loop_now(arbiter, d, t, now))) {
                        kind = ARBITER_SYNCHRONOUS;
                        if (now >= seat->trial_at && arbiter->device[d].probed == NONE &&
                                arb_may_probe(arbiter, d, t) &&
                                (seat->fill_ppm < FILL_LITTLE || fills_all(seat)))
                                arb_begin_probe(arbiter, d, t, now);
                } else
                        kind = ARBITER_BACKLOGGED;
        } else if (sight->starts_known && sight->wanted_known) {
                uint64_t limit = seat->kind == ARBITER_SYNCHRONOUS ? away + away / 2 : away;

                /* now and then a queue has nothing for an instant, between two kernels, or seems
                   to: who is mostly cut before that, and may have paused for no time, has a
                   backlog */
                if (doubt && !arbiter->device[d].latency && seat->pause_ns <= limit &&
                        is_mostly_cut(seat) && seat->kind != ARBITER_SYNCHRONOUS)
                        kind = ARBITER_BACKLOGGED;
                else if (doubt ? !arb_is_synchronous(arbiter, d, t, seat->pause_ns,
                                         seat->pause_ns + doubt / starts, limit, now)
                               : seat->pause_ns > limit) {
                        kind = ARBITER_SPORADIC;
                        open = seat->pause_ns <= limit;
                } else if (seat->run_ns <= 2 * slice_in_force(seat) * 1000 ||
                           seat->kind == ARBITER_SYNCHRONOUS)
                        kind = ARBITER_SYNCHRONOUS;
                else
                        kind = ARBITER_BACKLOGGED;
        } else
                kind = judge_by_trial(arbiter, d, seat, now);
        /* whatever was found, it costs the others no more */
        if (probed && arbiter->device[d].probed == t)
                arb_end_probe(arbiter, d, now, seat->kind != kind);
        kind = keep_loop(seat, kind, starts > 0 || probed,
                !probed && wanted >= seen / STRAY_PART * (STRAY_PART - 1), now);
        if ((may_keep_turns(seat, kind, now) || may_pause(seat, kind, starts, now)) &&
                now >= seat->trial_at && arbiter->device[d].probed == NONE &&
                arb_may_probe(arbiter, d, t))
                arb_begin_probe(arbiter, d, t, now);
        /* requests that queue up for a moment make neither a loop nor, where they come first, a
           backlog */
        if ((kind == ARBITER_SYNCHRONOUS || (kind == ARBITER_BACKLOGGED && seat->first)) &&
                seat->kind == ARBITER_SPORADIC && !seat->trial && !probed) {
                seat->streak += arb_is_starved(arbiter, d, t) ? 2 : 1;
                if (seat->streak < (kind == ARBITER_BACKLOGGED ? STREAK_FIRST : STREAK))
                        kind = ARBITER_SPORADIC;
        } else if (!open)
                seat->streak = 0;
        if (has_claim(kind) && has_claim(seat->kind))
                seat->owed_ns +=
                        arb_due_of(&arbiter->device[d], seat, tenant, span) - (int64_t)used;
        else
                seat->owed_ns = 0;
        /* what it had more lately, it need not have again at once */
        credit = MAX_OF(
                (int64_t)part_of(ARBITER_FRAME_MAX, tenant->terms.share), (int64_t)ARBITER_TURN);
        seat->owed_ns = MIN_OF(MAX_OF(seat->owed_ns, -credit), (int64_t)ARBITER_FRAME_MAX);
        if (kind != ARBITER_BACKLOGGED ||
                (seat->turn == TURN_OWN && !probed && seat->fill_ppm < FILL_MOST))
                seat->queued_since = now;
        /* a tenant that fills what it is given is one with a backlog, however it is predicted */
        if (kind == ARBITER_BACKLOGGED)
                seat->fill_ppm = PPM;
        idle = kind == ARBITER_IDLE && seat->kind == ARBITER_IDLE;
        set_kind(arbiter, d, seat, kind);
        /* how long its bursts are and how much it uses decides on others' slices, and on turns */
        if (kind == ARBITER_SPORADIC ||
                (kind == ARBITER_SYNCHRONOUS && seat->turn == TURN_FREE &&
                        seat->rate_ppm < (int64_t)seat->target_ppm * SERVED / 100))
                arbiter->device[d].stale = true;
        /* of little at a time it may be a lot before it can be seen */
        if (!idle || sight->demand != ARBITER_DEMAND_UNKNOWN || span >= ARBITER_TRIAL_MIN)
                arb_mark(seat, now);
}
