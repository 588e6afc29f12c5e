/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "exec.h"
#include "green.h"

/* What an H100 answers; lower is more urgent. */
#define LEAST_PRIORITY    0
#define GREATEST_PRIORITY (-5)

/* The calling thread's default stream in each context where it has used it. */
struct per_thread {
        uint64_t context_id;
        struct stream *stream;
        struct per_thread *next;
};

static __thread unsigned per_thread_depth __attribute__((tls_model("initial-exec")));
static __thread struct per_thread *per_thread_streams __attribute__((tls_model("initial-exec")));
static pthread_once_t per_thread_once = PTHREAD_ONCE_INIT;
static pthread_key_t per_thread_key;
static _Atomic uint64_t last_id = 2; /* 1 and 2 are the default streams' */

void sim_per_thread_enter(void)
{
        per_thread_depth++;
}

void sim_per_thread_leave(void)
{
        per_thread_depth--;
}

struct stream *stream_ref(struct stream *stream)
{
        stream->refs++;
        return stream;
}

struct stream *stream_unref(struct stream *stream)
{
        if (--stream->refs)
                return NULL;
        if (stream->link) {
                *stream->link = stream->next;
                if (stream->next)
                        stream->next->link = stream->link;
        }
        free(stream);
        return NULL;
}

static CUresult stream_new(
        struct sim_context *context, unsigned flags, int priority, struct stream **ret)
{
        struct exec_context *exec = context->exec;
        struct stream *stream = calloc(1, sizeof(*stream));

        if (!stream)
                return CUDA_ERROR_OUT_OF_MEMORY;
        stream->refs = 1;
        stream->context = context;
        stream->id = atomic_fetch_add(&last_id, 1) + 1;
        stream->flags = flags;
        stream->priority = priority;
        stream->attributes[CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY].syncPolicy =
                CU_SYNC_POLICY_AUTO;
        stream->attributes[CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP & 7].memSyncDomainMap.remote = 1;
        stream->next = exec->streams;
        stream->link = &exec->streams;
        if (stream->next)
                stream->next->link = &stream->next;
        exec->streams = stream;
        *ret = stream;
        return CUDA_SUCCESS;
}

static void drop_per_thread(void *list)
{
        struct per_thread *one = list;

        pthread_mutex_lock(&exec_lock);
        while (one) {
                struct per_thread *next = one->next;

                stream_unref(one->stream);
                free(one);
                one = next;
        }
        pthread_mutex_unlock(&exec_lock);
}

static void make_key(void)
{
        pthread_key_create(&per_thread_key, drop_per_thread);
}

static CUresult per_thread_stream(struct sim_context *context, struct stream **ret)
{
        struct per_thread *one;
        CUresult r;

        for (one = per_thread_streams; one; one = one->next)
                if (one->context_id == context->id) {
                        *ret = one->stream;
                        return CUDA_SUCCESS;
                }
        pthread_once(&per_thread_once, make_key);
        one = calloc(1, sizeof(*one));
        if (!one)
                return CUDA_ERROR_OUT_OF_MEMORY;
        pthread_mutex_lock(&exec_lock);
        r = stream_new(context, CU_STREAM_DEFAULT, 0, &one->stream);
        pthread_mutex_unlock(&exec_lock);
        if (r) {
                free(one);
                return r;
        }
        one->stream->per_thread = true;
        one->context_id = context->id;
        one->next = per_thread_streams;
        per_thread_streams = one;
        pthread_setspecific(per_thread_key, one);
        *ret = one->stream;
        return CUDA_SUCCESS;
}

