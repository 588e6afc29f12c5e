/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/paths.h"
#include "daemon/control.h"

static void connection_free(struct connection *connection)
{
        struct manager *manager = connection->manager;
        struct tenant *tenant = connection->lifeline;

        stops_connection_ended(connection);
        space_connection_ended(connection);
        DL_DELETE(manager->connections, connection);
        manager->connection_count--;
        sd_event_source_disable_unref(connection->io);
        close_safe(connection->fd);
        free(connection->in);
        free(connection->out);
        free(connection);
        if (tenant) {
                tenant->lifeline = NULL;
                tenant->abandoned = true;
                if (tenant->state == TENANT_WAITING)
                        /* it gives up its place */
                        tenant->exited = true;
                tenant_consider(tenant);
        }
        manager_look_idle(manager);
}

void connection_forget_tenant(struct connection *connection)
{
        connection->lifeline = NULL;
        connection->create_waits = false;
}

static void update_interest(struct connection *connection)
{
        bool serves = connection->out_used < CONTROL_OUT_HIGH &&
                      connection->pending < CONTROL_PENDING_MAX;
        uint32_t events = 0;

        if (!connection->ended && serves)
                events |= EPOLLIN;
        /* or to be woken for what has been read and not yet served */
        if (connection->out_used > 0 || (serves && connection->in_used > connection->in_scanned) ||
                (connection->watching &&
                        connection->manager->events.last >= connection->watch_next))
                events |= EPOLLOUT;
        sd_event_source_set_io_events(connection->io, events);
}

static void flush(struct connection *connection)
{
        size_t sent = 0;

        while (sent < connection->out_used) {
                ssize_t n = send(connection->fd, connection->out + sent,
                        connection->out_used - sent, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0) {
                        if (errno != EAGAIN)
                                connection->broken = true;
                        break;
                }
                sent += (size_t)n;
        }
        connection->out_used -= sent;
        memmove(connection->out, connection->out + sent, connection->out_used);
        if (connection->out_used == 0 && connection->out_room > 65536) {
                free(connection->out);
                connection->out = NULL;
                connection->out_room = 0;
        }
}

static int queue(const char *data, size_t size, void *userdata)
{
        struct connection *connection = userdata;

        if (connection->out_used + size > CONTROL_OUT_MAX) {
                connection->broken = true;
                return -1;
        }
        if (connection->out_used + size > connection->out_room) {
                size_t room = MAX_OF(connection->out_room * 2, connection->out_used + size + 4096);
                char *larger = realloc(connection->out, room);

                if (!larger) {
                        connection->broken = true;
                        return -1;
                }
                connection->out = larger;
                connection->out_room = room;
        }
        memcpy(connection->out + connection->out_used, data, size);
        connection->out_used += size;
        return 0;
}

/* Queues a line; the object is taken over. */
static void send_line(struct connection *connection, json_t *line)
{
        if (connection->broken) {
                json_decref(line);
                return;
        }
        if (!line || json_dump_callback(line, queue, connection, JSON_COMPACT) < 0)
                connection->broken = true;
        else
                queue("\n", 1, connection);
        json_decref(line);
        flush(connection);
        if (connection->broken)
                /* the loop hears of it and frees the connection */
                shutdown(connection->fd, SHUT_RDWR);
        update_interest(connection);
}

void connection_reply(struct connection *connection, json_int_t id, json_t *result)
{
        send_line(connection, json_pack("{s:I, s:o}", "id", id, "result", result ?: json_object()));
}

void connection_fail(struct connection *connection, json_int_t id, const struct cleave_error *error)
{
        const char *message = error_message(error);
        json_t *text = json_string(message);

        /* a message may quote what is no UTF-8 */
        if (!text)
                text = json_string(reason_word(error->code));
        send_line(connection,
                json_pack("{s:I, s:{s:s, s:o, s:s?}}", "id", id, "error", "code",
                        reason_word(error->code), "message", text, "hint", error_hint(error)));
}

