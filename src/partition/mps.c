/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/parse.h"
#include "base/process.h"
#include "partition/mps.h"

#define CONTROL     "nvidia-cuda-mps-control"
#define PID_FILE    CONTROL ".pid"
#define SETTINGS    "settings.json"
#define ANSWER_MAX  65536
#define WAIT_STEP   20 /* msec */
#define SOCKET_NAME "control"
/* The only server of a daemon of version 3, and the namespace of its clients. */
#define SERVER    "cleave"
#define NAMESPACE "default"
#define WORDS_MAX 8

#define VERSION_HINT "Version 3 came with driver 615; --protocol 2 is for all."

static const char *const state_words[] = {
        [MPS_ABSENT] = "absent",
        [MPS_RUNNING] = "running",
        [MPS_STALE] = "stale",
        [MPS_UNRESPONSIVE] = "unresponsive",
        [MPS_CUT_SHORT] = "cut short",
};

const char *mps_state_word(enum mps_state state)
{
        return state_words[state];
}

const struct mps_error *mps_error(int code)
{
        static const struct mps_error errors[] = {
#define X(code_, name_, sentence_, hint_)                                                          \
        {.code = code_, .name = name_, .sentence = sentence_, .hint = hint_},
                MPS_ERRORS(X)
#undef X
        };

        for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
                if (errors[i].code == code)
                        return errors + i;
        return NULL;
}

static char *place(const struct mps *mps, const char *name)
{
        char *path;

        return asprintf(&path, "%s/%s%s%s", mps->root, mps->name, *name ? "/" : "", name) < 0
                       ? NULL
                       : path;
}

/* What it was started with, NULL where that cannot be read; a new reference. */
static json_t *load_settings(const struct mps *mps)
{
        _cleanup_free_ char *path = place(mps, SETTINGS);

        return path ? json_load_file(path, 0, NULL) : NULL;
}

static unsigned protocol_of(const struct mps *mps)
{
        json_t *settings = load_settings(mps);
        json_int_t protocol = json_integer_value(json_object_get(settings, "protocol"));

        json_decref(settings);
        return protocol == 3 ? 3 : 2;
}

/* Version 3 has a directory for each server below the daemon's. */
char *mps_pipe_directory(const struct mps *mps)
{
        return place(mps, protocol_of(mps) == 3 ? "pipe/" SERVER : "pipe");
}

/* In the child: the control program with our pipes for it. Nothing of another daemon's place may
 * come through the environment. */
static void exec_control(const struct mps *mps, const char *device, char *words[],
        unsigned protocol, int in, int out)
{
        _cleanup_free_ char *pipe = place(mps, "pipe"), *log = place(mps, "log");
        _cleanup_free_ char *settings = place(mps, SETTINGS);
        json_t *saved = settings && !mps->program ? json_load_file(settings, 0, NULL) : NULL;
        const char *program = mps->program
                                      ?: json_string_value(json_object_get(saved, "program"))
                                      ?: CONTROL;

        if (!pipe || !log)
                _exit(127);
        setenv("CUDA_MPS_PIPE_DIRECTORY", pipe, 1);
        setenv("CUDA_MPS_LOG_DIRECTORY", log, 1);
        /* Before 615 it means nothing; from then on it goes before arguments. */
        setenv("CUDA_MPS_PROTOCOL_VERSION", protocol == 3 ? "3" : "2", 1);
        if (device)
                setenv("CUDA_VISIBLE_DEVICES", device, 1);
        if (dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
                dup2(out, STDERR_FILENO) < 0)
                _exit(127);
        if (device && protocol == 3)
                execlp(program, CONTROL, "-d", "-p", "3", mps->shared ? "-m" : NULL, NULL);
        else if (device)
                execlp(program, CONTROL, "-d", mps->shared ? "-multiuser-server" : NULL, NULL);
        else
                execvp(program, words);
        _exit(127);
}

