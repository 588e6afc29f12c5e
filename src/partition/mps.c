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

static char *place(const struct mps *mps, const char *name)
{
        char *path;

        return asprintf(&path, "%s/%s%s%s", mps->root, mps->name, *name ? "/" : "", name) < 0
                       ? NULL
                       : path;
}

char *mps_pipe_directory(const struct mps *mps)
{
        return place(mps, "pipe");
}

/* In the child: the control program with our pipes for it. Nothing of another daemon's place may
 * come through the environment. */
static void exec_control(const struct mps *mps, const char *device, int in, int out)
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
        if (device)
                setenv("CUDA_VISIBLE_DEVICES", device, 1);
        if (dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
                dup2(out, STDERR_FILENO) < 0)
                _exit(127);
        if (device)
                execlp(program, CONTROL, "-d", mps->shared ? "-multiuser-server" : NULL, NULL);
        else
                execlp(program, CONTROL, NULL);
        _exit(127);
}

static int collect(int fd, pid_t pid, unsigned msec, char ret[static ANSWER_MAX])
{
        uint64_t until = clock_usec(CLOCK_MONOTONIC) + msec * USEC_PER_MSEC;
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        const struct timespec step = {.tv_nsec = WAIT_STEP * 1000000};
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
                while (poll(&wait, 1, 0) > 0 && n < ANSWER_MAX - 1) {
                        got = read(fd, ret + n, ANSWER_MAX - 1 - n);
                        if (got <= 0)
                                break;
                        n += (size_t)got;
                        ret[n] = '\0';
                }
                if (ended == pid)
                        return WIFEXITED(status) ? WEXITSTATUS(status) : -EIO;
                if (now >= until) {
                        kill(pid, SIGKILL);
                        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                                ;
                        return -ETIMEDOUT;
                }
                nanosleep(&step, NULL);
        }
}

/* Runs the control program: with a device, to start the daemon; else with that command. Its exit
 * status, -ETIMEDOUT or another negative errno. */
static int control(
        const struct mps *mps, const char *device, const char *command, char ret[static ANSWER_MAX])
{
        _cleanup_close_ int in_read = -EBADF, in_write = -EBADF, out_read = -EBADF,
                            out_write = -EBADF;
        int in[2], out[2];
        pid_t pid;

        ret[0] = '\0';
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
                exec_control(mps, device, in_read, out_write);
        in_read = close_safe(in_read);
        in_write = close_safe(in_write);
        out_write = close_safe(out_write);
        return collect(out_read, pid, mps->msec, ret);
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
        if (parse_pid(text, &pid) < 0 || kill(pid, 0) < 0)
                return 0;
        /* The number may be another program's by now. */
        if (process_command(pid, command, sizeof(command)) < 0 || !strstr(command, "mps"))
                return 0;
        return pid;
}

