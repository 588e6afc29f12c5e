/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/paths.h"
#include "client/client.h"

/* Messages that came while another answer was waited for. */
struct pending {
        struct pending *next;
        struct client_message message;
};

struct client {
        int fd;
        int64_t last_id;
        char *directory;
        char *buffer;
        size_t used, room;
        size_t scanned; /* bytes of buffer known to hold no newline */
        struct pending *first, **last;
};

void client_message_done(struct client_message *message)
{
        json_decref(message->value);
        message->value = NULL;
        error_done(&message->error);
}

struct client *client_free(struct client *client)
{
        if (!client)
                return NULL;
        while (client->first) {
                struct pending *pending = client->first;

                client->first = pending->next;
                client_message_done(&pending->message);
                free(pending);
        }
        close_safe(client->fd);
        free(client->buffer);
        free(client->directory);
        free(client);
        return NULL;
}

int client_connect(const char *directory, struct client **ret, struct cleave_error *error)
{
        _cleanup_client_ struct client *client = NULL;

        client = calloc(1, sizeof(*client));
        if (!client)
                return error_set_errno(error, ENOMEM, "cannot connect");
        client->fd = -EBADF;
        client->last = &client->first;
        client->directory = strdup(directory);
        if (!client->directory)
                return error_set_errno(error, ENOMEM, "cannot connect");

        client->fd = socket_connect(directory, CLEAVE_CONTROL_SOCKET, SOCK_STREAM);
        if (client->fd == -EACCES || client->fd == -EPERM)
                return error_set(error, CLEAVE_REASON_NOT_PERMITTED,
                        "the daemon in %s does not serve you", directory);
        if (client->fd == -ENOENT || client->fd == -ECONNREFUSED)
                return error_set(
                        error, CLEAVE_REASON_UNREACHABLE, "no daemon listens in %s", directory);
        if (client->fd < 0)
                return error_set(error, CLEAVE_REASON_UNREACHABLE,
                        "cannot reach the daemon in %s: %s", directory, strerror(-client->fd));
        *ret = TAKE_PTR(client);
        return 0;
}

int client_fd(const struct client *client)
{
        return client->fd;
}

static int gone(struct client *client, struct cleave_error *error)
{
        return error_set(error, CLEAVE_REASON_DAEMON_GONE, "the daemon in %s closed the connection",
                client->directory);
}

int client_send(struct client *client, const char *method, json_t *params, int64_t *ret_id,
        struct cleave_error *error)
{
        _cleanup_free_ char *line = NULL;
        int64_t id = client->last_id + 1;
        json_t *request;
        size_t length, sent = 0;

        /* "o" takes params over even when packing fails */
        request = params ? json_pack("{s:I, s:s, s:o}", "id", (json_int_t)id, "method", method,
                                   "params", params)
                         : json_pack("{s:I, s:s}", "id", (json_int_t)id, "method", method);
        if (!request)
                return error_set_errno(error, ENOMEM, "cannot ask the daemon");
        line = json_dumps(request, JSON_COMPACT);
        json_decref(request);
        if (!line)
                return error_set_errno(error, ENOMEM, "cannot ask the daemon");
        length = strlen(line);
        line[length++] = '\n'; /* in place of the NUL */
        while (sent < length) {
                ssize_t n = send(client->fd, line + sent, length - sent, MSG_NOSIGNAL);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return gone(client, error);
                sent += (size_t)n;
        }
        client->last_id = id;
        if (ret_id)
                *ret_id = id;
        return 0;
}

static int parse_message(json_t *line, struct client_message *ret)
{
        json_t *id = json_object_get(line, "id"), *value;
        struct client_message message = {0};

        if (!json_is_object(line) || (id && !json_is_integer(id) && !json_is_null(id)))
                return -EBADMSG;
        message.id = json_integer_value(id);
        if ((value = json_object_get(line, "result"))) {
                message.kind = CLIENT_RESULT;
                message.value = json_incref(value);
        } else if ((value = json_object_get(line, "event"))) {
                message.kind = CLIENT_EVENT;
                message.value = json_incref(value);
        } else if ((value = json_object_get(line, "error"))) {
                const char *code = json_string_value(json_object_get(value, "code"));
                const char *text = json_string_value(json_object_get(value, "message"));
                const char *hint = json_string_value(json_object_get(value, "hint"));

                if (!code || !text)
                        return -EBADMSG;
                message.kind = CLIENT_FAILURE;
                error_set(&message.error, reason_from_word(code) ?: CLEAVE_REASON_INTERNAL, "%s",
                        text);
                if (hint)
                        error_set_hint(&message.error, "%s", hint);
        } else {
                return -EBADMSG;
        }
        *ret = message;
        return 0;
}

