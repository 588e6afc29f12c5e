/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"
#include "policy/mig.h"

/* NVML_GPU_INSTANCE_PROFILE_*; the order of the rows below. */
enum {
        PROFILE_1 = 0,
        PROFILE_2 = 1,
        PROFILE_3 = 2,
        PROFILE_4 = 3,
        PROFILE_7 = 4,
        PROFILE_1_ME = 7,
        PROFILE_2_ME = 8,
        PROFILE_1_2X = 9,
};

#define START(n) (1u << (n))

/*
 * The seven profiles of a GPU with eight memory slices. Ids, sizes and starts are those that
 * nvidia-smi mig -lgip and -lgipp show on A100, H100 and H100 NVL; on an H100 80GB the driver
 * itself gave them through NVML.
 */
#define EIGHT(n1, m1, s1, n2x, m2x, s2x, n2, m2, s2, n3, m3, s3, n4, m4, s4, n7, m7, s7)           \
        .slices = 8, .n_profiles = 7,                                                              \
        .profiles = {                                                                              \
                {n1, PROFILE_1, 19, 1, 1, 7, false, 0x7f, s1, m1},                                 \
                {n1 "+me", PROFILE_1_ME, 20, 1, 1, 1, true, 0x7f, s1, m1},                         \
                {n2x, PROFILE_1_2X, 15, 2, 1, 4, false, START(0) | START(2) | START(4) | START(6), \
                        s2x, m2x},                                                                 \
                {n2, PROFILE_2, 14, 2, 2, 3, false, START(0) | START(2) | START(4), s2, m2},       \
                {n3, PROFILE_3, 9, 4, 3, 2, false, START(0) | START(4), s3, m3},                   \
                {n4, PROFILE_4, 5, 4, 4, 1, false, START(0), s4, m4},                              \
                {n7, PROFILE_7, 0, 8, 7, 1, true, START(0), s7, m7},                               \
        }

