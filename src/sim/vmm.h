/* SPDX-License-Identifier: Apache-2.0 */
/* Physical memory that cuMemCreate makes, apart from where it is mapped. */
#pragma once

#include <stdint.h>

#include "driver.h"

struct vmm_handle {
        uint64_t magic;
        uint32_t references;       /* names that the user holds and mappings */
        uint32_t names;            /* of these, the user's */
        struct sim_memory *memory; /* NULL: host memory */
        CUmemAllocationProp properties;
        uint64_t size;
        struct vmm_handle *next;
};

/* Drops a mapping's reference. Locked. */
void vmm_unref(struct vmm_handle *handle);
