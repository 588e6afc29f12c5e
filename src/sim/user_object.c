/* SPDX-License-Identifier: Apache-2.0 */
/* Objects of the program whose life graphs share. */
#include <limits.h>
#include <stdlib.h>

#include "graph.h"

struct user_object {
        CUuserObject handle;
        void *pointer;
        CUhostFn destroy;
        uint64_t refs;
};

static void destroy(void *argument)
{
        struct user_object *object = argument;

        engine_set_callback(true);
        object->destroy(object->pointer);
        engine_set_callback(false);
        free(object);
}

void user_release(struct user_object *object, unsigned count)
{
        struct work *work;
        struct op *op;

        object->refs -= count;
        if (object->refs)
                return;
        handle_free(object->handle);
        /* the destructor runs on a thread of the driver, as the real one's does */
        work = work_new(NULL, WORK_CALL);
        if (!work)
                return;
        work->call.fn = destroy;
        work->call.arg = object;
        op = op_new(NULL, work);
        if (!op)
                return;
        op_start(op);
        op_unref(op);
}

static CUresult object_of(CUuserObject handle, struct user_object **ret)
{
        *ret = handle_get(HANDLE_USER_OBJECT, handle);
        return *ret ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuUserObjectCreate(CUuserObject *ret, void *pointer, CUhostFn destructor,
        unsigned int references, unsigned int flags)
{
        struct user_object *object;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret || !destructor || references == 0 || references > INT_MAX ||
                flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC)
                return CUDA_ERROR_INVALID_VALUE;
        object = calloc(1, sizeof(*object));
        if (!object)
                return CUDA_ERROR_OUT_OF_MEMORY;
        object->handle = handle_new(HANDLE_USER_OBJECT, object);
        if (!object->handle) {
                free(object);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        object->pointer = pointer;
        object->destroy = destructor;
        object->refs = references;
        *ret = object->handle;
        return CUDA_SUCCESS;
}

CUresult cuUserObjectRetain(CUuserObject handle, unsigned int count)
{
        struct user_object *object;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        r = object_of(handle, &object);
        if (!r && (count == 0 || count > INT_MAX))
                r = CUDA_ERROR_INVALID_VALUE;
        if (!r)
                object->refs += count;
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuUserObjectRelease(CUuserObject handle, unsigned int count)
{
        struct user_object *object;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        r = object_of(handle, &object);
        if (!r && (count == 0 || count > object->refs))
                r = CUDA_ERROR_INVALID_VALUE;
        if (!r)
                user_release(object, count);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuGraphRetainUserObject(
        CUgraph graph_handle, CUuserObject handle, unsigned int count, unsigned int flags)
{
        struct user_object *object;
        struct graph_user *user;
        struct graph *graph;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        graph = handle_get(HANDLE_GRAPH, graph_handle);
        r = object_of(handle, &object);
        if (!r && (!graph || count == 0 || count > INT_MAX || flags > CU_GRAPH_USER_OBJECT_MOVE))
                r = CUDA_ERROR_INVALID_VALUE;
        if (!r && flags == CU_GRAPH_USER_OBJECT_MOVE && object->refs < count)
                r = CUDA_ERROR_INVALID_VALUE;
        user = r ? NULL : calloc(1, sizeof(*user));
        if (user) {
                user->object = object;
                user->count = count;
                user->next = graph->users;
                graph->users = user;
                if (flags != CU_GRAPH_USER_OBJECT_MOVE)
                        object->refs += count;
        } else if (!r) {
                r = CUDA_ERROR_OUT_OF_MEMORY;
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuGraphReleaseUserObject(CUgraph graph_handle, CUuserObject handle, unsigned int count)
{
        struct user_object *object;
        struct graph *graph;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        graph = handle_get(HANDLE_GRAPH, graph_handle);
        r = object_of(handle, &object);
        if (!r && !graph)
                r = CUDA_ERROR_INVALID_VALUE;
        for (struct graph_user **at = r ? NULL : &graph->users; at && count;) {
                struct graph_user *user = *at;
                unsigned some;

                if (!user) {
                        r = CUDA_ERROR_INVALID_VALUE;
                        break;
                }
                if (user->object != object) {
                        at = &user->next;
                        continue;
                }
                some = user->count < count ? user->count : count;
                user->count -= some;
                count -= some;
                if (user->count == 0) {
                        *at = user->next;
                        free(user);
                }
                user_release(object, some);
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult graph_share_users(struct graph *to, const struct graph *from)
{
        for (const struct graph_user *one = from->users; one; one = one->next) {
                struct graph_user *user = calloc(1, sizeof(*user));

                if (!user)
                        return CUDA_ERROR_OUT_OF_MEMORY;
                user->object = one->object;
                user->count = 1;
                user->next = to->users;
                to->users = user;
                one->object->refs++;
        }
        return CUDA_SUCCESS;
}
