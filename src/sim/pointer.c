/* SPDX-License-Identifier: Apache-2.0 */
/* What is known about a pointer. */
#include <string.h>

#include "memory.h"
#include "pool.h"
#include "vmm.h"

/* What lies there, as far as attributes ask. */
struct facts {
        struct sim_range range;
        const struct block *block; /* NULL: registered memory */
        unsigned int handle_types;
        uint64_t mapping_base, mapping_size;
};

static CUresult gather(CUdeviceptr pointer, struct facts *ret)
{
        CUresult r = range_locked(pointer, 0, &ret->range);

        if (r)
                return r;
        ret->block = block_at(pointer);
        ret->handle_types = 0;
        ret->mapping_base = ret->range.base;
        ret->mapping_size = ret->range.size;
        if (ret->block && ret->block->kind == BLOCK_RESERVED)
                ret->handle_types = ret->block->slot[(pointer - ret->block->base) >> SLOT_SHIFT]
                                            .handle->properties.requestedHandleTypes;
        else if (ret->block && ret->block->pool)
                ret->handle_types = ret->block->pool->properties.handleTypes;
        if (ret->block && ret->block->memory && ret->block->kind != BLOCK_RESERVED) {
                ret->mapping_base = ret->block->base;
                ret->mapping_size = ret->block->memory->size;
        }
        return CUDA_SUCCESS;
}

static bool is_host(const struct facts *facts)
{
        return facts->range.kind == SIM_HOST || facts->range.kind == SIM_REGISTERED;
}

/* The device that memory without a device of its own is attached to, or -2 as the real one says. */
static int ordinal(const struct facts *facts)
{
        if (facts->range.device)
                return facts->range.device->index;
        return facts->range.context ? facts->range.context->device->index : -2;
}

static CUresult give(
        const struct facts *facts, CUpointer_attribute attribute, CUdeviceptr pointer, void *data)
{
        switch (attribute) {
        case CU_POINTER_ATTRIBUTE_CONTEXT:
                /* pools and mappings belong to no context */
                if (!facts->range.context)
                        return CUDA_ERROR_INVALID_VALUE;
                *(CUcontext *)data = (CUcontext)facts->range.context;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
                *(unsigned int *)data = is_host(facts) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
                *(CUdeviceptr *)data = pointer;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_HOST_POINTER:
                if (!is_host(facts) && facts->range.kind != SIM_MANAGED)
                        return CUDA_ERROR_INVALID_VALUE;
                *(void **)data = (void *)(uintptr_t)pointer;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
                *(int *)data = facts->block && facts->block->sync_memops;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_BUFFER_ID:
                *(unsigned long long *)data = facts->range.id;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_IS_MANAGED:
                *(int *)data = facts->range.kind == SIM_MANAGED;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
                *(int *)data = ordinal(facts);
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
                *(int *)data = facts->range.kind == SIM_DEVICE;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
                *(CUdeviceptr *)data = facts->range.base;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
                *(size_t *)data = facts->range.size;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_MAPPED:
                *(int *)data = 1;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
                *(unsigned int *)data = facts->handle_types;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
                *(int *)data = 0;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
                *(unsigned int *)data = CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
                *(CUmemoryPool *)data =
                        facts->range.kind == SIM_POOL ? (CUmemoryPool)facts->block->pool : NULL;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
                *(size_t *)data = facts->mapping_size;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
                *(CUdeviceptr *)data = facts->mapping_base;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
                *(unsigned long long *)data = facts->block ? facts->block->id : facts->range.id;
                return CUDA_SUCCESS;
        default: /* P2P tokens among them */
                return CUDA_ERROR_INVALID_VALUE;
        }
}

/* What a pointer that is nothing of ours has. */
static void give_nothing(CUpointer_attribute attribute, void *data)
{
        switch (attribute) {
        case CU_POINTER_ATTRIBUTE_CONTEXT:
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
        case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
        case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
                memset(data, 0, 8);
                break;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
                *(int *)data = -2;
                break;
        default:
                memset(data, 0, 4);
        }
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
        struct sim_context *context;
        struct facts facts;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (!data)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock_shared();
        r = gather(ptr, &facts);
        if (!r)
                r = give(&facts, attribute, ptr, data);
        region_unlock();
        return r;
}

CUresult cuPointerGetAttributes(
        unsigned int numAttributes, CUpointer_attribute *attributes, void **data, CUdeviceptr ptr)
{
        struct sim_context *context;
        struct facts facts;
        bool known;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (numAttributes == 0 || !attributes || !data)
                return CUDA_ERROR_INVALID_VALUE;
        for (unsigned int i = 0; i < numAttributes; i++)
                if (!data[i] || (unsigned)attributes[i] < CU_POINTER_ATTRIBUTE_CONTEXT ||
                        (unsigned)attributes[i] > CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE)
                        return CUDA_ERROR_INVALID_VALUE;
        region_lock_shared();
        known = gather(ptr, &facts) == CUDA_SUCCESS;
        for (unsigned int i = 0; i < numAttributes; i++)
                if (!known || give(&facts, attributes[i], ptr, data[i]))
                        give_nothing(attributes[i], data[i]);
        region_unlock();
        return CUDA_SUCCESS;
}

CUresult cuPointerSetAttribute(const void *value, CUpointer_attribute attribute, CUdeviceptr ptr)
{
        const struct heap_segment *segment;
        struct sim_context *context;
        struct block *block;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (!value || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock();
        block = find_allocation(ptr, &segment);
        if (block)
                block->sync_memops = *(const int *)value != 0;
        else
                r = CUDA_ERROR_INVALID_VALUE;
        region_unlock();
        return r;
}
