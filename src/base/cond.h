/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <pthread.h>
#include <time.h>

/* One whose times are CLOCK_MONOTONIC's. */
static inline void cond_init(pthread_cond_t *cond)
{
        pthread_condattr_t attributes;

        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(cond, &attributes);
        pthread_condattr_destroy(&attributes);
}
