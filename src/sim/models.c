/* SPDX-License-Identifier: Apache-2.0 */
#include "models.h"

#include <errno.h>
#include <string.h>

static const struct sim_model models[] = {
        {
                .key = "h100",
                .name = "NVIDIA H100 80GB HBM3",
                .major = 9,
                .minor = 0,
                .sms = 132,
                .memory_mib = 81559,
                .reserved_mib = 480,
                .footprint_kib = 518 * 1024,
                .pci_device_id = 0x233010de,
                .pci_subsystem_id = 0x16c110de,
                .clock_khz = 1980000,
                .memory_clock_khz = 2619000,
                .bus_width = 5120,
                .l2_bytes = 52428800,
                .threads_per_sm = 2048,
                .blocks_per_sm = 32,
                .shared_per_sm = 233472,
                .shared_per_block_optin = 232448,
                .reserved_shared = 1024,
                .persisting_l2_bytes = 32768000,
                .copy_engines = 3,
                .fp32_to_fp64 = 2,
                .power_limit_mw = 700000,
                .architecture = 9,
                .mig = 1,
                .pcie_generation = 5,
                .nvlink = 18,
        },
        {
                .key = "h200",
                .name = "NVIDIA H200",
                .major = 9,
                .minor = 0,
                .sms = 132,
                .memory_mib = 143771,
                .reserved_mib = 613,
                .footprint_kib = 526 * 1024,
                .pci_device_id = 0x233510de,
                .pci_subsystem_id = 0x18be10de,
                .clock_khz = 1980000,
                .memory_clock_khz = 3201000,
                .bus_width = 6144,
                .l2_bytes = 62914560,
                .threads_per_sm = 2048,
                .blocks_per_sm = 32,
                .shared_per_sm = 233472,
                .shared_per_block_optin = 232448,
                .reserved_shared = 1024,
                .persisting_l2_bytes = 39321600,
                .copy_engines = 3,
                .fp32_to_fp64 = 2,
                .power_limit_mw = 700000,
                .architecture = 9,
                .mig = 1,
                .pcie_generation = 5,
                .nvlink = 18,
        },
        {
                .key = "a100",
                .name = "NVIDIA A100-SXM4-80GB",
                .major = 8,
                .minor = 0,
                .sms = 108,
                .memory_mib = 81920,
                .reserved_mib = 663,
                .footprint_kib = 418 * 1024,
                .pci_device_id = 0x20b210de,
                .pci_subsystem_id = 0x146310de,
                .clock_khz = 1410000,
                .memory_clock_khz = 1593000,
                .bus_width = 5120,
                .l2_bytes = 41943040,
                .threads_per_sm = 2048,
                .blocks_per_sm = 32,
                .shared_per_sm = 167936,
                .shared_per_block_optin = 166912,
                .reserved_shared = 1024,
                .persisting_l2_bytes = 26214400,
                .copy_engines = 3,
                .fp32_to_fp64 = 2,
                .power_limit_mw = 400000,
                .architecture = 7,
                .mig = 1,
                .pcie_generation = 4,
                .nvlink = 12,
        },
        {
                .key = "a30",
                .name = "NVIDIA A30",
                .major = 8,
                .minor = 0,
                .sms = 56,
                .memory_mib = 24576,
                .reserved_mib = 308,
                .footprint_kib = 266 * 1024,
                .pci_device_id = 0x20b710de,
                .pci_subsystem_id = 0x153210de,
                .clock_khz = 1440000,
                .memory_clock_khz = 1215000,
                .bus_width = 3072,
                .l2_bytes = 25165824,
                .threads_per_sm = 2048,
                .blocks_per_sm = 32,
                .shared_per_sm = 167936,
                .shared_per_block_optin = 166912,
                .reserved_shared = 1024,
                .persisting_l2_bytes = 15728640,
                .copy_engines = 3,
                .fp32_to_fp64 = 2,
                .power_limit_mw = 165000,
                .architecture = 7,
                .mig = 1,
                .pcie_generation = 4,
                .nvlink = 4,
        },
        {
                .key = "b200",
                .name = "NVIDIA B200",
                .major = 10,
                .minor = 0,
                .sms = 148,
                .memory_mib = 183359,
                .reserved_mib = 715,
                .footprint_kib = 586 * 1024,
                .pci_device_id = 0x290110de,
                .pci_subsystem_id = 0x199910de,
                .clock_khz = 1965000,
                .memory_clock_khz = 3996000,
                .bus_width = 7680,
                .l2_bytes = 132644864,
                .threads_per_sm = 2048,
                .blocks_per_sm = 32,
                .shared_per_sm = 233472,
                .shared_per_block_optin = 232448,
                .reserved_shared = 1024,
                .persisting_l2_bytes = 82903040,
                .copy_engines = 4,
                .fp32_to_fp64 = 2,
                .power_limit_mw = 1000000,
                .architecture = 10,
                .mig = 1,
                .pcie_generation = 5,
                .nvlink = 18,
        },
        {
                .key = "t4",
                .name = "Tesla T4",
                .major = 7,
                .minor = 5,
                .sms = 40,
                .memory_mib = 15360,
                .reserved_mib = 448,
                .footprint_kib = 142 * 1024,
                .pci_device_id = 0x1eb810de,
                .pci_subsystem_id = 0x12a210de,
                .clock_khz = 1590000,
                .memory_clock_khz = 5001000,
                .bus_width = 256,
                .l2_bytes = 4194304,
                .threads_per_sm = 1024,
                .blocks_per_sm = 16,
                .shared_per_sm = 65536,
                .shared_per_block_optin = 65536,
                .reserved_shared = 0,
                .persisting_l2_bytes = 0,
                .copy_engines = 3,
                .fp32_to_fp64 = 32,
                .power_limit_mw = 70000,
                .architecture = 6,
                .mig = 0,
                .pcie_generation = 3,
                .nvlink = 0,
        },
};

const struct sim_model *sim_model_find(const char *key, size_t length)
{
        for (size_t i = 0; i < sizeof(models) / sizeof(*models); i++)
                if (strlen(models[i].key) == length && !memcmp(models[i].key, key, length))
                        return models + i;
        return NULL;
}

/* One element, MODEL or MODELxCOUNT: the count, 0 if it is neither. */
static int parse_element(const char *text, size_t length, const struct sim_model **ret)
{
        const char *x = memrchr(text, 'x', length);
        int count = 0;

        *ret = sim_model_find(text, length);
        if (*ret)
                return 1;
        if (!x || x + 1 == text + length || text + length - x > 4)
                return 0;
        for (const char *p = x + 1; p < text + length; p++) {
                if (*p < '0' || *p > '9')
                        return 0;
                count = count * 10 + *p - '0';
        }
        *ret = sim_model_find(text, (size_t)(x - text));
        return *ret ? count : 0;
}

int sim_models_parse(const char *text, const struct sim_model **ret_models, int max)
{
        int n = 0;

        if (!text || !*text)
                text = "h100";
        for (;;) {
                size_t length = strcspn(text, ",");
                const struct sim_model *model;
                int count = parse_element(text, length, &model);

                if (count == 0)
                        return -EINVAL;
                if (count > max - n)
                        return -E2BIG;
                while (count--)
                        ret_models[n++] = model;
                text += length;
                if (!*text)
                        return n;
                text++;
        }
}
