/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads that several processes carry at once: each keeps the GPU busy from now until after a common
 * window of time, and says what of it was done within that window.
 *
 * Work in compute is counted in microseconds of the whole device, by a kernel whose blocks do a
 * fixed number of arithmetic steps (`calibrate`), so that it is what was done and not what the
 * clock said while others had the GPU. Work in memory is counted in bytes.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker.h"

#define FLIGHT_MAX   400      /* below the 1,021 launches that a stream takes without blocking */
#define DEPTH_NS     20e6     /* of work that waits in the queue */
#define POLL_NS      100000u  /* how exactly ends are known */
#define TAIL_NS      10000000 /* for which a load goes on after the window */
#define BINS_MAX     4096
#define LATENCY_MAX  200000
#define WORK_THREADS 1024
#define WORK_BLOCKS  2 /* of each multiprocessor: as many threads as one holds */
#define LINE         128u

struct load {
        enum { QUEUE, SYNC, OPEN, STREAM, READ, COPY, CHURN } kind;
        double us, rate, gap_us; /* length of a kernel; turns in a microsecond; between arrivals */
        size_t bytes;
        unsigned batch; /* launches that are one unit */
        double unit;    /* work of a unit */
        CUdeviceptr memory[3];
        void *pinned;
        uint64_t begin, end, last; /* of the window; end of the unit before */
        double bin_ns, done;
        double *bins, *latency;
        size_t n_bins, n_latency;
};

static const char *text_option(int argc, char **argv, const char *name, const char *otherwise)
{
        size_t length = strlen(name);

        for (int i = 0; i < argc; i++)
                if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=')
                        return argv[i] + length + 1;
        return otherwise;
}

static double option(int argc, char **argv, const char *name, double otherwise)
{
        const char *text = text_option(argc, argv, name, NULL);

        return text ? strtod(text, NULL) : otherwise;
}

/* rate: 0 on a GPU that counts the time of a kernel by itself */
static int launch_work(double us, double rate)
{
        uint64_t ns = (uint64_t)(us * 1e3);
        uint32_t turns = (uint32_t)(us * rate);
        void *spin[] = {&ns}, *turning[] = {&turns, &gpu.scratch};

        if (gpu.simulated)
                return launch(KERNEL_SPIN, (unsigned)gpu.sms, 32, NULL, spin);
        if (turns == 0)
                return fail("work has not been calibrated");
        return launch(KERNEL_TURNS, (unsigned)gpu.sms * WORK_BLOCKS, WORK_THREADS, NULL, turning);
}

/* calibrate: turns in a microsecond, of kernels that fill the GPU and have it to themselves */
static int run_calibrate(int argc, char **argv)
{
        /* half a second: until the clocks are as they are under load */
        enum { KERNELS = 200, ROUNDS = 12 };
        double rate = 1;

        if (gpu.simulated) {
                say("rate", 0);
                return DONE;
        }
        for (int round = 0; round < ROUNDS; round++) {
                uint64_t begin;

                NEED(launch_work(1000, rate));
                TRY(p_cuCtxSynchronize());
                begin = now_ns();
                for (int i = 0; i < KERNELS; i++)
                        NEED(launch_work(round ? 200 : 1000, rate));
                TRY(p_cuCtxSynchronize());
                rate *= (round ? 200 : 1000) / ((double)(now_ns() - begin) / 1e3 / KERNELS);
        }
        say("rate", rate);
        return DONE;
}

/* Adds what was done between two instants, as far as it lies in the window. */
static void count(struct load *load, uint64_t from, uint64_t to, double work)
{
        double begin = (double)(from > load->begin ? from - load->begin : 0);
        double end = to > load->begin ? (double)(to - load->begin) : 0;
        double length = (double)(load->end - load->begin), per_ns;

        if (to <= load->begin || from >= load->end)
                return;
        per_ns = work / (double)(to > from ? to - from : 1);
        if (end > length)
                end = length;
        load->done += per_ns * (end - begin);
        for (size_t i = (size_t)(begin / load->bin_ns); i < load->n_bins; i++) {
                double low = fmax(begin, (double)i * load->bin_ns);
                double high = fmin(end, (double)(i + 1) * load->bin_ns);

                if (high <= low)
                        break;
                load->bins[i] += per_ns * (high - low);
        }
}

static void count_latency(struct load *load, uint64_t from, uint64_t to)
{
        if (from >= load->begin && to < load->end && load->n_latency < LATENCY_MAX)
                load->latency[load->n_latency++] = (double)(to - from) / 1e3;
}

