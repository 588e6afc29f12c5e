/* SPDX-License-Identifier: Apache-2.0 */
/* PCI functions as sysfs shows them. What it does not say is -1 or "", never zero. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "partition/host.h"

#define PCI_ADDRESS_MAX 16
#define PCI_BARS        6

#define PCI_VENDOR_NVIDIA 0x10de
#define PCI_VENDOR_AMD    0x1002
#define PCI_VENDOR_INTEL  0x8086

struct pci_function {
        char address[PCI_ADDRESS_MAX]; /* "0000:01:00.0" */
        uint16_t vendor, device;
        uint32_t class;                 /* 0xCCSSPP */
        char driver[64];                /* "" : none */
        char override[64];              /* driver_override; "": none */
        char physical[PCI_ADDRESS_MAX]; /* of a virtual function: its physical one */
        int node;                       /* NUMA; -1: the machine has none, or does not say */
        char cpus[128];                 /* local_cpulist */
        int group;                      /* IOMMU group; -1: none */
        bool boot_display;
        int functions_total; /* virtual ones it may have; -1: it is not capable of SR-IOV */
        int functions;       /* that it has */
        char speed[32], speed_max[32]; /* "32.0 GT/s PCIe" */
        int width, width_max;          /* lanes; -1: not known */
        char power[16];                /* "D0" */
        char reset[64];                /* methods; "": none, or a kernel before 5.15 */
        bool resets;                   /* there is a way to reset it */
        uint64_t bar[PCI_BARS];        /* bytes; 0: there is none */
        bool bar_lost[PCI_BARS];       /* it has one that got no addresses */
};

/* -ENODEV: there is no such function. -EINVAL: that is no address. */
int pci_read(const struct host *host, const char *address, struct pci_function *ret);

/* Display controllers and processing accelerators, in order of their addresses, in new memory. */
int pci_gpus(const struct host *host, struct pci_function **ret, size_t *ret_n);

/* "NVIDIA", "AMD", "Intel", or "" for others, which are listed and left alone. */
const char *pci_vendor_name(uint16_t vendor);
/* What a function is for people: "audio", "USB", "bridge", "display" … */
const char *pci_class_name(uint32_t class);
bool pci_is_bridge(const struct pci_function *function);
bool pci_is_gpu(const struct pci_function *function);

/* "0000:01:00.0" from "01:00.0" or the driver's "00000000:01:00.0". -EINVAL. */
int pci_address_parse(const char *text, char ret[static PCI_ADDRESS_MAX]);

/* The addresses of the bridges above a function, from the root down, in new memory. */
int pci_ports_above(const struct host *host, const char *address, struct host_names *ret);

/* Whether a root or downstream port can keep what is below it from talking behind the IOMMU's
 * back. 1: it has ACS, 0: it has not, -ENODATA: it is no such port or its configuration space
 * cannot be read. */
int pci_port_has_acs(const struct host *host, const char *address);
