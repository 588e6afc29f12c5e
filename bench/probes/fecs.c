/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Context-switch records of the graphics and compute engine, read by an RM client of our own: which
 * step RM answers how, whether residency agrees with work done, how late records become visible,
 * and what reading costs. docs/probes.md has the results.
 *
 * usage: fecs LOAD-PROGRAM [CASE...]
 *   cases: open queues sync lone pace mixed slices users second duty asked churn
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loads.h"

#define RM_CTRL_GR_CURRENT_RESIDENT 0x2080121Cu

/* Which channel has the engine now: cost, and what is said. */
static void resident_channel(const struct client *client)
{
        uint64_t takes[300];
        uint32_t id[300], status = 0;
        unsigned n = 0, kinds = 0;

        for (; n < 300; n++) {
                uint32_t params[6] = {0xFFFFFFFF};
                uint64_t start = now_ns();

                status = client_control(client, client->subdevice, RM_CTRL_GR_CURRENT_RESIDENT,
                        params, sizeof(params));
                if (status != RM_OK)
                        break;
                takes[n] = now_ns() - start;
                id[n] = params[0];
                sleep_ns(1000000);
        }
        printf("  GR_GET_CURRENT_RESIDENT_CHANNEL: 0x%02x %s\n", status, rm_status_name(status));
        print_spread("takes", takes, n);
        for (unsigned i = 0; i < n; i++) {
                unsigned same = 0, k = 0;

                for (; k < i && id[k] != id[i]; k++)
                        ;
                if (k < i || kinds++ > 8)
                        continue;
                for (k = i; k < n; k++)
                        same += id[k] == id[i];
                printf("    channel 0x%x: %u of %u\n", id[i], same, n);
        }
}

static int compare(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return x < y ? -1 : x > y;
}

/* RM's own samples of how busy the engine was. */
static void busy_samples(const struct client *client)
{
        static struct rm_util_samples params;
        uint64_t start = now_ns();
        uint32_t status;

        memset(&params, 0, sizeof(params));
        params.type = 2;
        params.size = sizeof(params.sample);
        status = client_control(
                client, client->subdevice, RM_CTRL_PERF_UTIL_SAMPLES, &params, sizeof(params));
        printf("  PERF_GET_GPUMON_PERFMON_UTIL_SAMPLES_V2: 0x%02x %s, %.0f us, tracker %u\n",
                status, rm_status_name(status), (double)(now_ns() - start) / 1e3, params.tracker);
        qsort(params.sample, RM_UTIL_SAMPLES, sizeof(params.sample[0]),
                compare); /* the time comes first */
        printf("    newest, age in ms: busy %%, pid:");
        for (unsigned i = RM_UTIL_SAMPLES - 12; i < RM_UTIL_SAMPLES; i++)
                printf(" %.0f: %.2f, %d;",
                        ((double)client_gpu_now(client) - (double)params.sample[i].ns) / 1e6,
                        params.sample[i].graphics.busy / 100.0, (int)params.sample[i].graphics.pid);
        printf("\n");
}

struct plan {
        const char *name;
        struct work load[2];
};

static const struct plan plans[] = {
        {"queues", {{"100", "queue", "0", "0"}, {"5000", "queue", "0", "0"}}},
        {"sync", {{"100", "sync", "0", "0"}, {"100", "sync", "0", "0"}}},
        {"lone", {{"100", "queue", "0", "0"}}},
        {"pace", {{"1000", "pace", "4000", "0"}}},
        {"mixed", {{"1000", "pace", "2000", "0"}, {"5000", "queue", "0", "0"}}},
        {"slices", {{"100", "queue", "0", "2000"}, {"5000", "queue", "0", "18000"}}},
};

static void run_plan(const struct plan *plan)
{
        struct load loads[2] = {0};
        struct reader reader;
        unsigned n = 0;

        printf("\n%s\n", plan->name);
        for (; n < 2 && plan->load[n].mode; n++)
                if (load_start(&loads[n], &plan->load[n], 0) < 0) {
                        printf("  a load did not start\n");
                        goto out;
                }
        for (unsigned i = 0; i < n; i++)
                load_go(&loads[i]);
        sleep_ns(500000000);
        window(NULL, loads, n, 1.5, 10000000, false);
        seen_count = 0;
        if (reader_open(&reader, true, strcmp(plan->name, "queues") != 0) == 0) {
                sleep_ns(300000000);
                window(&reader, loads, n, 3, 10000000, false);
                window(&reader, loads, n, 2, 10000000, true);
                window(&reader, loads, n, 1.5, 1000000, true);
                resident_channel(&reader.rm);
                busy_samples(&reader.rm);
        }
        reader_close(&reader);
        window(NULL, loads, n, 1, 10000000, false);
out:
        for (unsigned i = 0; i < 2; i++)
                load_stop(&loads[i]);
}

/* -- users and readers ------------------------------------------------------------------------- */