static int collect(int fd, pid_t pid, unsigned msec, char ret[static ANSWER_MAX])
{
        uint64_t until = clock_usec(CLOCK_MONOTONIC) + msec * USEC_PER_MSEC;
        _cleanup_close_ int process = process_open(pid);
        struct pollfd wait[] = {{.fd = fd, .events = POLLIN}, {.fd = process, .events = POLLIN}};
        size_t n = 0;
        int status;

        ret[0] = '\0';
        for (;;) {
                uint64_t now = clock_usec(CLOCK_MONOTONIC);
                pid_t ended;
                ssize_t got;

                /* The daemon that -d leaves behind may keep our pipe open: what counts is that the
                 * program itself has ended. */
                ended = waitpid(pid, &status, WNOHANG);
                while (n < ANSWER_MAX - 1 && poll(wait, 1, 0) > 0) {
                        got = read(fd, ret + n, ANSWER_MAX - 1 - n);
                        if (got <= 0) {
                                wait[0].fd = -1; /* nobody has the other end any more */
                                break;
                        }
                        n += (size_t)got;
                        ret[n] = '\0';
                }
                if (n == ANSWER_MAX - 1)
                        wait[0].fd = -1;
                if (ended == pid)
                        return WIFEXITED(status) ? WEXITSTATUS(status) : -EIO;
                if (now >= until) {
                        kill(pid, SIGKILL);
                        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                                ;
                        return -ETIMEDOUT;
                }
                /* without a descriptor of the process its end is looked for in steps */
                poll(wait, ARRAY_SIZE(wait),
                        process >= 0 ? (int)((until - now) / USEC_PER_MSEC) + 1 : WAIT_STEP);
        }
}

/* Runs the control program: with a device, to start the daemon; else with that command. Its exit
 * status, -ETIMEDOUT or another negative errno. */
static int control(
        const struct mps *mps, const char *device, const char *command, char ret[static ANSWER_MAX])
{
        _cleanup_close_ int in_read = -EBADF, in_write = -EBADF, out_read = -EBADF,
                            out_write = -EBADF;
        char *words[WORDS_MAX + 2] = {(char *)CONTROL};
        unsigned protocol = protocol_of(mps), n = 1;
        _cleanup_free_ char *copy = NULL;
        int in[2], out[2];
        pid_t pid;

        ret[0] = '\0';
        if (command && protocol == 3) {
                char *rest = copy = strdup(command);

                if (!copy)
                        return -ENOMEM;
                while (n <= WORDS_MAX && (words[n] = strsep(&rest, " ")))
                        n++;
                command = NULL;
        }
        if (pipe2(in, O_CLOEXEC) < 0)
                return -errno;
        in_read = in[0];
        in_write = in[1];
        if (pipe2(out, O_CLOEXEC) < 0)
                return -errno;
        out_read = out[0];
        out_write = out[1];
        /* Small enough for the pipe: written before anybody reads. */
        if (command && (write_all(in_write, command, strlen(command)) < 0 ||
                               write_all(in_write, "\n", 1) < 0))
                return -EIO;
        pid = fork();
        if (pid < 0)
                return -errno;
        if (pid == 0)
                exec_control(mps, device, words, protocol, in_read, out_write);
        in_read = close_safe(in_read);
        in_write = close_safe(in_write);
        out_write = close_safe(out_write);
        return collect(out_read, pid, mps->msec, ret);
}

/* Neither gone nor a zombie. */
static bool is_alive(pid_t pid)
{
        _cleanup_close_ int fd = process_open(pid);
        struct pollfd wait = {.fd = fd, .events = POLLIN};

        return fd >= 0 && poll(&wait, 1, 0) == 0;
}

/* 0: none, or it has ended. */
static pid_t daemon_pid(const struct mps *mps)
{
        _cleanup_free_ char *path = place(mps, "pipe/" PID_FILE), *text = NULL;
        char command[64] = "";
        pid_t pid;

        if (!path || read_file(path, 64, &text, NULL) < 0)
                return 0;
        text[strcspn(text, "\n")] = '\0';
        if (parse_pid(text, &pid) < 0 || !is_alive(pid))
                return 0;
        /* The number may be another program's by now. */
        if (process_command(pid, command, sizeof(command)) < 0 || !strstr(command, "mps"))
                return 0;
        return pid;
}

static bool is_ready(const struct mps *mps)
{
        json_t *settings = load_settings(mps);
        bool ready = json_is_true(json_object_get(settings, "ready"));

        json_decref(settings);
        return ready;
}

