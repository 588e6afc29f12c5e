/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compute in time: what the arbiter (policy/arbiter.h) decides, done through the steering process
 * (steer/steer.h). Nothing of this runs while no tenant has terms for compute; while one has, the
 * arbiter knows all tenants, as those without terms share the devices too.
 */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/process.h"
#include "daemon/manager.h"
#include "daemon/waker.h"
#include "policy/gate.h"
#include "policy/switches.h"
#include "proto/rm.h"
#include "steer/steer.h"

extern char **environ;

#define NSEC_PER_USEC 1000ull
#define BOARD_NAME    "steer-board"
#define OBSERVE_NS    10000000ull   /* between looks at tenants if there is no news */
#define SENT_MAX      16u           /* commands that the steering process has at a time, */
#define SENT_SLOW     2u            /* those that can wait, of half a millisecond and more each */
#define CHECK_NS      1000000000ull /* between looks at slices in force */
#define CHECK_GROUPS  4u            /* asked for at each look, 0.3 ms of RM's time for each */
#define RESTART_MIN   (20 * USEC_PER_MSEC) /* after the steering process has ended */
#define RESTART_MAX   (5 * USEC_PER_SEC)
#define START_LOOK    (10 * USEC_PER_MSEC) /* while it starts */
/* Without an answer for so long it is taken to hang, and ended: what it has disabled, the next one
 * enables. A start may have to wait for the end of the one before. */
#define HANG_NS       5000000000ull
#define HANG_START_NS 15000000000ull
#define FAILED_STARTS 3u
#define SEARCH_MAX    4096 /* descriptors of a process that are looked at */
#define CONTROL_PATH  "/dev/nvidiactl"
/* A tenant alone leaves no records; by then the samples have said who it is. */
#define WATCH_BEGINS 350000000ull
/* The records have not been read for so long: the device does not answer. */
#define WATCH_STALE 3000000000ull
/* Over which it is seen whether who keeps turns by the clock is true to them, what of that is not
 * sure as records come late, what he may have more, and for how long he is not asked to again. */
#define KEEP_WINDOW 200000000ull
#define KEEP_UNSURE 5e6
#define KEEP_OVER   15e6
#define KEEP_PAUSE  10000000000ull
#define KEEP_GOOD   50000000ull /* after which turns that are not told again are kept no more */
/* A launch that is later than now by so much is of another clock. */
#define LAUNCH_MOST 1000000ull
/* Of a run, by which it may be counted wrong: docs/probes.md. */
#define SWITCH_PRECISION 60000u

/* Neighbouring actions of the arbiter that are done by the same calls. */
struct operation {
        unsigned outstanding; /* commands without an answer */
        unsigned commands;    /* made so far */
        bool complete;        /* all commands are made */
        int result;
        uint64_t end;
        unsigned count;
        struct arbiter_action action[];
};

enum purpose {
        FOR_NOBODY,
        FOR_OPERATION,
        FOR_KNOWING, /* GET_SLICE by which RM is asked whose a client is */
        FOR_CHECK,   /* GET_SLICE of a slice that was set */
        FOR_TRIAL,   /* PREEMPT once, to see whether the driver lets us */
        FOR_START,   /* the first answer says that it serves */
};

struct command {
        struct command *next, *prev;
        struct steer_command wire;
        int fd; /* to pass, -EBADF: none */
        enum purpose purpose;
        struct operation *operation;
        uint64_t tenant; /* of KNOWING and CHECK */
        unsigned device; /* of the tenant */
        pid_t pid;
        uint64_t expected; /* CHECK: us */
        uint64_t sent_at;  /* ns */
};

struct compute {
        struct manager *manager;
        struct arbiter *arbiter;
        uint64_t last; /* time that the arbiter was told last, ns */
        uint64_t due;  /* when what is done now was to be, ns; 0: there was no such time */
        sd_event_source *timer;
        struct waker *waker; /* NULL: there is none */

        int fd; /* of the steering process, -EBADF: none runs */
        sd_event_source *io;
        pid_t pid;
        bool answers;           /* it has answered */
        bool serves;            /* and has opened a device */
        uint64_t next_start;    /* monotonic, usec */
        uint64_t start_pause;   /* usec */
        unsigned failed_starts; /* in a row, that have ended before they served */
        bool failure_told;
        bool unsteered; /* all devices have gates from the beginning: no process is needed */
        bool opened[STEER_MAX_DEVICES];
        bool worked[STEER_MAX_DEVICES]; /* a call that steers has, once */
        bool tried[STEER_MAX_DEVICES];
        uint64_t serial;
        struct command *to_send, *sent;
        unsigned sent_count;
        bool holder[STEER_HOLDERS];
        uint64_t next_check;     /* ns */
        unsigned check_from;     /* how many tenants come before the next to be looked at */
        uint64_t answered_at;    /* ns */
        uint64_t observed, seen; /* when tenants were looked at, and what was known of devices */
        struct steer_view *view; /* of the steering process that runs, NULL: none */
};

static void schedule(struct compute *compute);

/* The arbiter's clock never goes back, though answers tell of the past. */
static uint64_t arbiter_time(struct compute *compute, uint64_t ns)
{
        compute->last = MAX_OF(compute->last, ns);
        return compute->last;
}

const char *priority_word(enum arbiter_priority priority)
{
        static const char *const words[] = {
                [ARBITER_LOW] = "low",
                [ARBITER_NORMAL] = "normal",
                [ARBITER_HIGH] = "high",
        };

        return words[priority];
}

/* ---- gates ----------------------------------------------------------------------------------- */

static struct command *command_new(struct compute *compute, enum steer_command_type type);
static void stop_keeping(struct compute *compute, struct tenant *tenant, unsigned i);

/* From now on a device's terms are kept by its tenants' guards, not by the driver. why: static. */
static void gate_device(struct compute *compute, unsigned index, const char *why)
{
        struct manager *manager = compute->manager;
        uint64_t now = arbiter_time(compute, clock_ns());
        int r;

        if (gates_why(manager, index))
                return;
        for (struct tenant *t = manager->tenants; t; t = t->hh.next)
                for (unsigned i = 0; i < t->devices; i++)
                        if (t->device[i].index == index) {
                                t->device[i].launches.said = false;
                                stop_keeping(compute, t, i);
                        }
        manager->refused[index] = why;
        r = gates_begin(manager, index, why);
        if (r < 0) {
                manager_warn(manager, "device %u gets no gate: %s", index, strerror(-r));
                return;
        }
        /* what has been disabled by a driver that refused the rest */
        if (compute->fd >= 0)
                (void)command_new(compute, STEER_ENABLE_ALL);
        for (struct tenant *t = manager->tenants; t; t = t->hh.next)
                for (unsigned i = 0; t->steered && i < t->devices; i++) {
                        (void)arbiter_forget(compute->arbiter, now, t->id, t->device[i].index);
                        t->device[i].off = false;
                }
}

static void gate_all(struct compute *compute, const char *why)
{
        for (unsigned i = 0; i < MIN_OF(compute->manager->devices, ARBITER_MAX_DEVICES); i++)
                gate_device(compute, i, why);
}

/* ---- commands -------------------------------------------------------------------------------- */

static void command_free(struct command *command)
{
        close_safe(command->fd);
        free(command);
}

static int tenant_device_of(const struct tenant *tenant, unsigned device)
{
        for (unsigned i = 0; i < tenant->devices; i++)
                if (tenant->device[i].index == device)
                        return (int)i;
        return -ENODEV;
}

static bool is_switch(enum arbiter_act act)
{
        return act == ARBITER_DISABLE || act == ARBITER_ENABLE;
}

/* Time has passed in which its channels were as they are. */
static void count_on(struct tenant_device *device, uint64_t now)
{
        if (now <= device->on_until)
                return;
        if (!device->off && device->groups > 0)
                device->on_ns += now - device->on_until;
        device->on_until = now;
}

/* The driver has let us steer a device, or has not. */
static void learn_means(struct compute *compute, unsigned index, int result)
{
        struct manager *manager = compute->manager;
        bool refused = result == -EPERM || result == -EOPNOTSUPP;

        if (index >= STEER_MAX_DEVICES || compute->worked[index])
                return;
        if (result == 0) {
                compute->worked[index] = true;
                /* what an earlier daemon has left */
                for (struct tenant *t = manager->tenants; t; t = t->hh.next)
                        gates_clear(t);
        }
        /* once it has let us, a refusal is about one tenant */
        if (refused)
                gate_device(compute, index,
                        result == -EPERM
                                ? "the driver lets this daemon steer nobody (permission denied)"
                                : "the driver does not know the calls that steer");
}

static void do_actions(
        struct compute *compute, const struct arbiter_action *actions, unsigned count);

