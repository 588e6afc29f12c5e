/* SPDX-License-Identifier: Apache-2.0 */
#include "green.h"

#include <stdlib.h>
#include <string.h>

#include "models.h"

/* What lies in the padding of a CUdevResource, which programs copy but do not read. */
struct resource {
        uint64_t magic;
        int32_t instance; /* of the device */
        uint32_t split;   /* number of the split that it is from; 0: the whole of something */
        struct sim_sms sms;
};
#define RESOURCE_MAGIC 0x637365724d4953ull /* "SIMresc" */
_Static_assert(sizeof(struct resource) <= sizeof(((CUdevResource *)0)->_internal_padding), "fits");

/* A CUdevResourceDesc; there is no call that frees one. */
struct description {
        uint64_t magic;
        int instance;
        struct sim_sms sms;
};
#define DESCRIPTION_MAGIC 0x637365644d4953ull /* "SIMdesc" */

static pthread_mutex_t greens_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct sim_green *_Atomic greens; /* all that ever were */
static atomic_uint splits;

unsigned sms_count(const struct sim_sms *sms)
{
        unsigned n = 0;

        for (unsigned i = 0; i < SIM_MAX_SMS / 64; i++)
                n += (unsigned)__builtin_popcountll(sms->word[i]);
        return n;
}

struct sim_sms green_whole(const struct sim_device *device)
{
        struct sim_sms sms = {{0}};

        for (int i = 0; i < device->model->sms && i < SIM_MAX_SMS; i++)
                sms_put(&sms, (unsigned)i);
        return sms;
}

struct sim_sms green_sms(const struct sim_green *green, const struct sim_device *device)
{
        return green ? green->sms : green_whole(device);
}

struct sim_green *green_of(const void *handle)
{
        struct sim_green *green = atomic_load(&greens);

        while (green && green != handle)
                green = green->next;
        return green;
}

/* ---- resources ---- */

/* The padding is not aligned. False: it is nothing of ours. */
static bool read_resource(const CUdevResource *resource, struct resource *ret)
{
        memcpy(ret, resource->_internal_padding, sizeof(*ret));
        return ret->magic == RESOURCE_MAGIC;
}

/* Groups of SMs that are scheduled together: 8 on Hopper and later, 2 or 4 before. */
static unsigned alignment(const struct sim_model *model)
{
        return model->major >= 9 ? 8 : 2;
}

static unsigned least(const struct sim_model *model)
{
        return model->major >= 9 ? 8 : model->major == 8 ? 4 : 2;
}

static CUresult fill(CUdevResource *resource, const struct sim_device *device,
        const struct sim_sms *sms, unsigned split)
{
        const struct resource mine = {
                .magic = RESOURCE_MAGIC,
                .instance = device->instance,
                .split = split,
                .sms = *sms,
        };

        memset(resource, 0, sizeof(*resource));
        resource->type = CU_DEV_RESOURCE_TYPE_SM;
        resource->sm.smCount = sms_count(sms);
        resource->sm.minSmPartitionSize = least(device->model);
        resource->sm.smCoscheduledAlignment = alignment(device->model);
        memcpy(resource->_internal_padding, &mine, sizeof(mine));
        return CUDA_SUCCESS;
}

static CUresult check_type(const CUdevResource *resource, CUdevResourceType type)
{
        if (!resource)
                return CUDA_ERROR_INVALID_VALUE;
        return type == CU_DEV_RESOURCE_TYPE_SM ? CUDA_SUCCESS : CUDA_ERROR_INVALID_RESOURCE_TYPE;
}

CUresult cuDeviceGetDevResource(CUdevice dev, CUdevResource *resource, CUdevResourceType type)
{
        struct sim_device *device;
        struct sim_sms sms;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (!r)
                r = check_type(resource, type);
        if (r)
                return r;
        sms = green_whole(device);
        return fill(resource, device, &sms, 0);
}

