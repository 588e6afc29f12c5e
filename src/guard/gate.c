/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate: where the driver lets nobody steer its scheduler, a tenant's launches wait here for
 * their turn (policy/gate.h decides whose it is), and are measured.
 *
 * How long work takes is predicted from what the same kernel, with the same dimensions, took
 * before; a stream that is never empty is measured from marker to marker, one that is, now and
 * then, by a marker before and one behind a launch. A marker is an event of ours, recorded where
 * the program's next operation on the stream is one that waits for all before it anyhow, or is
 * known not to be tied to the launch before: never into a capture, never between launches of which
 * the second may begin before the first has ended (programmatic stream serialization). Those
 * launches pass without waiting too, as does all that is captured; a graph passes as a whole.
 *
 * Nothing waits while a lock is held, ours or, as we stand before it, the driver's. What goes wrong
 * with a marker is not the program's concern: the launch passes, and is counted as predicted.
 *
 * A tenant's devices have one lease (policy/gate.h), but it ends while something is being launched:
 * a launch that passed on one device may be the half of a collective. So what is launched on
 * another just behind it passes too.
 *
 * Turns that are kept by the clock (CLEAVE_GATE_TURNS) are another thing at the same place: nothing
 * is measured, a launch passes when the page says that it may, and waits else.
 *
 * Not seen here: copies and memsets that the driver does by kernels of its own, launches that
 * kernels make, and what a kernel does that is running.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "driver.h"

#define US 1000ull
#define MS 1000000ull

#define STREAMS  64 /* that are told apart; launches on others are only predicted */
#define CONTEXTS 16 /* the same */
#define RING     16 /* batches of a stream that are under way */
#define BATCH    32 /* launches between two markers, at most */
#define PRICES   2048
#define WAYS     8  /* places that a price may have */
#define BLIND    2  /* batches under way, at most, before a launch of which nothing is known */
#define LEARNT   64 /* batches that tell what this program is like */
#define SURE     4  /* times that a kernel was measured until it is measured seldom */
#define SELDOM   16 /* short launches on an empty stream, not measured, after one that is */
#define MARK_NS  (400 * US) /* predicted work between two markers */
#define LOOK_NS  (100 * US) /* between looks at markers, while launches pass */
#define NAP_NS   (1 * MS)   /* at most, until a waiting launch looks again */
#define LATE_NS  (100 * MS) /* a launch waits so long for work that does not end when predicted */
#define GUESS_NS (20 * US)  /* of a first kernel */
#define LEAST_NS 500ull     /* of any */
#define LOAD_NS  (200 * US) /* a first launch that takes the host longer has loaded its kernel */
#define RENEW_MS 4000.0     /* the event that times are counted from is replaced after that */
#define BURST_NS (20 * MS)  /* that is saved up while there is no daemon */
#define WAKE_NS  (100 * US) /* before its turn whoever sleeps is awake */
#define JUST_NS  (2 * MS)   /* behind a launch on one device, its partners on others pass */

/* What a kernel takes. */
struct price {
        uint64_t key; /* 0: free */
        uint64_t ns;
        uint64_t touched; /* by the count of look-ups */
        unsigned seen, skipped;
        bool launched; /* once */
};

/* Launches on a stream from one marker to the next. */
struct batch {
        CUevent start; /* NULL: not known; else it has completed when the first launch began */
        CUevent end;
        uint64_t sum_ns;   /* predicted */
        uint64_t added_ns; /* by which they were counted as used */
        unsigned count;
        uint16_t price[BATCH];
        uint32_t tag[BATCH]; /* of the price's key: its place may have become another's */
        uint32_t ns[BATCH];  /* predicted of each, when it was launched; saturated */
};

struct stream {
        CUcontext context;     /* NULL: free */
        unsigned long long id; /* of the context: handles come again, ids do not */
        CUstream handle;
        const void *thread; /* of a per-thread stream, else NULL */
        int device;
        unsigned first, next; /* batches under way are those of ring[] from first to next, modulo */
        struct batch ring[RING];
        CUevent begin[RING], end[RING]; /* ours, made when they are first needed */
        CUevent last;                   /* stands behind all but the launches of now; or NULL */
        struct batch now;
        uint64_t busy_until, pending_ns;
        unsigned given_up; /* one more than the first of a batch that was waited for in vain */
        uint64_t touched;
        const void *by; /* the thread that launched last */
        bool marking;   /* a thread records an event */
};

/* Where times of a context are counted from. */
struct origin {
        CUcontext context;
        unsigned long long id;
        CUevent event;
        double covered_ms; /* what was counted as used ends there */
};

struct device {
        uint64_t busy_until;
        uint64_t looked_at;
        bool late; /* then: work had not ended that should have */
        /* without a daemon: since when, and what was used then */
        bool alone;
        uint64_t alone_at, alone_used;
};

static _Atomic uint32_t none;
const _Atomic uint32_t *guard_gate_word = &none;

static struct guard_lock gate_lock;
static struct stream streams[STREAMS];
static struct origin origins[CONTEXTS];
static struct device devices[CLEAVE_MAX_DEVICES];
static struct price prices[PRICES];
static uint64_t lookups;            /* of prices */
static uint64_t mean_ns = GUESS_NS; /* of what was measured lately */
static unsigned measured_batches;
static _Atomic bool any_stream;   /* was told apart, ever */
static _Atomic bool dependent;    /* the program ties launches to those before them */
static _Atomic uint32_t looking;  /* a thread looks at markers */
static __thread char this_thread; /* its address is the thread's name */
static __thread struct {
        CUcontext context;
        unsigned long long id; /* 0: the driver does not say */
} current;                     /* of this thread, as it was asked for last */

void guard_gate_open(void)
{
        const struct guard_session *session = guard_session();

        if (!session || !session->slot)
                return;
        for (unsigned i = 0; i < CLEAVE_MAX_DEVICES; i++)
                atomic_store_explicit(&session->slot->gate_busy[i], 0, memory_order_relaxed);
        atomic_store_explicit(&session->slot->keeps_turns, 1, memory_order_relaxed);
        __atomic_store_n(&guard_gate_word, &session->grant->gates, __ATOMIC_RELEASE);
}

