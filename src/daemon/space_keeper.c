/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/space_keeper.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/process.h"
#include "cuda_api.h"
#include "policy/space.h"

/* How often the control daemon is looked at. The server's own end is seen at once. */
#define LOOK_MSEC 200
/* How long a keeper whose daemon has died goes on without clients. */
#define ALONE_USEC (30 * USEC_PER_SEC)
/* A server that does not start is tried again after that, doubled up to RETRY_MAX. */
#define RETRY_MIN (100 * USEC_PER_MSEC)
#define RETRY_MAX (5 * USEC_PER_SEC)
/* How long the keeper before us may take to let go. */
#define TAKE_OVER_MSEC 15000
/* What the driver may take to say how it divides a device. */
#define SURVEY_MSEC 30000

static volatile sig_atomic_t told_to_end;

static void on_term(int signal)
{
        (void)signal;
        told_to_end = 1;
}

static void __attribute__((format(printf, 2, 3))) tell(int *fd, const char *format, ...)
{
        char line[512];
        va_list ap;
        int n;

        if (*fd < 0)
                return;
        va_start(ap, format);
        n = vsnprintf(line, sizeof(line) - 1, format, ap);
        va_end(ap);
        if (n < 0)
                return;
        n = n < (int)sizeof(line) - 1 ? n : (int)sizeof(line) - 2;
        line[n++] = '\n';
        if (write_all(*fd, line, (size_t)n) < 0)
                *fd = close_safe(*fd);
}

static void nap(unsigned msec)
{
        const struct timespec step = {
                .tv_sec = msec / 1000, .tv_nsec = (long)(msec % 1000) * 1000000};

        nanosleep(&step, NULL);
}

/* ---- how the driver divides the device ---- */

struct survey {
        int result; /* CUresult */
        unsigned sms, units[2], rest[2];
};

/* In a process of its own, which the driver's library may spoil. */
static void survey_child(const struct space_keeper *keeper, int out)
{
        static const unsigned steps[] = {SPACE_STEP, SPACE_STEP_FINE};
        struct survey survey = {.result = CUDA_ERROR_NOT_FOUND};
        CUdevResource all, rest, *groups = calloc(SPACE_UNITS_MAX, sizeof(*groups));
        void *library;

        setenv("CUDA_VISIBLE_DEVICES", keeper->device, 1);
        unsetenv("CUDA_MPS_PIPE_DIRECTORY");
        library = dlopen(keeper->library ?: "libcuda.so.1", RTLD_NOW);
#define CU(name) ((__typeof__(&name))dlsym(library, #name))
        if (groups && library && CU(cuInit) && CU(cuDeviceGetDevResource) &&
                CU(cuDevSmResourceSplitByCount))
                survey.result = (int)CU(cuInit)(0);
        if (survey.result == CUDA_SUCCESS)
                survey.result = (int)CU(cuDeviceGetDevResource)(0, &all, CU_DEV_RESOURCE_TYPE_SM);
        for (unsigned i = 0; i < 2 && survey.result == CUDA_SUCCESS; i++) {
                unsigned n = SPACE_UNITS_MAX - 1;

                memset(&rest, 0, sizeof(rest));
                survey.result = (int)CU(cuDevSmResourceSplitByCount)(groups, &n, &all, &rest,
                        steps[i] < 8 ? CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING : 0,
                        steps[i]);
                survey.sms = all.sm.smCount;
                survey.rest[i] = rest.type == CU_DEV_RESOURCE_TYPE_SM ? rest.sm.smCount : 0;
                survey.units[i] = n + (survey.rest[i] > 0);
        }
#undef CU
        (void)!write(out, &survey, sizeof(survey));
        _exit(0);
}

