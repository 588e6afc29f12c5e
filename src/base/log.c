/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

static const char *log_program = "cleave";
static int log_max = LOG_INFO;
static bool log_to_journal;

/* JOURNAL_STREAM names the device and inode of the journal's stream, so that a program whose
 * standard error was redirected since knows. */
static bool stderr_is_journal(void)
{
        const char *stream = getenv("JOURNAL_STREAM");
        uintmax_t device, inode;
        struct stat st;

        if (!stream || sscanf(stream, "%ju:%ju", &device, &inode) != 2)
                return false;
        return fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void log_open(const char *program)
{
        log_program = program;
        log_to_journal = stderr_is_journal();
}

void log_set_max(int priority)
{
        log_max = priority;
}

void log_line(int priority, const char *format, ...)
{
        int saved = errno;
        char line[2048];
        va_list arguments;
        int head, body;
        size_t used;

        if (priority > log_max)
                return;
        head = log_to_journal ? snprintf(line, sizeof(line), "<%d>", priority)
                              : snprintf(line, sizeof(line), "%s: ", log_program);
        va_start(arguments, format);
        body = vsnprintf(line + head, sizeof(line) - (size_t)head - 1, format, arguments);
        va_end(arguments);
        used = strlen(line);
        if (body >= 0) {
                /* one line a message, whatever it quotes */
                for (size_t i = (size_t)head; i < used; i++)
                        if (line[i] == '\n')
                                line[i] = ' ';
                line[used++] = '\n';
                (void)!write(STDERR_FILENO, line, used);
        }
        errno = saved;
}
