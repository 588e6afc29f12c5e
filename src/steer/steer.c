/* SPDX-License-Identifier: Apache-2.0 */
/* The steering process: commands in, calls of RM, answers out. */
#include "steer/steer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "steer/aside.h"
#include "steer/watch.h"

/* Enabling is tried again as long as this when the process ends, ms: a device in reset comes back.
 */
#define LAST_TRIES_MS 2000
/* So long the one before may take for that, and for putting slices back. */
#define BEFORE_MS 5000

/* A client that RM knows by one of a holder's descriptors: its channels may be disabled. */
#define HOLDER_CLIENTS 16u

struct holder {
        uint32_t pid; /* 0: not told */
        int fd[STEER_HOLDER_FDS];
        unsigned fds;
        uint32_t client[HOLDER_CLIENTS];
        unsigned clients;
};

/* A group whose slice or mode we have changed, and what it was before. */
struct touched {
        struct touched *next;
        uint32_t holder;
        uint32_t client, object, subdevice;
        uint64_t slice; /* before us; 0: unchanged */
        bool mode;      /* changed to thread block */
};

struct steer {
        const struct steer_backend *backend;
        void *handle;
        struct steer_board *board;
        int socket, signals;
        bool open[STEER_MAX_DEVICES];
        unsigned free_hint; /* no entry of the board below is free */
        struct holder *holder[STEER_HOLDERS];
        struct touched *touched;
        bool inherits;       /* a process before this one has set slices */
        struct watch *watch; /* NULL: nothing is watched */

        /* Switching while something else is under way, with a client of RM of its own: RM makes one
         * call of a client at a time. */
        struct aside *aside; /* NULL: all is done one after the other */
        void *aside_handle;
        pthread_mutex_t serving;            /* held by who takes commands and does them */
        pthread_mutex_t lock;               /* of the board, as both change it */
        const struct steer_command *beside; /* what is under way meanwhile */
        _Atomic bool repeated;              /* the other thread does it, too */
};

/* -- devices ----------------------------------------------------------------------------------- */

static int open_device(
        struct steer *steer, unsigned index, const uint8_t uuid[16], uint32_t *ret_status)
{
        static const uint8_t none[16];
        int r;

        if (index >= STEER_MAX_DEVICES)
                return -EBADMSG;
        /* entries may name it already */
        if (memcmp(steer->board->uuid[index], none, 16) != 0 &&
                memcmp(steer->board->uuid[index], uuid, 16) != 0)
                return -EBADMSG;
        if (steer->open[index])
                return 0;
        r = steer->backend->open_device(steer->handle, index, uuid, ret_status);
        if (r == 0 && steer->aside)
                r = steer->backend->open_device(steer->aside_handle, index, uuid, ret_status);
        if (r < 0)
                return r;
        memcpy(steer->board->uuid[index], uuid, 16);
        steer->open[index] = true;
        watch_device(steer->watch, index, uuid);
        return 0;
}

/* -- the board --------------------------------------------------------------------------------- */

static struct steer_entry *board_find(
        struct steer_board *board, unsigned device, const struct steer_channel *channel)
{
        unsigned high = MIN_OF(atomic_load(&board->high), STEER_BOARD_ENTRIES);

        for (unsigned i = 0; i < high; i++) {
                struct steer_entry *entry = &board->entry[i];

                if (atomic_load(&entry->used) == 1 && entry->device == device &&
                        entry->client == channel->client && entry->channel == channel->channel)
                        return entry;
        }
        return NULL;
}

/* -ENOSPC: what does not stand on the board is not disabled. */
static int board_add(
        struct steer *steer, unsigned device, uint32_t holder, const struct steer_channel *channel)
{
        struct steer_board *board = steer->board;

        for (unsigned i = steer->free_hint; i < STEER_BOARD_ENTRIES; i++) {
                struct steer_entry *entry = &board->entry[i];

                if (atomic_load(&entry->used) == 1)
                        continue;
                entry->device = (uint16_t)device;
                entry->holder = (uint16_t)holder;
                entry->client = channel->client;
                entry->channel = channel->channel;
                if (i >= atomic_load(&board->high))
                        atomic_store(&board->high, i + 1);
                atomic_store(&entry->used, 1);
                steer->free_hint = i + 1;
                return 0;
        }
        return -ENOSPC;
}

