/* SPDX-License-Identifier: Apache-2.0 */
/* What NVIDIA's vGPU host driver says against making vGPUs, whichever of its two interfaces makes
 * them. */
#pragma once

#include "partition/technique.h"

/* ECC: with some cards and releases (before 9.0 with all) there is no vGPU while it is on. */
void vgpu_tell_ecc(const struct vgpu_host *vgpus, const char *address, struct obstacles *obstacles);
/* The same, asked of the driver: of a function or, for a virtual one, of its physical one. */
void vgpu_check_ecc(
        const struct host *host, const struct pci_function *function, struct obstacles *obstacles);
