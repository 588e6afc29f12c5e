/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process of a tenant that does what a test says: the guard's side of guard.sock and of the
 * pages, driven by lines on standard input, answered by one line each:
 *
 * - hello [again SLOT]: welcome TENANT SLOT LIMIT…, refused REASON, or error ERRNO
 * - charge DEVICE UNITS: ok USED, or refused ERRNO
 * - held DEVICE: ok HELD USED
 * - limit DEVICE: ok LIMIT GENERATION
 * - intend DEVICE UNITS: ok; stops between the change and its entry in held
 * - scribble BYTE: ok; overwrites the usage page
 * - poke DEVICE UNITS: ok; sets the tenant's counter
 * - grow: ok and the errno of truncating each page, and of mapping the grant writable
 * - notice KIND A B: ok
 * - raw HEX: sends one packet, then reads as hello does; or closed
 * - close: ok; closes the socket
 * - fork: ok PID, of a child that sleeps
 * - exec: ok; starts itself anew in the same process
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/counter.h"
#include "proto/message.h"

static int sock = -1, grant_fd = -1, usage_fd = -1;
static uint32_t slot;
static struct cleave_grant_page *grant;
static struct cleave_usage_page *usage;

static int connect_guard(void)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

        snprintf(address.sun_path, sizeof(address.sun_path), "%s/guard.sock",
                getenv("CLEAVE_RUNTIME_DIR"));
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        return fd;
}

static void receive(void)
{
        union {
                struct cleave_message head;
                struct cleave_welcome welcome;
                struct cleave_refused refused;
                char space[512];
        } answer;
        union {
                struct cmsghdr head;
                char space[CMSG_SPACE(2 * sizeof(int))];
        } control;
        struct iovec part = {.iov_base = &answer, .iov_len = sizeof(answer)};
        struct msghdr header = {.msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control)};
        struct cmsghdr *c;
        int fds[2];
        ssize_t n;

        n = recvmsg(sock, &header, MSG_CMSG_CLOEXEC);
        if (n <= 0) {
                printf(n == 0 ? "closed\n" : "error %d\n", errno);
                return;
        }
        if (answer.head.type == CLEAVE_REFUSED) {
                printf("refused %u\n", answer.refused.reason);
                return;
        }
        c = CMSG_FIRSTHDR(&header);
        if (answer.head.type != CLEAVE_WELCOME || !c || c->cmsg_len != CMSG_LEN(sizeof(fds))) {
                printf("nonsense\n");
                return;
        }
        memcpy(fds, CMSG_DATA(c), sizeof(fds));
        grant_fd = fds[0];
        usage_fd = fds[1];
        grant = mmap(NULL, CLEAVE_GRANT_BYTES, PROT_READ, MAP_SHARED, grant_fd, 0);
        usage = mmap(NULL, CLEAVE_USAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, usage_fd, 0);
        if (grant == MAP_FAILED || usage == MAP_FAILED ||
                cleave_grant_page_check(grant, CLEAVE_GRANT_BYTES) < 0 ||
                cleave_usage_page_check(usage, CLEAVE_USAGE_BYTES) < 0) {
                printf("bad page\n");
                return;
        }
        slot = answer.welcome.slot;
        printf("welcome %016" PRIx64 " %u", answer.welcome.tenant, slot);
        for (uint32_t i = 0; i < grant->devices; i++)
                printf(" %" PRIu64, atomic_load(&grant->device[i].limit));
        printf("\n");
}

static void hello(const char *line)
{
        struct cleave_hello message = {
                .head = {CLEAVE_MESSAGE_MAGIC, CLEAVE_MESSAGE_VERSION, CLEAVE_HELLO,
                        sizeof(message), 0},
                .guard = "fake",
                .driver = "580.0",
        };

        if (sscanf(line, "hello again %u", &message.slot) == 1)
                message.flags = CLEAVE_HELLO_AGAIN;
        if (sock >= 0)
                close(sock);
        sock = connect_guard();
        if (sock < 0 || send(sock, &message, sizeof(message), MSG_NOSIGNAL) < 0) {
                printf("error %d\n", sock < 0 ? -sock : errno);
                return;
        }
        receive();
}

