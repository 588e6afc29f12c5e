/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVIDIA's devices through NVML: the system's libnvidia-ml.so.1, or that of the simulated GPU.
 * Declared here is only what is called; layouts and numbers are those of NVML's public header,
 * the same since R525.
 */
#include <assert.h>
#include <dlfcn.h>
#include <string.h>

#include "base/parse.h"
#include "device/device.h"

enum nvml_return {
        NVML_SUCCESS = 0,
        NVML_UNINITIALIZED = 1,
        NVML_NOT_SUPPORTED = 3,
        NVML_NO_PERMISSION = 4,
        NVML_NOT_FOUND = 6,
        NVML_INSUFFICIENT_SIZE = 7,
        NVML_DRIVER_NOT_LOADED = 9,
        NVML_LIBRARY_NOT_FOUND = 12,
        NVML_FUNCTION_NOT_FOUND = 13,
        NVML_GPU_IS_LOST = 15,
        NVML_LIB_RM_VERSION_MISMATCH = 18,
};

typedef void *nvml_device;

#define NVML_VALUE_NOT_AVAILABLE UINT64_MAX

struct nvml_memory {
        unsigned long long total, free, used;
};

struct nvml_memory_v2 {
        unsigned version;
        unsigned long long total, reserved, free, used;
};
#define NVML_MEMORY_V2 (sizeof(struct nvml_memory_v2) | 2u << 24)

struct nvml_pci {
        char bus_id_legacy[16];
        unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
        char bus_id[32];
};

struct nvml_process {
        unsigned pid;
        unsigned long long used;
        unsigned gpu_instance, compute_instance;
};
static_assert(sizeof(struct nvml_process) == 24, "nvmlProcessInfo_v2_t");

/* Bytes; the soft one is guaranteed and, unlike the hard one, does not go with the cgroup. */
struct nvml_limits {
        const char *cgroup;
        unsigned long long soft, hard;
};
static_assert(sizeof(struct nvml_limits) == 24, "nvmlSetMemoryLimits_v1_t");

/* X(name here, name in the library, needed, parameters) */
#define NVML_FUNCTIONS(X)                                                                          \
        X(init, "nvmlInit_v2", true, (void))                                                       \
        X(shutdown, "nvmlShutdown", true, (void))                                                  \
        X(driver_version, "nvmlSystemGetDriverVersion", true, (char *, unsigned))                  \
        X(count, "nvmlDeviceGetCount_v2", true, (unsigned *))                                      \
        X(by_index, "nvmlDeviceGetHandleByIndex_v2", true, (unsigned, nvml_device *))              \
        X(uuid, "nvmlDeviceGetUUID", true, (nvml_device, char *, unsigned))                        \
        X(name, "nvmlDeviceGetName", true, (nvml_device, char *, unsigned))                        \
        X(pci, "nvmlDeviceGetPciInfo_v3", false, (nvml_device, struct nvml_pci *))                 \
        X(memory, "nvmlDeviceGetMemoryInfo", true, (nvml_device, struct nvml_memory *))            \
        X(memory_v2, "nvmlDeviceGetMemoryInfo_v2", false, (nvml_device, struct nvml_memory_v2 *))  \
        X(compute, "nvmlDeviceGetComputeRunningProcesses_v3", false,                               \
                (nvml_device, unsigned *, struct nvml_process *))                                  \
        X(graphics, "nvmlDeviceGetGraphicsRunningProcesses_v3", false,                             \
                (nvml_device, unsigned *, struct nvml_process *))                                  \
        X(mps, "nvmlDeviceGetMPSComputeRunningProcesses_v3", false,                                \
                (nvml_device, unsigned *, struct nvml_process *))                                  \
        X(mig_mode, "nvmlDeviceGetMigMode", false, (nvml_device, unsigned *, unsigned *))          \
        X(mig_most, "nvmlDeviceGetMaxMigDeviceCount", false, (nvml_device, unsigned *))            \
        X(mig_device, "nvmlDeviceGetMigDeviceHandleByIndex", false,                                \
                (nvml_device, unsigned, nvml_device *))                                            \
        X(mig_instance, "nvmlDeviceGetGpuInstanceId", false, (nvml_device, unsigned *))            \
        X(set_limits, "nvmlDeviceSetMemoryLimits_v1", false, (nvml_device, struct nvml_limits *))

