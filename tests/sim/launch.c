/* SPDX-License-Identifier: Apache-2.0 */
/* What execution takes of the device, by NVML's count, and how long kernels last. */
#include "check.h"

#define HEAD ".version 6.0\n.target sm_52\n.address_size 64\n"

static uint64_t held(void)
{
        return (uint64_t)nvml_process(0, getpid());
}

static void test_modules(void)
{
        static const char big[] = HEAD ".global .align 8 .b8 big[50000000];\n.entry a() { ret; }\n";
        static const char small[] = HEAD ".entry a() { ret; }\n";
        CUmodule first, second;
        uint64_t before = held();

        OK(cuModuleLoadData(&first, small));
        CHECK_EQ(held(), before); /* the context has room for some code */
        OK(cuModuleLoadData(&second, big));
        CHECK_EQ(held() - before, 48 * MIB);
        OK(cuModuleUnload(second));
        CHECK_EQ(held(), before);
        OK(cuModuleUnload(first));
        CHECK_EQ(held(), before);
}

static void test_local(void)
{
        static const char text[] =
                HEAD ".entry cleave_empty() { .local .b8 frame[65536]; ret; }\n"
                     ".entry cleave_spin(.param .u64 ns) { .local .b8 frame[600]; ret; }\n";
        unsigned long long none = 0;
        void *params[] = {&none};
        CUfunction large, small;
        CUmodule module;
        uint64_t before;

        OK(cuModuleLoadData(&module, text));
        OK(cuModuleGetFunction(&large, module, "cleave_empty"));
        OK(cuModuleGetFunction(&small, module, "cleave_spin"));
        before = held();
        /* what the context has for stacks is enough */
        OK(cuLaunchKernel(small, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
        OK(cuCtxSynchronize());
        CHECK_EQ(held(), before);
        OK(cuLaunchKernel(large, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
        CHECK_EQ(held() - before, 132ull * 2048 * (65536 - 1024));
        OK(cuLaunchKernel(large, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
        OK(cuCtxSynchronize());
        CHECK_EQ(held() - before, 132ull * 2048 * (65536 - 1024));
        OK(cuModuleUnload(module));
}

/* No room for local memory: the launch is refused and nothing else has changed. */
static void test_local_refused(void)
{
        static const char text[] =
                HEAD ".entry cleave_empty() { .local .b8 frame[524288]; ret; }\n";
        CUfunction function;
        CUmodule module;
        uint64_t before;

        OK(cuModuleLoadData(&module, text));
        OK(cuModuleGetFunction(&function, module, "cleave_empty"));
        before = held();
        CHECK_EQ(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL),
                CUDA_ERROR_OUT_OF_MEMORY);
        CHECK_EQ(held(), before);
        OK(cuCtxSynchronize());
        OK(cuModuleUnload(module));
}

static void test_graph_memory(void)
{
        CUDA_MEM_ALLOC_NODE_PARAMS params = {
                .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}},
                .bytesize = 50 * MIB,
        };
        CUgraphNode allocated, freed;
        CUgraphExec exec;
        CUgraph graph;
        uint64_t before = held();

        OK(cuGraphCreate(&graph, 0));
        OK(cuGraphAddMemAllocNode(&allocated, graph, NULL, 0, &params));
        OK(cuGraphAddMemFreeNode(&freed, graph, &allocated, 1, params.dptr));
        OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
        for (int i = 0; i < 3; i++)
                OK(cuGraphLaunch(exec, NULL));
        OK(cuCtxSynchronize());
        CHECK_EQ(held() - before, 64 * MIB);
        OK(cuGraphExecDestroy(exec));
        OK(cuGraphDestroy(graph));
        OK(cuCtxSynchronize());
        CHECK_EQ(held() - before, 64 * MIB);
        OK(cuDeviceGraphMemTrim(0));
        CHECK_EQ(held(), before);
}

static void test_unknown_kernel(void)
{
        static const char text[] = HEAD ".entry of_somebody(.param .u64 p) { ret; }\n";
        unsigned long long p = 0;
        void *params[] = {&p};
        char path[128], said[256] = "";
        CUfunction function;
        CUmodule module;
        FILE *file;

        snprintf(path, sizeof(path), "%s/said", check_directory);
        setenv("CLEAVE_DEBUG", path, 1);
        OK(cuModuleLoadData(&module, text));
        OK(cuModuleGetFunction(&function, module, "of_somebody"));
        CHECK_EQ(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL),
                CUDA_ERROR_NOT_SUPPORTED);
        unsetenv("CLEAVE_DEBUG");
        file = fopen(path, "re");
        CHECK(file);
        CHECK(fgets(said, sizeof(said), file));
        CHECK(strstr(said, "'of_somebody'"));
        fclose(file);
        OK(cuCtxSynchronize());
        OK(cuModuleUnload(module));
}

/* A kernel occupies its stream, and no other, for as long as it lasts. */
static void test_duration(void)
{
        static const char text[] = HEAD ".entry cleave_spin(.param .u64 ns) { ret; }\n";
        unsigned long long ns = 150000000;
        void *params[] = {&ns};
        CUstream stream[4];
        CUfunction spin;
        CUmodule module;
        double begin;

        OK(cuModuleLoadData(&module, text));
        OK(cuModuleGetFunction(&spin, module, "cleave_spin"));
        begin = seconds();
        for (int i = 0; i < 4; i++) {
                OK(cuStreamCreate(&stream[i], CU_STREAM_NON_BLOCKING));
                OK(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream[i], params, NULL));
        }
        CHECK(seconds() - begin < 0.15);
        OK(cuCtxSynchronize());
        CHECK(seconds() - begin >= 0.15);
        CHECK(seconds() - begin < 0.55);
        begin = seconds();
        for (int i = 0; i < 2; i++)
                OK(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream[0], params, NULL));
        OK(cuCtxSynchronize());
        CHECK(seconds() - begin >= 0.3);
        for (int i = 0; i < 4; i++)
                OK(cuStreamDestroy_v2(stream[i]));
        OK(cuModuleUnload(module));
}

int main(void)
{
        CUcontext context;

        machine("h100");
        OK(cuInit(0));
        OK(cuCtxCreate_v2(&context, 0, 0));
        test_modules();
        test_graph_memory();
        test_unknown_kernel();
        test_duration();
        test_local();
        test_local_refused();
        OK(cuCtxDestroy_v2(context));
        CHECK_EQ(nvml_process(0, getpid()), -1);
        return 0;
}
