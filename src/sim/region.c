/* SPDX-License-Identifier: Apache-2.0 */
/* The region of device addresses, and the blocks in it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"
#include "kernel.h"
#include "memory.h"
#include "models.h"
#include "mps.h"
#include "rm.h"
#include "vmm.h"

#define REGION_MOST  (4ull << 40)
#define REGION_LEAST (16ull << 30)

static struct {
        pthread_rwlock_t lock;
        uint64_t base, slots;
        struct block **table;
        uint8_t *populated; /* by slot: all its pages are there */
        uint64_t hint;      /* no slot below is free */
        struct sim_context_memory *contexts;
        uint64_t next_id;
} region = {.next_id = 1};

static void *reserve(uint64_t bytes)
{
        void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        return p == MAP_FAILED ? NULL : p;
}

static void *zeroed(uint64_t bytes)
{
        void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        return p == MAP_FAILED ? NULL : p;
}

int region_open(void)
{
        pthread_rwlockattr_t attributes;
        uint64_t bytes;
        void *p = NULL;

        /* a process whose address space is limited gets a smaller one */
        for (bytes = REGION_MOST; !p && bytes >= REGION_LEAST; bytes /= 2)
                p = reserve(bytes + SLOT_BYTES);
        if (!p)
                return -ENOMEM;
        bytes *= 2;
        region.base = ((uintptr_t)p + SLOT_BYTES - 1) & ~(SLOT_BYTES - 1);
        region.slots = bytes / SLOT_BYTES;
        region.table = zeroed(region.slots * sizeof(*region.table));
        region.populated = zeroed(region.slots);
        if (!region.table || !region.populated)
                return -ENOMEM;
        pthread_rwlockattr_init(&attributes);
        pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
        pthread_rwlock_init(&region.lock, &attributes);
        pthread_rwlockattr_destroy(&attributes);
        return 0;
}

void region_lock(void)
{
        pthread_rwlock_wrlock(&region.lock);
}

void region_lock_shared(void)
{
        pthread_rwlock_rdlock(&region.lock);
}

void region_unlock(void)
{
        pthread_rwlock_unlock(&region.lock);
}

uint64_t new_id(void)
{
        return region.next_id++;
}

/* ---- addresses ---- */

static uint64_t slot_of(uint64_t address)
{
        return (address - region.base) >> SLOT_SHIFT;
}

struct block *block_at(uint64_t address)
{
        if (address < region.base || slot_of(address) >= region.slots)
                return NULL;
        return region.table[slot_of(address)];
}

static uint64_t slots_of(const struct block *block)
{
        return block->bytes >> SLOT_SHIFT;
}

/* First free run of n slots from `at` on whose address is so aligned; region.slots if none. */
static uint64_t find_run(uint64_t at, uint64_t n, uint64_t alignment)
{
        uint64_t run = 0;

        while (at + n <= region.slots) {
                uint64_t start =
                        (region.base + (at << SLOT_SHIFT) + alignment - 1) & ~(alignment - 1);

                at = slot_of(start);
                for (run = 0; run < n && at + run < region.slots; run++)
                        if (region.table[at + run])
                                break;
                if (run == n)
                        return at;
                if (at + run >= region.slots)
                        break;
                at += run;
                at = slot_of(region.table[at]->base) + slots_of(region.table[at]);
        }
        return region.slots;
}

static uint64_t find_slots(uint64_t n, uint64_t alignment, uint64_t wanted)
{
        while (region.hint < region.slots && region.table[region.hint])
                region.hint = slot_of(region.table[region.hint]->base) +
                              slots_of(region.table[region.hint]);
        if (wanted >= region.base && wanted % SLOT_BYTES == 0 && wanted % alignment == 0 &&
                slot_of(wanted) + n <= region.slots &&
                find_run(slot_of(wanted), n, SLOT_BYTES) == slot_of(wanted))
                return slot_of(wanted);
        return find_run(region.hint, n, alignment);
}

struct block *block_new(enum block_kind kind, uint64_t bytes, uint64_t alignment, uint64_t wanted)
{
        struct block *block;
        uint64_t n, at;

