/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conformance [--list] [CASE...]
 *
 * One line a case, TAP. "# probe" lines compare what is not certain. Exit status 1 if a case
 * failed, 77 if there is no driver or no device.
 */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "conformance.h"

#define SECONDS          30
#define SETTLED_READINGS 60 /* 120 ms: longer than a dead process keeps its memory */

static const struct test_case *const groups[] = {context_cases, memory_cases, pool_cases,
        stream_cases, module_cases, graph_cases, capture_cases, process_cases, name_cases};

CUdevice device;
CUcontext context;

static void *library;
static const char *running;

/* status of a case's process */
enum { PASSED = 0, FAILED = 1, SKIPPED = 77 };

/* tests/kernels/cleave.ptx, a string for each line */
const char kernels_ptx[] =
#include "kernels.inc"
        ;

void *find_entry(const char *name)
{
        void *entry = dlsym(library, name);

        if (!entry)
                skip(name);
        return entry;
}

const char *result_name(CUresult r)
{
        static char numbers[4][16];
        static unsigned turn;
        const char *name = NULL;

        if (cu(cuGetErrorName)(r, &name) == CUDA_SUCCESS && name)
                return name + (strncmp(name, "CUDA_", 5) == 0 ? 5 : 0);
        turn = (turn + 1) % 4;
        snprintf(numbers[turn], sizeof(numbers[turn]), "%d", (int)r);
        return numbers[turn];
}

static const char *base_name(const char *path)
{
        const char *slash = strrchr(path, '/');

        return slash ? slash + 1 : path;
}

void failed(const char *file, int line, const char *format, ...)
{
        va_list arguments;

        printf("# %s: %s:%d: ", running, base_name(file), line);
        va_start(arguments, format);
        vprintf(format, arguments);
        va_end(arguments);
        printf("\n");
        fflush(stdout);
        _exit(FAILED);
}

void probed(const char *file, int line, const char *what, long expected, const char *expected_name,
        long seen, const char *seen_name)
{
        if (expected == seen)
                return;
        if (seen_name)
                printf("# probe %s: %s:%d: %s: %s (simulated: %s)\n", running, base_name(file),
                        line, what, seen_name, expected_name);
        else
                printf("# probe %s: %s:%d: %s: %ld (simulated: %ld)\n", running, base_name(file),
                        line, what, seen, expected);
        fflush(stdout);
}

void skip(const char *why)
{
        printf("# %s: skipped: %s\n", running, why);
        fflush(stdout);
        _exit(SKIPPED);
}

/* ---- what many cases need ---- */

uint64_t now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

CUmodule load_kernels(void)
{
        CUmodule module;

        OK(cu(cuModuleLoadData)(&module, kernels_ptx));
        return module;
}

CUfunction kernel(CUmodule module, const char *name)
{
        CUfunction function;

        OK(cu(cuModuleGetFunction)(&function, module, name));
        return function;
}

CUresult launch_one(CUfunction function, CUstream stream, void **params)
{
        return cu(cuLaunchKernel)(function, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL);
}

struct gate gate_new(void)
{
        struct gate gate;
        void *host;

        OK(cu(cuMemHostAlloc)(&host, 4096, CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_PORTABLE));
        OK(cu(cuMemHostGetDevicePointer_v2)(&gate.pointer, host, 0));
        gate.flag = host;
        *gate.flag = 1;
        return gate;
}

void gate_shut(struct gate *gate, CUmodule module, CUstream stream)
{
        uint32_t one = 1;
        void *params[] = {&gate->pointer, &one};

        __atomic_store_n(gate->flag, 0, __ATOMIC_SEQ_CST);
        OK(launch_one(kernel(module, "cleave_wait_u32"), stream, params));
}

void gate_open(struct gate *gate)
{
        __atomic_store_n(gate->flag, 1, __ATOMIC_SEQ_CST);
}

CUdeviceptr words_new(size_t count, uint32_t value)
{
        CUdeviceptr pointer;

        OK(cu(cuMemAlloc_v2)(&pointer, count * 4));
        OK(cu(cuMemsetD32_v2)(pointer, value, count));
        OK(cu(cuCtxSynchronize)());
        return pointer;
}

