/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/format.h"
#include "partition/attach.h"
#include "partition/passthrough.h"

#define PLAIN_DRIVER "vfio-pci"
#define ALIASES_MAX  (16u << 20)
/* From this size on a BAR needs a large window, and below it no VM's memory can be locked. */
#define LARGE_BAR (1ull << 30)

static bool same_slot(const char *a, const char *b)
{
        return strncmp(a, b, strlen("0000:00:00.")) == 0;
}

static bool listed(const struct pci_function *list, int n, const char *address)
{
        for (int i = 0; i < n; i++)
                if (strcmp(list[i].address, address) == 0)
                        return true;
        return false;
}

static bool is_vfio(const char *driver)
{
        return strstr(driver, "vfio") != NULL;
}

static int add_function(
        const struct host *host, const char *address, struct pci_function *list, int n)
{
        struct pci_function *f = list + n;

        if (n == PASSTHROUGH_FUNCTIONS || listed(list, n, address))
                return n;
        if (pci_read(host, address, f) < 0 || pci_is_bridge(f) || *f->physical)
                return n;
        return n + 1;
}

int passthrough_functions(const struct host *host, const struct pci_function *function,
        struct pci_function ret[static PASSTHROUGH_FUNCTIONS])
{
        _cleanup_names_ struct host_names devices = {0}, links = {0};
        static const char consumer[] = "consumer:pci:";
        int n = 1, r;

        ret[0] = *function;
        if (*function->physical)
                return n;
        r = host_list(host, &devices, "bus/pci/devices");
        if (r < 0)
                return r;
        for (size_t i = 0; i < devices.n; i++)
                if (same_slot(devices.name[i], function->address))
                        n = add_function(host, devices.name[i], ret, n);
        r = host_list(host, &links, "bus/pci/devices/%s", function->address);
        if (r < 0)
                return r;
        for (size_t i = 0; i < links.n; i++)
                if (strncmp(links.name[i], consumer, strlen(consumer)) == 0)
                        n = add_function(host, links.name[i] + strlen(consumer), ret, n);
        return n;
}

/* The line of modules.alias for this device that has the fewest wildcards. */
static int find_alias(const char *aliases, const struct pci_function *f, char ret[static 64])
{
        char id[96];
        int best = 1 << 20;
        const char *line = aliases;

        snprintf(id, sizeof(id), "vfio_pci:v%08Xd%08Xsv*sd*bc%02Xsc%02Xi%02X", f->vendor, f->device,
                f->class >> 16 & 0xff, f->class >> 8 & 0xff, f->class & 0xff);
        for (; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
                char pattern[128], module[64];
                int stars = 0;

                if (strncmp(line, "alias vfio_pci:", 15) != 0 ||
                        sscanf(line, "alias %127s %63s", pattern, module) != 2)
                        continue;
                for (const char *p = pattern; *p; p++)
                        stars += *p == '*';
                if (stars < best && fnmatch(pattern, id, 0) == 0) {
                        best = stars;
                        snprintf(ret, 64, "%s", module);
                }
        }
        return best < 1 << 20 ? 0 : -ENOENT;
}

static char *module_file(const struct host *host, const char *name)
{
        _cleanup_free_ char *release = NULL, *path = NULL;
        char *text = NULL;

        if (!host->modules || host_read_proc(host, "sys/kernel/osrelease", &release) < 0)
                return NULL;
        release[strcspn(release, "\n")] = '\0';
        if (asprintf(&path, "%s/%s/%s", host->modules, release, name) < 0)
                path = NULL;
        if (!path || read_file(path, ALIASES_MAX, &text, NULL) < 0)
                return NULL;
        return text;
}

void passthrough_driver(
        const struct host *host, const struct pci_function *function, char ret[static 64])
{
        _cleanup_free_ char *aliases = module_file(host, "modules.alias");

        if (!aliases || find_alias(aliases, function, ret) < 0)
                snprintf(ret, 64, "%s", PLAIN_DRIVER);
        if (strcmp(ret, "vfio_pci") == 0)
                snprintf(ret, 64, "%s", PLAIN_DRIVER);
        /* A module's underscores are dashes in most drivers' names; a loaded one tells. */
        if (!host_exists(host, "bus/pci/drivers/%s", ret)) {
                char dashes[64];

                snprintf(dashes, sizeof(dashes), "%s", ret);
                for (char *p = dashes; *p; p++)
                        if (*p == '_')
                                *p = '-';
                snprintf(ret, 64, "%s", dashes);
        }
}

