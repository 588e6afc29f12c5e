/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/container.h"

#include <inttypes.h>
#include <string.h>

#include "base/process.h"
#include "daemon/identity.h"

static bool is_own(const struct connection *connection, pid_t pid)
{
        uid_t uid;

        if (connection->uid == 0)
                return true;
        if (process_uid(pid, &uid) == 0 && uid == connection->uid)
                return true;
        return process_namespace_owner(pid, &uid) == 0 && uid == connection->uid;
}

int container_check(
        struct connection *connection, json_t *params, pid_t *ret, struct cleave_error *error)
{
        json_t *value = json_object_get(params, "container");
        json_int_t pid = json_integer_value(value);
        uint64_t start_time;

        *ret = 0;
        if (!value || json_is_null(value))
                return 0;
        if (pid <= 0 || pid > INT32_MAX || process_start_time((pid_t)pid, &start_time) < 0)
                return error_set(error, CLEAVE_REASON_NO_SUCH_PROCESS,
                        "there is no process %" PRId64, (int64_t)pid);
        if (!is_own(connection, (pid_t)pid))
                return error_set(error, CLEAVE_REASON_NOT_PERMITTED, "process %d is another user's",
                        (int)pid);
        if (tenant_of_process(connection->manager, (pid_t)pid))
                return error_set(error, CLEAVE_REASON_BUSY,
                        "process %d belongs to a tenant already", (int)pid);
        if (json_is_true(json_object_get(params, "wait")))
                return error_set(
                        error, CLEAVE_REASON_BAD_REQUEST, "a container cannot wait for its grant");
        *ret = (pid_t)pid;
        return 0;
}

/* The container's cgroup, unless it is one that others are in too: the engine's or ours. */
static int own_cgroup(pid_t pid, pid_t caller, char **ret)
{
        _cleanup_free_ char *cgroup = NULL, *callers = NULL, *ours = NULL;
        int r;

        r = process_cgroup(pid, &cgroup);
        if (r < 0)
                return r == -ENODATA ? 0 : r;
        if (process_cgroup(caller, &callers) < 0 || process_cgroup(getpid(), &ours) < 0)
                return 0;
        /* one that lies outside of our cgroup namespace shows as "/.." */
        if (strcmp(cgroup, "/") == 0 || strncmp(cgroup, "/..", 3) == 0 ||
                cgroup_contains(cgroup, callers) || cgroup_contains(cgroup, ours))
                return 0;
        *ret = TAKE_PTR(cgroup);
        return 0;
}

static uint64_t own_pid_namespace(pid_t pid, pid_t caller)
{
        uint64_t namespace, callers, ours;

        if (process_pid_namespace(pid, &namespace) < 0 ||
                process_pid_namespace(caller, &callers) < 0 ||
                process_pid_namespace(getpid(), &ours) < 0 || namespace == callers ||
                namespace == ours)
                return 0;
        return namespace;
}

int container_bind(struct tenant *tenant, pid_t pid, pid_t caller, struct cleave_error *error)
{
        uint64_t start_time;
        int r;

        tenant->container = true;
        r = process_start_time(pid, &start_time);
        if (r == 0)
                r = own_cgroup(pid, caller, &tenant->cgroup);
        if (r == 0)
                r = tenant_watch_process(tenant, &tenant->command_process, pid, start_time);
        if (r < 0)
                return error_set_errno(error, r, "process %d cannot be watched", (int)pid);
        /* only then: containers of a pod may share one, and have a cgroup each */
        if (!tenant->cgroup)
                tenant->pid_namespace = own_pid_namespace(pid, caller);
        return 0;
}

struct tenant *container_of_process(struct manager *manager, pid_t pid)
{
        uint64_t namespace = 0;

        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next) {
                if (!tenant->pid_namespace || tenant->command_process.gone)
                        continue;
                if (!namespace && process_pid_namespace(pid, &namespace) < 0)
                        return NULL;
                if (tenant->pid_namespace == namespace)
                        return tenant;
        }
        return NULL;
}
