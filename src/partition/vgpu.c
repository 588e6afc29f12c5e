/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVIDIA vGPUs that are virtual functions (host driver 17 and later, Linux 6.8 and later): the
 * function stays with NVIDIA's driver, and a type's number is written to it. The list of types that
 * can be created shrinks as the card fills, and is empty on a function that has one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "partition/attach.h"
#include "partition/holders.h"
#include "partition/vgpu.h"

#define TYPES_MAX 65536

void vgpu_tell_ecc(const struct vgpu_host *vgpus, const char *address, struct obstacles *obstacles)
{
        if (vgpus->ecc)
                obstacles_add(obstacles, OBSTACLE_VGPU_ECC,
                        "NVIDIA's driver makes no vGPU on %s while its ECC is on", address);
}

void vgpu_check_ecc(
        const struct host *host, const struct pci_function *function, struct obstacles *obstacles)
{
        const char *address = *function->physical ? function->physical : function->address;
        struct vgpu_host vgpus = {0};

        if (function->vendor == PCI_VENDOR_NVIDIA && host->mig &&
                vgpu_host_read(host->mig, host->msec, address, &vgpus, NULL) == 0)
                vgpu_tell_ecc(&vgpus, address, obstacles);
}

static bool concerns(const struct host *host, const struct pci_function *f)
{
        return host_exists(host, "bus/pci/devices/%s/nvidia/current_vgpu_type", f->address);
}

struct vgpu_type {
        unsigned id;
        char name[64];
};

/* Lines "ID    : vGPU Name", then "1155  : NVIDIA H100-10C". Returns how many. */
static size_t creatable(
        const struct host *host, const struct pci_function *f, struct vgpu_type *types, size_t max)
{
        _cleanup_free_ char *whole = NULL, *text = NULL;
        char path[HOST_PATH_MAX], *line, *rest;
        size_t n = 0;

        snprintf(path, sizeof(path), "bus/pci/devices/%s/nvidia/creatable_vgpu_types", f->address);
        whole = path_join(host->sysfs, path);
        if (!whole || read_file(whole, TYPES_MAX, &text, NULL) < 0)
                return 0;
        rest = text;
        while ((line = strsep(&rest, "\n")) && n < max) {
                char *colon = strchr(line, ':'), *end;
                unsigned long id = strtoul(line, &end, 10);

                if (!colon || end == line)
                        continue;
                types[n].id = (unsigned)id;
                colon += 1 + strspn(colon + 1, " ");
                snprintf(types[n].name, sizeof(types[n].name), "%s", colon);
                n++;
        }
        return n;
}

/* By number, by the whole name or by its last word, "H100-10C". */
static bool is_type(const struct vgpu_type *type, const char *wanted)
{
        const char *blank = strrchr(type->name, ' ');
        char number[16];

        snprintf(number, sizeof(number), "%u", type->id);
        return strcmp(number, wanted) == 0 || strcmp(type->name, wanted) == 0 ||
               (blank && strcmp(blank + 1, wanted) == 0);
}

static void offers(
        const struct host *host, const struct pci_function *f, char ret[static HOST_TEXT_MAX])
{
        struct vgpu_type types[64];
        size_t n = creatable(host, f, types, ARRAY_SIZE(types)), used = 0;
        long long current =
                host_number(host, 0, "bus/pci/devices/%s/nvidia/current_vgpu_type", f->address);

        ret[0] = '\0';
        if (current > 0) {
                snprintf(ret, HOST_TEXT_MAX, "has vGPU type %lld", current);
                return;
        }
        for (size_t i = 0; i < n && used < HOST_TEXT_MAX; i++)
                used += (size_t)snprintf(ret + used, HOST_TEXT_MAX - used, "%s%s",
                        i ? ", " : "can become ", types[i].name);
}

