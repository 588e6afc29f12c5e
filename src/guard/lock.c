/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guard.h"

void guard_lock(struct guard_lock *lock)
{
        int saved = errno;
        uint32_t seen = 0;

        if (atomic_compare_exchange_strong(&lock->word, &seen, 1))
                return;
        if (seen != 2)
                seen = atomic_exchange(&lock->word, 2);
        while (seen != 0) {
                syscall(SYS_futex, &lock->word, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0);
                seen = atomic_exchange(&lock->word, 2);
        }
        errno = saved;
}

void guard_unlock(struct guard_lock *lock)
{
        int saved = errno;

        if (atomic_exchange(&lock->word, 0) == 2)
                syscall(SYS_futex, &lock->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        errno = saved;
}
