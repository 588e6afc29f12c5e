/* SPDX-License-Identifier: Apache-2.0 */
/* The entries that copy. */
#include <stdlib.h>
#include <string.h>

#include "copy.h"

static CUresult linear(const char *entry, CUmemorytype to, CUdeviceptr dst, CUmemorytype from,
        CUdeviceptr src, size_t bytes, bool asynchronous, CUstream stream)
{
        CUDA_MEMCPY3D params = copy_linear(to, dst, from, src, bytes);

        return copy_call(entry, &params, asynchronous, stream);
}

static CUdeviceptr address(const void *host)
{
        return (CUdeviceptr)(uintptr_t)host;
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr dst, const void *src, size_t bytes)
{
        return linear(__func__, CU_MEMORYTYPE_DEVICE, dst, CU_MEMORYTYPE_HOST, address(src), bytes,
                false, NULL);
}

CUresult cuMemcpyDtoH_v2(void *dst, CUdeviceptr src, size_t bytes)
{
        return linear(__func__, CU_MEMORYTYPE_HOST, address(dst), CU_MEMORYTYPE_DEVICE, src, bytes,
                false, NULL);
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr dst, CUdeviceptr src, size_t bytes)
{
        return linear(
                __func__, CU_MEMORYTYPE_DEVICE, dst, CU_MEMORYTYPE_DEVICE, src, bytes, false, NULL);
}

CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t bytes)
{
        return linear(__func__, CU_MEMORYTYPE_UNIFIED, dst, CU_MEMORYTYPE_UNIFIED, src, bytes,
                false, NULL);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dst, const void *src, size_t bytes, CUstream stream)
{
        return linear(__func__, CU_MEMORYTYPE_DEVICE, dst, CU_MEMORYTYPE_HOST, address(src), bytes,
                true, stream);
}

CUresult cuMemcpyDtoHAsync_v2(void *dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
        return linear(__func__, CU_MEMORYTYPE_HOST, address(dst), CU_MEMORYTYPE_DEVICE, src, bytes,
                true, stream);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
        return linear(__func__, CU_MEMORYTYPE_DEVICE, dst, CU_MEMORYTYPE_DEVICE, src, bytes, true,
                stream);
}

CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
        return linear(__func__, CU_MEMORYTYPE_UNIFIED, dst, CU_MEMORYTYPE_UNIFIED, src, bytes, true,
                stream);
}

/* All devices' memory lies in one region, so a copy between devices is like any other; the
 * contexts are only looked at. */
static CUresult check_peers(CUcontext dst, CUcontext src)
{
        struct sim_context *context;
        CUresult r = sim_context_of(dst, &context);

        return r ? r : sim_context_of(src, &context);
}

CUresult cuMemcpyPeer(CUdeviceptr dst, CUcontext dst_context, CUdeviceptr src,
        CUcontext src_context, size_t bytes)
{
        CUresult r = check_peers(dst_context, src_context);

        return r ? r
                 : linear(__func__, CU_MEMORYTYPE_DEVICE, dst, CU_MEMORYTYPE_DEVICE, src, bytes,
                           false, NULL);
}

CUresult cuMemcpyPeerAsync(CUdeviceptr dst, CUcontext dst_context, CUdeviceptr src,
        CUcontext src_context, size_t bytes, CUstream stream)
{
        CUresult r = check_peers(dst_context, src_context);

        return r ? r
                 : linear(__func__, CU_MEMORYTYPE_DEVICE, dst, CU_MEMORYTYPE_DEVICE, src, bytes,
                           true, stream);
}

/* ---- arrays, one row ---- */

static CUresult row(const char *entry, CUarray dst, size_t dst_x, CUdeviceptr dst_pointer,
        CUmemorytype to, CUarray src, size_t src_x, CUdeviceptr src_pointer, CUmemorytype from,
        size_t bytes, bool asynchronous, CUstream stream)
{
        CUDA_MEMCPY3D params = copy_linear(to, dst_pointer, from, src_pointer, bytes);

        params.dstArray = dst;
        params.dstXInBytes = dst_x;
        params.srcArray = src;
        params.srcXInBytes = src_x;
        return copy_call(entry, &params, asynchronous, stream);
}

CUresult cuMemcpyDtoA_v2(CUarray dst, size_t offset, CUdeviceptr src, size_t bytes)
{
        return row(__func__, dst, offset, 0, CU_MEMORYTYPE_ARRAY, NULL, 0, src,
                CU_MEMORYTYPE_DEVICE, bytes, false, NULL);
}

CUresult cuMemcpyAtoD_v2(CUdeviceptr dst, CUarray src, size_t offset, size_t bytes)
{
        return row(__func__, NULL, 0, dst, CU_MEMORYTYPE_DEVICE, src, offset, 0,
                CU_MEMORYTYPE_ARRAY, bytes, false, NULL);
}

