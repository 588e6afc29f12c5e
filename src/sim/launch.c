/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "environment.h"
#include "green.h"
#include "models.h"
#include "module.h"

#define MAX_GRID_X  0x7fffffffu
#define MAX_GRID_YZ 65535u
#define MAX_BLOCK   1024u
#define MAX_BLOCK_Z 64u

size_t function_params_size(const struct ptx_entry *entry)
{
        return entry->params_size;
}

void **launch_pointers(const struct ptx_entry *entry, uint8_t *params)
{
        void **pointers = calloc(entry->n_params + 1, sizeof(*pointers));

        for (unsigned i = 0; pointers && i < entry->n_params; i++)
                pointers[i] = params + entry->params[i].offset;
        return pointers;
}

#define LOCAL_DEFAULT 1024 /* bytes a thread, in every context's footprint */

/* Local memory is set aside for every thread that can be resident on the device at once, when a
 * kernel that needs more than there is gets launched for the first time. It takes the place of what
 * the context came with, so that much less is taken (seen on an H100: 16,632 MiB for 64 KiB). */
CUresult launch_prepare(const struct launch *launch)
{
        struct sim_context *context = launch->function->module->context;
        const struct sim_model *model = context->device->model;
        struct exec_context *exec = context->exec;
        size_t bytes = launch->function->entry->local_bytes;
        CUresult r;

        if (bytes <= exec->local_bytes || bytes <= LOCAL_DEFAULT ||
                bytes <= atomic_load(&context->limit[CU_LIMIT_STACK_SIZE]))
                return CUDA_SUCCESS;
        r = exec_synchronize(context);
        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        if (bytes > exec->local_bytes) {
                struct sim_memory *local;

                r = sim_memory_new(context->device,
                        (bytes - LOCAL_DEFAULT) * (size_t)model->threads_per_sm *
                                (size_t)model->sms,
                        &local);
                if (!r) {
                        sim_memory_free(exec->local);
                        exec->local = local;
                        exec->local_bytes = bytes;
                }
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

static CUresult read_extra(const struct ptx_entry *entry, void **extra, uint8_t *params)
{
        const void *buffer = NULL;
        const size_t *size = NULL;

        for (unsigned i = 0; extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
                if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER)
                        buffer = extra[i + 1];
                else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE)
                        size = extra[i + 1];
                else
                        return CUDA_ERROR_INVALID_VALUE;
        }
        if (!buffer || !size || *size < entry->params_size)
                return entry->params_size ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
        memcpy(params, buffer, entry->params_size);
        return CUDA_SUCCESS;
}

static CUresult check_shape(const struct function *function, const CUlaunchConfig *config)
{
        uint64_t threads = (uint64_t)config->blockDimX * config->blockDimY * config->blockDimZ;

        if (config->gridDimX == 0 || config->gridDimY == 0 || config->gridDimZ == 0 || threads == 0)
                return CUDA_ERROR_INVALID_VALUE;
        if (config->gridDimX > MAX_GRID_X || config->gridDimY > MAX_GRID_YZ ||
                config->gridDimZ > MAX_GRID_YZ || config->blockDimX > MAX_BLOCK ||
                config->blockDimY > MAX_BLOCK || config->blockDimZ > MAX_BLOCK_Z ||
                threads > MAX_BLOCK)
                return CUDA_ERROR_INVALID_VALUE;
        if (function->entry->max_threads && threads > function->entry->max_threads)
                return CUDA_ERROR_INVALID_VALUE;
        if ((int)threads > function_max_threads(function))
                return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
        if (config->sharedMemBytes > (unsigned)function->max_dynamic_shared)
                return CUDA_ERROR_INVALID_VALUE;
        return CUDA_SUCCESS;
}

static CUresult read_attributes(const CUlaunchConfig *config, struct launch *launch)
{
        if (config->numAttrs && !config->attrs)
                return CUDA_ERROR_INVALID_VALUE;
        for (unsigned i = 0; i < config->numAttrs; i++) {
                const CUlaunchAttributeValue *value = &config->attrs[i].value;

                switch ((int)config->attrs[i].id) {
                case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
                        launch->cooperative = value->cooperative != 0;
                        break;
                case CU_LAUNCH_ATTRIBUTE_PRIORITY:
                        launch->priority = value->priority;
                        break;
                case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
                        if (!value->clusterDim.x || !value->clusterDim.y || !value->clusterDim.z ||
                                config->gridDimX % value->clusterDim.x ||
                                config->gridDimY % value->clusterDim.y ||
                                config->gridDimZ % value->clusterDim.z)
                                return CUDA_ERROR_INVALID_VALUE;
                        if (value->clusterDim.x * value->clusterDim.y * value->clusterDim.z >
                                (launch->function->non_portable_cluster ? 16u : 8u))
                                return CUDA_ERROR_INVALID_CLUSTER_SIZE;
                        break;
                default:
                        if (config->attrs[i].id < 0 ||
                                config->attrs[i].id >= CU_LAUNCH_ATTRIBUTE_MAX)
                                return CUDA_ERROR_INVALID_VALUE;
                }
        }
        return CUDA_SUCCESS;
}

