/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/process.h"
#include "daemon/container.h"
#include "daemon/control.h"
#include "daemon/identity.h"
#include "daemon/manager.h"

#define DRIVER_LIMIT_ROOM (16ull << 20)

struct tenant *tenant_by_id(struct manager *manager, uint64_t id)
{
        struct tenant *tenant;

        HASH_FIND(hh, manager->tenants, &id, sizeof(id), tenant);
        return tenant;
}

bool tenant_name_taken(struct manager *manager, uid_t uid, const char *name)
{
        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                if (tenant->uid == uid && strcmp(tenant->name, name) == 0)
                        return true;
        return false;
}

int tenant_find(struct manager *manager, const char *text, uid_t uid, bool all, struct tenant **ret,
        struct cleave_error *error)
{
        struct tenant *by_name = NULL, *by_start = NULL;
        unsigned names = 0, starts = 0;
        size_t length = strlen(text);

        if (length == 0)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST, "no tenant is named");
        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next) {
                char id[FORMAT_ID_MAX];

                if (!all && tenant->uid != uid)
                        continue;
                format_id(id, tenant->id);
                if (strcmp(id, text) == 0) {
                        *ret = tenant;
                        return 0;
                }
                if (strcmp(tenant->name, text) == 0) {
                        /* of several users' tenants of one name, one's own is meant */
                        if (by_name && by_name->uid == uid)
                                continue;
                        names = tenant->uid == uid ? 1 : names + 1;
                        by_name = tenant;
                } else if (strncmp(id, text, length) == 0) {
                        by_start = tenant;
                        starts++;
                }
        }
        if (names == 1 || (names == 0 && starts == 1)) {
                *ret = by_name ?: by_start;
                return 0;
        }
        if (names + starts > 0)
                return error_set(error, CLEAVE_REASON_AMBIGUOUS, "'%.64s' fits %u tenants", text,
                        names ?: starts);
        return error_set(error, CLEAVE_REASON_NO_SUCH_TENANT, "there is no tenant '%.64s'", text);
}

static void watched_done(struct watched_process *process)
{
        process->source = sd_event_source_disable_unref(process->source);
        close_safe(process->pidfd);
        *process = WATCHED_NONE;
}

static int process_ended(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
        struct watched_process *process = userdata;

        (void)fd;
        (void)events;
        process->gone = true;
        process->source = sd_event_source_disable_unref(process->source);
        return 0;
}

static int tenant_process_ended(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
        struct tenant *tenant = userdata;

        process_ended(source, fd, events,
                source == tenant->run.source ? &tenant->run : &tenant->command_process);
        tenant_consider(tenant);
        return 0;
}

/* Opens the process and checks that it is the one meant; a process that has ended is one that is
 * gone, no error. */
static int watch(struct manager *manager, struct watched_process *process, pid_t pid,
        uint64_t start_time, sd_event_io_handler_t handler, void *userdata)
{
        int r;

        watched_done(process);
        process->pid = pid;
        process->start_time = start_time;
        process->pidfd = process_open(pid);
        r = process->pidfd < 0 ? process->pidfd : process_is(pid, start_time);
        if (r == -ESRCH) {
                process->gone = true;
                return 0;
        }
        if (r < 0)
                return r;
        return sd_event_add_io(
                manager->event, &process->source, process->pidfd, EPOLLIN, handler, userdata);
}

int tenant_watch_process(
        struct tenant *tenant, struct watched_process *process, pid_t pid, uint64_t start_time)
{
        return watch(tenant->manager, process, pid, start_time, tenant_process_ended, tenant);
}

static int random_id(struct manager *manager, uint64_t *ret)
{
        uint64_t id;

        do
                if (getrandom(&id, sizeof(id), 0) != sizeof(id))
                        return -errno;
        while (id == 0 || tenant_by_id(manager, id));
        *ret = id;
        return 0;
}