/* What it was started with, NULL where that cannot be read; a new reference. */
static json_t *load_settings(const struct mps *mps)
{
        _cleanup_free_ char *path = place(mps, SETTINGS);

        return path ? json_load_file(path, 0, NULL) : NULL;
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

/* Neither gone nor a zombie. */
static bool is_alive(pid_t pid)
{
        _cleanup_close_ int fd = process_open(pid);
        struct pollfd wait = {.fd = fd, .events = POLLIN};

        return fd >= 0 && poll(&wait, 1, 0) == 0;
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

enum mps_state mps_state(const struct mps *mps)
{
        _cleanup_free_ char *directory = place(mps, ""), *answer = malloc(ANSWER_MAX);

        if (!directory || !answer || access(directory, F_OK) < 0)
                return MPS_ABSENT;
        if (!daemon_pid(mps))
                return MPS_STALE;
        if (control(mps, NULL, "get_server_list", answer) != 0)
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
        static const char *const parts[] = {"pipe", "log", ""};

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
        if (strlen(pipe) + strlen("/" SOCKET_NAME "_privileged") >=
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
        json_t *json =
                json_pack("{s:s,s:i,s:I,s:b,s:s*}", "device", device, "threads", (int)threads,
                        "memory", (json_int_t)memory, "ready", ready, "program", mps->program);

        text = json ? json_dumps(json, 0) : NULL;
        json_decref(json);
        return path && text ? write_file_atomic(path, text, strlen(text), 0600) : -ENOMEM;
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
                if (r != 0 || (unsigned)(strtod(answer, NULL) + 0.5) != threads)
                        return error_set(error, CLEAVE_REASON_INTERNAL,
                                "MPS does not take %u percent of the threads: it says '%.*s'",
                                threads, (int)strcspn(answer, "\n"), answer);
        }
        if (memory) {
                snprintf(command, sizeof(command), "set_default_device_pinned_mem_limit %s %lluM",
                        device, (unsigned long long)memory >> 20);
                r = control(mps, NULL, command, answer);
                if (r != 0 || strcasestr(answer, "error") || strcasestr(answer, "invalid"))
                        return error_set(error, CLEAVE_REASON_INTERNAL,
                                "MPS does not take a memory limit: it says '%.*s'",
                                (int)strcspn(answer, "\n"), answer);
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
                return error_set(error, CLEAVE_REASON_NO_DRIVER, "MPS did not start: %.*s",
                        (int)strcspn(answer, "\n"), *answer ? answer : "it says nothing");
        }
        r = set_limits(mps, device, threads, memory, error);
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
                control(mps, NULL, "quit", answer);
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

/* The numbers that begin the lines of an answer. */
static json_t *pids_of(const char *answer)
{
        json_t *list = json_array();

        while (*answer) {
                if (isdigit((unsigned char)*answer))
                        json_array_append_new(list, json_integer(strtoll(answer, NULL, 10)));
                answer += strcspn(answer, "\n");
                answer += *answer == '\n';
        }
        return list;
}

int mps_status(const struct mps *mps, json_t **ret, struct cleave_error *error)
{
        _cleanup_free_ char *answer = malloc(ANSWER_MAX), *pipe = mps_pipe_directory(mps);
        enum mps_state state = mps_state(mps);
        json_t *status, *settings, *servers, *pid;
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
        if (settings)
                json_object_update(status, settings);
        json_decref(settings);
        if ((state != MPS_RUNNING && state != MPS_CUT_SHORT) ||
                control(mps, NULL, "get_server_list", answer) != 0) {
                json_object_set_new(status, "servers", json_null());
                *ret = status;
                return 0;
        }
        servers = json_array();
        settings = pids_of(answer);
        json_array_foreach(settings, i, pid)
        {
                char command[64];

                snprintf(command, sizeof(command), "get_client_list %lld",
                        (long long)json_integer_value(pid));
                if (control(mps, NULL, command, answer) != 0)
                        answer[0] = '\0';
                json_array_append_new(
                        servers, json_pack("{s:O,s:o}", "pid", pid, "clients", pids_of(answer)));
        }
        json_decref(settings);
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
        json_t *settings = load_settings(mps);
        const char *device = json_string_value(json_object_get(settings, "device"));
        char node[32];
        int minor, r = 0;

        if (!settings)
                r = error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no MPS server %s",
                        mps->name);
        if (r == 0 && (!pipe || asprintf(&variable, "CUDA_MPS_PIPE_DIRECTORY=%s", pipe) < 0)) {
                variable = NULL;
                r = error_set_errno(error, ENOMEM, "cannot look at MPS");
        }
        minor = r == 0 ? minor_of(host, device ?: "") : 0;
        if (minor < 0)
                r = error_set(error, CLEAVE_REASON_NO_DRIVER,
                        "NVIDIA's driver lists no GPU %s in %s/driver/nvidia/gpus", device,
                        host->proc);
        json_decref(settings);
        if (r < 0)
                return r;
        snprintf(node, sizeof(node), "/dev/nvidia%d", minor);
        /* Clients and the server share memory by names in /dev/shm. */
        *ret = json_pack("[{s:s,s:[s,s,s],s:[s],s:[s,s],s:b}]", "name", mps->name, "nodes", node,
                "/dev/nvidiactl", "/dev/nvidia-uvm", "env", variable, "mounts", pipe, "/dev/shm",
                "libraries", true);
        return *ret ? 0 : error_set_errno(error, ENOMEM, "cannot look at MPS");
}
