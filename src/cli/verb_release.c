/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "cli/daemon.h"
#include "cli/output.h"
#include "cli/verbs.h"

enum {
        OPT_UNDO,
};

static const struct cli_option options[] = {
        [OPT_UNDO] = {.name = "undo", .help = "Let the daemon take the GPUs up again."},
};

static int run_release(const struct cli_args *args)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_client_ struct client *client = NULL;
        bool undo = args->count[OPT_UNDO] > 0;
        json_t *result = NULL;
        int r;

        r = daemon_connect(0, &client, NULL, &error);
        if (r == 0)
                r = client_call(
                        client, undo ? "device.acquire" : "device.release", NULL, &result, &error);
        if (r < 0)
                return cli_report(args->verb, &error);
        if (undo && json_integer_value(json_object_get(result, "devices")) == 0)
                fprintf(stderr, "cleave release: the daemon finds no GPU now\n");
        json_decref(result);
        return output_end(CLI_OK);
}

static const struct cli_example examples[] = {
        {"cleave release && modprobe -r nvidia_uvm nvidia", "unload the driver"},
        {"cleave release --undo", "and afterwards"},
        {NULL, NULL},
};

const struct cli_verb verb_release = {
        .name = "release",
        .summary = "make the daemon let go of the driver",
        .operands = NULL,
        .description =
                "The daemon ends its session with NVIDIA's library and closes every device file, "
                "so "
                "that the driver can be unloaded or updated, or a GPU be reset or handed on. Until "
                "--undo, or the daemon's next start, nothing is granted. Refused while tenants "
                "live. For root and the daemon's own user.\n\n"
                "Without this, it lets go by itself when nothing has been granted for a while "
                "(release_after in cleave.conf(5)), and opens the driver again when anybody asks "
                "for a device.",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .examples = examples,
        .least = 0,
        .most = 0,
        .run = run_release,
};
