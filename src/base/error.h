/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An error at an edge of the program: a code, a sentence that says what and why, a hint what to do.
 * Inside, functions return negative errno; the one that knows the sentence fills in the error, and
 * the program reports it once.
 */
#pragma once

#include "base/cleanup.h"
#include "base/reason.h"

struct cleave_error {
        enum cleave_reason code;
        char *message; /* a sentence without full stop; NULL: none could be stored */
        char *hint;    /* a sentence; NULL: that of the code, see error_hint() */
};

#define CLEAVE_ERROR_NONE ((struct cleave_error){0})

void error_done(struct cleave_error *error);
#define _cleanup_error_ _cleanup_(error_done)

/* Fills error (NULL: nobody wants it) in place of what it held. Returns the negative errno that
 * belongs to the code, so that a function can end with `return error_set(…);`. */
int error_set(struct cleave_error *error, enum cleave_reason code, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

/* The same for an errno that has no reason of its own: "message: strerror", code INTERNAL, or
 * NO_MEMORY for ENOMEM, NOT_PERMITTED for EPERM and EACCES. number: positive or negative.
 * Returns -|number|. */
int error_set_errno(struct cleave_error *error, int number, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

/* Gives an error, already set, a hint of its own. */
void error_set_hint(struct cleave_error *error, const char *format, ...)
        __attribute__((format(printf, 2, 3)));

/* Never NULL. */
const char *error_message(const struct cleave_error *error);
/* The error's own hint, else that of its code, else NULL. */
const char *error_hint(const struct cleave_error *error);

/* Moves *from to *to (NULL: dropped), which held nothing of value; from is empty then. */
void error_move(struct cleave_error *to, struct cleave_error *from);
