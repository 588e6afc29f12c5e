/* SPDX-License-Identifier: Apache-2.0 */
/* FNV-1a of 64 bits (Fowler, Noll, Vo), by bytes or by words: to see whether something is as it
 * was. Whoever may choose what is hashed can make two things look alike. */
#pragma once

#include <stdint.h>

#define HASH_BEGIN 0xcbf29ce484222325ull

static inline uint64_t hash_word(uint64_t hash, uint64_t word)
{
        return (hash ^ word) * 0x100000001b3ull;
}

static inline uint64_t hash_text(const char *text)
{
        uint64_t hash = HASH_BEGIN;

        for (; *text; text++)
                hash = hash_word(hash, (uint8_t)*text);
        return hash;
}
