/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What language models ask of a GPU: products of matrices (by the machine's own cuBLAS, which
 * programs use as well), attention, a decoder's steps, batches, streams, pools.
 */
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker.h"

/* Of cublas_api.h and library_types.h. */
enum { OP_N = 0, OP_T = 1 };
enum { TYPE_32F = 0, TYPE_16BF = 14 };
enum { COMPUTE_32F = 68 };
enum { ALGORITHM_DEFAULT = -1 };

static struct {
        void *library, *handle;
        int (*create)(void **handle);
        int (*gemm)(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha,
                const void *a, int type_a, int lda, const void *b, int type_b, int ldb,
                const void *beta, void *c, int type_c, int ldc, int compute, int algorithm);
        int (*gemm_strided)(void *handle, int op_a, int op_b, int m, int n, int k,
                const void *alpha, const void *a, int type_a, int lda, long long stride_a,
                const void *b, int type_b, int ldb, long long stride_b, const void *beta, void *c,
                int type_c, int ldc, long long stride_c, int batch, int compute, int algorithm);
        int (*set_stream)(void *handle, CUstream stream);
        int version; /* 120804 for 12.8.4; 0: not known */
} blas;

/* Products begin faster than the card's power lets them go on. */
#define WARM_NS 500000000u

static const float one = 1, zero = 0;

static int find_blas(void)
{
        static const char *const names[] = {
                "libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so"};
        int (*property)(int which, int *value); /* 0 to 2: major, minor, patch */
        int status;

        if (blas.handle)
                return DONE;
        if (gpu.simulated)
                return gap("the simulated GPU does not multiply matrices");
        for (size_t i = 0; i < sizeof(names) / sizeof(*names) && !blas.library; i++)
                blas.library = dlopen(names[i], RTLD_NOW);
        if (!blas.library)
                return gap("cuBLAS is not where the loader looks: name the folder of "
                           "libcublas.so.12 or another version in LD_LIBRARY_PATH");
        blas.create = (__typeof__(blas.create))dlsym(blas.library, "cublasCreate_v2");
        blas.gemm = (__typeof__(blas.gemm))dlsym(blas.library, "cublasGemmEx");
        blas.gemm_strided =
                (__typeof__(blas.gemm_strided))dlsym(blas.library, "cublasGemmStridedBatchedEx");
        blas.set_stream = (__typeof__(blas.set_stream))dlsym(blas.library, "cublasSetStream_v2");
        if (!blas.create || !blas.gemm || !blas.gemm_strided || !blas.set_stream)
                return fail("%s", dlerror());
        property = (__typeof__(property))dlsym(blas.library, "cublasGetProperty");
        for (int i = 0; property && i < 3; i++) {
                int part = 0;

                property(i, &part);
                blas.version = blas.version * 100 + part;
        }
        status = blas.create(&blas.handle);
        if (status) {
                blas.handle = NULL;
                return fail("cublasCreate: status %d", status);
        }
        return DONE;
}

/* c = a * b of n x n matrices of that type */
static int multiply(CUdeviceptr c, CUdeviceptr a, CUdeviceptr b, int m, int n, int k, int type)
{
        int status = blas.gemm(blas.handle, OP_N, OP_N, m, n, k, &one, (void *)a, type, m,
                (void *)b, type, k, &zero, (void *)c, type, m, COMPUTE_32F, ALGORITHM_DEFAULT);

        return status ? fail("cublasGemmEx: status %d", status) : DONE;
}

/* Takes memory for a matrix and fills it with 0.01, or with numbers from -1 to 1 by chance: what a
 * GPU makes of a second depends on the power that its operands take. */
static int matrix(CUdeviceptr *ret, size_t elements, int type, bool random)
{
        enum { BLOCK = 1 << 20 };
        static uint32_t block[BLOCK / 4];
        size_t bytes = elements * (type == TYPE_16BF ? 2 : 4);
        uint64_t state = 88172645463325252u;

        TRY(p_cuMemAlloc_v2(ret, bytes));
        if (!random) {
                TRY(p_cuMemsetD32Async(
                        *ret, type == TYPE_16BF ? 0x3c243c24 : 0x3c23d70a, bytes / 4, NULL));
                return DONE;
        }
        for (size_t i = 0; i < BLOCK / 4; i++) {
                float numbers[2];
                uint32_t words[2];

                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                numbers[0] = (float)(int32_t)state / 2147483648.0f;
                numbers[1] = (float)(int32_t)(state >> 32) / 2147483648.0f;
                memcpy(words, numbers, sizeof(words));
                block[i] = type == TYPE_16BF ? words[0] >> 16 | (words[1] & 0xffff0000) : words[0];
        }
        for (size_t at = 0; at < bytes; at += BLOCK) {
                size_t part = bytes - at < BLOCK ? bytes - at : BLOCK;

                if (at == 0)
                        TRY(p_cuMemcpyHtoD_v2(*ret, block, part));
                else
                        TRY(p_cuMemcpyDtoDAsync_v2(*ret + at, *ret, part, NULL));
        }
        return DONE;
}

