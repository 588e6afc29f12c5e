/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "daemon/journal.h"

#define HEAD 9 /* checksum and space */

/* CRC-32 of IEEE 802.3, reflected, as zlib has it */
static uint32_t crc32(const char *data, size_t size)
{
        uint32_t crc = UINT32_MAX;

        for (size_t i = 0; i < size; i++) {
                crc ^= (uint8_t)data[i];
                for (int k = 0; k < 8; k++)
                        crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
        }
        return ~crc;
}

static json_t *parse_line(const char *line, size_t length)
{
        char head[HEAD + 1];
        json_t *record;

        if (length < HEAD || length > JOURNAL_LINE_MAX)
                return NULL;
        /* to the letter: a checksum in capitals is damage too */
        snprintf(head, sizeof(head), "%08" PRIx32 " ", crc32(line + HEAD, length - HEAD));
        if (memcmp(head, line, HEAD) != 0)
                return NULL;
        record = json_loadb(line + HEAD, length - HEAD, 0, NULL);
        if (!json_is_object(record)) {
                json_decref(record);
                return NULL;
        }
        return record;
}

int journal_parse(
        const char *data, size_t size, journal_record callback, void *userdata, size_t *ret_good)
{
        size_t good = 0;
        int count = 0;

        while (good < size) {
                const char *end = memchr(data + good, '\n', size - good);
                json_t *record;
                int r;

                if (!end)
                        break;
                record = parse_line(data + good, (size_t)(end - data) - good);
                if (!record)
                        break;
                r = callback(record, userdata);
                json_decref(record);
                if (r < 0)
                        return r;
                good = (size_t)(end - data) + 1;
                count++;
        }
        *ret_good = good;
        return count;
}

void journal_init(struct journal *journal, const char *directory, size_t limit, int *ret)
{
        *journal = JOURNAL_NONE;
        journal->limit = limit;
        journal->path = path_join(directory, JOURNAL_FILE);
        *ret = journal->path ? 0 : -ENOMEM;
}

void journal_done(struct journal *journal)
{
        free(journal->path);
        close_safe(journal->fd);
        *journal = JOURNAL_NONE;
}

int journal_read(
        struct journal *journal, journal_record callback, void *userdata, size_t *ret_damaged)
{
        _cleanup_free_ char *data = NULL;
        size_t size, good;
        int r;

        r = read_file(journal->path, JOURNAL_SIZE_MAX, &data, &size);
        if (r == -ENOENT) {
                *ret_damaged = 0;
                return 0;
        }
        if (r < 0)
                return r;
        r = journal_parse(data, size, callback, userdata, &good);
        if (r < 0)
                return r;
        *ret_damaged = size - good;
        return r;
}

static int fail(struct journal *journal, int r)
{
        journal->failed = true;
        journal->failure = r;
        return r;
}

/* The line of a record in new memory. */
static int format_line(json_t *record, char **ret, size_t *ret_size)
{
        _cleanup_free_ char *text = NULL;
        char *line;
        size_t length;

        text = json_dumps(record, JSON_COMPACT | JSON_ENSURE_ASCII);
        if (!text)
                return -ENOMEM;
        length = strlen(text);
        if (length > JOURNAL_LINE_MAX - HEAD)
                return -EMSGSIZE;
        line = malloc(length + HEAD + 2);
        if (!line)
                return -ENOMEM;
        *ret_size = (size_t)sprintf(line, "%08" PRIx32 " %s\n", crc32(text, length), text);
        *ret = line;
        return 0;
}

int journal_append(struct journal *journal, json_t *record)
{
        _cleanup_free_ char *line = NULL;
        size_t size = 0;
        int r;

        if (!record)
                return fail(journal, -ENOMEM);
        r = format_line(record, &line, &size);
        json_decref(record);
        if (r < 0)
                return fail(journal, r);
        if (journal->failed)
                return journal->failure;
        if (journal->fd < 0)
                return fail(journal, -EBADF);
        if (journal->limit && journal->size + size > journal->limit)
                return fail(journal, -ENOSPC);
        r = write_all(journal->fd, line, size);
        if (r < 0) {
                /* no half line stays before what may be appended later */
                if (ftruncate(journal->fd, (off_t)journal->size) < 0)
                        r = -errno;
                return fail(journal, r);
        }
        journal->size += size;
        return 0;
}

int journal_rewrite(struct journal *journal, json_t *records)
{
        _cleanup_free_ char *temporary = NULL;
        _cleanup_close_ int fd = -EBADF;
        size_t index, total = 0;
        json_t *record;
        int r = 0;

        if (!records)
                return fail(journal, -ENOMEM);
        if (asprintf(&temporary, "%s.new", journal->path) < 0) {
                temporary = NULL;
                r = -ENOMEM;
                goto finish;
        }
        fd = open(
                temporary, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0) {
                r = -errno;
                goto finish;
        }
        json_array_foreach(records, index, record)
        {
                _cleanup_free_ char *line = NULL;
                size_t size = 0;

                r = format_line(record, &line, &size);
                if (r == 0 && journal->limit && total + size > journal->limit)
                        r = -ENOSPC;
                if (r == 0)
                        r = write_all(fd, line, size);
                if (r < 0)
                        goto finish;
                total += size;
        }
        if (rename(temporary, journal->path) < 0) {
                r = -errno;
                goto finish;
        }
        close_safe(journal->fd);
        journal->fd = TAKE_FD(fd);
        journal->size = journal->compacted = total;
        journal->failed = false;
        journal->failure = 0;

finish:
        json_decref(records);
        if (r < 0) {
                if (fd >= 0)
                        unlink(temporary);
                return fail(journal, r);
        }
        return 0;
}

bool journal_wants_rewrite(const struct journal *journal)
{
        return journal->failed ||
               (journal->size > 64u << 10 && journal->size / 4 > journal->compacted);
}
