/* SPDX-License-Identifier: Apache-2.0 */
/* cleave run: asks the daemon for a tenant, starts the command in it, and is then as good as not
 * there until the command ends. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/paths.h"
#include "cli/child.h"
#include "cli/compute.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "cli/quota.h"
#include "cli/trace.h"
#include "cli/verbs.h"
#include "proto/environment.h"

/* How long the answer to our last word may take: the command has ended, the user waits. */
#define FAREWELL_MSEC 1000
/* How often we look for a daemon that has gone, and when we start another. */
#define RETRY_MSEC         200
#define RESTART_AFTER_MSEC 3000
#define WAIT_PATIENCE_MSEC 300
/* How often a device is chosen anew, where the choice is ours. */
#define CREATE_ATTEMPTS 3

enum {
        OPT_MEMORY,
        OPT_MEMORY_MAX,
        OPT_COMPUTE,
        OPT_COMPUTE_MAX,
        OPT_PRIORITY,
        OPT_SHARING,
        OPT_SM_STEP,
        OPT_UNTRUSTED,
        OPT_DEVICE,
        OPT_NAME,
        OPT_WAIT,
        OPT_SIM,
        OPT_QUIET,
};

static const struct cli_option options[] = {
        [OPT_MEMORY] =
                {
                        .name = "memory",
                        .letter = 'm',
                        .argument = "QUOTA",
                        .help = "Device memory that the command may hold: a size as 8G or 512MiB, "
                                "a part of "
                                "the device as 50%, or one amount per device as 0=4G,1=8G. Needed.",
                },
        [OPT_MEMORY_MAX] =
                {
                        .name = "memory-max",
                        .argument = "QUOTA",
                        .help = "Up to how much the quota may be raised while the command runs.",
                        .preset = "the same as --memory",
                },
        [OPT_COMPUTE] = COMPUTE_OPTION,
        [OPT_COMPUTE_MAX] = COMPUTE_MAX_OPTION,
        [OPT_PRIORITY] = PRIORITY_OPTION,
        [OPT_SHARING] =
                {
                        .name = "sharing",
                        .argument = "MODE",
                        .words = CLI_WORDS_LIST,
                        .choices = "auto temporal spatial",
                        .help = "How the device is shared: in time; in space, on multiprocessors "
                                "(SMs) of the command's own beside others', by NVIDIA's MPS; or as "
                                "auto chooses by priority, share, trust and what runs already. "
                                "cleave inspect says why. In space --compute is a share of the "
                                "SMs, and one below the least set a share of such a set's "
                                "time; without it the command has what is left over.",
                        .preset = "temporal",
                },
        [OPT_SM_STEP] =
                {
                        .name = "sm-step",
                        .argument = "SMS",
                        .words = CLI_WORDS_LIST,
                        .choices = "8 2",
                        .help = "In space: how finely SMs are given out. In steps of 2 kernels "
                                "with clusters of 4 blocks or more may find no room (seen on an "
                                "H100 in a set of 16, not of 66), which libraries for Hopper and "
                                "later use. The same for all tenants of a device.",
                        .preset = "8",
                },
        [OPT_UNTRUSTED] =
                {
                        .name = "untrusted",
                        .help = "The command may harm its neighbours: it never shares a device in "
                                "space, where a fault of one tenant ends all.",
                },
        [OPT_DEVICE] =
                {
                        .name = "device",
                        .letter = 'd',
                        .argument = "DEVICE",
                        .repeatable = true,
                        .words = CLI_WORDS_DEVICE,
                        .help = "The GPU to use: its index, its UUID, or a unique start of that. "
                                "May be given "
                                "several times. The command sees these GPUs only, in this order.",
                        .preset = "the one with most memory to grant",
                },
        [OPT_NAME] =
                {
                        .name = "name",
                        .letter = 'n',
                        .argument = "NAME",
                        .help = "Name of the tenant, by which the other verbs know it.",
                        .preset = "made from the command",
                },
        [OPT_WAIT] =
                {
                        .name = "wait",
                        .letter = 'w',
                        .help = "If the quota does not fit now, wait in a queue until it does.",
                },
        [OPT_SIM] = SIM_OPTION,
        [OPT_QUIET] =
                {
                        .name = "quiet",
                        .letter = 'q',
                        .help = "Say nothing while waiting.",
                },
};

struct run {
        const struct cli_args *args;
        struct client *client; /* NULL: the daemon has gone */
        unsigned flags;        /* daemon_flags */
        json_t *created;       /* result of tenant.create */
        const char *id;
        char *directory;
        uint64_t gone_since; /* CLOCK_MONOTONIC microseconds */
        struct child child;
};

