/* SPDX-License-Identifier: Apache-2.0 */
#include "policy/arbiter.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define PPM              1000000u
#define NONE             UINT32_MAX
#define POOL             ARBITER_MAX_TENANTS /* the turn of all who share theirs by slices */
#define PERIOD           (50 * ARBITER_MS)
#define PERIOD_LONG      (100 * ARBITER_MS)
#define CALL_CREDIT      (20 * ARBITER_MS)  /* time of calls that may be saved up */
#define CALL_LOST        (200 * ARBITER_MS) /* a call not reported back by then is made again */
#define RETRY            (50 * ARBITER_MS)
#define QUIET            ARBITER_MS /* without demand for so long, a turn is over */
#define TURN_DUE         0.875      /* less than 1: frames must not grow by what turns lose */
#define HAD_SOME         (ARBITER_SHORT * 1000 / 2)
#define NAP_MIN          (ARBITER_MS / 20)
#define STREAK           5u
#define STREAK_FIRST     3u
#define IDLE_NAP         (5 * ARBITER_MS)
#define ROUND_STAYS      (500 * ARBITER_MS)
#define POOL_ROUNDS      2
#define OWED_TIME        (60 * ARBITER_MS) /* for which nothing of a guarantee was given */
#define OVERRUN          (2 * ARBITER_MS)
#define OVERDRAFT        (20 * ARBITER_MS) /* of a budget, that is always kept back */
#define SWITCHING_MOST   (PPM / 5)         /* that guarantees make room for */
#define TURN_SMALL       60000             /* ppm: less is not worth a turn of its own */
#define GUARANTEE_MARGIN 108               /* percent */
#define PAST             64u               /* predictions that are kept, at least 1/2 ms apart */
#define PAST_STEP        (ARBITER_MS / 2)
#define FILL_LITTLE      400000u /* ppm of its turns; 10 us + synchronize fill 0.55 */
#define FILL_ALL         970000u
#define PROBE_SETTLES    (12 * ARBITER_MS) /* what was seen up to then is of the time before */
#define PROBE_MOST       (400 * ARBITER_MS)
#define LATELY           (1000 * ARBITER_MS)
#define FIRST_STARTS     2
#define PROBE_OTHERS     200u /* us, the others' slices: ends can still be told by them */

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
};

/* One tenant on one device. */
struct seat {
        bool present;
        bool seen; /* sight holds something */
        struct arbiter_sight sight;
        struct account account;
        uint64_t offered_ns; /* what it would have got with a full queue; ever growing */
        uint64_t on_ns;      /* time enabled */
        struct {
                uint64_t at, used_ns, offered_ns, starts, wanted_ns, doubt_ns;
        } mark; /* where the window of judgement began */
        struct {
                uint64_t at, predicted_ns;
        } past[PAST]; /* what was predicted, ever growing */
        unsigned pasts;
        uint64_t predicted_ns;
        uint64_t probed_pause_ns; /* what a probe has found, 0: nothing */
        enum arbiter_kind kind;
        bool first;           /* served before the rest, as it comes and goes */
        bool stands_back;     /* it would be, had the rest not got too little */
        unsigned streak;      /* windows in which a sporadic tenant looked synchronous */
        bool settled_kind;    /* judged over a window at least once */
        uint32_t fill_ppm;    /* of what was offered it used, last window */
        uint64_t pause_ns;    /* and mean time without work between them, 0: unknown */
        uint64_t run_ns;      /* mean time on the engine between two idle moments, 0: unknown */
        uint64_t mean_run_ns; /* the same, over about a third of a second */
        double lately_slices, lately_starts; /* used, over about a second */
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
        bool in_part; /* a call that disables has failed, and may have been done in part */
        uint32_t epoch;
        struct flight flight[CALLS];

        uint64_t turn_used; /* the account's best when its turn began */
        uint64_t turned_before;
        uint64_t turned_at[2]; /* when its last turn began: of a cluster, of this device alone */
        unsigned target_then;  /* at that time */
        uint64_t period_used;  /* the same, of its period */
        int64_t budget;
};

struct tenant {
        uint64_t id; /* 0: free */
        struct arbiter_terms terms;
        unsigned count;
        unsigned device[ARBITER_MAX_DEVICES];
        unsigned phase_ppm; /* of the period */
        uint64_t period_begun, period_end;
        bool capped_off;
};

/* Who has the turn on some devices. */
struct turns {
        uint32_t devices; /* bits */
        bool alone;       /* one device, while it is the turn of somebody who is not there */
        uint32_t holder;  /* tenant, POOL or NONE */
        uint64_t entered; /* turns are taken since then */
        uint64_t begun, end;
};

struct device {
        unsigned count;
        uint32_t order[ARBITER_MAX_TENANTS]; /* tenants with a seat here */
        uint64_t settled;
        bool stale; /* targets and slices are to be worked out again */
        uint64_t round, round_since;
        uint64_t round_due;        /* what it will be when that one has stayed long enough */
        unsigned active;           /* when the round was chosen */
        bool latency;              /* somebody is served first */
        uint32_t switching_ppm;    /* what that costs everybody */
        uint64_t no_latency_until; /* it was too much for the rest */
        uint64_t latency_pause;    /* how long it will stand back next time */
        bool urgent;               /* somebody's terms changed: not bound by the call budget */
        unsigned cluster;
        struct turns alone;
        uint32_t probed;     /* tenant whose pauses are looked at, NONE: nobody's */
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

/* ---- life ---- */

int arbiter_new(unsigned devices, const struct arbiter_costs *costs, struct arbiter **ret)
{
        static const struct arbiter_costs h100 = ARBITER_COSTS_H100;
        struct arbiter *arbiter;

        if (devices == 0 || devices > ARBITER_MAX_DEVICES)
                return -EINVAL;
        arbiter = calloc(
                1, sizeof(*arbiter) + (size_t)devices * ARBITER_MAX_TENANTS * sizeof(struct seat));
        if (!arbiter)
                return -ENOMEM;
        arbiter->devices = devices;
        arbiter->costs = costs ? *costs : h100;
        arbiter->period = PERIOD;
        arbiter->disable_lead = arbiter->costs.disable_ns;
        arbiter->enable_lead = arbiter->costs.enable_ns;
        arbiter->call_budget = CALL_CREDIT;
        for (unsigned d = 0; d < devices; d++) {
                arbiter->cluster[d] = (struct turns){.devices = 1u << d, .holder = NONE};
                arbiter->device[d].alone =
                        (struct turns){.devices = 1u << d, .alone = true, .holder = NONE};
                arbiter->device[d].probed = NONE;
        }
        *ret = arbiter;
        return 0;
}

struct arbiter *arbiter_free(struct arbiter *arbiter)
{
        free(arbiter);
        return NULL;
}

static uint32_t find(const struct arbiter *arbiter, uint64_t id)
{
        for (uint32_t t = 0; t < arbiter->top; t++)
                if (id && arbiter->tenant[t].id == id)
                        return t;
        return NONE;
}

static struct seat *find_seat(struct arbiter *arbiter, uint64_t id, unsigned device)
{
        uint32_t t = find(arbiter, id);

        if (t == NONE || device >= arbiter->devices || !seat_of(arbiter, device, t)->present)
                return NULL;
        return seat_of(arbiter, device, t);
}

static bool terms_valid(const struct arbiter_terms *terms)
{
        return terms->share <= 100 && terms->cap <= 100 && terms->weight <= 1000 &&
               (terms->cap == 0 || terms->share <= terms->cap) && terms->priority >= ARBITER_LOW &&
               terms->priority <= ARBITER_HIGH;
}

int arbiter_fits(const struct arbiter *arbiter, const unsigned *devices, unsigned count,
        const struct arbiter_terms *terms, uint64_t except, unsigned *ret_available)
{
        unsigned available = 100;

        if (count == 0 || count > arbiter->devices || !terms_valid(terms))
                return -EINVAL;
        for (unsigned i = 0; i < count; i++) {
                const struct device *device;
                unsigned taken = 0;

                if (devices[i] >= arbiter->devices)
                        return -EINVAL;
                for (unsigned j = 0; j < i; j++)
                        if (devices[j] == devices[i])
                                return -EINVAL;
                device = &arbiter->device[devices[i]];
                for (unsigned k = 0; k < device->count; k++) {
                        const struct tenant *tenant = &arbiter->tenant[device->order[k]];

                        if (tenant->id != except)
                                taken += tenant->terms.share;
                }
                available = MIN_OF(available, 100 - MIN_OF(taken, 100u));
        }
        if (terms->share > available) {
                *ret_available = available;
                return -ENOSPC;
        }
        return 0;
}

/* ---- account ---- */

static inline bool is_running(const struct seat *seat)
{
        if (seat->disabled)
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

static void predict(struct seat *seat, uint64_t ns, uint64_t now)
{
        unsigned last = (seat->pasts - 1) % PAST;

        account_predict(&seat->account, ns);
        seat->predicted_ns += ns;
        if (seat->pasts && now < seat->past[last].at + PAST_STEP)
                return;
        seat->past[seat->pasts % PAST].at = now;
        seat->past[seat->pasts++ % PAST].predicted_ns = seat->predicted_ns;
}

/* What has been predicted since then. */
static uint64_t predicted_since(const struct seat *seat, uint64_t at)
{
        uint64_t newer_at = 0, newer = seat->predicted_ns;

        for (unsigned i = 0; i < MIN_OF(seat->pasts, PAST); i++) {
                unsigned k = (seat->pasts - 1 - i) % PAST;

                if (seat->past[k].at > at) {
                        newer_at = seat->past[k].at;
                        newer = seat->past[k].predicted_ns;
                        continue;
                }
                if (newer_at)
                        newer = seat->past[k].predicted_ns +
                                (uint64_t)((double)(newer - seat->past[k].predicted_ns) *
                                           (double)(at - seat->past[k].at) /
                                           (double)(newer_at - seat->past[k].at));
                else
                        newer = seat->past[k].predicted_ns;
                break;
        }
        return seat->predicted_ns - newer;
}

/* Time has passed on a device with nothing changed since: what everybody had of it. */
static void settle(struct arbiter *arbiter, unsigned d, uint64_t now)
{
        struct device *device = &arbiter->device[d];
        struct account_claim claims[ARBITER_MAX_TENANTS];
        uint64_t had[ARBITER_MAX_TENANTS];
        uint64_t span, round = 0, switch_us;
        unsigned running = 0;

        if (now <= device->settled)
                return;
        span = now - device->settled;
        device->settled = now;
        switch_us = (arbiter->costs.switch_ns + arbiter->costs.save_ns) / 1000;
        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                claims[i].slice_us = slice_in_force(seat);
                claims[i].running = is_running(seat);
                if (claims[i].running) {
                        round += claims[i].slice_us + switch_us;
                        running++;
                }
        }
        account_divide(span, switch_us, claims, device->count, had);
        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->disabled || !claims[i].running)
                        predict(seat, 0, now);
                if (seat->disabled)
                        continue;
                seat->on_ns += span;
                if (claims[i].running) {
                        seat->offered_ns += had[i];
                        predict(seat, (uint64_t)((double)had[i] * seat->fill_ppm / PPM), now);
                } else if (!running)
                        seat->offered_ns += span;
                else
                        seat->offered_ns += (uint64_t)((double)span * claims[i].slice_us /
                                                       (round + claims[i].slice_us + switch_us));
        }
}

