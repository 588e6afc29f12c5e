/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The arbiter of compute in time: who may use the graphics/compute engine of which device, how
 * much and when. A pure state machine: the clock is an argument (nanoseconds, any steady clock),
 * what is seen is told to it, what is to be done it returns; no I/O, no globals, and no allocation
 * after arbiter_new(). The same calls in the same order give the same actions.
 *
 * Four means, all offered by a stock driver:
 *
 * Slices (weights). A channel group's slice is its share of a round:
 *
 *      slice_i = s_i * round        work_i = slice_i / (sum(slice) + n * switch) * (1 - drag)
 *
 *   s_i is the guarantee, plus the parts that active tenants leave: first to priority high, then
 *   normal, then low, within a class by weight (default: the same for all) to those without a cap,
 *   then up to their cap to those with one. Nobody who is active is set below ARBITER_FLOOR.
 *   switch = 230 us (thread-block mode 138), drag = 1.7 %, H100. The round is as long as
 *   switching needs to cost ARBITER_SWITCH_LOSS, but at most ARBITER_ROUND_MAX, and only so long
 *   that nobody's part of a window that cuts a round is off by more than ARBITER_WINDOW_OFF,
 *   which is round * s * (1 - s): 36 ms at one half, 0.9 points of 1 s. Where a tenant that keeps
 *   going idle gets less than it is due, the round shrinks until its slice is no longer than its
 *   bursts (not below ARBITER_ROUND_MIN): it waits less for the others.
 *
 * Duty cycles (caps). In each period a capped tenant has budget cap * period + carry; when it has
 *   used that up on any of its devices, its channels are disabled on all of them until its next
 *   period begins, so that its GPUs keep one phase. Over-use is carried, but never more than it
 *   may use in ARBITER_DEBT: that much comes of time in which nothing could be disabled, as when
 * the steering process was killed. Under-use is carried only where our own call came early, and at
 *   most ARBITER_CREDIT, or what such a call takes if that is more: no idle time is saved up, and
 * who has less in a period than a call takes has it every few periods. Periods begin at an offset
 * of the tenant's own, chosen when it comes so that the duty times of those who share a device with
 * it overlap least. The budget is of GPU time as measured; where use is not known it is of
 * predicted time, and a neighbour's unnoticed pause lets the cap be exceeded. In turns a cap may be
 * ahead by what a turn is longer than its budget, and where a guarantee is owed, by that: of slices
 * two may fall into one period and one into the next. It is kept back later.
 *
 * Turns. A tenant that launches, waits and launches again is idle for some 10 us after each
 * kernel, and loses the engine for a whole round each time: 0.21 + 0.21. It is worth holding the
 * engine idle for it as long as its pause is shorter than switching away and back (2 * 138 us). If
 * its slices, of which it uses one run a round, would not give it what it is due, it and everybody
 * with a backlog (also who comes and goes but takes more than he is due, two switches for each of
 * his runs counted in, or much at a time) get the device in turns of about ARBITER_TURN, as
 * long as their shares, while the others' channels are disabled: two calls, 0.5 ms lost a turn,
 * 0.419 + 0.419. Where only such loops take turns somebody waits for each, and they are shorter, as
 * a late call comes on top of that: 3/5 of it, and 2/5 among loops of like kernels
 * (3/4 where a loop and one other take turns). Of the latter the
 * next is enabled before the last is disabled, so that they meet for the time of a call, each in
 * the other's pauses, in place of an engine that is idle for as long. Small shares have one turn
 * together and divide it by slices. A tenant that only now and then has something to do takes no
 * part and stays enabled. Devices that a tenant with turns has in common take turns together: it
 * has its turn on all of them at once; where the one whose turn it is has nothing, the others of
 * that device alone take turns among themselves. The next turn is that of whoever has waited
 * longest, and not shorter than nearly what it is due of that time, less what it had of it beyond
 * its part: calls may take 0.1 s, as the driver makes none while it takes down the contexts of a
 * process that has died; one in which its holder had next to nothing, as somebody else comes first,
 * goes on, at most for thrice its length and ARBITER_FRAME_MAX, or does not count. Who
 * has it and rests, by his launches or by the records, passes it on. Pauses are known
 * from arbiter_sight.starts and .wanted_ns; where these are unknown, a tenant that leaves its
 * slices unused is tried out with a turn, and if it leaves that unused too, not again before a time
 * that doubles from ARBITER_TRIAL_MIN to ARBITER_TRIAL_MAX. Where pauses are known only to a slice
 * of the others (arbiter_sight.doubt_ns) and that leaves open what a tenant is, it is probed: for
 * some 60 ms the others' slices are ARBITER_SHORT and its own is long, so that its pauses show;
 * again after the same doubling times; turns are longer than their part of a frame, by a third,
 * until what was lost by it is made up for. It ends with whatever is found, when a cap switches off
 * who is probed, and after 0.2 s. Beside several others that may leave it open, too: then it stays
 * what it is, and who has work nearly all the time and less than half of what he is due takes turns
 * at once, as that costs nobody what is his, and as long as he fills them. Who has priority over
 * another is served first instead, which is a probe that lasts. Nobody brings turns about whom
 * nobody owes anything. Turns, of up to twice ARBITER_TURN, are also taken among queues while
 * channel groups come and go all the time, but for those that a tenant makes as it begins: each is
 * given its slice by a call that begins the hardware's list anew, and by slices who stands late in
 * it has too little. Not where somebody is not known to be a queue yet, whose pauses would not
 * show, nor where one has priority over another.
 *
 * Preemption mode. Thread-block where blocks are known to last at most 1/50 of the slice (the slice
 *   is overrun by half a block on average, that is by 1 %), instruction level otherwise.
 *
 * Priority. High with a backlog gets whatever is not guaranteed to others. High (or normal above
 *   low) that comes and goes: a long slice for it and ARBITER_SHORT for the rest, so that it waits
 *   ARBITER_SHORT and a switch at most; the rest, if several are backlogged, take turns among
 *   themselves, since short slices against each other would lose half. A slice that ends while
 *   nobody else waits costs nothing. H100, 50 ms against 1 ms: p99 17 ms, against 0.2 ms 5.9, 0.1
 * ms 5.4, 0.05 ms 4.8, each time with 0.61 for the neighbour; the driver's own 2 ms collapsed. Who
 *   comes and goes and uses less than his guarantee is served first in the same way. This
 *   ends when it has been gone for ARBITER_LINGER, and for a time that doubles as soon as somebody
 * of the rest, with a backlog or a loop, is behind with a guarantee: of the time that is given out,
 * as two switches for each request are nobody's, up to a fifth of all.
 *
 * What the calls cost (a slice 300 us, disabling 240-650 us, enabling 160-390 us, for up to 64
 * channels): slices change only when somebody begins, ends or changes his kind, and then only as a
 * budget of ARBITER_CALL_SHARE of one core allows, excepted changes of terms and slices that are
 * off by more than two times where somebody has a guarantee. They also cost others their turn: each
 * call that sets a slice begins the hardware's list of groups anew (docs/probes.md, "Slices"), and
 * where such calls come more often than once in a round, who stands late in it has nothing at all
 * (H100, 32 queues, a call each 30 ms: 17 of them stood still for a second). So all that are wanted
 * go together, and not oftener than each 100 ms, or 50 where a guarantee does not stand, unless
 * somebody's terms changed. Periods are 50 ms, or 100 ms where that would take more than 1 % of a
 * core for each capped tenant and 1 % above. Turns are 2 calls each 8 ms, about 6 % of a core
 * while two such loops compete: the price of their 9 ms wait.
 *
 * How the daemon uses it
 *      arbiter_admit() / _change() / _leave()  as grants come, change and go
 *      arbiter_observe()   before each step, for each tenant and device with news
 *      arbiter_step()      at arbiter_next(), and at once after any of the above that matters
 *      arbiter_acted()     as each call of RM returns: when, and its result
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "policy/arbiter_account.h"

