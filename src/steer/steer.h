/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steering process: the only one that changes how the driver schedules other processes' work.
 *
 * `cleaved --steer`, started by the daemon with one end of a socket, a board and a view. It knows
 * nothing of tenants: it does what it is told, one command a packet, one after the other, and
 * remembers what it has disabled. Only to pass on the engine waits for nothing that takes long and
 * is about others, nor for a thread that is late (steer/aside.h): answers to STEER_ENABLE and
 * STEER_DISABLE may come first. Two things make it safe to kill it, or the daemon, at any
 * instruction:
 *
 *   - when its socket closes, for whatever reason, it enables everything and ends;
 *   - a channel stands on the board, memory that daemon and keeper hold too, from before it is
 *     disabled until after it is enabled. A new steering process first enables what stands there.
 *
 * So a channel stays disabled only while a living steering process has a living daemon to listen
 * to.
 *
 * Channels are disabled through a client of RM of the steering process's own, naming other
 * processes' channels. Slices and preemption modes go through the owner's own descriptor of
 * /dev/nvidiactl, which the daemon passes. A channel is disabled only if RM has accepted a call on
 * its client through a descriptor of the process it is said to be of, so that a tenant cannot have
 * its neighbour disabled by writing the neighbour's names into its own page.
 */
#pragma once

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "policy/switches.h"

/* -- what drives it ---------------------------------------------------------------------------- */

#define STEER_MAX_CHANNELS 64u /* of one call of RM */
#define STEER_MAX_DEVICES  16u

struct steer_channel {
        uint32_t client;
        uint32_t channel;
};

/* An RM call on an object of another process, by its descriptor of /dev/nvidiactl. */
struct steer_object {
        int fd;
        uint32_t client;
        uint32_t subdevice; /* set_mode alone */
        uint32_t object;    /* channel group; restart: channel */
};

/* What is done to channels. */
enum steer_switch {
        STEER_ON,
        STEER_OFF, /* and taken off the engine at once: whoever has it loses the rest of his slice
                    */
        STEER_OFF_NEXT, /* not switched to any more: whoever has the engine goes on, also one of
                           them, until it is another's turn */
};

/* A context switch of the graphics and compute engine. Times are CLOCK_MONOTONIC's, ns. */
struct steer_record {
        uint64_t at;
        uint32_t pid; /* 0: of another user */
        bool start;   /* it has the engine from then on; else no more */
};

/* How long the engine was busy, whoever had it. */
struct steer_sample {
        uint64_t from, to, busy_ns;
        uint32_t pid; /* who had it at the end, 0: not known */
};

/*
 * The calls of RM. Each returns 0 or
 *   -ENOENT      there is no such client or object (any more)
 *   -EPERM       refused to this process
 *   -EOPNOTSUPP  this driver has no such call
 *   -ENODEV      the device is lost
 *   -EIO         anything else; ret_status (never NULL) is RM's own word in every case
 */
struct steer_backend {
        const char *name; /* the device backend's that it belongs to */
        /* argument: free to the backend; NULL from the daemon */
        int (*open)(const void *argument, void **ret_handle);
        void (*close)(void *handle);
        /* Makes the device known as that index, below STEER_MAX_DEVICES. */
        int (*open_device)(
                void *handle, unsigned index, const uint8_t uuid[16], uint32_t *ret_status);
        /* count: 1 to STEER_MAX_CHANNELS. Where one of several is refused, others may have been
         * done: doing it again one by one is harmless. */
        int (*disable)(void *handle, unsigned device, const struct steer_channel *channels,
                unsigned count, enum steer_switch how, uint32_t *ret_status);
        int (*set_slice)(void *handle, const struct steer_object *group, uint64_t microseconds,
                uint32_t *ret_status);
        int (*get_slice)(void *handle, const struct steer_object *group, uint64_t *ret_microseconds,
                uint32_t *ret_status);
        int (*set_mode)(void *handle, const struct steer_object *group, bool thread_block,
                uint32_t *ret_status);
        int (*preempt)(void *handle, const struct steer_object *group, uint32_t *ret_status);
        int (*restart)(void *handle, const struct steer_object *channel, uint32_t *ret_status);

