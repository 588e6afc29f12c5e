/* SPDX-License-Identifier: Apache-2.0 */
/* Streams, events, callbacks, values in memory. */
#include <pthread.h>
#include <unistd.h>

#include "conformance.h"

static void stream_life(void)
{
        CUstream stream, other;
        CUcontext owner = NULL;
        unsigned long long id = 0, other_id = 0;
        unsigned flags = 99;
        int priority = 99;
        CUdevice number = 99;

        OK(cu(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
        OK(cu(cuStreamGetFlags)(stream, &flags));
        CHECK(flags == CU_STREAM_NON_BLOCKING);
        OK(cu(cuStreamGetPriority)(stream, &priority));
        CHECK(priority == 0);
        OK(cu(cuStreamGetCtx)(stream, &owner));
        CHECK(owner == context);
        OK(cu(cuStreamCreateWithPriority)(&other, CU_STREAM_DEFAULT, -1));
        OK(cu(cuStreamGetPriority)(other, &priority));
        CHECK(priority == -1);
        OK(cu(cuStreamDestroy_v2)(other));
        OK(cu(cuStreamCreateWithPriority)(&other, CU_STREAM_DEFAULT, -1000));
        OK(cu(cuStreamGetPriority)(other, &priority));
        PROBE_VALUE(-5, priority);
        OK(cu(cuStreamGetId)(stream, &id));
        OK(cu(cuStreamGetId)(other, &other_id));
        CHECK(id != other_id);
        OK(cu(cuStreamGetDevice)(stream, &number));
        CHECK(number == device);
        OK(cu(cuStreamQuery)(stream));
        OK(cu(cuStreamSynchronize)(stream));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuStreamCreate)(NULL, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuStreamCreate)(&stream, 99));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuStreamGetFlags)(stream, NULL));
        OK(cu(cuStreamDestroy_v2)(stream));
        OK(cu(cuStreamDestroy_v2)(other));
}

static void default_streams(void)
{
        unsigned flags = 99;
        unsigned long long id = 0;

        OK(cu(cuStreamQuery)(NULL));
        OK(cu(cuStreamQuery)(CU_STREAM_LEGACY));
        OK(cu(cuStreamQuery)(CU_STREAM_PER_THREAD));
        OK(cu(cuStreamSynchronize)(CU_STREAM_PER_THREAD));
        OK(cu(cuStreamGetFlags)(NULL, &flags));
        PROBE_VALUE(0, flags);
        OK(cu(cuStreamGetFlags)(CU_STREAM_PER_THREAD, &flags));
        PROBE_VALUE(0, flags);
        OK(cu(cuStreamGetId)(NULL, &id));
        PROBE(CUDA_ERROR_INVALID_HANDLE, cu(cuStreamDestroy_v2)(NULL));
        PROBE(CUDA_ERROR_INVALID_HANDLE, cu(cuStreamDestroy_v2)(CU_STREAM_LEGACY));
}

static void stream_order(void)
{
        CUmodule module = load_kernels();
        CUfunction fill = kernel(module, "cleave_fill_u32");
        struct gate gate = gate_new();
        CUdeviceptr p = words_new(1000, 0);
        unsigned long long count = 1000;
        CUstream stream;

        OK(cu(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
        gate_shut(&gate, module, stream);
        for (uint32_t i = 1; i <= 20; i++) {
                void *params[] = {&p, &i, &count};

                OK(cu(cuLaunchKernel)(fill, 4, 1, 1, 64, 1, 1, 0, stream, params, NULL));
        }
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery)(stream));
        CHECK(words_are(p, 1000, 0));
        gate_open(&gate);
        OK(cu(cuStreamSynchronize)(stream));
        OK(cu(cuStreamQuery)(stream));
        CHECK(words_are(p, 1000, 20));
}

