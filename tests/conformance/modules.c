/* SPDX-License-Identifier: Apache-2.0 */
/* Modules, libraries, kernels and their results. */
#include <unistd.h>

#include "conformance.h"

static void module_life(void)
{
        CUmodule module = load_kernels(), owner;
        CUfunction function, list[64];
        const char *name = NULL;
        unsigned count = 0;

        OK(cu(cuModuleGetFunction)(&function, module, "cleave_fill_u32"));
        OK(cu(cuFuncGetModule)(&owner, function));
        CHECK(owner == module);
        OK(cu(cuFuncGetName)(&name, function));
        CHECK(strcmp(name, "cleave_fill_u32") == 0);
        OK(cu(cuModuleGetFunctionCount)(&count, module));
        CHECK(count == 16);
        OK(cu(cuModuleEnumerateFunctions)(list, count, module));
        IS(CUDA_ERROR_NOT_FOUND, cu(cuModuleGetFunction)(&function, module, "nothing"));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuModuleGetFunction)(NULL, module, "cleave_empty"));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuModuleGetFunction)(&function, module, NULL));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuModuleLoadData)(NULL, kernels_ptx));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuModuleLoadData)(&module, NULL));
        IS(CUDA_ERROR_FILE_NOT_FOUND, cu(cuModuleLoad)(&owner, "/nonexistent.ptx"));
        IS(CUDA_ERROR_INVALID_HANDLE, cu(cuModuleGetFunction)(&function, NULL, "cleave_empty"));
        OK(cu(cuModuleUnload)(module));
        IS(CUDA_ERROR_INVALID_HANDLE, cu(cuModuleUnload)(NULL));
}

static void bad_images(void)
{
        static const char newer[] = ".version 99.0\n.target sm_52\n.address_size 64\n";
        static const char target[] = ".version 6.0\n.target sm_999\n.address_size 64\n";
        static const char body[] = ".version 6.0\n.target sm_52\n.address_size 64\n"
                                   ".visible .entry a() { bogus.u32 %r1, 2; ret; }\n";
        static const char open[] = ".version 6.0\n.target sm_52\n.address_size 64\n"
                                   ".visible .entry a() { ret;\n";
        char log[1024] = "";
        CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
        void *values[] = {log, (void *)sizeof(log)};
        CUmodule module;

        IS(CUDA_ERROR_INVALID_IMAGE, cu(cuModuleLoadData)(&module, "what is this\n"));
        PROBE(CUDA_ERROR_INVALID_IMAGE, cu(cuModuleLoadData)(&module, ""));
        PROBE(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, cu(cuModuleLoadData)(&module, newer));
        PROBE(CUDA_ERROR_INVALID_PTX, cu(cuModuleLoadData)(&module, target));
        IS(CUDA_ERROR_INVALID_PTX, cu(cuModuleLoadDataEx)(&module, open, 2, options, values));
        CHECK(strlen(log) > 0);
        log[0] = 0;
        values[1] = (void *)sizeof(log);
        IS(CUDA_ERROR_INVALID_PTX, cu(cuModuleLoadDataEx)(&module, body, 2, options, values));
        CHECK(strstr(log, "line 4") != NULL);
        CHECK(strlen(log) == (size_t)values[1]);
}

