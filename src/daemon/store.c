/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/paths.h"
#include "daemon/store.h"

int keeper_send(int fd, enum keeper_message_type type, const char *name, int passed)
{
        struct keeper_message message = {.type = type};
        struct iovec part = {.iov_base = &message, .iov_len = sizeof(message)};
        union {
                struct cmsghdr head;
                char space[CMSG_SPACE(sizeof(int))];
        } control = {0};
        struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

        if (name)
                snprintf(message.name, sizeof(message.name), "%s", name);
        if (passed >= 0) {
                header.msg_control = &control;
                header.msg_controllen = sizeof(control);
                control.head.cmsg_level = SOL_SOCKET;
                control.head.cmsg_type = SCM_RIGHTS;
                control.head.cmsg_len = CMSG_LEN(sizeof(int));
                memcpy(CMSG_DATA(&control.head), &passed, sizeof(int));
        }
        for (;;) {
                if (sendmsg(fd, &header, MSG_NOSIGNAL) >= 0)
                        return 0;
                if (errno != EINTR)
                        return -errno;
        }
}

int keeper_receive(int fd, struct keeper_message *ret, int *ret_passed)
{
        struct keeper_message message;
        struct iovec part = {.iov_base = &message, .iov_len = sizeof(message)};
        union {
                struct cmsghdr head;
                char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct msghdr header = {
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control),
        };
        _cleanup_close_ int passed = -EBADF;
        ssize_t n;

        do
                n = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == ECONNRESET ? 0 : -errno;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
                        c->cmsg_len == CMSG_LEN(sizeof(int)))
                        memcpy(&passed, CMSG_DATA(c), sizeof(int));
        if (n == 0)
                return 0;
        if (n != sizeof(message))
                return -EBADMSG;
        message.name[sizeof(message.name) - 1] = '\0';
        *ret = message;
        *ret_passed = TAKE_FD(passed);
        return 1;
}

int store_init(
        struct store *store, enum store_kind kind, const char *directory, char *const *restart)
{
        *store = (struct store){.kind = kind, .restart = restart, .fd = -EBADF};
        store->directory = strdup(directory);
        return store->directory ? 0 : -ENOMEM;
}

void store_done(struct store *store)
{
        for (size_t i = 0; i < store->count; i++)
                close_safe(store->kept[i].fd);
        free(store->kept);
        free(store->directory);
        close_safe(store->fd);
        *store = (struct store){.fd = -EBADF};
}

int store_receive(struct store *store, const char *name, int fd)
{
        _cleanup_close_ int owned = fd;
        struct stored *larger;

        larger = realloc(store->kept, (store->count + 1) * sizeof(*larger));
        if (!larger)
                return -ENOMEM;
        store->kept = larger;
        snprintf(larger[store->count].name, STORE_NAME_MAX, "%s", name);
        larger[store->count++].fd = TAKE_FD(owned);
        return 0;
}

int store_take(struct store *store, const char *name)
{
        for (size_t i = 0; i < store->count; i++)
                if (store->kept[i].fd >= 0 && strcmp(store->kept[i].name, name) == 0)
                        return TAKE_FD(store->kept[i].fd);
        return -ENOENT;
}

static pid_t peer_pid(int fd)
{
        struct ucred peer;
        socklen_t size = sizeof(peer);

        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

int store_connect(struct store *store)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (store->kind != STORE_KEEPER)
                return 0;
        fd = socket_connect(store->directory, KEEPER_SOCKET, SOCK_SEQPACKET);
        if (fd < 0)
                return fd == -ENOENT || fd == -ECONNREFUSED ? 0 : fd;
        r = keeper_send(fd, KEEPER_FETCH, NULL, -EBADF);
        if (r < 0)
                return r == -EPIPE ? 0 : r;
        for (;;) {
                struct keeper_message message;
                int passed;

                r = keeper_receive(fd, &message, &passed);
                if (r < 0)
                        return r;
                if (r == 0) /* it was about to end: it had nothing any more */
                        return 0;
                if (message.type == KEEPER_END) {
                        close_safe(passed);
                        break;
                }
                r = message.type == KEEPER_ITEM && passed >= 0
                            ? store_receive(store, message.name, passed)
                            : close_safe(passed);
                if (r < 0 && r != -EBADF)
                        return r;
        }
        store->keeper = peer_pid(fd);
        store->fd = TAKE_FD(fd);
        return 0;
}

