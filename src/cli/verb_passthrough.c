/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "base/parse.h"
#include "cli/daemon.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "partition/attach.h"
#include "partition/passthrough.h"

#define SCHEMA "cleave.passthrough/1"

enum {
        OPT_DRY_RUN,
        OPT_FOR,
        OPT_ALLOW_CONSOLE_LOSS,
        OPT_ANY_DEVICE,
        OPT_DEADLINE,
        OPT_OUTPUT,
        OPT_SYSFS,
        OPT_PROC,
        OPT_DEV,
        OPT_STATE,
};

static const struct cli_option options[] = {
        [OPT_DRY_RUN] = {.name = "dry-run",
                .letter = 'n',
                .help = "Print every write that attach would make, and make none."},
        [OPT_FOR] = {.name = "for",
                .argument = "SYSTEM",
                .words = CLI_WORDS_LIST,
                .choices = FORM_WORDS,
                .help = "For show: the words by which that system gives the device to a VM, or to "
                        "a "
                        "container in which a hypervisor runs (cdi, podman, pod).",
                .preset = "qemu"},
        [OPT_ALLOW_CONSOLE_LOSS] = {.name = "allow-console-loss",
                .help = "Go on although the text console is drawn on the device."},
        [OPT_ANY_DEVICE] = {.name = "any-device",
                .help = "Also take devices that are no GPUs, as network cards beside them."},
        [OPT_DEADLINE] = {.name = "deadline",
                .argument = "TIME",
                .help = "How long one write may take before we go on without it.",
                .preset = "10s"},
        [OPT_OUTPUT] = OUTPUT_OPTION_NO_CSV,
        MACHINE_ROOTS(OPT_SYSFS, OPT_PROC),
        [OPT_DEV] = {.name = "dev",
                .argument = "DIRECTORY",
                .help = "Where device files are.",
                .preset = "/dev"},
        [OPT_STATE] = {.name = "state",
                .argument = "DIRECTORY",
                .help = "Where records of what was made are kept.",
                .preset = HOST_STATE_DIR},
};

struct passthrough {
        const struct cli_args *args;
        struct host host;
        struct technique_ask ask;
        bool json;
        const char *device;
};

static int find(struct passthrough *p, struct pci_function *ret, struct cleave_error *error)
{
        int r = pci_read(&p->host, p->device, ret);

        if (r == -EINVAL)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "'%s' is no PCI address as 0000:01:00.0", p->device);
        if (r < 0)
                return error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no PCI device %s",
                        p->device);
        return 0;
}

static int print_json(struct passthrough *p, const struct pci_function *function,
        const struct obstacles *obstacles, const struct change *change)
{
        json_t *object = json_pack("{s:s,s:b,s:o}", "device", function->address, "ready",
                obstacles_blocking(obstacles) == NULL, "obstacles", survey_obstacles(obstacles));
        int r;

        if (change && change->geometry)
                json_object_set_new(object, "plan", change_to_json(change));
        r = output_json(object, SCHEMA);
        json_decref(object);
        return r;
}

static int run_check(struct passthrough *p, struct cleave_error *error)
{
        struct pci_function functions[PASSTHROUGH_FUNCTIONS], function;
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        _cleanup_change_ struct change change = {0};
        int n, r;

        r = find(p, &function, error);
        if (r < 0)
                return r;
        p->ask.thorough = true;
        r = technique_plan(
                &technique_passthrough, &p->host, p->device, &p->ask, &change, &obstacles, error);
        if (p->json)
                print_json(p, &function, &obstacles, &change);
        else {
                n = passthrough_functions(&p->host, &function, functions);
                machine_print_obstacles(stdout, &obstacles);
                if (n > 0)
                        passthrough_facts(stdout, &p->host, functions, n);
                if (r == 0)
                        printf("%s can be passed to a VM: cleave passthrough attach %s\n",
                                function.address, function.address);
        }
        return r;
}

static int run_attach(struct passthrough *p, struct cleave_error *error)
{
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        _cleanup_change_ struct change change = {0};
        struct pci_function function;
        int r;

        r = find(p, &function, error);
        if (r < 0)
                return r;
        if (p->args->count[OPT_DRY_RUN]) {
                r = technique_plan(&technique_passthrough, &p->host, p->device, &p->ask, &change,
                        &obstacles, error);
                if (r == 0 && !p->json)
                        change_print(stdout, &p->host, &change);
        } else {
                r = technique_apply(&technique_passthrough, &p->host, p->device, &p->ask, &change,
                        &obstacles, error);
                if (r == 0 && !p->json)
                        printf("%s\n", change.id);
        }
        if (p->json)
                print_json(p, &function, &obstacles, &change);
        else
                machine_print_obstacles(stderr, &obstacles);
        return r;
}

