/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernels that the simulated GPU can run: those of tests/kernels/cleave.ptx and those of
 * bench/probes/load.c, by name, with the same results in C. Where the order of threads is open on a
 * GPU, it is open here.
 */
#include <string.h>

#include "green.h"
#include "kernel.h"
#include "module.h"

/* What a kernel sees. */
struct grid {
        const struct launch *launch;
        struct sim_context *context;
        uint64_t threads; /* in x, which is all that the kernels look at */
        uint64_t times;   /* how often each x occurs: the other dimensions */
};

#define CHAIN_NS 4ull /* a turn of cleave_chain; as on an H100, by its order */
#define ILLEGAL  (-(int)CUDA_ERROR_ILLEGAL_ADDRESS)

static uint64_t get(const struct grid *grid, unsigned index)
{
        const struct ptx_param *param = &grid->launch->function->entry->params[index];
        uint64_t value = 0;

        memcpy(&value, grid->launch->params + param->offset,
                param->size < sizeof(value) ? param->size : sizeof(value));
        return value;
}

/* The memory that a pointer parameter names: count elements of it, all of which the grid touches.
 */
static int map(const struct grid *grid, unsigned index, uint64_t count, size_t element, bool write,
        void *ret)
{
        CUdeviceptr pointer = get(grid, index);

        if (count > UINT64_MAX / element)
                return ILLEGAL;
        if (count && pointer % element)
                return -(int)CUDA_ERROR_MISALIGNED_ADDRESS;
        if (count && (memory_check(pointer, count * element, write) ||
                             !sim_is_backed((void *)(uintptr_t)pointer)))
                return ILLEGAL;
        *(void **)ret = (void *)(uintptr_t)pointer;
        return 0;
}

static int run_empty(const struct grid *grid)
{
        return 0;
}

static int run_fill_u32(const struct grid *grid)
{
        uint64_t count = get(grid, 2);
        uint32_t value = (uint32_t)get(grid, 1), *dst;
        int r = map(grid, 0, count, sizeof(*dst), true, &dst);

        for (uint64_t i = 0; r == 0 && i < count; i++)
                dst[i] = value;
        return r;
}

static int run_add_f32(const struct grid *grid)
{
        uint64_t count = get(grid, 3);
        float *dst, *a, *b;
        int r = map(grid, 0, count, sizeof(*dst), true, &dst);

        if (r == 0)
                r = map(grid, 1, count, sizeof(*a), false, &a);
        if (r == 0)
                r = map(grid, 2, count, sizeof(*b), false, &b);
        for (uint64_t i = 0; r == 0 && i < count; i++)
                dst[i] = a[i] + b[i];
        return r;
}

static int run_saxpy_f32(const struct grid *grid)
{
        uint64_t count = get(grid, 3);
        uint32_t bits = (uint32_t)get(grid, 2);
        float *y, *x, a;
        int r = map(grid, 0, count, sizeof(*y), true, &y);

        memcpy(&a, &bits, sizeof(a));
        if (r == 0)
                r = map(grid, 1, count, sizeof(*x), false, &x);
        for (uint64_t i = 0; r == 0 && i < count; i++)
                y[i] = __builtin_fmaf(a, x[i], y[i]);
        return r;
}

static int run_copy_u8(const struct grid *grid)
{
        uint64_t count = get(grid, 2);
        char *dst, *src;
        int r = map(grid, 0, count, 1, true, &dst);

        if (r == 0)
                r = map(grid, 1, count, 1, false, &src);
        if (r == 0)
                memmove(dst, src, count);
        return r;
}

static int run_checksum_u64(const struct grid *grid)
{
        uint64_t count = get(grid, 2), *dst, *src, sum = 0;
        int r = map(grid, 0, 1, sizeof(*dst), true, &dst);

        if (r == 0)
                r = map(grid, 1, count, sizeof(*src), false, &src);
        if (r < 0)
                return r;
        for (uint64_t i = 0; i < count; i++)
                sum += src[i] * (2 * i + 1);
        __atomic_fetch_add(dst, sum * grid->times, __ATOMIC_RELAXED);
        return 0;
}

