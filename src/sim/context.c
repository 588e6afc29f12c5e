/* SPDX-License-Identifier: Apache-2.0 */
/* Contexts: the primary one of each device, created ones, and each thread's stack of them. */
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "faults.h"
#include "green.h"
#include "kernel.h"
#include "memory.h"
#include "models.h"
#include "mps.h"

#define FLAGS_KNOWN 0x1ffu /* CU_CTX_FLAGS_MASK with the coredump flags */

struct entry {
        struct sim_context *context;
        uint32_t generation;
        struct sim_green *green; /* the view of it that is current, or NULL */
        uint32_t green_generation;
};

struct stack {
        size_t n, room;
        struct entry entry[];
};

static _Thread_local struct stack *stack;
static pthread_key_t stack_key;

/* Held while any context is made or ended. */
static pthread_mutex_t contexts_mutex = PTHREAD_MUTEX_INITIALIZER;
/* All that ever were, primary ones included; it only grows, so that it is read without the lock. */
static struct sim_context *_Atomic contexts;
static uint64_t next_id = 1;
static unsigned retained[SIM_MAX_DEVICES];

/* ---- the stack ---- */

static void free_stack(void *p)
{
        free(p);
}

CUresult contexts_open(void)
{
        return pthread_key_create(&stack_key, free_stack) ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

static struct entry entry_of(struct sim_context *context, struct sim_green *green)
{
        return (struct entry){
                .context = context,
                .generation = context->generation,
                .green = green,
                .green_generation = green ? green->generation : 0,
        };
}

static CUresult push(struct sim_context *context, struct sim_green *green)
{
        if (!stack || stack->n == stack->room) {
                size_t room = stack ? stack->room * 2 : 8;
                struct stack *more = realloc(stack, sizeof(*more) + room * sizeof(struct entry));

                if (!more)
                        return CUDA_ERROR_OUT_OF_MEMORY;
                if (!stack)
                        more->n = 0;
                more->room = room;
                stack = more;
                pthread_setspecific(stack_key, stack);
        }
        stack->entry[stack->n++] = entry_of(context, green);
        return CUDA_SUCCESS;
}

static struct entry *top(void)
{
        return stack && stack->n ? stack->entry + stack->n - 1 : NULL;
}

static bool alive(const struct sim_context *context, uint32_t generation)
{
        return atomic_load_explicit(&context->live, memory_order_acquire) &&
               context->generation == generation;
}

CUresult sim_current_any(struct sim_context **ret)
{
        const struct entry *entry = top();

        if (!entry)
                return CUDA_ERROR_INVALID_CONTEXT;
        if (!alive(entry->context, entry->generation) ||
                (entry->green && !(green_lives(entry->green) &&
                                         entry->green->generation == entry->green_generation)))
                return CUDA_ERROR_CONTEXT_IS_DESTROYED;
        *ret = entry->context;
        return CUDA_SUCCESS;
}

static CUcontext handle_of(const struct entry *entry)
{
        return entry->green ? (CUcontext)entry->green : (CUcontext)entry->context;
}

struct sim_green *green_current(void)
{
        const struct entry *entry = top();

        return entry ? entry->green : NULL;
}

uint64_t context_next_id(void)
{
        uint64_t id;

        pthread_mutex_lock(&contexts_mutex);
        id = next_id++;
        pthread_mutex_unlock(&contexts_mutex);
        return id;
}

static CUresult health(struct sim_context *context)
{
        if (atomic_load_explicit(
                    &kernel_state()->device[context->device->gpu].lost, memory_order_relaxed))
                return CUDA_ERROR_DEVICE_UNAVAILABLE;
        if (context->served && !mps_alive())
                sim_context_fail(context, CUDA_ERROR_MPS_RPC_FAILURE);
        return atomic_load_explicit(&context->error, memory_order_relaxed);
}

CUresult sim_current(struct sim_context **ret)
{
        CUresult r = sim_current_any(ret);

        return r ? r : health(*ret);
}

void sim_context_fail(struct sim_context *context, CUresult error)
{
        CUresult none = CUDA_SUCCESS;

        atomic_compare_exchange_strong(&context->error, &none, error);
}

CUresult sim_context_of(CUcontext handle, struct sim_context **ret)
{
        struct sim_context *context = (struct sim_context *)handle, *known;
        const struct sim_green *green;

        if (!handle)
                return sim_current_any(ret);
        green = green_of(handle);
        if (green && !green_lives(green))
                return CUDA_ERROR_CONTEXT_IS_DESTROYED;
        if (green)
                context = green->context;
        for (known = atomic_load(&contexts); known && known != context; known = known->next)
                ;
        if (!known)
                return CUDA_ERROR_INVALID_CONTEXT;
        if (!atomic_load(&known->live))
                return CUDA_ERROR_CONTEXT_IS_DESTROYED;
        *ret = known;
        return CUDA_SUCCESS;
}

/* ---- making and ending; under the mutex ---- */

/* A struct that no context lives in. */
static struct sim_context *take_struct(struct sim_device *device, bool primary)
{
        struct sim_context *context;

        for (context = atomic_load(&contexts); context && !primary; context = context->next)
                if (!atomic_load(&context->live) && !context->primary)
                        break;
        if (!context || primary) {
                context = calloc(1, sizeof(*context));
                if (!context)
                        return NULL;
                context->magic = SIM_CONTEXT_MAGIC;
                context->next = atomic_load(&contexts);
                context->device = device;
                context->primary = primary;
                atomic_store(&contexts, context);
        }
        context->device = device;
        return context;
}

CUresult contexts_add_primary(struct sim_device *device)
{
        device->primary = take_struct(device, true);
        return device->primary ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult begin(struct sim_context *context, unsigned int flags, unsigned int version)
{
        CUresult r;

        if (atomic_load(&kernel_state()->device[context->device->gpu].lost))
                return CUDA_ERROR_DEVICE_UNAVAILABLE;
        context->generation++;
        context->id = next_id++;
        context->api_version = version;
        atomic_store(&context->flags, flags);
        atomic_store(&context->error, CUDA_SUCCESS);
        atomic_store(&context->peers, 0);
        atomic_store(&context->cache_config, CU_FUNC_CACHE_PREFER_NONE);
        context->attached = 0;
        for (size_t i = 0; i < sizeof(context->limit) / sizeof(*context->limit); i++)
                atomic_store(&context->limit[i], 0);
        atomic_store(&context->limit[CU_LIMIT_STACK_SIZE], 1024);
        atomic_store(&context->limit[CU_LIMIT_PRINTF_FIFO_SIZE], 1 << 20);
        atomic_store(&context->limit[CU_LIMIT_MALLOC_HEAP_SIZE], 8 << 20);
        atomic_store(&context->limit[CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH], 2);
        atomic_store(&context->limit[CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT], 2048);
        atomic_store(&context->limit[CU_LIMIT_MAX_L2_FETCH_GRANULARITY], 64);
        r = context_memory_new(context);
        if (r)
                return (CUresult)sim_faults_context(r);
        r = exec_context_init(context);
        if (r) {
                context_memory_free(context);
                return r;
        }
        atomic_store_explicit(&context->live, 1, memory_order_release);
        return CUDA_SUCCESS;
}

static void end(struct sim_context *context)
{
        atomic_store(&context->live, 0);
        exec_context_done(context);
        context_memory_free(context);
}

static CUresult create(CUcontext *pctx, unsigned int flags, CUdevice dev, unsigned int version)
{
        struct sim_context *context;
        struct sim_device *device;
        CUresult r;

        if (!pctx || flags & ~FLAGS_KNOWN || (flags & CU_CTX_SCHED_MASK) == 3 ||
                (flags & CU_CTX_SCHED_MASK) > CU_CTX_SCHED_BLOCKING_SYNC)
                return CUDA_ERROR_INVALID_VALUE;
        r = sim_device_of(dev, &device);
        if (r)
                return r;
        pthread_mutex_lock(&contexts_mutex);
        context = take_struct(device, false);
        r = context ? begin(context, flags, version) : CUDA_ERROR_OUT_OF_MEMORY;
        if (!r) {
                r = push(context, NULL);
                if (r)
                        end(context);
        }
        pthread_mutex_unlock(&contexts_mutex);
        if (!r)
                *pctx = (CUcontext)context;
        return r;
}

CUresult cuCtxCreate(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
        CUresult r = sim_enter(__func__);

        return r ? r : create(pctx, flags, dev, 3010);
}

CUresult cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
        CUresult r = sim_enter(__func__);

        return r ? r : create(pctx, flags, dev, 3020);
}

CUresult cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams,
        unsigned int flags, CUdevice dev)
{
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (numParams < 0 || (numParams && !paramsArray))
                return CUDA_ERROR_INVALID_VALUE;
        /* affinity to some of the processors is a thing of MPS */
        if (numParams)
                return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
        return create(pctx, flags, dev, 3020);
}

