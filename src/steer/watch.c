/* SPDX-License-Identifier: Apache-2.0 */
#include "steer/watch.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"
#include "policy/switches.h"
#include "steer/diary.h"

#define MS 1000000u
/* Between two looks: what is not looked at yet is not known. */
#define LOOK        (10 * MS)
#define LOOK_LATEST (12 * MS)
/* While nothing is recorded a look only goes on with what is known. */
#define LOOK_REST (20 * MS)
/* Who has something to do when its channels are enabled has been recorded by then. */
#define LOOK_ENABLED (MS * 17 / 10)
/* A device that refuses is asked again after a pause that doubles: the records may still be
 * another's who is about to end, such as the process before this one, killed a moment ago. */
#define RETRY_MIN (50ull * MS)
#define RETRY_MAX (30000ull * MS)

struct watched {
        _Atomic bool wanted;   /* to be opened by the thread; uuid stays as it is from then on */
        bool found, open;      /* found: by the driver */
        uint64_t retry, pause; /* not before then, and how long it was refused last time */
        uint8_t uuid[16];
        struct switches switches;
        bool rests;     /* nothing is recorded; the lock is held to change it */
        bool restless;  /* recording cannot be stopped */
        uint64_t asked; /* for samples */
};

struct watch {
        const struct steer_backend *backend;
        void *handle;
        struct steer_view *view;
        struct diary *diary;
        pthread_t thread;
        pthread_mutex_t asking; /* held while the backend is asked; before lock */
        pthread_mutex_t lock;
        pthread_cond_t wake;
        bool end;
        uint64_t looked, next; /* last look, and the next */
        struct steer_record record[STEER_RECORDS_MAX];
        struct steer_sample sample[STEER_SAMPLES_MAX];
        struct watched device[STEER_MAX_DEVICES];
};

/* -- the view ---------------------------------------------------------------------------------- */

static void show(struct watch *watch, unsigned device)
{
        struct watched *watched = &watch->device[device];
        struct steer_view_device *view = &watch->view->device[device];

        for (uint32_t i = 0; i < watched->switches.free && i < STEER_VIEW_ENTRIES; i++) {
                struct steer_seen *seen = &view->seen[i];
                uint32_t sequence = atomic_load(&seen->sequence);
                uint32_t pid = watched->switches.owner[i].id;
                struct switches_sight sight;

                if (switches_sight(&watched->switches, pid, &sight) < 0)
                        pid = 0;
                atomic_store(&seen->sequence, sequence + 1);
                atomic_thread_fence(memory_order_release);
                seen->pid = pid;
                if (pid)
                        seen->sight = sight;
                atomic_store(&seen->sequence, sequence + 2);
        }
        atomic_store(&view->high, MIN_OF(watched->switches.free, STEER_VIEW_ENTRIES));
        atomic_store(&view->now, watched->switches.now);
}

/* -- looking ----------------------------------------------------------------------------------- */

static void refuse(struct watch *watch, unsigned device, uint32_t status)
{
        struct watched *watched = &watch->device[device];

        watched->pause = watched->pause ? MIN_OF(2 * watched->pause, RETRY_MAX) : RETRY_MIN;
        watched->retry = clock_ns() + watched->pause;
        atomic_store(&watch->view->device[device].status, status);
        atomic_store(&watch->view->device[device].state, STEER_WATCH_REFUSED);
}

static void open_device(struct watch *watch, unsigned device)
{
        struct watched *watched = &watch->device[device];
        uint32_t status = 0;
        bool all = false;
        int r;

        r = watched->found
                    ? 0
                    : watch->backend->open_device(watch->handle, device, watched->uuid, &status);
        watched->found = r == 0;
        if (r == 0)
                r = watch->backend->watch(watch->handle, device, &all, &status);
        if (r < 0) {
                refuse(watch, device, status);
                return;
        }
        pthread_mutex_lock(&watch->lock);
        watched->switches.now = watched->switches.sampled = clock_ns();
        diary_note(watch->diary, "begin", device, "%" PRIu64, watched->switches.now);
        /* it may be that it could not begin again */
        switches_wake(&watched->switches, watched->switches.now);
        watched->open = true;
        watched->pause = 0;
        pthread_mutex_unlock(&watch->lock);
        atomic_store(&watch->view->device[device].begun, watched->switches.now);
        atomic_store(
                &watch->view->device[device].state, all ? STEER_WATCHED_ALL : STEER_WATCHED_OWN);
}

/* What the engine has recorded up to now. The lock is held while it is taken in, not while it is
 * fetched. False: it cannot be had. */
