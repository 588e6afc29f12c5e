/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "environment.h"
#include "guard.h"
#include "message.h"

/* How long a program waits for a daemon that is being restarted, and for its answer, ms. */
#define CONNECT_WAIT_MS 5000
#define ANSWER_WAIT_MS  10000

/* Our descriptor is put high, where no program's own fixed numbers are. */
#define HIGH_FD 700

static struct guard_lock session_lock;
static struct guard_session session;
static const struct guard_session *_Atomic session_open;
static pid_t session_pid;
static int session_fd = -1;
/* 1 in the process that opened the session: on a page that the kernel wipes in forked children, so
 * that asking costs a load and not a call. NULL where the kernel (before 4.14) cannot. */
static const volatile int *session_here;

const struct guard_session *guard_session(void)
{
        return atomic_load_explicit(&session_open, memory_order_acquire);
}

bool guard_forked(void)
{
        if (!guard_session())
                return false;
        return session_here ? !*session_here : session_pid != getpid();
}

static void mark_here(void)
{
        size_t size = (size_t)sysconf(_SC_PAGESIZE);
        int *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        session_pid = getpid();
        if (page == MAP_FAILED)
                return;
        if (madvise(page, size, MADV_WIPEONFORK) < 0) {
                munmap(page, size);
                return;
        }
        *page = 1;
        session_here = page;
}

/* -- finding the daemon ------------------------------------------------------------------------ */

static int try_connect(const char *directory)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd, n, r;

        n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/guard.sock", directory);
        if (n < 0 || (size_t)n >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
                r = -errno;
                close(fd);
                return r;
        }
        return fd;
}

static int connect_once(void)
{
        const char *given = secure_getenv(CLEAVE_ENV_RUNTIME);
        const char *xdg = secure_getenv("XDG_RUNTIME_DIR");
        char path[108];
        int fd;

        if (given && *given)
                return try_connect(given);
        fd = try_connect("/run/cleave");
        if (fd < 0 && xdg && *xdg && snprintf(path, sizeof(path), "%s/cleave", xdg) < 108)
                fd = try_connect(path);
        if (fd < 0) {
                snprintf(path, sizeof(path), "/tmp/cleave-%u", (unsigned)geteuid());
                fd = try_connect(path);
        }
        return fd;
}

/* A daemon that is being restarted is waited for, if this process is known to be in a tenant. */
static int connect_daemon(uint64_t tenant)
{
        const struct timespec nap = {0, 20 * 1000 * 1000};
        int fd = connect_once();

        for (int ms = 0; fd < 0 && tenant != 0 && ms < CONNECT_WAIT_MS; ms += 20) {
                if (fd != -ECONNREFUSED && fd != -ENOENT && fd != -EAGAIN)
                        break;
                nanosleep(&nap, NULL);
                fd = connect_once();
        }
        return fd;
}

/* -- hello ------------------------------------------------------------------------------------- */

/* 16 hexadecimal digits; 0 for anything else */
static uint64_t tenant_hint(void)
{
        const char *text = secure_getenv(CLEAVE_ENV_TENANT);
        uint64_t id = 0;
        unsigned n = 0;

        for (; text && text[n] && n < 17; n++) {
                char c = text[n];

                if (c >= '0' && c <= '9')
                        id = id << 4 | (uint64_t)(c - '0');
                else if (c >= 'a' && c <= 'f')
                        id = id << 4 | (uint64_t)(c - 'a' + 10);
                else
                        return 0;
        }
        return n == 16 ? id : 0;
}

/* The driver's version as the kernel module tells it; empty if it does not. */
static void driver_version(char *to, size_t size)
{
        FILE *file = fopen("/sys/module/nvidia/version", "re");
        size_t n = 0;

        if (file) {
                n = fread(to, 1, size - 1, file);
                fclose(file);
        }
        to[n] = 0;
        to[strcspn(to, "\n")] = 0;
}

union answer {
        struct cleave_message head;
        struct cleave_welcome welcome;
        struct cleave_refused refused;
};