static void child_reads(uid_t uid, bool all_users, double seconds, const char *who)
{
        struct reader reader;
        unsigned first;
        pid_t pid;

        fflush(stdout);
        pid = fork();
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (uid && (setgid(uid) < 0 || setuid(uid) < 0))
                        _exit(1);
                printf("  -- %s\n", who);
                seen_count = 0;
                if (reader_open(&reader, all_users, true) == 0) {
                        uint64_t from = client_gpu_now(&reader.rm);

                        first = seen_count;
                        for (uint64_t start = now_ns(); now_ns() - start < seconds * 1e9;) {
                                sleep_ns(10000000);
                                reader_poll(&reader);
                        }
                        reader_flush(&reader);
                        reader_poll(&reader);
                        records_print(first, from, client_gpu_now(&reader.rm));
                        printf("    lost %" PRIu64 "\n", reader.lost);
                }
                fflush(stdout);
                _exit(0);
        }
        waitpid(pid, NULL, 0);
}

static void users(void)
{
        struct load loads[2] = {0};

        printf("\nusers: first load of uid 0, second of uid %d\n", NOBODY);
        if (load_start(&loads[0], &plans[0].load[0], 0) < 0 ||
                load_start(&loads[1], &plans[0].load[1], NOBODY) < 0)
                goto out;
        for (unsigned i = 0; i < 2; i++)
                load_go(&loads[i]);
        sleep_ns(500000000);
        child_reads(0, true, 1, "uid 0, all users");
        child_reads(0, false, 1, "uid 0, own user");
        child_reads(NOBODY, false, 1, "uid 65534, own user");
        child_reads(NOBODY, true, 1, "uid 65534, all users");
out:
        for (unsigned i = 0; i < 2; i++)
                load_stop(&loads[i]);
}

static void second(void)
{
        struct load loads[2] = {0};
        struct reader reader;
        unsigned first;
        uint64_t from;

        printf("\nsecond: one reader throughout, another for 1 s beside it\n");
        if (load_start(&loads[0], &plans[0].load[0], 0) < 0 ||
                load_start(&loads[1], &plans[0].load[0], 0) < 0)
                goto out;
        for (unsigned i = 0; i < 2; i++)
                load_go(&loads[i]);
        sleep_ns(300000000);
        seen_count = 0;
        if (reader_open(&reader, true, true) < 0)
                goto out;
        sleep_ns(500000000);
        reader_poll(&reader);
        first = seen_count;
        reader.lost = 0;
        from = client_gpu_now(&reader.rm);
        child_reads(0, true, 1, "the other");
        printf("  -- the first, over the same time and a little more\n");
        reader_flush(&reader);
        reader_poll(&reader);
        records_print(first, from, client_gpu_now(&reader.rm));
        printf("    lost %" PRIu64 "\n", reader.lost);
        printf("  -- and after the other has gone\n");
        window(&reader, loads, 2, 1, 10000000, false);
        reader_close(&reader);
out:
        for (unsigned i = 0; i < 2; i++)
                load_stop(&loads[i]);
}

/* -- with channels disabled by turns, and contexts that come and go ---------------------------- */

/* One load alone, on for 30 of 100 ms. */
static void duty_of(const struct work *work)
{
        struct load load = {0};
        struct reader reader;
        uint64_t from, begin, next, on = 0, t;
        uint32_t status = 0;
        unsigned first;

        if (load_start(&load, work, 0) < 0)
                goto out;
        load_go(&load);
        sleep_ns(300000000);
        seen_count = 0;
        if (reader_open(&reader, true, true) < 0)
                goto out;
        first = seen_count;
        load.before = atomic_load(&load.page->done);
        from = client_gpu_now(&reader.rm);
        begin = now_ns();
        for (int i = 0; i < 30; i++) {
                status |= load_disable(&reader.rm, &load, true);
                sleep_ns(70000000);
                t = now_ns();
                status |= load_disable(&reader.rm, &load, false);
                next = begin + (uint64_t)(i + 1) * 100000000;
                if (next > now_ns())
                        sleep_ns(next - now_ns());
                on += now_ns() - t;
        }
        load.before = atomic_load(&load.page->done) - load.before;
        t = now_ns() - begin;
        printf("    on by our clock %.4f of the time, status 0x%02x; work %.4f\n",
                (double)on / (double)t, status,
                (double)load.before * load.page->unit_ns / (double)t);
        reader_flush(&reader);
        reader_poll(&reader);
        records_print(first, from, from + t);
        reader_close(&reader);
out:
        load_stop(&load);
}

static void duty(void)
{
        static const struct work queue = {"100", "queue", "0", "0"},
                                 pace = {"1000", "pace", "4000", "0"};

        printf("\nduty: one load, its channels enabled for 30 of 100 ms\n");
        duty_of(&queue);
        duty_of(&pace);
}

/* -- whether somebody alone has work, asked by taking him off the engine ----------------------- */

#define ASKED      200u
#define ASK_WINDOW 4000000u /* ns of the device's clock in which the answer is looked for */

