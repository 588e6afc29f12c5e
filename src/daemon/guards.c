/* SPDX-License-Identifier: Apache-2.0 */
/* guard.sock: processes that say HELLO, and the notices of those that did. */
#include <limits.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "daemon/manager.h"
#include "daemon/message.h"
#include "partition/mps.h"

#define HELLO_TIMEOUT (10 * USEC_PER_SEC)
#define GUARDS_MAX    4096u /* that have not said HELLO yet */

/* A connection before its HELLO. */
struct guard {
        struct guard *next, *prev;
        struct manager *manager;
        int fd;
        sd_event_source *io, *timer;
        struct ucred peer;
        uint16_t version; /* that it speaks, and is answered in */
};

static void guard_free(struct guard *guard)
{
        struct manager *manager = guard->manager;

        DL_DELETE(manager->guards, guard);
        manager->guard_count--;
        sd_event_source_disable_unref(guard->io);
        sd_event_source_disable_unref(guard->timer);
        close_safe(guard->fd);
        free(guard);
        manager_look_idle(manager);
}

static struct cleave_message head(enum cleave_message_type type, uint16_t version, size_t size)
{
        return (struct cleave_message){
                .magic = CLEAVE_MESSAGE_MAGIC,
                .version = version,
                .type = (uint16_t)type,
                .size = (uint32_t)size,
        };
}

