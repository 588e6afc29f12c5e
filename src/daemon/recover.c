/* SPDX-License-Identifier: Apache-2.0 */
/* What an earlier daemon left: grants from the journal, use from the pages that lived on. */
#include <string.h>

#include "base/log.h"
#include "base/process.h"
#include "daemon/identity.h"
#include "daemon/manager.h"
#include "daemon/recover.h"

int recovered_apply(struct recovered *state, json_t *record)
{
        const char *type = json_string_value(json_object_get(record, "t"));
        const char *id = json_string_value(json_object_get(record, "id"));
        json_int_t serial = json_integer_value(json_object_get(record, "e"));
        json_t *tenant;

        if (!state->tenants)
                state->tenants = json_object();
        state->serial = MAX_OF(state->serial, serial);
        if (!type)
                return 0;
        if (strcmp(type, "begin") == 0) {
                const char *sim = json_string_value(json_object_get(record, "sim"));

                state->serial = MAX_OF(
                        state->serial, json_integer_value(json_object_get(record, "serial")));
                free(state->sim);
                state->sim = sim ? strdup(sim) : NULL;
                return 0;
        }
        if (!id)
                return 0;
        tenant = json_object_get(state->tenants, id);
        if (strcmp(type, "tenant") == 0) {
                json_t *sessions = tenant ? json_incref(json_object_get(tenant, "sessions")) : NULL;

                json_object_set_new(record, "sessions", sessions ?: json_object());
                json_object_set(state->tenants, id, record);
        } else if (strcmp(type, "gone") == 0) {
                json_object_del(state->tenants, id);
        } else if (!tenant) {
                return 0;
        } else if (strcmp(type, "start") == 0) {
                json_object_set_new(tenant, "process",
                        json_pack("{s:I, s:I}", "pid",
                                json_integer_value(json_object_get(record, "pid")), "start",
                                json_integer_value(json_object_get(record, "start"))));
        } else if (strcmp(type, "exit") == 0) {
                json_object_set_new(tenant, "exited", json_true());
                json_object_set(tenant, "status", json_object_get(record, "status"));
        } else if (strcmp(type, "join") == 0 || strcmp(type, "leave") == 0) {
                json_t *sessions = json_object_get(tenant, "sessions");
                char slot[24];

                snprintf(slot, sizeof(slot), "%lld",
                        (long long)json_integer_value(json_object_get(record, "slot")));
                if (type[0] == 'j')
                        json_object_set(sessions, slot, record);
                else
                        json_object_del(sessions, slot);
        }
        return 0;
}

void recovered_done(struct recovered *state)
{
        json_decref(state->tenants);
        free(state->sim);
        *state = (struct recovered){0};
}

static int apply(json_t *record, void *userdata)
{
        return recovered_apply(userdata, record);
}

static int get_process(json_t *object, pid_t *ret_pid, uint64_t *ret_start)
{
        json_int_t pid = json_integer_value(json_object_get(object, "pid"));
        json_int_t start = json_integer_value(json_object_get(object, "start"));

        if (pid <= 0 || pid > INT32_MAX || start < 0)
                return -ENOENT;
        *ret_pid = (pid_t)pid;
        *ret_start = (uint64_t)start;
        return 0;
}

static int recover_wants(struct manager *manager, json_t *record, struct tenant_request *request)
{
        json_t *devices = json_object_get(record, "devices"), *element;
        size_t index;

        if (json_array_size(devices) == 0 || json_array_size(devices) > LEDGER_MAX_GRANTS)
                return -EBADMSG;
        json_array_foreach(devices, index, element)
        {
                const char *uuid = json_string_value(json_object_get(element, "device"));
                json_int_t guarantee = json_integer_value(json_object_get(element, "guarantee"));
                json_int_t maximum = json_integer_value(json_object_get(element, "maximum"));
                int device = uuid ? manager_device_by_uuid(manager, uuid) : -EBADMSG;

                if (device < 0)
                        return device;
                if (guarantee <= 0 || maximum < guarantee)
                        return -EBADMSG;
                request->want[index] = (struct ledger_want){
                        .device = (unsigned)device,
                        .guarantee = (uint64_t)guarantee,
                        .maximum = (uint64_t)maximum,
                };
        }
        request->devices = (unsigned)json_array_size(devices);
        return 0;
}

