/* SPDX-License-Identifier: Apache-2.0 */
/* Graphs built node by node. */
#include <stdatomic.h>
#include <unistd.h>

#include "conformance.h"

static CUgraphNode memset_node(CUgraph graph, const CUgraphNode *before, size_t n, CUdeviceptr p,
        uint32_t value, size_t words)
{
        CUDA_MEMSET_NODE_PARAMS params = {
                .dst = p, .value = value, .elementSize = 4, .width = words, .height = 1};
        CUgraphNode node;

        OK(cu(cuGraphAddMemsetNode)(&node, graph, before, n, &params, context));
        return node;
}

static CUDA_MEMCPY3D linear(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
        return (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                .srcDevice = from,
                .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                .dstDevice = to,
                .WidthInBytes = bytes,
                .Height = 1,
                .Depth = 1};
}

static CUDA_KERNEL_NODE_PARAMS kernel_params(CUfunction function, void **params)
{
        return (CUDA_KERNEL_NODE_PARAMS){.func = function,
                .gridDimX = 1,
                .gridDimY = 1,
                .gridDimZ = 1,
                .blockDimX = 32,
                .blockDimY = 1,
                .blockDimZ = 1,
                .kernelParams = params};
}

static CUgraphExec ready(CUgraph graph)
{
        CUgraphExec exec;

        OK(cu(cuGraphInstantiateWithFlags)(&exec, graph, 0));
        return exec;
}

static void run(CUgraphExec exec)
{
        OK(cu(cuGraphLaunch)(exec, NULL));
        OK(cu(cuCtxSynchronize)());
}

static volatile int host_calls;

static void count_call(void *data)
{
        host_calls += data ? *(int *)data : 1;
}

static void graph_run(void)
{
        CUfunction saxpy = kernel(load_kernels(), "cleave_saxpy_f32");
        CUDA_HOST_NODE_PARAMS host = {.fn = count_call};
        CUdeviceptr a = words_new(256, 0), b = words_new(256, 0);
        unsigned long long count = 256;
        float factor = 2;
        void *params[] = {&b, &a, &factor, &count};
        CUDA_KERNEL_NODE_PARAMS launch = kernel_params(saxpy, params);
        CUDA_MEMCPY3D copy = linear(b, a, 1024);
        CUgraphNode fill, copied, launched, called, roots[4];
        float one = 1, seen[256];
        uint32_t bits;
        CUgraphExec exec;
        CUgraph graph;
        size_t n = 4;

        memcpy(&bits, &one, 4);
        OK(cu(cuGraphCreate)(&graph, 0));
        fill = memset_node(graph, NULL, 0, a, bits, 256);
        OK(cu(cuGraphAddMemcpyNode)(&copied, graph, &fill, 1, &copy, context));
        OK(cu(cuGraphAddKernelNode_v2)(&launched, graph, &copied, 1, &launch));
        OK(cu(cuGraphAddHostNode)(&called, graph, &launched, 1, &host));
        OK(cu(cuGraphGetRootNodes)(graph, roots, &n));
        CHECK(n == 1 && roots[0] == fill);
        exec = ready(graph);
        OK(cu(cuGraphDestroy)(graph));
        for (int i = 1; i <= 3; i++) {
                run(exec);
                CHECK(host_calls == i);
        }
        OK(cu(cuMemcpyDtoH_v2)(seen, b, 1024));
        CHECK(seen[0] == 3 && seen[255] == 3);
        OK(cu(cuGraphExecDestroy)(exec));
}

