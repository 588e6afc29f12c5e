/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard before libnvidia-ml.so.1: what a tenant sees of its devices, in nvidia-smi and in
 * whatever else asks NVML. The devices are those of its grant, their memory is its quota, their
 * processes are its own. Everything else, sensors and clocks among it, is the driver's own answer.
 *
 * In a process that belongs to no tenant all is as without us: monitoring must not break.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "counter.h"
#include "environment.h"
#include "guard.h"
#include "nvml_guard_entries.h"

#define REAL(symbol) CLEAVE_NVML_REAL(symbol)

#define MAX_REAL_DEVICES 256u

static struct guard_library driver = {
        .soname = "libnvidia-ml.so.1",
        .environment = CLEAVE_ENV_LIBNVML,
};

static nvmlReturn_t no_driver(void)
{
        return NVML_ERROR_LIBRARY_NOT_FOUND;
}

static nvmlReturn_t no_function(void)
{
        return NVML_ERROR_FUNCTION_NOT_FOUND;
}

void *cleave_guard_nvml_resolve(unsigned entry)
{
        void *address = guard_library_find(&driver, nvml_entry_name(entry));

        if (!address)
                address = guard_library_load(&driver) < 0 ? (void *)no_driver : (void *)no_function;
        __atomic_store_n(&cleave_nvml_real[entry], address, __ATOMIC_RELAXED);
        return address;
}

/* -- beginning --------------------------------------------------------------------------------- */

static bool in_container(void)
{
        return access(CLEAVE_CONTAINER_DRIVER_DIR, F_OK) == 0;
}

static nvmlReturn_t after_init(nvmlReturn_t result)
{
        if (result == NVML_SUCCESS && (getenv(CLEAVE_ENV_TENANT) || in_container()))
                guard_session_open(true);
        return result;
}

nvmlReturn_t nvmlInit(void)
{
        return after_init(REAL(nvmlInit)());
}

nvmlReturn_t nvmlInit_v2(void)
{
        return after_init(REAL(nvmlInit_v2)());
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
        return after_init(REAL(nvmlInitWithFlags)(flags));
}

/* -- the tenant's devices ---------------------------------------------------------------------- */

static int hex_digit(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        if (c >= 'A' && c <= 'F')
                return c - 'A' + 10;
        return -1;
}

/* "GPU-" or, of a MIG device, "MIG-", and 32 digits with hyphens between; -EINVAL for anything else
 */
static int parse_uuid(const char *text, uint8_t ret[16])
{
        unsigned digits = 0;

        if (strncmp(text, "GPU-", 4) != 0 && strncmp(text, "MIG-", 4) != 0)
                return -EINVAL;
        for (text += 4; *text; text++) {
                int digit = hex_digit(*text);

                if (*text == '-')
                        continue;
                if (digit < 0 || digits == 32)
                        return -EINVAL;
                ret[digits / 2] = (uint8_t)(digits % 2 ? ret[digits / 2] << 4 | digit : digit);
                digits++;
        }
        return digits == 32 ? 0 : -EINVAL;
}

/* The index in the grant of a device; -ENODEV if it is not the tenant's. */
static int granted(nvmlDevice_t device)
{
        uint8_t uuid[16];
        char text[96];

        if (REAL(nvmlDeviceGetUUID)(device, text, sizeof(text)) != NVML_SUCCESS ||
                parse_uuid(text, uuid) < 0)
                return -ENODEV;
        return guard_device_by_uuid(uuid);
}

/* The index-th of a GPU's MIG devices that are the tenant's; false: there are not so many. */
static bool granted_mig(nvmlDevice_t gpu, unsigned index, nvmlDevice_t *ret)
{
        unsigned most = 0;

        if (REAL(nvmlDeviceGetMaxMigDeviceCount)(gpu, &most) != NVML_SUCCESS)
                return false;
        for (unsigned i = 0; i < most; i++)
                /* there are holes */
                if (REAL(nvmlDeviceGetMigDeviceHandleByIndex)(gpu, i, ret) == NVML_SUCCESS &&
                        granted(*ret) >= 0 && index-- == 0)
                        return true;
        return false;
}

