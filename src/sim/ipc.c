/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that processes share: cuIpc*, and the descriptors of cuMemExport* and pools. */
#include "ipc.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <fcntl.h>
#include <unistd.h>

#include "client.h"
#include "pool.h"
#include "rm.h"

#define SHARE_MAGIC 0x65726168534d4953ull /* "SIMShare" */

_Static_assert(sizeof(struct ipc_name) <= 64, "must fit an IPC handle");

CUresult ipc_device(const uint8_t uuid[16], struct sim_device **ret)
{
        for (int i = 0; i < sim_device_count(); i++)
                if (sim_device_of(i, ret) == CUDA_SUCCESS && !memcmp((*ret)->uuid, uuid, 16))
                        return CUDA_SUCCESS;
        return CUDA_ERROR_INVALID_DEVICE;
}

CUresult ipc_import(const struct ipc_name *name, struct sim_memory **ret)
{
        struct client_device objects;
        struct sim_device *device;
        struct sim_memory *memory;
        CUresult r = ipc_device(name->uuid, &device);

        if (!r)
                r = client_device(device, &objects);
        if (r)
                return r;
        memory = calloc(1, sizeof(*memory));
        if (!memory)
                return CUDA_ERROR_OUT_OF_MEMORY;
        memory->device = device;
        memory->imported = true;
        memory->client = client_handle();
        if (client_dup_memory(device, name->client, name->handle, &memory->handle, &memory->size,
                    &memory->offset) != RM_OK) {
                free(memory);
                return CUDA_ERROR_INVALID_VALUE;
        }
        if (name->offset > memory->size || name->size > memory->size - name->offset ||
                name->size == 0) {
                region_lock();
                memory_give(memory);
                region_unlock();
                return CUDA_ERROR_INVALID_VALUE;
        }
        *ret = memory;
        return CUDA_SUCCESS;
}

/* Opened before in this context: once more. Locked. */
static bool open_again(
        const struct ipc_name *name, const struct sim_context *context, CUdeviceptr *ret)
{
        for (struct block *block = context->memory->blocks; block; block = block->next)
                if (block->kind == BLOCK_IPC && block->ipc_client == name->client &&
                        block->ipc_handle == name->handle && block->ipc_offset == name->offset) {
                        block->references++;
                        *ret = block->base + block->ipc_offset;
                        return true;
                }
        return false;
}

CUresult ipc_map(const struct ipc_name *name, struct sim_context *context, struct sim_pool *pool,
        CUdeviceptr *ret)
{
        struct sim_memory *memory;
        struct block *block;
        bool again;
        CUresult r;

        region_lock_shared();
        again = open_again(name, context, ret);
        region_unlock();
        if (again)
                return CUDA_SUCCESS;
        r = ipc_import(name, &memory);
        if (r)
                return r;
        region_lock();
        block = block_new(BLOCK_IPC, memory->size, SLOT_BYTES, 0);
        if (!block) {
                memory_give(memory);
                r = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
                block->memory = memory;
                block->device = memory->device;
                block->context = context;
                block->pool = pool;
                block->ipc_client = name->client;
                block->ipc_handle = name->handle;
                block->ipc_offset = name->offset;
                block->asked = name->offset + name->size;
                block->references = 1;
                r = block_map(block);
                if (r) {
                        block_free(block);
                } else {
                        block_link(&context->memory->blocks, block);
                        *ret = block->base + block->ipc_offset;
                }
        }
        region_unlock();
        return r;
}

CUresult ipc_close(CUdeviceptr pointer)
{
        CUresult r = CUDA_SUCCESS;
        struct block *block;

        region_lock();
        block = block_at(pointer);
        if (!block || block->kind != BLOCK_IPC || pointer != block->base + block->ipc_offset) {
                r = CUDA_ERROR_INVALID_VALUE;
        } else if (--block->references == 0) {
                block_unlink(&block->context->memory->blocks, block);
                block_free(block);
        }
        region_unlock();
        return r;
}

/* ---- handles of cuMemAlloc's memory ---- */

/* The name of what begins at pointer or contains it. Locked, shared. */
static CUresult name_of(CUdeviceptr pointer, bool pool, struct ipc_name *ret)
{
        const struct heap_segment *segment;
        const struct block *block = find_allocation(pointer, &segment);

        if (!block || !block->memory || block->memory->imported ||
                (pool ? block->kind != BLOCK_CHUNK
                      : block->kind != BLOCK_ALONE && block->kind != BLOCK_SHARED))
                return CUDA_ERROR_INVALID_VALUE;
        *ret = (struct ipc_name){
                .kind = SIM_IPC_MEMORY,
                .client = block->memory->client,
                .handle = block->memory->handle,
                .offset = segment ? segment->offset : 0,
                .size = segment ? segment->asked : block->asked,
        };
        memcpy(ret->uuid, block->device->uuid, sizeof(ret->uuid));
        return CUDA_SUCCESS;
}

