/* SPDX-License-Identifier: Apache-2.0 */
/* A trace as text or JSON. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "trace/reader.h"

#define TRACE_SCHEMA "cleave.trace/1"

/* One line per call, with what the trace says of itself before and after. */
void trace_show_text(FILE *to, const struct trace_file *file);
/* The same as objects, one a line, the first with the schema. -ENOMEM. */
int trace_show_json(FILE *to, const struct trace_file *file);

/* NAME(PARAMETER=VALUE, …) of a call; new memory or NULL. */
char *trace_call_text(const struct trace_file *file, const struct trace_event *event);
/* A result's name, or its number in buffer. */
const char *trace_result_name(int32_t result, char buffer[static 16]);