static void operation_end(struct compute *compute, struct operation *operation)
{
        struct manager *manager = compute->manager;

        /* what is on or off already need not be asked for: that tells nothing of the driver */
        if (operation->count > 0 && operation->commands > 0 &&
                (operation->result < 0 || !is_switch(operation->action[0].act)))
                learn_means(compute, operation->action[0].device, operation->result);
        /* one tenant's channels that RM does not know, or will not have, are not the others' matter
         */
        if (operation->result < 0 && operation->count > 1) {
                for (unsigned i = 0; i < operation->count; i++)
                        do_actions(compute, &operation->action[i], 1);
                free(operation);
                return;
        }
        for (unsigned i = 0; i < operation->count; i++) {
                const struct arbiter_action *action = &operation->action[i];
                struct tenant *tenant = tenant_by_id(manager, action->tenant);
                int device = tenant ? tenant_device_of(tenant, action->device) : -ENODEV;
                struct arbiter_state state;

                if (operation->result == 0 && device >= 0 && is_switch(action->act)) {
                        count_on(&tenant->device[device], operation->end);
                        tenant->device[device].off = action->act == ARBITER_DISABLE;
                }
                arbiter_acted(compute->arbiter, arbiter_time(compute, operation->end), action,
                        operation->result);
                if (operation->result == 0 || !tenant ||
                        arbiter_inspect(compute->arbiter, action->tenant, action->device, &state) <
                                0 ||
                        !state.refused)
                        continue;
                if (device < 0 || tenant->device[device].refused_told)
                        continue;
                tenant->device[device].refused_told = true;
                events_add(&manager->events, EVENT_COMPUTE_REFUSED,
                        (struct event_subject){.tenant = tenant->id,
                                .device = manager->device[action->device].info.uuid_text},
                        "the compute terms of tenant %s cannot be kept: the driver refuses (%s)",
                        tenant->name, strerror(-operation->result));
        }
        if (operation->result == 0 && operation->count > 0 &&
                operation->action[0].act == ARBITER_ENABLE)
                manager_audit_between(manager);
        free(operation);
}

static void operation_done(
        struct compute *compute, struct operation *operation, int result, uint64_t end)
{
        operation->outstanding--;
        operation->end = MAX_OF(operation->end, end);
        if (result < 0)
                operation->result = result;
        if (operation->outstanding == 0 && operation->complete)
                operation_end(compute, operation);
}

/* Slices and what stands of them: nobody has more than he may meanwhile. */
static bool can_wait(const struct command *command)
{
        return command->purpose == FOR_CHECK || command->wire.type == STEER_SET_SLICE ||
               command->wire.type == STEER_SET_MODE;
}

static bool is_of_turns(enum steer_command_type type)
{
        return type == STEER_DISABLE || type == STEER_ENABLE || type == STEER_TURNS;
}

static void send_commands(struct compute *compute)
{
        while (compute->to_send && compute->fd >= 0 &&
                compute->sent_count < (can_wait(compute->to_send) ? SENT_SLOW : SENT_MAX)) {
                struct command *command = compute->to_send;
                struct iovec part = {&command->wire, sizeof(command->wire)};
                struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
                union {
                        struct cmsghdr head;
                        char space[CMSG_SPACE(sizeof(int))];
                } control = {0};

                if (command->fd >= 0) {
                        header.msg_control = &control;
                        header.msg_controllen = sizeof(control);
                        control.head.cmsg_level = SOL_SOCKET;
                        control.head.cmsg_type = SCM_RIGHTS;
                        control.head.cmsg_len = CMSG_LEN(sizeof(int));
                        memcpy(CMSG_DATA(&control.head), &command->fd, sizeof(int));
                }
                command->wire.sent_ns = clock_ns();
                /* what cannot be sent now goes after the next answer; an end is told by epoll */
                if (sendmsg(compute->fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
                        return;
                command->fd = close_safe(command->fd);
                command->sent_at = command->wire.sent_ns;
                DL_DELETE(compute->to_send, command);
                DL_APPEND(compute->sent, command);
                compute->sent_count++;
        }
}

/* Queues a command; wire.type and its arguments are the caller's. A cap waits for no slices, of
 * which there may be as many as tenants. NULL: no memory. */
static struct command *command_new(struct compute *compute, enum steer_command_type type)
{
        struct command *command = calloc(1, sizeof(*command)), *before = NULL;

        if (!command)
                return NULL;
        if (is_of_turns(type) && compute->to_send)
                for (struct command *last = compute->to_send->prev; can_wait(last);
                        last = last->prev) {
                        before = last;
                        if (last == compute->to_send)
                                break;
                }
        command->fd = -EBADF;
        command->wire.magic = STEER_MAGIC;
        command->wire.type = type;
        command->wire.serial = ++compute->serial;
        command->wire.due_ns = compute->due ?: clock_ns();
        if (before)
                DL_PREPEND_ELEM(compute->to_send, before, command);
        else
                DL_APPEND(compute->to_send, command);
        return command;
}

static void drop_commands(struct compute *compute)
{
        struct command *command, *next;

        DL_FOREACH_SAFE(compute->sent, command, next)
        {
                DL_DELETE(compute->sent, command);
                DL_APPEND(compute->to_send, command);
        }
        compute->sent_count = 0;
        DL_FOREACH_SAFE(compute->to_send, command, next)
        {
                struct operation *operation = command->operation;

                /* the arbiter is made to forget what was under way, so it is not told */
                if (operation && --operation->outstanding == 0)
                        free(operation);
                DL_DELETE(compute->to_send, command);
                command_free(command);
        }
}

/* ---- descriptors of the tenants' processes --------------------------------------------------- */

static bool is_control_device(struct manager *manager, int fd)
{
        struct stat st, control;

        if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode))
                return false;
        /* The simulated driver needs none. Any other device could keep the steering process waiting
         * in a call that its maker does not answer. */
        if (manager->backend == &device_backend_sim)
                return st.st_rdev == makedev(1, 3);
        return stat(CONTROL_PATH, &control) == 0 && S_ISCHR(control.st_mode) &&
               st.st_rdev == control.st_rdev;
}

static void hold_descriptors(struct compute *compute, struct session *session)
{
        if (!compute || compute->fd < 0)
                return;
        for (; session->rm_known < session->rm_fds; session->rm_known++) {
                struct command *command;
                int fd;

                if (session->holder == UINT32_MAX) {
                        uint32_t i = 0;

                        while (i < STEER_HOLDERS && compute->holder[i])
                                i++;
                        if (i == STEER_HOLDERS)
                                return;
                        compute->holder[i] = true;
                        session->holder = i;
                }
                fd = fcntl(session->rm_fd[session->rm_known], F_DUPFD_CLOEXEC, 3);
                command = fd < 0 ? NULL : command_new(compute, STEER_HOLD);
                if (!command) {
                        close_safe(fd);
                        return;
                }
                command->wire.holder = session->holder;
                command->wire.value = (uint64_t)session->process.pid;
                command->fd = fd;
        }
}

static bool same_file(int a, int b)
{
        /* KCMP_FILE */
        return syscall(SYS_kcmp, getpid(), getpid(), 0, a, b) == 0;
}

void compute_take_descriptor(struct session *session, int fd)
{
        struct manager *manager = session->tenant->manager;

        /* RM gives the memory of a process back only when the last of these is closed, so none is
         * kept without need */
        if (!manager->compute || !is_control_device(manager, fd) ||
                session->rm_fds == SESSION_RM_FDS) {
                close_safe(fd);
                return;
        }
        for (unsigned i = 0; i < session->rm_fds; i++)
                if (same_file(session->rm_fd[i], fd)) {
                        close_safe(fd);
                        return;
                }
        session->rm_fd[session->rm_fds++] = fd;
        hold_descriptors(manager->compute, session);
        schedule(manager->compute);
}

/* Where none was kept, as before there were terms or after a restart of ours: those that the
 * process has, by way of the kernel, which lets us only where we could trace it. */