CUresult cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr)
{
        struct sim_context *context;
        struct ipc_name name;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (!pHandle)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock_shared();
        r = name_of(dptr, false, &name);
        region_unlock();
        if (r)
                return r;
        memset(pHandle, 0, sizeof(*pHandle));
        memcpy(pHandle, &name, sizeof(name));
        return CUDA_SUCCESS;
}

static CUresult open_handle(CUdeviceptr *pdptr, const CUipcMemHandle *handle, unsigned int flags)
{
        struct sim_context *context;
        struct ipc_name name;
        CUresult r = sim_current(&context);

        if (r)
                return r;
        memcpy(&name, handle, sizeof(name));
        if (!pdptr || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS || name.kind != SIM_IPC_MEMORY)
                return CUDA_ERROR_INVALID_VALUE;
        if (name.client == client_handle())
                return CUDA_ERROR_INVALID_CONTEXT; /* one's own memory has its address already */
        return ipc_map(&name, context, NULL, pdptr);
}

CUresult cuIpcOpenMemHandle(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
{
        CUresult r = sim_enter(__func__);

        return r ? r : open_handle(pdptr, &handle, Flags);
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
{
        CUresult r = sim_enter(__func__);

        return r ? r : open_handle(pdptr, &handle, Flags);
}

CUresult cuIpcCloseMemHandle(CUdeviceptr dptr)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (!r)
                r = exec_synchronize(context);
        return r ? r : ipc_close(dptr);
}

/* ---- descriptors ---- */

CUresult ipc_share_fd(const struct ipc_share *share, int *ret_fd)
{
        struct ipc_share copy = *share;
        int fd = memfd_create("cleave-sim-share", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        if (fd < 0)
                return CUDA_ERROR_OPERATING_SYSTEM;
        copy.magic = SHARE_MAGIC;
        if (write(fd, &copy, sizeof(copy)) != sizeof(copy) ||
                fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
                close(fd);
                return CUDA_ERROR_OPERATING_SYSTEM;
        }
        *ret_fd = fd;
        return CUDA_SUCCESS;
}

CUresult ipc_share_read(int fd, uint32_t kind, struct ipc_share *ret)
{
        struct ipc_share share;

        if (fd < 0 || pread(fd, &share, sizeof(share), 0) != sizeof(share) ||
                share.magic != SHARE_MAGIC || share.name.kind != kind)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = share;
        return CUDA_SUCCESS;
}

CUresult cuMemPoolExportToShareableHandle(void *handle_out, CUmemoryPool pool,
        CUmemAllocationHandleType handleType, unsigned long long flags)
{
        struct ipc_share share = {.name.kind = IPC_SHARE_POOL};
        struct sim_pool *known;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_pool_of(pool, &known);
        if (r)
                return r;
        if (!handle_out || flags || handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ||
                !(known->properties.handleTypes & CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR))
                return CUDA_ERROR_INVALID_VALUE;
        share.name.client = client_handle();
        memcpy(share.name.uuid, known->device->uuid, sizeof(share.name.uuid));
        return ipc_share_fd(&share, handle_out);
}

CUresult cuMemPoolImportFromShareableHandle(CUmemoryPool *pool_out, void *handle,
        CUmemAllocationHandleType handleType, unsigned long long flags)
{
        struct sim_device *device;
        struct ipc_share share;
        struct sim_pool *pool;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!pool_out || flags || handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
                return CUDA_ERROR_INVALID_VALUE;
        r = ipc_share_read((int)(intptr_t)handle, IPC_SHARE_POOL, &share);
        if (!r)
                r = ipc_device(share.name.uuid, &device);
        if (!r)
                r = pool_new_imported(device, &pool);
        if (!r)
                *pool_out = (CUmemoryPool)pool;
        return r;
}

CUresult cuMemPoolExportPointer(CUmemPoolPtrExportData *shareData_out, CUdeviceptr ptr)
{
        struct ipc_name name;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!shareData_out)
                return CUDA_ERROR_INVALID_VALUE;
        region_lock_shared();
        r = name_of(ptr, true, &name);
        region_unlock();
        if (r)
                return r;
        memset(shareData_out, 0, sizeof(*shareData_out));
        memcpy(shareData_out, &name, sizeof(name));
        return CUDA_SUCCESS;
}

CUresult cuMemPoolImportPointer(
        CUdeviceptr *ptr_out, CUmemoryPool pool, CUmemPoolPtrExportData *shareData)
{
        struct sim_context *context;
        struct ipc_name name;
        struct sim_pool *known;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (!r)
                r = sim_pool_of(pool, &known);
        if (r)
                return r;
        if (!ptr_out || !shareData || !known->imported)
                return CUDA_ERROR_INVALID_VALUE;
        memcpy(&name, shareData, sizeof(name));
        if (name.kind != SIM_IPC_MEMORY)
                return CUDA_ERROR_INVALID_VALUE;
        return ipc_map(&name, context, known, ptr_out);
}
