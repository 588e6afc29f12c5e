/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tenant's memory counter: one word per device that all its processes change by compare and
 * swap, and that stays exact when any of them is killed at any instruction.
 *
 * There is no lock, so nobody waits for a process that is stopped or dead. The word carries beside
 * the sum the name of the last change, (slot, sequence number):
 *
 *      63          36 35      24 23             0
 *      [ units used ] [  slot  ] [     seq      ]
 *
 * A process changes it in four steps:
 *   1. write op_held, then op = (device, delta, seq) into its slot: the intent
 *   2. read the word; tell the slot named in it that its change has been seen (applied);
 *      compare and swap to (used + delta, own slot, seq); again from the read if another came first
 *   3. held = op_held + delta
 *   4. op = 0
 * Whoever looks at the slot of a dead process sees from op whether it died in between, and whether
 * the change took place: exactly if the word still carries its name or applied says so
 * (cleave_slot_settle). This is the detectable compare-and-swap of Attiya, Ben-Baruch and Hendler
 * ("Nesting-safe recoverable linearizability", PODC 2018), with the announcement per slot instead
 * of per pair.
 *
 * One process makes one change at a time: the caller serialises its threads.
 * A sequence number has 24 bits and goes round; it would have to go round exactly once while
 * another process sleeps between two instructions for a change to be mistaken.
 */
#pragma once

#include <stdbool.h>

#include "page.h"

#define CLEAVE_COUNTER_UNIT_BITS 28 /* 1 TiB per tenant and device */
#define CLEAVE_COUNTER_MAX       ((1ull << CLEAVE_COUNTER_UNIT_BITS) - 1)
#define CLEAVE_SEQ_MASK          0xffffffu

static inline uint64_t cleave_counter_units(uint64_t word)
{
        return word >> 36;
}

static inline uint32_t cleave_counter_slot(uint64_t word)
{
        return (uint32_t)(word >> 24) & 0xfff;
}

static inline uint32_t cleave_counter_seq(uint64_t word)
{
        return (uint32_t)word & CLEAVE_SEQ_MASK;
}

static inline uint64_t cleave_counter_word(uint64_t units, uint32_t slot, uint32_t seq)
{
        return units << 36 | (uint64_t)slot << 24 | seq;
}

/* op: bit 63 set, device in 62:59, delta + 2^28 in 58:30, seq in 23:0 */
static inline uint64_t cleave_op_word(uint32_t device, int64_t delta, uint32_t seq)
{
        uint64_t biased = (uint64_t)(delta + (int64_t)(1ll << CLEAVE_COUNTER_UNIT_BITS));

        return 1ull << 63 | (uint64_t)device << 59 | (biased & 0x1fffffffull) << 30 | seq;
}

static inline uint32_t cleave_op_device(uint64_t op)
{
        return (uint32_t)(op >> 59) & 15;
}

static inline int64_t cleave_op_delta(uint64_t op)
{
        return (int64_t)(op >> 30 & 0x1fffffff) - (int64_t)(1ll << CLEAVE_COUNTER_UNIT_BITS);
}

static inline uint32_t cleave_op_seq(uint64_t op)
{
        return (uint32_t)op & CLEAVE_SEQ_MASK;
}

/* Units in use by the tenant on that device. */
static inline uint64_t cleave_used(struct cleave_usage_page *page, uint32_t device)
{
        return cleave_counter_units(
                atomic_load_explicit(&page->used[device], memory_order_acquire));
}

/* Tells the slot named in word that its change took place. Only ever raises applied, so a helper
 * that was asleep cannot undo what a later one wrote. */
static inline void cleave_counter_help(
        struct cleave_usage_page *page, uint32_t device, uint64_t word)
{
        struct cleave_slot *slot = cleave_usage_slot(page, cleave_counter_slot(word));
        uint32_t seq = cleave_counter_seq(word);
        uint32_t seen = atomic_load_explicit(&slot->applied[device], memory_order_relaxed);

        for (;;) {
                uint32_t ahead = (seq - seen) & CLEAVE_SEQ_MASK;

                if (ahead == 0 || ahead > CLEAVE_SEQ_MASK / 2)
                        return;
                if (atomic_compare_exchange_weak(&slot->applied[device], &seen, seq))
                        return;
        }
}

/* Steps 1 and 2, with the contract of cleave_counter_change(). The intent stays in op. */
static inline int cleave_counter_apply(struct cleave_usage_page *page, uint32_t index,
        uint32_t device, int64_t delta, const _Atomic uint64_t *limit)
{
        struct cleave_slot *slot = cleave_usage_slot(page, index);
        uint32_t seq =
                (atomic_load_explicit(&slot->seq, memory_order_relaxed) + 1) & CLEAVE_SEQ_MASK;
        uint64_t word;

        atomic_store_explicit(&slot->seq, seq, memory_order_relaxed);
        atomic_store_explicit(&slot->op_held,
                atomic_load_explicit(&slot->held[device], memory_order_relaxed),
                memory_order_relaxed);
        atomic_store(&slot->op, cleave_op_word(device, delta, seq));

        word = atomic_load(&page->used[device]);
        for (;;) {
                uint64_t used = cleave_counter_units(word);
                uint64_t next = used + (uint64_t)delta;

                if (delta < 0 && used < (uint64_t)-delta)
                        return -ERANGE;
                if (delta > 0 && next > CLEAVE_COUNTER_MAX)
                        return -ERANGE;
                if (delta > 0 && limit && next > atomic_load_explicit(limit, memory_order_acquire))
                        return -ENOMEM;
                cleave_counter_help(page, device, word);
                if (atomic_compare_exchange_weak(
                            &page->used[device], &word, cleave_counter_word(next, index, seq)))
                        return 0;
        }
}