static void search_descriptors(struct session *session)
{
        _cleanup_closedir_ DIR *directory = NULL;
        char path[64];
        const struct dirent *entry;
        unsigned seen = 0;

        if (session->rm_searched || session->process.pidfd < 0)
                return;
        session->rm_searched = true;
        snprintf(path, sizeof(path), "/proc/%d/fd", (int)session->process.pid);
        directory = opendir(path);
        while (directory && (entry = readdir(directory)) && seen++ < SEARCH_MAX &&
                session->rm_fds < SESSION_RM_FDS) {
                uint64_t number;
                struct stat st, control;
                int fd;

                if (parse_unsigned(entry->d_name, INT32_MAX, &number) < 0 ||
                        fstatat(dirfd(directory), entry->d_name, &st, 0) < 0 ||
                        !S_ISCHR(st.st_mode))
                        continue;
                if (session->tenant->manager->backend != &device_backend_sim &&
                        (stat(CONTROL_PATH, &control) < 0 || st.st_rdev != control.st_rdev))
                        continue;
                if (session->tenant->manager->backend == &device_backend_sim &&
                        (st.st_rdev != makedev(1, 3) || number <= STDERR_FILENO))
                        continue;
                fd = (int)syscall(SYS_pidfd_getfd, session->process.pidfd, (int)number, 0);
                if (fd < 0)
                        return;
                (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
                compute_take_descriptor(session, fd);
        }
}

/* Whether a process has groups to be steered, and the guard's word has not come with a descriptor:
 * it may be under way when this is first asked. */
static bool misses_descriptor(struct session *session)
{
        struct tenant *tenant = session->tenant;
        const struct cleave_slot *slot;
        uint32_t used;

        if (session->returning || session->rm_fds > 0 || session->rm_searched ||
                !tenant->pages.usage)
                return false;
        slot = cleave_usage_slot(tenant->pages.usage, session->slot);
        used = MIN_OF(atomic_load(&slot->groups), CLEAVE_MAX_GROUPS);
        for (uint32_t i = 0; i < used; i++)
                if (atomic_load(&slot->group[i].handle) &&
                        slot->group[i].engine == RM_ENGINE_GRAPHICS) {
                        bool again = session->rm_missed;

                        session->rm_missed = true;
                        return again;
                }
        return false;
}

static void tell_unreachable(struct session *session)
{
        events_add(&session->tenant->manager->events, EVENT_COMPUTE_REFUSED,
                (struct event_subject){.tenant = session->tenant->id, .pid = session->process.pid},
                "process %d of tenant %s cannot be steered: its descriptor of %s is out of reach",
                (int)session->process.pid, session->tenant->name, CONTROL_PATH);
}

/* Groups beyond those that its slot can name run as the driver likes. */
static void tell_lost_groups(struct session *session)
{
        struct tenant *tenant = session->tenant;

        if (session->groups_told || session->returning || !tenant->pages.usage ||
                !atomic_load(&cleave_usage_slot(tenant->pages.usage, session->slot)->lost_groups))
                return;
        session->groups_told = true;
        events_add(&tenant->manager->events, EVENT_COMPUTE_REFUSED,
                (struct event_subject){.tenant = tenant->id, .pid = session->process.pid},
                "process %d of tenant %s has more channel groups than the %u, of %u channels, that "
                "can be steered: the others are not held to the tenant's terms",
                (int)session->process.pid, tenant->name, CLEAVE_MAX_GROUPS, CLEAVE_MAX_CHANNELS);
}

static void forget_descriptors(struct session *session)
{
        for (unsigned i = 0; i < session->rm_fds; i++)
                close_safe(session->rm_fd[i]);
        session->rm_fds = session->rm_known = 0;
        session->rm_searched = session->rm_missed = false;
}

void compute_session_gone(struct session *session)
{
        struct compute *compute = session->tenant->manager->compute;

        /* First ours: whoever closes the last one waits until RM has taken everything down. */
        forget_descriptors(session);
        if (compute && session->holder != UINT32_MAX) {
                if (compute->fd >= 0) {
                        struct command *command = command_new(compute, STEER_RELEASE);

                        if (command)
                                command->wire.holder = session->holder;
                        send_commands(compute);
                }
                compute->holder[session->holder] = false;
        }
        session->holder = UINT32_MAX;
}

/* ---- groups ---------------------------------------------------------------------------------- */

/* What a slot says, bounded and copied. */
struct group {
        struct session *session;
        uint32_t client, handle, subdevice;
        unsigned channels;
        uint32_t channel[CLEAVE_MAX_CHANNELS];
};

typedef void (*group_visit)(const struct group *group, void *userdata);

/* The graphics/compute groups of a tenant on its device i. */
static void each_group(struct tenant *tenant, unsigned i, group_visit visit, void *userdata)
{
        struct session *session;

        if (!tenant->pages.usage)
                return;
        DL_FOREACH(tenant->sessions, session)
        {
                const struct cleave_slot *slot;
                uint32_t used;

                /* without a descriptor nothing can be done to it yet */
                if (session->returning || session->holder == UINT32_MAX)
                        continue;
                slot = cleave_usage_slot(tenant->pages.usage, session->slot);
                used = MIN_OF(atomic_load(&slot->groups), CLEAVE_MAX_GROUPS);
                for (uint32_t k = 0; k < used; k++) {
                        const struct cleave_channel_group *entry = &slot->group[k];
                        struct group group = {.session = session};

                        group.handle = atomic_load(&entry->handle);
                        if (!group.handle || entry->engine != RM_ENGINE_GRAPHICS ||
                                entry->device != i)
                                continue;
                        group.client = entry->client;
                        group.subdevice = entry->subdevice;
                        group.channels = MIN_OF(atomic_load(&entry->channels), CLEAVE_MAX_CHANNELS);
                        memcpy(group.channel, entry->channel, sizeof(group.channel));
                        visit(&group, userdata);
                }
        }
}

struct sum {
        unsigned groups, channels;
        uint64_t hash;
};

static void sum_group(const struct group *group, void *userdata)
{
        struct sum *sum = userdata;
        uint64_t word = (uint64_t)group->client << 32 | group->handle;

        sum->groups++;
        sum->channels += group->channels;
        sum->hash = hash_word(sum->hash, word);
        for (unsigned i = 0; i < group->channels; i++)
                sum->hash = hash_word(sum->hash, group->channel[i]);
        /* with the descriptor, what was refused may go */
        sum->hash = hash_word(sum->hash, group->session->rm_fds);
}

/* ---- what the arbiter wants ------------------------------------------------------------------ */

struct work {
        struct compute *compute;
        struct operation *operation;
        const struct arbiter_action *action;
        struct tenant *tenant;
        unsigned device;      /* of the tenant */
        struct command *open; /* DISABLE or ENABLE that has room */
        enum purpose purpose;
        uint64_t expected;
};

static void operation_add(struct operation *operation)
{
        if (!operation)
                return;
        operation->outstanding++;
        operation->commands++;
}

static void add_object_command(const struct group *group, void *userdata)
{
        struct work *work = userdata;
        struct command *command;
        enum steer_command_type type = STEER_GET_SLICE;
        uint64_t value = 0;

        if (work->purpose == FOR_OPERATION) {
                type = work->action->act == ARBITER_SET_SLICE ? STEER_SET_SLICE : STEER_SET_MODE;
                value = type == STEER_SET_SLICE ? work->action->slice_us
                                                : work->action->thread_block;
        }
        command = command_new(work->compute, type);
        if (!command) {
                if (work->operation)
                        work->operation->result = -ENOMEM;
                return;
        }
        command->wire.holder = group->session->holder;
        command->wire.client = group->client;
        command->wire.object = group->handle;
        command->wire.subdevice = group->subdevice;
        command->wire.device = work->tenant->device[work->device].index;
        command->wire.value = value;
        command->purpose = work->purpose;
        command->operation = work->operation;
        command->tenant = work->tenant->id;
        command->device = work->device;
        command->pid = group->session->process.pid;
        command->expected = work->expected;
        operation_add(work->operation);
}

static void add_channels(const struct group *group, void *userdata)
{
        struct work *work = userdata;

        for (unsigned i = 0; i < group->channels; i++) {
                struct steer_command *wire;

                if (!work->open || work->open->wire.count == STEER_MAX_CHANNELS) {
                        work->open = command_new(work->compute, work->action->act == ARBITER_DISABLE
                                                                        ? STEER_DISABLE
                                                                        : STEER_ENABLE);
                        if (!work->open) {
                                work->operation->result = -ENOMEM;
                                return;
                        }
                        work->open->wire.device = work->action->device;
                        work->open->purpose = FOR_OPERATION;
                        work->open->operation = work->operation;
                        operation_add(work->operation);
                }
                wire = &work->open->wire;
                wire->channel[wire->count] =
                        (struct steer_channel){group->client, group->channel[i]};
                wire->holders[wire->count++] = (uint16_t)group->session->holder;
        }
}

/* Whether an action is done by who keeps his turns: then there is nothing to call for. Otherwise it
 * is called for now. */
static bool is_kept(struct tenant_device *device, enum arbiter_act act)
{
        bool was_off = device->keeps.off;

        device->keeps.off = act == ARBITER_DISABLE && device->keeps.on;
        if (act == ARBITER_DISABLE) {
                device->disabled |= !device->keeps.off;
                return device->keeps.off;
        }
        if (was_off && !device->disabled)
                return true;
        /* of what was disabled before, some may be so still */
        device->disabled = false;
        return false;
}

/* Actions that are one call, or one action. */
static void do_actions(
        struct compute *compute, const struct arbiter_action *actions, unsigned count)
{
        struct operation *operation =
                calloc(1, sizeof(*operation) + count * sizeof(operation->action[0]));
        struct work work = {.compute = compute, .operation = operation, .purpose = FOR_OPERATION};

        if (!operation) {
                for (unsigned i = 0; i < count; i++)
                        arbiter_acted(compute->arbiter, compute->last, &actions[i], -ENOMEM);
                return;
        }
        operation->count = count;
        operation->end = clock_ns();
        memcpy(operation->action, actions, count * sizeof(*actions));
        for (unsigned i = 0; i < count; i++) {
                struct tenant *tenant = tenant_by_id(compute->manager, actions[i].tenant);
                int device = tenant ? tenant_device_of(tenant, actions[i].device) : -ENODEV;

                /* behind a gate it is not done, and need not be */
                if (device < 0 || gates_why(compute->manager, actions[i].device))
                        continue;
                if (is_switch(actions[i].act) && is_kept(&tenant->device[device], actions[i].act))
                        continue;
                work.action = &actions[i];
                work.tenant = tenant;
                work.device = (unsigned)device;
                each_group(tenant, work.device,
                        is_switch(actions[i].act) ? add_channels : add_object_command, &work);
        }
        operation->complete = true;
        if (operation->outstanding == 0)
                operation_end(compute, operation);
}

static void open_devices(struct compute *compute)
{
        struct manager *manager = compute->manager;

        for (unsigned i = 0; i < manager->devices && i < STEER_MAX_DEVICES; i++) {
                bool wanted = false;
                struct command *command;

                for (struct tenant *t = manager->tenants; t; t = t->hh.next)
                        wanted |= t->steered && tenant_device_of(t, i) >= 0;
                if (!wanted || compute->opened[i])
                        continue;
                command = command_new(compute, STEER_OPEN_DEVICE);
                if (!command)
                        return;
                command->wire.device = i;
                memcpy(command->wire.uuid, manager->device[i].info.uuid, 16);
                command->purpose = FOR_START;
                compute->opened[i] = true;
        }
}

/* Whether the device's own records are read, and have been for long enough to know who has it. */
static bool is_watched(const struct compute *compute, unsigned index, uint64_t now)
{
        const struct steer_view_device *device;
        uint32_t state;

        if (!compute->view || index >= STEER_MAX_DEVICES)
                return false;
        device = &compute->view->device[index];
        state = atomic_load(&device->state);
        return (state == STEER_WATCHED_ALL || state == STEER_WATCHED_OWN) &&
               now >= atomic_load(&device->begun) + WATCH_BEGINS &&
               now < atomic_load(&device->now) + WATCH_STALE;
}

bool compute_is_watched(struct manager *manager, unsigned index, uint64_t now)
{
        return manager->compute && is_watched(manager->compute, index, now);
}

/* Adds what the view has of a process to its tenant's; the reading, or NULL: it has not had the
 * engine. */
static void add_use(const struct compute *compute, struct session *session, unsigned i,
        struct arbiter_sight *sight)
{
        struct tenant_device *device = &session->tenant->device[i];
        struct session_use *last = &session->use[i];
        const struct switches_sight *before = &last->sight;
        struct switches_sight seen;
        int r;

        r = steer_view_read(compute->view, device->index, (uint32_t)session->process.pid, &seen);
        /* whoever writes it is held up by the host: as it was before */
        if (r == -EAGAIN) {
                if (!last->known)
                        return;
                seen = last->sight;
        } else if (r < 0) {
                last->known = true;
                return;
        }
        /* what there was before it came is of another process of that number */
        if (last->known) {
                device->used_ns += seen.used_ns - before->used_ns;
                device->counted_ns += seen.counted_ns - before->counted_ns;
                device->starts += seen.starts - before->starts;
                device->wanted_ns += seen.wanted_ns - before->wanted_ns;
                device->doubt_ns += seen.doubt_ns - before->doubt_ns;
                device->corrected_ns += seen.corrected_ns - before->corrected_ns;
        }
        *last = (struct session_use){true, seen};
        sight->short_ns = MAX_OF(sight->short_ns, seen.short_ns);
        switch (seen.demand) {
        case SWITCHES_WORK:
                if (sight->demand != ARBITER_DEMAND_WORK || seen.since < sight->since)
                        sight->since = seen.since;
                sight->demand = ARBITER_DEMAND_WORK;
                break;
        case SWITCHES_UNKNOWN:
                if (sight->demand == ARBITER_DEMAND_NONE) {
                        sight->demand = ARBITER_DEMAND_UNKNOWN;
                        sight->since = seen.since;
                }
                break;
        default:
                if (sight->demand == ARBITER_DEMAND_NONE)
                        sight->since = MAX_OF(sight->since, seen.since);
                break;
        }
}

void compute_count_second(struct tenant_device *device, uint64_t now)
{
        uint64_t span = now - MIN_OF(device->second_at, now);
        int64_t used = (int64_t)(device->used_ns - device->second_used_ns);

        if (device->second_at && span < CHECK_NS)
                return;
        device->share_known = device->second_at && span < 2 * CHECK_NS;
        if (device->share_known)
                device->share_ppm =
                        used <= 0 ? 0
                                  : (uint32_t)MIN_OF((uint64_t)used * 1000000 / span, 1000000ull);
        device->second_at = now;
        device->second_used_ns = device->used_ns;
}

/* What its processes have used and want, by the device's own records of who had it when. */
static void look_at_view(struct compute *compute, struct tenant *tenant, unsigned i, uint64_t now,
        struct arbiter_sight *sight)
{
        struct tenant_device *device = &tenant->device[i];
        uint64_t seen_until = atomic_load(&compute->view->device[device->index].now);
        struct session *session;

        sight->demand = ARBITER_DEMAND_NONE;
        DL_FOREACH(tenant->sessions, session)
        if (!session->returning)
                add_use(compute, session, i, sight);
        /* not before one was heard of: its programs may have work by ways that are not ours, or
           another clock */
        sight->launched_at = gates_wanted_at(tenant, i);
        sight->launches_known = device->launches.said &&
                                sight->launched_at > device->launches.since &&
                                sight->launched_at <= now + LAUNCH_MOST;
        sight->keeps_turns = now >= device->keeps.again_at && gates_can_keep(tenant) &&
                             !gates_why(compute->manager, device->index);
        device->use_known = true;
        compute_count_second(device, seen_until);
        sight->used_known = sight->starts_known = sight->wanted_known = true;
        sight->blind_alone = true;
        sight->source = ACCOUNT_SWITCHES;
        sight->used_at = seen_until;
        sight->used_ns = device->used_ns;
        sight->precision_ns = SWITCH_PRECISION;
        sight->starts = device->starts;
        sight->wanted_ns = device->wanted_ns;
        sight->doubt_ns = device->doubt_ns;
        sight->corrected_ns = device->corrected_ns;
}

static void observe(struct compute *compute, struct tenant *tenant, unsigned i, uint64_t now)
{
        struct tenant_device *device = &tenant->device[i];
        struct sum sum = {.hash = HASH_BEGIN};
        struct arbiter_sight sight;

        each_group(tenant, i, sum_group, &sum);
        if (sum.hash != device->groups_hash || (sum.groups > 0) != (device->groups > 0)) {
                struct work work = {
                        .compute = compute, .tenant = tenant, .device = i, .purpose = FOR_KNOWING};

                if ((sum.groups > 0) != (device->groups > 0) || device->groups_since == 0)
                        device->groups_since = now;
                device->groups_hash = sum.hash;
                device->epoch++;
                /* before anything else is asked for these clients: RM is to know whose they are */
                each_group(tenant, i, add_object_command, &work);
        }
        count_on(device, now);
        device->groups = sum.groups;
        device->channels = sum.channels;
        /* Where no better is known, a process with a context may have work, and the arbiter takes
         * it for backlogged and keeps its own record. */
        sight = (struct arbiter_sight){
                .demand = sum.groups > 0 ? ARBITER_DEMAND_UNKNOWN : ARBITER_DEMAND_NONE,
                .since = device->groups_since,
                .groups = sum.groups,
                .channels = sum.channels,
                .epoch = device->epoch,
        };
        if (!is_watched(compute, device->index, now) && !gates_why(compute->manager, device->index))
                device->use_known = device->share_known = false;
        /* Without records, a cap without a guarantee is kept by what it could have used, so that it
         * holds whatever the neighbours do. With a guarantee it is left to the arbiter's record,
         * which takes neighbours with a context for busy: else the guarantee would suffer. */
        if (is_watched(compute, device->index, now))
                look_at_view(compute, tenant, i, now, &sight);
        else if (tenant->terms.cap > 0 && tenant->terms.share == 0) {
                sight.used_known = true;
                sight.source = ACCOUNT_COUNTERS;
                sight.used_ns = device->on_ns;
        }
        (void)arbiter_observe(compute->arbiter, now, tenant->id, device->index, &sight);
}

/* What tenants use and want is read from records each 10 ms or so; what they have made, from pages
 * that are to be looked at as often. In between the arbiter goes by its own prediction. */
static bool has_news(struct compute *compute, uint64_t now)
{
        uint64_t seen = 0;
        bool watched = true;

        for (struct tenant *t = compute->manager->tenants; t; t = t->hh.next)
                for (unsigned i = 0; t->steered && i < t->devices && watched; i++)
                        watched = is_watched(compute, t->device[i].index, now);
        for (unsigned i = 0; compute->view && i < STEER_MAX_DEVICES; i++)
                seen += atomic_load(&compute->view->device[i].now);
        if (watched && seen == compute->seen && now < compute->observed + OBSERVE_NS)
                return false;
        compute->seen = seen;
        compute->observed = now;
        return true;
}

/* Slices that a tenant changes behind our back are put back: some tenants at each look, so that
 * many cost no more than few. */
static void check_slices(struct compute *compute)
{
        unsigned position = 0, groups = 0;

        for (struct tenant *t = compute->manager->tenants; t; t = t->hh.next) {
                if (position++ < compute->check_from)
                        continue;
                if (groups >= CHECK_GROUPS) {
                        compute->check_from = position - 1;
                        return;
                }
                for (unsigned i = 0; t->steered && i < t->devices; i++) {
                        struct work work = {
                                .compute = compute, .tenant = t, .device = i, .purpose = FOR_CHECK};
                        struct arbiter_state state;

                        if (gates_why(compute->manager, t->device[i].index) ||
                                arbiter_inspect(
                                        compute->arbiter, t->id, t->device[i].index, &state) < 0 ||
                                state.slice_us == 0)
                                continue;
                        work.expected = state.slice_us;
                        groups += t->device[i].groups;
                        each_group(t, i, add_object_command, &work);
                }
        }
        compute->check_from = 0;
}

/* To the page, and to who keeps what is seen. period 0: it keeps none any more. */
static void tell_turns_of(struct compute *compute, struct tenant *tenant, unsigned i,
        const struct cleave_turns *turns)
{
        struct session *session;

        gates_keep(tenant, i, turns);
        DL_FOREACH(tenant->sessions, session)
        {
                struct command *command = NULL;

                if (!session->returning && session->holder != UINT32_MAX)
                        command = command_new(compute, STEER_TURNS);
                if (!command)
                        continue;
                command->wire.holder = session->holder;
                command->wire.device = tenant->device[i].index;
                command->wire.turns = *turns;
        }
}

/* What it could have had of a span by the turns that it was told. */
static uint64_t given(const struct cleave_turns *turns, uint64_t from, uint64_t to)
{
        uint64_t length = turns->until - turns->from, good = MIN_OF(to, turns->good_until);
        uint64_t base, first, last;

        if (!turns->period || from >= good)
                return to - from;
        /* some turn of it that began before that */
        base = from -
               MIN_OF(from, turns->period + (from + turns->period - turns->from) % turns->period);
        first = from - base;
        last = good - base;
        return (last / turns->period - first / turns->period) * length +
               MIN_OF(last % turns->period, length) - MIN_OF(first % turns->period, length) +
               (to - good);
}

static void count_given(struct tenant_device *device, uint64_t now)
{
        device->keeps.given_ns += given(&device->keeps.told, device->keeps.counted, now);
        device->keeps.counted = now;
}

static void begin_window(struct tenant_device *device, uint64_t now)
{
        device->keeps.since = device->keeps.counted = now;
        device->keeps.given_ns = 0;
        /* without what is put right of the time before */
        device->keeps.used_ns = device->used_ns - (uint64_t)device->corrected_ns;
}

/* Its programs may launch by ways that are not ours, or so much at a time that it goes on in
 * others' turns. Of what it had beyond what it was given half is forgotten each window. */
static void end_window(struct tenant_device *device, uint64_t now)
{
        uint64_t used = device->used_ns - (uint64_t)device->corrected_ns;
        double part = (double)MIN_OF(now - device->keeps.since, KEEP_WINDOW) / KEEP_WINDOW;
        double over;

        count_given(device, now);
        over = (double)(int64_t)(used - device->keeps.used_ns) - (double)device->keeps.given_ns;
        over += device->keeps.over_ns * (1 - part / 2) - KEEP_UNSURE;
        device->keeps.over_ns = MAX_OF(over, 0.);
        if (over > KEEP_OVER)
                device->keeps.again_at = now + KEEP_PAUSE;
        begin_window(device, now);
}

static void stop_keeping(struct compute *compute, struct tenant *tenant, unsigned i)
{
        static const struct cleave_turns none;

        if (!tenant->device[i].keeps.on)
                return;
        end_window(&tenant->device[i], clock_ns());
        tenant->device[i].keeps.on = false;
        tell_turns_of(compute, tenant, i, &none);
}

/* Tells those their turns who keep them by the clock, where they do not know them yet. */
static void tell_turns(struct compute *compute, uint64_t now)
{
        for (struct tenant *t = compute->manager->tenants; t; t = t->hh.next)
                for (unsigned i = 0; t->steered && i < t->devices; i++) {
                        struct tenant_device *device = &t->device[i];
                        const struct cleave_turns *known = &device->keeps.told;
                        struct arbiter_turn turn;

                        if (device->keeps.on && now > device->keeps.since + KEEP_WINDOW)
                                end_window(device, now);
                        if (!arbiter_turn_of(compute->arbiter, t->id, device->index, &turn) ||
                                now < device->keeps.again_at) {
                                stop_keeping(compute, t, i);
                                continue;
                        }
                        if (device->keeps.on && known->from == turn.from &&
                                known->until == turn.until && known->period == turn.period &&
                                known->good_until > now + KEEP_GOOD / 2)
                                continue;
                        if (device->keeps.on)
                                count_given(device, now);
                        else
                                begin_window(device, now);
                        device->keeps.on = true;
                        device->keeps.told = (struct cleave_turns){
                                turn.from, turn.until, turn.period, now + KEEP_GOOD};
                        tell_turns_of(compute, t, i, &device->keeps.told);
                }
}

/* When those launch who keep turns by the clock, or are loops beside several, their programs say:
 * sooner than records do, that tells whether somebody uses his turn. It costs them some 30 ns each;
 * others need not look at the clock for it. */
static void hear_launches(struct compute *compute, uint64_t now)
{
        for (struct tenant *t = compute->manager->tenants; t; t = t->hh.next)
                for (unsigned i = 0; t->steered && i < t->devices; i++) {
                        struct tenant_device *device = &t->device[i];
                        struct arbiter_state state;
                        bool said;

                        if (arbiter_inspect(compute->arbiter, t->id, device->index, &state) < 0)
                                continue;
                        said = (device->keeps.on || state.heard) && gates_can_keep(t) &&
                               !gates_why(compute->manager, device->index);
                        if (said == device->launches.said)
                                continue;
                        device->launches.since = now;
                        gates_hear(t, i, said);
                }
}

/* Who has kept off, and is not left to any more, is disabled if he is to stay off. */
static void disable_rest(struct compute *compute, uint64_t now)
{
        for (struct tenant *t = compute->manager->tenants; t; t = t->hh.next)
                for (unsigned i = 0; t->steered && i < t->devices; i++) {
                        struct tenant_device *device = &t->device[i];

                        if (!device->keeps.off || device->keeps.on)
                                continue;
                        device->keeps.off = false;
                        (void)arbiter_let_go(compute->arbiter, now, t->id, device->index);
                }
}

static void step(struct compute *compute)
{
        struct manager *manager = compute->manager;
        struct arbiter_action actions[ARBITER_MAX_ACTIONS];
        uint64_t now = arbiter_time(compute, clock_ns());
        struct session *session;
        unsigned count;
        bool news;

        for (struct tenant *t = manager->tenants; t; t = t->hh.next) {
                if (!t->steered)
                        continue;
                DL_FOREACH(t->sessions, session)
                {
                        if (misses_descriptor(session)) {
                                search_descriptors(session);
                                if (session->rm_fds == 0)
                                        tell_unreachable(session);
                        }
                        hold_descriptors(compute, session);
                        tell_lost_groups(session);
                }
        }
        open_devices(compute);
        news = has_news(compute, now);
        for (struct tenant *t = manager->tenants; t; t = t->hh.next)
                for (unsigned i = 0; t->steered && i < t->devices; i++)
                        if (news || t->device[i].launches.said)
                                observe(compute, t, i, now);
        count = arbiter_step(compute->arbiter, now, actions);
        tell_turns(compute, now);
        hear_launches(compute, now);
        for (unsigned from = 0, to; from < count; from = to) {
                to = from + 1;
                while (to < count && is_switch(actions[from].act) &&
                        actions[to].batch == actions[from].batch &&
                        actions[to].act == actions[from].act &&
                        actions[to].device == actions[from].device)
                        to++;
                do_actions(compute, &actions[from], to - from);
        }
        disable_rest(compute, now);
        if (now >= compute->next_check && !compute->to_send) {
                compute->next_check = now + CHECK_NS;
                check_slices(compute);
        }
        send_commands(compute);
}

/* ---- the steering process -------------------------------------------------------------------- */

/* The next one counts from 0. */
static void forget_view(struct compute *compute)
{
        struct session *session;

        steer_view_unmap(compute->view);
        compute->view = NULL;
        for (struct tenant *t = compute->manager->tenants; t; t = t->hh.next)
                DL_FOREACH(t->sessions, session)
        for (unsigned i = 0; i < t->devices; i++)
                session->use[i] = (struct session_use){.known = true};
}

static void steering_ended(struct compute *compute)
{
        struct manager *manager = compute->manager;
        uint64_t now = arbiter_time(compute, clock_ns());
        struct session *session;

        compute->io = sd_event_source_disable_unref(compute->io);
        compute->fd = close_safe(compute->fd);
        compute->pid = 0;
        forget_view(compute);
        drop_commands(compute);
        memset(compute->opened, 0, sizeof(compute->opened));
        compute->failed_starts = compute->serves ? 0 : compute->failed_starts + 1;
        if (compute->failed_starts >= FAILED_STARTS && !compute->failure_told) {
                compute->failure_told = true;
                events_add(&manager->events, EVENT_STEERING_FAILED, (struct event_subject){0},
                        "the steering process cannot start; the daemon's log has more");
                gate_all(compute, "the steering process does not start");
        }
        compute->start_pause =
                compute->serves ? RESTART_MIN : MIN_OF(compute->start_pause * 2, RESTART_MAX);
        compute->serves = compute->answers = false;
        compute->next_start = clock_usec(CLOCK_MONOTONIC) + compute->start_pause;
        for (struct tenant *t = manager->tenants; t; t = t->hh.next) {
                DL_FOREACH(t->sessions, session)
                session->rm_known = 0;
                for (unsigned i = 0; t->steered && i < t->devices; i++) {
                        (void)arbiter_forget(compute->arbiter, now, t->id, t->device[i].index);
                        count_on(&t->device[i], now);
                        stop_keeping(compute, t, i);
                        t->device[i].off = t->device[i].disabled = t->device[i].keeps.off = false;
                        /* RM is to be asked again whose the clients are */
                        t->device[i].groups_hash = 0;
                }
        }
}

static void check_answer(struct compute *compute, const struct command *command, uint64_t value)
{
        struct manager *manager = compute->manager;
        struct tenant *tenant = tenant_by_id(manager, command->tenant);
        struct arbiter_state state;
        unsigned index;

        if (!tenant || command->device >= tenant->devices)
                return;
        index = tenant->device[command->device].index;
        /* meanwhile another was set */
        if (value == command->expected ||
                arbiter_inspect(compute->arbiter, tenant->id, index, &state) < 0 ||
                state.slice_us != command->expected)
                return;
        events_add(&manager->events, EVENT_COMPUTE_RESTORED,
                (struct event_subject){.tenant = tenant->id,
                        .device = manager->device[index].info.uuid_text,
                        .pid = command->pid,
                        .detail = json_pack("{s:I, s:I}", "found_us", (json_int_t)value, "set_us",
                                (json_int_t)command->expected)},
                "process %d of tenant %s has changed its time slice; it is put back",
                (int)command->pid, tenant->name);
        (void)arbiter_forget(
                compute->arbiter, arbiter_time(compute, clock_ns()), tenant->id, index);
}

/* RM does not know the client by what the guard has passed: others of the process are tried. */
static void not_known(struct compute *compute, const struct command *command)
{
        struct manager *manager = compute->manager;
        struct session *session;
        pid_t pid = command->pid;

        HASH_FIND_INT(manager->sessions, &pid, session);
        if (session && session->holder == command->wire.holder)
                search_descriptors(session);
}

/* The first group of a device that is known: before anything depends on it, it is found out whether
 * the driver lets us steer. To be taken off the engine once changes nothing for it. */
static void try_to_steer(struct compute *compute, const struct command *known)
{
        struct command *command;
        unsigned index = known->wire.device;

        if (index >= STEER_MAX_DEVICES || compute->tried[index] || compute->worked[index])
                return;
        command = command_new(compute, STEER_PREEMPT);
        if (!command)
                return;
        compute->tried[index] = true;
        command->wire.holder = known->wire.holder;
        command->wire.client = known->wire.client;
        command->wire.object = known->wire.object;
        command->wire.subdevice = known->wire.subdevice;
        command->wire.device = index;
        command->purpose = FOR_TRIAL;
}

/* What was used while nobody could be held back is not made up for: a tenant would stand still. */
static void forgive(struct compute *compute)
{
        uint64_t now = arbiter_time(compute, clock_ns());

        for (struct tenant *t = compute->manager->tenants; t; t = t->hh.next)
                for (unsigned i = 0; i < t->devices; i++)
                        t->device[i].on_until = now;
        arbiter_resume(compute->arbiter, now);
}

static void answered(
        struct compute *compute, struct command *command, const struct steer_answer *answer)
{
        switch (command->purpose) {
        case FOR_OPERATION:
                operation_done(compute, command->operation, answer->result, answer->end_ns);
                break;
        case FOR_CHECK:
                if (answer->result == 0)
                        check_answer(compute, command, answer->value);
                break;
        case FOR_KNOWING:
                if (answer->result == -ENOENT || answer->result == -EPERM)
                        not_known(compute, command);
                else if (answer->result == 0)
                        try_to_steer(compute, command);
                break;
        case FOR_TRIAL:
                /* that it may be done says nothing of the others */
                if (answer->result < 0)
                        learn_means(compute, command->wire.device, answer->result);
                break;
        case FOR_START:
                if (answer->result == -EPERM || answer->result == -EOPNOTSUPP)
                        gate_device(compute, command->wire.device,
                                "the driver does not let this daemon open the device to steer it");
                if (answer->result < 0)
                        manager_warn(compute->manager,
                                "device %u cannot be steered: %s (RM status 0x%x)",
                                command->wire.device, strerror(-answer->result), answer->status);
                else
                        compute->serves = true;
                if (!compute->answers)
                        forgive(compute);
                compute->answers = true;
                break;
        case FOR_NOBODY:
                break;
        }
}

static int steering_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
        struct compute *compute = userdata;

        (void)source;
        (void)events;
        for (;;) {
                struct command *command = NULL;
                struct steer_answer answer;
                ssize_t n = recv(fd, &answer, sizeof(answer), MSG_DONTWAIT | MSG_TRUNC);

                if (n < 0 && (errno == EAGAIN || errno == EINTR))
                        break;
                /* the first, except that what passes on a turn may have overtaken one that takes
                 * long */
                if (n == sizeof(answer) && answer.magic == STEER_MAGIC)
                        DL_SEARCH_SCALAR(compute->sent, command, wire.serial, answer.serial);
                if (!command) {
                        steering_ended(compute);
                        schedule(compute);
                        return 0;
                }
                /* what was overtaken has been under way all the while */
                if (command == compute->sent)
                        compute->answered_at = clock_ns();
                DL_DELETE(compute->sent, command);
                compute->sent_count--;
                answered(compute, command, &answer);
                command_free(command);
        }
        send_commands(compute);
        schedule(compute);
        return 0;
}

