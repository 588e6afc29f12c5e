/* SPDX-License-Identifier: Apache-2.0 */
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "exec.h"
#include "kernel.h"
#include "models.h"
#include "module.h"
#include "mps.h"

/* Threads are made when work is ready and nobody is idle, and go after a while without work. A
 * kernel occupies its thread for as long as it lasts, so this is also how many run side by side. */
#define MAX_WORKERS    64
#define IDLE_SECONDS   2
#define RETRY_NS       20000ull
#define RETRY_LIMIT_NS 500000ull
/* What a kernel takes of a shared device that is done at once on a free one. */
#define LEAST_NS 1000ull
#define AHEAD_NS 20000000ull

pthread_mutex_t exec_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t exec_room = PTHREAD_COND_INITIALIZER;

static pthread_cond_t work_ready = PTHREAD_COND_INITIALIZER;
static struct op *ready_first, **ready_last = &ready_first;
static unsigned n_ready, n_idle, n_workers;
static __thread bool in_callback __attribute__((tls_model("initial-exec")));
static __thread bool is_worker __attribute__((tls_model("initial-exec")));

uint64_t exec_now(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool exec_in_callback(void)
{
        return in_callback;
}

void engine_set_callback(bool inside)
{
        in_callback = inside;
}

static bool is_lost(const struct sim_context *context)
{
        return atomic_load(&kernel_state()->device[context->device->gpu].lost);
}

/* Has the kernel take its time of the device; the mark at which it is done. Under MPS it shares
 * that with the clients' other kernels, SM by SM, and one that has more blocks than fit at once
 * takes several turns. */
static uint64_t submit_kernel(
        const struct sim_context *context, struct launch *launch, uint64_t after, uint64_t ns)
{
        uint64_t blocks, per_sm, needed;
        struct sim_sms set;
        unsigned sms;

        if (!context->served)
                return runlist_submit(context->runlist, context->group, after, ns);
        set = green_sms(launch->green, context->device);
        sms = sms_count(&set);
        blocks = (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2];
        per_sm = (uint64_t)occupancy_blocks(launch->function,
                (int)(launch->block[0] * launch->block[1] * launch->block[2]),
                launch->shared_bytes);
        if (per_sm == 0)
                per_sm = 1;
        needed = (blocks + per_sm - 1) / per_sm;
        if (needed > sms) {
                ns *= (needed + sms - 1) / sms;
                needed = sms;
        }
        return runlist_submit_sms(context->runlist, context->group, after, ns, set.word,
                (unsigned)needed, launch->sms.word);
}

/* The server, in whose channel group a client's kernels run, has died with all they had. */
static bool lost_server(struct sim_context *context)
{
        if (!context->served || mps_alive())
                return false;
        sim_context_fail(context, CUDA_ERROR_MPS_RPC_FAILURE);
        return true;
}

/* The one place where work takes the device's time: returns when the context's group has reached
 * the mark. 0: the kernel takes no time that counts, but waits for its turn all the same. */
static void engine_execute(struct sim_context *context, struct launch *launch, uint64_t mark)
{
        int slack = 0;

        if (lost_server(context))
                return;
        if (!mark) {
                if (!context->served && runlist_is_open(context->runlist, context->group))
                        return;
                mark = submit_kernel(context, launch, 0, LEAST_NS);
        }
        if (!is_worker) {
                slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
                prctl(PR_SET_TIMERSLACK, 1000ul, 0, 0, 0);
        }
        while (!runlist_wait(context->runlist, context->group, mark) && !is_lost(context) &&
                !lost_server(context))
                /* whoever has the engine may be dead: taking the lock finds it out */
                if (kernel_lock_to_read())
                        kernel_unlock();
        if (slack > 0)
                prctl(PR_SET_TIMERSLACK, (unsigned long)slack, 0, 0, 0);
}

/* ---- marks ----
 *
 * A device goes through the kernels that are queued without waiting for the host. So a kernel's
 * time is asked for as soon as it is known after which mark it comes, mostly when it is launched;
 * the thread that runs it later only waits for that mark.
 */

/* Whether the device is done with the work so long after it began. */
static bool takes_known_time(const struct work *work, uint64_t *ret_ns)
{
        *ret_ns = 0;
        if (work_is_trivial(work) || work->kind == WORK_ALLOC || work->kind == WORK_FREE)
                return true;
        return work->kind == WORK_KERNEL && kernels_duration(&work->launch, ret_ns);
}

/* locked. One less of those whose mark op waits for. */
static void now_known(struct op *op)
{
        struct op *todo = op;

        if (--op->unknown)
                return;
        op->next_marked = NULL;
        while (todo) {
                struct op *one = todo;

                todo = one->next_marked;
                if (!takes_known_time(one->work, &one->takes_ns))
                        continue;
                if (one->takes_ns)
                        one->mark = submit_kernel(
                                one->context, &one->work->launch, one->mark, one->takes_ns);
                one->marked = true;
                for (unsigned i = 0; i < one->n_waiters; i++) {
                        struct op *waiter = one->waiters[i];

                        if (waiter->context != one->context)
                                continue;
                        if (waiter->mark < one->mark)
                                waiter->mark = one->mark;
                        if (--waiter->unknown == 0) {
                                waiter->next_marked = todo;
                                todo = waiter;
                        }
                }
        }
}

struct op *op_new(struct sim_context *context, struct work *work)
{
        struct op *op = calloc(1, sizeof(*op));

        if (!op) {
                work_free(work);
                return NULL;
        }
        op->refs = 1;
        op->pending = 1;
        op->unknown = 1;
        op->context = context;
        op->work = work;
        return op;
}

struct op *op_ref(struct op *op)
{
        op->refs++;
        return op;
}

struct op *op_unref(struct op *op)
{
        if (!op || --op->refs)
                return NULL;
        if (!op->borrowed)
                work_free(op->work);
        if (op->stream)
                stream_unref(op->stream);
        free(op->waiters);
        free(op);
        return NULL;
}

CUresult op_after(struct op *op, struct op *before)
{
        if (!before || before->done)
                return CUDA_SUCCESS;
        if (before->n_waiters == before->room) {
                unsigned room = before->room ? before->room * 2 : 4;
                struct op **grown = reallocarray(before->waiters, room, sizeof(*grown));

                if (!grown)
                        return CUDA_ERROR_OUT_OF_MEMORY;
                before->waiters = grown;
                before->room = room;
        }
        before->waiters[before->n_waiters++] = op_ref(op);
        op->pending++;
        if (!before->marked || before->context != op->context)
                op->unknown++;
        else if (op->mark < before->mark)
                op->mark = before->mark;
        return CUDA_SUCCESS;
}

static void *worker(void *unused);

static void start_worker(void)
{
        pthread_attr_t attributes;
        sigset_t all, before;
        pthread_t thread;

        sigfillset(&all);
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attributes, 256 << 10);
        /* The program's signals are for the program's threads. */
        pthread_sigmask(SIG_SETMASK, &all, &before);
        if (pthread_create(&thread, &attributes, worker, NULL) == 0)
                n_workers++;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
}