static void graph_structure(void)
{
        CUgraphNode a, b, c, from[8], to[8], list[8];
        CUgraphNodeType type;
        CUgraphExec exec;
        CUgraph graph, clone;
        size_t n = 0;

        OK(cu(cuGraphCreate)(&graph, 0));
        OK(cu(cuGraphAddEmptyNode)(&a, graph, NULL, 0));
        OK(cu(cuGraphAddEmptyNode)(&b, graph, &a, 1));
        OK(cu(cuGraphAddEmptyNode)(&c, graph, NULL, 0));
        OK(cu(cuGraphNodeGetType)(a, &type));
        CHECK(type == CU_GRAPH_NODE_TYPE_EMPTY);
        OK(cu(cuGraphGetNodes)(graph, NULL, &n));
        CHECK(n == 3);
        OK(cu(cuGraphAddDependencies)(graph, &b, &c, 1));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphAddDependencies)(graph, &b, &c, 1));
        /* a circle is refused only when the graph is instantiated */
        OK(cu(cuGraphAddDependencies)(graph, &c, &a, 1));
        PROBE(CUDA_ERROR_INVALID_VALUE, cu(cuGraphInstantiateWithFlags)(&exec, graph, 0));
        OK(cu(cuGraphRemoveDependencies)(graph, &c, &a, 1));
        n = 8;
        OK(cu(cuGraphGetEdges)(graph, from, to, &n));
        CHECK(n == 2);
        n = 8;
        OK(cu(cuGraphNodeGetDependencies)(c, list, &n));
        CHECK(n == 1 && list[0] == b && list[1] == NULL);
        n = 8;
        OK(cu(cuGraphNodeGetDependentNodes)(a, list, &n));
        CHECK(n == 1 && list[0] == b);
        OK(cu(cuGraphClone)(&clone, graph));
        OK(cu(cuGraphNodeFindInClone)(&list[0], b, clone));
        CHECK(list[0] != b);
        OK(cu(cuGraphDestroy)(clone));
        OK(cu(cuGraphRemoveDependencies)(graph, &b, &c, 1));
        OK(cu(cuGraphDestroyNode)(b));
        OK(cu(cuGraphGetNodes)(graph, NULL, &n));
        CHECK(n == 2);
        OK(cu(cuGraphGetEdges)(graph, NULL, NULL, &n));
        CHECK(n == 0);
        OK(cu(cuGraphDestroy)(graph));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphCreate)(NULL, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphCreate)(&graph, 1));
}

static void graph_errors(void)
{
        CUDA_MEMSET_NODE_PARAMS fill = {.dst = 0x1000, .elementSize = 4, .width = 4, .height = 1};
        CUDA_HOST_NODE_PARAMS host = {.fn = NULL};
        CUgraph graph, other;
        CUgraphNode node, foreign;
        CUgraphExec exec;

        OK(cu(cuGraphCreate)(&graph, 0));
        OK(cu(cuGraphCreate)(&other, 0));
        OK(cu(cuGraphAddEmptyNode)(&foreign, other, NULL, 0));
        PROBE(CUDA_ERROR_INVALID_VALUE,
                cu(cuGraphAddMemsetNode)(&node, graph, NULL, 0, &fill, context));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphAddHostNode)(&node, graph, NULL, 0, &host));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphAddEmptyNode)(&node, graph, NULL, 1));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphAddEmptyNode)(&node, graph, &foreign, 1));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphAddEmptyNode)(NULL, graph, NULL, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphAddEmptyNode)(&node, NULL, NULL, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphInstantiateWithFlags)(NULL, graph, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphInstantiateWithFlags)(&exec, NULL, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphInstantiateWithFlags)(&exec, graph, 1ull << 40));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphLaunch)(NULL, NULL));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphDestroy)(NULL));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphExecDestroy)(NULL));
        OK(cu(cuGraphInstantiateWithFlags)(&exec, graph, 0));
        OK(cu(cuGraphLaunch)(exec, NULL));
        OK(cu(cuCtxSynchronize)());
}

