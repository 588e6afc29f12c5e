/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "base/format.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "cli/tenant.h"
#include "cli/verbs.h"

#define SCHEMA "cleave.inspect/1"

enum {
        OPT_OUTPUT,
};

static const struct cli_option options[] = {
        [OPT_OUTPUT] = OUTPUT_OPTION_NO_CSV,
};

static void line(const char *name, const char *value)
{
        printf("  %s%-18s%s%s\n", output_tone(TONE_FAINT), name, output_tone(TONE_PLAIN), value);
}

static void number_line(const char *name, const json_t *number)
{
        char text[24] = "-";

        if (json_is_integer(number))
                snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(number));
        line(name, text);
}

static void print_compute(const json_t *compute)
{
        static const struct {
                const char *word, *sentence;
        } demands[] = {
                {"none", "one without work"},
                {"backlog", "one who always has work waiting"},
                {"intermittent", "one who comes and goes"},
                {"loop", "one who waits for each of its kernels"},
        };
        const json_t *seconds = json_object_get(compute, "gpu_seconds");
        const json_t *share = json_object_get(compute, "gpu_share");
        const char *source = output_text(json_object_get(compute, "source"), "?");
        const char *why = output_text(json_object_get(compute, "mechanism_why"), "");
        const char *demand = output_text(json_object_get(compute, "demand"), "");
        bool gate = strcmp(output_text(json_object_get(compute, "mechanism"), ""), "gate") == 0;
        char text[256];

        if (!json_is_object(compute))
                return;
        snprintf(text, sizeof(text), "%.1f %%%s%s",
                json_number_value(json_object_get(compute, "target")) * 100,
                json_is_true(json_object_get(compute, "disabled")) ? ", not its turn now" : "",
                json_is_true(json_object_get(compute, "refused")) ? ", refused by the driver" : "");
        line("time aimed at", text);
        for (size_t i = 0; i < ARRAY_SIZE(demands); i++)
                if (strcmp(demand, demands[i].word) == 0)
                        line("taken for", demands[i].sentence);
        snprintf(text, sizeof(text), "a gate in its processes: %s", why);
        line("kept by", gate ? text
                        : json_is_true(json_object_get(compute, "by_clock"))
                                ? "its launches, by the clock: turns with another loop"
                                : "the GPU's own scheduler");
        snprintf(text, sizeof(text), "%lld us",
                (long long)json_integer_value(json_object_get(compute, "slice_us")));
        line("time slice",
                json_is_integer(json_object_get(compute, "slice_us")) ? text : "the driver's");
        snprintf(text, sizeof(text), "%.3f s", json_number_value(seconds));
        line("GPU time", json_is_number(seconds) ? text : "-");
        snprintf(text, sizeof(text), "%.1f %%", json_number_value(share) * 100);
        line("in the last second", json_is_number(share) ? text : "-");
        line("known from", strcmp(source, "switches") == 0 ? "the engine's context switches"
                           : strcmp(source, "markers") == 0
                                   ? "markers at the gate"
                                   : "our own slices and duty cycles alone");
}

static void print_device(const json_t *device)
{
        static const struct {
                const char *title, *field;
        } amounts[] = {
                {"quota", "memory"},
                {"quota at most", "memory_max"},
                {"used", "memory_used"},
                {"used at most", "memory_peak"},
                {"returning", "memory_returning"},
                {"driver counts", "memory_driver"},
        };

        printf("\n%sdevice %lld%s  %s\n", output_tone(TONE_STRONG),
                (long long)json_integer_value(json_object_get(device, "index")),
                output_tone(TONE_PLAIN), output_text(json_object_get(device, "device"), "?"));
        for (size_t i = 0; i < ARRAY_SIZE(amounts); i++)
                line(amounts[i].title, output_size(json_object_get(device, amounts[i].field)));
        number_line("refusals", json_object_get(device, "refusals"));
        print_compute(json_object_get(device, "compute"));
}

static void print_memories(const json_t *memory)
{
        const json_t *amount;
        size_t i;

        json_array_foreach((json_t *)memory, i, amount)
                printf("%s%s", i ? ", " : "", output_size(amount));
}

static void print_process(const json_t *process)
{
        printf("\n%sprocess %lld%s  %s\n", output_tone(TONE_STRONG),
                (long long)json_integer_value(json_object_get(process, "pid")),
                output_tone(TONE_PLAIN), output_text(json_object_get(process, "command"), "?"));
        line("state", output_text(json_object_get(process, "state"), "-"));
        printf("  %s%-18s%s", output_tone(TONE_FAINT), "memory", output_tone(TONE_PLAIN));
        print_memories(json_object_get(process, "memory"));
        putchar('\n');
        line("guard", output_text(json_object_get(process, "guard_version"), "-"));
        line("driver", output_text(json_object_get(process, "driver_version"), "-"));
        number_line("channel groups", json_object_get(process, "channel_groups"));
        number_line("channels", json_object_get(process, "channels"));
}