static int run_spin(const struct grid *grid)
{
        return 0; /* it took its time before */
}

static int run_store_clock(const struct grid *grid)
{
        uint64_t *dst;
        int r = map(grid, 0, 1, sizeof(*dst), true, &dst);

        if (r == 0)
                *dst = exec_now();
        return r;
}

static int run_touch(const struct grid *grid)
{
        CUdeviceptr dst = get(grid, 0);
        uint64_t bytes = get(grid, 1), stride = get(grid, 2);
        uint8_t value = (uint8_t)get(grid, 3);

        for (uint64_t i = 0; i < bytes; i += stride) {
                if (memory_check(dst + i, 1, true))
                        return ILLEGAL;
                *(uint8_t *)(uintptr_t)(dst + i) = value;
                if (stride == 0 || i + stride < i)
                        break;
        }
        return 0;
}

static int run_local(const struct grid *grid)
{
        uint32_t seed = (uint32_t)get(grid, 1), *dst;
        int r = map(grid, 0, grid->threads, sizeof(*dst), true, &dst);

        for (uint64_t i = 0; r == 0 && i < grid->threads; i++)
                dst[i] = seed + (uint32_t)i;
        return r;
}

static int run_wait_u32(const struct grid *grid)
{
        uint32_t *flag;
        int r = map(grid, 0, 1, sizeof(*flag), false, &flag);

        if (r == 0 && __atomic_load_n(flag, __ATOMIC_ACQUIRE) != (uint32_t)get(grid, 1))
                r = RUN_AGAIN;
        return r;
}

static int run_bump(const struct grid *grid)
{
        uint64_t threads = grid->threads * grid->times;
        CUdeviceptr counter;
        uint32_t *dst, before;
        int r = map(grid, 0, 1, sizeof(*dst), true, &dst);

        if (r < 0)
                return r;
        if (module_variable(grid->launch->function->module, "cleave_counter", &counter, NULL) ||
                memory_check(counter, sizeof(*dst), true))
                return ILLEGAL;
        before = __atomic_fetch_add(
                (uint32_t *)(uintptr_t)counter, (uint32_t)threads, __ATOMIC_RELAXED);
        __atomic_store_n(dst, before + (uint32_t)threads - 1, __ATOMIC_RELAXED);
        return 0;
}

static int run_block_sum(const struct grid *grid)
{
        const struct launch *launch = grid->launch;
        uint32_t n = launch->block[0], *dst;
        int r = map(grid, 0, launch->grid[0], sizeof(*dst), true, &dst);

        if (r == 0 && launch->shared_bytes < 4 * n)
                r = ILLEGAL;
        for (uint64_t i = 0; r == 0 && i < launch->grid[0]; i++)
                dst[i] = n * (n - 1) / 2;
        return r;
}

static int run_params(const struct grid *grid)
{
        struct {
                uint8_t a;
                uint64_t b;
                uint16_t c;
        } packed;
        uint32_t *dst;
        int r = map(grid, 0, 1, sizeof(*dst), true, &dst);

        if (r < 0)
                return r;
        memcpy(&packed, grid->launch->params + grid->launch->function->entry->params[1].offset,
                sizeof(packed));
        *dst = packed.a + (uint32_t)packed.b + packed.c + (uint32_t)get(grid, 2);
        return 0;
}

/* The SM of each block: of those that the launch got, one after the other. Under MPS the numbers
 * begin with 0 in each set, as on a GPU. */
static int run_smid(const struct grid *grid)
{
        const struct launch *launch = grid->launch;
        struct sim_sms may = green_sms(launch->green, grid->context->device), sms = launch->sms;
        uint32_t *dst, sm = 0, number = 0;
        int r = map(grid, 0, launch->grid[0], sizeof(*dst), true, &dst);

        if (!sms_count(&sms))
                sms = may;
        for (uint64_t i = 0; r == 0 && i < launch->grid[0]; i++) {
                while (!sms_have(&sms, sm)) {
                        number += sms_have(&may, sm);
                        sm++;
                        if (sm == SIM_MAX_SMS)
                                sm = number = 0;
                }
                dst[i] = grid->context->served ? number : sm;
                number += 1;
                sm++;
                if (sm == SIM_MAX_SMS)
                        sm = number = 0;
        }
        return r;
}

