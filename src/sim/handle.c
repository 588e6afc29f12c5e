/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "exec.h"

#define CELLS_PER_CHUNK 4096u
#define MAX_CHUNKS      1024u
/* So many cells rest before one is used again, so that a stale handle is found out. */
#define RESTING 1024u

struct cell {
        _Atomic(void *) object;
        _Atomic uint32_t type;
        uint32_t next; /* of the free cells, 0: the last */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cell *_Atomic chunks[MAX_CHUNKS];
static _Atomic uint32_t n_chunks;
static uint32_t used = 1; /* cells ever used; number 0 stands for none */
static uint32_t first_free, last_free, n_free;

static struct cell *cell_at(uint32_t number)
{
        return atomic_load(&chunks[number / CELLS_PER_CHUNK]) + number % CELLS_PER_CHUNK;
}

static uint32_t cell_number(const void *handle)
{
        uint32_t n = atomic_load_explicit(&n_chunks, memory_order_acquire);

        for (uint32_t i = 0; i < n; i++) {
                const char *chunk =
                        (const char *)atomic_load_explicit(&chunks[i], memory_order_relaxed);
                size_t offset = (size_t)((const char *)handle - chunk);

                if ((const char *)handle >= chunk && offset < CELLS_PER_CHUNK * sizeof(struct cell))
                        return offset % sizeof(struct cell) == 0
                                       ? i * CELLS_PER_CHUNK +
                                                 (uint32_t)(offset / sizeof(struct cell))
                                       : 0;
        }
        return 0;
}

static uint32_t take_cell(void)
{
        uint32_t number;

        if (n_free > RESTING) {
                number = first_free;
                first_free = cell_at(number)->next;
                n_free--;
                return number;
        }
        if (used / CELLS_PER_CHUNK >= n_chunks) {
                struct cell *chunk;

                if (n_chunks == MAX_CHUNKS)
                        return 0;
                chunk = calloc(CELLS_PER_CHUNK, sizeof(*chunk));
                if (!chunk)
                        return 0;
                atomic_store(&chunks[n_chunks], chunk);
                atomic_fetch_add_explicit(&n_chunks, 1, memory_order_release);
        }
        return used++;
}

void *handle_new(enum handle_type type, void *object)
{
        struct cell *cell = NULL;
        uint32_t number;

        pthread_mutex_lock(&lock);
        number = take_cell();
        if (number) {
                cell = cell_at(number);
                cell->next = 0;
                atomic_store_explicit(&cell->object, object, memory_order_relaxed);
                atomic_store_explicit(&cell->type, type, memory_order_release);
        }
        pthread_mutex_unlock(&lock);
        return cell;
}

enum handle_type handle_type(const void *handle)
{
        uint32_t number = cell_number(handle);

        return number ? atomic_load_explicit(&cell_at(number)->type, memory_order_acquire)
                      : HANDLE_FREE;
}

void *handle_get(enum handle_type type, const void *handle)
{
        uint32_t number = cell_number(handle);

        if (!number || atomic_load_explicit(&cell_at(number)->type, memory_order_acquire) != type)
                return NULL;
        return atomic_load_explicit(&cell_at(number)->object, memory_order_relaxed);
}

void handle_free(void *handle)
{
        uint32_t number;

        pthread_mutex_lock(&lock);
        number = cell_number(handle);
        if (number && atomic_load(&cell_at(number)->type) != HANDLE_FREE) {
                atomic_store(&cell_at(number)->type, HANDLE_FREE);
                if (n_free++ == 0)
                        first_free = number;
                else
                        cell_at(last_free)->next = number;
                last_free = number;
        }
        pthread_mutex_unlock(&lock);
}
