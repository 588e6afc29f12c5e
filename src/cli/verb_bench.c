/* SPDX-License-Identifier: Apache-2.0 */
/* cleave bench: what sharing a GPU costs and keeps apart, against native. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "proto/environment.h"
#include "suite/bench.h"

#define LIST_SCHEMA "cleave.bench-metrics/1"
#define FIGURE_MAX  64

enum {
        OPT_LIST,
        OPT_ONLY,
        OPT_MODE,
        OPT_QUICK,
        OPT_SIM,
        OPT_PEER_PRELOAD,
        OPT_PEER_PATH,
        OPT_PEER_ENV,
        OPT_PEER_NAME,
        OPT_FROM,
        OPT_JSON,
        OPT_HTML,
        OPT_OUTPUT,
        OPT_QUIET,
};

static const struct cli_option options[] = {
        [OPT_LIST] = {.name = "list", .letter = 'l', .help = "Show the metrics, measure nothing."},
        [OPT_ONLY] = {.name = "only",
                .argument = "METRICS",
                .help = "Ids as OH-001, their first parts as OH, or categories as isolation, "
                        "separated by commas.",
                .preset = "all"},
        [OPT_MODE] = {.name = "mode",
                .argument = "MODES",
                .help = "Who is measured beside native: temporal (cleave run), spatial (cleave run "
                        "--sharing spatial), peer, or native alone; several separated by commas.",
                .preset = "all that there are"},
        [OPT_QUICK] = {.name = "quick",
                .help = "Few repetitions and short windows: whether all works, not figures to "
                        "quote."},
        [OPT_SIM] = {.name = "sim",
                .argument = "MODEL",
                .optional = true,
                .choices = "h100 h200 a100 a30 b200 t4",
                .help = "Use a simulated GPU: shows that the procedures run.",
                .preset = DAEMON_SIM_MODEL},
        [OPT_PEER_PRELOAD] = {.name = "peer-preload",
                .argument = "FILE",
                .help = "Measure another system, too, by the library that it preloads."},
        [OPT_PEER_PATH] = {.name = "peer-path",
                .argument = "DIRECTORY",
                .help = "The same, by the directory of its libcuda.so.1."},
        [OPT_PEER_ENV] = {.name = "peer-env",
                .argument = "NAME=VALUE",
                .repeatable = true,
                .help = "A variable of the other system. {memory}, {memory-mib}, {compute} and "
                        "{tenant} become its quota in bytes or MiB, its share in percent, and a "
                        "number of its own."},
        [OPT_PEER_NAME] = {.name = "peer-name",
                .argument = "NAME",
                .help = "What to call the other system.",
                .preset = "peer"},
        [OPT_FROM] = {.name = "from",
                .argument = "FILE",
                .repeatable = true,
                .help = "Measure nothing: put together what earlier runs wrote by --json on "
                        "machines that are alike. Of what several measured the last counts."},
        [OPT_JSON] = {.name = "json",
                .argument = "FILE",
                .help = "Write everything there, the single turns, too."},
        [OPT_HTML] = {.name = "html",
                .argument = "FILE",
                .help = "Write a page with plots there, which needs nothing besides itself."},
        [OPT_OUTPUT] = OUTPUT_OPTION_NO_CSV,
        [OPT_QUIET] = {.name = "quiet", .letter = 'q', .help = "Do not say how far it is."},
};

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
        stopped = 1;
}

static int list(const struct cli_args *args)
{
        static const struct output_column columns[] = {
                {.title = "ID"}, {.title = "CATEGORY"}, {.title = "UNIT"}, {.title = "METRIC"}};
        struct output_table *table;

        if (output_format(args->value[OPT_OUTPUT]) == OUTPUT_JSON) {
                json_t *object = json_pack("{s:o}", "metrics", bench_json_metrics());

                output_json(object, LIST_SCHEMA);
                json_decref(object);
                return output_end(CLI_OK);
        }
        table = output_table_new(columns, ARRAY_SIZE(columns));
        for (size_t i = 0; table && i < bench_n_metrics; i++) {
                const struct bench_metric *metric = &bench_metrics[i];

                output_row(table);
                output_cell(table, TONE_STRONG, metric->id, NULL);
                output_cell(table, TONE_PLAIN, metric->category, NULL);
                output_cell(table, TONE_PLAIN, metric->unit, NULL);
                output_cell(table, TONE_PLAIN, metric->name, NULL);
        }
        if (table)
                output_table_print(table, OUTPUT_TABLE);
        output_table_free(table);
        return output_end(CLI_OK);
}

/* Which arms; 0 or the exit status of a usage error. */
static int read_modes(const struct cli_args *args, struct bench_options *wanted)
{
        static const char *const names[BENCH_ARMS] = {[BENCH_NATIVE] = "native",
                [BENCH_TEMPORAL] = "temporal",
                [BENCH_SPATIAL] = "spatial",
                [BENCH_PEER] = "peer"};
        const char *given = args->value[OPT_MODE];
        bool peer = wanted->peer.preload || wanted->peer.path;
        char text[128], *state = NULL;

        for (size_t i = 0; i < verb_run.n_options; i++)
                if (strcmp(verb_run.options[i].name, "sharing") == 0)
                        wanted->spatial_known = true;
        wanted->arm[BENCH_NATIVE] = wanted->arm[BENCH_CONTROL] = true;
        if (!given) {
                wanted->arm[BENCH_TEMPORAL] = true;
                wanted->arm[BENCH_SPATIAL] = wanted->spatial_known;
                wanted->arm[BENCH_PEER] = peer;
                return 0;
        }
        snprintf(text, sizeof(text), "%s", given);
        for (char *word = strtok_r(text, ",", &state); word; word = strtok_r(NULL, ",", &state)) {
                int arm = 0;

                while (arm < BENCH_ARMS && (!names[arm] || strcmp(names[arm], word) != 0))
                        arm++;
                if (arm == BENCH_ARMS)
                        return cli_usage(args->verb,
                                "there is no mode '%s'; there are native, temporal, spatial, peer",
                                word);
                wanted->arm[arm] = true;
        }
        if (wanted->arm[BENCH_PEER] && !peer)
                return cli_usage(args->verb, "a peer is given by --peer-preload or --peer-path");
        return 0;
}