void connection_send_events(struct connection *connection)
{
        const struct events *events = &connection->manager->events;
        bool administrator = connection->uid == 0 || connection->uid == geteuid();

        if (!connection->watching || connection->broken)
                return;
        /* what has been overwritten meanwhile is left out: the serial numbers show it */
        connection->watch_next = MAX_OF(connection->watch_next, events_first(events));
        while (connection->watch_next <= events->last && connection->out_used < CONTROL_OUT_HIGH &&
                !connection->broken) {
                json_t *event = events_get(events, connection->watch_next++);

                if (event && (administrator || event_concerns(event, connection->uid)))
                        send_line(connection, json_pack("{s:I, s:O}", "id", connection->watch_id,
                                                      "event", event));
        }
        if (connection->watch_next > events->last && !connection->follow) {
                connection->watching = false;
                connection->pending--;
                connection_reply(connection, connection->watch_id,
                        json_pack("{s:I}", "last", (json_int_t)events->last));
        }
        if (!connection->broken)
                update_interest(connection);
}

static void serve_line(struct connection *connection, const char *text, size_t length)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        json_t *line, *id_value, *params, *result = NULL;
        json_int_t id = 0;
        json_error_t at;
        const char *method, *key;
        int r;

        line = json_loadb(text, length, JSON_REJECT_DUPLICATES, &at);
        if (!json_is_object(line)) {
                if (line)
                        error_set(&error, CLEAVE_REASON_BAD_REQUEST, "a request is an object");
                else
                        error_set(&error, CLEAVE_REASON_BAD_REQUEST, "not JSON: %s at byte %d",
                                at.text, at.position);
                connection_fail(connection, 0, &error);
                json_decref(line);
                return;
        }
        id_value = json_object_get(line, "id");
        method = json_string_value(json_object_get(line, "method"));
        params = json_object_get(line, "params");
        r = 0;
        json_t *value;
        json_object_foreach(line, key, value) if (strcmp(key, "id") != 0 &&
                                                  strcmp(key, "method") != 0 &&
                                                  strcmp(key, "params") != 0) r = error_set(&error,
                CLEAVE_REASON_BAD_REQUEST, "a request has no member '%.64s'", key);
        if (json_is_integer(id_value))
                id = json_integer_value(id_value);
        else
                r = error_set(&error, CLEAVE_REASON_BAD_REQUEST, "id is not an integer");
        if (r == 0 && !method)
                r = error_set(&error, CLEAVE_REASON_BAD_REQUEST, "method is not a text");
        if (r == 0 && params && !json_is_object(params))
                r = error_set(&error, CLEAVE_REASON_BAD_REQUEST, "params is not an object");
        if (r == 0)
                r = method_call(connection, method, params, id, &result, &error);
        if (r < 0)
                connection_fail(connection, id, &error);
        else if (r == 0)
                connection_reply(connection, id, result);
        json_decref(line);
}

/* Serves whole lines of what has been read. */
static void serve_lines(struct connection *connection)
{
        size_t done = 0;

        while (!connection->broken && connection->pending < CONTROL_PENDING_MAX &&
                connection->out_used < CONTROL_OUT_HIGH) {
                size_t from = MAX_OF(done, connection->in_scanned);
                char *end = memchr(connection->in + from, '\n', connection->in_used - from);

                if (!end) {
                        connection->in_scanned = connection->in_used;
                        break;
                }
                serve_line(
                        connection, connection->in + done, (size_t)(end - connection->in) - done);
                done = (size_t)(end - connection->in) + 1;
                connection->in_scanned = done;
        }
        connection->in_used -= done;
        connection->in_scanned -= done;
        memmove(connection->in, connection->in + done, connection->in_used);
        if (connection->in_used >= CONTROL_LINE_MAX &&
                connection->in_scanned == connection->in_used && !connection->broken) {
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;

                error_set(&error, CLEAVE_REASON_BAD_REQUEST, "a line is longer than 1 MiB");
                connection_fail(connection, 0, &error);
                connection->ended = true;
                connection->in_used = connection->in_scanned = 0;
        }
}

