/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tenants side by side: which SMs each has (policy/space.h), and the device's MPS server, which a
 * process of its own keeps (space_keeper.h). A device in this mode has tenants of this mode only.
 *
 * A set is given away by writing it into grant pages, and taken by a process that claims it in its
 * slot (proto/page.h). So whatever was changed is looked at once more after it was written: where a
 * process was quicker, the change is taken back, and what that process claims is held.
 */
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/process.h"
#include "daemon/control.h"
#include "partition/mps.h"
#include "policy/gate.h"
#include "proto/environment.h"

#define RACE_TRIES    4
#define RESTART_PAUSE USEC_PER_SEC
#define CONTROL       "nvidia-cuda-mps-control"

/* A tenant.create that waits for the server. */
struct deferred {
        struct deferred *next, *prev;
        struct connection *connection; /* NULL: it has gone */
        json_t *params;
        json_int_t id;
};

struct space {
        struct manager *manager;
        unsigned device;
        int fd; /* to the keeper; -EBADF: it has died */
        sd_event_source *io, *timer;
        char *in;
        bool ready;
        struct space_geometry coarse, fine;
        bool planned; /* plan is in use, with one of them */
        struct space_plan plan;
        char *pipe_directory;
        pid_t server; /* 0: none just now */
        unsigned restarts;
        uint64_t down_since; /* monotonic, usec; 0: it serves */
        struct deferred *deferred;
};

static struct space *space_of(struct tenant *tenant)
{
        return tenant->space.on ? tenant->manager->device[tenant->device[0].index].space : NULL;
}

static const char *uuid_of(const struct space *space)
{
        return space->manager->device[space->device].info.uuid_text;
}

/* ---- claims and pages ---- */

/* What the tenant's processes say that their contexts live on. */
static struct space_set claimed(struct tenant *tenant)
{
        struct space_set set = {{0}};
        struct session *session;

        if (!tenant->pages.usage)
                return set;
        DL_FOREACH(tenant->sessions, session)
        {
                const struct cleave_slot *slot;

                if (session->returning || session->slot >= CLEAVE_MAX_SLOTS)
                        continue;
                slot = cleave_usage_slot(tenant->pages.usage, session->slot);
                for (unsigned i = 0; i < 2; i++)
                        set.word[i] |= atomic_load(&slot->space_set[i]);
        }
        return set;
}

static void read_claims(struct space *space)
{
        for (unsigned i = 0; i < space->plan.tenants; i++) {
                struct tenant *tenant = tenant_by_id(space->manager, space->plan.tenant[i].id);
                struct space_set held = {{0}};

                if (tenant)
                        held = claimed(tenant);
                (void)space_hold(&space->plan, space->plan.tenant[i].id, &held);
        }
}

void space_write_page(struct tenant *tenant)
{
        struct space *space = space_of(tenant);
        const struct space_tenant *t =
                space && space->planned ? space_find(&space->plan, tenant->id) : NULL;
        struct cleave_grant_page *page = tenant->pages.grant;
        uint64_t set[2];
        uint32_t version;

        if (!page || !t)
                return;
        atomic_store(&page->space_step, space->plan.geometry.step);
        atomic_store(&page->space_units, space->plan.geometry.units);
        if (cleave_space_read(page, set, &version) && version > 0 && set[0] == t->set.word[0] &&
                set[1] == t->set.word[1])
                return;
        cleave_space_write(page, t->set.word);
}

static void write_pages(struct space *space)
{
        for (unsigned i = 0; i < space->plan.tenants; i++) {
                struct tenant *tenant = tenant_by_id(space->manager, space->plan.tenant[i].id);

                if (tenant)
                        space_write_page(tenant);
        }
}

/* Whether a process has claimed, of what was its tenant's before, something that is another's now.
 */
static bool collides(struct space *space, struct space_plan *before)
{
        for (unsigned i = 0; i < before->tenants; i++) {
                const struct space_tenant *old = &before->tenant[i];
                struct tenant *tenant = tenant_by_id(space->manager, old->id);
                struct space_set claim;

                if (!tenant)
                        continue;
                claim = claimed(tenant);
                for (unsigned k = 0; k < 2; k++)
                        claim.word[k] &= old->set.word[k] | old->held.word[k];
                for (unsigned k = 0; k < space->plan.tenants; k++) {
                        const struct space_tenant *new = &space->plan.tenant[k];

                        if (new->id != old->id && !(old->group && new->group == old->group) &&
                                space_meet(&claim, &new->set))
                                return true;
                }
        }
        return false;
}