static int read_peer(const struct cli_args *args, struct bench_peer *peer)
{
        static const char *const taken[] = {"native", "control", "temporal", "spatial"};

        peer->preload = args->value[OPT_PEER_PRELOAD];
        peer->path = args->value[OPT_PEER_PATH];
        peer->name = args->value[OPT_PEER_NAME];
        for (size_t i = 0; peer->name && i < ARRAY_SIZE(taken); i++)
                if (strcmp(peer->name, taken[i]) == 0)
                        return cli_usage(args->verb, "'%s' is the name of a mode", peer->name);
        if (peer->preload && peer->path)
                return cli_usage(args->verb, "--peer-preload and --peer-path exclude each other");
        peer->environment = calloc((size_t)args->n_given + 1, sizeof(*peer->environment));
        for (int i = 0; peer->environment && i < args->n_given; i++)
                if (args->given[i].option == OPT_PEER_ENV) {
                        if (!strchr(args->given[i].value, '='))
                                return cli_usage(
                                        args->verb, "'%s' is not NAME=VALUE", args->given[i].value);
                        peer->environment[peer->n_environment++] = args->given[i].value;
                }
        if (peer->n_environment && !peer->preload && !peer->path)
                return cli_usage(args->verb, "--peer-env is for --peer-preload or --peer-path");
        return 0;
}

static void show_number(char buffer[static FIGURE_MAX], double value)
{
        if (!isfinite(value))
                snprintf(buffer, FIGURE_MAX, "-");
        else if (fabs(value) >= 10000)
                snprintf(buffer, FIGURE_MAX, "%.0f", value);
        else
                snprintf(buffer, FIGURE_MAX, "%.4g", value);
}

static double number_of(const json_t *result, const char *name)
{
        const json_t *value = json_object_get(result, name);

        return json_is_number(value) ? json_number_value(value) : NAN;
}

