/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine of plain files, and a kernel that answers what is written to it: driver_override,
 * unbind, drivers_probe, sriov_numvfs, mediated devices, vGPU types, partition modes, consoles.
 * It answers as the kernel did where that was tried (vfio-pci, nvme's SR-IOV, mtty), errors
 * included.
 */
#pragma once

#include "partition/host.h"

#define TREE_ANY_LEAF "*"

struct tree {
        char root[64];
        char sysfs[80], proc[80], dev[80], state[80];
        struct host host;

        /* What the kernel does in place of what was asked for, next time that file is written;
         * error 0: takes it and does nothing. */
        const char *fault_leaf;
        int fault_error;
        /* Counts what a crash may part; at this number the process ends by SIGKILL. 0: never. */
        unsigned points, crash_at;
        unsigned writes;
};

/* An empty machine with an IOMMU. */
void tree_init(struct tree *tree);
void tree_done(struct tree *tree);

/* Makes the file and the directories above it, below the root: "sys/…", "proc/…". */
void tree_file(struct tree *tree, const char *text, const char *format, ...)
        __attribute__((format(printf, 3, 4)));
void tree_link(struct tree *tree, const char *target, const char *format, ...)
        __attribute__((format(printf, 3, 4)));
void tree_remove(struct tree *tree, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool tree_has(struct tree *tree, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Of a file below sysfs, as host_state(); from a static buffer. */
const char *tree_state(struct tree *tree, const char *format, ...)
        __attribute__((format(printf, 2, 3)));

/* A function below port (NULL: on the root bus), in an IOMMU group of that number (< 0: none), on
 * that driver (NULL: none), which becomes its native one. */
void tree_function(struct tree *tree, const char *address, const char *port, unsigned vendor,
        unsigned device, unsigned class, int group, const char *driver);
/* NVIDIA's driver, simulated, with that model as GPU TREE_MIG_GPU, in MIG mode or not; the function
 * that goes with it. The library is that of CLEAVE_TEST_NVML. */
#define TREE_MIG_GPU "0000:1b:00.0"
void tree_mig(struct tree *tree, const char *model, bool on);
/* What CLEAVE_SIM_FAULTS asks for, from now on. */
void tree_faults(struct tree *tree, const char *faults);
/* As another tool would: one of the driver's files, past Cleave. */
void tree_others(struct tree *tree, const char *path, const char *value);
/* Others change the mode, which then waits for a reset. */
void tree_mode_pending(struct tree *tree, unsigned on);
/* A process that has a node open. */
void tree_process(struct tree *tree, int pid, const char *command, const char *node);
/* A process that has a descriptor of a device of VFIO's; of which one, a new kernel says. NULL: the
 * kernel is older. */
void tree_vfio_device(struct tree *tree, int pid, const char *command, const char *device);
/* Somebody has the group's file or a device of it. */
void tree_vfio_busy(struct tree *tree, int group);
/* VFIO finds that it cannot reset it, whatever sysfs says. */
void tree_no_reset(struct tree *tree, const char *address);
/* The whole tree without the records, as text: what changed is seen by comparing. */
char *tree_snapshot(struct tree *tree);
