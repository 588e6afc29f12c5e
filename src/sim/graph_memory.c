/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of allocation nodes. Its address is fixed when the node is made, so it is taken from the
 * device's graph pool then, and goes back to it with the last copy of the node. Memory comes to lie
 * there at the first launch; what the pool holds in reserve stays until cuDeviceGraphMemTrim().
 */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

struct graph_memory {
        unsigned refs; /* nodes, and copies of them in executable graphs and queues */
        struct sim_device *device;
        CUdeviceptr pointer;
        size_t bytes;
        bool used; /* a launch has allocated it, and nothing has freed it */
        struct graph_memory *next;
};

/* under exec_lock */
static struct graph_memory *all;
static uint64_t used_high[SIM_MAX_DEVICES], reserved_high[SIM_MAX_DEVICES];

static struct graph_memory *find(CUdeviceptr pointer)
{
        for (struct graph_memory *one = all; one; one = one->next)
                if (one->pointer == pointer)
                        return one;
        return NULL;
}

static void note_highs(struct sim_device *device)
{
        uint64_t used = sim_pool_occupied(sim_pool_graph(device)),
                 reserved = sim_pool_reserved(sim_pool_graph(device));

        if (used > used_high[device->index])
                used_high[device->index] = used;
        if (reserved > reserved_high[device->index])
                reserved_high[device->index] = reserved;
}