static void renew(struct space *space)
{
        struct space_plan before;

        for (unsigned i = 0; i < RACE_TRIES && space->planned; i++) {
                before = space->plan;
                read_claims(space);
                space_replan(&space->plan);
                write_pages(space);
                if (!collides(space, &before))
                        break;
                space->plan = before;
                write_pages(space);
        }
        if (space->planned)
                gates_share_sets(space->manager, space->device, &space->plan);
}

static int admit(struct space *space, struct tenant *tenant)
{
        struct space_plan before;
        int r;

        for (unsigned i = 0; i < RACE_TRIES; i++) {
                before = space->plan;
                read_claims(space);
                if (tenant->space.part)
                        r = space_admit_part(&space->plan, tenant->id, tenant->space.part);
                else
                        r = space_admit(&space->plan, tenant->id, tenant->space.units,
                                tenant->space.best_effort);
                if (r < 0) {
                        space->plan = before;
                        return r;
                }
                write_pages(space);
                if (!collides(space, &before))
                        return 0;
                space->plan = before;
                write_pages(space);
        }
        return -EBUSY;
}

/* ---- the keeper ---- */

static void schedule_restart(struct space *space);

static void space_free(struct space *space, bool stop)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        struct deferred *deferred, *next;

        DL_FOREACH_SAFE(space->deferred, deferred, next)
        {
                DL_DELETE(space->deferred, deferred);
                if (deferred->connection) {
                        error_set(&error, CLEAVE_REASON_BUSY,
                                "the daemon has let go of device %u meanwhile", space->device);
                        deferred->connection->pending--;
                        connection_fail(deferred->connection, deferred->id, &error);
                }
                json_decref(deferred->params);
                free(deferred);
        }
        if (stop && space->fd >= 0)
                (void)!send(space->fd, "stop\n", 5, MSG_NOSIGNAL);
        sd_event_source_disable_unref(space->io);
        sd_event_source_disable_unref(space->timer);
        close_safe(space->fd);
        free(space->pipe_directory);
        free(space->in);
        gates_share_sets(space->manager, space->device, NULL);
        space->manager->device[space->device].space = NULL;
        free(space);
}

/* Nobody needs it any more. May free it. */
static void consider(struct space *space)
{
        if (!space->deferred && (!space->planned || space->plan.tenants == 0))
                space_free(space, true);
}

/* Those who have waited: again from the beginning, now that it is known how it ends. */
static void serve_deferred(struct space *space, const struct cleave_error *failure)
{
        struct manager *manager = space->manager;
        unsigned device = space->device;
        struct deferred *deferred;

        while ((deferred = space->deferred)) {
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                struct connection *connection = deferred->connection;
                json_t *result = NULL;
                int r;

                DL_DELETE(space->deferred, deferred);
                if (connection && failure) {
                        connection->pending--;
                        connection_fail(connection, deferred->id, failure);
                } else if (connection) {
                        connection->pending--;
                        r = method_call(connection, "tenant.create", deferred->params, deferred->id,
                                &result, &error);
                        if (r < 0)
                                connection_fail(connection, deferred->id, &error);
                        else if (r == 0)
                                connection_reply(connection, deferred->id, result);
                }
                json_decref(deferred->params);
                free(deferred);
                /* it may have been the last, and all have gone with it */
                space = manager->device[device].space;
                if (!space)
                        return;
        }
        consider(space);
}

static void tell(struct space *space, enum event_kind kind, const char *text)
{
        unsigned tenants = space->planned ? space->plan.tenants : 0;

        for (unsigned i = 0; i < tenants; i++)
                events_add(&space->manager->events, kind,
                        (struct event_subject){
                                .tenant = space->plan.tenant[i].id, .device = uuid_of(space)},
                        "device %u: %s", space->device, text);
        if (tenants > 0)
                log_notice("device %u: %s", space->device, text);
}