#define ARBITER_MAX_DEVICES 16u
#define ARBITER_MAX_TENANTS 128u
#define ARBITER_MAX_ACTIONS 512u /* of one step, at most */

#define ARBITER_MS          1000000ull
#define ARBITER_ROUND_MIN   (8 * ARBITER_MS)
#define ARBITER_ROUND_MAX   (52 * ARBITER_MS)
#define ARBITER_WINDOW_OFF  (9 * ARBITER_MS)
#define ARBITER_SWITCH_LOSS 12500u /* ppm */
#define ARBITER_FLOOR       5000u  /* ppm */
#define ARBITER_SLICE_MIN   50u    /* us */
#define ARBITER_SHORT       50u    /* us */
#define ARBITER_LONG        50000u /* us */
#define ARBITER_TURN        (10 * ARBITER_MS)
#define ARBITER_TURN_LOSS   (ARBITER_MS / 2)
#define ARBITER_FRAME_MAX   (100 * ARBITER_MS)
#define ARBITER_CREDIT      (ARBITER_MS / 2)
#define ARBITER_DEBT        (500 * ARBITER_MS)
#define ARBITER_CALL_SHARE  10000u              /* ppm of a core */
#define ARBITER_LOOK        (10 * ARBITER_MS)   /* between steps while somebody has work */
#define ARBITER_STEADY      (2000 * ARBITER_MS) /* after which without a change REST is enough */
#define ARBITER_REST        (20 * ARBITER_MS)   /* while nobody has */
/* while on each device in use many have a backlog and only slices hold: of 32 tenants a step takes
 * 0.2 ms, and none of them could be given much more before the next */
