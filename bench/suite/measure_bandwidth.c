/* SPDX-License-Identifier: Apache-2.0 */
/* The device's memory, its cache, and the way to the host. */
#include <math.h>

#include "base/cleanup.h"
#include "figures.h"
#include "measure.h"

#define SET_PART 3 /* a working set is so large a part of the L2 cache */

static const struct bench_terms halves[] = {{.compute = 50}, {.compute = 50}};

int measure_bandwidth_isolation(struct cell *cell, double *ret)
{
        struct bench_load loads[] = {{.kind = "stream"}, {0}};
        double alone[BENCH_WORKERS], beside[BENCH_WORKERS];
        int r = cell_workers(cell, halves, 2);

        if (r == 0)
                r = cell_shares(cell, loads, alone);
        loads[1].kind = "stream";
        if (r == 0)
                r = cell_shares(cell, loads, beside);
        if (r < 0)
                return r;
        *ret = 200 * beside[0] / alone[0];
        cell_note(cell, "alone_gb_per_s", alone[0] / 1e9);
        cell_note(cell, "beside_gb_per_s", beside[0] / 1e9);
        return 0;
}

int measure_bandwidth_fairness(struct cell *cell, double *ret)
{
        static const struct bench_terms terms[] = {
                {.compute = 25}, {.compute = 25}, {.compute = 25}, {.compute = 25}};
        static const struct bench_load loads[] = {
                {.kind = "stream"}, {.kind = "stream"}, {.kind = "stream"}, {.kind = "stream"}};
        double rates[BENCH_WORKERS];
        int r = cell_workers(cell, terms, 4);

        if (r == 0)
                r = cell_shares(cell, loads, rates);
        if (r == 0)
                *ret = figures_fairness(rates, 4);
        return r;
}

int measure_saturation(struct cell *cell, double *ret)
{
        static const struct bench_terms terms[4];
        static const unsigned counts[] = {1, 2, 4};
        double sums[ARRAY_SIZE(counts)] = {0}, most = 0;
        int r = cell_workers(cell, terms, 4);

        for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
                struct bench_load loads[4] = {{0}};
                double rates[BENCH_WORKERS];
                char name[32];

                for (unsigned k = 0; k < counts[i]; k++)
                        loads[k].kind = "stream";
                if (r == 0)
                        r = cell_rates(cell, loads, rates);
                if (r < 0)
                        return r;
                for (unsigned k = 0; k < counts[i]; k++)
                        sums[i] += rates[k];
                most = fmax(most, sums[i]);
                snprintf(name, sizeof(name), "of_%u_gb_per_s", counts[i]);
                cell_note(cell, name, sums[i] / 1e9);
        }
        for (size_t i = ARRAY_SIZE(counts); i-- > 0;)
                if (sums[i] >= 0.95 * most)
                        *ret = counts[i];
        return 0;
}

/* How much less the first does beside the second than beside one that only computes, so that what
 * sharing the time takes is not counted. */
static int interference(
        struct cell *cell, struct bench_load victim, struct bench_load noise, double *ret)
{
        struct bench_load loads[] = {victim, {.kind = "queue", .us = 1000}};
        double quiet[BENCH_WORKERS], loud[BENCH_WORKERS];
        int r = cell_workers(cell, halves, 2);

        if (r == 0)
                r = cell_rates(cell, loads, quiet);
        loads[1] = noise;
        if (r == 0)
                r = cell_rates(cell, loads, loud);
        if (r < 0)
                return r;
        cell_note(cell, "beside_computing_gb_per_s", quiet[0] / 1e9);
        cell_note(cell, "beside_the_same_gb_per_s", loud[0] / 1e9);
        *ret = 100 * (1 - loud[0] / quiet[0]);
        return 0;
}

int measure_bandwidth_interference(struct cell *cell, double *ret)
{
        struct bench_load stream = {.kind = "stream"};

        return interference(cell, stream, stream, ret);
}

static size_t working_set(const struct cell *cell)
{
        double l2 = json_number_value(json_object_get(cell->bench->about, "l2_bytes"));

        return (size_t)(l2 / SET_PART) & ~(size_t)0xfffff;
}

int measure_collision(struct cell *cell, double *ret)
{
        struct bench_load read = {.kind = "read", .bytes = working_set(cell)};

        if (json_number_value(json_object_get(cell->bench->about, "simulated")) != 0)
                return cell_gap(cell, "the simulated GPU has no caches");
        return interference(cell, read, read, ret);
}

