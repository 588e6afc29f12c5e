/* SPDX-License-Identifier: Apache-2.0 */
#include "heap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int heap_init(struct heap *heap, uint64_t size)
{
        struct heap_segment *segment = malloc(8 * sizeof(*segment));

        if (!segment)
                return -ENOMEM;
        segment[0] = (struct heap_segment){.size = size};
        *heap = (struct heap){
                .segment = segment,
                .n = 1,
                .room = 8,
                .size = size,
                .largest = size,
        };
        return 0;
}

void heap_done(struct heap *heap)
{
        free(heap->segment);
        *heap = (struct heap){0};
}

/* Index of the segment that contains offset. */
static size_t find(const struct heap *heap, uint64_t offset)
{
        size_t low = 0, high = heap->n;

        while (high - low > 1) {
                size_t middle = low + (high - low) / 2;

                if (heap->segment[middle].offset <= offset)
                        low = middle;
                else
                        high = middle;
        }
        return low;
}

static int make_room(struct heap *heap)
{
        struct heap_segment *more;

        if (heap->n < heap->room)
                return 0;
        more = realloc(heap->segment, 2 * heap->room * sizeof(*more));
        if (!more)
                return -ENOMEM;
        heap->segment = more;
        heap->room *= 2;
        return 0;
}

static void remove_segment(struct heap *heap, size_t i)
{
        memmove(heap->segment + i, heap->segment + i + 1,
                (heap->n - i - 1) * sizeof(*heap->segment));
        heap->n--;
}

int heap_alloc(struct heap *heap, uint64_t size, uint64_t asked, uint64_t id, uint64_t *ret_offset)
{
        uint64_t largest = 0;
        size_t i;

        if (size > heap->largest)
                return -ENOMEM;
        for (i = 0; i < heap->n; i++) {
                const struct heap_segment *segment = heap->segment + i;

                if (segment->asked)
                        continue;
                if (segment->size >= size)
                        break;
                if (segment->size > largest)
                        largest = segment->size;
        }
        if (i == heap->n) {
                heap->largest = largest;
                return -ENOMEM;
        }
        if (heap->segment[i].size > size) {
                if (make_room(heap) < 0)
                        return -ENOMEM;
                memmove(heap->segment + i + 1, heap->segment + i,
                        (heap->n - i) * sizeof(*heap->segment));
                heap->n++;
                heap->segment[i + 1].offset += size;
                heap->segment[i + 1].size -= size;
        }
        heap->segment[i].size = size;
        heap->segment[i].asked = asked;
        heap->segment[i].id = id;
        heap->segment[i].freeing = 0;
        heap->used += size;
        *ret_offset = heap->segment[i].offset;
        return 0;
}

int heap_free(struct heap *heap, uint64_t offset)
{
        size_t i = find(heap, offset);

        if (heap->segment[i].offset != offset || !heap->segment[i].asked)
                return -ENOENT;
        heap->used -= heap->segment[i].size;
        heap->segment[i].asked = 0;
        if (i + 1 < heap->n && !heap->segment[i + 1].asked) {
                heap->segment[i].size += heap->segment[i + 1].size;
                remove_segment(heap, i + 1);
        }
        if (i > 0 && !heap->segment[i - 1].asked) {
                heap->segment[i - 1].size += heap->segment[i].size;
                remove_segment(heap, i);
                i--;
        }
        if (heap->segment[i].size > heap->largest)
                heap->largest = heap->segment[i].size;
        return 0;
}

int heap_pass_on(struct heap *heap, uint64_t size, uint64_t asked, uint64_t id, uint64_t stream,
        uint64_t *ret_offset)
{
        for (size_t i = 0; i < heap->n; i++) {
                struct heap_segment *segment = heap->segment + i;

                if (segment->asked && segment->freeing == stream && segment->size >= size &&
                        segment->size / 2 <= size) {
                        segment->freeing = 0;
                        segment->asked = asked;
                        segment->id = id;
                        *ret_offset = segment->offset;
                        return 0;
                }
        }
        return -ENOENT;
}

int heap_give_up(struct heap *heap, uint64_t offset, uint64_t stream, uint64_t *ret_id)
{
        struct heap_segment *segment = heap->segment + find(heap, offset);

        if (segment->offset != offset || !segment->asked || segment->freeing)
                return -ENOENT;
        segment->freeing = stream;
        *ret_id = segment->id;
        return 0;
}

int heap_keep(struct heap *heap, uint64_t offset, uint64_t id)
{
        struct heap_segment *segment = heap->segment + find(heap, offset);

        if (segment->offset != offset || !segment->asked || !segment->freeing || segment->id != id)
                return -ENOENT;
        segment->freeing = 0;
        return 0;
}

const struct heap_segment *heap_find(const struct heap *heap, uint64_t offset)
{
        const struct heap_segment *segment;

        if (offset >= heap->size)
                return NULL;
        segment = heap->segment + find(heap, offset);
        return segment->asked ? segment : NULL;
}
