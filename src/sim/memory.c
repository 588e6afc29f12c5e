/* SPDX-License-Identifier: Apache-2.0 */
/* Plain device memory, managed memory and host memory. */
#include "memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "client.h"
#include "kernel.h"
#include "models.h"
#include "rm.h"

#define SMALL_MOST  (1ull << 20) /* larger ones get memory of their own */
#define SMALL_ALIGN 512u
#define PITCH_ALIGN 512u

static struct registered *registrations; /* under the region's lock */

/* ---- small allocations ---- */

static uint64_t round_up(uint64_t value, uint64_t unit)
{
        return (value + unit - 1) / unit * unit;
}

static CUresult small_alloc(
        struct sim_context *context, enum block_kind kind, size_t bytes, CUdeviceptr *ret)
{
        uint64_t size = round_up(bytes, SMALL_ALIGN), offset;
        struct block *block;
        CUresult r;

        for (block = context->memory->blocks; block; block = block->next)
                if (block->kind == kind &&
                        heap_alloc(&block->heap, size, bytes, new_id(), &offset) == 0) {
                        *ret = block->base + offset;
                        return CUDA_SUCCESS;
                }
        r = block_alloc(kind, context, SLOT_BYTES, &block);
        if (r)
                return r;
        if (heap_alloc(&block->heap, size, bytes, new_id(), &offset) < 0)
                return CUDA_ERROR_OUT_OF_MEMORY;
        *ret = block->base + offset;
        return CUDA_SUCCESS;
}

/* Frees what begins there. An empty block is kept if it is the context's only one of its kind that
 * is empty, as the real driver was seen to do. */
static CUresult small_free(struct block *block, uint64_t address)
{
        struct sim_context_memory *memory = block->context->memory;

        if (heap_free(&block->heap, address - block->base) < 0)
                return CUDA_ERROR_INVALID_VALUE;
        if (block->heap.used)
                return CUDA_SUCCESS;
        if (block->bytes > SLOT_BYTES) {
                block_unlink(&memory->blocks, block);
                block_free(block);
                return CUDA_SUCCESS;
        }
        for (struct block *other = memory->blocks; other; other = other->next)
                if (other != block && other->kind == block->kind && other->heap.used == 0) {
                        block_unlink(&memory->blocks, block);
                        block_free(block);
                        break;
                }
        return CUDA_SUCCESS;
}

/* A large allocation of the driver's own: nothing else lies in its block. */
static CUresult internal_alone(struct sim_context *context, size_t bytes, CUdeviceptr *ret)
{
        struct block *block;
        uint64_t offset;
        CUresult r = block_alloc(BLOCK_INTERNAL, context, bytes, &block);

        if (r)
                return r;
        if (heap_alloc(&block->heap, block->bytes, bytes, block->id, &offset) < 0)
                return CUDA_ERROR_OUT_OF_MEMORY;
        *ret = block->base;
        return CUDA_SUCCESS;
}

static CUresult plain_alloc(struct sim_context *context, size_t bytes, CUdeviceptr *ret)
{
        struct block *block;
        CUresult r;

        if (bytes <= SMALL_MOST)
                return small_alloc(context, BLOCK_SHARED, bytes, ret);
        r = block_alloc(BLOCK_ALONE, context, bytes, &block);
        if (!r)
                *ret = block->base;
        return r;
}

CUresult sim_internal_alloc(struct sim_context *context, size_t bytes, CUdeviceptr *ret)
{
        CUresult r;

        if (bytes == 0)
                return CUDA_ERROR_INVALID_VALUE;
        if (bytes > (size_t)context->device->model->memory_mib << 20)
                return CUDA_ERROR_OUT_OF_MEMORY;
        region_lock();
        if (bytes <= SMALL_MOST)
                r = small_alloc(context, BLOCK_INTERNAL, bytes, ret);
        else
                r = internal_alone(context, bytes, ret);
        region_unlock();
        if (r)
                return r;
        r = sim_touch((void *)*ret, bytes);
        if (r) {
                sim_internal_free(context, *ret);
                return r;
        }
        memset((void *)*ret, 0, bytes);
        return CUDA_SUCCESS;
}

