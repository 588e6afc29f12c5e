/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/tenant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/format.h"

#define BAR_CELLS 10

char *tenant_command(char buffer[static TENANT_COMMAND_MAX], const json_t *tenant)
{
        const json_t *command = json_object_get(tenant, "command");
        size_t n = json_array_size(command);
        _cleanup_free_ char **argv = calloc(n + 1, sizeof(*argv));

        buffer[0] = 0;
        if (!argv)
                return buffer;
        for (size_t i = 0; i < n; i++)
                argv[i] = (char *)output_text(json_array_get(command, i), "?");
        return format_command(buffer, TENANT_COMMAND_MAX, argv);
}

enum output_tone tenant_tone(const char *state)
{
        if (strcmp(state, "running") == 0)
                return TONE_GOOD;
        if (strcmp(state, "waiting") == 0 || strcmp(state, "ending") == 0)
                return TONE_WARN;
        return TONE_PLAIN;
}

/* Eighths of a cell, U+2588 to U+258F. */
static size_t put_bar(char *buffer, size_t size, uint64_t used, uint64_t whole)
{
        uint64_t eighths = whole ? (MIN_OF(used, whole) * BAR_CELLS * 8 + whole / 2) / whole : 0;
        size_t n = 0;

        /* Something is never shown as nothing, nor almost all as all. */
        if (used > 0 && eighths == 0)
                eighths = 1;
        if (used < whole && eighths == BAR_CELLS * 8)
                eighths--;
        for (unsigned i = 0; i < BAR_CELLS && n + 4 < size; i++) {
                uint64_t part = eighths > i * 8 ? MIN_OF(eighths - i * 8, 8u) : 0;

                if (part == 0)
                        n += (size_t)snprintf(buffer + n, size - n, "\xc2\xb7");
                else
                        n += (size_t)snprintf(
                                buffer + n, size - n, "\xe2\x96%c", (char)(0x90 - (int)part));
        }
        n += (size_t)snprintf(buffer + n, size - n, " ");
        return n;
}

char *tenant_memory(char *buffer, size_t size, const json_t *device)
{
        const json_t *used = json_object_get(device, "memory_used");
        const json_t *quota = json_object_get(device, "memory");
        size_t n = 0;

        buffer[0] = 0;
        if (output_terminal())
                n = put_bar(buffer, size, output_bytes(used), output_bytes(quota));
        snprintf(buffer + n, size - n, "%s / %s", output_size(used), output_size(quota));
        return buffer;
}

char *tenant_compute(char *buffer, size_t size, const json_t *tenant)
{
        json_int_t share = json_integer_value(json_object_get(tenant, "compute"));
        json_int_t most = json_integer_value(json_object_get(tenant, "compute_max"));
        const char *priority = output_text(json_object_get(tenant, "priority"), "normal");
        size_t n = 0;

        snprintf(buffer, size, "-");
        if (share > 0)
                n += (size_t)snprintf(buffer, size, "%lld%%", (long long)share);
        if (most > 0 && n < size)
                n += (size_t)snprintf(
                        buffer + n, size - n, "%s<%lld%%", n ? " " : "", (long long)most);
        if (strcmp(priority, "normal") != 0 && n < size)
                snprintf(buffer + n, size - n, "%s%s", n ? " " : "", priority);
        return buffer;
}

char *age_of(char *buffer, const json_t *time)
{
        double then = json_number_value(time);
        double now = (double)clock_usec(CLOCK_REALTIME) / (double)USEC_PER_SEC;

        if (!json_is_number(time))
                return strcpy(buffer, "-");
        return format_duration(
                buffer, now > then ? (uint64_t)((now - then) * (double)USEC_PER_SEC) : 0);
}

char *time_of(char *buffer, const json_t *time)
{
        time_t seconds = (time_t)json_number_value(time);
        struct tm local;

        if (!json_is_number(time) || !localtime_r(&seconds, &local) ||
                strftime(buffer, 32, "%Y-%m-%d %H:%M:%S", &local) == 0)
                return strcpy(buffer, "-");
        return buffer;
}