static uint64_t now_ns(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t least(uint64_t a, uint64_t b)
{
        return a < b ? a : b;
}

static inline uint64_t most(uint64_t a, uint64_t b)
{
        return a > b ? a : b;
}

static struct cleave_gate_use *use_of(int device)
{
        return &guard_session()->usage->gate[device];
}

/* Our own calls are not the business of a capture that some thread has begun. */
static CUstreamCaptureMode relax(void)
{
        CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;

        if (REAL(cuThreadExchangeStreamCaptureMode)(&mode) != CUDA_SUCCESS)
                mode = CU_STREAM_CAPTURE_MODE_RELAXED;
        return mode;
}

static void restore(CUstreamCaptureMode mode)
{
        REAL(cuThreadExchangeStreamCaptureMode)(&mode);
}

/* -- prices; under the lock -------------------------------------------------------------------- */

static uint64_t mix(uint64_t key, uint64_t value)
{
        key = (key ^ value) * 0x9e3779b97f4a7c15ull;
        return key ^ key >> 29;
}

static uint32_t tag_of(uint64_t key)
{
        return (uint32_t)(key >> 16);
}

/* The kernel's, in the place of the one that was not asked for longest if it has none. */
static struct price *price_of(uint64_t key)
{
        struct price *set = &prices[(key >> 40) % (PRICES / WAYS) * WAYS], *price = set;

        for (unsigned i = 0; i < WAYS && price->key != key; i++)
                if (set[i].key == key || set[i].touched < price->touched)
                        price = &set[i];
        if (price->key != key)
                *price = (struct price){.key = key};
        price->touched = ++lookups;
        return price;
}

/* What a launch's price has become; NULL: it has lost its place. */
static struct price *price_in(const struct batch *batch, unsigned i)
{
        struct price *price = &prices[batch->price[i]];

        return tag_of(price->key) == batch->tag[i] ? price : NULL;
}

static uint64_t predict(const struct price *price)
{
        return price->seen ? price->ns : mean_ns;
}

/* What the launches of one price were predicted to take together; 0: it was counted before. */
static double predicted_of(const struct batch *batch, unsigned i, unsigned *ret_count)
{
        double sum = 0;

        *ret_count = 0;
        for (unsigned k = 0; k < batch->count; k++) {
                if (batch->price[k] != batch->price[i] || batch->tag[k] != batch->tag[i])
                        continue;
                if (k < i)
                        return 0;
                sum += (double)batch->ns[k];
                ++*ret_count;
        }
        return sum;
}

/* The launches of a batch took so long together: each took more or less in proportion. */
static void learn(const struct batch *batch, uint64_t took)
{
        double ratio;

        if (!batch->sum_ns || !batch->count)
                return;
        ratio = (double)took / (double)batch->sum_ns;
        for (unsigned i = 0; i < batch->count; i++) {
                struct price *price = price_in(batch, i);
                /* together: the first of them may have been launched before anything was known */
                unsigned count;
                double found = predicted_of(batch, i, &count) * ratio, is;

                if (!price || !count || !found)
                        continue;
                is = (double)predict(price);
                found /= count;
                /* the mean at first; later, one that was held up by something else is not to be
                 * believed at once */
                if (price->seen < SURE)
                        found = ((price->seen ? is * price->seen : 0) + found) / (price->seen + 1);
                else
                        found = is + ((found > 4 * is ? 4 * is : found) - is) * 0.25;
                price->ns = most((uint64_t)found, LEAST_NS);
                price->seen++;
        }
        mean_ns = most((mean_ns * 7 + took / batch->count) / 8, LEAST_NS);
        measured_batches++;
}

/* -- streams; under the lock ------------------------------------------------------------------- */

static void publish(int device)
{
        atomic_store_explicit(&guard_session()->slot->gate_busy[device], devices[device].busy_until,
                memory_order_relaxed);
}

static void sum_up(int device)
{
        devices[device].busy_until = 0;
        for (unsigned i = 0; i < STREAMS; i++)
                if (streams[i].context && streams[i].device == device)
                        devices[device].busy_until =
                                most(devices[device].busy_until, streams[i].busy_until);
        publish(device);
}

static struct stream *find_stream(
        CUcontext context, CUstream handle, const void *thread, int device, uint64_t now)
{
        struct stream *oldest = NULL;

        for (unsigned i = 0; i < STREAMS; i++) {
                struct stream *s = &streams[i];

                if (s->context == context && s->handle == handle && s->thread == thread)
                        return s;
        }
        for (unsigned i = 0; i < STREAMS && !oldest; i++)
                if (!streams[i].context)
                        oldest = &streams[i];
        /* one that has not been used for long keeps its events, for whoever comes from its context
         */
        for (unsigned i = 0; i < STREAMS && !oldest; i++)
                if (streams[i].context == context && streams[i].first == streams[i].next &&
                        !streams[i].marking && streams[i].touched + 1000 * MS < now)
                        oldest = &streams[i];
        if (!oldest)
                return NULL;
        if (!oldest->context)
                *oldest = (struct stream){0};
        oldest->context = context;
        oldest->id = current.id;
        oldest->handle = handle;
        oldest->thread = thread;
        oldest->device = device;
        atomic_store_explicit(&any_stream, true, memory_order_relaxed);
        oldest->last = NULL;
        oldest->now = (struct batch){0};
        oldest->busy_until = oldest->pending_ns = 0;
        return oldest;
}

static struct origin *find_origin(CUcontext context)
{
        struct origin *free_one = NULL;

        for (unsigned i = 0; i < CONTEXTS; i++) {
                if (origins[i].context == context)
                        return &origins[i];
                if (!origins[i].context && !free_one)
                        free_one = &origins[i];
        }
        if (free_one)
                *free_one = (struct origin){.context = context, .id = current.id};
        return free_one;
}

static bool is_empty(const struct stream *s, uint64_t now)
{
        return s->busy_until <= now && s->first == s->next;
}

/* Whether a marker is due behind what was launched. */
static bool is_due(const struct stream *s)
{
        if (s->now.count == BATCH || s->now.sum_ns >= MARK_NS)
                return true;
        for (unsigned i = 0; i < s->now.count; i++) {
                const struct price *price = price_in(&s->now, i);

                if (price && price->seen == 0)
                        return true;
        }
        return false;
}

static bool is_full(const struct stream *s)
{
        return s->next - s->first >= RING - 2;
}

/* -- markers ----------------------------------------------------------------------------------- */

static bool make_event(CUevent *event)
{
        return *event || REAL(cuEventCreate)(event, CU_EVENT_DEFAULT) == CUDA_SUCCESS;
}

static CUresult record(const struct stream *s, CUevent event)
{
        return s->thread ? REAL(cuEventRecord_ptsz)(event, s->handle)
                         : REAL(cuEventRecord)(event, s->handle);
}

/* Takes the right to record on a stream, if it has room for another batch. */
static bool begin_marking(struct stream *s)
{
        bool may;

        guard_lock(&gate_lock);
        may = s->context && !s->marking && !is_full(s);
        if (may)
                s->marking = true;
        guard_unlock(&gate_lock);
        return may;
}

static void end_marking(struct stream *s)
{
        guard_lock(&gate_lock);
        s->marking = false;
        guard_unlock(&gate_lock);
}

/* A marker behind what was launched: the present batch is complete. */
static void mark_end(struct stream *s)
{
        CUstreamCaptureMode mode;
        CUevent *event;

        if (!begin_marking(s))
                return;
        event = &s->end[s->next % RING];
        mode = relax();
        if (make_event(event) && record(s, *event) == CUDA_SUCCESS) {
                guard_lock(&gate_lock);
                s->now.end = s->last = *event;
                s->ring[s->next++ % RING] = s->now;
                s->now = (struct batch){.start = s->last};
                guard_unlock(&gate_lock);
        }
        restore(mode);
        end_marking(s);
}

/* A marker before the first launch on a stream that is empty. */
static void mark_start(struct stream *s)
{
        CUstreamCaptureMode mode;
        struct origin *origin;
        CUevent *event;
        bool good;

        if (!begin_marking(s))
                return;
        guard_lock(&gate_lock);
        origin = find_origin(s->context);
        guard_unlock(&gate_lock);
        event = &s->begin[s->next % RING];
        mode = relax();
        good = origin && make_event(event);
        if (good && !origin->event)
                good = make_event(&origin->event) && record(s, origin->event) == CUDA_SUCCESS;
        if (good && record(s, *event) == CUDA_SUCCESS) {
                guard_lock(&gate_lock);
                s->now = (struct batch){.start = *event};
                guard_unlock(&gate_lock);
        }
        restore(mode);
        end_marking(s);
}

/* Milliseconds from the origin; false: it has not come to that. */
static bool time_of(const struct origin *origin, CUevent event, double *ret)
{
        float ms;

        if (!origin->event || REAL(cuEventElapsedTime)(&ms, origin->event, event) != CUDA_SUCCESS)
                return false;
        *ret = (double)ms;
        return true;
}

/* When the earliest work of the context that is under way began, other than that of s. */
static double earliest(const struct origin *origin, const struct stream *s, double from)
{
        CUevent starts[STREAMS];
        unsigned count = 0;
        double begun;

        /* only who looks takes batches off, so these stay what they are */
        guard_lock(&gate_lock);
        for (unsigned i = 0; i < STREAMS; i++) {
                const struct stream *other = &streams[i];

                if (other != s && other->context == s->context && other->first != other->next &&
                        other->ring[other->first % RING].start)
                        starts[count++] = other->ring[other->first % RING].start;
        }
        guard_unlock(&gate_lock);
        for (unsigned i = 0; i < count; i++)
                if (time_of(origin, starts[i], &begun) && begun < from)
                        from = begun;
        return from;
}

/* Nobody counts from the old event any more: it changes places with one that has just come. */
static void renew(struct origin *origin, struct stream *s, unsigned index, double at)
{
        CUevent old = origin->event;

        for (unsigned i = 0; i < STREAMS; i++) {
                const struct stream *other = &streams[i];

                if (other->context != origin->context)
                        continue;
                if (other->last == old || other->now.start == old)
                        return;
                for (unsigned k = other->first; k != other->next; k++)
                        if (other->ring[k % RING].start == old)
                                return;
        }
        origin->event = s->end[index];
        s->end[index] = old;
        origin->covered_ms -= at;
}

/* The oldest batch of a stream has ended. */
static void settle(struct stream *s, bool measured, double from, double until, double since,
        struct origin *origin)
{
        unsigned index = s->first % RING;
        struct batch *batch = &s->ring[index];
        uint64_t now = now_ns();

        s->pending_ns -= least(s->pending_ns, batch->sum_ns);
        if (measured) {
                uint64_t took = until > from ? (uint64_t)((until - from) * 1e6) : 0;
                double begin = since > origin->covered_ms ? since : origin->covered_ms;
                int64_t used = until > begin ? (int64_t)((until - begin) * 1e6) : 0;

                if (until > origin->covered_ms)
                        origin->covered_ms = until;
                atomic_fetch_add_explicit(&use_of(s->device)->used_ns,
                        (uint64_t)(used - (int64_t)batch->added_ns), memory_order_relaxed);
                learn(batch, took);
                s->busy_until += took;
                s->busy_until -= least(s->busy_until, batch->sum_ns);
                if (until > RENEW_MS)
                        renew(origin, s, index, until);
        }
        s->first++;
        s->busy_until = least(s->busy_until, now + s->pending_ns);
        sum_up(s->device);
}

/* The oldest batch of a stream has not ended. Whether it should have. */
static bool is_late(struct stream *s)
{
        uint64_t sum = s->ring[s->first % RING].sum_ns, now = now_ns();
        uint64_t after = s->pending_ns - least(s->pending_ns, sum);
        uint64_t ends = s->busy_until - least(s->busy_until, after);

        if (now <= ends || s->given_up == s->first + 1)
                return false;
        s->busy_until = now + 100 * US + after;
        sum_up(s->device);
        return now > ends + most(200 * US, sum / 2);
}

/* Looks at a stream's markers. Whether work has not ended that should have. */
static bool look_at(struct stream *s, struct origin *origin)
{
        for (;;) {
                double from = 0, until = 0, since = 0;
                bool measured = false, late;
                CUevent start, end;
                CUresult result;

                guard_lock(&gate_lock);
                if (s->first == s->next) {
                        guard_unlock(&gate_lock);
                        return false;
                }
                start = s->ring[s->first % RING].start;
                end = s->ring[s->first % RING].end;
                guard_unlock(&gate_lock);

                result = REAL(cuEventQuery)(end);
                if (result == CUDA_ERROR_NOT_READY) {
                        guard_lock(&gate_lock);
                        late = is_late(s);
                        guard_unlock(&gate_lock);
                        return late;
                }
                if (result == CUDA_SUCCESS && start && origin)
                        measured = time_of(origin, start, &from) && time_of(origin, end, &until);
                if (measured)
                        since = earliest(origin, s, from);
                guard_lock(&gate_lock);
                settle(s, measured, from, until, since, origin);
                guard_unlock(&gate_lock);
        }
}

/* Looks at the markers of all streams of a context, unless another thread does. */
static bool look(CUcontext context)
{
        CUstreamCaptureMode mode;
        uint32_t idle = 0;
        struct origin *origin;
        bool late = false;

        if (!atomic_compare_exchange_strong(&looking, &idle, 1))
                return false;
        guard_lock(&gate_lock);
        origin = find_origin(context);
        guard_unlock(&gate_lock);
        mode = relax();
        for (unsigned i = 0; i < STREAMS; i++) {
                bool any;

                guard_lock(&gate_lock);
                any = streams[i].context == context && streams[i].first != streams[i].next;
                guard_unlock(&gate_lock);
                if (any)
                        late |= look_at(&streams[i], origin);
        }
        restore(mode);
        atomic_store(&looking, 0);
        return late;
}

/* -- leases ------------------------------------------------------------------------------------ */

/* The daemon is gone: the tenant goes on at its last rate, all its processes together. */
static bool has_rate(struct device *device, int index, uint32_t rate, uint64_t now)
{
        uint64_t used = atomic_load_explicit(&use_of(index)->used_ns, memory_order_relaxed);
        int64_t left;

        if (rate >= 1000000)
                return true;
        if (!device->alone) {
                device->alone = true;
                device->alone_at = now;
                device->alone_used = used;
        }
        left = (int64_t)((double)(now - device->alone_at) * rate / 1e6) +
               (int64_t)(BURST_NS * rate / 1000000) - (int64_t)(used - device->alone_used);
        /* idle time is not saved up */
        if (left > (int64_t)(BURST_NS * rate / 1000000)) {
                device->alone_at = now;
                device->alone_used = used;
        }
        return left > 0;
}

static bool has_several(void)
{
        return atomic_load_explicit(&guard_session()->grant->gates, memory_order_relaxed) > 1;
}

/* Tells the launches on other devices that one has passed here. */
static void tell_partners(int index, uint64_t now)
{
        struct cleave_gate_use *use = use_of(index);

        if (now > atomic_load_explicit(&use->passed_at, memory_order_relaxed) + JUST_NS / 20)
                atomic_store_explicit(&use->passed_at, now, memory_order_relaxed);
}

/* Whether one has passed on another device just now, by the lease. */
static bool has_partner(int index, uint64_t now)
{
        for (int i = 0; i < (int)guard_session()->grant->devices; i++) {
                uint64_t at = atomic_load_explicit(&use_of(i)->passed_at, memory_order_relaxed);

                if (i != index && at <= now && now < at + JUST_NS)
                        return true;
        }
        return false;
}

/* Whether nothing is known of a kernel that may be a long one, as far as the others tell. */
static bool is_blind(uint64_t key)
{
        return !price_of(key)->seen && (measured_batches < LEARNT || mean_ns >= MARK_NS / 2);
}

/* Whether a launch may pass now. If not, how long it may sleep, and the version to wait on.
 * ret_vain: it is its turn, and it waits for work to end that should have ended. */
static bool may_pass(int index, struct stream *s, uint64_t key, uint64_t now, uint64_t *ret_nap,
        uint32_t *ret_version, bool *ret_vain)
{
        const struct cleave_gate *gate = cleave_gate(guard_session()->grant, (uint32_t)index);
        struct device *device = &devices[index];
        uint64_t written = atomic_load_explicit(&gate->written_at, memory_order_relaxed);
        uint64_t from, until, window, in_flight;
        uint32_t rate;
        bool may, full;

        *ret_nap = NAP_NS;
        *ret_version = 0;
        *ret_vain = false;
        if (!cleave_gate_read(gate, &from, &until, &window, &rate, ret_version))
                return true;
        guard_lock(&gate_lock);
        in_flight = device->busy_until - least(device->busy_until, now);
        /* also if it is of another time namespace's clock */
        if (now > written + CLEAVE_GATE_STALE || written > now + CLEAVE_GATE_STALE)
                may = has_rate(device, index, rate, now);
        else {
                device->alone = false;
                may = now >= from && now + in_flight < until;
                if (now < from)
                        *ret_nap = least(NAP_NS, from - now);
        }
        if (has_several()) {
                if (may)
                        tell_partners(index, now);
                else
                        may = has_partner(index, now);
        }
        if (in_flight > window) {
                may = false;
                /* to half of it, so that it is not woken for each kernel */
                *ret_nap = least(NAP_NS, most(in_flight - window / 2, 50 * US));
        }
        /* a marker is due, and there is no room for it before others have come; or nothing is known
         * of the kernel, and it may be a long one */
        full = s && s->given_up != s->first + 1 &&
               ((is_full(s) && is_due(s)) || (s->next - s->first >= BLIND && is_blind(key)));
        if (may && (full || device->late)) {
                may = false;
                *ret_vain = true;
                *ret_nap = 2 * LOOK_NS;
        }
        guard_unlock(&gate_lock);
        return may;
}

static void nap(int index, uint64_t ns, uint32_t version)
{
        const struct cleave_gate *gate = cleave_gate(guard_session()->grant, (uint32_t)index);
        struct timespec time = {.tv_nsec = (long)ns};

        syscall(SYS_futex, &gate->version, FUTEX_WAIT, version, &time, NULL, 0);
}

static void want(int index, uint64_t now)
{
        struct cleave_gate_use *use = use_of(index);

        if (now > atomic_load_explicit(&use->wanted_at, memory_order_relaxed) + 200 * US)
                atomic_store_explicit(&use->wanted_at, now, memory_order_relaxed);
}

/* Marks what stands before a launch that has to wait, to see when it ends; if it is known to have
 * ended, it stays as predicted. */
static void mark_waiting(struct stream *s, uint64_t now)
{
        bool mark;

        guard_lock(&gate_lock);
        mark = s->now.count > 0 && !is_empty(s, now);
        guard_unlock(&gate_lock);
        if (mark)
                mark_end(s);
}

/* What has not ended in all that time may wait for a launch to come, or never end: from now on it
 * is not waited for. */
static void give_up(CUcontext context)
{
        guard_lock(&gate_lock);
        for (unsigned i = 0; i < STREAMS; i++)
                if (streams[i].context == context && streams[i].first != streams[i].next)
                        streams[i].given_up = streams[i].first + 1;
        guard_unlock(&gate_lock);
}

/* Looks at the markers, if that was not done just now. */
static void look_again(struct device *device, CUcontext context, uint64_t now)
{
        bool due, late;

        guard_lock(&gate_lock);
        due = now >= device->looked_at + LOOK_NS;
        if (due)
                device->looked_at = now;
        guard_unlock(&gate_lock);
        if (!due)
                return;
        late = look(context);
        guard_lock(&gate_lock);
        device->late = late;
        guard_unlock(&gate_lock);
}

static uint32_t mode_of(int index)
{
        return atomic_load_explicit(
                &guard_session()->grant->device[index].gate, memory_order_relaxed);
}

/* Until it is this tenant's turn, and not too much is under way. */
static void wait_for_turn(int index, CUcontext context, struct stream *s, uint64_t key)
{
        uint64_t since = now_ns(), now = since, sleep;
        uint32_t version;
        bool vain;

        for (;;) {
                look_again(&devices[index], context, now);
                want(index, now);
                if (may_pass(index, s, key, now, &sleep, &version, &vain))
                        return;
                if (vain && now > since + LATE_NS) {
                        give_up(context);
                        return;
                }
                if (s)
                        mark_waiting(s, now);
                nap(index, sleep, version);
                now = now_ns();
                /* the gate was taken away */
                if (mode_of(index) != CLEAVE_GATE_LEASE)
                        return;
        }
}

/* -- launches ---------------------------------------------------------------------------------- */

static bool forget(CUcontext context, bool ended);

/* Whether streams or markers are known of an earlier context of the same handle. */
static bool is_another(CUcontext context, unsigned long long id)
{
        bool any = false;

        guard_lock(&gate_lock);
        for (unsigned i = 0; i < STREAMS; i++)
                any |= streams[i].context == context && streams[i].id != id;
        for (unsigned i = 0; i < CONTEXTS; i++)
                any |= origins[i].context == context && origins[i].id != id;
        guard_unlock(&gate_lock);
        return any;
}

/* The current context, NULL: there is none. The runtime resets primary contexts by a way of its
 * own, and the next one has the same handle: our events have gone with the one before, and must not
 * be touched. */
static CUcontext current_context(void)
{
        CUcontext context = NULL;
        unsigned long long id = 0;

        if (REAL(cuCtxGetCurrent)(&context) != CUDA_SUCCESS || !context)
                return NULL;
        if (REAL(cuCtxGetId)(context, &id) != CUDA_SUCCESS)
                id = 0;
        if (context == current.context && id == current.id)
                return context;
        /* where it cannot be now, it will be at the next launch */
        if (is_another(context, id) && !forget(context, true))
                return NULL;
        current.context = context;
        current.id = id;
        return context;
}

struct pass {
        int device; /* of the grant; below 0: the launch is none of ours */
        struct stream *stream;
        uint64_t key;
        uint64_t begun; /* to be given to the driver; 0: it did not wait here */
        bool measure;   /* a marker is to follow */
};

static bool is_captured(CUstream stream, bool per_thread)
{
        CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
        CUresult result = per_thread ? REAL(cuStreamIsCapturing_ptsz)(stream, &status)
                                     : REAL(cuStreamIsCapturing)(stream, &status);

        /* also where it cannot be asked: the launch will fail, or a capture would */
        return result != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

/* One handle for each of the default streams. Returns the thread whose stream it is, or NULL. */
static const void *resolve(CUstream *handle, bool per_thread)
{
        if (*handle == CU_STREAM_PER_THREAD || (!*handle && per_thread)) {
                *handle = CU_STREAM_PER_THREAD;
                return &this_thread;
        }
        if (*handle == CU_STREAM_LEGACY)
                *handle = NULL;
        return NULL;
}

/* The stream that launches go to, NULL: it is not told apart. */
static struct stream *stream_of(CUcontext context, CUstream handle, bool per_thread, int device)
{
        const void *thread = resolve(&handle, per_thread);
        struct stream *s;

        guard_lock(&gate_lock);
        s = find_stream(context, handle, thread, device, now_ns());
        guard_unlock(&gate_lock);
        return s;
}

/* Who waits for his kernels by looking, as the driver does unless told otherwise, waits so here: a
 * thread that sleeps may wake up late, and his turn is short. */
static void keep_turn(int index, CUstream stream, bool per_thread)
{
        const struct cleave_gate *gate = cleave_gate(guard_session()->grant, (uint32_t)index);
        uint64_t now = now_ns(), wait;
        bool waits = false, sleeps = false;
        uint32_t version;
        unsigned flags;

        while (cleave_gate_is_off(gate, now, &wait, &version)) {
                if (!waits) {
                        if (is_captured(stream, per_thread))
                                return;
                        sleeps = REAL(cuCtxGetFlags)(&flags) == CUDA_SUCCESS &&
                                 (flags & CU_CTX_SCHED_MASK) == CU_CTX_SCHED_BLOCKING_SYNC;
                        waits = true;
                }
                want(index, now);
                if (sleeps && wait > WAKE_NS)
                        nap(index, least(wait - WAKE_NS, 100 * MS), version);
                else
                        sched_yield();
                if (mode_of(index) != CLEAVE_GATE_TURNS)
                        return;
                now = now_ns();
        }
        want(index, now);
}

/* Marks what stands before a launch, if that is due, and whether one is to follow it. */
static void mark_before(struct pass *pass)
{
        struct stream *s = pass->stream;
        bool end = false, start = false, dry;
        struct price *price;
        CUcontext context;
        uint64_t now;

        /* Has it run dry since the last marker? What is launched then is not measured from that. */
        guard_lock(&gate_lock);
        dry = s->first != s->next && !s->now.count;
        context = s->context;
        guard_unlock(&gate_lock);
        if (dry)
                (void)look(context);
        now = now_ns();
        guard_lock(&gate_lock);
        price = price_of(pass->key);
        if (is_empty(s, now)) {
                /* what was left without a marker stays as predicted */
                s->now = (struct batch){0};
                s->pending_ns = 0;
                /* a marker costs little beside a kernel that takes long */
                start = price->seen < SURE || price->ns >= MARK_NS || ++price->skipped >= SELDOM;
                if (start)
                        price->skipped = 0;
        } else
                end = is_due(s);
        guard_unlock(&gate_lock);
        if (end)
                mark_end(s);
        else if (start) {
                mark_start(s);
                pass->measure = s->now.start && !atomic_load(&dependent);
        }
}

static void __attribute__((noinline))
enter(struct pass *pass, CUstream handle, bool per_thread, uint64_t key, bool tied)
{
        CUcontext context;
        CUdevice ordinal;
        uint32_t mode = CLEAVE_GATE_OPEN;
        int saved = errno, device = -1;

        *pass = (struct pass){.device = -1, .key = key};
        if (!guard_forked() && REAL(cuCtxGetDevice)(&ordinal) == CUDA_SUCCESS)
                device = guard_device_by_ordinal(ordinal);
        if (device >= 0)
                mode = mode_of(device);
        if (mode == CLEAVE_GATE_TURNS && !tied)
                keep_turn(device, handle, per_thread);
        if (mode != CLEAVE_GATE_LEASE || !(context = current_context()) ||
                is_captured(handle, per_thread)) {
                errno = saved;
                return;
        }
        pass->device = device;
        if (tied)
                atomic_store(&dependent, true);
        pass->stream = stream_of(context, handle, per_thread, pass->device);
        if (!tied) {
                wait_for_turn(pass->device, context, pass->stream, key);
                if (pass->stream)
                        mark_before(pass);
                pass->begun = now_ns();
        }
        errno = saved;
}

static void __attribute__((noinline)) leave(const struct pass *pass, CUresult result)
{
        struct stream *s = pass->stream;
        uint64_t now, ns, before, added;
        struct device *device;
        struct price *price;
        int saved = errno;

        if (pass->device < 0 || result != CUDA_SUCCESS)
                return;
        device = &devices[pass->device];
        now = now_ns();
        guard_lock(&gate_lock);
        price = price_of(pass->key);
        ns = predict(price);
        before = most(now, device->busy_until);
        if (s) {
                s->touched = now;
                s->by = &this_thread;
                s->busy_until = most(now, s->busy_until) + ns;
                device->busy_until = most(before, s->busy_until);
        } else
                device->busy_until = before + ns;
        added = device->busy_until - before;
        if (s) {
                s->pending_ns += ns;
                if (s->now.count < BATCH) {
                        s->now.ns[s->now.count] = (uint32_t)least(ns, UINT32_MAX);
                        s->now.tag[s->now.count] = tag_of(pass->key);
                        s->now.price[s->now.count++] = (uint16_t)(price - prices);
                }
                s->now.sum_ns += ns;
                s->now.added_ns += added;
                /* the device waited for the host: that says nothing of the kernel */
                if (!price->launched && pass->begun && now > pass->begun + LOAD_NS)
                        s->now.start = NULL;
        }
        price->launched = true;
        publish(pass->device);
        guard_unlock(&gate_lock);
        atomic_fetch_add_explicit(&use_of(pass->device)->used_ns, added, memory_order_relaxed);
        want(pass->device, now);
        if (pass->measure)
                mark_end(s);
        errno = saved;
}

/* -- the entries ------------------------------------------------------------------------------- */

#define GATED(symbol, stream, per_thread, key, tied, ...)                                          \
        ({                                                                                         \
                struct pass pass_;                                                                 \
                CUresult result_;                                                                  \
                enter(&pass_, stream, per_thread, key, tied);                                      \
                result_ = REAL(symbol)(__VA_ARGS__);                                               \
                leave(&pass_, result_);                                                            \
                result_;                                                                           \
        })

static uint64_t kernel_key(const void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
        unsigned by, unsigned bz)
{
        uint64_t key = mix((uint64_t)(uintptr_t)function, (uint64_t)gx << 32 | gy);

        return mix(mix(key, (uint64_t)gz << 32 | bx), (uint64_t)by << 32 | bz) | 1;
}

/* Each: the way of those behind a gate apart, so that the other is a load, a test and a jump. */

#define KERNEL(symbol, per_thread)                                                                 \
        static __attribute__((noinline))                                                           \
        CUresult gated_##symbol(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz,   \
                unsigned int bx, unsigned int by, unsigned int bz, unsigned int shared,            \
                CUstream stream, void **params, void **extra)                                      \
        {                                                                                          \
                return GATED(symbol, stream, per_thread, kernel_key(f, gx, gy, gz, bx, by, bz),    \
                        false, f, gx, gy, gz, bx, by, bz, shared, stream, params, extra);          \
        }                                                                                          \
        CUresult symbol(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz,           \
                unsigned int bx, unsigned int by, unsigned int bz, unsigned int shared,            \
                CUstream stream, void **params, void **extra)                                      \
        {                                                                                          \
                if (guard_gated())                                                                 \
                        return gated_##symbol(                                                     \
                                f, gx, gy, gz, bx, by, bz, shared, stream, params, extra);         \
                return REAL(symbol)(f, gx, gy, gz, bx, by, bz, shared, stream, params, extra);     \
        }

