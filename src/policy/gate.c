/* SPDX-License-Identifier: Apache-2.0 */
#include "policy/gate.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"

#define PPM 1000000u

struct member {
        uint64_t id; /* 0: free */
        struct arbiter_terms terms;
        uint32_t devices; /* a bit for each */
        struct {
                struct gate_sight sight;
                bool known; /* sight.used_ns has been read once */
                uint64_t counted_ns;
        } on[ARBITER_MAX_DEVICES];
        uint64_t used_ns;    /* the most that was used on one of them, step by step */
        uint64_t busy_until; /* the last of them */
        uint64_t active_at;  /* when it last wanted something */
        bool wants, active;
        uint32_t target; /* ppm */
        double passed;   /* virtual time */
        bool due;        /* is not ahead: priority counts */
        int64_t budget;  /* of its cap, ns */
        uint64_t period_end;
        struct gate_lease lease;
        /* its turn, on all of its devices */
        bool holds;                        /* it has it, or had it until the next one's begins */
        bool passed_by;                    /* others were chosen before it, in this step */
        uint64_t turn_end;                 /* GATE_FOREVER: nobody else wants one */
        uint64_t draining;                 /* since then, 0: it is its turn still */
        uint32_t at_work;                  /* devices that have been all the time since then */
        uint64_t turn_begin, turn_used_ns; /* when it began, and used_ns by then */
};

struct gate {
        uint64_t now, next;
        unsigned members; /* all are before that place */
        struct member *holder[ARBITER_MAX_DEVICES];
        uint64_t free_at[ARBITER_MAX_DEVICES]; /* the work of the last holder has ended */
        struct member member[GATE_MAX_TENANTS];
};

#define EACH(gate, m)                                                                              \
        for (struct member *m = (gate)->member; m < (gate)->member + (gate)->members; m++)         \
                if (m->id)

#define EACH_DEVICE(m, d)                                                                          \
        for (unsigned d = 0; (m)->devices >> d; d++)                                               \
                if ((m)->devices >> d & 1)

int gate_new(struct gate **ret)
{
        struct gate *gate = calloc(1, sizeof(*gate));

        if (!gate)
                return -ENOMEM;
        *ret = gate;
        return 0;
}

struct gate *gate_free(struct gate *gate)
{
        free(gate);
        return NULL;
}

static struct member *find(const struct gate *gate, uint64_t id)
{
        EACH((struct gate *)gate, m)
        if (m->id == id)
                return m;
        return NULL;
}

/* ---- caps ------------------------------------------------------------------------------------ */

static bool is_capped(const struct member *m)
{
        return m->terms.cap > 0 && m->terms.cap < 100;
}

static uint64_t period_of(const struct member *m)
{
        return MAX_OF(GATE_PERIOD, GATE_TURN_MIN * 100 / m->terms.cap);
}

static int64_t budget_of(const struct member *m)
{
        return (int64_t)(period_of(m) * m->terms.cap / 100);
}

static void begin_cap(struct member *m, uint64_t now)
{
        if (!is_capped(m))
                return;
        m->budget = budget_of(m);
        m->period_end = now + period_of(m);
}

static void roll_period(struct member *m, uint64_t now)
{
        int64_t budget = budget_of(m);

        /* after a long time without steps, all that is in the past counts as one */
        for (unsigned i = 0; m->period_end <= now; i++) {
                if (i == 1000) {
                        m->period_end = now;
                        m->budget = MAX_OF(m->budget, 0);
                }
                m->budget = MIN_OF(m->budget + budget, budget + budget / 4);
                m->period_end += period_of(m);
        }
}

static bool is_spent(const struct member *m)
{
        return is_capped(m) && m->budget <= 0;
}

/* ---- who comes and goes ---------------------------------------------------------------------- */

/* The least virtual time of those on some devices who want to launch: where others begin. */
static double virtual_now(const struct gate *gate, uint32_t devices)
{
        double least = 0, most = 0;
        bool any = false;

        EACH((struct gate *)gate, m)
        {
                if (!(m->devices & devices))
                        continue;
                most = MAX_OF(most, m->passed);
                if (m->wants && (!any || m->passed < least)) {
                        least = m->passed;
                        any = true;
                }
        }
        return any ? least : most;
}

