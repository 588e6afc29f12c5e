/* SPDX-License-Identifier: Apache-2.0 */
#include "steer/aside.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Longer than a call takes that waits for nothing (MEASURED: 0.65 ms), and between two looks. */
#define LONG_NS 2000000
/* Longer than it takes to wake a thread, by far: then it is late. */
#define LATE_NS 500000

struct aside {
        struct aside_work work;
        int timer; /* runs out when what is under way has taken long */
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t done; /* overtaking is false again */
        bool under_way, overtaking, end;
};

static void set_timer(struct aside *aside, long ns)
{
        struct itimerspec in = {.it_value.tv_nsec = ns};

        (void)timerfd_settime(aside->timer, 0, &in, NULL);
}

/* As long as what is under way is. False: this was the end. */
static bool overtake(struct aside *aside)
{
        bool end;

        pthread_mutex_lock(&aside->lock);
        while (aside->under_way && !aside->end) {
                bool done;

                aside->overtaking = true;
                pthread_mutex_unlock(&aside->lock);
                done = aside->work.overtake(aside->work.userdata);
                pthread_mutex_lock(&aside->lock);
                aside->overtaking = false;
                pthread_cond_broadcast(&aside->done);
                if (done || !aside->under_way)
                        continue;
                set_timer(aside, LONG_NS);
                break;
        }
        end = aside->end;
        pthread_mutex_unlock(&aside->lock);
        return !end;
}

/* Something has come. False: this was the end. */
static bool take_over(struct aside *aside)
{
        const struct timespec pause = {.tv_nsec = LATE_NS};
        bool busy, end;

        nanosleep(&pause, NULL);
        pthread_mutex_lock(&aside->lock);
        busy = aside->under_way;
        end = aside->end;
        pthread_mutex_unlock(&aside->lock);
        if (!busy && !end)
                aside->work.take_over(aside->work.userdata);
        return !end;
}

static void *run(void *argument)
{
        struct aside *aside = argument;
        struct pollfd fds[] = {
                {.fd = aside->timer, .events = POLLIN},
                {.fd = aside->work.inbox, .events = POLLIN},
        };
        uint64_t times;

        for (;;) {
                if (poll(fds, ARRAY_SIZE(fds), -1) < 0) {
                        if (errno != EINTR)
                                return NULL;
                        continue;
                }
                if (fds[0].revents) {
                        if (read(aside->timer, &times, sizeof(times)) < 0 && errno != EINTR &&
                                errno != EAGAIN)
                                return NULL;
                        if (!overtake(aside))
                                return NULL;
                }
                if (fds[1].revents && !take_over(aside))
                        return NULL;
        }
}

int aside_new(const struct aside_work *work, struct aside **ret)
{
        struct aside *aside = calloc(1, sizeof(*aside));
        int r;

        if (!aside)
                return -ENOMEM;
        aside->work = *work;
        /* it may be set anew between that it ran out and that it is read */
        aside->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (aside->timer < 0) {
                r = -errno;
                free(aside);
                return r;
        }
        pthread_mutex_init(&aside->lock, NULL);
        pthread_cond_init(&aside->done, NULL);
        r = -pthread_create(&aside->thread, NULL, run, aside);
        if (r < 0) {
                pthread_cond_destroy(&aside->done);
                pthread_mutex_destroy(&aside->lock);
                close_safe(aside->timer);
                free(aside);
                return r;
        }
        *ret = aside;
        return 0;
}

void aside_free(struct aside *aside)
{
        if (!aside)
                return;
        pthread_mutex_lock(&aside->lock);
        aside->end = true;
        pthread_mutex_unlock(&aside->lock);
        set_timer(aside, 1);
        pthread_join(aside->thread, NULL);
        pthread_cond_destroy(&aside->done);
        pthread_mutex_destroy(&aside->lock);
        close_safe(aside->timer);
        free(aside);
}

void aside_begin(struct aside *aside)
{
        if (!aside)
                return;
        pthread_mutex_lock(&aside->lock);
        aside->under_way = true;
        pthread_mutex_unlock(&aside->lock);
        set_timer(aside, LONG_NS);
}

void aside_end(struct aside *aside)
{
        if (!aside)
                return;
        pthread_mutex_lock(&aside->lock);
        aside->under_way = false;
        set_timer(aside, 0);
        while (aside->overtaking)
                pthread_cond_wait(&aside->done, &aside->lock);
        pthread_mutex_unlock(&aside->lock);
}
