/* SPDX-License-Identifier: Apache-2.0 */
/* What --memory and --memory-max say: an amount for every device meant, or one per device. */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "base/parse.h"

#define QUOTA_MAX_DEVICES 16 /* of one tenant */

struct quota_part {
        char *device; /* index, UUID or unique start of one; NULL: every device meant */
        struct memory_amount amount;
};

struct quota {
        struct quota_part part[QUOTA_MAX_DEVICES];
        size_t n;
};

/* Reads "8G", "50%" or "0=4G,1=8G". -EINVAL with USAGE, BAD_SIZE or TOO_MANY in error. */
int quota_parse(const char *text, struct quota *ret, struct cleave_error *error);
void quota_done(struct quota *quota);
#define _cleanup_quota_ _cleanup_(quota_done)

/* Whether sizes of devices have to be known, because an amount is a part of one. */
bool quota_has_part(const struct quota *quota);

/*
 * The `devices` of tenant.create and tenant.set.
 * memory: what --memory said. most: what --memory-max said; n = 0: nothing.
 * names: the devices meant, where memory names none. listed: the `devices` of device.list, NULL if
 * not asked for, which is only right if quota_has_part() is false of both.
 * ret: a new reference. -EINVAL, -ENOENT with a reason in error.
 */
int quota_devices(const struct quota *memory, const struct quota *most, const char *const *names,
        size_t n_names, const json_t *listed, json_t **ret, struct cleave_error *error);

/* The device with most memory to grant, or NULL if there is none: its uuid, owned by listed. */
const char *quota_roomiest(const json_t *listed);