static void result_cell(
        struct output_table *table, const json_t *metric, const char *arm, bool native)
{
        const json_t *result = json_object_get(json_object_get(metric, "results"), arm);
        bool by_ratio = strcmp(output_text(json_object_get(metric, "compare"), ""), "ratio") == 0;
        double compared = number_of(result, by_ratio ? "ratio" : "difference");
        char text[FIGURE_MAX], full[2 * FIGURE_MAX];

        if (json_is_string(json_object_get(result, "error"))) {
                output_cell(table, TONE_BAD, "failed", NULL);
                return;
        }
        if (json_is_string(json_object_get(result, "gap"))) {
                output_cell(table, TONE_FAINT, "gap", NULL);
                return;
        }
        show_number(text, number_of(result, "median"));
        if (native || !isfinite(compared))
                snprintf(full, sizeof(full), "%s", text);
        else if (!by_ratio)
                snprintf(full, sizeof(full), "%s %+8.3g", text, compared);
        else if (compared < 0.5 || compared >= 2)
                snprintf(full, sizeof(full), "%s %7.3gx", text, compared);
        else
                snprintf(full, sizeof(full), "%s %+7.1f%%", text, 100 * (compared - 1));
        output_cell(table, TONE_PLAIN, full, NULL);
}

/* "native, control" or "all": whose results of the metric say that; false where an arm before this
 * one has said it. */
static bool who_says(json_t *results, const char *member, const char *from, const char *text,
        char out[static 2 * FIGURE_MAX])
{
        size_t used = 0, n = 0;
        const char *arm;
        json_t *result;

        json_object_foreach(results, arm, result)
        {
                const char *said = json_string_value(json_object_get(result, member));

                if (!said || strcmp(said, text) != 0)
                        continue;
                if (n++ == 0 && strcmp(arm, from) != 0)
                        return false;
                if (used < FIGURE_MAX)
                        used += (size_t)snprintf(
                                out + used, FIGURE_MAX, "%s%s", used ? ", " : "", arm);
        }
        if (n == json_object_size(results) && n > 1)
                snprintf(out, FIGURE_MAX, "all");
        return true;
}

/* The sentences behind "gap" and "failed", each once with the arms and the ids it is about. */
static void print_sentences(const json_t *report, const char *member)
{
        json_t *sentences = json_object(), *metric, *result, *ids;
        const char *arm, *sentence;
        size_t i;

        json_array_foreach(json_object_get(report, "metrics"), i, metric)
        {
                json_t *results = json_object_get(metric, "results");

                json_object_foreach(results, arm, result)
                {
                        const char *text = json_string_value(json_object_get(result, member));
                        char who[2 * FIGURE_MAX], key[768];

                        if (!text || !who_says(results, member, arm, text, who))
                                continue;
                        snprintf(key, sizeof(key), "%s: %s", who, text);
                        ids = json_object_get(sentences, key);
                        if (!ids) {
                                ids = json_array();
                                json_object_set_new(sentences, key, ids);
                        }
                        json_array_append(ids, json_object_get(metric, "id"));
                }
        }
        json_object_foreach(sentences, sentence, ids)
        {
                const json_t *id;

                printf("%s, %s (", strcmp(member, "gap") == 0 ? "gap" : "failed", sentence);
                json_array_foreach(ids, i, id) printf("%s%s", i ? " " : "", json_string_value(id));
                printf(")\n");
        }
        json_decref(sentences);
}

