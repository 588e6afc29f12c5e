/* SPDX-License-Identifier: Apache-2.0 */
/* What NVML says of MIG, read and compared with the table; changes of it, and a driver that fails;
 * with the simulated NVML, whose library is the argument. */
#include <sys/wait.h>

#include "base/clock.h"
#include "partition/migdriver.h"
#include "unit.h"

#define GPU           "0000:1b:00.0"
#define FILE_OF(what) "mig/" GPU "/" what
#define MSEC          10000

static const char *library;
static char place[] = "/tmp/cleave-mig.XXXXXX";
static unsigned machines;

/* A machine of its own with that model. */
static struct mig_link *machine(const char *model, const char *faults)
{
        char directory[64];

        snprintf(directory, sizeof(directory), "%s/%u", place, machines++);
        setenv("CLEAVE_SIM_DIR", directory, 1);
        setenv("CLEAVE_SIM", model, 1);
        setenv("CLEAVE_SIM_FAULTS", faults, 1);
        return mig_link_new(library);
}

static const char *state_of(struct mig_link *link, const char *path)
{
        static char text[64];

        assert_int_equal(mig_link_state(link, MSEC, path, text, sizeof(text)), 0);
        return text;
}

static void the_driver_agrees_with_the_table(void **state)
{
        static const struct {
                const char *model, *key;
        } models[] = {{"a30", "a30"}, {"a100", "a100-80"}, {"h100", "h100-80"}, {"h200", "h200"},
                {"b200", "b200"}};

        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                const struct mig_geometry *table = mig_geometry_find(models[i].key);
                struct mig_link *link = machine(models[i].model, "");
                struct mig_driver driver;

                assert_int_equal(mig_driver_read(link, MSEC, GPU, &driver, NULL), 0);
                assert_false(driver.on || driver.pending || driver.hidden);
                assert_int_equal(driver.n_present, 0);
                assert_int_equal(driver.geometry.n_profiles, table->n_profiles);
                assert_int_equal(driver.geometry.slices, table->slices);
                assert_null(mig_driver_compare(&driver.geometry, table));
                /* What was read lays out as the table does. */
                assert_int_equal(mig_layouts(&driver.geometry, ~0u, NULL, NULL),
                        mig_layouts(table, ~0u, NULL, NULL));
                mig_link_free(link);
        }
}

static void a_driver_that_differs_is_told(void **state)
{
        const struct mig_geometry *table = mig_geometry_find("h100-80");
        struct mig_link *link = machine("h100", "");
        struct mig_driver driver;
        char *difference;

        assert_int_equal(mig_driver_read(link, MSEC, GPU, &driver, NULL), 0);
        mig_link_free(link);
        difference = mig_driver_compare(&driver.geometry, mig_geometry_find("a30"));
        assert_string_equal(difference,
                "profile of all: the number of slices is 8 by the driver and 4 in the table");
        free(difference);
        difference = mig_driver_compare(&driver.geometry, mig_geometry_find("a100-80"));
        assert_non_null(strstr(difference, "the number of multiprocessors is 16 by the driver"));
        free(difference);
        driver.geometry.profiles[mig_profile_find(&driver.geometry, "1g.20gb")].starts = 106;
        difference = mig_driver_compare(&driver.geometry, table);
        assert_string_equal(difference,
                "profile 1g.20gb: the set of starts is 106 by the driver and 85 in the table");
        free(difference);
}

static void what_is_written_is_read(void **state)
{
        struct mig_link *link = machine("h100", ""), *other;
        struct mig_driver driver;
        char first[MIG_UUID_MAX];

        assert_string_equal(state_of(link, FILE_OF("mode")), "off");
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("4/instance"), "3g.40gb"), -EOPNOTSUPP);
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("mode"), "on"), 0);
        assert_string_equal(state_of(link, FILE_OF("mode")), "on");
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("4/instance"), "3g.40gb"), 0);
        assert_string_equal(state_of(link, FILE_OF("4/instance")), "3g.40gb");
        assert_string_equal(state_of(link, FILE_OF("0/instance")), "");
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("6/instance"), "1g.10gb"), -ENOSPC);
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("1/instance"), "2g.20gb"), -EINVAL);
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("0/instance"), "9g.90gb"), -EINVAL);
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("4/0/compute"), "1c"), 0);
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("4/2/compute"), "1c"), 0);
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("4/0/compute"), "3c"), -ENOSPC);
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("4/0/compute"), "7c"), -EINVAL);
        /* Another process sees the same, in the places where it was made. */
        other = mig_link_new(library);
        assert_int_equal(mig_driver_read(other, MSEC, GPU, &driver, NULL), 0);
        assert_int_equal(driver.n_present, 1);
        assert_int_equal(driver.present[0].start, 4);
        assert_int_equal(driver.present[0].n_compute, 2);
        assert_memory_equal(driver.present[0].compute[0].uuid, "MIG-", 4);
        assert_string_not_equal(
                driver.present[0].compute[0].uuid, driver.present[0].compute[1].uuid);
        strcpy(first, driver.present[0].compute[0].uuid);
        assert_string_equal(state_of(other, FILE_OF("4/2/compute")), "1c");
        /* Not before what is in it. */
        assert_int_equal(mig_link_write(other, MSEC, FILE_OF("4/instance"), ""), -EBUSY);
        assert_int_equal(mig_link_write(other, MSEC, FILE_OF("mode"), "off"), -EBUSY);
        assert_int_equal(mig_link_write(other, MSEC, FILE_OF("4/0/compute"), ""), 0);
        assert_int_equal(mig_link_write(other, MSEC, FILE_OF("4/0/compute"), ""), -ENOENT);
        assert_int_equal(mig_link_write(other, MSEC, FILE_OF("4/2/compute"), ""), 0);
        assert_int_equal(mig_link_write(other, MSEC, FILE_OF("4/0/compute"), "1c"), 0);
        assert_int_equal(mig_driver_read(link, MSEC, GPU, &driver, NULL), 0);
        assert_string_equal(driver.present[0].compute[0].uuid, first);
        assert_int_equal(mig_link_write(other, MSEC, FILE_OF("4/0/compute"), ""), 0);
        assert_int_equal(mig_link_write(other, MSEC, FILE_OF("4/instance"), ""), 0);
        assert_int_equal(mig_link_write(other, MSEC, FILE_OF("mode"), "off"), 0);
        assert_string_equal(state_of(link, FILE_OF("mode")), "off");
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("x"), "1"), -EINVAL);
        mig_link_free(other);
        mig_link_free(link);
}

