/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of the control socket, and what the methods need of them. */
#pragma once

#include <jansson.h>

#include "daemon/manager.h"

#define CONTROL_LINE_MAX    (1u << 20)
#define CONTROL_OUT_MAX     (16u << 20) /* a reader who lets this much pile up is given up */
#define CONTROL_OUT_HIGH    (1u << 20)  /* above, no more requests are read and no events added */
#define CONTROL_PENDING_MAX 32u         /* answers owed to one connection at a time */

struct connection {
        struct connection *next, *prev;
        struct manager *manager;
        int fd;
        sd_event_source *io;
        uid_t uid;
        gid_t gid;
        pid_t pid;
        char *in;
        size_t in_used, in_room, in_scanned;
        char *out;
        size_t out_used, out_room;
        bool ended; /* the peer has sent all it will, or must not send more */
        bool broken;

        struct tenant *lifeline;
        /* a tenant.create that waits */
        bool create_waits;
        json_int_t create_id;
        /* events.watch */
        bool watching, follow;
        json_int_t watch_id;
        uint64_t watch_next;
        unsigned pending;
};

/* A tenant.stop in progress. */
struct stop {
        struct stop *next, *prev;
        struct manager *manager;
        struct connection *connection; /* NULL: it has gone */
        json_int_t id;
        uint64_t tenant;
        sd_event_source *timer;
};

/* The result is taken over. */
void connection_reply(struct connection *connection, json_int_t id, json_t *result);
void connection_fail(
        struct connection *connection, json_int_t id, const struct cleave_error *error);
/* A tenant that had this connection for a lifeline is no more. */
void connection_forget_tenant(struct connection *connection);
/* Sends what fits of the events that it waits for. */
void connection_send_events(struct connection *connection);

/*
 * A method: 0: *ret_result is the answer; 1: it answers later; negative: error.
 * params is an object whose members have been checked against the table.
 */
int method_call(struct connection *connection, const char *name, json_t *params, json_int_t id,
        json_t **ret_result, struct cleave_error *error);

/* Grants what waits and now fits. */
void control_serve_waiting(struct manager *manager);
/* Answers the tenant.stop calls for it. */
void stops_tenant_ended(struct manager *manager, uint64_t tenant);
void stops_connection_ended(struct connection *connection);
void stops_done(struct manager *manager);
