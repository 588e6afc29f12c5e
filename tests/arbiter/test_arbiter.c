/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "policy/arbiter.h"
#include "base/cleanup.h"
#include "world.h"

static struct arbiter_action actions[ARBITER_MAX_ACTIONS];
static const unsigned both[] = {0, 1};

static struct world world;

static void test_account_never_falls(void **state)
{
        struct account account = {0};

        account_predict(&account, 5000);
        assert_int_equal(account.shown_ns, 5000);
        assert_int_equal(account_error(&account), 5000);
        /* the first reading only says where the counter stands */
        account_measure(&account, ACCOUNT_SWITCHES, 1000000, 10);
        assert_int_equal(account_best(&account), 5000);
        assert_int_equal(account_error(&account), 10);
        account_predict(&account, 3000);
        account_measure(&account, ACCOUNT_SWITCHES, 1001000, 10);
        assert_int_equal(account_best(&account), 6000);
        assert_int_equal(account.shown_ns, 8000);
        /* what was shown too much is held back */
        account_predict(&account, 1500);
        assert_int_equal(account.shown_ns, 8000);
        account_measure(&account, ACCOUNT_SWITCHES, 1004000, 10);
        assert_int_equal(account.shown_ns, 9000);
}

static void test_account_changes_source(void **state)
{
        struct account account = {0};

        account_measure(&account, ACCOUNT_COUNTERS, 100 * MS, 50);
        account_measure(&account, ACCOUNT_COUNTERS, 900 * MS, 50);
        assert_int_equal(account_best(&account), 800 * MS);
        account_predict(&account, 70 * MS);
        account_measure(&account, ACCOUNT_SWITCHES, 5 * MS, 1);
        assert_int_equal(account_best(&account), 870 * MS);
        account_measure(&account, ACCOUNT_SWITCHES, 2035 * MS, 1);
        assert_int_equal(account_best(&account), 2900 * MS);
        /* a source that began anew */
        account_measure(&account, ACCOUNT_SWITCHES, 2 * MS, 1);
        assert_int_equal(account_best(&account), 2900 * MS);
        account_measure(&account, ACCOUNT_SWITCHES, 12 * MS, 1);
        assert_int_equal(account_best(&account), 2910 * MS);
        assert_int_equal(account.source, ACCOUNT_SWITCHES);
}

/* Also where most of what was in question was no work. */
static void test_account_corrects_itself(void **state)
{
        struct account account = {0};

        account_predict(&account, 20 * MS);
        account_measure(&account, ACCOUNT_SWITCHES, 20 * MS, 1);
        account_measure(&account, ACCOUNT_SWITCHES, 130 * MS, 1);
        assert_int_equal(account_best(&account), 130 * MS);
        account_measure(&account, ACCOUNT_SWITCHES, 40 * MS, 1);
        assert_int_equal(account_best(&account), 40 * MS);
        assert_int_equal(account.shown_ns, 130 * MS);
        account_measure(&account, ACCOUNT_SWITCHES, 0, 1);
        assert_int_equal(account_best(&account), 0);
        account_measure(&account, ACCOUNT_SWITCHES, 10 * MS, 1);
        assert_int_equal(account_best(&account), 10 * MS);
}

static void test_account_divides(void **state)
{
        const struct account_claim claims[] = {{1000, true}, {500, false}, {3000, true}};
        uint64_t had[3];

        account_divide(1000000, 250, claims, 3, had);
        assert_int_equal(had[0], 222222);
        assert_int_equal(had[1], 0);
        assert_int_equal(had[2], 666666);
        account_divide(1000000, 250, claims, 2, had);
        assert_int_equal(had[0], 1000000);
        account_divide(1000000, 250, claims + 1, 1, had);
        assert_int_equal(had[0], 0);
}

