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

static int look_at(const struct host *host, const char *pid, const struct host_names *nodes,
        struct holders *holders)
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

int holders_of(const struct host *host, const struct host_names *nodes, struct holders *ret)
{
        _cleanup_names_ struct host_names processes = {0};
        _cleanup_holders_ struct holders holders = {0};
        int r = 0;

        if (nodes->n > 0)
                r = host_list_proc(host, &processes, "");
        for (size_t i = 0; r == 0 && i < processes.n; i++)
                if (isdigit((unsigned char)processes.name[i][0]))
                        r = look_at(host, processes.name[i], nodes, &holders);
        if (r < 0)
                return r;
        if (holders.n > 0)
                qsort(holders.list, holders.n, sizeof(*holders.list), compare_holders);
        *ret = holders;
        holders = (struct holders){0};
        return 0;
}

int holders_find(const struct host *host, const struct pci_function *function, struct holders *ret)
{
        _cleanup_names_ struct host_names nodes = {0};
        int r;

        r = holders_nodes(host, function, &nodes);
        return r < 0 ? r : holders_of(host, &nodes, ret);
}
