/* SPDX-License-Identifier: Apache-2.0 */
/* The guard's entry points: every argument survives the first call, which resolves, and the later
 * ones, which do not; the stack can be unwound from inside the resolver. */
#include <assert.h>
#include <unwind.h>

#include "cuda_guard_entries.h"

static unsigned resolved[CUDA_ENTRY_COUNT];
static int unwound;

/* More arguments than there are registers. */
static CUresult copy(CUdeviceptr *to, CUdeviceptr *from, size_t *sizes, size_t count,
        CUmemcpyAttributes *attributes, size_t *of, size_t n, size_t *failed, CUstream stream)
{
        assert(to == (CUdeviceptr *)8 && from == (CUdeviceptr *)16 && sizes == (size_t *)24);
        assert(count == 4 && attributes == (CUmemcpyAttributes *)32 && of == (size_t *)40);
        assert(n == 7 && failed == (size_t *)48 && stream == (CUstream)9);
        return CUDA_ERROR_LAUNCH_FAILED;
}

static CUresult clamp(CUtexref ref, float low, float high)
{
        assert(ref == (CUtexref)1 && low == 2.5f && high == -3.25f);
        return CUDA_ERROR_INVALID_HANDLE;
}

static CUresult open_handle(CUdeviceptr *ptr, CUipcMemHandle handle, unsigned int flags)
{
        for (unsigned i = 0; i < sizeof(handle.reserved); i++)
                assert(handle.reserved[i] == (char)i);
        assert(flags == 77);
        *ptr = 1234;
        return CUDA_SUCCESS;
}

static CUresult other(void)
{
        return CUDA_ERROR_NOT_SUPPORTED;
}

/* Uses what a callee may: every argument register, the whole of the vector ones. */
__attribute__((noinline)) static double spoil(long a, long b, long c, long d, long e, long f,
        double g, double h, double i, double j, double k, double l, double m, double n)
{
        __asm__ volatile("" ::: "memory");
        return (double)(a + b + c + d + e + f) + g + h + i + j + k + l + m + n;
}

static _Unwind_Reason_Code frame(struct _Unwind_Context *context, void *userdata)
{
        void *function = _Unwind_FindEnclosingFunction((void *)_Unwind_GetIP(context));
        if (function == userdata)
                unwound++;
        return _URC_NO_REASON;
}

static int run(void);

void *cleave_guard_resolve(unsigned entry)
{
        assert(entry < CUDA_ENTRY_COUNT);
        /* The compiler would answer a misaligned stack with a fault in here. */
        _Alignas(32) volatile char aligned[32] = {0};
        assert((size_t)aligned % 32 == 0);
        assert(spoil(-1, -2, -3, -4, -5, -6, .1, .2, .3, .4, .5, .6, .7, .8) < 0);
        resolved[entry]++;
        unwound = 0;
        _Unwind_Backtrace(frame, (void *)run);
        assert(unwound == 1);

        void *to = (void *)other;
        switch (entry) {
        case CUDA_ENTRY_cuMemcpyBatchAsync:
                to = (void *)copy;
                break;
        case CUDA_ENTRY_cuTexRefSetMipmapLevelClamp:
                to = (void *)clamp;
                break;
        case CUDA_ENTRY_cuIpcOpenMemHandle_v2:
                to = (void *)open_handle;
                break;
        }
        __atomic_store_n(&cleave_real[entry], to, __ATOMIC_RELAXED);
        return to;
}

__attribute__((noinline)) static int run(void)
{
        CUipcMemHandle handle;
        CUdeviceptr ptr = 0;

        for (unsigned i = 0; i < sizeof(handle.reserved); i++)
                handle.reserved[i] = (char)i;
        for (unsigned round = 0; round < 2; round++) {
                assert(cuMemcpyBatchAsync((CUdeviceptr *)8, (CUdeviceptr *)16, (size_t *)24, 4,
                               (CUmemcpyAttributes *)32, (size_t *)40, 7, (size_t *)48,
                               (CUstream)9) == CUDA_ERROR_LAUNCH_FAILED);
                assert(cuTexRefSetMipmapLevelClamp((CUtexref)1, 2.5f, -3.25f) ==
                        CUDA_ERROR_INVALID_HANDLE);
                assert(cuIpcOpenMemHandle_v2(&ptr, handle, 77) == CUDA_SUCCESS && ptr == 1234);
                assert(resolved[CUDA_ENTRY_cuMemcpyBatchAsync] == 1);
                assert(resolved[CUDA_ENTRY_cuTexRefSetMipmapLevelClamp] == 1);
                assert(resolved[CUDA_ENTRY_cuIpcOpenMemHandle_v2] == 1);
        }

        /* A slot's stub reaches the resolver with its own number; hooked entries have one too. */
        for (unsigned i = 0; i < CUDA_ENTRY_COUNT; i++) {
                CUresult (*call)(void) = (CUresult(*)(void))cleave_real[i];
                unsigned before = resolved[i];
                if (before)
                        continue;
                assert(call() == CUDA_ERROR_NOT_SUPPORTED);
                assert(resolved[i] == 1 && cleave_real[i] == (void *)other);
        }
        assert(CLEAVE_CUDA_REAL(cuCtxSynchronize)() == CUDA_ERROR_NOT_SUPPORTED);
        return 0;
}

int main(void)
{
        return run();
}