struct nvml {
        void *library;
        bool initialized;
        char version[80];
        char detail[160];
        unsigned devices;
        nvml_device device[DEVICE_MAX];
        struct device known[DEVICE_MAX];
        unsigned sharers[DEVICE_MAX]; /* MIG devices that share the memory of its instance */
#define X(name_, symbol, needed, parameters) int(*name_) parameters;
        NVML_FUNCTIONS(X)
#undef X
};

static const char *nvml_reason(int result)
{
        switch (result) {
        case NVML_NO_PERMISSION:
                return "the driver's device files may not be opened";
        case NVML_DRIVER_NOT_LOADED:
                return "the NVIDIA kernel driver is not loaded";
        case NVML_LIBRARY_NOT_FOUND:
                return "a library of the NVIDIA driver is missing";
        case NVML_LIB_RM_VERSION_MISMATCH:
                return "the NVIDIA library and the loaded kernel driver are of different versions "
                       "(after an update, restart the machine or reload the driver)";
        case NVML_GPU_IS_LOST:
                return "a GPU has fallen off the bus";
        default:
                return NULL;
        }
}

static int nvml_errno(int result)
{
        switch (result) {
        case NVML_SUCCESS:
                return 0;
        case NVML_GPU_IS_LOST:
                return -ENODEV;
        case NVML_NOT_SUPPORTED:
        case NVML_FUNCTION_NOT_FOUND:
                return -ENODATA;
        default:
                return -EIO;
        }
}

static void nvml_close(void *handle)
{
        struct nvml *nvml = handle;

        if (!nvml)
                return;
        if (nvml->initialized)
                nvml->shutdown();
        if (nvml->library)
                dlclose(nvml->library);
        free(nvml);
}

static void nvml_close_ptr(struct nvml **nvml)
{
        nvml_close(*nvml);
}

static int nvml_open(const char *argument, void **ret_handle, struct cleave_error *error)
{
        _cleanup_(nvml_close_ptr) struct nvml *nvml = NULL;
        const char *path = argument ?: "libnvidia-ml.so.1";
        int result;

        nvml = calloc(1, sizeof(*nvml));
        if (!nvml)
                return error_set_errno(error, ENOMEM, "cannot open NVML");
        nvml->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!nvml->library)
                return argument ? error_set(error, CLEAVE_REASON_NO_DRIVER, "%s", dlerror())
                                : error_set(error, CLEAVE_REASON_NO_DRIVER,
                                          "no NVIDIA driver is installed (%s)", dlerror());
#define X(name_, symbol, needed, parameters)                                                       \
        nvml->name_ = (__typeof__(nvml->name_))dlsym(nvml->library, symbol);                       \
        if (!nvml->name_ && needed)                                                                \
                return error_set(error, CLEAVE_REASON_NO_DRIVER, "%s has no %s", path, symbol);
        NVML_FUNCTIONS(X)
#undef X
        result = nvml->init();
        if (result != NVML_SUCCESS) {
                const char *reason = nvml_reason(result);

                if (reason)
                        return error_set(error, CLEAVE_REASON_NO_DRIVER, "%s", reason);
                return error_set(error, CLEAVE_REASON_NO_DRIVER,
                        "NVML could not be started (its error %d)", result);
        }
        nvml->initialized = true;
        if (nvml->driver_version(nvml->version, sizeof(nvml->version)) != NVML_SUCCESS)
                nvml->version[0] = '\0';
        nvml->version[sizeof(nvml->version) - 1] = '\0';
        snprintf(nvml->detail, sizeof(nvml->detail), "driver %s",
                nvml->version[0] ? nvml->version : "of unknown version");
        *ret_handle = TAKE_PTR(nvml);
        return 0;
}

