/* SPDX-License-Identifier: Apache-2.0 */
/* cleave cdi: says in the Container Device Interface's words how a container becomes a tenant. */
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/parse.h"
#include "base/paths.h"
#include "cli/daemon.h"
#include "cli/driver_files.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "proto/environment.h"

#define KIND "cleave.dev/gpu"
/* The lowest version that has all we use: readers refuse a higher one than they know, and a lower
 * one than the fields need. */
#define CDI_VERSION "0.3.0"
#define CDI_FILE    "cleave.json"
#define CDI_DIR     "/var/run/cdi" /* of specifications that are made anew after a start */

#define HOOK_TIMEOUT 30 /* seconds */

/* Inside the container. */
#define INSIDE_RUNTIME_DIR "/run/cleave"
#define INSIDE_SIM_DIR     "/run/cleave-sim"

enum {
        OPT_WRITE,
        OPT_ARGUMENTS,
        OPT_SPACE,
        OPT_SIM,
};

static const struct cli_option options[] = {
        [OPT_WRITE] =
                {
                        .name = "write",
                        .argument = "DIR",
                        .optional = true,
                        .help = "Write the specification to " CDI_FILE " in this directory instead "
                                "of "
                                "standard output.",
                        .preset = CDI_DIR,
                },
        [OPT_ARGUMENTS] =
                {
                        .name = "arguments",
                        .help = "Print options of podman and docker instead, for a container that "
                                "is "
                                "started inside of `cleave run`.",
                },
        [OPT_SPACE] =
                {
                        .name = "space",
                        .argument = "DEVICE",
                        .optional = true,
                        .help = "With --arguments: for a tenant of cleave run --sharing spatial on "
                                "the device of that index.",
                        .preset = "0",
                },
        [OPT_SIM] =
                {
                        .name = "sim",
                        .argument = "MODEL",
                        .optional = true,
                        .help = "Give simulated GPUs: a model, or several as h100x2 or a100,h100.",
                        .preset = DAEMON_SIM_MODEL,
                },
};

/* Devices of common sizes are there without being asked for. */
static const char *const sizes[] = {"256M", "512M", "1G", "2G", "3G", "4G", "5G", "6G", "8G", "10G",
        "12G", "14G", "16G", "20G", "24G", "28G", "32G", "40G", "48G", "56G", "64G", "72G", "80G",
        "96G", "112G", "128G", "140G", "160G", "180G"};

struct spec {
        char *runtime_dir;
        json_t *info, *devices; /* of daemon.info and device.list */
        char *guard_dir, *sim_dir;
        char *program; /* ours, as the hook */
        json_t *env, *mounts, *nodes;
};

static void spec_done(struct spec *spec)
{
        json_decref(spec->info);
        json_decref(spec->devices);
        json_decref(spec->env);
        json_decref(spec->mounts);
        json_decref(spec->nodes);
        free(spec->runtime_dir);
        free(spec->guard_dir);
        free(spec->sim_dir);
        free(spec->program);
}

static int no_memory(struct cleave_error *error)
{
        return error_set_errno(error, ENOMEM, "cannot write the specification");
}

static void add_env(struct spec *spec, const char *name, const char *value)
{
        _cleanup_free_ char *text = NULL;

        if (asprintf(&text, "%s=%s", name, value) >= 0)
                json_array_append_new(spec->env, json_string(text));
}

/* The guard under both of a library's names, and the library itself where only the guard finds it.
 */
static int add_guarded(
        struct spec *spec, const char *name, const char *variable, struct cleave_error *error)
{
        _cleanup_free_ char *soname = NULL, *guard = NULL, *real = NULL, *inside = NULL;

