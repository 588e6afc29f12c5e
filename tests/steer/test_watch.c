/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that reads the engines' records, with a driver of the test's own. */
#include "unit/unit.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "steer/steer.h"
#include "steer/watch.h"

static struct driver {
        _Atomic unsigned opened, asked;
        unsigned refusals; /* so often a device refuses to be watched */
} driver;

static int driver_open(const void *argument, void **ret_handle)
{
        (void)argument;
        *ret_handle = &driver;
        return 0;
}

static void driver_close(void *handle)
{
        (void)handle;
}

static int driver_open_device(
        void *handle, unsigned index, const uint8_t uuid[16], uint32_t *ret_status)
{
        (void)handle, (void)index, (void)uuid, (void)ret_status;
        driver.opened++;
        return 0;
}

static int driver_watch(void *handle, unsigned device, bool *ret_all, uint32_t *ret_status)
{
        (void)handle, (void)device;
        *ret_all = true;
        if (driver.asked++ >= driver.refusals)
                return 0;
        *ret_status = 0x63; /* NV_ERR_STATE_IN_USE */
        return -EBUSY;
}

static int driver_records(void *handle, unsigned device, struct steer_record *records,
        unsigned room, uint64_t *ret_until, bool *ret_lost)
{
        struct timespec t;

        (void)handle, (void)device, (void)records, (void)room;
        clock_gettime(CLOCK_MONOTONIC, &t);
        *ret_until = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
        *ret_lost = false;
        return 0;
}

static int driver_samples(
        void *handle, unsigned device, uint64_t after, struct steer_sample *samples, unsigned room)
{
        (void)handle, (void)device, (void)after, (void)samples, (void)room;
        return 0;
}

static const struct steer_backend backend = {
        .name = "test",
        .open = driver_open,
        .close = driver_close,
        .open_device = driver_open_device,
        .watch = driver_watch,
        .records = driver_records,
        .samples = driver_samples,
};

static bool is_state(struct steer_view *view, uint32_t state)
{
        for (unsigned i = 0; i < 1000; i++) {
                if (atomic_load(&view->device[2].state) == state)
                        return true;
                usleep(10000);
        }
        return false;
}

/* As after the steering process was killed: RM has not ended yet what it had. */
static void refused_at_first(void **state)
{
        static const uint8_t uuid[16] = {1};
        struct steer_view *view = NULL;
        struct watch *watch = NULL;
        int fd = -1;

        (void)state;
        driver.refusals = 3;
        assert_int_equal(steer_view_new(&fd), 0);
        assert_int_equal(steer_view_map(fd, &view), 0);
        assert_int_equal(watch_new(fd, &backend, NULL, &watch), 0);
        watch_device(watch, 2, uuid);
        assert_true(is_state(view, STEER_WATCH_REFUSED));
        assert_int_equal(atomic_load(&view->device[2].status), 0x63);
        assert_true(is_state(view, STEER_WATCHED_ALL));
        assert_int_equal(driver.asked, 4);
        assert_int_equal(driver.opened, 1); /* what was opened stays so */
        assert_true(atomic_load(&view->device[2].begun) > 0);
        assert_null(watch_free(watch));
        steer_view_unmap(view);
        close(fd);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(refused_at_first),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
