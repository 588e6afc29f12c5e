/* SPDX-License-Identifier: Apache-2.0 */
/* What NVML says of MIG, read and compared with the table; with a double of NVML. */
#include "partition/migdriver.h"
#include "unit.h"

static const char *library;

static int read_as(
        const char *mode, const char *address, struct mig_driver *ret, struct cleave_error *error)
{
        setenv("FAKE_NVML", mode, 1);
        return mig_driver_read(library, address, ret, error);
}

static void the_driver_agrees_with_the_table(void **state)
{
        const struct mig_geometry *table = mig_geometry_find("h100-80");
        struct mig_driver driver;

        assert_int_equal(read_as("", "0000:01:00.0", &driver, NULL), 0);
        assert_false(driver.on);
        assert_false(driver.pending);
        assert_int_equal(driver.geometry.n_profiles, table->n_profiles);
        assert_int_equal(driver.geometry.slices, 8);
        assert_null(mig_driver_compare(&driver.geometry, table));
        /* What was read lays out as the table does. */
        assert_int_equal(mig_layouts(&driver.geometry, 0x7f, NULL, NULL),
                mig_layouts(table, 0x7f, NULL, NULL));
        assert_int_equal(read_as("on", "0000:01:00.0", &driver, NULL), 0);
        assert_true(driver.on);
        assert_int_equal(read_as("pending", "0000:01:00.0", &driver, NULL), 0);
        assert_true(driver.pending);
        assert_false(driver.on);
}

static void a_driver_that_differs_is_told(void **state)
{
        _cleanup_free_ char *difference = NULL, *other = NULL;
        struct mig_driver driver;

        assert_int_equal(read_as("other", "0000:01:00.0", &driver, NULL), 0);
        difference = mig_driver_compare(&driver.geometry, mig_geometry_find("h100-80"));
        assert_string_equal(difference,
                "profile 1g.20gb: the set of starts is 106 by the driver and 85 in the table");
        other = mig_driver_compare(&driver.geometry, mig_geometry_find("a30"));
        assert_non_null(strstr(other, "the number of slices"));
}

static void what_cannot_be_read_has_its_sentence(void **state)
{
        static const struct {
                const char *mode, *address, *message;
        } cases[] = {
                {"broken", "0000:01:00.0", "NVIDIA's driver does not answer (NVML error 9)"},
                {"", "0000:02:00.0", "NVIDIA's driver has no GPU 0000:02:00.0"},
                {"huge", "0000:01:00.0",
                        "NVIDIA's driver does not say how 0000:01:00.0 can be cut"},
                {"none", "0000:01:00.0", "the GPU 0000:01:00.0 cannot be cut by MIG"},
        };
        struct mig_driver driver;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;

                assert_true(read_as(cases[i].mode, cases[i].address, &driver, &error) < 0);
                assert_string_equal(error_message(&error), cases[i].message);
        }
        assert_int_equal(
                mig_driver_read("/nonexistent/libnvidia-ml.so.1", "0000:01:00.0", &driver, NULL),
                -ENODEV);
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_driver_agrees_with_the_table),
                cmocka_unit_test(a_driver_that_differs_is_told),
                cmocka_unit_test(what_cannot_be_read_has_its_sentence),
        };

        if (argc != 2)
                return 2;
        library = argv[1];
        return cmocka_run_group_tests(tests, NULL, NULL);
}
