/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program as users write them, in small pieces: each subcommand does one ordinary thing with the
 * driver API, through dlopen, and prints what it saw as `key value` lines. test_behaviour.py runs
 * them inside and outside a tenant and compares.
 */
#include <dlfcn.h>
#include <errno.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda_api.h"
#include "nvml_api.h"

static void *library;

static void *entry(const char *name)
{
        void *address = library ? dlsym(library, name) : NULL;

        if (!address) {
                fprintf(stderr, "no %s: %s\n", name, dlerror());
                exit(3);
        }
        return address;
}

#define CU(name) ((__typeof__(&name))entry(#name))

#define MUST(call)                                                                                 \
        do {                                                                                       \
                CUresult result_ = (call);                                                         \
                if (result_ != CUDA_SUCCESS) {                                                     \
                        fprintf(stderr, "%s: CUDA error %d\n", #call, result_);                    \
                        exit(3);                                                                   \
                }                                                                                  \
        } while (0)

static void load(void)
{
        library = dlopen("libcuda.so.1", RTLD_NOW);
        if (!library) {
                fprintf(stderr, "%s\n", dlerror());
                exit(3);
        }
}

static CUcontext context_on(CUdevice device)
{
        CUcontext context;

        MUST(CU(cuDevicePrimaryCtxRetain)(&context, device));
        MUST(CU(cuCtxSetCurrent)(context));
        return context;
}

static void begin(void)
{
        load();
        MUST(CU(cuInit)(0));
        context_on(0);
}

static size_t free_bytes(void)
{
        size_t free_now, total;

        MUST(CU(cuMemGetInfo_v2)(&free_now, &total));
        return free_now;
}

/* uuid of every device, as the driver tells it */
static int uuids(void)
{
        CUuuid uuid;
        int count;

        load();
        MUST(CU(cuInit)(0));
        MUST(CU(cuDeviceGetCount)(&count));
        for (int i = 0; i < count; i++) {
                MUST(CU(cuDeviceGetUuid)(&uuid, i));
                printf("uuid ");
                for (int b = 0; b < 16; b++)
                        printf("%02x", (unsigned char)uuid.bytes[b]);
                printf("\n");
        }
        return 0;
}

static int init(void)
{
        load();
        printf("init %d\n", CU(cuInit)(0));
        return 0;
}

static int capacity(void)
{
        size_t free_now, total, device_total;
        unsigned old_free, old_total;

        begin();
        MUST(CU(cuMemGetInfo_v2)(&free_now, &total));
        MUST(CU(cuDeviceTotalMem_v2)(&device_total, 0));
        printf("total %zu\ndevice_total %zu\nfree %zu\n", total, device_total, free_now);
        printf("no_free %d\n", CU(cuMemGetInfo_v2)(NULL, &total));
        printf("no_total %d\n", CU(cuMemGetInfo_v2)(&free_now, NULL));
        printf("neither %d\n", CU(cuMemGetInfo_v2)(NULL, NULL));
        old_total = 0;
        ((CUresult(*)(unsigned *, unsigned *))entry("cuMemGetInfo"))(&old_free, &old_total);
        printf("old_total %u\n", old_total);
        MUST(CU(cuCtxSetCurrent)(NULL));
        printf("without_context %d\n", CU(cuMemGetInfo_v2)(&free_now, &total));
        printf("bad_device %d\n", CU(cuDeviceTotalMem_v2)(&device_total, 99));
        return 0;
}

/* takes all there is in blocks, is refused, gives back a part, can take it again */
static int fill(void)
{
        CUdeviceptr blocks[4096];
        CUresult result = CUDA_SUCCESS;
        size_t before;
        int n = 0;

        begin();
        before = free_bytes();
        while (n < 4096 && result == CUDA_SUCCESS) {
                result = CU(cuMemAlloc_v2)(&blocks[n], 64 << 20);
                if (result == CUDA_SUCCESS)
                        n++;
        }
        printf("blocks %d\nrefused %d\nleft %zu\n", n, result, free_bytes());
        MUST(CU(cuMemFree_v2)(blocks[--n]));
        printf("again %d\n", CU(cuMemAlloc_v2)(&blocks[n], 64 << 20));
        n++;
        while (n > 0)
                MUST(CU(cuMemFree_v2)(blocks[--n]));
        printf("restored %d\n", free_bytes() == before);
        return 0;
}

static int pool_refused(void)
{
        CUdeviceptr ptr;
        size_t before;

        begin();
        MUST(CU(cuMemAllocAsync)(&ptr, 1 << 20, NULL));
        MUST(CU(cuMemFreeAsync)(ptr, NULL));
        MUST(CU(cuCtxSynchronize)());
        before = free_bytes();
        printf("refused %d\n", CU(cuMemAllocAsync)(&ptr, 100ull << 30, NULL));
        printf("unchanged %d\n", free_bytes() >= before);
        return 0;
}

static int managed(void)
{
        CUdeviceptr a, b;
        size_t before, during;

        begin();
        before = free_bytes();
        MUST(CU(cuMemAllocManaged)(&a, 256 << 20, CU_MEM_ATTACH_GLOBAL));
        during = free_bytes();
        printf("charged %zu\n", before - during);
        printf("refused %d\n", CU(cuMemAllocManaged)(&b, before, CU_MEM_ATTACH_GLOBAL));
        printf("bad_flags %d\n", CU(cuMemAllocManaged)(&b, 1 << 20, 77));
        printf("unchanged %d\n", free_bytes() == during);
        MUST(CU(cuMemFree_v2)(a));
        printf("returned %d\n", free_bytes() == before);
        printf("twice %d\n", CU(cuMemFree_v2)(a) != CUDA_SUCCESS);
        MUST(CU(cuMemAllocManaged)(&a, 256 << 20, CU_MEM_ATTACH_GLOBAL));
        MUST(CU(cuDevicePrimaryCtxReset_v2)(0));
        context_on(0);
        printf("reset %d\n", free_bytes() + (2 << 20) >= before);
        return 0;
}

static int child_status(pid_t pid)
{
        int status;

        if (waitpid(pid, &status, 0) != pid)
                return -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void take(size_t mib)
{
        CUdeviceptr ptr;

        MUST(CU(cuMemAlloc_v2)(&ptr, mib << 20));
}

/* fork before CUDA is used: both are processes of the tenant */
static int fork_before(void)
{
        pid_t pid;

        load();
        pid = fork();
        if (pid == 0) {
                begin();
                take(100);
                _exit(0);
        }
        begin();
        take(50);
        printf("child %d\n", child_status(pid));
        return 0;
}

/* fork after: in the child the driver answers NOT_INITIALIZED, and the parent's account is its own
 */
static int fork_after(void)
{
        size_t before, after;
        pid_t pid;

        begin();
        take(50);
        before = free_bytes();
        pid = fork();
        if (pid == 0) {
                CUdeviceptr ptr;

                exit(CU(cuMemAlloc_v2)(&ptr, 1 << 20));
        }
        printf("child %d\n", child_status(pid));
        after = free_bytes();
        printf("unchanged %d\n", before == after);
        take(50);
        return 0;
}

/* a forked child that becomes another program, which uses CUDA itself */
static int exec_child(char **argv)
{
        pid_t pid;

        begin();
        take(50);
        pid = fork();
        if (pid == 0) {
                execl(argv[0], argv[0], "hold", "30", (char *)NULL);
                _exit(9);
        }
        printf("child %d\n", child_status(pid));
        return 0;
}

/* the process itself becomes another program while it holds memory */
static int exec_self(char **argv)
{
        begin();
        take(200);
        execl(argv[0], argv[0], argv[2] ? argv[2] : "hold", "30", (char *)NULL);
        return 9;
}

static int hold(const char *mib)
{
        begin();
        take((size_t)atoi(mib));
        printf("held %s\n", mib);
        return 0;
}

static void *thread_work(void *arg)
{
        CUcontext context = arg;

        MUST(CU(cuCtxSetCurrent)(context));
        for (int i = 0; i < 300; i++) {
                CUdeviceptr ptr;

                if (CU(cuMemAlloc_v2)(&ptr, (size_t)(i % 7 + 2) << 20) == CUDA_SUCCESS)
                        MUST(CU(cuMemFree_v2)(ptr));
        }
        return NULL;
}

static int threads(void)
{
        pthread_t thread[8];
        CUcontext context;
        size_t before;

        begin();
        MUST(CU(cuCtxGetCurrent)(&context));
        before = free_bytes();
        for (int i = 0; i < 8; i++)
                pthread_create(&thread[i], NULL, thread_work, context);
        for (int i = 0; i < 8; i++)
                pthread_join(thread[i], NULL);
        printf("balanced %d\n", free_bytes() == before);
        return 0;
}

/* closing the library, opening it again, closing it at exit */
static int close_library(void)
{
        begin();
        take(20);
        dlclose(library);
        load();
        take(20);
        dlclose(library);
        printf("done 1\n");
        return 0;
}

static int devices(void)
{
        int count;
        size_t total, free_now;
        CUdeviceptr ptr;

        load();
        MUST(CU(cuInit)(0));
        MUST(CU(cuDeviceGetCount)(&count));
        printf("count %d\n", count);
        for (int i = 0; i < count; i++) {
                CUcontext context;

                MUST(CU(cuDeviceTotalMem_v2)(&total, i));
                printf("total%d %zu\n", i, total);
                if (CU(cuDevicePrimaryCtxRetain)(&context, i) != CUDA_SUCCESS) {
                        printf("context%d refused\n", i);
                        continue;
                }
                MUST(CU(cuCtxSetCurrent)(context));
                MUST(CU(cuMemGetInfo_v2)(&free_now, &total));
                printf("info%d %zu\n", i, total);
                MUST(CU(cuMemAlloc_v2)(&ptr, (size_t)(i + 1) * (64 << 20)));
        }
        return 0;
}

static void our_handler(int number)
{
}

/* we are a guest: what is the program's own stays as it was */
static int manners(void)
{
        struct sigaction before[65], after;
        char directory[4096], now[4096];
        mode_t mask = umask(0027);
        int changed = 0;

        signal(SIGUSR1, our_handler);
        setlocale(LC_ALL, "C.UTF-8");
        if (!getcwd(directory, sizeof(directory)))
                return 3;
        for (int i = 1; i < 65; i++)
                sigaction(i, NULL, &before[i]);
        load();
        errno = 4242;
        MUST(CU(cuInit)(0));
        printf("errno_init %d\n", errno);
        context_on(0);
        errno = 4243;
        take(40);
        free_bytes();
        printf("errno %d\n", errno);
        for (int i = 1; i < 65; i++) {
                sigaction(i, NULL, &after);
                changed += after.sa_handler != before[i].sa_handler;
        }
        printf("signals %d\n", changed);
        printf("umask %o\n", umask(mask));
        printf("directory %d\n", getcwd(now, sizeof(now)) && strcmp(now, directory) == 0);
        printf("locale %s\n", setlocale(LC_ALL, NULL));
        return 0;
}

/* whose function a look-up answers */
static const char *owner(void *address)
{
        Dl_info info;
        const char *name;

        if (!address || !dladdr(address, &info))
                return "none";
        name = info.dli_fname;
        return strstr(name, "/src/guard/") || strstr(name, "/mounted/libcuda") ? "guard" : "driver";
}

static int look_up(void)
{
        static const struct {
                const char *name;
                int version;
                cuuint64_t flags;
        } asked[] = {
                {"cuMemGetInfo", 3020, 0},
                {"cuMemGetInfo", 2000, 0},
                {"cuMemGetInfo", 13000, 2},
                {"cuInit", 2000, 0},
                {"cuDeviceTotalMem", 12000, 0},
                {"cuGetProcAddress", 11030, 0},
                {"cuGetProcAddress", 12000, 0},
                {"cuMemAllocAsync", 11020, 0},
                {"cuMemAllocAsync", 11020, 2},
                {"cuMemFree", 3020, 0},
                {"cuLaunchKernel", 4000, 0},
                {"cuLaunchKernel", 7000, 2},
                {"cuCtxGetDevice", 13000, 0},
                {"", 12000, 0},
                {"cuNoSuchThing", 13000, 0},
                {"cuGreenCtxCreate", 11000, 0},
        };

        load();
        MUST(CU(cuInit)(0));
        for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
                CUdriverProcAddressQueryResult status = 99;
                void *address = NULL;
                CUresult result = CU(cuGetProcAddress_v2)(
                        asked[i].name, &address, asked[i].version, asked[i].flags, &status);

                printf("%s:%d:%d %d,%d,%s\n", asked[i].name, asked[i].version, (int)asked[i].flags,
                        result, status, owner(address));
        }
        return 0;
}

/* holds memory until standard input ends */
static int hold_open(void)
{
        begin();
        take(10);
        printf("held\n");
        fflush(stdout);
        return getchar() != EOF;
}

/* what NVML tells of the machine while this process holds 100 MiB on its device of that number */
static int nvml(unsigned own_device)
{
        void *nvml_library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
        nvmlProcessInfo_t list[64];
        nvmlMemory_v2_t memory_v2 = {.version = sizeof(memory_v2) | 2 << 24};
        nvmlMemory_t memory;
        nvmlDevice_t device, again;
        unsigned count, index, n = 64;
        char uuid[96];

#define ML(name, ...)                                                                              \
        ((__typeof__(&name))(nvml_library ? dlsym(nvml_library, #name) : NULL))(__VA_ARGS__)
        begin();
        take(100);
        if (ML(nvmlInit_v2) != NVML_SUCCESS || ML(nvmlDeviceGetCount_v2, &count) != NVML_SUCCESS)
                return 3;
        printf("count %u\n", count);
        for (unsigned i = 0; i < count; i++) {
                if (ML(nvmlDeviceGetHandleByIndex_v2, i, &device) != NVML_SUCCESS ||
                        ML(nvmlDeviceGetIndex, device, &index) != NVML_SUCCESS ||
                        ML(nvmlDeviceGetUUID, device, uuid, sizeof(uuid)) != NVML_SUCCESS ||
                        ML(nvmlDeviceGetHandleByUUID, uuid, &again) != NVML_SUCCESS ||
                        ML(nvmlDeviceGetMemoryInfo, device, &memory) != NVML_SUCCESS ||
                        ML(nvmlDeviceGetMemoryInfo_v2, device, &memory_v2) != NVML_SUCCESS)
                        return 3;
                printf("index%u %u\nsame%u %d\n", i, index, i, device == again);
                printf("total%u %llu\nused%u %llu\nfree%u %llu\n", i, memory.total, i, memory.used,
                        i, memory.free);
                printf("v2_%u %d\n", i,
                        memory_v2.total == memory.total && memory_v2.used == memory.used);
        }
        printf("beyond %d\n", ML(nvmlDeviceGetHandleByIndex_v2, count, &device));
        ML(nvmlDeviceGetHandleByIndex_v2, own_device, &device);
        printf("processes_result %d\n",
                ML(nvmlDeviceGetComputeRunningProcesses_v3, device, &n, list));
        printf("processes %u\n", n);
        for (unsigned i = 0; i < n && i < 64; i++)
                if (list[i].pid == (unsigned)getpid())
                        printf("own %llu\n", list[i].usedGpuMemory);
        n = 0;
        printf("no_room %d\n", ML(nvmlDeviceGetComputeRunningProcesses_v3, device, &n, NULL));
        printf("wanted %u\n", n);
        return 0;
}

int main(int argc, char **argv)
{
        const char *what = argc > 1 ? argv[1] : "";
        static const struct {
                const char *name;
                int (*run)(void);
        } plain[] = {
                {"uuids", uuids},
                {"init", init},
                {"capacity", capacity},
                {"fill", fill},
                {"pool-refused", pool_refused},
                {"managed", managed},
                {"fork-before", fork_before},
                {"fork-after", fork_after},
                {"threads", threads},
                {"close", close_library},
                {"devices", devices},
                {"manners", manners},
                {"look-up", look_up},
                {"hold-open", hold_open},
        };

        for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
                if (strcmp(what, plain[i].name) == 0)
                        return plain[i].run();
        if (strcmp(what, "exec-child") == 0)
                return exec_child(argv);
        if (strcmp(what, "exec-self") == 0)
                return exec_self(argv);
        if (strcmp(what, "nvml") == 0 && argc == 3)
                return nvml((unsigned)atoi(argv[2]));
        if (strcmp(what, "hold") == 0 && argc == 3)
                return hold(argv[2]);
        fprintf(stderr, "usage: behave WHAT\n");
        return 2;
}