/* Blocking streams and the legacy stream wait for one another; non-blocking ones do not. */
static void legacy_order(void)
{
        CUmodule module = load_kernels();
        struct gate gate = gate_new();
        CUstream blocking, other, free_stream;

        OK(cu(cuStreamCreate)(&blocking, CU_STREAM_DEFAULT));
        OK(cu(cuStreamCreate)(&other, CU_STREAM_DEFAULT));
        OK(cu(cuStreamCreate)(&free_stream, CU_STREAM_NON_BLOCKING));
        gate_shut(&gate, module, blocking);
        OK(launch_one(kernel(module, "cleave_empty"), free_stream, NULL));
        OK(cu(cuStreamSynchronize)(free_stream));
        /* two blocking streams are free of each other */
        OK(launch_one(kernel(module, "cleave_empty"), other, NULL));
        OK(cu(cuStreamSynchronize)(other));
        OK(launch_one(kernel(module, "cleave_empty"), NULL, NULL));
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery)(NULL));
        /* and what comes after the legacy stream's work waits for it */
        OK(launch_one(kernel(module, "cleave_empty"), other, NULL));
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery)(other));
        OK(launch_one(kernel(module, "cleave_empty"), free_stream, NULL));
        OK(cu(cuStreamSynchronize)(free_stream));
        gate_open(&gate);
        OK(cu(cuStreamSynchronize)(other));
        OK(cu(cuStreamSynchronize)(NULL));
        gate_shut(&gate, module, NULL);
        OK(launch_one(kernel(module, "cleave_empty"), blocking, NULL));
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery)(blocking));
        OK(launch_one(kernel(module, "cleave_empty"), free_stream, NULL));
        OK(cu(cuStreamSynchronize)(free_stream));
        gate_open(&gate);
        OK(cu(cuCtxSynchronize)());
        gate_shut(&gate, module, CU_STREAM_PER_THREAD);
        OK(launch_one(kernel(module, "cleave_empty"), NULL, NULL));
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery)(CU_STREAM_LEGACY));
        gate_open(&gate);
        OK(cu(cuCtxSynchronize)());
}

static void *query_per_thread(void *result)
{
        OK(cu(cuCtxSetCurrent)(context));
        *(CUresult *)result = cu(cuStreamQuery)(CU_STREAM_PER_THREAD);
        return NULL;
}

static void per_thread(void)
{
        CUmodule module = load_kernels();
        struct gate gate = gate_new();
        CUresult r = CUDA_ERROR_UNKNOWN;
        pthread_t thread;

        gate_shut(&gate, module, CU_STREAM_PER_THREAD);
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery)(CU_STREAM_PER_THREAD));
        pthread_create(&thread, NULL, query_per_thread, &r);
        pthread_join(thread, NULL);
        IS(CUDA_SUCCESS, r);
        gate_open(&gate);
        OK(cu(cuStreamSynchronize)(CU_STREAM_PER_THREAD));
}

/* The _ptsz entries take 0 for the per-thread stream. */
static void per_thread_entries(void)
{
        CUmodule module = load_kernels();
        CUfunction wait = kernel(module, "cleave_wait_u32");
        struct gate gate = gate_new();
        uint32_t one = 1;
        void *params[] = {&gate.pointer, &one};
        CUstream other;

        OK(cu(cuStreamCreate)(&other, CU_STREAM_NON_BLOCKING));
        *gate.flag = 0;
        OK(cu(cuLaunchKernel_ptsz)(wait, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery_ptsz)(NULL));
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery)(CU_STREAM_PER_THREAD));
        PROBE(CUDA_SUCCESS, cu(cuStreamQuery)(other));
        gate_open(&gate);
        OK(cu(cuStreamSynchronize_ptsz)(NULL));
}

