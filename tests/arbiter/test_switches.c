/* SPDX-License-Identifier: Apache-2.0 */
/* What records of context switches tell, by records as an H100 wrote them: docs/probes.md. */
#include "unit/unit.h"

#include <errno.h>
#include <stdlib.h>

#include "policy/switches.h"

#define US 1000ull
#define MS 1000000ull
#define A  101u
#define B  202u

static struct switches *switches;
static uint64_t now;

static int set_up(void **state)
{
        (void)state;
        switches = calloc(1, sizeof(*switches));
        assert_non_null(switches);
        now = 1000 * MS;
        switches_init(switches, NULL, now);
        return 0;
}

static int tear_down(void **state)
{
        (void)state;
        free(switches);
        return 0;
}

/* One has the engine for so long, then it is restored to the next. */
static void run(uint32_t id, uint64_t length)
{
        switches_record(switches, id, now, true);
        switches_record(switches, id, now + length, false);
        now += length + 79 * US;
}

static struct switches_sight sight(uint32_t id)
{
        struct switches_sight sight;

        assert_int_equal(switches_sight(switches, id, &sight), 0);
        return sight;
}

static void assert_about(uint64_t value, uint64_t wanted, uint64_t off)
{
        assert_in_range(value, wanted - off, wanted + off);
}

static void two_queues(void **state)
{
        (void)state;
        for (unsigned i = 0; i < 100; i++) {
                run(A, 2048 * US + 130 * US);
                run(B, 2048 * US + 120 * US);
        }
        switches_look(switches, now);
        /* less the constant by which residency is more than work */
        assert_about(sight(A).counted_ns, 100 * 2080 * US, 200 * US);
        assert_about(sight(B).counted_ns, 100 * 2070 * US, 2200 * US);
        assert_int_equal(sight(A).demand, SWITCHES_WORK);
        assert_int_equal(sight(A).starts, 1);
        assert_int_equal(sight(A).doubt_ns, 0);
}

static void other_slices(void **state)
{
        (void)state;
        switches_slice(switches, A, now, 18000);
        for (unsigned i = 0; i < 20; i++) {
                run(A, 18000 * SWITCHES_TICK + 90 * US);
                run(B, 2048 * SWITCHES_TICK + 73 * US);
        }
        switches_look(switches, now);
        assert_int_equal(sight(A).starts, 1);
        assert_int_equal(sight(B).starts, 1);
        assert_about(sight(A).counted_ns, 20 * 18424 * US, 18 * MS);
}

/* a service with slices of 50 ms beside 5 ms kernels with slices of 200 us, as recorded: whoever
 * waits gets in at the end of one of these, be it the first or the hundredth */
static void many_slices(void **state)
{
        static const unsigned lengths[] = {
                277, 278, 484, 278, 688, 278, 892, 278, 1098, 2326, 278, 5031, 7280, 278, 279};

        (void)state;
        switches_slice(switches, A, now, 49920);
        switches_slice(switches, B, now, 200);
        for (unsigned i = 0; i < 300; i++) {
                run(B, lengths[i % ARRAY_SIZE(lengths)] * US);
                run(A, 1060 * US);
        }
        switches_look(switches, now);
        assert_int_equal(sight(B).starts, 1);
        assert_int_equal(sight(B).demand, SWITCHES_WORK);
        assert_in_range(sight(A).starts, 295, 300);
}

/* where slices are too short to tell, the engine's idle time does */
static void short_slices_of_no_use(void **state)
{
        (void)state;
        switches_slice(switches, A, now, 49920);
        switches_slice(switches, B, now, 50);
        for (unsigned i = 0; i < 300; i++) {
                if (i % 50 == 49)
                        switches_busy(switches, now - 200 * MS, now, 60 * MS, B);
                run(B, (2200 + i % 50) * US);
                run(A, 1060 * US);
        }
        switches_look(switches, now);
        assert_in_range(sight(B).starts, 240, 301);
        assert_int_equal(sight(B).demand == SWITCHES_WORK, 0);
}

/* a queue that a cap holds back half of the time, in slices too short to tell, beside one that
 * comes for 2.5 ms in 12: the engine is idle while the queue is held back, which says nothing of
 * how its runs ended, and of what is in question its part is all work */
