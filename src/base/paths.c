/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/paths.h"
#include "proto/environment.h"

int socket_connect(const char *directory, const char *name, int type)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        _cleanup_close_ int at = -EBADF, fd = -EBADF;
        int n;

        fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", directory, name);
        if (n < 0 || (size_t)n >= sizeof(address.sun_path)) {
                at = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
                if (at < 0)
                        return -errno;
                snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", at,
                        name);
        }
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static bool system_daemon_there(void)
{
        _cleanup_close_ int fd = -EBADF;

        fd = socket_connect(CLEAVE_SYSTEM_RUNTIME_DIR, CLEAVE_CONTROL_SOCKET, SOCK_STREAM);
        /* one that refuses us is there all the same: the user is to be told, not passed by */
        return fd >= 0 || fd == -EACCES || fd == -EPERM || fd == -EAGAIN;
}

static int duplicate(const char *path, char **ret, struct cleave_error *error)
{
        char *copy = strdup(path);

        if (!copy)
                return error_set_errno(error, ENOMEM, "cannot find the runtime directory");
        *ret = copy;
        return 0;
}

static int from_environment(char **ret, struct cleave_error *error)
{
        const char *path = getenv(CLEAVE_ENV_RUNTIME);

        if (!path || !*path)
                return -ENOENT;
        if (path[0] != '/')
                return error_set(error, CLEAVE_REASON_USAGE, "%s is not an absolute path: %s",
                        CLEAVE_ENV_RUNTIME, path);
        return duplicate(path, ret, error);
}

int runtime_dir(char **ret, bool *ret_system, struct cleave_error *error)
{
        bool system = false;
        int r;

        r = from_environment(ret, error);
        if (r == -ENOENT) {
                system = system_daemon_there();
                r = system ? duplicate(CLEAVE_SYSTEM_RUNTIME_DIR, ret, error)
                           : user_runtime_dir(ret, error);
        } else if (r == 0) {
                system = strcmp(*ret, CLEAVE_SYSTEM_RUNTIME_DIR) == 0;
        }
        if (r == 0 && ret_system)
                *ret_system = system;
        return r;
}

int user_runtime_dir(char **ret, struct cleave_error *error)
{
        int r = from_environment(ret, error);

        return r != -ENOENT ? r : home_runtime_dir(ret, error);
}

int home_runtime_dir(char **ret, struct cleave_error *error)
{
        const char *xdg = getenv("XDG_RUNTIME_DIR");
        char path[64], *joined;
        struct stat st;

        /* the directory of another user survives su and sudo in the environment */
        if (xdg && xdg[0] == '/' && stat(xdg, &st) == 0 && S_ISDIR(st.st_mode) &&
                st.st_uid == geteuid()) {
                joined = path_join(xdg, "cleave");
                if (!joined)
                        return error_set_errno(error, ENOMEM, "cannot find the runtime directory");
                *ret = joined;
                return 0;
        }
        snprintf(path, sizeof(path), "/tmp/cleave-%u", (unsigned)geteuid());
        return duplicate(path, ret, error);
}

int runtime_dir_prepare(const char *path, unsigned mode, struct cleave_error *error)
{
        int r;

        r = make_directory(path, mode);
        if (r == -EPERM)
                return error_set(error, CLEAVE_REASON_NOT_PERMITTED,
                        "runtime directory %s belongs to another user or can be written by others",
                        path);
        if (r == -ENOTDIR)
                return error_set(error, CLEAVE_REASON_NOT_PERMITTED, "%s is not a directory", path);
        if (r < 0)
                return error_set_errno(error, r, "cannot make runtime directory %s", path);
        return 0;
}