static void failed(struct space *space, const char *why)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;

        if (space->planned && space->plan.tenants > 0) {
                manager_warn(space->manager, "device %u cannot be shared in space any more: %s",
                        space->device, why);
                space->fd = close_safe(space->fd);
                schedule_restart(space);
                return;
        }
        error_set(&error, CLEAVE_REASON_NO_DRIVER, "device %u cannot be shared in space: %s",
                space->device, why);
        serve_deferred(space, &error);
}

/* A line of the keeper's. May free the space. */
static void hear(struct space *space, const char *line)
{
        char text[160];
        unsigned sms, coarse, coarse_rest, fine, fine_rest;
        int pid;

        if (sscanf(line, "ready %u %u %u %u %u %d", &sms, &coarse, &coarse_rest, &fine, &fine_rest,
                    &pid) == 6) {
                space->coarse = (struct space_geometry){sms, SPACE_STEP, coarse, coarse_rest};
                space->fine = (struct space_geometry){sms, SPACE_STEP_FINE, fine, fine_rest};
                space->server = pid;
                if (space->down_since) {
                        space->down_since = 0;
                        space->restarts++;
                        snprintf(text, sizeof(text), "an MPS server serves again, process %d", pid);
                        tell(space, EVENT_SERVER_BACK, text);
                }
                if (space_geometry_check(&space->coarse) < 0 ||
                        space_geometry_check(&space->fine) < 0) {
                        failed(space, "its SMs are divided in a way that is not understood");
                        return;
                }
                space->ready = true;
                serve_deferred(space, NULL);
        } else if (strncmp(line, "down ", 5) == 0) {
                space->server = 0;
                space->down_since = clock_usec(CLOCK_MONOTONIC);
                snprintf(text, sizeof(text),
                        "%s: all contexts of the tenants that it served are lost; another is "
                        "being started",
                        line + 5);
                tell(space, EVENT_SERVER_LOST, text);
        } else if (sscanf(line, "up %d", &pid) == 1) {
                uint64_t took =
                        space->down_since ? clock_usec(CLOCK_MONOTONIC) - space->down_since : 0;

                space->server = pid;
                space->down_since = 0;
                space->restarts++;
                snprintf(text, sizeof(text), "an MPS server serves again, process %d, after %.1f s",
                        pid, (double)took / 1e6);
                tell(space, EVENT_SERVER_BACK, text);
        } else if (strncmp(line, "failed ", 7) == 0) {
                failed(space, line + 7);
        }
}

static int keeper_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
        struct space *space = userdata;
        struct manager *manager = space->manager;
        unsigned device = space->device;
        char buffer[1024];
        size_t used = space->in ? strlen(space->in) : 0;
        ssize_t n = recv(fd, buffer, sizeof(buffer) - 1, MSG_DONTWAIT);
        char *all, *end;

        (void)source;
        (void)events;
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n <= 0) {
                space->io = sd_event_source_disable_unref(space->io);
                space->fd = close_safe(space->fd);
                if (!space->ready && space->deferred)
                        failed(space, "the process that keeps its MPS server has ended");
                else
                        schedule_restart(space);
                return 0;
        }
        buffer[n] = '\0';
        all = realloc(space->in, used + (size_t)n + 1);
        if (!all)
                return 0;
        memcpy(all + used, buffer, (size_t)n + 1);
        space->in = all;
        while (space && space->in && (end = strchr(space->in, '\n'))) {
                _cleanup_free_ char *line = strndup(space->in, (size_t)(end - space->in));

                memmove(space->in, end + 1, strlen(end + 1) + 1);
                if (line)
                        hear(space, line);
                space = manager->device[device].space;
        }
        return 0;
}

/* The keeper's variables: those of the daemon, and the simulated GPUs that it has opened. */
static char **keeper_environment(const struct manager *manager, char **sim)
{
        extern char **environ;
        size_t n = 0, kept = 0;
        char **list;

        while (environ[n])
                n++;
        list = calloc(n + 2, sizeof(*list));
        for (size_t i = 0; list && i < n; i++)
                if (strncmp(environ[i], "CLEAVE_SIM=", 11) != 0 &&
                        strncmp(environ[i], "CUDA_MPS_", 9) != 0)
                        list[kept++] = environ[i];
        if (list && manager->sim && asprintf(sim, "CLEAVE_SIM=%s", manager->sim) >= 0)
                list[kept++] = *sim;
        return list;
}

