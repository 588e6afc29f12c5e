/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/daemon.h"
#include "cli/output.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/paths.h"
#include "proto/environment.h"

#define START_TIMEOUT_USEC  (20 * USEC_PER_SEC)
#define START_PATIENCE_USEC (1 * USEC_PER_SEC) /* after this we say what we wait for */
#define START_POLL_MSEC     200
#define START_LOG           "cleaved.log"
#define START_TEXT_MAX      (1u << 20)

/* Whether a connection can be tried: what refuses us is there all the same. */
static bool listens(const char *directory)
{
        _cleanup_close_ int fd = socket_connect(directory, CLEAVE_CONTROL_SOCKET, SOCK_STREAM);

        return fd >= 0 || fd == -EACCES || fd == -EPERM || fd == -EAGAIN;
}

static bool has_models(void)
{
        const char *models = getenv(CLEAVE_ENV_SIM);

        return models && *models;
}

/* Of the simulated GPU's daemon: beside this user's own. */
static int sim_directory(char **ret, struct cleave_error *error)
{
        _cleanup_free_ char *plain = NULL;
        const char *given = getenv(CLEAVE_ENV_RUNTIME);
        size_t length;
        int r;

        /* beside the system's we cannot make one */
        if (given && strcmp(given, CLEAVE_SYSTEM_RUNTIME_DIR) == 0)
                r = home_runtime_dir(&plain, error);
        else
                r = user_runtime_dir(&plain, error);
        if (r < 0)
                return r;
        length = strlen(plain);
        while (length > 1 && plain[length - 1] == '/')
                plain[--length] = '\0';
        if (asprintf(ret, "%s-sim", plain) < 0)
                return error_set_errno(error, ENOMEM, "cannot find the runtime directory");
        return 0;
}

unsigned daemon_take_sim(const char *models)
{
        unsigned named = has_models() || (models && *models) ? DAEMON_MODEL : 0;

        if (!models)
                return named;
        if (*models || !named)
                setenv(CLEAVE_ENV_SIM, *models ? models : DAEMON_SIM_MODEL, 1);
        return DAEMON_SIM | named;
}

int daemon_directory(unsigned flags, char **ret, bool *ret_system, struct cleave_error *error)
{
        _cleanup_free_ char *plain = NULL, *sim = NULL;
        const char *given = getenv(CLEAVE_ENV_RUNTIME);
        bool system = false;
        int r;

        r = sim_directory(&sim, error);
        if (r < 0)
                return r;
        if ((given && *given) || (!(flags & DAEMON_SIM) && !has_models())) {
                r = runtime_dir(&plain, &system, error);
                if (r < 0)
                        return r;
                if (system || flags & DAEMON_REAL || !listens(sim) || listens(plain)) {
                        *ret = TAKE_PTR(plain);
                        if (ret_system)
                                *ret_system = system;
                        return 0;
                }
        }
        *ret = TAKE_PTR(sim);
        if (ret_system)
                *ret_system = false;
        return 0;
}

int daemon_program(char **ret)
{
        /* Relative to the program's own directory: a build directory, then an installed tree. */
        static const char *const places[] = {"cleaved", "../sbin/cleaved", "../libexec/cleaved"};
        _cleanup_free_ char *own = NULL;
        char *slash;
        int r;

        r = own_executable(&own);
        if (r < 0)
                return r;
        slash = strrchr(own, '/');
        if (!slash)
                return -ENOENT;
        *slash = 0;
        for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
                _cleanup_free_ char *path = path_join(own, places[i]);

                if (!path)
                        return -ENOMEM;
                if (access(path, X_OK) == 0) {
                        *ret = TAKE_PTR(path);
                        return 0;
                }
        }
        return -ENOENT;
}

