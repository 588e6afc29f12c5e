/* SPDX-License-Identifier: Apache-2.0 */
/* What can be asked on the control socket: docs/control-protocol.md. */
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/process.h"
#include "daemon/container.h"
#include "daemon/control.h"
#include "daemon/identity.h"
#include "daemon/message.h"
#include "proto/environment.h"

#define COMMAND_WORDS_MAX 4096u
#define COMMAND_BYTES_MAX (256u << 10)

enum param_type {
        PARAM_TEXT,
        PARAM_INTEGER,
        PARAM_NUMBER,
        PARAM_BOOLEAN,
        PARAM_LIST,
};

struct param {
        const char *name;
        enum param_type type;
        bool needed; /* absent and null are refused */
};

typedef int (*method_handler)(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error);

static bool has_type(const json_t *value, enum param_type type)
{
        switch (type) {
        case PARAM_TEXT:
                return json_is_string(value) &&
                       strlen(json_string_value(value)) == json_string_length(value);
        case PARAM_INTEGER:
                return json_is_integer(value);
        case PARAM_NUMBER:
                return json_is_number(value);
        case PARAM_BOOLEAN:
                return json_is_boolean(value);
        case PARAM_LIST:
                return json_is_array(value);
        }
        return false;
}

static int check_params(const json_t *object, const char *where, const struct param *params,
        struct cleave_error *error)
{
        static const char *const types[] = {
                [PARAM_TEXT] = "a text without NUL",
                [PARAM_INTEGER] = "an integer",
                [PARAM_NUMBER] = "a number",
                [PARAM_BOOLEAN] = "true or false",
                [PARAM_LIST] = "a list",
        };
        const char *key;
        json_t *value;

        json_object_foreach((json_t *)object, key, value)
        {
                const struct param *p;

                for (p = params; p->name && strcmp(p->name, key) != 0;)
                        p++;
                if (!p->name)
                        return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                                "%s has no parameter '%.64s'", where, key);
                if (json_is_null(value) ? p->needed : !has_type(value, p->type))
                        return error_set(error, CLEAVE_REASON_BAD_REQUEST, "%s: '%s' is not %s",
                                where, key, types[p->type]);
        }
        for (const struct param *p = params; p->name; p++)
                if (p->needed && !json_object_get(object, p->name))
                        return error_set(error, CLEAVE_REASON_BAD_REQUEST, "%s: '%s' is missing",
                                where, p->name);
        return 0;
}

static bool is_administrator(const struct connection *connection)
{
        return connection->uid == 0 || connection->uid == geteuid();
}

static int no_memory(struct cleave_error *error)
{
        return error_set_errno(error, ENOMEM, "cannot answer");
}

/* The tenant that params name, if the caller may act on it. */
static int find_tenant(struct connection *connection, json_t *params, struct tenant **ret,
        struct cleave_error *error)
{
        return tenant_find(connection->manager,
                json_string_value(json_object_get(params, "tenant")), connection->uid,
                is_administrator(connection), ret, error);
}

/* ---- who may be granted what ---- */

static bool in_group(uid_t uid, gid_t gid, const char *name)
{
        const struct group *group = getgrnam(name);
        const struct passwd *user = getpwuid(uid);
        gid_t wanted, groups[1024];
        int count = ARRAY_SIZE(groups);

        if (!group)
                return false;
        wanted = group->gr_gid;
        if (gid == wanted)
                return true;
        if (!user || getgrouplist(user->pw_name, gid, groups, &count) < 0)
                return false;
        for (int i = 0; i < count; i++)
                if (groups[i] == wanted)
                        return true;
        return false;
}

static int check_access(struct connection *connection, struct cleave_error *error)
{
        const struct config *config = &connection->manager->config;

        if (!config->group || is_administrator(connection) ||
                in_group(connection->uid, connection->gid, config->group))
                return 0;
        error_set(error, CLEAVE_REASON_NOT_PERMITTED, "only members of group %s may use GPUs here",
                config->group);
        error_set_hint(error, "Ask an administrator to add you: adduser NAME %s", config->group);
        return -EPERM;
}

static int check_ceiling(struct connection *connection, uid_t uid, const struct ledger_want *wants,
        unsigned count, uint64_t except, struct cleave_error *error)
{
        struct manager *manager = connection->manager;
        struct ceiling ceiling = config_ceiling(&manager->config, uid);
        struct ledger_tenant *own = except ? ledger_find(&manager->ledger, except) : NULL;
        char most[FORMAT_SIZE_MAX], had[FORMAT_SIZE_MAX];

        if (uid == 0)
                return 0;
        if (!except && ceiling.tenants_set &&
                ledger_tenants_of(&manager->ledger, uid) >= ceiling.tenants)
                return error_set(error, CLEAVE_REASON_TOO_MANY, "you may have %u tenants at a time",
                        ceiling.tenants);
        for (unsigned i = 0; i < count && ceiling.memory_set; i++) {
                unsigned device = wants[i].device;
                const struct ledger_grant *grant = own ? ledger_find_grant(own, device) : NULL;
                uint64_t most_bytes = memory_amount_bytes(
                        ceiling.memory, ledger_capacity(&manager->ledger, device));
                uint64_t has = ledger_granted_to(&manager->ledger, uid, device) -
                               (grant ? grant->guarantee : 0);

                if (wants[i].guarantee > most_bytes || has > most_bytes - wants[i].guarantee)
                        return error_set(error, CLEAVE_REASON_BEYOND_CEILING,
                                "you may be granted %s of device %u, and have %s beside this",
                                format_size(most, most_bytes), device, format_size(had, has));
        }
        return 0;
}

/* ---- wants ---- */

static int parse_amount(
        const json_t *value, const char *name, uint64_t *ret, struct cleave_error *error)
{
        json_int_t bytes = json_integer_value(value);

        if (bytes <= 0)
                return error_set(error, CLEAVE_REASON_BAD_SIZE,
                        "%s = %" PRId64 " is not above zero", name, (int64_t)bytes);
        if ((uint64_t)bytes % CLEAVE_QUOTA_STEP != 0)
                return error_set(error, CLEAVE_REASON_BAD_SIZE,
                        "%s = %" PRId64 " is not in whole MiB", name, (int64_t)bytes);
        *ret = (uint64_t)bytes;
        return 0;
}

/* One element of devices. tenant: whose grant gives what is left out, or NULL. */
static int parse_want(struct manager *manager, json_t *element, struct tenant *tenant,
        struct ledger_want *ret, struct cleave_error *error)
{
        static const struct param wants_all[] = {
                {"device", PARAM_TEXT, true},
                {"memory", PARAM_INTEGER, true},
                {"memory_max", PARAM_INTEGER, false},
                {0},
        };
        json_t *maximum;
        struct ledger_want want;
        char text[24];
        int r;

