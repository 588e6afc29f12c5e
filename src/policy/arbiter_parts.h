/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of the arbiter (policy/arbiter.h) to each other: its state, and what the files do for
 * one another. Nobody else includes this. d and t are a device and a tenant by their places, times
 * nanoseconds of the caller's clock, parts ppm.
 */
#pragma once

#include <string.h>

#include "base/cleanup.h"
#include "policy/arbiter.h"

#define PPM         1000000u
#define NONE        UINT32_MAX
#define POOL        ARBITER_MAX_TENANTS /* the turn of all who share theirs by slices */
#define PERIOD      (50 * ARBITER_MS)
#define CALL_CREDIT (20 * ARBITER_MS) /* time of calls that may be saved up */
#define NAP_MIN     (ARBITER_MS / 20)
#define ROUND_STAYS (500 * ARBITER_MS)
#define PAST        64u /* predictions that are kept, at least 1/2 ms apart */
/* A loop is one as long as that when it has nothing to do, or nobody beside it. */
#define ARB_LOOP_LASTS (1000 * ARBITER_MS)
/* A turn that is kept by the clock ends so much later, and more would not do. */
#define ARB_KEEPS_MOST (ARBITER_MS / 2)

enum call {
        CALL_SLICE,
        CALL_MODE,
        CALL_SWITCH,
        CALLS,
};

/* Whose turn a tenant waits for. */
enum turn {
        TURN_FREE, /* nobody's: it stays enabled */
        TURN_OWN,
        TURN_POOL,
};

struct flight {
        bool under_way;
        uint64_t since; /* or when it failed */
        unsigned failures;
        uint32_t epoch; /* of the groups that it is for */
};

/* One tenant on one device. */
struct seat {
        bool present;
        bool seen; /* sight holds something */
        uint64_t seen_since;
        struct arbiter_sight sight;
        struct account account;
        uint64_t offered_ns; /* what it would have got with a full queue; ever growing */
        uint64_t on_ns;      /* time enabled */
        struct {
                uint64_t at, used_ns, offered_ns, starts, wanted_ns, doubt_ns;
                uint64_t predicted_ns, ahead_ns; /* in them, and not measured yet */
                uint64_t sight_at;               /* what was seen was of then */
        } mark;                                  /* where the window of judgement began */
        struct {
                uint64_t at, predicted_ns;
        } past[PAST]; /* what was predicted, ever growing */
        unsigned pasts;
        uint64_t predicted_ns;
        uint64_t probed_pause_ns; /* what a probe has found, 0: nothing */
        uint64_t probe_used;      /* the account's best when the device's last probe began */
        uint64_t lost_ns;         /* of its turns, by probes; not made up for yet */
        enum arbiter_kind kind;
        bool first;             /* served before the rest, as it comes and goes */
        bool stands_back;       /* it would be, had the rest not got too little */
        unsigned streak;        /* windows in which a sporadic tenant looked synchronous */
        uint64_t loop_since;    /* it has been a loop */
        uint64_t loop_seen;     /* as one, its pauses showed last, or it had turns */
        bool was_loop;          /* for long, where its pauses showed last */
        uint64_t rested;        /* it has had no work since then, when it was found to have none */
        bool rests;             /* that its launches say, of which records do not say it yet: */
        uint64_t rest_launched; /* the last one */
        uint64_t rest_since, rest_starts; /* when that was found, and what was recorded by then */
        uint64_t untold_until;            /* what it launches does not tell that */
        uint64_t on_since;                /* enabled, if it was ever disabled */
        bool strayed;                     /* and in the last window looked like none */
        bool settled_kind;                /* judged over a window at least once */
        uint32_t fill_ppm;                /* of what was offered it used, last window */
        uint32_t alone_ppm;               /* the same while it was alone, PPM where it is much */
        uint64_t pause_ns;                /* and mean time without work between them, 0: unknown */
        uint64_t run_ns;      /* mean time on the engine between two idle moments, 0: unknown */
        uint64_t mean_run_ns; /* the same, over about a third of a second */
        double lately_slices, lately_starts; /* used, over about a second */
        double lately_used, lately_offered;  /* the same, ns */
        uint64_t queued_since;               /* it has been one with a backlog, and fills turns */
        uint64_t worked;                     /* when it was last seen to use the device */
        uint64_t wait_ppm;                   /* part of the window with work, PPM if unknown */
        int64_t rate_ppm;                    /* of the device that it used, last window */
        int64_t mean_ppm;                    /* the same, over about a third of a second */
        int64_t owed_ns; /* of its guarantee, while it had a backlog or was a loop */
        uint64_t trial_at, trial_pause;
        bool trial; /* takes turns to see whether it fills one */
        unsigned target_ppm;
        enum turn turn;

        uint64_t slice_us, slice_wanted;
        bool thread_block, thread_block_wanted;
        bool disabled, disabled_wanted;
        bool in_part; /* some groups may be disabled, not all: a call has failed, or new ones came
                       */
        uint32_t epoch;
        struct flight flight[CALLS];

