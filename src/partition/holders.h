/* SPDX-License-Identifier: Apache-2.0 */
/* Who has a device open: found before anything is taken away, as taking it away would wait. */
#pragma once

#include <sys/types.h>

#include "partition/obstacle.h"
#include "partition/pci.h"

struct holder {
        pid_t pid;
        char command[32]; /* its name */
        char node[64];    /* what it has open: "/dev/nvidia0" */
};

struct holders {
        struct holder *list;
        size_t n;
        bool partial;    /* some processes could not be looked at, for lack of permission */
        char unseen[64]; /* this file is in use, and by whom cannot be seen; "": none is */
};

void holders_done(struct holders *holders);
#define _cleanup_holders_ _cleanup_(holders_done)

/* Names of the device files that belong to the function, as "/dev/nvidia0", "/dev/dri/card1",
 * "/dev/vfio/12". */
int holders_nodes(
        const struct host *host, const struct pci_function *function, struct host_names *ret);

/* Who has one of these files open. Each process once per node, in order of pid. */
int holders_of(const struct host *host, const struct host_names *nodes, struct holders *ret);
/*
 * The same for the files of a function. On VFIO, also who has a descriptor of the device itself, of
 * which the group's file knows nothing: newer kernels say of which device it is (Linux 6.18); on
 * older ones one who has some device of VFIO's is named where the group's file shows itself busy.
 * uuid: of a mediated device, which the function then only stands for; NULL: none.
 * thorough: that file is tried in any case, for a moment during which no VM could open it.
 */
int holders_find(const struct host *host, const struct pci_function *function, const char *uuid,
        bool thorough, struct holders *ret);

/* An obstacle of that code for each: "WHAT is in use: process …". */
void holders_tell(const struct holders *holders, const char *what, enum obstacle_code code,
        struct obstacles *obstacles);
