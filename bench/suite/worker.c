/* SPDX-License-Identifier: Apache-2.0 */
/* The processes that measure: how each arm starts them, and how they are spoken with. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "bench.h"
#include "proto/environment.h"

#define ANSWER_MAX    (4u << 20)
#define START_SECONDS 60
#define END_MSEC      3000
#define AGAIN_USEC    (10 * USEC_PER_SEC) /* in which a broken MPS server comes to serve again */
#define POLL_MSEC     100
#define WORDS_MAX     32

/* Puts value before what the variable, a list of paths, holds already. */
static void prepend(const char *name, const char *value)
{
        const char *old = getenv(name);
        _cleanup_free_ char *both = NULL;

        if (!old || !*old)
                setenv(name, value, 1);
        else if (asprintf(&both, "%s:%s", value, old) >= 0)
                setenv(name, both, 1);
}

/* Replaces {…} in a peer's variable. */
static void put_variable(
        const struct bench *bench, const char *variable, const struct bench_terms *terms)
{
        char text[4096];
        size_t filled = 0;

        while (*variable && filled < sizeof(text) - 32) {
                static const char *const words[] = {
                        "{memory}", "{memory-mib}", "{compute}", "{tenant}"};
                unsigned compute = terms->compute_max ?: terms->compute ?: 100;
                unsigned long long values[] = {
                        terms->memory, terms->memory >> 20, compute, bench->started};
                size_t w = 0;

                while (w < ARRAY_SIZE(words) && strncmp(variable, words[w], strlen(words[w])) != 0)
                        w++;
                if (w == ARRAY_SIZE(words)) {
                        text[filled++] = *variable++;
                        continue;
                }
                filled += (size_t)snprintf(text + filled, sizeof(text) - filled, "%llu", values[w]);
                variable += strlen(words[w]);
        }
        text[filled] = 0;
        if (strchr(text, '='))
                putenv(strdup(text));
}

static void set_environment(
        const struct bench *bench, enum bench_arm arm, const struct bench_terms *terms)
{
        bool ours = arm == BENCH_TEMPORAL || arm == BENCH_SPATIAL;

        if (ours)
                setenv(CLEAVE_ENV_RUNTIME, bench->runtime[arm], 1);
        else if (bench->options.sim)
                prepend("LD_LIBRARY_PATH", bench->sim_path);
        if (arm != BENCH_PEER)
                return;
        if (bench->options.peer.preload)
                prepend("LD_PRELOAD", bench->options.peer.preload);
        if (bench->options.peer.path)
                prepend("LD_LIBRARY_PATH", bench->options.peer.path);
        for (size_t i = 0; i < bench->options.peer.n_environment; i++)
                put_variable(bench, bench->options.peer.environment[i], terms);
}

/* The words of the command line. numbers: room for what is written out. */
static void make_command(const struct bench *bench, enum bench_arm arm,
        const struct bench_terms *terms, const char *name, const char *needed, char numbers[3][24],
        const char *words[WORDS_MAX])
{
        const char *second = json_string_value(json_object_get(bench->about, "uuid_second"));
        size_t n = 0;

        if (arm == BENCH_TEMPORAL || arm == BENCH_SPATIAL) {
                snprintf(numbers[0], 24, "%lluM", (unsigned long long)(terms->memory >> 20));
                snprintf(numbers[1], 24, "%u", terms->compute);
                snprintf(numbers[2], 24, "%u", terms->compute_max);
                words[n++] = bench->cleave;
                words[n++] = "run";
                words[n++] = "--quiet";
                words[n++] = "--wait"; /* what another arm has just let go may not be seen yet */
                words[n++] = "--name";
                words[n++] = name;
                words[n++] = "--memory";
                words[n++] = numbers[0];
                words[n++] = "--device";
                words[n++] = json_string_value(json_object_get(bench->about, "uuid"));
                /* in space a tenant has one device */
                if (second && *second && !terms->compute && !terms->compute_max &&
                        arm == BENCH_TEMPORAL) {
                        words[n++] = "--device";
                        words[n++] = second;
                }
                if (arm == BENCH_SPATIAL) {
                        words[n++] = "--sharing";
                        words[n++] = "spatial";
                }
                if (terms->compute) {
                        words[n++] = "--compute";
                        words[n++] = numbers[1];
                }
                if (terms->compute_max) {
                        words[n++] = "--compute-max";
                        words[n++] = numbers[2];
                }
                if (terms->priority) {
                        words[n++] = "--priority";
                        words[n++] = terms->priority;
                }
                words[n++] = "--";
        }
        words[n++] = bench->worker;
        if (arm == BENCH_PEER) {
                words[n++] = "--needs";
                words[n++] = needed;
        }
        words[n] = NULL;
}

