/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes and gives back device memory at random, by every path that the driver has, from many
 * processes and threads at once. Knows nothing of quotas: CUDA_ERROR_OUT_OF_MEMORY is as good an
 * answer as success, anything else is a failure, and so is a byte that was changed by others.
 *
 * usage: worker PROCESSES THREADS SECONDS SEED [MAX_MIB [PATH]]
 *
 * Processes that are killed are replaced until the time is over. Then everything is given back, one
 * JSON object with counts goes to standard output, and the parent, which uses no GPU, stays until
 * its standard input ends. Exit status 0: no failure.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cuda_api.h"

#define MAX_PROCESSES 256
#define MAX_THREADS   64
#define ITEMS         12 /* that a thread holds at most */
#define MIB           ((size_t)1 << 20)
#define MAX_FAILURES  50   /* then all stop: the first ones tell enough */
#define SAMPLE        4096 /* bytes written and checked at both ends of a block */

#define ENTRIES(X)                                                                                 \
        X(cuInit)                                                                                  \
        X(cuGetErrorName)                                                                          \
        X(cuDeviceGet)                                                                             \
        X(cuDevicePrimaryCtxRetain)                                                                \
        X(cuDevicePrimaryCtxRelease_v2)                                                            \
        X(cuCtxSetCurrent)                                                                         \
        X(cuCtxCreate_v2)                                                                          \
        X(cuCtxDestroy_v2)                                                                         \
        X(cuCtxPopCurrent_v2)                                                                      \
        X(cuCtxSynchronize)                                                                        \
        X(cuStreamCreate)                                                                          \
        X(cuStreamDestroy_v2)                                                                      \
        X(cuStreamSynchronize)                                                                     \
        X(cuMemAlloc_v2)                                                                           \
        X(cuMemAllocPitch_v2)                                                                      \
        X(cuMemAllocManaged)                                                                       \
        X(cuMemFree_v2)                                                                            \
        X(cuMemGetInfo_v2)                                                                         \
        X(cuMemcpyHtoD_v2)                                                                         \
        X(cuMemcpyDtoH_v2)                                                                         \
        X(cuMemAllocAsync)                                                                         \
        X(cuMemAllocFromPoolAsync)                                                                 \
        X(cuMemFreeAsync)                                                                          \
        X(cuDeviceGetDefaultMemPool)                                                               \
        X(cuMemPoolCreate)                                                                         \
        X(cuMemPoolDestroy)                                                                        \
        X(cuMemPoolSetAttribute)                                                                   \
        X(cuMemPoolTrimTo)                                                                         \
        X(cuMemGetAllocationGranularity)                                                           \
        X(cuMemAddressReserve)                                                                     \
        X(cuMemAddressFree)                                                                        \
        X(cuMemCreate)                                                                             \
        X(cuMemRelease)                                                                            \
        X(cuMemMap)                                                                                \
        X(cuMemUnmap)                                                                              \
        X(cuMemSetAccess)                                                                          \
        X(cuArrayCreate_v2)                                                                        \
        X(cuArray3DCreate_v2)                                                                      \
        X(cuArrayDestroy)                                                                          \
        X(cuMipmappedArrayCreate)                                                                  \
        X(cuMipmappedArrayDestroy)                                                                 \
        X(cuGraphCreate)                                                                           \
        X(cuGraphDestroy)                                                                          \
        X(cuGraphAddMemAllocNode)                                                                  \
        X(cuGraphInstantiateWithFlags)                                                             \
        X(cuGraphLaunch)                                                                           \
        X(cuGraphExecDestroy)                                                                      \
        X(cuDeviceGraphMemTrim)                                                                    \
        X(cuIpcGetMemHandle)                                                                       \
        X(cuIpcOpenMemHandle_v2)                                                                   \
        X(cuIpcCloseMemHandle)                                                                     \
        X(cuModuleLoadData)                                                                        \
        X(cuModuleUnload)

#define X(name) static __typeof__(&name) p_##name;
ENTRIES(X)
#undef X

enum path {
        PATH_ALLOC,
        PATH_PITCH,
        PATH_MANAGED,
        PATH_ASYNC,
        PATH_POOL,
        PATH_VMM,
        PATH_ARRAY,
        PATH_ARRAY3D,
        PATH_MIPMAP,
        PATH_GRAPH,
        PATH_IPC,
        PATH_MODULE,
        PATH_CONTEXT,
        PATH_COUNT
};

