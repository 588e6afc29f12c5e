/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/replay.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "trace/remake.h"

#define MOST_THREADS 4096u
#define STACK        (1u << 20)
#define PAUSE_USEC   5000

/* What the processes of a replay share. */
struct stage {
        pthread_mutex_t lock;
        pthread_cond_t changed;
        size_t low;  /* all before it in `order` have been made, or never will be */
        size_t made; /* how many, to see whether anything goes on */
        struct replay_outcome outcome[];
};

struct replay {
        const struct trace_file *file;
        const struct replay_options *options;
        struct stage *stage;
        size_t stage_size;
        size_t *order; /* of the events, by their end; those without last */
};

static uint64_t end_of(const struct trace_file *file, size_t event)
{
        uint64_t end = atomic_load(&((struct trace_record *)file->events[event].record)->end);

        return end ?: UINT64_MAX;
}

static int by_end(const void *left, const void *right, void *context)
{
        const size_t *a = left, *b = right;
        uint64_t x = end_of(context, *a), y = end_of(context, *b);

        return x != y ? (x < y ? -1 : 1) : *a < *b ? -1 : *a > *b;
}

/* -- the stage --------------------------------------------------------------------------------- */

static bool is_over(uint8_t state)
{
        return state != REPLAY_PENDING && state != REPLAY_RUNNING;
}

static void enter(struct stage *stage)
{
        if (pthread_mutex_lock(&stage->lock) == EOWNERDEAD)
                pthread_mutex_consistent(&stage->lock);
}

/* A process that was killed leaves calls that it never made: they hold nobody up. */
static bool passed(const struct replay *r, const bool *gone, size_t event)
{
        return is_over(atomic_load(&r->stage->outcome[event].state)) ||
               (gone && gone[r->file->events[event].process]);
}

/* Under the lock. */
static void advance(struct replay *r, const bool *gone)
{
        while (r->stage->low < r->file->count && passed(r, gone, r->order[r->stage->low]))
                r->stage->low++;
        pthread_cond_broadcast(&r->stage->changed);
}

static void await_turn(struct replay *r, size_t event)
{
        uint64_t begin = r->file->events[event].record->begin;
        struct stage *stage = r->stage;

        enter(stage);
        while (stage->low < r->file->count && end_of(r->file, r->order[stage->low]) < begin) {
                if (pthread_cond_wait(&stage->changed, &stage->lock) == EOWNERDEAD)
                        pthread_mutex_consistent(&stage->lock);
        }
        atomic_store(&stage->outcome[event].state, REPLAY_RUNNING);
        pthread_mutex_unlock(&stage->lock);
}

static void finish(struct replay *r, size_t event, enum replay_state state)
{
        enter(r->stage);
        atomic_store(&r->stage->outcome[event].state, (uint8_t)state);
        r->stage->made++;
        advance(r, NULL);
        pthread_mutex_unlock(&r->stage->lock);
}

/* -- a process, and its threads ------------------------------------------------------------------
 */

struct player {
        struct replay *replay;
        struct remake *remake;
        uint32_t process, thread;
};

static void *play_thread(void *context)
{
        struct player *player = context;
        struct replay *r = player->replay;

        for (size_t i = 0; i < r->file->count; i++) {
                const struct trace_event *event = &r->file->events[i];
                struct replay_outcome *outcome = &r->stage->outcome[i];

                if (event->process != player->process || event->record->thread != player->thread ||
                        atomic_load(&outcome->state) != REPLAY_PENDING)
                        continue;
                await_turn(r, i);
                finish(r, i, remake_call(player->remake, event, outcome));
        }
        return NULL;
}

static bool is_new_thread(const uint32_t *threads, size_t n, uint32_t thread)
{
        for (size_t i = 0; i < n; i++)
                if (threads[i] == thread)
                        return false;
        return true;
}