/* The last lines that a process said besides its answers, in new memory; NULL: none. */
static char *last_words(int fd)
{
        char text[1024], *end;
        off_t size = lseek(fd, 0, SEEK_END);
        off_t from = size > (off_t)sizeof(text) - 1 ? size - (off_t)sizeof(text) + 1 : 0;
        ssize_t n = pread(fd, text, sizeof(text) - 1, from);

        if (n <= 0)
                return NULL;
        text[n] = 0;
        end = text + n;
        while (end > text && (end[-1] == '\n' || end[-1] == ' '))
                *--end = 0;
        for (char *p = text; *p; p++)
                if (*p == '\n')
                        *p = ' ';
        return *text ? strdup(text) : NULL;
}

/* What has become of a process that no longer answers. */
static char *obituary(struct bench_worker *worker)
{
        _cleanup_free_ char *words = last_words(worker->errors);
        int status = 0;
        char *text = NULL;

        for (int waited = 0; waited < END_MSEC; waited += 10) {
                if (waitpid(worker->pid, &status, WNOHANG) == worker->pid) {
                        worker->pid = 0;
                        break;
                }
                usleep(10000);
        }
        if (worker->pid) {
                kill(worker->pid, SIGKILL);
                waitpid(worker->pid, &status, 0);
                worker->pid = 0;
        }
        if (asprintf(&text, "the process ended %s %d%s%s",
                    WIFSIGNALED(status) ? "by signal" : "with status",
                    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), words ? ": " : "",
                    words ?: "") < 0)
                return NULL;
        return text;
}

int bench_worker_send(struct bench_worker *worker, const char *line)
{
        _cleanup_free_ char *text = NULL;

        if (asprintf(&text, "%s\n", line) < 0)
                return -ENOMEM;
        return write_all(worker->to, text, strlen(text)) < 0 ? -EIO : 0;
}

/* Waits until a line has come. 1; 0: the process closed its end; -ETIMEDOUT, -EINTR. */
static int wait_line(struct bench *bench, struct bench_worker *worker, unsigned seconds)
{
        uint64_t until = clock_usec(CLOCK_MONOTONIC) + seconds * USEC_PER_SEC;

        for (;;) {
                struct pollfd fd = {.fd = worker->from, .events = POLLIN};

                if (bench->stop && *bench->stop)
                        return -EINTR;
                if (poll(&fd, 1, POLL_MSEC) > 0)
                        return 1;
                if (clock_usec(CLOCK_MONOTONIC) > until)
                        return -ETIMEDOUT;
        }
}

int bench_worker_receive(struct bench *bench, struct bench_worker *worker, unsigned seconds,
        json_t **ret, char **ret_problem)
{
        _cleanup_free_ char *line = NULL;
        size_t room = 0;
        json_t *answer = NULL, *sentence;
        int r = wait_line(bench, worker, seconds);

        if (r == -EINTR) {
                worker->broken = true;
                return r;
        }
        if (r == -ETIMEDOUT) {
                worker->broken = true;
                return asprintf(ret_problem, "there was no answer within %u s", seconds) < 0
                               ? -ENOMEM
                               : -EIO;
        }
        /* A line is written at once, so the rest of it is there or about to come. */
        if (getline(&line, &room, worker->in) <= 0) {
                worker->broken = true;
                *ret_problem = obituary(worker);
                return -EIO;
        }
        answer = json_loads(line, 0, NULL);
        if (!answer) {
                worker->broken = true;
                return asprintf(ret_problem, "what the process says is no answer: %.200s", line) < 0
                               ? -ENOMEM
                               : -EIO;
        }
        if ((sentence = json_object_get(answer, "gap")) ||
                (sentence = json_object_get(answer, "error"))) {
                bool is_gap = sentence == json_object_get(answer, "gap");

                *ret_problem = strdup(json_string_value(sentence) ?: "");
                worker->broken = worker->broken || !is_gap;
                json_decref(answer);
                return is_gap ? -ENOTSUP : -EIO;
        }
        *ret = answer;
        return 0;
}

static int spawn(struct bench *bench, enum bench_arm arm, const struct bench_terms *terms,
        struct bench_worker *worker)
{
        const struct bench_peer *peer = &bench->options.peer;
        _cleanup_free_ char *library = peer->path ? path_join(peer->path, "libcuda.so.1") : NULL;
        const char *needed = peer->preload ?: library, *words[WORDS_MAX];
        char numbers[3][24];
        int to[2], from[2];
        pid_t parent = getpid();

        worker->errors = memfd_create("errors", MFD_CLOEXEC);
        if (worker->errors < 0 || pipe2(to, O_CLOEXEC) < 0)
                return -errno;
        if (pipe2(from, O_CLOEXEC) < 0) {
                close(to[0]);
                close(to[1]);
                return -errno;
        }
        worker->pid = fork();
        if (worker->pid == 0) {
                sigset_t none;

                sigemptyset(&none);
                sigprocmask(SIG_SETMASK, &none, NULL);
                signal(SIGPIPE, SIG_DFL);
                /* what the terminal sends is for us to act on */
                setpgid(0, 0);
                prctl(PR_SET_PDEATHSIG, SIGTERM);
                if (getppid() != parent)
                        _exit(1);
                dup2(to[0], STDIN_FILENO);
                dup2(from[1], STDOUT_FILENO);
                dup2(worker->errors, STDERR_FILENO);
                set_environment(bench, arm, terms);
                make_command(bench, arm, terms, worker->name, needed, numbers, words);
                execv(words[0], (char *const *)words);
                dprintf(STDERR_FILENO, "%s: %s\n", words[0], strerror(errno));
                _exit(127);
        }
        close(to[0]);
        close(from[1]);
        worker->to = to[1];
        worker->from = from[0];
        worker->in = fdopen(worker->from, "r");
        return worker->pid < 0 || !worker->in ? -errno : 0;
}

