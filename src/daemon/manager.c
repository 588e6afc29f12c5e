/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/process.h"
#include "daemon/control.h"
#include "daemon/manager.h"
#include "daemon/sampler.h"
#include "proto/environment.h"

#define KEEPER_LINGER (10 * USEC_PER_SEC)
/* The driver needs some 3 ms to say who holds what, 0.1 s while it takes down contexts. So long it
 * is waited for while tenants are steered, and while turns or caps do not wait; then its answer is
 * fetched later. */
#define SAMPLE_PATIENCE    (10 * USEC_PER_MSEC)
#define SAMPLE_IMPATIENTLY (1 * USEC_PER_MSEC)
/* So long an audit waits for a turn to begin. */
#define AUDIT_WAITS (50 * USEC_PER_MSEC)
/* And after so long it is looked whether the driver has answered. */
#define AUDIT_LOOKS (4 * USEC_PER_MSEC)
/* One that never answers sooner is waited for as often as this. */
#define SAMPLE_STALE (5 * USEC_PER_SEC)

void manager_warn(struct manager *manager, const char *format, ...)
{
        char text[512];
        va_list arguments;
        size_t index;
        json_t *known;

        va_start(arguments, format);
        vsnprintf(text, sizeof(text), format, arguments);
        va_end(arguments);
        json_array_foreach(manager->warnings, index,
                known) if (strcmp(json_string_value(known), text) == 0) return;
        log_warning("%s", text);
        if (json_array_size(manager->warnings) < 32)
                json_array_append_new(manager->warnings, json_string(text));
}

/* The libraries lie beside the program: in the build tree, or where an install has put them. */
static char *find_beside(const char *program, const char *const *candidates, size_t count)
{
        char *slash = strrchr(program, '/');

        for (size_t i = 0; slash && i < count; i++) {
                _cleanup_free_ char *path = NULL;
                char *resolved;

                if (asprintf(&path, "%.*s/%s", (int)(slash - program), program, candidates[i]) <
                        0) {
                        path = NULL;
                        return NULL;
                }
                resolved = realpath(path, NULL);
                if (resolved)
                        return resolved;
        }
        return NULL;
}

static int find_libraries(struct manager *manager)
{
        static const char *const guards[] = {
                "src/guard/libcuda.so.1", "../lib/cleave/guard/libcuda.so.1"};
        static const char *const nvml_guards[] = {
                "src/guard/libnvidia-ml.so.1", "../lib/cleave/guard/libnvidia-ml.so.1"};
        static const char *const sims[] = {
                "src/sim/libnvidia-ml.so.1", "../lib/cleave/sim/libnvidia-ml.so.1"};
        _cleanup_free_ char *program = NULL;
        int r;

        r = own_executable(&program);
        if (r < 0)
                return r;
        manager->guard_library = find_beside(program, guards, ARRAY_SIZE(guards));
        manager->guard_nvml_library = find_beside(program, nvml_guards, ARRAY_SIZE(nvml_guards));
        manager->sim_directory = find_beside(program, sims, ARRAY_SIZE(sims));
        if (manager->sim_directory)
                *strrchr(manager->sim_directory, '/') = '\0';
        return 0;
}

static int tenant_owner(void *userdata, uint64_t id, uid_t *ret)
{
        struct tenant *tenant = tenant_by_id(userdata, id);

        if (!tenant)
                return -ENOENT;
        *ret = tenant->uid;
        return 0;
}

int manager_new(
        const struct config *config, bool system, const char *directory, struct manager **ret)
{
        _cleanup_(manager_free_ptr) struct manager *manager = NULL;
        int r;

        manager = calloc(1, sizeof(*manager));
        if (!manager)
                return -ENOMEM;
        manager->config = *config;
        manager->system = system;
        manager->control_fd = manager->guard_fd = -EBADF;
        manager->journal = JOURNAL_NONE;
        manager->store.fd = -EBADF;
        manager->steer_board = -EBADF;
        manager->started = clock_usec(CLOCK_REALTIME);
        manager->tag = hash_text(directory);
        manager->directory = strdup(directory);
        manager->warnings = json_array();
        ledger_init(&manager->ledger);
        manager->events.owner = tenant_owner;
        manager->events.userdata = manager;
        if (!manager->directory || !manager->warnings)
                return -ENOMEM;
        r = find_libraries(manager);
        if (r < 0)
                return r;
        r = sd_event_new(&manager->event);
        if (r < 0)
                return r;
        journal_init(&manager->journal, directory, config->journal_limit, &r);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(manager);
        return 0;
}

