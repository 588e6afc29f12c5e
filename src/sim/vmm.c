/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtual memory management: addresses that are reserved, memory that is made without any, and
 * mappings of one in the other.
 *
 * A mapping can be touched only when access to it was given to some device. The CPU's mapping, by
 * which kernels and copies work here, follows what the most permitted device may do.
 */
#include "vmm.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "client.h"
#include "ipc.h"
#include "models.h"

#define GRANULARITY SLOT_BYTES

/* Handles by index; a name is index + 1 and, above it, how often the entry was used before. */
static struct {
        struct vmm_handle **handle;
        uint32_t *generation;
        uint32_t *free;
        uint32_t n, room, n_free;
} table;

static struct block *reservations; /* all of them; under the region's lock */

/* ---- handles; locked ---- */

static int table_grow(void)
{
        uint32_t room = table.room ? table.room * 2 : 64;
        struct vmm_handle **handle = realloc(table.handle, room * sizeof(*handle));
        uint32_t *generation, *unused;

        if (!handle)
                return -1;
        table.handle = handle;
        generation = realloc(table.generation, room * sizeof(*generation));
        if (!generation)
                return -1;
        table.generation = generation;
        unused = realloc(table.free, room * sizeof(*unused));
        if (!unused)
                return -1;
        table.free = unused;
        memset(table.generation + table.room, 0, (room - table.room) * sizeof(*generation));
        table.room = room;
        return 0;
}

static struct vmm_handle *new_handle(struct sim_memory *memory, uint64_t size)
{
        struct vmm_handle *handle = calloc(1, sizeof(*handle));
        uint32_t index;

        if (!handle)
                return NULL;
        if (!table.n_free && table.n == table.room && table_grow() < 0) {
                free(handle);
                return NULL;
        }
        index = table.n_free ? table.free[--table.n_free] : table.n++;
        *handle = (struct vmm_handle){
                .name = (uint64_t)++table.generation[index] << 32 | (index + 1),
                .names = 1,
                .references = 1,
                .memory = memory,
                .size = size,
        };
        table.handle[index] = handle;
        return handle;
}

static struct vmm_handle *find_handle(CUmemGenericAllocationHandle name)
{
        uint32_t index = (uint32_t)name - 1;
        struct vmm_handle *handle = index < table.n ? table.handle[index] : NULL;

        return handle && handle->name == name && handle->names ? handle : NULL;
}

void vmm_unref(struct vmm_handle *handle)
{
        uint32_t index = (uint32_t)handle->name - 1;

        if (--handle->references)
                return;
        table.handle[index] = NULL;
        table.free[table.n_free++] = index;
        memory_give(handle->memory);
        free(handle);
}

static CUresult check_properties(const CUmemAllocationProp *prop, struct sim_device **ret)
{
        if (!prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED)
                return CUDA_ERROR_INVALID_VALUE;
        if (prop->location.type == CU_MEM_LOCATION_TYPE_HOST ||
                prop->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
                prop->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT ||
                prop->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
                return CUDA_ERROR_NOT_SUPPORTED;
        if (prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
                return CUDA_ERROR_INVALID_VALUE;
        return sim_device_of(prop->location.id, ret);
}

CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
        CUmemAllocationGranularity_flags option)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = check_properties(prop, &device);
        if (r)
                return r;
        if (!granularity || (unsigned)option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)
                return CUDA_ERROR_INVALID_VALUE;
        *granularity = GRANULARITY;
        return CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size,
        const CUmemAllocationProp *prop, unsigned long long flags)
{
        struct vmm_handle *made = NULL;
        struct sim_memory *memory;
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = check_properties(prop, &device);
        if (r)
                return r;
        if (!handle || size == 0 || size % GRANULARITY || flags)
                return CUDA_ERROR_INVALID_VALUE;
        if (size > (size_t)device->model->memory_mib << 20)
                return CUDA_ERROR_OUT_OF_MEMORY;
        region_lock();
        r = memory_take(device, size, &memory);
        if (!r) {
                made = new_handle(memory, size);
                if (!made) {
                        memory_give(memory);
                        r = CUDA_ERROR_OUT_OF_MEMORY;
                }
        }
        if (made) {
                made->properties = *prop;
                *handle = made->name;
        }
        region_unlock();
        return r;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
        struct vmm_handle *known;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        region_lock();
        known = find_handle(handle);
        if (known) {
                known->names--;
                vmm_unref(known);
        } else {
                r = CUDA_ERROR_INVALID_VALUE;
        }
        region_unlock();
        return r;
}

CUresult cuMemGetAllocationPropertiesFromHandle(
        CUmemAllocationProp *prop, CUmemGenericAllocationHandle handle)
{
        const struct vmm_handle *known;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        region_lock_shared();
        known = find_handle(handle);
        if (known && prop)
                *prop = known->properties;
        else
                r = CUDA_ERROR_INVALID_VALUE;
        region_unlock();
        return r;
}

