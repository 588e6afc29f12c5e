/* SPDX-License-Identifier: Apache-2.0 */
/* Starting the driver, finding its entry points, and what holds for every call. */
#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include "client.h"
#include "cuda_names.h"
#include "device.h"
#include "faults.h"
#include "kernel.h"
#include "memory.h"
#include "models.h"

enum {
        STATE_NONE,
        STATE_READY,
        STATE_CHILD, /* of a process that had started it: nothing of it works here */
};

_Atomic int sim_faults_active;

static _Atomic int state;
static pthread_mutex_t init_mutex = PTHREAD_MUTEX_INITIALIZER;

/* ---- every call ---- */

CUresult sim_ready(void)
{
        if (atomic_load_explicit(&state, memory_order_acquire) != STATE_READY)
                return CUDA_ERROR_NOT_INITIALIZED;
        return exec_in_callback() ? CUDA_ERROR_NOT_PERMITTED : CUDA_SUCCESS;
}

CUresult sim_fault(const char *entry)
{
        int lost, code = sim_faults_call(entry, &lost);

        if (lost >= 0 && kernel_state() && (uint32_t)lost < kernel_state()->devices)
                atomic_store(&kernel_state()->device[lost].lost, 1);
        return (CUresult)code;
}

void sim_delay(uint64_t nanoseconds)
{
        sim_faults_delay(nanoseconds);
}

/* Called by the entry points that nobody defines. */
__attribute__((visibility("hidden"))) CUresult sim_not_supported(const char *symbol);
CUresult sim_not_supported(const char *symbol)
{
        CUresult r = sim_enter(symbol);

        return r ? r : CUDA_ERROR_NOT_SUPPORTED;
}

int sim_directory(void)
{
        return kernel_directory_fd();
}

/* Faults apply before cuInit too. */
__attribute__((constructor)) static void read_faults(void)
{
        if (sim_faults_load() == 0 && sim_faults_any_call())
                atomic_store(&sim_faults_active, 1);
}

/* ---- starting ---- */

static void child_of_fork(void)
{
        if (atomic_load(&state) == STATE_READY)
                atomic_store(&state, STATE_CHILD);
        pthread_mutex_init(&init_mutex, NULL);
}

static CUresult start(void)
{
        CUresult r;

        if (kernel_open() < 0)
                return CUDA_ERROR_NO_DEVICE;
        if (kernel_attach() < 0)
                return CUDA_ERROR_OPERATING_SYSTEM;
        if (region_open() < 0)
                return CUDA_ERROR_OUT_OF_MEMORY;
        r = client_open();
        if (!r)
                r = contexts_open();
        if (!r)
                r = devices_open();
        if (!r && pthread_atfork(NULL, NULL, child_of_fork))
                r = CUDA_ERROR_OUT_OF_MEMORY;
        return r;
}

CUresult cuInit(unsigned int Flags)
{
        static CUresult result = CUDA_ERROR_NOT_INITIALIZED;
        CUresult r = sim_enter_early(__func__);

        if (r)
                return r;
        if (Flags)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&init_mutex);
        if (atomic_load(&state) == STATE_CHILD) {
                r = CUDA_ERROR_NOT_INITIALIZED;
        } else {
                /* what fails once fails ever after, as in the real driver */
                if (result == CUDA_ERROR_NOT_INITIALIZED) {
                        result = start();
                        if (result == CUDA_SUCCESS)
                                atomic_store_explicit(&state, STATE_READY, memory_order_release);
                }
                r = result;
        }
        pthread_mutex_unlock(&init_mutex);
        return r;
}

CUresult cuDriverGetVersion(int *driverVersion)
{
        CUresult r = sim_enter_early(__func__);

        if (r)
                return r;
        if (!driverVersion)
                return CUDA_ERROR_INVALID_VALUE;
        *driverVersion = SIM_DRIVER_VERSION;
        return CUDA_SUCCESS;
}

/* ---- entry points ---- */

static void *own_handle;

static void find_own_handle(void)
{
        Dl_info info;

        if (dladdr((void *)find_own_handle, &info))
                own_handle = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
}

static void *entry_address(int entry)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;

        pthread_once(&once, find_own_handle);
        return own_handle ? dlsym(own_handle, cuda_entry_name((unsigned)entry)) : NULL;
}

