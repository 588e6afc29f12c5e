/* SPDX-License-Identifier: Apache-2.0 */
/* Declared here is only what is called; layouts and numbers are those of NVML's public header. */
#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "partition/migdriver.h"

#define NVML_SUCCESS          0
#define NVML_INVALID_ARGUMENT 2
#define NVML_NOT_SUPPORTED    3
#define NVML_PROFILES         32 /* more than any driver numbers */
#define PROFILE_INFO_V2       (sizeof(struct profile_v2) | 2u << 24)

struct profile_v2 {
        unsigned version, id, p2p, slices, instances, sms, copy, decoders, encoders, jpeg, ofa;
        unsigned long long memory_mib;
        char name[96];
};
static_assert(sizeof(struct profile_v2) == 152, "nvmlGpuInstanceProfileInfo_v2_t");

struct placement {
        unsigned start, size;
};

/* X(name here, name in the library, parameters) */
#define FUNCTIONS(X)                                                                               \
        X(init, "nvmlInit_v2", (void))                                                             \
        X(shutdown, "nvmlShutdown", (void))                                                        \
        X(by_address, "nvmlDeviceGetHandleByPciBusId_v2", (const char *, void **))                 \
        X(name, "nvmlDeviceGetName", (void *, char *, unsigned))                                   \
        X(mode, "nvmlDeviceGetMigMode", (void *, unsigned *, unsigned *))                          \
        X(profile, "nvmlDeviceGetGpuInstanceProfileInfoV",                                         \
                (void *, unsigned, struct profile_v2 *))                                           \
        X(placements, "nvmlDeviceGetGpuInstancePossiblePlacements_v2",                             \
                (void *, unsigned, struct placement *, unsigned *))

struct nvml {
        void *library;
#define X(name_, symbol, parameters) int(*name_) parameters;
        FUNCTIONS(X)
#undef X
};

static void nvml_close(struct nvml *nvml)
{
        if (nvml->library)
                dlclose(nvml->library);
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
        return ret->geometry.n_profiles ? 0 : -EOPNOTSUPP;
}

int mig_driver_read(const char *library, const char *address, struct mig_driver *ret,
        struct cleave_error *error)
{
        _cleanup_(nvml_close) struct nvml nvml = {0};
        struct mig_driver driver = {0};
        void *device;
        int r;

        nvml.library = dlopen(library ?: "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
        if (!nvml.library)
                return error_set(error, CLEAVE_REASON_NO_DRIVER,
                        "NVIDIA's library libnvidia-ml.so.1 is not here");
#define X(name_, symbol, parameters)                                                               \
        *(void **)&nvml.name_ = dlsym(nvml.library, symbol);                                       \
        if (!nvml.name_)                                                                           \
                return error_set(error, CLEAVE_REASON_NO_DRIVER,                                   \
                        "NVIDIA's library has no %s: the driver is too old", symbol);
        FUNCTIONS(X)
#undef X
        r = nvml.init();
        if (r != NVML_SUCCESS)
                return error_set(error, CLEAVE_REASON_NO_DRIVER,
                        "NVIDIA's driver does not answer (NVML error %d)", r);
        r = nvml.by_address(address, &device);
        if (r != NVML_SUCCESS)
                r = error_set(
                        error, CLEAVE_REASON_NO_DRIVER, "NVIDIA's driver has no GPU %s", address);
        else {
                r = read_device(&nvml, device, &driver);
                if (r == -EOPNOTSUPP)
                        error_set(error, CLEAVE_REASON_BAD_REQUEST,
                                "the GPU %s cannot be cut by MIG", address);
                else if (r < 0)
                        error_set(error, CLEAVE_REASON_INTERNAL,
                                "NVIDIA's driver does not say how %s can be cut", address);
        }
        nvml.shutdown();
        if (r < 0)
                return r;
        *ret = driver;
        return 0;
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
