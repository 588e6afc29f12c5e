/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Managed memory takes device memory by page faults and prefetches, inside the UVM driver, where
 * neither RM's ioctls nor NVML's count of a process show it. It is charged in full when it is
 * allocated, so the limit holds wherever its pages are. (The driver may push such pages out to host
 * memory when another tenant needs the room, so a neighbour's guarantee never depends on this.)
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "driver.h"

struct managed {
        CUdeviceptr ptr;
        uint32_t device;
        uint64_t units;
        struct managed *next;
};

static struct guard_lock managed_lock;
static struct managed *managed_list;
static atomic_uint managed_count;

bool guard_managed_any(void)
{
        return atomic_load_explicit(&managed_count, memory_order_relaxed) != 0;
}

int guard_device_by_ordinal(CUdevice device)
{
        static _Atomic int known[64]; /* index + 1, 0: not asked, -1: not granted */
        CUuuid uuid;
        int index;

        if (device < 0 || device >= 64 || !guard_session())
                return -ENODEV;
        index = atomic_load_explicit(&known[device], memory_order_relaxed);
        if (index == 0) {
                /* The first of the two gives that of the GPU where it is a MIG device. */
                if (REAL(cuDeviceGetUuid_v2)(&uuid, device) != CUDA_SUCCESS &&
                        REAL(cuDeviceGetUuid)(&uuid, device) != CUDA_SUCCESS)
                        return -ENODEV;
                index = guard_device_by_uuid((const uint8_t *)uuid.bytes);
                index = index < 0 ? -1 : index + 1;
                atomic_store_explicit(&known[device], index, memory_order_relaxed);
        }
        return index < 0 ? -ENODEV : index - 1;
}

static void managed_put(struct managed *managed)
{
        guard_lock(&managed_lock);
        managed->next = managed_list;
        managed_list = managed;
        guard_unlock(&managed_lock);
        atomic_fetch_add(&managed_count, 1);
}

CUresult guard_managed_alloc(CUdeviceptr *ret, size_t bytes, unsigned flags)
{
        struct managed *managed;
        CUresult result;
        CUdevice ordinal;
        int device;

        result = REAL(cuCtxGetDevice)(&ordinal);
        if (result != CUDA_SUCCESS || bytes == 0 || !ret)
                return REAL(cuMemAllocManaged)(ret, bytes, flags); /* the driver's own error */
        device = guard_device_by_ordinal(ordinal);
        managed = malloc(sizeof(*managed));
        if (device < 0 || !managed) {
                free(managed);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        *managed = (struct managed){.device = (uint32_t)device, .units = cleave_units(bytes)};
        if (guard_charge(managed->device, managed->units) < 0) {
                free(managed);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        result = REAL(cuMemAllocManaged)(ret, bytes, flags);
        if (result != CUDA_SUCCESS) {
                guard_discharge(managed->device, managed->units);
                free(managed);
                return result;
        }
        managed->ptr = *ret;
        managed_put(managed);
        return CUDA_SUCCESS;
}

static void managed_gone(struct managed *managed)
{
        guard_discharge(managed->device, managed->units);
        free(managed);
}

CUresult guard_managed_free(CUdeviceptr ptr, CUresult (*real_free)(CUdeviceptr))
{
        struct managed *managed = NULL;
        CUresult result;

        /* off the list first: once freed, the address may at once be another thread's */
        guard_lock(&managed_lock);
        for (struct managed **at = &managed_list; *at; at = &(*at)->next)
                if ((*at)->ptr == ptr) {
                        managed = *at;
                        *at = managed->next;
                        atomic_fetch_sub(&managed_count, 1);
                        break;
                }
        guard_unlock(&managed_lock);
        result = real_free(ptr);
        if (!managed)
                return result;
        if (result == CUDA_SUCCESS)
                managed_gone(managed);
        else
                managed_put(managed);
        return result;
}

/* Whether the driver still knows the address. */
static bool is_known(CUdeviceptr ptr)
{
        unsigned is_managed;

        return REAL(cuPointerGetAttribute)(&is_managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, ptr) ==
               CUDA_SUCCESS;
}

void guard_managed_context_gone(void)
{
        struct managed *gone = NULL, *managed;

        if (!guard_managed_any())
                return;
        guard_lock(&managed_lock);
        for (struct managed **at = &managed_list; (managed = *at);) {
                if (is_known(managed->ptr)) {
                        at = &managed->next;
                        continue;
                }
                *at = managed->next;
                managed->next = gone;
                gone = managed;
                atomic_fetch_sub(&managed_count, 1);
        }
        guard_unlock(&managed_lock);
        while ((managed = gone)) {
                gone = managed->next;
                managed_gone(managed);
        }
}
