/* SPDX-License-Identifier: Apache-2.0 */
/* Faults on demand, each in a process of its own. */
#include "check.h"

/* A lost device is back soon after the last process that used it has gone. */
static void wait_found(void)
{
        double end = seconds() + 10;
        nvmlMemory_t memory;

        while (nvmlDeviceGetMemoryInfo(nvml_device(0), &memory) == NVML_ERROR_GPU_IS_LOST) {
                CHECK(seconds() < end);
                usleep(1000);
        }
}

static void run(const char *what, const char *faults)
{
        int status;
        pid_t pid = fork();

        CHECK(pid >= 0);
        if (pid == 0) {
                setenv("CLEAVE_SIM_FAULTS", faults, 1);
                execl("/proc/self/exe", "faults", what, NULL);
                _exit(2);
        }
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        if (status)
                fprintf(stderr, "%s under %s failed\n", what, faults);
        CHECK_EQ(status, 0);
        if (strcmp(what, "foreign")) {
                wait_found();
                CHECK(wait_used(0, 0, 10));
        }
}

static void begin(CUcontext *context)
{
        CHECK_EQ(nvmlInit_v2(), NVML_SUCCESS);
        OK(cuInit(0));
        OK(cuCtxCreate_v2(context, 0, 0));
}

static void calls(void)
{
        CUdeviceptr p;
        CUcontext context;

        begin(&context);
        OK(cuMemAlloc_v2(&p, 4));
        OK(cuMemAlloc_v2(&p, 4));
        CHECK_EQ(cuMemAlloc_v2(&p, 4), CUDA_ERROR_OUT_OF_MEMORY);
        OK(cuMemAlloc_v2(&p, 4));
        CHECK_EQ(cuCtxSynchronize(), CUDA_ERROR_LAUNCH_FAILED);
        CHECK_EQ(cuCtxSynchronize(), CUDA_ERROR_LAUNCH_FAILED);
}

/* RM refuses for good once the context is there (its objects are 21). */
static void rm_refuses(void)
{
        CUdeviceptr p;
        CUcontext context;
        uint64_t before;

        begin(&context);
        before = nvml_used(0);
        CHECK_EQ(cuMemAlloc_v2(&p, 4 * MIB), CUDA_ERROR_OUT_OF_MEMORY);
        CHECK_EQ(cuMemAlloc_v2(&p, 4), CUDA_ERROR_OUT_OF_MEMORY);
        CHECK_EQ(nvml_used(0), before);
}

/* One refusal is overcome by trimming and asking again. */
static void rm_refuses_once(void)
{
        CUcontext context;

        begin(&context);
        CHECK_EQ(nvml_used(0), 518 * MIB);
}

static void rm_refuses_context(void)
{
        CUcontext context;

        CHECK_EQ(nvmlInit_v2(), NVML_SUCCESS);
        OK(cuInit(0));
        CHECK_EQ(cuCtxCreate_v2(&context, 0, 0), CUDA_ERROR_OUT_OF_MEMORY);
        CHECK_EQ(nvml_used(0), 0);
}

static void missing(void)
{
        CUdriverProcAddressQueryResult status;
        CUdeviceptr p;
        CUcontext context;
        void *entry;

        begin(&context);
        CHECK_EQ(cuMemAlloc_v2(&p, 4), CUDA_ERROR_NOT_SUPPORTED);
        OK(cuGetProcAddress_v2("cuMemAlloc", &entry, 13000, 0, &status));
        CHECK(entry == NULL);
        CHECK_EQ(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
}

static void slow(void)
{
        CUcontext context;
        double start;
        size_t free, total;

        begin(&context);
        start = seconds();
        OK(cuMemGetInfo_v2(&free, &total));
        CHECK(seconds() - start >= 0.02);
        start = seconds();
        OK(cuCtxGetCurrent(&context));
        CHECK(seconds() - start < 0.02);
}

static void lost(void)
{
        nvmlMemory_t memory;
        nvmlEventData_t event;
        nvmlEventSet_t set;
        CUcontext context;
        CUdeviceptr p;
        CUresult r = CUDA_SUCCESS;
        int i;

        begin(&context);
        CHECK_EQ(nvmlEventSetCreate(&set), NVML_SUCCESS);
        CHECK_EQ(nvmlDeviceRegisterEvents(nvml_device(0), nvmlEventTypeXidCriticalError, set),
                NVML_SUCCESS);
        CHECK_EQ(nvmlEventSetWait_v2(set, &event, 10), NVML_ERROR_TIMEOUT);
        for (i = 0; i < 100 && !r; i++)
                r = cuMemAlloc_v2(&p, 4);
        CHECK_EQ(r, CUDA_ERROR_DEVICE_UNAVAILABLE);
        CHECK(i > 30);
        CHECK_EQ(cuMemFree_v2(p), CUDA_ERROR_DEVICE_UNAVAILABLE);
        CHECK_EQ(cuCtxSynchronize(), CUDA_ERROR_DEVICE_UNAVAILABLE);
        CHECK_EQ(nvmlDeviceGetMemoryInfo(nvml_device(0), &memory), NVML_ERROR_GPU_IS_LOST);
        CHECK_EQ(nvmlEventSetWait_v2(set, &event, 1000), NVML_SUCCESS);
        CHECK_EQ(event.eventData, 79);
        CHECK_EQ(nvmlEventSetFree(set), NVML_SUCCESS);
}

static void foreign(void)
{
        CUcontext context;
        size_t free, total;

        begin(&context);
        OK(cuMemGetInfo_v2(&free, &total));
        CHECK_EQ(total - free, (2048 + 518) * MIB);
        CHECK_EQ(nvml_used(0), (2048 + 518) * MIB);
        CHECK_EQ(nvml_process(0, getpid()), 518 * MIB);
}

static const struct {
        const char *name;
        void (*fn)(void);
} parts[] = {
        {"calls", calls},
        {"rm-refuses", rm_refuses},
        {"rm-refuses-once", rm_refuses_once},
        {"rm-refuses-context", rm_refuses_context},
        {"missing", missing},
        {"slow", slow},
        {"lost", lost},
        {"foreign", foreign},
};

int main(int argc, char **argv)
{
        if (argc > 1) {
                for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
                        if (!strcmp(parts[i].name, argv[1])) {
                                parts[i].fn();
                                return 0;
                        }
                return 2;
        }
        machine("h100");
        run("calls", "oom@cuMemAlloc_v2:3,fail=719@cuCtxSynchronize:1+");
        run("rm-refuses", "oom:22+");
        run("rm-refuses-once", "oom:5");
        run("rm-refuses-context", "oom:20+");
        run("missing", "missing@cuMemAlloc_v2");
        run("slow", "slow=20ms@cuMemGetInfo_v2,slow=10us@*");
        run("lost", "lost=0:50");
        /* it heals when nobody uses it any more */
        run("rm-refuses-once", "oom:3");
        setenv("CLEAVE_SIM", "h100,h100", 1);
        run("foreign", "foreign=2G@0");
        return 0;
}
