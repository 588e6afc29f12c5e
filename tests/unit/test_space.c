/* SPDX-License-Identifier: Apache-2.0 */
/* The planner of SM sets, and the choice between time and space. */
#include "policy/space.h"

#include "unit.h"

static const struct space_geometry h100 = {.sms = 132, .step = 8, .units = 16, .rest = 12};
static const struct space_geometry h100_fine = {.sms = 132, .step = 2, .units = 66};

static struct space_set range(unsigned first, unsigned count)
{
        struct space_set set = {{0}};

        for (unsigned i = first; i < first + count; i++)
                space_put(&set, i);
        return set;
}

static unsigned set_of(struct space_plan *plan, uint64_t id)
{
        return (unsigned)space_find(plan, id)->set.word[0];
}

static void test_geometry(void **state)
{
        struct space_geometry g = h100;
        struct space_set all = range(0, 16), first = range(0, 1), last = range(15, 1);

        (void)state;
        assert_int_equal(space_geometry_check(&g), 0);
        assert_int_equal(space_sms(&g, &all), 132);
        assert_int_equal(space_sms(&g, &first), 8);
        assert_int_equal(space_sms(&g, &last), 12);
        assert_int_equal(space_units_of(&g, 100), 16);
        assert_int_equal(space_units_of(&g, 50), 8);
        assert_int_equal(space_units_of(&g, 25), 4);
        assert_int_equal(space_units_of(&g, 12), 2);
        assert_int_equal(space_units_of(&g, 1), 1);
        assert_int_equal(space_units_of(&h100_fine, 1), 1);
        assert_int_equal(space_units_of(&h100_fine, 30), 20);
        g.units = 18;
        assert_int_equal(space_geometry_check(&g), -EINVAL);
        g = (struct space_geometry){.sms = 1024, .step = 2, .units = 129};
        assert_int_equal(space_geometry_check(&g), -EINVAL);
}

static void test_guaranteed(void **state)
{
        struct space_plan plan;

        (void)state;
        assert_int_equal(space_plan_init(&plan, &h100), 0);
        assert_int_equal(space_admit(&plan, 1, 2, false), 0);
        assert_int_equal(space_admit(&plan, 1, 2, false), -EEXIST);
        assert_int_equal(space_admit(&plan, 2, 17, false), -EINVAL);
        assert_int_equal(space_admit(&plan, 2, 15, false), -ENOSPC);
        /* nobody lives on a set yet, so the larger one goes first */
        assert_int_equal(space_admit(&plan, 2, 8, false), 0);
        assert_int_equal(set_of(&plan, 2), 0x00ff);
        assert_int_equal(set_of(&plan, 1), 0x0300);
        /* from now on that one stays where it is */
        space_hold(&plan, 1, &space_find(&plan, 1)->set);
        assert_int_equal(space_leave(&plan, 2), 0);
        assert_int_equal(set_of(&plan, 1), 0x0300);
        /* 4 fit into the shorter run, 8 into the longer: each takes the shortest that will do */
        assert_int_equal(space_admit(&plan, 3, 4, false), 0);
        assert_int_equal(set_of(&plan, 3), 0x3c00);
        assert_int_equal(space_admit(&plan, 4, 8, false), 0);
        assert_int_equal(set_of(&plan, 4), 0x00ff);
        assert_int_equal(space_available(&plan, false), 2);
        assert_int_equal(space_leave(&plan, 7), -ENOENT);
}

static void test_best_effort(void **state)
{
        struct space_plan plan;
        struct space_set none = {{0}};

        (void)state;
        assert_int_equal(space_plan_init(&plan, &h100), 0);
        /* alone: all; two: half each */
        assert_int_equal(space_admit(&plan, 1, 1, true), 0);
        assert_int_equal(set_of(&plan, 1), 0xffff);
        assert_int_equal(space_admit(&plan, 2, 1, true), 0);
        assert_int_equal(space_count(&space_find(&plan, 1)->set), 8);
        assert_int_equal(space_count(&space_find(&plan, 2)->set), 8);
        /* what a context lives on is not taken from it */
        space_hold(&plan, 1, &space_find(&plan, 1)->set);
        assert_int_equal(space_available(&plan, false), 7);
        assert_int_equal(space_available(&plan, true), 14);
        assert_int_equal(space_admit(&plan, 3, 8, false), -EBUSY);
        assert_int_equal(space_admit(&plan, 3, 15, false), -ENOSPC);
        assert_int_equal(space_admit(&plan, 3, 7, false), 0);
        assert_int_equal(space_count(&space_find(&plan, 2)->set), 1);
        space_hold(&plan, 1, &none);
        assert_int_equal(space_admit(&plan, 4, 7, false), 0);
        assert_int_equal(space_count(&space_find(&plan, 1)->set), 1);
        assert_false(space_meet(&space_find(&plan, 1)->set, &space_find(&plan, 4)->set));
        assert_int_equal(space_admit(&plan, 5, 1, true), -ENOSPC);
}

