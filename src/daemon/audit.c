/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's count against the ledger, and memory on its way back. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/process.h"
#include "daemon/manager.h"

#define RETURNING_POLL      (5 * USEC_PER_MSEC)
#define RETURNING_PATIENCE  USEC_PER_SEC /* after which it is looked at more rarely */
#define RETURNING_SLOW_POLL (50 * USEC_PER_MSEC)
#define RETURNING_ASKING    8u /* at most one part in so many of the time goes into asking */
#define RETURNING_LONGEST   (40 * USEC_PER_MSEC) /* of the pauses for that */
#define MAPS_MAX            (16u << 20)

#define AUDIT_LATE (10 * USEC_PER_SEC) /* what was asked before is begun anew */

/* audits in a row that must agree before something is told: driver and page are not read at the
 * same instant */
#define CONFIRMATIONS 2

/* The driver needs some 3 ms to say who holds what; while each answer is the one before, it is
 * asked ever more rarely, down to this. */
#define PAUSE_MOST    USEC_PER_SEC
#define PAUSE_MOST_OF 5u /* of the interval */

static bool device_in_use(struct manager *manager, unsigned index)
{
        for (struct ledger_tenant *t = manager->ledger.first; t; t = t->next)
                if (ledger_find_grant(t, index))
                        return true;
        return false;
}

void audit_now(struct manager *manager, uint64_t since)
{
        for (unsigned i = 0; i < manager->devices; i++)
                if (device_in_use(manager, i))
                        (void)manager_sample(manager, i, since);
        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                tenant_update_used(tenant);
}

static void judge_use(struct tenant *tenant, unsigned i, uint64_t before)
{
        struct manager *manager = tenant->manager;
        struct tenant_device *device = &tenant->device[i];
        const struct ledger_grant *grant = tenant_grant_of(tenant, i);
        uint64_t counted = tenant->pages.usage ? pages_used(&tenant->pages, i) : 0;
        char driver_text[FORMAT_SIZE_MAX], counted_text[FORMAT_SIZE_MAX];
        uint64_t tolerance = manager->config.audit_tolerance;

        if (device->driver_bytes == DEVICE_UNKNOWN_BYTES || !grant || !tenant->pages.usage)
                return;
        /* the page before and after the driver was asked: what was freed meanwhile is no offence */
        before = MAX_OF(before, counted);
        if (!tenant->damaged && device->driver_bytes > before &&
                device->driver_bytes - before > tolerance) {
                if (++device->over < CONFIRMATIONS || device->over_told)
                        return;
                device->over_told = true;
                events_add(&manager->events, EVENT_OVER_QUOTA,
                        (struct event_subject){.tenant = tenant->id,
                                .device = manager->device[device->index].info.uuid_text,
                                .detail = json_pack("{s:I, s:I}", "driver",
                                        (json_int_t)device->driver_bytes, "ledger",
                                        (json_int_t)counted)},
                        "tenant %s holds %s by the driver's count, %s by its own", tenant->name,
                        format_size(driver_text, device->driver_bytes),
                        format_size(counted_text, counted));
                return;
        }
        device->over = 0;
        device->over_told = false;
        /* what it may have come to hold by its limits; a grant that was shrunk below its use lets
         * it keep what it had */
        device->allowed = MAX_OF(grant->maximum, MIN_OF(device->allowed, counted));
        if (counted <= device->allowed || counted - device->allowed <= tolerance ||
                counted <= device->driver_bytes || counted - device->driver_bytes <= tolerance)
                device->beyond = 0;
        else if (++device->beyond >= CONFIRMATIONS)
                tenant_set_damaged(tenant, "more is used than was granted");
}

static void kill_stranger(struct tenant *tenant, struct stranger *stranger)
{
        _cleanup_close_ int pidfd = process_open(stranger->pid);

        if (pidfd < 0 || process_is(stranger->pid, stranger->start_time) < 0 ||
                process_signal(pidfd, SIGKILL) < 0)
                return;
        events_add(&tenant->manager->events, EVENT_STRANGER_KILLED,
                (struct event_subject){.tenant = tenant->id, .pid = stranger->pid},
                "process %d of tenant %s was killed: it held GPU memory without a session",
                (int)stranger->pid, tenant->name);
}