static void settle_all(struct arbiter *arbiter, uint64_t now)
{
        for (unsigned d = 0; d < arbiter->devices; d++)
                settle(arbiter, d, now);
}

/* ---- caps ---- */

static uint64_t part_of(uint64_t whole, unsigned percent)
{
        return whole / 100 * percent;
}

/* The end of the tenant's period that now lies in. */
static uint64_t period_end_of(
        const struct arbiter *arbiter, const struct tenant *tenant, uint64_t now)
{
        uint64_t offset = arbiter->period / PPM * tenant->phase_ppm;
        uint64_t into = (now % arbiter->period + arbiter->period - offset) % arbiter->period;

        return now - into + arbiter->period;
}

/* A first period is as long as is left of it, and its budget in proportion. */
static void start_period(struct arbiter *arbiter, struct tenant *tenant, uint32_t t, uint64_t now)
{
        tenant->period_begun = now;
        tenant->period_end = period_end_of(arbiter, tenant, now);
        tenant->capped_off = false;
        for (unsigned i = 0; i < tenant->count; i++) {
                struct seat *seat = seat_of(arbiter, tenant->device[i], t);

                seat->period_used = account_best(&seat->account);
                seat->budget = (int64_t)part_of(tenant->period_end - now, tenant->terms.cap);
        }
}

static bool share_device(const struct tenant *a, const struct tenant *b)
{
        for (unsigned i = 0; i < a->count; i++)
                for (unsigned j = 0; j < b->count; j++)
                        if (a->device[i] == b->device[j])
                                return true;
        return false;
}

/* How much of two arcs of a circle of PPM coincides. */
static unsigned overlap(unsigned start_a, unsigned length_a, unsigned start_b, unsigned length_b)
{
        unsigned gap = (start_b + PPM - start_a) % PPM;
        unsigned both = 0;

        if (gap < length_a)
                both += MIN_OF(length_a - gap, length_b);
        if (gap + length_b > PPM)
                both += MIN_OF(gap + length_b - PPM, length_a);
        return both;
}

/* Where in the period the tenant's duty time meets the least of others': right after one of them,
 * or at its start. */
static void choose_phase(struct arbiter *arbiter, uint32_t t)
{
        struct tenant *tenant = &arbiter->tenant[t];
        unsigned length = tenant->terms.cap * (PPM / 100);
        uint64_t least = UINT64_MAX;

        for (uint32_t c = 0; c <= arbiter->top; c++) {
                const struct tenant *before = c ? &arbiter->tenant[c - 1] : NULL;
                unsigned start = 0;
                uint64_t cost = 0;

                if (before) {
                        if (c - 1 == t || !before->id || !is_capped(before) ||
                                !share_device(tenant, before))
                                continue;
                        start = (before->phase_ppm + before->terms.cap * (PPM / 100)) % PPM;
                }
                for (uint32_t o = 0; o < arbiter->top; o++) {
                        const struct tenant *other = &arbiter->tenant[o];

                        if (o != t && other->id && is_capped(other) && share_device(tenant, other))
                                cost += overlap(start, length, other->phase_ppm,
                                        other->terms.cap * (PPM / 100));
                }
                if (cost < least) {
                        least = cost;
                        tenant->phase_ppm = start;
                }
        }
}

/* Short periods where the calls they cost are affordable, and where the duty time or the pause is
 * long against them. */
static void choose_period(struct arbiter *arbiter, uint64_t now)
{
        uint64_t calls = 0, capped = 0, period = PERIOD;

        for (uint32_t t = 0; t < arbiter->top; t++) {
                const struct tenant *tenant = &arbiter->tenant[t];

                if (!tenant->id || !is_capped(tenant))
                        continue;
                capped++;
                calls += tenant->count * (arbiter->costs.disable_ns + arbiter->costs.enable_ns);
                if (MIN_OF(tenant->terms.cap, 100 - tenant->terms.cap) <= 2)
                        period = PERIOD_LONG;
        }
        if (calls * 100 > (capped + 1) * PERIOD)
                period = PERIOD_LONG;
        if (period == arbiter->period)
                return;
        arbiter->period = period;
        for (uint32_t t = 0; t < arbiter->top; t++) {
                struct tenant *tenant = &arbiter->tenant[t];
                uint64_t end;

                if (!tenant->id || !is_capped(tenant))
                        continue;
                end = period_end_of(arbiter, tenant, now);
                for (unsigned i = 0; i < tenant->count; i++)
                        seat_of(arbiter, tenant->device[i], t)->budget +=
                                (int64_t)part_of(end, tenant->terms.cap) -
                                (int64_t)part_of(tenant->period_end, tenant->terms.cap);
                tenant->period_end = end;
        }
}

/* A period is over: what was used too much is taken off the next, what a call of ours cut short by
 * a little is added. */
static void roll_period(struct arbiter *arbiter, struct tenant *tenant, uint32_t t, uint64_t now)
{
        uint64_t end = period_end_of(arbiter, tenant, now);
        uint64_t length = end - tenant->period_end;

        for (unsigned i = 0; i < tenant->count; i++) {
                struct seat *seat = seat_of(arbiter, tenant->device[i], t);
                uint64_t used = account_best(&seat->account);
                int64_t left = seat->budget - (int64_t)(used - seat->period_used);

                if (left > 0)
                        left = tenant->capped_off ? MIN_OF(left, (int64_t)ARBITER_CREDIT) : 0;
                left = MAX_OF(left, -MAX_OF((int64_t)part_of(ARBITER_DEBT, tenant->terms.cap),
                                            (int64_t)OVERDRAFT));
                seat->budget = left + (int64_t)part_of(length, tenant->terms.cap);
                seat->period_used = used;
        }
        tenant->period_begun = tenant->period_end;
        tenant->period_end = end;
        tenant->capped_off = false;
}

/* Switches a capped tenant off when its budget runs out, and says when to look again. */
static uint64_t watch_cap(struct arbiter *arbiter, uint32_t t, uint64_t now)
{
        struct tenant *tenant = &arbiter->tenant[t];
        uint64_t next;

        if (now >= tenant->period_end)
                roll_period(arbiter, tenant, t, now);
        next = tenant->period_end;
        if (tenant->capped_off)
                return next;
        for (unsigned i = 0; i < tenant->count; i++) {
                const struct device *device = &arbiter->device[tenant->device[i]];
                const struct seat *seat = seat_of(arbiter, tenant->device[i], t);
                int64_t left =
                        seat->budget - (int64_t)(account_best(&seat->account) - seat->period_used);
                /* a turn may be longer than the budget of a period: what it takes of the next
                   is kept back there */
                uint64_t length = tenant->period_end - tenant->period_begun;
                int64_t ahead =
                        seat->turn == TURN_OWN && length < ARBITER_FRAME_MAX
                                ? (int64_t)part_of(ARBITER_FRAME_MAX - length, tenant->terms.cap)
                                : 0;
                uint64_t round = 0;
                unsigned running = 0;
                double rate = 1;
                int64_t nap;

                /* the pace it can have beside the others, with something to spare */
                for (unsigned k = 0; k < device->count; k++) {
                        const struct seat *other =
                                seat_of(arbiter, tenant->device[i], device->order[k]);

                        if (other == seat || is_contending(other)) {
                                round += slice_in_force(other);
                                running++;
                        }
                }
                if (running > 1)
                        rate = MIN_OF(1.0, 1.25 * (double)slice_in_force(seat) / (double)round);
                /* should the others stop, it may use this much too much */
                left += ahead;
                nap = MIN_OF((int64_t)((double)left / rate), left + (int64_t)OVERRUN) -
                      (int64_t)arbiter->disable_lead;
                if (nap <= 0) {
                        /* a pause shorter than the calls that make it is owed to the next period */
                        if (left > 0 && tenant->period_end - now <
                                                arbiter->disable_lead + arbiter->enable_lead)
                                continue;
                        tenant->capped_off = true;
                        return tenant->period_end;
                }
                /* who has nothing to do now may begin before the next look */
                if (!is_running(seat))
                        nap = MAX_OF(nap, (int64_t)IDLE_NAP);
                next = MIN_OF(next, now + MAX_OF((uint64_t)nap, NAP_MIN));
        }
        return next;
}