CUresult cuCtxCreate_v4(
        CUcontext *pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags, CUdevice dev)
{
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (ctxCreateParams && ctxCreateParams->numExecAffinityParams)
                return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
        if (ctxCreateParams && ctxCreateParams->cigParams)
                return CUDA_ERROR_NOT_SUPPORTED;
        return create(pctx, flags, dev, 3020);
}

static CUresult destroy(CUcontext ctx)
{
        struct sim_context *context;
        CUresult r;

        if (!ctx)
                return CUDA_ERROR_INVALID_VALUE;
        r = sim_context_of(ctx, &context);
        if (r)
                return r;
        /* a view of it too */
        if (context->primary)
                return CUDA_ERROR_INVALID_CONTEXT;
        pthread_mutex_lock(&contexts_mutex);
        if (atomic_load(&context->live))
                end(context);
        else
                r = CUDA_ERROR_CONTEXT_IS_DESTROYED;
        pthread_mutex_unlock(&contexts_mutex);
        if (!r && top() && top()->context == context)
                stack->n--;
        return r;
}

CUresult cuCtxDestroy(CUcontext ctx)
{
        CUresult r = sim_enter(__func__);

        return r ? r : destroy(ctx);
}

CUresult cuCtxDestroy_v2(CUcontext ctx)
{
        CUresult r = sim_enter(__func__);

        return r ? r : destroy(ctx);
}

