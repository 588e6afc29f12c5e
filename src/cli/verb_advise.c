/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/format.h"
#include "base/parse.h"
#include "cli/daemon.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "policy/mig.h"

#define SCHEMA "cleave.advice/1"

#define TRUSTS "same-owner mixed untrusted"
#define PLACES "process container vm"
#define NEEDS  "graphics licence migration training bursty resize peers remote"

enum {
        OPT_TRUST,
        OPT_IN,
        OPT_TENANTS,
        OPT_MEMORY,
        OPT_COMPUTE,
        OPT_LATENCY,
        OPT_MODEL,
        OPT_NEED,
        OPT_CALLS,
        OPT_ROUND_TRIP,
        OPT_GPU,
        OPT_SIM,
        OPT_OUTPUT,
        OPT_SYSFS,
        OPT_PROC,
};

static const struct cli_option options[] = {
        [OPT_TRUST] = {.name = "trust",
                .argument = "TRUST",
                .words = CLI_WORDS_LIST,
                .choices = TRUSTS,
                .help = "Whose the tenants are: one owner's, several owners' who mean no harm, or "
                        "untrusted.",
                .preset = "same-owner"},
        [OPT_IN] = {.name = "in",
                .argument = "PLACE",
                .words = CLI_WORDS_LIST,
                .choices = PLACES,
                .help = "What a tenant lives in: process, container or vm.",
                .preset = "process"},
        [OPT_TENANTS] = {.name = "tenants",
                .argument = "NUMBER",
                .help = "How many there are at the same time.",
                .preset = "1"},
        [OPT_MEMORY] = {.name = "memory",
                .letter = 'm',
                .argument = "SIZE",
                .help = "Device memory that one tenant needs, as 8G."},
        [OPT_COMPUTE] = {.name = "compute",
                .argument = "PERCENT",
                .help = "Part of a GPU's compute power that one tenant should have."},
        [OPT_LATENCY] = {.name = "latency",
                .argument = "TIME",
                .help = "99th percentile that has to be held, as 5ms."},
        [OPT_MODEL] = {.name = "model",
                .argument = "SIZE",
                .help = "Size of a model's weights, as 140G."},
        [OPT_NEED] = {.name = "need",
                .argument = "WORD",
                .repeatable = true,
                .words = CLI_WORDS_LIST,
                .choices = NEEDS,
                .help = "graphics; licence: vGPU licences are there; migration: live migration, "
                        "snapshots or checkpoints; training: steady and large; bursty: mostly "
                        "idle; resize: shares change within minutes; peers: GPUs talk to each "
                        "other; remote: the client has no GPU. May be given several times."},
        [OPT_CALLS] = {.name = "calls",
                .argument = "NUMBER",
                .help = "Calls a second that wait for the GPU, for --need remote."},
        [OPT_ROUND_TRIP] = {.name = "round-trip",
                .argument = "TIME",
                .help = "To the GPU's machine and back, as 1ms."},
        [OPT_GPU] = {.name = "gpu",
                .argument = "SIZE[xNUMBER]",
                .help = "Memory and number of the GPUs, where they are not here, as 80Gx8.",
                .preset = "this machine's"},
        [OPT_SIM] = SIM_OPTION,
        [OPT_OUTPUT] = OUTPUT_OPTION_NO_CSV,
        MACHINE_ROOTS(OPT_SYSFS, OPT_PROC),
};

static int index_of(const char *list, const char *word)
{
        size_t n = strlen(word);
        int i = 0;

        for (const char *p = list; *p; i++) {
                size_t length = strcspn(p, " ");

                if (length == n && strncmp(p, word, n) == 0)
                        return i;
                p += length + (p[length] == ' ');
        }
        return -1;
}

