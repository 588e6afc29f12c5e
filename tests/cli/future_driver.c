/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated driver, a version later: it has an entry that nobody has described yet. */
#include <string.h>

#include "cuda_api.h"

CUresult cuFutureThing_v2(int *answer);

__attribute__((visibility("default"))) CUresult cuFutureThing_v2(int *answer)
{
        *answer = 42;
        return CUDA_SUCCESS;
}

CUresult future_look_up(const char *symbol, void **pfn, int version, cuuint64_t flags,
        CUdriverProcAddressQueryResult *status);

/* Made cuGetProcAddress_v2 by the linker; the simulator's own cuGetProcAddress serves all other
 * names. */
CUresult future_look_up(const char *symbol, void **pfn, int version, cuuint64_t flags,
        CUdriverProcAddressQueryResult *status)
{
        if (symbol && strcmp(symbol, "cuFutureThing") == 0) {
                *pfn = (void *)cuFutureThing_v2;
                if (status)
                        *status = CU_GET_PROC_ADDRESS_SUCCESS;
                return CUDA_SUCCESS;
        }
        return cuGetProcAddress(symbol, pfn, version, flags);
}
