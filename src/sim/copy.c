/* SPDX-License-Identifier: Apache-2.0 */
/* Copies: what a descriptor means, and when a call returns. Entries are in memcpy.c. */
#include <stdlib.h>
#include <string.h>

#include "copy.h"

/* Up to here, pageable memory is read before an asynchronous call returns and the call does not
 * wait ("API synchronization behavior" in the driver API's reference). */
#define STAGED_MAX (64u << 10)

/* One side of a descriptor, whichever it is. */
struct side {
        size_t x, y, z, pitch, height;
        CUmemorytype type;
        void *host;
        CUdeviceptr device;
        CUarray array;
};

static struct side source_of(const CUDA_MEMCPY3D *p)
{
        return (struct side){p->srcXInBytes, p->srcY, p->srcZ, p->srcPitch, p->srcHeight,
                p->srcMemoryType, (void *)(uintptr_t)p->srcHost, p->srcDevice, p->srcArray};
}

static struct side target_of(const CUDA_MEMCPY3D *p)
{
        return (struct side){p->dstXInBytes, p->dstY, p->dstZ, p->dstPitch, p->dstHeight,
                p->dstMemoryType, p->dstHost, p->dstDevice, p->dstArray};
}

static CUresult resolve_array(
        const struct side *side, const CUDA_MEMCPY3D *p, struct copy_side *ret)
{
        struct sim_array *array;
        CUresult r = sim_array_of(side->array, &array);
        size_t width;

        if (r)
                return r;
        width = array->descriptor.Width * array->element_bytes;
        if (side->x > width || p->WidthInBytes > width - side->x || side->y > array->rows ||
                p->Height > array->rows - side->y || side->z > array->slices ||
                p->Depth > array->slices - side->z)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = (struct copy_side){
                .base = array->host + side->x + side->y * array->row_pitch +
                        side->z * array->slice_pitch,
                .pitch = array->row_pitch,
                .slice = array->slice_pitch,
                .array = true,
        };
        return CUDA_SUCCESS;
}

static CUresult resolve(const struct side *side, const CUDA_MEMCPY3D *p, struct copy_side *ret)
{
        size_t pitch = side->pitch, height = side->height, bytes;
        CUdeviceptr pointer = side->device;

        if (side->type == CU_MEMORYTYPE_ARRAY)
                return resolve_array(side, p, ret);
        if (side->type == CU_MEMORYTYPE_HOST)
                pointer = (CUdeviceptr)(uintptr_t)side->host;
        else if (side->type != CU_MEMORYTYPE_DEVICE && side->type != CU_MEMORYTYPE_UNIFIED)
                return CUDA_ERROR_INVALID_VALUE;
        if (pitch == 0)
                pitch = side->x + p->WidthInBytes;
        if (height == 0)
                height = side->y + p->Height;
        if ((p->Height > 1 || p->Depth > 1) && pitch < side->x + p->WidthInBytes)
                return CUDA_ERROR_INVALID_VALUE;
        if (p->Depth > 1 && height < side->y + p->Height)
                return CUDA_ERROR_INVALID_VALUE;
        if (!pointer)
                return CUDA_ERROR_INVALID_VALUE;
        pointer += side->x + side->y * pitch + side->z * pitch * height;
        *ret = (struct copy_side){
                .base = (char *)(uintptr_t)pointer,
                .pitch = pitch,
                .slice = pitch * height,
        };
        bytes = (p->Depth - 1) * ret->slice + (p->Height - 1) * pitch + p->WidthInBytes;
        ret->device = memory_check(pointer, bytes, false) == CUDA_SUCCESS;
        if (ret->device) {
                struct sim_range range;

                ret->pinned = sim_range(pointer, 1, &range) == CUDA_SUCCESS &&
                              (range.kind == SIM_HOST || range.kind == SIM_REGISTERED);
        } else if (side->type == CU_MEMORYTYPE_DEVICE) {
                return CUDA_ERROR_INVALID_VALUE;
        } else if (side->type == CU_MEMORYTYPE_UNIFIED) {
                struct sim_range range;

                /* a pointer into device memory, but too far */
                if (sim_range(pointer, 1, &range) == CUDA_SUCCESS)
                        return CUDA_ERROR_INVALID_VALUE;
        }
        return CUDA_SUCCESS;
}

CUresult copy_new(struct sim_context *context, const CUDA_MEMCPY3D *params, struct work **ret)
{
        struct side source = source_of(params), target = target_of(params);
        struct work *work;
        CUresult r = CUDA_SUCCESS;

        work = work_new(context, WORK_COPY);
        if (!work)
                return CUDA_ERROR_OUT_OF_MEMORY;
        work->copy.params = *params;
        work->copy.width = params->WidthInBytes;
        work->copy.height = params->Height;
        work->copy.depth = params->Depth;
        if (params->WidthInBytes && params->Height && params->Depth) {
                r = resolve(&source, params, &work->copy.src);
                if (!r)
                        r = resolve(&target, params, &work->copy.dst);
        }
        if (r) {
                free(work);
                return r;
        }
        *ret = work;
        return CUDA_SUCCESS;
}

