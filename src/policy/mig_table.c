/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of each GPU that MIG cuts. The simulated driver answers by the same table. */
#include <string.h>

#include "policy/mig.h"

/* NVML_GPU_INSTANCE_PROFILE_*; the order of the rows below. */
enum {
        PROFILE_1 = 0,
        PROFILE_2 = 1,
        PROFILE_3 = 2,
        PROFILE_4 = 3,
        PROFILE_7 = 4,
        PROFILE_1_ME = 7,
        PROFILE_2_ME = 8,
        PROFILE_1_2X = 9,
};

#define START(n) (1u << (n))

/*
 * The seven profiles of a GPU with eight memory slices. Ids, sizes and starts are those that
 * nvidia-smi mig -lgip and -lgipp show on A100, H100 and H100 NVL; on an H100 80GB the driver
 * itself gave them through NVML.
 */
#define EIGHT(n1, m1, s1, n2x, m2x, s2x, n2, m2, s2, n3, m3, s3, n4, m4, s4, n7, m7, s7)           \
        .slices = 8, .n_profiles = 7,                                                              \
        .profiles = {                                                                              \
                {n1, PROFILE_1, 19, 1, 1, 7, false, 0x7f, s1, m1},                                 \
                {n1 "+me", PROFILE_1_ME, 20, 1, 1, 1, true, 0x7f, s1, m1},                         \
                {n2x, PROFILE_1_2X, 15, 2, 1, 4, false, START(0) | START(2) | START(4) | START(6), \
                        s2x, m2x},                                                                 \
                {n2, PROFILE_2, 14, 2, 2, 3, false, START(0) | START(2) | START(4), s2, m2},       \
                {n3, PROFILE_3, 9, 4, 3, 2, false, START(0) | START(4), s3, m3},                   \
                {n4, PROFILE_4, 5, 4, 4, 1, false, START(0), s4, m4},                              \
                {n7, PROFILE_7, 0, 8, 7, 1, true, START(0), s7, m7},                               \
        }

