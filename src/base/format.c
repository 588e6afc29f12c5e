/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/format.h"

char *format_size(char buffer[static FORMAT_SIZE_MAX], uint64_t bytes)
{
        const char *unit = "MiB";
        unsigned shift = 20;
        uint64_t tenths;

        if (bytes >= 10ull << 40) {
                unit = "TiB";
                shift = 40;
        } else if (bytes >= 1ull << 30) {
                unit = "GiB";
                shift = 30;
        }
        tenths = (bytes >> shift) * 10 + ((bytes & ((1ull << shift) - 1)) * 10 >> shift);
        if (tenths == 0 && bytes > 0)
                tenths = 1;
        if (tenths % 10 == 0)
                snprintf(buffer, FORMAT_SIZE_MAX, "%" PRIu64 " %s", tenths / 10, unit);
        else
                snprintf(buffer, FORMAT_SIZE_MAX, "%" PRIu64 ".%" PRIu64 " %s", tenths / 10,
                        tenths % 10, unit);
        return buffer;
}

char *format_size_exact(char buffer[static FORMAT_DURATION_MAX], uint64_t bytes)
{
        static const char names[] = "TGMK";
        unsigned shift = 40;

        for (size_t i = 0; bytes > 0 && names[i]; i++, shift -= 10)
                if (bytes % (1ull << shift) == 0) {
                        snprintf(buffer, FORMAT_DURATION_MAX, "%" PRIu64 "%c", bytes >> shift,
                                names[i]);
                        return buffer;
                }
        snprintf(buffer, FORMAT_DURATION_MAX, "%" PRIu64, bytes);
        return buffer;
}

char *format_duration(char buffer[static FORMAT_DURATION_MAX], uint64_t usec)
{
        uint64_t s = usec / 1000000, minutes = s / 60, hours = minutes / 60, days = hours / 24;

        if (days)
                snprintf(buffer, FORMAT_DURATION_MAX, "%" PRIu64 " d %" PRIu64 " h", days,
                        hours % 24);
        else if (hours)
                snprintf(buffer, FORMAT_DURATION_MAX, "%" PRIu64 " h %" PRIu64 " min", hours,
                        minutes % 60);
        else if (minutes)
                snprintf(buffer, FORMAT_DURATION_MAX, "%" PRIu64 " min", minutes);
        else
                snprintf(buffer, FORMAT_DURATION_MAX, "%" PRIu64 " s", s);
        return buffer;
}

char *format_id(char buffer[static FORMAT_ID_MAX], uint64_t id)
{
        snprintf(buffer, FORMAT_ID_MAX, "%016" PRIx64, id);
        return buffer;
}

char *format_uuid(char buffer[static FORMAT_UUID_MAX], const uint8_t uuid[static 16])
{
        char *p = buffer;

        p += sprintf(p, "GPU-");
        for (size_t i = 0; i < 16; i++)
                p += sprintf(
                        p, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
        return buffer;
}

int parse_uuid(const char *text, uint8_t ret[static 16])
{
        uint8_t uuid[16];

        if (strncasecmp(text, "GPU-", 4) == 0 || strncasecmp(text, "MIG-", 4) == 0)
                text += 4;
        for (size_t i = 0; i < 16; i++) {
                unsigned value;

                if ((i == 4 || i == 6 || i == 8 || i == 10) && *text++ != '-')
                        return -EINVAL;
                if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]))
                        return -EINVAL;
                sscanf(text, "%2x", &value);
                uuid[i] = (uint8_t)value;
                text += 2;
        }
        if (*text != '\0')
                return -EINVAL;
        memcpy(ret, uuid, sizeof(uuid));
        return 0;
}

static bool needs_quotes(const char *word)
{
        return *word == '\0' || strpbrk(word, " \t\n'\"\\$`*?&|;<>(){}[]#~!") != NULL;
}

char *format_command(char *buffer, size_t size, char *const *argv)
{
        static const char mark[] = "…";
        size_t used = 0, room = size - sizeof(mark);

        for (size_t i = 0; argv[i]; i++) {
                const char *quote = needs_quotes(argv[i]) ? "'" : "";
                const char *parts[] = {i ? " " : "", quote, argv[i], quote};

                for (size_t k = 0; k < sizeof(parts) / sizeof(parts[0]); k++)
                        for (const char *p = parts[k]; *p; p++) {
                                unsigned char c = (unsigned char)*p;

                                if (used == room) {
                                        /* not in the middle of a character */
                                        if ((c & 0xc0) == 0x80) {
                                                while (used > 0 &&
                                                        (buffer[used - 1] & 0xc0) == 0x80)
                                                        used--;
                                                used -= used > 0;
                                        }
                                        strcpy(buffer + used, mark);
                                        return buffer;
                                }
                                buffer[used++] = (char)(c >= 0x80 || isprint(c) ? c : '?');
                        }
        }
        buffer[used] = '\0';
        return buffer;
}