        if (asprintf(&soname, "%s.1", name) < 0) {
                soname = NULL;
                return no_memory(error);
        }
        guard = path_join(spec->guard_dir, soname);
        inside = path_join(CLEAVE_CONTAINER_DRIVER_DIR, soname);
        real = spec->sim_dir ? path_join(spec->sim_dir, soname) : driver_file_locate(soname);
        if (!real)
                return error_set(error, CLEAVE_REASON_NO_DRIVER, "there is no %s here", soname);
        if (!guard || !inside)
                return no_memory(error);
        if (access(guard, R_OK) < 0)
                return error_set(
                        error, CLEAVE_REASON_GUARD_MISSING, "the guard %s cannot be read", guard);
        driver_files_library(spec->mounts, guard, soname);
        driver_files_library(spec->mounts, guard, name);
        driver_files_mount(spec->mounts, real, inside, false);
        add_env(spec, variable, inside);
        return 0;
}

static void add_nodes(struct spec *spec)
{
        glob_t found = {0};

        glob("/dev/nvidia[0-9]*", 0, NULL, &found);
        for (size_t i = 0; i < found.gl_pathc; i++)
                json_array_append_new(spec->nodes, json_pack("{s:s}", "path", found.gl_pathv[i]));
        globfree(&found);
        for (size_t i = 0; i < 3; i++) {
                static const char *const others[] = {
                        "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"};

                if (access(others[i], F_OK) == 0)
                        json_array_append_new(spec->nodes, json_pack("{s:s}", "path", others[i]));
        }
}

static void add_simulated(struct spec *spec)
{
        _cleanup_free_ char *smi = path_join(spec->sim_dir, "nvidia-smi");
        const char *given = getenv(CLEAVE_ENV_SIM_DIR);
        char own[64];

        snprintf(own, sizeof(own), "/dev/shm/cleave-sim-%u", (unsigned)geteuid());
        driver_files_mount(spec->mounts, given && *given ? given : own, INSIDE_SIM_DIR, true);
        add_env(spec, CLEAVE_ENV_SIM_DIR, INSIDE_SIM_DIR);
        add_env(spec, CLEAVE_ENV_SIM, output_text(json_object_get(spec->info, "sim"), ""));
        if (smi && access(smi, X_OK) == 0)
                driver_files_mount(spec->mounts, smi, DRIVER_FILES_SMI, false);
}

/* What a client of the device's MPS server needs: its variable, and what it meets the server in.
 * The paths are the same on both sides. */
static void add_space(struct spec *spec, json_t *env, json_t *mounts, unsigned device)
{
        _cleanup_free_ char *place = path_join(spec->runtime_dir, CLEAVE_SPACE_DIRECTORY);
        _cleanup_free_ char *variable = NULL;

        if (!place || asprintf(&variable, "CUDA_MPS_PIPE_DIRECTORY=%s/" CLEAVE_SPACE_PIPE,
                              spec->runtime_dir, device) < 0) {
                variable = NULL;
                return;
        }
        json_array_append_new(env, json_string(variable));
        driver_files_mount(mounts, place, place, true);
        if (!spec->sim_dir)
                driver_files_mount(mounts, "/dev/shm", "/dev/shm", true);
}

static int ask_daemon(struct spec *spec, unsigned flags, struct cleave_error *error)
{
        _cleanup_client_ struct client *client = NULL;
        json_t *listed = NULL;
        int r;

        r = daemon_connect(flags | DAEMON_START, &client, &spec->runtime_dir, error);
        if (r == 0)
                r = client_call(client, "daemon.info", NULL, &spec->info, error);
        if (r == 0)
                r = client_call(client, "device.list", NULL, &listed, error);
        if (r < 0)
                return r;
        spec->devices = json_incref(json_object_get(listed, "devices"));
        json_decref(listed);
        if (json_array_size(spec->devices) == 0)
                return error_set(error, CLEAVE_REASON_NO_DRIVER, "there is no GPU here");
        return 0;
}