/* 1: a line of the buffer was taken. 0: there is no whole one. */
static int take_line(struct client *client, struct client_message *ret)
{
        char *end;
        size_t length;
        json_t *line;
        int r;

        /* before the first byte there is no buffer, which memchr must not be given */
        end = client->buffer ? memchr(client->buffer + client->scanned, '\n',
                                       client->used - client->scanned)
                             : NULL;
        if (!end) {
                client->scanned = client->used;
                return 0;
        }
        length = (size_t)(end - client->buffer);
        line = json_loadb(client->buffer, length, JSON_REJECT_DUPLICATES, NULL);
        client->used -= length + 1;
        client->scanned = 0;
        memmove(client->buffer, end + 1, client->used);
        if (!line)
                return -EBADMSG;
        r = parse_message(line, ret);
        json_decref(line);
        return r < 0 ? r : 1;
}

static int fill(struct client *client)
{
        ssize_t n;

        if (client->used == client->room) {
                size_t room = client->room ? client->room * 2 : 16384;
                char *larger;

                if (client->used >= CLIENT_LINE_MAX)
                        return -EBADMSG;
                larger = realloc(client->buffer, room);
                if (!larger)
                        return -ENOMEM;
                client->buffer = larger;
                client->room = room;
        }
        n = recv(client->fd, client->buffer + client->used, client->room - client->used,
                MSG_DONTWAIT);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -ECONNRESET;
        if (n == 0)
                return -ECONNRESET;
        client->used += (size_t)n;
        return 0;
}

/* As client_receive(), from the socket alone. */
static int receive_new(struct client *client, int timeout_ms, struct client_message *ret,
        struct cleave_error *error)
{
        uint64_t until = clock_usec(CLOCK_MONOTONIC) + (uint64_t)MAX_OF(timeout_ms, 0) * 1000;
        int r;

        for (;;) {
                struct pollfd poll_fd = {.fd = client->fd, .events = POLLIN};
                int wait = timeout_ms;

                r = take_line(client, ret);
                if (r == -EBADMSG)
                        return error_set(error, CLEAVE_REASON_BAD_REPLY,
                                "the daemon in %s gave an answer that is not understood",
                                client->directory);
                if (r != 0)
                        return r;
                if (timeout_ms > 0) {
                        uint64_t now = clock_usec(CLOCK_MONOTONIC);

                        wait = now < until ? (int)((until - now + 999) / 1000) : 0;
                }
                r = poll(&poll_fd, 1, wait);
                if (r < 0)
                        return errno == EINTR ? -EINTR
                                              : error_set_errno(error, errno, "cannot wait");
                if (r == 0)
                        return 0;
                r = fill(client);
                if (r == -ECONNRESET)
                        return gone(client, error);
                if (r < 0)
                        return error_set_errno(error, r, "cannot read the daemon's answer");
        }
}

int client_receive(struct client *client, int timeout_ms, struct client_message *ret,
        struct cleave_error *error)
{
        struct pending *pending = client->first;

        if (!pending)
                return receive_new(client, timeout_ms, ret, error);
        client->first = pending->next;
        if (!client->first)
                client->last = &client->first;
        *ret = pending->message;
        free(pending);
        return 1;
}

static int keep(struct client *client, struct client_message *message)
{
        struct pending *pending = malloc(sizeof(*pending));

        if (!pending)
                return -ENOMEM;
        *pending = (struct pending){.message = *message};
        *message = (struct client_message){0};
        *client->last = pending;
        client->last = &pending->next;
        return 0;
}

int client_call(struct client *client, const char *method, json_t *params, json_t **ret_result,
        struct cleave_error *error)
{
        int64_t id;
        int r;

        r = client_send(client, method, params, &id, error);
        if (r < 0)
                return r;
        for (;;) {
                _cleanup_client_message_ struct client_message message = {0};

                r = receive_new(client, -1, &message, error);
                if (r == -EINTR)
                        continue;
                if (r < 0)
                        return r;
                if (message.kind == CLIENT_EVENT || message.id != id) {
                        /* id 0: the daemon could not even read what we sent */
                        if (message.kind != CLIENT_FAILURE || message.id != 0) {
                                r = keep(client, &message);
                                if (r < 0)
                                        return error_set_errno(error, r, "cannot keep an answer");
                                continue;
                        }
                }
                if (message.kind == CLIENT_FAILURE) {
                        r = reason_errno(message.error.code);
                        error_move(error, &message.error);
                        return r;
                }
                if (ret_result)
                        *ret_result = json_incref(message.value);
                return 0;
        }
}
