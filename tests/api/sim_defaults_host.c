/* SPDX-License-Identifier: Apache-2.0 */
/* What src/sim gives the generated defaults, and one definition that overrides its default. */
#include <string.h>

#include "cuda_api.h"

CUresult sim_not_supported(const char *symbol);
void sim_per_thread_enter(void);
void sim_per_thread_leave(void);

static __thread int per_thread;

__attribute__((visibility("hidden"))) CUresult sim_not_supported(const char *symbol)
{
        return strncmp(symbol, "cu", 2) == 0 ? CUDA_ERROR_NOT_SUPPORTED : CUDA_ERROR_UNKNOWN;
}

__attribute__((visibility("hidden"))) void sim_per_thread_enter(void)
{
        per_thread++;
}

__attribute__((visibility("hidden"))) void sim_per_thread_leave(void)
{
        per_thread--;
}

CUresult cuStreamQuery(CUstream hStream)
{
        if (hStream == (CUstream)7)
                return per_thread ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
        return CUDA_ERROR_INVALID_HANDLE;
}
