/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the simulated NVML share. */
#pragma once

#include <stdbool.h>

#include "kernel.h"
#include "models.h"
#include "nvml_api.h"

/* An nvmlDevice_t is the address of one: a GPU, or a compute instance on one. */
struct nvmlDevice_st {
        uint32_t instance;
        const struct sim_model *model;
};

#pragma GCC visibility push(hidden)

/* What every call begins with: faults, whether the library is initialised, whether the handle is a
 * GPU's, whether it is lost. */
nvmlReturn_t nvml_enter(const char *entry);
nvmlReturn_t nvml_enter_device(const char *entry, nvmlDevice_t device);
nvmlDevice_t nvml_device(uint32_t instance);
nvmlReturn_t nvml_give_text(const char *text, char *ret, unsigned int length);

/* A handle that nvmlDeviceGetMigDeviceHandleByIndex gave out, whether or not its instance still
 * exists. The others answer for such a handle as the public functions of these names do. */
bool nvml_is_mig(nvmlDevice_t device);
nvmlReturn_t nvml_mig_uuid(nvmlDevice_t device, char *uuid, unsigned int length);
nvmlReturn_t nvml_mig_name(nvmlDevice_t device, char *name, unsigned int length);
nvmlReturn_t nvml_mig_memory(nvmlDevice_t device, uint64_t *ret_total, uint64_t *ret_used);
/* Which device of the kernel's it is; KERNEL_NONE: none, so nobody uses it. */
nvmlReturn_t nvml_mig_place(const char *entry, nvmlDevice_t device, uint32_t *ret);
nvmlReturn_t nvml_mig_by_uuid(const char *uuid, nvmlDevice_t *ret);
/* A process that somebody unseen has in an instance: those of a device, at most room. */
unsigned int nvml_mig_users(uint32_t instance, nvmlProcessInfo_v2_t *ret, unsigned int room);

#pragma GCC visibility pop