static bool is_pageable(const struct copy_side *side)
{
        return !side->device && !side->array;
}

static bool is_host(const struct copy_side *side)
{
        return is_pageable(side) || side->pinned;
}

/* Copies the source's bytes aside, in the shape that the source has. */
static void stage(struct copy *copy)
{
        size_t bytes = (copy->depth - 1) * copy->src.slice + (copy->height - 1) * copy->src.pitch +
                       copy->width;

        copy->staged = bytes <= STAGED_MAX ? malloc(bytes) : NULL;
        if (copy->staged)
                memcpy(copy->staged, copy->src.base, bytes);
}

CUresult copy_submit(struct stream *stream, struct work *work, bool asynchronous)
{
        struct copy *copy = &work->copy;
        bool wait;

        if (copy->width == 0 || copy->height == 0 || copy->depth == 0) {
                free(work);
                return CUDA_SUCCESS;
        }
        if (copy->dst.device && !stream->capture) {
                /* a host without room is told now, while the context is whole */
                CUresult r = memory_check((CUdeviceptr)(uintptr_t)copy->dst.base,
                        (copy->depth - 1) * copy->dst.slice + (copy->height - 1) * copy->dst.pitch +
                                copy->width,
                        true);

                if (r) {
                        free(work);
                        return r;
                }
        }
        if (!asynchronous) {
                /* copies inside the device are asynchronous even so, but never part of a graph */
                wait = is_host(&copy->src) || is_host(&copy->dst) || stream->capture;
        } else if (stream->capture) {
                wait = false;
        } else {
                wait = is_pageable(&copy->dst);
                if (is_pageable(&copy->src) && !wait) {
                        stage(copy);
                        wait = !copy->staged;
                }
        }
        return stream_submit(stream, work, wait, NULL);
}

CUresult copy_call(
        const char *entry, const CUDA_MEMCPY3D *params, bool asynchronous, CUstream handle)
{
        struct sim_context *context;
        struct stream *stream;
        struct work *work;
        CUresult r;

        if (asynchronous) {
                r = exec_enter_stream(entry, handle, &stream);
        } else {
                r = exec_enter(entry, &context);
                if (!r)
                        r = exec_default_stream(context, &stream);
        }
        if (!r)
                r = params ? copy_new(stream->context, params, &work) : CUDA_ERROR_INVALID_VALUE;
        return r ? r : copy_submit(stream, work, asynchronous);
}

CUDA_MEMCPY3D copy_linear(
        CUmemorytype to, CUdeviceptr dst, CUmemorytype from, CUdeviceptr src, size_t bytes)
{
        return (CUDA_MEMCPY3D){
                .srcMemoryType = from,
                .srcHost = (const void *)(uintptr_t)src,
                .srcDevice = src,
                .dstMemoryType = to,
                .dstHost = (void *)(uintptr_t)dst,
                .dstDevice = dst,
                .WidthInBytes = bytes,
                .Height = 1,
                .Depth = 1,
        };
}

CUDA_MEMCPY3D copy_from_2d(const CUDA_MEMCPY2D *p)
{
        return (CUDA_MEMCPY3D){
                .srcXInBytes = p->srcXInBytes,
                .srcY = p->srcY,
                .srcMemoryType = p->srcMemoryType,
                .srcHost = p->srcHost,
                .srcDevice = p->srcDevice,
                .srcArray = p->srcArray,
                .srcPitch = p->srcPitch,
                .dstXInBytes = p->dstXInBytes,
                .dstY = p->dstY,
                .dstMemoryType = p->dstMemoryType,
                .dstHost = p->dstHost,
                .dstDevice = p->dstDevice,
                .dstArray = p->dstArray,
                .dstPitch = p->dstPitch,
                .WidthInBytes = p->WidthInBytes,
                .Height = p->Height,
                .Depth = 1,
        };
}

CUDA_MEMCPY3D copy_from_peer(const CUDA_MEMCPY3D_PEER *p)
{
        return (CUDA_MEMCPY3D){
                .srcXInBytes = p->srcXInBytes,
                .srcY = p->srcY,
                .srcZ = p->srcZ,
                .srcMemoryType = p->srcMemoryType,
                .srcHost = p->srcHost,
                .srcDevice = p->srcDevice,
                .srcArray = p->srcArray,
                .srcPitch = p->srcPitch,
                .srcHeight = p->srcHeight,
                .dstXInBytes = p->dstXInBytes,
                .dstY = p->dstY,
                .dstZ = p->dstZ,
                .dstMemoryType = p->dstMemoryType,
                .dstHost = p->dstHost,
                .dstDevice = p->dstDevice,
                .dstArray = p->dstArray,
                .dstPitch = p->dstPitch,
                .dstHeight = p->dstHeight,
                .WidthInBytes = p->WidthInBytes,
                .Height = p->Height,
                .Depth = p->Depth,
        };
}
