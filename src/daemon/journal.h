/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal: what a daemon must know to go on where one before it was killed. A file of lines,
 * each
 *
 *      crc32 of the text in 8 hexadecimal digits, a space, a JSON object, a newline
 *
 * Lines are appended; a torn or damaged line ends what is believed. It lies in the runtime
 * directory, which does not outlive the machine's run, so nothing is synced. Now and then, and
 * after a failure, it is written anew from the daemon's state and renamed into place.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JOURNAL_FILE     "journal"
#define JOURNAL_LINE_MAX (1u << 20)
#define JOURNAL_SIZE_MAX (256u << 20)

/* Called for each whole record; the reference is the caller's. Negative: stop with that. */
typedef int (*journal_record)(json_t *record, void *userdata);

/* Reads the records of a journal in memory. Returns how many there were, or what the callback said.
 * ret_good: bytes that were whole and believed; less than size: the rest is torn or damaged. */
int journal_parse(
        const char *data, size_t size, journal_record callback, void *userdata, size_t *ret_good);

struct journal {
        char *path;
        int fd;
        size_t size;      /* of the file, whole records only */
        size_t compacted; /* size after the last rewrite */
        size_t limit;     /* bytes that may be written, 0: no limit but the file system's */
        bool failed;      /* the file lacks something: rewrite before anything new is promised */
        int failure;      /* negative errno of it */
};

#define JOURNAL_NONE ((struct journal){.fd = -1})

void journal_init(struct journal *journal, const char *directory, size_t limit, int *ret);
void journal_done(struct journal *journal);

/* Reads the file into callback. 0 if there is none. ret_damaged: bytes at its end not believed. */
int journal_read(
        struct journal *journal, journal_record callback, void *userdata, size_t *ret_damaged);

/* Appends a record; taken over. Negative errno: it is not in the file, which is as before, and
 * failed is set. */
int journal_append(struct journal *journal, json_t *record);

/* Replaces the file by these records (an array; taken over). On success failed is cleared. */
int journal_rewrite(struct journal *journal, json_t *records);

/* Whether enough of the file is of the past to rewrite it. */
bool journal_wants_rewrite(const struct journal *journal);
