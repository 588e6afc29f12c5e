/* SPDX-License-Identifier: Apache-2.0 */
/* Memory and events shared between processes. */
#include <errno.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conformance.h"

/* The other process is forked before either has called cuInit. Each waits for the other by way of
 * the sockets; a byte that does not come ends it. */
static int sockets[2], mine;

static void tell(const void *data, size_t size)
{
        CHECK(write(mine, data, size) == (ssize_t)size);
}

static void hear(void *data, size_t size)
{
        ssize_t n;

        do
                n = read(mine, data, size);
        while (n < 0 && errno == EINTR);
        CHECK(n == (ssize_t)size);
}

static void start(void)
{
        OK(cu(cuInit)(0));
        OK(cu(cuDeviceGet)(&device, 0));
        OK(cu(cuDevicePrimaryCtxRetain)(&context, device));
        OK(cu(cuCtxSetCurrent)(context));
}

/* Runs the one in a child, the other here. */
static void pair(void (*child)(void), void (*parent)(void))
{
        int status;
        pid_t pid;

        CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets) == 0);
        pid = fork();
        if (pid == 0) {
                mine = sockets[1];
                close(sockets[0]);
                alarm(20);
                start();
                child();
                fflush(stdout);
                _exit(0);
        }
        mine = sockets[0];
        close(sockets[1]);
        start();
        parent();
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void memory_child(void)
{
        CUipcMemHandle handle;
        CUdeviceptr p;
        size_t before;

        hear(&handle, sizeof(handle));
        before = free_memory();
        OK(cu(cuIpcOpenMemHandle_v2)(&p, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
        CHECK(words_are(p, 1 << 20, 5));
        PROBE_VALUE(0, (long)(before - free_memory()));
        OK(cu(cuMemsetD32_v2)(p, 6, 1 << 20));
        OK(cu(cuCtxSynchronize)());
        PROBE(CUDA_ERROR_INVALID_VALUE, cu(cuMemFree_v2)(p));
        OK(cu(cuIpcCloseMemHandle)(p));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuIpcCloseMemHandle)(p));
        tell("x", 1);
}

static void memory_parent(void)
{
        CUdeviceptr p = words_new(1 << 20, 5), q;
        CUipcMemHandle handle;
        char byte;

        OK(cu(cuIpcGetMemHandle)(&handle, p));
        PROBE(CUDA_ERROR_INVALID_CONTEXT, cu(cuIpcOpenMemHandle_v2)(&q, handle, 1));
        tell(&handle, sizeof(handle));
        hear(&byte, 1);
        CHECK(words_are(p, 1 << 20, 6));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuIpcGetMemHandle)(NULL, p));
        IS(CUDA_ERROR_INVALID_VALUE, cu(cuIpcGetMemHandle)(&handle, 0x1234));
        OK(cu(cuMemFree_v2)(p));
}

static void ipc_memory(void)
{
        pair(memory_child, memory_parent);
}

static void event_child(void)
{
        CUipcEventHandle handle;
        CUevent event;
        char byte;

        hear(&handle, sizeof(handle));
        OK(cu(cuIpcOpenEventHandle)(&event, handle));
        tell("x", 1);
        hear(&byte, 1);
        IS(CUDA_ERROR_NOT_READY, cu(cuEventQuery)(event));
        OK(cu(cuStreamWaitEvent)(NULL, event, 0));
        IS(CUDA_ERROR_NOT_READY, cu(cuStreamQuery)(NULL));
        tell("x", 1);
        OK(cu(cuEventSynchronize)(event));
        OK(cu(cuStreamSynchronize)(NULL));
        OK(cu(cuEventDestroy_v2)(event));
        tell("x", 1);
}

static void event_parent(void)
{
        CUmodule module = load_kernels();
        struct gate gate = gate_new();
        CUipcEventHandle handle;
        CUevent event, plain;
        CUstream stream;
        char byte;

        OK(cu(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
        OK(cu(cuEventCreate)(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
        OK(cu(cuEventCreate)(&plain, CU_EVENT_DISABLE_TIMING));
        PROBE(CUDA_ERROR_INVALID_HANDLE, cu(cuIpcGetEventHandle)(&handle, plain));
        OK(cu(cuIpcGetEventHandle)(&handle, event));
        tell(&handle, sizeof(handle));
        hear(&byte, 1);
        gate_shut(&gate, module, stream);
        OK(cu(cuEventRecord)(event, stream));
        tell("x", 1);
        hear(&byte, 1);
        gate_open(&gate);
        OK(cu(cuStreamSynchronize)(stream));
        OK(cu(cuEventQuery)(event));
        hear(&byte, 1);
        OK(cu(cuEventDestroy_v2)(event));
}

static void ipc_event(void)
{
        pair(event_child, event_parent);
}

const struct test_case process_cases[] = {
        {"ipc_memory", ipc_memory, true},
        {"ipc_event", ipc_event, true},
        {NULL, NULL, false},
};