static void close_devices(struct manager *manager)
{
        space_done(manager);
        sampler_settle(manager->sampler);
        for (unsigned i = 0; i < manager->devices; i++)
                free(manager->device[i].process);
        memset(manager->device, 0, sizeof(manager->device));
        manager->devices = 0;
        if (manager->backend)
                manager->backend->close(manager->backend_handle);
        manager->backend = NULL;
}

struct manager *manager_free(struct manager *manager)
{
        struct tenant *tenant, *next;

        if (!manager)
                return NULL;
        control_done(manager);
        guards_done(manager);
        compute_done(manager);
        space_done(manager);
        HASH_ITER(hh, manager->tenants, tenant, next)
        tenant_free(tenant);
        sd_event_source_unref(manager->audit_timer);
        sd_event_source_unref(manager->returning_timer);
        sd_event_source_unref(manager->idle_timer);
        sd_event_source_unref(manager->keeper_timer);
        sd_event_source_unref(manager->rest_timer);
        sd_event_source_unref(manager->serve_source);
        close_devices(manager);
        sampler_free(manager->sampler);
        ledger_done(&manager->ledger);
        events_done(&manager->events);
        journal_done(&manager->journal);
        store_done(&manager->store);
        json_decref(manager->warnings);
        free(manager->directory);
        free(manager->guard_library);
        free(manager->guard_nvml_library);
        free(manager->sim_directory);
        free(manager->sim);
        free(manager->rested_detail);
        sd_event_unref(manager->event);
        free(manager);
        return NULL;
}

static int open_backend(struct manager *manager, const struct device_backend *backend,
        const char *argument, struct cleave_error *error)
{
        _cleanup_free_ struct device *list = NULL;
        size_t count;
        void *handle;
        int r;

        r = backend->open(argument, &handle, error);
        if (r < 0)
                return r;
        r = backend->enumerate(handle, &list, &count, error);
        if (r < 0) {
                backend->close(handle);
                return r;
        }
        close_devices(manager);
        manager->backend = backend;
        manager->backend_handle = handle;
        manager->devices = (unsigned)MIN_OF(count, (size_t)DEVICE_MAX);
        manager->ledger.devices = manager->devices;
        for (unsigned i = 0; i < manager->devices; i++) {
                manager->device[i].info = list[i];
                manager->device[i].state = DEVICE_UNKNOWN;
                manager->ledger.device[i] = (struct ledger_device){.total = list[i].total};
                (void)manager_sample(manager, i, SAMPLE_EXACT);
        }
        return 0;
}

int manager_open_devices(struct manager *manager, const char *sim)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_free_ char *library = NULL;
        bool others = sim && manager->sim && strcmp(sim, manager->sim) != 0;
        int r;

        sampler_settle(manager->sampler);
        if (sim) {
                char *copy = strdup(sim);

                if (!copy)
                        return -ENOMEM;
                free(manager->sim);
                manager->sim = copy;
                sim = copy;
                /* where the simulator's library reads it, in this process as in the tenants' */
                if (setenv(CLEAVE_ENV_SIM, sim, 1) < 0)
                        return -errno;
                if (manager->config.nvml)
                        library = strdup(manager->config.nvml);
                else if (manager->sim_directory)
                        library = path_join(manager->sim_directory, "libnvidia-ml.so.1");
                /* the library stays with its machine until the last who uses it has closed it */
                if (others)
                        close_devices(manager);
                if (library)
                        r = open_backend(manager, &device_backend_sim, library, &error);
                else
                        r = error_set(&error, CLEAVE_REASON_NO_DRIVER,
                                "the simulated GPU's library is not beside the daemon");
        } else {
                r = open_backend(manager, &device_backend_nvidia, manager->config.nvml, &error);
        }
        manager->rest = REST_AWAKE;
        if (r < 0) {
                log_notice("no GPUs: %s", error_message(&error));
                r = open_backend(manager, &device_backend_null, error_message(&error), NULL);
        }
        return r;
}