        if (!json_is_object(element))
                return error_set(
                        error, CLEAVE_REASON_BAD_REQUEST, "an element of devices is an object");
        /* an index may come as a number */
        if (json_is_integer(json_object_get(element, "device"))) {
                snprintf(text, sizeof(text), "%" PRId64,
                        (int64_t)json_integer_value(json_object_get(element, "device")));
                json_object_set_new(element, "device", json_string(text));
        }
        r = check_params(element, "a device", wants_all, error);
        if (r < 0)
                return r;
        r = manager_find_device(manager, json_string_value(json_object_get(element, "device")),
                &want.device, error);
        if (r < 0)
                return r;
        r = parse_amount(json_object_get(element, "memory"), "memory", &want.guarantee, error);
        if (r < 0)
                return r;
        want.maximum = want.guarantee;
        maximum = json_object_get(element, "memory_max");
        if (maximum && !json_is_null(maximum)) {
                r = parse_amount(maximum, "memory_max", &want.maximum, error);
                if (r < 0)
                        return r;
                if (want.maximum < want.guarantee)
                        return error_set(
                                error, CLEAVE_REASON_BAD_SIZE, "memory_max is less than memory");
        }
        if (want.maximum >> CLEAVE_UNIT_SHIFT > CLEAVE_COUNTER_MAX)
                return error_set(error, CLEAVE_REASON_BEYOND_DEVICE,
                        "more than 1 TiB of one device cannot be granted");
        *ret = want;
        return 0;
}

static int parse_wants(struct manager *manager, json_t *list, struct tenant *tenant,
        struct ledger_want wants[static LEDGER_MAX_GRANTS], unsigned *ret_count,
        struct cleave_error *error)
{
        size_t index, count = json_array_size(list);
        json_t *element;

        if (count == 0)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST, "no device is asked for");
        if (count > LEDGER_MAX_GRANTS)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "a tenant has at most %u devices", LEDGER_MAX_GRANTS);
        json_array_foreach(list, index, element)
        {
                int r = parse_want(manager, element, tenant, &wants[index], error);

                if (r < 0)
                        return r;
                for (size_t k = 0; k < index; k++)
                        if (wants[k].device == wants[index].device)
                                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                                        "device %u is named twice", wants[k].device);
        }
        *ret_count = (unsigned)count;
        return 0;
}

/* ---- compute ---- */

static int parse_percent(json_t *params, const char *name, unsigned *ret, bool *ret_given,
        struct cleave_error *error)
{
        const json_t *value = json_object_get(params, name);

        *ret_given = value && !json_is_null(value);
        if (!*ret_given)
                return 0;
        if (json_integer_value(value) < 0 || json_integer_value(value) > 100)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "%s = %" PRId64 " is not from 0 to 100 %%", name,
                        (int64_t)json_integer_value(value));
        *ret = (unsigned)json_integer_value(value);
        return 0;
}

/* What params say about compute, over the terms that terms holds already. ret_given: they say
 * something. ret_some: the terms are more than the default now. */
static int parse_compute(json_t *params, struct arbiter_terms *terms, bool *ret_given,
        bool *ret_some, struct cleave_error *error)
{
        const char *priority = json_string_value(json_object_get(params, "priority"));
        struct arbiter_terms new = *terms;
        bool share, cap, found = !priority;
        int r;

        r = parse_percent(params, "compute", &new.share, &share, error);
        if (r == 0)
                r = parse_percent(params, "compute_max", &new.cap, &cap, error);
        if (r < 0)
                return r;
        for (int i = ARBITER_LOW; priority && i <= ARBITER_HIGH; i++)
                if (strcmp(priority, priority_word((enum arbiter_priority)i)) == 0) {
                        new.priority = (enum arbiter_priority)i;
                        found = true;
                }
        if (!found)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "priority is high, normal or low, not '%.32s'", priority);
        /* 100 is no cap */
        if (new.cap == 100)
                new.cap = 0;
        if (new.cap &&new.cap < new.share)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "compute_max, %u %%, is less than compute, %u %%", new.cap, new.share);
        *terms = new;
        *ret_given = share || cap || priority;
        *ret_some = new.share || new.cap || new.priority != ARBITER_NORMAL;
        return 0;
}

/* ---- time or space ---- */

static int parse_sharing(json_t *params, struct space_wish *ret, struct cleave_error *error)
{
        const char *word = json_string_value(json_object_get(params, "sharing"));
        const json_t *step = json_object_get(params, "sm_step");
        struct space_wish wish = {
                .asked = SHARING_TEMPORAL,
                .said = word != NULL,
                .untrusted = json_is_true(json_object_get(params, "untrusted")),
                .fine = json_integer_value(step) == SPACE_STEP_FINE,
        };
        bool found = !word;

        for (int i = SHARING_AUTO; word && i <= SHARING_SPATIAL; i++)
                if (strcmp(word, sharing_word((enum sharing)i)) == 0) {
                        wish.asked = (enum sharing)i;
                        found = true;
                }
        if (!found)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "sharing is auto, temporal or spatial, not '%.32s'", word);
        if (json_is_integer(step) && !wish.fine && json_integer_value(step) != SPACE_STEP)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "sm_step is %u or %u, not %" PRId64, SPACE_STEP, SPACE_STEP_FINE,
                        (int64_t)json_integer_value(step));
        *ret = wish;
        return 0;
}

/* ---- daemon ---- */

static void identity_in_force(
        struct connection *connection, const char **ret, char *detail, size_t size)
{
        struct manager *manager = connection->manager;
        const char *why = NULL;
        _cleanup_free_ char *cgroup = NULL;

        *ret = "process-tree";
        if (!manager->config.cgroups) {
                snprintf(detail, size, "cgroups are switched off in the configuration");
        } else if (cgroup_make(connection->pid, connection->uid, 0, &cgroup, &why) == 0) {
                cgroup_remove(cgroup);
                *ret = "cgroup";
                snprintf(detail, size, "a cgroup of its own for each tenant, below the caller's");
        } else {
                snprintf(detail, size, "%s", why ?: "no cgroup can be made");
        }
}

static json_t *ceiling_json(struct connection *connection)
{
        struct manager *manager = connection->manager;
        struct ceiling ceiling = config_ceiling(&manager->config, connection->uid);
        uint64_t most = 0;

        if (connection->uid == 0 || !ceiling.memory_set)
                return json_null();
        /* a part is of each device; the largest says most */
        for (unsigned i = 0; i < manager->devices; i++)
                most = MAX_OF(most,
                        memory_amount_bytes(ceiling.memory, ledger_capacity(&manager->ledger, i)));
        return json_integer((json_int_t)(ceiling.memory.part ? most : ceiling.memory.bytes));
}

