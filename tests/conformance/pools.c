/* SPDX-License-Identifier: Apache-2.0 */
/* Memory pools, stream-ordered allocation, virtual memory management. */
#include "conformance.h"

static void alloc_async(void)
{
        CUmemoryPool pool, current;
        CUdeviceptr p, q;
        CUstream stream;

        OK(cu(cuDeviceGetDefaultMemPool)(&pool, device));
        OK(cu(cuDeviceGetMemPool)(&current, device));
        CHECK(pool == current);
        OK(cu(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
        OK(cu(cuMemAllocAsync)(&p, 1 << 20, stream));
        OK(cu(cuMemsetD32Async)(p, 0x5a5a5a5a, 1 << 18, stream));
        OK(cu(cuMemAllocAsync)(&q, 1 << 20, stream));
        OK(cu(cuMemcpyDtoDAsync_v2)(q, p, 1 << 20, stream));
        OK(cu(cuMemFreeAsync)(p, stream));
        OK(cu(cuStreamSynchronize)(stream));
        CHECK(words_are(q, 1 << 18, 0x5a5a5a5a));
        OK(cu(cuMemFreeAsync)(q, stream));
        OK(cu(cuStreamSynchronize)(stream));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemAllocAsync)(NULL, 1 << 20, stream));
        p = 1;
        OK(cu(cuMemAllocAsync)(&p, 0, stream));
        PROBE_VALUE(0, (long)p);
        OK(cu(cuMemAllocAsync)(&p, 1 << 20, NULL));
        OK(cu(cuMemFree_v2)(p));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemFreeAsync)(0x1234, stream));
        OK(cu(cuStreamDestroy_v2)(stream));
}

static void pool_reuse(void)
{
        cuuint64_t threshold = UINT64_MAX, reserved = 0, used = 0;
        CUmemoryPool pool;
        CUdeviceptr p;
        size_t before;

        OK(cu(cuDeviceGetDefaultMemPool)(&pool, device));
        OK(cu(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
        OK(cu(cuMemAllocAsync)(&p, 4 << 20, NULL));
        OK(cu(cuStreamSynchronize)(NULL));
        before = free_memory();
        OK(cu(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved));
        OK(cu(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
        CHECK(used == 4 << 20);
        PROBE_VALUE(32 << 20, (long)reserved);
        OK(cu(cuMemFreeAsync)(p, NULL));
        OK(cu(cuStreamSynchronize)(NULL));
        CHECK(free_memory() == before);
        OK(cu(cuMemPoolTrimTo)(pool, 0));
        CHECK(free_memory() == before + reserved);
        OK(cu(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved));
        CHECK(reserved == 0);
}

static void pool_explicit(void)
{
        CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
        CUmemAccess_flags access = 0;
        CUmemLocation where = {.type = CU_MEM_LOCATION_TYPE_DEVICE};
        CUmemoryPool pool;
        CUdeviceptr p;

        props.location.id = where.id = device;
        OK(cu(cuMemPoolCreate)(&pool, &props));
        OK(cu(cuMemAllocFromPoolAsync)(&p, 3 << 20, pool, NULL));
        OK(cu(cuMemsetD8_v2)(p, 1, 3 << 20));
        OK(cu(cuMemPoolGetAccess)(&access, pool, &where));
        CHECK(access == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
        OK(cu(cuMemFreeAsync)(p, NULL));
        OK(cu(cuStreamSynchronize)(NULL));
        OK(cu(cuMemPoolDestroy)(pool));
        props.location.id = 99;
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemPoolCreate)(&pool, &props));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemPoolCreate)(&pool, NULL));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemPoolCreate)(NULL, &props));
}

/* What comes after a free in the stream may use the memory again, never what comes before. */
static void pool_order(void)
{
        CUmodule module = load_kernels();
        struct gate gate = gate_new();
        CUstream stream;
        CUdeviceptr p, q;

        OK(cu(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
        OK(cu(cuMemAllocAsync)(&p, 1 << 20, stream));
        gate_shut(&gate, module, stream);
        OK(cu(cuMemsetD32Async)(p, 1, 1 << 18, stream));
        OK(cu(cuMemFreeAsync)(p, stream));
        OK(cu(cuMemAllocAsync)(&q, 1 << 20, stream));
        OK(cu(cuMemsetD32Async)(q, 2, 1 << 18, stream));
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery)(stream));
        gate_open(&gate);
        OK(cu(cuStreamSynchronize)(stream));
        CHECK(words_are(q, 1 << 18, 2));
}

static CUmemAllocationProp vmm_prop(void)
{
        CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};

        prop.location.id = device;
        return prop;
}

