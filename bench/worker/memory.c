/* SPDX-License-Identifier: Apache-2.0 */
/* Memory: how much there is and what it costs, what is left in it, how fast it is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker.h"

#define BLOCKS_MAX 65536
#define SMALLEST   (2u << 20) /* what the driver takes device memory in */
#define SECRET     0x5ec2e7aau

static CUdeviceptr held[BLOCKS_MAX];
static size_t n_held;

/* Takes memory in ever smaller blocks until not even the smallest is given. */
static int fill(size_t *ret_bytes)
{
        *ret_bytes = 0;
        for (size_t size = 1u << 30; size >= SMALLEST; size /= 2)
                while (n_held < BLOCKS_MAX) {
                        CUresult result = p_cuMemAlloc_v2(&held[n_held], size);

                        if (result == CUDA_ERROR_OUT_OF_MEMORY)
                                break;
                        if (result != CUDA_SUCCESS)
                                return fail_cuda("cuMemAlloc_v2", result);
                        n_held++;
                        *ret_bytes += size;
                }
        return DONE;
}

static int let_go(void)
{
        while (n_held)
                TRY(p_cuMemFree_v2(held[--n_held]));
        return DONE;
}

static int run_fill(int argc, char **argv)
{
        size_t bytes;

        NEED(fill(&bytes));
        say("bytes", (double)bytes);
        return DONE;
}

static int run_release(int argc, char **argv)
{
        return let_go();
}

/* used: what is taken of the device, as this process is told */
static int run_used(int argc, char **argv)
{
        size_t free_bytes, total;

        TRY(p_cuMemGetInfo_v2(&free_bytes, &total));
        say("used", (double)(total - free_bytes));
        say("free", (double)free_bytes);
        return DONE;
}

/* refuse BYTES N: how long cuMemAlloc takes to refuse what cannot be had */
static int run_refuse(int argc, char **argv)
{
        size_t bytes = strtoull(argv[0], NULL, 10), n = strtoul(argv[1], NULL, 10);
        double *t = doubles(n);
        CUdeviceptr memory;

        for (size_t i = 0; i < n; i++) {
                uint64_t begin = now_ns();
                CUresult result = p_cuMemAlloc_v2(&memory, bytes);

                t[i] = (double)(now_ns() - begin) / 1e3;
                if (result == CUDA_SUCCESS)
                        return fail(
                                "%zu bytes were given where they should have been refused", bytes);
                if (result != CUDA_ERROR_OUT_OF_MEMORY)
                        return fail_cuda("cuMemAlloc_v2", result);
        }
        say_spread("refusal", "_us", t, n);
        free(t);
        return DONE;
}

/* secret BYTES: writes a known word into so much memory, keeps it, and says where it is */
static int run_secret(int argc, char **argv)
{
        size_t bytes = strtoull(argv[0], NULL, 10);
        char text[32];

        TRY(p_cuMemAlloc_v2(&held[n_held], bytes));
        TRY(p_cuMemsetD32Async(held[n_held], SECRET, bytes / 4, NULL));
        TRY(p_cuCtxSynchronize());
        snprintf(text, sizeof(text), "%llu", (unsigned long long)held[n_held]);
        say_text("pointer", text);
        n_held++;
        return DONE;
}

static size_t secrets(const uint32_t *words, size_t n)
{
        size_t found = 0;

        for (size_t i = 0; i < n; i++)
                found += words[i] == SECRET;
        return found;
}

/* search BYTES: looks for that word in new memory that nobody has written */
static int run_search(int argc, char **argv)
{
        size_t bytes = strtoull(argv[0], NULL, 10);
        uint32_t *host = malloc(bytes);
        CUdeviceptr memory;

        if (!host)
                return fail("no memory to look at %zu bytes", bytes);
        TRY(p_cuMemAlloc_v2(&memory, bytes));
        TRY(p_cuMemcpyDtoH_v2(host, memory, bytes));
        TRY(p_cuMemFree_v2(memory));
        say("words", (double)secrets(host, bytes / 4));
        free(host);
        return DONE;
}

