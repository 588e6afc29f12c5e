/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <limits.h>
#include <string.h>
#include <strings.h>

#include "base/parse.h"

#define SIZE_LIMIT ((uint64_t)INT64_MAX)

static const struct {
        const char *name;
        uint64_t factor;
} units[] = {
        {"", 1},
        {"B", 1},
        {"K", 1ull << 10},
        {"KiB", 1ull << 10},
        {"Ki", 1ull << 10},
        {"KB", 1000ull},
        {"M", 1ull << 20},
        {"MiB", 1ull << 20},
        {"Mi", 1ull << 20},
        {"MB", 1000ull * 1000},
        {"G", 1ull << 30},
        {"GiB", 1ull << 30},
        {"Gi", 1ull << 30},
        {"GB", 1000ull * 1000 * 1000},
        {"T", 1ull << 40},
        {"TiB", 1ull << 40},
        {"Ti", 1ull << 40},
        {"TB", 1000ull * 1000 * 1000 * 1000},
};

/* Digits and up to nine digits of fraction, further ones ignored. Billionths may be NULL: then no
 * fraction is taken. */
static int scan_number(const char **text, uint64_t *ret_whole, uint32_t *ret_billionths)
{
        const char *p = *text;
        uint64_t whole = 0;
        uint32_t fraction = 0, scale = 100000000;

        if (!isdigit((unsigned char)*p))
                return -EINVAL;
        for (; isdigit((unsigned char)*p); p++)
                if (__builtin_mul_overflow(whole, 10, &whole) ||
                        __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
                        return -ERANGE;
        if (ret_billionths && *p == '.') {
                p++;
                if (!isdigit((unsigned char)*p))
                        return -EINVAL;
                for (; isdigit((unsigned char)*p); p++) {
                        fraction += (uint32_t)(*p - '0') * scale;
                        scale /= 10;
                }
        }
        *text = p;
        *ret_whole = whole;
        if (ret_billionths)
                *ret_billionths = fraction;
        return 0;
}

/* The sentence for a number that cannot be read. */
static int bad_number(const char *text, int r, struct cleave_error *error)
{
        if (*text == '\0')
                return error_set(error, CLEAVE_REASON_BAD_SIZE, "an empty size was given");
        if (*text == '-')
                return error_set(error, CLEAVE_REASON_BAD_SIZE, "size '%s' is negative", text);
        if (r == -ERANGE)
                return error_set(error, CLEAVE_REASON_BAD_SIZE, "size '%s' is too large", text);
        return error_set(error, CLEAVE_REASON_BAD_SIZE, "size '%s' is not a number", text);
}

int parse_size(const char *text, uint64_t *ret, struct cleave_error *error)
{
        const char *rest = text;
        uint64_t whole, bytes;
        uint32_t fraction;
        int r;

        r = scan_number(&rest, &whole, &fraction);
        if (r < 0)
                return bad_number(text, r, error);
        while (*rest == ' ')
                rest++;
        for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
                if (strcasecmp(rest, units[i].name) != 0)
                        continue;
                if (fraction && units[i].factor == 1)
                        return error_set(error, CLEAVE_REASON_BAD_SIZE,
                                "size '%s' has a fraction of a byte", text);
                if (__builtin_mul_overflow(whole, units[i].factor, &bytes) || bytes > SIZE_LIMIT)
                        return error_set(
                                error, CLEAVE_REASON_BAD_SIZE, "size '%s' is too large", text);
                bytes += (uint64_t)((unsigned __int128)units[i].factor * fraction / 1000000000);
                if (bytes > SIZE_LIMIT)
                        return error_set(
                                error, CLEAVE_REASON_BAD_SIZE, "size '%s' is too large", text);
                *ret = bytes;
                return 0;
        }
        return error_set(
                error, CLEAVE_REASON_BAD_SIZE, "size '%s' has an unknown unit '%s'", text, rest);
}

int parse_memory_amount(const char *text, struct memory_amount *ret, struct cleave_error *error)
{
        size_t length = strlen(text);
        uint64_t bytes;
        int r;

        if (length > 0 && text[length - 1] == '%') {
                const char *rest = text;
                uint64_t whole, part;
                uint32_t fraction;

                r = scan_number(&rest, &whole, &fraction);
                if (r == -EINVAL || (r == 0 && strcmp(rest, "%") != 0))
                        return error_set(
                                error, CLEAVE_REASON_BAD_SIZE, "'%s' is not a percentage", text);
                part = r < 0 || whole > 100 ? UINT32_MAX : whole * 1000 + fraction / 1000000;
                if (part > 100000)
                        return error_set(error, CLEAVE_REASON_BAD_SIZE,
                                "'%s' is more than the whole device", text);
                if (part == 0)
                        return error_set(
                                error, CLEAVE_REASON_BAD_SIZE, "a quota of '%s' is nothing", text);
                *ret = (struct memory_amount){.part = (uint32_t)part};
                return 0;
        }

        r = parse_size(text, &bytes, error);
        if (r < 0)
                return r;
        if (bytes == 0)
                return error_set(error, CLEAVE_REASON_BAD_SIZE, "a quota of '%s' is nothing", text);
        if (bytes > SIZE_LIMIT - CLEAVE_QUOTA_STEP)
                return error_set(error, CLEAVE_REASON_BAD_SIZE, "size '%s' is too large", text);
        *ret = (struct memory_amount){
                .bytes = (bytes + CLEAVE_QUOTA_STEP - 1) / CLEAVE_QUOTA_STEP * CLEAVE_QUOTA_STEP,
        };
        return 0;
}

