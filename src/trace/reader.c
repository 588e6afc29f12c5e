/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cuda_names.h"

static size_t padded(size_t size)
{
        return (size + 7) & ~(size_t)7;
}

/* By the time of their beginning; the file's order where that is the same. */
static int by_time(const void *left, const void *right)
{
        const struct trace_event *a = left, *b = right;

        if (a->record->begin != b->record->begin)
                return a->record->begin < b->record->begin ? -1 : 1;
        return a->record < b->record ? -1 : a->record > b->record;
}

static int add(struct trace_file *file, size_t *room, struct trace_event event)
{
        if (file->count == *room) {
                size_t more = *room ? 2 * *room : 1024;
                struct trace_event *larger = reallocarray(file->events, more, sizeof(*larger));

                if (!larger)
                        return -ENOMEM;
                file->events = larger;
                *room = more;
        }
        file->events[file->count++] = event;
        return 0;
}

static bool plausible(const struct trace_record *record, size_t left)
{
        return record->magic == TRACE_RECORD_MAGIC && record->size >= sizeof(*record) &&
               record->size <= left && record->size % TRACE_ALIGN == 0 &&
               (record->entry < CUDA_ENTRY_COUNT || record->entry == TRACE_ENTRY_PROCESS);
}

/* A process that was killed while it wrote a record's beginning leaves a hole of unknown length:
 * whatever begins like a record behind it is taken for one. */
static int read_chunk(
        struct trace_file *file, size_t *room, const struct trace_chunk *chunk, size_t size)
{
        const char *at = (const char *)(chunk + 1), *end = (const char *)chunk + size;
        uint64_t hole = 0;

        while ((size_t)(end - at) >= sizeof(struct trace_record)) {
                const struct trace_record *record = (const void *)at;

                if (!plausible(record, (size_t)(end - at))) {
                        static const char zeros[TRACE_ALIGN];

                        if (memcmp(at, zeros, sizeof(zeros)) != 0)
                                hole += TRACE_ALIGN;
                        at += TRACE_ALIGN;
                        continue;
                }
                int r = add(file, room, (struct trace_event){record, chunk->process, chunk->pid});

                if (r < 0)
                        return r;
                at += record->size;
        }
        file->unreadable += hole;
        return 0;
}

static int read_chunks(struct trace_file *file)
{
        const char *base = (const char *)file->header;
        size_t at = TRACE_HEADER_BYTES, room = 0;
        int r = 0;

        while (r == 0 && file->size - at >= TRACE_STEP) {
                const struct trace_chunk *chunk = (const void *)(base + at);

                /* one that was claimed and never begun has no head: look for the next */
                if (chunk->magic != TRACE_CHUNK_MAGIC || chunk->size < TRACE_STEP ||
                        chunk->size % TRACE_STEP != 0 || chunk->size > file->size - at) {
                        at += TRACE_STEP;
                        continue;
                }
                r = read_chunk(file, &room, chunk, chunk->size);
                at += chunk->size;
        }
        if (file->count > 1)
                qsort(file->events, file->count, sizeof(*file->events), by_time);
        return r;
}

static bool ends(const char *text, size_t size)
{
        return memchr(text, 0, size) != NULL;
}

int trace_file_open(const char *path, struct trace_file *ret, struct cleave_error *error)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct trace_file file = {0};
        struct stat st;
        void *base;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0)
                return error_set(error, CLEAVE_REASON_USAGE, "cannot open the trace %s: %s", path,
                        strerror(errno));
        if (!S_ISREG(st.st_mode) || st.st_size < (off_t)TRACE_HEADER_BYTES)
                return error_set(error, CLEAVE_REASON_USAGE, "%s is no trace", path);
        base = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (base == MAP_FAILED)
                return error_set_errno(error, errno, "cannot read the trace %s", path);
        file.header = base;
        file.size = (size_t)st.st_size;
        if (memcmp(file.header->magic, TRACE_MAGIC, sizeof(file.header->magic)) != 0)
                r = error_set(error, CLEAVE_REASON_USAGE, "%s is no trace", path);
        else if (!ends(file.header->cleave, sizeof(file.header->cleave)) ||
                 !ends(file.header->machine, sizeof(file.header->machine)))
                r = error_set(
                        error, CLEAVE_REASON_USAGE, "the head of the trace %s is damaged", path);
        else if (file.header->version != TRACE_VERSION || file.header->digest != CUDA_TRACE_DIGEST)
                r = error_set(error, CLEAVE_REASON_USAGE,
                        "the trace %s was written by cleave %s, whose description of the API is "
                        "another than ours: read it with that version",
                        path, file.header->cleave);
        else {
                r = read_chunks(&file);
                if (r < 0)
                        error_set_errno(error, r, "cannot read the trace %s", path);
        }
        if (r < 0) {
                trace_file_done(&file);
                return r;
        }
        *ret = file;
        return 0;
}

