/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file: deploy/cleave.conf shows every key. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/parse.h"

#define CONFIG_SYSTEM_FILE "/etc/cleave/cleave.conf"

/* What one user may be granted. */
struct ceiling {
        uid_t uid;
        bool memory_set, tenants_set;
        struct memory_amount memory; /* a device, all tenants together */
        uint32_t tenants;
};

enum audit_policy {
        AUDIT_REPORT,
        AUDIT_KILL,
};

enum compute_by {
        COMPUTE_AUTO, /* the driver's scheduler is steered; where it refuses, at the gate */
        COMPUTE_GATE, /* at the gate (daemon/gate.c) in any case */
};

struct config {
        char *group;           /* whose members may be granted; NULL: everybody */
        struct ceiling common; /* for those without a section of their own; uid unused */
        struct ceiling *ceilings;
        size_t ceiling_count;

        enum audit_policy audit_policy;
        uint64_t audit_interval;  /* usec */
        uint64_t audit_tolerance; /* bytes by which the driver may count more than the ledger */

        uint64_t idle_exit; /* usec without tenants and connections; UINT64_MAX: never */
        bool idle_exit_set;
        uint64_t release_after; /* usec without tenants; UINT64_MAX: never */
        uint64_t journal_limit; /* bytes, 0: what the file system has */
        uint32_t connections;   /* on the control socket */
        bool cgroups;           /* bind tenants to cgroups where that is possible */

        enum compute_by compute;
        char *nvml;   /* library to use instead of the system's libnvidia-ml.so.1 */
        char *claims; /* directory of the claims files; NULL: claims_directory() */
};

void config_init(struct config *config);
void config_done(struct config *config);

/* Reads a file into config. Every bad line is told with file and line by report (which may be
 * called several times); then the result is -EINVAL. -ENOENT: no such file, nothing is reported. */
int config_read(struct config *config, const char *path,
        void (*report)(void *userdata, const char *text), void *userdata);

/* The ceiling that holds for a uid: its own, with what that leaves open from the common one. */
struct ceiling config_ceiling(const struct config *config, uid_t uid);