/* ---- coming, changing and going ---- */

static void touch_devices(struct arbiter *arbiter, const struct tenant *tenant)
{
        for (unsigned i = 0; i < tenant->count; i++) {
                arbiter->device[tenant->device[i]].stale = true;
                arbiter->device[tenant->device[i]].urgent = true;
                arbiter->device[tenant->device[i]].latency_pause = ARBITER_TRIAL_MIN;
        }
}

static void begin_cap(struct arbiter *arbiter, uint32_t t, uint64_t now)
{
        choose_period(arbiter, now);
        arbiter->tenant[t].capped_off = false;
        if (!is_capped(&arbiter->tenant[t]))
                return;
        choose_phase(arbiter, t);
        start_period(arbiter, &arbiter->tenant[t], t, now);
}

static void take_terms(struct tenant *tenant, const struct arbiter_terms *terms)
{
        tenant->terms = *terms;
        if (!tenant->terms.weight)
                tenant->terms.weight = 100;
}

int arbiter_admit(struct arbiter *arbiter, uint64_t now, uint64_t id, const unsigned *devices,
        unsigned count, const struct arbiter_terms *terms)
{
        struct tenant *tenant;
        unsigned available;
        uint32_t t = 0;
        int r;

        if (!id)
                return -EINVAL;
        if (find(arbiter, id) != NONE)
                return -EEXIST;
        r = arbiter_fits(arbiter, devices, count, terms, 0, &available);
        if (r < 0)
                return r;
        while (t < ARBITER_MAX_TENANTS && arbiter->tenant[t].id)
                t++;
        if (t == ARBITER_MAX_TENANTS)
                return -EUSERS;
        settle_all(arbiter, now);
        tenant = &arbiter->tenant[t];
        *tenant = (struct tenant){.id = id, .count = count};
        take_terms(tenant, terms);
        arbiter->top = MAX_OF(arbiter->top, t + 1);
        for (unsigned i = 0; i < count; i++) {
                struct device *device = &arbiter->device[devices[i]];
                struct seat *seat = seat_of(arbiter, devices[i], t);

                tenant->device[i] = devices[i];
                device->order[device->count++] = t;
                /* until something is known of it, it may want everything it can get */
                *seat = (struct seat){
                        .present = true,
                        .kind = ARBITER_BACKLOGGED,
                        .fill_ppm = PPM,
                        .wait_ppm = PPM,
                        .mark = {.at = now},
                        .turned_at = {now, now},
                        .trial_pause = ARBITER_TRIAL_MIN,
                };
        }
        begin_cap(arbiter, t, now);
        touch_devices(arbiter, tenant);
        arbiter->next = now;
        return 0;
}

int arbiter_change(
        struct arbiter *arbiter, uint64_t now, uint64_t id, const struct arbiter_terms *terms)
{
        uint32_t t = find(arbiter, id);
        struct tenant *tenant;
        unsigned available;
        bool cap;
        int r;

        if (t == NONE)
                return -ENOENT;
        tenant = &arbiter->tenant[t];
        r = arbiter_fits(arbiter, tenant->device, tenant->count, terms, id, &available);
        if (r < 0)
                return r;
        settle_all(arbiter, now);
        cap = terms->cap != tenant->terms.cap;
        take_terms(tenant, terms);
        if (cap)
                begin_cap(arbiter, t, now);
        touch_devices(arbiter, tenant);
        arbiter->next = now;
        return 0;
}

int arbiter_leave(struct arbiter *arbiter, uint64_t now, uint64_t id)
{
        uint32_t t = find(arbiter, id);
        struct tenant *tenant;

        if (t == NONE)
                return -ENOENT;
        settle_all(arbiter, now);
        tenant = &arbiter->tenant[t];
        touch_devices(arbiter, tenant);
        for (unsigned i = 0; i < tenant->count; i++) {
                struct device *device = &arbiter->device[tenant->device[i]];
                unsigned k = 0;

                while (device->order[k] != t)
                        k++;
                device->count--;
                memmove(&device->order[k], &device->order[k + 1],
                        (device->count - k) * sizeof(device->order[0]));
                seat_of(arbiter, tenant->device[i], t)->present = false;
        }
        for (unsigned d = 0; d < arbiter->devices; d++) {
                if (arbiter->cluster[d].holder == t)
                        arbiter->cluster[d].end = now;
                if (arbiter->device[d].alone.holder == t)
                        arbiter->device[d].alone.end = now;
                if (arbiter->device[d].probed == t)
                        arbiter->device[d].probed = NONE;
        }
        tenant->id = 0;
        while (arbiter->top > 0 && !arbiter->tenant[arbiter->top - 1].id)
                arbiter->top--;
        choose_period(arbiter, now);
        arbiter->next = now;
        return 0;
}

/* ---- what is seen ---- */

static void mark(struct seat *seat, uint64_t now)
{
        seat->mark.at = now;
        seat->mark.used_ns = account_best(&seat->account);
        seat->mark.offered_ns = seat->offered_ns;
        seat->mark.starts = seat->sight.starts;
        seat->mark.wanted_ns = seat->sight.wanted_ns;
        seat->mark.doubt_ns = seat->sight.doubt_ns;
}

int arbiter_observe(struct arbiter *arbiter, uint64_t now, uint64_t id, unsigned device,
        const struct arbiter_sight *sight)
{
        struct seat *seat = find_seat(arbiter, id, device);
        bool first;

        if (!seat)
                return -ENOENT;
        settle(arbiter, device, now);
        first = !seat->seen;
        if (sight->groups != seat->sight.groups)
                arbiter->device[device].stale = true;
        if (sight->used_known) {
                uint64_t before = account_best(&seat->account);
                uint64_t measured = seat->account.measured_ns;

                account_measure(&seat->account, sight->source, sight->used_ns, sight->precision_ns);
                /* what a source takes back is of some time ago, and not to be had again now */
                if (seat->account.measured_ns < measured)
                        seat->period_used -=
                                MIN_OF(seat->period_used, measured - seat->account.measured_ns);
                /* what has happened since is not in it yet */
                if (sight->used_at && sight->used_at < now)
                        account_predict(&seat->account, predicted_since(seat, sight->used_at));
                /* the first reading tells nothing of what was used since the tenant came */
                if (first && before > 0)
                        seat->mark.used_ns = account_best(&seat->account);
        }
        if (sight->epoch != seat->epoch) {
                /* new groups are enabled and have the driver's settings */
                seat->epoch = sight->epoch;
                seat->slice_us = 0;
                seat->thread_block = false;
                if (seat->disabled && !seat->flight[CALL_SWITCH].under_way)
                        seat->disabled = false;
        }
        seat->sight = *sight;
        seat->seen = true;
        if (first)
                mark(seat, now);
        if (seat->kind == ARBITER_IDLE) {
                bool used = account_best(&seat->account) >
                            seat->mark.used_ns + 2 * seat->sight.precision_ns;

                if (sight->demand == ARBITER_DEMAND_WORK ||
                        (sight->demand == ARBITER_DEMAND_UNKNOWN && used)) {
                        seat->kind = ARBITER_BACKLOGGED;
                        seat->fill_ppm = PPM;
                        seat->settled_kind = false;
                        arbiter->device[device].stale = true;
                        arbiter->next = MIN_OF(arbiter->next, now);
                        mark(seat, now);
                }
        } else if (sight->demand == ARBITER_DEMAND_NONE && !seat->settled_kind && first) {
                seat->kind = ARBITER_IDLE;
                arbiter->device[device].stale = true;
        }
        return 0;
}

static void set_kind(struct arbiter *arbiter, unsigned d, struct seat *seat, enum arbiter_kind kind)
{
        seat->settled_kind = true;
        if (seat->kind == kind)
                return;
        seat->kind = kind;
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

/* ---- probes ---- */

/* Others with work, besides whom a tenant's pauses can be seen. */
static unsigned others_with_work(struct arbiter *arbiter, unsigned d, uint32_t t)
{
        const struct device *device = &arbiter->device[d];
        unsigned others = 0;

        for (unsigned i = 0; i < device->count; i++)
                others += device->order[i] != t &&
                          seat_of(arbiter, d, device->order[i])->kind != ARBITER_IDLE;
        return others;
}

/* A probe gives everybody else short slices: not where somebody has priority over the one who is
 * looked at, or is served first. */
static bool may_probe(struct arbiter *arbiter, unsigned d, uint32_t t)
{
        const struct device *device = &arbiter->device[d];

        if (device->latency && !seat_of(arbiter, d, t)->first)
                return false;
        for (unsigned i = 0; i < device->count; i++)
                if (seat_of(arbiter, d, device->order[i])->kind != ARBITER_IDLE &&
                        arbiter->tenant[device->order[i]].terms.priority >
                                arbiter->tenant[t].terms.priority)
                        return false;
        return others_with_work(arbiter, d, t) > 0;
}

static void begin_probe(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t now)
{
        struct device *device = &arbiter->device[d];

        device->probed = t;
        device->probe_from = 0;
        device->probe_end = now + PROBE_MOST;
        device->stale = device->urgent = true;
        arbiter->next = MIN_OF(arbiter->next, now);
}

static void end_probe(struct arbiter *arbiter, unsigned d, uint64_t now, bool again)
{
        struct device *device = &arbiter->device[d];
        struct seat *seat = seat_of(arbiter, d, device->probed);

        if (again)
                seat->trial_pause = ARBITER_TRIAL_MIN;
        seat->trial_at = now + seat->trial_pause;
        seat->trial_pause = MIN_OF(2 * seat->trial_pause, ARBITER_TRIAL_MAX);
        device->probed = NONE;
        device->stale = device->urgent = true;
}

/* The window in which the probed tenant is judged begins when all have their slices, and what is
 * told is no longer of the time before. */
static void watch_probe(struct arbiter *arbiter, unsigned d, uint64_t now)
{
        struct device *device = &arbiter->device[d];
        struct seat *seat;
        bool ready = true;

        if (device->probed == NONE)
                return;
        seat = seat_of(arbiter, d, device->probed);
        if (now >= device->probe_end || seat->kind == ARBITER_IDLE ||
                !may_probe(arbiter, d, device->probed)) {
                end_probe(arbiter, d, now, false);
                return;
        }
        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *other = seat_of(arbiter, d, device->order[i]);

                if (other->kind != ARBITER_IDLE)
                        ready = ready && other->slice_us == other->slice_wanted && !other->disabled;
        }
        if (device->probe_from == 0 && ready) {
                device->probe_from = now + PROBE_SETTLES;
                mark(seat, now);
        }
        if (device->probe_from && now < device->probe_from)
                mark(seat, now);
}