static int find_places(struct spec *spec, struct cleave_error *error)
{
        const char *guard = json_string_value(json_object_get(spec->info, "guard"));
        char *slash;

        if (!guard)
                return error_set(error, CLEAVE_REASON_GUARD_MISSING,
                        "the guard, libcuda.so.1, is not beside the daemon");
        if (own_executable(&spec->program) < 0)
                return no_memory(error);
        spec->guard_dir = strdup(guard);
        slash = spec->guard_dir ? strrchr(spec->guard_dir, '/') : NULL;
        if (!slash)
                return no_memory(error);
        *slash = 0;
        if (json_is_string(json_object_get(spec->info, "sim"))) {
                _cleanup_free_ char *beside = path_join(spec->guard_dir, "../sim");

                spec->sim_dir = beside ? realpath(beside, NULL) : NULL;
                if (!spec->sim_dir)
                        return error_set(error, CLEAVE_REASON_NO_DRIVER,
                                "the simulated GPU's libraries are not beside the guard");
        }
        return 0;
}

static int collect(struct spec *spec, unsigned flags, struct cleave_error *error)
{
        _cleanup_free_ char *socket = NULL;
        int r;

        spec->env = json_array();
        spec->mounts = json_array();
        spec->nodes = json_array();
        r = ask_daemon(spec, flags, error);
        if (r == 0)
                r = find_places(spec, error);
        if (r == 0)
                r = add_guarded(spec, "libcuda.so", CLEAVE_ENV_LIBCUDA, error);
        if (r == 0)
                r = add_guarded(spec, "libnvidia-ml.so", CLEAVE_ENV_LIBNVML, error);
        if (r < 0)
                return r;
        if (spec->sim_dir)
                add_simulated(spec);
        else {
                driver_files_companions(spec->mounts);
                add_nodes(spec);
        }
        /* the guard's socket alone: who can reach the other one could make tenants */
        socket = path_join(spec->runtime_dir, CLEAVE_GUARD_SOCKET);
        if (!socket)
                return no_memory(error);
        driver_files_mount(spec->mounts, socket, INSIDE_RUNTIME_DIR "/" CLEAVE_GUARD_SOCKET, true);
        add_env(spec, CLEAVE_ENV_RUNTIME, INSIDE_RUNTIME_DIR);
        /* no id can stand here before there is a tenant; that there is one, the guard is told */
        add_env(spec, CLEAVE_ENV_TENANT, "container");
        return 0;
}

/* device: NULL for the roomiest. memory: NULL, then the container says it. space: the index of the
 * device that the container shares in space; -1: in time. */
static json_t *device_json(
        struct spec *spec, const char *name, const char *device, const char *memory, int space)
{
        json_t *edits, *env, *mounts;
        json_t *args = json_pack(
                "[s, s, s, s]", "cleave", "container-hook", "--runtime-dir", spec->runtime_dir);
        const char *sim = json_string_value(json_object_get(spec->info, "sim"));

        if (sim) {
                json_array_append_new(args, json_string("--sim"));
                json_array_append_new(args, json_string(sim));
        }
        if (memory) {
                json_array_append_new(args, json_string("--memory"));
                json_array_append_new(args, json_string(memory));
        }
        if (device) {
                json_array_append_new(args, json_string("--device"));
                json_array_append_new(args, json_string(device));
        }
        if (space >= 0) {
                json_array_append_new(args, json_string("--sharing"));
                json_array_append_new(args, json_string("spatial"));
        }
        edits = json_pack("{s:[{s:s, s:s, s:o, s:i}]}", "hooks", "hookName", "createRuntime",
                "path", spec->program, "args", args, "timeout", HOOK_TIMEOUT);
        if (space >= 0) {
                env = json_array();
                mounts = json_array();
                add_space(spec, env, mounts, (unsigned)space);
                json_object_set_new(edits, "env", env);
                json_object_set_new(edits, "mounts", mounts);
        }
        return json_pack("{s:s, s:o}", "name", name, "containerEdits", edits);
}

static void add_device(struct spec *spec, json_t *to, const char *prefix, const char *device,
        const char *memory, int space)
{
        _cleanup_free_ char *name = NULL;

        if (asprintf(&name, "%s%s%s%s", prefix, space >= 0 ? "space-" : "", memory ? "mem-" : "any",
                    memory ?: "") >= 0)
                json_array_append_new(to, device_json(spec, name, device, memory, space));
        else
                name = NULL;
}

