/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a CUDA program sees of its GPU, a fact a line:
 *
 *   probe [CUDA [NVML]]    names of the libraries to load
 *
 *   cuda TOTAL, nvml TOTAL      bytes of the first device, as either library tells them
 *   sms N                       its multiprocessors
 *   held BYTES, refused ERROR   what could be taken in steps of 256 MiB, and what ended it
 *   used BYTES, processes N     as NVML counts afterwards
 *   ready                       then it waits for the end of its standard input
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda_api.h"
#include "nvml_api.h"

#define STEP (256ull << 20)
#define MOST 4096

static void *load(const char *name)
{
        void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);

        if (!library) {
                printf("error %s\n", dlerror());
                exit(1);
        }
        return library;
}

static void *find(void *library, const char *symbol)
{
        void *address = dlsym(library, symbol);

        if (!address) {
                printf("error no %s\n", symbol);
                exit(1);
        }
        return address;
}
#define FIND(library, name) __typeof__(&name) p_##name = (__typeof__(&name))find(library, #name)

static void check(const char *what, int result)
{
        if (result == 0)
                return;
        printf("error %s %d\n", what, result);
        exit(1);
}

int main(int argc, char **argv)
{
        void *cuda = load(argc > 1 ? argv[1] : "libcuda.so.1");
        void *nvml = load(argc > 2 ? argv[2] : "libnvidia-ml.so.1");
        FIND(cuda, cuInit);
        FIND(cuda, cuDeviceGet);
        FIND(cuda, cuDeviceTotalMem_v2);
        FIND(cuda, cuDeviceGetAttribute);
        FIND(cuda, cuDevicePrimaryCtxRetain);
        FIND(cuda, cuCtxSetCurrent);
        FIND(cuda, cuMemAlloc_v2);
        FIND(nvml, nvmlInit_v2);
        FIND(nvml, nvmlDeviceGetHandleByIndex_v2);
        FIND(nvml, nvmlDeviceGetMemoryInfo);
        FIND(nvml, nvmlDeviceGetComputeRunningProcesses_v3);
        nvmlProcessInfo_t processes[64];
        unsigned int count = sizeof(processes) / sizeof(processes[0]);
        nvmlMemory_t memory;
        nvmlDevice_t handle;
        CUdeviceptr block;
        CUcontext context;
        CUdevice device;
        CUresult result = CUDA_SUCCESS;
        size_t total, held;
        int sms;

        setvbuf(stdout, NULL, _IOLBF, 0);
        check("cuInit", p_cuInit(0));
        check("cuDeviceGet", p_cuDeviceGet(&device, 0));
        check("cuDeviceTotalMem", p_cuDeviceTotalMem_v2(&total, device));
        printf("cuda %zu\n", total);
        check("cuDeviceGetAttribute",
                p_cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
        printf("sms %d\n", sms);
        check("nvmlInit", p_nvmlInit_v2());
        check("nvmlDeviceGetHandleByIndex", p_nvmlDeviceGetHandleByIndex_v2(0, &handle));
        check("nvmlDeviceGetMemoryInfo", p_nvmlDeviceGetMemoryInfo(handle, &memory));
        printf("nvml %llu\n", memory.total);
        check("cuDevicePrimaryCtxRetain", p_cuDevicePrimaryCtxRetain(&context, device));
        check("cuCtxSetCurrent", p_cuCtxSetCurrent(context));
        for (held = 0; held < MOST * STEP; held += STEP) {
                result = p_cuMemAlloc_v2(&block, STEP);
                if (result != CUDA_SUCCESS)
                        break;
        }
        printf("held %zu\nrefused %d\n", held, result);
        check("nvmlDeviceGetMemoryInfo", p_nvmlDeviceGetMemoryInfo(handle, &memory));
        printf("used %llu\n", memory.used);
        check("nvmlDeviceGetComputeRunningProcesses",
                p_nvmlDeviceGetComputeRunningProcesses_v3(handle, &count, processes));
        printf("processes %u\nready\n", count);
        while (getchar() != EOF)
                ;
        return 0;
}
