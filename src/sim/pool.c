/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory pools and the stream-ordered allocator.
 *
 * A pool takes memory in chunks of 32 MiB, each mapped in one piece, and cuts them up. Memory is
 * free for others when the stream in which it was given up has got there; the same stream may have
 * it again at once.
 */
#include "pool.h"

#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "ipc.h"
#include "models.h"

#define POOL_ALIGN 512u

static struct sim_pool *pools;
static struct sim_pool *default_pool[SIM_MAX_DEVICES], *graph_pool[SIM_MAX_DEVICES];
static struct sim_pool *current_pool[SIM_MAX_DEVICES];

static uint64_t round_up(uint64_t value, uint64_t unit)
{
        return (value + unit - 1) / unit * unit;
}

/* ---- chunks ---- */

/* What a chunk has of the device: nothing as long as it is addresses only. */
static uint64_t chunk_bytes(const struct block *chunk)
{
        return chunk->memory ? chunk->memory->size : 0;
}

static void free_chunk(struct sim_pool *pool, struct block *chunk)
{
        pool->reserved -= chunk_bytes(chunk);
        block_unlink(&pool->chunks, chunk);
        block_free(chunk);
}

/* Returns unused chunks as long as that much stays reserved. */
static void trim(struct sim_pool *pool, uint64_t keep)
{
        for (struct block *chunk = pool->chunks, *next; chunk; chunk = next) {
                next = chunk->next;
                if (chunk->heap.used == 0 && pool->reserved - chunk_bytes(chunk) >= keep)
                        free_chunk(pool, chunk);
        }
}

static void unlink_pool(struct sim_pool *pool)
{
        struct sim_pool **link = &pools;

        while (*link != pool)
                link = &(*link)->next;
        *link = pool->next;
        pool->magic = 0;
        free(pool);
}

void pool_trim_device(struct sim_device *device)
{
        for (struct sim_pool *pool = pools; pool; pool = pool->next)
                if (pool->device == device)
                        trim(pool, 0);
}

void pool_forget_device(struct sim_device *device)
{
        for (struct sim_pool *pool = pools, *next; pool; pool = next) {
                next = pool->next;
                if (pool->device != device)
                        continue;
                while (pool->chunks)
                        free_chunk(pool, pool->chunks);
                pool->used = pool->pending = 0;
                if (pool->destroyed)
                        unlink_pool(pool);
        }
}

void sim_pool_relax(struct sim_device *device)
{
        bool over = false;

        /* the usual case, nothing to do, must not keep others waiting */
        region_lock_shared();
        for (struct sim_pool *pool = pools; pool; pool = pool->next)
                if (pool->device == device && !pool->graph && pool->reserved > pool->threshold &&
                        pool->reserved > pool->used)
                        over = true;
        region_unlock();
        if (!over)
                return;
        region_lock();
        for (struct sim_pool *pool = pools; pool; pool = pool->next)
                if (pool->device == device && !pool->graph && pool->reserved > pool->threshold)
                        trim(pool, pool->threshold);
        region_unlock();
}

/* ---- pools ---- */

static struct sim_pool *new_pool(struct sim_device *device)
{
        struct sim_pool *pool = calloc(1, sizeof(*pool));

        if (!pool)
                return NULL;
        *pool = (struct sim_pool){
                .magic = POOL_MAGIC,
                .device = device,
                .properties =
                        {
                                .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, device->index},
                        },
                .reuse = {1, 1, 1},
                .access = 3u << 2 * device->index,
                .next = pools,
        };
        pools = pool;
        return pool;
}

