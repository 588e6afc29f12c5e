/* SPDX-License-Identifier: Apache-2.0 */
/* Declared here is only what is called; layouts and numbers are those of NVML's public header. */
#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "partition/migdriver.h"

enum nvml_return {
        NVML_SUCCESS = 0,
        NVML_INVALID_ARGUMENT = 2,
        NVML_NOT_SUPPORTED = 3,
        NVML_NO_PERMISSION = 4,
        NVML_NOT_FOUND = 6,
        NVML_NOT_LOADED = 9,
        NVML_NO_FUNCTION = 13,
        NVML_GPU_IS_LOST = 15,
        NVML_RESET_REQUIRED = 16,
        NVML_BLOCKED = 17,
        NVML_RELEASES_DIFFER = 18,
        NVML_IN_USE = 19,
        NVML_MEMORY = 20,
        NVML_VGPU_ECC = 22,
        NVML_INSUFFICIENT_RESOURCES = 23,
        NVML_VERSION_MISMATCH = 25, /* of an argument */
        NVML_NOT_READY = 27,
        NVML_INVALID_STATE = 29,
};
#define NVML_PROFILES         32 /* more than any driver numbers */
#define NVML_COMPUTE_PROFILES 8
#define PROFILE_INFO_V2       (sizeof(struct profile_v2) | 2u << 24)

struct profile_v2 {
        unsigned version, id, p2p, slices, instances, sms, copy, decoders, encoders, jpeg, ofa;
        unsigned long long memory_mib;
        char name[96];
};
static_assert(sizeof(struct profile_v2) == 152, "nvmlGpuInstanceProfileInfo_v2_t");

struct compute_profile {
        unsigned id, slices, instances, sms, copy, decoders, encoders, jpeg, ofa;
};
static_assert(sizeof(struct compute_profile) == 36, "nvmlComputeInstanceProfileInfo_t");

struct placement {
        unsigned start, size;
};

struct instance_info {
        void *device;
        unsigned id, profile_id;
        struct placement placement;
};
static_assert(sizeof(struct instance_info) == 24, "nvmlGpuInstanceInfo_t");

struct compute_info {
        void *device, *instance;
        unsigned id, profile_id;
        struct placement placement;
};
static_assert(sizeof(struct compute_info) == 32, "nvmlComputeInstanceInfo_t");

struct process {
        unsigned pid;
        unsigned long long used;
        unsigned gpu_instance, compute_instance;
};
static_assert(sizeof(struct process) == 24, "nvmlProcessInfo_v2_t");

/* X(name here, name in the library, parameters) */
#define FUNCTIONS(X)                                                                               \
        X(init, "nvmlInit_v2", (void))                                                             \
        X(shutdown, "nvmlShutdown", (void))                                                        \
        X(driver_version, "nvmlSystemGetDriverVersion", (char *, unsigned))                        \
        X(by_address, "nvmlDeviceGetHandleByPciBusId_v2", (const char *, void **))                 \
        X(name, "nvmlDeviceGetName", (void *, char *, unsigned))                                   \
        X(minor, "nvmlDeviceGetMinorNumber", (void *, unsigned *))                                 \
        X(mode, "nvmlDeviceGetMigMode", (void *, unsigned *, unsigned *))                          \
        X(set_mode, "nvmlDeviceSetMigMode", (void *, unsigned, int *))                             \
        X(profile, "nvmlDeviceGetGpuInstanceProfileInfoV",                                         \
                (void *, unsigned, struct profile_v2 *))                                           \
        X(placements, "nvmlDeviceGetGpuInstancePossiblePlacements_v2",                             \
                (void *, unsigned, struct placement *, unsigned *))                                \
        X(instances, "nvmlDeviceGetGpuInstances", (void *, unsigned, void **, unsigned *))         \
        X(instance_info, "nvmlGpuInstanceGetInfo", (void *, struct instance_info *))               \
        X(create, "nvmlDeviceCreateGpuInstanceWithPlacement",                                      \
                (void *, unsigned, const struct placement *, void **))                             \
        X(destroy, "nvmlGpuInstanceDestroy", (void *))                                             \
        X(compute_profile, "nvmlGpuInstanceGetComputeInstanceProfileInfo",                         \
                (void *, unsigned, unsigned, struct compute_profile *))                            \
        X(computes, "nvmlGpuInstanceGetComputeInstances", (void *, unsigned, void **, unsigned *)) \
        X(compute_info, "nvmlComputeInstanceGetInfo_v2", (void *, struct compute_info *))          \
        X(create_compute, "nvmlGpuInstanceCreateComputeInstance", (void *, unsigned, void **))     \
        X(create_compute_at, "nvmlGpuInstanceCreateComputeInstanceWithPlacement",                  \
                (void *, unsigned, const struct placement *, void **))                             \
        X(destroy_compute, "nvmlComputeInstanceDestroy", (void *))                                 \
        X(mig_most, "nvmlDeviceGetMaxMigDeviceCount", (void *, unsigned *))                        \
        X(mig_device, "nvmlDeviceGetMigDeviceHandleByIndex", (void *, unsigned, void **))          \
        X(mig_instance, "nvmlDeviceGetGpuInstanceId", (void *, unsigned *))                        \
        X(mig_compute, "nvmlDeviceGetComputeInstanceId", (void *, unsigned *))                     \
        X(uuid, "nvmlDeviceGetUUID", (void *, char *, unsigned))                                   \
        X(processes, "nvmlDeviceGetComputeRunningProcesses_v3",                                    \
                (void *, unsigned *, struct process *))

