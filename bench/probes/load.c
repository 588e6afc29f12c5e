/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A load for the probes: kernels of a fixed amount of arithmetic on every SM, so that work done
 * does not depend on who else has the GPU. Started by a probe, which gives it a page to count in.
 *
 * usage: load FD MICROSECONDS MODE [GAP_MICROSECONDS [SLICE_MICROSECONDS
 *             [CALIBRATION_MILLISECONDS [TURNS]]]]
 *   queue  always work waiting; sync  launch, wait, again; pace  sync, then rest GAP; open  serve
 *   arrivals that come at random, GAP apart in the mean, whether or not the last is done; host  GAP
 *   launches (0: 64), then wait: what they take of the host, each, in ns where the others have us
 *   graph  a queue of graphs, chains of 1,000 such kernels; cooperative  a queue of kernels whose
 *   blocks wait for each other half-way; persistent  one kernel that does its work again and again
 *   until it is told to stop: what it has done counts as if it were that many kernels. With TURNS,
 *   what another load of that length has found, nothing is calibrated: who is held back cannot.
 *
 * It sees the driver library's RM calls, in order to know its channels: link it so that its ioctl()
 * is exported.
 */
#include <dlfcn.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cuda_api.h"
#include "probe.h"
#include "rm.h"

#define RM_CTRL_GROUP_SET_INTERLEAVE 0xA06C0107u
#define PARTS                        4
#define PARTS_NS                     4e8 /* of less, what begins and ends a part is too much of it */

#define ENTRIES(X)                                                                                 \
        X(cuInit)                                                                                  \
        X(cuDevicePrimaryCtxRetain)                                                                \
        X(cuDeviceGetAttribute)                                                                    \
        X(cuCtxSetCurrent)                                                                         \
        X(cuCtxSynchronize)                                                                        \
        X(cuModuleLoadData)                                                                        \
        X(cuModuleGetFunction)                                                                     \
        X(cuLaunchKernel)                                                                          \
        X(cuLaunchCooperativeKernel)                                                               \
        X(cuStreamCreate)                                                                          \
        X(cuGraphCreate)                                                                           \
        X(cuGraphAddKernelNode_v2)                                                                 \
        X(cuGraphInstantiateWithFlags)                                                             \
        X(cuGraphLaunch)                                                                           \
        X(cuMemAlloc_v2)                                                                           \
        X(cuMemsetD8_v2)                                                                           \
        X(cuMemHostRegister_v2)                                                                    \
        X(cuMemHostGetDevicePointer_v2)

#define X(name) static __typeof__(&name) p_##name;
ENTRIES(X)
#undef X

static struct load_page *page;
static int rm_fd = -1;

/* glibc's ioctl(), for the driver library too */
int ioctl(int fd, unsigned long request, ...)
{
        const struct rm_channel_group_params *group;
        struct rm_alloc *alloc;
        va_list ap;
        void *arg;
        int r;

        va_start(ap, request);
        arg = va_arg(ap, void *);
        va_end(ap);
        r = (int)syscall(SYS_ioctl, fd, request, arg);
        if (r < 0 || _IOC_TYPE(request) != RM_IOCTL_TYPE || _IOC_NR(request) != RM_ESC_ALLOC ||
                _IOC_SIZE(request) != sizeof(*alloc) || !page)
                return r;
        alloc = arg;
        if (alloc->status != RM_OK)
                return r;
        group = (const struct rm_channel_group_params *)(uintptr_t)alloc->params;
        if (alloc->class_id == RM_CLASS_SUBDEVICE && !page->group)
                page->subdevice = alloc->handle;
        if (alloc->class_id == RM_CLASS_CHANNEL_GROUP && group &&
                group->engine_type == RM_ENGINE_GRAPHICS && !page->group) {
                rm_fd = fd;
                page->fd = fd;
                page->client = alloc->client;
                page->group = alloc->handle;
        } else if ((alloc->class_id & 0xff) == RM_CLASS_CHANNEL_LOW && page->group &&
                   alloc->parent == page->group && page->channels < LOAD_CHANNELS) {
                page->channel[page->channels++] = alloc->handle;
        }
        return r;
}

