/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/cleanup.h"
#include "policy/advise.h"

const char *advise_way_word(enum advise_way way)
{
        static const char *const words[] = {
#define X(identifier, word, meaning) word,
                ADVISE_WAYS(X)
#undef X
        };

        return words[way];
}

const char *advise_way_meaning(enum advise_way way)
{
        static const char *const meanings[] = {
#define X(identifier, word, meaning) meaning,
                ADVISE_WAYS(X)
#undef X
        };

        return meanings[way];
}

#define WAY(way) (1u << ADVISE_##way)
#define UP(...)  ((const uint8_t[]){__VA_ARGS__, ADVISE_N_WAYS})

#define FOR_VMS   (WAY(MIG_VGPU) | WAY(VGPU) | WAY(SRIOV) | WAY(PASSTHROUGH))
#define FOR_HOSTS (WAY(QUOTA) | WAY(SLICES) | WAY(SPATIAL) | WAY(MPS) | WAY(MIG) | WAY(PLAIN))
#define SHARING   (FOR_HOSTS | WAY(MIG_VGPU) | WAY(VGPU) | WAY(SRIOV))
/* What shares nothing of a GPU. */
#define WHOLES (WAY(PASSTHROUGH) | WAY(WHOLE) | WAY(SEVERAL))

#define SPATIAL_SETS  15 /* of 8 multiprocessors on an H100 */
#define REMOTE_PERMIL 200

#define RULE(name)                                                                                 \
        static bool name(const struct advise_ask *ask, const struct advise_machine *machine)

static unsigned tenants_of(const struct advise_ask *ask)
{
        return MAX_OF(ask->tenants, 1u);
}

static unsigned tenants_per_gpu(const struct advise_ask *ask, const struct advise_machine *machine)
{
        unsigned gpus = MAX_OF(machine->gpus, 1u);

        return (tenants_of(ask) + gpus - 1) / gpus;
}

struct advise_split advise_split(uint64_t model, uint64_t memory, unsigned host_gpus)
{
        /* Weights are not all: caches, activations and the driver's own take about a fifth more. */
        uint64_t need = model / 5 * 6;
        struct advise_split split = {0};

        if (memory == 0 || need <= memory)
                return split;
        split.gpus = (unsigned)((need + memory - 1) / memory);
        /* Heads and columns divide by powers of two. */
        split.tensor = 1;
        while (split.tensor < split.gpus && (host_gpus == 0 || split.tensor * 2 <= host_gpus))
                split.tensor *= 2;
        split.pipeline = (split.gpus + split.tensor - 1) / split.tensor;
        split.bytes_each = model / (split.tensor * split.pipeline);
        return split;
}

RULE(model_needs_several)
{
        return advise_split(ask->model, machine->memory, machine->gpus).gpus > 0;
}

RULE(fits_one_gpu)
{
        return !model_needs_several(ask, machine);
}

RULE(needs_more_than_a_gpu)
{
        return machine->memory && ask->memory > machine->memory;
}

RULE(steady_training)
{
        return ask->training;
}

RULE(in_vm)
{
        return ask->place == ADVISE_VM;
}

RULE(not_in_vm)
{
        return ask->place != ADVISE_VM;
}

RULE(untrusted)
{
        return ask->trust == ADVISE_UNTRUSTED;
}

RULE(not_same_owner)
{
        return ask->trust != ADVISE_SAME_OWNER;
}

RULE(no_licence)
{
        return !ask->licence;
}

RULE(with_graphics)
{
        return ask->graphics;
}

RULE(must_migrate)
{
        return ask->migrate;
}

RULE(has_latency_target)
{
        return ask->latency_usec > 0;
}

/* A slice of time is 2 ms by default; two tenants' turns and a switch are the least that can be
 * held by slices. */
RULE(latency_below_slices)
{
        return ask->latency_usec > 0 && ask->latency_usec < 5000;
}

RULE(uses_peers)
{
        return ask->peers;
}

RULE(client_without_gpu)
{
        return ask->no_gpu;
}

RULE(client_with_gpu)
{
        return !ask->no_gpu && ask->trust != ADVISE_UNTRUSTED;
}

RULE(calls_wait_too_long)
{
        return (uint64_t)ask->calls_per_second * ask->round_trip_usec / 1000 > REMOTE_PERMIL;
}

RULE(more_than_instances)
{
        return machine->gpus > 0 && tenants_per_gpu(ask, machine) > machine->instances;
}

RULE(more_than_functions)
{
        return machine->gpus > 0 && tenants_per_gpu(ask, machine) > machine->functions;
}

RULE(more_than_clients)
{
        return tenants_per_gpu(ask, machine) > ADVISE_MPS_CLIENTS;
}

