/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "daemon/journal.h"
#include "daemon/recover.h"
#include "unit.h"

static int count_up(json_t *record, void *userdata)
{
        json_int_t *last = userdata;

        /* records come in order, each whole */
        assert_int_equal(json_integer_value(json_object_get(record, "n")), *last + 1);
        (*last)++;
        return 0;
}

static json_t *record(int n)
{
        return json_pack("{s:i, s:s}", "n", n, "text", "ä\n\"\\");
}

static void write_records(struct journal *journal, const char *directory, int count)
{
        int r;

        journal_init(journal, directory, 0, &r);
        assert_int_equal(r, 0);
        assert_int_equal(journal_rewrite(journal, json_pack("[o]", record(1))), 0);
        for (int i = 2; i <= count; i++)
                assert_int_equal(journal_append(journal, record(i)), 0);
}

static void a_journal_torn_anywhere_gives_its_good_prefix(void **state)
{
        struct journal journal;
        _cleanup_free_ char *path = path_join(*state, JOURNAL_FILE), *data = NULL;
        size_t size, ends[8], lines = 0, good;
        json_int_t last;

        write_records(&journal, *state, 8);
        assert_int_equal(read_file(path, 1 << 20, &data, &size), 0);
        for (size_t i = 0; i < size; i++)
                if (data[i] == '\n')
                        ends[lines++] = i + 1;
        assert_int_equal(lines, 8);
        for (size_t cut = 0; cut <= size; cut++) {
                size_t whole = 0;

                while (whole < lines && ends[whole] <= cut)
                        whole++;
                last = 0;
                assert_int_equal(journal_parse(data, cut, count_up, &last, &good), whole);
                assert_int_equal(last, whole);
                assert_int_equal(good, whole ? ends[whole - 1] : 0);
        }
        /* and damaged at any byte, by any bit, it ends before that line */
        for (size_t at = 0; at < size; at++) {
                size_t whole = 0;

                while (ends[whole] <= at)
                        whole++;
                data[at] = (char)(data[at] ^ 1 << at % 8);
                last = 0;
                assert_int_equal(journal_parse(data, size, count_up, &last, &good), whole);
                data[at] = (char)(data[at] ^ 1 << at % 8);
        }
        journal_done(&journal);
}

static void a_journal_without_room_is_as_it_was(void **state)
{
        struct journal journal;
        json_int_t last = 0;
        size_t damaged;
        int n = 9, r;

        write_records(&journal, *state, 8);
        journal.limit = journal.size + 100;
        while ((r = journal_append(&journal, record(n))) == 0)
                n++;
        assert_int_equal(r, -ENOSPC);
        assert_true(journal.failed);
        /* once failed, nothing is appended to a file that lacks something */
        journal.limit = 0;
        assert_int_equal(journal_append(&journal, record(n)), -ENOSPC);
        assert_int_equal(journal_read(&journal, count_up, &last, &damaged), n - 1);
        assert_int_equal(damaged, 0);

        journal.limit = 1;
        assert_int_equal(journal_rewrite(&journal, json_pack("[o]", record(1))), -ENOSPC);
        last = 0;
        assert_int_equal(journal_read(&journal, count_up, &last, &damaged), n - 1);
        journal.limit = 0;
        assert_int_equal(journal_rewrite(&journal, json_pack("[o]", record(1))), 0);
        assert_false(journal.failed);
        last = 0;
        assert_int_equal(journal_append(&journal, record(2)), 0);
        assert_int_equal(journal_read(&journal, count_up, &last, &damaged), 2);
        assert_int_equal(last, 2);
        journal_done(&journal);
}

