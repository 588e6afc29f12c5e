/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that keeps one device's MPS server: a child of the daemon, so that nothing waits
 * while NVIDIA's programs start, answer or hang, and one that outlives it, so that tenants keep a
 * server to go to while the daemon is away.
 *
 * What it tells the daemon, a line each, on the socket that it is given:
 *
 *   ready SMS UNITS REST UNITS REST PID   it serves; how the driver divides the device by 8, by 2
 *   down WHAT                         the server has ended, clients have lost their contexts
 *   up PID                            another serves
 *   failed WHY                        nothing can be served; the keeper ends
 *
 * The daemon's only word is "stop": everything is ended and cleared away. Where the socket ends
 * without it, the daemon has died: the keeper goes on until another takes over from it (they share
 * a lock file), or until no client has been there for a while.
 */
#pragma once

#include "partition/mps.h"

struct space_keeper {
        int fd;
        struct mps mps;
        const char *device;  /* UUID as the driver writes it */
        const char *library; /* the driver's libcuda.so.1; NULL: by the linker's search */
};

/* Runs until the end of its task. 0 or a negative errno. */
int space_keeper_run(const struct space_keeper *keeper);
