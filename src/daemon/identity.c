/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/format.h"
#include "daemon/identity.h"

#define CGROUP2_MAGIC 0x63677270 /* CGROUP2_SUPER_MAGIC of linux/magic.h */

const char *cgroup_mount(void)
{
        /* the second is where systemd's hybrid layout has it */
        static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
        static const char *found; /* hierarchies stay where they are once they are mounted */
        struct statfs fs;

        for (size_t i = 0; i < ARRAY_SIZE(mounts) && !found; i++)
                if (statfs(mounts[i], &fs) == 0 && fs.f_type == CGROUP2_MAGIC)
                        found = mounts[i];
        return found;
}

char *cgroup_directory(const char *path)
{
        const char *mount = cgroup_mount();
        char *directory;

        if (!mount || asprintf(&directory, "%s%s", mount, path) < 0)
                return NULL;
        return directory;
}

/* systemd marks the subtrees that it leaves to others. */
static bool delegated(const char *directory)
{
        char value[8];

        return getxattr(directory, "user.delegate", value, sizeof(value)) > 0 ||
               getxattr(directory, "trusted.delegate", value, sizeof(value)) > 0;
}

static int may_divide(const char *directory, uid_t uid, const char **ret_why)
{
        struct stat st;

        if (stat(directory, &st) < 0) {
                *ret_why = "the caller's cgroup cannot be seen";
                return -ENOTSUP;
        }
        if (uid != 0) {
                if (st.st_uid == uid)
                        return 0;
                *ret_why = "the caller's cgroup is not delegated to its user";
                return -ENOTSUP;
        }
        if (access("/run/systemd/system", F_OK) < 0 || delegated(directory))
                return 0;
        *ret_why = "the caller's cgroup is systemd's own (a scope or service with Delegate=yes "
                   "would not be)";
        return -ENOTSUP;
}

int cgroup_make(pid_t pid, uid_t uid, uint64_t tenant, char **ret, const char **ret_why)
{
        _cleanup_free_ char *parent = NULL, *path = NULL, *parent_directory = NULL;
        _cleanup_free_ char *directory = NULL, *procs = NULL;
        char id[FORMAT_ID_MAX];
        int r;

        if (!cgroup_mount()) {
                *ret_why = "no cgroup version 2 hierarchy is mounted";
                return -ENOTSUP;
        }
        r = process_cgroup(pid, &parent);
        if (r < 0) {
                *ret_why = "the caller's cgroup is not known";
                return -ENOTSUP;
        }
        /* one that lies outside of our cgroup namespace shows as "/.." */
        if (strncmp(parent, "/..", 3) == 0) {
                *ret_why = "the caller's cgroup lies outside of ours";
                return -ENOTSUP;
        }
        parent_directory = cgroup_directory(parent);
        if (!parent_directory)
                return -ENOMEM;
        r = may_divide(parent_directory, uid, ret_why);
        if (r < 0)
                return r;
        if (asprintf(&path, "%s/cleave-%s", strcmp(parent, "/") == 0 ? "" : parent,
                    format_id(id, tenant)) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        directory = cgroup_directory(path);
        procs = directory ? path_join(directory, "cgroup.procs") : NULL;
        if (!procs)
                return -ENOMEM;
        if (mkdir(directory, 0755) < 0 && errno != EEXIST) {
                *ret_why = "no cgroup can be made below the caller's";
                return -ENOTSUP;
        }
        if (uid != geteuid() &&
                (chown(directory, uid, (gid_t)-1) < 0 || chown(procs, uid, (gid_t)-1) < 0)) {
                rmdir(directory);
                *ret_why = "the tenant's cgroup cannot be given to its user";
                return -ENOTSUP;
        }
        *ret = TAKE_PTR(path);
        return 0;
}

int cgroup_move(const char *path, pid_t pid)
{
        _cleanup_free_ char *directory = cgroup_directory(path), *procs = NULL;
        _cleanup_close_ int fd = -EBADF;
        char text[16];

        procs = directory ? path_join(directory, "cgroup.procs") : NULL;
        if (!procs)
                return -ENOMEM;
        fd = open(procs, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        return write_all(fd, text, (size_t)snprintf(text, sizeof(text), "%d\n", (int)pid));
}

void cgroup_remove(const char *path)
{
        _cleanup_free_ char *directory = cgroup_directory(path);

        if (directory)
                rmdir(directory);
}

bool cgroup_contains(const char *path, const char *of_process)
{
        size_t length = strlen(path);

        return strncmp(path, of_process, length) == 0 &&
               (of_process[length] == '\0' || of_process[length] == '/');
}

int ancestry(pid_t pid, pid_t last, struct ancestor ret[static ANCESTRY_MAX], unsigned *ret_count)
{
        uint64_t last_start = UINT64_MAX;
        unsigned count = 0;

        while (pid > 0 && count < ANCESTRY_MAX) {
                struct process_status status;
                int r;

                r = process_status(pid, &status);
                if (r < 0 && count == 0)
                        return r;
                if (r < 0 || status.start_time > last_start)
                        break;
                ret[count++] = (struct ancestor){.pid = pid, .start_time = status.start_time};
                last_start = status.start_time;
                pid = pid == last ? 0 : status.parent;
        }
        *ret_count = count;
        return 0;
}
