/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"
#include "policy/mig.h"

#define START(n) (1u << (n))

const char *mig_source_word(enum mig_source source)
{
        static const char *const words[] = {
                [MIG_MEASURED] = "measured",
                [MIG_READ] = "published",
                [MIG_INFERRED] = "inferred",
        };

        return words[source];
}

int mig_profile_find(const struct mig_geometry *geometry, const char *text)
{
        uint64_t id;

        for (unsigned i = 0; i < geometry->n_profiles; i++)
                if (strcmp(geometry->profiles[i].name, text) == 0)
                        return (int)i;
        if (parse_unsigned(text, UINT8_MAX, &id) == 0)
                for (unsigned i = 0; i < geometry->n_profiles; i++)
                        if (geometry->profiles[i].id == id)
                                return (int)i;
        return -ENOENT;
}

unsigned mig_profile_nominal_gb(const struct mig_profile *profile)
{
        const char *dot = strchr(profile->name, '.');

        return dot ? (unsigned)strtoul(dot + 1, NULL, 10) : 0;
}

/* What is taken on a GPU while instances are laid out. */
struct board {
        uint8_t taken; /* a bit for each memory slice */
        bool media;
        uint8_t count[MIG_PROFILES_MAX];
};

static uint8_t slices_of(const struct mig_profile *profile, unsigned start)
{
        return (uint8_t)(((1u << profile->size) - 1) << start);
}

static bool fits(const struct mig_geometry *geometry, const struct board *board, unsigned profile,
        unsigned start)
{
        const struct mig_profile *p = geometry->profiles + profile;

        return (p->starts & START(start)) && !(board->taken & slices_of(p, start)) &&
               board->count[profile] < p->most && !(p->media && board->media);
}

static void put(
        const struct mig_geometry *geometry, struct board *board, unsigned profile, unsigned start)
{
        const struct mig_profile *p = geometry->profiles + profile;

        board->taken |= slices_of(p, start);
        board->media = board->media || p->media;
        board->count[profile]++;
}

/* Placements that are still open, each counted by its compute slices. */
static unsigned open_placements(const struct mig_geometry *geometry, const struct board *board)
{
        unsigned sum = 0;

        for (unsigned p = 0; p < geometry->n_profiles; p++)
                for (unsigned s = 0; s < geometry->slices; s++)
                        if (fits(geometry, board, p, s))
                                sum += geometry->profiles[p].compute;
        return sum;
}

struct score {
        unsigned rest; /* compute, then memory slices of what takes the rest */
        unsigned kept;
        unsigned size, compute;
        unsigned open;
};

static bool better(const struct score *a, const struct score *b)
{
        if (a->rest != b->rest)
                return a->rest > b->rest;
        if (a->kept != b->kept)
                return a->kept > b->kept;
        if (a->size != b->size)
                return a->size < b->size;
        if (a->compute != b->compute)
                return a->compute < b->compute;
        return a->open > b->open;
}

struct search {
        const struct mig_geometry *geometry;
        const struct mig_instance *existing;
        size_t n_existing;
        const struct mig_want *wants;
        size_t n_wants;
        uint8_t order[MIG_SLICES_MAX]; /* wants, those that are hardest to place first */
        bool reuse;                    /* existing instances may serve a wish */
        struct mig_plan at, best;
        struct score best_score;
        bool found;
};

static int existing_at(const struct search *search, unsigned profile, unsigned start)
{
        for (size_t i = 0; i < search->n_existing; i++)
                if (search->existing[i].profile == profile && search->existing[i].start == start &&
                        !search->existing[i].foreign)
                        return (int)i;
        return -1;
}

static void finish(struct search *search, const struct board *board, struct score score)
{
        score.open = open_placements(search->geometry, board);
        if (search->found && !better(&score, &search->best_score))
                return;
        search->found = true;
        search->best = search->at;
        search->best_score = score;
}

/* Wishes that are alike are placed in ascending order, so that no layout is tried twice. */
static unsigned first_placement(const struct search *search, size_t depth)
{
        const struct mig_want *want, *before;
        unsigned last;

        if (depth == 0)
                return 0;
        want = search->wants + search->order[depth];
        before = search->wants + search->order[depth - 1];
        if (want->profiles != before->profiles || want->rest != before->rest)
                return 0;
        last = search->order[depth - 1];
        return search->at.place[last].profile * MIG_SLICES_MAX + search->at.place[last].start + 1;
}

static void place(struct search *search, size_t depth, const struct board *board, uint8_t used,
        struct score score)
{
        const struct mig_geometry *geometry = search->geometry;
        unsigned index;