static void test_admission(void **state)
{
        struct arbiter *arbiter;
        struct arbiter_terms terms = {.share = 60};
        unsigned available = 0;
        const unsigned twice[] = {1, 1}, unknown[] = {2};

        assert_int_equal(arbiter_new(0, NULL, &arbiter), -EINVAL);
        assert_int_equal(arbiter_new(2, NULL, &arbiter), 0);
        assert_int_equal(arbiter_admit(arbiter, 1, 0, both, 1, &terms), -EINVAL);
        assert_int_equal(arbiter_admit(arbiter, 1, 7, twice, 2, &terms), -EINVAL);
        assert_int_equal(arbiter_admit(arbiter, 1, 7, unknown, 1, &terms), -EINVAL);
        assert_int_equal(arbiter_admit(arbiter, 1, 7, both + 1, 1, &terms), 0);
        assert_int_equal(arbiter_admit(arbiter, 1, 7, both, 1, &terms), -EEXIST);
        /* full on the second of them */
        terms.share = 41;
        assert_int_equal(arbiter_fits(arbiter, both, 2, &terms, 0, &available), -ENOSPC);
        assert_int_equal(available, 40);
        assert_int_equal(arbiter_admit(arbiter, 1, 8, both, 2, &terms), -ENOSPC);
        terms.share = 40;
        assert_int_equal(arbiter_admit(arbiter, 1, 8, both, 2, &terms), 0);
        /* its own share does not stand in its way */
        assert_int_equal(arbiter_change(arbiter, 1, 8, &terms), 0);
        terms.share = 41;
        assert_int_equal(arbiter_change(arbiter, 1, 8, &terms), -ENOSPC);
        assert_int_equal(arbiter_leave(arbiter, 1, 7), 0);
        assert_int_equal(arbiter_change(arbiter, 1, 8, &terms), 0);
        /* a cap below the guarantee */
        terms.cap = 30;
        assert_int_equal(arbiter_change(arbiter, 1, 8, &terms), -EINVAL);
        terms = (struct arbiter_terms){.share = 101};
        assert_int_equal(arbiter_change(arbiter, 1, 8, &terms), -EINVAL);
        assert_int_equal(arbiter_change(arbiter, 1, 9, &terms), -ENOENT);
        assert_int_equal(arbiter_leave(arbiter, 1, 9), -ENOENT);
        terms = (struct arbiter_terms){0};
        for (unsigned i = 1; i < ARBITER_MAX_TENANTS; i++)
                assert_int_equal(arbiter_admit(arbiter, 1, 100 + i, both, 1, &terms), 0);
        assert_int_equal(arbiter_admit(arbiter, 1, 99, both, 1, &terms), -EUSERS);
        arbiter_free(arbiter);
}

static unsigned count_acts(unsigned count, enum arbiter_act act)
{
        unsigned found = 0;

        for (unsigned i = 0; i < count; i++)
                found += actions[i].act == act;
        return found;
}

/* What fails is tried again, and shown; what is undone behind our back is done again. */
static void test_calls_that_fail(void **state)
{
        struct arbiter *arbiter;
        struct arbiter_terms terms = {.share = 50};
        struct arbiter_state seen;
        uint64_t now = SEC;
        unsigned count, tries = 0;

        arbiter_new(1, NULL, &arbiter);
        arbiter_admit(arbiter, now, 1, both, 1, &terms);
        arbiter_admit(arbiter, now, 2, both, 1, &terms);
        while (tries < 3) {
                count = arbiter_step(arbiter, now, actions);
                for (unsigned i = 0; i < count; i++) {
                        tries += actions[i].tenant == 1;
                        arbiter_acted(arbiter, now + 300 * US, &actions[i],
                                actions[i].tenant == 1 ? -EPERM : 0);
                }
                now += 10 * MS;
                assert_true(now < 2 * SEC);
        }
        /* not with each step */
        assert_true(now > SEC + 100 * MS);
        arbiter_inspect(arbiter, 1, 0, &seen);
        assert_true(seen.refused);
        arbiter_inspect(arbiter, 2, 0, &seen);
        assert_false(seen.refused);
        assert_true(seen.slice_us > 0);

        count = arbiter_step(arbiter, now, actions);
        for (unsigned i = 0; i < count; i++)
                arbiter_acted(arbiter, now, &actions[i], 0);
        assert_int_equal(arbiter_forget(arbiter, now, 3, 0), -ENOENT);
        assert_int_equal(arbiter_forget(arbiter, now, 2, 0), 0);
        count = arbiter_step(arbiter, now, actions);
        assert_true(count_acts(count, ARBITER_SET_SLICE) >= 1);
        for (unsigned i = 0; i < count; i++)
                if (actions[i].act == ARBITER_SET_SLICE) {
                        assert_int_equal(actions[i].tenant, 2);
                        assert_int_equal(
                                actions[i].slice_us, schedule_quantize(actions[i].slice_us));
                }
        arbiter_free(arbiter);
}

