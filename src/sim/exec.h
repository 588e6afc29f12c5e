/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The execution half of the simulated driver: what streams.c, events.c and the others share.
 *
 * Everything asynchronous is a graph of ops. An op carries one piece of work; it becomes ready when
 * all ops that it comes after are finished, and worker threads run ready ops. A stream is nothing
 * but its last unfinished op: whatever is submitted to it comes after that one. Events remember an
 * op; the legacy stream's ops come after the last op of every blocking stream, and theirs after
 * its. A graph's launch makes one op per node.
 *
 * One lock, exec_lock, protects all of this: queues are short, work runs without the lock.
 * Functions that say "locked" want it held. Lock order: see driver.h; exec_lock is "exec's own".
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda_api.h"
#include "driver.h"
#include "green.h"

/* The real driver blocks a launch when so many are queued in the stream. */
#define STREAM_DEPTH 1024

struct capture;
struct event;
struct function;
struct graph;
struct graph_memory;
struct image;
struct module;
struct ptx_entry;
struct stream;

/* ---- handles (handle.c) ---- */

enum handle_type {
        HANDLE_FREE = 0,
        HANDLE_STREAM,
        HANDLE_EVENT,
        HANDLE_MODULE,
        HANDLE_FUNCTION,
        HANDLE_LIBRARY,
        HANDLE_KERNEL,
        HANDLE_LINK,
        HANDLE_GRAPH,
        HANDLE_NODE,
        HANDLE_GRAPH_EXEC,
        HANDLE_USER_OBJECT,
};

/* What programs hold are addresses of cells that say type and object, so a handle of another type,
 * one that was destroyed, or any other number is told from a good one without touching it.
 * NULL: no memory. */
void *handle_new(enum handle_type type, void *object);
/* The object, or NULL. */
void *handle_get(enum handle_type type, const void *handle);
enum handle_type handle_type(const void *handle);
/* handle must be good. It is reused only after many others. */
void handle_free(void *handle);

/* ---- work: what an op does, and what a node of a graph holds (work.c) ---- */

enum work_kind {
        WORK_EMPTY = 0,
        WORK_KERNEL,
        WORK_COPY,
        WORK_FILL,
        WORK_HOST,
        WORK_CALLBACK,
        WORK_RECORD,
        WORK_WAIT,
        WORK_VALUES,
        WORK_CALL,
        WORK_ALLOC,
        WORK_FREE,
        WORK_CHILD,
};

/* One side of a copy. Device addresses are addresses of this process. */
struct copy_side {
        char *base;   /* first byte that is copied */
        size_t pitch; /* bytes from row to row, and from slice to slice */
        size_t slice;
        bool device; /* memory that the driver knows: checked again when the copy runs */
        bool pinned; /* of the host */
        bool array;
};

struct copy {
        struct copy_side dst, src;
        size_t width, height, depth; /* bytes, rows, slices */
        void *staged;                /* copy of pageable source memory, owned */
        CUDA_MEMCPY3D params;        /* as the user gave it, for graphs */
};

struct fill {
        CUdeviceptr dst;
        size_t pitch;
        uint32_t value;
        unsigned element; /* bytes: 1, 2 or 4 */
        size_t width;     /* elements */
        size_t height;
};

struct launch {
        struct function *function; /* referenced */
        unsigned grid[3], block[3];
        unsigned shared_bytes;
        bool cooperative;
        int priority;
        uint8_t *params;         /* the entry's parameter buffer, owned */
        void **pointers;         /* into params: what GetParams gives back, owned */
        CUfunction handle;       /* as the user gave it: of a function or a kernel */
        struct sim_green *green; /* whose SMs it runs on; NULL: the device's */
        struct sim_sms sms;      /* of these, those that it got; none: it did not ask for any */
};

struct values {
        unsigned count;
        unsigned next; /* the first that is not yet done */
        unsigned flags;
        CUstreamBatchMemOpParams *ops; /* owned */
};