RULE(more_than_sets)
{
        return tenants_per_gpu(ask, machine) > SPATIAL_SETS;
}

RULE(more_than_gpus)
{
        return machine->gpus > 0 && tenants_of(ask) > machine->gpus;
}

RULE(memory_oversold)
{
        return machine->memory && ask->memory * tenants_per_gpu(ask, machine) > machine->memory;
}

RULE(compute_oversold)
{
        return ask->compute * tenants_per_gpu(ask, machine) > 100;
}

RULE(share_asked)
{
        return ask->compute > 0;
}

RULE(resized_often)
{
        return ask->resize;
}

RULE(mostly_idle)
{
        return ask->bursty;
}

RULE(untrusted_vm_takes_most)
{
        return untrusted(ask, machine) && in_vm(ask, machine) &&
               ((machine->memory && ask->memory > machine->memory / 2) || ask->compute > 50 ||
                       tenants_of(ask) == 1);
}

RULE(vm_with_graphics_or_migration)
{
        return in_vm(ask, machine) && (ask->graphics || ask->migrate);
}

RULE(untrusted_in_host)
{
        return untrusted(ask, machine) && not_in_vm(ask, machine);
}

RULE(same_owner_low_latency)
{
        return !not_same_owner(ask, machine) && not_in_vm(ask, machine) &&
               latency_below_slices(ask, machine);
}

RULE(same_owner_many)
{
        return !not_same_owner(ask, machine) && not_in_vm(ask, machine) && tenants_of(ask) > 1;
}

RULE(mixed_owners)
{
        return ask->trust == ADVISE_MIXED && not_in_vm(ask, machine);
}

RULE(alone)
{
        return not_in_vm(ask, machine) && tenants_of(ask) == 1 && ask->memory == 0 &&
               ask->compute == 0;
}

RULE(always)
{
        return true;
}

#define MEASURED  "measured on an H100 80GB, driver 580.159.04"
#define MIG_GUIDE "NVIDIA MIG user guide, release 580"
#define MPS_GUIDE "NVIDIA MPS guide, release 615"
#define GRADING   "Cleave's own grading of isolation"

