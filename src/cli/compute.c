/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/compute.h"

#include <string.h>

#include "base/parse.h"

/* "30" or "30%" */
static int add_percent(json_t *params, const char *field, const char *option, const char *text,
        uint64_t least, struct cleave_error *error)
{
        _cleanup_free_ char *copy = strdup(text);
        size_t length = strlen(text);
        uint64_t percent;

        if (!copy)
                return error_set_errno(error, ENOMEM, "cannot read --%s", option);
        if (length > 0 && copy[length - 1] == '%')
                copy[length - 1] = '\0';
        if (parse_unsigned(copy, 100, &percent) < 0 || percent < least)
                return error_set(error, CLEAVE_REASON_USAGE,
                        "--%s=%.32s is not a whole percentage from %u to 100", option, text,
                        (unsigned)least);
        json_object_set_new(params, field, json_integer((json_int_t)percent));
        return 0;
}

int compute_add(json_t *params, const char *share, const char *most, const char *priority,
        struct cleave_error *error)
{
        int r = 0;

        if (share)
                r = add_percent(params, "compute", "compute", share, 0, error);
        if (r == 0 && most)
                r = add_percent(params, "compute_max", "compute-max", most, 1, error);
        if (r == 0 && priority)
                json_object_set_new(params, "priority", json_string(priority));
        return r;
}
