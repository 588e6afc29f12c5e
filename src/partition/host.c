/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <linux/vfio.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "partition/host.h"

#define FILE_MAX (16u << 20)

static const char *const writable[] = {
        "bus/pci/drivers_probe",
        "bus/pci/devices/*/driver_override",
        "bus/pci/devices/*/driver/unbind",
        "bus/pci/devices/*/sriov_drivers_autoprobe",
        "bus/pci/devices/*/sriov_numvfs",
        "bus/pci/devices/*/nvidia/current_vgpu_type",
        "bus/pci/devices/*/sriov_admin/vf*/profile/exec_quantum_ms",
        "bus/pci/devices/*/sriov_admin/vf*/profile/preempt_timeout_us",
        "bus/pci/devices/*/sriov_admin/vf*/profile/sched_priority",
        "bus/pci/devices/*/sriov_admin/vf*/profile/vram_quota",
        "bus/pci/devices/*/current_compute_partition",
        "bus/pci/devices/*/current_memory_partition",
        "bus/platform/devices/*-framebuffer.*/driver/unbind",
        "bus/platform/drivers/*-framebuffer/bind",
        "bus/mdev/devices/*/remove",
        "class/mdev_bus/*/mdev_supported_types/*/create",
        "class/vtconsole/vtcon*/bind",
        MIG_FILES "*/mode",
        MIG_FILES "*/*/instance",
        MIG_FILES "*/*/*/compute",
};

void host_init(
        struct host *host, const char *sysfs, const char *proc, const char *dev, const char *state)
{
        *host = (struct host){
                .sysfs = sysfs ?: "/sys",
                .proc = proc ?: "/proc",
                .dev = dev ?: "/dev",
                .modules = sysfs ? NULL : "/lib/modules",
                .state = state ?: HOST_STATE_DIR,
                .ops = &host_ops_real,
                .msec = HOST_WRITE_MSEC,
                .show_msec = HOST_SHOW_MSEC,
        };
}

static int join(char path[static PATH_MAX], const char *root, const char *format, va_list list)
{
        int n = snprintf(path, PATH_MAX, "%s/", root);

        if (n < 0 || n >= PATH_MAX ||
                vsnprintf(path + n, (size_t)(PATH_MAX - n), format, list) >= PATH_MAX - n)
                return -ENAMETOOLONG;
        return 0;
}

/* First HOST_TEXT_MAX - 1 bytes of the file, without blanks at the end. */
static int read_text(const char *path, char ret[static HOST_TEXT_MAX])
{
        _cleanup_close_ int fd = -EBADF;
        ssize_t n;

        ret[0] = '\0';
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return -errno;
        n = read(fd, ret, HOST_TEXT_MAX - 1);
        if (n < 0)
                return -errno;
        while (n > 0 && isspace((unsigned char)ret[n - 1]))
                n--;
        ret[n] = '\0';
        return 0;
}

int host_state(const struct host *host, const char *path, char ret[static HOST_TEXT_MAX])
{
        char whole[PATH_MAX], target[PATH_MAX];
        ssize_t n;
        int r;

        ret[0] = '\0';
        if (strncmp(path, MIG_FILES, strlen(MIG_FILES)) == 0)
                return mig_link_state(host->mig, host->msec, path, ret, HOST_TEXT_MAX);
        if (snprintf(whole, sizeof(whole), "%s/%s", host->sysfs, path) >= (int)sizeof(whole))
                return -ENAMETOOLONG;
        n = readlink(whole, target, sizeof(target) - 1);
        if (n >= 0) {
                const char *slash;

                target[n] = '\0';
                slash = strrchr(target, '/');
                snprintf(ret, HOST_TEXT_MAX, "%s", slash ? slash + 1 : target);
                return 0;
        }
        r = read_text(whole, ret);
        if (r == -ENOENT || r == -ENOTDIR)
                return 0;
        ret[strcspn(ret, "\n")] = '\0';
        if (strcmp(ret, "(null)") == 0)
                ret[0] = '\0';
        return r;
}

