/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The GPUs that can be simulated: one table.
 *
 * Figures are those of the vendor's data sheets and of what its driver and NVML answer on such a
 * card; sizes in MiB, clocks in kHz, power in mW. Sizes, names and processors of the h100
 * row were seen on a real one; the rest is from public data.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct sim_model {
        const char *key;  /* as in CLEAVE_SIM */
        const char *name; /* as the driver gives it */
        int major, minor; /* compute capability */
        int sms;
        uint32_t memory_mib;    /* as NVML counts it, all of it */
        uint32_t reserved_mib;  /* of this, kept by the driver */
        uint32_t footprint_kib; /* what one context takes */
        uint32_t pci_device_id; /* device << 16 | vendor */
        uint32_t pci_subsystem_id;
        int clock_khz;
        int memory_clock_khz;
        int bus_width; /* bits */
        int l2_bytes;
        int threads_per_sm;
        int blocks_per_sm;
        int shared_per_sm;
        int shared_per_block_optin;
        int reserved_shared;
        int persisting_l2_bytes;
        int copy_engines;
        int fp32_to_fp64; /* ratio of single to double precision */
        int power_limit_mw;
        int architecture; /* NVML_DEVICE_ARCH_* */
        int mig;          /* can be partitioned */
        uint32_t pcie_generation;
        uint32_t nvlink; /* links */
};

/* The model of that key (length bytes of it), or NULL. */
const struct sim_model *sim_model_find(const char *key, size_t length);

/* Reads CLEAVE_SIM's syntax, MODEL[xCOUNT][,...], NULL or empty meaning one h100.
 * The number of devices, at most max; -EINVAL for what it does not understand, -E2BIG. */
int sim_models_parse(const char *text, const struct sim_model **ret_models, int max);