CUresult alloc_init(struct work *work, const CUDA_MEM_ALLOC_NODE_PARAMS *params)
{
        const CUmemPoolProps *properties = &params->poolProps;
        struct graph_memory *memory;
        struct sim_device *device;
        CUresult r;

        if (params->bytesize == 0 || (params->accessDescCount && !params->accessDescs) ||
                properties->allocType != CU_MEM_ALLOCATION_TYPE_PINNED ||
                properties->handleTypes != CU_MEM_HANDLE_TYPE_NONE ||
                properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
                return CUDA_ERROR_INVALID_VALUE;
        r = sim_device_of(properties->location.id, &device);
        if (r)
                return CUDA_ERROR_INVALID_VALUE;
        memory = calloc(1, sizeof(*memory));
        work->alloc.access = calloc(params->accessDescCount + 1, sizeof(*work->alloc.access));
        r = memory && work->alloc.access
                    ? sim_pool_alloc(sim_pool_graph(device), params->bytesize, &memory->pointer)
                    : CUDA_ERROR_OUT_OF_MEMORY;
        if (r) {
                free(work->alloc.access);
                work->alloc.access = NULL;
                free(memory);
                return r;
        }
        memory->refs = 1;
        memory->device = device;
        memory->bytes = params->bytesize;
        memory->next = all;
        all = memory;
        if (params->accessDescCount)
                memcpy(work->alloc.access, params->accessDescs,
                        params->accessDescCount * sizeof(*work->alloc.access));
        work->alloc.params = *params;
        work->alloc.params.accessDescs = work->alloc.access;
        work->alloc.params.dptr = memory->pointer;
        work->alloc.memory = memory;
        note_highs(device);
        return CUDA_SUCCESS;
}

struct graph_memory *graph_memory_ref(struct graph_memory *memory)
{
        memory->refs++;
        return memory;
}

struct graph_memory *graph_memory_unref(struct graph_memory *memory)
{
        if (!memory || --memory->refs)
                return NULL;
        for (struct graph_memory **at = &all; *at; at = &(*at)->next)
                if (*at == memory) {
                        *at = memory->next;
                        break;
                }
        sim_pool_free(memory->pointer);
        free(memory);
        return NULL;
}

static bool frees(const struct graph *graph, CUdeviceptr pointer)
{
        for (unsigned i = 0; i < graph->n_nodes; i++)
                if (graph->nodes[i]->work->kind == WORK_FREE &&
                        graph->nodes[i]->work->free == pointer)
                        return true;
        return false;
}

CUresult graph_memory_ready(const struct graph *graph, bool free_first)
{
        for (unsigned i = 0; i < graph->n_nodes; i++) {
                const struct work *work = graph->nodes[i]->work;
                CUresult r = CUDA_SUCCESS;

                if (work->kind == WORK_CHILD)
                        r = graph_memory_ready(work->child, free_first);
                else if (work->kind == WORK_ALLOC && work->alloc.memory->used && !free_first &&
                         !frees(graph, work->alloc.params.dptr))
                        r = CUDA_ERROR_INVALID_VALUE;
                if (r)
                        return r;
        }
        return CUDA_SUCCESS;
}

CUresult graph_memory_back(const struct graph *graph)
{
        CUresult r = CUDA_SUCCESS;

        for (unsigned i = 0; i < graph->n_nodes && !r; i++) {
                const struct work *work = graph->nodes[i]->work;

                if (work->kind == WORK_CHILD) {
                        r = graph_memory_back(work->child);
                } else if (work->kind == WORK_ALLOC) {
                        r = sim_pool_back(work->alloc.memory->pointer);
                        note_highs(work->alloc.memory->device);
                }
        }
        return r;
}

void graph_memory_launch(const struct graph *graph)
{
        for (unsigned i = 0; i < graph->n_nodes; i++) {
                const struct work *work = graph->nodes[i]->work;

                if (work->kind == WORK_CHILD) {
                        graph_memory_launch(work->child);
                } else if (work->kind == WORK_ALLOC) {
                        work->alloc.memory->used = true;
                }
        }
        for (unsigned i = 0; i < graph->n_nodes; i++)
                if (graph->nodes[i]->work->kind == WORK_FREE) {
                        struct graph_memory *memory = find(graph->nodes[i]->work->free);

                        if (memory)
                                memory->used = false;
                }
}

/* A program frees what a graph allocated: the memory is the graph's to use again. */
CUresult exec_graph_free(CUdeviceptr pointer)
{
        struct graph_memory *memory;
        CUresult r = CUDA_ERROR_NOT_FOUND;

        pthread_mutex_lock(&exec_lock);
        memory = find(pointer);
        if (memory) {
                r = memory->used ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
                memory->used = false;
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

/* ---- entry points ---- */

CUresult cuDeviceGraphMemTrim(CUdevice number)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(number, &device);
        if (!r)
                sim_pool_trim(sim_pool_graph(device), 0);
        return r;
}

CUresult cuDeviceGetGraphMemAttribute(CUdevice number, CUgraphMem_attribute attribute, void *ret)
{
        struct sim_device *device;
        uint64_t value = 0;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(number, &device);
        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        note_highs(device);
        switch ((int)attribute) {
        case CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT:
                value = sim_pool_occupied(sim_pool_graph(device));
                break;
        case CU_GRAPH_MEM_ATTR_USED_MEM_HIGH:
                value = used_high[device->index];
                break;
        case CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT:
                value = sim_pool_reserved(sim_pool_graph(device));
                break;
        case CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH:
                value = reserved_high[device->index];
                break;
        default:
                r = CUDA_ERROR_INVALID_VALUE;
        }
        pthread_mutex_unlock(&exec_lock);
        if (!r)
                memcpy(ret, &value, sizeof(value));
        return r;
}

CUresult cuDeviceSetGraphMemAttribute(CUdevice number, CUgraphMem_attribute attribute, void *value)
{
        struct sim_device *device;
        uint64_t given;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(number, &device);
        if (r)
                return r;
        if (!value)
                return CUDA_ERROR_INVALID_VALUE;
        memcpy(&given, value, sizeof(given));
        /* the high-water marks can be reset, and nothing else be set */
        if (given)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        if (attribute == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH)
                used_high[device->index] = 0;
        else if (attribute == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH)
                reserved_high[device->index] = 0;
        else
                r = CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_unlock(&exec_lock);
        return r;
}