/* In the process that replays `process`; its exit status. */
static int play_process(struct replay *r, uint32_t process)
{
        void *library = dlopen("libcuda.so.1", RTLD_NOW);
        struct remake *remake;
        uint32_t *threads = calloc(MOST_THREADS, sizeof(*threads)), last = 0;
        struct player *players = calloc(MOST_THREADS, sizeof(*players));
        pthread_t *handles = calloc(MOST_THREADS, sizeof(*handles));
        pthread_attr_t attr;
        size_t n = 0;

        remake = library ? remake_new(r->file, process, library, r->options->values) : NULL;
        if (!remake || !threads || !players || !handles)
                return EXIT_FAILURE;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, STACK);
        for (size_t i = 0; i < r->file->count; i++) {
                uint32_t thread = r->file->events[i].record->thread;

                if (r->file->events[i].process != process || thread == last)
                        continue;
                last = thread;
                if (!is_new_thread(threads, n, thread) || n == MOST_THREADS)
                        continue;
                threads[n] = thread;
                players[n] = (struct player){r, remake, process, thread};
                if (pthread_create(&handles[n], &attr, play_thread, &players[n]) != 0)
                        return EXIT_FAILURE;
                n++;
        }
        for (size_t i = 0; i < n; i++)
                pthread_join(handles[i], NULL);
        return EXIT_SUCCESS;
}

/* -- all of them ---------------------------------------------------------------------------------
 */

static int make_stage(struct replay *r)
{
        pthread_mutexattr_t mutex;
        pthread_condattr_t cond;

        r->stage_size = sizeof(*r->stage) + r->file->count * sizeof(r->stage->outcome[0]);
        r->stage = mmap(
                NULL, r->stage_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (r->stage == MAP_FAILED)
                return -errno;
        pthread_mutexattr_init(&mutex);
        pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&mutex, PTHREAD_MUTEX_ROBUST);
        pthread_mutex_init(&r->stage->lock, &mutex);
        pthread_condattr_init(&cond);
        pthread_condattr_setpshared(&cond, PTHREAD_PROCESS_SHARED);
        pthread_cond_init(&r->stage->changed, &cond);
        return 0;
}

static uint32_t most_process(const struct trace_file *file)
{
        uint32_t most = 0;

        for (size_t i = 0; i < file->count; i++)
                if (file->events[i].process > most)
                        most = file->events[i].process;
        return most;
}

static bool initializes(const struct trace_file *file, uint32_t process)
{
        for (size_t i = 0; i < file->count; i++) {
                struct trace_parts parts;

                if (file->events[i].process == process &&
                        file->events[i].record->entry == CUDA_ENTRY_cuInit &&
                        trace_parts(file, &file->events[i], &parts) == 0 && parts.returned &&
                        parts.result == CUDA_SUCCESS)
                        return true;
        }
        return false;
}

/* Marks what will not be made before anything is; whether the process is to be played. */
static bool cast(struct replay *r, uint32_t process)
{
        const struct trace_process *began = trace_find_process(r->file, process);
        uint8_t state = REPLAY_PENDING;
        bool any = false;

        if (r->options->process && process != r->options->process)
                state = REPLAY_UNWANTED;
        else if (began && began->forked_from && !initializes(r->file, process))
                state = REPLAY_FORKED;
        for (size_t i = 0; i < r->file->count; i++) {
                if (r->file->events[i].process != process)
                        continue;
                if (r->file->events[i].record->entry == TRACE_ENTRY_PROCESS)
                        atomic_store(&r->stage->outcome[i].state, REPLAY_SAME);
                else {
                        atomic_store(&r->stage->outcome[i].state, state);
                        any = true;
                }
        }
        return any && state == REPLAY_PENDING;
}

/* Gives up those in which a call is running. */
static void give_up(const struct replay *r, const pid_t *pids)
{
        for (size_t i = 0; i < r->file->count; i++) {
                pid_t pid = pids[r->file->events[i].process];

                if (pid > 0 && atomic_load(&r->stage->outcome[i].state) == REPLAY_RUNNING)
                        kill(pid, SIGKILL);
        }
}

static int watch(struct replay *r, pid_t *pids, bool *gone, uint32_t most, size_t left)
{
        uint64_t since = clock_usec(CLOCK_MONOTONIC);
        size_t made = 0;

        while (left > 0) {
                pid_t pid = waitpid(-1, NULL, WNOHANG);

                if (pid < 0 && errno != EINTR)
                        return -errno;
                for (uint32_t p = 1; pid > 0 && p <= most; p++)
                        if (pids[p] == pid) {
                                pids[p] = 0;
                                gone[p] = true;
                                left--;
                        }
                if (pid > 0) {
                        enter(r->stage);
                        advance(r, gone);
                        pthread_mutex_unlock(&r->stage->lock);
                        since = clock_usec(CLOCK_MONOTONIC);
                        continue;
                }
                if (r->stage->made != made) {
                        made = r->stage->made;
                        since = clock_usec(CLOCK_MONOTONIC);
                } else if (clock_usec(CLOCK_MONOTONIC) - since > r->options->patience) {
                        give_up(r, pids);
                        since = clock_usec(CLOCK_MONOTONIC);
                }
                nanosleep(&(struct timespec){.tv_nsec = PAUSE_USEC * 1000}, NULL);
        }
        return 0;
}