/* Repeats what step() puts into the queue until so much time has passed, after once, and `warm_ns`
 * more, for warming up. The mean nanoseconds of one. */
static int time_warm_steps(int (*step)(void *context), void *context, uint64_t warm_ns,
        uint64_t wanted_ns, double *ret_ns)
{
        uint64_t begin, end, batch = 1, steps = 0, first;

        NEED(step(context));
        TRY(p_cuStreamSynchronize(NULL));
        begin = first = now_ns();
        do {
                uint64_t start = now_ns();

                if (begin == first && start - first >= warm_ns) {
                        begin = start;
                        steps = 0;
                }

                for (uint64_t i = 0; i < batch; i++, steps++)
                        NEED(step(context));
                TRY(p_cuStreamSynchronize(NULL));
                end = now_ns();
                /* 20 ms at a time, so that waiting for the end costs nothing */
                if (end - start < 20000000)
                        batch *= 2;
        } while (end - begin < wanted_ns || end - first < warm_ns + wanted_ns);
        *ret_ns = (double)(end - begin) / (double)steps;
        return DONE;
}

static int time_steps(int (*step)(void *context), void *context, uint64_t wanted_ns, double *ret_ns)
{
        return time_warm_steps(step, context, 0, wanted_ns, ret_ns);
}

struct product {
        CUdeviceptr a, b, c;
        int m, n, k, type;
};

static int step_product(void *context)
{
        struct product *p = context;

        return multiply(p->c, p->a, p->b, p->m, p->n, p->k, p->type);
}

static int time_product(
        int m, int n, int k, int type, uint64_t warm_ns, uint64_t ns, double *ret_ns)
{
        struct product p = {.m = m, .n = n, .k = k, .type = type};

        NEED(matrix(&p.a, (size_t)m * (size_t)k, type, true));
        NEED(matrix(&p.b, (size_t)k * (size_t)n, type, true));
        NEED(matrix(&p.c, (size_t)m * (size_t)n, type, true));
        NEED(time_warm_steps(step_product, &p, warm_ns, ns, ret_ns));
        TRY(p_cuMemFree_v2(p.a));
        TRY(p_cuMemFree_v2(p.b));
        TRY(p_cuMemFree_v2(p.c));
        return DONE;
}

/* precision N MS: rates of N x N x N products */
static int run_precision(int argc, char **argv)
{
        int n = atoi(argv[0]);
        uint64_t ns = strtoull(argv[1], NULL, 10) * 1000000u;
        double flops = 2 * pow(n, 3), half, single;

        NEED(find_blas());
        NEED(time_product(n, n, n, TYPE_16BF, WARM_NS, ns, &half));
        NEED(time_product(n, n, n, TYPE_32F, WARM_NS, ns, &single));
        say("bf16_tflops", flops / half / 1e3);
        say("f32_tflops", flops / single / 1e3);
        say("blas_version", blas.version ? blas.version : NAN);
        return DONE;
}

/* batches LEAST MOST WIDTH MS: tokens a second through one layer of that width, by batch */
static int run_batches(int argc, char **argv)
{
        int least = atoi(argv[0]), most = atoi(argv[1]), width = atoi(argv[2]);
        uint64_t ns = strtoull(argv[3], NULL, 10) * 1000000u;
        double few, many;

        NEED(find_blas());
        NEED(time_product(width, least, width, TYPE_16BF, 0, ns, &few));
        NEED(time_product(width, most, width, TYPE_16BF, 0, ns, &many));
        say("least_tokens_per_s", least / (few / 1e9));
        say("most_tokens_per_s", most / (many / 1e9));
        say("scaling", (most / many) / (least / few) / ((double)most / least));
        return DONE;
}

