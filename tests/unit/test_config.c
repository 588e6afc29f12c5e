/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/file.h"
#include "daemon/config.h"
#include "daemon/message.h"
#include "unit.h"

static char reports[4096];

static void report(void *userdata, const char *text)
{
        const char *slash = strrchr(text, '/');

        (void)userdata;
        /* the path is the test's own */
        snprintf(reports + strlen(reports), sizeof(reports) - strlen(reports), "%s\n",
                strncmp(text, "/tmp/", 5) == 0 && slash ? strstr(text, "cleave.conf") : text);
}

static int read_text(const char *directory, const char *text, struct config *config)
{
        _cleanup_free_ char *path = path_join(directory, "cleave.conf");

        reports[0] = '\0';
        config_init(config);
        assert_int_equal(write_file_atomic(path, text, strlen(text), 0600), 0);
        return config_read(config, path, report, NULL);
}

static void a_whole_configuration_is_read(void **state)
{
        static const char text[] =
                "# all of it\n"
                "[access]\ngroup = root\nmemory = 50%\ntenants = 4\n"
                "[user root]\nmemory = 40G\n"
                "[uid 4711]\ntenants = 0\n"
                "[audit]\npolicy = kill\ninterval = 500ms\ntolerance = 1M\n"
                "[daemon]\nidle_exit = infinity\nrelease_after = 3s\njournal_limit = 1M\n"
                "connections = 7\ncgroups = no\nclaims = /run/x\n"
                "[device]\nnvml = /opt/libnvidia-ml.so.1\ncompute = gate\n";
        struct ceiling ceiling;
        struct config config;

        assert_int_equal(read_text(*state, text, &config), 0);
        assert_string_equal(reports, "");
        assert_string_equal(config.group, "root");
        ceiling = config_ceiling(&config, 0);
        assert_int_equal(ceiling.memory.bytes, 40ull << 30);
        assert_int_equal(ceiling.tenants, 4);
        ceiling = config_ceiling(&config, 4711);
        assert_int_equal(ceiling.memory.part, 50000);
        assert_true(ceiling.tenants_set);
        assert_int_equal(ceiling.tenants, 0);
        ceiling = config_ceiling(&config, 5);
        assert_int_equal(ceiling.tenants, 4);
        assert_int_equal(config.audit_policy, AUDIT_KILL);
        assert_int_equal(config.compute, COMPUTE_GATE);
        assert_int_equal(config.audit_interval, 500000);
        assert_int_equal(config.audit_tolerance, 1 << 20);
        assert_int_equal(config.idle_exit, UINT64_MAX);
        assert_int_equal(config.release_after, 3000000);
        assert_int_equal(config.journal_limit, 1 << 20);
        assert_int_equal(config.connections, 7);
        assert_false(config.cgroups);
        assert_string_equal(config.claims, "/run/x");
        assert_string_equal(config.nvml, "/opt/libnvidia-ml.so.1");
        config_done(&config);
}

static void each_bad_line_is_told(void **state)
{
        static const char text[] = "lonely = 1\n"
                                   "[access]\n"
                                   "group = no-such-group-here\n"
                                   "memory = much\n"
                                   "memory = 101%\n"
                                   "tenants = -1\n"
                                   "colour = red\n"
                                   "[user no-such-user-here]\n"
                                   "memory = 1G\n"
                                   "[uid -5]\n"
                                   "memory = 1G\n"
                                   "[audit]\n"
                                   "policy = shout\n"
                                   "interval = 1ms\n"
                                   "interval = soon\n"
                                   "tolerance = 1X\n"
                                   "[daemon]\n"
                                   "idle_exit = later\n"
                                   "connections = 0\n"
                                   "cgroups = maybe\n"
                                   "claims = here\n"
                                   "[kitchen]\n"
                                   "sink = yes\n";
        struct config config;

        assert_int_equal(read_text(*state, text, &config), -EINVAL);
        assert_string_equal(reports,
                "cleave.conf:1: 'lonely' stands before any section\n"
                "cleave.conf:3: group = no-such-group-here: there is no such group\n"
                "cleave.conf:4: memory: size 'much' is not a number\n"
                "cleave.conf:5: memory: '101%' is more than the whole device\n"
                "cleave.conf:6: tenants = -1 is not a number\n"
                "cleave.conf:7: [access] has no 'colour'\n"
                "cleave.conf:9: [user no-such-user-here]: there is no such user\n"
                "cleave.conf:11: [uid -5]: not a uid\n"
                "cleave.conf:13: policy = shout: it is report or kill\n"
                "cleave.conf:14: interval = 1ms is too short\n"
                "cleave.conf:15: interval = soon is not a span of time such as 60s or 200ms\n"
                "cleave.conf:16: tolerance: size '1X' has an unknown unit 'X'\n"
                "cleave.conf:18: idle_exit = later is not a span of time such as 60s or 200ms\n"
                "cleave.conf:19: connections = 0: it is 1 to 65536\n"
                "cleave.conf:20: cgroups = maybe: it is yes or no\n"
                "cleave.conf:21: claims = here is not an absolute path\n"
                "cleave.conf:23: there is no section [kitchen]\n");
        config_done(&config);
}

