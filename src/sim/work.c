/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "exec.h"
#include "ptx.h"

struct work *work_new(struct sim_context *context, enum work_kind kind)
{
        struct work *work = calloc(1, sizeof(*work));

        if (work) {
                work->kind = kind;
                work->context = context;
        }
        return work;
}

struct work *work_free(struct work *work)
{
        if (!work)
                return NULL;
        switch (work->kind) {
        case WORK_KERNEL:
                if (work->launch.function)
                        module_unref(work->launch.function->module);
                free(work->launch.params);
                free(work->launch.pointers);
                break;
        case WORK_COPY:
                free(work->copy.staged);
                break;
        case WORK_RECORD:
        case WORK_WAIT:
                event_unref(work->event.event);
                break;
        case WORK_VALUES:
                free(work->values.ops);
                break;
        case WORK_ALLOC:
                free(work->alloc.access);
                graph_memory_unref(work->alloc.memory);
                break;
        case WORK_CHILD:
                graph_free(work->child);
                break;
        default:
                break;
        }
        free(work);
        return NULL;
}

static void *copy_of(const void *from, size_t bytes)
{
        void *copy = malloc(bytes ? bytes : 1);

        if (copy && bytes)
                memcpy(copy, from, bytes);
        return copy;
}

/* A launch's parameters lie in a buffer of its own; pointers say where each begins. */
static bool clone_launch(struct launch *to, const struct launch *from)
{
        const struct ptx_entry *entry = from->function->entry;
        size_t bytes = function_params_size(entry);

        to->params = copy_of(from->params, bytes);
        to->pointers = launch_pointers(entry, to->params);
        if (!to->params || !to->pointers) {
                free(to->params);
                free(to->pointers);
                return false;
        }
        module_ref(to->function->module);
        return true;
}

struct work *work_clone(const struct work *work)
{
        struct work *clone = copy_of(work, sizeof(*work));
        bool ok = true;

        if (!clone)
                return NULL;
        switch (work->kind) {
        case WORK_KERNEL:
                ok = clone_launch(&clone->launch, &work->launch);
                break;
        case WORK_COPY:
                clone->copy.staged = NULL;
                break;
        case WORK_RECORD:
        case WORK_WAIT:
                event_ref(work->event.event);
                break;
        case WORK_VALUES:
                clone->values.ops =
                        copy_of(work->values.ops, work->values.count * sizeof(*work->values.ops));
                ok = clone->values.ops;
                break;
        case WORK_ALLOC:
                clone->alloc.access = copy_of(work->alloc.access,
                        work->alloc.params.accessDescCount * sizeof(*work->alloc.access));
                ok = clone->alloc.access;
                clone->alloc.params.accessDescs = clone->alloc.access;
                graph_memory_ref(work->alloc.memory);
                break;
        case WORK_CHILD:
                clone->child = graph_clone(work->child);
                ok = clone->child;
                break;
        default:
                break;
        }
        if (!ok) {
                free(clone);
                return NULL;
        }
        return clone;
}

bool work_is_trivial(const struct work *work)
{
        return !work || work->kind == WORK_EMPTY || work->kind == WORK_RECORD ||
               (work->kind == WORK_WAIT && !work->event.event->shared);
}

CUresult memory_check(CUdeviceptr pointer, size_t bytes, bool write)
{
        struct sim_range range;
        enum sim_kind kind = 0;

        if (pointer + bytes < pointer)
                return CUDA_ERROR_INVALID_VALUE;
        do {
                size_t here;
                CUresult r = sim_range(pointer, 1, &range);

                if (r)
                        return r;
                if (kind && (kind != SIM_VMM || range.kind != SIM_VMM))
                        return CUDA_ERROR_INVALID_VALUE;
                kind = range.kind;
                here = (size_t)(range.base + range.size - pointer);
                here = here < bytes ? here : bytes;
                if (write && kind <= SIM_IPC) {
                        r = sim_touch(range.host, here);
                        if (r)
                                return r;
                }
                pointer += here;
                bytes -= here;
        } while (bytes);
        return CUDA_SUCCESS;
}

/* What went wrong with memory that was there when the work was asked for. */
static int gone(CUresult r)
{
        return -(int)(r == CUDA_ERROR_INVALID_VALUE ? CUDA_ERROR_ILLEGAL_ADDRESS : r);
}

static int check_side(const struct copy_side *side, const struct copy *copy, bool write)
{
        size_t bytes =
                (copy->depth - 1) * side->slice + (copy->height - 1) * side->pitch + copy->width;

        if (!side->device)
                return 0;
        if (!sim_is_backed(side->base))
                return -(int)CUDA_ERROR_ILLEGAL_ADDRESS;
        return gone(memory_check((CUdeviceptr)(uintptr_t)side->base, bytes, write));
}

static int run_copy(struct copy *copy)
{
        const char *from = copy->staged ? copy->staged : copy->src.base;
        int r;

        if (copy->width == 0 || copy->height == 0 || copy->depth == 0)
                return 0;
        r = check_side(&copy->dst, copy, true);
        if (r == 0)
                r = check_side(&copy->src, copy, false);
        if (r < 0)
                return r;
        for (size_t z = 0; z < copy->depth; z++) {
                const char *source = from + z * copy->src.slice;
                char *target = copy->dst.base + z * copy->dst.slice;

                if (copy->src.pitch == copy->width && copy->dst.pitch == copy->width) {
                        memmove(target, source, copy->width * copy->height);
                        continue;
                }
                for (size_t y = 0; y < copy->height; y++)
                        memmove(target + y * copy->dst.pitch, source + y * copy->src.pitch,
                                copy->width);
        }
        return 0;
}

