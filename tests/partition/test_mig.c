/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The planner of MIG layouts against an exhaustive search that shares no code with it: all sets of
 * placements that do not overlap are listed first, then every mix is looked up in that list.
 */
#include "policy/mig.h"
#include "unit.h"

#define LAYOUTS_MAX 20000

struct layout {
        uint8_t n, taken;
        struct mig_instance at[MIG_SLICES_MAX];
        uint8_t count[MIG_PROFILES_MAX];
        unsigned open;
};

static struct layout layouts[LAYOUTS_MAX];
static size_t n_layouts;

static bool may_stand(const struct mig_geometry *g, const struct layout *l, unsigned p, unsigned s)
{
        unsigned media = 0;

        for (unsigned i = 0; i < l->n; i++)
                media += g->profiles[l->at[i].profile].media;
        if (!(g->profiles[p].starts >> s & 1) || l->count[p] == g->profiles[p].most ||
                (media && g->profiles[p].media))
                return false;
        for (unsigned k = s; k < s + g->profiles[p].size; k++)
                if (l->taken >> k & 1)
                        return false;
        return true;
}

static unsigned open_of(const struct mig_geometry *g, const struct layout *l)
{
        unsigned sum = 0;

        for (unsigned p = 0; p < g->n_profiles; p++)
                for (unsigned s = 0; s < MIG_SLICES_MAX; s++)
                        if (may_stand(g, l, p, s))
                                sum += g->profiles[p].compute;
        return sum;
}

/* Every set of placements, each once: slice by slice, an instance begins there or none does. */
static void list_layouts(const struct mig_geometry *g, struct layout l, unsigned slice)
{
        if (slice == g->slices) {
                assert_true(n_layouts < LAYOUTS_MAX);
                l.open = open_of(g, &l);
                layouts[n_layouts++] = l;
                return;
        }
        list_layouts(g, l, slice + 1);
        for (unsigned p = 0; p < g->n_profiles; p++) {
                struct layout next = l;

                if (!may_stand(g, &l, p, slice))
                        continue;
                next.at[next.n++] =
                        (struct mig_instance){.profile = (uint8_t)p, .start = (uint8_t)slice};
                next.count[p]++;
                for (unsigned k = slice; k < slice + g->profiles[p].size; k++)
                        next.taken |= (uint8_t)(1u << k);
                list_layouts(g, next, slice + 1);
        }
}

static bool contains(const struct layout *whole, const struct layout *part)
{
        for (unsigned i = 0; i < part->n; i++) {
                bool found = false;

                for (unsigned j = 0; j < whole->n; j++)
                        found = found || (whole->at[j].profile == part->at[i].profile &&
                                                 whole->at[j].start == part->at[i].start);
                if (!found)
                        return false;
        }
        return true;
}

/* What the planner gives is a layout of the list, and holds exactly what was wished for. */
static void check_plan(const struct mig_geometry *g, const struct layout *base,
        const struct mig_plan *plan, const uint8_t *mix, unsigned best_open)
{
        struct layout l = *base;

        for (unsigned i = 0; i < plan->n; i++) {
                unsigned p = plan->place[i].profile, s = plan->place[i].start;

                assert_true(may_stand(g, &l, p, s));
                l.at[l.n++] = (struct mig_instance){.profile = (uint8_t)p, .start = (uint8_t)s};
                l.count[p]++;
                for (unsigned k = s; k < s + g->profiles[p].size; k++)
                        l.taken |= (uint8_t)(1u << k);
        }
        for (unsigned p = 0; p < g->n_profiles; p++)
                assert_int_equal(l.count[p] - base->count[p], mix[p]);
        assert_int_equal(open_of(g, &l), best_open);
}

