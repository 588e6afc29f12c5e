/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the traced program did unseen.
 *
 * The CUDA runtime asks cuGetExportTable for functions without names, which no trace can record. By
 * these it makes a device's primary context, and makes it current. So a trace may use a context
 * that none of its calls made, in threads to which none of them gave one. Here that context is the
 * primary one of the same device: the one that recorded calls ask for while it is current; else the
 * one that the thread named last to a call on primary contexts; else device 0.
 *
 * A device's is retained once and never released, only by the end of the process: a release would
 * wait for kernels that may never end.
 */
#pragma once

#include "trace/reader.h"

struct unseen;

/* library: of dlopen(). NULL if there is no memory. */
struct unseen *unseen_new(const struct trace_file *file, void *library);
void unseen_free(struct unseen *unseen);

/* What stands for the context `theirs`, which a call uses and no recorded one made. false: the
 * driver does not give one. From any thread. */
bool unseen_context(struct unseen *unseen, const struct trace_event *event, uint64_t theirs,
        uint64_t *ret_ours);

/* Makes a context current in the calling thread, whose traced one had one at that call, if it has
 * none, and not because a call was another than in the trace: context, or if that is 0 the primary
 * one. Whether it did. */
bool unseen_current(struct unseen *unseen, const struct trace_event *event, uint64_t context);

/* After each of the calling thread's calls; same: it did what it did in the trace. */
void unseen_made(const struct trace_event *event, bool same);