static int get_board(struct manager *manager)
{
        int r;

        if (manager->steer_board >= 0)
                return 0;
        r = steer_board_new(&manager->steer_board);
        if (r < 0)
                return r;
        /* should both of us be killed, the next ones find it there */
        r = store_put(&manager->store, BOARD_NAME, manager->steer_board);
        if (r < 0)
                manager_warn(
                        manager, "the board of the steering process is not kept: %s", strerror(-r));
        return 0;
}

/* Starts `cleaved --steer SOCKET BOARD VIEW BACKEND`. */
static int spawn(struct manager *manager, int *ret_fd, pid_t *ret_pid, struct steer_view **ret_view)
{
        _cleanup_close_ int ours = -EBADF, theirs = -EBADF, board = -EBADF;
        _cleanup_close_ int view_fd = -EBADF, view = -EBADF;
        _cleanup_free_ char *program = NULL;
        char socket_number[16], board_number[16], view_number[16];
        posix_spawnattr_t attributes;
        char *arguments[7];
        sigset_t none;
        int pair[2], r;

        r = own_executable(&program);
        if (r == 0)
                r = get_board(manager);
        if (r < 0)
                return r;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
                return -errno;
        ours = pair[0];
        /* without close-on-exec: nobody else forks, the sampler does not */
        theirs = fcntl(pair[1], F_DUPFD, 3);
        close_safe(pair[1]);
        board = fcntl(manager->steer_board, F_DUPFD, 3);
        r = steer_view_new(&view_fd);
        if (r < 0)
                return r;
        view = fcntl(view_fd, F_DUPFD, 3);
        if (theirs < 0 || board < 0 || view < 0)
                return -errno;
        /* the two ends have each their own mode */
        r = set_nonblocking(theirs, false);
        if (r < 0)
                return r;
        snprintf(socket_number, sizeof(socket_number), "%d", theirs);
        snprintf(board_number, sizeof(board_number), "%d", board);
        snprintf(view_number, sizeof(view_number), "%d", view);
        arguments[0] = (char *)"cleaved";
        arguments[1] = (char *)"--steer";
        arguments[2] = socket_number;
        arguments[3] = board_number;
        arguments[4] = view_number;
        arguments[5] = (char *)manager->backend->name;
        arguments[6] = NULL;
        posix_spawnattr_init(&attributes);
        sigemptyset(&none);
        posix_spawnattr_setsigmask(&attributes, &none);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
        if (manager->compute)
                waker_wait(manager->compute->waker);
        r = posix_spawn(ret_pid, program, NULL, &attributes, arguments, environ);
        posix_spawnattr_destroy(&attributes);
        if (r != 0)
                return -r;
        /* without it we go by our own record */
        if (ret_view && steer_view_map(view_fd, ret_view) < 0)
                *ret_view = NULL;
        *ret_fd = TAKE_FD(ours);
        return 0;
}