static int set_need(struct advise_ask *ask, const char *word, struct cleave_error *error)
{
        bool *const needs[] = {&ask->graphics, &ask->licence, &ask->migrate, &ask->training,
                &ask->bursty, &ask->resize, &ask->peers, &ask->no_gpu};
        int i = index_of(NEEDS, word);

        if (i < 0)
                return error_set(
                        error, CLEAVE_REASON_USAGE, "it is any of %s, not '%s'", NEEDS, word);
        *needs[i] = true;
        return 0;
}

/* One value by the name of its option; both the command line and the questions come here. */
static int set_value(
        struct advise_ask *ask, int option, const char *text, struct cleave_error *error)
{
        uint64_t number;

        switch (option) {
        case OPT_TRUST:
        case OPT_IN:
                number = (uint64_t)index_of(option == OPT_TRUST ? TRUSTS : PLACES, text);
                if (number > 2)
                        return error_set(error, CLEAVE_REASON_USAGE, "it is one of %s, not '%s'",
                                option == OPT_TRUST ? TRUSTS : PLACES, text);
                if (option == OPT_TRUST)
                        ask->trust = (enum advise_trust)number;
                else
                        ask->place = (enum advise_place)number;
                return 0;
        case OPT_TENANTS:
        case OPT_CALLS:
        case OPT_COMPUTE:
                if (parse_unsigned(text, option == OPT_COMPUTE ? 100 : 10000000, &number) < 0 ||
                        number == 0)
                        return error_set(error, CLEAVE_REASON_USAGE, "'%s' is no %s", text,
                                option == OPT_COMPUTE ? "percentage from 1 to 100" : "number");
                if (option == OPT_TENANTS)
                        ask->tenants = (unsigned)number;
                else if (option == OPT_CALLS)
                        ask->calls_per_second = (unsigned)number;
                else
                        ask->compute = (unsigned)number;
                return 0;
        case OPT_LATENCY:
        case OPT_ROUND_TRIP:
                if (parse_duration(text, &number) < 0 || number == 0)
                        return error_set(
                                error, CLEAVE_REASON_USAGE, "'%s' is no time as 5ms", text);
                if (option == OPT_LATENCY)
                        ask->latency_usec = number;
                else
                        ask->round_trip_usec = number;
                return 0;
        case OPT_MEMORY:
                return parse_size(text, &ask->memory, error);
        case OPT_MODEL:
                return parse_size(text, &ask->model, error);
        case OPT_NEED:
                return set_need(ask, text, error);
        }
        return 0;
}

static int read_gpus(const char *text, struct advise_machine *machine, struct cleave_error *error)
{
        _cleanup_free_ char *copy = strdup(text);
        char *x = copy ? strrchr(copy, 'x') : NULL;
        uint64_t number = 1;

        if (!copy)
                return error_set_errno(error, ENOMEM, "cannot read --gpu");
        if (x) {
                *x = '\0';
                if (parse_unsigned(x + 1, 100000, &number) < 0 || number == 0)
                        return error_set(
                                error, CLEAVE_REASON_USAGE, "'%s' is no number of GPUs", x + 1);
        }
        *machine = (struct advise_machine){.gpus = (unsigned)number, .instances = 7};
        return parse_size(copy, &machine->memory, error);
}