static void see_stranger(struct tenant *tenant, unsigned index, pid_t pid, uint64_t bytes)
{
        struct manager *manager = tenant->manager;
        struct stranger *place = NULL;
        char command[128], size[FORMAT_SIZE_MAX];
        uint64_t start_time;

        if (process_start_time(pid, &start_time) < 0)
                return;
        for (unsigned i = 0; i < STRANGERS_MAX; i++) {
                struct stranger *s = &tenant->stranger[i];

                if (s->pid == pid && s->start_time == start_time) {
                        place = s;
                        break;
                }
                if (!s->pid && !place)
                        place = s;
        }
        if (!place)
                return;
        if (place->pid != pid)
                *place = (struct stranger){.pid = pid, .start_time = start_time};
        if (!place->current)
                place->seen++;
        place->current = true;
        if (place->seen < CONFIRMATIONS || place->told)
                return;
        place->told = true;
        if (process_command(pid, command, sizeof(command)) < 0)
                strcpy(command, "unknown");
        events_add(&manager->events, EVENT_STRANGER,
                (struct event_subject){.tenant = tenant->id,
                        .device = manager->device[index].info.uuid_text,
                        .pid = pid,
                        .detail = json_pack("{s:s, s:o}", "command", command, "bytes",
                                bytes == DEVICE_UNKNOWN_BYTES ? json_null()
                                                              : json_integer((json_int_t)bytes))},
                "process %d (%s) of tenant %s holds %s without a session", (int)pid, command,
                tenant->name, bytes == DEVICE_UNKNOWN_BYTES ? "memory" : format_size(size, bytes));
        if (manager->config.audit_policy == AUDIT_KILL)
                kill_stranger(tenant, place);
}

static bool is_returning(struct tenant *tenant, pid_t pid)
{
        struct session *session;

        DL_FOREACH(tenant->sessions, session)
        if (session->returning && session->process.pid == pid)
                return true;
        return false;
}

static void look_for_strangers(struct manager *manager)
{
        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                for (unsigned i = 0; i < STRANGERS_MAX; i++)
                        tenant->stranger[i].current = false;
        for (unsigned index = 0; index < manager->devices; index++) {
                struct manager_device *device = &manager->device[index];

                if (!device_in_use(manager, index))
                        continue;
                for (size_t k = 0; k < device->processes; k++) {
                        pid_t pid = device->process[k].pid;
                        struct session *session;
                        struct tenant *tenant;

                        HASH_FIND_INT(manager->sessions, &pid, session);
                        if (session || device->process[k].bytes == 0)
                                continue;
                        tenant = tenant_of_process(manager, pid);
                        if (tenant && !is_returning(tenant, pid))
                                see_stranger(tenant, index, pid, device->process[k].bytes);
                }
        }
        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                for (unsigned i = 0; i < STRANGERS_MAX; i++)
                        if (tenant->stranger[i].pid && !tenant->stranger[i].current)
                                tenant->stranger[i] = (struct stranger){0};
}

/* Whether the process still maps the tenant's usage page: it does until it ends or executes another
 * program. -errno: it cannot be seen. */
static int maps_page(const struct session *session)
{
        _cleanup_free_ char *text = NULL;
        char path[64], name[64], id[FORMAT_ID_MAX];
        int r;

        snprintf(path, sizeof(path), "/proc/%d/maps", (int)session->process.pid);
        r = read_file(path, MAPS_MAX, &text, NULL);
        if (r < 0)
                return r;
        snprintf(name, sizeof(name), "cleave-usage-%s", format_id(id, session->tenant->id));
        return strstr(text, name) != NULL;
}

static bool driver_counts_nothing(struct manager *manager, const struct session *session)
{
        const struct tenant *tenant = session->tenant;

        for (unsigned i = 0; i < tenant->devices; i++) {
                const struct manager_device *device = &manager->device[tenant->device[i].index];

                if (device->processes_known < 0 ||
                        device_process_bytes(
                                device->process, device->processes, session->process.pid) > 0)
                        return false;
        }
        return true;
}

/* Sessions whose socket was closed while the process lives: has another program taken its place? */
static void look_at_detached(struct manager *manager)
{
        struct session *session, *next;

        HASH_ITER(hh, manager->sessions, session, next)
        {
                uint64_t now = clock_usec(CLOCK_MONOTONIC);
                int r;

                if (session->fd >= 0 || session->returning || now < session->next_look)
                        continue;
                /* reading a process's mappings is not free: more rarely as time goes by */
                session->look_interval = MIN_OF(
                        MAX_OF(session->look_interval * 2, 100 * USEC_PER_MSEC), 5 * USEC_PER_SEC);
                session->next_look = now + session->look_interval;
                r = maps_page(session);
                if (r == 0 || (r < 0 && driver_counts_nothing(manager, session)))
                        session_leave(session);
        }
}

