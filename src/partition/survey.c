/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "partition/survey.h"
#include "partition/vgpu.h"

#define MPS_CONTROL "nvidia-cuda-mps-control"

json_t *survey_obstacles(const struct obstacles *obstacles)
{
        json_t *list = json_array();

        for (size_t i = 0; list && i < obstacles->n; i++) {
                const struct obstacle *o = obstacles->list + i;

                json_array_append_new(
                        list, json_pack("{s:s,s:b,s:s,s:s?}", "code", obstacle_word(o->code),
                                      "blocks", obstacle_blocks(o->code), "sentence", o->sentence,
                                      "hint", obstacle_hint(o->code)));
        }
        return list;
}

static void add_technique(json_t *list, const char *name, const char *title, const char *offers,
        const struct obstacles *obstacles)
{
        json_array_append_new(
                list, json_pack("{s:s,s:s,s:s,s:b,s:o}", "name", name, "title", title, "offers",
                              offers, "ready", obstacles_blocking(obstacles) == NULL, "obstacles",
                              survey_obstacles(obstacles)));
}

static bool on_path(const char *program)
{
        _cleanup_free_ char *path = strdup(getenv("PATH") ?: "/usr/bin:/bin");
        char *directory, *rest = path;

        while (path && (directory = strsep(&rest, ":"))) {
                char whole[HOST_PATH_MAX];

                if (snprintf(whole, sizeof(whole), "%s/%s", directory, program) <
                                (int)sizeof(whole) &&
                        access(whole, X_OK) == 0)
                        return true;
        }
        return false;
}

static bool in_mig_mode(const struct host *host, const struct pci_function *f)
{
        struct mig_driver driver;

        return f->vendor == PCI_VENDOR_NVIDIA && !*f->physical &&
               strcmp(f->driver, "nvidia") == 0 && host->mig &&
               mig_driver_read(host->mig, host->msec, f->address, &driver, NULL) == 0 && driver.on;
}

/* The driver's own slices and quotas on the whole device, and MPS. */
static void add_sharing(const struct host *host, const struct pci_function *f, json_t *list)
{
        _cleanup_obstacles_ struct obstacles slices = {0}, mps = {0};
        bool nvidia = strcmp(f->driver, "nvidia") == 0, cut = in_mig_mode(host, f);

        if (!*f->driver || strstr(f->driver, "vfio"))
                obstacles_add(&slices, OBSTACLE_NO_DRIVER,
                        "%s is on %s, so no program of the host "
                        "can use it",
                        f->address, *f->driver ? f->driver : "no driver");
        else if (f->vendor == PCI_VENDOR_NVIDIA && !nvidia)
                obstacles_add(&slices, OBSTACLE_NO_NVIDIA,
                        "%s is on the driver %s, and CUDA needs NVIDIA's own", f->address,
                        f->driver);
        else if (cut)
                obstacles_add(&slices, OBSTACLE_MIG_ON,
                        "%s is in MIG mode, so programs have its instances, not the whole",
                        f->address);
        add_technique(list, "slices", "time slices of the driver",
                nvidia ? "the whole device by turns, with Cleave's memory quotas"
                       : "the whole device by turns, without limits",
                &slices);
        if (f->vendor != PCI_VENDOR_NVIDIA)
                return;
        if (!nvidia)
                obstacles_add(&mps, OBSTACLE_NO_NVIDIA, "%s is not on NVIDIA's driver", f->address);
        if (cut)
                obstacles_add(&mps, OBSTACLE_MIG_ON,
                        "%s is in MIG mode: each of its instances has a server of its own",
                        f->address);
        if (!on_path(MPS_CONTROL))
                obstacles_add(&mps, OBSTACLE_NO_MPS, "%s is not installed", MPS_CONTROL);
        add_technique(
                list, "mps", "MPS server", "programs of one owner side by side, at most 48", &mps);
}