/* In the child: becomes the daemon, which goes to the background by itself. */
static void become_daemon(const char *program, const char *directory, int errors)
{
        _cleanup_free_ char *option = NULL;
        sigset_t none;
        int null;

        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
                dup2(errors, STDERR_FILENO) < 0 ||
                asprintf(&option, "--runtime-dir=%s", directory) < 0)
                _exit(CLI_FAILED);
        close_range(STDERR_FILENO + 1, ~0u, 0);
        /* These would make the daemon of a nested run a tenant itself. */
        unsetenv("LD_PRELOAD");
        unsetenv(CLEAVE_ENV_TENANT);
        execl(program, "cleaved", "--user", option, (char *)NULL);
        dprintf(STDERR_FILENO, "%s cannot be executed: %s\n", program, strerror(errno));
        _exit(CLI_FAILED);
}

/* The last line of what a daemon wrote, without priority and name; NULL: nothing. Changes text. */
static char *last_line(char *text)
{
        char *line = NULL, *state = NULL;

        for (char *p = strtok_r(text, "\n", &state); p; p = strtok_r(NULL, "\n", &state))
                line = p;
        if (line && line[0] == '<' && strchr(line, '>'))
                line = strchr(line, '>') + 1;
        if (line && strncmp(line, "cleaved: ", 9) == 0)
                line += 9;
        return line;
}

/* Why the daemon did not come up: what it said to us, else the end of its log. New memory. */
static char *last_words(char *said, const char *directory)
{
        _cleanup_free_ char *path = path_join(directory, START_LOG), *text = NULL;
        const char *line = last_line(said);

        if (!line && path && read_file(path, START_TEXT_MAX, &text, NULL) == 0)
                line = last_line(text);
        return strdup(line ?: "it left no word");
}

/* Collects what comes until the daemon has gone to the background or ended, which closes the other
 * end. said: START_TEXT_MAX + 1 bytes. -ETIMEDOUT. */
static int hear_out(int fd, char *said, bool quiet)
{
        uint64_t begun = clock_usec(CLOCK_MONOTONIC);
        size_t filled = 0;
        bool told = quiet;

        for (;;) {
                struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
                uint64_t spent = clock_usec(CLOCK_MONOTONIC) - begun;
                ssize_t n;

                said[filled] = 0;
                if (spent > START_TIMEOUT_USEC)
                        return -ETIMEDOUT;
                if (spent > START_PATIENCE_USEC && !told) {
                        fprintf(stderr, "cleave: waiting for the daemon to start\n");
                        told = true;
                }
                if (poll(&poll_fd, 1, START_POLL_MSEC) <= 0)
                        continue;
                n = read(fd, said + filled, START_TEXT_MAX - filled);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return 0;
                filled += (size_t)n;
        }
}