CUresult stream_of(CUstream handle, struct stream **ret)
{
        struct sim_context *context;
        struct stream *stream;
        CUresult r;

        if ((uintptr_t)handle > (uintptr_t)CU_STREAM_PER_THREAD) {
                stream = handle_get(HANDLE_STREAM, handle);
                if (!stream)
                        return CUDA_ERROR_INVALID_HANDLE;
                r = (CUresult)atomic_load(&stream->context->error);
                if (r)
                        return r;
                *ret = stream;
                return CUDA_SUCCESS;
        }
        r = sim_current(&context);
        if (r)
                return r;
        if (handle == CU_STREAM_PER_THREAD || (!handle && per_thread_depth))
                return per_thread_stream(context, ret);
        *ret = context->exec->legacy;
        return CUDA_SUCCESS;
}

CUresult exec_default_stream(struct sim_context *context, struct stream **ret)
{
        if (per_thread_depth)
                return per_thread_stream(context, ret);
        *ret = context->exec->legacy;
        return CUDA_SUCCESS;
}

CUresult exec_enter(const char *entry, struct sim_context **ret)
{
        CUresult r = sim_enter(entry);

        if (!r)
                r = sim_current(ret);
        return r;
}

CUresult exec_enter_stream(const char *entry, CUstream handle, struct stream **ret)
{
        CUresult r = sim_enter(entry);

        if (!r)
                r = stream_of(handle, ret);
        return r;
}

/* ---- order ---- */

static bool is_blocking(const struct stream *stream)
{
        return !stream->legacy && !(stream->flags & CU_STREAM_NON_BLOCKING);
}

static CUresult come_after(struct stream *stream, struct op *op)
{
        struct exec_context *exec = stream->context->exec;
        CUresult r = op_after(op, stream->last);

        if (!r && stream->legacy) {
                for (struct stream *one = exec->streams; one && !r; one = one->next)
                        if (is_blocking(one))
                                r = op_after(op, one->last);
        } else if (!r && is_blocking(stream)) {
                r = op_after(op, exec->legacy->last);
        }
        return r;
}

CUresult stream_append(struct stream *stream, struct op *op)
{
        CUresult r;

        op->stream = stream_ref(stream);
        while (stream->queued >= STREAM_DEPTH)
                pthread_cond_wait(&exec_room, &exec_lock);
        r = come_after(stream, op);
        if (r) {
                op->stream = stream_unref(stream);
                return r;
        }
        stream->queued++;
        op_unref(stream->last);
        stream->last = op_ref(op);
        return CUDA_SUCCESS;
}

bool stream_idle(struct stream *stream)
{
        if (stream->last)
                return false;
        if (!stream->legacy)
                return true;
        for (struct stream *one = stream->context->exec->streams; one; one = one->next)
                if (is_blocking(one) && one->last)
                        return false;
        return true;
}

CUresult stream_submit(struct stream *stream, struct work *work, bool wait, struct op **ret_op)
{
        struct op *op;
        CUresult r;

        if (!work)
                return CUDA_ERROR_OUT_OF_MEMORY;
        pthread_mutex_lock(&exec_lock);
        if (stream->capture) {
                if (wait) {
                        work_free(work);
                        r = capture_refuse(stream);
                } else {
                        r = capture_add(stream, work);
                }
                goto done;
        }
        if (stream->legacy) {
                r = capture_check_legacy(stream->context);
                if (r) {
                        work_free(work);
                        goto done;
                }
        }
        op = op_new(stream->context, work);
        r = op ? stream_append(stream, op) : CUDA_ERROR_OUT_OF_MEMORY;
        if (r) {
                op_unref(op);
                goto done;
        }
        if (wait) {
                op_start_and_wait(op);
                r = (CUresult)atomic_load(&stream->context->error);
        } else {
                op_start(op);
        }
        if (ret_op)
                *ret_op = op_ref(op);
        op_unref(op);
done:
        pthread_mutex_unlock(&exec_lock);
        return r;
}

