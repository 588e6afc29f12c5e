/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtual functions of a physical one (AMD MxGPU, Intel, NVIDIA's on their own driver): made all at
 * once, driverless, and then passed to VMs one by one like any function. With Intel's xe each gets
 * its share of time and memory before it exists.
 */
#include <errno.h>
#include <string.h>

#include "partition/passthrough.h"

static bool concerns(const struct host *host, const struct pci_function *f)
{
        return f->functions_total > 0;
}

static void offers(
        const struct host *host, const struct pci_function *f, char ret[static HOST_TEXT_MAX])
{
        snprintf(ret, HOST_TEXT_MAX, "%d of %d virtual functions enabled", f->functions,
                f->functions_total);
}

static bool has_profiles(const struct host *host, const struct pci_function *f)
{
        return host_exists(host, "bus/pci/devices/%s/sriov_admin", f->address);
}

static int check(const struct host *host, const struct pci_function *f,
        const struct technique_ask *ask, struct obstacles *obstacles)
{
        struct mig_driver driver;

        if (f->functions_total <= 0) {
                obstacles_add(obstacles, OBSTACLE_NO_SRIOV, "%s has no virtual functions%s",
                        f->address,
                        *f->physical ? ": it is one itself"
                                     : " (not capable of SR-IOV, or off in the firmware)");
                return 0;
        }
        /* Also with its enable_sriov: those functions only take a VM that has a token for them. */
        if (strstr(f->driver, "vfio"))
                obstacles_add(obstacles, OBSTACLE_ON_VFIO,
                        "%s is on %s, which makes no virtual functions", f->address, f->driver);
        else if (!*f->driver)
                obstacles_add(obstacles, OBSTACLE_NO_DRIVER,
                        "%s has no driver, so nothing can make its virtual functions", f->address);
        if (f->functions > 0)
                obstacles_add(obstacles, OBSTACLE_FUNCTIONS_ON,
                        "%s has %d virtual functions already, which Cleave has not made",
                        f->address, f->functions);
        if ((int)ask->count > f->functions_total)
                obstacles_add(obstacles, OBSTACLE_TOO_MANY,
                        "%s makes at most %d virtual functions, not %u", f->address,
                        f->functions_total, ask->count);
        if (strcmp(f->driver, "amdgpu") == 0 || strcmp(f->driver, "nouveau") == 0)
                obstacles_add(obstacles, OBSTACLE_NO_SRIOV,
                        "%s is on %s, which makes no virtual functions%s", f->address, f->driver,
                        f->vendor == PCI_VENDOR_AMD ? "; AMD's gim does" : "");
        if (f->vendor != PCI_VENDOR_NVIDIA || strcmp(f->driver, "nvidia") != 0)
                return 0;
        obstacles_add(obstacles, OBSTACLE_NO_SRIOV,
                "NVIDIA's driver takes no number of functions from sysfs; its own sriov-manage -e "
                "%s enables all of them",
                f->address);
        if (host->mig && mig_driver_read(host->mig, host->msec, f->address, &driver, NULL) == 0 &&
                driver.n_present)
                obstacles_add(obstacles, OBSTACLE_HAS_INSTANCES,
                        "%s has %u MIG instance%s, which enabling its virtual functions destroys",
                        f->address, driver.n_present, driver.n_present > 1 ? "s" : "");
        return 0;
}

static int add_profile(const struct host *host, const struct pci_function *f, unsigned index,
        const char *name, unsigned long long value, const char *what, struct change *change)
{
        char path[HOST_PATH_MAX], text[24], before[HOST_TEXT_MAX], phrase[96];
        struct change_step *step;
        int r;

        if (value == 0)
                return 0;
        snprintf(path, sizeof(path), "bus/pci/devices/%s/sriov_admin/vf%u/profile/%s", f->address,
                index, name);
        if (!host_exists(host, "%s", path))
                return -EOPNOTSUPP;
        /* -EUCLEAN: its tiles have different values, which could not be given back. */
        r = host_state(host, path, before);
        if (r < 0)
                return r;
        snprintf(text, sizeof(text), "%llu", value);
        snprintf(phrase, sizeof(phrase), "give function %u %s", index, what);
        step = change_add(change, host, phrase, path, text, NULL, NULL);
        return step ? change_add_undo(step, path, before, path, text) : -ENOMEM;
}

static int plan(const struct host *host, const struct pci_function *f,
        const struct technique_ask *ask, struct change *change, struct cleave_error *error)
{
        char probe[HOST_PATH_MAX], number[HOST_PATH_MAX], text[24], what[96], before[HOST_TEXT_MAX];
        bool profile = ask->quantum_msec || ask->preempt_usec || ask->memory;
        struct change_step *step;
        int r = 0;

        if (ask->count == 0)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "say how many virtual functions to make (--count)");
        if (profile && !has_profiles(host, f)) {
                error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "%s takes no time or memory for its functions", f->address);
                error_set_hint(error, "Intel's xe does, from Linux 6.19 on.");
                return -EINVAL;
        }
        /* Functions count from 1; what they get has to be there before they are. */
        for (unsigned i = 1; r == 0 && i <= ask->count; i++) {
                r = add_profile(
                        host, f, i, "exec_quantum_ms", ask->quantum_msec, "its time", change);
                if (r == 0)
                        r = add_profile(host, f, i, "preempt_timeout_us", ask->preempt_usec,
                                "its time to end", change);
                if (r == 0)
                        r = add_profile(
                                host, f, i, "vram_quota", ask->memory, "its memory", change);
        }
        if (r == -EOPNOTSUPP)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "this kernel's driver of %s cannot set all of that", f->address);
        if (r < 0) {
                error_set_errno(
                        error, r, "cannot read what the functions of %s have now", f->address);
                error_set_hint(error,
                        "Where tiles have different values, others have set them: write 0 to all "
                        "first.");
                return r;
        }
        snprintf(probe, sizeof(probe), "bus/pci/devices/%s/sriov_drivers_autoprobe", f->address);
        snprintf(number, sizeof(number), "bus/pci/devices/%s/sriov_numvfs", f->address);
        snprintf(text, sizeof(text), "%u", ask->count);
        host_state(host, probe, before);
        if (*before) {
                step = change_add(change, host, "keep drivers of the host off the new functions",
                        probe, "0", NULL, NULL);
                if (!step || (strcmp(before, "0") != 0 &&
                                     change_add_undo(step, probe, before, probe, "0") < 0))
                        return -ENOMEM;
        }
        snprintf(what, sizeof(what), "make %u virtual functions of %s", ask->count, f->address);
        step = change_add(change, host, what, number, text, NULL, NULL);
        if (!step)
                return -ENOMEM;
        json_object_set_new(change->geometry, "count", json_integer(ask->count));
        return change_add_undo(step, number, "0", number, text);
}