static int start_daemon(
        const char *directory, unsigned flags, struct client **ret, struct cleave_error *error)
{
        _cleanup_free_ char *program = NULL, *said = NULL, *words = NULL;
        _cleanup_close_ int reading = -EBADF;
        int fds[2], status = 0, r;
        pid_t pid;

        r = daemon_program(&program);
        if (r < 0) {
                error_set(error, CLEAVE_REASON_UNREACHABLE,
                        "no daemon listens, and the program cleaved is not installed");
                error_set_hint(error, "Build it with `make`, or install Cleave anew.");
                return r;
        }
        r = runtime_dir_prepare(directory, 0700, error);
        if (r < 0)
                return r;
        said = malloc(START_TEXT_MAX + 1);
        if (!said || pipe2(fds, O_CLOEXEC) < 0)
                return error_set_errno(error, said ? errno : ENOMEM, "cannot start the daemon");
        reading = fds[0];
        pid = fork();
        if (pid == 0)
                become_daemon(program, directory, fds[1]);
        close(fds[1]);
        if (pid < 0)
                return error_set_errno(error, errno, "cannot start the daemon");
        r = hear_out(reading, said, flags & DAEMON_QUIET);
        if (r < 0)
                kill(pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        if (r == 0 && client_connect(directory, ret, error) == 0)
                return 0;
        words = last_words(said, directory);
        if (r < 0)
                error_set(error, CLEAVE_REASON_UNREACHABLE,
                        "the daemon did not come up within %llu s: %s",
                        (unsigned long long)(START_TIMEOUT_USEC / USEC_PER_SEC), words ?: "");
        else
                error_set(error, CLEAVE_REASON_UNREACHABLE, "the daemon did not come up: %s",
                        words ?: "");
        error_set_hint(error, "Its log is %s/" START_LOG "; `cleave doctor` looks for the cause.",
                directory);
        return -ECONNREFUSED;
}

int daemon_connect_at(
        const char *directory, unsigned flags, struct client **ret, struct cleave_error *error)
{
        _cleanup_error_ struct cleave_error own = CLEAVE_ERROR_NONE;
        int r;

        r = client_connect(directory, ret, &own);
        if (r < 0 && flags & DAEMON_START && own.code == CLEAVE_REASON_UNREACHABLE)
                return start_daemon(directory, flags, ret, error);
        if (r < 0)
                error_move(error, &own);
        return r;
}

/* 1: it does, 0: it does not. */
static int simulates(struct client *client, struct cleave_error *error)
{
        json_t *info = NULL;
        int r = client_call(client, "daemon.info", NULL, &info, error);

        if (r >= 0)
                r = json_is_string(json_object_get(info, "sim")) ||
                    strcmp(output_text(json_object_get(info, "backend"), ""), "sim") == 0;
        json_decref(info);
        return r;
}

/* Who asks for a simulated GPU must not get another, or none, because a daemon without one runs in
 * the directory that is given; then there is one of its own beside it. */
static int prefer_simulated(
        unsigned flags, struct client **client, char **directory, struct cleave_error *error)
{
        _cleanup_client_ struct client *other = NULL;
        _cleanup_free_ char *beside = NULL;
        int r;

        r = sim_directory(&beside, error);
        if (r < 0 || (!(flags & DAEMON_SIM) && !listens(beside)))
                return r;
        r = simulates(*client, error);
        if (r != 0)
                return r < 0 ? r : 0;
        if (strcmp(beside, *directory) != 0) {
                r = daemon_connect_at(beside, flags, &other, error);
                if (r == 0)
                        r = simulates(other, error);
        }
        if (r == 0) {
                r = error_set(error, CLEAVE_REASON_NO_DRIVER,
                        "the daemon that runs in %s was started without a simulated GPU", beside);
                error_set_hint(error, "It ends a minute after its last use.");
        }
        if (r < 0)
                return r;
        client_free(*client);
        *client = TAKE_PTR(other);
        free(*directory);
        *directory = TAKE_PTR(beside);
        return 0;
}

/* Nobody must get other simulated GPUs than he has named because others run already. */
static int insist_on_models(struct client *client, struct cleave_error *error)
{
        json_t *params = json_pack("{s:s}", "env_sim", getenv(CLEAVE_ENV_SIM)), *result = NULL;
        int r = client_call(client, "device.list", params, &result, error);

        json_decref(result);
        return r;
}

int daemon_connect(
        unsigned flags, struct client **ret, char **ret_directory, struct cleave_error *error)
{
        _cleanup_client_ struct client *client = NULL;
        _cleanup_free_ char *directory = NULL;
        bool system = false;
        int r;

        r = daemon_directory(flags, &directory, &system, error);
        if (r < 0)
                return r;
        if (flags & DAEMON_SIM && !has_models())
                setenv(CLEAVE_ENV_SIM, DAEMON_SIM_MODEL, 1);
        r = daemon_connect_at(
                directory, system ? flags & ~(unsigned)DAEMON_START : flags, &client, error);
        if (r == 0 && (flags & DAEMON_SIM || has_models()))
                r = prefer_simulated(flags, &client, &directory, error);
        if (r == 0 && flags & DAEMON_MODEL)
                r = insist_on_models(client, error);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(client);
        if (ret_directory)
                *ret_directory = TAKE_PTR(directory);
        return 0;
}

int cli_report(const struct cli_verb *verb, const struct cleave_error *error)
{
        const char *hint = error_hint(error);

        fflush(stdout);
        fprintf(stderr, "cleave%s%s: %s\n", verb ? " " : "", verb ? verb->name : "",
                error_message(error));
        if (hint)
                fprintf(stderr, "  %s\n", hint);
        return verb && verb->usage_failure ? verb->usage_failure : reason_exit_status(error->code);
}