/* Whether the driver keeps limits of its own beside ours. */
static json_t *driver_limits_json(struct manager *manager)
{
        const char *state = "available", *detail = "set for tenants that have a cgroup";
        int r = manager->driver_limits;

        if (!manager->driver_limits_tried)
                r = manager->backend->limit
                            ? manager->backend->limit(manager->backend_handle, 0, NULL, 0)
                            : -EOPNOTSUPP;
        else if (r == 0)
                state = "set";
        if (r == -EOPNOTSUPP) {
                state = "absent";
                detail = "the driver keeps no memory limits by cgroup; NVIDIA's has since 615";
        } else if (r == -EPERM) {
                state = "refused";
                detail = "only root may set the driver's limits, and the daemon is not";
        } else if (r == -ENOENT) {
                state = "refused";
                detail = "the tenant's cgroup has no dmem controller";
        } else if (r < 0) {
                state = "refused";
                detail = "the driver did not take the last limit";
        }
        return json_pack("{s:s, s:s}", "state", state, "detail", detail);
}

static int daemon_info(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        struct manager *manager = connection->manager;
        char detail[256];
        const char *identity;

        identity_in_force(connection, &identity, detail, sizeof(detail));
        *ret_result = json_pack("{s:s, s:i, s:f, s:s, s:I, s:s, s:s, s:s, s:s?, s:s, s:s, s:s, "
                                "s:o, s:s?, s:b, s:O, s:o, s:[i, i], s:o, s:s}",
                "version", CLEAVE_VERSION, "pid", (int)getpid(), "started",
                (double)manager->started / 1e6, "scope", manager->system ? "system" : "user", "uid",
                (json_int_t)geteuid(), "runtime_dir", manager->directory, "backend",
                manager_backend_name(manager), "backend_detail", manager_backend_detail(manager),
                "sim", manager->sim, "identity", identity, "identity_detail", detail, "journal",
                manager->journal.failed ? "failed" : "ok", "ceiling", ceiling_json(connection),
                "guard", manager->guard_library, "outlives",
                manager->store.fd >= 0 || manager->store.kind == STORE_SYSTEMD, "warnings",
                manager->warnings, "compute", compute_info_json(manager), "guard_versions",
                (int)message_oldest(), (int)message_newest(), "driver_limits",
                driver_limits_json(manager), "driver",
                manager->rest == REST_RELEASED             ? "released"
                : manager->rest == REST_RESTING            ? "resting"
                : manager->backend == &device_backend_null ? "none"
                                                           : "open");
        return *ret_result ? 0 : no_memory(error);
}

static int daemon_stop(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        struct manager *manager = connection->manager;

        if (!is_administrator(connection))
                return error_set(error, CLEAVE_REASON_NOT_PERMITTED,
                        "only root and the daemon's own user may stop it");
        if (manager->tenants && !json_is_true(json_object_get(params, "force"))) {
                error_set(
                        error, CLEAVE_REASON_BUSY, "%u tenants live", HASH_COUNT(manager->tenants));
                error_set_hint(
                        error, "Stop them first, or use force: they go on under their limits.");
                return -EBUSY;
        }
        store_farewell(&manager->store, !manager->tenants);
        manager->stopping = true;
        connection_reply(connection, id, json_object());
        sd_event_exit(manager->event, 0);
        return 1;
}

/* ---- devices ---- */

static json_t *optional_bytes(uint64_t bytes)
{
        return bytes == DEVICE_UNKNOWN_BYTES ? json_null() : json_integer((json_int_t)bytes);
}

static int check_released(const struct manager *manager, struct cleave_error *error)
{
        if (manager->rest != REST_RELEASED)
                return 0;
        error_set(error, CLEAVE_REASON_BUSY, "%s", manager_backend_detail(manager));
        error_set_hint(error, "cleave release --undo lets it take them up again.");
        return -EBUSY;
}

static int device_release(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        struct manager *manager = connection->manager;

        if (!is_administrator(connection))
                return error_set(error, CLEAVE_REASON_NOT_PERMITTED,
                        "only root and the daemon's own user may take its GPUs away");
        if (manager->tenants || manager->returning) {
                error_set(
                        error, CLEAVE_REASON_BUSY, "%u tenants live", HASH_COUNT(manager->tenants));
                error_set_hint(error, "Stop them first: cleave ps lists them.");
                return -EBUSY;
        }
        if (manager->rest != REST_RELEASED)
                manager_let_go(manager, REST_RELEASED);
        *ret_result = json_object();
        return *ret_result ? 0 : no_memory(error);
}

static int device_acquire(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        struct manager *manager = connection->manager;
        bool released = manager->rest == REST_RELEASED;

        if (!is_administrator(connection))
                return error_set(error, CLEAVE_REASON_NOT_PERMITTED,
                        "only root and the daemon's own user may give it its GPUs");
        if (released) {
                manager->rest = REST_RESTING;
                manager_look_for_devices(manager);
                events_add(&manager->events, EVENT_DEVICES_ACQUIRED, (struct event_subject){0},
                        "the daemon holds the GPUs again");
        }
        *ret_result = json_pack("{s:i}", "devices", (int)manager->devices);
        return *ret_result ? 0 : no_memory(error);
}

/* The simulated GPU and the real ones are not served at the same time by one daemon. */
static int check_sim(struct connection *connection, json_t *params, struct cleave_error *error)
{
        struct manager *manager = connection->manager;
        const char *wanted = json_string_value(json_object_get(params, "env_sim"));

        if (wanted && !*wanted)
                wanted = NULL;
        if ((!wanted && !manager->sim) ||
                (wanted && manager->sim && strcmp(wanted, manager->sim) == 0))
                return 0;
        /* The simulated NVML has the name of the real one and stays loaded, so that who looks for
         * the real one would find it. */
        if (!wanted) {
                error_set(error, CLEAVE_REASON_BUSY,
                        "the daemon simulates GPUs (%s), and a real one is asked for",
                        manager->sim);
                error_set_hint(error, manager->system
                                              ? "--sim takes a simulated one."
                                              : "--sim takes a simulated one. The daemon ends a "
                                                "minute after its last use.");
                return -EBUSY;
        }
        /* with nothing in use, a daemon of the user's own goes over to what is asked for */
        if (!manager->system && !manager->tenants && !space_is_used(manager)) {
                int r = manager_open_devices(manager, wanted);

                return r < 0 ? error_set_errno(error, r, "the GPUs cannot be opened") : 0;
        }
        error_set(error, CLEAVE_REASON_BUSY,
                "the daemon's tenants use %s%s, and the simulated GPU %s is asked for",
                manager->sim ? "the simulated GPU " : "real GPUs", manager->sim ?: "", wanted);
        error_set_hint(error, "Wait until they have ended, or set %s to another directory.",
                CLEAVE_ENV_RUNTIME);
        return -EBUSY;
}

