/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The environment variables that Cleave reads, in one list: X(identifier, name, meaning).
 * The man page is made from it.
 */
#pragma once

#define CLEAVE_ENVIRONMENT(X)                                                                      \
        X(TENANT, "CLEAVE_TENANT",                                                                 \
                "Id of the tenant, 16 hexadecimal digits, or in a container `container`. Set by "  \
                "cleave run; a hint to the daemon, which checks it against the process.")          \
        X(RUNTIME, "CLEAVE_RUNTIME_DIR",                                                           \
                "Directory of the daemon's sockets. Set by cleave run. Default: /run/cleave "      \
                "where a "                                                                         \
                "system daemon listens, else $XDG_RUNTIME_DIR/cleave, else /tmp/cleave-UID.")      \
        X(LIBCUDA, "CLEAVE_LIBCUDA",                                                               \
                "Absolute path of the driver library that the guard stands before. Default: the "  \
                "first libcuda.so.1 of the normal search that is not the guard.")                  \
        X(LIBNVML, "CLEAVE_LIBNVML", "The same for libnvidia-ml.so.1.")                            \
        X(SIM, "CLEAVE_SIM",                                                                       \
                "Simulated GPUs to use instead of real ones: a model, or several, as h100, "       \
                "h100x2 "                                                                          \
                "or a100,h100.")                                                                   \
        X(SIM_DIR, "CLEAVE_SIM_DIR",                                                               \
                "Directory of the simulated GPUs' state, shared by all processes that use it. "    \
                "Default: /dev/shm/cleave-sim-UID.")                                               \
        X(SIM_FAULTS, "CLEAVE_SIM_FAULTS",                                                         \
                "Faults that the simulated GPUs are to show in this process, as "                  \
                "oom@cuMemAlloc_v2:3,slow=2ms@cuLaunchKernel; src/sim/README.md has them all.")    \
        X(MEMORY, "CLEAVE_MEMORY",                                                                 \
                "In a container with the device cleave.dev/gpu=any: how much device memory it is " \
                "granted. See cleave-cdi(1).")                                                     \
        X(COMPUTE, "CLEAVE_COMPUTE",                                                               \
                "In a container: its guaranteed share of compute in percent, as that of cleave "   \
                "run --compute.")                                                                  \
        X(TRACE, "CLEAVE_TRACE",                                                                   \
                "Absolute path of the file in which calls are recorded. Set by cleave trace.")     \
        X(TRACE_BEHIND, "CLEAVE_TRACE_BEHIND",                                                     \
                "Absolute path of the library that the tracer stands before: a guard. Set by "     \
                "cleave trace. Default: the first libcuda.so.1 of the normal search.")             \
        X(SWITCHES, "CLEAVE_SWITCHES",                                                             \
                "Beginning of the path of a file in which the steering process of a daemon that "  \
                "is started with it writes what it sees of the GPUs' context switches, some 30 "   \
                "bytes for each; the end is its pid. For finding out why a share is not kept. "    \
                "Default: nowhere.")                                                               \
        X(DEBUG, "CLEAVE_DEBUG",                                                                   \
                "Where the guard writes what it does: 2 for standard error, or a file's path. "    \
                "Default: nowhere.")

/* In the daemon's runtime directory: that of the MPS servers of tenants in space; below it a
 * device's clients find their server by CLEAVE_SPACE_PIPE with the device's index. */
#define CLEAVE_SPACE_DIRECTORY "mps"
#define CLEAVE_SPACE_SERVER    "d%u"
#define CLEAVE_SPACE_PIPE      CLEAVE_SPACE_DIRECTORY "/" CLEAVE_SPACE_SERVER "/pipe"

/* In a container: where the driver's own libraries are that the guard is mounted over. A process
 * that the engine starts in it later (podman exec) may have none of the variables. */
#define CLEAVE_CONTAINER_DRIVER_DIR "/usr/lib/cleave/driver"

#define X(identifier, name, meaning)                                                               \
        static const char CLEAVE_ENV_##identifier[] __attribute__((unused)) = name;
CLEAVE_ENVIRONMENT(X)
#undef X
