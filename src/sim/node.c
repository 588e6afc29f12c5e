/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes of graphs: their parameters in and out. All shapes go through CUgraphNodeParams. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "green.h"

/* ---- parameters to work, not locked ---- */

static CUresult kernel_work(
        struct sim_context *context, const CUDA_KERNEL_NODE_PARAMS_v3 *p, struct work **ret)
{
        CUlaunchConfig config = {p->gridDimX, p->gridDimY, p->gridDimZ, p->blockDimX, p->blockDimY,
                p->blockDimZ, p->sharedMemBytes, NULL, NULL, 0};
        CUfunction function = p->func ? p->func : (CUfunction)p->kern;
        CUresult r;

        if (p->func && p->kern)
                return CUDA_ERROR_INVALID_VALUE;
        if (p->ctx) {
                r = sim_context_of(p->ctx, &context);
                if (r)
                        return r;
        }
        return launch_new(
                context, green_current(), &config, function, p->kernelParams, p->extra, ret);
}

static CUresult event_work(
        struct sim_context *context, enum work_kind kind, CUevent handle, struct work **ret)
{
        struct event *event;
        CUresult r = event_of(handle, &event);

        if (r)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = work_new(context, kind);
        if (!*ret)
                return CUDA_ERROR_OUT_OF_MEMORY;
        pthread_mutex_lock(&exec_lock);
        (*ret)->event.event = event_ref(event);
        pthread_mutex_unlock(&exec_lock);
        return CUDA_SUCCESS;
}

static CUresult child_work(
        struct sim_context *context, const CUDA_CHILD_GRAPH_NODE_PARAMS *p, struct work **ret)
{
        struct graph *graph;
        CUresult r = CUDA_SUCCESS;