void sim_internal_free(struct sim_context *context, CUdeviceptr pointer)
{
        struct block *block;

        region_lock();
        block = block_at(pointer);
        if (block && block->kind == BLOCK_INTERNAL && block->context == context)
                small_free(block, pointer);
        region_unlock();
}

CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
        struct sim_context *context;
        CUdeviceptr pointer;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (!r)
                r = exec_capture_check();
        if (r)
                return r;
        if (!dptr || bytesize == 0)
                return CUDA_ERROR_INVALID_VALUE;
        if (bytesize > (size_t)context->device->model->memory_mib << 20)
                return CUDA_ERROR_OUT_OF_MEMORY;
        region_lock();
        r = plain_alloc(context, bytesize, &pointer);
        region_unlock();
        if (!r)
                *dptr = pointer;
        return r;
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height,
        unsigned int ElementSizeBytes)
{
        struct sim_context *context;
        CUdeviceptr pointer;
        size_t pitch, bytes;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (!r)
                r = exec_capture_check();
        if (r)
                return r;
        if (!dptr || !pPitch || WidthInBytes == 0 || Height == 0 ||
                (ElementSizeBytes != 4 && ElementSizeBytes != 8 && ElementSizeBytes != 16))
                return CUDA_ERROR_INVALID_VALUE;
        if (WidthInBytes > INT32_MAX - PITCH_ALIGN)
                return CUDA_ERROR_INVALID_VALUE;
        pitch = round_up(WidthInBytes, PITCH_ALIGN);
        if (__builtin_mul_overflow(pitch, Height, &bytes) ||
                bytes > (size_t)context->device->model->memory_mib << 20)
                return CUDA_ERROR_OUT_OF_MEMORY;
        region_lock();
        r = plain_alloc(context, bytes, &pointer);
        region_unlock();
        if (r)
                return r;
        *dptr = pointer;
        *pPitch = pitch;
        return CUDA_SUCCESS;
}

/* Whether cuMemFree may free what begins at the address, and in which context. Locked, shared. */
static CUresult check_free(uint64_t address, struct sim_context **ret_context, bool *ret_pool)
{
        const struct heap_segment *segment = NULL;
        struct block *block = find_allocation(address, &segment);

        if (!block)
                return CUDA_ERROR_INVALID_VALUE;
        *ret_context = block->context;
        *ret_pool = block->kind == BLOCK_CHUNK;
        switch (block->kind) {
        case BLOCK_ALONE:
        case BLOCK_MANAGED:
                return address == block->base ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
        case BLOCK_SHARED:
        case BLOCK_CHUNK:
                return address == block->base + segment->offset ? CUDA_SUCCESS
                                                                : CUDA_ERROR_INVALID_VALUE;
        case BLOCK_INTERNAL: /* a module's variable: taken without complaint, and nothing is done */
                return CUDA_SUCCESS;
        default:
                return CUDA_ERROR_INVALID_VALUE;
        }
}

CUresult cuMemFree_v2(CUdeviceptr dptr)
{
        struct sim_context *current, *owner;
        struct block *block;
        bool pool;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&current);
        if (!r)
                r = exec_capture_check();
        if (r || dptr == 0)
                return r;
        region_lock_shared();
        r = check_free(dptr, &owner, &pool);
        region_unlock();
        if (r)
                return r;

        /* the device may still be using it */
        r = exec_synchronize(owner ? owner : current);
        if (r)
                return r;
        if (pool) {
                r = exec_graph_free(dptr);
                return r == CUDA_ERROR_NOT_FOUND ? sim_pool_free(dptr) : r;
        }
        region_lock();
        r = check_free(dptr, &owner, &pool);
        if (!r) {
                block = block_at(dptr);
                if (block->kind == BLOCK_INTERNAL) {
                        ;
                } else if (block->kind == BLOCK_SHARED) {
                        r = small_free(block, dptr);
                } else {
                        block_unlink(&block->context->memory->blocks, block);
                        block_free(block);
                }
        }
        region_unlock();
        return r;
}

