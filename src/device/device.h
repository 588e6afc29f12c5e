/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the daemon sees GPUs. A backend is one const vtable; the simulated GPU and "there is none"
 * are backends too. What a driver does not say is unknown, never zero.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/format.h"

#define DEVICE_MAX 64u

enum device_state {
        DEVICE_UNKNOWN = 0, /* the driver gave an error that may pass */
        DEVICE_OK,
        DEVICE_LOST, /* fallen off the bus; needs the machine's attention */
};

const char *device_state_word(enum device_state state);

struct device {
        unsigned index; /* the driver's, counts from 0 */
        uint8_t uuid[16];
        char uuid_text[FORMAT_UUID_MAX]; /* as the driver writes it */
        char name[96];
        char pci[32];   /* "00000000:01:00.0"; empty: unknown. Of a MIG device its GPU's */
        uint64_t total; /* bytes. Of MIG devices that share an instance's memory each one's part */
        bool mig;       /* a compute instance of a GPU in MIG mode, which is no device itself */
        bool gone;      /* there was such a device, and it is no more: MIG's layout has changed */
};

/* Bytes. UINT64_MAX: unknown. */
#define DEVICE_UNKNOWN_BYTES UINT64_MAX
struct device_memory {
        uint64_t reserved; /* taken by the driver for itself */
        uint64_t used;     /* by processes, without reserved */
        uint64_t free;
};

struct device_process {
        pid_t pid;
        uint64_t bytes; /* DEVICE_UNKNOWN_BYTES: it holds some, not known how much */
};

struct device_backend {
        const char *name;   /* "nvidia", "sim", "null" */
        const char *vendor; /* of its devices */

        /* argument: path of the library, NULL for the system's; for null: why there is none.
         * On failure: NO_DRIVER with the reason. */
        int (*open)(const char *argument, void **ret_handle, struct cleave_error *error);
        void (*close)(void *handle);

        /* All devices, in new memory. Called again, those that were known keep their index, though
         * they may be gone, and new ones come after them. */
        int (*enumerate)(
                void *handle, struct device **ret, size_t *ret_count, struct cleave_error *error);
        /* 0, -ENODEV (lost), -EIO (the driver gave another error). */
        int (*memory)(void *handle, unsigned index, struct device_memory *ret);
        /* The processes that hold memory of the device, each once, ordered by pid, in new memory.
         * 0, -ENODEV (lost), -ENODATA (this driver does not say), -EIO. */
        int (*processes)(
                void *handle, unsigned index, struct device_process **ret, size_t *ret_count);
        /*
         * The driver's own limit of what the processes of a cgroup may hold of the device: full
         * path of its directory, bytes. The limit goes with the cgroup. cgroup NULL: only asks
         * whether the driver has such limits. NULL: it never has.
         * 0, -EOPNOTSUPP (it has none: NVIDIA's before 615), -EPERM, -ENOENT (not for this cgroup),
         * -EIO.
         */
        int (*limit)(void *handle, unsigned index, const char *cgroup, uint64_t bytes);
        /* Version of the driver and the like, for people. Never NULL, lives as long as handle. */
        const char *(*driver_version)(void *handle);
        const char *(*detail)(void *handle);
};

extern const struct device_backend device_backend_nvidia, device_backend_sim, device_backend_null;

/* Bytes that pid holds in a list from processes(): 0 if it is not in it. */
uint64_t device_process_bytes(const struct device_process *list, size_t count, pid_t pid);
