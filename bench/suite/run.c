/* SPDX-License-Identifier: Apache-2.0 */
/* A run of the bench: its place, its arms, its turns. */
#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "bench.h"
#include "client/client.h"
#include "proto/environment.h"

static const struct bench_pace paces[2][2] = {
        /* a real GPU: in full, and quick */
        {{.turns = 5,
                 .shared_turns = 3,
                 .host_turns = 15,
                 .window_ms = 500,
                 .rounds_ms = 500,
                 .shares_ms = 1000,
                 .series_ms = 2000,
                 .lead_ms = 100,
                 .settle_ms = 1000,
                 .scale = 1,
                 .array_bytes = 512u << 20},
                {.turns = 1,
                        .shared_turns = 1,
                        .host_turns = 3,
                        .window_ms = 200,
                        .rounds_ms = 200,
                        .shares_ms = 1000,
                        .series_ms = 2000,
                        .lead_ms = 100,
                        .settle_ms = 500,
                        .scale = 0.1,
                        .array_bytes = 512u << 20}},
        /* a simulated one */
        {{.turns = 3,
                 .shared_turns = 2,
                 .host_turns = 6,
                 .window_ms = 100,
                 .rounds_ms = 250,
                 .shares_ms = 250,
                 .series_ms = 800,
                 .lead_ms = 40,
                 .settle_ms = 40,
                 .scale = 0.05,
                 .array_bytes = 8u << 20},
                {.turns = 1,
                        .shared_turns = 1,
                        .host_turns = 3,
                        .window_ms = 40,
                        .rounds_ms = 80,
                        .shares_ms = 80,
                        .series_ms = 320,
                        .lead_ms = 10,
                        .settle_ms = 10,
                        .scale = 0.01,
                        .array_bytes = 2u << 20}},
};

static int last_processor(void)
{
        int last = 0;
        cpu_set_t set;

        if (sched_getaffinity(0, sizeof(set), &set) == 0)
                for (int i = 0; i < CPU_SETSIZE; i++)
                        if (CPU_ISSET(i, &set))
                                last = i;
        return last;
}

const char *bench_arm_name(const struct bench *bench, enum bench_arm arm)
{
        static const char *const names[] = {[BENCH_NATIVE] = "native",
                [BENCH_CONTROL] = "control",
                [BENCH_TEMPORAL] = "temporal",
                [BENCH_SPATIAL] = "spatial",
                [BENCH_PEER] = "peer"};

        if (arm == BENCH_PEER && bench->options.peer.name)
                return bench->options.peer.name;
        return names[arm];
}

struct bench_result *bench_result(const struct bench *bench, size_t metric, enum bench_arm arm)
{
        return &bench->results[metric * BENCH_ARMS + arm];
}

int bench_choose(const char *only, bool *chosen, struct cleave_error *error)
{
        _cleanup_free_ char *words = strdup(only ?: "");
        char *state = NULL;

        if (!words)
                return error_set_errno(error, ENOMEM, "cannot choose metrics");
        for (size_t i = 0; i < bench_n_metrics; i++)
                chosen[i] = !only;
        for (char *word = strtok_r(words, ",", &state); word; word = strtok_r(NULL, ",", &state)) {
                size_t found = 0, length = strlen(word);

                for (size_t i = 0; i < bench_n_metrics; i++) {
                        const struct bench_metric *m = &bench_metrics[i];

                        if (strcasecmp(m->id, word) == 0 || strcasecmp(m->category, word) == 0 ||
                                (strncasecmp(m->id, word, length) == 0 && m->id[length] == '-')) {
                                chosen[i] = true;
                                found++;
                        }
                }
                if (found == 0)
                        return error_set(error, CLEAVE_REASON_USAGE,
                                "'%s' is no metric and no category; cleave bench --list shows them",
                                word);
        }
        return 0;
}

