/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes and gives back device memory in every way there is, step by step, and compares after each
 * step what NVML counts for this process with what its tenant has been charged (by cuMemGetInfo,
 * which inside a tenant is total minus charged). Only for a tenant that this process is alone in.
 * Prints a line per step; exit status 1 if any step differs.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_api.h"
#include "nvml_api.h"

static void *cuda, *nvml;
static nvmlDevice_t device;
static int steps, differences;

static void *find(void *library, const char *name)
{
        void *address = library ? dlsym(library, name) : NULL;

        if (!address) {
                fprintf(stderr, "no %s\n", name);
                exit(3);
        }
        return address;
}

#define CU(name) ((__typeof__(&name))find(cuda, #name))
#define ML(name) ((__typeof__(&name))find(nvml, #name))

static double counted_mib(void)
{
        nvmlProcessInfo_t list[256];
        unsigned n = 256;

        if (ML(nvmlDeviceGetComputeRunningProcesses_v3)(device, &n, list) != NVML_SUCCESS)
                return -1;
        for (unsigned i = 0; i < n; i++)
                if (list[i].pid == (unsigned)getpid())
                        return (double)list[i].usedGpuMemory / 1048576;
        return 0;
}

static double charged_mib(void)
{
        size_t free_bytes, total;

        if (CU(cuMemGetInfo_v2)(&free_bytes, &total) != CUDA_SUCCESS)
                return -1;
        return (double)(total - free_bytes) / 1048576;
}

/* What is freed in a stream's order may go between the two readings: they are compared once both
 * have held still. */
static void step(const char *what, CUresult result)
{
        double counted = counted_mib(), charged = charged_mib(), counted_before, charged_before;

        do {
                counted_before = counted;
                charged_before = charged;
                counted = counted_mib();
                charged = charged_mib();
        } while (counted != counted_before || charged != charged_before);
        steps++;
        if (counted != charged)
                differences++;
        printf("%-44s result %3d  counted %10.3f MiB  charged %10.3f MiB%s\n", what, result,
                counted, charged, counted != charged ? "  DIFFERS" : "");
}

#define STEP(call) step(#call, (call))

static const char ptx[] =
        ".version 6.0\n.target sm_50\n.address_size 64\n"
        ".visible .global .align 4 .b8 table[50000000];\n"
        ".visible .entry nothing()\n{\n ret;\n}\n"
        ".visible .entry local_memory(.param .u64 p)\n{\n"
        " .local .align 8 .b8 buf[16384]; .reg .b64 r<5>; .reg .b32 x<3>;\n"
        " ld.param.u64 r1,[p]; mov.u32 x1,%tid.x; mul.wide.u32 r3,x1,4; mov.u64 r2,buf;\n"
        " add.s64 r4,r2,r3; st.local.u32 [r4],x1; ld.local.u32 x2,[r4+8];\n"
        " cvta.to.global.u64 r1,r1; st.global.u32 [r1],x2; ret;\n}\n";

