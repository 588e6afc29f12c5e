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

/* A has a short run in each of five rounds, B its slices. */
static void loop_and_queue(uint64_t slice_us)
{
        switches_slice(switches, A, now, 4000);
        switches_slice(switches, B, now, slice_us);
        for (unsigned i = 0; i < 5; i++) {
                run(B, slice_us * SWITCHES_TICK + 98 * US);
                run(A, 158 * US);
        }
}

/* That others have the engine for longer than their slices tells nothing of one whose channels are
 * off: a loop waits for it, or pauses, one cannot say. */
static void not_idle_because_disabled(void **state)
{
        struct switches_sight before, after;
        uint64_t begun;

        (void)state;
        loop_and_queue(6000);
        switches_look(switches, now);
        begun = now;
        before = sight(A);
        switches_record(switches, B, now, true);
        now += 1 * MS;
        switches_off(switches, A, now, now, true);
        switches_off(switches, A, now, now + 300 * US, true);
        now += 30 * MS;
        switches_look(switches, now);
        assert_int_equal(sight(A).demand, SWITCHES_UNKNOWN);
        /* its turn */
        switches_off(switches, B, now, now, true);
        switches_record(switches, B, now + 83 * US, false);
        switches_off(switches, B, now, now + 300 * US, true);
        switches_off(switches, A, now + 300 * US, now + 600 * US, false);
        switches_record(switches, A, now + 679 * US, true);
        now += 5 * MS;
        switches_look(switches, now);
        after = sight(A);
        assert_int_equal(after.starts, before.starts + 1);
        assert_about(after.wanted_ns - before.wanted_ns, now - begun, 1 * MS);
        assert_in_range(after.doubt_ns - before.doubt_ns, 29 * MS, now - begun);
}

/* What one that was idle when its channels went off wants since then is open, too. */
static void asleep_while_disabled(void **state)
{
        struct switches_sight before, after;

        (void)state;
        loop_and_queue(2000);
        /* A does not come again */
        for (unsigned i = 0; i < 3; i++)
                run(B, 2000 * SWITCHES_TICK + 98 * US);
        now += 1 * MS;
        switches_look(switches, now);
        assert_int_equal(sight(A).demand, SWITCHES_NONE);
        switches_off(switches, A, now, now, true);
        switches_off(switches, A, now, now + 300 * US, true);
        now += 1 * MS;
        switches_look(switches, now);
        before = sight(A);
        now += 40 * MS;
        switches_look(switches, now);
        after = sight(A);
        assert_int_equal(after.demand, SWITCHES_NONE);
        assert_int_equal(after.wanted_ns - before.wanted_ns, 40 * MS);
        assert_int_equal(after.doubt_ns - before.doubt_ns, 40 * MS);
}

/* who was taken to have work and did not take a free engine has none, also when another has it
 * then */
