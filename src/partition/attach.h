/* SPDX-License-Identifier: Apache-2.0 */
/* Words for hypervisors: how a VM gets the functions or the mediated device. */
#pragma once

#include "partition/technique.h"

/* functions: of one card, the first is the GPU. managed: libvirt may bind and release it by itself;
 * not for a function that stays with the vendor's driver. */
int attach_print_functions(FILE *out, const struct host *host, const struct pci_function *functions,
        int n, bool managed, enum technique_form form, struct cleave_error *error);

int attach_print_mediated(FILE *out, const char *uuid, const char *type, enum technique_form form,
        struct cleave_error *error);
