/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of the daemon's control socket: docs/control-protocol.md. Not thread-safe.
 *
 * Programs that only ask use client_call(). Programs with a loop of their own (a lifeline, a stream
 * of events, a wait for room) use client_send(), poll client_fd() and call client_receive().
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct client;

/* Longest line that is taken from the daemon, bytes. */
#define CLIENT_LINE_MAX (64u << 20)

/* Connects to the daemon of that runtime directory.
 * -ECONNREFUSED (UNREACHABLE): none listens there, -EPERM (NOT_PERMITTED): we may not. */
int client_connect(const char *directory, struct client **ret, struct cleave_error *error);

/* Closes the connection, and with it a lifeline. Returns NULL. */
struct client *client_free(struct client *client);
DEFINE_CLEANUP(struct client *, client_free);
#define _cleanup_client_ _cleanup_(client_free_ptr)

/* Readable when client_receive() may have something; it may also have without. */
int client_fd(const struct client *client);

/*
 * Calls a method and waits for its answer. params: taken over, NULL for none.
 * ret_result: a new reference, may be NULL. What else arrives meanwhile is kept for
 * client_receive(). On failure error is what the daemon said (a code that we do not know becomes
 * INTERNAL), or UNREACHABLE, DAEMON_GONE, BAD_REPLY.
 */
int client_call(struct client *client, const char *method, json_t *params, json_t **ret_result,
        struct cleave_error *error);

/* Sends a request without waiting. params: taken over, also on failure. ret_id (may be NULL): what
 * the answer will carry. */
int client_send(struct client *client, const char *method, json_t *params, int64_t *ret_id,
        struct cleave_error *error);

enum client_message_kind {
        CLIENT_RESULT,  /* value is the result */
        CLIENT_FAILURE, /* error says why */
        CLIENT_EVENT,   /* value is the event */
};

struct client_message {
        int64_t id; /* of the request */
        enum client_message_kind kind;
        json_t *value;
        struct cleave_error error;
};

void client_message_done(struct client_message *message);
#define _cleanup_client_message_ _cleanup_(client_message_done)

/*
 * The next message, waiting for it at most that many milliseconds (-1: for ever).
 * 1: there is one. 0: none in that time. -EINTR: a signal came while waiting. -ECONNRESET: the
 * daemon has gone (DAEMON_GONE). -EBADMSG: it does not speak the protocol (BAD_REPLY).
 * After polling client_fd(), call it with 0 until it returns 0.
 */
int client_receive(struct client *client, int timeout_ms, struct client_message *ret,
        struct cleave_error *error);