CUresult cuCtxGetDevResource(CUcontext handle, CUdevResource *resource, CUdevResourceType type)
{
        struct sim_green *green;
        struct sim_context *context;
        struct sim_sms sms;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_context_of(handle, &context);
        if (!r)
                r = check_type(resource, type);
        if (r)
                return r;
        green = handle ? green_of(handle) : green_current();
        sms = green_sms(green, context->device);
        return fill(resource, context->device, &sms, 0);
}

CUresult cuGreenCtxGetDevResource(
        CUgreenCtx handle, CUdevResource *resource, CUdevResourceType type)
{
        const struct sim_green *green;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        green = green_of(handle);
        if (!green || !green_lives(green))
                return CUDA_ERROR_INVALID_CONTEXT;
        r = check_type(resource, type);
        return r ? r : fill(resource, green->context->device, &green->sms, 0);
}

/* What an H100 gives of its 132 SMs in groups of 8: its clusters of SMs are not all whole. */
static unsigned usable(unsigned sms, unsigned step)
{
        return step >= 8 && sms == 132 ? 120 : sms / step * step;
}

static CUresult take_group(const struct sim_device *device, struct sim_sms *from, unsigned count,
        unsigned split, CUdevResource *ret)
{
        struct sim_sms sms = {{0}};

        for (unsigned i = 0; i < SIM_MAX_SMS && count > 0; i++)
                if (sms_have(from, i)) {
                        sms_put(&sms, i);
                        from->word[i / 64] &= ~(1ull << i % 64);
                        count--;
                }
        return ret ? fill(ret, device, &sms, split) : CUDA_SUCCESS;
}

static struct sim_device *device_of_instance(int instance)
{
        struct sim_device *device;

        for (int i = 0; i < sim_device_count(); i++)
                if (sim_device_of(i, &device) == CUDA_SUCCESS && device->instance == instance)
                        return device;
        return NULL;
}

CUresult cuDevSmResourceSplitByCount(CUdevResource *result, unsigned int *count,
        const CUdevResource *input, CUdevResource *remaining, unsigned int flags,
        unsigned int minimum)
{
        struct resource from;
        struct sim_device *device;
        unsigned step, group, possible, split;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!count || !input || flags > 3)
                return CUDA_ERROR_INVALID_VALUE;
        if (input->type != CU_DEV_RESOURCE_TYPE_SM)
                return CUDA_ERROR_INVALID_RESOURCE_TYPE;
        if (!read_resource(input, &from))
                return CUDA_ERROR_INVALID_VALUE;
        device = device_of_instance(from.instance);
        if (!device)
                return CUDA_ERROR_INVALID_DEVICE;
        step = flags & CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING ? 2
                                                                       : alignment(device->model);
        group = minimum > step ? (minimum + step - 1) / step * step : step;
        if (!(flags & CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING) &&
                group < least(device->model))
                group = least(device->model);
        possible = usable(sms_count(&from.sms), step) / group;
        if (possible == 0)
                return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
        if (!result) {
                *count = possible;
                return CUDA_SUCCESS;
        }
        if (*count > possible)
                *count = possible;
        split = atomic_fetch_add(&splits, 1) + 1;
        for (unsigned i = 0; i < *count; i++)
                take_group(device, &from.sms, group, split, &result[i]);
        if (remaining) {
                struct sim_sms rest = from.sms;

                if (sms_count(&rest))
                        fill(remaining, device, &rest, split);
                else
                        memset(remaining, 0, sizeof(*remaining));
        }
        return CUDA_SUCCESS;
}

