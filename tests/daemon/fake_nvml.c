/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver that says what a test wants: NVML's names over a text file, read anew at every call.
 *
 *      driver VERSION                 its version; "fail N": nvmlInit returns N
 *      device UUID TOTAL RESERVED     in bytes, one line a device
 *      process INDEX PID BYTES        BYTES may be "unknown"
 *      used INDEX BYTES               beside what the processes hold
 *      lost INDEX                     the device has fallen off the bus
 *      limits PATH N                  limits by cgroup are written to that file, a line each, and
 *                                     answered with N; without this line there are none
 *      asked PATH                     a byte is added there whenever processes are asked for
 *
 * The file is named by FAKE_NVML.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES   8
#define PROCESSES 512

struct state {
        int init_result;
        char version[64];
        char limits[160], asked[160];
        int limits_result;
        unsigned devices, processes;
        struct {
                char uuid[64];
                unsigned long long total, reserved, used;
                bool lost;
        } device[DEVICES];
        struct {
                unsigned device, pid;
                unsigned long long bytes;
        } process[PROCESSES];
};

static struct state state;

static void read_state(void)
{
        const char *path = getenv("FAKE_NVML");
        FILE *file = path ? fopen(path, "re") : NULL;
        char line[256], text[64];
        unsigned index, pid;
        unsigned long long a, b;

        memset(&state, 0, sizeof(state));
        while (file && fgets(line, sizeof(line), file)) {
                if (sscanf(line, "device %63s %llu %llu", text, &a, &b) == 3 &&
                        state.devices < DEVICES) {
                        strcpy(state.device[state.devices].uuid, text);
                        state.device[state.devices].total = a;
                        state.device[state.devices++].reserved = b;
                } else if (sscanf(line, "process %u %u %63s", &index, &pid, text) == 3 &&
                           state.processes < PROCESSES && index < DEVICES) {
                        unsigned long long bytes = strcmp(text, "unknown") == 0
                                                           ? UINT64_MAX
                                                           : strtoull(text, NULL, 10);

                        state.process[state.processes].device = index;
                        state.process[state.processes].pid = pid;
                        state.process[state.processes++].bytes = bytes;
                        if (bytes != UINT64_MAX)
                                state.device[index].used += bytes;
                } else if (sscanf(line, "used %u %llu", &index, &a) == 2 && index < DEVICES) {
                        state.device[index].used += a;
                } else if (sscanf(line, "lost %u", &index) == 1 && index < DEVICES) {
                        state.device[index].lost = true;
                } else if (sscanf(line, "limits %159s %d", state.limits, &state.limits_result) ==
                           2) {
                        continue;
                } else if (sscanf(line, "asked %159s", state.asked) == 1) {
                        continue;
                } else if (sscanf(line, "driver %63s", text) == 1) {
                        strcpy(state.version, text);
                } else {
                        sscanf(line, "fail %d", &state.init_result);
                }
        }
        if (file)
                fclose(file);
}

typedef void *device_handle;

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlSystemGetDriverVersion(char *text, unsigned size);
int nvmlDeviceGetCount_v2(unsigned *count);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_handle *device);
int nvmlDeviceGetUUID(device_handle device, char *text, unsigned size);
int nvmlDeviceGetName(device_handle device, char *text, unsigned size);

struct memory {
        unsigned long long total, free, used;
};
struct memory_v2 {
        unsigned version;
        unsigned long long total, reserved, free, used;
};
struct process {
        unsigned pid;
        unsigned long long used;
        unsigned gpu_instance, compute_instance;
};

int nvmlDeviceGetMemoryInfo(device_handle device, struct memory *memory);
int nvmlDeviceGetMemoryInfo_v2(device_handle device, struct memory_v2 *memory);
int nvmlDeviceGetComputeRunningProcesses_v3(
        device_handle device, unsigned *count, struct process *list);

struct limits {
        const char *cgroup;
        unsigned long long soft, hard;
};
int nvmlDeviceSetMemoryLimits_v1(device_handle device, struct limits *limits);

/* handles count from 1, so that none is NULL */
static unsigned index_of(device_handle device)
{
        return (unsigned)(uintptr_t)device - 1;
}

int nvmlInit_v2(void)
{
        read_state();
        return state.init_result;
}

int nvmlShutdown(void)
{
        return 0;
}

int nvmlSystemGetDriverVersion(char *text, unsigned size)
{
        snprintf(text, size, "%s", state.version);
        return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
        read_state();
        *count = state.devices;
        return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_handle *device)
{
        *device = (device_handle)(uintptr_t)(index + 1);
        return state.device[index].lost ? 15 : 0;
}

int nvmlDeviceGetUUID(device_handle device, char *text, unsigned size)
{
        snprintf(text, size, "%s", state.device[index_of(device)].uuid);
        return 0;
}

int nvmlDeviceGetName(device_handle device, char *text, unsigned size)
{
        snprintf(text, size, "Fake GPU %u", index_of(device));
        return 0;
}

int nvmlDeviceGetMemoryInfo(device_handle device, struct memory *memory)
{
        unsigned i = index_of(device);

        read_state();
        if (state.device[i].lost)
                return 15;
        memory->total = state.device[i].total;
        memory->used = state.device[i].used + state.device[i].reserved;
        memory->free = memory->total - memory->used;
        return 0;
}

int nvmlDeviceGetMemoryInfo_v2(device_handle device, struct memory_v2 *memory)
{
        unsigned i = index_of(device);

        read_state();
        if (memory->version != (sizeof(*memory) | 2u << 24))
                return 25;
        if (state.device[i].lost)
                return 15;
        memory->total = state.device[i].total;
        memory->reserved = state.device[i].reserved;
        memory->used = state.device[i].used;
        memory->free = memory->total - memory->used - memory->reserved;
        return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(
        device_handle device, unsigned *count, struct process *list)
{
        unsigned n = 0, room = *count, i = index_of(device);

        FILE *asked;

        read_state();
        asked = state.asked[0] ? fopen(state.asked, "ae") : NULL;
        if (asked) {
                fputc('.', asked);
                fclose(asked);
        }
        if (state.device[i].lost)
                return 15;
        for (unsigned k = 0; k < state.processes; k++)
                n += state.process[k].device == i;
        *count = n;
        if (n > room)
                return 7;
        n = 0;
        for (unsigned k = 0; k < state.processes; k++)
                if (state.process[k].device == i)
                        list[n++] = (struct process){
                                .pid = state.process[k].pid, .used = state.process[k].bytes};
        return 0;
}

int nvmlDeviceSetMemoryLimits_v1(device_handle device, struct limits *limits)
{
        FILE *file;

        read_state();
        if (!*state.limits)
                return 3;
        file = fopen(state.limits, "ae");
        if (file) {
                fprintf(file, "%u %s %llu %llu\n", index_of(device), limits->cgroup, limits->soft,
                        limits->hard);
                fclose(file);
        }
        return state.limits_result;
}