KERNEL(cuLaunchKernel, false)
KERNEL(cuLaunchKernel_ptsz, true)

#define COOPERATIVE(symbol, per_thread)                                                            \
        static __attribute__((noinline)) CUresult gated_##symbol(CUfunction f, unsigned int gx,    \
                unsigned int gy, unsigned int gz, unsigned int bx, unsigned int by,                \
                unsigned int bz, unsigned int shared, CUstream stream, void **params)              \
        {                                                                                          \
                return GATED(symbol, stream, per_thread, kernel_key(f, gx, gy, gz, bx, by, bz),    \
                        false, f, gx, gy, gz, bx, by, bz, shared, stream, params);                 \
        }                                                                                          \
        CUresult symbol(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz,           \
                unsigned int bx, unsigned int by, unsigned int bz, unsigned int shared,            \
                CUstream stream, void **params)                                                    \
        {                                                                                          \
                if (guard_gated())                                                                 \
                        return gated_##symbol(f, gx, gy, gz, bx, by, bz, shared, stream, params);  \
                return REAL(symbol)(f, gx, gy, gz, bx, by, bz, shared, stream, params);            \
        }

COOPERATIVE(cuLaunchCooperativeKernel, false)
COOPERATIVE(cuLaunchCooperativeKernel_ptsz, true)

