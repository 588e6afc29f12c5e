/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An NVML that knows one GPU, an H100 80GB at 0000:01:00.0, and of it what MIG can do: in the order
 * and with the errors of the driver's, which was asked on such a card. FAKE_NVML in the
 * environment: "on", "pending", "none" (not capable), "other" (a profile starts elsewhere),
 * "broken".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "policy/mig.h"

struct info {
        unsigned version, id, p2p, slices, instances, sms, copy, decoders, encoders, jpeg, ofa;
        unsigned long long memory_mib;
        char name[96];
};

struct placement {
        unsigned start, size;
};

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **ret);
int nvmlDeviceGetName(void *device, char *name, unsigned size);
int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending);
int nvmlDeviceGetGpuInstanceProfileInfoV(void *device, unsigned number, struct info *ret);
int nvmlDeviceGetGpuInstancePossiblePlacements_v2(
        void *device, unsigned id, struct placement *ret, unsigned *n);

static int is(const char *word)
{
        return strcmp(getenv("FAKE_NVML") ?: "", word) == 0;
}

static const struct mig_profile *profile_by(unsigned number, int by_id)
{
        const struct mig_geometry *g = mig_geometry_find("h100-80");

        for (unsigned i = 0; i < g->n_profiles; i++)
                if ((by_id ? g->profiles[i].id : g->profiles[i].number) == number)
                        return g->profiles + i;
        return NULL;
}

int nvmlInit_v2(void)
{
        return is("broken") ? 9 : 0;
}

int nvmlShutdown(void)
{
        return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **ret)
{
        static int device;

        *ret = &device;
        return strcmp(address, "0000:01:00.0") == 0 ? 0 : 6;
}

int nvmlDeviceGetName(void *device, char *name, unsigned size)
{
        snprintf(name, size, "NVIDIA H100 80GB HBM3");
        return 0;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending)
{
        *current = is("on");
        *pending = is("on") || is("pending");
        return is("none") ? 3 : 0;
}

int nvmlDeviceGetGpuInstanceProfileInfoV(void *device, unsigned number, struct info *ret)
{
        const struct mig_profile *p = profile_by(number, 0);

        if (number > 0x11)
                return 2;
        if (ret->version != (sizeof(*ret) | 2u << 24))
                return 25;
        if (!p)
                return 3;
        *ret = (struct info){
                .version = ret->version,
                .id = p->id,
                .slices = p->compute,
                .instances = p->most,
                .sms = p->sms,
                .memory_mib = p->memory_mib,
        };
        snprintf(ret->name, sizeof(ret->name), "MIG %s", p->name);
        return 0;
}

int nvmlDeviceGetGpuInstancePossiblePlacements_v2(
        void *device, unsigned id, struct placement *ret, unsigned *n)
{
        const struct mig_profile *p = profile_by(id, 1);
        unsigned found = 0;

        if (!p)
                return 2;
        for (unsigned s = 0; s < MIG_SLICES_MAX; s++)
                if (p->starts >> s & 1) {
                        if (ret)
                                ret[found] = (struct placement){
                                        s + (is("other") && p->size == 2 && s < 6) +
                                                100 * is("huge"),
                                        p->size};
                        found++;
                }
        *n = found;
        return 0;
}
