/* SPDX-License-Identifier: Apache-2.0 */
/* A piece of address space that allocations share: which parts of it are used. No locking. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct heap_segment {
        uint64_t offset, size;
        uint64_t asked; /* what the user asked for; 0: free */
        uint64_t id;
        uint64_t freeing; /* not 0: its user has given it up in this stream, which is not there yet
                           */
};

struct heap {
        struct heap_segment *segment; /* sorted, without gaps */
        size_t n, room;
        uint64_t size, used;
        uint64_t largest; /* no free segment is larger than this */
};

/* 0 or -ENOMEM. */
int heap_init(struct heap *heap, uint64_t size);
void heap_done(struct heap *heap);
/* First fit; size must be a multiple of the alignment that all allocations share. 0 or -ENOMEM. */
int heap_alloc(struct heap *heap, uint64_t size, uint64_t asked, uint64_t id, uint64_t *ret_offset);
/* -ENOENT: no allocation begins there. */
int heap_free(struct heap *heap, uint64_t offset);
/* An allocation that was given up in that stream and is large enough, and not far too large, passes
 * to a new user, who comes later in the same stream. -ENOENT: there is none. */
int heap_pass_on(struct heap *heap, uint64_t size, uint64_t asked, uint64_t id, uint64_t stream,
        uint64_t *ret_offset);
/* Marks the allocation that begins there as given up. -ENOENT: none does, or it is already. */
int heap_give_up(struct heap *heap, uint64_t offset, uint64_t stream, uint64_t *ret_id);
/* Takes the mark away if the allocation is still that one: -ENOENT if not. */
int heap_keep(struct heap *heap, uint64_t offset, uint64_t id);
/* The allocation that contains offset, or NULL. */
const struct heap_segment *heap_find(const struct heap *heap, uint64_t offset);