static int device_list(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        struct manager *manager = connection->manager;
        json_t *devices;
        int r;

        r = check_released(manager, error);
        if (r == 0 && json_is_string(json_object_get(params, "env_sim")))
                r = check_sim(connection, params, error);
        if (r < 0)
                return r;
        devices = json_array();
        manager_look_for_devices(manager);
        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                tenant_update_used(tenant);
        for (unsigned i = 0; i < manager->devices; i++) {
                struct manager_device *device = &manager->device[i];
                uint64_t used = 0;

                manager_refresh_claims(manager, i);
                (void)manager_sample(manager, i, clock_usec(CLOCK_MONOTONIC));
                for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                        for (unsigned k = 0; k < tenant->devices; k++)
                                if (tenant->device[k].index == i &&
                                        __builtin_add_overflow(used, tenant_used(tenant, k), &used))
                                        used = INT64_MAX;
                json_array_append_new(devices,
                        json_pack("{s:i, s:s, s:s, s:s, s:s, s:s?, s:b, s:I, s:o, s:o, s:I, s:I, "
                                  "s:I, "
                                  "s:I, s:I, s:s, s:s?}",
                                "index", (int)device->info.index, "uuid", device->info.uuid_text,
                                "name", device->info.name, "vendor", manager->backend->vendor,
                                "backend", manager->backend->name, "pci",
                                device->info.pci[0] ? device->info.pci : NULL, "mig",
                                device->info.mig, "memory_total", (json_int_t)device->info.total,
                                "memory_reserved", optional_bytes(device->memory.reserved),
                                "memory_used", optional_bytes(device->memory.used), "granted",
                                (json_int_t)ledger_granted(&manager->ledger, i), "used_by_tenants",
                                (json_int_t)used, "used_by_others", (json_int_t)device->others_used,
                                "claimed_by_others", (json_int_t)device->claimed_others,
                                "available",
                                (json_int_t)(ledger_available(&manager->ledger, i) /
                                             CLEAVE_QUOTA_STEP * CLEAVE_QUOTA_STEP),
                                "state", device_state_word(device->state), "driver_version",
                                *manager->backend->driver_version(manager->backend_handle)
                                        ? manager->backend->driver_version(manager->backend_handle)
                                        : NULL));
        }
        *ret_result = json_pack("{s:o}", "devices", devices);
        return *ret_result ? 0 : no_memory(error);
}

/* ---- tenants ---- */

/* A MIG device is cut in hardware: it has memory quotas of ours, and its own multiprocessors.
 * compute: a part of its time or of its multiprocessors is wished for. */
static int check_mig(struct manager *manager, const struct ledger_want *want, unsigned n,
        bool compute, struct cleave_error *error)
{
        bool mig = false;

        for (unsigned i = 0; i < n; i++)
                mig = mig || manager->device[want[i].device].info.mig;
        if (mig && n > 1)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "a tenant with a MIG device has that one device: CUDA gives a process no "
                        "other beside it");
        if (mig && compute) {
                error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "shares of compute are not offered on MIG devices");
                error_set_hint(error,
                        "Their multiprocessors are their own; make the instance as large as the "
                        "share should be.");
                return -EINVAL;
        }
        return 0;
}

static int check_command(json_t *command, struct cleave_error *error)
{
        size_t index, bytes = 0;
        json_t *word;

        if (json_array_size(command) == 0)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST, "the command is empty");
        if (json_array_size(command) > COMMAND_WORDS_MAX)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "the command has more than %u words", COMMAND_WORDS_MAX);
        json_array_foreach(command, index, word)
        {
                if (!has_type(word, PARAM_TEXT))
                        return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                                "word %zu of the command is not a text without NUL", index);
                bytes += json_string_length(word);
        }
        if (bytes > COMMAND_BYTES_MAX)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "the command is longer than %u bytes", COMMAND_BYTES_MAX);
        return 0;
}

/* A name from the command's: its last part without what a name cannot have, and a number if needed.
 */
static void make_name(struct manager *manager, uid_t uid, const char *program, char ret[static 64])
{
        const char *slash = strrchr(program, '/');
        char base[56];
        size_t used = 0;

        for (const char *p = slash ? slash + 1 : program; *p && used < 40; p++) {
                char one[2] = {*p, '\0'};

                if (check_name(one, NULL) == 0 || (used > 0 && strchr("-_.", *p)))
                        base[used++] = *p;
        }
        base[used] = '\0';
        if (check_name(base, NULL) < 0)
                strcpy(base, "tenant");
        snprintf(ret, 64, "%s", base);
        for (unsigned i = 2; tenant_name_taken(manager, uid, ret); i++)
                snprintf(ret, 64, "%s-%u", base, i);
}

/* Where the simulated driver's libraries and programs are; NULL: real GPUs are served. */
static const char *simulated_path(const struct manager *manager)
{
        return manager->backend == &device_backend_sim ? manager->sim_directory : NULL;
}

/* Where the dynamic linker shall look first. In the guard's directory are also the names without a
 * version, which some programs try (numba: libcuda.so); as the same files they lead to the library
 * that is preloaded already. The simulated driver's comes after it. New memory, or NULL. */
static char *library_path(const struct manager *manager)
{
        const char *slash = manager->guard_library ? strrchr(manager->guard_library, '/') : NULL;
        int guard = slash ? (int)(slash - manager->guard_library) : 0;
        const char *sim = simulated_path(manager);
        char *path;

        if (!guard)
                return sim ? strdup(sim) : NULL;
        if (asprintf(&path, "%.*s%s%s", guard, manager->guard_library, sim ? ":" : "", sim ?: "") <
                0)
                return NULL;
        return path;
}

