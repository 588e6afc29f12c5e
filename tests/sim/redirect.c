/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver library asks RM through its ioctl slot, and honours the answer: whoever redirects the
 * slot sees every byte of device memory go by, and can refuse it with nothing changed.
 */
#include "check.h"

#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include "rm.h"

/* What went by, by handle. */
static struct {
        uint32_t handle;
        uint64_t size;
} object[4096];
static size_t objects;
static uint64_t sum, limit = UINT64_MAX;
static unsigned int groups, graphics_groups, channels, refused, duplicates;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int (*before)(int fd, unsigned long request, ...);

static void seen_alloc(const struct rm_alloc *call)
{
        if (call->class_id == RM_CLASS_MEMORY_LOCAL) {
                const struct rm_memory_params *params =
                        (const struct rm_memory_params *)(uintptr_t)call->params;

                CHECK(objects < 4096);
                object[objects].handle = call->handle;
                object[objects++].size = params->size;
                sum += params->size;
        } else if (call->class_id == RM_CLASS_CHANNEL_GROUP) {
                const struct rm_channel_group_params *params =
                        (const struct rm_channel_group_params *)(uintptr_t)call->params;

                groups++;
                graphics_groups += params->engine_type == RM_ENGINE_GRAPHICS;
        } else if ((call->class_id & 0xff) == RM_CLASS_CHANNEL_LOW) {
                channels++;
        }
}

static void seen_free(const struct rm_free *call)
{
        for (size_t i = 0; i < objects; i++)
                if (object[i].handle == call->handle) {
                        sum -= object[i].size;
                        object[i] = object[--objects];
                        return;
                }
}

static int between(int fd, unsigned long request, ...)
{
        va_list list;
        void *arg;
        int r;

        va_start(list, request);
        arg = va_arg(list, void *);
        va_end(list);
        pthread_mutex_lock(&mutex);
        if (request == _IOWR(RM_IOCTL_TYPE, RM_ESC_ALLOC, struct rm_alloc)) {
                struct rm_alloc *call = arg;
                struct rm_memory_params *params =
                        (struct rm_memory_params *)(uintptr_t)call->params;

                if (call->class_id == RM_CLASS_MEMORY_LOCAL && params->size > limit - sum) {
                        call->status = RM_ERR_NO_MEMORY;
                        refused++;
                        pthread_mutex_unlock(&mutex);
                        return 0;
                }
        }
        r = before(fd, request, arg);
        if (request == _IOWR(RM_IOCTL_TYPE, RM_ESC_ALLOC, struct rm_alloc) &&
                ((struct rm_alloc *)arg)->status == RM_OK)
                seen_alloc(arg);
        else if (request == _IOWR(RM_IOCTL_TYPE, RM_ESC_FREE, struct rm_free) &&
                 ((struct rm_free *)arg)->status == RM_OK)
                seen_free(arg);
        else if (request == _IOWR(RM_IOCTL_TYPE, RM_ESC_DUP_OBJECT, struct rm_dup))
                duplicates++;
        pthread_mutex_unlock(&mutex);
        return r;
}

static int redirect(struct dl_phdr_info *info, size_t size, void *arg)
{
        const ElfW(Dyn) *dynamic = NULL;
        const ElfW(Rela) *table = NULL;
        const ElfW(Sym) *symbols = NULL;
        const char *strings = NULL;
        size_t bytes = 0;

        if (!strstr(info->dlpi_name, "/libcuda.so.1"))
                return 0;
        for (int i = 0; i < info->dlpi_phnum; i++)
                if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
                        dynamic = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
        for (; dynamic->d_tag != DT_NULL; dynamic++) {
                if (dynamic->d_tag == DT_JMPREL)
                        table = (const ElfW(Rela) *)dynamic->d_un.d_ptr;
                else if (dynamic->d_tag == DT_PLTRELSZ)
                        bytes = dynamic->d_un.d_val;
                else if (dynamic->d_tag == DT_SYMTAB)
                        symbols = (const ElfW(Sym) *)dynamic->d_un.d_ptr;
                else if (dynamic->d_tag == DT_STRTAB)
                        strings = (const char *)dynamic->d_un.d_ptr;
        }
        for (size_t i = 0; i < bytes / sizeof(*table); i++)
                if (!strcmp(strings + symbols[ELF64_R_SYM(table[i].r_info)].st_name, "ioctl")) {
                        uintptr_t slot = info->dlpi_addr + table[i].r_offset;
                        uintptr_t page = slot & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);

                        CHECK_EQ(
                                mprotect((void *)page, slot + 8 - page, PROT_READ | PROT_WRITE), 0);
                        before = *(int (**)(int, unsigned long, ...))slot;
                        *(void **)slot = (void *)between;
                        ++*(int *)arg;
                }
        return 0;
}

static uint64_t held(void)
{
        int64_t bytes = nvml_process(0, getpid());

        return bytes < 0 ? 0 : (uint64_t)bytes;
}

#define SAME() CHECK_EQ(sum, held())