static void add_devices(struct spec *spec, json_t *to, const char *prefix, const json_t *device,
        uint64_t most, int space, const struct cli_args *args)
{
        const char *uuid = device ? json_string_value(json_object_get(device, "uuid")) : NULL;

        add_device(spec, to, prefix, uuid, NULL, space);
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                uint64_t bytes;

                if (parse_size(sizes[i], &bytes, NULL) == 0 && bytes <= most)
                        add_device(spec, to, prefix, uuid, sizes[i], space);
        }
        for (int i = 0; i < args->n_operands; i++) {
                bool known = false;

                for (size_t k = 0; k < ARRAY_SIZE(sizes); k++)
                        known = known || strcmp(sizes[k], args->operands[i]) == 0;
                for (int k = 0; k < i; k++)
                        known = known || strcmp(args->operands[k], args->operands[i]) == 0;
                if (!known)
                        add_device(spec, to, prefix, uuid, args->operands[i], space);
        }
}

static json_t *spec_json(struct spec *spec, const struct cli_args *args)
{
        json_t *devices = json_array(), *edits, *device;
        uint64_t most = 0;
        size_t i;

        json_array_foreach(spec->devices, i, device)
        {
                uint64_t total = output_bytes(json_object_get(device, "memory_total"));

                if (total > most)
                        most = total;
        }
        add_devices(spec, devices, "", NULL, most, -1, args);
        json_array_foreach(spec->devices, i, device)
        {
                uint64_t total = output_bytes(json_object_get(device, "memory_total"));
                int index = (int)json_integer_value(json_object_get(device, "index"));
                char prefix[32] = "";

                if (json_array_size(spec->devices) > 1) {
                        snprintf(prefix, sizeof(prefix), "gpu%zu-", i);
                        add_devices(spec, devices, prefix, device, total, -1, args);
                }
                /* a device each, as each has its own MPS server */
                add_devices(spec, devices, prefix, device, total, index, args);
        }
        edits = json_pack("{s:O, s:O}", "env", spec->env, "mounts", spec->mounts);
        if (json_array_size(spec->nodes) > 0)
                json_object_set(edits, "deviceNodes", spec->nodes);
        return json_pack("{s:s, s:s, s:o, s:o}", "cdiVersion", CDI_VERSION, "kind", KIND, "devices",
                devices, "containerEdits", edits);
}

static int write_spec(const char *directory, const char *text, struct cleave_error *error)
{
        _cleanup_free_ char *path = path_join(directory, CDI_FILE);
        int r;

        if (!path)
                return no_memory(error);
        if (mkdir(directory, 0755) < 0 && errno != EEXIST)
                return error_set_errno(error, errno, "cannot make %s", directory);
        r = write_file_atomic(path, text, strlen(text), 0644);
        if (r < 0)
                return error_set_errno(error, r, "cannot write %s", path);
        return 0;
}

/* As words of a shell that need no quoting. */
static int print_arguments(struct spec *spec, struct cleave_error *error)
{
        json_t *entry;
        size_t i;

        json_array_foreach(spec->mounts, i, entry)
        {
                const char *host = json_string_value(json_object_get(entry, "hostPath"));

                if (strpbrk(host, " \t\n:*?["))
                        return error_set(error, CLEAVE_REASON_USAGE,
                                "a path that options cannot carry: %s", host);
                printf("--volume=%s:%s:%s\n", host,
                        json_string_value(json_object_get(entry, "containerPath")),
                        json_string_value(json_array_get(json_object_get(entry, "options"), 0)));
        }
        json_array_foreach(spec->nodes, i, entry)
                printf("--device=%s\n", json_string_value(json_object_get(entry, "path")));
        json_array_foreach(spec->env, i, entry) printf("--env=%s\n", json_string_value(entry));
        return 0;
}

