/* SPDX-License-Identifier: Apache-2.0 */
/* Contexts and plain memory, and NVML's count of them, step by step. */
#include "check.h"

#define FOOTPRINT (518 * MIB)

static uint64_t held(void)
{
        return (uint64_t)nvml_process(0, getpid());
}

static void test_footprint(void)
{
        CUcontext primary, other, current;
        unsigned int flags;
        int active;

        OK(cuInit(0));
        CHECK_EQ(nvml_process(0, getpid()), -1);
        CHECK_EQ(nvml_used(0), 0);
        OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
        CHECK_EQ(active, 0);

        OK(cuDevicePrimaryCtxRetain(&primary, 0));
        CHECK_EQ(held(), FOOTPRINT);
        CHECK_EQ(nvml_used(0), FOOTPRINT);
        OK(cuDevicePrimaryCtxRetain(&other, 0));
        CHECK(primary == other);
        CHECK_EQ(held(), FOOTPRINT);
        OK(cuDevicePrimaryCtxRelease_v2(0));
        CHECK_EQ(held(), FOOTPRINT);
        OK(cuDevicePrimaryCtxRelease_v2(0));
        CHECK_EQ(nvml_process(0, getpid()), -1);
        CHECK_EQ(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
        CHECK_EQ(cuCtxSetCurrent(primary), CUDA_ERROR_CONTEXT_IS_DESTROYED);

        OK(cuCtxCreate_v2(&primary, 0, 0));
        OK(cuCtxCreate_v2(&other, 0, 0));
        CHECK_EQ(held(), 2 * FOOTPRINT);
        OK(cuCtxGetCurrent(&current));
        CHECK(current == other);
        OK(cuCtxDestroy_v2(other));
        OK(cuCtxGetCurrent(&current));
        CHECK(current == primary);
        CHECK_EQ(cuCtxDestroy_v2(other), CUDA_ERROR_CONTEXT_IS_DESTROYED);
        OK(cuCtxDestroy_v2(primary));
        CHECK_EQ(nvml_used(0), 0);
}

static void test_granularity(void)
{
        CUdeviceptr p[600], large, odd;
        uint64_t base;
        CUcontext context;
        size_t free, total;

        OK(cuCtxCreate_v2(&context, 0, 0));
        base = held();
        OK(cuMemGetInfo_v2(&free, &total));
        CHECK_EQ(total, (81559 - 480) * MIB);
        CHECK_EQ(free, total - base);

        /* small ones share blocks of 2 MiB */
        OK(cuMemAlloc_v2(&p[0], 1));
        CHECK_EQ(held(), base + 2 * MIB);
        OK(cuMemAlloc_v2(&p[1], MIB));
        CHECK_EQ(held(), base + 2 * MIB);
        CHECK_EQ(p[1] - p[0], 512);
        OK(cuMemAlloc_v2(&p[2], MIB));
        CHECK_EQ(held(), base + 4 * MIB);
        /* a freed block is kept if no other is empty */
        OK(cuMemFree_v2(p[2]));
        CHECK_EQ(held(), base + 4 * MIB);
        OK(cuMemFree_v2(p[1]));
        OK(cuMemFree_v2(p[0]));
        CHECK_EQ(held(), base + 2 * MIB);

        /* larger ones have their own, in steps of 2 MiB */
        OK(cuMemAlloc_v2(&large, MIB + 1));
        CHECK_EQ(held(), base + 4 * MIB);
        CHECK_EQ(large % (2 * MIB), 0);
        OK(cuMemAlloc_v2(&odd, 5 * MIB + 1));
        CHECK_EQ(held(), base + 10 * MIB);
        OK(cuMemGetInfo_v2(&free, &total));
        CHECK_EQ(free, total - held());
        OK(cuMemFree_v2(odd));
        CHECK_EQ(held(), base + 4 * MIB);
        OK(cuMemFree_v2(large));

        for (int i = 0; i < 600; i++)
                OK(cuMemAlloc_v2(&p[i], 8192));
        CHECK_EQ(held(), base + 6 * MIB); /* 4.7 MiB */
        for (int i = 0; i < 600; i += 2)
                OK(cuMemFree_v2(p[i]));
        for (int i = 1; i < 600; i += 2)
                OK(cuMemFree_v2(p[i]));
        CHECK_EQ(held(), base + 2 * MIB);
        OK(cuCtxDestroy_v2(context));
        CHECK_EQ(nvml_used(0), 0);
}

static void test_contents(void)
{
        CUdeviceptr p, q;
        CUcontext context;

        /* what somebody wrote is never seen by the next */
        OK(cuCtxCreate_v2(&context, 0, 0));
        OK(cuMemAlloc_v2(&p, 8 * MIB));
        memset((void *)p, 0xa5, 8 * MIB);
        OK(cuMemAlloc_v2(&q, 8 * MIB));
        for (size_t i = 0; i < 8 * MIB; i += 4096)
                CHECK_EQ(((unsigned char *)q)[i], 0);
        OK(cuMemFree_v2(p));
        OK(cuMemAlloc_v2(&p, 8 * MIB));
        for (size_t i = 0; i < 8 * MIB; i += 4096)
                CHECK_EQ(((unsigned char *)p)[i], 0);
        OK(cuCtxDestroy_v2(context));
}

static void test_out_of_memory(void)
{
        CUdeviceptr p[2], q;
        CUcontext context;
        size_t free, total, before;

        OK(cuCtxCreate_v2(&context, 0, 0));
        OK(cuMemGetInfo_v2(&before, &total));
        OK(cuMemAlloc_v2(&p[0], before - 64 * MIB));
        CHECK_EQ(cuMemAlloc_v2(&q, 66 * MIB), CUDA_ERROR_OUT_OF_MEMORY);
        OK(cuMemGetInfo_v2(&free, &total));
        CHECK(free <= 64 * MIB && free > 60 * MIB);
        OK(cuMemAlloc_v2(&p[1], free & ~(2 * MIB - 1)));
        CHECK_EQ(cuMemAlloc_v2(&q, 2 * MIB), CUDA_ERROR_OUT_OF_MEMORY);
        CHECK_EQ(cuMemAlloc_v2(&q, 4), CUDA_ERROR_OUT_OF_MEMORY);
        CHECK_EQ(cuMemAlloc_v2(&q, (size_t)1 << 60), CUDA_ERROR_OUT_OF_MEMORY);
        OK(cuMemFree_v2(p[1]));
        OK(cuMemAlloc_v2(&q, 2 * MIB));
        OK(cuMemFree_v2(q));
        OK(cuMemFree_v2(p[0]));
        OK(cuMemGetInfo_v2(&free, &total));
        CHECK_EQ(free, before);
        OK(cuCtxDestroy_v2(context));
        CHECK_EQ(nvml_used(0), 0);
}

static void test_bad_arguments(void)
{
        CUdeviceptr p, q, base;
        CUcontext context;
        size_t size;
        int value;

        CHECK_EQ(cuMemAlloc_v2(&p, 4), CUDA_ERROR_INVALID_CONTEXT);
        CHECK_EQ(cuCtxPopCurrent_v2(NULL), CUDA_ERROR_INVALID_CONTEXT);
        CHECK_EQ(cuCtxCreate_v2(&context, 0, 1), CUDA_ERROR_INVALID_DEVICE);
        CHECK_EQ(cuCtxCreate_v2(NULL, 0, 0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuCtxCreate_v2(&context, 0x80000000u, 0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuCtxSetCurrent((CUcontext)&p), CUDA_ERROR_INVALID_CONTEXT);
        CHECK_EQ(cuInit(1), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuDeviceGetAttribute(&value, 0, 0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuDeviceGetAttribute(&value, 10000, 0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuDeviceGetAttribute(NULL, 1, 0), CUDA_ERROR_INVALID_VALUE);

        OK(cuCtxCreate_v2(&context, 0, 0));
        CHECK_EQ(cuMemAlloc_v2(&p, 0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemAlloc_v2(NULL, 4), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemFree_v2(0));
        CHECK_EQ(cuMemFree_v2((CUdeviceptr)&p), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemFree_v2(12345), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemAlloc_v2(&p, 1000));
        OK(cuMemAlloc_v2(&q, 3 * MIB));
        CHECK_EQ(cuMemFree_v2(p + 512), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemFree_v2(q + 2 * MIB), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemGetAddressRange_v2(&base, &size, q + 2 * MIB + 5));
        CHECK(base == q && size == 3 * MIB);
        OK(cuMemGetAddressRange_v2(&base, &size, p + 999));
        CHECK(base == p && size == 1000);
        CHECK_EQ(cuMemGetAddressRange_v2(&base, &size, q + 3 * MIB), CUDA_ERROR_NOT_FOUND);
        OK(cuMemFree_v2(p));
        CHECK_EQ(cuMemFree_v2(p), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemFree_v2(q));
        CHECK_EQ(cuMemFree_v2(q), CUDA_ERROR_INVALID_VALUE);
        OK(cuCtxDestroy_v2(context));
        CHECK_EQ(cuCtxDestroy_v2(NULL), CUDA_ERROR_INVALID_VALUE);
}

static void test_pitch_managed_host(void)
{
        CUdeviceptr p, mapped;
        CUcontext context;
        unsigned int flags;
        size_t pitch;
        uint64_t base;
        void *host;
        static char own[8192];

        OK(cuCtxCreate_v2(&context, 0, 0));
        base = held();
        OK(cuMemAllocPitch_v2(&p, &pitch, 1000, 3000, 4));
        CHECK_EQ(pitch, 1024);
        CHECK_EQ(held(), base + 4 * MIB);
        OK(cuMemFree_v2(p));
        CHECK_EQ(cuMemAllocPitch_v2(&p, &pitch, 1000, 3000, 3), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemAllocPitch_v2(&p, &pitch, 1 << 20, (size_t)1 << 50, 4),
                CUDA_ERROR_OUT_OF_MEMORY);

        /* managed memory is on the device, but RM did not give it */
        base = held();
        OK(cuMemAllocManaged(&p, 10 * MIB, CU_MEM_ATTACH_GLOBAL));
        CHECK_EQ(held(), base);
        CHECK_EQ(nvml_used(0), base + 10 * MIB);
        memset((void *)p, 1, 10 * MIB);
        OK(cuMemFree_v2(p));
        CHECK_EQ(nvml_used(0), base);
        CHECK_EQ(cuMemAllocManaged(&p, 10, 0), CUDA_ERROR_INVALID_VALUE);

        OK(cuMemHostAlloc(&host, 5000, CU_MEMHOSTALLOC_PORTABLE));
        memset(host, 7, 5000);
        OK(cuMemHostGetDevicePointer_v2(&mapped, host, 0));
        OK(cuMemHostGetFlags(&flags, host));
        CHECK(flags & CU_MEMHOSTALLOC_PORTABLE);
        CHECK_EQ(cuMemFreeHost((char *)host + 1), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemFreeHost(host));
        CHECK_EQ(cuMemFreeHost(host), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemHostRegister_v2(own, sizeof(own), 0));
        CHECK_EQ(cuMemHostRegister_v2(own + 4096, 100, 0),
                CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        OK(cuMemHostUnregister(own));
        CHECK_EQ(cuMemHostUnregister(own), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        OK(cuCtxDestroy_v2(context));
        CHECK_EQ(nvml_used(0), 0);
}

static void child_of_fork(void)
{
        CUdeviceptr p;
        int count;

        CHECK_EQ(cuInit(0), CUDA_ERROR_NOT_INITIALIZED);
        CHECK_EQ(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
        CHECK_EQ(cuMemAlloc_v2(&p, 4), CUDA_ERROR_NOT_INITIALIZED);
        CHECK(nvml_used(0) > 0);
}

static void test_fork(void)
{
        CUcontext context;
        CUdeviceptr p;

        OK(cuCtxCreate_v2(&context, 0, 0));
        CHECK_EQ(in_child(child_of_fork), 0);
        usleep(60000); /* the child's end is not ours */
        CHECK_EQ(nvml_used(0), FOOTPRINT);
        OK(cuMemAlloc_v2(&p, 4 * MIB));
        OK(cuCtxDestroy_v2(context));
}

/* Processor time of this process, us. */
static double cpu(void)
{
        struct timespec now;

        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
        return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

/* What calls cost; the bounds are wide, for they are met on slow machines and under sanitizers. */
static void test_cost(void)
{
        CUcontext context;
        CUdeviceptr p;
        double begin, took;
        const int n = 2000;

        begin = cpu();
        OK(cuCtxCreate_v2(&context, 0, 0));
        took = cpu() - begin;
        printf("context: %.0f us\n", took);
        CHECK(took < 50000);
        begin = cpu();
        for (int i = 0; i < n; i++) {
                OK(cuMemAlloc_v2(&p, 2 * MIB));
                OK(cuMemFree_v2(p));
        }
        took = (cpu() - begin) / n;
        printf("cuMemAlloc and cuMemFree of 2 MiB: %.2f us\n", took);
        CHECK(took < 500);
        begin = cpu();
        for (int i = 0; i < n; i++)
                nvml_process(0, getpid());
        took = (cpu() - begin) / n;
        printf("NVML's processes: %.2f us\n", took);
        CHECK(took < 50);
        OK(cuCtxDestroy_v2(context));
}

int main(void)
{
        CUdevice device;

        CHECK_EQ(cuDeviceGet(&device, 0), CUDA_ERROR_NOT_INITIALIZED);
        machine("h100");
        test_footprint();
        test_granularity();
        test_contents();
        test_out_of_memory();
        test_bad_arguments();
        test_pitch_managed_host();
        test_fork();
        test_cost();
        return 0;
}