        pthread_mutex_lock(&exec_lock);
        graph = handle_get(HANDLE_GRAPH, p->graph);
        if (!graph || (p->ownership == CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE && graph->owned)) {
                r = CUDA_ERROR_INVALID_VALUE;
        } else {
                *ret = work_new(context, WORK_CHILD);
                if (*ret)
                        (*ret)->child = p->ownership == CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE
                                                ? graph
                                                : graph_clone(graph);
                if (*ret && (*ret)->child) {
                        (*ret)->child->owned = true;
                } else {
                        free(*ret);
                        r = CUDA_ERROR_OUT_OF_MEMORY;
                }
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

static CUresult alloc_work(
        struct sim_context *context, CUDA_MEM_ALLOC_NODE_PARAMS_v2 *p, struct work **ret)
{
        CUDA_MEM_ALLOC_NODE_PARAMS params;
        CUresult r;

        memcpy(&params, p, sizeof(params));
        *ret = work_new(context, WORK_ALLOC);
        if (!*ret)
                return CUDA_ERROR_OUT_OF_MEMORY;
        pthread_mutex_lock(&exec_lock);
        r = alloc_init(*ret, &params);
        if (r)
                free(*ret);
        else
                p->dptr = (*ret)->alloc.params.dptr;
        pthread_mutex_unlock(&exec_lock);
        return r;
}

/* What a node of these parameters does. context: the current one. */
static CUresult work_from_params(
        struct sim_context *context, CUgraphNodeParams *p, struct work **ret)
{
        struct sim_context *other;
        CUcontext named = NULL;
        CUresult r;

        if (p->type == CU_GRAPH_NODE_TYPE_MEMCPY)
                named = p->memcpy.copyCtx;
        else if (p->type == CU_GRAPH_NODE_TYPE_MEMSET)
                named = p->memset.ctx;
        else if (p->type == CU_GRAPH_NODE_TYPE_BATCH_MEM_OP)
                named = p->memOp.ctx;
        if (named) {
                r = sim_context_of(named, &other);
                if (r)
                        return r;
                context = other;
        }
        switch ((int)p->type) {
        case CU_GRAPH_NODE_TYPE_KERNEL:
                return kernel_work(context, &p->kernel, ret);
        case CU_GRAPH_NODE_TYPE_MEMCPY:
                return copy_new(context, &p->memcpy.copyParams, ret);
        case CU_GRAPH_NODE_TYPE_MEMSET:
                if (p->memset.width == 0 || p->memset.height == 0)
                        return CUDA_ERROR_INVALID_VALUE;
                return fill_new(context, p->memset.dst, p->memset.pitch, p->memset.value,
                        p->memset.elementSize, p->memset.width, p->memset.height, ret);
        case CU_GRAPH_NODE_TYPE_HOST:
                if (!p->host.fn)
                        return CUDA_ERROR_INVALID_VALUE;
                *ret = work_new(context, WORK_HOST);
                if (*ret) {
                        (*ret)->host.fn = p->host.fn;
                        (*ret)->host.data = p->host.userData;
                }
                break;
        case CU_GRAPH_NODE_TYPE_GRAPH:
                return child_work(context, &p->graph, ret);
        case CU_GRAPH_NODE_TYPE_EMPTY:
                *ret = work_new(context, WORK_EMPTY);
                break;
        case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
                return event_work(context, WORK_WAIT, p->eventWait.event, ret);
        case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
                return event_work(context, WORK_RECORD, p->eventRecord.event, ret);
        case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
                return alloc_work(context, &p->alloc, ret);
        case CU_GRAPH_NODE_TYPE_MEM_FREE:
                if (!p->free.dptr)
                        return CUDA_ERROR_INVALID_VALUE;
                *ret = work_new(context, WORK_FREE);
                if (*ret)
                        (*ret)->free = p->free.dptr;
                break;
        case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
                return values_new(
                        context, p->memOp.count, p->memOp.paramArray, p->memOp.flags, ret);
        case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
        case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
        case CU_GRAPH_NODE_TYPE_CONDITIONAL:
                return CUDA_ERROR_NOT_SUPPORTED;
        default:
                return CUDA_ERROR_INVALID_VALUE;
        }
        return *ret ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static void drop(struct work *work)
{
        pthread_mutex_lock(&exec_lock);
        work_free(work);
        pthread_mutex_unlock(&exec_lock);
}

/* ---- work to parameters ---- */

static void params_from_work(const struct work *work, CUgraphNodeParams *p)
{
        const struct launch *launch = &work->launch;

        switch (work->kind) {
        case WORK_KERNEL:
                p->kernel = (CUDA_KERNEL_NODE_PARAMS_v3){
                        .gridDimX = launch->grid[0],
                        .gridDimY = launch->grid[1],
                        .gridDimZ = launch->grid[2],
                        .blockDimX = launch->block[0],
                        .blockDimY = launch->block[1],
                        .blockDimZ = launch->block[2],
                        .sharedMemBytes = launch->shared_bytes,
                        .kernelParams = launch->pointers,
                        .ctx = (CUcontext)work->context,
                };
                if (handle_type(launch->handle) == HANDLE_KERNEL)
                        p->kernel.kern = (CUkernel)launch->handle;
                else
                        p->kernel.func = launch->handle;
                break;
        case WORK_COPY:
                p->memcpy.copyCtx = (CUcontext)work->context;
                p->memcpy.copyParams = work->copy.params;
                break;
        case WORK_FILL:
                p->memset.dst = work->fill.dst;
                p->memset.pitch = work->fill.pitch;
                p->memset.value = work->fill.value;
                p->memset.elementSize = work->fill.element;
                p->memset.width = work->fill.width;
                p->memset.height = work->fill.height;
                p->memset.ctx = (CUcontext)work->context;
                break;
        case WORK_HOST:
                p->host.fn = work->host.fn;
                p->host.userData = work->host.data;
                break;
        case WORK_CHILD:
                p->graph.graph = work->child->handle;
                break;
        case WORK_WAIT:
                p->eventWait.event = work->event.event->handle;
                break;
        case WORK_RECORD:
                p->eventRecord.event = work->event.event->handle;
                break;
        case WORK_ALLOC:
                memcpy(&p->alloc, &work->alloc.params, sizeof(p->alloc));
                break;
        case WORK_FREE:
                p->free.dptr = work->free;
                break;
        case WORK_VALUES:
                p->memOp.ctx = (CUcontext)work->context;
                p->memOp.count = work->values.count;
                p->memOp.paramArray = work->values.ops;
                p->memOp.flags = work->values.flags;
                break;
        default:
                break;
        }
}

/* ---- the calls that all entries come down to ---- */

static CUresult enter(const char *entry, struct sim_context **ret)
{
        CUresult r = sim_enter(entry);

        return r ? r : sim_current(ret);
}

static CUresult add(const char *entry, CUgraphNode *ret, CUgraph graph_handle,
        const CUgraphNode *dependencies, const CUgraphEdgeData *data, size_t n,
        CUgraphNodeParams *params)
{
        struct graph_node **before, *node;
        struct sim_context *context;
        struct graph *graph;
        struct work *work;
        CUresult r = enter(entry, &context);

        if (r)
                return r;
        graph = handle_get(HANDLE_GRAPH, graph_handle);
        if (!graph || !ret || (n && !dependencies) || !params)
                return CUDA_ERROR_INVALID_VALUE;
        before = calloc(n + 1, sizeof(*before));
        if (!before)
                return CUDA_ERROR_OUT_OF_MEMORY;
        for (size_t i = 0; i < n && !r; i++) {
                before[i] = handle_get(HANDLE_NODE, dependencies[i]);
                if (!before[i] || before[i]->graph != graph)
                        r = CUDA_ERROR_INVALID_VALUE;
        }
        if (!r)
                r = work_from_params(context, params, &work);
        if (!r) {
                pthread_mutex_lock(&exec_lock);
                r = graph_add(graph, work, before, data, (unsigned)n, &node);
                pthread_mutex_unlock(&exec_lock);
        }
        if (!r)
                *ret = node->handle;
        free(before);
        return r;
}

static CUresult get_params(
        const char *entry, CUgraphNode handle, CUgraphNodeType type, CUgraphNodeParams *ret)
{
        struct graph_node *node;
        CUresult r = sim_enter(entry);

        if (r)
                return r;
        memset(ret, 0, sizeof(*ret));
        pthread_mutex_lock(&exec_lock);
        node = handle_get(HANDLE_NODE, handle);
        if (!node || graph_node_type(node) != type)
                r = CUDA_ERROR_INVALID_VALUE;
        else
                params_from_work(node->work, ret);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

/* Attributes of a kernel node are no part of its parameters. */
static void keep_attributes(struct work *work, const struct work *before)
{
        if (work->kind != WORK_KERNEL)
                return;
        work->launch.cooperative = before->launch.cooperative;
        work->launch.priority = before->launch.priority;
}

static CUresult set_params(const char *entry, CUgraphNode handle, CUgraphNodeParams *params)
{
        struct sim_context *context;
        struct graph_node *node;
        struct work *work;
        CUresult r = enter(entry, &context);

        if (r)
                return r;
        node = handle_get(HANDLE_NODE, handle);
        if (!node || !params || graph_node_type(node) != params->type)
                return CUDA_ERROR_INVALID_VALUE;
        if (params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ||
                params->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
                return CUDA_ERROR_NOT_SUPPORTED;
        r = work_from_params(context, params, &work);
        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        keep_attributes(work, node->work);
        work_free(node->work);
        node->work = work;
        pthread_mutex_unlock(&exec_lock);
        return CUDA_SUCCESS;
}

/* The node in an executable graph that stands for handle. */
static CUresult set_exec_params(
        const char *entry, CUgraphExec exec_handle, CUgraphNode handle, CUgraphNodeParams *params)
{
        struct sim_context *context;
        struct graph_node *node;
        struct work *work;
        CUresult r = enter(entry, &context);

        if (r)
                return r;
        if (!params)
                return CUDA_ERROR_INVALID_VALUE;
        r = graph_exec_node(exec_handle, handle, &node);
        if (!r && graph_node_type(node) != params->type)
                r = CUDA_ERROR_INVALID_VALUE;
        if (!r && (params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ||
                          params->type == CU_GRAPH_NODE_TYPE_MEM_FREE))
                r = CUDA_ERROR_NOT_SUPPORTED;
        if (!r)
                r = work_from_params(context, params, &work);
        if (r)
                return r;
        if (work->kind == WORK_KERNEL) {
                r = work->context == node->work->context ? launch_prepare(&work->launch)
                                                         : CUDA_ERROR_INVALID_VALUE;
                if (r) {
                        drop(work);
                        return r;
                }
        }
        pthread_mutex_lock(&exec_lock);
        keep_attributes(work, node->work);
        work_free(node->work);
        node->work = work;
        pthread_mutex_unlock(&exec_lock);
        return CUDA_SUCCESS;
}

/* ---- generic entries ---- */

CUresult cuGraphAddNode_v2(CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies,
        const CUgraphEdgeData *data, size_t n, CUgraphNodeParams *params)
{
        return add(__func__, ret, graph, dependencies, data, n, params);
}

CUresult cuGraphAddNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies, size_t n,
        CUgraphNodeParams *params)
{
        return add(__func__, ret, graph, dependencies, NULL, n, params);
}

CUresult cuGraphNodeSetParams(CUgraphNode node, CUgraphNodeParams *params)
{
        return set_params(__func__, node, params);
}

CUresult cuGraphExecNodeSetParams(CUgraphExec exec, CUgraphNode node, CUgraphNodeParams *params)
{
        return set_exec_params(__func__, exec, node, params);
}

/* ---- kernels ---- */

static CUgraphNodeParams kernel_params_v1(const CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
        CUgraphNodeParams whole = {.type = CU_GRAPH_NODE_TYPE_KERNEL};

        memcpy(&whole.kernel, p, sizeof(*p));
        return whole;
}

static CUgraphNodeParams kernel_params_v2(const CUDA_KERNEL_NODE_PARAMS *p)
{
        CUgraphNodeParams whole = {.type = CU_GRAPH_NODE_TYPE_KERNEL};

        memcpy(&whole.kernel, p, sizeof(*p));
        return whole;
}

CUresult cuGraphAddKernelNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies,
        size_t n, const CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = kernel_params_v1(p);
        return add(__func__, ret, graph, dependencies, NULL, n, &params);
}

CUresult cuGraphAddKernelNode_v2(CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies,
        size_t n, const CUDA_KERNEL_NODE_PARAMS *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = kernel_params_v2(p);
        return add(__func__, ret, graph, dependencies, NULL, n, &params);
}

CUresult cuGraphKernelNodeGetParams(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v1 *ret)
{
        CUgraphNodeParams params;
        CUresult r;

        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = get_params(__func__, node, CU_GRAPH_NODE_TYPE_KERNEL, &params);
        if (!r)
                memcpy(ret, &params.kernel, sizeof(*ret));
        return r;
}

CUresult cuGraphKernelNodeGetParams_v2(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS *ret)
{
        CUgraphNodeParams params;
        CUresult r;

        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = get_params(__func__, node, CU_GRAPH_NODE_TYPE_KERNEL, &params);
        if (!r)
                memcpy(ret, &params.kernel, sizeof(*ret));
        return r;
}

CUresult cuGraphKernelNodeSetParams(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = kernel_params_v1(p);
        return set_params(__func__, node, &params);
}

CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = kernel_params_v2(p);
        return set_params(__func__, node, &params);
}

CUresult cuGraphExecKernelNodeSetParams(
        CUgraphExec exec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = kernel_params_v1(p);
        return set_exec_params(__func__, exec, node, &params);
}

CUresult cuGraphExecKernelNodeSetParams_v2(
        CUgraphExec exec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = kernel_params_v2(p);
        return set_exec_params(__func__, exec, node, &params);
}

static CUresult kernel_node(const char *entry, CUgraphNode handle, struct graph_node **ret)
{
        CUresult r = sim_enter(entry);

        if (r)
                return r;
        *ret = handle_get(HANDLE_NODE, handle);
        return *ret && (*ret)->work->kind == WORK_KERNEL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGraphKernelNodeGetAttribute(
        CUgraphNode handle, CUkernelNodeAttrID attribute, CUkernelNodeAttrValue *ret)
{
        struct graph_node *node;
        CUresult r = kernel_node(__func__, handle, &node);

        if (r)
                return r;
        if (!ret || attribute < 0 || attribute >= CU_LAUNCH_ATTRIBUTE_MAX)
                return CUDA_ERROR_INVALID_VALUE;
        memset(ret, 0, sizeof(*ret));
        if (attribute == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
                ret->cooperative = node->work->launch.cooperative;
        else if (attribute == CU_LAUNCH_ATTRIBUTE_PRIORITY)
                ret->priority = node->work->launch.priority;
        return CUDA_SUCCESS;
}

CUresult cuGraphKernelNodeSetAttribute(
        CUgraphNode handle, CUkernelNodeAttrID attribute, const CUkernelNodeAttrValue *value)
{
        struct graph_node *node;
        CUresult r = kernel_node(__func__, handle, &node);

        if (r)
                return r;
        if (!value || attribute < 0 || attribute >= CU_LAUNCH_ATTRIBUTE_MAX)
                return CUDA_ERROR_INVALID_VALUE;
        if (attribute == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
                node->work->launch.cooperative = value->cooperative != 0;
        else if (attribute == CU_LAUNCH_ATTRIBUTE_PRIORITY)
                node->work->launch.priority = value->priority;
        return CUDA_SUCCESS;
}

CUresult cuGraphKernelNodeCopyAttributes(CUgraphNode dst, CUgraphNode src)
{
        struct graph_node *to, *from;
        CUresult r = kernel_node(__func__, dst, &to);

        if (!r)
                r = kernel_node(__func__, src, &from);
        if (!r)
                keep_attributes(to->work, from->work);
        return r;
}

/* ---- copies and fills ---- */

static CUgraphNodeParams copy_params(const CUDA_MEMCPY3D *p, CUcontext context)
{
        CUgraphNodeParams whole = {.type = CU_GRAPH_NODE_TYPE_MEMCPY};

        whole.memcpy.copyCtx = context;
        whole.memcpy.copyParams = *p;
        return whole;
}

CUresult cuGraphAddMemcpyNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies,
        size_t n, const CUDA_MEMCPY3D *p, CUcontext context)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = copy_params(p, context);
        return add(__func__, ret, graph, dependencies, NULL, n, &params);
}

CUresult cuGraphMemcpyNodeGetParams(CUgraphNode node, CUDA_MEMCPY3D *ret)
{
        CUgraphNodeParams params;
        CUresult r;

        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = get_params(__func__, node, CU_GRAPH_NODE_TYPE_MEMCPY, &params);
        if (!r)
                *ret = params.memcpy.copyParams;
        return r;
}

CUresult cuGraphMemcpyNodeSetParams(CUgraphNode node, const CUDA_MEMCPY3D *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = copy_params(p, NULL);
        return set_params(__func__, node, &params);
}

CUresult cuGraphExecMemcpyNodeSetParams(
        CUgraphExec exec, CUgraphNode node, const CUDA_MEMCPY3D *p, CUcontext context)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = copy_params(p, context);
        return set_exec_params(__func__, exec, node, &params);
}

static CUgraphNodeParams fill_params(const CUDA_MEMSET_NODE_PARAMS *p, CUcontext context)
{
        CUgraphNodeParams whole = {.type = CU_GRAPH_NODE_TYPE_MEMSET};

        memcpy(&whole.memset, p, sizeof(*p));
        whole.memset.ctx = context;
        return whole;
}

CUresult cuGraphAddMemsetNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies,
        size_t n, const CUDA_MEMSET_NODE_PARAMS *p, CUcontext context)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = fill_params(p, context);
        return add(__func__, ret, graph, dependencies, NULL, n, &params);
}

