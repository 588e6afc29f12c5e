/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the records of an engine's context switches tell of its owners (processes): GPU time used,
 * whether they have work, how often they ran out of it and for how long. Pure: no clock, no I/O, no
 * allocation. One struct for each device. Times are nanoseconds of one steady clock.
 *
 * A record says that an owner has the engine from then on (start), or has it no more and its state
 * is saved (end). Beside these the reader must know which slices are in force and whose channels
 * were switched off when. Constants and rules are an H100's, docs/probes.md:
 *
 * - A run is longer than the work in it by a constant: costs.cut where it was preempted in the
 *   middle of a kernel, costs.idle where the owner had run out of work or thread blocks were waited
 *   for, costs.off where its channels were disabled.
 * - The hardware looks for another owner when a slice ends, and at once when the one who has the
 *   engine runs out of work. So a run of some slices and a little was cut; one that ended elsewhere
 *   ended for want of work; and at each slice's end that a run goes past, nobody else was waiting.
 * - A slice of n "microseconds" lasts n * 1.024 us.
 * - An owner without work keeps the engine until another wants it. So a run says how long its owner
 *   worked only while another was known to wait; the rest is in question. How much of
 *   what is in question was work, the engine's busy samples say, each for its own time: of them is
 *   taken off what is known to be work or switching. This part is taken to be the same for all
 *   owners who come and go in that time, which is so on average if requests come at random to all
 * of them; where one of them is a loop the records leave open how much each worked. Until a sample
 *   has come, the part is that of the one before.
 *
 * A pause lies between running out of work and having some again; the former is seen to the
 * microsecond, the latter only to the slice of whoever had the engine meanwhile. wanted_ns counts
 * the shortest pauses that fit, doubt_ns by how much they can have been longer.
 *
 * Reading records has its price: on an H100 each one costs RM some 50 us of system time, as it
 * looks two channels up in a list of all (640 of 32 tenants), so that 32 queues with slices of 1.6
 * ms, 616 switches a second, cost 7 % of a core. Where many owners all have a backlog and nothing
 * changes, records say again and again what follows from the slices: then the model may rest. While
 * it rests nothing is recorded; who was cut in the round before is credited by his slice, of what
 * all together were recorded to work before. Then all are looked for again, for about a round.
 * Anything that is told, and who more than now and then does not use up his slice, ends this until
 * nothing has changed for SWITCHES_STEADY; slices that are set end it for a round only, if all
 * together stay as long, since what follows from that is known. A rest is an eighth of the time
 * since somebody came or went, within SWITCHES_REST_SHORT and SWITCHES_REST. Who runs out of work,
 * or has some again, while it rests is seen when that ends: by so much one may be counted wrong, or
 * be taken for one without work.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "policy/switches_question.h"
#include "proto/turns.h"

#define SWITCHES_OWNERS    128u /* who has not had the engine for longest is forgotten first */
#define SWITCHES_SNAPSHOTS 1024u
#define SWITCHES_STEP      (2 * 1000000ull) /* between snapshots at least: these reach 2 s back */
#define SWITCHES_TICK      1024u            /* ns: what RM calls a microsecond of a slice */
#define SWITCHES_SLICE     (2048u * SWITCHES_TICK) /* the driver's own */
#define SWITCHES_EVENTS    512u /* calls that are told and lie after the last record */

#define SWITCHES_STEADY     (2000 * 1000000ull) /* without a change, before the first rest */
#define SWITCHES_REST       (1000 * 1000000ull) /* at most */
#define SWITCHES_REST_SHORT (250 * 1000000ull)  /* at most, soon after somebody came or went */
#define SWITCHES_REST_LEAST 8u /* with work: of fewer the records cost a percent of a core */

struct switches_costs {
        uint64_t cut_ns, idle_ns, off_ns; /* what a run is longer than the work in it */
        uint64_t restore_ns;              /* from an end to the next start */
};
#define SWITCHES_COSTS_H100                                                                        \
        {                                                                                          \
                98000, 58000, 83000, 79000                                                         \
        }

enum switches_demand {
        SWITCHES_UNKNOWN,
        SWITCHES_NONE,
        SWITCHES_WORK,
};

