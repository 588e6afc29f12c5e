/* SPDX-License-Identifier: Apache-2.0 */
/* Packets of guards. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        enum cleave_message_type type;
        struct cleave_hello hello;
        struct cleave_notice notice;

        if (message_check(data, size, &type) < 0)
                return 0;
        if (type == CLEAVE_HELLO) {
                message_get_hello(data, &hello);
                if (strnlen(hello.guard, sizeof(hello.guard)) == sizeof(hello.guard) ||
                        strnlen(hello.driver, sizeof(hello.driver)) == sizeof(hello.driver))
                        abort();
        } else if (type == CLEAVE_NOTICE) {
                message_get_notice(data, &notice);
        } else {
                abort();
        }
        return 0;
}