/* Whether a launch may begin before the one before it on its stream has ended. */
static bool is_tied(const CUlaunchConfig *config)
{
        for (unsigned i = 0; config->attrs && i < config->numAttrs; i++)
                if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION &&
                        config->attrs[i].value.programmaticStreamSerializationAllowed)
                        return true;
        return false;
}

#define KERNEL_EX(symbol, per_thread)                                                              \
        static __attribute__((noinline)) CUresult gated_##symbol(                                  \
                const CUlaunchConfig *c, CUfunction f, void **params, void **extra)                \
        {                                                                                          \
                if (!c)                                                                            \
                        return REAL(symbol)(c, f, params, extra);                                  \
                return GATED(symbol, c->hStream, per_thread,                                       \
                        kernel_key(f, c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX,         \
                                c->blockDimY, c->blockDimZ),                                       \
                        is_tied(c), c, f, params, extra);                                          \
        }                                                                                          \
        CUresult symbol(const CUlaunchConfig *config, CUfunction f, void **params, void **extra)   \
        {                                                                                          \
                if (guard_gated())                                                                 \
                        return gated_##symbol(config, f, params, extra);                           \
                return REAL(symbol)(config, f, params, extra);                                     \
        }

KERNEL_EX(cuLaunchKernelEx, false)
KERNEL_EX(cuLaunchKernelEx_ptsz, true)