struct attention {
        CUdeviceptr q, k, v, scores, out;
        int length, heads, width;
};

static int step_attention(void *context)
{
        struct attention *t = context;
        int s = t->length, d = t->width;
        long long rows = (long long)s * d, square = (long long)s * s;
        float scale = 1 / sqrtf((float)d);
        uint32_t words = (uint32_t)s / 2;
        void *params[] = {&t->scores, &words};
        int status;

        /* column-major: scores' column i is what token i makes of all others */
        status = blas.gemm_strided(blas.handle, OP_T, OP_N, s, s, d, &scale, (void *)t->k,
                TYPE_16BF, d, rows, (void *)t->q, TYPE_16BF, d, rows, &zero, (void *)t->scores,
                TYPE_16BF, s, square, t->heads, COMPUTE_32F, ALGORITHM_DEFAULT);
        if (status)
                return fail("cublasGemmStridedBatchedEx: status %d", status);
        NEED(launch(KERNEL_SOFTMAX, (unsigned)(t->heads * s), 256, NULL, params));
        status = blas.gemm_strided(blas.handle, OP_N, OP_N, d, s, s, &one, (void *)t->v, TYPE_16BF,
                d, rows, (void *)t->scores, TYPE_16BF, s, square, &zero, (void *)t->out, TYPE_16BF,
                d, rows, t->heads, COMPUTE_32F, ALGORITHM_DEFAULT);
        return status ? fail("cublasGemmStridedBatchedEx: status %d", status) : DONE;
}

/* attention LENGTH HEADS WIDTH MS: softmax(q kT / sqrt(width)) v in bf16; the rate counts the two
 * products' arithmetic */
static int run_attention(int argc, char **argv)
{
        struct attention t = {
                .length = atoi(argv[0]), .heads = atoi(argv[1]), .width = atoi(argv[2])};
        uint64_t ns = strtoull(argv[3], NULL, 10) * 1000000u;
        size_t rows = (size_t)t.length * (size_t)t.width * (size_t)t.heads;
        uint16_t result;
        double step;

        if (t.length % 512)
                return fail("the length has to be in 512s");
        NEED(find_blas());
        NEED(matrix(&t.q, rows, TYPE_16BF, true));
        NEED(matrix(&t.k, rows, TYPE_16BF, true));
        NEED(matrix(&t.v, rows, TYPE_16BF, false));
        NEED(matrix(&t.out, rows, TYPE_16BF, false));
        NEED(matrix(&t.scores, (size_t)t.length * (size_t)t.length * (size_t)t.heads, TYPE_16BF,
                false));
        NEED(time_steps(step_attention, &t, ns, &step));
        /* whatever the weights, they add up to 1: each token gets what all values are, 0.01 */
        TRY(p_cuMemcpyDtoH_v2(&result, t.out, 2));
        TRY(p_cuMemFree_v2(t.q));
        TRY(p_cuMemFree_v2(t.k));
        TRY(p_cuMemFree_v2(t.v));
        TRY(p_cuMemFree_v2(t.out));
        TRY(p_cuMemFree_v2(t.scores));
        if (result < 0x3c20 || result > 0x3c28)
                return fail("attention over equal values gives %#x, not their value", result);
        say("tflops", 4.0 * t.length * t.length * t.width * t.heads / step / 1e3);
        return DONE;
}

/* decode LAYERS BYTES TOKENS: a decoder at batch 1: each token reads every layer's weights once, by
 * four kernels a layer, and comes back to the host. The prompt is 512 tokens through matrices,
 * where there is cuBLAS. */
