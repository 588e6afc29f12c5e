/* SPDX-License-Identifier: Apache-2.0 */
/* NVML of the simulated machine: reads the kernel driver's state, and changes nothing in it.
 * Partitions are in nvml_mig.c. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "faults.h"
#include "identity.h"
#include "nvml.h"
#include "rm.h"

#define NVML_VERSION   "13.580.159.04"
#define DRIVER_VERSION "580.159.04"
#define CUDA_VERSION   13000
#define XID_LOST       79 /* "GPU has fallen off the bus" */

struct nvmlEventSet_st {
        bool watched[KERNEL_MAX_DEVICES], told[KERNEL_MAX_DEVICES];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int users; /* nvmlInit calls without their nvmlShutdown */
static struct nvmlDevice_st devices[KERNEL_MAX_DEVICES];

/* ---- every call ---- */

nvmlReturn_t nvml_enter(const char *entry)
{
        if (sim_faults_any_call()) {
                int lost, code = sim_faults_call(entry, &lost);

                if (sim_faults_missing(entry))
                        return NVML_ERROR_FUNCTION_NOT_FOUND;
                if (code)
                        return (nvmlReturn_t)code;
                if (lost >= 0 && kernel_state() && (uint32_t)lost < kernel_state()->devices)
                        atomic_store(&kernel_state()->device[lost].lost, 1);
        }
        return atomic_load(&users) ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

nvmlDevice_t nvml_device(uint32_t instance)
{
        return devices + instance;
}

static bool is_device(nvmlDevice_t device)
{
        return device >= devices && device < devices + kernel_state()->devices &&
               ((uintptr_t)device - (uintptr_t)devices) % sizeof(*device) == 0;
}

static bool is_lost(nvmlDevice_t device)
{
        _Atomic uint32_t *lost = &kernel_state()->device[device->instance].lost;

        if (!atomic_load(lost))
                return false;
        /* it is back when the last of its users has gone, which the lock's next taker sees */
        if (kernel_lock_to_read())
                kernel_unlock();
        return atomic_load(lost);
}

/* For calls that work on a device that is lost. */
static nvmlReturn_t enter_known(const char *entry, nvmlDevice_t device)
{
        nvmlReturn_t r = nvml_enter(entry);

        if (r == NVML_SUCCESS && !is_device(device))
                r = NVML_ERROR_INVALID_ARGUMENT;
        return r;
}

nvmlReturn_t nvml_enter_device(const char *entry, nvmlDevice_t device)
{
        nvmlReturn_t r = enter_known(entry, device);

        return r == NVML_SUCCESS && is_lost(device) ? NVML_ERROR_GPU_IS_LOST : r;
}

nvmlReturn_t nvml_give_text(const char *text, char *ret, unsigned int length)
{
        if (!ret)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (strlen(text) >= length)
                return NVML_ERROR_INSUFFICIENT_SIZE;
        strcpy(ret, text);
        return NVML_SUCCESS;
}

/* Most queries are one number. */
static nvmlReturn_t give(
        const char *entry, nvmlDevice_t device, unsigned int value, unsigned int *ret)
{
        nvmlReturn_t r = nvml_enter_device(entry, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!ret)
                return NVML_ERROR_INVALID_ARGUMENT;
        *ret = value;
        return NVML_SUCCESS;
}

/* ---- the library ---- */

static nvmlReturn_t init(const char *entry)
{
        nvmlReturn_t r = NVML_SUCCESS;
        int error, lost;

        if (sim_faults_load() == 0 && sim_faults_any_call()) {
                r = (nvmlReturn_t)sim_faults_call(entry, &lost);
                if (r != NVML_SUCCESS)
                        return r;
        }
        pthread_mutex_lock(&mutex);
        error = kernel_open();
        if (error == 0) {
                for (uint32_t i = 0; i < kernel_state()->devices; i++) {
                        const char *key = kernel_state()->device[i].model;

                        devices[i].instance = i;
                        devices[i].model = sim_model_find(key, strlen(key));
                        if (!devices[i].model)
                                r = NVML_ERROR_DRIVER_NOT_LOADED;
                }
        } else {
                r = error == -EPERM || error == -EACCES ? NVML_ERROR_NO_PERMISSION
                                                        : NVML_ERROR_DRIVER_NOT_LOADED;
        }
        if (r == NVML_SUCCESS)
                atomic_fetch_add(&users, 1);
        pthread_mutex_unlock(&mutex);
        return r;
}

nvmlReturn_t nvmlInit(void)
{
        return init(__func__);
}

nvmlReturn_t nvmlInit_v2(void)
{
        return init(__func__);
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
        if (flags & ~(unsigned)(NVML_INIT_FLAG_NO_GPUS | NVML_INIT_FLAG_NO_ATTACH))
                return NVML_ERROR_INVALID_ARGUMENT;
        return init(__func__);
}

nvmlReturn_t nvmlShutdown(void)
{
        nvmlReturn_t r = NVML_ERROR_UNINITIALIZED;

        pthread_mutex_lock(&mutex);
        if (atomic_load(&users)) {
                /* the last one closes the device files, as the driver's library does */
                if (atomic_fetch_sub(&users, 1) == 1)
                        kernel_close();
                r = NVML_SUCCESS;
        }
        pthread_mutex_unlock(&mutex);
        return r;
}

const char *nvmlErrorString(nvmlReturn_t result)
{
        static const char *const text[] = {
                [NVML_SUCCESS] = "Success",
                [NVML_ERROR_UNINITIALIZED] = "Uninitialized",
                [NVML_ERROR_INVALID_ARGUMENT] = "Invalid Argument",
                [NVML_ERROR_NOT_SUPPORTED] = "Not Supported",
                [NVML_ERROR_NO_PERMISSION] = "Insufficient Permissions",
                [NVML_ERROR_ALREADY_INITIALIZED] = "Already Initialized",
                [NVML_ERROR_NOT_FOUND] = "Not Found",
                [NVML_ERROR_INSUFFICIENT_SIZE] = "Insufficient Size",
                [NVML_ERROR_INSUFFICIENT_POWER] = "Insufficient External Power",
                [NVML_ERROR_DRIVER_NOT_LOADED] = "Driver Not Loaded",
                [NVML_ERROR_TIMEOUT] = "Timeout",
                [NVML_ERROR_IRQ_ISSUE] = "Interrupt Request Issue",
                [NVML_ERROR_LIBRARY_NOT_FOUND] = "NVML Shared Library Not Found",
                [NVML_ERROR_FUNCTION_NOT_FOUND] = "Function Not Found",
                [NVML_ERROR_CORRUPTED_INFOROM] = "Corrupted infoROM",
                [NVML_ERROR_GPU_IS_LOST] = "GPU is lost",
                [NVML_ERROR_RESET_REQUIRED] = "GPU requires reset",
                [NVML_ERROR_OPERATING_SYSTEM] = "GPU access blocked by the operating system",
                [NVML_ERROR_LIB_RM_VERSION_MISMATCH] = "Driver/library version mismatch",
                [NVML_ERROR_IN_USE] = "In use by another client",
                [NVML_ERROR_MEMORY] = "Insufficient Memory",
                [NVML_ERROR_NO_DATA] = "No data",
                [NVML_ERROR_VGPU_ECC_NOT_SUPPORTED] = "ECC is not supported on vGPU",
                [NVML_ERROR_INSUFFICIENT_RESOURCES] = "Insufficient resources",
                [NVML_ERROR_FREQ_NOT_SUPPORTED] = "Frequency not supported",
                [NVML_ERROR_ARGUMENT_VERSION_MISMATCH] = "Argument version mismatch",
                [NVML_ERROR_DEPRECATED] = "Deprecated",
                [NVML_ERROR_NOT_READY] = "Not ready",
                [NVML_ERROR_GPU_NOT_FOUND] = "GPU not found",
                [NVML_ERROR_INVALID_STATE] = "Invalid state",
                [NVML_ERROR_RESET_TYPE_NOT_SUPPORTED] = "Reset type not supported",
        };

        if ((unsigned)result < sizeof(text) / sizeof(*text) && text[result])
                return text[result];
        return "Unknown Error";
}

/* ---- the system ---- */

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
        nvmlReturn_t r = nvml_enter(__func__);

        return r != NVML_SUCCESS ? r : nvml_give_text(DRIVER_VERSION, version, length);
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
        return nvml_give_text(NVML_VERSION, version, length);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *cudaDriverVersion)
{
        if (!cudaDriverVersion)
                return NVML_ERROR_INVALID_ARGUMENT;
        *cudaDriverVersion = CUDA_VERSION;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *cudaDriverVersion)
{
        return nvmlSystemGetCudaDriverVersion(cudaDriverVersion);
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
        char path[64], text[1024];
        ssize_t n = -1;
        int fd;
        nvmlReturn_t r = nvml_enter(__func__);

        if (r != NVML_SUCCESS)
                return r;
        if (!name || length == 0)
                return NVML_ERROR_INVALID_ARGUMENT;
        snprintf(path, sizeof(path), "/proc/%u/cmdline", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
                n = read(fd, text, sizeof(text) - 1);
                close(fd);
        }
        if (n <= 0)
                return NVML_ERROR_NOT_FOUND;
        text[n] = '\0';
        snprintf(name, length, "%s", text); /* cut to fit, as the real one does */
        return NVML_SUCCESS;
}

/* ---- finding devices ---- */

static nvmlReturn_t get_count(const char *entry, unsigned int *deviceCount)
{
        nvmlReturn_t r = nvml_enter(entry);

        if (r != NVML_SUCCESS)
                return r;
        if (!deviceCount)
                return NVML_ERROR_INVALID_ARGUMENT;
        *deviceCount = kernel_state()->devices;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *deviceCount)
{
        return get_count(__func__, deviceCount);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *deviceCount)
{
        return get_count(__func__, deviceCount);
}

static nvmlReturn_t get_by_index(const char *entry, unsigned int index, nvmlDevice_t *device)
{
        nvmlReturn_t r = nvml_enter(entry);

        if (r != NVML_SUCCESS)
                return r;
        if (!device || index >= kernel_state()->devices)
                return NVML_ERROR_INVALID_ARGUMENT;
        *device = devices + index;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
        return get_by_index(__func__, index, device);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
        return get_by_index(__func__, index, device);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
        char text[SIM_UUID_TEXT];
        nvmlReturn_t r = nvml_enter(__func__);

        if (r != NVML_SUCCESS)
                return r;
        if (!uuid || !device)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (!strncasecmp(uuid, "MIG-", 4))
                return nvml_mig_by_uuid(uuid, device);
        for (uint32_t i = 0; i < kernel_state()->devices; i++) {
                sim_uuid_text(kernel_state()->device[i].uuid, text);
                if (!strcasecmp(text, uuid)) {
                        *device = devices + i;
                        return NVML_SUCCESS;
                }
        }
        return NVML_ERROR_NOT_FOUND;
}

static nvmlReturn_t get_by_pci(const char *entry, const char *pciBusId, nvmlDevice_t *device)
{
        unsigned int domain = 0, bus, slot, function = 0;
        nvmlReturn_t r = nvml_enter(entry);

        if (r != NVML_SUCCESS)
                return r;
        if (!pciBusId || !device)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (sscanf(pciBusId, "%x:%x:%x.%x", &domain, &bus, &slot, &function) < 3) {
                domain = function = 0;
                if (sscanf(pciBusId, "%x:%x.%x", &bus, &slot, &function) < 2)
                        return NVML_ERROR_INVALID_ARGUMENT;
        }
        for (uint32_t i = 0; i < kernel_state()->devices; i++)
                if (domain == 0 && bus == sim_pci_bus((int)i) && slot == 0 && function == 0) {
                        *device = devices + i;
                        return NVML_SUCCESS;
                }
        return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *pciBusId, nvmlDevice_t *device)
{
        return get_by_pci(__func__, pciBusId, device);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *pciBusId, nvmlDevice_t *device)
{
        return get_by_pci(__func__, pciBusId, device);
}

/* ---- who a device is ---- */

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
        nvmlReturn_t r = enter_known(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!index)
                return NVML_ERROR_INVALID_ARGUMENT;
        *index = device->instance;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minorNumber)
{
        return give(__func__, device, is_device(device) ? device->instance : 0, minorNumber);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
        nvmlReturn_t r;

        if (nvml_is_mig(device))
                return nvml_mig_name(device, name, length);
        r = nvml_enter_device(__func__, device);
        return r != NVML_SUCCESS ? r : nvml_give_text(device->model->name, name, length);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
        char text[SIM_UUID_TEXT];
        nvmlReturn_t r;

        if (nvml_is_mig(device))
                return nvml_mig_uuid(device, uuid, length);
        r = enter_known(__func__, device);
        if (r != NVML_SUCCESS)
                return r;
        sim_uuid_text(kernel_state()->device[device->instance].uuid, text);
        return nvml_give_text(text, uuid, length);
}

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length)
{
        char text[16];
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        snprintf(text, sizeof(text), "16500230000%02u", device->instance);
        return nvml_give_text(text, serial, length);
}

nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *version, unsigned int length)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        return r != NVML_SUCCESS ? r : nvml_give_text("96.00.00.00.01", version, length);
}

nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *type)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!type)
                return NVML_ERROR_INVALID_ARGUMENT;
        *type = device->model->architecture == NVML_DEVICE_ARCH_TURING ? NVML_BRAND_TESLA
                                                                       : NVML_BRAND_NVIDIA;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *arch)
{
        return give(__func__, device, is_device(device) ? (unsigned)device->model->architecture : 0,
                arch);
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!major || !minor)
                return NVML_ERROR_INVALID_ARGUMENT;
        *major = device->model->major;
        *minor = device->model->minor;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned int *numCores)
{
        unsigned int per_sm;
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!numCores)
                return NVML_ERROR_INVALID_ARGUMENT;
        per_sm = device->model->major >= 9 ? 128 : 64;
        *numCores = per_sm * (unsigned)device->model->sms;
        return NVML_SUCCESS;
}

static nvmlReturn_t get_pci(const char *entry, nvmlDevice_t device, nvmlPciInfo_t *pci)
{
        char text[SIM_PCI_TEXT];
        nvmlReturn_t r = enter_known(entry, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!pci)
                return NVML_ERROR_INVALID_ARGUMENT;
        *pci = (nvmlPciInfo_t){
                .bus = sim_pci_bus((int)device->instance),
                .pciDeviceId = device->model->pci_device_id,
                .pciSubSystemId = device->model->pci_subsystem_id,
        };
        sim_pci_text((int)device->instance, 4, text);
        snprintf(pci->busIdLegacy, sizeof(pci->busIdLegacy), "%.15s", text);
        sim_pci_text((int)device->instance, 8, text);
        snprintf(pci->busId, sizeof(pci->busId), "%s", text);
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
        return get_pci(__func__, device, pci);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
        return get_pci(__func__, device, pci);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
        return get_pci(__func__, device, pci);
}