static int random_secret(char ret[static 33])
{
        uint64_t words[2];
        char half[FORMAT_ID_MAX];

        if (getrandom(words, sizeof(words), 0) != sizeof(words))
                return -errno;
        memcpy(ret, format_id(half, words[0]), 16);
        memcpy(ret + 16, format_id(half, words[1]), 17);
        return 0;
}

int tenant_new(struct manager *manager, const struct tenant_request *request, struct tenant **ret)
{
        struct tenant *tenant;
        uint64_t start_time;
        int r;

        tenant = calloc(1, sizeof(*tenant));
        if (!tenant)
                return -ENOMEM;
        tenant->manager = manager;
        tenant->pages = PAGES_NONE;
        tenant->run = tenant->command_process = WATCHED_NONE;
        tenant->uid = request->uid;
        tenant->created = clock_usec(CLOCK_REALTIME);
        tenant->id = request->id;
        r = tenant->id ? 0 : random_id(manager, &tenant->id);
        if (r == 0)
                r = random_secret(tenant->secret);
        tenant->compute = request->compute;
        tenant->untrusted = request->untrusted;
        tenant->sharing_why = request->sharing_why;
        tenant->space = request->space;
        tenant->terms = request->terms;
        if (!request->compute && !request->space.on)
                tenant->terms = (struct arbiter_terms){.priority = ARBITER_NORMAL};
        tenant->command = json_incref(request->command);
        tenant->name = strdup(request->name);
        tenant->slot = calloc(CLEAVE_MAX_SLOTS, sizeof(*tenant->slot));
        if (r == 0 && (!tenant->name || !tenant->slot))
                r = -ENOMEM;
        tenant->devices = request->devices;
        for (unsigned i = 0; i < request->devices; i++)
                tenant->device[i] = (struct tenant_device){
                        .index = request->want[i].device,
                        .driver_bytes = DEVICE_UNKNOWN_BYTES,
                        .allowed = request->want[i].maximum,
                };
        if (r == 0 && request->run_pid) {
                r = process_start_time(request->run_pid, &start_time);
                if (r == 0)
                        r = tenant_watch_process(
                                tenant, &tenant->run, request->run_pid, start_time);
        }
        if (r < 0) {
                watched_done(&tenant->run);
                json_decref(tenant->command);
                free(tenant->name);
                free(tenant->slot);
                free(tenant);
                return r;
        }
        HASH_ADD(hh, manager->tenants, id, sizeof(tenant->id), tenant);
        *ret = tenant;
        return 0;
}

struct ledger_grant *tenant_grant_of(struct tenant *tenant, unsigned i)
{
        struct ledger_tenant *entry = ledger_find(&tenant->manager->ledger, tenant->id);

        return entry ? ledger_find_grant(entry, tenant->device[i].index) : NULL;
}

uint64_t tenant_used(struct tenant *tenant, unsigned i)
{
        uint64_t driver = tenant->device[i].driver_bytes;
        uint64_t counted = tenant->pages.usage ? pages_used(&tenant->pages, i) : 0;

        /* where the tenant's own word is spoilt, or the driver knows of more, the driver's holds */
        if (tenant->damaged || tenant->pages_lost)
                return driver != DEVICE_UNKNOWN_BYTES ? driver : counted;
        if (tenant->device[i].over_told && driver != DEVICE_UNKNOWN_BYTES)
                return MAX_OF(driver, counted);
        return counted;
}

uint64_t tenant_returning(struct tenant *tenant, unsigned i)
{
        struct session *session;
        uint64_t sum = 0;

        if (!tenant->pages.usage)
                return 0;
        DL_FOREACH(tenant->sessions, session)
        if (session->returning)
                sum += pages_held(&tenant->pages, session->slot, i);
        return MIN_OF(sum, tenant_used(tenant, i));
}