/* Of vGPU hosts; a driver may lack them. */
#define VGPU_FUNCTIONS(X)                                                                          \
        X(virtualization, "nvmlDeviceGetVirtualizationMode", (void *, unsigned *))                 \
        X(vgpus, "nvmlDeviceGetActiveVgpus", (void *, unsigned *, unsigned *))                     \
        X(vgpu_types, "nvmlDeviceGetCreatableVgpus", (void *, unsigned *, unsigned *))             \
        X(vgpu_type, "nvmlVgpuInstanceGetType", (unsigned, unsigned *))                            \
        X(vgpu_name, "nvmlVgpuTypeGetName", (unsigned, char *, unsigned *))                        \
        X(vgpu_vm, "nvmlVgpuInstanceGetVmID", (unsigned, char *, unsigned, unsigned *))            \
        X(vgpu_licence, "nvmlVgpuInstanceGetLicenseInfo_v2", (unsigned, struct licence_info *))

struct licence_info {
        unsigned char licensed;
        struct {
                unsigned year;
                unsigned short month, day, hour, minute, second;
                unsigned char status;
        } expiry;
        unsigned state;
};
static_assert(sizeof(struct licence_info) == 24, "nvmlVgpuLicenseInfo_t");
#define HOST_VGPU 3u /* NVML_GPU_VIRTUALIZATION_MODE_HOST_VGPU */

struct nvml {
        void *library;
        bool ready;
#define X(name_, symbol, parameters) int(*name_) parameters;
        FUNCTIONS(X)
        VGPU_FUNCTIONS(X)
#undef X
};

enum operation {
        READ,
        READ_VGPUS,
        SET_MODE,
        CREATE,
        DESTROY,
        CREATE_COMPUTE,
        DESTROY_COMPUTE,
};

struct request {
        enum operation operation;
        char address[24];
        unsigned start, compute_start, slices; /* memory slice; compute slices */
        unsigned profile;                      /* the driver's id */
        unsigned on;
};

struct answer {
        int result; /* negative errno */
        enum cleave_reason reason;
        char sentence[160];
        union {
                struct mig_driver driver;
                struct vgpu_host host;
        };
};

/* ---- in the process that speaks with the driver ---- */

static int fail(struct answer *answer, int result, enum cleave_reason reason, const char *format,
        ...) __attribute__((format(printf, 4, 5)));
static int fail(
        struct answer *answer, int result, enum cleave_reason reason, const char *format, ...)
{
        va_list list;

        va_start(list, format);
        vsnprintf(answer->sentence, sizeof(answer->sentence), format, list);
        va_end(list);
        answer->reason = reason;
        answer->result = result;
        return result;
}

static int errno_of(int code)
{
        switch (code) {
        case NVML_SUCCESS:
                return 0;
        case NVML_INVALID_ARGUMENT:
                return -EINVAL;
        case NVML_NOT_SUPPORTED:
                return -EOPNOTSUPP;
        case NVML_NO_PERMISSION:
                return -EPERM;
        case NVML_NOT_FOUND:
                return -ENOENT;
        case NVML_GPU_IS_LOST:
                return -ENODEV;
        case NVML_RESET_REQUIRED:
                return -EUCLEAN;
        case NVML_IN_USE:
                return -EBUSY;
        case NVML_INSUFFICIENT_RESOURCES:
                return -ENOSPC;
        case NVML_NOT_READY:
                return -EAGAIN;
        case NVML_BLOCKED:
                return -EACCES;
        case NVML_MEMORY:
                return -ENOMEM;
        case NVML_NO_FUNCTION:
        case NVML_RELEASES_DIFFER:
        case NVML_VERSION_MISMATCH:
                return -EPROTO;
        case NVML_INVALID_STATE:
                return -EBADFD;
        default:
                return -EIO;
        }
}

