/* SPDX-License-Identifier: Apache-2.0 */
/* What NVIDIA's driver says about MIG on a GPU, through NVML. Reads only; works with MIG off. */
#pragma once

#include "base/error.h"
#include "policy/mig.h"

struct mig_driver {
        bool on, pending;
        struct mig_geometry geometry; /* key and devices are empty */
};

/* address: as "0000:01:00.0". library: NULL for the system's libnvidia-ml.so.1.
 * -ENODEV with NO_DRIVER: no driver, or not this GPU. -EOPNOTSUPP: not capable of MIG. */
int mig_driver_read(const char *library, const char *address, struct mig_driver *ret,
        struct cleave_error *error);

/* Where the driver's profiles differ from the table's in what layouts depend on: a sentence in new
 * memory; NULL if nowhere. Sizes in MiB and multiprocessors are compared where both are known. */
char *mig_driver_compare(const struct mig_geometry *driver, const struct mig_geometry *table);