/* Returns when everything submitted so far is done; the sticky error if there is one. */
static CUresult synchronize(struct stream *stream)
{
        struct sim_context *context = stream->context;
        struct op *op;
        CUresult r = CUDA_SUCCESS;

        pthread_mutex_lock(&exec_lock);
        if (stream->capture) {
                r = capture_refuse(stream);
        } else if (!stream_idle(stream)) {
                op = op_new(context, NULL);
                r = op ? come_after(stream, op) : CUDA_ERROR_OUT_OF_MEMORY;
                if (!r) {
                        op_start(op);
                        op_help(op, stream);
                        op_wait(op);
                }
                op_unref(op);
        }
        pthread_mutex_unlock(&exec_lock);
        if (r)
                return r;
        sim_pool_relax(context->device);
        return (CUresult)atomic_load(&context->error);
}

CUresult exec_synchronize(struct sim_context *context)
{
        struct exec_context *exec = context->exec;
        CUresult r;
        struct op *op;

        pthread_mutex_lock(&exec_lock);
        op = op_new(context, NULL);
        r = op ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
        for (struct stream *one = exec->streams; one && !r; one = one->next)
                r = op_after(op, one->last);
        if (!r)
                op_start_and_wait(op);
        op_unref(op);
        pthread_mutex_unlock(&exec_lock);
        if (r)
                return r;
        sim_pool_relax(context->device);
        return (CUresult)atomic_load(&context->error);
}

/* ---- contexts ---- */

CUresult exec_context_init(struct sim_context *context)
{
        struct exec_context *exec = calloc(1, sizeof(*exec));
        CUresult r;

        if (!exec)
                return CUDA_ERROR_OUT_OF_MEMORY;
        exec->context = context;
        context->exec = exec;
        pthread_mutex_lock(&exec_lock);
        r = stream_new(context, CU_STREAM_DEFAULT, 0, &exec->legacy);
        pthread_mutex_unlock(&exec_lock);
        if (r) {
                context->exec = NULL;
                free(exec);
                return r;
        }
        exec->legacy->legacy = true;
        exec->legacy->id = 1;
        return CUDA_SUCCESS;
}

void exec_context_done(struct sim_context *context)
{
        struct exec_context *exec = context->exec;
        struct stream *stream;

        if (!exec)
                return;
        exec_synchronize(context);
        pthread_mutex_lock(&exec_lock);
        while ((stream = exec->streams)) {
                exec->streams = stream->next;
                if (stream->next)
                        stream->next->link = &exec->streams;
                stream->next = NULL;
                stream->link = NULL;
                if (stream->capture)
                        capture_abandon(stream);
                if (stream->handle) {
                        handle_free(stream->handle);
                        stream->handle = NULL;
                }
                /* a per-thread stream's reference is its thread's */
                if (!stream->per_thread && !stream->destroyed)
                        stream_unref(stream);
        }
        events_drop(context);
        modules_drop(exec);
        pthread_mutex_unlock(&exec_lock);
        sim_memory_free(exec->local);
        context->exec = NULL;
        free(exec);
}

CUresult exec_stream_check(CUstream handle, struct sim_context **ret)
{
        struct stream *stream;
        CUresult r = stream_of(handle, &stream);

        if (!r)
                *ret = stream->context;
        return r;
}

CUresult exec_stream_call(CUstream handle, void (*fn)(void *), void *arg)
{
        struct stream *stream;
        struct work *work;
        CUresult r = stream_of(handle, &stream);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        r = stream->capture ? capture_refuse(stream) : CUDA_SUCCESS;
        pthread_mutex_unlock(&exec_lock);
        if (r)
                return r;
        work = work_new(stream->context, WORK_CALL);
        if (work) {
                work->call.fn = fn;
                work->call.arg = arg;
        }
        return stream_submit(stream, work, false, NULL);
}

/* ---- entry points ---- */