static int recover_pages(struct tenant *tenant)
{
        _cleanup_close_ int grant = -EBADF, usage = -EBADF;
        struct manager *manager = tenant->manager;
        char name[STORE_NAME_MAX], id[FORMAT_ID_MAX];
        int r;

        format_id(id, tenant->id);
        snprintf(name, sizeof(name), "grant-%s", id);
        grant = store_take(&manager->store, name);
        snprintf(name, sizeof(name), "usage-%s", id);
        usage = store_take(&manager->store, name);
        if (grant < 0 || usage < 0)
                return -ENOENT;
        r = pages_adopt(tenant->id, grant, usage, &tenant->pages);
        if (r < 0)
                return r;
        grant = usage = -EBADF;
        if (tenant->pages.grant->devices != tenant->devices) {
                pages_done(&tenant->pages);
                return -EBADMSG;
        }
        cleave_counter_finish(tenant->pages.usage);
        return 0;
}

static void recover_sessions(struct tenant *tenant, json_t *sessions)
{
        const char *key;
        json_t *record;

        json_object_foreach(sessions, key, record)
        {
                json_int_t slot = json_integer_value(json_object_get(record, "slot"));
                const char *guard = json_string_value(json_object_get(record, "guard"));
                const char *driver = json_string_value(json_object_get(record, "driver"));
                struct session *session;
                uint64_t start_time;
                pid_t pid;
                int r;

                if (slot < 1 || slot >= (json_int_t)CLEAVE_MAX_SLOTS ||
                        get_process(record, &pid, &start_time) < 0)
                        continue;
                r = session_new(tenant, (uint32_t)slot, pid, start_time, -EBADF, &session);
                if (r < 0) {
                        log_warning(
                                "process %d cannot be watched again: %s", (int)pid, strerror(-r));
                        continue;
                }
                snprintf(session->guard_version, sizeof(session->guard_version), "%s", guard ?: "");
                snprintf(session->driver_version, sizeof(session->driver_version), "%s",
                        driver ?: "");
                if (session->process.gone)
                        session_leave(session);
        }
}

/* Processes that joined when the journal could not be written stand in the page alone. They are
 * believed if the kernel says that they run, and in this tenant. */
static void recover_unrecorded(struct tenant *tenant)
{
        uint32_t used = atomic_load(&tenant->pages.usage->slots_used);

        for (uint32_t index = 1; index < MIN_OF(used, CLEAVE_MAX_SLOTS); index++) {
                const struct cleave_slot *slot;
                struct session *session;
                uint64_t start_time;
                pid_t pid;

                if (tenant->slot[index])
                        continue;
                slot = cleave_usage_slot(tenant->pages.usage, index);
                if (atomic_load(&slot->state) == CLEAVE_SLOT_FREE)
                        continue;
                pid = (pid_t)slot->pid;
                start_time = slot->start_time;
                /* returning, or of a process that is gone: it left something to give back */
                if (pid <= 0)
                        continue;
                if (process_is(pid, start_time) == 0 &&
                        tenant_of_process(tenant->manager, pid) != tenant)
                        continue;
                if (session_new(tenant, index, pid, start_time, -EBADF, &session) < 0)
                        continue;
                if (session->process.gone)
                        session_leave(session);
        }
}

static int recover_tenant(
        struct manager *manager, const char *id, json_t *record, struct tenant **ret)
{
        const char *secret = json_string_value(json_object_get(record, "secret"));
        const char *cgroup = json_string_value(json_object_get(record, "cgroup"));
        json_t *devices = json_object_get(record, "devices");
        struct tenant_request request = {
                .name = json_string_value(json_object_get(record, "name")),
                .uid = (uid_t)json_integer_value(json_object_get(record, "uid")),
                .command = json_object_get(record, "command"),
        };
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        json_t *compute = json_object_get(record, "compute");
        struct tenant *tenant;
        uint64_t start_time;
        pid_t pid;
        int r;

