/* SPDX-License-Identifier: Apache-2.0 */
/* Several processes on one machine: sums, sharing, death at any moment, many at once. */
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define FOOTPRINT (518 * MIB)

static const CUmemAllocationProp exported = {
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
        .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0},
};
static const CUmemAccessDesc all_access = {
        .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0},
        .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
};

static unsigned int next_random(unsigned int *state)
{
        *state = *state * 1664525u + 1013904223u;
        return *state >> 8;
}

static void send_bytes(int fd, const void *data, size_t bytes)
{
        CHECK_EQ(write(fd, data, bytes), (ssize_t)bytes);
}

static void receive_bytes(int fd, void *data, size_t bytes)
{
        CHECK_EQ(read(fd, data, bytes), (ssize_t)bytes);
}

static void send_fd(int socket, int fd)
{
        char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
        struct iovec part = {&byte, 1};
        struct msghdr message = {
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = control,
                .msg_controllen = sizeof(control),
        };
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);

        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &fd, sizeof(fd));
        CHECK_EQ(sendmsg(socket, &message, 0), 1);
}

static int receive_fd(int socket)
{
        char byte, control[CMSG_SPACE(sizeof(int))];
        struct iovec part = {&byte, 1};
        struct msghdr message = {
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = control,
                .msg_controllen = sizeof(control),
        };
        int fd;

        CHECK_EQ(recvmsg(socket, &message, 0), 1);
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
        return fd;
}

/* ---- sharing ---- */

