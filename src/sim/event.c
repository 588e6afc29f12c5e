/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "exec.h"

#define ALL_FLAGS (CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS)

/* What all processes that have an interprocess event open see of it: how many records were asked
 * for and how many are done. */
struct event_shared {
        _Atomic uint64_t begun;
        _Atomic uint64_t ended;
};

/* The 64 bytes of an event's IPC handle. */
struct ipc_handle {
        uint32_t magic;
        uint32_t pid;
        uint64_t id;
        char name[48];
};
static_assert(sizeof(struct ipc_handle) == sizeof(CUipcEventHandle), "IPC handle");

static _Atomic uint64_t last_id;
static struct event *all; /* under exec_lock */

struct event *event_ref(struct event *event)
{
        event->refs++;
        return event;
}

struct event *event_unref(struct event *event)
{
        if (!event || --event->refs)
                return NULL;
        op_unref(event->op);
        capture_forget(event);
        if (event->shared)
                munmap(event->shared, sizeof(*event->shared));
        if (event->owner)
                unlinkat(sim_directory(), event->name, 0);
        if (event->link) {
                *event->link = event->next;
                if (event->next)
                        event->next->link = event->link;
        }
        free(event);
        return NULL;
}

void events_drop(struct sim_context *context)
{
        struct event *next;

        for (struct event *one = all; one; one = next) {
                next = one->next;
                if (one->context != context || !one->handle)
                        continue;
                handle_free(one->handle);
                one->handle = NULL;
                event_unref(one);
        }
}

static CUresult event_new(struct sim_context *context, unsigned flags, struct event **ret)
{
        struct event *event = calloc(1, sizeof(*event));

        if (!event)
                return CUDA_ERROR_OUT_OF_MEMORY;
        event->handle = handle_new(HANDLE_EVENT, event);
        if (!event->handle) {
                free(event);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        event->refs = 1;
        event->context = context;
        event->flags = flags;
        pthread_mutex_lock(&exec_lock);
        event->next = all;
        event->link = &all;
        if (all)
                all->link = &event->next;
        all = event;
        pthread_mutex_unlock(&exec_lock);
        *ret = event;
        return CUDA_SUCCESS;
}

static void event_end(struct event *event)
{
        pthread_mutex_lock(&exec_lock);
        handle_free(event->handle);
        event->handle = NULL;
        event_unref(event);
        pthread_mutex_unlock(&exec_lock);
}

CUresult event_of(CUevent handle, struct event **ret)
{
        struct event *event = handle_get(HANDLE_EVENT, handle);

        if (!event)
                return CUDA_ERROR_INVALID_HANDLE;
        *ret = event;
        return CUDA_SUCCESS;
}

/* ---- interprocess ---- */

uint64_t event_begin_turn(struct event *event)
{
        return event->shared ? atomic_fetch_add(&event->shared->begun, 1) + 1 : 0;
}

void event_end_turn(struct event *event, uint64_t turn)
{
        uint64_t seen;

        if (!event->shared)
                return;
        seen = atomic_load(&event->shared->ended);
        while (seen < turn && !atomic_compare_exchange_weak(&event->shared->ended, &seen, turn))
                ;
}

bool event_turn_ended(const struct event *event, uint64_t turn)
{
        return !event->shared || atomic_load(&event->shared->ended) >= turn;
}

/* Maps the file of that name in the simulation's directory; 0 or a negative errno. */
static int map_shared(const char *name, bool create, struct event_shared **ret)
{
        int directory = sim_directory(), fd, r = 0;
        void *map;

        if (directory < 0)
                return directory;
        fd = openat(directory, name,
                O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT | O_EXCL : 0), 0600);
        if (fd < 0)
                return -errno;
        if (create && ftruncate(fd, sizeof(struct event_shared)) < 0)
                r = -errno;
        if (r == 0 && lseek(fd, 0, SEEK_END) != sizeof(struct event_shared))
                r = -EBADMSG;
        if (r == 0) {
                map = mmap(NULL, sizeof(struct event_shared), PROT_READ | PROT_WRITE, MAP_SHARED,
                        fd, 0);
                if (map == MAP_FAILED)
                        r = -errno;
                else
                        *ret = map;
        }
        close(fd);
        return r;
}

static CUresult make_shared(struct event *event)
{
        snprintf(event->name, sizeof(event->name), "event-%d-%llu", (int)getpid(),
                (unsigned long long)atomic_fetch_add(&last_id, 1) + 1);
        /* left by a process of the same number that was killed */
        if (sim_directory() >= 0)
                unlinkat(sim_directory(), event->name, 0);
        if (map_shared(event->name, true, &event->shared) < 0)
                return CUDA_ERROR_OPERATING_SYSTEM;
        event->owner = true;
        return CUDA_SUCCESS;
}

CUresult cuIpcGetEventHandle(CUipcEventHandle *ret, CUevent handle)
{
        struct ipc_handle ipc = {.magic = SIM_IPC_EVENT, .pid = (uint32_t)getpid()};
        struct sim_context *context;
        struct event *event;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = event_of(handle, &event);
        if (r)
                return r;
        if (!event->owner)
                return CUDA_ERROR_INVALID_HANDLE;
        snprintf(ipc.name, sizeof(ipc.name), "%s", event->name);
        memcpy(ret, &ipc, sizeof(ipc));
        return CUDA_SUCCESS;
}