static void arm(struct manager *manager, sd_event_source **source, uint64_t usec,
        sd_event_time_handler_t handler);

/* MIG devices are made and destroyed while the daemon runs. New ones come after the others; where
 * nothing is granted, all are counted anew. */
static void look_for_changes(struct manager *manager)
{
        _cleanup_free_ struct device *list = NULL;
        bool gone = false;
        size_t count;

        sampler_settle(manager->sampler);
        if (manager->rest != REST_AWAKE || manager->backend == &device_backend_null ||
                manager->backend->enumerate(manager->backend_handle, &list, &count, NULL) < 0)
                return;
        for (unsigned i = 0; i < manager->devices; i++)
                gone = gone || list[i].gone;
        count = MIN_OF(count, (size_t)DEVICE_MAX);
        if (!gone && count == manager->devices)
                return;
        if (!manager->tenants && !manager->returning && !space_is_used(manager)) {
                (void)manager_open_devices(manager, manager->sim);
                return;
        }
        for (unsigned i = manager->devices; i < count; i++) {
                manager->device[i].info = list[i];
                manager->device[i].state = DEVICE_UNKNOWN;
                manager->ledger.device[i] = (struct ledger_device){.total = list[i].total};
                manager->devices = manager->ledger.devices = i + 1;
                (void)manager_sample(manager, i, SAMPLE_EXACT);
        }
}

void manager_look_for_devices(struct manager *manager)
{
        uint64_t now = clock_usec(CLOCK_MONOTONIC);

        manager_look_rest(manager);
        look_for_changes(manager);
        /* a driver may have been loaded meanwhile */
        if (manager->backend != &device_backend_null || manager->tenants ||
                manager->rest == REST_RELEASED ||
                (manager->rest == REST_AWAKE && now < manager->next_search))
                return;
        manager->next_search = now + 2 * USEC_PER_SEC;
        (void)manager_open_devices(manager, manager->sim);
}

void manager_let_go(struct manager *manager, enum rest rest)
{
        const struct device_backend *was = manager->backend;
        char *detail = strdup(was->detail(manager->backend_handle));

        if (manager->rest == REST_RESTING) {
                was = manager->rested;
                free(detail);
                detail = TAKE_PTR(manager->rested_detail);
        }
        if (open_backend(manager, &device_backend_null,
                    rest == REST_RELEASED
                            ? "the daemon has let go of the GPUs, as it was asked to"
                            : "nothing is granted, so the daemon does not hold the GPUs",
                    NULL) < 0) {
                free(detail);
                return;
        }
        manager->rest = rest;
        manager->rested = was;
        free(manager->rested_detail);
        manager->rested_detail = detail;
        if (rest == REST_RELEASED)
                events_add(&manager->events, EVENT_DEVICES_RELEASED, (struct event_subject){0},
                        "the daemon has let go of the GPUs");
        else
                log_debug("nothing is granted: the driver is let go of");
}

static int rest_tick(sd_event_source *source, uint64_t usec, void *userdata)
{
        struct manager *manager = userdata;

        (void)source;
        (void)usec;
        if (!manager->tenants && !manager->returning && manager->rest == REST_AWAKE &&
                !space_is_used(manager) && manager->backend != &device_backend_null)
                manager_let_go(manager, REST_RESTING);
        return 0;
}

void manager_look_rest(struct manager *manager)
{
        if (manager->config.release_after == UINT64_MAX)
                return;
        /* from the last use on: what was set before is of no meaning */
        if (manager->rest_timer)
                sd_event_source_set_enabled(manager->rest_timer, SD_EVENT_OFF);
        if (!manager->tenants)
                arm(manager, &manager->rest_timer, manager->config.release_after, rest_tick);
}

