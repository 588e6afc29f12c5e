/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "partition/pci.h"
#include "tree.h"
#include "unit.h"

#define PATH(path, tree, format)                                                                   \
        char path[PATH_MAX];                                                                       \
        do {                                                                                       \
                va_list list;                                                                      \
                int n = snprintf(path, sizeof(path), "%s/", (tree)->root);                         \
                va_start(list, format);                                                            \
                vsnprintf(path + n, sizeof(path) - (size_t)n, format, list);                       \
                va_end(list);                                                                      \
        } while (0)

static void parents(const char *path)
{
        char copy[PATH_MAX];

        snprintf(copy, sizeof(copy), "%s", path);
        for (char *p = copy + 1; (p = strchr(p, '/')); *p++ = '/') {
                *p = '\0';
                mkdir(copy, 0755);
        }
}

void tree_file(struct tree *tree, const char *text, const char *format, ...)
{
        PATH(path, tree, format);
        FILE *file;

        parents(path);
        file = fopen(path, "w");
        assert_non_null(file);
        fputs(text, file);
        fclose(file);
}

void tree_link(struct tree *tree, const char *target, const char *format, ...)
{
        PATH(path, tree, format);

        parents(path);
        unlink(path);
        assert_int_equal(symlink(target, path), 0);
}

void tree_remove(struct tree *tree, const char *format, ...)
{
        PATH(path, tree, format);
        char command[PATH_MAX + 16];

        snprintf(command, sizeof(command), "rm -rf -- '%s'", path);
        assert_int_equal(system(command), 0);
}

bool tree_has(struct tree *tree, const char *format, ...)
{
        PATH(path, tree, format);
        struct stat st;

        return lstat(path, &st) == 0;
}

const char *tree_state(struct tree *tree, const char *format, ...)
{
        static char text[HOST_TEXT_MAX];
        char path[HOST_PATH_MAX];
        va_list list;

        va_start(list, format);
        vsnprintf(path, sizeof(path), format, list);
        va_end(list);
        host_state(&tree->host, path, text);
        return text;
}

#define DEVICE "sys/bus/pci/devices/%s"

void tree_function(struct tree *tree, const char *address, const char *port, unsigned vendor,
        unsigned device, unsigned class, int group, const char *driver)
{
        char real[160], text[64];

        snprintf(real, sizeof(real), "devices/pci0000:00/%s%s%s", port ?: "", port ? "/" : "",
                address);
        tree_file(tree, "", "sys/%s/uevent", real);
        snprintf(text, sizeof(text), "../../../%s", real);
        tree_link(tree, text, DEVICE, address);
        snprintf(text, sizeof(text), "0x%04x\n", vendor);
        tree_file(tree, text, DEVICE "/vendor", address);
        snprintf(text, sizeof(text), "0x%04x\n", device);
        tree_file(tree, text, DEVICE "/device", address);
        snprintf(text, sizeof(text), "0x%06x\n", class);
        tree_file(tree, text, DEVICE "/class", address);
        tree_file(tree, "-1\n", DEVICE "/numa_node", address);
        tree_file(tree, "(null)\n", DEVICE "/driver_override", address);
        tree_file(tree, "1\n", DEVICE "/reset", address);
        /* What the kernel of this tree knows and sysfs does not show. */
        tree_file(tree, driver ?: "", "native/%s", address);
        if (driver) {
                tree_file(tree, "", "sys/bus/pci/drivers/%s/new_id", driver);
                snprintf(text, sizeof(text), "../../../bus/pci/drivers/%s", driver);
                tree_link(tree, text, DEVICE "/driver", address);
        }
        if (group >= 0) {
                tree_file(tree, "DMA\n", "sys/kernel/iommu_groups/%d/type", group);
                snprintf(text, sizeof(text), "../../../kernel/iommu_groups/%d", group);
                tree_link(tree, text, DEVICE "/iommu_group", address);
                snprintf(text, sizeof(text), "../../../../bus/pci/devices/%s", address);
                tree_link(tree, text, "sys/kernel/iommu_groups/%d/devices/%s", group, address);
        }
}