/* What a tenant used while nobody could hold it back is not paid for with seconds of silence. */
static void test_debt_is_limited(void **state)
{
        struct arbiter *arbiter;
        struct arbiter_terms terms = {.cap = 10};
        struct arbiter_sight sight = {.demand = ARBITER_DEMAND_WORK,
                .used_known = true,
                .source = ACCOUNT_SWITCHES,
                .groups = 1,
                .channels = 8};
        struct arbiter_state seen;
        uint64_t now = SEC, until, silent = 0;

        (void)state;
        arbiter_new(1, NULL, &arbiter);
        arbiter_admit(arbiter, now, 1, both, 1, &terms);
        /* two seconds of it, with nobody to disable anything */
        for (until = now + 2 * SEC; now < until; now += 10 * MS) {
                unsigned count;

                sight.used_ns += 10 * MS;
                arbiter_observe(arbiter, now, 1, 0, &sight);
                count = arbiter_step(arbiter, now, actions);
                for (unsigned i = 0; i < count; i++)
                        arbiter_acted(arbiter, now, &actions[i], -ESRCH);
        }
        for (until = now + 3 * SEC; now < until; now += 10 * MS) {
                unsigned count = arbiter_step(arbiter, now, actions);

                for (unsigned i = 0; i < count; i++)
                        arbiter_acted(arbiter, now, &actions[i], 0);
                arbiter_inspect(arbiter, 1, 0, &seen);
                silent += seen.disabled ? 10 * MS : 0;
                if (!seen.disabled && silent > 0)
                        break;
                arbiter_observe(arbiter, now, 1, 0, &sight);
        }
        assert_in_range(silent, 300 * MS, 700 * MS);
        arbiter_free(arbiter);
}

/* Somebody alone with a cap, whose channels are switched a while after it was decided. */
struct lone {
        struct arbiter *arbiter;
        struct arbiter_sight sight;
        struct arbiter_action last;
        uint64_t done; /* when that is done, 0: nothing is under way */
        bool on;
};

static struct lone begin_lone(unsigned cap, enum arbiter_demand demand)
{
        struct arbiter_terms terms = {.cap = cap};
        struct lone lone = {
                .sight =
                        {
                                .demand = demand,
                                .used_known = true,
                                .blind_alone = true,
                                .starts_known = true,
                                .wanted_known = true,
                                .source = ACCOUNT_SWITCHES,
                                .precision_ns = 60 * US,
                                .groups = 1,
                                .channels = 8,
                        },
                .on = true,
        };

        arbiter_new(1, NULL, &lone.arbiter);
        arbiter_admit(lone.arbiter, SEC, 1, both, 1, &terms);
        return lone;
}

static void run_lone(struct lone *lone, uint64_t now, uint64_t call_ns)
{
        unsigned count;

        if (lone->done && now >= lone->done) {
                lone->on = lone->last.act == ARBITER_ENABLE;
                arbiter_acted(lone->arbiter, now, &lone->last, 0);
                lone->done = 0;
        }
        if (now < arbiter_next(lone->arbiter) || lone->done)
                return;
        arbiter_observe(lone->arbiter, now, 1, 0, &lone->sight);
        count = arbiter_step(lone->arbiter, now, actions);
        for (unsigned i = 0; i < count; i++) {
                if (actions[i].act != ARBITER_DISABLE && actions[i].act != ARBITER_ENABLE) {
                        arbiter_acted(lone->arbiter, now, &actions[i], 0);
                        continue;
                }
                lone->last = actions[i];
                lone->done = now + call_ns;
        }
}

/* Calls that took long, as while contexts were made, are allowed for: more than the budget of a
 * period. Who has so little has it all the same, every few periods. */
