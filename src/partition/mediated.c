/* SPDX-License-Identifier: Apache-2.0 */
/* Mediated devices: NVIDIA vGPU up to Ampere and older kernels, Intel GVT-g, and others alike. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/parse.h"
#include "partition/attach.h"
#include "partition/holders.h"
#include "partition/vgpu.h"

#define TYPES "class/mdev_bus/%s/mdev_supported_types"

static bool concerns(const struct host *host, const struct pci_function *f)
{
        return host_exists(host, TYPES, f->address);
}

/* The name that people know: the last word of NVIDIA's "GRID A100-10C", the type's own otherwise.
 */
static void type_name(const struct host *host, const struct pci_function *f, const char *type,
        char ret[static HOST_TEXT_MAX])
{
        char name[HOST_TEXT_MAX];
        const char *blank;

        host_read(host, name, TYPES "/%s/name", f->address, type);
        blank = strrchr(name, ' ');
        snprintf(ret, HOST_TEXT_MAX, "%s", blank ? blank + 1 : *name ? name : type);
}

static void offers(
        const struct host *host, const struct pci_function *f, char ret[static HOST_TEXT_MAX])
{
        _cleanup_names_ struct host_names types = {0};
        size_t used = 0;

        ret[0] = '\0';
        if (host_list(host, &types, TYPES, f->address) < 0)
                return;
        for (size_t i = 0; i < types.n && used < HOST_TEXT_MAX; i++) {
                char name[HOST_TEXT_MAX];

                type_name(host, f, types.name[i], name);
                used += (size_t)snprintf(ret + used, HOST_TEXT_MAX - used, "%s%lld x %s",
                        i ? ", " : "",
                        host_number(host, 0, TYPES "/%s/available_instances", f->address,
                                types.name[i]),
                        name);
        }
}

/* The type's directory by its own name or the one that people know. */
static int find_type(const struct host *host, const struct pci_function *f, const char *wanted,
        char ret[static HOST_TEXT_MAX])
{
        _cleanup_names_ struct host_names types = {0};
        int r;

        r = host_list(host, &types, TYPES, f->address);
        for (size_t i = 0; r == 0 && i < types.n; i++) {
                char name[HOST_TEXT_MAX];

                type_name(host, f, types.name[i], name);
                if (strcmp(types.name[i], wanted) == 0 || strcmp(name, wanted) == 0) {
                        snprintf(ret, HOST_TEXT_MAX, "%s", types.name[i]);
                        return 0;
                }
        }
        return r < 0 ? r : -ENOENT;
}

static int check(const struct host *host, const struct pci_function *f,
        const struct technique_ask *ask, struct obstacles *obstacles)
{
        char type[HOST_TEXT_MAX];
        int r;

        if (!concerns(host, f)) {
                obstacles_add(obstacles, OBSTACLE_NO_MEDIATED, "%s makes no mediated devices%s",
                        f->address,
                        f->vendor == PCI_VENDOR_INTEL
                                ? ": load kvmgt, with i915.enable_gvt=1 (Broadwell to Comet Lake)"
                        : f->vendor == PCI_VENDOR_NVIDIA
                                ? ": the vGPU host driver is missing, or this card's vGPUs are "
                                  "virtual functions"
                                : "");
                return 0;
        }
        vgpu_check_ecc(host, f, obstacles);
        /* Looked at without a wish. */
        if (!ask->type)
                return 0;
        r = find_type(host, f, ask->type, type);
        if (r == -ENOENT) {
                offers(host, f, type);
                obstacles_add(obstacles, OBSTACLE_NO_TYPE, "%s has no type %s; it has %s",
                        f->address, ask->type, type);
                return 0;
        }
        if (r == 0 && host_number(host, 0, TYPES "/%s/available_instances", f->address, type) <= 0)
                obstacles_add(obstacles, OBSTACLE_TYPE_EXHAUSTED, "%s has no room for another %s",
                        f->address, ask->type);
        return r;
}

static bool is_uuid(const char *text)
{
        for (unsigned i = 0; i < 36; i++) {
                bool dash = i == 8 || i == 13 || i == 18 || i == 23;

                if (dash ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
                        return false;
        }
        return text[36] == '\0';
}

/* RFC 4122, version 4. */
static int new_uuid(char ret[static 37])
{
        uint8_t b[16];

        if (getrandom(b, sizeof(b), 0) != sizeof(b))
                return -EIO;
        b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
        b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
        snprintf(ret, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12],
                b[13], b[14], b[15]);
        return 0;
}

