/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "partition/pci.h"

/* Of configuration space; PCI Express base specification. */
#define CONFIG_SIZE        4096
#define CONFIG_STATUS      0x06
#define CONFIG_STATUS_CAPS 0x10
#define CONFIG_CAPS        0x34
#define CAP_EXPRESS        0x10
#define EXPRESS_ROOT_PORT  4
#define EXPRESS_DOWNSTREAM 6
#define EXTENDED_CAPS      0x100
#define EXTENDED_ACS       0x0d
#define RESOURCE_MEMORY    0x200
#define RESOURCE_UNSET     0x20000000

#define CLASS(base, sub) ((base) << 8 | (sub))

int pci_address_parse(const char *text, char ret[static PCI_ADDRESS_MAX])
{
        unsigned domain = 0, bus, device, function;
        int end = -1;

        if (sscanf(text, "%8x:%2x:%2x.%1u%n", &domain, &bus, &device, &function, &end) != 4 ||
                text[end]) {
                domain = 0;
                end = -1;
                if (sscanf(text, "%2x:%2x.%1u%n", &bus, &device, &function, &end) != 3 || text[end])
                        return -EINVAL;
        }
        if (domain > 0xfffff || bus > 0xff || device > 0x1f || function > 7)
                return -EINVAL;
        snprintf(ret, PCI_ADDRESS_MAX, "%04x:%02x:%02x.%u", domain & 0xfffff, bus & 0xff,
                device & 0x1f, function & 7);
        return 0;
}

const char *pci_vendor_name(uint16_t vendor)
{
        switch (vendor) {
        case PCI_VENDOR_NVIDIA:
                return "NVIDIA";
        case PCI_VENDOR_AMD:
                return "AMD";
        case PCI_VENDOR_INTEL:
                return "Intel";
        default:
                return "";
        }
}

const char *pci_class_name(uint32_t class)
{
        static const struct {
                unsigned from, to; /* base class and subclass */
                const char *name;
        } names[] = {
                {CLASS(0x01, 0x08), CLASS(0x01, 0x08), "NVMe"},
                {CLASS(0x01, 0x00), CLASS(0x01, 0xff), "storage"},
                {CLASS(0x02, 0x00), CLASS(0x02, 0xff), "network"},
                {CLASS(0x03, 0x00), CLASS(0x03, 0xff), "display"},
                {CLASS(0x04, 0x01), CLASS(0x04, 0x03), "audio"},
                {CLASS(0x06, 0x80), CLASS(0x06, 0x80), "NVSwitch or other bridge"},
                {CLASS(0x06, 0x00), CLASS(0x06, 0xff), "bridge"},
                {CLASS(0x0c, 0x03), CLASS(0x0c, 0x03), "USB"},
                {CLASS(0x0c, 0x80), CLASS(0x0c, 0x80), "USB-C"},
                {CLASS(0x12, 0x00), CLASS(0x12, 0xff), "accelerator"},
        };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (class >> 8 >= names[i].from && class >> 8 <= names[i].to)
                        return names[i].name;
        return "another kind of device";
}

bool pci_is_bridge(const struct pci_function *function)
{
        return function->class >> 8 == CLASS(0x06, 0x04) ||
               function->class >> 8 == CLASS(0x06, 0x00) ||
               function->class >> 8 == CLASS(0x06, 0x01);
}

bool pci_is_gpu(const struct pci_function *function)
{
        return function->class >> 16 == 0x03 || function->class >> 16 == 0x12;
}

static void read_bars(const struct host *host, struct pci_function *function)
{
        char path[HOST_PATH_MAX];
        _cleanup_free_ char *whole = NULL, *text = NULL;
        char *line, *rest;

        snprintf(path, sizeof(path), "bus/pci/devices/%s/resource", function->address);
        whole = path_join(host->sysfs, path);
        if (!whole || read_file(whole, 1u << 16, &text, NULL) < 0)
                return;
        rest = text;
        for (unsigned i = 0; i < PCI_BARS && (line = strsep(&rest, "\n")); i++) {
                unsigned long long start, end, flags;

                if (sscanf(line, "%llx %llx %llx", &start, &end, &flags) != 3 ||
                        !(flags & RESOURCE_MEMORY))
                        continue;
                if (end > start)
                        function->bar[i] = end - start + 1;
                /* The size of one without addresses is kept as 0 to size - 1. */
                function->bar_lost[i] = (flags & RESOURCE_UNSET) || (start == 0 && end > 0);
        }
}