static void module_variables(void)
{
        CUmodule module = load_kernels();
        unsigned long long words[4];
        CUdeviceptr p;
        size_t size = 0;

        OK(cu(cuModuleGetGlobal_v2)(&p, &size, module, "cleave_words"));
        CHECK(size == 32);
        OK(cu(cuMemcpyDtoH_v2)(words, p, 32));
        CHECK(words[0] == 1 && words[3] == 4);
        OK(cu(cuModuleGetGlobal_v2)(&p, &size, module, "cleave_counter"));
        CHECK(size == 4 && words_are(p, 1, 7));
        OK(cu(cuMemsetD32_v2)(p, 100, 1));
        CHECK(words_are(p, 1, 100));
        OK(cu(cuModuleGetGlobal_v2)(&p, NULL, module, "cleave_room"));
        CHECK(words_are(p, 1024, 0));
        OK(cu(cuModuleGetGlobal_v2)(NULL, &size, module, "cleave_room"));
        CHECK(size == 4096);
        OK(cu(cuModuleGetGlobal_v2)(&p, &size, module, "cleave_constant"));
        CHECK(size == 4 && words_are(p, 1, 42));
        IS(CUDA_ERROR_NOT_FOUND, cu(cuModuleGetGlobal_v2)(&p, &size, module, "nothing"));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuModuleGetGlobal_v2)(&p, &size, module, NULL));
        OK(cu(cuMemFree_v2)(p)); /* taken without complaint */
        /* each module has its own */
        OK(cu(cuModuleGetGlobal_v2)(&p, &size, load_kernels(), "cleave_counter"));
        CHECK(words_are(p, 1, 7));
}

static void module_memory(void)
{
        static const char ptx[] = ".version 6.0\n.target sm_52\n.address_size 64\n"
                                  ".visible .global .align 8 .b8 big[50000000];\n"
                                  ".visible .entry a() { ret; }\n";
        CUmodule module;
        size_t before = free_memory(), taken;

        OK(cu(cuModuleLoadData)(&module, ptx));
        taken = before - free_memory();
        CHECK(taken == 48 << 20);
        OK(cu(cuModuleUnload)(module));
        CHECK(free_memory() == before);
}

static void libraries(void)
{
        CUdeviceptr p = words_new(100, 0), global;
        unsigned long long count = 100;
        uint32_t value = 6;
        void *params[] = {&p, &value, &count};
        size_t size = 0, offset = 0;
        const char *name = NULL;
        CUfunction function;
        CUlibrary library;
        CUmodule module;
        CUkernel kern;
        unsigned n = 0;

        OK(cu(cuLibraryLoadData)(&library, kernels_ptx, NULL, NULL, 0, NULL, NULL, 0));
        OK(cu(cuLibraryGetKernelCount)(&n, library));
        CHECK(n == 16);
        OK(cu(cuLibraryGetKernel)(&kern, library, "cleave_fill_u32"));
        OK(cu(cuKernelGetName)(&name, kern));
        CHECK(strcmp(name, "cleave_fill_u32") == 0);
        OK(cu(cuKernelGetParamInfo)(kern, 1, &offset, &size));
        CHECK(offset == 8 && size == 4);
        OK(cu(cuLaunchKernel)((CUfunction)kern, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
        CHECK(words_are(p, 100, 6));
        OK(cu(cuKernelGetFunction)(&function, kern));
        value = 8;
        OK(cu(cuLaunchKernel)(function, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
        CHECK(words_are(p, 100, 8));
        OK(cu(cuLibraryGetModule)(&module, library));
        OK(cu(cuLibraryGetGlobal)(&global, &size, library, "cleave_counter"));
        CHECK(size == 4 && words_are(global, 1, 7));
        IS(CUDA_ERROR_NOT_FOUND, cu(cuLibraryGetKernel)(&kern, library, "nothing"));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuLibraryGetKernel)(NULL, library, "cleave_empty"));
        OK(cu(cuLibraryUnload)(library));
}

static void function_attributes(void)
{
        CUmodule module = load_kernels();
        CUfunction sum = kernel(module, "cleave_block_sum"), local = kernel(module, "cleave_local");
        CUfunction params = kernel(module, "cleave_params");
        size_t offset = 99, size = 99;
        int value = -1;

        OK(cu(cuFuncGetAttribute)(&value, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, sum));
        CHECK(value == 128);
        OK(cu(cuFuncGetAttribute)(&value, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, local));
        CHECK(value == 65536);
        OK(cu(cuFuncGetAttribute)(&value, CU_FUNC_ATTRIBUTE_NUM_REGS, sum));
        CHECK(value > 0);
        OK(cu(cuFuncGetAttribute)(&value, CU_FUNC_ATTRIBUTE_PTX_VERSION, sum));
        PROBE_VALUE(52, value);
        OK(cu(cuFuncGetAttribute)(&value, CU_FUNC_ATTRIBUTE_BINARY_VERSION, sum));
        PROBE_VALUE(90, value);
        OK(cu(cuFuncGetAttribute)(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, sum));
        PROBE_VALUE(48 << 10, value);
        OK(cu(cuFuncGetAttribute)(&value, CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES, sum));
        PROBE_VALUE(4, value);
        OK(cu(cuFuncSetAttribute)(sum, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 60 << 10));
        OK(cu(cuFuncGetAttribute)(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, sum));
        CHECK(value == 60 << 10);
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuFuncSetAttribute)(
                        sum, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1 << 30));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuFuncGetAttribute)(&value, (CUfunction_attribute)99, sum));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuFuncSetAttribute)(sum, CU_FUNC_ATTRIBUTE_NUM_REGS, 5));
        OK(cu(cuFuncGetParamInfo)(params, 1, &offset, &size));
        CHECK(offset == 8 && size == 24);
        OK(cu(cuFuncGetParamInfo)(params, 2, &offset, &size));
        CHECK(offset == 32 && size == 1);
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuFuncGetParamInfo)(params, 3, &offset, &size));
}

