/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `cleave bench`: what it measures, of whom, and how it is run.
 *
 * A metric is measured in arms: native, a second native process (the control, which says what the
 * method cannot tell from nothing), and the systems under test. All arms of a metric live side by
 * side and are measured by turns, in an order that rotates. A failure is that of one metric in one
 * arm; a gap is a figure that this machine or this system cannot have, with a sentence why.
 */
#pragma once

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/error.h"

#define BENCH_SCHEMA  "cleave.bench/1"
#define BENCH_WORKERS 8  /* processes of one arm at once */
#define BENCH_TURNS   16 /* at most */

enum bench_arm {
        BENCH_NATIVE,
        BENCH_CONTROL,
        BENCH_TEMPORAL,
        BENCH_SPATIAL,
        BENCH_PEER,
        BENCH_ARMS,
};

enum bench_better { BENCH_LOWER, BENCH_HIGHER, BENCH_TOLD };

struct cell;

/* One row of the one description of the metrics. */
struct bench_metric {
        const char *id;       /* of GPU-Virt-Bench */
        const char *name;     /* there */
        const char *category; /* the part before the number, in words */
        const char *unit;     /* "": a number without one */
        enum bench_better better;
        const char *measures;  /* what the figure is */
        const char *procedure; /* how it is got */
        const char *source;    /* where the procedure is from */
        bool relative;    /* what measure() gives is a rate; the figure is what is lost of native's,
                             in percent */
        unsigned devices; /* that it needs; 0: one */
        const char *gap;  /* why it is never measured; NULL: it is */
        /* Either one command to the arm's first worker, with {…} as in cell_ask(), and the name of
         * the figure in its answer … */
        const char *ask, *figure;
        /* … or a function: 0 and the figure, -ENOTSUP after cell_gap(), or another negative errno
         * after cell_fail(). */
        int (*measure)(struct cell *cell, double *ret);
        bool of_first; /* it asks the arm's first worker only */
        bool of_host;  /* how fast the host is shows in it, which changes within tenths of a second:
                          more and shorter turns, */
        bool bound;    /* and all arms on one processor */
};

extern const struct bench_metric bench_metrics[];
extern const size_t bench_n_metrics;

struct bench_peer {
        const char *name;    /* for people; NULL: "peer" */
        const char *preload; /* a library to preload; or */
        const char *path;    /* a directory that holds its libcuda.so.1 */
        /* NAME=VALUE; {memory} bytes, {memory-mib}, {compute} percent and {tenant}, a number, are
         * filled in */
        const char **environment;
        size_t n_environment;
};

struct bench_options {
        bool arm[BENCH_ARMS]; /* native and control are always there */
        const char *sim;      /* model; NULL: a real GPU */
        bool quick;
        bool spatial_known; /* `cleave run` has --sharing */
        const char *only;   /* ids and categories, separated by commas; NULL: all */
        struct bench_peer peer;
};

/* How long and how often. */
struct bench_pace {
        unsigned turns;        /* of metrics of one process */
        unsigned shared_turns; /* of those of several */
        unsigned host_turns;   /* of those that show the host, all together as long */
        unsigned window_ms;
        unsigned rounds_ms; /* window of what has to hold several of the rounds of time */
        unsigned shares_ms; /* of what is compared with shares */
        unsigned series_ms; /* of what is cut into pieces */
        unsigned lead_ms;   /* before a common window begins */
        unsigned settle_ms; /* the same where a system shares out time, which has to see who wants
                               it first */
        double scale;       /* of numbers of repetitions */
        size_t array_bytes; /* much more than a cache on a GPU */
};

struct bench_worker {
        pid_t pid;
        int to, from, errors; /* errors: what it says besides, a file without a name */
        FILE *in;
        char name[32];       /* of the tenant */
        json_t *about;       /* its first answer */
        uint64_t begun_usec; /* of its start, by CLOCK_MONOTONIC */
        double born_ms;      /* from then to its first answer */
        bool broken;         /* it has failed and is of no more use */
        bool bound;          /* to bench->processor */
};

/* What a process is granted. 0, NULL: nothing said. */
struct bench_terms {
        uint64_t memory; /* bytes; 0: the arm's usual */
        unsigned compute, compute_max;
        const char *priority;
};

