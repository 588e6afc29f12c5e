/* SPDX-License-Identifier: Apache-2.0 */
/* What measures speaks to its processes by these. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "bench.h"
#include "client/client.h"

#define ANSWER_SECONDS 60
#define GONE_SECONDS   10
#define COMMAND_MAX    1024

#define REPETITIONS_MIN 5

static int keep(char **place, const char *format, va_list list)
{
        free(*place);
        if (vasprintf(place, format, list) < 0)
                *place = NULL;
        return 0;
}

int cell_gap(struct cell *cell, const char *format, ...)
{
        va_list list;

        va_start(list, format);
        keep(&cell->result->gap, format, list);
        va_end(list);
        return -ENOTSUP;
}

int cell_fail(struct cell *cell, const char *format, ...)
{
        va_list list;

        va_start(list, format);
        keep(&cell->result->error, format, list);
        va_end(list);
        return -EIO;
}

bool cell_native(const struct cell *cell)
{
        return cell->arm == BENCH_NATIVE || cell->arm == BENCH_CONTROL;
}

/* Keeps a worker's sentence as what its return says it is. */
static int keep_problem(struct cell *cell, int r, char *problem)
{
        _cleanup_free_ char *owned = problem;

        if (r == -ENOTSUP)
                return cell_gap(cell, "%s", owned ?: "it cannot be shown here");
        if (r < 0 && r != -EINTR)
                return cell_fail(cell, "%s", owned ?: strerror(-r));
        return r;
}

static uint64_t usual_memory(const struct cell *cell, unsigned parts)
{
        uint64_t total =
                (uint64_t)json_integer_value(json_object_get(cell->bench->about, "memory"));

        return (total / parts) >> 20 << 20;
}

/* The arm's first worker, which is started where there is none or it has failed. */
static int first_worker(struct cell *cell, struct bench_worker **ret)
{
        struct bench_worker **worker = &cell->bench->first[cell->arm];
        struct bench_terms terms = {.memory = usual_memory(cell, 4)};
        char *problem = NULL;
        int r;

        /* in space they have all that there is */
        if (cell->arm == BENCH_SPATIAL)
                cell_end(cell);
        if (*worker && (*worker)->broken) {
                bench_worker_end(*worker, false);
                *worker = NULL;
        }
        if (!*worker) {
                r = bench_worker_start(cell->bench, cell->arm, &terms, worker, &problem);
                if (r < 0)
                        return keep_problem(cell, r, problem);
        }
        *ret = *worker;
        return 0;
}

/* How much shorter the metric's turns are than others'. */
static double part_of_turn(const struct cell *cell)
{
        const struct bench_pace *pace = &cell->bench->pace;

        return cell->metric->of_host ? (double)pace->turns / pace->host_turns : 1;
}

unsigned cell_repetitions(const struct cell *cell, double n)
{
        return (unsigned)fmax(n * cell->bench->pace.scale * part_of_turn(cell), REPETITIONS_MIN);
}

/* It measures on the one processor, or wherever the kernel has it, as the metric wants. */
static void place(const struct cell *cell, struct bench_worker *worker)
{
        pid_t pid = (pid_t)answer_number(worker->about, "pid");
        cpu_set_t set;

        if (worker->bound == cell->metric->bound || sched_getaffinity(0, sizeof(set), &set) < 0)
                return;
        if (cell->metric->bound) {
                CPU_ZERO(&set);
                CPU_SET(cell->bench->processor, &set);
        }
        /* its first thread makes the calls; where that may not be, it is measured as it is */
        if (sched_setaffinity(pid, sizeof(set), &set) == 0)
                worker->bound = cell->metric->bound;
}

/* Fills in what stands in braces. */
static void fill_in(const struct cell *cell, const char *command, char text[COMMAND_MAX])
{
        const struct bench_pace *pace = &cell->bench->pace;
        size_t filled = 0;

        while (*command && filled < COMMAND_MAX - 32) {
                unsigned long long value = 0;

                if (*command != '{') {
                        text[filled++] = *command++;
                        continue;
                }
                if (strncmp(command, "{n:", 3) == 0)
                        value = cell_repetitions(cell, strtod(command + 3, NULL));
                else if (strncmp(command, "{count:", 7) == 0)
                        value = (unsigned long long)fmax(
                                strtod(command + 7, NULL) * pace->scale, REPETITIONS_MIN);
                else if (strncmp(command, "{quarter}", 9) == 0)
                        value = pace->array_bytes / 4;
                else if (strncmp(command, "{ms}", 4) == 0)
                        value = (unsigned long long)(pace->window_ms * part_of_turn(cell));
                else if (strncmp(command, "{copy}", 6) == 0)
                        value = MIN_OF(pace->array_bytes, (size_t)64 << 20);
                else if (strncmp(command, "{array}", 7) == 0)
                        value = pace->array_bytes;
                else if (strncmp(command, "{memory:", 8) == 0)
                        value = usual_memory(cell, (unsigned)strtoul(command + 8, NULL, 10));
                filled += (size_t)snprintf(text + filled, COMMAND_MAX - filled, "%llu", value);
                command += strcspn(command, "}");
                command += *command == '}';
        }
        text[filled] = 0;
}

