/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loads.h"

const char *load_program;

int load_start(struct load *load, const struct work *work, uid_t uid)
{
        int fd = memfd_create("load", 0);
        char number[16];

        if (fd < 0 || ftruncate(fd, sizeof(*load->page)) < 0)
                return -errno;
        load->page = mmap(NULL, sizeof(*load->page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (load->page == MAP_FAILED)
                return -errno;
        snprintf(number, sizeof(number), "%d", fd);
        fflush(stdout);
        load->pid = fork();
        if (load->pid == 0) {
                if (uid && (setgid(uid) < 0 || setuid(uid) < 0))
                        _exit(1);
                execl(load_program, "load", number, work->microseconds, work->mode, work->gap,
                        work->slice, NULL);
                _exit(127);
        }
        close(fd);
        for (int i = 0; i < 2000; i++) {
                uint32_t state = atomic_load(&load->page->state);

                if (state == LOAD_READY) {
                        printf("  load %s us, %s, gap %s, slice %s us (0x%02x): pid %d, ",
                                work->microseconds, work->mode, work->gap, work->slice,
                                load->page->slice_status, load->pid);
                        printf("alone %.1f us each, %u channels\n", load->page->unit_ns / 1e3,
                                load->page->channels);
                        return 0;
                }
                if (state == LOAD_FAILED)
                        return -EIO;
                sleep_ns(10000000);
        }
        return -ETIMEDOUT;
}

void load_go(struct load *load)
{
        atomic_store(&load->page->go, 1);
        while (atomic_load(&load->page->state) == LOAD_READY)
                sleep_ns(1000000);
}

void load_stop(struct load *load)
{
        if (load->pid <= 0)
                return;
        atomic_store(&load->page->go, 1);
        atomic_store(&load->page->stop, 1);
        for (int i = 0; i < 300; i++) {
                if (waitpid(load->pid, NULL, WNOHANG) == load->pid)
                        goto gone;
                sleep_ns(10000000);
        }
        kill(load->pid, SIGKILL);
        waitpid(load->pid, NULL, 0);
gone:
        load->pid = 0;
}

struct client load_client(const struct load *load)
{
        struct client client = {.handle = load->page->client};
        int pidfd = (int)syscall(SYS_pidfd_open, load->pid, 0);

        client.ctl = (int)syscall(SYS_pidfd_getfd, pidfd, load->page->fd, 0);
        if (client.ctl < 0)
                printf("  pidfd_getfd: %s\n", strerror(errno));
        close(pidfd);
        return client;
}

static double cpu_seconds(void)
{
        struct rusage u;

        getrusage(RUSAGE_SELF, &u);
        return (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
               (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void print_latencies(const struct load *load)
{
        unsigned n = atomic_load(&load->page->latencies);
        static uint64_t values[LOAD_LATENCIES];

        n = n > LOAD_LATENCIES ? LOAD_LATENCIES : n;
        for (unsigned i = 0; i < n; i++)
                values[i] = load->page->latency_us[i] * 1000ull;
        print_spread("arrival to completion", values, n);
}

void window(struct reader *reader, struct load *loads, unsigned n, double seconds,
        uint64_t period_ns, bool flush)
{
        uint64_t *cost = calloc(100000, sizeof(*cost)), begin, end, from = 0, to;
        unsigned first = 0, calls = 0;
        double cpu;

        if (reader) {
                reader_flush(reader);
                reader_poll(reader);
                first = seen_count;
                reader->lost = 0;
                from = client_gpu_now(&reader->rm);
        }
        for (unsigned i = 0; i < n; i++) {
                loads[i].before = atomic_load(&loads[i].page->done);
                atomic_store(&loads[i].page->latencies, 0);
        }
        begin = now_ns();
        cpu = cpu_seconds();
        while (now_ns() - begin < (uint64_t)(seconds * 1e9)) {
                sleep_ns(period_ns);
                if (reader && flush && calls < 100000)
                        cost[calls++] = reader_flush(reader);
                if (reader)
                        reader_poll(reader);
        }
        cpu = cpu_seconds() - cpu;
        end = now_ns();
        for (unsigned i = 0; i < n; i++)
                loads[i].before = atomic_load(&loads[i].page->done) - loads[i].before;
        printf("  -- %s, %.1f s\n",
                !reader ? "no reader"
                : flush ? "flush at each poll"
                        : "RM's own timer",
                (double)(end - begin) / 1e9);
        for (unsigned i = 0; i < n; i++) {
                printf("    pid %d: work %.4f of the time (%" PRIu64 " kernels)\n", loads[i].pid,
                        (double)loads[i].before * loads[i].page->unit_ns / (double)(end - begin),
                        loads[i].before);
                print_latencies(&loads[i]);
        }
        if (reader) {
                to = client_gpu_now(&reader->rm);
                sleep_ns(2000000);
                reader_flush(reader);
                reader_poll(reader);
                records_print(first, from, to);
                printf("    lost %" PRIu64 ", reader %.2f %% of a core at a period of %.1f ms\n",
                        reader->lost, 100 * cpu / ((double)(end - begin) / 1e9),
                        (double)period_ns / 1e6);
                print_spread("FLUSH takes", cost, calls);
        }
        fflush(stdout);
        free(cost);
}

uint32_t load_disable(const struct client *client, const struct load *load, bool disabled)
{
        struct rm_disable_channels params = {.disable = disabled, .channels = load->page->channels};

        for (unsigned i = 0; i < load->page->channels; i++) {
                params.client[i] = load->page->client;
                params.channel[i] = load->page->channel[i];
        }
        return client_control(
                client, client->subdevice, RM_CTRL_FIFO_DISABLE_CHANNEL, &params, sizeof(params));
}