/* The questions, for a user at a terminal who gave no options. */
static int ask_user(struct advise_ask *ask, struct cleave_error *error)
{
        static const struct {
                int option;
                const char *question;
        } questions[] = {
                {OPT_TRUST, "Whose are the tenants? (" TRUSTS ") [same-owner]"},
                {OPT_IN, "What do they live in? (" PLACES ") [process]"},
                {OPT_TENANTS, "How many at the same time? [1]"},
                {OPT_MEMORY, "Device memory of one? (as 8G)"},
                {OPT_COMPUTE, "Percent of a GPU's compute power for one?"},
                {OPT_LATENCY, "A latency that has to be held? (as 5ms)"},
                {OPT_MODEL, "Size of a model's weights? (as 14G)"},
                {OPT_NEED, "Anything of this, separated by blanks? (" NEEDS ")"},
        };

        fprintf(stderr,
                "A tenant is a program, container or VM that gets a part of a GPU. An empty answer "
                "leaves a question open.\n");
        for (size_t i = 0; i < ARRAY_SIZE(questions);) {
                char line[256], *word, *rest = line;
                int r = 0;

                fprintf(stderr, "%s ", questions[i].question);
                if (!fgets(line, sizeof(line), stdin))
                        return error_set(error, CLEAVE_REASON_USAGE, "the answers ended");
                line[strcspn(line, "\n")] = '\0';
                while (r == 0 && (word = strsep(&rest, " ")))
                        if (*word)
                                r = set_value(ask, questions[i].option, word, error);
                if (r < 0)
                        fprintf(stderr, "%s\n", error_message(error));
                else
                        i++;
        }
        return 0;
}

/* The daemon's GPUs, a new reference. */
static int daemon_devices(unsigned flags, json_t **ret, struct cleave_error *error)
{
        _cleanup_client_ struct client *client = NULL;
        json_t *result = NULL;
        int r;

        r = daemon_connect(DAEMON_START | DAEMON_QUIET | flags, &client, NULL, error);
        if (r == 0)
                r = client_call(client, "device.list", NULL, &result, error);
        if (r == 0)
                *ret = json_incref(json_object_get(result, "devices"));
        json_decref(result);
        return r;
}

/* The least memory of a list's GPUs, which sysfs does not tell; 0: not known. */
static uint64_t smallest_memory(const json_t *devices)
{
        const json_t *device;
        uint64_t least = 0;
        size_t i;

        json_array_foreach((json_t *)devices, i, device)
        {
                uint64_t total = output_bytes(json_object_get(device, "memory_total"));

                least = least && least < total ? least : total;
        }
        return least;
}

/* GPUs that CUDA can use where sysfs shows none, as in a container, or simulated ones. */
static void machine_of_devices(
        const json_t *devices, const struct host *host, struct advise_machine *machine)
{
        const char *pci = json_string_value(json_object_get(json_array_get(devices, 0), "pci"));
        static const enum advise_way unseen[] = {
                ADVISE_PASSTHROUGH, ADVISE_SRIOV, ADVISE_VGPU, ADVISE_MIG_VGPU};
        char address[PCI_ADDRESS_MAX];
        struct mig_driver driver;

        machine->gpus = (unsigned)json_array_size(devices);
        if (machine->gpus == 0)
                return;
        for (size_t i = 0; i < ARRAY_SIZE(unseen); i++)
                machine->blocked[unseen[i]] = "the GPU's PCI function is not to be seen here";
        if (!pci || pci_address_parse(pci, address) < 0 || !host->mig ||
                mig_driver_read(host->mig, host->msec, address, &driver, NULL) < 0)
                return;
        machine->instances = driver.geometry.profiles[0].most;
        if (!driver.on)
                machine->blocked[ADVISE_MIG] = "MIG mode is off";
}

/* What is not built yet blocks wherever it would be best. */
static void mark_what_is_missing(const struct advise_ask *ask, struct advise_machine *machine)
{
        machine->blocked[ADVISE_REMOTE] = "this version of Cleave does not offer it yet";
        if (ask->place == ADVISE_CONTAINER && !machine->blocked[ADVISE_SPATIAL])
                machine->blocked[ADVISE_SPATIAL] =
                        "this version of Cleave does not offer it to containers yet";
}

/* What DEVICE stands for in commands: the first GPU; empty where there is none, or not here. */
struct names {
        char address[PCI_ADDRESS_MAX], uuid[FORMAT_UUID_MAX];
};

