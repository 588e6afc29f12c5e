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
        /* an engine that its owners have in turn, for slices of 5 ms, and whether it records that
         */
        _Atomic unsigned owners, stopped, begun, not_again;
        _Atomic bool records, asked_in_vain;
        uint64_t at;   /* recorded up to here */
        unsigned next; /* owner */
        bool begins;   /* he has begun, which has been told */
        bool half;     /* samples say that it is busy for half of the time */
} driver;

#define OWNERS 10u
#define SLICE  (5000ull * 1024) /* ns */

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
        if (driver.asked++ >= driver.refusals) {
                driver.records = true;
                return 0;
        }
        *ret_status = 0x63; /* NV_ERR_STATE_IN_USE */
        return -EBUSY;
}

static uint64_t now_ns(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int driver_records(void *handle, unsigned device, struct steer_record *records,
        unsigned room, uint64_t *ret_until, bool *ret_lost)
{
        uint64_t now = now_ns();
        unsigned n = 0;

        (void)handle, (void)device;
        if (driver.owners > 0 && !driver.records)
                driver.asked_in_vain = true;
        *ret_until = now;
        *ret_lost = false;
        while (driver.owners > 0 && n + 2 <= room) {
                uint32_t pid = 100 + driver.next % driver.owners;

                if (!driver.begins && driver.at <= now) {
                        records[n++] = (struct steer_record){driver.at, pid, true};
                        driver.begins = true;
                }
                if (!driver.begins || driver.at + SLICE + 98000 > now)
                        break;
                records[n++] = (struct steer_record){driver.at + SLICE + 98000, pid, false};
                driver.begins = false;
                driver.at += SLICE + 98000 + 79000;
                driver.next++;
        }
        return (int)n;
}

static int driver_record(void *handle, unsigned device, bool on, uint32_t *ret_status)
{
        uint64_t now = now_ns();

        (void)handle, (void)device;
        driver.records = on;
        if (!on) {
                driver.stopped++;
                return 0;
        }
        driver.begun++;
        driver.begins = false;
        for (; driver.at < now; driver.at += SLICE + 98000 + 79000)
                driver.next++;
        if (driver.not_again == 0)
                return 0;
        driver.not_again--;
        *ret_status = 0x63;
        return -EIO;
}

static int driver_samples(
        void *handle, unsigned device, uint64_t after, struct steer_sample *samples, unsigned room)
{
        uint64_t now = now_ns();

        (void)handle, (void)device;
        if (!driver.half || room == 0)
                return 0;
        samples[0] = (struct steer_sample){
                .from = after, .to = now, .busy_ns = (now - after) / 2, .pid = 100};
        return 1;
}

static const struct steer_backend backend = {
        .name = "test",
        .open = driver_open,
        .close = driver_close,
        .open_device = driver_open_device,
        .watch = driver_watch,
        .records = driver_records,
        .record = driver_record,
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

static bool reaches(_Atomic unsigned *count, unsigned value)
{
        for (unsigned i = 0; i < 2000; i++) {
                if (atomic_load(count) >= value)
                        return true;
                usleep(10000);
        }
        return false;
}

static void rests(void **state)
{
        static const uint8_t uuid[16] = {1};
        struct switches_sight before, seen;
        struct steer_view *view = NULL;
        struct watch *watch = NULL;
        uint64_t shown, at, stopped;
        int fd = -1;

        (void)state;
        driver.refusals = driver.asked = 0;
        driver.at = now_ns();
        driver.records = true;
        driver.owners = OWNERS;
        assert_int_equal(steer_view_new(&fd), 0);
        assert_int_equal(steer_view_map(fd, &view), 0);
        assert_int_equal(watch_new(fd, &backend, NULL, &watch), 0);
        watch_device(watch, 2, uuid);
        for (unsigned i = 0; i < OWNERS; i++)
                watch_slice(watch, 2, 100 + i, 5000);
        assert_true(is_state(view, STEER_WATCHED_ALL));
        at = now_ns();
        assert_true(reaches(&driver.stopped, 1));
        assert_true(now_ns() - at > 1900000000ull);
        /* what is shown goes on */
        shown = atomic_load(&view->device[2].now);
        assert_int_equal(steer_view_read(view, 2, 103, &before), 0);
        while (atomic_load(&view->device[2].now) < shown + 100000000u)
                usleep(10000);
        assert_int_equal(steer_view_read(view, 2, 103, &seen), 0);
        assert_int_equal(seen.demand, before.demand);
        assert_true(seen.used_ns > before.used_ns);
        assert_int_equal(seen.starts, 1);
        /* until time is up, and then again soon */
        assert_true(reaches(&driver.begun, 1));
        assert_true(reaches(&driver.stopped, 2));
        /* or until something is told, at once */
        stopped = driver.begun;
        at = now_ns();
        watch_call(watch, 2);
        assert_true(reaches(&driver.begun, (unsigned)stopped + 1));
        assert_int_equal(driver.stopped, stopped + 1);
        assert_int_equal(atomic_load(&view->device[2].lost), 0);
        /* where it cannot begin again, the device is opened anew */
        driver.not_again = 1;
        driver.refusals = driver.asked + 3;
        assert_true(reaches(&driver.stopped, (unsigned)stopped + 2));
        watch_call(watch, 2);
        assert_true(is_state(view, STEER_WATCH_REFUSED));
        assert_int_equal(atomic_load(&view->device[2].status), 0x63);
        assert_true(is_state(view, STEER_WATCHED_ALL));
        assert_int_equal(driver.asked, driver.refusals + 1);
        assert_int_equal(driver.not_again, 0);
        assert_false(driver.asked_in_vain); /* nobody reads while nothing is recorded */
        assert_null(watch_free(watch));
        assert_int_equal(atomic_load(&view->device[2].lost), 0);
        steer_view_unmap(view);
        close(fd);
}

/* What samples put right of the time before can be told from what was used since; and what one that
 * pauses does at a time is shown. */
static void corrected(void **state)
{
        static const uint8_t uuid[16] = {1};
        struct switches_sight seen = {0};
        struct steer_view *view = NULL;
        struct watch *watch = NULL;
        uint64_t begun = now_ns();
        int fd = -1;

        (void)state;
        driver = (struct driver){.at = begun, .records = true, .owners = 1, .half = true};
        assert_int_equal(steer_view_new(&fd), 0);
        assert_int_equal(steer_view_map(fd, &view), 0);
        assert_int_equal(watch_new(fd, &backend, NULL, &watch), 0);
        watch_device(watch, 2, uuid);
        while ((seen.corrected_ns == 0 || seen.short_ns == 0) &&
                now_ns() < begun + 10000000000ull) {
                usleep(10000);
                (void)steer_view_read(view, 2, 100, &seen);
        }
        assert_true(seen.corrected_ns < 0);
        /* it has the engine so long at a time */
        assert_in_range(seen.short_ns, SLICE, SLICE + 98000);
        assert_true((uint64_t)-seen.corrected_ns < now_ns() - begun);
        assert_null(watch_free(watch));
        steer_view_unmap(view);
        close(fd);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(refused_at_first),
                cmocka_unit_test(rests),
                cmocka_unit_test(corrected),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