/* Name from the driver is "MIG 1g.10gb". */
static void profile_name(const char *name, char ret[static MIG_NAME_MAX])
{
        const char *blank = strrchr(name, ' ');

        snprintf(ret, MIG_NAME_MAX, "%.*s", MIG_NAME_MAX - 1, blank ? blank + 1 : name);
}

static int read_profile(
        const struct nvml *nvml, void *device, unsigned number, struct mig_geometry *geometry)
{
        struct profile_v2 info = {.version = PROFILE_INFO_V2};
        struct placement placements[32];
        unsigned n = 0;
        struct mig_profile *p = geometry->profiles + geometry->n_profiles;
        int r;

        r = nvml->profile(device, number, &info);
        if (r != NVML_SUCCESS)
                return r;
        if (geometry->n_profiles == MIG_PROFILES_MAX)
                return -E2BIG;
        /* Asked for their number first, as the driver counts those of its own. */
        r = nvml->placements(device, info.id, NULL, &n);
        if (r != NVML_SUCCESS || n == 0 || n > ARRAY_SIZE(placements))
                return -EIO;
        r = nvml->placements(device, info.id, placements, &n);
        if (r != NVML_SUCCESS)
                return -EIO;
        *p = (struct mig_profile){
                .number = (uint8_t)number,
                .id = (uint8_t)info.id,
                .size = (uint8_t)placements[0].size,
                .compute = (uint8_t)info.slices,
                .most = (uint8_t)info.instances,
                .sms = (uint16_t)info.sms,
                .memory_mib = (uint32_t)info.memory_mib,
        };
        profile_name(info.name, p->name);
        p->media = strstr(p->name, "+me") != NULL;
        for (unsigned i = 0; i < n; i++) {
                if (placements[i].start >= MIG_SLICES_MAX ||
                        placements[i].size > MIG_SLICES_MAX - placements[i].start)
                        return -E2BIG;
                p->starts |= (uint16_t)(1u << placements[i].start);
                geometry->slices =
                        (uint8_t)MAX_OF(geometry->slices, placements[i].start + placements[i].size);
        }
        geometry->n_profiles++;
        return NVML_SUCCESS;
}

/* Those of one GPU instance. */
static int read_computes(const struct nvml *nvml, void *instance, struct mig_present *present)
{
        for (unsigned number = 0; number < NVML_COMPUTE_PROFILES; number++) {
                struct compute_profile profile;
                void *handles[MIG_SLICES_MAX * 2];
                unsigned n = 0;

                if (nvml->compute_profile(instance, number, 0, &profile) != NVML_SUCCESS ||
                        profile.instances > ARRAY_SIZE(handles))
                        continue;
                if (nvml->computes(instance, profile.id, handles, &n) != NVML_SUCCESS)
                        return -EIO;
                for (unsigned i = 0; i < n; i++) {
                        struct mig_compute *compute = present->compute + present->n_compute;
                        struct compute_info info;

                        if (nvml->compute_info(handles[i], &info) != NVML_SUCCESS ||
                                present->n_compute == MIG_SLICES_MAX)
                                return -EIO;
                        *compute = (struct mig_compute){
                                .start = (uint8_t)info.placement.start,
                                .slices = (uint8_t)profile.slices,
                                .id = (uint8_t)info.id,
                        };
                        present->n_compute++;
                }
        }
        return 0;
}

/* Handles of the GPU instances of a profile; their number, or negative. */
static int instances_of(const struct nvml *nvml, void *device, const struct mig_profile *profile,
        void *ret[static MIG_SLICES_MAX])
{
        void *handles[64]; /* the driver writes as many as there may be of the profile */
        unsigned n = 0;
        int r;

        if (profile->most > ARRAY_SIZE(handles))
                return -E2BIG;
        r = nvml->instances(device, profile->id, handles, &n);
        if (r != NVML_SUCCESS)
                return errno_of(r);
        if (n > MIG_SLICES_MAX)
                return -E2BIG;
        memcpy(ret, handles, n * sizeof(*handles));
        return (int)n;
}