#define GRAPH(symbol, per_thread)                                                                  \
        static __attribute__((noinline))                                                           \
        CUresult gated_##symbol(CUgraphExec graph, CUstream stream)                                \
        {                                                                                          \
                return GATED(symbol, stream, per_thread, mix((uint64_t)(uintptr_t)graph, 1) | 1,   \
                        false, graph, stream);                                                     \
        }                                                                                          \
        CUresult symbol(CUgraphExec graph, CUstream stream)                                        \
        {                                                                                          \
                if (guard_gated())                                                                 \
                        return gated_##symbol(graph, stream);                                      \
                return REAL(symbol)(graph, stream);                                                \
        }

GRAPH(cuGraphLaunch, false)
GRAPH(cuGraphLaunch_ptsz, true)

/* Of all its devices, it waits for the current one's. */
CUresult cuLaunchCooperativeKernelMultiDevice(
        CUDA_LAUNCH_PARAMS *list, unsigned int count, unsigned int flags)
{
        if (guard_gated() && list && count)
                return GATED(cuLaunchCooperativeKernelMultiDevice, list[0].hStream, false,
                        kernel_key(list[0].function, list[0].gridDimX, list[0].gridDimY,
                                list[0].gridDimZ, list[0].blockDimX, list[0].blockDimY,
                                list[0].blockDimZ),
                        false, list, count, flags);
        return REAL(cuLaunchCooperativeKernelMultiDevice)(list, count, flags);
}

