/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The RM objects of this process that matter to us, as RM keeps them: a tree by parent, where
 * freeing one frees all below it. A handle is unique within its client; a client is its own handle.
 *
 * Not locked: the caller is.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "driver.h"

enum object_kind {
        OBJECT_UNKNOWN, /* seen only as somebody's parent */
        OBJECT_CLIENT,
        OBJECT_DEVICE,
        OBJECT_SUBDEVICE,
        OBJECT_GPU_INSTANCE, /* of MIG: what the process uses of the device, below its subdevice, */
        OBJECT_COMPUTE,      /* and of the instance, below that */
        OBJECT_MEMORY,
        OBJECT_GROUP,
        OBJECT_CHANNEL,
};

#define OBJECT_NO_DEVICE UINT32_MAX

struct object {
        uint32_t client, handle;
        enum object_kind kind;
        uint32_t device;   /* memory: index in the grant that it was charged to */
        uint32_t instance; /* device: RM's number of it; group: engine */
        uint64_t units;    /* memory: charged */
        struct object *parent, *children, *next, **prev; /* next, prev: among siblings */
        struct object *bucket;                           /* chain of the hash table */
};

/* The object, or NULL. */
HIDDEN struct object *objects_find(uint32_t client, uint32_t handle);
/* Adds one below a parent, which is made as OBJECT_UNKNOWN if it was not seen; an object of that
 * name that still stands is replaced in place, keeping its children. NULL: out of memory. */
HIDDEN struct object *objects_add(
        uint32_t client, uint32_t parent, uint32_t handle, enum object_kind kind);
/* Removes an object and all below it, telling gone() of each before it is freed. */
HIDDEN void objects_remove(struct object *object, void (*gone)(const struct object *));
/* The nearest object of that kind from object upward, itself included; NULL. */
HIDDEN struct object *objects_above(struct object *object, enum object_kind kind);
/* The first child of that kind; NULL. */
HIDDEN struct object *objects_child(struct object *object, enum object_kind kind);