pid_t mps_pid(const struct mps *mps)
{
        return daemon_pid(mps);
}

int mps_serve(const struct mps *mps, pid_t *ret)
{
        const struct timespec step = {.tv_nsec = WAIT_STEP * 1000000};
        _cleanup_free_ char *answer = malloc(ANSWER_MAX);
        char command[64];
        bool asked = false;
        int r = 0;

        if (!answer)
                return -ENOMEM;
        snprintf(command, sizeof(command), "start_server -uid %u", (unsigned)geteuid());
        for (unsigned waited = 0; r >= 0 && waited < mps->msec; waited += WAIT_STEP) {
                pid_t pid;

                r = control(mps, NULL, "get_server_list", answer);
                answer[strcspn(answer, "\n")] = '\0';
                /* one that has been killed may still be listed for a moment */
                if (r == 0 && parse_pid(answer, &pid) == 0 && is_alive(pid)) {
                        *ret = pid;
                        return 0;
                }
                if (r == 0 && !asked) {
                        r = control(mps, NULL, command, answer);
                        asked = true;
                }
                nanosleep(&step, NULL);
        }
        return r < 0 ? r : -ENOENT;
}

/* Whether it answers. Version 3 does not know what version 2 is asked, nor the other way round. */
static bool answers(const struct mps *mps, char answer[static ANSWER_MAX])
{
        return control(mps, NULL, protocol_of(mps) == 3 ? "server list" : "get_server_list",
                       answer) == 0;
}

enum mps_state mps_state(const struct mps *mps)
{
        _cleanup_free_ char *directory = place(mps, ""), *answer = malloc(ANSWER_MAX);

        if (!directory || !answer || access(directory, F_OK) < 0)
                return MPS_ABSENT;
        if (!daemon_pid(mps))
                return MPS_STALE;
        if (!answers(mps, answer))
                return MPS_UNRESPONSIVE;
        return is_ready(mps) ? MPS_RUNNING : MPS_CUT_SHORT;
}

static void remove_files(const char *path)
{
        DIR *directory = opendir(path);
        struct dirent *entry;

        while (directory && (entry = readdir(directory)))
                if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                        unlinkat(dirfd(directory), entry->d_name, 0);
        if (directory)
                closedir(directory);
        rmdir(path);
}

static void clear_away(const struct mps *mps)
{
        static const char *const parts[] = {"pipe/" SERVER, "pipe", "log/" SERVER, "log", ""};

        for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
                _cleanup_free_ char *path = place(mps, parts[i]);

                if (path)
                        remove_files(path);
        }
}

static int make_place(const struct mps *mps, struct cleave_error *error)
{
        _cleanup_free_ char *whole = place(mps, ""), *pipe = place(mps, "pipe"),
                            *log = place(mps, "log");
        int r;

        if (!whole || !pipe || !log)
                return error_set_errno(error, ENOMEM, "cannot start MPS");
        if (strlen(pipe) + strlen("/" SERVER "/" SOCKET_NAME "_privileged") >=
                sizeof(((struct sockaddr_un *)0)->sun_path))
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "the path %s is too long for MPS's sockets", pipe);
        r = make_directory(mps->root, mps->shared ? 0755 : 0700);
        if (r == 0)
                r = make_directory(whole, mps->shared ? 0755 : 0700);
        if (r == 0)
                r = make_directory(pipe, mps->shared ? 0755 : 0700);
        if (r == 0)
                r = make_directory(log, 0700);
        return r < 0 ? error_set_errno(error, r, "cannot make %s", whole) : 0;
}

/* ready: all limits are set. */
static int save_settings(
        const struct mps *mps, const char *device, unsigned threads, uint64_t memory, bool ready)
{
        _cleanup_free_ char *path = place(mps, SETTINGS), *text = NULL;
        json_t *json = json_pack("{s:s,s:i,s:i,s:I,s:b,s:s*}", "device", device, "protocol",
                mps->protocol == 3 ? 3 : 2, "threads", (int)threads, "memory", (json_int_t)memory,
                "ready", ready, "program", mps->program);

        text = json ? json_dumps(json, 0) : NULL;
        json_decref(json);
        return path && text ? write_file_atomic(path, text, strlen(text), 0600) : -ENOMEM;
}