static bool module_exists(const struct host *host, const char *driver)
{
        _cleanup_free_ char *modules = module_file(host, "modules.dep");
        _cleanup_free_ char *builtin = module_file(host, "modules.builtin");
        char file[80], other[80];

        snprintf(file, sizeof(file), "/%s.ko", driver);
        snprintf(other, sizeof(other), "%s", file);
        for (char *p = other; *p; p++)
                if (*p == '-')
                        *p = '_';
        return (modules && (strstr(modules, file) || strstr(modules, other))) ||
               (builtin && (strstr(builtin, file) || strstr(builtin, other)));
}

static void check_iommu(
        const struct host *host, const struct pci_function *f, struct obstacles *obstacles)
{
        _cleanup_names_ struct host_names units = {0};
        _cleanup_free_ char *interrupts = NULL, *line = NULL;
        char text[HOST_TEXT_MAX];

        /* Not by the kernel's command line: the IOMMU may be on or off by default. */
        if (host_list(host, &units, "class/iommu") < 0 || units.n == 0) {
                obstacles_add(obstacles, OBSTACLE_NO_IOMMU,
                        "the IOMMU is off: /sys/class/iommu is empty");
                return;
        }
        if (f->group < 0) {
                obstacles_add(obstacles, OBSTACLE_NO_GROUP,
                        "the IOMMU is on, but %s is in no IOMMU group", f->address);
                return;
        }
        if (host_read_proc(host, "interrupts", &interrupts) == 0 && strstr(interrupts, "IO-APIC") &&
                !strstr(interrupts, "IR-"))
                obstacles_add(obstacles, OBSTACLE_NO_REMAPPING,
                        "interrupts are not remapped, so a VM could send any of them");
        host_read(host, text, "module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
        if (strcmp(text, "Y") == 0)
                obstacles_add(obstacles, OBSTACLE_UNSAFE_INTERRUPTS,
                        "allow_unsafe_interrupts is on: a VM may send interrupts to the host");
        if (host_read_proc(host, "cmdline", &line) == 0 && strstr(line, "pcie_acs_override"))
                obstacles_add(obstacles, OBSTACLE_ACS_OVERRIDE,
                        "pcie_acs_override is on the kernel's command line: groups look smaller "
                        "than the hardware isolates");
}

/* Every function of the group is handed over, or does not matter. */
static int check_group(const struct host *host, const struct pci_function *functions, int n,
        struct obstacles *obstacles)
{
        _cleanup_names_ struct host_names members = {0}, ports = {0};
        bool shared = false;
        int r;

        if (functions[0].group < 0)
                return 0;
        r = host_list(host, &members, "kernel/iommu_groups/%d/devices", functions[0].group);
        for (size_t i = 0; r == 0 && i < members.n; i++) {
                struct pci_function other;

                if (listed(functions, n, members.name[i]) ||
                        pci_read(host, members.name[i], &other) < 0 || pci_is_bridge(&other) ||
                        !*other.driver || is_vfio(other.driver) ||
                        strcmp(other.driver, "pci-stub") == 0)
                        continue;
                shared = true;
                obstacles_add(obstacles, OBSTACLE_GROUP_SHARED,
                        "IOMMU group %d also holds %s (%s), which the host's driver %s has",
                        functions[0].group, other.address, pci_class_name(other.class),
                        other.driver);
        }
        if (r < 0 || !shared)
                return r;
        r = pci_ports_above(host, functions[0].address, &ports);
        for (size_t i = 0; r == 0 && i < ports.n; i++)
                if (pci_port_has_acs(host, ports.name[i]) == 0)
                        obstacles_add(obstacles, OBSTACLE_NO_ACS,
                                "port %s above it has no ACS, which is why the group is so large",
                                ports.name[i]);
        return 0;
}

static int check_mounts(
        const struct host *host, const struct pci_function *f, struct obstacles *obstacles)
{
        static const char *const tables[] = {"mounts", "swaps"};
        _cleanup_names_ struct host_names names = {0};
        int r;

        r = host_list(host, &names, "bus/pci/devices/%s/nvme", f->address);
        for (size_t t = 0; r == 0 && t < ARRAY_SIZE(tables); t++) {
                _cleanup_free_ char *text = NULL;

                if (host_read_proc(host, tables[t], &text) < 0)
                        continue;
                for (size_t i = 0; i < names.n; i++) {
                        char start[64];

                        snprintf(start, sizeof(start), "/dev/%sn", names.name[i]);
                        if (strstr(text, start))
                                obstacles_add(obstacles, OBSTACLE_HELD,
                                        "%s is in use: %s of the host lies on it", f->address,
                                        t == 0 ? "a file system" : "swap space");
                }
        }
        return r;
}

static void check_instances(
        const struct host *host, const struct pci_function *f, struct obstacles *obstacles)
{
        struct mig_driver driver;

        if (f->vendor != PCI_VENDOR_NVIDIA || strcmp(f->driver, "nvidia") != 0 || !host->mig ||
                mig_driver_read(host->mig, host->msec, f->address, &driver, NULL) < 0)
                return;
        if (driver.n_present)
                obstacles_add(obstacles, OBSTACLE_HAS_INSTANCES, "%s has %u MIG instance%s",
                        f->address, driver.n_present, driver.n_present > 1 ? "s" : "");
}

/* A function of NVIDIA's vGPU host driver works with that driver only, and a VM takes it so. */
static void check_vgpu(
        const struct host *host, const struct pci_function *f, struct obstacles *obstacles)
{
        long long type =
                host_number(host, -1, "bus/pci/devices/%s/nvidia/current_vgpu_type", f->address);

        if (type > 0)
                obstacles_add(obstacles, OBSTACLE_VGPU_FUNCTION,
                        "%s is a vGPU of type %lld, which has to stay with NVIDIA's driver",
                        f->address, type);
        else if (type == 0)
                obstacles_add(obstacles, OBSTACLE_VGPU_FUNCTION,
                        "%s is for a vGPU, which has to stay with NVIDIA's driver", f->address);
}

int passthrough_check_use(const struct host *host, const struct pci_function *functions, int n,
        bool thorough, struct obstacles *obstacles)
{
        int r = 0;

        for (int i = 0; r == 0 && i < n; i++) {
                const struct pci_function *f = functions + i;
                _cleanup_holders_ struct holders holders = {0};
                _cleanup_names_ struct host_names mediated = {0};

                r = holders_find(host, f, NULL, thorough, &holders);
                if (r == 0)
                        holders_tell(&holders, f->address, OBSTACLE_HELD, obstacles);
                if (r == 0 && f->functions > 0)
                        obstacles_add(obstacles, OBSTACLE_HAS_FUNCTIONS,
                                "%s has %d virtual functions enabled", f->address, f->functions);
                if (r == 0)
                        r = host_list(host, &mediated, "class/mdev_bus/%s", f->address);
                for (size_t j = 0; r == 0 && j < mediated.n; j++)
                        if (strlen(mediated.name[j]) == 36 && mediated.name[j][8] == '-')
                                obstacles_add(obstacles, OBSTACLE_HAS_MEDIATED,
                                        "%s has the mediated device %s", f->address,
                                        mediated.name[j]);
                if (r == 0)
                        r = check_mounts(host, f, obstacles);
                if (r == 0)
                        check_instances(host, f, obstacles);
        }
        return r;
}

/* Consoles drawn into a frame buffer, of which there is one. */
static int frame_buffer_consoles(const struct host *host, struct host_names *ret)
{
        _cleanup_names_ struct host_names names = {0};
        size_t kept = 0;
        int r;

        r = host_list(host, &names, "class/vtconsole");
        if (r < 0)
                return r;
        for (size_t i = 0; i < names.n; i++) {
                char text[HOST_TEXT_MAX];

                host_read(host, text, "class/vtconsole/%s/name", names.name[i]);
                if (strstr(text, "frame buffer device") &&
                        host_number(host, 0, "class/vtconsole/%s/bind", names.name[i]) == 1)
                        names.name[kept++] = names.name[i];
                else
                        free(names.name[i]);
        }
        names.n = kept;
        *ret = names;
        names = (struct host_names){0};
        return 0;
}

/* Whether the text console is drawn on this very card: it has a frame buffer, or the firmware's is
 * in use and this is the card the machine started with. */
static bool has_console(const struct host *host, const struct pci_function *f)
{
        _cleanup_names_ struct host_names consoles = {0}, buffers = {0}, cards = {0};
        _cleanup_free_ char *fb = NULL;

        if (frame_buffer_consoles(host, &consoles) < 0 || consoles.n == 0)
                return false;
        if (host_list(host, &buffers, "bus/pci/devices/%s/graphics", f->address) == 0 &&
                buffers.n > 0)
                return true;
        if (host_list(host, &cards, "bus/pci/devices/%s/drm", f->address) == 0)
                for (size_t i = 0; i < cards.n; i++)
                        if (host_exists(host, "bus/pci/devices/%s/drm/%s/graphics", f->address,
                                    cards.name[i]))
                                return true;
        return f->boot_display && host_read_proc(host, "fb", &fb) == 0 && *fb;
}

/* Whether the firmware's frame buffer lies in the memory of this function: in /proc/iomem BOOTFB
 * stands below it, further in. Addresses are zeros there for all but root; order and depth are not.
 */
static bool has_firmware_buffer(const struct host *host, const struct pci_function *f)
{
        _cleanup_free_ char *text = NULL;
        char *line, *rest;
        size_t depth = 0;
        bool inside = false;

        if (host_read_proc(host, "iomem", &text) < 0)
                return false;
        rest = text;
        while ((line = strsep(&rest, "\n"))) {
                size_t blanks = strspn(line, " ");

                if (inside && blanks > depth && strstr(line, ": BOOTFB"))
                        return true;
                if (strstr(line, f->address)) {
                        inside = true;
                        depth = blanks;
                } else if (blanks <= depth)
                        inside = false;
        }
        return false;
}

/* Whether we have attached it: a record of ours has it among its functions. */
static bool is_ours(const struct host *host, const char *address)
{
        struct change *changes;
        bool ours = false;
        size_t n;

        if (change_load_all(host, &changes, &n, NULL) < 0)
                return false;
        for (size_t i = 0; i < n; i++) {
                const json_t *list = json_object_get(changes[i].geometry, "functions"), *item;
                size_t j;

                json_array_foreach((json_t *)list, j, item)
                {
                        ours = ours || (json_is_string(item) &&
                                               strcmp(json_string_value(item), address) == 0);
                }
        }
        change_free_all(changes, n);
        return ours;
}

/* sysfs counts ways to reset a device that then fail, as of one of several on a bus. VFIO tries
 * when it opens the device. */
static void check_reset(
        const struct host *host, const struct pci_function *f, struct obstacles *obstacles)
{
        int flags = -ENODATA;

        if (f->group >= 0 && !obstacles_find(obstacles, OBSTACLE_NO_RESET))
                flags = host->ops->ask_vfio(host, f->group, f->address, host->msec);
        if (flags >= 0 && !(flags & VFIO_DEVICE_FLAGS_RESET))
                obstacles_add(obstacles, OBSTACLE_NO_RESET,
                        "VFIO tried to reset %s and could not, so it keeps its state between VMs",
                        f->address);
}

/* Whether a line of AppArmor's list, "NAME (MODE)", is a profile in force that speaks of a VM's
 * QEMU: libvirt's, which then makes one for each VM, or one for QEMU's program. Cuts the mode off.
 */
static bool confines_qemu(char *line)
{
        char *mode = strrchr(line, '(');

        if (!mode || mode == line ||
                (strcmp(mode, "(enforce)") != 0 && strcmp(mode, "(kill)") != 0))
                return false;
        mode[-1] = '\0';
        return strstr(line, "libvirt") || strstr(line, "qemu");
}

/* The list is root's to read. Others learn only that AppArmor is there, which on most machines
 * means nothing for VMs. */
static void check_apparmor(
        const struct host *host, const struct pci_function *f, struct obstacles *obstacles)
{
        _cleanup_free_ char *profiles = NULL;
        char text[HOST_TEXT_MAX], *line, *rest;

        host_read(host, text, "module/apparmor/parameters/enabled");
        if (strcmp(text, "Y") != 0 || f->group < 0 ||
                host_read_whole(host, "kernel/security/apparmor/profiles", &profiles) < 0)
                return;
        rest = profiles;
        while ((line = strsep(&rest, "\n")))
                if (confines_qemu(line)) {
                        obstacles_add(obstacles, OBSTACLE_APPARMOR,
                                "AppArmor's profile %s is in force: QEMU under it, or under one "
                                "that libvirt makes, may open /dev/vfio/%d only if the profile has "
                                "'/dev/vfio/vfio rw, /dev/vfio/%d rw,'",
                                line, f->group, f->group);
                        return;
                }
}

static void check_device(const struct host *host, const struct pci_function *functions, int n,
        const struct technique_ask *ask, struct obstacles *obstacles)
{
        const struct pci_function *f = functions;
        char driver[64];
        struct rlimit limit;

        for (int i = 0; i < n; i++)
                if (is_vfio(functions[i].driver) && is_ours(host, functions[i].address))
                        obstacles_add(obstacles, OBSTACLE_ATTACHED,
                                "%s is on %s already, where Cleave has put it",
                                functions[i].address, functions[i].driver);
                else if (is_vfio(functions[i].driver))
                        obstacles_add(obstacles, OBSTACLE_OTHERS_VFIO,
                                "%s is on %s already, and Cleave has no record of having done it",
                                functions[i].address, functions[i].driver);
        if (has_console(host, f) && !ask->allow_console_loss)
                obstacles_add(obstacles, OBSTACLE_CONSOLE,
                        "the text console is drawn on %s and would be lost", f->address);
        if (has_firmware_buffer(host, f) && !ask->allow_console_loss)
                obstacles_add(obstacles, OBSTACLE_FIRMWARE_DISPLAY,
                        "the firmware's frame buffer (BOOTFB) lies in the memory of %s, so a VM "
                        "could not have all of it",
                        f->address);
        if (f->boot_display)
                obstacles_add(obstacles, OBSTACLE_BOOT_DISPLAY,
                        "the machine started with %s as its display, so its ROM may be changed",
                        f->address);
        if (!f->resets && !*f->reset)
                obstacles_add(obstacles, OBSTACLE_NO_RESET,
                        "%s cannot be reset, so it keeps its state between VMs%s", f->address,
                        f->vendor == PCI_VENDOR_AMD
                                ? " (some AMD cards can with the vendor-reset module)"
                                : "");
        for (unsigned i = 0; i < PCI_BARS; i++)
                if (f->bar_lost[i])
                        obstacles_add(obstacles, OBSTACLE_NO_ADDRESSES,
                                "the firmware gave BAR %u of %s no addresses", i, f->address);
        if ((f->width > 0 && f->width < f->width_max) ||
                (*f->speed && *f->speed_max && strcmp(f->speed, f->speed_max) != 0))
                obstacles_add(obstacles, OBSTACLE_SLOW_LINK,
                        "the PCIe link runs at %s x%d, the card can %s x%d", f->speed, f->width,
                        f->speed_max, f->width_max);
        if (strncmp(f->power, "D3", 2) == 0)
                obstacles_add(obstacles, OBSTACLE_ASLEEP, "%s sleeps (%s)", f->address, f->power);
        passthrough_driver(host, f, driver);
        if (host->modules && !host_exists(host, "bus/pci/drivers/%s", driver) &&
                !module_exists(host, driver))
                obstacles_add(obstacles, OBSTACLE_NO_VFIO, "this kernel has no driver %s", driver);
        if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
                limit.rlim_cur < LARGE_BAR)
                obstacles_add(obstacles, OBSTACLE_NO_MEMLOCK,
                        "only %llu MiB may be locked here, and a VM with a device locks all of "
                        "its memory",
                        (unsigned long long)limit.rlim_cur >> 20);
        check_apparmor(host, f, obstacles);
}

