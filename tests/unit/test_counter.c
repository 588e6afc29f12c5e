/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The counter of src/proto/counter.h, killed everywhere.
 *
 * Its atomic accesses are hooked: each simulated process is a coroutine that stops before every one
 * of them. A schedule says who takes the next step, and who takes none any more. All schedules of
 * some families are tried, and many at random; then, with real processes and SIGKILL, what no
 * schedule thought of.
 */
#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "unit.h"

/* Before every atomic access of a coroutine. */
static void step(void);
static bool spurious(void);

#include "proto/page.h"

#undef atomic_load
#undef atomic_store
#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_compare_exchange_weak
#define atomic_load(p)                                                                             \
        __extension__({                                                                            \
                step();                                                                            \
                *(p);                                                                              \
        })
#define atomic_store(p, v)                                                                         \
        __extension__({                                                                            \
                step();                                                                            \
                *(p) = (v);                                                                        \
        })
#define atomic_load_explicit(p, order)     atomic_load(p)
#define atomic_store_explicit(p, v, order) atomic_store(p, v)
#define atomic_compare_exchange_weak(p, e, v)                                                      \
        __extension__({                                                                            \
                bool _swapped;                                                                     \
                step();                                                                            \
                _swapped = !spurious() && *(p) == *(e);                                            \
                if (_swapped)                                                                      \
                        *(p) = (v);                                                                \
                else                                                                               \
                        *(e) = *(p);                                                               \
                _swapped;                                                                          \
        })

#include "proto/counter.h"

#define STACK   65536
#define ACTORS  5
#define DAEMON  4 /* its actor; those of the processes are named after their slots */
#define FOREVER 100000

static struct cleave_usage_page *page;
static _Atomic uint64_t limit;

struct actor {
        ucontext_t context;
        char *stack;
        void (*body)(struct actor *);
        bool done, running;
        unsigned slot;
        unsigned variant;
};

static struct actor actors[ACTORS];
static ucontext_t scheduler;
static struct actor *current;
static uint64_t random_state = 1;
static unsigned spurious_in;

static uint64_t random_word(void)
{
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        return random_state;
}

static void step(void)
{
        if (current)
                swapcontext(&current->context, &scheduler);
}

static bool spurious(void)
{
        return spurious_in > 0 && --spurious_in == 0;
}

static void entry(void)
{
        current->body(current);
        current->done = true;
        swapcontext(&current->context, &scheduler);
}

static void actor_start(
        struct actor *actor, void (*body)(struct actor *), unsigned slot, unsigned variant)
{
        if (!actor->stack)
                actor->stack = malloc(STACK);
        getcontext(&actor->context);
        actor->context.uc_stack.ss_sp = actor->stack;
        actor->context.uc_stack.ss_size = STACK;
        actor->context.uc_link = NULL;
        actor->body = body;
        actor->done = false;
        actor->slot = slot;
        actor->variant = variant;
        makecontext(&actor->context, entry, 0);
}

/* Lets an actor make at most that many steps. Returns how many it made. */
static unsigned run(struct actor *actor, unsigned steps)
{
        unsigned made = 0;

        while (!actor->done && made < steps) {
                current = actor;
                swapcontext(&scheduler, &actor->context);
                current = NULL;
                made++;
        }
        return made;
}

/* What processes do: some changes, one of them refused by the limit, on two devices. */
static void process_body(struct actor *actor)
{
        static const struct {
                uint32_t device;
                int64_t delta;
        } scripts[][4] = {
                {{0, 5}, {0, -3}, {1, 7}, {0, 1000}},
                {{0, 1000}, {0, 11}, {0, -11}, {1, 2}},
                {{1, 13}, {0, 1}, {1, -13}, {0, 4}},
        };

        for (unsigned i = 0; i < 4; i++)
                (void)cleave_counter_change(page, actor->slot, scripts[actor->variant][i].device,
                        scripts[actor->variant][i].delta, &limit);
}

/* What the daemon does when process slot has died; the same again after its own death. */
static void daemon_body(struct actor *actor)
{
        cleave_counter_finish(page);
        cleave_slot_settle(page, actor->slot);
        for (uint32_t device = 0; device < 2; device++)
                (void)cleave_counter_release(page, actor->slot, device);
}

static void reset_page(void)
{
        memset(page, 0, CLEAVE_USAGE_HEAD + 5 * CLEAVE_SLOT_BYTES);
        limit = 100;
        spurious_in = 0;
}

static uint64_t held(unsigned slot, unsigned device)
{
        return cleave_usage_slot(page, slot)->held[device];
}

/* After all have come to rest: the totals are the sums of what the living hold, the dead hold
 * nothing. */
