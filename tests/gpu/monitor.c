/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads NVML's count of device memory held by processes as fast as NVML answers, until standard
 * input ends, and prints the largest sum that it saw, as one JSON object. Run it outside every
 * tenant, on a device that only the tenants under test use.
 *
 * usage: monitor [DEVICE]
 */
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "nvml_api.h"

static double seconds(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
        static nvmlProcessInfo_t list[1024];
        void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
        struct pollfd input = {.fd = 0, .events = POLLIN};
        unsigned long long most = 0, samples = 0, sum = 0;
        __typeof__(&nvmlDeviceGetComputeRunningProcesses_v3) processes;
        __typeof__(&nvmlDeviceGetHandleByIndex_v2) by_index;
        __typeof__(&nvmlInit_v2) init;
        nvmlDevice_t device;
        double start;
        char byte;

        if (!library)
                return 3;
        init = (__typeof__(init))dlsym(library, "nvmlInit_v2");
        by_index = (__typeof__(by_index))dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
        processes =
                (__typeof__(processes))dlsym(library, "nvmlDeviceGetComputeRunningProcesses_v3");
        if (!init || !by_index || !processes || init() != NVML_SUCCESS ||
                by_index(argc > 1 ? (unsigned)atoi(argv[1]) : 0, &device) != NVML_SUCCESS)
                return 3;
        printf("ready\n");
        fflush(stdout);
        start = seconds();
        for (;;) {
                unsigned n = 1024;

                if (processes(device, &n, list) == NVML_SUCCESS) {
                        sum = 0;
                        for (unsigned i = 0; i < n; i++)
                                sum += list[i].usedGpuMemory;
                        if (sum > most)
                                most = sum;
                        samples++;
                }
                if (samples % 64 == 0 && poll(&input, 1, 0) > 0 && read(0, &byte, 1) <= 0)
                        break;
        }
        printf("{\"samples\": %llu, \"per_second\": %.0f, \"most_bytes\": %llu, "
               "\"last_bytes\": %llu}\n",
                samples, (double)samples / (seconds() - start), most, sum);
        return 0;
}
