/* SPDX-License-Identifier: Apache-2.0 */
/* cleave doctor --api: how the driver's API differs from our description of it. */
#pragma once

#include <stdbool.h>

/* Prints what the driver's library exports beyond our description, and which running processes have
 * looked that up. Returns the exit status. */
int doctor_api(bool json);