/* Plans one mix beside base and compares with the list. */
static void compare_mix(const struct mig_geometry *g, const struct layout *base, const uint8_t *mix)
{
        struct mig_want wants[MIG_SLICES_MAX];
        struct mig_plan plan;
        unsigned best = 0, n = 0;
        bool exists = false;
        int r;

        for (unsigned p = 0; p < g->n_profiles; p++)
                for (unsigned i = 0; i < mix[p]; i++) {
                        if (n == MIG_SLICES_MAX)
                                return;
                        wants[n++] = (struct mig_want){.profiles = 1u << p};
                }
        for (size_t i = 0; i < n_layouts; i++) {
                const struct layout *l = layouts + i;
                bool same = l->n == base->n + n;

                for (unsigned p = 0; same && p < g->n_profiles; p++)
                        same = l->count[p] == base->count[p] + mix[p];
                if (!same || !contains(l, base))
                        continue;
                best = exists && best > l->open ? best : l->open;
                exists = true;
        }
        r = mig_plan(g, base->at, base->n, wants, n, MIG_ADD, &plan);
        assert_int_equal(r, exists ? 0 : -ENOSPC);
        if (exists)
                check_plan(g, base, &plan, mix, best);
}

/* Every mix that has at most `slices` slices more than there are, so that refusals are seen too. */
static unsigned every_mix(const struct mig_geometry *g, const struct layout *base, uint8_t *mix,
        unsigned profile, unsigned slices)
{
        unsigned tried = 0;

        if (profile == g->n_profiles) {
                compare_mix(g, base, mix);
                return 1;
        }
        for (unsigned n = 0;
                n * g->profiles[profile].size <= slices && n <= g->profiles[profile].most + 1u;
                n++) {
                mix[profile] = (uint8_t)n;
                tried += every_mix(
                        g, base, mix, profile + 1, slices - n * g->profiles[profile].size);
        }
        mix[profile] = 0;
        return tried;
}

static void every_mix_on_every_geometry(void **state)
{
        for (size_t i = 0; i < mig_n_geometries; i++) {
                const struct mig_geometry *g = mig_geometries + i;
                uint8_t mix[MIG_PROFILES_MAX] = {0};

                n_layouts = 0;
                list_layouts(g, (struct layout){0}, 0);
                assert_true(every_mix(g, &(struct layout){0}, mix, 0, g->slices + 1u) > 20);
        }
}

static void every_mix_beside_every_layout_in_use(void **state)
{
        static const char *const keys[] = {"a30", "h100-80"};

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                const struct mig_geometry *g = mig_geometry_find(keys[i]);
                uint8_t mix[MIG_PROFILES_MAX] = {0};

                n_layouts = 0;
                list_layouts(g, (struct layout){0}, 0);
                assert_true(n_layouts > 20);
                for (size_t j = 0; j < n_layouts; j++)
                        every_mix(g, layouts + j, mix, 0,
                                (unsigned)(g->slices - __builtin_popcount(layouts[j].taken)));
        }
}

struct tally {
        size_t n, mixes;
        uint64_t seen[256];
};

static void count_mix(void *context, const struct mig_instance *layout, size_t n)
{
        struct tally *tally = context;
        uint64_t mix = 0;

        for (size_t i = 0; i < n; i++)
                mix += 1ull << 8 * layout[i].profile;
        tally->n++;
        for (size_t i = 0; i < tally->mixes; i++)
                if (tally->seen[i] == mix)
                        return;
        tally->seen[tally->mixes++] = mix;
}

/* The vendor draws 19 layouts of 14 mixes for the A100; its A30 has 5. */
static void numbers_of_layouts_are_the_vendors(void **state)
{
        static const struct {
                const char *key, *profiles[7];
                size_t layouts, mixes;
        } cases[] = {
                {"a100-40", {"1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"}, 19, 14},
                {"h100-80", {"1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"}, 19, 14},
                {"h100-80", {"1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"}, 78,
                        38},
                {"a30", {"1g.6gb", "2g.12gb", "4g.24gb"}, 5, 4},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const struct mig_geometry *g = mig_geometry_find(cases[i].key);
                struct tally tally = {0};
                uint32_t profiles = 0;

                for (size_t j = 0; cases[i].profiles[j]; j++)
                        profiles |= 1u << mig_profile_find(g, cases[i].profiles[j]);
                assert_int_equal(mig_layouts(g, profiles, count_mix, &tally), cases[i].layouts);
                assert_int_equal(tally.n, cases[i].layouts);
                assert_int_equal(tally.mixes, cases[i].mixes);
        }
}

static int plan_text(const struct mig_geometry *g, const struct mig_instance *existing, size_t n,
        const char *text, enum mig_mode mode, struct mig_plan *ret)
{
        struct mig_want wants[MIG_SLICES_MAX];
        int count = mig_wants_parse(g, text, wants, NULL);

        assert_true(count >= 0);
        return mig_plan(g, existing, n, wants, (size_t)count, mode, ret);
}

