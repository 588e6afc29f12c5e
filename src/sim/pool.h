/* SPDX-License-Identifier: Apache-2.0 */
/* Memory pools, as the files of memory see them. Under the region's lock. */
#pragma once

#include "memory.h"

#define POOL_MAGIC 0x6c6f6f704d4953ull /* "SIMpool" */
#define POOL_CHUNK (32ull << 20)       /* the step in which a pool takes memory */

struct sim_pool {
        uint64_t magic;
        struct sim_device *device;
        bool explicit_; /* made by cuMemPoolCreate */
        bool graph;     /* of the device's graph memory */
        bool imported;  /* another process's: only pointers are imported from it */
        bool destroyed; /* by the user; goes when its last allocation does */
        CUmemPoolProps properties;
        struct block *chunks;
        uint64_t pending; /* allocations given up in streams that are not there yet */
        uint64_t threshold;
        uint64_t reserved, reserved_high;
        uint64_t used, used_high;
        int reuse[3];    /* the attributes of that name */
        uint32_t access; /* two bits a device index */
        struct sim_pool *next;
};

/* For an imported pool: what its descriptor says of the exporter. */
CUresult pool_new_imported(struct sim_device *device, struct sim_pool **ret);
/* Frees the allocation that begins at pointer. Locked. */
CUresult pool_free_locked(CUdeviceptr pointer);