static void graph_params(void)
{
        CUfunction fill = kernel(load_kernels(), "cleave_fill_u32");
        CUdeviceptr p = words_new(64, 0);
        unsigned long long count = 64;
        uint32_t value = 1;
        void *params[] = {&p, &value, &count};
        CUDA_KERNEL_NODE_PARAMS launch = kernel_params(fill, params), seen;
        unsigned enabled = 0;
        CUgraphNode node;
        CUgraphExec exec;
        CUgraph graph;

        OK(cu(cuGraphCreate)(&graph, 0));
        OK(cu(cuGraphAddKernelNode_v2)(&node, graph, NULL, 0, &launch));
        /* parameters are copied when the node is made */
        value = 99;
        memset(&seen, 0, sizeof(seen));
        OK(cu(cuGraphKernelNodeGetParams_v2)(node, &seen));
        CHECK(seen.func == fill && seen.blockDimX == 32);
        CHECK(*(uint32_t *)seen.kernelParams[1] == 1);
        exec = ready(graph);
        run(exec);
        CHECK(words_are(p, 64, 1));
        value = 2;
        OK(cu(cuGraphExecKernelNodeSetParams_v2)(exec, node, &launch));
        run(exec);
        CHECK(words_are(p, 64, 2));
        value = 3;
        OK(cu(cuGraphKernelNodeSetParams_v2)(node, &launch));
        run(exec);
        CHECK(words_are(p, 64, 2));
        {
                CUgraphExecUpdateResultInfo info;

                OK(cu(cuGraphExecUpdate_v2)(exec, graph, &info));
                CHECK(info.result == CU_GRAPH_EXEC_UPDATE_SUCCESS);
        }
        run(exec);
        CHECK(words_are(p, 64, 3));
        OK(cu(cuMemsetD32_v2)(p, 0, 64));
        OK(cu(cuGraphNodeSetEnabled)(exec, node, 0));
        OK(cu(cuGraphNodeGetEnabled)(exec, node, &enabled));
        CHECK(!enabled);
        run(exec);
        CHECK(words_are(p, 64, 0));
        OK(cu(cuGraphNodeSetEnabled)(exec, node, 1));
        run(exec);
        CHECK(words_are(p, 64, 3));
}

