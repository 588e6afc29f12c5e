/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "environment.h"
#include "guard.h"

int guard_debug_fd = -2;

static void debug_open(void)
{
        const char *where = secure_getenv(CLEAVE_ENV_DEBUG);

        if (!where || !*where || strcmp(where, "0") == 0)
                guard_debug_fd = -1;
        else if (strcmp(where, "1") == 0 || strcmp(where, "2") == 0)
                guard_debug_fd = 2;
        else
                guard_debug_fd =
                        open(where, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

void guard_debug(const char *format, ...)
{
        int saved = errno;
        char line[512];
        va_list ap;
        int n, m;

        if (guard_debug_fd == -2)
                debug_open();
        if (guard_debug_fd >= 0) {
                n = snprintf(line, sizeof(line), "cleave-guard[%d]: ", (int)getpid());
                va_start(ap, format);
                m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, ap);
                va_end(ap);
                n += m < 0 ? 0 : m;
                if ((size_t)n > sizeof(line) - 2)
                        n = sizeof(line) - 2;
                line[n++] = '\n';
                if (write(guard_debug_fd, line, (size_t)n) < 0)
                        guard_debug_fd = -1;
        }
        errno = saved;
}