static int fail(struct run *run, const struct cleave_error *error)
{
        return cli_report(run->args->verb, error);
}

/* The devices of the request, from what --memory, --memory-max and --device say. */
static int wanted_devices(struct run *run, json_t **ret, struct cleave_error *error)
{
        const struct cli_args *args = run->args;
        const char *names[QUOTA_MAX_DEVICES];
        _cleanup_quota_ struct quota memory = {0}, most = {0};
        json_t *result = NULL, *listed = NULL;
        size_t n = 0;
        int r;

        r = quota_parse(args->value[OPT_MEMORY], &memory, error);
        if (r >= 0 && args->value[OPT_MEMORY_MAX])
                r = quota_parse(args->value[OPT_MEMORY_MAX], &most, error);
        if (r < 0)
                return r;
        for (int i = 0; i < args->n_given; i++)
                if (args->given[i].option == OPT_DEVICE) {
                        if (n == QUOTA_MAX_DEVICES)
                                return error_set(error, CLEAVE_REASON_USAGE, "more than %d devices",
                                        QUOTA_MAX_DEVICES);
                        names[n++] = args->given[i].value;
                }
        if ((n == 0 && !memory.part[0].device) || quota_has_part(&memory) ||
                quota_has_part(&most)) {
                const char *models = getenv(CLEAVE_ENV_SIM) ?: ""; /* real ones */

                r = client_call(run->client, "device.list", json_pack("{s:s}", "env_sim", models),
                        &result, error);
                if (r < 0)
                        return r;
                listed = json_object_get(result, "devices");
        }
        if (n == 0 && !memory.part[0].device) {
                names[0] = quota_roomiest(listed);
                n = names[0] ? 1 : 0;
                if (n == 0)
                        r = error_set(error, CLEAVE_REASON_NO_DRIVER, "there is no GPU here");
        }
        if (r == 0)
                r = quota_devices(&memory, &most, names, n, listed, ret, error);
        json_decref(result);
        return r;
}

static json_t *command_array(char *const *argv)
{
        json_t *array = json_array();

        for (; array && *argv; argv++) {
                /* Arguments need not be text; the name of a tenant is no place for them then. */
                json_t *word = json_string(*argv) ?: json_string("?");

                if (!word || json_array_append_new(array, word) < 0) {
                        json_decref(array);
                        return NULL;
                }
        }
        return array;
}

static int wait_for_room(struct run *run, int64_t id, struct cleave_error *error)
{
        bool told = run->args->count[OPT_QUIET] > 0;

        for (;;) {
                _cleanup_client_message_ struct client_message message = {0};
                int r = client_receive(
                        run->client, told ? -1 : WAIT_PATIENCE_MSEC, &message, error);

                if (r == 0) {
                        fprintf(stderr, "cleave run: waiting until %s can be granted\n",
                                run->args->value[OPT_MEMORY]);
                        told = true;
                }
                if (r == 0 || r == -EINTR)
                        continue;
                if (r < 0)
                        return r;
                if (message.id != id && message.id != 0)
                        continue;
                if (message.kind == CLIENT_FAILURE) {
                        r = reason_errno(message.error.code);
                        error_move(error, &message.error);
                        return r;
                }
                if (message.kind == CLIENT_RESULT) {
                        run->created = TAKE_PTR(message.value);
                        return 0;
                }
        }
}

static int create_once(struct run *run, struct cleave_error *error)
{
        const struct cli_args *args = run->args;
        json_t *devices = NULL, *params;
        bool wait = args->count[OPT_WAIT] > 0;
        int64_t id;
        int r;

        r = wanted_devices(run, &devices, error);
        if (r < 0)
                return r;
        params = json_pack("{s:s?, s:o*, s:o, s:b, s:s?}", "name", args->value[OPT_NAME], "command",
                command_array(args->operands), "devices", devices, "wait", wait, "env_sim",
                getenv(CLEAVE_ENV_SIM));
        if (!params)
                return error_set_errno(error, ENOMEM, "cannot ask for the quota");
        r = compute_add(params, args->value[OPT_COMPUTE], args->value[OPT_COMPUTE_MAX],
                args->value[OPT_PRIORITY], error);
        if (args->value[OPT_SHARING])
                json_object_set_new(params, "sharing", json_string(args->value[OPT_SHARING]));
        if (args->value[OPT_SM_STEP])
                json_object_set_new(
                        params, "sm_step", json_integer(atoi(args->value[OPT_SM_STEP])));
        if (args->count[OPT_UNTRUSTED] > 0)
                json_object_set_new(params, "untrusted", json_true());
        if (r < 0) {
                json_decref(params);
                return r;
        }
        r = client_send(run->client, "tenant.create", params, &id, error);
        if (r == 0)
                r = wait_for_room(run, id, error);
        if (r < 0)
                return r;
        run->id = json_string_value(json_object_get(json_object_get(run->created, "tenant"), "id"));
        if (!run->id)
                return error_set(
                        error, CLEAVE_REASON_BAD_REPLY, "the daemon's reply names no tenant");
        return 0;
}

