/* SPDX-License-Identifier: Apache-2.0 */
#include "policy/space.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/cleanup.h"

static void clear(struct space_set *set)
{
        *set = (struct space_set){{0}};
}

static void take(struct space_set *set, unsigned unit)
{
        set->word[unit / 64] &= ~(1ull << unit % 64);
}

static void add(struct space_set *set, const struct space_set *more)
{
        for (unsigned i = 0; i < SPACE_UNITS_MAX / 64; i++)
                set->word[i] |= more->word[i];
}

static void subtract(struct space_set *set, const struct space_set *less)
{
        for (unsigned i = 0; i < SPACE_UNITS_MAX / 64; i++)
                set->word[i] &= ~less->word[i];
}

unsigned space_count(const struct space_set *set)
{
        return (unsigned)(__builtin_popcountll(set->word[0]) + __builtin_popcountll(set->word[1]));
}

int space_geometry_check(const struct space_geometry *geometry)
{
        unsigned whole = geometry->units - (geometry->rest != 0);

        if (geometry->units == 0 || geometry->units > SPACE_UNITS_MAX || geometry->step == 0 ||
                geometry->step > 1024 || geometry->rest > 1024 ||
                whole * geometry->step + geometry->rest > geometry->sms)
                return -EINVAL;
        return 0;
}

unsigned space_sms(const struct space_geometry *geometry, const struct space_set *set)
{
        unsigned sms = space_count(set) * geometry->step;

        if (geometry->rest && space_has(set, geometry->units - 1))
                sms += geometry->rest - geometry->step;
        return sms;
}

unsigned space_units_of(const struct space_geometry *geometry, unsigned percent)
{
        unsigned units = (geometry->units * percent + 50) / 100;

        if (units == 0)
                return 1;
        return units < geometry->units ? units : geometry->units;
}

unsigned space_part_of(const struct space_geometry *geometry, unsigned percent)
{
        unsigned part = percent * geometry->units;

        return part < 100 ? part : 0;
}

unsigned space_connections(unsigned percent)
{
        if (percent == 0)
                return SPACE_CONNECTIONS_BEST_EFFORT;
        return MIN_OF(MAX_OF(SPACE_CONNECTIONS * percent / 100, SPACE_CONNECTIONS_LEAST),
                SPACE_CONNECTIONS_MOST);
}

int space_plan_init(struct space_plan *plan, const struct space_geometry *geometry)
{
        int r = space_geometry_check(geometry);

        if (r == 0)
                *plan = (struct space_plan){.geometry = *geometry};
        return r;
}

struct space_tenant *space_find(struct space_plan *plan, uint64_t id)
{
        for (unsigned i = 0; i < plan->tenants; i++)
                if (plan->tenant[i].id == id)
                        return &plan->tenant[i];
        return NULL;
}

/* ---- units in common ---- */

/* The first of those that have their unit in common with a tenant; itself if it has its own. */
static unsigned first_of(const struct space_plan *plan, unsigned i)
{
        for (unsigned k = 0; k < i; k++)
                if (plan->tenant[i].group && plan->tenant[k].group == plan->tenant[i].group)
                        return k;
        return i;
}

static bool share_unit(const struct space_tenant *a, const struct space_tenant *b)
{
        return a->group && a->group == b->group;
}

/* Hundredths of a group's unit that are given out. */
static unsigned given_of(const struct space_plan *plan, unsigned group)
{
        unsigned given = 0;

        for (unsigned i = 0; i < plan->tenants; i++)
                if (plan->tenant[i].group == group)
                        given += plan->tenant[i].part;
        return given;
}

/* The fullest group that has room for it, 0: none has. */
static unsigned group_for(const struct space_plan *plan, unsigned part)
{
        unsigned best = 0, most = 0;

        for (unsigned i = 0; i < plan->tenants; i++) {
                unsigned group = plan->tenant[i].group;
                unsigned given = group ? given_of(plan, group) : 0;

                if (given > most && given + part <= 100) {
                        best = group;
                        most = given;
                }
        }
        return best;
}

static unsigned new_group(const struct space_plan *plan)
{
        unsigned group = 1;

        while (given_of(plan, group) > 0)
                group++;
        return group;
}

/* ---- making the sets ---- */

/* Moves `units` of free to set: from the shortest run of free units that holds them all, at its
 * beginning, so that the long ones stay whole; else the longest runs first. */
static void choose(const struct space_plan *plan, struct space_set *free, unsigned units,
        struct space_set *set)
{
        while (units > 0) {
                unsigned best = 0, best_length = 0;

                for (unsigned i = 0, length; i < plan->geometry.units; i += length + 1) {
                        bool better;

                        for (length = 0;
                                i + length < plan->geometry.units && space_has(free, i + length);)
                                length++;
                        if (best_length >= units)
                                better = length >= units && length < best_length;
                        else
                                better = length > best_length;
                        if (better) {
                                best = i;
                                best_length = length;
                        }
                }
                if (best_length == 0)
                        return;
                for (unsigned i = best; i < best + best_length && units > 0; i++, units--) {
                        space_put(set, i);
                        take(free, i);
                }
        }
}