CUresult cuGraphMemsetNodeGetParams(CUgraphNode node, CUDA_MEMSET_NODE_PARAMS *ret)
{
        CUgraphNodeParams params;
        CUresult r;

        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = get_params(__func__, node, CU_GRAPH_NODE_TYPE_MEMSET, &params);
        if (!r)
                memcpy(ret, &params.memset, sizeof(*ret));
        return r;
}

CUresult cuGraphMemsetNodeSetParams(CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = fill_params(p, NULL);
        return set_params(__func__, node, &params);
}

CUresult cuGraphExecMemsetNodeSetParams(
        CUgraphExec exec, CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS *p, CUcontext context)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = fill_params(p, context);
        return set_exec_params(__func__, exec, node, &params);
}

/* ---- host functions ---- */

static CUgraphNodeParams host_params(const CUDA_HOST_NODE_PARAMS *p)
{
        CUgraphNodeParams whole = {.type = CU_GRAPH_NODE_TYPE_HOST};

        whole.host.fn = p->fn;
        whole.host.userData = p->userData;
        return whole;
}

CUresult cuGraphAddHostNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies,
        size_t n, const CUDA_HOST_NODE_PARAMS *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = host_params(p);
        return add(__func__, ret, graph, dependencies, NULL, n, &params);
}

