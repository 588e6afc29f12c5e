/* SPDX-License-Identifier: Apache-2.0 */
/* Streams that write and await values in memory. */
#include <stdlib.h>
#include <string.h>

#include "exec.h"

#define MAX_BATCH 256

static bool is_wide(CUstreamBatchMemOpType type)
{
        return type == CU_STREAM_MEM_OP_WAIT_VALUE_64 || type == CU_STREAM_MEM_OP_WRITE_VALUE_64;
}

static CUresult check_value(const CUstreamBatchMemOpParams *op)
{
        size_t bytes = is_wide(op->operation) ? 8 : 4;
        struct sim_range range;

        switch (op->operation) {
        case CU_STREAM_MEM_OP_WAIT_VALUE_32:
        case CU_STREAM_MEM_OP_WAIT_VALUE_64:
                if (op->waitValue.flags & ~(3u | CU_STREAM_WAIT_VALUE_FLUSH))
                        return CUDA_ERROR_INVALID_VALUE;
                if (op->waitValue.flags & CU_STREAM_WAIT_VALUE_FLUSH)
                        return CUDA_ERROR_NOT_SUPPORTED;
                break;
        case CU_STREAM_MEM_OP_WRITE_VALUE_32:
        case CU_STREAM_MEM_OP_WRITE_VALUE_64:
                if (op->writeValue.flags & ~CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER)
                        return CUDA_ERROR_INVALID_VALUE;
                break;
        case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
                return op->flushRemoteWrites.flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
        case CU_STREAM_MEM_OP_BARRIER:
                return op->memoryBarrier.flags > CU_STREAM_MEMORY_BARRIER_TYPE_GPU
                               ? CUDA_ERROR_INVALID_VALUE
                               : CUDA_SUCCESS;
        default:
                return CUDA_ERROR_INVALID_VALUE;
        }
        if (op->waitValue.address % bytes)
                return CUDA_ERROR_INVALID_VALUE;
        return sim_range(op->waitValue.address, bytes, &range) ? CUDA_ERROR_INVALID_VALUE
                                                               : CUDA_SUCCESS;
}

CUresult values_new(struct sim_context *context, unsigned count,
        const CUstreamBatchMemOpParams *ops, unsigned flags, struct work **ret)
{
        struct work *work;

        if (!ops || count == 0 || count > MAX_BATCH || flags)
                return CUDA_ERROR_INVALID_VALUE;
        for (unsigned i = 0; i < count; i++) {
                CUresult r = check_value(&ops[i]);

                if (r)
                        return r;
        }
        work = work_new(context, WORK_VALUES);
        if (!work)
                return CUDA_ERROR_OUT_OF_MEMORY;
        work->values.count = count;
        work->values.flags = flags;
        work->values.ops = calloc(count, sizeof(*ops));
        if (!work->values.ops) {
                free(work);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        memcpy(work->values.ops, ops, count * sizeof(*ops));
        *ret = work;
        return CUDA_SUCCESS;
}

static CUresult submit(const char *entry, CUstream handle, unsigned count,
        const CUstreamBatchMemOpParams *ops, unsigned flags)
{
        struct stream *stream;
        struct work *work;
        CUresult r = exec_enter_stream(entry, handle, &stream);

        if (!r)
                r = values_new(stream->context, count, ops, flags, &work);
        if (!r)
                r = stream_submit(stream, work, false, NULL);
        return r;
}

static CUresult submit_one(const char *entry, CUstream handle, CUstreamBatchMemOpType type,
        CUdeviceptr address, uint64_t value, unsigned flags)
{
        CUstreamBatchMemOpParams op;

        memset(&op, 0, sizeof(op));
        /* waits and writes are laid out alike */
        op.operation = type;
        op.waitValue.address = address;
        if (is_wide(type))
                op.waitValue.value64 = value;
        else
                op.waitValue.value = (cuuint32_t)value;
        op.waitValue.flags = flags;
        return submit(entry, handle, 1, &op, 0);
}

CUresult cuStreamWaitValue32_v2(
        CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned int flags)
{
        return submit_one(__func__, stream, CU_STREAM_MEM_OP_WAIT_VALUE_32, address, value, flags);
}

CUresult cuStreamWaitValue64_v2(
        CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int flags)
{
        return submit_one(__func__, stream, CU_STREAM_MEM_OP_WAIT_VALUE_64, address, value, flags);
}

CUresult cuStreamWriteValue32_v2(
        CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned int flags)
{
        return submit_one(__func__, stream, CU_STREAM_MEM_OP_WRITE_VALUE_32, address, value, flags);
}

CUresult cuStreamWriteValue64_v2(
        CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int flags)
{
        return submit_one(__func__, stream, CU_STREAM_MEM_OP_WRITE_VALUE_64, address, value, flags);
}

CUresult cuStreamBatchMemOp_v2(
        CUstream stream, unsigned int count, CUstreamBatchMemOpParams *ops, unsigned int flags)
{
        return submit(__func__, stream, count, ops, flags);
}

/* The entries of CUDA 8, which the driver keeps for programs built with it. */
CUresult cuStreamWaitValue32(
        CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned int flags)
{
        return cuStreamWaitValue32_v2(stream, address, value, flags);
}

CUresult cuStreamWaitValue64(
        CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int flags)
{
        return cuStreamWaitValue64_v2(stream, address, value, flags);
}

CUresult cuStreamWriteValue32(
        CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned int flags)
{
        return cuStreamWriteValue32_v2(stream, address, value, flags);
}

CUresult cuStreamWriteValue64(
        CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int flags)
{
        return cuStreamWriteValue64_v2(stream, address, value, flags);
}

CUresult cuStreamBatchMemOp(
        CUstream stream, unsigned int count, CUstreamBatchMemOpParams *ops, unsigned int flags)
{
        return cuStreamBatchMemOp_v2(stream, count, ops, flags);
}