static void graph_update(void)
{
        CUdeviceptr p = words_new(64, 0);
        CUgraphExecUpdateResultInfo info;
        CUgraph a, b;
        CUgraphExec exec;
        CUgraphNode node;

        OK(cu(cuGraphCreate)(&a, 0));
        memset_node(a, NULL, 0, p, 1, 64);
        exec = ready(a);
        OK(cu(cuGraphCreate)(&b, 0));
        memset_node(b, NULL, 0, p, 2, 64);
        OK(cu(cuGraphExecUpdate_v2)(exec, b, &info));
        run(exec);
        CHECK(words_are(p, 64, 2));
        OK(cu(cuGraphAddEmptyNode)(&node, b, NULL, 0));
        IS(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cu(cuGraphExecUpdate_v2)(exec, b, &info));
        CHECK(info.result == CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
        OK(cu(cuGraphDestroy)(b));
        OK(cu(cuGraphCreate)(&b, 0));
        OK(cu(cuGraphAddEmptyNode)(&node, b, NULL, 0));
        IS(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cu(cuGraphExecUpdate_v2)(exec, b, &info));
        PROBE_VALUE(CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED, info.result);
}

static void graph_child(void)
{
        CUdeviceptr p = words_new(64, 0);
        CUDA_MEMCPY3D copy;
        CUgraph inner, outer, found;
        CUgraphNode first, child, last;
        CUgraphExec exec;

        OK(cu(cuGraphCreate)(&inner, 0));
        memset_node(inner, NULL, 0, p, 5, 32);
        OK(cu(cuGraphCreate)(&outer, 0));
        first = memset_node(outer, NULL, 0, p, 1, 64);
        OK(cu(cuGraphAddChildGraphNode)(&child, outer, &first, 1, inner));
        OK(cu(cuGraphChildGraphNodeGetGraph)(child, &found));
        CHECK(found != inner);
        OK(cu(cuGraphDestroy)(inner));
        copy = linear(p + 128, p, 128);
        OK(cu(cuGraphAddMemcpyNode)(&last, outer, &child, 1, &copy, context));
        exec = ready(outer);
        run(exec);
        CHECK(words_are(p, 64, 5));
}

static void graph_events(void)
{
        CUmodule module = load_kernels();
        struct gate gate = gate_new();
        CUdeviceptr p = words_new(16, 0);
        CUgraphNode record, wait, fill;
        CUevent awaited, recorded, seen = NULL;
        CUgraph graph;
        CUgraphExec exec;
        CUstream a, b;

        OK(cu(cuEventCreate)(&awaited, CU_EVENT_DISABLE_TIMING));
        OK(cu(cuEventCreate)(&recorded, CU_EVENT_DISABLE_TIMING));
        OK(cu(cuStreamCreate)(&a, CU_STREAM_NON_BLOCKING));
        OK(cu(cuStreamCreate)(&b, CU_STREAM_NON_BLOCKING));
        OK(cu(cuGraphCreate)(&graph, 0));
        OK(cu(cuGraphAddEventWaitNode)(&wait, graph, NULL, 0, awaited));
        OK(cu(cuGraphEventWaitNodeGetEvent)(wait, &seen));
        CHECK(seen == awaited);
        fill = memset_node(graph, &wait, 1, p, 4, 16);
        OK(cu(cuGraphAddEventRecordNode)(&record, graph, &fill, 1, recorded));
        exec = ready(graph);
        gate_shut(&gate, module, a);
        OK(cu(cuEventRecord)(awaited, a));
        OK(cu(cuGraphLaunch)(exec, b));
        IS(CUDA_ERROR_NOT_READY, cu(cuEventQuery)(recorded));
        CHECK(words_are(p, 16, 0));
        gate_open(&gate);
        OK(cu(cuEventSynchronize)(recorded));
        CHECK(words_are(p, 16, 4));
}

static void graph_memory(void)
{
        CUDA_MEM_ALLOC_NODE_PARAMS alloc = {
                .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}},
                .bytesize = 50 << 20};
        CUgraphNode allocated, fill, copied, freed;
        CUdeviceptr p = words_new(64, 0);
        cuuint64_t reserved = 0, used = 77;
        CUDA_MEMCPY3D copy;
        CUgraphExec exec;
        CUgraph graph;
        size_t before = free_memory();

        alloc.poolProps.location.id = device;
        OK(cu(cuGraphCreate)(&graph, 0));
        OK(cu(cuGraphAddMemAllocNode)(&allocated, graph, NULL, 0, &alloc));
        CHECK(alloc.dptr);
        CHECK(free_memory() == before); /* an address, and no memory */
        fill = memset_node(graph, &allocated, 1, alloc.dptr, 8, 64);
        copy = linear(p, alloc.dptr, 256);
        OK(cu(cuGraphAddMemcpyNode)(&copied, graph, &fill, 1, &copy, context));
        OK(cu(cuGraphAddMemFreeNode)(&freed, graph, &copied, 1, alloc.dptr));
        exec = ready(graph);
        PROBE_VALUE(0, (long)(before - free_memory()));
        run(exec);
        run(exec);
        CHECK(words_are(p, 64, 8));
        OK(cu(cuDeviceGetGraphMemAttribute)(
                device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &reserved));
        CHECK(reserved == 64 << 20);
        OK(cu(cuDeviceGetGraphMemAttribute)(device, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, &used));
        CHECK(used == 64 << 20);
        CHECK(before - free_memory() >= 50 << 20);
        OK(cu(cuGraphExecDestroy)(exec));
        OK(cu(cuGraphDestroy)(graph));
        OK(cu(cuDeviceGraphMemTrim)(device));
        PROBE_VALUE(0, (long)(before - free_memory()));
}

