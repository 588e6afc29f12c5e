/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the simulated driver library: what its files share.
 *
 * The library has two halves. This one, "memory", holds devices, contexts, memory and faults;
 * the other, "execution", holds streams, events, modules, kernels, copies and graphs. They meet
 * here. Names that begin with sim_ belong to the first half, exec_ to the second.
 *
 * An entry point looks like this:
 *
 *      CUresult cuSomething_v2(...)
 *      {
 *              struct sim_context *context;
 *              CUresult r = sim_enter(__func__);
 *
 *              if (!r)
 *                      r = sim_current(&context);
 *              if (r)
 *                      return r;
 *              ...
 *      }
 *
 * Device addresses are addresses of this process: every allocation is mapped, shared, from the
 * device's memory file into one region that is reserved when the driver starts. What is not
 * allocated cannot be touched there.
 *
 * Locks: execution's own come first, then the one of memory (inside sim_ functions), then the
 * simulated kernel's. No sim_ function calls exec_ with the lock of memory held, so sim_ functions
 * may be called with execution's locks held. While a context is made or ended, exec_context_init()
 * and _done() run under a lock that other makings and endings wait for.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda_api.h"

#define SIM_DRIVER_VERSION 13000
#define SIM_MAX_DEVICES    16

struct sim_model;
struct sim_pool;
struct sim_memory;
struct exec_context;
struct runlist;

/* ---- entering ---- */

extern _Atomic int sim_faults_active;
CUresult sim_fault(const char *entry);
CUresult sim_ready(void);
/* Provided by execution: the calling thread runs a stream's host function or callback. */
bool exec_in_callback(void);

/* First thing in every entry point except those that work before cuInit: faults asked for by
 * CLEAVE_SIM_FAULTS (delays included), then CUDA_ERROR_NOT_INITIALIZED before cuInit and in the
 * child of a fork, CUDA_ERROR_NOT_PERMITTED in a stream's host function. entry: the exported name,
 * that is __func__. */
static inline CUresult sim_enter(const char *entry)
{
        if (__builtin_expect(atomic_load_explicit(&sim_faults_active, memory_order_relaxed), 0)) {
                CUresult r = sim_fault(entry);

                if (r)
                        return r;
        }
        return sim_ready();
}

/* The same for entries that work before cuInit. */
static inline CUresult sim_enter_early(const char *entry)
{
        if (__builtin_expect(atomic_load_explicit(&sim_faults_active, memory_order_relaxed), 0))
                return sim_fault(entry);
        return CUDA_SUCCESS;
}

/* Sleeps or spins (below 50 us) for that long. */
void sim_delay(uint64_t nanoseconds);

/* ---- devices ---- */

struct sim_device {
        const struct sim_model *model; /* models.h */
        int index;                     /* what this process calls it: its CUdevice */
        int instance;                  /* what the simulated kernel calls it */
        int gpu;                       /* the GPU that it is, or that a MIG device is cut from */
        uint8_t uuid[16];
        struct sim_context *primary; /* never NULL; active or not */
};

int sim_device_count(void);
/* CUDA_ERROR_INVALID_DEVICE if there is none of that number. */
CUresult sim_device_of(CUdevice device, struct sim_device **ret);

/* ---- contexts ---- */

#define SIM_CONTEXT_MAGIC 0x7874634d4953ull /* "SIMctx" */

/* A context; a CUcontext is its address. The struct outlives the context: it is recycled, with
 * another generation, never freed. Fields are fixed while the context lives unless said. */
struct sim_context {
        uint64_t magic;
        _Atomic uint32_t live; /* 0: destroyed, or a primary context that nobody retains */
        uint32_t generation;   /* one more with each life */
        struct sim_device *device;
        bool primary;
        _Atomic uint32_t flags; /* CU_CTX_* as given */
        uint32_t api_version;
        uint64_t id;                /* unique in the process, for cuCtxGetId */
        _Atomic CUresult error;     /* sticky: every later call in this context returns it.
                                       Set by sim_context_fail() */
        _Atomic uint64_t limit[16]; /* by CUlimit; exec reads stack, printf and heap sizes */
        _Atomic uint32_t peers;     /* bit per device index whose memory it may reach */
        _Atomic uint32_t cache_config;
        uint32_t attached;         /* by cuCtxAttach */
        struct exec_context *exec; /* execution's own state, exec_context_init() to _done() */
        struct sim_context_memory *memory;
        struct runlist
                *runlist; /* the engine of its device, where its kernels are group (runlist.h) */
        uint32_t group;
        bool served; /* by an MPS server, whose group that is (mps.h) */
        struct sim_context *next;
};

