/* SPDX-License-Identifier: Apache-2.0 */
/* The entries that fill memory, and those that only say where it is wanted. */
#include <stdlib.h>

#include "exec.h"

CUresult fill_new(struct sim_context *context, CUdeviceptr dst, size_t pitch, uint32_t value,
        unsigned element, size_t width, size_t height, struct work **ret)
{
        struct work *work;
        CUresult r;

        if (element != 1 && element != 2 && element != 4)
                return CUDA_ERROR_INVALID_VALUE;
        if (width && height) {
                if (dst % element || (height > 1 && (pitch % element || pitch < width * element)))
                        return CUDA_ERROR_INVALID_VALUE;
                r = memory_check(dst, (height - 1) * pitch + width * element, false);
                if (r)
                        return CUDA_ERROR_INVALID_VALUE;
        }
        work = work_new(context, WORK_FILL);
        if (!work)
                return CUDA_ERROR_OUT_OF_MEMORY;
        work->fill = (struct fill){dst, pitch, value, element, width, height};
        *ret = work;
        return CUDA_SUCCESS;
}

static CUresult fill(const char *entry, CUdeviceptr dst, size_t pitch, uint32_t value,
        unsigned element, size_t width, size_t height, bool asynchronous, CUstream handle)
{
        struct sim_context *context;
        struct sim_range range;
        struct stream *stream;
        struct work *work;
        bool wait;
        CUresult r;

        if (asynchronous) {
                r = exec_enter_stream(entry, handle, &stream);
        } else {
                r = exec_enter(entry, &context);
                if (!r)
                        r = exec_default_stream(context, &stream);
        }
        if (r || width == 0 || height == 0)
                return r;
        /* a host without room is told now, while the context is whole */
        r = memory_check(dst, (height - 1) * pitch + width * element, !stream->capture);
        if (!r)
                r = fill_new(stream->context, dst, pitch, value, element, width, height, &work);
        if (r)
                return r;
        /* of the calls without a stream only those that write to host memory wait */
        wait = !asynchronous &&
               (stream->capture || (sim_range(dst, 1, &range) == CUDA_SUCCESS && !range.device));
        return stream_submit(stream, work, wait, NULL);
}

CUresult cuMemsetD8_v2(CUdeviceptr dst, unsigned char value, size_t n)
{
        return fill(__func__, dst, 0, value, 1, n, 1, false, NULL);
}

CUresult cuMemsetD16_v2(CUdeviceptr dst, unsigned short value, size_t n)
{
        return fill(__func__, dst, 0, value, 2, n, 1, false, NULL);
}

CUresult cuMemsetD32_v2(CUdeviceptr dst, unsigned int value, size_t n)
{
        return fill(__func__, dst, 0, value, 4, n, 1, false, NULL);
}

CUresult cuMemsetD2D8_v2(
        CUdeviceptr dst, size_t pitch, unsigned char value, size_t width, size_t height)
{
        return fill(__func__, dst, pitch, value, 1, width, height, false, NULL);
}

CUresult cuMemsetD2D16_v2(
        CUdeviceptr dst, size_t pitch, unsigned short value, size_t width, size_t height)
{
        return fill(__func__, dst, pitch, value, 2, width, height, false, NULL);
}

CUresult cuMemsetD2D32_v2(
        CUdeviceptr dst, size_t pitch, unsigned int value, size_t width, size_t height)
{
        return fill(__func__, dst, pitch, value, 4, width, height, false, NULL);
}

CUresult cuMemsetD8Async(CUdeviceptr dst, unsigned char value, size_t n, CUstream stream)
{
        return fill(__func__, dst, 0, value, 1, n, 1, true, stream);
}

CUresult cuMemsetD16Async(CUdeviceptr dst, unsigned short value, size_t n, CUstream stream)
{
        return fill(__func__, dst, 0, value, 2, n, 1, true, stream);
}

CUresult cuMemsetD32Async(CUdeviceptr dst, unsigned int value, size_t n, CUstream stream)
{
        return fill(__func__, dst, 0, value, 4, n, 1, true, stream);
}

CUresult cuMemsetD2D8Async(CUdeviceptr dst, size_t pitch, unsigned char value, size_t width,
        size_t height, CUstream stream)
{
        return fill(__func__, dst, pitch, value, 1, width, height, true, stream);
}

CUresult cuMemsetD2D16Async(CUdeviceptr dst, size_t pitch, unsigned short value, size_t width,
        size_t height, CUstream stream)
{
        return fill(__func__, dst, pitch, value, 2, width, height, true, stream);
}

CUresult cuMemsetD2D32Async(CUdeviceptr dst, size_t pitch, unsigned int value, size_t width,
        size_t height, CUstream stream)
{
        return fill(__func__, dst, pitch, value, 4, width, height, true, stream);
}