static json_t *created_json(struct tenant *tenant)
{
        struct manager *manager = tenant->manager;
        _cleanup_free_ char *cgroup = tenant->cgroup ? cgroup_directory(tenant->cgroup) : NULL;
        _cleanup_free_ char *libraries = library_path(manager);
        char id[FORMAT_ID_MAX];
        json_t *environment, *defaults = json_object();

        environment = json_pack("{s:s, s:s}", CLEAVE_ENV_TENANT, format_id(id, tenant->id),
                CLEAVE_ENV_RUNTIME, manager->directory);
        if (manager->sim)
                json_object_set_new(environment, CLEAVE_ENV_SIM, json_string(manager->sim));
        space_add_environment(tenant, environment, defaults);
        return json_pack("{s:o, s:o, s:o, s:[s, s*], s:s?, s:s?, s:s, s:s?, s:s}", "tenant",
                tenant_json(tenant), "environment", environment, "environment_defaults", defaults,
                "preload", manager->guard_library, manager->guard_nvml_library, "library_path",
                libraries, "program_path", simulated_path(manager), "identity",
                cgroup ? "cgroup" : "process-tree", "cgroup", cgroup, "secret", tenant->secret);
}

static void tell_created(struct tenant *tenant)
{
        char id[FORMAT_ID_MAX];

        events_add(&tenant->manager->events, EVENT_TENANT_CREATED,
                (struct event_subject){.tenant = tenant->id,
                        .detail = json_pack("{s:s, s:I}", "name", tenant->name, "uid",
                                (json_int_t)tenant->uid)},
                "tenant %s (%s) of uid %u", tenant->name, format_id(id, tenant->id),
                (unsigned)tenant->uid);
}

/* Makes a tenant that the ledger has granted a real one, or takes it out of the ledger. */
static int grant(struct tenant *tenant, struct cleave_error *error)
{
        struct manager *manager = tenant->manager;
        int r;

        r = tenant_grant(tenant, error);
        if (r < 0) {
                ledger_remove(&manager->ledger, tenant->id);
                if (tenant->cgroup && !tenant->container)
                        cgroup_remove(tenant->cgroup);
                tenant_free(tenant);
                return r;
        }
        tell_created(tenant);
        manager_arm_audit(manager);
        return 0;
}

static int tenant_create(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        struct manager *manager = connection->manager;
        const char *name = json_string_value(json_object_get(params, "name"));
        json_t *command = json_object_get(params, "command");
        bool wait = json_is_true(json_object_get(params, "wait"));
        pid_t container = 0;
        struct tenant_request request = {
                .uid = connection->uid,
                .command = command,
                .run_pid = connection->pid,
        };
        struct ledger_verdict verdict;
        struct admission admission;
        struct space_wish wish;
        struct tenant *tenant;
        char made[64];
        bool given;
        int r;

        if (manager->stopping)
                return error_set(error, CLEAVE_REASON_STOPPING, "the daemon is about to end");
        if (connection->lifeline)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "this connection is the lifeline of tenant %s already",
                        connection->lifeline->name);
        r = check_access(connection, error);
        if (r < 0)
                return r;
        r = check_command(command, error);
        if (r < 0)
                return r;
        if (name) {
                r = check_name(name, error);
                if (r < 0)
                        return r;
                if (tenant_name_taken(manager, connection->uid, name))
                        return error_set(error, CLEAVE_REASON_NAME_TAKEN,
                                "you have a tenant '%s' already", name);
        } else {
                make_name(manager, connection->uid, json_string_value(json_array_get(command, 0)),
                        made);
                name = made;
        }
        request.name = name;
        request.terms.priority = ARBITER_NORMAL;
        r = parse_compute(params, &request.terms, &given, &request.compute, error);
        if (r == 0)
                r = parse_sharing(params, &wish, error);
        if (r < 0)
                return r;
        r = check_released(manager, error);
        if (r < 0)
                return r;
        r = check_sim(connection, params, error);
        if (r < 0)
                return r;
        manager_look_for_devices(manager);
        r = parse_wants(manager, json_object_get(params, "devices"), NULL, request.want,
                &request.devices, error);
        if (r < 0)
                return r;
        r = check_mig(manager, request.want, request.devices,
                request.compute || wish.asked == SHARING_SPATIAL, error);
        if (r < 0)
                return r;
        if (manager->device[request.want[0].device].info.mig)
                wish.asked = SHARING_TEMPORAL;
        r = check_ceiling(connection, connection->uid, request.want, request.devices, 0, error);
        if (r < 0)
                return r;
        if (manager->journal.failed && manager_rewrite_journal(manager) < 0)
                return error_set(error, CLEAVE_REASON_JOURNAL_FAILED,
                        "the journal cannot be written (%s), so nothing new is granted",
                        strerror(-manager->journal.failure));
        if (!manager->guard_library)
                return error_set(error, CLEAVE_REASON_GUARD_MISSING,
                        "the guard, libcuda.so.1, is not beside the daemon");

        r = space_decide(manager, &wish, &request, error);
        if (r > 0)
                r = space_defer(manager, request.want[0].device, connection, params, id);
        if (r != 0)
                return r;
        if (request.compute) {
                r = compute_available(manager, error);
                if (r < 0)
                        return r;
        }
        r = container_check(connection, params, &container, error);
        if (r < 0)
                return r;
        if (container)
                request.run_pid = 0;
        r = tenant_new(manager, &request, &tenant);
        if (r < 0)
                return error_set_errno(error, r, "the tenant cannot be made");
        if (container) {
                r = container_bind(tenant, container, connection->pid, error);
                if (r < 0) {
                        tenant_free(tenant);
                        return r;
                }
        }
        /* one that waits for memory keeps its share of compute meanwhile */
        r = compute_admit(tenant, error);
        if (r == 0)
                r = space_admit_tenant(tenant, error);
        if (r < 0) {
                tenant_free(tenant);
                return r;
        }
        r = admission_open(manager, request.want, request.devices, &admission);
        if (r < 0) {
                tenant_free(tenant);
                return error_set_errno(error, r, "the devices cannot be looked at");
        }
        r = ledger_request(&manager->ledger, tenant->id, tenant->uid, request.want, request.devices,
                wait, &verdict);
        admission_close(manager, &admission);
        if (r < 0) {
                tenant_free(tenant);
                return r == -ENOMEM ? no_memory(error) : verdict_error(manager, &verdict, error);
        }
        if (ledger_find(&manager->ledger, tenant->id)->waiting) {
                tenant->lifeline = connection;
                connection->lifeline = tenant;
                connection->create_waits = true;
                connection->create_id = id;
                connection->pending++;
                events_add(&manager->events, EVENT_TENANT_WAITING,
                        (struct event_subject){.tenant = tenant->id,
                                .device = manager->device[verdict.device].info.uuid_text},
                        "tenant %s waits for room on device %u", tenant->name, verdict.device);
                manager_arm_audit(manager);
                return 1;
        }
        r = grant(tenant, error);
        if (r < 0)
                return r;
        if (container) {
                /* it lives until the container's first process ends */
                tenant->state = TENANT_RUNNING;
                *ret_result = created_json(tenant);
                tenant_consider(tenant);
                return *ret_result ? 0 : no_memory(error);
        }
        tenant->lifeline = connection;
        connection->lifeline = tenant;
        *ret_result = created_json(tenant);
        return *ret_result ? 0 : no_memory(error);
}