static int check(const struct host *host, const struct pci_function *function,
        const struct technique_ask *ask, struct obstacles *obstacles)
{
        struct pci_function functions[PASSTHROUGH_FUNCTIONS];
        int n, r;

        n = passthrough_functions(host, function, functions);
        if (n < 0)
                return n;
        check_iommu(host, function, obstacles);
        check_vgpu(host, function, obstacles);
        r = check_group(host, functions, n, obstacles);
        if (r == 0)
                r = passthrough_check_use(host, functions, n, ask->thorough, obstacles);
        if (r == 0)
                check_device(host, functions, n, ask, obstacles);
        if (r == 0 && ask->thorough && is_vfio(function->driver) &&
                !obstacles_find(obstacles, OBSTACLE_HELD))
                check_reset(host, function, obstacles);
        return r;
}

static int plan_console(const struct host *host, struct change *change)
{
        _cleanup_names_ struct host_names consoles = {0};
        int r;

        r = frame_buffer_consoles(host, &consoles);
        for (size_t i = 0; r == 0 && i < consoles.n; i++) {
                struct change_step *step;
                char path[HOST_PATH_MAX], what[96];

                snprintf(path, sizeof(path), "class/vtconsole/%s/bind", consoles.name[i]);
                snprintf(what, sizeof(what), "take the console off the frame buffer (%s)",
                        consoles.name[i]);
                step = change_add(change, host, what, path, "0", NULL, NULL);
                r = step ? change_add_undo(step, path, "1", path, "0") : -ENOMEM;
        }
        return r;
}