static void arithmetic(void)
{
        enum { N = 4096 };
        CUmodule module = load_kernels();
        float *host = malloc(3 * N * 4), a = 2.5f;
        CUdeviceptr p;
        CUdeviceptr x, y, z;
        unsigned long long n = N, sum, expected = 0, *words = (unsigned long long *)host;

        OK(cu(cuMemAlloc_v2)(&p, 3 * N * 4));
        x = p;
        y = p + N * 4;
        z = p + 2 * N * 4;
        for (int i = 0; i < 2 * N; i++)
                host[i] = (float)i / 7;
        OK(cu(cuMemcpyHtoD_v2)(p, host, 2 * N * 4));
        {
                void *params[] = {&z, &x, &y, &n};

                OK(cu(cuLaunchKernel)(kernel(module, "cleave_add_f32"), 8, 1, 1, 128, 1, 1, 0, NULL,
                        params, NULL));
        }
        {
                void *params[] = {&z, &x, &a, &n};

                OK(cu(cuLaunchKernel)(kernel(module, "cleave_saxpy_f32"), 3, 1, 1, 96, 1, 1, 0,
                        NULL, params, NULL));
        }
        OK(cu(cuMemcpyDtoH_v2)(host + 2 * N, z, N * 4));
        for (int i = 0; i < N; i++)
                CHECK(host[2 * N + i] == __builtin_fmaf(a, host[i], host[i] + host[N + i]));
        OK(cu(cuMemsetD8_v2)(z, 0, 16));
        n = N / 2;
        {
                void *params[] = {&z, &x, &n};

                OK(cu(cuLaunchKernel)(kernel(module, "cleave_checksum_u64"), 4, 1, 1, 64, 1, 1, 0,
                        NULL, params, NULL));
        }
        OK(cu(cuMemcpyDtoH_v2)(&sum, z, 8));
        for (unsigned long long i = 0; i < n; i++)
                expected += words[i] * (2 * i + 1);
        CHECK(sum == expected);
        n = 1001;
        {
                void *params[] = {&y, &x, &n};

                OK(cu(cuLaunchKernel)(kernel(module, "cleave_copy_u8"), 2, 1, 1, 64, 1, 1, 0, NULL,
                        params, NULL));
        }
        OK(cu(cuMemcpyDtoH_v2)(host + N, y, 1004));
        CHECK(memcmp(host, host + N, 1001) == 0);
        free(host);
}

