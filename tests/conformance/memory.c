/* SPDX-License-Identifier: Apache-2.0 */
/* Plain, pitched, host and managed memory, copies and fills, arrays. */
#include "conformance.h"

static void allocate(void)
{
        size_t before = free_memory(), size = 0;
        CUdeviceptr pointer, base = 0;

        OK(cu(cuMemAlloc_v2)(&pointer, 10 << 20));
        CHECK(pointer % 256 == 0);
        CHECK(before - free_memory() == 10 << 20);
        OK(cu(cuMemGetAddressRange_v2)(&base, &size, pointer + 12345));
        CHECK(base == pointer && size == 10 << 20);
        OK(cu(cuMemFree_v2)(pointer));
        CHECK(before == free_memory());
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemAlloc_v2)(&pointer, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemAlloc_v2)(NULL, 4096));
        OK(cu(cuMemFree_v2)(0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemFree_v2)(0x1234));
}

static void free_twice(void)
{
        CUdeviceptr pointer;

        OK(cu(cuMemAlloc_v2)(&pointer, 4 << 20));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemFree_v2)(pointer + 256));
        OK(cu(cuMemFree_v2)(pointer));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemFree_v2)(pointer));
}

static void too_much(void)
{
        CUdeviceptr pointer = 0x77;
        size_t total, free_bytes;

        free_memory();
        OK(cu(cuMemGetInfo_v2)(&free_bytes, &total));
        CHECK(free_bytes <= total);
        IS(CUDA_ERROR_OUT_OF_MEMORY, cu(cuMemAlloc_v2)(&pointer, total * 2));
        IS(CUDA_ERROR_OUT_OF_MEMORY, cu(cuMemAlloc_v2)(&pointer, (size_t)1 << 60));
        IS(CUDA_ERROR_OUT_OF_MEMORY, cu(cuMemAlloc_v2)(&pointer, SIZE_MAX));
        CHECK(free_memory() == free_bytes);
        OK(cu(cuMemAlloc_v2)(&pointer, 4096));
}

static void small_blocks(void)
{
        CUdeviceptr pointer[64];
        size_t before;

        OK(cu(cuMemAlloc_v2)(&pointer[0], 256));
        before = free_memory();
        for (int i = 1; i < 64; i++) {
                OK(cu(cuMemAlloc_v2)(&pointer[i], 512));
                CHECK(pointer[i] % 256 == 0);
        }
        PROBE_VALUE(0, (long)(before - free_memory()));
        for (int i = 0; i < 64; i++)
                OK(cu(cuMemFree_v2)(pointer[i]));
}

static void pitched(void)
{
        CUdeviceptr pointer;
        size_t pitch = 0;

        OK(cu(cuMemAllocPitch_v2)(&pointer, &pitch, 1000, 64, 4));
        CHECK(pitch >= 1000 && pitch % 256 == 0);
        PROBE_VALUE(1024, (long)pitch);
        OK(cu(cuMemsetD2D8_v2)(pointer, pitch, 9, 1000, 64));
        OK(cu(cuMemFree_v2)(pointer));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemAllocPitch_v2)(&pointer, &pitch, 1000, 64, 3));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemAllocPitch_v2)(&pointer, NULL, 1000, 64, 4));
}

static void host_memory(void)
{
        CUdeviceptr pointer, device_copy;
        unsigned flags = 99, type = 0;
        unsigned char *host, *plain;

        OK(cu(cuMemHostAlloc)((void **)&host, 1 << 16, CU_MEMHOSTALLOC_DEVICEMAP));
        OK(cu(cuMemHostGetDevicePointer_v2)(&pointer, host, 0));
        OK(cu(cuMemHostGetFlags)(&flags, host));
        CHECK(flags & CU_MEMHOSTALLOC_DEVICEMAP);
        OK(cu(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer));
        CHECK(type == CU_MEMORYTYPE_HOST);
        memset(host, 5, 1 << 16);
        OK(cu(cuMemAlloc_v2)(&device_copy, 1 << 16));
        OK(cu(cuMemcpyHtoD_v2)(device_copy, host, 1 << 16));
        memset(host, 0, 1 << 16);
        OK(cu(cuMemcpyDtoD_v2)(pointer, device_copy, 1 << 16));
        OK(cu(cuCtxSynchronize)());
        CHECK(host[0] == 5 && host[65535] == 5);
        OK(cu(cuMemFreeHost)(host));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemFreeHost)(host));
        plain = aligned_alloc(4096, 1 << 16);
        OK(cu(cuMemHostRegister_v2)(plain, 1 << 16, CU_MEMHOSTREGISTER_DEVICEMAP));
        IS(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, cu(cuMemHostRegister_v2)(plain, 1 << 16, 0));
        OK(cu(cuMemHostGetDevicePointer_v2)(&pointer, plain, 0));
        OK(cu(cuMemsetD8_v2)(pointer, 3, 1 << 16));
        OK(cu(cuCtxSynchronize)());
        CHECK(plain[100] == 3);
        OK(cu(cuMemHostUnregister)(plain));
        IS(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cu(cuMemHostUnregister)(plain));
        OK(cu(cuMemAllocHost_v2)((void **)&host, 4096));
        OK(cu(cuMemFreeHost)(host));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemHostAlloc)(NULL, 4096, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemHostAlloc)((void **)&host, 4096, 0x80));
        free(plain);
}