static void print_space(const json_t *tenant)
{
        const json_t *space = json_object_get(tenant, "space"), *name;
        const json_t *others = json_object_get(space, "fault_domain");
        const json_t *same = json_object_get(space, "shared_with");
        double part = json_number_value(json_object_get(space, "part"));
        const char *why = json_string_value(json_object_get(tenant, "sharing_why"));
        char text[160];
        size_t i;

        if (why)
                line("since", why);
        if (json_is_true(json_object_get(tenant, "untrusted")))
                line("trust", "none: never in one fault domain with others");
        if (!json_is_object(space))
                return;
        snprintf(text, sizeof(text), "%lld of %lld, in steps of %lld%s; contexts live on %lld",
                (long long)json_integer_value(json_object_get(space, "sms")),
                (long long)json_integer_value(json_object_get(space, "sms_device")),
                (long long)json_integer_value(json_object_get(space, "step")),
                json_is_true(json_object_get(space, "best_effort")) ? ", what is left over" : "",
                (long long)json_integer_value(json_object_get(space, "sms_held")));
        line("SMs", text);
        if (part > 0 && json_array_size(same) > 0) {
                snprintf(text, sizeof(text),
                        "%.0f %% guaranteed, %.1f %% aimed at, by turns at a gate in its processes",
                        part * 100, json_number_value(json_object_get(space, "part_target")) * 100);
                line("of their time", text);
                printf("  %s%-18s%s", output_tone(TONE_FAINT), "shared with",
                        output_tone(TONE_PLAIN));
                json_array_foreach(same, i, name)
                        printf("%s%s", i == 0 ? "" : ", ", json_string_value(name));
                putchar('\n');
        } else if (part > 0) {
                snprintf(text, sizeof(text),
                        "all of it, %.0f %% guaranteed: others with shares as small may come to it",
                        part * 100);
                line("of their time", text);
        }
        snprintf(text, sizeof(text), "%s, process %lld, started again %lld times",
                output_text(json_object_get(space, "server"), "?"),
                (long long)json_integer_value(json_object_get(space, "server_pid")),
                (long long)json_integer_value(json_object_get(space, "server_restarts")));
        line("MPS server", text);
        printf("  %s%-18s%s", output_tone(TONE_FAINT), "fault domain", output_tone(TONE_PLAIN));
        json_array_foreach(others, i, name)
                printf("%s%s", i == 0 ? "with " : ", ", json_string_value(name));
        puts(json_array_size(others) > 0 ? ": a fault in one ends all" : "nobody else in it now");
}

static void print_tenant(const json_t *tenant)
{
        const char *state = output_text(json_object_get(tenant, "state"), "?");
        const json_t *created = json_object_get(tenant, "created"), *item;
        char text[TENANT_COMMAND_MAX], when[32], age[FORMAT_DURATION_MAX];
        size_t i;

        printf("%s%s%s  %s\n", output_tone(TONE_STRONG),
                output_text(json_object_get(tenant, "name"), "?"), output_tone(TONE_PLAIN),
                output_text(json_object_get(tenant, "id"), "?"));
        snprintf(text, sizeof(text), "%s%s%s", output_tone(tenant_tone(state)), state,
                output_tone(TONE_PLAIN));
        line("state", text);
        line("command", tenant_command(text, tenant));
        number_line("pid", json_object_get(tenant, "pid"));
        number_line("uid", json_object_get(tenant, "uid"));
        snprintf(text, sizeof(text), "%s (%s ago)", time_of(when, created), age_of(age, created));
        line("created", text);
        line("sharing", output_text(json_object_get(tenant, "sharing"), "-"));
        print_space(tenant);
        line("compute", tenant_compute(text, sizeof(text), tenant));
        json_array_foreach(json_object_get(tenant, "devices"), i, item) print_device(item);
        json_array_foreach(json_object_get(tenant, "processes"), i, item) print_process(item);
}

static int run_inspect(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_client_ struct client *client = NULL;
        json_t *result = NULL;
        int r;

        r = daemon_connect(DAEMON_START, &client, NULL, &error);
        if (r == 0)
                r = client_call(client, "tenant.inspect",
                        json_pack("{s:s}", "tenant", args->operands[0]), &result, &error);
        if (r < 0)
                return cli_report(args->verb, &error);
        if (output_format(args->value[OPT_OUTPUT]) == OUTPUT_JSON)
                r = output_json(result, SCHEMA);
        else
                print_tenant(result);
        json_decref(result);
        return output_end(r < 0 ? CLI_FAILED : CLI_OK);
}

static const struct cli_example examples[] = {
        {"cleave inspect train", "everything about the tenant named train"},
        {NULL, NULL},
};

const struct cli_verb verb_inspect = {
        .name = "inspect",
        .summary = "show all about one tenant",
        .operands = "TENANT",
        .description = "Shows everything that is known about a tenant: its quota and use on every "
                       "device, and each of its processes. TENANT is a name, an id or a unique "
                       "start of one. JSON has the schema " SCHEMA ".",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .least = 1,
        .most = 1,
        .words = CLI_WORDS_TENANT,
        .run = run_inspect,
};
