/* SPDX-License-Identifier: Apache-2.0 */
#include "schedule.h"

#include <string.h>

#define PPM 1000000u

void schedule_init(struct schedule *schedule, const struct schedule_costs *costs, uint64_t now)
{
        *schedule = (struct schedule){
                .costs = *costs,
                .now = now,
                .state = SCHEDULE_IDLE,
                .current = SCHEDULE_NONE,
        };
}

static void record(struct schedule *schedule, uint64_t at, uint32_t group, bool start)
{
        if (schedule->ahead)
                return;
        schedule->record[schedule->records++ % SCHEDULE_RECORDS] = (struct schedule_record){
                .at = at,
                .owner = schedule->group[group].owner,
                .start = start,
        };
}

uint32_t schedule_add(struct schedule *schedule, uint32_t owner)
{
        for (uint32_t i = 0; i < SCHEDULE_MAX_GROUPS; i++) {
                if (schedule->group[i].present)
                        continue;
                schedule->group[i] = (struct schedule_group){
                        .present = true,
                        .owner = owner,
                        .slice_ns = SCHEDULE_SLICE_DEFAULT,
                };
                if (schedule->top <= i)
                        schedule->top = i + 1;
                return i;
        }
        return SCHEDULE_NONE;
}

void schedule_remove(struct schedule *schedule, uint32_t group)
{
        schedule->group[group].present = false;
        schedule->group[group].left_ns = 0;
        while (schedule->top > 0 && !schedule->group[schedule->top - 1].present)
                schedule->top--;
        /* A switch that is under way is finished; a loaded context that is gone must be replaced */
        if (schedule->current == group && schedule->state != SCHEDULE_SWITCHING) {
                if (!schedule->saved)
                        record(schedule, schedule->now, group, false);
                schedule->saved = false;
                schedule->state = SCHEDULE_IDLE;
                schedule->current = SCHEDULE_NONE;
        }
}

uint64_t schedule_quantize(uint64_t us)
{
        unsigned scale = 0;

        while (us >> scale > 255)
                scale++;
        return us >> scale << scale;
}

void schedule_set_slice(struct schedule *schedule, uint32_t group, uint64_t us)
{
        uint64_t quantized = schedule_quantize(us);

        schedule->group[group].slice_ns = (quantized ? quantized : 1) * SCHEDULE_TICK;
        schedule->anew = schedule->state != SCHEDULE_IDLE;
        if (schedule->anew)
                schedule_expire(schedule);
}

void schedule_set_mode(struct schedule *schedule, uint32_t group, enum schedule_mode mode)
{
        schedule->group[group].mode = mode;
}

void schedule_bar(struct schedule *schedule, uint32_t group)
{
        struct schedule_group *g = &schedule->group[group];

        g->lingers = schedule->current == group && (g->lingers || !g->disabled);
        g->disabled = true;
}

void schedule_set_disabled(struct schedule *schedule, uint32_t group, bool disabled)
{
        schedule->group[group].disabled = disabled;
        schedule->group[group].lingers = false;
        if (disabled)
                schedule_expire(schedule);
        if (disabled && schedule->state == SCHEDULE_IDLE && schedule->current == group &&
                !schedule->saved) {
                record(schedule, schedule->now, group, false);
                schedule->saved = true;
        }
}

void schedule_submit(struct schedule *schedule, uint32_t group, uint64_t ns, uint64_t block_ns)
{
        struct schedule_group *g = &schedule->group[group];

        g->left_ns = ns;
        g->block_ns = block_ns;
        g->done_ns = 0;
}

void schedule_extend(struct schedule *schedule, uint32_t group, uint64_t ns, uint64_t block_ns)
{
        struct schedule_group *g = &schedule->group[group];

        if (g->left_ns == 0) {
                schedule_submit(schedule, group, ns, block_ns);
                return;
        }
        g->left_ns += ns;
        if (g->block_ns < block_ns)
                g->block_ns = block_ns;
}