static void test_restored(void **state)
{
        struct space_plan plan;
        struct space_set set = range(3, 4), beyond = range(14, 4), crossing = range(6, 2);

        (void)state;
        assert_int_equal(space_plan_init(&plan, &h100), 0);
        assert_int_equal(space_restore(&plan, 1, 4, false, &set), 0);
        assert_int_equal(space_restore(&plan, 2, 2, false, &crossing), -EINVAL);
        assert_int_equal(space_restore(&plan, 2, 4, false, &beyond), -EINVAL);
        assert_int_equal(space_admit(&plan, 2, 12, false), 0);
        assert_true(space_equal(&space_find(&plan, 1)->set, &set));
        assert_false(space_meet(&space_find(&plan, 2)->set, &set));
}

/* A tenant that says it holds what is another's gets no further than its own. */
static void test_liar(void **state)
{
        struct space_plan plan;
        struct space_set all = {{UINT64_MAX, UINT64_MAX}};

        (void)state;
        assert_int_equal(space_plan_init(&plan, &h100), 0);
        assert_int_equal(space_admit(&plan, 1, 6, false), 0);
        assert_int_equal(space_admit(&plan, 2, 1, true), 0);
        space_hold(&plan, 2, &all);
        assert_false(space_meet(&space_find(&plan, 1)->set, &space_find(&plan, 2)->held));
        space_replan(&plan);
        assert_int_equal(space_count(&space_find(&plan, 1)->set), 6);
        assert_int_equal(space_count(&space_find(&plan, 2)->set), 10);
}

/* Shares of less than a unit. */
static void test_parts(void **state)
{
        struct space_plan plan;
        struct space_set none = {{0}}, unit;

        (void)state;
        assert_int_equal(space_part_of(&h100, 1), 16);
        assert_int_equal(space_part_of(&h100, 6), 96);
        assert_int_equal(space_part_of(&h100, 7), 0);
        assert_int_equal(space_part_of(&h100_fine, 1), 66);
        assert_int_equal(space_part_of(&h100_fine, 2), 0);
        assert_int_equal(space_connections(0), 4);
        assert_int_equal(space_connections(1), 2);
        assert_int_equal(space_connections(7), 4);
        assert_int_equal(space_connections(13), 8);
        assert_int_equal(space_connections(100), 8);
        assert_int_equal(space_plan_init(&plan, &h100), 0);
        assert_int_equal(space_admit(&plan, 9, 14, false), 0);
        assert_int_equal(space_admit_part(&plan, 1, 16), 0);
        assert_int_equal(space_available(&plan, false), 1);
        assert_int_equal(space_admit_part(&plan, 1, 16), -EEXIST);
        assert_int_equal(space_admit_part(&plan, 2, 0), -EINVAL);
        assert_int_equal(space_admit_part(&plan, 2, 100), -EINVAL);
        /* 1, 2 and 3 % have one unit, and it is nobody else's */
        assert_int_equal(space_admit_part(&plan, 2, 32), 0);
        assert_int_equal(space_admit_part(&plan, 3, 48), 0);
        assert_int_equal(space_available(&plan, false), 1);
        assert_int_equal(set_of(&plan, 1), 0x4000);
        assert_int_equal(set_of(&plan, 2), 0x4000);
        assert_int_equal(set_of(&plan, 3), 0x4000);
        assert_int_equal(space_find(&plan, 1)->group, space_find(&plan, 3)->group);
        /* the next finds no room in it, and opens another; who fits in both goes to the fuller */
        assert_true(space_has_room(&plan, 16));
        assert_int_equal(space_admit_part(&plan, 4, 80), 0);
        assert_int_equal(set_of(&plan, 4), 0x8000);
        assert_int_not_equal(space_find(&plan, 4)->group, space_find(&plan, 1)->group);
        assert_int_equal(space_leave(&plan, 3), 0);
        assert_int_equal(space_admit_part(&plan, 5, 16), 0);
        assert_int_equal(set_of(&plan, 5), 0x8000);
        assert_false(space_has_room(&plan, 64));
        assert_int_equal(space_admit_part(&plan, 6, 64), -ENOSPC);
        assert_int_equal(space_admit(&plan, 6, 1, true), -ENOSPC);
        /* all of them may live on it; nobody else */
        unit = space_find(&plan, 1)->set;
        space_hold(&plan, 1, &unit);
        space_hold(&plan, 2, &unit);
        space_hold(&plan, 4, &unit);
        assert_true(space_equal(&space_find(&plan, 2)->held, &unit));
        assert_true(space_empty(&space_find(&plan, 4)->held));
        /* it is theirs until the last has gone, and stays where it is while one lives on it */
        assert_int_equal(space_leave(&plan, 1), 0);
        assert_int_equal(space_leave(&plan, 9), 0);
        assert_int_equal(set_of(&plan, 2), 0x4000);
        assert_int_equal(space_available(&plan, false), 14);
        space_hold(&plan, 2, &none);
        assert_int_equal(space_leave(&plan, 2), 0);
        assert_int_equal(space_available(&plan, false), 15);

        /* after a restart they find each other again */
        assert_int_equal(space_plan_init(&plan, &h100), 0);
        unit = range(3, 1);
        assert_int_equal(space_restore_part(&plan, 1, 32, &unit), 0);
        assert_int_equal(space_restore_part(&plan, 2, 48, &unit), 0);
        assert_int_equal(space_restore_part(&plan, 3, 48, &unit), -EINVAL);
        assert_int_equal(space_restore(&plan, 3, 1, false, &unit), -EINVAL);
        assert_int_equal(space_find(&plan, 1)->group, space_find(&plan, 2)->group);
        assert_int_equal(space_admit_part(&plan, 3, 16), 0);
        assert_int_equal(set_of(&plan, 3), 1 << 3);
}