static int plan(const struct host *host, const struct pci_function *f,
        const struct technique_ask *ask, struct change *change, struct cleave_error *error)
{
        char type[HOST_TEXT_MAX], uuid[37], path[HOST_PATH_MAX], made[HOST_PATH_MAX],
                away[HOST_PATH_MAX], what[HOST_TEXT_MAX + 64];
        struct change_step *step;
        int r;

        if (!ask->type)
                return error_set(
                        error, CLEAVE_REASON_BAD_REQUEST, "say which type to make (--type)");
        if (ask->uuid && !is_uuid(ask->uuid))
                return error_set(error, CLEAVE_REASON_BAD_REQUEST, "'%s' is no UUID", ask->uuid);
        r = find_type(host, f, ask->type, type);
        if (r == 0 && ask->uuid)
                snprintf(uuid, sizeof(uuid), "%s", ask->uuid);
        else if (r == 0)
                r = new_uuid(uuid);
        if (r < 0)
                return r;
        if (host_exists(host, "bus/mdev/devices/%s", uuid))
                return error_set(error, CLEAVE_REASON_NAME_TAKEN,
                        "a mediated device %s exists already, and Cleave has not made it", uuid);
        /* A parent has many: the UUID names one. */
        snprintf(change->id, sizeof(change->id), "mediated-%s", uuid);
        snprintf(path, sizeof(path), TYPES "/%s/create", f->address, type);
        snprintf(made, sizeof(made), "bus/mdev/devices/%s/mdev_type", uuid);
        snprintf(away, sizeof(away), "bus/mdev/devices/%s/remove", uuid);
        snprintf(what, sizeof(what), "make a %s of %s", ask->type, f->address);
        step = change_add(change, host, what, path, uuid, made, type);
        if (!step)
                return -ENOMEM;
        json_object_set_new(change->geometry, "uuid", json_string(uuid));
        json_object_set_new(change->geometry, "type", json_string(type));
        return change_add_undo(step, away, "1", made, type);
}

static int check_undo(
        const struct host *host, const struct change *change, struct obstacles *obstacles)
{
        const char *uuid = json_string_value(json_object_get(change->geometry, "uuid"));
        _cleanup_holders_ struct holders holders = {0};
        struct pci_function f = {.group = -1, .driver = "vfio"};
        char path[HOST_PATH_MAX], group[HOST_TEXT_MAX];
        int r;

        snprintf(path, sizeof(path), "bus/mdev/devices/%s/iommu_group", uuid ?: "");
        host_state(host, path, group);
        if (!uuid || !*group)
                return 0;
        f.group = atoi(group);
        r = holders_find(host, &f, uuid, true, &holders);
        if (r == 0)
                holders_tell(&holders, uuid, OBSTACLE_HELD, obstacles);
        return r;
}

static json_t *attach(
        const struct host *host, const struct change *change, struct cleave_error *error)
{
        const char *uuid = json_string_value(json_object_get(change->geometry, "uuid"));
        char path[HOST_PATH_MAX], group[HOST_TEXT_MAX];

        snprintf(path, sizeof(path), "bus/mdev/devices/%s/iommu_group", uuid ?: "");
        if (host_state(host, path, group) < 0 || !isdigit((unsigned char)*group)) {
                error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE,
                        "the mediated device %s has no group of VFIO's", uuid ?: "");
                return NULL;
        }
        return json_pack("[o]", attach_vfio(uuid, atoi(group)));
}

static int print(FILE *out, const struct host *host, const struct change *change,
        enum technique_form form, struct cleave_error *error)
{
        const char *uuid = json_string_value(json_object_get(change->geometry, "uuid"));
        const char *type = json_string_value(json_object_get(change->geometry, "type"));
        char name[HOST_TEXT_MAX];

        host_read(host, name, "bus/mdev/devices/%s/mdev_type/name", uuid ?: "");
        return attach_print_mediated(
                out, uuid ?: "", type ?: "", *name ? name : type ?: "", form, error);
}

const struct technique technique_mediated = {
        .name = "mediated",
        .title = "mediated devices (vGPU to Ampere, GVT-g)",
        .concerns = concerns,
        .offers = offers,
        .check = check,
        .plan = plan,
        .check_undo = check_undo,
        .attach = attach,
        .print = print,
};