/* reach POINTER: a kernel reads where another process has the word; this process is of no use
 * afterwards */
static int run_reach(int argc, char **argv)
{
        CUdeviceptr other = strtoull(argv[0], NULL, 10), result;
        uint64_t pair = (uint64_t)SECRET << 32 | SECRET, count = 2, sum = 0;
        void *params[] = {&result, &other, &count};
        CUresult r;

        TRY(p_cuMemAlloc_v2(&result, 8));
        TRY(p_cuMemsetD32Async(result, 0, 2, NULL));
        NEED(launch(KERNEL_READ, 1, 32, NULL, params));
        r = p_cuCtxSynchronize();
        if (r == CUDA_SUCCESS)
                TRY(p_cuMemcpyDtoH_v2(&sum, result, sizeof(sum)));
        /* what the kernel makes of two such words: w0 * 1 + w1 * 3 */
        say("reached", r == CUDA_SUCCESS && sum == pair * 4);
        return DONE;
}

static int largest_block(size_t limit, size_t *ret)
{
        size_t low = 0, high = limit / SMALLEST + 1;

        while (high - low > 1) {
                size_t middle = low + (high - low) / 2;
                CUdeviceptr memory;
                CUresult result = p_cuMemAlloc_v2(&memory, middle * SMALLEST);

                if (result == CUDA_SUCCESS) {
                        TRY(p_cuMemFree_v2(memory));
                        low = middle;
                } else if (result == CUDA_ERROR_OUT_OF_MEMORY)
                        high = middle;
                else
                        return fail_cuda("cuMemAlloc_v2", result);
        }
        *ret = low * SMALLEST;
        return DONE;
}

static int time_blocks(double *values, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                uint64_t begin = now_ns();
                CUdeviceptr memory;

                TRY(p_cuMemAlloc_v2(&memory, 8u << 20));
                values[i] = (double)(now_ns() - begin) / 1e3;
                TRY(p_cuMemFree_v2(memory));
        }
        sort(values, n);
        return DONE;
}

/* fragment OPERATIONS BYTES: so many allocations and frees at random, of 512 bytes to 64 MiB, at
 * most BYTES at once, then half of what lives is given back. Says what of the free memory cannot be
 * had in one piece, what allocating costs before and after, and what is free again at the end. */
static int run_fragment(int argc, char **argv)
{
        enum { LIVE = 4096, TIMED = 50 };
        size_t operations = strtoul(argv[0], NULL, 10), most = strtoull(argv[1], NULL, 10);
        static CUdeviceptr live[LIVE];
        static size_t size[LIVE];
        size_t bytes = 0, free_first, free_now, free_last, total, largest = 0, n = 0;
        uint64_t state = 88172645463325252u;
        double before[TIMED], after[TIMED];

        TRY(p_cuMemGetInfo_v2(&free_first, &total));
        NEED(time_blocks(before, TIMED));
        for (size_t i = 0; i < operations; i++) {
                size_t at, want;

                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                at = (size_t)(state % LIVE);
                want = 512u << ((state >> 20) % 18);
                if (live[at]) {
                        TRY(p_cuMemFree_v2(live[at]));
                        bytes -= size[at];
                        live[at] = 0;
                } else if (bytes + want <= most && want < free_first / 4) {
                        TRY(p_cuMemAlloc_v2(&live[at], want));
                        size[at] = want;
                        bytes += want;
                }
        }
        for (size_t i = 0; i < LIVE; i++)
                if (live[i] && n++ % 2) {
                        TRY(p_cuMemFree_v2(live[i]));
                        live[i] = 0;
                }
        TRY(p_cuMemGetInfo_v2(&free_now, &total));
        NEED(largest_block(free_now, &largest));
        NEED(time_blocks(after, TIMED));
        for (size_t i = 0; i < LIVE; i++)
                if (live[i]) {
                        TRY(p_cuMemFree_v2(live[i]));
                        live[i] = 0;
                }
        TRY(p_cuMemGetInfo_v2(&free_last, &total));
        say("index_percent", 100 * (1 - (double)largest / (double)free_now));
        say("before_us", quantile(before, TIMED, 0.5));
        say("after_us", quantile(after, TIMED, 0.5));
        say("slowdown", quantile(after, TIMED, 0.5) / quantile(before, TIMED, 0.5));
        say("reclaimed_percent", 100 * (double)free_last / (double)free_first);
        return DONE;
}