/* Taking functions away waits until nobody has one. */
static int check_undo(
        const struct host *host, const struct change *change, struct obstacles *obstacles)
{
        json_int_t count = json_integer_value(json_object_get(change->geometry, "count"));
        struct change *others = NULL;
        size_t n = 0;
        int r;

        r = change_load_all(host, &others, &n, NULL);
        for (unsigned i = 0; r == 0 && i < count; i++) {
                char path[HOST_PATH_MAX], address[HOST_TEXT_MAX];
                struct pci_function f;

                snprintf(path, sizeof(path), "bus/pci/devices/%s/virtfn%u", change->device, i);
                host_state(host, path, address);
                if (!*address || pci_read(host, address, &f) < 0)
                        continue;
                for (size_t j = 0; j < n; j++)
                        if (strcmp(others[j].device, f.address) == 0)
                                obstacles_add(obstacles, OBSTACLE_FUNCTION_ATTACHED,
                                        "virtual function %s is in use by the partition %s",
                                        f.address, others[j].id);
                r = passthrough_check_use(host, &f, 1, true, obstacles);
        }
        change_free_all(others, n);
        return r;
}

const struct technique technique_sriov = {
        .name = "sriov",
        .title = "virtual functions (SR-IOV)",
        .concerns = concerns,
        .offers = offers,
        .check = check,
        .plan = plan,
        .check_undo = check_undo,
};
