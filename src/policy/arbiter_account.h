/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GPU time of one tenant on one device, from what can be seen of it. Pure.
 *
 * Between two measurements the account goes on by prediction: from the slices in force and the
 * record of who was enabled and had work (account_divide()). A measurement replaces what was
 * predicted since the last one; the error never adds up beyond one such interval plus the source's
 * precision. Two readings:
 *
 *   best   measured + predicted since: for decisions; may step back when a prediction was too high
 *   shown  the counter that users see (GPU-seconds): never falls. What was shown too much is owed,
 *          and held back from what comes next
 *
 * Times are nanoseconds.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where a figure comes from, worst first. */
enum account_source {
        ACCOUNT_RECORD = 0, /* our own slices and duty record */
        ACCOUNT_COUNTERS,   /* markers of the guard in the usage page */
        ACCOUNT_SWITCHES,   /* the device's own record of context switches */
};

struct account {
        enum account_source source; /* of the last measurement; RECORD: there was none */
        uint64_t base_ns;           /* what the source's counter stood at when it was first read,
                                       taken off everything it says later (modulo 2^64) */
        uint64_t counter_ns;        /* what it stood at last */
        uint64_t measured_ns;       /* up to the last measurement */
        uint64_t predicted_ns;      /* since then */
        uint64_t shown_ns;
        uint64_t precision_ns; /* of the source */
};

/* The tenant is predicted to have had ns more. */
void account_predict(struct account *account, uint64_t ns);
/* The source's growing counter stands at counter_ns, give or take precision_ns. A change of
 * source, or a counter that fell to less than half and by more than ACCOUNT_CORRECTS (the source
 * began anew), continues from the best reading; one that fell by less has corrected itself, and so
 * does the best reading. */
#define ACCOUNT_CORRECTS 1500000000ull /* what is in question reaches back 1.28 s (switches.h) */
void account_measure(struct account *account, enum account_source source, uint64_t counter_ns,
        uint64_t precision_ns);
uint64_t account_best(const struct account *account);
/* Half-width of the interval around best in which the truth lies. */
uint64_t account_error(const struct account *account);

/* One who may have had the engine. */
struct account_claim {
        uint64_t slice_us; /* in force */
        bool running;      /* enabled and, as far as is known, with work */
};

/*
 * Divides span_ns among those who ran all the while, by the way the hardware takes turns: with
 * n > 1 of them, out of each round of sum(slice) + n * switch everyone gets its slice,
 *
 *      share_i = slice_i / (sum(slice) + n * switch)
 *
 * and one alone gets everything. H100: 1000:3000 us 0.218:0.667, 1000:9000 us 0.092:0.848.
 */
void account_divide(uint64_t span_ns, uint64_t switch_us, const struct account_claim *claims,
        size_t count, uint64_t *ret_ns);
