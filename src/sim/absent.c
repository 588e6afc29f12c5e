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
