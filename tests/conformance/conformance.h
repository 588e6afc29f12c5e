/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cases that say how the CUDA driver API behaves. They run unchanged on the simulated GPU and on a
 * real driver, and know nothing but the library's name.
 *
 * Each case runs in a process of its own, so that a broken context, or a driver that takes a bad
 * handle for a pointer, ends one case only.
 */
#pragma once

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_api.h"

struct test_case {
        const char *name;
        void (*run)(void);
        bool bare; /* without cuInit and a context */
};

extern const struct test_case context_cases[], memory_cases[], pool_cases[], stream_cases[],
        module_cases[], graph_cases[], capture_cases[], process_cases[], name_cases[];

/* PTX of the kernels, NUL-terminated. */
extern const char kernels_ptx[];

/* The device, and the primary context, which is current (not in bare cases). */
extern CUdevice device;
extern CUcontext context;

/* An entry by its symbol's name; a driver that lacks it skips the case. */
void *find_entry(const char *name);
#define cu(name)                                                                                   \
        ({                                                                                         \
                static __typeof__(&name) entry_;                                                   \
                __typeof__(&name) found_ = __atomic_load_n(&entry_, __ATOMIC_RELAXED);             \
                                                                                                   \
                if (!found_) {                                                                     \
                        found_ = (__typeof__(&name))find_entry(#name);                             \
                        __atomic_store_n(&entry_, found_, __ATOMIC_RELAXED);                       \
                }                                                                                  \
                found_;                                                                            \
        })

const char *result_name(CUresult r);
void failed(const char *file, int line, const char *format, ...)
        __attribute__((format(printf, 3, 4), noreturn));
void probed(const char *file, int line, const char *what, long expected, const char *expected_name,
        long seen, const char *seen_name);
void skip(const char *why) __attribute__((noreturn));

/* The call must answer so. */
#define IS(expected, call)                                                                         \
        do {                                                                                       \
                CUresult expected_ = (expected), seen_ = (call);                                   \
                if (seen_ != expected_)                                                            \
                        failed(__FILE__, __LINE__, "%s: %s, not %s", #call, result_name(seen_),    \
                                result_name(expected_));                                           \
        } while (0)
#define OK(call) IS(CUDA_SUCCESS, call)
#define CHECK(condition)                                                                           \
        do {                                                                                       \
                if (!(condition))                                                                  \
                        failed(__FILE__, __LINE__, "%s", #condition);                              \
        } while (0)
/* What the simulated GPU answers; how the real driver does is not certain, and is printed. */
#define PROBE(expected, call)                                                                      \
        do {                                                                                       \
                CUresult expected_ = (expected), seen_ = (call);                                   \
                probed(__FILE__, __LINE__, #call, expected_, result_name(expected_), seen_,        \
                        result_name(seen_));                                                       \
        } while (0)
#define PROBE_VALUE(expected, value) probed(__FILE__, __LINE__, #value, expected, NULL, value, NULL)

/* ---- what many cases need ---- */

CUmodule load_kernels(void);
CUfunction kernel(CUmodule module, const char *name);
/* One block of one thread. */
CUresult launch_one(CUfunction function, CUstream stream, void **params);
/* A kernel that occupies the stream until *flag is 1; the flag is mapped host memory. */
struct gate {
        volatile uint32_t *flag;
        CUdeviceptr pointer;
};
struct gate gate_new(void);
void gate_shut(struct gate *gate, CUmodule module, CUstream stream);
void gate_open(struct gate *gate);
/* A buffer of count words, each value. */
CUdeviceptr words_new(size_t count, uint32_t value);
bool words_are(CUdeviceptr pointer, size_t count, uint32_t value);
uint64_t now_ns(void);
size_t free_memory(void);
