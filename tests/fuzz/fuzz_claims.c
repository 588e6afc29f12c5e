/* SPDX-License-Identifier: Apache-2.0 */
/* The claims file, which everybody can write. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/claims.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool any(const struct claim *claim)
{
        return claim->pid > 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct claims *claims = calloc(1, sizeof(*claims)), *again = calloc(1, sizeof(*again));
        char *text = malloc(size + 1), *written, *rewritten;
        uint64_t claimed, used;

        memcpy(text, data, size);
        text[size] = '\0';
        claims->count = claims_parse(text, claims->claim, any);
        if (claims->count > CLAIMS_MAX)
                abort();
        claims_others(claims, 0, 0, &claimed, &used);
        /* what was believed is written so that it is read the same */
        written = claims_format(claims->claim, claims->count);
        again->count = claims_parse(written, again->claim, any);
        rewritten = claims_format(again->claim, again->count);
        if (strcmp(written, rewritten) != 0)
                abort();
        free(rewritten);
        free(written);
        free(text);
        free(claims);
        free(again);
        return 0;
}
