/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CUDA arrays and mipmapped arrays. Contents lie linear, row by row and slice by slice; each array
 * has device memory of its own, in steps of 2 MiB, and the levels of a mipmapped array share one.
 */
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "models.h"

#define ARRAY_MAGIC  0x796172724d4953ull /* "SIMarry" */
#define MIPMAP_MAGIC 0x70696d4d4953ull   /* "SIMmip" */
#define ROW_ALIGN    32u
#define LEVEL_ALIGN  512u
#define MAX_LEVELS   18

#define FLAGS_KNOWN                                                                                \
        (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_SURFACE_LDST | CUDA_ARRAY3D_CUBEMAP |                 \
                CUDA_ARRAY3D_TEXTURE_GATHER | CUDA_ARRAY3D_DEPTH_TEXTURE |                         \
                CUDA_ARRAY3D_COLOR_ATTACHMENT)

struct sim_mipmap;

struct array {
        struct sim_array public;   /* first: a CUarray is the address of this */
        struct block *block;       /* NULL: a level, whose memory is the mipmap's */
        struct sim_mipmap *mipmap; /* of a level */
        struct array *next;
};

struct sim_mipmap {
        uint64_t magic;
        struct sim_context *context;
        struct block *block;
        struct array *level[MAX_LEVELS];
        unsigned int levels;
        struct sim_mipmap *next;
};

/* Under the region's lock. */
static struct array *arrays;
static struct sim_mipmap *mipmaps;

/* ---- shapes ---- */

/* Bytes of one element, or 0 if the format is not one that arrays can have here. */
static size_t element_bytes(CUarray_format format, unsigned int channels)
{
        if (channels != 1 && channels != 2 && channels != 4)
                return 0;
        switch (format) {
        case CU_AD_FORMAT_UNSIGNED_INT8:
        case CU_AD_FORMAT_SIGNED_INT8:
                return channels;
        case CU_AD_FORMAT_UNSIGNED_INT16:
        case CU_AD_FORMAT_SIGNED_INT16:
        case CU_AD_FORMAT_HALF:
                return 2 * (size_t)channels;
        case CU_AD_FORMAT_UNSIGNED_INT32:
        case CU_AD_FORMAT_SIGNED_INT32:
        case CU_AD_FORMAT_FLOAT:
                return 4 * (size_t)channels;
        case CU_AD_FORMAT_UNORM_INT8X1:
        case CU_AD_FORMAT_SNORM_INT8X1:
                return channels == 1 ? 1 : 0;
        case CU_AD_FORMAT_UNORM_INT8X2:
        case CU_AD_FORMAT_SNORM_INT8X2:
        case CU_AD_FORMAT_UNORM_INT16X1:
        case CU_AD_FORMAT_SNORM_INT16X1:
                return 2;
        case CU_AD_FORMAT_UNORM_INT8X4:
        case CU_AD_FORMAT_SNORM_INT8X4:
        case CU_AD_FORMAT_UNORM_INT16X2:
        case CU_AD_FORMAT_SNORM_INT16X2:
                return 4;
        case CU_AD_FORMAT_UNORM_INT16X4:
        case CU_AD_FORMAT_SNORM_INT16X4:
                return 8;
        default:
                return 0;
        }
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
        return (value + unit - 1) / unit * unit;
}

static bool within(const CUDA_ARRAY3D_DESCRIPTOR *d)
{
        bool layered = d->Flags & CUDA_ARRAY3D_LAYERED;

        if (d->Flags & CUDA_ARRAY3D_CUBEMAP)
                return d->Width <= 32768 && d->Width == d->Height &&
                       (layered ? d->Depth >= 6 && d->Depth % 6 == 0 && d->Depth <= 2046
                                : d->Depth == 6);
        if (layered)
                return d->Depth >= 1 && d->Depth <= 2048 && d->Width <= 32768 && d->Height <= 32768;
        if (d->Depth)
                return d->Height && d->Width <= 16384 && d->Height <= 16384 && d->Depth <= 16384;
        return d->Width <= 131072 && d->Height <= 65536;
}

