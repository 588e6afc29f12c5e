/* SPDX-License-Identifier: Apache-2.0 */
/* The guard before libcuda.so.1: what its files share beyond guard.h. */
#pragma once

#include "cuda_guard_entries.h"
#include "guard.h"

/* entries.c */

/* The driver's own function behind an entry; one that returns CUDA_ERROR_NOT_SUPPORTED where the
 * driver lacks it. Never NULL. Looks it up each time: calls go through REAL(). */
HIDDEN void *guard_real(unsigned entry);
/* Makes a context by that call of the driver; its result, except that what fails because this
 * thread was refused memory is out of memory: the driver answers UNKNOWN for some part of a context
 * (seen on an H100, once in some dozens of refusals). */
#define CONTEXT_MADE(call)                                                                         \
        ({                                                                                         \
                uint64_t refused_ = guard_refused();                                               \
                CUresult result_ = (call);                                                         \
                result_ == CUDA_SUCCESS || guard_refused() == refused_ ? result_                   \
                                                                       : CUDA_ERROR_OUT_OF_MEMORY; \
        })

/* REAL(cuMemFree_v2)(ptr) calls the driver's own function. */
#define REAL(symbol) CLEAVE_CUDA_REAL(symbol)

/* redirect.c */

/* Writes guard_ioctl() into the slots by which the library that contains the address calls ioctl.
 * 0, -ELIBBAD (it has none, so what it does cannot be seen). */
HIDDEN int guard_redirect_ioctl(const void *inside);
/* The driver's own ioctl, as it was before it was redirected. */
HIDDEN int guard_real_ioctl(int fd, unsigned long request, void *arg);

/* rm.c: stands in the driver's ioctl slot */
HIDDEN int guard_ioctl(int fd, unsigned long request, ...);
/* Whether the driver's library has made a client through the slot: if not, we are blind. */
HIDDEN bool guard_rm_seen(void);

/* account.c: all in units of 4 KiB. In a process without session nothing can be charged. */

/* 0, -ENOMEM (over the limit), -ENOTCONN (no session), -ERANGE */
HIDDEN int guard_charge(uint32_t device, uint64_t units);
HIDDEN void guard_discharge(uint32_t device, uint64_t units);
/* How often this thread has been refused a charge. */
HIDDEN uint64_t guard_refused(void);

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

/* gate.c */

/* The word in the grant page that says whether any device has a gate; one of our own, 0, where
 * there is no session. */
HIDDEN extern const _Atomic uint32_t *guard_gate_word;
/* Whether launches are to be looked at: what every launch pays. */
static inline bool guard_gated(void)
{
        return __builtin_expect(
                atomic_load_explicit(__atomic_load_n(&guard_gate_word, __ATOMIC_RELAXED),
                        memory_order_relaxed) != 0,
                0);
}
/* After the session is open. */
HIDDEN void guard_gate_open(void);
/* Before a context (NULL: all of the process) goes. */
HIDDEN void guard_gate_forget(CUcontext context);