static int create_tenant(struct run *run, struct cleave_error *error)
{
        int r;

        /* Others may take the room that we saw on a device before we ask for it. */
        for (int attempt = 0; attempt < CREATE_ATTEMPTS; attempt++) {
                r = create_once(run, error);
                if (r == 0 || error->code != CLEAVE_REASON_NO_ROOM || run->args->count[OPT_DEVICE])
                        break;
        }
        return r;
}

/* Puts value before what the variable, a list of paths, holds already. 0 or -ENOMEM. */
static int prepend(const char *name, const char *value)
{
        const char *old = getenv(name);
        _cleanup_free_ char *both = NULL;

        if (!value)
                return 0;
        if (!old || !*old)
                return setenv(name, value, 1) < 0 ? -ENOMEM : 0;
        if (asprintf(&both, "%s:%s", value, old) < 0)
                return -ENOMEM;
        return setenv(name, both, 1) < 0 ? -ENOMEM : 0;
}

static int check_library(const char *path, struct cleave_error *error)
{
        if (!path || access(path, R_OK) < 0)
                return error_set(error, CLEAVE_REASON_GUARD_MISSING, "the guard %s cannot be read",
                        path ?: "(none)");
        /* ld.so(8): the list is separated by either, and neither can be escaped. */
        if (strpbrk(path, ": "))
                return error_set(error, CLEAVE_REASON_GUARD_MISSING,
                        "the guard's path has a blank or colon, which the loader cannot take: %s",
                        path);
        return 0;
}

static int check_preload(json_t *preload, struct cleave_error *error)
{
        size_t i = 0;
        json_t *value;

        if (json_array_size(preload) == 0)
                return error_set(
                        error, CLEAVE_REASON_GUARD_MISSING, "the daemon names no guard to load");
        json_array_foreach(preload, i, value)
        {
                int r = check_library(json_string_value(value), error);

                if (r < 0)
                        return r;
        }
        return 0;
}

/* The program shall find the devices of its grant, in their order, and no others: so the first is
 * its device 0, whichever that is on the machine. 0 or -ENOMEM. */
static int show_devices(const json_t *tenant)
{
        _cleanup_free_ char *list = NULL;
        const json_t *device;
        size_t i;

        json_array_foreach(json_object_get(tenant, "devices"), i, device)
        {
                const char *uuid = json_string_value(json_object_get(device, "device"));
                char *longer;

                if (!uuid)
                        return 0;
                if (asprintf(&longer, "%s%s%s", list ?: "", list ? "," : "", uuid) < 0)
                        return -ENOMEM;
                free(list);
                list = longer;
        }
        return list && setenv("CUDA_VISIBLE_DEVICES", list, 1) < 0 ? -ENOMEM : 0;
}

/* In the child. */
static int set_environment(void *context)
{
        struct run *run = context;
        json_t *preload = json_object_get(run->created, "preload");
        const char *library = json_string_value(json_object_get(run->created, "library_path"));
        const char *programs = json_string_value(json_object_get(run->created, "program_path"));
        const char *name;
        json_t *value;
        int r = 0;

        for (size_t i = json_array_size(preload); i > 0 && r == 0; i--)
                r = prepend("LD_PRELOAD", json_string_value(json_array_get(preload, i - 1)));
        /* `cleave trace -- cleave run`: the tracer stands before the guard */
        if (r == 0 && getenv(CLEAVE_ENV_TRACE))
                r = trace_preload(NULL);
        if (r == 0)
                r = prepend("LD_LIBRARY_PATH", library);
        if (r == 0 && getenv("PATH"))
                r = prepend("PATH", programs);
        if (r == 0)
                r = show_devices(json_object_get(run->created, "tenant"));
        if (r == 0 && setenv(CLEAVE_ENV_RUNTIME, run->directory, 1) < 0)
                r = -ENOMEM;
        json_object_foreach(json_object_get(run->created, "environment"), name, value)
        {
                if (r == 0 && json_is_string(value) &&
                        setenv(name, json_string_value(value), 1) < 0)
                        r = -ENOMEM;
        }
        json_object_foreach(json_object_get(run->created, "environment_defaults"), name, value)
        {
                if (r == 0 && json_is_string(value) &&
                        setenv(name, json_string_value(value), 0) < 0)
                        r = -ENOMEM;
        }
        if (r < 0)
                fprintf(stderr, "cleave run: no memory for the command's environment\n");
        return r;
}