CUresult cuMemGetInfo_v2(size_t *free, size_t *total)
{
        struct sim_context *context;
        struct kernel_device *device;
        uint64_t used;
        bool locked;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        device = kernel_state()->device + context->device->instance;
        locked = kernel_lock_to_read();
        used = kernel_device_used(device);
        if (locked)
                kernel_unlock();
        /* either may be NULL, or both */
        if (total)
                *total = device->total - device->reserved;
        if (free)
                *free = device->total - device->reserved - used;
        return CUDA_SUCCESS;
}

/* ---- what lies where ---- */

struct registered *find_registered(uint64_t address)
{
        for (struct registered *one = registrations; one; one = one->next)
                if (address >= one->base && address - one->base < one->bytes)
                        return one;
        return NULL;
}

struct block *find_allocation(uint64_t address, const struct heap_segment **ret_segment)
{
        struct block *block = block_at(address);

        *ret_segment = NULL;
        if (!block)
                return NULL;
        if (block->heap.segment) {
                *ret_segment = heap_find(&block->heap, address - block->base);
                return *ret_segment ? block : NULL;
        }
        if (block->kind == BLOCK_RESERVED) {
                const struct vmm_slot *slot = block->slot + ((address - block->base) >> SLOT_SHIFT);

                return slot->handle ? block : NULL;
        }
        return address - block->base < block->asked ? block : NULL;
}

static bool mapped_throughout(const struct block *block, uint64_t address, size_t bytes)
{
        uint64_t last = (address - block->base + (bytes ? bytes - 1 : 0)) >> SLOT_SHIFT;

        if (address - block->base + bytes > block->bytes)
                return false;
        for (uint64_t i = (address - block->base) >> SLOT_SHIFT; i <= last; i++)
                if (!block->slot[i].handle || !block->slot[i].access)
                        return false;
        return true;
}

static enum sim_kind kind_of(const struct block *block)
{
        switch (block->kind) {
        case BLOCK_CHUNK:
                return SIM_POOL;
        case BLOCK_RESERVED:
                return SIM_VMM;
        case BLOCK_IPC:
                return SIM_IPC;
        case BLOCK_MANAGED:
                return SIM_MANAGED;
        case BLOCK_HOST:
                return SIM_HOST;
        default:
                return SIM_DEVICE;
        }
}

static CUresult range_registered(CUdeviceptr pointer, size_t bytes, struct sim_range *ret)
{
        const struct registered *one = find_registered(pointer);

        if (!one || bytes > one->base + one->bytes - pointer)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = (struct sim_range){
                .host = (char *)pointer,
                .kind = SIM_REGISTERED,
                .context = one->context,
                .base = one->base,
                .size = one->bytes,
                .id = one->id,
        };
        return CUDA_SUCCESS;
}

CUresult range_locked(CUdeviceptr pointer, size_t bytes, struct sim_range *ret)
{
        const struct heap_segment *segment;
        struct block *block = find_allocation(pointer, &segment);
        struct sim_range range;

        if (!block)
                return range_registered(pointer, bytes, ret);
        range = (struct sim_range){
                .host = (char *)pointer,
                .kind = kind_of(block),
                .device = block->device,
                .context = block->context,
                .base = block->base,
                .size = block->asked,
                .id = block->id,
        };
        if (segment) {
                range.base += segment->offset;
                range.size = segment->asked;
                range.id = segment->id;
        } else if (block->kind == BLOCK_IPC) {
                range.base += block->ipc_offset;
                range.size -= block->ipc_offset;
        } else if (block->kind == BLOCK_RESERVED) {
                const struct vmm_slot *slot = block->slot + ((pointer - block->base) >> SLOT_SHIFT);

                if (!mapped_throughout(block, pointer, bytes))
                        return CUDA_ERROR_INVALID_VALUE;
                range.base = block->base + ((uint64_t)slot->start << SLOT_SHIFT);
                range.size = (uint64_t)slot->slots << SLOT_SHIFT;
                *ret = range;
                return CUDA_SUCCESS;
        }
        if (pointer < range.base || bytes > range.base + range.size - pointer)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = range;
        return CUDA_SUCCESS;
}