#define ARBITER_REST_MANY (50 * ARBITER_MS)
#define ARBITER_MANY      8u
#define ARBITER_LINGER    (300 * ARBITER_MS) /* so long a sporadic tenant is waited for */
#define ARBITER_WINDOW    (40 * ARBITER_MS)  /* over which a tenant's kind is judged */
#define ARBITER_TRIAL_MIN (1000 * ARBITER_MS)
#define ARBITER_TRIAL_MAX (30000 * ARBITER_MS)

enum arbiter_priority {
        ARBITER_LOW,
        ARBITER_NORMAL,
        ARBITER_HIGH,
};

/* What a grant says about compute, the same on each of its devices. */
struct arbiter_terms {
        unsigned share;  /* guaranteed, percent, 0 to 100 */
        unsigned cap;    /* at most, percent, 1 to 100, not below share; 0 and 100: none */
        unsigned weight; /* of idle time, 1 to 1000; 0 is taken as 100 */
        enum arbiter_priority priority;
};

enum arbiter_demand {
        ARBITER_DEMAND_UNKNOWN, /* then inferred from what is used */
        ARBITER_DEMAND_NONE,
        ARBITER_DEMAND_WORK,
};

/* What is known of a tenant on a device. Counters only grow. */
struct arbiter_sight {
        enum arbiter_demand demand;
        uint64_t since; /* clock: demand has been so since then */
        bool used_known;
        enum account_source source;
        uint64_t used_ns;     /* GPU time */
        uint64_t used_at;     /* clock: used_ns is of then, 0: of now */
        int64_t corrected_ns; /* of used_ns: the sum of what was put right later than it was used */
        uint64_t precision_ns;
        bool starts_known;
        uint64_t starts; /* times that it had nothing queued and got work */
        bool wanted_known;
        uint64_t wanted_ns; /* time with work queued or running, at most */
        uint64_t doubt_ns;  /* so much of it may have been without work, as far as can be seen */
        uint64_t short_ns;  /* it works so long at a time, as far as pauses were seen; 0: unknown */
        bool keeps_turns;   /* its programs keep to turns that they are told beforehand */
        bool launches_known; /* and say when they launched last, or waited to */
        uint64_t launched_at;
        bool blind_alone; /* starts and pauses are seen only while others have work too */
        /* Longest time that its blocks lately lasted, 0: unknown, and then it is preempted in the
         * middle of them. The daemon knows of none: nothing says how long a block runs but trying,
         * and one that never ends would keep the engine from everybody while it is tried; 92 us a
         * switch are the price. */
        uint64_t block_ns;
        unsigned groups;   /* graphics/compute channel groups with work of late, 0: taken as 1 */
        unsigned channels; /* of all these groups, for the cost of a call; 0: taken as 8 */
        uint32_t epoch;    /* one more when a group has come: it must get its settings */
};

enum arbiter_act {
        ARBITER_SET_SLICE,
        ARBITER_SET_MODE,
        ARBITER_DISABLE,
        ARBITER_ENABLE,
};

/* One thing to do to all graphics/compute groups of a tenant on a device. Neighbouring actions of
 * one batch are meant for one call (64 channels at most fit in one). To be done in their order. */
struct arbiter_action {
        enum arbiter_act act;
        uint64_t tenant;
        unsigned device;
        unsigned batch;
        uint64_t slice_us; /* SET_SLICE, for each group; a value that the hardware has exactly */
        bool thread_block; /* SET_MODE */
};

/* What a tenant is taken for. */
enum arbiter_kind {
        ARBITER_IDLE,
        ARBITER_BACKLOGGED, /* fills what it is given */
        ARBITER_SPORADIC,   /* comes and goes */
        ARBITER_SYNCHRONOUS /* pauses for less than two switches after each kernel */
};