/* Its pauses are at least, and at most, so long. What follows for its kind, as far as it is open:
 * then, sooner or later, it is probed. */
static bool is_synchronous(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t least,
        uint64_t most, uint64_t limit, uint64_t now)
{
        struct device *device = &arbiter->device[d];
        struct seat *seat = seat_of(arbiter, d, t);
        bool probed = device->probed == t && device->probe_from;

        if (least > limit || most <= limit + limit / 2 || probed) {
                bool found = most <= limit + limit / 2 && least <= limit;

                if (probed) {
                        seat->probed_pause_ns = (least + most) / 2;
                        end_probe(arbiter, d, now, found != (seat->kind == ARBITER_SYNCHRONOUS));
                }
                return found;
        }
        if (device->probed == NONE && now >= seat->trial_at && may_probe(arbiter, d, t))
                begin_probe(arbiter, d, t, now);
        /* until then: what it was found to be last */
        return seat->probed_pause_ns && seat->probed_pause_ns <= limit + limit / 2;
}

/* What part of its time a tenant that has work would use if it waited for nobody. */
static double busy_part(const struct seat *seat)
{
        if (seat->kind == ARBITER_BACKLOGGED)
                return 1;
        return seat->kind == ARBITER_SYNCHRONOUS && seat->run_ns
                       ? (double)seat->run_ns / (double)(seat->run_ns + seat->pause_ns)
                       : 0;
}

/* What a guarantee is of a span: of the time that is given out, and of a loop without its own
 * pauses. */
static int64_t due_of(const struct device *device, const struct seat *seat,
        const struct tenant *tenant, uint64_t span)
{
        double due = (double)part_of(span, tenant->terms.share);

        due *= (double)(PPM - device->switching_ppm) / PPM;
        if (seat->kind == ARBITER_SYNCHRONOUS)
                due *= busy_part(seat);
        return (int64_t)due;
}

/* Between two moments without work, if these are such at all, it has had the engine for several of
 * its slices. Not all that was seen of one who has just begun was his running out of work. */
static bool is_mostly_cut(const struct seat *seat)
{
        return seat->lately_slices > 3 * (seat->lately_starts - FIRST_STARTS);
}

/* A guarantee is kept to it at every moment, not only when it comes. */
static inline bool has_claim(enum arbiter_kind kind)
{
        return kind == ARBITER_BACKLOGGED || kind == ARBITER_SYNCHRONOUS;
}

/* What kind a tenant is, from a window of what it was offered, used and wanted. */
static void judge(struct arbiter *arbiter, unsigned d, uint32_t t, uint64_t now)
{
        const struct tenant *tenant = &arbiter->tenant[t];
        struct seat *seat = seat_of(arbiter, d, t);
        const struct arbiter_sight *sight = &seat->sight;
        uint64_t span = now - seat->mark.at;
        uint64_t used = account_best(&seat->account) - seat->mark.used_ns;
        uint64_t offered = seat->offered_ns - seat->mark.offered_ns;
        uint64_t starts = sight->starts - seat->mark.starts;
        uint64_t wanted = MIN_OF(sight->wanted_ns - seat->mark.wanted_ns, span);
        uint64_t doubt = sight->doubt_ns - seat->mark.doubt_ns;
        uint64_t away = 2 * arbiter->costs.switch_ns;
        bool probed = arbiter->device[d].probed == t;
        bool exact = !sight->used_known || (sight->starts_known && sight->wanted_known);
        enum arbiter_kind kind;
        int64_t credit;
        double keep;
        bool idle;

        if (sight->demand == ARBITER_DEMAND_NONE &&
                now >= sight->since +
                                (seat->kind == ARBITER_SPORADIC ? ARBITER_LINGER : ARBITER_REST)) {
                seat->rate_ppm = 0;
                seat->fill_ppm = PPM;
                seat->lately_slices = seat->lately_starts = 0;
                set_kind(arbiter, d, seat, ARBITER_IDLE);
                mark(seat, now);
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
                mark(seat, now);
                return;
        }
        /* switched off all the while: nothing can be said */
        if (!offered && !starts) {
                mark(seat, now);
                return;
        }
        seat->rate_ppm = (int64_t)(used * PPM / span);
        if (seat->settled_kind)
                seat->mean_ppm += (seat->rate_ppm - seat->mean_ppm) / 8;
        else
                seat->mean_ppm = seat->rate_ppm;
        seat->fill_ppm = offered ? (uint32_t)MIN_OF(used * PPM / offered, (uint64_t)PPM) : PPM;
        keep = span < LATELY ? 1 - (double)span / LATELY : 0;
        seat->lately_slices =
                seat->lately_slices * keep + (double)used / 1000 / (double)slice_in_force(seat);
        seat->lately_starts = seat->lately_starts * keep + (double)starts;
        seat->run_ns = sight->starts_known && starts ? used / starts : 0;
        if (seat->run_ns)
                seat->mean_run_ns = seat->mean_run_ns ? seat->mean_run_ns - seat->mean_run_ns / 8 +
                                                                seat->run_ns / 8
                                                      : seat->run_ns;
        seat->pause_ns =
                sight->starts_known && sight->wanted_known && starts ? (span - wanted) / starts : 0;
        seat->wait_ppm = sight->wanted_known ? wanted * PPM / span : PPM;
        if (sight->demand == ARBITER_DEMAND_WORK || used > sight->precision_ns + span / 1000)
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
                if (sight->blind_alone && seat->kind == ARBITER_SYNCHRONOUS &&
                        seat->turn == TURN_OWN && !probed) {
                        kind = ARBITER_SYNCHRONOUS;
                        if (now >= seat->trial_at && arbiter->device[d].probed == NONE &&
                                may_probe(arbiter, d, t) &&
                                (seat->fill_ppm < FILL_LITTLE || seat->fill_ppm > FILL_ALL))
                                begin_probe(arbiter, d, t, now);
                } else
                        kind = ARBITER_BACKLOGGED;
                if (probed)
                        end_probe(arbiter, d, now, seat->kind != kind);
        } else if (sight->starts_known && sight->wanted_known) {
                uint64_t limit = seat->kind == ARBITER_SYNCHRONOUS ? away + away / 2 : away;

                /* now and then a queue has nothing for an instant, between two kernels, or seems
                   to: who is mostly cut before that, and may have paused for no time, has a
                   backlog */
                if (doubt && !arbiter->device[d].latency && seat->pause_ns <= limit &&
                        is_mostly_cut(seat) && seat->kind != ARBITER_SYNCHRONOUS) {
                        kind = ARBITER_BACKLOGGED;
                        if (probed)
                                end_probe(arbiter, d, now, seat->kind != kind);
                } else if (doubt ? !is_synchronous(arbiter, d, t, seat->pause_ns,
                                           seat->pause_ns + doubt / starts, limit, now)
                                 : seat->pause_ns > limit)
                        kind = ARBITER_SPORADIC;
                else if (seat->run_ns <= 2 * slice_in_force(seat) * 1000 ||
                         seat->kind == ARBITER_SYNCHRONOUS)
                        kind = ARBITER_SYNCHRONOUS;
                else
                        kind = ARBITER_BACKLOGGED;
        } else
                kind = judge_by_trial(arbiter, d, seat, now);
        /* requests that queue up for a moment make neither a loop nor, where they come first, a
           backlog */
        if ((kind == ARBITER_SYNCHRONOUS || (kind == ARBITER_BACKLOGGED && seat->first)) &&
                seat->kind == ARBITER_SPORADIC && !seat->trial && !probed) {
                if (++seat->streak < (kind == ARBITER_BACKLOGGED ? STREAK_FIRST : STREAK))
                        kind = ARBITER_SPORADIC;
        } else
                seat->streak = 0;
        if (has_claim(kind) && has_claim(seat->kind))
                seat->owed_ns += due_of(&arbiter->device[d], seat, tenant, span) - (int64_t)used;
        else
                seat->owed_ns = 0;
        /* what it had more lately, it need not have again at once */
        credit = MAX_OF(
                (int64_t)part_of(ARBITER_FRAME_MAX, tenant->terms.share), (int64_t)ARBITER_TURN);
        seat->owed_ns = MIN_OF(MAX_OF(seat->owed_ns, -credit), (int64_t)ARBITER_FRAME_MAX);
        /* a tenant that fills what it is given is one with a backlog, however it is predicted */
        if (kind == ARBITER_BACKLOGGED)
                seat->fill_ppm = PPM;
        idle = kind == ARBITER_IDLE && seat->kind == ARBITER_IDLE;
        set_kind(arbiter, d, seat, kind);
        /* how long its bursts are and how much it uses decides on others' slices */
        if (kind == ARBITER_SPORADIC)
                arbiter->device[d].stale = true;
        /* of little at a time it may be a lot before it can be seen */
        if (!idle || sight->demand != ARBITER_DEMAND_UNKNOWN || span >= ARBITER_TRIAL_MIN)
                mark(seat, now);
}