/* When each block began and ended; all began together, as far as there is room for them. */
static int run_stay(const struct grid *grid)
{
        uint64_t ns = get(grid, 1), now = exec_now(), *dst;
        int r = map(grid, 0, 2 * (uint64_t)grid->launch->grid[0], sizeof(*dst), true, &dst);

        for (uint64_t i = 0; r == 0 && i < grid->launch->grid[0]; i++) {
                dst[2 * i] = now - ns;
                dst[2 * i + 1] = now;
        }
        return r;
}

/* A chain of dependent arithmetic in every thread, and one more that is done. */
static int run_chain(const struct grid *grid)
{
        uint64_t *done;
        int r = map(grid, 1, 1, sizeof(*done), true, &done);

        if (r == 0)
                __atomic_fetch_add(done, 1, __ATOMIC_RELEASE);
        return r;
}

/* The same until it is told to stop. */
static int run_chain_until(const struct grid *grid)
{
        uint32_t *stop;
        int r = map(grid, 4, 1, sizeof(*stop), false, &stop);

        if (r == 0)
                r = run_chain(grid);
        if (r == 0 && !__atomic_load_n(stop, __ATOMIC_ACQUIRE))
                r = RUN_ON;
        return r;
}

static const struct {
        const char *name;
        unsigned params;
        int (*run)(const struct grid *grid);
} kernels[] = {
        {"cleave_empty", 0, run_empty},
        {"cleave_fill_u32", 3, run_fill_u32},
        {"cleave_add_f32", 4, run_add_f32},
        {"cleave_saxpy_f32", 4, run_saxpy_f32},
        {"cleave_copy_u8", 3, run_copy_u8},
        {"cleave_checksum_u64", 3, run_checksum_u64},
        {"cleave_spin", 1, run_spin},
        {"cleave_store_clock", 1, run_store_clock},
        {"cleave_touch", 4, run_touch},
        {"cleave_local", 2, run_local},
        {"cleave_wait_u32", 2, run_wait_u32},
        {"cleave_bump", 1, run_bump},
        {"cleave_block_sum", 1, run_block_sum},
        {"cleave_params", 3, run_params},
        {"cleave_smid", 1, run_smid},
        {"cleave_stay", 2, run_stay},
        {"cleave_chain", 4, run_chain},
        {"cleave_chain_together", 4, run_chain},
        {"cleave_chain_until", 5, run_chain_until},
};

int kernels_find(const struct ptx_entry *entry)
{
        for (size_t i = 0; i < sizeof(kernels) / sizeof(*kernels); i++)
                if (strcmp(kernels[i].name, entry->name) == 0 &&
                        kernels[i].params == entry->n_params)
                        return (int)i;
        return -1;
}

int kernels_run(const struct launch *launch, struct sim_context *context)
{
        struct grid grid = {
                .launch = launch,
                .context = context,
                .threads = (uint64_t)launch->grid[0] * launch->block[0],
                .times = (uint64_t)launch->grid[1] * launch->grid[2] * launch->block[1] *
                         launch->block[2],
        };
        int index = kernels_find(launch->function->entry);

        if (index < 0)
                return -(int)CUDA_ERROR_NOT_SUPPORTED;
        return kernels[index].run(&grid);
}

bool kernels_duration(const struct launch *launch, uint64_t *ret_ns)
{
        int index = kernels_find(launch->function->entry);
        struct grid grid = {.launch = launch};

        if (index < 0 || kernels[index].run == run_wait_u32)
                return false;
        *ret_ns = 0;
        if (kernels[index].run == run_spin)
                *ret_ns = get(&grid, 0);
        if (kernels[index].run == run_stay)
                *ret_ns = get(&grid, 1);
        if (kernels[index].run == run_chain || kernels[index].run == run_chain_until)
                *ret_ns = CHAIN_NS * get(&grid, 2);
        return true;
}
