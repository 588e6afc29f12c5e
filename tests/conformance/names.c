/* SPDX-License-Identifier: Apache-2.0 */
/* cuGetProcAddress: which entry a name, a version and flags lead to. */
#include <dlfcn.h>

#include "conformance.h"

static void *address(const char *name, int version, cuuint64_t flags, CUresult expected)
{
        CUdriverProcAddressQueryResult status = (CUdriverProcAddressQueryResult)99;
        void *entry = (void *)1;

        IS(expected, cu(cuGetProcAddress_v2)(name, &entry, version, flags, &status));
        if (expected == CUDA_SUCCESS)
                CHECK(entry && status == CU_GET_PROC_ADDRESS_SUCCESS);
        return entry;
}

/* Whether the address is that of the symbol, in whatever library it lies: a library that stands
 * before the driver may answer with its own or with the driver's. */
static bool is_entry(void *entry, const char *symbol)
{
        Dl_info info;
        void *library, *found;

        if (entry == find_entry(symbol))
                return true;
        if (!dladdr(entry, &info))
                return false;
        library = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
        if (!library)
                return false;
        found = dlsym(library, symbol);
        dlclose(library);
        return found == entry;
}

static void by_version(void)
{
        static const struct {
                const char *name;
                int version;
                const char *symbol;
        } table[] = {
                {"cuInit", 2000, "cuInit"},
                {"cuInit", 12000, "cuInit"},
                {"cuMemAlloc", 3020, "cuMemAlloc_v2"},
                {"cuMemAlloc", 13000, "cuMemAlloc_v2"},
                {"cuMemAlloc", 2000, "cuMemAlloc"},
                {"cuMemAlloc", 3010, "cuMemAlloc"},
                {"cuMemFree", 12000, "cuMemFree_v2"},
                {"cuCtxCreate", 2000, "cuCtxCreate"},
                {"cuCtxCreate", 3020, "cuCtxCreate_v2"},
                {"cuCtxCreate", 11040, "cuCtxCreate_v3"},
                {"cuCtxCreate", 12050, "cuCtxCreate_v4"},
                {"cuEventElapsedTime", 12000, "cuEventElapsedTime"},
                {"cuEventElapsedTime", 12080, "cuEventElapsedTime_v2"},
                {"cuDeviceGetUuid", 9020, "cuDeviceGetUuid"},
                {"cuDeviceGetUuid", 11040, "cuDeviceGetUuid_v2"},
                {"cuStreamBeginCapture", 10000, "cuStreamBeginCapture"},
                {"cuStreamBeginCapture", 10010, "cuStreamBeginCapture_v2"},
                {"cuStreamGetCaptureInfo", 10010, "cuStreamGetCaptureInfo"},
                {"cuStreamGetCaptureInfo", 11030, "cuStreamGetCaptureInfo_v2"},
                {"cuStreamGetCaptureInfo", 12030, "cuStreamGetCaptureInfo_v3"},
                {"cuGraphAddKernelNode", 10000, "cuGraphAddKernelNode"},
                {"cuGraphAddKernelNode", 12000, "cuGraphAddKernelNode_v2"},
                {"cuGetProcAddress", 11030, "cuGetProcAddress"},
                {"cuGetProcAddress", 12000, "cuGetProcAddress_v2"},
                {"cuDevicePrimaryCtxRelease", 7000, "cuDevicePrimaryCtxRelease"},
                {"cuDevicePrimaryCtxRelease", 11000, "cuDevicePrimaryCtxRelease_v2"},
                {"cuMemPrefetchAsync", 8000, "cuMemPrefetchAsync"},
                {"cuMemPrefetchAsync", 12020, "cuMemPrefetchAsync_v2"},
                {"cuLaunchKernel", 4000, "cuLaunchKernel"},
        };

        for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
                void *entry = address(table[i].name, table[i].version, 0, CUDA_SUCCESS);

                if (!is_entry(entry, table[i].symbol))
                        printf("# probe by_version: %s at %d is not %s\n", table[i].name,
                                table[i].version, table[i].symbol);
        }
}

static void by_flags(void)
{
        static const char *const names[][3] = {
                {"cuLaunchKernel", "cuLaunchKernel", "cuLaunchKernel_ptsz"},
                {"cuMemcpyHtoD", "cuMemcpyHtoD_v2", "cuMemcpyHtoD_v2_ptds"},
                {"cuMemcpyHtoDAsync", "cuMemcpyHtoDAsync_v2", "cuMemcpyHtoDAsync_v2_ptsz"},
                {"cuStreamSynchronize", "cuStreamSynchronize", "cuStreamSynchronize_ptsz"},
                {"cuMemsetD8", "cuMemsetD8_v2", "cuMemsetD8_v2_ptds"},
                {"cuMemAllocAsync", "cuMemAllocAsync", "cuMemAllocAsync_ptsz"},
                {"cuMemAlloc", "cuMemAlloc_v2", "cuMemAlloc_v2"},
        };

        for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
                CHECK(is_entry(
                        address(names[i][0], 12000, CU_GET_PROC_ADDRESS_DEFAULT, CUDA_SUCCESS),
                        names[i][1]));
                CHECK(is_entry(address(names[i][0], 12000, CU_GET_PROC_ADDRESS_LEGACY_STREAM,
                                       CUDA_SUCCESS),
                        names[i][1]));
                CHECK(is_entry(address(names[i][0], 12000,
                                       CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, CUDA_SUCCESS),
                        names[i][2]));
        }
}

static void not_found(void)
{
        CUdriverProcAddressQueryResult status = (CUdriverProcAddressQueryResult)99;
        void *entry = (void *)1;

        PROBE(CUDA_SUCCESS, cu(cuGetProcAddress_v2)("cuNothing", &entry, 12000, 0, &status));
        CHECK(entry == NULL);
        PROBE_VALUE(CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND, status);
        PROBE(CUDA_SUCCESS, cu(cuGetProcAddress_v2)("cuGraphCreate", &entry, 5000, 0, &status));
        PROBE_VALUE(CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT, status);
        PROBE(CUDA_SUCCESS, cu(cuGetProcAddress_v2)("cuMemAlloc_v2", &entry, 12000, 0, &status));
        PROBE_VALUE(CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND, status);
        OK(cu(cuGetProcAddress_v2)("", &entry, 12000, 0, &status));
        OK(cu(cuGetProcAddress_v2)("cuNothing", &entry, 12000, 0, NULL));
        PROBE(CUDA_ERROR_INVALID_VALUE,
                cu(cuGetProcAddress_v2)("cuInit", &entry, 12000, 99, &status));
        PROBE(CUDA_SUCCESS, cu(cuGetProcAddress_v2)("cuInit", &entry, 0, 0, &status));
        PROBE_VALUE(CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT, status);
        PROBE(CUDA_SUCCESS, cu(cuGetProcAddress_v2)("cuInit", &entry, 1000, 0, &status));
        PROBE_VALUE(CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT, status);
        entry = (void *)1;
        PROBE(CUDA_ERROR_NOT_FOUND, cu(cuGetProcAddress)("cuNothing", &entry, 12000, 0));
        OK(cu(cuGetProcAddress)("cuMemAlloc", &entry, 12000, 0));
        CHECK(is_entry(entry, "cuMemAlloc_v2"));
}

const struct test_case name_cases[] = {
        {"by_version", by_version, true},
        {"by_flags", by_flags, true},
        {"not_found", not_found, true},
        {NULL, NULL, false},
};