static void check(unsigned dead, const char *what, unsigned a, unsigned b, unsigned c)
{
        for (unsigned device = 0; device < 2; device++) {
                uint64_t sum = 0;

                for (unsigned slot = 1; slot < DAEMON; slot++)
                        sum += held(slot, device);
                if (cleave_counter_units(page->used[device]) != sum ||
                        cleave_counter_units(page->used[device]) > 100 || held(dead, device) != 0)
                        fail_msg("%s %u %u %u: device %u: %llu used, %llu held, %llu by the dead",
                                what, a, b, c, device,
                                (unsigned long long)cleave_counter_units(page->used[device]),
                                (unsigned long long)sum, (unsigned long long)held(dead, device));
        }
        assert_int_equal(cleave_usage_slot(page, 0)->op, 0);
        assert_int_equal(cleave_usage_slot(page, dead)->op, 0);
}

static void start_all(unsigned variant)
{
        reset_page();
        actor_start(&actors[1], process_body, 1, variant);
        actor_start(&actors[2], process_body, 2, (variant + 1) % 3);
        actor_start(&actors[3], process_body, 3, (variant + 2) % 3);
        actor_start(&actors[DAEMON], daemon_body, 1, 0);
}

static unsigned steps_of(unsigned variant)
{
        start_all(variant);
        return run(&actors[1], FOREVER);
}

/* One process is killed after each of its steps, another steps in between at each point by each
 * amount. */
static void a_process_killed_anywhere_leaves_no_trace(void **state)
{
        for (unsigned variant = 0; variant < 3; variant++) {
                unsigned steps = steps_of(variant), others = steps_of((variant + 1) % 3);

                assert_in_range(steps, 20, 200);
                for (unsigned killed = 0; killed <= steps; killed++)
                        for (unsigned first = 0; first <= killed; first += 1 + killed / 8)
                                for (unsigned other = 0; other <= others; other++) {
                                        start_all(variant);
                                        run(&actors[1], first);
                                        run(&actors[2], other);
                                        run(&actors[1], killed - first);
                                        run(&actors[DAEMON], FOREVER);
                                        run(&actors[2], FOREVER);
                                        check(1, "killed, first, other", killed, first, other);
                                }
        }
}

/* The daemon, cleaning up, is killed after each of its steps, and its successor begins anew; the
 * living process steps in at each point. */
static void a_daemon_killed_anywhere_is_continued(void **state)
{
        for (unsigned variant = 0; variant < 3; variant++) {
                unsigned steps = steps_of(variant);

                for (unsigned killed = 1; killed <= steps; killed++)
                        for (unsigned daemon = 0; daemon < 60; daemon++)
                                for (unsigned other = 0; other < 3; other++) {
                                        unsigned made;

                                        start_all(variant);
                                        run(&actors[1], killed);
                                        run(&actors[2], other * 7);
                                        made = run(&actors[DAEMON], daemon);
                                        run(&actors[2], 5 + other * 9);
                                        actor_start(&actors[DAEMON], daemon_body, 1, 0);
                                        run(&actors[DAEMON], daemon / 2);
                                        run(&actors[2], 11);
                                        actor_start(&actors[DAEMON], daemon_body, 1, 0);
                                        run(&actors[DAEMON], FOREVER);
                                        run(&actors[2], FOREVER);
                                        check(1, "killed, daemon, other", killed, daemon, other);
                                        if (made < daemon)
                                                daemon = 60;
                                }
        }
}

/* Steps in any order, with compare-and-swaps that fail for no reason, both processes and daemons
 * killed at any time; at the very end everything is given back. */
static void random_schedules_end_in_balance(void **state)
{
        for (unsigned round = 0; round < 8000; round++) {
                unsigned killed = 1 + (unsigned)(random_word() % 60);
                bool dead = false;

                random_state = round * 2654435761u + 12345;
                random_word();
                start_all(round % 3);
                for (unsigned i = 0; i < 400; i++) {
                        unsigned who = 1 + (unsigned)(random_word() % 4);
                        unsigned burst = 1 + (unsigned)(random_word() % 4);

                        if (random_word() % 16 == 0)
                                spurious_in = 1;
                        if (!dead && i >= killed)
                                dead = true;
                        if (who == 1 && dead)
                                continue;
                        if (who == DAEMON && !dead)
                                continue;
                        if (who == DAEMON && random_word() % 24 == 0)
                                actor_start(&actors[DAEMON], daemon_body, 1, 0);
                        run(&actors[who], burst);
                }
                actor_start(&actors[DAEMON], daemon_body, 1, 0);
                run(&actors[DAEMON], FOREVER);
                run(&actors[2], FOREVER);
                run(&actors[3], FOREVER);
                check(1, "round", round, killed, 0);

                for (unsigned slot = 2; slot < DAEMON; slot++) {
                        actor_start(&actors[DAEMON], daemon_body, slot, 0);
                        run(&actors[DAEMON], FOREVER);
                }
                check(2, "round, all dead", round, killed, 0);
                for (unsigned device = 0; device < 2; device++)
                        assert_int_equal(cleave_counter_units(page->used[device]), 0);
        }
}