static int nvml_describe(struct nvml *nvml, nvml_device handle, struct device *ret)
{
        struct device device = {0};
        struct nvml_memory memory;
        struct nvml_pci pci;
        int result;

        result = nvml->uuid(handle, device.uuid_text, sizeof(device.uuid_text));
        if (result != NVML_SUCCESS)
                return nvml_errno(result);
        device.uuid_text[sizeof(device.uuid_text) - 1] = '\0';
        if (parse_uuid(device.uuid_text, device.uuid) < 0)
                return -EBADMSG;
        if (nvml->name(handle, device.name, sizeof(device.name)) != NVML_SUCCESS)
                strcpy(device.name, "unknown");
        device.name[sizeof(device.name) - 1] = '\0';
        if (nvml->pci && nvml->pci(handle, &pci) == NVML_SUCCESS)
                snprintf(device.pci, sizeof(device.pci), "%.*s", (int)sizeof(pci.bus_id) - 1,
                        pci.bus_id);
        result = nvml->memory(handle, &memory);
        if (result != NVML_SUCCESS)
                return nvml_errno(result);
        device.total = memory.total;
        *ret = device;
        return 0;
}

/* A device that was found: at its old index, or after all others. sharers: MIG devices on the
 * memory of its instance, 0 for a GPU. */
static void keep_device(struct nvml *nvml, nvml_device handle, const struct device *device,
        unsigned sharers, bool seen[static DEVICE_MAX])
{
        unsigned index = 0;

        while (index < nvml->devices &&
                strcmp(nvml->known[index].uuid_text, device->uuid_text) != 0)
                index++;
        if (index == DEVICE_MAX)
                return;
        nvml->devices = MAX_OF(nvml->devices, index + 1);
        nvml->device[index] = handle;
        nvml->known[index] = *device;
        nvml->known[index].index = index;
        nvml->known[index].mig = sharers > 0;
        if (sharers > 1)
                nvml->known[index].total /= sharers;
        nvml->sharers[index] = sharers;
        seen[index] = true;
}

/* Whether it is a GPU that is known already; it need not be asked again who it is. */
static bool is_known_gpu(const struct nvml *nvml, nvml_device gpu, bool seen[static DEVICE_MAX])
{
        for (unsigned i = 0; i < nvml->devices; i++)
                if (nvml->device[i] == gpu && !nvml->known[i].mig) {
                        seen[i] = true;
                        return true;
                }
        return false;
}

static bool in_mig_mode(const struct nvml *nvml, nvml_device gpu)
{
        unsigned on = 0, pending = 0;

        return nvml->mig_mode && nvml->mig_most && nvml->mig_device && nvml->mig_instance &&
               nvml->mig_mode(gpu, &on, &pending) == NVML_SUCCESS && on;
}

/* The MIG devices of a GPU. One that cannot be described is being made or destroyed. */
static void keep_mig_devices(struct nvml *nvml, nvml_device gpu, const struct device *whole,
        bool seen[static DEVICE_MAX])
{
        unsigned most = 0, instance[DEVICE_MAX], n = 0;
        nvml_device handle[DEVICE_MAX];

        if (nvml->mig_most(gpu, &most) != NVML_SUCCESS)
                return;
        for (unsigned i = 0; i < most && n < DEVICE_MAX; i++)
                /* there are holes */
                if (nvml->mig_device(gpu, i, &handle[n]) == NVML_SUCCESS &&
                        nvml->mig_instance(handle[n], &instance[n]) == NVML_SUCCESS)
                        n++;
        for (unsigned i = 0; i < n; i++) {
                struct device device;
                unsigned sharers = 0;

                for (unsigned j = 0; j < n; j++)
                        sharers += instance[j] == instance[i];
                if (nvml_describe(nvml, handle[i], &device) < 0)
                        continue;
                snprintf(device.pci, sizeof(device.pci), "%s", whole->pci);
                keep_device(nvml, handle[i], &device, sharers, seen);
        }
}