CUresult pool_new_imported(struct sim_device *device, struct sim_pool **ret)
{
        struct sim_pool *pool;

        region_lock();
        pool = new_pool(device);
        if (pool)
                pool->explicit_ = pool->imported = true;
        region_unlock();
        *ret = pool;
        return pool ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

/* The one in the slot, made when first asked for. Not locked. */
static struct sim_pool *pool_in(struct sim_pool **slot, struct sim_device *device)
{
        struct sim_pool *pool;

        region_lock();
        if (!*slot)
                *slot = new_pool(device);
        pool = *slot;
        region_unlock();
        return pool;
}

static struct sim_pool *pool_default(struct sim_device *device)
{
        return pool_in(&default_pool[device->index], device);
}

struct sim_pool *sim_pool_current(struct sim_device *device)
{
        struct sim_pool *pool;

        region_lock_shared();
        pool = current_pool[device->index];
        region_unlock();
        return pool ? pool : pool_default(device);
}

struct sim_pool *sim_pool_graph(struct sim_device *device)
{
        struct sim_pool *pool = pool_in(&graph_pool[device->index], device);

        if (pool)
                pool->graph = true;
        return pool;
}

CUresult sim_pool_of(CUmemoryPool handle, struct sim_pool **ret)
{
        struct sim_pool *pool;

        region_lock_shared();
        for (pool = pools; pool && pool != (struct sim_pool *)handle; pool = pool->next)
                ;
        region_unlock();
        if (!pool || pool->destroyed || pool->graph)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = pool;
        return CUDA_SUCCESS;
}

/* ---- allocations ---- */

/* Puts memory where a chunk lies, if there is none yet. */
static CUresult back(struct sim_pool *pool, struct block *chunk)
{
        CUresult r;

        if (chunk->memory)
                return CUDA_SUCCESS;
        r = memory_take(pool->device, chunk->bytes, &chunk->memory);
        if (r)
                return r;
        r = block_map(chunk);
        if (r) {
                memory_give(chunk->memory);
                chunk->memory = NULL;
                return r;
        }
        pool->reserved += chunk->memory->size;
        if (pool->reserved > pool->reserved_high)
                pool->reserved_high = pool->reserved;
        return CUDA_SUCCESS;
}

static CUresult grow(struct sim_pool *pool, uint64_t size, struct block **ret)
{
        uint64_t bytes = round_up(size, POOL_CHUNK);
        struct block *chunk;
        CUresult r = CUDA_SUCCESS;

        if (pool->properties.maxSize && pool->reserved + bytes > pool->properties.maxSize)
                return CUDA_ERROR_OUT_OF_MEMORY;
        chunk = block_new(BLOCK_CHUNK, bytes, SLOT_BYTES, 0);
        if (!chunk)
                return CUDA_ERROR_OUT_OF_MEMORY;
        chunk->device = pool->device;
        chunk->pool = pool;
        if (!pool->graph) /* graphs have addresses first, and memory when they are launched */
                r = back(pool, chunk);
        block_link(&pool->chunks, chunk);
        if (!r && heap_init(&chunk->heap, chunk->bytes) < 0)
                r = CUDA_ERROR_OUT_OF_MEMORY;
        if (r) {
                free_chunk(pool, chunk);
                return r;
        }
        *ret = chunk;
        return CUDA_SUCCESS;
}

static CUresult alloc_locked(struct sim_pool *pool, size_t bytes, uint64_t stream, CUdeviceptr *ret)
{
        uint64_t size = round_up(bytes, POOL_ALIGN), id = new_id(), offset;
        struct block *chunk;
        CUresult r;

        if (stream && pool->pending)
                for (chunk = pool->chunks; chunk; chunk = chunk->next)
                        if (heap_pass_on(&chunk->heap, size, bytes, id, stream, &offset) == 0) {
                                pool->pending--;
                                *ret = chunk->base + offset;
                                return CUDA_SUCCESS;
                        }
        for (chunk = pool->chunks; chunk; chunk = chunk->next)
                if (heap_alloc(&chunk->heap, size, bytes, id, &offset) == 0)
                        break;
        if (!chunk) {
                r = grow(pool, size, &chunk);
                if (r)
                        return r;
                if (heap_alloc(&chunk->heap, size, bytes, id, &offset) < 0)
                        return CUDA_ERROR_OUT_OF_MEMORY;
        }
        pool->used += size;
        if (pool->used > pool->used_high)
                pool->used_high = pool->used;
        *ret = chunk->base + offset;
        return CUDA_SUCCESS;
}

static CUresult alloc(struct sim_pool *pool, size_t bytes, uint64_t stream, CUdeviceptr *ret)
{
        CUresult r;

        if (bytes == 0 || pool->imported)
                return CUDA_ERROR_INVALID_VALUE;
        if (bytes > (size_t)pool->device->model->memory_mib << 20)
                return CUDA_ERROR_OUT_OF_MEMORY;
        region_lock();
        r = alloc_locked(pool, bytes, stream, ret);
        region_unlock();
        return r;
}

CUresult sim_pool_alloc(struct sim_pool *pool, size_t bytes, CUdeviceptr *ret)
{
        return alloc(pool, bytes, 0, ret);
}

/* An allocation of a chunk is free again. */
static CUresult release(struct block *chunk, uint64_t offset)
{
        struct sim_pool *pool = chunk->pool;
        const struct heap_segment *segment = heap_find(&chunk->heap, offset);
        uint64_t size = segment ? segment->size : 0;

        if (heap_free(&chunk->heap, offset) < 0)
                return CUDA_ERROR_INVALID_VALUE;
        pool->used -= size;
        if (pool->destroyed) {
                trim(pool, 0);
                if (!pool->chunks)
                        unlink_pool(pool);
        }
        return CUDA_SUCCESS;
}

CUresult pool_free_locked(CUdeviceptr pointer)
{
        struct block *chunk = block_at(pointer);
        const struct heap_segment *segment;

        if (!chunk || chunk->kind != BLOCK_CHUNK)
                return CUDA_ERROR_INVALID_VALUE;
        segment = heap_find(&chunk->heap, pointer - chunk->base);
        if (!segment || segment->freeing)
                return CUDA_ERROR_INVALID_VALUE;
        return release(chunk, pointer - chunk->base);
}

CUresult sim_pool_free(CUdeviceptr pointer)
{
        CUresult r;

        region_lock();
        r = pool_free_locked(pointer);
        region_unlock();
        return r;
}

/* ---- in the order of streams ---- */

struct given_up {
        CUdeviceptr pointer;
        uint64_t id;
        bool ipc; /* another process's */
};

/* What the stream is known by here: 0 where the handle does not say which stream it is. */
static uint64_t stream_key(CUstream stream)
{
        if (stream == NULL || stream == CU_STREAM_LEGACY)
                return 1;
        return stream == CU_STREAM_PER_THREAD ? 0 : (uint64_t)(uintptr_t)stream;
}

/* The stream has got there. Its memory may have passed on to a later user of the same stream. */
static void stream_is_there(void *arg)
{
        struct given_up *up = arg;
        struct block *chunk;

        if (up->ipc) {
                ipc_close(up->pointer);
                free(up);
                return;
        }
        region_lock();
        chunk = block_at(up->pointer);
        if (chunk && chunk->kind == BLOCK_CHUNK &&
                heap_keep(&chunk->heap, up->pointer - chunk->base, up->id) == 0) {
                chunk->pool->pending--;
                release(chunk, up->pointer - chunk->base);
        }
        region_unlock();
        free(up);
}

/* The call could not be put into the stream: the allocation stays its user's. */
static void take_back(const struct given_up *up)
{
        struct block *chunk;

        region_lock();
        chunk = block_at(up->pointer);
        if (!up->ipc && chunk && chunk->kind == BLOCK_CHUNK &&
                heap_keep(&chunk->heap, up->pointer - chunk->base, up->id) == 0)
                chunk->pool->pending--;
        region_unlock();
}

CUresult cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
        struct sim_context *context;
        struct given_up *up;
        struct block *chunk;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (!r)
                r = exec_stream_check(hStream, &context);
        if (r)
                return r;
        if (dptr == 0)
                return CUDA_ERROR_INVALID_VALUE;
        r = exec_capture_free(hStream, dptr);
        if (r == CUDA_ERROR_NOT_FOUND)
                r = exec_graph_free(dptr); /* at once: the graph may be launched again */
        if (r != CUDA_ERROR_NOT_FOUND)
                return r;
        up = calloc(1, sizeof(*up));
        if (!up)
                return CUDA_ERROR_OUT_OF_MEMORY;
        up->pointer = dptr;

        /* a mark has to name some stream; one that cannot be named again passes nothing on */
        r = CUDA_ERROR_INVALID_VALUE;
        region_lock();
        chunk = block_at(dptr);
        if (chunk && chunk->kind == BLOCK_CHUNK) {
                uint64_t key = stream_key(hStream);

                if (heap_give_up(&chunk->heap, dptr - chunk->base, key ? key : UINT64_MAX,
                            &up->id) == 0) {
                        chunk->pool->pending++;
                        r = CUDA_SUCCESS;
                }
        } else if (chunk && chunk->kind == BLOCK_IPC && chunk->pool &&
                   dptr == chunk->base + chunk->ipc_offset) {
                up->ipc = true;
                r = CUDA_SUCCESS;
        }
        region_unlock();
        if (r) {
                free(up);
                return r;
        }
        r = exec_stream_call(hStream, stream_is_there, up);
        if (r) {
                take_back(up);
                free(up);
        }
        return r;
}

