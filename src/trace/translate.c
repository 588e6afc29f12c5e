/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/translate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "call.h"

struct handle {
        struct {
                uint64_t space, theirs;
        } key;
        uint64_t ours;
        UT_hash_handle hh;
};

struct range {
        uint64_t theirs, ours, size;
};

struct ranges {
        struct range *of; /* by theirs, without overlaps */
        size_t count, room;
};

struct translation {
        struct handle *handles;
        struct ranges ranges[CALL_SPACE_FIRST];
};

struct translation *translation_new(void)
{
        return calloc(1, sizeof(struct translation));
}

void translation_free(struct translation *t)
{
        struct handle *handle, *next;

        if (!t)
                return;
        HASH_ITER(hh, t->handles, handle, next)
        {
                HASH_DEL(t->handles, handle);
                free(handle);
        }
        for (unsigned i = 0; i < CALL_SPACE_FIRST; i++)
                free(t->ranges[i].of);
        free(t);
}

static struct handle *find(const struct translation *t, unsigned space, uint64_t theirs)
{
        struct handle *handle, key = {.key = {space, theirs}};

        HASH_FIND(hh, t->handles, &key.key, sizeof(key.key), handle);
        return handle;
}

int translation_bind(struct translation *t, unsigned space, uint64_t theirs, uint64_t ours)
{
        struct handle *handle = find(t, space, theirs);

        if (!handle) {
                handle = calloc(1, sizeof(*handle));
                if (!handle)
                        return -ENOMEM;
                handle->key.space = space;
                handle->key.theirs = theirs;
                HASH_ADD(hh, t->handles, key, sizeof(handle->key), handle);
        }
        handle->ours = ours;
        return 0;
}

bool translation_find(
        const struct translation *t, unsigned space, uint64_t theirs, uint64_t *ret_ours)
{
        const struct handle *handle = find(t, space, theirs);

        if (handle)
                *ret_ours = handle->ours;
        return handle != NULL;
}

/* The first range that ends behind the address. */
static size_t first_behind(const struct ranges *r, uint64_t theirs)
{
        size_t low = 0, high = r->count;

        while (low < high) {
                size_t middle = (low + high) / 2;

                if (r->of[middle].theirs + r->of[middle].size > theirs)
                        high = middle;
                else
                        low = middle + 1;
        }
        return low;
}

int translation_bind_range(
        struct translation *t, unsigned space, uint64_t theirs, uint64_t ours, uint64_t size)
{
        struct ranges *r = &t->ranges[space];
        size_t from = first_behind(r, theirs), to;

        if (size == 0 || theirs + size < theirs)
                return 0;
        /* one that begins before keeps its beginning */
        if (from < r->count && r->of[from].theirs < theirs) {
                r->of[from].size = theirs - r->of[from].theirs;
                from++;
        }
        to = from;
        while (to < r->count && r->of[to].theirs < theirs + size)
                to++;
        if (r->count + 1 > r->room) {
                size_t room = r->room ? 2 * r->room : 64;
                struct range *larger = reallocarray(r->of, room, sizeof(*larger));

                if (!larger)
                        return -ENOMEM;
                r->of = larger;
                r->room = room;
        }
        memmove(r->of + from + 1, r->of + to, (r->count - to) * sizeof(*r->of));
        r->count = r->count - (to - from) + 1;
        r->of[from] = (struct range){theirs, ours, size};
        return 0;
}

bool translation_find_range(const struct translation *t, unsigned space, uint64_t theirs,
        uint64_t *ret_ours, uint64_t *ret_left)
{
        const struct ranges *r = &t->ranges[space];
        size_t i = first_behind(r, theirs);

        if (i == r->count || r->of[i].theirs > theirs)
                return false;
        *ret_ours = r->of[i].ours + (theirs - r->of[i].theirs);
        *ret_left = r->of[i].size - (theirs - r->of[i].theirs);
        return true;
}

uint64_t translation_room(const struct translation *t, unsigned space, uint64_t theirs)
{
        const struct ranges *r = &t->ranges[space];
        size_t i = first_behind(r, theirs);

        if (i == r->count)
                return UINT64_MAX;
        return r->of[i].theirs > theirs ? r->of[i].theirs - theirs
                                        : r->of[i].theirs + r->of[i].size - theirs;
}
