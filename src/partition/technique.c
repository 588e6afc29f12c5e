/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "partition/technique.h"

const struct technique *const techniques[] = {
        &technique_mig,
        &technique_passthrough,
        &technique_sriov,
        &technique_vgpu,
        &technique_mediated,
        &technique_modes,
};
const size_t n_techniques = ARRAY_SIZE(techniques);

const struct technique *technique_find(const char *name)
{
        for (size_t i = 0; i < n_techniques; i++)
                if (strcmp(techniques[i]->name, name) == 0)
                        return techniques[i];
        return NULL;
}

int form_parse(const char *word, enum technique_form *ret)
{
        static const char *const words[] = {
                [FORM_QEMU] = "qemu",
                [FORM_LIBVIRT] = "libvirt",
                [FORM_KUBEVIRT] = "kubevirt",
                [FORM_NOVA] = "nova",
                [FORM_ESXI] = "esxi",
                [FORM_HYPERV] = "hyperv",
                [FORM_CDI] = "cdi",
                [FORM_PODMAN] = "podman",
                [FORM_POD] = "pod",
        };

        for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
                if (strcmp(words[i], word) == 0) {
                        *ret = i;
                        return 0;
                }
        return -EINVAL;
}

static int find_device(const struct host *host, const char *address, struct pci_function *ret,
        struct cleave_error *error)
{
        int r = pci_read(host, address, ret);

        if (r == -EINVAL)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "'%s' is no PCI address as 0000:01:00.0", address);
        if (r < 0)
                return error_set(
                        error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no PCI device %s", address);
        return 0;
}

int technique_plan(const struct technique *technique, const struct host *host, const char *address,
        const struct technique_ask *ask, struct change *change, struct obstacles *obstacles,
        struct cleave_error *error)
{
        struct pci_function function;
        char what[96];
        int r;

        r = find_device(host, address, &function, error);
        if (r < 0)
                return r;
        if (!pci_is_gpu(&function) && !ask->any_device)
                obstacles_add(obstacles, OBSTACLE_NOT_A_GPU, "%s is not a GPU (%s)",
                        function.address, pci_class_name(function.class));
        r = technique->check(host, &function, ask, obstacles);
        if (r < 0)
                return error_set_errno(error, r, "cannot look at %s", function.address);
        snprintf(what, sizeof(what), "plan %s on %s", technique->name, function.address);
        r = obstacles_error(obstacles, what, error);
        if (r < 0)
                return r;
        r = change_init(change, host, technique->name, function.address);
        if (r == 0)
                r = technique->plan(host, &function, ask, change, error);
        if (r < 0 && error && !error->code)
                error_set_errno(error, r, "cannot plan %s on %s", technique->name, address);
        return r;
}

int technique_apply(const struct technique *technique, struct host *host, const char *address,
        const struct technique_ask *ask, struct change *change, struct obstacles *obstacles,
        struct cleave_error *error)
{
        struct pci_function function;
        int r;

        r = technique_plan(technique, host, address, ask, change, obstacles, error);
        if (r < 0)
                return r;
        r = find_device(host, address, &function, error);
        if (r == 0 && technique->prepare)
                r = technique->prepare(host, &function, error);
        if (r == 0)
                r = change_apply(host, change, error);
        if (r < 0 || !technique->verify)
                return r;
        r = technique->verify(host, change, obstacles, error);
        if (r < 0)
                change_undo(host, change, NULL);
        return r;
}

int technique_undo(
        struct host *host, const char *id, struct obstacles *obstacles, struct cleave_error *error)
{
        _cleanup_change_ struct change change = {0};
        const struct technique *technique;
        char what[96];
        int r;

        r = change_load(host, id, &change, error);
        if (r < 0)
                return r;
        technique = technique_find(change.technique);
        if (technique && technique->check_undo) {
                r = technique->check_undo(host, &change, obstacles);
                if (r < 0)
                        return error_set_errno(error, r, "cannot look at %s", change.device);
                snprintf(what, sizeof(what), "take back %s", id);
                r = obstacles_error(obstacles, what, error);
                if (r < 0)
                        return r;
        }
        return change_undo(host, &change, error);
}
