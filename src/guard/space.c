/* SPDX-License-Identifier: Apache-2.0 */
#include "space.h"

#include <stdlib.h>
#include <string.h>

#include "message.h"

/* One of our contexts. */
struct green {
        CUgreenCtx green;
        CUcontext context; /* what the program has of it */
        uint64_t set[2];
        unsigned attached; /* by cuCtxAttach */
        struct green *next;
};

/* How the driver divides the device. */
struct units {
        unsigned count; /* 0: not asked yet */
        CUdevResource unit[128];
};

bool guard_space_on;

static struct guard_lock space_lock;
static struct green *greens;
static struct units units;
static struct green *primary;    /* of greens, or NULL */
static unsigned retained;        /* by the program */
static CUcontext _Atomic hidden; /* the driver's own primary context, which no program sees */
static CUcontext _Atomic shown;  /* ours in its place */

void guard_space_open(void)
{
        const struct guard_session *session = guard_session();

        if (session && session->slot && session->grant->devices == 1 &&
                atomic_load(&session->grant->space_units) > 0)
                __atomic_store_n(&guard_space_on, true, __ATOMIC_RELAXED);
}

static bool is_ours(CUdevice device)
{
        return guard_device_by_ordinal(device) == 0;
}

/* -- sets -------------------------------------------------------------------------------------- */

/* Asks the driver once how it divides the device; as the daemon did, or it is refused. */
static CUresult divide(CUdevice device)
{
        const struct cleave_grant_page *grant = guard_session()->grant;
        unsigned step = atomic_load(&grant->space_step), n = 127;
        CUdevResource all, rest = {0};
        CUresult result;

        if (units.count)
                return CUDA_SUCCESS;
        result = REAL(cuDeviceGetDevResource)(device, &all, CU_DEV_RESOURCE_TYPE_SM);
        if (result == CUDA_SUCCESS)
                result = REAL(cuDevSmResourceSplitByCount)(units.unit, &n, &all, &rest,
                        step < 8 ? CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING : 0, step);
        if (result != CUDA_SUCCESS)
                return result;
        if (n < 127 && rest.type == CU_DEV_RESOURCE_TYPE_SM && rest.sm.smCount > 0)
                units.unit[n++] = rest;
        if (n != atomic_load(&grant->space_units)) {
                guard_debug("the driver divides the device by %u, the daemon by %u", n,
                        atomic_load(&grant->space_units));
                return CUDA_ERROR_NOT_SUPPORTED;
        }
        units.count = n;
        return CUDA_SUCCESS;
}

static bool has(const uint64_t set[2], unsigned unit)
{
        return set[unit / 64] >> unit % 64 & 1;
}

static unsigned count_sms(const uint64_t set[2])
{
        unsigned sms = 0;

        for (unsigned i = 0; i < units.count; i++)
                if (has(set, i))
                        sms += units.unit[i].sm.smCount;
        return sms;
}

/* Tells the daemon what our contexts live on, and set too. */
static void claim(const uint64_t set[2])
{
        struct cleave_slot *slot = guard_session()->slot;
        uint64_t all[2] = {set ? set[0] : 0, set ? set[1] : 0};

        for (const struct green *g = greens; g; g = g->next) {
                all[0] |= g->set[0];
                all[1] |= g->set[1];
        }
        atomic_store(&slot->space_set[0], all[0]);
        atomic_store(&slot->space_set[1], all[1]);
}

/* The set for a new context, claimed. */
static bool claim_set(uint64_t set[2])
{
        const struct cleave_grant_page *grant = guard_session()->grant;
        uint32_t version;

        do {
                if (!cleave_space_read(grant, set, &version) || (!set[0] && !set[1])) {
                        claim(NULL);
                        return false;
                }
                claim(set);
        } while (atomic_load(&grant->space_version) != version);
        return true;
}

/* -- contexts; under the lock ------------------------------------------------------------------ */

static struct green *find(CUcontext context)
{
        for (struct green *g = greens; g && context; g = g->next)
                if (g->context == context)
                        return g;
        return NULL;
}

/* While one of ours lives, so does the driver's primary context: and we know which it is. */
static CUresult hold_hidden(CUdevice device)
{
        CUcontext context;
        CUresult result = CONTEXT_MADE(REAL(cuDevicePrimaryCtxRetain)(&context, device));

        if (result == CUDA_SUCCESS)
                atomic_store(&hidden, context);
        return result;
}