static void board_remove(struct steer *steer, unsigned device, const struct steer_channel *channel)
{
        struct steer_entry *entry = board_find(steer->board, device, channel);
        unsigned high = MIN_OF(atomic_load(&steer->board->high), STEER_BOARD_ENTRIES);

        if (!entry)
                return;
        atomic_store(&entry->used, 0);
        steer->free_hint = MIN_OF(steer->free_hint, (unsigned)(entry - steer->board->entry));
        /* a long list of the past is not looked through for ever */
        while (high > 0 && atomic_load(&steer->board->entry[high - 1].used) != 1)
                high--;
        atomic_store(&steer->board->high, high);
}

/* -- disabling --------------------------------------------------------------------------------- */

static bool gone(int r)
{
        return r == -ENOENT;
}

/* Who may not disable a channel has not done so in a call for several either. */
static bool forbidden(int r)
{
        return r == -EPERM || r == -EOPNOTSUPP;
}

/* Those that are not yet as wanted. RM counts how often a channel was disabled (docs/probes.md): so
 * one that stands on the board is not disabled again, nor one enabled that does not. */
static int choose_channels(struct steer *steer, unsigned device,
        const struct steer_channel *channels, const uint16_t *holders, unsigned count,
        enum steer_switch how, struct steer_channel chosen[STEER_MAX_CHANNELS], unsigned *ret)
{
        bool disable = how != STEER_ON;
        unsigned n = 0;
        int r = 0;

        pthread_mutex_lock(&steer->lock);
        for (unsigned i = 0; r == 0 && i < count; i++) {
                struct steer_entry *known = board_find(steer->board, device, &channels[i]);

                if (known && disable)
                        known->holder = holders[i];
                if (!known == !disable)
                        continue;
                r = disable ? board_add(steer, device, holders[i], &channels[i]) : 0;
                if (r == 0)
                        chosen[n++] = channels[i];
        }
        while (r < 0 && n > 0)
                board_remove(steer, device, &chosen[--n]);
        pthread_mutex_unlock(&steer->lock);
        *ret = n;
        return r;
}

static void unlist(struct steer *steer, unsigned device, const struct steer_channel *channel)
{
        pthread_mutex_lock(&steer->lock);
        board_remove(steer, device, channel);
        pthread_mutex_unlock(&steer->lock);
}

/* By that handle, one call for all; where that is refused, one for each, so that a channel that has
 * just gone does not keep the others from their turn. ret_done: how many are as wanted. */
static int switch_channels(struct steer *steer, void *handle, unsigned device,
        const struct steer_channel *channels, const uint16_t *holders, unsigned count,
        enum steer_switch how, uint64_t *ret_done, uint32_t *ret_status)
{
        const struct steer_backend *backend = steer->backend;
        bool disable = how != STEER_ON;
        struct steer_channel chosen[STEER_MAX_CHANNELS];
        uint32_t status = 0;
        unsigned n = 0;
        int result = 0, r;

        r = choose_channels(steer, device, channels, holders, count, how, chosen, &n);
        if (r < 0)
                return r;
        *ret_done = count - n;
        if (n == 0)
                return 0;
        r = backend->disable(handle, device, chosen, n, how, &status);
        if (r == 0) {
                for (unsigned i = 0; !disable && i < n; i++)
                        unlist(steer, device, &chosen[i]);
                *ret_done = count;
                return 0;
        }
        for (unsigned i = 0; i < n; i++) {
                bool enabled = false;

                /* it may be one of those that the refused call has disabled */
                if (disable)
                        enabled = backend->disable(
                                          handle, device, &chosen[i], 1, STEER_ON, &status) == 0;
                r = backend->disable(handle, device, &chosen[i], 1, how, &status);
                if (r == 0)
                        ++*ret_done;
                else
                        *ret_status = status;
                /* what stands on the board is taken for disabled */
                if (gone(r) || (r == 0 && !disable) || (r < 0 && enabled) ||
                        (disable && forbidden(r)))
                        unlist(steer, device, &chosen[i]);
                if (r < 0 && !gone(r))
                        result = r;
        }
        return result;
}

