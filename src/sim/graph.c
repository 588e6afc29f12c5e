/* SPDX-License-Identifier: Apache-2.0 */
/* Graphs as a program builds them: nodes, edges, copies. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph.h"

static uint64_t last_node;

/* ---- inside ---- */

struct graph *graph_new(void)
{
        struct graph *graph = calloc(1, sizeof(*graph));

        if (!graph)
                return NULL;
        graph->handle = handle_new(HANDLE_GRAPH, graph);
        if (!graph->handle) {
                free(graph);
                return NULL;
        }
        return graph;
}

static void node_free(struct graph_node *node)
{
        if (node->handle)
                handle_free(node->handle);
        work_free(node->work);
        free(node->before);
        free(node);
}

struct graph *graph_free(struct graph *graph)
{
        if (!graph)
                return NULL;
        for (unsigned i = 0; i < graph->n_nodes; i++)
                node_free(graph->nodes[i]);
        free(graph->nodes);
        while (graph->users) {
                struct graph_user *user = graph->users;

                graph->users = user->next;
                user_release(user->object, user->count);
                free(user);
        }
        handle_free(graph->handle);
        free(graph);
        return NULL;
}

static CUresult add_edge(
        struct graph_node *from, struct graph_node *to, const CUgraphEdgeData *data)
{
        struct graph_edge *grown = reallocarray(to->before, to->n_before + 1, sizeof(*grown));

        if (!grown)
                return CUDA_ERROR_OUT_OF_MEMORY;
        to->before = grown;
        grown[to->n_before].node = from;
        if (data)
                grown[to->n_before].data = *data;
        else
                memset(&grown[to->n_before].data, 0, sizeof(*data));
        to->n_before++;
        from->n_after++;
        return CUDA_SUCCESS;
}

CUresult graph_add(struct graph *graph, struct work *work, struct graph_node *const *before,
        const CUgraphEdgeData *data, unsigned n, struct graph_node **ret)
{
        struct graph_node *node = NULL;
        CUresult r = CUDA_ERROR_OUT_OF_MEMORY;

        if (!work)
                return r;
        for (unsigned i = 0; i < n; i++)
                for (unsigned k = 0; k < i; k++)
                        if (before[i] == before[k] || before[i]->graph != graph) {
                                work_free(work);
                                return CUDA_ERROR_INVALID_VALUE;
                        }
        if (n && before[0]->graph != graph) {
                work_free(work);
                return CUDA_ERROR_INVALID_VALUE;
        }
        if (graph->n_nodes == graph->room) {
                unsigned room = graph->room ? graph->room * 2 : 8;
                struct graph_node **grown = reallocarray(graph->nodes, room, sizeof(*grown));

                if (!grown)
                        goto failed;
                graph->nodes = grown;
                graph->room = room;
        }
        node = calloc(1, sizeof(*node));
        if (!node)
                goto failed;
        node->handle = handle_new(HANDLE_NODE, node);
        if (!node->handle)
                goto failed;
        node->graph = graph;
        node->enabled = true;
        node->id = node->origin = ++last_node;
        for (unsigned i = 0; i < n; i++) {
                r = add_edge(before[i], node, data ? &data[i] : NULL);
                if (r) {
                        while (node->n_before)
                                node->before[--node->n_before].node->n_after--;
                        goto failed;
                }
        }
        node->work = work;
        node->index = graph->n_nodes;
        graph->nodes[graph->n_nodes++] = node;
        *ret = node;
        return CUDA_SUCCESS;

failed:
        if (node)
                node_free(node);
        work_free(work);
        return r;
}

void graph_clear_marks(struct graph *graph)
{
        for (unsigned i = 0; i < graph->n_nodes; i++)
                graph->nodes[i]->mark = false;
}

void graph_mark_before(struct graph_node *node)
{
        struct graph *graph = node->graph;
        struct graph_node **stack = calloc(graph->n_nodes + 1, sizeof(*stack));
        unsigned depth = 0;

        if (!stack)
                return;
        if (!node->mark) {
                node->mark = true;
                stack[depth++] = node;
        }
        while (depth) {
                struct graph_node *one = stack[--depth];

                for (unsigned i = 0; i < one->n_before; i++)
                        if (!one->before[i].node->mark) {
                                one->before[i].node->mark = true;
                                stack[depth++] = one->before[i].node;
                        }
        }
        free(stack);
}