CUresult cuMemcpyHtoA_v2(CUarray dst, size_t offset, const void *src, size_t bytes)
{
        return row(__func__, dst, offset, 0, CU_MEMORYTYPE_ARRAY, NULL, 0, address(src),
                CU_MEMORYTYPE_HOST, bytes, false, NULL);
}

CUresult cuMemcpyAtoH_v2(void *dst, CUarray src, size_t offset, size_t bytes)
{
        return row(__func__, NULL, 0, address(dst), CU_MEMORYTYPE_HOST, src, offset, 0,
                CU_MEMORYTYPE_ARRAY, bytes, false, NULL);
}

CUresult cuMemcpyAtoA_v2(
        CUarray dst, size_t dst_offset, CUarray src, size_t src_offset, size_t bytes)
{
        return row(__func__, dst, dst_offset, 0, CU_MEMORYTYPE_ARRAY, src, src_offset, 0,
                CU_MEMORYTYPE_ARRAY, bytes, false, NULL);
}

CUresult cuMemcpyHtoAAsync_v2(
        CUarray dst, size_t offset, const void *src, size_t bytes, CUstream stream)
{
        return row(__func__, dst, offset, 0, CU_MEMORYTYPE_ARRAY, NULL, 0, address(src),
                CU_MEMORYTYPE_HOST, bytes, true, stream);
}

CUresult cuMemcpyAtoHAsync_v2(void *dst, CUarray src, size_t offset, size_t bytes, CUstream stream)
{
        return row(__func__, NULL, 0, address(dst), CU_MEMORYTYPE_HOST, src, offset, 0,
                CU_MEMORYTYPE_ARRAY, bytes, true, stream);
}

/* ---- two and three dimensions ---- */

static CUresult flat(
        const char *entry, const CUDA_MEMCPY2D *params, bool asynchronous, CUstream stream)
{
        CUDA_MEMCPY3D whole;

        if (!params)
                return copy_call(entry, NULL, asynchronous, stream);
        whole = copy_from_2d(params);
        return copy_call(entry, &whole, asynchronous, stream);
}

CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D *params)
{
        return flat(__func__, params, false, NULL);
}

CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *params)
{
        return flat(__func__, params, false, NULL);
}

CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *params, CUstream stream)
{
        return flat(__func__, params, true, stream);
}

CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D *params)
{
        return copy_call(__func__, params, false, NULL);
}

CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *params, CUstream stream)
{
        return copy_call(__func__, params, true, stream);
}

static CUresult peers(
        const char *entry, const CUDA_MEMCPY3D_PEER *params, bool asynchronous, CUstream stream)
{
        CUDA_MEMCPY3D whole;

        if (!params)
                return copy_call(entry, NULL, asynchronous, stream);
        whole = copy_from_peer(params);
        return copy_call(entry, &whole, asynchronous, stream);
}

CUresult cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER *params)
{
        return peers(__func__, params, false, NULL);
}

CUresult cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER *params, CUstream stream)
{
        return peers(__func__, params, true, stream);
}

/* ---- batches ---- */