/* Whoever draws into the firmware's frame buffer is a driver of a platform device. */
static int plan_firmware_buffer(const struct host *host, struct change *change)
{
        static const char *const kinds[] = {
                "simple-framebuffer.", "efi-framebuffer.", "vesa-framebuffer."};
        _cleanup_names_ struct host_names devices = {0};
        int r;

        r = host_list(host, &devices, "bus/platform/devices");
        for (size_t i = 0; r == 0 && i < devices.n; i++) {
                char link[HOST_PATH_MAX], unbind[HOST_PATH_MAX], bind[HOST_PATH_MAX], what[96],
                        driver[HOST_TEXT_MAX];
                const char *name = devices.name[i];
                struct change_step *step;
                bool is_buffer = false;

                for (size_t j = 0; j < ARRAY_SIZE(kinds); j++)
                        is_buffer = is_buffer || strncmp(name, kinds[j], strlen(kinds[j])) == 0;
                snprintf(link, sizeof(link), "bus/platform/devices/%s/driver", name);
                if (!is_buffer || host_state(host, link, driver) < 0 || !*driver)
                        continue;
                snprintf(unbind, sizeof(unbind), "bus/platform/devices/%s/driver/unbind", name);
                snprintf(bind, sizeof(bind), "bus/platform/drivers/%.64s/bind", driver);
                snprintf(what, sizeof(what), "take the firmware's frame buffer away (%s)", name);
                step = change_add(change, host, what, unbind, name, link, "");
                r = step ? change_add_undo(step, bind, name, link, "") : -ENOMEM;
        }
        return r;
}

