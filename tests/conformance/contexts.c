/* SPDX-License-Identifier: Apache-2.0 */
/* Initialisation, devices, contexts. */
#include <sys/wait.h>
#include <unistd.h>

#include "conformance.h"

static void before_init(void)
{
        CUdevice number;
        CUcontext current;
        CUdeviceptr pointer;
        int count, version = 0;
        const char *text;

        IS(CUDA_ERROR_NOT_INITIALIZED, cu(cuDeviceGetCount)(&count));
        IS(CUDA_ERROR_NOT_INITIALIZED, cu(cuDeviceGet)(&number, 0));
        IS(CUDA_ERROR_NOT_INITIALIZED, cu(cuCtxGetCurrent)(&current));
        IS(CUDA_ERROR_NOT_INITIALIZED, cu(cuMemAlloc_v2)(&pointer, 4096));
        OK(cu(cuDriverGetVersion)(&version));
        CHECK(version >= 11000);
        OK(cu(cuGetErrorName)(CUDA_ERROR_OUT_OF_MEMORY, &text));
        CHECK(strcmp(text, "CUDA_ERROR_OUT_OF_MEMORY") == 0);
        OK(cu(cuGetErrorString)(CUDA_ERROR_OUT_OF_MEMORY, &text));
        CHECK(strcmp(text, "out of memory") == 0);
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGetErrorName)((CUresult)12345, &text));
        CHECK(text == NULL);
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuDriverGetVersion)(NULL));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuInit)(1));
        OK(cu(cuInit)(0));
        OK(cu(cuInit)(0));
        OK(cu(cuCtxGetCurrent)(&current));
        CHECK(current == NULL);
        IS(CUDA_ERROR_INVALID_CONTEXT, cu(cuMemAlloc_v2)(&pointer, 4096));
        IS(CUDA_ERROR_INVALID_CONTEXT, cu(cuCtxSynchronize)());
}

static void devices(void)
{
        CUdevice number;
        CUuuid uuid;
        char name[64], small[4];
        size_t total;
        int count = 0, value = 0, major, minor;

        OK(cu(cuDeviceGetCount)(&count));
        CHECK(count >= 1);
        IS(CUDA_ERROR_INVALID_DEVICE, cu(cuDeviceGet)(&number, count));
        IS(CUDA_ERROR_INVALID_DEVICE, cu(cuDeviceGet)(&number, -1));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuDeviceGet)(NULL, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuDeviceGetCount)(NULL));
        OK(cu(cuDeviceGetName)(name, sizeof(name), device));
        CHECK(name[0]);
        OK(cu(cuDeviceGetName)(small, sizeof(small), device));
        CHECK(small[3] == 0 && strncmp(small, name, 3) == 0);
        OK(cu(cuDeviceTotalMem_v2)(&total, device));
        CHECK(total > 1ull << 30);
        OK(cu(cuDeviceGetUuid_v2)(&uuid, device));
        OK(cu(cuDeviceGetAttribute)(&value, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
        CHECK(value > 0);
        OK(cu(cuDeviceGetAttribute)(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, device));
        CHECK(value == 32);
        OK(cu(cuDeviceGetAttribute)(&value, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, device));
        CHECK(value == 1024);
        OK(cu(cuDeviceGetAttribute)(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
        OK(cu(cuDeviceGetAttribute)(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device));
        CHECK(major >= 5);
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuDeviceGetAttribute)(&value, (CUdevice_attribute)9999, device));
        IS(CUDA_ERROR_INVALID_DEVICE,
                cu(cuDeviceGetAttribute)(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, count));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuDeviceGetAttribute)(NULL, CU_DEVICE_ATTRIBUTE_WARP_SIZE, device));
}

