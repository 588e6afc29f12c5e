/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which way of sharing a GPU suits a wish: one table of rules, each with its reason and where that
 * is known from. Pure: the machine is described by the caller.
 *
 * A rule that applies either rules ways out or brings ways forward; the first that brings a way
 * forward decides its rank. What a machine cannot do now keeps its rank and says what blocks it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* of one MPS server on Volta and later; how many a release takes may differ (MPS guide) */
#define ADVISE_MPS_CLIENTS 48

/* X(identifier, word in JSON, what it is) */
#define ADVISE_WAYS(X)                                                                             \
        X(QUOTA, "quota", "a memory quota of Cleave on a shared GPU")                              \
        X(SLICES, "slices", "a memory quota with weighted time slices of Cleave")                  \
        X(SPATIAL, "spatial", "MPS with multiprocessors of its own for each tenant")               \
        X(MPS, "mps", "the vendor's MPS server")                                                   \
        X(MIG, "mig", "an instance cut by MIG")                                                    \
        X(MIG_VGPU, "mig-vgpu", "a vGPU on an instance cut by MIG")                                \
        X(VGPU, "vgpu", "a time-sliced vGPU")                                                      \
        X(SRIOV, "sriov", "a virtual function")                                                    \
        X(PASSTHROUGH, "passthrough", "a whole GPU passed to the VM")                              \
        X(WHOLE, "whole", "a whole GPU for one tenant")                                            \
        X(SEVERAL, "several", "several whole GPUs for one tenant, the model split over them")      \
        X(REMOTE, "remote", "GPU calls sent to a broker, no device files in the tenant")           \
        X(PLAIN, "plain", "the driver's own time slices, with no limit")

enum advise_way {
#define X(identifier, word, meaning) ADVISE_##identifier,
        ADVISE_WAYS(X)
#undef X
                ADVISE_N_WAYS
};

const char *advise_way_word(enum advise_way way);
const char *advise_way_meaning(enum advise_way way);

enum advise_trust {
        ADVISE_SAME_OWNER, /* the tenants are one owner's, who trusts them all */
        ADVISE_MIXED,      /* several owners who mean no harm */
        ADVISE_UNTRUSTED,  /* may attack each other */
};

enum advise_place {
        ADVISE_PROCESS,
        ADVISE_CONTAINER,
        ADVISE_VM,
};

/* Zero: not said, or no. */
struct advise_ask {
        enum advise_trust trust;
        enum advise_place place;
        unsigned tenants;      /* at the same time; 0 counts as 1 */
        uint64_t memory;       /* bytes of one tenant */
        unsigned compute;      /* percent of a GPU for one tenant */
        uint64_t latency_usec; /* the 99th percentile that must be held */
        uint64_t model;        /* bytes of a model's weights */
        bool graphics;
        bool licence;  /* the vendor's vGPU licences are there */
        bool migrate;  /* live migration, snapshots or checkpoints */
        bool training; /* steady and large: fills a GPU for hours */
        bool bursty;   /* idle for most of the time */
        bool resize;   /* shares change within minutes */
        bool peers;    /* GPUs talk to each other: NVLink, P2P */
        bool no_gpu;   /* the client's machine has no GPU */
        /* For remote calls: how much of a step is spent waiting, from the calls that block per
         * second and the round trip. Both zero: not known. */
        unsigned calls_per_second;
        uint64_t round_trip_usec;
};

struct advise_machine {
        unsigned gpus;      /* 0: none; the advice is general then */
        uint64_t memory;    /* bytes of the smallest GPU; 0: not known */
        unsigned instances; /* MIG instances that a GPU takes at most; 0: not capable of MIG */
        unsigned functions; /* virtual functions of a GPU at most; 0: not capable of SR-IOV */
        /* Why a way cannot be gone here now, a clause ("MIG mode is off"); NULL: it can. */
        const char *blocked[ADVISE_N_WAYS];
};

struct advise_rule {
        const char *name;
        bool (*applies)(const struct advise_ask *ask, const struct advise_machine *machine);
        uint32_t out;       /* a bit for each way that is ruled out */
        const uint8_t *up;  /* ways brought forward, best first, ends with ADVISE_N_WAYS; or NULL */
        const char *reason; /* a sentence */
        const char *source;
};

extern const struct advise_rule advise_rules[];
extern const size_t advise_n_rules;

struct advise_answer {
        /* What may be done, best first. rule: why it stands where it does. */
        struct {
                enum advise_way way;
                const struct advise_rule *rule;
                const char *blocked; /* the machine's; NULL: can be had now */
        } ranked[ADVISE_N_WAYS];
        size_t n_ranked;
        struct {
                enum advise_way way;
                const struct advise_rule *rule;
        } rejected[ADVISE_N_WAYS];
        size_t n_rejected;
        /* For SEVERAL, where the model's size and the GPU's are known; else 0. */
        struct advise_split {
                unsigned gpus;       /* that hold the weights and a fifth more */
                uint64_t bytes_each; /* of the weights */
                unsigned tensor;     /* ways of tensor parallelism: a power of two, within a host */
                unsigned pipeline;   /* stages; tensor times pipeline is at least gpus */
        } split;
};

/* The GPUs that a model needs and how to split it; all zero if it fits one. host_gpus: of one host,
 * which tensor parallelism should not leave; 0: as many as wanted. */
struct advise_split advise_split(uint64_t model, uint64_t memory, unsigned host_gpus);

void advise(const struct advise_ask *ask, const struct advise_machine *machine,
        struct advise_answer *ret);