/* Starts `cleaved --keeper DIRECTORY FD -- RESTART…`, with one end of a new pair of sockets. */
static int start_keeper(struct store *store)
{
        _cleanup_close_ int ours = -EBADF, theirs = -EBADF;
        _cleanup_free_ char *program = NULL;
        _cleanup_free_ char **arguments = NULL;
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        char number[16];
        size_t count = 0;
        sigset_t none;
        int pair[2], r;
        pid_t pid;

        r = own_executable(&program);
        if (r < 0)
                return r;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        ours = pair[0];
        /* without close-on-exec: nobody else forks, the sampler does not */
        theirs = fcntl(pair[1], F_DUPFD, 3);
        close_safe(pair[1]);
        if (theirs < 0)
                return -errno;

        while (store->restart[count])
                count++;
        arguments = calloc(count + 6, sizeof(*arguments));
        if (!arguments)
                return -ENOMEM;
        snprintf(number, sizeof(number), "%d", theirs);
        arguments[0] = (char *)"cleaved";
        arguments[1] = (char *)"--keeper";
        arguments[2] = store->directory;
        arguments[3] = number;
        arguments[4] = (char *)"--";
        memcpy(arguments + 5, store->restart, count * sizeof(*arguments));

        posix_spawnattr_init(&attributes);
        sigemptyset(&none);
        posix_spawnattr_setsigmask(&attributes, &none);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
        /* it outlives us, and must not keep our caller's pipes open */
        posix_spawn_file_actions_init(&actions);
        for (int fd = 0; fd <= 2; fd++)
                posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
        r = posix_spawn(&pid, program, &actions, &attributes, arguments, environ);
        posix_spawn_file_actions_destroy(&actions);
        posix_spawnattr_destroy(&attributes);
        if (r != 0)
                return -r;
        store->keeper = pid;
        store->fd = TAKE_FD(ours);
        return 0;
}

int store_put(struct store *store, const char *name, int fd)
{
        char state[96];
        int r;

        if (store->kind == STORE_SYSTEMD) {
                snprintf(state, sizeof(state), "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name);
                r = sd_pid_notify_with_fds(0, 0, state, &fd, 1);
                return r < 0 ? r : 0;
        }
        if (store->fd < 0) {
                r = start_keeper(store);
                if (r < 0)
                        return r;
        }
        r = keeper_send(store->fd, KEEPER_PUT, name, fd);
        if (r == -EPIPE || r == -ECONNRESET)
                store->fd = close_safe(store->fd);
        return r;
}

void store_drop(struct store *store, const char *name)
{
        char state[96];

        if (store->kind == STORE_SYSTEMD) {
                snprintf(state, sizeof(state), "FDSTOREREMOVE=1\nFDNAME=%s", name);
                (void)sd_notify(0, state);
        } else if (store->fd >= 0) {
                if (keeper_send(store->fd, KEEPER_DROP, name, -EBADF) < 0)
                        store->fd = close_safe(store->fd);
        }
}

void store_farewell(struct store *store, bool ending)
{
        if (store->kind == STORE_KEEPER && store->fd >= 0)
                (void)keeper_send(store->fd, ending ? KEEPER_QUIT : KEEPER_FAREWELL, NULL, -EBADF);
}

void store_let_go(struct store *store)
{
        store_farewell(store, true);
        store->fd = close_safe(store->fd);
        store->keeper = 0;
}