static void idle_while_held_back(void **state)
{
        (void)state;
        switches_slice(switches, A, now, 49920);
        switches_slice(switches, B, now, 50);
        for (unsigned period = 0; period < 20; period++) {
                uint64_t begun = now;

                for (unsigned i = 0; i < 4; i++) {
                        run(B, 2200 * US);
                        run(A, 2500 * US);
                }
                /* the rest of its budget, then the other, most of the time without work */
                switches_record(switches, B, now, true);
                now += 2 * MS;
                switches_off(switches, B, now, now, true);
                switches_record(switches, B, now + 83 * US, false);
                switches_off(switches, B, now, now + 300 * US, true);
                switches_record(switches, A, now + 162 * US, true);
                now = begun + 50 * MS;
                switches_off(switches, B, now - 300 * US, now, false);
                switches_record(switches, A, now, false);
                now += 79 * US;
                switches_look(switches, now);
                if (period % 4 == 3)
                        switches_busy(switches, begun - 150 * MS, begun + 50 * MS, 4 * 26 * MS, A);
        }
        assert_int_equal(sight(B).starts, 1);
        assert_about(sight(B).used_ns, 20 * 10800 * US, 20 * MS);
}

/* who is alone with the engine, without work most of the time, has it until we enable another: that
 * need not be the end of a slice of his, up to which he worked */
static void ended_by_enabling(void **state)
{
        uint64_t begun = now;

        (void)state;
        switches_slice(switches, A, now, 30000);
        switches_slice(switches, B, now, 6000);
        switches_record(switches, B, now, true);
        now += 9 * MS;
        switches_off(switches, B, now, now, true);
        switches_record(switches, B, now + 83 * US, false);
        switches_off(switches, B, now, now + 300 * US, true);
        switches_record(switches, A, now + 162 * US, true);
        now = begun + 50 * MS;
        switches_call(switches, now - 300 * US);
        switches_off(switches, B, now - 300 * US, now, false);
        switches_record(switches, A, now, false);
        switches_look(switches, now);
        assert_int_equal(sight(A).demand, SWITCHES_WORK);
        switches_busy(switches, begun, now, 15 * MS, A);
        assert_about(sight(A).used_ns + sight(B).used_ns, 15 * MS, MS);
        assert_about(sight(B).used_ns, 9 * MS, MS);
}

/* what ends between slices' ends has run out of work, also after many of them */
static void ends_between(void **state)
{
        (void)state;
        switches_slice(switches, A, now, 2000);
        switches_slice(switches, B, now, 2000);
        for (unsigned i = 0; i < 100; i++) {
                run(A, 2000 * SWITCHES_TICK * 3 + 1000 * US);
                run(B, 2000 * SWITCHES_TICK + 73 * US);
        }
        switches_look(switches, now);
        assert_in_range(sight(A).starts, 99, 100);
        /* and went past slices' ends, as the other was not waiting */
        assert_int_equal(sight(B).starts, 100);
}

/* a call for one ends the run of another, who goes on having work */
static void ended_by_a_call(void **state)
{
        (void)state;
        switches_slice(switches, A, now, 23936);
        for (unsigned i = 0; i < 100; i++) {
                if (i % 2)
                        run(A, 23936 * SWITCHES_TICK + 90 * US);
                else {
                        switches_call(switches, now + 10000 * US);
                        run(A, 10334 * US);
                }
                run(B, 2048 * SWITCHES_TICK + 90 * US);
        }
        switches_look(switches, now);
        assert_int_equal(sight(A).starts, 1);
        assert_int_equal(sight(B).starts, 1);
        assert_int_equal(sight(A).demand, SWITCHES_WORK);
}

/* launch 100 us, synchronize, again: runs of 160 us, each beside the other's */
static void two_loops(void **state)
{
        (void)state;
        for (unsigned i = 0; i < 1000; i++) {
                run(A, 160 * US);
                run(B, 160 * US);
        }
        switches_look(switches, now);
        assert_int_equal(sight(A).starts, 1000);
        /* between nothing and the other's run */
        assert_about(sight(A).wanted_ns, now - 1000 * MS, 20 * US);
        assert_about(sight(A).doubt_ns, 999 * 239 * US, 5 * MS);
        assert_about(sight(A).used_ns, 1000 * 102 * US, MS);
}

/* 1 ms of work, 2 ms of rest, beside a queue with slices of 200 us */
static void comes_and_goes(void **state)
{
        (void)state;
        switches_slice(switches, A, now, 50000);
        switches_slice(switches, B, now, 200);
        run(B, 330 * US);
        for (unsigned i = 0; i < 100; i++) {
                run(A, 1060 * US);
                run(B, 2130 * US);
        }
        switches_look(switches, now);
        assert_about(sight(A).starts, 100, 0);
        /* its pauses are known to a slice of the other */
        assert_about((now - 1000 * MS - sight(A).wanted_ns) / 100, 1950 * US, 150 * US);
        assert_about(sight(A).doubt_ns / 100, 200 * US, 110 * US);
        assert_int_equal(sight(B).starts, 1);
        assert_about(sight(A).counted_ns, 100 * 1002 * US, 2 * MS);
}