void tree_process(struct tree *tree, int pid, const char *command, const char *node)
{
        char text[64];

        snprintf(text, sizeof(text), "%s\n", command);
        tree_file(tree, text, "proc/%d/comm", pid);
        tree_link(tree, "/dev/null", "proc/%d/fd/0", pid);
        tree_link(tree, node, "proc/%d/fd/7", pid);
}

void tree_vfio_device(struct tree *tree, int pid, const char *command, const char *device)
{
        char text[160] = "pos:\t0\nflags:\t02000002\n";

        tree_process(tree, pid, command, "anon_inode:[vfio-device]");
        if (device)
                snprintf(text, sizeof(text),
                        "pos:\t0\nflags:\t02000002\nvfio-device-syspath: "
                        "/sys/devices/pci0000:00/0000:00:01.0/%s\n",
                        device);
        tree_file(tree, text, "proc/%d/fdinfo/7", pid);
}

void tree_vfio_busy(struct tree *tree, int group)
{
        tree_file(tree, "", "busy/%d", group);
}

void tree_no_reset(struct tree *tree, const char *address)
{
        tree_file(tree, "", "no-reset/%s", address);
}

/* --- NVIDIA's driver --- */

static void renew_link(struct tree *tree)
{
        mig_link_free(tree->host.mig);
        tree->host.mig = mig_link_new(getenv("CLEAVE_TEST_NVML"));
        assert_non_null(tree->host.mig);
}

void tree_faults(struct tree *tree, const char *faults)
{
        setenv("CLEAVE_SIM_FAULTS", faults, 1);
        renew_link(tree);
}

void tree_others(struct tree *tree, const char *path, const char *value)
{
        assert_int_equal(mig_link_write(tree->host.mig, 10000, path, value), 0);
}

void tree_mig(struct tree *tree, const char *model, bool on)
{
        static const struct {
                const char *model;
                unsigned device;
        } devices[] = {{"a30", 0x20b7}, {"a100", 0x20b2}, {"h100", 0x2330}, {"h200", 0x2335},
                {"b200", 0x2901}};
        char place[96];

        assert_non_null(getenv("CLEAVE_TEST_NVML"));
        snprintf(place, sizeof(place), "%s/sim", tree->root);
        setenv("CLEAVE_SIM_DIR", place, 1);
        setenv("CLEAVE_SIM", model, 1);
        for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
                if (strcmp(devices[i].model, model) == 0)
                        tree_function(tree, TREE_MIG_GPU, NULL, 0x10de, devices[i].device, 0x030200,
                                12, "nvidia");
        tree_file(tree, "DeviceFileMinor: 1\nDeviceFileMode: 256\n",
                "proc/driver/nvidia/capabilities/mig/config");
        tree_faults(tree, "");
        if (on)
                tree_others(tree, MIG_FILES TREE_MIG_GPU "/mode", "on");
}