        if (depth == search->n_wants) {
                finish(search, board, score);
                return;
        }
        index = search->order[depth];
        for (unsigned i = first_placement(search, depth); i < geometry->n_profiles * MIG_SLICES_MAX;
                i++) {
                unsigned profile = i / MIG_SLICES_MAX, start = i % MIG_SLICES_MAX;
                const struct mig_profile *p = geometry->profiles + profile;
                int existing = search->reuse ? existing_at(search, profile, start) : -1;
                struct board next = *board;
                struct score sum = score;

                if (!(search->wants[index].profiles & 1u << profile))
                        continue;
                if (existing >= 0 && (used & 1u << existing))
                        continue;
                /* Busy ones are on the board already. */
                if (existing < 0 || !search->existing[existing].busy) {
                        if (!fits(geometry, board, profile, start))
                                continue;
                        put(geometry, &next, profile, start);
                }
                sum.kept += existing >= 0;
                sum.size += p->size;
                sum.compute += p->compute;
                if (search->wants[index].rest)
                        sum.rest += p->compute * 16u + p->size;
                search->at.place[index].profile = (uint8_t)profile;
                search->at.place[index].start = (uint8_t)start;
                search->at.place[index].existing = (int8_t)existing;
                place(search, depth + 1, &next,
                        existing >= 0 ? (uint8_t)(used | 1u << existing) : used, sum);
        }
}

static unsigned smallest(const struct mig_geometry *geometry, const struct mig_want *want)
{
        unsigned size = MIG_SLICES_MAX;

        for (unsigned p = 0; p < geometry->n_profiles; p++)
                if (want->profiles & 1u << p)
                        size = MIN_OF(size, (unsigned)geometry->profiles[p].size);
        return size;
}

/* Negative: a stands before b. */
static int compare_wants(
        const struct mig_geometry *geometry, const struct mig_want *a, const struct mig_want *b)
{
        if (a->rest != b->rest)
                return a->rest ? 1 : -1;
        if (smallest(geometry, a) != smallest(geometry, b))
                return smallest(geometry, a) > smallest(geometry, b) ? -1 : 1;
        return a->profiles < b->profiles ? -1 : a->profiles > b->profiles;
}

static void order_wants(struct search *search)
{
        for (unsigned i = 0; i < search->n_wants; i++) {
                unsigned j = i;

                for (; j > 0 && compare_wants(search->geometry, search->wants + i,
                                        search->wants + search->order[j - 1]) < 0;
                        j--)
                        search->order[j] = search->order[j - 1];
                search->order[j] = (uint8_t)i;
        }
}

int mig_plan(const struct mig_geometry *geometry, const struct mig_instance *existing,
        size_t n_existing, const struct mig_want *wants, size_t n_wants, enum mig_mode mode,
        struct mig_plan *ret)
{
        struct search search = {
                .geometry = geometry,
                .existing = existing,
                .n_existing = n_existing,
                .wants = wants,
                .n_wants = n_wants,
                .reuse = mode == MIG_REPLACE,
                .at = {.n = (uint8_t)n_wants},
        };
        struct board all = {0}, board = {0};

        if (n_existing > MIG_SLICES_MAX || n_wants > MIG_SLICES_MAX)
                return -EINVAL;
        for (size_t i = 0; i < n_existing; i++) {
                if (existing[i].profile >= geometry->n_profiles ||
                        existing[i].start >= geometry->slices ||
                        !fits(geometry, &all, existing[i].profile, existing[i].start))
                        return -EINVAL;
                put(geometry, &all, existing[i].profile, existing[i].start);
                if (existing[i].busy || existing[i].foreign || mode == MIG_ADD)
                        put(geometry, &board, existing[i].profile, existing[i].start);
        }
        order_wants(&search);
        place(&search, 0, &board, 0, (struct score){0});
        if (!search.found)
                return -ENOSPC;
        for (size_t i = 0; mode == MIG_REPLACE && i < n_existing; i++) {
                bool kept = false;

                for (size_t j = 0; j < n_wants; j++)
                        kept = kept || search.best.place[j].existing == (int)i;
                if (!kept && (existing[i].busy || existing[i].foreign))
                        search.best.extra |= (uint8_t)(1u << i);
                else if (!kept)
                        search.best.destroy |= (uint8_t)(1u << i);
        }
        *ret = search.best;
        return 0;
}

unsigned mig_room(const struct mig_geometry *geometry, const struct mig_instance *existing,
        size_t n_existing, unsigned profile, bool repacked)
{
        struct mig_want wants[MIG_SLICES_MAX];
        struct mig_plan plan;
        size_t n = repacked ? n_existing : 0, room = 0;

        for (size_t i = 0; i < n; i++)
                wants[i] = (struct mig_want){.profiles = 1u << existing[i].profile};
        while (n + room < MIG_SLICES_MAX) {
                wants[n + room] = (struct mig_want){.profiles = 1u << profile};
                if (mig_plan(geometry, repacked ? NULL : existing, repacked ? 0 : n_existing, wants,
                            n + room + 1, MIG_ADD, &plan) < 0)
                        break;
                room++;
        }
        return (unsigned)room;
}

struct walk {
        const struct mig_geometry *geometry;
        uint32_t profiles;
        void (*each)(void *context, const struct mig_instance *layout, size_t n);
        void *context;
        struct mig_instance layout[MIG_SLICES_MAX];
        size_t found;
};