const char *manager_backend_name(const struct manager *manager)
{
        return manager->rest == REST_RESTING ? manager->rested->name : manager->backend->name;
}

const char *manager_backend_detail(const struct manager *manager)
{
        if (manager->rest == REST_RESTING && manager->rested_detail)
                return manager->rested_detail;
        return manager->backend->detail(manager->backend_handle);
}

int manager_device_by_uuid(struct manager *manager, const char *uuid)
{
        for (unsigned i = 0; i < manager->devices; i++)
                if (strcasecmp(manager->device[i].info.uuid_text, uuid) == 0)
                        return (int)i;
        return -ENODEV;
}

int manager_find_device(
        struct manager *manager, const char *text, unsigned *ret, struct cleave_error *error)
{
        unsigned found = 0, matches = 0;
        size_t length = strlen(text);
        uint64_t index;

        if (manager->devices == 0)
                return error_set(error, CLEAVE_REASON_NO_DRIVER, "there are no GPUs: %s",
                        manager->backend->detail(manager->backend_handle));
        if (parse_unsigned(text, UINT64_MAX, &index) == 0 && length < 8) {
                if (index >= manager->devices)
                        return error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE,
                                "there is no device %s, they count from 0 to %u", text,
                                manager->devices - 1);
                *ret = (unsigned)index;
                return 0;
        }
        for (unsigned i = 0; i < manager->devices; i++) {
                const char *uuid = manager->device[i].info.uuid_text;
                const char *bare = strchr(uuid, '-') ? strchr(uuid, '-') + 1 : uuid;

                if (length > 0 && (strncasecmp(uuid, text, length) == 0 ||
                                          strncasecmp(bare, text, length) == 0)) {
                        found = i;
                        matches++;
                }
        }
        if (matches > 1)
                return error_set(
                        error, CLEAVE_REASON_AMBIGUOUS, "'%.64s' fits %u devices", text, matches);
        if (matches == 0)
                return error_set(
                        error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no device '%.64s'", text);
        *ret = found;
        return 0;
}

static uint64_t minus(uint64_t a, uint64_t b)
{
        return a > b ? a - b : 0;
}

