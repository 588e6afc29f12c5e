/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How soon a tenant whose work has just come gets the GPU from a neighbour that never lets go:
 * slices, interleave levels, RESTART_RUNLIST and PREEMPT, called by the tenant or from outside; and
 * what thread-block preemption saves. docs/probes.md has the results.
 *
 * usage: wake LOAD-PROGRAM [CASE...]     cases: wake service modes
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "loads.h"

#define RM_CTRL_FIFO_SET_SCHED_POLICY 0x20801115u

static void set_level(struct load *load, uint32_t level)
{
        atomic_store(&load->page->level, level + 1);
        for (int i = 0; i < 100 && atomic_load(&load->page->level); i++)
                sleep_ns(10000000);
        printf("  SET_INTERLEAVE_LEVEL %u: 0x%02x %s\n", level, load->page->level_status,
                rm_status_name(load->page->level_status));
}

static void set_wake(struct load *load, enum load_wake wake)
{
        load->page->wake_ns = 0;
        atomic_store(&load->page->wake, wake);
        sleep_ns(100000000);
        printf("  RESTART_RUNLIST after each launch: %s\n", wake ? "on" : "off");
}

static void set_policy(const struct client *client, uint32_t flags, uint32_t policy)
{
        uint32_t params[2] = {flags, policy};
        uint32_t status = client_control(
                client, client->subdevice, RM_CTRL_FIFO_SET_SCHED_POLICY, params, sizeof(params));

        printf("  RUNLIST_SET_SCHED_POLICY flags %u policy %u: 0x%02x %s\n", flags, policy, status,
                rm_status_name(status));
}

static void wake(void)
{
        static const struct work service = {"1000", "pace", "2000", "50000"},
                                 neighbour = {"5000", "queue", "0", "20000"};
        struct load loads[2] = {0};
        struct reader reader;

        printf("\nwake: 1 ms kernels with pauses of 2 ms, slice 50 ms, beside a queue with 20 "
               "ms\n");
        if (load_start(&loads[0], &service, 0) < 0 || load_start(&loads[1], &neighbour, 0) < 0)
                goto out;
        for (unsigned i = 0; i < 2; i++)
                load_go(&loads[i]);
        sleep_ns(300000000);
        seen_count = 0;
        if (reader_open(&reader, true, true) < 0)
                goto out;
        window(&reader, loads, 2, 1.5, 10000000, false);
        set_wake(&loads[0], LOAD_WAKE_SELF);
        window(&reader, loads, 2, 1.5, 10000000, false);
        printf("    status 0x%02x, longest call %.0f us\n", loads[0].page->wake_status,
                (double)loads[0].page->wake_ns / 1e3);
        set_wake(&loads[0], LOAD_WAKE_NOT);
        set_level(&loads[0], 2);
        window(&reader, loads, 2, 1.5, 10000000, false);
        set_wake(&loads[0], LOAD_WAKE_SELF);
        window(&reader, loads, 2, 1.5, 10000000, false);
        set_policy(&reader.rm, 0, 1);
        window(&reader, loads, 2, 1.5, 10000000, false);
        set_wake(&loads[0], LOAD_WAKE_NOT);
        window(&reader, loads, 2, 1.5, 10000000, false);
        set_policy(&reader.rm, 1, 0);
        set_level(&loads[0], 0);
        reader_close(&reader);
out:
        for (unsigned i = 0; i < 2; i++)
                load_stop(&loads[i]);
}

/* -- a service beside a saturating neighbour, woken from outside ------------------------------- */

/* The daemon's part: waits until the load says that work waits, and brings it onto the GPU. */
struct waker {
        struct load *load;
        struct client as; /* the descriptor and client by which the call is made */
        uint32_t object, cmd;
        uint8_t params[8];
        uint32_t size;
        bool spin;
        _Atomic int stop;
        uint32_t status;
        uint64_t calls, ns;
        pthread_t thread;
};

static void *waker_main(void *arg)
{
        struct waker *w = arg;
        struct load_page *page = w->load->page;

        prctl(PR_SET_TIMERSLACK, 1);
        while (!atomic_load(&w->stop)) {
                uint64_t start;

                if (!atomic_exchange(&page->pending, 0)) {
                        if (!w->spin)
                                futex_wait(&page->pending, 0);
                        continue;
                }
                start = now_ns();
                w->status |= client_control(&w->as, w->object, w->cmd, w->params, w->size);
                w->ns += now_ns() - start;
                w->calls++;
        }
        return NULL;
}

static void woken_window(
        struct reader *reader, struct load *loads, struct waker *w, const char *how)
{
        printf("  woken by %s\n", how);
        w->load = &loads[0];
        if (pthread_create(&w->thread, NULL, waker_main, w) != 0)
                return;
        atomic_store(&loads[0].page->wake, LOAD_WAKE_ASK);
        sleep_ns(50000000);
        window(reader, loads, 2, 4, 10000000, false);
        atomic_store(&loads[0].page->wake, LOAD_WAKE_NOT);
        atomic_store(&w->stop, 1);
        atomic_store(&loads[0].page->pending, 1);
        futex_wake(&loads[0].page->pending);
        pthread_join(w->thread, NULL);
        printf("    status 0x%02x, %" PRIu64 " calls of %.0f us\n", w->status, w->calls,
                w->calls ? (double)w->ns / (double)w->calls / 1e3 : 0);
}

