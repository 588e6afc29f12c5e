/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/process.h"
#include "daemon/claims.h"

static const char heading[] = "cleave-claims 1\n";

size_t claims_parse(const char *text, struct claim list[static CLAIMS_MAX],
        bool (*alive)(const struct claim *claim))
{
        size_t count = 0;

        if (strncmp(text, heading, strlen(heading)) != 0)
                return 0;
        text += strlen(heading);
        while (*text && count < CLAIMS_MAX) {
                const char *end = strchr(text, '\n');
                char line[160], extra;
                struct claim claim;
                unsigned uid;
                int pid;

                if (!end)
                        break;
                /* sscanf of a number that does not fit is undefined: bound the digits */
                if ((size_t)(end - text) < sizeof(line)) {
                        memcpy(line, text, (size_t)(end - text));
                        line[end - text] = '\0';
                        /* signs and prefixes, which sscanf takes, are nothing that we write */
                        if (strspn(line, "0123456789abcdef ") == strlen(line) &&
                                sscanf(line,
                                        "%10u %16" SCNx64 " %9d %19" SCNu64 " %19" SCNu64
                                        " %19" SCNu64 "%c",
                                        &uid, &claim.tag, &pid, &claim.start_time, &claim.claimed,
                                        &claim.used, &extra) == 6 &&
                                pid > 0) {
                                claim.uid = uid;
                                claim.pid = pid;
                                if (alive(&claim))
                                        list[count++] = claim;
                        }
                }
                text = end + 1;
        }
        return count;
}

char *claims_format(const struct claim *list, size_t count)
{
        size_t room = sizeof(heading) + count * 160, used;
        char *text = malloc(room);

        if (!text)
                return NULL;
        used = (size_t)sprintf(text, "%s", heading);
        for (size_t i = 0; i < count; i++)
                used += (size_t)snprintf(text + used, room - used,
                        "%u %" PRIx64 " %d %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
                        (unsigned)list[i].uid, list[i].tag, (int)list[i].pid, list[i].start_time,
                        list[i].claimed, list[i].used);
        return text;
}

const char *claims_directory(void)
{
        return access("/run/lock", W_OK | X_OK) == 0 ? "/run/lock" : "/tmp";
}

static bool claim_alive(const struct claim *claim)
{
        return process_is(claim->pid, claim->start_time) == 0;
}

/* Opens or makes the file, never by way of a link, never a file with other names, never a device.
 */
static int open_file(const char *path)
{
        _cleanup_close_ int fd = -EBADF;
        struct stat st;

        for (int attempt = 0; attempt < 3; attempt++) {
                fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
                if (fd >= 0 || errno != ENOENT)
                        break;
                /* in sticky directories the kernel may refuse O_CREAT for a file of another user,
                 * so it is asked for only where there is none */
                fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
                if (fd >= 0) {
                        /* for the daemons of all users, whatever our umask */
                        if (fchmod(fd, 0666) < 0)
                                return -errno;
                        break;
                }
                if (errno != EEXIST)
                        break;
        }
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
                return -EPERM;
        return TAKE_FD(fd);
}

static int lock(int fd)
{
        /* held for microseconds by those who mean well */
        for (int attempt = 0; attempt < 100; attempt++) {
                if (flock(fd, LOCK_EX | LOCK_NB) == 0)
                        return 0;
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return -errno;
                nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
        return -EBUSY;
}

int claims_open(const char *directory, const char *uuid, struct claims *ret)
{
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *path = NULL, *text = NULL;
        ssize_t n;
        int r;

        if (asprintf(&path, "%s/cleave-%s.claims", directory, uuid) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        fd = open_file(path);
        if (fd < 0)
                return fd;
        r = lock(fd);
        if (r < 0)
                return r;
        text = malloc(CLAIMS_FILE_MAX + 1);
        if (!text)
                return -ENOMEM;
        n = pread(fd, text, CLAIMS_FILE_MAX, 0);
        if (n < 0)
                return -errno;
        text[n] = '\0';
        ret->count = claims_parse(text, ret->claim, claim_alive);
        ret->text = TAKE_PTR(text);
        ret->fd = TAKE_FD(fd);
        return 0;
}

static uint64_t add(uint64_t a, uint64_t b)
{
        uint64_t sum;

        return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

void claims_others(const struct claims *claims, uid_t uid, uint64_t tag, uint64_t *ret_claimed,
        uint64_t *ret_used)
{
        uint64_t claimed = 0, used = 0;

        for (size_t i = 0; i < claims->count; i++) {
                const struct claim *claim = &claims->claim[i];

                if (claim->uid == uid && claim->tag == tag)
                        continue;
                claimed = add(claimed, claim->claimed);
                used = add(used, claim->used);
        }
        *ret_claimed = claimed;
        *ret_used = used;
}

int claims_set(struct claims *claims, const struct claim *own)
{
        _cleanup_free_ char *text = NULL;
        size_t kept = 0, length;

        for (size_t i = 0; i < claims->count; i++)
                if (claims->claim[i].uid != own->uid || claims->claim[i].tag != own->tag)
                        claims->claim[kept++] = claims->claim[i];
        claims->count = kept;
        if (own->claimed > 0) {
                if (kept == CLAIMS_MAX)
                        return -ENOSPC;
                claims->claim[claims->count++] = *own;
        }
        text = claims_format(claims->claim, claims->count);
        if (!text)
                return -ENOMEM;
        length = strlen(text);
        if (claims->text && strcmp(claims->text, text) == 0)
                return 0; /* it says so already */
        free(claims->text);
        claims->text = NULL;
        for (size_t done = 0; done < length;) {
                ssize_t n = pwrite(claims->fd, text + done, length - done, (off_t)done);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                done += (size_t)n;
        }
        return ftruncate(claims->fd, (off_t)length) < 0 ? -errno : 0;
}

void claims_close(struct claims *claims)
{
        /* closing unlocks */
        claims->fd = close_safe(claims->fd);
        free(claims->text);
        claims->text = NULL;
}
