/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turns at the gate, on a model of a device that nobody steers: those who have work on it take
 * turns by the driver's slices. Programs launch when their lease lets them, as the guard does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/cleanup.h"
#include "policy/gate.h"

#define MS       GATE_MS
#define TICK     20000ull
#define PROGRAMS 8u
#define SLICE    (2 * MS)

struct program {
        uint64_t id; /* 0: none */
        struct arbiter_terms terms;
        uint64_t kernel_ns;
        uint64_t pause_ns; /* after the end of each, if it waits for them */
        bool waits;        /* for each */
        uint64_t wakes_ns; /* more, by which it learns late that it may launch */

        uint64_t ready_at; /* may launch again */
        uint64_t told_at;  /* it has waited for a lease since then, 0: it does not */
        unsigned in_flight;
        uint64_t left_ns; /* of the first of them */
        uint64_t busy_until, wanted_at;
        uint64_t predicted_ns, done_ns;
};

struct world {
        struct gate *gate;
        uint64_t now;
        struct program program[PROGRAMS];
        unsigned current;  /* who has the device */
        uint64_t slice_ns; /* that is left to it */
        uint64_t busy_ns;
        unsigned mixed; /* times that it was taken from one who had more to do */
};

static void world_init(struct world *w)
{
        memset(w, 0, sizeof(*w));
        w->now = 1000 * MS;
        assert_int_equal(gate_new(&w->gate), 0);
}

static struct program *world_add(
        struct world *w, struct arbiter_terms terms, uint64_t kernel_ns, bool waits)
{
        for (unsigned i = 0; i < PROGRAMS; i++)
                if (!w->program[i].id) {
                        w->program[i] = (struct program){
                                .id = i + 1,
                                .terms = terms,
                                .kernel_ns = kernel_ns,
                                .waits = waits,
                                .pause_ns = 20000,
                        };
                        assert_int_equal(gate_admit(w->gate, w->now, i + 1, 0, &terms), 0);
                        return &w->program[i];
                }
        fail();
        return NULL;
}

static void world_remove(struct world *w, struct program *p)
{
        assert_int_equal(gate_leave(w->gate, w->now, p->id), 0);
        p->id = 0;
        p->done_ns = 0;
        /* it is killed: what it had queued is gone */
        p->in_flight = 0;
}

static void launch(struct world *w, struct program *p)
{
        struct gate_lease lease;

        assert_int_equal(gate_get(w->gate, p->id, 0, &lease), 0);
        /* who goes on launching sees by his markers how far the device is */
        if (!p->waits && w->now >= p->ready_at)
                p->busy_until = w->now + p->in_flight * p->kernel_ns;
        while (w->now >= p->ready_at && (!p->waits || !p->in_flight)) {
                uint64_t ends = MAX_OF(p->busy_until, w->now);

                p->wanted_at = w->now;
                if (w->now < lease.from || ends >= lease.until || ends - w->now > lease.window_ns) {
                        if (!p->told_at)
                                p->told_at = w->now;
                        return;
                }
                if (p->told_at && w->now < MAX_OF(lease.from, p->told_at) + p->wakes_ns)
                        return;
                p->told_at = 0;
                if (!p->in_flight++)
                        p->left_ns = p->kernel_ns;
                p->busy_until = ends + p->kernel_ns;
                p->predicted_ns += p->kernel_ns;
        }
}

/* The device is the next one's who has work. */
static void switch_over(struct world *w)
{
        for (unsigned i = 1; i <= PROGRAMS; i++) {
                unsigned next = (w->current + i) % PROGRAMS;

                if (!w->program[next].in_flight)
                        continue;
                w->mixed += next != w->current && w->program[w->current].in_flight;
                w->current = next;
                break;
        }
        w->slice_ns = SLICE;
}