static int play(struct replay *r, struct cleave_error *error)
{
        uint32_t most = most_process(r->file);
        _cleanup_free_ pid_t *pids = calloc(most + 1, sizeof(*pids));
        _cleanup_free_ bool *gone = calloc(most + 1, sizeof(*gone)),
                            *playing = calloc(most + 1, sizeof(*playing));
        pid_t parent = getpid();
        size_t left = 0;
        int result = 0;

        if (!pids || !gone || !playing)
                return error_set_errno(error, ENOMEM, "cannot replay the trace");
        for (uint32_t p = 1; p <= most; p++)
                playing[p] = cast(r, p);
        advance(r, gone);
        fflush(NULL);
        for (uint32_t p = 1; p <= most && result == 0; p++) {
                if (!playing[p])
                        continue;
                pids[p] = fork();
                if (pids[p] == 0) {
                        prctl(PR_SET_PDEATHSIG, SIGKILL);
                        if (getppid() != parent)
                                _exit(EXIT_FAILURE);
                        _exit(play_process(r, p));
                }
                if (pids[p] < 0)
                        result = error_set_errno(error, errno, "cannot start a process");
                else
                        left++;
        }
        for (uint32_t p = 1; p <= most && result < 0; p++)
                if (pids[p] > 0)
                        kill(pids[p], SIGKILL);
        if (watch(r, pids, gone, most, left) < 0 && result == 0)
                result = error_set_errno(error, errno, "cannot wait for the replay");
        return result;
}

int replay_run(const struct trace_file *file, const struct replay_options *options,
        struct replay_outcome **ret, struct cleave_error *error)
{
        struct replay r = {.file = file, .options = options};
        int result;

        r.order = calloc(file->count + 1, sizeof(*r.order));
        if (!r.order)
                return error_set_errno(error, ENOMEM, "cannot replay the trace");
        for (size_t i = 0; i < file->count; i++)
                r.order[i] = i;
        qsort_r(r.order, file->count, sizeof(*r.order), by_end, (void *)file);
        result = make_stage(&r);
        if (result < 0)
                error_set_errno(error, result, "cannot replay the trace");
        else
                result = play(&r, error);
        if (result == 0) {
                *ret = calloc(file->count + 1, sizeof(**ret));
                if (!*ret)
                        result = error_set_errno(error, ENOMEM, "cannot replay the trace");
                else
                        memcpy(*ret, r.stage->outcome, file->count * sizeof(**ret));
        }
        if (r.stage && r.stage != MAP_FAILED)
                munmap(r.stage, r.stage_size);
        free(r.order);
        return result;
}

static const struct {
        const char *word, *text;
} states[] = {
        [REPLAY_PENDING] = {"not-made", "was not made: its process had ended before"},
        [REPLAY_RUNNING] = {"not-returned", "did not return here"},
        [REPLAY_SAME] = {"same", "has the same result"},
        [REPLAY_RESULT] = {"result-differs", "has another result"},
        [REPLAY_VALUE] = {"value-differs", "gives back another value"},
        [REPLAY_RETURNED] = {"returned", "had not returned, and does here"},
        [REPLAY_NO_HANDLE] = {"unknown-handle", "uses a handle that no recorded call made"},
        [REPLAY_LOST_HANDLE] = {"lost-handle",
                "uses what a call would have made that failed, or was not made, here"},
        [REPLAY_NO_PARAMETERS] = {"unknown-parameters",
                "launches a kernel whose parameters could not be recorded"},
        [REPLAY_OUTSIDE] = {"outside", "reaches beyond its process"},
        [REPLAY_ENDING] = {"process-ending", "came when its process was ending"},
        [REPLAY_TOO_LARGE] = {"too-large", "needs more memory than there is"},
        [REPLAY_FORKED] = {"forked", "is of a process forked from one that used CUDA"},
        [REPLAY_NO_ENTRY] = {"no-entry", "is not in the library here"},
        [REPLAY_DAMAGED] = {"damaged", "cannot be read"},
        [REPLAY_UNWANTED] = {"unwanted", "is of another process"},
};

const char *replay_state_word(enum replay_state state)
{
        return states[state].word;
}

const char *replay_state_text(enum replay_state state)
{
        return states[state].text;
}
