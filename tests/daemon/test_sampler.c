/* SPDX-License-Identifier: Apache-2.0 */
/* Asking a driver that answers late. */
#include "unit/unit.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "daemon/sampler.h"

static _Atomic unsigned slow_ms, asked;

static int memory(void *handle, unsigned index, struct device_memory *ret)
{
        unsigned ms = slow_ms;
        const struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};

        assert_ptr_equal(handle, &slow_ms);
        nanosleep(&pause, NULL);
        *ret = (struct device_memory){.used = 1000 * ++asked + index};
        return index == 9 ? -ENODEV : 0;
}

static int processes(void *handle, unsigned index, struct device_process **ret, size_t *ret_count)
{
        (void)handle;
        if (index == 9)
                return -EIO;
        *ret = calloc(2, sizeof(**ret));
        assert_non_null(*ret);
        (*ret)[1].pid = (pid_t)index;
        *ret_count = 2;
        return 0;
}

static const struct device_backend fake = {
        .name = "fake", .memory = memory, .processes = processes};

static int ask(struct sampler *sampler, unsigned index, uint64_t patience, struct sample *ret)
{
        uint64_t now = clock_usec(CLOCK_MONOTONIC);

        return sampler_ask(sampler, &fake, &slow_ms, index, now, patience, ret);
}

static uint64_t now_ms(void)
{
        return clock_usec(CLOCK_MONOTONIC) / USEC_PER_MSEC;
}

static void answers(void **state)
{
        struct sampler *sampler;
        struct sample sample;

        (void)state;
        slow_ms = asked = 0;
        assert_int_equal(sampler_new(&sampler), 0);
        for (unsigned i = 0; i < 3; i++) {
                assert_int_equal(ask(sampler, i, SAMPLER_PATIENT, &sample), 0);
                assert_int_equal(sample.memory_result, 0);
                assert_int_equal(sample.memory.used, 1000 * (i + 1) + i);
                assert_int_equal(sample.processes, 2);
                assert_int_equal(sample.process[1].pid, i);
                free(sample.process);
        }
        assert_int_equal(ask(sampler, 9, SAMPLER_PATIENT, &sample), 0);
        assert_int_equal(sample.memory_result, -ENODEV);
        assert_int_equal(sample.processes_result, -EIO);
        assert_null(sample.process);
        assert_int_equal(sample.processes, 0);
        sampler_free(sampler);
}

/* Who is impatient waits no longer than that, once; and nobody gets another's answer. */
static void late(void **state)
{
        struct sampler *sampler;
        struct sample sample;
        uint64_t began;

        (void)state;
        asked = 0;
        slow_ms = 600;
        assert_int_equal(sampler_new(&sampler), 0);
        began = now_ms();
        assert_int_equal(ask(sampler, 1, 20000, &sample), -EAGAIN);
        assert_in_range(now_ms() - began, 19, 400);
        for (unsigned i = 0; i < 100; i++)
                assert_int_equal(ask(sampler, 2, 20000, &sample), -EAGAIN);
        assert_true(now_ms() - began < 500);
        slow_ms = 0;
        assert_int_equal(ask(sampler, 3, SAMPLER_PATIENT, &sample), 0);
        assert_in_range(now_ms() - began, 599, 5000);
        assert_int_equal(sample.memory.used, 2003);
        free(sample.process);
        assert_int_equal(asked, 2);
        sampler_free(sampler);
}

/* Asks again and again until it is answered. */
static void fetch(struct sampler *sampler, unsigned index, uint64_t since, struct sample *ret)
{
        uint64_t until = now_ms() + 5000;

        while (sampler_ask(sampler, &fake, &slow_ms, index, since, 1000, ret) == -EAGAIN)
                assert_true(now_ms() < until);
        free(ret->process);
}

/* An answer that was late is there for who asks again, once, whatever was asked meanwhile; not for
 * who asks for a newer one. */
static void fetched(void **state)
{
        struct sampler *sampler;
        struct sample sample;
        uint64_t began = clock_usec(CLOCK_MONOTONIC), after;

        (void)state;
        asked = 0;
        slow_ms = 200;
        assert_int_equal(sampler_new(&sampler), 0);
        /* long enough that the thread has asked by then */
        assert_int_equal(sampler_ask(sampler, &fake, &slow_ms, 1, began, 80000, &sample), -EAGAIN);
        after = clock_usec(CLOCK_MONOTONIC) + 1;
        fetch(sampler, 2, began, &sample);
        assert_int_equal(sample.memory.used, 2002);
        assert_in_range(sample.asked_at, after, UINT64_MAX - 1);
        assert_in_range(sample.took, 199000, 5000000);
        assert_int_equal(asked, 2);
        fetch(sampler, 1, began, &sample);
        assert_int_equal(sample.memory.used, 1001);
        assert_in_range(sample.asked_at, began, after);
        assert_int_equal(asked, 2);
        fetch(sampler, 1, began, &sample);
        assert_int_equal(sample.memory.used, 3001);
        assert_int_equal(sampler_ask(sampler, &fake, &slow_ms, 1, began, 80000, &sample), -EAGAIN);
        after = clock_usec(CLOCK_MONOTONIC) + 1;
        fetch(sampler, 1, after, &sample);
        assert_int_equal(sample.memory.used, 5001);
        assert_int_equal(asked, 5);
        /* nothing of before is left */
        assert_int_equal(sampler_ask(sampler, &fake, &slow_ms, 1, began, 0, &sample), -EAGAIN);
        sampler_settle(sampler);
        assert_int_equal(asked, 6);
        fetch(sampler, 1, began, &sample);
        assert_int_equal(asked, 7);
        sampler_free(sampler);
}

/* Its end, and another use of the handle, wait for the answer. */
static void settled(void **state)
{
        struct sampler *sampler;
        struct sample sample;

        (void)state;
        asked = 0;
        slow_ms = 200;
        sampler_settle(NULL);
        sampler_free(NULL);
        assert_int_equal(sampler_new(&sampler), 0);
        sampler_settle(sampler);
        assert_int_equal(ask(sampler, 1, 0, &sample), -EAGAIN);
        sampler_settle(sampler);
        assert_int_equal(asked, 1);
        assert_int_equal(ask(sampler, 1, 0, &sample), -EAGAIN);
        sampler_free(sampler);
        assert_int_equal(asked, 2);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(answers),
                cmocka_unit_test(late),
                cmocka_unit_test(fetched),
                cmocka_unit_test(settled),
        };

        return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}
