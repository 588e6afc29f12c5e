/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/clock.h"
#include "measure.h"

int measure_context(struct cell *cell, double *ret)
{
        struct bench_terms terms = {0};
        int r;

        if (cell->n_workers)
                cell_kill(cell, 0);
        r = cell_workers(cell, &terms, 1);
        if (r < 0)
                return r;
        *ret = answer_number(cell->worker[0]->about, "context_ms");
        cell_note(cell, "init_ms", answer_number(cell->worker[0]->about, "init_ms"));
        cell_note(cell, "process_ms", cell->worker[0]->born_ms);
        return 0;
}

int measure_limiter(struct cell *cell, double *ret)
{
        struct bench_terms terms = {.compute = 50};
        json_t *answer;
        int r = cell_workers(cell, &terms, 1);

        if (r == 0)
                r = cell_tell(cell, 0, &answer, "launch %u", cell_repetitions(cell, 20000));
        if (r < 0)
                return r;
        *ret = answer_number(answer, "launch_p50_us") * 1000;
        cell_note(cell, "launch_p99_ns", answer_number(answer, "launch_p99_us") * 1000);
        json_decref(answer);
        return 0;
}

int measure_polling(struct cell *cell, double *ret)
{
        static const struct bench_terms terms[] = {{.compute = 50}, {.compute = 50}};
        static const struct bench_load loads[] = {{.kind = "queue", .us = 1000}, {0}};
        unsigned ms = cell->bench->pace.window_ms;
        json_t *replies[BENCH_WORKERS], *answer = NULL;
        uint64_t begin;
        double daemon;
        int r = cell_workers(cell, terms, 2), s;

        if (r < 0)
                return r;
        cell_carry_begin(cell, loads, 1, 0, NULL);
        begin = clock_usec(CLOCK_MONOTONIC);
        daemon = cell_daemon_cpu(cell);
        cell_send(cell, 1, "idle %u", ms);
        r = cell_receive(cell, 1, &answer);
        daemon = 100 * (cell_daemon_cpu(cell) - daemon) /
                 ((double)(clock_usec(CLOCK_MONOTONIC) - begin) / 1e6);
        s = cell_carry_end(cell, loads, replies);
        if (r == 0 && s == 0) {
                *ret = answer_number(answer, "cpu_percent") + daemon;
                cell_note(cell, "idle_process_percent", answer_number(answer, "cpu_percent"));
                cell_note(cell, "daemon_percent", daemon);
                json_decref(replies[0]);
        }
        json_decref(answer);
        return r ? r : s;
}
