/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver library's dealings with the kernel driver: its client, and the objects below it. All
 * goes through ioctl() on a descriptor, by this library's own GOT slot, as in the real library, so
 * that whoever redirects that slot sees and may refuse it.
 */
#pragma once

#include <stdint.h>

#include "driver.h"

/* Makes this process's client. CUDA_ERROR_OPERATING_SYSTEM if the kernel does not want it. */
CUresult client_open(void);
uint32_t client_handle(void);

/* The CUresult of a status of RM. */
CUresult client_error(uint32_t status);

/* RM's objects of a device, made when first asked for. */
struct client_device {
        uint32_t device, subdevice;
};
CUresult client_device(struct sim_device *device, struct client_device *ret);

/* One object: a status of RM. handle 0: chosen here, in *ret. */
uint32_t client_alloc(
        uint32_t parent, uint32_t class_id, void *params, uint32_t params_size, uint32_t *ret);
void client_free(uint32_t parent, uint32_t handle);

/* Device memory (class RM_CLASS_MEMORY_LOCAL, or managed): a status of RM; the size taken and, for
 * device memory, where it is in the device's memory file. */
uint32_t client_alloc_memory(struct sim_device *device, uint32_t class_id, uint64_t bytes,
        uint32_t *ret_handle, uint64_t *ret_size, uint64_t *ret_offset);
/* Another client's memory under a name of ours. */
uint32_t client_dup_memory(struct sim_device *device, uint32_t client, uint32_t handle,
        uint32_t *ret_handle, uint64_t *ret_size, uint64_t *ret_offset);
/* The channel groups and channels of a context. */
uint32_t client_alloc_groups(struct sim_device *device, struct sim_rm_objects *ret);
/* The place that the first of these groups has in the runlist. */
uint32_t client_group(const struct sim_rm_objects *objects);