int bench_worker_begin(struct bench *bench, enum bench_arm arm, const struct bench_terms *terms,
        struct bench_worker **ret, char **ret_problem)
{
        struct bench_worker *worker = calloc(1, sizeof(*worker));
        int r;

        if (!worker)
                return -ENOMEM;
        worker->to = worker->from = worker->errors = -EBADF;
        snprintf(worker->name, sizeof(worker->name), "bench-%u", ++bench->started);
        worker->begun_usec = clock_usec(CLOCK_MONOTONIC);
        r = spawn(bench, arm, terms, worker);
        if (r < 0) {
                *ret_problem = strdup(strerror(-r));
                bench_worker_end(worker, false);
                return -EIO;
        }
        *ret = worker;
        return 0;
}

static int await_once(struct bench *bench, struct bench_worker **worker, char **ret_problem)
{
        int r = bench_worker_receive(bench, *worker, START_SECONDS, &(*worker)->about, ret_problem);

        if (r < 0) {
                bench_worker_end(*worker, false);
                *worker = NULL;
                return r == -EINTR ? r : -EIO;
        }
        (*worker)->born_ms = (double)(clock_usec(CLOCK_MONOTONIC) - (*worker)->begun_usec) / 1e3;
        return 0;
}

static int start_once(struct bench *bench, enum bench_arm arm, const struct bench_terms *terms,
        struct bench_worker **ret, char **ret_problem)
{
        int r = bench_worker_begin(bench, arm, terms, ret, ret_problem);

        return r < 0 ? r : await_once(bench, ret, ret_problem);
}

int bench_worker_await(struct bench *bench, enum bench_arm arm, const struct bench_terms *terms,
        struct bench_worker **worker, char **ret_problem)
{
        uint64_t until = clock_usec(CLOCK_MONOTONIC) + AGAIN_USEC;
        int r = await_once(bench, worker, ret_problem);

        /* After a fault MPS takes no client until those that had a part in it have gone, and the
         * SMs of one that is just ending are not free yet. */
        while (r == -EIO && arm == BENCH_SPATIAL && clock_usec(CLOCK_MONOTONIC) < until) {
                usleep(AGAIN_USEC / 50);
                free(*ret_problem);
                *ret_problem = NULL;
                r = start_once(bench, arm, terms, worker, ret_problem);
        }
        return r;
}

int bench_worker_start(struct bench *bench, enum bench_arm arm, const struct bench_terms *terms,
        struct bench_worker **ret, char **ret_problem)
{
        int r = bench_worker_begin(bench, arm, terms, ret, ret_problem);

        return r < 0 ? r : bench_worker_await(bench, arm, terms, ret, ret_problem);
}

void bench_worker_dismiss(struct bench_worker *worker)
{
        worker->to = close_safe(worker->to);
}

void bench_worker_end(struct bench_worker *worker, bool gently)
{
        if (!worker)
                return;
        close_safe(worker->to);
        if (worker->pid > 0) {
                int waited = gently && !worker->broken ? 0 : END_MSEC;

                while (waited < END_MSEC && waitpid(worker->pid, NULL, WNOHANG) == 0) {
                        usleep(5000);
                        waited += 5;
                }
                if (waited >= END_MSEC) {
                        /* The whole group: under `cleave run` the program itself is in it, too. */
                        kill(-worker->pid, SIGKILL);
                        kill(worker->pid, SIGKILL);
                        waitpid(worker->pid, NULL, 0);
                }
        }
        if (worker->in)
                fclose(worker->in);
        else
                close_safe(worker->from);
        close_safe(worker->errors);
        json_decref(worker->about);
        free(worker);
}

int bench_program(struct bench *bench, enum bench_arm arm, char *const argv[], char **ret_problem)
{
        int errors = memfd_create("errors", MFD_CLOEXEC), status, null;
        pid_t pid;

        if (errors < 0)
                return -errno;
        pid = fork();
        if (pid == 0) {
                setpgid(0, 0);
                setenv(CLEAVE_ENV_RUNTIME, bench->runtime[arm], 1);
                null = open("/dev/null", O_RDWR | O_CLOEXEC);
                dup2(null, STDIN_FILENO);
                dup2(null, STDOUT_FILENO);
                dup2(errors, STDERR_FILENO);
                execv(argv[0], argv);
                _exit(127);
        }
        while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        *ret_problem = last_words(errors);
        close(errors);
        if (pid < 0)
                return -ECHILD;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
