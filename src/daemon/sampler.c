/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/sampler.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"

struct sampler {
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t asked, answered;
        bool end;
        bool busy; /* asked, and not answered */
        const struct device_backend *backend;
        void *handle;
        unsigned index;
        uint64_t asked_at; /* usec of CLOCK_MONOTONIC */
        struct {
                bool there;
                struct sample sample;
        } answer[DEVICE_MAX];
};

void sample_take(
        const struct device_backend *backend, void *handle, unsigned index, struct sample *ret)
{
        *ret = (struct sample){.asked_at = clock_usec(CLOCK_MONOTONIC)};
        ret->memory_result = backend->memory(handle, index, &ret->memory);
        ret->processes_result = backend->processes(handle, index, &ret->process, &ret->processes);
        ret->took = clock_usec(CLOCK_MONOTONIC) - ret->asked_at;
}

static void forget(struct sampler *sampler, unsigned index)
{
        if (sampler->answer[index].there)
                free(sampler->answer[index].sample.process);
        sampler->answer[index].there = false;
}

static void *run(void *argument)
{
        struct sampler *sampler = argument;

        pthread_mutex_lock(&sampler->lock);
        for (;;) {
                struct sample answer;

                while (!sampler->busy && !sampler->end)
                        pthread_cond_wait(&sampler->asked, &sampler->lock);
                if (!sampler->busy)
                        break;
                pthread_mutex_unlock(&sampler->lock);
                sample_take(sampler->backend, sampler->handle, sampler->index, &answer);
                pthread_mutex_lock(&sampler->lock);
                forget(sampler, sampler->index);
                sampler->answer[sampler->index].sample = answer;
                sampler->answer[sampler->index].there = true;
                sampler->busy = false;
                pthread_cond_broadcast(&sampler->answered);
        }
        pthread_mutex_unlock(&sampler->lock);
        return NULL;
}

int sampler_new(struct sampler **ret)
{
        struct sampler *sampler = calloc(1, sizeof(*sampler));
        int r;

        if (!sampler)
                return -ENOMEM;
        pthread_mutex_init(&sampler->lock, NULL);
        pthread_cond_init(&sampler->asked, NULL);
        cond_init(&sampler->answered);
        r = -pthread_create(&sampler->thread, NULL, run, sampler);
        if (r < 0) {
                pthread_cond_destroy(&sampler->answered);
                pthread_cond_destroy(&sampler->asked);
                pthread_mutex_destroy(&sampler->lock);
                free(sampler);
                return r;
        }
        *ret = sampler;
        return 0;
}

void sampler_free(struct sampler *sampler)
{
        if (!sampler)
                return;
        pthread_mutex_lock(&sampler->lock);
        sampler->end = true;
        pthread_cond_signal(&sampler->asked);
        pthread_mutex_unlock(&sampler->lock);
        pthread_join(sampler->thread, NULL);
        pthread_cond_destroy(&sampler->answered);
        pthread_cond_destroy(&sampler->asked);
        pthread_mutex_destroy(&sampler->lock);
        for (unsigned i = 0; i < DEVICE_MAX; i++)
                forget(sampler, i);
        free(sampler);
}

/* The lock is held. Until it is answered, or so long after it was asked. */
static void await(struct sampler *sampler, uint64_t patience_usec)
{
        uint64_t usec = sampler->asked_at + MIN_OF(patience_usec, USEC_PER_SEC * 3600);
        const struct timespec until = {.tv_sec = (time_t)(usec / USEC_PER_SEC),
                .tv_nsec = (long)(usec % USEC_PER_SEC) * 1000};

        while (sampler->busy) {
                int r = patience_usec == SAMPLER_PATIENT
                                ? pthread_cond_wait(&sampler->answered, &sampler->lock)
                                : pthread_cond_timedwait(
                                          &sampler->answered, &sampler->lock, &until);

                if (r == ETIMEDOUT)
                        return;
        }
}

static bool has_answer(const struct sampler *sampler, unsigned index, uint64_t since_usec)
{
        return sampler->answer[index].there && sampler->answer[index].sample.asked_at >= since_usec;
}

int sampler_ask(struct sampler *sampler, const struct device_backend *backend, void *handle,
        unsigned index, uint64_t since_usec, uint64_t patience_usec, struct sample *ret)
{
        int r = -EAGAIN;

        if (index >= DEVICE_MAX)
                return -EINVAL;
        pthread_mutex_lock(&sampler->lock);
        await(sampler, patience_usec);
        if (!has_answer(sampler, index, since_usec) && !sampler->busy) {
                sampler->backend = backend;
                sampler->handle = handle;
                sampler->index = index;
                sampler->asked_at = clock_usec(CLOCK_MONOTONIC);
                sampler->busy = true;
                pthread_cond_signal(&sampler->asked);
                await(sampler, patience_usec);
        }
        if (has_answer(sampler, index, since_usec)) {
                *ret = sampler->answer[index].sample;
                sampler->answer[index].there = false;
                r = 0;
        }
        pthread_mutex_unlock(&sampler->lock);
        return r;
}

void sampler_settle(struct sampler *sampler)
{
        if (!sampler)
                return;
        pthread_mutex_lock(&sampler->lock);
        await(sampler, SAMPLER_PATIENT);
        for (unsigned i = 0; i < DEVICE_MAX; i++)
                forget(sampler, i);
        pthread_mutex_unlock(&sampler->lock);
}