static uint64_t plus(uint64_t a, uint64_t b)
{
        uint64_t sum;

        return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static void set_state(struct manager *manager, unsigned index, int r)
{
        struct manager_device *device = &manager->device[index];

        device->state = r == -ENODEV ? DEVICE_LOST : r < 0 ? DEVICE_UNKNOWN : DEVICE_OK;
        manager->ledger.device[index].lost = device->state == DEVICE_LOST;
        if (device->state == DEVICE_LOST && !device->lost_told) {
                device->lost_told = true;
                events_add(&manager->events, EVENT_DEVICE_LOST,
                        (struct event_subject){.device = device->info.uuid_text},
                        "device %u (%s) no longer answers", device->info.index, device->info.name);
        } else if (device->state == DEVICE_OK) {
                device->lost_told = false;
        }
}

/* Splits what the driver's processes hold into the tenants' and others'. */
static void attribute(struct manager *manager, unsigned index)
{
        struct manager_device *device = &manager->device[index];
        uint64_t tenants = 0, others = 0, unattributed = 0;

        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                for (unsigned i = 0; i < tenant->devices; i++)
                        if (tenant->device[i].index == index)
                                tenant->device[i].driver_bytes =
                                        device->processes_known < 0 ? DEVICE_UNKNOWN_BYTES : 0;
        for (size_t k = 0; k < device->processes; k++) {
                uint64_t bytes = device->process[k].bytes;
                pid_t pid = device->process[k].pid;
                struct tenant *tenant = NULL, *t;
                struct session *session;

                HASH_FIND_INT(manager->sessions, &pid, session);
                if (session)
                        tenant = session->tenant;
                /* the dead ones whose memory returns */
                for (t = manager->tenants; !tenant && t && manager->returning; t = t->hh.next)
                        DL_FOREACH(t->sessions, session)
                if (session->returning && session->process.pid == pid)
                        tenant = t;
                if (!tenant)
                        tenant = tenant_of_process(manager, pid);
                if (bytes == DEVICE_UNKNOWN_BYTES) {
                        for (unsigned i = 0; tenant && i < tenant->devices; i++)
                                if (tenant->device[i].index == index)
                                        tenant->device[i].driver_bytes = DEVICE_UNKNOWN_BYTES;
                        continue;
                }
                if (!tenant) {
                        others = plus(others, bytes);
                        continue;
                }
                tenants = plus(tenants, bytes);
                for (unsigned i = 0; i < tenant->devices; i++)
                        if (tenant->device[i].index == index &&
                                tenant->device[i].driver_bytes != DEVICE_UNKNOWN_BYTES)
                                tenant->device[i].driver_bytes =
                                        plus(tenant->device[i].driver_bytes, bytes);
        }
        if (device->processes_known == 0 && device->memory.used != DEVICE_UNKNOWN_BYTES)
                unattributed = minus(device->memory.used, plus(tenants, others));
        device->tenants_used = tenants;
        /* memory and processes are not read at the same instant: what stands in one sample alone is
         * a process that allocates just now */
        device->others_used = plus(others,
                device->sampled ? MIN_OF(unattributed, device->unattributed) : unattributed);
        device->unattributed = unattributed;
        device->sampled = true;
}

/* Where nothing has to be done in time, the driver is asked here and waited for. */
static int take_sample(
        struct manager *manager, struct manager_device *device, uint64_t since, struct sample *ret)
{
        uint64_t now = clock_usec(CLOCK_MONOTONIC);
        enum compute_haste haste = compute_haste(manager);
        bool lax = since != SAMPLE_EXACT && device->sampled &&
                   now < device->sampled_at + SAMPLE_STALE && haste > COMPUTE_NONE;
        uint64_t patience = !lax                     ? SAMPLER_PATIENT
                            : haste > COMPUTE_SLICES ? SAMPLE_IMPATIENTLY
                                                     : SAMPLE_PATIENCE;

        if (lax && !manager->sampler && sampler_new(&manager->sampler) < 0)
                manager->sampler = NULL;
        if (manager->sampler)
                return sampler_ask(manager->sampler, manager->backend, manager->backend_handle,
                        device->info.index, lax ? since : now, patience, ret);
        sample_take(manager->backend, manager->backend_handle, device->info.index, ret);
        return 0;
}

bool manager_sample(struct manager *manager, unsigned index, uint64_t since)
{
        struct manager_device *device = &manager->device[index];
        struct ledger_device *account = &manager->ledger.device[index];
        struct sample sample;

        if (take_sample(manager, device, since, &sample) < 0)
                return false;
        device->sampled_at = sample.asked_at;
        device->sampling_took = sample.took;
        device->memory = sample.memory;
        if (sample.memory_result < 0)
                device->memory = (struct device_memory){.reserved = DEVICE_UNKNOWN_BYTES,
                        .used = DEVICE_UNKNOWN_BYTES,
                        .free = DEVICE_UNKNOWN_BYTES};
        else if (device->memory.reserved != DEVICE_UNKNOWN_BYTES)
                account->reserved = device->memory.reserved;
        set_state(manager, index, sample.memory_result);
        device->processes_known = sample.processes_result;
        free(device->process);
        device->process = sample.process;
        device->processes = device->processes_known < 0 ? 0 : sample.processes;
        attribute(manager, index);
        account->others =
                plus(device->claimed_others, minus(device->others_used, device->claimed_used));
        return true;
}

static const char *claims_place(struct manager *manager)
{
        const char *sim;

        if (manager->config.claims)
                return manager->config.claims;
        if (manager->backend != &device_backend_sim)
                return claims_directory();
        /* simulated GPUs are of one user, or of one test */
        sim = getenv(CLEAVE_ENV_SIM_DIR);
        return sim && access(sim, W_OK) == 0 ? sim : manager->directory;
}

static uint64_t own_claim(struct manager *manager, unsigned index)
{
        return ledger_kept(&manager->ledger, index);
}

static void write_claim(struct manager *manager, unsigned index, struct claims *claims)
{
        struct manager_device *device = &manager->device[index];
        struct claim own = {
                .uid = geteuid(),
                .tag = manager->tag,
                .pid = manager->store.keeper ?: getpid(),
                .claimed = own_claim(manager, index),
                .used = device->tenants_used,
        };
        int r;

        r = process_start_time(own.pid, &own.start_time);
        if (r < 0) {
                own.pid = getpid();
                r = process_start_time(own.pid, &own.start_time);
        }
        if (r == 0)
                r = claims_set(claims, &own);
        if (r < 0)
                manager_warn(manager, "our claim on device %u cannot be written: %s", index,
                        strerror(-r));
        device->own_claimed = own.claimed;
        device->own_claimed_used = own.used;
}

static int read_claims(struct manager *manager, unsigned index, struct claims *claims)
{
        struct manager_device *device = &manager->device[index];
        int r;

        r = claims_open(claims_place(manager), device->info.uuid_text, claims);
        if (r < 0) {
                claims->fd = -EBADF;
                if (device->claims_error != r)
                        manager_warn(manager,
                                "the claims file of device %u cannot be used (%s): other "
                                "daemons' grants are not seen",
                                index, strerror(-r));
                device->claims_error = r;
                return r;
        }
        device->claims_error = 0;
        claims_others(
                claims, geteuid(), manager->tag, &device->claimed_others, &device->claimed_used);
        return 0;
}

void manager_refresh_claims(struct manager *manager, unsigned index)
{
        _cleanup_free_ struct claims *claims = malloc(sizeof(*claims));

        if (!claims || read_claims(manager, index, claims) < 0)
                return;
        write_claim(manager, index, claims);
        claims_close(claims);
}

/* Whether some tenant may now use more than is kept for it: lent memory. */
static bool lends(struct manager *manager)
{
        for (struct ledger_tenant *t = manager->ledger.first; t; t = t->next)
                for (unsigned i = 0; i < t->grants && !t->waiting; i++)
                        if (t->grant[i].limit > MAX_OF(t->grant[i].guarantee, t->grant[i].used))
                                return true;
        return false;
}

static int compare_devices(const void *a, const void *b)
{
        const unsigned *x = a, *y = b;

        return (*x > *y) - (*x < *y);
}

int admission_open(struct manager *manager, const struct ledger_want *wants, unsigned count,
        struct admission *ret)
{
        struct admission admission = {.count = count};

        admission.claims = calloc(count, sizeof(*admission.claims));
        if (!admission.claims)
                return -ENOMEM;
        for (unsigned i = 0; i < count; i++)
                admission.device[i] = wants[i].device;
        /* one order for all daemons, so that they do not wait for each other in a circle */
        qsort(admission.device, count, sizeof(admission.device[0]), compare_devices);

        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                tenant_update_used(tenant);
        if (lends(manager)) {
                /* lent memory that is not in use is taken back before anybody counts on it */
                for (struct ledger_tenant *t = manager->ledger.first; t; t = t->next)
                        for (unsigned i = 0; i < t->grants && !t->waiting; i++)
                                t->grant[i].limit = MIN_OF(t->grant[i].maximum,
                                        MAX_OF(t->grant[i].guarantee, t->grant[i].used));
                manager_write_limits(manager);
                for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                        tenant_update_used(tenant);
        }
        for (unsigned i = 0; i < count; i++) {
                (void)read_claims(manager, admission.device[i], &admission.claims[i]);
                (void)manager_sample(manager, admission.device[i], SAMPLE_EXACT);
        }
        *ret = admission;
        return 0;
}

void admission_close(struct manager *manager, struct admission *admission)
{
        for (unsigned i = 0; i < admission->count; i++)
                if (admission->claims[i].fd >= 0) {
                        write_claim(manager, admission->device[i], &admission->claims[i]);
                        claims_close(&admission->claims[i]);
                }
        free(admission->claims);
        admission->claims = NULL;
        ledger_update_limits(&manager->ledger);
        manager_write_limits(manager);
}

void manager_write_limits(struct manager *manager)
{
        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                if (tenant->state != TENANT_WAITING)
                        tenant_write_grant(tenant, false);
}

static const char *tenant_label(struct manager *manager, uint64_t id)
{
        struct tenant *tenant = tenant_by_id(manager, id);

        return tenant ? tenant->name : "another";
}

int verdict_error(
        struct manager *manager, const struct ledger_verdict *verdict, struct cleave_error *error)
{
        char wanted[FORMAT_SIZE_MAX], available[FORMAT_SIZE_MAX];
        unsigned device = verdict->device;

        format_size(wanted, verdict->wanted);
        format_size(available, verdict->available);
        switch (verdict->reason) {
        case CLEAVE_REASON_BEYOND_DEVICE:
                return error_set(error, verdict->reason,
                        "%s are more than device %u has: %s can be granted", wanted, device,
                        available);
        case CLEAVE_REASON_DEVICE_LOST:
                return error_set(error, verdict->reason, "device %u is lost", device);
        case CLEAVE_REASON_IN_USE:
                return error_set(
                        error, verdict->reason, "%s are in use on device %u", available, device);
        case CLEAVE_REASON_NO_ROOM:
                if (verdict->ahead)
                        return error_set(error, verdict->reason,
                                "%s were asked of device %u, for which tenant %s waits already",
                                wanted, device, tenant_label(manager, verdict->ahead));
                return error_set(error, verdict->reason, "%s were asked of device %u, %s are free",
                        wanted, device, available);
        default:
                return error_set(error, CLEAVE_REASON_INTERNAL, "the request was refused");
        }
}

int manager_rewrite_journal(struct manager *manager)
{
        json_t *records = json_array();

        json_array_append_new(
                records, json_pack("{s:s, s:i, s:I, s:s?}", "t", "begin", "version", 1, "serial",
                                 (json_int_t)manager->events.last, "sim", manager->sim));
        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next) {
                struct session *session;

                if (tenant->state == TENANT_WAITING)
                        continue;
                json_array_append_new(records, tenant_record(tenant));
                DL_FOREACH(tenant->sessions, session)
                json_array_append_new(records, session_record(session));
        }
        return journal_rewrite(&manager->journal, records);
}