/* Whether anything waits whose wait could have an end now; looks at devices afresh then. */
void control_serve_waiting(struct manager *manager)
{
        struct ledger_want all[LEDGER_MAX_GRANTS];
        unsigned count = 0;
        struct admission admission;
        uint64_t served[64];
        unsigned n = 0;

        for (struct ledger_tenant *t = manager->ledger.first; t; t = t->next)
                for (unsigned i = 0; t->waiting && i < t->grants; i++) {
                        unsigned k = 0;

                        while (k < count && all[k].device != t->grant[i].device)
                                k++;
                        if (k == count && count < LEDGER_MAX_GRANTS)
                                all[count++].device = t->grant[i].device;
                }
        if (count == 0 || manager->stopping)
                return;
        if (manager->journal.failed && manager_rewrite_journal(manager) < 0)
                return;
        if (admission_open(manager, all, count, &admission) < 0)
                return;
        while (n < ARRAY_SIZE(served) && (served[n] = ledger_serve(&manager->ledger)) != 0)
                n++;
        admission_close(manager, &admission);

        for (unsigned i = 0; i < n; i++) {
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                struct tenant *tenant = tenant_by_id(manager, served[i]);
                struct connection *connection = tenant ? tenant->lifeline : NULL;
                json_int_t id;

                if (!connection)
                        continue;
                id = connection->create_id;
                connection->create_waits = false;
                connection->pending--;
                if (grant(tenant, &error) < 0)
                        connection_fail(connection, id, &error);
                else
                        connection_reply(connection, id, created_json(tenant));
        }
        if (n == ARRAY_SIZE(served))
                manager_serve_soon(manager);
}

/* The tenant that this connection leads. */
static int own_tenant(struct connection *connection, json_t *params, struct tenant **ret,
        struct cleave_error *error)
{
        int r;

        r = find_tenant(connection, params, ret, error);
        if (r < 0)
                return r;
        if ((*ret)->lifeline != connection)
                return error_set(error, CLEAVE_REASON_NOT_PERMITTED,
                        "this connection is not the lifeline of tenant %s", (*ret)->name);
        return 0;
}

static int tenant_start(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        json_int_t pid = json_integer_value(json_object_get(params, "pid"));
        struct manager *manager = connection->manager;
        struct ancestor ancestors[ANCESTRY_MAX];
        struct tenant *tenant;
        char text[FORMAT_ID_MAX];
        unsigned count, i = 0;
        int r;

        r = own_tenant(connection, params, &tenant, error);
        if (r < 0)
                return r;
        if (tenant->state != TENANT_STARTING)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST, "tenant %s has started already",
                        tenant->name);
        if (pid <= 0 || pid > INT32_MAX ||
                ancestry((pid_t)pid, tenant->run.pid, ancestors, &count) < 0)
                return error_set(error, CLEAVE_REASON_NO_SUCH_PROCESS,
                        "there is no process %" PRId64, (int64_t)pid);
        /* nobody makes another's process his tenant's */
        while (i < count && ancestors[i].pid != tenant->run.pid)
                i++;
        if (i == 0 || i == count)
                return error_set(error, CLEAVE_REASON_NOT_PERMITTED,
                        "process %d is no child of process %d, which made the tenant", (int)pid,
                        (int)tenant->run.pid);
        r = tenant_watch_process(
                tenant, &tenant->command_process, (pid_t)pid, ancestors[0].start_time);
        if (r < 0)
                return error_set_errno(error, r, "process %d cannot be watched", (int)pid);
        if (tenant->cgroup && geteuid() == 0)
                /* the caller does so too, where it may */
                (void)cgroup_move(tenant->cgroup, (pid_t)pid);
        tenant->state = TENANT_RUNNING;
        manager_record(manager,
                json_pack("{s:s, s:s, s:I, s:I}", "t", "start", "id", format_id(text, tenant->id),
                        "pid", pid, "start", (json_int_t)ancestors[0].start_time));
        *ret_result = json_object();
        return 0;
}

static int tenant_exit(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        json_int_t status = json_integer_value(json_object_get(params, "status"));
        struct tenant *tenant;
        char text[FORMAT_ID_MAX];
        int r;

        r = own_tenant(connection, params, &tenant, error);
        if (r < 0)
                return r;
        if (status < 0 || status > 0xffff)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "status %" PRId64 " is no wait status", (int64_t)status);
        tenant->exited = true;
        tenant->exit_status = (int)status;
        manager_record(connection->manager, json_pack("{s:s, s:s, s:I}", "t", "exit", "id",
                                                    format_id(text, tenant->id), "status", status));
        *ret_result = json_object();
        tenant_consider(tenant);
        return 0;
}

/* Equal, in a time that does not tell where they differ. */
static bool same_secret(const char *a, const char *b)
{
        size_t length = strlen(a);
        unsigned char difference = 0;

        if (strlen(b) != length)
                return false;
        for (size_t i = 0; i < length; i++)
                difference |= (unsigned char)(a[i] ^ b[i]);
        return difference == 0;
}

static int tenant_attach(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        struct tenant *tenant;
        int r;

        r = find_tenant(connection, params, &tenant, error);
        if (r < 0)
                return r;
        if (!same_secret(tenant->secret, json_string_value(json_object_get(params, "secret"))))
                return error_set(error, CLEAVE_REASON_NOT_PERMITTED,
                        "the secret is not that of tenant %s", tenant->name);
        if (connection->lifeline && connection->lifeline != tenant)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "this connection is the lifeline of another tenant");
        if (tenant->lifeline && tenant->lifeline != connection)
                connection_forget_tenant(tenant->lifeline);
        tenant->lifeline = connection;
        tenant->abandoned = false;
        connection->lifeline = tenant;
        *ret_result = json_object();
        return 0;
}

static int tenant_list(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        bool all = json_is_true(json_object_get(params, "all"));
        struct manager *manager = connection->manager;
        json_t *tenants;

        if (all && !is_administrator(connection))
                return error_set(error, CLEAVE_REASON_NOT_PERMITTED,
                        "only root and the daemon's own user see the tenants of others");
        audit_now(manager, clock_usec(CLOCK_MONOTONIC));
        tenants = json_array();
        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                if (all || tenant->uid == connection->uid)
                        json_array_append_new(tenants, tenant_json(tenant));
        *ret_result = json_pack("{s:o}", "tenants", tenants);
        return *ret_result ? 0 : no_memory(error);
}