static void destroy_pending(void)
{
        CUmodule module = load_kernels();
        struct gate gate = gate_new();
        CUdeviceptr p = words_new(16, 0);
        CUstream stream;

        OK(cu(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
        gate_shut(&gate, module, stream);
        OK(cu(cuMemsetD32Async)(p, 5, 16, stream));
        OK(cu(cuStreamDestroy_v2)(stream));
        gate_open(&gate);
        OK(cu(cuCtxSynchronize)());
        CHECK(words_are(p, 16, 5));
}

static void event_life(void)
{
        CUevent event, timed;
        float ms;

        OK(cu(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING));
        OK(cu(cuEventCreate)(&timed, CU_EVENT_DEFAULT));
        OK(cu(cuEventQuery)(event));
        OK(cu(cuEventSynchronize)(event));
        OK(cu(cuStreamWaitEvent)(NULL, event, 0));
        IS(CUDA_ERROR_INVALID_HANDLE, cu(cuEventElapsedTime)(&ms, timed, timed));
        OK(cu(cuEventRecord)(event, NULL));
        OK(cu(cuEventRecord)(timed, NULL));
        OK(cu(cuEventSynchronize)(event));
        OK(cu(cuEventSynchronize)(timed));
        IS(CUDA_ERROR_INVALID_HANDLE, cu(cuEventElapsedTime)(&ms, event, timed));
        OK(cu(cuEventElapsedTime)(&ms, timed, timed));
        CHECK(ms == 0);
        IS(CUDA_ERROR_INVALID_HANDLE, cu(cuEventElapsedTime)(NULL, timed, timed));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuEventCreate)(NULL, 0));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuEventCreate)(&event, 0x100));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuEventCreate)(&event, CU_EVENT_INTERPROCESS));
        IS(CUDA_ERROR_INVALID_HANDLE, cu(cuEventRecord)(NULL, NULL));
        IS(CUDA_ERROR_INVALID_HANDLE, cu(cuEventQuery)(NULL));
        IS(CUDA_ERROR_INVALID_HANDLE, cu(cuEventDestroy_v2)(NULL));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuEventRecordWithFlags)(timed, NULL, 0x80));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuStreamWaitEvent)(NULL, timed, 0x80));
        OK(cu(cuEventDestroy_v2)(event));
        OK(cu(cuEventDestroy_v2)(timed));
}

static void event_time(void)
{
        CUfunction spin = kernel(load_kernels(), "cleave_spin");
        unsigned long long ns = 20000000;
        void *params[] = {&ns};
        CUevent from, to;
        float ms = 0;

        OK(cu(cuEventCreate)(&from, 0));
        OK(cu(cuEventCreate)(&to, CU_EVENT_BLOCKING_SYNC));
        OK(launch_one(spin, NULL, params));
        OK(cu(cuCtxSynchronize)());
        OK(cu(cuEventRecord)(from, NULL));
        OK(launch_one(spin, NULL, params));
        OK(cu(cuEventRecord)(to, NULL));
        IS(CUDA_ERROR_NOT_READY, cu(cuEventQuery)(to));
        IS(CUDA_ERROR_NOT_READY, cu(cuEventElapsedTime)(&ms, from, to));
        OK(cu(cuEventSynchronize)(to));
        OK(cu(cuEventElapsedTime)(&ms, from, to));
        CHECK(ms >= 19.9 && ms < 200);
        OK(cu(cuEventElapsedTime)(&ms, to, from));
        CHECK(ms < -19);
}

static void event_wait(void)
{
        CUmodule module = load_kernels();
        struct gate gate = gate_new();
        CUdeviceptr p = words_new(64, 1);
        CUstream a, b;
        CUevent event;

        OK(cu(cuStreamCreate)(&a, CU_STREAM_NON_BLOCKING));
        OK(cu(cuStreamCreate)(&b, CU_STREAM_NON_BLOCKING));
        OK(cu(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING));
        gate_shut(&gate, module, a);
        OK(cu(cuMemsetD32Async)(p, 2, 64, a));
        OK(cu(cuEventRecord)(event, a));
        OK(cu(cuStreamWaitEvent)(b, event, 0));
        OK(cu(cuMemsetD32Async)(p, 3, 64, b));
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery)(b));
        /* destroyed while awaited: the wait stays */
        OK(cu(cuEventDestroy_v2)(event));
        CHECK(words_are(p, 64, 1));
        gate_open(&gate);
        OK(cu(cuStreamSynchronize)(b));
        CHECK(words_are(p, 64, 3));
}