static void managed(void)
{
        CUdeviceptr pointer;
        unsigned type = 0, is_managed = 0;
        uint32_t *words;

        OK(cu(cuMemAllocManaged)(&pointer, 1 << 20, CU_MEM_ATTACH_GLOBAL));
        words = (uint32_t *)(uintptr_t)pointer;
        words[0] = 17;
        words[(1 << 18) - 1] = 18;
        OK(cu(cuMemsetD32_v2)(pointer + 4, 19, 1));
        OK(cu(cuCtxSynchronize)());
        CHECK(words[0] == 17 && words[1] == 19 && words[(1 << 18) - 1] == 18);
        OK(cu(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer));
        PROBE_VALUE(CU_MEMORYTYPE_DEVICE, type);
        OK(cu(cuPointerGetAttribute)(&is_managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, pointer));
        CHECK(is_managed);
        OK(cu(cuMemPrefetchAsync)(pointer, 1 << 20, device, NULL));
        OK(cu(cuMemAdvise)(pointer, 1 << 20, CU_MEM_ADVISE_SET_READ_MOSTLY, device));
        OK(cu(cuCtxSynchronize)());
        CHECK(words[1] == 19);
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemAdvise)(pointer, 1 << 20, (CUmem_advise)99, device));
        OK(cu(cuMemFree_v2)(pointer));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemAllocManaged)(&pointer, 1 << 20, 99));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemAllocManaged)(&pointer, 0, CU_MEM_ATTACH_GLOBAL));
}

static void pointer_attributes(void)
{
        CUdeviceptr pointer, base = 0, same = 0;
        CUcontext owner = NULL;
        unsigned type = 0;
        unsigned long long id = 0;
        size_t size = 0;
        int ordinal = 99, local = 5;

        OK(cu(cuMemAlloc_v2)(&pointer, 8192));
        OK(cu(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer));
        CHECK(type == CU_MEMORYTYPE_DEVICE);
        OK(cu(cuPointerGetAttribute)(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, pointer));
        CHECK(owner == context);
        OK(cu(cuPointerGetAttribute)(&same, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, pointer + 8));
        CHECK(same == pointer + 8);
        OK(cu(cuPointerGetAttribute)(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer));
        CHECK(ordinal == 0);
        OK(cu(cuPointerGetAttribute)(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, pointer));
        CHECK(id);
        OK(cu(cuPointerGetAttribute)(&base, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, pointer + 8));
        OK(cu(cuPointerGetAttribute)(&size, CU_POINTER_ATTRIBUTE_RANGE_SIZE, pointer + 8));
        CHECK(base == pointer && size == 8192);
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuPointerGetAttribute)(
                        &type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)&local));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuPointerGetAttribute)(NULL, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuPointerGetAttribute)(&type, (CUpointer_attribute)999, pointer));
        OK(cu(cuMemFree_v2)(pointer));
}