        uint64_t turn_used; /* the account's best when its turn began, as it is known now */
        uint64_t turned_before;
        uint64_t turned_at[2]; /* when its last turn began: of a cluster, of this device alone */
        unsigned target_then;  /* at that time */
        uint64_t period_used;  /* the same, of its period */
        uint64_t cap_used;     /* the same, when its cap came, or changed */
        int64_t budget;
};

struct tenant {
        uint64_t id; /* 0: free */
        struct arbiter_terms terms;
        unsigned count;
        unsigned device[ARBITER_MAX_DEVICES];
        unsigned phase_ppm; /* of the period */
        uint64_t cap_since; /* its cap has been so since then */
        uint64_t period_begun, period_end;
        bool capped_off;
};

/* Who has the turn on some devices. */
struct turns {
        uint32_t devices; /* bits */
        bool alone;       /* one device, while it is the turn of somebody who is not there */
        uint32_t holder;  /* tenant, POOL or NONE */
        bool kept;        /* both who take turns were left to keep them by the clock */
        uint64_t entered; /* turns are taken since then */
        uint64_t begun, end;
};

struct device {
        unsigned count;
        uint32_t order[ARBITER_MAX_TENANTS]; /* tenants with a seat here */
        uint64_t settled;
        bool stale;       /* targets and slices are to be worked out again */
        uint64_t changed; /* when they were, last time */
        uint64_t round, round_since;
        uint64_t round_due;        /* what it will be when that one has stayed long enough */
        unsigned active;           /* when the round was chosen */
        bool latency;              /* somebody is served first */
        uint32_t switching_ppm;    /* what that costs everybody */
        uint64_t no_latency_until; /* it was too much for the rest */
        uint64_t latency_pause;    /* how long it will stand back next time */
        uint64_t set;              /* when slices were set last */
        double comings;            /* of groups, and goings, over about two seconds, */
        uint64_t came;             /* up to the last of them */
        bool restless;             /* there are many: queues take turns */
        bool patient;              /* nobody else needs turns here */
        bool only_loops;           /* nobody else takes turns */
        bool urgent;               /* somebody's terms changed: not bound by the call budget */
        unsigned cluster;
        struct turns alone;
        uint32_t probed; /* tenant whose pauses are looked at, NONE: nobody's */
        uint64_t probe_begun;
        uint64_t probe_from; /* the others' slices are short since then, 0: not yet */
        uint64_t probe_end;  /* it is given up then */
};

struct arbiter {
        unsigned devices;
        struct arbiter_costs costs;
        uint64_t period;
        uint64_t next;
        uint64_t looked; /* last step */
        int64_t call_budget;
        uint64_t disable_lead, enable_lead; /* from decision to effect */
        unsigned batch;
        unsigned top; /* one above the highest tenant in use */
        struct tenant tenant[ARBITER_MAX_TENANTS];
        struct device device[ARBITER_MAX_DEVICES];
        struct turns cluster[ARBITER_MAX_DEVICES]; /* of devices that belong together, kept at the
                                                      first of them */
        struct seat seat[];                        /* by device and tenant */
};

static inline struct seat *seat_of(struct arbiter *arbiter, unsigned device, uint32_t tenant)
{
        return &arbiter->seat[(size_t)device * ARBITER_MAX_TENANTS + tenant];
}

static inline bool is_capped(const struct tenant *tenant)
{
        return tenant->terms.cap > 0 && tenant->terms.cap < 100;
}

static inline bool is_running(const struct seat *seat)
{
        if (seat->disabled || seat->rests)
                return false;
        return seat->kind != ARBITER_IDLE || seat->sight.demand == ARBITER_DEMAND_WORK;
}

/* Whether it is known to take the engine from others, not only assumed. */
static inline bool is_contending(const struct seat *seat)
{
        if (seat->disabled)
                return false;
        return seat->sight.demand == ARBITER_DEMAND_WORK ||
               (seat->sight.used_known && seat->settled_kind && seat->kind == ARBITER_BACKLOGGED);
}

static inline uint64_t slice_in_force(const struct seat *seat)
{
        unsigned groups = seat->sight.groups ? seat->sight.groups : 1;

        return (seat->slice_us ? seat->slice_us : 2048) * groups;
}

static inline uint64_t part_of(uint64_t whole, unsigned percent)
{
        return whole / 100 * percent;
}

/* A guarantee is kept to it at every moment, not only when it comes. */
static inline bool has_claim(enum arbiter_kind kind)
{
        return kind == ARBITER_BACKLOGGED || kind == ARBITER_SYNCHRONOUS;
}

static inline void arb_enabled(struct seat *seat, uint64_t now)
{
        if (seat->disabled)
                seat->on_since = now;
        seat->disabled = false;
}