static void set_flag(void *flag)
{
        usleep(2000);
        *(volatile int *)flag = 1;
}

static CUresult from_callback;

static void call_cuda(void *unused)
{
        CUdeviceptr pointer;

        from_callback = cu(cuMemAlloc_v2)(&pointer, 4096);
}

static void old_callback(CUstream stream, CUresult status, void *data)
{
        *(volatile int *)data = status == CUDA_SUCCESS ? 2 : 3;
}

static void host_functions(void)
{
        volatile int flag = 0;
        CUstream stream;

        OK(cu(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
        OK(cu(cuLaunchHostFunc)(stream, set_flag, (void *)&flag));
        OK(cu(cuStreamSynchronize)(stream));
        CHECK(flag == 1);
        OK(cu(cuStreamAddCallback)(stream, old_callback, (void *)&flag, 0));
        OK(cu(cuStreamSynchronize)(stream));
        CHECK(flag == 2);
        OK(cu(cuLaunchHostFunc)(stream, call_cuda, NULL));
        OK(cu(cuStreamSynchronize)(stream));
        PROBE(CUDA_ERROR_NOT_PERMITTED, from_callback);
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuLaunchHostFunc)(stream, NULL, NULL));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuStreamAddCallback)(stream, old_callback, NULL, 1));
}

static void values(void)
{
        CUstreamBatchMemOpParams batch[2];
        CUdeviceptr p = words_new(16, 0);
        CUstream a, b;
        int supported = 0;

        OK(cu(cuDeviceGetAttribute)(
                &supported, CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, device));
        CHECK(supported == 1);
        OK(cu(cuStreamCreate)(&a, CU_STREAM_NON_BLOCKING));
        OK(cu(cuStreamCreate)(&b, CU_STREAM_NON_BLOCKING));
        OK(cu(cuStreamWaitValue32_v2)(a, p, 7, CU_STREAM_WAIT_VALUE_EQ));
        OK(cu(cuMemsetD32Async)(p + 16, 9, 1, a));
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery)(a));
        OK(cu(cuStreamWriteValue32_v2)(b, p, 7, 0));
        OK(cu(cuStreamSynchronize)(a));
        CHECK(words_are(p + 16, 1, 9));
        OK(cu(cuStreamWaitValue64_v2)(a, p + 8, 5, CU_STREAM_WAIT_VALUE_GEQ));
        OK(cu(cuStreamWriteValue64_v2)(b, p + 8, 6, 0));
        OK(cu(cuStreamSynchronize)(a));
        memset(batch, 0, sizeof(batch));
        batch[0].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
        batch[0].writeValue.address = p + 32;
        batch[0].writeValue.value = 41;
        batch[1].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
        batch[1].waitValue.address = p + 32;
        batch[1].waitValue.value = 40;
        batch[1].waitValue.flags = CU_STREAM_WAIT_VALUE_GEQ;
        OK(cu(cuStreamBatchMemOp_v2)(a, 2, batch, 0));
        OK(cu(cuStreamSynchronize)(a));
        CHECK(words_are(p + 32, 1, 41));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuStreamWriteValue32_v2)(a, p + 2, 1, 0));
        PROBE(CUDA_ERROR_INVALID_VALUE, cu(cuStreamWriteValue32_v2)(a, 0x1000, 1, 0));
}

