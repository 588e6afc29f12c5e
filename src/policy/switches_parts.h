/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of the model of an engine's switches (policy/switches.h) to each other. Nobody else
 * includes this.
 */
#pragma once

#include "policy/switches.h"

#define PPM 1000000u
#define MS  1000000u
/* A run that was cut is longer than its slices by the cost of its kind, less this or more. Seen on
 * an H100, for slices of 0.2 to 24 ms: 58 to 115 us, most often 73 or 90, where the cost is 98. */
#define EARLY 45000u
#define BAND  40000u
/* Of shorter slices a run that ends at random ends so rather often. */
#define SLICE_TELLS (4 * (EARLY + BAND))

static inline uint64_t excess(const struct switches *switches, const struct switches_owner *owner)
{
        return owner->thread_block ? switches->costs.idle_ns : switches->costs.cut_ns;
}

static inline uint64_t band(const struct switches_owner *owner)
{
        return BAND + (owner->thread_block ? owner->slice_ns / 40 : 0);
}

static inline int64_t used_of(const struct switches_owner *owner)
{
        return owner->sure_ns + owner->judged_ns;
}

/* switches.c */
/* Somebody else waits for as long as this one has the engine. */
bool sw_is_awaited(const struct switches *switches, const struct switches_owner *owner);
/* The run that is on, up to then. */
void sw_settle(struct switches *switches, uint64_t until);
/* What the sums are at a time. */
void sw_take_snapshot(struct switches *switches, uint64_t at);
/* From now on nobody is known to have the engine. */
void sw_let_go(struct switches *switches, uint64_t now);

/* switches_rest.c */
/* A run has ended, as owner->end says. */
void sw_note_end(struct switches *switches, struct switches_owner *owner);
/* What has changed since the last look. */
void sw_look_for_changes(struct switches *switches);
/* While nothing is recorded: what everybody had up to then. */
void sw_credit(struct switches *switches, uint64_t until);
/* The first end of one who was credited. */
void sw_correct_credit(struct switches *switches, struct switches_owner *owner);
/* Whether all who were credited are still there. */
void sw_look_for_credited(struct switches *switches);
