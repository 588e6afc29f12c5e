/* SPDX-License-Identifier: Apache-2.0 */
/* Executable graphs: made from graphs, updated, launched. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

#define ALL_FLAGS                                                                                  \
        (CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |    \
                CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH |                                        \
                CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY)

struct graph_exec {
        CUgraphExec handle;
        struct graph *graph; /* a copy of what it was made from, with the origins' ids */
        cuuint64_t flags;
        struct op *last; /* the last launch's end: launches do not overlap */
};

static CUresult exec_of(CUgraphExec handle, struct graph_exec **ret)
{
        struct graph_exec *exec = handle_get(HANDLE_GRAPH_EXEC, handle);

        if (!exec)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = exec;
        return CUDA_SUCCESS;
}

static struct graph_node *find_origin(const struct graph *graph, uint64_t id)
{
        for (unsigned i = 0; i < graph->n_nodes; i++)
                if (graph->nodes[i]->origin == id)
                        return graph->nodes[i];
        return NULL;
}

CUresult graph_exec_node(CUgraphExec exec_handle, CUgraphNode handle, struct graph_node **ret)
{
        struct graph_node *node;
        struct graph_exec *exec;
        CUresult r = CUDA_ERROR_INVALID_VALUE;

        pthread_mutex_lock(&exec_lock);
        node = handle_get(HANDLE_NODE, handle);
        if (node && exec_of(exec_handle, &exec) == CUDA_SUCCESS) {
                *ret = find_origin(exec->graph, node->id);
                if (*ret)
                        r = CUDA_SUCCESS;
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

/* ---- instantiation ---- */

/* Takes what the graph's kernels need of the device. Not locked. */
static CUresult prepare(const struct graph *graph)
{
        CUresult r = CUDA_SUCCESS;

        for (unsigned i = 0; i < graph->n_nodes && !r; i++) {
                const struct work *work = graph->nodes[i]->work;

                if (work->kind == WORK_KERNEL)
                        r = launch_prepare(&work->launch);
                else if (work->kind == WORK_CHILD)
                        r = prepare(work->child);
        }
        return r;
}

static CUresult instantiate(const char *entry, CUgraphExec *ret, CUgraph handle, cuuint64_t flags)
{
        struct sim_context *context;
        struct graph_exec *exec;
        struct graph *graph;
        CUresult r = exec_enter(entry, &context);

        if (r)
                return r;
        if (!ret || (flags & ~(cuuint64_t)ALL_FLAGS))
                return CUDA_ERROR_INVALID_VALUE;
        if (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH)
                return CUDA_ERROR_NOT_SUPPORTED;
        exec = calloc(1, sizeof(*exec));
        if (!exec)
                return CUDA_ERROR_OUT_OF_MEMORY;
        pthread_mutex_lock(&exec_lock);
        graph = handle_get(HANDLE_GRAPH, handle);
        if (!graph || graph_is_circular(graph)) {
                r = CUDA_ERROR_INVALID_VALUE;
        } else {
                exec->graph = graph_clone(graph);
                if (exec->graph && graph_share_users(exec->graph, graph))
                        exec->graph = graph_free(exec->graph);
                exec->handle = exec->graph ? handle_new(HANDLE_GRAPH_EXEC, exec) : NULL;
                if (!exec->handle)
                        r = CUDA_ERROR_OUT_OF_MEMORY;
                else
                        exec->graph->owned = true;
        }
        pthread_mutex_unlock(&exec_lock);
        exec->flags = flags;
        if (!r)
                r = prepare(exec->graph);
        if (r) {
                pthread_mutex_lock(&exec_lock);
                if (exec->handle)
                        handle_free(exec->handle);
                graph_free(exec->graph);
                pthread_mutex_unlock(&exec_lock);
                free(exec);
                return r;
        }
        *ret = exec->handle;
        return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *ret, CUgraph graph, unsigned long long flags)
{
        return instantiate(__func__, ret, graph, flags);
}

CUresult cuGraphInstantiate_v2(
        CUgraphExec *ret, CUgraph graph, CUgraphNode *ret_error, char *log, size_t room)
{
        if (ret_error)
                *ret_error = NULL;
        if (log && room)
                log[0] = 0;
        return instantiate(__func__, ret, graph, 0);
}

CUresult cuGraphInstantiate(
        CUgraphExec *ret, CUgraph graph, CUgraphNode *ret_error, char *log, size_t room)
{
        return cuGraphInstantiate_v2(ret, graph, ret_error, log, room);
}

CUresult cuGraphInstantiateWithParams(
        CUgraphExec *ret, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params)
{
        CUresult r;

        if (!params)
                return CUDA_ERROR_INVALID_VALUE;
        r = instantiate(__func__, ret, graph, params->flags);
        params->hErrNode_out = NULL;
        params->result_out = r ? CUDA_GRAPH_INSTANTIATE_ERROR : CUDA_GRAPH_INSTANTIATE_SUCCESS;
        if (!r && (params->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD))
                r = cuGraphUpload(*ret, params->hUploadStream);
        return r;
}

CUresult cuGraphExecGetFlags(CUgraphExec handle, cuuint64_t *ret)
{
        struct graph_exec *exec;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = exec_of(handle, &exec);
        if (!r)
                *ret = exec->flags;
        return r;
}

CUresult cuGraphExecDestroy(CUgraphExec handle)
{
        struct graph_exec *exec;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        r = exec_of(handle, &exec);
        if (!r) {
                /* what is launched has copies of all that it needs */
                handle_free(handle);
                graph_free(exec->graph);
                op_unref(exec->last);
                free(exec);
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

/* ---- launch ---- */

static CUresult plan(
        struct graph *graph, struct sim_context *context, struct op *gate, struct op **ret_end);

/* The op, or the first and the last op of a child graph, that a node becomes. */
struct step {
        struct op *first, *last;
};

static CUresult make_step(struct graph_node *node, struct sim_context *context, struct step *ret)
{
        struct work *work = NULL;
        struct op *op;
        CUresult r = CUDA_SUCCESS;

        if (node->work->context)
                context = node->work->context;
        if (node->enabled && node->work->kind == WORK_CHILD) {
                struct op *first = op_new(context, NULL);

                if (!first)
                        return CUDA_ERROR_OUT_OF_MEMORY;
                r = plan(node->work->child, context, first, &ret->last);
                if (r)
                        op_unref(first);
                else
                        ret->first = first;
                return r;
        }
        if (node->enabled) {
                work = work_clone(node->work);
                if (!work)
                        return CUDA_ERROR_OUT_OF_MEMORY;
        }
        op = op_new(context, work);
        if (!op)
                return CUDA_ERROR_OUT_OF_MEMORY;
        if (work && work->kind == WORK_RECORD) {
                work->event.turn = event_begin_turn(work->event.event);
                event_set(work->event.event, op);
        } else if (work && work->kind == WORK_WAIT) {
                r = op_after(op, work->event.event->op);
        }
        ret->first = op;
        ret->last = op_ref(op);
        return r;
}

/* Makes the ops of a graph, between gate and *ret_end, which is new. Nothing can run before gate
 * is started, because each waits for it. */
static CUresult plan(
        struct graph *graph, struct sim_context *context, struct op *gate, struct op **ret_end)
{
        struct step *steps = calloc(graph->n_nodes + 1, sizeof(*steps));
        struct op *end = op_new(context, NULL);
        CUresult r = steps && end ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;

        for (unsigned i = 0; i < graph->n_nodes && !r; i++)
                r = make_step(graph->nodes[i], context, &steps[i]);
        for (unsigned i = 0; i < graph->n_nodes && !r; i++) {
                struct graph_node *node = graph->nodes[i];

                for (unsigned k = 0; k < node->n_before && !r; k++)
                        r = op_after(steps[i].first, steps[node->before[k].node->index].last);
                if (node->n_before == 0 && !r)
                        r = op_after(steps[i].first, gate);
                if (node->n_after == 0 && !r)
                        r = op_after(end, steps[i].last);
        }
        if (!r)
                r = op_after(end, gate);
        for (unsigned i = 0; steps && i < graph->n_nodes; i++) {
                if (steps[i].first) {
                        if (!r)
                                op_start(steps[i].first);
                        op_unref(steps[i].first);
                }
                /* a child's end was started when the child was planned */
                op_unref(steps[i].last);
        }
        free(steps);
        if (r) {
                op_unref(end);
                return r;
        }
        op_start(end);
        *ret_end = end;
        return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec handle, CUstream stream_handle)
{
        struct op *gate = NULL, *tail = NULL, *end = NULL;
        struct graph_exec *exec;
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, stream_handle, &stream);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        r = exec_of(handle, &exec);
        if (!r && stream->capture) {
                struct work *work = work_new(stream->context, WORK_CHILD);

                if (work)
                        work->child = graph_clone(exec->graph);
                if (work && work->child) {
                        work->child->owned = true;
                        r = capture_add(stream, work);
                } else {
                        free(work);
                        r = CUDA_ERROR_OUT_OF_MEMORY;
                }
                goto done;
        }
        if (!r && stream->legacy)
                r = capture_check_legacy(stream->context);
        if (!r)
                r = graph_memory_ready(
                        exec->graph, exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        if (!r)
                r = graph_memory_back(exec->graph);
        if (r)
                goto done;
        gate = op_new(stream->context, NULL);
        tail = op_new(stream->context, NULL);
        if (!gate || !tail) {
                r = CUDA_ERROR_OUT_OF_MEMORY;
                goto done;
        }
        r = op_after(gate, exec->last);
        if (!r)
                r = stream_append(stream, gate);
        if (!r)
                r = plan(exec->graph, stream->context, gate, &end);
        if (!r)
                r = op_after(tail, end);
        if (!r)
                r = stream_append(stream, tail);
        if (!r) {
                op_unref(exec->last);
                exec->last = op_ref(tail);
                op_start(tail);
                graph_memory_launch(exec->graph);
        }
        if (gate->stream)
                op_start(gate);
done:
        op_unref(end);
        op_unref(tail);
        op_unref(gate);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuGraphUpload(CUgraphExec handle, CUstream stream_handle)
{
        struct graph_exec *exec;
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, stream_handle, &stream);

        if (!r)
                r = exec_of(handle, &exec);
        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        r = graph_memory_back(exec->graph);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

/* ---- changes after instantiation ---- */

CUresult cuGraphNodeSetEnabled(CUgraphExec exec, CUgraphNode handle, unsigned int enabled)
{
        struct graph_node *node;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = graph_exec_node(exec, handle, &node);
        if (r)
                return r;
        if (node->work->kind != WORK_KERNEL && node->work->kind != WORK_COPY &&
                node->work->kind != WORK_FILL)
                return CUDA_ERROR_INVALID_VALUE;
        node->enabled = enabled != 0;
        return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetEnabled(CUgraphExec exec, CUgraphNode handle, unsigned int *ret)
{
        struct graph_node *node;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = graph_exec_node(exec, handle, &node);
        if (r)
                return r;
        if (!ret || (node->work->kind != WORK_KERNEL && node->work->kind != WORK_COPY &&
                            node->work->kind != WORK_FILL))
                return CUDA_ERROR_INVALID_VALUE;
        *ret = node->enabled;
        return CUDA_SUCCESS;
}

static CUgraphExecUpdateResult compare(
        const struct graph *old, const struct graph *new, struct graph_node **ret_node)
{
        *ret_node = NULL;
        if (old->n_nodes != new->n_nodes)
                return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        for (unsigned i = 0; i < old->n_nodes; i++) {
                struct graph_node *a = old->nodes[i], *b = new->nodes[i];

                *ret_node = b;
                if (a->n_before != b->n_before)
                        return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
                for (unsigned k = 0; k < a->n_before; k++)
                        if (a->before[k].node->index != b->before[k].node->index)
                                return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
                if (a->work->kind != b->work->kind)
                        return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
                if (a->work->kind == WORK_KERNEL && a->work->context != b->work->context)
                        return CU_GRAPH_EXEC_UPDATE_ERROR_UNSUPPORTED_FUNCTION_CHANGE;
                if (a->work->kind == WORK_ALLOC &&
                        a->work->alloc.params.dptr != b->work->alloc.params.dptr)
                        return CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED;
                if (a->work->kind == WORK_CHILD) {
                        CUgraphExecUpdateResult result =
                                compare(a->work->child, b->work->child, ret_node);

                        if (result)
                                return result;
                }
        }
        *ret_node = NULL;
        return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

CUresult cuGraphExecUpdate_v2(
        CUgraphExec handle, CUgraph graph_handle, CUgraphExecUpdateResultInfo *ret)
{
        struct graph *graph, *copy;
        struct graph_node *node;
        struct graph_exec *exec;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        r = exec_of(handle, &exec);
        graph = handle_get(HANDLE_GRAPH, graph_handle);
        if (!r && !graph)
                r = CUDA_ERROR_INVALID_VALUE;
        if (!r) {
                memset(ret, 0, sizeof(*ret));
                ret->result = compare(exec->graph, graph, &node);
                if (ret->result) {
                        ret->errorNode = node ? node->handle : NULL;
                        r = CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
                } else if ((copy = graph_clone(graph))) {
                        /* nodes go on by the names of the graph that it was made from */
                        for (unsigned i = 0; i < copy->n_nodes; i++) {
                                copy->nodes[i]->origin = exec->graph->nodes[i]->origin;
                                copy->nodes[i]->enabled = exec->graph->nodes[i]->enabled;
                        }
                        copy->owned = true;
                        graph_free(exec->graph);
                        exec->graph = copy;
                } else {
                        r = CUDA_ERROR_OUT_OF_MEMORY;
                }
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuGraphExecUpdate(
        CUgraphExec exec, CUgraph graph, CUgraphNode *ret_node, CUgraphExecUpdateResult *ret_result)
{
        CUgraphExecUpdateResultInfo info;
        CUresult r;

        if (!ret_result)
                return CUDA_ERROR_INVALID_VALUE;
        memset(&info, 0, sizeof(info));
        r = cuGraphExecUpdate_v2(exec, graph, &info);
        *ret_result = info.result;
        if (ret_node)
                *ret_node = info.errorNode;
        return r;
}
