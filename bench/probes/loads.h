/* SPDX-License-Identifier: Apache-2.0 */
/* Loads that a probe starts, and a look at them over some time. */
#pragma once

#include <sys/types.h>

#include "probe.h"
#include "records.h"

#define NOBODY 65534

/* What a load is told (load.c); "0" for no gap or the driver's own slice. */
struct work {
        const char *microseconds, *mode, *gap, *slice;
};

struct load {
        pid_t pid;
        struct load_page *page;
        uint64_t before; /* kernels done in the last window */
};

extern const char *load_program;

/* Starts a load as that user and waits until it has calibrated itself; 0 or -errno. */
int load_start(struct load *load, const struct work *work, uid_t uid);
void load_go(struct load *load);
/* Also of one that never started. */
void load_stop(struct load *load);

/* A client that calls by the descriptor of a load, taken from it; only client_control() is to be
 * used. Its ctl is to be closed. */
struct client load_client(const struct load *load);

/* Prints what n loads did in that time and, with a reader, what the records say. */
void window(struct reader *reader, struct load *loads, unsigned n, double seconds,
        uint64_t period_ns, bool flush);

/* Disables or enables the channels of a load. */
uint32_t load_disable(const struct client *client, const struct load *load, bool disabled);