static int refused(const char *what, const char *answer, struct cleave_error *error)
{
        return error_set(error, CLEAVE_REASON_INTERNAL, "MPS does not take %s: it says '%.*s'",
                what, (int)strcspn(answer, "\n"), answer);
}

/* Version 3: our server, with its limits; what was set is read back from where clients get it. */
static int make_server(const struct mps *mps, const char *device, unsigned threads, uint64_t memory,
        struct cleave_error *error)
{
        _cleanup_free_ char *answer = malloc(ANSWER_MAX), *command = NULL, *pipe = NULL;
        char text[128];
        uint64_t bytes;
        int r;

        pipe = mps_pipe_directory(mps);
        if (!answer || !pipe ||
                asprintf(&command, "server create " SERVER " --allowed-devices=%s", device) < 0) {
                command = NULL;
                return error_set_errno(error, ENOMEM, "cannot start MPS");
        }
        r = control(mps, NULL, command, answer);
        if (r == 0)
                r = control(mps, NULL, "server get " SERVER " pipe-directory", answer);
        answer[strcspn(answer, "\n")] = '\0';
        if (r != 0 || strcmp(answer, pipe) != 0) {
                error_set(error, CLEAVE_REASON_NO_DRIVER,
                        "the MPS that is installed has no version 3, or not as its guide says: it "
                        "says '%s'",
                        answer);
                error_set_hint(error, VERSION_HINT);
                return -ENODEV;
        }
        if (threads) {
                snprintf(text, sizeof(text), "server set " SERVER " --active-thread-percentage=%u",
                        threads);
                r = control(mps, NULL, text, answer);
                if (r == 0)
                        r = control(mps, NULL,
                                "namespace get " NAMESPACE " " SERVER " active-thread-percentage",
                                answer);
                snprintf(text, sizeof(text), "%u percent of the threads", threads);
                if (r != 0 || (unsigned)(strtod(answer, NULL) + 0.5) != threads)
                        return refused(text, answer, error);
        }
        if (memory) {
                snprintf(text, sizeof(text), "server set " SERVER " --pinned-memory-limit=%lluM",
                        (unsigned long long)memory >> 20);
                r = control(mps, NULL, text, answer);
                if (r == 0)
                        r = control(mps, NULL,
                                "namespace get " NAMESPACE " " SERVER " pinned-memory-limit",
                                answer);
                answer[strcspn(answer, "\n")] = '\0';
                /* From 1 GiB on it may be told in whole ones. */
                if (r != 0 || parse_size(answer, &bytes, NULL) < 0 || bytes > memory ||
                        memory - bytes >= 1ull << 30)
                        return refused("a memory limit", answer, error);
        }
        return 0;
}

/* Sets the limits for clients to come, and reads the threads back; memory reads back in units that
 * differ by release, so there the daemon's silence has to do. */
static int set_limits(const struct mps *mps, const char *device, unsigned threads, uint64_t memory,
        struct cleave_error *error)
{
        _cleanup_free_ char *answer = malloc(ANSWER_MAX);
        char command[160];
        int r;

        if (!answer)
                return error_set_errno(error, ENOMEM, "cannot start MPS");
        if (threads) {
                snprintf(command, sizeof(command), "set_default_active_thread_percentage %u",
                        threads);
                r = control(mps, NULL, command, answer);
                if (r == 0)
                        r = control(mps, NULL, "get_default_active_thread_percentage", answer);
                if (r != 0 || (unsigned)(strtod(answer, NULL) + 0.5) != threads) {
                        snprintf(command, sizeof(command), "%u percent of the threads", threads);
                        return refused(command, answer, error);
                }
        }
        /* By UUID: ordinals are another key, and not those of the machine. */
        for (const char *next = device; memory && *next;) {
                int length = (int)strcspn(next, ",");

                snprintf(command, sizeof(command), "set_default_device_pinned_mem_limit %.*s %lluM",
                        length, next, (unsigned long long)memory >> 20);
                r = control(mps, NULL, command, answer);
                if (r != 0 || strcasestr(answer, "error") || strcasestr(answer, "invalid"))
                        return refused("a memory limit", answer, error);
                next += length;
                next += *next == ',';
        }
        return 0;
}

