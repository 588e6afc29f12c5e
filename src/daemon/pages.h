/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tenant's two shared pages, as the daemon holds them: src/proto/page.h.
 *
 * The grant page is sealed against shrinking and growing, and tenants get a descriptor of it that
 * was opened read-only, which cannot be mapped writable. It is not sealed against future writes: a
 * restarted daemon, which gets the memfd from the descriptor store, could not change a grant then.
 */
#pragma once

#include <stdint.h>

#include "proto/counter.h"
#include "proto/page.h"

struct pages {
        int grant_fd;        /* read and write; never leaves the daemon and its store */
        int grant_tenant_fd; /* read-only */
        int usage_fd;
        struct cleave_grant_page *grant;
        struct cleave_usage_page *usage;
};

#define PAGES_NONE                                                                                 \
        ((struct pages){.grant_fd = -EBADF, .grant_tenant_fd = -EBADF, .usage_fd = -EBADF})

/* New pages: no device in the grant yet, all slots free. */
int pages_new(uint64_t tenant, struct pages *ret);

/* Pages from descriptors of an earlier daemon, taken over on success. They must be sealed memfds of
 * the right sizes with right heads: -EBADMSG, -EPROTO, -EMSGSIZE. */
int pages_adopt(uint64_t tenant, int grant_fd, int usage_fd, struct pages *ret);

void pages_done(struct pages *pages);

/* Makes the usage page as new, while no process uses it. */
int pages_clear_usage(struct pages *pages, uint64_t tenant);

/* Makes a slot ready for a process and live. What it counted before must have been released. */
void pages_open_slot(struct pages *pages, uint32_t index, uint32_t pid, uint64_t start_time);
void pages_set_slot_state(struct pages *pages, uint32_t index, enum cleave_slot_state state);

/* Bytes that the counter says are used on a device, and that one slot says it holds. A slot's word
 * is bounded by the counter's size. */
uint64_t pages_used(const struct pages *pages, uint32_t device);
uint64_t pages_held(const struct pages *pages, uint32_t index, uint32_t device);