static int start_steering(struct compute *compute)
{
        struct manager *manager = compute->manager;
        int r;

        r = spawn(manager, &compute->fd, &compute->pid, &compute->view);
        if (r < 0)
                return r;
        r = sd_event_add_io(
                manager->event, &compute->io, compute->fd, EPOLLIN, steering_io, compute);
        if (r < 0)
                return r;
        return sd_event_source_set_priority(compute->io, SD_EVENT_PRIORITY_IMPORTANT);
}

/* ---- time ------------------------------------------------------------------------------------ */

/* Somebody who is to be steered runs, or may soon. */
static bool is_wanted(struct manager *manager)
{
        if (manager->compute && manager->compute->unsteered)
                return false;
        for (struct tenant *t = manager->tenants; t; t = t->hh.next)
                if (t->compute && t->state != TENANT_WAITING)
                        return true;
        return false;
}

/* Stopped, or in a call that does not return: those whom it has disabled would stay so. */
static void look_for_hang(struct compute *compute)
{
        uint64_t limit = compute->answers ? HANG_NS : HANG_START_NS, now = clock_ns();

        /* commands are done one after the other: time counts from the answer to the one before */
        if (compute->fd < 0 || compute->pid <= 0 || !compute->sent ||
                now < MAX_OF(compute->sent->sent_at, compute->answered_at) + limit)
                return;
        manager_warn(compute->manager,
                "the steering process (%d) has not answered for %u s: it is ended",
                (int)compute->pid, (unsigned)(limit / 1000000000u));
        (void)kill(compute->pid, SIGKILL);
        compute->answered_at = now;
}

