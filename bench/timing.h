/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs here time by: the monotonic clock in nanoseconds, and medians. */
#pragma once

#include <stdlib.h>
#include <time.h>

static inline double now_ns(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static inline int compare_doubles(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;

        return x < y ? -1 : x > y;
}

/* The upper median; sorts the values. */
static inline double median(double *values, int n)
{
        qsort(values, (size_t)n, sizeof(*values), compare_doubles);
        return values[n / 2];
}
