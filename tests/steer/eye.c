/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the simulated driver has set for the graphics/compute groups of processes: looks at its
 * state as the kernel has it.
 *
 * usage: eye SECONDS PID...    a JSON object: for each pid groups, channels, slice_us (of the last
 *                              group), on (part of the time in which all its channels were enabled,
 *                              of one sample a 0.2 ms), off_now (channels disabled at the end),
 *                              longest_off_ms; for all of them together on_together (part of the
 *                              time in which at least two were)
 *        eye slice PID US      sets the slice of its groups, as the process itself could
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "rm.h"
#include "sim/kernel.h"

#define PIDS 32

struct seen {
        uint32_t pid;
        unsigned groups, channels, off;
        uint64_t slice;
        uint64_t samples_on;
        uint64_t off_since, longest_off; /* ns */
};

static uint64_t now_ns(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void look(struct seen *seen, unsigned count)
{
        struct kernel_state *state = kernel_state();

        kernel_lock();
        for (unsigned k = 0; k < count; k++)
                seen[k].groups = seen[k].channels = seen[k].off = 0;
        for (uint32_t i = 0; i < state->object_high; i++) {
                const struct kernel_object *object = &state->object[i];
                const struct kernel_object *group = object;
                uint32_t pid;

                if (object->state != KERNEL_OBJECT_LIVE)
                        continue;
                if ((object->class_id & 0xff) == RM_CLASS_CHANNEL_LOW)
                        group = &state->object[object->parent];
                if (group->class_id != RM_CLASS_CHANNEL_GROUP ||
                        group->engine != RM_ENGINE_GRAPHICS)
                        continue;
                pid = kernel_process_pid(object->process);
                for (unsigned k = 0; k < count; k++) {
                        if (seen[k].pid != pid)
                                continue;
                        if (group == object) {
                                seen[k].groups++;
                                seen[k].slice = object->timeslice;
                        } else {
                                seen[k].channels++;
                                seen[k].off += object->disabled > 0;
                        }
                }
        }
        kernel_unlock();
}

static int set_slice(uint32_t pid, uint64_t us)
{
        struct kernel_state *state = kernel_state();
        int done = 0;

        for (uint32_t i = 0; i < state->object_high; i++) {
                const struct kernel_object *object = &state->object[i];
                struct rm_timeslice slice = {us};
                struct rm_control call = {
                        .client = object->client,
                        .object = object->handle,
                        .cmd = RM_CTRL_GROUP_SET_TIMESLICE,
                        .params = (uint64_t)(uintptr_t)&slice,
                        .params_size = sizeof(slice),
                };

                if (object->state != KERNEL_OBJECT_LIVE ||
                        object->class_id != RM_CLASS_CHANNEL_GROUP ||
                        object->engine != RM_ENGINE_GRAPHICS ||
                        kernel_process_pid(object->process) != pid)
                        continue;
                if (sim_ioctl(kernel_control_fd(),
                            _IOWR(RM_IOCTL_TYPE, RM_ESC_CONTROL, struct rm_control), &call) == 0 &&
                        call.status == RM_OK)
                        done++;
        }
        return done > 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
        struct seen seen[PIDS] = {0};
        const struct timespec pause = {.tv_nsec = 200000};
        uint64_t samples = 0, together = 0, until;
        unsigned count = 0;

        if (argc < 3 || kernel_open() < 0 || kernel_attach() < 0)
                return 2;
        if (strcmp(argv[1], "slice") == 0)
                return argc == 4 ? set_slice((uint32_t)atoi(argv[2]), (uint64_t)atoll(argv[3])) : 2;
        for (int i = 2; i < argc && count < PIDS; i++)
                seen[count++].pid = (uint32_t)atoi(argv[i]);
        until = now_ns() + (uint64_t)(atof(argv[1]) * 1e9);
        do {
                uint64_t now = now_ns();
                unsigned on = 0;

                look(seen, count);
                samples++;
                for (unsigned k = 0; k < count; k++) {
                        if (seen[k].off == 0) {
                                seen[k].samples_on++;
                                seen[k].off_since = 0;
                                on++;
                                continue;
                        }
                        if (!seen[k].off_since)
                                seen[k].off_since = now;
                        if (now - seen[k].off_since > seen[k].longest_off)
                                seen[k].longest_off = now - seen[k].off_since;
                }
                together += on > 1;
                nanosleep(&pause, NULL);
        } while (now_ns() < until);
        printf("{\"samples\": %llu, \"on_together\": %.4f", (unsigned long long)samples,
                (double)together / (double)samples);
        for (unsigned k = 0; k < count; k++)
                printf(", \"%u\": {\"groups\": %u, \"channels\": %u, \"slice_us\": %llu, \"on\": "
                       "%.4f, \"off_now\": %u, \"longest_off_ms\": %.2f}",
                        seen[k].pid, seen[k].groups, seen[k].channels,
                        (unsigned long long)seen[k].slice,
                        (double)seen[k].samples_on / (double)samples, seen[k].off,
                        (double)seen[k].longest_off / 1e6);
        printf("}\n");
        return 0;
}
