/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "base/format.h"
#include "base/parse.h"
#include "cli/daemon.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "partition/migdriver.h"

#define SCHEMA         "cleave.partition/1"
#define SCHEMA_LIST    "cleave.partitions/1"
#define SCHEMA_LAYOUTS "cleave.layouts/1"

enum {
        OPT_TYPE,
        OPT_COUNT,
        OPT_UUID,
        OPT_MEMORY,
        OPT_MEMORY_MODE,
        OPT_QUANTUM,
        OPT_PREEMPT,
        OPT_WANT,
        OPT_COMPUTE,
        OPT_TURN_ON,
        OPT_FOR,
        OPT_DRY_RUN,
        OPT_ANY_DEVICE,
        OPT_OUTPUT,
        OPT_SYSFS,
        OPT_PROC,
        OPT_STATE,
};

static const struct cli_option options[] = {
        [OPT_TYPE] = {.name = "type",
                .letter = 't',
                .argument = "TYPE",
                .help = "Type of the vGPU or mediated device by name, as A30-6C, or the compute "
                        "mode of an AMD Instinct, as CPX."},
        [OPT_COUNT] = {.name = "count",
                .letter = 'c',
                .argument = "NUMBER",
                .help = "How many virtual functions to make."},
        [OPT_UUID] = {.name = "uuid",
                .argument = "UUID",
                .help = "Of the mediated device.",
                .preset = "a new one"},
        [OPT_MEMORY] = {.name = "memory",
                .letter = 'm',
                .argument = "SIZE",
                .help = "Memory of each virtual function (Intel xe)."},
        [OPT_MEMORY_MODE] = {.name = "memory-mode",
                .argument = "MODE",
                .help = "Memory mode of an AMD Instinct, as NPS4."},
        [OPT_QUANTUM] = {.name = "quantum",
                .argument = "TIME",
                .help = "Turn of each virtual function (Intel xe), as 20ms."},
        [OPT_PREEMPT] = {.name = "preempt",
                .argument = "TIME",
                .help = "After which it is made to end its turn (Intel xe), as 100ms."},
        [OPT_WANT] = {.name = "want",
                .letter = 'w',
                .argument = "INSTANCES",
                .help = "MIG instances, by size or profile, as 3x10G,rest or 2x1g.10gb,3g.40gb. "
                        "With "
                        "layouts: find the best layout for these."},
        [OPT_COMPUTE] = {.name = "compute-instances",
                .argument = "NUMBER",
                .help = "Into how many equal compute instances each new MIG instance is cut; they "
                        "share its memory.",
                .preset = "1"},
        [OPT_TURN_ON] = {.name = "turn-on-mig",
                .help = "Turn on MIG mode where it is off. It is never turned on without this."},
        [OPT_FOR] = {.name = "for",
                .argument = "SYSTEM",
                .words = CLI_WORDS_LIST,
                .choices = FORM_WORDS,
                .help = "For show: the words by which that system gives it to a VM or, with cdi, "
                        "podman and pod, to a container.",
                .preset = "qemu"},
        [OPT_DRY_RUN] = {.name = "dry-run",
                .letter = 'n',
                .help = "Print every write that create would make, and make none."},
        [OPT_ANY_DEVICE] = {.name = "any-device",
                .help = "Also take devices that are no GPUs, as network cards beside them."},
        [OPT_OUTPUT] = OUTPUT_OPTION_NO_CSV,
        MACHINE_ROOTS(OPT_SYSFS, OPT_PROC),
        [OPT_STATE] = {.name = "state",
                .argument = "DIRECTORY",
                .help = "Where records of what was made are kept.",
                .preset = HOST_STATE_DIR},
};

struct partition {
        const struct cli_args *args;
        struct host host;
        bool json;
};

static const char *standing_word(const struct host *host, const struct change *change)
{
        switch (change_standing(host, change)) {
        case CHANGE_STANDS:
                return change->phase == CHANGE_DONE ? "stands" : "cut short";
        case CHANGE_PARTLY:
                return change->phase == CHANGE_DONE ? "changed by others" : "cut short";
        case CHANGE_GONE:
                return "gone";
        case CHANGE_UNKNOWN:
                break;
        }
        return "not known";
}