/* Fills in all but where the contents are. */
static CUresult shape(const CUDA_ARRAY3D_DESCRIPTOR *descriptor, struct sim_array *ret)
{
        size_t element = element_bytes(descriptor->Format, descriptor->NumChannels);

        if (element == 0 || descriptor->Width == 0 || !within(descriptor) ||
                descriptor->Flags & ~(unsigned)FLAGS_KNOWN)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = (struct sim_array){
                .magic = ARRAY_MAGIC,
                .descriptor = *descriptor,
                .element_bytes = element,
                .row_pitch = round_up(descriptor->Width * element, ROW_ALIGN),
                .rows = descriptor->Height ? descriptor->Height : 1,
                .slices = descriptor->Depth ? descriptor->Depth : 1,
        };
        ret->slice_pitch = ret->row_pitch * ret->rows;
        return CUDA_SUCCESS;
}

/* ---- arrays ---- */

static CUresult create(CUarray *ret, const CUDA_ARRAY3D_DESCRIPTOR *descriptor)
{
        struct sim_context *context;
        struct array *array;
        uint64_t bytes;
        CUresult r = sim_current(&context);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        array = calloc(1, sizeof(*array));
        if (!array)
                return CUDA_ERROR_OUT_OF_MEMORY;
        r = shape(descriptor, &array->public);
        bytes = array->public.slice_pitch * array->public.slices;
        if (!r && bytes > (uint64_t)context->device->model->memory_mib << 20)
                r = CUDA_ERROR_OUT_OF_MEMORY;
        if (r) {
                free(array);
                return r;
        }
        array->public.context = context;
        region_lock();
        r = block_alloc(BLOCK_ARRAY, context, bytes, &array->block);
        if (!r) {
                array->public.host = (char *)array->block->base;
                array->next = arrays;
                arrays = array;
        }
        region_unlock();
        if (r)
                free(array);
        else
                *ret = (CUarray)&array->public;
        return r;
}

CUresult cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray)
{
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        return pAllocateArray ? create(pHandle, pAllocateArray) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray)
{
        CUDA_ARRAY3D_DESCRIPTOR descriptor;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!pAllocateArray)
                return CUDA_ERROR_INVALID_VALUE;
        descriptor = (CUDA_ARRAY3D_DESCRIPTOR){
                .Width = pAllocateArray->Width,
                .Height = pAllocateArray->Height,
                .Format = pAllocateArray->Format,
                .NumChannels = pAllocateArray->NumChannels,
        };
        return create(pHandle, &descriptor);
}

/* Locked, shared. */
static struct array *find_array(CUarray handle)
{
        struct array *array = arrays;

        while (array && &array->public != (struct sim_array *)handle)
                array = array->next;
        return array;
}

CUresult sim_array_of(CUarray handle, struct sim_array **ret)
{
        struct array *array;

        region_lock_shared();
        array = handle ? find_array(handle) : NULL;
        region_unlock();
        if (!array)
                return CUDA_ERROR_INVALID_HANDLE;
        *ret = &array->public;
        return CUDA_SUCCESS;
}

static void unlink_array(struct array *array)
{
        struct array **link = &arrays;

        while (*link != array)
                link = &(*link)->next;
        *link = array->next;
        array->public.magic = 0;
        free(array);
}

CUresult cuArrayDestroy(CUarray hArray)
{
        struct sim_context *context;
        struct array *array;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (!r)
                r = exec_synchronize(context);
        if (r)
                return r;
        region_lock();
        array = find_array(hArray);
        if (!array || array->mipmap) {
                r = CUDA_ERROR_INVALID_HANDLE;
        } else {
                block_unlink(&array->public.context->memory->blocks, array->block);
                block_free(array->block);
                unlink_array(array);
        }
        region_unlock();
        return r;
}

CUresult cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *pArrayDescriptor, CUarray hArray)
{
        struct sim_array *array;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_array_of(hArray, &array);
        if (r)
                return r;
        if (!pArrayDescriptor)
                return CUDA_ERROR_INVALID_VALUE;
        *pArrayDescriptor = array->descriptor;
        return CUDA_SUCCESS;
}