static uint64_t seed = 88172645463325252ull;

static unsigned any(unsigned below)
{
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        return (unsigned)(seed % below);
}

/* At every moment: sets disjoint but those of parts of a unit, also from what others' contexts
 * hold; all units accounted for; nobody below his guarantee, and nobody with a share above it. */
static void check_plan(struct space_plan *plan)
{
        struct space_set all = {{0}};
        unsigned sms = 0, units = 0;
        bool elastic = false;

        for (unsigned i = 0; i < plan->tenants; i++) {
                struct space_tenant *t = &plan->tenant[i];
                unsigned count = space_count(&t->set), parts = 0;
                bool counted = false;

                for (unsigned k = 0; k < plan->tenants; k++) {
                        const struct space_tenant *other = &plan->tenant[k];

                        if (t->group && other->group == t->group) {
                                assert_true(space_equal(&t->set, &other->set));
                                parts += other->part;
                                counted = counted || k < i;
                        } else
                                assert_false(k != i && space_meet(&t->set, &other->held));
                }
                assert_true(parts <= 100 && (t->part > 0) == (t->group > 0));
                assert_true(t->best_effort ? count >= 1 : count == t->units);
                if (counted)
                        continue;
                assert_false(space_meet(&all, &t->set));
                all.word[0] |= t->set.word[0];
                all.word[1] |= t->set.word[1];
                sms += space_sms(&plan->geometry, &t->set);
                units += count;
                elastic = elastic || t->best_effort;
        }
        assert_true(sms <= plan->geometry.sms && units <= plan->geometry.units);
        /* with somebody to use them, none lies idle */
        if (elastic)
                assert_int_equal(units, plan->geometry.units);
        assert_int_equal(units, space_count(&all));
}

static void random_tenancy(const struct space_geometry *geometry, unsigned changes)
{
        struct space_plan plan;
        uint64_t next = 1;
        unsigned admitted = 0, refused = 0, left = 0;

        assert_int_equal(space_plan_init(&plan, geometry), 0);
        while (admitted + left < changes) {
                unsigned what = any(10);
                struct space_tenant *t = plan.tenants ? &plan.tenant[any(plan.tenants)] : NULL;

                if (what < 4 || !t) {
                        struct space_plan before = plan;
                        unsigned units = 1 + any(geometry->units / 2);
                        int r = any(3) == 0 ? space_admit_part(&plan, next, 1 + any(99))
                                            : space_admit(&plan, next, units, any(3) == 0);

                        if (r == 0) {
                                admitted++;
                                next++;
                        } else {
                                assert_true(r == -ENOSPC || r == -EBUSY);
                                assert_memory_equal(&before, &plan, sizeof(plan));
                                refused++;
                        }
                } else if (what < 7) {
                        assert_int_equal(space_leave(&plan, t->id), 0);
                        left++;
                } else {
                        /* a context is made on the set of the moment, or the last one ends */
                        struct space_set held = t->held;

                        if (space_empty(&held) || any(2))
                                for (unsigned i = 0; i < 2; i++)
                                        held.word[i] |= t->set.word[i];
                        else
                                held = (struct space_set){{0}};
                        assert_int_equal(space_hold(&plan, t->id, &held), 0);
                        assert_true(space_equal(&space_find(&plan, t->id)->held, &held));
                        if (any(2))
                                space_replan(&plan);
                }
                check_plan(&plan);
        }
        assert_true(admitted > changes / 4 && left > changes / 4 && refused > 0);
        while (plan.tenants)
                assert_int_equal(space_leave(&plan, plan.tenant[any(plan.tenants)].id), 0);
        assert_int_equal(space_available(&plan, false), geometry->units);
}