static void hash(uint64_t *value, uint64_t word)
{
        *value = hash_word(*value, word);
        /* sums of these are taken */
        *value ^= *value >> 32;
}

/* All that can be seen without the driver: who is there, what they may have and have counted. */
static uint64_t hash_own(struct manager *manager)
{
        uint64_t value = HASH_BEGIN;

        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next) {
                struct session *session;

                hash(&value, tenant->id);
                hash(&value, tenant->state);
                for (unsigned i = 0; i < tenant->devices; i++) {
                        const struct ledger_grant *grant = tenant_grant_of(tenant, i);

                        hash(&value, grant ? grant->guarantee : 0);
                        hash(&value, grant ? grant->limit : 0);
                        hash(&value, grant ? grant->maximum : 0);
                        hash(&value, tenant->pages.usage ? pages_used(&tenant->pages, i) : 0);
                }
                DL_FOREACH(tenant->sessions, session)
                {
                        hash(&value, (uint64_t)session->process.pid);
                        hash(&value, session->fd >= 0 ? 1 : session->returning ? 2 : 3);
                }
        }
        return value;
}

/* What the driver has said. */
static uint64_t hash_driver(const struct manager *manager)
{
        uint64_t value = HASH_BEGIN;

        for (unsigned i = 0; i < manager->devices; i++) {
                const struct manager_device *device = &manager->device[i];
                uint64_t sum = 0;

                hash(&value, device->state);
                hash(&value, device->memory.used);
                hash(&value, device->memory.free);
                hash(&value, (uint64_t)device->processes_known);
                hash(&value, device->others_used);
                /* in any order */
                for (size_t k = 0; k < device->processes; k++) {
                        uint64_t one = (uint64_t)device->process[k].pid;

                        hash(&one, device->process[k].bytes);
                        sum += one;
                }
                hash(&value, sum);
        }
        return value;
}

static bool is_anybody_waiting(const struct manager *manager)
{
        for (const struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                if (tenant->state == TENANT_WAITING)
                        return true;
        return false;
}

/* What was found is what there was: soon the driver is asked for less. */
static void choose_pause(struct manager *manager, uint64_t own, bool waiting)
{
        uint64_t interval = manager->config.audit_interval, driver = hash_driver(manager);
        uint64_t most = MAX_OF(interval, MIN_OF(PAUSE_MOST, PAUSE_MOST_OF * interval));

        if (waiting || own != manager->audit.own || driver != manager->audit.driver)
                manager->audit.pause = interval;
        else
                manager->audit.pause = MIN_OF(2 * manager->audit.pause, most);
        manager->audit.own = own;
        manager->audit.driver = driver;
        /* the timer may be a little early by this clock */
        manager->audit.due = clock_usec(CLOCK_MONOTONIC) + manager->audit.pause - interval / 2;
}

/* Begins, if nothing is asked. What the driver said before is no word on what stands on the pages
 * now. False: it has not answered for all devices yet. */
static bool ask_driver(struct manager *manager, uint64_t own)
{
        uint64_t now = clock_usec(CLOCK_MONOTONIC);
        bool asked = false;

        if (!manager->audit.since || now > manager->audit.since + AUDIT_LATE) {
                manager->audit.since = now;
                manager->audit.asked = own;
                for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next)
                        for (unsigned i = 0; i < tenant->devices; i++)
                                tenant->device[i].before =
                                        tenant->pages.usage ? pages_used(&tenant->pages, i) : 0;
        }
        for (unsigned i = 0; i < manager->devices; i++) {
                if (!device_in_use(manager, i) ||
                        manager->device[i].sampled_at >= manager->audit.since)
                        continue;
                /* one in a turn */
                manager->audit.waits = asked && compute_haste(manager) == COMPUTE_TURNS;
                if (manager->audit.waits || !manager_sample(manager, i, manager->audit.since))
                        return false;
                asked = true;
        }
        manager->audit.since = 0;
        for (struct tenant *tenant = manager->tenants; tenant; tenant = tenant->hh.next) {
                tenant_update_used(tenant);
                for (unsigned i = 0; i < tenant->devices; i++)
                        judge_use(tenant, i, tenant->device[i].before);
        }
        look_for_strangers(manager);
        return true;
}