int cell_ask(struct cell *cell, json_t **ret, const char *command)
{
        struct bench_worker *worker = NULL;
        char text[COMMAND_MAX], *problem = NULL;
        int r;

        r = first_worker(cell, &worker);
        if (r < 0)
                return r;
        place(cell, worker);
        fill_in(cell, command, text);
        r = bench_worker_send(worker, text);
        if (r == 0 || r == -EIO) /* it may have died: the answer says how */
                r = bench_worker_receive(cell->bench, worker, ANSWER_SECONDS, ret, &problem);
        return keep_problem(cell, r, problem);
}

static bool same_terms(const struct bench_terms *a, const struct bench_terms *b)
{
        return a->memory == b->memory && a->compute == b->compute &&
               a->compute_max == b->compute_max &&
               strcmp(a->priority ?: "", b->priority ?: "") == 0;
}

/* Until the daemon has given back what the tenant was granted: the next one may need it. */
static void wait_gone(struct cell *cell, const char *tenant)
{
        uint64_t until = clock_usec(CLOCK_MONOTONIC) + GONE_SECONDS * USEC_PER_SEC;
        _cleanup_client_ struct client *client = NULL;

        if (client_connect(cell->bench->runtime[cell->arm], &client, NULL) < 0)
                return;
        while (clock_usec(CLOCK_MONOTONIC) < until &&
                client_call(client, "tenant.inspect", json_pack("{s:s}", "tenant", tenant), NULL,
                        NULL) == 0)
                usleep(2000);
}

static void end_worker(struct cell *cell, unsigned worker, bool gently)
{
        char name[sizeof(cell->worker[worker]->name)];

        if (!cell->worker[worker])
                return;
        strcpy(name, cell->worker[worker]->name);
        bench_worker_end(cell->worker[worker], gently);
        cell->worker[worker] = NULL;
        if (cell->bench->runtime[cell->arm])
                wait_gone(cell, name);
}

void cell_kill(struct cell *cell, unsigned worker)
{
        end_worker(cell, worker, false);
}

/* Those of whom `ends` says so, all at once. */
static void end_workers(struct cell *cell, const bool ends[static BENCH_WORKERS])
{
        for (unsigned i = 0; i < BENCH_WORKERS; i++)
                if (cell->worker[i] && ends[i])
                        bench_worker_dismiss(cell->worker[i]);
        for (unsigned i = 0; i < BENCH_WORKERS; i++)
                if (ends[i])
                        end_worker(cell, i, true);
}

void cell_end(struct cell *cell)
{
        bool all[BENCH_WORKERS];

        memset(all, true, sizeof(all));
        end_workers(cell, all);
        cell->n_workers = 0;
}

void cell_end_broken(struct cell *cell)
{
        for (unsigned i = 0; i < BENCH_WORKERS; i++)
                if (cell->worker[i] && cell->worker[i]->broken)
                        end_worker(cell, i, false);
}

/* In space a process without a share has all that is left, and the next one nothing: those of a
 * group divide it, and the arm's first worker has to go. */
static void divide_space(struct cell *cell, struct bench_terms *terms, unsigned n)
{
        struct bench_worker **first = &cell->bench->first[BENCH_SPATIAL];
        unsigned left = 100, without = 0;

        for (unsigned i = 0; i < n; i++) {
                left -= MIN_OF(left, terms[i].compute);
                without += terms[i].compute == 0;
        }
        for (unsigned i = 0; i < n; i++)
                if (terms[i].compute == 0)
                        terms[i].compute = left / without;
        if (*first) {
                char name[sizeof((*first)->name)];

                strcpy(name, (*first)->name);
                bench_worker_end(*first, true);
                *first = NULL;
                wait_gone(cell, name);
        }
}