static int tick(sd_event_source *source, uint64_t usec, void *userdata)
{
        struct compute *compute = userdata;
        int r;

        (void)source;
        compute->due = usec * NSEC_PER_USEC;
        if (compute->fd < 0 && clock_usec(CLOCK_MONOTONIC) >= compute->next_start &&
                is_wanted(compute->manager)) {
                r = start_steering(compute);
                if (r < 0) {
                        manager_warn(compute->manager, "the steering process cannot be started: %s",
                                strerror(-r));
                        steering_ended(compute);
                }
        }
        look_for_hang(compute);
        if (compute->fd >= 0 && compute->answers)
                step(compute);
        else if (compute->fd >= 0) {
                /* nothing can be done yet */
                open_devices(compute);
                send_commands(compute);
        }
        compute->due = 0;
        schedule(compute);
        return 0;
}

static void schedule(struct compute *compute)
{
        uint64_t at = arbiter_next(compute->arbiter) / NSEC_PER_USEC;

        if (compute->fd < 0)
                at = is_wanted(compute->manager) ? compute->next_start
                                                 : clock_usec(CLOCK_MONOTONIC) + USEC_PER_SEC;
        else if (!compute->answers)
                at = clock_usec(CLOCK_MONOTONIC) + START_LOOK;
        sd_event_source_set_time(compute->timer, at);
        sd_event_source_set_enabled(compute->timer, SD_EVENT_ONESHOT);
        waker_set(compute->waker, arbiter_is_awaited(compute->arbiter) ? at * NSEC_PER_USEC : 0);
}