static CUresult alloc_async(CUdeviceptr *dptr, size_t bytes, struct sim_pool *pool, CUstream stream)
{
        CUresult r;

        if (!dptr)
                return CUDA_ERROR_INVALID_VALUE;
        if (bytes == 0) {
                *dptr = 0; /* nothing, successfully */
                return CUDA_SUCCESS;
        }
        if (!pool)
                return CUDA_ERROR_OUT_OF_MEMORY;
        r = exec_capture_alloc(stream, pool, bytes, dptr);
        return r == CUDA_ERROR_NOT_FOUND ? alloc(pool, bytes, stream_key(stream), dptr) : r;
}

CUresult cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (!r)
                r = exec_stream_check(hStream, &context);
        if (r)
                return r;
        return alloc_async(dptr, bytesize, sim_pool_current(context->device), hStream);
}

CUresult cuMemAllocFromPoolAsync(
        CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream)
{
        struct sim_context *context;
        struct sim_pool *known;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (!r)
                r = exec_stream_check(hStream, &context);
        if (!r)
                r = sim_pool_of(pool, &known);
        return r ? r : alloc_async(dptr, bytesize, known, hStream);
}

/* ---- pools of devices ---- */

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!pool_out)
                return CUDA_ERROR_INVALID_VALUE;
        *pool_out = (CUmemoryPool)pool_default(device);
        return *pool_out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!pool)
                return CUDA_ERROR_INVALID_VALUE;
        *pool = (CUmemoryPool)sim_pool_current(device);
        return *pool ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult set_current(struct sim_device *device, CUmemoryPool pool)
{
        struct sim_pool *known;
        CUresult r = sim_pool_of(pool, &known);

        if (r)
                return r;
        if (known->device != device || known->imported)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock();
        current_pool[device->index] = known;
        region_unlock();
        return CUDA_SUCCESS;
}

CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        return r ? r : set_current(device, pool);
}

/* The device that a location names. Host memory has no pools here. */
static CUresult located(
        const CUmemLocation *location, CUmemAllocationType type, struct sim_device **ret)
{
        if (!location)
                return CUDA_ERROR_INVALID_VALUE;
        if (location->type != CU_MEM_LOCATION_TYPE_DEVICE || type != CU_MEM_ALLOCATION_TYPE_PINNED)
                return CUDA_ERROR_NOT_SUPPORTED;
        return sim_device_of(location->id, ret);
}

CUresult cuMemGetDefaultMemPool(
        CUmemoryPool *pool_out, CUmemLocation *location, CUmemAllocationType type)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = located(location, type, &device);
        if (r)
                return r;
        if (!pool_out)
                return CUDA_ERROR_INVALID_VALUE;
        *pool_out = (CUmemoryPool)pool_default(device);
        return *pool_out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = located(location, type, &device);
        if (r)
                return r;
        if (!pool)
                return CUDA_ERROR_INVALID_VALUE;
        *pool = (CUmemoryPool)sim_pool_current(device);
        return *pool ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool pool)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = located(location, type, &device);
        return r ? r : set_current(device, pool);
}

/* ---- pools of users ---- */

CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
        struct sim_device *device;
        struct sim_pool *made;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!pool || !poolProps || poolProps->allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
                return CUDA_ERROR_INVALID_VALUE;
        if (poolProps->location.type == CU_MEM_LOCATION_TYPE_HOST ||
                poolProps->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
                poolProps->handleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
                return CUDA_ERROR_NOT_SUPPORTED;
        if (poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
                return CUDA_ERROR_INVALID_VALUE;
        if (sim_device_of(poolProps->location.id, &device) != CUDA_SUCCESS)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock();
        made = new_pool(device);
        if (made) {
                made->explicit_ = true;
                made->properties = *poolProps;
                /* a limit counts in whole chunks */
                if (poolProps->maxSize)
                        made->properties.maxSize = round_up(poolProps->maxSize, POOL_CHUNK);
        }
        region_unlock();
        if (!made)
                return CUDA_ERROR_OUT_OF_MEMORY;
        *pool = (CUmemoryPool)made;
        return CUDA_SUCCESS;
}

CUresult cuMemPoolDestroy(CUmemoryPool pool)
{
        struct sim_pool *known;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_pool_of(pool, &known);
        if (r)
                return r;
        if (!known->explicit_)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock();
        for (int i = 0; i < SIM_MAX_DEVICES; i++)
                if (current_pool[i] == known)
                        current_pool[i] = NULL;
        known->destroyed = true;
        trim(known, 0);
        if (!known->chunks)
                unlink_pool(known);
        region_unlock();
        return CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep)
{
        struct sim_pool *known;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_pool_of(pool, &known);
        if (r)
                return r;
        region_lock();
        trim(known, minBytesToKeep);
        region_unlock();
        return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
        struct sim_pool *known;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_pool_of(pool, &known);
        if (r)
                return r;
        if (!value)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock();
        switch (attr) {
        case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
                known->reuse[attr - 1] = *(const int *)value != 0;
                break;
        case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
                known->threshold = *(const cuuint64_t *)value;
                break;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
                /* a high mark can only be brought down to what is now */
                if (*(const cuuint64_t *)value)
                        r = CUDA_ERROR_INVALID_VALUE;
                else if (attr == CU_MEMPOOL_ATTR_USED_MEM_HIGH)
                        known->used_high = known->used;
                else
                        known->reserved_high = known->reserved;
                break;
        default:
                r = CUDA_ERROR_INVALID_VALUE;
        }
        region_unlock();
        return r;
}

CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
        struct sim_pool *known;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_pool_of(pool, &known);
        if (r)
                return r;
        if (!value)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock_shared();
        switch (attr) {
        case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
                *(int *)value = known->reuse[attr - 1];
                break;
        case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
                *(cuuint64_t *)value = known->threshold;
                break;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
                *(cuuint64_t *)value = known->reserved;
                break;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
                *(cuuint64_t *)value = known->reserved_high;
                break;
        case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
                *(cuuint64_t *)value = known->used;
                break;
        case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
                *(cuuint64_t *)value = known->used_high;
                break;
        default:
                r = CUDA_ERROR_INVALID_VALUE;
        }
        region_unlock();
        return r;
}

CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count)
{
        struct sim_pool *known;
        uint32_t access;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_pool_of(pool, &known);
        if (r)
                return r;
        if (!map && count)
                return CUDA_ERROR_INVALID_VALUE;
        access = known->access;
        for (size_t i = 0; i < count; i++) {
                struct sim_device *device;

                if (map[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
                        (map[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE &&
                                map[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
                                map[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE))
                        return CUDA_ERROR_INVALID_VALUE;
                r = sim_device_of(map[i].location.id, &device);
                if (r)
                        return r;
                /* a device keeps its own memory */
                if (device == known->device && map[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
                        return CUDA_ERROR_INVALID_DEVICE;
                access &= ~(3u << 2 * device->index);
                access |= (uint32_t)map[i].flags << 2 * device->index;
        }
        region_lock();
        known->access = access;
        region_unlock();
        return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool memPool, CUmemLocation *location)
{
        struct sim_device *device;
        struct sim_pool *known;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_pool_of(memPool, &known);
        if (r)
                return r;
        if (!flags || !location || location->type != CU_MEM_LOCATION_TYPE_DEVICE)
                return CUDA_ERROR_INVALID_VALUE;
        r = sim_device_of(location->id, &device);
        if (!r)
                *flags = (CUmemAccess_flags)(known->access >> 2 * device->index & 3);
        return r;
}

/* ---- for graphs ---- */

uint64_t sim_pool_reserved(struct sim_pool *pool)
{
        uint64_t reserved;

        region_lock_shared();
        reserved = pool ? pool->reserved : 0;
        region_unlock();
        return reserved;
}

uint64_t sim_pool_occupied(struct sim_pool *pool)
{
        uint64_t bytes = 0;

        region_lock_shared();
        for (struct block *chunk = pool ? pool->chunks : NULL; chunk; chunk = chunk->next)
                if (chunk->heap.used)
                        bytes += chunk_bytes(chunk);
        region_unlock();
        return bytes;
}

CUresult sim_pool_back(CUdeviceptr pointer)
{
        struct block *chunk;
        CUresult r;

        region_lock();
        chunk = block_at(pointer);
        r = chunk && chunk->kind == BLOCK_CHUNK ? back(chunk->pool, chunk)
                                                : CUDA_ERROR_INVALID_VALUE;
        region_unlock();
        return r;
}

void sim_pool_trim(struct sim_pool *pool, uint64_t keep)
{
        region_lock();
        if (pool)
                trim(pool, keep);
        region_unlock();
}