void tenant_update_used(struct tenant *tenant)
{
        for (unsigned i = 0; i < tenant->devices; i++) {
                struct ledger_grant *grant = tenant_grant_of(tenant, i);
                uint64_t used = tenant_used(tenant, i);

                tenant->device[i].peak = MAX_OF(tenant->device[i].peak, used);
                if (grant)
                        grant->used = used;
        }
}

void tenant_write_grant(struct tenant *tenant, bool changed)
{
        struct cleave_grant_page *page = tenant->pages.grant;

        if (!page)
                return;
        for (unsigned i = 0; i < tenant->devices; i++) {
                const struct ledger_grant *grant = tenant_grant_of(tenant, i);
                uint64_t limit, guarantee;

                if (!grant)
                        continue;
                atomic_store(&page->device[i].compute_share, tenant->terms.share);
                atomic_store(&page->device[i].compute_max, tenant->terms.cap);
                limit = MIN_OF(grant->limit >> CLEAVE_UNIT_SHIFT, CLEAVE_COUNTER_MAX);
                guarantee = grant->guarantee >> CLEAVE_UNIT_SHIFT;
                if (atomic_load(&page->device[i].limit) == limit &&
                        atomic_load(&page->device[i].guarantee) == guarantee)
                        continue;
                atomic_store_explicit(&page->device[i].guarantee, guarantee, memory_order_release);
                atomic_store_explicit(&page->device[i].limit, limit, memory_order_release);
                changed = true;
        }
        space_write_page(tenant);
        if (!changed)
                return;
        atomic_fetch_add(&page->generation, 1);
        tenant_limit_driver(tenant);
}

void tenant_limit_driver(struct tenant *tenant)
{
        struct manager *manager = tenant->manager;
        _cleanup_free_ char *directory = NULL;

        if (!tenant->cgroup || !manager->backend->limit)
                return;
        directory = cgroup_directory(tenant->cgroup);
        for (unsigned i = 0; directory && i < tenant->devices; i++) {
                const struct ledger_grant *grant = tenant_grant_of(tenant, i);
                uint64_t limit;

                if (!grant)
                        continue;
                /* The driver may count what it needs itself, and our quota has to be had in full.
                 */
                limit = grant->limit + grant->limit / 64 + DRIVER_LIMIT_ROOM;
                manager->driver_limits = manager->backend->limit(
                        manager->backend_handle, tenant->device[i].index, directory, limit);
                manager->driver_limits_tried = true;
        }
}

static char *store_name(char buffer[static STORE_NAME_MAX], const char *kind, uint64_t id)
{
        char text[FORMAT_ID_MAX];

        snprintf(buffer, STORE_NAME_MAX, "%s-%s", kind, format_id(text, id));
        return buffer;
}

static int keep_pages(struct tenant *tenant)
{
        struct manager *manager = tenant->manager;
        char name[STORE_NAME_MAX];
        bool first = manager->store.kind == STORE_KEEPER && manager->store.fd < 0;
        int r;

        r = store_put(
                &manager->store, store_name(name, "grant", tenant->id), tenant->pages.grant_fd);
        if (r == 0)
                r = store_put(&manager->store, store_name(name, "usage", tenant->id),
                        tenant->pages.usage_fd);
        if (r == 0 && first) {
                r = store_put(&manager->store, CLEAVE_CONTROL_SOCKET, manager->control_fd);
                if (r == 0)
                        r = store_put(&manager->store, CLEAVE_GUARD_SOCKET, manager->guard_fd);
                /* claims are in the keeper's name from now on, so that they outlive us */
                for (unsigned i = 0; i < tenant->devices; i++)
                        manager_refresh_claims(manager, tenant->device[i].index);
        }
        return r;
}

