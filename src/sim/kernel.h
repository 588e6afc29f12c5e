/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated kernel driver: the state of the simulated machine's GPUs, shared by all processes
 * that use the same CLEAVE_SIM_DIR and CLEAVE_SIM.
 *
 * Its files lie in a directory of their own, one per machine (list of models) and boot:
 *
 *      state       the struct below, mapped by everybody
 *      memoryN     device N's memory, MIG devices among them: sparse, 16 times as long as the
 * device is large, so that scattered free space never makes an allocation fail that would fit
 *      processes   one byte a process, locked by it as long as its address space lives
 *
 * The state is the table of processes and the table of objects; each entry becomes and ceases to
 * be valid by one store to its state word. All else (counters, lists, hash, bitmaps) is derived and
 * can be made again from the tables. So when a process is killed while it holds the lock, a robust
 * mutex, the next one to take it rebuilds what is derived and goes on. Extents are made zero before
 * they are free, not when they are taken.
 *
 * A process that has died is noticed by its lock, by whoever takes the state's lock some
 * milliseconds later; after the release delay its objects are freed.
 *
 * Compiled into both libraries; each has its own view of the state. Calls are thread-safe. Errors
 * are negative errno, or a status of RM where it says so.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runlist.h"

#define KERNEL_MAX_DEVICES   16
#define KERNEL_MAX_PROCESSES 4096
#define KERNEL_MAX_OBJECTS   262144
#define KERNEL_BUCKETS       65536
#define KERNEL_GRANULE       65536u
#define KERNEL_SPREAD        16 /* length of a memory file, in sizes of the device */
#define KERNEL_MAX_MEMORY    (256ull << 30)
#define KERNEL_BITMAP_WORDS  (KERNEL_MAX_MEMORY * KERNEL_SPREAD / KERNEL_GRANULE / 64)

#define KERNEL_MAGIC   0x4c4e4b4d4953ull /* "SIMKNL" */
#define KERNEL_VERSION 6u

#define KERNEL_NONE UINT32_MAX

/* Classes of ours beside RM's. */
#define KERNEL_CLASS_MANAGED 0xffff0001u /* managed memory: counted on the device, no extent */

enum kernel_process_state {
        KERNEL_PROCESS_FREE = 0,
        KERNEL_PROCESS_LIVE,
        KERNEL_PROCESS_DEAD, /* seen dead; what it holds is still there */
};

struct kernel_process {
        uint32_t state;
        uint32_t pid;
        uint64_t start_time;    /* field 22 of /proc/PID/stat */
        uint64_t release_delay; /* ns */
        uint64_t died;          /* CLOCK_MONOTONIC ns */
        /* derived */
        uint32_t first_root;                   /* its clients */
        uint32_t graphics;                     /* it draws, as a desktop does */
        uint64_t used[KERNEL_MAX_DEVICES];     /* bytes of device memory, duplicates not counted */
        uint32_t channels[KERNEL_MAX_DEVICES]; /* channel objects; above 0: it has a context */
};

enum kernel_object_state {
        KERNEL_OBJECT_FREE = 0,
        KERNEL_OBJECT_LIVE,
        KERNEL_OBJECT_ORPHAN, /* memory whose own name is gone, kept by duplicates */
};

#define KERNEL_OBJECT_DUPLICATE 1u /* another name of the memory in origin */

struct kernel_object {
        uint32_t state;
        uint32_t class_id;
        uint32_t process; /* index */
        uint32_t client;  /* handles */
        uint32_t handle;
        uint32_t parent; /* index of the object, KERNEL_NONE for a client */
        uint32_t device; /* instance, KERNEL_NONE for a client */
        uint32_t flags;
        uint64_t size;      /* memory: bytes taken */
        uint64_t offset;    /* memory: where in the file */
        uint64_t timeslice; /* channel group: us, as asked for */
        uint32_t origin;    /* duplicate: index of the memory */
        uint32_t engine;    /* channel group */
        uint32_t group;     /* channel group of graphics and compute: its place in the runlist */
        uint32_t disabled;  /* channel: calls that disabled it, less those that enabled it since */
        /* derived */
        uint32_t references; /* duplicates of it */
        uint32_t hash_next;
        uint32_t first_child, next, previous; /* siblings; next: also the list of free entries */
        uint32_t pad[5];
};

struct kernel_device {
        char model[16];
        uint8_t uuid[16];
        uint64_t total;    /* bytes, as NVML counts them */
        uint64_t reserved; /* of these, the driver's own */
        uint64_t foreign;  /* of the rest, held by somebody unseen */
        _Atomic uint32_t lost;
        /* a MIG device: the GPU that it is cut from, else itself; what of it, and its name */
        uint32_t gpu;
        uint32_t gpu_instance, compute_instance;
        uint32_t sms;
        char profile[32]; /* "1c.3g.40gb" */
        /* derived */
        uint64_t used;    /* foreign, and RM's memory of all processes */
        uint64_t managed; /* managed memory; gives way to used */
        uint64_t hint;    /* no granule below is free */
        uint64_t backed;  /* words of the bitmap that have pages; those beyond are 0. Only grows */
        uint64_t pad2[3];
};

#define KERNEL_MIG_SLICES 8