static CUresult get_address(
        const char *symbol, void **pfn, int version, cuuint64_t flags, int *ret_status)
{
        void *address = NULL;
        int entry;

        if (!symbol || !pfn)
                return CUDA_ERROR_INVALID_VALUE;
        *ret_status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
        entry = cuda_entry_find(symbol, version, flags, ret_status);
        if (entry == -EINVAL)
                return CUDA_ERROR_INVALID_VALUE;
        if (entry >= 0 && sim_faults_missing(cuda_entry_name((unsigned)entry)))
                entry = -ENOENT;
        if (entry >= 0)
                address = entry_address(entry);
        if (!address && *ret_status == CU_GET_PROC_ADDRESS_SUCCESS)
                *ret_status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
        *pfn = address;
        return address ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags)
{
        int status;
        CUresult r = sim_enter_early(__func__);

        return r ? r : get_address(symbol, pfn, cudaVersion, flags, &status);
}

CUresult cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
        CUdriverProcAddressQueryResult *symbolStatus)
{
        int status;
        CUresult r = sim_enter_early(__func__);

        if (r)
                return r;
        r = get_address(symbol, pfn, cudaVersion, flags, &status);
        if (r == CUDA_ERROR_INVALID_VALUE)
                return r;
        if (symbolStatus)
                *symbolStatus = (CUdriverProcAddressQueryResult)status;
        return CUDA_SUCCESS; /* the status, or the address, says the rest */
}

/* The tables are the real driver's private interface; we have none of them. */
CUresult cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId)
{
        CUresult r = sim_enter_early(__func__);

        if (r)
                return r;
        if (!ppExportTable || !pExportTableId)
                return CUDA_ERROR_INVALID_VALUE;
        *ppExportTable = NULL;
        return CUDA_ERROR_NOT_FOUND;
}

/* ---- what has nothing to do here ---- */

static CUresult nothing(const char *entry)
{
        struct sim_context *context;
        CUresult r = sim_enter(entry);

        return r ? r : sim_current(&context);
}

CUresult cuProfilerStart(void)
{
        return nothing(__func__);
}

CUresult cuProfilerStop(void)
{
        return nothing(__func__);
}

/* Writes are seen in the order in which they are made. */
CUresult cuFlushGPUDirectRDMAWrites(
        CUflushGPUDirectRDMAWritesTarget target, CUflushGPUDirectRDMAWritesScope scope)
{
        return nothing(__func__);
}

/* ---- errors ---- */