/* ---- shares ---- */

/* The hardware keeps a count of 8 bits and a scale. */
static uint64_t quantize(uint64_t us)
{
        unsigned scale = 0;

        while (us >> scale > 255)
                scale++;
        return us >> scale << scale;
}

/* Hands out left among those of the priority whom pick chooses, by weight, each up to limit.
 * Returns what nobody could take. */
static uint64_t pour(struct arbiter *arbiter, unsigned d, enum arbiter_priority priority,
        bool second, uint64_t left)
{
        const struct device *device = &arbiter->device[d];

        for (;;) {
                uint64_t weights = 0, given = 0;

                for (unsigned pass = 0; pass < 2; pass++)
                        for (unsigned i = 0; i < device->count; i++) {
                                const struct tenant *tenant = &arbiter->tenant[device->order[i]];
                                struct seat *seat = seat_of(arbiter, d, device->order[i]);
                                unsigned limit =
                                        is_capped(tenant) ? tenant->terms.cap * (PPM / 100) : PPM;
                                /* what has a guarantee and a cap takes only what others leave */
                                bool last = is_capped(tenant) && tenant->terms.share > 0;
                                uint64_t part;

                                if (seat->kind == ARBITER_IDLE ||
                                        tenant->terms.priority != priority || last != second ||
                                        seat->target_ppm >= limit)
                                        continue;
                                if (!pass) {
                                        weights += tenant->terms.weight;
                                        continue;
                                }
                                part = left * tenant->terms.weight / weights;
                                part = MIN_OF(part, (uint64_t)(limit - seat->target_ppm));
                                seat->target_ppm += part;
                                given += part;
                        }
                if (!weights || !given)
                        return left;
                left -= given;
                if (left < 100)
                        return 0;
        }
}

/* What a guarantee needs for it to stand after switching has taken its part. */
static uint64_t safe_share(const struct tenant *tenant)
{
        return (uint64_t)tenant->terms.share * (PPM / 100) * GUARANTEE_MARGIN / 100;
}

/* Switching is paid for by whoever got more than his guarantee. */
static void secure_guarantees(struct arbiter *arbiter, unsigned d)
{
        const struct device *device = &arbiter->device[d];
        uint64_t missing = 0, surplus = 0, moved;

        for (unsigned pass = 0; pass < 2; pass++) {
                moved = MIN_OF(missing, surplus);
                for (unsigned i = 0; i < device->count; i++) {
                        const struct tenant *tenant = &arbiter->tenant[device->order[i]];
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);
                        uint64_t safe = safe_share(tenant);

                        if (seat->kind == ARBITER_IDLE)
                                continue;
                        if (seat->target_ppm < safe) {
                                uint64_t part = safe - seat->target_ppm;

                                if (!pass)
                                        missing += part;
                                else
                                        seat->target_ppm += part * moved / missing;
                        } else if (seat->target_ppm > safe) {
                                uint64_t part = seat->target_ppm - safe;

                                if (!pass)
                                        surplus += part;
                                else
                                        seat->target_ppm -= part * moved / surplus;
                        }
                }
                if (!missing || !surplus)
                        return;
        }
}

/* s_i of everybody who is active. */
static void set_targets(struct arbiter *arbiter, unsigned d)
{
        const struct device *device = &arbiter->device[d];
        uint64_t left = PPM;

        for (unsigned i = 0; i < device->count; i++) {
                const struct tenant *tenant = &arbiter->tenant[device->order[i]];
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                seat->target_ppm = 0;
                if (seat->kind == ARBITER_IDLE)
                        continue;
                seat->target_ppm = tenant->terms.share * (PPM / 100);
                left -= seat->target_ppm;
        }
        for (unsigned second = 0; second < 2; second++)
                for (int priority = ARBITER_HIGH; priority >= ARBITER_LOW; priority--)
                        left = pour(arbiter, d, (enum arbiter_priority)priority, second, left);
        secure_guarantees(arbiter, d);
        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->kind != ARBITER_IDLE && seat->target_ppm < ARBITER_FLOOR)
                        seat->target_ppm = ARBITER_FLOOR;
        }
}

/* So much may be owed before priority stands back; more where what is used is told late. */
static int64_t owed_limit(const struct seat *seat, const struct tenant *tenant)
{
        return MAX_OF((int64_t)part_of(OWED_TIME + (seat->sight.used_at ? OWED_TIME : 0),
                              tenant->terms.share),
                (int64_t)(8 * ARBITER_MS));
}

/* What a tenant with a backlog, or a loop, has got too little of its guarantee up to now. */
static int64_t owed_to(const struct device *device, const struct seat *seat,
        const struct tenant *tenant, uint64_t now)
{
        if ((seat->kind != ARBITER_BACKLOGGED && seat->kind != ARBITER_SYNCHRONOUS) ||
                !seat->settled_kind || now <= seat->mark.at)
                return 0;
        return seat->owed_ns + due_of(device, seat, tenant, now - seat->mark.at) -
               (int64_t)(account_best(&seat->account) - seat->mark.used_ns);
}

/* Who is served before the rest because he comes and goes: the class of the highest priority, if
 * all of it do; else those who use less than they are guaranteed, beside one that takes the rest.
 */
static bool choose_first(struct arbiter *arbiter, unsigned d)
{
        struct device *device = &arbiter->device[d];
        enum arbiter_priority top = ARBITER_LOW, bottom = ARBITER_HIGH;
        unsigned first = 0, rest = 0;
        bool by_class;

        for (unsigned i = 0; i < device->count; i++) {
                enum arbiter_priority priority = arbiter->tenant[device->order[i]].terms.priority;

                if (seat_of(arbiter, d, device->order[i])->kind == ARBITER_IDLE)
                        continue;
                top = MAX_OF(top, priority);
                bottom = MIN_OF(bottom, priority);
        }
        by_class = top > ARBITER_LOW;
        for (unsigned i = 0; by_class && i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                by_class = seat->kind == ARBITER_IDLE || seat->kind == ARBITER_SPORADIC ||
                           arbiter->tenant[device->order[i]].terms.priority < top;
        }
        by_class = by_class && bottom < top;
        for (unsigned i = 0; i < device->count; i++) {
                const struct tenant *tenant = &arbiter->tenant[device->order[i]];
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                seat->first =
                        seat->kind == ARBITER_SPORADIC &&
                        (by_class ? tenant->terms.priority == top
                                  : seat->run_ns > 0 && seat->run_ns < ARBITER_ROUND_MIN &&
                                                seat->mean_ppm <
                                                        (int64_t)tenant->terms.share * (PPM / 100));
                first += seat->first;
                rest += seat->kind != ARBITER_IDLE && !seat->first;
        }
        return first > 0 && (by_class || rest == 1);
}

/* Whether somebody is served first, with what that means for the targets of the rest. */
static bool find_latency(struct arbiter *arbiter, unsigned d)
{
        struct device *device = &arbiter->device[d];
        uint64_t there_and_back = 2 * arbiter->costs.switch_ns + arbiter->costs.save_ns;
        uint64_t used = 0, kept = 0, switching = 0, run;
        bool owed = false, any = choose_first(arbiter, d);

        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);
                const struct tenant *tenant = &arbiter->tenant[device->order[i]];

                if (device->settled < device->no_latency_until)
                        any = false;
                if (seat->kind == ARBITER_IDLE || !any)
                        continue;
                if (!seat->first) {
                        kept += tenant->terms.share * (PPM / 100);
                        owed |= owed_to(device, seat, tenant, device->settled) >
                                owed_limit(seat, tenant);
                        continue;
                }
                /* each of its runs costs a switch there and back */
                run = seat->mean_run_ns ? seat->mean_run_ns : ARBITER_MS;
                switching +=
                        (uint64_t)((double)seat->mean_ppm * (double)there_and_back / (double)run);
                used += (uint64_t)seat->mean_ppm;
        }
        used += switching;
        if (any && (owed || used + kept > PPM + PPM / 10)) {
                device->no_latency_until = device->settled + device->latency_pause;
                device->latency_pause = MIN_OF(2 * device->latency_pause, ARBITER_TRIAL_MAX);
                any = false;
        }
        device->switching_ppm = any ? (uint32_t)MIN_OF(switching, SWITCHING_MOST) : 0;
        /* what is guaranteed to the rest is a larger part of what is left for them */
        for (unsigned i = 0; i < device->count; i++) {
                const struct tenant *tenant = &arbiter->tenant[device->order[i]];
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                seat->stands_back = seat->first && !any && seat->sight.blind_alone &&
                                    device->settled < device->no_latency_until;
                seat->first = seat->first && any;
                if (any && seat->kind != ARBITER_IDLE && !seat->first)
                        seat->target_ppm = (unsigned)MAX_OF((uint64_t)seat->target_ppm,
                                safe_share(tenant) * PPM / (PPM - MIN_OF(used, PPM * 9ull / 10)));
        }
        return any;
}