static void no_work(void **state)
{
        (void)state;
        run(B, 2178 * US);
        run(A, 1060 * US);
        switches_record(switches, B, now, true);
        now += MS;
        switches_look(switches, now);
        assert_int_equal(sight(A).demand, SWITCHES_UNKNOWN);
        /* the other's slice has ended, and nobody was let in */
        now += 2 * MS;
        switches_look(switches, now);
        assert_int_equal(sight(A).demand, SWITCHES_NONE);
        assert_about(sight(A).since, 1000 * MS + 3259 * US, 2 * US);
        assert_int_equal(switches_sight(switches, 77, &(struct switches_sight){0}), -ENOENT);
}

static void disabled(void **state)
{
        (void)state;
        /* on for 30 of 100 ms: told when the call begins and when it has returned */
        for (unsigned i = 0; i < 10; i++) {
                switches_record(switches, A, now + 200 * US, true);
                switches_off(switches, A, now + 30 * MS, now + 30 * MS, true);
                switches_off(switches, A, now + 30 * MS, now + 30 * MS + 400 * US, true);
                switches_record(switches, A, now + 30 * MS + 300 * US, false);
                switches_look(switches, now + 40 * MS);
                assert_int_equal(sight(A).demand, SWITCHES_UNKNOWN);
                switches_off(switches, A, now + 100 * MS - 300 * US, now + 100 * MS, false);
                now += 100 * MS;
        }
        switches_look(switches, now);
        assert_int_equal(sight(A).starts, 1);
        assert_about(sight(A).used_ns, 10 * 30 * MS, MS);
        /* enabled, and it does not come: it has nothing to do */
        now += 5 * MS;
        switches_look(switches, now);
        assert_int_equal(sight(A).demand, SWITCHES_NONE);
        /* which is still so when it is disabled again */
        switches_off(switches, A, now, now + 300 * US, true);
        now += 10 * MS;
        switches_look(switches, now);
        assert_int_equal(sight(A).demand, SWITCHES_NONE);
}

/* No records at all: the samples say who it is, and how much of the time it works. */
static void alone(void **state)
{
        (void)state;
        assert_int_equal(switches_wants_busy(switches), SWITCHES_ASK_FIRST);
        for (unsigned i = 0; i < 10; i++) {
                for (unsigned k = 0; k < 20; k++)
                        switches_look(switches, now += 10 * MS);
                switches_busy(switches, now - 200 * MS, now, 40 * MS, A);
        }
        assert_about(sight(A).counted_ns, 400 * MS, 60 * MS);
        assert_about(sight(A).used_ns, 400 * MS, 60 * MS);
        assert_int_equal(sight(A).starts, 0);
        /* and idle */
        for (unsigned i = 0; i < 3; i++) {
                switches_look(switches, now += 200 * MS);
                switches_busy(switches, now - 200 * MS, now, 0, A);
        }
        assert_int_equal(sight(A).demand, SWITCHES_NONE);
}

/* A sample answers for its own time: not for one who came after it, nor with what was before. */
static void samples_of_their_time(void **state)
{
        (void)state;
        /* one alone, hardly at work; the first sample says who it is */
        for (unsigned k = 0; k < 20; k++)
                switches_look(switches, now += 10 * MS);
        switches_busy(switches, now - 200 * MS, now, 2 * MS, A);
        for (unsigned k = 0; k < 20; k++)
                switches_look(switches, now += 10 * MS);
        /* another comes, and works until he is disabled */
        switches_record(switches, A, now, false);
        switches_record(switches, B, now + 79 * US, true);
        switches_look(switches, now += 40 * MS);
        switches_off(switches, B, now, now, true);
        switches_off(switches, B, now, now + 300 * US, true);
        switches_record(switches, B, now + 300 * US, false);
        switches_look(switches, now += 10 * MS);
        switches_busy(switches, now - 250 * MS, now - 50 * MS, 4 * MS, A);
        assert_about(sight(B).used_ns, 40 * MS, MS);
        assert_about(sight(A).used_ns, 6 * MS, 2 * MS);
        /* he works on in each period, and a sample comes for that */
        for (unsigned i = 0; i < 3; i++) {
                switches_off(switches, B, now, now + 300 * US, false);
                switches_record(switches, B, now + 400 * US, true);
                switches_off(switches, B, now + 20 * MS, now + 20 * MS, true);
                switches_off(switches, B, now + 20 * MS, now + 20 * MS + 300 * US, true);
                switches_record(switches, B, now + 20 * MS + 300 * US, false);
                switches_look(switches, now += 50 * MS);
        }
        switches_busy(switches, now - 200 * MS, now, 100 * MS, B);
        assert_about(sight(B).used_ns, 100 * MS, 4 * MS);
        assert_about(sight(A).used_ns, 6 * MS, 2 * MS);
}

