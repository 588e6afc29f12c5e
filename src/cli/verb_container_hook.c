/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cleave container-hook: run by a container's runtime (OCI, createRuntime) when the container has
 * been made and nothing in it runs yet. Makes it a tenant, or keeps it from starting.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/compute.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "cli/quota.h"
#include "cli/verbs.h"
#include "proto/environment.h"

#define STATE_MAX  (1u << 20)
#define CONFIG_MAX (16u << 20)
#define LIBC_MAX   (16u << 20)

/* The guard's and the driver's own need. */
#define OLDEST_GLIBC "GLIBC_2.17"

#if defined(__x86_64__)
#define GLIBC_LOADER "lib64/ld-linux-x86-64.so.2"
#define MUSL_LOADER  "lib/ld-musl-x86_64.so.1"
#define MULTIARCH    "x86_64-linux-gnu"
#else
#define GLIBC_LOADER "lib/ld-linux-aarch64.so.1"
#define MUSL_LOADER  "lib/ld-musl-aarch64.so.1"
#define MULTIARCH    "aarch64-linux-gnu"
#endif

enum {
        OPT_RUNTIME_DIR,
        OPT_MEMORY,
        OPT_DEVICE,
        OPT_SIM,
        OPT_SHARING,
};

static const struct cli_option options[] = {
        [OPT_RUNTIME_DIR] = {.name = "runtime-dir", .argument = "DIR", .help = "The daemon's."},
        [OPT_MEMORY] = {.name = "memory", .argument = "SIZE", .help = "The grant."},
        [OPT_DEVICE] = {.name = "device", .argument = "UUID", .help = "The GPU."},
        [OPT_SIM] = {.name = "sim", .argument = "MODEL", .help = "What the daemon simulates."},
        [OPT_SHARING] = {.name = "sharing", .argument = "HOW", .help = "temporal or spatial."},
};

struct hook {
        const struct cli_args *args;
        json_t *state, *config; /* OCI's state, and the bundle's config.json */
        struct client *client;
        int rootfs;
};

static int read_state(struct hook *hook, struct cleave_error *error)
{
        _cleanup_free_ char *path = NULL, *text = NULL, *root = NULL;
        const char *bundle, *rootfs;
        json_error_t at;

        hook->state = json_loadf(stdin, JSON_DISABLE_EOF_CHECK, &at);
        bundle = json_string_value(json_object_get(hook->state, "bundle"));
        if (!bundle || !json_is_integer(json_object_get(hook->state, "pid")))
                return error_set(error, CLEAVE_REASON_USAGE,
                        "standard input is not the state of a container: %s",
                        hook->state ? "bundle or pid is missing" : at.text);
        path = path_join(bundle, "config.json");
        if (!path || read_file(path, CONFIG_MAX, &text, NULL) < 0)
                return error_set(error, CLEAVE_REASON_USAGE, "cannot read %s/config.json", bundle);
        hook->config = json_loads(text, 0, &at);
        rootfs = json_string_value(json_object_get(json_object_get(hook->config, "root"), "path"));
        if (!rootfs)
                return error_set(error, CLEAVE_REASON_USAGE, "%s names no root file system", path);
        root = rootfs[0] == '/' ? strdup(rootfs) : path_join(bundle, rootfs);
        hook->rootfs = root ? open(root, O_PATH | O_DIRECTORY | O_CLOEXEC) : -ENOMEM;
        if (hook->rootfs < 0)
                return error_set_errno(error, errno, "cannot open the root file system %s", rootfs);
        return 0;
}

/* A file of the image, its links followed inside of that. Descriptor or -errno. */
static int open_inside(const struct hook *hook, const char *path)
{
        struct open_how how = {
                .flags = O_RDONLY | O_CLOEXEC,
                .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
        };
        long fd = syscall(SYS_openat2, hook->rootfs, path, &how, sizeof(how));

        return fd < 0 ? -errno : (int)fd;
}

/* Whether the image's libc has the version that we need; true where that cannot be told. */
static bool glibc_is_new_enough(const struct hook *hook)
{
        static const char *const places[] = {"lib/" MULTIARCH "/libc.so.6",
                "usr/lib/" MULTIARCH "/libc.so.6", "lib64/libc.so.6", "usr/lib64/libc.so.6",
                "lib/libc.so.6"};

        for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
                _cleanup_close_ int fd = open_inside(hook, places[i]);
                _cleanup_free_ char *text = NULL;
                char path[48];
                size_t size;

                if (fd < 0)
                        continue;
                snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
                if (read_file(path, LIBC_MAX, &text, &size) < 0)
                        return true;
                /* with its NUL: the name of a version, not the start of another's */
                return memmem(text, size, OLDEST_GLIBC, sizeof(OLDEST_GLIBC)) != NULL;
        }
        return true;
}

