/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How time passes on the graphics/compute engine of a GPU: channel groups take turns in a runlist.
 * Pure: no clock, no I/O, no allocation, libc only. Times are nanoseconds of the caller's clock.
 *
 * The behaviour is that of an H100 under driver 580 as measured; a test holds this model against
 * every row of those measurements (tests/arbiter/test_model.c):
 *
 * - A group that has work and is enabled runs for its slice, then the next such group in runlist
 *   order is switched to. Groups without work are skipped. With no other to run, the slice is
 *   simply renewed, and a group that gets work meanwhile waits for the end of that slice.
 * - A group that runs out of work is left at once if another one waits: 138 us, from two loops of
 *   100 us + synchronize at 0.21 each. While nobody waits it stays resident and goes on for free.
 * - In instruction mode the slice's end preempts in the middle of a kernel: 92 us more (1000:1000
 * us gave 0.403 each, in thread-block mode 0.438). In thread-block mode the running blocks are
 *   waited for, so that the slice is overrun (5 ms blocks against 100 us: 0.28 : 0.68).
 * - Slices do not pay for the switches. Work that shares the engine runs slower by 1.7 %: what is
 *   lost in a round grows with the round beyond the price of its switches (0.50 ms in 2 ms, 0.64 ms
 *   in 10 ms, 0.82 ms in 20 ms).
 * - Disabling groups takes them off the engine at once, also in thread-block mode. It does so by
 *   preempting the runlist: whoever runs loses the rest of his slice to the next in order. Where
 *   scheduling alone is disabled, whoever runs goes on, also a group that is disabled, until it is
 *   another's turn.
 * - Setting any group's slice begins the runlist anew: its first group with work runs next, for a
 *   whole slice, and goes on for one if it is that which runs (docs/probes.md, "Slices").
 *
 * A group's work is one item at a time: when it completes, schedule_advance() says so and the
 * caller submits the next at that very instant, or lets the group go idle.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define SCHEDULE_MAX_GROUPS 512u /* more than contexts fit into the largest device */
#define SCHEDULE_NONE       UINT32_MAX
#define SCHEDULE_ENDLESS    UINT64_MAX /* work that never completes: a queue that is kept full */

enum schedule_mode {
        SCHEDULE_INSTRUCTION = 0, /* the driver's default */
        SCHEDULE_BLOCK,
};

struct schedule_costs {
        uint64_t switch_ns; /* to another group */
        uint64_t save_ns;   /* added where a kernel is preempted in its middle */
        uint32_t drag_ppm;  /* work lost while the engine is shared */
        uint64_t drag_ns;   /* the engine counts as shared so long after a switch */
};
#define SCHEDULE_COSTS_H100                                                                        \
        {                                                                                          \
                138000, 92000, 17000, 50000000                                                     \
        }
#define SCHEDULE_TICK 1024u /* ns: what RM calls a microsecond of a slice; seen in records */
/* GET_TIMESLICE answers 2048 on a new group */
#define SCHEDULE_SLICE_DEFAULT (2048u * SCHEDULE_TICK)

/* A context switch as the engine's firmware records it: an end once the state is saved, a start
 * once it is restored, SCHEDULE_RESTORE later at least. The rest of what a switch takes lies in the
 * run that it ends. */
#define SCHEDULE_RECORDS 4096u /* the newest are kept */
#define SCHEDULE_RESTORE 79000u
/* struct switches_costs of these records (policy/switches.h): a switch less the restore */
#define SCHEDULE_SWITCHES_COSTS                                                                    \
        {                                                                                          \
                138000 + 92000 - 79000, 138000 - 79000, 0, 79000                                   \
        }
struct schedule_record {
        uint64_t at;
        uint32_t owner;
        uint32_t start;
};

struct schedule_group {
        bool present;
        bool disabled;
        bool lingers;   /* it is, but runs until it is another's turn */
        uint32_t owner; /* as given to schedule_add() */
        enum schedule_mode mode;
        uint64_t slice_ns;
        uint64_t left_ns;  /* work still to do in the item, 0: idle */
        uint64_t block_ns; /* the item's blocks last so long, 0: it cannot be left in block mode */
        uint64_t done_ns;  /* of the item */
        uint64_t resident_ns; /* time it has held the engine, switches not counted; ever growing */
        uint64_t work_ns;     /* work done in that time */
        uint64_t visits;      /* how often it was switched to */
};

struct schedule {
        struct schedule_costs costs;
        uint64_t now;
        enum { SCHEDULE_IDLE, SCHEDULE_SWITCHING, SCHEDULE_RUNNING } state;
        uint32_t current;    /* running or being switched to; when idle: still loaded, or NONE */
        uint64_t switch_end; /* while switching */
        uint64_t slice_end;  /* while running */
        uint64_t shared_until;
        uint64_t idle_ns; /* nobody had work */
        uint64_t switched_ns;
        uint32_t top; /* one above the highest group present */
        bool saved;   /* current is idle, and its run has ended on record */
        bool anew;    /* the first group of the list comes next */
        bool ahead;   /* a copy that is advanced to see what will be: makes no records */
        struct schedule_group group[SCHEDULE_MAX_GROUPS];
        /* a copy may end here */
        uint64_t records; /* made so far; the kth stands at k modulo SCHEDULE_RECORDS, and may be of
                             a moment that is still to come */
        struct schedule_record record[SCHEDULE_RECORDS];
};

void schedule_init(struct schedule *schedule, const struct schedule_costs *costs, uint64_t now);

/* A new group with the default slice, idle. owner: for the records. Its number, or SCHEDULE_NONE:
 * no room. */
uint32_t schedule_add(struct schedule *schedule, uint32_t owner);
/* It and its work are gone. */
void schedule_remove(struct schedule *schedule, uint32_t group);

/* What the hardware makes of a slice: count << scale with an 8-bit count, rounded down, in us. */
uint64_t schedule_quantize(uint64_t us);
/* Takes effect when the group is next switched to, and begins the list anew. */
void schedule_set_slice(struct schedule *schedule, uint32_t group, uint64_t us);
void schedule_set_mode(struct schedule *schedule, uint32_t group, enum schedule_mode mode);
void schedule_set_disabled(struct schedule *schedule, uint32_t group, bool disabled);
/* Nobody switches to it any more; if it runs, it goes on until another's turn. */
void schedule_bar(struct schedule *schedule, uint32_t group);

/* Gives an idle group ns of work whose blocks last block_ns each. */
void schedule_submit(struct schedule *schedule, uint32_t group, uint64_t ns, uint64_t block_ns);
/* Adds ns of such work to the item that the group has, or gives it one. */
void schedule_extend(struct schedule *schedule, uint32_t group, uint64_t ns, uint64_t block_ns);
/* Takes the rest of its item back. */
void schedule_cancel(struct schedule *schedule, uint32_t group);

/* Ends the slice of the group that is running, if one is: PREEMPT and RESTART_RUNLIST. */
void schedule_expire(struct schedule *schedule);

/* Lets time pass up to until, but not beyond the completion of an item: its group, at
 * schedule->now, or SCHEDULE_NONE when until is reached. */
uint32_t schedule_advance(struct schedule *schedule, uint64_t until);

/* Nothing completes before that time, so that it need not be advanced until then, if nothing is
 * submitted, enabled or set meanwhile; UINT64_MAX: nothing is in sight. */
uint64_t schedule_next(const struct schedule *schedule);