static void test_calls_that_take_long(void **state)
{
        struct lone lone = begin_lone(5, ARBITER_DEMAND_WORK);
        uint64_t before = 0;

        (void)state;
        for (uint64_t now = SEC; now < 32 * SEC; now += 100 * US) {
                lone.sight.used_ns += lone.on ? 100 * US : 0;
                lone.sight.used_at = lone.sight.wanted_ns = now;
                if (now == 12 * SEC)
                        before = lone.sight.used_ns;
                run_lone(&lone, now, now < 8 * SEC ? 20 * MS : 600 * US);
        }
        /* 5 % of 20 s */
        assert_in_range(lone.sight.used_ns - before, 950 * MS, 1050 * MS);
        arbiter_free(lone.arbiter);
}

/* Who is alone and needs little of his time is not held back by what he is predicted to use: that
 * is learnt from what is measured, not from what was predicted. */
static void test_light_alone(void **state)
{
        struct lone lone = begin_lone(10, ARBITER_DEMAND_UNKNOWN);
        uint64_t used = 0, seen = 0, on_ns = 0, since_on = 0;

        (void)state;
        for (uint64_t now = SEC; now < 7 * SEC; now += 100 * US) {
                /* 1 ms in 20 */
                since_on = lone.on ? since_on + 100 * US : 0;
                if (since_on % (20 * MS) > 18 * MS && since_on % (20 * MS) <= 19 * MS)
                        used += 100 * US;
                on_ns += lone.on && now >= 3 * SEC ? 100 * US : 0;
                if (now % (10 * MS) == 0) {
                        /* told late */
                        lone.sight.used_ns = seen;
                        lone.sight.used_at = now - 9 * MS;
                        lone.sight.wanted_ns = lone.sight.since = now;
                        seen = used;
                }
                run_lone(&lone, now, 500 * US);
        }
        assert_true(on_ns > 4 * SEC * 9 / 10);
        arbiter_free(lone.arbiter);
}

/* A call that disables and fails may have been done in part: then all is enabled when the time has
 * come, though nobody was ever said to be disabled. */
static void test_disabled_in_part(void **state)
{
        struct arbiter *arbiter;
        struct arbiter_terms terms = {.cap = 10};
        unsigned disables = 0, enables = 0;

        arbiter_new(1, NULL, &arbiter);
        arbiter_admit(arbiter, SEC, 1, both, 1, &terms);
        for (uint64_t now = SEC; now < 2 * SEC; now += MS) {
                unsigned count = arbiter_step(arbiter, now, actions);

                for (unsigned i = 0; i < count; i++) {
                        bool fails = actions[i].act == ARBITER_DISABLE && disables < 2;

                        disables += actions[i].act == ARBITER_DISABLE;
                        enables += actions[i].act == ARBITER_ENABLE;
                        arbiter_acted(arbiter, now + 300 * US, &actions[i], fails ? -EIO : 0);
                        /* the first two are never done */
                        if (disables == 2 && actions[i].act == ARBITER_DISABLE) {
                                terms.cap = 0;
                                arbiter_change(arbiter, now + 300 * US, 1, &terms);
                        }
                }
        }
        assert_int_equal(disables, 2);
        assert_int_equal(enables, 1);
        arbiter_free(arbiter);
}

/* While nobody was there a tenant used what it liked: that costs it nothing afterwards, nor does it
 * get more than its cap. */
static void test_resume(void **state)
{
        static const enum fidelity fidelities[] = {SEES_ALL, SEES_SWITCHES, SEES_NOTHING};
        struct arbiter_terms terms = {.cap = 10};
        struct program program = {.kind = PROGRAM_QUEUE, .kernel_ns = MS};

        for (unsigned k = 0; k < ARRAY_SIZE(fidelities); k++) {
                struct client *client;
                uint64_t used;

                world_init(&world, 1, 1, true);
                world.fidelity = fidelities[k];
                assert_int_equal(world_join(&world, 1, both, 1, &terms, &program), 0);
                client = world_client(&world, 1, 0);
                world_run(&world, world.now + SEC);
                /* the steering process is killed, and one comes again after 0.7 s */
                arbiter_forget(world.arbiter, world.now, 1, 0);
                schedule_set_disabled(&world.gpu[0], client->group, false);
                client->disabled_since = 0;
                switches_off(&world.watcher[0].switches, 1, world.now, world.now, false);
                world_idle(&world, world.now + 700 * MS);
                arbiter_resume(world.arbiter, world.now);
                used = world_used(&world, client);
                world_run(&world, world.now + 300 * MS);
                used = world_used(&world, client) - used;
                assert_in_range(used, 22 * MS, 38 * MS);
                used = world_used(&world, client);
                world_run(&world, world.now + SEC);
                used = world_used(&world, client) - used;
                assert_in_range(used, 95 * MS, 105 * MS);
                world_done(&world);
        }
}