        if (bytes > region.slots << SLOT_SHIFT)
                return NULL;
        n = (bytes + SLOT_BYTES - 1) >> SLOT_SHIFT;
        if (alignment < SLOT_BYTES)
                alignment = SLOT_BYTES;
        at = find_slots(n, alignment, wanted);
        if (at == region.slots)
                return NULL;
        block = calloc(1, sizeof(*block));
        if (!block)
                return NULL;
        block->kind = kind;
        block->base = region.base + (at << SLOT_SHIFT);
        block->bytes = n << SLOT_SHIFT;
        block->asked = bytes;
        block->id = new_id();
        for (uint64_t i = 0; i < n; i++)
                region.table[at + i] = block;
        return block;
}

/* Makes addresses untouchable again. */
void region_unmap(uint64_t address, uint64_t bytes)
{
        mmap((void *)address, bytes, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        memset(region.populated + slot_of(address), 0, bytes >> SLOT_SHIFT);
}

CUresult region_map(
        uint64_t address, uint64_t bytes, const struct sim_memory *memory, uint64_t offset)
{
        int fd = kernel_memory_fd((uint32_t)memory->device->instance);

        if (fd < 0 || mmap((void *)address, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                              fd, (off_t)(memory->offset + offset)) == MAP_FAILED)
                return CUDA_ERROR_OUT_OF_MEMORY;
        return CUDA_SUCCESS;
}

CUresult block_map(struct block *block)
{
        struct sim_memory *memory = block->memory;
        uint64_t bytes = memory->size < block->bytes ? memory->size : block->bytes;

        memory->address = (void *)block->base;
        return region_map(block->base, bytes, memory, 0);
}

void block_free(struct block *block)
{
        uint64_t at = slot_of(block->base);

        region_unmap(block->base, block->bytes);
        memset(region.table + at, 0, slots_of(block) * sizeof(*region.table));
        if (at < region.hint)
                region.hint = at;
        if (block->slot)
                for (uint64_t i = 0; i < slots_of(block); i++)
                        if (block->slot[i].handle && block->slot[i].start == i)
                                vmm_unref(block->slot[i].handle);
        free(block->slot);
        heap_done(&block->heap);
        if (block->memory)
                memory_give(block->memory);
        if (block->managed) {
                struct client_device objects;

                if (client_device(block->device, &objects) == CUDA_SUCCESS)
                        client_free(objects.device, block->managed);
        }
        free(block);
}

void block_link(struct block **list, struct block *block)
{
        block->previous = NULL;
        block->next = *list;
        if (*list)
                (*list)->previous = block;
        *list = block;
}

void block_unlink(struct block **list, struct block *block)
{
        if (block->previous)
                block->previous->next = block->next;
        else
                *list = block->next;
        if (block->next)
                block->next->previous = block->previous;
}

/* ---- device memory ---- */

static uint32_t take_once(struct sim_device *device, uint64_t bytes, struct sim_memory *memory)
{
        return client_alloc_memory(device, RM_CLASS_MEMORY_LOCAL, bytes, &memory->handle,
                &memory->size, &memory->offset);
}

CUresult memory_take(struct sim_device *device, uint64_t bytes, struct sim_memory **ret)
{
        struct client_device objects;
        struct sim_memory *memory;
        uint32_t status;
        CUresult r = client_device(device, &objects);

        if (r)
                return r;
        memory = calloc(1, sizeof(*memory));
        if (!memory)
                return CUDA_ERROR_OUT_OF_MEMORY;
        memory->device = device;
        memory->client = client_handle();
        status = take_once(device, bytes, memory);
        if (status == RM_ERR_NO_MEMORY) {
                memory_trim(device);
                status = take_once(device, bytes, memory);
        }
        if (status != RM_OK) {
                free(memory);
                return client_error(status);
        }
        *ret = memory;
        return CUDA_SUCCESS;
}

void memory_give(struct sim_memory *memory)
{
        struct client_device objects;

        if (client_device(memory->device, &objects) == CUDA_SUCCESS)
                client_free(objects.device, memory->handle);
        free(memory);
}

CUresult block_alloc(
        enum block_kind kind, struct sim_context *context, uint64_t bytes, struct block **ret)
{
        struct sim_memory *memory;
        struct block *block;
        CUresult r;

        r = memory_take(context->device, (bytes + SLOT_BYTES - 1) & ~(SLOT_BYTES - 1), &memory);
        if (r)
                return r;
        block = block_new(kind, bytes, SLOT_BYTES, 0);
        if (!block) {
                memory_give(memory);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        block->memory = memory;
        block->device = context->device;
        block->context = context;
        r = block_map(block);
        if (!r && (kind == BLOCK_SHARED || kind == BLOCK_INTERNAL) &&
                heap_init(&block->heap, block->bytes) < 0)
                r = CUDA_ERROR_OUT_OF_MEMORY;
        if (r) {
                block_free(block);
                return r;
        }
        block_link(&context->memory->blocks, block);
        *ret = block;
        return CUDA_SUCCESS;
}

static void trim_blocks(struct sim_context_memory *memory)
{
        for (struct block *block = memory->blocks, *next; block; block = next) {
                next = block->next;
                if ((block->kind == BLOCK_SHARED || block->kind == BLOCK_INTERNAL) &&
                        block->heap.used == 0) {
                        block_unlink(&memory->blocks, block);
                        block_free(block);
                }
        }
}

void memory_trim(struct sim_device *device)
{
        for (struct sim_context_memory *memory = region.contexts; memory; memory = memory->next)
                if (memory->context->device == device)
                        trim_blocks(memory);
        pool_trim_device(device);
}

CUresult sim_memory_new(struct sim_device *device, uint64_t bytes, struct sim_memory **ret)
{
        CUresult r;

        region_lock();
        r = memory_take(device, bytes, ret);
        region_unlock();
        return r;
}

CUresult sim_memory_map(struct sim_memory *memory)
{
        struct block *block;
        uint64_t offset;
        CUresult r = CUDA_ERROR_OUT_OF_MEMORY;

        region_lock();
        block = block_new(BLOCK_INTERNAL, memory->size, SLOT_BYTES, 0);
        if (block) {
                block->device = memory->device;
                block->memory = memory;
                if (heap_init(&block->heap, block->bytes) == 0 &&
                        heap_alloc(&block->heap, block->bytes, memory->size, block->id, &offset) ==
                                0)
                        r = block_map(block);
                block->memory = NULL; /* stays the caller's */
                if (r) {
                        memory->address = NULL;
                        block_free(block);
                }
        }
        region_unlock();
        return r;
}

void sim_memory_free(struct sim_memory *memory)
{
        if (!memory)
                return;
        region_lock();
        if (memory->address)
                block_free(block_at((uintptr_t)memory->address));
        memory_give(memory);
        region_unlock();
}

/* Whether all of a range of reserved addresses may be written to by some device. */
static bool writable(const struct block *block, uint64_t begin, uint64_t end)
{
        for (uint64_t at = begin & ~(SLOT_BYTES - 1); at < end; at += SLOT_BYTES) {
                uint32_t access;

                if (at >= block->base + block->bytes)
                        return false;
                access = block->slot[(at - block->base) >> SLOT_SHIFT].access;
                /* both bits of some device */
                if (!(access & access >> 1 & 0x55555555u))
                        return false;
        }
        return true;
}

bool sim_is_backed(const void *host)
{
        const struct block *block = block_at((uintptr_t)host);

        return !block || block->kind != BLOCK_CHUNK || block->memory;
}

CUresult sim_touch(void *host, size_t bytes)
{
        uint64_t begin = (uintptr_t)host & ~4095ull;
        uint64_t end = ((uintptr_t)host + bytes + 4095) & ~4095ull;

        const struct block *block = block_at((uintptr_t)host);

        if (bytes == 0 || !block)
                return CUDA_SUCCESS;
        if (!sim_is_backed(host))
                return CUDA_ERROR_ILLEGAL_ADDRESS;
        if (block->kind == BLOCK_RESERVED) {
                bool may;

                region_lock_shared();
                may = writable(block, begin, end);
                region_unlock();
                if (!may)
                        return CUDA_ERROR_ILLEGAL_ADDRESS;
        }
        while (begin < end) {
                uint64_t slot = slot_of(begin);
                uint64_t slot_begin = region.base + (slot << SLOT_SHIFT);
                uint64_t stop = slot_begin + SLOT_BYTES < end ? slot_begin + SLOT_BYTES : end;

                if (!__atomic_load_n(&region.populated[slot], __ATOMIC_RELAXED)) {
                        if (madvise((void *)begin, stop - begin, MADV_POPULATE_WRITE) < 0) {
                                /* kernels before 5.14 do not know it: then there is no telling */
                                if (errno != EINVAL)
                                        return CUDA_ERROR_OUT_OF_MEMORY;
                        } else if (stop - begin == SLOT_BYTES) {
                                __atomic_store_n(&region.populated[slot], 1, __ATOMIC_RELAXED);
                        }
                }
                begin = stop;
        }
        return CUDA_SUCCESS;
}

/* ---- contexts ---- */

/* What a context takes, as the real driver was seen to: a large piece that depends on the device,
 * two fixed ones, many of 2 MiB and small ones. KiB. */
static const uint32_t footprint_kib[] = {
        4224,
        70464,
        512,
        64,
        2048,
        2048,
        2048,
        2048,
        2048,
        2048,
        2048,
        2048,
        2048,
        2048,
        2048,
        2048,
        2048,
        2048,
        2048,
        2048,
};
#define N_FOOTPRINT (sizeof(footprint_kib) / sizeof(*footprint_kib))

CUresult context_memory_new(struct sim_context *context)
{
        struct sim_context_memory *memory = calloc(1, sizeof(*memory));
        struct client_device objects;
        uint32_t rest = context->device->model->footprint_kib;
        CUresult r;

        if (!memory)
                return CUDA_ERROR_OUT_OF_MEMORY;
        memory->context = context;
        region_lock();
        r = client_device(context->device, &objects);
        if (!r)
                r = client_error(client_alloc_groups(context->device, &memory->objects));
        if (!r) {
                context->runlist = kernel_state()->runlist + context->device->instance;
                context->served = mps_serves(context->device);
                context->group = context->served ? mps_group() : client_group(&memory->objects);
                if (context->group == RUNLIST_NONE)
                        r = CUDA_ERROR_MPS_RPC_FAILURE;
        }
        for (size_t i = 0; i < N_FOOTPRINT && !r; i++) {
                r = memory_take(context->device, (uint64_t)footprint_kib[i] << 10,
                        memory->footprint + memory->pieces);
                rest -= footprint_kib[i];
                memory->pieces += !r;
        }
        if (!r) {
                r = memory_take(
                        context->device, (uint64_t)rest << 10, memory->footprint + memory->pieces);
                memory->pieces += !r;
        }
        context->memory = memory;
        memory->next = region.contexts;
        region.contexts = memory;
        region_unlock();
        if (r)
                context_memory_free(context);
        return r;
}

void context_memory_free(struct sim_context *context)
{
        struct sim_context_memory *memory = context->memory, **link = &region.contexts;
        bool last = true;

        region_lock();
        while (*link != memory)
                link = &(*link)->next;
        *link = memory->next;
        while (memory->blocks) {
                struct block *block = memory->blocks;

                block_unlink(&memory->blocks, block);
                block_free(block);
        }
        registered_forget(context);
        arrays_forget(context);
        for (int i = 0; i < memory->pieces; i++)
                memory_give(memory->footprint[i]);
        for (int i = 0; i < 4; i++)
                client_free(memory->objects.device, memory->objects.group[i]);
        for (struct sim_context_memory *other = region.contexts; other; other = other->next)
                if (other->context->device == context->device)
                        last = false;
        if (last)
                pool_forget_device(context->device);
        context->memory = NULL;
        region_unlock();
        free(memory);
}

CUresult sim_rm_objects(struct sim_device *device, struct sim_rm_objects *ret)
{
        CUresult r = CUDA_ERROR_NOT_INITIALIZED;

        region_lock_shared();
        for (struct sim_context_memory *memory = region.contexts; memory; memory = memory->next)
                if (memory->context->device == device) {
                        *ret = memory->objects;
                        r = CUDA_SUCCESS;
                }
        region_unlock();
        return r;
}
