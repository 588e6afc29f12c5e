/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What NVIDIA's vGPU host driver says of vGPUs that run: here one for each fault "vgpu=STATE", with
 * that state of its licence, of one type, of which no more can be made; with "vgpu=ecc" none, as
 * ECC is on. Names and structs are those of NVML's public header.
 */
#include <string.h>

#include "faults.h"
#include "nvml.h"

#define TYPE      1155u
#define TYPE_NAME "NVIDIA L40S-8Q"
#define HOST_VGPU 3u

struct license_info {
        unsigned char licensed;
        struct {
                unsigned int year;
                unsigned short month, day, hour, minute, second;
                unsigned char status;
        } expiry;
        unsigned int state;
};
_Static_assert(sizeof(struct license_info) == 24, "nvmlVgpuLicenseInfo_t");

/* The description of the API has only the names of these, without parameters. */
nvmlReturn_t get_mode(nvmlDevice_t device, unsigned int *mode) __asm__(
        "nvmlDeviceGetVirtualizationMode");
nvmlReturn_t get_active(nvmlDevice_t device, unsigned int *count, unsigned int *instances) __asm__(
        "nvmlDeviceGetActiveVgpus");
nvmlReturn_t get_creatable(nvmlDevice_t device, unsigned int *count, unsigned int *types) __asm__(
        "nvmlDeviceGetCreatableVgpus");
nvmlReturn_t get_type(unsigned int instance, unsigned int *type) __asm__("nvmlVgpuInstanceGetType");
nvmlReturn_t get_name(unsigned int type, char *name, unsigned int *size) __asm__(
        "nvmlVgpuTypeGetName");
nvmlReturn_t get_vm(unsigned int instance, char *id, unsigned int size, unsigned int *kind) __asm__(
        "nvmlVgpuInstanceGetVmID");
nvmlReturn_t get_licence(unsigned int instance, struct license_info *info) __asm__(
        "nvmlVgpuInstanceGetLicenseInfo_v2");

nvmlReturn_t get_mode(nvmlDevice_t device, unsigned int *mode)
{
        nvmlReturn_t r = nvml_enter_device("nvmlDeviceGetVirtualizationMode", device);

        if (r != NVML_SUCCESS)
                return r;
        if (!mode)
                return NVML_ERROR_INVALID_ARGUMENT;
        *mode = sim_faults_vgpu((int)device->instance) >= 0 ? HOST_VGPU : 0;
        return NVML_SUCCESS;
}

static bool has_vgpu(unsigned int instance)
{
        int state = sim_faults_vgpu((int)instance);

        return state >= 0 && state != SIM_VGPU_ECC;
}

/* Its host has room for one, which it has or which ECC forbids. */
nvmlReturn_t get_creatable(nvmlDevice_t device, unsigned int *count, unsigned int *types)
{
        nvmlReturn_t r = nvml_enter_device("nvmlDeviceGetCreatableVgpus", device);

        if (r != NVML_SUCCESS)
                return r;
        if (!count)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (sim_faults_vgpu((int)device->instance) < 0)
                return NVML_ERROR_NOT_SUPPORTED;
        if (sim_faults_vgpu((int)device->instance) == SIM_VGPU_ECC)
                return NVML_ERROR_VGPU_ECC_NOT_SUPPORTED;
        *count = 0;
        return NVML_SUCCESS;
}

/* The handle of a vGPU: 1 and the GPU that it is on. */
nvmlReturn_t get_active(nvmlDevice_t device, unsigned int *count, unsigned int *instances)
{
        nvmlReturn_t r = nvml_enter_device("nvmlDeviceGetActiveVgpus", device);
        unsigned int n;

        if (r != NVML_SUCCESS)
                return r;
        if (!count)
                return NVML_ERROR_INVALID_ARGUMENT;
        n = has_vgpu(device->instance);
        if (n > *count) {
                *count = n;
                return NVML_ERROR_INSUFFICIENT_SIZE;
        }
        if (n)
                instances[0] = 1 + device->instance;
        *count = n;
        return NVML_SUCCESS;
}

static bool is_vgpu(unsigned int instance)
{
        return instance && instance - 1 < kernel_state()->devices && has_vgpu(instance - 1);
}

nvmlReturn_t get_type(unsigned int instance, unsigned int *type)
{
        nvmlReturn_t r = nvml_enter("nvmlVgpuInstanceGetType");

        if (r != NVML_SUCCESS)
                return r;
        if (!is_vgpu(instance) || !type)
                return NVML_ERROR_INVALID_ARGUMENT;
        *type = TYPE;
        return NVML_SUCCESS;
}

nvmlReturn_t get_name(unsigned int type, char *name, unsigned int *size)
{
        nvmlReturn_t r = nvml_enter("nvmlVgpuTypeGetName");

        if (r != NVML_SUCCESS)
                return r;
        if (type != TYPE || !size)
                return NVML_ERROR_INVALID_ARGUMENT;
        r = nvml_give_text(TYPE_NAME, name, *size);
        *size = sizeof(TYPE_NAME);
        return r;
}

nvmlReturn_t get_vm(unsigned int instance, char *id, unsigned int size, unsigned int *kind)
{
        nvmlReturn_t r = nvml_enter("nvmlVgpuInstanceGetVmID");

        if (r != NVML_SUCCESS)
                return r;
        if (!is_vgpu(instance) || !kind)
                return NVML_ERROR_INVALID_ARGUMENT;
        *kind = 1; /* a UUID */
        return nvml_give_text("5ec0f4f3-0000-4000-8000-0000000000aa", id, size);
}

nvmlReturn_t get_licence(unsigned int instance, struct license_info *info)
{
        nvmlReturn_t r = nvml_enter("nvmlVgpuInstanceGetLicenseInfo_v2");

        if (r != NVML_SUCCESS)
                return r;
        if (!is_vgpu(instance) || !info)
                return NVML_ERROR_INVALID_ARGUMENT;
        memset(info, 0, sizeof(*info));
        info->state = (unsigned int)sim_faults_vgpu((int)instance - 1);
        info->licensed = info->state == 5;
        return NVML_SUCCESS;
}
