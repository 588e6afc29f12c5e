/* SPDX-License-Identifier: Apache-2.0 */
/* One call of a trace, made again. */
#pragma once

#include "trace/reader.h"
#include "trace/replay.h"

struct remake;

/* For the calls of one process, each of which is to be made once. library: of dlopen(). NULL if
 * there is no memory. It lasts until the process ends, which gives back what the calls have not. */
struct remake *remake_new(
        const struct trace_file *file, uint32_t process, void *library, bool values);

/* Makes the call, from any thread; tells what came of it. The state in ret is left to the caller.
 */
enum replay_state remake_call(
        struct remake *remake, const struct trace_event *event, struct replay_outcome *ret);
