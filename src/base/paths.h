/* SPDX-License-Identifier: Apache-2.0 */
/* Where the daemon's things lie. */
#pragma once

#include <stdbool.h>

#include "base/error.h"

#define CLEAVE_SYSTEM_RUNTIME_DIR "/run/cleave"
#define CLEAVE_CONTROL_SOCKET     "control.sock"
#define CLEAVE_GUARD_SOCKET       "guard.sock"

/*
 * The runtime directory that a client uses, absolute, in new memory:
 *   $CLEAVE_RUNTIME_DIR if set; else /run/cleave if a daemon listens there or we are refused access
 *   to it; else user_runtime_dir().
 * ret_system (may be NULL): it is the system's. -EINVAL for a relative path.
 */
int runtime_dir(char **ret, bool *ret_system, struct cleave_error *error);

/* Where a daemon of this user belongs: $CLEAVE_RUNTIME_DIR, else home_runtime_dir(). */
int user_runtime_dir(char **ret, struct cleave_error *error);

/* $XDG_RUNTIME_DIR/cleave if that directory is ours, else /tmp/cleave-UID. */
int home_runtime_dir(char **ret, struct cleave_error *error);

/* Makes the runtime directory, or checks that nobody but its owner, we or root, can write to it.
 * mode: 0700 for a user's, 0755 for the system's. */
int runtime_dir_prepare(const char *path, unsigned mode, struct cleave_error *error);

/* Connects a UNIX stream or seqpacket socket; path may be longer than sun_path. A new close-on-exec
 * descriptor or negative errno. */
int socket_connect(const char *directory, const char *name, int type);