/* New groups of a tenant get its slice, divided among those with work, and are disabled with it. */
static void test_new_groups(void **state)
{
        struct arbiter *arbiter;
        struct arbiter_terms terms = {.share = 10, .cap = 10}, other = {0};
        struct arbiter_sight sight = {.groups = 1};
        struct arbiter_state seen;
        uint64_t now = SEC, slice;
        unsigned count, sets = 0;

        arbiter_new(1, NULL, &arbiter);
        arbiter_admit(arbiter, now, 1, both, 1, &terms);
        arbiter_admit(arbiter, now, 2, both, 1, &other);
        do {
                arbiter_observe(arbiter, now, 1, 0, &sight);
                count = arbiter_step(arbiter, now, actions);
                for (unsigned i = 0; i < count; i++)
                        arbiter_acted(arbiter, now, &actions[i], 0);
                now += MS;
                arbiter_inspect(arbiter, 1, 0, &seen);
                assert_true(now < 5 * SEC);
        } while (!seen.disabled);
        slice = seen.slice_us;
        sight.groups = 2;
        sight.epoch = 1;
        arbiter_observe(arbiter, now, 1, 0, &sight);
        count = arbiter_step(arbiter, now, actions);
        assert_int_equal(count_acts(count, ARBITER_DISABLE), 1);
        /* once others are not set back by it more often than each 100 ms */
        for (uint64_t end = now + 110 * MS; now < end; now += MS) {
                for (unsigned i = 0; i < count; i++) {
                        if (actions[i].act == ARBITER_SET_SLICE && actions[i].tenant == 1) {
                                assert_in_range(
                                        actions[i].slice_us, slice / 2 - slice / 50, slice / 2);
                                sets++;
                        }
                        arbiter_acted(arbiter, now, &actions[i], 0);
                }
                count = arbiter_step(arbiter, now, actions);
        }
        assert_int_equal(sets, 1);
        arbiter_free(arbiter);
}

/* A capped tenant that makes contexts all the while: none of its groups stays disabled when its
 * time has come, and none goes on when it has not, whenever they come. */
static void test_groups_come_and_go(void **state)
{
        enum { GROUPS = 4 };

        for (unsigned every = 1; every <= 61; every += 3) {
                struct arbiter *arbiter;
                struct arbiter_terms terms = {.cap = 10};
                struct arbiter_sight sight = {.groups = GROUPS,
                        .channels = GROUPS,
                        .demand = ARBITER_DEMAND_WORK,
                        .used_known = true,
                        .source = ACCOUNT_COUNTERS};
                struct arbiter_action flying[ARBITER_MAX_ACTIONS];
                bool off[GROUPS] = {false}, meant[GROUPS] = {false};
                uint64_t silent = 0, longest = 0, from = 2 * SEC;
                unsigned next = 0, count = 0;

                arbiter_new(1, NULL, &arbiter);
                arbiter_admit(arbiter, SEC, 1, both, 1, &terms);
                for (uint64_t now = SEC, ms = 0; now < 12 * SEC; now += MS, ms++) {
                        unsigned working = 0;

                        /* calls take a step, in which a group may come in another's place */
                        for (unsigned i = 0; i < count; i++)
                                for (unsigned g = 0; g < GROUPS; g++)
                                        if (meant[g] && flying[i].act == ARBITER_DISABLE)
                                                off[g] = true;
                                        else if (flying[i].act == ARBITER_ENABLE)
                                                off[g] = false;
                        for (unsigned i = 0; i < count; i++)
                                arbiter_acted(arbiter, now, &flying[i], 0);
                        if (ms % every == 0) {
                                next = (next + 1) % GROUPS;
                                off[next] = meant[next] = false;
                                sight.epoch++;
                        }
                        for (unsigned g = 0; g < GROUPS; g++)
                                working += !off[g];
                        sight.used_ns += working ? MS : 0;
                        silent = working == GROUPS ? 0 : silent + MS;
                        longest = now > from && silent > longest ? silent : longest;
                        if (now == from)
                                sight.wanted_ns = sight.used_ns;
                        arbiter_observe(arbiter, now, 1, 0, &sight);
                        count = arbiter_step(arbiter, now, flying);
                        for (unsigned g = 0; g < GROUPS; g++)
                                meant[g] = true;
                }
                /* one that has come runs until it was seen and a call was made: 2 ms */
                assert_in_range(sight.used_ns - sight.wanted_ns, 0,
                        SEC + SEC / 10 + (every < 25 ? 20 * SEC / every : 0));
                if (every >= 25)
                        assert_in_range(longest, 0, 400 * MS);
                arbiter_free(arbiter);
        }
}