/* A full file system in earnest: the write fails half-way, and no half line stays. */
static void a_full_file_system_leaves_no_half_line(void **state)
{
        struct journal journal;
        json_int_t last = 0;
        size_t damaged;
        int fd;

        write_records(&journal, *state, 3);
        fd = journal.fd;
        journal.fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
        assert_true(journal.fd >= 0);
        assert_true(journal_append(&journal, record(4)) < 0);
        assert_true(journal.failed);
        close(journal.fd);
        journal.fd = fd;
        assert_int_equal(journal_read(&journal, count_up, &last, &damaged), 3);
        assert_int_equal(damaged, 0);
        journal_done(&journal);
}

static void a_missing_journal_is_empty(void **state)
{
        struct journal journal;
        size_t damaged = 1;
        int r;

        journal_init(&journal, *state, 0, &r);
        assert_int_equal(r, 0);
        assert_int_equal(journal_read(&journal, count_up, NULL, &damaged), 0);
        assert_int_equal(damaged, 0);
        journal_done(&journal);
}

static void what_has_passed_is_compacted(void **state)
{
        struct journal journal;
        int i = 2;

        write_records(&journal, *state, 1);
        while (!journal_wants_rewrite(&journal) && i < 100000)
                assert_int_equal(journal_append(&journal, record(i++)), 0);
        assert_in_range(i, 100, 99999);
        assert_int_equal(journal_rewrite(&journal, json_pack("[o]", record(1))), 0);
        assert_false(journal_wants_rewrite(&journal));
        journal_done(&journal);
}

static void records_add_up(void **state)
{
        static const char *const lines[] = {
                "{\"t\":\"begin\",\"version\":1,\"serial\":5,\"sim\":\"h100\"}",
                "{\"t\":\"tenant\",\"id\":\"a\",\"name\":\"x\",\"e\":7}",
                "{\"t\":\"tenant\",\"id\":\"b\",\"name\":\"y\"}",
                "{\"t\":\"join\",\"id\":\"a\",\"slot\":1,\"pid\":10,\"start\":3}",
                "{\"t\":\"join\",\"id\":\"a\",\"slot\":2,\"pid\":11,\"start\":4}",
                "{\"t\":\"leave\",\"id\":\"a\",\"slot\":1}",
                "{\"t\":\"join\",\"id\":\"c\",\"slot\":1}",
                "{\"t\":\"start\",\"id\":\"a\",\"pid\":9,\"start\":2}",
                "{\"t\":\"of the future\",\"id\":\"a\"}",
                "{\"t\":7}",
                "{}",
                /* changed: its sessions stay */
                "{\"t\":\"tenant\",\"id\":\"a\",\"name\":\"z\",\"e\":9}",
                "{\"t\":\"exit\",\"id\":\"a\",\"status\":256,\"e\":8}",
                "{\"t\":\"gone\",\"id\":\"b\"}",
        };
        struct recovered recovered = {0};
        json_t *a, *sessions;

        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                json_t *line = json_loads(lines[i], 0, NULL);

                assert_non_null(line);
                assert_int_equal(recovered_apply(&recovered, line), 0);
                json_decref(line);
        }
        assert_int_equal(recovered.serial, 9);
        assert_string_equal(recovered.sim, "h100");
        assert_int_equal(json_object_size(recovered.tenants), 1);
        a = json_object_get(recovered.tenants, "a");
        assert_string_equal(json_string_value(json_object_get(a, "name")), "z");
        assert_true(json_is_true(json_object_get(a, "exited")));
        sessions = json_object_get(a, "sessions");
        assert_int_equal(json_object_size(sessions), 1);
        assert_int_equal(
                json_integer_value(json_object_get(json_object_get(sessions, "2"), "pid")), 11);
        recovered_done(&recovered);
}

#define T(f) cmocka_unit_test_setup_teardown(f, unit_directory, unit_directory_remove)

int main(void)
{
        const struct CMUnitTest tests[] = {
                T(a_journal_torn_anywhere_gives_its_good_prefix),
                T(a_journal_without_room_is_as_it_was),
                T(a_full_file_system_leaves_no_half_line),
                T(a_missing_journal_is_empty),
                T(what_has_passed_is_compacted),
                T(records_add_up),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