static void print_table(const json_t *report)
{
        const json_t *arms = json_object_get(report, "arms"), *metric, *arm;
        struct output_column columns[BENCH_ARMS + 3] = {
                {.title = "ID"}, {.title = "METRIC"}, {.title = "UNIT"}};
        char titles[BENCH_ARMS][32];
        size_t n = 3, i, k;
        struct output_table *table;

        json_array_foreach((json_t *)arms, k, arm)
        {
                snprintf(titles[k], sizeof(titles[k]), "%s", json_string_value(arm));
                for (char *p = titles[k]; *p; p++)
                        *p = *p >= 'a' && *p <= 'z' ? (char)(*p - 'a' + 'A') : *p;
                columns[n++] = (struct output_column){.title = titles[k], .right = true};
        }
        table = output_table_new(columns, n);
        json_array_foreach(json_object_get(report, "metrics"), i, metric)
        {
                if (!table)
                        break;
                output_row(table);
                output_cell(
                        table, TONE_STRONG, output_text(json_object_get(metric, "id"), ""), NULL);
                output_cell(
                        table, TONE_PLAIN, output_text(json_object_get(metric, "name"), ""), NULL);
                output_cell(
                        table, TONE_PLAIN, output_text(json_object_get(metric, "unit"), ""), NULL);
                json_array_foreach((json_t *)arms, k, arm)
                        result_cell(table, metric, json_string_value(arm), k == 0);
        }
        if (table)
                output_table_print(table, OUTPUT_TABLE);
        output_table_free(table);
        printf("\nMedians, and the median difference to native turn by turn: in percent, as a "
               "factor, "
               "or, for\nparts of a whole, as it is. control is a second native process: what it "
               "differs by is what\nthe method cannot tell.\n");
        print_sentences(report, "gap");
        print_sentences(report, "error");
}

static bool any_failed(const json_t *report)
{
        const json_t *metric, *result;
        const char *arm;
        size_t i;

        json_array_foreach(json_object_get(report, "metrics"), i, metric)
        {
                json_object_foreach(json_object_get(metric, "results"), arm,
                        result) if (json_is_string(json_object_get(result, "error"))) return true;
        }
        return false;
}

static int write_json(const json_t *report, const char *path)
{
        _cleanup_free_ char *text = json_dumps(report, JSON_INDENT(1));

        if (!text)
                return -ENOMEM;
        return write_file_atomic(path, text, strlen(text), 0644);
}

static int write_html(const json_t *report, const char *path)
{
        _cleanup_free_ char *text = NULL;
        size_t size = 0;
        FILE *out = open_memstream(&text, &size);
        int r;

        if (!out)
                return -ENOMEM;
        r = bench_html(report, out);
        if (fclose(out) != 0 && r == 0)
                r = -ENOMEM;
        return r < 0 ? r : write_file_atomic(path, text, size, 0644);
}

static json_t *make_report(const struct bench *bench)
{
        json_t *report = json_pack("{s:s}", "schema", BENCH_SCHEMA), *measured = bench_json(bench);

        json_object_update(report, measured);
        json_decref(measured);
        return report;
}

/* Writes the files that were asked for; 0 or negative errno with the sentence. */
static int write_files(
        const struct cli_args *args, const json_t *report, struct cleave_error *error)
{
        const struct {
                const char *path;
                int (*write)(const json_t *report, const char *path);
        } files[] = {{args->value[OPT_JSON], write_json}, {args->value[OPT_HTML], write_html}};
        int result = 0;

        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                int r = files[i].path ? files[i].write(report, files[i].path) : 0;

                if (r < 0 && result == 0)
                        result = error_set_errno(error, r, "cannot write %s", files[i].path);
        }
        return result;
}

/* After each metric, what there is so far. What cannot be written is told at the end. */
static void save(const struct bench *bench, void *context)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        const struct cli_args *args = context;
        json_t *report;

        if (!args->value[OPT_JSON] && !args->value[OPT_HTML])
                return;
        report = make_report(bench);
        (void)write_files(args, report, &error);
        json_decref(report);
}

/* Everything that was measured goes where it was asked for; the exit status. */
static int give_out(const struct cli_args *args, json_t *report)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        int status = any_failed(report) || !json_is_true(json_object_get(report, "complete"))
                             ? CLI_FAILED
                             : CLI_OK;

        if (write_files(args, report, &error) < 0)
                status = cli_report(args->verb, &error);
        if (output_format(args->value[OPT_OUTPUT]) == OUTPUT_JSON)
                output_json(report, BENCH_SCHEMA);
        else
                print_table(report);
        return output_end(status);
}