static void raw(const char *hex)
{
        unsigned char packet[4096];
        size_t n = 0;
        unsigned byte;

        while (n < sizeof(packet) && sscanf(hex + 2 * n, "%2x", &byte) == 1)
                packet[n++] = (unsigned char)byte;
        if (sock < 0)
                sock = connect_guard();
        if (send(sock, packet, n, MSG_NOSIGNAL) < 0) {
                printf("error %d\n", errno);
                return;
        }
        receive();
}

static void intend(uint32_t device, long long units)
{
        /* what a process does until it is killed between the swap and held */
        (void)cleave_counter_apply(usage, slot, device, units, NULL);
}

int main(int argc, char **argv)
{
        char line[16384];

        setvbuf(stdout, NULL, _IOLBF, 0);
        while (fgets(line, sizeof(line), stdin)) {
                unsigned device, kind;
                long long units;
                unsigned long long a, b;
                int r;

                if (strncmp(line, "hello", 5) == 0) {
                        hello(line);
                } else if (sscanf(line, "charge %u %lld", &device, &units) == 2) {
                        r = cleave_counter_change(
                                usage, slot, device, units, &grant->device[device].limit);
                        if (r < 0) {
                                atomic_fetch_add(
                                        &cleave_usage_slot(usage, slot)->refusals, r == -ENOMEM);
                                printf("refused %d\n", -r);
                        } else {
                                printf("ok %" PRIu64 "\n", cleave_used(usage, device));
                        }
                } else if (sscanf(line, "held %u", &device) == 1) {
                        printf("ok %" PRIu64 " %" PRIu64 "\n",
                                atomic_load(&cleave_usage_slot(usage, slot)->held[device]),
                                cleave_used(usage, device));
                } else if (sscanf(line, "limit %u", &device) == 1) {
                        printf("ok %" PRIu64 " %u\n", atomic_load(&grant->device[device].limit),
                                atomic_load(&grant->generation));
                } else if (sscanf(line, "intend %u %lld", &device, &units) == 2) {
                        intend(device, units);
                        printf("ok\n");
                } else if (sscanf(line, "scribble %u", &kind) == 1) {
                        memset(usage, (int)kind, CLEAVE_USAGE_HEAD + 64 * CLEAVE_SLOT_BYTES);
                        printf("ok\n");
                } else if (sscanf(line, "poke %u %lld", &device, &units) == 2) {
                        atomic_store(
                                &usage->used[device], cleave_counter_word((uint64_t)units, 1, 1));
                        printf("ok\n");
                } else if (strncmp(line, "grow", 4) == 0) {
                        int g = ftruncate(grant_fd, 0) < 0 ? errno : 0;
                        int u = ftruncate(usage_fd, 1 << 20) < 0 ? errno : 0;
                        void *p = mmap(NULL, CLEAVE_GRANT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
                                grant_fd, 0);

                        printf("ok %d %d %d\n", g, u, p == MAP_FAILED ? errno : 0);
                } else if (sscanf(line, "notice %u %llu %llu", &kind, &a, &b) == 3) {
                        struct cleave_notice message = {
                                .head = {CLEAVE_MESSAGE_MAGIC, CLEAVE_MESSAGE_VERSION,
                                        CLEAVE_NOTICE, sizeof(message), 0},
                                .kind = kind,
                                .a = a,
                                .b = b,
                        };

                        r = (int)send(sock, &message, sizeof(message), MSG_NOSIGNAL);
                        printf(r < 0 ? "error %d\n" : "ok\n", errno);
                } else if (strncmp(line, "raw ", 4) == 0) {
                        raw(line + 4);
                } else if (strncmp(line, "close", 5) == 0) {
                        close(sock);
                        sock = -1;
                        printf("ok\n");
                } else if (strncmp(line, "fork", 4) == 0) {
                        pid_t pid = fork();

                        if (pid == 0) {
                                pause();
                                _exit(0);
                        }
                        printf("ok %d\n", (int)pid);
                } else if (strncmp(line, "exec", 4) == 0) {
                        printf("ok\n");
                        execv("/proc/self/exe", argv);
                        printf("error %d\n", errno);
                } else {
                        printf("unknown\n");
                }
                fflush(stdout);
        }
        return 0;
}
