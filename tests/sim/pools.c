/* SPDX-License-Identifier: Apache-2.0 */
/* Memory pools: their chunks as NVML counts them, trimming, thresholds, and other users' memory. */
#include "check.h"

static uint64_t base;

static uint64_t held(void)
{
        return (uint64_t)nvml_process(0, getpid()) - base;
}

static uint64_t attribute(CUmemoryPool pool, CUmemPool_attribute which)
{
        cuuint64_t value;

        OK(cuMemPoolGetAttribute(pool, which, &value));
        return value;
}

static void test_default_pool(void)
{
        CUmemoryPool pool, current;
        CUdeviceptr p, q, large;
        cuuint64_t threshold;

        OK(cuDeviceGetDefaultMemPool(&pool, 0));
        OK(cuDeviceGetMemPool(&current, 0));
        CHECK(pool == current);
        CHECK_EQ(attribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD), 0);
        CHECK_EQ(held(), 0);

        OK(cuMemAllocAsync(&p, 1000, NULL));
        CHECK_EQ(held(), 32 * MIB);
        CHECK_EQ(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 32 * MIB);
        CHECK_EQ(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 1024);
        OK(cuMemAllocAsync(&q, 20 * MIB, NULL));
        CHECK_EQ(held(), 32 * MIB);
        OK(cuMemAllocAsync(&large, 33 * MIB, NULL));
        CHECK_EQ(held(), 96 * MIB);
        memset((void *)large, 1, 33 * MIB);

        OK(cuMemFreeAsync(large, NULL));
        OK(cuCtxSynchronize());
        CHECK_EQ(held(), 32 * MIB);
        OK(cuMemFreeAsync(q, NULL));
        OK(cuMemFree_v2(p)); /* ordinary free takes pool memory too */
        OK(cuCtxSynchronize());
        CHECK_EQ(held(), 0);
        CHECK_EQ(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
        CHECK_EQ(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH), 53 * MIB + 1024);
        CHECK_EQ(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH), 96 * MIB);
        threshold = 0;
        OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &threshold));
        CHECK_EQ(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH), 0);

        /* below the threshold it stays, until trimmed or needed elsewhere */
        threshold = UINT64_MAX;
        OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
        OK(cuMemAllocAsync(&p, 100 * MIB, NULL));
        OK(cuMemFreeAsync(p, NULL));
        OK(cuCtxSynchronize());
        CHECK_EQ(held(), 128 * MIB);
        OK(cuMemPoolTrimTo(pool, 0));
        CHECK_EQ(held(), 0);
        OK(cuMemAllocAsync(&p, 30 * MIB, NULL));
        OK(cuMemAllocAsync(&q, 30 * MIB, NULL));
        OK(cuMemFreeAsync(p, NULL));
        OK(cuMemFreeAsync(q, NULL));
        OK(cuCtxSynchronize());
        OK(cuMemPoolTrimTo(pool, 32 * MIB));
        CHECK_EQ(held(), 32 * MIB);
        OK(cuMemPoolTrimTo(pool, 0));
        CHECK_EQ(held(), 0);
}

static void test_trimmed_when_needed(void)
{
        CUdeviceptr p, all;
        size_t free, total;

        OK(cuMemAllocAsync(&p, 512 * MIB, NULL));
        OK(cuMemFreeAsync(p, NULL));
        OK(cuCtxSynchronize());
        CHECK_EQ(held(), 512 * MIB);
        OK(cuMemGetInfo_v2(&free, &total));
        OK(cuMemAlloc_v2(&all, (free + 100 * MIB) & ~(2 * MIB - 1)));
        CHECK_EQ(cuMemAllocAsync(&p, 600 * MIB, NULL), CUDA_ERROR_OUT_OF_MEMORY);
        OK(cuMemFree_v2(all));
        CHECK_EQ(held(), 0);
}

static void test_explicit_pool(void)
{
        CUmemPoolProps properties = {
                .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0},
                .maxSize = 64 * MIB,
        };
        CUmemoryPool pool, current;
        CUdeviceptr p, q;

        OK(cuMemPoolCreate(&pool, &properties));
        OK(cuMemAllocFromPoolAsync(&p, 40 * MIB, pool, NULL));
        CHECK_EQ(held(), 64 * MIB);
        CHECK_EQ(cuMemAllocFromPoolAsync(&q, 40 * MIB, pool, NULL), CUDA_ERROR_OUT_OF_MEMORY);
        OK(cuDeviceSetMemPool(0, pool));
        OK(cuMemAllocAsync(&q, MIB, NULL));
        CHECK_EQ(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 41 * MIB);
        OK(cuMemPoolDestroy(pool));
        CHECK_EQ(cuMemPoolDestroy(pool), CUDA_ERROR_INVALID_VALUE);
        OK(cuDeviceGetMemPool(&current, 0));
        CHECK(current != pool);
        /* what was allocated lives on, and ends the pool */
        memset((void *)q, 1, MIB);
        OK(cuMemFreeAsync(q, NULL));
        OK(cuCtxSynchronize());
        CHECK_EQ(held(), 64 * MIB);
        OK(cuMemFreeAsync(p, NULL));
        OK(cuCtxSynchronize());
        CHECK_EQ(held(), 0);
}

static void test_bad_arguments(void)
{
        CUmemPoolProps properties = {
                .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 7},
        };
        CUmemoryPool pool, standard;
        CUdeviceptr p;
        int value;

        CHECK_EQ(cuMemPoolCreate(&pool, &properties), CUDA_ERROR_INVALID_VALUE);
        properties.location.type = CU_MEM_LOCATION_TYPE_INVALID;
        CHECK_EQ(cuMemPoolCreate(&pool, &properties), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemPoolCreate(NULL, &properties), CUDA_ERROR_INVALID_VALUE);
        OK(cuDeviceGetDefaultMemPool(&standard, 0));
        CHECK_EQ(cuMemPoolDestroy(standard), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemPoolGetAttribute(standard, 99, &value), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemPoolTrimTo((CUmemoryPool)&value, 0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemAllocAsync(&p, 0, NULL), CUDA_SUCCESS);
        CHECK_EQ(cuMemAllocAsync(NULL, 4, NULL), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemAllocAsync(&p, (size_t)1 << 50, NULL), CUDA_ERROR_OUT_OF_MEMORY);
        CHECK_EQ(cuMemFreeAsync(0, NULL), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemAlloc_v2(&p, 4));
        CHECK_EQ(cuMemFreeAsync(p, NULL), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemFree_v2(p));
        OK(cuMemAllocAsync(&p, 4096, NULL));
        CHECK_EQ(cuMemFreeAsync(p + 512, NULL), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemFreeAsync(p, NULL));
        CHECK_EQ(cuMemFreeAsync(p, NULL), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemPoolTrimTo(standard, 0));
}

int main(void)
{
        CUcontext context;
        CUdeviceptr p;

        machine("h100");
        OK(cuInit(0));
        OK(cuCtxCreate_v2(&context, 0, 0));
        base = (uint64_t)nvml_process(0, getpid());
        test_default_pool();
        test_trimmed_when_needed();
        test_explicit_pool();
        test_bad_arguments();
        /* the end of the last context is the end of pool memory */
        OK(cuMemAllocAsync(&p, MIB, NULL));
        OK(cuCtxDestroy_v2(context));
        CHECK_EQ(nvml_used(0), 0);
        return 0;
}