static int run_list(struct partition *p, struct cleave_error *error)
{
        static const struct output_column columns[] = {
                {.title = "ID"},
                {.title = "TECHNIQUE"},
                {.title = "DEVICE"},
                {.title = "STATE"},
        };
        struct output_table *table;
        struct change *changes;
        size_t n, bad;
        json_t *list;
        int r;

        r = change_load_all(&p->host, &changes, &n, &bad);
        if (r < 0)
                return error_set_errno(error, r, "cannot read the records in %s", p->host.state);
        table = output_table_new(columns, ARRAY_SIZE(columns));
        list = json_array();
        for (size_t i = 0; table && i < n; i++) {
                const char *standing = standing_word(&p->host, changes + i);
                json_t *item = change_to_json(changes + i);

                json_object_set_new(item, "state", json_string(standing));
                json_array_append_new(list, item);
                output_row(table);
                output_cell(table, TONE_PLAIN, changes[i].id, NULL);
                output_cell(table, TONE_PLAIN, changes[i].technique, NULL);
                output_cell(table, TONE_PLAIN, changes[i].device, NULL);
                output_cell(table, strcmp(standing, "stands") == 0 ? TONE_GOOD : TONE_WARN,
                        standing, NULL);
        }
        change_free_all(changes, n);
        if (p->json) {
                json_t *object = json_pack("{s:O}", "partitions", list);

                r = output_json(object, SCHEMA_LIST);
                json_decref(object);
        } else if (table)
                r = output_table_print(table, OUTPUT_TABLE);
        output_table_free(table);
        json_decref(list);
        if (bad)
                fprintf(stderr, "cleave partition: %zu records in %s cannot be read\n", bad,
                        p->host.state);
        return r < 0 ? error_set_errno(error, r, "cannot print the list") : 0;
}

static void say_outcome(void *context, const struct change *change, const char *outcome,
        const struct cleave_error *error)
{
        printf("%s %s%s%s\n", change->id, outcome, error ? ", but " : "",
                error ? error_message(error) : "");
}

static int run_reconcile(struct partition *p, struct cleave_error *error)
{
        return change_reconcile(&p->host, say_outcome, NULL, error);
}

static int read_ask(struct partition *p, struct technique_ask *ask, struct cleave_error *error)
{
        const struct cli_args *args = p->args;
        uint64_t number;

        *ask = (struct technique_ask){
                .type = args->value[OPT_TYPE],
                .memory_mode = args->value[OPT_MEMORY_MODE],
                .uuid = args->value[OPT_UUID],
                .want = args->value[OPT_WANT],
                .turn_on = args->count[OPT_TURN_ON],
                .any_device = args->count[OPT_ANY_DEVICE],
        };
        if (args->value[OPT_COUNT]) {
                if (parse_unsigned(args->value[OPT_COUNT], 65535, &number) < 0 || number == 0)
                        return error_set(error, CLEAVE_REASON_USAGE,
                                "'%s' is no number of virtual functions", args->value[OPT_COUNT]);
                ask->count = (unsigned)number;
        }
        if (args->value[OPT_COMPUTE]) {
                if (parse_unsigned(args->value[OPT_COMPUTE], MIG_SLICES_MAX, &number) < 0 ||
                        number == 0)
                        return error_set(error, CLEAVE_REASON_USAGE,
                                "'%s' is no number of compute instances", args->value[OPT_COMPUTE]);
                ask->compute = (unsigned)number;
        }
        if (args->value[OPT_QUANTUM]) {
                if (parse_duration(args->value[OPT_QUANTUM], &number) < 0 || number < 1000)
                        return error_set(error, CLEAVE_REASON_USAGE, "'%s' is no turn as 20ms",
                                args->value[OPT_QUANTUM]);
                ask->quantum_msec = number / 1000;
        }
        if (args->value[OPT_PREEMPT]) {
                if (parse_duration(args->value[OPT_PREEMPT], &number) < 0 || number == 0)
                        return error_set(error, CLEAVE_REASON_USAGE, "'%s' is no time as 100ms",
                                args->value[OPT_PREEMPT]);
                ask->preempt_usec = number;
        }
        return args->value[OPT_MEMORY] ? parse_size(args->value[OPT_MEMORY], &ask->memory, error)
                                       : 0;
}

static int make(struct partition *p, const struct technique *technique, const char *device,
        const struct technique_ask *ask, struct cleave_error *error)
{
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        _cleanup_change_ struct change change = {0};
        int r;

        if (p->args->count[OPT_DRY_RUN]) {
                r = technique_plan(technique, &p->host, device, ask, &change, &obstacles, error);
                if (r == 0 && !p->json)
                        change_print(stdout, &p->host, &change);
        } else {
                r = technique_apply(technique, &p->host, device, ask, &change, &obstacles, error);
                if (r == 0 && !p->json)
                        printf("%s\n", change.id);
        }
        if (p->json) {
                json_t *object = json_pack("{s:o}", "obstacles", survey_obstacles(&obstacles));

                if (change.geometry)
                        json_object_set_new(object, "plan", change_to_json(&change));
                output_json(object, SCHEMA);
                json_decref(object);
        } else
                machine_print_obstacles(stderr, &obstacles);
        return r;
}