static void run_engine(struct world *w)
{
        uint64_t left = TICK;

        while (left) {
                struct program *p = &w->program[w->current];
                uint64_t part = MIN_OF(MIN_OF(left, p->left_ns), w->slice_ns);

                if (!p->in_flight || !w->slice_ns) {
                        switch_over(w);
                        if (!w->program[w->current].in_flight)
                                return;
                        continue;
                }
                left -= part;
                p->left_ns -= part;
                w->slice_ns -= part;
                w->busy_ns += part;
                p->done_ns += part;
                if (p->left_ns)
                        continue;
                p->left_ns = --p->in_flight ? p->kernel_ns : 0;
                if (p->waits)
                        p->ready_at = w->now + TICK - left + p->pause_ns;
        }
}

static void world_run(struct world *w, uint64_t ns)
{
        for (uint64_t end = w->now + ns; w->now < end; w->now += TICK) {
                for (unsigned i = 0; i < PROGRAMS; i++)
                        if (w->program[i].id)
                                launch(w, &w->program[i]);
                if (w->now >= gate_next(w->gate)) {
                        for (unsigned i = 0; i < PROGRAMS; i++) {
                                const struct program *p = &w->program[i];

                                if (p->id)
                                        (void)gate_observe(w->gate, p->id, 0,
                                                &(struct gate_sight){p->predicted_ns, p->wanted_at,
                                                        p->busy_until});
                        }
                        gate_step(w->gate, w->now);
                        assert_true(gate_next(w->gate) > w->now);
                        assert_true(gate_next(w->gate) <= w->now + GATE_STEP);
                }
                run_engine(w);
        }
}

/* What each has had since the last call, of so long. */
static double part_of(struct program *p, uint64_t *before, uint64_t ns)
{
        double part = (double)(p->done_ns - *before) / (double)ns;

        *before = p->done_ns;
        return part;
}

static void world_done(struct world *w)
{
        gate_free(w->gate);
}

static struct world world;

static void test_caps(void **state)
{
        static const unsigned caps[] = {1, 5, 10, 25, 50, 75, 90};
        static const uint64_t kernels[] = {10000, 100000, 5000000, 50000000};

        (void)state;
        for (unsigned c = 0; c < ARRAY_SIZE(caps); c++)
                for (unsigned k = 0; k < 2 * ARRAY_SIZE(kernels); k++) {
                        struct arbiter_terms terms = {.cap = caps[c], .priority = ARBITER_NORMAL};
                        uint64_t kernel = kernels[k / 2], before = 0;
                        struct program *p;
                        double got, most = 1;

                        world_init(&world);
                        p = world_add(&world, terms, kernel, k % 2);
                        if (p->waits)
                                most = (double)kernel / (double)(kernel + p->pause_ns + TICK);
                        p->wakes_ns = 300000;
                        world_run(&world, 1000 * MS);
                        part_of(p, &before, 1);
                        world_run(&world, 5000 * MS);
                        got = part_of(p, &before, 5000 * MS);
                        if (got > caps[c] / 100.0 + 0.01 + (double)kernel / 5e9 ||
                                got < MIN_OF(caps[c] / 100.0, most) * 0.95 - 0.006 -
                                                (double)kernel / 5e9)
                                fail_msg("cap %u, kernels of %u us%s: %.4f", caps[c],
                                        (unsigned)(kernel / 1000), k % 2 ? ", waited for" : "",
                                        got);
                        world_done(&world);
                }
}

static void check_shares(const unsigned *shares, const uint64_t *kernels, const bool *waits,
        unsigned count, double tolerance)
{
        uint64_t before[PROGRAMS] = {0};
        struct program *p[PROGRAMS];
        double sum = 0, got[PROGRAMS];
        unsigned total = 0;

        world_init(&world);
        for (unsigned i = 0; i < count; i++) {
                p[i] = world_add(&world,
                        (struct arbiter_terms){.share = shares[i], .priority = ARBITER_NORMAL},
                        kernels[i], waits[i]);
                total += shares[i];
        }
        world_run(&world, 1000 * MS);
        for (unsigned i = 0; i < count; i++)
                part_of(p[i], &before[i], 1);
        world.busy_ns = world.mixed = 0;
        world_run(&world, 5000 * MS);
        for (unsigned i = 0; i < count; i++)
                sum += got[i] = part_of(p[i], &before[i], 5000 * MS);
        for (unsigned i = 0; i < count; i++) {
                double wanted = (double)shares[i] / total;

                if (got[i] / sum > wanted + tolerance || got[i] / sum < wanted - tolerance)
                        fail_msg("share %u of %u: %.4f of %.4f", shares[i], total, got[i], sum);
        }
        /* the device is used, and one at a time uses it */
        if (sum < (waits[0] ? 0.75 : 0.93))
                fail_msg("%.4f of the time is used", sum);
        assert_int_equal(world.mixed, 0);
        world_done(&world);
}

