/* SPDX-License-Identifier: Apache-2.0 */
/* Reads what guards send: every length and text bounded, nothing believed. */
#pragma once

#include <stddef.h>

#include "proto/message.h"

/* The versions of the guard's protocol that are served. */
unsigned message_oldest(void);
unsigned message_newest(void);

/* Checks a packet and gives its type.
 * -EBADMSG (too short for a head, wrong magic, or size is not the packet's), -EPROTO (a version
 * that is not served), -EMSGSIZE (not the size of its type), -ENOTSUP (a type that guards do not
 * send). */
int message_check(const void *packet, size_t size, enum cleave_message_type *ret_type);

/* After message_check(): copies it out; texts end with NUL and are printable ASCII. */
void message_get_hello(const void *packet, struct cleave_hello *ret);
void message_get_notice(const void *packet, struct cleave_notice *ret);
