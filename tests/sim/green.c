/* SPDX-License-Identifier: Apache-2.0 */
/* Green contexts and MPS, as on an H100 under driver 580 (docs/benchmarks.md).
 *
 * usage: green MPS-CONTROL */
#include "check.h"

#include <sys/prctl.h>

#define HEAD                                                                                       \
        ".version 6.0\n.target sm_52\n.address_size 64\n"                                          \
        ".entry cleave_smid(.param .u64 dst) { ret; }\n"                                           \
        ".entry cleave_stay(.param .u64 dst, .param .u64 ns) { ret; }\n"
#define WHOLE_SM (200 << 10) /* bytes of shared memory: more than half of an SM's */
#define UNITS    16
#define STAY_MS  600

static CUfunction smid, stay;
static CUdeviceptr memory;
static CUdevResource unit[UNITS + 1];

static void load(void)
{
        CUmodule module;

        OK(cuModuleLoadData(&module, HEAD));
        OK(cuModuleGetFunction(&smid, module, "cleave_smid"));
        OK(cuModuleGetFunction(&stay, module, "cleave_stay"));
        OK(cuFuncSetAttribute(stay, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, WHOLE_SM));
        OK(cuMemAlloc_v2(&memory, 64 << 10));
}

static void divide(unsigned step, unsigned expected, unsigned rest_expected)
{
        CUdevResource all, rest;
        unsigned n = UNITS;

        OK(cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_SM));
        CHECK_EQ(all.sm.smCount, 132);
        OK(cuDevSmResourceSplitByCount(NULL, &n, &all, NULL, step < 8, step));
        CHECK_EQ(n, expected);
        n = UNITS;
        OK(cuDevSmResourceSplitByCount(unit, &n, &all, &rest, step < 8, step));
        CHECK_EQ(n, expected < UNITS ? expected : UNITS);
        CHECK_EQ(rest.sm.smCount, expected < UNITS ? rest_expected : 132 - UNITS * step);
        for (unsigned i = 0; i < n; i++)
                CHECK_EQ(unit[i].sm.smCount, step);
        unit[n] = rest;
}

/* A context over units, a bit for each. */
static CUcontext make(unsigned units, CUgreenCtx *ret)
{
        CUdevResource chosen[UNITS + 1];
        CUdevResourceDesc desc;
        CUcontext context;
        unsigned n = 0;

        for (unsigned i = 0; i <= UNITS; i++)
                if (units >> i & 1)
                        chosen[n++] = unit[i];
        OK(cuDevResourceGenerateDesc(&desc, chosen, n));
        OK(cuGreenCtxCreate(ret, desc, 0, CU_GREEN_CTX_DEFAULT_STREAM));
        OK(cuCtxFromGreenCtx(&context, *ret));
        return context;
}

/* How many SMs a launch of many blocks is spread over, and a bit for each below 64. */
static unsigned spread(CUstream stream, uint64_t *ret)
{
        static uint32_t out[528];
        void *params[] = {&memory};
        bool seen[256] = {false};
        unsigned n = 0;

        OK(cuLaunchKernel(smid, 528, 1, 1, 1024, 1, 1, 0, stream, params, NULL));
        OK(cuStreamSynchronize(stream));
        OK(cuMemcpyDtoH_v2(out, memory, sizeof(out)));
        *ret = 0;
        for (unsigned i = 0; i < 528; i++) {
                CHECK(out[i] < 256);
                n += !seen[out[i]];
                seen[out[i]] = true;
                if (out[i] < 64)
                        *ret |= 1ull << out[i];
        }
        return n;
}

