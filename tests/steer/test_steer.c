/* SPDX-License-Identifier: Apache-2.0 */
/* The steering process with a driver of the test's own, killed at each of its calls. */
#include "unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "steer/steer.h"

static void sleep_ms(unsigned ms)
{
        const struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};

        nanosleep(&pause, NULL);
}

/* -- a driver ---------------------------------------------------------------------------------- */

#define CHANNELS 80u
#define CLIENT   0x1000u
#define OTHER    0x2000u /* client of another process */
#define GROUP    0x70u

/* Shared with the steering processes. */
struct driver {
        unsigned calls;
        unsigned die_at; /* the call, counted from 1, in which the process is killed; 0: none */
        bool die_after;  /* once it is done, else before */
        unsigned disabled[CHANNELS]; /* how often */
        bool absent[CHANNELS];
        uint64_t slice, most_slice;
        bool thread_block;
        unsigned batches;                 /* calls for more than one channel */
        int refusal;                      /* of disabling */
        bool refuses_on;                  /* and of enabling */
        _Atomic uint32_t runs, runs_then; /* who has the engine; from the next call that disables */
        unsigned switched[3];             /* calls of each kind of disabling */
        unsigned slow_ms, slow_slice_ms;  /* what disabling takes, and setting slices */
        _Atomic unsigned late_on_ms; /* before the next call that enables does so, it takes this */
        _Atomic bool watched;
};
static struct driver *driver;

static bool step(bool after)
{
        if (!after)
                driver->calls++;
        if (driver->die_at == driver->calls && driver->die_after == after)
                raise(SIGKILL);
        return true;
}

static int fake_open(const void *argument, void **ret)
{
        *ret = (void *)(uintptr_t)argument;
        return 0;
}

static void fake_close(void *handle)
{
        (void)handle;
}

static int fake_open_device(void *handle, unsigned index, const uint8_t uuid[16], uint32_t *status)
{
        (void)handle;
        (void)index;
        *status = 0;
        return uuid[0] == 0xaa ? 0 : -ENOENT;
}

/* RM's own lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int count_disabled(const struct steer_channel *channels, unsigned count,
        enum steer_switch how, uint32_t *status)
{
        driver->batches += count > 1;
        driver->switched[how]++;
        if (driver->refusal && (how != STEER_ON || driver->refuses_on)) {
                *status = 0x1b;
                return driver->refusal;
        }
        for (unsigned i = 0; i < count; i++) {
                /* as RM may: those before the bad one are done */
                if (channels[i].channel >= CHANNELS || driver->absent[channels[i].channel]) {
                        *status = 0x57;
                        return -ENOENT;
                }
                /* as RM counts: once too often, and the channel stays disabled */
                if (how != STEER_ON)
                        driver->disabled[channels[i].channel]++;
                else
                        driver->disabled[channels[i].channel] -=
                                driver->disabled[channels[i].channel] > 0;
        }
        return 0;
}

static int fake_disable(void *handle, unsigned device, const struct steer_channel *channels,
        unsigned count, enum steer_switch how, uint32_t *status)
{
        int r;

        (void)handle;
        if (device != 3 || count > STEER_MAX_CHANNELS)
                abort();
        *status = 0;
        if (how == STEER_ON)
                sleep_ms(atomic_exchange(&driver->late_on_ms, 0));
        pthread_mutex_lock(&lock);
        step(false);
        r = count_disabled(channels, count, how, status);
        if (r == 0 && how != STEER_ON && driver->runs_then)
                driver->runs = atomic_exchange(&driver->runs_then, 0);
        if (r == 0)
                step(true);
        pthread_mutex_unlock(&lock);
        if (how != STEER_ON)
                sleep_ms(driver->slow_ms);
        return r;
}

static int fake_watch(void *handle, unsigned device, bool *all, uint32_t *status)
{
        (void)handle;
        (void)device;
        *all = true;
        *status = 0;
        driver->watched = true;
        return 0;
}

/* It has the engine since it was asked first. */
static int fake_records(void *handle, unsigned device, struct steer_record *records, unsigned room,
        uint64_t *until, bool *lost)
{
        static uint32_t last;
        uint32_t runs = driver->runs;
        struct timespec t;
        int n = 0;

        (void)handle;
        (void)device;
        (void)room;
        clock_gettime(CLOCK_MONOTONIC, &t);
        *until = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
        *lost = false;
        if (runs != last && last)
                records[n++] = (struct steer_record){*until, last, false};
        if (runs != last && runs)
                records[n++] = (struct steer_record){*until, runs, true};
        last = runs;
        return n;
}

static int fake_samples(
        void *handle, unsigned device, uint64_t after, struct steer_sample *samples, unsigned room)
{
        (void)handle;
        (void)device;
        (void)after;
        (void)samples;
        (void)room;
        return 0;
}