#define ERRORS(X)                                                                                  \
        X(CUDA_SUCCESS, "no error")                                                                \
        X(CUDA_ERROR_INVALID_VALUE, "invalid argument")                                            \
        X(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")                                               \
        X(CUDA_ERROR_NOT_INITIALIZED, "initialization error")                                      \
        X(CUDA_ERROR_DEINITIALIZED, "driver shutting down")                                        \
        X(CUDA_ERROR_PROFILER_DISABLED, "profiler disabled while using external profiling tool")   \
        X(CUDA_ERROR_PROFILER_NOT_INITIALIZED,                                                     \
                "profiler not initialized: call cudaProfilerInitialize()")                         \
        X(CUDA_ERROR_PROFILER_ALREADY_STARTED, "profiler already started")                         \
        X(CUDA_ERROR_PROFILER_ALREADY_STOPPED, "profiler already stopped")                         \
        X(CUDA_ERROR_STUB_LIBRARY, "CUDA driver is a stub library")                                \
        X(CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER,                                                   \
                "CUDA driver version is insufficient for CUDA runtime version")                    \
        X(CUDA_ERROR_DEVICE_UNAVAILABLE, "CUDA-capable device(s) is/are busy or unavailable")      \
        X(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")                              \
        X(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal")                                     \
        X(CUDA_ERROR_DEVICE_NOT_LICENSED, "device doesn't have valid Grid license")                \
        X(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid")                              \
        X(CUDA_ERROR_INVALID_CONTEXT, "invalid device context")                                    \
        X(CUDA_ERROR_CONTEXT_ALREADY_CURRENT, "context already current")                           \
        X(CUDA_ERROR_MAP_FAILED, "mapping of buffer object failed")                                \
        X(CUDA_ERROR_UNMAP_FAILED, "unmapping of buffer object failed")                            \
        X(CUDA_ERROR_ARRAY_IS_MAPPED, "array is mapped")                                           \
        X(CUDA_ERROR_ALREADY_MAPPED, "resource already mapped")                                    \
        X(CUDA_ERROR_NO_BINARY_FOR_GPU,                                                            \
                "no kernel image is available for execution on the device")                        \
        X(CUDA_ERROR_ALREADY_ACQUIRED, "resource already acquired")                                \
        X(CUDA_ERROR_NOT_MAPPED, "resource not mapped")                                            \
        X(CUDA_ERROR_NOT_MAPPED_AS_ARRAY, "resource not mapped as array")                          \
        X(CUDA_ERROR_NOT_MAPPED_AS_POINTER, "resource not mapped as pointer")                      \
        X(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered")                     \
        X(CUDA_ERROR_UNSUPPORTED_LIMIT, "limit is not supported on this architecture")             \
        X(CUDA_ERROR_CONTEXT_ALREADY_IN_USE,                                                       \
                "exclusive-thread device already in use by a different thread")                    \
        X(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED,                                                      \
                "peer access is not supported between these two devices")                          \
        X(CUDA_ERROR_INVALID_PTX, "a PTX JIT compilation failed")                                  \
        X(CUDA_ERROR_INVALID_GRAPHICS_CONTEXT, "invalid OpenGL or DirectX context")                \
        X(CUDA_ERROR_NVLINK_UNCORRECTABLE,                                                         \
                "uncorrectable NVLink error detected during the execution")                        \
        X(CUDA_ERROR_JIT_COMPILER_NOT_FOUND, "PTX JIT compiler library not found")                 \
        X(CUDA_ERROR_UNSUPPORTED_PTX_VERSION,                                                      \
                "the provided PTX was compiled with an unsupported toolchain.")                    \
        X(CUDA_ERROR_JIT_COMPILATION_DISABLED, "PTX JIT compilation was disabled")                 \
        X(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY,                                                    \
                "the provided execution affinity is not supported")                                \
        X(CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC,                                                     \
                "the provided PTX contains unsupported call to cudaDeviceSynchronize")             \
        X(CUDA_ERROR_CONTAINED,                                                                    \
                "Invalid access of peer GPU memory over nvlink or a hardware error")               \
        X(CUDA_ERROR_INVALID_SOURCE, "device kernel image is invalid")                             \
        X(CUDA_ERROR_FILE_NOT_FOUND, "file not found")                                             \
        X(CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND, "shared object symbol not found")             \
        X(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, "shared object initialization failed")             \
        X(CUDA_ERROR_OPERATING_SYSTEM, "OS call failed or operation not supported on this OS")     \
        X(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle")                                    \
        X(CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state")      \
        X(CUDA_ERROR_LOSSY_QUERY, "attempted introspection would be semantically lossy")           \
        X(CUDA_ERROR_NOT_FOUND, "named symbol not found")                                          \
        X(CUDA_ERROR_NOT_READY, "device not ready")                                                \
        X(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")                  \
        X(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch")           \
        X(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated")                    \
        X(CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING, "launch uses incompatible texturing mode")     \
        X(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "peer access is already enabled")                \
        X(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "peer access has not been enabled")                  \
        X(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE, "cannot set while device is active in this process")  \
        X(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed")                                 \
        X(CUDA_ERROR_ASSERT, "device-side assert triggered")                                       \
        X(CUDA_ERROR_TOO_MANY_PEERS, "peer mapping resources exhausted")                           \
        X(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,                                               \
                "part or all of the requested memory range is already mapped")                     \
        X(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,                                                   \
                "pointer does not correspond to a registered memory region")                       \
        X(CUDA_ERROR_HARDWARE_STACK_ERROR, "hardware stack error")                                 \
        X(CUDA_ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction was encountered")                \
        X(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address")                                     \
        X(CUDA_ERROR_INVALID_ADDRESS_SPACE,                                                        \
                "operation not supported on global/shared address space")                          \
        X(CUDA_ERROR_INVALID_PC, "invalid program counter")                                        \
        X(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure")                                  \
        X(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "too many blocks in cooperative launch")        \
        X(CUDA_ERROR_TENSOR_MEMORY_LEAK, "tensor memory not completely freed")                     \
        X(CUDA_ERROR_NOT_PERMITTED, "operation not permitted")                                     \
        X(CUDA_ERROR_NOT_SUPPORTED, "operation not supported")                                     \
        X(CUDA_ERROR_SYSTEM_NOT_READY, "system not yet initialized")                               \
        X(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,                                                       \
                "system has unsupported display driver / cuda driver combination")                 \
        X(CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE,                                               \
                "forward compatibility was attempted on non supported HW")                         \
        X(CUDA_ERROR_MPS_CONNECTION_FAILED,                                                        \
                "MPS client failed to connect to the MPS control daemon or the MPS server")        \
        X(CUDA_ERROR_MPS_RPC_FAILURE,                                                              \
                "the remote procedural call between the MPS server and the MPS client failed")     \
        X(CUDA_ERROR_MPS_SERVER_NOT_READY,                                                         \
                "MPS server is not ready to accept new MPS client requests")                       \
        X(CUDA_ERROR_MPS_MAX_CLIENTS_REACHED,                                                      \
                "the hardware resources required to create MPS client have been exhausted")        \
        X(CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED, "the hardware resources required to support "    \
                                                  "device connections have been exhausted")        \
        X(CUDA_ERROR_MPS_CLIENT_TERMINATED, "the MPS client has been terminated by the server")    \
        X(CUDA_ERROR_CDP_NOT_SUPPORTED, "is using CUDA Dynamic Parallelism, but the current "      \
                                        "configuration, like MPS, does not support it")            \
        X(CUDA_ERROR_CDP_VERSION_MISMATCH,                                                         \
                "unsupported interaction between different versions of CUDA Dynamic Parallelism")  \
        X(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,                                                   \
                "operation not permitted when stream is capturing")                                \
        X(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,                                                   \
                "operation failed due to a previous error during capture")                         \
        X(CUDA_ERROR_STREAM_CAPTURE_MERGE,                                                         \
                "operation would result in a merge of separate capture sequences")                 \
        X(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,                                                     \
                "capture was not ended in the same stream as it began")                            \
        X(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work")                \
        X(CUDA_ERROR_STREAM_CAPTURE_ISOLATION,                                                     \
                "dependency created on uncaptured work in another stream")                         \
        X(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,                                                      \
                "operation would make the legacy stream depend on a capturing blocking stream")    \
        X(CUDA_ERROR_CAPTURED_EVENT,                                                               \
                "operation not permitted on an event last recorded in a capturing stream")         \
        X(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,                                                  \
                "attempt to terminate a thread-local capture sequence from another thread")        \
        X(CUDA_ERROR_TIMEOUT, "wait operation timed out")                                          \
        X(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE,                                                    \
                "the graph update was not performed because it included changes which violated "   \
                "constraints specific to instantiated graph update")                               \
        X(CUDA_ERROR_EXTERNAL_DEVICE,                                                              \
                "an async error has occured in external entity outside of CUDA")                   \
        X(CUDA_ERROR_INVALID_CLUSTER_SIZE,                                                         \
                "a kernel launch error has occurred due to cluster misconfiguration")              \
        X(CUDA_ERROR_FUNCTION_NOT_LOADED, "the function handle is not loaded when calling an API " \
                                          "that requires a loaded function")                       \
        X(CUDA_ERROR_INVALID_RESOURCE_TYPE,                                                        \
                "one or more resources passed in are not valid resource types for the operation")  \
        X(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION,                                               \
                "one or more resources are insufficient or non-applicable for the operation")      \
        X(CUDA_ERROR_KEY_ROTATION, "an error happened during the key rotation sequence")           \
        X(CUDA_ERROR_UNKNOWN, "unknown error")

static CUresult describe(CUresult error, const char **ret_name, const char **ret_text)
{
        switch (error) {
#define X(code, text)                                                                              \
        case code:                                                                                 \
                *ret_name = #code;                                                                 \
                *ret_text = text;                                                                  \
                return CUDA_SUCCESS;
                ERRORS(X)
#undef X
        default:
                *ret_name = *ret_text = NULL;
                return CUDA_ERROR_INVALID_VALUE;
        }
}

CUresult cuGetErrorName(CUresult error, const char **pStr)
{
        const char *text;

        return pStr ? describe(error, pStr, &text) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char **pStr)
{
        const char *name;

        return pStr ? describe(error, &name, pStr) : CUDA_ERROR_INVALID_VALUE;
}
