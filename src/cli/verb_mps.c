/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/format.h"
#include "base/parse.h"
#include "base/paths.h"
#include "base/process.h"
#include "cli/daemon.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "partition/mps.h"

#define SCHEMA      "cleave.mps/1"
#define DEVICES_MAX 16 /* GPUs of one server */

enum {
        OPT_NAME,
        OPT_THREADS,
        OPT_MEMORY,
        OPT_PROTOCOL,
        OPT_DEADLINE,
        OPT_FOR,
        OPT_OUTPUT,
        OPT_PROC,
};

static const struct cli_option options[] = {
        [OPT_NAME] = {.name = "name",
                .letter = 'n',
                .argument = "NAME",
                .help = "Name of the server, by which status and stop know it.",
                .preset = "mps"},
        [OPT_THREADS] = {.name = "threads",
                .argument = "PERCENT",
                .help = "Part of the GPU's threads that one client may use. It is no share: "
                        "clients still wait for each other's kernels.",
                .preset = "100"},
        [OPT_MEMORY] = {.name = "memory",
                .letter = 'm',
                .argument = "SIZE",
                .help = "Device memory that one client may hold of each device, in steps of 1 MiB.",
                .preset = "all of it"},
        [OPT_PROTOCOL] = {.name = "protocol",
                .argument = "VERSION",
                .words = CLI_WORDS_LIST,
                .choices = "2 3",
                .help = "Version of MPS's own interface; 3 needs driver 615.",
                .preset = "2"},
        [OPT_DEADLINE] = {.name = "deadline",
                .argument = "TIME",
                .help = "How long MPS may take for one answer.",
                .preset = "10s"},
        [OPT_FOR] = {.name = "for",
                .argument = "SYSTEM",
                .words = CLI_WORDS_LIST,
                .choices = "cdi podman pod",
                .help = "For show: the words by which that system makes a container a client.",
                .preset = "podman"},
        [OPT_OUTPUT] = OUTPUT_OPTION_NO_CSV,
        [OPT_PROC] = {.name = "proc",
                .argument = "DIRECTORY",
                .help = "Where proc is.",
                .preset = "/proc"},
};

/* A GPU's UUID, or that of a MIG device: each of these has a server of its own. */
static bool is_device(const char *text)
{
        uint8_t uuid[16];

        return parse_uuid(strncmp(text, "MIG-", 4) == 0 ? text + 4 : text, uuid) == 0;
}

static int no_device(struct cleave_error *error)
{
        return error_set(error, CLEAVE_REASON_USAGE,
                "start takes the UUID of a GPU or several, as cleave devices -o json shows them, "
                "or of a MIG device");
}

static int start(const struct cli_args *args, struct mps *mps, struct cleave_error *error)
{
        char devices[DEVICES_MAX * FORMAT_UUID_MAX] = "";
        uint64_t threads = 0, memory = 0;
        int r = 0;

        if (args->n_operands < 2)
                r = no_device(error);
        for (int i = 1; r == 0 && i < args->n_operands; i++) {
                size_t used = strlen(devices);

                if (!is_device(args->operands[i]))
                        r = no_device(error);
                else if (strcasestr(devices, args->operands[i]))
                        r = error_set(
                                error, CLEAVE_REASON_USAGE, "%s is given twice", args->operands[i]);
                else
                        snprintf(devices + used, sizeof(devices) - used, "%s%s", used ? "," : "",
                                args->operands[i]);
        }
        if (r < 0)
                return r;
        if (args->value[OPT_PROTOCOL])
                mps->protocol = (unsigned)atoi(args->value[OPT_PROTOCOL]);
        if (args->value[OPT_THREADS] &&
                (parse_unsigned(args->value[OPT_THREADS], 100, &threads) < 0 || threads == 0))
                return error_set(error, CLEAVE_REASON_USAGE, "'%s' is no percentage from 1 to 100",
                        args->value[OPT_THREADS]);
        if (args->value[OPT_MEMORY])
                r = parse_size(args->value[OPT_MEMORY], &memory, error);
        if (r == 0 && args->value[OPT_MEMORY] && memory < CLEAVE_QUOTA_STEP)
                r = error_set(error, CLEAVE_REASON_BAD_SIZE, "'%s' is less than 1 MiB",
                        args->value[OPT_MEMORY]);
        if (r == 0)
                r = mps_start(mps, devices, (unsigned)threads, memory, error);
        if (r == 0) {
                _cleanup_free_ char *pipe = mps_pipe_directory(mps);

                printf("CUDA_MPS_PIPE_DIRECTORY=%s\n", pipe ?: "");
        }
        return r;
}

