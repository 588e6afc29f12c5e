/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/format.h"
#include "daemon/pages.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

void pages_done(struct pages *pages)
{
        if (pages->grant)
                munmap(pages->grant, CLEAVE_GRANT_BYTES);
        if (pages->usage)
                munmap(pages->usage, CLEAVE_USAGE_BYTES);
        close_safe(pages->grant_fd);
        close_safe(pages->grant_tenant_fd);
        close_safe(pages->usage_fd);
        *pages = PAGES_NONE;
}

static int new_memfd(const char *kind, uint64_t tenant, size_t size, mode_t mode, int *ret)
{
        _cleanup_close_ int fd = -EBADF;
        char id[FORMAT_ID_MAX], name[64];

        snprintf(name, sizeof(name), "cleave-%s-%s", kind, format_id(id, tenant));
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0 || ftruncate(fd, (off_t)size) < 0 || fchmod(fd, mode) < 0 ||
                fcntl(fd, F_ADD_SEALS, SEALS) < 0)
                return -errno;
        *ret = TAKE_FD(fd);
        return 0;
}

static int map(struct pages *pages)
{
        char path[64];
        void *p;

        p = mmap(NULL, CLEAVE_GRANT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, pages->grant_fd, 0);
        if (p == MAP_FAILED)
                return -errno;
        pages->grant = p;
        p = mmap(NULL, CLEAVE_USAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, pages->usage_fd, 0);
        if (p == MAP_FAILED)
                return -errno;
        pages->usage = p;
        snprintf(path, sizeof(path), "/proc/self/fd/%d", pages->grant_fd);
        pages->grant_tenant_fd = open(path, O_RDONLY | O_CLOEXEC);
        return pages->grant_tenant_fd < 0 ? -errno : 0;
}

static void write_usage_head(struct pages *pages, uint64_t tenant)
{
        pages->usage->magic = CLEAVE_USAGE_MAGIC;
        pages->usage->version = CLEAVE_PAGE_VERSION;
        pages->usage->size = CLEAVE_USAGE_BYTES;
        pages->usage->slots = CLEAVE_MAX_SLOTS;
        pages->usage->slot_bytes = CLEAVE_SLOT_BYTES;
        pages->usage->tenant = tenant;
}

int pages_new(uint64_t tenant, struct pages *ret)
{
        _cleanup_(pages_done) struct pages pages = PAGES_NONE;
        int r;

        /* nobody but its owner, and that only after a chmod, opens the grant for writing */
        r = new_memfd("grant", tenant, CLEAVE_GRANT_BYTES, 0444, &pages.grant_fd);
        if (r < 0)
                return r;
        r = new_memfd("usage", tenant, CLEAVE_USAGE_BYTES, 0600, &pages.usage_fd);
        if (r < 0)
                return r;
        r = map(&pages);
        if (r < 0)
                return r;
        pages.grant->magic = CLEAVE_GRANT_MAGIC;
        pages.grant->version = CLEAVE_PAGE_VERSION;
        pages.grant->size = sizeof(*pages.grant);
        pages.grant->tenant = tenant;
        write_usage_head(&pages, tenant);
        *ret = pages;
        pages = PAGES_NONE;
        return 0;
}

static int check_memfd(int fd, size_t size)
{
        int seals = fcntl(fd, F_GET_SEALS);
        struct stat st;

        if (seals < 0 || (seals & SEALS) != SEALS)
                return -EBADMSG;
        if (fstat(fd, &st) < 0)
                return -errno;
        return (size_t)st.st_size == size ? 0 : -EMSGSIZE;
}

int pages_adopt(uint64_t tenant, int grant_fd, int usage_fd, struct pages *ret)
{
        _cleanup_(pages_done) struct pages pages = PAGES_NONE;
        int r;

        r = check_memfd(grant_fd, CLEAVE_GRANT_BYTES);
        if (r < 0)
                return r;
        r = check_memfd(usage_fd, CLEAVE_USAGE_BYTES);
        if (r < 0)
                return r;
        pages.grant_fd = grant_fd;
        pages.usage_fd = usage_fd;
        r = map(&pages);
        if (r == 0)
                r = cleave_grant_page_check(pages.grant, CLEAVE_GRANT_BYTES);
        /* the head of the usage page is the tenant's to spoil: it is put right, not believed */
        if (r == 0 && pages.grant->tenant != tenant)
                r = -EBADMSG;
        if (r < 0) {
                pages.grant_fd = pages.usage_fd = -EBADF;
                return r;
        }
        write_usage_head(&pages, tenant);
        *ret = pages;
        pages = PAGES_NONE;
        return 0;
}

int pages_clear_usage(struct pages *pages, uint64_t tenant)
{
        if (fallocate(pages->usage_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    CLEAVE_USAGE_BYTES) < 0)
                return -errno;
        write_usage_head(pages, tenant);
        return 0;
}

void pages_open_slot(struct pages *pages, uint32_t index, uint32_t pid, uint64_t start_time)
{
        struct cleave_slot *slot = cleave_usage_slot(pages->usage, index);

        /* seq and applied go on: the name of the slot's last change may still stand in a counter */
        atomic_store(&slot->op, 0);
        atomic_store(&slot->op_held, 0);
        atomic_store(&slot->op_target, 0);
        for (uint32_t i = 0; i < CLEAVE_MAX_DEVICES; i++) {
                atomic_store(&slot->held[i], 0);
                atomic_store(&slot->peak[i], 0);
        }
        atomic_store(&slot->charges, 0);
        atomic_store(&slot->keeps_turns, 0);
        atomic_store(&slot->refusals, 0);
        atomic_store(&slot->unknown_entries, 0);
        for (unsigned i = 0; i < CLEAVE_MAX_UNKNOWN; i++)
                atomic_store(&slot->unknown[i], 0);
        atomic_store(&slot->groups, 0);
        atomic_store(&slot->lost_groups, 0);
        memset(slot->group, 0, sizeof(slot->group));
        slot->pid = pid;
        slot->start_time = start_time;
        if (atomic_load(&pages->usage->slots_used) <= index)
                atomic_store(&pages->usage->slots_used, index + 1);
        atomic_store(&slot->state, CLEAVE_SLOT_LIVE);
}

void pages_set_slot_state(struct pages *pages, uint32_t index, enum cleave_slot_state state)
{
        atomic_store(&cleave_usage_slot(pages->usage, index)->state, state);
}

uint64_t pages_used(const struct pages *pages, uint32_t device)
{
        return cleave_used(pages->usage, device) << CLEAVE_UNIT_SHIFT;
}

uint64_t pages_held(const struct pages *pages, uint32_t index, uint32_t device)
{
        struct cleave_slot *slot = cleave_usage_slot(pages->usage, index);
        uint64_t units = atomic_load_explicit(&slot->held[device], memory_order_acquire);

        return MIN_OF(units, (uint64_t)CLEAVE_COUNTER_MAX) << CLEAVE_UNIT_SHIFT;
}
