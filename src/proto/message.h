/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between a guard and the daemon, over a SOCK_SEQPACKET socket (guard.sock), one message
 * a packet, in the machine's byte order.
 *
 *   guard                         daemon
 *   HELLO          ->
 *                  <-             WELCOME, with two descriptors: grant page, usage page
 *                  <-      or     REFUSED
 *   NOTICE ...     ->             (any time later; never answered)
 *
 * The daemon takes the peer's identity from the kernel (SO_PEERCRED), not from the message.
 * The session lasts as long as the process; when the socket closes while the process lives (exec,
 * or a program that closes everything), the daemon keeps the account until the process is gone or
 * holds nothing by the driver's count. A guard that finds the socket closed goes on under the
 * grants that it has, and may say HELLO again with CLEAVE_HELLO_AGAIN and its old slot.
 *
 * Versions: tenants outlive an upgrade of the daemon, so it serves guards of the version before its
 * own too, and answers each in the version that it spoke. Whatever the version, the head of a
 * message and REFUSED keep the form that they have here, so that any two can tell each other that
 * they do not understand each other.
 */
#pragma once

#include <assert.h>
#include <stdint.h>

#ifndef CLEAVE_MESSAGE_AHEAD
#define CLEAVE_MESSAGE_AHEAD 0u /* tests build programs that are of versions to come */
#endif

#define CLEAVE_MESSAGE_MAGIC   0x4d564c43u /* "CLVM" */
#define CLEAVE_MESSAGE_VERSION (1u + CLEAVE_MESSAGE_AHEAD)
/* oldest version that this daemon serves */
#define CLEAVE_MESSAGE_OLDEST (CLEAVE_MESSAGE_VERSION > 1u ? CLEAVE_MESSAGE_VERSION - 1u : 1u)

enum cleave_message_type {
        CLEAVE_HELLO = 1,
        CLEAVE_WELCOME = 2,
        CLEAVE_REFUSED = 3,
        CLEAVE_NOTICE = 4,
};

struct cleave_message {
        uint32_t magic;
        uint16_t version;
        uint16_t type;
        uint32_t size; /* of the whole message; must be the packet's */
        uint32_t reserved;
};
static_assert(sizeof(struct cleave_message) == 16, "layout");

#define CLEAVE_HELLO_AGAIN    1u /* slot is the one that an earlier daemon gave */
#define CLEAVE_HELLO_OBSERVER 2u /* wants the pages to read, and no slot: welcomed with slot 0 */

struct cleave_hello {
        struct cleave_message head;
        uint64_t tenant; /* from CLEAVE_TENANT; a hint, checked against the peer's identity; 0: none
                          */
        uint32_t flags;
        uint32_t slot;
        char guard[24];  /* version of the guard, NUL-terminated */
        char driver[24]; /* version of the driver, NUL-terminated; empty: not known */
};
static_assert(sizeof(struct cleave_hello) == 80, "layout");

struct cleave_welcome {
        struct cleave_message head;
        uint64_t tenant;
        uint32_t slot;
        uint32_t pid; /* the process's, as the daemon calls it; 0: an older one did not say */
};
static_assert(sizeof(struct cleave_welcome) == 32, "layout");

enum cleave_refusal {
        CLEAVE_REFUSED_VERSION = 1,  /* this guard is too old or too new for the daemon */
        CLEAVE_REFUSED_STRANGER = 2, /* the process belongs to no tenant */
        CLEAVE_REFUSED_FULL = 3,     /* no slot is free */
        CLEAVE_REFUSED_FAULT = 4,    /* the daemon could not, see its log */
};

struct cleave_refused {
        struct cleave_message head;
        uint32_t reason; /* enum cleave_refusal */
        uint32_t reserved;
};
static_assert(sizeof(struct cleave_refused) == 24, "layout");

enum cleave_notice_kind {
        CLEAVE_NOTICE_REFUSAL = 1, /* a = device, b = bytes asked: the limit was met. At most one a
                                      second and process */
        CLEAVE_NOTICE_GROUPS = 2,  /* a graphics/compute channel group was made, see below */
        CLEAVE_NOTICE_BLIND = 3,   /* the driver's RM calls cannot be seen, CUDA was refused */
        CLEAVE_NOTICE_FOREIGN = 4, /* a = device instance: memory asked on a device not granted */
        CLEAVE_NOTICE_MPS = 5,     /* a = one of CUDA_ERROR_MPS_...: the driver began with it, or
                                      made no context for it. Once a code and process */
};

/* With GROUPS, a is the group's client of RM, and the descriptor of /dev/nvidiactl by which it was
 * made comes as SCM_RIGHTS. Guards before that sent none and daemons before that drop it, so the
 * version is the same. */
struct cleave_notice {
        struct cleave_message head;
        uint32_t kind; /* enum cleave_notice_kind */
        uint32_t reserved;
        uint64_t a;
        uint64_t b;
};
static_assert(sizeof(struct cleave_notice) == 40, "layout");