int pci_read(const struct host *host, const char *text, struct pci_function *ret)
{
        struct pci_function f = {.group = -1};
        char value[HOST_TEXT_MAX], path[HOST_PATH_MAX];
        int r;

        r = pci_address_parse(text, f.address);
        if (r < 0)
                return r;
        if (!host_exists(host, "bus/pci/devices/%s", f.address))
                return -ENODEV;
                /* Everything below is optional: trees differ by kernel and by device. */
#define NUMBER(otherwise, name) host_number(host, otherwise, "bus/pci/devices/%s/" name, f.address)
#define TEXT(field, name)                                                                          \
        do {                                                                                       \
                host_read(host, value, "bus/pci/devices/%s/" name, f.address);                     \
                snprintf(f.field, sizeof(f.field), "%.*s", (int)sizeof(f.field) - 1, value);       \
        } while (0)
#define LINK(field, name)                                                                          \
        do {                                                                                       \
                snprintf(path, sizeof(path), "bus/pci/devices/%s/" name, f.address);               \
                host_state(host, path, value);                                                     \
                snprintf(f.field, sizeof(f.field), "%.*s", (int)sizeof(f.field) - 1, value);       \
        } while (0)
        f.vendor = (uint16_t)NUMBER(0, "vendor");
        f.device = (uint16_t)NUMBER(0, "device");
        f.class = (uint32_t)NUMBER(0, "class");
        LINK(driver, "driver");
        LINK(override, "driver_override");
        LINK(physical, "physfn");
        f.node = (int)NUMBER(-1, "numa_node");
        TEXT(cpus, "local_cpulist");
        snprintf(path, sizeof(path), "bus/pci/devices/%s/iommu_group", f.address);
        host_state(host, path, value);
        if (*value)
                f.group = atoi(value);
        f.boot_display = NUMBER(0, "boot_vga") == 1;
        f.functions_total = (int)NUMBER(-1, "sriov_totalvfs");
        f.functions = (int)NUMBER(0, "sriov_numvfs");
        TEXT(speed, "current_link_speed");
        TEXT(speed_max, "max_link_speed");
        f.width = (int)NUMBER(-1, "current_link_width");
        f.width_max = (int)NUMBER(-1, "max_link_width");
        TEXT(power, "power_state");
        TEXT(reset, "reset_method");
        f.resets = host_exists(host, "bus/pci/devices/%s/reset", f.address);
#undef NUMBER
#undef TEXT
#undef LINK
        read_bars(host, &f);
        *ret = f;
        return 0;
}

int pci_gpus(const struct host *host, struct pci_function **ret, size_t *ret_n)
{
        _cleanup_free_ struct pci_function *gpus = NULL;
        _cleanup_names_ struct host_names names = {0};
        size_t n = 0;
        int r;

        r = host_list(host, &names, "bus/pci/devices");
        if (r < 0)
                return r;
        gpus = calloc(names.n + 1, sizeof(*gpus));
        if (!gpus)
                return -ENOMEM;
        for (size_t i = 0; i < names.n; i++) {
                /* A device that went away meanwhile is none. */
                if (pci_read(host, names.name[i], gpus + n) == 0 && pci_is_gpu(gpus + n))
                        n++;
        }
        *ret = TAKE_PTR(gpus);
        *ret_n = n;
        return 0;
}

int pci_ports_above(const struct host *host, const char *address, struct host_names *ret)
{
        char path[HOST_PATH_MAX], resolved[PATH_MAX], parsed[PCI_ADDRESS_MAX];
        _cleanup_names_ struct host_names names = {0};
        _cleanup_free_ char *whole = NULL;
        char *part, *rest = resolved;

        snprintf(path, sizeof(path), "bus/pci/devices/%s", address);
        whole = path_join(host->sysfs, path);
        if (!whole)
                return -ENOMEM;
        if (!realpath(whole, resolved))
                return -errno;
        while ((part = strsep(&rest, "/"))) {
                char **more;

                if (!rest || strlen(part) < 12 || pci_address_parse(part, parsed) < 0)
                        continue;
                more = realloc(names.name, (names.n + 1) * sizeof(*more));
                if (!more)
                        return -ENOMEM;
                names.name = more;
                names.name[names.n] = strdup(parsed);
                if (!names.name[names.n])
                        return -ENOMEM;
                names.n++;
        }
        *ret = names;
        names = (struct host_names){0};
        return 0;
}

static uint32_t at32(const uint8_t *config, unsigned offset)
{
        return config[offset] | config[offset + 1] << 8 | config[offset + 2] << 16 |
               (uint32_t)config[offset + 3] << 24;
}

int pci_port_has_acs(const struct host *host, const char *address)
{
        char path[HOST_PATH_MAX];
        _cleanup_free_ char *whole = NULL, *text = NULL;
        const uint8_t *config;
        unsigned at, type = 0;
        size_t size;

        snprintf(path, sizeof(path), "bus/pci/devices/%s/config", address);
        whole = path_join(host->sysfs, path);
        if (!whole)
                return -ENOMEM;
        /* Others than root get the first 64 bytes. */
        if (read_file(whole, CONFIG_SIZE, &text, &size) < 0 || size < CONFIG_SIZE)
                return -ENODATA;
        config = (const uint8_t *)text;
        if (!(config[CONFIG_STATUS] & CONFIG_STATUS_CAPS))
                return -ENODATA;
        at = config[CONFIG_CAPS] & ~3u;
        for (unsigned i = 0; at >= 0x40 && i < 48; i++, at = config[at + 1] & ~3u)
                if (config[at] == CAP_EXPRESS) {
                        type = config[at + 2] >> 4;
                        break;
                }
        if (type != EXPRESS_ROOT_PORT && type != EXPRESS_DOWNSTREAM)
                return -ENODATA;
        at = EXTENDED_CAPS;
        for (unsigned i = 0; at >= EXTENDED_CAPS && at <= CONFIG_SIZE - 4 && i < 960; i++) {
                uint32_t header = at32(config, at);

                if ((header & 0xffff) == EXTENDED_ACS)
                        return 1;
                at = header >> 20 & ~3u;
        }
        return 0;
}
