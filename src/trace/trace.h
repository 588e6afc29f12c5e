/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tracing library: a libcuda.so.1 that stands before the driver's, or before a guard, and notes
 * every call. Its entry points are generated (cuda_trace_wrappers.c); where cleave trace did not
 * start the program it is not loaded, so tracing costs nothing when it is off.
 *
 *   record.c    a call as a record
 *   file.c      space in the file, for all threads at once
 *   entries.c   the library behind, and what the program may be told of it
 *
 * It is a guest as the guard is, with the guard's manners (guard.h), and a part of its code.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda_trace.h"
#include "format.h"

#pragma GCC visibility push(hidden)

/* A piece of the file that is mapped, and how many calls are writing in it. */
struct trace_space;

struct trace_call {
        struct trace_record *record; /* NULL: not recorded */
        struct trace_space *space;
        unsigned entry;
        uint64_t lengths[MARSHAL_MAX_PARAMETERS];
};

/* Around each call, from any thread. Both keep errno. */
void trace_begin(struct trace_call *call, unsigned entry, const void *args);
void trace_end(struct trace_call *call, void *args);

/* file.c */

/* Whether calls are being recorded in this process; the first to ask opens the file. One load, but
 * for the first time and in a forked child. */
bool trace_on(void);
uint32_t trace_options(void);
/* Of this process in the trace, from 1. */
uint32_t trace_process_number(void);
/* Room for a record of that many bytes, zeroed, in ret_space until trace_leave(); NULL: the trace
 * is cut here. */
void *trace_room(size_t size, struct trace_space **ret_space);
void trace_leave(struct trace_space *space);

/* entries.c */

/* After cuGetProcAddress and cuGetProcAddress_v2: our own entry in place of the one behind. */
void trace_look_up(unsigned entry, void *args);

#pragma GCC visibility pop