/* Everything on the board that this holder (STEER_HOLDERS: anybody) has disabled. 0: nothing of it
 * stands there any more. */
static int enable_all(struct steer *steer, uint32_t holder, uint32_t *ret_status)
{
        struct steer_board *board = steer->board;
        int result = 0;

        for (unsigned device = 0; device < STEER_MAX_DEVICES; device++) {
                struct steer_channel channels[STEER_MAX_CHANNELS];
                unsigned from = 0, high, count;

                do {
                        count = 0;
                        pthread_mutex_lock(&steer->lock);
                        high = MIN_OF(atomic_load(&board->high), STEER_BOARD_ENTRIES);
                        for (; from < high && count < STEER_MAX_CHANNELS; from++) {
                                const struct steer_entry *entry = &board->entry[from];

                                if (atomic_load(&entry->used) != 1 || entry->device != device ||
                                        (holder != STEER_HOLDERS && entry->holder != holder))
                                        continue;
                                channels[count++] =
                                        (struct steer_channel){entry->client, entry->channel};
                        }
                        pthread_mutex_unlock(&steer->lock);
                        if (count > 0) {
                                uint64_t done = 0;
                                int r = open_device(steer, device, board->uuid[device], ret_status);

                                if (r == 0)
                                        r = switch_channels(steer, steer->handle, device, channels,
                                                NULL, count, STEER_ON, &done, ret_status);
                                if (r < 0)
                                        result = r;
                        }
                } while (count > 0);
        }
        return result;
}

/* -- holders ----------------------------------------------------------------------------------- */

static void *close_descriptors(void *argument)
{
        struct holder *holder = argument;

        for (unsigned i = 0; i < holder->fds; i++)
                close_safe(holder->fd[i]);
        free(holder);
        return NULL;
}

/* Where ours is the last descriptor of a process that has ended, closing it takes as long as RM
 * needs to take down all that the process had; nobody's turn waits for that. */
static void holder_free(struct steer *steer, uint32_t index)
{
        struct holder *holder = TAKE_PTR(steer->holder[index]);
        pthread_t thread;

        if (!holder)
                return;
        if (pthread_create(&thread, NULL, close_descriptors, holder) == 0)
                pthread_detach(thread);
        else
                close_descriptors(holder);
}

static int hold(struct steer *steer, uint32_t index, uint32_t pid, int *fd)
{
        struct holder *holder = steer->holder[index];

        if (*fd < 0)
                return -EBADMSG;
        if (!holder)
                holder = steer->holder[index] = calloc(1, sizeof(*holder));
        if (!holder)
                return -ENOMEM;
        holder->pid = pid;
        if (holder->fds == STEER_HOLDER_FDS)
                return -ENOSPC;
        holder->fd[holder->fds++] = TAKE_FD(*fd);
        return 0;
}

static bool holder_knows(const struct holder *holder, uint32_t client)
{
        for (unsigned i = 0; i < holder->clients; i++)
                if (holder->client[i] == client)
                        return true;
        return false;
}

/* RM has accepted a call on that client by this holder's descriptor. */
static void holder_learn(struct holder *holder, uint32_t client)
{
        if (holder_knows(holder, client))
                return;
        /* the oldest is asked about again when it is needed */
        if (holder->clients == HOLDER_CLIENTS)
                memmove(holder->client, holder->client + 1,
                        --holder->clients * sizeof(holder->client[0]));
        holder->client[holder->clients++] = client;
}

static int object_call(struct steer *steer, const struct steer_command *command,
        const struct steer_object *object, struct steer_answer *answer)
{
        const struct steer_backend *backend = steer->backend;
        void *handle = steer->handle;

        switch (command->type) {
        case STEER_SET_SLICE:
                return backend->set_slice(handle, object, command->value, &answer->status);
        case STEER_GET_SLICE:
                return backend->get_slice(handle, object, &answer->value, &answer->status);
        case STEER_SET_MODE:
                return backend->set_mode(handle, object, command->value == 1, &answer->status);
        case STEER_PREEMPT:
                return backend->preempt(handle, object, &answer->status);
        default:
                return backend->restart(handle, object, &answer->status);
        }
}