CUresult cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *pArrayDescriptor, CUarray hArray)
{
        struct sim_array *array;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_array_of(hArray, &array);
        if (r)
                return r;
        if (!pArrayDescriptor)
                return CUDA_ERROR_INVALID_VALUE;
        *pArrayDescriptor = (CUDA_ARRAY_DESCRIPTOR){
                .Width = array->descriptor.Width,
                .Height = array->descriptor.Height,
                .Format = array->descriptor.Format,
                .NumChannels = array->descriptor.NumChannels,
        };
        return CUDA_SUCCESS;
}

CUresult cuArrayGetMemoryRequirements(
        CUDA_ARRAY_MEMORY_REQUIREMENTS *memoryRequirements, CUarray array, CUdevice device)
{
        struct sim_device *known_device;
        struct sim_array *known;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_array_of(array, &known);
        if (!r)
                r = sim_device_of(device, &known_device);
        if (r)
                return r;
        if (!memoryRequirements)
                return CUDA_ERROR_INVALID_VALUE;
        *memoryRequirements = (CUDA_ARRAY_MEMORY_REQUIREMENTS){
                .size = round_up(known->slice_pitch * known->slices, SLOT_BYTES),
                .alignment = SLOT_BYTES,
        };
        return CUDA_SUCCESS;
}

/* ---- mipmapped arrays ---- */

static size_t halved(size_t value, unsigned int level)
{
        size_t half = value >> level;

        return value && !half ? 1 : half;
}

/* How many levels a shape has at most. */
static unsigned int most_levels(const CUDA_ARRAY3D_DESCRIPTOR *descriptor)
{
        size_t longest = descriptor->Width;
        unsigned int levels = 1;

        if (descriptor->Height > longest)
                longest = descriptor->Height;
        if (!(descriptor->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) &&
                descriptor->Depth > longest)
                longest = descriptor->Depth;
        while (longest >>= 1)
                levels++;
        return levels < MAX_LEVELS ? levels : MAX_LEVELS;
}

/* Locked, or not in the list yet. */
static void free_mipmap(struct sim_mipmap *mipmap)
{
        for (unsigned int i = 0; i < mipmap->levels; i++)
                free(mipmap->level[i]);
        mipmap->magic = 0;
        free(mipmap);
}

/* The levels' shapes; *ret_bytes is what they take together. */
static CUresult shape_levels(struct sim_mipmap *mipmap, const CUDA_ARRAY3D_DESCRIPTOR *descriptor,
        unsigned int levels, uint64_t *ret_bytes)
{
        uint64_t bytes = 0;

        for (unsigned int i = 0; i < levels; i++) {
                CUDA_ARRAY3D_DESCRIPTOR level = *descriptor;
                struct array *array = calloc(1, sizeof(*array));
                CUresult r;

                if (!array)
                        return CUDA_ERROR_OUT_OF_MEMORY;
                mipmap->level[mipmap->levels++] = array;
                level.Width = halved(level.Width, i);
                level.Height = halved(level.Height, i);
                if (!(level.Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)))
                        level.Depth = halved(level.Depth, i);
                r = shape(&level, &array->public);
                if (r)
                        return r;
                array->mipmap = mipmap;
                array->public.context = mipmap->context;
                array->public.host = (char *)bytes; /* an offset until there is memory */
                bytes += round_up(array->public.slice_pitch * array->public.slices, LEVEL_ALIGN);
        }
        *ret_bytes = bytes;
        return CUDA_SUCCESS;
}

