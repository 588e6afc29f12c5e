/* SPDX-License-Identifier: Apache-2.0 */
#include "policy/gate.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"

#define PPM 1000000u

struct member {
        uint64_t id; /* 0: free */
        struct arbiter_terms terms;
        struct gate_sight sight;
        bool known; /* sight.used_ns has been read once */
        uint64_t counted_ns;
        uint64_t active_at; /* when it last wanted something */
        bool wants, active;
        uint32_t target; /* ppm */
        double passed;   /* virtual time */
        int64_t budget;  /* of its cap, ns */
        uint64_t period_end;
        struct gate_lease lease;
};

struct gate {
        uint64_t now, next;
        struct member *holder; /* whose turn it is, or was until the next one's begins */
        uint64_t turn_end;     /* GATE_FOREVER: nobody else wants one */
        uint64_t draining;     /* since then, 0: it is its turn still */
        uint64_t turn_begin, turn_used_ns; /* when it began, and used_ns by then */
        struct member member[GATE_MAX_TENANTS];
};

#define EACH(gate, m)                                                                              \
        for (struct member *m = (gate)->member; m < (gate)->member + GATE_MAX_TENANTS; m++)        \
                if (m->id)

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

/* The least virtual time of those who want to launch: where others begin. */
static double virtual_now(const struct gate *gate)
{
        double least = 0;
        bool any = false;

        EACH((struct gate *)gate, m)
        if (m->wants && (!any || m->passed < least)) {
                least = m->passed;
                any = true;
        }
        if (!any)
                EACH((struct gate *)gate, m)
        least = MAX_OF(least, m->passed);
        return least;
}

int gate_admit(struct gate *gate, uint64_t now, uint64_t id, const struct arbiter_terms *terms)
{
        if (!id)
                return -EINVAL;
        if (find(gate, id))
                return -EEXIST;
        for (unsigned i = 0; i < GATE_MAX_TENANTS; i++) {
                struct member *m = &gate->member[i];

                if (m->id)
                        continue;
                *m = (struct member){
                        .id = id, .terms = *terms, .passed = virtual_now(gate), .target = PPM};
                begin_cap(m, now);
                gate->next = now;
                return 0;
        }
        return -EUSERS;
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
        if (gate->holder == m)
                gate->holder = NULL;
        m->id = 0;
        gate->next = now;
        return 0;
}

