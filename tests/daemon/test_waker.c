/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that wakes the event loop where that has not run in time. */
#include "unit/unit.h"

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

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(wakes),
                cmocka_unit_test(leaves_alone),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