static void print_status(const json_t *status)
{
        const json_t *servers = json_object_get(status, "servers"), *server, *client;
        const json_t *refuses = json_object_get(status, "refuses");
        long long threads = json_integer_value(json_object_get(status, "threads"));
        uint64_t memory = output_bytes(json_object_get(status, "memory"));
        size_t i, j, clients = 0;
        char size[FORMAT_SIZE_MAX];

        printf("%s: %s on %s, CUDA_MPS_PIPE_DIRECTORY=%s\n",
                output_text(json_object_get(status, "name"), ""),
                output_text(json_object_get(status, "state"), ""),
                output_text(json_object_get(status, "device"), "a device that is not known"),
                output_text(json_object_get(status, "pipe_directory"), ""));
        if (threads && memory)
                printf("  each client at most %lld %% of the threads and %s of a device\n", threads,
                        format_size(size, memory));
        else if (threads)
                printf("  each client at most %lld %% of the threads\n", threads);
        else if (memory)
                printf("  each client at most %s of a device\n", format_size(size, memory));
        json_array_foreach((json_t *)servers, i, server)
        {
                const json_t *list = json_object_get(server, "clients");

                json_array_foreach((json_t *)list, j, client)
                {
                        char command[64] = "";

                        process_command(
                                (pid_t)json_integer_value(client), command, sizeof(command));
                        printf("  client %lld  %s\n", json_integer_value(client), command);
                        clients++;
                }
        }
        if (json_is_array(servers) && clients == 0)
                printf("  no clients\n");
        if (json_is_object(refuses))
                printf("  a new client may meet %s (%lld): %s\n",
                        output_text(json_object_get(refuses, "name"), ""),
                        json_integer_value(json_object_get(refuses, "code")),
                        output_text(json_object_get(refuses, "sentence"), ""));
}

static int status(const struct cli_args *args, struct mps *mps, struct cleave_error *error)
{
        json_t *list = json_array();
        _cleanup_closedir_ DIR *directory = opendir(mps->root);
        struct dirent *entry;
        int r = 0;

        if (args->n_operands != 1) {
                json_decref(list);
                return error_set(error, CLEAVE_REASON_USAGE, "status takes nothing after it");
        }
        while (directory && r == 0 && (entry = readdir(directory))) {
                struct mps one = {.root = mps->root, .name = entry->d_name, .msec = mps->msec};
                json_t *item;

                if (entry->d_name[0] == '.' ||
                        (args->value[OPT_NAME] &&
                                strcmp(args->value[OPT_NAME], entry->d_name) != 0))
                        continue;
                r = mps_status(&one, &item, error);
                if (r == 0)
                        json_array_append_new(list, item);
        }
        if (r == 0 && output_format(args->value[OPT_OUTPUT]) == OUTPUT_JSON) {
                json_t *object = json_pack("{s:O}", "servers", list);

                r = output_json(object, SCHEMA);
                json_decref(object);
        } else if (r == 0) {
                const json_t *item;
                size_t i;

                json_array_foreach(list, i, item) print_status(item);
                if (json_array_size(list) == 0)
                        fprintf(stderr, "cleave mps: Cleave has started no MPS server here\n");
        }
        json_decref(list);
        return r;
}

static int take_name(const struct cli_args *args, struct mps *mps, const char *action,
        struct cleave_error *error)
{
        if (args->n_operands > 2)
                return error_set(error, CLEAVE_REASON_USAGE, "%s takes one name", action);
        if (args->n_operands == 1)
                return 0;
        mps->name = args->operands[1];
        return check_name(mps->name, error) < 0 ? -EINVAL : 0;
}