/* By each of the holder's descriptors, the one that did last first. */
static int by_holder(
        struct steer *steer, const struct steer_command *command, struct steer_answer *answer)
{
        struct holder *holder = steer->holder[command->holder];
        struct steer_object object = {
                .client = command->client,
                .object = command->object,
                .subdevice = command->subdevice,
        };
        int r = -EBADF;

        if (!holder)
                return -EBADF;
        for (unsigned i = 0; i < holder->fds; i++) {
                object.fd = holder->fd[i];
                r = object_call(steer, command, &object, answer);
                if (r == 0) {
                        holder->fd[i] = holder->fd[0];
                        holder->fd[0] = object.fd;
                        holder_learn(holder, command->client);
                        answer->status = 0;
                        return 0;
                }
                /* known, and refused all the same */
                if (holder_knows(holder, command->client))
                        return r;
        }
        return r;
}

/* -- what is put back at the end --------------------------------------------------------------- */

static struct touched *find_touched(struct steer *steer, const struct steer_command *command)
{
        struct touched *touched = steer->touched;

        while (touched &&
                !(touched->holder == command->holder && touched->client == command->client &&
                        touched->object == command->object))
                touched = touched->next;
        return touched;
}

/* Before the first change: without memory for it, it will not be put back. */
static struct touched *touch(struct steer *steer, const struct steer_command *command)
{
        struct touched *touched = find_touched(steer, command);

        if (touched)
                return touched;
        touched = calloc(1, sizeof(*touched));
        if (!touched)
                return NULL;
        touched->holder = command->holder;
        touched->client = command->client;
        touched->object = command->object;
        touched->next = steer->touched;
        steer->touched = touched;
        return touched;
}

static void forget_touched(struct steer *steer, uint32_t holder)
{
        struct touched **link = &steer->touched;

        while (*link) {
                struct touched *touched = *link;

                if (touched->holder == holder) {
                        *link = touched->next;
                        free(touched);
                } else {
                        link = &touched->next;
                }
        }
}

static void put_back(struct steer *steer, uint32_t holder)
{
        for (struct touched *t = steer->touched; t; t = t->next) {
                struct steer_command command = {
                        .holder = t->holder,
                        .client = t->client,
                        .object = t->object,
                        .subdevice = t->subdevice,
                        .value = t->slice,
                };
                struct steer_answer answer = {0};

                if (holder != STEER_HOLDERS && holder != t->holder)
                        continue;
                command.type = STEER_SET_SLICE;
                if (t->slice)
                        (void)by_holder(steer, &command, &answer);
                command.type = STEER_SET_MODE;
                command.value = 0;
                if (t->mode)
                        (void)by_holder(steer, &command, &answer);
        }
}

static int set_slice(
        struct steer *steer, const struct steer_command *command, struct steer_answer *answer)
{
        struct touched *touched = touch(steer, command);
        int r;

        /* what stands there may be of a process before this one */
        if (touched && touched->slice == 0 && steer->inherits)
                touched->slice = STEER_SLICE_DEFAULT;
        if (touched && touched->slice == 0) {
                struct steer_command question = *command;
                struct steer_answer before = {0};

                question.type = STEER_GET_SLICE;
                if (by_holder(steer, &question, &before) == 0)
                        touched->slice = before.value;
        }
        atomic_store(&steer->board->sliced, 1);
        watch_call(steer->watch, command->device);
        r = by_holder(steer, command, answer);
        if (r == 0)
                watch_slice(steer->watch, command->device, steer->holder[command->holder]->pid,
                        command->value);
        return r;
}

static int set_mode(
        struct steer *steer, const struct steer_command *command, struct steer_answer *answer)
{
        struct touched *touched = touch(steer, command);
        int r;

