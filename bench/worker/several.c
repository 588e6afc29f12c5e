/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two GPUs of one process: what they tell each other, by the machine's own NCCL, which programs use
 * as well. The simulated GPU, which runs no kernels of NCCL's, does the same by copies from one to
 * the other.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "worker.h"

/* Of nccl.h. */
enum { NCCL_FLOAT = 7, NCCL_BFLOAT16 = 9 };
enum { NCCL_SUM = 0 };

#define WARM 20 /* before anything is timed */

static struct {
        void *library, *comm[2];
        int (*init)(void **comms, int n, const int *devices);
        int (*begin)(void);
        int (*end)(void);
        int (*reduce)(const void *from, void *to, size_t count, int type, int operation, void *comm,
                CUstream stream);
        int (*gather)(
                const void *from, void *to, size_t count, int type, void *comm, CUstream stream);
        int (*broadcast)(const void *from, void *to, size_t count, int type, int root, void *comm,
                CUstream stream);
        const char *(*text)(int result);
} nccl;

static int fail_nccl(const char *what, int result)
{
        return fail("%s: %s", what, nccl.text ? nccl.text(result) : "failed");
}

/* Once for the life of this process: what NCCL sets up takes longer than what is measured. */
static int find_nccl(void)
{
        static const char *const names[] = {"libnccl.so.2", "libnccl.so"};
        static const int devices[] = {0, 1};
        int result;

        if (nccl.comm[0])
                return DONE;
        for (size_t i = 0; i < sizeof(names) / sizeof(*names) && !nccl.library; i++)
                nccl.library = dlopen(names[i], RTLD_NOW);
        if (!nccl.library)
                return gap("NCCL is not where the loader looks: name the folder of libnccl.so.2 in "
                           "LD_LIBRARY_PATH");
        nccl.init = (__typeof__(nccl.init))dlsym(nccl.library, "ncclCommInitAll");
        nccl.begin = (__typeof__(nccl.begin))dlsym(nccl.library, "ncclGroupStart");
        nccl.end = (__typeof__(nccl.end))dlsym(nccl.library, "ncclGroupEnd");
        nccl.reduce = (__typeof__(nccl.reduce))dlsym(nccl.library, "ncclAllReduce");
        nccl.gather = (__typeof__(nccl.gather))dlsym(nccl.library, "ncclAllGather");
        nccl.broadcast = (__typeof__(nccl.broadcast))dlsym(nccl.library, "ncclBroadcast");
        nccl.text = (__typeof__(nccl.text))dlsym(nccl.library, "ncclGetErrorString");
        if (!nccl.init || !nccl.begin || !nccl.end || !nccl.reduce || !nccl.gather ||
                !nccl.broadcast)
                return fail("%s", dlerror());
        result = nccl.init(nccl.comm, 2, devices);
        return result ? fail_nccl("ncclCommInitAll", result) : DONE;
}

int pair_open(struct pair *pair, size_t bytes)
{
        *pair = (struct pair){.bytes = bytes};
        if (gpu.devices < 2)
                return gap("needs two GPUs; this program has one");
        pair->context[0] = gpu.context;
        TRY(p_cuDevicePrimaryCtxRetain(&pair->context[1], 1));
        for (int i = 0; i < 2; i++) {
                /* 1.0 and 2.0 */
                uint32_t value = i ? 0x40000000 : 0x3f800000;

                TRY(p_cuCtxSetCurrent(pair->context[i]));
                TRY(p_cuStreamCreate(&pair->stream[i], CU_STREAM_NON_BLOCKING));
                TRY(p_cuMemAlloc_v2(&pair->from[i], bytes));
                TRY(p_cuMemAlloc_v2(&pair->to[i], 2 * bytes));
                TRY(p_cuMemsetD32Async(pair->from[i], value, bytes / 4, NULL));
                TRY(p_cuMemsetD32Async(pair->to[i], 0, bytes / 2, NULL));
                if (gpu.simulated)
                        NEED(gpu_load(KERNEL_ADD, &pair->add[i]));
                TRY(p_cuCtxSynchronize());
        }
        return gpu.simulated ? DONE : find_nccl();
}

/* The part of one device, by copies. */
static int submit_copies(struct pair *pair, enum collective what, int i)
{
        int other = !i;
        size_t bytes = pair->bytes;
        CUdeviceptr there = pair->to[i] + (what == ALL_REDUCE ? bytes : (size_t)other * bytes);
        uint64_t floats = bytes / 4;
        void *params[] = {&pair->to[i], &pair->from[i], &there, &floats};

        if (what == BROADCAST) {
                if (i == 1)
                        TRY(p_cuMemcpyPeerAsync(pair->to[1], pair->context[1], pair->from[0],
                                pair->context[0], bytes, pair->stream[1]));
                return DONE;
        }
        TRY(p_cuMemcpyPeerAsync(there, pair->context[i], pair->from[other], pair->context[other],
                bytes, pair->stream[i]));
        if (what == ALL_REDUCE)
                TRY(p_cuLaunchKernel(
                        pair->add[i], 64, 1, 1, 256, 1, 1, 0, pair->stream[i], params, NULL));
        else
                TRY(p_cuMemcpyDtoDAsync_v2(
                        pair->to[i] + (size_t)i * bytes, pair->from[i], bytes, pair->stream[i]));
        return DONE;
}

