/* SPDX-License-Identifier: Apache-2.0 */
/* Setting up devices and contexts in cuInit. */
#pragma once

#include "driver.h"

/* Finds the devices that CUDA_VISIBLE_DEVICES leaves. CUDA_ERROR_NO_DEVICE. */
CUresult devices_open(void);

CUresult contexts_open(void);
/* The struct of a device's primary context. */
CUresult contexts_add_primary(struct sim_device *device);