/* ---- tenants --------------------------------------------------------------------------------- */

int compute_available(struct manager *manager, struct cleave_error *error)
{
        if (manager->backend == &device_backend_sim)
                return 0;
        if (manager->backend == &device_backend_null)
                return error_set(error, CLEAVE_REASON_NO_DRIVER, "there are no GPUs: %s",
                        manager->backend->detail(manager->backend_handle));
        return 0;
}

/* Where it is clear before anything is tried that nobody can be steered. */
static void begin_gates(struct compute *compute)
{
        struct manager *manager = compute->manager;

        compute->unsteered = true;
        if (manager->config.compute == COMPUTE_GATE)
                gate_all(compute, "the configuration says so");
        else if (manager->backend != &device_backend_sim && access(CONTROL_PATH, R_OK | W_OK) < 0)
                gate_all(compute, CONTROL_PATH " is out of this daemon's reach");
        else
                compute->unsteered = false;
        /* what was refused once is not tried again by this daemon */
        for (unsigned i = 0; i < MIN_OF(manager->devices, ARBITER_MAX_DEVICES); i++)
                if (manager->refused[i])
                        gate_device(compute, i, manager->refused[i]);
}

static void compute_free(struct compute *compute)
{
        waker_free(compute->waker);
        sd_event_source_disable_unref(compute->timer);
        sd_event_source_disable_unref(compute->io);
        drop_commands(compute);
        /* with this, it enables everything, puts slices back and ends */
        close_safe(compute->fd);
        forget_view(compute);
        arbiter_free(compute->arbiter);
        free(compute);
}

static int enter(struct compute *compute, struct tenant *tenant)
{
        unsigned devices[CLEAVE_MAX_DEVICES];
        int r;

        /* its kernels run in the MPS server's channel group, and its SMs are its share */
        if (tenant->space.on)
                return 0;
        for (unsigned i = 0; i < tenant->devices; i++)
                devices[i] = tenant->device[i].index;
        r = arbiter_admit(compute->arbiter, arbiter_time(compute, clock_ns()), tenant->id, devices,
                tenant->devices, &tenant->terms);
        if (r == 0) {
                tenant->steered = true;
                gates_enter(tenant);
        }
        return r;
}

static int start(struct manager *manager)
{
        struct compute *compute = calloc(1, sizeof(*compute));
        int r;

        if (!compute)
                return -ENOMEM;
        compute->manager = manager;
        compute->fd = -EBADF;
        compute->start_pause = RESTART_MIN;
        r = arbiter_new(MIN_OF(manager->devices, ARBITER_MAX_DEVICES), NULL, &compute->arbiter);
        /* an early or late call is a wrong share: no coalescing, and before what can wait */
        if (r == 0)
                r = sd_event_add_time(manager->event, &compute->timer, CLOCK_MONOTONIC,
                        clock_usec(CLOCK_MONOTONIC), 1, tick, compute);
        if (r >= 0)
                r = sd_event_source_set_priority(compute->timer, SD_EVENT_PRIORITY_IMPORTANT);
        if (r < 0) {
                compute_free(compute);
                return r;
        }
        /* without it, it is late now and then */
        (void)waker_new(manager->event, &compute->waker);
        manager->compute = compute;
        begin_gates(compute);
        /* those without terms share what is left; whoever finds no room is left as he is */
        for (struct tenant *t = manager->tenants; t; t = t->hh.next)
                if (!t->compute)
                        (void)enter(compute, t);
        return 0;
}

static void stop(struct manager *manager)
{
        struct session *session;

        if (!manager->compute)
                return;
        for (struct tenant *t = manager->tenants; t; t = t->hh.next) {
                t->steered = false;
                for (unsigned i = 0; i < t->devices; i++) {
                        stop_keeping(manager->compute, t, i);
                        t->device[i].keeps.off = false;
                        t->device[i].groups = t->device[i].channels = 0;
                        t->device[i].groups_hash = t->device[i].groups_since = 0;
                        t->device[i].refused_told = t->device[i].off = false;
                        t->device[i].use_known = t->device[i].share_known = false;
                        t->device[i].second_at = 0;
                }
                DL_FOREACH(t->sessions, session)
                {
                        session->holder = UINT32_MAX;
                        forget_descriptors(session);
                }
        }
        compute_free(manager->compute);
        manager->compute = NULL;
        gates_stop(manager);
}

static void stop_if_last(struct manager *manager)
{
        for (struct tenant *t = manager->tenants; t; t = t->hh.next)
                if (t->compute)
                        return;
        stop(manager);
}

static int refusal(const struct tenant *tenant, const struct arbiter_terms *terms,
        unsigned available, int r, struct cleave_error *error)
{
        switch (r) {
        case -ENOSPC:
                return error_set(error, CLEAVE_REASON_BEYOND_COMPUTE,
                        "%u %% of the time were asked, %u %% can still be guaranteed on device%s",
                        terms->share, available,
                        tenant->devices > 1 ? "s that the tenant has" : " of the tenant");
        case -EUSERS:
                return error_set(error, CLEAVE_REASON_TOO_MANY,
                        "at most %u tenants can be steered at a time", ARBITER_MAX_TENANTS);
        case -EINVAL:
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "compute is of whole percents, compute_max from compute to 100, on devices "
                        "below %u",
                        ARBITER_MAX_DEVICES);
        default:
                return error_set_errno(error, r, "compute cannot be granted");
        }
}

static int fits(
        struct tenant *tenant, const struct arbiter_terms *terms, struct cleave_error *error)
{
        struct compute *compute = tenant->manager->compute;
        unsigned devices[CLEAVE_MAX_DEVICES], available = 0;
        int r;

        for (unsigned i = 0; i < tenant->devices; i++)
                devices[i] = tenant->device[i].index;
        r = arbiter_fits(compute->arbiter, devices, tenant->devices, terms, tenant->id, &available);
        return r < 0 ? refusal(tenant, terms, available, r, error) : 0;
}

int compute_admit(struct tenant *tenant, struct cleave_error *error)
{
        struct manager *manager = tenant->manager;
        int r;

        if (!tenant->compute) {
                if (manager->compute) {
                        (void)enter(manager->compute, tenant);
                        schedule(manager->compute);
                }
                return 0;
        }
        if (!manager->compute) {
                r = start(manager);
                if (r < 0)
                        return error_set_errno(error, r, "compute cannot be granted");
        }
        r = fits(tenant, &tenant->terms, error);
        if (r == 0) {
                r = enter(manager->compute, tenant);
                if (r < 0)
                        r = refusal(tenant, &tenant->terms, 0, r, error);
        }
        if (r < 0) {
                tenant->compute = false;
                stop_if_last(manager);
                return r;
        }
        schedule(manager->compute);
        return 0;
}