/* Without a free node the memory stays after the launch, and is the program's to free. */
static void graph_memory_kept(void)
{
        CUDA_MEM_ALLOC_NODE_PARAMS alloc = {
                .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}},
                .bytesize = 1 << 20};
        CUgraphNode allocated;
        CUgraphExec exec;
        CUgraph graph;

        alloc.poolProps.location.id = device;
        OK(cu(cuGraphCreate)(&graph, 0));
        OK(cu(cuGraphAddMemAllocNode)(&allocated, graph, NULL, 0, &alloc));
        memset_node(graph, &allocated, 1, alloc.dptr, 6, 1 << 18);
        exec = ready(graph);
        run(exec);
        CHECK(words_are(alloc.dptr, 1 << 18, 6));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphLaunch)(exec, NULL));
        OK(cu(cuMemFreeAsync)(alloc.dptr, NULL));
        run(exec);
        OK(cu(cuMemFree_v2)(alloc.dptr));
        run(exec);
}

static void graph_generic(void)
{
        CUgraphNodeParams params;
        CUdeviceptr p = words_new(64, 0);
        CUgraphNode node, after;
        CUgraphExec exec;
        CUgraph graph;

        OK(cu(cuGraphCreate)(&graph, 0));
        memset(&params, 0, sizeof(params));
        params.type = CU_GRAPH_NODE_TYPE_MEMSET;
        params.memset.dst = p;
        params.memset.value = 3;
        params.memset.elementSize = 4;
        params.memset.width = 64;
        params.memset.height = 1;
        params.memset.ctx = context;
        OK(cu(cuGraphAddNode_v2)(&node, graph, NULL, NULL, 0, &params));
        memset(&params, 0, sizeof(params));
        params.type = CU_GRAPH_NODE_TYPE_HOST;
        params.host.fn = count_call;
        OK(cu(cuGraphAddNode_v2)(&after, graph, &node, NULL, 1, &params));
        exec = ready(graph);
        run(exec);
        CHECK(host_calls == 1 && words_are(p, 64, 3));
        params.type = (CUgraphNodeType)99;
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphAddNode_v2)(&after, graph, NULL, NULL, 0, &params));
}

static void object_gone(void *flag)
{
        atomic_store((_Atomic int *)flag, 1);
}

static void user_objects(void)
{
        _Atomic int gone = 0;
        CUuserObject object;
        CUgraph graph;

        OK(cu(cuUserObjectCreate)(
                &object, (void *)&gone, object_gone, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
        OK(cu(cuGraphCreate)(&graph, 0));
        OK(cu(cuGraphRetainUserObject)(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE));
        usleep(1000);
        CHECK(!gone);
        OK(cu(cuGraphDestroy)(graph));
        for (int i = 0; i < 1000 && !gone; i++)
                usleep(1000);
        CHECK(gone);
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuUserObjectCreate)(&object, NULL, NULL, 1, 1));
}

static void graph_dot(void)
{
        char path[] = "/tmp/conformance-XXXXXX", text[64] = "";
        int fd = mkstemp(path);
        CUgraphNode node;
        CUgraph graph;

        CHECK(fd >= 0);
        OK(cu(cuGraphCreate)(&graph, 0));
        OK(cu(cuGraphAddEmptyNode)(&node, graph, NULL, 0));
        OK(cu(cuGraphDebugDotPrint)(graph, path, 0));
        CHECK(read(fd, text, sizeof(text) - 1) > 0);
        unlink(path);
        CHECK(strncmp(text, "digraph", 7) == 0);
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuGraphDebugDotPrint)(graph, NULL, 0));
}

const struct test_case graph_cases[] = {
        {"graph_run", graph_run, false},
        {"graph_structure", graph_structure, false},
        {"graph_errors", graph_errors, false},
        {"graph_params", graph_params, false},
        {"graph_update", graph_update, false},
        {"graph_child", graph_child, false},
        {"graph_events", graph_events, false},
        {"graph_memory", graph_memory, false},
        {"graph_memory_kept", graph_memory_kept, false},
        {"graph_generic", graph_generic, false},
        {"user_objects", user_objects, false},
        {"graph_dot", graph_dot, false},
        {NULL, NULL, false},
};