/* weight: how often a path is taken, of the sum of all. Contexts are large and slow. */
static const struct {
        const char *name;
        unsigned weight;
        bool linear; /* has an address whose bytes can be checked */
} paths[PATH_COUNT] = {
        [PATH_ALLOC] = {"alloc", 20, true},
        [PATH_PITCH] = {"pitch", 8, true},
        [PATH_MANAGED] = {"managed", 6, true},
        [PATH_ASYNC] = {"async", 14, true},
        [PATH_POOL] = {"pool", 10, true},
        [PATH_VMM] = {"vmm", 14, true},
        [PATH_ARRAY] = {"array", 6, false},
        [PATH_ARRAY3D] = {"array3d", 4, false},
        [PATH_MIPMAP] = {"mipmap", 4, false},
        [PATH_GRAPH] = {"graph", 4, true},
        [PATH_IPC] = {"ipc", 4, false},
        [PATH_MODULE] = {"module", 3, false},
        [PATH_CONTEXT] = {"context", 1, false},
};

/* Shared by all processes. */
struct mailbox {
        _Atomic bool filled;
        CUipcMemHandle handle;
};
struct shared {
        _Atomic uint64_t taken[PATH_COUNT], refused[PATH_COUNT], unsupported[PATH_COUNT];
        _Atomic uint64_t failures, checked, contexts_refused;
        _Atomic uint64_t seeds;
        _Atomic bool over;
        struct mailbox box[MAX_PROCESSES];
};
static struct shared *shared;

struct item {
        enum path path;
        bool held;
        size_t size;
        CUdeviceptr address;
        uint64_t stamp;
        union {
                CUmemGenericAllocationHandle handle;
                CUarray array;
                CUmipmappedArray mipmap;
                CUgraphExec exec;
                CUmodule module;
                CUcontext context;
        };
};

struct thread {
        pthread_t id;
        uint64_t random;
        CUstream stream;
        CUmemoryPool pool;
        struct item item[ITEMS];
};

static CUdevice device;
static CUcontext primary;
static size_t granularity = 2 * MIB;
static size_t largest;

static uint64_t next_random(struct thread *t)
{
        /* xorshift64, Marsaglia 2003 */
        t->random ^= t->random << 13;
        t->random ^= t->random >> 7;
        t->random ^= t->random << 17;
        return t->random;
}

static void fail(const char *what, CUresult r)
{
        const char *name = NULL;

        if (atomic_load(&shared->failures) >= MAX_FAILURES) {
                atomic_store(&shared->over, true);
                return;
        }
        if (p_cuGetErrorName)
                p_cuGetErrorName(r, &name);
        fprintf(stderr, "worker %d: %s: %s (%d)\n", getpid(), what, name ? name : "?", r);
        atomic_fetch_add(&shared->failures, 1);
}

/* Every driver call goes through one of these; what is expected to work must. */
#define MUST(call)                                                                                 \
        ({                                                                                         \
                CUresult must_ = (call);                                                           \
                if (must_ != CUDA_SUCCESS)                                                         \
                        fail(#call, must_);                                                        \
                must_ == CUDA_SUCCESS;                                                             \
        })

static CUmemAllocationProp properties(void)
{
        return (CUmemAllocationProp){
                .type = CU_MEM_ALLOCATION_TYPE_PINNED,
                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device},
        };
}

static CUmemAccessDesc access_all(void)
{
        return (CUmemAccessDesc){
                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device},
                .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
}

static CUresult take_vmm(struct item *item)
{
        CUmemAllocationProp prop = properties();
        CUmemAccessDesc access = access_all();
        CUresult r;

        item->size = (item->size + granularity - 1) / granularity * granularity;
        r = p_cuMemAddressReserve(&item->address, item->size, 0, 0, 0);
        if (r != CUDA_SUCCESS)
                return r;
        r = p_cuMemCreate(&item->handle, item->size, &prop, 0);
        if (r != CUDA_SUCCESS) {
                MUST(p_cuMemAddressFree(item->address, item->size));
                return r;
        }
        r = p_cuMemMap(item->address, item->size, 0, item->handle, 0);
        if (r == CUDA_SUCCESS) {
                r = p_cuMemSetAccess(item->address, item->size, &access, 1);
                if (r == CUDA_SUCCESS)
                        return r;
                MUST(p_cuMemUnmap(item->address, item->size));
        }
        MUST(p_cuMemRelease(item->handle));
        MUST(p_cuMemAddressFree(item->address, item->size));
        return r;
}