static int join_cgroup(struct run *run, struct cleave_error *error)
{
        const char *path = json_string_value(json_object_get(run->created, "cgroup"));
        _cleanup_free_ char *procs = NULL;
        _cleanup_close_ int fd = -EBADF;
        char pid[16];
        int n;

        if (!path)
                return 0;
        procs = path_join(path, "cgroup.procs");
        if (!procs)
                return error_set_errno(error, ENOMEM, "cannot join the cgroup");
        fd = open(procs, O_WRONLY | O_CLOEXEC);
        n = snprintf(pid, sizeof(pid), "%d", run->child.pid);
        if (fd < 0 || write(fd, pid, (size_t)n) != n)
                return error_set_errno(error, errno, "cannot move the command to %s", path);
        return 0;
}

static int start_child(struct run *run, struct cleave_error *error)
{
        json_t *params;
        int r;

        r = check_preload(json_object_get(run->created, "preload"), error);
        if (r < 0)
                return r;
        r = child_fork(&run->child, run->args->operands, set_environment, run);
        if (r < 0)
                return error_set_errno(error, r, "cannot start the command");
        r = join_cgroup(run, error);
        params = json_pack("{s:s, s:i}", "tenant", run->id, "pid", (int)run->child.pid);
        if (r == 0)
                r = client_call(run->client, "tenant.start", params, NULL, error);
        else
                json_decref(params);
        if (r < 0) {
                child_abandon(&run->child);
                return r;
        }
        child_release(&run->child);
        return 0;
}

static void lose_daemon(struct run *run)
{
        run->client = client_free(run->client);
        run->gone_since = clock_usec(CLOCK_MONOTONIC);
}

/* Reads what the daemon says without being asked; only whether it is there matters. */
static void hear_daemon(struct run *run)
{
        for (;;) {
                _cleanup_client_message_ struct client_message message = {0};
                int r = client_receive(run->client, 0, &message, NULL);

                if (r == 0 || r == -EINTR)
                        return;
                if (r < 0) {
                        lose_daemon(run);
                        return;
                }
        }
}

static void attach(struct run *run)
{
        json_t *secret = json_object_get(run->created, "secret");
        uint64_t gone = clock_usec(CLOCK_MONOTONIC) - run->gone_since;
        /* Many tenants lose their daemon at once; one of them starts the next. */
        uint64_t patience = (RESTART_AFTER_MSEC + (uint64_t)run->child.pid % 1000) * USEC_PER_MSEC;
        int r;

        r = client_connect(run->directory, &run->client, NULL);
        if (r < 0 && gone > patience && strcmp(run->directory, CLEAVE_SYSTEM_RUNTIME_DIR) != 0) {
                /* The daemon must not become a child that we reap. */
                prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
                r = daemon_connect_at(run->directory, run->flags | DAEMON_START | DAEMON_QUIET,
                        &run->client, NULL);
                prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
                run->gone_since = clock_usec(CLOCK_MONOTONIC);
        }
        if (r < 0)
                return;
        r = client_call(run->client, "tenant.attach",
                json_pack("{s:s, s:O*}", "tenant", run->id, "secret", secret), NULL, NULL);
        if (r == -ECONNRESET)
                lose_daemon(run);
}

static void watch_child(struct run *run)
{
        while (!run->child.ended) {
                struct pollfd fds[] = {
                        {.fd = run->child.signal_fd, .events = POLLIN},
                        {.fd = run->client ? client_fd(run->client) : -1, .events = POLLIN},
                };

                if (poll(fds, ARRAY_SIZE(fds), run->client ? -1 : RETRY_MSEC) < 0 && errno != EINTR)
                        return;
                if (fds[0].revents)
                        child_handle_signals(&run->child);
                if (run->child.ended)
                        return;
                if (!run->client)
                        attach(run);
                else if (fds[1].revents)
                        hear_daemon(run);
        }
}

/* So that `cleave ps`, right after us, knows. */
static void say_farewell(struct run *run)
{
        uint64_t until = clock_usec(CLOCK_MONOTONIC) + FAREWELL_MSEC * USEC_PER_MSEC;
        int64_t id;

        if (!run->client)
                return;
        if (client_send(run->client, "tenant.exit",
                    json_pack("{s:s, s:i}", "tenant", run->id, "status", run->child.status), &id,
                    NULL) < 0)
                return;
        for (uint64_t now; (now = clock_usec(CLOCK_MONOTONIC)) < until;) {
                _cleanup_client_message_ struct client_message message = {0};
                int r = client_receive(
                        run->client, (int)((until - now) / USEC_PER_MSEC) + 1, &message, NULL);

                if ((r < 0 && r != -EINTR) || (r > 0 && message.id == id))
                        return;
        }
}

