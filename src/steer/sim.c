/* SPDX-License-Identifier: Apache-2.0 */
/* Steering of the simulated GPU: the same calls, answered by its kernel library in this process. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "sim/kernel.h"
#include "steer/rm.h"

static void sim_close(void *handle)
{
        struct steer_client *client = handle;

        if (!client)
                return;
        if (client->handle)
                (void)steer_rm_free(client, 0, client->handle);
        free(client);
}
DEFINE_CLEANUP(void *, sim_close);

static int sim_open(const void *argument, void **ret_handle)
{
        _cleanup_(sim_close_ptr) void *handle = NULL;
        struct steer_client *client;
        uint32_t status;
        int r;

        (void)argument;
        r = kernel_open();
        if (r == 0)
                r = kernel_attach();
        if (r < 0)
                return r;
        handle = client = calloc(1, sizeof(*client));
        if (!client)
                return -ENOMEM;
        client->call = sim_ioctl;
        client->fd = kernel_control_fd();
        if (client->fd < 0)
                return client->fd;
        status = steer_rm_alloc(client, 0, RM_CLASS_ROOT_CLIENT, NULL, 0, &client->handle);
        if (status != RM_OK)
                return steer_status_error(status);
        *ret_handle = TAKE_PTR(handle);
        return 0;
}

static int sim_open_device(
        void *handle, unsigned index, const uint8_t uuid[16], uint32_t *ret_status)
{
        *ret_status = RM_ERR_OBJECT_ABSENT;
        for (uint32_t i = 0; i < kernel_state()->devices && *ret_status != RM_OK; i++)
                *ret_status = steer_rm_open_device(handle, index, i, uuid);
        return steer_status_error(*ret_status);
}

/* The simulated driver tells processes apart by themselves, not by their descriptors. */
static struct steer_object ours(void *handle, const struct steer_object *object)
{
        struct steer_object copy = *object;

        copy.fd = ((struct steer_client *)handle)->fd;
        return copy;
}

static int sim_set_slice(
        void *handle, const struct steer_object *group, uint64_t microseconds, uint32_t *ret_status)
{
        struct steer_object object = ours(handle, group);

        return steer_rm_set_slice(handle, &object, microseconds, ret_status);
}

static int sim_get_slice(void *handle, const struct steer_object *group, uint64_t *ret_microseconds,
        uint32_t *ret_status)
{
        struct steer_object object = ours(handle, group);

        return steer_rm_get_slice(handle, &object, ret_microseconds, ret_status);
}

static int sim_set_mode(
        void *handle, const struct steer_object *group, bool thread_block, uint32_t *ret_status)
{
        struct steer_object object = ours(handle, group);

        return steer_rm_set_mode(handle, &object, thread_block, ret_status);
}

static int sim_preempt(void *handle, const struct steer_object *group, uint32_t *ret_status)
{
        struct steer_object object = ours(handle, group);

        return steer_rm_preempt(handle, &object, ret_status);
}

static int sim_restart(void *handle, const struct steer_object *channel, uint32_t *ret_status)
{
        struct steer_object object = ours(handle, channel);

        return steer_rm_restart(handle, &object, ret_status);
}

const struct steer_backend steer_backend_sim = {
        .name = "sim",
        .open = sim_open,
        .close = sim_close,
        .open_device = sim_open_device,
        .disable = steer_rm_disable,
        .set_slice = sim_set_slice,
        .get_slice = sim_get_slice,
        .set_mode = sim_set_mode,
        .preempt = sim_preempt,
        .restart = sim_restart,
};