/* Round length: one of a few, so that small changes of what is seen cost no calls. sum: of the
 * targets. */
static uint64_t choose_round(struct arbiter *arbiter, unsigned d, unsigned active, uint64_t sum)
{
        static const uint64_t rounds[] = {ARBITER_ROUND_MIN, 12 * ARBITER_MS, 18 * ARBITER_MS,
                26 * ARBITER_MS, 36 * ARBITER_MS, ARBITER_ROUND_MAX};
        const struct device *device = &arbiter->device[d];
        uint64_t wanted = active * (arbiter->costs.switch_ns + arbiter->costs.save_ns) /
                          ARBITER_SWITCH_LOSS * PPM;
        uint64_t longest = ARBITER_ROUND_MAX;

        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                /* it waits for others while it has work, and gets less than it is due */
                if (seat->kind == ARBITER_SPORADIC && seat->run_ns && seat->wait_ppm >= PPM / 2 &&
                        seat->target_ppm && seat->rate_ppm < (int64_t)seat->target_ppm * 95 / 100)
                        wanted = MIN_OF(
                                wanted, (uint64_t)((double)seat->run_ns * PPM / seat->target_ppm));
                if (seat->kind != ARBITER_IDLE && seat->target_ppm && seat->target_ppm < sum) {
                        double part = (double)seat->target_ppm / (double)sum;

                        longest = MIN_OF(
                                longest, (uint64_t)(ARBITER_WINDOW_OFF / (part * (1 - part))));
                }
        }
        for (unsigned i = 0; i + 1 < ARRAY_SIZE(rounds); i++)
                if (wanted <= rounds[i] || longest < rounds[i + 1])
                        return rounds[i];
        return ARBITER_ROUND_MAX;
}

/* Tenants with a backlog, and those who come and go but take more than they are due, counting that
 * each of their runs costs others a switch there and back, or so much at a time that a turn would
 * be theirs. */
static bool takes_turns(const struct arbiter *arbiter, const struct seat *seat)
{
        double taken = (double)seat->rate_ppm;

        if (seat->stands_back)
                return true;
        if (seat->kind != ARBITER_SPORADIC)
                return seat->kind != ARBITER_IDLE;
        if (seat->run_ns)
                taken *= 1 + 2 * (double)arbiter->costs.switch_ns / (double)seat->run_ns;
        return !seat->first &&
               (taken > (double)seat->target_ppm || seat->run_ns > ARBITER_TURN / 4);
}

/* Who takes turns. They are needed if a tenant pauses and its slices, of which it uses one run a
 * round, would not give it what it is due. Then everybody with a backlog takes them as well: a turn
 * that is shared by slices would have to be as long as whole rounds of them, or the same tenant is
 * cut off each time. Only the small ones share one, with slices that come around several times. */
static void assign_turns(struct arbiter *arbiter, unsigned d, uint64_t round, bool latency)
{
        const struct device *device = &arbiter->device[d];
        unsigned own = 0, below = 0, contenders = 0, small = 0;
        struct seat *last = NULL;

        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);
                /* Once a round would let requests pile up; where pauses are seen exactly, it then
                 * is a loop. */
                bool pauses = seat->kind == ARBITER_SYNCHRONOUS || seat->stands_back;

                seat->turn = TURN_FREE;
                /* who needs none does not wait for one */
                if (seat->kind == ARBITER_IDLE || seat->first)
                        seat->turned_at[0] = seat->turned_at[1] = device->settled;
                contenders += takes_turns(arbiter, seat);
                if (seat->kind != ARBITER_BACKLOGGED && !pauses)
                        continue;
                below += latency && !seat->first;
                if (pauses && (!seat->run_ns || (double)seat->run_ns * PPM <
                                                        (double)round * seat->target_ppm))
                        own++;
        }
        if (contenders < 2 || (own == 0 && (!latency || below < 2)))
                return;
        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (!takes_turns(arbiter, seat))
                        continue;
                if (seat->target_ppm < TURN_SMALL && !latency) {
                        seat->turn = TURN_POOL;
                        last = seat;
                        small++;
                } else
                        seat->turn = TURN_OWN;
        }
        if (small == 1)
                last->turn = TURN_OWN;
}

static void set_slices(struct arbiter *arbiter, unsigned d)
{
        struct device *device = &arbiter->device[d];
        bool latency = find_latency(arbiter, d);
        unsigned active = 0;
        uint64_t sum = 0, round;

        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->kind == ARBITER_IDLE)
                        continue;
                active++;
                sum += seat->target_ppm;
        }
        /* nobody must wait for slices that were meant for another mode */
        if (latency != device->latency)
                device->urgent = true;
        device->latency = latency;
        device->round_due = round = choose_round(arbiter, d, active, sum);
        if (active == device->active && device->settled < device->round_since + ROUND_STAYS)
                round = device->round;
        if (round != device->round || active != device->active) {
                device->round = round;
                device->round_since = device->settled;
                device->active = active;
        }
        if (device->probed == NONE)
                assign_turns(arbiter, d, round, latency);
        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);
                unsigned groups = seat->sight.groups ? seat->sight.groups : 1;
                uint64_t slice, block = seat->sight.block_ns;

                if (seat->kind == ARBITER_IDLE) {
                        /* what it finds when it comes back, once */
                        if (!seat->slice_us)
                                seat->slice_wanted = quantize(ARBITER_ROUND_MAX / 1000 / 8);
                        continue;
                }
                if (device->probed != NONE) {
                        seat->turn = TURN_FREE;
                        slice = device->order[i] == device->probed ? ARBITER_TURN / 1000
                                                                   : PROBE_OTHERS;
                } else if (latency)
                        slice = seat->first ? ARBITER_LONG : ARBITER_SHORT;
                else if (seat->turn == TURN_POOL)
                        slice = ARBITER_FRAME_MAX / POOL_ROUNDS / 1000 * seat->target_ppm / sum;
                else
                        slice = round / 1000 * seat->target_ppm / sum;
                /* blocks: the mode in force stays in force in a band around the limit */
                seat->thread_block_wanted =
                        block > 0 && block * (seat->thread_block ? 40 : 50) <= slice * 1000;
                slice = MAX_OF(slice / groups, (uint64_t)ARBITER_SLICE_MIN);
                if (active > 1 || !seat->slice_us)
                        seat->slice_wanted = quantize(slice);
        }
}

/* ---- turns ---- */

/* Devices that a tenant which takes turns has in common take turns together. */
static void find_clusters(struct arbiter *arbiter)
{
        unsigned of[ARBITER_MAX_DEVICES];

        for (unsigned d = 0; d < arbiter->devices; d++)
                of[d] = d;
        for (uint32_t t = 0; t < arbiter->top; t++) {
                const struct tenant *tenant = &arbiter->tenant[t];
                unsigned first = ARBITER_MAX_DEVICES;

                for (unsigned i = 0; tenant->id && tenant->count > 1 && i < tenant->count; i++) {
                        unsigned from = of[tenant->device[i]];

                        if (seat_of(arbiter, tenant->device[i], t)->turn == TURN_FREE)
                                continue;
                        if (first == ARBITER_MAX_DEVICES)
                                first = from;
                        for (unsigned d = 0; d < arbiter->devices && from != first; d++)
                                if (of[d] == from)
                                        of[d] = first;
                }
        }
        for (unsigned d = 0; d < arbiter->devices; d++) {
                unsigned root = 0;

                while (of[root] != of[d])
                        root++;
                if (arbiter->device[d].cluster != root) {
                        arbiter->cluster[arbiter->device[d].cluster].holder = NONE;
                        arbiter->cluster[root].holder = NONE;
                }
                arbiter->device[d].cluster = root;
        }
        for (unsigned d = 0; d < arbiter->devices; d++)
                arbiter->cluster[d].devices = 0;
        for (unsigned d = 0; d < arbiter->devices; d++)
                arbiter->cluster[arbiter->device[d].cluster].devices |= 1u << d;
}

static bool in_row(const struct seat *seat, uint32_t t, uint32_t row)
{
        return seat->turn == TURN_OWN ? t == row : seat->turn == TURN_POOL && row == POOL;
}

struct row {
        uint64_t target; /* ppm, 0: it has no part */
        uint64_t due; /* the same of the time that has passed, in which that may have been less */
        bool wanted;  /* it would use a turn */
        /* of that one of its tenants who waits longest: when his last turn began, and since when
         * he, or his work, has waited for this one */
        uint64_t turned_at, waits;
};

/* What of the devices' time a row is due is told by the device where that is least: on the others
 * it also runs while rows that are not there have their turn. */
static struct row look_at_row(
        struct arbiter *arbiter, const struct turns *turns, uint32_t row, uint64_t now)
{
        struct row ret = {.turned_at = UINT64_MAX, .waits = now};

        for (unsigned d = 0; d < arbiter->devices; d++) {
                const struct device *device = &arbiter->device[d];
                uint64_t target = 0, due = 0, turned_at;

                for (unsigned i = 0; turns->devices & 1u << d && i < device->count; i++) {
                        uint32_t t = device->order[i];
                        const struct seat *seat = seat_of(arbiter, d, t);

                        /* who has several devices has his turn on all of them at once */
                        if (!in_row(seat, t, row) || (turns->alone && arbiter->tenant[t].count > 1))
                                continue;
                        target += seat->target_ppm;
                        due += MIN_OF(seat->target_ppm, seat->target_then);
                        if (arbiter->tenant[t].capped_off ||
                                (seat->sight.demand == ARBITER_DEMAND_NONE &&
                                        now >= seat->sight.since + QUIET))
                                continue;
                        ret.wanted = true;
                        turned_at = seat->turned_at[turns->alone];
                        ret.turned_at = MIN_OF(ret.turned_at, turned_at);
                        if (seat->sight.demand == ARBITER_DEMAND_WORK)
                                turned_at = MAX_OF(turned_at, seat->sight.since);
                        ret.waits = MIN_OF(ret.waits, turned_at);
                }
                if (target && (!ret.target || target < ret.target)) {
                        ret.target = target;
                        ret.due = due;
                }
        }
        return ret;
}