int tenant_grant(struct tenant *tenant, struct cleave_error *error)
{
        struct manager *manager = tenant->manager;
        const char *why = NULL;
        char name[STORE_NAME_MAX];
        int r;

        r = pages_new(tenant->id, &tenant->pages);
        if (r < 0)
                return error_set_errno(error, r, "the tenant's pages cannot be made");
        tenant->pages.grant->devices = tenant->devices;
        for (unsigned i = 0; i < tenant->devices; i++)
                memcpy(tenant->pages.grant->device[i].uuid,
                        manager->device[tenant->device[i].index].info.uuid, 16);
        tenant_write_grant(tenant, true);

        if (manager->config.cgroups && tenant->run.pid && !tenant->run.gone) {
                r = cgroup_make(tenant->run.pid, tenant->uid, tenant->id, &tenant->cgroup, &why);
                if (r < 0 && r != -ENOTSUP)
                        return error_set_errno(error, r, "the tenant's cgroup cannot be made");
        }
        tenant_limit_driver(tenant);
        /* recovery wants the pages, so they are safe before the journal names the tenant */
        r = keep_pages(tenant);
        if (r < 0)
                manager_warn(manager, "tenants would not outlive the daemon: %s", strerror(-r));
        tenant->state = TENANT_STARTING;
        r = manager_record(manager, tenant_record(tenant));
        if (r < 0) {
                store_drop(&manager->store, store_name(name, "grant", tenant->id));
                store_drop(&manager->store, store_name(name, "usage", tenant->id));
                tenant->state = TENANT_WAITING;
                return error_set(error, CLEAVE_REASON_JOURNAL_FAILED,
                        "the journal cannot be written (%s), so nothing new is granted",
                        strerror(-r));
        }
        return 0;
}

void tenant_free(struct tenant *tenant)
{
        struct manager *manager = tenant->manager;
        struct session *session, *next;

        DL_FOREACH_SAFE(tenant->sessions, session, next)
        session_free(session);
        compute_leave(tenant);
        space_leave_tenant(tenant);
        if (tenant->lifeline)
                connection_forget_tenant(tenant->lifeline);
        HASH_DEL(manager->tenants, tenant);
        watched_done(&tenant->run);
        watched_done(&tenant->command_process);
        pages_done(&tenant->pages);
        json_decref(tenant->command);
        free(tenant->cgroup);
        free(tenant->name);
        free(tenant->slot);
        free(tenant);
}

bool tenant_is_over(const struct tenant *tenant)
{
        if (tenant->exited)
                return true;
        /* `cleave run` would have told of an exit: without it, the end of the command's process
         * counts */
        if (tenant->lifeline || (!tenant->abandoned && tenant->run.pid && !tenant->run.gone))
                return false;
        return !tenant->command_process.pid || tenant->command_process.gone;
}

void tenant_consider(struct tenant *tenant)
{
        struct manager *manager = tenant->manager;
        char id[FORMAT_ID_MAX], name[STORE_NAME_MAX];
        json_t *detail;

        if (!tenant_is_over(tenant))
                return;
        if (tenant->sessions) {
                tenant->state = TENANT_ENDING;
                return;
        }
        detail = json_pack("{s:s}", "name", tenant->name);
        if (tenant->exited)
                json_object_set_new(detail, "status", json_integer(tenant->exit_status));
        events_add(&manager->events, EVENT_TENANT_ENDED,
                (struct event_subject){.tenant = tenant->id, .detail = detail},
                "tenant %s (%s) has ended", tenant->name, format_id(id, tenant->id));
        ledger_remove(&manager->ledger, tenant->id);
        if (tenant->state != TENANT_WAITING) {
                manager_record(manager,
                        json_pack("{s:s, s:s}", "t", "gone", "id", format_id(id, tenant->id)));
                store_drop(&manager->store, store_name(name, "grant", tenant->id));
                store_drop(&manager->store, store_name(name, "usage", tenant->id));
        }
        if (tenant->cgroup && !tenant->container)
                cgroup_remove(tenant->cgroup);
        stops_tenant_ended(manager, tenant->id);
        tenant_free(tenant);
        manager_write_limits(manager);
        manager_serve_soon(manager);
        manager_look_idle(manager);
        manager_look_rest(manager);
        manager_look_keeper(manager);
}