static void test_sum(void)
{
        CUmemAllocationProp property = {
                .type = CU_MEM_ALLOCATION_TYPE_PINNED,
                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0},
        };
        CUmemGenericAllocationHandle handle;
        CUdeviceptr p[5];
        CUcontext context;
        CUstream stream;
        CUmemoryPool pool;

        OK(cuCtxCreate_v2(&context, 0, 0));
        SAME();
        CHECK_EQ(sum, 518 * MIB);
        CHECK_EQ(groups, 4);
        CHECK_EQ(graphics_groups, 1);
        CHECK_EQ(channels, 20);
        OK(cuMemAlloc_v2(&p[0], 100));
        SAME();
        OK(cuMemAlloc_v2(&p[1], 5 * MIB));
        SAME();
        OK(cuMemAllocAsync(&p[2], 40 * MIB, NULL));
        SAME();
        OK(cuMemCreate(&handle, 6 * MIB, &property, 0));
        SAME();
        OK(cuMemAllocManaged(&p[3], 50 * MIB, CU_MEM_ATTACH_GLOBAL));
        SAME();
        OK(cuStreamCreate(&stream, 0));
        SAME();
        CHECK_EQ(duplicates, 0);
        OK(cuMemRelease(handle));
        SAME();
        OK(cuMemFree_v2(p[0]));
        OK(cuMemFree_v2(p[1]));
        SAME();
        OK(cuMemFreeAsync(p[2], NULL));
        OK(cuCtxSynchronize());
        SAME();
        OK(cuDeviceGetDefaultMemPool(&pool, 0));
        OK(cuMemPoolTrimTo(pool, 0));
        SAME();
        OK(cuCtxDestroy_v2(context));
        SAME();
        CHECK_EQ(sum, 0);
}

/* At every limit below what it needs a context is refused and leaves nothing. */
static void test_context_refused(void)
{
        CUcontext context, current;

        for (limit = 0; limit < 518 * MIB; limit += 37 * MIB) {
                CHECK_EQ(cuCtxCreate_v2(&context, 0, 0), CUDA_ERROR_OUT_OF_MEMORY);
                CHECK_EQ(sum, 0);
                CHECK_EQ(nvml_used(0), 0);
                OK(cuCtxGetCurrent(&current));
                CHECK(current == NULL);
                CHECK_EQ(cuDevicePrimaryCtxRetain(&context, 0), CUDA_ERROR_OUT_OF_MEMORY);
                CHECK_EQ(nvml_used(0), 0);
        }
        limit = 518 * MIB;
        OK(cuCtxCreate_v2(&context, 0, 0));
        OK(cuCtxDestroy_v2(context));
}

static void test_memory_refused(void)
{
        CUdeviceptr p, q, keep;
        CUmemoryPool pool;
        cuuint64_t threshold = UINT64_MAX;
        CUcontext context;
        uint64_t stays;

        limit = 600 * MIB;
        OK(cuCtxCreate_v2(&context, 0, 0));
        OK(cuMemAlloc_v2(&keep, 10 * MIB));
        stays = sum;
        refused = 0;
        CHECK_EQ(cuMemAlloc_v2(&p, 100 * MIB), CUDA_ERROR_OUT_OF_MEMORY);
        CHECK_EQ(refused, 2); /* asked again after trimming */
        CHECK_EQ(cuMemAllocAsync(&p, 80 * MIB, NULL), CUDA_ERROR_OUT_OF_MEMORY);
        CHECK_EQ(sum, stays);
        SAME();

        /* a pool's unused memory is given back before an allocation fails */
        OK(cuDeviceGetDefaultMemPool(&pool, 0));
        OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
        OK(cuMemAllocAsync(&p, 64 * MIB, NULL));
        CHECK_EQ(sum, stays + 64 * MIB);
        OK(cuMemFreeAsync(p, NULL));
        OK(cuCtxSynchronize());
        CHECK_EQ(sum, stays + 64 * MIB);
        OK(cuMemAlloc_v2(&q, 70 * MIB));
        CHECK_EQ(sum, stays + 70 * MIB);
        SAME();
        OK(cuMemFree_v2(q));
        OK(cuMemFree_v2(keep));
        OK(cuCtxDestroy_v2(context));
        CHECK_EQ(sum, 0);
        limit = UINT64_MAX;
}

static CUcontext shared_context;

static void *taker(void *arg)
{
        CUdeviceptr p[16] = {0};
        unsigned int state = (unsigned int)(uintptr_t)arg;

        OK(cuCtxSetCurrent(shared_context));
        for (int i = 0; i < 3000; i++) {
                unsigned int k;
                CUresult r;

                state = state * 1664525u + 1013904223u;
                k = state >> 8 & 15;
                if (p[k]) {
                        OK(cuMemFree_v2(p[k]));
                        p[k] = 0;
                        continue;
                }
                r = cuMemAlloc_v2(&p[k], 1 + (state >> 12) % (3 * MIB));
                CHECK(r == CUDA_SUCCESS || r == CUDA_ERROR_OUT_OF_MEMORY);
                if (r)
                        p[k] = 0;
        }
        for (int k = 0; k < 16; k++)
                OK(cuMemFree_v2(p[k]));
        return NULL;
}

static void test_threads(void)
{
        pthread_t thread[4];
        CUcontext context;

        limit = 518 * MIB + 60 * MIB;
        OK(cuCtxCreate_v2(&context, 0, 0));
        shared_context = context;
        for (uintptr_t i = 0; i < 4; i++)
                CHECK_EQ(pthread_create(&thread[i], NULL, taker, (void *)(i + 1)), 0);
        for (int i = 0; i < 500; i++) {
                CHECK(held() <= limit);
                usleep(100);
        }
        for (int i = 0; i < 4; i++)
                CHECK_EQ(pthread_join(thread[i], NULL), 0);
        SAME();
        OK(cuCtxDestroy_v2(context));
        CHECK_EQ(nvml_used(0), 0);
        CHECK(refused > 0);
}

int main(void)
{
        int slots = 0;

        machine("h100");
        dl_iterate_phdr(redirect, &slots);
        CHECK_EQ(slots, 1);
        OK(cuInit(0));
        test_sum();
        test_context_refused();
        test_memory_refused();
        test_threads();
        return 0;
}
