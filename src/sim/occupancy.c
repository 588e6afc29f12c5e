/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many blocks of a kernel an SM holds at once. The formula is that of the "CUDA Occupancy
 * Calculator": the least of what warps, registers (given out 256 a warp), shared memory (128 bytes,
 * and what the system keeps of each block) and blocks allow.
 */
#include <stdlib.h>

#include "green.h"
#include "models.h"
#include "module.h"

#define WARP          32
#define MAX_THREADS   1024 /* in a block; what the kernel itself declares is not asked */
#define REGISTERS_SM  65536
#define REGISTER_UNIT 256
#define SHARED_UNIT   128u
#define ALL_FLAGS     CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE

static unsigned shared_of(
        const struct function *function, const struct sim_model *model, size_t dynamic)
{
        size_t bytes = function->entry->shared_bytes + dynamic + (size_t)model->reserved_shared;

        return (unsigned)((bytes + SHARED_UNIT - 1) & ~(size_t)(SHARED_UNIT - 1));
}

int occupancy_blocks(const struct function *function, int threads, size_t dynamic)
{
        const struct sim_model *model = function->module->context->device->model;
        int warps = (threads + WARP - 1) / WARP, blocks, by;
        int registers = (int)function_registers(function) * WARP;

        if (threads > MAX_THREADS || dynamic > (size_t)model->shared_per_sm)
                return 0;
        registers = (registers + REGISTER_UNIT - 1) / REGISTER_UNIT * REGISTER_UNIT;
        blocks = model->threads_per_sm / WARP / warps;
        by = REGISTERS_SM / registers / warps;
        blocks = by < blocks ? by : blocks;
        by = model->shared_per_sm / (int)shared_of(function, model, dynamic);
        blocks = by < blocks ? by : blocks;
        return model->blocks_per_sm < blocks ? model->blocks_per_sm : blocks;
}

/* SMs of what is current. */
static int current_sms(const struct function *function)
{
        struct sim_sms sms = green_sms(green_current(), function->module->context->device);

        return (int)sms_count(&sms);
}

static CUresult enter(const char *entry, CUfunction handle, struct function **ret)
{
        struct sim_context *context;
        CUresult r = exec_enter(entry, &context);

        return r ? r : function_of(handle, context, ret);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        int *ret, CUfunction handle, int threads, size_t dynamic, unsigned int flags)
{
        struct function *function;
        CUresult r = enter(__func__, handle, &function);

        if (r)
                return r;
        if (!ret || threads <= 0 || flags > ALL_FLAGS)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = occupancy_blocks(function, threads, dynamic);
        return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(
        int *ret, CUfunction function, int threads, size_t dynamic)
{
        return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
                ret, function, threads, dynamic, 0);
}

CUresult cuOccupancyAvailableDynamicSMemPerBlock(
        size_t *ret, CUfunction handle, int blocks, int threads)
{
        const struct sim_model *model;
        struct function *function;
        CUresult r = enter(__func__, handle, &function);
        long bytes;

        if (r)
                return r;
        if (!ret || blocks <= 0 || threads <= 0)
                return CUDA_ERROR_INVALID_VALUE;
        model = function->module->context->device->model;
        bytes = (long)((unsigned)model->shared_per_sm / (unsigned)blocks / SHARED_UNIT *
                        SHARED_UNIT) -
                model->reserved_shared - (long)function->entry->shared_bytes;
        if (bytes > function->max_dynamic_shared)
                bytes = function->max_dynamic_shared;
        *ret = bytes > 0 ? (size_t)bytes : 0;
        return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int *ret_grid, int *ret_block, CUfunction handle,
        CUoccupancyB2DSize dynamic_of, size_t dynamic, int limit, unsigned int flags)
{
        struct function *function;
        int most, best = 0, best_threads = 0;
        CUresult r = enter(__func__, handle, &function);

        if (r)
                return r;
        if (!ret_grid || !ret_block || limit < 0 || flags > ALL_FLAGS)
                return CUDA_ERROR_INVALID_VALUE;
        most = function_max_threads(function);
        if (limit && limit < most)
                most = limit;
        for (int threads = most; threads > 0; threads -= threads % WARP ? threads % WARP : WARP) {
                int blocks = occupancy_blocks(
                        function, threads, dynamic_of ? dynamic_of(threads) : dynamic);

                if (blocks * threads > best * best_threads) {
                        best = blocks;
                        best_threads = threads;
                }
        }
        *ret_block = best_threads;
        *ret_grid = best * current_sms(function);
        return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxPotentialBlockSize(int *ret_grid, int *ret_block, CUfunction function,
        CUoccupancyB2DSize dynamic_of, size_t dynamic, int limit)
{
        return cuOccupancyMaxPotentialBlockSizeWithFlags(
                ret_grid, ret_block, function, dynamic_of, dynamic, limit, 0);
}

static CUresult cluster_of(
        const CUlaunchConfig *config, const struct function *function, unsigned *ret)
{
        *ret = 1;
        for (unsigned i = 0; i < config->numAttrs; i++)
                if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
                        *ret = config->attrs[i].value.clusterDim.x *
                               config->attrs[i].value.clusterDim.y *
                               config->attrs[i].value.clusterDim.z;
        if (*ret == 0)
                return CUDA_ERROR_INVALID_VALUE;
        return function->module->context->device->model->major < 9 ? CUDA_ERROR_NOT_SUPPORTED
                                                                   : CUDA_SUCCESS;
}

CUresult cuOccupancyMaxPotentialClusterSize(
        int *ret, CUfunction handle, const CUlaunchConfig *config)
{
        struct function *function;
        unsigned cluster;
        CUresult r = enter(__func__, handle, &function);

        if (r)
                return r;
        if (!ret || !config)
                return CUDA_ERROR_INVALID_VALUE;
        r = cluster_of(config, function, &cluster);
        if (!r)
                *ret = function->non_portable_cluster ? 16 : 8;
        return r;
}

CUresult cuOccupancyMaxActiveClusters(int *ret, CUfunction handle, const CUlaunchConfig *config)
{
        struct function *function;
        unsigned cluster;
        CUresult r = enter(__func__, handle, &function);
        int threads;

        if (r)
                return r;
        if (!ret || !config)
                return CUDA_ERROR_INVALID_VALUE;
        r = cluster_of(config, function, &cluster);
        if (r)
                return r;
        threads = (int)(config->blockDimX * config->blockDimY * config->blockDimZ);
        if (threads <= 0)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = occupancy_blocks(function, threads, config->sharedMemBytes) * current_sms(function) /
               (int)cluster;
        return CUDA_SUCCESS;
}
