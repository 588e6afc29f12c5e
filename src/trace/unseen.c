/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/unseen.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MOST_DEVICES 64

struct unseen {
        const struct trace_file *file;
        void *library;
        pthread_mutex_t lock; /* for primary */
        CUcontext primary[MOST_DEVICES];
};

#define CALL(unseen, symbol) ((__typeof__(&symbol))dlsym((unseen)->library, #symbol))

/* The last recorded call that would have changed what is current in this thread did not do so here.
 */
static _Thread_local bool astray;

struct unseen *unseen_new(const struct trace_file *file, void *library)
{
        struct unseen *unseen = calloc(1, sizeof(*unseen));

        if (!unseen)
                return NULL;
        unseen->file = file;
        unseen->library = library;
        pthread_mutex_init(&unseen->lock, NULL);
        return unseen;
}

void unseen_free(struct unseen *unseen)
{
        free(unseen);
}

/* -- which device ------------------------------------------------------------------------------ */

/* The arguments of a recorded call, or NULL unless it succeeded. */
static const void *arguments(
        const struct unseen *unseen, const struct trace_event *event, struct trace_parts *ret)
{
        if (trace_parts(unseen->file, event, ret) < 0 || !ret->returned ||
                ret->result != CUDA_SUCCESS)
                return NULL;
        return ret->args;
}

/* What a successful call for a context's device answered, or -1. ret_context: the one it named;
 * NULL: the current one. */
static int device_answered(
        const struct unseen *unseen, const struct trace_event *event, CUcontext *ret_context)
{
        unsigned entry = event->record->entry;
        struct trace_parts parts;
        const void *args;
        CUdevice device;

        *ret_context = NULL;
        if (entry != CUDA_ENTRY_cuCtxGetDevice && entry != CUDA_ENTRY_cuCtxGetDevice_v2)
                return -1;
        args = arguments(unseen, event, &parts);
        if (!args || !parts.left[0] || parts.lengths[0] != sizeof(device))
                return -1;
        if (entry == CUDA_ENTRY_cuCtxGetDevice_v2)
                memcpy(ret_context,
                        (const char *)args + offsetof(struct cuda_call_cuCtxGetDevice_v2, ctx),
                        sizeof(*ret_context));
        memcpy(&device, parts.left[0], sizeof(device));
        return device;
}

/* The device that a successful call named whose primary context it is about, or -1. Calls that only
 * ask for its state are not meant: programs ask that of every device. */
static int device_named(const struct unseen *unseen, const struct trace_event *event)
{
        struct trace_parts parts;
        const void *args;
        CUdevice device;
        size_t offset;

        switch (event->record->entry) {
        case CUDA_ENTRY_cuDevicePrimaryCtxRetain:
                offset = offsetof(struct cuda_call_cuDevicePrimaryCtxRetain, dev);
                break;
        case CUDA_ENTRY_cuDevicePrimaryCtxSetFlags:
        case CUDA_ENTRY_cuDevicePrimaryCtxSetFlags_v2:
                offset = offsetof(struct cuda_call_cuDevicePrimaryCtxSetFlags, dev);
                break;
        default:
                return -1;
        }
        args = arguments(unseen, event, &parts);
        if (!args)
                return -1;
        memcpy(&device, (const char *)args + offset, sizeof(device));
        return device;
}

/* The context that the call makes current, if it only does that. */
static CUcontext selects(const struct unseen *unseen, const struct trace_event *event)
{
        struct trace_parts parts;
        const void *args;
        CUcontext context = NULL;

        switch (event->record->entry) {
        case CUDA_ENTRY_cuCtxSetCurrent:
        case CUDA_ENTRY_cuCtxPushCurrent:
        case CUDA_ENTRY_cuCtxPushCurrent_v2:
                args = arguments(unseen, event, &parts);
                if (args)
                        memcpy(&context, args, sizeof(context));
                break;
        default:
                break;
        }
        return context;
}
static_assert(offsetof(struct cuda_call_cuCtxSetCurrent, ctx) == 0, "the context comes first");
static_assert(offsetof(struct cuda_call_cuCtxPushCurrent, ctx) == 0, "the context comes first");
static_assert(offsetof(struct cuda_call_cuCtxPushCurrent_v2, ctx) == 0, "the context comes first");