int main(void)
{
        CUmemPoolProps pool_props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
        CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
        CUDA_ARRAY_DESCRIPTOR array_desc = {1000, 1000, CU_AD_FORMAT_FLOAT, 4};
        CUDA_ARRAY3D_DESCRIPTOR mip_desc = {1024, 1024, 0, CU_AD_FORMAT_FLOAT, 4, 0};
        CUDA_MEM_ALLOC_NODE_PARAMS node_params = {.bytesize = 50 << 20};
        CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE},
                .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
        CUmemGenericAllocationHandle handle;
        CUdeviceptr ptr, more[64], range;
        CUmipmappedArray mipmap;
        CUgraphNode node, free_node;
        CUgraphExec exec;
        CUfunction function;
        CUstream streams[64];
        CUcontext context, second;
        CUmemoryPool pool;
        CUmodule module;
        CUarray array;
        CUgraph graph;
        size_t pitch;
        void *args[] = {&ptr};

        cuda = dlopen("libcuda.so.1", RTLD_NOW);
        nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
        if (!cuda || !nvml || ML(nvmlInit_v2)() != NVML_SUCCESS ||
                ML(nvmlDeviceGetHandleByIndex_v2)(0, &device) != NVML_SUCCESS) {
                fprintf(stderr, "no driver\n");
                return 3;
        }
        if (CU(cuInit)(0) != CUDA_SUCCESS ||
                CU(cuDevicePrimaryCtxRetain)(&context, 0) != CUDA_SUCCESS)
                return 3;
        STEP(CU(cuCtxSetCurrent)(context));
        STEP(CU(cuMemAlloc_v2)(&ptr, 1));
        for (int i = 0; i < 64; i++)
                CU(cuMemAlloc_v2)(&more[i], 1000000);
        step("64 blocks of 10^6 bytes", 0);
        for (int i = 0; i < 64; i++)
                CU(cuMemFree_v2)(more[i]);
        step("and freed", 0);
        STEP(CU(cuMemAlloc_v2)(&more[0], (100 << 20) + 1));
        STEP(CU(cuMemFree_v2)(more[0]));
        STEP(CU(cuMemAllocPitch_v2)(&more[0], &pitch, 1000, 3000, 4));
        STEP(CU(cuMemFree_v2)(more[0]));
        STEP(CU(cuArrayCreate_v2)(&array, &array_desc));
        STEP(CU(cuArrayDestroy)(array));
        STEP(CU(cuMipmappedArrayCreate)(&mipmap, &mip_desc, 5));
        STEP(CU(cuMipmappedArrayDestroy)(mipmap));
        STEP(CU(cuMemAllocAsync)(&more[0], 40 << 20, NULL));
        STEP(CU(cuMemAllocAsync)(&more[1], 3000000, NULL));
        STEP(CU(cuMemFreeAsync)(more[0], NULL));
        STEP(CU(cuMemFreeAsync)(more[1], NULL));
        STEP(CU(cuCtxSynchronize)());
        STEP(CU(cuMemPoolCreate)(&pool, &pool_props));
        STEP(CU(cuMemAllocFromPoolAsync)(&more[0], 100 << 20, pool, NULL));
        STEP(CU(cuMemFreeAsync)(more[0], NULL));
        STEP(CU(cuMemPoolDestroy)(pool));
        STEP(CU(cuCtxSynchronize)());
        STEP(CU(cuMemCreate)(&handle, 64 << 20, &prop, 0));
        STEP(CU(cuMemAddressReserve)(&range, 64 << 20, 0, 0, 0));
        STEP(CU(cuMemMap)(range, 64 << 20, 0, handle, 0));
        STEP(CU(cuMemSetAccess)(range, 64 << 20, &access, 1));
        STEP(CU(cuMemRelease)(handle));
        STEP(CU(cuMemUnmap)(range, 64 << 20));
        STEP(CU(cuModuleLoadData)(&module, ptx));
        STEP(CU(cuModuleGetFunction)(&function, module, "nothing"));
        STEP(CU(cuLaunchKernel)(function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
        STEP(CU(cuModuleGetFunction)(&function, module, "local_memory"));
        STEP(CU(cuLaunchKernel)(function, 1, 1, 1, 1, 1, 1, 0, NULL, args, NULL));
        STEP(CU(cuCtxSynchronize)());
        STEP(CU(cuModuleUnload)(module));
        for (int i = 0; i < 64; i++)
                CU(cuStreamCreate)(&streams[i], CU_STREAM_NON_BLOCKING);
        step("64 streams", 0);
        node_params.poolProps = pool_props;
        CU(cuGraphCreate)(&graph, 0);
        STEP(CU(cuGraphAddMemAllocNode)(&node, graph, NULL, 0, &node_params));
        STEP(CU(cuGraphAddMemFreeNode)(&free_node, graph, &node, 1, node_params.dptr));
        STEP(CU(cuGraphInstantiateWithFlags)(&exec, graph, 0));
        STEP(CU(cuGraphLaunch)(exec, streams[0]));
        STEP(CU(cuCtxSynchronize)());
        STEP(CU(cuGraphExecDestroy)(exec));
        STEP(CU(cuGraphDestroy)(graph));
        STEP(CU(cuDeviceGraphMemTrim)(0));
        STEP(CU(cuCtxCreate_v2)(&second, 0, 0));
        STEP(CU(cuCtxDestroy_v2)(second));
        STEP(CU(cuCtxSetCurrent)(context));
        STEP(CU(cuMemAlloc_v2)(&more[0], 1ull << 40));
        STEP(CU(cuMemAllocAsync)(&more[0], 1ull << 40, NULL));
        STEP(CU(cuMemFree_v2)(ptr));
        printf("%d steps, %d differences\n", steps, differences);
        return differences != 0;
}
