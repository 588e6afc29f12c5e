/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "objects.h"

/* A busy process has some ten thousand objects: chains stay short, and nothing is ever moved. */
#define BUCKETS 8192u

static struct object *buckets[BUCKETS];

static struct object **bucket_of(uint32_t client, uint32_t handle)
{
        uint32_t h = (client * 0x9e3779b1u) ^ (handle * 0x85ebca6bu);

        return &buckets[(h ^ h >> 15) & (BUCKETS - 1)];
}

struct object *objects_find(uint32_t client, uint32_t handle)
{
        struct object *object = *bucket_of(client, handle);

        while (object && (object->client != client || object->handle != handle))
                object = object->bucket;
        return object;
}

static struct object *object_new(uint32_t client, uint32_t handle)
{
        struct object **bucket = bucket_of(client, handle);
        struct object *object = calloc(1, sizeof(*object));

        if (!object)
                return NULL;
        object->client = client;
        object->handle = handle;
        object->device = OBJECT_NO_DEVICE;
        object->bucket = *bucket;
        *bucket = object;
        return object;
}

static void unlink_from_parent(struct object *object)
{
        if (!object->prev)
                return;
        *object->prev = object->next;
        if (object->next)
                object->next->prev = object->prev;
        object->prev = NULL;
        object->next = NULL;
        object->parent = NULL;
}

static void link_to_parent(struct object *object, struct object *parent)
{
        object->parent = parent;
        object->next = parent->children;
        object->prev = &parent->children;
        if (object->next)
                object->next->prev = &object->next;
        parent->children = object;
}

static bool is_below(const struct object *object, const struct object *above)
{
        for (; object; object = object->parent)
                if (object == above)
                        return true;
        return false;
}

struct object *objects_add(uint32_t client, uint32_t parent, uint32_t handle, enum object_kind kind)
{
        struct object *object = objects_find(client, handle), *above = NULL;

        if (kind != OBJECT_CLIENT) {
                above = objects_find(client, parent);
                if (!above)
                        above = objects_add(client, client, parent,
                                parent == client ? OBJECT_CLIENT : OBJECT_UNKNOWN);
                if (!above)
                        return NULL;
        }
        if (!object)
                object = object_new(client, handle);
        if (!object)
                return NULL;
        object->kind = kind;
        unlink_from_parent(object);
        if (above && !is_below(above, object))
                link_to_parent(object, above);
        return object;
}

static void object_free(struct object *object)
{
        struct object **at = bucket_of(object->client, object->handle);

        while (*at != object)
                at = &(*at)->bucket;
        *at = object->bucket;
        free(object);
}

void objects_remove(struct object *object, void (*gone)(const struct object *))
{
        while (object->children)
                objects_remove(object->children, gone);
        gone(object);
        unlink_from_parent(object);
        object_free(object);
}

struct object *objects_above(struct object *object, enum object_kind kind)
{
        while (object && object->kind != kind)
                object = object->parent;
        return object;
}

struct object *objects_child(struct object *object, enum object_kind kind)
{
        struct object *child = object->children;

        while (child && child->kind != kind)
                child = child->next;
        return child;
}