int host_read(const struct host *host, char ret[static HOST_TEXT_MAX], const char *format, ...)
{
        char path[PATH_MAX];
        va_list list;
        int r;

        ret[0] = '\0';
        va_start(list, format);
        r = join(path, host->sysfs, format, list);
        va_end(list);
        return r < 0 ? r : read_text(path, ret);
}

long long host_number(const struct host *host, long long otherwise, const char *format, ...)
{
        char path[PATH_MAX], text[HOST_TEXT_MAX], *end;
        long long value;
        va_list list;
        int r;

        va_start(list, format);
        r = join(path, host->sysfs, format, list);
        va_end(list);
        if (r < 0 || read_text(path, text) < 0)
                return otherwise;
        errno = 0;
        value = strtoll(text, &end, 0);
        return errno || end == text ? otherwise : value;
}

bool host_exists(const struct host *host, const char *format, ...)
{
        char path[PATH_MAX];
        va_list list;
        int r;

        va_start(list, format);
        r = join(path, host->sysfs, format, list);
        va_end(list);
        return r == 0 && access(path, F_OK) == 0;
}

int host_read_whole(const struct host *host, const char *path, char **ret)
{
        _cleanup_free_ char *whole = path_join(host->sysfs, path);

        return whole ? read_file(whole, FILE_MAX, ret, NULL) : -ENOMEM;
}

int host_read_proc(const struct host *host, const char *path, char **ret)
{
        _cleanup_free_ char *whole = path_join(host->proc, path);

        return whole ? read_file(whole, FILE_MAX, ret, NULL) : -ENOMEM;
}