int cell_workers(struct cell *cell, const struct bench_terms *terms, unsigned n)
{
        struct bench_terms wanted[BENCH_WORKERS];
        bool ends[BENCH_WORKERS] = {false}, begun[BENCH_WORKERS] = {false};
        int result = 0;

        for (unsigned i = 0; i < n; i++) {
                wanted[i] = terms[i];
                if (!wanted[i].memory)
                        wanted[i].memory = usual_memory(cell, 16);
        }
        if (cell->arm == BENCH_SPATIAL)
                divide_space(cell, wanted, n);
        /* Those that are not as they should be go first, so that there is room for the others. */
        for (unsigned i = 0; i < BENCH_WORKERS; i++)
                ends[i] = cell->worker[i] && (i >= n || cell->worker[i]->broken ||
                                                     !same_terms(&cell->terms[i], &wanted[i]));
        end_workers(cell, ends);
        cell->n_workers = n;
        for (unsigned i = 0; i < n && result == 0; i++) {
                char *problem = NULL;

                if (cell->worker[i])
                        continue;
                cell->terms[i] = wanted[i];
                result = bench_worker_begin(
                        cell->bench, cell->arm, &wanted[i], &cell->worker[i], &problem);
                begun[i] = result == 0;
                result = keep_problem(cell, result, problem);
        }
        for (unsigned i = 0; i < n; i++) {
                char *problem = NULL;
                int r;

                if (!begun[i])
                        continue;
                r = bench_worker_await(
                        cell->bench, cell->arm, &wanted[i], &cell->worker[i], &problem);
                r = keep_problem(cell, r, problem);
                result = result ?: r;
        }
        return result;
}

static int send_list(struct cell *cell, unsigned worker, const char *format, va_list list)
{
        char text[COMMAND_MAX];

        vsnprintf(text, sizeof(text), format, list);
        place(cell, cell->worker[worker]);
        bench_worker_send(cell->worker[worker], text);
        return 0;
}

int cell_send(struct cell *cell, unsigned worker, const char *format, ...)
{
        va_list list;
        int r;

        va_start(list, format);
        r = send_list(cell, worker, format, list);
        va_end(list);
        return r;
}

int cell_receive(struct cell *cell, unsigned worker, json_t **ret)
{
        char *problem = NULL;
        json_t *answer = NULL;
        int r = bench_worker_receive(
                cell->bench, cell->worker[worker], ANSWER_SECONDS, &answer, &problem);

        if (r < 0)
                return keep_problem(cell, r, problem);
        if (ret)
                *ret = answer;
        else
                json_decref(answer);
        return 0;
}

int cell_tell(struct cell *cell, unsigned worker, json_t **ret, const char *format, ...)
{
        va_list list;

        va_start(list, format);
        send_list(cell, worker, format, list);
        va_end(list);
        return cell_receive(cell, worker, ret);
}

unsigned cell_lead_ms(const struct cell *cell)
{
        const struct bench_pace *pace = &cell->bench->pace;

        return cell->arm == BENCH_TEMPORAL || cell->arm == BENCH_PEER ? pace->settle_ms
                                                                      : pace->lead_ms;
}

int cell_carry_begin(struct cell *cell, const struct bench_load *loads, double times, double bin_ms,
        uint64_t *ret_start)
{
        struct bench *bench = cell->bench;
        struct timespec t;
        uint64_t start;

        clock_gettime(CLOCK_MONOTONIC, &t);
        start = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec +
                cell_lead_ms(cell) * 1000000ull;
        for (unsigned i = 0; i < cell->n_workers; i++)
                if (loads[i].kind)
                        cell_send(cell, i,
                                "work kind=%s us=%.3f gap=%.3f bytes=%zu rate=%.6f sms=%lld "
                                "start=%llu window=%.3f bin=%.3f",
                                loads[i].kind, loads[i].us ?: 100, loads[i].gap_us ?: 1000,
                                loads[i].bytes ?: bench->pace.array_bytes / 4, bench->rate,
                                (long long)json_integer_value(json_object_get(bench->about, "sms")),
                                (unsigned long long)start, times * bench->pace.window_ms,
                                bin_ms ?: times * bench->pace.window_ms);
        if (ret_start)
                *ret_start = start;
        return 0;
}

int cell_carry_end(
        struct cell *cell, const struct bench_load *loads, json_t *replies[BENCH_WORKERS])
{
        int result = 0;

