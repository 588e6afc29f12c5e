/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "figures.h"
#include "measure.h"

#define NO_LIMITS "the driver alone sets no limit"

static bool simulated(const struct cell *cell)
{
        return json_number_value(json_object_get(cell->bench->about, "simulated")) != 0;
}

static double used(struct cell *of, int *ret)
{
        /* what is taken of the whole device, which only a native process is told */
        struct cell native = {.bench = of->bench,
                .metric = of->metric,
                .arm = BENCH_NATIVE,
                .result = of->result};
        json_t *answer = NULL;
        double bytes = NAN;

        *ret = cell_ask(&native, &answer, "used");
        if (*ret == 0)
                bytes = answer_number(answer, "used");
        json_decref(answer);
        return bytes;
}

int measure_memory_limit(struct cell *cell, double *ret)
{
        /* the first one only lives: what comes with any tenant, as an MPS server, is there before
         */
        static const struct bench_terms terms[] = {{.compute = 25}, {.compute = 25}};
        double before, after;
        json_t *answer = NULL;
        int r;

        if (cell_native(cell))
                return cell_gap(cell, NO_LIMITS);
        r = cell_workers(cell, terms, 1);
        if (r < 0)
                return r;
        before = used(cell, &r);
        if (r == 0)
                r = cell_workers(cell, terms, 2);
        if (r == 0)
                r = cell_tell(cell, 1, &answer, "fill");
        if (r < 0)
                return r;
        after = used(cell, &r);
        cell_note(cell, "allocated_bytes", answer_number(answer, "bytes"));
        cell_note(cell, "taken_bytes", after - before);
        cell_note(cell, "quota_bytes", (double)cell->terms[1].memory);
        json_decref(answer);
        *ret = 100 - 100 * fabs(after - before - (double)cell->terms[1].memory) /
                             (double)cell->terms[1].memory;
        /* what a process leaves behind may still show when the next one wants it */
        if (r == 0)
                r = cell_tell(cell, 1, NULL, "release");
        cell_end(cell);
        return r;
}

int measure_refusal(struct cell *cell, double *ret)
{
        double total = json_number_value(json_object_get(cell->bench->about, "memory"));
        struct bench_terms terms = {0};
        json_t *answer = NULL;
        int r = cell_workers(cell, &terms, 1);

        /* natively more than there is; else more than the quota, though the device would have it */
        if (r == 0)
                r = cell_tell(cell, 0, &answer, "refuse %.0f %u",
                        cell_native(cell) ? total * 2 : (double)cell->terms[0].memory * 2,
                        (unsigned)(1000 * cell->bench->pace.scale) + 5);
        if (r == 0) {
                *ret = answer_number(answer, "refusal_p50_us");
                cell_note(cell, "p99_us", answer_number(answer, "refusal_p99_us"));
        }
        json_decref(answer);
        return r;
}

int measure_share(struct cell *cell, double *ret)
{
        static const unsigned shares[][2] = {{50, 50}, {30, 70}, {10, 90}};
        static const struct bench_load loads[] = {
                {.kind = "queue", .us = 100}, {.kind = "queue", .us = 5000}};
        double worst = 0;

        if (cell_native(cell))
                return cell_gap(cell, "the driver alone takes no shares");
        for (size_t i = 0; i < ARRAY_SIZE(shares); i++) {
                struct bench_terms terms[] = {{.compute = shares[i][0]}, {.compute = shares[i][1]}};
                double want[] = {shares[i][0] / 100.0, shares[i][1] / 100.0}, rates[BENCH_WORKERS];
                char name[32];
                int r = cell_workers(cell, terms, 2);

                if (r == 0)
                        r = cell_shares(cell, loads, rates);
                if (r < 0)
                        return r;
                worst = fmax(worst, figures_worst_error(rates, want, 2));
                snprintf(name, sizeof(name), "got_of_%u_percent", shares[i][0]);
                cell_note(cell, name, 100 * rates[0] / (rates[0] + rates[1]));
        }
        *ret = 100 * (1 - worst);
        return 0;
}