static void async_copies(void)
{
        CUmodule module = load_kernels();
        struct gate gate = gate_new();
        CUdeviceptr p = words_new(1024, 0);
        uint32_t local[16], *pinned;
        CUstream stream;

        OK(cu(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
        OK(cu(cuMemHostAlloc)((void **)&pinned, 4096, 0));
        for (int i = 0; i < 16; i++)
                local[i] = 77;
        gate_shut(&gate, module, stream);
        /* pageable memory is read before a small copy returns, even behind other work */
        OK(cu(cuMemcpyHtoDAsync_v2)(p, local, sizeof(local), stream));
        memset(local, 0, sizeof(local));
        OK(cu(cuMemcpyDtoHAsync_v2)(pinned, p, 64, stream));
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery)(stream));
        gate_open(&gate);
        OK(cu(cuStreamSynchronize)(stream));
        CHECK(pinned[0] == 77 && pinned[15] == 77);
        /* into pageable memory a copy returns when it is done */
        OK(cu(cuMemcpyDtoHAsync_v2)(local, p, 64, stream));
        CHECK(local[15] == 77);
}

static void many_queued(void)
{
        CUmodule module = load_kernels();
        CUfunction bump = kernel(module, "cleave_bump");
        CUdeviceptr p = words_new(1, 0), counter;
        void *params[] = {&p};
        size_t size;
        CUstream stream;

        OK(cu(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
        for (int i = 0; i < 3000; i++)
                OK(launch_one(bump, stream, params));
        OK(cu(cuStreamSynchronize)(stream));
        OK(cu(cuModuleGetGlobal_v2)(&counter, &size, module, "cleave_counter"));
        CHECK(words_are(counter, 1, 3007));
        CHECK(words_are(p, 1, 3006));
}

static void stream_attributes(void)
{
        CUstreamAttrValue value;
        CUstream a, b;

        OK(cu(cuStreamCreate)(&a, 0));
        OK(cu(cuStreamCreate)(&b, 0));
        memset(&value, 0, sizeof(value));
        value.syncPolicy = CU_SYNC_POLICY_YIELD;
        OK(cu(cuStreamSetAttribute)(a, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
        OK(cu(cuStreamCopyAttributes)(b, a));
        memset(&value, 0, sizeof(value));
        OK(cu(cuStreamGetAttribute)(b, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
        CHECK(value.syncPolicy == CU_SYNC_POLICY_YIELD);
        PROBE(CUDA_ERROR_INVALID_VALUE, cu(cuStreamGetAttribute)(a, (CUstreamAttrID)99, &value));
}

/* ---- many threads at once, over the same streams and events ---- */

#define STORM_THREADS 4
#define STORM_STREAMS 6
#define STORM_STEPS   400

static struct {
        CUstream stream[STORM_STREAMS];
        CUevent event[STORM_STREAMS];
        CUfunction bump;
        CUgraphExec graph; /* one bump */
        CUdeviceptr scratch;
        _Atomic unsigned bumps, calls, called;
} storm;

static void storm_call(void *unused)
{
        storm.called++;
}

static void *storm_run(void *seed_pointer)
{
        uint32_t seed = *(uint32_t *)seed_pointer;
        void *params[] = {&storm.scratch};
        CUdeviceptr p;

        OK(cu(cuCtxSetCurrent)(context));
        for (int i = 0; i < STORM_STEPS; i++) {
                unsigned pick, a, b;

                seed = seed * 1664525u + 1013904223u;
                pick = seed >> 24;
                a = (seed >> 16) % STORM_STREAMS;
                b = (seed >> 8) % STORM_STREAMS;
                if (pick < 100) {
                        OK(launch_one(storm.bump, storm.stream[a], params));
                        storm.bumps++;
                } else if (pick < 140) {
                        OK(cu(cuEventRecord)(storm.event[a], storm.stream[b]));
                } else if (pick < 180) {
                        OK(cu(cuStreamWaitEvent)(storm.stream[a], storm.event[b], 0));
                } else if (pick < 195) {
                        OK(cu(cuGraphLaunch)(storm.graph, storm.stream[a]));
                        storm.bumps++;
                } else if (pick < 210) {
                        OK(cu(cuMemAllocAsync)(&p, 4096 + seed % 100000, storm.stream[a]));
                        OK(cu(cuMemsetD8Async)(p, 1, 4096, storm.stream[a]));
                        OK(cu(cuMemFreeAsync)(p, storm.stream[a]));
                } else if (pick < 225) {
                        OK(cu(cuLaunchHostFunc)(storm.stream[a], storm_call, NULL));
                        storm.calls++;
                } else if (pick < 235) {
                        CUstream own;

                        OK(cu(cuStreamCreate)(&own, pick & 1));
                        OK(launch_one(storm.bump, own, params));
                        storm.bumps++;
                        OK(cu(cuStreamDestroy_v2)(own));
                } else if (pick < 243) {
                        OK(cu(cuStreamSynchronize)(storm.stream[a]));
                } else if (pick < 248) {
                        OK(cu(cuEventSynchronize)(storm.event[a]));
                } else if (pick < 252) {
                        OK(launch_one(storm.bump, NULL, params));
                        storm.bumps++;
                } else {
                        OK(cu(cuCtxSynchronize)());
                }
        }
        return NULL;
}

static void stream_storm(void)
{
        CUmodule module = load_kernels();
        pthread_t thread[STORM_THREADS];
        uint32_t seed[STORM_THREADS];
        void *params[] = {&storm.scratch};
        CUdeviceptr counter;
        CUgraph graph;
        size_t size;

        storm.bump = kernel(module, "cleave_bump");
        storm.scratch = words_new(1, 0);
        for (unsigned i = 0; i < STORM_STREAMS; i++) {
                OK(cu(cuStreamCreate)(&storm.stream[i], i & 1));
                OK(cu(cuEventCreate)(&storm.event[i], i & 2));
        }
        OK(cu(cuStreamBeginCapture_v2)(storm.stream[0], CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(launch_one(storm.bump, storm.stream[0], params));
        OK(cu(cuStreamEndCapture)(storm.stream[0], &graph));
        OK(cu(cuGraphInstantiateWithFlags)(&storm.graph, graph, 0));
        for (unsigned i = 0; i < STORM_THREADS; i++) {
                seed[i] = i * 7919 + 1;
                CHECK(pthread_create(&thread[i], NULL, storm_run, &seed[i]) == 0);
        }
        for (unsigned i = 0; i < STORM_THREADS; i++)
                pthread_join(thread[i], NULL);
        OK(cu(cuCtxSynchronize)());
        CHECK(storm.called == storm.calls);
        OK(cu(cuModuleGetGlobal_v2)(&counter, &size, module, "cleave_counter"));
        CHECK(words_are(counter, 1, 7 + storm.bumps));
        for (unsigned i = 0; i < STORM_STREAMS; i++) {
                OK(cu(cuStreamDestroy_v2)(storm.stream[i]));
                OK(cu(cuEventDestroy_v2)(storm.event[i]));
        }
        OK(cu(cuGraphExecDestroy)(storm.graph));
}

const struct test_case stream_cases[] = {
        {"stream_life", stream_life, false},
        {"default_streams", default_streams, false},
        {"stream_order", stream_order, false},
        {"legacy_order", legacy_order, false},
        {"per_thread", per_thread, false},
        {"per_thread_entries", per_thread_entries, false},
        {"destroy_pending", destroy_pending, false},
        {"event_life", event_life, false},
        {"event_time", event_time, false},
        {"event_wait", event_wait, false},
        {"host_functions", host_functions, false},
        {"values", values, false},
        {"async_copies", async_copies, false},
        {"many_queued", many_queued, false},
        {"stream_attributes", stream_attributes, false},
        {"stream_storm", stream_storm, false},
        {NULL, NULL, false},
};
