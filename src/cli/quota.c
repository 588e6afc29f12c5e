/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/quota.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void quota_done(struct quota *quota)
{
        for (size_t i = 0; i < quota->n; i++)
                free(quota->part[i].device);
        *quota = (struct quota){0};
}

/* word: "8G" or "0=8G"; changed. */
static int parse_part(char *word, struct quota_part *ret, struct cleave_error *error)
{
        struct quota_part part = {0};
        char *equals = strchr(word, '=');
        int r;

        if (equals)
                *equals = 0;
        if (equals == word)
                return error_set(
                        error, CLEAVE_REASON_USAGE, "no device stands before '=%s'", equals + 1);
        r = parse_memory_amount(equals ? equals + 1 : word, &part.amount, error);
        if (r < 0)
                return r;
        if (equals) {
                part.device = strdup(word);
                if (!part.device)
                        return error_set_errno(error, ENOMEM, "cannot read the quota");
        }
        *ret = part;
        return 0;
}

static int check_parts(const struct quota *quota, struct cleave_error *error)
{
        for (size_t i = 0; i < quota->n; i++)
                for (size_t j = 0; j < i; j++) {
                        if (!quota->part[i].device || !quota->part[j].device)
                                return error_set(error, CLEAVE_REASON_USAGE,
                                        "several amounts need their devices, as in 0=4G,1=8G");
                        if (strcasecmp(quota->part[i].device, quota->part[j].device) == 0)
                                return error_set(error, CLEAVE_REASON_USAGE,
                                        "device %s is given twice", quota->part[i].device);
                }
        return 0;
}

int quota_parse(const char *text, struct quota *ret, struct cleave_error *error)
{
        _cleanup_free_ char *copy = strdup(text);
        _cleanup_quota_ struct quota quota = {0};
        char *rest = copy, *word;
        int r;

        if (!copy)
                return error_set_errno(error, ENOMEM, "cannot read the quota");
        while ((word = strsep(&rest, ","))) {
                if (quota.n == QUOTA_MAX_DEVICES)
                        return error_set(error, CLEAVE_REASON_USAGE,
                                "more than %d devices in one quota", QUOTA_MAX_DEVICES);
                r = parse_part(word, quota.part + quota.n, error);
                if (r < 0)
                        return r;
                quota.n++;
        }
        r = check_parts(&quota, error);
        if (r < 0)
                return r;
        *ret = quota;
        quota.n = 0; /* handed on */
        return 0;
}

bool quota_has_part(const struct quota *quota)
{
        for (size_t i = 0; i < quota->n; i++)
                if (quota->part[i].amount.part)
                        return true;
        return false;
}

static bool is_index(const char *name)
{
        return *name && strspn(name, "0123456789") == strlen(name) && strlen(name) < 4;
}

static bool uuid_begins(const char *uuid, const char *name)
{
        size_t n = strlen(name);

        if (strncasecmp(uuid, name, n) == 0)
                return true;
        return strncasecmp(uuid, "GPU-", 4) == 0 && strncasecmp(uuid + 4, name, n) == 0;
}

