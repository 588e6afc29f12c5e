/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "daemon/message.h"

unsigned message_oldest(void)
{
        return CLEAVE_MESSAGE_OLDEST;
}

unsigned message_newest(void)
{
        return CLEAVE_MESSAGE_VERSION;
}

int message_check(const void *packet, size_t size, enum cleave_message_type *ret_type)
{
        struct cleave_message head;
        size_t expected;

        if (size < sizeof(head))
                return -EBADMSG;
        memcpy(&head, packet, sizeof(head));
        if (head.magic != CLEAVE_MESSAGE_MAGIC || head.size != size)
                return -EBADMSG;
        if (head.version < CLEAVE_MESSAGE_OLDEST || head.version > CLEAVE_MESSAGE_VERSION)
                return -EPROTO;
        switch (head.type) {
        case CLEAVE_HELLO:
                expected = sizeof(struct cleave_hello);
                break;
        case CLEAVE_NOTICE:
                expected = sizeof(struct cleave_notice);
                break;
        default:
                return -ENOTSUP;
        }
        if (size != expected)
                return -EMSGSIZE;
        *ret_type = (enum cleave_message_type)head.type;
        return 0;
}

static void clean_text(char *text, size_t size)
{
        text[size - 1] = '\0';
        for (size_t i = 0; text[i]; i++)
                if (!isprint((unsigned char)text[i]))
                        text[i] = '?';
}

void message_get_hello(const void *packet, struct cleave_hello *ret)
{
        memcpy(ret, packet, sizeof(*ret));
        clean_text(ret->guard, sizeof(ret->guard));
        clean_text(ret->driver, sizeof(ret->driver));
}

void message_get_notice(const void *packet, struct cleave_notice *ret)
{
        memcpy(ret, packet, sizeof(*ret));
}
