/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The claims of all daemons of the machine on one GPU: a file that they share, locked while it is
 * read or changed, a line per daemon:
 *
 *      cleave-claims 1
 *      UID TAG PID START-TIME CLAIMED USED
 *
 * TAG (hexadecimal) tells the daemons of one user apart. PID with START-TIME is a process that
 * lives as long as the claim holds: a line whose process has gone is dropped. CLAIMED are the bytes
 * kept for that daemon's tenants, USED what these use by the driver's count.
 *
 * The file can be written by everybody, as the daemons of all users share it. It is for honest
 * neighbours: what it says is bounded, and never more than a reason to grant less.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CLAIMS_MAX      256u
#define CLAIMS_FILE_MAX (64u << 10)

struct claim {
        uid_t uid;
        uint64_t tag;
        pid_t pid;
        uint64_t start_time;
        uint64_t claimed; /* bytes */
        uint64_t used;
};

struct claims {
        int fd;     /* locked; -EBADF: none */
        char *text; /* what the file said; NULL: written since */
        size_t count;
        struct claim claim[CLAIMS_MAX];
};

/* Reads lines, leaving out what is not one and whose process alive() denies. Returns how many. */
size_t claims_parse(const char *text, struct claim list[static CLAIMS_MAX],
        bool (*alive)(const struct claim *claim));
/* The text of a list, in new memory, or NULL. */
char *claims_format(const struct claim *list, size_t count);

/* The directory where the files lie: /run/lock, or /tmp where that cannot be written. */
const char *claims_directory(void);

/*
 * Opens and locks the file of a GPU in that directory, and reads it.
 * -EBUSY: somebody held the lock for too long. -ELOOP, -EPERM: it is not a plain file that is safe
 * to open. Nothing needs to be undone on failure.
 */
int claims_open(const char *directory, const char *uuid, struct claims *ret);

/* Sums of the claims of others than (uid, tag). */
void claims_others(const struct claims *claims, uid_t uid, uint64_t tag, uint64_t *ret_claimed,
        uint64_t *ret_used);

/* Sets one's own claim (claimed 0: none) and writes the file. */
int claims_set(struct claims *claims, const struct claim *own);

/* Unlocks. */
void claims_close(struct claims *claims);
