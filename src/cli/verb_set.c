/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "cli/compute.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "cli/quota.h"
#include "cli/verbs.h"

enum {
        OPT_MEMORY,
        OPT_MEMORY_MAX,
        OPT_COMPUTE,
        OPT_COMPUTE_MAX,
        OPT_PRIORITY,
        OPT_FORCE,
};

static const struct cli_option options[] = {
        [OPT_MEMORY] =
                {
                        .name = "memory",
                        .letter = 'm',
                        .argument = "QUOTA",
                        .help = "The new quota: a size, a part of the device as 50%, or one amount "
                                "per "
                                "device as 0=4G,1=8G. One amount alone goes for every device of "
                                "the tenant.",
                },
        [OPT_MEMORY_MAX] =
                {
                        .name = "memory-max",
                        .argument = "QUOTA",
                        .help = "Up to how much the quota may be raised.",
                        .preset = "the same as --memory",
                },
        [OPT_COMPUTE] = COMPUTE_OPTION,
        [OPT_COMPUTE_MAX] = COMPUTE_MAX_OPTION,
        [OPT_PRIORITY] = PRIORITY_OPTION,
        [OPT_FORCE] =
                {
                        .name = "force",
                        .letter = 'f',
                        .help = "Shrink below what is in use: new allocations are refused until "
                                "enough has "
                                "been freed, and until then the difference is granted to nobody "
                                "else.",
                },
};

/* The devices that the tenant has now; the names belong to tenant. */
static size_t own_devices(const json_t *tenant, const char *names[static QUOTA_MAX_DEVICES])
{
        const json_t *device;
        size_t i, n = 0;

        json_array_foreach(json_object_get(tenant, "devices"), i, device)
        {
                const char *uuid = json_string_value(json_object_get(device, "device"));

                if (uuid && n < QUOTA_MAX_DEVICES)
                        names[n++] = uuid;
        }
        return n;
}

static int wanted(const struct cli_args *args, struct client *client, const json_t *tenant,
        json_t **ret, struct cleave_error *error)
{
        _cleanup_quota_ struct quota memory = {0}, most = {0};
        const char *names[QUOTA_MAX_DEVICES];
        json_t *listed = NULL;
        size_t n = 0;
        int r;

        r = quota_parse(args->value[OPT_MEMORY], &memory, error);
        if (r == 0 && args->value[OPT_MEMORY_MAX])
                r = quota_parse(args->value[OPT_MEMORY_MAX], &most, error);
        if (r == 0 && (quota_has_part(&memory) || quota_has_part(&most)))
                r = client_call(client, "device.list", NULL, &listed, error);
        if (r == 0) {
                if (!memory.part[0].device)
                        n = own_devices(tenant, names);
                r = quota_devices(
                        &memory, &most, names, n, json_object_get(listed, "devices"), ret, error);
        }
        json_decref(listed);
        return r;
}

static int set_quota(const struct cli_args *args, struct client *client, struct cleave_error *error)
{
        const char *name = args->operands[0], *id;
        json_t *tenant = NULL, *devices = NULL, *result = NULL, *device, *params = NULL;
        size_t i;
        int r;

        r = client_call(
                client, "tenant.inspect", json_pack("{s:s}", "tenant", name), &tenant, error);
        if (r == 0 && args->value[OPT_MEMORY])
                r = wanted(args, client, tenant, &devices, error);
        if (r == 0) {
                id = output_text(json_object_get(tenant, "id"), name);
                params = json_pack("{s:s, s:o*, s:b}", "tenant", id, "devices", devices, "force",
                        args->count[OPT_FORCE] > 0);
                if (!params)
                        r = error_set_errno(error, ENOMEM, "cannot ask for the change");
        }
        if (r == 0)
                r = compute_add(params, args->value[OPT_COMPUTE], args->value[OPT_COMPUTE_MAX],
                        args->value[OPT_PRIORITY], error);
        if (r == 0)
                r = client_call(client, "tenant.set", json_incref(params), &result, error);
        json_decref(params);
        json_decref(tenant);
        if (r < 0)
                return r;
        tenant = json_object_get(result, "tenant");
        if (!json_is_object(tenant))
                tenant = result;
        json_array_foreach(json_object_get(tenant, "devices"), i, device)
                fprintf(stderr, "%s: device %lld: %s, of which %s are in use\n",
                        output_text(json_object_get(tenant, "name"), name),
                        (long long)json_integer_value(json_object_get(device, "index")),
                        output_size(json_object_get(device, "memory")),
                        output_size(json_object_get(device, "memory_used")));
        json_decref(result);
        return 0;
}

static int run_set(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_client_ struct client *client = NULL;
        int r;

        if (!args->value[OPT_MEMORY] && !args->value[OPT_COMPUTE] &&
                !args->value[OPT_COMPUTE_MAX] && !args->value[OPT_PRIORITY])
                return cli_usage(args->verb, "say what to set, as in --memory 6G or --compute 30");
        if (args->value[OPT_MEMORY_MAX] && !args->value[OPT_MEMORY])
                return cli_usage(args->verb, "--memory-max needs --memory beside it");
        r = daemon_connect(DAEMON_START, &client, NULL, &error);
        if (r == 0)
                r = set_quota(args, client, &error);
        return r < 0 ? cli_report(args->verb, &error) : CLI_OK;
}

static const struct cli_example examples[] = {
        {"cleave set --memory 6G train", "give or take memory while it runs"},
        {"cleave set --compute 50 --priority high train", "give it half the time, and first"},
        {"cleave set --memory 2G --force train", "shrink as soon as it frees enough"},
        {NULL, NULL},
};

const struct cli_verb verb_set = {
        .name = "set",
        .summary = "change a tenant's quota or compute share while it runs",
        .operands = "TENANT",
        .description =
                "Changes the quota of a running tenant, or its share of the device's time. Growing "
                "is granted if there is room. "
                "Shrinking below what is in use is refused, unless forced. The tenant's programs "
                "see the new size at their next question; nothing in them is interrupted.",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .least = 1,
        .most = 1,
        .words = CLI_WORDS_TENANT,
        .run = run_set,
};