/* The older way to the same: a context of cuCtxCreate counts one attachment. */
CUresult cuCtxAttach(CUcontext *pctx, unsigned int flags)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current_any(&context);
        if (r)
                return r;
        if (!pctx || flags)
                return CUDA_ERROR_INVALID_VALUE;
        context->attached++;
        *pctx = (CUcontext)context;
        return CUDA_SUCCESS;
}

CUresult cuCtxDetach(CUcontext ctx)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_context_of(ctx, &context);
        if (r)
                return r;
        if (context->attached) {
                context->attached--;
                return CUDA_SUCCESS;
        }
        return destroy((CUcontext)context);
}

/* ---- the primary context ---- */

CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!pctx)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&contexts_mutex);
        if (!atomic_load(&device->primary->live))
                r = begin(
                        device->primary, atomic_load(&device->primary->flags), SIM_DRIVER_VERSION);
        if (!r)
                retained[dev]++;
        pthread_mutex_unlock(&contexts_mutex);
        if (!r)
                *pctx = (CUcontext)device->primary;
        return r;
}

/* A reset ends the context but takes nobody's reference to it. */
static CUresult primary_release(CUdevice dev, bool reset)
{
        struct sim_device *device;
        CUresult r = sim_device_of(dev, &device);

        if (r)
                return r;
        pthread_mutex_lock(&contexts_mutex);
        if (!reset && retained[dev] == 0)
                r = CUDA_ERROR_INVALID_CONTEXT;
        else if (!reset)
                retained[dev]--;
        if (!r && (reset || retained[dev] == 0) && atomic_load(&device->primary->live)) {
                end(device->primary);
                atomic_store(&device->primary->flags, 0);
        }
        pthread_mutex_unlock(&contexts_mutex);
        return r;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice dev)
{
        CUresult r = sim_enter(__func__);

        return r ? r : primary_release(dev, false);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
        CUresult r = sim_enter(__func__);

        return r ? r : primary_release(dev, false);
}

CUresult cuDevicePrimaryCtxReset(CUdevice dev)
{
        CUresult r = sim_enter(__func__);

        return r ? r : primary_release(dev, true);
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
        CUresult r = sim_enter(__func__);

        return r ? r : primary_release(dev, true);
}

static CUresult primary_set_flags(CUdevice dev, unsigned int flags)
{
        struct sim_device *device;
        CUresult r = sim_device_of(dev, &device);

        if (r)
                return r;
        if (flags & ~FLAGS_KNOWN || (flags & CU_CTX_SCHED_MASK) == 3 ||
                (flags & CU_CTX_SCHED_MASK) > CU_CTX_SCHED_BLOCKING_SYNC)
                return CUDA_ERROR_INVALID_VALUE;
        atomic_store(&device->primary->flags, flags);
        return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags)
{
        CUresult r = sim_enter(__func__);

        return r ? r : primary_set_flags(dev, flags);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags)
{
        CUresult r = sim_enter(__func__);

        return r ? r : primary_set_flags(dev, flags);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!flags || !active)
                return CUDA_ERROR_INVALID_VALUE;
        *flags = atomic_load(&device->primary->flags);
        *active = (int)atomic_load(&device->primary->live);
        return CUDA_SUCCESS;
}

/* ---- the calling thread ---- */

static CUresult push_current(CUcontext ctx)
{
        struct sim_context *context;
        CUresult r;

        if (!ctx)
                return CUDA_ERROR_INVALID_VALUE;
        r = sim_context_of(ctx, &context);
        return r ? r : push(context, green_of(ctx));
}

