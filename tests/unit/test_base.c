/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/format.h"
#include "base/parse.h"
#include "base/paths.h"
#include "base/process.h"
#include "unit.h"

static void sizes_are_read(void **state)
{
        static const struct {
                const char *text;
                uint64_t bytes;
        } cases[] = {
                {"0", 0},
                {"1", 1},
                {"123456789", 123456789},
                {"7B", 7},
                {"4K", 4096},
                {"4k", 4096},
                {"512MiB", 512ull << 20},
                {"512 MiB", 512ull << 20},
                {"8G", 8ull << 30},
                {"8g", 8ull << 30},
                {"8Gi", 8ull << 30},
                {"1.5G", 3ull << 29},
                {"0.5T", 1ull << 39},
                {"8GB", 8000000000ull},
                {"1.0000000009G", (1ull << 30)},
                {"9223372036854775807", INT64_MAX},
                {"8388607T", 8388607ull << 40},
        };
        uint64_t bytes;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                assert_int_equal(parse_size(cases[i].text, &bytes, NULL), 0);
                assert_int_equal(bytes, cases[i].bytes);
        }
}

static void senseless_sizes_are_refused_each_with_its_sentence(void **state)
{
        static const struct {
                const char *text, *message;
        } cases[] = {
                {"", "an empty size was given"},
                {"-1", "size '-1' is negative"},
                {"-8G", "size '-8G' is negative"},
                {"G", "size 'G' is not a number"},
                {" 8G", "size ' 8G' is not a number"},
                {"8X", "size '8X' has an unknown unit 'X'"},
                {"8G ", "size '8G ' has an unknown unit 'G '"},
                {"8GG", "size '8GG' has an unknown unit 'GG'"},
                {"1e9", "size '1e9' has an unknown unit 'e9'"},
                {"0x10", "size '0x10' has an unknown unit 'x10'"},
                {"1.G", "size '1.G' is not a number"},
                {"1.5", "size '1.5' has a fraction of a byte"},
                {"9223372036854775808", "size '9223372036854775808' is too large"},
                {"99999999999999999999", "size '99999999999999999999' is too large"},
                {"8388608T", "size '8388608T' is too large"},
                {"18446744073709551615G", "size '18446744073709551615G' is too large"},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                uint64_t bytes = 42;

                assert_int_equal(parse_size(cases[i].text, &bytes, &error), -EINVAL);
                assert_string_equal(error.message, cases[i].message);
                assert_int_equal(error.code, CLEAVE_REASON_BAD_SIZE);
                assert_int_equal(bytes, 42);
        }
}

static void quotas_go_in_steps(void **state)
{
        struct memory_amount amount;

        assert_int_equal(parse_memory_amount("1", &amount, NULL), 0);
        assert_int_equal(amount.bytes, 1ull << 20);
        assert_int_equal(parse_memory_amount("1048577", &amount, NULL), 0);
        assert_int_equal(amount.bytes, 2ull << 20);
        assert_int_equal(parse_memory_amount("8GB", &amount, NULL), 0);
        assert_int_equal(amount.bytes, 7630ull << 20);
        assert_int_equal(parse_memory_amount("30%", &amount, NULL), 0);
        assert_int_equal(amount.part, 30000);
        assert_int_equal(memory_amount_bytes(amount, 1000ull << 20), 300ull << 20);
        assert_int_equal(memory_amount_bytes(amount, 1001ull << 20), 300ull << 20);
        assert_int_equal(memory_amount_bytes(amount, 1), 1ull << 20);
        assert_int_equal(memory_amount_bytes(amount, UINT64_MAX) % CLEAVE_QUOTA_STEP, 0);
        assert_int_equal(parse_memory_amount("12.5%", &amount, NULL), 0);
        assert_int_equal(amount.part, 12500);
        assert_int_equal(parse_memory_amount("100%", &amount, NULL), 0);
        assert_int_equal(memory_amount_bytes(amount, 80ull << 30), 80ull << 30);

        assert_int_equal(parse_memory_amount("0", &amount, NULL), -EINVAL);
        assert_int_equal(parse_memory_amount("0%", &amount, NULL), -EINVAL);
        assert_int_equal(parse_memory_amount("0.0001%", &amount, NULL), -EINVAL);
        assert_int_equal(parse_memory_amount("100.001%", &amount, NULL), -EINVAL);
        assert_int_equal(parse_memory_amount("101%", &amount, NULL), -EINVAL);
        assert_int_equal(parse_memory_amount("99999999999999999999%", &amount, NULL), -EINVAL);
        assert_int_equal(parse_memory_amount("%", &amount, NULL), -EINVAL);
        assert_int_equal(parse_memory_amount("5G%", &amount, NULL), -EINVAL);
        assert_int_equal(parse_memory_amount("9223372036854775807", &amount, NULL), -EINVAL);
}