/* Only a descriptor of /dev/zero is of the process that has the client. */
static bool knows(const struct steer_object *object)
{
        char byte = 1;

        return object->client == CLIENT && read(object->fd, &byte, 1) == 1 && byte == 0;
}

static int fake_set_slice(
        void *handle, const struct steer_object *group, uint64_t us, uint32_t *status)
{
        (void)handle;
        *status = 0;
        pthread_mutex_lock(&lock);
        step(false);
        if (knows(group)) {
                driver->slice = us;
                driver->most_slice = MAX_OF(driver->most_slice, us);
                step(true);
        } else
                *status = 0x23;
        pthread_mutex_unlock(&lock);
        sleep_ms(driver->slow_slice_ms);
        return *status ? -ENOENT : 0;
}

static int fake_get_slice(
        void *handle, const struct steer_object *group, uint64_t *ret, uint32_t *status)
{
        (void)handle;
        *status = 0;
        if (!knows(group)) {
                *status = 0x23;
                return -ENOENT;
        }
        *ret = driver->slice;
        return 0;
}

static int fake_set_mode(
        void *handle, const struct steer_object *group, bool thread_block, uint32_t *status)
{
        (void)handle;
        *status = 0;
        if (!knows(group))
                return -ENOENT;
        driver->thread_block = thread_block;
        return 0;
}

static int fake_object(void *handle, const struct steer_object *object, uint32_t *status)
{
        (void)handle;
        *status = 0;
        return knows(object) ? 0 : -ENOENT;
}

static const struct steer_backend fake = {
        .name = "fake",
        .open = fake_open,
        .close = fake_close,
        .open_device = fake_open_device,
        .disable = fake_disable,
        .set_slice = fake_set_slice,
        .get_slice = fake_get_slice,
        .set_mode = fake_set_mode,
        .preempt = fake_object,
        .restart = fake_object,
        .watch = fake_watch,
        .records = fake_records,
        .samples = fake_samples,
};

/* -- a daemon ---------------------------------------------------------------------------------- */

struct process {
        int socket;
        pid_t pid;
        uint64_t serial;
};

static int board_fd;
static struct steer_board *board;

