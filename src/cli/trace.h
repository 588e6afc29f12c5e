/* SPDX-License-Identifier: Apache-2.0 */
/* Putting the tracing library before what a command loads. */
#pragma once

#include "base/error.h"

/* Where the tracing library lies, by our own place; the caller frees it. */
int trace_library(char **ret, struct cleave_error *error);

/* Puts it first in this process's environment, before any guard that stands there, for the commands
 * that it executes. */
int trace_preload(struct cleave_error *error);
