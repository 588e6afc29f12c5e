/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turns that programs keep by the clock: what the daemon tells their guards (page.h) and the reader
 * of the engine's records (policy/switches.h). Times are nanoseconds of CLOCK_MONOTONIC.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* From one time to another, and so again each period; always after good_until. period 0: always. */
struct cleave_turns {
        uint64_t from, until, period, good_until;
};

/* Whether it is another's turn at that time, and when that changes, UINT64_MAX: never. Times that
 * are not of this clock, as those of another time namespace, hold nobody up. */
static inline bool cleave_turns_off(
        const struct cleave_turns *turns, uint64_t at, uint64_t *ret_next)
{
        uint64_t length = turns->until - turns->from, phase;
        bool off;

        *ret_next = UINT64_MAX;
        if (turns->period == 0 || at >= turns->good_until || turns->from > at + turns->period)
                return false;
        phase = (at + turns->period - turns->from) % turns->period;
        off = phase >= length;
        *ret_next = at + (off ? turns->period : length) - phase;
        if (*ret_next > turns->good_until)
                *ret_next = turns->good_until;
        return off;
}