/* arbiter.c */
/* NULL: no such tenant on that device. */
struct seat *arb_find_seat(struct arbiter *arbiter, uint64_t id, unsigned device);

/* arbiter_use.c */
/* How often groups have come or gone lately. */
double arb_comings(const struct device *device, uint64_t now);
/* Time has passed on a device, or on all, with nothing changed since: what everybody had of it. */
void arb_settle(struct arbiter *arbiter, unsigned d, uint64_t now);
void arb_settle_all(struct arbiter *arbiter, uint64_t now);
/* What was offered since its use was measured last. */
uint64_t arb_ahead(const struct seat *seat);
/* The window over which a tenant is judged begins now. */
void arb_mark(struct seat *seat, uint64_t now);

/* arbiter_turns.c */
/* Whether the two who take turns on a device keep them by the clock: whose turn it is and the
 * other; when that ends, and how long theirs are. */
bool arb_kept_turns(struct arbiter *arbiter, unsigned d, struct seat *ret_two[static 2],
        uint64_t *ret_end, uint64_t ret_length[static 2]);

/* arbiter_caps.c */
/* The rest of the period that now lies in, with its part of the budget. */
void arb_start_period(struct arbiter *arbiter, struct tenant *tenant, uint32_t t, uint64_t now);
/* How long periods are: to be called when somebody with a cap has come or gone. */
void arb_choose_period(struct arbiter *arbiter, uint64_t now);
/* Switches a capped tenant off when its budget is used up. When to look again. */
uint64_t arb_watch_cap(struct arbiter *arbiter, uint32_t t, uint64_t now);
/* Its terms have come or changed. */
void arb_begin_cap(struct arbiter *arbiter, uint32_t t, uint64_t now);

/* arbiter_kinds.c */
/* It has had a backlog for so long that it is a queue, and none that works off a few requests. */
bool arb_is_queue(const struct seat *seat, uint64_t now);
/* What part of its time a tenant that has work would use if it waited for nobody. */
double arb_busy_part(const struct seat *seat);
/* What its guarantee is of so much time. */
int64_t arb_due_of(const struct device *device, const struct seat *seat,
        const struct tenant *tenant, uint64_t span);
/* Whether a loop has nothing more to do, by its launches: said sooner than by records, which tell
 * nothing of who has his turn and does not use it. */
void arb_notice_rest(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t now);
/* What kind it is, if its window is over. */
void arb_judge(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t now);

/* arbiter_probes.c */
/* Others with work, besides whom a tenant's pauses can be seen. */
unsigned arb_others_with_work(struct arbiter *arbiter, unsigned d, uint32_t t);
/* Whether it may be probed; to begin it, and to end it: again: soon once more. */
bool arb_may_probe(struct arbiter *arbiter, unsigned d, uint32_t t);
void arb_begin_probe(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t now);
void arb_end_probe(struct arbiter *arbiter, unsigned d, uint64_t now, bool again);
/* When all have the slices of a probe, its window begins. */
void arb_watch_probe(struct arbiter *arbiter, unsigned d, uint64_t now);
/* It has work nearly all the time, and has less than half of what it is due, while nobody is served
 * first. */
bool arb_is_starved(struct arbiter *arbiter, unsigned d, uint32_t t);
/* Whether it is a loop, its pauses being between least and most; where that is open, a probe is
 * begun if it may be. */
bool arb_is_synchronous(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t least,
        uint64_t most, uint64_t limit, uint64_t now);

/* arbiter_slices.c */
/* s_i of everybody who is active. */
void arb_set_targets(struct arbiter *arbiter, unsigned d);
/* So much of a guarantee may be owed before priority stands back, and so much is. */
int64_t arb_owed_limit(const struct seat *seat, const struct tenant *tenant);
int64_t arb_owed_to(const struct device *device, const struct seat *seat,
        const struct tenant *tenant, uint64_t now);
/* Slices, modes and turns that are wanted, from the targets. */
void arb_set_slices(struct arbiter *arbiter, unsigned d);

/* arbiter_turns.c */
/* Who takes turns, with a round of that length. */
void arb_assign_turns(struct arbiter *arbiter, unsigned d, uint64_t round, bool latency);
/* All with a backlog, but small ones, are queues of the same priority, and several: what somebody
 * is that comes shows by slices only, and who has priority is served first. */
bool arb_are_queues(struct arbiter *arbiter, unsigned d);
/* Only loops take turns, whose kernels are of like length. */
bool arb_are_like_loops(struct arbiter *arbiter, unsigned d);
/* Which devices take turns together. */
void arb_find_clusters(struct arbiter *arbiter);
/* Whether a turn of that row, a tenant or POOL, is its. */
bool arb_in_row(const struct seat *seat, uint32_t t, uint32_t row);
/* Passes the turn on when it is over or of no use. When to look again. */
uint64_t arb_take_turns(struct arbiter *arbiter, struct turns *turns, uint64_t now);
