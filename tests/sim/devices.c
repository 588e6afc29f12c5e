/* SPDX-License-Identifier: Apache-2.0 */
/* What devices say of themselves, several of them, and finding entry points. */
#include "check.h"

#include <dlfcn.h>

static int attribute(CUdevice device, CUdevice_attribute which)
{
        int value = -12345;

        OK(cuDeviceGetAttribute(&value, which, device));
        return value;
}

/* What is known of an H100 80GB HBM3. */
static void test_h100(void)
{
        char name[100], tiny[5];
        size_t bytes;
        int version;

        OK(cuDriverGetVersion(&version));
        CHECK_EQ(version, 13000);
        OK(cuDeviceGetName(name, sizeof(name), 0));
        CHECK(!strcmp(name, "NVIDIA H100 80GB HBM3"));
        OK(cuDeviceGetName(tiny, sizeof(tiny), 0));
        CHECK(!strcmp(tiny, "NVID"));
        OK(cuDeviceTotalMem_v2(&bytes, 0));
        CHECK_EQ(bytes, 81079 * MIB);
        CHECK_EQ(attribute(0, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
        CHECK_EQ(attribute(0, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR), 9);
        CHECK_EQ(attribute(0, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR), 0);
        CHECK_EQ(attribute(0, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 1024);
        CHECK_EQ(attribute(0, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR), 2048);
        CHECK_EQ(attribute(0, CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
        CHECK_EQ(attribute(0, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE), 52428800);
        CHECK_EQ(attribute(0, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 232448);
        CHECK_EQ(attribute(0, CU_DEVICE_ATTRIBUTE_CLOCK_RATE), 1980000);
        CHECK_EQ(attribute(0, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED), 1);
        CHECK_EQ(attribute(0, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED), 1);
        for (int i = 1; i < 148; i++)
                attribute(0, (CUdevice_attribute)i);
}

static void test_nvml(void)
{
        nvmlMemory_v2_t memory2 = {.version = nvmlMemory_v2};
        char text[96], tiny[10];
        nvmlMemory_t memory;
        nvmlDevice_t device, same;
        nvmlPciInfo_t pci;
        unsigned int n;
        int major, minor;

        device = nvml_device(0);
        CHECK_EQ(nvmlDeviceGetMemoryInfo(device, &memory), NVML_SUCCESS);
        CHECK_EQ(memory.total, 81559 * MIB);
        CHECK_EQ(memory.used, 480 * MIB);
        CHECK_EQ(memory.free, 81079 * MIB);
        CHECK_EQ(nvmlDeviceGetMemoryInfo_v2(device, &memory2), NVML_SUCCESS);
        CHECK_EQ(memory2.reserved, 480 * MIB);
        CHECK_EQ(memory2.used, 0);
        CHECK_EQ(memory2.total, memory2.reserved + memory2.used + memory2.free);
        memory2.version = 1;
        CHECK_EQ(
                nvmlDeviceGetMemoryInfo_v2(device, &memory2), NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        CHECK_EQ(nvmlDeviceGetName(device, text, sizeof(text)), NVML_SUCCESS);
        CHECK(!strcmp(text, "NVIDIA H100 80GB HBM3"));
        CHECK_EQ(nvmlDeviceGetName(device, tiny, sizeof(tiny)), NVML_ERROR_INSUFFICIENT_SIZE);
        CHECK_EQ(nvmlDeviceGetUUID(device, text, sizeof(text)), NVML_SUCCESS);
        CHECK(strlen(text) == 40 && !strncmp(text, "GPU-", 4));
        CHECK_EQ(nvmlDeviceGetHandleByUUID(text, &same), NVML_SUCCESS);
        CHECK(same == device);
        CHECK_EQ(nvmlDeviceGetHandleByUUID("GPU-0", &same), NVML_ERROR_NOT_FOUND);
        CHECK_EQ(nvmlDeviceGetPciInfo_v3(device, &pci), NVML_SUCCESS);
        CHECK_EQ(nvmlDeviceGetHandleByPciBusId_v2(pci.busId, &same), NVML_SUCCESS);
        CHECK(same == device);
        CHECK_EQ(pci.pciDeviceId, 0x233010de);
        CHECK_EQ(nvmlDeviceGetCudaComputeCapability(device, &major, &minor), NVML_SUCCESS);
        CHECK(major == 9 && minor == 0);
        CHECK_EQ(nvmlSystemGetDriverVersion(text, sizeof(text)), NVML_SUCCESS);
        CHECK(!strcmp(text, "580.159.04"));
        CHECK_EQ(nvmlDeviceGetHandleByIndex_v2(2, &same), NVML_ERROR_INVALID_ARGUMENT);
        CHECK_EQ(nvmlDeviceGetMemoryInfo((nvmlDevice_t)&n, &memory), NVML_ERROR_INVALID_ARGUMENT);
        CHECK_EQ(nvmlDeviceGetMemoryInfo(NULL, &memory), NVML_ERROR_INVALID_ARGUMENT);
        CHECK_EQ(nvmlDeviceGetMemoryInfo(device, NULL), NVML_ERROR_INVALID_ARGUMENT);
        CHECK_EQ(nvmlDeviceGetComputeRunningProcesses_v3(device, NULL, NULL),
                NVML_ERROR_INVALID_ARGUMENT);
        n = 3;
        CHECK_EQ(nvmlDeviceGetComputeRunningProcesses_v3(device, &n, NULL),
                NVML_ERROR_INVALID_ARGUMENT);
        n = 0;
        CHECK_EQ(nvmlDeviceGetComputeRunningProcesses_v3(device, &n, NULL), NVML_SUCCESS);
        CHECK_EQ(n, 0);

        /* one nvmlShutdown for each nvmlInit */
        CHECK_EQ(nvmlInit_v2(), NVML_SUCCESS);
        CHECK_EQ(nvmlShutdown(), NVML_SUCCESS);
        CHECK_EQ(nvmlDeviceGetCount_v2(&n), NVML_SUCCESS);
        CHECK_EQ(nvmlShutdown(), NVML_SUCCESS);
        CHECK_EQ(nvmlDeviceGetCount_v2(&n), NVML_ERROR_UNINITIALIZED);
        CHECK_EQ(nvmlShutdown(), NVML_ERROR_UNINITIALIZED);
        CHECK_EQ(nvmlInit_v2(), NVML_SUCCESS);
}

static void test_two(void)
{
        CUcontext first, second;
        CUdeviceptr p, q;
        CUuuid uuid[2];
        CUdevice device;
        char bus[2][20];
        int count, can;

        OK(cuDeviceGetCount(&count));
        CHECK_EQ(count, 2);
        CHECK_EQ(cuDeviceGet(&device, 2), CUDA_ERROR_INVALID_DEVICE);
        CHECK_EQ(cuDeviceGet(&device, -1), CUDA_ERROR_INVALID_DEVICE);
        for (int i = 0; i < 2; i++) {
                OK(cuDeviceGetUuid_v2(&uuid[i], i));
                OK(cuDeviceGetPCIBusId(bus[i], sizeof(bus[i]), i));
                OK(cuDeviceGetByPCIBusId(&device, bus[i]));
                CHECK_EQ(device, i);
        }
        CHECK(memcmp(&uuid[0], &uuid[1], sizeof(uuid[0])) != 0);
        CHECK_EQ(attribute(1, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 40);

        OK(cuCtxCreate_v2(&first, 0, 0));
        OK(cuMemAlloc_v2(&p, 4 * MIB));
        OK(cuCtxCreate_v2(&second, 0, 1));
        OK(cuMemAlloc_v2(&q, 6 * MIB));
        CHECK_EQ(nvml_process(0, getpid()), (518 + 4) * MIB);
        CHECK_EQ(nvml_process(1, getpid()), (142 + 6) * MIB);
        /* addresses are unique, so memory can be freed from either */
        CHECK(p != q);
        OK(cuMemFree_v2(p));
        CHECK_EQ(nvml_process(0, getpid()), 518 * MIB);

        OK(cuDeviceCanAccessPeer(&can, 0, 1));
        CHECK_EQ(can, 1);
        OK(cuDeviceCanAccessPeer(&can, 1, 1));
        CHECK_EQ(can, 0);
        OK(cuCtxEnablePeerAccess(first, 0));
        CHECK_EQ(cuCtxEnablePeerAccess(first, 0), CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
        CHECK_EQ(cuCtxEnablePeerAccess(first, 1), CUDA_ERROR_INVALID_VALUE);
        OK(cuCtxDisablePeerAccess(first));
        CHECK_EQ(cuCtxDisablePeerAccess(first), CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
        OK(cuCtxDestroy_v2(second));
        OK(cuCtxDestroy_v2(first));
        CHECK(nvml_used(0) == 0 && nvml_used(1) == 0);
}

/* CUDA_VISIBLE_DEVICES, in a process of its own each time: how many, and the first one's name. */
static void visible(const char *list, int wanted, const char *wanted_name)
{
        int status;
        pid_t pid = fork();

        CHECK(pid >= 0);
        if (pid == 0) {
                char number[12];

                setenv("CUDA_VISIBLE_DEVICES", list, 1);
                snprintf(number, sizeof(number), "%d", wanted);
                execl("/proc/self/exe", "devices", number, wanted_name, NULL);
                _exit(2);
        }
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK_EQ(status, 0);
}

static void see(int wanted, const char *wanted_name)
{
        char name[64];
        int count;

        if (wanted == 0) {
                CHECK_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE);
                CHECK_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE);
                CHECK_EQ(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
                return;
        }
        OK(cuInit(0));
        OK(cuDeviceGetCount(&count));
        CHECK_EQ(count, wanted);
        OK(cuDeviceGetName(name, sizeof(name), 0));
        CHECK(!strcmp(name, wanted_name));
}

static void test_visible(void)
{
        char uuid[96], list[128];

        visible("0,1", 2, "NVIDIA H100 80GB HBM3");
        visible("1,0", 2, "Tesla T4");
        visible("1", 1, "Tesla T4");
        visible("", 0, "");
        visible("-1", 0, "");
        visible("1,-1,0", 1, "Tesla T4");
        visible("7", 0, "");
        visible("0,0", 0, "");
        visible("NoDevFiles", 0, "");
        CHECK_EQ(nvmlDeviceGetUUID(nvml_device(1), uuid, sizeof(uuid)), NVML_SUCCESS);
        visible(uuid, 1, "Tesla T4");
        uuid[12] = '\0';
        visible(uuid, 1, "Tesla T4");
        snprintf(list, sizeof(list), "%s,0", uuid);
        visible(list, 2, "Tesla T4");
        visible("GPU-", 0, "");
}

static void test_machines(void)
{
        /* what makes no sense is no machine, and a directory of others is not used */
        setenv("CLEAVE_SIM", "h101", 1);
        visible("0", 0, "");
        setenv("CLEAVE_SIM", "h100x17", 1);
        visible("0", 0, "");
        setenv("CLEAVE_SIM", "h100,", 1);
        visible("0", 0, "");
        setenv("CLEAVE_SIM", "a100x3,b200", 1);
        visible("0,1,2,3", 4, "NVIDIA A100-SXM4-80GB");
        setenv("CLEAVE_SIM_FAULTS", "no such thing", 1);
        visible("0", 0, "");
        unsetenv("CLEAVE_SIM_FAULTS");
        CHECK_EQ(chmod(check_directory, 0755), 0);
        visible("0", 0, "");
        CHECK_EQ(chmod(check_directory, 0700), 0);
        visible("0", 1, "NVIDIA A100-SXM4-80GB");
        setenv("CLEAVE_SIM_DIR", "/proc/nowhere", 1);
        visible("0", 0, "");
}

static void test_entries(void)
{
        CUdriverProcAddressQueryResult status;
        CUresult (*get_count)(int *);
        const char *text;
        const void *table;
        CUuuid id = {{1}};
        void *entry;
        int count;

        OK(cuGetProcAddress_v2("cuDeviceGetCount", (void **)&get_count, 13000, 0, &status));
        CHECK_EQ(status, CU_GET_PROC_ADDRESS_SUCCESS);
        OK(get_count(&count));
        OK(cuGetProcAddress_v2("cuMemAlloc", &entry, 13000, 0, &status));
        CHECK(entry == dlsym(RTLD_DEFAULT, "cuMemAlloc_v2"));
        OK(cuGetProcAddress_v2("cuNoSuchThing", &entry, 13000, 0, &status));
        CHECK(entry == NULL);
        CHECK_EQ(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
        OK(cuGetProcAddress_v2("cuGreenCtxCreate", &entry, 11000, 0, &status));
        CHECK_EQ(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
        CHECK_EQ(cuGetProcAddress_v2(NULL, &entry, 13000, 0, &status), CUDA_ERROR_INVALID_VALUE);
        CHECK_EQ(cuGetProcAddress("cuNoSuchThing", &entry, 11030, 0), CUDA_ERROR_NOT_FOUND);
        CHECK(cuGetExportTable(&table, &id) != CUDA_SUCCESS);

        OK(cuGetErrorName(CUDA_ERROR_OUT_OF_MEMORY, &text));
        CHECK(!strcmp(text, "CUDA_ERROR_OUT_OF_MEMORY"));
        OK(cuGetErrorString(CUDA_ERROR_OUT_OF_MEMORY, &text));
        CHECK(!strcmp(text, "out of memory"));
        CHECK_EQ(cuGetErrorName(12345, &text), CUDA_ERROR_INVALID_VALUE);
        CHECK(text == NULL);
}

int main(int argc, char **argv)
{
        if (argc == 3) {
                see(atoi(argv[1]), argv[2]);
                return 0;
        }
        machine("h100,t4");
        OK(cuInit(0));
        test_h100();
        test_nvml();
        test_two();
        test_entries();
        test_visible();
        test_machines();
        return 0;
}
