/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CUDA program that shows where and when its kernels run. On one line each: commands on standard
 * input, answers on standard output; the first answer is "ready SMS".
 *
 *   stay NS        a block on each of its SMs, alone there, for so long: "START END", the latest
 *                  beginning and the earliest end of all blocks by the device's clock, and the
 *                  number of SMs that they saw
 *   serve RATE US SECONDS    requests at random times, each a kernel of so many microseconds on all
 *                  its SMs: "N P50 P99", microseconds from when a request was due to its end
 *   load US SECONDS          as many such kernels as it can: how many a second
 *   stream SECONDS           reads and writes device memory as fast as it can: GB a second
 *   endless US     as load, until it fails: the driver's error
 *   requests US BEGIN END    such kernels one after the other; of those that began and ended
 *                  between two instants of CLOCK_MONOTONIC, in seconds: "N P50 P99", microseconds
 *   rate US        such kernels until the next line: how many SM microseconds one is, and when each
 *                  ended (CLOCK_MONOTONIC)
 *   queue US       as rate, but nothing comes between the kernels, which are not waited for by
 * events: each is followed by one that says so in host memory clusters       on how many of its SMs
 * kernels with clusters of 1, 2, 4 and 8 blocks, a block on each SM, can be at once
 *
 * usage: worker PTX
 */
#include <dlfcn.h>
#include <math.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda_api.h"

#define WHOLE_SM    (200 << 10) /* bytes of shared memory: more than half of an SM's */
#define MAX_SMS     256
#define QUEUE       16
#define STREAM_SIZE (256ul << 20)
#define REQUESTS    100000

static void *cuda;
#define CU(name) ((__typeof__(&name))dlsym(cuda, #name))

static CUfunction spin, stay, smid, saxpy, store_clock;
static CUdeviceptr memory;
static int sms;

static void check(CUresult result, const char *what)
{
        const char *name = NULL;

        if (result == CUDA_SUCCESS)
                return;
        CU(cuGetErrorName)(result, &name);
        printf("error %d %s %s\n", (int)result, name ? name : "?", what);
        fflush(stdout);
        exit(1);
}
#define OK(name, ...) check(CU(name)(__VA_ARGS__), #name)

