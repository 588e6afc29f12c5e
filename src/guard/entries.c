/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The entries of the driver API that the guard answers itself: those of hooks.list. Each is named
 * after the exported symbol and keeps that symbol's contract; where the program's call is wrong,
 * the driver's own error is what it gets.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "counter.h"
#include "dl.h"
#include "driver.h"
#include "environment.h"
#include "message.h"
#include "space.h"

/* -- the driver's library ---------------------------------------------------------------------- */

static int prepare(void *handle)
{
        int r = guard_redirect_ioctl(guard_dlsym(handle, "cuInit"));

        if (r < 0)
                guard_debug("the driver's library calls ioctl in a way that we cannot see");
        return r;
}

static struct guard_library driver = {
        .soname = "libcuda.so.1",
        .environment = CLEAVE_ENV_LIBCUDA,
        .prepare = prepare,
};

static CUresult not_supported(void)
{
        return CUDA_ERROR_NOT_SUPPORTED;
}

void *guard_real(unsigned entry)
{
        void *address = guard_library_find(&driver, cuda_entry_name(entry));

        return address ? address : (void *)not_supported;
}

void *cleave_guard_resolve(unsigned entry)
{
        void *address = guard_real(entry);

        __atomic_store_n(&cleave_real[entry], address, __ATOMIC_RELAXED);
        return address;
}

/* -- beginning --------------------------------------------------------------------------------- */

CUresult cuInit(unsigned int flags)
{
        CUresult result;
        int r;

        r = guard_library_load(&driver);
        if (r == -ENOENT)
                return CUDA_ERROR_NO_DEVICE;
        if (r < 0)
                return CUDA_ERROR_SYSTEM_NOT_READY;
        if (guard_forked())
                return REAL(cuInit)(flags);
        r = guard_session_open(false);
        if (r < 0)
                return r == -EPERM ? CUDA_ERROR_NOT_PERMITTED : CUDA_ERROR_SYSTEM_NOT_READY;
        guard_space_open();
        guard_gate_open();
        result = guard_space_tell(REAL(cuInit)(flags));
        if (result == CUDA_SUCCESS && !guard_rm_seen()) {
                /* no limit could be held: refuse rather than pretend */
                guard_notice(CLEAVE_NOTICE_BLIND, 0, 0);
                return CUDA_ERROR_SYSTEM_NOT_READY;
        }
        return result;
}

/* -- look-up ----------------------------------------------------------------------------------- */

/* Our own function in place of the driver's. The driver has resolved name, version and flags; entry
 * is what we make of them, and right unless the driver knows versions that we do not: then its
 * answer is looked for among all. A function that is in no description is the driver's own. */
static void *ours(int entry, void *theirs)
{
        if (entry >= 0 && cleave_guard_resolve((unsigned)entry) == theirs)
                return cleave_entry_address((unsigned)entry);
        for (unsigned i = 0; i < CUDA_ENTRY_COUNT; i++)
                if (cleave_guard_resolve(i) == theirs)
                        return cleave_entry_address(i);
        return theirs;
}

static void count_unknown(const char *name)
{
        const struct guard_session *session = guard_session();
        uint64_t hash = cleave_name_hash(name);

        if (!session)
                return;
        atomic_fetch_add_explicit(&session->slot->unknown_entries, 1, memory_order_relaxed);
        for (unsigned i = 0; i < CLEAVE_MAX_UNKNOWN; i++) {
                uint64_t found = 0;

                if (atomic_compare_exchange_strong(&session->slot->unknown[i], &found, hash) ||
                        found == hash)
                        return;
        }
}

static void answer_look_up(const char *name, void **function, int version, cuuint64_t flags)
{
        int entry;

        if (!*function)
                return;
        entry = cuda_entry_find(name, version, flags, NULL);
        if (entry < 0)
                count_unknown(name);
        *function = ours(entry, *function);
}