struct bench_result {
        double value[BENCH_TURNS];
        double native[BENCH_TURNS]; /* of the same turn, for paired comparison */
        unsigned n;
        char *gap, *error; /* NULL: none */
        json_t *detail;    /* what else was seen in the last turn */
};

struct bench {
        struct bench_options options;
        struct bench_pace pace;
        char *cleave, *worker, *sim_path; /* paths of programs, and of the simulated libraries */
        char *place;                      /* our own directory */
        /* In it, the daemons' of the Cleave arms: a device is shared in time or in space, so each
         * has its own. NULL: the arm has none. */
        char *runtime[BENCH_ARMS];
        struct bench_worker *first[BENCH_ARMS]; /* one of each arm that lives throughout */
        struct cell *cells; /* of the arms; their workers live on until others are wanted */
        json_t *about;      /* the device, as a native process sees it */
        double rate;        /* of work: bench/worker/work.c */
        double hit_limit;   /* cycles of a load from the L2 cache; 0: not known yet */
        unsigned started;   /* processes so far */
        int processor;      /* for metrics that are bound */
        /* What the last command that is a metric's was answered by the arms, by turns: the next
         * metric may have another figure of the same. */
        const char *asked;
        json_t *answers[BENCH_ARMS][BENCH_TURNS];
        volatile sig_atomic_t *stop;
        bool complete;
        double seconds;
        time_t date;
        struct bench_result *results; /* bench_n_metrics * BENCH_ARMS */
        bool *chosen;                 /* bench_n_metrics */
        double *took;                 /* seconds of each; bench_n_metrics */
};

/* "native", "control", "temporal", "spatial", or the peer's name. */
const char *bench_arm_name(const struct bench *bench, enum bench_arm arm);
struct bench_result *bench_result(const struct bench *bench, size_t metric, enum bench_arm arm);

/* Marks the metrics that `only` names: ids, whole or the part before the number ("OH"), and
 * categories, in any case. -EINVAL with USAGE for a word that names none. */
int bench_choose(const char *only, bool *chosen, struct cleave_error *error);

/* Makes the place, starts the native worker, learns of the device. stop: set by a signal handler.
 * bench_done() is also to be called after a failure. */
int bench_init(struct bench *bench, const struct bench_options *options,
        volatile sig_atomic_t *stop, struct cleave_error *error);
/* Measures what was chosen; progress goes to `progress` (NULL: nowhere). save() is called after
 * each metric, so that what there is outlives a run that is ended from outside. */
void bench_run(struct bench *bench, FILE *progress, void (*save)(const struct bench *bench, void *),
        void *context);
void bench_done(struct bench *bench);

/* What was measured, as docs/bench.md describes it. NULL: no memory. */
json_t *bench_json(const struct bench *bench);
/* The description of the metrics alone. */
json_t *bench_json_metrics(void);
/* Several reports as one, of machines that are alike. Of what several of them measured the last
 * counts; what is not known of one is looked for in the others. names: of the reports, for errors.
 * 0 and a new reference; -EINVAL with USAGE: one is no report, or of another kind of machine. */
int bench_merge(json_t *const *reports, const char *const *names, size_t n, json_t **ret,
        struct cleave_error *error);
/* A page of its own, from what bench_json() gave. 0 or negative errno. */
int bench_html(const json_t *report, FILE *out);

/* For what measures: one metric in one arm. */
struct cell {
        struct bench *bench;
        const struct bench_metric *metric;
        enum bench_arm arm;
        struct bench_worker *worker[BENCH_WORKERS];
        struct bench_terms terms[BENCH_WORKERS];
        unsigned n_workers;
        struct bench_result *result;
};