static int tenant_inspect(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        struct tenant *tenant;
        int r;

        audit_now(connection->manager, clock_usec(CLOCK_MONOTONIC));
        r = find_tenant(connection, params, &tenant, error);
        if (r < 0)
                return r;
        *ret_result = tenant_json(tenant);
        return *ret_result ? 0 : no_memory(error);
}

static int resize(struct tenant *tenant, const struct ledger_want *wants, unsigned count,
        bool force, struct cleave_error *error)
{
        struct manager *manager = tenant->manager;
        struct ledger_verdict verdict;
        struct admission admission;
        int r;

        r = admission_open(manager, wants, count, &admission);
        if (r < 0)
                return error_set_errno(error, r, "the devices cannot be looked at");
        r = ledger_resize(&manager->ledger, tenant->id, wants, count, force, &verdict);
        for (unsigned i = 0; r == 0 && i < tenant->devices; i++) {
                struct tenant_device *device = &tenant->device[i];

                device->allowed = MAX_OF(device->allowed, tenant_grant_of(tenant, i)->maximum);
        }
        admission_close(manager, &admission);
        return r < 0 ? verdict_error(manager, &verdict, error) : 0;
}

static int tenant_set(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        bool force = json_is_true(json_object_get(params, "force"));
        struct manager *manager = connection->manager;
        struct ledger_want wants[LEDGER_MAX_GRANTS];
        bool compute, some, had, memory = json_array_size(json_object_get(params, "devices")) > 0;
        struct arbiter_terms terms, old;
        struct tenant *tenant;
        char text[FORMAT_ID_MAX];
        unsigned count = 0;
        int r;

        r = find_tenant(connection, params, &tenant, error);
        if (r < 0)
                return r;
        if (tenant->state == TENANT_WAITING)
                return error_set(error, CLEAVE_REASON_BUSY, "tenant %s waits", tenant->name);
        r = check_access(connection, error);
        if (r < 0)
                return r;
        terms = old = tenant->terms;
        r = parse_compute(params, &terms, &compute, &some, error);
        if (r < 0)
                return r;
        if (compute && tenant->space.on)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "tenant %s shares its device in space: its SMs are fixed while it runs",
                        tenant->name);
        if (!memory && !compute)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "tenant.set: neither devices nor compute is given");
        if (memory)
                r = parse_wants(
                        manager, json_object_get(params, "devices"), tenant, wants, &count, error);
        if (r == 0 && compute && some)
                r = check_mig(manager, &(struct ledger_want){.device = tenant->device[0].index}, 1,
                        true, error);
        if (r == 0 && compute && some)
                r = compute_available(manager, error);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < count; i++) {
                bool has = false;

                for (unsigned k = 0; k < tenant->devices; k++)
                        has = has || tenant->device[k].index == wants[i].device;
                if (!has)
                        return error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE,
                                "tenant %s has no grant on device %u", tenant->name,
                                wants[i].device);
        }
        /* an administrator may lift a user's tenant above the user's ceiling */
        if (!is_administrator(connection)) {
                r = check_ceiling(connection, tenant->uid, wants, count, tenant->id, error);
                if (r < 0)
                        return r;
        }
        if (manager->journal.failed && manager_rewrite_journal(manager) < 0)
                return error_set(error, CLEAVE_REASON_JOURNAL_FAILED,
                        "the journal cannot be written (%s), so no grant is changed",
                        strerror(-manager->journal.failure));

        had = tenant->compute;
        if (compute) {
                r = compute_change(tenant, some, &terms, error);
                if (r < 0)
                        return r;
        }
        if (memory)
                r = resize(tenant, wants, count, force, error);
        if (r < 0) {
                /* both or neither */
                if (compute)
                        (void)compute_change(tenant, had, &old, NULL);
                return r;
        }
        tenant_write_grant(tenant, compute);
        r = manager_record(manager, tenant_record(tenant));
        if (r < 0)
                manager_warn(manager, "a changed grant is not in the journal");
        events_add(&manager->events, EVENT_TENANT_CHANGED,
                (struct event_subject){.tenant = tenant->id},
                "the grant of tenant %s (%s) has changed", tenant->name,
                format_id(text, tenant->id));
        manager_serve_soon(manager);
        *ret_result = json_pack("{s:o}", "tenant", tenant_json(tenant));
        return *ret_result ? 0 : no_memory(error);
}

/* ---- tenant.stop ---- */

static void stop_free(struct stop *stop)
{
        DL_DELETE(stop->manager->stops, stop);
        sd_event_source_disable_unref(stop->timer);
        free(stop);
}

void stops_tenant_ended(struct manager *manager, uint64_t tenant)
{
        struct stop *stop, *next;

        DL_FOREACH_SAFE(manager->stops, stop, next)
        {
                if (stop->tenant != tenant)
                        continue;
                if (stop->connection) {
                        stop->connection->pending--;
                        connection_reply(stop->connection, stop->id, json_object());
                }
                stop_free(stop);
        }
}

void stops_done(struct manager *manager)
{
        struct stop *stop, *next;

        DL_FOREACH_SAFE(manager->stops, stop, next)
        stop_free(stop);
}

void stops_connection_ended(struct connection *connection)
{
        struct stop *stop;

        DL_FOREACH(connection->manager->stops, stop)
        if (stop->connection == connection)
                stop->connection = NULL;
}

/* Sends a signal to all processes of a tenant, except to `cleave run`, which has to report. All are
 * found before the first one dies: its children might no longer be known as the tenant's then. */
static void signal_all(struct tenant *tenant, int signal)
{
        _cleanup_closedir_ DIR *proc = opendir("/proc");
        _cleanup_free_ int *pidfds = NULL;
        size_t count = 0, room = 0;
        struct dirent *entry;

        while (proc && (entry = readdir(proc))) {
                _cleanup_close_ int pidfd = -EBADF;
                pid_t pid;

                if (parse_pid(entry->d_name, &pid) < 0 || pid == tenant->run.pid ||
                        tenant_of_process(tenant->manager, pid) != tenant)
                        continue;
                pidfd = process_open(pid);
                /* looked at again behind the descriptor, so that it is no other process by now */
                if (pidfd < 0 || tenant_of_process(tenant->manager, pid) != tenant)
                        continue;
                if (count == room) {
                        int *larger = realloc(pidfds, (room + 64) * sizeof(*pidfds));

                        if (!larger)
                                break;
                        pidfds = larger;
                        room += 64;
                }
                pidfds[count++] = TAKE_FD(pidfd);
        }
        for (size_t i = 0; i < count; i++) {
                (void)process_signal(pidfds[i], signal);
                close_safe(pidfds[i]);
        }
}