static void test_shares(void **state)
{
        (void)state;
        check_shares((unsigned[]){25, 75}, (uint64_t[]){100000, 100000}, (bool[]){false, false}, 2,
                0.01);
        check_shares((unsigned[]){50, 50}, (uint64_t[]){100000, 5000000}, (bool[]){false, false}, 2,
                0.01);
        check_shares((unsigned[]){1, 99}, (uint64_t[]){100000, 100000}, (bool[]){false, false}, 2,
                0.006);
        check_shares((unsigned[]){10, 90}, (uint64_t[]){50000000, 10000}, (bool[]){false, false}, 2,
                0.015);
        check_shares(
                (unsigned[]){50, 50}, (uint64_t[]){100000, 100000}, (bool[]){true, true}, 2, 0.02);
        check_shares((unsigned[]){20, 30, 50}, (uint64_t[]){100000, 1000000, 5000000},
                (bool[]){false, false, false}, 3, 0.015);
        check_shares((unsigned[]){12, 12, 12, 12, 12, 12, 12, 12},
                (uint64_t[]){100000, 100000, 100000, 100000, 1000000, 1000000, 5000000, 10000},
                (bool[]){false, false, false, false, false, false, false, false}, 8, 0.015);
}

/* What one who waits for each kernel leaves of his turns is his own loss. */
static void test_pauses_are_no_excuse(void **state)
{
        uint64_t a_before = 0, b_before = 0;
        struct program *a, *b;
        double got;

        (void)state;
        world_init(&world);
        a = world_add(&world, (struct arbiter_terms){.share = 50, .priority = ARBITER_NORMAL},
                100000, true);
        b = world_add(&world, (struct arbiter_terms){.share = 50, .priority = ARBITER_NORMAL},
                100000, false);
        world_run(&world, 1000 * MS);
        part_of(a, &a_before, 1);
        part_of(b, &b_before, 1);
        world_run(&world, 5000 * MS);
        got = part_of(b, &b_before, 5000 * MS);
        assert_true(got > 0.47 && got < 0.52);
        /* of 120 us it works for 100 */
        got = part_of(a, &a_before, 5000 * MS) * 120 / 100;
        assert_true(got > 0.45 && got < 0.52);
        world_done(&world);
}

/* Idle time is taken up, and given back, in a few steps. */
static void test_idle_time_is_used(void **state)
{
        uint64_t a_before = 0, b_before = 0;
        struct program *a, *b;
        double part;

        (void)state;
        world_init(&world);
        a = world_add(&world, (struct arbiter_terms){.share = 25, .priority = ARBITER_NORMAL},
                100000, false);
        b = world_add(&world, (struct arbiter_terms){.share = 75, .priority = ARBITER_NORMAL},
                100000, false);
        world_run(&world, 500 * MS);
        part_of(a, &a_before, 1);
        b->ready_at = UINT64_MAX;
        world_run(&world, 40 * MS);
        part_of(a, &a_before, 1);
        world_run(&world, 200 * MS);
        part = part_of(a, &a_before, 200 * MS);
        assert_true(part > 0.98);
        /* and the one who comes back has saved nothing up */
        b->ready_at = world.now;
        part_of(b, &b_before, 1);
        world_run(&world, 40 * MS);
        assert_true(part_of(b, &b_before, 40 * MS) > 0.4);
        part_of(a, &a_before, 1);
        world_run(&world, 400 * MS);
        part = part_of(a, &a_before, 400 * MS);
        assert_true(part > 0.2 && part < 0.3);
        /* the death of one gives its share to the other */
        world_remove(&world, b);
        world_run(&world, 40 * MS);
        part_of(a, &a_before, 1);
        world_run(&world, 200 * MS);
        assert_true(part_of(a, &a_before, 200 * MS) > 0.98);
        world_done(&world);
}

