/* SPDX-License-Identifier: Apache-2.0 */
/* cleave doctor: looks at everything that a tenant needs, and says what to do where it lacks. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <unistd.h>

#include "base/file.h"
#include "base/format.h"
#include "base/paths.h"
#include "base/process.h"
#include "cli/daemon.h"
#include "cli/doctor_api.h"
#include "cli/driver.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "proto/environment.h"

#define SCHEMA "cleave.doctor/1"

enum {
        OPT_OUTPUT,
        OPT_API,
};

static const struct cli_option options[] = {
        [OPT_OUTPUT] = OUTPUT_OPTION_NO_CSV,
        [OPT_API] =
                {
                        .name = "api",
                        .help = "List what the driver's libcuda has that Cleave does not know, and "
                                "which running processes of tenants have looked it up.",
                },
};

enum verdict {
        VERDICT_OK,
        VERDICT_WARN,
        VERDICT_FAIL,
};

static const struct {
        const char *word;
        enum output_tone tone;
} verdicts[] = {
        [VERDICT_OK] = {"OK", TONE_GOOD},
        [VERDICT_WARN] = {"WARN", TONE_WARN},
        [VERDICT_FAIL] = {"FAIL", TONE_BAD},
};

struct report {
        bool json;
        json_t *checks;
        int failed;
};

/* hint: NULL where there is nothing to do. */
static void say(struct report *report, enum verdict verdict, const char *subject, const char *hint,
        const char *format, ...) __attribute__((format(printf, 5, 6)));
static void say(struct report *report, enum verdict verdict, const char *subject, const char *hint,
        const char *format, ...)
{
        char text[8192];
        va_list list;

        va_start(list, format);
        vsnprintf(text, sizeof(text), format, list);
        va_end(list);
        report->failed += verdict == VERDICT_FAIL;
        json_array_append_new(
                report->checks, json_pack("{s:s, s:s, s:s, s:s?}", "subject", subject, "verdict",
                                        verdicts[verdict].word, "message", text, "hint", hint));
        if (report->json)
                return;
        printf("%s%-4s%s  %-12s %s\n", output_tone(verdicts[verdict].tone), verdicts[verdict].word,
                output_tone(TONE_PLAIN), subject, text);
        if (hint)
                printf("%*s%s\n", 19, "", hint);
}

/* Without a driver the simulated GPU still works: a warning, not a failure. */
static void check_driver(struct report *report, const struct driver_facts *facts)
{
        const char *instead = "For real GPUs install NVIDIA's driver, R525 or later; `cleave run "
                              "--sim` needs none.";

        if (*facts->kernel)
                say(report, VERDICT_OK, "driver", NULL, "kernel module %s", facts->kernel);
        else
                say(report, VERDICT_WARN, "driver", instead, "no NVIDIA kernel module is loaded");
        if (*facts->libcuda)
                say(report, VERDICT_OK, "libcuda", NULL, "%s, CUDA %d.%d", facts->libcuda,
                        facts->cuda / 1000, facts->cuda % 1000 / 10);
        else
                say(report, *facts->kernel ? VERDICT_FAIL : VERDICT_WARN, "libcuda",
                        *facts->kernel ? "Install the driver's libcuda1 (in a container, run it "
                                         "with the NVIDIA runtime)."
                                       : NULL,
                        "libcuda.so.1 is not to be loaded: %s", facts->libcuda_error);
        if (*facts->nvml)
                say(report, facts->devices ? VERDICT_OK : VERDICT_WARN, "NVML", NULL,
                        "driver %s, %u device%s", facts->nvml, facts->devices,
                        facts->devices == 1 ? "" : "s");
        else
                say(report, *facts->kernel ? VERDICT_FAIL : VERDICT_WARN, "NVML",
                        *facts->kernel ? "Without NVML the daemon cannot see the GPUs: install the "
                                         "driver's libnvidia-ml1."
                                       : NULL,
                        "NVML does not answer: %s", facts->nvml_error);
}

static void check_nodes(struct report *report, const struct driver_facts *facts)
{
        static const char *const needed[] = {"/dev/nvidiactl", "/dev/nvidia-uvm"};
        glob_t found = {0};
        unsigned good = 0;

        if (!*facts->kernel)
                return;
        for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
                if (access(needed[i], R_OK | W_OK) == 0)
                        good++;
                else
                        say(report, VERDICT_FAIL, "device files",
                                "Run `nvidia-modprobe -c0 -u` as root, or give this user access.",
                                "%s: %s", needed[i], strerror(errno));
        }
        glob("/dev/nvidia[0-9]*", 0, NULL, &found);
        for (size_t i = 0; i < found.gl_pathc; i++) {
                if (access(found.gl_pathv[i], R_OK | W_OK) == 0)
                        good++;
                else
                        say(report, VERDICT_WARN, "device files", NULL, "%s: %s", found.gl_pathv[i],
                                strerror(errno));
        }
        globfree(&found);
        if (good > 0)
                say(report, VERDICT_OK, "device files", NULL, "%u can be opened", good);
}