CUresult cuLaunch(CUfunction f)
{
        if (guard_gated())
                return GATED(cuLaunch, NULL, false, kernel_key(f, 1, 1, 1, 0, 0, 0), false, f);
        return REAL(cuLaunch)(f);
}

CUresult cuLaunchGrid(CUfunction f, int width, int height)
{
        if (guard_gated())
                return GATED(cuLaunchGrid, NULL, false,
                        kernel_key(f, (unsigned)width, (unsigned)height, 1, 0, 0, 0), false, f,
                        width, height);
        return REAL(cuLaunchGrid)(f, width, height);
}

CUresult cuLaunchGridAsync(CUfunction f, int width, int height, CUstream stream)
{
        if (guard_gated())
                return GATED(cuLaunchGridAsync, stream, false,
                        kernel_key(f, (unsigned)width, (unsigned)height, 1, 0, 0, 0), false, f,
                        width, height, stream);
        return REAL(cuLaunchGridAsync)(f, width, height, stream);
}

/* -- where the program waits ------------------------------------------------------------------- */

/* The current context's streams, or one of them: what was launched is marked, since nothing will be
 * tied to it any more. False: there is nothing of ours to do. */
static bool begin_wait(struct stream *only, CUcontext context)
{
        bool any = false;

        for (unsigned i = 0; i < STREAMS; i++) {
                struct stream *s = &streams[i];
                CUstream handle;
                bool ours, mark;

                guard_lock(&gate_lock);
                ours = s->context == context && (!only || s == only);
                /* another thread may be about to tie a launch to its last */
                mark = ours && s->now.count && s->now.start &&
                       (s->by == &this_thread || (!s->thread && !atomic_load(&dependent)));
                handle = s->handle;
                guard_unlock(&gate_lock);
                any |= ours;
                if (mark && !is_captured(handle, handle == CU_STREAM_PER_THREAD))
                        mark_end(s);
        }
        return any;
}