/* First fit fails the order in which these are asked for. */
static void an_order_that_first_fit_fails_is_laid_out(void **state)
{
        const struct mig_geometry *g = mig_geometry_find("h100-80");
        struct mig_plan plan;

        assert_int_equal(plan_text(g, NULL, 0, "19,19,14,9", MIG_ADD, &plan), 0);
        assert_int_equal(plan_text(g, NULL, 0, "7x1g.10gb", MIG_ADD, &plan), 0);
        assert_int_equal(plan_text(g, NULL, 0, "4g.40gb,3g.40gb", MIG_ADD, &plan), 0);
        assert_int_equal(plan.place[0].start, 0);
        assert_int_equal(plan.place[1].start, 4);
        assert_int_equal(plan_text(g, NULL, 0, "4g.40gb,4g.40gb", MIG_ADD, &plan), -ENOSPC);
        assert_int_equal(plan_text(g, NULL, 0, "1g.10gb+me,7x1g.10gb", MIG_ADD, &plan), -ENOSPC);
}

static void wishes_by_need(void **state)
{
        const struct mig_geometry *g = mig_geometry_find("h100-80");
        struct mig_plan plan;

        /* Three small ones leave room for a half of the card, if they stand together. */
        assert_int_equal(plan_text(g, NULL, 0, "3x10G,rest", MIG_ADD, &plan), 0);
        assert_string_equal(g->profiles[plan.place[3].profile].name, "4g.40gb");
        for (unsigned i = 0; i < 3; i++)
                assert_string_equal(g->profiles[plan.place[i].profile].name, "1g.10gb");
        /* A 1g.10gb has 9.75 GiB to use: asked for exactly, it takes the next larger. */
        assert_int_equal(plan_text(g, NULL, 0, "9984M", MIG_ADD, &plan), 0);
        assert_string_equal(g->profiles[plan.place[0].profile].name, "1g.10gb");
        assert_int_equal(plan_text(g, NULL, 0, "9985M", MIG_ADD, &plan), 0);
        assert_string_equal(g->profiles[plan.place[0].profile].name, "1g.20gb");
        assert_int_equal(plan_text(g, NULL, 0, "rest", MIG_ADD, &plan), 0);
        assert_string_equal(g->profiles[plan.place[0].profile].name, "7g.80gb");
        /* 0 is the driver's id of the whole card. */
        assert_int_equal(plan_text(g, NULL, 0, "0", MIG_ADD, &plan), 0);
        assert_string_equal(g->profiles[plan.place[0].profile].name, "7g.80gb");
}

static void senseless_wishes_are_refused_each_with_its_sentence(void **state)
{
        static const struct {
                const char *text, *message;
                int r;
        } cases[] = {
                {"9g.99gb", "the H100 80GB has no profile 9g.99gb", -EINVAL},
                {"90G", "no instance of the H100 80GB has 90G of memory", -EFBIG},
                {"9x1g.10gb", "9 instances are more than the H100 80GB has slices (8)", -E2BIG},
                {"rest,rest", "the rest can be given once only", -EINVAL},
                {"2xrest", "the rest can be given once only", -EINVAL},
                {"0x10G", "'0' is no number of instances", -EINVAL},
                {"", "an empty size was given", -EINVAL},
        };
        const struct mig_geometry *g = mig_geometry_find("h100-80");
        struct mig_want wants[MIG_SLICES_MAX];

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                int r = mig_wants_parse(g, cases[i].text, wants, &error);

                assert_int_equal(r, cases[i].r);
                assert_string_equal(error_message(&error), cases[i].message);
        }
}

