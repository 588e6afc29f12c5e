/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated node for the arbiter: GPUs (sim/schedule.h), tenants with programs that ask for GPU
 * time, and a steering side whose calls take as long as they do on an H100. Deterministic: all that
 * happens follows from the seed. Times are nanoseconds.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "policy/arbiter.h"
#include "policy/switches.h"
#include "sim/schedule.h"

#define US               1000ull
#define MS               1000000ull
#define SEC              1000000000ull
#define WORLD_DEVICES    4u
#define WORLD_TENANTS    40u
#define WORLD_CLIENTS    (WORLD_TENANTS * 2)
#define WORLD_CALLS      1024u
#define WORLD_SAMPLES    72u
#define HOST_PAUSE       (10500ull) /* of launch + synchronize: 100 us kernels alone fill 0.91 */
#define REQUEST_OVERHEAD (110 * US) /* a request of 1 ms alone has p50 1.11 ms */

enum program_kind {
        PROGRAM_QUEUE,   /* kernels queued without end */
        PROGRAM_LOOP,    /* launch, synchronize, pause */
        PROGRAM_SERVICE, /* requests at random moments, one kernel each, one at a time */
        PROGRAM_PHASES,  /* a queue for a while, nothing for a while */
};

struct program {
        enum program_kind kind;
        uint64_t kernel_ns;
        uint64_t block_ns; /* what one block lasts; 0: as long as the kernel */
        uint64_t pause_ns; /* LOOP: on the host; PHASES: without work */
        uint64_t work_ns;  /* PHASES: with work */
        double rate;       /* SERVICE: requests per second */
};

/* What the arbiter gets to see. */
enum fidelity {
        SEES_ALL,      /* used, demand, starts, pauses */
        SEES_USED,     /* GPU time only, to 10 us */
        SEES_COARSE,   /* GPU time only, to 0.5 ms */
        SEES_NOTHING,  /* only its own record */
        SEES_SWITCHES, /* what policy/switches.h makes of the device's records, 10 ms late */
        FIDELITIES,
};

/* A tenant on one device. */
struct client {
        bool live;
        uint64_t id;
        unsigned device;
        uint32_t group;
        struct program program;
        uint64_t joined;
        uint64_t launch_at, arrival_at; /* UINT64_MAX: none */
        uint64_t submitted;
        bool on; /* PHASES */
        bool pending;
        uint64_t pending_since, wanted_ns, starts;
        uint64_t completed;
        unsigned waiting; /* SERVICE: requests, the one being served included */
        uint64_t arrival[4096];
        unsigned arrivals;
        uint64_t longest;  /* from submission (or arrival) to completion */
        uint32_t *latency; /* us; NULL: not recorded */
        unsigned latencies, latency_room;
        uint64_t disabled_since; /* 0: enabled */
        /* as its page says */
        struct {
                bool on, off; /* it keeps its turns by the clock; it is another's */
                struct cleave_turns told;
                uint64_t launched; /* or waited to, last */
        } keeps;
        bool by_cap; /* a cap without a guarantee */
        uint64_t on_ns, on_until;
        uint64_t used_before; /* as seen by those who steered before this one */
        double makes;         /* contexts a second */
        uint64_t make_at;     /* the next, UINT64_MAX: none */
        uint32_t epoch;
};

struct call {
        enum arbiter_act act;
        struct arbiter_action action[8];
        unsigned actions;
        uint64_t cost;
};

/* One who makes calls, one after the other. */
struct lane {
        struct call call[WORLD_CALLS];
        unsigned first, count;
        uint64_t done_at; /* of the first, UINT64_MAX: there is none */
};

struct world {
        uint64_t random;
        uint64_t now;
        unsigned devices;
        struct schedule gpu[WORLD_DEVICES];
        struct client client[WORLD_CLIENTS];
        unsigned clients;        /* one above the highest live one */
        struct arbiter *arbiter; /* NULL: the hardware on its own */
        enum fidelity fidelity;
        struct lane lane[2]; /* slices; channels */
        struct watcher {
                struct switches switches;
                uint64_t next;    /* look */
                uint64_t looked;  /* last */
                uint64_t records; /* taken */
                uint64_t asked;
                /* how busy the engine was in each 0.2 s, as its own ring of samples says */
                struct {
                        uint64_t from, to, busy_ns;
                        uint32_t owner; /* at its end */
                } sample[WORLD_SAMPLES];
                unsigned samples; /* taken */
                uint64_t sampled, idle_ns;
                unsigned rests; /* times that nothing was recorded for a while */
        } watcher[WORLD_DEVICES];
        uint64_t steps, calls, call_ns;
        uint64_t steered_ns[2]; /* call_ns by lane */
        bool fixed;             /* calls take their mean time */
        /* calls that begin then return when it is over: the driver is busy taking down another's
         * contexts */
        uint64_t stall_from, stall_to;
        uint64_t dead_until, blind_until; /* world_kill_steering() */
        uint32_t rough_ppm;    /* of the ends that are recorded, so many bear a time that is */
        uint64_t rough_ns;     /* so much too early, as if the owner had run out of work */
        bool keeps;            /* programs keep to turns that they are told (SEES_SWITCHES) */
        uint32_t late_ppm;     /* of the steps, so many */
        uint64_t late_ns;      /* are late by up to that */
        uint64_t wanted, late; /* when the next one was wanted, and how late it is */
        uint32_t uneven_ppm;   /* samples of how busy the engine is are off by up to so much */
        void (*check)(struct world *world, void *arg); /* after each step of the arbiter */
        void *arg;
};

uint64_t world_random(struct world *world, uint64_t below);
void world_init(struct world *world, unsigned devices, uint64_t seed, bool arbitrate);
void world_done(struct world *world);

/* A tenant with the same program on each of count devices. 0, or what arbiter_admit() said. */
int world_join(struct world *world, uint64_t id, const unsigned *devices, unsigned count,
        const struct arbiter_terms *terms, const struct program *program);
void world_leave(struct world *world, uint64_t id);
struct client *world_client(struct world *world, uint64_t id, unsigned device);
void world_record(struct client *client);
/* pth part of the recorded latencies, us */
double world_percentile(struct client *client, double p);
uint64_t world_used(struct world *world, const struct client *client);
uint64_t world_work(struct world *world, const struct client *client);

void world_run(struct world *world, uint64_t until);
/* A tenant makes contexts, so many a second on average, or no more: the daemon finds new groups
 * each time, and gives them the slice of the others. */
void world_make_contexts(struct world *world, struct client *client, double rate);
/* The steering process is killed, and what it was doing is not done. Another one enables all when
 * it begins, at back, and from known on tells what the records say (SEES_SWITCHES). */
void world_kill_steering(struct world *world, uint64_t back, uint64_t known);
/* As long as that nobody asks the arbiter, calls, or looks. */
void world_idle(struct world *world, uint64_t until);