static int stop_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
        struct stop *stop = userdata;
        struct tenant *tenant = tenant_by_id(stop->manager, stop->tenant);

        (void)source;
        (void)usec;
        if (tenant) {
                signal_all(tenant, SIGKILL);
                /* those that were being born meanwhile are met the next time */
                sd_event_source_set_time_relative(stop->timer, 200 * USEC_PER_MSEC);
                sd_event_source_set_enabled(stop->timer, SD_EVENT_ONESHOT);
        }
        return 0;
}

static int tenant_stop(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        json_t *timeout = json_object_get(params, "timeout");
        json_t *signal_value = json_object_get(params, "signal");
        json_int_t signal = json_is_null(signal_value) || !signal_value
                                    ? SIGTERM
                                    : json_integer_value(signal_value);
        double seconds = timeout ? json_number_value(timeout) : 10;
        struct manager *manager = connection->manager;
        struct session *session;
        struct tenant *tenant;
        struct stop *stop;
        int r;

        r = find_tenant(connection, params, &tenant, error);
        if (r < 0)
                return r;
        if (signal < 1 || signal > SIGRTMAX)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST, "there is no signal %" PRId64,
                        (int64_t)signal);
        if (!json_is_null(timeout) && !(seconds >= 0 && seconds <= 1e9))
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "timeout is not between 0 and 1000000000 seconds");

        if (tenant->state == TENANT_WAITING) {
                struct connection *waiter = tenant->lifeline;
                _cleanup_error_ struct cleave_error told = CLEAVE_ERROR_NONE;

                error_set(&told, CLEAVE_REASON_STOPPING, "tenant %s was stopped while it waited",
                        tenant->name);
                if (waiter && waiter->create_waits) {
                        waiter->create_waits = false;
                        waiter->pending--;
                        connection_fail(waiter, waiter->create_id, &told);
                }
                tenant->exited = true;
                tenant_consider(tenant);
                *ret_result = json_object();
                return 0;
        }

        stop = calloc(1, sizeof(*stop));
        if (!stop)
                return no_memory(error);
        stop->manager = manager;
        stop->connection = connection;
        stop->id = id;
        stop->tenant = tenant->id;
        if (!json_is_null(timeout)) {
                r = sd_event_add_time_relative(manager->event, &stop->timer, CLOCK_MONOTONIC,
                        (uint64_t)(seconds * 1e6), 1000, stop_timeout, stop);
                if (r < 0) {
                        free(stop);
                        return error_set_errno(error, r, "a timer cannot be set");
                }
        }
        DL_APPEND(manager->stops, stop);
        connection->pending++;
        if (tenant->command_process.pid && !tenant->command_process.gone)
                (void)process_signal(tenant->command_process.pidfd, (int)signal);
        else
                DL_FOREACH(tenant->sessions, session)
        if (!session->process.gone && session->process.pidfd >= 0)
                (void)process_signal(session->process.pidfd, (int)signal);
        return 1;
}

/* ---- events ---- */

static int events_watch(struct connection *connection, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        json_int_t since = json_integer_value(json_object_get(params, "since"));

        if (connection->watching)
                return error_set(
                        error, CLEAVE_REASON_BAD_REQUEST, "this connection watches events already");
        if (since < 0)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST, "since is negative");
        connection->watching = true;
        connection->follow = json_is_true(json_object_get(params, "follow"));
        connection->watch_id = id;
        /* a number of the future, seen before a restart that lost some, means from now on */
        connection->watch_next = MIN_OF((uint64_t)since, connection->manager->events.last) + 1;
        connection->pending++;
        return 1;
}

static const struct method {
        const char *name;
        method_handler handler;
        struct param params[13];
} methods[] = {
        {"daemon.info", daemon_info, {{0}}},
        {"daemon.stop", daemon_stop, {{"force", PARAM_BOOLEAN, false}}},
        {"device.list", device_list, {{"env_sim", PARAM_TEXT, false}}},
        {"device.release", device_release, {{0}}},
        {"device.acquire", device_acquire, {{0}}},
        {"tenant.create", tenant_create,
                {{"name", PARAM_TEXT, false}, {"command", PARAM_LIST, true},
                        {"devices", PARAM_LIST, true}, {"wait", PARAM_BOOLEAN, false},
                        {"env_sim", PARAM_TEXT, false}, {"container", PARAM_INTEGER, false},
                        {"compute", PARAM_INTEGER, false}, {"compute_max", PARAM_INTEGER, false},
                        {"priority", PARAM_TEXT, false}, {"sharing", PARAM_TEXT, false},
                        {"sm_step", PARAM_INTEGER, false}, {"untrusted", PARAM_BOOLEAN, false}}},
        {"tenant.start", tenant_start,
                {{"tenant", PARAM_TEXT, true}, {"pid", PARAM_INTEGER, true}}},
        {"tenant.exit", tenant_exit,
                {{"tenant", PARAM_TEXT, true}, {"status", PARAM_INTEGER, true}}},
        {"tenant.attach", tenant_attach,
                {{"tenant", PARAM_TEXT, true}, {"secret", PARAM_TEXT, true}}},
        {"tenant.list", tenant_list, {{"all", PARAM_BOOLEAN, false}}},
        {"tenant.inspect", tenant_inspect, {{"tenant", PARAM_TEXT, true}}},
        {"tenant.set", tenant_set,
                {{"tenant", PARAM_TEXT, true}, {"devices", PARAM_LIST, false},
                        {"force", PARAM_BOOLEAN, false}, {"compute", PARAM_INTEGER, false},
                        {"compute_max", PARAM_INTEGER, false}, {"priority", PARAM_TEXT, false}}},
        {"tenant.stop", tenant_stop,
                {{"tenant", PARAM_TEXT, true}, {"signal", PARAM_INTEGER, false},
                        {"timeout", PARAM_NUMBER, false}}},
        {"events.watch", events_watch,
                {{"since", PARAM_INTEGER, false}, {"follow", PARAM_BOOLEAN, false}}},
};

int method_call(struct connection *connection, const char *name, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error)
{
        for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
                json_t *empty = NULL;
                int r;

                if (strcmp(methods[i].name, name) != 0)
                        continue;
                if (!params)
                        params = empty = json_object();
                r = check_params(params, name, methods[i].params, error);
                if (r == 0)
                        r = methods[i].handler(connection, params, id, ret_result, error);
                json_decref(empty);
                return r;
        }
        return error_set(error, CLEAVE_REASON_NO_SUCH_METHOD, "there is no method '%.64s'", name);
}