static void let_hidden_go(CUdevice device)
{
        REAL(cuDevicePrimaryCtxRelease_v2)(device);
        if (!greens)
                atomic_store(&hidden, NULL);
}

CUresult guard_space_tell(CUresult result)
{
        static _Atomic uint32_t told;
        uint32_t bit;

        if (result < CUDA_ERROR_MPS_CONNECTION_FAILED || result > CUDA_ERROR_MPS_CLIENT_TERMINATED)
                return result;
        /* a program may try again and again */
        bit = 1u << (result - CUDA_ERROR_MPS_CONNECTION_FAILED);
        if (!(atomic_fetch_or(&told, bit) & bit))
                guard_notice(CLEAVE_NOTICE_MPS, (uint64_t)result, 0);
        return result;
}

/* Without the server, the tenant would take turns with its neighbours and be none. */
static CUresult check_server(CUdevice device)
{
        int served = 0;
        CUresult result =
                REAL(cuDeviceGetAttribute)(&served, CU_DEVICE_ATTRIBUTE_MPS_ENABLED, device);

        if (result != CUDA_SUCCESS)
                return result;
        if (!served)
                guard_debug("this process is no client of the device's MPS server: is "
                            "CUDA_MPS_PIPE_DIRECTORY as cleave run has set it?");
        return served ? CUDA_SUCCESS : CUDA_ERROR_MPS_CONNECTION_FAILED;
}

static CUresult make_green(CUdevice device, struct green *g)
{
        CUdevResource chosen[128];
        CUdevResourceDesc desc;
        unsigned n = 0;
        CUresult result;

        for (unsigned i = 0; i < units.count; i++)
                if (has(g->set, i))
                        chosen[n++] = units.unit[i];
        result = REAL(cuDevResourceGenerateDesc)(&desc, chosen, n);
        if (result == CUDA_SUCCESS)
                result = REAL(cuGreenCtxCreate)(
                        &g->green, desc, device, CU_GREEN_CTX_DEFAULT_STREAM);
        if (result != CUDA_SUCCESS)
                return result;
        result = REAL(cuCtxFromGreenCtx)(&g->context, g->green);
        if (result != CUDA_SUCCESS)
                REAL(cuGreenCtxDestroy)(g->green);
        return result;
}

static CUresult make_on_server(CUdevice device, struct green **ret)
{
        struct green *g;
        CUresult result = check_server(device);

        if (result == CUDA_SUCCESS)
                result = divide(device);
        if (result != CUDA_SUCCESS)
                return result;
        g = calloc(1, sizeof(*g));
        if (!g)
                return CUDA_ERROR_OUT_OF_MEMORY;
        if (!claim_set(g->set)) {
                free(g);
                return CUDA_ERROR_DEVICE_UNAVAILABLE;
        }
        result = hold_hidden(device);
        if (result == CUDA_SUCCESS) {
                result = make_green(device, g);
                if (result != CUDA_SUCCESS)
                        let_hidden_go(device);
        }
        if (result != CUDA_SUCCESS) {
                claim(NULL);
                free(g);
                return result;
        }
        g->next = greens;
        greens = g;
        guard_debug("a context on %u multiprocessors", count_sms(g->set));
        *ret = g;
        return CUDA_SUCCESS;
}

static CUresult make(CUdevice device, struct green **ret)
{
        return guard_space_tell(make_on_server(device, ret));
}

static CUresult end(struct green *g, CUdevice device)
{
        CUresult result = REAL(cuGreenCtxDestroy)(g->green);

        for (struct green **at = &greens; *at; at = &(*at)->next)
                if (*at == g) {
                        *at = g->next;
                        break;
                }
        if (g == primary) {
                atomic_store(&shown, NULL);
                primary = NULL;
        }
        free(g);
        let_hidden_go(device);
        claim(NULL);
        return result;
}

/* The CUDA ordinal of the tenant's device, the only one that a context of ours is on. */
static CUdevice ordinal_of(CUcontext context)
{
        CUdevice device = 0;

        if (REAL(cuCtxPushCurrent_v2)(context) == CUDA_SUCCESS) {
                REAL(cuCtxGetDevice)(&device);
                REAL(cuCtxPopCurrent_v2)(&context);
        }
        return device;
}

/* -- the primary context ----------------------------------------------------------------------- */

CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
        CUresult result = CUDA_SUCCESS;

        if (!guard_space() || !pctx || guard_forked() || !is_ours(dev))
                return CONTEXT_MADE(REAL(cuDevicePrimaryCtxRetain)(pctx, dev));
        guard_lock(&space_lock);
        if (!primary) {
                result = make(dev, &primary);
                if (result == CUDA_SUCCESS)
                        atomic_store(&shown, primary->context);
        }
        if (result == CUDA_SUCCESS) {
                CUcontext real;

                /* theirs too, so that its state and its count are as the program expects */
                result = REAL(cuDevicePrimaryCtxRetain)(&real, dev);
        }
        if (result == CUDA_SUCCESS) {
                retained++;
                *pctx = primary->context;
        } else if (primary && retained == 0)
                end(primary, dev);
        guard_unlock(&space_lock);
        return result;
}

void guard_space_release(CUdevice device, bool reset)
{
        CUcontext current = NULL;

        if (!guard_space() || guard_forked() || !is_ours(device))
                return;
        guard_lock(&space_lock);
        if (REAL(cuCtxGetCurrent)(&current) != CUDA_SUCCESS || !find(current))
                current = NULL;
        if (!reset && retained > 0)
                retained--;
        if (reset)
                /* all that lives in it goes with it */
                while (greens)
                        end(greens, device);
        else if (primary && retained == 0)
                end(primary, device);
        /* who goes on after a reset is in none, and the CUDA runtime begins anew */
        if (current && !find(current))
                REAL(cuCtxSetCurrent)(NULL);
        guard_unlock(&space_lock);
}

/* The only device that a context of ours is on; -1: there is none. */
static int own_ordinal(void)
{
        int count = 0;

        if (REAL(cuDeviceGetCount)(&count) != CUDA_SUCCESS)
                return -1;
        for (int i = 0; i < count; i++)
                if (is_ours(i))
                        return i;
        return -1;
}

/* Whether that is the driver's primary context; while none of ours lives, we do not know it. */
static bool is_hidden(CUcontext handle, CUdevice device)
{
        CUcontext real;

        if (atomic_load(&hidden))
                return handle == atomic_load(&hidden);
        if (REAL(cuDevicePrimaryCtxRetain)(&real, device) != CUDA_SUCCESS)
                return false;
        REAL(cuDevicePrimaryCtxRelease_v2)(device);
        return handle == real;
}

/*
 * What is to be made current where the program names that context. The CUDA runtime has the
 * driver's primary context by cuGetExportTable, and in each thread it makes that current before it
 * retains it, once, by the call that we see: so ours is made then at the latest. Else the thread
 * that came first would have all multiprocessors, and those after it a default stream of their own.
 */
static CUresult enter(CUcontext *context)
{
        CUresult result = CUDA_SUCCESS;
        int device;

        if (!*context || guard_forked())
                return result;
        if (*context == atomic_load(&hidden) && atomic_load(&shown)) {
                *context = guard_space_map(*context);
                return result;
        }
        guard_lock(&space_lock);
        device = find(*context) ? -1 : own_ordinal();
        if (device >= 0 && is_hidden(*context, device)) {
                if (!primary)
                        result = make(device, &primary);
                if (result == CUDA_SUCCESS) {
                        atomic_store(&shown, primary->context);
                        *context = primary->context;
                }
        }
        guard_unlock(&space_lock);
        return result;
}

CUcontext guard_space_map(CUcontext handle)
{
        CUcontext ours;

        if (!handle || handle != atomic_load(&hidden))
                return handle;
        ours = atomic_load(&shown);
        if (!ours) {
                /* the program never asked for the primary one: then it is in one that it made */
                if (REAL(cuCtxGetCurrent)(&ours) != CUDA_SUCCESS)
                        ours = NULL;
        }
        return ours ? ours : handle;
}

#define ENTER(symbol)                                                                              \
        CUresult symbol(CUcontext ctx)                                                             \
        {                                                                                          \
                CUresult result = guard_space() ? enter(&ctx) : CUDA_SUCCESS;                      \
                                                                                                   \
                return result == CUDA_SUCCESS ? REAL(symbol)(ctx) : result;                        \
        }

ENTER(cuCtxSetCurrent)
ENTER(cuCtxPushCurrent)
ENTER(cuCtxPushCurrent_v2)

/* -- contexts that the program makes ----------------------------------------------------------- */

/* A program's own green context, which is left to the driver, is not among ours. */
static CUresult create(CUcontext *pctx, unsigned flags, CUdevice dev)
{
        struct green *g;
        CUresult result;

        if (flags & ~0x1ffu || (flags & CU_CTX_SCHED_MASK) == 3)
                return CUDA_ERROR_INVALID_VALUE;
        guard_lock(&space_lock);
        result = make(dev, &g);
        if (result == CUDA_SUCCESS) {
                result = REAL(cuCtxPushCurrent_v2)(g->context);
                if (result == CUDA_SUCCESS)
                        *pctx = g->context;
                else
                        end(g, dev);
        }
        guard_unlock(&space_lock);
        return result;
}

