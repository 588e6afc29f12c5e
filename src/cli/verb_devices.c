/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "cli/daemon.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "cli/verbs.h"

#define SCHEMA "cleave.devices/1"

enum {
        OPT_OUTPUT,
        OPT_SIM,
        OPT_SYSFS,
        OPT_PROC,
};

static const struct cli_option options[] = {
        [OPT_OUTPUT] = OUTPUT_OPTION,
        [OPT_SIM] = SIM_OPTION,
        MACHINE_ROOTS(OPT_SYSFS, OPT_PROC),
};

static const struct {
        struct output_column column;
        enum { FIELD_TEXT, FIELD_NUMBER, FIELD_SIZE, FIELD_STATE } kind;
} fields[] = {
        {{.title = "INDEX", .field = "index", .right = true}, FIELD_NUMBER},
        {{.title = "NAME", .field = "name"}, FIELD_TEXT},
        {{.field = "uuid"}, FIELD_TEXT},
        {{.field = "pci"}, FIELD_TEXT},
        {{.field = "backend"}, FIELD_TEXT},
        {{.title = "TOTAL", .field = "memory_total", .right = true}, FIELD_SIZE},
        {{.field = "memory_reserved"}, FIELD_SIZE},
        {{.field = "memory_used"}, FIELD_SIZE},
        {{.title = "GRANTED", .field = "granted", .right = true}, FIELD_SIZE},
        {{.title = "USED", .field = "used_by_tenants", .right = true}, FIELD_SIZE},
        {{.title = "OTHERS", .field = "used_by_others", .right = true}, FIELD_SIZE},
        {{.field = "claimed_by_others"}, FIELD_SIZE},
        {{.title = "AVAILABLE", .field = "available", .right = true}, FIELD_SIZE},
        {{.title = "STATE", .field = "state"}, FIELD_STATE},
        {{.field = "driver_version"}, FIELD_TEXT},
};

static void add_field(struct output_table *table, size_t i, const json_t *device)
{
        const json_t *value = json_object_get(device, fields[i].column.field);
        const char *text;

        switch (fields[i].kind) {
        case FIELD_TEXT:
                output_cell_text(table, value);
                break;
        case FIELD_NUMBER:
                output_cell_number(table, value);
                break;
        case FIELD_SIZE:
                output_cell_size(table, value);
                break;
        case FIELD_STATE:
                text = json_string_value(value);
                output_cell(table, !text || strcmp(text, "ok") != 0 ? TONE_BAD : TONE_GOOD,
                        text ?: "-", text);
                break;
        }
}

/* One sentence for each thing that stands between a tenant and the whole device. */
static void print_obstacles(const json_t *device)
{
        static const struct {
                const char *field, *sentence;
        } obstacles[] = {
                {"granted", "is granted to tenants"},
                {"used_by_others", "is used by processes outside Cleave"},
                {"claimed_by_others", "is claimed by the daemons of other users"},
                {"memory_reserved", "is the driver's own"},
        };
        long long index = (long long)json_integer_value(json_object_get(device, "index"));
        const char *state = output_text(json_object_get(device, "state"), "unknown");

        if (strcmp(state, "ok") != 0)
                printf("GPU %lld: the driver does not answer for it (%s), so nothing can be "
                       "granted.\n",
                        index, state);
        for (size_t i = 0; i < ARRAY_SIZE(obstacles); i++) {
                const json_t *amount = json_object_get(device, obstacles[i].field);

                if (output_bytes(amount) > 0)
                        printf("GPU %lld: %s %s.\n", index, output_size(amount),
                                obstacles[i].sentence);
        }
}