/* The first of these, relative to our own program's directory, that is there. */
static char *find_own(const char *const *places, size_t n)
{
        _cleanup_free_ char *own = NULL;
        char *slash;

        if (own_executable(&own) < 0 || !(slash = strrchr(own, '/')))
                return NULL;
        *slash = 0;
        for (size_t i = 0; i < n; i++) {
                _cleanup_free_ char *path = path_join(own, places[i]);

                if (path && access(path, R_OK) == 0)
                        return realpath(path, NULL);
        }
        return NULL;
}

static int find_programs(struct bench *bench, struct cleave_error *error)
{
        static const char *const workers[] = {"bench/worker/worker", "../lib/cleave/bench/worker"};
        static const char *const sims[] = {"src/sim", "../lib/cleave/sim"};

        bench->worker = find_own(workers, ARRAY_SIZE(workers));
        bench->sim_path = find_own(sims, ARRAY_SIZE(sims));
        if (own_executable(&bench->cleave) < 0 || !bench->worker)
                return error_set(error, CLEAVE_REASON_GUARD_MISSING,
                        "the program that measures is not installed beside cleave");
        if (bench->options.sim && !bench->sim_path)
                return error_set(error, CLEAVE_REASON_NO_DRIVER,
                        "the simulated GPU is not installed beside cleave");
        return 0;
}

/* A directory that nobody else has, with the daemons' runtime directories and, for a simulated GPU,
 * its state in it. */
static int make_place(struct bench *bench, struct cleave_error *error)
{
        bool shared = bench->options.sim && access("/dev/shm", W_OK) == 0;
        char template[] = "/dev/shm/cleave-bench-XXXXXX", plain[] = "/tmp/cleave-bench-XXXXXX";
        _cleanup_free_ char *sim = NULL;
        char *made = mkdtemp(shared ? template : plain);

        if (!made)
                return error_set_errno(error, errno, "cannot make a directory for the bench");
        bench->place = strdup(made);
        sim = path_join(made, "sim");
        if (!bench->place || !sim)
                return error_set_errno(error, ENOMEM, "cannot start the bench");
        for (int arm = BENCH_TEMPORAL; arm <= BENCH_SPATIAL; arm++) {
                bench->runtime[arm] = path_join(made, arm == BENCH_SPATIAL ? "space" : "time");
                if (!bench->runtime[arm] || make_directory(bench->runtime[arm], 0700) < 0)
                        return error_set_errno(error, errno, "cannot make directories in %s", made);
        }
        if (make_directory(sim, 0700) < 0)
                return error_set_errno(error, errno, "cannot make directories in %s", made);
        if (bench->options.sim) {
                setenv(CLEAVE_ENV_SIM, bench->options.sim, 1);
                setenv(CLEAVE_ENV_SIM_DIR, sim, 1);
        }
        return 0;
}

int bench_init(struct bench *bench, const struct bench_options *options,
        volatile sig_atomic_t *stop, struct cleave_error *error)
{
        struct bench_terms none = {0};
        char *problem = NULL;
        json_t *answer = NULL;
        bool simulated;
        int r;

        *bench = (struct bench){.options = *options, .stop = stop, .date = time(NULL)};
        bench->results = calloc(bench_n_metrics * BENCH_ARMS, sizeof(*bench->results));
        bench->chosen = calloc(bench_n_metrics, sizeof(*bench->chosen));
        bench->took = calloc(bench_n_metrics, sizeof(*bench->took));
        bench->cells = calloc(BENCH_ARMS, sizeof(*bench->cells));
        if (!bench->results || !bench->chosen || !bench->took || !bench->cells)
                return error_set_errno(error, ENOMEM, "cannot start the bench");
        r = bench_choose(options->only, bench->chosen, error);
        if (r == 0)
                r = find_programs(bench, error);
        if (r == 0)
                r = make_place(bench, error);
        if (r < 0)
                return r;
        r = bench_worker_start(bench, BENCH_NATIVE, &none, &bench->first[BENCH_NATIVE], &problem);
        if (r < 0) {
                r = error_set(error, CLEAVE_REASON_NO_DRIVER,
                        "no native CUDA program runs here: %s", problem ?: strerror(-r));
                free(problem);
                return r;
        }
        bench->about = json_incref(bench->first[BENCH_NATIVE]->about);
        bench->processor = last_processor();
        simulated = json_number_value(json_object_get(bench->about, "simulated")) != 0;
        bench->pace = paces[simulated][bench->options.quick];
        bench_worker_send(bench->first[BENCH_NATIVE], "calibrate");
        r = bench_worker_receive(bench, bench->first[BENCH_NATIVE], 60, &answer, &problem);
        if (r < 0) {
                r = error_set(error, CLEAVE_REASON_INTERNAL,
                        "the length of a kernel cannot be measured: %s", problem ?: "");
                free(problem);
                return r;
        }
        bench->rate = answer_number(answer, "rate");
        json_decref(answer);
        return 0;
}