        for (unsigned i = 0; i < cell->n_workers; i++) {
                int r;

                replies[i] = NULL;
                if (!loads[i].kind)
                        continue;
                r = cell_receive(cell, i, &replies[i]);
                if (r < 0 && result == 0)
                        result = r;
        }
        for (unsigned i = 0; result < 0 && i < cell->n_workers; i++) {
                json_decref(replies[i]);
                replies[i] = NULL;
        }
        return result;
}

int cell_carry(struct cell *cell, const struct bench_load *loads, double times, double bin_ms,
        json_t *replies[BENCH_WORKERS])
{
        int r = cell_carry_begin(cell, loads, times, bin_ms, NULL);

        return r < 0 ? r : cell_carry_end(cell, loads, replies);
}

static int rates_over(
        struct cell *cell, const struct bench_load *loads, unsigned ms, double rates[BENCH_WORKERS])
{
        json_t *replies[BENCH_WORKERS];
        double times = fmax(1, (double)ms / cell->bench->pace.window_ms);
        int r = cell_carry(cell, loads, times, 0, replies);

        if (r < 0)
                return r;
        for (unsigned i = 0; i < cell->n_workers; i++) {
                rates[i] = replies[i] ? answer_number(replies[i], "work_per_s") : 0;
                json_decref(replies[i]);
        }
        return 0;
}

int cell_rates(struct cell *cell, const struct bench_load *loads, double rates[BENCH_WORKERS])
{
        return rates_over(cell, loads, cell->bench->pace.rounds_ms, rates);
}

int cell_shares(struct cell *cell, const struct bench_load *loads, double rates[BENCH_WORKERS])
{
        return rates_over(cell, loads, cell->bench->pace.shares_ms, rates);
}

int cell_set(struct cell *cell, unsigned worker, const char *option, const char *value)
{
        char *argv[] = {cell->bench->cleave, "set", (char *)option, (char *)value,
                cell->worker[worker]->name, NULL};
        _cleanup_free_ char *problem = NULL;
        int r = bench_program(cell->bench, cell->arm, argv, &problem);

        return r == 0 ? 0 : cell_fail(cell, "%s", problem ?: "cleave set failed");
}

/* Nanoseconds that a process's threads have had a processor, those of its children, too. */
static double process_cpu(long long pid, int depth)
{
        char path[64], line[256];
        _cleanup_closedir_ DIR *tasks = NULL;
        struct dirent *entry;
        double sum = 0;

        snprintf(path, sizeof(path), "/proc/%lld/task", pid);
        tasks = opendir(path);
        while (tasks && (entry = readdir(tasks))) {
                char name[352];
                FILE *file;

                if (entry->d_name[0] == '.')
                        continue;
                snprintf(name, sizeof(name), "%s/%s/schedstat", path, entry->d_name);
                file = fopen(name, "re");
                if (file && fgets(line, sizeof(line), file))
                        sum += strtod(line, NULL);
                if (file)
                        fclose(file);
                snprintf(name, sizeof(name), "%s/%s/children", path, entry->d_name);
                file = depth ? fopen(name, "re") : NULL;
                for (long long child; file && fscanf(file, "%lld", &child) == 1;)
                        sum += process_cpu(child, depth - 1);
                if (file)
                        fclose(file);
        }
        return sum;
}

double cell_daemon_cpu(struct cell *cell)
{
        _cleanup_client_ struct client *client = NULL;
        json_t *info = NULL;
        double sum = 0;

        if (!cell->bench->runtime[cell->arm])
                return 0;
        if (client_connect(cell->bench->runtime[cell->arm], &client, NULL) < 0 ||
                client_call(client, "daemon.info", NULL, &info, NULL) < 0)
                return NAN;
        sum = process_cpu(json_integer_value(json_object_get(info, "pid")), 2);
        json_decref(info);
        return sum / 1e9;
}

void cell_note(struct cell *cell, const char *name, double value)
{
        if (!cell->result->detail)
                cell->result->detail = json_object();
        json_object_set_new(
                cell->result->detail, name, isfinite(value) ? json_real(value) : json_null());
}

double answer_number(const json_t *answer, const char *name)
{
        const json_t *value = json_object_get(answer, name);

        return json_is_number(value) ? json_number_value(value) : NAN;
}

double *answer_list(const json_t *answer, const char *name, size_t *ret_n)
{
        const json_t *list = json_object_get(answer, name);
        double *values;

        *ret_n = json_array_size(list);
        values = *ret_n ? calloc(*ret_n, sizeof(*values)) : NULL;
        if (!values)
                *ret_n = 0;
        for (size_t i = 0; i < *ret_n; i++)
                values[i] = json_number_value(json_array_get(list, i));
        return values;
}