static uint32_t next_row(const struct arbiter *arbiter, uint32_t row)
{
        return row + 1 < arbiter->top ? row + 1 : POOL;
}

/* Its part of a frame, all of whose turns are wanted now. Others' turns may have been parts of
 * longer frames, when more was wanted: so not less than nearly what it is due of the time since its
 * last one. */
static uint64_t turn_length(
        struct arbiter *arbiter, const struct turns *turns, uint32_t holder, uint64_t now)
{
        uint64_t sum = 0, smallest = UINT64_MAX, frame, most, rows = 0, due, length;
        struct row own = {0};

        for (uint32_t k = 0; k <= POOL; k = k < POOL ? next_row(arbiter, k) : k + 1) {
                struct row row = look_at_row(arbiter, turns, k, now);

                if (!row.target || !row.wanted)
                        continue;
                rows++;
                sum += row.target;
                smallest = MIN_OF(smallest, row.target);
                if (k == holder)
                        own = row;
        }
        if (rows < 2 || !own.target)
                return ARBITER_TURN;
        most = MAX_OF(ARBITER_FRAME_MAX, rows * ARBITER_TURN);
        frame = (uint64_t)((double)ARBITER_TURN * (double)sum / (double)smallest);
        frame = MIN_OF(MAX_OF(frame, rows * ARBITER_TURN), most);
        length = (uint64_t)((double)(frame - rows * ARBITER_TURN_LOSS) * (double)own.target /
                            (double)sum);
        own.waits = MIN_OF(MAX_OF(own.waits, turns->entered), now);
        due = (uint64_t)((double)MIN_OF(now - own.waits, 2 * most) * (double)own.due /
                         (double)MAX_OF(sum, (uint64_t)PPM) * TURN_DUE);
        return MIN_OF(MAX_OF(length, due), most) + ARBITER_TURN_LOSS;
}

/* What those whose turn it is had of it. ret_least: what they can be content with: next to nothing,
 * where somebody is served before them; else a quarter, as those who come and go had work left
 * over. False: not known. */
static bool had_of_turn(struct arbiter *arbiter, const struct turns *turns, uint64_t now,
        int64_t *ret_had, int64_t *ret_least)
{
        bool latency = false;

        *ret_had = *ret_least = 0;
        for (unsigned d = 0; d < arbiter->devices; d++) {
                const struct device *device = &arbiter->device[d];

                if (!(turns->devices & 1u << d))
                        continue;
                latency |= device->latency;
                for (unsigned i = 0; i < device->count; i++) {
                        const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                        if (!in_row(seat, device->order[i], turns->holder))
                                continue;
                        if (!seat->sight.used_known)
                                return false;
                        *ret_had += (int64_t)(account_best(&seat->account) - seat->turn_used);
                        if (seat->sight.demand == ARBITER_DEMAND_WORK)
                                *ret_least = (int64_t)((double)(now - turns->begun) / 4 *
                                                       busy_part(seat));
                }
        }
        if (latency)
                *ret_least = HAD_SOME;
        return true;
}

static void begin_turn(struct arbiter *arbiter, struct turns *turns, uint32_t holder, uint64_t now)
{
        turns->holder = holder;
        turns->begun = now;
        turns->end = now + MAX_OF(turn_length(arbiter, turns, holder, now), ARBITER_MS);
        for (unsigned d = 0; d < arbiter->devices; d++) {
                const struct device *device = &arbiter->device[d];

                for (unsigned i = 0; turns->devices & 1u << d && i < device->count; i++) {
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);

                        if (!in_row(seat, device->order[i], holder))
                                continue;
                        seat->turned_before = seat->turned_at[turns->alone];
                        seat->turned_at[turns->alone] = now;
                        seat->target_then = seat->target_ppm;
                        seat->turn_used = account_best(&seat->account);
                }
        }
}

/* It was nobody's turn. */
static void forget_turn(struct arbiter *arbiter, const struct turns *turns)
{
        for (unsigned d = 0; d < arbiter->devices; d++) {
                const struct device *device = &arbiter->device[d];

                for (unsigned i = 0; turns->devices & 1u << d && i < device->count; i++) {
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);

                        if (in_row(seat, device->order[i], turns->holder))
                                seat->turned_at[turns->alone] = seat->turned_before;
                }
        }
}

/* Passes the turn on when it is over or of no use, to the row that has waited for it longest.
 * Returns when to look again. */
static uint64_t take_turns(struct arbiter *arbiter, struct turns *turns, uint64_t now)
{
        uint64_t longest = UINT64_MAX;
        uint32_t next = NONE;
        unsigned rows = 0;
        int64_t had, least;

        if (turns->holder != NONE) {
                bool wanted = look_at_row(arbiter, turns, turns->holder, now).wanted;

                if (wanted && now < turns->end)
                        return turns->end;
                /* a short turn could fall into the time of who comes first, again and again; and
                   one who comes and goes may be gone whenever his turn comes */
                if (had_of_turn(arbiter, turns, now, &had, &least) &&
                        had < (wanted ? least : (int64_t)HAD_SOME)) {
                        if (wanted && now < turns->begun + ARBITER_FRAME_MAX)
                                return now + ARBITER_TURN / 4;
                        forget_turn(arbiter, turns);
                }
        }
        for (uint32_t k = 0; k <= POOL; k = k < POOL ? next_row(arbiter, k) : k + 1) {
                struct row row = look_at_row(arbiter, turns, k, now);

                if (!row.target || !row.wanted)
                        continue;
                rows++;
                if (k == turns->holder)
                        row.turned_at = UINT64_MAX - 1;
                if (row.turned_at < longest) {
                        longest = row.turned_at;
                        next = k;
                }
        }
        if (turns->holder == NONE)
                turns->entered = now;
        /* without a second one the rest need not wait */
        turns->holder = turns->alone && rows < 2 ? NONE : next;
        if (turns->holder == NONE)
                return UINT64_MAX;
        begin_turn(arbiter, turns, next, now);
        return turns->end;
}

/* ---- the step ---- */

static bool may_call(const struct seat *seat, enum call call, uint64_t now)
{
        const struct flight *flight = &seat->flight[call];

        if (flight->under_way)
                return now - flight->since >= CALL_LOST;
        return flight->failures == 0 || now - flight->since >= RETRY;
}

struct actions {
        struct arbiter_action *action;
        unsigned count;
};

static void act(struct arbiter *arbiter, struct actions *actions, enum arbiter_act what, unsigned d,
        uint32_t t, uint64_t now)
{
        struct seat *seat = seat_of(arbiter, d, t);
        enum call call = what == ARBITER_SET_SLICE  ? CALL_SLICE
                         : what == ARBITER_SET_MODE ? CALL_MODE
                                                    : CALL_SWITCH;

        seat->flight[call].under_way = true;
        seat->flight[call].since = now;
        actions->action[actions->count++] = (struct arbiter_action){
                .act = what,
                .tenant = arbiter->tenant[t].id,
                .device = d,
                .batch = arbiter->batch,
                .slice_us = what == ARBITER_SET_SLICE ? seat->slice_wanted : 0,
                .thread_block = what == ARBITER_SET_MODE && seat->thread_block_wanted,
        };
}

static void switch_channels(
        struct arbiter *arbiter, unsigned d, struct actions *actions, bool disable, uint64_t now)
{
        const struct device *device = &arbiter->device[d];

        arbiter->batch++;
        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);
                bool is_so = seat->disabled == disable && (disable || !seat->in_part);

                if (seat->disabled_wanted != disable || is_so ||
                        !may_call(seat, CALL_SWITCH, now) || actions->count == ARBITER_MAX_ACTIONS)
                        continue;
                act(arbiter, actions, disable ? ARBITER_DISABLE : ARBITER_ENABLE, d,
                        device->order[i], now);
        }
}

/* So far that a guarantee, its own or another's, would not stand. */
static bool is_far_off(const struct seat *seat)
{
        return seat->kind != ARBITER_IDLE &&
               (seat->slice_us > 2 * seat->slice_wanted || 2 * seat->slice_us < seat->slice_wanted);
}

/* By the slices in force somebody would get less than nine tenths of his guarantee. Who has a turn
 * of his own shares it with nobody. */
static bool breaks_guarantee(struct arbiter *arbiter, unsigned d)
{
        const struct device *device = &arbiter->device[d];
        uint64_t sum = 0;

        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->turn != TURN_FREE)
                        return false;
                sum += seat->kind != ARBITER_IDLE ? slice_in_force(seat) : 0;
        }
        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->kind != ARBITER_IDLE &&
                        slice_in_force(seat) * 1000 <
                                sum * arbiter->tenant[device->order[i]].terms.share * 9)
                        return true;
        }
        return false;
}