/* A gap that is the same in every arm; NULL: none. */
static const char *common_gap(const struct bench *bench, const struct bench_metric *metric)
{
        json_int_t devices = json_integer_value(json_object_get(bench->about, "devices"));

        if (metric->devices > devices)
                return "needs two GPUs; there is one here";
        return metric->gap;
}

static void forget_answers(struct bench *bench)
{
        for (unsigned arm = 0; arm < BENCH_ARMS; arm++)
                for (unsigned turn = 0; turn < BENCH_TURNS; turn++) {
                        json_decref(bench->answers[arm][turn]);
                        bench->answers[arm][turn] = NULL;
                }
        bench->asked = NULL;
}

static int measure(struct cell *cell, unsigned turn, double *ret)
{
        json_t **answer = &cell->bench->answers[cell->arm][turn];
        int r;

        if (cell->metric->measure)
                return cell->metric->measure(cell, ret);
        if (!*answer) {
                r = cell_ask(cell, answer, cell->metric->ask);
                if (r < 0)
                        return r;
        }
        *ret = answer_number(*answer, cell->metric->figure);
        json_decref(cell->result->detail);
        cell->result->detail = json_incref(*answer);
        return 0;
}

/* One metric in all arms, by turns. */
static int run_metric(struct bench *bench, size_t index)
{
        const struct bench_metric *metric = &bench_metrics[index];
        unsigned turns = metric->of_host   ? bench->pace.host_turns
                         : metric->measure ? bench->pace.shared_turns
                                           : bench->pace.turns;
        const char *gap = common_gap(bench, metric);
        struct cell *cells = bench->cells;
        bool absent[BENCH_ARMS] = {false}; /* it has no turn, or no more of them */
        int result = 0;

        if (!metric->ask || !bench->asked || strcmp(metric->ask, bench->asked) != 0)
                forget_answers(bench);
        bench->asked = metric->ask;
        for (int arm = 0; arm < BENCH_ARMS; arm++) {
                cells[arm].bench = bench;
                cells[arm].metric = metric;
                cells[arm].arm = (enum bench_arm)arm;
                cells[arm].result = bench_result(bench, index, (enum bench_arm)arm);
                if (!bench->options.arm[arm])
                        absent[arm] = true;
                else if (gap || (arm == BENCH_SPATIAL && !bench->options.spatial_known)) {
                        cell_gap(&cells[arm], "%s", gap ?: "cleave run has no --sharing spatial");
                        absent[arm] = true;
                } else if (arm == BENCH_SPATIAL && metric->devices > 1) {
                        cell_gap(&cells[arm], "a tenant in space has one device");
                        absent[arm] = true;
                }
        }
        for (unsigned turn = 0; turn < turns && result == 0; turn++) {
                double native = NAN;
                bool has[BENCH_ARMS] = {false};

                for (unsigned k = 0; k < BENCH_ARMS && result == 0; k++) {
                        unsigned arm = (k + turn) % BENCH_ARMS;
                        struct cell *cell = &cells[arm];
                        double value = NAN;
                        int r;

                        if (absent[arm])
                                continue;
                        r = measure(cell, turn, &value);
                        if (r == 0 && !isfinite(value))
                                r = cell_fail(cell, "it gave no figure");
                        if (r == -EINTR)
                                result = r;
                        else if (r < 0)
                                absent[arm] = true;
                        else {
                                cell->result->value[cell->result->n] = value;
                                has[arm] = true;
                                if (arm == BENCH_NATIVE)
                                        native = value;
                        }
                }
                for (int arm = 0; arm < BENCH_ARMS; arm++)
                        if (has[arm]) {
                                struct bench_result *kept = cells[arm].result;

                                if (metric->relative)
                                        kept->value[kept->n] =
                                                100 * (1 - kept->value[kept->n] / native);
                                kept->native[kept->n] = metric->relative ? 0 : native;
                                if (isfinite(kept->value[kept->n]))
                                        kept->n++;
                        }
        }
        for (int arm = 0; arm < BENCH_ARMS; arm++)
                cell_end_broken(&cells[arm]);
        return result;
}

