/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Graphs as the files that make, capture and run them share them. All of it under exec_lock.
 */
#pragma once

#include "exec.h"

struct graph_edge {
        struct graph_node *node; /* that comes before */
        CUgraphEdgeData data;
};

struct graph_node {
        struct graph *graph;
        CUgraphNode handle;
        struct work *work;         /* never NULL */
        struct graph_edge *before; /* what it comes after */
        unsigned n_before;
        unsigned n_after; /* how many come after it */
        bool enabled;
        bool mark;       /* of whoever walks the graph */
        unsigned index;  /* in graph->nodes */
        uint64_t origin; /* id of the node that it is a copy of, or its own */
        uint64_t id;
};

struct graph_user {
        struct user_object *object;
        unsigned count;
        struct graph_user *next;
};

struct graph {
        CUgraph handle;
        struct graph_node **nodes;
        unsigned n_nodes, room;
        bool owned; /* by a child node: cannot be destroyed by its handle */
        struct graph_user *users;
};

struct graph *graph_new(void);
/* Frees the nodes too; NULL is fine. Returns NULL. */
struct graph *graph_free(struct graph *graph);
/* A copy with new handles; node i of the one is node i of the other. NULL: no memory. */
struct graph *graph_clone(const struct graph *graph);
/* Takes work over, NULL means that memory ran out. before, data: n of them; data may be NULL. */
CUresult graph_add(struct graph *graph, struct work *work, struct graph_node *const *before,
        const CUgraphEdgeData *data, unsigned n, struct graph_node **ret);
/* CUDA_ERROR_INVALID_VALUE: there already, of different graphs, or it would close a circle. */
/* A circle is no error until the graph is instantiated. */
CUresult graph_connect(struct graph_node *from, struct graph_node *to, const CUgraphEdgeData *data);
bool graph_is_circular(const struct graph *graph);
void graph_remove(struct graph_node *node);
/* Marks node and everything that it comes after; all marks were clear. */
void graph_mark_before(struct graph_node *node);
void graph_clear_marks(struct graph *graph);
CUgraphNodeType graph_node_type(const struct graph_node *node);

/* Gives count references to a user object back. */
struct user_object;
void user_release(struct user_object *object, unsigned count);

/* The graph to shares the objects of the graph from. */
CUresult graph_share_users(struct graph *to, const struct graph *from);

/* Takes the memory that an allocation node will have and keeps its parameters. */
CUresult alloc_init(struct work *work, const CUDA_MEM_ALLOC_NODE_PARAMS *params);
/* Whether the graph can be launched: what it allocates must have been freed since the last time,
 * or be freed_first. CUDA_ERROR_INVALID_VALUE */
CUresult graph_memory_ready(const struct graph *graph, bool free_first);
/* It is launched: what it allocates is in use, unless it frees it too. */
/* Gives the graph's allocations their memory, at its first launch or upload. */
CUresult graph_memory_back(const struct graph *graph);
void graph_memory_launch(const struct graph *graph);

/* Not locked. The node in an executable graph that stands for the handle's.
 * CUDA_ERROR_INVALID_VALUE */
CUresult graph_exec_node(CUgraphExec exec, CUgraphNode handle, struct graph_node **ret);

/* One stream's part in a capture. */
struct capture_session;
struct capture {
        struct capture_session *session;
        struct stream *stream;     /* while it captures */
        struct graph_node **nodes; /* what its next node comes after */
        CUgraphEdgeData *data;
        unsigned n_nodes;
        struct capture *next; /* of the session */
};

struct capture_session {
        unsigned refs; /* events and the list of sessions */
        bool ended, invalid;
        CUstreamCaptureMode mode;
        uint64_t id;
        pthread_t thread;
        struct stream *origin;
        struct graph *graph;
        bool borrowed; /* the graph is the program's (cuStreamBeginCaptureToGraph) */
        struct capture *captures;
        struct capture_session *next;
};

struct capture_session *session_ref(struct capture_session *session);
struct capture_session *session_unref(struct capture_session *session);