static void share_exporter(int socket)
{
        CUmemPoolProps properties = {
                .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                .handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0},
        };
        CUmemGenericAllocationHandle handle;
        CUdeviceptr small, large, mapped, pooled;
        CUmemPoolPtrExportData pointer;
        CUipcMemHandle ipc;
        CUmemoryPool pool;
        CUcontext context;
        char byte;
        int fd;

        OK(cuInit(0));
        OK(cuCtxCreate_v2(&context, 0, 0));
        OK(cuMemAlloc_v2(&small, 1000));
        OK(cuMemAlloc_v2(&small, 1000)); /* not at the beginning of its block */
        OK(cuMemAlloc_v2(&large, 8 * MIB));
        memset((void *)small, 1, 1000);
        memset((void *)large, 2, 8 * MIB);
        OK(cuIpcGetMemHandle(&ipc, small));
        send_bytes(socket, &ipc, sizeof(ipc));
        OK(cuIpcGetMemHandle(&ipc, large));
        send_bytes(socket, &ipc, sizeof(ipc));

        OK(cuMemCreate(&handle, 4 * MIB, &exported, 0));
        OK(cuMemAddressReserve(&mapped, 4 * MIB, 0, 0, 0));
        OK(cuMemMap(mapped, 4 * MIB, 0, handle, 0));
        OK(cuMemSetAccess(mapped, 4 * MIB, &all_access, 1));
        memset((void *)mapped, 3, 4 * MIB);
        OK(cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
        send_fd(socket, fd);
        close(fd);

        OK(cuMemPoolCreate(&pool, &properties));
        OK(cuMemAllocFromPoolAsync(&pooled, 5000, pool, NULL));
        memset((void *)pooled, 4, 5000);
        OK(cuMemPoolExportToShareableHandle(
                &fd, pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
        send_fd(socket, fd);
        close(fd);
        OK(cuMemPoolExportPointer(&pointer, pooled));
        send_bytes(socket, &pointer, sizeof(pointer));

        receive_bytes(socket, &byte, 1); /* the other has written */
        CHECK_EQ(((unsigned char *)large)[8 * MIB - 1], 22);
        CHECK_EQ(cuIpcOpenMemHandle_v2(&small, ipc, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
                CUDA_ERROR_INVALID_CONTEXT);
        send_bytes(socket, &byte, 1);
        pause(); /* to be killed */
}

static void test_sharing(void)
{
        CUmemGenericAllocationHandle handle;
        CUdeviceptr small, large, again, mapped, pooled;
        CUmemPoolPtrExportData pointer;
        CUipcMemHandle ipc[2], broken;
        int sockets[2], fd, status;
        uint64_t own, exporter;
        CUmemoryPool pool;
        CUcontext context;
        char byte = 0;
        pid_t pid;

        CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), 0);
        pid = fork();
        if (pid == 0) {
                share_exporter(sockets[1]);
                exit(0);
        }
        close(sockets[1]);
        OK(cuInit(0));
        OK(cuCtxCreate_v2(&context, 0, 0));
        own = (uint64_t)nvml_process(0, getpid());
        receive_bytes(sockets[0], &ipc[0], sizeof(ipc[0]));
        receive_bytes(sockets[0], &ipc[1], sizeof(ipc[1]));
        OK(cuIpcOpenMemHandle_v2(&small, ipc[0], CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
        OK(cuIpcOpenMemHandle_v2(&large, ipc[1], CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
        OK(cuIpcOpenMemHandle_v2(&again, ipc[1], CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
        CHECK(large == again);
        OK(cuIpcCloseMemHandle(again));
        CHECK_EQ(*(unsigned char *)small, 1);
        CHECK_EQ(((unsigned char *)large)[8 * MIB - 1], 2);
        ((unsigned char *)large)[8 * MIB - 1] = 22;
        CHECK_EQ(cuMemFree_v2(large), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuIpcOpenMemHandle_v2(&again, ipc[1], 0), CUDA_ERROR_INVALID_VALUE);
        memset(&broken, 0x5a, sizeof(broken));
        CHECK_EQ(cuIpcOpenMemHandle_v2(&again, broken, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
                CUDA_ERROR_INVALID_VALUE);

        fd = receive_fd(sockets[0]);
        OK(cuMemImportFromShareableHandle(
                &handle, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
        close(fd);
        OK(cuMemAddressReserve(&mapped, 4 * MIB, 0, 0, 0));
        OK(cuMemMap(mapped, 4 * MIB, 0, handle, 0));
        OK(cuMemRelease(handle));
        OK(cuMemSetAccess(mapped, 4 * MIB, &all_access, 1));
        CHECK_EQ(((unsigned char *)mapped)[4 * MIB - 1], 3);
        CHECK_EQ(cuMemImportFromShareableHandle(&handle, (void *)(intptr_t)sockets[0],
                         CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
                CUDA_ERROR_INVALID_VALUE);

        fd = receive_fd(sockets[0]);
        OK(cuMemPoolImportFromShareableHandle(
                &pool, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
        close(fd);
        receive_bytes(sockets[0], &pointer, sizeof(pointer));
        OK(cuMemPoolImportPointer(&pooled, pool, &pointer));
        CHECK_EQ(((unsigned char *)pooled)[4999], 4);
        OK(cuMemFreeAsync(pooled, NULL));

        /* nothing of this is counted twice, nor on the one who did not take it */
        exporter = (uint64_t)nvml_process(0, pid);
        CHECK_EQ(exporter, FOOTPRINT + (2 + 8 + 4 + 32) * MIB);
        CHECK_EQ(nvml_process(0, getpid()), own);
        CHECK_EQ(nvml_used(0), own + exporter);
        send_bytes(sockets[0], &byte, 1);
        receive_bytes(sockets[0], &byte, 1);

        /* what is still open outlives its maker */
        CHECK_EQ(kill(pid, SIGKILL), 0);
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        OK(cuCtxSynchronize());
        CHECK(wait_used(0, own + (2 + 8 + 4) * MIB, 10));
        CHECK_EQ(((unsigned char *)large)[0], 2);
        OK(cuIpcCloseMemHandle(small));
        OK(cuIpcCloseMemHandle(large));
        CHECK_EQ(cuIpcCloseMemHandle(large), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(nvml_used(0), own + 4 * MIB);
        OK(cuMemUnmap(mapped, 4 * MIB));
        CHECK_EQ(nvml_used(0), own);
        CHECK_EQ(cuIpcOpenMemHandle_v2(&large, ipc[1], CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
                CUDA_ERROR_INVALID_VALUE);
        OK(cuCtxDestroy_v2(context));
        CHECK_EQ(nvml_used(0), 0);
        close(sockets[0]);
}

/* ---- death ---- */

static void *churn(void *arg)
{
        unsigned int state = (unsigned int)(uintptr_t)arg;
        CUdeviceptr p[32] = {0};
        CUcontext context;

        OK(cuDevicePrimaryCtxRetain(&context, 0));
        OK(cuCtxSetCurrent(context));
        for (;;) {
                unsigned int i = next_random(&state) % 32;
                size_t bytes = 1 + next_random(&state) % (4 * MIB);
                CUresult r;

                if (p[i]) {
                        *(volatile char *)p[i] = 1;
                        OK(cuMemFree_v2(p[i]));
                        p[i] = 0;
                        continue;
                }
                r = next_random(&state) % 4 ? cuMemAlloc_v2(&p[i], bytes)
                                            : cuMemAllocAsync(&p[i], bytes, NULL);
                CHECK(r == CUDA_SUCCESS || r == CUDA_ERROR_OUT_OF_MEMORY);
                if (r)
                        p[i] = 0;
                else
                        CHECK_EQ(*(volatile char *)p[i] & ~1, 0);
        }
        return NULL;
}

static void churner(unsigned int seed)
{
        pthread_t thread;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        OK(cuInit(0));
        pthread_create(&thread, NULL, churn, (void *)(uintptr_t)(seed * 2 + 1));
        churn((void *)(uintptr_t)(seed * 2));
}

static void test_killed(void)
{
        enum { PROCESSES = 6 };
        unsigned int state = (unsigned int)getpid(), seed = 1;
        pid_t pid[PROCESSES] = {0};
        double end = seconds() + 2.5;
        int killed = 0, status;

        while (seconds() < end) {
                int i = (int)(next_random(&state) % PROCESSES);

                if (pid[i]) {
                        CHECK_EQ(waitpid(pid[i], &status, WNOHANG), 0);
                        CHECK_EQ(kill(pid[i], SIGKILL), 0);
                        CHECK_EQ(waitpid(pid[i], &status, 0), pid[i]);
                        killed++;
                }
                pid[i] = fork();
                if (pid[i] == 0) {
                        churner(seed);
                        exit(1);
                }
                seed++;
                usleep(next_random(&state) % 20000);
                nvml_used(0);
        }
        for (int i = 0; i < PROCESSES; i++)
                if (pid[i]) {
                        kill(pid[i], SIGKILL);
                        CHECK_EQ(waitpid(pid[i], &status, 0), pid[i]);
                        CHECK(WIFSIGNALED(status));
                }
        CHECK(killed > 20);
        CHECK(wait_used(0, 0, 10));
        printf("%d processes killed\n", killed);
}

/* The memory of the dead shows for a while, then it is gone. */
static void test_release_delay(void)
{
        double death;
        int status;
        pid_t pid;

        setenv("CLEAVE_SIM_FAULTS", "release=150ms", 1);
        pid = fork();
        if (pid == 0) {
                execl("/proc/self/exe", "processes", "holder", NULL);
                exit(1);
        }
        unsetenv("CLEAVE_SIM_FAULTS");
        CHECK(wait_used(0, FOOTPRINT, 5));
        CHECK_EQ(kill(pid, SIGKILL), 0);
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        death = seconds();
        CHECK_EQ(nvml_used(0), FOOTPRINT);
        CHECK_EQ(nvml_process(0, pid), FOOTPRINT);
        CHECK(wait_used(0, 0, 10));
        CHECK(seconds() - death > 0.14 && seconds() - death < 5);
}

/* Much memory is zeroed in several goes, and is all zero when somebody else gets it. */
static void test_zeroed(void)
{
        enum { BYTES = 200 << 20 };
        int ready[2], status;
        CUcontext context;
        CUdeviceptr p;
        char byte = 0;
        pid_t pid;

        CHECK_EQ(pipe(ready), 0);
        pid = fork();
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                OK(cuInit(0));
                OK(cuCtxCreate_v2(&context, 0, 0));
                OK(cuMemAlloc_v2(&p, BYTES));
                memset((void *)p, 0xff, BYTES);
                send_bytes(ready[1], &byte, 1);
                pause();
        }
        receive_bytes(ready[0], &byte, 1);
        CHECK_EQ(kill(pid, SIGKILL), 0);
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK(wait_used(0, 0, 10));
        close(ready[0]);
        close(ready[1]);

        pid = fork();
        if (pid == 0) {
                OK(cuInit(0));
                OK(cuCtxCreate_v2(&context, 0, 0));
                OK(cuMemAlloc_v2(&p, BYTES + 64 * MIB));
                for (size_t i = 0; i < BYTES + 64 * MIB; i += 65536)
                        CHECK_EQ(((volatile unsigned char *)p)[i], 0);
                exit(0);
        }
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK_EQ(status, 0);
        CHECK(wait_used(0, 0, 10));
}

/* A program that closes all descriptors goes on, and is not taken for dead; nor does a child that
 * it leaves behind keep its memory. */
static void test_closed(void)
{
        int ready[2], status;
        char byte = 0;
        pid_t pid;

        CHECK_EQ(pipe(ready), 0);
        pid = fork();
        if (pid == 0) {
                CUcontext context;
                CUdeviceptr p, q;

                prctl(PR_SET_PDEATHSIG, SIGKILL);
                OK(cuInit(0));
                OK(cuCtxCreate_v2(&context, 0, 0));
                OK(cuMemAlloc_v2(&p, 4 * MIB));
                CHECK_EQ(dup2(ready[1], 0), 0);
                CHECK_EQ(close_range(3, ~0u, 0), 0);
                for (int i = 0; i < 5; i++)
                        CHECK(open("/proc/self/stat", O_RDONLY) >= 3);
                OK(cuMemAlloc_v2(&q, 4 * MIB));
                memset((void *)p, 1, 4 * MIB);
                memset((void *)q, 1, 4 * MIB);
                OK(cuMemFree_v2(p));
                if (fork() == 0) {
                        close_range(0, ~0u, 0);
                        sleep(10);
                        _exit(0);
                }
                send_bytes(0, &byte, 1);
                pause();
        }
        receive_bytes(ready[0], &byte, 1);
        usleep(100000);
        CHECK_EQ(nvml_used(0), FOOTPRINT + 4 * MIB);
        usleep(100000);
        CHECK_EQ(nvml_used(0), FOOTPRINT + 4 * MIB);
        CHECK_EQ(kill(pid, SIGKILL), 0);
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK(wait_used(0, 0, 8));
        close(ready[0]);
        close(ready[1]);
}

/* ---- many ---- */

static void test_many(void)
{
        enum { PROCESSES = 150 };
        nvmlProcessInfo_t infos[PROCESSES];
        pid_t pid[PROCESSES];
        int ready[2], go[2], status;
        unsigned int n = 1;
        double begin;
        char byte = 0;

        /* as many contexts as the device has room for */
        CHECK_EQ(pipe(ready), 0);
        CHECK_EQ(pipe(go), 0);
        begin = seconds();
        for (int i = 0; i < PROCESSES; i++) {
                pid[i] = fork();
                if (pid[i] == 0) {
                        CUcontext context;

                        close(go[1]);
                        OK(cuInit(0));
                        OK(cuCtxCreate_v2(&context, 0, 0));
                        send_bytes(ready[1], &byte, 1);
                        if (read(go[0], &byte, 1) < 0)
                                exit(1);
                        _exit(0);
                }
        }
        for (int i = 0; i < PROCESSES; i++)
                receive_bytes(ready[0], &byte, 1);
        printf("%d processes with a context: %.0f ms\n", PROCESSES, (seconds() - begin) * 1e3);
        CHECK_EQ(nvml_used(0), PROCESSES * FOOTPRINT);
        CHECK_EQ(nvmlDeviceGetComputeRunningProcesses_v3(nvml_device(0), &n, infos),
                NVML_ERROR_INSUFFICIENT_SIZE);
        CHECK_EQ(n, PROCESSES);
        CHECK_EQ(nvmlDeviceGetComputeRunningProcesses_v3(nvml_device(0), &n, infos), NVML_SUCCESS);
        close(go[0]);
        close(go[1]);
        for (int i = 0; i < PROCESSES; i++) {
                CHECK_EQ(waitpid(pid[i], &status, 0), pid[i]);
                CHECK_EQ(status, 0);
        }
        CHECK(wait_used(0, 0, 10));
        close(ready[0]);
        close(ready[1]);
}

int main(int argc, char **argv)
{
        CUcontext context;

        if (argc > 1) {
                OK(cuInit(0));
                OK(cuCtxCreate_v2(&context, 0, 0));
                pause();
        }
        machine("h100");
        test_release_delay();
        test_closed();
        test_zeroed();
        test_many();
        test_killed();
        test_sharing();
        return 0;
}