static int nvml_enumerate(
        void *handle, struct device **ret, size_t *ret_count, struct cleave_error *error)
{
        bool seen[DEVICE_MAX] = {false}, cut;
        struct nvml *nvml = handle;
        struct device *list;
        unsigned count = 0;
        int result;

        result = nvml->count(&count);
        if (result != NVML_SUCCESS)
                return error_set(error, CLEAVE_REASON_NO_DRIVER, "%s",
                        nvml_reason(result) ?: "NVML does not say how many GPUs there are");
        for (unsigned i = 0; i < count; i++) {
                struct device device;
                nvml_device gpu;
                int r = -EIO;

                result = nvml->by_index(i, &gpu);
                cut = result == NVML_SUCCESS && in_mig_mode(nvml, gpu);
                if (result == NVML_SUCCESS && !cut && is_known_gpu(nvml, gpu, seen))
                        continue;
                if (result == NVML_SUCCESS)
                        r = nvml_describe(nvml, gpu, &device);
                if (r < 0)
                        return error_set(error,
                                r == -ENODEV ? CLEAVE_REASON_DEVICE_LOST : CLEAVE_REASON_NO_DRIVER,
                                "GPU %u cannot be described: %s", i,
                                nvml_reason(result) ?: strerror(-r));
                if (cut)
                        keep_mig_devices(nvml, gpu, &device, seen);
                else
                        keep_device(nvml, gpu, &device, 0, seen);
        }
        for (unsigned i = 0; i < nvml->devices; i++)
                nvml->known[i].gone = !seen[i];
        list = calloc(nvml->devices ?: 1, sizeof(*list));
        if (!list)
                return error_set_errno(error, ENOMEM, "cannot list the GPUs");
        memcpy(list, nvml->known, nvml->devices * sizeof(*list));
        *ret = list;
        *ret_count = nvml->devices;
        return 0;
}

static uint64_t known(unsigned long long value)
{
        return value == NVML_VALUE_NOT_AVAILABLE ? DEVICE_UNKNOWN_BYTES : value;
}

static int compare_pids(const void *a, const void *b)
{
        const struct device_process *x = a, *y = b;

        return (x->pid > y->pid) - (x->pid < y->pid);
}

/* Appends one of NVML's lists. -ENODATA where the driver lacks it. */
static int append_list(int (*function)(nvml_device, unsigned *, struct nvml_process *),
        nvml_device device, struct device_process **list, size_t *count)
{
        _cleanup_free_ struct nvml_process *raw = NULL;
        struct device_process *larger;
        unsigned room = 64, n;

        if (!function)
                return -ENODATA;
        for (;;) {
                struct nvml_process *p = realloc(raw, room * sizeof(*raw));
                int result;

                if (!p)
                        return -ENOMEM;
                raw = p;
                n = room;
                result = function(device, &n, raw);
                if (result == NVML_SUCCESS)
                        break;
                if (result != NVML_INSUFFICIENT_SIZE)
                        return nvml_errno(result);
                if (room > 1u << 20)
                        return -EIO;
                /* more may come before the next call */
                room = MAX_OF(n, room) + 64;
        }
        if (n > room)
                return -EIO;
        if (n == 0)
                return 0;
        larger = realloc(*list, (*count + n) * sizeof(**list));
        if (!larger)
                return -ENOMEM;
        *list = larger;
        for (unsigned i = 0; i < n; i++)
                larger[(*count)++] = (struct device_process){
                        .pid = (pid_t)raw[i].pid,
                        .bytes = known(raw[i].used),
                };
        return 0;
}

static int nvml_processes(
        void *handle, unsigned index, struct device_process **ret, size_t *ret_count)
{
        _cleanup_free_ struct device_process *list = NULL;
        struct nvml *nvml = handle;
        size_t count = 0, kept = 0;
        int r;

        if (index >= nvml->devices)
                return -EINVAL;
        if (nvml->known[index].gone)
                return -ENODEV;
        r = append_list(nvml->compute, nvml->device[index], &list, &count);
        if (r < 0)
                return r;
        r = append_list(nvml->graphics, nvml->device[index], &list, &count);
        if (r < 0 && r != -ENODATA)
                return r;
        r = append_list(nvml->mps, nvml->device[index], &list, &count);
        if (r < 0 && r != -ENODATA)
                return r;

        /* a process that stands in two lists stands there with the same whole sum */
        if (count > 0)
                qsort(list, count, sizeof(*list), compare_pids);
        for (size_t i = 0; i < count; i++) {
                if (kept > 0 && list[kept - 1].pid == list[i].pid) {
                        struct device_process *same = &list[kept - 1];

                        if (same->bytes == DEVICE_UNKNOWN_BYTES)
                                same->bytes = list[i].bytes;
                        else if (list[i].bytes != DEVICE_UNKNOWN_BYTES)
                                same->bytes = MAX_OF(same->bytes, list[i].bytes);
                        continue;
                }
                list[kept++] = list[i];
        }
        *ret = TAKE_PTR(list);
        *ret_count = kept;
        return 0;
}

