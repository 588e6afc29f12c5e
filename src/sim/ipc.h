/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of other processes: how it is named between them, and mapped here. */
#pragma once

#include "memory.h"

/* What one process tells another about a piece of device memory. It is what the other says, so it
 * is checked: RM must know the names, and the sizes must fit the memory that it finds. */
struct ipc_name {
        uint32_t kind;           /* SIM_IPC_* */
        uint32_t client, handle; /* RM's names */
        uint32_t pad;
        uint64_t offset, size; /* of the allocation in that memory */
        uint8_t uuid[16];      /* of the device */
};

/* The device of that UUID: CUDA_ERROR_INVALID_DEVICE if this process does not see it. */
CUresult ipc_device(const uint8_t uuid[16], struct sim_device **ret);
/* A name of ours for another's memory. CUDA_ERROR_INVALID_VALUE: there is no such memory now. */
CUresult ipc_import(const struct ipc_name *name, struct sim_memory **ret);
/* Maps it: a BLOCK_IPC in the context's list. */
CUresult ipc_map(const struct ipc_name *name, struct sim_context *context, struct sim_pool *pool,
        CUdeviceptr *ret);
/* Drops one opening of it. CUDA_ERROR_INVALID_VALUE. */
CUresult ipc_close(CUdeviceptr pointer);

/* A descriptor that carries a name, to be sent to another process. */
#define IPC_SHARE_VMM  0x4d4d5653u
#define IPC_SHARE_POOL 0x4c4f4f50u
struct ipc_share {
        uint64_t magic;
        struct ipc_name name; /* kind: IPC_SHARE_* */
        CUmemAllocationProp properties;
};
CUresult ipc_share_fd(const struct ipc_share *share, int *ret_fd);
CUresult ipc_share_read(int fd, uint32_t kind, struct ipc_share *ret);