/* Which UUID belongs to which compute instance is only known by going through all of them. */
static void read_uuids(const struct nvml *nvml, void *device, struct mig_driver *driver)
{
        unsigned most = 0;

        if (nvml->mig_most(device, &most) != NVML_SUCCESS)
                return;
        for (unsigned i = 0; i < most; i++) {
                unsigned instance, compute;
                void *handle;

                /* There are holes. */
                if (nvml->mig_device(device, i, &handle) != NVML_SUCCESS ||
                        nvml->mig_instance(handle, &instance) != NVML_SUCCESS ||
                        nvml->mig_compute(handle, &compute) != NVML_SUCCESS)
                        continue;
                for (unsigned j = 0; j < driver->n_present; j++)
                        for (unsigned k = 0; k < driver->present[j].n_compute; k++) {
                                struct mig_compute *c = driver->present[j].compute + k;

                                if (driver->present[j].id == instance && c->id == compute)
                                        nvml->uuid(handle, c->uuid, sizeof(c->uuid));
                        }
        }
}

static void read_users(const struct nvml *nvml, void *device, struct mig_driver *driver)
{
        static struct process processes[1024];
        unsigned n = ARRAY_SIZE(processes);

        if (nvml->processes(device, &n, processes) != NVML_SUCCESS)
                return;
        for (unsigned i = 0; i < n; i++)
                for (unsigned j = 0; j < driver->n_present; j++)
                        if (driver->present[j].id == processes[i].gpu_instance) {
                                driver->present[j].users++;
                                driver->present[j].pid = processes[i].pid;
                        }
}

static int read_instances(const struct nvml *nvml, void *device, struct mig_driver *driver)
{
        for (unsigned p = 0; p < driver->geometry.n_profiles; p++) {
                void *handles[MIG_SLICES_MAX];
                int n = instances_of(nvml, device, driver->geometry.profiles + p, handles);

                if (n == -EPERM) {
                        driver->hidden = true;
                        return 0;
                }
                if (n < 0)
                        return -EIO;
                for (int i = 0; i < n; i++) {
                        struct mig_present *present = driver->present + driver->n_present;
                        struct instance_info info;

                        if (nvml->instance_info(handles[i], &info) != NVML_SUCCESS ||
                                driver->n_present == MIG_SLICES_MAX ||
                                info.placement.start >= MIG_SLICES_MAX)
                                return -EIO;
                        *present = (struct mig_present){
                                .profile = (uint8_t)p,
                                .start = (uint8_t)info.placement.start,
                                .id = (uint8_t)info.id,
                        };
                        driver->n_present++;
                        if (read_computes(nvml, handles[i], present) < 0)
                                return -EIO;
                }
        }
        read_uuids(nvml, device, driver);
        read_users(nvml, device, driver);
        return 0;
}

static int compare_profiles(const void *a, const void *b)
{
        const struct mig_profile *x = a, *y = b;

        if (x->size != y->size)
                return x->size - y->size;
        if (x->compute != y->compute)
                return x->compute - y->compute;
        return x->number - y->number;
}

static int read_device(const struct nvml *nvml, void *device, struct mig_driver *ret)
{
        unsigned current = 0, pending = 0;
        int r;

        r = nvml->mode(device, &current, &pending);
        if (r == NVML_NOT_SUPPORTED)
                return -EOPNOTSUPP;
        if (r != NVML_SUCCESS)
                return -EIO;
        ret->on = current;
        ret->pending = pending != current;
        nvml->minor(device, &ret->minor);
        nvml->driver_version(ret->driver, sizeof(ret->driver));
        nvml->name(device, ret->geometry.name, sizeof(ret->geometry.name));
        ret->geometry.starts_from = ret->geometry.figures_from = MIG_MEASURED;
        for (unsigned number = 0; number < NVML_PROFILES; number++) {
                r = read_profile(nvml, device, number, &ret->geometry);
                if (r == NVML_INVALID_ARGUMENT)
                        break;
                if (r < 0)
                        return r;
        }
        qsort(ret->geometry.profiles, ret->geometry.n_profiles, sizeof(*ret->geometry.profiles),
                compare_profiles);
        /* The whole card takes every engine there is. */
        for (unsigned i = 0; i < ret->geometry.n_profiles; i++)
                if (ret->geometry.profiles[i].size == ret->geometry.slices)
                        ret->geometry.profiles[i].media = true;
        if (ret->geometry.n_profiles == 0)
                return -EOPNOTSUPP;
        return current ? read_instances(nvml, device, ret) : 0;
}

/* The instance that begins at a slice, NULL if there is none. */
static void *find_instance(
        const struct nvml *nvml, void *device, const struct mig_driver *driver, unsigned start)
{
        for (unsigned p = 0; p < driver->geometry.n_profiles; p++) {
                void *handles[MIG_SLICES_MAX];
                int n = instances_of(nvml, device, driver->geometry.profiles + p, handles);

                for (int i = 0; i < n; i++) {
                        struct instance_info info;

                        if (nvml->instance_info(handles[i], &info) == NVML_SUCCESS &&
                                info.placement.start == start)
                                return handles[i];
                }
        }
        return NULL;
}

