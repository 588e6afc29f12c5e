/* SPDX-License-Identifier: Apache-2.0 */
/* Passing a whole PCI device to a VM by VFIO: its functions, and what a VM should know of it. */
#pragma once

#include "partition/holders.h"
#include "partition/technique.h"

#define PASSTHROUGH_FUNCTIONS 16

/* The functions that go together: those of the card's slot that are no bridges, and what the
 * kernel says depends on them. A virtual function goes alone. The first is the one asked for.
 * Their number, or -ENODEV, -ENOMEM. */
int passthrough_functions(const struct host *host, const struct pci_function *function,
        struct pci_function ret[static PASSTHROUGH_FUNCTIONS]);

/* The driver that suits it: "vfio-pci", or the variant that the kernel's modules name for this very
 * device. */
void passthrough_driver(
        const struct host *host, const struct pci_function *function, char ret[static 64]);

/* Adds everyone who has one of the functions open, its virtual functions and mediated devices.
 * thorough: as for holders_find(). */
int passthrough_check_use(const struct host *host, const struct pci_function *functions, int n,
        bool thorough, struct obstacles *obstacles);

/* What is good to know, one sentence each, for people; NUMA node and processors, large pages,
 * link, BAR sizes, GPUDirect. */
void passthrough_facts(
        FILE *out, const struct host *host, const struct pci_function *functions, int n);