        /* What follows is asked of a handle of its own, by another thread. watch: NULL where the
         * engine's records cannot be had. */
        const struct switches_costs *costs; /* NULL: an H100's */
        /* Begins to record a device that is open. ret_all: also the processes of other users. */
        int (*watch)(void *handle, unsigned device, bool *ret_all, uint32_t *ret_status);
        /* Fetches the oldest records, all that were made before ret_until if fewer than room are
         * returned. ret_lost: some before these are missing. Number of records or an error. */
        int (*records)(void *handle, unsigned device, struct steer_record *records, unsigned room,
                uint64_t *ret_until, bool *ret_lost);
        /* Stops and begins to record a device that is watched; in between there are no records, and
         * none is told as lost for it. Where it cannot begin again the device is watched no more,
         * as if watch had been refused. NULL: it is always recorded. */
        int (*record)(void *handle, unsigned device, bool on, uint32_t *ret_status);
        /* Samples that end after that time, oldest first. Number of samples or an error. */
        int (*samples)(void *handle, unsigned device, uint64_t after, struct steer_sample *samples,
                unsigned room);
};

#define STEER_RECORDS_MAX 1024u
#define STEER_SAMPLES_MAX 80u

extern const struct steer_backend steer_backend_nvidia, steer_backend_sim;
/* By name, or NULL. */
const struct steer_backend *steer_backend_find(const char *name);

/* RM's status as one of the errors above. */
int steer_status_error(uint32_t status);

#define STEER_SLICE_DEFAULT 2048u /* what RM answers for a new group, driver 580 */

/* -- the board --------------------------------------------------------------------------------- */

#define STEER_BOARD_MAGIC   0x4452414f42564c43ull /* "CLVBOARD" */
#define STEER_BOARD_VERSION 1u
#define STEER_BOARD_ENTRIES 8192u

/* One channel that may be disabled. The steering process alone writes it. */
struct steer_entry {
        _Atomic uint32_t used; /* 1: the other words hold, and the channel may be disabled */
        uint16_t device;       /* index in steer_board.uuid */
        uint16_t holder;       /* who disabled it; means nothing to a later steering process */
        uint32_t client;
        uint32_t channel;
};
static_assert(sizeof(struct steer_entry) == 16, "layout");

struct steer_board {
        uint64_t magic;
        uint32_t version;
        uint32_t size;
        /* The devices that indices mean, zero: none. Written by the steering process before an
         * entry names the index; fixed from then on. */
        uint8_t uuid[STEER_MAX_DEVICES][16];
        _Atomic uint32_t high;   /* no entry from this one on was ever used */
        _Atomic uint32_t sliced; /* slices have been set by one of the steering processes */
        uint32_t reserved[10];
        struct steer_entry entry[STEER_BOARD_ENTRIES];
};
static_assert(offsetof(struct steer_board, high) == 272, "layout");
static_assert(offsetof(struct steer_board, entry) == 320, "layout");

/* A new board, a sealed memfd. */
int steer_board_new(int *ret_fd);
/* Maps and checks one. -EBADMSG: it is none. */
int steer_board_map(int fd, struct steer_board **ret);
void steer_board_unmap(struct steer_board *board);
/* How many channels may be disabled now. */
unsigned steer_board_count(const struct steer_board *board);

/* -- the protocol ------------------------------------------------------------------------------ */

#define STEER_MAGIC 0x53564c43u /* "CLVS"; both ends are of one build, so there is no version */

enum steer_command_type {
        STEER_OPEN_DEVICE = 1, /* device, uuid */
        STEER_HOLD,            /* holder, value: its pid; a descriptor comes with it. Up to
                                  STEER_HOLDER_FDS a holder: calls try them in turn until RM knows
                                  the object */
        STEER_RELEASE,         /* holder: what it has disabled is enabled, slices are put back, and
                                  its descriptors are closed */
        STEER_DISABLE,         /* device, count, channel[], holders[] */
        STEER_ENABLE,          /* device, count, channel[] */
        STEER_ENABLE_ALL,
        STEER_SET_SLICE, /* holder, client, object, value: us; device: for the view alone */
        STEER_GET_SLICE, /* holder, client, object */
        STEER_SET_MODE,  /* holder, client, object, subdevice, value: 1 thread block, 0 instruction
                          */
        STEER_PREEMPT,   /* holder, client, object */
        STEER_RESTART,   /* holder, client, object */
        STEER_TURNS, /* device, holder, turns: which its process keeps by itself from sent_ns on; of
                        who keeps what is seen, nothing is done */
};