static bool look(struct watch *watch, unsigned device)
{
        struct watched *watched = &watch->device[device];
        struct steer_view_device *view = &watch->view->device[device];
        uint64_t until = 0;
        int n;

        do {
                bool lost = false;

                n = watch->backend->records(
                        watch->handle, device, watch->record, STEER_RECORDS_MAX, &until, &lost);
                if (n < 0)
                        return false;
                pthread_mutex_lock(&watch->lock);
                if (lost) {
                        uint64_t at = n > 0 ? watch->record[0].at : watched->switches.now;

                        switches_lost(&watched->switches, at);
                        diary_note(watch->diary, "lost", device, "%" PRIu64, at);
                        atomic_fetch_add(&view->lost, 1);
                }
                for (int i = 0; i < n; i++) {
                        const struct steer_record *record = &watch->record[i];

                        switches_record(&watched->switches, record->pid, record->at, record->start);
                        diary_note(watch->diary, "record", device, "%u %" PRIu64 " %d", record->pid,
                                record->at, (int)record->start);
                }
                pthread_mutex_unlock(&watch->lock);
        } while (n == STEER_RECORDS_MAX);
        pthread_mutex_lock(&watch->lock);
        switches_look(&watched->switches, until);
        diary_note(watch->diary, "look", device, "%" PRIu64, until);
        pthread_mutex_unlock(&watch->lock);
        return true;
}

/* A device whose owners go on as they did is not recorded for a while: each record costs the driver
 * more than all else that we do. */
static void rest(struct watch *watch, unsigned device)
{
        struct watched *watched = &watch->device[device];
        uint32_t status = 0;
        uint64_t now;
        bool may;

        if (!watch->backend->record || watched->restless)
                return;
        pthread_mutex_lock(&watch->lock);
        may = switches_may_rest(&watched->switches) > 0;
        pthread_mutex_unlock(&watch->lock);
        if (!may)
                return;
        if (watch->backend->record(watch->handle, device, false, &status) < 0) {
                watched->restless = true;
                return;
        }
        pthread_mutex_lock(&watch->lock);
        watched->rests = true;
        now = clock_ns();
        switches_rest(&watched->switches, now);
        diary_note(watch->diary, "rest", device, "%" PRIu64, now);
        /* something was told meanwhile */
        if (switches_must_wake(&watched->switches, watched->switches.now))
                watch->next = 0;
        pthread_mutex_unlock(&watch->lock);
}

static void wake(struct watch *watch, unsigned device)
{
        struct watched *watched = &watch->device[device];
        uint32_t status = 0;
        int r = watch->backend->record(watch->handle, device, true, &status);
        uint64_t now = clock_ns();

        pthread_mutex_lock(&watch->lock);
        watched->rests = false;
        switches_wake(&watched->switches, now);
        diary_note(watch->diary, "wake", device, "%" PRIu64, now);
        watched->open = r == 0;
        pthread_mutex_unlock(&watch->lock);
        if (r < 0)
                refuse(watch, device, status);
}

/* Whether there is nothing to be fetched. */
static bool go_on_resting(struct watch *watch, unsigned device, uint64_t now)
{
        struct watched *watched = &watch->device[device];
        bool rests = watched->rests, enough;

        if (!rests)
                return false;
        pthread_mutex_lock(&watch->lock);
        enough = switches_must_wake(&watched->switches, now);
        if (!enough) {
                switches_look(&watched->switches, now);
                diary_note(watch->diary, "look", device, "%" PRIu64, now);
        }
        pthread_mutex_unlock(&watch->lock);
        if (enough)
                wake(watch, device);
        return !enough;
}

static void ask_samples(struct watch *watch, unsigned device, uint64_t now)
{
        struct watched *watched = &watch->device[device];
        uint64_t pause = switches_wants_busy(&watched->switches);
        int n;

        if (!pause || now < watched->asked + pause)
                return;
        watched->asked = now;
        n = watch->backend->samples(
                watch->handle, device, watched->switches.sampled, watch->sample, STEER_SAMPLES_MAX);
        pthread_mutex_lock(&watch->lock);
        for (int i = 0; i < n; i++) {
                const struct steer_sample *sample = &watch->sample[i];

                switches_busy(
                        &watched->switches, sample->from, sample->to, sample->busy_ns, sample->pid);
                diary_note(watch->diary, "busy", device, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %u",
                        sample->from, sample->to, sample->busy_ns, sample->pid);
        }
        pthread_mutex_unlock(&watch->lock);
}