/* A service of high priority waits for little more than what is in flight. */
static void test_priority(void **state)
{
        uint64_t longest = 0, b_before = 0;
        struct program *a, *b;

        (void)state;
        world_init(&world);
        a = world_add(&world, (struct arbiter_terms){.priority = ARBITER_HIGH}, 1000000, true);
        b = world_add(&world, (struct arbiter_terms){.priority = ARBITER_LOW}, 1000000, false);
        a->pause_ns = 20 * MS;
        world_run(&world, 500 * MS);
        part_of(b, &b_before, 1);
        for (unsigned i = 0; i < 200; i++) {
                uint64_t done = a->done_ns, from;

                /* the next request */
                while (a->ready_at > world.now)
                        world_run(&world, TICK);
                from = a->ready_at;
                while (a->done_ns < done + a->kernel_ns)
                        world_run(&world, TICK);
                longest = MAX_OF(longest, world.now - from);
        }
        if (longest > 12 * MS)
                fail_msg("waits %u us", (unsigned)(longest / 1000));
        assert_true(b->done_ns > a->done_ns);
        world_done(&world);
}

/* A kernel that never ends keeps nobody from his turns. */
static void test_endless_kernel(void **state)
{
        struct gate_lease lease;
        unsigned opened = 0;

        (void)state;
        world_init(&world);
        world_add(
                &world, (struct arbiter_terms){.share = 50, .priority = ARBITER_NORMAL}, 1, false);
        world_add(
                &world, (struct arbiter_terms){.share = 50, .priority = ARBITER_NORMAL}, 1, false);
        for (uint64_t end = world.now + 2000 * MS; world.now < end; world.now += MS / 4) {
                (void)gate_observe(world.gate, 1, 0,
                        &(struct gate_sight){0, world.now, world.now + 1000 * MS});
                (void)gate_observe(world.gate, 2, 0, &(struct gate_sight){0, world.now, 0});
                if (world.now >= gate_next(world.gate))
                        gate_step(world.gate, world.now);
                assert_int_equal(gate_get(world.gate, 2, 0, &lease), 0);
                opened += world.now >= lease.from && world.now < lease.until;
        }
        assert_true(opened > 8);
        world_done(&world);
}

/* -- several devices: kernels on each run in the order in which they were launched ---------------
 */

#define DEVICES 3u

struct local {
        unsigned device, share;
        uint64_t kernel_ns;
        uint64_t busy_until, wanted_at, used_ns;
};

/* One tenant whose kernels meet: one on each of its devices, which end together. */
struct meeting {
        uint32_t devices;
        uint64_t kernel_ns;
        uint64_t late_ns; /* so long behind the first device the others get theirs */
        unsigned share, cap;
        uint64_t start[DEVICES]; /* 0: not launched */
        uint64_t ready_at, wanted_at[DEVICES], busy_until[DEVICES], used_ns[DEVICES];
        uint64_t done_ns, alone_ns; /* time that kernels were there without their partner */
        uint64_t done_at, longest;  /* the last that ended, and the longest time between two */
};

struct devices {
        struct gate *gate;
        uint64_t now, free[DEVICES], used[DEVICES];
        struct local local[6];
        unsigned locals;
        struct meeting meeting;
};

static bool may_launch(struct devices *w, uint64_t id, unsigned device, uint64_t busy_until)
{
        uint64_t ends = MAX_OF(busy_until, w->now);
        struct gate_lease lease;

        assert_int_equal(gate_get(w->gate, id, device, &lease), 0);
        return w->now >= lease.from && ends < lease.until && ends - w->now <= lease.window_ns;
}

static void run_local(struct devices *w, unsigned i)
{
        struct local *l = &w->local[i];

        l->wanted_at = w->now;
        while (may_launch(w, 10 + i, l->device, l->busy_until)) {
                w->free[l->device] = MAX_OF(w->free[l->device], w->now) + l->kernel_ns;
                w->used[l->device] += l->kernel_ns;
                l->used_ns += l->kernel_ns;
                l->busy_until = w->free[l->device];
        }
}