/*
 * Override, unbind, probe. What undoes the unbinding first clears the override, so that the probe
 * finds the old driver again wherever the change was cut short.
 */
static int plan_function(const struct host *host, const struct pci_function *f, const char *driver,
        struct change *change)
{
        char override[HOST_PATH_MAX], unbind[HOST_PATH_MAX], link[HOST_PATH_MAX], what[160];
        struct change_step *step;
        int r;

        snprintf(override, sizeof(override), "bus/pci/devices/%s/driver_override", f->address);
        snprintf(unbind, sizeof(unbind), "bus/pci/devices/%s/driver/unbind", f->address);
        snprintf(link, sizeof(link), "bus/pci/devices/%s/driver", f->address);

        snprintf(what, sizeof(what), "keep %s (%s) for %s", f->address, pci_class_name(f->class),
                driver);
        step = change_add(change, host, what, override, driver, NULL, NULL);
        r = step ? change_add_undo(step, override, f->override, override, driver) : -ENOMEM;
        if (r == 0 && *f->driver) {
                snprintf(what, sizeof(what), "take %s from %s", f->address, f->driver);
                step = change_add(change, host, what, unbind, f->address, link, "");
                r = step ? change_add_undo(step, override, f->override, override, driver) : -ENOMEM;
                if (r == 0)
                        r = change_add_undo(step, "bus/pci/drivers_probe", f->address, link, "");
        }
        if (r < 0)
                return r;
        snprintf(what, sizeof(what), "give %s to %s", f->address, driver);
        step = change_add(change, host, what, "bus/pci/drivers_probe", f->address, link, driver);
        return step ? change_add_undo(step, unbind, f->address, link, driver) : -ENOMEM;
}