/* ---- addresses ---- */

CUresult cuMemAddressReserve(
        CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr, unsigned long long flags)
{
        struct block *block;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ptr || size == 0 || size % GRANULARITY || alignment & (alignment - 1) || flags)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock();
        block = block_new(BLOCK_RESERVED, size, alignment, addr);
        if (block) {
                block->slot = calloc(size >> SLOT_SHIFT, sizeof(*block->slot));
                if (block->slot) {
                        block_link(&reservations, block);
                        *ptr = block->base;
                } else {
                        block_free(block);
                        r = CUDA_ERROR_OUT_OF_MEMORY;
                }
        } else {
                r = CUDA_ERROR_OUT_OF_MEMORY;
        }
        region_unlock();
        return r;
}

/* The reservation that holds all of a range on the granularity, or NULL. */
static struct block *reservation(CUdeviceptr ptr, size_t size)
{
        struct block *block = block_at(ptr);

        if (!block || block->kind != BLOCK_RESERVED || size == 0 || size % GRANULARITY ||
                ptr % GRANULARITY || size > block->base + block->bytes - ptr)
                return NULL;
        return block;
}

CUresult cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
        struct block *block;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        region_lock();
        block = reservation(ptr, size);
        if (!block || block->base != ptr || block->bytes != size)
                r = CUDA_ERROR_INVALID_VALUE;
        for (uint64_t i = 0; !r && i < size >> SLOT_SHIFT; i++)
                if (block->slot[i].handle)
                        r = CUDA_ERROR_INVALID_VALUE;
        if (!r) {
                block_unlink(&reservations, block);
                block_free(block);
        }
        region_unlock();
        return r;
}

/* ---- mappings ---- */

CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
        unsigned long long flags)
{
        uint64_t first, n = size >> SLOT_SHIFT;
        struct vmm_handle *known;
        struct block *block;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        region_lock();
        known = find_handle(handle);
        block = reservation(ptr, size);
        if (!known || !block || flags || offset || size > known->size)
                r = CUDA_ERROR_INVALID_VALUE;
        first = block ? (ptr - block->base) >> SLOT_SHIFT : 0;
        for (uint64_t i = 0; !r && i < n; i++)
                if (block->slot[first + i].handle)
                        r = CUDA_ERROR_INVALID_VALUE;
        if (!r) {
                known->references++;
                for (uint64_t i = 0; i < n; i++)
                        block->slot[first + i] = (struct vmm_slot){
                                .handle = known,
                                .offset = offset + (i << SLOT_SHIFT),
                                .start = (uint32_t)first,
                                .slots = (uint32_t)n,
                        };
        }
        region_unlock();
        return r;
}

/* Whether a range consists of whole mappings; with holes, if they are allowed. */
static bool whole_mappings(const struct block *block, uint64_t first, uint64_t n, bool holes)
{
        for (uint64_t i = first; i < first + n;) {
                const struct vmm_slot *slot = block->slot + i;

                if (!slot->handle && holes) {
                        i++;
                        continue;
                }
                if (!slot->handle || slot->start != i || slot->slots > first + n - i)
                        return false;
                i += slot->slots;
        }
        return true;
}

CUresult cuMemUnmap(CUdeviceptr ptr, size_t size)
{
        uint64_t first, n = size >> SLOT_SHIFT;
        struct sim_context *context;
        struct block *block;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        /* the device may still be using it */
        if (sim_current(&context) == CUDA_SUCCESS) {
                r = exec_synchronize(context);
                if (r)
                        return r;
        }
        region_lock();
        block = reservation(ptr, size);
        first = block ? (ptr - block->base) >> SLOT_SHIFT : 0;
        if (!block || !whole_mappings(block, first, n, true)) {
                r = CUDA_ERROR_INVALID_VALUE;
        } else {
                region_unmap(ptr, size);
                for (uint64_t i = first; i < first + n; i++) {
                        if (block->slot[i].handle && block->slot[i].start == i)
                                vmm_unref(block->slot[i].handle);
                        block->slot[i] = (struct vmm_slot){0};
                }
        }
        region_unlock();
        return r;
}

/* Makes the CPU's mapping of one mapping what its devices may do. */
static CUresult apply(const struct block *block, uint64_t start)
{
        const struct vmm_slot *slot = block->slot + start;
        uint64_t address = block->base + (start << SLOT_SHIFT);
        uint64_t bytes = (uint64_t)slot->slots << SLOT_SHIFT;
        bool readable = false, writable = false;

        for (int i = 0; i < SIM_MAX_DEVICES; i++) {
                readable |= (slot->access >> 2 * i & 3) != 0;
                writable |= (slot->access >> 2 * i & 3) == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        }
        if (!readable) {
                region_unmap(address, bytes);
                return CUDA_SUCCESS;
        }
        if (region_map(address, bytes, slot->handle->memory, slot->offset) ||
                (!writable && mprotect((void *)address, bytes, PROT_READ) < 0))
                return CUDA_ERROR_OUT_OF_MEMORY;
        return CUDA_SUCCESS;
}

CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
        uint64_t first, n = size >> SLOT_SHIFT;
        uint32_t clear = 0, set = 0;
        struct block *block;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!desc || count == 0)
                return CUDA_ERROR_INVALID_VALUE;
        for (size_t i = 0; i < count; i++) {
                struct sim_device *device;

                if (desc[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
                        (desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE &&
                                desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
                                desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE))
                        return CUDA_ERROR_INVALID_VALUE;
                r = sim_device_of(desc[i].location.id, &device);
                if (r)
                        return r;
                clear |= 3u << 2 * device->index;
                set &= ~(3u << 2 * device->index);
                set |= (uint32_t)desc[i].flags << 2 * device->index;
        }
        region_lock();
        block = reservation(ptr, size);
        first = block ? (ptr - block->base) >> SLOT_SHIFT : 0;
        if (!block || !whole_mappings(block, first, n, false))
                r = CUDA_ERROR_INVALID_VALUE;
        for (uint64_t i = first; !r && i < first + n; i++) {
                block->slot[i].access = (block->slot[i].access & ~clear) | set;
                if (block->slot[i].start == i)
                        r = apply(block, i);
        }
        region_unlock();
        return r;
}

CUresult cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr ptr)
{
        struct sim_device *device;
        const struct block *block;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!flags || !location || location->type != CU_MEM_LOCATION_TYPE_DEVICE)
                return CUDA_ERROR_INVALID_VALUE;
        r = sim_device_of(location->id, &device);
        if (r)
                return r;
        region_lock_shared();
        block = block_at(ptr);
        if (block && block->kind == BLOCK_RESERVED &&
                block->slot[(ptr - block->base) >> SLOT_SHIFT].handle)
                *flags =
                        block->slot[(ptr - block->base) >> SLOT_SHIFT].access >> 2 * device->index &
                        3;
        else
                r = CUDA_ERROR_INVALID_VALUE;
        region_unlock();
        return r;
}

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
        CUdeviceptr ptr = (CUdeviceptr)(uintptr_t)addr;
        struct vmm_handle *known = NULL;
        const struct block *block;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!handle)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock();
        block = block_at(ptr);
        if (block && block->kind == BLOCK_RESERVED)
                known = block->slot[(ptr - block->base) >> SLOT_SHIFT].handle;
        if (known) {
                known->names++;
                known->references++;
                *handle = known->name;
        } else {
                r = CUDA_ERROR_INVALID_VALUE;
        }
        region_unlock();
        return r;
}

/* ---- between processes ---- */

/* A descriptor names the memory and does not keep it: what is exported has to live, here or
 * somewhere it was imported, until it is imported. */
CUresult cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle,
        CUmemAllocationHandleType handleType, unsigned long long flags)
{
        struct ipc_share share = {.name.kind = IPC_SHARE_VMM};
        const struct vmm_handle *known;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
                return CUDA_ERROR_NOT_SUPPORTED;
        region_lock_shared();
        known = find_handle(handle);
        if (!shareableHandle || flags || !known ||
                !(known->properties.requestedHandleTypes &
                        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)) {
                r = CUDA_ERROR_INVALID_VALUE;
        } else {
                share.name.client = known->memory->client;
                share.name.handle = known->memory->handle;
                share.name.size = known->size;
                share.properties = known->properties;
                memcpy(share.name.uuid, known->memory->device->uuid, sizeof(share.name.uuid));
        }
        region_unlock();
        return r ? r : ipc_share_fd(&share, shareableHandle);
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *osHandle,
        CUmemAllocationHandleType shHandleType)
{
        struct vmm_handle *made;
        struct sim_memory *memory;
        struct ipc_share share;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (shHandleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
                return CUDA_ERROR_NOT_SUPPORTED;
        if (!handle)
                return CUDA_ERROR_INVALID_VALUE;
        r = ipc_share_read((int)(intptr_t)osHandle, IPC_SHARE_VMM, &share);
        if (!r && share.name.size % GRANULARITY)
                r = CUDA_ERROR_INVALID_VALUE;
        if (!r)
                r = ipc_import(&share.name, &memory);
        if (r)
                return r;
        region_lock();
        made = new_handle(memory, share.name.size);
        if (made) {
                made->properties = share.properties;
                made->properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
                made->properties.location.id = memory->device->index;
                *handle = made->name;
        } else {
                memory_give(memory);
                r = CUDA_ERROR_OUT_OF_MEMORY;
        }
        region_unlock();
        return r;
}
