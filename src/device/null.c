/* SPDX-License-Identifier: Apache-2.0 */
/* No device, and the reason why. */
#include <string.h>

#include "device/device.h"

static int null_open(const char *argument, void **ret_handle, struct cleave_error *error)
{
        char *reason = strdup(argument ?: "none was looked for");

        if (!reason)
                return error_set_errno(error, ENOMEM, "cannot open the null backend");
        *ret_handle = reason;
        return 0;
}

static void null_close(void *handle)
{
        free(handle);
}

static int null_enumerate(
        void *handle, struct device **ret, size_t *ret_count, struct cleave_error *error)
{
        *ret = NULL;
        *ret_count = 0;
        return 0;
}

static int null_memory(void *handle, unsigned index, struct device_memory *ret)
{
        return -ENODEV;
}

static int null_processes(
        void *handle, unsigned index, struct device_process **ret, size_t *ret_count)
{
        return -ENODEV;
}

static const char *null_driver_version(void *handle)
{
        return "";
}

static const char *null_detail(void *handle)
{
        return handle;
}

const struct device_backend device_backend_null = {
        .name = "null",
        .vendor = "none",
        .open = null_open,
        .close = null_close,
        .enumerate = null_enumerate,
        .memory = null_memory,
        .processes = null_processes,
        .driver_version = null_driver_version,
        .detail = null_detail,
};
