/* SPDX-License-Identifier: Apache-2.0 */
/* Words for hypervisors and containers: how a VM or a container gets what was made. */
#pragma once

#include "partition/technique.h"

/* functions: of one card, the first is the GPU. managed: libvirt may bind and release it by itself;
 * not for a function that stays with the vendor's driver. */
int attach_print_functions(FILE *out, const struct host *host, const struct pci_function *functions,
        int n, bool managed, enum technique_form form, struct cleave_error *error);

/* type: as in sysfs, "nvidia-689"; name: what its file of that name says, by which KubeVirt knows
 * it, "GRID A30-6C". */
int attach_print_mediated(FILE *out, const char *uuid, const char *type, const char *name,
        enum technique_form form, struct cleave_error *error);

/* For forms of systems on which vGPUs are made by other means: the error that says so. */
int attach_vgpu_elsewhere(struct cleave_error *error);

/* devices: as technique.attach gives them. libraries: mounts of the driver's own files, as the
 * Container Device Interface has them. form: FORM_CDI, FORM_PODMAN or FORM_POD. */
#define ATTACH_KIND "cleave.dev/partition"
int attach_print_container(FILE *out, const json_t *devices, const json_t *libraries,
        enum technique_form form, struct cleave_error *error);

/* The device for a container in which a hypervisor runs: the files of VFIO for that IOMMU group. A
 * new reference. */
json_t *attach_vfio(const char *name, int group);