/* The calling thread's current context.
 * CUDA_ERROR_INVALID_CONTEXT: none; CUDA_ERROR_CONTEXT_IS_DESTROYED; the context's sticky error;
 * CUDA_ERROR_DEVICE_UNAVAILABLE when the device was lost. */
CUresult sim_current(struct sim_context **ret);
/* The same without the sticky error and loss, for entries that must work on a broken context. */
CUresult sim_current_any(struct sim_context **ret);
/* A handle from the user, NULL meaning the current context. CUDA_ERROR_INVALID_CONTEXT if it is
 * not one of ours, CUDA_ERROR_CONTEXT_IS_DESTROYED if it is dead. */
CUresult sim_context_of(CUcontext handle, struct sim_context **ret);
/* Makes error the context's sticky error, unless it has one (an illegal address, an assert). */
void sim_context_fail(struct sim_context *context, CUresult error);

/* Provided by execution. init: after the context has its footprint, before anybody sees it; a
 * failure undoes the creation. done: the context is no longer live; drains and frees streams,
 * events, modules. Its memory is freed afterwards. */
CUresult exec_context_init(struct sim_context *context);
void exec_context_done(struct sim_context *context);
/* Waits for all work in the context; its sticky error if it got one. */
CUresult exec_synchronize(struct sim_context *context);

/* ---- device memory ---- */

/* A block of device memory that RM gave: the only way any is taken. Owned by whoever asked. */
struct sim_memory {
        struct sim_device *device;
        uint64_t size;   /* what RM took, as NVML counts it */
        uint64_t offset; /* in the device's memory file */
        void *address;   /* where it is mapped, NULL before sim_memory_map() */
        uint32_t client; /* RM's names of it */
        uint32_t handle;
        bool imported; /* another process's: a duplicate of its object */
};

/* Takes bytes of device memory through RM. When RM refuses, unused pool memory is given back and
 * the call is made once more, as the real driver does; then CUDA_ERROR_OUT_OF_MEMORY. */
CUresult sim_memory_new(struct sim_device *device, uint64_t bytes, struct sim_memory **ret);
/* Unmaps and gives back; NULL is fine. Contents are gone; the memory must not be in use. */
void sim_memory_free(struct sim_memory *memory);
/* Maps it into the device-address region: address is set. CUDA_ERROR_OUT_OF_MEMORY. */
CUresult sim_memory_map(struct sim_memory *memory);

enum sim_kind {
        SIM_DEVICE = 1, /* cuMemAlloc and relatives, module globals */
        SIM_POOL,       /* from a memory pool */
        SIM_VMM,        /* cuMemMap */
        SIM_IPC,        /* opened from another process */
        SIM_MANAGED,
        SIM_HOST,       /* cuMemHostAlloc and relatives */
        SIM_REGISTERED, /* cuMemHostRegister */
};

struct sim_range {
        char *host; /* the first byte asked for, for the CPU to touch */
        enum sim_kind kind;
        struct sim_device *device;   /* where the memory is; NULL for SIM_HOST, _REGISTERED */
        struct sim_context *context; /* that it belongs to; NULL for SIM_VMM, SIM_POOL */
        CUdeviceptr base;            /* of the whole allocation, */
        size_t size;                 /* and its length as asked for */
        uint64_t id;                 /* CU_POINTER_ATTRIBUTE_BUFFER_ID */
};

/* What lies at pointer: known memory that holds all of [pointer, pointer + bytes).
 * CUDA_ERROR_INVALID_VALUE: unknown memory, or the range goes beyond its allocation. */
CUresult sim_range(CUdeviceptr pointer, size_t bytes, struct sim_range *ret);

/* Has the host back a range with real pages before somebody writes to it, so that a full host file
 * system gives CUDA_ERROR_OUT_OF_MEMORY here and no SIGBUS later. Call before writing to memory of
 * SIM_DEVICE, _POOL, _VMM, _IPC kinds (host: sim_range.host). Cheap where pages exist.
 * CUDA_ERROR_ILLEGAL_ADDRESS: a mapping that no device may write to. */
CUresult sim_touch(void *host, size_t bytes);
/* False for addresses of a graph's allocation that has not been launched: no memory lies there. */
bool sim_is_backed(const void *host);

/* Device memory that the driver keeps for itself inside the context (globals of modules, printf and
 * malloc heaps): taken from 2 MiB blocks or, above 1 MiB, alone. Zeroed, known to sim_range(), but
 * cuMemFree() refuses it. Freed with the context at the latest. */
CUresult sim_internal_alloc(struct sim_context *context, size_t bytes, CUdeviceptr *ret);
void sim_internal_free(struct sim_context *context, CUdeviceptr pointer);