/* ---- where managed memory is wanted: it never moves here, so these only check and keep order ----
 */

static CUresult check_managed(CUdeviceptr pointer, size_t bytes)
{
        struct sim_range range;

        if (bytes == 0 || sim_range(pointer, bytes, &range) || range.kind != SIM_MANAGED)
                return CUDA_ERROR_INVALID_VALUE;
        return CUDA_SUCCESS;
}

static CUresult check_location(CUmemLocation location)
{
        struct sim_device *device;

        switch ((int)location.type) {
        case CU_MEM_LOCATION_TYPE_DEVICE:
                return sim_device_of(location.id, &device);
        case CU_MEM_LOCATION_TYPE_HOST:
        case CU_MEM_LOCATION_TYPE_HOST_NUMA:
        case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
                return CUDA_SUCCESS;
        default:
                return CUDA_ERROR_INVALID_VALUE;
        }
}

static CUmemLocation location_of(CUdevice device)
{
        return device == CU_DEVICE_CPU
                       ? (CUmemLocation){.type = CU_MEM_LOCATION_TYPE_HOST}
                       : (CUmemLocation){.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device};
}

CUresult cuMemPrefetchAsync_v2(CUdeviceptr pointer, size_t bytes, CUmemLocation location,
        unsigned int flags, CUstream handle)
{
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (flags)
                return CUDA_ERROR_INVALID_VALUE;
        r = check_managed(pointer, bytes);
        if (!r)
                r = check_location(location);
        return r ? r : stream_submit(stream, work_new(stream->context, WORK_EMPTY), false, NULL);
}

CUresult cuMemPrefetchAsync(CUdeviceptr pointer, size_t bytes, CUdevice device, CUstream stream)
{
        return cuMemPrefetchAsync_v2(pointer, bytes, location_of(device), 0, stream);
}

CUresult cuMemAdvise_v2(
        CUdeviceptr pointer, size_t bytes, CUmem_advise advice, CUmemLocation location)
{
        struct sim_context *context;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (advice < CU_MEM_ADVISE_SET_READ_MOSTLY || advice > CU_MEM_ADVISE_UNSET_ACCESSED_BY)
                return CUDA_ERROR_INVALID_VALUE;
        r = check_managed(pointer, bytes);
        /* these say nothing about a place */
        if (!r && advice != CU_MEM_ADVISE_SET_READ_MOSTLY &&
                advice != CU_MEM_ADVISE_UNSET_READ_MOSTLY &&
                advice != CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION)
                r = check_location(location);
        return r;
}

CUresult cuMemAdvise(CUdeviceptr pointer, size_t bytes, CUmem_advise advice, CUdevice device)
{
        return cuMemAdvise_v2(pointer, bytes, advice, location_of(device));
}

static CUresult hint_batch(const char *entry, const CUdeviceptr *pointers, const size_t *sizes,
        size_t count, const CUmemLocation *locations, const size_t *first, size_t n, bool places,
        unsigned long long flags, CUstream handle)
{
        struct stream *stream;
        CUresult r = exec_enter_stream(entry, handle, &stream);

        if (r)
                return r;
        if (!pointers || !sizes || count == 0 || flags || stream->legacy)
                return CUDA_ERROR_INVALID_VALUE;
        if (places && (!locations || !first || n == 0 || n > count || first[0] != 0))
                return CUDA_ERROR_INVALID_VALUE;
        for (size_t i = 0; i < count && !r; i++)
                r = check_managed(pointers[i], sizes[i]);
        for (size_t i = 0; i < n && !r; i++)
                r = check_location(locations[i]);
        return r ? r : stream_submit(stream, work_new(stream->context, WORK_EMPTY), false, NULL);
}

CUresult cuMemPrefetchBatchAsync(CUdeviceptr *pointers, size_t *sizes, size_t count,
        CUmemLocation *locations, size_t *first, size_t n, unsigned long long flags,
        CUstream stream)
{
        return hint_batch(
                __func__, pointers, sizes, count, locations, first, n, true, flags, stream);
}

CUresult cuMemDiscardBatchAsync(CUdeviceptr *pointers, size_t *sizes, size_t count,
        unsigned long long flags, CUstream stream)
{
        return hint_batch(__func__, pointers, sizes, count, NULL, NULL, 0, false, flags, stream);
}

CUresult cuMemDiscardAndPrefetchBatchAsync(CUdeviceptr *pointers, size_t *sizes, size_t count,
        CUmemLocation *locations, size_t *first, size_t n, unsigned long long flags,
        CUstream stream)
{
        return hint_batch(
                __func__, pointers, sizes, count, locations, first, n, true, flags, stream);
}
