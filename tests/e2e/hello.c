/* SPDX-License-Identifier: Apache-2.0 */
/* The least that a CUDA program does: a context, some memory, the end. With an argument even less:
 * how much memory the GPU has. Exit status 0 if all of it worked. */
#include <dlfcn.h>
#include <stddef.h>

#include "cuda_api.h"

int main(int argc, char **argv)
{
        void *driver = dlopen("libcuda.so.1", RTLD_NOW);
        CUcontext context;
        CUdeviceptr block;
        size_t total;

        (void)argv;
        if (!driver)
                return 2;
#define ENTRY(name) __typeof__(&name) p_##name = (__typeof__(&name))dlsym(driver, #name)
        ENTRY(cuInit);
        ENTRY(cuDeviceTotalMem_v2);
        ENTRY(cuDevicePrimaryCtxRetain);
        ENTRY(cuCtxSetCurrent);
        ENTRY(cuMemAlloc_v2);
        ENTRY(cuMemFree_v2);
#undef ENTRY
        if (p_cuInit(0) || p_cuDeviceTotalMem_v2(&total, 0))
                return 1;
        if (argc > 1)
                return 0;
        if (p_cuDevicePrimaryCtxRetain(&context, 0) || p_cuCtxSetCurrent(context) ||
                p_cuMemAlloc_v2(&block, 1 << 20) || p_cuMemFree_v2(block))
                return 1;
        return 0;
}
