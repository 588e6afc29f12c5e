/* SPDX-License-Identifier: Apache-2.0 */
/* What driver calls cost the caller. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker.h"

#define BATCH       500 /* launches between synchronizations: below the 1,021 that a stream takes */
#define SWARM_MAX   64
#define SWARM_BYTES (2u << 20)

/* launch N: the time in which cuLaunchKernel returns while the queue has room */
static int run_launch(int argc, char **argv)
{
        size_t n = strtoul(argv[0], NULL, 10);
        double *t = doubles(n);

        for (size_t i = 0; i < n; i++) {
                uint64_t begin = now_ns();

                NEED(launch(KERNEL_EMPTY, 1, 1, NULL, NULL));
                t[i] = (double)(now_ns() - begin) / 1e3;
                if (i % BATCH == BATCH - 1)
                        TRY(p_cuCtxSynchronize());
        }
        TRY(p_cuCtxSynchronize());
        say_spread("launch", "_us", t, n);
        free(t);
        return DONE;
}

/* roundtrip N: from the launch of an empty kernel to the host's knowing that it is done */
static int run_roundtrip(int argc, char **argv)
{
        size_t n = strtoul(argv[0], NULL, 10);
        double *t = doubles(n);

        for (size_t i = 0; i < n; i++) {
                uint64_t begin = now_ns();

                NEED(launch(KERNEL_EMPTY, 1, 1, NULL, NULL));
                TRY(p_cuStreamSynchronize(NULL));
                t[i] = (double)(now_ns() - begin) / 1e3;
        }
        say_spread("roundtrip", "_us", t, n);
        free(t);
        return DONE;
}

/* allocate BYTES N: cuMemAlloc and cuMemFree of one block at a time */
static int run_allocate(int argc, char **argv)
{
        size_t bytes = strtoul(argv[0], NULL, 10), n = strtoul(argv[1], NULL, 10);
        double *taking = doubles(n), *giving = doubles(n);
        CUdeviceptr memory;

        for (size_t i = 0; i < n; i++) {
                uint64_t begin = now_ns();

                TRY(p_cuMemAlloc_v2(&memory, bytes));
                taking[i] = (double)(now_ns() - begin) / 1e3;
                begin = now_ns();
                TRY(p_cuMemFree_v2(memory));
                giving[i] = (double)(now_ns() - begin) / 1e3;
        }
        say_spread("alloc", "_us", taking, n);
        say_spread("free", "_us", giving, n);
        free(taking);
        free(giving);
        return DONE;
}

/* live COUNT N: cuMemAlloc and cuMemFree of 512 bytes among COUNT others that live */
static int run_live(int argc, char **argv)
{
        size_t count = strtoul(argv[0], NULL, 10), n = strtoul(argv[1], NULL, 10);
        CUdeviceptr *others = calloc(count + 1, sizeof(*others)), memory;
        double *t = doubles(n);

        if (!others)
                return fail("no memory for %zu pointers", count);
        for (size_t i = 0; i < count; i++)
                TRY(p_cuMemAlloc_v2(&others[i], 512));
        for (size_t i = 0; i < n; i++) {
                uint64_t begin = now_ns();

                TRY(p_cuMemAlloc_v2(&memory, 512));
                TRY(p_cuMemFree_v2(memory));
                t[i] = (double)(now_ns() - begin);
        }
        for (size_t i = 0; i < count; i++)
                TRY(p_cuMemFree_v2(others[i]));
        say_spread("pair", "_ns", t, n);
        free(others);
        free(t);
        return DONE;
}

/* noop N: a call that asks the driver for nothing but a thread's variable, found as frameworks find
 * their entries */
static int run_noop(int argc, char **argv)
{
        enum { CALLS = 1000 };
        size_t n = strtoul(argv[0], NULL, 10);
        double *t = doubles(n);
        __typeof__(p_cuCtxGetCurrent) get_current = NULL;
        CUdriverProcAddressQueryResult found;
        CUcontext context;

        TRY(p_cuGetProcAddress_v2("cuCtxGetCurrent", (void **)&get_current, 12000, 0, &found));
        if (!get_current)
                return fail("cuGetProcAddress does not find cuCtxGetCurrent");
        for (size_t i = 0; i < n; i++) {
                uint64_t begin = now_ns();

                for (int k = 0; k < CALLS; k++)
                        get_current(&context);
                t[i] = (double)(now_ns() - begin) / CALLS;
        }
        say_spread("noop", "_ns", t, n);
        free(t);
        return DONE;
}