static void *run(void *argument)
{
        struct watch *watch = argument;

        for (;;) {
                struct timespec until;
                uint64_t now = clock_ns();
                bool recorded = false, end;

                pthread_mutex_lock(&watch->lock);
                while (!watch->end && now < watch->next) {
                        until.tv_sec = (time_t)(watch->next / 1000000000u);
                        until.tv_nsec = (long)(watch->next % 1000000000u);
                        (void)pthread_cond_timedwait(&watch->wake, &watch->lock, &until);
                        now = clock_ns();
                }
                watch->looked = now;
                watch->next = now + LOOK;
                end = watch->end;
                pthread_mutex_unlock(&watch->lock);
                if (end)
                        return NULL;
                pthread_mutex_lock(&watch->asking);
                for (unsigned device = 0; device < STEER_MAX_DEVICES; device++) {
                        struct watched *watched = &watch->device[device];

                        if (atomic_load(&watched->wanted) && !watched->open &&
                                now >= watched->retry)
                                open_device(watch, device);
                        if (!watched->open) {
                                recorded |= atomic_load(&watched->wanted);
                                continue;
                        }
                        if (!go_on_resting(watch, device, now) && watched->open) {
                                (void)look(watch, device);
                                ask_samples(watch, device, now);
                                rest(watch, device);
                        }
                        recorded |= !watched->rests;
                        pthread_mutex_lock(&watch->lock);
                        show(watch, device);
                        pthread_mutex_unlock(&watch->lock);
                }
                pthread_mutex_unlock(&watch->asking);
                pthread_mutex_lock(&watch->lock);
                if (!recorded && watch->next > now)
                        watch->next = MAX_OF(watch->next, now + LOOK_REST);
                pthread_mutex_unlock(&watch->lock);
        }
}

/* -- life -------------------------------------------------------------------------------------- */

static int start(struct watch *watch)
{
        int r;

        pthread_mutex_init(&watch->asking, NULL);
        pthread_mutex_init(&watch->lock, NULL);
        cond_init(&watch->wake);
        r = pthread_create(&watch->thread, NULL, run, watch);
        if (r != 0) {
                pthread_cond_destroy(&watch->wake);
                pthread_mutex_destroy(&watch->lock);
                pthread_mutex_destroy(&watch->asking);
        }
        return -r;
}

int watch_new(
        int view_fd, const struct steer_backend *backend, const void *argument, struct watch **ret)
{
        struct watch *watch;
        uint64_t now = clock_ns();
        int r;

        if (view_fd < 0)
                return -EBADF;
        if (!backend->watch)
                return -EOPNOTSUPP;
        watch = calloc(1, sizeof(*watch));
        if (!watch)
                return -ENOMEM;
        watch->backend = backend;
        watch->diary = diary_new();
        for (unsigned i = 0; i < STEER_MAX_DEVICES; i++)
                switches_init(&watch->device[i].switches, backend->costs, now);
        if (backend->costs)
                diary_note(watch->diary, "init", 0, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64,
                        backend->costs->cut_ns, backend->costs->idle_ns, backend->costs->off_ns,
                        backend->costs->restore_ns);
        r = steer_view_map(view_fd, &watch->view);
        if (r == 0)
                r = backend->open(argument, &watch->handle);
        if (r == 0) {
                watch->next = now + LOOK;
                r = start(watch);
        }
        if (r < 0) {
                if (watch->handle)
                        backend->close(watch->handle);
                steer_view_unmap(watch->view);
                diary_free(watch->diary);
                free(watch);
                return r;
        }
        *ret = watch;
        return 0;
}

struct watch *watch_free(struct watch *watch)
{
        struct timespec limit;

        if (!watch)
                return NULL;
        pthread_mutex_lock(&watch->lock);
        watch->end = true;
        pthread_cond_signal(&watch->wake);
        pthread_mutex_unlock(&watch->lock);
        /* a device that hangs keeps the thread, not us: the process is about to end */
        clock_gettime(CLOCK_REALTIME, &limit);
        limit.tv_sec += 2;
        if (pthread_timedjoin_np(watch->thread, NULL, &limit) != 0)
                return NULL;
        pthread_cond_destroy(&watch->wake);
        pthread_mutex_destroy(&watch->lock);
        pthread_mutex_destroy(&watch->asking);
        watch->backend->close(watch->handle);
        steer_view_unmap(watch->view);
        diary_free(watch->diary);
        free(watch);
        return NULL;
}

/* -- what is told ------------------------------------------------------------------------------ */

void watch_device(struct watch *watch, unsigned device, const uint8_t uuid[16])
{
        if (!watch)
                return;
        pthread_mutex_lock(&watch->lock);
        if (!atomic_load(&watch->device[device].wanted))
                memcpy(watch->device[device].uuid, uuid, 16);
        atomic_store(&watch->device[device].wanted, true);
        watch->next = 0;
        pthread_cond_signal(&watch->wake);
        pthread_mutex_unlock(&watch->lock);
}