/*
 * MIG devices are devices beyond the GPUs, in places that these leave: with memory, an engine and a
 * table of extents of their own. The compute instances of one GPU instance share its memory: what
 * may be taken is its size less what all of them hold. A place is taken while a compute instance
 * names it.
 *
 * A GPU instance and the compute instances in it. Nothing is derived: an entry becomes valid by the
 * store to live, as everything here does. */
struct kernel_mig_instance {
        uint32_t live;
        uint32_t profile; /* NVML's number of it */
        uint32_t start;   /* memory slice */
        uint32_t id;
        struct {
                uint32_t live;
                uint32_t start, slices; /* compute slices, within the GPU instance */
                uint32_t device;        /* its place, KERNEL_NONE: none was left */
        } compute[KERNEL_MIG_SLICES];   /* its place is its id */
};

struct kernel_mig {
        _Atomic uint32_t on; /* read without the lock */
        uint32_t pending;    /* what it will be after a reset */
        struct kernel_mig_instance instance[KERNEL_MIG_SLICES];
};

struct kernel_state {
        uint64_t magic;
        uint32_t version;
        uint32_t devices;
        uint64_t size; /* of this struct */
        pthread_mutex_t lock;
        uint32_t next_client;  /* handles of clients, unique as long as the machine lives */
        uint32_t process_high; /* entries of process[] ever used */
        uint32_t object_high;
        uint32_t object_backed; /* entries of object[] that have pages */
        uint64_t scanned;       /* when processes were looked at last, CLOCK_MONOTONIC ns */
        uint64_t repairs;       /* times that the lock's owner was found dead */
        uint32_t free_object;   /* derived: list */
        uint32_t processes;     /* derived: entries that are not free */
        struct kernel_device device[KERNEL_MAX_DEVICES];
        struct kernel_mig mig[KERNEL_MAX_DEVICES];
        struct kernel_process process[KERNEL_MAX_PROCESSES];
        uint32_t bucket[KERNEL_BUCKETS]; /* derived */
        struct runlist runlist[KERNEL_MAX_DEVICES];
        struct kernel_object object[KERNEL_MAX_OBJECTS];
        _Alignas(4096) uint64_t bitmap[KERNEL_MAX_DEVICES][KERNEL_BITMAP_WORDS]; /* derived */
};

/* Finds or makes the machine and maps its state. -EINVAL: CLEAVE_SIM or CLEAVE_SIM_FAULTS makes no
 * sense; -EPERM: the directory is somebody else's; or what the file system says. May be repeated,
 * costs nothing then. */
int kernel_open(void);

/* Closes all of it again, unless this process holds objects by another library; kernel_open()
 * begins anew. For who has no call under way. */
void kernel_close(void);

/* After kernel_open(). The state may be read without the lock where a field never changes. */
struct kernel_state *kernel_state(void);
void kernel_lock(void);
void kernel_unlock(void);
/* For those who only read counters: gives up after 30 ms, when whoever has the lock must have been
 * stopped in the middle. Then false, and what is read may be about to change. */
bool kernel_lock_to_read(void);
uint64_t kernel_now(void); /* CLOCK_MONOTONIC, ns */

/* Enters this process into the table, so that it may hold objects. To be repeated in the child of a
 * fork. -ENOSPC: the table is full. */
int kernel_attach(void);

/* The pid of the process in that slot, in the caller's pid namespace; 0: it is not in it. */
uint32_t kernel_process_pid(uint32_t index);
/* This process's index, or KERNEL_NONE. */
uint32_t kernel_self(void);

/* Descriptors that stay ours: they are opened again if somebody closed or replaced them. */
int kernel_memory_fd(uint32_t device);
int kernel_directory_fd(void);
/* The machine's directory, as a path. */
const char *kernel_path(void);

/* ---- under the lock ---- */

/* Index of the object, KERNEL_NONE if there is none. */
uint32_t kernel_find(uint32_t client, uint32_t handle);
/* A new object; memory classes also take their extent and are counted. wanted: its handle. *ret is
 * its index. A status of RM. */
struct kernel_new {
        uint32_t class_id;
        uint32_t client, handle;
        uint32_t parent; /* index */
        uint32_t device;
        uint32_t flags, origin, engine;
        uint64_t size;
};
uint32_t kernel_new_object(const struct kernel_new *wanted, uint32_t *ret);
/* Frees an object and all below it. */
void kernel_free_object(uint32_t index);
/* Takes a channel group off the runlist when all its channels are disabled, and puts it back.
 * lingers: if it has the engine it goes on until another's turn. */
void kernel_update_group(uint32_t index, bool lingers);

/* What a device holds as its users see it; managed memory only as far as there is room. */
uint64_t kernel_device_used(const struct kernel_device *device);
/* A place for a MIG device, filled in, for wanted->gpu, gpu_instance, compute_instance, total,
 * uuid, sms and profile. KERNEL_NONE: there is none, or no file for its memory can be made. */
uint32_t kernel_add_mig(const struct kernel_device *wanted);
/* Whether a process holds anything of a device. */
bool kernel_is_used(uint32_t device);

/* ---- not under the lock ---- */

/* Zeroes what an extent holds and gives the pages back, so that freeing it takes no time. */
void kernel_punch(uint32_t device, uint64_t offset, uint64_t size);

/* The kernel's end of ioctl(), for requests of RM's type on fd; anything else goes to the real
 * one. As ioctl(). */
int sim_ioctl(int fd, unsigned long request, ...);
/* The descriptor that stands for /dev/nvidiactl. */
int kernel_control_fd(void);