static int show(const struct cli_args *args, struct mps *mps, struct cleave_error *error)
{
        enum technique_form form = FORM_PODMAN;
        struct host host;
        json_t *devices;
        int r;

        r = take_name(args, mps, "show", error);
        if (r < 0)
                return r;
        if (args->value[OPT_FOR])
                form_parse(args->value[OPT_FOR], &form);
        machine_host(&host, NULL, args->value[OPT_PROC], NULL, NULL);
        r = mps_attach(mps, &host, &devices, error);
        if (r < 0)
                return r;
        r = machine_show_container(devices, form, error);
        json_decref(devices);
        return r;
}

static int stop(const struct cli_args *args, struct mps *mps, struct cleave_error *error)
{
        int r = take_name(args, mps, "stop", error);

        return r < 0 ? r : mps_stop(mps, error);
}

static int run_mps(const struct cli_args *args)
{
        static const struct {
                const char *word;
                int (*run)(
                        const struct cli_args *args, struct mps *mps, struct cleave_error *error);
        } actions[] = {
                {"start", start},
                {"status", status},
                {"show", show},
                {"stop", stop},
        };
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_free_ char *directory = NULL, *root = NULL;
        struct mps mps = {.name = args->value[OPT_NAME] ?: "mps", .msec = MPS_DEADLINE_MSEC};
        uint64_t deadline;
        int r;

        if (args->value[OPT_DEADLINE]) {
                if (parse_duration(args->value[OPT_DEADLINE], &deadline) < 0 || deadline < 1000 ||
                        deadline > 3600000000ull)
                        return cli_usage(args->verb, "'%s' is no deadline as 10s or 500ms",
                                args->value[OPT_DEADLINE]);
                mps.msec = (unsigned)(deadline / 1000);
        }
        r = check_name(mps.name, &error);
        if (r == 0)
                r = user_runtime_dir(&directory, &error);
        if (r == 0)
                r = runtime_dir_prepare(directory, 0700, &error);
        if (r == 0) {
                root = path_join(directory, "mps");
                mps.root = root;
                if (!root)
                        r = error_set_errno(&error, ENOMEM, "cannot find MPS");
        }
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(actions); i++)
                if (strcmp(actions[i].word, args->operands[0]) == 0)
                        r = actions[i].run(args, &mps, &error);
        if (r == 0)
                return output_end(CLI_OK);
        return error.code == CLEAVE_REASON_USAGE
                       ? cli_usage(args->verb, "%s", error_message(&error))
                       : cli_report(args->verb, &error);
}

static const struct cli_example examples[] = {
        {"cleave mps start GPU-5ec0f4f3-… --threads 50 --memory 8G", "prints what clients need"},
        {"cleave mps start GPU-5ec0f4f3-… GPU-83b8f4f2-… --name pair", "one for two GPUs"},
        {"cleave mps status", "servers and their clients"},
        {"podman run $(cleave mps show) IMAGE", "a container that is a client, of the same user"},
        {"cleave mps stop", "end it, and leave nothing behind"},
        {NULL, NULL},
};

const struct cli_verb verb_mps = {
        .name = "mps",
        .summary = "run programs of one owner side by side by NVIDIA's MPS",
        .operands = "start|status|show|stop [DEVICE...|NAME]",
        .description =
                "Starts NVIDIA's MPS for one device, or for a group of them, in a place of its "
                "own, "
                "beside any other. "
                "Programs that have the printed CUDA_MPS_PIPE_DIRECTORY in their environment "
                "become its clients; --threads and --memory limit each. show prints what makes a "
                "container one, which has to run as the same user. A server whose start was cut "
                "short shows as such, and start makes it anew.\n\n"
                "Its clients share one fault domain: it is for programs that trust each other. It "
                "keeps no latency beside a neighbour with long kernels. The card's compute mode is "
                "left as it is. JSON has the schema " SCHEMA ".",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .least = 1,
        .most = 1 + DEVICES_MAX,
        .words = CLI_WORDS_LIST,
        .choices = "start status show stop",
        .run = run_mps,
};
