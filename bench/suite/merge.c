/* SPDX-License-Identifier: Apache-2.0 */
/* Several runs as one report: where a machine is had for short times only, or one system was
 * measured later than another. */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "bench.h"

static const char *text_of(const json_t *object, const char *name)
{
        return json_string_value(json_object_get(object, name)) ?: "";
}

/* What has to be the same for figures to stand in one table. */
static const char *difference(const json_t *a, const json_t *b)
{
        static const char *const members[] = {"version", "quick", "simulated"};
        static const char *const of_device[] = {"name", "driver", "sms", "memory", "count"};
        const json_t *first = json_object_get(a, "device"), *second = json_object_get(b, "device");

        for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                if (!json_equal(json_object_get(a, members[i]), json_object_get(b, members[i])))
                        return members[i];
        for (size_t i = 0; i < ARRAY_SIZE(of_device); i++)
                if (!json_equal(json_object_get(first, of_device[i]),
                            json_object_get(second, of_device[i])))
                        return "device";
        return NULL;
}

/* Whether it was measured, or said why not. */
static bool is_known(const json_t *result)
{
        return json_array_size(json_object_get(result, "samples")) > 0 ||
               json_is_string(json_object_get(result, "gap")) ||
               json_is_string(json_object_get(result, "error"));
}

static json_t *find_metric(const json_t *metrics, const char *id)
{
        json_t *metric;
        size_t i;

        json_array_foreach((json_t *)metrics, i,
                metric) if (strcmp(text_of(metric, "id"), id) == 0) return metric;
        return NULL;
}

/* The metric's results of all reports, by the arms' order; NULL: none of them has it. */
static json_t *merge_metric(
        json_t *const *reports, size_t n, const char *id, const json_t *arms, bool *complete)
{
        json_t *merged = NULL, *results = json_object();
        const json_t *arm;
        size_t i;

        for (size_t k = 0; k < n; k++) {
                json_t *metric = find_metric(json_object_get(reports[k], "metrics"), id);

                if (metric && !merged)
                        merged = json_copy(metric);
        }
        if (!merged) {
                json_decref(results);
                return NULL;
        }
        json_array_foreach((json_t *)arms, i, arm)
        {
                const char *name = json_string_value(arm);
                json_t *last = NULL;

                for (size_t k = 0; k < n; k++) {
                        json_t *metric = find_metric(json_object_get(reports[k], "metrics"), id);
                        json_t *result = json_object_get(json_object_get(metric, "results"), name);

                        if (result && (!last || is_known(result)))
                                last = result;
                }
                if (last)
                        json_object_set(results, name, last);
                *complete = *complete && (!last || is_known(last));
        }
        json_object_set_new(merged, "results", results);
        return merged;
}

static bool has_text(const json_t *list, const json_t *text)
{
        const json_t *other;
        size_t i;

        json_array_foreach((json_t *)list, i, other) if (json_equal(other, text)) return true;
        return false;
}

int bench_merge(json_t *const *reports, const char *const *names, size_t n, json_t **ret,
        struct cleave_error *error)
{
        json_t *merged, *arms = json_array(), *metrics = json_array(), *parts = json_array();
        bool complete = true, one_device = true;
        double seconds = 0;

        for (size_t k = 0; k < n; k++) {
                const json_t *device = json_object_get(reports[k], "device");
                const char *what = difference(reports[0], reports[k]);
                json_t *arm;
                size_t i;

                if (strcmp(text_of(reports[k], "schema"), BENCH_SCHEMA) != 0)
                        error_set(error, CLEAVE_REASON_USAGE,
                                "%s is not what cleave bench --json writes (schema " BENCH_SCHEMA
                                ")",
                                names[k]);
                else if (what)
                        error_set(error, CLEAVE_REASON_USAGE,
                                "%s and %s cannot be put together: they differ in %s", names[0],
                                names[k], what);
                else {
                        json_array_foreach(json_object_get(reports[k], "arms"), i,
                                arm) if (!has_text(arms, arm)) json_array_append(arms, arm);
                        seconds += json_number_value(json_object_get(reports[k], "seconds"));
                        json_array_append_new(
                                parts, json_pack("{s:O?, s:O?, s:s}", "date",
                                               json_object_get(reports[k], "date"), "seconds",
                                               json_object_get(reports[k], "seconds"), "uuid",
                                               text_of(device, "uuid")));
                        one_device =
                                one_device && strcmp(text_of(device, "uuid"),
                                                      text_of(json_object_get(reports[0], "device"),
                                                              "uuid")) == 0;
                        continue;
                }
                json_decref(arms);
                json_decref(metrics);
                json_decref(parts);
                return -EINVAL;
        }
        for (size_t i = 0; i < bench_n_metrics; i++) {
                json_t *metric = merge_metric(reports, n, bench_metrics[i].id, arms, &complete);

                if (metric)
                        json_array_append_new(metrics, metric);
        }
        merged = json_deep_copy(reports[0]);
        json_object_set_new(merged, "seconds", json_real(seconds));
        json_object_set_new(merged, "complete", json_boolean(complete));
        if (!one_device)
                json_object_set_new(json_object_get(merged, "device"), "uuid", json_null());
        json_object_set_new(merged, "arms", arms);
        json_object_set_new(merged, "metrics", metrics);
        json_object_set_new(merged, "parts", parts);
        *ret = merged;
        return 0;
}