CUresult cuGraphHostNodeGetParams(CUgraphNode node, CUDA_HOST_NODE_PARAMS *ret)
{
        CUgraphNodeParams params;
        CUresult r;

        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = get_params(__func__, node, CU_GRAPH_NODE_TYPE_HOST, &params);
        if (!r) {
                ret->fn = params.host.fn;
                ret->userData = params.host.userData;
        }
        return r;
}

CUresult cuGraphHostNodeSetParams(CUgraphNode node, const CUDA_HOST_NODE_PARAMS *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = host_params(p);
        return set_params(__func__, node, &params);
}

CUresult cuGraphExecHostNodeSetParams(
        CUgraphExec exec, CUgraphNode node, const CUDA_HOST_NODE_PARAMS *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = host_params(p);
        return set_exec_params(__func__, exec, node, &params);
}

/* ---- graphs in graphs, empty nodes ---- */

CUresult cuGraphAddChildGraphNode(
        CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies, size_t n, CUgraph child)
{
        CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_GRAPH};

        params.graph.graph = child;
        return add(__func__, ret, graph, dependencies, NULL, n, &params);
}

CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode node, CUgraph *ret)
{
        CUgraphNodeParams params;
        CUresult r;

        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = get_params(__func__, node, CU_GRAPH_NODE_TYPE_GRAPH, &params);
        if (!r)
                *ret = params.graph.graph;
        return r;
}