static void sizes_are_shown(void **state)
{
        static const struct {
                uint64_t bytes;
                const char *text;
        } cases[] = {
                {0, "0 MiB"},
                {1, "0.1 MiB"},
                {1ull << 20, "1 MiB"},
                {3ull << 19, "1.5 MiB"},
                {1023ull << 20, "1023 MiB"},
                {1ull << 30, "1 GiB"},
                {85520809984ull, "79.6 GiB"},
                {10ull << 40, "10 TiB"},
                {UINT64_MAX, "16777215.9 TiB"},
        };
        char buffer[FORMAT_SIZE_MAX], exact[FORMAT_DURATION_MAX];
        uint64_t back;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                assert_string_equal(format_size(buffer, cases[i].bytes), cases[i].text);
        assert_string_equal(format_size_exact(exact, 8ull << 30), "8G");
        for (uint64_t bytes = 1; bytes < 1ull << 60; bytes = bytes * 3 + 1) {
                assert_int_equal(parse_size(format_size_exact(exact, bytes), &back, NULL), 0);
                assert_int_equal(back, bytes);
        }
}

static void names_are_checked(void **state)
{
        char long_name[65];

        memset(long_name, 'a', 64);
        long_name[64] = '\0';
        assert_int_equal(check_name(long_name, NULL), -EINVAL);
        long_name[63] = '\0';
        assert_int_equal(check_name(long_name, NULL), 0);
        assert_int_equal(check_name("train.py-2_b", NULL), 0);
        assert_int_equal(check_name("7", NULL), 0);
        assert_int_equal(check_name("", NULL), -EINVAL);
        assert_int_equal(check_name("-x", NULL), -EINVAL);
        assert_int_equal(check_name(".x", NULL), -EINVAL);
        assert_int_equal(check_name("a/b", NULL), -EINVAL);
        assert_int_equal(check_name("a b", NULL), -EINVAL);
        assert_int_equal(check_name("a\nb", NULL), -EINVAL);
        assert_int_equal(check_name("ä", NULL), -EINVAL);
        assert_int_equal(check_name("0123456789abcdef", NULL), -EINVAL);
        assert_int_equal(check_name("0123456789abcde", NULL), 0);
}

static void numbers_and_spans_are_read(void **state)
{
        uint64_t value;
        bool yes;
        pid_t pid;

        assert_int_equal(parse_unsigned("18446744073709551615", UINT64_MAX, &value), 0);
        assert_int_equal(parse_unsigned("18446744073709551616", UINT64_MAX, &value), -ERANGE);
        assert_int_equal(parse_unsigned("11", 10, &value), -ERANGE);
        assert_int_equal(parse_unsigned("1.5", 10, &value), -EINVAL);
        assert_int_equal(parse_unsigned("+1", 10, &value), -EINVAL);
        assert_int_equal(parse_pid("0", &pid), -ERANGE);
        assert_int_equal(parse_pid("4294967297", &pid), -ERANGE);
        assert_int_equal(parse_boolean("Yes", &yes), 0);
        assert_true(yes);
        assert_int_equal(parse_boolean("maybe", &yes), -EINVAL);
        assert_int_equal(parse_duration("1.5s", &value), 0);
        assert_int_equal(value, 1500000);
        assert_int_equal(parse_duration("2min", &value), 0);
        assert_int_equal(value, 120000000);
        assert_int_equal(parse_duration("infinity", &value), 0);
        assert_int_equal(value, UINT64_MAX);
        assert_int_equal(parse_duration("99999999999999h", &value), -EINVAL);
        assert_int_equal(parse_duration("-1", &value), -EINVAL);
        assert_int_equal(parse_hex("fFfFfFfFfFfFfFfF", &value), 0);
        assert_int_equal(value, UINT64_MAX);
        assert_int_equal(parse_hex("10000000000000000", &value), -EINVAL);
        assert_int_equal(parse_hex("", &value), -EINVAL);
}

static void uuids_go_both_ways(void **state)
{
        static const char text[] = "GPU-8a2b7c1d-0e3f-4455-8899-aabbccddeeff";
        char buffer[FORMAT_UUID_MAX];
        uint8_t uuid[16];

        assert_int_equal(parse_uuid(text, uuid), 0);
        assert_string_equal(format_uuid(buffer, uuid), text);
        assert_int_equal(parse_uuid(text + 4, uuid), 0);
        assert_int_equal(parse_uuid("GPU-8a2b7c1d-0e3f-4455-8899-aabbccddeef", uuid), -EINVAL);
        assert_int_equal(parse_uuid("GPU-8a2b7c1d-0e3f-4455-8899-aabbccddeeff0", uuid), -EINVAL);
        assert_int_equal(parse_uuid("GPU-8a2b7c1d00e3f-4455-8899-aabbccddeeff", uuid), -EINVAL);
        assert_int_equal(parse_uuid("", uuid), -EINVAL);
}

static void commands_are_cut_between_characters(void **state)
{
        char *argv[] = {"python", "my file", "ääää", "a\033[1m", NULL};
        char buffer[64], small[26];

        assert_string_equal(
                format_command(buffer, sizeof(buffer), argv), "python 'my file' ääää 'a?[1m'");
        /* room for 22 bytes and the mark: two and a half of the umlauts */
        assert_string_equal(format_command(small, sizeof(small), argv), "python 'my file' ää…");
}