static int submit(struct load *load)
{
        uint64_t floats = load->bytes / 4, words = load->bytes / 8;
        void *add[] = {&load->memory[0], &load->memory[1], &load->memory[2], &floats};
        void *read[] = {&load->memory[1], &load->memory[0], &words};

        for (unsigned i = 0; i < load->batch; i++)
                switch (load->kind) {
                case STREAM:
                        NEED(launch(KERNEL_ADD, gpu_waves(), 256, NULL, add));
                        break;
                case READ:
                        NEED(launch(KERNEL_READ, gpu_blocks(), 256, NULL, read));
                        break;
                case COPY:
                        TRY(p_cuMemcpyHtoDAsync_v2(
                                load->memory[0], load->pinned, load->bytes, NULL));
                        break;
                default:
                        NEED(launch_work(load->us, load->rate));
                }
        return DONE;
}

/* Keeps so many units in flight. */
static int run_queued(struct load *load, uint64_t end)
{
        unsigned depth = load->kind == QUEUE ? (unsigned)(DEPTH_NS / (load->us * 1e3)) : 8;
        CUevent events[FLIGHT_MAX];
        uint64_t head = 0, tail = 0, now = now_ns();

        depth = depth < 4 ? 4 : depth > FLIGHT_MAX ? FLIGHT_MAX : depth;
        for (unsigned i = 0; i < depth; i++)
                TRY(p_cuEventCreate(&events[i], CU_EVENT_DISABLE_TIMING));
        load->last = now;
        while (now < end || tail < head) {
                uint64_t before = tail;

                while (now < end && head - tail < depth) {
                        NEED(submit(load));
                        TRY(p_cuEventRecord(events[head % depth], NULL));
                        head++;
                }
                while (tail < head) {
                        CUresult result = p_cuEventQuery(events[tail % depth]);

                        if (result == CUDA_ERROR_NOT_READY)
                                break;
                        if (result != CUDA_SUCCESS)
                                return fail_cuda("cuEventQuery", result);
                        tail++;
                }
                now = now_ns();
                if (tail > before) {
                        count(load, load->last, now, load->unit * (double)(tail - before));
                        load->last = now;
                } else
                        sleep_until(now + POLL_NS);
                now = now_ns();
        }
        for (unsigned i = 0; i < depth; i++)
                TRY(p_cuEventDestroy_v2(events[i]));
        return DONE;
}

/* An exponential gap with that mean. */
static uint64_t random_gap(double mean_ns)
{
        static uint64_t x = 88172645463325252u;

        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        return (uint64_t)(-log(((double)(x >> 11) + 1) / 9007199254740993.0) * mean_ns);
}

/* One after the other, each waited for; OPEN: as requests arrive by chance, whoever still waits. */
static int run_singly(struct load *load, uint64_t end)
{
        uint64_t arrival = now_ns();
        CUdeviceptr memory;

        while (now_ns() < end) {
                uint64_t start = now_ns(), done;

                if (load->kind == OPEN) {
                        arrival += random_gap(load->gap_us * 1e3);
                        if (arrival > start)
                                sleep_until(arrival);
                        start = arrival;
                }
                if (load->kind == CHURN) {
                        TRY(p_cuMemAlloc_v2(&memory, load->bytes));
                        TRY(p_cuMemsetD32Async(memory, 1, load->bytes / 4, NULL));
                        TRY(p_cuStreamSynchronize(NULL));
                        TRY(p_cuMemFree_v2(memory));
                } else {
                        NEED(launch_work(load->us, load->rate));
                        TRY(p_cuStreamSynchronize(NULL));
                }
                done = now_ns();
                count(load, start, done, load->unit);
                count_latency(load, start, done);
        }
        return DONE;
}

static int prepare(struct load *load)
{
        unsigned arrays = load->kind == STREAM ? 3 : load->kind == READ ? 2 : 1;

        if (load->kind != STREAM && load->kind != READ && load->kind != COPY)
                return DONE;
        for (unsigned i = 0; i < arrays; i++) {
                size_t bytes = load->kind == READ && i == 1 ? 4096 : load->bytes;

                TRY(p_cuMemAlloc_v2(&load->memory[i], bytes));
                TRY(p_cuMemsetD32Async(load->memory[i], 0, bytes / 4, NULL));
        }
        if (load->kind == COPY) {
                TRY(p_cuMemHostAlloc(&load->pinned, load->bytes, 0));
                memset(load->pinned, 1, load->bytes);
        }
        TRY(p_cuCtxSynchronize());
        return DONE;
}

static int give_back(struct load *load)
{
        for (int i = 0; i < 3; i++)
                if (load->memory[i])
                        TRY(p_cuMemFree_v2(load->memory[i]));
        if (load->pinned)
                TRY(p_cuMemFreeHost(load->pinned));
        return DONE;
}

/* work kind=KIND us=N rate=N sms=N gap=US bytes=N start=NS window=MS bin=MS
 * Says `work` done in the window, in microseconds of the whole device (sms multiprocessors) or
 * bytes, `work_per_s`, `bins` of it, and latencies where each piece is waited for. */
