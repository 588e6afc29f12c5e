/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What single driver calls cost the caller, in nanoseconds. Prints a JSON object about starting up,
 * then, for each line on standard input, measures once more and prints the medians as another: so
 * that two of these, one native and one inside a tenant, can be run by turns on one core
 * (bench/cost.py does), the only way to see tens of nanoseconds.
 *
 * usage: calls [ROUNDS]
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "cuda_api.h"
#include "timing.h"

static double cpu_ns(void)
{
        struct timespec t;

        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

#define MUST(call)                                                                                 \
        do {                                                                                       \
                CUresult result_ = (call);                                                         \
                if (result_ != CUDA_SUCCESS) {                                                     \
                        fprintf(stderr, "%s: CUDA error %d\n", #call, result_);                    \
                        exit(1);                                                                   \
                }                                                                                  \
        } while (0)

#define ENTRIES(X)                                                                                 \
        X(cuInit)                                                                                  \
        X(cuGetProcAddress_v2)                                                                     \
        X(cuDevicePrimaryCtxRetain)                                                                \
        X(cuCtxSetCurrent)                                                                         \
        X(cuCtxGetCurrent)                                                                         \
        X(cuCtxSynchronize)                                                                        \
        X(cuModuleLoadData)                                                                        \
        X(cuModuleGetFunction)                                                                     \
        X(cuLaunchKernel)                                                                          \
        X(cuMemAlloc_v2)                                                                           \
        X(cuMemFree_v2)                                                                            \
        X(cuMemAllocAsync)                                                                         \
        X(cuMemFreeAsync)                                                                          \
        X(cuMemGetInfo_v2)

#define X(name) static __typeof__(&name) p_##name;
ENTRIES(X)
#undef X

static const char ptx[] = ".version 6.0\n.target sm_50\n.address_size 64\n"
                          ".visible .entry cleave_empty()\n{\n ret;\n}\n";

#define BATCH 500 /* launches between synchronizations: below the 1,021 that a stream takes */

/* One block of everything, as a JSON object on a line. */
static void measure(CUfunction function, int rounds, double *t, double *u)
{
        CUcontext context;
        CUdeviceptr ptr;
        double t0;

        for (int r = 0; r < rounds; r++) {
                for (int i = 0; i < BATCH; i++) {
                        t0 = now_ns();
                        p_cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
                        t[r * BATCH + i] = now_ns() - t0;
                }
                MUST(p_cuCtxSynchronize());
        }
        printf("{\"launch_ns\": %.1f", median(t, rounds * BATCH));

        for (int r = 0; r < rounds; r++) {
                t0 = now_ns();
                for (int i = 0; i < 1000; i++)
                        p_cuCtxGetCurrent(&context);
                u[r] = (now_ns() - t0) / 1000;
        }
        printf(", \"get_current_ns\": %.2f", median(u, rounds));

        for (int r = 0; r < rounds; r++) {
                size_t free_bytes, total;

                t0 = now_ns();
                for (int i = 0; i < 10; i++)
                        p_cuMemGetInfo_v2(&free_bytes, &total);
                u[r] = (now_ns() - t0) / 10;
        }
        printf(", \"mem_get_info_ns\": %.1f", median(u, rounds));

        static const struct {
                const char *name;
                size_t bytes;
        } sizes[] = {{"4k", 4096}, {"2m", 2 << 20}, {"64m", 64 << 20}};

        for (unsigned s = 0; s < 3; s++) {
                double *v = t;

                for (int r = 0; r < rounds; r++) {
                        t0 = now_ns();
                        MUST(p_cuMemAlloc_v2(&ptr, sizes[s].bytes));
                        u[r] = now_ns() - t0;
                        t0 = now_ns();
                        MUST(p_cuMemFree_v2(ptr));
                        v[r] = now_ns() - t0;
                }
                printf(", \"alloc_%s_ns\": %.1f", sizes[s].name, median(u, rounds));
                printf(", \"free_%s_ns\": %.1f", sizes[s].name, median(v, rounds));
        }
        for (int r = 0; r < rounds; r++) {
                t0 = now_ns();
                for (int i = 0; i < 10; i++) {
                        MUST(p_cuMemAllocAsync(&ptr, 1 << 20, NULL));
                        MUST(p_cuMemFreeAsync(ptr, NULL));
                }
                u[r] = (now_ns() - t0) / 10;
        }
        printf(", \"async_pair_ns\": %.1f}\n", median(u, rounds));
        fflush(stdout);
}

int main(int argc, char **argv)
{
        int rounds = argc > 1 ? atoi(argv[1]) : 200;
        double *t = calloc((size_t)rounds * BATCH, sizeof(*t));
        double *u = calloc((size_t)rounds, sizeof(*u));
        double start = now_ns(), cpu = cpu_ns(), init_ns, first_ns, first_cpu_ns;
        char line[16];
        CUcontext context;
        CUdriverProcAddressQueryResult found;
        CUfunction function;
        CUmodule module;
        void *library;

        if (rounds < 1 || !t || !u)
                return 2;
        library = dlopen("libcuda.so.1", RTLD_NOW);
        if (!library) {
                fprintf(stderr, "%s\n", dlerror());
                return 1;
        }
#define X(name)                                                                                    \
        p_##name = (__typeof__(p_##name))dlsym(library, #name);                                    \
        if (!p_##name)                                                                             \
                return 1;
        ENTRIES(X)
#undef X
        MUST(p_cuInit(0));
        init_ns = now_ns() - start;
        first_cpu_ns = cpu_ns() - cpu;
        MUST(p_cuDevicePrimaryCtxRetain(&context, 0));
        MUST(p_cuCtxSetCurrent(context));
        first_ns = now_ns() - start;
        /* as frameworks find their entries */
        MUST(p_cuGetProcAddress_v2(
                "cuCtxGetCurrent", (void **)&p_cuCtxGetCurrent, 12000, 0, &found));
        MUST(p_cuModuleLoadData(&module, ptx));
        MUST(p_cuModuleGetFunction(&function, module, "cleave_empty"));
        printf("{\"init_ms\": %.3f, \"init_cpu_ms\": %.3f, \"context_ms\": %.3f", init_ns / 1e6,
                first_cpu_ns / 1e6, first_ns / 1e6);

        fflush(stdout);
        for (int i = 0; i < BATCH; i++)
                MUST(p_cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
        MUST(p_cuCtxSynchronize());
        printf("}\n");
        fflush(stdout);
        while (fgets(line, sizeof(line), stdin))
                measure(function, rounds, t, u);
        return 0;
}