/* Whether a process of that name runs; the kernel cuts names to 15 letters. */
static bool runs(const struct host *host, const char *name)
{
        _cleanup_names_ struct host_names processes = {0};

        host_list_proc(host, &processes, "");
        for (size_t i = 0; i < processes.n; i++) {
                _cleanup_free_ char *text = NULL;
                char path[HOST_PATH_MAX];

                if (!isdigit((unsigned char)*processes.name[i]))
                        continue;
                snprintf(path, sizeof(path), "%s/comm", processes.name[i]);
                if (host_read_proc(host, path, &text) == 0 &&
                        strncmp(text, name, strnlen(name, 15)) == 0)
                        return true;
        }
        return false;
}

/* The host driver of NVIDIA's vGPU on a physical function: what runs on it, and with what licence.
 */
static void add_vgpu_host(const struct host *host, const struct pci_function *f, json_t *list)
{
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        bool module = host_exists(host, "module/nvidia_vgpu_vfio");
        struct vgpu_host vgpus = {0};
        char offers[HOST_TEXT_MAX] = "";
        size_t used = 0;

        if (f->vendor != PCI_VENDOR_NVIDIA || *f->physical || strcmp(f->driver, "nvidia") != 0)
                return;
        if (host->mig)
                vgpu_host_read(host->mig, host->msec, f->address, &vgpus, NULL);
        if (!module && !vgpus.host)
                return;
        if (!runs(host, "nvidia-vgpu-mgr"))
                obstacles_add(&obstacles, OBSTACLE_NO_VGPU_MANAGER,
                        "nvidia-vgpu-mgr does not run, and without it no VM with a vGPU of %s "
                        "starts",
                        f->address);
        vgpu_tell_ecc(&vgpus, f->address, &obstacles);
        for (unsigned i = 0; i < vgpus.n; i++) {
                bool licensed = vgpus.vgpu[i].licence == VGPU_LICENSED;

                if (used < sizeof(offers))
                        used += (size_t)snprintf(offers + used, sizeof(offers) - used,
                                "%s%s in VM %s%s", used ? ", " : "runs ", vgpus.vgpu[i].type,
                                vgpus.vgpu[i].vm, licensed ? ", licensed" : "");
                if (!licensed)
                        obstacles_add(&obstacles, OBSTACLE_VGPU_UNLICENSED, "the %s in VM %s %s",
                                vgpus.vgpu[i].type, vgpus.vgpu[i].vm,
                                vgpus.vgpu[i].licence >= VGPU_UNLICENSED_UNRESTRICTED
                                        ? "has no licence, so it slows down"
                                        : "has not said whether it has a licence");
        }
        add_technique(list, "vgpu-host", "NVIDIA's vGPU host driver",
                *offers ? offers : "no vGPU runs", &obstacles);
}

/* Of NVIDIA's driver, as "NVRM version: … 580.159.04 …" of proc; 0: not known. */
static unsigned nvidia_release(const struct host *host)
{
        _cleanup_free_ char *text = NULL;
        char *word, *rest;

        if (host_read_proc(host, "driver/nvidia/version", &text) < 0)
                return 0;
        rest = text;
        while ((word = strsep(&rest, " \t\n")))
                if (isdigit((unsigned char)*word) && strchr(word, '.'))
                        return (unsigned)strtoul(word, NULL, 10);
        return 0;
}

#define NVIDIA_WITH_LIMITS 615u