static int run_decode(int argc, char **argv)
{
        enum { PROMPT = 512, WIDTH = 4096, SMALL = 4096 };
        unsigned layers = (unsigned)atoi(argv[0]);
        size_t bytes = strtoull(argv[1], NULL, 10) & ~(size_t)15,
               tokens = strtoul(argv[2], NULL, 10);
        uint64_t words = bytes / 8, small = SMALL, begin;
        struct product prompt = {.m = WIDTH, .n = PROMPT, .k = WIDTH, .type = TYPE_16BF};
        CUdeviceptr weights, of_layer, state[3], sum;
        void *read[] = {&sum, &of_layer, &words};
        void *add[] = {&state[0], &state[1], &state[2], &small};
        double *t = doubles(tokens), first = NAN;
        void *host;
        int r;

        TRY(p_cuMemAlloc_v2(&weights, layers * bytes));
        TRY(p_cuMemsetD32Async(weights, 1, layers * bytes / 4, NULL));
        TRY(p_cuMemAlloc_v2(&sum, 64));
        for (int i = 0; i < 3; i++) {
                TRY(p_cuMemAlloc_v2(&state[i], SMALL * 4));
                TRY(p_cuMemsetD32Async(state[i], 0, SMALL, NULL));
        }
        TRY(p_cuMemHostAlloc(&host, 64, 0));
        r = find_blas();
        if (r == FAILED)
                return r;
        if (r == DONE) {
                NEED(matrix(&prompt.a, (size_t)WIDTH * WIDTH, TYPE_16BF, true));
                NEED(matrix(&prompt.b, (size_t)WIDTH * PROMPT, TYPE_16BF, true));
                NEED(matrix(&prompt.c, (size_t)WIDTH * PROMPT, TYPE_16BF, true));
                for (int round = 0; round < 2; round++) {
                        begin = now_ns();
                        for (unsigned i = 0; i < layers * 12; i++)
                                NEED(step_product(&prompt));
                        TRY(p_cuStreamSynchronize(NULL));
                        first = (double)(now_ns() - begin) / 1e6;
                }
                TRY(p_cuMemFree_v2(prompt.a));
                TRY(p_cuMemFree_v2(prompt.b));
                TRY(p_cuMemFree_v2(prompt.c));
        }
        for (size_t i = 0; i < tokens; i++) {
                begin = now_ns();
                for (unsigned layer = 0; layer < layers; layer++) {
                        of_layer = weights + layer * bytes;
                        NEED(launch(KERNEL_READ, gpu_blocks(), 256, NULL, read));
                        for (int k = 0; k < 3; k++)
                                NEED(launch(KERNEL_ADD, 4, 256, NULL, add));
                }
                TRY(p_cuMemcpyDtoHAsync_v2(host, sum, 8, NULL));
                TRY(p_cuStreamSynchronize(NULL));
                t[i] = (double)(now_ns() - begin) / 1e6;
        }
        TRY(p_cuMemFree_v2(weights));
        TRY(p_cuMemFree_v2(sum));
        for (int i = 0; i < 3; i++)
                TRY(p_cuMemFree_v2(state[i]));
        TRY(p_cuMemFreeHost(host));
        say_spread("token", "_ms", t, tokens);
        say("prompt_ms", first);
        free(t);
        return DONE;
}

struct steps {
        CUdeviceptr fixed[4];
        size_t bytes;
        uint64_t floats;
        bool pool;
};

static int step_pooled(void *context)
{
        struct steps *s = context;
        CUdeviceptr memory[4];
        void *params[] = {&memory[0], &memory[1], &memory[2], &s->floats};

        memcpy(memory, s->fixed, sizeof(memory));
        if (s->pool)
                for (int i = 0; i < 4; i++)
                        TRY(p_cuMemAllocAsync(&memory[i], s->bytes, NULL));
        for (int i = 0; i < 4; i++)
                NEED(launch(KERNEL_ADD, gpu_blocks(), 256, NULL, params));
        if (s->pool)
                for (int i = 0; i < 4; i++)
                        TRY(p_cuMemFreeAsync(memory[i], NULL));
        return DONE;
}