/* Bytes received, with up to two descriptors (-1 where there is none); -errno */
static int receive(int fd, union answer *ret, int ret_fds[2])
{
        union {
                char space[CMSG_SPACE(2 * sizeof(int))];
                struct cmsghdr align;
        } control;
        struct iovec iov = {ret, sizeof(*ret)};
        struct msghdr message = {.msg_iov = &iov,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control)};
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        ssize_t n;
        int r;

        ret_fds[0] = ret_fds[1] = -1;
        do
                r = poll(&wait, 1, ANSWER_WAIT_MS);
        while (r < 0 && errno == EINTR);
        if (r <= 0)
                return r == 0 ? -ETIMEDOUT : -errno;
        n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
        if (n < 0)
                return -errno;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
                        memcpy(ret_fds, CMSG_DATA(c),
                                c->cmsg_len - CMSG_LEN(0) < 2 * sizeof(int)
                                        ? c->cmsg_len - CMSG_LEN(0)
                                        : 2 * sizeof(int));
        return (int)n;
}

/* Maps and checks both pages; the descriptors are not needed afterwards. */
static int map_pages(
        struct guard_session *s, const struct cleave_welcome *welcome, int fds[2], bool observer)
{
        void *grant, *usage;
        int r;

        if (fds[0] < 0 || fds[1] < 0 || (welcome->slot == 0) != observer ||
                welcome->slot >= CLEAVE_MAX_SLOTS)
                return -EBADMSG;
        grant = mmap(NULL, CLEAVE_GRANT_BYTES, PROT_READ, MAP_SHARED, fds[0], 0);
        if (grant == MAP_FAILED)
                return -errno;
        usage = mmap(NULL, CLEAVE_USAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
        if (usage == MAP_FAILED) {
                r = -errno;
                munmap(grant, CLEAVE_GRANT_BYTES);
                return r;
        }
        r = cleave_grant_page_check(grant, CLEAVE_GRANT_BYTES);
        if (r == 0)
                r = cleave_usage_page_check(usage, CLEAVE_USAGE_BYTES);
        if (r < 0) {
                munmap(grant, CLEAVE_GRANT_BYTES);
                munmap(usage, CLEAVE_USAGE_BYTES);
                return r;
        }
        *s = (struct guard_session){
                .grant = grant,
                .usage = usage,
                .slot = observer ? NULL : cleave_usage_slot(usage, welcome->slot),
                .index = welcome->slot,
                .other_pids = welcome->pid != 0 && welcome->pid != (uint32_t)getpid(),
        };
        return 0;
}

static int answer_error(const union answer *answer, int size)
{
        if (size == sizeof(answer->refused) && answer->head.type == CLEAVE_REFUSED) {
                guard_debug("the daemon refuses: %s",
                        answer->refused.reason == CLEAVE_REFUSED_VERSION
                                ? "it is of another version: its log says which is older and has "
                                  "to be started anew"
                        : answer->refused.reason == CLEAVE_REFUSED_STRANGER
                                ? "this process belongs to no tenant"
                        : answer->refused.reason == CLEAVE_REFUSED_FULL
                                ? "the tenant has no room for another process"
                                : "it could not serve us, see its log");
                return answer->refused.reason == CLEAVE_REFUSED_STRANGER ? -EPERM : -EAGAIN;
        }
        guard_debug("the daemon's answer is not understood");
        return -EAGAIN;
}

static int say_hello(int fd, uint64_t tenant, bool observer)
{
        struct cleave_hello hello = {
                .head = {CLEAVE_MESSAGE_MAGIC, CLEAVE_MESSAGE_VERSION, CLEAVE_HELLO, sizeof(hello),
                        0},
                .tenant = tenant,
                .flags = observer ? CLEAVE_HELLO_OBSERVER : 0,
                .guard = CLEAVE_VERSION,
        };
        union answer answer;
        int fds[2], n, r;

        driver_version(hello.driver, sizeof(hello.driver));
        if (send(fd, &hello, sizeof(hello), MSG_NOSIGNAL) != sizeof(hello))
                return -EAGAIN;
        n = receive(fd, &answer, fds);
        if (n < (int)sizeof(answer.head) || answer.head.magic != CLEAVE_MESSAGE_MAGIC ||
                answer.head.size != (uint32_t)n ||
                (answer.head.version != CLEAVE_MESSAGE_VERSION &&
                        answer.head.type != CLEAVE_REFUSED)) {
                guard_debug("no answer from the daemon: %d", n);
                r = -EAGAIN;
        } else if (answer.head.type != CLEAVE_WELCOME || n != sizeof(answer.welcome))
                r = answer_error(&answer, n);
        else {
                r = map_pages(&session, &answer.welcome, fds, observer);
                if (r < 0)
                        guard_debug("the shared pages are not usable: %d", r);
                r = r < 0 ? -EAGAIN : 0;
        }
        for (unsigned i = 0; i < 2; i++)
                if (fds[i] >= 0)
                        close(fds[i]);
        return r;
}

static int put_high(int fd)
{
        int high = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, HIGH_FD);