#define STEER_HOLDER_FDS 8u
#define STEER_HOLDERS    4096u

/* Daemon to steering process. A fixed size, so that there is nothing to bound but count, device
 * and holder. */
struct steer_command {
        uint32_t magic;
        uint32_t type; /* enum steer_command_type */
        uint64_t serial;
        uint32_t device;
        uint32_t holder; /* below STEER_HOLDERS, the daemon's choice */
        uint32_t client, object, subdevice;
        uint32_t count;
        uint64_t value;
        /* CLOCK_MONOTONIC: when the daemon was to decide it, and when it sent it; of who keeps what
         * is seen (steer/diary.h) */
        uint64_t due_ns, sent_ns;
        struct cleave_turns turns;
        uint8_t uuid[16];
        struct steer_channel channel[STEER_MAX_CHANNELS];
        uint16_t holders[STEER_MAX_CHANNELS]; /* whose the channels are */
};
static_assert(sizeof(struct steer_command) == 752, "layout");
static_assert(offsetof(struct steer_command, channel) == 112, "layout");

struct steer_answer {
        uint32_t magic;
        int32_t result; /* 0 or negative errno, as of the backend; -EBADMSG: no such command,
                           -EBADF: the holder has no descriptor that RM knows the client by;
                           of DISABLE: so it is with some, the others are disabled */
        uint64_t serial;
        uint64_t start_ns, end_ns; /* CLOCK_MONOTONIC, around the calls of RM */
        uint64_t value;            /* GET_SLICE: us; DISABLE, ENABLE: channels that are so now */
        uint32_t status;           /* RM's, of the last call that failed; 0: none did */
        uint32_t reserved;
};
static_assert(sizeof(struct steer_answer) == 48, "layout");

/* -- the view ---------------------------------------------------------------------------------- */

/*
 * What the steering process sees of who uses the devices, for the daemon to read: memory of their
 * own, made anew with each steering process. See policy/switches.h for what the words mean.
 */
#define STEER_VIEW_MAGIC   0x5745495645564c43ull /* "CLVEVIEW" */
#define STEER_VIEW_VERSION 2u
#define STEER_VIEW_ENTRIES 128u

enum steer_watch_state {
        STEER_UNWATCHED = 0, /* not asked for, or not yet */
        STEER_WATCHED_ALL,
        STEER_WATCHED_OWN, /* processes of our own user alone */
        STEER_WATCH_REFUSED,
};

/* One process on one device. */
struct steer_seen {
        _Atomic uint32_t sequence; /* odd while it is written; the same before and after reading */
        uint32_t pid;              /* 0: free */
        struct switches_sight sight;
};

struct steer_view_device {
        _Atomic uint32_t state;  /* enum steer_watch_state */
        _Atomic uint32_t status; /* RM's where refused */
        _Atomic uint64_t begun;  /* CLOCK_MONOTONIC ns, before state says that it is watched */
        _Atomic uint64_t now;    /* everything up to then was seen */
        _Atomic uint64_t lost;   /* times that records were missing */
        _Atomic uint32_t high;   /* no entry from this one on was ever used */
        uint32_t reserved;
        struct steer_seen seen[STEER_VIEW_ENTRIES];
};

struct steer_view {
        uint64_t magic;
        uint32_t version;
        uint32_t size;
        struct steer_view_device device[STEER_MAX_DEVICES];
};

/* A new view, a sealed memfd. */
int steer_view_new(int *ret_fd);
/* Maps and checks one. -EBADMSG: it is none. */
int steer_view_map(int fd, struct steer_view **ret);
void steer_view_unmap(struct steer_view *view);
/* A copy of what is known of a process: -ENOENT: nothing; -EAGAIN: it is being written. */
int steer_view_read(
        const struct steer_view *view, unsigned device, uint32_t pid, struct switches_sight *ret);

/*
 * The steering process's main: waits until no other has the board, enables what stands there, then
 * serves until the socket closes or SIGTERM comes, enables everything and puts slices and modes
 * back. Takes the descriptors over. view_fd: -EBADF: nothing is watched. 0, or what failed before
 * it served: then the daemon sees the socket close.
 */
int steer_run(int socket, int board_fd, int view_fd, const struct steer_backend *backend,
        const void *argument);