CUresult graph_connect(struct graph_node *from, struct graph_node *to, const CUgraphEdgeData *data)
{
        if (from == to || from->graph != to->graph)
                return CUDA_ERROR_INVALID_VALUE;
        for (unsigned i = 0; i < to->n_before; i++)
                if (to->before[i].node == from)
                        return CUDA_ERROR_INVALID_VALUE;
        return add_edge(from, to, data);
}

/* Takes away what waits for nothing left, until nothing can be taken. */
bool graph_is_circular(const struct graph *graph)
{
        unsigned *waits = calloc(graph->n_nodes + 1, sizeof(*waits)), taken = 0;
        bool more = true;

        for (unsigned i = 0; waits && i < graph->n_nodes; i++)
                waits[i] = graph->nodes[i]->n_before + 1;
        while (waits && more) {
                more = false;
                for (unsigned i = 0; i < graph->n_nodes; i++) {
                        const struct graph_node *node = graph->nodes[i];
                        unsigned left = 0;

                        for (unsigned k = 0; k < node->n_before; k++)
                                left += waits[node->before[k].node->index] != 0;
                        if (!waits[i] || left)
                                continue;
                        waits[i] = 0;
                        taken++;
                        more = true;
                }
        }
        free(waits);
        return taken < graph->n_nodes;
}

static bool disconnect(struct graph_node *from, struct graph_node *to)
{
        for (unsigned i = 0; i < to->n_before; i++)
                if (to->before[i].node == from) {
                        memmove(&to->before[i], &to->before[i + 1],
                                (to->n_before - i - 1) * sizeof(*to->before));
                        to->n_before--;
                        from->n_after--;
                        return true;
                }
        return false;
}

void graph_remove(struct graph_node *node)
{
        struct graph *graph = node->graph;

        for (unsigned i = 0; i < graph->n_nodes; i++)
                disconnect(node, graph->nodes[i]);
        while (node->n_before)
                disconnect(node->before[0].node, node);
        memmove(&graph->nodes[node->index], &graph->nodes[node->index + 1],
                (graph->n_nodes - node->index - 1) * sizeof(*graph->nodes));
        graph->n_nodes--;
        for (unsigned i = node->index; i < graph->n_nodes; i++)
                graph->nodes[i]->index = i;
        node_free(node);
}

struct graph *graph_clone(const struct graph *graph)
{
        struct graph *clone = graph_new();

        if (!clone)
                return NULL;
        for (unsigned i = 0; i < graph->n_nodes; i++) {
                const struct graph_node *node = graph->nodes[i];
                struct graph_node *copy;

                if (graph_add(clone, work_clone(node->work), NULL, NULL, 0, &copy))
                        return graph_free(clone);
                copy->enabled = node->enabled;
                copy->origin = node->id;
                if (copy->work->kind == WORK_CHILD)
                        copy->work->child->owned = true;
        }
        for (unsigned i = 0; i < graph->n_nodes; i++)
                for (unsigned k = 0; k < graph->nodes[i]->n_before; k++) {
                        const struct graph_edge *edge = &graph->nodes[i]->before[k];

                        if (add_edge(clone->nodes[edge->node->index], clone->nodes[i], &edge->data))
                                return graph_free(clone);
                }
        return clone;
}

CUgraphNodeType graph_node_type(const struct graph_node *node)
{
        switch (node->work->kind) {
        case WORK_KERNEL:
                return CU_GRAPH_NODE_TYPE_KERNEL;
        case WORK_COPY:
                return CU_GRAPH_NODE_TYPE_MEMCPY;
        case WORK_FILL:
                return CU_GRAPH_NODE_TYPE_MEMSET;
        case WORK_HOST:
                return CU_GRAPH_NODE_TYPE_HOST;
        case WORK_CHILD:
                return CU_GRAPH_NODE_TYPE_GRAPH;
        case WORK_WAIT:
                return CU_GRAPH_NODE_TYPE_WAIT_EVENT;
        case WORK_RECORD:
                return CU_GRAPH_NODE_TYPE_EVENT_RECORD;
        case WORK_ALLOC:
                return CU_GRAPH_NODE_TYPE_MEM_ALLOC;
        case WORK_FREE:
                return CU_GRAPH_NODE_TYPE_MEM_FREE;
        case WORK_VALUES:
                return CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
        default:
                return CU_GRAPH_NODE_TYPE_EMPTY;
        }
}

