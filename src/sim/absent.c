/* SPDX-License-Identifier: Apache-2.0 */
/* What execution will define; the library can be linked without it until then. */
#include "driver.h"

__attribute__((visibility("hidden"))) void sim_per_thread_enter(void);
__attribute__((visibility("hidden"))) void sim_per_thread_leave(void);

__attribute__((weak)) void sim_per_thread_enter(void)
{
}

__attribute__((weak)) void sim_per_thread_leave(void)
{
}

__attribute__((weak)) struct sim_pool *sim_pool_graph(struct sim_device *device)
{
        return NULL;
}

__attribute__((weak)) CUresult sim_pool_alloc(struct sim_pool *pool, size_t bytes, CUdeviceptr *ret)
{
        return CUDA_ERROR_NOT_SUPPORTED;
}

__attribute__((weak)) uint64_t sim_pool_reserved(struct sim_pool *pool)
{
        return 0;
}

__attribute__((weak)) void sim_pool_trim(struct sim_pool *pool, uint64_t keep)
{
}

__attribute__((weak)) CUresult sim_array_of(CUarray handle, struct sim_array **ret)
{
        return CUDA_ERROR_INVALID_HANDLE;
}

__attribute__((weak)) CUresult exec_context_init(struct sim_context *context)
{
        return CUDA_SUCCESS;
}

__attribute__((weak)) void exec_context_done(struct sim_context *context)
{
}

__attribute__((weak)) CUresult exec_synchronize(struct sim_context *context)
{
        return CUDA_SUCCESS;
}