/* Every layout that cannot be added to, on every model, is made instance by instance. */
struct made {
        struct mig_link *link;
        const struct mig_geometry *geometry;
        unsigned n;
};

static void make_layout(void *context, const struct mig_instance *layout, size_t n)
{
        struct made *made = context;
        char path[64];

        for (int clear = 0; clear < 2; clear++)
                for (size_t i = 0; i < n; i++) {
                        const char *name = made->geometry->profiles[layout[i].profile].name;

                        snprintf(path, sizeof(path), FILE_OF("%u/instance"), layout[i].start);
                        if (mig_link_write(made->link, MSEC, path, clear ? "" : name) < 0)
                                fail_msg(
                                        "%s: %s at %u", made->geometry->key, name, layout[i].start);
                }
        made->n++;
}

static void every_layout_can_be_made(void **state)
{
        static const struct {
                const char *model, *key;
        } models[] = {{"a30", "a30"}, {"h100", "h100-80"}, {"h200", "h200"}, {"b200", "b200"}};

        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                struct made made = {.link = machine(models[i].model, ""),
                        .geometry = mig_geometry_find(models[i].key)};
                uint32_t plain = 0;

                /* Those whose names are plain: what NVIDIA draws. */
                for (unsigned p = 0; p < made.geometry->n_profiles; p++)
                        if (made.geometry->profiles[p].number < 5)
                                plain |= 1u << p;
                assert_int_equal(mig_link_write(made.link, MSEC, FILE_OF("mode"), "on"), 0);
                mig_layouts(made.geometry, plain, make_layout, &made);
                assert_int_equal(made.n, made.geometry->slices == 4 ? 5 : 19);
                mig_link_free(made.link);
        }
}

static void what_cannot_be_read_has_its_sentence(void **state)
{
        static const struct {
                const char *model, *faults, *address, *message;
        } cases[] = {
                {"h100", "fail=9@nvmlInit_v2", GPU,
                        "NVIDIA's driver does not answer: its kernel module is not loaded (NVML "
                        "error 9)"},
                {"h100", "fail=4@nvmlInit_v2", GPU,
                        "NVIDIA's driver does not answer: this user may not use it (NVML error 4)"},
                {"h100", "fail=15@nvmlInit_v2", GPU,
                        "NVIDIA's driver does not answer: a GPU has fallen off the bus (NVML error "
                        "15)"},
                {"h100", "fail=17@nvmlInit_v2", GPU,
                        "NVIDIA's driver does not answer: the operating system or a cgroup keeps "
                        "this process from it (NVML error 17)"},
                {"h100", "fail=18@nvmlInit_v2", GPU,
                        "NVIDIA's driver does not answer: its library and its kernel module are of "
                        "different releases, so load the module anew or restart the machine (NVML "
                        "error 18)"},
                {"h100", "fail=999@nvmlInit_v2", GPU,
                        "NVIDIA's driver does not answer: see the kernel's log (NVML error 999)"},
                {"h100", "", "0000:02:00.0", "NVIDIA's driver has no GPU 0000:02:00.0"},
                {"h100", "fail=999@nvmlDeviceGetGpuInstancePossiblePlacements_v2", GPU,
                        "NVIDIA's driver does not say how " GPU " can be cut"},
                {"t4", "", GPU, "the GPU " GPU " cannot be cut by MIG"},
        };
        struct mig_driver driver;
        struct mig_link *link;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;

                link = machine(cases[i].model, cases[i].faults);
                assert_true(mig_driver_read(link, MSEC, cases[i].address, &driver, &error) < 0);
                assert_string_equal(error_message(&error), cases[i].message);
                mig_link_free(link);
        }
        link = mig_link_new("/nonexistent/libnvidia-ml.so.1");
        assert_int_equal(mig_driver_read(link, MSEC, GPU, &driver, NULL), -ENODEV);
        mig_link_free(link);
}