CUresult cuDevResourceGenerateDesc(
        CUdevResourceDesc *ret, CUdevResource *resources, unsigned int count)
{
        struct description *description;
        struct sim_sms sms = {{0}};
        int instance = -1;
        uint32_t split = 0;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret || !resources || count == 0)
                return CUDA_ERROR_INVALID_VALUE;
        for (unsigned i = 0; i < count; i++) {
                struct resource one;

                if (resources[i].type != CU_DEV_RESOURCE_TYPE_SM)
                        return CUDA_ERROR_INVALID_RESOURCE_TYPE;
                if (!read_resource(&resources[i], &one))
                        return CUDA_ERROR_INVALID_VALUE;
                /* what is put together must be from one division */
                if (i > 0 && (one.instance != instance || one.split != split || !split))
                        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
                instance = one.instance;
                split = one.split;
                for (unsigned k = 0; k < SIM_MAX_SMS / 64; k++) {
                        if (sms.word[k] & one.sms.word[k])
                                return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
                        sms.word[k] |= one.sms.word[k];
                }
        }
        description = malloc(sizeof(*description));
        if (!description)
                return CUDA_ERROR_OUT_OF_MEMORY;
        *description = (struct description){DESCRIPTION_MAGIC, instance, sms};
        *ret = (CUdevResourceDesc)description;
        return CUDA_SUCCESS;
}

/* ---- green contexts ---- */

CUresult cuGreenCtxCreate(
        CUgreenCtx *ret, CUdevResourceDesc handle, CUdevice dev, unsigned int flags)
{
        const struct description *description = (const struct description *)handle;
        struct sim_green *green;
        struct sim_device *device;
        CUcontext primary;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!ret || !description || description->magic != DESCRIPTION_MAGIC ||
                flags != CU_GREEN_CTX_DEFAULT_STREAM)
                return CUDA_ERROR_INVALID_VALUE;
        if (description->instance != device->instance)
                return CUDA_ERROR_INVALID_DEVICE;
        r = cuDevicePrimaryCtxRetain(&primary, dev);
        if (r)
                return r;
        pthread_mutex_lock(&greens_mutex);
        for (green = atomic_load(&greens); green && green_lives(green);)
                green = green->next;
        if (!green) {
                green = calloc(1, sizeof(*green));
                if (green) {
                        green->magic = SIM_GREEN_MAGIC;
                        green->next = atomic_load(&greens);
                        atomic_store(&greens, green);
                }
        }
        if (green) {
                green->generation++;
                green->context = (struct sim_context *)primary;
                green->device = dev;
                green->id = context_next_id();
                green->sms = description->sms;
                atomic_store(&green->live, 1);
        }
        pthread_mutex_unlock(&greens_mutex);
        if (!green) {
                cuDevicePrimaryCtxRelease_v2(dev);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        *ret = (CUgreenCtx)green;
        return CUDA_SUCCESS;
}

static CUresult find_live(CUgreenCtx handle, struct sim_green **ret)
{
        *ret = handle ? green_of(handle) : NULL;
        if (!*ret)
                return CUDA_ERROR_INVALID_CONTEXT;
        return green_lives(*ret) ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

CUresult cuGreenCtxDestroy(CUgreenCtx handle)
{
        struct sim_green *green;
        bool was;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = find_live(handle, &green);
        if (r)
                return r;
        /* the work of its streams is finished first */
        if (atomic_load(&green->context->live))
                exec_synchronize(green->context);
        pthread_mutex_lock(&greens_mutex);
        was = atomic_exchange(&green->live, 0);
        pthread_mutex_unlock(&greens_mutex);
        return was ? cuDevicePrimaryCtxRelease_v2(green->device) : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

CUresult cuCtxFromGreenCtx(CUcontext *ret, CUgreenCtx handle)
{
        struct sim_green *green;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = find_live(handle, &green);
        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = (CUcontext)green;
        return CUDA_SUCCESS;
}

CUresult cuGreenCtxGetId(CUgreenCtx handle, unsigned long long *ret)
{
        struct sim_green *green;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = find_live(handle, &green);
        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = green->id;
        return CUDA_SUCCESS;
}

CUresult cuGreenCtxStreamCreate(CUstream *ret, CUgreenCtx handle, unsigned int flags, int priority)
{
        struct sim_green *green;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = find_live(handle, &green);
        if (r)
                return r;
        if (!ret || flags != CU_STREAM_NON_BLOCKING)
                return CUDA_ERROR_INVALID_VALUE;
        return stream_create(green->context, green, flags, priority, ret);
}