nvmlReturn_t nvmlDeviceGetBoardId(nvmlDevice_t device, unsigned int *boardId)
{
        return give(__func__, device,
                is_device(device) ? sim_pci_bus((int)device->instance) << 8 : 0, boardId);
}

nvmlReturn_t nvmlDeviceGetMultiGpuBoard(nvmlDevice_t device, unsigned int *multiGpuBool)
{
        return give(__func__, device, 0, multiGpuBool);
}

/* ---- memory ---- */

/* Of a GPU in MIG mode, what is used of its instances. */
static uint64_t used_of(const struct kernel_device *known)
{
        const struct kernel_state *state = kernel_state();
        bool locked = kernel_lock_to_read();
        uint64_t used = kernel_device_used(known);

        for (uint32_t i = state->devices; i < KERNEL_MAX_DEVICES; i++)
                if (state->device[i].total && state->device + state->device[i].gpu == known)
                        used += state->device[i].used;

        if (locked)
                kernel_unlock();
        return used;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
        const struct kernel_device *known;
        uint64_t total, used;
        nvmlReturn_t r;

        if (memory && nvml_is_mig(device)) {
                r = nvml_mig_memory(device, &total, &used);
                if (r == NVML_SUCCESS)
                        *memory =
                                (nvmlMemory_t){.total = total, .free = total - used, .used = used};
                return r;
        }
        r = nvml_enter_device(__func__, device);
        if (r != NVML_SUCCESS)
                return r;
        if (!memory)
                return NVML_ERROR_INVALID_ARGUMENT;
        known = kernel_state()->device + device->instance;
        memory->used = known->reserved + used_of(known);
        memory->total = known->total;
        memory->free = memory->total - memory->used;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
        const struct kernel_device *known;
        uint64_t total, used;
        nvmlReturn_t r;

        if (memory && memory->version == nvmlMemory_v2 && nvml_is_mig(device)) {
                r = nvml_mig_memory(device, &total, &used);
                if (r == NVML_SUCCESS) {
                        memory->total = total;
                        memory->reserved = 0;
                        memory->used = used;
                        memory->free = total - used;
                }
                return r;
        }
        r = nvml_enter_device(__func__, device);
        if (r != NVML_SUCCESS)
                return r;
        if (!memory)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (memory->version != nvmlMemory_v2)
                return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        known = kernel_state()->device + device->instance;
        memory->used = used_of(known);
        memory->total = known->total;
        memory->reserved = known->reserved;
        memory->free = memory->total - memory->reserved - memory->used;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *bar1Memory)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!bar1Memory)
                return NVML_ERROR_INVALID_ARGUMENT;
        *bar1Memory = (nvmlBAR1Memory_t){
                .bar1Total = 128ull << 30,
                .bar1Free = (128ull << 30) - (1 << 20),
                .bar1Used = 1 << 20,
        };
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryBusWidth(nvmlDevice_t device, unsigned int *busWidth)
{
        return give(__func__, device, is_device(device) ? (unsigned)device->model->bus_width : 0,
                busWidth);
}

