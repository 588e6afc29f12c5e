/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tenants that are containers. A container's engine makes one with tenant.create and `container`,
 * the pid of the container's first process, before that runs anything of the image; the tenant
 * lives until that process ends. A process belongs to it that is in the container's cgroup, or,
 * where the engine gave it none of its own, in its pid namespace, or descends from the first
 * process.
 */
#pragma once

#include "daemon/control.h"
#include "daemon/manager.h"

/* Reads `container` of params: ret 0 if there is none. The process has to be the caller's own: of
 * its uid, or in a user namespace that it made. */
int container_check(
        struct connection *connection, json_t *params, pid_t *ret, struct cleave_error *error);

/* Binds a new tenant to the container of that process. caller: whose cgroup and namespace are not
 * the container's. */
int container_bind(struct tenant *tenant, pid_t pid, pid_t caller, struct cleave_error *error);

/* The tenant whose pid namespace the process is in, or NULL. */
struct tenant *container_of_process(struct manager *manager, pid_t pid);
