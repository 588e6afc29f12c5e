/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why something was not done: the error codes of the control protocol and of the CLI, in one list.
 *
 * X(identifier, word, exit status of the CLI, errno, hint or NULL)
 * The word stands in JSON and never changes its meaning. The hint is what to do next; an error may
 * carry a better one of its own.
 */
#pragma once

#include <errno.h>

#define CLEAVE_REASONS(X)                                                                          \
        X(INTERNAL, "internal", 1, EIO, "See the daemon's log.")                                   \
        X(NO_MEMORY, "no-memory", 1, ENOMEM, "The machine has run out of main memory.")            \
        X(TIMEOUT, "timeout", 1, ETIMEDOUT, NULL)                                                  \
        X(JOURNAL_FAILED, "journal-failed", 1, ENOSPC,                                             \
                "Make room in the runtime directory. Running tenants go on.")                      \
        X(BAD_CONFIG, "bad-config", 1, EINVAL, NULL)                                               \
        X(DEVICE_LOST, "device-lost", 1, ENODEV,                                                   \
                "The driver no longer answers for this device; see dmesg.")                        \
        X(NO_DRIVER, "no-driver", 1, ENODEV,                                                       \
                "cleave doctor says what is missing. Without a GPU, try cleave run --sim.")        \
        X(GUARD_MISSING, "guard-missing", 1, ENOENT, "Install Cleave anew, or build it.")          \
        X(USAGE, "usage", 2, EINVAL, NULL)                                                         \
        X(BAD_REQUEST, "bad-request", 2, EINVAL, NULL)                                             \
        X(NO_SUCH_METHOD, "no-such-method", 2, EOPNOTSUPP,                                         \
                "The daemon may be of another version: see cleave version.")                       \
        X(BAD_SIZE, "bad-size", 2, EINVAL, "Sizes are written 8G, 512MiB, 30% or in bytes.")       \
        X(BAD_NAME, "bad-name", 2, EINVAL,                                                         \
                "A name has 1 to 63 letters, digits, '-', '_' and '.', and begins with a letter "  \
                "or digit.")                                                                       \
        X(AMBIGUOUS, "ambiguous", 2, ENOTUNIQ, "Give more of it.")                                 \
        X(NO_SUCH_TENANT, "no-such-tenant", 3, ENOENT, "cleave ps lists the tenants.")             \
        X(NO_SUCH_DEVICE, "no-such-device", 3, ENOENT, "cleave devices lists the devices.")        \
        X(NO_SUCH_PROCESS, "no-such-process", 3, ESRCH, NULL)                                      \
        X(NOT_PERMITTED, "not-permitted", 4, EPERM, NULL)                                          \
        X(UNREACHABLE, "daemon-unreachable", 5, ECONNREFUSED,                                      \
                "cleave doctor says where the daemon is expected.")                                \
        X(BAD_REPLY, "bad-reply", 5, EBADMSG,                                                      \
                "The daemon may be of another version: see cleave version.")                       \
        X(DAEMON_GONE, "daemon-gone", 5, ECONNRESET, "Try again.")                                 \
        X(BUSY, "busy", 6, EBUSY, NULL)                                                            \
        X(NO_ROOM, "no-room", 6, ENOSPC, "Wait for it with --wait, or ask for less.")              \
        X(BEYOND_DEVICE, "beyond-device", 6, EFBIG, "cleave devices shows what there is.")         \
        X(BEYOND_CEILING, "beyond-ceiling", 6, EDQUOT,                                             \
                "The ceiling stands in the daemon's configuration.")                               \
        X(TOO_MANY, "too-many", 6, EUSERS, NULL)                                                   \
        X(BEYOND_COMPUTE, "beyond-compute", 6, ENOSPC,                                             \
                "cleave ps shows whose the guarantees are; ask for a smaller one.")                \
        X(IN_USE, "in-use", 6, EBUSY, "With --force it shrinks as memory is freed.")               \
        X(NAME_TAKEN, "name-taken", 6, EEXIST, "Choose another name, or none.")                    \
        X(STOPPING, "stopping", 6, ESHUTDOWN, NULL)

enum cleave_reason {
        CLEAVE_REASON_NONE = 0,
#define X(identifier, word, exit_status, number, hint) CLEAVE_REASON_##identifier,
        CLEAVE_REASONS(X)
#undef X
                CLEAVE_REASON_COUNT
};

/* The word of a reason; "none" for NONE, "internal" for what is out of range. Never NULL. */
const char *reason_word(enum cleave_reason reason);
/* The reason of that word; CLEAVE_REASON_NONE if there is none (a newer daemon's). */
enum cleave_reason reason_from_word(const char *word);
/* Exit status of the CLI: 0 for NONE. */
int reason_exit_status(enum cleave_reason reason);
/* Negative errno; 0 for NONE. */
int reason_errno(enum cleave_reason reason);
/* What to do, or NULL. */
const char *reason_hint(enum cleave_reason reason);
