/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "proto/environment.h"

int trace_library(char **ret, struct cleave_error *error)
{
        static const char *const places[] = {
                "src/trace/libcuda.so.1", "../lib/cleave/trace/libcuda.so.1"};
        _cleanup_free_ char *self = NULL;
        char *slash;
        int r = own_executable(&self);

        slash = r == 0 ? strrchr(self, '/') : NULL;
        if (!slash)
                return error_set_errno(error, r ?: -ENOENT, "cannot find our own place");
        *slash = 0;
        for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
                _cleanup_free_ char *path = path_join(self, places[i]);

                if (!path)
                        return error_set_errno(error, ENOMEM, "cannot find the tracing library");
                if (access(path, R_OK) < 0)
                        continue;
                /* ld.so(8): the list is separated by either, and neither can be escaped */
                if (strpbrk(path, ": "))
                        return error_set(error, CLEAVE_REASON_GUARD_MISSING,
                                "the tracing library's path has a blank or colon, which the loader "
                                "cannot take: %s",
                                path);
                *ret = TAKE_PTR(path);
                return 0;
        }
        return error_set(error, CLEAVE_REASON_GUARD_MISSING,
                "the tracing library, libcuda.so.1, is not beside cleave in %s", self);
}

/* The first libcuda.so.1 of the list that is not ours; new memory or NULL. */
static char *guard_in(const char *list, const char *ours)
{
        while (list && *list) {
                size_t length = strcspn(list, ": ");
                static const char name[] = "/libcuda.so.1";

                if (length > strlen(name) &&
                        memcmp(list + length - strlen(name), name, strlen(name)) == 0 &&
                        (length != strlen(ours) || memcmp(list, ours, length) != 0))
                        return strndup(list, length);
                list += length + (list[length] != 0);
        }
        return NULL;
}

int trace_preload(struct cleave_error *error)
{
        _cleanup_free_ char *library = NULL, *guard = NULL, *both = NULL;
        const char *old = getenv("LD_PRELOAD");
        int r = trace_library(&library, error);

        if (r < 0)
                return r;
        guard = guard_in(old, library);
        if (asprintf(&both, "%s%s%s", library, old && *old ? ":" : "", old ?: "") < 0)
                both = NULL;
        if (!both || setenv("LD_PRELOAD", both, 1) < 0 ||
                (guard && setenv(CLEAVE_ENV_TRACE_BEHIND, guard, 1) < 0))
                return error_set_errno(error, ENOMEM, "cannot set the command's environment");
        return 0;
}