/* A slot goes from one process to the next while a third one's swap sleeps over it. */
static void a_slot_given_anew_is_not_mistaken_for_the_old(void **state)
{
        for (unsigned killed = 1; killed < 60; killed++)
                for (unsigned asleep = 1; asleep < 30; asleep++) {
                        start_all(0);
                        run(&actors[2], asleep);
                        run(&actors[1], killed);
                        run(&actors[DAEMON], FOREVER);
                        /* as pages_open_slot() leaves it: seq and applied go on */
                        cleave_usage_slot(page, 1)->op_held = 0;
                        actor_start(&actors[1], process_body, 1, 2);
                        run(&actors[1], 10);
                        run(&actors[2], FOREVER);
                        actor_start(&actors[DAEMON], daemon_body, 1, 0);
                        run(&actors[DAEMON], FOREVER);
                        check(1, "killed, asleep", killed, asleep, 0);
                }
}

/* A helper sleeps over what it has read of another's change, while that one and a third go on. */
static void a_helper_that_slept_undoes_nothing(void **state)
{
        for (unsigned asleep = 4; asleep < 16; asleep++)
                for (unsigned first = 6; first < 40; first++)
                        for (unsigned second = 0; second < 24; second += 2)
                                for (unsigned third = 0; third < 24; third += 4) {
                                        start_all(0);
                                        run(&actors[1], first);
                                        run(&actors[2], asleep);
                                        run(&actors[1], second);
                                        run(&actors[3], third);
                                        run(&actors[2], 2);
                                        run(&actors[DAEMON], FOREVER);
                                        run(&actors[2], FOREVER);
                                        run(&actors[3], FOREVER);
                                        check(1, "asleep, first, second", asleep, first, second);
                                }
}

/* Garbage in every word that a tenant can reach: nothing is written outside of the page, every call
 * comes back. */
static void garbage_does_no_harm(void **state)
{
        for (unsigned round = 0; round < 20000; round++) {
                uint64_t *words = (uint64_t *)page;
                size_t count = (CLEAVE_USAGE_HEAD + 5 * CLEAVE_SLOT_BYTES) / sizeof(*words);

                reset_page();
                random_state = round + 77;
                for (unsigned i = 0; i < 4096; i++)
                        words[random_word() % count] =
                                random_word() % 4 ? random_word() : UINT64_MAX;
                /* so that the interesting words are hit each time */
                for (unsigned slot = 0; slot < 4; slot++) {
                        cleave_usage_slot(page, slot)->op = random_word() | 1ull << 63;
                        cleave_usage_slot(page, slot)->op_held = random_word();
                        cleave_usage_slot(page, slot)->op_target = (uint32_t)random_word();
                }
                page->used[0] = random_word();
                page->used[1] = random_word();
                cleave_counter_finish(page);
                cleave_slot_settle(page, 1);
                assert_int_equal(cleave_usage_slot(page, 1)->op, 0);
                (void)cleave_counter_release(page, 1, 0);
                (void)cleave_counter_release(page, 1, 1);
        }
}

static void map_page(void)
{
        page = mmap(NULL, CLEAVE_USAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                -1, 0);
        assert_true(page != MAP_FAILED);
}

static int set_up(void **state)
{
        map_page();
        return 0;
}

static int tear_down(void **state)
{
        munmap(page, CLEAVE_USAGE_BYTES);
        for (unsigned i = 0; i < ACTORS; i++) {
                free(actors[i].stack);
                actors[i].stack = NULL;
        }
        return 0;
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(
                        a_process_killed_anywhere_leaves_no_trace, set_up, tear_down),
                cmocka_unit_test_setup_teardown(
                        a_daemon_killed_anywhere_is_continued, set_up, tear_down),
                cmocka_unit_test_setup_teardown(random_schedules_end_in_balance, set_up, tear_down),
                cmocka_unit_test_setup_teardown(
                        a_slot_given_anew_is_not_mistaken_for_the_old, set_up, tear_down),
                cmocka_unit_test_setup_teardown(
                        a_helper_that_slept_undoes_nothing, set_up, tear_down),
                cmocka_unit_test_setup_teardown(garbage_does_no_harm, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