struct work {
        enum work_kind kind;
        struct sim_context *context;
        union {
                struct copy copy;
                struct fill fill;
                struct launch launch;
                struct values values;
                struct {
                        CUhostFn fn;
                        void *data;
                } host;
                struct {
                        CUstreamCallback fn;
                        void *data;
                        CUstream stream;
                } callback;
                struct {
                        struct event *event; /* referenced */
                        unsigned flags;
                        uint64_t turn; /* of an interprocess event: which record it is or awaits */
                } event;
                struct {
                        void (*fn)(void *);
                        void *arg;
                } call;
                struct {
                        CUDA_MEM_ALLOC_NODE_PARAMS params;
                        CUmemAccessDesc *access;     /* owned */
                        struct graph_memory *memory; /* referenced */
                } alloc;
                CUdeviceptr free;
                struct graph *child; /* owned */
        };
};

struct work *work_new(struct sim_context *context, enum work_kind kind);
/* locked. Frees the work and what it owns; NULL is fine. Returns NULL. */
struct work *work_free(struct work *work);
/* locked. NULL: no memory. */
struct work *work_clone(const struct work *work);

/* Whether all of [pointer, pointer + bytes) is memory that the driver knows; before writing, its
 * pages are made sure of. Mappings that lie side by side are one range, as the GPU sees it.
 * CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_OUT_OF_MEMORY. */
CUresult memory_check(CUdeviceptr pointer, size_t bytes, bool write);

#define RUN_AGAIN 1 /* not yet possible: ask again a little later */
#define RUN_ON    2 /* a kernel goes on: takes its time again, and then is asked again */
/* Does it. 0, RUN_AGAIN, RUN_ON, or a negated CUresult that breaks the context. */
int work_run(struct work *work);
/* Whether finishing the op is all there is to do. */
bool work_is_trivial(const struct work *work);

/* ---- ops and the threads that run them (engine.c) ---- */

struct op {
        unsigned refs;
        unsigned pending; /* ops that it still waits for, and one until op_start() */
        unsigned unknown; /* of these, those whose mark is not known, and one until op_start() */
        bool marked;      /* mark is known */
        uint64_t mark;    /* what the context's group has had of the engine (runlist.h) when the
                             device is done with it; until marked, when it may begin */
        _Atomic uint32_t done;
        uint64_t takes_ns;    /* of the device's time; when marked */
        uint64_t finished_at; /* nanoseconds, CLOCK_MONOTONIC */
        uint64_t retry_at;    /* when RUN_AGAIN was answered */
        struct sim_context *context;
        struct stream *stream; /* whose queue it takes a place in, referenced; or NULL */
        struct work *work;     /* owned unless borrowed; or NULL */
        bool borrowed;
        struct op **waiters;
        unsigned n_waiters, room;
        struct op *next, *next_marked;
};

extern pthread_mutex_t exec_lock;

uint64_t exec_now(void);

/* Broadcast when a full stream has room again. */
extern pthread_cond_t exec_room;

/* locked. Takes work over. NULL: no memory (then work is freed). */
struct op *op_new(struct sim_context *context, struct work *work);
struct op *op_ref(struct op *op);
struct op *op_unref(struct op *op); /* locked; NULL is fine; returns NULL */
/* locked. op starts only when before is finished; NULL and finished ones are fine. */
CUresult op_after(struct op *op, struct op *before);
/* locked. Nothing more will be added by op_after(). */
void op_start(struct op *op);
/* locked, released while it runs. As op_start(), and returns when op is finished; runs it on the
 * calling thread if nothing stands before it. */
void op_start_and_wait(struct op *op);
/* locked, released while it waits. */
void op_wait(struct op *op);
/* locked, released while they run. While op is not finished, the calling thread runs those of the
 * stream's ops whose turn it is; returns when there are none, maybe before op is finished. */
void op_help(struct op *op, struct stream *stream);

/* Around a host function or callback: CUDA calls are not permitted there. */
void engine_set_callback(bool inside);

/* ---- streams (stream.c) ---- */