CUresult cuGetProcAddress(const char *symbol, void **pfn, int version, cuuint64_t flags)
{
        CUresult result = REAL(cuGetProcAddress)(symbol, pfn, version, flags);

        if (result == CUDA_SUCCESS && symbol && pfn)
                answer_look_up(symbol, pfn, version, flags);
        return result;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **pfn, int version, cuuint64_t flags,
        CUdriverProcAddressQueryResult *status)
{
        CUresult result = REAL(cuGetProcAddress_v2)(symbol, pfn, version, flags, status);

        if (result == CUDA_SUCCESS && symbol && pfn)
                answer_look_up(symbol, pfn, version, flags);
        return result;
}

/* -- capacity ---------------------------------------------------------------------------------- */

static uint64_t limit_bytes(int device)
{
        return atomic_load_explicit(
                       &guard_session()->grant->device[device].limit, memory_order_acquire)
               << CLEAVE_UNIT_SHIFT;
}

/* What the tenant has on the current device; the driver's error if there is none. */
static CUresult tenant_memory(uint64_t *ret_free, uint64_t *ret_total)
{
        CUdevice ordinal;
        CUresult result = REAL(cuCtxGetDevice)(&ordinal);
        uint64_t used;
        int device;

        if (result != CUDA_SUCCESS)
                return result;
        device = guard_device_by_ordinal(ordinal);
        if (device < 0) {
                *ret_free = *ret_total = 0;
                return CUDA_SUCCESS;
        }
        used = cleave_used(guard_session()->usage, (uint32_t)device) << CLEAVE_UNIT_SHIFT;
        *ret_total = limit_bytes(device);
        *ret_free = used < *ret_total ? *ret_total - used : 0;
        return CUDA_SUCCESS;
}

CUresult cuMemGetInfo_v2(size_t *free, size_t *total)
{
        uint64_t f, t;
        CUresult result;

        if (!guard_session() || (!free && !total))
                return REAL(cuMemGetInfo_v2)(free, total);
        result = tenant_memory(&f, &t);
        if (result != CUDA_SUCCESS)
                return result;
        if (free)
                *free = f;
        if (total)
                *total = t;
        return CUDA_SUCCESS;
}

static unsigned int saturated(uint64_t bytes)
{
        return bytes > UINT_MAX ? UINT_MAX : (unsigned int)bytes;
}

CUresult cuMemGetInfo(CUdeviceptr_v1 *free, CUdeviceptr_v1 *total)
{
        size_t f, t;
        CUresult result = cuMemGetInfo_v2(&f, &t);

        if (result != CUDA_SUCCESS)
                return result;
        if (free)
                *free = saturated(f);
        if (total)
                *total = saturated(t);
        return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice ordinal)
{
        CUresult result = REAL(cuDeviceTotalMem_v2)(bytes, ordinal);
        int device;

        if (result != CUDA_SUCCESS || !bytes || !guard_session())
                return result;
        device = guard_device_by_ordinal(ordinal);
        *bytes = device < 0 ? 0 : limit_bytes(device);
        return result;
}

CUresult cuDeviceTotalMem(unsigned int *bytes, CUdevice ordinal)
{
        size_t total;
        CUresult result;

        if (!bytes)
                return REAL(cuDeviceTotalMem)(bytes, ordinal);
        result = cuDeviceTotalMem_v2(&total, ordinal);
        if (result == CUDA_SUCCESS)
                *bytes = saturated(total);
        return result;
}

/* -- pools ------------------------------------------------------------------------------------- */

/* A pool grows in blocks of 32 MiB; refused midway, it keeps those it got. A refusal is to change
 * nothing, so what no allocation uses goes back, as the driver itself does for every other kind. */
static CUresult after_pool(CUresult result, CUmemoryPool pool)
{
        CUdevice device;

        if (__builtin_expect(result != CUDA_ERROR_OUT_OF_MEMORY, 1))
                return result;
        if (pool || (REAL(cuCtxGetDevice)(&device) == CUDA_SUCCESS &&
                            REAL(cuDeviceGetMemPool)(&pool, device) == CUDA_SUCCESS))
                REAL(cuMemPoolTrimTo)(pool, 0);
        return result;
}