static int check_image(const struct hook *hook, struct cleave_error *error)
{
        _cleanup_close_ int glibc = open_inside(hook, GLIBC_LOADER), musl = -EBADF;

        if (glibc == -ENOSYS)
                return 0;
        if (glibc < 0) {
                musl = open_inside(hook, MUSL_LOADER);
                error_set(error, CLEAVE_REASON_USAGE,
                        musl >= 0 ? "this image's C library is musl, and NVIDIA's driver library "
                                    "needs glibc"
                                  : "this image has no dynamic linker of glibc, and NVIDIA's "
                                    "driver library needs one");
        } else if (!glibc_is_new_enough(hook)) {
                error_set(error, CLEAVE_REASON_USAGE,
                        "this image's glibc is older than 2.17, which the driver's library needs");
        } else {
                return 0;
        }
        error_set_hint(error, "Use an image based on Debian, Ubuntu, Fedora or the like.");
        return -EINVAL;
}

/* The value of a variable that the container's first process will have, or NULL. */
static const char *container_env(const struct hook *hook, const char *name)
{
        json_t *list = json_object_get(json_object_get(hook->config, "process"), "env"), *entry;
        size_t i, length = strlen(name);
        const char *value = NULL;

        json_array_foreach(list, i, entry)
        {
                const char *text = output_text(entry, "");

                if (strncmp(text, name, length) == 0 && text[length] == '=')
                        value = text + length + 1;
        }
        return value;
}

static int wanted_devices(struct hook *hook, json_t **ret, struct cleave_error *error)
{
        const char *amount =
                hook->args->value[OPT_MEMORY] ?: container_env(hook, CLEAVE_ENV_MEMORY);
        const char *name = hook->args->value[OPT_DEVICE];
        _cleanup_quota_ struct quota memory = {0}, most = {0};
        json_t *result = NULL, *listed;
        int r;

        if (!amount || !*amount) {
                error_set(error, CLEAVE_REASON_USAGE, "the container does not say how much memory");
                error_set_hint(error, "Give it --env CLEAVE_MEMORY=1G, or the device mem-1G.");
                return -EINVAL;
        }
        r = quota_parse(amount, &memory, error);
        if (r == 0)
                r = client_call(hook->client, "device.list", NULL, &result, error);
        if (r < 0)
                return r;
        listed = json_object_get(result, "devices");
        if (!name && !memory.part[0].device)
                name = quota_roomiest(listed);
        if (!name && !memory.part[0].device)
                r = error_set(error, CLEAVE_REASON_NO_DRIVER, "there is no GPU here");
        else
                r = quota_devices(&memory, &most, &name, name ? 1 : 0, listed, ret, error);
        json_decref(result);
        return r;
}

static json_t *container_command(const struct hook *hook)
{
        json_t *args = json_object_get(json_object_get(hook->config, "process"), "args");

        return json_array_size(args) > 0 ? json_incref(args) : json_pack("[s]", "container");
}

static int create_tenant(struct hook *hook, struct cleave_error *error)
{
        const char *directory = hook->args->value[OPT_RUNTIME_DIR];
        const char *id = output_text(json_object_get(hook->state, "id"), "container");
        const char *compute = container_env(hook, CLEAVE_ENV_COMPUTE);
        json_t *devices = NULL, *params;
        char name[64];
        int r;

        r = client_connect(directory, &hook->client, error);
        if (r == 0)
                r = wanted_devices(hook, &devices, error);
        if (r < 0)
                return r;
        snprintf(name, sizeof(name), "%.12s", id);
        params = json_pack("{s:s, s:o, s:o, s:s?, s:O, s:s?}", "name", name, "command",
                container_command(hook), "devices", devices, "env_sim", hook->args->value[OPT_SIM],
                "container", json_object_get(hook->state, "pid"), "sharing",
                hook->args->value[OPT_SHARING]);
        if (!params)
                return error_set_errno(error, ENOMEM, "cannot ask for the quota");
        r = compute_add(params, compute && *compute ? compute : NULL, NULL, NULL, error);
        if (r < 0) {
                json_decref(params);
                return r;
        }
        return client_call(hook->client, "tenant.create", params, NULL, error);
}

static int run_hook(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        struct hook hook = {.args = args, .rootfs = -EBADF};
        int r;

        if (!args->value[OPT_RUNTIME_DIR])
                return cli_usage(args->verb, "--runtime-dir is missing");
        r = read_state(&hook, &error);
        if (r == 0)
                r = check_image(&hook, &error);
        if (r == 0)
                r = create_tenant(&hook, &error);
        client_free(hook.client);
        close_safe(hook.rootfs);
        json_decref(hook.state);
        json_decref(hook.config);
        return r < 0 ? cli_report(args->verb, &error) : CLI_OK;
}

const struct cli_verb verb_container_hook = {
        .name = "container-hook",
        .summary = "make a container a tenant",
        .description = "For the specification that cleave cdi writes.",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .hidden = true,
        .run = run_hook,
};
