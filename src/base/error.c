/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

void error_done(struct cleave_error *error)
{
        free(error->message);
        free(error->hint);
        *error = CLEAVE_ERROR_NONE;
}

static char *format_text(const char *format, va_list arguments)
{
        char *text;

        return vasprintf(&text, format, arguments) < 0 ? NULL : text;
}

int error_set(struct cleave_error *error, enum cleave_reason code, const char *format, ...)
{
        va_list arguments;

        if (error) {
                char *text;

                va_start(arguments, format);
                text = format_text(format, arguments);
                va_end(arguments);
                error_done(error);
                error->code = code;
                error->message = text;
        }
        return reason_errno(code);
}

int error_set_errno(struct cleave_error *error, int number, const char *format, ...)
{
        va_list arguments;

        number = abs(number);
        if (error) {
                _cleanup_free_ char *text = NULL;
                enum cleave_reason code = CLEAVE_REASON_INTERNAL;

                if (number == ENOMEM)
                        code = CLEAVE_REASON_NO_MEMORY;
                else if (number == EPERM || number == EACCES)
                        code = CLEAVE_REASON_NOT_PERMITTED;
                va_start(arguments, format);
                text = format_text(format, arguments);
                va_end(arguments);
                error_set(error, code, "%s: %s", text ?: "out of memory", strerror(number));
        }
        return -number;
}

void error_set_hint(struct cleave_error *error, const char *format, ...)
{
        va_list arguments;
        char *text;

        if (!error)
                return;
        va_start(arguments, format);
        text = format_text(format, arguments);
        va_end(arguments);
        free(error->hint);
        error->hint = text;
}

const char *error_message(const struct cleave_error *error)
{
        return error->message ?: reason_word(error->code);
}

const char *error_hint(const struct cleave_error *error)
{
        return error->hint ?: reason_hint(error->code);
}

void error_move(struct cleave_error *to, struct cleave_error *from)
{
        if (!to) {
                error_done(from);
                return;
        }
        error_done(to);
        *to = *from;
        *from = CLEAVE_ERROR_NONE;
}
