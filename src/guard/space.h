/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tenant that shares its device in space: what stands in place of its contexts.
 *
 * The primary context and those that the program makes are green contexts over the tenant's own
 * multiprocessors, as the daemon has planned them (page.h). The driver confines to those whatever
 * is done in such a context: the default stream and created ones, graphs, libraries, cooperative
 * launches, clusters, occupancy queries (seen on an H100, docs/benchmarks.md). What it leaves to us
 * is in hooks.list: handles, the number of multiprocessors, and their division by the program.
 *
 * All green contexts of a device live in its one primary context. So what differs for a program
 * that makes contexts of its own: they share modules, memory and errors, and their memory is freed
 * by the program or with the last of them.
 */
#pragma once

#include "driver.h"

/* Whether this process's tenant shares its device in space: one load. */
HIDDEN extern bool guard_space_on;
static inline bool guard_space(void)
{
        return __builtin_expect(__atomic_load_n(&guard_space_on, __ATOMIC_RELAXED), 0);
}
/* A result of the driver's by which a process begins or gets a context, handed through: where it is
 * one of MPS's (CUDA_ERROR_MPS_...), the daemon is told, once a code and process. */
HIDDEN CUresult guard_space_tell(CUresult result);
/* After the session has opened. */
HIDDEN void guard_space_open(void);
/* The driver has a context of ours in place of the one that the program means by handle. */
HIDDEN CUcontext guard_space_map(CUcontext handle);
/* Ends ours of that handle: false, it is none of ours. */
HIDDEN bool guard_space_destroy(CUcontext handle, CUresult *ret);
/* Before the program's reference to the primary context is given back, or it is reset. */
HIDDEN void guard_space_release(CUdevice device, bool reset);
