/* SPDX-License-Identifier: Apache-2.0 */
/* The calls of RM that both backends make, over whichever ioctl() they have. */
#pragma once

#include "proto/rm.h"
#include "steer/steer.h"

typedef int (*steer_ioctl)(int fd, unsigned long request, ...);

/* Our own client of RM and its devices. */
struct steer_client {
        steer_ioctl call;
        int fd;
        uint32_t handle;
        uint32_t subdevice[STEER_MAX_DEVICES]; /* 0: not open */
};

/* RM's status; RM_ERR_CALL where the ioctl itself failed. */
#define RM_ERR_CALL 0xffffu
uint32_t steer_rm_alloc(const struct steer_client *client, uint32_t parent, uint32_t class_id,
        void *params, uint32_t size, uint32_t *ret_handle);
uint32_t steer_rm_free(const struct steer_client *client, uint32_t parent, uint32_t handle);
/* On fd, in the name of any client. */
uint32_t steer_rm_control(const struct steer_client *client, int fd, uint32_t of_client,
        uint32_t object, uint32_t cmd, void *params, uint32_t size);

/* Looks for a UUID among the devices of that instance. RM_ERR_OBJECT_ABSENT: it is another. */
uint32_t steer_rm_open_device(
        struct steer_client *client, unsigned index, uint32_t instance, const uint8_t uuid[16]);

/* As in struct steer_backend; handle begins with a struct steer_client. */
int steer_rm_disable(void *handle, unsigned device, const struct steer_channel *channels,
        unsigned count, enum steer_switch how, uint32_t *ret_status);
int steer_rm_set_slice(void *handle, const struct steer_object *group, uint64_t microseconds,
        uint32_t *ret_status);
int steer_rm_get_slice(void *handle, const struct steer_object *group, uint64_t *ret_microseconds,
        uint32_t *ret_status);
int steer_rm_set_mode(
        void *handle, const struct steer_object *group, bool thread_block, uint32_t *ret_status);
int steer_rm_preempt(void *handle, const struct steer_object *group, uint32_t *ret_status);
int steer_rm_restart(void *handle, const struct steer_object *channel, uint32_t *ret_status);
