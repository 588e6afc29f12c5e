/* SPDX-License-Identifier: Apache-2.0 */
/* A client of RM, made without the driver's library, that says what RM answers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rm.h"

struct client {
        int ctl; /* /dev/nvidiactl */
        int gpu; /* /dev/nvidia0: holds the GPU up, and RM wants it open */
        uint32_t handle, device, subdevice;
        int64_t gpu_minus_host; /* GPU clock - CLOCK_MONOTONIC, ns */
        bool quiet;             /* print refusals only */
};

/* 0, or -errno, said on standard output. */
int client_open(struct client *client, bool quiet);
void client_close(struct client *client);

uint64_t client_gpu_now(const struct client *client);

/* RM's status, or RM_ERR_GENERIC where the ioctl itself failed. */
uint32_t client_alloc(const struct client *client, uint32_t parent, uint32_t class_id, void *params,
        uint32_t size, uint32_t *ret_handle);
uint32_t client_control(
        const struct client *client, uint32_t object, uint32_t cmd, void *params, uint32_t size);

/* System memory that RM writes and this process can only read; NULL. Unmapped by munmap(). */
void *client_read_only_memory(const struct client *client, size_t size, uint32_t *ret_handle);

void client_step(const struct client *client, const char *what, uint32_t status);
const char *rm_status_name(uint32_t status);

#define RM_ERR_GENERIC 0xFFFFu
