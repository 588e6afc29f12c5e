/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program that measures for `cleave bench`: a CUDA program like any other, so that it can run
 * natively, as a tenant, or under a peer's library. It speaks the driver API of whatever
 * libcuda.so.1 it is given, and by default the device that this one calls 0.
 *
 * It prints a JSON object about itself, then reads commands, a line each: a name and its arguments,
 * separated by blanks. Each is answered with a JSON object on a line: figures, {"gap": SENTENCE}
 * where this GPU cannot show it, or {"error": SENTENCE} after which the process is of no more use.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda_api.h"

#define ENTRIES(X)                                                                                 \
        X(cuInit)                                                                                  \
        X(cuDriverGetVersion)                                                                      \
        X(cuGetErrorName)                                                                          \
        X(cuGetProcAddress_v2)                                                                     \
        X(cuDeviceGetCount)                                                                        \
        X(cuDeviceGetName)                                                                         \
        X(cuDeviceGetUuid_v2)                                                                      \
        X(cuDeviceGetAttribute)                                                                    \
        X(cuDevicePrimaryCtxRetain)                                                                \
        X(cuDeviceCanAccessPeer)                                                                   \
        X(cuCtxEnablePeerAccess)                                                                   \
        X(cuCtxSetCurrent)                                                                         \
        X(cuCtxGetCurrent)                                                                         \
        X(cuCtxSynchronize)                                                                        \
        X(cuModuleLoadData)                                                                        \
        X(cuModuleGetFunction)                                                                     \
        X(cuLaunchKernel)                                                                          \
        X(cuMemAlloc_v2)                                                                           \
        X(cuMemFree_v2)                                                                            \
        X(cuMemAllocAsync)                                                                         \
        X(cuMemFreeAsync)                                                                          \
        X(cuDeviceGetDefaultMemPool)                                                               \
        X(cuMemPoolSetAttribute)                                                                   \
        X(cuMemPoolTrimTo)                                                                         \
        X(cuMemHostAlloc)                                                                          \
        X(cuMemFreeHost)                                                                           \
        X(cuMemGetInfo_v2)                                                                         \
        X(cuMemcpyHtoD_v2)                                                                         \
        X(cuMemcpyDtoH_v2)                                                                         \
        X(cuMemcpyHtoDAsync_v2)                                                                    \
        X(cuMemcpyDtoHAsync_v2)                                                                    \
        X(cuMemcpyDtoDAsync_v2)                                                                    \
        X(cuMemcpyPeerAsync)                                                                       \
        X(cuMemsetD32Async)                                                                        \
        X(cuMemAddressReserve)                                                                     \
        X(cuMemAddressFree)                                                                        \
        X(cuMemCreate)                                                                             \
        X(cuMemRelease)                                                                            \
        X(cuMemMap)                                                                                \
        X(cuMemUnmap)                                                                              \
        X(cuMemSetAccess)                                                                          \
        X(cuArrayCreate_v2)                                                                        \
        X(cuArrayDestroy)                                                                          \
        X(cuStreamCreate)                                                                          \
        X(cuStreamDestroy_v2)                                                                      \
        X(cuStreamSynchronize)                                                                     \
        X(cuStreamWaitEvent)                                                                       \
        X(cuEventCreate)                                                                           \
        X(cuEventDestroy_v2)                                                                       \
        X(cuEventRecord)                                                                           \
        X(cuEventQuery)

#define X(name) extern __typeof__(&name) p_##name;
ENTRIES(X)
#undef X

enum kernel {
        KERNEL_EMPTY,
        KERNEL_FILL,
        KERNEL_ADD,
        KERNEL_READ,
        KERNEL_SPIN,
        KERNEL_TURNS,
        KERNEL_TRAP,
        KERNEL_RESIDENCY,
        KERNEL_CHASE,
        KERNEL_SOFTMAX,
        N_KERNELS,
};