struct tenant *tenant_of_process(struct manager *manager, pid_t pid)
{
        struct ancestor ancestors[ANCESTRY_MAX];
        _cleanup_free_ char *cgroup = NULL;
        struct tenant *tenant;
        unsigned count;

        if (process_cgroup(pid, &cgroup) == 0)
                for (tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                        if (tenant->cgroup && cgroup_contains(tenant->cgroup, cgroup))
                                return tenant;
        tenant = container_of_process(manager, pid);
        if (tenant)
                return tenant;

        if (ancestry(pid, 0, ancestors, &count) < 0)
                return NULL;
        /* nearest first: a tenant may run below another */
        for (unsigned i = 0; i < count; i++) {
                const struct ancestor *a = &ancestors[i];
                struct session *session;

                HASH_FIND_INT(manager->sessions, &a->pid, session);
                if (session && session->process.start_time == a->start_time)
                        return session->tenant;
                for (tenant = manager->tenants; tenant; tenant = tenant->hh.next) {
                        if (tenant->command_process.pid == a->pid &&
                                tenant->command_process.start_time == a->start_time)
                                return tenant;
                        /* i: `cleave run` itself is not of its tenant */
                        if (i > 0 && tenant->run.pid == a->pid &&
                                tenant->run.start_time == a->start_time)
                                return tenant;
                }
        }
        return NULL;
}

static int session_process_ended(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
        struct session *session = userdata;

        process_ended(source, fd, events, &session->process);
        session_leave(session);
        return 0;
}

int session_new(struct tenant *tenant, uint32_t slot, pid_t pid, uint64_t start_time, int fd,
        struct session **ret)
{
        struct manager *manager = tenant->manager;
        struct session *session, *same;
        int r;