int space_make_place(const char *runtime_directory, bool system)
{
        _cleanup_free_ char *root = path_join(runtime_directory, CLEAVE_SPACE_DIRECTORY);

        return root ? make_directory(root, system ? 0755 : 0700) : -ENOMEM;
}

static int spawn_keeper(struct space *space)
{
        struct manager *manager = space->manager;
        bool simulated = manager->backend == &device_backend_sim;
        _cleanup_close_ int ours = -EBADF, theirs = -EBADF;
        _cleanup_free_ char *root = path_join(manager->directory, CLEAVE_SPACE_DIRECTORY),
                            *sim = NULL;
        _cleanup_free_ char *library = NULL, *control = NULL;
        _cleanup_free_ char **environment = keeper_environment(manager, &sim);
        char number[12], name[24], program[] = "/proc/self/exe";
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        sigset_t none;
        int ends[2], r;
        pid_t pid;

        if (simulated && manager->sim_directory) {
                library = path_join(manager->sim_directory, "libcuda.so.1");
                control = path_join(manager->sim_directory, CONTROL);
        }
        if (!root || !environment || (simulated && (!library || !control)))
                return -ENOMEM;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
                return -errno;
        ours = ends[0];
        theirs = ends[1];
        snprintf(number, sizeof(number), "%d", theirs);
        snprintf(name, sizeof(name), CLEAVE_SPACE_SERVER, space->device);
        {
                char *arguments[] = {(char *)"cleaved", (char *)"--space", number, root, name,
                        (char *)uuid_of(space), (char *)(library ?: ""), (char *)(control ?: ""),
                        (char *)(manager->system ? "shared" : "own"), NULL};

                posix_spawn_file_actions_init(&actions);
                /* onto itself: it stays open over exec */
                posix_spawn_file_actions_adddup2(&actions, theirs, theirs);
                posix_spawnattr_init(&attributes);
                sigemptyset(&none);
                posix_spawnattr_setsigmask(&attributes, &none);
                posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
                r = posix_spawn(&pid, program, &actions, &attributes, arguments, environment);
                posix_spawnattr_destroy(&attributes);
                posix_spawn_file_actions_destroy(&actions);
        }
        if (r != 0)
                return -r;
        r = sd_event_add_io(manager->event, &space->io, ours, EPOLLIN, keeper_io, space);
        if (r < 0)
                return r;
        space->fd = TAKE_FD(ours);
        free(space->in);
        space->in = NULL;
        if (!space->pipe_directory) {
                struct mps mps = {.root = root, .name = name};

                space->pipe_directory = mps_pipe_directory(&mps);
        }
        return space->pipe_directory ? 0 : -ENOMEM;
}

static int restart(sd_event_source *source, uint64_t usec, void *userdata)
{
        struct space *space = userdata;

        (void)source;
        (void)usec;
        space->timer = sd_event_source_disable_unref(space->timer);
        if (space->fd < 0 && spawn_keeper(space) < 0)
                schedule_restart(space);
        return 0;
}

static void schedule_restart(struct space *space)
{
        space->io = sd_event_source_disable_unref(space->io);
        if (!space->down_since)
                space->down_since = clock_usec(CLOCK_MONOTONIC);
        if (!space->timer)
                (void)sd_event_add_time_relative(space->manager->event, &space->timer,
                        CLOCK_MONOTONIC, RESTART_PAUSE, 0, restart, space);
}

static int space_new(struct manager *manager, unsigned device, struct space **ret)
{
        struct space *space = calloc(1, sizeof(*space));
        int r;

        if (!space)
                return -ENOMEM;
        space->manager = manager;
        space->device = device;
        space->fd = -EBADF;
        manager->device[device].space = space;
        r = spawn_keeper(space);
        if (r < 0) {
                space_free(space, false);
                return r;
        }
        *ret = space;
        return 0;
}

/* ---- choosing ---- */

