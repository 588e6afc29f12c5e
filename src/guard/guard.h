/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard: the libcuda.so.1 that a tenant's programs load instead of the driver's.
 *
 *   entries.c   the entries of the API that the guard answers itself (hooks.list)
 *   real.c      the driver's library: finding and loading it, its entries, its ioctl slot
 *   search.c    where the dynamic linker would look for it
 *   rm.c        what the driver's library asks of the resource manager: the place where every
 *               byte of device memory passes, and where the quota is held
 *   objects.c   the process's RM objects, as a tree
 *   account.c   the process's part of the tenant's memory counter
 *   session.c   the daemon: who we are, the shared pages
 *   managed.c   managed memory, the one kind that RM does not see
 *
 * Manners, since we are a guest in another's program: libc only and no symbol newer than glibc
 * 2.17; nothing happens before the first CUDA call; no output unless CLEAVE_DEBUG asks for it; no
 * exit, no signal handler, no thread; errno is kept; the program goes on when the daemon is gone.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "cuda_guard_entries.h"
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

/* real.c */

/* Loads the driver's library once and redirects its ioctl slot.
 * 0, -ENOENT (there is none), -ELIBBAD (it cannot be loaded or has no ioctl slot to redirect). */
HIDDEN int guard_real_load(void);
/* The driver's own function behind an entry; one that returns CUDA_ERROR_NOT_SUPPORTED where the
 * driver lacks it. Never NULL. Looks it up each time: calls go through REAL(). */
HIDDEN void *guard_real(unsigned entry);
/* REAL(cuMemFree_v2)(ptr) calls the driver's own function. */
#define REAL(symbol) CLEAVE_CUDA_REAL(symbol)
/* The driver's own ioctl, as it was before it was redirected. */
HIDDEN int guard_real_ioctl(int fd, unsigned long request, void *arg);

/* search.c: calls try_path for every place where the dynamic linker would look for the library of
 * that name, in its order, until one call returns true. Whether one did. */
HIDDEN bool guard_search(
        const char *name, bool (*try_path)(const char *path, void *arg), void *arg);
/* Whether the file is a guard, ourselves or another. */
HIDDEN bool guard_is_guard(const char *path);

/* rm.c: stands in the driver's ioctl slot */
HIDDEN int guard_ioctl(int fd, unsigned long request, ...);
/* Whether the driver's library has made a client through the slot: if not, we are blind. */
HIDDEN bool guard_rm_seen(void);

/* session.c */

struct guard_session {
        const struct cleave_grant_page *grant;
        struct cleave_usage_page *usage;
        struct cleave_slot *slot;
        uint32_t index; /* of the slot */
};

/* The session of this process, or NULL. A forked child sees its parent's until it asks
 * guard_forked(). */
HIDDEN const struct guard_session *guard_session(void);
/* Whether this process was forked from the one that opened the session. */
HIDDEN bool guard_forked(void);
/* Opens it: 0, or the CUDA error to give to the program. */
HIDDEN CUresult guard_session_open(void);
/* Tells the daemon; never waits, and is lost if the daemon does not listen. */
HIDDEN void guard_notice(uint32_t kind, uint64_t a, uint64_t b);
/* The index in the grant of the device with that UUID; -ENODEV if it is not granted. */
HIDDEN int guard_device_by_uuid(const uint8_t uuid[16]);

/* account.c: all in units of 4 KiB. In a process without session nothing can be charged. */

/* 0, -ENOMEM (over the limit), -ENOTCONN (no session), -ERANGE */
HIDDEN int guard_charge(uint32_t device, uint64_t units);
HIDDEN void guard_discharge(uint32_t device, uint64_t units);

/* managed.c */
HIDDEN CUresult guard_managed_alloc(CUdeviceptr *ret, size_t bytes, unsigned flags);
/* Frees through the driver's own function, and discharges what was managed. */
HIDDEN CUresult guard_managed_free(CUdeviceptr ptr, CUresult (*real_free)(CUdeviceptr));
/* After a context has gone. */
HIDDEN void guard_managed_context_gone(void);
/* Whether this process has any managed memory: one load. */
HIDDEN bool guard_managed_any(void);
/* The index in the grant of a CUDA device ordinal; -ENODEV. */
HIDDEN int guard_device_by_ordinal(CUdevice device);
