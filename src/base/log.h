/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log of a program: lines on standard error, with the priorities of syslog. Under systemd,
 * whose journal reads standard error, each line carries its priority. Only main programs and the
 * daemon's manager log; libraries return errors.
 */
#pragma once

#include <syslog.h>

/* program: shown before each line where no journal adds it; the text is kept, not copied. */
void log_open(const char *program);
/* Lines less urgent than this are dropped. Default: LOG_INFO. */
void log_set_max(int priority);

/* Logs a line; errno stays. */
void log_line(int priority, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_line(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_notice(...)  log_line(LOG_NOTICE, __VA_ARGS__)
#define log_info(...)    log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(LOG_DEBUG, __VA_ARGS__)

/* Logs "text: strerror" and returns -|number|, for `return log_errno(r, "…");`. */
#define log_errno(number, format, ...)                                                             \
        ({                                                                                         \
                int _log_number = abs(number);                                                     \
                log_line(LOG_ERR, format ": %s", ##__VA_ARGS__, strerror(_log_number));            \
                -_log_number;                                                                      \
        })