static bool mps_is_installed(struct manager *manager)
{
        const char *path = getenv("PATH") ?: "/usr/bin:/bin";
        char file[512];

        if (manager->backend == &device_backend_sim)
                return manager->sim_directory != NULL;
        if (manager->backend == &device_backend_null)
                return false;
        for (size_t n; *path; path += n + (path[n] == ':')) {
                n = strcspn(path, ":");
                if (snprintf(file, sizeof(file), "%.*s/" CONTROL, (int)n, path) <
                                (int)sizeof(file) &&
                        access(file, X_OK) == 0)
                        return true;
        }
        return false;
}

static struct sharing_case case_of(struct manager *manager, const struct space_wish *wish,
        const struct tenant_request *request)
{
        struct space *space = manager->device[request->want[0].device].space;
        struct sharing_case c = {
                .asked = wish->asked,
                .untrusted = wish->untrusted,
                .high = request->terms.priority == ARBITER_HIGH,
                .low = request->terms.priority == ARBITER_LOW,
                .share = request->terms.share,
                .cap = request->terms.cap,
                .devices = request->devices,
                .capable = mps_is_installed(manager),
                .available = 100,
        };

        for (struct tenant *t = manager->tenants; t; t = t->hh.next)
                for (unsigned i = 0; i < t->devices; i++)
                        for (unsigned k = 0; k < request->devices; k++)
                                if (t->device[i].index == request->want[k].device) {
                                        c.temporal += !t->space.on;
                                        c.spatial += t->space.on;
                                }
        if (space && space->planned) {
                unsigned part = space_part_of(&space->plan.geometry, c.share);

                c.part = part > 0;
                c.available =
                        100 * space_available(&space->plan, false) / space->plan.geometry.units;
                if (part && space_has_room(&space->plan, part))
                        c.available = MAX_OF(c.available, c.share);
        } else if (space && space->ready) {
                c.part = space_part_of(wish->fine ? &space->fine : &space->coarse, c.share) > 0;
        }
        return c;
}

int space_decide(struct manager *manager, const struct space_wish *wish,
        struct tenant_request *request, struct cleave_error *error)
{
        struct sharing_case c = case_of(manager, wish, request);
        struct sharing_choice choice = sharing_choose(&c);
        unsigned device = request->want[0].device;
        const struct space_geometry *geometry;
        struct space *space;
        int r;

        request->untrusted = wish->untrusted;
        request->sharing_why = wish->asked == SHARING_TEMPORAL && !wish->said ? NULL : choice.why;
        if (choice.sharing == SHARING_AUTO) {
                error_set(error, CLEAVE_REASON_BUSY, "device %u cannot be shared %s with this: %s",
                        device,
                        c.asked == SHARING_TEMPORAL ? "in time"
                        : c.spatial                 ? "with its tenants"
                                                    : "in space",
                        choice.why);
                error_set_hint(error, c.spatial && c.asked == SHARING_TEMPORAL
                                              ? "Use --sharing spatial, or another device."
                                              : "Use --sharing temporal, or another device.");
                return -EBUSY;
        }
        if (choice.sharing == SHARING_TEMPORAL)
                return 0;
        space = manager->device[device].space;
        if (!space) {
                r = space_new(manager, device, &space);
                if (r < 0)
                        return error_set_errno(
                                error, r, "device %u cannot be shared in space", device);
        }
        if (!space->ready)
                return 1;
        geometry = wish->fine ? &space->fine : &space->coarse;
        if (space->planned && space->plan.tenants > 0 &&
                space->plan.geometry.step != geometry->step) {
                error_set(error, CLEAVE_REASON_BUSY,
                        "device %u is divided by %u SMs for the tenants that it has", device,
                        space->plan.geometry.step);
                error_set_hint(error, "All tenants of a device have sets of the same step.");
                return -EBUSY;
        }
        if (!space->planned || space->plan.tenants == 0) {
                (void)space_plan_init(&space->plan, geometry);
                space->planned = true;
        }
        request->space = (struct tenant_space){
                .on = true,
                .best_effort = request->terms.share == 0,
                .percent = request->terms.share,
                .units = request->terms.share ? space_units_of(geometry, request->terms.share) : 1,
                .part = space_part_of(geometry, request->terms.share),
        };
        request->compute = false;
        return 0;
}