static void give_up_turn(struct gate *gate, struct member *m)
{
        for (unsigned d = 0; d < ARBITER_MAX_DEVICES; d++)
                if (gate->holder[d] == m)
                        gate->holder[d] = NULL;
        m->holds = false;
        m->draining = 0;
}

static struct member *find_free(struct gate *gate)
{
        for (unsigned i = 0; i < GATE_MAX_TENANTS; i++)
                if (!gate->member[i].id) {
                        gate->members = MAX_OF(gate->members, i + 1);
                        return &gate->member[i];
                }
        return NULL;
}

int gate_admit(struct gate *gate, uint64_t now, uint64_t id, unsigned device,
        const struct arbiter_terms *terms)
{
        struct member *m = find(gate, id);

        if (!id || device >= ARBITER_MAX_DEVICES)
                return -EINVAL;
        if (m && m->devices >> device & 1)
                return -EEXIST;
        if (!m) {
                m = find_free(gate);
                if (!m)
                        return -EUSERS;
                *m = (struct member){.id = id,
                        .terms = *terms,
                        .passed = virtual_now(gate, 1u << device),
                        .target = PPM};
                begin_cap(m, now);
        }
        /* its next turn is on this one, too */
        give_up_turn(gate, m);
        m->devices |= 1u << device;
        gate->next = now;
        return 0;
}

int gate_change(struct gate *gate, uint64_t now, uint64_t id, const struct arbiter_terms *terms)
{
        struct member *m = find(gate, id);
        unsigned cap;

        if (!m)
                return -ENOENT;
        cap = m->terms.cap;
        m->terms = *terms;
        if (cap != terms->cap)
                begin_cap(m, now);
        gate->next = now;
        return 0;
}

int gate_leave(struct gate *gate, uint64_t now, uint64_t id)
{
        struct member *m = find(gate, id);

        if (!m)
                return -ENOENT;
        give_up_turn(gate, m);
        m->id = 0;
        while (gate->members && !gate->member[gate->members - 1].id)
                gate->members--;
        gate->next = now;
        return 0;
}

int gate_observe(struct gate *gate, uint64_t id, unsigned device, const struct gate_sight *sight)
{
        struct member *m = find(gate, id);

        if (!m || device >= ARBITER_MAX_DEVICES || !(m->devices >> device & 1))
                return -ENOENT;
        if (!m->on[device].known)
                m->on[device].counted_ns = sight->used_ns;
        m->on[device].known = true;
        m->on[device].sight = *sight;
        return 0;
}

/* ---- targets --------------------------------------------------------------------------------- */

static uint32_t cap_ppm(const struct member *m)
{
        return is_capped(m) ? m->terms.cap * 10000 : PPM;
}

static unsigned weight_of(const struct member *m)
{
        return m->terms.weight ? m->terms.weight : 100;
}

/* Pours what is left of a device to those of a class, by weight, up to their caps. What remains. */
static uint32_t pour(struct gate *gate, unsigned device, enum arbiter_priority priority,
        bool capped, uint32_t left)
{
        for (;;) {
                uint64_t weights = 0;
                uint32_t given = 0;

                EACH(gate, m)
                if (m->devices >> device & 1 && m->active && m->terms.priority == priority &&
                        is_capped(m) == capped && m->target < cap_ppm(m))
                        weights += weight_of(m);
                if (!weights || !left)
                        return left;
                EACH(gate, m)
                if (m->devices >> device & 1 && m->active && m->terms.priority == priority &&
                        is_capped(m) == capped && m->target < cap_ppm(m)) {
                        uint32_t part = (uint32_t)(left * weight_of(m) / weights);

                        part = MIN_OF(part, cap_ppm(m) - m->target);
                        m->target += part;
                        given += part;
                }
                left -= given;
                if (!given)
                        return left;
        }
}