struct gpu {
        CUcontext context;
        CUfunction kernel[N_KERNELS];
        char name[96];
        char uuid[2][48]; /* of the first two devices */
        int sms, driver, devices;
        size_t l2_bytes;
        size_t memory;       /* bytes, as the program is told */
        bool simulated;      /* runs the kernels named cleave_* only */
        CUdeviceptr scratch; /* a little memory whose contents do not matter */
        double init_ms;      /* from loading the library to the end of cuInit */
        double context_ms;   /* of the first context */
};

extern struct gpu gpu;

/* What a command returns. fail() and gap() keep the sentence and return these. */
enum { DONE = 0, FAILED = -1, GAP = 1 };

int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
int gap(const char *format, ...) __attribute__((format(printf, 1, 2)));
int fail_cuda(const char *what, CUresult result);

/* Leaves the function with FAILED when a CUDA call fails, as do other functions of a command. */
#define TRY(call)                                                                                  \
        do {                                                                                       \
                CUresult result_ = (call);                                                         \
                if (result_ != CUDA_SUCCESS)                                                       \
                        return fail_cuda(#call, result_);                                          \
        } while (0)
#define NEED(call)                                                                                 \
        do {                                                                                       \
                int need_ = (call);                                                                \
                if (need_ != DONE)                                                                 \
                        return need_;                                                              \
        } while (0)

/* Adds to the answer. A figure that is no number is said as null. */
void say(const char *name, double value);
void say_text(const char *name, const char *value);
void say_list(const char *name, const double *values, size_t n);
/* NAME_p50 and NAME_p99 of n values, which are sorted. unit: what is behind the name, as "_us". */
void say_spread(const char *name, const char *unit, double *values, size_t n);

/* Of sorted values; part 0.5 is the median. */
double quantile(const double *sorted, size_t n, double part);
void sort(double *values, size_t n);

uint64_t now_ns(void); /* CLOCK_MONOTONIC */
void sleep_until(uint64_t ns);

/* Loads the driver and makes the context. */
int gpu_start(void);
/* Blocks of 256 threads that fill the GPU. */
unsigned gpu_blocks(void);
/* Four times as many, for kernels that wait for memory: whichever ends first, another goes on. */
unsigned gpu_waves(void);
/* A kernel in the stream. parameters: pointers to them, as cuLaunchKernel takes them. */
int launch(enum kernel kernel, unsigned blocks, unsigned threads, CUstream stream, void **params);
/* Keeps the GPU's engine for that time, with one block. */
int launch_spin(uint64_t ns, CUstream stream);
/* Fills and reads a little memory and compares: whether this process's GPU still works. */
int gpu_check(void);

/* A kernel of ours, loaded into the current context, which need not be the first device's. */
int gpu_load(enum kernel kernel, CUfunction *ret);

/* The first two devices of this process, and what they tell each other; bench/worker/several.c.
 * Each has `from`, and room for twice as much at `to`; floats, the first device's 1 and the
 * second's 2. */
struct pair {
        CUcontext context[2];
        CUstream stream[2];
        CUdeviceptr from[2], to[2];
        CUfunction add[2]; /* on a simulated GPU */
        size_t bytes;
};
enum collective { ALL_REDUCE, ALL_GATHER, BROADCAST };

/* A gap where there is one device, or no NCCL; pair_close() is to be called then, too. They leave
 * some context current, pair_close() the first device's. */
int pair_open(struct pair *pair, size_t bytes);
/* Puts one into both streams. half: the numbers are bf16. */
int pair_submit(struct pair *pair, enum collective what, bool half);
int pair_wait(struct pair *pair);
int pair_close(struct pair *pair);

/* An array of n doubles; ends the process where there is no memory. */
double *doubles(size_t n);

struct command {
        const char *name;
        int least; /* number of arguments */
        int (*run)(int argc, char **argv);
};

extern const struct command call_commands[], work_commands[], memory_commands[], model_commands[],
        several_commands[];

/* One process of the command `swarm`: what it is started as. */
int swarm_member(int argc, char **argv);
