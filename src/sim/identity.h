/* SPDX-License-Identifier: Apache-2.0 */
/* How both libraries name a device. */
#pragma once

#include <stdint.h>
#include <stdio.h>

#define SIM_UUID_TEXT 41 /* "GPU-", 36 characters, NUL */
#define SIM_PCI_TEXT  17

static inline void sim_uuid_text(const uint8_t u[16], char ret[SIM_UUID_TEXT])
{
        snprintf(ret, SIM_UUID_TEXT,
                "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0],
                u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
                u[14], u[15]);
}

static inline unsigned int sim_pci_bus(int instance)
{
        return 0x1bu + 8u * (unsigned)instance;
}

/* domain: how many digits it gets, 4 or 8 */
static inline void sim_pci_text(int instance, int domain, char ret[SIM_PCI_TEXT])
{
        snprintf(ret, SIM_PCI_TEXT, "%0*x:%02X:00.0", domain, 0u, sim_pci_bus(instance) & 0xff);
}
