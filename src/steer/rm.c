/* SPDX-License-Identifier: Apache-2.0 */
#include "steer/rm.h"

#include <string.h>
#include <sys/ioctl.h>

uint32_t steer_rm_alloc(const struct steer_client *client, uint32_t parent, uint32_t class_id,
        void *params, uint32_t size, uint32_t *ret_handle)
{
        struct rm_alloc call = {
                .client = client->handle,
                .parent = parent,
                .class_id = class_id,
                .params = (uint64_t)(uintptr_t)params,
                .params_size = size,
        };

        if (client->call(client->fd, _IOWR(RM_IOCTL_TYPE, RM_ESC_ALLOC, struct rm_alloc), &call) <
                0)
                return RM_ERR_CALL;
        if (call.status == RM_OK)
                *ret_handle = call.handle;
        return call.status;
}

uint32_t steer_rm_free(const struct steer_client *client, uint32_t parent, uint32_t handle)
{
        struct rm_free call = {.client = client->handle, .parent = parent, .handle = handle};

        if (client->call(client->fd, _IOWR(RM_IOCTL_TYPE, RM_ESC_FREE, struct rm_free), &call) < 0)
                return RM_ERR_CALL;
        return call.status;
}

uint32_t steer_rm_control(const struct steer_client *client, int fd, uint32_t of_client,
        uint32_t object, uint32_t cmd, void *params, uint32_t size)
{
        struct rm_control call = {
                .client = of_client,
                .object = object,
                .cmd = cmd,
                .params = (uint64_t)(uintptr_t)params,
                .params_size = size,
        };

        if (client->call(fd, _IOWR(RM_IOCTL_TYPE, RM_ESC_CONTROL, struct rm_control), &call) < 0)
                return RM_ERR_CALL;
        return call.status;
}

uint32_t steer_rm_open_device(
        struct steer_client *client, unsigned index, uint32_t instance, const uint8_t uuid[16])
{
        /* the instance, then fields that may be zero: NV0080_ALLOC_PARAMETERS has 56 bytes */
        uint32_t params[14] = {instance}, zero = 0, device, subdevice, status;
        struct rm_gid_info gid = {.flags = RM_GID_BINARY};

        status = steer_rm_alloc(
                client, client->handle, RM_CLASS_DEVICE, params, sizeof(params), &device);
        if (status != RM_OK)
                return status;
        status =
                steer_rm_alloc(client, device, RM_CLASS_SUBDEVICE, &zero, sizeof(zero), &subdevice);
        if (status == RM_OK)
                status = steer_rm_control(client, client->fd, client->handle, subdevice,
                        RM_CTRL_GPU_GET_GID_INFO, &gid, sizeof(gid));
        if (status == RM_OK && (gid.length != 16 || memcmp(gid.data, uuid, 16) != 0))
                status = RM_ERR_OBJECT_ABSENT;
        if (status == RM_OK)
                client->subdevice[index] = subdevice;
        else
                (void)steer_rm_free(client, client->handle, device);
        return status;
}

int steer_rm_disable(void *handle, unsigned device, const struct steer_channel *channels,
        unsigned count, enum steer_switch how, uint32_t *ret_status)
{
        const struct steer_client *client = handle;
        struct rm_disable_channels params = {
                .disable = how != STEER_ON,
                .only_disable_scheduling = how == STEER_OFF_NEXT,
                .channels = count,
        };

        for (unsigned i = 0; i < count; i++) {
                params.client[i] = channels[i].client;
                params.channel[i] = channels[i].channel;
        }
        *ret_status = steer_rm_control(client, client->fd, client->handle,
                client->subdevice[device], RM_CTRL_FIFO_DISABLE_CHANNEL, &params, sizeof(params));
        return steer_status_error(*ret_status);
}

int steer_rm_set_slice(
        void *handle, const struct steer_object *group, uint64_t microseconds, uint32_t *ret_status)
{
        struct rm_timeslice params = {.microseconds = microseconds};

        *ret_status = steer_rm_control(handle, group->fd, group->client, group->object,
                RM_CTRL_GROUP_SET_TIMESLICE, &params, sizeof(params));
        return steer_status_error(*ret_status);
}

int steer_rm_get_slice(void *handle, const struct steer_object *group, uint64_t *ret_microseconds,
        uint32_t *ret_status)
{
        struct rm_timeslice params = {0};

        *ret_status = steer_rm_control(handle, group->fd, group->client, group->object,
                RM_CTRL_GROUP_GET_TIMESLICE, &params, sizeof(params));
        if (*ret_status == RM_OK)
                *ret_microseconds = params.microseconds;
        return steer_status_error(*ret_status);
}

int steer_rm_set_mode(
        void *handle, const struct steer_object *group, bool thread_block, uint32_t *ret_status)
{
        struct rm_preemption_mode params = {
                .flags = RM_PREEMPTION_SET_COMPUTE,
                .object = group->object,
                .compute = thread_block ? RM_PREEMPTION_THREAD_BLOCK : RM_PREEMPTION_INSTRUCTION,
        };

        *ret_status = steer_rm_control(handle, group->fd, group->client, group->subdevice,
                RM_CTRL_GR_SET_PREEMPTION_MODE, &params, sizeof(params));
        return steer_status_error(*ret_status);
}

int steer_rm_preempt(void *handle, const struct steer_object *group, uint32_t *ret_status)
{
        struct rm_preempt params = {0};

        *ret_status = steer_rm_control(handle, group->fd, group->client, group->object,
                RM_CTRL_GROUP_PREEMPT, &params, sizeof(params));
        return steer_status_error(*ret_status);
}

int steer_rm_restart(void *handle, const struct steer_object *channel, uint32_t *ret_status)
{
        struct rm_restart_runlist params = {.bypass_wait = 1};

        *ret_status = steer_rm_control(handle, channel->fd, channel->client, channel->object,
                RM_CTRL_CHANNEL_RESTART_RUNLIST, &params, sizeof(params));
        return steer_status_error(*ret_status);
}