/* Keep the sentence; return -ENOTSUP and -EIO. */
int cell_gap(struct cell *cell, const char *format, ...) __attribute__((format(printf, 2, 3)));
int cell_fail(struct cell *cell, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whether the arm is native or its control. */
bool cell_native(const struct cell *cell);

/* Asks the arm's first worker. {n:N} in the command is N or fewer where the pace is quick or turns
 * are short, {count:N} the same whatever the turns, {ms} the window, {array} bytes of an array,
 * {copy} of a copy, {quarter} a quarter of that, {memory:PARTS} that part of the device. ret: a new
 * reference. */
int cell_ask(struct cell *cell, json_t **ret, const char *command);

/* Sees to it that the cell has n workers under these terms; those that live are kept where the
 * terms are the same. */
int cell_workers(struct cell *cell, const struct bench_terms *terms, unsigned n);
/* Asks one of them, as printf says it. ret (may be NULL): a new reference. */
int cell_tell(struct cell *cell, unsigned worker, json_t **ret, const char *format, ...)
        __attribute__((format(printf, 4, 5)));
/* In two steps, so that others can be asked meanwhile. */
int cell_send(struct cell *cell, unsigned worker, const char *format, ...)
        __attribute__((format(printf, 3, 4)));
int cell_receive(struct cell *cell, unsigned worker, json_t **ret);
/* Ends one at once; cell_workers() starts another. */
void cell_kill(struct cell *cell, unsigned worker);
/* Ends all of them, politely; or those that are of no more use. */
void cell_end(struct cell *cell);
void cell_end_broken(struct cell *cell);

/* A load of one worker: bench/worker/work.c. */
struct bench_load {
        const char *kind; /* NULL: it rests */
        double us, gap_us;
        size_t bytes;
};

/* All of the cell's workers carry their loads over one window, `times` that of the pace, cut into
 * bins. replies: a new reference for each that does not rest. */
int cell_carry(struct cell *cell, const struct bench_load *loads, double times, double bin_ms,
        json_t *replies[BENCH_WORKERS]);
/* In two steps; start is the window's begin by CLOCK_MONOTONIC in nanoseconds. */
int cell_carry_begin(struct cell *cell, const struct bench_load *loads, double times, double bin_ms,
        uint64_t *ret_start);
int cell_carry_end(
        struct cell *cell, const struct bench_load *loads, json_t *replies[BENCH_WORKERS]);
/* How long loads are carried before a window begins. */
unsigned cell_lead_ms(const struct cell *cell);
/* Only what each did, in its own unit a second; over a window that holds several of the rounds in
 * which systems hand out time. */
int cell_rates(struct cell *cell, const struct bench_load *loads, double rates[BENCH_WORKERS]);
/* The same where it is to be as the shares are. */
int cell_shares(struct cell *cell, const struct bench_load *loads, double rates[BENCH_WORKERS]);

/* N, or fewer where the pace is quick or turns are short. */
unsigned cell_repetitions(const struct cell *cell, double n);

/* Changes terms of a worker of a Cleave arm, by the command line. */
int cell_set(struct cell *cell, unsigned worker, const char *option, const char *value);
/* Processor time so far of the daemon and what it has started, seconds; 0 where there is none. */
double cell_daemon_cpu(struct cell *cell);

/* Adds to what was seen besides. */
void cell_note(struct cell *cell, const char *name, double value);
/* A figure of an answer; NAN where there is none. */
double answer_number(const json_t *answer, const char *name);
/* A list of figures in new memory; NULL with *ret_n 0 where there is none. */
double *answer_list(const json_t *answer, const char *name, size_t *ret_n);

/* bench/suite/worker.c */
int bench_worker_start(struct bench *bench, enum bench_arm arm, const struct bench_terms *terms,
        struct bench_worker **ret, char **ret_problem);
/* In two steps, so that several start at once. await: *worker is NULL where it fails. */
int bench_worker_begin(struct bench *bench, enum bench_arm arm, const struct bench_terms *terms,
        struct bench_worker **ret, char **ret_problem);
int bench_worker_await(struct bench *bench, enum bench_arm arm, const struct bench_terms *terms,
        struct bench_worker **worker, char **ret_problem);
/* Tells it to end; bench_worker_end() has still to be called. */
void bench_worker_dismiss(struct bench_worker *worker);
/* Ends it, politely if `gently`. */
void bench_worker_end(struct bench_worker *worker, bool gently);
/* 0; -ENOTSUP: the answer is a gap; -EIO: it failed or died; -EINTR: the bench is to stop.
 * ret_problem: the sentence. */
int bench_worker_send(struct bench_worker *worker, const char *line);
int bench_worker_receive(struct bench *bench, struct bench_worker *worker, unsigned seconds,
        json_t **ret, char **ret_problem);
/* Runs a program of ours to its end, as that arm's daemon is spoken with; its exit status or
 * negative errno, its last words in ret_problem. */
int bench_program(struct bench *bench, enum bench_arm arm, char *const argv[], char **ret_problem);