/* What is told may change everything: it is recorded from now on. The lock is held. */
static void end_rest(struct watch *watch, unsigned device)
{
        if (!watch->device[device].rests)
                return;
        watch->next = 0;
        pthread_cond_signal(&watch->wake);
}

void watch_call(struct watch *watch, unsigned device)
{
        uint64_t now;

        if (!watch || device >= STEER_MAX_DEVICES)
                return;
        pthread_mutex_lock(&watch->lock);
        now = clock_ns();
        switches_call(&watch->device[device].switches, now);
        diary_note(watch->diary, "call", device, "%" PRIu64, now);
        end_rest(watch, device);
        pthread_mutex_unlock(&watch->lock);
}

uint32_t watch_holder(struct watch *watch, unsigned device)
{
        struct watched *watched;
        uint32_t pid = 0;

        /* its own thread is asking: what that finds comes too late */
        if (!watch || device >= STEER_MAX_DEVICES || pthread_mutex_trylock(&watch->asking) != 0)
                return 0;
        watched = &watch->device[device];
        if (watched->open && !watched->rests && look(watch, device)) {
                pthread_mutex_lock(&watch->lock);
                if (watched->switches.holder)
                        pid = watched->switches.holder->id;
                pthread_mutex_unlock(&watch->lock);
        }
        pthread_mutex_unlock(&watch->asking);
        return pid;
}

void watch_slice(struct watch *watch, unsigned device, uint32_t pid, uint64_t slice_us)
{
        uint64_t now;

        if (!watch || !pid || device >= STEER_MAX_DEVICES)
                return;
        pthread_mutex_lock(&watch->lock);
        now = clock_ns();
        switches_slice(&watch->device[device].switches, pid, now, slice_us);
        diary_note(watch->diary, "slice", device, "%u %" PRIu64 " %" PRIu64, pid, now, slice_us);
        end_rest(watch, device);
        pthread_mutex_unlock(&watch->lock);
}

void watch_mode(struct watch *watch, unsigned device, uint32_t pid, bool thread_block)
{
        uint64_t now;

        if (!watch || !pid || device >= STEER_MAX_DEVICES)
                return;
        pthread_mutex_lock(&watch->lock);
        now = clock_ns();
        switches_mode(&watch->device[device].switches, pid, now, thread_block);
        diary_note(watch->diary, "mode", device, "%u %" PRIu64 " %d", pid, now, (int)thread_block);
        end_rest(watch, device);
        pthread_mutex_unlock(&watch->lock);
}

void watch_asked(struct watch *watch, unsigned device, bool disable, uint64_t due, uint64_t sent,
        uint64_t received)
{
        if (!watch || !watch->diary)
                return;
        pthread_mutex_lock(&watch->lock);
        diary_note(watch->diary, "asked", device, "%d %" PRIu64 " %" PRIu64 " %" PRIu64,
                (int)disable, due, sent, received);
        pthread_mutex_unlock(&watch->lock);
}

void watch_turns(struct watch *watch, unsigned device, uint32_t pid, uint64_t at,
        const struct cleave_turns *turns)
{
        if (!watch || !pid || device >= STEER_MAX_DEVICES)
                return;
        pthread_mutex_lock(&watch->lock);
        switches_keep(&watch->device[device].switches, pid, at, turns);
        diary_note(watch->diary, "keep", device,
                "%u %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64, pid, at, turns->from,
                turns->until, turns->period, turns->good_until);
        end_rest(watch, device);
        pthread_mutex_unlock(&watch->lock);
}

/* What comes of it that somebody was enabled then; also in place of a look that would come just
 * before: of turns that are as long as it is between looks, none would be seen. */
static void look_after(struct watch *watch, uint64_t enabled)
{
        uint64_t next = enabled + LOOK_ENABLED;

        if (next > watch->next && next > watch->looked + LOOK_LATEST)
                return;
        if (next < watch->next)
                pthread_cond_signal(&watch->wake);
        watch->next = next;
}

void watch_switched(struct watch *watch, unsigned device, uint32_t pid, uint64_t from, uint64_t to,
        bool disabled)
{
        if (!watch || !pid || device >= STEER_MAX_DEVICES)
                return;
        pthread_mutex_lock(&watch->lock);
        switches_off(&watch->device[device].switches, pid, from, to, disabled);
        diary_note(watch->diary, "off", device, "%u %" PRIu64 " %" PRIu64 " %d", pid, from, to,
                (int)disabled);
        end_rest(watch, device);
        if (!disabled && watch->next > to)
                look_after(watch, to);
        pthread_mutex_unlock(&watch->lock);
}