static void enqueue(struct op *op)
{
        op->next = NULL;
        *ready_last = op_ref(op);
        ready_last = &op->next;
        n_ready++;
        if (n_idle >= n_ready)
                pthread_cond_signal(&work_ready);
        else if (n_workers < MAX_WORKERS)
                start_worker();
}

static struct op *dequeue(void)
{
        struct op *op = ready_first;

        if (!op)
                return NULL;
        ready_first = op->next;
        if (!ready_first)
                ready_last = &ready_first;
        n_ready--;
        op->next = NULL;
        return op;
}

/* locked. Ends op, and everything behind it that has nothing to do but end. take_one: the calling
 * thread goes on with the first op that becomes ready, which is returned with a reference. */
static struct op *finish(struct op *op, bool take_one)
{
        struct op *todo = op_ref(op), *taken = NULL;

        op->next = NULL;
        while (todo) {
                struct op *one = todo;

                todo = one->next;
                one->next = NULL;
                if (one->work && one->work->kind == WORK_RECORD)
                        event_end_turn(one->work->event.event, one->work->event.turn);
                one->finished_at = exec_now();
                atomic_store_explicit(&one->done, 1, memory_order_release);
                syscall(SYS_futex, &one->done, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
                if (one->stream) {
                        if (one->stream->last == one) {
                                one->stream->last = NULL;
                                op_unref(one);
                        }
                        if (one->stream->queued-- >= STREAM_DEPTH)
                                pthread_cond_broadcast(&exec_room);
                        one->stream = stream_unref(one->stream);
                }
                for (unsigned i = 0; i < one->n_waiters; i++) {
                        struct op *waiter = one->waiters[i];

                        if (!one->marked || one->context != waiter->context)
                                now_known(waiter);
                        if (--waiter->pending) {
                                op_unref(waiter);
                        } else if (work_is_trivial(waiter->work)) {
                                waiter->next = todo;
                                todo = waiter;
                        } else if (take_one && !taken) {
                                taken = waiter;
                        } else {
                                enqueue(waiter);
                                op_unref(waiter);
                        }
                }
                free(one->waiters);
                one->waiters = NULL;
                one->n_waiters = one->room = 0;
                op_unref(one);
        }
        return taken;
}

/* After an error nothing in the context runs any more, but who waits to be told is told. */
static bool always_runs(const struct work *work)
{
        return work->kind == WORK_CALLBACK || work->kind == WORK_CALL;
}

/* A kernel that ends when it is told: its time is asked for ahead, as a device does not wait for
 * the host between its turns. */
static int run_on(struct op *op)
{
        uint64_t mark = op->mark, asked = op->mark;
        int r = RUN_ON;

        while (r == RUN_ON && !is_lost(op->context) &&
                atomic_load(&op->context->error) == CUDA_SUCCESS) {
                while (asked < mark + AHEAD_NS)
                        asked = submit_kernel(op->context, &op->work->launch, asked, op->takes_ns);
                mark += op->takes_ns;
                engine_execute(op->context, &op->work->launch, mark);
                r = work_run(op->work);
        }
        return r;
}

/* locked, released while the work runs. False: to be tried again. */
static bool run(struct op *op)
{
        int r = 0;

        if (op->work &&
                (always_runs(op->work) || atomic_load(&op->context->error) == CUDA_SUCCESS)) {
                pthread_mutex_unlock(&exec_lock);
                if (op->work->kind == WORK_KERNEL)
                        engine_execute(op->context, &op->work->launch, op->takes_ns ? op->mark : 0);
                r = work_run(op->work);
                if (r == RUN_ON)
                        r = run_on(op);
                if (r < 0)
                        sim_context_fail(op->context, (CUresult)-r);
                pthread_mutex_lock(&exec_lock);
        }
        return r != RUN_AGAIN;
}

static void *worker(void *unused)
{
        struct op *op = NULL;

        is_worker = true;
        pthread_setname_np(pthread_self(), "cleave-sim");
        prctl(PR_SET_TIMERSLACK, 1000ul, 0, 0, 0);
        pthread_mutex_lock(&exec_lock);
        for (;;) {
                struct op *following = NULL;
                uint64_t now;

                if (!op)
                        op = dequeue();
                if (!op) {
                        struct timespec until;
                        int r;

                        clock_gettime(CLOCK_REALTIME, &until);
                        until.tv_sec += IDLE_SECONDS;
                        n_idle++;
                        r = pthread_cond_timedwait(&work_ready, &exec_lock, &until);
                        n_idle--;
                        if (r && !ready_first)
                                break;
                        continue;
                }
                now = exec_now();
                if (op->retry_at > now) {
                        struct timespec pause = {.tv_nsec = (long)(op->retry_at - now)};

                        pthread_mutex_unlock(&exec_lock);
                        nanosleep(&pause, NULL);
                        pthread_mutex_lock(&exec_lock);
                }
                if (run(op)) {
                        following = finish(op, true);
                } else {
                        op->retry_at = exec_now() + RETRY_NS;
                        enqueue(op);
                }
                op_unref(op);
                op = following;
        }
        n_workers--;
        pthread_mutex_unlock(&exec_lock);
        return NULL;
}

void op_start(struct op *op)
{
        now_known(op);
        if (--op->pending)
                return;
        if (work_is_trivial(op->work))
                finish(op, false);
        else
                enqueue(op);
}

/* Host functions stay on the driver's threads. */
static bool can_help(const struct op *op, const struct stream *stream)
{
        return op && op->stream == stream && op->retry_at == 0 && op->work &&
               op->work->kind != WORK_HOST && op->work->kind != WORK_CALLBACK;
}

void op_help(struct op *op, struct stream *stream)
{
        struct op *one = NULL;

        while (!op->done && (one || can_help(ready_first, stream))) {
                struct op *following = NULL;

                if (!one)
                        one = dequeue();
                if (run(one)) {
                        following = finish(one, true);
                } else {
                        one->retry_at = exec_now() + RETRY_NS;
                        enqueue(one);
                }
                op_unref(one);
                one = following;
                if (one && !can_help(one, stream)) {
                        enqueue(one);
                        op_unref(one);
                        one = NULL;
                }
        }
        if (one) {
                enqueue(one);
                op_unref(one);
        }
}

void op_start_and_wait(struct op *op)
{
        if (op->pending > 1 || work_is_trivial(op->work)) {
                op_start(op);
                op_wait(op);
                return;
        }
        now_known(op);
        op->pending = 0;
        op_ref(op);
        if (run(op)) {
                finish(op, false);
        } else {
                enqueue(op);
                op_wait(op);
        }
        op_unref(op);
}

void op_wait(struct op *op)
{
        op_ref(op);
        while (!op->done) {
                pthread_mutex_unlock(&exec_lock);
                syscall(SYS_futex, &op->done, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
                pthread_mutex_lock(&exec_lock);
        }
        op_unref(op);
}