/* Lays instances from slice `from` on, each to the right of the one before. */
static void walk_layouts(struct walk *walk, const struct board *board, unsigned from, size_t n)
{
        const struct mig_geometry *geometry = walk->geometry;
        bool open = false;

        for (unsigned s = 0; s < geometry->slices; s++)
                for (unsigned p = 0; p < geometry->n_profiles; p++) {
                        struct board next = *board;

                        if (!(walk->profiles & 1u << p) || !fits(geometry, board, p, s))
                                continue;
                        open = true;
                        if (s < from)
                                continue;
                        put(geometry, &next, p, s);
                        walk->layout[n] =
                                (struct mig_instance){.profile = (uint8_t)p, .start = (uint8_t)s};
                        walk_layouts(walk, &next, s + geometry->profiles[p].size, n + 1);
                }
        if (open)
                return;
        walk->found++;
        if (walk->each)
                walk->each(walk->context, walk->layout, n);
}

size_t mig_layouts(const struct mig_geometry *geometry, uint32_t profiles,
        void (*each)(void *context, const struct mig_instance *layout, size_t n), void *context)
{
        struct walk walk = {
                .geometry = geometry,
                .profiles = profiles,
                .each = each,
                .context = context,
        };

        walk_layouts(&walk, &(struct board){0}, 0, 0);
        return walk.found;
}

/* The profiles that hold so many bytes with the least waste of slices: the others stay allowed, as
 * a layout may need one of them; the plan prefers the fewest slices. */
static int profiles_of_size(const struct mig_geometry *geometry, const char *text, uint32_t *ret,
        struct cleave_error *error)
{
        uint32_t profiles = 0;
        uint64_t bytes;
        bool whole;
        int r;

        r = parse_size(text, &bytes, error);
        if (r < 0)
                return r;
        if (bytes == 0)
                return error_set(error, CLEAVE_REASON_BAD_SIZE, "an instance of no memory");
        whole = bytes % (1ull << 30) == 0;
        for (unsigned i = 0; i < geometry->n_profiles; i++) {
                const struct mig_profile *p = geometry->profiles + i;
                uint64_t nominal = (uint64_t)mig_profile_nominal_gb(p) << 30;
                uint64_t usable = (uint64_t)p->memory_mib << 20;

                if (whole || usable == 0 ? nominal >= bytes : usable >= bytes)
                        profiles |= 1u << i;
        }
        if (!profiles)
                return error_set(error, CLEAVE_REASON_BEYOND_DEVICE,
                        "no instance of the %s has %s of memory", geometry->name, text);
        *ret = profiles;
        return 0;
}

static int want_parse(const struct mig_geometry *geometry, const char *what, struct mig_want *ret,
        struct cleave_error *error)
{
        int index = mig_profile_find(geometry, what);

        *ret = (struct mig_want){0};
        if (strcmp(what, "rest") == 0) {
                ret->rest = true;
                ret->profiles = (1u << geometry->n_profiles) - 1;
                return 0;
        }
        if (index >= 0) {
                ret->profiles = 1u << index;
                return 0;
        }
        if (strchr(what, '.') && strstr(what, "gb"))
                return error_set(error, CLEAVE_REASON_BAD_REQUEST, "the %s has no profile %s",
                        geometry->name, what);
        return profiles_of_size(geometry, what, &ret->profiles, error);
}

int mig_wants_parse(const struct mig_geometry *geometry, const char *text,
        struct mig_want ret[static MIG_SLICES_MAX], struct cleave_error *error)
{
        _cleanup_free_ char *copy = strdup(text);
        char *rest = copy, *item;
        struct mig_want wants[MIG_SLICES_MAX];
        bool has_rest = false;
        size_t n = 0;
        int r;

        if (!copy)
                return error_set_errno(error, ENOMEM, "cannot read the wishes");
        while ((item = strsep(&rest, ","))) {
                struct mig_want want;
                uint64_t count = 1;
                char *x;

                item += strspn(item, " ");
                x = item + strspn(item, "0123456789");
                x += strspn(x, " ");
                if (x > item && (*x == 'x' || *x == '*')) {
                        char *what = x + 1 + strspn(x + 1, " ");

                        item[strspn(item, "0123456789")] = '\0';
                        if (parse_unsigned(item, 100, &count) < 0 || count == 0)
                                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                                        "'%s' is no number of instances", item);
                        item = what;
                }
                item[strcspn(item, " ")] = '\0';
                r = want_parse(geometry, item, &want, error);
                if (r < 0)
                        return r;
                if (want.rest && (has_rest || count != 1))
                        return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                                "the rest can be given once only");
                has_rest = has_rest || want.rest;
                if (n + count > geometry->slices) {
                        r = error_set(error, CLEAVE_REASON_BEYOND_DEVICE,
                                "%llu instances are more than the %s has slices (%u)",
                                (unsigned long long)(n + count), geometry->name, geometry->slices);
                        return r < 0 ? -E2BIG : r;
                }
                while (count--)
                        wants[n++] = want;
        }
        memcpy(ret, wants, n * sizeof(*wants));
        return (int)n;
}
