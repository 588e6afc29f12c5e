/* SPDX-License-Identifier: Apache-2.0 */
/* Handles and addresses of a trace, and what stands for them where it is replayed. */
#include "../unit/unit.h"

#include "trace/translate.h"

enum { SPACE };

static uint64_t here(const struct translation *t, uint64_t theirs)
{
        uint64_t ours = 0, left;

        return translation_find_range(t, SPACE, theirs, &ours, &left) ? ours : 0;
}

static void test_ranges(void **state)
{
        struct translation *t = translation_new();
        uint64_t ours, left;

        (void)state;
        assert_int_equal(translation_bind_range(t, SPACE, 0x1000, 0x91000, 0x1000), 0);
        assert_int_equal(translation_bind_range(t, SPACE, 0x4000, 0x54000, 0x1000), 0);
        assert_int_equal(here(t, 0xfff), 0);
        assert_int_equal(here(t, 0x1000), 0x91000);
        assert_int_equal(here(t, 0x1fff), 0x91fff);
        assert_int_equal(here(t, 0x2000), 0);
        assert_true(translation_find_range(t, SPACE, 0x4800, &ours, &left));
        assert_int_equal(left, 0x800);
        /* an address that is given out again is another thing by then */
        assert_int_equal(translation_bind_range(t, SPACE, 0x1800, 0x31800, 0x3000), 0);
        assert_int_equal(here(t, 0x17ff), 0x917ff);
        assert_int_equal(here(t, 0x1800), 0x31800);
        assert_int_equal(here(t, 0x4000), 0x34000);
        translation_free(t);
}

/* What has no known length ends where the next known thing begins. */
static void test_room(void **state)
{
        struct translation *t = translation_new();

        (void)state;
        assert_int_equal(translation_room(t, SPACE, 0x1000), UINT64_MAX);
        assert_int_equal(translation_bind_range(t, SPACE, 0x4000, 0x54000, 0x1000), 0);
        assert_int_equal(translation_room(t, SPACE, 0x1000), 0x3000);
        assert_int_equal(translation_room(t, SPACE, 0x4000), 0x1000);
        assert_int_equal(translation_room(t, SPACE, 0x4f00), 0x100);
        assert_int_equal(translation_room(t, SPACE, 0x5000), UINT64_MAX);
        translation_free(t);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_ranges),
                cmocka_unit_test(test_room),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