const struct mig_geometry mig_geometries[] = {
        {
                .key = "a100-40",
                .name = "A100 40GB",
                .starts_from = MIG_READ,
                .figures_from = MIG_READ,
                .devices = {0x20b0, 0x20b1, 0x20f1, 0x20f6},
                EIGHT("1g.5gb", 4864, 14, "1g.10gb", 9856, 14, "2g.10gb", 9856, 28, "3g.20gb",
                        19968, 42, "4g.20gb", 19968, 56, "7g.40gb", 40192, 98),
        },
        {
                .key = "a100-80",
                .name = "A100 80GB",
                .starts_from = MIG_READ,
                .figures_from = MIG_READ,
                .devices = {0x20b2, 0x20b5, 0x20f3, 0x20f5},
                EIGHT("1g.10gb", 9728, 14, "1g.20gb", 19968, 14, "2g.20gb", 19968, 28, "3g.40gb",
                        40192, 42, "4g.40gb", 40192, 56, "7g.80gb", 80384, 98),
        },
        {
                .key = "a30",
                .name = "A30",
                .slices = 4,
                .starts_from = MIG_READ,
                .figures_from = MIG_READ,
                .devices = {0x20b7},
                .n_profiles = 5,
                .profiles =
                        {
                                {"1g.6gb", PROFILE_1, 14, 1, 1, 4, false, 0x0f, 14, 5952},
                                {"1g.6gb+me", PROFILE_1_ME, 21, 1, 1, 1, true, 0x0f, 14, 5952},
                                {"2g.12gb", PROFILE_2, 5, 2, 2, 2, false, START(0) | START(2), 28,
                                        11968},
                                {"2g.12gb+me", PROFILE_2_ME, 6, 2, 2, 1, true, START(0) | START(2),
                                        28, 11968},
                                {"4g.24gb", PROFILE_4, 0, 4, 4, 1, true, START(0), 56, 24000},
                        },
        },
        {
                .key = "h100-80",
                .name = "H100 80GB",
                .starts_from = MIG_MEASURED,
                .figures_from = MIG_MEASURED,
                .devices = {0x2330, 0x2331, 0x2322, 0x2324},
                EIGHT("1g.10gb", 9984, 16, "1g.20gb", 20096, 26, "2g.20gb", 20096, 32, "3g.40gb",
                        40448, 60, "4g.40gb", 40448, 64, "7g.80gb", 0, 132),
        },
        {
                .key = "h100-nvl",
                .name = "H100 NVL 94GB",
                .starts_from = MIG_READ,
                .figures_from = MIG_READ,
                .devices = {0x2321, 0x233a},
                EIGHT("1g.12gb", 10880, 16, "1g.24gb", 22016, 26, "2g.24gb", 22016, 32, "3g.47gb",
                        47206, 60, "4g.47gb", 47206, 64, "7g.94gb", 95360, 132),
        },
        {
                .key = "h100-96",
                .name = "H100 96GB, GH200 96GB",
                .starts_from = MIG_INFERRED,
                .figures_from = MIG_READ,
                .devices = {0x2342, 0x233d},
                EIGHT("1g.12gb", 11264, 16, "1g.24gb", 23552, 26, "2g.24gb", 23552, 32, "3g.48gb",
                        47616, 60, "4g.48gb", 47616, 64, "7g.96gb", 95232, 132),
        },
        {
                .key = "h200",
                .name = "H200 141GB",
                .starts_from = MIG_INFERRED,
                .figures_from = MIG_READ,
                .devices = {0x2335, 0x233b},
                EIGHT("1g.18gb", 16384, 16, "1g.35gb", 33024, 26, "2g.35gb", 33024, 32, "3g.71gb",
                        71168, 60, "4g.71gb", 71168, 64, "7g.141gb", 143360, 132),
        },
        {
                .key = "gh200-144",
                .name = "GH200 144GB",
                .starts_from = MIG_INFERRED,
                .figures_from = MIG_READ,
                .devices = {0x2348},
                EIGHT("1g.18gb", 17920, 16, "1g.36gb", 36096, 26, "2g.36gb", 36096, 32, "3g.72gb",
                        0, 60, "4g.72gb", 0, 64, "7g.144gb", 0, 132),
        },
        {
                .key = "b200",
                .name = "B200 180GB",
                .starts_from = MIG_INFERRED,
                .figures_from = MIG_READ,
                .devices = {0x2901},
                EIGHT("1g.23gb", 20992, 18, "1g.45gb", 45312, 30, "2g.45gb", 45312, 36, "3g.90gb",
                        0, 0, "4g.90gb", 0, 0, "7g.180gb", 0, 0),
        },
        {
                .key = "gb200",
                .name = "GB200 186GB",
                .starts_from = MIG_INFERRED,
                .figures_from = MIG_READ,
                .devices = {0x2941},
                EIGHT("1g.23gb", 20480, 18, "1g.47gb", 46592, 32, "2g.47gb", 46592, 38, "3g.93gb",
                        0, 0, "4g.93gb", 0, 0, "7g.186gb", 0, 0),
        },
};
const size_t mig_n_geometries = ARRAY_SIZE(mig_geometries);

const struct mig_geometry *mig_geometry_find(const char *key)
{
        for (size_t i = 0; i < mig_n_geometries; i++)
                if (strcmp(mig_geometries[i].key, key) == 0)
                        return mig_geometries + i;
        return NULL;
}

const struct mig_geometry *mig_geometry_of_pci(uint16_t vendor, uint16_t device)
{
        if (vendor != 0x10de)
                return NULL;
        for (size_t i = 0; i < mig_n_geometries; i++)
                for (size_t j = 0; j < ARRAY_SIZE(mig_geometries[i].devices); j++)
                        if (mig_geometries[i].devices[j] == device && device != 0)
                                return mig_geometries + i;
        return NULL;
}