static bool replaces(const CUcontext *pctx, CUdevice dev)
{
        return guard_space() && pctx && !guard_forked() && is_ours(dev);
}

CUresult cuCtxCreate(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
        return replaces(pctx, dev) ? create(pctx, flags, dev)
                                   : CONTEXT_MADE(REAL(cuCtxCreate)(pctx, flags, dev));
}

CUresult cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
        return replaces(pctx, dev) ? create(pctx, flags, dev)
                                   : CONTEXT_MADE(REAL(cuCtxCreate_v2)(pctx, flags, dev));
}

CUresult cuCtxCreate_v3(
        CUcontext *pctx, CUexecAffinityParam *params, int count, unsigned int flags, CUdevice dev)
{
        if (!replaces(pctx, dev))
                return CONTEXT_MADE(REAL(cuCtxCreate_v3)(pctx, params, count, flags, dev));
        return count ? CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY : create(pctx, flags, dev);
}

CUresult cuCtxCreate_v4(
        CUcontext *pctx, CUctxCreateParams *params, unsigned int flags, CUdevice dev)
{
        if (!replaces(pctx, dev))
                return CONTEXT_MADE(REAL(cuCtxCreate_v4)(pctx, params, flags, dev));
        if (params && params->numExecAffinityParams)
                return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
        if (params && params->cigParams)
                return CUDA_ERROR_NOT_SUPPORTED;
        return create(pctx, flags, dev);
}

bool guard_space_destroy(CUcontext handle, CUresult *ret)
{
        struct green *g = NULL;
        CUcontext current = NULL;

        if (!guard_space() || guard_forked())
                return false;
        guard_lock(&space_lock);
        g = find(handle);
        if (g == primary && g)
                *ret = CUDA_ERROR_INVALID_CONTEXT; /* as of any primary context */
        else if (g) {
                CUdevice device = ordinal_of(handle);

                /* who destroys the current context has none afterwards */
                if (REAL(cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current == handle)
                        REAL(cuCtxPopCurrent_v2)(&current);
                *ret = end(g, device);
        }
        guard_unlock(&space_lock);
        return g != NULL;
}

CUresult cuCtxAttach(CUcontext *pctx, unsigned int flags)
{
        CUcontext current;
        struct green *g = NULL;

        if (!guard_space() || !pctx || flags || REAL(cuCtxGetCurrent)(&current) != CUDA_SUCCESS)
                return REAL(cuCtxAttach)(pctx, flags);
        guard_lock(&space_lock);
        g = find(current);
        if (g) {
                g->attached++;
                *pctx = current;
        }
        guard_unlock(&space_lock);
        return g ? CUDA_SUCCESS : REAL(cuCtxAttach)(pctx, flags);
}

CUresult cuCtxDetach(CUcontext ctx)
{
        struct green *g;
        bool done = false;
        CUresult result;

        if (!guard_space())
                return REAL(cuCtxDetach)(ctx);
        guard_lock(&space_lock);
        g = find(ctx);
        if (g && g->attached) {
                g->attached--;
                done = true;
        }
        guard_unlock(&space_lock);
        if (done)
                return CUDA_SUCCESS;
        return guard_space_destroy(ctx, &result) ? result : REAL(cuCtxDetach)(ctx);
}

/* -- where the driver names the primary context ------------------------------------------------ */

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
        CUresult result = REAL(cuPointerGetAttribute)(data, attribute, ptr);

        if (guard_space() && result == CUDA_SUCCESS && attribute == CU_POINTER_ATTRIBUTE_CONTEXT)
                *(CUcontext *)data = guard_space_map(*(CUcontext *)data);
        return result;
}

CUresult cuPointerGetAttributes(
        unsigned int count, CUpointer_attribute *attributes, void **data, CUdeviceptr ptr)
{
        CUresult result = REAL(cuPointerGetAttributes)(count, attributes, data, ptr);

        for (unsigned i = 0; guard_space() && result == CUDA_SUCCESS && i < count; i++)
                if (attributes[i] == CU_POINTER_ATTRIBUTE_CONTEXT)
                        *(CUcontext *)data[i] = guard_space_map(*(CUcontext *)data[i]);
        return result;
}