int space_defer(struct manager *manager, unsigned device, struct connection *connection,
        json_t *params, json_int_t id)
{
        struct space *space = manager->device[device].space;
        struct deferred *deferred = calloc(1, sizeof(*deferred));

        if (!deferred)
                return -ENOMEM;
        deferred->connection = connection;
        deferred->params = json_incref(params);
        deferred->id = id;
        connection->pending++;
        DL_APPEND(space->deferred, deferred);
        return 1;
}

void space_connection_ended(struct connection *connection)
{
        struct manager *manager = connection->manager;
        struct deferred *deferred;

        for (unsigned i = 0; i < manager->devices; i++)
                if (manager->device[i].space)
                        DL_FOREACH(manager->device[i].space->deferred, deferred)
        if (deferred->connection == connection)
                deferred->connection = NULL;
}

/* ---- tenants ---- */

int space_admit_tenant(struct tenant *tenant, struct cleave_error *error)
{
        struct space *space = space_of(tenant);
        unsigned units = tenant->space.units;
        int r;

        if (!space)
                return 0;
        r = admit(space, tenant);
        if (r == 0) {
                gates_share_sets(space->manager, space->device, &space->plan);
                return 0;
        }
        tenant->space.on = false;
        read_claims(space);
        if (r == -EBUSY || r == -ENOSPC) {
                error_set(error, CLEAVE_REASON_BEYOND_COMPUTE,
                        "%u of the %u units of SMs of device %u were wanted%s, %u are free%s",
                        units, space->plan.geometry.units, space->device,
                        tenant->space.part ? " or room in one that is shared" : "",
                        space_available(&space->plan, false),
                        r == -EBUSY ? ", as contexts of tenants without a share live on others"
                                    : "");
                error_set_hint(error, "cleave ps shows whose they are; --wait does not wait for "
                                      "SMs.");
        } else {
                error_set_errno(error, r, "the SMs cannot be granted");
        }
        consider(space);
        return r;
}

void space_leave_tenant(struct tenant *tenant)
{
        struct space *space = space_of(tenant);

        if (!space || !space->planned)
                return;
        gates_leave(tenant);
        tenant->space.on = false;
        if (space_leave(&space->plan, tenant->id) == 0)
                renew(space);
        consider(space);
}

void space_session_gone(struct session *session)
{
        struct space *space = space_of(session->tenant);

        if (session->tenant->pages.usage && session->slot < CLEAVE_MAX_SLOTS) {
                struct cleave_slot *slot =
                        cleave_usage_slot(session->tenant->pages.usage, session->slot);

                atomic_store(&slot->space_set[0], 0);
                atomic_store(&slot->space_set[1], 0);
        }
        if (space)
                renew(space);
}

void space_restore_tenant(struct tenant *tenant, const json_t *record)
{
        unsigned device = tenant->device[0].index;
        struct space *space = tenant->manager->device[device].space;
        struct space_geometry geometry = {
                .sms = (unsigned)json_integer_value(json_object_get(record, "sms")),
                .step = (unsigned)json_integer_value(json_object_get(record, "step")),
                .units = (unsigned)json_integer_value(json_object_get(record, "of")),
                .rest = (unsigned)json_integer_value(json_object_get(record, "rest")),
        };
        struct space_set set = {{0}};
        uint32_t version;
        int r;

        tenant->space = (struct tenant_space){
                .on = true,
                .units = (unsigned)json_integer_value(json_object_get(record, "units")),
                .percent = (unsigned)json_integer_value(json_object_get(record, "percent")),
                .part = (unsigned)json_integer_value(json_object_get(record, "part")),
                .best_effort = json_is_true(json_object_get(record, "best_effort")),
        };
        tenant->sharing_why = "it was so before the daemon's restart";
        if (!space && space_new(tenant->manager, device, &space) < 0)
                return;
        r = space_geometry_check(&geometry);
        if (r == 0 && !space->planned) {
                r = space_plan_init(&space->plan, &geometry);
                space->planned = r == 0;
        }
        if (r == 0 && tenant->pages.grant &&
                cleave_space_read(tenant->pages.grant, set.word, &version))
                r = tenant->space.part
                            ? space_restore_part(&space->plan, tenant->id, tenant->space.part, &set)
                            : space_restore(&space->plan, tenant->id, tenant->space.units,
                                      tenant->space.best_effort, &set);
        if (r == 0 && space->planned)
                gates_share_sets(tenant->manager, device, &space->plan);
        if (r < 0)
                manager_warn(tenant->manager, "the SMs of tenant %s are not known any more: %s",
                        tenant->name, strerror(-r));
}

