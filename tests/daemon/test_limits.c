/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's own memory limits by cgroup, through the backend and the fake driver, whose library
 * is the argument. */
#include <errno.h>

#include "base/file.h"
#include "device/device.h"
#include "unit.h"

static const char *library;
static char place[] = "/tmp/cleave-limits.XXXXXX";

/* The fake driver answers with that number; negative: it has no limits. */
static void driver(int answer)
{
        char path[64], text[256];
        int n;

        snprintf(path, sizeof(path), "%s/driver", place);
        n = snprintf(text, sizeof(text),
                "driver 615.1\ndevice GPU-5ec0f4f3-0000-4000-8000-000000000001 85899345920 0\n"
                "device GPU-5ec0f4f3-0000-4000-8000-000000000002 85899345920 0\n");
        if (answer >= 0)
                n += snprintf(
                        text + n, sizeof(text) - (size_t)n, "limits %s/limits %d\n", place, answer);
        assert_int_equal(write_file_atomic(path, text, (size_t)n, 0600), 0);
        setenv("FAKE_NVML", path, 1);
}

static void limits_are_handed_to_the_driver(void **state)
{
        static const struct {
                int answer, error;
        } cases[] = {{0, 0}, {3, -EOPNOTSUPP}, {4, -EPERM}, {6, -ENOENT}, {999, -EIO}};
        const struct device_backend *backend = &device_backend_nvidia;
        _cleanup_free_ struct device *devices = NULL;
        char path[64];
        size_t n;
        void *handle;

        driver(-1);
        assert_int_equal(backend->open(library, &handle, NULL), 0);
        assert_int_equal(backend->enumerate(handle, &devices, &n, NULL), 0);
        assert_int_equal(n, 2);
        assert_int_equal(backend->limit(handle, 0, NULL, 0), 0);
        assert_int_equal(backend->limit(handle, 2, "/sys/fs/cgroup/a", 1), -EINVAL);
        assert_int_equal(backend->limit(handle, 0, "/sys/fs/cgroup/a", 1), -EOPNOTSUPP);
        snprintf(path, sizeof(path), "%s/limits", place);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_free_ char *text = NULL;

                unlink(path);
                driver(cases[i].answer);
                assert_int_equal(backend->limit(handle, 1, "/sys/fs/cgroup/a/b", 8ull << 30),
                        cases[i].error);
                assert_int_equal(read_file(path, 4096, &text, NULL), 0);
                assert_string_equal(text, "1 /sys/fs/cgroup/a/b 0 8589934592\n");
        }
        backend->close(handle);
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(limits_are_handed_to_the_driver),
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
