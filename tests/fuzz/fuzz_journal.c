/* SPDX-License-Identifier: Apache-2.0 */
/* The journal's parser and what puts its records together. */
#include <stdint.h>
#include <stdlib.h>

#include "daemon/journal.h"
#include "daemon/recover.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int apply(json_t *record, void *userdata)
{
        return recovered_apply(userdata, record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct recovered recovered = {0};
        size_t good = 0, start = 0;
        int r;

        r = journal_parse((const char *)data, size, apply, &recovered, &good);
        if (r < 0 || good > size || (good > 0 && data[good - 1] != '\n'))
                abort();
        recovered_done(&recovered);

        /* behind the checksums: each line as a record */
        for (size_t i = 0; i < size; i++)
                if (data[i] == '\n') {
                        json_t *record = json_loadb((const char *)data + start, i - start, 0, NULL);

                        if (json_is_object(record) && recovered_apply(&recovered, record) < 0)
                                abort();
                        json_decref(record);
                        start = i + 1;
                }
        recovered_done(&recovered);
        return 0;
}
