/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVIDIA's MPS: a control daemon for one device or a group of them, with a pipe directory of its
 * own, so that several stand side by side and none is in the way of one that others have started.
 * The compute mode of the card is left as it is.
 *
 * Version 2 of its interface takes commands on standard input; version 3, from driver 615 on, takes
 * them as arguments and has named servers, of which ours has one. (NVIDIA's MPS guide, release 615;
 * version 3 was not yet seen on a GPU.)
 *
 * What limits a client (part of the threads, memory) is set before the first client comes, as the
 * daemon's defaults, and read back.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "partition/host.h"
#include "policy/advise.h"

#define MPS_DEADLINE_MSEC 10000u

/*
 * What a client of MPS meets, X(code, name, sentence, hint): CUDA's results of these names and
 * numbers (CUDA driver API, CUresult), where they come from as NVIDIA's MPS guide has it.
 */
#define MPS_ERRORS(X)                                                                              \
        X(805, "CUDA_ERROR_MPS_CONNECTION_FAILED",                                                 \
                "no MPS server answers in its CUDA_MPS_PIPE_DIRECTORY, or the one there does not " \
                "take it",                                                                         \
                "`cleave mps status` says which run; a client is of the server's user and sees "   \
                "that directory, in a container too.")                                             \
        X(806, "CUDA_ERROR_MPS_RPC_FAILURE",                                                       \
                "the MPS server has ended, and with it the contexts of its clients",               \
                "Start the program again: new clients get a new server.")                          \
        X(807, "CUDA_ERROR_MPS_SERVER_NOT_READY",                                                  \
                "the MPS server takes no clients now: it starts, or recovers from a fault of one", \
                "Try again; after a fault it takes new ones when those that it had have ended.")   \
        X(808, "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED",                                               \
                "the MPS server has as many clients as it can have (48 from Volta on, fewer on "   \
                "MIG)",                                                                            \
                "End another one, or use fewer processes.")                                        \
        X(809, "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED",                                           \
                "the device has no queues for work left for another client of the MPS server",     \
                "End another client, or start all with a smaller CUDA_DEVICE_MAX_CONNECTIONS.")    \
        X(810, "CUDA_ERROR_MPS_CLIENT_TERMINATED",                                                 \
                "the MPS server has put it out: somebody asked for that (terminate_client), or "   \
                "its memory was needed for what others are guaranteed",                            \
                "Start the program again; its contexts are gone.")
#define MPS_CLIENTS ADVISE_MPS_CLIENTS

struct mps_error {
        int code;
        const char *name, *sentence /* without full stop; it: the client */, *hint;
};

/* NULL: no error of MPS's. */
const struct mps_error *mps_error(int code);

enum mps_state {
        MPS_ABSENT,       /* nothing of that name */
        MPS_RUNNING,      /* answers */
        MPS_STALE,        /* its process is gone, its files are there */
        MPS_UNRESPONSIVE, /* its process lives and does not answer */
        MPS_CUT_SHORT,    /* runs, but whoever started it was ended before all limits were set */
};
const char *mps_state_word(enum mps_state state);

/* root: directory that holds ours, absolute and short, as sockets lie in it; it is made if its
 * parent exists. name: as check_name(). msec: how long one answer may take. */
struct mps {
        const char *root, *name;
        unsigned msec;
        const char *program; /* the control program; NULL: nvidia-cuda-mps-control, by PATH */
        bool shared;         /* users other than the caller may be clients: one server for all */
        unsigned protocol;   /* for mps_start(): 2 or 3; 0: 2. Later it is what was started */
};

enum mps_state mps_state(const struct mps *mps);

/* Starts one on the device (UUID as the driver writes it), or on several, separated by commas, each
 * with the memory limit. threads: percent of a client's threads,
 * 0: all. memory: bytes that a client may hold, 0: all. What is stale or was cut short
 * is cleared away first.
 * 0, or -EEXIST (it runs), -ENODEV (MPS is not installed, has no such version, or did not start),
 * -EIO (it does not take a limit; it is stopped again). */
int mps_start(const struct mps *mps, const char *device, unsigned threads, uint64_t memory,
        struct cleave_error *error);

/* The control daemon's process, by its own file; 0: none, or it has ended. Cheap. */
pid_t mps_pid(const struct mps *mps);
/* Has it start the server that clients are given, if there is none: the server's process.
 * -ETIMEDOUT, -ENOENT (it started none). */
int mps_serve(const struct mps *mps, pid_t *ret);

/* Asks it to quit, ends it if it does not, and removes what it leaves. -ENOENT. */
int mps_stop(const struct mps *mps, struct cleave_error *error);

/* {name, state, device, devices: [UUID], protocol, threads, memory, pid, pipe_directory, servers:
 * [{pid, clients: [pid]}], refuses: {code, name, sentence, hint}}; a new reference. servers is null
 * where it does not answer; refuses is what the next client may meet, as far as that can be known
 * from outside: null where nothing speaks against it. */
int mps_status(const struct mps *mps, json_t **ret, struct cleave_error *error);

/* What a container needs to be a client: as technique.attach gives it (technique.h). -ENOENT,
 * -ENODEV: the device is not among those that NVIDIA's driver lists in proc. */
int mps_attach(
        const struct mps *mps, const struct host *host, json_t **ret, struct cleave_error *error);

/* Value of CUDA_MPS_PIPE_DIRECTORY for its clients, in new memory. */
char *mps_pipe_directory(const struct mps *mps);
