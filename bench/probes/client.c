/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"
#include "probe.h"

const char *rm_status_name(uint32_t status)
{
        static const struct {
                uint32_t status;
                const char *name;
        } names[] = {{0, "OK"}, {0x1A, "INSUFFICIENT_RESOURCES"},
                {0x1B, "INSUFFICIENT_PERMISSIONS"}, {0x1F, "INVALID_ARGUMENT"},
                {0x22, "INVALID_CLASS"}, {0x23, "INVALID_CLIENT"}, {0x26, "INVALID_DEVICE"},
                {0x29, "INVALID_FLAGS"}, {0x31, "INVALID_OBJECT"}, {0x33, "INVALID_OBJECT_HANDLE"},
                {0x36, "INVALID_OBJECT_PARENT"}, {0x3A, "INVALID_PARAM_STRUCT"},
                {0x40, "INVALID_STATE"}, {0x51, "NO_MEMORY"}, {0x56, "NOT_SUPPORTED"},
                {0x57, "OBJECT_NOT_FOUND"}, {0x59, "OPERATING_SYSTEM"}, {0xFFFF, "GENERIC"}};

        for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
                if (names[i].status == status)
                        return names[i].name;
        return "?";
}

void client_step(const struct client *client, const char *what, uint32_t status)
{
        if (!client->quiet || status != RM_OK)
                printf("  %-44s 0x%02x %s\n", what, status, rm_status_name(status));
}

static uint32_t rm_call(int fd, unsigned nr, void *arg, unsigned size, uint32_t *status)
{
        if (ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, RM_IOCTL_TYPE, nr, size), arg) < 0) {
                printf("  ioctl 0x%02x: %s\n", nr, strerror(errno));
                return RM_ERR_GENERIC;
        }
        return *status;
}

uint32_t client_alloc(const struct client *client, uint32_t parent, uint32_t class_id, void *params,
        uint32_t size, uint32_t *ret_handle)
{
        struct rm_alloc call = {.client = client->handle,
                .parent = parent,
                .class_id = class_id,
                .params = (uint64_t)(uintptr_t)params,
                .params_size = size};
        uint32_t status = rm_call(client->ctl, RM_ESC_ALLOC, &call, sizeof(call), &call.status);

        *ret_handle = call.handle;
        return status;
}

uint32_t client_control(
        const struct client *client, uint32_t object, uint32_t cmd, void *params, uint32_t size)
{
        struct rm_control call = {.client = client->handle,
                .object = object,
                .cmd = cmd,
                .params = (uint64_t)(uintptr_t)params,
                .params_size = size};

        return rm_call(client->ctl, RM_ESC_CONTROL, &call, sizeof(call), &call.status);
}

uint64_t client_gpu_now(const struct client *client)
{
        return now_ns() + (uint64_t)client->gpu_minus_host;
}

/* The shortest of some calls says best how the clocks stand. */
static void set_clock(struct client *client)
{
        uint64_t best = UINT64_MAX, before, after, ns = 0;
        uint32_t status = 0;

        for (int i = 0; i < 50; i++) {
                before = now_ns();
                status = client_control(
                        client, client->subdevice, RM_CTRL_TIMER_GET_TIME, &ns, sizeof(ns));
                after = now_ns();
                if (status != RM_OK)
                        break;
                if (after - before < best) {
                        best = after - before;
                        client->gpu_minus_host = (int64_t)(ns - (before + best / 2));
                }
        }
        client_step(client, "TIMER_GET_TIME", status);
        if (!client->quiet)
                printf("  GPU clock %" PRIu64 " ns, a call takes %" PRIu64 " ns\n", ns, best);
}

void *client_read_only_memory(const struct client *client, size_t size, uint32_t *ret_handle)
{
        struct rm_memory_params params = {.size = size,
                .attr = RM_ATTR_COHERENCY_WRITE_BACK,
                .attr2 = RM_ATTR2_USER_READ_ONLY};
        struct rm_map map = {.client = client->handle,
                .device = client->handle,
                .length = size,
                .flags = RM_MAP_READ_ONLY};
        uint32_t status;
        void *p;

        status = client_alloc(client, client->handle, RM_CLASS_MEMORY_DEVICELESS, &params,
                sizeof(params), ret_handle);
        client_step(client, "memory without a device, read-only for us", status);
        if (status != RM_OK)
                return NULL;
        map.memory = *ret_handle;
        /* a fresh one: a descriptor carries one mapping */
        map.fd = open("/dev/nvidiactl", O_RDWR | O_CLOEXEC);
        status = rm_call(client->ctl, RM_ESC_MAP_MEMORY, &map, sizeof(map), &map.status);
        client_step(client, "MAP_MEMORY", status);
        p = status == RM_OK ? mmap(NULL, size, PROT_READ, MAP_SHARED, map.fd, 0) : NULL;
        if (p == MAP_FAILED) {
                printf("  mmap: %s\n", strerror(errno));
                p = NULL;
        }
        close(map.fd);
        return p;
}

int client_open(struct client *client, bool quiet)
{
        uint32_t ids[32] = {0}, info[8] = {0}, device[14] = {0}, subdevice[1] = {0};
        uint32_t status;

        memset(client, 0, sizeof(*client));
        client->quiet = quiet;
        client->ctl = open("/dev/nvidiactl", O_RDWR | O_CLOEXEC);
        client->gpu = open("/dev/nvidia0", O_RDWR | O_CLOEXEC);
        if (client->ctl < 0 || client->gpu < 0) {
                int error = errno;

                printf("  open: %s\n", strerror(error));
                return -error;
        }
        status = client_alloc(client, 0, RM_CLASS_ROOT_CLIENT, NULL, 0, &client->handle);
        client_step(client, "client", status);
        status = client_control(
                client, client->handle, RM_CTRL_GPU_GET_ATTACHED_IDS, ids, sizeof(ids));
        client_step(client, "GPU_GET_ATTACHED_IDS", status);
        info[0] = ids[0];
        status =
                client_control(client, client->handle, RM_CTRL_GPU_GET_ID_INFO, info, sizeof(info));
        client_step(client, "GPU_GET_ID_INFO_V2", status);
        device[0] = info[2];
        /* the three 64-bit fields of NV0080_ALLOC_PARAMETERS begin at byte 24 */
        status = client_alloc(
                client, client->handle, RM_CLASS_DEVICE, device, sizeof(device), &client->device);
        client_step(client, "device", status);
        status = client_alloc(client, client->device, RM_CLASS_SUBDEVICE, subdevice,
                sizeof(subdevice), &client->subdevice);
        client_step(client, "subdevice", status);
        if (status != RM_OK)
                return -EIO;
        set_clock(client);
        return 0;
}

void client_close(struct client *client)
{
        close(client->gpu);
        close(client->ctl);
}