static void vmm(void)
{
        CUmemAllocationProp prop = vmm_prop();
        CUmemAccessDesc access = {
                .location = prop.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
        CUmemGenericAllocationHandle a, b;
        size_t grain = 0, before;
        CUdeviceptr base;

        OK(cu(cuMemGetAllocationGranularity)(&grain, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
        CHECK(grain == 2 << 20);
        before = free_memory();
        OK(cu(cuMemAddressReserve)(&base, 8 * grain, 0, 0, 0));
        CHECK(free_memory() == before);
        OK(cu(cuMemCreate)(&a, 2 * grain, &prop, 0));
        OK(cu(cuMemCreate)(&b, 2 * grain, &prop, 0));
        CHECK(free_memory() == before - 4 * grain);
        OK(cu(cuMemMap)(base, 2 * grain, 0, a, 0));
        OK(cu(cuMemMap)(base + 2 * grain, 2 * grain, 0, b, 0));
        OK(cu(cuMemSetAccess)(base, 4 * grain, &access, 1));
        /* copies run over both */
        OK(cu(cuMemsetD32_v2)(base, 0x11, grain));
        CHECK(words_are(base, grain, 0x11));
        OK(cu(cuMemUnmap)(base, 2 * grain));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemsetD32_v2)(base, 1, 4));
        /* the contents stay with the handle */
        OK(cu(cuMemMap)(base + 4 * grain, 2 * grain, 0, a, 0));
        OK(cu(cuMemSetAccess)(base + 4 * grain, 2 * grain, &access, 1));
        CHECK(words_are(base + 4 * grain, grain / 2, 0x11));
        OK(cu(cuMemUnmap)(base + 4 * grain, 2 * grain));
        OK(cu(cuMemRelease)(a));
        OK(cu(cuMemUnmap)(base + 2 * grain, 2 * grain));
        OK(cu(cuMemRelease)(b));
        CHECK(free_memory() == before);
        OK(cu(cuMemAddressFree)(base, 8 * grain));
}

/* Memory lives until it is both released and unmapped. */
static void vmm_lifetime(void)
{
        CUmemAllocationProp prop = vmm_prop();
        CUmemAccessDesc access = {
                .location = prop.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
        CUmemGenericAllocationHandle handle, again;
        size_t size = 4 << 20, before = free_memory();
        CUdeviceptr base;

        OK(cu(cuMemAddressReserve)(&base, size, 0, 0, 0));
        OK(cu(cuMemCreate)(&handle, size, &prop, 0));
        OK(cu(cuMemMap)(base, size, 0, handle, 0));
        OK(cu(cuMemSetAccess)(base, size, &access, 1));
        OK(cu(cuMemRelease)(handle));
        CHECK(free_memory() == before - size);
        OK(cu(cuMemsetD32_v2)(base, 3, 100));
        CHECK(words_are(base, 100, 3));
        OK(cu(cuMemRetainAllocationHandle)(&again, (void *)(uintptr_t)base));
        OK(cu(cuMemUnmap)(base, size));
        CHECK(free_memory() == before - size);
        OK(cu(cuMemRelease)(again));
        CHECK(free_memory() == before);
        OK(cu(cuMemAddressFree)(base, size));
}

static void vmm_errors(void)
{
        CUmemAllocationProp prop = vmm_prop();
        CUmemGenericAllocationHandle handle;
        CUdeviceptr base;

        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemCreate)(&handle, 4096, &prop, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemCreate)(&handle, 0, &prop, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemCreate)(NULL, 2 << 20, &prop, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemCreate)(&handle, 2 << 20, NULL, 0));
        IS(CUDA_ERROR_OUT_OF_MEMORY, cu(cuMemCreate)(&handle, (size_t)1 << 42, &prop, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemAddressReserve)(&base, 4096, 0, 0, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemAddressReserve)(NULL, 2 << 20, 0, 0, 0));
        OK(cu(cuMemAddressReserve)(&base, 2 << 20, 0, 0, 0));
        OK(cu(cuMemUnmap)(base, 2 << 20)); /* nothing is mapped there */
        OK(cu(cuMemCreate)(&handle, 2 << 20, &prop, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemMap)(base + (2 << 20), 2 << 20, 0, handle, 0));
        OK(cu(cuMemMap)(base, 2 << 20, 0, handle, 0));
        PROBE(CUDA_ERROR_INVALID_VALUE, cu(cuMemMap)(base, 2 << 20, 0, handle, 0));
        PROBE(CUDA_ERROR_INVALID_VALUE, cu(cuMemAddressFree)(base, 2 << 20));
        /* mapped, but nobody may touch it */
        PROBE(CUDA_ERROR_INVALID_VALUE, cu(cuMemsetD32_v2)(base, 1, 4));
        OK(cu(cuMemUnmap)(base, 2 << 20));
        OK(cu(cuMemRelease)(handle));
        OK(cu(cuMemAddressFree)(base, 2 << 20));
}

const struct test_case pool_cases[] = {
        {"alloc_async", alloc_async, false},
        {"pool_reuse", pool_reuse, false},
        {"pool_explicit", pool_explicit, false},
        {"pool_order", pool_order, false},
        {"vmm", vmm, false},
        {"vmm_lifetime", vmm_lifetime, false},
        {"vmm_errors", vmm_errors, false},
        {NULL, NULL, false},
};