static int compare_names(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

static int list_directory(const char *path, struct host_names *ret)
{
        _cleanup_closedir_ DIR *directory = opendir(path);
        _cleanup_names_ struct host_names names = {0};
        struct dirent *entry;

        if (!directory && errno != ENOENT && errno != ENOTDIR)
                return -errno;
        while (directory && (entry = readdir(directory))) {
                char **more;

                if (entry->d_name[0] == '.')
                        continue;
                more = realloc(names.name, (names.n + 1) * sizeof(*more));
                if (!more)
                        return -ENOMEM;
                names.name = more;
                names.name[names.n] = strdup(entry->d_name);
                if (!names.name[names.n])
                        return -ENOMEM;
                names.n++;
        }
        if (names.n > 0)
                qsort(names.name, names.n, sizeof(*names.name), compare_names);
        *ret = names;
        names = (struct host_names){0};
        return 0;
}

int host_list(const struct host *host, struct host_names *ret, const char *format, ...)
{
        char path[PATH_MAX];
        va_list list;
        int r;

        va_start(list, format);
        r = join(path, host->sysfs, format, list);
        va_end(list);
        return r < 0 ? r : list_directory(path, ret);
}

int host_list_proc(const struct host *host, struct host_names *ret, const char *path)
{
        _cleanup_free_ char *whole = path_join(host->proc, path);

        return whole ? list_directory(whole, ret) : -ENOMEM;
}

void host_names_free(struct host_names *names)
{
        for (size_t i = 0; i < names->n; i++)
                free(names->name[i]);
        free(names->name);
        *names = (struct host_names){0};
}

bool host_may_write(const char *path)
{
        if (strstr(path, ".."))
                return false;
        for (size_t i = 0; i < ARRAY_SIZE(writable); i++)
                if (fnmatch(writable[i], path, FNM_PATHNAME) == 0)
                        return true;
        return false;
}

int host_write(struct host *host, const char *path, const char *value)
{
        if (!host_may_write(path))
                return -EPERM;
        return host->ops->write(host, path, value, host->msec);
}

void host_point(struct host *host)
{
        if (host->ops->point)
                host->ops->point(host);
}

/*
 * Taking a device from its driver waits, without a way to interrupt it, until whoever has it open
 * lets go, and resetting one may take long. So a child does it, its result comes up a pipe, and we
 * stop waiting for it when the time is over.
 */
static int call_in_child(int (*call)(const void *context), const void *context, unsigned msec)
{
        _cleanup_close_ int read_fd = -EBADF, write_fd = -EBADF;
        uint64_t until = clock_usec(CLOCK_MONOTONIC) + msec * USEC_PER_MSEC;
        int ends[2], result = -EIO;
        struct pollfd wait;
        pid_t pid;

        if (pipe2(ends, O_CLOEXEC) < 0)
                return -errno;
        read_fd = ends[0];
        write_fd = ends[1];
        pid = fork();
        if (pid < 0)
                return -errno;
        if (pid == 0) {
                result = call(context);
                (void)!write(write_fd, &result, sizeof(result));
                _exit(0);
        }
        write_fd = close_safe(write_fd);
        wait = (struct pollfd){.fd = read_fd, .events = POLLIN};
        for (;;) {
                uint64_t now = clock_usec(CLOCK_MONOTONIC);
                int left = now < until ? (int)((until - now + 999) / USEC_PER_MSEC) : 0;
                int r = poll(&wait, 1, left);

                if (r < 0 && errno == EINTR)
                        continue;
                if (r == 0) {
                        kill(pid, SIGKILL);
                        waitpid(pid, NULL, WNOHANG);
                        return -ETIMEDOUT;
                }
                break;
        }
        if (read(read_fd, &result, sizeof(result)) != sizeof(result))
                result = -EIO;
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
        return result;
}

struct write_call {
        const char *path, *value;
};

/* One write(), as sysfs takes a value whole. */
static int call_write(const void *context)
{
        const struct write_call *call = context;
        _cleanup_close_ int fd = open(call->path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);

        return fd < 0 || write(fd, call->value, strlen(call->value)) < 0 ? -errno : 0;
}

static int real_write(struct host *host, const char *path, const char *value, unsigned msec)
{
        _cleanup_free_ char *whole = NULL;

        if (strncmp(path, MIG_FILES, strlen(MIG_FILES)) == 0)
                return mig_link_write(host->mig, msec, path, value);
        whole = path_join(host->sysfs, path);
        if (!whole)
                return -ENOMEM;
        return call_in_child(call_write, &(struct write_call){whole, *value ? value : "\n"}, msec);
}

struct vfio_call {
        const char *dev, *address;
        int group;
};

/* Every descriptor ends with the child. */
static int call_vfio(const void *context)
{
        const struct vfio_call *call = context;
        struct vfio_device_info info = {.argsz = sizeof(info)};
        struct vfio_group_status status = {.argsz = sizeof(status)};
        char path[PATH_MAX];
        int container, device, group;

        snprintf(path, sizeof(path), "%s/vfio/%d", call->dev, call->group);
        group = open(path, O_RDWR | O_CLOEXEC);
        if (group < 0 || ioctl(group, VFIO_GROUP_GET_STATUS, &status) < 0)
                return -errno;
        if (!call->address)
                return 0;
        snprintf(path, sizeof(path), "%s/vfio/vfio", call->dev);
        container = open(path, O_RDWR | O_CLOEXEC);
        if (container < 0 || ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) < 0 ||
                ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0)
                return -errno;
        device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, call->address);
        if (device < 0 || ioctl(device, VFIO_DEVICE_GET_INFO, &info) < 0)
                return -errno;
        return (int)(info.flags & INT_MAX);
}

static int real_ask_vfio(const struct host *host, int group, const char *address, unsigned msec)
{
        return call_in_child(call_vfio, &(struct vfio_call){host->dev, address, group}, msec);
}

static int real_load_module(struct host *host, const char *name)
{
        int status;
        pid_t pid;

        /* Another sysfs is another machine; our kernel's modules are no help to it. */
        if (!host->modules)
                return -ENOENT;
        if (geteuid() != 0)
                return -EPERM;
        pid = fork();
        if (pid < 0)
                return -errno;
        if (pid == 0) {
                int null = open("/dev/null", O_RDWR | O_CLOEXEC);

                dup2(null, STDOUT_FILENO);
                dup2(null, STDERR_FILENO);
                execlp("modprobe", "modprobe", "--", name, NULL);
                _exit(127);
        }
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ENOENT;
}

const struct host_ops host_ops_real = {
        .write = real_write,
        .ask_vfio = real_ask_vfio,
        .load_module = real_load_module,
};