static void lines_that_are_none_are_told(void **state)
{
        char text[2048];
        struct config config;

        assert_int_equal(read_text(*state, "[audit]\npolicy\n", &config), -EINVAL);
        assert_string_equal(
                reports, "cleave.conf:2: not understood: neither a section nor 'name = value'\n");
        config_done(&config);
        memset(text, 'x', sizeof(text));
        memcpy(text, "[audit]\npolicy = ", 17);
        text[sizeof(text) - 1] = '\0';
        assert_int_equal(read_text(*state, text, &config), -EINVAL);
        assert_non_null(strstr(reports, "cleave.conf:2: the line is too long\n"));
        config_done(&config);
        assert_int_equal(config_read(&config, "/nonexistent/cleave.conf", report, NULL), -ENOENT);
}

static void only_whole_messages_of_known_kinds_pass(void **state)
{
        struct cleave_hello hello = {
                .head = {CLEAVE_MESSAGE_MAGIC, CLEAVE_MESSAGE_VERSION, CLEAVE_HELLO, sizeof(hello),
                        0},
        };
        struct cleave_hello out;
        enum cleave_message_type type;
        struct cleave_hello bad;

        memset(hello.guard, 'g', sizeof(hello.guard));
        strcpy(hello.driver, "1\n2\x7f");
        assert_int_equal(message_check(&hello, sizeof(hello), &type), 0);
        assert_int_equal(type, CLEAVE_HELLO);
        message_get_hello(&hello, &out);
        assert_int_equal(strlen(out.guard), sizeof(out.guard) - 1);
        assert_string_equal(out.driver, "1?2?");

        for (size_t size = 0; size < sizeof(hello); size++) {
                bad = hello;
                assert_true(message_check(&bad, size, &type) < 0);
                bad.head.size = (uint32_t)size;
                assert_int_equal(message_check(&bad, size, &type),
                        size < sizeof(struct cleave_message) ? -EBADMSG : -EMSGSIZE);
        }
        bad = hello;
        bad.head.magic++;
        assert_int_equal(message_check(&bad, sizeof(bad), &type), -EBADMSG);
        bad = hello;
        bad.head.version++;
        assert_int_equal(message_check(&bad, sizeof(bad), &type), -EPROTO);
        bad.head.version = 0;
        assert_int_equal(message_check(&bad, sizeof(bad), &type), -EPROTO);
        bad = hello;
        bad.head.size++;
        assert_int_equal(message_check(&bad, sizeof(bad), &type), -EBADMSG);
        bad = hello;
        bad.head.type = CLEAVE_WELCOME;
        assert_int_equal(message_check(&bad, sizeof(bad), &type), -ENOTSUP);
        bad.head.type = CLEAVE_NOTICE;
        assert_int_equal(message_check(&bad, sizeof(bad), &type), -EMSGSIZE);
}

#define T(f) cmocka_unit_test_setup_teardown(f, unit_directory, unit_directory_remove)

int main(void)
{
        const struct CMUnitTest tests[] = {
                T(a_whole_configuration_is_read),
                T(each_bad_line_is_told),
                T(lines_that_are_none_are_told),
                cmocka_unit_test(only_whole_messages_of_known_kinds_pass),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