/* First what is impossible or wrong, then what is best, the most particular case first. */
const struct advise_rule advise_rules[] = {
        {"model-needs-several", model_needs_several, SHARING | WAY(WHOLE) | WAY(PASSTHROUGH),
                UP(ADVISE_SEVERAL),
                "The model does not fit one GPU, so slicing is the wrong tool: it wants several "
                "whole GPUs with tensor parallelism inside a host, pipeline stages between hosts, "
                "and experts spread out if it is a mixture of experts.",
                "weights and a fifth more for caches and activations, against the GPU's memory"},
        {"fits-one-gpu", fits_one_gpu, WAY(SEVERAL), NULL, "Nothing here needs more than one GPU.",
                "sizes as given"},
        {"beyond-one-gpu", needs_more_than_a_gpu, ~(WAY(SEVERAL) | WAY(REMOTE)), NULL,
                "One tenant wants more memory than a GPU has.", "sizes as given"},
        {"steady-training", steady_training, SHARING,
                UP(ADVISE_WHOLE, ADVISE_PASSTHROUGH, ADVISE_SEVERAL),
                "Slicing is the wrong tool for steady large training: it fills the GPU by itself, "
                "and every neighbour only makes both slower.",
                MEASURED ": two processes of 8192-cubed products under time slicing gave 299 and "
                         "299 TFLOP/s, one alone 670"},
        {"vm", in_vm, FOR_HOSTS | WAY(WHOLE), NULL,
                "A VM takes a PCI function or a mediated device, not processes' shares of the "
                "host's driver.",
                "Linux VFIO"},
        {"no-vm", not_in_vm, FOR_VMS, NULL,
                "Virtual functions, vGPUs and passed-through GPUs are for VMs.", "Linux VFIO"},
        {"untrusted", untrusted, WAY(QUOTA) | WAY(SLICES) | WAY(SPATIAL) | WAY(MPS) | WAY(PLAIN),
                NULL,
                "Tenants that may attack each other must not share the driver's device files: a "
                "library in the tenant's own process is no boundary.",
                MEASURED ": a process may disable the channels of another user's processes"},
        {"mps-is-one-domain", not_same_owner, WAY(MPS) | WAY(SPATIAL), NULL,
                "A fatal fault of one MPS client takes the others down; it is for one owner.",
                MPS_GUIDE},
        {"no-licence", no_licence, WAY(VGPU) | WAY(MIG_VGPU), NULL,
                "NVIDIA vGPU needs licences; without one a vGPU slows down.",
                "NVIDIA vGPU licensing guide"},
        {"graphics", with_graphics,
                WAY(MPS) | WAY(SPATIAL) | WAY(MIG) | WAY(MIG_VGPU) | WAY(REMOTE), NULL,
                "Graphics runs neither under MPS nor in MIG instances without +gfx.",
                MIG_GUIDE "; " MPS_GUIDE},
        {"migrate", must_migrate,
                WAY(PASSTHROUGH) | WAY(MIG) | WAY(MPS) | WAY(SPATIAL) | WAY(SRIOV) | WAY(PLAIN),
                NULL,
                "What is tied to the hardware cannot be moved; a vGPU can be migrated, a process "
                "checkpointed.",
                MEASURED ": a process with 8 GiB was written out in 3.7 s and restored in 1.3 s"},
        {"latency", has_latency_target, WAY(PLAIN) | WAY(MPS), NULL,
                "Beside a neighbour with long kernels, neither plain time slices nor MPS hold a "
                "latency.",
                MEASURED ": a service of 1 ms at 300 a second went from 1.1 ms to 412 ms (slices) "
                         "and 4.4 s (MPS)"},
        {"peers", uses_peers, WAY(MIG) | WAY(MIG_VGPU) | WAY(REMOTE),
                UP(ADVISE_WHOLE, ADVISE_PASSTHROUGH),
                "GPUs that talk to each other should be whole: MIG instances have no peer access.",
                MIG_GUIDE},
        {"client-without-gpu", client_without_gpu, ~WAY(REMOTE), UP(ADVISE_REMOTE),
                "Where the client has no GPU, only calls sent over the network reach one.",
                "the wish itself"},
        {"calls-wait-too-long", calls_wait_too_long, WAY(REMOTE), NULL,
                "Remote calls are only for work that bears the latency: calls that block would "
                "spend more than a fifth of the time on the wire.",
                "blocking calls a second times the round trip, as given"},
        {"client-with-gpu", client_with_gpu, WAY(REMOTE), NULL,
                "A GPU is at hand and the tenants mean no harm: sending calls away only costs.",
                "every call that blocks takes a round trip"},
        {"more-than-instances", more_than_instances, WAY(MIG) | WAY(MIG_VGPU), NULL,
                "There are not so many MIG instances on these GPUs.", MIG_GUIDE},
        {"more-than-functions", more_than_functions, WAY(SRIOV), NULL,
                "There are not so many virtual functions on these GPUs.",
                "sriov_totalvfs of the device"},
        {"more-than-clients", more_than_clients, WAY(MPS), NULL, "An MPS server takes 48 clients.",
                MPS_GUIDE},
        {"more-than-sets", more_than_sets, WAY(SPATIAL), NULL,
                "There are only 15 sets of 8 multiprocessors.", MEASURED},
        {"more-than-gpus", more_than_gpus, WHOLES, NULL, "There are more tenants than GPUs.",
                "numbers as given"},
        {"memory-oversold", memory_oversold,
                WAY(MIG) | WAY(MIG_VGPU) | WAY(VGPU) | WAY(SRIOV) | WAY(QUOTA) | WAY(SLICES) |
                        WAY(SPATIAL) | WAY(MPS) | WAY(PLAIN),
                NULL,
                "Together the tenants want more memory than these GPUs have; nothing that "
                "guarantees it can be given to all of them at once.",
                "sizes as given"},
        {"compute-oversold", compute_oversold, WAY(MIG) | WAY(MIG_VGPU) | WAY(SPATIAL) | WAY(MPS),
                NULL,
                "Shares of more than a whole cannot lie side by side; slices of time can be "
                "scaled down.",
                "shares as given"},
        {"share-asked", share_asked, WAY(QUOTA) | WAY(PLAIN), NULL,
                "A share of the compute power is wanted, and a memory quota alone gives none: what "
                "each gets would depend on the length of the neighbours' kernels.",
                MEASURED ": 100 us kernels beside 5 ms kernels got 0.05 against 0.81"},
        {"untrusted-vm-most", untrusted_vm_takes_most, 0,
                UP(ADVISE_PASSTHROUGH, ADVISE_MIG_VGPU, ADVISE_SRIOV, ADVISE_VGPU),
                "A VM that may be hostile and needs most of a card gets all of it.", GRADING},
        {"vm-graphics-or-migration", vm_with_graphics_or_migration, 0,
                UP(ADVISE_VGPU, ADVISE_SRIOV, ADVISE_PASSTHROUGH),
                "A VM with graphics, or one that moves, is what a vGPU is made for.",
                "NVIDIA vGPU guide"},
        {"vm", in_vm, 0, UP(ADVISE_MIG_VGPU, ADVISE_SRIOV, ADVISE_VGPU, ADVISE_PASSTHROUGH),
                "For VMs, slices cut in hardware isolate best; a vGPU in time slices is finer, a "
                "whole card is simplest.",
                GRADING},
        {"untrusted-host", untrusted_in_host, 0, UP(ADVISE_MIG, ADVISE_REMOTE, ADVISE_WHOLE),
                "Containers that may be hostile get a slice cut in hardware, or no device files at "
                "all.",
                GRADING},
        {"low-latency", same_owner_low_latency, 0, UP(ADVISE_SPATIAL, ADVISE_MIG, ADVISE_SLICES),
                "A tight latency beside busy neighbours needs multiprocessors of its own.",
                MEASURED ": a loop of 100 us kernels beside a saturating neighbour, p99 121 us on "
                         "its own set and 118 us alone"},
        {"latency-slices", has_latency_target, 0, UP(ADVISE_SLICES, ADVISE_SPATIAL, ADVISE_MIG),
                "Long slices for the service and short ones for its neighbours hold a latency of "
                "some milliseconds, at any kernel length.",
                MEASURED ": slices of 50 and 0.2 ms gave p50 1.5 and p99 6.2 ms, the neighbour "
                         "0.55"},
        {"resize", resized_often, 0, UP(ADVISE_SLICES, ADVISE_QUOTA),
                "Quotas and slices change while programs run; MIG instances only while idle.",
                MEASURED ": 0.3 ms to change a slice"},
        {"bursty", mostly_idle, 0, UP(ADVISE_QUOTA, ADVISE_SLICES, ADVISE_MPS),
                "Tenants that are idle for most of the time share best without fixed parts of the "
                "compute power.",
                "work conservation: an idle tenant's time goes to the others"},
        {"mixed-owners", mixed_owners, 0, UP(ADVISE_MIG, ADVISE_SLICES, ADVISE_QUOTA),
                "Between owners, hardware slices isolate best; where there are none, quotas and "
                "slices of time isolate against accidents, not against attacks.",
                GRADING},
        {"alone", alone, 0, UP(ADVISE_WHOLE, ADVISE_QUOTA),
                "One tenant that names no limit has the GPU to itself.", "the wish itself"},
        {"same-owner-many", same_owner_many, 0,
                UP(ADVISE_SLICES, ADVISE_QUOTA, ADVISE_SPATIAL, ADVISE_MPS, ADVISE_MIG),
                "Among one owner's programs a quota keeps each within its memory at no cost, and "
                "slices of time hold exact shares; MPS runs small kernels side by side.",
                MEASURED ": slices of 1 : 9 gave 1 : 9.2"},
        {"by-default", not_in_vm, 0, UP(ADVISE_QUOTA, ADVISE_SLICES),
                "A quota is the least that keeps neighbours apart, and needs no preparation.",
                GRADING},
        {"otherwise", always, 0,
                UP(ADVISE_MIG, ADVISE_MPS, ADVISE_WHOLE, ADVISE_PASSTHROUGH, ADVISE_SPATIAL,
                        ADVISE_SRIOV, ADVISE_VGPU, ADVISE_MIG_VGPU, ADVISE_SEVERAL, ADVISE_REMOTE,
                        ADVISE_PLAIN),
                "It would work, but nothing that was said speaks for it.", GRADING},
};
const size_t advise_n_rules = ARRAY_SIZE(advise_rules);