        if (high < 0)
                return fd;
        close(fd);
        return high;
}

static int open_locked(bool observer)
{
        uint64_t tenant = tenant_hint();
        int fd = connect_daemon(tenant), r;

        if (fd < 0) {
                guard_debug("no daemon: %d", fd);
                return -EAGAIN;
        }
        r = say_hello(fd, tenant, observer);
        if (r < 0) {
                close(fd);
                return r;
        }
        session_fd = put_high(fd);
        mark_here();
        atomic_store_explicit(&session_open, &session, memory_order_release);
        guard_debug("tenant %016llx, slot %u, %u devices",
                (unsigned long long)session.grant->tenant, session.index, session.grant->devices);
        return 0;
}

int guard_session_open(bool observer)
{
        int saved = errno, r = 0;

        if (guard_session())
                return 0;
        guard_lock(&session_lock);
        if (!guard_session())
                r = open_locked(observer);
        guard_unlock(&session_lock);
        errno = saved;
        return r;
}

/* After a restart of the daemon: says hello again, with the slot that we have. Its answer brings
 * nothing that we lack, so it is not waited for. At most one attempt a second. */
static bool say_hello_again(void)
{
        static _Atomic time_t last;
        struct cleave_hello hello = {
                .head = {CLEAVE_MESSAGE_MAGIC, CLEAVE_MESSAGE_VERSION, CLEAVE_HELLO, sizeof(hello),
                        0},
                .tenant = session.grant->tenant,
                .flags = CLEAVE_HELLO_AGAIN,
                .slot = session.index,
                .guard = CLEAVE_VERSION,
        };
        struct timespec now;
        int fd;

        clock_gettime(CLOCK_MONOTONIC, &now);
        if (atomic_exchange(&last, now.tv_sec) == now.tv_sec)
                return false;
        fd = connect_once();
        if (fd < 0)
                return false;
        driver_version(hello.driver, sizeof(hello.driver));
        if (send(fd, &hello, sizeof(hello), MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof(hello)) {
                close(fd);
                return false;
        }
        /* in place, so that a thread that is sending never meets another's descriptor */
        syscall(SYS_dup3, fd, session_fd, O_CLOEXEC);
        close(fd);
        return true;
}

/* With a descriptor (-1: none) as ancillary data, which an older daemon leaves unread. */
static int send_notice(const struct cleave_notice *notice, int fd)
{
        union {
                char space[CMSG_SPACE(sizeof(int))];
                struct cmsghdr align;
        } control = {{0}};
        struct iovec iov = {(void *)notice, sizeof(*notice)};
        struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
        struct cmsghdr *head;

        if (fd >= 0) {
                message.msg_control = &control;
                message.msg_controllen = sizeof(control);
                head = CMSG_FIRSTHDR(&message);
                head->cmsg_level = SOL_SOCKET;
                head->cmsg_type = SCM_RIGHTS;
                head->cmsg_len = CMSG_LEN(sizeof(fd));
                memcpy(CMSG_DATA(head), &fd, sizeof(fd));
        }
        return sendmsg(session_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

void guard_notice(uint32_t kind, uint64_t a, uint64_t b)
{
        guard_notice_fd(kind, a, b, -1);
}

void guard_notice_fd(uint32_t kind, uint64_t a, uint64_t b, int fd)
{
        const struct cleave_notice notice = {
                .head = {CLEAVE_MESSAGE_MAGIC, CLEAVE_MESSAGE_VERSION, CLEAVE_NOTICE,
                        sizeof(notice), 0},
                .kind = kind,
                .a = a,
                .b = b,
        };
        int saved = errno, r;

        if (session_fd >= 0 && !guard_forked()) {
                r = send_notice(&notice, fd);
                if (r < 0 && r != -EAGAIN && say_hello_again())
                        (void)send_notice(&notice, fd);
        }
        errno = saved;
}

int guard_device_by_uuid(const uint8_t uuid[16])
{
        const struct guard_session *s = guard_session();

        for (uint32_t i = 0; s && i < s->grant->devices; i++)
                if (memcmp(s->grant->device[i].uuid, uuid, 16) == 0)
                        return (int)i;
        return -ENODEV;
}