void schedule_expire(struct schedule *schedule)
{
        if (schedule->state == SCHEDULE_RUNNING && schedule->slice_end > schedule->now)
                schedule->slice_end = schedule->now;
}

void schedule_cancel(struct schedule *schedule, uint32_t group)
{
        schedule->group[group].left_ns = 0;
}

static inline bool runnable(const struct schedule_group *group)
{
        return group->left_ns > 0 && (!group->disabled || group->lingers);
}

/* The next group in runlist order after from that may run, from itself excepted. */
static uint32_t find_other(const struct schedule *schedule, uint32_t from)
{
        uint32_t start = from == SCHEDULE_NONE ? 0 : from + 1;

        for (uint32_t i = start; i < schedule->top; i++)
                if (runnable(&schedule->group[i]))
                        return i;
        for (uint32_t i = 0; i < start && i < schedule->top; i++)
                if (i != from && runnable(&schedule->group[i]))
                        return i;
        return SCHEDULE_NONE;
}

static void switch_to(struct schedule *schedule, uint32_t group, uint64_t cost)
{
        schedule->switch_end = schedule->now + cost;
        if (schedule->current != SCHEDULE_NONE && !schedule->saved)
                record(schedule, schedule->switch_end - SCHEDULE_RESTORE, schedule->current, false);
        record(schedule, schedule->switch_end, group, true);
        schedule->saved = false;
        schedule->state = SCHEDULE_SWITCHING;
        schedule->current = group;
}

static void run(struct schedule *schedule, uint32_t group)
{
        schedule->state = SCHEDULE_RUNNING;
        schedule->current = group;
        schedule->slice_end = schedule->now;
        if (!schedule->anew)
                schedule->slice_end += schedule->group[group].slice_ns;
}

/* Who has the engine when the running group's slice is over. */
static uint32_t find_next(const struct schedule *schedule)
{
        return find_other(schedule, schedule->anew ? SCHEDULE_NONE : schedule->current);
}

static inline uint32_t drag_of(const struct schedule *schedule)
{
        return schedule->now < schedule->shared_until ? schedule->costs.drag_ppm : 0;
}

/* Time that so much work takes at the present pace. */
static inline uint64_t time_of(uint64_t work, uint32_t drag)
{
        if (!drag || work > UINT64_MAX / PPM)
                return work;
        return (work * PPM + (PPM - drag) - 1) / (PPM - drag);
}

/* The current group holds the engine until then, which is not beyond the end of its item. */
static void progress(struct schedule *schedule, uint64_t until, uint32_t drag)
{
        struct schedule_group *g = &schedule->group[schedule->current];
        uint64_t span = until - schedule->now;
        uint64_t work = span - (drag ? span * drag / PPM : 0);

        if (g->left_ns != SCHEDULE_ENDLESS) {
                /* rounding must not end it: run_on() does, and says so */
                if (work >= g->left_ns)
                        work = g->left_ns - 1;
                g->left_ns -= work;
        }
        g->done_ns += work;
        g->work_ns += work;
        g->resident_ns += span;
        schedule->now = until;
}

/* The running group cannot or shall not go on: the next one, or nobody. */
static void leave(struct schedule *schedule)
{
        struct schedule_group *g = &schedule->group[schedule->current];
        uint32_t other = find_next(schedule);
        uint64_t cost = schedule->costs.switch_ns;

        schedule->anew = false;
        if (other == schedule->current) {
                run(schedule, other);
                return;
        }
        g->lingers = g->lingers && other == SCHEDULE_NONE;
        if (g->left_ns > 0 && (g->disabled || g->mode == SCHEDULE_INSTRUCTION))
                cost += schedule->costs.save_ns;
        if (other != SCHEDULE_NONE) {
                switch_to(schedule, other, cost);
                return;
        }
        /* with nobody to follow, it stays loaded, also when it is disabled: 3 of 10 ms gave 0.30 */
        schedule->state = SCHEDULE_IDLE;
        if (g->disabled) {
                record(schedule, schedule->now, schedule->current, false);
                schedule->saved = true;
        }
}