/* All that they had is done. */
static void end_wait(struct stream *only, CUcontext context)
{
        (void)look(context);
        guard_lock(&gate_lock);
        for (unsigned i = 0; i < STREAMS; i++) {
                struct stream *s = &streams[i];

                if (s->context != context || (only && s != only) || s->first != s->next)
                        continue;
                s->busy_until = least(s->busy_until, now_ns());
                s->pending_ns = 0;
                s->now = (struct batch){0};
                sum_up(s->device);
        }
        guard_unlock(&gate_lock);
}

static CUcontext current_gated(void)
{
        return guard_forked() ? NULL : current_context();
}

/* Streams are those of the current context. */
static CUcontext waited_for(CUcontext context)
{
        CUcontext is = current_gated();

        return !context || context == is ? is : NULL;
}

static struct stream *known_stream(CUcontext context, CUstream handle, bool per_thread)
{
        const void *thread = resolve(&handle, per_thread);
        struct stream *found = NULL;

        guard_lock(&gate_lock);
        for (unsigned i = 0; i < STREAMS && !found; i++)
                if (streams[i].context == context && streams[i].handle == handle &&
                        streams[i].thread == thread)
                        found = &streams[i];
        guard_unlock(&gate_lock);
        return found;
}

/* Nothing is measured where turns are kept by the clock. */
static inline bool is_measured(void)
{
        return guard_gated() && atomic_load_explicit(&any_stream, memory_order_relaxed);
}