static void test_random(void **state)
{
        struct space_geometry small = {.sms = 7, .step = 2, .units = 3};

        (void)state;
        random_tenancy(&h100, 1000);
        random_tenancy(&h100_fine, 1000);
        random_tenancy(&small, 1000);
}

static void test_choice(void **state)
{
#define AUTO(...)                                                                                  \
        (struct sharing_case)                                                                      \
        {                                                                                          \
                .asked = SHARING_AUTO, __VA_ARGS__                                                 \
        }
#define SPACE(...)                                                                                 \
        (struct sharing_case)                                                                      \
        {                                                                                          \
                .asked = SHARING_SPATIAL, __VA_ARGS__                                              \
        }
#define TIME(...)                                                                                  \
        (struct sharing_case)                                                                      \
        {                                                                                          \
                .asked = SHARING_TEMPORAL, __VA_ARGS__                                             \
        }
        /* what is not said of a case: one device, which can be shared in space, with all SMs free
         */
        enum { NO_MPS = 101 };
        static const struct {
                struct sharing_case c;
                enum sharing wanted;
                const char *why;
        } cases[] = {
                /* priority and share */
                {AUTO(.low = false), SHARING_TEMPORAL, "the whole device while others idle"},
                {AUTO(.share = 30), SHARING_TEMPORAL, "the whole device while others idle"},
                {AUTO(.low = true, .share = 30), SHARING_TEMPORAL, "while others idle"},
                {AUTO(.high = true, .share = 30), SHARING_SPATIAL, "it waits for nobody"},
                {AUTO(.high = true), SHARING_TEMPORAL, "no share to choose SMs by"},
                {AUTO(.high = true, .share = 3, .part = true), SHARING_TEMPORAL, "turns there"},
                {AUTO(.spatial = 1, .share = 3, .part = true), SHARING_SPATIAL, "in space already"},
                {AUTO(.high = true, .share = 30, .available = 20), SHARING_TEMPORAL, "not so many"},
                {AUTO(.high = true, .share = 30, .cap = 50), SHARING_TEMPORAL, "a cap of its own"},
                /* trust */
                {AUTO(.high = true, .share = 30, .untrusted = true), SHARING_TEMPORAL,
                        "not trusted"},
                {AUTO(.spatial = 1, .untrusted = true), SHARING_AUTO, "not trusted"},
                /* what runs already */
                {AUTO(.spatial = 1), SHARING_SPATIAL, "in space already"},
                {AUTO(.spatial = 1, .low = true), SHARING_SPATIAL, "in space already"},
                {AUTO(.spatial = 1, .cap = 50), SHARING_AUTO, "a cap of its own"},
                {AUTO(.high = true, .share = 30, .temporal = 1), SHARING_TEMPORAL,
                        "in time already"},
                /* what cannot be */
                {AUTO(.high = true, .share = 30, .available = NO_MPS), SHARING_TEMPORAL,
                        "cannot be shared in space"},
                {AUTO(.high = true, .share = 30, .devices = 2), SHARING_TEMPORAL,
                        "one device's MPS server only"},
                /* what was asked for, or not at all */
                {SPACE(.share = 30), SHARING_SPATIAL, "it was asked"},
                {SPACE(.available = NO_MPS), SHARING_AUTO, "cannot be shared in space"},
                {SPACE(.devices = 2), SHARING_AUTO, "one device's MPS server only"},
                {SPACE(.untrusted = true), SHARING_AUTO, "not trusted"},
                {SPACE(.temporal = 1), SHARING_AUTO, "in time already"},
                {SPACE(.cap = 50), SHARING_AUTO, "a cap of its own"},
                {TIME(.high = true, .share = 30), SHARING_TEMPORAL, "it was asked"},
                {TIME(.spatial = 2), SHARING_AUTO, "in space already"},
        };

        (void)state;
        for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
                struct sharing_case c = cases[i].c;
                struct sharing_choice choice;

                c.capable = c.available != NO_MPS;
                c.devices = c.devices ?: 1;
                c.available = c.available ?: 100;
                choice = sharing_choose(&c);
                if (choice.sharing != cases[i].wanted || !strstr(choice.why, cases[i].why))
                        fail_msg("case %zu: %s, since %s", i, sharing_word(choice.sharing),
                                choice.why);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_geometry),
                cmocka_unit_test(test_guaranteed),
                cmocka_unit_test(test_best_effort),
                cmocka_unit_test(test_restored),
                cmocka_unit_test(test_parts),
                cmocka_unit_test(test_liar),
                cmocka_unit_test(test_random),
                cmocka_unit_test(test_choice),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