/* A load alone is preempted: who has work is back at once, who has not comes back with his next. */
static void asked_of(const struct work *work)
{
        struct load load = {0};
        struct reader reader;
        struct client client = {.ctl = -1, .gpu = -1};
        uint64_t back[ASKED], takes[ASKED];
        unsigned ends = 0, backs = 0, refused = 0;
        uint32_t status = RM_OK;

        printf("  %s us, %s, pause %s us\n", work->microseconds, work->mode, work->gap);
        if (load_start(&load, work, 0) < 0)
                goto out;
        client = load_client(&load);
        load_go(&load);
        sleep_ns(300000000);
        seen_count = 0;
        if (reader_open(&reader, true, true) < 0)
                goto out;
        for (unsigned i = 0; i < ASKED; i++) {
                struct rm_preempt params = {0};
                uint64_t asked, ended = 0;
                unsigned first;

                sleep_ns(15000000 + (uint64_t)(i % 7) * 1300000);
                reader_flush(&reader);
                reader_poll(&reader);
                first = seen_count;
                asked = client_gpu_now(&reader.rm);
                takes[i] = now_ns();
                status = client_control(
                        &client, load.page->group, RM_CTRL_GROUP_PREEMPT, &params, sizeof(params));
                takes[i] = now_ns() - takes[i];
                refused += status != RM_OK;
                sleep_ns(ASK_WINDOW);
                reader_flush(&reader);
                reader_poll(&reader);
                for (unsigned k = first; k < seen_count; k++) {
                        const struct rm_fecs_record *record = &seen[k].record;

                        if (record->ns < asked || record->ns > asked + ASK_WINDOW)
                                continue;
                        if (record->tag == RM_FECS_TAG_END && !ended) {
                                ended = record->ns;
                                ends++;
                        } else if (record->tag == RM_FECS_TAG_START && ended) {
                                back[backs++] = record->ns - ended;
                                break;
                        }
                }
        }
        printf("    asked %u times, refused %u (0x%02x): left the engine %u times, was back within "
               "4 ms %u times\n",
                ASKED, refused, status, ends, backs);
        print_spread("from its end to its start", back, backs);
        print_spread("PREEMPT takes", takes, ASKED);
        reader_close(&reader);
out:
        load_stop(&load);
}

static void asked(void)
{
        static const struct work loads[] = {
                {"100", "queue", "0", "0"},
                {"5000", "queue", "0", "0"},
                {"10", "sync", "0", "0"},
                {"1000", "pace", "20000", "0"},
                {"10", "pace", "50000", "0"},
        };

        printf("\nasked: one load alone, taken off the engine by PREEMPT\n");
        for (unsigned i = 0; i < sizeof(loads) / sizeof(*loads); i++)
                asked_of(&loads[i]);
}

static void churn(void)
{
        struct load loads[3] = {0};
        struct reader reader;
        unsigned first;
        uint64_t from;

        printf("\nchurn: beside a queue, a second load starts and is killed, a third comes and "
               "goes\n");
        if (load_start(&loads[0], &plans[0].load[0], 0) < 0)
                goto out;
        load_go(&loads[0]);
        seen_count = 0;
        if (reader_open(&reader, true, true) < 0)
                goto out;
        first = seen_count;
        from = client_gpu_now(&reader.rm);
        for (unsigned i = 1; i < 3; i++) {
                if (load_start(&loads[i], &plans[0].load[0], 0) < 0)
                        break;
                reader_poll(&reader);
                load_go(&loads[i]);
                window(&reader, loads, i == 1 ? 2 : 1, 0.5, 10000000, true);
                if (i == 1)
                        kill(loads[i].pid, SIGKILL);
                load_stop(&loads[i]);
        }
        reader_flush(&reader);
        reader_poll(&reader);
        printf("  in all\n");
        records_print(first, from, client_gpu_now(&reader.rm));
        printf("    lost %" PRIu64 "\n", reader.lost);
        reader_close(&reader);
out:
        for (unsigned i = 0; i < 3; i++)
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
        struct reader reader;

        if (argc < 2)
                return 2;
        load_program = argv[1];
        if (wanted(argc, argv, "open")) {
                printf("open, with nothing else on the GPU\n");
                if (reader_open(&reader, true, false) == 0)
                        printf("  FLUSH takes %.1f us\n", (double)reader_flush(&reader) / 1e3);
                reader_close(&reader);
        }
        for (unsigned i = 0; i < sizeof(plans) / sizeof(*plans); i++)
                if (wanted(argc, argv, plans[i].name))
                        run_plan(&plans[i]);
        if (wanted(argc, argv, "users"))
                users();
        if (wanted(argc, argv, "second"))
                second();
        if (wanted(argc, argv, "duty"))
                duty();
        if (wanted(argc, argv, "asked"))
                asked();
        if (wanted(argc, argv, "churn"))
                churn();
        return 0;
}
