/* SPDX-License-Identifier: Apache-2.0 */
/* cleave replay: makes the calls of a trace again, and says what came of it. */
#include <dlfcn.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/parse.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "trace/replay.h"
#include "trace/show.h"

#define SCHEMA           "cleave.replay/1"
#define DEFAULT_PATIENCE "30s"
#define MOST_SHOWN       50 /* differences in the text; JSON has all */

enum {
        OPT_VALUES,
        OPT_PROCESS,
        OPT_PATIENCE,
        OPT_OUTPUT,
};

static const struct cli_option options[] = {
        [OPT_VALUES] = {.name = "values",
                .help = "Compare what calls give back too, and not only their results. Another GPU "
                        "answers many with other values."},
        [OPT_PROCESS] = {.name = "process",
                .letter = 'p',
                .argument = "NUMBER",
                .help = "Replay one process only, by its number in the trace.",
                .preset = "all"},
        [OPT_PATIENCE] = {.name = "patience",
                .argument = "TIME",
                .help = "How long calls may take without any of them returning before those that "
                        "run are given up, with their process.",
                .preset = DEFAULT_PATIENCE},
        [OPT_OUTPUT] = OUTPUT_OPTION_NO_CSV,
};

struct tally {
        size_t calls, same, different, skipped;
        size_t contexts, currents; /* what was done unseen, as in struct replay_outcome */
        size_t of[REPLAY_UNWANTED + 1];
};

/* What did not come out as in the trace. */
static bool is_different(enum replay_state state)
{
        return state < REPLAY_SKIPPED && state != REPLAY_SAME;
}

static struct tally count(const struct trace_file *file, const struct replay_outcome *outcome)
{
        struct tally tally = {0};

        for (size_t i = 0; i < file->count; i++) {
                uint8_t state = outcome[i].state;

                if (file->events[i].record->entry == TRACE_ENTRY_PROCESS ||
                        state == REPLAY_UNWANTED)
                        continue;
                tally.calls++;
                tally.of[state]++;
                tally.same += state == REPLAY_SAME;
                tally.different += is_different(state);
                tally.skipped += state >= REPLAY_SKIPPED;
                tally.contexts += outcome[i].contexts;
                tally.currents += outcome[i].current;
        }
        return tally;
}

static json_t *difference_object(
        const struct trace_file *file, size_t i, const struct replay_outcome *outcome)
{
        _cleanup_free_ char *text = trace_call_text(file, &file->events[i]);
        struct trace_parts parts;
        bool good = trace_parts(file, &file->events[i], &parts) == 0;
        enum replay_state state = outcome->state;
        bool made = state == REPLAY_RESULT || state == REPLAY_VALUE || state == REPLAY_RETURNED;
        char a[16], b[16];

        return json_pack("{s:I, s:i, s:i, s:s, s:s?, s:s?, s:s?, s:s?}", "call", (json_int_t)i,
                "process", (int)file->events[i].process, "thread",
                (int)file->events[i].record->thread, "state", replay_state_word(state), "text",
                text, "recorded",
                good && parts.returned ? trace_result_name(parts.result, a) : NULL, "replayed",
                made ? trace_result_name(outcome->result, b) : NULL, "parameter",
                good && (state == REPLAY_VALUE || state == REPLAY_NO_HANDLE ||
                                state == REPLAY_LOST_HANDLE)
                        ? parts.entry->parameters[outcome->which].name
                        : NULL);
}

static int print_json(const struct trace_file *file, const struct replay_outcome *outcome,
        const struct tally *tally)
{
        json_t *list = json_array(), *states = json_object(), *object;
        int r;

        for (size_t i = 0; i < file->count; i++)
                if (is_different(outcome[i].state) ||
                        (outcome[i].state >= REPLAY_SKIPPED && outcome[i].state < REPLAY_UNWANTED))
                        json_array_append_new(list, difference_object(file, i, &outcome[i]));
        for (unsigned state = 0; state < REPLAY_UNWANTED; state++)
                if (tally->of[state])
                        json_object_set_new(states, replay_state_word(state),
                                json_integer((json_int_t)tally->of[state]));
        object = json_pack("{s:I, s:I, s:I, s:I, s:o, s:I, s:I, s:b, s:o}", "calls",
                (json_int_t)tally->calls, "same", (json_int_t)tally->same, "different",
                (json_int_t)tally->different, "skipped", (json_int_t)tally->skipped, "states",
                states, "contexts_assumed", (json_int_t)tally->contexts, "currents_assumed",
                (json_int_t)tally->currents, "cut", (int)(file->header->cut != 0), "differences",
                list);
        r = output_json(object, SCHEMA);
        json_decref(object);
        return r;
}

static void print_difference(
        const struct trace_file *file, size_t i, const struct replay_outcome *outcome)
{
        _cleanup_free_ char *text = trace_call_text(file, &file->events[i]);
        enum replay_state state = outcome->state;
        struct trace_parts parts;
        char a[16], b[16];

        printf("%u:%u  %s\n        %s", file->events[i].process, file->events[i].record->thread,
                text ?: "?", replay_state_text(state));
        if (trace_parts(file, &file->events[i], &parts) == 0) {
                if (state == REPLAY_RESULT)
                        printf(": %s, not %s", trace_result_name(outcome->result, b),
                                trace_result_name(parts.result, a));
                else if (state == REPLAY_RETURNED)
                        printf(": %s", trace_result_name(outcome->result, b));
                else if (state == REPLAY_VALUE)
                        printf(": %s", parts.entry->parameters[outcome->which].name);
        }
        putchar('\n');
}