static double now(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void launch(CUfunction function, int blocks, int threads, unsigned shared, void **params)
{
        OK(cuLaunchKernel, function, (unsigned)blocks, 1, 1, (unsigned)threads, 1, 1, shared, NULL,
                params, NULL);
}

static void run_stay(uint64_t ns)
{
        static uint64_t times[2 * MAX_SMS];
        static uint32_t seen[4 * MAX_SMS];
        uint64_t start = 0, end = UINT64_MAX;
        bool known[MAX_SMS] = {false};
        unsigned n = 0;

        launch(stay, sms, 32, WHOLE_SM, (void *[]){&memory, &ns});
        OK(cuCtxSynchronize);
        OK(cuMemcpyDtoH_v2, times, memory, sizeof(uint64_t) * 2 * (size_t)sms);
        for (int i = 0; i < sms; i++) {
                start = times[2 * i] > start ? times[2 * i] : start;
                end = times[2 * i + 1] < end ? times[2 * i + 1] : end;
        }
        launch(smid, 4 * sms, 1024, 0, (void *[]){&memory});
        OK(cuMemcpyDtoH_v2, seen, memory, sizeof(uint32_t) * 4 * (size_t)sms);
        for (int i = 0; i < 4 * sms; i++)
                if (seen[i] < MAX_SMS && !known[seen[i]]) {
                        known[seen[i]] = true;
                        n++;
                }
        printf("%llu %llu %u\n", (unsigned long long)start, (unsigned long long)end, n);
}

static int compare(const void *a, const void *b)
{
        double difference = *(const double *)a - *(const double *)b;

        return difference < 0 ? -1 : difference > 0;
}

static void wait_until(double due)
{
        struct timespec pause = {.tv_nsec = 50000};

        while (due - now() > 2e-4)
                nanosleep(&pause, NULL);
        while (now() < due)
                ;
}

static void run_serve(double rate, uint64_t us, double seconds)
{
        static double took[REQUESTS];
        uint64_t ns = us * 1000;
        double begin = now(), due = begin;
        int n = 0;

        srand48(1);
        while (n < REQUESTS) {
                due += -log(1 - drand48()) / rate;
                if (due - begin > seconds)
                        break;
                wait_until(due);
                launch(spin, sms, 32, 0, (void *[]){&ns});
                OK(cuCtxSynchronize);
                took[n++] = (now() - due) * 1e6;
        }
        qsort(took, (size_t)n, sizeof(*took), compare);
        printf("%d %.1f %.1f\n", n, n ? took[n / 2] : 0, n ? took[(n - 1) * 99 / 100] : 0);
}

/* seconds 0: until it fails */
static void run_load(uint64_t us, double seconds)
{
        uint64_t ns = us * 1000, n = 0;
        CUevent event[QUEUE];
        double begin;

        for (int i = 0; i < QUEUE; i++)
                OK(cuEventCreate, &event[i], CU_EVENT_DISABLE_TIMING);
        begin = now();
        for (; seconds <= 0 || now() - begin < seconds; n++) {
                if (n >= QUEUE)
                        OK(cuEventSynchronize, event[n % QUEUE]);
                launch(spin, sms, 32, 0, (void *[]){&ns});
                OK(cuEventRecord, event[n % QUEUE], NULL);
        }
        OK(cuCtxSynchronize);
        printf("%.3f\n", (double)n / (now() - begin));
        for (int i = 0; i < QUEUE; i++)
                OK(cuEventDestroy_v2, event[i]);
}

static void run_stream(double seconds)
{
        CUdeviceptr x, y;
        float a = 1;
        uint64_t count = STREAM_SIZE / sizeof(float), n = 0;
        double begin;

        OK(cuMemAlloc_v2, &x, STREAM_SIZE);
        OK(cuMemAlloc_v2, &y, STREAM_SIZE);
        for (begin = now(); now() - begin < seconds; n++) {
                launch(saxpy, (int)(count / 256), 256, 0, (void *[]){&y, &x, &a, &count});
                OK(cuCtxSynchronize);
        }
        printf("%.1f\n", 3.0 * (double)STREAM_SIZE * (double)n / (now() - begin) / 1e9);
        OK(cuMemFree_v2, x);
        OK(cuMemFree_v2, y);
}

static void run_requests(uint64_t us, double begin, double end)
{
        static double took[REQUESTS];
        uint64_t ns = us * 1000;
        int n = 0;

        while (now() < end && n < REQUESTS) {
                double start = now(), stop;

                launch(spin, sms, 32, 0, (void *[]){&ns});
                OK(cuCtxSynchronize);
                stop = now();
                if (start >= begin && stop <= end)
                        took[n++] = (stop - start) * 1e6;
        }
        qsort(took, (size_t)n, sizeof(*took), compare);
        printf("%d %.1f %.1f\n", n, n ? took[n / 2] : 0, n ? took[(n - 1) * 99 / 100] : 0);
}

static void say_ends(uint64_t us, const double *ends, int n)
{
        char line[128];

        if (!fgets(line, sizeof(line), stdin))
                return;
        printf("%llu", (unsigned long long)us * 1000000 * (unsigned)sms);
        for (int i = 0; i < n; i++)
                printf(" %.6f", ends[i]);
        putchar('\n');
}

static void run_rate(uint64_t us)
{
        static double ends[REQUESTS];
        struct pollfd input = {.fd = 0, .events = POLLIN};
        uint64_t ns = us * 1000;
        CUevent event[2];
        int n = 0;

        for (int i = 0; i < 2; i++)
                OK(cuEventCreate, &event[i], CU_EVENT_DISABLE_TIMING);
        for (; n < REQUESTS && poll(&input, 1, 0) == 0; n++) {
                launch(spin, sms, 32, 0, (void *[]){&ns});
                OK(cuEventRecord, event[n % 2], NULL);
                if (n == 0)
                        continue;
                OK(cuEventSynchronize, event[(n - 1) % 2]);
                ends[n - 1] = now();
        }
        OK(cuCtxSynchronize);
        for (int i = 0; i < 2; i++)
                OK(cuEventDestroy_v2, event[i]);
        say_ends(us, ends, n > 0 ? n - 1 : 0);
}

static void run_queue(uint64_t us)
{
        static double ends[REQUESTS];
        struct pollfd input = {.fd = 0, .events = POLLIN};
        struct timespec pause = {.tv_nsec = 20000};
        _Atomic uint64_t *done;
        uint64_t ns = us * 1000;
        CUdeviceptr clocks;
        void *host;
        int head = 0, n = 0;

        OK(cuMemHostAlloc, &host, QUEUE * sizeof(*done), CU_MEMHOSTALLOC_DEVICEMAP);
        OK(cuMemHostGetDevicePointer_v2, &clocks, host, 0);
        done = host;
        for (int i = 0; i < QUEUE; i++)
                atomic_store(&done[i], 0);
        while (n < REQUESTS && poll(&input, 1, 0) == 0) {
                for (; head - n < QUEUE; head++) {
                        CUdeviceptr at = clocks + (unsigned)(head % QUEUE) * sizeof(*done);

                        launch(spin, sms, 32, 0, (void *[]){&ns});
                        launch(store_clock, 1, 1, 0, (void *[]){&at});
                }
                while (n < head && n < REQUESTS && atomic_load(&done[n % QUEUE])) {
                        atomic_store(&done[n % QUEUE], 0);
                        ends[n++] = now();
                }
                nanosleep(&pause, NULL);
        }
        OK(cuCtxSynchronize);
        OK(cuMemFreeHost, host);
        say_ends(us, ends, n);
}

static void run_clusters(void)
{
        for (unsigned size = 1; size <= 8; size *= 2) {
                CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                        .value.clusterDim = {size, 1, 1}};
                CUlaunchConfig config = {.gridDimX = (unsigned)sms / size * size,
                        .gridDimY = 1,
                        .gridDimZ = 1,
                        .blockDimX = 32,
                        .blockDimY = 1,
                        .blockDimZ = 1,
                        .sharedMemBytes = WHOLE_SM,
                        .attrs = &attribute,
                        .numAttrs = 1};
                int count = 0;

                OK(cuOccupancyMaxActiveClusters, &count, stay, &config);
                printf("%s%d", size > 1 ? " " : "", count * (int)size);
        }
        putchar('\n');
}

