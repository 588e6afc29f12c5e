/* SPDX-License-Identifier: Apache-2.0 */
/* What cuGetProcAddress would resolve to. */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "cuda_api.h"
#include "cuda_names.h"

static void expect(const char *name, int version, uint64_t flags, const char *symbol, int status)
{
        int got = -1;
        int entry = cuda_entry_find(name, version, flags, &got);
        assert(got == status);
        if (!symbol)
                assert(entry == -ENOENT);
        else
                assert(entry >= 0 && strcmp(cuda_entry_name((unsigned)entry), symbol) == 0);
}

/* Against what a real driver answered. */
static void expect_measured(const char *path)
{
        char name[128], symbol[128], before[128] = "", symbol_before[128] = "", line[512];
        unsigned flags, flags_before = 0, count = 0;
        int version;
        FILE *f = fopen(path, "re");

        assert(f);
        while (fgets(line, sizeof(line), f)) {
                if (line[0] == '#')
                        continue;
                assert(sscanf(line, "%127s %u %d %127s", name, &flags, &version, symbol) == 4);
                bool same = strcmp(name, before) == 0 && flags == flags_before;
                if (!same && before[0])
                        expect(before, 13000, flags_before, symbol_before, 0);
                expect(name, version, flags, symbol, 0);
                expect(name, version - 1, flags, same ? symbol_before : NULL, same ? 0 : 2);
                strcpy(before, name);
                strcpy(symbol_before, symbol);
                flags_before = flags;
                count++;
        }
        fclose(f);
        expect(before, 13000, flags_before, symbol_before, 0);
        assert(count > 1000);
}

int main(int argc, char **argv)
{
        enum {
                OK = CU_GET_PROC_ADDRESS_SUCCESS,
                UNKNOWN = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND,
                YOUNG = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT,
                PER_THREAD = CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM,
        };
        expect("cuMemAlloc", 2000, 0, "cuMemAlloc", OK);
        expect("cuMemAlloc", 3010, 0, "cuMemAlloc", OK);
        expect("cuMemAlloc", 3020, 0, "cuMemAlloc_v2", OK);
        expect("cuMemAlloc", 13000, 1, "cuMemAlloc_v2", OK);
        expect("cuMemAlloc", 99000, PER_THREAD, "cuMemAlloc_v2", OK);
        expect("cuMemAlloc", 1990, 0, NULL, YOUNG);
        expect("cuMemAlloc", -1, 0, NULL, YOUNG);
        expect("cuMemAllocAsync", 11010, 0, NULL, YOUNG);
        expect("cuMemAllocAsync", 11020, 0, "cuMemAllocAsync", OK);
        expect("cuMemAllocAsync", 11020, PER_THREAD, "cuMemAllocAsync_ptsz", OK);
        expect("cuMemcpyHtoD", 6050, PER_THREAD, NULL, YOUNG);
        expect("cuMemcpyHtoD", 7000, PER_THREAD, "cuMemcpyHtoD_v2_ptds", OK);
        expect("cuMemcpyHtoD", 7000, 1, "cuMemcpyHtoD_v2", OK);
        expect("cuStreamGetCaptureInfo", 12020, PER_THREAD, "cuStreamGetCaptureInfo_v2_ptsz", OK);
        expect("cuStreamGetCaptureInfo", 12030, PER_THREAD, "cuStreamGetCaptureInfo_v3_ptsz", OK);
        expect("cuCtxCreate", 12040, 0, "cuCtxCreate_v3", OK);
        expect("cuGetProcAddress", 13000, 0, "cuGetProcAddress_v2", OK);
        expect("cuMemcpy", 13000, 3, "cuMemcpy_ptds", OK);
        expect("cuMemAlloc_v2", 13000, 0, NULL, UNKNOWN);
        expect("cuMemGetAttribute", 13000, 0, NULL, UNKNOWN);
        expect("cuNoSuchThing", 13000, 0, NULL, UNKNOWN);
        expect("", 13000, 0, NULL, UNKNOWN);

        assert(argc == 2);
        expect_measured(argv[1]);

        int status = 42;
        assert(cuda_entry_find("cuInit", 13000, 4, &status) == -EINVAL && status == 42);
        assert(cuda_entry_find("cuInit", 13000, UINT64_MAX, NULL) == -EINVAL);
        assert(cuda_entry_find("cuInit", 13000, 0, NULL) == CUDA_ENTRY_cuInit);

        for (unsigned i = 0; i < CUDA_ENTRY_COUNT; i++) {
                assert(cuda_entry_by_symbol(cuda_entry_name(i)) == (int)i);
                assert(cuda_class_name(cuda_entry_class(i)));
                assert(i == 0 || strcmp(cuda_entry_name(i - 1), cuda_entry_name(i)) < 0);
        }
        assert(cuda_entry_by_symbol("cuMemAlloc_v9") == -ENOENT);
        assert(cuda_entry_by_symbol("") == -ENOENT);
        assert(cuda_entry_class(CUDA_ENTRY_cuMemAllocManaged) == CUDA_CLASS_ALLOC);
        assert(cuda_entry_class(CUDA_ENTRY_cuLaunchKernel_ptsz) == CUDA_CLASS_LAUNCH);
        return 0;
}