/* The mode as it is wished for, or as it was: a change that waits for a reset is taken back. */
static int set_mode(const struct nvml *nvml, void *device, unsigned on)
{
        int activation = NVML_SUCCESS, ignored;
        int r = nvml->set_mode(device, on, &activation);

        if (r != NVML_SUCCESS)
                return errno_of(r);
        if (activation == NVML_SUCCESS)
                return 0;
        nvml->set_mode(device, !on, &ignored);
        return activation == NVML_IN_USE ? -EBUSY : -EUCLEAN;
}

static int create_compute(const struct nvml *nvml, void *instance, unsigned start, unsigned slices)
{
        for (unsigned number = 0; number < NVML_COMPUTE_PROFILES; number++) {
                const struct placement placement = {start, slices};
                struct compute_profile profile;
                void *made;

                if (nvml->compute_profile(instance, number, 0, &profile) != NVML_SUCCESS ||
                        profile.slices != slices)
                        continue;
                /* One that fills the whole has no place to choose. */
                if (profile.instances == 1)
                        return errno_of(nvml->create_compute(instance, profile.id, &made));
                return errno_of(nvml->create_compute_at(instance, profile.id, &placement, &made));
        }
        return -EINVAL;
}

static int destroy_compute(const struct nvml *nvml, void *instance, unsigned start)
{
        for (unsigned number = 0; number < NVML_COMPUTE_PROFILES; number++) {
                struct compute_profile profile;
                void *handles[MIG_SLICES_MAX * 2];
                unsigned n = 0;

                if (nvml->compute_profile(instance, number, 0, &profile) != NVML_SUCCESS ||
                        profile.instances > ARRAY_SIZE(handles) ||
                        nvml->computes(instance, profile.id, handles, &n) != NVML_SUCCESS)
                        continue;
                for (unsigned i = 0; i < n; i++) {
                        struct compute_info info;

                        if (nvml->compute_info(handles[i], &info) == NVML_SUCCESS &&
                                info.placement.start == start)
                                return errno_of(nvml->destroy_compute(handles[i]));
                }
        }
        return -ENOENT;
}

static int carry_out(const struct nvml *nvml, void *device, const struct request *request,
        const struct mig_driver *driver)
{
        const struct placement placement = {request->start, request->slices};
        void *instance = NULL, *made;

        if (request->operation == SET_MODE)
                return set_mode(nvml, device, request->on);
        if (request->operation == CREATE)
                return errno_of(nvml->create(device, request->profile, &placement, &made));
        instance = find_instance(nvml, device, driver, request->start);
        if (!instance)
                return -ENOENT;
        if (request->operation == DESTROY)
                return errno_of(nvml->destroy(instance));
        if (request->operation == CREATE_COMPUTE)
                return create_compute(nvml, instance, request->compute_start, request->slices);
        return destroy_compute(nvml, instance, request->compute_start);
}

/* What nvmlInit_v2() means. */
static const char *init_error(int code)
{
        switch (code) {
        case NVML_NO_PERMISSION:
                return "this user may not use it";
        case NVML_NOT_LOADED:
                return "its kernel module is not loaded";
        case NVML_GPU_IS_LOST:
                return "a GPU has fallen off the bus";
        case NVML_BLOCKED:
                return "the operating system or a cgroup keeps this process from it";
        case NVML_RELEASES_DIFFER:
                return "its library and its kernel module are of different releases, so load the "
                       "module anew or restart the machine";
        default:
                return "see the kernel's log";
        }
}