static void load(const char *path)
{
        char *text = calloc(1, 1 << 20);
        FILE *file = fopen(path, "re");
        CUmodule module;

        if (!text || !file || !fread(text, 1, (1 << 20) - 1, file)) {
                printf("error 0 cannot read %s\n", path);
                exit(1);
        }
        fclose(file);
        OK(cuModuleLoadData, &module, text);
        free(text);
        OK(cuModuleGetFunction, &spin, module, "cleave_spin");
        OK(cuModuleGetFunction, &stay, module, "cleave_stay");
        OK(cuModuleGetFunction, &smid, module, "cleave_smid");
        OK(cuModuleGetFunction, &saxpy, module, "cleave_saxpy_f32");
        OK(cuModuleGetFunction, &store_clock, module, "cleave_store_clock");
        OK(cuFuncSetAttribute, stay, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, WHOLE_SM);
}

int main(int argc, char **argv)
{
        uint64_t warm = 1000;
        char line[128];
        CUcontext context;

        cuda = dlopen("libcuda.so.1", RTLD_NOW);
        if (argc != 2 || !cuda)
                return 2;
        OK(cuInit, 0);
        OK(cuDevicePrimaryCtxRetain, &context, 0);
        OK(cuCtxSetCurrent, context);
        OK(cuDeviceGetAttribute, &sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0);
        if (sms < 1 || sms > MAX_SMS)
                return 2;
        OK(cuMemAlloc_v2, &memory, 64 << 10);
        load(argv[1]);
        launch(spin, 1, 1, 0, (void *[]){&warm});
        OK(cuCtxSynchronize);
        printf("ready %d\n", sms);
        fflush(stdout);
        while (fgets(line, sizeof(line), stdin)) {
                unsigned long long us;
                double rate, seconds, begin;

                if (sscanf(line, "stay %llu", &us) == 1)
                        run_stay(us);
                else if (sscanf(line, "serve %lf %llu %lf", &rate, &us, &seconds) == 3)
                        run_serve(rate, us, seconds);
                else if (sscanf(line, "load %llu %lf", &us, &seconds) == 2)
                        run_load(us, seconds);
                else if (sscanf(line, "stream %lf", &seconds) == 1)
                        run_stream(seconds);
                else if (sscanf(line, "endless %llu", &us) == 1)
                        run_load(us, 0);
                else if (sscanf(line, "requests %llu %lf %lf", &us, &begin, &seconds) == 3)
                        run_requests(us, begin, seconds);
                else if (sscanf(line, "rate %llu", &us) == 1)
                        run_rate(us);
                else if (sscanf(line, "queue %llu", &us) == 1)
                        run_queue(us);
                else if (strcmp(line, "clusters\n") == 0)
                        run_clusters();
                fflush(stdout);
        }
        return 0;
}