/* One unit that lies beside the set if there is such, else where a run begins. */
static bool grow(const struct space_plan *plan, struct space_set *free, struct space_set *set)
{
        for (unsigned i = 0; i < plan->geometry.units; i++)
                if (space_has(free, i) &&
                        ((i > 0 && space_has(set, i - 1)) ||
                                (i + 1 < plan->geometry.units && space_has(set, i + 1)))) {
                        space_put(set, i);
                        take(free, i);
                        return true;
                }
        if (space_empty(free))
                return false;
        choose(plan, free, 1, set);
        return true;
}

/* What best-effort tenants hold beyond their sets goes to nobody until they give it back. */
void space_replan(struct space_plan *plan)
{
        struct space_set free, wanted[SPACE_TENANTS_MAX];
        unsigned order[SPACE_TENANTS_MAX], n = plan->tenants, sets = 0;
        bool more = true;

        clear(&free);
        for (unsigned i = 0; i < plan->geometry.units; i++)
                space_put(&free, i);
        /* what contexts live on stays with them */
        for (unsigned i = 0; i < n; i++) {
                const struct space_tenant *t = &plan->tenant[i];
                struct space_set *all = &wanted[first_of(plan, i)];

                clear(&wanted[i]);
                if (!space_empty(&t->held))
                        *all = t->best_effort ? t->held : t->set;
                subtract(&free, all);
        }
        /* largest first, of equals the older; those with a unit in common once */
        for (unsigned i = 0; i < plan->tenants; i++) {
                unsigned at = sets;

                if (first_of(plan, i) != i)
                        continue;
                for (; at > 0 && plan->tenant[order[at - 1]].units < plan->tenant[i].units; at--)
                        order[at] = order[at - 1];
                order[at] = i;
                sets++;
        }
        for (unsigned i = 0; i < sets; i++) {
                unsigned has = space_count(&wanted[order[i]]);
                unsigned units = plan->tenant[order[i]].units;

                if (has < units)
                        choose(plan, &free, units - has, &wanted[order[i]]);
        }
        /* the rest among best-effort tenants, to whoever has least, one by one */
        while (more) {
                struct space_set *least = NULL;

                for (unsigned i = 0; i < n; i++)
                        if (plan->tenant[i].best_effort &&
                                (!least || space_count(&wanted[i]) < space_count(least)))
                                least = &wanted[i];
                more = least && grow(plan, &free, least);
        }
        for (unsigned i = 0; i < n; i++)
                plan->tenant[i].set = wanted[first_of(plan, i)];
}

/* ---- who has what ---- */

unsigned space_available(const struct space_plan *plan, bool held_too)
{
        unsigned used = 0;

        for (unsigned i = 0; i < plan->tenants; i++) {
                const struct space_tenant *t = &plan->tenant[i];
                unsigned held = t->best_effort && !held_too ? space_count(&t->held) : 0;

                if (first_of(plan, i) == i)
                        used += held > t->units ? held : t->units;
        }
        return used < plan->geometry.units ? plan->geometry.units - used : 0;
}

static int check(struct space_plan *plan, uint64_t id, unsigned units)
{
        if (space_find(plan, id))
                return -EEXIST;
        return units == 0 || units > plan->geometry.units ? -EINVAL : 0;
}

static int has_units(const struct space_plan *plan, unsigned units)
{
        if (plan->tenants == SPACE_TENANTS_MAX || units > space_available(plan, true))
                return -ENOSPC;
        return units > space_available(plan, false) ? -EBUSY : 0;
}

int space_admit(struct space_plan *plan, uint64_t id, unsigned units, bool best_effort)
{
        int r;

        if (best_effort)
                units = 1;
        r = check(plan, id, units);
        if (r == 0)
                r = has_units(plan, units);
        if (r < 0)
                return r;
        plan->tenant[plan->tenants++] =
                (struct space_tenant){.id = id, .units = units, .best_effort = best_effort};
        space_replan(plan);
        return 0;
}

int space_admit_part(struct space_plan *plan, uint64_t id, unsigned part)
{
        unsigned group = group_for(plan, part);
        int r = part == 0 || part >= 100 ? -EINVAL : check(plan, id, 1);

        if (r == 0)
                r = has_units(plan, group ? 0 : 1);
        if (r < 0)
                return r;
        plan->tenant[plan->tenants++] = (struct space_tenant){
                .id = id, .units = 1, .part = part, .group = group ?: new_group(plan)};
        space_replan(plan);
        return 0;
}

bool space_has_room(const struct space_plan *plan, unsigned part)
{
        return has_units(plan, group_for(plan, part) ? 0 : 1) == 0;
}