CUresult cuGraphExecChildGraphNodeSetParams(CUgraphExec exec, CUgraphNode node, CUgraph child)
{
        CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_GRAPH};

        params.graph.graph = child;
        return set_exec_params(__func__, exec, node, &params);
}

CUresult cuGraphAddEmptyNode(
        CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies, size_t n)
{
        CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_EMPTY};

        return add(__func__, ret, graph, dependencies, NULL, n, &params);
}

/* ---- events ---- */

CUresult cuGraphAddEventRecordNode(
        CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies, size_t n, CUevent event)
{
        CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD};

        params.eventRecord.event = event;
        return add(__func__, ret, graph, dependencies, NULL, n, &params);
}

CUresult cuGraphEventRecordNodeGetEvent(CUgraphNode node, CUevent *ret)
{
        CUgraphNodeParams params;
        CUresult r;

        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = get_params(__func__, node, CU_GRAPH_NODE_TYPE_EVENT_RECORD, &params);
        if (!r)
                *ret = params.eventRecord.event;
        return r;
}

CUresult cuGraphEventRecordNodeSetEvent(CUgraphNode node, CUevent event)
{
        CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD};

        params.eventRecord.event = event;
        return set_params(__func__, node, &params);
}

CUresult cuGraphExecEventRecordNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event)
{
        CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD};

        params.eventRecord.event = event;
        return set_exec_params(__func__, exec, node, &params);
}