void advise(const struct advise_ask *ask, const struct advise_machine *machine,
        struct advise_answer *ret)
{
        const struct advise_rule *out[ADVISE_N_WAYS] = {0};
        bool listed[ADVISE_N_WAYS] = {0};

        *ret = (struct advise_answer){0};
        for (size_t i = 0; i < advise_n_rules; i++)
                if (advise_rules[i].applies(ask, machine))
                        for (unsigned way = 0; way < ADVISE_N_WAYS; way++)
                                if (!out[way] && (advise_rules[i].out & 1u << way))
                                        out[way] = advise_rules + i;
        for (size_t i = 0; i < advise_n_rules; i++) {
                const struct advise_rule *rule = advise_rules + i;

                if (!rule->up || !rule->applies(ask, machine))
                        continue;
                for (const uint8_t *way = rule->up; *way < ADVISE_N_WAYS; way++) {
                        if (listed[*way] || out[*way])
                                continue;
                        listed[*way] = true;
                        ret->ranked[ret->n_ranked].way = *way;
                        ret->ranked[ret->n_ranked].rule = rule;
                        ret->ranked[ret->n_ranked++].blocked = machine->blocked[*way];
                }
        }
        for (unsigned way = 0; way < ADVISE_N_WAYS; way++)
                if (out[way]) {
                        ret->rejected[ret->n_rejected].way = way;
                        ret->rejected[ret->n_rejected++].rule = out[way];
                }
        ret->split = advise_split(ask->model, machine->memory, machine->gpus);
}