CUresult cuMipmappedArrayCreate(CUmipmappedArray *pHandle,
        const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc, unsigned int numMipmapLevels)
{
        struct sim_context *context;
        struct sim_mipmap *mipmap;
        uint64_t bytes;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (!pHandle || !pMipmappedArrayDesc || numMipmapLevels == 0)
                return CUDA_ERROR_INVALID_VALUE;
        if (numMipmapLevels > most_levels(pMipmappedArrayDesc))
                numMipmapLevels = most_levels(pMipmappedArrayDesc);
        mipmap = calloc(1, sizeof(*mipmap));
        if (!mipmap)
                return CUDA_ERROR_OUT_OF_MEMORY;
        mipmap->magic = MIPMAP_MAGIC;
        mipmap->context = context;
        r = shape_levels(mipmap, pMipmappedArrayDesc, numMipmapLevels, &bytes);
        if (!r && bytes > (uint64_t)context->device->model->memory_mib << 20)
                r = CUDA_ERROR_OUT_OF_MEMORY;
        if (r) {
                free_mipmap(mipmap);
                return r;
        }
        region_lock();
        r = block_alloc(BLOCK_ARRAY, context, bytes, &mipmap->block);
        for (unsigned int i = 0; !r && i < mipmap->levels; i++) {
                struct array *array = mipmap->level[i];

                array->public.host += mipmap->block->base;
                array->next = arrays;
                arrays = array;
        }
        if (!r) {
                mipmap->next = mipmaps;
                mipmaps = mipmap;
                *pHandle = (CUmipmappedArray)mipmap;
        }
        region_unlock();
        if (r)
                free_mipmap(mipmap);
        return r;
}

/* Locked, shared. */
static struct sim_mipmap *find_mipmap(CUmipmappedArray handle)
{
        struct sim_mipmap *mipmap = mipmaps;

        while (mipmap && mipmap != (struct sim_mipmap *)handle)
                mipmap = mipmap->next;
        return mipmap;
}

CUresult cuMipmappedArrayGetLevel(
        CUarray *pLevelArray, CUmipmappedArray hMipmappedArray, unsigned int level)
{
        const struct sim_mipmap *mipmap;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        region_lock_shared();
        mipmap = find_mipmap(hMipmappedArray);
        if (!mipmap)
                r = CUDA_ERROR_INVALID_HANDLE;
        else if (!pLevelArray || level >= mipmap->levels)
                r = CUDA_ERROR_INVALID_VALUE;
        else
                *pLevelArray = (CUarray)&mipmap->level[level]->public;
        region_unlock();
        return r;
}

static void end_mipmap(struct sim_mipmap *mipmap)
{
        struct sim_mipmap **link = &mipmaps;

        while (*link != mipmap)
                link = &(*link)->next;
        *link = mipmap->next;
        for (unsigned int i = 0; i < mipmap->levels; i++)
                unlink_array(mipmap->level[i]);
        mipmap->levels = 0;
        free_mipmap(mipmap);
}

CUresult cuMipmappedArrayDestroy(CUmipmappedArray hMipmappedArray)
{
        struct sim_context *context;
        struct sim_mipmap *mipmap;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (!r)
                r = exec_synchronize(context);
        if (r)
                return r;
        region_lock();
        mipmap = find_mipmap(hMipmappedArray);
        if (mipmap) {
                block_unlink(&mipmap->context->memory->blocks, mipmap->block);
                block_free(mipmap->block);
                end_mipmap(mipmap);
        } else {
                r = CUDA_ERROR_INVALID_HANDLE;
        }
        region_unlock();
        return r;
}

CUresult cuMipmappedArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *memoryRequirements,
        CUmipmappedArray mipmap, CUdevice device)
{
        const struct sim_mipmap *known;
        struct sim_device *known_device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(device, &known_device);
        if (r)
                return r;
        region_lock_shared();
        known = find_mipmap(mipmap);
        if (!known)
                r = CUDA_ERROR_INVALID_HANDLE;
        else if (!memoryRequirements)
                r = CUDA_ERROR_INVALID_VALUE;
        else
                *memoryRequirements = (CUDA_ARRAY_MEMORY_REQUIREMENTS){
                        .size = known->block->bytes,
                        .alignment = SLOT_BYTES,
                };
        region_unlock();
        return r;
}

void arrays_forget(struct sim_context *context)
{
        for (struct sim_mipmap *mipmap = mipmaps, *next; mipmap; mipmap = next) {
                next = mipmap->next;
                if (mipmap->context == context)
                        end_mipmap(mipmap);
        }
        for (struct array *array = arrays, *next; array; array = next) {
                next = array->next;
                if (array->public.context == context)
                        unlink_array(array);
        }
}