/* view: -EBADF: the device is not watched */
static struct process start_with(int view)
{
        struct process process = {0};
        int pair[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        process.pid = fork();
        assert_true(process.pid >= 0);
        if (process.pid == 0) {
                close(pair[0]);
                _exit(steer_run(pair[1], dup(board_fd), view, &fake, NULL) == 0 ? 0 : 1);
        }
        close(pair[1]);
        process.socket = pair[0];
        return process;
}

static struct process start(void)
{
        return start_with(-EBADF);
}

static void finish(struct process *process, int expected_signal)
{
        int status;

        close_safe(process->socket);
        assert_int_equal(waitpid(process->pid, &status, 0), process->pid);
        if (expected_signal)
                assert_true(WIFSIGNALED(status) && WTERMSIG(status) == expected_signal);
        else
                assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* false: the process died. */
static bool ask(
        struct process *process, struct steer_command command, int fd, struct steer_answer *ret)
{
        union {
                struct cmsghdr head;
                char space[CMSG_SPACE(sizeof(int))];
        } control = {0};
        struct iovec part = {.iov_base = &command, .iov_len = sizeof(command)};
        struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

        command.magic = STEER_MAGIC;
        command.serial = ++process->serial;
        if (fd >= 0) {
                header.msg_control = &control;
                header.msg_controllen = sizeof(control);
                control.head.cmsg_level = SOL_SOCKET;
                control.head.cmsg_type = SCM_RIGHTS;
                control.head.cmsg_len = CMSG_LEN(sizeof(fd));
                memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
        }
        if (sendmsg(process->socket, &header, MSG_NOSIGNAL) < 0)
                return false;
        if (recv(process->socket, ret, sizeof(*ret), 0) != sizeof(*ret))
                return false;
        assert_int_equal(ret->magic, STEER_MAGIC);
        assert_int_equal(ret->serial, process->serial);
        assert_true(ret->end_ns >= ret->start_ns && ret->start_ns > 0);
        return true;
}

static int result(struct process *process, struct steer_command command, int fd)
{
        struct steer_answer answer;

        assert_true(ask(process, command, fd, &answer));
        return answer.result;
}

static struct steer_command open_device(void)
{
        return (struct steer_command){.type = STEER_OPEN_DEVICE, .device = 3, .uuid = {0xaa}};
}

static struct steer_command hold(uint32_t holder)
{
        return (struct steer_command){.type = STEER_HOLD, .holder = holder};
}

static struct steer_command slice(uint64_t us)
{
        return (struct steer_command){.type = STEER_SET_SLICE,
                .holder = 7,
                .client = CLIENT,
                .object = GROUP,
                .value = us};
}

static struct steer_command switch_some(bool disable, unsigned first, unsigned count)
{
        struct steer_command command = {
                .type = disable ? STEER_DISABLE : STEER_ENABLE, .device = 3, .count = count};

        for (unsigned i = 0; i < count && i < STEER_MAX_CHANNELS; i++) {
                command.channel[i] = (struct steer_channel){CLIENT, first + i};
                command.holders[i] = 7;
        }
        return command;
}

static unsigned disabled(void)
{
        unsigned n = 0;

        for (unsigned i = 0; i < CHANNELS; i++)
                n += driver->disabled[i] > 0 && !driver->absent[i];
        return n;
}

static int right_fd, wrong_fd;

static int set_up(void **state)
{
        (void)state;
        driver = mmap(
                NULL, sizeof(*driver), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert_true(driver != MAP_FAILED);
        driver->slice = 2048;
        assert_int_equal(steer_board_new(&board_fd), 0);
        assert_int_equal(steer_board_map(board_fd, &board), 0);
        right_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
        wrong_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        return 0;
}

static int tear_down(void **state)
{
        (void)state;
        steer_board_unmap(board);
        close(board_fd);
        close(right_fd);
        close(wrong_fd);
        munmap(driver, sizeof(*driver));
        return 0;
}

static struct process prepared(void)
{
        struct process process = start();

        assert_int_equal(result(&process, open_device(), -1), 0);
        assert_int_equal(result(&process, hold(7), right_fd), 0);
        assert_int_equal(result(&process, slice(5000), -1), 0);
        return process;
}

/* -- tests ------------------------------------------------------------------------------------- */

static void commands(void **state)
{
        struct process process = prepared();
        struct steer_answer answer;
        struct steer_command command;

        (void)state;
        assert_int_equal(driver->slice, 5000);
        assert_true(ask(&process, switch_some(true, 0, 64), -1, &answer));
        assert_int_equal(answer.result, 0);
        assert_int_equal(answer.value, 64);
        assert_int_equal(driver->batches, 1);
        assert_int_equal(disabled(), 64);
        assert_int_equal(steer_board_count(board), 64);
        assert_int_equal(result(&process, switch_some(false, 0, 63), -1), 0);
        assert_int_equal(disabled(), 1);
        assert_int_equal(steer_board_count(board), 1);

        command = slice(0);
        command.type = STEER_GET_SLICE;
        assert_true(ask(&process, command, -1, &answer));
        assert_int_equal(answer.value, 5000);
        command.type = STEER_SET_MODE;
        command.value = 1;
        assert_int_equal(result(&process, command, -1), 0);
        assert_true(driver->thread_block);
        command.type = STEER_PREEMPT;
        assert_int_equal(result(&process, command, -1), 0);
        command.type = STEER_RESTART;
        assert_int_equal(result(&process, command, -1), 0);

        /* the daemon goes: all is as it was before */
        finish(&process, 0);
        assert_int_equal(disabled(), 0);
        assert_int_equal(steer_board_count(board), 0);
        assert_int_equal(driver->slice, 2048);
        assert_false(driver->thread_block);
}

static void terminated(void **state)
{
        struct process process = prepared();
        int status;

        (void)state;
        assert_int_equal(result(&process, switch_some(true, 0, 8), -1), 0);
        kill(process.pid, SIGTERM);
        assert_int_equal(waitpid(process.pid, &status, 0), process.pid);
        assert_int_equal(disabled(), 0);
        assert_int_equal(driver->slice, 2048);
        close(process.socket);
}

static uint64_t tell(struct process *process, struct steer_command command)
{
        command.magic = STEER_MAGIC;
        command.serial = ++process->serial;
        assert_int_equal(
                send(process->socket, &command, sizeof(command), MSG_NOSIGNAL), sizeof(command));
        return command.serial;
}

static struct steer_answer hear(struct process *process)
{
        struct steer_answer answer;

        assert_int_equal(recv(process->socket, &answer, sizeof(answer), 0), sizeof(answer));
        assert_int_equal(answer.magic, STEER_MAGIC);
        assert_int_equal(answer.result, 0);
        return answer;
}

/* Whether others' channels are enabled while that takes long; nothing else is done meanwhile. */
static bool overtakes(struct process *process, struct steer_command command)
{
        bool disables = command.type == STEER_DISABLE, overtaken;
        uint64_t slow, on, next;
        struct steer_answer first, second;

        assert_int_equal(result(process, switch_some(true, 8, 12), -1), 0);
        driver->slow_ms = driver->slow_slice_ms = 300;
        slow = tell(process, command);
        on = tell(process, switch_some(false, 8, 12));
        next = tell(process, switch_some(true, 20, 8));
        first = hear(process);
        overtaken = first.serial == on;
        if (overtaken)
                assert_int_equal(disabled() & ~8u, 0); /* those eight are, or will be */
        second = hear(process);
        assert_int_equal(overtaken ? second.serial : first.serial, slow);
        assert_int_equal(overtaken ? first.serial : second.serial, on);
        assert_int_equal(overtaken ? first.value : second.value, 12);
        assert_int_equal(hear(process).serial, next);
        driver->slow_ms = driver->slow_slice_ms = 0;
        assert_int_equal(disabled(), disables ? 16 : 8);
        assert_int_equal(steer_board_count(board), disabled());
        assert_int_equal(result(process, switch_some(false, 0, 64), -1), 0);
        assert_int_equal(disabled(), 0);
        return overtaken;
}

static void overtaking(void **state)
{
        struct process process = prepared();
        struct steer_command commands[] = {switch_some(true, 0, 8), slice(6000)};

        (void)state;
        for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
                bool overtaken = false;

                /* not where the thread that helps has taken the command, as the other was late */
                for (unsigned n = 0; n < 12 && !overtaken; n++)
                        overtaken = overtakes(&process, commands[i]);
                assert_true(overtaken);
        }
        finish(&process, 0);
}

static bool all_on_within(unsigned ms)
{
        for (; disabled() > 0 && ms > 0; ms--)
                sleep_ms(1);
        return disabled() == 0;
}

/* A call that enables and takes long is made once more, and the driver counts. */
static void enabled_by_two(void **state)
{
        struct process process = prepared();
        unsigned in_time = 0;
        uint64_t on, next;

        (void)state;
        /* not where the thread that helps has taken the command, as the other was late */
        for (unsigned i = 0; i < 12 && in_time < 3; i++) {
                assert_int_equal(result(&process, switch_some(true, 0, 12), -1), 0);
                assert_int_equal(disabled(), 12);
                driver->late_on_ms = 400;
                on = tell(&process, switch_some(false, 0, 12));
                next = tell(&process, switch_some(true, 4, 4));
                in_time += all_on_within(200);
                /* what comes then is not done before both have made it */
                sleep_ms(50);
                assert_true(disabled() == 0 || disabled() == 12);
                assert_int_equal(hear(&process).serial, on);
                assert_int_equal(hear(&process).serial, next);
                assert_int_equal(disabled(), 4);
                assert_int_equal(steer_board_count(board), 4);
                assert_int_equal(result(&process, switch_some(false, 0, 12), -1), 0);
                assert_int_equal(disabled(), 0);
                assert_int_equal(steer_board_count(board), 0);
        }
        assert_int_equal(in_time, 3);
        finish(&process, 0);
}

/* Of two threads one is not woken: the other takes what comes. */
static void thread_late(void **state)
{
        struct process process = prepared();
        uint64_t off, on;
        int status;

        (void)state;
        assert_int_equal(result(&process, switch_some(true, 0, 4), -1), 0);
        if (ptrace(PTRACE_SEIZE, process.pid, NULL, NULL) < 0) {
                finish(&process, 0);
                skip();
        }
        for (unsigned i = 0; i < 3; i++) {
                sleep_ms(50); /* it has answered, and is asleep a moment later */
                assert_int_equal(ptrace(PTRACE_INTERRUPT, process.pid, NULL, NULL), 0);
                assert_int_equal(waitpid(process.pid, &status, __WALL), process.pid);
                assert_true(WIFSTOPPED(status));
                off = tell(&process, switch_some(true, 8, 4));
                on = tell(&process, switch_some(false, 0, 12));
                assert_int_equal(hear(&process).serial, off);
                assert_int_equal(hear(&process).serial, on);
                assert_int_equal(disabled(), 0);
                assert_int_equal(ptrace(PTRACE_CONT, process.pid, NULL, NULL), 0);
                /* in their order, whoever does it */
                for (unsigned k = 0; k < 200; k++) {
                        off = tell(&process, switch_some(true, 0, 12));
                        on = tell(&process, switch_some(false, 4, 8));
                        assert_int_equal(hear(&process).serial, off);
                        assert_int_equal(hear(&process).serial, on);
                        assert_int_equal(disabled(), 4);
                        assert_int_equal(result(&process, switch_some(false, 0, 4), -1), 0);
                        assert_int_equal(disabled(), 0);
                }
        }
        assert_int_equal(ptrace(PTRACE_INTERRUPT, process.pid, NULL, NULL), 0);
        assert_int_equal(waitpid(process.pid, &status, __WALL), process.pid);
        assert_int_equal(ptrace(PTRACE_DETACH, process.pid, NULL, NULL), 0);
        finish(&process, 0);
}

static struct steer_command of_holder(struct steer_command command, uint32_t holder)
{
        command.holder = holder;
        for (unsigned i = 0; i < STEER_MAX_CHANNELS; i++)
                command.holders[i] = (uint16_t)holder;
        return command;
}

/* Whether a turn was passed on while that takes long: not where the thread that helps has taken it,
 * as the other was late. Then all is done in its order. leaves: that is of one who leaves. */
static bool passes_turn(struct process *process, struct steer_command slow, bool leaves)
{
        uint64_t first, told, off, on, own, heard;
        bool overtaken;

        assert_int_equal(result(process, hold(8), right_fd), 0);
        assert_int_equal(result(process, of_holder(slice(3000), 8), -1), 0);
        assert_int_equal(result(process, of_holder(switch_some(true, 40, 4), 8), -1), 0);
        assert_int_equal(result(process, switch_some(true, 0, 8), -1), 0);
        driver->slow_slice_ms = 400;
        first = tell(process, slow);
        told = tell(process, (struct steer_command){.type = STEER_TURNS, .holder = 7});
        off = tell(process, switch_some(true, 8, 8));
        on = tell(process, switch_some(false, 0, 8));
        own = tell(process, of_holder(switch_some(false, 40, 4), 8));
        heard = hear(process).serial;
        overtaken = heard != first;
        assert_int_equal(overtaken ? heard : hear(process).serial, told);
        assert_int_equal(hear(process).serial, off);
        assert_int_equal(hear(process).serial, on);
        /* to enable waits for him who leaves, not for his slice */
        if (overtaken && leaves)
                assert_int_equal(hear(process).serial, first);
        assert_int_equal(hear(process).serial, own);
        if (overtaken && !leaves)
                assert_int_equal(hear(process).serial, first);
        driver->slow_slice_ms = 0;
        assert_int_equal(disabled(), 8);
        assert_int_equal(steer_board_count(board), 8);
        assert_int_equal(result(process, switch_some(false, 8, 8), -1), 0);
        if (!leaves)
                assert_int_equal(
                        result(process, (struct steer_command){.type = STEER_RELEASE, .holder = 8},
                                -1),
                        0);
        return overtaken;
}

/* A turn is passed on while a call about somebody else's slice takes long, or what he leaves is put
 * back; his own channels wait for it. */
static void turn_overtaking(void **state)
{
        struct process process = prepared();
        struct steer_command slow[] = {
                of_holder(slice(4000), 8), {.type = STEER_RELEASE, .holder = 8}};

        (void)state;
        for (unsigned i = 0; i < ARRAY_SIZE(slow); i++) {
                bool overtaken = false;

                for (unsigned n = 0; n < 12 && !overtaken; n++)
                        overtaken = passes_turn(&process, slow[i], i == 1);
                assert_true(overtaken);
        }
        finish(&process, 0);
        assert_int_equal(disabled(), 0);
}

/* What is disabled just then is enabled after it, and what comes late may still overtake. */
static void not_overtaking(void **state)
{
        struct process process = prepared();
        bool overtaken = false;
        uint64_t slow, on;

        (void)state;
        driver->slow_ms = 100;
        slow = tell(&process, switch_some(true, 0, 8));
        on = tell(&process, switch_some(false, 7, 2));
        assert_int_equal(hear(&process).serial, slow);
        assert_int_equal(hear(&process).serial, on);
        assert_int_equal(disabled(), 7);
        assert_int_equal(steer_board_count(board), 7);

        /* not where the thread that helps has taken the command, as the other was late */
        for (unsigned n = 0; n < 12 && !overtaken; n++) {
                driver->slow_ms = 0;
                assert_int_equal(result(&process, switch_some(false, 30, 8), -1), 0);
                assert_int_equal(result(&process, switch_some(true, 20, 8), -1), 0);
                driver->slow_ms = 500;
                slow = tell(&process, switch_some(true, 30, 8));
                sleep_ms(100);
                on = tell(&process, switch_some(false, 20, 8));
                overtaken = hear(&process).serial == on;
                assert_int_equal(hear(&process).serial, overtaken ? slow : on);
                assert_int_equal(disabled(), 15);
        }
        assert_true(overtaken);
        finish(&process, 0);
        assert_int_equal(disabled(), 0);
}

/* The daemon goes while both threads make calls. */
static void left_alone(void **state)
{
        struct process process = prepared();
        int status;

        (void)state;
        assert_int_equal(result(&process, switch_some(true, 8, 8), -1), 0);
        driver->slow_ms = 100;
        (void)tell(&process, switch_some(true, 0, 8));
        (void)tell(&process, switch_some(false, 8, 8));
        (void)tell(&process, switch_some(true, 20, 8));
        sleep_ms(30);
        close(process.socket);
        assert_int_equal(waitpid(process.pid, &status, 0), process.pid);
        assert_true(WIFEXITED(status)); /* with an error: an answer could not be sent */
        assert_int_equal(disabled(), 0);
        assert_int_equal(steer_board_count(board), 0);
}

/* Nobody's channels are disabled on the word of another. */
static void foreign(void **state)
{
        struct process process = start();
        struct steer_command command = switch_some(true, 0, 2), other;

        (void)state;
        assert_int_equal(result(&process, command, -1), -EBADMSG); /* no device yet */
        assert_int_equal(result(&process, open_device(), -1), 0);
        assert_int_equal(result(&process, command, -1), -EBADF); /* no holder */
        assert_int_equal(result(&process, hold(7), wrong_fd), 0);
        assert_int_equal(result(&process, slice(1000), -1), -ENOENT);
        assert_int_equal(result(&process, command, -1), -EBADF); /* RM knows it by none */
        assert_int_equal(disabled(), 0);
        assert_int_equal(result(&process, hold(7), right_fd), 0);
        assert_int_equal(result(&process, slice(1000), -1), 0); /* by the second descriptor */
        other = command;
        other.channel[1].client = OTHER;
        /* nor does a foreign name save one's own */
        assert_int_equal(result(&process, other, -1), -EBADF);
        assert_int_equal(disabled(), 1);
        assert_int_equal(steer_board_count(board), 1);
        assert_int_equal(result(&process, command, -1), 0);
        assert_int_equal(disabled(), 2);
        finish(&process, 0);
        assert_int_equal(disabled(), 0);
}

static void malformed(void **state)
{
        struct process process = prepared();
        struct steer_command command = switch_some(true, 0, STEER_MAX_CHANNELS + 1);
        uint32_t small = STEER_MAGIC;
        char byte;

        (void)state;
        assert_int_equal(result(&process, command, -1), -EBADMSG);
        command = switch_some(true, 0, 1);
        command.device = STEER_MAX_DEVICES;
        assert_int_equal(result(&process, command, -1), -EBADMSG);
        command = slice(1);
        command.holder = STEER_HOLDERS;
        assert_int_equal(result(&process, command, -1), -EBADMSG);
        command.holder = 7;
        command.type = 99;
        assert_int_equal(result(&process, command, -1), -EBADMSG);
        assert_int_equal(result(&process, hold(8), -1), -EBADMSG); /* without a descriptor */
        /* another device under a known index */
        command = open_device();
        command.uuid[1] = 1;
        assert_int_equal(result(&process, command, -1), -EBADMSG);
        for (unsigned i = 1; i < STEER_HOLDER_FDS; i++)
                assert_int_equal(result(&process, hold(7), right_fd), 0);
        assert_int_equal(result(&process, hold(7), right_fd), -ENOSPC);

        assert_int_equal(result(&process, switch_some(true, 0, 4), -1), 0);
        assert_int_equal(send(process.socket, &small, sizeof(small), 0), sizeof(small));
        /* it takes the daemon for gone */
        assert_int_equal(recv(process.socket, &byte, 1, 0), 0);
        waitpid(process.pid, NULL, 0);
        close(process.socket);
        assert_int_equal(disabled(), 0);
}

/* A channel that goes meanwhile does not keep the others from their turn, nor stands for ever. */
static void channels_gone(void **state)
{
        struct process process = prepared();
        struct steer_answer answer;

        (void)state;
        driver->absent[2] = true;
        assert_true(ask(&process, switch_some(true, 0, 5), -1, &answer));
        assert_int_equal(answer.result, 0);
        assert_int_equal(answer.value, 4);
        assert_int_equal(disabled(), 4);
        assert_int_equal(steer_board_count(board), 4);
        driver->absent[0] = driver->absent[4] = true;
        assert_int_equal(result(&process, switch_some(false, 0, 5), -1), 0);
        assert_int_equal(disabled(), 0);
        assert_int_equal(steer_board_count(board), 0);
        finish(&process, 0);
}

/* What is asked for twice is done once. */
static void twice(void **state)
{
        struct process process = prepared();
        struct steer_answer answer;

        (void)state;
        assert_int_equal(result(&process, switch_some(true, 0, 3), -1), 0);
        assert_true(ask(&process, switch_some(true, 0, 8), -1, &answer));
        assert_int_equal(answer.value, 8);
        for (unsigned i = 0; i < 8; i++)
                assert_int_equal(driver->disabled[i], 1);
        assert_true(ask(&process, switch_some(false, 0, 16), -1, &answer));
        assert_int_equal(answer.value, 16);
        assert_int_equal(disabled(), 0);
        /* nor when RM refuses a call of which it has done a part */
        driver->absent[5] = true;
        assert_int_equal(result(&process, switch_some(true, 0, 8), -1), 0);
        for (unsigned i = 0; i < 8; i++)
                assert_int_equal(driver->disabled[i], i != 5);
        driver->absent[5] = false;
        finish(&process, 0);
        assert_int_equal(disabled(), 0);
}

static void assert_switched(unsigned off, unsigned off_next)
{
        assert_int_equal(driver->switched[STEER_OFF], off);
        assert_int_equal(driver->switched[STEER_OFF_NEXT], off_next);
        assert_int_equal(disabled(), 8);
        for (unsigned i = 0; i < 8; i++)
                assert_int_equal(driver->disabled[i], 1);
        memset(driver->switched, 0, sizeof(driver->switched));
}

/* Another has the engine, and then that one; a look that is under way at the same moment makes it
 * unknown, and is waited out. */
static void assert_switched_beside(struct process *process, uint32_t then, unsigned off)
{
        for (unsigned i = 0; i < 100; i++) {
                driver->runs = 200;
                driver->runs_then = then;
                memset(driver->switched, 0, sizeof(driver->switched));
                assert_int_equal(result(process, switch_some(true, 0, 8), -1), 0);
                if (driver->switched[STEER_OFF_NEXT] == 1 && driver->switched[STEER_OFF] == off)
                        break;
                assert_int_equal(result(process, switch_some(false, 0, 8), -1), 0);
        }
        assert_switched(off, 1);
}

/* Who has the engine keeps it when another is disabled; who is disabled does not. */
static void ends_no_other_slice(void **state)
{
        struct process process;
        struct steer_command command = hold(7);
        int view;

        (void)state;
        assert_int_equal(steer_view_new(&view), 0);
        process = start_with(view);
        assert_int_equal(result(&process, open_device(), -1), 0);
        command.value = 100;
        assert_int_equal(result(&process, command, right_fd), 0);
        assert_int_equal(result(&process, slice(5000), -1), 0);
        for (unsigned i = 0; i < 1000 && !driver->watched; i++)
                usleep(10000);
        /* it is not known who has it */
        assert_int_equal(result(&process, switch_some(true, 0, 8), -1), 0);
        assert_switched(1, 0);
        assert_int_equal(result(&process, switch_some(false, 0, 8), -1), 0);
        /* itself */
        driver->runs = 100;
        assert_int_equal(result(&process, switch_some(true, 0, 8), -1), 0);
        assert_switched(1, 0);
        assert_int_equal(result(&process, switch_some(false, 0, 8), -1), 0);
        /* another */
        assert_switched_beside(&process, 0, 0);
        assert_int_equal(result(&process, switch_some(false, 0, 8), -1), 0);
        /* another, but at the last moment it got it after all */
        assert_switched_beside(&process, 100, 1);
        finish(&process, 0);
        assert_int_equal(disabled(), 0);
        close_safe(view);
}

static void released(void **state)
{
        struct process process = prepared();
        struct steer_command command = {.type = STEER_RELEASE, .holder = 9};

        (void)state;
        assert_int_equal(result(&process, switch_some(true, 0, 3), -1), 0);
        assert_int_equal(result(&process, command, -1), 0);
        assert_int_equal(disabled(), 3);
        command.holder = 7;
        assert_int_equal(result(&process, command, -1), 0);
        assert_int_equal(disabled(), 0);
        assert_int_equal(driver->slice, 2048);
        assert_int_equal(result(&process, slice(1000), -1), -EBADF);
        finish(&process, 0);
}

static void refused(void **state)
{
        struct process process = prepared();
        struct steer_answer answer;

        (void)state;
        driver->refusal = -EPERM;
        assert_true(ask(&process, switch_some(true, 0, 2), -1, &answer));
        assert_int_equal(answer.result, -EPERM);
        assert_int_equal(answer.status, 0x1b);
        assert_int_equal(answer.value, 0);
        /* what was refused once is not taken for done */
        assert_int_equal(steer_board_count(board), 0);
        driver->refusal = 0;
        assert_int_equal(result(&process, switch_some(true, 0, 2), -1), 0);
        assert_int_equal(disabled(), 2);
        /* nor where nothing is allowed; what was disabled may still be */
        driver->refusal = -EPERM;
        driver->refuses_on = true;
        assert_int_equal(result(&process, switch_some(true, 0, 4), -1), -EPERM);
        assert_int_equal(steer_board_count(board), 2);
        assert_int_equal(result(&process, switch_some(false, 0, 4), -1), -EPERM);
        assert_int_equal(steer_board_count(board), 2);
        driver->refusal = 0;
        assert_int_equal(result(&process, switch_some(true, 0, 4), -1), 0);
        assert_int_equal(disabled(), 4);
        finish(&process, 0);
        assert_int_equal(steer_board_count(board), 0);
}

/* What the daemon of the next test asks for; false when the process has died. */
static bool script(struct process *process)
{
        const struct steer_command commands[] = {
                open_device(),
                slice(3000),
                switch_some(true, 0, 8),
                switch_some(true, 8, 40),
                switch_some(false, 0, 8),
                switch_some(true, 50, 3), /* one of them is absent */
                slice(4000),
                switch_some(false, 8, 40),
                {.type = STEER_ENABLE_ALL},
                switch_some(true, 0, 64),
                {.type = STEER_RELEASE, .holder = 7},
        };
        struct steer_answer answer;

        if (!ask(process, commands[0], -1, &answer) || !ask(process, hold(7), right_fd, &answer))
                return false;
        for (size_t i = 1; i < ARRAY_SIZE(commands); i++)
                if (!ask(process, commands[i], -1, &answer))
                        return false;
        return true;
}

static void killed_at_each_call(void **state)
{
        unsigned calls, most = 0;
        struct process process;

        (void)state;
        driver->absent[51] = true;
        process = start();
        assert_true(script(&process));
        finish(&process, 0);
        calls = driver->calls;
        assert_true(calls > 12);
        for (unsigned n = 1; n <= calls * 2; n++) {
                memset(driver, 0, sizeof(*driver));
                driver->slice = 2048;
                driver->absent[51] = true;
                driver->die_at = (n + 1) / 2;
                driver->die_after = n % 2 == 0;
                process = start();
                if (script(&process)) {
                        /* that call was refused, so it had no end to die at */
                        assert_true(driver->die_after);
                        finish(&process, 0);
                } else {
                        finish(&process, SIGKILL);
                        most = MAX_OF(most, disabled());
                        /* everything that is disabled stands on the board */
                        assert_true(steer_board_count(board) >= disabled());
                        /* the next one enables it before it listens to anybody */
                        driver->die_at = 0;
                        process = start();
                        assert_int_equal(result(&process, open_device(), -1), 0);
                        assert_int_equal(disabled(), 0);
                        assert_int_equal(steer_board_count(board), 0);
                        finish(&process, 0);
                }
                assert_int_equal(disabled(), 0);
                assert_int_equal(steer_board_count(board), 0);
        }
        /* or nothing was tried */
        assert_int_equal(most, 63);
}

/* And again while it cleans up after the one before. */
static void killed_while_enabling(void **state)
{
        struct process process;

        (void)state;
        process = prepared();
        assert_int_equal(result(&process, switch_some(true, 0, 64), -1), 0);
        assert_int_equal(result(&process, switch_some(true, 64, 16), -1), 0);
        kill(process.pid, SIGKILL);
        finish(&process, SIGKILL);
        assert_int_equal(disabled(), 80);
        driver->calls = 0;
        driver->die_at = 2;
        process = start();
        finish(&process, SIGKILL);
        assert_int_equal(disabled(), 16);
        driver->die_at = 0;
        process = start();
        finish(&process, 0);
        assert_int_equal(disabled(), 0);
        assert_int_equal(steer_board_count(board), 0);
}

/* The slice that the driver gave is put back, not what the one before had set. */
static void put_back_by_the_next(void **state)
{
        struct process process = prepared();

        (void)state;
        kill(process.pid, SIGKILL);
        finish(&process, SIGKILL);
        assert_int_equal(driver->slice, 5000);
        process = prepared();
        assert_int_equal(result(&process, slice(6000), -1), 0);
        assert_int_equal(driver->slice, 6000);
        finish(&process, 0);
        assert_int_equal(driver->slice, STEER_SLICE_DEFAULT);
}

static void no_board(void **state)
{
        _cleanup_close_ int fd = memfd_create("x", MFD_CLOEXEC);
        struct steer_board *mapped;

        (void)state;
        assert_int_equal(steer_board_map(fd, &mapped), -EBADMSG);
        assert_int_equal(ftruncate(fd, sizeof(*mapped)), 0);
        assert_int_equal(steer_board_map(fd, &mapped), -EBADMSG);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        const struct CMUnitTest tests[] = {
                TEST(commands),
                TEST(terminated),
                TEST(foreign),
                TEST(malformed),
                TEST(channels_gone),
                TEST(overtaking),
                TEST(enabled_by_two),
                TEST(thread_late),
                TEST(turn_overtaking),
                TEST(not_overtaking),
                TEST(left_alone),
                TEST(twice),
                TEST(ends_no_other_slice),
                TEST(released),
                TEST(refused),
                TEST(killed_at_each_call),
                TEST(killed_while_enabling),
                TEST(put_back_by_the_next),
                TEST(no_board),
        };

        return cmocka_run_group_tests_name("steer", tests, NULL, NULL);
}