int gate_observe(struct gate *gate, uint64_t id, const struct gate_sight *sight)
{
        struct member *m = find(gate, id);

        if (!m)
                return -ENOENT;
        if (!m->known)
                m->counted_ns = sight->used_ns;
        m->known = true;
        m->sight = *sight;
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

/* Pours what is left to those of a class, by weight, up to their caps. What remains. */
static uint32_t pour(struct gate *gate, enum arbiter_priority priority, bool capped, uint32_t left)
{
        for (;;) {
                uint64_t weights = 0;
                uint32_t given = 0;

                EACH(gate, m)
                if (m->active && m->terms.priority == priority && is_capped(m) == capped &&
                        m->target < cap_ppm(m))
                        weights += weight_of(m);
                if (!weights || !left)
                        return left;
                EACH(gate, m)
                if (m->active && m->terms.priority == priority && is_capped(m) == capped &&
                        m->target < cap_ppm(m)) {
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

static void set_targets(struct gate *gate)
{
        uint32_t left = PPM;

        EACH(gate, m)
        {
                m->target = m->active ? MIN_OF(m->terms.share * 10000, left) : 0;
                left -= m->target;
        }
        for (int p = ARBITER_HIGH; p >= ARBITER_LOW; p--) {
                left = pour(gate, (enum arbiter_priority)p, false, left);
                left = pour(gate, (enum arbiter_priority)p, true, left);
        }
        EACH(gate, m)
        m->target = MAX_OF(m->target, GATE_FLOOR);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void look_for_demand(struct gate *gate, uint64_t now)
{
        EACH(gate, m)
        {
                m->wants = m->sight.busy_until > now ||
                           (m->sight.wanted_at && m->sight.wanted_at + GATE_WANTS > now);
                if (m->wants || m->sight.used_ns != m->counted_ns)
                        m->active_at = now;
                m->active = m->active_at && m->active_at + GATE_LINGER > now;
        }
}

/* After targets are set: who has just come is charged by his own. */
static void settle(struct gate *gate, uint64_t now)
{
        double at;

        EACH(gate, m)
        {
                /* may have been corrected downwards */
                int64_t used = (int64_t)(m->sight.used_ns - m->counted_ns);

                m->counted_ns = m->sight.used_ns;
                m->passed += (double)used * PPM / m->target;
                if (is_capped(m)) {
                        m->budget -= used;
                        roll_period(m, now);
                }
        }
        at = virtual_now(gate);
        EACH(gate, m)
        if (!m->wants)
                m->passed = MAX_OF(m->passed, at - (double)GATE_ROUND);
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

/* Of two who want a turn, whether a comes first; at: virtual time now. */
static bool before(const struct member *a, const struct member *b, double at)
{
        double lead = (double)GATE_TURN_MIN;
        bool a_due = a->passed <= at + lead * PPM / a->target;
        bool b_due = b->passed <= at + lead * PPM / b->target;

        if (a->terms.priority != b->terms.priority && a_due && b_due)
                return a->terms.priority > b->terms.priority;
        return a->passed < b->passed;
}

static struct member *choose(struct gate *gate, const struct member *but)
{
        struct member *best = NULL;
        double at = virtual_now(gate);

        EACH(gate, m)
        if (m != but && can_run(m) && (!best || before(m, best, at)))
                best = m;
        return best;
}

static void end_turn(struct gate *gate, uint64_t now)
{
        if (!gate->draining)
                gate->draining = now;
        gate->turn_end = MIN_OF(gate->turn_end, now);
}

/* A turn costs what it has lasted while others waited, also where the device was not used all the
 * time: what one leaves unused is lost to the others. */
static void charge_turn(struct gate *gate, uint64_t end)
{
        struct member *h = gate->holder;
        int64_t used = (int64_t)(h->sight.used_ns - gate->turn_used_ns);
        int64_t lasted = (int64_t)(end - MIN_OF(gate->turn_begin, end));

        if (gate->turn_end != GATE_FOREVER && used < lasted)
                h->passed += (double)(lasted - MAX_OF(used, 0)) * PPM / h->target;
}

static void begin_turn(struct gate *gate, uint64_t begin)
{
        gate->turn_begin = begin;
        gate->turn_used_ns = gate->holder->sight.used_ns;
}

static void look_at_turn(struct gate *gate, const struct member *other, uint64_t now)
{
        struct member *h = gate->holder;

        if (!h || gate->draining)
                return;
        if (is_spent(h) || !h->active)
                end_turn(gate, now);
        else if (!other)
                gate->turn_end = GATE_FOREVER;
        else if (gate->turn_end == GATE_FOREVER) {
                /* somebody has come: it has had its turn, and may end what it is at */
                gate->turn_end = now + GATE_TURN_MIN;
                begin_turn(gate, now);
        } else if (now >= gate->turn_end || !h->wants ||
                   (other->terms.priority > h->terms.priority &&
                           before(other, h, virtual_now(gate))))
                end_turn(gate, now);
}

/* The turn of the next one begins when the work of the last has ended. */
static void hand_over(struct gate *gate, uint64_t now)
{
        struct member *h = gate->holder, *next;
        uint64_t from = now;

        if (h && !gate->draining)
                return;
        if (h && h->sight.busy_until > now && now < gate->draining + GATE_DRAIN) {
                if (h->sight.busy_until > now + GATE_LOOK)
                        return;
                from = h->sight.busy_until;
        }
        if (h)
                charge_turn(gate, from);
        next = choose(gate, NULL);
        gate->holder = next;
        gate->draining = 0;
        if (!next)
                return;
        begin_turn(gate, from);
        next->lease.from = from;
        gate->turn_end = from + turn_of(next);
}

/* ---- leases ---------------------------------------------------------------------------------- */

static uint64_t lease_end(const struct gate *gate, const struct member *m, uint64_t now)
{
        uint64_t end = gate->turn_end;

        /* what is in flight has been counted already */
        if (is_capped(m)) {
                uint64_t begin = MAX_OF(MAX_OF(now, m->lease.from), m->sight.busy_until);

                end = MIN_OF(end, begin + (uint64_t)MAX_OF(m->budget, 0));
        }
        return end;
}

static void give_leases(struct gate *gate, unsigned wanting, bool others, uint64_t now)
{
        EACH(gate, m)
        {
                m->lease.window_ns = others ? GATE_WINDOW : GATE_WINDOW_ALONE;
                if (is_capped(m))
                        m->lease.window_ns = GATE_WINDOW;
                m->lease.rate_ppm = MIN_OF(m->active ? m->target : cap_ppm(m), cap_ppm(m));
                if (m == gate->holder && !gate->draining)
                        m->lease.until = lease_end(gate, m, now);
                else if (wanting <= 1 && !m->wants && !is_spent(m)) {
                        /* nobody is in its way */
                        m->lease.from = 0;
                        m->lease.until = is_capped(m) ? now + (uint64_t)MIN_OF(m->budget,
                                                                      (int64_t)(2 * GATE_STEP))
                                                      : GATE_FOREVER;
                } else
                        m->lease.until = 0;
        }
}

void gate_step(struct gate *gate, uint64_t now)
{
        const struct member *other;
        unsigned wanting = 0;

        if (now < gate->now)
                now = gate->now;
        gate->now = now;
        look_for_demand(gate, now);
        set_targets(gate);
        settle(gate, now);
        EACH(gate, m)
        wanting += m->wants;
        other = choose(gate, gate->holder);
        look_at_turn(gate, other, now);
        hand_over(gate, now);
        if (gate->holder && !gate->draining && !choose(gate, gate->holder))
                gate->turn_end = GATE_FOREVER;
        give_leases(gate, wanting, wanting > 1, now);

        gate->next = now + GATE_STEP;
        if (gate->holder && gate->draining)
                gate->next = now + GATE_LOOK;
        else if (gate->holder) {
                uint64_t end = gate->holder->lease.until;

                if (wanting > 1)
                        gate->next = now + GATE_WATCH;
                if (end > now && end < gate->next)
                        gate->next = end;
                else if (end <= now)
                        gate->next = now + GATE_LOOK / 4;
        }
        EACH(gate, m)
        if (is_spent(m) && m->wants)
                gate->next = MIN_OF(gate->next, m->period_end);
}

uint64_t gate_next(const struct gate *gate)
{
        return gate->next;
}

int gate_get(const struct gate *gate, uint64_t id, struct gate_lease *ret)
{
        const struct member *m = find(gate, id);

        if (!m)
                return -ENOENT;
        *ret = m->lease;
        return 0;
}

int gate_inspect(const struct gate *gate, uint64_t id, struct gate_state *ret)
{
        const struct member *m = find(gate, id);

        if (!m)
                return -ENOENT;
        *ret = (struct gate_state){
                .wants = m->wants,
                .holds = m == gate->holder && !gate->draining,
                .capped_off = is_spent(m),
                .target_ppm = m->active ? m->target : 0,
        };
        return 0;
}