int measure_response(struct cell *cell, double *ret)
{
        static const struct bench_terms before[] = {{.compute = 75}, {.compute = 25}};
        static const struct bench_load loads[] = {
                {.kind = "queue", .us = 100}, {.kind = "queue", .us = 100}};
        json_t *replies[BENCH_WORKERS];
        double times = (double)cell->bench->pace.series_ms / cell->bench->pace.window_ms, *first,
               *second, changed, settled;
        size_t n_first, n_second, step;
        struct timespec t;
        uint64_t start;
        int r, s;

        if (cell_native(cell))
                return cell_gap(cell, "the driver alone takes no shares");
        if (cell->arm == BENCH_PEER)
                return cell_gap(cell, "a change is made by cleave set, which a peer does not have");
        if (cell->arm == BENCH_SPATIAL)
                return cell_gap(cell, "a change of SMs applies to new contexts");
        r = cell_workers(cell, before, 2);
        if (r < 0)
                return r;
        cell_carry_begin(cell, loads, times, 10, &start);
        /* a fifth of the window as it was */
        start += (uint64_t)(times * cell->bench->pace.window_ms * 1e6 / 5);
        t = (struct timespec){(time_t)(start / 1000000000u), (long)(start % 1000000000u)};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR &&
                !*cell->bench->stop)
                ;
        s = cell_set(cell, 0, "--compute", "25");
        r = cell_carry_end(cell, loads, replies);
        cell_end(cell); /* they have been changed */
        if (r < 0 || s < 0) {
                if (r == 0)
                        for (int i = 0; i < 2; i++)
                                json_decref(replies[i]);
                return r ? r : s;
        }
        first = answer_list(replies[0], "bins", &n_first);
        second = answer_list(replies[1], "bins", &n_second);
        changed = times * cell->bench->pace.window_ms / 5 / 10;
        settled = figures_step(
                first, second, MIN_OF(n_first, n_second), (size_t)changed, 0.75, 0.5, &step);
        free(first);
        free(second);
        json_decref(replies[0]);
        json_decref(replies[1]);
        cell_note(cell, "part_afterwards", settled);
        *ret = ((double)step - changed) * 10;
        if (!(fabs(settled - 0.5) < 0.1))
                return cell_fail(cell,
                        "work did not come to be as the new shares: from %.0f ms on the first had "
                        "%.2f of it instead of half",
                        *ret, settled);
        return 0;
}

int measure_memory_isolation(struct cell *cell, double *ret)
{
        static const struct bench_terms terms[3];
        size_t bytes = cell->bench->pace.array_bytes;
        bool reached = true;
        json_t *answer = NULL;
        double words;
        int r = cell_workers(cell, terms, 2);

        if (r == 0)
                r = cell_tell(cell, 0, &answer, "secret %zu", bytes);
        if (r == 0) {
                json_t *found = NULL;

                r = cell_tell(cell, 1, &found, "reach %s",
                        json_string_value(json_object_get(answer, "pointer")));
                reached = answer_number(found, "reached") != 0;
                json_decref(found);
        }
        json_decref(answer);
        answer = NULL;
        if (r < 0)
                return r;
        /* its memory is given to whoever asks next */
        cell_kill(cell, 0);
        cell_kill(cell, 1);
        r = cell_workers(cell, terms, 2);
        if (r == 0)
                r = cell_tell(cell, 1, &answer, "search %zu", bytes * 2);
        if (r < 0)
                return r;
        words = answer_number(answer, "words");
        json_decref(answer);
        cell_note(cell, "pointer_reached", reached);
        cell_note(cell, "stale_words", words);
        *ret = !reached && words == 0;
        return 0;
}

/* What a neighbour does to disturb. Those after the fourth say nothing on a simulated GPU. */
static const struct bench_load noises[] = {
        {.kind = "queue", .us = 100},
        {.kind = "queue", .us = 5000},
        {.kind = "sync", .us = 100},
        {.kind = "churn", .bytes = 64u << 20},
        {.kind = "queue", .us = 20000},
        {.kind = "stream"},
        {.kind = "read", .bytes = 16u << 20},
        {.kind = "copy", .bytes = 32u << 20},
};

int measure_compute_isolation(struct cell *cell, double *ret)
{
        static const struct bench_terms terms[] = {{.compute = 50}, {.compute = 50}};
        size_t n = simulated(cell) ? 4 : ARRAY_SIZE(noises);
        struct bench_load loads[2] = {{.kind = "queue", .us = 100}};
        double alone[BENCH_WORKERS], rates[BENCH_WORKERS], worst = INFINITY;
        int r = cell_workers(cell, terms, 2);

        if (r == 0)
                r = cell_rates(cell, loads, alone);
        for (size_t i = 0; r == 0 && i < n; i++) {
                char name[48];

                loads[1] = noises[i];
                r = cell_rates(cell, loads, rates);
                snprintf(
                        name, sizeof(name), "beside_%s_%.0f_percent", noises[i].kind, noises[i].us);
                /* under a spatial share `alone` is already on the share's own SMs */
                rates[0] *= cell->arm == BENCH_SPATIAL ? 100 : 200;
                if (r == 0) {
                        cell_note(cell, name, rates[0] / alone[0]);
                        worst = fmin(worst, rates[0] / alone[0]);
                }
        }
        *ret = worst;
        return r;
}

