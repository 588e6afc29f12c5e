/* SPDX-License-Identifier: Apache-2.0 */
#include "runlist.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How far a waiting thread looks ahead, and so the longest that it sleeps. */
#define HORIZON_NS 20000000ull
/* A sleep costs so much; shorter waits are spun. */
#define SPIN_NS 50000ull

static uint64_t clock_now(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

void runlist_init(struct runlist *runlist, uint64_t now)
{
        static const struct schedule_costs costs = SCHEDULE_COSTS_H100;

        schedule_init(&runlist->schedule, &costs, now);
        atomic_store(&runlist->holder, RUNLIST_NONE);
        runlist->sm_group = RUNLIST_NONE;
}

/* The last owner died somewhere in the model: its counters are sound one by one, what is under way
 * is begun again. */
static void repair(struct runlist *runlist)
{
        struct schedule *schedule = &runlist->schedule;
        uint64_t now = clock_now();

        schedule->state = SCHEDULE_IDLE;
        schedule->current = SCHEDULE_NONE;
        schedule->saved = false;
        if (schedule->now > now)
                schedule->now = now;
        schedule->top = 0;
        for (uint32_t i = 0; i < SCHEDULE_MAX_GROUPS; i++) {
                struct schedule_group *group = &schedule->group[i];
                uint64_t end = runlist->group[i].end_ns;

                if (!group->present)
                        continue;
                schedule->top = i + 1;
                group->left_ns = end > group->work_ns ? end - group->work_ns : 0;
        }
}

/* Takes the lock and lets the time pass that has passed. */
static void lock(struct runlist *runlist)
{
        uint64_t now;

        if (pthread_mutex_lock(&runlist->lock) == EOWNERDEAD) {
                repair(runlist);
                pthread_mutex_consistent(&runlist->lock);
        }
        now = clock_now();
        while (runlist->schedule.now < now)
                if (schedule_advance(&runlist->schedule, now) == SCHEDULE_NONE)
                        break;
}

static void unlock(struct runlist *runlist)
{
        atomic_store_explicit(&runlist->holder, runlist->schedule.current, memory_order_relaxed);
        pthread_mutex_unlock(&runlist->lock);
}

static void announce(struct runlist *runlist)
{
        atomic_fetch_add(&runlist->changed, 1);
        syscall(SYS_futex, &runlist->changed, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

uint32_t runlist_add(struct runlist *runlist, uint32_t object, uint32_t process)
{
        uint32_t group;

        lock(runlist);
        group = schedule_add(&runlist->schedule, process);
        if (group != SCHEDULE_NONE) {
                runlist->group[group].object = object;
                runlist->group[group].end_ns = 0;
                if (runlist->sm_group == group)
                        runlist->sm_group = RUNLIST_NONE;
                atomic_store(&runlist->group[group].disabled, 0);
        }
        unlock(runlist);
        return group;
}

void runlist_remove(struct runlist *runlist, uint32_t group)
{
        if (group == RUNLIST_NONE)
                return;
        lock(runlist);
        schedule_remove(&runlist->schedule, group);
        unlock(runlist);
        announce(runlist);
}

void runlist_check(struct runlist *runlist, bool (*keeps)(uint32_t object, uint32_t group))
{
        lock(runlist);
        for (uint32_t i = 0; i < SCHEDULE_MAX_GROUPS; i++)
                if (runlist->schedule.group[i].present && !keeps(runlist->group[i].object, i))
                        schedule_remove(&runlist->schedule, i);
        unlock(runlist);
        announce(runlist);
}

void runlist_set_slice(struct runlist *runlist, uint32_t group, uint64_t us)
{
        lock(runlist);
        schedule_set_slice(&runlist->schedule, group, us);
        unlock(runlist);
}

void runlist_set_mode(struct runlist *runlist, uint32_t group, enum schedule_mode mode)
{
        lock(runlist);
        schedule_set_mode(&runlist->schedule, group, mode);
        unlock(runlist);
}

void runlist_set_disabled(struct runlist *runlist, uint32_t group, bool disabled)
{
        lock(runlist);
        schedule_set_disabled(&runlist->schedule, group, disabled);
        atomic_store(&runlist->group[group].disabled, disabled);
        unlock(runlist);
        announce(runlist);
}

void runlist_bar(struct runlist *runlist, uint32_t group)
{
        lock(runlist);
        schedule_bar(&runlist->schedule, group);
        atomic_store(&runlist->group[group].disabled, true);
        unlock(runlist);
        announce(runlist);
}

void runlist_expire(struct runlist *runlist, uint32_t group, bool only)
{
        lock(runlist);
        if ((runlist->schedule.current == group) == only)
                schedule_expire(&runlist->schedule);
        unlock(runlist);
        announce(runlist);
}

/* Under the lock. */
static uint64_t submit(struct runlist *runlist, uint32_t group, uint64_t after, uint64_t ns)
{
        struct runlist_group *queue = runlist->group + group;
        uint64_t begin, mark;

        begin = runlist->schedule.group[group].work_ns;
        if (queue->end_ns < begin)
                queue->end_ns = begin;
        mark = (after > begin ? after : begin) + ns;
        if (mark > queue->end_ns) {
                uint64_t more = mark - queue->end_ns;

                queue->end_ns = mark;
                schedule_extend(&runlist->schedule, group, more, ns);
        }
        return mark;
}

uint64_t runlist_submit(struct runlist *runlist, uint32_t group, uint64_t after, uint64_t ns)
{
        uint64_t mark;

        lock(runlist);
        mark = submit(runlist, group, after, ns);
        unlock(runlist);
        return mark;
}

static bool has(const uint64_t *set, unsigned sm)
{
        return set[sm / 64] >> sm % 64 & 1;
}

uint64_t runlist_submit_sms(struct runlist *runlist, uint32_t group, uint64_t after, uint64_t ns,
        const uint64_t set[RUNLIST_MAX_SMS / 64], unsigned count,
        uint64_t ret[RUNLIST_MAX_SMS / 64])
{
        uint64_t mark;

        lock(runlist);
        if (runlist->sm_group != group) {
                memset(runlist->sm_end, 0, sizeof(runlist->sm_end));
                runlist->sm_group = group;
        }
        memset(ret, 0, RUNLIST_MAX_SMS / 8);
        for (; count > 0; count--) {
                unsigned first = RUNLIST_MAX_SMS;

                for (unsigned i = 0; i < RUNLIST_MAX_SMS; i++)
                        if (has(set, i) && !has(ret, i) &&
                                (first == RUNLIST_MAX_SMS ||
                                        runlist->sm_end[i] < runlist->sm_end[first]))
                                first = i;
                if (first == RUNLIST_MAX_SMS)
                        break;
                ret[first / 64] |= 1ull << first % 64;
                if (after < runlist->sm_end[first])
                        after = runlist->sm_end[first];
        }
        mark = submit(runlist, group, after, ns);
        for (unsigned i = 0; i < RUNLIST_MAX_SMS; i++)
                if (has(ret, i))
                        runlist->sm_end[i] = mark;
        unlock(runlist);
        return mark;
}

/* When the mark will be reached if nothing changes, at most HORIZON_NS from now. */
static uint64_t foresee(const struct schedule *now, uint32_t group, uint64_t mark, bool *ret_done)
{
        struct schedule ahead;
        uint64_t until = now->now + HORIZON_NS;
        uint32_t done;

        memcpy(&ahead, now,
                offsetof(struct schedule, group) + now->top * sizeof(struct schedule_group));
        ahead.ahead = true;
        ahead.group[group].left_ns = mark - now->group[group].work_ns;
        do
                done = schedule_advance(&ahead, until);
        while (done != SCHEDULE_NONE && done != group);
        *ret_done = done == group;
        return ahead.now;
}

/* Until then, or until changed is no longer what it was. */
static void sleep_until(_Atomic uint32_t *changed, uint32_t value, uint64_t until)
{
        struct timespec limit = {
                .tv_sec = (time_t)(until / 1000000000),
                .tv_nsec = (long)(until % 1000000000),
        };

        syscall(SYS_futex, changed, FUTEX_WAIT_BITSET, value, &limit, NULL, FUTEX_BITSET_MATCH_ANY);
}

bool runlist_wait(struct runlist *runlist, uint32_t group, uint64_t mark)
{
        uint64_t begin = 0;

        for (;;) {
                const struct schedule *schedule = &runlist->schedule;
                uint32_t changed;
                uint64_t now, until = 0;
                bool reached, foreseen = false;

                lock(runlist);
                now = schedule->now;
                reached = !schedule->group[group].present || schedule->group[group].work_ns >= mark;
                changed = atomic_load(&runlist->changed);
                if (!reached)
                        until = foresee(schedule, group, mark, &foreseen);
                unlock(runlist);
                if (reached)
                        return true;
                if (begin == 0)
                        begin = now;
                else if (now - begin >= HORIZON_NS)
                        return false;
                if (!foreseen || until - now >= SPIN_NS)
                        sleep_until(&runlist->changed, changed, until);
                else
                        while (clock_now() < until && atomic_load_explicit(&runlist->changed,
                                                              memory_order_relaxed) == changed)
                                ;
        }
}

bool runlist_is_open(const struct runlist *runlist, uint32_t group)
{
        uint32_t holder = atomic_load_explicit(&runlist->holder, memory_order_relaxed);

        return (holder == group || holder == RUNLIST_NONE) &&
               !atomic_load_explicit(&runlist->group[group].disabled, memory_order_relaxed);
}

uint64_t runlist_work(struct runlist *runlist, uint32_t group)
{
        uint64_t work;

        lock(runlist);
        work = runlist->schedule.group[group].work_ns;
        unlock(runlist);
        return work;
}

unsigned runlist_records(struct runlist *runlist, uint64_t *next, struct schedule_record *records,
        unsigned room, uint64_t *ret_until, bool *ret_lost)
{
        const struct schedule *schedule = &runlist->schedule;
        unsigned n = 0;

        lock(runlist);
        *ret_until = schedule->now;
        *ret_lost = *next > schedule->records || schedule->records - *next > SCHEDULE_RECORDS;
        if (*ret_lost)
                *next = schedule->records - (schedule->records < SCHEDULE_RECORDS
                                                            ? schedule->records
                                                            : SCHEDULE_RECORDS);
        for (; n < room && *next < schedule->records; (*next)++) {
                records[n] = schedule->record[*next % SCHEDULE_RECORDS];
                if (records[n].at > schedule->now)
                        break;
                n++;
        }
        unlock(runlist);
        return n;
}

void runlist_busy(
        struct runlist *runlist, uint64_t *ret_now, uint64_t *ret_idle, uint32_t *ret_process)
{
        const struct schedule *schedule = &runlist->schedule;

        lock(runlist);
        *ret_now = schedule->now;
        *ret_idle = schedule->idle_ns;
        *ret_process = schedule->current == SCHEDULE_NONE
                               ? RUNLIST_NONE
                               : schedule->group[schedule->current].owner;
        unlock(runlist);
}