        watch_call(steer->watch, command->device);
        r = by_holder(steer, command, answer);
        if (r == 0 && touched) {
                touched->subdevice = command->subdevice;
                touched->mode = command->value == 1;
        }
        if (r == 0)
                watch_mode(steer->watch, command->device, steer->holder[command->holder]->pid,
                        command->value == 1);
        return r;
}

/* -- commands ---------------------------------------------------------------------------------- */

/* Before a call that disables, as its records may be read before it returns, and after each. */
static void tell_watch(
        struct steer *steer, const struct steer_command *command, uint64_t from, uint64_t to)
{
        uint32_t last = STEER_HOLDERS;

        for (unsigned i = 0; i < command->count; i++) {
                uint32_t holder = command->holders[i];

                if (holder == last || holder >= STEER_HOLDERS || !steer->holder[holder])
                        continue;
                watch_switched(steer->watch, command->device, steer->holder[holder]->pid, from, to,
                        command->type == STEER_DISABLE);
                last = holder;
        }
}

/* Somebody has the engine, and it is none of these. */
static bool others_run(
        struct steer *steer, unsigned device, const uint16_t *holders, unsigned count)
{
        uint32_t pid = watch_holder(steer->watch, device);

        for (unsigned i = 0; i < count; i++)
                if (steer->holder[holders[i]]->pid == pid)
                        return false;
        return pid != 0;
}

/* Who waits is kept from the engine without ending the slice of who has it. Should he have got it
 * meanwhile, or should it not be known who has it, he is taken off. */
static int disable_channels(struct steer *steer, void *handle, unsigned device,
        const struct steer_channel *channels, const uint16_t *holders, unsigned count,
        struct steer_answer *answer)
{
        uint32_t status = 0;
        uint64_t done = 0;
        int r;

        if (others_run(steer, device, holders, count)) {
                r = switch_channels(steer, handle, device, channels, holders, count, STEER_OFF_NEXT,
                        &answer->value, &answer->status);
                if (others_run(steer, device, holders, count))
                        return r;
                /* RM counts: what is disabled is to be enabled before it is disabled otherwise */
                (void)switch_channels(
                        steer, handle, device, channels, NULL, count, STEER_ON, &done, &status);
                answer->status = 0;
        }
        watch_call(steer->watch, device);
        return switch_channels(steer, handle, device, channels, holders, count, STEER_OFF,
                &answer->value, &answer->status);
}

/* again: the other thread is at it, too, and late. */
static int switch_command(struct steer *steer, void *handle, bool again,
        const struct steer_command *command, struct steer_answer *answer)
{
        bool disable = command->type == STEER_DISABLE;
        struct steer_channel channels[STEER_MAX_CHANNELS];
        uint16_t holders[STEER_MAX_CHANNELS];
        unsigned count = 0;
        uint64_t from;
        int r;

        if (command->device >= STEER_MAX_DEVICES || !steer->open[command->device] ||
                command->count > STEER_MAX_CHANNELS)
                return -EBADMSG;
        for (unsigned i = 0; i < command->count; i++) {
                const struct holder *holder;

                if (disable && command->holders[i] >= STEER_HOLDERS)
                        return -EBADMSG;
                holder = disable ? steer->holder[command->holders[i]] : NULL;
                /* nor does it keep the others from being disabled, a tenant's own least of all */
                if (disable && (!holder || !holder_knows(holder, command->channel[i].client)))
                        continue;
                channels[count] = command->channel[i];
                holders[count++] = command->holders[i];
        }
        from = clock_ns();
        if (!again)
                watch_asked(steer->watch, command->device, disable, command->due_ns,
                        command->sent_ns, from);
        if (disable) {
                tell_watch(steer, command, from, from);
                r = disable_channels(
                        steer, handle, command->device, channels, holders, count, answer);
        } else {
                watch_call(steer->watch, command->device);
                r = switch_channels(steer, handle, command->device, channels, holders, count,
                        STEER_ON, &answer->value, &answer->status);
        }
        /* once, by whoever is the second to try */
        if (again || command != steer->beside || !steer->repeated)
                tell_watch(steer, command, from, clock_ns());
        return r == 0 && count < command->count ? -EBADF : r;
}

