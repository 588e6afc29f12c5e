/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A load for the probes: kernels of a fixed amount of arithmetic on every SM, so that work done
 * does not depend on who else has the GPU. Started by a probe, which gives it a page to count in.
 *
 * usage: load FD MICROSECONDS queue|sync|pace|open|host [GAP_MICROSECONDS [SLICE_MICROSECONDS
 *             [CALIBRATION_MILLISECONDS]]]
 *   queue  always work waiting; sync  launch, wait, again; pace  sync, then rest GAP; open  serve
 *   arrivals that come at random, GAP apart in the mean, whether or not the last is done; host  64
 *   launches, then wait: what the launches take of the host, each, in ns where the others have us
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

#define ENTRIES(X)                                                                                 \
        X(cuInit)                                                                                  \
        X(cuDevicePrimaryCtxRetain)                                                                \
        X(cuDeviceGetAttribute)                                                                    \
        X(cuCtxSetCurrent)                                                                         \
        X(cuCtxSynchronize)                                                                        \
        X(cuModuleLoadData)                                                                        \
        X(cuModuleGetFunction)                                                                     \
        X(cuLaunchKernel)                                                                          \
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

/* cleave_chain(arrivals, done, turns, last): a chain of dependent arithmetic in every thread; the
 * block that finishes last adds one to *done, in host memory. */
static const char ptx[] =
        ".version 6.0\n.target sm_60\n.address_size 64\n"
        ".visible .entry cleave_chain(.param .u64 arrivals, .param .u64 done,\n"
        "                             .param .u32 turns, .param .u32 last)\n"
        "{\n"
        " .reg .u64 %rd<4>;\n .reg .u32 %r<8>;\n .reg .pred %p<4>;\n"
        " ld.param.u64 %rd1, [arrivals];\n ld.param.u64 %rd2, [done];\n"
        " ld.param.u32 %r1, [turns];\n ld.param.u32 %r2, [last];\n"
        " mov.u32 %r3, %tid.x;\n mov.u32 %r5, %r3;\n"
        "again:\n"
        " mad.lo.u32 %r5, %r5, 1664525, 1013904223;\n"
        " xor.b32 %r5, %r5, %r1;\n"
        " sub.u32 %r1, %r1, 1;\n"
        " setp.ne.u32 %p1, %r1, 0;\n"
        " @%p1 bra again;\n"
        " bar.sync 0;\n"
        /* the comparison keeps the chain alive: it is false for all but one value */
        " setp.ne.u32 %p2, %r3, 0;\n"
        " setp.eq.u32 %p3, %r5, 3735928559;\n"
        " @%p3 st.global.u32 [%rd1+4], %r5;\n"
        " @%p2 ret;\n"
        " atom.global.inc.u32 %r6, [%rd1], %r2;\n"
        " setp.ne.u32 %p1, %r6, %r2;\n"
        " @%p1 ret;\n"
        " mov.u64 %rd3, 1;\n"
        " red.sys.global.add.u64 [%rd2], %rd3;\n"
        " ret;\n}\n";

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

static CUfunction spin;
static CUdeviceptr arrivals, done;
static unsigned blocks;

static void launch(unsigned turns)
{
        unsigned last = blocks - 1;
        void *arguments[] = {&arrivals, &done, &turns, &last};

        MUST(p_cuLaunchKernel(spin, blocks, 1, 1, 256, 1, 1, 0, NULL, arguments, NULL));
}

/* The number of turns that take so long, alone, and what that takes in a full queue: three times
 * for about that long. */
static unsigned calibrate(double wanted_ns, double span_ns)
{
        unsigned turns = 100000;
        uint64_t start;
        int n;

        for (int i = 0; i < 6; i++) {
                start = now_ns();
                launch(turns);
                MUST(p_cuCtxSynchronize());
        }
        turns = (unsigned)(turns * (wanted_ns / (double)(now_ns() - start)));
        /* 0 would be 2^32 */
        turns = turns < 100 ? 100 : turns;
        n = (int)(span_ns / wanted_ns);
        n = n < 1 ? 1 : n;
        if (n > 900)
                n = 900;
        for (int i = 0; i < 3; i++) {
                start = now_ns();
                for (int k = 0; k < n; k++)
                        launch(turns);
                MUST(p_cuCtxSynchronize());
                page->unit_ns = (double)(now_ns() - start) / n;
                turns = i < 2 ? (unsigned)(turns * (wanted_ns / page->unit_ns)) : turns;
                turns = turns < 100 ? 100 : turns;
        }
        return turns;
}

int main(int argc, char **argv)
{
        uint64_t target = 0, arrival;
        double wanted_ns;
        CUcontext context;
        CUmodule module;
        unsigned turns;
        void *library;
        int depth, sms = 0;

        if (argc < 4)
                return 2;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_TIMERSLACK, 1);
        page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[1]), 0);
        if (page == MAP_FAILED)
                return 2;
        wanted_ns = atof(argv[2]) * 1e3;
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
        MUST(p_cuModuleGetFunction(&spin, module, "cleave_chain"));
        MUST(p_cuMemAlloc_v2(&arrivals, 8));
        MUST(p_cuMemsetD8_v2(arrivals, 0, 8));
        MUST(p_cuMemHostRegister_v2(page, sizeof(*page), CU_MEMHOSTREGISTER_DEVICEMAP));
        MUST(p_cuMemHostGetDevicePointer_v2(&done, (void *)&page->done, 0));
        turns = calibrate(wanted_ns, argc > 6 ? atof(argv[6]) * 1e6 : 4e8);
        if (argc > 5 && atof(argv[5]) > 0) {
                uint64_t slice = (uint64_t)atof(argv[5]);

                page->slice_status =
                        control(page->group, RM_CTRL_GROUP_SET_TIMESLICE, &slice, sizeof(slice));
        }
        atomic_store(&page->state, LOAD_READY);
        while (!atomic_load(&page->go))
                sleep_ns(1000000);
        atomic_store(&page->done, 0);
        atomic_store(&page->state, LOAD_RUNNING);

        /* enough in the queue for 20 ms, and never more than a stream takes without blocking */
        depth = (int)(2e7 / wanted_ns);
        depth = depth < 4 ? 4 : depth > 500 ? 500 : depth;
        arrival = now_ns();
        while (!atomic_load(&page->stop)) {
                if (strcmp(argv[3], "queue") == 0) {
                        /* a launch may take as long as a kernel: then the queue is never so deep */
                        while (target < atomic_load(&page->done) + (uint64_t)depth &&
                                !atomic_load(&page->stop)) {
                                launch(turns);
                                target++;
                        }
                        sleep_ns(500000);
                        continue;
                }
                if (strcmp(argv[3], "host") == 0) {
                        for (int i = 0; i < 64; i++) {
                                uint64_t before = now_ns();
                                uint32_t place;

                                launch(turns);
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
                launch(turns);
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
