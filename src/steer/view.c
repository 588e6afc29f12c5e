/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "steer/steer.h"

int steer_view_new(int *ret_fd)
{
        _cleanup_close_ int fd = memfd_create("cleave-steer-view", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        struct steer_view *view;

        if (fd < 0)
                return -errno;
        if (ftruncate(fd, sizeof(*view)) < 0 ||
                fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                return -errno;
        view = mmap(NULL, sizeof(*view), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (view == MAP_FAILED)
                return -errno;
        view->magic = STEER_VIEW_MAGIC;
        view->version = STEER_VIEW_VERSION;
        view->size = sizeof(*view);
        steer_view_unmap(view);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int steer_view_map(int fd, struct steer_view **ret)
{
        struct steer_view *view;
        struct stat st;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_size != (off_t)sizeof(*view))
                return -EBADMSG;
        view = mmap(NULL, sizeof(*view), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (view == MAP_FAILED)
                return -errno;
        if (view->magic != STEER_VIEW_MAGIC || view->version != STEER_VIEW_VERSION ||
                view->size != sizeof(*view)) {
                steer_view_unmap(view);
                return -EBADMSG;
        }
        *ret = view;
        return 0;
}

void steer_view_unmap(struct steer_view *view)
{
        if (view)
                munmap(view, sizeof(*view));
}

int steer_view_read(
        const struct steer_view *view, unsigned device, uint32_t pid, struct switches_sight *ret)
{
        const struct steer_view_device *seen = &view->device[device];
        uint32_t high = MIN_OF(atomic_load(&seen->high), STEER_VIEW_ENTRIES);

        for (uint32_t i = 0; pid && i < high; i++) {
                const struct steer_seen *entry = &seen->seen[i];
                struct switches_sight copy;
                uint32_t before, again;

                if (entry->pid != pid)
                        continue;
                /* the writer needs nanoseconds, unless it is stopped */
                for (unsigned tries = 0; tries < 100; tries++) {
                        before = atomic_load(&entry->sequence);
                        copy = entry->sight;
                        again = entry->pid;
                        atomic_thread_fence(memory_order_acquire);
                        if (before % 2 != 0 || atomic_load(&entry->sequence) != before)
                                continue;
                        if (again != pid)
                                return -ENOENT;
                        *ret = copy;
                        return 0;
                }
                return -EAGAIN;
        }
        return -ENOENT;
}