static void read_some(struct connection *connection)
{
        ssize_t n;

        if (connection->in_used == connection->in_room) {
                size_t room = connection->in_room ? connection->in_room * 2 : 4096;
                char *larger = realloc(connection->in, room);

                if (!larger) {
                        connection->broken = true;
                        return;
                }
                connection->in = larger;
                connection->in_room = room;
        }
        n = recv(connection->fd, connection->in + connection->in_used,
                connection->in_room - connection->in_used, MSG_DONTWAIT);
        if (n > 0)
                connection->in_used += (size_t)n;
        else if (n == 0)
                connection->ended = true;
        else if (errno != EAGAIN && errno != EINTR)
                connection->broken = true;
}

static int connection_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
        struct connection *connection = userdata;

        (void)source;
        (void)fd;
        if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !connection->ended)
                read_some(connection);
        if (events & EPOLLOUT)
                flush(connection);
        if (events & EPOLLERR)
                connection->broken = true;
        if (connection->in_used > 0 && !connection->broken)
                serve_lines(connection);
        connection_send_events(connection);
        /* a peer that has closed its side may still read, but then it is no lifeline and waits for
         * nothing more than the answers that are queued */
        if (connection->broken ||
                (connection->ended && (connection->out_used == 0 || events & EPOLLHUP))) {
                connection_free(connection);
                return 0;
        }
        update_interest(connection);
        return 0;
}

/* Whether the configuration lets that peer speak with us at all. */
static bool peer_allowed(struct manager *manager, const struct ucred *peer)
{
        /* a user's daemon serves its user, and root who can do all that anyway */
        return manager->system || peer->uid == geteuid() || peer->uid == 0;
}

static int accept_connection(
        sd_event_source *source, int listening, uint32_t events, void *userdata)
{
        struct manager *manager = userdata;
        _cleanup_close_ int fd = -EBADF;
        struct connection *connection;
        struct ucred peer;
        socklen_t size = sizeof(peer);
        int r;

        (void)source;
        (void)events;
        fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
                return 0;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
                !peer_allowed(manager, &peer))
                return 0;
        if (manager->connection_count >= manager->config.connections) {
                static const char full[] =
                        "{\"id\":0,\"error\":{\"code\":\"busy\",\"message\":\"the "
                        "daemon has as many connections as it takes\",\"hint\":"
                        "\"Try again later.\"}}\n";

                (void)!send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
                return 0;
        }
        connection = calloc(1, sizeof(*connection));
        if (!connection)
                return 0;
        connection->manager = manager;
        connection->uid = peer.uid;
        connection->gid = peer.gid;
        connection->pid = peer.pid;
        connection->fd = fd;
        r = sd_event_add_io(
                manager->event, &connection->io, fd, EPOLLIN, connection_io, connection);
        if (r < 0) {
                free(connection);
                return 0;
        }
        TAKE_FD(fd);
        DL_APPEND(manager->connections, connection);
        manager->connection_count++;
        manager_look_idle(manager);
        return 0;
}

static void new_event(void *userdata, uint64_t serial, json_t *event)
{
        struct manager *manager = userdata;
        struct connection *connection;

        (void)serial;
        (void)event;
        /* sent from the loop: an event may come up in the middle of a change */
        DL_FOREACH(manager->connections, connection)
        if (connection->watching)
                update_interest(connection);
}

int control_listen(struct manager *manager)
{
        manager->events.watcher = new_event;
        return sd_event_add_io(manager->event, &manager->control_source, manager->control_fd,
                EPOLLIN, accept_connection, manager);
}

void control_done(struct manager *manager)
{
        struct connection *connection, *next;

        manager->events.watcher = NULL;
        manager->control_source = sd_event_source_disable_unref(manager->control_source);
        DL_FOREACH_SAFE(manager->connections, connection, next)
        {
                /* the tenants stay, for the next daemon */
                if (connection->lifeline) {
                        connection->lifeline->lifeline = NULL;
                        connection->lifeline = NULL;
                }
                connection_free(connection);
        }
        stops_done(manager);
        manager->control_fd = close_safe(manager->control_fd);
}