static int look_at_device(const struct space_keeper *keeper, struct survey *ret)
{
        _cleanup_close_ int in = -EBADF, out = -EBADF;
        struct pollfd wait;
        int ends[2], r;
        pid_t pid;

        if (pipe2(ends, O_CLOEXEC) < 0)
                return -errno;
        in = ends[0];
        out = ends[1];
        pid = fork();
        if (pid < 0)
                return -errno;
        if (pid == 0)
                survey_child(keeper, out);
        out = close_safe(out);
        wait = (struct pollfd){.fd = in, .events = POLLIN};
        r = poll(&wait, 1, SURVEY_MSEC) == 1 && read(in, ret, sizeof(*ret)) == sizeof(*ret) ? 0
                                                                                            : -EIO;
        kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
        return r;
}

/* ---- one keeper a device ---- */

static int take_lock(const struct mps *mps)
{
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *path = NULL;
        char text[24] = "";
        pid_t pid;
        int r;

        r = make_directory(mps->root, mps->shared ? 0755 : 0700);
        if (r < 0)
                return r;
        if (asprintf(&path, "%s/.%s.lock", mps->root, mps->name) < 0)
                return -ENOMEM;
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        for (unsigned waited = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; waited += 50) {
                if (waited >= TAKE_OVER_MSEC)
                        return -EBUSY;
                /* it leaves its server standing for us */
                if (waited == 0 && pread(fd, text, sizeof(text) - 1, 0) > 0 &&
                        (pid = (pid_t)strtol(text, NULL, 10)) > 0)
                        kill(pid, SIGTERM);
                nap(50);
        }
        snprintf(text, sizeof(text), "%d\n", getpid());
        if (ftruncate(fd, 0) < 0 || pwrite(fd, text, strlen(text), 0) < 0)
                return -errno;
        return TAKE_FD(fd);
}

/* ---- the server ---- */

/* Starts what is missing: 0 and the server's process. */
static int bring_up(const struct space_keeper *keeper, pid_t *ret, struct cleave_error *error)
{
        enum mps_state state = mps_state(&keeper->mps);
        int r;

        if (state == MPS_UNRESPONSIVE || state == MPS_STALE)
                (void)mps_stop(&keeper->mps, NULL);
        if (state != MPS_RUNNING) {
                r = mps_start(&keeper->mps, keeper->device, 0, 0, error);
                if (r < 0)
                        return r;
        }
        r = mps_serve(&keeper->mps, ret);
        return r < 0 ? error_set(error, CLEAVE_REASON_NO_DRIVER, "MPS starts no server: %s",
                               strerror(-r))
                     : 0;
}

static bool has_clients(const struct mps *mps)
{
        json_t *status = NULL, *server;
        bool has = false;
        size_t i;

        if (mps_status(mps, &status, NULL) < 0)
                return false;
        json_array_foreach(json_object_get(status, "servers"), i, server) has =
                has || json_array_size(json_object_get(server, "clients")) > 0;
        json_decref(status);
        return has;
}

struct watch {
        int fd;              /* to the daemon; -EBADF: it has died */
        int control, server; /* processes; -EBADF: none */
        uint64_t alone_since;
};

static void watch_processes(struct watch *watch, const struct mps *mps, pid_t server)
{
        pid_t control = mps_pid(mps);

        close_safe(watch->control);
        close_safe(watch->server);
        watch->control = control ? process_open(control) : -EBADF;
        watch->server = process_open(server);
}

/* Also where its files are gone, by which MPS would be found. */
static void bring_down(struct watch *watch, const struct mps *mps)
{
        (void)mps_stop(mps, NULL);
        if (watch->control >= 0)
                (void)process_signal(watch->control, SIGKILL);
        if (watch->server >= 0)
                (void)process_signal(watch->server, SIGKILL);
}

/* Until something happens, or LOOK_MSEC. True: stop. */
static bool wait_and_hear(struct watch *watch, bool *ret_server_ended)
{
        struct pollfd fds[2] = {
                {.fd = watch->server, .events = POLLIN}, {.fd = watch->fd, .events = POLLIN}};
        char word[16] = "";
        ssize_t n;

        *ret_server_ended = false;
        if (poll(fds, 2, LOOK_MSEC) <= 0)
                return false;
        *ret_server_ended = watch->server >= 0 && fds[0].revents;
        if (watch->fd < 0 || !fds[1].revents)
                return false;
        n = read(watch->fd, word, sizeof(word) - 1);
        if (n > 0)
                return strncmp(word, "stop", 4) == 0;
        watch->fd = close_safe(watch->fd);
        return false;
}

