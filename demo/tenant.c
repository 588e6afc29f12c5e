/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program as there are many: it knows nothing of Cleave, opens the CUDA driver, and takes device
 * memory a step at a time until it is refused or has what it wants. Then it holds it.
 *
 * usage: tenant NAME STEP_MIB WANTED_MIB PAUSE_MS
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cuda_api.h"

#define MIB  ((size_t)1 << 20)
#define GIB  ((double)((size_t)1 << 30))
#define FILL (4 * MIB) /* of each step; what a small /dev/shm can back when simulated */

static const char *name;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
        va_list list;

        printf("  %-5s | ", name);
        va_start(list, format);
        vprintf(format, list);
        va_end(list);
        putchar('\n');
        fflush(stdout);
}

static void *entry(void *driver, const char *symbol)
{
        void *address = dlsym(driver, symbol);

        if (!address) {
                say("the driver has no %s", symbol);
                exit(1);
        }
        return address;
}

static void must(CUresult result, const char *what)
{
        if (result != CUDA_SUCCESS) {
                say("%s: CUDA error %d", what, result);
                exit(1);
        }
}

static void sleep_ms(long ms)
{
        nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

int main(int argc, char **argv)
{
        void *driver = dlopen("libcuda.so.1", RTLD_NOW);
        size_t step, wanted, held = 0, total, left;
        CUdeviceptr block;
        CUcontext context;
        CUdevice device;
        CUresult r;
        long pause;

        if (argc != 5) {
                fprintf(stderr, "usage: tenant NAME STEP_MIB WANTED_MIB PAUSE_MS\n");
                return 2;
        }
        name = argv[1];
        step = strtoul(argv[2], NULL, 10) * MIB;
        wanted = strtoul(argv[3], NULL, 10) * MIB;
        pause = strtol(argv[4], NULL, 10);
        if (!driver) {
                say("no CUDA driver: %s", dlerror());
                return 1;
        }
#define ENTRY(symbol) __typeof__(&symbol) p_##symbol = (__typeof__(&symbol))entry(driver, #symbol)
        ENTRY(cuInit);
        ENTRY(cuDeviceGet);
        ENTRY(cuDevicePrimaryCtxRetain);
        ENTRY(cuCtxSetCurrent);
        ENTRY(cuMemGetInfo_v2);
        ENTRY(cuMemAlloc_v2);
        ENTRY(cuMemsetD8_v2);
#undef ENTRY
        must(p_cuInit(0), "cuInit");
        must(p_cuDeviceGet(&device, 0), "cuDeviceGet");
        must(p_cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
        must(p_cuCtxSetCurrent(context), "cuCtxSetCurrent");
        must(p_cuMemGetInfo_v2(&left, &total), "cuMemGetInfo");
        say("my GPU has %.1f GiB, of which %.1f are free", (double)total / GIB, (double)left / GIB);

        while (held < wanted) {
                r = p_cuMemAlloc_v2(&block, step);
                if (r == CUDA_ERROR_OUT_OF_MEMORY) {
                        must(p_cuMemGetInfo_v2(&left, &total), "cuMemGetInfo");
                        say("out of memory: %zu MiB more were refused, %zu are free; I go on",
                                step / MIB, left / MIB);
                        break;
                }
                must(r, "cuMemAlloc");
                must(p_cuMemsetD8_v2(block, 0x5a, step < FILL ? step : FILL), "cuMemsetD8");
                held += step;
                say("I hold %.1f GiB", (double)held / GIB);
                sleep_ms(pause);
        }
        say("I keep what I have");
        for (;;)
                sleep_ms(1000);
}
