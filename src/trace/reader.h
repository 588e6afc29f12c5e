/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the file of a trace, also one that is being written or was cut. Nothing in it is trusted.
 */
#pragma once

#include "base/error.h"
#include "cuda_trace.h"
#include "trace/format.h"

#define TRACE_MAX_EXTRAS 16

/* One call, or the beginning of a process, in the mapped file. */
struct trace_event {
        const struct trace_record *record;
        uint32_t process; /* its number, from 1 */
        uint32_t pid;
};

struct trace_file {
        const struct trace_header *header;
        size_t size;
        struct trace_event *events; /* by the time at which they began */
        size_t count;
        uint64_t unreadable; /* bytes where records should be and none are */
};

/* Opens and checks it: done with trace_file_done(). The sentence in error says what is wrong. */
int trace_file_open(const char *path, struct trace_file *ret, struct cleave_error *error);
void trace_file_done(struct trace_file *file);

/* The parts of a call's record, where they lie in the file. */
struct trace_parts {
        const struct call_entry *entry;
        const void *args; /* its structure; the pointers in it are the traced program's */
        uint64_t lengths[MARSHAL_MAX_PARAMETERS]; /* MARSHAL_NULL: NULL, or no pointer to follow */
        /* What the callee found there, and what it left; NULL: not recorded. Of a parameter that is
         * only written, both are the latter. */
        const void *data[MARSHAL_MAX_PARAMETERS];
        const void *left[MARSHAL_MAX_PARAMETERS];
        struct {
                struct trace_extra head;
                const void *data;
        } extra[TRACE_MAX_EXTRAS];
        unsigned extras;
        bool returned; /* the call had returned when the trace ended */
        int32_t result;
};

/* 0, or -EBADMSG: the record makes no sense. */
int trace_parts(
        const struct trace_file *file, const struct trace_event *event, struct trace_parts *ret);

/* The beginning of process `number`; NULL: it is not in the trace. */
const struct trace_process *trace_find_process(const struct trace_file *file, uint32_t number);