static double cpu_seconds(void)
{
        struct rusage u;

        getrusage(RUSAGE_SELF, &u);
        return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* idle MS: processor time that this process takes, in all its threads, while it does nothing */
static int run_idle(int argc, char **argv)
{
        uint64_t begin = now_ns();
        double cpu = cpu_seconds();

        sleep_until(begin + strtoul(argv[0], NULL, 10) * 1000000u);
        say("cpu_percent", 100 * (cpu_seconds() - cpu) / ((double)(now_ns() - begin) / 1e9));
        return DONE;
}

/* Allocates and frees n times once it is told to; the times into t. */
static bool swarm(double *t, size_t n)
{
        CUdeviceptr memory;
        char go;

        if (gpu_start() != DONE || write(STDOUT_FILENO, "r", 1) != 1 ||
                read(STDIN_FILENO, &go, 1) != 1)
                return false;
        for (size_t i = 0; i < n; i++) {
                uint64_t begin = now_ns();

                if (p_cuMemAlloc_v2(&memory, SWARM_BYTES) != CUDA_SUCCESS)
                        return false;
                t[i] = (double)(now_ns() - begin) / 1e3;
                if (p_cuMemFree_v2(memory) != CUDA_SUCCESS)
                        return false;
        }
        return fwrite(t, sizeof(*t), n, stdout) == n && fflush(stdout) == 0;
}

int swarm_member(int argc, char **argv)
{
        size_t n = argc == 1 ? strtoul(argv[0], NULL, 10) : 0;
        double *t = doubles(n);
        bool good = n > 0 && swarm(t, n);

        free(t);
        return good ? 0 : 1;
}

struct member {
        pid_t pid;
        int to, from;
};

static int start_member(struct member *member, char *count)
{
        char *const argv[] = {"worker", "--swarm", count, NULL};
        int to[2], from[2];

        if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
                return fail("no pipe: %s", strerror(errno));
        member->pid = fork();
        if (member->pid == 0) {
                dup2(to[0], STDIN_FILENO);
                dup2(from[1], STDOUT_FILENO);
                execv("/proc/self/exe", argv);
                _exit(127);
        }
        close(to[0]);
        close(from[1]);
        member->to = to[1];
        member->from = from[0];
        return member->pid < 0 ? fail("no process: %s", strerror(errno)) : DONE;
}

static bool read_all(int fd, void *data, size_t size)
{
        for (size_t filled = 0; filled < size;) {
                ssize_t n = read(fd, (char *)data + filled, size - filled);

                if (n <= 0)
                        return false;
                filled += (size_t)n;
        }
        return true;
}

/* swarm PROCESSES N: cuMemAlloc of 2 MiB in so many processes at once, N times in each */
static int run_swarm(int argc, char **argv)
{
        unsigned processes = (unsigned)strtoul(argv[0], NULL, 10), started = 0;
        size_t n = strtoul(argv[1], NULL, 10);
        struct member members[SWARM_MAX];
        double *t;
        int r = DONE;
        char ready;

        if (processes == 0 || processes > SWARM_MAX)
                return fail("1 to %d processes", SWARM_MAX);
        t = doubles(n * processes);
        while (r == DONE && started < processes)
                r = start_member(&members[started++], argv[1]);
        for (unsigned i = 0; i < started && r == DONE; i++)
                if (!read_all(members[i].from, &ready, 1))
                        r = fail("a process of the swarm does not start");
        for (unsigned i = 0; i < started && r == DONE; i++)
                if (write(members[i].to, "g", 1) != 1)
                        r = fail("a process of the swarm ended before its time");
        for (unsigned i = 0; i < started && r == DONE; i++)
                if (!read_all(members[i].from, t + n * i, n * sizeof(*t)))
                        r = fail("a process of the swarm could not allocate");
        for (unsigned i = 0; i < started; i++) {
                close(members[i].to);
                close(members[i].from);
                waitpid(members[i].pid, NULL, 0);
        }
        if (r == DONE)
                say_spread("alloc", "_us", t, n * processes);
        free(t);
        return r;
}

/* check: whether the GPU still computes right for this process */
static int run_check(int argc, char **argv)
{
        return gpu_check();
}

/* fault KIND: breaks this process's context, and tells when the host learns of it; the process is
 * of no use afterwards */
static int run_fault(int argc, char **argv)
{
        uint64_t count = 1, begin = now_ns();
        CUdeviceptr nowhere = 16;
        uint32_t value = 1;
        void *params[] = {&nowhere, &value, &count};
        const char *name = NULL;
        CUresult result;

        if (strcmp(argv[0], "illegal") == 0)
                NEED(launch(KERNEL_FILL, 1, 32, NULL, params));
        else if (strcmp(argv[0], "trap") == 0)
                NEED(launch(KERNEL_TRAP, 1, 1, NULL, NULL));
        else
                return fail("there is no fault %s", argv[0]);
        result = p_cuCtxSynchronize();
        if (result == CUDA_SUCCESS)
                return fail("a kernel that faults ended well");
        say("detected_us", (double)(now_ns() - begin) / 1e3);
        p_cuGetErrorName(result, &name);
        say_text("result", name ? name : "");
        return DONE;
}

const struct command call_commands[] = {
        {"launch", 1, run_launch},
        {"roundtrip", 1, run_roundtrip},
        {"allocate", 2, run_allocate},
        {"live", 2, run_live},
        {"noop", 1, run_noop},
        {"idle", 1, run_idle},
        {"swarm", 2, run_swarm},
        {"check", 0, run_check},
        {"fault", 1, run_fault},
        {NULL, 0, NULL},
};