/* Limits that a driver keeps itself, by cgroup. */
static void add_limits(const struct host *host, const struct pci_function *f, json_t *list)
{
        _cleanup_free_ char *path = path_join(host->sysfs, "fs/cgroup/dmem.capacity");
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        _cleanup_free_ char *capacity = NULL;
        bool nvidia = strcmp(f->driver, "nvidia") == 0;
        unsigned release = nvidia ? nvidia_release(host) : 0;

        /* Of the others only these two drivers have them. */
        if (!nvidia && strcmp(f->driver, "amdgpu") != 0 && strcmp(f->driver, "xe") != 0)
                return;
        if (path)
                read_file(path, 65536, &capacity, NULL);
        if (nvidia && release < NVIDIA_WITH_LIMITS)
                obstacles_add(&obstacles, OBSTACLE_NO_DMEM,
                        "%s: the driver keeps no memory limits by cgroup%s", f->address,
                        release ? "" : ", as far as its release is known");
        else if (in_mig_mode(host, f))
                obstacles_add(&obstacles, OBSTACLE_MIG_ON,
                        "%s is in MIG mode, and the driver's limits are not for its instances",
                        f->address);
        else if (!nvidia && (!capacity || !strstr(capacity, f->address)))
                obstacles_add(&obstacles, OBSTACLE_NO_DMEM, "the kernel has no dmem limits for %s",
                        f->address);
        add_technique(list, "dmem", "the driver's own memory limits",
                nvidia ? "device memory by cgroup, which Cleave sets beside its quotas"
                       : "device memory by cgroup (dmem.max)",
                &obstacles);
}

/* Of AMD's and Intel's drivers; NVIDIA's tells it elsewhere. 0: not known. */
static uint64_t memory_of(const struct host *host, const struct pci_function *f)
{
        static const char *const files[] = {
                "mem_info_vram_total", "tile0/physical_vram_size_bytes"};
        long long bytes = 0;

        for (size_t i = 0; bytes <= 0 && i < ARRAY_SIZE(files); i++)
                bytes = host_number(host, 0, "bus/pci/devices/%s/%s", f->address, files[i]);
        return bytes > 0 ? (uint64_t)bytes : 0;
}

static json_t *survey_gpu(const struct host *host, const struct pci_function *f)
{
        const struct technique_ask ask = {0};
        json_t *list = json_array(), *gpu;
        uint64_t memory;
        char id[16];

        add_sharing(host, f, list);
        add_limits(host, f, list);
        add_vgpu_host(host, f, list);
        for (size_t i = 0; i < n_techniques; i++) {
                _cleanup_obstacles_ struct obstacles obstacles = {0};
                char offers[HOST_TEXT_MAX] = "";

                /* Others' devices are listed and left alone. */
                if (!*pci_vendor_name(f->vendor) || !techniques[i]->concerns(host, f))
                        continue;
                techniques[i]->offers(host, f, offers);
                if (techniques[i]->check(host, f, &ask, &obstacles) < 0)
                        continue;
                add_technique(list, techniques[i]->name, techniques[i]->title, offers, &obstacles);
        }
        snprintf(id, sizeof(id), "%04x:%04x", f->vendor, f->device);
        memory = memory_of(host, f);
        gpu = json_pack("{s:s,s:s,s:s?,s:s,s:s?,s:s?}", "address", f->address, "id", id, "vendor",
                *pci_vendor_name(f->vendor) ? pci_vendor_name(f->vendor) : NULL, "class",
                pci_class_name(f->class), "driver", *f->driver ? f->driver : NULL,
                "physical_function", *f->physical ? f->physical : NULL);
        json_object_set_new(gpu, "memory", memory ? json_integer((json_int_t)memory) : json_null());
        json_object_set_new(gpu, "numa_node", f->node >= 0 ? json_integer(f->node) : json_null());
        json_object_set_new(gpu, "cpus", *f->cpus ? json_string(f->cpus) : json_null());
        json_object_set_new(
                gpu, "iommu_group", f->group >= 0 ? json_integer(f->group) : json_null());
        json_object_set_new(gpu, "link_speed", *f->speed ? json_string(f->speed) : json_null());
        json_object_set_new(gpu, "link_width", f->width > 0 ? json_integer(f->width) : json_null());
        json_object_set_new(gpu, "functions_total",
                f->functions_total >= 0 ? json_integer(f->functions_total) : json_null());
        json_object_set_new(gpu, "techniques", list);
        return gpu;
}

