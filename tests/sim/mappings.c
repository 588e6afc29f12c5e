/* SPDX-License-Identifier: Apache-2.0 */
/* cuMemCreate, cuMemMap and relatives; arrays; what is said of pointers. */
#include "check.h"

static uint64_t base;

static uint64_t held(void)
{
        return (uint64_t)nvml_process(0, getpid()) - base;
}

static const CUmemAllocationProp on_device = {
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0},
};
static const CUmemAccessDesc all_access = {
        .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0},
        .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
};

static void test_contents_move(void)
{
        CUmemGenericAllocationHandle one, two, again;
        CUdeviceptr p, q, start;
        size_t granularity, size;
        unsigned long long flags;

        OK(cuMemGetAllocationGranularity(
                &granularity, &on_device, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
        CHECK_EQ(granularity, 2 * MIB);
        OK(cuMemAddressReserve(&p, 64 * MIB, 0, 0, 0));
        OK(cuMemAddressReserve(&q, 64 * MIB, 32 * MIB, 0, 0));
        CHECK_EQ(q % (32 * MIB), 0);
        CHECK_EQ(held(), 0);
        OK(cuMemCreate(&one, 4 * MIB, &on_device, 0));
        OK(cuMemCreate(&two, 2 * MIB, &on_device, 0));
        CHECK_EQ(held(), 6 * MIB);

        OK(cuMemMap(p, 4 * MIB, 0, one, 0));
        OK(cuMemMap(p + 4 * MIB, 2 * MIB, 0, two, 0));
        CHECK_EQ(cuMemMap(p + 2 * MIB, 2 * MIB, 0, two, 0), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemSetAccess(p, 6 * MIB, &all_access, 1));
        OK(cuMemGetAccess(&flags, &all_access.location, p + 5 * MIB));
        CHECK_EQ(flags, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
        memset((void *)p, 0x11, 6 * MIB);
        OK(cuMemGetAddressRange_v2(&start, &size, p + 5 * MIB));
        CHECK(start == p + 4 * MIB && size == 2 * MIB);

        /* the same memory elsewhere has the same contents */
        OK(cuMemUnmap(p, 4 * MIB));
        OK(cuMemMap(q + 8 * MIB, 4 * MIB, 0, one, 0));
        OK(cuMemSetAccess(q + 8 * MIB, 4 * MIB, &all_access, 1));
        CHECK_EQ(((unsigned char *)q)[8 * MIB], 0x11);
        CHECK_EQ(((unsigned char *)q)[12 * MIB - 1], 0x11);

        /* memory outlives its name while it is mapped */
        OK(cuMemRelease(one));
        CHECK_EQ(cuMemRelease(one), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(held(), 6 * MIB);
        OK(cuMemRetainAllocationHandle(&again, (void *)(q + 9 * MIB)));
        OK(cuMemUnmap(q + 8 * MIB, 4 * MIB));
        CHECK_EQ(held(), 6 * MIB);
        OK(cuMemMap(p, 4 * MIB, 0, again, 0));
        OK(cuMemRelease(again));
        OK(cuMemSetAccess(p, 4 * MIB, &all_access, 1));
        CHECK_EQ(((unsigned char *)p)[4 * MIB - 1], 0x11);
        CHECK_EQ(cuMemAddressFree(p, 64 * MIB), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemUnmap(p, 6 * MIB));
        CHECK_EQ(held(), 2 * MIB);
        OK(cuMemRelease(two));
        CHECK_EQ(held(), 0);
        OK(cuMemAddressFree(p, 64 * MIB));
        OK(cuMemAddressFree(q, 64 * MIB));
}

static CUdeviceptr to_touch;

/* In a child, which has the same addresses. */
static void touch(void)
{
        *(volatile char *)to_touch = 1;
}

static void test_access(void)
{
        CUmemAccessDesc read_only = all_access;
        CUmemGenericAllocationHandle handle;
        CUdeviceptr p;
        int status;

        OK(cuMemAddressReserve(&p, 4 * MIB, 0, 0, 0));
        OK(cuMemCreate(&handle, 4 * MIB, &on_device, 0));
        OK(cuMemMap(p, 4 * MIB, 0, handle, 0));
        to_touch = p;
        /* mapped, but nobody may touch it yet */
        status = in_child(touch);
        CHECK(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
        read_only.flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
        OK(cuMemSetAccess(p, 4 * MIB, &read_only, 1));
        CHECK_EQ(*(char *)p, 0);
        status = in_child(touch);
        CHECK(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
        OK(cuMemSetAccess(p, 4 * MIB, &all_access, 1));
        CHECK_EQ(in_child(touch), 0);
        CHECK_EQ(*(char *)p, 1);
        OK(cuMemsetD8_v2(p, 7, 4 * MIB));
        CHECK_EQ(cuMemUnmap(p, 2 * MIB), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemUnmap(p, 4 * MIB));
        OK(cuMemRelease(handle));
        OK(cuMemAddressFree(p, 4 * MIB));
}

/* Device work may not write where access to read was given. */
static void test_illegal_write(void)
{
        CUmemAccessDesc read_only = all_access;
        CUmemGenericAllocationHandle handle;
        CUcontext context;
        CUdeviceptr p;
        CUresult r;
        char byte;

        read_only.flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
        OK(cuCtxCreate_v2(&context, 0, 0));
        OK(cuMemAddressReserve(&p, 2 * MIB, 0, 0, 0));
        OK(cuMemCreate(&handle, 2 * MIB, &on_device, 0));
        OK(cuMemMap(p, 2 * MIB, 0, handle, 0));
        OK(cuMemSetAccess(p, 2 * MIB, &read_only, 1));
        OK(cuMemcpyDtoH_v2(&byte, p, 1));
        CHECK_EQ(byte, 0);
        r = cuMemsetD8_v2(p, 1, 100);
        if (!r)
                r = cuCtxSynchronize();
        CHECK_EQ(r, CUDA_ERROR_ILLEGAL_ADDRESS);
        OK(cuCtxDestroy_v2(context));
        OK(cuMemUnmap(p, 2 * MIB));
        OK(cuMemRelease(handle));
        OK(cuMemAddressFree(p, 2 * MIB));
}

static void test_bad_arguments(void)
{
        CUmemAllocationProp other = on_device;
        CUmemGenericAllocationHandle handle;
        CUdeviceptr p;

        CHECK_EQ(cuMemCreate(&handle, MIB, &on_device, 0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemCreate(&handle, 0, &on_device, 0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemCreate(&handle, 2 * MIB, NULL, 0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemCreate(&handle, (size_t)1 << 45, &on_device, 0), CUDA_ERROR_OUT_OF_MEMORY);
        other.location.id = 3;
        CHECK_EQ(cuMemCreate(&handle, 2 * MIB, &other, 0), CUDA_ERROR_INVALID_DEVICE);
        other = on_device;
        other.requestedHandleTypes = CU_MEM_HANDLE_TYPE_FABRIC;
        CHECK_EQ(cuMemCreate(&handle, 2 * MIB, &other, 0), CUDA_ERROR_NOT_SUPPORTED);
        CHECK_EQ(cuMemAddressReserve(&p, 5, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemAddressReserve(&p, 2 * MIB, 3, 0, 0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemMap(0x1000, 2 * MIB, 0, 1, 0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemRelease(0), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemUnmap(0x200000, 2 * MIB), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemAddressReserve(&p, 2 * MIB, 0, 0, 0));
        CHECK_EQ(cuMemFree_v2(p), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemSetAccess(p, 2 * MIB, &all_access, 1), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuMemAddressFree(p, MIB), CUDA_ERROR_INVALID_VALUE);
        OK(cuMemAddressFree(p, 2 * MIB));
        CHECK_EQ(held(), 0);
}

static void test_arrays(void)
{
        CUDA_ARRAY_DESCRIPTOR flat = {
                .Width = 100,
                .Height = 50,
                .Format = CU_AD_FORMAT_FLOAT,
                .NumChannels = 4,
        };
        CUDA_ARRAY3D_DESCRIPTOR deep =
                                        {
                                                .Width = 256,
                                                .Height = 256,
                                                .Depth = 64,
                                                .Format = CU_AD_FORMAT_UNSIGNED_INT8,
                                                .NumChannels = 1,
                                        },
                                got;
        CUmipmappedArray mipmap;
        CUarray array, volume, level;

        OK(cuArrayCreate_v2(&array, &flat));
        CHECK_EQ(held(), 2 * MIB);
        OK(cuArray3DCreate_v2(&volume, &deep));
        CHECK_EQ(held(), 6 * MIB);
        OK(cuArray3DGetDescriptor_v2(&got, array));
        CHECK(got.Width == 100 && got.Height == 50 && got.Depth == 0 && got.NumChannels == 4);
        OK(cuArrayDestroy(array));
        CHECK_EQ(cuArrayDestroy(array), CUDA_ERROR_INVALID_HANDLE);
        OK(cuArrayDestroy(volume));
        CHECK_EQ(held(), 0);

        deep.Depth = 0;
        OK(cuMipmappedArrayCreate(&mipmap, &deep, 20));
        CHECK_EQ(held(), 2 * MIB);
        OK(cuMipmappedArrayGetLevel(&level, mipmap, 8));
        OK(cuArray3DGetDescriptor_v2(&got, level));
        CHECK(got.Width == 1 && got.Height == 1);
        CHECK_EQ(cuMipmappedArrayGetLevel(&level, mipmap, 9), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuArrayDestroy(level), CUDA_ERROR_INVALID_HANDLE);
        OK(cuMipmappedArrayDestroy(mipmap));
        CHECK_EQ(held(), 0);

        flat.NumChannels = 3;
        CHECK_EQ(cuArrayCreate_v2(&array, &flat), CUDA_ERROR_INVALID_VALUE);
        flat.NumChannels = 1;
        flat.Width = 0;
        CHECK_EQ(cuArrayCreate_v2(&array, &flat), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuArrayCreate_v2(&array, NULL), CUDA_ERROR_INVALID_VALUE);
}

static void test_pointers(CUcontext context)
{
        CUpointer_attribute which[] = {
                CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                CU_POINTER_ATTRIBUTE_IS_MANAGED,
        };
        unsigned int type, managed;
        int ordinal, local;
        void *data[] = {&type, &ordinal, &managed};
        unsigned long long id, other;
        CUcontext owner;
        CUdeviceptr p, q;
        void *host;

        OK(cuMemAlloc_v2(&p, 100));
        OK(cuPointerGetAttributes(3, which, data, p + 50));
        CHECK(type == CU_MEMORYTYPE_DEVICE && ordinal == 0 && !managed);
        OK(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, p));
        CHECK(owner == context);
        OK(cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, p));
        OK(cuMemFree_v2(p));
        OK(cuMemAlloc_v2(&q, 100));
        OK(cuPointerGetAttribute(&other, CU_POINTER_ATTRIBUTE_BUFFER_ID, q));
        CHECK(q == p && other != id);
        OK(cuMemFree_v2(q));
        OK(cuMemAllocManaged(&p, 100, CU_MEM_ATTACH_GLOBAL));
        OK(cuPointerGetAttributes(3, which, data, p));
        CHECK(managed == 1);
        OK(cuMemFree_v2(p));
        OK(cuMemHostAlloc(&host, 100, 0));
        OK(cuPointerGetAttributes(3, which, data, (CUdeviceptr)(uintptr_t)host));
        CHECK(type == CU_MEMORYTYPE_HOST);
        OK(cuMemFreeHost(host));
        OK(cuPointerGetAttributes(3, which, data, (CUdeviceptr)(uintptr_t)&local));
        CHECK(type == 0 && ordinal == -2 && !managed);
        CHECK_EQ(cuPointerGetAttribute(
                         &type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)&local),
                CUDA_ERROR_INVALID_VALUE);
}

int main(void)
{
        CUcontext context;

        machine("h100");
        OK(cuInit(0));
        OK(cuCtxCreate_v2(&context, 0, 0));
        base = (uint64_t)nvml_process(0, getpid());
        test_contents_move();
        test_access();
        test_illegal_write();
        test_bad_arguments();
        test_arrays();
        test_pointers(context);
        OK(cuCtxDestroy_v2(context));
        CHECK_EQ(nvml_used(0), 0);
        return 0;
}