CUresult cuGraphAddEventWaitNode(
        CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies, size_t n, CUevent event)
{
        CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT};

        params.eventWait.event = event;
        return add(__func__, ret, graph, dependencies, NULL, n, &params);
}

CUresult cuGraphEventWaitNodeGetEvent(CUgraphNode node, CUevent *ret)
{
        CUgraphNodeParams params;
        CUresult r;

        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = get_params(__func__, node, CU_GRAPH_NODE_TYPE_WAIT_EVENT, &params);
        if (!r)
                *ret = params.eventWait.event;
        return r;
}

CUresult cuGraphEventWaitNodeSetEvent(CUgraphNode node, CUevent event)
{
        CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT};

        params.eventWait.event = event;
        return set_params(__func__, node, &params);
}

CUresult cuGraphExecEventWaitNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event)
{
        CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT};

        params.eventWait.event = event;
        return set_exec_params(__func__, exec, node, &params);
}

/* ---- memory ---- */

CUresult cuGraphAddMemAllocNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies,
        size_t n, CUDA_MEM_ALLOC_NODE_PARAMS *p)
{
        CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC};
        CUresult r;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        memcpy(&params.alloc, p, sizeof(*p));
        r = add(__func__, ret, graph, dependencies, NULL, n, &params);
        if (!r)
                p->dptr = params.alloc.dptr;
        return r;
}

