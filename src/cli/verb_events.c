/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/parse.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "cli/tenant.h"
#include "cli/verbs.h"

#define SCHEMA "cleave.event/1"

enum {
        OPT_FOLLOW,
        OPT_SINCE,
        OPT_OUTPUT,
};

static const struct cli_option options[] = {
        [OPT_FOLLOW] =
                {
                        .name = "follow",
                        .letter = 'f',
                        .help = "Go on and show events as they happen, until interrupted.",
                },
        [OPT_SINCE] =
                {
                        .name = "since",
                        .letter = 's',
                        .argument = "SPAN",
                        .help = "Only what happened in the last SPAN, as 90, 10min or 2h.",
                        .preset = "all that the daemon has kept",
                },
        [OPT_OUTPUT] = OUTPUT_OPTION,
};

static enum output_tone tone_of(const char *kind)
{
        static const struct {
                const char *kind;
                enum output_tone tone;
        } tones[] = {
                {"memory-refused", TONE_WARN},
                {"process-refused", TONE_WARN},
                {"tenant-waiting", TONE_WARN},
                {"over-quota", TONE_BAD},
                {"stranger", TONE_BAD},
                {"stranger-killed", TONE_BAD},
                {"device-lost", TONE_BAD},
                {"journal-failed", TONE_BAD},
                {"page-damaged", TONE_BAD},
        };

        for (size_t i = 0; i < ARRAY_SIZE(tones); i++)
                if (strcmp(tones[i].kind, kind) == 0)
                        return tones[i].tone;
        return TONE_PLAIN;
}

static const struct output_column columns[] = {
        {.field = "serial"},
        {.field = "time"},
        {.field = "kind"},
        {.field = "tenant"},
        {.field = "device"},
        {.field = "pid"},
        {.field = "message"},
};

/* CSV comes a line at a time, as the events do. */
static int print_csv(const json_t *event, bool first)
{
        struct output_table *table = output_table_new(columns, ARRAY_SIZE(columns));
        const json_t *time = json_object_get(event, "time");
        char text[32];
        int r;

        if (!table)
                return -ENOMEM;
        output_row(table);
        output_cell_number(table, json_object_get(event, "serial"));
        snprintf(text, sizeof(text), "%.6f", json_number_value(time));
        output_cell(table, TONE_PLAIN, "", json_is_number(time) ? text : NULL);
        output_cell_text(table, json_object_get(event, "kind"));
        output_cell_text(table, json_object_get(event, "tenant"));
        output_cell_text(table, json_object_get(event, "device"));
        output_cell_number(table, json_object_get(event, "pid"));
        output_cell_text(table, json_object_get(event, "message"));
        r = output_csv(table, first);
        output_table_free(table);
        return r;
}

static int print_event(json_t *event, enum output_format format, bool first)
{
        const char *kind = output_text(json_object_get(event, "kind"), "?");
        char when[32];

        if (format == OUTPUT_JSON)
                return output_json_line(event, SCHEMA);
        if (format == OUTPUT_CSV)
                return print_csv(event, first);
        printf("%s%s%s  %s%-16s%s  %s\n", output_tone(TONE_FAINT),
                time_of(when, json_object_get(event, "time")), output_tone(TONE_PLAIN),
                output_tone(tone_of(kind)), kind, output_tone(TONE_PLAIN),
                output_text(json_object_get(event, "message"), ""));
        return 0;
}

static int watch(const struct cli_args *args, struct client *client, double since,
        struct cleave_error *error)
{
        enum output_format format = output_format(args->value[OPT_OUTPUT]);
        bool first = true;
        int r;

        r = client_send(client, "events.watch",
                json_pack("{s:i, s:b}", "since", 0, "follow", args->count[OPT_FOLLOW] > 0), NULL,
                error);
        while (r == 0 || r == -EINTR) {
                _cleanup_client_message_ struct client_message message = {0};

                r = client_receive(client, -1, &message, error);
                if (r <= 0)
                        continue;
                r = 0;
                if (message.kind == CLIENT_RESULT)
                        return 0;
                if (message.kind == CLIENT_FAILURE) {
                        r = reason_errno(message.error.code);
                        error_move(error, &message.error);
                } else if (json_number_value(json_object_get(message.value, "time")) >= since) {
                        r = print_event(message.value, format, first);
                        first = false;
                        if (r < 0)
                                return error_set_errno(error, r, "cannot show an event");
                        if (output_end(CLI_OK) != CLI_OK)
                                return 0;
                }
        }
        return r;
}

static int run_events(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_client_ struct client *client = NULL;
        double since = 0;
        uint64_t span;
        int r;

        if (args->value[OPT_SINCE]) {
                if (parse_duration(args->value[OPT_SINCE], &span) < 0)
                        return cli_usage(args->verb, "'%s' is no span of time, as 10min is",
                                args->value[OPT_SINCE]);
                since = (double)clock_usec(CLOCK_REALTIME) / (double)USEC_PER_SEC -
                        (double)span / (double)USEC_PER_SEC;
        }
        r = daemon_connect(DAEMON_START, &client, NULL, &error);
        if (r == 0)
                r = watch(args, client, since, &error);
        return r < 0 ? cli_report(args->verb, &error) : output_end(CLI_OK);
}

static const struct cli_example examples[] = {
        {"cleave events --follow", "watch what happens"},
        {"cleave events --since 1h -o json", "the last hour, an object a line"},
        {NULL, NULL},
};

const struct cli_verb verb_events = {
        .name = "events",
        .summary = "show what has happened",
        .description =
                "Shows what the daemon has seen: tenants and processes that came and went, memory "
                "that was refused, memory held outside any quota. JSON is an object a line, with "
                "the schema " SCHEMA ".",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .run = run_events,
};