CUresult cuIpcOpenEventHandle(CUevent *ret, CUipcEventHandle handle)
{
        struct ipc_handle ipc;
        struct sim_context *context;
        struct event *event;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        memcpy(&ipc, &handle, sizeof(ipc));
        ipc.name[sizeof(ipc.name) - 1] = 0;
        if (ipc.magic != SIM_IPC_EVENT || strchr(ipc.name, '/'))
                return CUDA_ERROR_INVALID_VALUE;
        r = event_new(context, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS, &event);
        if (r)
                return r;
        snprintf(event->name, sizeof(event->name), "%.*s", (int)sizeof(event->name) - 1, ipc.name);
        if (map_shared(event->name, false, &event->shared) < 0) {
                event_end(event);
                return CUDA_ERROR_MAP_FAILED;
        }
        *ret = event->handle;
        return CUDA_SUCCESS;
}

/* ---- entry points ---- */

CUresult cuEventCreate(CUevent *ret, unsigned int flags)
{
        struct sim_context *context;
        struct event *event;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (!ret || (flags & ~ALL_FLAGS) ||
                ((flags & CU_EVENT_INTERPROCESS) && !(flags & CU_EVENT_DISABLE_TIMING)))
                return CUDA_ERROR_INVALID_VALUE;
        r = event_new(context, flags, &event);
        if (r)
                return r;
        if (flags & CU_EVENT_INTERPROCESS) {
                r = make_shared(event);
                if (r) {
                        event_end(event);
                        return r;
                }
        }
        *ret = event->handle;
        return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent handle)
{
        struct event *event;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = event_of(handle, &event);
        if (!r)
                event_end(event);
        return r;
}

CUresult cuEventDestroy(CUevent handle)
{
        return cuEventDestroy_v2(handle);
}

void event_set(struct event *event, struct op *op)
{
        capture_forget(event);
        op_ref(op);
        op_unref(event->op);
        event->op = op;
}

CUresult cuEventRecordWithFlags(CUevent handle, CUstream stream_handle, unsigned int flags)
{
        struct stream *stream;
        struct event *event;
        struct work *work;
        struct op *op;
        CUresult r = exec_enter_stream(__func__, stream_handle, &stream);

        if (!r)
                r = event_of(handle, &event);
        if (r)
                return r;
        if (flags & ~(unsigned)CU_EVENT_RECORD_EXTERNAL)
                return CUDA_ERROR_INVALID_VALUE;
        if (event->context != stream->context)
                return CUDA_ERROR_INVALID_HANDLE;
        pthread_mutex_lock(&exec_lock);
        if (stream->capture && !(flags & CU_EVENT_RECORD_EXTERNAL)) {
                r = capture_record(stream, event);
                goto done;
        }
        if (!stream->capture && (flags & CU_EVENT_RECORD_EXTERNAL)) {
                r = CUDA_ERROR_INVALID_VALUE;
                goto done;
        }
        if (stream->legacy) {
                r = capture_check_legacy(stream->context);
                if (r)
                        goto done;
        }
        work = work_new(stream->context, WORK_RECORD);
        if (!work) {
                r = CUDA_ERROR_OUT_OF_MEMORY;
                goto done;
        }
        work->event.event = event_ref(event);
        if (stream->capture) {
                r = capture_add(stream, work);
                goto done;
        }
        op = op_new(stream->context, work);
        r = op ? stream_append(stream, op) : CUDA_ERROR_OUT_OF_MEMORY;
        if (!r) {
                work->event.turn = event_begin_turn(event);
                event_set(event, op);
                op_start(op);
        }
        op_unref(op);
done:
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
        return cuEventRecordWithFlags(event, stream, CU_EVENT_RECORD_DEFAULT);
}

/* locked */
static bool is_done(const struct event *event)
{
        if (event->shared)
                return atomic_load(&event->shared->ended) >= atomic_load(&event->shared->begun);
        return !event->op || event->op->done;
}

static CUresult enter(const char *entry, CUevent handle, struct event **ret)
{
        CUresult r = sim_enter(entry);

        if (!r)
                r = event_of(handle, ret);
        if (!r)
                r = (CUresult)atomic_load(&(*ret)->context->error);
        return r;
}

