/* SPDX-License-Identifier: Apache-2.0 */
/* Physical memory that cuMemCreate makes, apart from where it is mapped. */
#pragma once

#include <stdint.h>

#include "driver.h"

struct vmm_handle {
        uint64_t name;       /* the user's handle */
        uint32_t names;      /* references that the user holds */
        uint32_t references; /* these, and mappings */
        struct sim_memory *memory;
        CUmemAllocationProp properties;
        uint64_t size;
};

/* Drops a reference. Locked. */
void vmm_unref(struct vmm_handle *handle);