static CUresult pop_current(CUcontext *pctx)
{
        const struct entry *entry = top();

        if (!entry)
                return CUDA_ERROR_INVALID_CONTEXT;
        if (pctx)
                *pctx = handle_of(entry);
        stack->n--;
        return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext ctx)
{
        CUresult r = sim_enter(__func__);

        return r ? r : push_current(ctx);
}

CUresult cuCtxPushCurrent_v2(CUcontext ctx)
{
        CUresult r = sim_enter(__func__);

        return r ? r : push_current(ctx);
}

CUresult cuCtxPopCurrent(CUcontext *pctx)
{
        CUresult r = sim_enter(__func__);

        return r ? r : pop_current(pctx);
}

CUresult cuCtxPopCurrent_v2(CUcontext *pctx)
{
        CUresult r = sim_enter(__func__);

        return r ? r : pop_current(pctx);
}

CUresult cuCtxSetCurrent(CUcontext ctx)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ctx) {
                if (top())
                        stack->n--;
                return CUDA_SUCCESS;
        }
        r = sim_context_of(ctx, &context);
        if (r)
                return r;
        if (!top())
                return push(context, green_of(ctx));
        *top() = entry_of(context, green_of(ctx));
        return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *pctx)
{
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!pctx)
                return CUDA_ERROR_INVALID_VALUE;
        *pctx = top() ? handle_of(top()) : NULL;
        return CUDA_SUCCESS;
}

static CUresult get_device(CUcontext ctx, CUdevice *device)
{
        struct sim_context *context;
        CUresult r = sim_context_of(ctx, &context);

        if (r)
                return r;
        if (!device)
                return CUDA_ERROR_INVALID_VALUE;
        *device = context->device->index;
        return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device)
{
        CUresult r = sim_enter(__func__);

        return r ? r : get_device(NULL, device);
}

CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext ctx)
{
        CUresult r = sim_enter(__func__);

        return r ? r : get_device(ctx, device);
}

CUresult cuCtxGetFlags(unsigned int *flags)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current_any(&context);
        if (r)
                return r;
        if (!flags)
                return CUDA_ERROR_INVALID_VALUE;
        *flags = atomic_load(&context->flags);
        return CUDA_SUCCESS;
}

CUresult cuCtxSetFlags(unsigned int flags)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (flags & ~FLAGS_KNOWN)
                return CUDA_ERROR_INVALID_VALUE;
        atomic_store(&context->flags, flags);
        return CUDA_SUCCESS;
}

CUresult cuCtxGetId(CUcontext ctx, unsigned long long *ctxId)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_context_of(ctx, &context);
        if (r)
                return r;
        if (!ctxId)
                return CUDA_ERROR_INVALID_VALUE;
        *ctxId = green_of(ctx) ? green_of(ctx)->id : context->id;
        return CUDA_SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext ctx, unsigned int *version)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_context_of(ctx, &context);
        if (r)
                return r;
        if (!version)
                return CUDA_ERROR_INVALID_VALUE;
        *version = context->api_version;
        return CUDA_SUCCESS;
}

static CUresult synchronize(CUcontext ctx)
{
        struct sim_context *context;
        CUresult r = sim_context_of(ctx, &context);

        if (!r)
                r = health(context);
        if (!r)
                r = exec_capture_check();
        if (!r)
                r = exec_synchronize(context);
        if (!r)
                sim_pool_relax(context->device);
        return r;
}

CUresult cuCtxSynchronize(void)
{
        CUresult r = sim_enter(__func__);

        return r ? r : synchronize(NULL);
}

CUresult cuCtxSynchronize_v2(CUcontext ctx)
{
        CUresult r = sim_enter(__func__);

        return r ? r : synchronize(ctx);
}

/* ---- settings ---- */

CUresult cuCtxSetLimit(CUlimit limit, size_t value)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        switch (limit) {
        case CU_LIMIT_STACK_SIZE:
                if (value > 523712) /* what local memory can address, less the driver's own */
                        return CUDA_ERROR_INVALID_VALUE;
                value = (value + 15) & ~(size_t)15;
                break;
        case CU_LIMIT_PRINTF_FIFO_SIZE:
        case CU_LIMIT_MALLOC_HEAP_SIZE:
                if (value > (size_t)context->device->model->memory_mib << 20)
                        return CUDA_ERROR_INVALID_VALUE;
                break;
        case CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH:
                return CUDA_ERROR_UNSUPPORTED_LIMIT; /* gone since compute capability 9.0 */
        case CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT:
                break;
        case CU_LIMIT_MAX_L2_FETCH_GRANULARITY:
                if (value > 128)
                        return CUDA_ERROR_INVALID_VALUE;
                break;
        case CU_LIMIT_PERSISTING_L2_CACHE_SIZE:
                if (value > (size_t)context->device->model->persisting_l2_bytes)
                        return CUDA_ERROR_INVALID_VALUE;
                break;
        case CU_LIMIT_SHMEM_SIZE:
        case CU_LIMIT_CIG_ENABLED:
        case CU_LIMIT_CIG_SHMEM_FALLBACK_ENABLED:
                return CUDA_ERROR_UNSUPPORTED_LIMIT;
        default:
                return CUDA_ERROR_INVALID_VALUE;
        }
        atomic_store(&context->limit[limit], value);
        return CUDA_SUCCESS;
}