/* A program of kernels that only a real GPU can run should not have to guess. */
static void say_unknown(const char *name)
{
        const char *where = getenv(CLEAVE_ENV_DEBUG);
        int fd;

        if (!where || !*where)
                return;
        fd = strcmp(where, "2") == 0 ? fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)
                                     : open(where, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
                return;
        dprintf(fd,
                "cleave: the simulated GPU has no kernel '%s'; it runs those of "
                "tests/kernels/cleave.ptx\n",
                name);
        close(fd);
}

CUresult launch_new(struct sim_context *context, struct sim_green *green,
        const CUlaunchConfig *config, CUfunction handle, void **params, void **extra,
        struct work **ret)
{
        const struct ptx_entry *entry;
        struct function *function;
        struct launch *launch;
        struct work *work;
        CUresult r = function_of(handle, context, &function);

        if (r)
                return r;
        if (function->module->context != context)
                return CUDA_ERROR_INVALID_CONTEXT;
        entry = function->entry;
        if ((params && extra) || (!params && !extra && entry->n_params))
                return CUDA_ERROR_INVALID_VALUE;
        r = check_shape(function, config);
        if (r)
                return r;
        if (kernels_find(entry) < 0) {
                say_unknown(entry->name);
                return CUDA_ERROR_NOT_SUPPORTED;
        }
        work = work_new(context, WORK_KERNEL);
        if (!work)
                return CUDA_ERROR_OUT_OF_MEMORY;
        launch = &work->launch;
        pthread_mutex_lock(&exec_lock);
        module_ref(function->module);
        pthread_mutex_unlock(&exec_lock);
        launch->function = function;
        launch->handle = handle;
        launch->green = green;
        launch->grid[0] = config->gridDimX;
        launch->grid[1] = config->gridDimY;
        launch->grid[2] = config->gridDimZ;
        launch->block[0] = config->blockDimX;
        launch->block[1] = config->blockDimY;
        launch->block[2] = config->blockDimZ;
        launch->shared_bytes = config->sharedMemBytes;
        launch->params = calloc(1, entry->params_size + 1);
        launch->pointers = launch->params ? launch_pointers(entry, launch->params) : NULL;
        if (!launch->pointers)
                r = CUDA_ERROR_OUT_OF_MEMORY;
        else if (extra)
                r = read_extra(entry, extra, launch->params);
        for (unsigned i = 0; !r && params && i < entry->n_params; i++) {
                if (params[i])
                        memcpy(launch->pointers[i], params[i], entry->params[i].size);
                else
                        r = CUDA_ERROR_INVALID_VALUE;
        }
        if (!r)
                r = read_attributes(config, launch);
        if (!r && launch->cooperative) {
                uint64_t blocks = (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2];
                int threads = (int)(launch->block[0] * launch->block[1] * launch->block[2]);
                int per_sm = occupancy_blocks(function, threads, launch->shared_bytes);
                struct sim_sms sms = green_sms(green, context->device);

                if (blocks > (uint64_t)per_sm * sms_count(&sms))
                        r = CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
        }
        if (r) {
                pthread_mutex_lock(&exec_lock);
                work_free(work);
                pthread_mutex_unlock(&exec_lock);
                return r;
        }
        *ret = work;
        return CUDA_SUCCESS;
}

static CUresult launch(const char *entry, const CUlaunchConfig *config, CUfunction function,
        void **params, void **extra)
{
        struct stream *stream;
        struct work *work;
        CUresult r = exec_enter_stream(entry, config->hStream, &stream);

        if (!r)
                r = launch_new(stream->context, stream_green(stream), config, function, params,
                        extra, &work);
        if (r)
                return r;
        r = launch_prepare(&work->launch);
        if (r) {
                pthread_mutex_lock(&exec_lock);
                work_free(work);
                pthread_mutex_unlock(&exec_lock);
                return r;
        }
        return stream_submit(stream, work, false, NULL);
}

/* ---- entry points ---- */

CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y,
        unsigned int grid_z, unsigned int block_x, unsigned int block_y, unsigned int block_z,
        unsigned int shared_bytes, CUstream stream, void **params, void **extra)
{
        CUlaunchConfig config = {
                grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, NULL, 0};

        return launch(__func__, &config, function, params, extra);
}

CUresult cuLaunchKernelEx(
        const CUlaunchConfig *config, CUfunction function, void **params, void **extra)
{
        if (!config)
                return CUDA_ERROR_INVALID_VALUE;
        return launch(__func__, config, function, params, extra);
}

CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y,
        unsigned int grid_z, unsigned int block_x, unsigned int block_y, unsigned int block_z,
        unsigned int shared_bytes, CUstream stream, void **params)
{
        CUlaunchAttribute cooperative = {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE};
        CUlaunchConfig config = {grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes,
                stream, &cooperative, 1};

        cooperative.value.cooperative = 1;
        return launch(__func__, &config, function, params, NULL);
}

/* ---- launches as before CUDA 4: the function holds shape and parameters ---- */

static CUresult enter_function(const char *entry, CUfunction handle, struct function **ret)
{
        struct sim_context *context;
        CUresult r = exec_enter(entry, &context);

        return r ? r : function_of(handle, context, ret);
}

static CUresult set_param(struct function *function, int offset, const void *value, size_t bytes)
{
        size_t room = function->entry->params_size;

        if (offset < 0 || !value || (size_t)offset > room || bytes > room - (size_t)offset)
                return CUDA_ERROR_INVALID_VALUE;
        if (!function->params)
                function->params = calloc(1, room + 1);
        if (!function->params)
                return CUDA_ERROR_OUT_OF_MEMORY;
        memcpy(function->params + offset, value, bytes);
        return CUDA_SUCCESS;
}

CUresult cuFuncSetBlockShape(CUfunction handle, int x, int y, int z)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        if (r)
                return r;
        if (x <= 0 || y <= 0 || z <= 0)
                return CUDA_ERROR_INVALID_VALUE;
        function->block[0] = (unsigned)x;
        function->block[1] = (unsigned)y;
        function->block[2] = (unsigned)z;
        return CUDA_SUCCESS;
}

CUresult cuFuncSetSharedSize(CUfunction handle, unsigned int bytes)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        if (!r)
                function->shared = bytes;
        return r;
}

CUresult cuParamSetSize(CUfunction handle, unsigned int bytes)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        if (r)
                return r;
        if (bytes > function->entry->params_size + 7)
                return CUDA_ERROR_INVALID_VALUE;
        function->params_size = bytes;
        return CUDA_SUCCESS;
}

CUresult cuParamSeti(CUfunction handle, int offset, unsigned int value)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        return r ? r : set_param(function, offset, &value, sizeof(value));
}

CUresult cuParamSetf(CUfunction handle, int offset, float value)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        return r ? r : set_param(function, offset, &value, sizeof(value));
}

CUresult cuParamSetv(CUfunction handle, int offset, void *value, unsigned int bytes)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        return r ? r : set_param(function, offset, value, bytes);
}

CUresult cuParamSetTexRef(CUfunction handle, int unit, CUtexref reference)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        return r ? r : CUDA_ERROR_INVALID_VALUE;
}

static CUresult launch_old(
        const char *entry, CUfunction handle, int width, int height, CUstream stream)
{
        struct function *function;
        CUresult r = enter_function(entry, handle, &function);
        size_t size;
        void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, NULL, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                CU_LAUNCH_PARAM_END};
        CUlaunchConfig config = {.hStream = stream};

        if (r)
                return r;
        if (width <= 0 || height <= 0)
                return CUDA_ERROR_INVALID_VALUE;
        r = set_param(function, 0, &size, 0); /* so that there is a buffer */
        if (r)
                return r;
        extra[1] = function->params;
        size = function->params_size;
        config.gridDimX = (unsigned)width;
        config.gridDimY = (unsigned)height;
        config.gridDimZ = 1;
        config.blockDimX = function->block[0];
        config.blockDimY = function->block[1];
        config.blockDimZ = function->block[2];
        config.sharedMemBytes = function->shared;
        return launch(entry, &config, handle, NULL, extra);
}

CUresult cuLaunch(CUfunction function)
{
        return launch_old(__func__, function, 1, 1, NULL);
}

CUresult cuLaunchGrid(CUfunction function, int width, int height)
{
        return launch_old(__func__, function, width, height, NULL);
}

CUresult cuLaunchGridAsync(CUfunction function, int width, int height, CUstream stream)
{
        return launch_old(__func__, function, width, height, stream);
}