static void name_devices(const json_t *gpus, const json_t *devices, struct names *ret)
{
        const char *address =
                json_string_value(json_object_get(json_array_get(gpus, 0), "address"));
        const json_t *device = json_array_get(devices, 0);
        const char *uuid = json_string_value(json_object_get(device, "uuid"));

        address = address ?: json_string_value(json_object_get(device, "pci"));
        if (address)
                pci_address_parse(address, ret->address);
        snprintf(ret->uuid, sizeof(ret->uuid), "%s", uuid ?: "");
}

/* How to get it. What the machine does not tell is left for the user to fill in. */
static const char *const commands[ADVISE_N_WAYS] = {
        [ADVISE_QUOTA] = "cleave run --memory %s -- COMMAND",
        [ADVISE_SLICES] = "cleave run --memory %s --compute PERCENT -- COMMAND",
        [ADVISE_SPATIAL] = "cleave run --memory %s --compute PERCENT --sharing spatial -- COMMAND",
        [ADVISE_WHOLE] = "cleave run --memory 100%% -- COMMAND",
        [ADVISE_PLAIN] = "COMMAND",
        [ADVISE_PASSTHROUGH] = "cleave passthrough check DEVICE; cleave passthrough attach DEVICE",
        [ADVISE_SRIOV] = "cleave partition create sriov DEVICE --count NUMBER",
        [ADVISE_VGPU] = "cleave partition create vgpu DEVICE --type TYPE",
        [ADVISE_MIG_VGPU] = "cleave partition create mig DEVICE --turn-on-mig --want %s; "
                            "cleave partition create vgpu FUNCTION --type TYPE",
        [ADVISE_MIG] = "cleave partition create mig DEVICE --turn-on-mig --want %s",
        [ADVISE_MPS] = "cleave mps start DEVICE --memory %s",
};

static void command_of(enum advise_way way, const struct advise_ask *ask, const struct names *names,
        char *ret, size_t size)
{
        const char *device = way == ADVISE_MPS ? names->uuid : names->address;
        char memory[FORMAT_DURATION_MAX] = "", words[64], text[256];
        const char *rest, *at;
        size_t used = 0;

        ret[0] = '\0';
        if (!commands[way])
                return;
        if (ask->memory)
                format_size_exact(memory, ask->memory);
        if (way != ADVISE_MIG && way != ADVISE_MIG_VGPU)
                snprintf(words, sizeof(words), "%s", *memory ? memory : "QUOTA");
        else
                snprintf(words, sizeof(words), "%ux%s", MAX_OF(ask->tenants, 1u),
                        *memory ? memory : "PROFILE");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof(text), commands[way], words);
#pragma GCC diagnostic pop
        for (rest = text; used < size && (at = strstr(rest, "DEVICE")); rest = at + 6)
                used += (size_t)snprintf(ret + used, size - used, "%.*s%s", (int)(at - rest), rest,
                        *device ? device : "DEVICE");
        if (used < size)
                snprintf(ret + used, size - used, "%s", rest);
}

static void print_split(const struct advise_split *split, uint64_t model)
{
        char weights[FORMAT_SIZE_MAX], each[FORMAT_SIZE_MAX];

        printf("\nThe model's %s of weights, and a fifth more for caches and activations, need %u "
               "GPUs.\nSplit it by tensor parallelism over %u GPUs",
                format_size(weights, model), split->gpus, split->tensor);
        if (split->pipeline > 1)
                printf(" and into %u pipeline stages", split->pipeline);
        printf(": %s of weights on each of %u.\n", format_size(each, split->bytes_each),
                split->tensor * split->pipeline);
}

/* What was understood, so that what was left open is seen. */
static void print_ask(const struct advise_ask *ask)
{
        static const char *const trusts[] = {"of one owner", "of several owners", "of strangers"};
        static const char *const places[] = {"in processes", "in containers", "in VMs"};
        unsigned tenants = MAX_OF(ask->tenants, 1u);
        char text[FORMAT_SIZE_MAX];

        printf("For %u tenant%s %s, %s", tenants, tenants > 1 ? "s" : "", trusts[ask->trust],
                places[ask->place]);
        if (ask->memory)
                printf(", %s of memory each", format_size(text, ask->memory));
        if (ask->compute)
                printf(", %u %% of a GPU's compute power each", ask->compute);
        printf(":\n\n");
}