void trace_file_done(struct trace_file *file)
{
        free(file->events);
        if (file->header)
                munmap((void *)file->header, file->size);
        *file = (struct trace_file){0};
}

/* -- a record ---------------------------------------------------------------------------------- */

struct part_reader {
        const char *at;
        size_t left;
};

static const void *take(struct part_reader *r, uint64_t size)
{
        const void *data = r->at;

        if (size > r->left || padded(size) > r->left)
                return NULL;
        r->at += padded(size);
        r->left -= padded(size);
        return data;
}

/* As record.c decides it. */
static bool kept(const struct trace_file *file, const struct call_parameter *p, uint64_t length)
{
        return length != MARSHAL_NULL && length <= UINT64_C(256) << 20 &&
               (!p->content || (file->header->options & TRACE_CONTENTS));
}

/* Whether there is as much as the type says, and a string has its end. */
static bool fits(const struct marshal_parameter *p, const char *data, uint64_t length)
{
        if (p->unit == MARSHAL_STRING)
                return length > 0 && data[length - 1] == 0;
        return p->unit != MARSHAL_ONE || length == p->element;
}

int trace_parts(
        const struct trace_file *file, const struct trace_event *event, struct trace_parts *ret)
{
        const struct trace_record *record = event->record;
        struct part_reader r = {(const char *)(record + 1), record->size - sizeof(*record)};
        struct trace_parts parts = {0};

        if (record->entry >= CUDA_ENTRY_COUNT || !cuda_calls[record->entry].parameters)
                return -EBADMSG;
        parts.entry = &cuda_calls[record->entry];
        parts.args = take(&r, parts.entry->how.args_size);
        if (!parts.args)
                return -EBADMSG;
        memcpy(&parts.result, (const char *)parts.args + parts.entry->how.result_offset,
                sizeof(parts.result));
        parts.returned = atomic_load(&((struct trace_record *)record)->end) != 0;
        for (unsigned i = 0; i < parts.entry->how.count; i++) {
                const void *length;

                parts.lengths[i] = MARSHAL_NULL;
                if (parts.entry->how.parameters[i].kind == MARSHAL_VALUE)
                        continue;
                length = take(&r, sizeof(parts.lengths[i]));
                if (!length)
                        return -EBADMSG;
                memcpy(&parts.lengths[i], length, sizeof(parts.lengths[i]));
                if (!kept(file, &parts.entry->parameters[i], parts.lengths[i]))
                        continue;
                parts.data[i] = take(&r, parts.lengths[i]);
                if (!parts.data[i] ||
                        !fits(&parts.entry->how.parameters[i], parts.data[i], parts.lengths[i]))
                        return -EBADMSG;
                parts.left[i] = parts.data[i];
                if (parts.entry->how.parameters[i].kind == MARSHAL_INOUT)
                        parts.left[i] = take(&r, parts.lengths[i]);
                if (!parts.left[i])
                        return -EBADMSG;
        }
        if (record->extras > TRACE_MAX_EXTRAS)
                return -EBADMSG;
        for (; parts.extras < record->extras; parts.extras++) {
                const void *head = take(&r, sizeof(struct trace_extra));

                if (!head)
                        return -EBADMSG;
                memcpy(&parts.extra[parts.extras].head, head, sizeof(struct trace_extra));
                parts.extra[parts.extras].data = take(&r, parts.extra[parts.extras].head.length);
                if (!parts.extra[parts.extras].data)
                        return -EBADMSG;
        }
        *ret = parts;
        return 0;
}

const struct trace_process *trace_find_process(const struct trace_file *file, uint32_t number)
{
        for (size_t i = 0; i < file->count; i++) {
                const struct trace_event *event = &file->events[i];

                if (event->record->entry == TRACE_ENTRY_PROCESS && event->process == number &&
                        event->record->size >=
                                sizeof(struct trace_record) + sizeof(struct trace_process))
                        return (const struct trace_process *)(event->record + 1);
        }
        return NULL;
}