CUresult stream_create(struct sim_context *context, struct sim_green *green, unsigned int flags,
        int priority, CUstream *ret)
{
        struct stream *stream;
        CUresult r;

        if (priority > LEAST_PRIORITY)
                priority = LEAST_PRIORITY;
        if (priority < GREATEST_PRIORITY)
                priority = GREATEST_PRIORITY;
        pthread_mutex_lock(&exec_lock);
        r = stream_new(context, flags, priority, &stream);
        if (!r) {
                stream->green = green;
                stream->handle = handle_new(HANDLE_STREAM, stream);
                if (!stream->handle) {
                        stream_unref(stream);
                        r = CUDA_ERROR_OUT_OF_MEMORY;
                }
        }
        pthread_mutex_unlock(&exec_lock);
        if (!r)
                *ret = stream->handle;
        return r;
}

CUresult cuStreamCreateWithPriority(CUstream *ret, unsigned int flags, int priority)
{
        struct sim_context *context;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (!ret || flags > CU_STREAM_NON_BLOCKING)
                return CUDA_ERROR_INVALID_VALUE;
        return stream_create(context, green_current(), flags, priority, ret);
}

CUresult cuStreamCreate(CUstream *ret, unsigned int flags)
{
        return cuStreamCreateWithPriority(ret, flags, 0);
}

CUresult cuStreamDestroy_v2(CUstream handle)
{
        struct stream *stream;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if ((uintptr_t)handle <= (uintptr_t)CU_STREAM_PER_THREAD)
                return CUDA_ERROR_INVALID_HANDLE;
        pthread_mutex_lock(&exec_lock);
        stream = handle_get(HANDLE_STREAM, handle);
        if (stream) {
                r = (CUresult)atomic_load(&stream->context->error);
                handle_free(handle);
                stream->handle = NULL;
                stream->destroyed = true;
                if (stream->capture)
                        capture_abandon(stream);
                /* what is queued keeps it until that is done */
                stream_unref(stream);
        } else {
                r = CUDA_ERROR_INVALID_HANDLE;
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuStreamDestroy(CUstream handle)
{
        return cuStreamDestroy_v2(handle);
}

CUresult cuStreamQuery(CUstream handle)
{
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        if (stream->capture)
                r = capture_refuse(stream);
        else if (stream->legacy)
                r = capture_check_legacy(stream->context);
        if (!r && !stream_idle(stream))
                r = CUDA_ERROR_NOT_READY;
        pthread_mutex_unlock(&exec_lock);
        if (r == CUDA_SUCCESS)
                sim_pool_relax(stream->context->device);
        return r;
}

CUresult cuStreamSynchronize(CUstream handle)
{
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (stream->legacy) {
                pthread_mutex_lock(&exec_lock);
                r = capture_check_legacy(stream->context);
                pthread_mutex_unlock(&exec_lock);
                if (r)
                        return r;
        }
        return synchronize(stream);
}

CUresult cuStreamGetPriority(CUstream handle, int *ret)
{
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = stream->priority;
        return CUDA_SUCCESS;
}

CUresult cuStreamGetFlags(CUstream handle, unsigned int *ret)
{
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = stream->flags;
        return CUDA_SUCCESS;
}

CUresult cuStreamGetId(CUstream handle, unsigned long long *ret)
{
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = stream->id;
        return CUDA_SUCCESS;
}

CUresult cuStreamGetDevice(CUstream handle, CUdevice *ret)
{
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = stream->context->device->index;
        return CUDA_SUCCESS;
}

/* A default stream is that of whatever is current. */
struct sim_green *stream_green(const struct stream *stream)
{
        return stream->handle ? stream->green : green_current();
}

CUresult cuStreamGetCtx(CUstream handle, CUcontext *ret)
{
        const struct sim_green *green;
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        green = stream_green(stream);
        *ret = green ? (CUcontext)green : (CUcontext)stream->context;
        return CUDA_SUCCESS;
}

CUresult cuStreamGetCtx_v2(CUstream handle, CUcontext *ret, CUgreenCtx *ret_green)
{
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!ret || !ret_green)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = (CUcontext)stream->context;
        *ret_green = (CUgreenCtx)stream_green(stream);
        return CUDA_SUCCESS;
}

CUresult cuStreamGetGreenCtx(CUstream handle, CUgreenCtx *ret)
{
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = (CUgreenCtx)stream_green(stream);
        return CUDA_SUCCESS;
}

/* Which attributes a stream has; the place of each in stream.attributes. -1: none. */
static int attribute_place(CUstreamAttrID attribute)
{
        switch (attribute) {
        case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
                return 1;
        case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
                return 3;
        case CU_LAUNCH_ATTRIBUTE_PRIORITY:
                return 0;
        case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
                return CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP & 7;
        case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
                return CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN & 7;
        default:
                return -1;
        }
}

CUresult cuStreamGetAttribute(CUstream handle, CUstreamAttrID attribute, CUstreamAttrValue *ret)
{
        struct stream *stream;
        int place = attribute_place(attribute);
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!ret || place < 0)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        *ret = stream->attributes[place];
        if (attribute == CU_LAUNCH_ATTRIBUTE_PRIORITY)
                ret->priority = stream->priority;
        pthread_mutex_unlock(&exec_lock);
        return CUDA_SUCCESS;
}