/* How a run ended. */
enum switches_end {
        SWITCHES_NEVER, /* it has not had the engine */
        SWITCHES_CUT,   /* it has work left */
        SWITCHES_IDLE,
        SWITCHES_OFF, /* its channels were disabled */
};

struct switches_owner {
        uint32_t id; /* 0: free */
        uint64_t seen;
        uint64_t slice_ns;
        bool thread_block;
        bool disabled;
        uint64_t switch_from, switch_to; /* the last call that disabled or enabled it */
        struct cleave_turns turns;
        uint64_t turns_seen; /* what follows from them is told up to then */
        bool turns_off;      /* that it keeps off */
        enum switches_end end;
        bool guessed;           /* that is taken to be as before */
        bool made_room;         /* it ended as another was enabled */
        enum switches_end told; /* of the last run whose end was seen and not made by disabling */
        uint64_t ended;         /* when it had no work, or no engine, any more */
        uint64_t since;         /* it has had work since then, as far as it has any */
        uint64_t asleep; /* when it was disabled it had had no work since then, nor has it come; 0:
                            it may have */
        int64_t sure_ns; /* work */
        int64_t judged_ns;           /* was in question: the part of it that was work */
        int64_t corrected_ns;        /* by what samples have said of the time before them */
        uint64_t last_from, last_to; /* of its last run */
        uint32_t part_ppm;           /* of what was in question lately */
        bool sampled;                /* so a sample has said */
        uint32_t off_ppm;            /* part of the last sample's time that it was disabled */
        unsigned cuts;               /* of its last runs in a row that were as long as if cut */
        uint64_t shown_ns;
        uint64_t first; /* when it was first seen */
        uint64_t starts, pause_ns, doubt_ns;
        uint64_t burst_ns; /* how much it ran since it had work again */
        uint64_t short_ns; /* how much it runs at a time, of the shortest lately; 0: not known */
        struct question question; /* no sample has come yet */
        struct question off;      /* it was disabled; what is on is not in it yet */
        uint64_t ran_ns;          /* work in its runs since all became steady */
        unsigned whole, idles; /* runs since then that were seen to begin and to be cut; that ended
                                  for want of work */
        unsigned fresh;        /* as whole, or since the last rest */
        unsigned ends;         /* runs since the last rest */
        uint64_t came; /* when it last had work again after a pause that was none of an instant */
        double rate;   /* of time, in this rest or in the last; 0: it was not of those */
        int64_t rested_ns; /* used until its last end before that */
        uint64_t rested;
};

/* A call, to be taken in when all records before it have come. */
struct switches_event {
        uint64_t at;
        uint32_t id;
        enum {
                SWITCHES_CALL,
                SWITCHES_SET_SLICE,
                SWITCHES_SET_MODE,
                SWITCHES_DISABLE,
                SWITCHES_ENABLE
        } type;
        uint64_t value; /* us; or whether thread block */
        uint64_t from, to;
};

struct switches_snapshot {
        uint64_t at;
        int64_t sure_ns, switch_ns; /* of all owners, ever growing but for corrections */
};

struct switches {
        struct switches_costs costs;
        uint64_t now;                                 /* all records up to here have come */
        struct switches_event event[SWITCHES_EVENTS]; /* in the order of their times */
        unsigned events;
        uint32_t free;    /* owners[] from here on were never used */
        uint32_t turning; /* of them, so many keep turns */

        struct switches_owner *holder; /* NULL: nobody, or not known */
        uint64_t begun, settled;       /* of its run */
        int64_t certain;               /* of the run: others are known to have waited */
        uint64_t slice_ns;             /* the longest that was in force in the run */
        bool changed;                  /* another was set meanwhile */
        bool disturbed;                /* some call was made meanwhile */
        uint64_t called;               /* the last call began */
        bool sure;                     /* another is known to wait */
        struct {
                struct switches_owner *owner; /* NULL: there was none */
                uint64_t begun, left;         /* left: when the hardware decided */
                uint64_t before; /* at this moment nobody else was waiting, 0: unknown */
        } last;
        uint64_t freed; /* when the last run ended */