CUresult sim_range(CUdeviceptr pointer, size_t bytes, struct sim_range *ret)
{
        CUresult r;

        region_lock_shared();
        r = range_locked(pointer, bytes, ret);
        region_unlock();
        return r;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)
{
        struct sim_context *context;
        struct sim_range range;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (sim_range(dptr, 0, &range))
                return CUDA_ERROR_NOT_FOUND;
        if (pbase)
                *pbase = range.base;
        if (psize)
                *psize = range.size;
        return CUDA_SUCCESS;
}

/* ---- managed memory ---- */

CUresult cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
        struct client_device objects;
        struct sim_context *context;
        struct block *block;
        uint64_t size, offset;
        uint32_t handle, status;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (!r)
                r = exec_capture_check();
        if (r)
                return r;
        if (!dptr || bytesize == 0 ||
                (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
                return CUDA_ERROR_INVALID_VALUE;
        r = client_device(context->device, &objects);
        if (r)
                return r;
        status = client_alloc_memory(
                context->device, KERNEL_CLASS_MANAGED, bytesize, &handle, &size, &offset);
        if (status != RM_OK)
                return client_error(status);

        region_lock();
        block = block_new(BLOCK_MANAGED, bytesize, SLOT_BYTES, 0);
        if (block) {
                block->flags = flags;
                block->device = context->device;
                block->context = context;
                block->managed = handle;
                if (mmap((void *)block->base, block->bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
                            0) == MAP_FAILED) {
                        block_free(block);
                        block = NULL;
                        r = CUDA_ERROR_OUT_OF_MEMORY;
                } else {
                        block_link(&context->memory->blocks, block);
                        *dptr = block->base;
                }
        } else {
                client_free(objects.device, handle);
                r = CUDA_ERROR_OUT_OF_MEMORY;
        }
        region_unlock();
        return r;
}

/* ---- host memory ---- */

static CUresult host_alloc(void **pp, size_t bytes, unsigned int flags)
{
        struct sim_context *context;
        struct block *block;
        CUresult r = sim_current(&context);

        if (!r)
                r = exec_capture_check();
        if (r)
                return r;
        if (!pp || bytes == 0 ||
                flags & ~(CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP |
                                CU_MEMHOSTALLOC_WRITECOMBINED))
                return CUDA_ERROR_INVALID_VALUE;
        region_lock();
        block = block_new(BLOCK_HOST, bytes, SLOT_BYTES, 0);
        if (!block) {
                r = CUDA_ERROR_OUT_OF_MEMORY;
        } else if (mmap((void *)block->base, round_up(bytes, 4096), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
                block_free(block);
                r = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
                block->flags = flags;
                block->context = context;
                block_link(&context->memory->blocks, block);
                *pp = (void *)block->base;
        }
        region_unlock();
        return r;
}

CUresult cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
        CUresult r = sim_enter(__func__);

        return r ? r : host_alloc(pp, bytesize, Flags);
}

CUresult cuMemAllocHost_v2(void **pp, size_t bytesize)
{
        CUresult r = sim_enter(__func__);

        return r ? r : host_alloc(pp, bytesize, 0);
}

CUresult cuMemFreeHost(void *p)
{
        struct sim_context *current;
        struct block *block;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&current);
        if (!r)
                r = exec_capture_check();
        if (r || !p)
                return r;
        region_lock_shared();
        block = block_at((uintptr_t)p);
        if (!block || block->kind != BLOCK_HOST || block->base != (uintptr_t)p)
                r = CUDA_ERROR_INVALID_VALUE;
        region_unlock();
        if (!r)
                r = exec_synchronize(current);
        if (r)
                return r;
        region_lock();
        if (block_at((uintptr_t)p) == block) {
                block_unlink(&block->context->memory->blocks, block);
                block_free(block);
        } else {
                r = CUDA_ERROR_INVALID_VALUE;
        }
        region_unlock();
        return r;
}