int survey_gpus(const struct host *host, json_t **ret)
{
        _cleanup_free_ struct pci_function *gpus = NULL;
        json_t *list;
        size_t n;
        int r;

        r = pci_gpus(host, &gpus, &n);
        if (r < 0)
                return r;
        list = json_array();
        if (!list)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                json_array_append_new(list, survey_gpu(host, gpus + i));
        *ret = list;
        return 0;
}

static const json_t *technique_of(const json_t *gpu, const char *name)
{
        const json_t *list = json_object_get(gpu, "techniques"), *item;
        size_t i;

        json_array_foreach((json_t *)list, i, item)
        {
                if (strcmp(json_string_value(json_object_get(item, "name")), name) == 0)
                        return item;
        }
        return NULL;
}

static const char *blocked_by(const json_t *technique, const char *absent)
{
        const json_t *list, *item;
        size_t i;

        if (!technique)
                return absent;
        list = json_object_get(technique, "obstacles");
        json_array_foreach((json_t *)list, i, item)
        {
                if (json_is_true(json_object_get(item, "blocks")))
                        return json_string_value(json_object_get(item, "sentence"));
        }
        return NULL;
}

void survey_machine(const json_t *gpus, uint64_t memory, struct advise_machine *ret)
{
        static const struct {
                enum advise_way way;
                const char *technique, *absent;
        } ways[] = {
                {ADVISE_PASSTHROUGH, "passthrough", "no GPU here can be passed on"},
                {ADVISE_SRIOV, "sriov", "no GPU here has virtual functions"},
                {ADVISE_MIG, "mig", "no GPU here can be cut by MIG"},
                {ADVISE_MIG_VGPU, "mig", "no GPU here can be cut by MIG"},
                {ADVISE_MPS, "mps", "MPS is for NVIDIA's GPUs"},
                {ADVISE_SPATIAL, "mps", "MPS is for NVIDIA's GPUs"},
                {ADVISE_WHOLE, "slices", "there is no GPU here"},
                {ADVISE_PLAIN, "slices", "there is no GPU here"},
        };
        const json_t *first = NULL, *gpu;
        size_t i;

        *ret = (struct advise_machine){.memory = memory};
        json_array_foreach((json_t *)gpus, i, gpu)
        {
                const struct mig_geometry *geometry;
                unsigned vendor, device;

                if (json_is_null(json_object_get(gpu, "vendor")) ||
                        !json_is_null(json_object_get(gpu, "physical_function")))
                        continue;
                ret->gpus++;
                if (first)
                        continue;
                first = gpu;
                if (sscanf(json_string_value(json_object_get(gpu, "id")), "%x:%x", &vendor,
                            &device) == 2) {
                        geometry = mig_geometry_of_pci((uint16_t)vendor, (uint16_t)device);
                        ret->instances = geometry ? geometry->profiles[0].most : 0;
                }
                ret->functions =
                        (unsigned)json_integer_value(json_object_get(gpu, "functions_total"));
        }
        if (!first)
                return;
        for (i = 0; i < ARRAY_SIZE(ways); i++)
                ret->blocked[ways[i].way] =
                        blocked_by(technique_of(first, ways[i].technique), ways[i].absent);
        if (!technique_of(first, "mig"))
                ret->instances = 0;
        if (!technique_of(first, "vgpu") && !technique_of(first, "mediated")) {
                ret->blocked[ADVISE_VGPU] = "no vGPU host driver is installed";
                ret->blocked[ADVISE_MIG_VGPU] = "no vGPU host driver is installed";
        }
        if (!technique_of(first, "mps"))
                ret->blocked[ADVISE_QUOTA] = ret->blocked[ADVISE_SLICES] =
                        "Cleave's quotas are for CUDA, so for NVIDIA's GPUs";
        else
                ret->blocked[ADVISE_QUOTA] = ret->blocked[ADVISE_SLICES] =
                        blocked_by(technique_of(first, "slices"), NULL);
}
