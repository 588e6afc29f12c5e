/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "partition/holders.h"

/* What somebody has who has a descriptor of a device of VFIO's. */
#define VFIO_ITS  "its VFIO device"
#define VFIO_SOME "a VFIO device, perhaps this one,"

void holders_done(struct holders *holders)
{
        free(holders->list);
        *holders = (struct holders){0};
}

static int add_node(struct host_names *names, const char *format, ...)
        __attribute__((format(printf, 2, 3)));
static int add_node(struct host_names *names, const char *format, ...)
{
        char **more = realloc(names->name, (names->n + 1) * sizeof(*more));
        va_list list;
        int r;

        if (!more)
                return -ENOMEM;
        names->name = more;
        va_start(list, format);
        r = vasprintf(names->name + names->n, format, list);
        va_end(list);
        if (r < 0)
                return -ENOMEM;
        names->n++;
        return 0;
}

static int add_directory(const struct host *host, const char *address, const char *directory,
        const char *prefix, struct host_names *nodes)
{
        _cleanup_names_ struct host_names names = {0};
        int r;

        r = host_list(host, &names, "bus/pci/devices/%s/%s", address, directory);
        for (size_t i = 0; r == 0 && i < names.n; i++)
                r = add_node(nodes, "%s%s", prefix, names.name[i]);
        return r;
}

/* NVIDIA's driver says in proc which minor a GPU has; its index in NVML may be another. */
static int add_nvidia(const struct host *host, const char *address, struct host_names *nodes)
{
        static const char label[] = "Device Minor:";
        _cleanup_free_ char *text = NULL;
        char path[HOST_PATH_MAX];
        const char *at;

        snprintf(path, sizeof(path), "driver/nvidia/gpus/%s/information", address);
        if (host_read_proc(host, path, &text) < 0)
                return 0;
        at = strstr(text, label);
        return at ? add_node(nodes, "/dev/nvidia%d", atoi(at + strlen(label))) : 0;
}

int holders_nodes(
        const struct host *host, const struct pci_function *function, struct host_names *ret)
{
        static const struct {
                const char *directory, *prefix;
        } classes[] = {
                {"drm", "/dev/dri/"},
                {"accel", "/dev/accel/"},
                {"vfio-dev", "/dev/vfio/devices/"},
                {"nvme", "/dev/"},
        };
        _cleanup_names_ struct host_names nodes = {0};
        int r;

        r = add_nvidia(host, function->address, &nodes);
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(classes); i++)
                r = add_directory(
                        host, function->address, classes[i].directory, classes[i].prefix, &nodes);
        /* While it is on another driver the group's file belongs to other functions, which are
         * looked at by themselves. */
        if (r == 0 && function->group >= 0 && strstr(function->driver, "vfio"))
                r = add_node(&nodes, "/dev/vfio/%d", function->group);
        if (r < 0)
                return r;
        *ret = nodes;
        nodes = (struct host_names){0};
        return 0;
}

static int note_holder(
        const struct host *host, struct holders *holders, const char *pid, const char *node)
{
        _cleanup_free_ char *command = NULL;
        struct holder *list, *holder;
        char path[64];

        for (size_t i = 0; i < holders->n; i++)
                if (holders->list[i].pid == atoi(pid) && strcmp(holders->list[i].node, node) == 0)
                        return 0;
        list = realloc(holders->list, (holders->n + 1) * sizeof(*list));
        if (!list)
                return -ENOMEM;
        holders->list = list;
        holder = list + holders->n++;
        *holder = (struct holder){.pid = atoi(pid)};
        snprintf(holder->node, sizeof(holder->node), "%s", node);
        snprintf(path, sizeof(path), "%s/comm", pid);
        if (host_read_proc(host, path, &command) == 0)
                snprintf(holder->command, sizeof(holder->command), "%.*s",
                        (int)strcspn(command, "\n"), command);
        return 0;
}

/* Whether a descriptor of VFIO's is of that device: 1, 0, -ENODATA where the kernel does not say.
 */
static int is_vfio_device(
        const struct host *host, const char *pid, const char *fd, const char *device)
{
        static const char label[] = "vfio-device-syspath:";
        _cleanup_free_ char *text = NULL;
        char path[64], *line, *name;

        snprintf(path, sizeof(path), "%s/fdinfo/%s", pid, fd);
        if (host_read_proc(host, path, &text) < 0)
                return -ENODATA;
        line = strstr(text, label);
        if (!line)
                return -ENODATA;
        line[strcspn(line, "\n")] = '\0';
        name = strrchr(line, '/');
        return name && strcmp(name + 1, device) == 0;
}

