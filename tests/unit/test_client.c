/* SPDX-License-Identifier: Apache-2.0 */
#include <sys/socket.h>
#include <sys/un.h>

#include "client/client.h"
#include "unit.h"

/* A daemon that answers each line it reads with the next of a fixed script. */
static pid_t script(const char *directory, const char *const *answers)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int listening = socket(AF_UNIX, SOCK_STREAM, 0);
        pid_t pid;

        snprintf(address.sun_path, sizeof(address.sun_path), "%s/control.sock", directory);
        unlink(address.sun_path);
        assert_int_equal(bind(listening, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(listen(listening, 1), 0);
        pid = fork();
        if (pid == 0) {
                int fd = accept(listening, NULL, NULL);
                char c;

                for (; *answers; answers++) {
                        while (read(fd, &c, 1) == 1 && c != '\n')
                                ;
                        if (write(fd, *answers, strlen(*answers)) < 0)
                                _exit(1);
                }
                _exit(0);
        }
        close(listening);
        return pid;
}

static void answers_find_their_requests(void **state)
{
        static const char *const answers[] = {
                "{\"id\":1,\"event\":{\"serial\":1}}\n{\"id\":1,\"event\":{\"serial\":2}}\n",
                "{\"id\":2,\"result\":{\"a\":1}}\n{\"id\":1,",
                "\"result\":{}}\n{\"id\":3,\"error\":{\"code\":\"no-room\",\"message\":\"full\","
                "\"hint\":null}}\n",
                NULL,
        };
        _cleanup_client_ struct client *client = NULL;
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        pid_t pid = script(*state, answers);
        json_t *result = NULL;
        int64_t id;

        assert_int_equal(client_connect(*state, &client, &error), 0);
        assert_int_equal(
                client_send(client, "events.watch", json_pack("{s:b}", "follow", 0), &id, &error),
                0);
        assert_int_equal(id, 1);
        assert_int_equal(client_call(client, "a", NULL, &result, &error), 0);
        assert_int_equal(json_integer_value(json_object_get(result, "a")), 1);
        json_decref(result);
        assert_int_equal(client_call(client, "b", NULL, NULL, &error), -ENOSPC);
        assert_string_equal(error.message, "full");
        assert_int_equal(error.code, CLEAVE_REASON_NO_ROOM);
        assert_null(error.hint);
        for (int i = 0; i < 3; i++) {
                struct client_message message;

                assert_int_equal(client_receive(client, 1000, &message, &error), 1);
                assert_int_equal(message.id, 1);
                assert_int_equal(message.kind, i < 2 ? CLIENT_EVENT : CLIENT_RESULT);
                if (i < 2)
                        assert_int_equal(
                                json_integer_value(json_object_get(message.value, "serial")),
                                i + 1);
                client_message_done(&message);
        }
        assert_int_equal(
                client_receive(client, 1000, &(struct client_message){0}, &error), -ECONNRESET);
        assert_int_equal(error.code, CLEAVE_REASON_DAEMON_GONE);
        waitpid(pid, NULL, 0);
}

static void a_daemon_that_speaks_nonsense_is_told(void **state)
{
        static const char *const nonsense[] = {"hello\n", "[]\n", "{}\n", "{\"id\":1}\n", "\n",
                "{\"id\":\"1\",\"result\":{}}\n", "{\"id\":1,\"error\":{}}\n", "\xff\xfe\n"};

        for (size_t i = 0; i < ARRAY_SIZE(nonsense); i++) {
                _cleanup_client_ struct client *client = NULL;
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                const char *answers[] = {nonsense[i], NULL};
                pid_t pid = script(*state, answers);

                assert_int_equal(client_connect(*state, &client, &error), 0);
                assert_int_equal(client_call(client, "a", NULL, NULL, &error), -EBADMSG);
                assert_int_equal(error.code, CLEAVE_REASON_BAD_REPLY);
                waitpid(pid, NULL, 0);
        }
}

static void a_missing_daemon_is_told(void **state)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        struct client *client;

        assert_int_equal(client_connect("/nonexistent", &client, &error), -ECONNREFUSED);
        assert_int_equal(error.code, CLEAVE_REASON_UNREACHABLE);
        assert_string_equal(error.message, "no daemon listens in /nonexistent");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(
                        answers_find_their_requests, unit_directory, unit_directory_remove),
                cmocka_unit_test_setup_teardown(a_daemon_that_speaks_nonsense_is_told,
                        unit_directory, unit_directory_remove),
                cmocka_unit_test(a_missing_daemon_is_told),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