static void test_contexts(void)
{
        CUcontext primary, context, got;
        CUgreenCtx green, other, found;
        CUdevResource resource;
        CUstream stream;
        CUdeviceptr pointer;
        uint64_t sms, more;
        int grid, block;

        OK(cuInit(0));
        OK(cuDevicePrimaryCtxRetain(&primary, 0));
        OK(cuCtxSetCurrent(primary));
        load();
        CHECK_EQ(spread(NULL, &sms), 132);
        divide(2, 66, 0);
        divide(8, 15, 12);
        /* any units of one division make a set, and what is left over is one */
        context = make(1 << 1 | 1 << 3 | 1 << 15, &green);
        OK(cuCtxSetCurrent(context));
        CHECK_EQ(spread(NULL, &sms), 28);
        OK(cuCtxGetDevResource(NULL, &resource, CU_DEV_RESOURCE_TYPE_SM));
        CHECK_EQ(resource.sm.smCount, 28);
        OK(cuCtxGetCurrent(&got));
        CHECK(got == context && (void *)context == (void *)green);
        /* streams belong to what was current when they were made */
        OK(cuStreamCreate(&stream, 0));
        OK(cuStreamGetCtx(stream, &got));
        CHECK(got == context);
        OK(cuStreamGetCtx_v2(stream, &got, &found));
        CHECK(got == primary && found == green);
        OK(cuMemAlloc_v2(&pointer, 4096));
        OK(cuPointerGetAttribute(&got, CU_POINTER_ATTRIBUTE_CONTEXT, pointer));
        CHECK(got == primary);
        OK(cuOccupancyMaxPotentialBlockSize(&grid, &block, smid, NULL, 0, 0));
        CHECK_EQ(grid * block, 28 * 2048);
        CHECK_EQ(
                cuLaunchCooperativeKernel(smid, 57, 1, 1, 1024, 1, 1, 0, NULL, (void *[]){&memory}),
                CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
        OK(cuLaunchCooperativeKernel(smid, 56, 1, 1, 1024, 1, 1, 0, NULL, (void *[]){&memory}));
        CHECK_EQ(cuCtxDestroy_v2(context), CUDA_ERROR_INVALID_CONTEXT);
        /* another beside it has other SMs, in the same memory */
        OK(cuCtxPushCurrent_v2(make(1, &other)));
        CHECK_EQ(spread(NULL, &more), 8);
        CHECK_EQ(more & sms, 0);
        CHECK_EQ(spread(stream, &more), 28);
        CHECK_EQ(more, sms);
        OK(cuGreenCtxDestroy(other));
        CHECK_EQ(cuMemFree_v2(pointer), CUDA_ERROR_CONTEXT_IS_DESTROYED);
        OK(cuCtxPopCurrent_v2(&got));
        OK(cuMemFree_v2(pointer));
        OK(cuStreamDestroy_v2(stream));
        OK(cuGreenCtxDestroy(green));
        /* units of two divisions do not mix, nor one with itself */
        resource = unit[0];
        divide(8, 15, 12);
        {
                CUdevResource both[2] = {resource, unit[1]}, twice[2] = {unit[1], unit[1]};
                CUdevResourceDesc desc;

                CHECK_EQ(cuDevResourceGenerateDesc(&desc, both, 2),
                        CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
                CHECK_EQ(cuDevResourceGenerateDesc(&desc, twice, 2),
                        CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
        }
        OK(cuCtxSetCurrent(primary));
        OK(cuMemFree_v2(memory));
        OK(cuDevicePrimaryCtxRelease_v2(0));
}

/* ---- MPS ---- */

static void run_control(const char *control, const char *option, const char *command)
{
        int ends[2], status;
        pid_t pid;

        CHECK_EQ(pipe(ends), 0);
        pid = fork();
        if (pid == 0) {
                dup2(ends[0], 0);
                close(ends[1]);
                execl(control, control, option, NULL);
                _exit(127);
        }
        close(ends[0]);
        CHECK(write(ends[1], command, strlen(command)) == (ssize_t)strlen(command));
        close(ends[1]);
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

struct client {
        uint64_t start, end; /* of its blocks: latest start, earliest end */
        uint64_t sms;        /* as it sees them */
        int count, served;
        int error;
};

static struct client *clients;

/* In a process of its own: blocks that each take an SM for themselves, on the units. */
static pid_t client(unsigned index, unsigned units, unsigned ms, const int go[2], bool until_error)
{
        static uint64_t times[2 * 132];
        struct client *self = &clients[index];
        pid_t pid = fork();
        CUgreenCtx green;
        CUcontext primary;
        uint64_t ns = ms * 1000000ull;
        char byte;

        if (pid != 0)
                return pid;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(go[1]);
        OK(cuInit(0));
        OK(cuDevicePrimaryCtxRetain(&primary, 0));
        OK(cuDeviceGetAttribute(&self->served, CU_DEVICE_ATTRIBUTE_MPS_ENABLED, 0));
        OK(cuCtxSetCurrent(primary));
        divide(8, 15, 12);
        OK(cuCtxSetCurrent(make(units, &green)));
        load();
        self->count = (int)spread(NULL, &self->sms);
        CHECK(read(go[0], &byte, 1) == 0);
        do {
                self->error = (int)cuLaunchKernel(stay, (unsigned)self->count, 1, 1, 32, 1, 1,
                        WHOLE_SM, NULL, (void *[]){&memory, &ns}, NULL);
                if (!self->error)
                        self->error = (int)cuCtxSynchronize();
        } while (until_error && !self->error);
        if (until_error) {
                CHECK_EQ(cuMemAlloc_v2(&memory, 4096), self->error);
                _exit(0);
        }
        OK(cuMemcpyDtoH_v2(times, memory, sizeof(times)));
        self->start = times[0];
        self->end = times[1];
        for (int i = 1; i < self->count; i++) {
                if (times[2 * i] > self->start)
                        self->start = times[2 * i];
                if (times[2 * i + 1] < self->end)
                        self->end = times[2 * i + 1];
        }
        _exit(0);
}

static void await_all(pid_t *pids, unsigned n)
{
        for (unsigned i = 0; i < n; i++) {
                int status;

                CHECK(waitpid(pids[i], &status, 0) == pids[i]);
                CHECK_EQ(status, 0);
        }
}

/* n clients on these units at once; whether there is an instant at which all of all were there. */
static bool all_at_once(const unsigned *units, unsigned n)
{
        uint64_t start = 0, end = UINT64_MAX;
        pid_t pids[4];
        int go[2];

        CHECK_EQ(pipe(go), 0);
        for (unsigned i = 0; i < n; i++) {
                pids[i] = client(i, units[i], STAY_MS, go, false);
                CHECK(pids[i] > 0);
        }
        close(go[0]);
        usleep(300000);
        close(go[1]);
        await_all(pids, n);
        for (unsigned i = 0; i < n; i++) {
                start = clients[i].start > start ? clients[i].start : start;
                end = clients[i].end < end ? clients[i].end : end;
        }
        /* simulated times are as exact as the waking of a thread */
        return start + STAY_MS * 500000ull < end;
}

static pid_t server_pid(const char *pipe)
{
        char command[256], text[64] = "";
        FILE *file;

        snprintf(command, sizeof(command), "ls %s | sed -n 's/^server-//p'", pipe);
        file = popen(command, "r");
        CHECK(file && fgets(text, sizeof(text), file));
        pclose(file);
        return (pid_t)atoi(text);
}

static const char *control;
static pid_t tester;

static void end_control(void)
{
        if (getpid() == tester)
                run_control(control, NULL, "quit\n");
}

static void test_mps(void)
{
        static const unsigned apart[] = {0x000f, 0x00f0, 0xff00}, overlapping[] = {0x00ff, 0x0080};
        char pipe_directory[80], path[128];
        pid_t pid, server;
        int go[2];

        clients = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        snprintf(pipe_directory, sizeof(pipe_directory), "%s/pipe", check_directory);
        CHECK_EQ(mkdir(pipe_directory, 0700), 0);
        setenv("CUDA_MPS_PIPE_DIRECTORY", pipe_directory, 1);
        run_control(control, "-d", "");
        tester = getpid();
        atexit(end_control);
        CHECK(all_at_once(apart, 3));
        CHECK_EQ(clients[0].served, 1);
        CHECK_EQ(clients[0].count, 32);
        CHECK_EQ(clients[2].count, 68);
        /* each has SMs numbered from 0 */
        CHECK_EQ(clients[0].sms, 0xffffffffu);
        CHECK_EQ(clients[1].sms, 0xffffffffu);
        CHECK(!all_at_once(overlapping, 2));
        /* the server goes: so do its clients, and the next one is served by another */
        CHECK_EQ(pipe(go), 0);
        pid = client(0, 0x0001, 5, go, true);
        close(go[0]);
        usleep(100000);
        close(go[1]);
        usleep(100000);
        server = server_pid(pipe_directory);
        CHECK_EQ(kill(server, SIGKILL), 0);
        await_all(&pid, 1);
        CHECK_EQ(clients[0].error, CUDA_ERROR_MPS_RPC_FAILURE);
        snprintf(path, sizeof(path), "%s/server-%d", pipe_directory, server);
        unlink(path);
        CHECK(all_at_once(apart, 2));
        CHECK(server_pid(pipe_directory) != server);
        end_control();
        tester = 0;
        /* nobody listens: a process is on its own */
        all_at_once(overlapping, 2);
        CHECK_EQ(clients[0].served, 0);
}

int main(int argc, char **argv)
{
        pid_t pid;

        CHECK_EQ(argc, 2);
        machine("h100");
        unsetenv("CUDA_MPS_PIPE_DIRECTORY");
        /* in a child, so that this process can have others that use the driver */
        pid = fork();
        if (pid == 0) {
                test_contexts();
                _exit(0);
        }
        await_all(&pid, 1);
        control = argv[1];
        test_mps();
        return 0;
}