/* What the mode means for the command, said where it begins. */
static void tell_space(const struct run *run)
{
        const json_t *space = json_object_get(json_object_get(run->created, "tenant"), "space");
        const json_t *others = json_object_get(space, "fault_domain"), *name;
        const json_t *part = json_object_get(space, "part");
        size_t i;

        if (!json_is_object(space) || run->args->count[OPT_QUIET] > 0)
                return;
        fprintf(stderr, "cleave run: on %lld of %lld SMs",
                (long long)json_integer_value(json_object_get(space, "sms")),
                (long long)json_integer_value(json_object_get(space, "sms_device")));
        if (json_is_number(part))
                fprintf(stderr, ", %.0f %% of their time", json_number_value(part) * 100);
        json_array_foreach(others, i, name) fprintf(
                stderr, "%s%s", i == 0 ? ", side by side with " : ", ", json_string_value(name));
        fprintf(stderr,
                "; tenants side by side share one MPS server: a fault in one ends them all\n");
}

static int run_tenant(struct run *run)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        int r;

        r = daemon_connect(
                run->flags | DAEMON_START | DAEMON_REAL, &run->client, &run->directory, &error);
        if (r < 0)
                return fail(run, &error);
        r = create_tenant(run, &error);
        if (r < 0)
                return fail(run, &error);
        tell_space(run);
        r = start_child(run, &error);
        if (r < 0)
                return fail(run, &error);
        watch_child(run);
        say_farewell(run);
        return CLI_OK;
}

static int run_run(const struct cli_args *args)
{
        struct run run = {.args = args};
        int r;

        if (!args->value[OPT_MEMORY])
                return cli_usage(args->verb, "say how much device memory the command may hold, as "
                                             "in --memory 8G");
        if (args->count[OPT_QUIET])
                run.flags |= DAEMON_QUIET;
        /* which models, the daemon is told with the tenant */
        run.flags |= daemon_take_sim(args->value[OPT_SIM]) & ~(unsigned)DAEMON_MODEL;
        r = run_tenant(&run);
        run.client = client_free(run.client);
        json_decref(run.created);
        free(run.directory);
        if (r == CLI_OK)
                child_end_alike(&run.child);
        return r;
}

static const struct cli_example examples[] = {
        {"cleave run --memory 8G -- python train.py", "train under 8 GiB of device memory"},
        {"cleave run --memory 50% --wait -- ./solver", "half a GPU, as soon as one is free"},
        {"cleave run --memory 8G --compute 30 --compute-max 50 -- ./server",
                "with 30 % of its time for sure, and never more than half"},
        {"cleave run --memory 8G --sharing spatial --compute 25 -- ./server",
                "on a quarter of its multiprocessors, beside others on theirs"},
        {"cleave run --memory 0=4G,1=8G -- mpirun -n 2 ./app", "two GPUs, each with its own quota"},
        {"cleave run --sim=h100x2 --memory 8G -- ./app", "no GPU needed: two simulated ones"},
        {NULL, NULL},
};

const struct cli_verb verb_run = {
        .name = "run",
        .summary = "run a command under a device memory quota",
        .operands = "COMMAND [ARGUMENT...]",
        .description =
                "Runs an unmodified CUDA program, and all that it starts, as a tenant that cannot "
                "hold more device memory than its quota. The program sees the quota as the size of "
                "the GPU; what goes beyond it is refused as a full GPU refuses it.\n\n"
                "--compute, --compute-max and --priority divide the time of the device's engine "
                "among tenants; without them the driver does. They cost nothing per launch; where "
                "the driver refuses to be steered, launches wait for their turn instead, and "
                "cleave inspect says so. With "
                "--sharing spatial tenants have multiprocessors of their own and wait for nobody; "
                "they share one fault domain, and a device is shared either in time or in "
                "space.\n\n"
                "The quota is granted in full before the command starts: what has been granted is "
                "there, whatever other tenants do. The command keeps its terminal, its signals and "
                "its exit status.\n\n"
                "The daemon is the machine's, if one runs, or one of this user's own that is "
                "started for the purpose. Words after COMMAND belong to the command.",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .least = 1,
        .most = -1,
        .words = CLI_WORDS_COMMAND,
        .command = true,
        .usage_failure = CLI_RUN_FAILED,
        .run = run_run,
};