/* What one process shows comes first, alone on its arm's side; then what several do. So processes
 * are started as seldom as may be, which takes longer than much of what is measured. */
static bool is_next(const struct bench *bench, size_t metric, bool several)
{
        const struct bench_metric *m = &bench_metrics[metric];

        return bench->chosen[metric] && several == (m->measure && !m->of_first);
}

void bench_run(struct bench *bench, FILE *progress, void (*save)(const struct bench *bench, void *),
        void *context)
{
        uint64_t begin = clock_usec(CLOCK_MONOTONIC);
        size_t all = 0, done = 0;
        int r = 0;

        for (size_t i = 0; i < bench_n_metrics; i++)
                all += bench->chosen[i];
        for (size_t k = 0; k < 2 * bench_n_metrics && r == 0; k++) {
                uint64_t start = clock_usec(CLOCK_MONOTONIC);
                size_t i = k % bench_n_metrics;

                if (!is_next(bench, i, k >= bench_n_metrics))
                        continue;
                if (*bench->stop)
                        break;
                r = run_metric(bench, i);
                done += r == 0;
                bench->took[i] = (double)(clock_usec(CLOCK_MONOTONIC) - start) / 1e6;
                if (progress)
                        fprintf(progress, "%3zu of %zu  %-9s %s  %.1f s\n", done, all,
                                bench_metrics[i].id, bench_metrics[i].name, bench->took[i]);
                bench->seconds = (double)(clock_usec(CLOCK_MONOTONIC) - begin) / 1e6;
                save(bench, context);
        }
        bench->complete = r == 0 && done == all;
        bench->seconds = (double)(clock_usec(CLOCK_MONOTONIC) - begin) / 1e6;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *place)
{
        remove(path);
        return 0;
}

static void stop_daemon(const char *runtime)
{
        _cleanup_client_ struct client *client = NULL;
        json_t *params = json_pack("{s:b}", "force", true);

        if (client_connect(runtime, &client, NULL) == 0)
                client_call(client, "daemon.stop", params, NULL, NULL);
        else
                json_decref(params);
}

void bench_done(struct bench *bench)
{
        forget_answers(bench);
        for (int arm = 0; bench->cells && arm < BENCH_ARMS; arm++)
                if (bench->cells[arm].bench)
                        cell_end(&bench->cells[arm]);
        for (int arm = 0; arm < BENCH_ARMS; arm++)
                bench_worker_end(bench->first[arm], true);
        for (int arm = 0; arm < BENCH_ARMS; arm++) {
                if (bench->runtime[arm])
                        stop_daemon(bench->runtime[arm]);
                free(bench->runtime[arm]);
        }
        if (bench->place)
                nftw(bench->place, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        for (size_t i = 0; bench->results && i < bench_n_metrics * BENCH_ARMS; i++) {
                free(bench->results[i].gap);
                free(bench->results[i].error);
                json_decref(bench->results[i].detail);
        }
        json_decref(bench->about);
        free(bench->took);
        free(bench->cells);
        free(bench->results);
        free(bench->chosen);
        free(bench->cleave);
        free(bench->worker);
        free(bench->sim_path);
        free(bench->place);
        *bench = (struct bench){0};
}