static int check_sizes(const struct cli_args *args, struct cleave_error *error)
{
        for (int i = 0; i < args->n_operands; i++) {
                const char *size = args->operands[i];
                uint64_t bytes;
                int r = parse_size(size, &bytes, error);

                if (r < 0)
                        return r;
                if (bytes == 0)
                        return error_set(error, CLEAVE_REASON_BAD_SIZE, "a GPU of no size");
                /* it becomes part of a device's name */
                if (strspn(size, "0123456789KMGTiB") != strlen(size))
                        return error_set(error, CLEAVE_REASON_BAD_SIZE,
                                "'%s' cannot stand in a device's name; write it as 1500M", size);
        }
        return 0;
}

static int run_cdi(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        const char *device = *(args->value[OPT_SPACE] ?: "") ? args->value[OPT_SPACE] : "0";
        struct spec spec = {0};
        unsigned flags, space = (unsigned)strtoul(device, NULL, 10);
        int r;

        if (args->count[OPT_SPACE] && !args->count[OPT_ARGUMENTS])
                return cli_usage(args->verb, "--space is for --arguments");
        if (device[strspn(device, "0123456789")] || strlen(device) > 3)
                return cli_usage(args->verb, "'%s' is no index of a device", device);

        flags = daemon_take_sim(args->value[OPT_SIM]);
        r = check_sizes(args, &error);
        if (r == 0)
                r = collect(&spec, flags, &error);
        if (r == 0 && args->count[OPT_ARGUMENTS]) {
                if (args->count[OPT_SPACE])
                        add_space(&spec, spec.env, spec.mounts, space);
                r = print_arguments(&spec, &error);
        } else if (r == 0) {
                json_t *json = spec_json(&spec, args);
                _cleanup_free_ char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
                const char *directory = args->value[OPT_WRITE];

                json_decref(json);
                if (!text)
                        r = no_memory(&error);
                else if (args->count[OPT_WRITE])
                        r = write_spec(*directory ? directory : CDI_DIR, text, &error);
                else
                        puts(text);
        }
        spec_done(&spec);
        return r < 0 ? cli_report(args->verb, &error) : output_end(CLI_OK);
}

static const struct cli_example examples[] = {
        {"cleave cdi --write", "once, as root; the system's daemon does it when it starts"},
        {"podman run --device " KIND "=mem-1G IMAGE", "a container with a GPU of 1 GiB"},
        {"podman run --device " KIND "=any -e CLEAVE_MEMORY=1500M IMAGE", "any other size"},
        {"podman run --device " KIND "=space-mem-1G -e CLEAVE_COMPUTE=25 IMAGE",
                "on a quarter of the SMs, beside others"},
        {"cleave run -m 1G -- podman run $(cleave cdi --arguments) IMAGE", "without root"},
        {NULL, NULL},
};

const struct cli_verb verb_cdi = {
        .name = "cdi",
        .summary = "give containers a part of a GPU",
        .operands = "[SIZE...]",
        .description =
                "Writes a specification of the Container Device Interface, which podman, docker, "
                "containerd and CRI-O read. A container that is given the device " KIND "=mem-1G "
                "becomes a tenant with 1 GiB: it is bound to the container's cgroup, or to its pid "
                "namespace where it has no cgroup of its own, before anything in it runs, and ends "
                "with it. Nothing in the image is needed, and no root inside.\n\n"
                "There are devices of common sizes, and of each SIZE. The device any takes the "
                "amount from the container's variable CLEAVE_MEMORY. With several GPUs, "
                "gpu0-mem-1G and so on name one of them; otherwise it is the one with most memory "
                "to grant. The devices space-mem-1G and so on, with several GPUs "
                "gpu0-space-mem-1G, give a container SMs of its own, as cleave run --sharing "
                "spatial does, by the container's variable CLEAVE_COMPUTE or what is left over.\n\n"
                "The guard is mounted over the names of the driver's libraries. Images need glibc "
                "2.17 or later, as the driver itself does; others are refused. Run it again when "
                "the driver has been changed.",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .most = -1,
        .run = run_cdi,
};