static void print_rejected(const struct advise_answer *answer)
{
        bool said[ADVISE_N_WAYS] = {false};

        if (answer->n_rejected)
                printf("\nNot for this:\n");
        for (size_t i = 0; i < answer->n_rejected; i++) {
                const struct advise_rule *rule = answer->rejected[i].rule;

                if (said[i])
                        continue;
                for (size_t j = i; j < answer->n_rejected; j++) {
                        if (answer->rejected[j].rule != rule)
                                continue;
                        said[j] = true;
                        printf("%s%s", j == i ? "  " : "; ",
                                advise_way_meaning(answer->rejected[j].way));
                }
                printf(".\n     %s\n", rule->reason);
        }
}

static void print_answer(const struct advise_ask *ask, const struct advise_machine *machine,
        const struct names *names, const struct advise_answer *answer)
{
        size_t rank = 0, chosen = answer->n_ranked;

        if (machine->gpus == 0)
                printf("There is no GPU here; on a machine with some this would be right "
                       "(--gpu 80Gx8 describes one, --sim simulates one).\n\n");
        print_ask(ask);
        for (size_t i = 0; i < answer->n_ranked; i++)
                if (chosen == answer->n_ranked && !answer->ranked[i].blocked)
                        chosen = i;
        for (size_t i = 0; i < answer->n_ranked; i++) {
                enum advise_way way = answer->ranked[i].way;
                char command[256];

                printf("%zu. %s%s%s%s\n", ++rank, output_tone(i == chosen ? TONE_GOOD : TONE_PLAIN),
                        advise_way_meaning(way), i == chosen ? " (take this)" : "",
                        output_tone(TONE_PLAIN));
                if (i == 0 || i == chosen || answer->ranked[i].rule != answer->ranked[i - 1].rule)
                        printf("     %s\n     (%s)\n", answer->ranked[i].rule->reason,
                                answer->ranked[i].rule->source);
                if (answer->ranked[i].blocked)
                        printf("     %s: %s.\n",
                                i == 0 ? "would be best, but is blocked" : "blocked",
                                answer->ranked[i].blocked);
                command_of(way, ask, names, command, sizeof(command));
                if (*command && (i == 0 || !answer->ranked[i].blocked))
                        printf("     %s$ %s\n", answer->ranked[i].blocked ? "then: " : "", command);
        }
        if (answer->n_ranked == 0)
                printf("Nothing fits all of that.\n");
        if (answer->split.gpus)
                print_split(&answer->split, ask->model);
        print_rejected(answer);
}

static int print_json(const struct advise_ask *ask, const struct advise_machine *machine,
        const struct names *names, const struct advise_answer *answer)
{
        json_t *ranked = json_array(), *rejected = json_array(), *object;
        int r;

        for (size_t i = 0; i < answer->n_ranked; i++) {
                char command[256];

                command_of(answer->ranked[i].way, ask, names, command, sizeof(command));
                json_array_append_new(ranked,
                        json_pack("{s:s,s:s,s:s,s:s,s:s,s:s?,s:s?}", "way",
                                advise_way_word(answer->ranked[i].way), "meaning",
                                advise_way_meaning(answer->ranked[i].way), "rule",
                                answer->ranked[i].rule->name, "reason",
                                answer->ranked[i].rule->reason, "source",
                                answer->ranked[i].rule->source, "blocked",
                                answer->ranked[i].blocked, "command", *command ? command : NULL));
        }
        for (size_t i = 0; i < answer->n_rejected; i++)
                json_array_append_new(
                        rejected, json_pack("{s:s,s:s,s:s,s:s}", "way",
                                          advise_way_word(answer->rejected[i].way), "rule",
                                          answer->rejected[i].rule->name, "reason",
                                          answer->rejected[i].rule->reason, "source",
                                          answer->rejected[i].rule->source));
        object = json_pack("{s:I,s:o,s:o}", "gpus", (json_int_t)machine->gpus, "ranked", ranked,
                "rejected", rejected);
        if (answer->split.gpus)
                json_object_set_new(object, "split",
                        json_pack("{s:I,s:I,s:I,s:I}", "gpus", (json_int_t)answer->split.gpus,
                                "tensor", (json_int_t)answer->split.tensor, "pipeline",
                                (json_int_t)answer->split.pipeline, "bytes_each",
                                (json_int_t)answer->split.bytes_each));
        else
                json_object_set_new(object, "split", json_null());
        r = output_json(object, SCHEMA);
        json_decref(object);
        return r;
}