static int run_fill(const struct fill *fill)
{
        size_t bytes = fill->width * fill->element;
        int r;

        if (fill->width == 0 || fill->height == 0)
                return 0;
        r = gone(memory_check(fill->dst, (fill->height - 1) * fill->pitch + bytes, true));
        if (r < 0)
                return r;
        for (size_t y = 0; y < fill->height; y++) {
                char *row = (char *)(uintptr_t)fill->dst + y * fill->pitch;

                if (fill->element == 1) {
                        memset(row, (int)fill->value, bytes);
                } else if (fill->element == 2) {
                        for (size_t i = 0; i < fill->width; i++)
                                ((uint16_t *)row)[i] = (uint16_t)fill->value;
                } else {
                        for (size_t i = 0; i < fill->width; i++)
                                ((uint32_t *)row)[i] = fill->value;
                }
        }
        return 0;
}

static bool value_reached(
        const CUstreamBatchMemOpParams *op, uint64_t now, uint64_t wanted, unsigned bits)
{
        uint64_t mask = bits == 32 ? UINT32_MAX : UINT64_MAX;

        switch (op->waitValue.flags & 3) {
        case CU_STREAM_WAIT_VALUE_GEQ:
                return bits == 32 ? (int32_t)(now - wanted) >= 0 : (int64_t)(now - wanted) >= 0;
        case CU_STREAM_WAIT_VALUE_EQ:
                return ((now ^ wanted) & mask) == 0;
        case CU_STREAM_WAIT_VALUE_AND:
                return now & wanted & mask;
        default:
                return ~(now | wanted) & mask;
        }
}

/* 0, RUN_AGAIN or an error */
static int run_value(const CUstreamBatchMemOpParams *op)
{
        CUstreamBatchMemOpType type = op->operation;
        bool wide =
                type == CU_STREAM_MEM_OP_WAIT_VALUE_64 || type == CU_STREAM_MEM_OP_WRITE_VALUE_64;
        struct sim_range range;
        uint64_t value;

        if (type == CU_STREAM_MEM_OP_BARRIER || type == CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES)
                return 0;
        if (sim_range(op->waitValue.address, wide ? 8 : 4, &range))
                return -(int)CUDA_ERROR_ILLEGAL_ADDRESS;
        value = wide ? op->waitValue.value64 : op->waitValue.value;
        if (type == CU_STREAM_MEM_OP_WRITE_VALUE_32) {
                __atomic_store_n((uint32_t *)range.host, (uint32_t)value, __ATOMIC_SEQ_CST);
                return 0;
        }
        if (type == CU_STREAM_MEM_OP_WRITE_VALUE_64) {
                __atomic_store_n((uint64_t *)range.host, value, __ATOMIC_SEQ_CST);
                return 0;
        }
        if (wide)
                return value_reached(op, __atomic_load_n((uint64_t *)range.host, __ATOMIC_SEQ_CST),
                               value, 64)
                               ? 0
                               : RUN_AGAIN;
        return value_reached(
                       op, __atomic_load_n((uint32_t *)range.host, __ATOMIC_SEQ_CST), value, 32)
                       ? 0
                       : RUN_AGAIN;
}

static int run_values(struct values *values)
{
        for (; values->next < values->count; values->next++) {
                int r = run_value(&values->ops[values->next]);

                if (r)
                        return r;
        }
        values->next = 0; /* a graph runs it again */
        return 0;
}

int work_run(struct work *work)
{
        switch (work->kind) {
        case WORK_KERNEL:
                return kernels_run(&work->launch, work->context);
        case WORK_COPY:
                return run_copy(&work->copy);
        case WORK_FILL:
                return run_fill(&work->fill);
        case WORK_VALUES:
                return run_values(&work->values);
        case WORK_HOST:
                engine_set_callback(true);
                work->host.fn(work->host.data);
                engine_set_callback(false);
                return 0;
        case WORK_CALLBACK:
                engine_set_callback(true);
                work->callback.fn(work->callback.stream,
                        (CUresult)atomic_load(&work->context->error), work->callback.data);
                engine_set_callback(false);
                return 0;
        case WORK_WAIT:
                return event_turn_ended(work->event.event, work->event.turn) ? 0 : RUN_AGAIN;
        case WORK_CALL:
                work->call.fn(work->call.arg);
                return 0;
        case WORK_FREE:
                /* memory of the graph itself is accounted for at the launch */
                return exec_graph_free(work->free) == CUDA_ERROR_NOT_FOUND
                               ? -(int)sim_pool_free(work->free)
                               : 0;
        case WORK_ALLOC: /* a graph's memory is there as long as the graph can run */
        case WORK_EMPTY:
        case WORK_RECORD:
        case WORK_CHILD: /* its nodes were put in its place */
                return 0;
        }
        return 0;
}