/* The daemon writes its number and begins to answer a little after it was started. */
static bool runs_soon(const struct mps *mps)
{
        const struct timespec step = {.tv_nsec = WAIT_STEP * 1000000};
        enum mps_state state = mps_state(mps);

        for (unsigned waited = 0; state == MPS_STALE && waited < mps->msec; waited += WAIT_STEP) {
                nanosleep(&step, NULL);
                state = mps_state(mps);
        }
        return state == MPS_RUNNING || state == MPS_CUT_SHORT;
}

int mps_start(const struct mps *mps, const char *device, unsigned threads, uint64_t memory,
        struct cleave_error *error)
{
        _cleanup_free_ char *answer = malloc(ANSWER_MAX);
        enum mps_state state = mps_state(mps);
        int r;

        if (!answer)
                return error_set_errno(error, ENOMEM, "cannot start MPS");
        if (state == MPS_RUNNING || state == MPS_UNRESPONSIVE) {
                error_set(error, CLEAVE_REASON_NAME_TAKEN, "an MPS server %s %s already", mps->name,
                        state == MPS_RUNNING ? "runs" : "hangs");
                error_set_hint(error, "`cleave mps stop %s` ends it.", mps->name);
                return -EEXIST;
        }
        if (state == MPS_STALE)
                clear_away(mps);
        r = state == MPS_CUT_SHORT ? mps_stop(mps, error) : 0;
        if (r < 0)
                return r;
        r = make_place(mps, error);
        if (r < 0)
                return r;
        r = save_settings(mps, device, threads, memory, false);
        if (r == 0)
                r = control(mps, device, NULL, answer);
        if (r != 0 || !runs_soon(mps)) {
                mps_stop(mps, NULL);
                if (r == 127)
                        return error_set(error, CLEAVE_REASON_NO_DRIVER,
                                CONTROL " is not installed; it is a part of NVIDIA's driver");
                error_set(error, CLEAVE_REASON_NO_DRIVER, "MPS did not start: %.*s",
                        (int)strcspn(answer, "\n"), *answer ? answer : "it says nothing");
                if (mps->protocol == 3)
                        error_set_hint(error, VERSION_HINT);
                return -ENODEV;
        }
        r = mps->protocol == 3 ? make_server(mps, device, threads, memory, error)
                               : set_limits(mps, device, threads, memory, error);
        if (r == 0) {
                r = save_settings(mps, device, threads, memory, true);
                if (r < 0)
                        error_set_errno(error, r, "cannot record what MPS was started with");
        }
        if (r < 0)
                mps_stop(mps, NULL);
        return r;
}

/* pid: 0 is gone already. A number that has become another process's counts as gone. */
static bool gone_within(pid_t pid, uint64_t start_time, unsigned msec)
{
        const struct timespec step = {.tv_nsec = WAIT_STEP * 1000000};

        for (unsigned waited = 0; waited < msec; waited += WAIT_STEP) {
                if (!pid || process_is(pid, start_time) < 0)
                        return true;
                nanosleep(&step, NULL);
        }
        return process_is(pid, start_time) < 0;
}

int mps_stop(const struct mps *mps, struct cleave_error *error)
{
        static const int signals[] = {SIGTERM, SIGKILL};
        _cleanup_free_ char *directory = place(mps, ""), *answer = malloc(ANSWER_MAX);
        uint64_t start_time = 0;
        pid_t pid;

        if (!directory || !answer)
                return error_set_errno(error, ENOMEM, "cannot stop MPS");
        if (access(directory, F_OK) < 0) {
                error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no MPS server %s",
                        mps->name);
                error_set_hint(error, "`cleave mps status` lists them.");
                return -ENOENT;
        }
        pid = daemon_pid(mps);
        if (pid && process_start_time(pid, &start_time) < 0)
                pid = 0;
        if (pid)
                control(mps, NULL, protocol_of(mps) == 3 ? "-q" : "quit", answer);
        for (size_t i = 0; !gone_within(pid, start_time, mps->msec) && i < ARRAY_SIZE(signals);
                i++) {
                _cleanup_close_ int fd = process_open(pid);

                /* Looked at again behind the descriptor, which names that process for good. */
                if (fd >= 0 && process_is(pid, start_time) == 0)
                        process_signal(fd, signals[i]);
        }
        if (!gone_within(pid, start_time, mps->msec))
                return error_set(error, CLEAVE_REASON_TIMEOUT,
                        "the MPS server %s does not end, not even by SIGKILL", mps->name);
        clear_away(mps);
        return 0;
}

