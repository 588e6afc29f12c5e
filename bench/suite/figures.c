/* SPDX-License-Identifier: Apache-2.0 */
#include "figures.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

double figures_quantile(const double *values, size_t n, double part)
{
        double *sorted, at, result;
        size_t i;

        if (n == 0)
                return NAN;
        sorted = malloc(n * sizeof(*sorted));
        if (!sorted)
                return NAN;
        memcpy(sorted, values, n * sizeof(*sorted));
        qsort(sorted, n, sizeof(*sorted), compare);
        at = part * (double)(n - 1);
        i = (size_t)at;
        result = i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i])
                           : sorted[n - 1];
        free(sorted);
        return result;
}

double figures_variation(const double *values, size_t n)
{
        double mean = 0, square = 0;

        if (n < 2)
                return NAN;
        for (size_t i = 0; i < n; i++)
                mean += values[i] / (double)n;
        if (mean == 0)
                return NAN;
        for (size_t i = 0; i < n; i++)
                square += (values[i] - mean) * (values[i] - mean) / (double)(n - 1);
        return sqrt(square) / mean;
}

double figures_fairness(const double *values, size_t n)
{
        double sum = 0, square = 0;

        for (size_t i = 0; i < n; i++) {
                sum += values[i];
                square += values[i] * values[i];
        }
        return square > 0 ? sum * sum / ((double)n * square) : NAN;
}

double figures_worst_error(const double *got, const double *want, size_t n)
{
        double sum = 0, worst = 0;

        for (size_t i = 0; i < n; i++)
                sum += got[i];
        if (sum <= 0)
                return NAN;
        for (size_t i = 0; i < n; i++)
                worst = fmax(worst, fabs(got[i] / sum - want[i]) / want[i]);
        return worst;
}

double figures_switch(const double *a, size_t n_a, const double *b, size_t n_b)
{
        double *gaps = calloc(n_a + n_b + 1, sizeof(*gaps)), last = 0, result;
        size_t i = 0, k = 0, n = 0;
        int last_owner = -1;

        if (!gaps)
                return NAN;
        while (i < n_a || k < n_b) {
                int owner = k >= n_b || (i < n_a && a[2 * i] <= b[2 * k]) ? 0 : 1;
                const double *span = owner ? &b[2 * k++] : &a[2 * i++];

                if (last_owner >= 0 && owner != last_owner)
                        gaps[n++] = fmax(0, span[0] - last);
                last = last_owner < 0 ? span[1] : fmax(last, span[1]);
                last_owner = owner;
        }
        result = figures_median(gaps, n);
        free(gaps);
        return result;
}

double figures_step(const double *first, const double *second, size_t n, size_t from, double before,
        double after, size_t *ret_step)
{
        double error = 0, least, a = 0, b = 0;

        /* as if the step were at the end; then it moves to the left */
        for (size_t i = from; i < n; i++) {
                double all = first[i] + second[i], part = all > 0 ? first[i] / all : before;

                error += (part - before) * (part - before);
        }
        least = error;
        *ret_step = n;
        for (size_t i = n; i-- > from;) {
                double all = first[i] + second[i], part = all > 0 ? first[i] / all : before;

                error += (part - after) * (part - after) - (part - before) * (part - before);
                if (error < least) {
                        least = error;
                        *ret_step = i;
                }
        }
        for (size_t i = *ret_step; i < n; i++) {
                a += first[i];
                b += second[i];
        }
        return a + b > 0 ? a / (a + b) : NAN;
}