        if (parse_hex(id, &request.id) < 0 || request.id == 0 || !request.name ||
                check_name(request.name, NULL) < 0 || !json_is_array(request.command) || !secret ||
                strlen(secret) != 32)
                return -EBADMSG;
        r = recover_wants(manager, record, &request);
        if (r < 0)
                return r;
        r = ledger_restore(
                &manager->ledger, request.id, request.uid, request.want, request.devices);
        if (r < 0)
                return r;
        if (json_is_object(compute)) {
                request.compute = true;
                request.terms = (struct arbiter_terms){
                        .share = (unsigned)json_integer_value(json_object_get(compute, "share")),
                        .cap = (unsigned)json_integer_value(json_object_get(compute, "cap")),
                        .priority = (enum arbiter_priority)json_integer_value(
                                json_object_get(compute, "priority")),
                };
        }
        r = tenant_new(manager, &request, &tenant);
        if (r < 0) {
                ledger_remove(&manager->ledger, request.id);
                return r;
        }
        memcpy(tenant->secret, secret, sizeof(tenant->secret));
        tenant->created = (uint64_t)json_integer_value(json_object_get(record, "created"));
        tenant->past_refusals = (uint64_t)json_integer_value(json_object_get(record, "refusals"));
        tenant->cgroup = cgroup ? strdup(cgroup) : NULL;
        tenant->container = json_is_true(json_object_get(record, "container"));
        tenant->pid_namespace =
                (uint64_t)json_integer_value(json_object_get(record, "pid_namespace"));
        tenant->exited = json_is_true(json_object_get(record, "exited"));
        tenant->exit_status = (int)json_integer_value(json_object_get(record, "status"));
        for (unsigned i = 0; i < tenant->devices; i++)
                tenant->device[i].peak = (uint64_t)json_integer_value(
                        json_object_get(json_array_get(devices, i), "peak"));
        tenant->untrusted = json_is_true(json_object_get(record, "untrusted"));
        tenant->state = TENANT_STARTING;
        if (get_process(json_object_get(record, "run"), &pid, &start_time) == 0)
                (void)tenant_watch_process(tenant, &tenant->run, pid, start_time);
        if (get_process(json_object_get(record, "process"), &pid, &start_time) == 0) {
                (void)tenant_watch_process(tenant, &tenant->command_process, pid, start_time);
                tenant->state = TENANT_RUNNING;
        }
        r = compute_admit(tenant, &error);
        if (r < 0)
                manager_warn(manager, "the compute terms of tenant %s are lost: %s", tenant->name,
                        error_message(&error));
        r = recover_pages(tenant);
        if (r < 0) {
                tenant->pages_lost = true;
                manager_warn(manager,
                        "the pages of tenant %s were lost (%s): no process can join it any more",
                        tenant->name, strerror(-r));
        }
        if (json_is_object(json_object_get(record, "space")))
                space_restore_tenant(tenant, json_object_get(record, "space"));
        *ret = tenant;
        return 0;
}

int manager_recover(struct manager *manager, const char *sim)
{
        _cleanup_(recovered_done) struct recovered state = {0};
        struct tenant *tenant, *next;
        size_t damaged = 0, lost = 0;
        const char *id;
        json_t *record;
        int r, records;

        records = journal_read(&manager->journal, apply, &state, &damaged);
        if (records < 0) {
                manager_warn(manager, "the journal cannot be read: %s", strerror(-records));
                records = 0;
        }
        manager->events.last = (uint64_t)MAX_OF(state.serial, (json_int_t)0);
        if (json_object_size(state.tenants) > 0)
                sim = state.sim;
        r = manager_open_devices(manager, sim);
        if (r < 0)
                return r;

        json_object_foreach(state.tenants, id, record)
        {
                r = recover_tenant(manager, id, record, &tenant);
                if (r < 0) {
                        lost++;
                        manager_warn(manager, "tenant %.16s could not be recovered: %s", id,
                                strerror(-r));
                        continue;
                }
                recover_sessions(tenant, json_object_get(record, "sessions"));
        }
        /* only with all tenants and sessions known, a process can be told to be whose */
        for (tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                if (tenant->pages.usage)
                        recover_unrecorded(tenant);
        audit_now(manager, SAMPLE_EXACT);
        ledger_update_limits(&manager->ledger);
        for (tenant = manager->tenants; tenant; tenant = tenant->hh.next) {
                for (unsigned i = 0; i < tenant->devices; i++)
                        tenant->device[i].allowed =
                                MAX_OF(tenant_grant_of(tenant, i)->maximum, tenant_used(tenant, i));
                tenant_write_grant(tenant, true);
        }
        compute_recover(manager);
        (void)manager_rewrite_journal(manager);
        events_add(&manager->events, EVENT_DAEMON_STARTED, (struct event_subject){.pid = getpid()},
                "cleaved %s has started", CLEAVE_VERSION);
        if (json_object_size(state.tenants) > 0 || damaged > 0)
                events_add(&manager->events, EVENT_DAEMON_RECOVERED,
                        (struct event_subject){
                                .detail = json_pack("{s:i, s:i, s:I}", "tenants",
                                        (int)HASH_COUNT(manager->tenants), "lost", (int)lost,
                                        "damaged_bytes", (json_int_t)damaged)},
                        "%u tenants were recovered from %d records%s", HASH_COUNT(manager->tenants),
                        records, damaged > 0 ? "; the journal's end was damaged" : "");
        HASH_ITER(hh, manager->tenants, tenant, next)
        tenant_consider(tenant);
        return 0;
}