static bool is_green_of_ours(CUgreenCtx green)
{
        bool known = false;

        guard_lock(&space_lock);
        for (const struct green *g = greens; g; g = g->next)
                known = known || g->green == green;
        guard_unlock(&space_lock);
        return known;
}

/* A stream in one of ours is in an ordinary context, as far as the program knows. */
static CUresult after_stream_context(CUresult result, CUcontext *context, CUgreenCtx *green)
{
        if (result == CUDA_SUCCESS && green && *green && is_green_of_ours(*green)) {
                if (context)
                        REAL(cuCtxFromGreenCtx)(context, *green);
                *green = NULL;
        }
        return result;
}

CUresult cuStreamGetCtx_v2(CUstream stream, CUcontext *context, CUgreenCtx *green)
{
        CUresult result = REAL(cuStreamGetCtx_v2)(stream, context, green);

        return guard_space() ? after_stream_context(result, context, green) : result;
}

CUresult cuStreamGetCtx_v2_ptsz(CUstream stream, CUcontext *context, CUgreenCtx *green)
{
        CUresult result = REAL(cuStreamGetCtx_v2_ptsz)(stream, context, green);

        return guard_space() ? after_stream_context(result, context, green) : result;
}

CUresult cuStreamGetGreenCtx(CUstream stream, CUgreenCtx *green)
{
        CUresult result = REAL(cuStreamGetGreenCtx)(stream, green);

        return guard_space() ? after_stream_context(result, NULL, green) : result;
}

/* -- the tenant's multiprocessors -------------------------------------------------------------- */

/* How many it has: in the context that stands for the device, or would if it were made now. */
static CUresult tenant_sms(CUdevice device, unsigned *ret)
{
        uint64_t set[2];
        uint32_t version;
        CUresult result;

        guard_lock(&space_lock);
        result = divide(device);
        if (result == CUDA_SUCCESS && primary)
                memcpy(set, primary->set, sizeof(set));
        else if (result == CUDA_SUCCESS &&
                 !cleave_space_read(guard_session()->grant, set, &version))
                result = CUDA_ERROR_NOT_READY;
        if (result == CUDA_SUCCESS)
                *ret = count_sms(set);
        guard_unlock(&space_lock);
        return result;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice dev)
{
        CUresult result = REAL(cuDeviceGetAttribute)(value, attribute, dev);
        unsigned sms;

        if (!guard_space() || attribute != CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ||
                result != CUDA_SUCCESS || guard_forked() || !is_ours(dev))
                return result;
        result = tenant_sms(dev, &sms);
        if (result == CUDA_SUCCESS)
                *value = (int)sms;
        return result;
}

/* What a program that divides the device by itself is to divide. */
static CUresult tenant_resource(CUdevice device, CUdevResource *resource)
{
        struct green *g;
        CUresult result = CUDA_SUCCESS;

        guard_lock(&space_lock);
        g = primary;
        if (!g)
                result = make(device, &g);
        if (result == CUDA_SUCCESS)
                result =
                        REAL(cuGreenCtxGetDevResource)(g->green, resource, CU_DEV_RESOURCE_TYPE_SM);
        if (g && g != primary)
                end(g, device);
        guard_unlock(&space_lock);
        return result;
}

CUresult cuDeviceGetDevResource(CUdevice dev, CUdevResource *resource, CUdevResourceType type)
{
        if (!guard_space() || !resource || type != CU_DEV_RESOURCE_TYPE_SM || guard_forked() ||
                !is_ours(dev))
                return REAL(cuDeviceGetDevResource)(dev, resource, type);
        return tenant_resource(dev, resource);
}

CUresult cuCtxGetDevResource(CUcontext ctx, CUdevResource *resource, CUdevResourceType type)
{
        return REAL(cuCtxGetDevResource)(
                guard_space() ? guard_space_map(ctx) : ctx, resource, type);
}

CUresult cuCtxGetExecAffinity(CUexecAffinityParam *affinity, CUexecAffinityType type)
{
        CUresult result = REAL(cuCtxGetExecAffinity)(affinity, type);
        CUdevice device;
        unsigned sms;

        if (guard_space() && result == CUDA_SUCCESS && type == CU_EXEC_AFFINITY_TYPE_SM_COUNT &&
                REAL(cuCtxGetDevice)(&device) == CUDA_SUCCESS && is_ours(device) &&
                tenant_sms(device, &sms) == CUDA_SUCCESS)
                affinity->param.smCount.val = sms;
        return result;
}