/* Of several devices, the least that one of them leaves it. */
static void set_targets(struct gate *gate)
{
        uint32_t least[GATE_MAX_TENANTS], devices = 0;

        EACH(gate, m)
        {
                least[m - gate->member] = PPM;
                devices |= m->devices;
        }
        for (unsigned d = 0; devices >> d; d++) {
                uint32_t left = PPM;

                if (!(devices >> d & 1))
                        continue;
                EACH(gate, m)
                if (m->devices >> d & 1) {
                        m->target = m->active ? MIN_OF(m->terms.share * 10000, left) : 0;
                        left -= m->target;
                }
                for (int p = ARBITER_HIGH; p >= ARBITER_LOW; p--) {
                        left = pour(gate, d, (enum arbiter_priority)p, false, left);
                        left = pour(gate, d, (enum arbiter_priority)p, true, left);
                }
                EACH(gate, m)
                if (m->devices >> d & 1)
                        least[m - gate->member] = MIN_OF(least[m - gate->member], m->target);
        }
        EACH(gate, m)
        m->target = MAX_OF(least[m - gate->member], GATE_FLOOR);
}

/* ---- time ------------------------------------------------------------------------------------ */

/* Takes in what was seen. What was used, by which the account grows. */
static int64_t take_in(struct member *m, uint64_t now)
{
        int64_t most = 0;
        bool any = false;

        m->wants = false;
        m->busy_until = 0;
        EACH_DEVICE(m, d)
        {
                const struct gate_sight *sight = &m->on[d].sight;
                /* may have been corrected downwards */
                int64_t used = (int64_t)(sight->used_ns - m->on[d].counted_ns);

                m->on[d].counted_ns = sight->used_ns;
                most = any ? MAX_OF(most, used) : used;
                any = true;
                m->busy_until = MAX_OF(m->busy_until, sight->busy_until);
                m->wants |= sight->busy_until > now ||
                            (sight->wanted_at && sight->wanted_at + GATE_WANTS > now);
        }
        m->used_ns += (uint64_t)most;
        if (m->wants || most != 0)
                m->active_at = now;
        m->active = m->active_at && m->active_at + GATE_LINGER > now;
        return most;
}

/* What each has used is charged by what he is due now: who has just come by his own. */
static void settle(struct gate *gate, uint64_t now)
{
        int64_t used[GATE_MAX_TENANTS];

        EACH(gate, m)
        used[m - gate->member] = take_in(m, now);
        set_targets(gate);
        EACH(gate, m)
        {
                m->passed += (double)used[m - gate->member] * PPM / m->target;
                if (is_capped(m)) {
                        m->budget -= used[m - gate->member];
                        roll_period(m, now);
                }
        }
        EACH(gate, m)
        if (!m->wants)
                m->passed = MAX_OF(m->passed, virtual_now(gate, m->devices) - (double)GATE_ROUND);
}

/* ---- turns ----------------------------------------------------------------------------------- */

static uint64_t turn_of(const struct member *m)
{
        return MAX_OF(GATE_ROUND / PPM * m->target, GATE_TURN_MIN);
}

static bool can_run(const struct member *m)
{
        return m->wants && !is_spent(m);
}

static void look_who_is_due(struct gate *gate)
{
        double lead = (double)GATE_TURN_MIN;

        EACH(gate, m)
        m->due = m->passed <= virtual_now(gate, m->devices) + lead * PPM / m->target;
}

/* Of two who want a turn, whether a comes first. */
static bool before(const struct member *a, const struct member *b)
{
        if (a->terms.priority != b->terms.priority && a->due && b->due)
                return a->terms.priority > b->terms.priority;
        return a->passed < b->passed;
}

/* Of those who want a turn on one of its devices and have none, the first; NULL. */
static struct member *rival_of(struct gate *gate, const struct member *m)
{
        struct member *best = NULL;

        EACH(gate, other)
        if (other != m && other->devices & m->devices && !other->holds && can_run(other) &&
                (!best || before(other, best)))
                best = other;
        return best;
}

/* A bit for each of its devices that is at work. */
static uint32_t busy_devices(const struct member *m, uint64_t now)
{
        uint32_t busy = 0;

        EACH_DEVICE(m, d)
        if (m->on[d].sight.busy_until > now)
                busy |= 1u << d;
        return busy;
}