/* ---- pools, for execution's stream-ordered calls and graph allocation nodes ---- */

CUresult sim_pool_of(CUmemoryPool handle, struct sim_pool **ret);
/* The device's current pool (cuDeviceSetMemPool); the pool that graph nodes allocate from, whose
 * use is cuDeviceGetGraphMemAttribute's. */
struct sim_pool *sim_pool_current(struct sim_device *device);
struct sim_pool *sim_pool_graph(struct sim_device *device);
/* Memory from the pool, at once: the caller sees to the order of streams.
 * CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_INVALID_VALUE (0 bytes). */
CUresult sim_pool_alloc(struct sim_pool *pool, size_t bytes, CUdeviceptr *ret);
/* Gives it back to the pool it came from. CUDA_ERROR_INVALID_VALUE: not from a pool, or freed. */
CUresult sim_pool_free(CUdeviceptr pointer);
/* Returns memory above the pools' release thresholds to the device; execution calls it at
 * synchronizing calls (stream, event and context synchronize). */
void sim_pool_relax(struct sim_device *device);
/* Bytes of device memory that the pool holds, in use or not; gives back what is not in use beyond
 * keep bytes. The graph pool gives nothing back but by this. */
uint64_t sim_pool_reserved(struct sim_pool *pool);
void sim_pool_trim(struct sim_pool *pool, uint64_t keep);
/* What lies below chunks that are in use. */
uint64_t sim_pool_occupied(struct sim_pool *pool);
/* Memory for an allocation of the graph pool that has had only addresses so far. */
CUresult sim_pool_back(CUdeviceptr pointer);

/* Provided by execution. Runs fn(arg) once in the order of the stream, on whatever thread, fn must
 * not make CUDA calls; 0, or an error of the stream (then fn never runs). The legacy (0, 1) and
 * per-thread (2) handles are streams too. While the stream is captured:
 * CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED. */
CUresult exec_stream_call(CUstream stream, void (*fn)(void *), void *arg);
/* The context of a stream handle; the calling thread's current one for the special handles. */
CUresult exec_stream_check(CUstream stream, struct sim_context **ret);
/* cuMemAllocAsync and cuMemFreeAsync on a capturing stream become graph nodes. Each returns
 * CUDA_ERROR_NOT_FOUND if the stream is not being captured, else what the call returns. */
CUresult exec_capture_alloc(CUstream stream, struct sim_pool *pool, size_t bytes, CUdeviceptr *ret);
CUresult exec_capture_free(CUstream stream, CUdeviceptr pointer);
/* For calls that a running capture forbids in this thread (cuMemAlloc, cuMemFree, creating and
 * synchronizing contexts and the like): CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, and the capture is
 * invalid from then on. */
CUresult exec_capture_check(void);
/* cuMemFree and cuMemFreeAsync (when called) on memory that a graph allocated: it stays the
 * graph's. CUDA_ERROR_NOT_FOUND: it is no such memory; CUDA_ERROR_INVALID_VALUE: freed already. */
CUresult exec_graph_free(CUdeviceptr pointer);

/* ---- arrays ---- */

/* A CUarray is the address of one; contents lie linear in device memory. */
struct sim_array {
        uint64_t magic;
        CUDA_ARRAY3D_DESCRIPTOR descriptor; /* as normalized: Height and Depth 0 where absent */
        struct sim_context *context;
        char *host;           /* element (0, 0, 0) */
        size_t element_bytes; /* one element, all its channels */
        size_t row_pitch;     /* bytes */
        size_t slice_pitch;
        size_t rows, slices; /* at least 1 each; layers and faces are slices */
};
/* CUDA_ERROR_INVALID_HANDLE. Levels of mipmapped arrays are arrays too. */
CUresult sim_array_of(CUarray handle, struct sim_array **ret);

/* ---- the rest ---- */

/* The PCI-like identity, and the raw RM objects of this process on a device, as the scheduler of
 * later work needs them. CUDA_ERROR_NOT_INITIALIZED before a context was made on the device. */
struct sim_rm_objects {
        uint32_t client, device, subdevice;
        uint32_t group[4];      /* channel groups; [0] is graphics and compute */
        uint32_t channel[4][8]; /* 0: absent */
};
CUresult sim_rm_objects(struct sim_device *device, struct sim_rm_objects *ret);

/* The 64 bytes of an IPC handle, memory and event alike: 16 bytes of head that say whose and which,
 * the rest the maker's. */
#define SIM_IPC_MEMORY 0x4d435049u
#define SIM_IPC_EVENT  0x45435049u

/* A directory shared by all processes of the simulation, for execution's own shared state (IPC
 * events): an open descriptor that stays ours, or a negative errno. */
int sim_directory(void);