#define WAITED(symbol, context, any, one, ...)                                                     \
        ({                                                                                         \
                CUcontext context_ = context;                                                      \
                struct stream *one_ = context_ ? one : NULL;                                       \
                bool ours_ = context_ && (any || one_) && begin_wait(one_, context_);              \
                CUresult result_ = REAL(symbol)(__VA_ARGS__);                                      \
                if (ours_ && result_ == CUDA_SUCCESS)                                              \
                        end_wait(one_, context_);                                                  \
                result_;                                                                           \
        })

static __attribute__((noinline)) CUresult gated_cuCtxSynchronize(void)
{
        return WAITED(cuCtxSynchronize, current_gated(), true, NULL, );
}

CUresult cuCtxSynchronize(void)
{
        if (is_measured())
                return gated_cuCtxSynchronize();
        return REAL(cuCtxSynchronize)();
}

CUresult cuCtxSynchronize_v2(CUcontext ctx)
{
        if (is_measured())
                return WAITED(cuCtxSynchronize_v2, waited_for(ctx), true, NULL, ctx);
        return REAL(cuCtxSynchronize_v2)(ctx);
}

#define STREAM_WAIT(symbol, per_thread)                                                            \
        static __attribute__((noinline)) CUresult gated_##symbol(CUstream stream)                  \
        {                                                                                          \
                return WAITED(symbol, current_gated(), false,                                      \
                        known_stream(context_, stream, per_thread), stream);                       \
        }                                                                                          \
        CUresult symbol(CUstream stream)                                                           \
        {                                                                                          \
                if (is_measured())                                                                 \
                        return gated_##symbol(stream);                                             \
                return REAL(symbol)(stream);                                                       \
        }

STREAM_WAIT(cuStreamSynchronize, false)
STREAM_WAIT(cuStreamSynchronize_ptsz, true)

/* -- ends -------------------------------------------------------------------------------------- */

static void drop_events(struct stream *s)
{
        for (unsigned i = 0; i < RING; i++) {
                if (s->begin[i])
                        REAL(cuEventDestroy_v2)(s->begin[i]);
                if (s->end[i])
                        REAL(cuEventDestroy_v2)(s->end[i]);
        }
}

/* Nobody looks at markers from then on, until looking is 0 again. False: somebody does, and does
 * not end. */
static bool keep_from_looking(void)
{
        uint32_t idle = 0;

        /* whoever looks now is done in microseconds */
        for (unsigned tries = 0; !atomic_compare_exchange_strong(&looking, &idle, 1); tries++) {
                if (tries == 100000)
                        return false;
                idle = 0;
                sched_yield();
        }
        return true;
}

static bool is_in_use(void)
{
        return atomic_load_explicit(&any_stream, memory_order_relaxed) && !guard_forked();
}

/* Of a context, or of all (NULL); or only the one of that handle. ended: their events are gone. */
static void forget_streams(CUcontext context, CUstream only, bool ended)
{
        for (unsigned i = 0; i < STREAMS; i++) {
                struct stream *s = &streams[i];
                struct stream copy;

                guard_lock(&gate_lock);
                copy = *s;
                if (copy.context && !copy.marking && (!context || copy.context == context) &&
                        (!only || copy.handle == only))
                        *s = (struct stream){0};
                else
                        copy.context = NULL;
                guard_unlock(&gate_lock);
                if (copy.context && !ended)
                        drop_events(&copy);
        }
}

static void forget_stream(CUstream stream)
{
        if (!stream || !is_in_use() || !keep_from_looking())
                return;
        forget_streams(NULL, stream, false);
        atomic_store(&looking, 0);
}

CUresult cuStreamDestroy(CUstream stream)
{
        forget_stream(stream);
        return REAL(cuStreamDestroy)(stream);
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
        forget_stream(stream);
        return REAL(cuStreamDestroy_v2)(stream);
}

/* ended: the context has, and its events with it. False: it could not be done now. */
static bool forget(CUcontext context, bool ended)
{
        if (!is_in_use() || !keep_from_looking())
                return false;
        forget_streams(context, NULL, ended);
        for (unsigned i = 0; i < CONTEXTS; i++) {
                struct origin copy;

                guard_lock(&gate_lock);
                copy = origins[i];
                if (copy.context && (!context || copy.context == context))
                        origins[i] = (struct origin){0};
                else
                        copy.context = NULL;
                guard_unlock(&gate_lock);
                if (copy.context && copy.event && !ended)
                        REAL(cuEventDestroy_v2)(copy.event);
        }
        atomic_store(&looking, 0);
        return true;
}

void guard_gate_forget(CUcontext context)
{
        (void)forget(context, false);
}

CUresult cuGreenCtxDestroy(CUgreenCtx ctx)
{
        guard_gate_forget(NULL);
        return REAL(cuGreenCtxDestroy)(ctx);
}