/* Cycles up to which a load is taken for one from the L2 cache, once for the whole run. */
static int hit_limit(struct cell *cell, double *ret)
{
        struct cell native = {.bench = cell->bench,
                .metric = cell->metric,
                .arm = BENCH_NATIVE,
                .result = cell->result};
        json_t *answer = NULL;
        char command[64];
        int r = 0;

        snprintf(command, sizeof(command), "caches %zu", working_set(cell));
        if (cell->bench->hit_limit == 0) {
                r = cell_ask(&native, &answer, command);
                if (r == 0)
                        cell->bench->hit_limit = (answer_number(answer, "hit_cycles") +
                                                         answer_number(answer, "miss_cycles")) /
                                                 2;
                json_decref(answer);
        }
        *ret = cell->bench->hit_limit;
        return r;
}

/* The first worker goes through a working set that fits; the others carry their loads. */
static int watch_hits(struct cell *cell, struct bench_load noise, double *hits, double *cycles)
{
        struct bench_load loads[] = {{0}, noise};
        json_t *replies[BENCH_WORKERS], *answer = NULL;
        uint64_t start;
        double limit;
        int r = hit_limit(cell, &limit), s;

        if (r == 0)
                r = cell_workers(cell, halves, 2);
        if (r < 0)
                return r;
        cell_carry_begin(cell, loads, 1, 0, &start);
        cell_send(cell, 0, "hits bytes=%zu limit=%.0f start=%llu window=%u", working_set(cell),
                limit, (unsigned long long)start, cell->bench->pace.window_ms);
        r = cell_receive(cell, 0, &answer);
        s = cell_carry_end(cell, loads, replies);
        if (r == 0) {
                *hits = answer_number(answer, "hit_percent");
                *cycles = answer_number(answer, "cycles");
        }
        json_decref(answer);
        if (s == 0)
                json_decref(replies[1]);
        return r ? r : s;
}

int measure_hits(struct cell *cell, double *ret)
{
        double cycles = NAN;
        int r = watch_hits(cell, (struct bench_load){.kind = "stream"}, ret, &cycles);

        if (r == 0)
                cell_note(cell, "cycles", cycles);
        return r;
}

int measure_evictions(struct cell *cell, double *ret)
{
        double alone, beside, cycles;
        int r = watch_hits(cell, (struct bench_load){.kind = "queue", .us = 1000}, &alone, &cycles);

        if (r == 0)
                r = watch_hits(cell, (struct bench_load){.kind = "stream"}, &beside, &cycles);
        if (r < 0)
                return r;
        cell_note(cell, "hits_beside_computing_percent", alone);
        cell_note(cell, "hits_beside_streaming_percent", beside);
        *ret = alone - beside;
        return 0;
}

int measure_cache_latency(struct cell *cell, double *ret)
{
        struct bench_load read = {.kind = "read", .bytes = working_set(cell)};
        double hits, quiet, loud;
        int r = watch_hits(cell, (struct bench_load){.kind = "queue", .us = 1000}, &hits, &quiet);

        if (r == 0)
                r = watch_hits(cell, read, &hits, &loud);
        if (r < 0)
                return r;
        cell_note(cell, "cycles_beside_computing", quiet);
        cell_note(cell, "cycles_beside_reading", loud);
        *ret = 100 * (loud / quiet - 1);
        return 0;
}

int measure_copy_contention(struct cell *cell, double *ret)
{
        size_t bytes = MIN_OF(cell->bench->pace.array_bytes, (size_t)32 << 20);
        struct bench_load loads[] = {{.kind = "copy", .bytes = bytes}, {0}};
        double alone[BENCH_WORKERS], both[BENCH_WORKERS];
        int r = cell_workers(cell, halves, 2);

        if (r == 0)
                r = cell_rates(cell, loads, alone);
        loads[1] = loads[0];
        if (r == 0)
                r = cell_rates(cell, loads, both);
        if (r < 0)
                return r;
        cell_note(cell, "alone_gb_per_s", alone[0] / 1e9);
        cell_note(cell, "first_gb_per_s", both[0] / 1e9);
        cell_note(cell, "second_gb_per_s", both[1] / 1e9);
        *ret = 100 * (1 - (both[0] + both[1]) / alone[0]);
        return 0;
}

int measure_pinned(struct cell *cell, double *ret)
{
        json_t *pinned = NULL, *pageable = NULL;
        int r = cell_ask(cell, &pinned, "copy h2d pinned {copy} {ms}");

        if (r == 0)
                r = cell_ask(cell, &pageable, "copy h2d pageable {copy} {ms}");
        if (r == 0) {
                *ret = answer_number(pinned, "gb_per_s") / answer_number(pageable, "gb_per_s");
                cell_note(cell, "pinned_gb_per_s", answer_number(pinned, "gb_per_s"));
                cell_note(cell, "pageable_gb_per_s", answer_number(pageable, "gb_per_s"));
        }
        json_decref(pinned);
        json_decref(pageable);
        return r;
}