/* A capped tenant's GPUs are off and on together, also where only one is in use. */
static void test_one_phase(void **state)
{
        struct arbiter_terms terms = {.cap = 30};
        struct program program = {.kind = PROGRAM_QUEUE, .kernel_ns = MS};
        uint64_t apart = 0, off = 0;

        world_init(&world, 2, 1, true);
        assert_int_equal(world_join(&world, 1, both, 2, &terms, &program), 0);
        terms = (struct arbiter_terms){0};
        assert_int_equal(world_join(&world, 2, both + 1, 1, &terms, &program), 0);
        world_run(&world, world.now + SEC);
        for (unsigned i = 0; i < 20000; i++) {
                bool first, second;

                world_run(&world, world.now + 50 * US);
                first = world_client(&world, 1, 0)->disabled_since > 0;
                second = world_client(&world, 1, 1)->disabled_since > 0;
                off += first && second;
                apart += first != second;
        }
        /* the calls for the two come one after the other */
        assert_in_range(off, 12000, 15000);
        assert_in_range(apart, 0, 20000 / 50);
        world_done(&world);
}

/* Two that may have half each take turns through their caps alone, without switching to and fro. */
static void test_phases_interleave(void **state)
{
        struct arbiter_terms terms = {.cap = 50};
        struct program program = {.kind = PROGRAM_QUEUE, .kernel_ns = MS};
        uint64_t work = 0;

        world_init(&world, 1, 1, true);
        for (unsigned i = 1; i <= 2; i++)
                assert_int_equal(world_join(&world, i, both, 1, &terms, &program), 0);
        world_run(&world, world.now + SEC);
        for (unsigned i = 1; i <= 2; i++)
                work -= world_work(&world, world_client(&world, i, 0));
        world_run(&world, world.now + SEC);
        for (unsigned i = 1; i <= 2; i++)
                work += world_work(&world, world_client(&world, i, 0));
        assert_in_range(work, 95 * SEC / 100, SEC);
        world_done(&world);
}

/* The same calls in the same order give the same actions. */
static void test_deterministic(void **state)
{
        uint64_t sum[2] = {0};

        for (unsigned k = 0; k < 2; k++) {
                struct arbiter_terms terms = {.share = 30, .cap = 60};
                struct program program = {.kind = PROGRAM_SERVICE, .kernel_ns = MS, .rate = 400};

                world_init(&world, 2, 5, true);
                for (unsigned i = 1; i <= 3; i++)
                        world_join(&world, i, both, 2, &terms, &program);
                world_run(&world, world.now + SEC);
                for (unsigned i = 1; i <= 3; i++)
                        sum[k] += i * world_used(&world, world_client(&world, i, 1));
                sum[k] += world.call_ns;
                world_done(&world);
        }
        assert_int_equal(sum[0], sum[1]);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_account_never_falls),
                cmocka_unit_test(test_account_changes_source),
                cmocka_unit_test(test_account_corrects_itself),
                cmocka_unit_test(test_account_divides),
                cmocka_unit_test(test_admission),
                cmocka_unit_test(test_calls_that_fail),
                cmocka_unit_test(test_debt_is_limited),
                cmocka_unit_test(test_calls_that_take_long),
                cmocka_unit_test(test_light_alone),
                cmocka_unit_test(test_disabled_in_part),
                cmocka_unit_test(test_resume),
                cmocka_unit_test(test_new_groups),
                cmocka_unit_test(test_groups_come_and_go),
                cmocka_unit_test(test_one_phase),
                cmocka_unit_test(test_phases_interleave),
                cmocka_unit_test(test_deterministic),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