        int64_t sure_ns, switch_ns;
        struct switches_snapshot snapshot[SWITCHES_SNAPSHOTS];
        unsigned snapshots; /* taken, ever */
        uint64_t sampled;   /* the samples that were told reach to here */
        uint32_t busy_ppm;  /* what the last of them said */
        uint64_t busy_from; /* when that began */

        struct {
                bool on;
                bool waking;   /* not all who were credited have been seen since */
                bool partial;  /* the first end on record is of a run that began before */
                bool nobody;   /* none was seen: who has the engine now, samples must say */
                bool unsteady; /* something has changed since the last look */
                bool told;     /* slices have been set since then, or begun anew */
                bool learnt;   /* work and switching are those of the time since steady */
                uint64_t steady, from, until, woken, credited;
                int64_t switched;       /* switch_ns when all became steady */
                double work, switching; /* parts of the time, */
                double slices;          /* with slices of so much together */
        } rest;

        struct switches_owner owner[SWITCHES_OWNERS];
};

struct switches_sight {
        uint64_t used_ns; /* best guess: falls where what was in question was not work */
        uint64_t
                counted_ns; /* to be shown: never falls; without what no sample has spoken of yet */
        int64_t corrected_ns; /* by so much, in all, used_ns has changed for what was before */
        enum switches_demand demand;
        uint64_t since;
        uint64_t starts, wanted_ns, doubt_ns; /* but for small corrections ever growing */
        uint64_t
                short_ns; /* it works so long at a time, as far as pauses were seen; 0: not known */
};

/* costs: NULL for an H100's. */
void switches_init(struct switches *switches, const struct switches_costs *costs, uint64_t now);

/* A call for any owner begins, of those that follow. It may end the run that is on, or begin its
 * slice anew. */
void switches_call(struct switches *switches, uint64_t at);
/* A slice or mode is in force for an owner since then; 0 us: the driver's own slice. */
void switches_slice(struct switches *switches, uint32_t id, uint64_t at, uint64_t slice_us);
void switches_mode(struct switches *switches, uint32_t id, uint64_t at, bool thread_block);
/* From at on an owner keeps these turns by itself, and no others: while it keeps off it is as if
 * disabled, but that there are no calls. To be told before the records of that time. */
void switches_keep(
        struct switches *switches, uint32_t id, uint64_t at, const struct cleave_turns *turns);
/* An owner's channels were disabled or enabled by a call between these times. Calls are to be told
 * before the records of their time, one that disables also when it begins (to: the same as from).
 */
void switches_off(
        struct switches *switches, uint32_t id, uint64_t from, uint64_t to, bool disabled);
/* The next record. */
void switches_record(struct switches *switches, uint32_t id, uint64_t at, bool start);
/* Records are missing: nobody is known to have the engine. */
void switches_lost(struct switches *switches, uint64_t now);
/* All records up to now have come. */
void switches_look(struct switches *switches, uint64_t now);
/* For so much of this time the engine was busy, and at its end that owner had it (0: not known).
 * Samples before the last one told are ignored. */
void switches_busy(
        struct switches *switches, uint64_t from, uint64_t to, uint64_t busy_ns, uint32_t id);
/* How long after the last question for samples to ask again, ns; 0: nothing is in question. */
uint64_t switches_wants_busy(const struct switches *switches);
#define SWITCHES_ASK       (500 * 1000000ull)
#define SWITCHES_ASK_OFTEN (200 * 1000000ull) /* while somebody is held back by what he uses */
#define SWITCHES_ASK_FIRST (100 * 1000000ull) /* while it is not known who has the engine */

/* For how long records can be done without from now on, ns; 0: they cannot. */
uint64_t switches_may_rest(const struct switches *switches);
/* switches_may_rest() said so, and from now on nothing is recorded. Looks go on. */
void switches_rest(struct switches *switches, uint64_t now);
/* It rests, and must not any longer. */
bool switches_must_wake(const struct switches *switches, uint64_t now);
/* All is recorded again since now. Where it has not rested lately, nothing is done. */
void switches_wake(struct switches *switches, uint64_t now);

/* -ENOENT: it has never had the engine. */
int switches_sight(struct switches *switches, uint32_t id, struct switches_sight *ret);
