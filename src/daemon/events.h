/* SPDX-License-Identifier: Apache-2.0 */
/* What happened, in order, for whoever watches: the newest of it is kept. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define EVENTS_KEPT 4096u

/* X(identifier, word): the kinds of docs/control-protocol.md */
#define EVENT_KINDS(X)                                                                             \
        X(DAEMON_STARTED, "daemon-started")                                                        \
        X(DAEMON_RECOVERED, "daemon-recovered")                                                    \
        X(TENANT_CREATED, "tenant-created")                                                        \
        X(TENANT_WAITING, "tenant-waiting")                                                        \
        X(TENANT_ENDED, "tenant-ended")                                                            \
        X(TENANT_CHANGED, "tenant-changed")                                                        \
        X(PROCESS_JOINED, "process-joined")                                                        \
        X(PROCESS_LEFT, "process-left")                                                            \
        X(PROCESS_REFUSED, "process-refused")                                                      \
        X(MEMORY_REFUSED, "memory-refused")                                                        \
        X(MEMORY_RETURNED, "memory-returned")                                                      \
        X(OVER_QUOTA, "over-quota")                                                                \
        X(STRANGER, "stranger")                                                                    \
        X(STRANGER_KILLED, "stranger-killed")                                                      \
        X(DEVICES_RELEASED, "devices-released")                                                    \
        X(DEVICES_ACQUIRED, "devices-acquired")                                                    \
        X(DEVICE_LOST, "device-lost")                                                              \
        X(JOURNAL_FAILED, "journal-failed")                                                        \
        X(PAGE_DAMAGED, "page-damaged")                                                            \
        X(COMPUTE_REFUSED, "compute-refused")                                                      \
        X(COMPUTE_RESTORED, "compute-restored")                                                    \
        X(COMPUTE_GATED, "compute-gated")                                                          \
        X(STEERING_FAILED, "steering-failed")                                                      \
        X(SERVER_LOST, "server-lost")                                                              \
        X(SERVER_BACK, "server-back")                                                              \
        X(SERVER_REFUSED, "server-refused")

enum event_kind {
#define X(identifier, word) EVENT_##identifier,
        EVENT_KINDS(X)
#undef X
};

const char *event_word(enum event_kind kind);

struct events {
        uint64_t last; /* serial number of the newest, 0: none yet */
        json_t *ring[EVENTS_KEPT];
        /* called with each new event, the reference is the ring's */
        void (*watcher)(void *userdata, uint64_t serial, json_t *event);
        /* whose tenant that is: 0 or -ENOENT; may be NULL */
        int (*owner)(void *userdata, uint64_t tenant, uid_t *ret);
        void *userdata;
};

void events_done(struct events *events);

/* What an event is about; zero and NULL members are null in it. */
struct event_subject {
        uint64_t tenant;
        const char *device; /* uuid */
        pid_t pid;
        const uid_t *owner; /* whose business it is; NULL: the tenant's user's, without one
                               everybody's */
        json_t *detail;     /* taken over */
};

/* Adds an event. It cannot fail in a way that matters: without memory, a serial number is left out.
 */
void events_add(struct events *events, enum event_kind kind, struct event_subject subject,
        const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Whether a user may see an event. */
bool event_concerns(json_t *event, uid_t uid);

/* The event of that serial number, or NULL if it is no longer, or not yet, kept. */
json_t *events_get(const struct events *events, uint64_t serial);
/* The oldest that may be kept. */
uint64_t events_first(const struct events *events);
