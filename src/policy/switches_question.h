/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The time for which an owner of an engine had it and is not known to have worked, by when that
 * was: a sample of how busy the engine was answers for the time it covers and for no other. Pure.
 * Times are nanoseconds of one steady clock.
 */
#pragma once

#include <stdint.h>

#define QUESTION_STEP  (5 * 1000000u)
#define QUESTION_STEPS 256u /* 1.28 s: samples are of 0.2 s, and asked for each half second */

struct question {
        uint64_t newest; /* step, counted from the clock's zero */
        int64_t ns;      /* in all steps */
        struct question_step {
                uint32_t ns;
                uint32_t firm_ns; /* of that: of runs at whose end there was work, or that were
                                     ended by disabling channels */
        } step[QUESTION_STEPS];   /* at their number modulo QUESTION_STEPS */
};

/* Puts the time between these two in question. Returns what was so long ago that there is no more
 * room for it: it is in question no more. */
int64_t question_put(struct question *question, uint64_t from, uint64_t to);
/* Takes the time between these two off. Returns how much of it was in question. */
int64_t question_take(struct question *question, uint64_t from, uint64_t to);
/* What is in question of the time between these two is firm. */
void question_firm(struct question *question, uint64_t from, uint64_t to);
/* What is in question of the time between these two, a step that lies there in part by that part;
 * ret_firm_ns: of that, what is firm. */
int64_t question_sum(
        const struct question *question, uint64_t from, uint64_t to, int64_t *ret_firm_ns);
/* That has been answered. */
void question_answer(struct question *question, uint64_t from, uint64_t to);