static void copies(void)
{
        enum { N = 100000 };
        CUdeviceptr a, b;
        uint32_t *from = malloc(N * 4), *to = calloc(N, 4);

        for (uint32_t i = 0; i < N; i++)
                from[i] = i * 2654435761u;
        OK(cu(cuMemAlloc_v2)(&a, N * 4));
        OK(cu(cuMemAlloc_v2)(&b, N * 4));
        OK(cu(cuMemcpyHtoD_v2)(a, from, N * 4));
        OK(cu(cuMemcpyDtoD_v2)(b, a, N * 4));
        OK(cu(cuMemcpyDtoH_v2)(to, b, N * 4));
        CHECK(memcmp(from, to, N * 4) == 0);
        memset(to, 0, N * 4);
        OK(cu(cuMemcpy)((CUdeviceptr)(uintptr_t)to, a, N * 4));
        CHECK(memcmp(from, to, N * 4) == 0);
        OK(cu(cuMemcpyHtoD_v2)(a, from, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemcpyHtoD_v2)(a + 4, from, N * 4));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemcpyDtoH_v2)(to, 0x1000, 16));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemcpyDtoD_v2)(b, a + 4 * N, 4));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemcpyHtoD_v2)(a, NULL, 16));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemcpyHtoD_v2)(0, from, 16));
        OK(cu(cuMemcpyPeer)(b, context, a, context, N * 4));
        OK(cu(cuMemFree_v2)(a));
        OK(cu(cuMemFree_v2)(b));
        free(from);
        free(to);
}

static void fills(void)
{
        uint16_t halves[64];
        uint8_t bytes[256];
        CUdeviceptr p;

        OK(cu(cuMemAlloc_v2)(&p, 4096));
        OK(cu(cuMemsetD8_v2)(p, 0xaa, 256));
        OK(cu(cuMemcpyDtoH_v2)(bytes, p, 256));
        CHECK(bytes[0] == 0xaa && bytes[255] == 0xaa);
        OK(cu(cuMemsetD16_v2)(p, 0x1234, 64));
        OK(cu(cuMemcpyDtoH_v2)(halves, p, 128));
        CHECK(halves[0] == 0x1234 && halves[63] == 0x1234);
        OK(cu(cuMemsetD32_v2)(p, 0xdeadbeef, 16));
        CHECK(words_are(p, 16, 0xdeadbeef));
        OK(cu(cuMemsetD8_v2)(p, 1, 4096));
        OK(cu(cuMemsetD2D8_v2)(p, 64, 2, 16, 4));
        OK(cu(cuMemcpyDtoH_v2)(bytes, p, 256));
        CHECK(bytes[0] == 2 && bytes[15] == 2 && bytes[16] == 1 && bytes[64 * 3 + 15] == 2);
        OK(cu(cuMemsetD2D32_v2)(p, 64, 3, 4, 2));
        OK(cu(cuMemsetD8_v2)(p, 1, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemsetD32_v2)(p + 2, 1, 4));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemsetD16_v2)(p + 1, 1, 4));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemsetD8_v2)(p, 1, 4097));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemsetD8_v2)(0, 1, 4));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemsetD2D8_v2)(p, 8, 2, 16, 4));
        OK(cu(cuMemFree_v2)(p));
}

static void copies_2d(void)
{
        uint8_t host[32 * 64], back[32 * 64];
        CUDA_MEMCPY2D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                .srcHost = host,
                .srcPitch = 64,
                .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                .WidthInBytes = 40,
                .Height = 32};
        CUdeviceptr p;
        size_t pitch;

        for (unsigned i = 0; i < sizeof(host); i++)
                host[i] = (uint8_t)(i * 7);
        memset(back, 0, sizeof(back));
        OK(cu(cuMemAllocPitch_v2)(&p, &pitch, 40, 32, 4));
        copy.dstDevice = p;
        copy.dstPitch = pitch;
        OK(cu(cuMemcpy2D_v2)(&copy));
        copy = (CUDA_MEMCPY2D){.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                .srcDevice = p,
                .srcPitch = pitch,
                .srcXInBytes = 8,
                .srcY = 1,
                .dstMemoryType = CU_MEMORYTYPE_HOST,
                .dstHost = back,
                .dstPitch = 64,
                .dstXInBytes = 4,
                .dstY = 2,
                .WidthInBytes = 16,
                .Height = 3};
        OK(cu(cuMemcpy2DUnaligned_v2)(&copy));
        for (unsigned y = 0; y < 3; y++)
                CHECK(memcmp(back + (y + 2) * 64 + 4, host + (y + 1) * 64 + 8, 16) == 0);
        CHECK(back[0] == 0 && back[64 * 5 + 4] == 0);
        copy.dstPitch = 8;
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemcpy2D_v2)(&copy));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemcpy2D_v2)(NULL));
        OK(cu(cuMemFree_v2)(p));
}

