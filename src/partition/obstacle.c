/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "partition/obstacle.h"

static const struct {
        const char *word, *hint;
        bool blocks;
} codes[] = {
#define X(identifier, word_, blocks_, hint_) {.word = word_, .blocks = blocks_, .hint = hint_},
        OBSTACLES(X)
#undef X
};

const char *obstacle_word(enum obstacle_code code)
{
        return codes[code].word;
}

bool obstacle_blocks(enum obstacle_code code)
{
        return codes[code].blocks;
}

const char *obstacle_hint(enum obstacle_code code)
{
        return codes[code].hint;
}

void obstacles_add(struct obstacles *obstacles, enum obstacle_code code, const char *format, ...)
{
        struct obstacle *list;
        char *sentence;
        va_list args;
        int r;

        va_start(args, format);
        r = vasprintf(&sentence, format, args);
        va_end(args);
        list = r < 0 ? NULL : realloc(obstacles->list, (obstacles->n + 1) * sizeof(*list));
        if (!list) {
                if (r >= 0)
                        free(sentence);
                obstacles->failed = true;
                return;
        }
        obstacles->list = list;
        list[obstacles->n++] = (struct obstacle){.code = code, .sentence = sentence};
}

void obstacles_done(struct obstacles *obstacles)
{
        for (size_t i = 0; i < obstacles->n; i++)
                free(obstacles->list[i].sentence);
        free(obstacles->list);
        *obstacles = (struct obstacles){0};
}

const struct obstacle *obstacles_blocking(const struct obstacles *obstacles)
{
        for (size_t i = 0; i < obstacles->n; i++)
                if (obstacle_blocks(obstacles->list[i].code))
                        return obstacles->list + i;
        return NULL;
}

const struct obstacle *obstacles_find(const struct obstacles *obstacles, enum obstacle_code code)
{
        for (size_t i = 0; i < obstacles->n; i++)
                if (obstacles->list[i].code == code)
                        return obstacles->list + i;
        return NULL;
}

int obstacles_error(const struct obstacles *obstacles, const char *what, struct cleave_error *error)
{
        const struct obstacle *first = obstacles_blocking(obstacles);
        size_t more = 0;

        if (obstacles->failed)
                return error_set_errno(error, ENOMEM, "cannot %s", what);
        if (!first)
                return 0;
        for (size_t i = 0; i < obstacles->n; i++)
                more += obstacle_blocks(obstacles->list[i].code);
        more--;
        if (more)
                error_set(error, CLEAVE_REASON_BUSY, "cannot %s: %s (and %zu more)", what,
                        first->sentence, more);
        else
                error_set(error, CLEAVE_REASON_BUSY, "cannot %s: %s", what, first->sentence);
        if (obstacle_hint(first->code))
                error_set_hint(error, "%s", obstacle_hint(first->code));
        return -EBUSY;
}