/* Whether another context may be current after the call. */
static bool changes_current(const struct trace_event *event)
{
        switch (event->record->entry) {
        case CUDA_ENTRY_cuCtxSetCurrent:
        case CUDA_ENTRY_cuCtxPushCurrent:
        case CUDA_ENTRY_cuCtxPushCurrent_v2:
        case CUDA_ENTRY_cuCtxPopCurrent:
        case CUDA_ENTRY_cuCtxPopCurrent_v2:
        case CUDA_ENTRY_cuCtxCreate:
        case CUDA_ENTRY_cuCtxCreate_v2:
        case CUDA_ENTRY_cuCtxCreate_v3:
        case CUDA_ENTRY_cuCtxCreate_v4:
        case CUDA_ENTRY_cuCtxDestroy:
        case CUDA_ENTRY_cuCtxDestroy_v2:
                return true;
        default:
                return false;
        }
}

/* theirs: NULL: the context that is current at the call. */
static int device_of(const struct unseen *unseen, const struct trace_event *event, CUcontext theirs)
{
        const struct trace_event *first = unseen->file->events, *last = first + unseen->file->count;
        bool current = !theirs;
        CUcontext named;
        int device;

        for (const struct trace_event *e = event; e < last && (theirs || current); e++) {
                if (e->process != event->process || e->record->thread != event->record->thread)
                        continue;
                if (changes_current(e))
                        current = theirs && selects(unseen, e) == theirs;
                device = device_answered(unseen, e, &named);
                if (device >= 0 && (named ? theirs && named == theirs : current))
                        return device;
        }
        for (const struct trace_event *e = event; e-- > first;) {
                if (e->process != event->process || e->record->thread != event->record->thread)
                        continue;
                device = device_named(unseen, e);
                if (device >= 0)
                        return device;
        }
        return 0;
}

/* -- the context ------------------------------------------------------------------------------- */

static CUcontext primary(struct unseen *unseen, int device)
{
        CUcontext context = NULL;

        if (device < 0 || device >= MOST_DEVICES || !CALL(unseen, cuDevicePrimaryCtxRetain))
                return NULL;
        pthread_mutex_lock(&unseen->lock);
        if (!unseen->primary[device] &&
                CALL(unseen, cuDevicePrimaryCtxRetain)(&context, device) == CUDA_SUCCESS)
                unseen->primary[device] = context;
        context = unseen->primary[device];
        pthread_mutex_unlock(&unseen->lock);
        return context;
}

bool unseen_context(
        struct unseen *unseen, const struct trace_event *event, uint64_t theirs, uint64_t *ret_ours)
{
        CUcontext context = primary(unseen, device_of(unseen, event, (CUcontext)(uintptr_t)theirs));

        if (context)
                *ret_ours = (uintptr_t)context;
        return context != NULL;
}

bool unseen_current(struct unseen *unseen, const struct trace_event *event, uint64_t context)
{
        CUcontext current = NULL, ours = (CUcontext)(uintptr_t)context;

        if (astray || !CALL(unseen, cuCtxGetCurrent) || !CALL(unseen, cuCtxSetCurrent) ||
                CALL(unseen, cuCtxGetCurrent)(&current) != CUDA_SUCCESS || current)
                return false;
        if (!ours)
                ours = primary(unseen, device_of(unseen, event, NULL));
        return ours && CALL(unseen, cuCtxSetCurrent)(ours) == CUDA_SUCCESS;
}

void unseen_made(const struct trace_event *event, bool same)
{
        if (changes_current(event))
                astray = !same;
}