/* Adds delta units to the tenant's total on a device, for the process in slot index (not 0).
 * limit: read anew on every attempt; NULL for none.
 * 0, -ENOMEM (it would pass the limit), -ERANGE (below zero, beyond the counter, no such slot or
 * device): then nothing has changed. */
static inline int cleave_counter_change(struct cleave_usage_page *page, uint32_t index,
        uint32_t device, int64_t delta, const _Atomic uint64_t *limit)
{
        struct cleave_slot *slot = cleave_usage_slot(page, index);
        uint64_t held;
        int r;

        if (!slot || index == 0 || device >= CLEAVE_MAX_DEVICES ||
                delta > (int64_t)CLEAVE_COUNTER_MAX || delta < -(int64_t)CLEAVE_COUNTER_MAX)
                return -ERANGE;
        held = atomic_load_explicit(&slot->held[device], memory_order_relaxed);
        if (delta < 0 && held < (uint64_t)-delta)
                return -ERANGE;
        r = cleave_counter_apply(page, index, device, delta, limit);
        if (r == 0)
                atomic_store_explicit(
                        &slot->held[device], held + (uint64_t)delta, memory_order_release);
        atomic_store_explicit(&slot->op, 0, memory_order_release);
        return r;
}

/* Whether the change that the slot announces in op took place. Only for a slot whose process no
 * longer runs, or one's own. */
static inline bool cleave_op_applied(struct cleave_usage_page *page, uint32_t index, uint64_t op)
{
        struct cleave_slot *slot = cleave_usage_slot(page, index);
        uint32_t device = cleave_op_device(op), seq = cleave_op_seq(op);
        uint64_t word = atomic_load(&page->used[device]);

        if (cleave_counter_slot(word) == index && cleave_counter_seq(word) == seq)
                return true;
        return atomic_load(&slot->applied[device]) == seq;
}

/* Brings the slot of a process that no longer runs to rest: afterwards op is 0 and held is what
 * the counter contains of it. May be repeated and may itself be killed half-way. */
static inline void cleave_slot_settle(struct cleave_usage_page *page, uint32_t index)
{
        struct cleave_slot *slot = cleave_usage_slot(page, index);
        uint64_t op = atomic_load(&slot->op);

        if (!(op >> 63))
                return;
        if (cleave_op_applied(page, index, op))
                atomic_store(&slot->held[cleave_op_device(op)],
                        atomic_load(&slot->op_held) + (uint64_t)cleave_op_delta(op));
        else
                atomic_store(&slot->held[cleave_op_device(op)], atomic_load(&slot->op_held));
        atomic_store(&slot->op, 0);
}

/* Ends a release that a crash of the daemon may have cut short; nothing to do otherwise. */
static inline void cleave_counter_finish(struct cleave_usage_page *page)
{
        struct cleave_slot *own = cleave_usage_slot(page, 0);
        uint64_t op = atomic_load(&own->op);
        struct cleave_slot *target;

        if (!(op >> 63))
                return;
        target = cleave_usage_slot(page, atomic_load(&own->op_target));
        if (target && cleave_op_applied(page, 0, op))
                atomic_store(&target->held[cleave_op_device(op)], 0);
        atomic_store(&own->op, 0);
}

/* The daemon takes what a dead, settled process held on a device out of the total. Made through
 * slot 0, whose own held stays unused; op_target names the slot that is emptied.
 * 0, -ERANGE: the counter holds less than the slot says, so the tenant has damaged its page. */
static inline int cleave_counter_release(
        struct cleave_usage_page *page, uint32_t index, uint32_t device)
{
        struct cleave_slot *own = cleave_usage_slot(page, 0);
        struct cleave_slot *target = cleave_usage_slot(page, index);
        uint64_t held;
        int r;

        if (!target || index == 0 || device >= CLEAVE_MAX_DEVICES)
                return -ERANGE;
        held = atomic_load(&target->held[device]);
        if (held == 0)
                return 0;
        if (held > CLEAVE_COUNTER_MAX)
                return -ERANGE;
        atomic_store(&own->op_target, index);
        r = cleave_counter_apply(page, 0, device, -(int64_t)held, NULL);
        if (r < 0)
                atomic_store(&own->op, 0);
        cleave_counter_finish(page);
        return r;
}