static int note_turns(struct steer *steer, const struct steer_command *command)
{
        const struct holder *holder = steer->holder[command->holder];

        if (command->device >= STEER_MAX_DEVICES)
                return -EBADMSG;
        if (!holder)
                return -EBADF;
        watch_turns(steer->watch, command->device, holder->pid, command->sent_ns, &command->turns);
        return 0;
}

static int release(struct steer *steer, uint32_t holder, uint32_t *ret_status)
{
        int r = enable_all(steer, holder, ret_status);

        put_back(steer, holder);
        forget_touched(steer, holder);
        holder_free(steer, holder);
        return r;
}

static int command_do(struct steer *steer, const struct steer_command *command, int *fd,
        struct steer_answer *answer)
{
        if (command->holder >= STEER_HOLDERS)
                return -EBADMSG;
        switch (command->type) {
        case STEER_OPEN_DEVICE:
                return open_device(steer, command->device, command->uuid, &answer->status);
        case STEER_HOLD:
                return hold(steer, command->holder, (uint32_t)command->value, fd);
        case STEER_RELEASE:
                return release(steer, command->holder, &answer->status);
        case STEER_DISABLE:
        case STEER_ENABLE:
                return switch_command(steer, steer->handle, false, command, answer);
        case STEER_ENABLE_ALL:
                return enable_all(steer, STEER_HOLDERS, &answer->status);
        case STEER_SET_SLICE:
                return set_slice(steer, command, answer);
        case STEER_SET_MODE:
                return set_mode(steer, command, answer);
        case STEER_GET_SLICE:
        case STEER_PREEMPT:
        case STEER_RESTART:
                return by_holder(steer, command, answer);
        case STEER_TURNS:
                return note_turns(steer, command);
        default:
                return -EBADMSG;
        }
}

/* 1: a command; 0: the daemon has gone; -EAGAIN: none has come. */
static int receive(struct steer *steer, struct steer_command *ret, int *ret_fd)
{
        union {
                struct cmsghdr head;
                char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec part = {.iov_base = ret, .iov_len = sizeof(*ret)};
        struct msghdr header = {
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control),
        };
        ssize_t n;

        *ret_fd = -EBADF;
        do
                n = recvmsg(steer->socket, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n <= 0)
                return n < 0 ? -errno : 0;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
                        memcpy(ret_fd, CMSG_DATA(c), sizeof(*ret_fd));
        if (n != sizeof(*ret) || (header.msg_flags & MSG_TRUNC) || ret->magic != STEER_MAGIC) {
                *ret_fd = close_safe(*ret_fd);
                return -EBADMSG;
        }
        return 1;
}

