/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated MPS. A control program of the real one's name (mps_control.c) starts a server when
 * the first client comes; the server has the one channel group in which the kernels of all clients
 * run, side by side as far as their SMs allow. A process is a client if a control daemon listens in
 * the CUDA_MPS_PIPE_DIRECTORY of its environment.
 *
 * Clients share the server's fault domain: when it goes, every context of theirs gets
 * CUDA_ERROR_MPS_RPC_FAILURE and keeps it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct sim_device;

#define MPS_CONTROL_SOCKET "control"
#define MPS_DIRECTORY      "CUDA_MPS_PIPE_DIRECTORY"

/* Whether this process is a client for that device: asks the control daemon the first time. */
bool mps_serves(const struct sim_device *device);
/* The server's channel group on the device's runlist; RUNLIST_NONE: it has gone. */
uint32_t mps_group(void);
/* Whether the server that we were given still lives: one system call. */
bool mps_alive(void);
