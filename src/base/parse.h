/* SPDX-License-Identifier: Apache-2.0 */
/* Text that people write, into values. Each refusal has its own sentence. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/* Quotas go in steps of this many bytes. */
#define CLEAVE_QUOTA_STEP (1ull << 20)

/* An amount of memory as written: bytes, or a part of a device that is not known yet. */
struct memory_amount {
        uint64_t bytes; /* a multiple of CLEAVE_QUOTA_STEP; 0 if it is a part */
        uint32_t part;  /* thousandths of a percent, 1 to 100000; 0 if it is in bytes */
};

/*
 * A size in bytes: digits, with a fraction if a unit follows, then one of
 *   K M G T, KiB MiB GiB TiB   powers of 1024 (B alone: bytes)
 *   KB MB GB TB                powers of 1000
 * in any case. -EINVAL with BAD_SIZE, also for what does not fit 63 bits. A fraction of a byte is
 * cut off.
 */
int parse_size(const char *text, uint64_t *ret, struct cleave_error *error);

/* A quota: a size, rounded up to whole CLEAVE_QUOTA_STEP, or a percentage of a device as "30%" or
 * "12.5%". Zero is refused. -EINVAL with BAD_SIZE. */
int parse_memory_amount(const char *text, struct memory_amount *ret, struct cleave_error *error);

/* Bytes of an amount on a device of that many, a part rounded down to whole CLEAVE_QUOTA_STEP but
 * never to zero. */
uint64_t memory_amount_bytes(struct memory_amount amount, uint64_t total);

/* A decimal number without sign or blanks. -EINVAL, -ERANGE (above max). */
int parse_unsigned(const char *text, uint64_t max, uint64_t *ret);
/* A process id: 1 to INT_MAX. */
int parse_pid(const char *text, pid_t *ret);
/* "yes", "true", "on", "1" and their opposites. -EINVAL. */
int parse_boolean(const char *text, bool *ret);
/* Seconds as "60", "500ms", "2min", "1h", or "infinity" (UINT64_MAX); microseconds out. -EINVAL. */
int parse_duration(const char *text, uint64_t *ret_usec);
/* Up to 16 hexadecimal digits. -EINVAL. */
int parse_hex(const char *text, uint64_t *ret);

/* A tenant's name: 1 to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit, and
 * not 16 hexadecimal digits, which an id is. 0 or -EINVAL with BAD_NAME. */
int check_name(const char *name, struct cleave_error *error);
