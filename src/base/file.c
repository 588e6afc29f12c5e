/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"

int read_file_at(int at, const char *path, size_t max, char **ret, size_t *ret_size)
{
        _cleanup_free_ char *data = NULL;
        _cleanup_close_ int fd = -EBADF;
        size_t size = 0, room = 0;

        fd = openat(at, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
                return -errno;
        for (;;) {
                ssize_t n;

                if (size + 1 >= room) {
                        char *larger;

                        room = room ? room * 2 : 4096;
                        larger = realloc(data, room);
                        if (!larger)
                                return -ENOMEM;
                        data = larger;
                }
                n = read(fd, data + size, room - size - 1);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                size += (size_t)n;
                if (size > max)
                        return -EFBIG;
        }
        data[size] = '\0';
        if (ret_size)
                *ret_size = size;
        *ret = TAKE_PTR(data);
        return 0;
}

int read_file(const char *path, size_t max, char **ret, size_t *ret_size)
{
        return read_file_at(AT_FDCWD, path, max, ret, ret_size);
}

int write_all(int fd, const void *data, size_t size)
{
        const char *p = data;

        while (size > 0) {
                ssize_t n = write(fd, p, size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        return -EIO;
                p += n;
                size -= (size_t)n;
        }
        return 0;
}

int write_file_atomic(const char *path, const void *data, size_t size, mode_t mode)
{
        _cleanup_free_ char *temporary = NULL;
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (asprintf(&temporary, "%s.XXXXXX", path) < 0) {
                temporary = NULL;
                return -ENOMEM;
        }
        fd = mkostemp(temporary, O_CLOEXEC);
        if (fd < 0)
                return -errno;
        r = write_all(fd, data, size);
        if (r == 0 && fchmod(fd, mode) < 0)
                r = -errno;
        if (r == 0 && rename(temporary, path) < 0)
                r = -errno;
        if (r < 0)
                unlink(temporary);
        return r;
}

int make_directory(const char *path, mode_t mode)
{
        _cleanup_close_ int fd = -EBADF;
        bool made;
        struct stat st;

        made = mkdir(path, mode & 0700) == 0;
        if (!made && errno != EEXIST)
                return -errno;
        fd = open(path, O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_RDONLY);
        if (fd < 0)
                return errno == ELOOP ? -ENOTDIR : -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022))
                return -EPERM;
        if (made && fchmod(fd, mode) < 0)
                return -errno;
        return 0;
}

char *path_join(const char *directory, const char *name)
{
        char *path;
        size_t length = strlen(directory);

        while (length > 1 && directory[length - 1] == '/')
                length--;
        if (asprintf(&path, "%.*s/%s", (int)length, directory, name) < 0)
                return NULL;
        return path;
}

int own_executable(char **ret)
{
        static const char deleted[] = " (deleted)";
        char path[PATH_MAX + 1], *copy;
        ssize_t n;

        n = readlink("/proc/self/exe", path, sizeof(path) - 1);
        if (n < 0)
                return -errno;
        path[n] = '\0';
        if ((size_t)n > strlen(deleted) && strcmp(path + n - strlen(deleted), deleted) == 0)
                path[(size_t)n - strlen(deleted)] = '\0';
        copy = strdup(path);
        if (!copy)
                return -ENOMEM;
        *ret = copy;
        return 0;
}

int set_nonblocking(int fd, bool yes)
{
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0)
                return -errno;
        flags = yes ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
        return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}