int measure_consistency(struct cell *cell, double *ret)
{
        static const struct bench_terms terms[] = {{.compute = 50}, {.compute = 50}};
        static const struct bench_load loads[] = {
                {.kind = "queue", .us = 100}, {.kind = "queue", .us = 5000}};
        double times = (double)cell->bench->pace.series_ms / cell->bench->pace.window_ms, *bins;
        json_t *replies[BENCH_WORKERS];
        size_t n;
        int r = cell_workers(cell, terms, 2);

        if (r == 0)
                r = cell_carry(cell, loads, times,
                        MIN_OF(100.0, times * cell->bench->pace.window_ms / 4), replies);
        if (r < 0)
                return r;
        bins = answer_list(replies[0], "bins", &n);
        *ret = figures_variation(bins, n);
        cell_note(cell, "rates", (double)n);
        free(bins);
        json_decref(replies[0]);
        json_decref(replies[1]);
        return 0;
}

int measure_fairness(struct cell *cell, double *ret)
{
        static const struct bench_terms terms[] = {
                {.compute = 25}, {.compute = 25}, {.compute = 25}, {.compute = 25}};
        static const struct bench_load loads[] = {{.kind = "queue", .us = 100},
                {.kind = "queue", .us = 5000}, {.kind = "queue", .us = 100},
                {.kind = "queue", .us = 5000}};
        double rates[BENCH_WORKERS];
        int r = cell_workers(cell, terms, 4);

        if (r == 0)
                r = cell_shares(cell, loads, rates);
        if (r < 0)
                return r;
        *ret = figures_fairness(rates, 4);
        cell_note(cell, "sum_of_device", (rates[0] + rates[1] + rates[2] + rates[3]) / 1e6);
        return 0;
}

int measure_neighbour(struct cell *cell, double *ret)
{
        static const struct bench_terms terms[] = {{.compute = 50, .priority = "high"}, {0}};
        struct bench_load loads[] = {{.kind = "open", .us = 1000, .gap_us = 3333}, {0}};
        double p50[2], p99[2];
        int r = cell_workers(cell, terms, 2);

        if (simulated(cell))
                loads[0] = (struct bench_load){.kind = "open", .us = 300, .gap_us = 2000};
        for (int beside = 0; beside < 2 && r == 0; beside++) {
                json_t *replies[BENCH_WORKERS];

                if (beside)
                        loads[1] = (struct bench_load){.kind = "queue", .us = 5000};
                r = cell_carry(cell, loads, 5, 0, replies);
                if (r < 0)
                        return r;
                p50[beside] = answer_number(replies[0], "latency_p50_us");
                p99[beside] = answer_number(replies[0], "latency_p99_us");
                if (beside) {
                        cell_note(cell, "neighbour_of_device",
                                answer_number(replies[1], "work_per_s") / 1e6);
                        json_decref(replies[1]);
                }
                json_decref(replies[0]);
        }
        if (r < 0)
                return r;
        cell_note(cell, "alone_p50_us", p50[0]);
        cell_note(cell, "alone_p99_us", p99[0]);
        cell_note(cell, "beside_p50_us", p50[1]);
        cell_note(cell, "beside_p99_us", p99[1]);
        cell_note(cell, "p50_more_percent", 100 * (p50[1] / p50[0] - 1));
        *ret = 100 * (p99[1] / p99[0] - 1);
        return 0;
}

/* Whether the first worker's work goes on while the second breaks in that way. */
static int survives(struct cell *cell, const char *command, bool *ret)
{
        static const struct bench_terms terms[2];
        static const struct bench_load loads[] = {{.kind = "queue", .us = 100}, {0}};
        json_t *replies[BENCH_WORKERS], *answer = NULL;
        char *problem = NULL;
        int r = cell_workers(cell, terms, 2), other = 0;

        if (r < 0)
                return r;
        cell_carry_begin(cell, loads, 1, 0, NULL);
        if (command) {
                bench_worker_send(cell->worker[1], command);
                other = bench_worker_receive(cell->bench, cell->worker[1], 60, &answer, &problem);
        } else
                usleep(cell_lead_ms(cell) * 1000 + cell->bench->pace.window_ms * 500);
        cell_kill(cell, 1);
        json_decref(answer);
        free(problem);
        r = cell_carry_end(cell, loads, replies);
        if (r == -EINTR || other == -EINTR)
                return -EINTR;
        *ret = r == 0 && answer_number(replies[0], "work") > 0 &&
               cell_tell(cell, 0, NULL, "check") == 0;
        if (r == 0)
                json_decref(replies[0]);
        /* it is the figure that says so, not a failure to measure */
        free(cell->result->error);
        cell->result->error = NULL;
        return 0;
}

int measure_fault_isolation(struct cell *cell, double *ret)
{
        static const struct {
                const char *name, *command;
        } faults[] = {
                {"illegal_address", "fault illegal"},
                {"trap", "fault trap"},
                {"out_of_memory", "exhaust"},
                {"killed", NULL},
        };

        *ret = 1;
        for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
                bool survived = false;
                int r;

                if (simulated(cell) && strcmp(faults[i].name, "trap") == 0)
                        continue;
                r = survives(cell, faults[i].command, &survived);
                if (r < 0)
                        return r;
                cell_note(cell, faults[i].name, survived);
                *ret = *ret && survived;
        }
        return 0;
}