static CUmemAllocationProp on_device(void)
{
        return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
}

static CUresult ask_plain(size_t bytes)
{
        CUdeviceptr memory;
        CUresult result = p_cuMemAlloc_v2(&memory, bytes);

        return result == CUDA_SUCCESS ? p_cuMemFree_v2(memory) : result;
}

static CUresult ask_pool(size_t bytes)
{
        CUdeviceptr memory;
        CUresult result = p_cuMemAllocAsync(&memory, bytes, NULL);

        if (result == CUDA_SUCCESS)
                result = p_cuMemFreeAsync(memory, NULL);
        return result;
}

static CUresult ask_physical(size_t bytes)
{
        CUmemAllocationProp properties = on_device();
        CUmemGenericAllocationHandle handle;
        CUresult result = p_cuMemCreate(&handle, bytes, &properties, 0);

        return result == CUDA_SUCCESS ? p_cuMemRelease(handle) : result;
}

static CUresult ask_array(size_t bytes)
{
        CUDA_ARRAY_DESCRIPTOR shape = {.Width = 16384,
                .Height = bytes / (16384 * 4),
                .Format = CU_AD_FORMAT_UNSIGNED_INT32,
                .NumChannels = 1};
        CUarray array;
        CUresult result = p_cuArrayCreate_v2(&array, &shape);

        return result == CUDA_SUCCESS ? p_cuArrayDestroy(array) : result;
}

/* exhaust: with all memory taken, asks for more by each way; each has to be told that memory is
 * out, and once memory is given back the process has to be as good as before */
static int run_exhaust(int argc, char **argv)
{
        static CUresult (*const ways[])(size_t bytes) = {
                ask_plain, ask_pool, ask_physical, ask_array};
        const unsigned n = sizeof(ways) / sizeof(*ways);
        unsigned told = 0, again = 0;
        size_t bytes;

        NEED(fill(&bytes));
        for (unsigned i = 0; i < n; i++)
                told += ways[i](128u << 20) == CUDA_ERROR_OUT_OF_MEMORY;
        NEED(let_go());
        for (unsigned i = 0; i < n; i++)
                again += ways[i](128u << 20) == CUDA_SUCCESS;
        TRY(p_cuCtxSynchronize());
        NEED(gpu_check());
        say("ways", n);
        say("told", told);
        say("usable_again", again);
        return DONE;
}

/* large BYTES N: one block of that size */
static int run_large(int argc, char **argv)
{
        size_t bytes = strtoull(argv[0], NULL, 10), n = strtoul(argv[1], NULL, 10);
        double *t = doubles(n);
        CUdeviceptr memory;

        for (size_t i = 0; i < n; i++) {
                uint64_t begin = now_ns();

                TRY(p_cuMemAlloc_v2(&memory, bytes));
                t[i] = (double)(now_ns() - begin) / 1e6;
                TRY(p_cuMemFree_v2(memory));
        }
        say_spread("alloc", "_ms", t, n);
        free(t);
        return DONE;
}

static int grow_pool(size_t blocks, size_t bytes, double *ret_per_s)
{
        uint64_t begin, took;
        CUmemoryPool pool;

        TRY(p_cuDeviceGetDefaultMemPool(&pool, 0));
        TRY(p_cuCtxSynchronize());
        TRY(p_cuMemPoolTrimTo(pool, 0));
        begin = now_ns();
        for (size_t i = 0; i < blocks; i++)
                TRY(p_cuMemAllocAsync(&held[n_held++], bytes, NULL));
        TRY(p_cuStreamSynchronize(NULL));
        took = now_ns() - begin;
        while (n_held)
                TRY(p_cuMemFreeAsync(held[--n_held], NULL));
        TRY(p_cuStreamSynchronize(NULL));
        TRY(p_cuMemPoolTrimTo(pool, 0));
        *ret_per_s = (double)blocks / ((double)took / 1e9);
        return DONE;
}