static int reply(struct steer *steer, const struct steer_command *command, uint64_t from,
        int result, struct steer_answer *answer)
{
        answer->magic = STEER_MAGIC;
        answer->serial = command->serial;
        answer->start_ns = from;
        answer->end_ns = clock_ns();
        answer->result = result;
        return send(steer->socket, answer, sizeof(*answer), MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static bool is_of_holder(const struct steer_command *command, uint32_t holder)
{
        for (unsigned i = 0; i < MIN_OF(command->count, STEER_MAX_CHANNELS); i++)
                if (command->holders[i] == holder)
                        return true;
        return false;
}

static bool share_channels(const struct steer_command *a, const struct steer_command *b)
{
        for (unsigned i = 0; a->device == b->device && i < MIN_OF(a->count, STEER_MAX_CHANNELS);
                i++)
                for (unsigned k = 0; k < MIN_OF(b->count, STEER_MAX_CHANNELS); k++)
                        if (a->channel[i].client == b->channel[k].client &&
                                a->channel[i].channel == b->channel[k].channel)
                                return true;
        return false;
}

/* Whether the next command may be done while that one is: turns are passed on, by disabling some
 * and enabling others, beside calls for single holders, and all but their own channels are enabled
 * beside those that disable. What is only told is told meanwhile. Nothing is done beside what opens
 * a device. */
static bool may_overtake(const struct steer_command *command, const struct steer_command *next)
{
        bool disable = next->type == STEER_DISABLE, turns = next->type == STEER_TURNS;

        if (!disable && !turns && next->type != STEER_ENABLE)
                return false;
        switch (command->type) {
        case STEER_ENABLE:
                return turns;
        case STEER_DISABLE:
                return turns || (!disable && !share_channels(command, next));
        case STEER_RELEASE:
                return turns ? next->holder != command->holder
                             : !is_of_holder(next, command->holder);
        case STEER_SET_SLICE:
        case STEER_GET_SLICE:
        case STEER_SET_MODE:
        case STEER_PREEMPT:
        case STEER_RESTART:
                /* what RM knows of the holder may change meanwhile */
                return !disable || !is_of_holder(next, command->holder);
        default:
                return false;
        }
}

/* Somebody's turn has begun, and the call that enables him takes long. It may be the thread that is
 * late and not RM, and to enable twice is to enable once. */
static bool enable_too(struct steer *steer)
{
        struct steer_answer answer = {0};

        if (steer->beside->type != STEER_ENABLE || steer->repeated)
                return false;
        steer->repeated = true;
        (void)switch_command(steer, steer->aside_handle, true, steer->beside, &answer);
        return true;
}

/* What has come and is not taken yet. */
static bool peek(struct steer *steer, struct steer_command *ret)
{
        return recv(steer->socket, ret, sizeof(*ret), MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC) ==
                       sizeof(*ret) &&
               ret->magic == STEER_MAGIC;
}

/* Another thread's, while a command takes long. */
static bool switch_aside(void *userdata)
{
        struct steer *steer = userdata;
        _cleanup_close_ int fd = -EBADF;
        struct steer_command command;
        struct steer_answer answer = {0};
        uint64_t from;
        int r;

        if (!peek(steer, &command) || !may_overtake(steer->beside, &command) ||
                receive(steer, &command, &fd) <= 0)
                return enable_too(steer);
        from = clock_ns();
        if (command.type != STEER_TURNS)
                r = switch_command(steer, steer->aside_handle, false, &command, &answer);
        else
                r = command.holder < STEER_HOLDERS ? note_turns(steer, &command) : -EBADMSG;
        return reply(steer, &command, from, r, &answer) == 0;
}

/* The next command, if one has come. beside: others may be done meanwhile. 1; 0: the daemon has
 * gone; or negative errno. */
static int serve_one(struct steer *steer, bool beside)
{
        _cleanup_close_ int fd = -EBADF;
        struct steer_command command;
        struct steer_answer answer = {0};
        uint64_t from;
        int r = receive(steer, &command, &fd);

        if (r <= 0)
                return r == -EAGAIN ? 1 : r;
        steer->beside = beside ? &command : NULL;
        steer->repeated = false;
        if (beside)
                aside_begin(steer->aside);
        from = clock_ns();
        r = command_do(steer, &command, &fd, &answer);
        r = reply(steer, &command, from, r, &answer);
        if (beside)
                aside_end(steer->aside);
        return r < 0 ? r : 1;
}

/* Another thread's: the one that serves is late. That the daemon has gone, or speaks another
 * language, is for that one to see. */
static void serve_late(void *userdata)
{
        struct steer *steer = userdata;
        struct steer_command command;

        if (pthread_mutex_trylock(&steer->serving) != 0)
                return;
        if (peek(steer, &command))
                (void)serve_one(steer, false);
        pthread_mutex_unlock(&steer->serving);
}

static int serve(struct steer *steer)
{
        struct pollfd fds[] = {
                {.fd = steer->socket, .events = POLLIN},
                {.fd = steer->signals, .events = POLLIN},
        };

        for (;;) {
                int r;

                if (poll(fds, ARRAY_SIZE(fds), -1) < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (fds[1].revents)
                        return 0;
                pthread_mutex_lock(&steer->serving);
                r = serve_one(steer, true);
                pthread_mutex_unlock(&steer->serving);
                /* a daemon that speaks another language is as good as none */
                if (r <= 0)
                        return r;
        }
}

/* Without it all is done one after the other. */
static void begin_aside(struct steer *steer, const void *argument)
{
        const struct aside_work work = {
                .overtake = switch_aside,
                .take_over = serve_late,
                .inbox = steer->socket,
                .userdata = steer,
        };

        if (steer->backend->open(argument, &steer->aside_handle) < 0)
                return;
        if (aside_new(&work, &steer->aside) < 0)
                steer->backend->close(steer->aside_handle);
}

static void end_aside(struct steer *steer)
{
        if (!steer->aside)
                return;
        aside_free(TAKE_PTR(steer->aside));
        steer->backend->close(steer->aside_handle);
}

/* Nobody tells us anything any more. */
static void end(struct steer *steer)
{
        const struct timespec pause = {.tv_nsec = 20000000};
        uint32_t status;

        for (unsigned ms = 0; ms < LAST_TRIES_MS; ms += 20) {
                if (enable_all(steer, STEER_HOLDERS, &status) == 0)
                        break;
                nanosleep(&pause, NULL);
        }
        put_back(steer, STEER_HOLDERS);
        for (uint32_t i = 0; i < STEER_HOLDERS; i++)
                holder_free(steer, i);
        while (steer->touched)
                forget_touched(steer, steer->touched->holder);
}

/* Waits until the one before has ended, which it does by itself once its daemon has gone; one that
 * is stopped, or in a call that does not return, is made to: what it has disabled stays so. */
static int take_board(int board)
{
        const struct timespec pause = {.tv_nsec = 2000000};
        uint64_t until = clock_ns() + BEFORE_MS * 1000000ull;

        for (;;) {
                /* of the process, not of the descriptor, which others have too */
                struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

                if (fcntl(board, F_SETLK, &lock) == 0)
                        return 0;
                if (errno != EAGAIN && errno != EACCES && errno != EINTR)
                        return -errno;
                if (clock_ns() >= until && fcntl(board, F_GETLK, &lock) == 0 &&
                        lock.l_type != F_UNLCK && lock.l_pid > 0) {
                        (void)kill(lock.l_pid, SIGKILL);
                        until = clock_ns() + BEFORE_MS * 1000000ull;
                }
                nanosleep(&pause, NULL);
        }
}

int steer_run(int socket, int board_fd, int view_fd, const struct steer_backend *backend,
        const void *argument)
{
        _cleanup_close_ int own_socket = socket, own_board = board_fd, signals = -EBADF;
        _cleanup_close_ int own_view = view_fd;
        _cleanup_free_ struct steer *steer = calloc(1, sizeof(*steer));
        uint32_t status = 0;
        sigset_t set;
        int r;

        if (!steer)
                return -ENOMEM;
        steer->backend = backend;
        steer->socket = own_socket;
        r = steer_board_map(own_board, &steer->board);
        if (r < 0)
                return r;
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGHUP);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                r = -errno;
        steer->signals = signals = signalfd(-1, &set, SFD_CLOEXEC);
        if (r == 0 && signals < 0)
                r = -errno;
        if (r == 0)
                r = take_board(own_board);
        if (r == 0)
                r = backend->open(argument, &steer->handle);
        if (r == 0) {
                pthread_mutex_init(&steer->serving, NULL);
                pthread_mutex_init(&steer->lock, NULL);
                /* nobody listens before that is done */
                pthread_mutex_lock(&steer->serving);
                begin_aside(steer, argument);
                (void)enable_all(steer, STEER_HOLDERS, &status);
                steer->inherits = atomic_load(&steer->board->sliced) != 0;
                /* without it the daemon goes by its own record */
                (void)watch_new(own_view, backend, argument, &steer->watch);
                /* what was disabled here before had its device opened already */
                for (unsigned i = 0; i < STEER_MAX_DEVICES; i++)
                        if (steer->open[i])
                                watch_device(steer->watch, i, steer->board->uuid[i]);
                pthread_mutex_unlock(&steer->serving);
                r = serve(steer);
                end_aside(steer);
                end(steer);
                watch_free(steer->watch);
                backend->close(steer->handle);
                pthread_mutex_destroy(&steer->lock);
                pthread_mutex_destroy(&steer->serving);
        }
        steer_board_unmap(steer->board);
        return r;
}
