/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MIG of the simulated machine: its mode, GPU instances and compute instances, kept in the kernel
 * driver's state, so shared by all processes until the machine is thrown away.
 *
 * Profiles and where they may start are those of Cleave's table (src/policy/mig_table.c, which says
 * of each GPU whether the driver was asked or a card of the same geometry). Inferred from public
 * documentation, not seen on a card: where the driver puts an instance when no place is named, the
 * numbers of instances, compute instances and their places, engines, and the errors of each call.
 * A compute instance is a device of the simulated kernel (kernel.h), and programs run on it.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "faults.h"
#include "identity.h"
#include "nvml.h"
#include "policy/mig.h"

#define SLICES       KERNEL_MIG_SLICES
#define VENDOR       0x10de
#define UNSEEN_PID   1u /* who uses an instance by the fault of that name */
#define MIG_UUID_MAX 48

/* Handles: addresses in these tables. A place may be taken by another instance later, as with the
 * driver's own. */
struct nvmlGpuInstance_st {
        uint32_t device, slot;
};
struct nvmlComputeInstance_st {
        uint32_t device, slot, place;
};

static struct nvmlGpuInstance_st gpu_instances[KERNEL_MAX_DEVICES][SLICES];
static struct nvmlComputeInstance_st compute_instances[KERNEL_MAX_DEVICES][SLICES][SLICES];
static struct nvmlDevice_st mig_devices[KERNEL_MAX_DEVICES][SLICES][SLICES];

/* ---- what there is ---- */

static const struct mig_geometry *geometry_of(uint32_t device)
{
        return mig_geometry_of_pci(
                VENDOR, (uint16_t)(nvml_device(device)->model->pci_device_id >> 16));
}

static struct kernel_mig *mig_of(uint32_t device)
{
        return kernel_state()->mig + device;
}

static const struct mig_profile *by_number(const struct mig_geometry *geometry, unsigned number)
{
        for (unsigned i = 0; i < geometry->n_profiles; i++)
                if (geometry->profiles[i].number == number)
                        return geometry->profiles + i;
        return NULL;
}

static const struct mig_profile *by_id(const struct mig_geometry *geometry, unsigned id)
{
        for (unsigned i = 0; i < geometry->n_profiles; i++)
                if (geometry->profiles[i].id == id)
                        return geometry->profiles + i;
        return NULL;
}

static const struct mig_profile *profile_of(
        uint32_t device, const struct kernel_mig_instance *instance)
{
        return by_number(geometry_of(device), instance->profile);
}

/* Of which the table has no figure: its part of the whole. */
static uint64_t memory_mib(uint32_t device, const struct mig_profile *profile)
{
        const struct sim_model *model = nvml_device(device)->model;

        if (profile->memory_mib)
                return profile->memory_mib;
        return (uint64_t)(model->memory_mib - model->reserved_mib) * profile->size /
               geometry_of(device)->slices;
}

static unsigned processors(uint32_t device, const struct mig_profile *profile)
{
        const struct sim_model *model = nvml_device(device)->model;

        return profile->sms ?: (unsigned)model->sms * profile->compute / 8 / 2 * 2;
}

static uint32_t slices_of(const struct mig_profile *profile, unsigned start)
{
        return ((1u << profile->size) - 1) << start;
}

/* Whether an instance of the profile may begin at start beside those that are there. */
static bool fits(uint32_t device, const struct mig_profile *profile, unsigned start)
{
        const struct kernel_mig *mig = mig_of(device);
        unsigned same = 0;

        if (start >= SLICES || !(profile->starts >> start & 1))
                return false;
        for (unsigned i = 0; i < SLICES; i++) {
                const struct kernel_mig_instance *other = mig->instance + i;
                const struct mig_profile *p;

                if (!other->live)
                        continue;
                p = profile_of(device, other);
                same += p == profile;
                if ((slices_of(p, other->start) & slices_of(profile, start)) ||
                        (p->media && profile->media))
                        return false;
        }
        return same < profile->most;
}

static bool compute_in_use(
        uint32_t device, const struct kernel_mig_instance *instance, uint32_t place)
{
        return sim_faults_user((int)device, instance->start) ||
               (instance->compute[place].live && kernel_is_used(instance->compute[place].device));
}

static bool in_use(uint32_t device, const struct kernel_mig_instance *instance)
{
        bool used = sim_faults_user((int)device, instance->start);

        for (uint32_t j = 0; !used && j < SLICES; j++)
                used = compute_in_use(device, instance, j);
        return used;
}

/* Whether somebody has the GPU open as a whole. */
static bool has_clients(uint32_t device)
{
        const struct kernel_state *state = kernel_state();

        for (uint32_t i = 0; i < state->process_high; i++)
                if (state->process[i].state == KERNEL_PROCESS_LIVE &&
                        (state->process[i].used[device] || state->process[i].channels[device]))
                        return true;
        return false;
}

/* The same for the same instance of the same GPU, as the driver's are. */
static void mig_uuid(uint32_t device, uint32_t id, uint32_t place, uint8_t ret[static 16])
{
        memcpy(ret, kernel_state()->device[device].uuid, 16);
        ret[0] = (uint8_t)(ret[0] ^ 0x4d);
        ret[14] = (uint8_t)(ret[14] + 1 + id);
        ret[15] = (uint8_t)(ret[15] + 1 + place);
}

/* ---- handles ---- */