static int nvml_open(struct nvml *nvml, const char *library, struct answer *answer)
{
        int r;

        if (nvml->ready)
                return 0;
        nvml->library = dlopen(library ?: "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
        if (!nvml->library)
                return fail(answer, -ENODEV, CLEAVE_REASON_NO_DRIVER,
                        "NVIDIA's library libnvidia-ml.so.1 is not here");
#define X(name_, symbol, parameters)                                                               \
        *(void **)&nvml->name_ = dlsym(nvml->library, symbol);                                     \
        if (!nvml->name_)                                                                          \
                return fail(answer, -ENODEV, CLEAVE_REASON_NO_DRIVER,                              \
                        "NVIDIA's library has no %s: the driver is too old", symbol);
        FUNCTIONS(X)
#undef X
#define X(name_, symbol, parameters) *(void **)&nvml->name_ = dlsym(nvml->library, symbol);
        VGPU_FUNCTIONS(X)
#undef X
        r = nvml->init();
        if (r != NVML_SUCCESS)
                return fail(answer, -ENODEV, CLEAVE_REASON_NO_DRIVER,
                        "NVIDIA's driver does not answer: %s (NVML error %d)", init_error(r), r);
        nvml->ready = true;
        return 0;
}

static int read_vgpus(const struct nvml *nvml, void *device, struct vgpu_host *host)
{
        unsigned mode = 0, instances[VGPU_MAX], n = ARRAY_SIZE(instances), types = 0;
        int r;

#define X(name_, symbol, parameters)                                                               \
        if (!nvml->name_)                                                                          \
                return -EOPNOTSUPP;
        VGPU_FUNCTIONS(X)
#undef X
        r = nvml->virtualization(device, &mode);
        if (r != NVML_SUCCESS)
                return errno_of(r);
        host->host = mode == HOST_VGPU;
        host->ecc = host->host && nvml->vgpu_types(device, &types, NULL) == NVML_VGPU_ECC;
        if (!host->host || nvml->vgpus(device, &n, instances) != NVML_SUCCESS)
                return 0;
        for (unsigned i = 0; i < n; i++) {
                struct licence_info info = {0};
                unsigned type, kind, size = sizeof(host->vgpu[i].type);

                if (nvml->vgpu_type(instances[i], &type) == NVML_SUCCESS)
                        nvml->vgpu_name(type, host->vgpu[i].type, &size);
                nvml->vgpu_vm(instances[i], host->vgpu[i].vm, sizeof(host->vgpu[i].vm), &kind);
                if (nvml->vgpu_licence(instances[i], &info) == NVML_SUCCESS)
                        host->vgpu[i].licence = info.state;
        }
        host->n = n;
        return 0;
}

static void answer_request(struct nvml *nvml, const char *library, const struct request *request,
        struct answer *answer)
{
        void *device;
        int r;

        if (nvml_open(nvml, library, answer) < 0)
                return;
        r = nvml->by_address(request->address, &device);
        if (r != NVML_SUCCESS) {
                fail(answer, -ENODEV, CLEAVE_REASON_NO_DRIVER, "NVIDIA's driver has no GPU %s",
                        request->address);
                return;
        }
        if (request->operation == READ_VGPUS) {
                r = read_vgpus(nvml, device, &answer->host);
                if (r < 0)
                        fail(answer, r, CLEAVE_REASON_NO_DRIVER,
                                "NVIDIA's driver says nothing of vGPUs");
                return;
        }
        r = read_device(nvml, device, &answer->driver);
        if (r == -EOPNOTSUPP)
                fail(answer, r, CLEAVE_REASON_BAD_REQUEST, "the GPU %s cannot be cut by MIG",
                        request->address);
        else if (r < 0)
                fail(answer, r, CLEAVE_REASON_INTERNAL,
                        "NVIDIA's driver does not say how %s can be cut", request->address);
        else if (request->operation != READ)
                answer->result = carry_out(nvml, device, request, &answer->driver);
}

static void serve(int fd, const char *library)
{
        static struct answer answer; /* large */
        struct nvml nvml = {0};
        struct request request;

        while (recv(fd, &request, sizeof(request), 0) == sizeof(request)) {
                answer = (struct answer){0};
                answer_request(&nvml, library, &request, &answer);
                if (send(fd, &answer, sizeof(answer), MSG_NOSIGNAL) != sizeof(answer))
                        break;
        }
        _exit(0);
}

/* ---- the link to it ---- */

struct mig_link {
        char *library;
        pid_t pid; /* 0: it has not been started */
        int fd;
};

struct mig_link *mig_link_new(const char *library)
{
        struct mig_link *link = calloc(1, sizeof(*link));

        if (!link)
                return NULL;
        link->fd = -EBADF;
        link->library = library ? strdup(library) : NULL;
        if (library && !link->library) {
                free(link);
                return NULL;
        }
        return link;
}

/* wait: it has nothing left to do, so it ends by itself; else it may be stuck in the kernel. */
static void link_close(struct mig_link *link, bool wait)
{
        link->fd = close_safe(link->fd);
        if (link->pid == 0)
                return;
        if (!wait)
                kill(link->pid, SIGKILL);
        waitpid(link->pid, NULL, wait ? 0 : WNOHANG);
        link->pid = 0;
}

void mig_link_free(struct mig_link *link)
{
        if (!link)
                return;
        link_close(link, true);
        free(link->library);
        free(link);
}

static int link_open(struct mig_link *link)
{
        pid_t parent = getpid();
        int ends[2];

        if (link->pid)
                return 0;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
                return -errno;
        link->pid = fork();
        if (link->pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() != parent)
                        _exit(0);
                /* What we have open, locks above all, is not to live on in it. */
                if (dup2(ends[1], STDERR_FILENO + 1) < 0)
                        _exit(1);
                if (close_range(STDERR_FILENO + 2, ~0u, 0) < 0) /* before Linux 5.9 */
                        for (int fd = STDERR_FILENO + 2; fd < 1024; fd++)
                                close(fd);
                serve(STDERR_FILENO + 1, link->library);
        }
        close(ends[1]);
        if (link->pid < 0) {
                link->pid = 0;
                close(ends[0]);
                return -errno;
        }
        link->fd = ends[0];
        return 0;
}