/* The numbers in that field of the lines of an answer, which counts from 0; fields are separated by
 * commas. */
static json_t *pids_of(const char *answer, unsigned field)
{
        json_t *list = json_array();

        while (*answer) {
                for (unsigned i = 0; i < field && *answer && *answer != '\n'; i++) {
                        answer += strcspn(answer, ",\n");
                        answer += *answer == ',';
                }
                if (isdigit((unsigned char)*answer))
                        json_array_append_new(list, json_integer(strtoll(answer, NULL, 10)));
                answer += strcspn(answer, "\n");
                answer += *answer == '\n';
        }
        return list;
}

/* UUIDs, separated by commas. */
static json_t *devices_of(const char *text)
{
        json_t *list = json_array();

        while (text && *text) {
                size_t n = strcspn(text, ",");

                json_array_append_new(list, json_stringn(text, n));
                text += n;
                text += *text == ',';
        }
        return list;
}

/* Whether the server says that it takes no clients. Version 3 is not asked: what its list calls the
 * states its guide does not say. */
static bool is_not_ready(const struct mps *mps, json_int_t server)
{
        _cleanup_free_ char *answer = malloc(ANSWER_MAX);
        char command[64];

        snprintf(command, sizeof(command), "get_server_status %lld", (long long)server);
        return answer && control(mps, NULL, command, answer) == 0 &&
               (strncmp(answer, "INITIALIZING", strlen("INITIALIZING")) == 0 ||
                       strncmp(answer, "FAULT", strlen("FAULT")) == 0);
}

static json_t *error_json(int code)
{
        const struct mps_error *e = mps_error(code);

        return e ? json_pack("{s:i, s:s, s:s, s:s}", "code", e->code, "name", e->name, "sentence",
                           e->sentence, "hint", e->hint)
                 : json_null();
}

int mps_status(const struct mps *mps, json_t **ret, struct cleave_error *error)
{
        _cleanup_free_ char *answer = malloc(ANSWER_MAX), *pipe = mps_pipe_directory(mps);
        enum mps_state state = mps_state(mps);
        json_t *status, *settings, *servers, *clients, *pid;
        bool named = protocol_of(mps) == 3;
        int refused = 0;
        size_t i;

        if (!answer || !pipe)
                return error_set_errno(error, ENOMEM, "cannot look at MPS");
        if (state == MPS_ABSENT)
                return error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no MPS server %s",
                        mps->name);
        status = json_pack("{s:s,s:s,s:s,s:I}", "name", mps->name, "state", mps_state_word(state),
                "pipe_directory", pipe, "pid", (json_int_t)daemon_pid(mps));
        settings = load_settings(mps);
        json_object_del(settings, "ready");
        if (settings) {
                json_object_update(status, settings);
                json_object_set_new(status, "devices",
                        devices_of(json_string_value(json_object_get(settings, "device"))));
        }
        json_decref(settings);
        if ((state != MPS_RUNNING && state != MPS_CUT_SHORT) ||
                control(mps, NULL,
                        named ? "server list " SERVER " --format=csv,noheader" : "get_server_list",
                        answer) != 0) {
                json_object_set_new(status, "servers", json_null());
                json_object_set_new(status, "refuses", error_json(805));
                *ret = status;
                return 0;
        }
        servers = json_array();
        /* name, uid, pid, …: no pid while it waits for its first client */
        settings = pids_of(answer, named ? 2 : 0);
        json_array_foreach(settings, i, pid)
        {
                char command[64];

                if (named)
                        snprintf(command, sizeof(command),
                                "client list --server=" SERVER " --format=csv,noheader");
                else
                        snprintf(command, sizeof(command), "get_client_list %lld",
                                (long long)json_integer_value(pid));
                if (control(mps, NULL, command, answer) != 0)
                        answer[0] = '\0';
                clients = pids_of(answer, 0);
                if (json_array_size(clients) >= MPS_CLIENTS)
                        refused = 808;
                else if (!named && is_not_ready(mps, json_integer_value(pid)))
                        refused = 807;
                json_array_append_new(
                        servers, json_pack("{s:O,s:o}", "pid", pid, "clients", clients));
        }
        json_decref(settings);
        json_object_set_new(status, "refuses", error_json(refused));
        json_object_set_new(status, "servers", servers);
        *ret = status;
        return 0;
}

