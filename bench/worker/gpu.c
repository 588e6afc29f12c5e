/* SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "worker.h"

#define X(name) __typeof__(&name) p_##name;
ENTRIES(X)
#undef X

struct gpu gpu;

/* kernels.ptx, a string for each line */
static const char kernels_ptx[] =
#include "kernels.inc"
        ;

static const char *const names[N_KERNELS] = {
        [KERNEL_EMPTY] = "cleave_empty",
        [KERNEL_FILL] = "cleave_fill_u32",
        [KERNEL_ADD] = "cleave_add_f32",
        [KERNEL_READ] = "cleave_checksum_u64",
        [KERNEL_SPIN] = "cleave_spin",
        [KERNEL_TURNS] = "bench_turns",
        [KERNEL_TRAP] = "bench_trap",
        [KERNEL_RESIDENCY] = "bench_residency",
        [KERNEL_CHASE] = "bench_chase",
        [KERNEL_SOFTMAX] = "bench_softmax",
};

uint64_t now_ns(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void sleep_until(uint64_t ns)
{
        struct timespec t = {
                .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};

        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
                ;
}

int fail_cuda(const char *what, CUresult result)
{
        const char *name = NULL, *call = what;
        int length = (int)strcspn(what, "(");

        if (strncmp(call, "p_", 2) == 0) {
                call += 2;
                length -= 2;
        }
        if (!p_cuGetErrorName || p_cuGetErrorName(result, &name) != CUDA_SUCCESS || !name)
                return fail("%.*s: CUDA error %d", length, call, (int)result);
        return fail("%.*s: %s", length, call, name);
}

int launch(enum kernel kernel, unsigned blocks, unsigned threads, CUstream stream, void **params)
{
        CUresult result = p_cuLaunchKernel(
                gpu.kernel[kernel], blocks, 1, 1, threads, 1, 1, 0, stream, params, NULL);

        if (result == CUDA_ERROR_NOT_SUPPORTED)
                return gap("the simulated GPU does not run the kernel %s", names[kernel]);
        return result == CUDA_SUCCESS ? DONE : fail_cuda(names[kernel], result);
}

int launch_spin(uint64_t ns, CUstream stream)
{
        void *params[] = {&ns};

        return launch(KERNEL_SPIN, 1, 1, stream, params);
}

unsigned gpu_blocks(void)
{
        return (unsigned)gpu.sms * 8;
}

unsigned gpu_waves(void)
{
        return gpu_blocks() * 4;
}

static int name_devices(void)
{
        for (int i = 0; i < 2 && i < gpu.devices; i++) {
                char *out = gpu.uuid[i];
                CUuuid uuid;

                TRY(p_cuDeviceGetUuid_v2(&uuid, i));
                out += sprintf(out, "GPU-");
                for (int k = 0; k < 16; k++)
                        out += sprintf(out,
                                k == 4 || k == 6 || k == 8 || k == 10 ? "-%02x" : "%02x",
                                (unsigned char)uuid.bytes[k]);
        }
        return DONE;
}

/* Each kernel once, doing as good as nothing: the driver loads them when they are first launched,
 * and that is not to be in any figure. The one that traps stays out. */
static int warm_up(void)
{
        uint32_t one = 1, words = 256;
        uint64_t none = 0;
        CUdeviceptr scratch = gpu.scratch, spans = scratch + 8;
        void *fill[] = {&scratch, &one, &none};
        void *add[] = {&scratch, &scratch, &scratch, &none};
        void *read[] = {&scratch, &scratch, &none};
        void *spin[] = {&none};
        void *turns[] = {&one, &scratch};
        void *residency[] = {&spans, &one, &none};
        CUdeviceptr start = scratch + 64, counts = scratch + 128;
        void *chase[] = {&start, &one, &one, &counts};
        void *softmax[] = {&scratch, &words};
        const struct {
                enum kernel kernel;
                unsigned threads;
                void **params;
        } launches[] = {
                {KERNEL_EMPTY, 1, NULL},
                {KERNEL_FILL, 32, fill},
                {KERNEL_ADD, 32, add},
                {KERNEL_READ, 32, read},
                {KERNEL_SPIN, 1, spin},
                {KERNEL_TURNS, 32, turns},
                {KERNEL_RESIDENCY, 1, residency},
                {KERNEL_CHASE, 1, chase},
                {KERNEL_SOFTMAX, 256, softmax},
        };

        for (size_t i = 0; i < sizeof(launches) / sizeof(*launches); i++) {
                int r = launch(
                        launches[i].kernel, 1, launches[i].threads, NULL, launches[i].params);

                if (r == FAILED)
                        return r;
                gpu.simulated = gpu.simulated || r == GAP;
        }
        TRY(p_cuCtxSynchronize());
        return DONE;
}

int gpu_load(enum kernel kernel, CUfunction *ret)
{
        CUmodule module;

        TRY(p_cuModuleLoadData(&module, kernels_ptx));
        TRY(p_cuModuleGetFunction(ret, module, names[kernel]));
        return DONE;
}

static int load_kernels(void)
{
        enum { SCRATCH = 4096 };
        CUdeviceptr start;
        CUmodule module;

        TRY(p_cuModuleLoadData(&module, kernels_ptx));
        for (int i = 0; i < N_KERNELS; i++)
                TRY(p_cuModuleGetFunction(&gpu.kernel[i], module, names[i]));
        TRY(p_cuMemAlloc_v2(&gpu.scratch, SCRATCH));
        TRY(p_cuMemsetD32Async(gpu.scratch, 0, SCRATCH / 4, NULL));
        /* where warm_up() lets a chain start that leads to itself */
        start = gpu.scratch + 64;
        TRY(p_cuMemcpyHtoD_v2(gpu.scratch + 64, &start, sizeof(start)));
        return warm_up();
}

int gpu_start(void)
{
        uint64_t begin = now_ns();
        size_t free_bytes;
        void *library;
        int value = 0;

        library = dlopen("libcuda.so.1", RTLD_NOW);
        if (!library)
                return fail("%s", dlerror());
#define X(name)                                                                                    \
        p_##name = (__typeof__(p_##name))dlsym(library, #name);                                    \
        if (!p_##name)                                                                             \
                return fail("the driver library has no " #name);
        ENTRIES(X)
#undef X
        TRY(p_cuInit(0));
        gpu.init_ms = (double)(now_ns() - begin) / 1e6;
        TRY(p_cuDriverGetVersion(&gpu.driver));
        TRY(p_cuDeviceGetCount(&gpu.devices));
        if (gpu.devices == 0)
                return fail("there is no GPU here");
        begin = now_ns();
        TRY(p_cuDevicePrimaryCtxRetain(&gpu.context, 0));
        TRY(p_cuCtxSetCurrent(gpu.context));
        gpu.context_ms = (double)(now_ns() - begin) / 1e6;
        TRY(p_cuDeviceGetName(gpu.name, sizeof(gpu.name), 0));
        TRY(p_cuDeviceGetAttribute(&gpu.sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
        TRY(p_cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 0));
        gpu.l2_bytes = (size_t)value;
        TRY(p_cuMemGetInfo_v2(&free_bytes, &gpu.memory));
        NEED(name_devices());
        return load_kernels();
}

int gpu_check(void)
{
        enum { COUNT = 1 << 16 };
        static uint32_t back[COUNT];
        uint64_t count = COUNT;
        uint32_t value = 0x600d600d;
        CUdeviceptr memory;
        void *params[] = {&memory, &value, &count};

        TRY(p_cuMemAlloc_v2(&memory, sizeof(back)));
        NEED(launch(KERNEL_FILL, 64, 256, NULL, params));
        TRY(p_cuMemcpyDtoH_v2(back, memory, sizeof(back)));
        TRY(p_cuMemFree_v2(memory));
        for (size_t i = 0; i < COUNT; i++)
                if (back[i] != value)
                        return fail("memory holds %#x where %#x was written", back[i], value);
        return DONE;
}
