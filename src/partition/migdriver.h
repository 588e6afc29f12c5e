/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MIG as NVIDIA's driver has it, through NVML: what a GPU can be cut into (also with MIG off), what
 * it is cut into, and changes of that.
 *
 * NVML is called in a process of its own, which a link starts when it is first asked. So a driver
 * that does not answer holds nobody: the process is given up after a deadline, and the next
 * question starts another.
 */
#pragma once

#include "base/error.h"
#include "policy/mig.h"

#define MIG_UUID_MAX 64

struct mig_compute {
        uint8_t start, slices; /* compute slices, within the GPU instance */
        uint8_t id;
        char uuid[MIG_UUID_MAX]; /* "MIG-…", by which CUDA is given it; "" if not known */
};

struct mig_present {
        uint8_t profile; /* index in the geometry */
        uint8_t start;
        uint8_t id;     /* the driver's */
        unsigned users; /* processes that the driver sees in it */
        unsigned pid;   /* of one of them */
        uint8_t n_compute;
        struct mig_compute compute[MIG_SLICES_MAX];
};

struct mig_driver {
        bool on, pending;             /* pending: a reset would change the mode */
        bool hidden;                  /* instances are only shown to root, and we are not */
        unsigned minor;               /* of /dev/nvidiaN */
        char driver[32];              /* version */
        struct mig_geometry geometry; /* key and devices are empty */
        uint8_t n_present;
        struct mig_present present[MIG_SLICES_MAX];
};

struct mig_link;

/* library: NULL for the system's libnvidia-ml.so.1. NULL: no memory. Starts nothing yet. */
struct mig_link *mig_link_new(const char *library);
void mig_link_free(struct mig_link *link); /* NULL is fine */

/* address: as "0000:01:00.0". -ENODEV with NO_DRIVER: no driver, or not this GPU. -EOPNOTSUPP: not
 * capable of MIG. -ETIMEDOUT. */
int mig_driver_read(struct mig_link *link, unsigned msec, const char *address,
        struct mig_driver *ret, struct cleave_error *error);

/* What the vGPU host driver says. */
#define VGPU_MAX 32
enum vgpu_licence { /* NVML's numbers */
        VGPU_LICENCE_UNKNOWN = 0,
        VGPU_LICENCE_UNINITIALIZED = 1,
        VGPU_UNLICENSED_UNRESTRICTED = 2, /* full speed for the first minutes */
        VGPU_UNLICENSED_RESTRICTED = 3,
        VGPU_UNLICENSED = 4,
        VGPU_LICENSED = 5,
};
struct vgpu_host {
        bool host; /* the host driver is loaded and has the GPU */
        bool ecc;  /* and makes no vGPU on it because its ECC is on (NVML error 22) */
        unsigned n;
        struct {
                char type[64]; /* "NVIDIA L40S-8Q" */
                char vm[80];   /* the VM's UUID or domain */
                unsigned licence;
        } vgpu[VGPU_MAX];
};
/* -EOPNOTSUPP: NVML does not say. Else as mig_driver_read(). */
int vgpu_host_read(struct mig_link *link, unsigned msec, const char *address, struct vgpu_host *ret,
        struct cleave_error *error);

/*
 * MIG as files, so that a change of it is planned, recorded and taken back as one of sysfs is:
 *
 *      mig/ADDRESS/mode                 "on", "off", or with ", off after a reset" behind it
 *      mig/ADDRESS/START/instance       profile of the GPU instance that begins at that memory
 *                                       slice, "3g.40gb", or ""
 *      mig/ADDRESS/START/CSTART/compute the compute instance in it that begins at that compute
 *                                       slice, "3c", or ""
 *
 * Writing "" destroys. state: 0, or negative where the driver cannot be asked; the text is cut off
 * at size. write: 0, -EBUSY (in use), -ENOSPC (no room there), -EPERM, -EUCLEAN (the mode would
 * only change with a reset of the GPU; it is left as it was. Else the GPU waits for one), -ENODEV,
 * -EOPNOTSUPP, -EINVAL, -EAGAIN (not ready), -EACCES (the system keeps us from it), -ENOMEM,
 * -EPROTO (library and kernel module differ), -EBADFD (not in this state), -EIO, -ETIMEDOUT.
 */
#define MIG_FILES "mig/"
int mig_link_state(struct mig_link *link, unsigned msec, const char *path, char *ret, size_t size);
int mig_link_write(struct mig_link *link, unsigned msec, const char *path, const char *value);

/* Where the driver's profiles differ from the table's in what layouts depend on: a sentence in new
 * memory; NULL if nowhere. Sizes in MiB and multiprocessors are compared where both are known. */
char *mig_driver_compare(const struct mig_geometry *driver, const struct mig_geometry *table);
