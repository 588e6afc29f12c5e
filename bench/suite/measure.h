/* SPDX-License-Identifier: Apache-2.0 */
/* The procedures that take more than one command to one process; metrics.c says what each is. */
#pragma once

#include "bench.h"

typedef int measure_t(struct cell *cell, double *ret);

/* measure_overhead.c */
measure_t measure_context, measure_limiter, measure_polling;
/* measure_isolation.c */
measure_t measure_memory_limit, measure_refusal, measure_share, measure_response,
        measure_memory_isolation, measure_compute_isolation, measure_consistency, measure_fairness,
        measure_neighbour, measure_fault_isolation;
/* measure_bandwidth.c */
measure_t measure_bandwidth_isolation, measure_bandwidth_fairness, measure_saturation,
        measure_bandwidth_interference, measure_hits, measure_evictions, measure_collision,
        measure_cache_latency, measure_copy_contention, measure_pinned;
/* measure_time.c */
measure_t measure_switch, measure_preemption, measure_detection, measure_recovery,
        measure_degradation, measure_precision;