static void faults_have_their_numbers(void **state)
{
        static const struct {
                const char *faults, *path, *value;
                int error;
        } cases[] = {
                {"fail=4@nvmlDeviceSetMigMode", FILE_OF("mode"), "on", -EPERM},
                {"reset@MIG", FILE_OF("mode"), "on", -EUCLEAN},
                {"fail=15@nvmlDeviceCreateGpuInstanceWithPlacement", FILE_OF("0/instance"),
                        "1g.10gb", -ENODEV},
                {"fail=23@nvmlDeviceCreateGpuInstanceWithPlacement", FILE_OF("0/instance"),
                        "1g.10gb", -ENOSPC},
                {"fail=27@nvmlDeviceCreateGpuInstanceWithPlacement", FILE_OF("0/instance"),
                        "1g.10gb", -EAGAIN},
                {"fail=4@nvmlDeviceGetGpuInstances", FILE_OF("0/instance"), "", -ENOENT},
        };
        static const struct {
                unsigned code;
                int error;
        } codes[] = {{2, -EINVAL}, {3, -EOPNOTSUPP}, {4, -EPERM}, {6, -ENOENT}, {13, -EPROTO},
                {15, -ENODEV}, {16, -EUCLEAN}, {17, -EACCES}, {18, -EPROTO}, {19, -EBUSY},
                {20, -ENOMEM}, {23, -ENOSPC}, {25, -EPROTO}, {27, -EAGAIN}, {29, -EBADFD},
                {999, -EIO}};
        struct mig_driver driver;
        struct mig_link *link;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                link = machine("h100", cases[i].faults);
                if (!strstr(cases[i].path, "mode"))
                        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("mode"), "on"), 0);
                assert_int_equal(
                        mig_link_write(link, MSEC, cases[i].path, cases[i].value), cases[i].error);
                mig_link_free(link);
        }
        for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
                char faults[64];

                snprintf(faults, sizeof(faults), "fail=%u@nvmlDeviceCreateGpuInstanceWithPlacement",
                        codes[i].code);
                link = machine("h100", faults);
                assert_int_equal(mig_link_write(link, MSEC, FILE_OF("mode"), "on"), 0);
                assert_int_equal(mig_link_write(link, MSEC, FILE_OF("0/instance"), "1g.10gb"),
                        codes[i].error);
                mig_link_free(link);
        }
        /* A mode that would wait for a reset is as it was. */
        link = machine("h100", "reset@MIG");
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("mode"), "on"), -EUCLEAN);
        assert_string_equal(state_of(link, FILE_OF("mode")), "off");
        mig_link_free(link);
        /* Somebody in an instance, as the driver tells it. */
        link = machine("h100", "user=2");
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("mode"), "on"), 0);
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("2/instance"), "1g.10gb"), 0);
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("2/0/compute"), "1c"), 0);
        assert_int_equal(mig_driver_read(link, MSEC, GPU, &driver, NULL), 0);
        assert_int_equal(driver.present[0].users, 1);
        assert_int_equal(mig_link_write(link, MSEC, FILE_OF("2/0/compute"), ""), -EBUSY);
        mig_link_free(link);
}

/* A driver that hangs is left to itself at the deadline, and asked anew the next time. */
static void a_driver_that_hangs_holds_nobody(void **state)
{
        struct mig_link *link = machine("h100", "slow=30s@nvmlDeviceSetMigMode");
        uint64_t start = clock_usec(CLOCK_MONOTONIC);

        assert_string_equal(state_of(link, FILE_OF("mode")), "off");
        assert_int_equal(mig_link_write(link, 500, FILE_OF("mode"), "on"), -ETIMEDOUT);
        assert_in_range(clock_usec(CLOCK_MONOTONIC) - start, 400000, 20000000);
        assert_string_equal(state_of(link, FILE_OF("mode")), "off");
        mig_link_free(link);
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_driver_agrees_with_the_table),
                cmocka_unit_test(a_driver_that_differs_is_told),
                cmocka_unit_test(what_is_written_is_read),
                cmocka_unit_test(every_layout_can_be_made),
                cmocka_unit_test(what_cannot_be_read_has_its_sentence),
                cmocka_unit_test(faults_have_their_numbers),
                cmocka_unit_test(a_driver_that_hangs_holds_nobody),
        };
        char command[64];
        int r;

        if (argc != 2 || !mkdtemp(place))
                return 2;
        library = argv[1];
        r = cmocka_run_group_tests(tests, NULL, NULL);
        snprintf(command, sizeof(command), "rm -rf -- %s", place);
        return system(command) ? 2 : r;
}