static int run_work(int argc, char **argv)
{
        static const char *const kinds[] = {[QUEUE] = "queue",
                [SYNC] = "sync",
                [OPEN] = "open",
                [STREAM] = "stream",
                [READ] = "read",
                [COPY] = "copy",
                [CHURN] = "churn"};
        const char *kind = text_option(argc, argv, "kind", "queue");
        double window_ns = option(argc, argv, "window", 1000) * 1e6;
        struct load load = {
                .us = option(argc, argv, "us", 100),
                .rate = option(argc, argv, "rate", 0),
                .gap_us = option(argc, argv, "gap", 1000),
                .bytes = (size_t)option(argc, argv, "bytes", 1 << 24) & ~(size_t)4095,
                .begin = strtoull(text_option(argc, argv, "start", "0"), NULL, 10),
                .bin_ns = option(argc, argv, "bin", 100) * 1e6,
                .batch = 1,
        };
        unsigned k = 0;
        int r;

        while (k < sizeof(kinds) / sizeof(*kinds) && strcmp(kinds[k], kind) != 0)
                k++;
        if (k == sizeof(kinds) / sizeof(*kinds))
                return fail("there is no load %s", kind);
        load.kind = k;
        load.unit = load.us * gpu.sms / option(argc, argv, "sms", gpu.sms);
        if (load.kind == STREAM) {
                /* an event after each would cost a twentieth of the time */
                load.batch = gpu.simulated ? 1 : 8;
                load.unit = 3.0 * (double)load.batch * (double)load.bytes;
        } else if (load.kind == READ) {
                load.batch = gpu.simulated ? 1 : 16;
                load.unit = (double)load.batch * (double)load.bytes;
        } else if (load.kind == COPY || load.kind == CHURN)
                load.unit = (double)load.bytes;
        NEED(prepare(&load));
        load.end = load.begin + (uint64_t)window_ns;
        load.n_bins = (size_t)(window_ns / load.bin_ns);
        if (load.n_bins > BINS_MAX)
                load.n_bins = BINS_MAX;
        load.bins = doubles(load.n_bins);
        load.latency = doubles(LATENCY_MAX);
        if (load.kind == SYNC || load.kind == OPEN || load.kind == CHURN)
                r = run_singly(&load, load.end + TAIL_NS);
        else
                r = run_queued(&load, load.end + TAIL_NS);
        if (r == DONE) {
                say("work", load.done);
                say("work_per_s", load.done / (window_ns / 1e9));
                say_list("bins", load.bins, load.n_bins);
                if (load.n_latency) {
                        say("requests", (double)load.n_latency);
                        say_spread("latency", "_us", load.latency, load.n_latency);
                }
                r = give_back(&load);
        }
        free(load.bins);
        free(load.latency);
        return r;
}

/* residency MS ROOM: the spans in which this process had the GPU, in microseconds of its clock */
static int run_residency(int argc, char **argv)
{
        uint64_t ns = strtoull(argv[0], NULL, 10) * 1000000u, *spans;
        uint32_t room = (uint32_t)strtoul(argv[1], NULL, 10);
        CUdeviceptr memory;
        void *params[] = {&memory, &room, &ns};
        size_t bytes = (2 * (size_t)room + 3) * 8;
        double *values;

        spans = calloc(1, bytes);
        if (!spans)
                return fail("no memory for %u spans", room);
        /* 16 bytes from a whole 16: the number, then pairs that are aligned */
        TRY(p_cuMemAlloc_v2(&memory, bytes + 16));
        memory += 8;
        NEED(launch(KERNEL_RESIDENCY, 1, 1, NULL, params));
        TRY(p_cuCtxSynchronize());
        TRY(p_cuMemcpyDtoH_v2(spans, memory, bytes));
        TRY(p_cuMemFree_v2(memory - 8));
        values = doubles(2 * spans[0]);
        for (size_t i = 0; i < 2 * spans[0]; i++)
                values[i] = (double)(spans[1 + i] & ((1ull << 53) - 1)) / 1e3;
        say_list("spans_us", values, 2 * spans[0]);
        free(values);
        free(spans);
        return DONE;
}

/* A ring of pointers through every line of so many bytes, in an order that no prefetcher knows, and
 * where in it blocks start that follow it at once. */
struct chain {
        CUdeviceptr memory, starts, out;
        unsigned blocks;
        size_t lines;
};