static void set_weights(struct arbiter *arbiter, struct actions *actions, uint64_t now)
{
        for (unsigned d = 0; d < arbiter->devices; d++) {
                struct device *device = &arbiter->device[d];
                bool waiting = false, guaranteed = false, broken = breaks_guarantee(arbiter, d);

                for (unsigned i = 0; i < device->count; i++)
                        guaranteed |= arbiter->tenant[device->order[i]].terms.share > 0 &&
                                      seat_of(arbiter, d, device->order[i])->kind != ARBITER_IDLE;
                for (unsigned i = 0; i < device->count; i++) {
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);
                        unsigned groups = seat->sight.groups ? seat->sight.groups : 1;
                        bool slice = seat->slice_wanted && seat->slice_wanted != seat->slice_us;
                        bool mode = seat->thread_block_wanted != seat->thread_block;

                        arbiter->batch++;
                        if (!slice && !mode)
                                continue;
                        if ((arbiter->call_budget <= 0 && !device->urgent &&
                                    !(slice && (broken || (is_far_off(seat) && guaranteed)))) ||
                                actions->count + 2 > ARBITER_MAX_ACTIONS) {
                                waiting = true;
                                continue;
                        }
                        if (slice && may_call(seat, CALL_SLICE, now)) {
                                act(arbiter, actions, ARBITER_SET_SLICE, d, device->order[i], now);
                                arbiter->call_budget -= (int64_t)(groups * arbiter->costs.slice_ns);
                        }
                        if (mode && may_call(seat, CALL_MODE, now)) {
                                act(arbiter, actions, ARBITER_SET_MODE, d, device->order[i], now);
                                arbiter->call_budget -= (int64_t)(groups * arbiter->costs.slice_ns);
                        }
                        /* what is under way may be of a moment ago, and to be set anew */
                        waiting |= seat->flight[CALL_SLICE].under_way ||
                                   seat->flight[CALL_MODE].under_way;
                }
                if (!waiting)
                        device->urgent = false;
        }
        arbiter->call_budget = MAX_OF(arbiter->call_budget, -(int64_t)CALL_CREDIT);
}

unsigned arbiter_step(struct arbiter *arbiter, uint64_t now, struct arbiter_action *actions)
{
        struct actions list = {.action = actions};
        uint64_t next = now + ARBITER_REST;
        bool stale = false;

        if (now > arbiter->looked) {
                uint64_t span = MIN_OF(now - arbiter->looked, 100 * CALL_CREDIT);

                arbiter->call_budget = MIN_OF((int64_t)CALL_CREDIT,
                        arbiter->call_budget + (int64_t)(span * ARBITER_CALL_SHARE / PPM));
                arbiter->looked = now;
        }
        for (unsigned d = 0; d < arbiter->devices; d++) {
                struct device *device = &arbiter->device[d];

                settle(arbiter, d, now);
                watch_probe(arbiter, d, now);
                for (unsigned i = 0; i < device->count; i++) {
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);

                        judge(arbiter, d, device->order[i], now);
                        if (seat->kind != ARBITER_IDLE)
                                next = MIN_OF(next, now + ARBITER_LOOK);
                        if (device->latency &&
                                owed_to(device, seat, &arbiter->tenant[device->order[i]], now) >
                                        owed_limit(seat, &arbiter->tenant[device->order[i]]))
                                device->stale = true;
                }
                if (device->round_due != device->round && now >= device->round_since + ROUND_STAYS)
                        device->stale = true;
                if (device->stale) {
                        set_targets(arbiter, d);
                        set_slices(arbiter, d);
                        device->stale = false;
                        stale = true;
                }
        }
        if (stale)
                find_clusters(arbiter);
        for (uint32_t t = 0; t < arbiter->top; t++)
                if (arbiter->tenant[t].id && is_capped(&arbiter->tenant[t]))
                        next = MIN_OF(next, watch_cap(arbiter, t, now));
        for (unsigned d = 0; d < arbiter->devices; d++)
                if (arbiter->device[d].cluster == d)
                        next = MIN_OF(next, take_turns(arbiter, &arbiter->cluster[d], now));
        for (unsigned d = 0; d < arbiter->devices; d++) {
                struct device *device = &arbiter->device[d];
                uint32_t holder = arbiter->cluster[device->cluster].holder;
                bool held = false;

                for (unsigned i = 0; holder != NONE && i < device->count; i++)
                        held |= in_row(
                                seat_of(arbiter, d, device->order[i]), device->order[i], holder);
                /* the turn of somebody who is not there */
                if (holder != NONE && !held) {
                        next = MIN_OF(next, take_turns(arbiter, &device->alone, now));
                        holder = device->alone.holder;
                        held = holder != NONE;
                } else
                        device->alone.holder = NONE;
                if (held)
                        next = MIN_OF(next, now + ARBITER_TURN / 4);
                for (unsigned i = 0; i < device->count; i++) {
                        uint32_t t = device->order[i];
                        struct seat *seat = seat_of(arbiter, d, t);

                        /* who is asleep can only be seen to wake up while it is enabled */
                        seat->disabled_wanted =
                                arbiter->tenant[t].capped_off ||
                                (held && seat->turn != TURN_FREE && !in_row(seat, t, holder) &&
                                        !(seat->sight.blind_alone &&
                                                seat->sight.demand == ARBITER_DEMAND_NONE));
                }
        }
        /* First off, then on: the other way round they would meet and switch to and fro. Device by
           device: one that waits for the calls of all others is idle for so long. */
        for (unsigned d = 0; d < arbiter->devices; d++) {
                switch_channels(arbiter, d, &list, true, now);
                switch_channels(arbiter, d, &list, false, now);
        }
        set_weights(arbiter, &list, now);
        arbiter->next = MAX_OF(next, now + NAP_MIN);
        return list.count;
}

uint64_t arbiter_next(const struct arbiter *arbiter)
{
        return arbiter->next;
}

/* ---- what became of it ---- */

static void learn(uint64_t *lead, uint64_t seen)
{
        seen = MIN_OF(seen, 5 * ARBITER_MS);
        *lead = *lead - *lead / 8 + seen / 8;
}

void arbiter_acted(
        struct arbiter *arbiter, uint64_t now, const struct arbiter_action *action, int result)
{
        struct seat *seat = find_seat(arbiter, action->tenant, action->device);
        enum call call = action->act == ARBITER_SET_SLICE  ? CALL_SLICE
                         : action->act == ARBITER_SET_MODE ? CALL_MODE
                                                           : CALL_SWITCH;
        struct flight *flight;

        if (!seat)
                return;
        settle(arbiter, action->device, now);
        flight = &seat->flight[call];
        if (!flight->under_way)
                return;
        flight->under_way = false;
        if (result < 0) {
                flight->failures++;
                flight->since = now;
                seat->in_part |= action->act == ARBITER_DISABLE;
                return;
        }
        flight->failures = 0;
        switch (action->act) {
        case ARBITER_SET_SLICE:
                seat->slice_us = action->slice_us;
                break;
        case ARBITER_SET_MODE:
                seat->thread_block = action->thread_block;
                break;
        case ARBITER_DISABLE:
                learn(&arbiter->disable_lead, now - MIN_OF(flight->since, now));
                seat->disabled = true;
                arbiter->next = MIN_OF(arbiter->next, now);
                break;
        case ARBITER_ENABLE:
                learn(&arbiter->enable_lead, now - MIN_OF(flight->since, now));
                seat->disabled = seat->in_part = false;
                arbiter->next = MIN_OF(arbiter->next, now);
                break;
        }
}

int arbiter_forget(struct arbiter *arbiter, uint64_t now, uint64_t id, unsigned device)
{
        struct seat *seat = find_seat(arbiter, id, device);

        if (!seat)
                return -ENOENT;
        settle(arbiter, device, now);
        seat->slice_us = 0;
        seat->thread_block = false;
        seat->disabled = seat->in_part = false;
        for (unsigned i = 0; i < CALLS; i++)
                seat->flight[i] = (struct flight){0};
        arbiter->device[device].stale = true;
        arbiter->device[device].urgent = true;
        arbiter->next = now;
        return 0;
}

void arbiter_resume(struct arbiter *arbiter, uint64_t now)
{
        for (unsigned d = 0; d < arbiter->devices; d++) {
                struct device *device = &arbiter->device[d];

                device->settled = MAX_OF(device->settled, now);
                device->stale = device->urgent = true;
                device->probed = NONE;
                device->alone.holder = arbiter->cluster[d].holder = NONE;
                for (unsigned i = 0; i < device->count; i++) {
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);

                        /* what is measured next goes on from here */
                        seat->account.source = ACCOUNT_RECORD;
                        seat->owed_ns = 0;
                        seat->turned_at[0] = seat->turned_at[1] = now;
                        mark(seat, now);
                }
        }
        for (uint32_t t = 0; t < arbiter->top; t++)
                if (arbiter->tenant[t].id && is_capped(&arbiter->tenant[t]))
                        start_period(arbiter, &arbiter->tenant[t], t, now);
        arbiter->next = now;
}

int arbiter_inspect(
        const struct arbiter *arbiter, uint64_t id, unsigned device, struct arbiter_state *ret)
{
        const struct seat *seat = find_seat((struct arbiter *)arbiter, id, device);

        if (!seat)
                return -ENOENT;
        *ret = (struct arbiter_state){
                .kind = seat->kind,
                .disabled = seat->disabled,
                .capped_off = arbiter->tenant[find(arbiter, id)].capped_off,
                .turns = seat->turn != TURN_FREE,
                .thread_block = seat->thread_block,
                .slice_us = seat->slice_us,
                .target_ppm = seat->target_ppm,
                .gpu_ns = seat->account.shown_ns,
                .error_ns = account_error(&seat->account),
                .source = seat->account.source,
        };
        for (unsigned i = 0; i < CALLS; i++)
                ret->refused |= seat->flight[i].failures >= 3;
        return 0;
}
