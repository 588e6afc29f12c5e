/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A way to cut or hand on a device, behind one vtable. What all have in common (records, dry runs,
 * reading back, rolling back) is in change.h.
 */
#pragma once

#include <stdio.h>

#include "partition/change.h"
#include "partition/obstacle.h"
#include "partition/pci.h"

/* What is wished for; what a technique does not know it ignores. */
struct technique_ask {
        const char *type;        /* of a mediated device or vGPU, by name; partition mode */
        const char *memory_mode; /* "NPS1" */
        const char *uuid;        /* of a mediated device; NULL: a new one */
        unsigned count;          /* virtual functions */
        uint64_t quantum_msec;   /* of each function's turn; 0: the driver's */
        uint64_t preempt_usec;   /* after which it is forced to end; 0: the driver's */
        uint64_t memory;         /* bytes of each function; 0: the driver's */
        const char *want;        /* MIG instances, as mig_wants_parse() reads them */
        unsigned compute;        /* compute instances in each MIG instance; 0: one */
        bool turn_on;            /* MIG mode, if it is off */
        bool replace;            /* the wishes are the whole: idle instances of ours may go */
        bool allow_console_loss;
        bool any_device; /* also those that are no GPUs */
        bool thorough;   /* a device that is on VFIO is opened, so reset, to see what VFIO says */
};

/* How something else gets hold of it. */
enum technique_form {
        FORM_QEMU,
        FORM_LIBVIRT,
        FORM_KUBEVIRT,
        FORM_NOVA,
        FORM_ESXI,
        FORM_HYPERV,
        FORM_CDI,    /* a specification of the Container Device Interface */
        FORM_PODMAN, /* options of podman and docker */
        FORM_POD,    /* what a pod of Kubernetes needs */
        FORM_N
};
#define FORM_WORDS "qemu libvirt kubevirt nova esxi hyperv cdi podman pod"
/* -EINVAL */
int form_parse(const char *word, enum technique_form *ret);

struct technique {
        const char *name;  /* in ids and on the command line */
        const char *title; /* for people */

        /* Whether the device has to do with it at all; what does not is not talked about. */
        bool (*concerns)(const struct host *host, const struct pci_function *function);
        /* What it offers on the device now, a phrase without full stop; "" if nothing can be
         * said. */
        void (*offers)(const struct host *host, const struct pci_function *function,
                char ret[static HOST_TEXT_MAX]);
        /* Everything that stands in the way of the wish, found by looking only. 0 also where
         * something does. */
        int (*check)(const struct host *host, const struct pci_function *function,
                const struct technique_ask *ask, struct obstacles *obstacles);
        /* The plan, for a wish that nothing blocks; change holds nothing yet. */
        int (*plan)(const struct host *host, const struct pci_function *function,
                const struct technique_ask *ask, struct change *change, struct cleave_error *error);
        /* Modules that the plan needs are loaded; NULL: it needs none. */
        int (*prepare)(
                struct host *host, const struct pci_function *function, struct cleave_error *error);
        /* Whether what was made can be used; if not it is taken back. Obstacles that only show now
         * are added. NULL: what was read back is enough. */
        int (*verify)(const struct host *host, const struct change *change,
                struct obstacles *obstacles, struct cleave_error *error);
        /* What stands in the way of taking it back. NULL: nothing ever. */
        int (*check_undo)(
                const struct host *host, const struct change *change, struct obstacles *obstacles);
        /* What a container needs of it: an array with an object for each device that it is,
         * {name, nodes: [path], env: [NAME=value], mounts: [path], libraries: whether the driver's
         * own are needed}; a new reference. NULL: it is not for containers. */
        json_t *(*attach)(
                const struct host *host, const struct change *change, struct cleave_error *error);
        /* For VMs. NULL: it has no form of its own. */
        int (*print)(FILE *out, const struct host *host, const struct change *change,
                enum technique_form form, struct cleave_error *error);
};

extern const struct technique technique_mig, technique_passthrough, technique_sriov, technique_vgpu,
        technique_mediated, technique_modes;

/* All that change the machine, in the order in which they are shown. */
extern const struct technique *const techniques[];
extern const size_t n_techniques;
/* NULL: there is none of that name. */
const struct technique *technique_find(const char *name);

/* Checks and plans. 0, or -EBUSY where something blocks: obstacles say all of it. */
int technique_plan(const struct technique *technique, const struct host *host, const char *address,
        const struct technique_ask *ask, struct change *change, struct obstacles *obstacles,
        struct cleave_error *error);

/* The same, then carries it out. */
int technique_apply(const struct technique *technique, struct host *host, const char *address,
        const struct technique_ask *ask, struct change *change, struct obstacles *obstacles,
        struct cleave_error *error);

/* Takes back what the record of that id says. */
int technique_undo(
        struct host *host, const char *id, struct obstacles *obstacles, struct cleave_error *error);
