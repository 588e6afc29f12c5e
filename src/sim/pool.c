/* SPDX-License-Identifier: Apache-2.0 */
/* Memory pools and the stream-ordered allocator. */
#include "memory.h"

void pool_trim_device(struct sim_device *device)
{
}
void pool_forget_device(struct sim_device *device)
{
}
void sim_pool_relax(struct sim_device *device)
{
}
CUresult sim_pool_free(CUdeviceptr pointer)
{
        return CUDA_ERROR_INVALID_VALUE;
}