        if (slot == 0)
                for (slot = 1; slot < CLEAVE_MAX_SLOTS && tenant->slot[slot];)
                        slot++;
        if (slot >= CLEAVE_MAX_SLOTS)
                return -EUSERS;
        if (tenant->slot[slot])
                return -EEXIST;
        session = calloc(1, sizeof(*session));
        if (!session)
                return -ENOMEM;
        session->tenant = tenant;
        session->slot = slot;
        session->fd = -EBADF;
        session->holder = UINT32_MAX;
        session->process = WATCHED_NONE;
        r = watch(manager, &session->process, pid, start_time, session_process_ended, session);
        if (r < 0) {
                watched_done(&session->process);
                free(session);
                return r;
        }
        session->fd = fd;
        tenant->slot[slot] = session;
        tenant->session_count++;
        DL_APPEND(tenant->sessions, session);
        HASH_FIND_INT(manager->sessions, &pid, same);
        if (same)
                HASH_DEL(manager->sessions, same);
        HASH_ADD_INT(manager->sessions, process.pid, session);
        *ret = session;
        return 0;
}

void session_hang_up(struct session *session)
{
        compute_session_gone(session);
        session->io = sd_event_source_disable_unref(session->io);
        session->fd = close_safe(session->fd);
}

static void unhash(struct session *session)
{
        struct session *found;

        HASH_FIND_INT(session->tenant->manager->sessions, &session->process.pid, found);
        if (found == session)
                HASH_DEL(session->tenant->manager->sessions, session);
}

void session_free(struct session *session)
{
        struct tenant *tenant = session->tenant;

        if (session->returning)
                tenant->manager->returning--;
        unhash(session);
        session_hang_up(session);
        watched_done(&session->process);
        DL_DELETE(tenant->sessions, session);
        tenant->slot[session->slot] = NULL;
        tenant->session_count--;
        free(session);
}

void tenant_set_damaged(struct tenant *tenant, const char *what)
{
        if (tenant->damaged)
                return;
        tenant->damaged = true;
        events_add(&tenant->manager->events, EVENT_PAGE_DAMAGED,
                (struct event_subject){.tenant = tenant->id},
                "tenant %s has damaged its usage page (%s); the driver's count is used from now on",
                tenant->name, what);
}

void session_leave(struct session *session)
{
        struct tenant *tenant = session->tenant;
        struct manager *manager = tenant->manager;

        if (session->returning)
                return;
        session->returning = true;
        session->returning_since = clock_usec(CLOCK_MONOTONIC);
        manager->returning++;
        session_hang_up(session);
        unhash(session);
        if (tenant->pages.usage && session->slot < CLEAVE_MAX_SLOTS) {
                cleave_slot_settle(tenant->pages.usage, session->slot);
                pages_set_slot_state(&tenant->pages, session->slot, CLEAVE_SLOT_RETURNING);
        }
        space_session_gone(session);
        events_add(&manager->events, EVENT_PROCESS_LEFT,
                (struct event_subject){.tenant = tenant->id,
                        .pid = session->process.pid,
                        .detail = json_pack("{s:i}", "slot", (int)session->slot)},
                "process %d of tenant %s has left", (int)session->process.pid, tenant->name);
        manager_arm_returning(manager);
}

/* Nobody uses the page now: whatever it says, nothing is used. */
static void come_to_rest(struct tenant *tenant)
{
        struct cleave_usage_page *page = tenant->pages.usage;

        for (uint32_t i = 0; i < CLEAVE_MAX_DEVICES; i++)
                if (cleave_used(page, i) != 0)
                        tenant_set_damaged(tenant, "something is used by nobody");
        if (cleave_usage_page_check(page, CLEAVE_USAGE_BYTES) < 0)
                tenant_set_damaged(tenant, "its head is overwritten");
        if (tenant->damaged && pages_clear_usage(&tenant->pages, tenant->id) == 0)
                tenant->damaged = false;
}

void session_release(struct session *session)
{
        struct tenant *tenant = session->tenant;
        struct manager *manager = tenant->manager;
        uint64_t sum = 0, took = clock_usec(CLOCK_MONOTONIC) - session->returning_since;
        pid_t pid = session->process.pid;
        char size[FORMAT_SIZE_MAX], id[FORMAT_ID_MAX];
        json_t *amounts = json_array();
        uint32_t slot = session->slot;

        if (tenant->pages.usage) {
                struct cleave_slot *s = cleave_usage_slot(tenant->pages.usage, slot);

                for (uint32_t i = 0; i < CLEAVE_MAX_DEVICES; i++) {
                        uint64_t held = pages_held(&tenant->pages, slot, i);

                        if (cleave_counter_release(tenant->pages.usage, slot, i) < 0) {
                                atomic_store(&s->held[i], 0);
                                tenant_set_damaged(tenant, "a process held more than all together");
                                held = 0;
                        }
                        sum += held;
                        if (i < tenant->devices)
                                json_array_append_new(amounts, json_integer((json_int_t)held));
                }
                if (__builtin_add_overflow(tenant->past_refusals, atomic_load(&s->refusals),
                            &tenant->past_refusals))
                        tenant->past_refusals = UINT64_MAX;
                pages_set_slot_state(&tenant->pages, slot, CLEAVE_SLOT_FREE);
        }
        session_free(session);
        if (tenant->pages.usage && !tenant->sessions)
                come_to_rest(tenant);
        tenant_update_used(tenant);
        manager_record(manager, json_pack("{s:s, s:s, s:i}", "t", "leave", "id",
                                        format_id(id, tenant->id), "slot", (int)slot));
        events_add(&manager->events, EVENT_MEMORY_RETURNED,
                (struct event_subject){.tenant = tenant->id,
                        .pid = pid,
                        .detail = json_pack(
                                "{s:o, s:f}", "memory", amounts, "seconds", (double)took / 1e6)},
                "%s of process %d of tenant %s are back", format_size(size, sum), (int)pid,
                tenant->name);
        ledger_update_limits(&manager->ledger);
        manager_write_limits(manager);
        manager_serve_soon(manager);
        tenant_consider(tenant);
}

static json_t *optional_bytes(uint64_t bytes)
{
        return bytes == DEVICE_UNKNOWN_BYTES ? json_null() : json_integer((json_int_t)bytes);
}

/* Refusals are counted a process, told by device: with one device the count is exact. */
static uint64_t refusals(struct tenant *tenant, unsigned i)
{
        struct session *session;
        uint64_t sum = tenant->past_refusals;

        if (tenant->devices > 1 || !tenant->pages.usage)
                return tenant->device[i].refusals;
        DL_FOREACH(tenant->sessions, session)
        if (__builtin_add_overflow(sum,
                    atomic_load(&cleave_usage_slot(tenant->pages.usage, session->slot)->refusals),
                    &sum))
                sum = INT64_MAX;
        return MIN_OF(sum, (uint64_t)INT64_MAX);
}

static const char *state_word(enum tenant_state state)
{
        static const char *const words[] = {
                [TENANT_WAITING] = "waiting",
                [TENANT_STARTING] = "starting",
                [TENANT_RUNNING] = "running",
                [TENANT_ENDING] = "ending",
        };

        return words[state];
}

static json_t *session_json(struct session *session)
{
        struct tenant *tenant = session->tenant;
        json_t *memory = json_array();
        char command[256] = "";
        unsigned groups = 0, channels = 0;
        json_t *unknown = json_array();

        for (unsigned i = 0; i < tenant->devices; i++)
                json_array_append_new(memory, tenant->pages.usage
                                                      ? json_integer((json_int_t)pages_held(
                                                                &tenant->pages, session->slot, i))
                                                      : json_null());
        if (tenant->pages.usage) {
                struct cleave_slot *slot = cleave_usage_slot(tenant->pages.usage, session->slot);
                uint32_t used = MIN_OF(atomic_load(&slot->groups), CLEAVE_MAX_GROUPS);

                for (unsigned i = 0; i < CLEAVE_MAX_UNKNOWN; i++) {
                        uint64_t hash = atomic_load(&slot->unknown[i]);
                        char text[FORMAT_ID_MAX];

                        if (hash)
                                json_array_append_new(unknown, json_string(format_id(text, hash)));
                }
                for (uint32_t i = 0; i < used; i++)
                        if (atomic_load(&slot->group[i].handle)) {
                                groups++;
                                channels += MIN_OF(
                                        atomic_load(&slot->group[i].channels), CLEAVE_MAX_CHANNELS);
                        }
        }
        if (session->returning ||
                process_command(session->process.pid, command, sizeof(command)) < 0)
                command[0] = '\0';
        return json_pack("{s:i, s:s?, s:i, s:s, s:o, s:s?, s:s?, s:i, s:i, s:o}", "pid",
                (int)session->process.pid, "command", command[0] ? command : NULL, "slot",
                (int)session->slot, "state", session->returning ? "returning" : "live", "memory",
                memory, "guard_version", session->guard_version[0] ? session->guard_version : NULL,
                "driver_version", session->driver_version[0] ? session->driver_version : NULL,
                "channel_groups", (int)groups, "channels", (int)channels, "unknown_entries",
                unknown);
}

json_t *tenant_json(struct tenant *tenant)
{
        struct manager *manager = tenant->manager;
        json_t *devices = json_array(), *processes = json_array(), *object;
        struct session *session;
        char id[FORMAT_ID_MAX];

        for (unsigned i = 0; i < tenant->devices; i++) {
                struct tenant_device *device = &tenant->device[i];
                const struct ledger_grant *grant = tenant_grant_of(tenant, i);
                const struct device *info = &manager->device[device->index].info;
                uint64_t used = tenant_used(tenant, i);

                device->peak = MAX_OF(device->peak, used);
                if (!grant)
                        continue;
                object = json_pack("{s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:o, s:I}", "device",
                        info->uuid_text, "index", (int)info->index, "memory",
                        (json_int_t)grant->guarantee, "memory_max", (json_int_t)grant->maximum,
                        "memory_used", (json_int_t)used, "memory_peak", (json_int_t)device->peak,
                        "memory_returning", (json_int_t)tenant_returning(tenant, i),
                        "memory_driver", optional_bytes(device->driver_bytes), "refusals",
                        (json_int_t)refusals(tenant, i));
                compute_add_device_json(tenant, i, object);
                json_array_append_new(devices, object);
        }
        DL_FOREACH(tenant->sessions, session)
        json_array_append_new(processes, session_json(session));
        object = json_pack("{s:s, s:s, s:I, s:O, s:o, s:s, s:f, s:s, s:o, s:o}", "id",
                format_id(id, tenant->id), "name", tenant->name, "uid", (json_int_t)tenant->uid,
                "command", tenant->command, "pid",
                tenant->command_process.pid ? json_integer(tenant->command_process.pid)
                                            : json_null(),
                "state", state_word(tenant->state), "created", (double)tenant->created / 1e6,
                "sharing",
                tenant->space.on  ? "space"
                : tenant->compute ? "time"
                                  : "memory",
                "devices", devices, "processes", processes);
        compute_add_tenant_json(tenant, object);
        space_add_tenant_json(tenant, object);
        return object;
}

static json_t *watched_record(const struct watched_process *process)
{
        if (!process->pid)
                return json_null();
        return json_pack(
                "{s:i, s:I}", "pid", (int)process->pid, "start", (json_int_t)process->start_time);
}

json_t *tenant_record(struct tenant *tenant)
{
        json_t *devices = json_array(), *compute = json_null();
        char id[FORMAT_ID_MAX];

        if (tenant->compute)
                compute = json_pack("{s:i, s:i, s:i}", "share", (int)tenant->terms.share, "cap",
                        (int)tenant->terms.cap, "priority", (int)tenant->terms.priority);
        for (unsigned i = 0; i < tenant->devices; i++) {
                const struct ledger_grant *grant = tenant_grant_of(tenant, i);

                json_array_append_new(devices,
                        json_pack("{s:s, s:I, s:I, s:I}", "device",
                                tenant->manager->device[tenant->device[i].index].info.uuid_text,
                                "guarantee", (json_int_t)(grant ? grant->guarantee : 0), "maximum",
                                (json_int_t)(grant ? grant->maximum : 0), "peak",
                                (json_int_t)tenant->device[i].peak));
        }
        return json_pack("{s:s, s:s, s:s, s:s, s:I, s:O, s:I, s:s?, s:o, s:o, s:o, s:b, s:i, s:I, "
                         "s:b, s:I, s:o, s:o*, s:o*}",
                "t", "tenant", "id", format_id(id, tenant->id), "secret", tenant->secret, "name",
                tenant->name, "uid", (json_int_t)tenant->uid, "command", tenant->command, "created",
                (json_int_t)tenant->created, "cgroup", tenant->cgroup, "run",
                watched_record(&tenant->run), "process", watched_record(&tenant->command_process),
                "devices", devices, "exited", tenant->exited, "status", tenant->exit_status,
                "refusals", (json_int_t)MIN_OF(tenant->past_refusals, (uint64_t)INT64_MAX),
                "container", tenant->container, "pid_namespace", (json_int_t)tenant->pid_namespace,
                "compute", compute, "untrusted", tenant->untrusted ? json_true() : NULL, "space",
                space_record(tenant));
}

json_t *session_record(struct session *session)
{
        char id[FORMAT_ID_MAX];

        return json_pack("{s:s, s:s, s:i, s:i, s:I, s:s, s:s}", "t", "join", "id",
                format_id(id, session->tenant->id), "slot", (int)session->slot, "pid",
                (int)session->process.pid, "start", (json_int_t)session->process.start_time,
                "guard", session->guard_version, "driver", session->driver_version);
}