static int make_chain(size_t bytes, struct chain *ret)
{
        size_t n = bytes / LINE, words = LINE / 8;
        uint64_t *host = calloc(n, LINE), state = 88172645463325252u, *starts;
        uint32_t *order = calloc(n, sizeof(*order));

        ret->lines = n;
        ret->blocks = gpu_blocks();
        starts = calloc(ret->blocks, sizeof(*starts));
        if (!host || !order || !starts)
                return fail("no memory for a chain");
        TRY(p_cuMemAlloc_v2(&ret->memory, n * LINE));
        TRY(p_cuMemAlloc_v2(&ret->starts, ret->blocks * sizeof(*starts)));
        TRY(p_cuMemAlloc_v2(&ret->out, 32));
        for (size_t i = 0; i < n; i++)
                order[i] = (uint32_t)i;
        for (size_t i = n - 1; i > 0; i--) {
                uint32_t other, kept = order[i];

                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                other = (uint32_t)(state % (i + 1));
                order[i] = order[other];
                order[other] = kept;
        }
        for (size_t i = 0; i < n; i++)
                host[order[i] * words] = ret->memory + (uint64_t)order[(i + 1) % n] * LINE;
        for (unsigned i = 0; i < ret->blocks; i++)
                starts[i] = ret->memory + (uint64_t)order[i * n / ret->blocks] * LINE;
        TRY(p_cuMemcpyHtoD_v2(ret->memory, host, n * LINE));
        TRY(p_cuMemcpyHtoD_v2(ret->starts, starts, ret->blocks * sizeof(*starts)));
        free(order);
        free(host);
        free(starts);
        return DONE;
}

static int free_chain(struct chain *chain)
{
        TRY(p_cuMemFree_v2(chain->memory));
        TRY(p_cuMemFree_v2(chain->starts));
        TRY(p_cuMemFree_v2(chain->out));
        return DONE;
}

/* So many times through all of it. out: loads of at most `limit` cycles, cycles, loads. */
static int chase(struct chain *chain, unsigned times, uint32_t limit, uint64_t out[3])
{
        uint32_t steps = (uint32_t)(times * chain->lines / chain->blocks);
        void *params[] = {&chain->starts, &steps, &limit, &chain->out};

        TRY(p_cuMemsetD32Async(chain->out, 0, 8, NULL));
        NEED(launch(KERNEL_CHASE, chain->blocks, 1, NULL, params));
        TRY(p_cuMemcpyDtoH_v2(out, chain->out, 24));
        return DONE;
}

/* caches BYTES: cycles of a load of a set of so many bytes, when it is in the L2 cache and when the
 * cache has been filled with something else */
static int run_caches(int argc, char **argv)
{
        size_t bytes = strtoull(argv[0], NULL, 10), large = gpu.l2_bytes * 8;
        uint64_t warm[3], cold[3];
        struct chain chain;
        CUdeviceptr other;

        if (gpu.simulated)
                return gap("the simulated GPU has no caches");
        if (gpu.l2_bytes == 0)
                return gap("the driver does not say how large the L2 cache is");
        NEED(make_chain(bytes, &chain));
        TRY(p_cuMemAlloc_v2(&other, large));
        NEED(chase(&chain, 2, 0, warm));
        NEED(chase(&chain, 20, 0, warm));
        TRY(p_cuMemsetD32Async(other, 1, large / 4, NULL));
        NEED(chase(&chain, 1, 0, cold));
        TRY(p_cuMemFree_v2(other));
        NEED(free_chain(&chain));
        say("hit_cycles", (double)warm[1] / (double)warm[2]);
        say("miss_cycles", (double)cold[1] / (double)cold[2]);
        return DONE;
}

/* hits bytes=N limit=CYCLES start=NS window=MS: loads of a set of so many bytes, again and again in
 * the window; a load of at most that many cycles found its line in the L2 cache */
static int run_hits(int argc, char **argv)
{
        enum { TIMES = 50 }; /* through the set with each kernel: a millisecond or so */
        size_t bytes = (size_t)option(argc, argv, "bytes", 1 << 24);
        uint64_t begin = strtoull(text_option(argc, argv, "start", "0"), NULL, 10);
        uint64_t end = begin + (uint64_t)(option(argc, argv, "window", 1000) * 1e6);
        uint32_t limit = (uint32_t)option(argc, argv, "limit", 0);
        double hits = 0, cycles = 0, all = 0;
        struct chain chain;
        uint64_t out[3];

        if (gpu.simulated)
                return gap("the simulated GPU has no caches");
        NEED(make_chain(bytes, &chain));
        do {
                uint64_t start = now_ns();

                NEED(chase(&chain, TIMES, limit, out));
                if (start >= begin) {
                        hits += (double)out[0];
                        cycles += (double)out[1];
                        all += (double)out[2];
                }
        } while (now_ns() < end);
        NEED(free_chain(&chain));
        say("hit_percent", 100 * hits / all);
        say("cycles", cycles / all);
        say("loads", all);
        return DONE;
}

const struct command work_commands[] = {
        {"calibrate", 0, run_calibrate},
        {"work", 0, run_work},
        {"residency", 2, run_residency},
        {"caches", 1, run_caches},
        {"hits", 0, run_hits},
        {NULL, 0, NULL},
};
