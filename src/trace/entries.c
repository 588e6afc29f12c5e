/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_guard_entries.h"
#include "environment.h"
#include "guard.h"
#include "trace.h"

static struct guard_library behind = {
        .soname = "libcuda.so.1",
        .environment = CLEAVE_ENV_TRACE_BEHIND,
        .may_be_guard = true,
};

static CUresult not_supported(void)
{
        return CUDA_ERROR_NOT_SUPPORTED;
}

static CUresult no_driver(void)
{
        return CUDA_ERROR_NO_DEVICE;
}

void *cleave_guard_resolve(unsigned entry)
{
        void *address = guard_library_find(&behind, cuda_entry_name(entry));

        if (!address)
                address = entry == CUDA_ENTRY_cuInit && guard_library_load(&behind) < 0
                                  ? (void *)no_driver
                                  : (void *)not_supported;
        __atomic_store_n(&cleave_real[entry], address, __ATOMIC_RELAXED);
        return address;
}

/* The entry that the library behind has answered with. What it is by name, version and flags may be
 * newer than our description: so the answer itself is looked for. A function that is in no
 * description goes untraced. */
static void *ours(int entry, void *theirs)
{
        if (entry >= 0 && cleave_guard_resolve((unsigned)entry) == theirs)
                return cleave_entry_address((unsigned)entry);
        for (unsigned i = 0; i < CUDA_ENTRY_COUNT; i++)
                if (cleave_guard_resolve(i) == theirs)
                        return cleave_entry_address(i);
        return theirs;
}

void trace_look_up(unsigned entry, void *args)
{
        const char *symbol;
        cuuint64_t flags;
        int version;
        void **pfn;
        CUresult result;

        /* the _v2 has one parameter more, behind these */
        if (entry == CUDA_ENTRY_cuGetProcAddress) {
                const struct cuda_call_cuGetProcAddress *a = args;

                symbol = a->symbol, pfn = a->pfn, version = a->cudaVersion, flags = a->flags;
                result = a->returned;
        } else if (entry == CUDA_ENTRY_cuGetProcAddress_v2) {
                const struct cuda_call_cuGetProcAddress_v2 *a = args;

                symbol = a->symbol, pfn = a->pfn, version = a->cudaVersion, flags = a->flags;
                result = a->returned;
        } else {
                return;
        }
        if (result == CUDA_SUCCESS && symbol && pfn && *pfn)
                *pfn = ours(cuda_entry_find(symbol, version, flags, NULL), *pfn);
}
