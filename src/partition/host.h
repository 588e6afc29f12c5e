/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine whose devices are cut: sysfs, proc and dev, each under a root that can be moved, and
 * the one way by which anything in sysfs is written. NVIDIA's driver takes part as files below
 * "mig/" (migdriver.h).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "partition/migdriver.h"

#define HOST_TEXT_MAX 256
#define HOST_PATH_MAX 512

/* How long one write may take before we go on without it. */
#define HOST_WRITE_MSEC 10000u
#define HOST_SHOW_MSEC  2000u

#define HOST_STATE_DIR "/var/lib/cleave/partitions"

struct host;

/* What changes the machine; a test puts a scripted kernel in its place. */
struct host_ops {
        /* path: below the root of sysfs, on the list of host_may_write(). 0, -ETIMEDOUT (the kernel
         * still has the request and may fulfil it later), or what write() gave. */
        int (*write)(struct host *host, const char *path, const char *value, unsigned msec);
        /* VFIO's flags of a function that it has (VFIO_DEVICE_FLAGS_*), at least 0; address NULL: 0
         * where the group's file can be opened. -EBUSY: somebody has the group's file or a device
         * of the group open. -ENOTTY: there is no kernel behind the file. -ETIMEDOUT. Others: it
         * cannot be asked. Whoever opens a device of VFIO's makes the kernel reset it, and
         * meanwhile nobody else can open its group. */
        int (*ask_vfio)(const struct host *host, int group, const char *address, unsigned msec);
        /* Loads a kernel module. 0, -ENOENT (there is none of that name), -EPERM, -EIO. */
        int (*load_module)(struct host *host, const char *name);
        /* Before and after everything that a crash may part; NULL: nobody listens. */
        void (*point)(struct host *host);
};

extern const struct host_ops host_ops_real;

struct host {
        const char *sysfs, *proc, *dev; /* without a slash at the end */
        const char *modules;            /* "/lib/modules"; NULL: not known */
        const char *state;              /* directory of the records */
        struct mig_link *mig;           /* to NVIDIA's driver; NULL: it is not to be asked */
        const struct host_ops *ops;
        void *context;
        unsigned msec;      /* of one write */
        unsigned show_msec; /* how long what a write brings about may take to show */
};

/* The machine itself; every NULL is the usual place. Where sysfs is another's, its kernel's modules
 * are not ours to look at. The texts are kept, not copied. */
void host_init(
        struct host *host, const char *sysfs, const char *proc, const char *dev, const char *state);

/*
 * What a path below sysfs says now: a link gives the last part of its target, a file its text up to
 * the first line's end, "(null)" and an absent file are "". Longer text is cut off.
 * 0 or the negative errno of a file that is there and cannot be read, or of a driver that cannot be
 * asked.
 */
int host_state(const struct host *host, const char *path, char ret[static HOST_TEXT_MAX]);

/* Text of a file below sysfs or proc, without blanks at its end, at most HOST_TEXT_MAX - 1 bytes.
 * -ENOENT where there is none; ret is "" then. */
int host_read(const struct host *host, char ret[static HOST_TEXT_MAX], const char *format, ...)
        __attribute__((format(printf, 3, 4)));
/* A number in C's notation; `otherwise` where there is no file or no number in it. */
long long host_number(const struct host *host, long long otherwise, const char *format, ...)
        __attribute__((format(printf, 3, 4)));
bool host_exists(const struct host *host, const char *format, ...)
        __attribute__((format(printf, 2, 3)));
/* The whole file below sysfs, in new memory. */
int host_read_whole(const struct host *host, const char *path, char **ret);
/* The same below proc. */
int host_read_proc(const struct host *host, const char *path, char **ret);

/* Names in a directory below sysfs, sorted, without those that begin with a dot. An absent
 * directory is an empty one. Freed with host_names_free(). */
struct host_names {
        char **name;
        size_t n;
};
int host_list(const struct host *host, struct host_names *ret, const char *format, ...)
        __attribute__((format(printf, 3, 4)));
/* The same below proc. */
int host_list_proc(const struct host *host, struct host_names *ret, const char *path);
void host_names_free(struct host_names *names);
#define _cleanup_names_ _cleanup_(host_names_free)

/* The only files of sysfs, and of those below "mig/", that are ever written stand in one table. */
bool host_may_write(const char *path);
/* -EPERM for a path that is not in the table, else as host_ops.write. */
int host_write(struct host *host, const char *path, const char *value);

void host_point(struct host *host);