static void drop_vmm(struct item *item)
{
        MUST(p_cuMemUnmap(item->address, item->size));
        MUST(p_cuMemRelease(item->handle));
        MUST(p_cuMemAddressFree(item->address, item->size));
}

static CUresult take_array(struct item *item)
{
        size_t width = 1024, height = item->size / (4 * width) + 1;
        CUDA_ARRAY_DESCRIPTOR flat = {
                .Width = width, .Height = height, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
        CUDA_ARRAY3D_DESCRIPTOR deep = {.Width = 128,
                .Height = 128,
                .Depth = item->size / (4 * 128 * 128) + 1,
                .Format = CU_AD_FORMAT_FLOAT,
                .NumChannels = 1};

        switch (item->path) {
        case PATH_ARRAY:
                return p_cuArrayCreate_v2(&item->array, &flat);
        case PATH_ARRAY3D:
                return p_cuArray3DCreate_v2(&item->array, &deep);
        default:
                deep.Height = height < 2048 ? height : 2048;
                deep.Width = width;
                deep.Depth = 0;
                return p_cuMipmappedArrayCreate(&item->mipmap, &deep, 4);
        }
}

static CUresult take_graph(struct thread *t, struct item *item)
{
        CUDA_MEM_ALLOC_NODE_PARAMS parameters = {
                .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}},
                .bytesize = item->size,
        };
        CUgraphNode node;
        CUgraph graph;
        CUresult r;

        r = p_cuGraphCreate(&graph, 0);
        if (r != CUDA_SUCCESS)
                return r;
        item->exec = NULL;
        r = p_cuGraphAddMemAllocNode(&node, graph, NULL, 0, &parameters);
        if (r == CUDA_SUCCESS)
                r = p_cuGraphInstantiateWithFlags(&item->exec, graph, 0);
        if (r == CUDA_SUCCESS)
                r = p_cuGraphLaunch(item->exec, t->stream);
        if (r == CUDA_SUCCESS)
                r = p_cuStreamSynchronize(t->stream);
        if (r != CUDA_SUCCESS && item->exec)
                MUST(p_cuGraphExecDestroy(item->exec));
        MUST(p_cuGraphDestroy(graph));
        item->address = parameters.dptr;
        return r;
}