int manager_record(struct manager *manager, json_t *record)
{
        bool failed = manager->journal.failed;
        int r;

        if (record)
                json_object_set_new(record, "e", json_integer((json_int_t)manager->events.last));
        r = failed ? manager->journal.failure
                   : journal_append(&manager->journal, json_incref(record));
        if (r < 0) {
                /* there may be room for what is true now, without all that has passed; the record
                 * comes behind it, should the state not have it yet */
                r = manager_rewrite_journal(manager);
                if (r == 0)
                        r = journal_append(&manager->journal, json_incref(record));
        }
        json_decref(record);
        if (r < 0 && !failed)
                events_add(&manager->events, EVENT_JOURNAL_FAILED, (struct event_subject){0},
                        "the journal cannot be written: %s; nothing new is granted until it can",
                        strerror(-r));
        if (r == 0 && journal_wants_rewrite(&manager->journal))
                (void)manager_rewrite_journal(manager);
        return r;
}

static int serve(sd_event_source *source, void *userdata)
{
        struct manager *manager = userdata;

        (void)source;
        control_serve_waiting(manager);
        return 0;
}

void manager_serve_soon(struct manager *manager)
{
        if (!manager->serve_source &&
                sd_event_add_defer(manager->event, &manager->serve_source, serve, manager) < 0)
                return;
        sd_event_source_set_enabled(manager->serve_source, SD_EVENT_ONESHOT);
}