CUresult cuEventQuery(CUevent handle)
{
        struct event *event;
        CUresult r = enter(__func__, handle, &event);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        if (event->session)
                r = capture_asked(event);
        else if (!is_done(event))
                r = CUDA_ERROR_NOT_READY;
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuEventSynchronize(CUevent handle)
{
        struct event *event;
        uint64_t turn;
        CUresult r = enter(__func__, handle, &event);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        if (event->session) {
                r = capture_asked(event);
        } else if (event->shared) {
                turn = atomic_load(&event->shared->begun);
                event_ref(event);
                while (!event_turn_ended(event, turn) && !atomic_load(&event->context->error)) {
                        pthread_mutex_unlock(&exec_lock);
                        sim_delay(60000);
                        pthread_mutex_lock(&exec_lock);
                }
                event_unref(event);
        } else if (event->op) {
                struct op *op = op_ref(event->op);

                if (op->stream)
                        op_help(op, op->stream);
                op_wait(op);
                op_unref(op);
        }
        pthread_mutex_unlock(&exec_lock);
        if (r)
                return r;
        sim_pool_relax(event->context->device);
        return (CUresult)atomic_load(&event->context->error);
}

CUresult cuStreamWaitEvent(CUstream stream_handle, CUevent handle, unsigned int flags)
{
        struct stream *stream;
        struct event *event;
        struct work *work = NULL;
        struct op *op;
        CUresult r = exec_enter_stream(__func__, stream_handle, &stream);

        if (!r)
                r = event_of(handle, &event);
        if (r)
                return r;
        if (flags & ~(unsigned)CU_EVENT_WAIT_EXTERNAL)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        if ((stream->capture || event->session) && !(flags & CU_EVENT_WAIT_EXTERNAL)) {
                r = capture_wait(stream, event);
                goto done;
        }
        if (!stream->capture && (flags & CU_EVENT_WAIT_EXTERNAL)) {
                r = CUDA_ERROR_INVALID_VALUE;
                goto done;
        }
        if (!stream->capture && is_done(event))
                goto done;
        if (stream->capture || event->shared) {
                work = work_new(stream->context, WORK_WAIT);
                if (!work) {
                        r = CUDA_ERROR_OUT_OF_MEMORY;
                        goto done;
                }
                work->event.event = event_ref(event);
                if (event->shared)
                        work->event.turn = atomic_load(&event->shared->begun);
        }
        if (stream->capture) {
                r = capture_add(stream, work);
                goto done;
        }
        op = op_new(stream->context, work);
        r = op ? op_after(op, event->op) : CUDA_ERROR_OUT_OF_MEMORY;
        if (!r)
                r = stream_append(stream, op);
        if (!r)
                op_start(op);
        op_unref(op);
done:
        pthread_mutex_unlock(&exec_lock);
        return r;
}

static CUresult elapsed(const char *entry, float *ret, CUevent from_handle, CUevent to_handle)
{
        struct event *from, *to;
        CUresult r = enter(entry, from_handle, &from);

        if (!r)
                r = event_of(to_handle, &to);
        if (r)
                return r;
        if (!ret) /* so, and not INVALID_VALUE, on the driver */
                return CUDA_ERROR_INVALID_HANDLE;
        if (from->context->device != to->context->device)
                return CUDA_ERROR_INVALID_HANDLE;
        pthread_mutex_lock(&exec_lock);
        if (from->session || to->session)
                r = CUDA_ERROR_CAPTURED_EVENT;
        else if ((from->flags | to->flags) & CU_EVENT_DISABLE_TIMING || !from->op || !to->op)
                r = CUDA_ERROR_INVALID_HANDLE;
        else if (!from->op->done || !to->op->done)
                r = CUDA_ERROR_NOT_READY;
        else
                *ret = (float)((double)(int64_t)(to->op->finished_at - from->op->finished_at) /
                               1e6);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuEventElapsedTime(float *ret, CUevent from, CUevent to)
{
        return elapsed(__func__, ret, from, to);
}

CUresult cuEventElapsedTime_v2(float *ret, CUevent from, CUevent to)
{
        return elapsed(__func__, ret, from, to);
}

/* An event for all that runs in a context: after every stream's last op. */
CUresult cuCtxRecordEvent(CUcontext context_handle, CUevent handle)
{
        struct sim_context *context;
        struct event *event;
        struct work *work;
        struct op *op;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_context_of(context_handle, &context);
        if (!r)
                r = event_of(handle, &event);
        if (r)
                return r;
        if (event->context != context)
                return CUDA_ERROR_INVALID_HANDLE;
        pthread_mutex_lock(&exec_lock);
        work = work_new(context, WORK_RECORD);
        if (work)
                work->event.event = event_ref(event);
        op = work ? op_new(context, work) : NULL;
        r = op ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
        for (struct stream *one = context->exec->streams; one && !r; one = one->next)
                r = op_after(op, one->last);
        if (!r) {
                work->event.turn = event_begin_turn(event);
                event_set(event, op);
                op_start(op);
        }
        op_unref(op);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuCtxWaitEvent(CUcontext context_handle, CUevent handle)
{
        struct sim_context *context;
        struct event *event;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_context_of(context_handle, &context);
        if (!r)
                r = event_of(handle, &event);
        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        for (struct stream *one = context->exec->streams; one && !r; one = one->next) {
                struct op *op;

                if (one->capture || !event->op || event->op->done)
                        continue;
                op = op_new(context, NULL);
                r = op ? op_after(op, event->op) : CUDA_ERROR_OUT_OF_MEMORY;
                if (!r)
                        r = stream_append(one, op);
                if (!r)
                        op_start(op);
                op_unref(op);
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}