/* ---- entry points ---- */

CUresult cuGraphCreate(CUgraph *ret, unsigned int flags)
{
        struct graph *graph;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret || flags)
                return CUDA_ERROR_INVALID_VALUE;
        graph = graph_new();
        if (!graph)
                return CUDA_ERROR_OUT_OF_MEMORY;
        *ret = graph->handle;
        return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph handle)
{
        struct graph *graph;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        graph = handle_get(HANDLE_GRAPH, handle);
        if (!graph || graph->owned)
                r = CUDA_ERROR_INVALID_VALUE;
        else
                graph_free(graph);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuGraphClone(CUgraph *ret, CUgraph original)
{
        struct graph *graph, *clone;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        graph = handle_get(HANDLE_GRAPH, original);
        if (!graph || !ret) {
                r = CUDA_ERROR_INVALID_VALUE;
        } else {
                clone = graph_clone(graph);
                if (clone)
                        *ret = clone->handle;
                else
                        r = CUDA_ERROR_OUT_OF_MEMORY;
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuGraphNodeFindInClone(CUgraphNode *ret, CUgraphNode original, CUgraph clone_handle)
{
        struct graph_node *node;
        struct graph *clone;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        node = handle_get(HANDLE_NODE, original);
        clone = handle_get(HANDLE_GRAPH, clone_handle);
        r = CUDA_ERROR_INVALID_VALUE;
        for (unsigned i = 0; ret && node && clone && i < clone->n_nodes; i++)
                if (clone->nodes[i]->origin == node->id && clone->nodes[i] != node) {
                        *ret = clone->nodes[i]->handle;
                        r = CUDA_SUCCESS;
                }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuGraphDestroyNode(CUgraphNode handle)
{
        struct graph_node *node;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        node = handle_get(HANDLE_NODE, handle);
        if (!node)
                r = CUDA_ERROR_INVALID_VALUE;
        else if (node->work->kind == WORK_ALLOC || node->work->kind == WORK_FREE)
                r = CUDA_ERROR_NOT_SUPPORTED;
        else
                graph_remove(node);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuGraphNodeGetType(CUgraphNode handle, CUgraphNodeType *ret)
{
        struct graph_node *node;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        node = handle_get(HANDLE_NODE, handle);
        if (!node || !ret)
                r = CUDA_ERROR_INVALID_VALUE;
        else
                *ret = graph_node_type(node);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

/* The rule of all lists: with no array the number of elements, else at most *n of them, *n set to
 * how many were given, what is left of the array cleared. */
static void give_list(CUgraphNode *to, size_t *n, CUgraphNode const *all, size_t count)
{
        if (to) {
                for (size_t i = 0; i < *n; i++)
                        to[i] = i < count ? all[i] : NULL;
                *n = *n < count ? *n : count;
        } else {
                *n = count;
        }
}

static CUresult nodes_of(
        const char *entry, CUgraph handle, CUgraphNode *nodes, size_t *n, bool roots)
{
        struct graph *graph;
        CUgraphNode *all;
        size_t count = 0;
        CUresult r = sim_enter(entry);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        graph = handle_get(HANDLE_GRAPH, handle);
        if (!graph || !n) {
                r = CUDA_ERROR_INVALID_VALUE;
        } else {
                all = calloc(graph->n_nodes + 1, sizeof(*all));
                r = all ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
                for (unsigned i = 0; all && i < graph->n_nodes; i++)
                        if (!roots || graph->nodes[i]->n_before == 0)
                                all[count++] = graph->nodes[i]->handle;
                if (all)
                        give_list(nodes, n, all, count);
                free(all);
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *n)
{
        return nodes_of(__func__, graph, nodes, n, false);
}

CUresult cuGraphGetRootNodes(CUgraph graph, CUgraphNode *nodes, size_t *n)
{
        return nodes_of(__func__, graph, nodes, n, true);
}

/* The edges of a graph, those before one node, or those after it. */
static CUresult edges_of(const char *entry, struct graph *graph, struct graph_node *before,
        struct graph_node *after, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *data,
        bool has_data, size_t *n)
{
        static const CUgraphEdgeData plain;
        size_t count = 0, room = *n;
        bool lossy = false;

        for (unsigned i = 0; i < graph->n_nodes; i++) {
                struct graph_node *node = graph->nodes[i];

                if (before && node != before)
                        continue;
                for (unsigned k = 0; k < node->n_before; k++) {
                        if (after && node->before[k].node != after)
                                continue;
                        if (count < room) {
                                if (from)
                                        from[count] = node->before[k].node->handle;
                                if (to)
                                        to[count] = node->handle;
                                if (data)
                                        data[count] = node->before[k].data;
                        }
                        lossy |= memcmp(&node->before[k].data, &plain, sizeof(plain)) != 0;
                        count++;
                }
        }
        if (lossy && !has_data && (from || to))
                return CUDA_ERROR_LOSSY_QUERY;
        if (from || to) {
                for (size_t i = count; i < room; i++) {
                        if (from)
                                from[i] = NULL;
                        if (to)
                                to[i] = NULL;
                }
                *n = count < room ? count : room;
        } else {
                *n = count;
        }
        return CUDA_SUCCESS;
}

static CUresult get_edges(const char *entry, CUgraph handle, CUgraphNode *from, CUgraphNode *to,
        CUgraphEdgeData *data, bool has_data, size_t *n)
{
        struct graph *graph;
        CUresult r = sim_enter(entry);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        graph = handle_get(HANDLE_GRAPH, handle);
        if (!graph || !n || !from != !to)
                r = CUDA_ERROR_INVALID_VALUE;
        else
                r = edges_of(entry, graph, NULL, NULL, from, to, data, has_data, n);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *n)
{
        return get_edges(__func__, graph, from, to, NULL, false, n);
}

CUresult cuGraphGetEdges_v2(
        CUgraph graph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *data, size_t *n)
{
        return get_edges(__func__, graph, from, to, data, data != NULL, n);
}

static CUresult get_neighbours(const char *entry, CUgraphNode handle, CUgraphNode *nodes,
        CUgraphEdgeData *data, bool has_data, size_t *n, bool after)
{
        struct graph_node *node;
        CUresult r = sim_enter(entry);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        node = handle_get(HANDLE_NODE, handle);
        if (!node || !n)
                r = CUDA_ERROR_INVALID_VALUE;
        else
                r = edges_of(entry, node->graph, after ? NULL : node, after ? node : NULL,
                        after ? NULL : nodes, after ? nodes : NULL, data, has_data, n);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuGraphNodeGetDependencies(CUgraphNode node, CUgraphNode *nodes, size_t *n)
{
        return get_neighbours(__func__, node, nodes, NULL, false, n, false);
}

CUresult cuGraphNodeGetDependencies_v2(
        CUgraphNode node, CUgraphNode *nodes, CUgraphEdgeData *data, size_t *n)
{
        return get_neighbours(__func__, node, nodes, data, data != NULL, n, false);
}

CUresult cuGraphNodeGetDependentNodes(CUgraphNode node, CUgraphNode *nodes, size_t *n)
{
        return get_neighbours(__func__, node, nodes, NULL, false, n, true);
}

CUresult cuGraphNodeGetDependentNodes_v2(
        CUgraphNode node, CUgraphNode *nodes, CUgraphEdgeData *data, size_t *n)
{
        return get_neighbours(__func__, node, nodes, data, data != NULL, n, true);
}

static CUresult change_edges(const char *entry, CUgraph handle, const CUgraphNode *from,
        const CUgraphNode *to, const CUgraphEdgeData *data, size_t n, bool add)
{
        struct graph *graph;
        CUresult r = sim_enter(entry);

        if (r)
                return r;
        if (n && (!from || !to))
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        graph = handle_get(HANDLE_GRAPH, handle);
        r = graph ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
        for (size_t i = 0; i < n && !r; i++) {
                struct graph_node *a = handle_get(HANDLE_NODE, from[i]);
                struct graph_node *b = handle_get(HANDLE_NODE, to[i]);

                if (!a || !b || a->graph != graph || b->graph != graph)
                        r = CUDA_ERROR_INVALID_VALUE;
                else if (add)
                        r = graph_connect(a, b, data ? &data[i] : NULL);
                else if (!disconnect(a, b))
                        r = CUDA_ERROR_INVALID_VALUE;
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuGraphAddDependencies(
        CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t n)
{
        return change_edges(__func__, graph, from, to, NULL, n, true);
}

CUresult cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
        const CUgraphEdgeData *data, size_t n)
{
        return change_edges(__func__, graph, from, to, data, n, true);
}

CUresult cuGraphRemoveDependencies(
        CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t n)
{
        return change_edges(__func__, graph, from, to, NULL, n, false);
}

CUresult cuGraphRemoveDependencies_v2(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
        const CUgraphEdgeData *data, size_t n)
{
        return change_edges(__func__, graph, from, to, data, n, false);
}

/* ---- dot ---- */

static const char *type_name(CUgraphNodeType type)
{
        static const char *const names[] = {
                [CU_GRAPH_NODE_TYPE_KERNEL] = "KERNEL",
                [CU_GRAPH_NODE_TYPE_MEMCPY] = "MEMCPY",
                [CU_GRAPH_NODE_TYPE_MEMSET] = "MEMSET",
                [CU_GRAPH_NODE_TYPE_HOST] = "HOST",
                [CU_GRAPH_NODE_TYPE_GRAPH] = "GRAPH",
                [CU_GRAPH_NODE_TYPE_EMPTY] = "EMPTY",
                [CU_GRAPH_NODE_TYPE_WAIT_EVENT] = "WAIT_EVENT",
                [CU_GRAPH_NODE_TYPE_EVENT_RECORD] = "EVENT_RECORD",
                [CU_GRAPH_NODE_TYPE_MEM_ALLOC] = "MEM_ALLOC",
                [CU_GRAPH_NODE_TYPE_MEM_FREE] = "MEM_FREE",
                [CU_GRAPH_NODE_TYPE_BATCH_MEM_OP] = "BATCH_MEM_OP",
        };

        return type < sizeof(names) / sizeof(*names) && names[type] ? names[type] : "OTHER";
}

static void print_dot(FILE *file, const struct graph *graph, const char *prefix)
{
        char inner[64];

        for (unsigned i = 0; i < graph->n_nodes; i++) {
                const struct graph_node *node = graph->nodes[i];

                fprintf(file, "\"%s_node_%u\" [label=\"%u\\n%s\"];\n", prefix, i, i,
                        type_name(graph_node_type(node)));
                for (unsigned k = 0; k < node->n_before; k++)
                        fprintf(file, "\"%s_node_%u\" -> \"%s_node_%u\";\n", prefix,
                                node->before[k].node->index, prefix, i);
                if (node->work->kind == WORK_CHILD) {
                        snprintf(inner, sizeof(inner), "%.40s_%u", prefix, i);
                        print_dot(file, node->work->child, inner);
                }
        }
}

CUresult cuGraphDebugDotPrint(CUgraph handle, const char *path, unsigned int flags)
{
        struct graph *graph;
        FILE *file;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!path)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        graph = handle_get(HANDLE_GRAPH, handle);
        file = graph ? fopen(path, "we") : NULL;
        if (!graph) {
                r = CUDA_ERROR_INVALID_VALUE;
        } else if (!file) {
                r = CUDA_ERROR_OPERATING_SYSTEM;
        } else {
                fputs("digraph dot {\n", file);
                print_dot(file, graph, "graph");
                fputs("}\n", file);
                if (fclose(file))
                        r = CUDA_ERROR_OPERATING_SYSTEM;
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}