static void run_meeting(struct devices *w)
{
        struct meeting *m = &w->meeting;
        uint64_t begin = 0;
        bool all = true;

        if (w->now < m->ready_at)
                return;
        for (unsigned d = 0; d < DEVICES; d++) {
                if (!(m->devices >> d & 1))
                        continue;
                if (!m->start[d] && w->now >= m->ready_at + (d ? m->late_ns : 0)) {
                        m->wanted_at[d] = w->now;
                        if (may_launch(w, 1, d, m->busy_until[d]))
                                m->start[d] = MAX_OF(w->free[d], w->now);
                }
                all = all && m->start[d];
                begin = MAX_OF(begin, m->start[d]);
        }
        for (unsigned d = 0; d < DEVICES; d++) {
                if (!m->start[d])
                        continue;
                if (!all) {
                        /* the device is held, and nothing is done; it waits to launch the next */
                        w->free[d] = MAX_OF(w->free[d], w->now + TICK);
                        m->wanted_at[d] = w->now;
                        m->busy_until[d] = w->now + 100000;
                        m->alone_ns += TICK;
                        continue;
                }
                w->free[d] = m->busy_until[d] = begin + m->kernel_ns;
                w->used[d] += m->kernel_ns;
                m->used_ns[d] += m->kernel_ns + begin - m->start[d];
                m->start[d] = 0;
        }
        if (!all)
                return;
        m->done_ns += m->kernel_ns;
        m->ready_at = begin + m->kernel_ns + 20000;
        if (m->done_at)
                m->longest = MAX_OF(m->longest, w->now - m->done_at);
        m->done_at = w->now;
}

static void observe_all(struct devices *w)
{
        for (unsigned d = 0; d < DEVICES; d++)
                if (w->meeting.devices >> d & 1)
                        assert_int_equal(
                                gate_observe(w->gate, 1, d,
                                        &(struct gate_sight){w->meeting.used_ns[d],
                                                w->meeting.wanted_at[d], w->meeting.busy_until[d]}),
                                0);
        for (unsigned i = 0; i < w->locals; i++)
                assert_int_equal(gate_observe(w->gate, 10 + i, w->local[i].device,
                                         &(struct gate_sight){w->local[i].used_ns,
                                                 w->local[i].wanted_at, w->local[i].busy_until}),
                        0);
}

static void run_devices(struct devices *w, uint64_t ns)
{
        for (uint64_t end = w->now + ns; w->now < end; w->now += TICK) {
                if (w->meeting.devices)
                        run_meeting(w);
                for (unsigned i = 0; i < w->locals; i++)
                        run_local(w, i);
                if (w->now < gate_next(w->gate))
                        continue;
                observe_all(w);
                gate_step(w->gate, w->now);
                assert_true(gate_next(w->gate) > w->now);
        }
}

static void begin_devices(struct devices *w)
{
        struct meeting *m = &w->meeting;
        struct arbiter_terms terms = {.share = m->share, .cap = m->cap, .priority = ARBITER_NORMAL};

        w->now = 1000 * MS;
        assert_int_equal(gate_new(&w->gate), 0);
        for (unsigned d = 0; d < DEVICES; d++)
                if (m->devices >> d & 1)
                        assert_int_equal(gate_admit(w->gate, w->now, 1, d, &terms), 0);
        for (unsigned i = 0; i < w->locals; i++) {
                terms = (struct arbiter_terms){
                        .share = w->local[i].share, .priority = ARBITER_NORMAL};
                assert_int_equal(
                        gate_admit(w->gate, w->now, 10 + i, w->local[i].device, &terms), 0);
        }
        run_devices(w, 1000 * MS);
}