static int link_ask(
        struct mig_link *link, unsigned msec, const struct request *request, struct answer *answer)
{
        uint64_t until = clock_usec(CLOCK_MONOTONIC) + msec * USEC_PER_MSEC;
        struct pollfd wait;
        int r;

        r = link_open(link);
        if (r < 0)
                return r;
        if (send(link->fd, request, sizeof(*request), MSG_NOSIGNAL) != sizeof(*request)) {
                link_close(link, false);
                return -EIO;
        }
        wait = (struct pollfd){.fd = link->fd, .events = POLLIN};
        do {
                uint64_t now = clock_usec(CLOCK_MONOTONIC);

                r = poll(&wait, 1, now < until ? (int)((until - now + 999) / USEC_PER_MSEC) : 0);
        } while (r < 0 && errno == EINTR);
        if (r == 1 && recv(link->fd, answer, sizeof(*answer), 0) == sizeof(*answer))
                return 0;
        link_close(link, false);
        return r == 0 ? -ETIMEDOUT : -EIO;
}

/* One question about a GPU, with the sentence of what went wrong. */
static int ask_about(struct mig_link *link, unsigned msec, enum operation operation,
        const char *address, struct answer *answer, struct cleave_error *error)
{
        struct request request = {.operation = operation};
        int r;

        if (!link)
                return error_set(error, CLEAVE_REASON_NO_DRIVER,
                        "the driver of this machine is another than that of the devices looked at");
        if (!answer)
                return error_set_errno(error, ENOMEM, "cannot ask NVIDIA's driver");
        snprintf(request.address, sizeof(request.address), "%s", address);
        r = link_ask(link, msec, &request, answer);
        if (r == -ETIMEDOUT) {
                error_set(error, CLEAVE_REASON_TIMEOUT, "NVIDIA's driver does not answer about %s",
                        address);
                return r;
        }
        if (r < 0)
                return error_set_errno(error, r, "cannot ask NVIDIA's driver about %s", address);
        if (answer->result < 0) {
                error_set(error, answer->reason, "%s", answer->sentence);
                return answer->result;
        }
        return 0;
}

int mig_driver_read(struct mig_link *link, unsigned msec, const char *address,
        struct mig_driver *ret, struct cleave_error *error)
{
        _cleanup_free_ struct answer *answer = malloc(sizeof(*answer));
        int r = ask_about(link, msec, READ, address, answer, error);

        if (r == 0)
                *ret = answer->driver;
        return r;
}

int vgpu_host_read(struct mig_link *link, unsigned msec, const char *address, struct vgpu_host *ret,
        struct cleave_error *error)
{
        _cleanup_free_ struct answer *answer = malloc(sizeof(*answer));
        int r = ask_about(link, msec, READ_VGPUS, address, answer, error);

        if (r == 0)
                *ret = answer->host;
        return r;
}

/* ---- as files ---- */

struct mig_file {
        char address[24], leaf[16];
        unsigned start, compute_start;
};

static int file_parse(const char *path, struct mig_file *ret)
{
        int n = 0;

        *ret = (struct mig_file){0};
        if (sscanf(path, MIG_FILES "%23[^/]/mode%n", ret->address, &n) == 1 && n && !path[n])
                strcpy(ret->leaf, "mode");
        else if (sscanf(path, MIG_FILES "%23[^/]/%u/instance%n", ret->address, &ret->start, &n) ==
                         2 &&
                 n && !path[n])
                strcpy(ret->leaf, "instance");
        else if (sscanf(path, MIG_FILES "%23[^/]/%u/%u/compute%n", ret->address, &ret->start,
                         &ret->compute_start, &n) == 3 &&
                 n && !path[n])
                strcpy(ret->leaf, "compute");
        else
                return -EINVAL;
        return ret->start < MIG_SLICES_MAX && ret->compute_start < MIG_SLICES_MAX ? 0 : -EINVAL;
}

