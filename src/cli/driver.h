/* SPDX-License-Identifier: Apache-2.0 */
/* What can be learnt of the driver without the daemon. */
#pragma once

#include <stddef.h>

#define DRIVER_TEXT_MAX 96

struct driver_facts {
        char kernel[DRIVER_TEXT_MAX]; /* version of the kernel module; "": none is loaded */
        char libcuda[4096];           /* path of the library that a program gets; "": none */
        char libcuda_error[256];      /* why not */
        int cuda;                     /* as cuDriverGetVersion(): 13000 for 13.0; 0: unknown */
        char nvml[DRIVER_TEXT_MAX];   /* driver version by NVML; "": it does not answer */
        char nvml_error[256];         /* why not */
        unsigned devices;             /* by NVML */
};

/* Loads the driver's libraries into this process, but makes no context. */
void driver_facts(struct driver_facts *ret);

/* Version of the loaded kernel module into buffer, "" if there is none. */
void driver_kernel_version(char *buffer, size_t size);

/* CUDA version of the libcuda.so.1 of the normal search, or 0. */
int driver_cuda_version(void);
