/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guard adds to a call, measured inside one process, to the nanosecond: calls go by turns
 * through the guard and past it. Past it means the driver's own entry, found in the driver's own
 * library, and for calls that reach the kernel's driver also its own ioctl: the slot of its table
 * of imported functions which the guard has redirected is set to what it held before, and back.
 *
 * Prints a JSON object: for each call the median of both in nanoseconds, and the median over turns
 * of the difference of the medians. Run it under `cleave run`; elsewhere it says that there is no
 * guard.
 *
 * usage: within [FACTOR], of the number of turns; 60 without
 */
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cuda_api.h"
#include "timing.h"

#define ENTRIES(X)                                                                                 \
        X(cuInit)                                                                                  \
        X(cuDevicePrimaryCtxRetain)                                                                \
        X(cuCtxSetCurrent)                                                                         \
        X(cuCtxGetCurrent)                                                                         \
        X(cuCtxSynchronize)                                                                        \
        X(cuModuleLoadData)                                                                        \
        X(cuModuleGetFunction)                                                                     \
        X(cuLaunchKernel)                                                                          \
        X(cuMemAlloc_v2)                                                                           \
        X(cuMemFree_v2)                                                                            \
        X(cuMemAllocAsync)                                                                         \
        X(cuMemFreeAsync)

/* The same entries by two ways: [0] past the guard, [1] through it. */
static struct entries {
#define X(name) __typeof__(&name) name;
        ENTRIES(X)
#undef X
} way[2];

static uintptr_t *slots[8], past, through;
static unsigned n_slots;
static CUfunction function;

static void must(CUresult result, const char *what)
{
        if (result == CUDA_SUCCESS)
                return;
        fprintf(stderr, "%s: CUDA error %d\n", what, result);
        exit(1);
}

