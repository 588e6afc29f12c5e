/* SPDX-License-Identifier: Apache-2.0 */
/* Turns, waking, errors; and what is a ratio of two answers. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "figures.h"
#include "measure.h"

static bool simulated(const struct cell *cell)
{
        return json_number_value(json_object_get(cell->bench->about, "simulated")) != 0;
}

/* Where no kernel can look at the clock: two loops of a short kernel and a wait, which take turns
 * with every kernel. What both take more than twice one alone goes to two switches. */
static int switch_by_loops(struct cell *cell, double *ret)
{
        struct bench_load loads[] = {{.kind = "sync", .us = 100}, {0}};
        double alone[BENCH_WORKERS], both[BENCH_WORKERS];
        int r = cell_rates(cell, loads, alone);

        loads[1] = loads[0];
        if (r == 0)
                r = cell_rates(cell, loads, both);
        if (r < 0)
                return r;
        /* microseconds of wall time for a loop of each */
        *ret = (100 * 1e6 / ((both[0] + both[1]) / 2) - 2 * 100 * 1e6 / alone[0]) / 2;
        *ret = fmax(0, *ret);
        return 0;
}

int measure_switch(struct cell *cell, double *ret)
{
        static const struct bench_terms terms[] = {{.compute = 50}, {.compute = 50}};
        double *spans[2] = {NULL, NULL};
        size_t n[2] = {0, 0};
        int r, result = 0;

        if (cell->arm == BENCH_SPATIAL)
                return cell_gap(cell, "each has SMs of its own, so nothing passes between them");
        r = cell_workers(cell, terms, 2);
        if (r < 0)
                return r;
        if (simulated(cell))
                return switch_by_loops(cell, ret);
        for (unsigned i = 0; i < 2; i++)
                cell_send(cell, i, "residency %u 20000", cell->bench->pace.window_ms);
        for (unsigned i = 0; i < 2; i++) {
                json_t *answer = NULL;

                r = cell_receive(cell, i, &answer);
                if (r < 0 && result == 0)
                        result = r;
                if (r == 0)
                        spans[i] = answer_list(answer, "spans_us", &n[i]);
                json_decref(answer);
        }
        if (result == 0) {
                *ret = figures_switch(spans[0], n[0] / 2, spans[1], n[1] / 2);
                cell_note(cell, "spans", (double)(n[0] + n[1]) / 2);
                if (!isfinite(*ret))
                        result = cell_fail(cell, "the two processes never followed each other");
        }
        free(spans[0]);
        free(spans[1]);
        return result;
}

int measure_preemption(struct cell *cell, double *ret)
{
        static const struct bench_terms terms[] = {{.compute = 50, .priority = "high"}, {0}};
        static const double lengths[] = {100, 5000, 20000};
        struct bench_load loads[] = {{.kind = "open", .us = 50, .gap_us = 20000}, {0}};
        double alone = NAN;
        int r = cell_workers(cell, terms, 2);

        if (simulated(cell))
                loads[0].gap_us = 4000;
        for (int i = -1; i < 3 && r == 0; i++) {
                json_t *replies[BENCH_WORKERS];
                double p50;
                char name[40];

                if (i >= 0)
                        loads[1] = (struct bench_load){.kind = "queue", .us = lengths[i]};
                r = cell_carry(cell, loads, 1, 0, replies);
                if (r < 0)
                        return r;
                p50 = answer_number(replies[0], "latency_p50_us");
                json_decref(replies[0]);
                if (i < 0) {
                        alone = p50;
                        continue;
                }
                json_decref(replies[1]);
                snprintf(name, sizeof(name), "beside_%.0f_us_kernels_ms", lengths[i]);
                cell_note(cell, name, (p50 - alone) / 1e3);
                if (i == 1)
                        *ret = (p50 - alone) / 1e3;
        }
        cell_note(cell, "alone_ms", alone / 1e3);
        return r;
}

int measure_detection(struct cell *cell, double *ret)
{
        static const struct bench_terms terms;
        json_t *answer = NULL;
        int r = cell_workers(cell, &terms, 1);

        if (r == 0)
                r = cell_tell(cell, 0, &answer, "fault illegal");
        if (r < 0)
                return r;
        *ret = answer_number(answer, "detected_us");
        json_decref(answer);
        cell_kill(cell, 0);
        return 0;
}

int measure_recovery(struct cell *cell, double *ret)
{
        /* so small a share that the next one has room beside the first, which may still be going */
        static const struct bench_terms terms = {.compute = 25};
        json_t *answer = NULL;
        uint64_t begin;
        int r = cell_workers(cell, &terms, 1);

        if (r == 0)
                r = cell_tell(cell, 0, &answer, "fault illegal");
        if (r < 0)
                return r;
        json_decref(answer);
        begin = clock_usec(CLOCK_MONOTONIC);
        bench_worker_end(cell->worker[0], false);
        cell->worker[0] = NULL;
        r = cell_workers(cell, &terms, 1);
        if (r == 0)
                r = cell_tell(cell, 0, NULL, "check");
        *ret = (double)(clock_usec(CLOCK_MONOTONIC) - begin) / 1e3;
        return r;
}

int measure_degradation(struct cell *cell, double *ret)
{
        static const struct bench_terms terms;
        json_t *answer = NULL;
        int r = cell_workers(cell, &terms, 1);

        if (r == 0)
                r = cell_tell(cell, 0, &answer, "exhaust");
        if (r < 0)
                return r;
        *ret = 100 * (answer_number(answer, "told") + answer_number(answer, "usable_again")) /
               (2 * answer_number(answer, "ways"));
        cell_note(cell, "ways", answer_number(answer, "ways"));
        cell_note(cell, "told", answer_number(answer, "told"));
        cell_note(cell, "usable_again", answer_number(answer, "usable_again"));
        json_decref(answer);
        return 0;
}

int measure_precision(struct cell *cell, double *ret)
{
        json_t *answer = NULL;
        int r = cell_ask(cell, &answer, "precision 8192 {ms}");

        if (r < 0)
                return r;
        *ret = answer_number(answer, "bf16_tflops") / answer_number(answer, "f32_tflops");
        cell_note(cell, "bf16_tflops", answer_number(answer, "bf16_tflops"));
        cell_note(cell, "f32_tflops", answer_number(answer, "f32_tflops"));
        cell_note(cell, "blas_version", answer_number(answer, "blas_version"));
        json_decref(answer);
        return 0;
}