/* Each of them gets its share, and the kernels that meet do so at once. */
static void check_devices(struct devices *w, double least_use)
{
        uint64_t used[DEVICES], local[6], done, spent = 5000 * MS;
        double got;

        begin_devices(w);
        memcpy(used, w->used, sizeof(used));
        for (unsigned i = 0; i < w->locals; i++)
                local[i] = w->local[i].used_ns;
        done = w->meeting.done_ns;
        run_devices(w, spent);
        got = (double)(w->meeting.done_ns - done) / (double)spent;
        if (got < w->meeting.share / 100.0 * 0.9 - 0.01 || got > w->meeting.share / 100.0 + 0.05)
                fail_msg("kernels that meet: %.3f of %u %%", got, w->meeting.share);
        for (unsigned i = 0; i < w->locals; i++) {
                got = (double)(w->local[i].used_ns - local[i]) / (double)spent;
                if (got < w->local[i].share / 100.0 * 0.9 - 0.01)
                        fail_msg("local %u: %.3f of %u %%", i, got, w->local[i].share);
        }
        for (unsigned d = 0; d < DEVICES; d++) {
                got = (double)(w->used[d] - used[d]) / (double)spent;
                if (used[d] && got < least_use)
                        fail_msg("device %u: %.3f is used", d, got);
        }
        assert_int_equal(w->meeting.alone_ns, 0);
        gate_free(w->gate);
}

static void test_one_phase(void **state)
{
        struct devices w;

        (void)state;
        /* one beside it on each device */
        w = (struct devices){.meeting = {.devices = 3, .kernel_ns = 200000, .share = 50},
                .local = {{.device = 0, .share = 50, .kernel_ns = 1000000},
                        {.device = 1, .share = 50, .kernel_ns = 100000}},
                .locals = 2};
        check_devices(&w, 0.85);
        /* not the same beside it everywhere, and a device that it has to itself */
        w = (struct devices){.meeting = {.devices = 7, .kernel_ns = 1000000, .share = 40},
                .local = {{.device = 0, .share = 60, .kernel_ns = 1000000},
                        {.device = 1, .share = 30, .kernel_ns = 100000},
                        {.device = 1, .share = 30, .kernel_ns = 5000000}},
                .locals = 3};
        check_devices(&w, 0.38);
        /* a device that it has not is none of its business */
        w = (struct devices){.meeting = {.devices = 1, .kernel_ns = 1000000, .share = 50},
                .local = {{.device = 0, .share = 50, .kernel_ns = 1000000},
                        {.device = 1, .share = 10, .kernel_ns = 100000},
                        {.device = 2, .share = 25, .kernel_ns = 100000},
                        {.device = 2, .share = 75, .kernel_ns = 100000}},
                .locals = 4};
        check_devices(&w, 0.9);
        /* while it waits for one device, the other is used by who is done in time */
        w = (struct devices){.meeting = {.devices = 3, .kernel_ns = 500000, .share = 10},
                .local = {{.device = 0, .share = 90, .kernel_ns = 100000},
                        {.device = 1, .share = 45, .kernel_ns = 20000000},
                        {.device = 1, .share = 45, .kernel_ns = 100000}},
                .locals = 3};
        check_devices(&w, 0.8);
}

/* Where the partner comes late, and the turn ends in between, what has begun is ended. */
static void test_late_partners(void **state)
{
        struct devices w = {
                .meeting = {.devices = 3, .kernel_ns = 2000000, .share = 50, .late_ns = 4000000},
                .local = {{.device = 0, .share = 50, .kernel_ns = 1000000},
                        {.device = 1, .share = 50, .kernel_ns = 100000}},
                .locals = 2};
        uint64_t local[2], done;
        double got;

        (void)state;
        begin_devices(&w);
        done = w.meeting.done_ns;
        w.meeting.longest = 0;
        for (unsigned i = 0; i < 2; i++)
                local[i] = w.local[i].used_ns;
        run_devices(&w, 5000 * MS);
        if (w.meeting.longest > 80 * MS)
                fail_msg("%u ms from one to the next", (unsigned)(w.meeting.longest / MS));
        /* of 6 ms it works for 2 */
        got = (double)(w.meeting.done_ns - done) / (double)(5000 * MS);
        if (got < 0.13)
                fail_msg("kernels that meet: %.3f", got);
        for (unsigned i = 0; i < 2; i++) {
                got = (double)(w.local[i].used_ns - local[i]) / (double)(5000 * MS);
                if (got < 0.42)
                        fail_msg("local %u: %.3f", i, got);
        }
        gate_free(w.gate);
}