static void check_kernel(struct report *report)
{
        struct rlimit limit;
        struct statfs fs;
        char size[FORMAT_SIZE_MAX];
        int fd;

        fd = memfd_create("cleave-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
                say(report, VERDICT_FAIL, "shared pages", "Linux 3.17 or later is needed.",
                        "no sealed memory can be made: %s", strerror(errno));
        else
                say(report, VERDICT_OK, "shared pages", NULL, "sealed memory can be made");
        close_safe(fd);

        fd = process_open(getpid());
        if (fd < 0)
                say(report, VERDICT_FAIL, "pidfd", "Linux 5.3 or later is needed.",
                        "processes cannot be watched: %s", strerror(-fd));
        else
                say(report, VERDICT_OK, "pidfd", NULL, "processes can be watched");
        close_safe(fd);

        if (statfs("/sys/fs/cgroup", &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC)
                say(report, VERDICT_OK, "cgroup", NULL, "version 2, %s",
                        access("/sys/fs/cgroup/cgroup.procs", W_OK) == 0 ? "writable"
                                                                         : "as delegated");
        else
                say(report, VERDICT_WARN, "cgroup",
                        "Tenants are told apart by their process tree instead.",
                        "no version 2 hierarchy at /sys/fs/cgroup");

        if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
                if (limit.rlim_cur == RLIM_INFINITY)
                        say(report, VERDICT_OK, "memory lock", NULL, "unlimited");
                else
                        say(report, VERDICT_OK, "memory lock", NULL, "%s a process",
                                format_size(size, limit.rlim_cur));
        }
}

static void check_programs(struct report *report)
{
        _cleanup_free_ char *program = NULL;

        if (daemon_program(&program) < 0)
                say(report, VERDICT_FAIL, "cleaved",
                        "Build it with `make`, or install Cleave anew.",
                        "the daemon's program is not there");
        else
                say(report, VERDICT_OK, "cleaved", NULL, "%s", program);
}

static void check_directory(struct report *report, const char *directory, bool system)
{
        struct stat st;

        if (stat(directory, &st) < 0) {
                say(report, VERDICT_OK, "directory", NULL, "%s, made when the daemon starts",
                        directory);
                return;
        }
        if (!S_ISDIR(st.st_mode) || (!system && st.st_uid != geteuid()) ||
                (st.st_mode & (S_IWGRP | S_IWOTH)))
                say(report, VERDICT_FAIL, "directory",
                        "Remove it, or set CLEAVE_RUNTIME_DIR to another.",
                        "%s belongs to uid %u with mode %o: others could put sockets there",
                        directory, (unsigned)st.st_uid, st.st_mode & 07777);
        else
                say(report, VERDICT_OK, "directory", NULL, "%s", directory);
}

static void check_daemon(struct report *report, struct client *client)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        json_t *info = NULL, *warning;
        const char *version, *identity, *detail, *backend, *mechanism;
        const json_t *compute, *limits;
        size_t i;

        /* one that rests, as nothing is granted, is to open the driver and say what it finds */
        if (client_call(client, "device.list", NULL, &info, NULL) == 0)
                json_decref(info);
        if (client_call(client, "daemon.info", NULL, &info, &error) < 0) {
                say(report, VERDICT_FAIL, "daemon", error_hint(&error), "%s",
                        error_message(&error));
                return;
        }
        version = output_text(json_object_get(info, "version"), "?");
        say(report, strcmp(version, CLEAVE_VERSION) == 0 ? VERDICT_OK : VERDICT_WARN, "daemon",
                strcmp(version, CLEAVE_VERSION) == 0 ? NULL : "Restart it; running tenants go on.",
                "%s of version %s, pid %lld", output_text(json_object_get(info, "scope"), "?"),
                version, (long long)json_integer_value(json_object_get(info, "pid")));

        backend = output_text(json_object_get(info, "backend"), "null");
        detail = output_text(json_object_get(info, "backend_detail"), "");
        if (strcmp(output_text(json_object_get(info, "driver"), ""), "released") == 0)
                say(report, VERDICT_WARN, "backend", "cleave release --undo", "%s", detail);
        else if (strcmp(backend, "null") == 0)
                say(report, VERDICT_FAIL, "backend",
                        "Set up the driver, or use `cleave run --sim`.", "no GPU: %s", detail);
        else
                say(report, VERDICT_OK, "backend", NULL, "%s%s%s", backend, *detail ? ": " : "",
                        detail);

        identity = output_text(json_object_get(info, "identity"), "?");
        detail = output_text(json_object_get(info, "identity_detail"), "");
        say(report, strcmp(identity, "cgroup") == 0 ? VERDICT_OK : VERDICT_WARN, "identity",
                strcmp(identity, "cgroup") == 0
                        ? NULL
                        : "Processes that leave the command's tree leave the tenant's quota. Under "
                          "systemd the daemon can make cgroups.",
                "tenants are told apart by %s%s%s", identity, *detail ? ": " : "", detail);
        compute = json_object_get(info, "compute");
        mechanism = output_text(json_object_get(compute, "mechanism"), "?");
        if (json_is_object(compute))
                say(report, strcmp(mechanism, "channel-control") == 0 ? VERDICT_OK : VERDICT_WARN,
                        "compute",
                        strcmp(mechanism, "none") == 0
                                ? "Memory quotas hold all the same; time is shared as the driver "
                                  "does it."
                        : strcmp(mechanism, "gate") == 0
                                ? "Shares and caps hold, a little less exactly than where the "
                                  "driver's scheduler is steered, and not for what launches "
                                  "without the driver's library."
                                : NULL,
                        "%s", output_text(json_object_get(compute, "detail"), "?"));
        limits = json_object_get(info, "driver_limits");
        if (json_is_object(limits))
                say(report,
                        strcmp(output_text(json_object_get(limits, "state"), ""), "refused") == 0
                                ? VERDICT_WARN
                                : VERDICT_OK,
                        "limits", NULL, "the driver's own are %s: %s",
                        output_text(json_object_get(limits, "state"), "?"),
                        output_text(json_object_get(limits, "detail"), "?"));
        json_array_foreach(json_object_get(info, "warnings"), i, warning)
                say(report, VERDICT_WARN, "daemon", NULL, "%s", output_text(warning, "?"));
        json_decref(info);
}