static void end_turn(struct member *m, uint64_t now)
{
        if (!m->draining) {
                m->draining = now;
                m->at_work = m->devices;
        }
        m->turn_end = MIN_OF(m->turn_end, now);
}

/* A turn costs what it has lasted while others waited, also where the device was not used all the
 * time: what one leaves unused is lost to the others. */
static void charge_turn(struct member *m, uint64_t end)
{
        int64_t used = (int64_t)(m->used_ns - m->turn_used_ns);
        int64_t lasted = (int64_t)(end - MIN_OF(m->turn_begin, end));

        if (m->turn_end != GATE_FOREVER && used < lasted)
                m->passed += (double)(lasted - MAX_OF(used, 0)) * PPM / m->target;
}

static void begin_turn(struct member *m, uint64_t begin)
{
        m->turn_begin = begin;
        m->turn_used_ns = m->used_ns;
}

static void look_at_turn(struct gate *gate, struct member *m, uint64_t now)
{
        const struct member *other = rival_of(gate, m);

        if (m->draining)
                return;
        if (is_spent(m) || !m->active)
                end_turn(m, now);
        else if (!other)
                m->turn_end = GATE_FOREVER;
        else if (m->turn_end == GATE_FOREVER) {
                /* somebody has come: it has had its turn, and may end what it is at */
                m->turn_end = now + GATE_TURN_MIN;
                begin_turn(m, now);
        } else if (now >= m->turn_end || !m->wants ||
                   (other->terms.priority > m->terms.priority && before(other, m)))
                end_turn(m, now);
}

/* Its turn is over, and one of its devices is at what another may have to come to. */
static bool waits_for_partner(const struct member *m)
{
        return m->draining && m->at_work && m->at_work != m->devices;
}

/* When its turn is over and its work has ended, its devices are free. */
static void hand_back(struct gate *gate, struct member *m, uint64_t now)
{
        uint64_t from = now;

        if (!m->draining)
                return;
        m->at_work &= busy_devices(m, now);
        if (m->busy_until > now && now < m->draining + GATE_DRAIN) {
                if (m->busy_until > now + GATE_LOOK || waits_for_partner(m))
                        return;
                from = m->busy_until;
        }
        charge_turn(m, from);
        EACH_DEVICE(m, d)
        gate->free_at[d] = from;
        give_up_turn(gate, m);
}

/* When a device is expected to be free; now or before: it is. */
static uint64_t expected(const struct gate *gate, unsigned device, uint64_t now)
{
        const struct member *m = gate->holder[device];

        if (!m)
                return now;
        if (m->draining)
                return MAX_OF(m->busy_until, now + 1);
        return m->turn_end == GATE_FOREVER ? now + GATE_TURN_MIN : MAX_OF(m->turn_end, now + 1);
}

/* Its turn on all of its devices if they are free, before `until`, when those who come first need
 * them; else nobody may have them for longer than it has to wait for the last. */
static void hand_over(struct gate *gate, struct member *m, uint64_t until[], uint64_t now)
{
        uint64_t from = now, ready = now, end = GATE_FOREVER;

        EACH_DEVICE(m, d)
        {
                from = MAX_OF(from, gate->free_at[d]);
                ready = MAX_OF(ready, expected(gate, d, now));
                end = MIN_OF(end, until[d]);
        }
        if (ready > now) {
                EACH_DEVICE(m, d)
                until[d] = MIN_OF(until[d], ready);
                return;
        }
        if (end != GATE_FOREVER && end < from + GATE_TURN_MIN)
                return;
        EACH_DEVICE(m, d)
        gate->holder[d] = m;
        m->holds = true;
        m->draining = 0;
        m->lease.from = from;
        m->turn_end = MIN_OF(end, from + turn_of(m));
        begin_turn(m, from);
}

static void hand_over_all(struct gate *gate, uint64_t now)
{
        uint64_t until[ARBITER_MAX_DEVICES];

        for (unsigned d = 0; d < ARBITER_MAX_DEVICES; d++)
                until[d] = GATE_FOREVER;
        EACH(gate, m)
        m->passed_by = false;
        for (;;) {
                struct member *best = NULL;

                EACH(gate, m)
                if (!m->holds && !m->passed_by && can_run(m) && (!best || before(m, best)))
                        best = m;
                if (!best)
                        return;
                best->passed_by = true;
                hand_over(gate, best, until, now);
        }
}

