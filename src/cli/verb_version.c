/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "cli/daemon.h"
#include "cli/driver.h"
#include "cli/output.h"
#include "cli/verbs.h"

#define SCHEMA "cleave.version/1"

enum {
        OPT_OUTPUT,
};

static const struct cli_option options[] = {
        [OPT_OUTPUT] = OUTPUT_OPTION_NO_CSV,
};

/* The version of the daemon that listens now, if one does, and of the driver as it knows it: new
 * references or NULL. */
static void ask_daemon(json_t **ret_version, json_t **ret_driver)
{
        _cleanup_client_ struct client *client = NULL;
        json_t *info = NULL, *devices = NULL;

        if (daemon_connect(0, &client, NULL, NULL) < 0)
                return;
        if (client_call(client, "daemon.info", NULL, &info, NULL) == 0)
                *ret_version = json_incref(json_object_get(info, "version"));
        if (client_call(client, "device.list", NULL, &devices, NULL) == 0)
                *ret_driver = json_incref(json_object_get(
                        json_array_get(json_object_get(devices, "devices"), 0), "driver_version"));
        json_decref(info);
        json_decref(devices);
}

static int run_version(const struct cli_args *args)
{
        json_t *daemon = NULL, *driver = NULL;
        char kernel[DRIVER_TEXT_MAX], cuda_text[24];
        int cuda = driver_cuda_version(), r = 0;

        ask_daemon(&daemon, &driver);
        driver_kernel_version(kernel, sizeof(kernel));
        if (!json_is_string(driver) && *kernel) {
                json_decref(driver);
                driver = json_string(kernel);
        }
        snprintf(cuda_text, sizeof(cuda_text), "%d.%d", cuda / 1000, cuda % 1000 / 10);
        if (output_format(args->value[OPT_OUTPUT]) == OUTPUT_JSON) {
                json_t *all = json_pack("{s:s, s:O?, s:O?, s:s?}", "client", CLEAVE_VERSION,
                        "daemon", daemon, "driver", driver, "cuda", cuda ? cuda_text : NULL);

                r = all ? output_json(all, SCHEMA) : -ENOMEM;
                json_decref(all);
        } else {
                printf("client  %s\n", CLEAVE_VERSION);
                printf("daemon  %s\n", output_text(daemon, "not running"));
                printf("driver  %s\n", output_text(driver, "none"));
                printf("CUDA    %s\n", cuda ? cuda_text : "none");
        }
        json_decref(daemon);
        json_decref(driver);
        return output_end(r < 0 ? CLI_FAILED : CLI_OK);
}

const struct cli_verb verb_version = {
        .name = "version",
        .summary = "show versions of client, daemon, driver and CUDA",
        .description = "Shows the versions of this program, of the daemon if one runs, of the GPU "
                       "driver, and of CUDA as the driver's library supports it. JSON has the "
                       "schema " SCHEMA ".",
        .options = options,
        .n_options = ARRAY_SIZE(options),
        .run = run_version,
};