int audit_tick(sd_event_source *source, uint64_t usec, void *userdata)
{
        struct manager *manager = userdata;
        bool waiting = is_anybody_waiting(manager), asks;
        uint64_t own = hash_own(manager);

        (void)source;
        (void)usec;
        asks = manager->audit.since || waiting || own != manager->audit.own ||
               clock_usec(CLOCK_MONOTONIC) >= manager->audit.due;
        /* a turn that is over would last for as long as the driver needs to say it */
        manager->audit.waits = asks && !manager->audit.since && !manager->audit.waits &&
                               compute_haste(manager) == COMPUTE_TURNS;
        if (manager->audit.waits) {
                manager_arm_audit(manager);
                return 0;
        }
        if (asks && ask_driver(manager, own))
                choose_pause(manager, manager->audit.asked, waiting);
        look_at_detached(manager);
        for (unsigned i = 0; i < manager->devices; i++) {
                struct manager_device *device = &manager->device[i];

                /* neighbours see what our tenants use, so that it is not counted twice */
                if (waiting || ledger_kept(&manager->ledger, i) != device->own_claimed ||
                        device->tenants_used != device->own_claimed_used)
                        manager_refresh_claims(manager, i);
        }
        if (ledger_update_limits(&manager->ledger))
                manager_write_limits(manager);
        if (manager->journal.failed)
                (void)manager_rewrite_journal(manager);
        if (waiting)
                manager_serve_soon(manager);
        manager_arm_audit(manager);
        return 0;
}

/* What other slots of the same process hold: a program that was executed in it and has joined anew.
 */
static uint64_t held_by_successors(const struct session *session, unsigned i)
{
        const struct session *other;
        uint64_t sum = 0;

        DL_FOREACH(session->tenant->sessions, other)
        if (other != session && other->process.pid == session->process.pid && !other->returning)
                sum += pages_held(&session->tenant->pages, other->slot, i);
        return sum;
}

/* Whether the driver has taken back what the session held. */
static bool is_back(struct manager *manager, const struct session *session)
{
        const struct tenant *tenant = session->tenant;
        uint64_t start_time;

        for (unsigned i = 0; i < tenant->devices; i++) {
                const struct manager_device *device = &manager->device[tenant->device[i].index];
                uint64_t bytes;

                /* a driver that does not say, or has lost the device, is not waited for */
                if (device->processes_known == -ENODATA || device->processes_known == -ENODEV)
                        continue;
                /* what it said before the session ended may be of before it began */
                if (device->processes_known < 0 || device->sampled_at < session->returning_since)
                        return false;
                bytes = device_process_bytes(
                        device->process, device->processes, session->process.pid);
                if (bytes == 0)
                        continue;
                /* the pid has gone to another process */
                if (process_start_time(session->process.pid, &start_time) == 0 &&
                        start_time != session->process.start_time)
                        continue;
                if (tenant->pages.usage && bytes != DEVICE_UNKNOWN_BYTES &&
                        bytes <= held_by_successors(session, i))
                        continue;
                return false;
        }
        return true;
}

int returning_tick(sd_event_source *source, uint64_t usec, void *userdata)
{
        struct manager *manager = userdata;
        bool touched[DEVICE_MAX] = {false}, late = false;
        uint64_t now = clock_usec(CLOCK_MONOTONIC), youngest = 0, asking = 0, pause;
        struct tenant *tenant, *next_tenant;

        (void)usec;
        for (tenant = manager->tenants; tenant; tenant = tenant->hh.next) {
                struct session *session;

                DL_FOREACH(tenant->sessions, session)
                {
                        if (!session->returning)
                                continue;
                        youngest = MAX_OF(youngest, session->returning_since);
                        for (unsigned i = 0; i < tenant->devices; i++)
                                touched[tenant->device[i].index] = true;
                }
        }
        for (unsigned i = 0; i < manager->devices; i++)
                if (touched[i]) {
                        late |= !manager_sample(manager, i, youngest);
                        asking += manager->device[i].sampling_took;
                }
        HASH_ITER(hh, manager->tenants, tenant, next_tenant)
        {
                struct session *session, *next;

                DL_FOREACH_SAFE(tenant->sessions, session, next)
                {
                        /* with its last session a tenant that is over goes too */
                        bool last = tenant->session_count == 1;

                        if (!session->returning || !is_back(manager, session))
                                continue;
                        session_release(session);
                        if (last)
                                break;
                }
        }
        if (manager->returning) {
                /* a driver that answers slowly is busy, often with programs that start or end */
                pause = late ? 0 : MIN_OF(RETURNING_ASKING * asking, RETURNING_LONGEST);
                sd_event_source_set_time_relative(source,
                        MAX_OF(pause, now - youngest < RETURNING_PATIENCE ? RETURNING_POLL
                                                                          : RETURNING_SLOW_POLL));
                sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        }
        return 0;
}