static int run_create(struct partition *p, struct cleave_error *error)
{
        const struct technique *technique = technique_find(p->args->operands[1]);
        struct technique_ask ask;
        int r;

        if (!technique)
                return error_set(error, CLEAVE_REASON_USAGE,
                        "there is no technique %s: mig, sriov, vgpu, mediated or modes",
                        p->args->operands[1]);
        r = read_ask(p, &ask, error);
        return r < 0 ? r : make(p, technique, p->args->operands[2], &ask, error);
}

/* Another layout in the place of what was made. */
static int run_change(struct partition *p, struct cleave_error *error)
{
        _cleanup_change_ struct change change = {0};
        struct technique_ask ask;
        int r;

        r = read_ask(p, &ask, error);
        if (r == 0)
                r = change_load(&p->host, p->args->operands[1], &change, error);
        if (r < 0)
                return r;
        if (strcmp(change.technique, technique_mig.name) != 0) {
                error_set(error, CLEAVE_REASON_BAD_REQUEST, "%s cannot be changed", change.id);
                error_set_hint(error, "Remove it and make it anew.");
                return -EINVAL;
        }
        ask.replace = true;
        return make(p, &technique_mig, change.device, &ask, error);
}

static int run_remove(struct partition *p, struct cleave_error *error)
{
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        int r;

        r = technique_undo(&p->host, p->args->operands[1], &obstacles, error);
        machine_print_obstacles(stderr, &obstacles);
        return r;
}

static int run_show(struct partition *p, struct cleave_error *error)
{
        _cleanup_change_ struct change change = {0};
        enum technique_form form = FORM_QEMU;
        int r;

        if (p->args->value[OPT_FOR])
                form_parse(p->args->value[OPT_FOR], &form);
        r = change_load(&p->host, p->args->operands[1], &change, error);
        if (r < 0)
                return r;
        if (p->json) {
                json_t *json = change_to_json(&change);

                r = output_json(json, SCHEMA);
                json_decref(json);
                return r;
        }
        return machine_show(&p->host, &change, form, error);
}

static json_t *profiles_json(const struct mig_geometry *geometry)
{
        json_t *list = json_array();

        for (unsigned i = 0; i < geometry->n_profiles; i++) {
                const struct mig_profile *p = geometry->profiles + i;
                json_t *starts = json_array(), *profile;

                for (int s = 0; s < geometry->slices; s++)
                        if (p->starts >> s & 1)
                                json_array_append_new(starts, json_integer(s));
                profile = json_pack("{s:s,s:i,s:i,s:i,s:i,s:i,s:o}", "name", p->name, "number",
                        p->number, "id", p->id, "size", p->size, "compute", p->compute, "most",
                        p->most, "starts", starts);
                json_object_set_new(profile, "memory",
                        p->memory_mib ? json_integer((json_int_t)p->memory_mib << 20)
                                      : json_null());
                json_object_set_new(
                        profile, "multiprocessors", p->sms ? json_integer(p->sms) : json_null());
                json_array_append_new(list, profile);
        }
        return list;
}

static void print_profiles(const struct mig_geometry *geometry)
{
        static const struct output_column columns[] = {
                {.title = "PROFILE"},
                {.title = "ID", .right = true},
                {.title = "MEMORY", .right = true},
                {.title = "SMS", .right = true},
                {.title = "AT MOST", .right = true},
                {.title = "SLICES", .right = true},
                {.title = "STARTS"},
        };
        struct output_table *table = output_table_new(columns, ARRAY_SIZE(columns));

        for (unsigned i = 0; table && i < geometry->n_profiles; i++) {
                const struct mig_profile *p = geometry->profiles + i;
                char text[64], size[FORMAT_SIZE_MAX];
                size_t used = 0;

                output_row(table);
                output_cell(table, TONE_PLAIN, p->name, NULL);
                snprintf(text, sizeof(text), "%u", p->id);
                output_cell(table, TONE_PLAIN, text, NULL);
                output_cell(table, TONE_PLAIN,
                        p->memory_mib ? format_size(size, (uint64_t)p->memory_mib << 20) : "-",
                        NULL);
                snprintf(text, sizeof(text), "%u", p->sms);
                output_cell(table, TONE_PLAIN, p->sms ? text : "-", NULL);
                snprintf(text, sizeof(text), "%u", p->most);
                output_cell(table, TONE_PLAIN, text, NULL);
                snprintf(text, sizeof(text), "%u", p->size);
                output_cell(table, TONE_PLAIN, text, NULL);
                for (int s = 0; s < geometry->slices; s++)
                        if (p->starts >> s & 1)
                                used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%d",
                                        used ? "," : "", s);
                output_cell(table, TONE_PLAIN, text, NULL);
        }
        if (table)
                output_table_print(table, OUTPUT_TABLE);
        output_table_free(table);
}