static void a_new_layout_keeps_what_is_in_use(void **state)
{
        const struct mig_geometry *g = mig_geometry_find("h100-80");
        uint8_t one = (uint8_t)mig_profile_find(g, "1g.10gb");
        uint8_t two = (uint8_t)mig_profile_find(g, "2g.20gb");
        const struct mig_instance existing[] = {
                {.profile = one, .start = 5, .busy = true},
                {.profile = one, .start = 1},
                {.profile = two, .start = 2},
        };
        struct mig_plan plan;

        /* The 3g goes where nothing is in use; the idle 2g there has to make room. */
        assert_int_equal(plan_text(g, existing, 3, "3g.40gb,1g.10gb", MIG_REPLACE, &plan), 0);
        assert_int_equal(plan.place[0].start, 0);
        assert_int_equal(plan.place[0].existing, -1);
        assert_int_equal(plan.place[1].existing, 0);
        assert_int_equal(plan.destroy, 1u << 1 | 1u << 2);
        assert_int_equal(plan.extra, 0);
        /* What already is there is left alone. */
        assert_int_equal(
                plan_text(g, existing, 3, "2g.20gb,1g.10gb,1g.10gb", MIG_REPLACE, &plan), 0);
        assert_int_equal(plan.destroy, 0);
        for (unsigned i = 0; i < 3; i++)
                assert_true(plan.place[i].existing >= 0);
        /* One in use that was not wished for stays, and is said. */
        assert_int_equal(plan_text(g, existing, 3, "3g.40gb", MIG_REPLACE, &plan), 0);
        assert_int_equal(plan.extra, 1u << 0);
        /* It stands in the way of the whole card, and of two halves. */
        assert_int_equal(plan_text(g, existing, 3, "7g.80gb", MIG_REPLACE, &plan), -ENOSPC);
        assert_int_equal(plan_text(g, existing, 3, "2x3g.40gb", MIG_REPLACE, &plan), -ENOSPC);
        /* Beside everything, nothing is reused. */
        assert_int_equal(plan_text(g, existing, 3, "3g.40gb", MIG_ADD, &plan), -ENOSPC);
        assert_int_equal(plan_text(g, existing, 3, "1g.10gb", MIG_ADD, &plan), 0);
        assert_int_equal(plan.place[0].existing, -1);
        assert_int_equal(plan.place[0].start, 0);
}

/* The layout that a fielded plugin got into: three small ones block the half of a card. */
static void fragmentation_is_told(void **state)
{
        const struct mig_geometry *g = mig_geometry_find("a100-40");
        const struct mig_instance existing[] = {{.start = 0}, {.start = 1}, {.start = 5}};
        unsigned half = (unsigned)mig_profile_find(g, "3g.20gb");

        assert_int_equal(mig_room(g, existing, 3, half, false), 0);
        assert_int_equal(mig_room(g, existing, 3, half, true), 1);
        assert_int_equal(mig_room(g, existing, 3, 0, false), 4);
        assert_int_equal(mig_room(g, NULL, 0, half, false), 2);
}

static void nonsense_is_refused(void **state)
{
        const struct mig_geometry *g = mig_geometry_find("a100-40");
        const struct mig_instance overlap[] = {{.profile = 3, .start = 0}, {.start = 1}};
        const struct mig_instance wrong[] = {{.profile = 3, .start = 1}};
        const struct mig_instance beyond[] = {{.profile = 99}};
        struct mig_plan plan;

        assert_int_equal(mig_plan(g, overlap, 2, NULL, 0, MIG_ADD, &plan), -EINVAL);
        assert_int_equal(mig_plan(g, wrong, 1, NULL, 0, MIG_ADD, &plan), -EINVAL);
        assert_int_equal(mig_plan(g, beyond, 1, NULL, 0, MIG_ADD, &plan), -EINVAL);
        assert_null(mig_geometry_find("h100"));
        assert_null(mig_geometry_of_pci(0x1002, 0x2330));
        assert_null(mig_geometry_of_pci(0x10de, 0));
        assert_string_equal(mig_geometry_of_pci(0x10de, 0x2330)->key, "h100-80");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_mix_on_every_geometry),
                cmocka_unit_test(every_mix_beside_every_layout_in_use),
                cmocka_unit_test(numbers_of_layouts_are_the_vendors),
                cmocka_unit_test(an_order_that_first_fit_fails_is_laid_out),
                cmocka_unit_test(wishes_by_need),
                cmocka_unit_test(senseless_wishes_are_refused_each_with_its_sentence),
                cmocka_unit_test(a_new_layout_keeps_what_is_in_use),
                cmocka_unit_test(fragmentation_is_told),
                cmocka_unit_test(nonsense_is_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