const struct mig_geometry mig_geometries[] = {
        {
                .key = "a100-40",
                .name = "A100 40GB",
                .starts_from = MIG_READ,
                .figures_from = MIG_READ,
                .devices = {0x20b0, 0x20b1, 0x20f1, 0x20f6},
                EIGHT("1g.5gb", 4864, 14, "1g.10gb", 9856, 14, "2g.10gb", 9856, 28, "3g.20gb",
                        19968, 42, "4g.20gb", 19968, 56, "7g.40gb", 40192, 98),
        },
        {
                .key = "a100-80",
                .name = "A100 80GB",
                .starts_from = MIG_READ,
                .figures_from = MIG_READ,
                .devices = {0x20b2, 0x20b5, 0x20f3, 0x20f5},
                EIGHT("1g.10gb", 9728, 14, "1g.20gb", 19968, 14, "2g.20gb", 19968, 28, "3g.40gb",
                        40192, 42, "4g.40gb", 40192, 56, "7g.80gb", 80384, 98),
        },
        {
                .key = "a30",
                .name = "A30",
                .slices = 4,
                .starts_from = MIG_READ,
                .figures_from = MIG_READ,
                .devices = {0x20b7},
                .n_profiles = 5,
                .profiles =
                        {
                                {"1g.6gb", PROFILE_1, 14, 1, 1, 4, false, 0x0f, 14, 5952},
                                {"1g.6gb+me", PROFILE_1_ME, 21, 1, 1, 1, true, 0x0f, 14, 5952},
                                {"2g.12gb", PROFILE_2, 5, 2, 2, 2, false, START(0) | START(2), 28,
                                        11968},
                                {"2g.12gb+me", PROFILE_2_ME, 6, 2, 2, 1, true, START(0) | START(2),
                                        28, 11968},
                                {"4g.24gb", PROFILE_4, 0, 4, 4, 1, true, START(0), 56, 24000},
                        },
        },
        {
                .key = "h100-80",
                .name = "H100 80GB",
                .starts_from = MIG_MEASURED,
                .figures_from = MIG_MEASURED,
                .devices = {0x2330, 0x2331, 0x2322, 0x2324},
                EIGHT("1g.10gb", 9984, 16, "1g.20gb", 20096, 26, "2g.20gb", 20096, 32, "3g.40gb",
                        40448, 60, "4g.40gb", 40448, 64, "7g.80gb", 0, 132),
        },
        {
                .key = "h100-nvl",
                .name = "H100 NVL 94GB",
                .starts_from = MIG_READ,
                .figures_from = MIG_READ,
                .devices = {0x2321, 0x233a},
                EIGHT("1g.12gb", 10880, 16, "1g.24gb", 22016, 26, "2g.24gb", 22016, 32, "3g.47gb",
                        47206, 60, "4g.47gb", 47206, 64, "7g.94gb", 95360, 132),
        },
        {
                .key = "h100-96",
                .name = "H100 96GB, GH200 96GB",
                .starts_from = MIG_INFERRED,
                .figures_from = MIG_READ,
                .devices = {0x2342, 0x233d},
                EIGHT("1g.12gb", 11264, 16, "1g.24gb", 23552, 26, "2g.24gb", 23552, 32, "3g.48gb",
                        47616, 60, "4g.48gb", 47616, 64, "7g.96gb", 95232, 132),
        },
        {
                .key = "h200",
                .name = "H200 141GB",
                .starts_from = MIG_INFERRED,
                .figures_from = MIG_READ,
                .devices = {0x2335, 0x233b},
                EIGHT("1g.18gb", 16384, 16, "1g.35gb", 33024, 26, "2g.35gb", 33024, 32, "3g.71gb",
                        71168, 60, "4g.71gb", 71168, 64, "7g.141gb", 143360, 132),
        },
        {
                .key = "gh200-144",
                .name = "GH200 144GB",
                .starts_from = MIG_INFERRED,
                .figures_from = MIG_READ,
                .devices = {0x2348},
                EIGHT("1g.18gb", 17920, 16, "1g.36gb", 36096, 26, "2g.36gb", 36096, 32, "3g.72gb",
                        0, 60, "4g.72gb", 0, 64, "7g.144gb", 0, 132),
        },
        {
                .key = "b200",
                .name = "B200 180GB",
                .starts_from = MIG_INFERRED,
                .figures_from = MIG_READ,
                .devices = {0x2901},
                EIGHT("1g.23gb", 20992, 18, "1g.45gb", 45312, 30, "2g.45gb", 45312, 36, "3g.90gb",
                        0, 0, "4g.90gb", 0, 0, "7g.180gb", 0, 0),
        },
        {
                .key = "gb200",
                .name = "GB200 186GB",
                .starts_from = MIG_INFERRED,
                .figures_from = MIG_READ,
                .devices = {0x2941},
                EIGHT("1g.23gb", 20480, 18, "1g.47gb", 46592, 32, "2g.47gb", 46592, 38, "3g.93gb",
                        0, 0, "4g.93gb", 0, 0, "7g.186gb", 0, 0),
        },
};
const size_t mig_n_geometries = ARRAY_SIZE(mig_geometries);

const char *mig_source_word(enum mig_source source)
{
        static const char *const words[] = {
                [MIG_MEASURED] = "measured",
                [MIG_READ] = "published",
                [MIG_INFERRED] = "inferred",
        };

        return words[source];
}

const struct mig_geometry *mig_geometry_find(const char *key)
{
        for (size_t i = 0; i < mig_n_geometries; i++)
                if (strcmp(mig_geometries[i].key, key) == 0)
                        return mig_geometries + i;
        return NULL;
}

const struct mig_geometry *mig_geometry_of_pci(uint16_t vendor, uint16_t device)
{
        if (vendor != 0x10de)
                return NULL;
        for (size_t i = 0; i < mig_n_geometries; i++)
                for (size_t j = 0; j < ARRAY_SIZE(mig_geometries[i].devices); j++)
                        if (mig_geometries[i].devices[j] == device && device != 0)
                                return mig_geometries + i;
        return NULL;
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
                if (search->existing[i].profile == profile && search->existing[i].start == start)
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
                if (existing[i].busy || mode == MIG_ADD)
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
                if (!kept && existing[i].busy)
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