static void other_kernels(void)
{
        struct {
                uint8_t a;
                uint64_t b;
                uint16_t c;
        } packed = {200, 70000, 60000};
        CUmodule module = load_kernels();
        CUdeviceptr p = words_new(1024, 0);
        unsigned long long bytes = 4096, stride = 64, clock[2];
        uint32_t value = 5, seen[1024], seed = 1000;
        uint8_t d = 250;
        void *touch[] = {&p, &bytes, &stride, &value}, *one[] = {&p},
             *packing[] = {&p, &packed, &d};
        void *local[] = {&p, &seed};

        OK(cu(cuLaunchKernel)(
                kernel(module, "cleave_touch"), 2, 1, 1, 8, 1, 1, 0, NULL, touch, NULL));
        OK(cu(cuMemcpyDtoH_v2)(seen, p, 4096));
        for (int i = 0; i < 1024; i++)
                CHECK(seen[i] == (i % 16 ? 0u : 5u));
        OK(cu(cuLaunchKernel)(
                kernel(module, "cleave_block_sum"), 3, 1, 1, 100, 1, 1, 400, NULL, one, NULL));
        CHECK(words_are(p, 3, 4950));
        OK(launch_one(kernel(module, "cleave_params"), NULL, packing));
        CHECK(words_are(p, 1, 200 + 70000 + 60000 + 250));
        OK(cu(cuLaunchKernel)(
                kernel(module, "cleave_local"), 2, 1, 1, 32, 1, 1, 0, NULL, local, NULL));
        OK(cu(cuMemcpyDtoH_v2)(seen, p, 256));
        for (uint32_t i = 0; i < 64; i++)
                CHECK(seen[i] == 1000 + i);
        OK(launch_one(kernel(module, "cleave_store_clock"), NULL, one));
        OK(cu(cuMemcpyDtoH_v2)(&clock[0], p, 8));
        OK(launch_one(kernel(module, "cleave_store_clock"), NULL, one));
        OK(cu(cuMemcpyDtoH_v2)(&clock[1], p, 8));
        CHECK(clock[1] >= clock[0]);
}

