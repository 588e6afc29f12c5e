/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard: the libcuda.so.1 and libnvidia-ml.so.1 that a tenant's programs load instead of the
 * driver's.
 *
 *   entries.c   the entries of the CUDA driver API that the guard answers itself (hooks.list)
 *   nvml.c      those of NVML (nvml_hooks.list)
 *   library.c   the driver's library behind ours: finding and loading it
 *   search.c    where the dynamic linker would look for it
 *   redirect.c  its slot for ioctl
 *   rm.c        what it asks of the resource manager: the place where every byte of device memory
 *               passes, and where the quota is held
 *   objects.c   the process's RM objects, as a tree
 *   account.c   the process's part of the tenant's memory counter
 *   managed.c   managed memory, the one kind that RM does not see
 *   space.c     tenants that share their device in space: green contexts in place of theirs
 *   gate.c      where the driver lets nobody steer its scheduler: launches wait for their turn
 *   session.c   the daemon: who we are, the shared pages
 *
 * Manners, since we are a guest in another's program: libc only and no symbol newer than glibc
 * 2.17; nothing happens before the first call; no output unless CLEAVE_DEBUG asks for it; no exit,
 * no signal handler, no thread; errno is kept; the program goes on when the daemon is gone.
 *
 * This header is what both libraries share; driver.h is the CUDA side's own.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "page.h"

#define HIDDEN __attribute__((visibility("hidden")))

/* A lock of four bytes on the futex call: usable before and without libpthread, and brought back
 * to its beginning in a forked child. */
struct guard_lock {
        _Atomic uint32_t word; /* 0 free, 1 held, 2 held and waited for */
};

HIDDEN void guard_lock(struct guard_lock *lock);
HIDDEN void guard_unlock(struct guard_lock *lock);

/* debug.c: a line to where CLEAVE_DEBUG says; cheap when it says nothing. Keeps errno. */
HIDDEN extern int guard_debug_fd; /* -1: off, -2: not looked at yet */
HIDDEN void guard_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* library.c */

/* A library of the driver, which ours of the same name stands before. */
struct guard_library {
        const char *soname;
        const char *environment; /* variable that gives its path outright */
        /* Called once it is loaded, before anybody may use it: 0, or -errno and it counts as not
         * loaded. May be NULL. */
        int (*prepare)(void *handle);
        bool may_be_guard; /* ours is a tracer, and a guard is as good as the driver to it */
        struct guard_lock lock;
        void *_Atomic handle;
        int error; /* of the only attempt; 0 while there was none */
};

/* Loads it once: 0, -ENOENT (there is none), what prepare() said. Keeps errno. */
HIDDEN int guard_library_load(struct guard_library *library);
/* The address of a symbol in it, loading it first; NULL. Keeps errno. */
HIDDEN void *guard_library_find(struct guard_library *library, const char *symbol);

/* search.c: calls try_path for every place where the dynamic linker would look for the library of
 * that name, in its order, until one call returns true. Whether one did. */
HIDDEN bool guard_search(
        const char *name, bool (*try_path)(const char *path, void *arg), void *arg);
/* What mark of ours the file has, see note.S; or GUARD_MARK_NONE. */
enum guard_mark { GUARD_MARK_NONE = 0, GUARD_MARK_GUARD = 1, GUARD_MARK_TRACE = 2 };
HIDDEN enum guard_mark guard_mark_of(const char *path);

/* session.c */

struct guard_session {
        const struct cleave_grant_page *grant;
        struct cleave_usage_page *usage;
        struct cleave_slot *slot; /* an observer has none */
        uint32_t index;           /* of the slot */
        bool other_pids;          /* the daemon calls processes by other pids than we do */
};

/* The session of this process, or NULL. A forked child sees its parent's until it asks
 * guard_forked(). */
HIDDEN const struct guard_session *guard_session(void);
/* Whether this process was forked from the one that opened the session. */
HIDDEN bool guard_forked(void);
/* Opens it. An observer only looks: it has the pages but no slot, and can charge nothing.
 * 0, -EPERM (this process belongs to no tenant), -EAGAIN (no daemon, or it is not able to). */
HIDDEN int guard_session_open(bool observer);
/* Tells the daemon; never waits, and is lost if the daemon does not listen. */
HIDDEN void guard_notice(uint32_t kind, uint64_t a, uint64_t b);
/* The same, and passes a descriptor (-1: none). */
HIDDEN void guard_notice_fd(uint32_t kind, uint64_t a, uint64_t b, int fd);
/* The index in the grant of the device with that UUID; -ENODEV if it is not granted. */
HIDDEN int guard_device_by_uuid(const uint8_t uuid[16]);