static CUresult host_register(void *p, size_t bytesize, unsigned int Flags)
{
        struct sim_context *context;
        struct registered *one;
        CUresult r = sim_current(&context);

        if (!r)
                r = exec_capture_check();
        if (r)
                return r;
        if (!p || bytesize == 0 || (uintptr_t)p + bytesize < (uintptr_t)p ||
                Flags & ~(CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP |
                                CU_MEMHOSTREGISTER_IOMEMORY | CU_MEMHOSTREGISTER_READ_ONLY))
                return CUDA_ERROR_INVALID_VALUE;
        one = calloc(1, sizeof(*one));
        if (!one)
                return CUDA_ERROR_OUT_OF_MEMORY;
        *one = (struct registered){
                .base = (uintptr_t)p,
                .bytes = bytesize,
                .flags = Flags,
                .context = context,
        };
        region_lock();
        if (block_at(one->base) || block_at(one->base + bytesize - 1))
                r = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
        for (struct registered *other = registrations; other && !r; other = other->next)
                if (one->base < other->base + other->bytes && other->base < one->base + one->bytes)
                        r = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
        if (!r) {
                one->id = new_id();
                one->next = registrations;
                registrations = one;
        }
        region_unlock();
        if (r)
                free(one);
        return r;
}

CUresult cuMemHostRegister(void *p, size_t bytesize, unsigned int Flags)
{
        CUresult r = sim_enter(__func__);

        return r ? r : host_register(p, bytesize, Flags);
}

CUresult cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags)
{
        CUresult r = sim_enter(__func__);

        return r ? r : host_register(p, bytesize, Flags);
}

CUresult cuMemHostUnregister(void *p)
{
        struct registered **link, *one = NULL;
        struct sim_context *current;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&current);
        if (!r)
                r = exec_capture_check();
        if (r)
                return r;
        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        r = exec_synchronize(current);
        if (r)
                return r;
        region_lock();
        for (link = &registrations; *link; link = &(*link)->next)
                if ((*link)->base == (uintptr_t)p) {
                        one = *link;
                        *link = one->next;
                        break;
                }
        region_unlock();
        free(one);
        return one ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

void registered_forget(struct sim_context *context)
{
        struct registered **link = &registrations;

        while (*link) {
                struct registered *one = *link;

                if (one->context == context) {
                        *link = one->next;
                        free(one);
                } else {
                        link = &one->next;
                }
        }
}

/* Flags of pinned memory that begins anywhere before p. Locked, shared. */
static CUresult host_flags(const void *p, unsigned int *ret)
{
        const struct heap_segment *segment;
        const struct block *block = find_allocation((uintptr_t)p, &segment);
        const struct registered *one;

        if (block && block->kind == BLOCK_HOST) {
                *ret = block->flags;
                return CUDA_SUCCESS;
        }
        one = block ? NULL : find_registered((uintptr_t)p);
        if (!one)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = one->flags;
        return CUDA_SUCCESS;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int Flags)
{
        struct sim_context *context;
        unsigned int flags;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (!pdptr || !p || Flags)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock_shared();
        r = host_flags(p, &flags);
        region_unlock();
        if (!r)
                *pdptr = (CUdeviceptr)(uintptr_t)p;
        return r;
}

CUresult cuMemHostGetFlags(unsigned int *pFlags, void *p)
{
        struct sim_context *context;
        unsigned int flags;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (!pFlags || !p)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock_shared();
        r = host_flags(p, &flags);
        region_unlock();
        if (!r)
                *pFlags = flags | CU_MEMHOSTALLOC_DEVICEMAP; /* unified addressing maps all */
        return r;
}