CUresult cuGraphMemAllocNodeGetParams(CUgraphNode node, CUDA_MEM_ALLOC_NODE_PARAMS *ret)
{
        CUgraphNodeParams params;
        CUresult r;

        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = get_params(__func__, node, CU_GRAPH_NODE_TYPE_MEM_ALLOC, &params);
        if (!r)
                memcpy(ret, &params.alloc, sizeof(*ret));
        return r;
}

CUresult cuGraphAddMemFreeNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies,
        size_t n, CUdeviceptr pointer)
{
        CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_FREE};

        params.free.dptr = pointer;
        return add(__func__, ret, graph, dependencies, NULL, n, &params);
}

CUresult cuGraphMemFreeNodeGetParams(CUgraphNode node, CUdeviceptr *ret)
{
        CUgraphNodeParams params;
        CUresult r;

        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = get_params(__func__, node, CU_GRAPH_NODE_TYPE_MEM_FREE, &params);
        if (!r)
                *ret = params.free.dptr;
        return r;
}

/* ---- batches of memory operations ---- */

static CUgraphNodeParams values_params(const CUDA_BATCH_MEM_OP_NODE_PARAMS *p)
{
        CUgraphNodeParams whole = {.type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP};

        memcpy(&whole.memOp, p, sizeof(*p));
        return whole;
}

CUresult cuGraphAddBatchMemOpNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *dependencies,
        size_t n, const CUDA_BATCH_MEM_OP_NODE_PARAMS *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = values_params(p);
        return add(__func__, ret, graph, dependencies, NULL, n, &params);
}

CUresult cuGraphBatchMemOpNodeGetParams(CUgraphNode node, CUDA_BATCH_MEM_OP_NODE_PARAMS *ret)
{
        CUgraphNodeParams params;
        CUresult r;

        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = get_params(__func__, node, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, &params);
        if (!r)
                memcpy(ret, &params.memOp, sizeof(*ret));
        return r;
}

CUresult cuGraphBatchMemOpNodeSetParams(CUgraphNode node, const CUDA_BATCH_MEM_OP_NODE_PARAMS *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = values_params(p);
        return set_params(__func__, node, &params);
}

CUresult cuGraphExecBatchMemOpNodeSetParams(
        CUgraphExec exec, CUgraphNode node, const CUDA_BATCH_MEM_OP_NODE_PARAMS *p)
{
        CUgraphNodeParams params;

        if (!p)
                return CUDA_ERROR_INVALID_VALUE;
        params = values_params(p);
        return set_exec_params(__func__, exec, node, &params);
}