static nvmlReturn_t enter_mig(
        const char *entry, nvmlDevice_t device, const struct mig_geometry **ret)
{
        nvmlReturn_t r = nvml_enter_device(entry, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!device->model->mig)
                return NVML_ERROR_NOT_SUPPORTED;
        *ret = geometry_of(device->instance);
        return *ret ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

static nvmlGpuInstance_t gpu_handle(uint32_t device, uint32_t slot)
{
        nvmlGpuInstance_t handle = &gpu_instances[device][slot];

        *handle = (struct nvmlGpuInstance_st){.device = device, .slot = slot};
        return handle;
}

static nvmlComputeInstance_t compute_handle(uint32_t device, uint32_t slot, uint32_t place)
{
        nvmlComputeInstance_t handle = &compute_instances[device][slot][place];

        *handle = (struct nvmlComputeInstance_st){.device = device, .slot = slot, .place = place};
        return handle;
}

/* Under the lock. */
static struct kernel_mig_instance *instance_of(nvmlGpuInstance_t handle)
{
        uintptr_t offset = (uintptr_t)handle - (uintptr_t)gpu_instances;
        struct kernel_mig_instance *instance;

        if (offset >= sizeof(gpu_instances) || offset % sizeof(*handle) != 0)
                return NULL;
        instance = mig_of(handle->device)->instance + handle->slot;
        return instance->live ? instance : NULL;
}

static nvmlReturn_t enter_instance(
        const char *entry, nvmlGpuInstance_t handle, struct kernel_mig_instance **ret)
{
        nvmlReturn_t r = nvml_enter(entry);

        if (r != NVML_SUCCESS)
                return r;
        kernel_lock();
        *ret = instance_of(handle);
        if (*ret)
                return NVML_SUCCESS;
        kernel_unlock();
        return NVML_ERROR_INVALID_ARGUMENT;
}

static nvmlReturn_t enter_compute(
        const char *entry, nvmlComputeInstance_t handle, struct kernel_mig_instance **ret)
{
        uintptr_t offset = (uintptr_t)handle - (uintptr_t)compute_instances;
        nvmlReturn_t r;

        r = nvml_enter(entry);
        if (r != NVML_SUCCESS)
                return r;
        if (offset >= sizeof(compute_instances) || offset % sizeof(*handle) != 0)
                return NVML_ERROR_INVALID_ARGUMENT;
        r = enter_instance(entry, gpu_handle(handle->device, handle->slot), ret);
        if (r == NVML_SUCCESS && !(*ret)->compute[handle->place].live) {
                kernel_unlock();
                r = NVML_ERROR_INVALID_ARGUMENT;
        }
        return r;
}

/* ---- the mode ---- */

nvmlReturn_t nvmlDeviceGetMigMode(
        nvmlDevice_t device, unsigned int *currentMode, unsigned int *pendingMode)
{
        const struct mig_geometry *geometry;
        nvmlReturn_t r = enter_mig(__func__, device, &geometry);

        if (r != NVML_SUCCESS)
                return r;
        if (!currentMode || !pendingMode)
                return NVML_ERROR_INVALID_ARGUMENT;
        kernel_lock();
        *currentMode = atomic_load(&mig_of(device->instance)->on);
        *pendingMode = mig_of(device->instance)->pending;
        kernel_unlock();
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetMigMode(
        nvmlDevice_t device, unsigned int mode, nvmlReturn_t *activationStatus)
{
        const struct mig_geometry *geometry;
        nvmlReturn_t r = enter_mig(__func__, device, &geometry);
        struct kernel_mig *mig;

        if (r != NVML_SUCCESS)
                return r;
        if (mode > 1 || !activationStatus)
                return NVML_ERROR_INVALID_ARGUMENT;
        *activationStatus = NVML_SUCCESS;
        kernel_lock();
        mig = mig_of(device->instance);
        for (unsigned i = 0; !mode && i < SLICES; i++)
                if (mig->instance[i].live)
                        r = NVML_ERROR_IN_USE;
        if (r == NVML_SUCCESS) {
                mig->pending = mode;
                if (mode != atomic_load(&mig->on) && has_clients(device->instance))
                        *activationStatus = NVML_ERROR_IN_USE;
                else if (mode != atomic_load(&mig->on) && sim_faults_reset())
                        *activationStatus = NVML_ERROR_RESET_REQUIRED;
                else
                        atomic_store(&mig->on, mode);
        }
        kernel_unlock();
        return r;
}

/* ---- profiles ---- */

/* Copy engines by compute slices; published for A100, H100 and B200. */
static unsigned copy_engines(uint32_t device, const struct mig_profile *profile)
{
        unsigned engines = MAX_OF((unsigned)profile->compute, 1u);

        if (profile->size == geometry_of(device)->slices && profile->size == 8)
                engines = nvml_device(device)->model->major >= 9 ? 8 : 7;
        else if (profile->compute > 1)
                engines = profile->compute;
        return nvml_device(device)->model->major >= 10 ? 2 * engines : engines;
}

static void fill_profile(uint32_t device, const struct mig_profile *p,
        nvmlGpuInstanceProfileInfo_v2_t *info, char name[static 96])
{
        bool whole = p->size == geometry_of(device)->slices;

        *info = (nvmlGpuInstanceProfileInfo_v2_t){
                .version = info->version,
                .id = p->id,
                .sliceCount = p->compute,
                .instanceCount = p->most,
                .multiprocessorCount = processors(device, p),
                .copyEngineCount = copy_engines(device, p),
                .decoderCount = nvml_device(device)->model->major >= 9 ? p->compute
                                : whole                                ? 5
                                                                       : p->compute / 2u + p->media,
                .jpegCount = p->media,
                .ofaCount = p->media,
                .memorySizeMB = memory_mib(device, p),
        };
        snprintf(name, 96, "MIG %s", p->name);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(
        nvmlDevice_t device, unsigned int profile, nvmlGpuInstanceProfileInfo_t *info)
{
        const struct mig_geometry *geometry;
        nvmlReturn_t r = enter_mig(__func__, device, &geometry);
        nvmlGpuInstanceProfileInfo_v2_t wide = {0};
        const struct mig_profile *p;
        char name[96];

        if (r != NVML_SUCCESS)
                return r;
        if (!info || profile >= NVML_GPU_INSTANCE_PROFILE_COUNT)
                return NVML_ERROR_INVALID_ARGUMENT;
        p = by_number(geometry, profile);
        if (!p)
                return NVML_ERROR_NOT_SUPPORTED;
        fill_profile(device->instance, p, &wide, name);
        *info = (nvmlGpuInstanceProfileInfo_t){
                .id = wide.id,
                .sliceCount = wide.sliceCount,
                .instanceCount = wide.instanceCount,
                .multiprocessorCount = wide.multiprocessorCount,
                .copyEngineCount = wide.copyEngineCount,
                .decoderCount = wide.decoderCount,
                .jpegCount = wide.jpegCount,
                .ofaCount = wide.ofaCount,
                .memorySizeMB = wide.memorySizeMB,
        };
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(
        nvmlDevice_t device, unsigned int profile, nvmlGpuInstanceProfileInfo_v2_t *info)
{
        const struct mig_geometry *geometry;
        nvmlReturn_t r = enter_mig(__func__, device, &geometry);
        const struct mig_profile *p;

        if (r != NVML_SUCCESS)
                return r;
        if (!info || profile >= NVML_GPU_INSTANCE_PROFILE_COUNT)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (info->version != (sizeof(*info) | 2u << 24))
                return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        p = by_number(geometry, profile);
        if (!p)
                return NVML_ERROR_NOT_SUPPORTED;
        fill_profile(device->instance, p, info, info->name);
        return NVML_SUCCESS;
}

static nvmlReturn_t get_placements(const char *entry, nvmlDevice_t device, unsigned int profileId,
        nvmlGpuInstancePlacement_t *placements, unsigned int *count)
{
        const struct mig_geometry *geometry;
        nvmlReturn_t r = enter_mig(entry, device, &geometry);
        const struct mig_profile *p;
        unsigned n = 0;

        if (r != NVML_SUCCESS)
                return r;
        p = by_id(geometry, profileId);
        if (!p || !count)
                return NVML_ERROR_INVALID_ARGUMENT;
        for (unsigned s = 0; s < SLICES; s++)
                if (p->starts >> s & 1) {
                        if (placements)
                                placements[n] = (nvmlGpuInstancePlacement_t){s, p->size};
                        n++;
                }
        *count = n;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements(nvmlDevice_t device, unsigned int profileId,
        nvmlGpuInstancePlacement_t *placements, unsigned int *count)
{
        return get_placements(__func__, device, profileId, placements, count);
}

nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t device,
        unsigned int profileId, nvmlGpuInstancePlacement_t *placements, unsigned int *count)
{
        return get_placements(__func__, device, profileId, placements, count);
}

/* How many more there can be: laid from the left, which is exact for instances of one profile. */
nvmlReturn_t nvmlDeviceGetGpuInstanceRemainingCapacity(
        nvmlDevice_t device, unsigned int profileId, unsigned int *count)
{
        const struct mig_geometry *geometry;
        nvmlReturn_t r = enter_mig(__func__, device, &geometry);
        unsigned room = 0, next = 0, there = 0;
        const struct mig_profile *p;

        if (r != NVML_SUCCESS)
                return r;
        p = by_id(geometry, profileId);
        if (!p || !count)
                return NVML_ERROR_INVALID_ARGUMENT;
        kernel_lock();
        for (unsigned s = 0; s < SLICES; s++) {
                const struct kernel_mig_instance *instance = mig_of(device->instance)->instance + s;

                there += instance->live && instance->profile == p->number;
                if (s < next || !fits(device->instance, p, s))
                        continue;
                room++;
                next = s + p->size;
        }
        if (!atomic_load(&mig_of(device->instance)->on))
                r = NVML_ERROR_NOT_SUPPORTED;
        kernel_unlock();
        if (r == NVML_SUCCESS)
                *count = MIN_OF(room, p->most - there);
        return r;
}

/* ---- GPU instances ---- */

/* As the numbers of a tree whose root is the whole card: 0; 1, 2; 3 to 6; 7 to 14. */
static uint32_t first_id(uint32_t device, const struct mig_profile *profile)
{
        uint32_t level = 0;

        while (profile->size << level < geometry_of(device)->slices)
                level++;
        return (1u << level) - 1;
}

static uint32_t free_id(uint32_t device, const struct mig_profile *profile)
{
        const struct kernel_mig *mig = mig_of(device);
        uint32_t id = first_id(device, profile);
        bool taken;

        do {
                taken = false;
                for (unsigned i = 0; i < SLICES; i++)
                        taken = taken || (mig->instance[i].live && mig->instance[i].id == id);
                id += taken;
        } while (taken);
        return id;
}

/* Where the driver puts one: the start that leaves most places open, the lowest of these. */
static int best_start(uint32_t device, const struct mig_profile *profile)
{
        const struct mig_geometry *geometry = geometry_of(device);
        struct kernel_mig *mig = mig_of(device);
        struct kernel_mig_instance *free = NULL;
        int best = -1, most = -1;

        for (unsigned i = 0; !free && i < SLICES; i++)
                if (!mig->instance[i].live)
                        free = mig->instance + i;
        for (unsigned s = 0; free && s < SLICES; s++) {
                const struct kernel_mig_instance before = *free;
                int open = 0;

                if (!fits(device, profile, s))
                        continue;
                *free = (struct kernel_mig_instance){
                        .live = 1, .profile = profile->number, .start = s};
                for (unsigned p = 0; p < geometry->n_profiles; p++)
                        for (unsigned t = 0; t < SLICES; t++)
                                open += fits(device, geometry->profiles + p, t);
                *free = before;
                if (open > most) {
                        most = open;
                        best = (int)s;
                }
        }
        return best;
}

static nvmlReturn_t create(const char *entry, nvmlDevice_t device, unsigned int profileId,
        const nvmlGpuInstancePlacement_t *placement, nvmlGpuInstance_t *ret)
{
        const struct mig_geometry *geometry;
        nvmlReturn_t r = enter_mig(entry, device, &geometry);
        const struct mig_profile *p;
        struct kernel_mig *mig;
        int start;

        if (r != NVML_SUCCESS)
                return r;
        p = by_id(geometry, profileId);
        if (!p || !ret ||
                (placement && (placement->start >= SLICES || placement->size != p->size ||
                                      !(p->starts >> placement->start & 1))))
                return NVML_ERROR_INVALID_ARGUMENT;
        kernel_lock();
        mig = mig_of(device->instance);
        if (!atomic_load(&mig->on))
                r = NVML_ERROR_NOT_SUPPORTED;
        else {
                start = placement ? (int)placement->start : best_start(device->instance, p);
                if (start < 0 || !fits(device->instance, p, (unsigned)start))
                        r = NVML_ERROR_INSUFFICIENT_RESOURCES;
        }
        for (uint32_t i = 0; r == NVML_SUCCESS && i < SLICES; i++) {
                struct kernel_mig_instance *instance = mig->instance + i;

                if (instance->live)
                        continue;
                *instance = (struct kernel_mig_instance){
                        .profile = p->number,
                        .start = (uint32_t)start,
                        .id = free_id(device->instance, p),
                };
                atomic_signal_fence(memory_order_seq_cst);
                instance->live = 1;
                *ret = gpu_handle(device->instance, i);
                break;
        }
        kernel_unlock();
        return r;
}

nvmlReturn_t nvmlDeviceCreateGpuInstance(
        nvmlDevice_t device, unsigned int profileId, nvmlGpuInstance_t *gpuInstance)
{
        return create(__func__, device, profileId, NULL, gpuInstance);
}

nvmlReturn_t nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t device, unsigned int profileId,
        const nvmlGpuInstancePlacement_t *placement, nvmlGpuInstance_t *gpuInstance)
{
        if (!placement)
                return NVML_ERROR_INVALID_ARGUMENT;
        return create(__func__, device, profileId, placement, gpuInstance);
}

nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t gpuInstance)
{
        struct kernel_mig_instance *instance;
        nvmlReturn_t r = enter_instance(__func__, gpuInstance, &instance);

        if (r != NVML_SUCCESS)
                return r;
        if (in_use(gpuInstance->device, instance))
                r = NVML_ERROR_IN_USE;
        for (unsigned i = 0; i < SLICES; i++)
                if (instance->compute[i].live)
                        r = NVML_ERROR_IN_USE;
        if (r == NVML_SUCCESS)
                instance->live = 0;
        kernel_unlock();
        return r;
}

nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t device, unsigned int profileId,
        nvmlGpuInstance_t *gpuInstances, unsigned int *count)
{
        const struct mig_geometry *geometry;
        nvmlReturn_t r = enter_mig(__func__, device, &geometry);
        const struct mig_profile *p;
        unsigned n = 0;

        if (r != NVML_SUCCESS)
                return r;
        p = by_id(geometry, profileId);
        if (!p || !gpuInstances || !count)
                return NVML_ERROR_INVALID_ARGUMENT;
        kernel_lock();
        if (!atomic_load(&mig_of(device->instance)->on))
                r = NVML_ERROR_NOT_SUPPORTED;
        for (uint32_t i = 0; r == NVML_SUCCESS && i < SLICES; i++) {
                const struct kernel_mig_instance *instance = mig_of(device->instance)->instance + i;

                if (instance->live && instance->profile == p->number)
                        gpuInstances[n++] = gpu_handle(device->instance, i);
        }
        kernel_unlock();
        if (r == NVML_SUCCESS)
                *count = n;
        return r;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceById(
        nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *gpuInstance)
{
        const struct mig_geometry *geometry;
        nvmlReturn_t r = enter_mig(__func__, device, &geometry);

        if (r != NVML_SUCCESS)
                return r;
        if (!gpuInstance)
                return NVML_ERROR_INVALID_ARGUMENT;
        r = NVML_ERROR_NOT_FOUND;
        kernel_lock();
        for (uint32_t i = 0; i < SLICES; i++) {
                const struct kernel_mig_instance *instance = mig_of(device->instance)->instance + i;

                if (instance->live && instance->id == id) {
                        *gpuInstance = gpu_handle(device->instance, i);
                        r = NVML_SUCCESS;
                }
        }
        kernel_unlock();
        return r;
}

nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t gpuInstance, nvmlGpuInstanceInfo_t *info)
{
        struct kernel_mig_instance *instance;
        nvmlReturn_t r = enter_instance(__func__, gpuInstance, &instance);

        if (r != NVML_SUCCESS)
                return r;
        if (info) {
                const struct mig_profile *p = profile_of(gpuInstance->device, instance);

                *info = (nvmlGpuInstanceInfo_t){
                        .device = nvml_device(gpuInstance->device),
                        .id = instance->id,
                        .profileId = p->id,
                        .placement = {instance->start, p->size},
                };
        }
        kernel_unlock();
        return info ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

/* ---- compute instances ---- */

/* NVML's numbers of compute profiles; the driver's id of each is its number, up to 7 slices. */
static const struct {
        unsigned number, slices;
} compute_profiles[] = {
        {NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE, 1},
        {NVML_COMPUTE_INSTANCE_PROFILE_2_SLICE, 2},
        {NVML_COMPUTE_INSTANCE_PROFILE_3_SLICE, 3},
        {NVML_COMPUTE_INSTANCE_PROFILE_4_SLICE, 4},
        {NVML_COMPUTE_INSTANCE_PROFILE_7_SLICE, 7},
};

/* Slices of that profile within a GPU instance; 0: it has none such. */
static unsigned compute_slices(const struct mig_profile *p, unsigned number)
{
        for (size_t i = 0; i < sizeof(compute_profiles) / sizeof(*compute_profiles); i++)
                if (compute_profiles[i].number == number &&
                        compute_profiles[i].slices <= p->compute &&
                        (compute_profiles[i].slices != 3 || p->compute != 4))
                        return compute_profiles[i].slices;
        return 0;
}

static bool compute_fits(const struct kernel_mig_instance *instance, const struct mig_profile *p,
        unsigned start, unsigned slices)
{
        if (start % (slices == 3 ? 4 : slices) != 0 || start + slices > p->compute)
                return false;
        for (unsigned i = 0; i < SLICES; i++)
                if (instance->compute[i].live &&
                        start < instance->compute[i].start + instance->compute[i].slices &&
                        instance->compute[i].start < start + slices)
                        return false;
        return true;
}

static nvmlReturn_t get_compute_profile(const char *entry, nvmlGpuInstance_t gpuInstance,
        unsigned int profile, unsigned int engProfile, nvmlComputeInstanceProfileInfo_v2_t *info)
{
        struct kernel_mig_instance *instance;
        nvmlReturn_t r = enter_instance(entry, gpuInstance, &instance);
        const struct mig_profile *p;
        unsigned slices;

        if (r != NVML_SUCCESS)
                return r;
        p = profile_of(gpuInstance->device, instance);
        slices = compute_slices(p, profile);
        kernel_unlock();
        if (profile >= NVML_COMPUTE_INSTANCE_PROFILE_COUNT ||
                engProfile >= NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_COUNT)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (!slices)
                return NVML_ERROR_NOT_SUPPORTED;
        *info = (nvmlComputeInstanceProfileInfo_v2_t){
                .version = info->version,
                .id = profile,
                .sliceCount = slices,
                .instanceCount = p->compute / slices,
                .multiprocessorCount = slices == p->compute ? processors(gpuInstance->device, p)
                                                            : processors(gpuInstance->device, p) /
                                                                      p->compute * slices,
                .sharedCopyEngineCount = copy_engines(gpuInstance->device, p),
        };
        if (slices == p->compute)
                snprintf(info->name, sizeof(info->name), "MIG %s", p->name);
        else
                snprintf(info->name, sizeof(info->name), "MIG %uc.%s", slices, p->name);
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t gpuInstance,
        unsigned int profile, unsigned int engProfile, nvmlComputeInstanceProfileInfo_t *info)
{
        nvmlComputeInstanceProfileInfo_v2_t wide = {0};
        nvmlReturn_t r = get_compute_profile(__func__, gpuInstance, profile, engProfile, &wide);

        if (r != NVML_SUCCESS)
                return r;
        if (!info)
                return NVML_ERROR_INVALID_ARGUMENT;
        *info = (nvmlComputeInstanceProfileInfo_t){
                .id = wide.id,
                .sliceCount = wide.sliceCount,
                .instanceCount = wide.instanceCount,
                .multiprocessorCount = wide.multiprocessorCount,
                .sharedCopyEngineCount = wide.sharedCopyEngineCount,
        };
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t gpuInstance,
        unsigned int profile, unsigned int engProfile, nvmlComputeInstanceProfileInfo_v2_t *info)
{
        if (!info)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (info->version != (sizeof(*info) | 2u << 24))
                return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        return get_compute_profile(__func__, gpuInstance, profile, engProfile, info);
}

/* Places of a compute profile, those that are free only where asked for. */
static nvmlReturn_t get_compute_places(const char *entry, nvmlGpuInstance_t gpuInstance,
        unsigned int profileId, bool free, nvmlComputeInstancePlacement_t *ret, unsigned *ret_n)
{
        struct kernel_mig_instance *instance;
        nvmlReturn_t r = enter_instance(entry, gpuInstance, &instance);
        const struct kernel_mig_instance empty = {0};
        const struct mig_profile *p;
        unsigned slices, n = 0;

        if (r != NVML_SUCCESS)
                return r;
        p = profile_of(gpuInstance->device, instance);
        slices = compute_slices(p, profileId);
        for (unsigned s = 0; slices && s < p->compute; s++)
                if (compute_fits(free ? instance : &empty, p, s, slices)) {
                        if (ret)
                                ret[n] = (nvmlComputeInstancePlacement_t){s, slices};
                        n++;
                }
        kernel_unlock();
        if (!slices || !ret_n)
                return NVML_ERROR_INVALID_ARGUMENT;
        *ret_n = n;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstancePossiblePlacements(nvmlGpuInstance_t gpuInstance,
        unsigned int profileId, nvmlComputeInstancePlacement_t *placements, unsigned int *count)
{
        return get_compute_places(__func__, gpuInstance, profileId, false, placements, count);
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceRemainingCapacity(
        nvmlGpuInstance_t gpuInstance, unsigned int profileId, unsigned int *count)
{
        return get_compute_places(__func__, gpuInstance, profileId, true, NULL, count);
}

/* "3g.40gb", or "1c.3g.40gb" of one that has a part of it only. */
static void part_name(
        const struct mig_profile *p, unsigned slices, char ret[static MIG_NAME_MAX + 8])
{
        if (slices == p->compute)
                snprintf(ret, MIG_NAME_MAX + 8, "%s", p->name);
        else
                snprintf(ret, MIG_NAME_MAX + 8, "%uc.%s", slices, p->name);
}

/* The device that programs have of a compute instance. */
static uint32_t make_device(
        uint32_t gpu, const struct kernel_mig_instance *instance, uint32_t place)
{
        const struct mig_profile *p = profile_of(gpu, instance);
        unsigned slices = instance->compute[place].slices;
        struct kernel_device wanted = {
                .gpu = gpu,
                .gpu_instance = instance->id,
                .compute_instance = place,
                .total = memory_mib(gpu, p) << 20,
                .sms = processors(gpu, p) * slices / p->compute,
        };
        char name[MIG_NAME_MAX + 8];

        part_name(p, slices, name);
        snprintf(wanted.profile, sizeof(wanted.profile), "%s", name);
        mig_uuid(gpu, instance->id, place, wanted.uuid);
        return kernel_add_mig(&wanted);
}

static nvmlReturn_t create_compute(const char *entry, nvmlGpuInstance_t gpuInstance,
        unsigned int profileId, const nvmlComputeInstancePlacement_t *placement,
        nvmlComputeInstance_t *ret)
{
        struct kernel_mig_instance *instance;
        nvmlReturn_t r = enter_instance(entry, gpuInstance, &instance);
        const struct mig_profile *p;
        unsigned slices, start;

        if (r != NVML_SUCCESS)
                return r;
        p = profile_of(gpuInstance->device, instance);
        slices = compute_slices(p, profileId);
        start = placement ? placement->start : 0;
        while (slices && !placement && start < p->compute &&
                !compute_fits(instance, p, start, slices))
                start++;
        if (!slices || !ret || (placement && placement->size != slices))
                r = NVML_ERROR_INVALID_ARGUMENT;
        else if (!compute_fits(instance, p, start, slices))
                r = NVML_ERROR_INSUFFICIENT_RESOURCES;
        for (uint32_t i = 0; r == NVML_SUCCESS && i < SLICES; i++) {
                if (instance->compute[i].live)
                        continue;
                instance->compute[i].start = start;
                instance->compute[i].slices = slices;
                instance->compute[i].device = make_device(gpuInstance->device, instance, i);
                atomic_signal_fence(memory_order_seq_cst);
                instance->compute[i].live = 1;
                *ret = compute_handle(gpuInstance->device, gpuInstance->slot, i);
                break;
        }
        kernel_unlock();
        return r;
}

nvmlReturn_t nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t gpuInstance,
        unsigned int profileId, nvmlComputeInstance_t *computeInstance)
{
        return create_compute(__func__, gpuInstance, profileId, NULL, computeInstance);
}

nvmlReturn_t nvmlGpuInstanceCreateComputeInstanceWithPlacement(nvmlGpuInstance_t gpuInstance,
        unsigned int profileId, const nvmlComputeInstancePlacement_t *placement,
        nvmlComputeInstance_t *computeInstance)
{
        if (!placement)
                return NVML_ERROR_INVALID_ARGUMENT;
        return create_compute(__func__, gpuInstance, profileId, placement, computeInstance);
}

nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t computeInstance)
{
        struct kernel_mig_instance *instance;
        nvmlReturn_t r = enter_compute(__func__, computeInstance, &instance);

        if (r != NVML_SUCCESS)
                return r;
        if (compute_in_use(computeInstance->device, instance, computeInstance->place))
                r = NVML_ERROR_IN_USE;
        else
                instance->compute[computeInstance->place].live = 0;
        kernel_unlock();
        return r;
}

static unsigned profile_number(unsigned slices)
{
        for (size_t i = 0; i < sizeof(compute_profiles) / sizeof(*compute_profiles); i++)
                if (compute_profiles[i].slices == slices)
                        return compute_profiles[i].number;
        return 0;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t gpuInstance,
        unsigned int profileId, nvmlComputeInstance_t *computeInstances, unsigned int *count)
{
        struct kernel_mig_instance *instance;
        nvmlReturn_t r = enter_instance(__func__, gpuInstance, &instance);
        unsigned n = 0;

        if (r != NVML_SUCCESS)
                return r;
        for (uint32_t i = 0; computeInstances && i < SLICES; i++)
                if (instance->compute[i].live &&
                        profile_number(instance->compute[i].slices) == profileId)
                        computeInstances[n++] =
                                compute_handle(gpuInstance->device, gpuInstance->slot, i);
        kernel_unlock();
        if (!computeInstances || !count)
                return NVML_ERROR_INVALID_ARGUMENT;
        *count = n;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(
        nvmlGpuInstance_t gpuInstance, unsigned int id, nvmlComputeInstance_t *computeInstance)
{
        struct kernel_mig_instance *instance;
        nvmlReturn_t r = enter_instance(__func__, gpuInstance, &instance);

        if (r != NVML_SUCCESS)
                return r;
        if (!computeInstance)
                r = NVML_ERROR_INVALID_ARGUMENT;
        else if (id >= SLICES || !instance->compute[id].live)
                r = NVML_ERROR_NOT_FOUND;
        else
                *computeInstance = compute_handle(gpuInstance->device, gpuInstance->slot, id);
        kernel_unlock();
        return r;
}

static nvmlReturn_t get_compute_info(
        const char *entry, nvmlComputeInstance_t computeInstance, nvmlComputeInstanceInfo_t *info)
{
        struct kernel_mig_instance *instance;
        nvmlReturn_t r = enter_compute(entry, computeInstance, &instance);

        if (r != NVML_SUCCESS)
                return r;
        if (info)
                *info = (nvmlComputeInstanceInfo_t){
                        .device = nvml_device(computeInstance->device),
                        .gpuInstance = gpu_handle(computeInstance->device, computeInstance->slot),
                        .id = computeInstance->place,
                        .profileId =
                                profile_number(instance->compute[computeInstance->place].slices),
                        .placement = {instance->compute[computeInstance->place].start,
                                instance->compute[computeInstance->place].slices},
                };
        kernel_unlock();
        return info ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlComputeInstanceGetInfo(
        nvmlComputeInstance_t computeInstance, nvmlComputeInstanceInfo_t *info)
{
        return get_compute_info(__func__, computeInstance, info);
}

nvmlReturn_t nvmlComputeInstanceGetInfo_v2(
        nvmlComputeInstance_t computeInstance, nvmlComputeInstanceInfo_t *info)
{
        return get_compute_info(__func__, computeInstance, info);
}

/* ---- MIG devices: a compute instance each ---- */

bool nvml_is_mig(nvmlDevice_t device)
{
        uintptr_t offset = (uintptr_t)device - (uintptr_t)mig_devices;

        return offset < sizeof(mig_devices) && offset % sizeof(*device) == 0;
}

static void place_of(nvmlDevice_t device, uint32_t *ret_slot, uint32_t *ret_place)
{
        size_t index = (size_t)(device - &mig_devices[0][0][0]);

        *ret_slot = (uint32_t)(index / SLICES % SLICES);
        *ret_place = (uint32_t)(index % SLICES);
}

/* With the lock held if it succeeds. */
static nvmlReturn_t enter_mig_device(const char *entry, nvmlDevice_t device,
        const struct kernel_mig_instance **ret, uint32_t *ret_place)
{
        nvmlReturn_t r = nvml_enter(entry);
        uint32_t slot;

        if (r != NVML_SUCCESS)
                return r;
        if (!nvml_is_mig(device))
                return NVML_ERROR_INVALID_ARGUMENT;
        place_of(device, &slot, ret_place);
        kernel_lock();
        *ret = mig_of(device->instance)->instance + slot;
        if ((*ret)->live && (*ret)->compute[*ret_place].live)
                return NVML_SUCCESS;
        kernel_unlock();
        return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!count)
                return NVML_ERROR_INVALID_ARGUMENT;
        *count = device->model->mig ? geometry_of(device->instance)->profiles[0].most : 0;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *isMigDevice)
{
        bool mig = nvml_is_mig(device);
        nvmlReturn_t r = mig ? nvml_enter(__func__) : nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!isMigDevice)
                return NVML_ERROR_INVALID_ARGUMENT;
        *isMigDevice = mig;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(
        nvmlDevice_t device, unsigned int index, nvmlDevice_t *migDevice)
{
        const struct mig_geometry *geometry;
        nvmlReturn_t r = enter_mig(__func__, device, &geometry);
        unsigned n = 0;

        if (r != NVML_SUCCESS)
                return r;
        if (!migDevice || index >= geometry->profiles[0].most)
                return NVML_ERROR_INVALID_ARGUMENT;
        r = NVML_ERROR_NOT_FOUND;
        kernel_lock();
        for (uint32_t i = 0; i < SLICES; i++)
                for (uint32_t j = 0; j < SLICES; j++) {
                        const struct kernel_mig_instance *instance =
                                mig_of(device->instance)->instance + i;

                        if (!instance->live || !instance->compute[j].live || n++ != index)
                                continue;
                        mig_devices[device->instance][i][j] = *device;
                        *migDevice = &mig_devices[device->instance][i][j];
                        r = NVML_SUCCESS;
                }
        kernel_unlock();
        return r;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
        nvmlDevice_t migDevice, nvmlDevice_t *device)
{
        const struct kernel_mig_instance *instance;
        uint32_t place;
        nvmlReturn_t r = enter_mig_device(__func__, migDevice, &instance, &place);

        if (r != NVML_SUCCESS)
                return r;
        kernel_unlock();
        if (!device)
                return NVML_ERROR_INVALID_ARGUMENT;
        *device = nvml_device(migDevice->instance);
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id)
{
        const struct kernel_mig_instance *instance;
        uint32_t place;
        nvmlReturn_t r = enter_mig_device(__func__, device, &instance, &place);

        if (r != NVML_SUCCESS)
                return r;
        if (id)
                *id = instance->id;
        kernel_unlock();
        return id ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id)
{
        const struct kernel_mig_instance *instance;
        uint32_t place;
        nvmlReturn_t r = enter_mig_device(__func__, device, &instance, &place);

        if (r != NVML_SUCCESS)
                return r;
        kernel_unlock();
        if (!id)
                return NVML_ERROR_INVALID_ARGUMENT;
        *id = place;
        return NVML_SUCCESS;
}

static void uuid_text(uint32_t device, uint32_t id, uint32_t place, char ret[static MIG_UUID_MAX])
{
        char text[SIM_UUID_TEXT];
        uint8_t u[16];

        mig_uuid(device, id, place, u);
        sim_uuid_text(u, text);
        snprintf(ret, MIG_UUID_MAX, "MIG-%s", text + strlen("GPU-"));
}

nvmlReturn_t nvml_mig_uuid(nvmlDevice_t device, char *uuid, unsigned int length)
{
        const struct kernel_mig_instance *instance;
        char text[MIG_UUID_MAX];
        uint32_t place;
        nvmlReturn_t r = enter_mig_device("nvmlDeviceGetUUID", device, &instance, &place);

        if (r != NVML_SUCCESS)
                return r;
        uuid_text(device->instance, instance->id, place, text);
        kernel_unlock();
        return nvml_give_text(text, uuid, length);
}

nvmlReturn_t nvml_mig_name(nvmlDevice_t device, char *name, unsigned int length)
{
        const struct kernel_mig_instance *instance;
        const struct mig_profile *p;
        char text[128], part[MIG_NAME_MAX + 8];
        uint32_t place;
        nvmlReturn_t r = enter_mig_device("nvmlDeviceGetName", device, &instance, &place);

        if (r != NVML_SUCCESS)
                return r;
        p = profile_of(device->instance, instance);
        part_name(p, instance->compute[place].slices, part);
        snprintf(text, sizeof(text), "%s MIG %s", device->model->name, part);
        kernel_unlock();
        return nvml_give_text(text, name, length);
}

nvmlReturn_t nvml_mig_memory(nvmlDevice_t device, uint64_t *ret_total, uint64_t *ret_used)
{
        const struct kernel_mig_instance *instance;
        uint32_t place;
        nvmlReturn_t r = enter_mig_device("nvmlDeviceGetMemoryInfo", device, &instance, &place);

        if (r != NVML_SUCCESS)
                return r;
        *ret_total = memory_mib(device->instance, profile_of(device->instance, instance)) << 20;
        *ret_used = instance->compute[place].device == KERNEL_NONE
                            ? 0
                            : kernel_device_used(
                                      kernel_state()->device + instance->compute[place].device);
        kernel_unlock();
        return NVML_SUCCESS;
}

nvmlReturn_t nvml_mig_place(const char *entry, nvmlDevice_t device, uint32_t *ret)
{
        const struct kernel_mig_instance *instance;
        uint32_t place;
        nvmlReturn_t r = enter_mig_device(entry, device, &instance, &place);

        if (r != NVML_SUCCESS)
                return r;
        *ret = instance->compute[place].device;
        kernel_unlock();
        return NVML_SUCCESS;
}

nvmlReturn_t nvml_mig_by_uuid(const char *uuid, nvmlDevice_t *ret)
{
        nvmlReturn_t r = NVML_ERROR_NOT_FOUND;

        kernel_lock();
        for (uint32_t d = 0; d < kernel_state()->devices; d++)
                for (uint32_t i = 0; i < SLICES; i++)
                        for (uint32_t j = 0; j < SLICES; j++) {
                                const struct kernel_mig_instance *instance =
                                        mig_of(d)->instance + i;
                                char text[MIG_UUID_MAX];

                                if (!instance->live || !instance->compute[j].live)
                                        continue;
                                uuid_text(d, instance->id, j, text);
                                if (strcasecmp(text, uuid) != 0)
                                        continue;
                                mig_devices[d][i][j] = *nvml_device(d);
                                *ret = &mig_devices[d][i][j];
                                r = NVML_SUCCESS;
                        }
        kernel_unlock();
        return r;
}

unsigned int nvml_mig_users(uint32_t device, nvmlProcessInfo_v2_t *ret, unsigned int room)
{
        const struct kernel_mig *mig = mig_of(device);
        unsigned int n = 0;

        for (unsigned i = 0; i < SLICES; i++) {
                const struct kernel_mig_instance *instance = mig->instance + i;

                for (uint32_t j = 0; instance->live && j < SLICES; j++) {
                        if (!instance->compute[j].live ||
                                !sim_faults_user((int)device, instance->start))
                                continue;
                        if (n < room)
                                ret[n] = (nvmlProcessInfo_v2_t){
                                        .pid = UNSEEN_PID,
                                        .usedGpuMemory = 1 << 20,
                                        .gpuInstanceId = instance->id,
                                        .computeInstanceId = j,
                                };
                        n++;
                }
        }
        return n;
}