/* ---- processes ---- */

/* Those that hold something on the device, at most *count of them: that draw, or that compute.
 * *count becomes their number. The three entry versions differ in the struct that they fill. */
static nvmlReturn_t get_processes_of(const char *entry, nvmlDevice_t device, bool graphics,
        unsigned int *count, void *infos, size_t info_bytes)
{
        const struct kernel_state *state = kernel_state();
        nvmlProcessInfo_v2_t unseen[KERNEL_MIG_SLICES];
        bool mig = nvml_is_mig(device), locked;
        unsigned int room, users = 0, n = 0;
        uint32_t place = KERNEL_NONE;
        nvmlReturn_t r =
                mig ? nvml_mig_place(entry, device, &place) : nvml_enter_device(entry, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!count || (*count && !infos))
                return NVML_ERROR_INVALID_ARGUMENT;
        room = *count;
        locked = kernel_lock_to_read();
        for (uint32_t i = 0; i < state->process_high; i++)
                for (uint32_t d = 0; d < KERNEL_MAX_DEVICES; d++) {
                        const struct kernel_process *process = state->process + i;
                        const struct kernel_device *known = state->device + d;
                        bool cut = d >= state->devices;
                        nvmlProcessInfo_v2_t info = {
                                .usedGpuMemory = process->used[d],
                                .gpuInstanceId = cut ? known->gpu_instance : UINT32_MAX,
                                .computeInstanceId = cut ? known->compute_instance : UINT32_MAX,
                        };

                        /* of a GPU also those in its instances */
                        if (known->total == 0 ||
                                (mig ? d != place : known->gpu != device->instance) ||
                                process->state == KERNEL_PROCESS_FREE ||
                                (process->graphics != 0) != graphics ||
                                (process->used[d] == 0 && process->channels[d] == 0))
                                continue;
                        /* as the driver does: not a word of those in other namespaces */
                        info.pid = kernel_process_pid(i);
                        if (info.pid == 0)
                                continue;
                        if (n < room)
                                memcpy((char *)infos + n * info_bytes, &info, info_bytes);
                        n++;
                }
        if (!graphics && !mig)
                users = nvml_mig_users(device->instance, unseen, KERNEL_MIG_SLICES);
        for (unsigned int i = 0; i < users && i < KERNEL_MIG_SLICES; i++, n++)
                if (n < room)
                        memcpy((char *)infos + n * info_bytes, unseen + i, info_bytes);
        if (locked)
                kernel_unlock();
        *count = n;
        return n > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

static nvmlReturn_t get_processes(
        const char *entry, nvmlDevice_t device, unsigned int *count, void *infos, size_t info_bytes)
{
        return get_processes_of(entry, device, false, count, infos, info_bytes);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(
        nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v1_t *infos)
{
        return get_processes(__func__, device, infoCount, infos, sizeof(*infos));
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(
        nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v2_t *infos)
{
        return get_processes(__func__, device, infoCount, infos, sizeof(*infos));
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(
        nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_t *infos)
{
        return get_processes(__func__, device, infoCount, infos, sizeof(*infos));
}

/* Nobody uses MPS on these devices. */
static nvmlReturn_t get_no_processes(const char *entry, nvmlDevice_t device, unsigned int *count)
{
        if (!nvml_is_mig(device))
                return give(entry, device, 0, count);
        if (!count)
                return NVML_ERROR_INVALID_ARGUMENT;
        *count = 0;
        return nvml_enter(entry);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(
        nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v1_t *infos)
{
        return get_processes_of(__func__, device, true, infoCount, infos, sizeof(*infos));
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(
        nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v2_t *infos)
{
        return get_processes_of(__func__, device, true, infoCount, infos, sizeof(*infos));
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(
        nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_t *infos)
{
        return get_processes_of(__func__, device, true, infoCount, infos, sizeof(*infos));
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(
        nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v1_t *infos)
{
        return get_no_processes(__func__, device, infoCount);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(
        nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v2_t *infos)
{
        return get_no_processes(__func__, device, infoCount);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(
        nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_t *infos)
{
        return get_no_processes(__func__, device, infoCount);
}

nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(
        nvmlDevice_t device, nvmlProcessDetailList_t *list)
{
        nvmlProcessInfo_t infos[KERNEL_MAX_PROCESSES];
        unsigned int count = KERNEL_MAX_PROCESSES, room;
        nvmlReturn_t r;

        if (!list)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (list->version != (sizeof(*list) | 1u << 24) || list->mode > 2)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (list->mode == 2)
                r = get_no_processes(__func__, device, &count);
        else
                r = get_processes_of(
                        __func__, device, list->mode == 1, &count, infos, sizeof(infos[0]));
        if (r != NVML_SUCCESS)
                return r;
        room = list->numProcArrayEntries;
        list->numProcArrayEntries = count;
        if (count > room || (count && !list->procArray))
                return NVML_ERROR_INSUFFICIENT_SIZE;
        for (unsigned int i = 0; i < count; i++)
                list->procArray[i] = (nvmlProcessDetail_v1_t){
                        .pid = infos[i].pid,
                        .usedGpuMemory = infos[i].usedGpuMemory,
                        .gpuInstanceId = infos[i].gpuInstanceId,
                        .computeInstanceId = infos[i].computeInstanceId,
                };
        return NVML_SUCCESS;
}

/* ---- what processes do with the engine ---- */

#define SAMPLES_MAX    72u           /* what the real one asks room for */
#define FIRST_SAMPLE   1000000000ull /* ns: over so long the first one is taken */
#define NS_PER_PERCENT 100u

struct sample {
        unsigned int pid, percent;
};

/* What a process had had of the engine when it was asked for last, in this process. */
static struct {
        uint64_t start_time, work, time;
} seen[KERNEL_MAX_DEVICES][KERNEL_MAX_PROCESSES];

static uint64_t process_work(uint32_t instance, uint32_t process)
{
        struct kernel_state *state = kernel_state();
        uint64_t work = 0;

        for (uint32_t i = 0; i < state->object_high; i++) {
                const struct kernel_object *object = state->object + i;

                if (object->state == KERNEL_OBJECT_LIVE && object->process == process &&
                        object->class_id == RM_CLASS_CHANNEL_GROUP && object->device == instance &&
                        object->group != RUNLIST_NONE)
                        work += runlist_work(state->runlist + instance, object->group);
        }
        return work;
}

/* The part of the time that each process with a context has had of the engine since it was asked
 * for last. Their number, at most SAMPLES_MAX. */
static unsigned int sample_processes(uint32_t instance, struct sample ret[static SAMPLES_MAX])
{
        const struct kernel_state *state = kernel_state();
        uint64_t now = kernel_now();
        unsigned int n = 0;

        pthread_mutex_lock(&mutex);
        kernel_lock();
        for (uint32_t i = 0; i < state->process_high && n < SAMPLES_MAX; i++) {
                const struct kernel_process *process = state->process + i;
                uint64_t before = now - FIRST_SAMPLE, work, had = 0;
                unsigned int pid;

                if (process->state != KERNEL_PROCESS_LIVE || !process->channels[instance])
                        continue;
                pid = kernel_process_pid(i);
                if (!pid)
                        continue;
                work = process_work(instance, i);
                if (seen[instance][i].start_time == process->start_time) {
                        before = seen[instance][i].time;
                        had = seen[instance][i].work;
                }
                seen[instance][i].start_time = process->start_time;
                seen[instance][i].work = work;
                seen[instance][i].time = now;
                work = work > had && now > before ? (work - had) * NS_PER_PERCENT / (now - before)
                                                  : 0;
                ret[n++] = (struct sample){pid, work > 100 ? 100 : (unsigned int)work};
        }
        kernel_unlock();
        pthread_mutex_unlock(&mutex);
        return n;
}

static unsigned long long microseconds(void)
{
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        return (unsigned long long)now.tv_sec * 1000000u + (unsigned long long)now.tv_nsec / 1000u;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
        nvmlProcessUtilizationSample_t *utilization, unsigned int *processSamplesCount,
        unsigned long long lastSeenTimeStamp)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);
        struct sample samples[SAMPLES_MAX];
        unsigned int n;

        if (r != NVML_SUCCESS)
                return r;
        if (!processSamplesCount)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (!utilization) {
                *processSamplesCount = SAMPLES_MAX;
                return NVML_ERROR_INSUFFICIENT_SIZE;
        }
        n = sample_processes(device->instance, samples);
        if (n > *processSamplesCount)
                n = *processSamplesCount;
        for (unsigned int i = 0; i < n; i++)
                utilization[i] = (nvmlProcessUtilizationSample_t){.pid = samples[i].pid,
                        .timeStamp = microseconds(),
                        .smUtil = samples[i].percent};
        *processSamplesCount = n;
        return n ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(
        nvmlDevice_t device, nvmlProcessesUtilizationInfo_t *info)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);
        struct sample samples[SAMPLES_MAX];
        unsigned int n, room;

        if (r != NVML_SUCCESS)
                return r;
        if (!info)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (info->version != (sizeof(*info) | 1u << 24))
                return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        room = info->procUtilArray ? info->processSamplesCount : 0;
        if (room < SAMPLES_MAX) {
                info->processSamplesCount = SAMPLES_MAX;
                return NVML_ERROR_INSUFFICIENT_SIZE;
        }
        n = sample_processes(device->instance, samples);
        for (unsigned int i = 0; i < n; i++)
                info->procUtilArray[i] =
                        (nvmlProcessUtilizationInfo_v1_t){.timeStamp = microseconds(),
                                .pid = samples[i].pid,
                                .smUtil = samples[i].percent};
        info->processSamplesCount = n;
        return n ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!utilization)
                return NVML_ERROR_INVALID_ARGUMENT;
        *utilization = (nvmlUtilization_t){0};
        return NVML_SUCCESS;
}

/* ---- clocks, power, links ---- */

static nvmlReturn_t get_clock(
        const char *entry, nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock)
{
        nvmlReturn_t r = nvml_enter_device(entry, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!clock || (unsigned)type >= NVML_CLOCK_COUNT)
                return NVML_ERROR_INVALID_ARGUMENT;
        *clock = (unsigned)(type == NVML_CLOCK_MEM ? device->model->memory_clock_khz
                                                   : device->model->clock_khz) /
                 1000;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock)
{
        return get_clock(__func__, device, type, clock);
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(
        nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock)
{
        return get_clock(__func__, device, type, clock);
}

nvmlReturn_t nvmlDeviceGetApplicationsClock(
        nvmlDevice_t device, nvmlClockType_t clockType, unsigned int *clockMHz)
{
        return get_clock(__func__, device, clockType, clockMHz);
}

nvmlReturn_t nvmlDeviceGetTemperature(
        nvmlDevice_t device, nvmlTemperatureSensors_t sensorType, unsigned int *temp)
{
        if (sensorType != NVML_TEMPERATURE_GPU)
                return NVML_ERROR_INVALID_ARGUMENT;
        return give(__func__, device, 34, temp);
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power)
{
        return give(__func__, device,
                is_device(device) ? (unsigned)device->model->power_limit_mw / 10 : 0, power);
}

static nvmlReturn_t get_power_limit(const char *entry, nvmlDevice_t device, unsigned int *limit)
{
        return give(entry, device, is_device(device) ? (unsigned)device->model->power_limit_mw : 0,
                limit);
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int *limit)
{
        return get_power_limit(__func__, device, limit);
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *limit)
{
        return get_power_limit(__func__, device, limit);
}

nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(
        nvmlDevice_t device, unsigned int *defaultLimit)
{
        return get_power_limit(__func__, device, defaultLimit);
}

nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, nvmlPstates_t *pState)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!pState)
                return NVML_ERROR_INVALID_ARGUMENT;
        *pState = NVML_PSTATE_0;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!mode)
                return NVML_ERROR_INVALID_ARGUMENT;
        *mode = NVML_FEATURE_ENABLED;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEccMode(
        nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!current || !pending)
                return NVML_ERROR_INVALID_ARGUMENT;
        *current = *pending = NVML_FEATURE_ENABLED;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t *mode)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!mode)
                return NVML_ERROR_INVALID_ARGUMENT;
        *mode = NVML_COMPUTEMODE_DEFAULT;
        return NVML_SUCCESS;
}

static nvmlReturn_t get_generation(const char *entry, nvmlDevice_t device, unsigned int *ret)
{
        return give(entry, device, is_device(device) ? device->model->pcie_generation : 0, ret);
}

nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t device, unsigned int *currLinkGen)
{
        return get_generation(__func__, device, currLinkGen);
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned int *maxLinkGen)
{
        return get_generation(__func__, device, maxLinkGen);
}

nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t device, unsigned int *currLinkWidth)
{
        return give(__func__, device, 16, currLinkWidth);
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned int *maxLinkWidth)
{
        return give(__func__, device, 16, maxLinkWidth);
}

/* ---- events ---- */

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *eventTypes)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!eventTypes)
                return NVML_ERROR_INVALID_ARGUMENT;
        *eventTypes = nvmlEventTypeXidCriticalError;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
        nvmlReturn_t r = nvml_enter(__func__);

        if (r != NVML_SUCCESS)
                return r;
        if (!set)
                return NVML_ERROR_INVALID_ARGUMENT;
        *set = calloc(1, sizeof(**set));
        return *set ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
        nvmlReturn_t r = nvml_enter(__func__);

        if (r != NVML_SUCCESS)
                return r;
        if (!set)
                return NVML_ERROR_INVALID_ARGUMENT;
        free(set);
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(
        nvmlDevice_t device, unsigned long long eventTypes, nvmlEventSet_t set)
{
        nvmlReturn_t r = nvml_enter_device(__func__, device);

        if (r != NVML_SUCCESS)
                return r;
        if (!set)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (eventTypes & ~(unsigned long long)nvmlEventTypeXidCriticalError)
                return NVML_ERROR_NOT_SUPPORTED;
        set->watched[device->instance] |= eventTypes != 0;
        return NVML_SUCCESS;
}