static int run_advise(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        struct advise_machine machine = {0};
        struct advise_ask ask = {0};
        struct advise_answer answer;
        struct names names = {0};
        json_t *gpus = NULL, *devices = NULL;
        unsigned flags = daemon_take_sim(args->value[OPT_SIM]);
        bool sim = flags & DAEMON_SIM;
        struct host host;
        int r = 0;

        for (int i = 0; r == 0 && i < args->n_given; i++)
                r = set_value(&ask, args->given[i].option, args->given[i].value, &error);
        if (r == 0 && args->n_given <= (args->count[OPT_SIM] > 0) && isatty(STDIN_FILENO) &&
                output_terminal())
                r = ask_user(&ask, &error);
        if (r == 0 && args->value[OPT_GPU])
                r = read_gpus(args->value[OPT_GPU], &machine, &error);
        else if (r == 0) {
                machine_host(&host, args->value[OPT_SYSFS], args->value[OPT_PROC], NULL, NULL);
                r = survey_gpus(&host, &gpus);
                if (r < 0)
                        error_set_errno(&error, r, "cannot look at the machine's devices");
                else {
                        /* where no daemon runs, sysfs says enough; but not of simulated GPUs */
                        if (!args->value[OPT_SYSFS] || sim)
                                r = daemon_devices(flags, &devices, sim ? &error : NULL);
                        if (!sim)
                                r = 0;
                        name_devices(gpus, devices, &names);
                        survey_machine(gpus, smallest_memory(devices), &machine);
                        if (machine.gpus == 0 || sim)
                                machine_of_devices(devices, &host, &machine);
                }
        }
        json_decref(devices);
        if (r < 0) {
                json_decref(gpus);
                return error.code == CLEAVE_REASON_USAGE
                               ? cli_usage(args->verb, "%s", error_message(&error))
                               : cli_report(args->verb, &error);
        }
        mark_what_is_missing(&ask, &machine);
        advise(&ask, &machine, &answer);
        if (output_format(args->value[OPT_OUTPUT]) == OUTPUT_JSON)
                print_json(&ask, &machine, &names, &answer);
        else
                print_answer(&ask, &machine, &names, &answer);
        json_decref(gpus);
        return output_end(CLI_OK);
}

static const struct cli_example examples[] = {
        {"cleave advise --tenants 6 --memory 10G --need bursty", "notebooks of one owner"},
        {"cleave advise --trust untrusted --in vm", "a VM that may be hostile"},
        {"cleave advise --model 140G --gpu 80Gx8", "a model larger than a GPU"},
        {NULL, NULL},
};

const struct cli_verb verb_advise = {
        .name = "advise",
        .summary = "say how a GPU is best shared for a purpose",
        .description =
                "Ranks the ways of sharing this machine's GPUs for what the options describe: the "
                "reasons, where they are known from, what blocks the best one here, and the "
                "commands to get it. Says so where slicing is the wrong tool. At a terminal, "
                "without options, it asks.\n\n"
                "The advice is a table of rules. JSON has the schema " SCHEMA ".",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .run = run_advise,
};