/* A cap is used up on all devices at once. */
static void test_cap_in_one_phase(void **state)
{
        struct devices w = {.meeting = {.devices = 3, .kernel_ns = 200000, .cap = 25}};
        uint64_t done;
        double got;

        (void)state;
        begin_devices(&w);
        done = w.meeting.done_ns;
        run_devices(&w, 4000 * MS);
        got = (double)(w.meeting.done_ns - done) / (double)(4000 * MS);
        if (got < 0.23 || got > 0.26)
                fail_msg("it gets %.3f", got);
        assert_int_equal(w.meeting.alone_ns, 0);
        gate_free(w.gate);
}

static uint64_t dice_state;

static unsigned dice(unsigned sides)
{
        dice_state ^= dice_state << 13;
        dice_state ^= dice_state >> 7;
        dice_state ^= dice_state << 17;
        return (unsigned)(dice_state >> 11) % sides;
}

/* Tenants with devices at random, come and go: nobody has a turn on a device where another has one,
 * and nobody who wants one waits for it without end. */
static void test_random_devices(void **state)
{
        struct {
                uint64_t id, used_ns, wanted_since;
                uint64_t busy_until[DEVICES];
                uint32_t devices;
                bool rests;
        } t[6];
        uint64_t next_id = 1;

        (void)state;
        dice_state = 88172645463325252ull;
        for (unsigned round = 0; round < 60; round++) {
                struct gate *gate;
                uint64_t now = 1000 * MS, longest = 0;

                assert_int_equal(gate_new(&gate), 0);
                memset(t, 0, sizeof(t));
                for (unsigned step = 0; step < 6000; step++, now += MS / 4) {
                        uint32_t taken = 0;

                        for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
                                struct arbiter_terms terms = {
                                        .share = 16, .priority = ARBITER_NORMAL};

                                if (!t[i].id && dice(step < 6 ? 1 : 1000) == 0) {
                                        memset(&t[i], 0, sizeof(t[i]));
                                        t[i].id = next_id++;
                                        t[i].devices = 1 + dice((1 << DEVICES) - 1);
                                        t[i].wanted_since = now;
                                        terms.cap = dice(6) == 0 ? 20 : 0;
                                        for (unsigned d = 0; d < DEVICES; d++)
                                                if (t[i].devices >> d & 1)
                                                        assert_int_equal(
                                                                gate_admit(gate, now, t[i].id, d,
                                                                        &terms),
                                                                0);
                                } else if (t[i].id && dice(4000) == 0) {
                                        assert_int_equal(gate_leave(gate, now, t[i].id), 0);
                                        t[i].id = 0;
                                } else if (dice(400) == 0) {
                                        t[i].rests = !t[i].rests;
                                        t[i].wanted_since = now;
                                }
                        }
                        for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
                                for (unsigned d = 0; t[i].id && d < DEVICES; d++)
                                        if (t[i].devices >> d & 1)
                                                assert_int_equal(
                                                        gate_observe(gate, t[i].id, d,
                                                                &(struct gate_sight){t[i].used_ns,
                                                                        t[i].rests ? 0 : now,
                                                                        t[i].busy_until[d]}),
                                                        0);
                        if (now >= gate_next(gate))
                                gate_step(gate, now);
                        for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
                                struct gate_state has;
                                bool used = false;

                                if (!t[i].id)
                                        continue;
                                assert_int_equal(gate_inspect(gate, t[i].id, &has), 0);
                                if (has.holds) {
                                        assert_false(taken & t[i].devices);
                                        taken |= t[i].devices;
                                }
                                for (unsigned d = 0; d < DEVICES; d++) {
                                        struct gate_lease lease;

                                        if (t[i].rests || !(t[i].devices >> d & 1))
                                                continue;
                                        assert_int_equal(gate_get(gate, t[i].id, d, &lease), 0);
                                        if (now < lease.from || now >= lease.until ||
                                                t[i].busy_until[d] > now + MS)
                                                continue;
                                        t[i].busy_until[d] = now + MS / 4 + dice(MS);
                                        used = true;
                                }
                                if (used)
                                        t[i].used_ns += MS / 4;
                                if (used || t[i].rests)
                                        t[i].wanted_since = now;
                                longest = MAX_OF(longest, now - t[i].wanted_since);
                        }
                }
                if (longest > 400 * MS)
                        fail_msg("round %u: one waits for %u ms", round, (unsigned)(longest / MS));
                gate_free(gate);
        }
}