static uint32_t control(uint32_t object, uint32_t cmd, void *params, uint32_t size)
{
        struct rm_control call = {.client = page->client,
                .object = object,
                .cmd = cmd,
                .params = (uint64_t)(uintptr_t)params,
                .params_size = size};

        if (ioctl(rm_fd, _IOWR(RM_IOCTL_TYPE, RM_ESC_CONTROL, struct rm_control), &call) < 0)
                return 0xFFFF;
        return call.status;
}

#define MUST(call)                                                                                 \
        do {                                                                                       \
                CUresult result_ = (call);                                                         \
                if (result_ != CUDA_SUCCESS) {                                                     \
                        fprintf(stderr, "load: %s: CUDA error %d\n", #call, result_);              \
                        atomic_store(&page->state, LOAD_FAILED);                                   \
                        exit(1);                                                                   \
                }                                                                                  \
        } while (0)

/* cleave_chain(state, done, turns, last): a chain of dependent arithmetic in every thread; the
 * block that finishes last adds one to *done, in host memory. state: blocks that have finished, a
 * place for what must not be optimised away, and blocks that have come to a barrier, 4 bytes each.
 * cleave_chain_together: a cooperative kernel, half of that on either side of a barrier of all
 * blocks. cleave_chain_until(..., stop): that again and again until *stop, in host memory, is not
 * 0. The simulated GPU knows all three by their names. */
#define CHAIN(label)                                                                               \
        label ":\n"                                                                                \
              " mad.lo.u32 %r5, %r5, 1664525, 1013904223;\n"                                       \
              " xor.b32 %r5, %r5, %r1;\n"                                                          \
              " sub.u32 %r1, %r1, 1;\n"                                                            \
              " setp.ne.u32 %p1, %r1, 0;\n"                                                        \
              " @%p1 bra " label ";\n"                                                             \
              " bar.sync 0;\n"
#define BEGIN(name, more)                                                                          \
        ".visible .entry " name "(.param .u64 state, .param .u64 done, .param .u32 turns,\n"       \
        "                     .param .u32 last" more ")\n"                                         \
        "{\n"                                                                                      \
        " .reg .u64 %rd<5>;\n .reg .u32 %r<12>;\n .reg .pred %p<5>;\n"                             \
        " ld.param.u64 %rd1, [state];\n ld.param.u64 %rd2, [done];\n"                              \
        " ld.param.u32 %r7, [turns];\n ld.param.u32 %r2, [last];\n"                                \
        " mov.u32 %r3, %tid.x;\n mov.u32 %r5, %r3;\n mov.u64 %rd3, 1;\n"                           \
        " setp.ne.u32 %p2, %r3, 0;\n"
/* the comparison keeps the chain alive: it is false for all but one value; then the block's first
 * thread counts */
#define COUNT(label)                                                                               \
        " setp.eq.u32 %p3, %r5, 3735928559;\n"                                                     \
        " @%p3 st.global.u32 [%rd1+4], %r5;\n"                                                     \
        " @%p2 bra " label ";\n"                                                                   \
        " atom.global.inc.u32 %r6, [%rd1], %r2;\n"                                                 \
        " setp.ne.u32 %p1, %r6, %r2;\n"                                                            \
        " @%p1 bra " label ";\n"                                                                   \
        " red.sys.global.add.u64 [%rd2], %rd3;\n" label ":\n"

static const char ptx[] = ".version 6.0\n.target sm_60\n.address_size 64\n"
        /* clang-format off */
        BEGIN("cleave_chain", "")
        " mov.u32 %r1, %r7;\n"
        CHAIN("again")
        COUNT("counted")
        " ret;\n}\n"

        BEGIN("cleave_chain_together", "")
        " shr.u32 %r1, %r7, 1;\n"
        CHAIN("before")
        " @%p2 bra passed;\n"
        /* the barrier is open when all blocks of this launch, and so a multiple of all, have come */
        " add.u32 %r9, %r2, 1;\n"
        " membar.gl;\n"
        " atom.global.add.u32 %r8, [%rd1+8], 1;\n"
        " div.u32 %r8, %r8, %r9;\n"
        " add.u32 %r8, %r8, 1;\n"
        " mul.lo.u32 %r8, %r8, %r9;\n"
        "closed:\n"
        " ld.volatile.global.u32 %r10, [%rd1+8];\n"
        " sub.u32 %r10, %r10, %r8;\n"
        " setp.lt.s32 %p1, %r10, 0;\n"
        " @%p1 bra closed;\n"
        "passed:\n"
        " bar.sync 0;\n"
        " shr.u32 %r1, %r7, 1;\n"
        CHAIN("after")
        COUNT("counted")
        " ret;\n}\n"

        BEGIN("cleave_chain_until", ", .param .u64 stop")
        " ld.param.u64 %rd4, [stop];\n"
        "more:\n"
        " mov.u32 %r1, %r7;\n"
        CHAIN("again")
        COUNT("counted")
        " mov.u32 %r11, 0;\n"
        " @!%p2 ld.volatile.global.u32 %r11, [%rd4];\n"
        " setp.ne.u32 %p4, %r11, 0;\n"
        " bar.red.or.pred %p4, 0, %p4;\n"
        " @!%p4 bra more;\n"
        " ret;\n}\n"
        /* clang-format on */
        ;

/* Called when a kernel has just been launched. */
static void wake(void)
{
        struct rm_restart_runlist params = {.force = 0, .bypass_wait = 1};
        uint64_t start = now_ns();

        switch (atomic_load(&page->wake)) {
        case LOAD_WAKE_SELF:
                page->wake_status = control(
                        page->channel[0], RM_CTRL_CHANNEL_RESTART_RUNLIST, &params, sizeof(params));
                start = now_ns() - start;
                page->wake_ns = start > page->wake_ns ? start : page->wake_ns;
                break;
        case LOAD_WAKE_ASK:
                atomic_store(&page->pending, 1);
                futex_wake(&page->pending);
                break;
        }
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

static CUfunction load, together, until;
static CUdeviceptr state, done, stop;
static unsigned blocks;
static CUstream stream;
static CUgraphExec graph;
#define NODES 1000u /* of a graph */

enum kind {
        KIND_KERNEL,
        KIND_GRAPH,
        KIND_COOPERATIVE,
        KIND_PERSISTENT,
};

static void launch(enum kind kind, unsigned turns)
{
        unsigned last = blocks - 1;
        void *arguments[] = {&state, &done, &turns, &last, &stop};

        switch (kind) {
        case KIND_KERNEL:
                MUST(p_cuLaunchKernel(load, blocks, 1, 1, 256, 1, 1, 0, stream, arguments, NULL));
                return;
        case KIND_GRAPH:
                MUST(p_cuGraphLaunch(graph, stream));
                return;
        case KIND_COOPERATIVE:
                MUST(p_cuLaunchCooperativeKernel(
                        together, blocks, 1, 1, 256, 1, 1, 0, stream, arguments));
                return;
        case KIND_PERSISTENT:
                MUST(p_cuLaunchKernel(until, blocks, 1, 1, 256, 1, 1, 0, stream, arguments, NULL));
                return;
        }
}

static void make_graph(unsigned turns)
{
        unsigned last = blocks - 1;
        void *arguments[] = {&state, &done, &turns, &last};
        const CUDA_KERNEL_NODE_PARAMS params = {
                .func = load,
                .gridDimX = blocks,
                .gridDimY = 1,
                .gridDimZ = 1,
                .blockDimX = 256,
                .blockDimY = 1,
                .blockDimZ = 1,
                .kernelParams = arguments,
        };
        CUgraphNode node, before;
        CUgraph chain;

        MUST(p_cuGraphCreate(&chain, 0));
        for (unsigned i = 0; i < NODES; i++) {
                MUST(p_cuGraphAddKernelNode_v2(&node, chain, &before, i > 0, &params));
                before = node;
        }
        MUST(p_cuGraphInstantiateWithFlags(&graph, chain, 0));
}

/* What count launches of that kind take in a full queue. */
static double time_of(enum kind kind, unsigned turns, int count)
{
        uint64_t start = now_ns();

        for (int i = 0; i < count; i++)
                launch(kind, turns);
        MUST(p_cuCtxSynchronize());
        return (double)(now_ns() - start);
}

/* One that only ends when it is told: what it does in that time. */
static double time_of_persistent(unsigned turns, double span_ns)
{
        uint64_t before = atomic_load(&page->done), start, end;
        double took;

        launch(KIND_PERSISTENT, turns);
        while (atomic_load(&page->done) == before)
                sleep_ns(100000);
        before = atomic_load(&page->done);
        start = now_ns();
        do
                sleep_ns((uint64_t)span_ns);
        while (atomic_load(&page->done) < before + 100);
        end = now_ns();
        took = (double)(end - start) / (double)(atomic_load(&page->done) - before);
        atomic_store(&page->stop, 1);
        MUST(p_cuCtxSynchronize());
        atomic_store(&page->stop, 0);
        return took;
}

/* A unit's time, of n and of those parts that are long enough the one that nothing has held up: the
 * host may let us stand for some ms. */
static double unit_of(unsigned turns, int n, double span_ns)
{
        int parts = span_ns >= PARTS_NS && n >= PARTS ? PARTS : 1;
        double least = INFINITY;

        for (int i = 0; i < parts; i++)
                least = fmin(least, time_of(KIND_KERNEL, turns, n / parts) / (n / parts));
        return least;
}

/* The number of turns that take so long, alone, and what that takes in a full queue: three times
 * for about that long. */
static unsigned calibrate(enum kind kind, double wanted_ns, double span_ns)
{
        unsigned turns = 100000;
        double took = 0;
        int n;

        for (int i = 0; i < 6; i++)
                took = time_of(KIND_KERNEL, turns, 1);
        turns = (unsigned)(turns * (wanted_ns / took));
        /* 0 would be 2^32, and half of it is wanted, too */
        turns = turns < 100 ? 100 : turns;
        n = (int)(span_ns / wanted_ns);
        n = n < 1 ? 1 : n > 40000 ? 40000 : n;
        for (int i = 0; i < 3; i++) {
                page->unit_ns = unit_of(turns, n, span_ns);
                turns = i < 2 ? (unsigned)(turns * (wanted_ns / page->unit_ns)) : turns;
                turns = turns < 100 ? 100 : turns;
        }
        switch (kind) {
        case KIND_KERNEL:
                break;
        case KIND_GRAPH:
                make_graph(turns);
                launch(kind, turns);
                MUST(p_cuCtxSynchronize());
                n = n / (int)NODES + 1;
                page->unit_ns = time_of(kind, turns, n) / n / NODES;
                break;
        case KIND_COOPERATIVE:
                page->unit_ns = time_of(kind, turns, n) / n;
                break;
        case KIND_PERSISTENT:
                page->unit_ns = time_of_persistent(turns, span_ns);
                break;
        }
        return turns;
}

/* Always so much waiting that the device does not run dry, and never more than a stream takes
 * without blocking. */
static void keep_queue(enum kind kind, unsigned turns, double wanted_ns)
{
        uint64_t each = kind == KIND_GRAPH ? NODES : 1, target = 0;
        int depth = (int)(2e7 / (wanted_ns * (double)each));

        depth = depth < 4 ? 4 : depth > 500 ? 500 : depth;
        while (!atomic_load(&page->stop)) {
                /* a launch may take as long as a kernel: then the queue is never so deep */
                while (target < atomic_load(&page->done) + (uint64_t)depth * each &&
                        !atomic_load(&page->stop)) {
                        launch(kind, turns);
                        target += each;
                }
                sleep_ns(500000);
        }
}

int main(int argc, char **argv)
{
        enum kind kind = KIND_KERNEL;
        uint64_t arrival;
        double wanted_ns;
        CUcontext context;
        CUmodule module;
        unsigned turns;
        void *library;
        int sms = 0, burst;

        if (argc < 4)
                return 2;
        kind = !strcmp(argv[3], "graph")         ? KIND_GRAPH
               : !strcmp(argv[3], "cooperative") ? KIND_COOPERATIVE
               : !strcmp(argv[3], "persistent")  ? KIND_PERSISTENT
                                                 : KIND_KERNEL;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_TIMERSLACK, 1);
        page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[1]), 0);
        if (page == MAP_FAILED)
                return 2;
        wanted_ns = atof(argv[2]) * 1e3;
        burst = argc > 4 && atoi(argv[4]) > 0 ? atoi(argv[4]) : 64;
        library = dlopen("libcuda.so.1", RTLD_NOW);
        if (!library) {
                fprintf(stderr, "load: %s\n", dlerror());
                atomic_store(&page->state, LOAD_FAILED);
                return 1;
        }