static void arm(struct manager *manager, sd_event_source **source, uint64_t usec,
        sd_event_time_handler_t handler)
{
        int enabled, r;

        if (!*source) {
                r = sd_event_add_time_relative(
                        manager->event, source, CLOCK_MONOTONIC, usec, 500, handler, manager);
                if (r < 0)
                        log_error("a timer cannot be set: %s", strerror(-r));
                return;
        }
        if (sd_event_source_get_enabled(*source, &enabled) >= 0 && enabled != SD_EVENT_OFF)
                return;
        sd_event_source_set_time_relative(*source, usec);
        sd_event_source_set_enabled(*source, SD_EVENT_ONESHOT);
}

void manager_arm_audit(struct manager *manager)
{
        if (manager->tenants)
                arm(manager, &manager->audit_timer,
                        manager->audit.waits   ? AUDIT_WAITS
                        : manager->audit.since ? AUDIT_LOOKS
                                               : manager->config.audit_interval,
                        audit_tick);
}

void manager_audit_between(struct manager *manager)
{
        if (manager->audit.waits && manager->audit_timer)
                sd_event_source_set_time_relative(manager->audit_timer, 0);
}

void manager_arm_returning(struct manager *manager)
{
        if (manager->returning)
                arm(manager, &manager->returning_timer, 1 * USEC_PER_MSEC, returning_tick);
}