int mig_link_state(struct mig_link *link, unsigned msec, const char *path, char *ret, size_t size)
{
        struct mig_driver driver;
        struct mig_file file;
        int r;

        *ret = '\0';
        r = file_parse(path, &file);
        if (r == 0)
                r = mig_driver_read(link, msec, file.address, &driver, NULL);
        if (r == 0 && driver.hidden)
                r = -EPERM;
        if (r < 0)
                return r;
        if (strcmp(file.leaf, "mode") == 0)
                snprintf(ret, size, "%s%s", driver.on ? "on" : "off",
                        !driver.pending ? ""
                        : driver.on     ? ", off after a reset"
                                        : ", on after a reset");
        for (unsigned i = 0; i < driver.n_present; i++) {
                const struct mig_present *p = driver.present + i;

                if (p->start != file.start || strcmp(file.leaf, "mode") == 0)
                        continue;
                if (strcmp(file.leaf, "instance") == 0)
                        snprintf(ret, size, "%s", driver.geometry.profiles[p->profile].name);
                else
                        for (unsigned j = 0; j < p->n_compute; j++)
                                if (p->compute[j].start == file.compute_start)
                                        snprintf(ret, size, "%uc", p->compute[j].slices);
        }
        return 0;
}

int mig_link_write(struct mig_link *link, unsigned msec, const char *path, const char *value)
{
        _cleanup_free_ struct answer *answer = malloc(sizeof(*answer));
        struct request request = {0};
        struct mig_driver driver;
        struct mig_file file;
        int r;

        r = answer ? file_parse(path, &file) : -ENOMEM;
        if (r == 0)
                r = mig_driver_read(link, msec, file.address, &driver, NULL);
        if (r < 0)
                return r;
        snprintf(request.address, sizeof(request.address), "%s", file.address);
        request.start = file.start;
        request.compute_start = file.compute_start;
        if (strcmp(file.leaf, "mode") == 0) {
                request.operation = SET_MODE;
                request.on = strcmp(value, "on") == 0;
        } else if (strcmp(file.leaf, "instance") == 0 && *value) {
                int index = mig_profile_find(&driver.geometry, value);

                if (index < 0)
                        return -EINVAL;
                request.operation = CREATE;
                request.profile = driver.geometry.profiles[index].id;
                request.slices = driver.geometry.profiles[index].size;
        } else if (strcmp(file.leaf, "instance") == 0) {
                request.operation = DESTROY;
        } else if (*value) {
                request.operation = CREATE_COMPUTE;
                request.slices = (unsigned)strtoul(value, NULL, 10);
        } else {
                request.operation = DESTROY_COMPUTE;
        }
        r = link_ask(link, msec, &request, answer);
        return r < 0 ? r : answer->result;
}

static char *difference(const char *name, const char *what, unsigned driver, unsigned table)
{
        char *text;

        return asprintf(&text, "profile %s: %s is %u by the driver and %u in the table", name, what,
                       driver, table) < 0
                       ? NULL
                       : text;
}

char *mig_driver_compare(const struct mig_geometry *driver, const struct mig_geometry *table)
{
        char *text;

        if (driver->slices != table->slices)
                return difference("of all", "the number of slices", driver->slices, table->slices);
        for (unsigned i = 0; i < table->n_profiles; i++) {
                const struct mig_profile *t = table->profiles + i, *d = NULL;

                for (unsigned j = 0; j < driver->n_profiles; j++)
                        if (driver->profiles[j].number == t->number)
                                d = driver->profiles + j;
                if (!d)
                        return asprintf(&text, "the driver has no profile %s", t->name) < 0 ? NULL
                                                                                            : text;
                if (d->id != t->id)
                        return difference(t->name, "the id", d->id, t->id);
                if (d->size != t->size)
                        return difference(t->name, "the size", d->size, t->size);
                if (d->compute != t->compute)
                        return difference(
                                t->name, "the number of compute slices", d->compute, t->compute);
                if (d->most != t->most)
                        return difference(t->name, "the number of instances", d->most, t->most);
                if (d->starts != t->starts)
                        return difference(t->name, "the set of starts", d->starts, t->starts);
                if (t->sms && d->sms && d->sms != t->sms)
                        return difference(t->name, "the number of multiprocessors", d->sms, t->sms);
        }
        return NULL;
}
