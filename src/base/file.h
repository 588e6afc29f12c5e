/* SPDX-License-Identifier: Apache-2.0 */
/* Small files, whole. All descriptors are close-on-exec. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Reads at most max bytes of the file into new memory, a NUL behind them. -EFBIG if there is more.
 * at: a directory's descriptor or AT_FDCWD. ret_size may be NULL. */
int read_file_at(int at, const char *path, size_t max, char **ret, size_t *ret_size);
int read_file(const char *path, size_t max, char **ret, size_t *ret_size);

/* Writes all of it, again after EINTR and short writes. */
int write_all(int fd, const void *data, size_t size);

/* The file holds either its old contents or all of the new, at any instant. */
int write_file_atomic(const char *path, const void *data, size_t size, mode_t mode);

/* Makes a directory with that mode whatever the umask, or finds it. An existing one must belong to
 * us or root and be writable by nobody else than its owner: -EPERM; -ENOTDIR for a link or anything
 * else. Parents are not made. */
int make_directory(const char *path, mode_t mode);

/* "directory/name" in new memory, or NULL. */
char *path_join(const char *directory, const char *name);

/* Absolute path of the program that runs, without " (deleted)". */
int own_executable(char **ret);

/* Sets or clears O_NONBLOCK. */
int set_nonblocking(int fd, bool yes);