int pair_submit(struct pair *pair, enum collective what, bool half)
{
        int type = half ? NCCL_BFLOAT16 : NCCL_FLOAT, result = 0;
        size_t count = pair->bytes / (half ? 2 : 4);

        if (gpu.simulated) {
                for (int i = 0; i < 2; i++) {
                        TRY(p_cuCtxSetCurrent(pair->context[i]));
                        NEED(submit_copies(pair, what, i));
                }
                return DONE;
        }
        result = nccl.begin();
        for (int i = 0; i < 2 && result == 0; i++) {
                const void *from = (const void *)pair->from[i];
                void *to = (void *)pair->to[i];

                if (what == ALL_REDUCE)
                        result = nccl.reduce(
                                from, to, count, type, NCCL_SUM, nccl.comm[i], pair->stream[i]);
                else if (what == ALL_GATHER)
                        result = nccl.gather(from, to, count, type, nccl.comm[i], pair->stream[i]);
                else
                        result = nccl.broadcast(
                                from, to, count, type, 0, nccl.comm[i], pair->stream[i]);
        }
        if (result == 0)
                result = nccl.end();
        return result ? fail_nccl("a collective", result) : DONE;
}

int pair_wait(struct pair *pair)
{
        for (int i = 0; i < 2; i++) {
                TRY(p_cuCtxSetCurrent(pair->context[i]));
                TRY(p_cuStreamSynchronize(pair->stream[i]));
        }
        return DONE;
}

/* Whether both have what they should. */
static int check(struct pair *pair, enum collective what)
{
        for (int i = 0; i < 2; i++) {
                float first, last;
                float want_first = what == ALL_REDUCE ? 3 : 1;
                float want_last = what == ALL_REDUCE ? 3 : what == ALL_GATHER ? 2 : 1;
                size_t bytes = pair->bytes * (what == ALL_GATHER ? 2 : 1);

                /* NCCL may leave the root's own place as it is where nothing has to move */
                if (what == BROADCAST && i == 0)
                        continue;
                TRY(p_cuCtxSetCurrent(pair->context[i]));
                TRY(p_cuMemcpyDtoH_v2(&first, pair->to[i], sizeof(first)));
                TRY(p_cuMemcpyDtoH_v2(&last, pair->to[i] + bytes - 4, sizeof(last)));
                if (first != want_first || last != want_last)
                        return fail("device %d has %g and %g instead of %g and %g", i,
                                (double)first, (double)last, (double)want_first, (double)want_last);
        }
        return DONE;
}

int pair_close(struct pair *pair)
{
        for (int i = 0; i < 2; i++) {
                if (!pair->context[i])
                        continue;
                TRY(p_cuCtxSetCurrent(pair->context[i]));
                TRY(p_cuMemFree_v2(pair->from[i]));
                TRY(p_cuMemFree_v2(pair->to[i]));
                TRY(p_cuStreamDestroy_v2(pair->stream[i]));
        }
        TRY(p_cuCtxSetCurrent(gpu.context));
        return DONE;
}

static int warm(struct pair *pair, enum collective what)
{
        for (int i = 0; i < WARM; i++)
                NEED(pair_submit(pair, what, false));
        NEED(pair_wait(pair));
        return check(pair, what);
}

static int time_single(struct pair *pair, double *t, size_t n)
{
        NEED(warm(pair, ALL_REDUCE));
        for (size_t i = 0; i < n; i++) {
                uint64_t begin = now_ns();

                NEED(pair_submit(pair, ALL_REDUCE, false));
                NEED(pair_wait(pair));
                t[i] = (double)(now_ns() - begin) / 1e3;
        }
        return DONE;
}

/* allreduce BYTES N: from asking to both devices' having the sum */
static int run_allreduce(int argc, char **argv)
{
        size_t bytes = strtoull(argv[0], NULL, 10) & ~(size_t)255, n = strtoul(argv[1], NULL, 10);
        double *t = doubles(n);
        struct pair pair;
        int r = pair_open(&pair, bytes), s;

        if (r == DONE)
                r = time_single(&pair, t, n);
        s = r == FAILED ? r : pair_close(&pair);
        if (r == DONE && s == DONE)
                say_spread("allreduce", "_us", t, n);
        free(t);
        return r ? r : s;
}

static int time_many(struct pair *pair, enum collective what, uint64_t wanted, double *ret)
{
        uint64_t begin, end, done = 0;

        NEED(warm(pair, what));
        begin = now_ns();
        do {
                for (int i = 0; i < 8; i++, done++)
                        NEED(pair_submit(pair, what, false));
                NEED(pair_wait(pair));
                end = now_ns();
        } while (end - begin < wanted);
        *ret = (double)pair->bytes * (double)done / (double)(end - begin);
        return DONE;
}

/* spread KIND BYTES MS: gather (each has the other's bytes afterwards) or broadcast (the second has
 * the first's): bytes that a device gets from the other, a second */
static int run_spread(int argc, char **argv)
{
        enum collective what = strcmp(argv[0], "gather") == 0 ? ALL_GATHER : BROADCAST;
        size_t bytes = strtoull(argv[1], NULL, 10) & ~(size_t)255;
        struct pair pair;
        double rate;
        int r = pair_open(&pair, bytes), s;

        if (r == DONE)
                r = time_many(&pair, what, strtoull(argv[2], NULL, 10) * 1000000u, &rate);
        s = r == FAILED ? r : pair_close(&pair);
        if (r == DONE && s == DONE)
                say("gb_per_s", rate);
        return r ? r : s;
}

const struct command several_commands[] = {
        {"allreduce", 2, run_allreduce},
        {"spread", 3, run_spread},
        {NULL, 0, NULL},
};
