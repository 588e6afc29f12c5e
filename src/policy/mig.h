/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the instances of a GPU cut by MIG can lie, and which layout serves a wish.
 *
 * A GPU instance takes `size` neighbouring memory slices from one of its profile's starts on.
 * Whether instances fit together is decided by these slices, by how many of a profile there may be
 * and by the one set of media engines that "+me" profiles share. The search is exact: where a
 * layout exists it is found. All functions are pure.
 *
 * A machine's own driver is asked first (profiles, starts, sizes); the tables stand in where there
 * is no driver, and are compared with the driver where there is one.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define MIG_SLICES_MAX   8
#define MIG_PROFILES_MAX 16
#define MIG_NAME_MAX     24

/* Where a figure comes from. */
enum mig_source {
        MIG_MEASURED, /* asked of the driver on such a card */
        MIG_READ,     /* published output of the vendor's tools */
        MIG_INFERRED, /* concluded from a card of the same geometry */
};
const char *mig_source_word(enum mig_source source);

struct mig_profile {
        char name[MIG_NAME_MAX]; /* "1g.10gb+me" */
        uint8_t number;          /* NVML's enumeration, the same on all GPUs */
        uint8_t id;              /* the driver's, as nvidia-smi shows it; differs by GPU */
        uint8_t size;            /* memory slices */
        uint8_t compute;         /* compute slices */
        uint8_t most;            /* instances of it at a time */
        bool media;              /* takes the one set of JPEG and optical-flow engines */
        uint16_t starts;         /* a bit for each memory slice it may begin at */
        uint16_t sms;            /* multiprocessors; 0: not known */
        uint32_t memory_mib;     /* usable; 0: not known */
};

struct mig_geometry {
        char key[24];  /* "h100-80", as users give it */
        char name[40]; /* "H100 80GB" */
        uint8_t slices;
        enum mig_source starts_from, figures_from;
        uint16_t devices[8]; /* PCI device ids of vendor 10de, 0 ends */
        uint8_t n_profiles;
        struct mig_profile profiles[MIG_PROFILES_MAX]; /* smallest first */
};

/* The tables, in order of age. */
extern const struct mig_geometry mig_geometries[];
extern const size_t mig_n_geometries;

/* NULL: not known, or not capable of MIG. */
const struct mig_geometry *mig_geometry_find(const char *key);
const struct mig_geometry *mig_geometry_of_pci(uint16_t vendor, uint16_t device);

/* Index of the profile by name ("1g.10gb") or, where text is a number, by the driver's id.
 * -ENOENT. */
int mig_profile_find(const struct mig_geometry *geometry, const char *text);
/* The gigabytes in a profile's name. */
unsigned mig_profile_nominal_gb(const struct mig_profile *profile);

/* An instance that exists. */
struct mig_instance {
        uint8_t profile; /* index in the geometry */
        uint8_t start;
        bool busy;    /* cannot be destroyed now */
        bool foreign; /* somebody else's: stays, and serves no wish of ours */
};

/* One instance that is wished for. */
struct mig_want {
        uint32_t profiles; /* a bit for each profile that will do */
        bool rest;         /* as large as what the others leave allows */
};

enum mig_mode {
        MIG_ADD,     /* everything that exists stays, the wishes come beside it */
        MIG_REPLACE, /* the wishes are the whole; idle instances may go, busy ones stay */
};

struct mig_plan {
        uint8_t n; /* of the wishes, in their order */
        struct {
                uint8_t profile, start;
                int8_t existing; /* index of the instance that is kept for it, or -1: created */
        } place[MIG_SLICES_MAX];
        uint8_t destroy; /* a bit for each existing instance that has to go */
        uint8_t extra; /* a bit for each busy or foreign one that nobody wished for, and that stays
                        */
};

/*
 * The best layout. In this order: the largest rest; most of what exists kept; fewest slices taken;
 * the most placements left open for later, each counted by its compute slices; lowest starts.
 * 0. -ENOSPC: there is none, whatever the order. -EINVAL: the existing ones cannot exist together,
 * or more than MIG_SLICES_MAX of something.
 */
int mig_plan(const struct mig_geometry *geometry, const struct mig_instance *existing,
        size_t n_existing, const struct mig_want *wants, size_t n_wants, enum mig_mode mode,
        struct mig_plan *ret);

/* How many more instances of a profile fit beside the existing ones; repacked: if these could be
 * moved. What differs between the two is lost to fragmentation. */
unsigned mig_room(const struct mig_geometry *geometry, const struct mig_instance *existing,
        size_t n_existing, unsigned profile, bool repacked);

/* Calls each for every layout to which nothing of `profiles` can be added. Their number. */
size_t mig_layouts(const struct mig_geometry *geometry, uint32_t profiles,
        void (*each)(void *context, const struct mig_instance *layout, size_t n), void *context);

/*
 * Reads wishes: items separated by commas, each "[COUNT x] WHAT", WHAT one of
 *   a profile's name or the driver's id      1g.10gb, 19
 *   a size, met by the smallest that does    10G
 *   "rest"                                   once, as large as possible
 * A size in whole G is compared with the gigabytes of a profile's name (a 1g.10gb has somewhat
 * less to use), any other size with what is usable.
 * Returns how many, or -EINVAL, -E2BIG with BAD_SIZE or BAD_REQUEST.
 */
int mig_wants_parse(const struct mig_geometry *geometry, const char *text,
        struct mig_want ret[static MIG_SLICES_MAX], struct cleave_error *error);