/* A batch has no place in a capture and needs a real stream. */
static CUresult enter_batch(const char *entry, CUstream handle, struct stream **ret)
{
        CUresult r = exec_enter_stream(entry, handle, ret);

        if (r)
                return r;
        if ((*ret)->legacy)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        if ((*ret)->capture)
                r = capture_refuse(*ret);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

static CUresult check_attributes(
        const CUmemcpyAttributes *attributes, const size_t *first, size_t n, size_t count)
{
        if (!attributes || !first || n == 0 || n > count || first[0] != 0)
                return CUDA_ERROR_INVALID_VALUE;
        for (size_t i = 0; i < n; i++)
                if ((i && first[i] <= first[i - 1]) || first[i] >= count ||
                        attributes[i].srcAccessOrder < CU_MEMCPY_SRC_ACCESS_ORDER_STREAM ||
                        attributes[i].srcAccessOrder > CU_MEMCPY_SRC_ACCESS_ORDER_ANY)
                        return CUDA_ERROR_INVALID_VALUE;
        return CUDA_SUCCESS;
}

/* ret_failed: where the first refused copy's number goes; SIZE_MAX where the fault is not one's. */
static CUresult batch(const char *entry, const CUdeviceptr *dst, const CUdeviceptr *src,
        const size_t *sizes, size_t count, const CUmemcpyAttributes *attributes,
        const size_t *first, size_t n, size_t *ret_failed, CUstream handle)
{
        struct stream *stream;
        CUresult r = enter_batch(entry, handle, &stream);

        if (ret_failed)
                *ret_failed = SIZE_MAX;
        if (r)
                return r;
        if (!dst || !src || !sizes || count == 0)
                return CUDA_ERROR_INVALID_VALUE;
        r = check_attributes(attributes, first, n, count);
        for (size_t i = 0; i < count && !r; i++) {
                CUDA_MEMCPY3D params = copy_linear(
                        CU_MEMORYTYPE_UNIFIED, dst[i], CU_MEMORYTYPE_UNIFIED, src[i], sizes[i]);
                struct work *work;

                r = sizes[i] ? copy_new(stream->context, &params, &work) : CUDA_ERROR_INVALID_VALUE;
                if (!r)
                        r = copy_submit(stream, work, true);
                if (r && ret_failed)
                        *ret_failed = i;
        }
        return r;
}

CUresult cuMemcpyBatchAsync(CUdeviceptr *dst, CUdeviceptr *src, size_t *sizes, size_t count,
        CUmemcpyAttributes *attributes, size_t *first, size_t n, size_t *ret_failed,
        CUstream stream)
{
        return batch(__func__, dst, src, sizes, count, attributes, first, n, ret_failed, stream);
}

CUresult cuMemcpyBatchAsync_v2(CUdeviceptr *dst, CUdeviceptr *src, size_t *sizes, size_t count,
        CUmemcpyAttributes *attributes, size_t *first, size_t n, CUstream stream)
{
        return batch(__func__, dst, src, sizes, count, attributes, first, n, NULL, stream);
}

/* How many bytes an element of the operation's array has; 1 where both sides are pointers. */
static CUresult element_bytes(const CUDA_MEMCPY3D_BATCH_OP *op, size_t *ret)
{
        const CUmemcpy3DOperand *side =
                op->src.type == CU_MEMCPY_OPERAND_TYPE_ARRAY ? &op->src : &op->dst;
        struct sim_array *array;
        CUresult r;

        *ret = 1;
        if (side->type != CU_MEMCPY_OPERAND_TYPE_ARRAY)
                return CUDA_SUCCESS;
        r = sim_array_of(side->op.array.array, &array);
        if (!r)
                *ret = array->element_bytes;
        return r;
}

static CUresult from_operation(const CUDA_MEMCPY3D_BATCH_OP *op, CUDA_MEMCPY3D *ret)
{
        size_t element;
        CUresult r = element_bytes(op, &element);

        if (r)
                return r;
        *ret = (CUDA_MEMCPY3D){
                .WidthInBytes = op->extent.width * element,
                .Height = op->extent.height,
                .Depth = op->extent.depth,
        };
        if (op->src.type == CU_MEMCPY_OPERAND_TYPE_ARRAY) {
                ret->srcMemoryType = CU_MEMORYTYPE_ARRAY;
                ret->srcArray = op->src.op.array.array;
                ret->srcXInBytes = op->src.op.array.offset.x * element;
                ret->srcY = op->src.op.array.offset.y;
                ret->srcZ = op->src.op.array.offset.z;
        } else {
                ret->srcMemoryType = CU_MEMORYTYPE_UNIFIED;
                ret->srcDevice = op->src.op.ptr.ptr;
                ret->srcPitch = op->src.op.ptr.rowLength * element;
                ret->srcHeight = op->src.op.ptr.layerHeight;
        }
        if (op->dst.type == CU_MEMCPY_OPERAND_TYPE_ARRAY) {
                ret->dstMemoryType = CU_MEMORYTYPE_ARRAY;
                ret->dstArray = op->dst.op.array.array;
                ret->dstXInBytes = op->dst.op.array.offset.x * element;
                ret->dstY = op->dst.op.array.offset.y;
                ret->dstZ = op->dst.op.array.offset.z;
        } else {
                ret->dstMemoryType = CU_MEMORYTYPE_UNIFIED;
                ret->dstDevice = op->dst.op.ptr.ptr;
                ret->dstPitch = op->dst.op.ptr.rowLength * element;
                ret->dstHeight = op->dst.op.ptr.layerHeight;
        }
        return CUDA_SUCCESS;
}

static CUresult batch_3d(const char *entry, size_t count, const CUDA_MEMCPY3D_BATCH_OP *ops,
        size_t *ret_failed, unsigned long long flags, CUstream handle)
{
        struct stream *stream;
        CUresult r = enter_batch(entry, handle, &stream);

        if (ret_failed)
                *ret_failed = SIZE_MAX;
        if (r)
                return r;
        if (!ops || count == 0 || flags)
                return CUDA_ERROR_INVALID_VALUE;
        for (size_t i = 0; i < count && !r; i++) {
                CUDA_MEMCPY3D params;
                struct work *work;

                r = from_operation(&ops[i], &params);
                if (!r)
                        r = copy_new(stream->context, &params, &work);
                if (!r)
                        r = copy_submit(stream, work, true);
                if (r && ret_failed)
                        *ret_failed = i;
        }
        return r;
}

CUresult cuMemcpy3DBatchAsync(size_t count, CUDA_MEMCPY3D_BATCH_OP *ops, size_t *ret_failed,
        unsigned long long flags, CUstream stream)
{
        return batch_3d(__func__, count, ops, ret_failed, flags, stream);
}

CUresult cuMemcpy3DBatchAsync_v2(
        size_t count, CUDA_MEMCPY3D_BATCH_OP *ops, unsigned long long flags, CUstream stream)
{
        return batch_3d(__func__, count, ops, NULL, flags, stream);
}