/* One move of the running group. True if its item has completed. */
static bool run_on(struct schedule *schedule, uint64_t until)
{
        struct schedule_group *g = &schedule->group[schedule->current];
        uint32_t drag = drag_of(schedule);
        uint64_t stop = until, done = UINT64_MAX, boundary = UINT64_MAX;

        if (!runnable(g)) {
                leave(schedule);
                return false;
        }

        if (g->left_ns != SCHEDULE_ENDLESS)
                done = schedule->now + time_of(g->left_ns, drag);
        if (schedule->now < schedule->slice_end) {
                if (stop > schedule->slice_end)
                        stop = schedule->slice_end;
        } else if (find_other(schedule, schedule->current) == SCHEDULE_NONE) {
                schedule->anew = false;
                run(schedule, schedule->current);
                return false;
        } else if (g->mode == SCHEDULE_INSTRUCTION) {
                leave(schedule);
                return false;
        } else if (g->block_ns) {
                uint64_t into = g->done_ns % g->block_ns;

                if (!into) {
                        leave(schedule);
                        return false;
                }
                boundary = schedule->now + time_of(g->block_ns - into, drag);
                if (stop > boundary)
                        stop = boundary;
        }
        if (drag && stop > schedule->shared_until)
                stop = schedule->shared_until;
        if (done > stop) {
                progress(schedule, stop, drag);
                if (stop == boundary) {
                        g->done_ns = 0;
                        leave(schedule);
                }
                return false;
        }
        progress(schedule, done, drag);
        g->done_ns += g->left_ns;
        g->work_ns += g->left_ns;
        g->left_ns = 0;
        return true;
}

uint32_t schedule_advance(struct schedule *schedule, uint64_t until)
{
        for (;;) {
                uint32_t next;

                switch (schedule->state) {
                case SCHEDULE_SWITCHING: {
                        uint64_t stop = until < schedule->switch_end ? until : schedule->switch_end;

                        schedule->switched_ns += stop - schedule->now;
                        schedule->now = stop;
                        if (stop < schedule->switch_end)
                                return SCHEDULE_NONE;
                        schedule->shared_until = stop + schedule->costs.drag_ns;
                        if (schedule->group[schedule->current].present) {
                                schedule->group[schedule->current].visits++;
                                run(schedule, schedule->current);
                        } else {
                                record(schedule, stop, schedule->current, false);
                                schedule->state = SCHEDULE_IDLE;
                                schedule->current = SCHEDULE_NONE;
                        }
                        break;
                }
                case SCHEDULE_RUNNING:
                        if (schedule->now >= until && runnable(&schedule->group[schedule->current]))
                                return SCHEDULE_NONE;
                        next = schedule->current;
                        if (run_on(schedule, until))
                                return next;
                        break;
                case SCHEDULE_IDLE:
                        next = find_other(schedule, schedule->current);
                        if (schedule->current != SCHEDULE_NONE &&
                                runnable(&schedule->group[schedule->current])) {
                                if (schedule->saved)
                                        record(schedule, schedule->now, schedule->current, true);
                                schedule->saved = false;
                                run(schedule, schedule->current);
                        } else if (next != SCHEDULE_NONE)
                                switch_to(schedule, next, schedule->costs.switch_ns);
                        else {
                                schedule->idle_ns += until - schedule->now;
                                schedule->now = until;
                                return SCHEDULE_NONE;
                        }
                        break;
                }
        }
}

uint64_t schedule_next(const struct schedule *schedule)
{
        uint64_t next = UINT64_MAX;

        for (uint32_t i = 0; i < schedule->top; i++) {
                const struct schedule_group *g = &schedule->group[i];
                uint64_t start = schedule->now;

                if (!runnable(g) || g->left_ns == SCHEDULE_ENDLESS)
                        continue;
                if (schedule->state == SCHEDULE_SWITCHING)
                        start = schedule->switch_end;
                else if (i != schedule->current)
                        start += schedule->costs.switch_ns;
                if (start + g->left_ns < next)
                        next = start + g->left_ns;
        }
        return next;
}
