/* SPDX-License-Identifier: Apache-2.0 */
/* Uses an entry that only the driver knows, then waits for the end of its standard input. */
#include <dlfcn.h>
#include <stdio.h>

#include "cuda_api.h"

int main(void)
{
        void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        __typeof__(&cuInit) init = library ? (__typeof__(&cuInit))dlsym(library, "cuInit") : NULL;
        __typeof__(&cuGetProcAddress_v2) look_up;
        CUresult (*thing)(int *) = NULL;
        int answer = 0;

        if (!init || init(0) != CUDA_SUCCESS)
                return 1;
        look_up = (__typeof__(&cuGetProcAddress_v2))dlsym(library, "cuGetProcAddress_v2");
        /* twice: a name is listed once */
        for (int i = 0; i < 2; i++)
                if (look_up("cuFutureThing", (void **)&thing, 14000, 0, NULL) != CUDA_SUCCESS ||
                        !thing)
                        return 2;
        if (thing(&answer) != CUDA_SUCCESS)
                return 3;
        printf("answer %d\nready\n", answer);
        fflush(stdout);
        while (getchar() != EOF)
                ;
        return 0;
}