/* Who had been seen to run out of work has a turn, the other being disabled; then it is gone. What
 * it held back is not taken for work because nobody cut it short. */
static void holds_without_work(void **state)
{
        uint64_t before;

        (void)state;
        switches_slice(switches, A, now, 34000);
        for (unsigned i = 0; i < 50; i++) {
                run(A, 160 * US);
                run(B, 2048 * US + 120 * US);
        }
        switches_look(switches, now);
        before = sight(A).used_ns;
        assert_about(before, 50 * 102 * US, MS);
        for (unsigned turn = 0; turn < 2; turn++) {
                switches_record(switches, A, now, true);
                /* the other waits until he is disabled, and no longer */
                switches_off(switches, B, now + MS, now + MS, true);
                switches_off(switches, B, now + MS, now + MS + 300 * US, true);
                switches_look(switches, now + 70 * MS);
                now += 75 * MS;
                switches_off(switches, B, now - 300 * US, now, false);
                switches_record(switches, A, now, false);
                switches_record(switches, B, now + 79 * US, true);
                now += 79 * US + 10 * SWITCHES_SLICE + 90 * US;
                switches_record(switches, B, now, false);
                now += 79 * US;
        }
        switches_look(switches, now);
        switches_busy(switches, now - 192 * MS, now, 47 * MS, B);
        assert_about(sight(B).used_ns, 50 * 2070 * US + 42 * MS, 4 * MS);
        assert_about(sight(A).used_ns - before, 5 * MS, 4 * MS);
}

static void lost(void **state)
{
        uint64_t before;

        (void)state;
        run(A, 2178 * US);
        switches_record(switches, B, now, true);
        switches_look(switches, now + MS);
        before = sight(B).used_ns;
        assert_about(before, MS, US);
        /* nothing is known of what came between */
        now += 5000 * MS;
        switches_lost(switches, now);
        run(A, 2178 * US);
        switches_look(switches, now);
        assert_true(sight(A).used_ns < 5 * MS);
        /* an end whose start was lost */
        switches_lost(switches, now);
        switches_record(switches, B, now + 3 * MS, false);
        switches_look(switches, now + 4 * MS);
        assert_true(sight(B).used_ns < 5010 * MS);
}

static void many_owners(void **state)
{
        (void)state;
        for (uint32_t id = 1; id <= 3 * SWITCHES_OWNERS; id++)
                run(id, 500 * US);
        switches_look(switches, now);
        assert_about(sight(3 * SWITCHES_OWNERS).used_ns, 442 * US, US);
        assert_int_equal(switches_sight(switches, 1, &(struct switches_sight){0}), -ENOENT);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(two_queues, set_up, tear_down),
                cmocka_unit_test_setup_teardown(other_slices, set_up, tear_down),
                cmocka_unit_test_setup_teardown(many_slices, set_up, tear_down),
                cmocka_unit_test_setup_teardown(short_slices_of_no_use, set_up, tear_down),
                cmocka_unit_test_setup_teardown(idle_while_held_back, set_up, tear_down),
                cmocka_unit_test_setup_teardown(ended_by_enabling, set_up, tear_down),
                cmocka_unit_test_setup_teardown(ends_between, set_up, tear_down),
                cmocka_unit_test_setup_teardown(ended_by_a_call, set_up, tear_down),
                cmocka_unit_test_setup_teardown(two_loops, set_up, tear_down),
                cmocka_unit_test_setup_teardown(comes_and_goes, set_up, tear_down),
                cmocka_unit_test_setup_teardown(no_work, set_up, tear_down),
                cmocka_unit_test_setup_teardown(disabled, set_up, tear_down),
                cmocka_unit_test_setup_teardown(alone, set_up, tear_down),
                cmocka_unit_test_setup_teardown(samples_of_their_time, set_up, tear_down),
                cmocka_unit_test_setup_teardown(holds_without_work, set_up, tear_down),
                cmocka_unit_test_setup_teardown(lost, set_up, tear_down),
                cmocka_unit_test_setup_teardown(many_owners, set_up, tear_down),
        };

        return cmocka_run_group_tests_name("switches", tests, NULL, NULL);
}