static int plan(const struct host *host, const struct pci_function *function,
        const struct technique_ask *ask, struct change *change, struct cleave_error *error)
{
        struct pci_function functions[PASSTHROUGH_FUNCTIONS];
        char driver[64];
        json_t *list;
        int n, r = 0;

        n = passthrough_functions(host, function, functions);
        if (n < 0)
                return n;
        if (has_console(host, function))
                r = plan_console(host, change);
        if (r == 0 && has_firmware_buffer(host, function))
                r = plan_firmware_buffer(host, change);
        list = json_array();
        for (int i = 0; r == 0 && i < n; i++) {
                passthrough_driver(host, functions + i, driver);
                json_array_append_new(list, json_string(functions[i].address));
                r = plan_function(host, functions + i, driver, change);
        }
        json_object_set_new(change->geometry, "functions", list);
        json_object_set_new(change->geometry, "group", json_integer(function->group));
        return r;
}

static int prepare(
        struct host *host, const struct pci_function *function, struct cleave_error *error)
{
        char driver[64];
        int r;

        passthrough_driver(host, function, driver);
        if (host_exists(host, "bus/pci/drivers/%s", driver))
                return 0;
        r = host->ops->load_module(host, driver);
        if (r == 0)
                return 0;
        return error_set(error, r == -EPERM ? CLEAVE_REASON_NOT_PERMITTED : CLEAVE_REASON_NO_DRIVER,
                "the kernel's driver %s is not loaded and cannot be", driver);
}

