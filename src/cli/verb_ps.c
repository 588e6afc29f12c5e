/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/format.h"
#include "base/parse.h"
#include "base/clock.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "cli/tenant.h"
#include "cli/verbs.h"

#define SCHEMA       "cleave.ps/1"
#define WATCH_PRESET "2"

enum {
        OPT_ALL,
        OPT_WATCH,
        OPT_OUTPUT,
};

static const struct cli_option options[] = {
        [OPT_ALL] =
                {
                        .name = "all",
                        .letter = 'a',
                        .help = "Show the tenants of all users; root and the daemon's own user "
                                "may.",
                },
        [OPT_WATCH] =
                {
                        .name = "watch",
                        .letter = 'w',
                        .argument = "SECONDS",
                        .optional = true,
                        .help = "Show it again and again, until interrupted.",
                        .preset = WATCH_PRESET,
                },
        [OPT_OUTPUT] = OUTPUT_OPTION,
};

static const struct output_column columns[] = {
        {.title = "ID"},
        {.field = "id"},
        {.title = "NAME", .field = "name"},
        {.field = "uid"},
        {.title = "PID", .field = "pid", .right = true},
        {.title = "DEVICE", .field = "device_index", .right = true},
        {.field = "device"},
        {.title = "MEMORY"},
        {.field = "memory_used"},
        {.field = "memory"},
        {.field = "memory_max"},
        {.field = "memory_peak"},
        {.field = "memory_returning"},
        {.field = "memory_driver"},
        {.title = "COMPUTE"},
        {.field = "compute"},
        {.field = "compute_max"},
        {.field = "priority"},
        {.title = "GPU", .right = true},
        {.field = "gpu_share"},
        {.field = "gpu_seconds"},
        {.title = "PROCESSES", .field = "processes", .right = true},
        {.title = "STATE", .field = "state"},
        {.title = "AGE", .right = true},
        {.field = "created"},
        {.title = "COMMAND", .field = "command", .last = true},
};

/* Its part of the device's time over the last second, and what it has had in all. */
static void add_use(struct output_table *table, const json_t *compute)
{
        const json_t *share = json_object_get(compute, "gpu_share");
        const json_t *seconds = json_object_get(compute, "gpu_seconds");
        char text[32];

        snprintf(text, sizeof(text), "%.0f %%", json_number_value(share) * 100);
        output_cell(table, TONE_PLAIN, json_is_number(share) ? text : "-", NULL);
        snprintf(text, sizeof(text), "%.4f", json_number_value(share));
        output_cell(table, TONE_PLAIN, "", json_is_number(share) ? text : NULL);
        snprintf(text, sizeof(text), "%.6f", json_number_value(seconds));
        output_cell(table, TONE_PLAIN, "", json_is_number(seconds) ? text : NULL);
}

static void add_row(struct output_table *table, const json_t *tenant, const json_t *device)
{
        static const char *const amounts[] = {"memory_used", "memory", "memory_max", "memory_peak",
                "memory_returning", "memory_driver"};
        const char *id = output_text(json_object_get(tenant, "id"), "?");
        const char *state = output_text(json_object_get(tenant, "state"), "?");
        const json_t *created = json_object_get(tenant, "created");
        char text[TENANT_COMMAND_MAX], age[FORMAT_DURATION_MAX], number[32];

        output_row(table);
        snprintf(text, sizeof(text), "%.*s", TENANT_SHORT_ID, id);
        output_cell(table, TONE_FAINT, text, NULL);
        output_cell(table, TONE_PLAIN, "", id);
        output_cell_text(table, json_object_get(tenant, "name"));
        output_cell_number(table, json_object_get(tenant, "uid"));
        output_cell_number(table, json_object_get(tenant, "pid"));
        output_cell_number(table, json_object_get(device, "index"));
        output_cell_text(table, json_object_get(device, "device"));
        output_cell(table, TONE_PLAIN, tenant_memory(text, sizeof(text), device), NULL);
        for (size_t i = 0; i < ARRAY_SIZE(amounts); i++)
                output_cell_size(table, json_object_get(device, amounts[i]));
        output_cell(table, TONE_PLAIN, tenant_compute(text, sizeof(text), tenant), NULL);
        output_cell_number(table, json_object_get(tenant, "compute"));
        output_cell_number(table, json_object_get(tenant, "compute_max"));
        output_cell_text(table, json_object_get(tenant, "priority"));
        add_use(table, json_object_get(device, "compute"));
        snprintf(number, sizeof(number), "%zu",
                json_array_size(json_object_get(tenant, "processes")));
        output_cell(table, TONE_PLAIN, number, number);
        output_cell(table, tenant_tone(state), state, state);
        output_cell(table, TONE_PLAIN, age_of(age, created), NULL);
        snprintf(number, sizeof(number), "%.3f", json_number_value(created));
        output_cell(table, TONE_PLAIN, "", json_is_number(created) ? number : NULL);
        tenant_command(text, tenant);
        output_cell(table, TONE_PLAIN, text, text);
}