static int print_devices(const json_t *devices, enum output_format format)
{
        struct output_column columns[ARRAY_SIZE(fields)];
        struct output_table *table;
        const json_t *device;
        size_t i;
        int r;

        for (i = 0; i < ARRAY_SIZE(fields); i++)
                columns[i] = fields[i].column;
        table = output_table_new(columns, ARRAY_SIZE(columns));
        if (!table)
                return -ENOMEM;
        json_array_foreach((json_t *)devices, i, device)
        {
                output_row(table);
                for (size_t j = 0; j < ARRAY_SIZE(fields); j++)
                        add_field(table, j, device);
        }
        r = output_table_print(table, format);
        output_table_free(table);
        if (format == OUTPUT_TABLE && json_array_size(devices) > 0) {
                printf("\n%s", output_tone(TONE_FAINT));
                json_array_foreach((json_t *)devices, i, device) print_obstacles(device);
                fputs(output_tone(TONE_PLAIN), stdout);
        }
        return r;
}

/* The memory of NVIDIA's GPUs, which sysfs does not tell, from the daemon's devices. */
static void add_memory(json_t *hardware, const json_t *devices)
{
        const json_t *device;
        json_t *gpu;
        size_t i, j;

        json_array_foreach(hardware, i, gpu)
        {
                const char *address = json_string_value(json_object_get(gpu, "address"));

                json_array_foreach((json_t *)devices, j, device)
                {
                        const char *pci = json_string_value(json_object_get(device, "pci"));
                        char own[PCI_ADDRESS_MAX];

                        if (pci && !json_is_true(json_object_get(device, "mig")) &&
                                pci_address_parse(pci, own) == 0 && strcmp(own, address) == 0)
                                json_object_set(
                                        gpu, "memory", json_object_get(device, "memory_total"));
                }
        }
}

static int run_devices(const struct cli_args *args)
{
        enum output_format format = output_format(args->value[OPT_OUTPUT]);
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_client_ struct client *client = NULL;
        json_t *result = NULL, *hardware = NULL;
        struct host host;
        bool any;
        int r;

        r = daemon_connect(
                DAEMON_START | daemon_take_sim(args->value[OPT_SIM]), &client, NULL, &error);
        if (r == 0)
                r = client_call(client, "device.list", NULL, &result, &error);
        if (r < 0)
                return cli_report(args->verb, &error);
        /* What cannot be looked at is not listed; the daemon's devices are what matters most. */
        machine_host(&host, args->value[OPT_SYSFS], args->value[OPT_PROC], NULL, NULL);
        if (survey_gpus(&host, &hardware) < 0)
                hardware = json_array();
        add_memory(hardware, json_object_get(result, "devices"));
        json_object_set(result, "hardware", hardware);
        any = json_array_size(json_object_get(result, "devices")) > 0;
        if (format == OUTPUT_JSON)
                r = output_json(result, SCHEMA);
        else if (format == OUTPUT_CSV || any)
                r = print_devices(json_object_get(result, "devices"), format);
        if (format == OUTPUT_TABLE && json_array_size(hardware) > 0) {
                printf("%son the PCI bus:\n", any ? "\n" : "");
                machine_print_gpus(hardware);
        }
        if (!any)
                fprintf(stderr,
                        "cleave devices: there is no GPU here that CUDA can use; `cleave doctor` "
                        "says why, and `cleave devices --sim` shows a simulated one\n");
        json_decref(hardware);
        json_decref(result);
        return output_end(r < 0 ? CLI_FAILED : CLI_OK);
}

static const struct cli_example examples[] = {
        {"cleave devices", "what there is, what can be granted now, what can be cut"},
        {"cleave devices --sim=h100x2", "the same of two simulated GPUs, no GPU needed"},
        {NULL, NULL},
};

const struct cli_verb verb_devices = {
        .name = "devices",
        .summary = "list GPUs and what can be granted on them",
        .description =
                "Lists the GPUs: their whole memory, what is granted to tenants, what these use of "
                "it, what processes outside Cleave use, and what can be granted now. Below the "
                "table stands a sentence for everything that keeps memory from being granted.\n\n"
                "Then follow the GPUs of the PCI bus, of all vendors: what each way of cutting or "
                "handing on could do with it now, and what stands in the way. JSON has the "
                "schema " SCHEMA " and lists them as hardware.",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .run = run_devices,
};
