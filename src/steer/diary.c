/* SPDX-License-Identifier: Apache-2.0 */
#include "steer/diary.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "proto/environment.h"

struct diary {
        FILE *file;
};

struct diary *diary_new(void)
{
        const char *begin = getenv(CLEAVE_ENV_SWITCHES);
        _cleanup_free_ char *path = NULL;
        struct diary *diary;
        int fd;

        if (!begin || !*begin)
                return NULL;
        if (asprintf(&path, "%s.%d", begin, (int)getpid()) < 0) {
                path = NULL;
                return NULL;
        }
        diary = calloc(1, sizeof(*diary));
        if (!diary)
                return NULL;
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        diary->file = fd < 0 ? NULL : fdopen(fd, "w");
        if (!diary->file) {
                fprintf(stderr, "cleaved: cannot write %s: %s\n", path, strerror(errno));
                close_safe(fd);
                free(diary);
                return NULL;
        }
        return diary;
}

struct diary *diary_free(struct diary *diary)
{
        if (diary)
                fclose(diary->file);
        free(diary);
        return NULL;
}

void diary_note(struct diary *diary, const char *what, unsigned device, const char *format, ...)
{
        va_list arguments;

        if (!diary)
                return;
        fprintf(diary->file, "%s %u ", what, device);
        va_start(arguments, format);
        vfprintf(diary->file, format, arguments);
        va_end(arguments);
        putc('\n', diary->file);
}