/* ---- leases ---------------------------------------------------------------------------------- */

static uint64_t lease_end(const struct member *m, uint64_t now)
{
        uint64_t end = m->turn_end;

        /* what is in flight has been counted already */
        if (is_capped(m)) {
                uint64_t begin = MAX_OF(MAX_OF(now, m->lease.from), m->busy_until);

                end = MIN_OF(end, begin + (uint64_t)MAX_OF(m->budget, 0));
        }
        return end;
}

/* How many want to launch on the device of its where most do. */
static unsigned wanting(const struct gate *gate, const struct member *m)
{
        unsigned most = 0;

        EACH_DEVICE(m, d)
        {
                unsigned count = 0;

                EACH((struct gate *)gate, other)
                count += other->wants && other->devices >> d & 1;
                most = MAX_OF(most, count);
        }
        return most;
}

static void give_lease(struct gate *gate, struct member *m, uint64_t now)
{
        unsigned want = wanting(gate, m);

        m->lease.window_ns = want > 1 || is_capped(m) ? GATE_WINDOW : GATE_WINDOW_ALONE;
        m->lease.rate_ppm = MIN_OF(m->active ? m->target : cap_ppm(m), cap_ppm(m));
        if (m->holds && !m->draining) {
                m->lease.until = lease_end(m, now);
                if (want > 1)
                        gate->next = MIN_OF(gate->next, now + GATE_WATCH);
                if (m->lease.until <= now)
                        gate->next = MIN_OF(gate->next, now + GATE_LOOK / 4);
                gate->next = MIN_OF(gate->next, MAX_OF(m->lease.until, now + GATE_LOOK / 4));
        } else if (want <= 1 && !m->wants && !is_spent(m)) {
                /* nobody is in its way */
                m->lease.from = 0;
                m->lease.until =
                        is_capped(m) ? now + (uint64_t)MIN_OF(m->budget, (int64_t)(2 * GATE_STEP))
                                     : GATE_FOREVER;
        } else
                m->lease.until = 0;
        if (m->holds && m->draining)
                gate->next = MIN_OF(gate->next, now + GATE_LOOK);
        if (is_spent(m) && m->wants)
                gate->next = MIN_OF(gate->next, m->period_end);
}

void gate_step(struct gate *gate, uint64_t now)
{
        if (now < gate->now)
                now = gate->now;
        gate->now = now;
        settle(gate, now);
        look_who_is_due(gate);
        EACH(gate, m)
        if (m->holds)
                look_at_turn(gate, m, now);
        EACH(gate, m)
        if (m->holds)
                hand_back(gate, m, now);
        look_who_is_due(gate);
        hand_over_all(gate, now);
        EACH(gate, m)
        if (m->holds && !m->draining && !rival_of(gate, m))
                m->turn_end = GATE_FOREVER;
        gate->next = now + GATE_STEP;
        EACH(gate, m)
        give_lease(gate, m, now);
}

uint64_t gate_next(const struct gate *gate)
{
        return gate->next;
}

int gate_get(const struct gate *gate, uint64_t id, unsigned device, struct gate_lease *ret)
{
        const struct member *m = find(gate, id);

        if (!m || device >= ARBITER_MAX_DEVICES || !(m->devices >> device & 1))
                return -ENOENT;
        *ret = m->lease;
        /* what one device is at may wait for what comes on another */
        if (m->holds && waits_for_partner(m) && !(m->at_work >> device & 1))
                ret->until = gate->now + 2 * GATE_STEP;
        return 0;
}

int gate_inspect(const struct gate *gate, uint64_t id, struct gate_state *ret)
{
        const struct member *m = find(gate, id);

        if (!m)
                return -ENOENT;
        *ret = (struct gate_state){
                .wants = m->wants,
                .holds = m->holds && !m->draining,
                .capped_off = is_spent(m),
                .target_ppm = m->active ? m->target : 0,
        };
        return 0;
}