static void errors_carry_their_code(void **state)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE, other = CLEAVE_ERROR_NONE;

        assert_int_equal(error_set(&error, CLEAVE_REASON_NO_ROOM, "%d", 7), -ENOSPC);
        assert_string_equal(error_hint(&error), reason_hint(CLEAVE_REASON_NO_ROOM));
        error_set_hint(&error, "own");
        assert_string_equal(error_hint(&error), "own");
        error_move(&other, &error);
        assert_null(error.message);
        assert_string_equal(other.message, "7");
        assert_int_equal(error_set_errno(&other, -EACCES, "cannot"), -EACCES);
        assert_int_equal(other.code, CLEAVE_REASON_NOT_PERMITTED);
        assert_string_equal(other.message, "cannot: Permission denied");
        assert_int_equal(error_set(NULL, CLEAVE_REASON_BUSY, "x"), -EBUSY);
        for (int i = 1; i < CLEAVE_REASON_COUNT; i++) {
                enum cleave_reason reason = (enum cleave_reason)i;

                assert_int_equal(reason_from_word(reason_word(reason)), i);
                assert_in_range(reason_exit_status(reason), 1, 6);
                assert_true(reason_errno(reason) < 0);
        }
        assert_int_equal(reason_from_word("of-the-future"), CLEAVE_REASON_NONE);
}

static void unsafe_directories_are_refused(void **state)
{
        const char *base = *state;
        _cleanup_free_ char *directory = path_join(base, "run"), *link = path_join(base, "link");
        _cleanup_free_ char *file = path_join(base, "file"), *text = NULL;
        size_t size;

        assert_int_equal(runtime_dir_prepare(directory, 0700, NULL), 0);
        assert_int_equal(runtime_dir_prepare(directory, 0700, NULL), 0);
        assert_int_equal(symlink(directory, link), 0);
        assert_int_equal(make_directory(link, 0700), -ENOTDIR);
        assert_int_equal(chmod(directory, 0770), 0);
        assert_int_equal(make_directory(directory, 0700), -EPERM);
        if (geteuid() == 0) {
                assert_int_equal(chmod(directory, 0700), 0);
                assert_int_equal(chown(directory, 1234, 1234), 0);
                assert_int_equal(runtime_dir_prepare(directory, 0700, NULL), -EPERM);
        }

        assert_int_equal(write_file_atomic(file, "one", 3, 0600), 0);
        assert_int_equal(write_file_atomic(file, "other", 5, 0600), 0);
        assert_int_equal(read_file(file, 5, &text, &size), 0);
        assert_int_equal(size, 5);
        assert_string_equal(text, "other");
        assert_int_equal(read_file(file, 4, &text, &size), -EFBIG);
        assert_int_equal(make_directory(file, 0700), -ENOTDIR);
}

static void processes_are_told_apart(void **state)
{
        _cleanup_close_ int pidfd = -EBADF;
        struct process_status own;
        char command[64];
        uint64_t start;
        uid_t uid;
        pid_t pid;

        assert_int_equal(process_status(getpid(), &own), 0);
        assert_int_equal(own.parent, getppid());
        assert_int_equal(process_is(getpid(), own.start_time), 0);
        assert_int_equal(process_is(getpid(), own.start_time + 1), -ESRCH);
        assert_int_equal(process_uid(getpid(), &uid), 0);
        assert_int_equal(uid, geteuid());
        assert_int_equal(process_command(getpid(), command, sizeof(command)), 0);
        assert_non_null(strstr(command, "test_base"));

        pid = fork();
        if (pid == 0) {
                pause();
                _exit(0);
        }
        assert_int_equal(process_start_time(pid, &start), 0);
        pidfd = process_open(pid);
        assert_true(pidfd >= 0);
        assert_int_equal(process_signal(pidfd, SIGKILL), 0);
        assert_int_equal(waitid(P_PID, (id_t)pid, &(siginfo_t){0}, WEXITED | WNOWAIT), 0);
        /* a zombie runs no more */
        assert_int_equal(process_is(pid, start), -ESRCH);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_int_equal(process_status(pid, &own), -ESRCH);
        assert_int_equal(process_signal(pidfd, SIGKILL), -ESRCH);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(sizes_are_read),
                cmocka_unit_test(senseless_sizes_are_refused_each_with_its_sentence),
                cmocka_unit_test(quotas_go_in_steps),
                cmocka_unit_test(sizes_are_shown),
                cmocka_unit_test(names_are_checked),
                cmocka_unit_test(numbers_and_spans_are_read),
                cmocka_unit_test(uuids_go_both_ways),
                cmocka_unit_test(commands_are_cut_between_characters),
                cmocka_unit_test(errors_carry_their_code),
                cmocka_unit_test_setup_teardown(
                        unsafe_directories_are_refused, unit_directory, unit_directory_remove),
                cmocka_unit_test(processes_are_told_apart),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