void tree_mode_pending(struct tree *tree, unsigned on)
{
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                void *library, *device;
                int (*init)(void), (*by_index)(unsigned, void **);
                int (*set)(void *, unsigned, int *), activation;

                setenv("CLEAVE_SIM_FAULTS", "reset@MIG", 1);
                library = dlopen(getenv("CLEAVE_TEST_NVML"), RTLD_NOW);
                if (!library)
                        _exit(1);
                *(void **)&init = dlsym(library, "nvmlInit_v2");
                *(void **)&by_index = dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
                *(void **)&set = dlsym(library, "nvmlDeviceSetMigMode");
                _exit(init() || by_index(0, &device) || set(device, on, &activation));
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

static void print_mig(FILE *out, struct tree *tree)
{
        struct mig_driver driver;

        assert_int_equal(mig_driver_read(tree->host.mig, 10000, TREE_MIG_GPU, &driver, NULL), 0);
        fprintf(out, "MIG %d %d\n", driver.on, driver.pending);
        for (unsigned i = 0; i < driver.n_present; i++) {
                fprintf(out, "%s at %u, id %u:",
                        driver.geometry.profiles[driver.present[i].profile].name,
                        driver.present[i].start, driver.present[i].id);
                for (unsigned j = 0; j < driver.present[i].n_compute; j++)
                        fprintf(out, " %uc at %u %s", driver.present[i].compute[j].slices,
                                driver.present[i].compute[j].start,
                                driver.present[i].compute[j].uuid);
                fputc('\n', out);
        }
}

/* --- the kernel --- */

static void bind_driver(struct tree *tree, const char *address, const char *driver)
{
        char text[96];

        snprintf(text, sizeof(text), "../../../bus/pci/drivers/%s", driver);
        tree_link(tree, text, DEVICE "/driver", address);
        if (strstr(driver, "vfio"))
                tree_file(tree, "", "dev/vfio/%s",
                        tree_state(tree, "bus/pci/devices/%s/iommu_group", address));
}

static int probe(struct tree *tree, const char *address)
{
        char driver[HOST_TEXT_MAX], native[PATH_MAX];
        _cleanup_free_ char *text = NULL;

        if (!tree_has(tree, DEVICE, address))
                return -ENODEV;
        if (*tree_state(tree, "bus/pci/devices/%s/driver", address))
                return 0;
        snprintf(driver, sizeof(driver), "%s",
                tree_state(tree, "bus/pci/devices/%s/driver_override", address));
        snprintf(native, sizeof(native), "%s/native/%s", tree->root, address);
        if (!*driver && read_file(native, 256, &text, NULL) == 0)
                snprintf(driver, sizeof(driver), "%s", text);
        /* Without an IOMMU the write succeeds and the device stays without a driver. */
        if (*driver && tree_has(tree, "sys/bus/pci/drivers/%s", driver) &&
                (!strstr(driver, "vfio") || tree_has(tree, DEVICE "/iommu_group", address)))
                bind_driver(tree, address, driver);
        return 0;
}

static void numbered(char ret[static PCI_ADDRESS_MAX], const char *address, unsigned i)
{
        /* 0000:02:00.0 has 0000:02:00.1 and so on. */
        snprintf(ret, PCI_ADDRESS_MAX, "%.11s%u", address, i + 1);
}

static int set_functions(struct tree *tree, const char *address, const char *value)
{
        long wanted = atol(value), now, total;
        char vf[PCI_ADDRESS_MAX], text[64], number[16];

        if (!*tree_state(tree, "bus/pci/devices/%s/driver", address))
                return -ENOENT;
        now = atol(tree_state(tree, "bus/pci/devices/%s/sriov_numvfs", address));
        total = atol(tree_state(tree, "bus/pci/devices/%s/sriov_totalvfs", address));
        if (wanted > total)
                return -ERANGE;
        if (now && wanted)
                return -EBUSY;
        for (unsigned i = 0; i < (unsigned)(wanted ?: now); i++) {
                numbered(vf, address, i);
                if (!wanted) {
                        tree_remove(tree, DEVICE "/virtfn%u", address, i);
                        tree_remove(tree, "sys/kernel/iommu_groups/%u", 100 + i);
                        tree_remove(tree, "native/%s", vf);
                        tree_remove(tree, "sys/devices/pci0000:00/%s", vf);
                        tree_remove(tree, DEVICE, vf);
                        continue;
                }
                tree_function(tree, vf, NULL, 0x1002, 0x7461, 0x120000, (int)(100 + i), NULL);
                snprintf(text, sizeof(text), "../%s", address);
                tree_link(tree, text, DEVICE "/physfn", vf);
                snprintf(text, sizeof(text), "../%s", vf);
                tree_link(tree, text, DEVICE "/virtfn%u", address, i);
        }
        snprintf(number, sizeof(number), "%ld\n", wanted);
        tree_file(tree, number, DEVICE "/sriov_numvfs", address);
        return 0;
}

static int create_mediated(struct tree *tree, const char *path, const char *uuid)
{
        char directory[HOST_PATH_MAX], text[HOST_PATH_MAX + 16], number[16];
        long room;

        snprintf(directory, sizeof(directory), "%.*s", (int)(strlen(path) - strlen("/create")),
                path);
        if (strlen(uuid) != 36)
                return -EINVAL;
        if (tree_has(tree, "sys/bus/mdev/devices/%s", uuid))
                return -EEXIST;
        room = atol(tree_state(tree, "%s/available_instances", directory));
        if (room <= 0)
                return -ENOSPC;
        snprintf(number, sizeof(number), "%ld\n", room - 1);
        tree_file(tree, number, "sys/%s/available_instances", directory);
        tree_file(tree, "", "sys/bus/mdev/devices/%s/remove", uuid);
        snprintf(text, sizeof(text), "../../../../%s", directory);
        tree_link(tree, text, "sys/bus/mdev/devices/%s/mdev_type", uuid);
        snprintf(text, sizeof(text), "%s", directory);
        tree_file(tree, text, "native/%s", uuid);
        return 0;
}

static int remove_mediated(struct tree *tree, const char *uuid)
{
        char path[PATH_MAX], number[16];
        _cleanup_free_ char *directory = NULL;

        snprintf(path, sizeof(path), "%s/native/%s", tree->root, uuid);
        assert_int_equal(read_file(path, 512, &directory, NULL), 0);
        snprintf(number, sizeof(number), "%ld\n",
                atol(tree_state(tree, "%s/available_instances", directory)) + 1);
        tree_file(tree, number, "sys/%s/available_instances", directory);
        tree_remove(tree, "sys/bus/mdev/devices/%s", uuid);
        tree_remove(tree, "native/%s", uuid);
        return 0;
}

static int set_vgpu(struct tree *tree, const char *address, const char *value)
{
        long now = atol(tree_state(tree, "bus/pci/devices/%s/nvidia/current_vgpu_type", address));
        char text[32];

        if ((now > 0) == (atol(value) > 0))
                return -EPERM;
        snprintf(text, sizeof(text), "%s\n", value);
        tree_file(tree, text, DEVICE "/nvidia/current_vgpu_type", address);
        return 0;
}

/* A device without a bus: it is taken from its driver and given back. */
static int write_platform(struct tree *tree, const char *path, const char *value)
{
        char driver[64], text[96];

        if (sscanf(path, "bus/platform/drivers/%63[^/]/bind", driver) != 1) {
                tree_remove(tree, "sys/bus/platform/devices/%s/driver", value);
                return 0;
        }
        if (tree_has(tree, "sys/bus/platform/devices/%s/driver", value))
                return -ENODEV;
        snprintf(text, sizeof(text), "../../drivers/%s", driver);
        tree_link(tree, text, "sys/bus/platform/devices/%s/driver", value);
        return 0;
}

static int kernel_write(struct tree *tree, const char *path, const char *value)
{
        const char *leaf = strrchr(path, '/') + 1;
        char address[64] = "", text[HOST_TEXT_MAX];

        if (strncmp(path, MIG_FILES, strlen(MIG_FILES)) == 0)
                return mig_link_write(tree->host.mig, 10000, path, value);
        if (sscanf(path, "bus/pci/devices/%63[^/]", address) != 1)
                sscanf(path, "bus/mdev/devices/%63[^/]", address);
        if (strncmp(path, "bus/platform/", 13) == 0)
                return write_platform(tree, path, value);
        if (strcmp(leaf, "drivers_probe") == 0)
                return probe(tree, value);
        if (!tree_has(tree, "sys/%s", path) && strcmp(leaf, "unbind") != 0)
                return -ENOENT;
        if (strcmp(leaf, "unbind") == 0) {
                if (!tree_has(tree, DEVICE "/driver", address))
                        return -ENOENT;
                if (strstr(tree_state(tree, "bus/pci/devices/%s/driver", address), "vfio"))
                        tree_remove(tree, "dev/vfio/%s",
                                tree_state(tree, "bus/pci/devices/%s/iommu_group", address));
                tree_remove(tree, DEVICE "/driver", address);
                return 0;
        }
        if (strcmp(leaf, "sriov_numvfs") == 0)
                return set_functions(tree, address, value);
        if (strcmp(leaf, "create") == 0)
                return create_mediated(tree, path, value);
        if (strcmp(leaf, "remove") == 0)
                return remove_mediated(tree, address);
        if (strcmp(leaf, "current_vgpu_type") == 0)
                return set_vgpu(tree, address, value);
        snprintf(text, sizeof(text), "%s\n",
                *value || strcmp(leaf, "driver_override") != 0 ? value : "(null)");
        tree_file(tree, text, "sys/%s", path);
        return 0;
}

static int tree_write(struct host *host, const char *path, const char *value, unsigned msec)
{
        struct tree *tree = host->context;
        const char *leaf = strrchr(path, '/') + 1;

        tree->writes++;
        if (tree->fault_leaf && (strcmp(tree->fault_leaf, TREE_ANY_LEAF) == 0 ||
                                        strcmp(leaf, tree->fault_leaf) == 0)) {
                int r = tree->fault_error;

                tree->fault_leaf = NULL;
                return r;
        }
        return kernel_write(tree, path, value);
}

static int tree_ask_vfio(const struct host *host, int group, const char *address, unsigned msec)
{
        struct tree *tree = host->context;

        if (!tree_has(tree, "dev/vfio/%d", group))
                return -ENOENT;
        if (tree_has(tree, "busy/%d", group))
                return -EBUSY;
        return address && !tree_has(tree, "no-reset/%s", address) ? VFIO_DEVICE_FLAGS_RESET : 0;
}

static int tree_load_module(struct host *host, const char *name)
{
        struct tree *tree = host->context;

        if (!tree_has(tree, "modules/%s", name))
                return -ENOENT;
        tree_file(tree, "", "sys/bus/pci/drivers/%s/new_id", name);
        return 0;
}

static void tree_point(struct host *host)
{
        struct tree *tree = host->context;

        if (++tree->points == tree->crash_at)
                raise(SIGKILL);
}

static const struct host_ops tree_ops = {
        .write = tree_write,
        .ask_vfio = tree_ask_vfio,
        .load_module = tree_load_module,
        .point = tree_point,
};

void tree_init(struct tree *tree)
{
        *tree = (struct tree){0};
        /* In memory where that is possible: records are synced to the disk, thousands of them. */
        snprintf(tree->root, sizeof(tree->root), "/dev/shm/cleave-tree.XXXXXX");
        if (!mkdtemp(tree->root)) {
                snprintf(tree->root, sizeof(tree->root), "/tmp/cleave-tree.XXXXXX");
                assert_non_null(mkdtemp(tree->root));
        }
        snprintf(tree->sysfs, sizeof(tree->sysfs), "%s/sys", tree->root);
        snprintf(tree->proc, sizeof(tree->proc), "%s/proc", tree->root);
        snprintf(tree->dev, sizeof(tree->dev), "%s/dev", tree->root);
        snprintf(tree->state, sizeof(tree->state), "%s/state", tree->root);
        host_init(&tree->host, tree->sysfs, tree->proc, tree->dev, tree->state);
        tree->host.ops = &tree_ops;
        tree->host.context = tree;
        tree->host.show_msec = 0;
        tree_file(tree, "", "sys/class/iommu/dmar0/uevent");
        tree_file(tree, "", "sys/bus/pci/drivers_probe");
        tree_file(tree, "9a53c7a8-0000-4000-8000-000000000001\n", "proc/sys/kernel/random/boot_id");
        tree_file(tree, "6.1.0-test\n", "proc/sys/kernel/osrelease");
        tree_file(tree, "", "modules/vfio-pci");
        tree_file(tree, "", "dev/null");
}

void tree_done(struct tree *tree)
{
        char command[96];

        mig_link_free(tree->host.mig);
        snprintf(command, sizeof(command), "rm -rf -- %s", tree->root);
        assert_int_equal(system(command), 0);
}

char *tree_snapshot(struct tree *tree)
{
        char command[256];
        char *text = NULL;
        size_t size = 0;
        FILE *from, *to;
        int c;

        snprintf(command, sizeof(command),
                "cd %s && find sys dev native -mindepth 1 \\( -type l -printf '%%p -> %%l\\n' -o "
                "-type f -print -exec cat {} + \\) | sort",
                tree->root);
        from = popen(command, "r");
        to = open_memstream(&text, &size);
        while ((c = fgetc(from)) != EOF)
                fputc(c, to);
        pclose(from);
        if (tree->host.mig)
                print_mig(to, tree);
        fclose(to);
        return text;
}
