/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program of the driver API that is linked with -lcuda and compiles its kernel while it runs,
 * with NVRTC.
 *
 * usage: nvrtc QUOTA_MIB [hold]
 */
#include <cuda.h>
#include <nvrtc.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB  ((size_t)1 << 20)
#define STEP (256 * MIB)
#define MOST 4096

static int checks;

static void check(int condition, const char *what)
{
        if (!condition) {
                printf("FAILED: %s\n", what);
                exit(1);
        }
        checks++;
        printf("  ok: %s\n", what);
        fflush(stdout);
}

static void must(int result, const char *what)
{
        if (result == 0)
                return;
        printf("FAILED: %s: error %d\n", what, result);
        exit(1);
}
#define MUST(call) must((int)(call), #call)

static const char source[] =
        "extern \"C\" __global__ void fill(unsigned *p, unsigned long long n)\n"
        "{\n"
        "  unsigned long long i = blockIdx.x * 256ull + threadIdx.x;\n"
        "  for (; i < n; i += gridDim.x * 256ull) p[i] = (unsigned)i;\n"
        "}\n";

static CUfunction compile(CUdevice device)
{
        nvrtcProgram program;
        CUfunction function;
        CUmodule module;
        int major, minor;
        char architecture[32];
        const char *options[] = {architecture};
        size_t size;
        char *code;

        MUST(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
        MUST(cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device));
        snprintf(architecture, sizeof(architecture), "--gpu-architecture=sm_%d%d", major, minor);
        MUST(nvrtcCreateProgram(&program, source, "fill.cu", 0, NULL, NULL));
        MUST(nvrtcCompileProgram(program, 1, options));
        MUST(nvrtcGetCUBINSize(program, &size));
        code = malloc(size);
        if (!code)
                exit(1);
        MUST(nvrtcGetCUBIN(program, code));
        MUST(cuModuleLoadData(&module, code));
        MUST(cuModuleGetFunction(&function, module, "fill"));
        free(code);
        MUST(nvrtcDestroyProgram(&program));
        return function;
}

static int works(CUfunction function, size_t bytes)
{
        unsigned long long n = bytes / sizeof(unsigned);
        unsigned last = 0;
        CUdeviceptr block;
        void *arguments[] = {&block, &n};

        MUST(cuMemAlloc(&block, bytes));
        MUST(cuLaunchKernel(function, 512, 1, 1, 256, 1, 1, 0, NULL, arguments, NULL));
        MUST(cuMemcpyDtoH(&last, block + bytes - sizeof(last), sizeof(last)));
        MUST(cuMemFree(block));
        return last == (unsigned)(n - 1);
}

int main(int argc, char **argv)
{
        static CUdeviceptr held[MOST];
        size_t quota = argc > 1 ? strtoull(argv[1], NULL, 10) * MIB : 0, free_bytes, total;
        CUfunction function;
        CUcontext context;
        CUdevice device;
        CUresult result;
        char said[96], line[16];
        size_t n = 0;

        MUST(cuInit(0));
        MUST(cuDeviceGet(&device, 0));
        MUST(cuDevicePrimaryCtxRetain(&context, device));
        MUST(cuCtxSetCurrent(context));
        MUST(cuMemGetInfo(&free_bytes, &total));
        if (quota == 0)
                quota = total;
        check(total == quota && free_bytes < total, "cuMemGetInfo shows the quota");
        function = compile(device);
        check(works(function, STEP), "a kernel compiled by NVRTC is right");
        if (argc > 2) {
                printf("holding %d\n", getpid());
                fflush(stdout);
                if (!fgets(line, sizeof(line), stdin))
                        return 1;
        }
        do
                result = cuMemAlloc(&held[n], STEP);
        while (result == CUDA_SUCCESS && ++n < MOST && n * STEP <= quota);
        snprintf(said, sizeof(said), "beyond the quota, after %zu MiB: error %d", n * STEP / MIB,
                (int)result);
        check(result == CUDA_ERROR_OUT_OF_MEMORY && n > 0, said);
        while (n > 0)
                MUST(cuMemFree(held[--n]));
        check(works(function, 2 * STEP), "it goes on");
        printf("passed %d checks\n", checks);
        return 0;
}
