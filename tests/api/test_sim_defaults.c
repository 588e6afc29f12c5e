/* SPDX-License-Identifier: Apache-2.0 */
/* A library made of the simulator's defaults: what it lacks is not supported, what it has
 * overrides, the per-thread variants reach the same code with the thread's flag set, and a
 * definition of the same name elsewhere in the process does not come between. */
#include <assert.h>

#include "cuda_api.h"

/* As a preloaded guard would. */
CUresult cuStreamGetFlags(CUstream hStream, unsigned int *flags)
{
        return CUDA_ERROR_UNKNOWN;
}

int main(void)
{
        unsigned flags;

        assert(cuMemAlloc_v2(NULL, 1) == CUDA_ERROR_NOT_SUPPORTED);
        assert(cuEGLApiInit() == CUDA_ERROR_NOT_SUPPORTED);
        assert(cuStreamQuery((CUstream)7) == CUDA_SUCCESS);
        assert(cuStreamQuery_ptsz((CUstream)7) == CUDA_ERROR_NOT_READY);
        assert(cuStreamQuery((CUstream)7) == CUDA_SUCCESS);
        assert(cuStreamQuery_ptsz(NULL) == CUDA_ERROR_INVALID_HANDLE);
        assert(cuStreamGetFlags(NULL, &flags) == CUDA_ERROR_UNKNOWN);
        assert(cuStreamGetFlags_ptsz(NULL, &flags) == CUDA_ERROR_NOT_SUPPORTED);
        return 0;
}