/* vfio: the device whose descriptors are looked for as well; NULL: none. */
static int look_at(const struct host *host, const char *pid, const struct host_names *nodes,
        const char *vfio, struct holders *holders)
{
        _cleanup_names_ struct host_names fds = {0};
        char path[64];
        int r;

        snprintf(path, sizeof(path), "%s/fd", pid);
        r = host_list_proc(host, &fds, path);
        if (r == -EACCES || r == -EPERM) {
                holders->partial = true;
                return 0;
        }
        for (size_t i = 0; i < fds.n; i++) {
                char link[PATH_MAX], target[PATH_MAX];
                ssize_t n;

                snprintf(link, sizeof(link), "%s/%s/fd/%s", host->proc, pid, fds.name[i]);
                n = readlink(link, target, sizeof(target) - 1);
                if (n < 0)
                        continue;
                target[n] = '\0';
                if (vfio && strcmp(target, "anon_inode:[vfio-device]") == 0) {
                        int known = is_vfio_device(host, pid, fds.name[i], vfio);

                        r = known == 0 ? 0
                                       : note_holder(host, holders, pid,
                                                 known > 0 ? VFIO_ITS : VFIO_SOME);
                        if (r < 0)
                                return r;
                }
                for (size_t j = 0; j < nodes->n; j++)
                        if (strcmp(target, nodes->name[j]) == 0) {
                                r = note_holder(host, holders, pid, target);
                                if (r < 0)
                                        return r;
                        }
        }
        return 0;
}

static int compare_holders(const void *a, const void *b)
{
        const struct holder *x = a, *y = b;

        if (x->pid != y->pid)
                return x->pid < y->pid ? -1 : 1;
        return strcmp(x->node, y->node);
}

static int find_holders(const struct host *host, const struct host_names *nodes, const char *vfio,
        struct holders *ret)
{
        _cleanup_names_ struct host_names processes = {0};
        _cleanup_holders_ struct holders holders = {0};
        int r = 0;

        if (nodes->n > 0)
                r = host_list_proc(host, &processes, "");
        for (size_t i = 0; r == 0 && i < processes.n; i++)
                if (isdigit((unsigned char)processes.name[i][0]))
                        r = look_at(host, processes.name[i], nodes, vfio, &holders);
        if (r < 0)
                return r;
        if (holders.n > 0)
                qsort(holders.list, holders.n, sizeof(*holders.list), compare_holders);
        *ret = holders;
        holders = (struct holders){0};
        return 0;
}

int holders_of(const struct host *host, const struct host_names *nodes, struct holders *ret)
{
        return find_holders(host, nodes, NULL, ret);
}

/* Those of whom it is not known which device they have are none of ours, unless this one is busy
 * and nobody else has it. */
static void sort_out_vfio(const struct host *host, const struct pci_function *function,
        bool thorough, struct holders *holders)
{
        size_t n = 0, sure = 0;
        bool busy = false;

        for (size_t i = 0; i < holders->n; i++)
                sure += strcmp(holders->list[i].node, VFIO_SOME) != 0;
        if (sure == 0 && (thorough || holders->n > 0))
                busy = host->ops->ask_vfio(host, function->group, NULL, host->msec) == -EBUSY;
        for (size_t i = 0; i < holders->n; i++)
                if (busy || strcmp(holders->list[i].node, VFIO_SOME) != 0)
                        holders->list[n++] = holders->list[i];
        holders->n = n;
        if (busy && n == 0)
                snprintf(holders->unseen, sizeof(holders->unseen), "/dev/vfio/%d", function->group);
}

int holders_find(const struct host *host, const struct pci_function *function, const char *uuid,
        bool thorough, struct holders *ret)
{
        bool vfio = function->group >= 0 && strstr(function->driver, "vfio");
        _cleanup_names_ struct host_names nodes = {0};
        _cleanup_holders_ struct holders holders = {0};
        int r;

        r = holders_nodes(host, function, &nodes);
        if (r == 0)
                r = find_holders(host, &nodes, vfio ? uuid ?: function->address : NULL, &holders);
        if (r < 0)
                return r;
        if (vfio)
                sort_out_vfio(host, function, thorough, &holders);
        *ret = holders;
        holders = (struct holders){0};
        return 0;
}

void holders_tell(const struct holders *holders, const char *what, enum obstacle_code code,
        struct obstacles *obstacles)
{
        for (size_t i = 0; i < holders->n; i++)
                obstacles_add(obstacles, code, "%s is in use: process %d (%s) has %s open", what,
                        (int)holders->list[i].pid, holders->list[i].command, holders->list[i].node);
        if (*holders->unseen)
                obstacles_add(obstacles, code,
                        "%s is in use: somebody who cannot be seen from here has %s open", what,
                        holders->unseen);
}