/* The number in /dev/nvidiaN of the GPU with that UUID; -ENODEV. */
static int minor_of(const struct host *host, const char *uuid)
{
        static const char label[] = "Device Minor:";
        _cleanup_names_ struct host_names gpus = {0};

        host_list_proc(host, &gpus, "driver/nvidia/gpus");
        for (size_t i = 0; i < gpus.n; i++) {
                _cleanup_free_ char *text = NULL;
                char path[HOST_PATH_MAX];
                const char *at;

                snprintf(path, sizeof(path), "driver/nvidia/gpus/%s/information", gpus.name[i]);
                if (host_read_proc(host, path, &text) < 0 || !strcasestr(text, uuid))
                        continue;
                at = strstr(text, label);
                if (at)
                        return atoi(at + strlen(label));
        }
        return -ENODEV;
}

int mps_attach(
        const struct mps *mps, const struct host *host, json_t **ret, struct cleave_error *error)
{
        _cleanup_free_ char *pipe = mps_pipe_directory(mps), *variable = NULL;
        json_t *settings = load_settings(mps), *devices, *device, *nodes = json_array();
        size_t i;
        int r = 0;

        devices = devices_of(json_string_value(json_object_get(settings, "device")));
        if (!settings)
                r = error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no MPS server %s",
                        mps->name);
        if (r == 0 && (!pipe || asprintf(&variable, "CUDA_MPS_PIPE_DIRECTORY=%s", pipe) < 0)) {
                variable = NULL;
                r = error_set_errno(error, ENOMEM, "cannot look at MPS");
        }
        json_array_foreach(devices, i, device)
        {
                const char *uuid = json_string_value(device);
                bool mig = uuid && strncasecmp(uuid, "MIG-", 4) == 0;
                int minor = mig ? -1 : minor_of(host, uuid);
                char node[32];

                if (r == 0 && mig) {
                        r = error_set(error, CLEAVE_REASON_BAD_REQUEST,
                                "%s serves a MIG device, whose files depend on its instance",
                                mps->name);
                        error_set_hint(error,
                                "Give the container the MIG device (cleave partition show ID --for "
                                "podman), and --env=CUDA_MPS_PIPE_DIRECTORY=%s --volume=%s:%s "
                                "--volume=/dev/shm:/dev/shm.",
                                pipe, pipe, pipe);
                }
                if (r == 0 && minor < 0)
                        r = error_set(error, CLEAVE_REASON_NO_DRIVER,
                                "NVIDIA's driver lists no GPU %s in %s/driver/nvidia/gpus",
                                json_string_value(device), host->proc);
                snprintf(node, sizeof(node), "/dev/nvidia%d", minor);
                json_array_append_new(nodes, json_string(node));
        }
        json_decref(devices);
        json_decref(settings);
        if (r < 0) {
                json_decref(nodes);
                return r;
        }
        json_array_append_new(nodes, json_string("/dev/nvidiactl"));
        json_array_append_new(nodes, json_string("/dev/nvidia-uvm"));
        /* Clients and the server share memory by names in /dev/shm. */
        *ret = json_pack("[{s:s,s:o,s:[s],s:[s,s],s:b}]", "name", mps->name, "nodes", nodes, "env",
                variable, "mounts", pipe, "/dev/shm", "libraries", true);
        return *ret ? 0 : error_set_errno(error, ENOMEM, "cannot look at MPS");
}
