/* SPDX-License-Identifier: Apache-2.0 */
/* Values, into text that people read. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define FORMAT_SIZE_MAX     24
#define FORMAT_DURATION_MAX 24
#define FORMAT_ID_MAX       17

/* "0 MiB", "1.5 MiB", "512 MiB", "8 GiB", "79.6 GiB", "1024 TiB": at most one decimal, none where
 * it is zero, GiB from 1 GiB and TiB from 10 TiB on. Sizes below 1 MiB that are not zero show as
 * "0.1 MiB" at least, so that something is never shown as nothing. Returns buffer. */
char *format_size(char buffer[static FORMAT_SIZE_MAX], uint64_t bytes);

/* The exact size in the largest unit that divides it, as parse_size() reads it: "8G", "1536M",
 * "123". Returns buffer. */
char *format_size_exact(char buffer[static FORMAT_DURATION_MAX], uint64_t bytes);

/* "3 s", "5 min", "2 h 5 min", "3 d 4 h". Returns buffer. */
char *format_duration(char buffer[static FORMAT_DURATION_MAX], uint64_t usec);

/* A tenant's id, 16 hexadecimal digits. Returns buffer. */
char *format_id(char buffer[static FORMAT_ID_MAX], uint64_t id);

/* uuid as the driver writes it: "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx". */
#define FORMAT_UUID_MAX 48
char *format_uuid(char buffer[static FORMAT_UUID_MAX], const uint8_t uuid[static 16]);
/* The reverse; "GPU-" or "MIG-" may be missing. -EINVAL. */
int parse_uuid(const char *text, uint8_t ret[static 16]);

/* Shell-like words of argv, cut to size - 1 bytes with "…"; bytes that are not printable ASCII or
 * part of UTF-8 become '?'. Returns buffer. */
char *format_command(char *buffer, size_t size, char *const *argv);