/* The group's file appears a little after the driver has taken the device; the kernel then says
 * whether all of the group may be handed out. */
static int verify(const struct host *host, const struct change *change, struct obstacles *obstacles,
        struct cleave_error *error)
{
        struct pci_function function;
        const struct timespec step = {.tv_nsec = 20000000};
        struct vfio_group_status status = {.argsz = sizeof(status)};
        json_int_t group = json_integer_value(json_object_get(change->geometry, "group"));
        _cleanup_close_ int fd = -EBADF;
        char path[PATH_MAX];

        snprintf(path, sizeof(path), "%s/vfio/%lld", host->dev, (long long)group);
        for (unsigned waited = 0;; waited += 20) {
                fd = open(path, O_RDWR | O_CLOEXEC);
                if (fd >= 0 || errno != ENOENT || waited >= host->show_msec)
                        break;
                nanosleep(&step, NULL);
        }
        if (fd < 0) {
                error_set_errno(
                        error, errno, "the device is on vfio, but %s cannot be opened", path);
                error_set_hint(error, "It was given back. See dmesg.");
                return -EIO;
        }
        if (ioctl(fd, VFIO_GROUP_GET_STATUS, &status) < 0) {
                if (errno != ENOTTY)
                        return error_set_errno(error, errno,
                                "the kernel does not say whether group %lld can be used",
                                (long long)group);
                status.flags = VFIO_GROUP_FLAGS_VIABLE; /* a plain file is no kernel's */
        }
        if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE)) {
                error_set(error, CLEAVE_REASON_BUSY,
                        "IOMMU group %lld is not viable: another function of it is on a driver of "
                        "the host",
                        (long long)group);
                error_set_hint(error, "It was given back.");
                return -EBUSY;
        }
        fd = close_safe(fd); /* it can be open once only */
        if (pci_read(host, change->device, &function) == 0)
                check_reset(host, &function, obstacles);
        return 0;
}

static int load_functions(const struct host *host, const struct change *change,
        struct pci_function ret[static PASSTHROUGH_FUNCTIONS])
{
        const json_t *list = json_object_get(change->geometry, "functions"), *item;
        size_t i;
        int n = 0;

        json_array_foreach((json_t *)list, i, item)
        {
                if (n < PASSTHROUGH_FUNCTIONS && json_is_string(item) &&
                        pci_read(host, json_string_value(item), ret + n) == 0)
                        n++;
        }
        return n;
}

static int check_undo(
        const struct host *host, const struct change *change, struct obstacles *obstacles)
{
        struct pci_function functions[PASSTHROUGH_FUNCTIONS];
        int n = load_functions(host, change, functions);

        return passthrough_check_use(host, functions, n, true, obstacles);
}

static bool concerns(const struct host *host, const struct pci_function *function)
{
        return true;
}