/* pooled BYTES MS: a step with four tensors out of the pool, against one with tensors that stay */
static int run_pooled(int argc, char **argv)
{
        struct steps s = {.bytes = strtoull(argv[0], NULL, 10) & ~(size_t)15};
        uint64_t ns = strtoull(argv[1], NULL, 10) * 1000000u, keep = UINT64_MAX;
        double with, without;
        CUmemoryPool pool;

        s.floats = s.bytes / 4;
        TRY(p_cuDeviceGetDefaultMemPool(&pool, 0));
        /* as frameworks set it: what is free stays in the pool */
        TRY(p_cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
        for (int i = 0; i < 4; i++)
                TRY(p_cuMemAlloc_v2(&s.fixed[i], s.bytes));
        NEED(time_steps(step_pooled, &s, ns, &without));
        s.pool = true;
        NEED(time_steps(step_pooled, &s, ns, &with));
        for (int i = 0; i < 4; i++)
                TRY(p_cuMemFree_v2(s.fixed[i]));
        keep = 0;
        TRY(p_cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
        TRY(p_cuMemPoolTrimTo(pool, 0));
        say("overhead_percent", 100 * (with / without - 1));
        say("step_us", with / 1e3);
        return DONE;
}

/* pipeline STAGES BATCHES US: each batch goes through a stream a stage, by events */
static int run_pipeline(int argc, char **argv)
{
        enum { STAGES = 8 };
        int stages = atoi(argv[0]), batches = atoi(argv[1]);
        uint64_t ns = strtoull(argv[2], NULL, 10) * 1000u, begin, took = 0;
        CUstream stream[STAGES];
        CUevent done;

        if (stages < 1 || stages > STAGES)
                return fail("1 to %d stages", STAGES);
        TRY(p_cuEventCreate(&done, CU_EVENT_DISABLE_TIMING));
        for (int i = 0; i < stages; i++)
                TRY(p_cuStreamCreate(&stream[i], CU_STREAM_NON_BLOCKING));
        for (int round = 0; round < 2; round++) {
                begin = now_ns();
                for (int batch = 0; batch < batches; batch++)
                        for (int i = 0; i < stages; i++) {
                                if (i)
                                        TRY(p_cuStreamWaitEvent(stream[i], done, 0));
                                NEED(launch_spin(ns, stream[i]));
                                TRY(p_cuEventRecord(done, stream[i]));
                        }
                for (int i = 0; i < stages; i++)
                        TRY(p_cuStreamSynchronize(stream[i]));
                took = now_ns() - begin;
        }
        for (int i = 0; i < stages; i++)
                TRY(p_cuStreamDestroy_v2(stream[i]));
        TRY(p_cuEventDestroy_v2(done));
        say("efficiency_percent", 100.0 * (double)ns * (batches + stages - 1) / (double)took);
        return DONE;
}

/* streams N KERNELS US: so many streams side by side, against one of them alone */
static int run_streams(int argc, char **argv)
{
        enum { STREAMS = 64 };
        int n = atoi(argv[0]), kernels = atoi(argv[1]);
        uint64_t ns = strtoull(argv[2], NULL, 10) * 1000u, begin, took[2] = {0};
        CUstream stream[STREAMS];

        if (n < 1 || n > STREAMS)
                return fail("1 to %d streams", STREAMS);
        for (int i = 0; i < n; i++)
                TRY(p_cuStreamCreate(&stream[i], CU_STREAM_NON_BLOCKING));
        NEED(launch_spin(1000, stream[0]));
        TRY(p_cuStreamSynchronize(stream[0]));
        for (int all = 0; all < 2; all++) {
                begin = now_ns();
                for (int k = 0; k < kernels; k++)
                        for (int i = 0; i < (all ? n : 1); i++)
                                NEED(launch_spin(ns, stream[i]));
                for (int i = 0; i < (all ? n : 1); i++)
                        TRY(p_cuStreamSynchronize(stream[i]));
                took[all] = now_ns() - begin;
        }
        for (int i = 0; i < n; i++)
                TRY(p_cuStreamDestroy_v2(stream[i]));
        say("efficiency_percent", 100 * (double)took[0] / (double)took[1]);
        return DONE;
}

/* requests N US BYTES: batches of 1 to 32 requests at random, each with room of its own from the
 * pool and a kernel of US for each request: how much the time for one request varies */
static int run_requests(int argc, char **argv)
{
        size_t n = strtoul(argv[0], NULL, 10), bytes = strtoull(argv[2], NULL, 10);
        uint64_t ns = strtoull(argv[1], NULL, 10) * 1000u, state = 88172645463325252u;
        double *t = doubles(n), mean = 0, square = 0;

        for (size_t i = 0; i < n; i++) {
                uint64_t batch, begin;
                CUdeviceptr room;

                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                batch = 1 + state % 32;
                begin = now_ns();
                TRY(p_cuMemAllocAsync(&room, batch * bytes, NULL));
                NEED(launch_spin(ns * batch, NULL));
                TRY(p_cuMemFreeAsync(room, NULL));
                TRY(p_cuStreamSynchronize(NULL));
                t[i] = (double)(now_ns() - begin) / 1e3 / (double)batch;
                mean += t[i] / (double)n;
        }
        for (size_t i = 0; i < n; i++)
                square += (t[i] - mean) * (t[i] - mean) / (double)n;
        say("variation", sqrt(square) / mean);
        say_spread("request", "_us", t, n);
        free(t);
        return DONE;
}

struct whole {
        struct steps steps;
        struct product product;
        void *host;
        bool multiplies;
};

static int step_whole(void *context)
{
        struct whole *w = context;
        struct steps *s = &w->steps;

        TRY(p_cuMemcpyHtoDAsync_v2(s->fixed[1], w->host, s->bytes, NULL));
        for (int i = 0; i < 4; i++)
                NEED(step_pooled(s));
        for (int i = 0; w->multiplies && i < 4; i++)
                NEED(step_product(&w->product));
        TRY(p_cuMemcpyDtoHAsync_v2(w->host, s->fixed[0], 4096, NULL));
        TRY(p_cuStreamSynchronize(NULL));
        return DONE;
}

/* whole BYTES N MS: steps a second of a program that copies in, takes from the pool, computes,
 * multiplies matrices of N x N where there is cuBLAS, and copies out */
static int run_whole(int argc, char **argv)
{
        struct whole w = {
                .steps = {.bytes = strtoull(argv[0], NULL, 10) & ~(size_t)15, .pool = true}};
        int n = atoi(argv[1]), r = find_blas();
        uint64_t ns = strtoull(argv[2], NULL, 10) * 1000000u;
        double step;

        if (r == FAILED)
                return r;
        w.multiplies = r == DONE;
        w.product = (struct product){.m = n, .n = n, .k = n, .type = TYPE_16BF};
        if (w.multiplies) {
                NEED(matrix(&w.product.a, (size_t)n * (size_t)n, TYPE_16BF, true));
                NEED(matrix(&w.product.b, (size_t)n * (size_t)n, TYPE_16BF, true));
                NEED(matrix(&w.product.c, (size_t)n * (size_t)n, TYPE_16BF, true));
        }
        w.steps.floats = w.steps.bytes / 4;
        for (int i = 0; i < 4; i++)
                TRY(p_cuMemAlloc_v2(&w.steps.fixed[i], w.steps.bytes));
        TRY(p_cuMemHostAlloc(&w.host, w.steps.bytes, 0));
        memset(w.host, 0, w.steps.bytes);
        NEED(time_steps(step_whole, &w, ns, &step));
        for (int i = 0; i < 4; i++)
                TRY(p_cuMemFree_v2(w.steps.fixed[i]));
        TRY(p_cuMemFreeHost(w.host));
        if (w.multiplies) {
                TRY(p_cuMemFree_v2(w.product.a));
                TRY(p_cuMemFree_v2(w.product.b));
                TRY(p_cuMemFree_v2(w.product.c));
        }
        say("steps_per_s", 1e9 / step);
        return DONE;
}

/* A layer of two products, as in a decoder: its tokens go through a wide middle. */
struct layer {
        struct pair *pair; /* NULL: one device has all of it */
        void *handle[2];
        CUdeviceptr x[2], first[2], middle[2], second[2], out;
        int tokens, width, wide; /* wide: of one device's part */
};

static int step_layer(void *context)
{
        struct layer *l = context;
        int devices = l->pair ? 2 : 1;

        for (int i = 0; i < devices; i++) {
                /* where both have a part, the sum of theirs is the layer's */
                CUdeviceptr out = l->pair ? l->pair->from[i] : l->out;
                int status;

                if (l->pair)
                        TRY(p_cuCtxSetCurrent(l->pair->context[i]));
                status = blas.gemm(l->handle[i], OP_N, OP_N, l->wide, l->tokens, l->width, &one,
                        (void *)l->first[i], TYPE_16BF, l->wide, (void *)l->x[i], TYPE_16BF,
                        l->width, &zero, (void *)l->middle[i], TYPE_16BF, l->wide, COMPUTE_32F,
                        ALGORITHM_DEFAULT);
                if (status == 0)
                        status = blas.gemm(l->handle[i], OP_N, OP_N, l->width, l->tokens, l->wide,
                                &one, (void *)l->second[i], TYPE_16BF, l->width,
                                (void *)l->middle[i], TYPE_16BF, l->wide, &zero, (void *)out,
                                TYPE_16BF, l->width, COMPUTE_32F, ALGORITHM_DEFAULT);
                if (status)
                        return fail("cublasGemmEx: status %d", status);
        }
        return l->pair ? pair_submit(l->pair, ALL_REDUCE, true) : DONE;
}

/* Mean nanoseconds of a step, by which both devices are done. */
static int time_layer(struct layer *l, uint64_t ns, double *ret)
{
        uint64_t begin = now_ns(), warm = begin, end, steps = 0;

        do {
                for (int i = 0; i < 8; i++, steps++)
                        NEED(step_layer(l));
                if (l->pair)
                        NEED(pair_wait(l->pair));
                else
                        TRY(p_cuCtxSynchronize());
                end = now_ns();
                if (warm && end - warm >= WARM_NS) {
                        warm = 0;
                        begin = end;
                        steps = 0;
                }
        } while (warm || end - begin < ns);
        *ret = (double)(end - begin) / (double)steps;
        return DONE;
}

static int make_layer(struct layer *l, int i)
{
        size_t weights = (size_t)l->width * (size_t)l->wide;

        NEED(matrix(&l->x[i], (size_t)l->tokens * (size_t)l->width, TYPE_16BF, true));
        NEED(matrix(&l->first[i], weights, TYPE_16BF, true));
        NEED(matrix(&l->second[i], weights, TYPE_16BF, true));
        NEED(matrix(&l->middle[i], (size_t)l->tokens * (size_t)l->wide, TYPE_16BF, true));
        TRY(p_cuCtxSynchronize());
        return DONE;
}

static int free_layer(struct layer *l, int i)
{
        TRY(p_cuMemFree_v2(l->x[i]));
        TRY(p_cuMemFree_v2(l->first[i]));
        TRY(p_cuMemFree_v2(l->second[i]));
        TRY(p_cuMemFree_v2(l->middle[i]));
        return DONE;
}

/* Both devices' halves of the layer; ns_one is what one device takes for all of it. */
static int scale_layer(struct layer *l, struct pair *pair, uint64_t ns, double ns_one)
{
        static void *second;
        double ns_two;
        int status = 0;

        l->pair = pair;
        l->wide /= 2;
        TRY(p_cuCtxSetCurrent(pair->context[1]));
        if (!second)
                status = blas.create(&second);
        l->handle[1] = second;
        for (int i = 0; i < 2; i++) {
                TRY(p_cuCtxSetCurrent(pair->context[i]));
                if (status == 0)
                        status = blas.set_stream(l->handle[i], pair->stream[i]);
                if (status)
                        return fail("cuBLAS on device %d: status %d", i, status);
                NEED(make_layer(l, i));
        }
        NEED(time_layer(l, ns, &ns_two));
        for (int i = 0; i < 2; i++) {
                TRY(p_cuCtxSetCurrent(pair->context[i]));
                NEED(free_layer(l, i));
                status = blas.set_stream(l->handle[i], NULL);
                if (status)
                        return fail("cublasSetStream: status %d", status);
        }
        say("one_steps_per_s", 1e9 / ns_one);
        say("two_steps_per_s", 1e9 / ns_two);
        say("scaling", ns_one / ns_two);
        return DONE;
}

/* scale TOKENS WIDTH WIDE MS: a layer's steps a second on two devices, each with half of the middle
 * and an allreduce after it, against one device's */
static int run_scale(int argc, char **argv)
{
        struct layer l = {.tokens = atoi(argv[0]), .width = atoi(argv[1]), .wide = atoi(argv[2])};
        uint64_t ns = strtoull(argv[3], NULL, 10) * 1000000u;
        struct pair pair;
        double ns_one;
        int r, s;

        if (gpu.devices < 2)
                return gap("needs two GPUs; this program has one");
        NEED(find_blas());
        l.handle[0] = blas.handle;
        NEED(make_layer(&l, 0));
        TRY(p_cuMemAlloc_v2(&l.out, (size_t)l.tokens * (size_t)l.width * 2));
        NEED(time_layer(&l, ns, &ns_one));
        TRY(p_cuMemFree_v2(l.out));
        NEED(free_layer(&l, 0));
        r = pair_open(&pair, (size_t)l.tokens * (size_t)l.width * 2);
        if (r == DONE)
                r = scale_layer(&l, &pair, ns, ns_one);
        s = r == FAILED ? r : pair_close(&pair);
        return r ? r : s;
}

const struct command model_commands[] = {
        {"precision", 2, run_precision},
        {"batches", 4, run_batches},
        {"attention", 4, run_attention},
        {"decode", 3, run_decode},
        {"pooled", 2, run_pooled},
        {"pipeline", 3, run_pipeline},
        {"streams", 3, run_streams},
        {"requests", 3, run_requests},
        {"scale", 4, run_scale},
        {"whole", 3, run_whole},
        {NULL, 0, NULL},
};