CUresult cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream stream)
{
        return after_pool(REAL(cuMemAllocAsync)(dptr, bytesize, stream), NULL);
}

CUresult cuMemAllocAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUstream stream)
{
        return after_pool(REAL(cuMemAllocAsync_ptsz)(dptr, bytesize, stream), NULL);
}

CUresult cuMemAllocFromPoolAsync(
        CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream stream)
{
        return after_pool(REAL(cuMemAllocFromPoolAsync)(dptr, bytesize, pool, stream), pool);
}

CUresult cuMemAllocFromPoolAsync_ptsz(
        CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream stream)
{
        return after_pool(REAL(cuMemAllocFromPoolAsync_ptsz)(dptr, bytesize, pool, stream), pool);
}

/* -- managed memory ---------------------------------------------------------------------------- */

CUresult cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
        if (!guard_session())
                return REAL(cuMemAllocManaged)(dptr, bytesize, flags);
        return guard_managed_alloc(dptr, bytesize, flags);
}

CUresult cuMemFree_v2(CUdeviceptr dptr)
{
        if (__builtin_expect(!guard_managed_any(), 1))
                return REAL(cuMemFree_v2)(dptr);
        return guard_managed_free(dptr, REAL(cuMemFree_v2));
}

CUresult cuCtxDestroy(CUcontext ctx)
{
        CUresult result;

        guard_gate_forget(ctx);
        if (!guard_space_destroy(ctx, &result))
                result = REAL(cuCtxDestroy)(ctx);
        guard_managed_context_gone();
        return result;
}

CUresult cuCtxDestroy_v2(CUcontext ctx)
{
        CUresult result;

        guard_gate_forget(ctx);
        if (!guard_space_destroy(ctx, &result))
                result = REAL(cuCtxDestroy_v2)(ctx);
        guard_managed_context_gone();
        return result;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
        CUresult result;

        guard_gate_forget(NULL);
        guard_space_release(device, false);
        result = REAL(cuDevicePrimaryCtxRelease)(device);
        guard_managed_context_gone();
        return result;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
        CUresult result;

        guard_gate_forget(NULL);
        guard_space_release(device, false);
        result = REAL(cuDevicePrimaryCtxRelease_v2)(device);
        guard_managed_context_gone();
        return result;
}

CUresult cuDevicePrimaryCtxReset(CUdevice device)
{
        CUresult result;

        guard_gate_forget(NULL);
        guard_space_release(device, true);
        result = REAL(cuDevicePrimaryCtxReset)(device);
        guard_managed_context_gone();
        return result;
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
        CUresult result;

        guard_gate_forget(NULL);
        guard_space_release(device, true);
        result = REAL(cuDevicePrimaryCtxReset_v2)(device);
        guard_managed_context_gone();
        return result;
}

/* Pools of managed memory (CUDA 13) grow and shrink where nobody can count them, so a tenant has
 * none: NOT_SUPPORTED, as from a device that lacks them. */
CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *props)
{
        if (props && props->allocType == CU_MEM_ALLOCATION_TYPE_MANAGED && guard_session())
                return CUDA_ERROR_NOT_SUPPORTED;
        return REAL(cuMemPoolCreate)(pool, props);
}

CUresult cuMemGetDefaultMemPool(
        CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type)
{
        if (type == CU_MEM_ALLOCATION_TYPE_MANAGED && guard_session())
                return CUDA_ERROR_NOT_SUPPORTED;
        return REAL(cuMemGetDefaultMemPool)(pool, location, type);
}

CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type)
{
        if (type == CU_MEM_ALLOCATION_TYPE_MANAGED && guard_session())
                return CUDA_ERROR_NOT_SUPPORTED;
        return REAL(cuMemGetMemPool)(pool, location, type);
}