/* NVML counts for all that share an instance's memory; here it is each one's part. */
static int part_memory(struct nvml *nvml, unsigned index, struct device_memory *ret)
{
        _cleanup_free_ struct device_process *list = NULL;
        uint64_t total = nvml->known[index].total, used = 0;
        size_t n;
        int r = nvml_processes(nvml, index, &list, &n);

        if (r < 0)
                return r == -ENODATA ? -EIO : r;
        for (size_t i = 0; i < n; i++)
                if (list[i].bytes == DEVICE_UNKNOWN_BYTES ||
                        __builtin_add_overflow(used, list[i].bytes, &used))
                        return -EIO;
        *ret = (struct device_memory){
                .reserved = 0, .used = used, .free = total > used ? total - used : 0};
        return 0;
}

static int nvml_memory(void *handle, unsigned index, struct device_memory *ret)
{
        struct nvml_memory_v2 v2 = {.version = NVML_MEMORY_V2};
        struct nvml *nvml = handle;
        struct nvml_memory v1;
        int result;

        if (index >= nvml->devices)
                return -EINVAL;
        if (nvml->known[index].gone)
                return -ENODEV;
        if (nvml->sharers[index] > 1)
                return part_memory(nvml, index, ret);
        if (nvml->memory_v2) {
                result = nvml->memory_v2(nvml->device[index], &v2);
                if (result == NVML_SUCCESS) {
                        *ret = (struct device_memory){
                                .reserved = known(v2.reserved),
                                .used = known(v2.used),
                                .free = known(v2.free),
                        };
                        return 0;
                }
                if (result == NVML_GPU_IS_LOST)
                        return -ENODEV;
        }
        result = nvml->memory(nvml->device[index], &v1);
        if (result != NVML_SUCCESS)
                return nvml_errno(result);
        /* here used contains what the driver keeps for itself, and nobody says how much that is */
        *ret = (struct device_memory){
                .reserved = DEVICE_UNKNOWN_BYTES,
                .used = known(v1.used),
                .free = known(v1.free),
        };
        return 0;
}

static const char *nvml_driver_version(void *handle)
{
        struct nvml *nvml = handle;

        return nvml->version;
}

static const char *nvml_detail(void *handle)
{
        struct nvml *nvml = handle;

        return nvml->detail;
}

static int nvml_limit(void *handle, unsigned index, const char *cgroup, uint64_t bytes)
{
        struct nvml_limits limits = {.cgroup = cgroup, .soft = 0, .hard = bytes};
        struct nvml *nvml = handle;

        if (!nvml->set_limits)
                return -EOPNOTSUPP;
        if (!cgroup)
                return 0;
        if (index >= nvml->devices)
                return -EINVAL;
        /* NVIDIA's has none for them. */
        if (nvml->known[index].mig)
                return -EOPNOTSUPP;
        switch (nvml->set_limits(nvml->device[index], &limits)) {
        case NVML_SUCCESS:
                return 0;
        case NVML_NOT_SUPPORTED:
        case NVML_FUNCTION_NOT_FOUND:
                return -EOPNOTSUPP;
        case NVML_NO_PERMISSION:
                return -EPERM;
        case NVML_NOT_FOUND:
                return -ENOENT;
        default:
                return -EIO;
        }
}

#define NVML_BACKEND(name_, vendor_)                                                               \
        {                                                                                          \
                .name = name_, .vendor = vendor_, .open = nvml_open, .close = nvml_close,          \
                .enumerate = nvml_enumerate, .memory = nvml_memory, .processes = nvml_processes,   \
                .limit = nvml_limit, .driver_version = nvml_driver_version, .detail = nvml_detail, \
        }

const struct device_backend device_backend_nvidia = NVML_BACKEND("nvidia", "nvidia");
/* the simulated GPU answers NVML's names from its own library */
const struct device_backend device_backend_sim = NVML_BACKEND("sim", "simulated");