static int grow_mapped(size_t blocks, size_t bytes, double *ret_per_s)
{
        CUmemAllocationProp properties = on_device();
        CUmemAccessDesc access = {
                .location = properties.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
        CUmemGenericAllocationHandle *handles = calloc(blocks, sizeof(*handles));
        CUdeviceptr range;
        uint64_t begin;

        if (!handles)
                return fail("no memory for %zu handles", blocks);
        TRY(p_cuMemAddressReserve(&range, blocks * bytes, 0, 0, 0));
        begin = now_ns();
        for (size_t i = 0; i < blocks; i++) {
                TRY(p_cuMemCreate(&handles[i], bytes, &properties, 0));
                TRY(p_cuMemMap(range + i * bytes, bytes, 0, handles[i], 0));
                TRY(p_cuMemSetAccess(range + i * bytes, bytes, &access, 1));
        }
        *ret_per_s = (double)blocks / ((double)(now_ns() - begin) / 1e9);
        TRY(p_cuMemUnmap(range, blocks * bytes));
        for (size_t i = 0; i < blocks; i++)
                TRY(p_cuMemRelease(handles[i]));
        TRY(p_cuMemAddressFree(range, blocks * bytes));
        free(handles);
        return DONE;
}

/* grow BLOCKS BYTES: a cache that grows block by block, from nothing */
static int run_grow(int argc, char **argv)
{
        size_t blocks = strtoul(argv[0], NULL, 10), bytes = strtoull(argv[1], NULL, 10);
        double pool = 0, mapped = 0;

        if (blocks > BLOCKS_MAX / 2)
                return fail("at most %d blocks", BLOCKS_MAX / 2);
        NEED(grow_pool(blocks, bytes, &pool));
        NEED(grow_mapped(blocks, bytes, &mapped));
        say("pool_per_s", pool);
        say("mapped_per_s", mapped);
        return DONE;
}

/* bandwidth BYTES MS: c = a + b over three arrays of so many bytes, as long as that takes */
static int run_bandwidth(int argc, char **argv)
{
        size_t bytes = strtoull(argv[0], NULL, 10) & ~(size_t)15, passes = 0;
        uint64_t floats = bytes / 4, begin, end, wanted = strtoull(argv[1], NULL, 10) * 1000000u;
        CUdeviceptr array[3];
        void *params[] = {&array[0], &array[1], &array[2], &floats};

        for (int i = 0; i < 3; i++) {
                TRY(p_cuMemAlloc_v2(&array[i], bytes));
                TRY(p_cuMemsetD32Async(array[i], 0, bytes / 4, NULL));
        }
        NEED(launch(KERNEL_ADD, gpu_waves(), 256, NULL, params));
        TRY(p_cuStreamSynchronize(NULL));
        begin = now_ns();
        do {
                for (int i = 0; i < 20; i++, passes++)
                        NEED(launch(KERNEL_ADD, gpu_waves(), 256, NULL, params));
                TRY(p_cuStreamSynchronize(NULL));
                end = now_ns();
        } while (end - begin < wanted);
        for (int i = 0; i < 3; i++)
                TRY(p_cuMemFree_v2(array[i]));
        say("gb_per_s", 3 * (double)bytes * (double)passes / (double)(end - begin));
        return DONE;
}

/* copy DIRECTION KIND BYTES MS: h2d or d2h, from or to pinned or pageable host memory */
static int run_copy(int argc, char **argv)
{
        bool up = strcmp(argv[0], "h2d") == 0, pinned = strcmp(argv[1], "pinned") == 0;
        /* so many that waiting for them costs nothing */
        int queued = pinned && !gpu.simulated ? 32 : 4;
        size_t bytes = strtoull(argv[2], NULL, 10), copies = 0;
        uint64_t begin, end, wanted = strtoull(argv[3], NULL, 10) * 1000000u;
        CUdeviceptr memory;
        void *host = NULL;

        TRY(p_cuMemAlloc_v2(&memory, bytes));
        if (pinned)
                TRY(p_cuMemHostAlloc(&host, bytes, 0));
        else if (!(host = malloc(bytes)))
                return fail("no memory for %zu bytes", bytes);
        memset(host, 1, bytes);
        TRY(p_cuMemcpyHtoD_v2(memory, host, bytes));
        begin = now_ns();
        do {
                for (int i = 0; i < queued; i++, copies++) {
                        if (!pinned && up)
                                TRY(p_cuMemcpyHtoD_v2(memory, host, bytes));
                        else if (!pinned)
                                TRY(p_cuMemcpyDtoH_v2(host, memory, bytes));
                        else if (up)
                                TRY(p_cuMemcpyHtoDAsync_v2(memory, host, bytes, NULL));
                        else
                                TRY(p_cuMemcpyDtoHAsync_v2(host, memory, bytes, NULL));
                }
                TRY(p_cuStreamSynchronize(NULL));
                end = now_ns();
        } while (end - begin < wanted);
        TRY(p_cuMemFree_v2(memory));
        if (pinned)
                TRY(p_cuMemFreeHost(host));
        else
                free(host);
        say("gb_per_s", (double)bytes * (double)copies / (double)(end - begin));
        return DONE;
}

/* peer BYTES MS: copies from this process's device 0 to its device 1 */
static int run_peer(int argc, char **argv)
{
        size_t bytes = strtoull(argv[0], NULL, 10), copies = 0;
        uint64_t begin, end, wanted = strtoull(argv[1], NULL, 10) * 1000000u;
        CUdeviceptr from, to;
        CUcontext other;
        int direct = 0;

        if (gpu.devices < 2)
                return gap("needs two GPUs; this program has one");
        TRY(p_cuDevicePrimaryCtxRetain(&other, 1));
        TRY(p_cuCtxSetCurrent(other));
        TRY(p_cuMemAlloc_v2(&to, bytes));
        TRY(p_cuCtxSetCurrent(gpu.context));
        TRY(p_cuMemAlloc_v2(&from, bytes));
        TRY(p_cuDeviceCanAccessPeer(&direct, 0, 1));
        if (direct) {
                CUresult result = p_cuCtxEnablePeerAccess(other, 0);

                if (result != CUDA_SUCCESS && result != CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED)
                        return fail_cuda("cuCtxEnablePeerAccess", result);
        }
        TRY(p_cuMemcpyPeerAsync(to, other, from, gpu.context, bytes, NULL));
        TRY(p_cuStreamSynchronize(NULL));
        begin = now_ns();
        do {
                for (int i = 0; i < 4; i++, copies++)
                        TRY(p_cuMemcpyPeerAsync(to, other, from, gpu.context, bytes, NULL));
                TRY(p_cuStreamSynchronize(NULL));
                end = now_ns();
        } while (end - begin < wanted);
        TRY(p_cuMemFree_v2(from));
        TRY(p_cuCtxSetCurrent(other));
        TRY(p_cuMemFree_v2(to));
        TRY(p_cuCtxSetCurrent(gpu.context));
        say("gb_per_s", (double)bytes * (double)copies / (double)(end - begin));
        say("direct", direct);
        return DONE;
}

const struct command memory_commands[] = {
        {"fill", 0, run_fill},
        {"release", 0, run_release},
        {"used", 0, run_used},
        {"refuse", 2, run_refuse},
        {"secret", 1, run_secret},
        {"search", 1, run_search},
        {"reach", 1, run_reach},
        {"fragment", 2, run_fragment},
        {"exhaust", 0, run_exhaust},
        {"large", 2, run_large},
        {"grow", 2, run_grow},
        {"bandwidth", 2, run_bandwidth},
        {"copy", 4, run_copy},
        {"peer", 2, run_peer},
        {NULL, 0, NULL},
};
