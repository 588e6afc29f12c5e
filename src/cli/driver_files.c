/* SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <fcntl.h>
#include <glob.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "cli/driver_files.h"

/* Where the dynamic linker of one or another distribution looks without being told. */
#if defined(__x86_64__)
#define MULTIARCH "/usr/lib/x86_64-linux-gnu"
#else
#define MULTIARCH "/usr/lib/aarch64-linux-gnu"
#endif
static const char *const library_dirs[] = {MULTIARCH, "/usr/lib64"};

char *driver_file_locate(const char *soname)
{
        void *library = dlopen(soname, RTLD_LAZY | RTLD_LOCAL);
        struct link_map *map = NULL;

        if (!library || dlinfo(library, RTLD_DI_LINKMAP, &map) < 0 || !map)
                return NULL;
        return realpath(map->l_name, NULL);
}

void driver_files_mount(json_t *mounts, const char *host, const char *inside, bool writable)
{
        json_array_append_new(mounts,
                json_pack("{s:s, s:s, s:[s, s, s, s]}", "hostPath", host, "containerPath", inside,
                        "options", writable ? "rw" : "ro", "nosuid", "nodev", "bind"));
}

void driver_files_library(json_t *mounts, const char *host, const char *name)
{
        for (size_t i = 0; i < ARRAY_SIZE(library_dirs); i++) {
                _cleanup_free_ char *inside = path_join(library_dirs[i], name);

                if (inside)
                        driver_files_mount(mounts, host, inside, false);
        }
}

/* Not a script: that would want an interpreter, which an image need not have. */
static bool is_program(const char *path)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        char magic[SELFMAG];

        return fd >= 0 && read(fd, magic, SELFMAG) == SELFMAG &&
               memcmp(magic, ELFMAG, SELFMAG) == 0;
}

void driver_files_companions(json_t *mounts)
{
        static const char *const companions[] = {"libnvidia-ptxjitcompiler.so.*",
                "libnvidia-nvvm*.so.*", "libnvidia-gpucomp.so.*", "libnvidia-cfg.so.*",
                "libnvidia-allocator.so.*", "libnvidia-opencl.so.*", "libnvidia-tileiras.so.*",
                "libcudadebugger.so.*", "libnvcuvid.so.*", "libnvidia-encode.so.*"};
        static const char *const tools[] = {DRIVER_FILES_SMI, "/usr/local/nvidia/bin/nvidia-smi"};
        _cleanup_free_ char *libcuda = driver_file_locate("libcuda.so.1");
        char *slash = libcuda ? strrchr(libcuda, '/') : NULL;
        glob_t found = {0};

        if (slash)
                *slash = 0;
        for (size_t i = 0; slash && i < ARRAY_SIZE(companions); i++) {
                _cleanup_free_ char *pattern = path_join(libcuda, companions[i]);

                if (pattern)
                        glob(pattern, i > 0 && found.gl_pathc ? GLOB_APPEND : 0, NULL, &found);
        }
        for (size_t i = 0; i < found.gl_pathc; i++)
                driver_files_library(
                        mounts, found.gl_pathv[i], strrchr(found.gl_pathv[i], '/') + 1);
        globfree(&found);
        for (size_t i = 0; i < ARRAY_SIZE(tools); i++)
                if (access(tools[i], X_OK) == 0 && is_program(tools[i])) {
                        driver_files_mount(mounts, tools[i], tools[0], false);
                        break;
                }
}

void driver_files_libraries(json_t *mounts)
{
        static const char *const names[] = {"libcuda.so", "libnvidia-ml.so"};

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                _cleanup_free_ char *soname = NULL, *real = NULL;

                if (asprintf(&soname, "%s.1", names[i]) < 0) {
                        soname = NULL;
                        continue;
                }
                real = driver_file_locate(soname);
                if (!real)
                        continue;
                driver_files_library(mounts, real, soname);
                driver_files_library(mounts, real, names[i]);
        }
}