/* All attributes that the simulated GPU should know. */
static void device_attributes(void)
{
        static const struct {
                CUdevice_attribute attribute;
                int least;
        } table[] = {
                {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 49152},
                {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536},
                {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 32768},
                {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 100000},
                {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
                {CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 1},
                {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
                {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
                {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
                {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 1024},
                {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
                {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
                {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1},
                {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 1 << 20},
        };

        for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
                int value = -1;

                OK(cu(cuDeviceGetAttribute)(&value, table[i].attribute, device));
                if (value < table[i].least)
                        failed(__FILE__, __LINE__, "attribute %d is %d", table[i].attribute, value);
        }
}

static void primary_context(void)
{
        CUcontext other;
        unsigned flags = 77;
        int active = 77;

        OK(cu(cuDevicePrimaryCtxGetState)(device, &flags, &active));
        CHECK(active == 1);
        OK(cu(cuDevicePrimaryCtxRetain)(&other, device));
        CHECK(other == context);
        OK(cu(cuDevicePrimaryCtxRelease_v2)(device));
        OK(cu(cuDevicePrimaryCtxGetState)(device, &flags, &active));
        CHECK(active == 1);
        OK(cu(cuDevicePrimaryCtxRelease_v2)(device));
        OK(cu(cuDevicePrimaryCtxGetState)(device, &flags, &active));
        CHECK(active == 0);
        IS(CUDA_ERROR_INVALID_CONTEXT, cu(cuDevicePrimaryCtxRelease_v2)(device));
        PROBE(CUDA_ERROR_CONTEXT_IS_DESTROYED, cu(cuCtxSynchronize)());
        IS(CUDA_ERROR_INVALID_DEVICE, cu(cuDevicePrimaryCtxRetain)(&other, 999));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuDevicePrimaryCtxRetain)(NULL, device));
        OK(cu(cuDevicePrimaryCtxRetain)(&other, device));
        PROBE_VALUE(1, other == context);
}

static void primary_reset(void)
{
        CUdeviceptr pointer;
        int active;
        unsigned flags;

        OK(cu(cuMemAlloc_v2)(&pointer, 1 << 20));
        OK(cu(cuDevicePrimaryCtxReset_v2)(device));
        OK(cu(cuDevicePrimaryCtxGetState)(device, &flags, &active));
        CHECK(active == 0);
        PROBE(CUDA_ERROR_CONTEXT_IS_DESTROYED, cu(cuMemFree_v2)(pointer));
        OK(cu(cuDevicePrimaryCtxRelease_v2)(device)); /* the reference outlives the reset */
        PROBE(CUDA_ERROR_INVALID_CONTEXT, cu(cuDevicePrimaryCtxRelease_v2)(device));
}

static void context_stack(void)
{
        CUcontext made, popped, current;
        CUdevice number = 99;

        OK(cu(cuCtxCreate_v2)(&made, 0, device));
        OK(cu(cuCtxGetCurrent)(&current));
        CHECK(current == made);
        OK(cu(cuCtxGetDevice)(&number));
        CHECK(number == device);
        OK(cu(cuCtxPushCurrent_v2)(context));
        OK(cu(cuCtxGetCurrent)(&current));
        CHECK(current == context);
        OK(cu(cuCtxPopCurrent_v2)(&popped));
        CHECK(popped == context);
        OK(cu(cuCtxPopCurrent_v2)(&popped));
        CHECK(popped == made);
        OK(cu(cuCtxGetCurrent)(&current));
        CHECK(current == context);
        OK(cu(cuCtxPopCurrent_v2)(NULL));
        OK(cu(cuCtxGetCurrent)(&current));
        CHECK(current == NULL);
        IS(CUDA_ERROR_INVALID_CONTEXT, cu(cuCtxPopCurrent_v2)(&popped));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuCtxPushCurrent_v2)(NULL));
        OK(cu(cuCtxSetCurrent)(made));
        OK(cu(cuCtxSetCurrent)(NULL));
        OK(cu(cuCtxGetCurrent)(&current));
        CHECK(current == NULL);
        OK(cu(cuCtxDestroy_v2)(made));
        PROBE(CUDA_ERROR_INVALID_VALUE, cu(cuCtxDestroy_v2)(NULL));
}

static void context_queries(void)
{
        unsigned version = 0, flags = 99;
        unsigned long long id = 0;
        size_t value = 0;
        int least = 9, greatest = 9;

        OK(cu(cuCtxGetApiVersion)(context, &version));
        CHECK(version > 3000);
        OK(cu(cuCtxGetFlags)(&flags));
        OK(cu(cuCtxGetId)(context, &id));
        CHECK(id > 0);
        OK(cu(cuCtxGetLimit)(&value, CU_LIMIT_STACK_SIZE));
        CHECK(value == 1024);
        OK(cu(cuCtxSetLimit)(CU_LIMIT_STACK_SIZE, 2048));
        OK(cu(cuCtxGetLimit)(&value, CU_LIMIT_STACK_SIZE));
        CHECK(value == 2048);
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuCtxGetLimit)(&value, (CUlimit)99));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuCtxGetLimit)(NULL, CU_LIMIT_STACK_SIZE));
        OK(cu(cuCtxGetStreamPriorityRange)(&least, &greatest));
        CHECK(least == 0 && greatest < 0);
        PROBE_VALUE(-5, greatest);
}

static void context_ends(void)
{
        CUcontext made, current;
        CUstream stream;
        CUdeviceptr pointer;
        size_t before = free_memory();

        OK(cu(cuCtxCreate_v2)(&made, 0, device));
        CHECK(free_memory() < before);
        OK(cu(cuMemAlloc_v2)(&pointer, 64 << 20));
        OK(cu(cuStreamCreate)(&stream, 0));
        OK(cu(cuCtxDestroy_v2)(made));
        OK(cu(cuCtxGetCurrent)(&current));
        PROBE_VALUE(1, current == context);
        OK(cu(cuCtxSetCurrent)(context));
        CHECK(free_memory() + (16 << 20) > before);
        PROBE(CUDA_ERROR_INVALID_VALUE, cu(cuMemFree_v2)(pointer));
}

static void forked_child(void)
{
        CUdeviceptr pointer;
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                CUresult r = cu(cuMemAlloc_v2)(&pointer, 4096);

                _exit(r == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        OK(cu(cuMemAlloc_v2)(&pointer, 4096));
}

const struct test_case context_cases[] = {
        {"before_init", before_init, true},
        {"devices", devices, false},
        {"device_attributes", device_attributes, false},
        {"primary_context", primary_context, false},
        {"primary_reset", primary_reset, false},
        {"context_stack", context_stack, false},
        {"context_queries", context_queries, false},
        {"context_ends", context_ends, false},
        {"forked_child", forked_child, false},
        {NULL, NULL, false},
};