/* Tenants come, go and change at random: guarantees, caps and work conservation hold. */
static void test_random(void **state)
{
        static const uint64_t kernels[] = {10000, 100000, 1000000, 5000000};

        (void)state;
        for (unsigned seed = 1; seed <= 100; seed++) {
                uint64_t before[PROGRAMS] = {0}, most = 0, settled = 2000 * MS, busy;
                unsigned free_share = 100, count, uncapped = 0;

                dice_state = 88172645463325252ull + seed * 2654435761ull;
                world_init(&world);
                count = 1 + dice(5);
                for (unsigned i = 0; i < count; i++) {
                        struct arbiter_terms terms = {.priority = ARBITER_NORMAL};

                        terms.share = dice(free_share / 2 + 1);
                        free_share -= terms.share;
                        if (dice(3) == 0) {
                                terms.cap = terms.share + 1 + dice(100 - terms.share);
                                terms.cap = MIN_OF(terms.cap, 99u);
                        } else
                                uncapped++;
                        (void)world_add(&world, terms, kernels[dice(4)], dice(4) == 0);
                        most = MAX_OF(most, world.program[i].kernel_ns);
                }
                /* one more comes and is killed on the way */
                if (count < PROGRAMS) {
                        struct program *p = world_add(&world,
                                (struct arbiter_terms){.priority = ARBITER_NORMAL}, 100000, false);

                        world_run(&world, 300 * MS);
                        world_remove(&world, p);
                }
                world_run(&world, settled);
                for (unsigned i = 0; i < count; i++)
                        part_of(&world.program[i], &before[i], 1);
                busy = world.busy_ns;
                world_run(&world, 4000 * MS);
                for (unsigned i = 0; i < count; i++) {
                        struct program *p = &world.program[i];
                        double got = part_of(p, &before[i], 4000 * MS);
                        double slack = 0.02 + (double)(2 * most) / 4e9;

                        if (p->terms.cap && got > p->terms.cap / 100.0 + slack)
                                fail_msg("seed %u: cap %u exceeded: %.4f", seed, p->terms.cap, got);
                        /* who waits for each kernel fills no more than this */
                        if (!p->waits && got < p->terms.share / 100.0 * 0.95 - slack)
                                fail_msg("seed %u: share %u, cap %u, kernels of %u us: %.4f", seed,
                                        p->terms.share, p->terms.cap,
                                        (unsigned)(p->kernel_ns / 1000), got);
                        if (got <= 0)
                                fail_msg("seed %u: starved", seed);
                }
                for (unsigned i = 0; i < count && uncapped; i++)
                        uncapped = world.program[i].waits ? 0 : uncapped;
                if (uncapped && world.busy_ns - busy < 4000 * MS / 100 * 90)
                        fail_msg("seed %u: idle for %u ms of 4000", seed,
                                (unsigned)(4000 - (world.busy_ns - busy) / MS));
                world_done(&world);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_caps),
                cmocka_unit_test(test_shares),
                cmocka_unit_test(test_pauses_are_no_excuse),
                cmocka_unit_test(test_idle_time_is_used),
                cmocka_unit_test(test_priority),
                cmocka_unit_test(test_endless_kernel),
                cmocka_unit_test(test_one_phase),
                cmocka_unit_test(test_late_partners),
                cmocka_unit_test(test_random_devices),
                cmocka_unit_test(test_cap_in_one_phase),
                cmocka_unit_test(test_random),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
