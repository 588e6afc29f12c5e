/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper's own side: see store.h. Nothing here may fail for lack of anything but memory. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/paths.h"
#include "daemon/store.h"

#define LOOK_MSEC    2000 /* how often the runtime directory is looked for */
#define RESTARTS     5    /* in RESTART_SPAN; a daemon that dies faster is let rest */
#define RESTART_SPAN (10 * USEC_PER_SEC)

struct keeper {
        int directory; /* descriptor */
        int listening;
        int daemon; /* connection, -EBADF: none */
        bool farewell;
        char *const *restart;
        uint64_t restarts[RESTARTS];
        unsigned next_restart;
        struct stored *items;
        size_t count;
};

static struct stored *find(struct keeper *keeper, const char *name)
{
        for (size_t i = 0; i < keeper->count; i++)
                if (strcmp(keeper->items[i].name, name) == 0)
                        return &keeper->items[i];
        return NULL;
}

static void put(struct keeper *keeper, const char *name, int fd)
{
        struct stored *item = find(keeper, name), *larger;

        if (item) {
                close_safe(item->fd);
                item->fd = fd;
                return;
        }
        larger = realloc(keeper->items, (keeper->count + 1) * sizeof(*larger));
        if (!larger) {
                close_safe(fd);
                return;
        }
        keeper->items = larger;
        snprintf(larger[keeper->count].name, STORE_NAME_MAX, "%s", name);
        larger[keeper->count++].fd = fd;
}

static void drop(struct keeper *keeper, const char *name)
{
        struct stored *item = find(keeper, name);

        if (!item)
                return;
        close_safe(item->fd);
        *item = keeper->items[--keeper->count];
}

static bool is_socket(const char *name)
{
        return strcmp(name, CLEAVE_CONTROL_SOCKET) == 0 || strcmp(name, CLEAVE_GUARD_SOCKET) == 0;
}

/* Something of a tenant's, not only the sockets. */
static bool keeps_tenants(const struct keeper *keeper)
{
        for (size_t i = 0; i < keeper->count; i++)
                if (!is_socket(keeper->items[i].name))
                        return true;
        return false;
}

/* Without a daemon to come, connections are refused rather than left to wait. */
static void close_sockets(struct keeper *keeper)
{
        drop(keeper, CLEAVE_CONTROL_SOCKET);
        drop(keeper, CLEAVE_GUARD_SOCKET);
}

static bool may_restart(struct keeper *keeper)
{
        uint64_t now = clock_usec(CLOCK_MONOTONIC);
        uint64_t *oldest = &keeper->restarts[keeper->next_restart];

        if (*oldest && now - *oldest < RESTART_SPAN)
                return false;
        *oldest = now;
        keeper->next_restart = (keeper->next_restart + 1) % RESTARTS;
        return true;
}

static void restart(struct keeper *keeper)
{
        _cleanup_free_ char *program = NULL;
        posix_spawnattr_t attributes;
        sigset_t usual;
        pid_t pid;
        int r;

        if (!keeper->restart[0] || !may_restart(keeper)) {
                close_sockets(keeper);
                return;
        }
        r = own_executable(&program);
        if (r == 0) {
                posix_spawnattr_init(&attributes);
                sigemptyset(&usual);
                sigaddset(&usual, SIGCHLD);
                sigaddset(&usual, SIGPIPE);
                posix_spawnattr_setsigdefault(&attributes, &usual);
                posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
                r = -posix_spawn(&pid, program, NULL, &attributes, keeper->restart, environ);
                posix_spawnattr_destroy(&attributes);
        }
        if (r < 0) {
                log_error("cannot start the daemon anew: %s", strerror(-r));
                close_sockets(keeper);
        }
}

static void accept_daemon(struct keeper *keeper)
{
        _cleanup_close_ int fd = -EBADF;
        struct ucred peer;
        socklen_t size = sizeof(peer);

        fd = accept4(keeper->listening, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
                peer.uid != geteuid())
                return;
        /* the lock file lets one daemon run at a time, so the older connection is a dead one's */
        close_safe(keeper->daemon);
        keeper->daemon = TAKE_FD(fd);
        keeper->farewell = false;
}

/* false: the keeper is to end. */
static bool serve(struct keeper *keeper)
{
        struct keeper_message message;
        int passed = -EBADF, r;

        r = keeper_receive(keeper->daemon, &message, &passed);
        if (r <= 0) {
                keeper->daemon = close_safe(keeper->daemon);
                if (!keeps_tenants(keeper))
                        return false;
                if (keeper->farewell)
                        close_sockets(keeper);
                else
                        restart(keeper);
                return true;
        }
        switch (message.type) {
        case KEEPER_PUT:
                if (passed >= 0)
                        put(keeper, message.name, TAKE_FD(passed));
                break;
        case KEEPER_DROP:
                drop(keeper, message.name);
                break;
        case KEEPER_FETCH:
                for (size_t i = 0; i < keeper->count; i++)
                        (void)keeper_send(keeper->daemon, KEEPER_ITEM, keeper->items[i].name,
                                keeper->items[i].fd);
                (void)keeper_send(keeper->daemon, KEEPER_END, NULL, -EBADF);
                break;
        case KEEPER_FAREWELL:
                keeper->farewell = true;
                break;
        case KEEPER_QUIT:
                close_safe(passed);
                return false;
        default:
                break;
        }
        close_safe(passed);
        return true;
}

static int listen_in(const char *directory, int *ret)
{
        _cleanup_close_ int fd = -EBADF, at = -EBADF;
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        at = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (at < 0)
                return -errno;
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (unlinkat(at, KEEPER_SOCKET, 0) < 0 && errno != ENOENT)
                return -errno;
        snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", at,
                KEEPER_SOCKET);
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 4) < 0)
                return -errno;
        *ret = TAKE_FD(fd);
        return 0;
}

int keeper_run(const char *directory, int fd, char *const *restart_arguments)
{
        struct keeper keeper = {
                .directory = -EBADF,
                .listening = -EBADF,
                .daemon = fd,
                .restart = restart_arguments,
        };
        struct stat st;
        int r;

        prctl(PR_SET_NAME, "cleave-keeper");
        signal(SIGCHLD, SIG_IGN); /* daemons started anew are not waited for */
        signal(SIGPIPE, SIG_IGN);
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || chdir("/") < 0)
                return -errno;
        keeper.directory = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (keeper.directory < 0)
                return -errno;
        r = listen_in(directory, &keeper.listening);
        if (r < 0)
                return r;

        for (;;) {
                struct pollfd fds[] = {
                        {.fd = keeper.listening, .events = POLLIN},
                        {.fd = keeper.daemon, .events = POLLIN}, /* negative ones are skipped */
                };

                r = poll(fds, 2, LOOK_MSEC);
                if (r < 0 && errno != EINTR)
                        break;
                if (fstat(keeper.directory, &st) < 0 || st.st_nlink == 0)
                        break;
                if (r <= 0)
                        continue;
                if (fds[1].revents && !serve(&keeper))
                        break;
                if (fds[0].revents)
                        accept_daemon(&keeper);
        }
        unlinkat(keeper.directory, KEEPER_SOCKET, 0);
        for (size_t i = 0; i < keeper.count; i++)
                close_safe(keeper.items[i].fd);
        free(keeper.items);
        close_safe(keeper.listening);
        close_safe(keeper.directory);
        close_safe(keeper.daemon);
        return 0;
}