/* The block that another process shows; it may have died meanwhile, then it cannot be opened. */
static CUresult take_ipc(struct thread *t, struct item *item)
{
        struct mailbox *box = shared->box + next_random(t) % MAX_PROCESSES;
        CUipcMemHandle handle;
        CUresult r;

        for (int i = 0; !atomic_load(&box->filled); i++) {
                if (i == 2 * MAX_PROCESSES)
                        return CUDA_ERROR_NOT_SUPPORTED;
                box = box == shared->box + MAX_PROCESSES - 1 ? shared->box : box + 1;
        }
        handle = box->handle;
        r = p_cuIpcOpenMemHandle_v2(&item->address, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
        /* Closed at once: that a process opens a block a second time is an error of its own. */
        if (r == CUDA_SUCCESS)
                MUST(p_cuIpcCloseMemHandle(item->address));
        if (r == CUDA_SUCCESS || r == CUDA_ERROR_OUT_OF_MEMORY)
                return r;
        return CUDA_ERROR_NOT_SUPPORTED;
}

static const char ptx[] = ".version 6.0\n.target sm_50\n.address_size 64\n"
                          ".visible .entry cleave_nothing()\n{\n ret;\n}\n";

static CUresult take(struct thread *t, struct item *item)
{
        size_t pitch;
        CUresult r;

        switch (item->path) {
        case PATH_ALLOC:
                return p_cuMemAlloc_v2(&item->address, item->size);
        case PATH_PITCH:
                r = p_cuMemAllocPitch_v2(&item->address, &pitch, 1000, item->size / 1024 + 1, 4);
                item->size = r == CUDA_SUCCESS ? pitch * (item->size / 1024 + 1) : 0;
                return r;
        case PATH_MANAGED:
                return p_cuMemAllocManaged(&item->address, item->size, CU_MEM_ATTACH_GLOBAL);
        case PATH_ASYNC:
                r = p_cuMemAllocAsync(&item->address, item->size, t->stream);
                if (r == CUDA_SUCCESS)
                        MUST(p_cuStreamSynchronize(t->stream));
                return r;
        case PATH_POOL:
                if (!t->pool)
                        return CUDA_ERROR_NOT_SUPPORTED;
                r = p_cuMemAllocFromPoolAsync(&item->address, item->size, t->pool, t->stream);
                if (r == CUDA_SUCCESS)
                        MUST(p_cuStreamSynchronize(t->stream));
                return r;
        case PATH_VMM:
                return take_vmm(item);
        case PATH_ARRAY:
        case PATH_ARRAY3D:
        case PATH_MIPMAP:
                return take_array(item);
        case PATH_GRAPH:
                return take_graph(t, item);
        case PATH_IPC:
                return take_ipc(t, item);
        case PATH_MODULE:
                return p_cuModuleLoadData(&item->module, ptx);
        case PATH_CONTEXT:
                r = p_cuCtxCreate_v2(&item->context, 0, device);
                if (r == CUDA_SUCCESS)
                        MUST(p_cuCtxPopCurrent_v2(NULL));
                return r;
        default:
                return CUDA_ERROR_NOT_SUPPORTED;
        }
}

static void mark(struct item *item, uint64_t *words)
{
        for (size_t i = 0; i < SAMPLE / sizeof(*words); i++)
                words[i] = item->stamp * 0x9e3779b97f4a7c15u + i;
}

static void write_sample(struct thread *t, struct item *item)
{
        uint64_t words[SAMPLE / sizeof(uint64_t)];

        item->stamp = next_random(t);
        mark(item, words);
        MUST(p_cuMemcpyHtoD_v2(item->address, words, SAMPLE));
        MUST(p_cuMemcpyHtoD_v2(item->address + item->size - SAMPLE, words, SAMPLE));
}

static void check_sample(struct item *item)
{
        uint64_t words[SAMPLE / sizeof(uint64_t)], found[SAMPLE / sizeof(uint64_t)];

        mark(item, words);
        for (int end = 0; end < 2; end++) {
                if (!MUST(p_cuMemcpyDtoH_v2(
                            found, item->address + (end ? item->size - SAMPLE : 0), SAMPLE)))
                        return;
                if (memcmp(words, found, SAMPLE) != 0) {
                        fprintf(stderr, "worker %d: a block of path %s has changed\n", getpid(),
                                paths[item->path].name);
                        atomic_fetch_add(&shared->failures, 1);
                }
        }
        atomic_fetch_add(&shared->checked, 1);
}

static void drop(struct thread *t, struct item *item)
{
        if (paths[item->path].linear)
                check_sample(item);
        switch (item->path) {
        case PATH_ALLOC:
        case PATH_PITCH:
        case PATH_MANAGED:
                MUST(p_cuMemFree_v2(item->address));
                break;
        case PATH_ASYNC:
        case PATH_POOL:
                MUST(p_cuMemFreeAsync(item->address, t->stream));
                MUST(p_cuStreamSynchronize(t->stream));
                break;
        case PATH_VMM:
                drop_vmm(item);
                break;
        case PATH_ARRAY:
        case PATH_ARRAY3D:
                MUST(p_cuArrayDestroy(item->array));
                break;
        case PATH_MIPMAP:
                MUST(p_cuMipmappedArrayDestroy(item->mipmap));
                break;
        case PATH_GRAPH:
                MUST(p_cuMemFreeAsync(item->address, t->stream));
                MUST(p_cuStreamSynchronize(t->stream));
                MUST(p_cuGraphExecDestroy(item->exec));
                break;
        case PATH_MODULE:
                MUST(p_cuModuleUnload(item->module));
                break;
        case PATH_CONTEXT:
                MUST(p_cuCtxDestroy_v2(item->context));
                MUST(p_cuCtxSetCurrent(primary));
                break;
        default:
                break;
        }
        item->held = false;
}

static int only = -1; /* path; -1: all of them */

static bool pick_only(const char *name)
{
        for (only = 0; only < PATH_COUNT; only++)
                if (strcmp(paths[only].name, name) == 0)
                        return true;
        return false;
}

static enum path pick_path(struct thread *t)
{
        unsigned sum = 0, n;

        if (only >= 0)
                return (enum path)only;
        for (int i = 0; i < PATH_COUNT; i++)
                sum += paths[i].weight;
        n = (unsigned)(next_random(t) % sum);
        for (int i = 0; i < PATH_COUNT; i++) {
                if (n < paths[i].weight)
                        return (enum path)i;
                n -= paths[i].weight;
        }
        return PATH_ALLOC;
}

/* Mostly small, now and then up to the largest. */
static size_t pick_size(struct thread *t)
{
        size_t bound = next_random(t) % 4 ? (largest < 4 * MIB ? largest : 4 * MIB) : largest;

        return SAMPLE * 2 + next_random(t) % (bound - SAMPLE * 2);
}

static void step(struct thread *t)
{
        struct item *item = t->item + next_random(t) % ITEMS;
        CUresult r;

        if (item->held) {
                drop(t, item);
                return;
        }
        *item = (struct item){.path = pick_path(t), .size = pick_size(t)};
        r = take(t, item);
        if (r == CUDA_SUCCESS) {
                item->held = true;
                atomic_fetch_add(&shared->taken[item->path], 1);
                if (paths[item->path].linear)
                        write_sample(t, item);
        } else if (r == CUDA_ERROR_OUT_OF_MEMORY) {
                atomic_fetch_add(&shared->refused[item->path], 1);
        } else if (r == CUDA_ERROR_NOT_SUPPORTED) {
                atomic_fetch_add(&shared->unsupported[item->path], 1);
        } else {
                fail(paths[item->path].name, r);
        }
        if (next_random(t) % 64 == 0) {
                CUmemoryPool pool;

                if (MUST(p_cuDeviceGetDefaultMemPool(&pool, device)))
                        MUST(p_cuMemPoolTrimTo(pool, 0));
                MUST(p_cuDeviceGraphMemTrim(device));
        }
}

static bool thread_begin(struct thread *t)
{
        CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
        CUresult r;

        if (!MUST(p_cuCtxSetCurrent(primary)))
                return false;
        /* Streams and pools may take device memory as well. */
        r = p_cuStreamCreate(&t->stream, CU_STREAM_NON_BLOCKING);
        if (r == CUDA_ERROR_OUT_OF_MEMORY)
                t->stream = NULL;
        else if (r != CUDA_SUCCESS)
                fail("cuStreamCreate", r);
        r = p_cuMemPoolCreate(&t->pool, &props);
        if (r != CUDA_SUCCESS) {
                t->pool = NULL;
                if (r != CUDA_ERROR_OUT_OF_MEMORY && r != CUDA_ERROR_NOT_SUPPORTED)
                        fail("cuMemPoolCreate", r);
        }
        return true;
}

static void *thread_main(void *argument)
{
        struct thread *t = argument;

        if (!thread_begin(t))
                return NULL;
        while (!atomic_load(&shared->over))
                step(t);
        for (int i = 0; i < ITEMS; i++)
                if (t->item[i].held)
                        drop(t, t->item + i);
        if (t->pool)
                MUST(p_cuMemPoolDestroy(t->pool));
        if (t->stream)
                MUST(p_cuStreamDestroy_v2(t->stream));
        return NULL;
}

static void load_driver(void)
{
        void *driver = dlopen("libcuda.so.1", RTLD_NOW);

        if (!driver) {
                fprintf(stderr, "worker: %s\n", dlerror());
                exit(1);
        }
#define X(name)                                                                                    \
        p_##name = (__typeof__(p_##name))dlsym(driver, #name);                                     \
        if (!p_##name) {                                                                           \
                fprintf(stderr, "worker: the driver has no %s\n", #name);                          \
                exit(1);                                                                           \
        }
        ENTRIES(X)
#undef X
}

/* A context may not fit into what the others have left; then it is tried again. */
static bool make_context(void)
{
        for (;;) {
                CUresult r = p_cuDevicePrimaryCtxRetain(&primary, device);

                if (r == CUDA_SUCCESS)
                        return MUST(p_cuCtxSetCurrent(primary));
                if (r != CUDA_ERROR_OUT_OF_MEMORY) {
                        fail("cuDevicePrimaryCtxRetain", r);
                        return false;
                }
                atomic_fetch_add(&shared->contexts_refused, 1);
                if (atomic_load(&shared->over))
                        return false;
                usleep(20000);
        }
}

static int worker_main(int index, int threads, uint64_t seed)
{
        struct thread thread[MAX_THREADS] = {0};
        struct mailbox *box = shared->box + index;
        CUmemAllocationProp prop;
        CUdeviceptr shown = 0;

        load_driver();
        if (!MUST(p_cuInit(0)) || !MUST(p_cuDeviceGet(&device, 0)) || !make_context())
                return 0;
        prop = properties();
        MUST(p_cuMemGetAllocationGranularity(
                &granularity, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
        atomic_store(&box->filled, false);
        if (p_cuMemAlloc_v2(&shown, 2 * MIB) == CUDA_SUCCESS &&
                p_cuIpcGetMemHandle(&box->handle, shown) == CUDA_SUCCESS)
                atomic_store(&box->filled, true);
        for (int i = 0; i < threads; i++) {
                thread[i].random = (seed * 64 + (uint64_t)i) * 0x9e3779b97f4a7c15u | 1;
                pthread_create(&thread[i].id, NULL, thread_main, thread + i);
        }
        for (int i = 0; i < threads; i++)
                pthread_join(thread[i].id, NULL);
        if (shown)
                MUST(p_cuMemFree_v2(shown));
        MUST(p_cuDevicePrimaryCtxRelease_v2(device));
        return 0;
}

static pid_t spawn(int index, int threads, uint64_t seed)
{
        pid_t pid = fork();

        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                exit(worker_main(index, threads, seed));
        }
        if (pid < 0) {
                perror("worker: fork");
                atomic_fetch_add(&shared->failures, 1);
        }
        return pid;
}

static void print_counts(unsigned killed)
{
        static const struct {
                const char *name;
                size_t offset;
        } groups[] = {
                {"taken", offsetof(struct shared, taken)},
                {"refused", offsetof(struct shared, refused)},
                {"unsupported", offsetof(struct shared, unsupported)},
        };

        printf("{\"failures\": %llu, \"checked\": %llu, \"contexts_refused\": %llu, \"killed\": %u",
                (unsigned long long)shared->failures, (unsigned long long)shared->checked,
                (unsigned long long)shared->contexts_refused, killed);
        for (size_t g = 0; g < sizeof(groups) / sizeof(*groups); g++) {
                _Atomic uint64_t *counts = (void *)((char *)shared + groups[g].offset);

                printf(", \"%s\": {", groups[g].name);
                for (int i = 0; i < PATH_COUNT; i++)
                        printf("%s\"%s\": %llu", i ? ", " : "", paths[i].name,
                                (unsigned long long)counts[i]);
                printf("}");
        }
        printf("}\n");
        fflush(stdout);
}

static double seconds_now(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
        pid_t pid[MAX_PROCESSES];
        int processes, threads, running = 0;
        unsigned killed = 0;
        double until;
        char rest[256];

        if (argc < 5 || argc > 7) {
                fprintf(stderr, "usage: worker PROCESSES THREADS SECONDS SEED [MAX_MIB [PATH]]\n");
                return 2;
        }
        if (argc > 6 && !pick_only(argv[6])) {
                fprintf(stderr, "worker: no path is called %s\n", argv[6]);
                return 2;
        }
        processes = atoi(argv[1]);
        threads = atoi(argv[2]);
        until = seconds_now() + atof(argv[3]);
        largest = (argc > 5 ? strtoul(argv[5], NULL, 10) : 64) * MIB;
        if (processes < 1 || processes > MAX_PROCESSES || threads < 1 || threads > MAX_THREADS ||
                largest < 2 * MIB) {
                fprintf(stderr, "worker: processes, threads or size out of range\n");
                return 2;
        }
        shared = mmap(
                NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared == MAP_FAILED) {
                perror("worker: mmap");
                return 1;
        }
        atomic_store(&shared->seeds, strtoull(argv[4], NULL, 10) << 20);
        for (int i = 0; i < processes; i++) {
                pid[i] = spawn(i, threads, atomic_fetch_add(&shared->seeds, 1));
                running += pid[i] > 0;
        }
        while (running > 0) {
                int status, index = 0;
                pid_t gone = waitpid(-1, &status, WNOHANG);

                if (seconds_now() >= until)
                        atomic_store(&shared->over, true);
                if (gone <= 0) {
                        usleep(5000);
                        continue;
                }
                while (index < processes && pid[index] != gone)
                        index++;
                running--;
                if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
                        killed++;
                        atomic_store(&shared->box[index].filled, false);
                        if (!atomic_load(&shared->over)) {
                                pid[index] =
                                        spawn(index, threads, atomic_fetch_add(&shared->seeds, 1));
                                running += pid[index] > 0;
                        }
                } else if (status != 0) {
                        fprintf(stderr, "worker: a process ended with status 0x%x\n", status);
                        atomic_fetch_add(&shared->failures, 1);
                }
        }
        print_counts(killed);
        while (read(STDIN_FILENO, rest, sizeof(rest)) > 0)
                ;
        return shared->failures ? 1 : 0;
}