struct arbiter_state {
        enum arbiter_kind kind;
        bool disabled;   /* in force */
        bool capped_off; /* its budget is used up until the next period */
        bool turns;      /* it takes turns */
        bool heard;      /* when it launches is worth knowing: it is a loop beside several who take
                            turns, or it rests. Beside one, records tell soon enough. */
        bool refused;    /* calls for it have failed three times in a row */
        bool thread_block; /* in force */
        uint64_t slice_us; /* in force, 0: the driver's */
        unsigned target_ppm;
        uint64_t gpu_ns; /* to be shown: never falls */
        uint64_t error_ns;
        enum account_source source;
};

struct arbiter_costs {
        uint64_t switch_ns, save_ns;              /* as in sim/schedule.h */
        uint64_t disable_ns, enable_ns, slice_ns; /* of a call, before any was seen */
};
#define ARBITER_COSTS_H100                                                                         \
        {                                                                                          \
                138000, 92000, 300000, 250000, 300000                                              \
        }

struct arbiter;

/* costs: NULL for an H100's. -EINVAL (devices), -ENOMEM. */
int arbiter_new(unsigned devices, const struct arbiter_costs *costs, struct arbiter **ret);
struct arbiter *arbiter_free(struct arbiter *arbiter);

/* Whether terms fit on these devices: guarantees add up to at most 100 on each.
 * 0; -ENOSPC: ret_available is what could be guaranteed on the fullest of them;
 * -EINVAL: terms or devices make no sense. except: a tenant not to count, or 0. */
int arbiter_fits(const struct arbiter *arbiter, const unsigned *devices, unsigned count,
        const struct arbiter_terms *terms, uint64_t except, unsigned *ret_available);
/* A tenant comes; its channels are taken to be enabled. id above 0.
 * -EEXIST, -EINVAL, -ENOSPC as above, -EUSERS (no room for another tenant). */
int arbiter_admit(struct arbiter *arbiter, uint64_t now, uint64_t id, const unsigned *devices,
        unsigned count, const struct arbiter_terms *terms);
/* -ENOENT, -EINVAL, -ENOSPC. */
int arbiter_change(
        struct arbiter *arbiter, uint64_t now, uint64_t id, const struct arbiter_terms *terms);
/* It is forgotten; calls for it that are under way need not be reported. Channels of processes that
 * live on are the daemon's to enable. -ENOENT. */
int arbiter_leave(struct arbiter *arbiter, uint64_t now, uint64_t id);

/* -ENOENT: no such tenant on that device. */
int arbiter_observe(struct arbiter *arbiter, uint64_t now, uint64_t id, unsigned device,
        const struct arbiter_sight *sight);
/* The call for an action returned at now, which is taken for when it took effect; result: 0 or a
 * negative errno. One that disables and has failed may have been done in part: it is made again, or
 * all is enabled. */
void arbiter_acted(
        struct arbiter *arbiter, uint64_t now, const struct arbiter_action *action, int result);
/* What was set on a tenant's groups is no longer in force (it changed its own slice, or the
 * steering process enabled everything): all is set again. -ENOENT. */
int arbiter_forget(struct arbiter *arbiter, uint64_t now, uint64_t id, unsigned device);

/* Who was left to keep off by himself does so no longer: if he is to be off still, he is disabled.
 * -ENOENT. */
int arbiter_let_go(struct arbiter *arbiter, uint64_t now, uint64_t id, unsigned device);

/* From some time ago until now nobody was there to do anything, nor to see what was used: it is
 * held against nobody. Caps begin a period, turns and judgements of kinds begin anew. */
void arbiter_resume(struct arbiter *arbiter, uint64_t now);

/* Decides. Returns how many of actions[ARBITER_MAX_ACTIONS] there are to do; what finds no room
 * comes with the next step. */
unsigned arbiter_step(struct arbiter *arbiter, uint64_t now, struct arbiter_action *actions);
/* When the next step is wanted. */
uint64_t arbiter_next(const struct arbiter *arbiter);
/* Turns are taken: somebody waits for that step. */
bool arbiter_is_awaited(const struct arbiter *arbiter);

/*
 * Turns that two loops of like, short kernels can keep by themselves. Who does not launch any more
 * is off the engine a kernel later: then nobody need be disabled, which takes calls, and waits for
 * whoever makes them. From one time to another, and so again each period, until told otherwise.
 */
struct arbiter_turn {
        uint64_t from, until, period;
};

/* Whether that holds for a tenant on a device now, after each step: then what the arbiter calls
 * disabled, and enabled again, need only be told. */
bool arbiter_turn_of(
        struct arbiter *arbiter, uint64_t id, unsigned device, struct arbiter_turn *ret);

/* -ENOENT. */
int arbiter_inspect(
        const struct arbiter *arbiter, uint64_t id, unsigned device, struct arbiter_state *ret);