static int run_release(struct passthrough *p, struct cleave_error *error)
{
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        char id[CHANGE_ID_MAX], address[PCI_ADDRESS_MAX];
        int r;

        if (pci_address_parse(p->device, address) < 0)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "'%s' is no PCI address as 0000:01:00.0", p->device);
        snprintf(id, sizeof(id), "passthrough-%s", address);
        r = technique_undo(&p->host, id, &obstacles, error);
        machine_print_obstacles(stderr, &obstacles);
        return r;
}

static int run_show(struct passthrough *p, struct cleave_error *error)
{
        struct pci_function functions[PASSTHROUGH_FUNCTIONS], function;
        enum technique_form form = FORM_QEMU;
        int n, r;

        if (p->args->value[OPT_FOR])
                form_parse(p->args->value[OPT_FOR], &form);
        r = find(p, &function, error);
        if (r < 0)
                return r;
        n = passthrough_functions(&p->host, &function, functions);
        if (n < 0)
                return error_set_errno(error, n, "cannot look at %s", p->device);
        if (machine_is_container(form)) {
                json_t *devices;

                if (function.group < 0)
                        return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                                "%s is in no IOMMU group, so VFIO has no file of it", p->device);
                devices = json_pack("[o]", attach_vfio(function.address, function.group));
                r = machine_show_container(devices, form, error);
                json_decref(devices);
                return r;
        }
        /* On its vendor's driver, libvirt can do the binding by itself. */
        return attach_print_functions(stdout, &p->host, functions, n,
                strstr(function.driver, "vfio") == NULL, form, error);
}

static int run_passthrough(const struct cli_args *args)
{
        static const struct {
                const char *word;
                int (*run)(struct passthrough *p, struct cleave_error *error);
        } actions[] = {
                {"check", run_check},
                {"attach", run_attach},
                {"release", run_release},
                {"show", run_show},
        };
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        struct passthrough p = {
                .args = args,
                .ask = {.allow_console_loss = args->count[OPT_ALLOW_CONSOLE_LOSS],
                        .any_device = args->count[OPT_ANY_DEVICE]},
                .json = output_format(args->value[OPT_OUTPUT]) == OUTPUT_JSON,
                .device = args->operands[1],
        };
        uint64_t deadline;
        int r;

        if (args->n_operands < 2)
                return cli_usage(args->verb, "DEVICE is missing");
        machine_host(&p.host, args->value[OPT_SYSFS], args->value[OPT_PROC], args->value[OPT_DEV],
                args->value[OPT_STATE]);
        if (args->value[OPT_DEADLINE]) {
                if (parse_duration(args->value[OPT_DEADLINE], &deadline) < 0 || deadline < 1000 ||
                        deadline > 3600000000ull)
                        return cli_usage(args->verb, "'%s' is no deadline as 10s or 500ms",
                                args->value[OPT_DEADLINE]);
                p.host.msec = (unsigned)(deadline / 1000);
        }
        for (size_t i = 0; i < ARRAY_SIZE(actions); i++)
                if (strcmp(actions[i].word, args->operands[0]) == 0) {
                        r = actions[i].run(&p, &error);
                        if (r < 0) {
                                fflush(stdout);
                                return cli_report(args->verb, &error);
                        }
                        return output_end(CLI_OK);
                }
        return CLI_USAGE; /* not reached: the choices are those of the table */
}

static const struct cli_example examples[] = {
        {"cleave passthrough check 0000:01:00.0", "what stands in the way of a VM having it"},
        {"cleave passthrough attach 0000:01:00.0 --dry-run", "every write that this would make"},
        {"cleave passthrough show 0000:01:00.0 --for libvirt", "the words for the VM's definition"},
        {"cleave passthrough release 0000:01:00.0", "give it back to its driver"},
        {NULL, NULL},
};

const struct cli_verb verb_passthrough = {
        .name = "passthrough",
        .summary = "give a whole GPU to a VM, and take it back",
        .operands = "check|attach|release|show DEVICE",
        .description =
                "Passes a PCI device, with the other functions of its card, to VMs by the kernel's "
                "VFIO. DEVICE is a PCI address; cleave devices lists them.\n\n"
                "check looks at everything that could stand in the way: the IOMMU and the device's "
                "group, who has the device open, the console, resetting, addresses, the link. "
                "attach does the same first, records what it is about to do, writes, reads back, "
                "and takes all of it back if anything fails. release gives the device back to the "
                "driver it had. show prints what QEMU, libvirt, KubeVirt or Nova want to be told, "
                "or what to do on ESXi and Hyper-V.\n\n"
                "If the machine or Cleave stops in between, cleave partition reconcile puts things "
                "right. JSON has the schema " SCHEMA ".",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .least = 1,
        .most = 2,
        .words = CLI_WORDS_LIST,
        .choices = "check attach release show",
        .run = run_passthrough,
};
