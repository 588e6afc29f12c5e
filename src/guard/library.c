/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "dl.h"
#include "guard.h"

struct attempt {
        const struct guard_library *library;
        void *handle;
};

static bool try_load(const char *path, void *arg)
{
        struct attempt *attempt = arg;
        enum guard_mark mark = guard_mark_of(path);
        void **handle = &attempt->handle;

        if (mark != GUARD_MARK_NONE &&
                !(mark == GUARD_MARK_GUARD && attempt->library->may_be_guard))
                return false;
        *handle = guard_dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!*handle) {
                guard_debug("%s: %s", path, guard_dlerror ? guard_dlerror() : "not loaded");
                return false;
        }
        guard_debug("the library behind is %s", path);
        return true;
}

static int load_locked(struct guard_library *library)
{
        const char *given = secure_getenv(library->environment);
        struct attempt attempt = {.library = library};
        int r;

        if (!guard_dlopen || !guard_dlsym) {
                guard_debug("this program has no dynamic linker interface (libdl)");
                return -ENOENT;
        }
        if (!(given && given[0] == '/' && try_load(given, &attempt)) &&
                !guard_search(library->soname, try_load, &attempt)) {
                guard_debug("no %s of a driver found", library->soname);
                return -ENOENT;
        }
        r = library->prepare ? library->prepare(attempt.handle) : 0;
        if (r == 0)
                atomic_store(&library->handle, attempt.handle);
        return r;
}

int guard_library_load(struct guard_library *library)
{
        int saved = errno, r;

        if (atomic_load_explicit(&library->handle, memory_order_acquire))
                return 0;
        guard_lock(&library->lock);
        if (!atomic_load(&library->handle) && library->error == 0)
                library->error = load_locked(library);
        r = library->error;
        guard_unlock(&library->lock);
        errno = saved;
        return r;
}

void *guard_library_find(struct guard_library *library, const char *symbol)
{
        void *address = NULL;
        int saved = errno;

        if (guard_library_load(library) == 0)
                address = guard_dlsym(atomic_load(&library->handle), symbol);
        errno = saved;
        return address;
}