static void send_refused(int fd, uint16_t version, enum cleave_refusal reason)
{
        struct cleave_refused message = {
                .head = head(CLEAVE_REFUSED, version, sizeof(message)),
                .reason = reason,
        };

        (void)!send(fd, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int send_welcome(const struct guard *guard, const struct tenant *tenant, uint32_t slot)
{
        struct cleave_welcome message = {
                .head = head(CLEAVE_WELCOME, guard->version, sizeof(message)),
                .tenant = tenant->id,
                .slot = slot,
                .pid = (uint32_t)guard->peer.pid,
        };
        struct iovec part = {.iov_base = &message, .iov_len = sizeof(message)};
        int fds[2] = {tenant->pages.grant_tenant_fd, tenant->pages.usage_fd};
        union {
                struct cmsghdr head;
                char space[CMSG_SPACE(sizeof(fds))];
        } control = {0};
        struct msghdr header = {
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control),
        };

        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof(fds));
        memcpy(CMSG_DATA(&control.head), fds, sizeof(fds));
        return sendmsg(guard->fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

static void tell_refused(struct guard *guard, uint64_t tenant, const char *why)
{
        /* a program that tries again and again is told of once */
        static pid_t told[16];
        static unsigned next;
        char command[128] = "";
        pid_t pid = guard->peer.pid;

        for (unsigned i = 0; i < ARRAY_SIZE(told); i++)
                if (told[i] == pid && pid)
                        return;
        told[next++ % ARRAY_SIZE(told)] = pid;
        if (pid <= 0 || process_command(pid, command, sizeof(command)) < 0)
                strcpy(command, "unknown");
        events_add(&guard->manager->events, EVENT_PROCESS_REFUSED,
                (struct event_subject){.tenant = tenant,
                        .pid = pid,
                        .owner = tenant ? NULL : &guard->peer.uid,
                        .detail = json_pack("{s:s, s:I}", "command", command, "uid",
                                (json_int_t)guard->peer.uid)},
                "process %d (%s) was refused: %s", (int)pid, command, why);
}

static int refuse(
        struct guard *guard, enum cleave_refusal reason, struct tenant *tenant, const char *why)
{
        send_refused(guard->fd, guard->version, reason);
        tell_refused(guard, tenant ? tenant->id : 0, why);
        return -EPERM;
}

/* The slot that an earlier daemon gave to this process, by the page's own word: taken only for what
 * the process itself could not gain by lying, its own pid and start. */
static bool slot_is_of(struct tenant *tenant, uint32_t index, pid_t pid, uint64_t start_time)
{
        const struct cleave_slot *slot;

        if (index == 0 || index >= CLEAVE_MAX_SLOTS || tenant->slot[index])
                return false;
        slot = cleave_usage_slot(tenant->pages.usage, index);
        return atomic_load(&slot->state) == CLEAVE_SLOT_LIVE && slot->pid == (uint32_t)pid &&
               slot->start_time == start_time;
}

static int hello(struct guard *guard, const struct cleave_hello *message)
{
        bool again = message->flags & CLEAVE_HELLO_AGAIN;
        struct manager *manager = guard->manager;
        pid_t pid = guard->peer.pid;
        struct session *session;
        struct tenant *tenant;
        uint64_t start_time;
        int r;

        if (pid <= 0 || process_start_time(pid, &start_time) < 0)
                return refuse(guard, CLEAVE_REFUSED_STRANGER, NULL, "its pid is not known here");
        tenant = tenant_of_process(manager, pid);
        if (!tenant || tenant->state == TENANT_WAITING)
                return refuse(guard, CLEAVE_REFUSED_STRANGER, NULL, "it belongs to no tenant");
        if (!tenant->pages.usage)
                return refuse(guard, CLEAVE_REFUSED_FAULT, tenant,
                        "the tenant's pages were lost with an earlier daemon");

        /* one that only looks (NVML) has no account, and its socket no meaning afterwards */
        if (message->flags & CLEAVE_HELLO_OBSERVER)
                return send_welcome(guard, tenant, 0);

        HASH_FIND_INT(manager->sessions, &pid, session);
        if (session && session->process.start_time == start_time && session->tenant == tenant &&
                again && session->slot == message->slot) {
                session_hang_up(session);
        } else {
                bool known =
                        again && !session && slot_is_of(tenant, message->slot, pid, start_time);

                /* another program runs in it by now: what the one before held goes back */
                if (session)
                        session_leave(session);
                r = session_new(
                        tenant, known ? message->slot : 0, pid, start_time, -EBADF, &session);
                if (r == -EUSERS)
                        return refuse(guard, CLEAVE_REFUSED_FULL, tenant,
                                "the tenant has as many processes as there are slots");
                if (r < 0) {
                        log_warning("process %d cannot be watched: %s", (int)pid, strerror(-r));
                        return refuse(guard, CLEAVE_REFUSED_FAULT, tenant, "it cannot be watched");
                }
                if (!known)
                        pages_open_slot(&tenant->pages, session->slot, (uint32_t)pid, start_time);
        }
        memcpy(session->guard_version, message->guard, sizeof(session->guard_version));
        memcpy(session->driver_version, message->driver, sizeof(session->driver_version));
        r = send_welcome(guard, tenant, session->slot);
        if (r < 0) {
                /* it has gone already, or will say HELLO again */
                if (session->process.gone)
                        session_leave(session);
                return r;
        }
        /* a descriptor is watched once: EEXIST */
        guard->io = sd_event_source_disable_unref(guard->io);
        session->fd = TAKE_FD(guard->fd);
        r = session_watch_io(session);
        if (r < 0)
                session_hang_up(session);
        (void)manager_record(manager, session_record(session));
        events_add(&manager->events, EVENT_PROCESS_JOINED,
                (struct event_subject){.tenant = tenant->id,
                        .pid = pid,
                        .detail = json_pack("{s:i, s:b, s:s}", "slot", (int)session->slot, "again",
                                (int)again, "guard", session->guard_version)},
                "process %d has joined tenant %s", (int)pid, tenant->name);
        /* it may have ended while it was served */
        if (session->process.gone)
                session_leave(session);
        manager_arm_audit(manager);
        return 0;
}

static int refuse_version(struct guard *guard)
{
        char why[192];
        bool older = guard->version < CLEAVE_MESSAGE_OLDEST;

        snprintf(why, sizeof(why),
                "its guard speaks version %u of the protocol and this daemon, cleaved %s, %u to "
                "%u; "
                "%s",
                guard->version, CLEAVE_VERSION, CLEAVE_MESSAGE_OLDEST, CLEAVE_MESSAGE_VERSION,
                older ? "end the tenant and start it anew"
                      : "restart the daemon, which is older than what is installed");
        return refuse(guard, CLEAVE_REFUSED_VERSION, NULL, why);
}

static int guard_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
        struct guard *guard = userdata;
        _Alignas(struct cleave_message) char packet[512];
        enum cleave_message_type type;
        ssize_t n;
        int r;

        (void)source;
        (void)events;
        n = recv(fd, packet, sizeof(packet), MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n > 0) {
                r = (size_t)n > sizeof(packet) ? -EMSGSIZE
                                               : message_check(packet, (size_t)n, &type);
                if (r == 0 || r == -EPROTO)
                        guard->version = ((const struct cleave_message *)packet)->version;
                if (r == -EPROTO) {
                        refuse_version(guard);
                } else if (r < 0 || type != CLEAVE_HELLO) {
                        tell_refused(guard, 0, "it does not speak the guard's language");
                } else {
                        struct cleave_hello message;

                        message_get_hello(packet, &message);
                        (void)hello(guard, &message);
                }
        }
        guard_free(guard);
        return 0;
}

static int guard_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
        (void)source;
        (void)usec;
        guard_free(userdata);
        return 0;
}

static int accept_guard(sd_event_source *source, int listening, uint32_t events, void *userdata)
{
        struct manager *manager = userdata;
        struct guard *guard;
        socklen_t size = sizeof(guard->peer);
        int fd, r;

        (void)source;
        (void)events;
        fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
                return 0;
        guard = calloc(1, sizeof(*guard));
        if (!guard || manager->guard_count >= GUARDS_MAX) {
                send_refused(fd, CLEAVE_MESSAGE_VERSION, CLEAVE_REFUSED_FAULT);
                close_safe(fd);
                free(guard);
                return 0;
        }
        guard->manager = manager;
        guard->fd = fd;
        DL_APPEND(manager->guards, guard);
        manager->guard_count++;
        r = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &guard->peer, &size) < 0 ? -errno : 0;
        if (r == 0)
                r = sd_event_add_io(manager->event, &guard->io, fd, EPOLLIN, guard_io, guard);
        if (r >= 0)
                r = sd_event_add_time_relative(manager->event, &guard->timer, CLOCK_MONOTONIC,
                        HELLO_TIMEOUT, USEC_PER_SEC, guard_timeout, guard);
        if (r < 0)
                guard_free(guard);
        else
                manager_look_idle(manager);
        return 0;
}