/* The only event is the loss of a device. */
static nvmlReturn_t wait_event(
        const char *entry, nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeoutms)
{
        uint64_t end = kernel_now() + timeoutms * 1000000ull;
        nvmlReturn_t r = nvml_enter(entry);

        if (r != NVML_SUCCESS)
                return r;
        if (!set || !data)
                return NVML_ERROR_INVALID_ARGUMENT;
        for (;;) {
                for (uint32_t i = 0; i < kernel_state()->devices; i++) {
                        bool lost = is_lost(devices + i);

                        if (lost && set->watched[i] && !set->told[i]) {
                                set->told[i] = true;
                                *data = (nvmlEventData_t){
                                        .device = devices + i,
                                        .eventType = nvmlEventTypeXidCriticalError,
                                        .eventData = XID_LOST,
                                        .gpuInstanceId = UINT32_MAX,
                                        .computeInstanceId = UINT32_MAX,
                                };
                                return NVML_SUCCESS;
                        }
                        set->told[i] &= lost;
                }
                if (kernel_now() >= end)
                        return NVML_ERROR_TIMEOUT;
                usleep(5000);
        }
}

nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeoutms)
{
        return wait_event(__func__, set, data, timeoutms);
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeoutms)
{
        return wait_event(__func__, set, data, timeoutms);
}