static int print_tenants(const json_t *tenants, enum output_format format)
{
        struct output_table *table = output_table_new(columns, ARRAY_SIZE(columns));
        const json_t *tenant, *device;
        size_t i, j;
        int r;

        if (!table)
                return -ENOMEM;
        json_array_foreach((json_t *)tenants, i, tenant)
        {
                const json_t *devices = json_object_get(tenant, "devices");

                json_array_foreach((json_t *)devices, j, device) add_row(table, tenant, device);
        }
        r = output_table_print(table, format);
        output_table_free(table);
        return r;
}

static int show(const struct cli_args *args, struct client *client, struct cleave_error *error)
{
        enum output_format format = output_format(args->value[OPT_OUTPUT]);
        bool watching = args->count[OPT_WATCH] > 0;
        json_t *result = NULL;
        int r;

        r = client_call(client, "tenant.list", json_pack("{s:b}", "all", args->count[OPT_ALL] > 0),
                &result, error);
        if (r < 0)
                return r;
        /* Overwriting line by line flickers less than clearing the screen first. */
        if (watching && format == OUTPUT_TABLE && output_terminal())
                fputs("\033[H\033[J", stdout);
        if (format == OUTPUT_JSON)
                r = output_json(result, SCHEMA);
        else
                r = print_tenants(json_object_get(result, "tenants"), format);
        json_decref(result);
        return r < 0 ? error_set_errno(error, r, "cannot show the tenants") : 0;
}

static int run_ps(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_client_ struct client *client = NULL;
        uint64_t pause = 0;
        int r;

        if (args->count[OPT_WATCH]) {
                const char *value = *args->value[OPT_WATCH] ? args->value[OPT_WATCH] : WATCH_PRESET;

                if (parse_duration(value, &pause) < 0 || pause == 0 || pause == UINT64_MAX)
                        return cli_usage(args->verb, "'%s' is no number of seconds", value);
        }
        r = daemon_connect(DAEMON_START, &client, NULL, &error);
        if (r < 0)
                return cli_report(args->verb, &error);
        for (;;) {
                struct timespec span = {.tv_sec = (time_t)(pause / USEC_PER_SEC),
                        .tv_nsec = (long)(pause % USEC_PER_SEC * 1000)};

                r = show(args, client, &error);
                if (r < 0)
                        return cli_report(args->verb, &error);
                if (pause == 0)
                        return output_end(CLI_OK);
                r = output_end(CLI_OK);
                if (r != CLI_OK)
                        return r;
                nanosleep(&span, NULL);
        }
}

static const struct cli_example examples[] = {
        {"cleave ps", "who holds what"},
        {"cleave ps --watch", "the same, live"},
        {"cleave ps -o json | jq '.tenants[].devices[].memory_used'", "bytes, for a script"},
        {NULL, NULL},
};

const struct cli_verb verb_ps = {
        .name = "ps",
        .summary = "list tenants and what they hold",
        .description =
                "Lists the tenants that live now, a line for each device of each: what it holds of "
                "its quota, its share of the device's time (guaranteed, '<' and its cap), how much "
                "of "
                "that time it had over the last second (only while some tenant has a share, cap or "
                "priority), how many processes have joined it, its state, age and command.\n\n"
                "A tenant is 'waiting' while its quota does not fit yet, 'starting' until its "
                "command runs, 'running', and 'ending' when its command is gone and other "
                "processes "
                "of it are not. JSON has the schema " SCHEMA ".",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .run = run_ps,
};