bool space_is_used(const struct manager *manager)
{
        for (unsigned i = 0; i < manager->devices; i++)
                if (manager->device[i].space)
                        return true;
        return false;
}

void space_done(struct manager *manager)
{
        for (unsigned i = 0; i < manager->devices; i++)
                if (manager->device[i].space)
                        space_free(manager->device[i].space, !manager->tenants);
}

/* ---- what is told ---- */

json_t *space_record(struct tenant *tenant)
{
        const struct space *space = space_of(tenant);

        if (!space || !space->planned)
                return NULL;
        return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b}", "sms",
                (int)space->plan.geometry.sms, "step", (int)space->plan.geometry.step, "of",
                (int)space->plan.geometry.units, "rest", (int)space->plan.geometry.rest, "units",
                (int)tenant->space.units, "part", (int)tenant->space.part, "percent",
                (int)tenant->space.percent, "best_effort", (int)tenant->space.best_effort);
}

void space_add_environment(struct tenant *tenant, json_t *environment, json_t *defaults)
{
        const struct space *space = space_of(tenant);

        if (!space)
                return;
        json_object_set_new(
                environment, "CUDA_MPS_PIPE_DIRECTORY", json_string(space->pipe_directory));
        json_object_set_new(defaults, "CUDA_DEVICE_MAX_CONNECTIONS",
                json_sprintf("%u", space_connections(tenant->space.percent)));
}

void space_add_tenant_json(struct tenant *tenant, json_t *object)
{
        struct space *space = space_of(tenant);
        const struct space_tenant *t =
                space && space->planned ? space_find(&space->plan, tenant->id) : NULL;
        json_t *units = json_array(), *others = json_array(), *same = json_array();
        struct gate_state gate = {0};

        json_object_set_new(object, "untrusted", json_boolean(tenant->untrusted));
        json_object_set_new(object, "sharing_why",
                tenant->sharing_why ? json_string(tenant->sharing_why) : json_null());
        if (!t) {
                json_decref(units);
                json_decref(others);
                json_decref(same);
                json_object_set_new(object, "space", json_null());
                return;
        }
        read_claims(space);
        for (unsigned i = 0; i < space->plan.geometry.units; i++)
                if (space_has(&t->set, i))
                        json_array_append_new(units, json_integer(i));
        for (unsigned i = 0; i < space->plan.tenants; i++) {
                struct tenant *other = tenant_by_id(space->manager, space->plan.tenant[i].id);

                if (!other || other == tenant)
                        continue;
                json_array_append_new(others, json_string(other->name));
                if (t->group && space->plan.tenant[i].group == t->group)
                        json_array_append_new(same, json_string(other->name));
        }
        (void)gates_inspect(tenant, 0, &gate);
        json_object_set_new(object, "space",
                json_pack("{s:i, s:i, s:i, s:i, s:b, s:o, s:o, s:f, s:o, s:i, s:o, s:s, s:s, s:o, "
                          "s:i}",
                        "sms", (int)space_sms(&space->plan.geometry, &t->set), "sms_device",
                        (int)space->plan.geometry.sms, "step", (int)space->plan.geometry.step,
                        "units_guaranteed", (int)t->units, "best_effort", (int)t->best_effort,
                        "part", t->part ? json_real(t->part / 100.0) : json_null(), "shared_with",
                        same, "part_target", (double)gate.target_ppm / 1e6, "units", units,
                        "sms_held", (int)space_sms(&space->plan.geometry, &t->held), "fault_domain",
                        others, "pipe_directory", space->pipe_directory, "server",
                        space->down_since ? "down"
                        : space->ready    ? "serves"
                                          : "starting",
                        "server_pid", space->server ? json_integer(space->server) : json_null(),
                        "server_restarts", (int)space->restarts));
}
