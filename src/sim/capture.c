/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

static struct capture_session *sessions; /* running ones */
static uint64_t last_session;
static __thread CUstreamCaptureMode thread_mode __attribute__((tls_model("initial-exec")));

struct capture_session *session_ref(struct capture_session *session)
{
        session->refs++;
        return session;
}

struct capture_session *session_unref(struct capture_session *session)
{
        if (--session->refs == 0)
                free(session);
        return NULL;
}

/* ---- the state of one stream ---- */

static CUresult set_nodes(struct capture *capture, struct graph_node *const *nodes,
        const CUgraphEdgeData *data, unsigned n)
{
        struct graph_node **copy = calloc(n ? n : 1, sizeof(*copy));
        CUgraphEdgeData *edges = calloc(n ? n : 1, sizeof(*edges));

        if (!copy || !edges) {
                free(copy);
                free(edges);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        if (n)
                memcpy(copy, nodes, n * sizeof(*copy));
        if (n && data)
                memcpy(edges, data, n * sizeof(*edges));
        free(capture->nodes);
        free(capture->data);
        capture->nodes = copy;
        capture->data = edges;
        capture->n_nodes = n;
        return CUDA_SUCCESS;
}

static CUresult add_nodes(struct capture *capture, struct graph_node *const *nodes,
        const CUgraphEdgeData *data, unsigned n)
{
        struct graph_node **all = calloc(capture->n_nodes + n + 1, sizeof(*all));
        CUgraphEdgeData *edges = calloc(capture->n_nodes + n + 1, sizeof(*edges));
        unsigned count = 0;
        CUresult r = CUDA_ERROR_OUT_OF_MEMORY;

        if (all && edges) {
                for (unsigned i = 0; i < capture->n_nodes + n; i++) {
                        bool old = i < capture->n_nodes, twice = false;
                        struct graph_node *node =
                                old ? capture->nodes[i] : nodes[i - capture->n_nodes];

                        for (unsigned k = 0; k < count; k++)
                                twice |= all[k] == node;
                        if (twice)
                                continue;
                        if (old)
                                edges[count] = capture->data[i];
                        else if (data)
                                edges[count] = data[i - capture->n_nodes];
                        all[count++] = node;
                }
                r = set_nodes(capture, all, edges, count);
        }
        free(all);
        free(edges);
        return r;
}

static CUresult capture_new(struct stream *stream, struct capture_session *session,
        struct graph_node *const *nodes, const CUgraphEdgeData *data, unsigned n)
{
        struct capture *capture = calloc(1, sizeof(*capture));
        CUresult r = capture ? set_nodes(capture, nodes, data, n) : CUDA_ERROR_OUT_OF_MEMORY;

        if (r) {
                free(capture);
                return r;
        }
        capture->session = session_ref(session);
        capture->stream = stream;
        capture->next = session->captures;
        session->captures = capture;
        stream->capture = capture;
        return CUDA_SUCCESS;
}

/* Ends the session for all its streams. The graph is the caller's. */
static void session_end(struct capture_session *session)
{
        struct capture *capture;

        for (struct capture_session **at = &sessions; *at; at = &(*at)->next)
                if (*at == session) {
                        *at = session->next;
                        break;
                }
        session->ended = true;
        while ((capture = session->captures)) {
                session->captures = capture->next;
                capture->stream->capture = NULL;
                free(capture->nodes);
                free(capture->data);
                free(capture);
                session_unref(session);
        }
        session_unref(session);
}

/* ---- what streams and events ask ---- */

CUresult capture_refuse(struct stream *stream)
{
        stream->capture->session->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult capture_check_legacy(struct sim_context *context)
{
        CUresult r = CUDA_SUCCESS;

        for (struct stream *one = context->exec->streams; one && sessions; one = one->next)
                if (one->capture && !(one->flags & CU_STREAM_NON_BLOCKING)) {
                        one->capture->session->invalid = true;
                        r = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
                }
        return r;
}

CUresult capture_add(struct stream *stream, struct work *work)
{
        struct capture *capture = stream->capture;
        struct graph_node *node;
        CUresult r;

        if (capture->session->invalid) {
                work_free(work);
                return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        }
        r = graph_add(capture->session->graph, work, capture->nodes, capture->data,
                capture->n_nodes, &node);
        return r ? r : set_nodes(capture, &node, NULL, 1);
}

void capture_forget(struct event *event)
{
        if (event->session)
                event->session = session_unref(event->session);
        free(event->nodes);
        event->nodes = NULL;
        event->n_nodes = 0;
}

CUresult capture_record(struct stream *stream, struct event *event)
{
        struct capture *capture = stream->capture;
        struct graph_node **nodes;

        if (capture->session->invalid)
                return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        nodes = calloc(capture->n_nodes + 1, sizeof(*nodes));
        if (!nodes)
                return CUDA_ERROR_OUT_OF_MEMORY;
        memcpy(nodes, capture->nodes, capture->n_nodes * sizeof(*nodes));
        capture_forget(event);
        event->session = session_ref(capture->session);
        event->nodes = nodes;
        event->n_nodes = capture->n_nodes;
        return CUDA_SUCCESS;
}

CUresult capture_asked(struct event *event)
{
        event->session->invalid = true;
        return CUDA_ERROR_CAPTURED_EVENT;
}

CUresult capture_wait(struct stream *stream, struct event *event)
{
        struct capture *capture = stream->capture;
        struct capture_session *session = event->session;

        if (capture && capture->session->invalid)
                return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        if (!session) {
                /* what ran before the capture is no part of it */
                capture->session->invalid = true;
                return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
        }
        if (session->ended)
                return CUDA_ERROR_CAPTURED_EVENT;
        if (session->invalid)
                return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        if (capture && capture->session != session) {
                capture->session->invalid = true;
                session->invalid = true;
                return CUDA_ERROR_STREAM_CAPTURE_MERGE;
        }
        if (capture)
                return add_nodes(capture, event->nodes, NULL, event->n_nodes);
        if (stream->legacy) {
                session->invalid = true;
                return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        }
        return capture_new(stream, session, event->nodes, NULL, event->n_nodes);
}

void capture_abandon(struct stream *stream)
{
        struct capture_session *session = stream->capture->session;
        struct graph *graph = session->borrowed ? NULL : session->graph;

        session->invalid = true;
        if (session->origin == stream) {
                session_end(session);
                graph_free(graph);
                return;
        }
        for (struct capture **at = &session->captures; *at; at = &(*at)->next)
                if (*at == stream->capture) {
                        *at = stream->capture->next;
                        break;
                }
        free(stream->capture->nodes);
        free(stream->capture->data);
        free(stream->capture);
        stream->capture = NULL;
        session_unref(session);
}

/* An allocation, or another call that might wait for the device. */
CUresult exec_capture_check(void)
{
        CUresult r = CUDA_SUCCESS;

        if (!__atomic_load_n(&sessions, __ATOMIC_RELAXED) ||
                thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
                return CUDA_SUCCESS;
        pthread_mutex_lock(&exec_lock);
        for (struct capture_session *one = sessions; one; one = one->next) {
                bool own = pthread_equal(one->thread, pthread_self());

                if (one->mode == CU_STREAM_CAPTURE_MODE_RELAXED)
                        continue;
                if (!own && (one->mode != CU_STREAM_CAPTURE_MODE_GLOBAL ||
                                    thread_mode != CU_STREAM_CAPTURE_MODE_GLOBAL))
                        continue;
                one->invalid = true;
                r = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult exec_capture_alloc(CUstream handle, struct sim_pool *pool, size_t bytes, CUdeviceptr *ret)
{
        struct stream *stream;
        struct work *work;
        CUresult r = stream_of(handle, &stream);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        if (!stream->capture) {
                r = CUDA_ERROR_NOT_FOUND;
        } else if ((work = work_new(stream->context, WORK_ALLOC))) {
                CUDA_MEM_ALLOC_NODE_PARAMS params = {
                        .poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                        .poolProps.location.type = CU_MEM_LOCATION_TYPE_DEVICE,
                        .poolProps.location.id = stream->context->device->index,
                        .bytesize = bytes,
                };

                r = alloc_init(work, &params);
                if (r) {
                        work_free(work);
                } else {
                        *ret = work->alloc.params.dptr;
                        r = capture_add(stream, work);
                }
        } else {
                r = CUDA_ERROR_OUT_OF_MEMORY;
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult exec_capture_free(CUstream handle, CUdeviceptr pointer)
{
        struct stream *stream;
        struct work *work;
        CUresult r = stream_of(handle, &stream);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        if (!stream->capture) {
                r = CUDA_ERROR_NOT_FOUND;
        } else if ((work = work_new(stream->context, WORK_FREE))) {
                work->free = pointer;
                r = capture_add(stream, work);
        } else {
                r = CUDA_ERROR_OUT_OF_MEMORY;
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

/* ---- entry points ---- */

static CUresult begin(const char *entry, CUstream handle, CUstreamCaptureMode mode, CUgraph target,
        const CUgraphNode *nodes, const CUgraphEdgeData *data, size_t n)
{
        struct capture_session *session;
        struct graph_node **before = NULL;
        struct stream *stream;
        CUresult r = exec_enter_stream(entry, handle, &stream);

        if (r)
                return r;
        if (mode > CU_STREAM_CAPTURE_MODE_RELAXED)
                return CUDA_ERROR_INVALID_VALUE;
        if (stream->legacy)
                return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        if (n && !nodes)
                return CUDA_ERROR_INVALID_VALUE;
        session = calloc(1, sizeof(*session));
        before = calloc(n + 1, sizeof(*before));
        if (!session || !before) {
                free(session);
                free(before);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        pthread_mutex_lock(&exec_lock);
        if (stream->capture) {
                r = CUDA_ERROR_ILLEGAL_STATE;
        } else if (target) {
                session->graph = handle_get(HANDLE_GRAPH, target);
                session->borrowed = true;
                if (!session->graph)
                        r = CUDA_ERROR_INVALID_VALUE;
                for (size_t i = 0; i < n && !r; i++) {
                        before[i] = handle_get(HANDLE_NODE, nodes[i]);
                        if (!before[i] || before[i]->graph != session->graph)
                                r = CUDA_ERROR_INVALID_VALUE;
                }
        } else {
                session->graph = graph_new();
                if (!session->graph)
                        r = CUDA_ERROR_OUT_OF_MEMORY;
        }
        if (!r) {
                session->refs = 1;
                session->mode = mode;
                session->id = ++last_session;
                session->thread = pthread_self();
                session->origin = stream;
                r = capture_new(stream, session, before, data, (unsigned)n);
        }
        if (!r) {
                session->next = sessions;
                __atomic_store_n(&sessions, session, __ATOMIC_RELAXED);
        } else {
                if (!session->borrowed)
                        graph_free(session->graph);
                free(session);
        }
        pthread_mutex_unlock(&exec_lock);
        free(before);
        return r;
}

CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode)
{
        return begin(__func__, stream, mode, NULL, NULL, NULL, 0);
}

CUresult cuStreamBeginCapture(CUstream stream)
{
        return begin(__func__, stream, CU_STREAM_CAPTURE_MODE_GLOBAL, NULL, NULL, NULL, 0);
}

CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const CUgraphNode *nodes,
        const CUgraphEdgeData *data, size_t n, CUstreamCaptureMode mode)
{
        if (!graph)
                return CUDA_ERROR_INVALID_VALUE;
        return begin(__func__, stream, mode, graph, nodes, data, n);
}

/* Whether all that the session's other streams have done is behind the origin's last nodes. */
static bool is_joined(struct capture_session *session)
{
        struct capture *origin = session->origin->capture;
        bool joined = true;

        graph_clear_marks(session->graph);
        for (unsigned i = 0; i < origin->n_nodes; i++)
                graph_mark_before(origin->nodes[i]);
        for (struct capture *one = session->captures; one; one = one->next)
                for (unsigned i = 0; i < one->n_nodes; i++)
                        joined &= one->nodes[i]->mark;
        graph_clear_marks(session->graph);
        return joined;
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph *ret)
{
        struct capture_session *session;
        struct graph *graph;
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = NULL;
        pthread_mutex_lock(&exec_lock);
        if (!stream->capture) {
                r = CUDA_ERROR_ILLEGAL_STATE;
                goto done;
        }
        session = stream->capture->session;
        if (session->origin != stream) {
                session->invalid = true;
                r = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
                goto done;
        }
        if (session->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
                !pthread_equal(session->thread, pthread_self()))
                r = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD; /* and the capture has ended */
        else if (session->invalid)
                r = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        else if (!is_joined(session))
                r = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
        graph = session->graph;
        if (!r)
                *ret = graph->handle;
        else if (!session->borrowed)
                graph_free(graph);
        session_end(session);
done:
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *ret)
{
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        if (stream->legacy)
                r = capture_check_legacy(stream->context);
        if (!r)
                *ret = !stream->capture                    ? CU_STREAM_CAPTURE_STATUS_NONE
                       : stream->capture->session->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                                           : CU_STREAM_CAPTURE_STATUS_ACTIVE;
        pthread_mutex_unlock(&exec_lock);
        return r;
}

/* What the last of these calls answered in this thread: it stays good until the next one. */
static __thread CUgraphNode *info_nodes __attribute__((tls_model("initial-exec")));
static __thread CUgraphEdgeData *info_data __attribute__((tls_model("initial-exec")));

static CUresult info(const char *entry, CUstream handle, CUstreamCaptureStatus *ret_status,
        cuuint64_t *ret_id, CUgraph *ret_graph, const CUgraphNode **ret_nodes,
        const CUgraphEdgeData **ret_data, bool has_data, size_t *ret_n)
{
        struct capture *capture;
        struct stream *stream;
        CUresult r = exec_enter_stream(entry, handle, &stream);

        if (r)
                return r;
        if (!ret_status)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        if (stream->legacy) {
                r = capture_check_legacy(stream->context);
                if (r)
                        goto done;
        }
        capture = stream->capture;
        *ret_status = CU_STREAM_CAPTURE_STATUS_NONE;
        if (!capture)
                goto done;
        *ret_status = capture->session->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                                : CU_STREAM_CAPTURE_STATUS_ACTIVE;
        if (capture->session->invalid)
                goto done;
        if (ret_id)
                *ret_id = capture->session->id;
        if (ret_graph)
                *ret_graph = capture->session->graph->handle;
        if (ret_n)
                *ret_n = capture->n_nodes;
        if (ret_nodes) {
                CUgraphNode *nodes = reallocarray(info_nodes, capture->n_nodes + 1, sizeof(*nodes));

                if (!nodes) {
                        r = CUDA_ERROR_OUT_OF_MEMORY;
                        goto done;
                }
                info_nodes = nodes;
                for (unsigned i = 0; i < capture->n_nodes; i++) {
                        static const CUgraphEdgeData plain;

                        nodes[i] = capture->nodes[i]->handle;
                        /* an edge that says something must not be lost */
                        if (!has_data && memcmp(&capture->data[i], &plain, sizeof(plain)) != 0)
                                r = CUDA_ERROR_LOSSY_QUERY;
                }
                *ret_nodes = nodes;
        }
        if (ret_data) {
                CUgraphEdgeData *data =
                        reallocarray(info_data, capture->n_nodes + 1, sizeof(*data));

                if (!data) {
                        r = CUDA_ERROR_OUT_OF_MEMORY;
                        goto done;
                }
                info_data = data;
                memcpy(data, capture->data, capture->n_nodes * sizeof(*data));
                *ret_data = data;
        }
done:
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuStreamGetCaptureInfo(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id)
{
        return info(__func__, stream, status, id, NULL, NULL, NULL, true, NULL);
}

CUresult cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id,
        CUgraph *graph, const CUgraphNode **nodes, size_t *n)
{
        return info(__func__, stream, status, id, graph, nodes, NULL, false, n);
}

CUresult cuStreamGetCaptureInfo_v3(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id,
        CUgraph *graph, const CUgraphNode **nodes, const CUgraphEdgeData **data, size_t *n)
{
        return info(__func__, stream, status, id, graph, nodes, data, data != NULL, n);
}

CUresult cuStreamUpdateCaptureDependencies_v2(CUstream handle, CUgraphNode *nodes,
        const CUgraphEdgeData *data, size_t n, unsigned int flags)
{
        struct graph_node **given = NULL;
        struct stream *stream;
        CUresult r = exec_enter_stream(__func__, handle, &stream);

        if (r)
                return r;
        if ((n && !nodes) || flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES)
                return CUDA_ERROR_INVALID_VALUE;
        given = calloc(n + 1, sizeof(*given));
        if (!given)
                return CUDA_ERROR_OUT_OF_MEMORY;
        pthread_mutex_lock(&exec_lock);
        if (!stream->capture)
                r = CUDA_ERROR_ILLEGAL_STATE;
        else if (stream->capture->session->invalid)
                r = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        for (size_t i = 0; i < n && !r; i++) {
                given[i] = handle_get(HANDLE_NODE, nodes[i]);
                if (!given[i] || given[i]->graph != stream->capture->session->graph)
                        r = CUDA_ERROR_INVALID_VALUE;
        }
        if (!r)
                r = flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES
                            ? set_nodes(stream->capture, given, data, (unsigned)n)
                            : add_nodes(stream->capture, given, data, (unsigned)n);
        pthread_mutex_unlock(&exec_lock);
        free(given);
        return r;
}

CUresult cuStreamUpdateCaptureDependencies(
        CUstream stream, CUgraphNode *nodes, size_t n, unsigned int flags)
{
        return cuStreamUpdateCaptureDependencies_v2(stream, nodes, NULL, n, flags);
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
        CUstreamCaptureMode before = thread_mode;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!mode || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
                return CUDA_ERROR_INVALID_VALUE;
        thread_mode = *mode;
        *mode = before;
        return CUDA_SUCCESS;
}
