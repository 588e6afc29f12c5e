/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/paths.h"
#include "proto/environment.h"

#define START_TIMEOUT_USEC  (20 * USEC_PER_SEC)
#define START_PATIENCE_USEC (1 * USEC_PER_SEC) /* after this we say what we wait for */
#define START_POLL_USEC     2000
#define START_LOG           "cleaved.log"
#define START_LOG_MAX       (1u << 20)

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

static int sim_directory(char **ret, struct cleave_error *error)
{
        _cleanup_free_ char *plain = NULL;
        int r;

        r = user_runtime_dir(&plain, error);
        if (r < 0)
                return r;
        if (asprintf(ret, "%s-sim", plain) < 0)
                return error_set_errno(error, ENOMEM, "cannot find the runtime directory");
        return 0;
}

int daemon_directory(unsigned flags, char **ret, bool *ret_system, struct cleave_error *error)
{
        _cleanup_free_ char *plain = NULL, *sim = NULL;
        const char *given = getenv(CLEAVE_ENV_RUNTIME);
        bool system = false;
        int r;

        if (given && *given)
                return runtime_dir(ret, ret_system, error);
        r = sim_directory(&sim, error);
        if (r < 0)
                return r;
        if (!(flags & DAEMON_SIM) && !has_models()) {
                r = runtime_dir(&plain, &system, error);
                if (r < 0)
                        return r;
                if (system || listens(plain) || !listens(sim)) {
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

/* In the grandchild: becomes the daemon. Its words go to a log in the runtime directory. */
static void become_daemon(const char *program, const char *directory)
{
        _cleanup_free_ char *log = path_join(directory, START_LOG);
        sigset_t none;
        int null, fd;

        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
        fd = log ? open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600)
                 : -1;
        if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
                dup2(fd >= 0 ? fd : null, STDERR_FILENO) < 0 || chdir("/") < 0)
                _exit(CLI_FAILED);
        close_range(STDERR_FILENO + 1, ~0u, 0);
        setenv(CLEAVE_ENV_RUNTIME, directory, 1);
        /* These would make the daemon of a nested run a tenant itself. */
        unsetenv("LD_PRELOAD");
        unsetenv(CLEAVE_ENV_TENANT);
        execl(program, "cleaved", "--user", (char *)NULL);
        dprintf(STDERR_FILENO, "cannot execute %s: %s\n", program, strerror(errno));
        _exit(CLI_FAILED);
}

/* Forks the daemon. Between us and it stands a process that lives as long as the daemon does, or
 * until we kill it: so we learn of an early death, and have no child left afterwards. */
static pid_t fork_daemon(const char *program, const char *directory)
{
        pid_t watcher = fork(), daemon;

        if (watcher != 0)
                return watcher < 0 ? -errno : watcher;
        setsid();
        daemon = fork();
        if (daemon == 0)
                become_daemon(program, directory);
        if (daemon > 0)
                waitpid(daemon, NULL, 0);
        _exit(0);
}

/* The last line that the daemon wrote to its log, in new memory, or NULL. */
static char *last_words(const char *directory)
{
        _cleanup_free_ char *path = path_join(directory, START_LOG), *text = NULL;
        char *line = NULL, *state = NULL;

        if (!path || read_file(path, START_LOG_MAX, &text, NULL) < 0)
                return NULL;
        for (char *p = strtok_r(text, "\n", &state); p; p = strtok_r(NULL, "\n", &state))
                line = p;
        if (!line)
                return NULL;
        /* Priority and name of the program stand before the text of a log line. */
        if (line[0] == '<' && strchr(line, '>'))
                line = strchr(line, '>') + 1;
        if (strncmp(line, "cleaved: ", 9) == 0)
                line += 9;
        return strdup(line);
}

static int start_daemon(
        const char *directory, unsigned flags, struct client **ret, struct cleave_error *error)
{
        _cleanup_free_ char *program = NULL, *words = NULL;
        uint64_t begun = clock_usec(CLOCK_MONOTONIC), spent = 0;
        bool told = false, ended = false;
        pid_t watcher;
        int r;

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
        watcher = fork_daemon(program, directory);
        if (watcher < 0)
                return error_set_errno(error, watcher, "cannot start the daemon");
        for (;;) {
                r = client_connect(directory, ret, error);
                /* One that began to listen at the same moment may have made ours give up. */
                if (r == 0 || ended)
                        break;
                ended = waitpid(watcher, NULL, WNOHANG) == watcher;
                spent = clock_usec(CLOCK_MONOTONIC) - begun;
                if (spent > START_TIMEOUT_USEC)
                        break;
                if (spent > START_PATIENCE_USEC && !told && !(flags & DAEMON_QUIET)) {
                        fprintf(stderr, "cleave: waiting for the daemon to start\n");
                        told = true;
                }
                nanosleep(&(struct timespec){.tv_nsec = START_POLL_USEC * 1000}, NULL);
        }
        if (!ended) {
                kill(watcher, SIGKILL);
                waitpid(watcher, NULL, 0);
        }
        if (r == 0)
                return 0;
        words = last_words(directory);
        if (ended)
                error_set(error, CLEAVE_REASON_UNREACHABLE, "the daemon ended at once: %s",
                        words ?: "it left no word");
        else
                error_set(error, CLEAVE_REASON_UNREACHABLE,
                        "the daemon did not listen within %llu s: %s",
                        (unsigned long long)(START_TIMEOUT_USEC / USEC_PER_SEC),
                        words ?: "it left no word");
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

int daemon_connect(
        unsigned flags, struct client **ret, char **ret_directory, struct cleave_error *error)
{
        _cleanup_free_ char *directory = NULL;
        bool system = false;
        int r;

        r = daemon_directory(flags, &directory, &system, error);
        if (r < 0)
                return r;
        if (flags & DAEMON_SIM && !has_models())
                setenv(CLEAVE_ENV_SIM, DAEMON_SIM_MODEL, 1);
        r = daemon_connect_at(
                directory, system ? flags & ~(unsigned)DAEMON_START : flags, ret, error);
        if (r == 0 && ret_directory)
                *ret_directory = TAKE_PTR(directory);
        return r;
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