/* Entry points called as _ptsz or _ptds stand between these: then 0 is the per-thread stream. */
void sim_per_thread_enter(void);
void sim_per_thread_leave(void);

struct stream {
        unsigned refs;
        struct sim_context *context;
        struct sim_green *green; /* that it was made in, or NULL */
        CUstream handle;         /* NULL of the default streams */
        uint64_t id;
        unsigned flags; /* CU_STREAM_* */
        int priority;
        bool legacy, per_thread;
        bool destroyed;
        struct op *last; /* unfinished; NULL: idle */
        unsigned queued; /* ops that are not finished */
        struct capture *capture;
        CUstreamAttrValue attributes[8]; /* by CUstreamAttrID below 8 */
        struct stream *next, **link;     /* of the context */
};

struct exec_context {
        struct sim_context *context;
        struct stream *legacy;
        struct stream *streams;
        struct module *modules;
        struct sim_memory *local; /* local memory of all resident threads */
        size_t local_bytes;       /* of one thread that it is for */
        struct sim_memory **code; /* blocks of modules' code */
        unsigned n_code;
        uint64_t code_used; /* bytes */
};

/* The work of a batch of memory operations, checked (values.c). Not locked. */
CUresult values_new(struct sim_context *context, unsigned count,
        const CUstreamBatchMemOpParams *ops, unsigned flags, struct work **ret);

/* What every entry does first, those apart that need no context. */
CUresult exec_enter(const char *entry, struct sim_context **ret);
/* The same for a call on a stream: context is the stream's. ret: good until destroyed. */
CUresult exec_enter_stream(const char *entry, CUstream handle, struct stream **ret);
/* locked; for calls without a stream argument: the default one. */
CUresult exec_default_stream(struct sim_context *context, struct stream **ret);
CUresult stream_of(CUstream handle, struct stream **ret);

/* The green context that work in it runs in, or NULL. */
struct sim_green *stream_green(const struct stream *stream);
struct stream *stream_ref(struct stream *stream);
struct stream *stream_unref(struct stream *stream); /* locked */

/* Hands work to the stream: as a node if it is captured, else as an op. Takes work over in any
 * case; NULL work means that memory ran out. wait: return when it is done (a capture refuses it).
 * ret_op: a reference, may be NULL. Not locked. */
CUresult stream_submit(struct stream *stream, struct work *work, bool wait, struct op **ret_op);
/* locked. Puts a new op behind the stream's last one, with the rules of the legacy stream; the
 * caller starts it. May release the lock while the stream is full. */
CUresult stream_append(struct stream *stream, struct op *op);
/* locked. Whether everything that a synchronize would wait for is done. */
bool stream_idle(struct stream *stream);

/* ---- events (event.c) ---- */

struct capture_session;
struct event_shared;
struct graph_node;
struct event {
        unsigned refs;
        struct sim_context *context;
        CUevent handle;
        unsigned flags;
        struct op *op;                   /* the last record; NULL: never recorded */
        struct event_shared *shared;     /* of an interprocess event */
        char name[40];                   /* of its file, in sim_directory() */
        bool owner;                      /* made here, not opened */
        struct capture_session *session; /* referenced: last recorded in a capture, after these */
        struct graph_node **nodes;
        unsigned n_nodes;
        struct event *next, **link; /* of all */
};

struct event *event_ref(struct event *event);
struct event *event_unref(struct event *event); /* locked; NULL is fine */
CUresult event_of(CUevent handle, struct event **ret);
/* Interprocess events count their records: a turn begins with the call and ends with the op.
 * Nothing happens for other events. */
uint64_t event_begin_turn(struct event *event);
void event_end_turn(struct event *event, uint64_t turn);
bool event_turn_ended(const struct event *event, uint64_t turn);
/* locked. Makes op the event's record; a reference is taken. */
void event_set(struct event *event, struct op *op);
/* locked. The events of a context that goes away. */
void events_drop(struct sim_context *context);

/* ---- capture (capture.c), all locked ---- */

