/* SPDX-License-Identifier: Apache-2.0 */
/* Pure arithmetic over figures. */
#pragma once

#include <stddef.h>

/* Of n values in any order, interpolated; part 0.5 is the median. NAN for none. Sorts a copy. */
double figures_quantile(const double *values, size_t n, double part);
static inline double figures_median(const double *values, size_t n)
{
        return figures_quantile(values, n, 0.5);
}

/* Standard deviation divided by the mean. NAN for fewer than two or a mean of 0. */
double figures_variation(const double *values, size_t n);

/* Jain's index of fairness (DEC TR-301, 1984): (sum x)^2 / (n sum x^2), 1/n to 1. NAN if all are 0.
 */
double figures_fairness(const double *values, size_t n);

/* The worst relative error of parts of a whole: max |got_i / sum(got) - want_i| / want_i, where the
 * wanted ones add up to 1. NAN if nothing was got. */
double figures_worst_error(const double *got, const double *want, size_t n);

/* Two processes' spans on one processor: n pairs of begin and end each, in order of time. The
 * median gap from the end of one's span to the begin of the other's next, where they alternate; NAN
 * if they never do. Spans that overlap count as a gap of 0: nobody is switched. */
double figures_switch(const double *a, size_t n_a, const double *b, size_t n_b);

/* Where the first's part of both, bin by bin, steps from one level to another: the bin, at `from`
 * or later, that divides them best by least squares; n: nowhere. Bins may be far shorter than the
 * turns of the two, so single ones say little. Returns the part from there to the end; NAN for
 * nothing. */
double figures_step(const double *first, const double *second, size_t n, size_t from, double before,
        double after, size_t *ret_step);