/* The best layout for the wishes, and how the vendor's tool is told of it. */
static int plan_layout(struct partition *p, const struct mig_geometry *geometry, json_t *object,
        struct cleave_error *error)
{
        struct mig_want wants[MIG_SLICES_MAX];
        struct mig_plan plan;
        json_t *list;
        int n, r;

        n = mig_wants_parse(geometry, p->args->value[OPT_WANT], wants, error);
        if (n < 0)
                return n;
        r = mig_plan(geometry, NULL, 0, wants, (size_t)n, MIG_ADD, &plan);
        if (r < 0)
                return error_set(error, CLEAVE_REASON_BEYOND_DEVICE, "no layout of the %s holds %s",
                        geometry->name, p->args->value[OPT_WANT]);
        list = json_array();
        if (!p->json)
                printf("\nlayout for %s:\n", p->args->value[OPT_WANT]);
        for (int i = 0; i < n; i++) {
                const struct mig_profile *profile = geometry->profiles + plan.place[i].profile;

                json_array_append_new(
                        list, json_pack("{s:s,s:i,s:i}", "profile", profile->name, "id",
                                      profile->id, "start", plan.place[i].start));
                if (!p->json && profile->size == 1)
                        printf("  %-12s slice %u\n", profile->name, plan.place[i].start);
                else if (!p->json)
                        printf("  %-12s slices %u to %u\n", profile->name, plan.place[i].start,
                                plan.place[i].start + profile->size - 1u);
        }
        if (!p->json) {
                printf("to make it: cleave partition create mig %s --want %s\n"
                       "with the vendor's tool: nvidia-smi mig -cgi ",
                        mig_geometry_find(p->args->operands[1]) ? "DEVICE" : p->args->operands[1],
                        p->args->value[OPT_WANT]);
                for (int i = 0; i < n; i++)
                        printf("%s%u:%u", i ? "," : "",
                                geometry->profiles[plan.place[i].profile].id, plan.place[i].start);
                printf(" -C\n");
        }
        json_object_set_new(object, "layout", list);
        return 0;
}

/* By the table's key, or by a GPU's address: its driver is asked, and compared with the table. */
static int run_layouts(struct partition *p, struct cleave_error *error)
{
        const char *name = p->args->operands[1];
        const struct mig_geometry *geometry = mig_geometry_find(name);
        _cleanup_free_ char *difference = NULL;
        char address[PCI_ADDRESS_MAX];
        struct mig_driver driver;
        struct pci_function f;
        json_t *object;
        int r;

        if (!geometry && pci_address_parse(name, address) == 0) {
                r = mig_driver_read(p->host.mig, p->host.msec, address, &driver, error);
                if (r < 0)
                        return r;
                if (pci_read(&p->host, address, &f) == 0)
                        geometry = mig_geometry_of_pci(f.vendor, f.device);
                difference = geometry ? mig_driver_compare(&driver.geometry, geometry)
                                      : strdup("this GPU is not in the table");
                geometry = &driver.geometry;
        } else if (!geometry) {
                error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no GPU %s", name);
                error_set_hint(error,
                        "Give a PCI address, or one of a30 a100-40 a100-80 h100-80 h100-nvl "
                        "h100-96 h200 gh200-144 b200 gb200.");
                return -ENOENT;
        }
        object = json_pack("{s:s,s:s,s:i,s:o,s:s,s:s,s:s?}", "gpu", geometry->name, "key",
                geometry->key, "slices", geometry->slices, "profiles", profiles_json(geometry),
                "starts_from", mig_source_word(geometry->starts_from), "figures_from",
                mig_source_word(geometry->figures_from), "differs_from_table", difference);
        if (!p->json) {
                print_profiles(geometry);
                printf("\n%s: where instances may start is %s, sizes are %s.\n", geometry->name,
                        mig_source_word(geometry->starts_from),
                        mig_source_word(geometry->figures_from));
                if (geometry == &driver.geometry)
                        printf("The driver %s%s.\n",
                                difference ? "differs from Cleave's table: "
                                           : "agrees with "
                                             "Cleave's table",
                                difference ?: "");
        }
        r = p->args->value[OPT_WANT] ? plan_layout(p, geometry, object, error) : 0;
        if (r == 0 && p->json)
                r = output_json(object, SCHEMA_LAYOUTS);
        json_decref(object);
        return r;
}

