/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdatomic.h>
#include <time.h>

#include "counter.h"
#include "driver.h"
#include "message.h"

/* One change at a time: the counter's rule (counter.h). */
static struct guard_lock account_lock;

/* How often this thread has met the limit. */
static __thread uint64_t refused;

uint64_t guard_refused(void)
{
        return refused;
}

/* Says that the limit was met, at most once a second. */
static void report_refusal(const struct guard_session *session, uint32_t device, uint64_t units)
{
        static time_t last;
        struct timespec now;

        refused++;
        atomic_fetch_add_explicit(&session->slot->refusals, 1, memory_order_relaxed);
        clock_gettime(CLOCK_MONOTONIC, &now);
        guard_debug("refused: %llu KiB on device %u", (unsigned long long)units * 4, device);
        if (now.tv_sec == last)
                return;
        last = now.tv_sec;
        guard_notice(CLEAVE_NOTICE_REFUSAL, device, units << CLEAVE_UNIT_SHIFT);
}

int guard_charge(uint32_t device, uint64_t units)
{
        const struct guard_session *session = guard_session();
        struct cleave_slot *slot;
        uint64_t held;
        int r;

        if (!session)
                return -ENOTCONN;
        if (device >= session->grant->devices || units > CLEAVE_COUNTER_MAX)
                return units > CLEAVE_COUNTER_MAX ? -ENOMEM : -ERANGE;
        slot = session->slot;

        guard_lock(&account_lock);
        r = cleave_counter_change(session->usage, session->index, device, (int64_t)units,
                &session->grant->device[device].limit);
        if (r == 0) {
                held = atomic_load_explicit(&slot->held[device], memory_order_relaxed);
                if (held > atomic_load_explicit(&slot->peak[device], memory_order_relaxed))
                        atomic_store_explicit(&slot->peak[device], held, memory_order_relaxed);
                atomic_fetch_add_explicit(&slot->charges, 1, memory_order_relaxed);
        } else
                report_refusal(session, device, units);
        guard_unlock(&account_lock);
        return r;
}

void guard_discharge(uint32_t device, uint64_t units)
{
        const struct guard_session *session = guard_session();
        int r;

        if (!session || units == 0)
                return;
        guard_lock(&account_lock);
        r = cleave_counter_change(session->usage, session->index, device, -(int64_t)units, NULL);
        guard_unlock(&account_lock);
        if (r < 0)
                guard_debug("discharge of %llu units on device %u: %d", (unsigned long long)units,
                        device, r);
}
