/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <ctype.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/process.h"

#define PROC_FILE_MAX (64u << 10)

static int read_proc(pid_t pid, const char *name, char **ret, size_t *ret_size)
{
        char path[64];
        int r;

        snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
        r = read_file(path, PROC_FILE_MAX, ret, ret_size);
        return r == -ENOENT ? -ESRCH : r;
}

int process_status(pid_t pid, struct process_status *ret)
{
        _cleanup_free_ char *text = NULL;
        struct process_status status;
        const char *p;
        int parent, r;

        r = read_proc(pid, "stat", &text, NULL);
        if (r < 0)
                return r;
        /* the name, in parentheses, may itself contain any of these characters */
        p = strrchr(text, ')');
        if (!p)
                return -EBADMSG;
        if (sscanf(p + 1,
                    " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d "
                    "%" SCNu64,
                    &status.state, &parent, &status.start_time) != 3)
                return -EBADMSG;
        status.parent = parent;
        *ret = status;
        return 0;
}

int process_start_time(pid_t pid, uint64_t *ret)
{
        struct process_status status;
        int r;

        r = process_status(pid, &status);
        if (r < 0)
                return r;
        *ret = status.start_time;
        return 0;
}

int process_cgroup(pid_t pid, char **ret)
{
        _cleanup_free_ char *text = NULL;
        char *rest, *line;
        int r;

        r = read_proc(pid, "cgroup", &text, NULL);
        if (r < 0)
                return r;
        for (rest = text; (line = strsep(&rest, "\n"));)
                if (strncmp(line, "0::", 3) == 0) {
                        char *path = strdup(line + 3);

                        if (!path)
                                return -ENOMEM;
                        *ret = path;
                        return 0;
                }
        return -ENODATA;
}

int process_uid(pid_t pid, uid_t *ret)
{
        _cleanup_free_ char *text = NULL;
        const char *line;
        unsigned effective;
        int r;

        r = read_proc(pid, "status", &text, NULL);
        if (r < 0)
                return r;
        line = strstr(text, "\nUid:");
        if (!line || sscanf(line, "\nUid: %*u %u", &effective) != 1)
                return -EBADMSG;
        *ret = effective;
        return 0;
}

int process_pid_namespace(pid_t pid, uint64_t *ret)
{
        char path[48];
        struct stat st;

        snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)pid);
        if (stat(path, &st) < 0)
                return errno == ENOENT ? -ESRCH : -errno;
        *ret = st.st_ino;
        return 0;
}

int process_namespace_owner(pid_t pid, uid_t *ret)
{
        _cleanup_close_ int fd = -EBADF;
        char path[48];

        snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? -ESRCH : -errno;
        return ioctl(fd, NS_GET_OWNER_UID, ret) < 0 ? -errno : 0;
}

int process_command(pid_t pid, char *buffer, size_t size)
{
        _cleanup_free_ char *text = NULL;
        size_t length;
        int r;

        r = read_proc(pid, "cmdline", &text, &length);
        if (r < 0 && r != -EFBIG)
                return r;
        if (r == 0 && length > 0) {
                size_t n = MIN_OF(length, size - 1);

                memcpy(buffer, text, n);
                while (n > 0 && buffer[n - 1] == '\0')
                        n--;
                buffer[n] = '\0';
                for (size_t i = 0; i < n; i++)
                        if (buffer[i] == '\0')
                                buffer[i] = ' ';
                        else if (!isprint((unsigned char)buffer[i]))
                                buffer[i] = '?';
                if (n > 0)
                        return 0;
        }
        free(TAKE_PTR(text));
        r = read_proc(pid, "comm", &text, &length);
        if (r < 0)
                return r;
        snprintf(buffer, size, "[%.*s]", (int)strcspn(text, "\n"), text);
        return 0;
}

int process_open(pid_t pid)
{
        int fd = (int)syscall(SYS_pidfd_open, pid, 0);

        return fd < 0 ? -errno : fd;
}

int process_signal(int pidfd, int signal)
{
        return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

int process_is(pid_t pid, uint64_t start_time)
{
        struct process_status status;
        int r;

        r = process_status(pid, &status);
        if (r < 0)
                return r;
        return status.start_time == start_time && !strchr("ZX", status.state) ? 0 : -ESRCH;
}