static void offers(const struct host *host, const struct pci_function *function,
        char ret[static HOST_TEXT_MAX])
{
        struct pci_function functions[PASSTHROUGH_FUNCTIONS];
        int n = passthrough_functions(host, function, functions);

        if (is_vfio(function->driver))
                snprintf(ret, HOST_TEXT_MAX, "on %s, for a VM to take", function->driver);
        else if (n > 1)
                snprintf(ret, HOST_TEXT_MAX, "the whole card to one VM, %d functions together", n);
        else
                snprintf(ret, HOST_TEXT_MAX, "the whole device to one VM");
}

void passthrough_facts(
        FILE *out, const struct host *host, const struct pci_function *functions, int n)
{
        const struct pci_function *f = functions;
        char text[HOST_TEXT_MAX];
        char size[FORMAT_SIZE_MAX];
        uint64_t large = 0;

        for (int i = 1; i < n; i++)
                fprintf(out, "%s (%s, %s) goes with it.\n", functions[i].address,
                        pci_class_name(functions[i].class),
                        *functions[i].driver ? functions[i].driver : "no driver");
        passthrough_driver(host, f, text);
        if (f->group >= 0)
                fprintf(out,
                        "It would be on %s, in IOMMU group %d, as /dev/vfio/%d, which is root's: "
                        "libvirt gives it to its VM, others need chown.\n",
                        text, f->group, f->group);
        if (f->node >= 0) {
                fprintf(out,
                        "It is near NUMA node %d, processors %s: keep the VM's memory and "
                        "processors there.\n",
                        f->node, *f->cpus ? f->cpus : "unknown");
                fprintf(out, "Node %d has %lld free pages of 2 MiB and %lld of 1 GiB.\n", f->node,
                        host_number(host, 0,
                                "devices/system/node/node%d/hugepages/hugepages-2048kB/"
                                "free_hugepages",
                                f->node),
                        host_number(host, 0,
                                "devices/system/node/node%d/hugepages/hugepages-1048576kB/"
                                "free_hugepages",
                                f->node));
        } else
                fprintf(out, "The machine has one memory node, or does not say which is near.\n");
        for (unsigned i = 0; i < PCI_BARS; i++)
                large = MAX_OF(large, f->bar[i]);
        if (large)
                fprintf(out, "Its largest BAR has %s%s.\n", format_size(size, large),
                        large >= LARGE_BAR ? ": the VM's firmware needs a large 64-bit window"
                                           : "");
        for (unsigned i = 0; i < PCI_BARS; i++)
                if (host_exists(host, "bus/pci/devices/%s/resource%u_resize", f->address, i))
                        fprintf(out, "BAR %u can be resized while no driver has it.\n", i);
        if (*f->reset)
                fprintf(out, "It resets by %s.\n", f->reset);
        if (f->vendor == PCI_VENDOR_NVIDIA)
                fprintf(out, "GPUDirect RDMA is %s (nvidia_peermem), Storage is %s (nvidia_fs).\n",
                        host_exists(host, "module/nvidia_peermem") ? "ready" : "not loaded",
                        host_exists(host, "module/nvidia_fs") ? "ready" : "not loaded");
}

static json_t *attach(
        const struct host *host, const struct change *change, struct cleave_error *error)
{
        struct pci_function functions[PASSTHROUGH_FUNCTIONS];

        if (load_functions(host, change, functions) == 0 || functions->group < 0) {
                error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no PCI device %s",
                        change->device);
                return NULL;
        }
        return json_pack("[o]", attach_vfio(functions->address, functions->group));
}

static int print(FILE *out, const struct host *host, const struct change *change,
        enum technique_form form, struct cleave_error *error)
{
        struct pci_function functions[PASSTHROUGH_FUNCTIONS];
        int n = load_functions(host, change, functions);

        if (n == 0)
                return error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE, "there is no PCI device %s",
                        change->device);
        return attach_print_functions(out, host, functions, n, false, form, error);
}

const struct technique technique_passthrough = {
        .name = "passthrough",
        .title = "passthrough to a VM (VFIO)",
        .concerns = concerns,
        .offers = offers,
        .check = check,
        .plan = plan,
        .prepare = prepare,
        .verify = verify,
        .check_undo = check_undo,
        .attach = attach,
        .print = print,
};
