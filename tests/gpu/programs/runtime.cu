/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program of the CUDA runtime, as nvcc builds it: with the runtime inside (its default), beside it,
 * or with a default stream per thread. Sees the quota, computes, is refused, goes on.
 *
 * usage: runtime QUOTA_MIB [WORD...]   QUOTA_MIB 0: the GPU is the quota
 *   hold    waits for a line of standard input while it holds memory
 *   fault   a kernel writes one element behind its block, for a memory checker
 */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>
#include <vector>

#define MIB  ((size_t)1 << 20)
#define STEP (256 * MIB)
#define N    (1 << 20)

static int checks;

static void check(bool condition, const char *what)
{
        if (!condition) {
                printf("FAILED: %s (%s)\n", what, cudaGetErrorString(cudaGetLastError()));
                exit(1);
        }
        checks++;
        printf("  ok: %s\n", what);
        fflush(stdout);
}

static void must(cudaError_t result, const char *what)
{
        if (result == cudaSuccess)
                return;
        printf("FAILED: %s: %s\n", what, cudaGetErrorString(result));
        exit(1);
}
#define MUST(call) must(call, #call)

__global__ void saxpy(float a, const float *x, float *y, int n)
{
        int i = blockIdx.x * blockDim.x + threadIdx.x;

        if (i < n)
                y[i] = a * x[i] + y[i];
}

__global__ void write_at(char *where, size_t index)
{
        where[index] = 1;
}

static bool works(cudaStream_t stream)
{
        std::vector<float> host(N);
        float *x, *y;

        for (int i = 0; i < N; i++)
                host[i] = (float)(i % 1000);
        MUST(cudaMallocAsync(&x, N * sizeof(float), stream));
        MUST(cudaMallocAsync(&y, N * sizeof(float), stream));
        MUST(cudaMemcpyAsync(x, host.data(), N * sizeof(float), cudaMemcpyHostToDevice, stream));
        MUST(cudaMemcpyAsync(y, host.data(), N * sizeof(float), cudaMemcpyHostToDevice, stream));
        saxpy<<<(N + 255) / 256, 256, 0, stream>>>(2, x, y, N);
        MUST(cudaGetLastError());
        MUST(cudaMemcpyAsync(host.data(), y, N * sizeof(float), cudaMemcpyDeviceToHost, stream));
        MUST(cudaFreeAsync(x, stream));
        MUST(cudaFreeAsync(y, stream));
        MUST(cudaStreamSynchronize(stream));
        for (int i = 0; i < N; i++)
                if (host[i] != 3.0f * (float)(i % 1000))
                        return false;
        return true;
}

static void until_refused(size_t quota)
{
        std::vector<void *> held;
        cudaError_t result;
        unsigned char last = 0;
        char said[128];
        void *block;

        while ((result = cudaMalloc(&block, STEP)) == cudaSuccess) {
                MUST(cudaMemset(block, 7, STEP));
                held.push_back(block);
                if (held.size() * STEP > quota)
                        break;
        }
        snprintf(said, sizeof(said), "beyond the quota, after %zu MiB: %s",
                held.size() * STEP / MIB, cudaGetErrorName(result));
        check(result == cudaErrorMemoryAllocation && held.size() > 0, said);
        check(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess,
                "the error is told once and is gone");
        MUST(cudaMemcpy(&last, (char *)held.back() + STEP - 1, 1, cudaMemcpyDeviceToHost));
        check(last == 7, "what it holds is what it wrote");
        for (void *each : held)
                MUST(cudaFree(each));
}

int main(int argc, char **argv)
{
        size_t quota = argc > 1 ? strtoull(argv[1], NULL, 10) * MIB : 0, free_bytes, total;
        bool hold = false, fault = false;
        cudaDeviceProp properties;
        cudaStream_t stream;
        char *block, line[16];
        int runtime, driver;

        for (int i = 2; i < argc; i++) {
                hold = hold || strcmp(argv[i], "hold") == 0;
                fault = fault || strcmp(argv[i], "fault") == 0;
        }
        MUST(cudaRuntimeGetVersion(&runtime));
        MUST(cudaDriverGetVersion(&driver));
        printf("  runtime of CUDA %d.%d, driver of %d.%d\n", runtime / 1000, runtime % 1000 / 10,
                driver / 1000, driver % 1000 / 10);
        MUST(cudaMemGetInfo(&free_bytes, &total));
        if (quota == 0)
                quota = total;
        check(total == quota && free_bytes < total, "cudaMemGetInfo shows the quota");
        MUST(cudaGetDeviceProperties(&properties, 0));
        check(properties.totalGlobalMem == quota, "so do the device's properties");
        MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        check(works(stream) && works(0), "a kernel is right, on a stream and on the default one");
        if (hold) {
                printf("holding %d\n", getpid());
                fflush(stdout);
                if (!fgets(line, sizeof(line), stdin))
                        return 1;
        }
        until_refused(quota);
        check(works(stream), "it goes on");
        MUST(cudaMallocManaged(&block, 64 * MIB));
        write_at<<<1, 1>>>(block, 5);
        MUST(cudaDeviceSynchronize());
        check(block[5] == 1, "managed memory is right");
        MUST(cudaFree(block));
        MUST(cudaMalloc(&block, 2 * STEP));
        check(true, "memory is to be had again");
        write_at<<<1, 1>>>(block, fault ? 2 * STEP : 2 * STEP - 1);
        MUST(cudaGetLastError());
        cudaDeviceSynchronize();
        cudaFree(block);
        printf("passed %d checks\n", checks);
        return 0;
}