static void service(void)
{
        static const struct work open_loop = {"1000", "open", "3333", "50000"},
                                 neighbour = {"5000", "queue", "0", "20000"};
        struct load loads[2] = {0};
        struct reader reader;
        struct client by[2];
        uint64_t slice = 2048;

        printf("\nservice: 300 arrivals/s of 1 ms, uid %d, slice 50 ms, beside a queue\n", NOBODY);
        if (load_start(&loads[0], &open_loop, NOBODY) < 0 ||
                load_start(&loads[1], &neighbour, 0) < 0)
                goto out;
        seen_count = 0;
        if (reader_open(&reader, true, true) < 0)
                goto out;
        for (unsigned i = 0; i < 2; i++)
                by[i] = load_client(&loads[i]);
        printf("  alone\n");
        load_go(&loads[0]);
        sleep_ns(300000000);
        window(&reader, loads, 1, 4, 10000000, false);
        printf("  beside the queue with slices of 20 ms\n");
        load_go(&loads[1]);
        sleep_ns(300000000);
        window(&reader, loads, 2, 1, 10000000, false);
        set_wake(&loads[0], LOAD_WAKE_SELF);
        printf("    by itself, status 0x%02x\n", loads[0].page->wake_status);
        set_wake(&loads[0], LOAD_WAKE_NOT);
        /* let the backlog drain */
        load_disable(&reader.rm, &loads[1], true);
        sleep_ns(1500000000);
        load_disable(&reader.rm, &loads[1], false);

        struct waker restart = {.as = by[0],
                .object = loads[0].page->channel[0],
                .cmd = RM_CTRL_CHANNEL_RESTART_RUNLIST,
                .params = {0, 1},
                .size = 2};
        struct waker spinning = restart, slow = restart;
        struct waker preempt = {.as = by[1],
                .object = loads[1].page->group,
                .cmd = RM_CTRL_GROUP_PREEMPT,
                .params = {0},
                .size = 8};

        woken_window(&reader, loads, &restart, "futex and RESTART_RUNLIST");
        spinning.spin = true;
        woken_window(&reader, loads, &spinning, "a spinning thread and RESTART_RUNLIST");
        woken_window(&reader, loads, &preempt, "futex and PREEMPT of the neighbour");
        printf("  the neighbour's slice 2 ms: 0x%02x\n",
                client_control(&by[1], loads[1].page->group, RM_CTRL_GROUP_SET_TIMESLICE, &slice,
                        sizeof(slice)));
        woken_window(&reader, loads, &slow, "futex and RESTART_RUNLIST");
        reader_close(&reader);
out:
        for (unsigned i = 0; i < 2; i++)
                load_stop(&loads[i]);
}

/* -- preemption modes -------------------------------------------------------------------------- */

static void modes(void)
{
        static const struct work queue = {"100", "queue", "0", "0"};
        struct load loads[2] = {0};
        struct reader reader;

        printf("\nmodes: two queues of 100 us kernels, slices of 2 ms\n");
        for (unsigned i = 0; i < 2; i++)
                if (load_start(&loads[i], &queue, 0) < 0)
                        goto out;
        for (unsigned i = 0; i < 2; i++)
                load_go(&loads[i]);
        sleep_ns(300000000);
        seen_count = 0;
        if (reader_open(&reader, true, true) < 0)
                goto out;
        for (unsigned i = 0; i < 2; i++) {
                struct client by = load_client(&loads[i]);
                struct rm_preemption_mode params = {.flags = RM_PREEMPTION_SET_COMPUTE,
                        .object = loads[i].page->group,
                        .compute = RM_PREEMPTION_THREAD_BLOCK};

                printf("  GR_SET_CTXSW_PREEMPTION_MODE, thread blocks: 0x%02x\n",
                        client_control(&by, loads[i].page->subdevice,
                                RM_CTRL_GR_SET_PREEMPTION_MODE, &params, sizeof(params)));
                close(by.ctl);
        }
        window(&reader, loads, 2, 3, 10000000, false);
        reader_close(&reader);
out:
        for (unsigned i = 0; i < 2; i++)
                load_stop(&loads[i]);
}

static bool wanted(int argc, char **argv, const char *name)
{
        for (int i = 2; i < argc; i++)
                if (strcmp(argv[i], name) == 0)
                        return true;
        return argc < 3;
}

int main(int argc, char **argv)
{
        if (argc < 2)
                return 2;
        load_program = argv[1];
        if (wanted(argc, argv, "wake"))
                wake();
        if (wanted(argc, argv, "service"))
                service();
        if (wanted(argc, argv, "modes"))
                modes();
        return 0;
}