static bool find_entries(void *library, struct entries *ret)
{
#define X(name)                                                                                    \
        ret->name = (__typeof__(ret->name))dlsym(library, #name);                                  \
        if (!ret->name)                                                                            \
                return false;
        ENTRIES(X)
#undef X
        return true;
}

/* The mapped library of the driver's name that is not the one which answers to it. */
static int find_driver(struct dl_phdr_info *info, size_t size, void *arg)
{
        char *name = arg;
        const char *base = strrchr(info->dlpi_name, '/');
        struct entries found;
        void *library;

        if (!base || strncmp(base + 1, "libcuda.so", strlen("libcuda.so")) != 0)
                return 0;
        library = dlopen(info->dlpi_name, RTLD_NOW | RTLD_NOLOAD);
        if (!library || !find_entries(library, &found) || found.cuInit == way[1].cuInit)
                return 0;
        way[0] = found;
        snprintf(name, PATH_MAX, "%s", info->dlpi_name);
        return 1;
}

/* Which library the guard takes for the driver: a child tries it out. */
static bool ask_driver(char name[PATH_MAX])
{
        int ends[2];
        pid_t child;

        if (pipe(ends) < 0 || (child = fork()) < 0)
                return false;
        if (child == 0) {
                bool told = way[1].cuInit(0) == CUDA_SUCCESS &&
                            dl_iterate_phdr(find_driver, name) &&
                            write(ends[1], name, PATH_MAX) == PATH_MAX;

                _exit(!told);
        }
        close(ends[1]);
        waitpid(child, NULL, 0);
        return read(ends[0], name, PATH_MAX) == PATH_MAX;
}

static uintptr_t table_of(const struct dl_phdr_info *info, uintptr_t address)
{
        return address < info->dlpi_addr ? address + info->dlpi_addr : address;
}

/* The driver's slots for ioctl. */
static int find_slots(struct dl_phdr_info *info, size_t size, void *arg)
{
        uintptr_t symbols = 0, strings = 0, tables[2] = {0};
        size_t bytes[2] = {0};
        const ElfW(Dyn) *dynamic = NULL;

        if (strcmp(info->dlpi_name, arg) != 0)
                return 0;
        for (unsigned i = 0; i < info->dlpi_phnum; i++)
                if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
                        dynamic = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
        for (; dynamic && dynamic->d_tag != DT_NULL; dynamic++) {
                uintptr_t at = table_of(info, dynamic->d_un.d_ptr);

                if (dynamic->d_tag == DT_SYMTAB)
                        symbols = at;
                else if (dynamic->d_tag == DT_STRTAB)
                        strings = at;
                else if (dynamic->d_tag == DT_JMPREL || dynamic->d_tag == DT_RELA)
                        tables[dynamic->d_tag == DT_RELA] = at;
                else if (dynamic->d_tag == DT_PLTRELSZ || dynamic->d_tag == DT_RELASZ)
                        bytes[dynamic->d_tag == DT_RELASZ] = dynamic->d_un.d_val;
        }
        for (int t = 0; symbols && strings && t < 2; t++) {
                const ElfW(Rela) *rela = (const ElfW(Rela) *)tables[t];

                for (size_t i = 0; rela && i < bytes[t] / sizeof(*rela); i++) {
                        const ElfW(Sym) *symbol =
                                (const ElfW(Sym) *)symbols + ELF64_R_SYM(rela[i].r_info);

                        if (strcmp((const char *)strings + symbol->st_name, "ioctl") == 0 &&
                                n_slots < sizeof(slots) / sizeof(*slots))
                                slots[n_slots++] =
                                        (uintptr_t *)(info->dlpi_addr + rela[i].r_offset);
                }
        }
        return 1;
}

/* Makes the slots writable, and says whether they are redirected. */
static bool open_slots(void)
{
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

        through = n_slots ? *slots[0] : 0;
        for (unsigned i = 0; i < n_slots; i++)
                if (mprotect((void *)((uintptr_t)slots[i] & ~(page - 1)), page,
                            PROT_READ | PROT_WRITE) < 0)
                        return false;
        return through != past;
}

static void go(int which)
{
        for (unsigned i = 0; i < n_slots; i++)
                *slots[i] = which ? through : past;
}

/* ---- the calls: each returns what one of n took, in nanoseconds ---- */

static double launches(const struct entries *e, int n, double *scratch, size_t bytes)
{
        for (int i = 0; i < n; i++) {
                double t = now_ns();

                e->cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
                scratch[i] = now_ns() - t;
        }
        must(e->cuCtxSynchronize(), "cuCtxSynchronize");
        return median(scratch, n);
}

static double current(const struct entries *e, int n, double *scratch, size_t bytes)
{
        double t = now_ns();
        CUcontext context;

        for (int i = 0; i < n; i++)
                e->cuCtxGetCurrent(&context);
        return (now_ns() - t) / n;
}

static double allocs(const struct entries *e, int n, double *scratch, size_t bytes)
{
        CUdeviceptr pointer;

        for (int i = 0; i < n; i++) {
                double t = now_ns();

                must(e->cuMemAlloc_v2(&pointer, bytes), "cuMemAlloc");
                scratch[i] = now_ns() - t;
                must(e->cuMemFree_v2(pointer), "cuMemFree");
        }
        return median(scratch, n);
}

static double frees(const struct entries *e, int n, double *scratch, size_t bytes)
{
        CUdeviceptr pointer;

        for (int i = 0; i < n; i++) {
                must(e->cuMemAlloc_v2(&pointer, bytes), "cuMemAlloc");
                double t = now_ns();

                must(e->cuMemFree_v2(pointer), "cuMemFree");
                scratch[i] = now_ns() - t;
        }
        return median(scratch, n);
}

static double asyncs(const struct entries *e, int n, double *scratch, size_t bytes)
{
        CUdeviceptr pointer;

        for (int i = 0; i < n; i++) {
                double t = now_ns();

                must(e->cuMemAllocAsync(&pointer, bytes, NULL), "cuMemAllocAsync");
                must(e->cuMemFreeAsync(pointer, NULL), "cuMemFreeAsync");
                scratch[i] = now_ns() - t;
        }
        return median(scratch, n);
}

/* Few calls a turn and many turns: what disturbs the machine then meets both ways alike. */
static const struct {
        const char *name;
        double (*run)(const struct entries *, int n, double *scratch, size_t bytes);
        int n, turns;
        size_t bytes;
} calls[] = {
        {"cuLaunchKernel", launches, 20, 50, 0},
        {"cuCtxGetCurrent", current, 2000, 2, 0},
        {"cuMemAlloc 4 KiB", allocs, 3, 20, 4 << 10},
        {"cuMemAlloc 2 MiB", allocs, 3, 20, 2 << 20},
        {"cuMemAlloc 64 MiB", allocs, 3, 20, 64 << 20},
        {"cuMemFree 2 MiB", frees, 3, 20, 2 << 20},
        {"cuMemAllocAsync and free 1 MiB", asyncs, 20, 20, 1 << 20},
};
#define N_CALLS (sizeof(calls) / sizeof(*calls))

static const char ptx[] = ".version 6.0\n.target sm_50\n.address_size 64\n"
                          ".visible .entry cleave_empty()\n{\n ret;\n}\n";

int main(int argc, char **argv)
{
        int factor = argc > 1 ? atoi(argv[1]) : 60, most = 0;
        double *seen[2], *difference, scratch[50];
        char driver[PATH_MAX] = "";
        CUcontext context;
        CUmodule module;
        void *library;

        if (factor < 1 || factor > 100000)
                return 2;
        for (unsigned c = 0; c < N_CALLS; c++)
                most = calls[c].turns > most ? calls[c].turns : most;
        for (int w = 0; w < 2; w++)
                seen[w] = calloc((size_t)most * (size_t)factor, sizeof(double));
        difference = calloc((size_t)most * (size_t)factor, sizeof(double));
        if (!seen[0] || !seen[1] || !difference)
                return 1;
        library = dlopen("libcuda.so.1", RTLD_NOW);
        if (!library || !find_entries(library, &way[1])) {
                fprintf(stderr, "%s\n", dlerror());
                return 1;
        }
        if (!ask_driver(driver) || !dlopen(driver, RTLD_NOW | RTLD_LOCAL)) {
                fprintf(stderr, "there is no guard in this process: run it under `cleave run`\n");
                return 1;
        }
        dl_iterate_phdr(find_slots, driver);
        past = n_slots ? *slots[0] : 0;
        must(way[1].cuInit(0), "cuInit");
        must(way[1].cuDevicePrimaryCtxRetain(&context, 0), "cuDevicePrimaryCtxRetain");
        must(way[1].cuCtxSetCurrent(context), "cuCtxSetCurrent");
        must(way[1].cuModuleLoadData(&module, ptx), "cuModuleLoadData");
        must(way[1].cuModuleGetFunction(&function, module, "cleave_empty"), "cuModuleGetFunction");
        if (!dl_iterate_phdr(find_driver, driver) || !open_slots()) {
                fprintf(stderr, "the guard did not redirect %s\n", driver);
                return 1;
        }
        printf("{\"driver\": \"%s\", \"calls\": [", driver);
        for (unsigned c = 0; c < N_CALLS; c++) {
                int turns = calls[c].turns * factor;

                for (int w = 0; w < 2; w++) { /* warm up */
                        go(w);
                        calls[c].run(&way[w], calls[c].n, scratch, calls[c].bytes);
                }
                for (int turn = 0; turn < turns; turn++) {
                        for (int i = 0; i < 2; i++) {
                                int w = (turn + i) % 2;

                                go(w);
                                seen[w][turn] =
                                        calls[c].run(&way[w], calls[c].n, scratch, calls[c].bytes);
                        }
                        difference[turn] = seen[1][turn] - seen[0][turn];
                }
                go(1);
                printf("%s\n {\"call\": \"%s\", \"past_ns\": %.1f, \"through_ns\": %.1f, "
                       "\"difference_ns\": %.1f, \"turns\": %d}",
                        c ? "," : "", calls[c].name, median(seen[0], turns), median(seen[1], turns),
                        median(difference, turns), turns);
        }
        printf("]}\n");
        return 0;
}