static void check_sockets(struct report *report, const char *directory, bool system)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_client_ struct client *client = NULL;
        _cleanup_close_ int guard = -EBADF;

        if (client_connect(directory, &client, &error) < 0) {
                if (error.code == CLEAVE_REASON_UNREACHABLE && !system)
                        say(report, VERDICT_OK, "daemon", NULL,
                                "none runs; `cleave run` starts one for this user");
                else
                        say(report, VERDICT_FAIL, "daemon", error_hint(&error), "%s",
                                error_message(&error));
                return;
        }
        check_daemon(report, client);
        guard = socket_connect(directory, CLEAVE_GUARD_SOCKET, SOCK_SEQPACKET);
        if (guard < 0)
                say(report, VERDICT_FAIL, "guard socket", "Restart the daemon.",
                        "programs cannot reach %s/%s: %s", directory, CLEAVE_GUARD_SOCKET,
                        strerror(-guard));
        else
                say(report, VERDICT_OK, "guard socket", NULL, "%s/%s", directory,
                        CLEAVE_GUARD_SOCKET);
}

static void check_environment(struct report *report)
{
        const char *models = getenv(CLEAVE_ENV_SIM), *library = getenv(CLEAVE_ENV_LIBCUDA);

        if (models && *models)
                say(report, VERDICT_OK, "simulator", NULL, "CLEAVE_SIM=%s: GPUs are simulated",
                        models);
        if (library && *library && access(library, R_OK) < 0)
                say(report, VERDICT_FAIL, "CLEAVE_LIBCUDA",
                        "Unset it, or name the driver's library.", "%s: %s", library,
                        strerror(errno));
}

static int run_doctor(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_free_ char *directory = NULL;
        struct report report = {
                .json = output_format(args->value[OPT_OUTPUT]) == OUTPUT_JSON,
                .checks = json_array(),
        };
        struct driver_facts facts;
        bool system = false;
        json_t *all;
        int r = 0;

        if (!report.checks)
                return CLI_FAILED;
        if (args->count[OPT_API]) {
                json_decref(report.checks);
                return doctor_api(report.json);
        }
        driver_facts(&facts);
        check_driver(&report, &facts);
        check_nodes(&report, &facts);
        check_kernel(&report);
        check_environment(&report);
        check_programs(&report);
        if (daemon_directory(0, &directory, &system, &error) < 0) {
                say(&report, VERDICT_FAIL, "directory", error_hint(&error), "%s",
                        error_message(&error));
        } else {
                check_directory(&report, directory, system);
                check_sockets(&report, directory, system);
        }
        if (report.json) {
                all = json_pack("{s:b, s:O}", "ok", report.failed == 0, "checks", report.checks);
                r = all ? output_json(all, SCHEMA) : -ENOMEM;
                json_decref(all);
        }
        json_decref(report.checks);
        return output_end(report.failed || r < 0 ? CLI_FAILED : CLI_OK);
}

const struct cli_verb verb_doctor = {
        .name = "doctor",
        .summary = "look for what is missing, and say what to do",
        .description =
                "Looks at everything that running a tenant needs: the driver and its libraries, "
                "device files, kernel features, cgroups, the daemon, its sockets and their "
                "permissions. Each line is OK, WARN (it works, but less well) or FAIL, with a hint "
                "what to do. Exits with 1 if anything has failed. JSON has the schema " SCHEMA
                ", with --api cleave.doctor.api/1.",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .run = run_doctor,
};