static bool is_left_alone(struct watch *watch, const struct mps *mps)
{
        uint64_t now = clock_usec(CLOCK_MONOTONIC);

        /* with its directory, its tenants' last trace has gone */
        if (watch->fd < 0 && access(mps->root, F_OK) < 0)
                return true;
        if (watch->fd >= 0 || (now - watch->alone_since > ALONE_USEC / 4 && has_clients(mps))) {
                watch->alone_since = now;
                return false;
        }
        return now - watch->alone_since > ALONE_USEC;
}

static void keep(const struct space_keeper *keeper, struct watch *watch)
{
        uint64_t next = 0, pause = RETRY_MIN;
        bool down = false, ended;

        watch->alone_since = clock_usec(CLOCK_MONOTONIC);
        while (!told_to_end) {
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                pid_t pid;

                if (wait_and_hear(watch, &ended) || is_left_alone(watch, &keeper->mps)) {
                        bring_down(watch, &keeper->mps);
                        return;
                }
                if (!down && !ended && watch->server >= 0 && !mps_pid(&keeper->mps)) {
                        /* a server that nobody controls would take turns with the next one */
                        (void)process_signal(watch->server, SIGKILL);
                        watch->server = close_safe(watch->server);
                }
                if (ended)
                        watch->server = close_safe(watch->server);
                if (!down && (ended || !mps_pid(&keeper->mps))) {
                        tell(&watch->fd, "down %s",
                                ended ? "the MPS server has ended"
                                      : "MPS's control daemon has ended");
                        down = true;
                        next = 0;
                }
                if (!down || clock_usec(CLOCK_MONOTONIC) < next)
                        continue;
                if (bring_up(keeper, &pid, &error) == 0) {
                        watch_processes(watch, &keeper->mps, pid);
                        tell(&watch->fd, "up %d", pid);
                        down = false;
                        pause = RETRY_MIN;
                } else {
                        next = clock_usec(CLOCK_MONOTONIC) + pause;
                        pause = pause * 2 < RETRY_MAX ? pause * 2 : RETRY_MAX;
                }
        }
}

int space_keeper_run(const struct space_keeper *keeper)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_close_ int lock = -EBADF;
        struct watch watch = {.fd = keeper->fd, .control = -EBADF, .server = -EBADF};
        struct survey survey;
        struct sigaction action = {.sa_handler = on_term};
        pid_t pid;
        int r;

        prctl(PR_SET_NAME, "cleave-space");
        setsid();
        signal(SIGCHLD, SIG_DFL);
        signal(SIGPIPE, SIG_IGN);
        signal(SIGINT, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        sigaction(SIGTERM, &action, NULL);
        lock = take_lock(&keeper->mps);
        if (lock < 0) {
                tell(&watch.fd, "failed the device's MPS cannot be taken over: %s",
                        strerror(-lock));
                return lock;
        }
        r = look_at_device(keeper, &survey);
        if (r < 0 || survey.result != CUDA_SUCCESS) {
                tell(&watch.fd,
                        "failed the driver does not say how it divides the device's SMs (%d): "
                        "green contexts came with CUDA 12.4",
                        r < 0 ? r : survey.result);
                return -ENODEV;
        }
        r = bring_up(keeper, &pid, &error);
        if (r < 0) {
                tell(&watch.fd, "failed %s", error_message(&error));
                (void)mps_stop(&keeper->mps, NULL);
                return r;
        }
        watch_processes(&watch, &keeper->mps, pid);
        tell(&watch.fd, "ready %u %u %u %u %u %d", survey.sms, survey.units[0], survey.rest[0],
                survey.units[1], survey.rest[1], pid);
        keep(keeper, &watch);
        close_safe(watch.fd);
        close_safe(watch.control);
        close_safe(watch.server);
        return 0;
}