static void copies_3d(void)
{
        enum { W = 16, H = 8, D = 4 };
        uint8_t host[W * H * D], back[W * H * D];
        CUDA_MEMCPY3D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                .srcHost = host,
                .srcPitch = W,
                .srcHeight = H,
                .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                .dstPitch = 32,
                .dstHeight = H,
                .WidthInBytes = W,
                .Height = H,
                .Depth = D};
        CUdeviceptr p;

        for (unsigned i = 0; i < sizeof(host); i++)
                host[i] = (uint8_t)(i * 11);
        OK(cu(cuMemAlloc_v2)(&p, 32 * H * D));
        copy.dstDevice = p;
        OK(cu(cuMemcpy3D_v2)(&copy));
        memset(back, 0, sizeof(back));
        copy = (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                .srcDevice = p,
                .srcPitch = 32,
                .srcHeight = H,
                .dstMemoryType = CU_MEMORYTYPE_HOST,
                .dstHost = back,
                .dstPitch = W,
                .dstHeight = H,
                .WidthInBytes = W,
                .Height = H,
                .Depth = D};
        OK(cu(cuMemcpy3D_v2)(&copy));
        CHECK(memcmp(host, back, sizeof(host)) == 0);
        OK(cu(cuMemFree_v2)(p));
}

static void arrays(void)
{
        CUDA_ARRAY_DESCRIPTOR shape = {64, 16, CU_AD_FORMAT_FLOAT, 1}, seen;
        float host[64 * 16], back[64 * 16];
        CUDA_MEMCPY2D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                .srcHost = host,
                .srcPitch = 256,
                .dstMemoryType = CU_MEMORYTYPE_ARRAY,
                .WidthInBytes = 256,
                .Height = 16};
        CUarray array;

        for (int i = 0; i < 64 * 16; i++)
                host[i] = (float)i;
        OK(cu(cuArrayCreate_v2)(&array, &shape));
        OK(cu(cuArrayGetDescriptor_v2)(&seen, array));
        CHECK(seen.Width == 64 && seen.Height == 16 && seen.Format == CU_AD_FORMAT_FLOAT);
        copy.dstArray = array;
        OK(cu(cuMemcpy2D_v2)(&copy));
        copy = (CUDA_MEMCPY2D){.srcMemoryType = CU_MEMORYTYPE_ARRAY,
                .srcArray = array,
                .dstMemoryType = CU_MEMORYTYPE_HOST,
                .dstHost = back,
                .dstPitch = 256,
                .WidthInBytes = 256,
                .Height = 16};
        OK(cu(cuMemcpy2D_v2)(&copy));
        CHECK(memcmp(host, back, sizeof(host)) == 0);
        copy.WidthInBytes = 260;
        copy.dstPitch = 260;
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuMemcpy2D_v2)(&copy));
        OK(cu(cuArrayDestroy)(array));
        shape.NumChannels = 3;
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuArrayCreate_v2)(&array, &shape));
        shape.NumChannels = 1;
        shape.Width = 0;
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuArrayCreate_v2)(&array, &shape));
}

static void arrays_1d(void)
{
        CUDA_ARRAY_DESCRIPTOR shape = {256, 0, CU_AD_FORMAT_UNSIGNED_INT8, 4};
        uint8_t host[1024], back[1024];
        CUarray array;
        CUdeviceptr p;

        for (int i = 0; i < 1024; i++)
                host[i] = (uint8_t)(i ^ i >> 3);
        OK(cu(cuArrayCreate_v2)(&array, &shape));
        OK(cu(cuMemAlloc_v2)(&p, 1024));
        OK(cu(cuMemcpyHtoA_v2)(array, 0, host, 1024));
        OK(cu(cuMemcpyAtoD_v2)(p, array, 0, 1024));
        OK(cu(cuMemsetD8_v2)(p, 0, 16));
        OK(cu(cuMemcpyDtoA_v2)(array, 512, p, 16));
        OK(cu(cuMemcpyAtoH_v2)(back, array, 0, 1024));
        memset(host + 512, 0, 16);
        CHECK(memcmp(host, back, 1024) == 0);
        OK(cu(cuMemFree_v2)(p));
        OK(cu(cuArrayDestroy)(array));
}

const struct test_case memory_cases[] = {
        {"allocate", allocate, false},
        {"free_twice", free_twice, false},
        {"too_much", too_much, false},
        {"small_blocks", small_blocks, false},
        {"pitched", pitched, false},
        {"host_memory", host_memory, false},
        {"managed", managed, false},
        {"pointer_attributes", pointer_attributes, false},
        {"copies", copies, false},
        {"fills", fills, false},
        {"copies_2d", copies_2d, false},
        {"copies_3d", copies_3d, false},
        {"arrays", arrays, false},
        {"arrays_1d", arrays_1d, false},
        {NULL, NULL, false},
};
