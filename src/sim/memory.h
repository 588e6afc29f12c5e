/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the memory half of the simulated driver: the region of device addresses and what lies
 * in it.
 *
 * The region is cut into slots of 2 MiB; a table says which block each belongs to. One lock covers
 * region, blocks and pools; functions with "locked" in their contract want it held for writing.
 */
#pragma once

#include <stdint.h>

#include "driver.h"
#include "heap.h"

#define SLOT_SHIFT 21
#define SLOT_BYTES (1ull << SLOT_SHIFT)

enum block_kind {
        BLOCK_ALONE,    /* one allocation with memory of its own */
        BLOCK_SHARED,   /* 2 MiB that small allocations share */
        BLOCK_INTERNAL, /* the same for the driver's own */
        BLOCK_CHUNK,    /* of a pool */
        BLOCK_RESERVED, /* addresses reserved for cuMemMap */
        BLOCK_IPC,      /* opened from another process */
        BLOCK_MANAGED,
        BLOCK_HOST,
        BLOCK_ARRAY,
};

struct vmm_handle;

/* One 2 MiB piece of a reserved block. */
struct vmm_slot {
        struct vmm_handle *handle; /* NULL: nothing mapped */
        uint64_t offset;           /* in the handle's memory */
        uint32_t start;            /* slot of the block where this mapping begins, */
        uint32_t slots;            /* and how many it has */
        uint32_t access;           /* two bits a device index: CU_MEM_ACCESS_FLAGS_PROT_* */
};

struct block {
        enum block_kind kind;
        uint32_t flags;       /* host and managed memory: as given */
        uint64_t base, bytes; /* in the region; bytes is a multiple of SLOT_BYTES */
        uint64_t asked;       /* BLOCK_ALONE and the like: length that the user knows */
        uint64_t id;          /* of the allocation, or of the first in it */
        struct sim_device *device;
        struct sim_context *context;
        struct sim_memory *memory;
        uint32_t managed; /* RM's name of managed memory */
        struct heap heap; /* BLOCK_SHARED, BLOCK_INTERNAL, BLOCK_CHUNK */
        struct sim_pool *pool;
        struct vmm_slot *slot;
        uint32_t references; /* BLOCK_IPC: times opened */
        uint32_t ipc_client, ipc_handle;
        uint64_t ipc_offset;
        bool sync_memops;
        struct block *next, *previous; /* in the context's or pool's list */
};

/* What a context holds in memory. Under the region's lock. */
struct sim_context_memory {
        struct sim_context *context;
        struct sim_context_memory *next; /* of all contexts' */
        struct block *blocks;            /* all blocks of the context */
        struct sim_memory *footprint[48];
        int pieces;
        struct sim_rm_objects objects;
};

/* Reserves the region. -ENOMEM: not even a small one could be had. */
int region_open(void);
void region_lock(void);
void region_lock_shared(void);
void region_unlock(void);

/* Everything below: locked. */

/* A block of that many bytes of free addresses, not mapped; alignment a power of two, wanted an
 * address or 0. NULL: no room. Not yet in a list. */
struct block *block_new(enum block_kind kind, uint64_t bytes, uint64_t alignment, uint64_t wanted);
/* Unmaps, frees memory and everything else that it holds, and the block. */
void block_free(struct block *block);
struct block *block_at(uint64_t address); /* or NULL */

/* Maps the block's memory at its base. */
CUresult block_map(struct block *block);
/* Device memory through RM, after trimming and trying again if need be. */
CUresult memory_take(struct sim_device *device, uint64_t bytes, struct sim_memory **ret);
void memory_give(struct sim_memory *memory);
/* A block of a context with memory of its own, mapped, in the context's list. */
CUresult block_alloc(
        enum block_kind kind, struct sim_context *context, uint64_t bytes, struct block **ret);
void block_link(struct block **list, struct block *block);
void block_unlink(struct block **list, struct block *block);
uint64_t new_id(void);

/* Gives back all memory of the device that nobody uses: pools', cached blocks. */
void memory_trim(struct sim_device *device);
void pool_trim_device(struct sim_device *device);
/* The last context of the device in this process has ended: its pools lose their memory. */
void pool_forget_device(struct sim_device *device);
/* Maps part of a piece of memory at an address of the region; makes addresses untouchable. */
CUresult region_map(
        uint64_t address, uint64_t bytes, const struct sim_memory *memory, uint64_t offset);
void region_unmap(uint64_t address, uint64_t bytes);

/* A context's memory: the footprint when it is made, everything when it ends. Not locked. */
CUresult context_memory_new(struct sim_context *context);
void context_memory_free(struct sim_context *context);

/* What lies at an address: the allocation, or NULL. segment is that of a heap or NULL. */
struct block *find_allocation(uint64_t address, const struct heap_segment **ret_segment);
/* The same as a range. Locked, shared suffices. */
CUresult range_locked(CUdeviceptr pointer, size_t bytes, struct sim_range *ret);

/* Registered host memory. */
struct registered {
        uint64_t base, bytes;
        uint64_t id;
        uint32_t flags;
        struct sim_context *context;
        struct registered *next;
};
struct registered *find_registered(uint64_t address);
/* A context's registrations and arrays end with it; the arrays' memory is freed as its blocks. */
void registered_forget(struct sim_context *context);
void arrays_forget(struct sim_context *context);