CUresult cuCtxGetLimit(size_t *pvalue, CUlimit limit)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (!pvalue)
                return CUDA_ERROR_INVALID_VALUE;
        if ((unsigned)limit >= CU_LIMIT_MAX)
                return CUDA_ERROR_INVALID_VALUE;
        *pvalue = atomic_load(&context->limit[limit]);
        return CUDA_SUCCESS;
}

CUresult cuCtxGetCacheConfig(CUfunc_cache *pconfig)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (!pconfig)
                return CUDA_ERROR_INVALID_VALUE;
        *pconfig = (CUfunc_cache)atomic_load(&context->cache_config);
        return CUDA_SUCCESS;
}

CUresult cuCtxSetCacheConfig(CUfunc_cache config)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if ((unsigned)config > CU_FUNC_CACHE_PREFER_EQUAL)
                return CUDA_ERROR_INVALID_VALUE;
        atomic_store(&context->cache_config, (unsigned)config);
        return CUDA_SUCCESS;
}

CUresult cuCtxGetSharedMemConfig(CUsharedconfig *pConfig)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (!pConfig)
                return CUDA_ERROR_INVALID_VALUE;
        *pConfig = CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE;
        return CUDA_SUCCESS;
}

CUresult cuCtxSetSharedMemConfig(CUsharedconfig config)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        /* accepted and without effect, as on every device since Maxwell */
        return (unsigned)config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE
                       ? CUDA_ERROR_INVALID_VALUE
                       : CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (leastPriority)
                *leastPriority = 0;
        if (greatestPriority)
                *greatestPriority = -5;
        return CUDA_SUCCESS;
}

CUresult cuCtxResetPersistingL2Cache(void)
{
        struct sim_context *context;
        CUresult r = sim_enter(__func__);

        return r ? r : sim_current(&context);
}

CUresult cuCtxGetExecAffinity(CUexecAffinityParam *pExecAffinity, CUexecAffinityType type)
{
        struct sim_context *context;
        struct sim_sms sms;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (!pExecAffinity)
                return CUDA_ERROR_INVALID_VALUE;
        if (type != CU_EXEC_AFFINITY_TYPE_SM_COUNT)
                return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
        pExecAffinity->type = type;
        sms = green_sms(green_current(), context->device);
        pExecAffinity->param.smCount.val = sms_count(&sms);
        return CUDA_SUCCESS;
}

/* ---- peers ---- */

CUresult cuDeviceCanAccessPeer(int *canAccessPeer, CUdevice dev, CUdevice peerDev)
{
        struct sim_device *device, *peer;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (!r)
                r = sim_device_of(peerDev, &peer);
        if (r)
                return r;
        if (!canAccessPeer)
                return CUDA_ERROR_INVALID_VALUE;
        *canAccessPeer = device != peer;
        return CUDA_SUCCESS;
}

CUresult cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags)
{
        struct sim_context *context, *peer;
        uint32_t bit;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        if (Flags)
                return CUDA_ERROR_INVALID_VALUE;
        r = peerContext ? sim_context_of(peerContext, &peer) : CUDA_ERROR_INVALID_CONTEXT;
        if (r)
                return r;
        if (peer->device == context->device)
                return peer == context ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
        bit = 1u << peer->device->index;
        if (atomic_fetch_or(&context->peers, bit) & bit)
                return CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
        return CUDA_SUCCESS;
}

CUresult cuCtxDisablePeerAccess(CUcontext peerContext)
{
        struct sim_context *context, *peer;
        uint32_t bit;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_current(&context);
        if (r)
                return r;
        r = peerContext ? sim_context_of(peerContext, &peer) : CUDA_ERROR_INVALID_CONTEXT;
        if (r)
                return r;
        bit = 1u << peer->device->index;
        if (!(atomic_fetch_and(&context->peers, ~bit) & bit))
                return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
        return CUDA_SUCCESS;
}