bool words_are(CUdeviceptr pointer, size_t count, uint32_t value)
{
        uint32_t *words = malloc(count * 4);
        bool same = true;

        OK(cu(cuMemcpyDtoH_v2)(words, pointer, count * 4));
        for (size_t i = 0; i < count && same; i++)
                if (words[i] != value) {
                        printf("# word %zu is %#x, not %#x\n", i, words[i], value);
                        same = false;
                }
        free(words);
        return same;
}

/* A process that has ended gives its memory back a little later: the first reading waits until
 * nothing changes any more. */
size_t free_memory(void)
{
        static bool settled;
        size_t free_bytes, total, before = 0;
        unsigned same = 0;

        for (unsigned i = 0; !settled && i < 1000 && same < SETTLED_READINGS; i++) {
                OK(cu(cuMemGetInfo_v2)(&free_bytes, &total));
                same = free_bytes == before ? same + 1 : 0;
                before = free_bytes;
                usleep(2000);
        }
        settled = true;
        OK(cu(cuMemGetInfo_v2)(&free_bytes, &total));
        return free_bytes;
}

/* ---- running ---- */

static const struct test_case *find_case(const char *name)
{
        for (size_t g = 0; g < sizeof(groups) / sizeof(*groups); g++)
                for (const struct test_case *one = groups[g]; one->name; one++)
                        if (strcmp(one->name, name) == 0)
                                return one;
        return NULL;
}

/* In a process of its own: the case's status. */
static int run_case(const struct test_case *test)
{
        running = test->name;
        library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        if (!library)
                skip(dlerror());
        if (!test->bare) {
                OK(cu(cuInit)(0));
                OK(cu(cuDeviceGet)(&device, 0));
                OK(cu(cuDevicePrimaryCtxRetain)(&context, device));
                OK(cu(cuCtxSetCurrent)(context));
        }
        test->run();
        fflush(stdout);
        return PASSED;
}

static int run_child(const struct test_case *test)
{
        pid_t pid;
        int status;

        fflush(stdout);
        pid = fork();
        if (pid < 0)
                return FAILED;
        if (pid == 0) {
                alarm(SECONDS);
                exit(run_case(test));
        }
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return FAILED;
        if (WIFSIGNALED(status)) {
                printf("# %s: %s\n", test->name, strsignal(WTERMSIG(status)));
                return FAILED;
        }
        return WEXITSTATUS(status);
}

static int report(unsigned number, const struct test_case *test)
{
        int status = run_child(test);

        if (status == SKIPPED)
                printf("ok %u %s # SKIP\n", number, test->name);
        else
                printf("%s %u %s\n", status == PASSED ? "ok" : "not ok", number, test->name);
        return status;
}

/* Whether there is a driver with a device at all. */
static bool have_device(void)
{
        static const struct test_case probe = {.name = "probe"};
        extern void nothing(void);
        struct test_case test = probe;

        test.run = nothing;
        return run_child(&test) == PASSED;
}

void nothing(void);
void nothing(void)
{
}

int main(int argc, char **argv)
{
        unsigned number = 0, bad = 0;

        running = "main";
        if (argc == 2 && strcmp(argv[1], "--list") == 0) {
                for (size_t g = 0; g < sizeof(groups) / sizeof(*groups); g++)
                        for (const struct test_case *one = groups[g]; one->name; one++)
                                puts(one->name);
                return 0;
        }
        /* Loading a function may wait for the device, and cases keep it busy on purpose. */
        setenv("CUDA_MODULE_LOADING", "EAGER", 0);
        if (!have_device()) {
                printf("1..0 # SKIP no driver, or no device\n");
                return SKIPPED;
        }
        if (argc > 1) {
                for (int i = 1; i < argc; i++) {
                        const struct test_case *test = find_case(argv[i]);

                        if (!test) {
                                fprintf(stderr, "conformance: no case '%s'; try --list\n", argv[i]);
                                return 2;
                        }
                        bad += report(++number, test) == FAILED;
                }
        } else {
                for (size_t g = 0; g < sizeof(groups) / sizeof(*groups); g++)
                        for (const struct test_case *one = groups[g]; one->name; one++)
                                bad += report(++number, one) == FAILED;
        }
        printf("1..%u\n# %u of %u failed\n", number, bad, number);
        return bad ? 1 : 0;
}