static int keeper_tick(sd_event_source *source, uint64_t usec, void *userdata)
{
        struct manager *manager = userdata;

        (void)source;
        (void)usec;
        if (!manager->tenants)
                store_let_go(&manager->store);
        return 0;
}

void manager_look_keeper(struct manager *manager)
{
        if (!manager->tenants && manager->store.kind == STORE_KEEPER && manager->store.fd >= 0)
                arm(manager, &manager->keeper_timer, KEEPER_LINGER, keeper_tick);
        else if (manager->keeper_timer)
                sd_event_source_set_enabled(manager->keeper_timer, SD_EVENT_OFF);
}

static int idle_tick(sd_event_source *source, uint64_t usec, void *userdata)
{
        struct manager *manager = userdata;

        (void)source;
        (void)usec;
        if (manager->tenants || manager->connections || manager->guard_count)
                return 0;
        log_info("nothing to do, so the daemon ends");
        manager->stopping = true;
        store_farewell(&manager->store, true);
        return sd_event_exit(manager->event, 0);
}

void manager_look_idle(struct manager *manager)
{
        bool idle = !manager->tenants && !manager->connections && !manager->guard_count;

        if (manager->config.idle_exit == UINT64_MAX)
                return;
        if (idle)
                arm(manager, &manager->idle_timer, manager->config.idle_exit, idle_tick);
        else if (manager->idle_timer)
                sd_event_source_set_enabled(manager->idle_timer, SD_EVENT_OFF);
}

/* Without its directory, or its socket in it, nobody finds a daemon any more. */
static int directory_changed(
        sd_event_source *source, const struct inotify_event *event, void *userdata)
{
        struct manager *manager = userdata;

        (void)source;
        /* the directory's own end may be told late, as the keeper has it open */
        if (event->mask & IN_DELETE && strcmp(event->name, CLEAVE_CONTROL_SOCKET) != 0)
                return 0;
        log_notice("the control socket is gone, so the daemon ends");
        manager->stopping = true;
        store_farewell(&manager->store, !manager->tenants);
        return sd_event_exit(manager->event, 0);
}

int manager_listen(struct manager *manager)
{
        int r;

        r = sd_event_add_inotify(manager->event, NULL, manager->directory,
                IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR, directory_changed, manager);
        if (r < 0)
                log_warning("the runtime directory cannot be watched: %s", strerror(-r));
        r = control_listen(manager);
        if (r < 0)
                return r;
        return guards_listen(manager);
}

int manager_run(struct manager *manager)
{
        manager_arm_audit(manager);
        manager_arm_returning(manager);
        manager_look_idle(manager);
        manager_look_rest(manager);
        return sd_event_loop(manager->event);
}