CUresult cuStreamSetAttribute(
        CUstream handle, CUstreamAttrID attribute, const CUstreamAttrValue *value)
{
        struct stream *stream;
        int place = attribute_place(attribute);
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!value || place < 0)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        stream->attributes[place] = *value;
        if (attribute == CU_LAUNCH_ATTRIBUTE_PRIORITY)
                stream->priority = value->priority;
        pthread_mutex_unlock(&exec_lock);
        return CUDA_SUCCESS;
}

CUresult cuStreamCopyAttributes(CUstream dst, CUstream src)
{
        struct stream *to, *from;
        CUresult r = exec_enter_stream(__func__, dst, &to);

        if (!r)
                r = stream_of(src, &from);
        if (r)
                return r;
        if (to->context != from->context)
                return CUDA_ERROR_INVALID_CONTEXT;
        pthread_mutex_lock(&exec_lock);
        memmove(to->attributes, from->attributes, sizeof(to->attributes));
        pthread_mutex_unlock(&exec_lock);
        return CUDA_SUCCESS;
}

CUresult cuLaunchHostFunc(CUstream handle, CUhostFn fn, void *data)
{
        struct stream *stream;
        struct work *work;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!fn)
                return CUDA_ERROR_INVALID_VALUE;
        work = work_new(stream->context, WORK_HOST);
        if (work) {
                work->host.fn = fn;
                work->host.data = data;
        }
        return stream_submit(stream, work, false, NULL);
}

CUresult cuStreamAddCallback(CUstream handle, CUstreamCallback fn, void *data, unsigned int flags)
{
        struct stream *stream;
        struct work *work;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!fn || flags)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        r = stream->capture ? capture_refuse(stream) : CUDA_SUCCESS;
        pthread_mutex_unlock(&exec_lock);
        if (r)
                return r;
        work = work_new(stream->context, WORK_CALLBACK);
        if (work) {
                work->callback.fn = fn;
                work->callback.data = data;
                work->callback.stream = handle;
        }
        return stream_submit(stream, work, false, NULL);
}

CUresult cuStreamAttachMemAsync(
        CUstream handle, CUdeviceptr pointer, size_t length, unsigned int flags)
{
        struct sim_range range;
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST &&
                flags != CU_MEM_ATTACH_SINGLE)
                return CUDA_ERROR_INVALID_VALUE;
        r = sim_range(pointer, length ? length : 1, &range);
        if (r || range.kind != SIM_MANAGED)
                return CUDA_ERROR_INVALID_VALUE;
        if (flags == CU_MEM_ATTACH_SINGLE && stream->legacy)
                return CUDA_ERROR_INVALID_VALUE;
        return stream_submit(stream, work_new(stream->context, WORK_EMPTY), false, NULL);
}