/* A GPU of which the tenant has a MIG device is shown, as it is in a container that has one. */
static bool is_shown(nvmlDevice_t device)
{
        nvmlDevice_t mig;

        return granted(device) >= 0 || granted_mig(device, 0, &mig);
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(
        nvmlDevice_t device, unsigned int index, nvmlDevice_t *migDevice)
{
        nvmlReturn_t result = REAL(nvmlDeviceGetMigDeviceHandleByIndex)(device, index, migDevice);

        if (!guard_session() || !migDevice ||
                (result != NVML_SUCCESS && result != NVML_ERROR_NOT_FOUND))
                return result;
        return granted_mig(device, index, migDevice) ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

/* The tenant's devices in the driver's order. */
static nvmlReturn_t list_devices(nvmlDevice_t *list, unsigned *ret_count)
{
        unsigned count, n = 0;
        nvmlReturn_t result = REAL(nvmlDeviceGetCount_v2)(&count);

        if (result != NVML_SUCCESS)
                return result;
        for (unsigned i = 0; i < count && n < MAX_REAL_DEVICES; i++)
                if (REAL(nvmlDeviceGetHandleByIndex_v2)(i, &list[n]) == NVML_SUCCESS &&
                        is_shown(list[n]))
                        n++;
        *ret_count = n;
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *deviceCount)
{
        nvmlDevice_t list[MAX_REAL_DEVICES];

        if (!guard_session() || !deviceCount)
                return REAL(nvmlDeviceGetCount_v2)(deviceCount);
        return list_devices(list, deviceCount);
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *deviceCount)
{
        return guard_session() ? nvmlDeviceGetCount_v2(deviceCount)
                               : REAL(nvmlDeviceGetCount)(deviceCount);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
        nvmlDevice_t list[MAX_REAL_DEVICES];
        nvmlReturn_t result;
        unsigned count;

        if (!guard_session() || !device)
                return REAL(nvmlDeviceGetHandleByIndex_v2)(index, device);
        result = list_devices(list, &count);
        if (result != NVML_SUCCESS)
                return result;
        if (index >= count)
                return NVML_ERROR_INVALID_ARGUMENT;
        *device = list[index];
        return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
        return guard_session() ? nvmlDeviceGetHandleByIndex_v2(index, device)
                               : REAL(nvmlDeviceGetHandleByIndex)(index, device);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
        nvmlDevice_t list[MAX_REAL_DEVICES];
        nvmlReturn_t result;
        unsigned count;

        if (!guard_session() || !index)
                return REAL(nvmlDeviceGetIndex)(device, index);
        result = list_devices(list, &count);
        if (result != NVML_SUCCESS)
                return result;
        for (unsigned i = 0; i < count; i++)
                if (list[i] == device) {
                        *index = i;
                        return NVML_SUCCESS;
                }
        return REAL(nvmlDeviceGetIndex)(device, index);
}

/* A device that is not the tenant's is as one that is not there. */
static nvmlReturn_t only_granted(nvmlReturn_t result, const nvmlDevice_t *device)
{
        if (result == NVML_SUCCESS && guard_session() && !is_shown(*device))
                return NVML_ERROR_NOT_FOUND;
        return result;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
        return only_granted(REAL(nvmlDeviceGetHandleByUUID)(uuid, device), device);
}

nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
        return only_granted(REAL(nvmlDeviceGetHandleBySerial)(serial, device), device);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *pciBusId, nvmlDevice_t *device)
{
        return only_granted(REAL(nvmlDeviceGetHandleByPciBusId)(pciBusId, device), device);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *pciBusId, nvmlDevice_t *device)
{
        return only_granted(REAL(nvmlDeviceGetHandleByPciBusId_v2)(pciBusId, device), device);
}

/* -- memory ------------------------------------------------------------------------------------ */

/* False: not a device of the tenant, and the driver's answer stands. */
static bool tenant_memory(
        nvmlDevice_t device, unsigned long long *ret_total, unsigned long long *ret_used)
{
        const struct guard_session *session = guard_session();
        int index = session ? granted(device) : -ENODEV;

        if (index < 0)
                return false;
        *ret_total = (unsigned long long)atomic_load_explicit(
                             &session->grant->device[index].limit, memory_order_acquire)
                     << CLEAVE_UNIT_SHIFT;
        *ret_used = (unsigned long long)cleave_used(session->usage, (uint32_t)index)
                    << CLEAVE_UNIT_SHIFT;
        return true;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
        nvmlReturn_t result = REAL(nvmlDeviceGetMemoryInfo)(device, memory);

        if (result == NVML_SUCCESS && tenant_memory(device, &memory->total, &memory->used))
                memory->free = memory->total > memory->used ? memory->total - memory->used : 0;
        return result;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
        nvmlReturn_t result = REAL(nvmlDeviceGetMemoryInfo_v2)(device, memory);

        if (result == NVML_SUCCESS && tenant_memory(device, &memory->total, &memory->used)) {
                memory->reserved = 0; /* the driver's own share is no part of a quota */
                memory->free = memory->total > memory->used ? memory->total - memory->used : 0;
        }
        return result;
}

/* -- processes --------------------------------------------------------------------------------- */

/* The machine's own pid namespace (PROC_PID_INIT_INO of linux/proc_ns.h). */
#define FIRST_PID_NAMESPACE "pid:[4026531836]"

/* The driver names processes as they are called in the caller's pid namespace, the page as they are
 * in the daemon's. In a container's own namespace all are the tenant's. */
static bool is_in_our_container(unsigned pid)
{
        char path[32], namespace[sizeof(FIRST_PID_NAMESPACE)] = "";

        if (!in_container() ||
                readlink("/proc/self/ns/pid", namespace, sizeof(namespace) - 1) < 0 ||
                strcmp(namespace, FIRST_PID_NAMESPACE) == 0)
                return false;
        snprintf(path, sizeof(path), "/proc/%u", pid);
        return pid != 0 && access(path, F_OK) == 0;
}

/* In a pid namespace that the tenant made for itself the page's pids are not the driver's. What a
 * process carries in its environment is no proof, but this decides only what is shown. */
static bool has_our_environment(unsigned pid)
{
        char path[32], wanted[sizeof(CLEAVE_ENV_TENANT) + 18], part[4096];
        size_t length, kept = 0;
        bool found = false;
        ssize_t n;
        int fd;

        length = (size_t)snprintf(wanted, sizeof(wanted), "%s=%016llx", CLEAVE_ENV_TENANT,
                (unsigned long long)guard_session()->grant->tenant);
        snprintf(path, sizeof(path), "/proc/%u/environ", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return false;
        /* the end of one part may be the beginning of what is looked for */
        while (!found && (n = read(fd, part + kept, sizeof(part) - kept)) > 0) {
                kept += (size_t)n;
                found = memmem(part, kept, wanted, length) != NULL;
                if (kept > length) {
                        memmove(part, part + kept - length, length);
                        kept = length;
                }
        }
        close(fd);
        return found;
}

static bool is_ours(unsigned pid)
{
        struct cleave_usage_page *usage = guard_session()->usage;
        uint32_t used = atomic_load_explicit(&usage->slots_used, memory_order_acquire);

        if (guard_session()->other_pids)
                return is_in_our_container(pid) || has_our_environment(pid);
        for (uint32_t i = 1; i < used && i < CLEAVE_MAX_SLOTS; i++) {
                const struct cleave_slot *slot = cleave_usage_slot(usage, i);

                if (slot->pid == pid && atomic_load_explicit(&slot->state, memory_order_relaxed) !=
                                                CLEAVE_SLOT_FREE)
                        return true;
        }
        return is_in_our_container(pid);
}

typedef nvmlReturn_t (*list_processes)(nvmlDevice_t device, unsigned int *count, void *infos);

/* Asks the driver for all, keeps the tenant's own, and answers by NVML's rules: *count is in the
 * room and out the number; too little room is INSUFFICIENT_SIZE with the number needed. Every form
 * of the struct begins with the pid. */
static nvmlReturn_t own_processes(
        list_processes real, size_t size, nvmlDevice_t device, unsigned int *count, void *infos)
{
        unsigned room = 64, all, own = 0;
        nvmlReturn_t result;
        char *buffer = NULL;

        if (!guard_session() || !count)
                return real(device, count, infos);
        do {
                room *= 2;
                free(buffer);
                buffer = calloc(room, size);
                if (!buffer)
                        return NVML_ERROR_MEMORY;
                all = room;
                result = real(device, &all, buffer);
        } while (result == NVML_ERROR_INSUFFICIENT_SIZE && room < 65536);
        if (result != NVML_SUCCESS) {
                free(buffer);
                return result;
        }
        for (unsigned i = 0; i < all && i < room; i++)
                if (is_ours(*(const unsigned *)(buffer + i * size)))
                        memmove(buffer + own++ * size, buffer + i * size, size);
        if (own > *count)
                result = NVML_ERROR_INSUFFICIENT_SIZE;
        else if (own > 0 && !infos)
                result = NVML_ERROR_INVALID_ARGUMENT;
        else if (own > 0)
                memcpy(infos, buffer, own * size);
        *count = own;
        free(buffer);
        return result;
}

#define PROCESS_LIST(name, type)                                                                   \
        nvmlReturn_t name(nvmlDevice_t device, unsigned int *infoCount, type *infos)               \
        {                                                                                          \
                return own_processes(                                                              \
                        (list_processes)REAL(name), sizeof(type), device, infoCount, infos);       \
        }

PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t)
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t)

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
        nvmlProcessUtilizationSample_t *utilization, unsigned int *processSamplesCount,
        unsigned long long lastSeenTimeStamp)
{
        nvmlReturn_t result = REAL(nvmlDeviceGetProcessUtilization)(
                device, utilization, processSamplesCount, lastSeenTimeStamp);
        unsigned own = 0;

        if (result != NVML_SUCCESS || !utilization || !guard_session())
                return result;
        for (unsigned i = 0; i < *processSamplesCount; i++)
                if (is_ours(utilization[i].pid))
                        utilization[own++] = utilization[i];
        *processSamplesCount = own;
        return own ? result : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(
        nvmlDevice_t device, nvmlProcessesUtilizationInfo_t *info)
{
        nvmlReturn_t result = REAL(nvmlDeviceGetProcessesUtilizationInfo)(device, info);
        unsigned own = 0;

        if (result != NVML_SUCCESS || !info->procUtilArray || !guard_session())
                return result;
        for (unsigned i = 0; i < info->processSamplesCount; i++)
                if (is_ours(info->procUtilArray[i].pid))
                        info->procUtilArray[own++] = info->procUtilArray[i];
        info->processSamplesCount = own;
        return own ? result : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(
        nvmlDevice_t device, nvmlProcessDetailList_t *list)
{
        nvmlReturn_t result = REAL(nvmlDeviceGetRunningProcessDetailList)(device, list);
        unsigned own = 0;

        if (result != NVML_SUCCESS || !list->procArray || !guard_session())
                return result;
        for (unsigned i = 0; i < list->numProcArrayEntries; i++)
                if (is_ours(list->procArray[i].pid))
                        list->procArray[own++] = list->procArray[i];
        list->numProcArrayEntries = own;
        return result;
}
