/* SPDX-License-Identifier: Apache-2.0 */
/* Steering of real GPUs, on a stock driver. docs/probes.md has the sequence and its answers. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "steer/fecs.h"
#include "steer/rm.h"

#define MINORS 64u /* of /dev/nvidiaN that are looked at */

struct nvidia {
        struct steer_client client; /* first */
        int gpu[MINORS];            /* RM knows devices that somebody has open */
        struct fecs *fecs[STEER_MAX_DEVICES];
};

static void nvidia_close(void *handle)
{
        struct nvidia *nvidia = handle;

        if (!nvidia)
                return;
        for (unsigned i = 0; i < STEER_MAX_DEVICES; i++)
                fecs_close(nvidia->fecs[i]);
        for (unsigned i = 0; i < MINORS; i++)
                close_safe(nvidia->gpu[i]);
        close_safe(nvidia->client.fd);
        free(nvidia);
}
DEFINE_CLEANUP(void *, nvidia_close);

static int nvidia_open(const void *argument, void **ret_handle)
{
        _cleanup_(nvidia_close_ptr) void *handle = NULL;
        struct nvidia *nvidia;
        uint32_t status;

        (void)argument;
        handle = nvidia = calloc(1, sizeof(*nvidia));
        if (!nvidia)
                return -ENOMEM;
        for (unsigned i = 0; i < MINORS; i++)
                nvidia->gpu[i] = -EBADF;
        nvidia->client.call = ioctl;
        nvidia->client.fd = open("/dev/nvidiactl", O_RDWR | O_CLOEXEC);
        if (nvidia->client.fd < 0)
                return -errno;
        status = steer_rm_alloc(
                &nvidia->client, 0, RM_CLASS_ROOT_CLIENT, NULL, 0, &nvidia->client.handle);
        if (status != RM_OK)
                return steer_status_error(status);
        *ret_handle = TAKE_PTR(handle);
        return 0;
}

/* The instance of each device that is attached is tried; ids are attached as devices are opened. */
static uint32_t find_attached(struct nvidia *nvidia, unsigned index, const uint8_t uuid[16])
{
        struct steer_client *client = &nvidia->client;
        uint32_t ids[32] = {0}, info[8], status;

        status = steer_rm_control(client, client->fd, client->handle, client->handle,
                RM_CTRL_GPU_GET_ATTACHED_IDS, ids, sizeof(ids));
        for (unsigned i = 0; status == RM_OK && i < ARRAY_SIZE(ids) && ids[i] != UINT32_MAX; i++) {
                for (unsigned k = 0; k < ARRAY_SIZE(info); k++)
                        info[k] = 0;
                info[0] = ids[i];
                if (steer_rm_control(client, client->fd, client->handle, client->handle,
                            RM_CTRL_GPU_GET_ID_INFO, info, sizeof(info)) != RM_OK)
                        continue;
                if (steer_rm_open_device(client, index, info[2], uuid) == RM_OK)
                        return RM_OK;
        }
        return status == RM_OK ? RM_ERR_OBJECT_ABSENT : status;
}

static int nvidia_open_device(
        void *handle, unsigned index, const uint8_t uuid[16], uint32_t *ret_status)
{
        struct nvidia *nvidia = handle;
        char path[32];

        *ret_status = find_attached(nvidia, index, uuid);
        for (unsigned i = 0; *ret_status == RM_ERR_OBJECT_ABSENT && i < MINORS; i++) {
                if (nvidia->gpu[i] >= 0)
                        continue;
                snprintf(path, sizeof(path), "/dev/nvidia%u", i);
                nvidia->gpu[i] = open(path, O_RDWR | O_CLOEXEC);
                if (nvidia->gpu[i] < 0)
                        continue;
                *ret_status = find_attached(nvidia, index, uuid);
                /* only what is steered is held up */
                if (*ret_status != RM_OK)
                        nvidia->gpu[i] = close_safe(nvidia->gpu[i]);
        }
        return steer_status_error(*ret_status);
}

static int nvidia_watch(void *handle, unsigned device, bool *ret_all, uint32_t *ret_status)
{
        struct nvidia *nvidia = handle;

        return fecs_open(&nvidia->client, device, &nvidia->fecs[device], ret_all, ret_status);
}

static int nvidia_records(void *handle, unsigned device, struct steer_record *records,
        unsigned room, uint64_t *ret_until, bool *ret_lost)
{
        struct nvidia *nvidia = handle;

        return fecs_records(nvidia->fecs[device], records, room, ret_until, ret_lost);
}

static int nvidia_record(void *handle, unsigned device, bool on, uint32_t *ret_status)
{
        struct nvidia *nvidia = handle;
        int r = fecs_record(nvidia->fecs[device], on, ret_status);

        /* to be opened anew */
        if (r < 0 && on)
                nvidia->fecs[device] = fecs_close(nvidia->fecs[device]);
        return r;
}

static int nvidia_samples(
        void *handle, unsigned device, uint64_t after, struct steer_sample *samples, unsigned room)
{
        struct nvidia *nvidia = handle;

        return fecs_samples(nvidia->fecs[device], after, samples, room);
}

const struct steer_backend steer_backend_nvidia = {
        .name = "nvidia",
        .open = nvidia_open,
        .close = nvidia_close,
        .open_device = nvidia_open_device,
        .disable = steer_rm_disable,
        .set_slice = steer_rm_set_slice,
        .get_slice = steer_rm_get_slice,
        .set_mode = steer_rm_set_mode,
        .preempt = steer_rm_preempt,
        .restart = steer_rm_restart,
        .watch = nvidia_watch,
        .records = nvidia_records,
        .record = nvidia_record,
        .samples = nvidia_samples,
};
