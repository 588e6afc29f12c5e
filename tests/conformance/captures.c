/* SPDX-License-Identifier: Apache-2.0 */
/* Streams captured into graphs. */
#include <pthread.h>

#include "conformance.h"

static CUstream stream_new(void)
{
        CUstream stream;

        OK(cu(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
        return stream;
}

static void capture_run(void)
{
        CUfunction fill = kernel(load_kernels(), "cleave_fill_u32");
        CUdeviceptr p = words_new(256, 0), q = words_new(256, 0);
        unsigned long long count = 256;
        uint32_t value = 7;
        void *params[] = {&p, &value, &count};
        CUstream stream = stream_new();
        CUstreamCaptureStatus status;
        CUgraphExec exec;
        CUgraph graph;
        size_t n = 0;

        OK(cu(cuStreamIsCapturing)(stream, &status));
        CHECK(status == CU_STREAM_CAPTURE_STATUS_NONE);
        OK(cu(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
        OK(cu(cuStreamIsCapturing)(stream, &status));
        CHECK(status == CU_STREAM_CAPTURE_STATUS_ACTIVE);
        OK(launch_one(fill, stream, params));
        OK(cu(cuMemcpyDtoDAsync_v2)(q, p, 1024, stream));
        OK(cu(cuMemsetD32Async)(p, 1, 16, stream));
        OK(cu(cuStreamEndCapture)(stream, &graph));
        OK(cu(cuStreamSynchronize)(stream));
        CHECK(words_are(p, 256, 0));
        OK(cu(cuGraphGetNodes)(graph, NULL, &n));
        CHECK(n == 3);
        OK(cu(cuGraphInstantiateWithFlags)(&exec, graph, 0));
        OK(cu(cuGraphLaunch)(exec, stream));
        OK(cu(cuStreamSynchronize)(stream));
        CHECK(words_are(q, 256, 7) && words_are(p, 16, 1) && words_are(p + 64, 240, 7));
}

static void capture_fork(void)
{
        CUdeviceptr p = words_new(64, 0);
        CUstream a = stream_new(), b = stream_new();
        CUstreamCaptureStatus status;
        cuuint64_t id_a = 0, id_b = 1;
        CUevent forked, joined;
        CUgraphExec exec;
        CUgraph graph;
        size_t edges = 0;

        OK(cu(cuEventCreate)(&forked, CU_EVENT_DISABLE_TIMING));
        OK(cu(cuEventCreate)(&joined, CU_EVENT_DISABLE_TIMING));
        OK(cu(cuStreamBeginCapture_v2)(a, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        OK(cu(cuMemsetD32Async)(p, 1, 64, a));
        OK(cu(cuEventRecord)(forked, a));
        OK(cu(cuStreamWaitEvent)(b, forked, 0));
        OK(cu(cuStreamGetCaptureInfo)(a, &status, &id_a));
        OK(cu(cuStreamGetCaptureInfo)(b, &status, &id_b));
        CHECK(status == CU_STREAM_CAPTURE_STATUS_ACTIVE && id_a == id_b);
        OK(cu(cuMemsetD32Async)(p, 2, 32, b));
        OK(cu(cuMemsetD32Async)(p + 128, 3, 32, a));
        OK(cu(cuEventRecord)(joined, b));
        OK(cu(cuStreamWaitEvent)(a, joined, 0));
        OK(cu(cuMemsetD32Async)(p, 4, 1, a));
        OK(cu(cuStreamEndCapture)(a, &graph));
        OK(cu(cuStreamIsCapturing)(b, &status));
        CHECK(status == CU_STREAM_CAPTURE_STATUS_NONE);
        OK(cu(cuGraphGetEdges)(graph, NULL, NULL, &edges));
        CHECK(edges == 4);
        OK(cu(cuGraphInstantiateWithFlags)(&exec, graph, 0));
        OK(cu(cuGraphLaunch)(exec, a));
        OK(cu(cuStreamSynchronize)(a));
        CHECK(words_are(p, 1, 4) && words_are(p + 4, 31, 2) && words_are(p + 128, 32, 3));
}

/* Whoever asks about an event of a capture spoils the capture. */
static void capture_event_asked(void)
{
        CUdeviceptr p = words_new(64, 0);
        CUstream stream = stream_new();
        CUstreamCaptureStatus status;
        CUevent event;
        CUgraph graph;

        OK(cu(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING));
        for (int i = 0; i < 2; i++) {
                OK(cu(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
                OK(cu(cuMemsetD32Async)(p, 1, 64, stream));
                OK(cu(cuEventRecord)(event, stream));
                IS(CUDA_ERROR_CAPTURED_EVENT,
                        i ? cu(cuEventSynchronize)(event) : cu(cuEventQuery)(event));
                OK(cu(cuStreamIsCapturing)(stream, &status));
                CHECK(status == CU_STREAM_CAPTURE_STATUS_INVALIDATED);
                IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu(cuStreamEndCapture)(stream, &graph));
        }
}

static void capture_unjoined(void)
{
        CUdeviceptr p = words_new(64, 0);
        CUstream a = stream_new(), b = stream_new();
        CUgraph graph = (CUgraph)1;
        CUevent forked;

        OK(cu(cuEventCreate)(&forked, CU_EVENT_DISABLE_TIMING));
        OK(cu(cuStreamBeginCapture_v2)(a, CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(cu(cuEventRecord)(forked, a));
        OK(cu(cuStreamWaitEvent)(b, forked, 0));
        OK(cu(cuMemsetD32Async)(p, 2, 32, b));
        IS(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, cu(cuStreamEndCapture)(a, &graph));
        CHECK(graph == NULL);
        OK(cu(cuStreamSynchronize)(a));
        OK(cu(cuStreamSynchronize)(b));
}

static void capture_unmatched(void)
{
        CUstream a = stream_new(), b = stream_new();
        CUgraph graph;
        CUevent forked;

        OK(cu(cuEventCreate)(&forked, CU_EVENT_DISABLE_TIMING));
        OK(cu(cuStreamBeginCapture_v2)(a, CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(cu(cuEventRecord)(forked, a));
        OK(cu(cuStreamWaitEvent)(b, forked, 0));
        IS(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, cu(cuStreamEndCapture)(b, &graph));
        PROBE(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu(cuStreamEndCapture)(a, &graph));
}

static void capture_refused(void)
{
        CUstream stream = stream_new();
        CUstreamCaptureStatus status;
        CUgraph graph = (CUgraph)1;

        PROBE(CUDA_ERROR_ILLEGAL_STATE, cu(cuStreamEndCapture)(stream, &graph));
        PROBE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                cu(cuStreamBeginCapture_v2)(NULL, CU_STREAM_CAPTURE_MODE_GLOBAL));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuStreamBeginCapture_v2)(stream, (CUstreamCaptureMode)9));
        OK(cu(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
        PROBE(CUDA_ERROR_ILLEGAL_STATE,
                cu(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
        IS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cu(cuStreamSynchronize)(stream));
        OK(cu(cuStreamIsCapturing)(stream, &status));
        CHECK(status == CU_STREAM_CAPTURE_STATUS_INVALIDATED);
        IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
                launch_one(kernel(load_kernels(), "cleave_empty"), stream, NULL));
        IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu(cuStreamEndCapture)(stream, &graph));
        CHECK(graph == NULL);
        OK(cu(cuStreamSynchronize)(stream));
}

static void capture_unsafe(void)
{
        CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
        CUstream stream = stream_new();
        CUdeviceptr p = 0;
        CUgraph graph;

        OK(cu(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
        PROBE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cu(cuMemAlloc_v2)(&p, 1 << 20));
        PROBE(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu(cuStreamEndCapture)(stream, &graph));
        OK(cu(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(cu(cuMemAlloc_v2)(&p, 1 << 20));
        OK(cu(cuStreamEndCapture)(stream, &graph));
        OK(cu(cuThreadExchangeStreamCaptureMode)(&mode));
        CHECK(mode == CU_STREAM_CAPTURE_MODE_GLOBAL);
        OK(cu(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
        OK(cu(cuMemAlloc_v2)(&p, 1 << 20));
        OK(cu(cuStreamEndCapture)(stream, &graph));
}

static void capture_legacy(void)
{
        CUdeviceptr p = words_new(64, 0);
        CUstream blocking, stream = stream_new();
        CUgraph graph;

        OK(cu(cuStreamCreate)(&blocking, CU_STREAM_DEFAULT));
        OK(cu(cuStreamBeginCapture_v2)(blocking, CU_STREAM_CAPTURE_MODE_RELAXED));
        IS(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cu(cuMemsetD32Async)(p, 1, 64, NULL));
        IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu(cuStreamEndCapture)(blocking, &graph));
        OK(cu(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(cu(cuMemsetD32Async)(p, 1, 64, NULL));
        OK(cu(cuStreamEndCapture)(stream, &graph));
        CHECK(words_are(p, 64, 1));
}

static void capture_isolation(void)
{
        CUstream a = stream_new(), b = stream_new();
        CUgraph graph;
        CUevent event;

        OK(cu(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING));
        OK(cu(cuEventRecord)(event, b));
        OK(cu(cuStreamBeginCapture_v2)(a, CU_STREAM_CAPTURE_MODE_RELAXED));
        IS(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, cu(cuStreamWaitEvent)(a, event, 0));
        IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu(cuStreamEndCapture)(a, &graph));
}

static void capture_merge(void)
{
        CUstream a = stream_new(), b = stream_new();
        CUgraph graph;
        CUevent event;

        OK(cu(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING));
        OK(cu(cuStreamBeginCapture_v2)(a, CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(cu(cuStreamBeginCapture_v2)(b, CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(cu(cuEventRecord)(event, a));
        IS(CUDA_ERROR_STREAM_CAPTURE_MERGE, cu(cuStreamWaitEvent)(b, event, 0));
        PROBE(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu(cuStreamEndCapture)(a, &graph));
        PROBE(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu(cuStreamEndCapture)(b, &graph));
}

static void *end_elsewhere(void *stream)
{
        CUgraph graph;

        OK(cu(cuCtxSetCurrent)(context));
        IS(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, cu(cuStreamEndCapture)(stream, &graph));
        return NULL;
}

static void capture_threads(void)
{
        CUstream stream = stream_new();
        pthread_t thread;
        CUgraph graph;

        OK(cu(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        pthread_create(&thread, NULL, end_elsewhere, stream);
        pthread_join(thread, NULL);
        /* that has ended the capture */
        IS(CUDA_ERROR_ILLEGAL_STATE, cu(cuStreamEndCapture)(stream, &graph));
}

static void capture_memory(void)
{
        CUdeviceptr p = 0, q = words_new(64, 0);
        CUstream stream = stream_new();
        CUgraphExec exec;
        CUgraph graph;

        OK(cu(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
        OK(cu(cuMemAllocAsync)(&p, 1 << 20, stream));
        CHECK(p);
        OK(cu(cuMemsetD32Async)(p, 9, 64, stream));
        OK(cu(cuMemcpyDtoDAsync_v2)(q, p, 256, stream));
        OK(cu(cuMemFreeAsync)(p, stream));
        OK(cu(cuStreamEndCapture)(stream, &graph));
        OK(cu(cuGraphInstantiateWithFlags)(&exec, graph, 0));
        for (int i = 0; i < 3; i++)
                OK(cu(cuGraphLaunch)(exec, stream));
        OK(cu(cuStreamSynchronize)(stream));
        CHECK(words_are(q, 64, 9));
}

static void capture_dependencies(void)
{
        CUstream stream = stream_new();
        CUdeviceptr p = words_new(64, 0);
        CUstreamCaptureStatus status;
        const CUgraphNode *nodes = NULL;
        CUgraphNode empty;
        CUgraph graph = NULL, ended;
        size_t n = 99;

        OK(cu(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(cu(cuStreamGetCaptureInfo_v2)(stream, &status, NULL, &graph, &nodes, &n));
        CHECK(n == 0 && graph);
        OK(cu(cuMemsetD32Async)(p, 9, 64, stream));
        OK(cu(cuStreamGetCaptureInfo_v2)(stream, &status, NULL, &graph, &nodes, &n));
        CHECK(n == 1);
        OK(cu(cuGraphAddEmptyNode)(&empty, graph, nodes, n));
        OK(cu(cuStreamUpdateCaptureDependencies)(
                stream, &empty, 1, CU_STREAM_SET_CAPTURE_DEPENDENCIES));
        OK(cu(cuMemsetD32Async)(p, 8, 64, stream));
        OK(cu(cuStreamEndCapture)(stream, &ended));
        CHECK(ended == graph);
        OK(cu(cuGraphGetEdges)(graph, NULL, NULL, &n));
        CHECK(n == 2);
}

static void capture_to_graph(void)
{
        CUstream stream = stream_new();
        CUdeviceptr p = words_new(64, 0);
        CUgraphNode first;
        CUgraph graph, ended = NULL;
        size_t n = 0;

        OK(cu(cuGraphCreate)(&graph, 0));
        OK(cu(cuGraphAddEmptyNode)(&first, graph, NULL, 0));
        OK(cu(cuStreamBeginCaptureToGraph)(
                stream, graph, &first, NULL, 1, CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(cu(cuMemsetD32Async)(p, 8, 64, stream));
        OK(cu(cuStreamEndCapture)(stream, &ended));
        CHECK(ended == graph);
        OK(cu(cuGraphGetEdges)(graph, NULL, NULL, &n));
        CHECK(n == 1);
}

const struct test_case capture_cases[] = {
        {"capture_run", capture_run, false},
        {"capture_fork", capture_fork, false},
        {"capture_event_asked", capture_event_asked, false},
        {"capture_unjoined", capture_unjoined, false},
        {"capture_unmatched", capture_unmatched, false},
        {"capture_refused", capture_refused, false},
        {"capture_unsafe", capture_unsafe, false},
        {"capture_legacy", capture_legacy, false},
        {"capture_isolation", capture_isolation, false},
        {"capture_merge", capture_merge, false},
        {"capture_threads", capture_threads, false},
        {"capture_memory", capture_memory, false},
        {"capture_dependencies", capture_dependencies, false},
        {"capture_to_graph", capture_to_graph, false},
        {NULL, NULL, false},
};
