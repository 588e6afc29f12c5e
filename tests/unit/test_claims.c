/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/process.h"
#include "daemon/claims.h"
#include "unit.h"

static const char uuid[] = "GPU-8a2b7c1d-0e3f-4455-8899-aabbccddeeff";

static char *claims_path(const char *directory)
{
        char *path;

        assert_true(asprintf(&path, "%s/cleave-%s.claims", directory, uuid) > 0);
        return path;
}

static struct claim own(uint64_t tag, uint64_t claimed)
{
        struct claim claim = {.uid = geteuid(), .tag = tag, .pid = getpid(), .claimed = claimed};

        assert_int_equal(process_start_time(claim.pid, &claim.start_time), 0);
        return claim;
}

static void set(const char *directory, struct claim claim)
{
        struct claims claims;

        assert_int_equal(claims_open(directory, uuid, &claims), 0);
        assert_int_equal(claims_set(&claims, &claim), 0);
        claims_close(&claims);
}

static uint64_t others(const char *directory, uint64_t tag, uint64_t *used)
{
        struct claims claims;
        uint64_t claimed;

        assert_int_equal(claims_open(directory, uuid, &claims), 0);
        claims_others(&claims, geteuid(), tag, &claimed, used);
        claims_close(&claims);
        return claimed;
}

static void neighbours_see_each_other(void **state)
{
        struct claim first = own(1, 1000), second = own(2, 50);
        uint64_t used;

        second.used = 7;
        set(*state, first);
        set(*state, second);
        assert_int_equal(others(*state, 1, &used), 50);
        assert_int_equal(used, 7);
        assert_int_equal(others(*state, 2, &used), 1000);
        assert_int_equal(others(*state, 3, &used), 1050);
        first.claimed = 2000;
        set(*state, first);
        assert_int_equal(others(*state, 2, &used), 2000);
        first.claimed = 0;
        set(*state, first);
        assert_int_equal(others(*state, 2, &used), 0);
}

static void the_dead_claim_nothing(void **state)
{
        struct claim claim = own(1, 1000);
        uint64_t used;
        pid_t pid = fork();

        if (pid == 0)
                _exit(0);
        assert_int_equal(waitid(P_PID, (id_t)pid, &(siginfo_t){0}, WEXITED | WNOWAIT), 0);
        claim.pid = pid;
        set(*state, claim);
        assert_int_equal(others(*state, 2, &used), 0);
        waitpid(pid, NULL, 0);
        assert_int_equal(others(*state, 2, &used), 0);
        /* nor does one whose pid has gone to another process */
        claim = own(1, 1000);
        claim.start_time++;
        set(*state, claim);
        assert_int_equal(others(*state, 2, &used), 0);
}

static void garbage_is_passed_over(void **state)
{
        _cleanup_free_ char *path = claims_path(*state), *big = NULL, *text = NULL;
        struct claim good = own(1, 1000);
        uint64_t used;
        char line[512];
        int n;

        n = snprintf(line, sizeof(line),
                "cleave-claims 1\n\n0 1 2 3\nx\n-1 1 1 1 1 1\n0 1 0 1 5 5\n"
                "99999999999999999999999 1 1 1 1 1\n%u 9 %d %llu 18446744073709551615999 1\n"
                "%u 7 %d %llu 70 1 1\n%u 8 %d %llu 80 1\n%u 6 %d",
                geteuid(), (int)good.pid, (unsigned long long)good.start_time, geteuid(),
                (int)good.pid, (unsigned long long)good.start_time, geteuid(), (int)good.pid,
                (unsigned long long)good.start_time, geteuid(), (int)good.pid);
        assert_int_equal(write_file_atomic(path, line, (size_t)n, 0666), 0);
        assert_int_equal(others(*state, 1, &used), 80);
        assert_int_equal(write_file_atomic(path, "\0\0\0", 3, 0666), 0);
        assert_int_equal(others(*state, 1, &used), 0);
        /* more than fits: the beginning counts, and the next write makes it small again */
        big = malloc(1 << 20);
        memset(big, '7', 1 << 20);
        memcpy(big, line, strlen("cleave-claims 1\n"));
        assert_int_equal(write_file_atomic(path, big, 1 << 20, 0666), 0);
        set(*state, good);
        assert_int_equal(others(*state, 2, &used), 1000);
        assert_int_equal(read_file(path, 4096, &text, NULL), 0);
        assert_null(strstr(text, "777777"));
        assert_true(strlen(text) < 200);
}

static void sums_do_not_wrap(void **state)
{
        uint64_t used;

        for (uint64_t tag = 1; tag < 30; tag++) {
                struct claim claim = own(tag, 9999999999999999999ull);

                claim.used = claim.claimed;
                set(*state, claim);
        }
        assert_int_equal(others(*state, 1, &used), UINT64_MAX);
        assert_int_equal(used, UINT64_MAX);
}

static void other_peoples_links_are_not_followed(void **state)
{
        _cleanup_free_ char *path = claims_path(*state), *target = path_join(*state, "target");
        struct claims claims;
        struct stat st;

        assert_int_equal(write_file_atomic(target, "precious", 8, 0600), 0);
        assert_int_equal(symlink(target, path), 0);
        assert_int_equal(claims_open(*state, uuid, &claims), -ELOOP);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(link(target, path), 0);
        assert_int_equal(claims_open(*state, uuid, &claims), -EPERM);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkfifo(path, 0666), 0);
        assert_int_equal(claims_open(*state, uuid, &claims), -EPERM);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_int_equal(claims_open(*state, uuid, &claims), -EISDIR);
        assert_int_equal(stat(target, &st), 0);
        assert_int_equal(st.st_size, 8);
}

static void whoever_keeps_the_lock_does_not_hold_us_up(void **state)
{
        _cleanup_free_ char *path = claims_path(*state);
        struct claims claims;
        struct stat st;
        int fd;

        set(*state, own(1, 5));
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0666);
        fd = open(path, O_RDWR | O_CLOEXEC);
        assert_int_equal(flock(fd, LOCK_EX), 0);
        assert_int_equal(claims_open(*state, uuid, &claims), -EBUSY);
        close(fd);
        assert_int_equal(claims_open(*state, uuid, &claims), 0);
        claims_close(&claims);
}

#define T(f) cmocka_unit_test_setup_teardown(f, unit_directory, unit_directory_remove)

int main(void)
{
        const struct CMUnitTest tests[] = {
                T(neighbours_see_each_other),
                T(the_dead_claim_nothing),
                T(garbage_is_passed_over),
                T(sums_do_not_wrap),
                T(other_peoples_links_are_not_followed),
                T(whoever_keeps_the_lock_does_not_hold_us_up),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
