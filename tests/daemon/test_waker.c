/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that wakes the event loop where that has not run in time. */
#include "unit/unit.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "daemon/waker.h"

#define MS 1000000ull

static uint64_t now_ns(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Runs the loop for so long at most. Whether something has woken it. */
static bool woken_within(sd_event *event, uint64_t ns)
{
        int r = sd_event_run(event, ns / 1000);

        assert_true(r >= 0);
        return r > 0;
}

static void wakes(void **state)
{
        struct waker *waker = NULL;
        sd_event *event = NULL;
        uint64_t at;

        (void)state;
        assert_true(sd_event_new(&event) >= 0);
        assert_int_equal(waker_new(event, &waker), 0);
        assert_false(woken_within(event, 20 * MS));
        for (unsigned i = 0; i < 20; i++) {
                at = now_ns() + 10 * MS;
                waker_set(waker, at);
                assert_true(woken_within(event, 10000 * MS));
                assert_true(now_ns() > at);
                /* once */
                assert_false(woken_within(event, 5 * MS));
        }
        /* a later one, and then an earlier one; what is past, at once */
        waker_set(waker, now_ns() + 60000 * MS);
        assert_false(woken_within(event, 5 * MS));
        waker_set(waker, now_ns() + 5 * MS);
        assert_true(woken_within(event, 10000 * MS));
        waker_set(waker, now_ns() - 5 * MS);
        assert_true(woken_within(event, 10000 * MS));
        assert_null(waker_free(waker));
        sd_event_unref(event);
}

/* Who always tells the next moment before that little later is not woken. */
static void leaves_alone(void **state)
{
        struct waker *waker = NULL;
        sd_event *event = NULL;

        (void)state;
        assert_true(sd_event_new(&event) >= 0);
        assert_int_equal(waker_new(event, &waker), 0);
        for (unsigned i = 0; i < 200; i++) {
                waker_set(waker, now_ns() + 2000 * MS);
                assert_false(woken_within(event, MS / 2));
        }
        waker_set(waker, now_ns() + 3 * MS);
        waker_set(waker, 0);
        assert_false(woken_within(event, 20 * MS));
        waker_set(waker, now_ns() + 60000 * MS);
        assert_null(waker_free(waker));
        /* without one nothing happens */
        waker_set(NULL, 1);
        assert_null(waker_free(NULL));
        sd_event_unref(event);
}

static void *keep_busy(void *argument)
{
        const atomic_bool *end = argument;

        while (!atomic_load(end))
                ;
        return NULL;
}

static void run_on(const cpu_set_t *cpus)
{
        assert_int_equal(sched_setaffinity(0, sizeof(*cpus), cpus), 0);
}

/* Not where the loop slept, and it may run everywhere afterwards: so a CPU with nothing else to do
 * may take it over before it is looked at, now and then. */
static void wakes_on_its_own_cpu(void **state)
{
        cpu_set_t before, other, own, now;
        atomic_bool end = false;
        pthread_t busy;
        struct waker *waker = NULL;
        sd_event *event = NULL;
        int first = -1, second = -1;
        unsigned there = 0;

        (void)state;
        assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
        for (int i = 0; i < CPU_SETSIZE && second < 0; i++)
                if (CPU_ISSET((size_t)i, &before))
                        *(first < 0 ? &first : &second) = i;
        if (second < 0)
                skip();
        CPU_ZERO(&own);
        CPU_SET((size_t)second, &own);
        CPU_ZERO(&other);
        CPU_SET((size_t)first, &other);
        assert_true(sd_event_new(&event) >= 0);
        /* a thread begins where the one that makes it may run */
        run_on(&own);
        assert_int_equal(waker_new(event, &waker), 0);
        /* or it would be woken there without having to: the other has nothing to do */
        assert_int_equal(pthread_create(&busy, NULL, keep_busy, &end), 0);
        for (unsigned i = 0; i < 20; i++) {
                run_on(&other);
                run_on(&before);
                waker_set(waker, now_ns() + 5 * MS);
                assert_true(woken_within(event, 10000 * MS));
                there += sched_getcpu() == second;
        }
        atomic_store(&end, true);
        pthread_join(busy, NULL);
        assert_true(there > 10);
        /* it is let go at once, by who may have to wait for this CPU */
        for (unsigned i = 0; i < 1000; i++) {
                assert_int_equal(sched_getaffinity(0, sizeof(now), &now), 0);
                if (CPU_EQUAL(&now, &before))
                        break;
                assert_false(woken_within(event, MS));
        }
        assert_true(CPU_EQUAL(&now, &before));
        assert_null(waker_free(waker));
        sd_event_unref(event);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(wakes),
                cmocka_unit_test(wakes_on_its_own_cpu),
                cmocka_unit_test(leaves_alone),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
