/* SPDX-License-Identifier: Apache-2.0 */
/* For the tests of the simulated GPU: checks, and a machine of one's own. */
#pragma once

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cuda_api.h"
#include "nvml_api.h"

#define MIB (1ull << 20)

#define CHECK(condition)                                                                           \
        do {                                                                                       \
                if (!(condition)) {                                                                \
                        fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
                        exit(1);                                                                   \
                }                                                                                  \
        } while (0)

#define CHECK_EQ(left, right)                                                                      \
        do {                                                                                       \
                long long check_left = (long long)(left), check_right = (long long)(right);        \
                if (check_left != check_right) {                                                   \
                        fprintf(stderr, "%s:%d: %s is %lld, not %lld (%s)\n", __FILE__, __LINE__,  \
                                #left, check_left, check_right, #right);                           \
                        exit(1);                                                                   \
                }                                                                                  \
        } while (0)

/* A driver call that must succeed. */
#define OK(call) CHECK_EQ(call, CUDA_SUCCESS)

static char check_directory[64];
static pid_t check_owner;

static inline int check_remove_one(
        const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        return remove(path);
}

static inline void check_remove(void)
{
        if (getpid() == check_owner)
                nftw(check_directory, check_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A machine of these models that nobody else uses, removed when this process exits. To be called
 * before anything of the driver. */
static inline void machine(const char *models)
{
        strcpy(check_directory, "/dev/shm/cleave-sim-test-XXXXXX");
        if (!mkdtemp(check_directory)) {
                strcpy(check_directory, "/tmp/cleave-sim-test-XXXXXX");
                CHECK(mkdtemp(check_directory));
        }
        check_owner = getpid();
        atexit(check_remove);
        setenv("CLEAVE_SIM_DIR", check_directory, 1);
        setenv("CLEAVE_SIM", models, 1);
        unsetenv("CLEAVE_SIM_FAULTS");
        unsetenv("CUDA_VISIBLE_DEVICES");
        CHECK_EQ(nvmlInit_v2(), NVML_SUCCESS);
}

static inline nvmlDevice_t nvml_device(unsigned int index)
{
        nvmlDevice_t device;

        CHECK_EQ(nvmlDeviceGetHandleByIndex_v2(index, &device), NVML_SUCCESS);
        return device;
}

/* Bytes in use on a device, by NVML. */
static inline uint64_t nvml_used(unsigned int index)
{
        nvmlMemory_v2_t memory = {.version = nvmlMemory_v2};

        CHECK_EQ(nvmlDeviceGetMemoryInfo_v2(nvml_device(index), &memory), NVML_SUCCESS);
        return memory.used;
}

/* Bytes that a process holds on a device, by NVML; -1: it is not listed. */
static inline int64_t nvml_process(unsigned int index, pid_t pid)
{
        nvmlProcessInfo_t infos[512];
        unsigned int n = 512;

        CHECK_EQ(nvmlDeviceGetComputeRunningProcesses_v3(nvml_device(index), &n, infos),
                NVML_SUCCESS);
        for (unsigned int i = 0; i < n; i++)
                if (infos[i].pid == (unsigned int)pid)
                        return (int64_t)infos[i].usedGpuMemory;
        return -1;
}

static inline double seconds(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Waits until the device holds that much; false after so many seconds. */
static inline bool wait_used(unsigned int index, uint64_t bytes, double limit)
{
        double end = seconds() + limit;

        while (nvml_used(index) != bytes) {
                if (seconds() > end)
                        return false;
                usleep(1000);
        }
        return true;
}

/* Runs fn in a child: 0 if it returned, else what waitpid says. */
static inline int in_child(void (*fn)(void))
{
        pid_t pid = fork();
        int status;

        CHECK(pid >= 0);
        if (pid == 0) {
                fn();
                exit(0);
        }
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        return status;
}
