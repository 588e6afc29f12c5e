/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/waker.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"

#define SECOND 1000000000ull
/* Longer than it takes to wake a thread and to do what is due, by far: then it is late. */
#define LATE_NS 300000u

struct waker {
        sd_event_source *source;
        int fd;
        pid_t loop; /* the thread that runs the event loop */
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t set;
        uint64_t at;     /* 0: nothing is to be done */
        uint64_t sleeps; /* until then; UINT64_MAX: until it is told */
        bool end;
};

/* A wait of this thread's own: a timerfd's timer stays on the CPU of the thread that sets it, which
 * is the one that may be late. */
static void sleep_until(struct waker *waker, uint64_t until)
{
        struct timespec at = {(time_t)(until / SECOND), (long)(until % SECOND)};

        waker->sleeps = until;
        if (until == UINT64_MAX)
                pthread_cond_wait(&waker->set, &waker->lock);
        else
                (void)pthread_cond_timedwait(&waker->set, &waker->lock, &at);
}

/* The loop wakes up here: where it sleeps may be what is late, as a virtual machine's CPU that
 * idles is only run again when its host finds the time. Here something runs now, and is about to
 * end. */
static void wake(struct waker *waker)
{
        cpu_set_t allowed, here;
        int cpu = sched_getcpu();
        bool moved;

        CPU_ZERO(&here);
        if (cpu >= 0)
                CPU_SET((size_t)cpu, &here);
        moved = cpu >= 0 && sched_getaffinity(waker->loop, sizeof(allowed), &allowed) == 0 &&
                CPU_ISSET((size_t)cpu, &allowed) &&
                sched_setaffinity(waker->loop, sizeof(here), &here) == 0;
        (void)eventfd_write(waker->fd, 1);
        if (moved)
                (void)sched_setaffinity(waker->loop, sizeof(allowed), &allowed);
}

static void *run(void *argument)
{
        struct waker *waker = argument;
        uint64_t woken = 0; /* for that moment it has been */

        pthread_mutex_lock(&waker->lock);
        while (!waker->end) {
                uint64_t at = waker->at;

                if (!at || at == woken)
                        sleep_until(waker, UINT64_MAX);
                else if (clock_ns() < at + LATE_NS)
                        sleep_until(waker, at + LATE_NS);
                else {
                        woken = at;
                        wake(waker);
                }
        }
        pthread_mutex_unlock(&waker->lock);
        return NULL;
}

static int be_woken(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
        eventfd_t times;

        (void)source;
        (void)events;
        (void)eventfd_read(fd, &times);
        waker_wait(userdata);
        return 0;
}

void waker_wait(struct waker *waker)
{
        if (!waker)
                return;
        pthread_mutex_lock(&waker->lock);
        pthread_mutex_unlock(&waker->lock);
}

int waker_new(sd_event *event, struct waker **ret)
{
        struct waker *waker = calloc(1, sizeof(*waker));
        int r;

        if (!waker)
                return -ENOMEM;
        waker->sleeps = UINT64_MAX;
        waker->loop = gettid();
        waker->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = waker->fd < 0
                    ? -errno
                    : sd_event_add_io(event, &waker->source, waker->fd, EPOLLIN, be_woken, waker);
        /* before all else that has come: what is done then may begin processes and threads */
        if (r >= 0)
                r = sd_event_source_set_priority(waker->source, SD_EVENT_PRIORITY_IMPORTANT - 1);
        if (r >= 0) {
                pthread_mutex_init(&waker->lock, NULL);
                cond_init(&waker->set);
                r = -pthread_create(&waker->thread, NULL, run, waker);
                if (r < 0) {
                        pthread_cond_destroy(&waker->set);
                        pthread_mutex_destroy(&waker->lock);
                }
        }
        if (r < 0) {
                sd_event_source_disable_unref(waker->source);
                close_safe(waker->fd);
                free(waker);
                return r;
        }
        *ret = waker;
        return 0;
}

struct waker *waker_free(struct waker *waker)
{
        if (!waker)
                return NULL;
        pthread_mutex_lock(&waker->lock);
        waker->end = true;
        pthread_cond_signal(&waker->set);
        pthread_mutex_unlock(&waker->lock);
        pthread_join(waker->thread, NULL);
        pthread_cond_destroy(&waker->set);
        pthread_mutex_destroy(&waker->lock);
        sd_event_source_disable_unref(waker->source);
        close_safe(waker->fd);
        free(waker);
        return NULL;
}

void waker_set(struct waker *waker, uint64_t at)
{
        if (!waker)
                return;
        pthread_mutex_lock(&waker->lock);
        waker->at = at;
        /* one that wakes up before that goes to sleep again by itself */
        if (at && at + LATE_NS < waker->sleeps)
                pthread_cond_signal(&waker->set);
        pthread_mutex_unlock(&waker->lock);
}
