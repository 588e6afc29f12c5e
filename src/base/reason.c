/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/cleanup.h"
#include "base/reason.h"

static const struct {
        const char *word;
        const char *hint;
        int exit_status;
        int number;
} reasons[] = {[CLEAVE_REASON_NONE] = {"none", NULL, 0, 0},
#define X(identifier, word_, exit_, number_, hint_)                                                \
        [CLEAVE_REASON_##identifier] = {                                                           \
                .word = word_, .hint = hint_, .exit_status = exit_, .number = number_},
        CLEAVE_REASONS(X)
#undef X
};

static unsigned bounded(enum cleave_reason reason)
{
        return (unsigned)reason < ARRAY_SIZE(reasons) ? (unsigned)reason : CLEAVE_REASON_INTERNAL;
}

const char *reason_word(enum cleave_reason reason)
{
        return reasons[bounded(reason)].word;
}

enum cleave_reason reason_from_word(const char *word)
{
        for (unsigned i = 1; i < ARRAY_SIZE(reasons); i++)
                if (strcmp(reasons[i].word, word) == 0)
                        return (enum cleave_reason)i;
        return CLEAVE_REASON_NONE;
}

int reason_exit_status(enum cleave_reason reason)
{
        return reasons[bounded(reason)].exit_status;
}

int reason_errno(enum cleave_reason reason)
{
        return -reasons[bounded(reason)].number;
}

const char *reason_hint(enum cleave_reason reason)
{
        return reasons[bounded(reason)].hint;
}