/* group: of those that may have it too */
static int restore(struct space_plan *plan, struct space_tenant tenant, const struct space_set *set)
{
        int r = check(plan, tenant.id, tenant.units);

        if (r < 0)
                return r;
        for (unsigned i = plan->geometry.units; i < SPACE_UNITS_MAX; i++)
                if (space_has(set, i))
                        return -EINVAL;
        for (unsigned i = 0; i < plan->tenants; i++)
                if (!share_unit(&plan->tenant[i], &tenant) && space_meet(&plan->tenant[i].set, set))
                        return -EINVAL;
        if (plan->tenants == SPACE_TENANTS_MAX)
                return -EINVAL;
        if (!(tenant.group && given_of(plan, tenant.group)) &&
                tenant.units > space_available(plan, true))
                return -EINVAL;
        /* held until its processes say what they use */
        tenant.set = tenant.held = *set;
        plan->tenant[plan->tenants++] = tenant;
        return 0;
}

int space_restore(struct space_plan *plan, uint64_t id, unsigned units, bool best_effort,
        const struct space_set *set)
{
        return restore(plan,
                (struct space_tenant){.id = id, .units = units, .best_effort = best_effort}, set);
}

int space_restore_part(
        struct space_plan *plan, uint64_t id, unsigned part, const struct space_set *set)
{
        unsigned group = 0;

        if (part == 0 || part >= 100 || space_count(set) != 1)
                return -EINVAL;
        for (unsigned i = 0; i < plan->tenants && !group; i++)
                if (plan->tenant[i].group && space_equal(&plan->tenant[i].set, set))
                        group = plan->tenant[i].group;
        if (group && given_of(plan, group) + part > 100)
                return -EINVAL;
        return restore(plan,
                (struct space_tenant){
                        .id = id, .units = 1, .part = part, .group = group ?: new_group(plan)},
                set);
}

int space_leave(struct space_plan *plan, uint64_t id)
{
        struct space_tenant *t = space_find(plan, id);

        if (!t)
                return -ENOENT;
        memmove(t, t + 1, (size_t)(plan->tenant + plan->tenants - t - 1) * sizeof(*t));
        plan->tenants--;
        space_replan(plan);
        return 0;
}

int space_hold(struct space_plan *plan, uint64_t id, const struct space_set *held)
{
        struct space_tenant *t = space_find(plan, id);
        struct space_set known = *held;

        if (!t)
                return -ENOENT;
        for (unsigned i = plan->geometry.units; i < SPACE_UNITS_MAX; i++)
                take(&known, i);
        for (unsigned i = 0; i < plan->tenants; i++)
                if (&plan->tenant[i] != t && !share_unit(&plan->tenant[i], t)) {
                        struct space_set theirs = plan->tenant[i].set;

                        add(&theirs, &plan->tenant[i].held);
                        subtract(&known, &theirs);
                }
        t->held = known;
        return 0;
}

/* ---- time or space ---- */

const char *sharing_word(enum sharing sharing)
{
        static const char *const words[] = {
                [SHARING_AUTO] = "auto",
                [SHARING_TEMPORAL] = "temporal",
                [SHARING_SPATIAL] = "spatial",
        };

        return words[sharing];
}

/* First what cannot be otherwise, then what runs already, then what the tenant is like. */
struct sharing_choice sharing_choose(const struct sharing_case *c)
{
#define CHOICE(sharing_, why_) ((struct sharing_choice){sharing_, why_})
        const char *obstacle = NULL;

        if (c->untrusted)
                obstacle = "it is not trusted, and tenants side by side share a fault domain";
        else if (c->devices > 1)
                obstacle = "it has several devices, and a process can be served by one device's "
                           "MPS server only";
        else if (!c->capable)
                obstacle = "the device cannot be shared in space here";
        else if (c->temporal > 0)
                obstacle = "other tenants share the device in time already";
        else if (c->cap)
                obstacle = "a cap of time was asked, and a set of SMs is a cap of its own";
        if (c->asked == SHARING_SPATIAL)
                return obstacle ? CHOICE(SHARING_AUTO, obstacle)
                                : CHOICE(SHARING_SPATIAL, "it was asked");
        if (c->asked == SHARING_TEMPORAL)
                return c->spatial ? CHOICE(SHARING_AUTO,
                                            "other tenants share the device in space already")
                                  : CHOICE(SHARING_TEMPORAL, "it was asked");
        if (obstacle)
                return c->spatial ? CHOICE(SHARING_AUTO, obstacle)
                                  : CHOICE(SHARING_TEMPORAL, obstacle);
        if (c->spatial)
                return CHOICE(SHARING_SPATIAL, "other tenants share the device in space already");
        if (c->share > c->available)
                return CHOICE(SHARING_TEMPORAL, "not so many SMs are free");
        if (c->high && c->part)
                return CHOICE(SHARING_TEMPORAL,
                        "its priority is high, but its share is less than the least set of SMs: it "
                        "would take turns there, too");
        if (c->high && c->share)
                return CHOICE(SHARING_SPATIAL,
                        "its priority is high: on SMs of its own it waits for nobody");
        if (c->high)
                return CHOICE(SHARING_TEMPORAL,
                        "its priority is high, but it has no share to choose SMs by");
        return CHOICE(SHARING_TEMPORAL, "it gets the whole device while others idle");
#undef CHOICE
}