/* Local memory is taken for all threads that fit on the device, at the first launch. */
static void local_memory(void)
{
        CUmodule module = load_kernels();
        CUdeviceptr p = words_new(64, 0);
        uint32_t seed = 2;
        void *params[] = {&p, &seed};
        size_t before = free_memory(), taken;
        int sms, threads;

        OK(cu(cuDeviceGetAttribute)(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
        OK(cu(cuDeviceGetAttribute)(
                &threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, device));
        OK(launch_one(kernel(module, "cleave_local"), NULL, params));
        OK(cu(cuCtxSynchronize)());
        taken = before - free_memory();
        CHECK(taken ==
                (size_t)sms * (size_t)threads * (65536 - 1024)); /* 1 KiB there was already */
        OK(launch_one(kernel(module, "cleave_local"), NULL, params));
        OK(cu(cuCtxSynchronize)());
        CHECK(before - free_memory() == taken);
}

static void launch_errors(void)
{
        CUmodule module = load_kernels();
        CUfunction empty = kernel(module, "cleave_empty"), sum = kernel(module, "cleave_block_sum");
        CUfunction fill = kernel(module, "cleave_fill_u32");
        CUdeviceptr p = words_new(16, 0);
        unsigned long long count = 16;
        uint32_t value = 1;
        void *params[] = {&p, &value, &count}, *one[] = {&p};
        size_t size = 24;
        char buffer[24];
        void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, buffer, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                CU_LAUNCH_PARAM_END};

        memcpy(buffer, &p, 8);
        memcpy(buffer + 8, &value, 4);
        memcpy(buffer + 16, &count, 8);
        OK(cu(cuLaunchKernel)(fill, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, extra));
        CHECK(words_are(p, 16, 1));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuLaunchKernel)(fill, 1, 1, 1, 32, 1, 1, 0, NULL, params, extra));
        PROBE(CUDA_ERROR_INVALID_VALUE,
                cu(cuLaunchKernel)(fill, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuLaunchKernel)(empty, 0, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuLaunchKernel)(empty, 1, 1, 1, 0, 1, 1, 0, NULL, NULL, NULL));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuLaunchKernel)(empty, 1, 1, 1, 1025, 1, 1, 0, NULL, NULL, NULL));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuLaunchKernel)(empty, 1, 1, 1, 64, 64, 1, 0, NULL, NULL, NULL));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuLaunchKernel)(empty, 1, 65536, 1, 1, 1, 1, 0, NULL, NULL, NULL));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuLaunchKernel)(empty, 1, 1, 1, 1, 1, 65, 0, NULL, NULL, NULL));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuLaunchKernel)(empty, 1, 1, 1, 1, 1, 1, 1 << 20, NULL, NULL, NULL));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuLaunchKernel)(empty, 1, 1, 1, 1, 1, 1, 50 << 10, NULL, NULL, NULL));
        PROBE(CUDA_ERROR_INVALID_VALUE,
                cu(cuLaunchKernel)(sum, 1, 1, 1, 256, 1, 1, 1024, NULL, one, NULL));
        IS(CUDA_ERROR_INVALID_HANDLE,
                cu(cuLaunchKernel)(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
        OK(cu(cuCtxSynchronize)());
}

static void illegal_address(void)
{
        CUmodule module = load_kernels();
        CUdeviceptr bad = 0x7000, p = words_new(16, 0);
        unsigned long long count = 16;
        uint32_t value = 1;
        void *params[] = {&bad, &value, &count};
        CUstream stream;
        CUcontext current = NULL;

        OK(cu(cuStreamCreate)(&stream, 0));
        OK(launch_one(kernel(module, "cleave_fill_u32"), stream, params));
        IS(CUDA_ERROR_ILLEGAL_ADDRESS, cu(cuStreamSynchronize)(stream));
        IS(CUDA_ERROR_ILLEGAL_ADDRESS, cu(cuCtxSynchronize)());
        IS(CUDA_ERROR_ILLEGAL_ADDRESS, cu(cuMemAlloc_v2)(&bad, 4096));
        IS(CUDA_ERROR_ILLEGAL_ADDRESS, cu(cuMemFree_v2)(p));
        PROBE(CUDA_ERROR_ILLEGAL_ADDRESS, cu(cuStreamQuery)(NULL));
        PROBE(CUDA_ERROR_ILLEGAL_ADDRESS, cu(cuStreamDestroy_v2)(stream));
        OK(cu(cuCtxGetCurrent)(&current));
        CHECK(current == context);
        PROBE(CUDA_SUCCESS, cu(cuDevicePrimaryCtxReset_v2)(device));
}

static void launch_ex(void)
{
        CUmodule module = load_kernels();
        CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE};
        CUlaunchConfig config = {1, 1, 1, 32, 1, 1, 0, NULL, &attribute, 1};
        CUdeviceptr p = words_new(64, 0);
        unsigned long long count = 64;
        uint32_t value = 3;
        void *params[] = {&p, &value, &count};
        CUfunction fill = kernel(module, "cleave_fill_u32");

        attribute.value.cooperative = 1;
        OK(cu(cuLaunchKernelEx)(&config, fill, params, NULL));
        CHECK(words_are(p, 64, 3));
        OK(cu(cuLaunchCooperativeKernel)(fill, 2, 1, 1, 32, 1, 1, 0, NULL, params));
        IS(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
                cu(cuLaunchCooperativeKernel)(fill, 1 << 20, 1, 1, 1024, 1, 1, 0, NULL, params));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuLaunchKernelEx)(NULL, fill, params, NULL));
        OK(cu(cuCtxSynchronize)());
}