static int find_device(
        const json_t *listed, const char *name, const json_t **ret, struct cleave_error *error)
{
        const json_t *item, *found = NULL;
        size_t i;

        json_array_foreach((json_t *)listed, i, item)
        {
                const char *uuid = json_string_value(json_object_get(item, "uuid"));
                bool same;

                if (is_index(name))
                        same = json_integer_value(json_object_get(item, "index")) == atoi(name);
                else
                        same = uuid && uuid_begins(uuid, name);
                if (!same)
                        continue;
                if (found)
                        return error_set(error, CLEAVE_REASON_AMBIGUOUS,
                                "more than one device begins with %s", name);
                found = item;
        }
        if (!found)
                return error_set(
                        error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no device %s", name);
        *ret = found;
        return 0;
}

static int amount_bytes(struct memory_amount amount, const char *device, const json_t *listed,
        uint64_t *ret, struct cleave_error *error)
{
        const json_t *item = NULL, *total;
        int r;

        if (!amount.part) {
                *ret = amount.bytes;
                return 0;
        }
        r = find_device(listed, device, &item, error);
        if (r < 0)
                return r;
        total = json_object_get(item, "memory_total");
        if (!json_is_integer(total))
                return error_set(error, CLEAVE_REASON_DEVICE_LOST,
                        "the size of device %s is not known, so it cannot be parted", device);
        *ret = memory_amount_bytes(amount, (uint64_t)json_integer_value(total));
        return 0;
}

static const struct quota_part *part_for(const struct quota *quota, const char *device)
{
        for (size_t i = 0; i < quota->n; i++)
                if (!quota->part[i].device || strcasecmp(quota->part[i].device, device) == 0)
                        return quota->part + i;
        return NULL;
}

static int add_device(json_t *array, const char *device, const struct quota_part *memory,
        const struct quota_part *most, const json_t *listed, struct cleave_error *error)
{
        uint64_t bytes, bytes_most;
        json_t *item;
        int r;

        r = amount_bytes(memory->amount, device, listed, &bytes, error);
        if (r < 0)
                return r;
        item = json_pack("{s:s, s:I}", "device", device, "memory", (json_int_t)bytes);
        if (most) {
                r = amount_bytes(most->amount, device, listed, &bytes_most, error);
                if (r == 0 && bytes_most < bytes)
                        r = error_set(error, CLEAVE_REASON_USAGE,
                                "--memory-max is less than --memory on device %s", device);
                if (r < 0) {
                        json_decref(item);
                        return r;
                }
                if (item && json_object_set_new(
                                    item, "memory_max", json_integer((json_int_t)bytes_most)) < 0) {
                        json_decref(item);
                        item = NULL;
                }
        }
        if (!item || json_array_append_new(array, item) < 0)
                return error_set_errno(error, ENOMEM, "cannot ask for the quota");
        return 0;
}

/* Every device that --memory-max names must be one that gets memory. */
static int check_most(
        const struct quota *memory, const struct quota *most, struct cleave_error *error)
{
        for (size_t i = 0; i < most->n; i++)
                if (most->part[i].device && !(memory->n && memory->part[0].device &&
                                                    part_for(memory, most->part[i].device)))
                        return error_set(error, CLEAVE_REASON_USAGE,
                                "--memory-max names device %s, --memory does not",
                                most->part[i].device);
        return 0;
}

int quota_devices(const struct quota *memory, const struct quota *most, const char *const *names,
        size_t n_names, const json_t *listed, json_t **ret, struct cleave_error *error)
{
        bool named = memory->n > 0 && memory->part[0].device;
        size_t n = named ? memory->n : n_names;
        json_t *array;
        int r;

        if (named && n_names > 0)
                return error_set(error, CLEAVE_REASON_USAGE,
                        "--memory already names its devices, so --device is one too many");
        r = check_most(memory, most, error);
        if (r < 0)
                return r;
        array = json_array();
        if (!array)
                return error_set_errno(error, ENOMEM, "cannot ask for the quota");
        for (size_t i = 0; i < n; i++) {
                const char *device = named ? memory->part[i].device : names[i];

                r = add_device(array, device, part_for(memory, device), part_for(most, device),
                        listed, error);
                if (r < 0) {
                        json_decref(array);
                        return r;
                }
        }
        *ret = array;
        return 0;
}

const char *quota_roomiest(const json_t *listed)
{
        const json_t *item, *best = NULL;
        json_int_t most = -1;
        size_t i;

        json_array_foreach((json_t *)listed, i, item)
        {
                json_int_t room = json_integer_value(json_object_get(item, "available"));

                if (room > most) {
                        most = room;
                        best = item;
                }
        }
        return json_string_value(json_object_get(best, "uuid"));
}
