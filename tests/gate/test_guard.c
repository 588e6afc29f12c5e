/* SPDX-License-Identifier: Apache-2.0 */
/* The guard's gate before a driver of our own, whose engine runs what it is given in order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "driver.h"

#define MS      1000000ull
#define FOREVER UINT64_MAX
#define LOG_MAX 20000u

#define ARRAY_COUNT(array) (sizeof(array) / sizeof(*(array)))

/* -- a tenant ---------------------------------------------------------------------------------- */

static _Alignas(4096) char grant_bytes[CLEAVE_GRANT_BYTES];
static _Alignas(4096) char usage_bytes[CLEAVE_USAGE_HEAD + 2 * CLEAVE_SLOT_BYTES];
static struct guard_session session;

const struct guard_session *guard_session(void)
{
        return &session;
}

bool guard_forked(void)
{
        return false;
}

int guard_device_by_ordinal(CUdevice device)
{
        return device < 2 ? device : -ENODEV;
}

static uint64_t now(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct cleave_gate *gate(void)
{
        return cleave_gate(session.grant, 0);
}

static void lease(uint64_t from, uint64_t until, uint64_t window)
{
        atomic_store(&gate()->written_at, now());
        cleave_gate_write(gate(), from, until, window, 500000);
        syscall(SYS_futex, &gate()->version, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void set_gate(bool on)
{
        struct cleave_grant_page *page = (struct cleave_grant_page *)grant_bytes;

        atomic_store(&page->device[0].gate, on);
        atomic_store(&page->gates, on);
}

static void set_turns(uint64_t from, uint64_t until, uint64_t period, uint64_t good_until)
{
        struct cleave_grant_page *page = (struct cleave_grant_page *)grant_bytes;

        cleave_gate_write_turns(
                gate(), &(const struct cleave_turns){from, until, period, good_until});
        atomic_store(&page->device[0].gate, CLEAVE_GATE_TURNS);
        atomic_store(&page->gates, 1);
        syscall(SYS_futex, &gate()->version, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static uint64_t used(void)
{
        return atomic_load(&session.usage->gate[0].used_ns);
}

/* -- a driver ---------------------------------------------------------------------------------- */

struct CUevent_st {
        _Atomic uint64_t at;
        unsigned long long context; /* of its context: they end together */
};

static pthread_mutex_t driver_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t engine_free;
static uint64_t deepest; /* work that was in the queue, before a launch */
static CUdevice current_device;
static bool capturing, failing, loading; /* the next launch loads its kernel */
static unsigned long long context_id = 1;
static unsigned context_flags;
static unsigned slower;    /* times that kernels take */
static unsigned dead_used; /* calls with an event whose context has ended */
static _Atomic unsigned events_made, events_gone;
static char done[LOG_MAX]; /* K: a launch, T: one that is tied, E: an event, in their order */
static unsigned done_count;
static CUcontext const current = (CUcontext)0x1000;
static CUstream const stream = (CUstream)0x2000;

static void note(char what)
{
        if (done_count < LOG_MAX)
                done[done_count++] = what;
}

static CUresult run(uint64_t ns, char what)
{
        uint64_t t = now();

        if (failing)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&driver_lock);
        note(what);
        if (!capturing) {
                if (engine_free < t)
                        engine_free = t;
                if (deepest < engine_free - t)
                        deepest = engine_free - t;
                engine_free += ns;
        }
        pthread_mutex_unlock(&driver_lock);
        return CUDA_SUCCESS;
}

/* The grid's width is how many microseconds a kernel takes. */
static CUresult fake_launch(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
        unsigned by, unsigned bz, unsigned shared, CUstream s, void **params, void **extra)
{
        if (loading) {
                usleep(30000);
                loading = false;
        }
        return run(gx * 1000ull * slower, 'K');
}

static CUresult fake_launch_ex(const CUlaunchConfig *config, CUfunction f, void **p, void **extra)
{
        return run(config->gridDimX * 1000ull, config->numAttrs ? 'T' : 'K');
}

static CUresult fake_graph(CUgraphExec graph, CUstream s)
{
        return run(5 * MS, 'G');
}

static CUresult fake_device(CUdevice *device)
{
        *device = current_device;
        return CUDA_SUCCESS;
}

static CUresult fake_current(CUcontext *context)
{
        *context = current;
        return CUDA_SUCCESS;
}

static CUresult fake_flags(unsigned *flags)
{
        *flags = context_flags;
        return CUDA_SUCCESS;
}

static CUresult fake_context_id(CUcontext context, unsigned long long *id)
{
        *id = context_id;
        return CUDA_SUCCESS;
}

static void see(CUevent event)
{
        if (event->context != context_id)
                dead_used++;
}

static CUresult fake_capturing(CUstream s, CUstreamCaptureStatus *status)
{
        *status = capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
        return CUDA_SUCCESS;
}

static CUresult fake_mode(CUstreamCaptureMode *mode)
{
        return CUDA_SUCCESS;
}

static CUevent living[4096];

static CUresult fake_event(CUevent *event, unsigned flags)
{
        *event = calloc(1, sizeof(**event));
        (*event)->context = context_id;
        pthread_mutex_lock(&driver_lock);
        for (unsigned i = 0; i < ARRAY_COUNT(living); i++)
                if (!living[i]) {
                        living[i] = *event;
                        break;
                }
        pthread_mutex_unlock(&driver_lock);
        atomic_fetch_add(&events_made, 1);
        return CUDA_SUCCESS;
}

static CUresult fake_event_gone(CUevent event)
{
        see(event);
        pthread_mutex_lock(&driver_lock);
        for (unsigned i = 0; i < ARRAY_COUNT(living); i++)
                if (living[i] == event)
                        living[i] = NULL;
        pthread_mutex_unlock(&driver_lock);
        free(event);
        atomic_fetch_add(&events_gone, 1);
        return CUDA_SUCCESS;
}

static CUresult fake_record(CUevent event, CUstream s)
{
        uint64_t t = now();

        see(event);
        pthread_mutex_lock(&driver_lock);
        note('E');
        event->at = engine_free > t ? engine_free : t;
        pthread_mutex_unlock(&driver_lock);
        return CUDA_SUCCESS;
}

static CUresult fake_query(CUevent event)
{
        see(event);
        return now() >= event->at ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

static CUresult fake_elapsed(float *ms, CUevent from, CUevent to)
{
        if (fake_query(from) || fake_query(to))
                return CUDA_ERROR_NOT_READY;
        *ms = (float)((double)(int64_t)(to->at - from->at) / 1e6);
        return CUDA_SUCCESS;
}

static CUresult fake_wait(CUstream s)
{
        for (;;) {
                struct timespec rest = {0};
                uint64_t end, t = now();

                pthread_mutex_lock(&driver_lock);
                end = engine_free;
                pthread_mutex_unlock(&driver_lock);
                if (t >= end)
                        return CUDA_SUCCESS;
                rest.tv_nsec = (long)(end - t < MS ? end - t : MS);
                nanosleep(&rest, NULL);
        }
}

static CUresult fake_stream_gone(CUstream s)
{
        return CUDA_SUCCESS;
}

static CUresult fake_wait_all(void)
{
        return fake_wait(NULL);
}

void *cleave_real[CUDA_ENTRY_COUNT];

#define FAKE(symbol, function) cleave_real[CUDA_ENTRY_##symbol] = (void *)(function)

static int begin(void **state)
{
        struct cleave_grant_page *page = (struct cleave_grant_page *)grant_bytes;

        (void)state;
        FAKE(cuLaunchKernel, fake_launch);
        FAKE(cuLaunchKernelEx, fake_launch_ex);
        FAKE(cuGraphLaunch, fake_graph);
        FAKE(cuCtxGetDevice, fake_device);
        FAKE(cuCtxGetCurrent, fake_current);
        FAKE(cuCtxGetId, fake_context_id);
        FAKE(cuCtxGetFlags, fake_flags);
        FAKE(cuStreamIsCapturing, fake_capturing);
        FAKE(cuThreadExchangeStreamCaptureMode, fake_mode);
        FAKE(cuEventCreate, fake_event);
        FAKE(cuEventDestroy_v2, fake_event_gone);
        FAKE(cuEventRecord, fake_record);
        FAKE(cuEventQuery, fake_query);
        FAKE(cuEventElapsedTime, fake_elapsed);
        FAKE(cuStreamSynchronize, fake_wait);
        FAKE(cuStreamDestroy_v2, fake_stream_gone);
        FAKE(cuCtxSynchronize, fake_wait_all);
        page->devices = 1;
        session = (struct guard_session){
                .grant = page,
                .usage = (struct cleave_usage_page *)usage_bytes,
                .slot = (struct cleave_slot *)(usage_bytes + CLEAVE_USAGE_HEAD + CLEAVE_SLOT_BYTES),
                .index = 1,
        };
        guard_gate_open();
        set_gate(true);
        lease(0, FOREVER, 2 * MS);
        capturing = failing = false;
        slower = 1;
        current_device = 0;
        fake_wait(NULL);
        done_count = 0;
        deepest = 0;
        return 0;
}

/* As when its context ends: what was learnt of streams is gone, prices stay. */
static int end(void **state)
{
        (void)state;
        set_gate(true);
        guard_gate_forget(NULL);
        assert_int_equal(events_gone, events_made);
        return 0;
}

/* Each test has a kernel of its own, whose price is not known yet. */
static CUresult kernel(const void *function, unsigned microseconds)
{
        return cuLaunchKernel(
                (CUfunction)function, microseconds, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
}

static unsigned count_of(char what)
{
        unsigned n = 0;

        for (unsigned i = 0; i < done_count; i++)
                n += done[i] == what;
        return n;
}

/* -- tests ------------------------------------------------------------------------------------- */

static void test_nothing_without_a_gate(void **state)
{
        uint64_t before = used();
        static char f;

        (void)state;
        set_gate(false);
        lease(FOREVER, 0, 0);
        for (unsigned i = 0; i < 100; i++)
                assert_int_equal(kernel(&f, 1), CUDA_SUCCESS);
        assert_int_equal(cuCtxSynchronize(), CUDA_SUCCESS);
        assert_int_equal(done_count, 100);
        assert_int_equal(count_of('K'), 100);
        assert_int_equal(used(), before);
}

static _Atomic unsigned passed;

static void *launch_one(void *f)
{
        errno = 77;
        if (kernel(f, 100) == CUDA_SUCCESS && errno == 77)
                atomic_fetch_add(&passed, 1);
        return NULL;
}

static void test_a_launch_waits_for_its_lease(void **state)
{
        pthread_t thread;
        static char f;
        uint64_t start;

        (void)state;
        lease(FOREVER, 0, 2 * MS);
        atomic_store(&passed, 0);
        pthread_create(&thread, NULL, launch_one, &f);
        usleep(100000);
        assert_int_equal(atomic_load(&passed), 0);
        assert_int_equal(count_of('K'), 0);
        /* that it waits is seen */
        assert_true(atomic_load(&session.usage->gate[0].wanted_at) + 1000 * MS > now());
        start = now();
        lease(0, FOREVER, 2 * MS);
        pthread_join(thread, NULL);
        assert_int_equal(atomic_load(&passed), 1);
        assert_true(now() - start < 1000 * MS);
        /* and one that is to come is waited for */
        start = now();
        lease(start + 60 * MS, FOREVER, 2 * MS);
        (void)launch_one(&f);
        assert_true(now() - start >= 60 * MS);
        /* taken away while somebody waits */
        lease(FOREVER, 0, 2 * MS);
        pthread_create(&thread, NULL, launch_one, &f);
        usleep(20000);
        set_gate(false);
        pthread_join(thread, NULL);
        assert_int_equal(atomic_load(&passed), 3);
}

/* Whether it is this one's turn then. */
static bool is_turn(uint64_t at)
{
        uint64_t wait;
        uint32_t version;

        return !cleave_gate_is_off(gate(), at, &wait, &version);
}

static void test_turns_by_the_clock(void **state)
{
        uint64_t base = now() + 1000 * MS;

        (void)state;
        /* 4 of 10 ms, from base on */
        set_turns(base, base + 4 * MS, 10 * MS, base + 100 * MS);
        for (unsigned i = 0; i < 10; i++) {
                assert_true(is_turn(base + i * 10 * MS));
                assert_true(is_turn(base + i * 10 * MS + 4 * MS - 1));
                assert_false(is_turn(base + i * 10 * MS + 4 * MS));
                assert_false(is_turn(base + i * 10 * MS + 10 * MS - 1));
        }
        /* until it begins, another has his */
        assert_false(is_turn(base - 1));
        assert_false(is_turn(base - 6 * MS));
        /* no longer than that holds; nor by another clock, nor without a period */
        assert_true(is_turn(base + 105 * MS));
        assert_true(is_turn(base - 60 * MS));
        set_turns(base, base, 0, FOREVER);
        assert_true(is_turn(base));
}

/* Those that pass in their turn, of two that wait for each kernel as a loop does. */
static void keep_turns(unsigned flags)
{
        uint64_t before = used(), base, end;
        unsigned late = 0, launches = 0, turns = 0;
        static char f;

        context_flags = flags;
        base = now();
        /* before it is said, no launch knows */
        set_turns(base, base + 10 * MS, 40 * MS, base + 10000 * MS);
        end = base + 400 * MS;
        for (uint64_t last = 0; now() < end; launches++) {
                uint64_t at;

                assert_int_equal(kernel(&f, 100), CUDA_SUCCESS);
                at = now();
                turns += (at - base) / 40 / MS != last / 40 / MS;
                last = at - base;
                /* so much may pass on a busy machine between that it may pass and that it did */
                late += (at - base) % (40 * MS) > 25 * MS;
                assert_int_equal(cuStreamSynchronize(stream), CUDA_SUCCESS);
        }
        assert_true(turns >= 5);
        assert_true(launches >= 50);
        assert_true(late <= turns / 2);
        /* and nothing is measured */
        assert_int_equal(count_of('E'), 0);
        assert_int_equal(used(), before);
        assert_true(atomic_load(&session.usage->gate[0].wanted_at) + 1000 * MS > now());
}

static void test_turns_are_kept(void **state)
{
        pthread_t thread;
        static char f;
        uint64_t start;

        (void)state;
        keep_turns(CU_CTX_SCHED_AUTO);
        done_count = 0;
        keep_turns(CU_CTX_SCHED_BLOCKING_SYNC);
        /* told anew, taken away, and no longer good, while somebody waits */
        for (unsigned i = 0; i < 3; i++)
                for (unsigned flags = 0; flags < 2; flags++) {
                        context_flags = flags ? CU_CTX_SCHED_BLOCKING_SYNC : 0;
                        start = now();
                        set_turns(start + 50000 * MS, start + 50001 * MS, 60000 * MS,
                                i == 2 ? start + 100 * MS : FOREVER);
                        atomic_store(&passed, 0);
                        pthread_create(&thread, NULL, launch_one, &f);
                        usleep(30000);
                        assert_int_equal(atomic_load(&passed), 0);
                        if (i == 0)
                                set_turns(now(), now() + 10000 * MS, 60000 * MS, FOREVER);
                        if (i == 1)
                                set_gate(false);
                        syscall(SYS_futex, &gate()->version, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
                        pthread_join(thread, NULL);
                        assert_int_equal(atomic_load(&passed), 1);
                        assert_true(now() - start < 2000 * MS);
                }
        /* what is captured does not wait */
        start = now();
        set_turns(start + 50000 * MS, start + 50001 * MS, 60000 * MS, FOREVER);
        capturing = true;
        assert_int_equal(kernel(&f, 100), CUDA_SUCCESS);
        assert_true(now() - start < 1000 * MS);
        capturing = false;
        context_flags = 0;
}

static void test_work_in_flight_is_bounded(void **state)
{
        static char f;

        (void)state;
        for (unsigned i = 0; i < 20; i++)
                (void)kernel(&f, 500);
        (void)cuStreamSynchronize(stream);
        deepest = 0;
        for (unsigned i = 0; i < 100; i++)
                (void)kernel(&f, 500);
        /* 2 ms, and what the prediction is off by */
        assert_true(deepest <= 3 * MS);
        (void)cuStreamSynchronize(stream);
        /* a window that ends soon is not passed by more than one */
        lease(0, now() + 20 * MS, 2 * MS);
        for (unsigned i = 0; i < 3; i++)
                (void)kernel(&f, 500);
        assert_true(engine_free <= now() + 21 * MS);
}

/* Until it is known how long a kernel takes, not many of it are let go: not where the others are
 * long, either. It is the first test. */
static void test_unknown_kernels(void **state)
{
        static char f, g[40];

        (void)state;
        for (unsigned i = 0; i < 12; i++)
                (void)kernel(&f, 5000);
        if (deepest > 16 * MS)
                fail_msg("%u us were in the queue", (unsigned)(deepest / 1000));
        (void)cuStreamSynchronize(stream);
        deepest = 0;
        for (unsigned i = 0; i < 12; i++)
                (void)kernel(&g[i], 5000);
        (void)cuStreamSynchronize(stream);
        if (deepest > 16 * MS)
                fail_msg("%u us were in the queue", (unsigned)(deepest / 1000));
}

/* More kernels than there is room for prices: those that are used stay known. They are
 * longer than a launch takes where a sanitizer looks on: else the stream runs dry after each. */
static void test_many_kernels(void **state)
{
        static char f[3][1000];
        uint64_t before, took;

        (void)state;
        lease(0, FOREVER, 20 * MS);
        for (unsigned round = 0; round < 3; round++)
                for (unsigned i = 0; i < 1000; i++)
                        (void)kernel(&f[round][i], 40);
        (void)cuStreamSynchronize(stream);
        /* known ones need no marker each */
        for (unsigned i = 0; i < 200; i++)
                (void)kernel(&f[2][800 + i], 40);
        (void)cuStreamSynchronize(stream);
        done_count = 0;
        before = used();
        for (unsigned i = 0; i < 200; i++)
                (void)kernel(&f[2][800 + i], 40);
        (void)cuStreamSynchronize(stream);
        assert_true(count_of('E') <= 60);
        took = used() - before;
        if (took < 6 * MS || took > 30 * MS)
                fail_msg("8 ms are counted as %u us", (unsigned)(took / 1000));
}

static void test_use_is_measured(void **state)
{
        uint64_t before, took;
        static char f, g, h;

        (void)state;
        lease(0, FOREVER, 20 * MS);
        /* a queue of two kernels, first of unknown length */
        before = used();
        for (unsigned i = 0; i < 100; i++) {
                (void)kernel(&f, 300);
                (void)kernel(&g, 700);
        }
        (void)cuCtxSynchronize();
        took = used() - before;
        if (took < 90 * MS || took > 150 * MS)
                fail_msg("100 ms are counted as %u us", (unsigned)(took / 1000));
        /* one at a time: pauses do not count */
        for (unsigned i = 0; i < 8; i++) {
                (void)kernel(&h, 400);
                (void)cuStreamSynchronize(stream);
        }
        before = used();
        for (unsigned i = 0; i < 50; i++) {
                (void)kernel(&h, 400);
                (void)cuStreamSynchronize(stream);
                usleep(1000);
        }
        took = used() - before;
        if (took < 17 * MS || took > 40 * MS)
                fail_msg("20 ms are counted as %u us", (unsigned)(took / 1000));
        /* a graph as a whole */
        before = used();
        for (unsigned i = 0; i < 10; i++)
                (void)cuGraphLaunch((CUgraphExec)&f, stream);
        (void)cuCtxSynchronize();
        took = used() - before;
        if (took < 42 * MS || took > 80 * MS)
                fail_msg("50 ms are counted as %u us", (unsigned)(took / 1000));
        /* what fails is not counted */
        failing = true;
        before = used();
        assert_int_equal(kernel(&f, 300), CUDA_ERROR_INVALID_VALUE);
        assert_int_equal(used(), before);
}

/* The device waits for the host while a kernel is loaded: that is not the kernel's time. */
static void test_loading_is_not_use(void **state)
{
        uint64_t before = used(), took;
        static char f;

        (void)state;
        loading = true;
        (void)kernel(&f, 100);
        (void)cuStreamSynchronize(stream);
        took = used() - before;
        if (took > 20 * MS)
                fail_msg("100 us are counted as %u", (unsigned)(took / 1000));
        /* nor is it its price */
        before = used();
        (void)kernel(&f, 100);
        (void)cuStreamSynchronize(stream);
        took = used() - before;
        if (took > 20 * MS)
                fail_msg("100 us are counted as %u", (unsigned)(took / 1000));
}

/* A kernel that has come to take long, as by its input, is measured each time from then on, also
 * where it is waited for. */
static void test_long_kernels_are_counted_in_full(void **state)
{
        uint64_t before, took;
        static char f;

        (void)state;
        for (unsigned i = 0; i < 6; i++) {
                (void)kernel(&f, 1000);
                (void)cuStreamSynchronize(stream);
        }
        slower = 5;
        before = used();
        for (unsigned i = 0; i < 12; i++) {
                (void)kernel(&f, 1000);
                (void)cuStreamSynchronize(stream);
        }
        took = used() - before;
        if (took < 59 * MS || took > 120 * MS)
                fail_msg("60 ms are counted as %u us", (unsigned)(took / 1000));
}

/* As the runtime resets a primary context: by a way of its own, and the next has the same handle.
 */
static void test_a_context_comes_again(void **state)
{
        static CUevent dead[ARRAY_COUNT(living)];
        static char f;

        (void)state;
        for (unsigned i = 0; i < 40; i++)
                (void)kernel(&f, 100);
        assert_true(count_of('E') > 0);
        context_id++;
        atomic_store(&events_gone, atomic_load(&events_made));
        memcpy(dead, living, sizeof(dead));
        memset(living, 0, sizeof(living));
        dead_used = 0;
        (void)cuCtxSynchronize();
        done_count = 0;
        for (unsigned i = 0; i < 40; i++)
                (void)kernel(&f, 100);
        (void)cuCtxSynchronize();
        assert_int_equal(dead_used, 0);
        assert_true(count_of('E') > 0);
        for (unsigned i = 0; i < ARRAY_COUNT(dead); i++)
                free(dead[i]);
}

static void test_markers_are_sparse(void **state)
{
        static char f, g;

        (void)state;
        lease(0, FOREVER, 20 * MS);
        for (unsigned i = 0; i < 40; i++)
                (void)kernel(&f, 20);
        (void)cuStreamSynchronize(stream);
        done_count = 0;
        for (unsigned i = 0; i < 640; i++)
                (void)kernel(&f, 20);
        /* 250 us of work, or 32 launches */
        assert_true(count_of('E') <= 640 / 6);
        (void)cuStreamSynchronize(stream);
        for (unsigned i = 0; i < 8; i++) {
                (void)kernel(&g, 100);
                (void)cuStreamSynchronize(stream);
        }
        done_count = 0;
        for (unsigned i = 0; i < 160; i++) {
                (void)kernel(&g, 100);
                (void)cuStreamSynchronize(stream);
        }
        assert_true(count_of('E') <= 2 * 160 / 8);
}

static void test_capture_is_left_alone(void **state)
{
        uint64_t before, start;
        static char f;

        (void)state;
        (void)kernel(&f, 100);
        lease(FOREVER, 0, 2 * MS);
        capturing = true;
        done_count = 0;
        before = used();
        start = now();
        for (unsigned i = 0; i < 200; i++)
                assert_int_equal(kernel(&f, 100), CUDA_SUCCESS);
        assert_true(now() - start < 1000 * MS);
        assert_int_equal(done_count, 200);
        assert_int_equal(count_of('E'), 0);
        assert_int_equal(used(), before);
}

static void test_dependent_launches_stay_together(void **state)
{
        CUlaunchAttribute attribute = {
                .id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                .value.programmaticStreamSerializationAllowed = 1,
        };
        CUlaunchConfig first = {.gridDimX = 200,
                .gridDimY = 1,
                .gridDimZ = 1,
                .blockDimX = 1,
                .blockDimY = 1,
                .blockDimZ = 1,
                .hStream = stream};
        CUlaunchConfig tied = first;
        static char f, g;
        uint64_t before;
        unsigned marks;

        (void)state;
        tied.attrs = &attribute;
        tied.numAttrs = 1;
        /* the first of them tells that this program has such launches */
        (void)cuLaunchKernelEx(&tied, (CUfunction)&g, NULL, NULL);
        (void)cuStreamSynchronize(stream);
        done_count = 0;
        before = used();
        for (unsigned i = 0; i < 60; i++) {
                (void)cuLaunchKernelEx(&first, (CUfunction)&f, NULL, NULL);
                (void)cuLaunchKernelEx(&tied, (CUfunction)&g, NULL, NULL);
                (void)cuLaunchKernelEx(&tied, (CUfunction)&g, NULL, NULL);
                if (i % 3 == 0)
                        (void)cuStreamSynchronize(stream);
        }
        (void)cuStreamSynchronize(stream);
        marks = count_of('E');
        assert_true(marks > 0);
        for (unsigned i = 1; i < done_count; i++)
                if (done[i] == 'T' && done[i - 1] == 'E')
                        fail_msg("a marker stands before a launch that is tied to the one before");
        assert_true(used() - before > 28 * MS && used() - before < 60 * MS);
        /* and they are not kept waiting, as the one before may be running */
        lease(0, now() + 5000 * MS, 20 * MS);
        (void)cuLaunchKernelEx(&first, (CUfunction)&f, NULL, NULL);
        lease(FOREVER, 0, 2 * MS);
        assert_int_equal(cuLaunchKernelEx(&tied, (CUfunction)&g, NULL, NULL), CUDA_SUCCESS);
}

/* The second half of a collective passes, though the lease has ended behind the first. */
static void test_partners_pass_together(void **state)
{
        struct cleave_grant_page *page = (struct cleave_grant_page *)grant_bytes;
        pthread_t thread;
        uint64_t start;
        static char f;

        (void)state;
        page->devices = 2;
        atomic_store(&page->device[1].gate, true);
        atomic_store(&page->gates, 2);
        cleave_gate_write(cleave_gate(page, 1), FOREVER, 0, 2 * MS, 500000);
        atomic_store(&cleave_gate(page, 1)->written_at, now() + CLEAVE_GATE_STALE / 2);
        for (unsigned i = 0; i < 5; i++) {
                (void)kernel(&f, 100);
                (void)cuStreamSynchronize(stream);
        }
        for (unsigned tries = 0;; tries++) {
                start = now();
                current_device = 0;
                (void)kernel(&f, 100);
                current_device = 1;
                /* a busy machine may keep us from it for too long */
                if (now() - start < MS || tries == 100)
                        break;
        }
        (void)cuLaunchKernel((CUfunction)&f, 100, 1, 1, 1, 1, 1, 0, (CUstream)0x2100, NULL, NULL);
        assert_true(now() - start < 100 * MS);
        /* what comes later waits for its turn */
        usleep(20000);
        atomic_store(&passed, 0);
        (void)cuStreamSynchronize(stream);
        pthread_create(&thread, NULL, launch_one, &f);
        usleep(50000);
        assert_int_equal(atomic_load(&passed), 0);
        cleave_gate_write(cleave_gate(page, 1), 0, FOREVER, 2 * MS, 500000);
        pthread_join(thread, NULL);
        assert_int_equal(atomic_load(&passed), 1);
        page->devices = 1;
        atomic_store(&page->device[1].gate, false);
}

/* Nobody renews the lease: it goes on at the rate that it had, 50 %. */
static void test_a_dead_daemon_holds_nobody_up(void **state)
{
        uint64_t start, free_before;
        unsigned count = 0;
        double part;
        static char f;

        (void)state;
        for (unsigned i = 0; i < 20; i++)
                (void)kernel(&f, 1000);
        (void)cuStreamSynchronize(stream);
        lease(FOREVER, 0, 2 * MS);
        atomic_store(&gate()->written_at, now() - 2 * CLEAVE_GATE_STALE);
        start = now();
        free_before = start;
        while (now() < start + 600 * MS) {
                (void)kernel(&f, 1000);
                count++;
        }
        part = (double)count * 1e6 / (double)(now() - free_before);
        if (part < 0.1 || part > 0.6)
                fail_msg("it gets %.3f", part);
        /* clocks of another time namespace are as good as none */
        lease(FOREVER, 0, 2 * MS);
        atomic_store(&gate()->written_at, now() + 100 * CLEAVE_GATE_STALE);
        assert_int_equal(kernel(&f, 1000), CUDA_SUCCESS);
}

/* Work that waits for a launch to come, and ends only then, is not waited for without end. */
static void test_work_that_does_not_end_is_passed(void **state)
{
        static char f, g;
        uint64_t start;

        (void)state;
        for (unsigned i = 0; i < 6; i++) {
                (void)kernel(&f, 200);
                (void)cuStreamSynchronize(stream);
        }
        /* predicted to take 200 us, it takes 900 ms: as if it waited for the next */
        (void)kernel(&f, 200);
        (void)kernel(&f, 200);
        pthread_mutex_lock(&driver_lock);
        engine_free = now() + 900 * MS;
        pthread_mutex_unlock(&driver_lock);
        start = now();
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(kernel(&g, 10), CUDA_SUCCESS);
        assert_true(now() - start < 600 * MS);
}

static void *launch_many(void *argument)
{
        CUstream own = (CUstream)argument;
        static char functions[4];

        for (unsigned i = 0; i < 300; i++) {
                if (cuLaunchKernel((CUfunction)&functions[i % 4], 20 + i % 4 * 20, 1, 1, 1, 1, 1, 0,
                            own, NULL, NULL) != CUDA_SUCCESS)
                        return NULL;
                if (i % 16 == 15)
                        (void)cuStreamSynchronize(own);
        }
        (void)cuStreamDestroy_v2(own);
        atomic_fetch_add(&passed, 1);
        return NULL;
}

/* Threads with streams of their own, made and destroyed, beside one that looks at all of them. */
static void test_threads(void **state)
{
        uint64_t before = used(), took;
        pthread_t thread[6];

        (void)state;
        atomic_store(&passed, 0);
        for (unsigned i = 0; i < 6; i++)
                pthread_create(
                        &thread[i], NULL, launch_many, (void *)(uintptr_t)(0x3000 + 0x10 * i));
        for (unsigned i = 0; i < 20; i++)
                (void)cuCtxSynchronize();
        for (unsigned i = 0; i < 6; i++)
                pthread_join(thread[i], NULL);
        assert_int_equal(atomic_load(&passed), 6);
        assert_int_equal(count_of('K'), 6 * 300);
        /* 90 ms, on one engine */
        took = used() - before;
        if (took < 60 * MS || took > 300 * MS)
                fail_msg("90 ms are counted as %u us", (unsigned)(took / 1000));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_unknown_kernels, begin, end),
                cmocka_unit_test_setup_teardown(test_many_kernels, begin, end),
                cmocka_unit_test_setup_teardown(test_nothing_without_a_gate, begin, end),
                cmocka_unit_test_setup_teardown(test_a_launch_waits_for_its_lease, begin, end),
                cmocka_unit_test_setup_teardown(test_turns_by_the_clock, begin, end),
                cmocka_unit_test_setup_teardown(test_turns_are_kept, begin, end),
                cmocka_unit_test_setup_teardown(test_work_in_flight_is_bounded, begin, end),
                cmocka_unit_test_setup_teardown(test_use_is_measured, begin, end),
                cmocka_unit_test_setup_teardown(test_loading_is_not_use, begin, end),
                cmocka_unit_test_setup_teardown(test_long_kernels_are_counted_in_full, begin, end),
                cmocka_unit_test_setup_teardown(test_a_context_comes_again, begin, end),
                cmocka_unit_test_setup_teardown(test_markers_are_sparse, begin, end),
                cmocka_unit_test_setup_teardown(test_threads, begin, end),
                cmocka_unit_test_setup_teardown(test_capture_is_left_alone, begin, end),
                cmocka_unit_test_setup_teardown(test_partners_pass_together, begin, end),
                cmocka_unit_test_setup_teardown(test_a_dead_daemon_holds_nobody_up, begin, end),
                cmocka_unit_test_setup_teardown(test_work_that_does_not_end_is_passed, begin, end),
                cmocka_unit_test_setup_teardown(test_dependent_launches_stay_together, begin, end),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
