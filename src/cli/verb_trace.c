/* SPDX-License-Identifier: Apache-2.0 */
/* cleave trace: starts a command with the tracing library, or shows what it has written. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/parse.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "cli/trace.h"
#include "cli/verbs.h"
#include "proto/environment.h"
#include "trace/show.h"

#define DEFAULT_FILE  "cleave.trace"
#define DEFAULT_LIMIT "1G"

enum {
        OPT_OUTPUT,
        OPT_CONTENTS,
        OPT_LIMIT,
        OPT_SHOW,
        OPT_FORMAT,
};

static const struct cli_option options[] = {
        [OPT_OUTPUT] = {.name = "output",
                .letter = 'o',
                .argument = "FILE",
                .help = "The trace to write; one that is there is replaced.",
                .preset = DEFAULT_FILE},
        [OPT_CONTENTS] = {.name = "contents",
                .help = "Record what copies carry too, and not only how much it is. Code is always "
                        "recorded."},
        [OPT_LIMIT] = {.name = "limit",
                .argument = "SIZE",
                .help = "How large the trace may become; beyond that, calls are only counted.",
                .preset = DEFAULT_LIMIT},
        [OPT_SHOW] = {.name = "show",
                .argument = "FILE",
                .help = "Show a trace, a line per call, instead of running a command."},
        [OPT_FORMAT] = {.name = "format",
                .argument = "FORMAT",
                .words = CLI_WORDS_LIST,
                .choices = "text json",
                .help = "With --show: text, or JSON with an object per line.",
                .preset = "text"},
};

static int show(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        const char *format = args->value[OPT_FORMAT];
        struct trace_file file;
        int r;

        if (args->n_operands > 0)
                return cli_usage(args->verb, "--show runs no command");
        if (trace_file_open(args->value[OPT_SHOW], &file, &error) < 0)
                return cli_report(args->verb, &error);
        if (format && strcmp(format, "json") == 0)
                r = trace_show_json(stdout, &file);
        else {
                trace_show_text(stdout, &file);
                r = 0;
        }
        trace_file_done(&file);
        return output_end(r < 0 ? CLI_FAILED : CLI_OK);
}

static uint64_t clock_ns(clockid_t clock)
{
        struct timespec ts;

        clock_gettime(clock, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void put_command(char *to, size_t size, char **words)
{
        for (size_t at = 0; *words && at + 2 < size; words++) {
                size_t length = strnlen(*words, size - at - 2);

                memcpy(to + at, *words, length);
                at += length + 1;
        }
}

static int write_header(int fd, const struct cli_args *args, uint64_t limit, const char *path,
        struct cleave_error *error)
{
        _cleanup_free_ struct trace_header *header = calloc(1, TRACE_HEADER_BYTES);
        struct utsname machine;
        int r;

        if (!header)
                return error_set_errno(error, ENOMEM, "cannot begin the trace %s", path);
        memcpy(header->magic, TRACE_MAGIC, sizeof(header->magic));
        header->version = TRACE_VERSION;
        header->options = args->count[OPT_CONTENTS] ? TRACE_CONTENTS : 0;
        header->digest = CUDA_TRACE_DIGEST;
        header->limit = limit;
        header->began = clock_ns(CLOCK_MONOTONIC);
        header->began_realtime = clock_ns(CLOCK_REALTIME);
        header->end = TRACE_HEADER_BYTES;
        snprintf(header->cleave, sizeof(header->cleave), "%s", CLEAVE_VERSION);
        if (uname(&machine) == 0)
                snprintf(header->machine, sizeof(header->machine), "%.31s", machine.machine);
        put_command(header->command, sizeof(header->command), args->operands);
        r = write_all(fd, header, TRACE_HEADER_BYTES);
        return r < 0 ? error_set_errno(error, r, "cannot write the trace %s", path) : 0;
}

/* Makes the file, and says where it is to the library. */
static int begin(const struct cli_args *args, uint64_t limit, struct cleave_error *error)
{
        const char *name = args->value[OPT_OUTPUT] ?: DEFAULT_FILE;
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *path = NULL;
        struct stat st;
        int r;

        if (stat(name, &st) == 0 && !S_ISREG(st.st_mode))
                return error_set(error, CLEAVE_REASON_USAGE,
                        "%s is no file: a trace is written in place, and needs one", name);
        fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0)
                return error_set_errno(error, errno, "cannot write the trace %s", name);
        path = realpath(name, NULL);
        if (!path)
                return error_set_errno(error, errno, "cannot find the trace %s", name);
        r = write_header(fd, args, limit, name, error);
        if (r < 0)
                return r;
        if (setenv(CLEAVE_ENV_TRACE, path, 1) < 0)
                return error_set_errno(error, errno, "cannot set the command's environment");
        return 0;
}

static int run_trace(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        uint64_t limit;
        int number;

        if (args->count[OPT_SHOW])
                return show(args);
        if (args->n_operands == 0)
                return cli_usage(args->verb, "there is no command to run");
        if (parse_size(args->value[OPT_LIMIT] ?: DEFAULT_LIMIT, &limit, &error) < 0)
                return cli_usage(args->verb, "%s", error_message(&error));
        if (begin(args, limit, &error) < 0 || trace_preload(&error) < 0)
                return cli_report(args->verb, &error);
        execvp(args->operands[0], args->operands);
        number = errno;
        fprintf(stderr, "cleave trace: cannot execute %s: %s\n", args->operands[0],
                number == ENOENT ? "no such command" : strerror(number));
        return number == ENOENT ? 127 : 126;
}

static const struct cli_example examples[] = {
        {"cleave trace -o app.trace -- ./app", "run it and record every call"},
        {"cleave run --memory 8G -- cleave trace -- ./app", "the same in a tenant"},
        {"cleave trace --show app.trace", "a line per call"},
        {NULL, NULL},
};

const struct cli_verb verb_trace = {
        .name = "trace",
        .summary = "record every CUDA driver call of a command",
        .operands = "COMMAND [ARGUMENT...] | --show FILE",
        .description =
                "Runs a command and records each call of the CUDA driver API that it and its "
                "children make: parameters and sizes, result, time, process, thread and stream. "
                "cleave replay makes the calls again, elsewhere. What copies carry is not "
                "recorded unless --contents asks for it; code that is loaded is, and so are the "
                "names and the words of the command line.\n\n"
                "Works with and without a tenant, on GPUs and simulated ones. Without this verb "
                "tracing costs nothing. The trace is readable at any time, up to the last call, "
                "however the command ends: a call that never returned stands there too. If the "
                "disk is full or the limit reached, the command goes on and the trace says that "
                "it is cut.\n\n"
                "Calls that a library makes by the driver's private tables are not seen, nor "
                "those of programs that load the driver by another name than libcuda.so.1. The "
                "command's exit status is that of this verb. JSON has the schema " TRACE_SCHEMA ".",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .least = 0,
        .most = -1,
        .words = CLI_WORDS_COMMAND,
        .command = true,
        .run = run_trace,
};