uint64_t memory_amount_bytes(struct memory_amount amount, uint64_t total)
{
        uint64_t bytes;

        if (amount.part == 0)
                return amount.bytes;
        bytes = (uint64_t)((unsigned __int128)total * amount.part / 100000);
        bytes -= bytes % CLEAVE_QUOTA_STEP;
        return bytes ?: CLEAVE_QUOTA_STEP;
}

int parse_unsigned(const char *text, uint64_t max, uint64_t *ret)
{
        uint64_t value;
        int r;

        r = scan_number(&text, &value, NULL);
        if (r < 0)
                return r;
        if (*text != '\0')
                return -EINVAL;
        if (value > max)
                return -ERANGE;
        *ret = value;
        return 0;
}

int parse_pid(const char *text, pid_t *ret)
{
        uint64_t value;
        int r;

        r = parse_unsigned(text, INT_MAX, &value);
        if (r < 0)
                return r;
        if (value == 0)
                return -ERANGE;
        *ret = (pid_t)value;
        return 0;
}

int parse_boolean(const char *text, bool *ret)
{
        static const char *const yes[] = {"yes", "true", "on", "1"};
        static const char *const no[] = {"no", "false", "off", "0"};

        for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
                if (strcasecmp(text, yes[i]) == 0) {
                        *ret = true;
                        return 0;
                }
                if (strcasecmp(text, no[i]) == 0) {
                        *ret = false;
                        return 0;
                }
        }
        return -EINVAL;
}

int parse_duration(const char *text, uint64_t *ret_usec)
{
        static const struct {
                const char *name;
                uint64_t usec;
        } spans[] = {{"", 1000000}, {"s", 1000000}, {"ms", 1000}, {"us", 1}, {"min", 60000000},
                {"h", 3600000000}};
        uint64_t whole, usec;
        uint32_t fraction;
        int r;

        if (strcmp(text, "infinity") == 0) {
                *ret_usec = UINT64_MAX;
                return 0;
        }
        r = scan_number(&text, &whole, &fraction);
        if (r < 0)
                return -EINVAL;
        while (*text == ' ')
                text++;
        for (size_t i = 0; i < ARRAY_SIZE(spans); i++) {
                if (strcmp(text, spans[i].name) != 0)
                        continue;
                if (__builtin_mul_overflow(whole, spans[i].usec, &usec) || usec > SIZE_LIMIT)
                        return -EINVAL;
                *ret_usec = usec + (uint64_t)fraction * spans[i].usec / 1000000000;
                return 0;
        }
        return -EINVAL;
}

int parse_hex(const char *text, uint64_t *ret)
{
        uint64_t value = 0;
        size_t i;

        for (i = 0; text[i]; i++) {
                char c = (char)tolower((unsigned char)text[i]);

                if (i == 16 || !isxdigit((unsigned char)c))
                        return -EINVAL;
                value = value << 4 | (uint64_t)(isdigit((unsigned char)c) ? c - '0' : c - 'a' + 10);
        }
        if (i == 0)
                return -EINVAL;
        *ret = value;
        return 0;
}

int check_name(const char *name, struct cleave_error *error)
{
        size_t length = strlen(name);
        bool hex = true;

        if (length == 0)
                return error_set(error, CLEAVE_REASON_BAD_NAME, "a name must not be empty");
        if (length > 63)
                return error_set(error, CLEAVE_REASON_BAD_NAME, "name '%.20s…' has %zu characters",
                        name, length);
        for (size_t i = 0; i < length; i++) {
                unsigned char c = (unsigned char)name[i];

                if (!isprint(c))
                        return error_set(error, CLEAVE_REASON_BAD_NAME,
                                "the name has a character at position %zu that cannot be used",
                                i + 1);
                if (!isalnum(c) && (i == 0 || !strchr("-_.", c)))
                        return error_set(error, CLEAVE_REASON_BAD_NAME,
                                "name '%s' has a '%c' at position %zu", name, c, i + 1);
                hex = hex && isxdigit(c);
        }
        if (hex && length == 16)
                return error_set(error, CLEAVE_REASON_BAD_NAME,
                        "name '%s' could be taken for a tenant's id", name);
        return 0;
}