static int run_partition(const struct cli_args *args)
{
        static const struct {
                const char *word, *operands;
                int n;
                int (*run)(struct partition *p, struct cleave_error *error);
        } actions[] = {
                {"list", "nothing", 0, run_list},
                {"create", "a technique and a device", 2, run_create},
                {"change", "an id", 1, run_change},
                {"remove", "an id", 1, run_remove},
                {"show", "an id", 1, run_show},
                {"reconcile", "nothing", 0, run_reconcile},
                {"layouts", "a GPU", 1, run_layouts},
        };
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        struct partition p = {
                .args = args,
                .json = output_format(args->value[OPT_OUTPUT]) == OUTPUT_JSON,
        };

        machine_host(&p.host, args->value[OPT_SYSFS], args->value[OPT_PROC], NULL,
                args->value[OPT_STATE]);
        for (size_t i = 0; i < ARRAY_SIZE(actions); i++) {
                if (strcmp(actions[i].word, args->operands[0]) != 0)
                        continue;
                if (args->n_operands - 1 != actions[i].n)
                        return cli_usage(args->verb, "%s takes %s after it", actions[i].word,
                                actions[i].operands);
                if (actions[i].run(&p, &error) == 0)
                        return output_end(CLI_OK);
                fflush(stdout);
                return error.code == CLEAVE_REASON_USAGE
                               ? cli_usage(args->verb, "%s", error_message(&error))
                               : cli_report(args->verb, &error);
        }
        return CLI_USAGE; /* not reached: the choices are those of the table */
}

static const struct cli_example examples[] = {
        {"cleave partition layouts h100-80 --want 3x10G,rest",
                "where MIG instances would lie, also without a GPU"},
        {"cleave partition create mig 0000:01:00.0 --want 3x10G,rest --dry-run",
                "what making these would take"},
        {"cleave partition change mig-0000:01:00.0 --want 2x3g.40gb", "another layout"},
        {"cleave partition show mig-0000:01:00.0 --for cdi > /etc/cdi/cleave-partition.json",
                "give them to containers"},
        {"cleave partition create sriov 0000:03:00.0 --count 4 --dry-run",
                "every write that this would make"},
        {"cleave partition create mediated 0000:01:00.0 --type A30-6C", "make a vGPU"},
        {"cleave partition list", "what Cleave has made"},
        {"cleave partition reconcile", "after a crash: take back what was cut short"},
        {NULL, NULL},
};

const struct cli_verb verb_partition = {
        .name = "partition",
        .summary = "cut GPUs by means of their hardware or driver",
        .operands = "ACTION [ARGUMENT...]",
        .description =
                "Makes parts of a GPU that its hardware or its driver offers. Actions:\n\n"
                "list: what Cleave has made.\n\n"
                "create TECHNIQUE DEVICE: mig makes MIG instances beside those that exist, sriov "
                "makes virtual functions, vgpu gives a virtual "
                "function of NVIDIA's a type, mediated makes a mediated device (NVIDIA vGPU up to "
                "Ampere, Intel GVT-g), modes sets the partition modes of an AMD Instinct. Prints "
                "the partition's id.\n\n"
                "change ID: makes of it what --want says. Instances in use stay where they are, "
                "also "
                "those that nobody wants any more; those of others are not touched.\n\n"
                "remove ID: takes back what create made, if nobody uses it.\n\n"
                "show ID: the words by which a VM or a container gets it.\n\n"
                "reconcile: takes back what a crash has cut short, and forgets what is gone.\n\n"
                "layouts GPU: profiles and places of MIG instances, from the driver of the GPU at "
                "that PCI address, or from Cleave's table of a model; with --want the best layout "
                "for a wish.\n\n"
                "Everything is checked first, recorded before it is written, read back, and taken "
                "back if it fails. Whole devices are handed on by cleave passthrough. JSON has the "
                "schemas " SCHEMA_LIST ", " SCHEMA " and " SCHEMA_LAYOUTS ".",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .least = 1,
        .most = 3,
        .words = CLI_WORDS_LIST,
        .choices = "list create change remove show reconcile layouts",
        .run = run_partition,
};