/* What earlier runs wrote, as one. */
static int put_together(const struct cli_args *args)
{
        static const int measuring[] = {OPT_ONLY, OPT_MODE, OPT_QUICK, OPT_SIM, OPT_PEER_PRELOAD,
                OPT_PEER_PATH, OPT_PEER_ENV};
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        json_t **reports = calloc((size_t)args->n_given + 1, sizeof(*reports)), *merged = NULL;
        const char **names = calloc((size_t)args->n_given + 1, sizeof(*names));
        int status = CLI_OK;
        size_t n = 0;

        for (size_t i = 0; i < ARRAY_SIZE(measuring) && status == CLI_OK; i++)
                if (args->count[measuring[i]])
                        status = cli_usage(args->verb,
                                "--from measures nothing, so --%s is not for it",
                                options[measuring[i]].name);
        for (int i = 0; reports && names && status == CLI_OK && i < args->n_given; i++) {
                json_error_t problem;

                if (args->given[i].option != OPT_FROM)
                        continue;
                names[n] = args->given[i].value;
                reports[n] = json_load_file(names[n], 0, &problem);
                if (!reports[n]) {
                        error_set(&error, CLEAVE_REASON_USAGE, "%s cannot be read: %s", names[n],
                                problem.text);
                        status = cli_report(args->verb, &error);
                } else
                        n++;
        }
        if (status == CLI_OK && n > 0)
                status = bench_merge(reports, names, n, &merged, &error) < 0
                                 ? cli_report(args->verb, &error)
                                 : give_out(args, merged);
        json_decref(merged);
        for (size_t i = 0; i < n; i++)
                json_decref(reports[i]);
        free(reports);
        free(names);
        return status;
}

static int run_bench(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
        struct bench_options wanted = {
                .quick = args->count[OPT_QUICK] > 0, .only = args->value[OPT_ONLY]};
        const char *model = getenv(CLEAVE_ENV_SIM);
        struct bench bench = {0};
        json_t *report;
        int status;

        if (args->count[OPT_LIST])
                return list(args);
        if (args->count[OPT_FROM])
                return put_together(args);
        if (args->count[OPT_SIM])
                wanted.sim = *args->value[OPT_SIM] ? args->value[OPT_SIM] : DAEMON_SIM_MODEL;
        else if (model && *model)
                wanted.sim = model;
        status = read_peer(args, &wanted.peer);
        if (status == 0)
                status = read_modes(args, &wanted);
        if (status == 0) {
                sigaction(SIGINT, &action, NULL);
                sigaction(SIGTERM, &action, NULL);
                signal(SIGPIPE, SIG_IGN);
                if (bench_init(&bench, &wanted, &stopped, &error) < 0)
                        status = error.code == CLEAVE_REASON_USAGE
                                         ? cli_usage(args->verb, "%s", error_message(&error))
                                         : cli_report(args->verb, &error);
                else {
                        bench_run(
                                &bench, args->count[OPT_QUIET] ? NULL : stderr, save, (void *)args);
                        report = make_report(&bench);
                        status = give_out(args, report);
                        json_decref(report);
                }
                bench_done(&bench);
        }
        free(wanted.peer.environment);
        return status;
}

static const struct cli_example examples[] = {
        {"cleave bench --html bench.html", "everything, with plots; some minutes"},
        {"cleave bench --quick --only overhead,IS-003", "whether it works here"},
        {"cleave bench --peer-preload ./libvgpu.so --peer-env "
         "CUDA_DEVICE_MEMORY_LIMIT={memory-mib}m",
                "another system beside ours"},
        {"cleave bench --from a.json --from b.json --html bench.html",
                "one page of two runs with --only or --mode"},
        {NULL, NULL},
};

const struct cli_verb verb_bench = {
        .name = "bench",
        .summary = "measure what sharing costs and keeps apart, against native",
        .description =
                "Measures the 56 metrics of GPU-Virt-Bench by procedures that measure what their "
                "names say: natively, under cleave run, and under another system whose library is "
                "given. All are measured by turns, beside a second native process as the control. "
                "--list shows the metrics, with -o json also what each is and how it is got.\n\n"
                "Uses a daemon of its own and changes no setting of the GPU, which nobody else "
                "should use meanwhile. What a machine cannot show is told as a gap, with the "
                "reason; a process that dies is a failure of its metric. Ctrl-C ends the run with "
                "what there is. Matrices are multiplied by the cuBLAS that the loader finds "
                "(LD_LIBRARY_PATH). JSON has the schema cleave.bench/1. Exit status 1: something "
                "failed, or the run was stopped.",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .run = run_bench,
};