static void old_launch(void)
{
        CUfunction fill = kernel(load_kernels(), "cleave_fill_u32");
        CUdeviceptr p = words_new(64, 0);
        unsigned long long count = 64;

        OK(cu(cuFuncSetBlockShape)(fill, 16, 1, 1));
        OK(cu(cuParamSetSize)(fill, 24));
        OK(cu(cuParamSetv)(fill, 0, &p, 8));
        OK(cu(cuParamSeti)(fill, 8, 12));
        OK(cu(cuParamSetv)(fill, 16, &count, 8));
        OK(cu(cuLaunchGrid)(fill, 2, 1));
        CHECK(words_are(p, 64, 12));
        OK(cu(cuParamSeti)(fill, 8, 13));
        OK(cu(cuLaunch)(fill));
        CHECK(words_are(p, 64, 13));
        PROBE(CUDA_ERROR_INVALID_VALUE, cu(cuFuncSetBlockShape)(fill, 0, 1, 1));
}

static void occupancy(void)
{
        CUmodule module = load_kernels();
        CUfunction empty = kernel(module, "cleave_empty"), sum = kernel(module, "cleave_block_sum");
        int blocks = -1, grid = 0, block = 0, sms;
        size_t bytes = 0;

        OK(cu(cuDeviceGetAttribute)(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
        OK(cu(cuOccupancyMaxActiveBlocksPerMultiprocessor)(&blocks, empty, 1024, 0));
        PROBE_VALUE(2, blocks);
        OK(cu(cuOccupancyMaxActiveBlocksPerMultiprocessor)(&blocks, empty, 32, 0));
        PROBE_VALUE(32, blocks);
        OK(cu(cuOccupancyMaxActiveBlocksPerMultiprocessor)(&blocks, empty, 32, 40 << 10));
        PROBE_VALUE(5, blocks);
        OK(cu(cuOccupancyMaxActiveBlocksPerMultiprocessor)(&blocks, sum, 256, 0));
        CHECK(blocks == 8); /* its own limit of 128 threads is not asked */
        OK(cu(cuOccupancyMaxPotentialBlockSize)(&grid, &block, empty, NULL, 0, 0));
        CHECK(block == 1024 && grid >= sms);
        OK(cu(cuOccupancyAvailableDynamicSMemPerBlock)(&bytes, empty, 2, 128));
        CHECK(bytes == 48 << 10); /* no more than the kernel may have */
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuOccupancyMaxActiveBlocksPerMultiprocessor)(NULL, empty, 32, 0));
        IS(CUDA_ERROR_INVALID_VALUE,
                cu(cuOccupancyMaxActiveBlocksPerMultiprocessor)(&blocks, empty, 0, 0));
}

static void linker(void)
{
        CUlinkState state;
        CUmodule module;
        CUfunction function;
        void *image;
        size_t size = 0;

        OK(cu(cuLinkCreate_v2)(0, NULL, NULL, &state));
        OK(cu(cuLinkAddData_v2)(state, CU_JIT_INPUT_PTX, (void *)kernels_ptx,
                strlen(kernels_ptx) + 1, "kernels", 0, NULL, NULL));
        OK(cu(cuLinkComplete)(state, &image, &size));
        CHECK(size > 0);
        OK(cu(cuModuleLoadData)(&module, image));
        OK(cu(cuLinkDestroy)(state));
        OK(cu(cuModuleGetFunction)(&function, module, "cleave_empty"));
        OK(launch_one(function, NULL, NULL));
        OK(cu(cuCtxSynchronize)());
}

const struct test_case module_cases[] = {
        {"module_life", module_life, false},
        {"bad_images", bad_images, false},
        {"module_variables", module_variables, false},
        {"module_memory", module_memory, false},
        {"libraries", libraries, false},
        {"function_attributes", function_attributes, false},
        {"arithmetic", arithmetic, false},
        {"other_kernels", other_kernels, false},
        {"local_memory", local_memory, false},
        {"launch_errors", launch_errors, false},
        {"illegal_address", illegal_address, false},
        {"launch_ex", launch_ex, false},
        {"old_launch", old_launch, false},
        {"occupancy", occupancy, false},
        {"linker", linker, false},
        {NULL, NULL, false},
};