static void absent_while_free(void **state)
{
        (void)state;
        loop_and_queue(2000);
        run(B, 2000 * SWITCHES_TICK + 98 * US);
        switches_look(switches, now);
        assert_int_equal(sight(B).demand, SWITCHES_WORK);
        switches_off(switches, A, now, now, true);
        switches_off(switches, A, now, now + 300 * US, true);
        now += 5 * MS;
        switches_look(switches, now);
        assert_int_equal(sight(B).demand, SWITCHES_NONE);
        switches_off(switches, A, now, now + 300 * US, false);
        now += 300 * US;
        switches_record(switches, A, now, true);
        now += 1 * MS;
        switches_look(switches, now);
        /* it may have come in that millisecond */
        assert_int_equal(sight(B).demand, SWITCHES_UNKNOWN);
        assert_false(switches->sure);
        now += 40 * MS;
        switches_look(switches, now);
        assert_int_equal(sight(B).demand, SWITCHES_NONE);
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
        assert_int_equal(sight(A).demand, SWITCHES_UNKNOWN);
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

/* a call may begin its slice anew: cut a slice after that, it still had work */
static void slice_begun_anew(void **state)
{
        (void)state;
        switches_slice(switches, A, now, 3000);
        for (unsigned i = 0; i < 10; i++) {
                run(A, 3000 * SWITCHES_TICK + 90 * US);
                run(B, 2048 * SWITCHES_TICK + 90 * US);
        }
        switches_call(switches, now + 1700 * US);
        run(A, 1700 * US + 3000 * SWITCHES_TICK + 90 * US);
        switches_look(switches, now);
        assert_int_equal(sight(A).starts, 1);
        assert_int_equal(sight(A).demand, SWITCHES_WORK);
}

/* that the engine was idle before it came says nothing of how the runs of a newcomer end */
static void newcomer_with_short_slices(void **state)
{
        (void)state;
        run(A, 1 * MS);
        now += 200 * MS;
        switches_look(switches, now);
        switches_busy(switches, now - 200 * MS, now, 1 * MS, A);
        switches_slice(switches, A, now, 200);
        switches_slice(switches, B, now, 200);
        for (unsigned i = 0; i < 4; i++) {
                run(B, 200 * SWITCHES_TICK + 98 * US);
                run(A, 200 * SWITCHES_TICK + 98 * US);
        }
        switches_look(switches, now);
        assert_int_equal(sight(B).starts, 1);
        assert_int_equal(sight(B).demand, SWITCHES_WORK);
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

/* What a sample says of the time before it is told as a correction, and what has come since is not
 * part of it. */
static void corrections(void **state)
{
        struct switches_sight before, after;

        (void)state;
        switches_record(switches, A, now, true);
        for (unsigned k = 0; k < 20; k++)
                switches_look(switches, now += 10 * MS);
        before = sight(A);
        assert_about(before.used_ns, 200 * MS, MS);
        assert_int_equal(before.corrected_ns, 0);
        switches_busy(switches, now - 200 * MS, now, 150 * MS, A);
        after = sight(A);
        assert_about(before.used_ns - after.used_ns, 50 * MS, 5 * MS);
        assert_int_equal(after.corrected_ns, (int64_t)(after.used_ns - before.used_ns));
        before = after;
        switches_look(switches, now += 10 * MS);
        assert_in_range(sight(A).used_ns - before.used_ns, 7 * MS, 10 * MS);
        assert_int_equal(sight(A).corrected_ns, before.corrected_ns);
}

/* For how long somebody works at a time is seen beside another; that he has the engine alone for
 * longer tells little. */
static void works_at_a_time(void **state)
{
        (void)state;
        switches_slice(switches, A, now, 20000);
        switches_slice(switches, B, now, 20000);
        switches_look(switches, now);
        for (unsigned i = 0; i < 200; i++) {
                run(A, 158 * US);
                run(B, 5058 * US);
        }
        switches_look(switches, now);
        assert_about(sight(A).short_ns, 100 * US, 5 * US);
        assert_about(sight(B).short_ns, 5000 * US, 100 * US);
        for (unsigned i = 0; i < 4; i++) {
                run(A, 3000 * MS);
                run(B, 5058 * US);
        }
        switches_look(switches, now);
        assert_in_range(sight(A).short_ns, 95 * US, 130 * US);
        assert_about(sight(B).short_ns, 5000 * US, 100 * US);
}

/* Two who keep their turns by the clock: no call is made, and that one does not launch in the
 * other's turn is no want of work, nor does it say for how long he works at a time. */
static void keeps_turns(void **state)
{
        const uint64_t from = now + 10 * MS;
        struct cleave_turns turns = {from, from + 4 * MS, 8 * MS, from + 400 * MS};
        struct switches_sight before;

        (void)state;
        switches_slice(switches, A, now, 20000);
        switches_slice(switches, B, now, 20000);
        for (unsigned i = 0; i < 20; i++) {
                run(A, 158 * US);
                run(B, 158 * US);
        }
        now = from;
        switches_look(switches, now);
        before = sight(A);
        switches_keep(switches, A, now, &turns);
        turns.from += 4 * MS;
        turns.until += 4 * MS;
        switches_keep(switches, B, now, &turns);
        for (unsigned i = 0; i < 40; i++) {
                now = from + i * 8 * MS + 50 * US;
                run(A, 4 * MS);
                now = from + i * 8 * MS + 4130 * US;
                run(B, 4 * MS);
                switches_look(switches, from + i * 8 * MS + 8 * MS);
                assert_int_not_equal(sight(A).demand, SWITCHES_NONE);
                assert_int_not_equal(sight(B).demand, SWITCHES_NONE);
        }
        assert_in_range(sight(A).starts, before.starts, before.starts + 1);
        assert_int_equal(sight(A).short_ns, before.short_ns);
        assert_about(sight(A).wanted_ns - before.wanted_ns, 320 * MS, MS);
        assert_in_range(sight(A).doubt_ns - before.doubt_ns, 0, MS);
        /* no longer than that is good: who stays away then has nothing to do */
        for (unsigned i = 0; i < 100; i++) {
                run(B, 4 * MS);
                switches_look(switches, now);
        }
        assert_false(switches->owner[0].turns_off || switches->owner[1].turns_off);
        /* and they are taken back */
        switches_keep(switches, A, now, &(const struct cleave_turns){0});
        switches_keep(switches, B, now, &(const struct cleave_turns){0});
        assert_int_equal(switches->turning, 0);
        before = sight(A);
        for (unsigned i = 0; i < 20; i++) {
                run(A, 158 * US);
                run(B, 158 * US);
        }
        switches_look(switches, now);
        assert_in_range(sight(A).starts - before.starts, 15, 22);
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

/* Two wake each other up all the time, so that the engine does little but switch; a third works for
 * an instant and holds it until it is disabled. The switching is not its work. */
static void switching_is_no_work(void **state)
{
        const uint32_t third = 303;

        (void)state;
        for (unsigned period = 0; period < 40; period++) {
                uint64_t begun = now;

                while (now < begun + 25 * MS) {
                        run(A, 68 * US);
                        run(B, 700 * US);
                }
                switches_record(switches, third, now, true);
                now = begun + 45 * MS;
                switches_off(switches, third, now, now, true);
                switches_off(switches, third, now, now + 300 * US, true);
                switches_record(switches, third, now + 200 * US, false);
                switches_off(switches, third, begun + 49 * MS, begun + 50 * MS, false);
                now = begun + 50 * MS;
                switches_look(switches, now);
                /* 28 times 2 switches of 137 us in each period, and 0.6 ms of work */
                if (period % 4 == 3)
                        switches_busy(switches, now - 200 * MS, now, 33 * MS, third);
        }
        assert_in_range(sight(third).used_ns, 0, 20 * MS);
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

/* ---- rest ---- */

#define OWNERS 40u

/* An engine that owners with slices of their own have one after the other, as long as they have
 * work, and what is to be seen of it: records, unless the model rests. */
static struct {
        uint64_t at;
        unsigned owners, next;
        struct {
                uint64_t slice_us, used;
                bool works;
        } owner[OWNERS];
        uint64_t looked, recorded, rested;
        unsigned rests, records;
} engine;

static void begin_engine(unsigned owners, uint64_t slice_us)
{
        memset(&engine, 0, sizeof(engine));
        engine.at = engine.looked = now;
        engine.owners = owners;
        for (unsigned i = 0; i < owners; i++) {
                engine.owner[i].slice_us = slice_us;
                engine.owner[i].works = true;
                switches_slice(switches, A + i, now, slice_us);
        }
}

/* As src/steer/watch.c does, each 10 ms. */
static void look_at_engine(void)
{
        while (engine.looked + 10 * MS <= engine.at) {
                engine.looked += 10 * MS;
                now = engine.looked;
                if (switches_must_wake(switches, now))
                        switches_wake(switches, now);
                switches_look(switches, now);
                if (switches_may_rest(switches)) {
                        switches_rest(switches, now);
                        engine.rests++;
                }
                *(switches->rest.on ? &engine.rested : &engine.recorded) += 10 * MS;
        }
}

static void record(uint32_t id, uint64_t at, bool start)
{
        engine.at = at;
        look_at_engine();
        if (switches->rest.on)
                return;
        switches_record(switches, id, at, start);
        engine.records++;
}

static void run_engine(uint64_t span)
{
        uint64_t end = engine.at + span;

        while (engine.at < end) {
                unsigned i = engine.next++ % engine.owners, idle = 0;
                uint64_t slice = engine.owner[i].slice_us * SWITCHES_TICK;

                while (!engine.owner[i].works && idle++ < engine.owners)
                        i = engine.next++ % engine.owners;
                if (!engine.owner[i].works) {
                        engine.at += MS;
                        look_at_engine();
                        continue;
                }
                /* longer by the constant, more or less */
                record(A + i, engine.at, true);
                engine.owner[i].used += slice;
                record(A + i, engine.at + slice + (engine.next % 2 ? 83 : 113) * US, false);
                engine.at += 79 * US;
        }
}

/* Who has had his last run. */
static void stops(unsigned i)
{
        engine.owner[i].works = false;
        if (engine.at < engine.looked + 10 * MS)
                look_at_engine();
        record(A + i, engine.at, true);
        record(A + i, engine.at + 400 * US, false);
        engine.at += 79 * US;
        engine.owner[i].used += 342 * US;
}

static void assert_rested(unsigned owners, uint64_t slice_us, uint64_t more_us)
{
        uint64_t before[OWNERS], shown[OWNERS] = {0}, starts = 0;

        now = 1000 * MS;
        switches_init(switches, NULL, now);
        begin_engine(owners, slice_us);
        for (unsigned i = 0; i < owners; i += 2) {
                engine.owner[i].slice_us += more_us;
                switches_slice(switches, A + i, now, engine.owner[i].slice_us);
        }
        run_engine(1000 * MS);
        for (unsigned i = 0; i < owners; i++) {
                before[i] = sight(A + i).used_ns;
                engine.owner[i].used = 0;
        }
        assert_int_equal(engine.rests, 0);
        for (unsigned step = 0; step < 100; step++) {
                run_engine(100 * MS);
                for (unsigned i = 0; i < owners; i++) {
                        struct switches_sight seen = sight(A + i);

                        assert_int_equal(seen.demand, SWITCHES_WORK);
                        assert_true(seen.counted_ns >= shown[i]);
                        shown[i] = seen.counted_ns;
                }
                assert_int_equal(switches_wants_busy(switches), 0);
        }
        for (unsigned i = 0; i < owners; i++) {
                uint64_t used = engine.owner[i].used;

                assert_about(sight(A + i).used_ns - before[i], used,
                        used / 300 + engine.owner[i].slice_us * SWITCHES_TICK);
                starts += sight(A + i).starts;
                assert_about(sight(A + i).wanted_ns, now - 1000 * MS, 200 * MS);
        }
        assert_int_equal(starts, owners);
        /* each an eighth of the time since anything changed, 0.25 to 1 s */
        assert_in_range(engine.rests, 12, 16);
        /* 1 s at the beginning, 1 until it is known to be steady */
        assert_true(engine.rested > 6 * (engine.recorded - 2000 * MS));
        /* what was credited is found by samples too */
        switches_busy(switches, now - 200 * MS, now, 190 * MS, A);
        assert_int_equal(sight(A).demand, SWITCHES_WORK);
}

static void rests(void **state)
{
        (void)state;
        assert_rested(32, 1500, 0);
        assert_rested(8, 6400, 0);
        assert_rested(8, 4000, 4000);
        assert_rested(33, 1000, 700);
}

static void does_not_rest(void **state)
{
        (void)state;
        /* few */
        begin_engine(7, 6000);
        run_engine(5000 * MS);
        assert_int_equal(engine.rests, 0);
        tear_down(state);
        /* slices too short to tell how runs end */
        set_up(state);
        begin_engine(32, 300);
        run_engine(5000 * MS);
        assert_int_equal(engine.rests, 0);
        tear_down(state);
        /* one goes twice a round, which its slice does not say */
        set_up(state);
        begin_engine(9, 5000);
        for (unsigned round = 0; round < 100; round++)
                for (unsigned i = 0; i < 9; i++) {
                        engine.next = 0;
                        run_engine(1);
                        engine.next = i;
                        run_engine(1);
                }
        assert_true(engine.at > 6000 * MS);
        assert_int_equal(engine.rests, 0);
        tear_down(state);
        /* one whose channels are off now and then */
        set_up(state);
        begin_engine(16, 3000);
        for (unsigned i = 0; i < 10; i++) {
                run_engine(1500 * MS);
                switches_off(switches, A, engine.at, engine.at + 300 * US, true);
                switches_off(switches, A, engine.at + 300 * US, engine.at + 600 * US, false);
        }
        assert_int_equal(engine.rests, 0);
        tear_down(state);
        /* calls before all have been steady for long enough */
        set_up(state);
        begin_engine(16, 3000);
        for (unsigned i = 0; i < 10; i++) {
                run_engine(1500 * MS);
                switches_call(switches, engine.at);
        }
        assert_int_equal(engine.rests, 0);
}

static void until_rest(void)
{
        unsigned rests = engine.rests;

        for (unsigned i = 0; i < 1000 && (!switches->rest.on || engine.rests == rests); i++)
                run_engine(10 * MS);
        assert_true(switches->rest.on);
}

/* Who has run out of work meanwhile is seen to be gone two rounds after it ends, and has been
 * credited for no longer than it was. */
static void goes_while_it_rests(void **state)
{
        uint64_t before, used, end;

        (void)state;
        begin_engine(16, 3200);
        until_rest();
        before = sight(A + 3).used_ns;
        used = engine.owner[3].used;
        stops(3);
        used = engine.owner[3].used - used;
        end = engine.at + SWITCHES_REST + 200 * MS;
        while (sight(A + 3).demand == SWITCHES_WORK) {
                run_engine(10 * MS);
                assert_true(engine.at < end);
        }
        assert_in_range(sight(A + 3).used_ns, before, before + used + SWITCHES_REST / 16);
        for (unsigned i = 0; i < 16; i++)
                assert_int_equal(sight(A + i).starts, 1);
        /* not before all have been steady anew, and then for less long */
        end = engine.at;
        until_rest();
        assert_true(engine.at > end + 1800 * MS);
        assert_about(switches->rest.until, engine.at + SWITCHES_REST_SHORT, 30 * MS);
        /* it comes again, and has waited for less than a rest */
        engine.owner[3].works = true;
        run_engine(500 * MS);
        assert_int_equal(sight(A + 3).demand, SWITCHES_WORK);
        assert_int_equal(sight(A + 3).starts, 2);
        assert_false(switches->rest.on);
}

/* All go but one, who has the engine from then on without a switch. */
static void one_stays(void **state)
{
        uint64_t before;

        (void)state;
        begin_engine(12, 4000);
        until_rest();
        for (unsigned i = 0; i < 12; i++)
                engine.owner[i].works = false;
        for (unsigned i = 0; i < 150; i++) {
                run_engine(10 * MS);
                if (i < 20 || !switches_wants_busy(switches))
                        continue;
                assert_true(i > 24);
                switches_busy(switches, engine.at - 20 * MS, engine.at, 20 * MS, A + 5);
        }
        assert_int_equal(sight(A).demand, SWITCHES_NONE);
        assert_int_equal(sight(A + 5).demand, SWITCHES_WORK);
        before = sight(A + 5).used_ns;
        for (unsigned i = 0; i < 100; i++) {
                run_engine(10 * MS);
                switches_busy(switches, engine.at - 10 * MS, engine.at, 10 * MS, A + 5);
        }
        assert_about(sight(A + 5).used_ns, before + 1000 * MS, 50 * MS);
        assert_int_equal(sight(A + 5).starts, 1);
}

static void wakes_by_what_is_told(void **state)
{
        (void)state;
        begin_engine(10, 5000);
        until_rest();
        run_engine(50 * MS);
        assert_true(switches->rest.on);
        /* from now on its channels are off */
        switches_off(switches, A + 4, engine.at, engine.at + 300 * US, true);
        assert_true(switches_must_wake(switches, engine.at));
        engine.owner[4].works = false;
        run_engine(300 * MS);
        assert_false(switches->rest.on);
        switches_off(switches, A + 4, engine.at, engine.at + 300 * US, false);
        engine.owner[4].works = true;
        run_engine(1500 * MS);
        assert_false(switches->rest.on);
        assert_int_equal(sight(A + 4).demand, SWITCHES_WORK);
        assert_int_equal(sight(A + 4).starts, 1);
        until_rest();
        /* a newcomer: its slice is set */
        engine.owners = 11;
        engine.owner[10].slice_us = 5000;
        engine.owner[10].works = true;
        switches_slice(switches, A + 10, engine.at, 5000);
        run_engine(200 * MS);
        assert_false(switches->rest.on);
        assert_int_equal(sight(A + 10).demand, SWITCHES_WORK);
        assert_int_equal(sight(A + 10).starts, 1);
        until_rest();
}

static void set_slices(uint64_t most, uint64_t fourth)
{
        for (unsigned i = 0; i < engine.owners; i++) {
                engine.owner[i].slice_us = i % 4 ? most : fourth;
                switches_slice(switches, A + i, engine.at, engine.owner[i].slice_us);
                /* each call takes its time */
                run_engine(1);
        }
}

/* Who is there is known, and what follows from their slices: it rests again soon, and for as long
 * as before, unless all together have become much shorter. */
static void slices_are_set_while_it_rests(void **state)
{
        uint64_t before[OWNERS], set, rest;

        (void)state;
        begin_engine(32, 1672);
        until_rest();
        run_engine(3000 * MS);
        while (!switches->rest.on)
                run_engine(10 * MS);
        rest = switches->rest.until - switches->rest.from;
        assert_in_range(rest, 400 * MS, 700 * MS);
        for (unsigned i = 0; i < 32; i++) {
                before[i] = sight(A + i).used_ns;
                engine.owner[i].used = 0;
        }
        run_engine(100 * MS);
        set = engine.at;
        set_slices(1624, 2200);
        assert_false(switches->rest.on);
        until_rest();
        assert_in_range(engine.at - set, 50 * MS, 160 * MS);
        assert_true(switches->rest.until - switches->rest.from > rest);
        run_engine(500 * MS);
        /* there is more switching now */
        set = engine.at;
        set_slices(800, 1600);
        until_rest();
        assert_in_range(engine.at - set, SWITCHES_STEADY, SWITCHES_STEADY + 200 * MS);
        run_engine(3000 * MS);
        for (unsigned i = 0; i < 32; i++) {
                uint64_t used = engine.owner[i].used;

                assert_int_equal(sight(A + i).demand, SWITCHES_WORK);
                assert_int_equal(sight(A + i).starts, 1);
                assert_about(sight(A + i).used_ns - before[i], used,
                        used / 100 + 2 * engine.owner[i].slice_us * SWITCHES_TICK);
        }
}

/* The first record may be the end of a run whose beginning was not recorded. */
static void first_record_is_an_end(void **state)
{
        uint64_t before;

        (void)state;
        begin_engine(8, 6000);
        until_rest();
        run_engine(500 * MS);
        switches_look(switches, engine.at);
        before = sight(A + 2).used_ns;
        switches_wake(switches, engine.at);
        /* by its length it would have run out of work */
        switches_record(switches, A + 2, engine.at + 2 * MS, false);
        switches_look(switches, engine.at + 3 * MS);
        assert_int_equal(sight(A + 2).demand, SWITCHES_WORK);
        /* it is credited to the stroke, not on average */
        assert_about(sight(A + 2).used_ns, before + 2 * MS, 6 * MS);
        switches_record(switches, A + 3, engine.at + 2 * MS + 79 * US, true);
        switches_look(switches, engine.at + 4 * MS);
        assert_int_equal(switches->rest.unsteady, 0);
        for (unsigned i = 0; i < 8; i++)
                assert_int_equal(sight(A + i).starts, 1);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(two_queues, set_up, tear_down),
                cmocka_unit_test_setup_teardown(other_slices, set_up, tear_down),
                cmocka_unit_test_setup_teardown(many_slices, set_up, tear_down),
                cmocka_unit_test_setup_teardown(short_slices_of_no_use, set_up, tear_down),
                cmocka_unit_test_setup_teardown(idle_while_held_back, set_up, tear_down),
                cmocka_unit_test_setup_teardown(not_idle_because_disabled, set_up, tear_down),
                cmocka_unit_test_setup_teardown(asleep_while_disabled, set_up, tear_down),
                cmocka_unit_test_setup_teardown(absent_while_free, set_up, tear_down),
                cmocka_unit_test_setup_teardown(ended_by_enabling, set_up, tear_down),
                cmocka_unit_test_setup_teardown(ends_between, set_up, tear_down),
                cmocka_unit_test_setup_teardown(ended_by_a_call, set_up, tear_down),
                cmocka_unit_test_setup_teardown(slice_begun_anew, set_up, tear_down),
                cmocka_unit_test_setup_teardown(newcomer_with_short_slices, set_up, tear_down),
                cmocka_unit_test_setup_teardown(two_loops, set_up, tear_down),
                cmocka_unit_test_setup_teardown(comes_and_goes, set_up, tear_down),
                cmocka_unit_test_setup_teardown(no_work, set_up, tear_down),
                cmocka_unit_test_setup_teardown(disabled, set_up, tear_down),
                cmocka_unit_test_setup_teardown(keeps_turns, set_up, tear_down),
                cmocka_unit_test_setup_teardown(alone, set_up, tear_down),
                cmocka_unit_test_setup_teardown(corrections, set_up, tear_down),
                cmocka_unit_test_setup_teardown(works_at_a_time, set_up, tear_down),
                cmocka_unit_test_setup_teardown(samples_of_their_time, set_up, tear_down),
                cmocka_unit_test_setup_teardown(holds_without_work, set_up, tear_down),
                cmocka_unit_test_setup_teardown(switching_is_no_work, set_up, tear_down),
                cmocka_unit_test_setup_teardown(lost, set_up, tear_down),
                cmocka_unit_test_setup_teardown(many_owners, set_up, tear_down),
                cmocka_unit_test_setup_teardown(rests, set_up, tear_down),
                cmocka_unit_test_setup_teardown(does_not_rest, set_up, tear_down),
                cmocka_unit_test_setup_teardown(goes_while_it_rests, set_up, tear_down),
                cmocka_unit_test_setup_teardown(one_stays, set_up, tear_down),
                cmocka_unit_test_setup_teardown(wakes_by_what_is_told, set_up, tear_down),
                cmocka_unit_test_setup_teardown(slices_are_set_while_it_rests, set_up, tear_down),
                cmocka_unit_test_setup_teardown(first_record_is_an_end, set_up, tear_down),
        };

        return cmocka_run_group_tests_name("switches", tests, NULL, NULL);
}