static int check(const struct host *host, const struct pci_function *f,
        const struct technique_ask *ask, struct obstacles *obstacles)
{
        struct vgpu_type types[64];
        long long current;
        size_t n, i;

        if (!concerns(host, f)) {
                obstacles_add(obstacles, OBSTACLE_NO_VGPU,
                        "%s is no virtual function of NVIDIA's vGPU host driver", f->address);
                return 0;
        }
        if (strstr(f->driver, "vfio"))
                obstacles_add(obstacles, OBSTACLE_ON_VFIO,
                        "%s is on %s, but a vGPU's function has to stay with NVIDIA's driver",
                        f->address, f->driver);
        vgpu_check_ecc(host, f, obstacles);
        current = host_number(host, 0, "bus/pci/devices/%s/nvidia/current_vgpu_type", f->address);
        if (current > 0) {
                obstacles_add(obstacles, OBSTACLE_VGPU_TAKEN,
                        "%s has a vGPU of type %lld already, which Cleave has not made", f->address,
                        current);
                return 0;
        }
        if (!ask->type)
                return 0;
        n = creatable(host, f, types, ARRAY_SIZE(types));
        for (i = 0; i < n; i++)
                if (is_type(types + i, ask->type))
                        return 0;
        if (n == 0)
                obstacles_add(obstacles, OBSTACLE_TYPE_EXHAUSTED,
                        "no vGPU can be made on %s now: the card is full, or of another size",
                        f->address);
        else {
                char list[HOST_TEXT_MAX];

                offers(host, f, list);
                obstacles_add(obstacles, OBSTACLE_NO_TYPE, "%s cannot become a %s now; it %s",
                        f->address, ask->type, list);
        }
        return 0;
}

static int plan(const struct host *host, const struct pci_function *f,
        const struct technique_ask *ask, struct change *change, struct cleave_error *error)
{
        struct vgpu_type types[64];
        size_t n = creatable(host, f, types, ARRAY_SIZE(types));
        char path[HOST_PATH_MAX], text[16], what[160];
        struct change_step *step;

        if (!ask->type)
                return error_set(
                        error, CLEAVE_REASON_BAD_REQUEST, "say which type to make (--type)");
        snprintf(path, sizeof(path), "bus/pci/devices/%s/nvidia/current_vgpu_type", f->address);
        for (size_t i = 0; i < n; i++) {
                if (!is_type(types + i, ask->type))
                        continue;
                snprintf(text, sizeof(text), "%u", types[i].id);
                snprintf(what, sizeof(what), "make %s a %s", f->address, types[i].name);
                step = change_add(change, host, what, path, text, NULL, NULL);
                if (!step)
                        return -ENOMEM;
                json_object_set_new(change->geometry, "type", json_string(types[i].name));
                return change_add_undo(step, path, "0", path, text);
        }
        return -ENOENT;
}

static int check_undo(
        const struct host *host, const struct change *change, struct obstacles *obstacles)
{
        _cleanup_holders_ struct holders holders = {0};
        struct pci_function f;
        int r;

        if (pci_read(host, change->device, &f) < 0)
                return 0;
        /* A VM opens the function's group though the driver is NVIDIA's. */
        snprintf(f.driver, sizeof(f.driver), "vfio");
        r = holders_find(host, &f, NULL, true, &holders);
        if (r == 0)
                holders_tell(&holders, f.address, OBSTACLE_FUNCTION_HELD, obstacles);
        return r;
}

static json_t *attach(
        const struct host *host, const struct change *change, struct cleave_error *error)
{
        struct pci_function f;

        if (pci_read(host, change->device, &f) < 0 || f.group < 0) {
                error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no PCI device %s",
                        change->device);
                return NULL;
        }
        return json_pack("[o]", attach_vfio(f.address, f.group));
}

static int print(FILE *out, const struct host *host, const struct change *change,
        enum technique_form form, struct cleave_error *error)
{
        struct pci_function f;

        if (form == FORM_ESXI || form == FORM_HYPERV)
                return attach_vgpu_elsewhere(error);
        if (pci_read(host, change->device, &f) < 0)
                return error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no PCI device %s",
                        change->device);
        return attach_print_functions(out, host, &f, 1, false, form, error);
}

const struct technique technique_vgpu = {
        .name = "vgpu",
        .title = "NVIDIA vGPU on a virtual function",
        .concerns = concerns,
        .offers = offers,
        .check = check,
        .plan = plan,
        .check_undo = check_undo,
        .attach = attach,
        .print = print,
};
