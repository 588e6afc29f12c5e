/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device's graphics/compute engine, as all processes of the machine share it: schedule.h's model
 * in shared memory, run by real time.
 *
 * Nobody drives it. Whoever submits work, waits for it or changes something lets the time pass that
 * has passed, under the runlist's own robust lock; who waits works out when his turn will have
 * come, and sleeps until then or until something changes. So nobody's death holds up others.
 *
 * A group's work is measured in nanoseconds it has had of the engine, ever growing; a "mark" is
 * such a number. What is submitted to one group after another's mark runs one after the other,
 * else side by side, as streams do. Times are CLOCK_MONOTONIC's.
 *
 * The kernel's lock may be held while calling; never the other way round.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "schedule.h"

#define RUNLIST_NONE    SCHEDULE_NONE
#define RUNLIST_MAX_SMS 256

struct runlist_group {
        uint32_t object;           /* index of the channel group, as given to runlist_add() */
        _Atomic uint32_t disabled; /* may be read without the lock */
        uint64_t end_ns;           /* the mark at which all is done that was submitted */
};

struct runlist {
        pthread_mutex_t lock;
        _Atomic uint32_t changed; /* futex: those who wait must look again */
        _Atomic uint32_t holder;  /* the group that had the engine when last looked at */
        struct runlist_group group[SCHEDULE_MAX_GROUPS];
        /* of the group whose work is told apart by SMs: the mark at which each is free */
        uint32_t sm_group;
        uint64_t sm_end[RUNLIST_MAX_SMS];
        struct schedule schedule;
};

/* lock is made by the caller: shared between processes, and robust. */
void runlist_init(struct runlist *runlist, uint64_t now);

/* A group with the default slice; RUNLIST_NONE: no room. */
uint32_t runlist_add(struct runlist *runlist, uint32_t object, uint32_t process);
/* With all its work. RUNLIST_NONE is fine. */
void runlist_remove(struct runlist *runlist, uint32_t group);
/* Removes the groups whose object keeps(object, group) denies: after a process died in the middle
 * of adding or removing one. */
void runlist_check(struct runlist *runlist, bool (*keeps)(uint32_t object, uint32_t group));

void runlist_set_slice(struct runlist *runlist, uint32_t group, uint64_t us);
void runlist_set_mode(struct runlist *runlist, uint32_t group, enum schedule_mode mode);
void runlist_set_disabled(struct runlist *runlist, uint32_t group, bool disabled);
/* Disabled, but if it has the engine it goes on until another's turn. */
void runlist_bar(struct runlist *runlist, uint32_t group);
/* Ends the slice of whoever has the engine, if that is group (only) or is another (!only). */
void runlist_expire(struct runlist *runlist, uint32_t group, bool only);

/* Work for ns > 0 of the engine's time, to begin when the group's work is at after at the earliest.
 * The mark at which it is done. */
uint64_t runlist_submit(struct runlist *runlist, uint32_t group, uint64_t after, uint64_t ns);
/* The same for work that needs count of the SMs in set, for itself: it begins when so many are
 * free, and gets those that are free first, in ret. One group of a device at a time, an MPS
 * server's, is told apart so; its work on other SMs runs side by side. */
uint64_t runlist_submit_sms(struct runlist *runlist, uint32_t group, uint64_t after, uint64_t ns,
        const uint64_t set[RUNLIST_MAX_SMS / 64], unsigned count,
        uint64_t ret[RUNLIST_MAX_SMS / 64]);
/* Waits until the group's work has reached mark, or the group is gone. False: it has not, and a
 * while has passed in which somebody may have died. */
bool runlist_wait(struct runlist *runlist, uint32_t group, uint64_t mark);
/* Whether work that takes next to no time would run at once: the group has the engine, or nobody,
 * and it is not disabled. Without the lock. */
bool runlist_is_open(const struct runlist *runlist, uint32_t group);
/* What the group has had of the engine so far, in ns. */
uint64_t runlist_work(struct runlist *runlist, uint32_t group);

/* The records of context switches from the nextth on, which begins at 0 and is moved on; owners are
 * indices of processes. All up to ret_until are there if fewer than room are returned. ret_lost:
 * some before these are no longer kept. */
unsigned runlist_records(struct runlist *runlist, uint64_t *next, struct schedule_record *records,
        unsigned room, uint64_t *ret_until, bool *ret_lost);
/* How long the engine has been idle until now, and the process that has it, or
 * RUNLIST_NONE. */
void runlist_busy(
        struct runlist *runlist, uint64_t *ret_now, uint64_t *ret_idle, uint32_t *ret_process);
