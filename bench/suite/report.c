/* SPDX-License-Identifier: Apache-2.0 */
/* A run as one JSON object; docs/bench.md says what its members are. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "figures.h"

static const char *better_word(enum bench_better better)
{
        return better == BENCH_LOWER ? "lower" : better == BENCH_HIGHER ? "higher" : "told";
}

static json_t *number(double value)
{
        return isfinite(value) ? json_real(value) : json_null();
}

/* Parts of a whole are compared by their difference, everything else by its ratio. */
static bool by_difference(const struct bench_metric *metric)
{
        return metric->unit[0] == '%' || metric->unit[0] == 0 ||
               strcmp(metric->unit, "points") == 0 || strcmp(metric->unit, "0-1") == 0;
}

static json_t *describe(const struct bench_metric *metric)
{
        return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "id", metric->id, "name",
                metric->name, "category", metric->category, "unit", metric->unit, "better",
                better_word(metric->better), "compare",
                by_difference(metric) ? "difference" : "ratio", "measures", metric->measures,
                "procedure", metric->procedure, "source", metric->source);
}

json_t *bench_json_metrics(void)
{
        json_t *list = json_array();

        for (size_t i = 0; i < bench_n_metrics; i++)
                json_array_append_new(list, describe(&bench_metrics[i]));
        return list;
}

static json_t *result_json(const struct bench_result *result)
{
        json_t *samples = json_array(), *object;
        double difference[BENCH_TURNS], ratio[BENCH_TURNS];
        size_t n = result->n, pairs = 0, ratios = 0;

        for (size_t i = 0; i < n; i++) {
                double value = result->value[i], native = result->native[i];

                json_array_append_new(samples, number(value));
                if (!isfinite(native))
                        continue;
                difference[pairs++] = value - native;
                if (native != 0)
                        ratio[ratios++] = value / native;
        }
        object = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s?, s:s?}", "median",
                number(figures_median(result->value, n)), "low",
                number(figures_quantile(result->value, n, 0.25)), "high",
                number(figures_quantile(result->value, n, 0.75)), "difference",
                number(figures_median(difference, pairs)), "ratio",
                number(figures_median(ratio, ratios)), "ratio_low",
                number(figures_quantile(ratio, ratios, 0.25)), "ratio_high",
                number(figures_quantile(ratio, ratios, 0.75)), "samples", samples, "gap",
                result->gap, "error", result->error);
        json_object_set(object, "detail", result->detail ?: json_null());
        return object;
}

static json_t *device_json(const struct bench *bench)
{
        static const struct {
                const char *name, *from;
        } members[] = {{"name", "device"}, {"uuid", "uuid"}, {"count", "devices"},
                {"driver", "driver"}, {"sms", "sms"}, {"memory", "memory"},
                {"l2_bytes", "l2_bytes"}};
        json_t *object = json_object();

        for (size_t i = 0; i < sizeof(members) / sizeof(*members); i++)
                json_object_set(
                        object, members[i].name, json_object_get(bench->about, members[i].from));
        return object;
}

json_t *bench_json(const struct bench *bench)
{
        json_t *metrics = json_array(), *arms = json_array(), *report;
        char date[32];
        struct tm tm;

        gmtime_r(&bench->date, &tm);
        strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm);
        for (int arm = 0; arm < BENCH_ARMS; arm++)
                if (bench->options.arm[arm])
                        json_array_append_new(
                                arms, json_string(bench_arm_name(bench, (enum bench_arm)arm)));
        for (size_t i = 0; i < bench_n_metrics; i++) {
                json_t *metric, *results;

                if (!bench->chosen[i])
                        continue;
                metric = describe(&bench_metrics[i]);
                json_object_set_new(metric, "seconds", number(bench->took[i]));
                results = json_object();
                for (int arm = 0; arm < BENCH_ARMS; arm++)
                        if (bench->options.arm[arm])
                                json_object_set_new(results,
                                        bench_arm_name(bench, (enum bench_arm)arm),
                                        result_json(bench_result(bench, i, (enum bench_arm)arm)));
                json_object_set_new(metric, "results", results);
                json_array_append_new(metrics, metric);
        }
        report = json_pack("{s:s, s:s, s:f, s:b, s:b, s:b, s:o, s:o, s:o}", "version",
                CLEAVE_VERSION, "date", date, "seconds", bench->seconds, "complete",
                bench->complete, "quick", bench->options.quick, "simulated",
                json_number_value(json_object_get(bench->about, "simulated")) != 0, "device",
                device_json(bench), "arms", arms, "metrics", metrics);
        return report;
}