static void print_text(const struct trace_file *file, const struct replay_outcome *outcome,
        const struct tally *tally)
{
        size_t shown = 0;

        for (size_t i = 0; i < file->count; i++)
                if (is_different(outcome[i].state) && outcome[i].state != REPLAY_PENDING &&
                        shown++ < MOST_SHOWN)
                        print_difference(file, i, &outcome[i]);
        if (shown > MOST_SHOWN)
                printf("and %zu more, which -o json lists\n", shown - MOST_SHOWN);
        printf("%zu calls: %zu with the same result, %zu not, %zu not replayed\n", tally->calls,
                tally->same, tally->different, tally->skipped);
        for (unsigned state = 0; state <= REPLAY_UNWANTED; state++)
                if (tally->of[state] && state != REPLAY_SAME &&
                        (state >= REPLAY_SKIPPED || state == REPLAY_PENDING))
                        printf("  %zu: %s\n", tally->of[state], replay_state_text(state));
        if (tally->contexts)
                printf("%zu context%s that no recorded call made %s taken for the primary one\n",
                        tally->contexts, tally->contexts == 1 ? "" : "s",
                        tally->contexts == 1 ? "was" : "were");
        if (tally->currents)
                printf("%zu time%s a thread was given a context that no recorded call gave it\n",
                        tally->currents, tally->currents == 1 ? "" : "s");
        if (file->header->cut)
                printf("the trace is cut: what came later is not in it\n");
}

static int replay(const struct cli_args *args, const struct trace_file *file,
        const struct replay_options *how, struct cleave_error *error)
{
        _cleanup_free_ struct replay_outcome *outcome = NULL;
        struct tally tally;

        if (how->process && !trace_find_process(file, how->process))
                return error_set(error, CLEAVE_REASON_NO_SUCH_PROCESS,
                        "the trace has no process %u", how->process);
        if (!dlopen("libcuda.so.1", RTLD_LAZY))
                return error_set(error, CLEAVE_REASON_NO_DRIVER,
                        "there is no driver to replay on: %s", dlerror());
        if (replay_run(file, how, &outcome, error) < 0)
                return -EIO;
        tally = count(file, outcome);
        if (output_format(args->value[OPT_OUTPUT]) == OUTPUT_JSON)
                print_json(file, outcome, &tally);
        else
                print_text(file, outcome, &tally);
        return tally.different > 0;
}

static int run_replay(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        struct replay_options how = {.values = args->count[OPT_VALUES] > 0};
        struct trace_file file;
        uint64_t process = 0;
        int r;

        if (parse_duration(args->value[OPT_PATIENCE] ?: DEFAULT_PATIENCE, &how.patience) < 0 ||
                how.patience == 0)
                return cli_usage(
                        args->verb, "'%s' is no time as 30s or 500ms", args->value[OPT_PATIENCE]);
        if (args->value[OPT_PROCESS] &&
                (parse_unsigned(args->value[OPT_PROCESS], UINT32_MAX, &process) < 0 || !process))
                return cli_usage(
                        args->verb, "'%s' is no number of a process", args->value[OPT_PROCESS]);
        how.process = (uint32_t)process;
        if (trace_file_open(args->operands[0], &file, &error) < 0)
                return cli_report(args->verb, &error);
        r = replay(args, &file, &how, &error);
        trace_file_done(&file);
        if (r < 0)
                return cli_report(args->verb, &error);
        return output_end(r > 0 ? CLI_FAILED : CLI_OK);
}

static const struct cli_example examples[] = {
        {"cleave replay app.trace", "on the driver of this machine"},
        {"cleave run --sim --memory 40G -- cleave replay app.trace",
                "in a tenant, on a simulated GPU"},
        {"cleave replay --values -o json app.trace", "compare values too; every difference"},
        {NULL, NULL},
};

const struct cli_verb verb_replay = {
        .name = "replay",
        .summary = "make the calls of a trace again, and compare the results",
        .operands = "FILE",
        .description =
                "Makes the calls of a trace that cleave trace has recorded: on the libcuda.so.1 "
                "that a program finds here, that is the driver, or inside cleave run a tenant's, "
                "or with --sim a simulated one. Each process and thread of the trace has one of "
                "its own, and a call is made when those have been that had returned before it "
                "began. Results that differ are reported.\n\n"
                "Handles and addresses are translated. Copies take zeros where the trace does not "
                "hold their contents, and the program's own functions are left out; so kernels "
                "compute other things than they did, and one that waits for what the program "
                "would have written waits in vain: --patience ends that. Calls that reach beyond "
                "the process, to another's memory or a display, are not replayed, nor those that "
                "came when the process was ending and the driver had ended before it.\n\n"
                "The CUDA runtime, which PyTorch and most programs use, does some things by "
                "functions of the driver's that have no names and that no trace sees. It makes "
                "a device's primary context so: a context that no recorded call made is taken for "
                "that, and a thread that must have had a context, and has none here, is given it. "
                "How often is said at the end (contexts_assumed and currents_assumed in JSON). "
                "Other things made unseen, as modules loaded by old runtimes, are not to be had: "
                "calls that use them are not made (unknown-handle), nor are those that use what "
                "these would have given (lost-handle). The same goes for kernels whose parameters "
                "the driver did not tell (unknown-parameters). None of these count as "
                "differences; states in JSON says how many there are of each.\n\n"
                "Ends with 0 if every call that was made had its result, with 1 if one differed. "
                "JSON has the schema " SCHEMA ".",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .least = 1,
        .most = 1,
        .run = run_replay,
};
