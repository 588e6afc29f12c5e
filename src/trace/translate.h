/* SPDX-License-Identifier: Apache-2.0 */
/* Handles and addresses of the traced process, and those of the one that makes its calls again. Not
 * for several threads at once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct translation;

struct translation *translation_new(void);
void translation_free(struct translation *t);

/* A handle of that kind (enum call_space), and what it is here. A value that comes up again is
 * another object by then. -ENOMEM. */
int translation_bind(struct translation *t, unsigned space, uint64_t theirs, uint64_t ours);
bool translation_find(
        const struct translation *t, unsigned space, uint64_t theirs, uint64_t *ret_ours);

/* A range of addresses, host or device. In place of what it overlaps. -ENOMEM. */
int translation_bind_range(
        struct translation *t, unsigned space, uint64_t theirs, uint64_t ours, uint64_t size);
/* What lies at an address of theirs, if it stands in a range; ret_left: how much of the range is
 * from there on. */
bool translation_find_range(const struct translation *t, unsigned space, uint64_t theirs,
        uint64_t *ret_ours, uint64_t *ret_left);
/* How far it is from an address of theirs to where something else begins: the end of the range in
 * which it stands, or else the beginning of the next one. UINT64_MAX: nothing follows. */
uint64_t translation_room(const struct translation *t, unsigned space, uint64_t theirs);