static void notice(struct session *session, const struct cleave_notice *message)
{
        struct tenant *tenant = session->tenant;
        struct manager *manager = tenant->manager;
        struct event_subject subject = {.tenant = tenant->id, .pid = session->process.pid};
        const struct mps_error *mps;
        char size[FORMAT_SIZE_MAX];

        switch (message->kind) {
        case CLEAVE_NOTICE_REFUSAL:
                if (message->a >= tenant->devices)
                        return;
                tenant->device[message->a].refusals++;
                subject.device = manager->device[tenant->device[message->a].index].info.uuid_text;
                subject.detail = json_pack(
                        "{s:I}", "bytes", (json_int_t)MIN_OF(message->b, (uint64_t)INT64_MAX));
                events_add(&manager->events, EVENT_MEMORY_REFUSED, subject,
                        "%s more were refused to process %d of tenant %s",
                        format_size(size, message->b), (int)session->process.pid, tenant->name);
                break;
        case CLEAVE_NOTICE_BLIND:
                events_add(&manager->events, EVENT_PROCESS_REFUSED, subject,
                        "CUDA was refused to process %d of tenant %s: the driver's calls cannot be "
                        "seen",
                        (int)session->process.pid, tenant->name);
                break;
        case CLEAVE_NOTICE_FOREIGN:
                subject.detail = json_pack(
                        "{s:I}", "instance", (json_int_t)MIN_OF(message->a, (uint64_t)INT64_MAX));
                events_add(&manager->events, EVENT_MEMORY_REFUSED, subject,
                        "process %d of tenant %s asked for memory of a device that was not granted",
                        (int)session->process.pid, tenant->name);
                break;
        case CLEAVE_NOTICE_MPS:
                mps = message->a <= INT_MAX ? mps_error((int)message->a) : NULL;
                if (!mps)
                        return;
                subject.device = manager->device[tenant->device[0].index].info.uuid_text;
                subject.detail = json_pack(
                        "{s:i, s:s, s:s}", "code", mps->code, "name", mps->name, "hint", mps->hint);
                events_add(&manager->events, EVENT_SERVER_REFUSED, subject,
                        "process %d of tenant %s: %s (%s, %d). %s", (int)session->process.pid,
                        tenant->name, mps->sentence, mps->name, mps->code, mps->hint);
                break;
        default: /* of a newer guard, or of no interest yet */
                break;
        }
}

/* Bytes of a packet, more than size where it was longer, with a descriptor if one came; -errno. */
static ssize_t receive(int fd, char *packet, size_t size, int *ret_passed)
{
        union {
                struct cmsghdr head;
                char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec part = {packet, size};
        struct msghdr header = {
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control),
        };
        ssize_t n = recvmsg(fd, &header, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);

        if (n < 0)
                return -errno;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
                        c->cmsg_len >= CMSG_LEN(sizeof(int))) {
                        int more;

                        memcpy(ret_passed, CMSG_DATA(c), sizeof(int));
                        /* padding leaves room for a second, which nobody has asked for */
                        if (c->cmsg_len >= CMSG_LEN(2 * sizeof(int))) {
                                memcpy(&more, CMSG_DATA(c) + sizeof(int), sizeof(int));
                                close_safe(more);
                        }
                }
        return n;
}

static int session_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
        struct session *session = userdata;
        enum cleave_message_type type;
        char packet[512];

        (void)source;
        (void)events;
        /* a few at a time, so that a chatterer does not hold up the others */
        for (unsigned i = 0; i < 8; i++) {
                _cleanup_close_ int passed = -EBADF;
                struct cleave_notice message;
                ssize_t n = receive(fd, packet, sizeof(packet), &passed);

                if (n == -EAGAIN || n == -EINTR)
                        return 0;
                if (n <= 0 || (size_t)n > sizeof(packet) ||
                        message_check(packet, (size_t)n, &type) < 0 || type != CLEAVE_NOTICE) {
                        /* the account stays: its end is the process's end */
                        session_hang_up(session);
                        return 0;
                }
                message_get_notice(packet, &message);
                if (message.kind == CLEAVE_NOTICE_GROUPS && passed >= 0)
                        compute_take_descriptor(session, TAKE_FD(passed));
                else
                        notice(session, &message);
        }
        return 0;
}

int session_watch_io(struct session *session)
{
        return sd_event_add_io(session->tenant->manager->event, &session->io, session->fd, EPOLLIN,
                session_io, session);
}

int guards_listen(struct manager *manager)
{
        return sd_event_add_io(manager->event, &manager->guard_source, manager->guard_fd, EPOLLIN,
                accept_guard, manager);
}

void guards_done(struct manager *manager)
{
        struct guard *guard, *next;

        manager->guard_source = sd_event_source_disable_unref(manager->guard_source);
        DL_FOREACH_SAFE(manager->guards, guard, next)
        guard_free(guard);
        manager->guard_fd = close_safe(manager->guard_fd);
}