int compute_change(struct tenant *tenant, bool has, const struct arbiter_terms *terms,
        struct cleave_error *error)
{
        struct manager *manager = tenant->manager;
        int r;

        if (!manager->compute && has) {
                r = start(manager);
                if (r < 0)
                        return error_set_errno(error, r, "compute cannot be granted");
        }
        if (!manager->compute)
                return 0;
        r = fits(tenant, terms, error);
        if (r == 0) {
                if (tenant->steered) {
                        r = arbiter_change(manager->compute->arbiter,
                                arbiter_time(manager->compute, clock_ns()), tenant->id, terms);
                } else {
                        struct arbiter_terms old = tenant->terms;

                        tenant->terms = *terms;
                        r = enter(manager->compute, tenant);
                        if (r < 0)
                                tenant->terms = old;
                }
                if (r < 0)
                        r = refusal(tenant, terms, 0, r, error);
        }
        if (r == 0) {
                tenant->compute = has;
                tenant->terms = *terms;
                gates_change(tenant);
                schedule(manager->compute);
        }
        stop_if_last(manager);
        return r;
}

void compute_leave(struct tenant *tenant)
{
        struct manager *manager = tenant->manager;

        if (!manager->compute)
                return;
        gates_leave(tenant);
        if (tenant->steered)
                (void)arbiter_leave(manager->compute->arbiter,
                        arbiter_time(manager->compute, clock_ns()), tenant->id);
        tenant->steered = tenant->compute = false;
        stop_if_last(manager);
        if (manager->compute)
                schedule(manager->compute);
}

void compute_recover(struct manager *manager)
{
        struct steer_board *board;
        unsigned left = 0;
        pid_t pid;
        int fd;

        for (struct tenant *t = manager->tenants; t && !manager->compute; t = t->hh.next)
                gates_clear(t);
        manager->steer_board = store_take(&manager->store, BOARD_NAME);
        if (manager->steer_board < 0) {
                manager->steer_board = -EBADF;
                return;
        }
        if (steer_board_map(manager->steer_board, &board) < 0) {
                manager->steer_board = close_safe(manager->steer_board);
                return;
        }
        left = steer_board_count(board);
        steer_board_unmap(board);
        /* nobody is to be steered, but something is still disabled: one that comes, enables and
         * goes */
        if (left > 0 && !manager->compute && spawn(manager, &fd, &pid, NULL) == 0)
                close_safe(fd);
}

enum compute_haste compute_haste(struct manager *manager)
{
        enum compute_haste haste = COMPUTE_NONE;
        struct arbiter_state state;

        if (!manager->compute || manager->compute->fd < 0)
                return COMPUTE_NONE;
        for (struct tenant *t = manager->tenants; t; t = t->hh.next) {
                if (!t->steered)
                        continue;
                if (t->terms.cap > 0 && t->terms.cap < 100)
                        haste = COMPUTE_CAPS;
                else if (haste == COMPUTE_NONE)
                        haste = COMPUTE_SLICES;
                for (unsigned i = 0; i < t->devices; i++)
                        if (arbiter_inspect(manager->compute->arbiter, t->id, t->device[i].index,
                                    &state) == 0 &&
                                state.turns)
                                return COMPUTE_TURNS;
        }
        return haste;
}

void compute_done(struct manager *manager)
{
        stop(manager);
        manager->steer_board = close_safe(manager->steer_board);
}

/* ---- what is told ---------------------------------------------------------------------------- */

void compute_add_tenant_json(struct tenant *tenant, json_t *object)
{
        const struct arbiter_terms *terms = &tenant->terms;

        if (!tenant->compute && !tenant->space.on) {
                json_object_set_new(object, "compute", json_null());
                json_object_set_new(object, "compute_max", json_null());
                json_object_set_new(object, "priority", json_null());
                return;
        }
        json_object_set_new(object, "compute", json_integer(terms->share));
        json_object_set_new(
                object, "compute_max", terms->cap ? json_integer(terms->cap) : json_null());
        json_object_set_new(object, "priority", json_string(priority_word(terms->priority)));
}

void compute_add_device_json(struct tenant *tenant, unsigned i, json_t *object)
{
        static const char *const demand_words[] = {
                [ARBITER_IDLE] = "none",
                [ARBITER_BACKLOGGED] = "backlog",
                [ARBITER_SPORADIC] = "intermittent",
                [ARBITER_SYNCHRONOUS] = "loop",
        };
        struct compute *compute = tenant->manager->compute;
        const char *why = gates_why(tenant->manager, tenant->device[i].index);
        const struct tenant_device *device;
        struct arbiter_state state;
        struct gate_state gate;
        const char *source = "record";

        if (!tenant->steered || arbiter_inspect(compute->arbiter, tenant->id,
                                        tenant->device[i].index, &state) < 0) {
                json_object_set_new(object, "compute", json_null());
                return;
        }
        /* our own record says what could have been used at most: not a figure to be shown as used
         */
        device = &tenant->device[i];
        if (device->use_known)
                source = "switches";
        if (why && gates_inspect(tenant, i, &gate)) {
                state = (struct arbiter_state){
                        .target_ppm = gate.target_ppm,
                        .disabled = gate.wants && !gate.holds,
                        .turns = true,
                };
                if (!compute_is_watched(tenant->manager, device->index, clock_ns()))
                        source = "markers";
        }
        json_object_set_new(object, "compute",
                json_pack("{s:s, s:o, s:s?, s:f, s:o, s:b, s:b, s:b, s:b, s:o, s:o, s:s}",
                        "mechanism", why ? "gate" : "channel-control", "mechanism_why",
                        why ? json_string(why) : json_null(), "demand",
                        why ? NULL : demand_words[state.kind], "target",
                        (double)state.target_ppm / 1e6, "slice_us",
                        state.slice_us ? json_integer((json_int_t)state.slice_us) : json_null(),
                        "disabled", (int)state.disabled, "turns", (int)state.turns, "by_clock",
                        (int)tenant->device[i].keeps.on, "refused", (int)state.refused,
                        "gpu_seconds",
                        device->use_known ? json_real((double)device->counted_ns / 1e9)
                                          : json_null(),
                        "gpu_share",
                        device->share_known ? json_real((double)device->share_ppm / 1e6)
                                            : json_null(),
                        "source", source));
}

/* From what use is known: the same for all devices but where RM answers differently. */
static const char *source_sentence(const struct compute *compute)
{
        bool refused = false, watched = false, own = false;

        for (unsigned i = 0; compute->view && i < STEER_MAX_DEVICES; i++) {
                uint32_t state = atomic_load(&compute->view->device[i].state);

                refused |= state == STEER_WATCH_REFUSED;
                watched |= state == STEER_WATCHED_ALL || state == STEER_WATCHED_OWN;
                own |= state == STEER_WATCHED_OWN;
        }
        if (refused || !watched)
                return refused ? "use is known by our own record alone, as the driver does not let "
                                 "us read its context switches"
                               : "use is known by our own record alone";
        return own ? "use is read from the engine's context switches, of this user's processes"
                   : "use is read from the engine's context switches";
}

json_t *compute_info_json(struct manager *manager)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        const struct compute *compute = manager->compute;
        const char *mechanism = "channel-control", *why = NULL;
        unsigned gated = 0, devices = MIN_OF(manager->devices, ARBITER_MAX_DEVICES);
        char detail[384];

        for (unsigned i = 0; i < devices; i++)
                if (gates_why(manager, i)) {
                        why = gates_why(manager, i);
                        gated++;
                }

        if (compute_available(manager, &error) < 0) {
                mechanism = "none";
                snprintf(detail, sizeof(detail), "%s", error_message(&error));
        } else if (!compute) {
                snprintf(detail, sizeof(detail),
                        "time slices and channel control; not in use, as no tenant has a share, "
                        "cap "
                        "or priority");
        } else if (gated == devices && gated > 0) {
                mechanism = "gate";
                snprintf(detail, sizeof(detail),
                        "launches wait for their turn at a gate in the tenants' processes: %s; %s",
                        why,
                        compute->serves && !strstr(source_sentence(compute), "record")
                                ? source_sentence(compute)
                                : "use is measured by markers");
        } else if (gated > 0) {
                snprintf(detail, sizeof(detail),
                        "time slices and channel control; on %u of %u devices a gate in the "
                        "tenants' processes: %s",
                        gated, devices, why);
        } else if (compute->serves) {
                snprintf(detail, sizeof(detail),
                        "time slices and channel control; %s; by process %d",
                        source_sentence(compute), (int)compute->pid);
        } else if (compute->failure_told) {
                mechanism = "none";
                snprintf(detail, sizeof(detail),
                        "the steering process does not start, so no share or cap is kept");
        } else {
                snprintf(detail, sizeof(detail),
                        "time slices and channel control; the steering process is starting");
        }
        return json_pack("{s:s, s:s}", "mechanism", mechanism, "detail", detail);
}