/* Takes work over; it becomes the stream's last node. */
CUresult capture_add(struct stream *stream, struct work *work);
/* The answer to a call that a captured stream cannot take; the capture is invalid from now on. */
CUresult capture_refuse(struct stream *stream);
/* Work for the legacy stream, or waiting for it, while a blocking stream is captured. */
CUresult capture_check_legacy(struct sim_context *context);
/* What an event recorded in the captured stream stands for. */
CUresult capture_record(struct stream *stream, struct event *event);
/* The stream, captured or not, comes after a captured event. */
CUresult capture_wait(struct stream *stream, struct event *event);
/* A program asked about an event recorded in a capture: that spoils the capture. */
CUresult capture_asked(struct event *event);
/* The event no longer stands for a place in a capture. */
void capture_forget(struct event *event);
/* The stream is going away while it is captured. */
void capture_abandon(struct stream *stream);

/* ---- graphs, see graph.h (locked) ---- */

struct graph_memory *graph_memory_ref(struct graph_memory *memory);
struct graph_memory *graph_memory_unref(struct graph_memory *memory); /* NULL is fine */

struct graph *graph_clone(const struct graph *graph);
struct graph *graph_free(struct graph *graph);

/* ---- modules and functions (module.c) ---- */

struct function {
        struct module *module;
        const struct ptx_entry *entry;
        CUfunction handle;
        int max_dynamic_shared;
        int carveout;
        int cluster[4]; /* must be set, width, height, depth */
        int non_portable_cluster, cluster_policy;
        CUfunc_cache cache;
        unsigned block[3]; /* of cuFuncSetBlockShape */
        unsigned shared;   /* of cuFuncSetSharedSize */
        uint8_t *params;   /* of cuParamSet* */
        unsigned params_size;
};

struct module {
        unsigned refs;
        struct sim_context *context;
        CUmodule handle;
        struct image *image;        /* referenced */
        struct function *functions; /* one per entry */
        CUdeviceptr variables;      /* device memory, 0 if there are none */
        uint64_t code_bytes;
        struct module *next, **link;
};

struct module *module_ref(struct module *module);
struct module *module_unref(struct module *module); /* both locked */
/* Not locked. A function from a CUfunction, or from a CUkernel: then of its module in context,
 * which is loaded if need be. */
CUresult function_of(CUfunction handle, struct sim_context *context, struct function **ret);
/* Everything of a context that is going away. */
void modules_drop(struct exec_context *exec); /* locked */

/* ---- launches (launch.c, occupancy.c) ---- */

unsigned function_registers(const struct function *function);
size_t function_params_size(const struct ptx_entry *entry);
/* Where each parameter begins in params, as cuLaunchKernel takes them. NULL: no memory. */
void **launch_pointers(const struct ptx_entry *entry, uint8_t *params);
int function_max_threads(const struct function *function);
/* Checks everything and makes the work. */
CUresult launch_new(struct sim_context *context, struct sim_green *green,
        const CUlaunchConfig *config, CUfunction handle, void **params, void **extra,
        struct work **ret);
/* What a memset node or call may touch; makes the work. */
CUresult fill_new(struct sim_context *context, CUdeviceptr dst, size_t pitch, uint32_t value,
        unsigned element, size_t width, size_t height, struct work **ret);
CUresult copy_new(struct sim_context *context, const CUDA_MEMCPY3D *params, struct work **ret);

/* Takes the device memory that the launch needs beside its arguments. Not locked. */
CUresult launch_prepare(const struct launch *launch);
/* Blocks of so many threads and so much dynamic shared memory that an SM holds; may be 0. */
int occupancy_blocks(const struct function *function, int threads, size_t dynamic);

/* ---- the kernels that the simulated GPU knows (kernels.c) ---- */

/* Its number, -1: there is none of that name with so many parameters. */
int kernels_find(const struct ptx_entry *entry);
/* As work_run(); the time that it takes has been taken. */
int kernels_run(const struct launch *launch, struct sim_context *context);
/* How long it takes on a device of its own: false if that cannot be told in advance. */
bool kernels_duration(const struct launch *launch, uint64_t *ret_ns);