#define X(name)                                                                                    \
        p_##name = (__typeof__(p_##name))dlsym(library, #name);                                    \
        if (!p_##name)                                                                             \
                return 1;
        ENTRIES(X)
#undef X
        MUST(p_cuInit(0));
        MUST(p_cuDevicePrimaryCtxRetain(&context, 0));
        MUST(p_cuCtxSetCurrent(context));
        MUST(p_cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
        blocks = (unsigned)sms;
        MUST(p_cuModuleLoadData(&module, ptx));
        MUST(p_cuModuleGetFunction(&load, module, "cleave_chain"));
        MUST(p_cuModuleGetFunction(&together, module, "cleave_chain_together"));
        MUST(p_cuModuleGetFunction(&until, module, "cleave_chain_until"));
        if (kind == KIND_GRAPH)
                MUST(p_cuStreamCreate(&stream, 0));
        MUST(p_cuMemAlloc_v2(&state, 16));
        MUST(p_cuMemsetD8_v2(state, 0, 16));
        MUST(p_cuMemHostRegister_v2(page, sizeof(*page), CU_MEMHOSTREGISTER_DEVICEMAP));
        MUST(p_cuMemHostGetDevicePointer_v2(&done, (void *)&page->done, 0));
        stop = done + offsetof(struct load_page, stop) - offsetof(struct load_page, done);
        turns = argc > 7 ? (unsigned)atoi(argv[7]) : 0;
        if (turns == 0)
                turns = calibrate(kind, wanted_ns, argc > 6 ? atof(argv[6]) * 1e6 : 4e8);
        else if (kind == KIND_GRAPH)
                make_graph(turns);
        page->turns = turns;
        if (argc > 5 && atof(argv[5]) > 0) {
                uint64_t slice = (uint64_t)atof(argv[5]);

                page->slice_status =
                        control(page->group, RM_CTRL_GROUP_SET_TIMESLICE, &slice, sizeof(slice));
        }
        atomic_store(&page->state, LOAD_READY);
        while (!atomic_load(&page->go)) {
                if (atomic_load(&page->stop))
                        return 0;
                sleep_ns(1000000);
        }
        atomic_store(&page->done, 0);
        atomic_store(&page->state, LOAD_RUNNING);

        if (kind == KIND_PERSISTENT) {
                launch(kind, turns);
                MUST(p_cuCtxSynchronize());
                return 0;
        }
        if (kind != KIND_KERNEL || strcmp(argv[3], "queue") == 0)
                keep_queue(kind, turns, wanted_ns);
        arrival = now_ns();
        while (!atomic_load(&page->stop)) {
                if (strcmp(argv[3], "host") == 0) {
                        for (int i = 0; i < burst; i++) {
                                uint64_t before = now_ns();
                                uint32_t place;

                                launch(kind, turns);
                                place = atomic_fetch_add(&page->latencies, 1);
                                if (place < LOAD_LATENCIES)
                                        page->latency_us[place] = (uint32_t)(now_ns() - before);
                        }
                        MUST(p_cuCtxSynchronize());
                        continue;
                }
                uint64_t start = now_ns();
                uint32_t level = atomic_load(&page->level), n, took;

                if (level) {
                        level--;
                        page->level_status = control(
                                page->group, RM_CTRL_GROUP_SET_INTERLEAVE, &level, sizeof(level));
                        atomic_store(&page->level, 0);
                        start = now_ns();
                }
                if (strcmp(argv[3], "open") == 0) {
                        arrival += random_gap(atof(argv[4]) * 1e3);
                        if (start < arrival)
                                sleep_ns(arrival - start);
                        start = arrival;
                }
                launch(kind, turns);
                wake();
                MUST(p_cuCtxSynchronize());
                took = (uint32_t)((now_ns() - start) / 1000);
                n = atomic_fetch_add(&page->latencies, 1);
                if (n < LOAD_LATENCIES)
                        page->latency_us[n] = took;
                if (took > atomic_load(&page->longest_us))
                        atomic_store(&page->longest_us, took);
                if (strcmp(argv[3], "pace") == 0 && argc > 4)
                        sleep_ns((uint64_t)(atof(argv[4]) * 1e3));
        }
        MUST(p_cuCtxSynchronize());
        return 0;
}
