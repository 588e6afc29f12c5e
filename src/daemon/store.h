/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where descriptors outlive the daemon: systemd's descriptor store, or our own keeper.
 *
 * The keeper is a small process, `cleaved --keeper`, started with the first tenant. It holds the
 * tenants' memfds and the listening sockets. When the daemon goes away without a farewell while
 * tenants live, it starts the daemon anew and hands everything over; whoever connects meanwhile
 * waits in the sockets' queues. It ends when it is told to or when the runtime directory vanishes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define STORE_NAME_MAX 48
#define KEEPER_SOCKET  "keeper.sock"

enum store_kind {
        STORE_KEEPER,
        STORE_SYSTEMD,
};

struct stored {
        char name[STORE_NAME_MAX];
        int fd;
};

struct store {
        enum store_kind kind;
        char *directory;
        char *const *restart; /* arguments to start the daemon anew, for the keeper; not ours */
        int fd;               /* connection to the keeper, -EBADF: none runs */
        pid_t keeper;
        size_t count; /* what was kept for us when we came */
        struct stored *kept;
};

int store_init(
        struct store *store, enum store_kind kind, const char *directory, char *const *restart);
void store_done(struct store *store);

/* Connects to a keeper that an earlier daemon left, and takes over what it holds into kept. 0 also
 * if there is none. */
int store_connect(struct store *store);
/* Adds a descriptor that came from systemd to kept; fd is taken over. */
int store_receive(struct store *store, const char *name, int fd);

/* A kept descriptor of that name, which is the caller's from then on, or -ENOENT. */
int store_take(struct store *store, const char *name);

/* Keeps a duplicate of fd under that name. Starts a keeper if there is none yet. */
int store_put(struct store *store, const char *name, int fd);
/* Keeps it no longer. */
void store_drop(struct store *store, const char *name);

/* Ends the keeper, which has nothing to keep. */
void store_let_go(struct store *store);

/* Tells the keeper that the daemon ends on purpose. ending: it need not keep anything either. */
void store_farewell(struct store *store, bool ending);

/* Messages between daemon and keeper, SOCK_SEQPACKET; a descriptor goes with PUT and ITEM. */
enum keeper_message_type {
        KEEPER_PUT = 1,  /* daemon: keep this */
        KEEPER_DROP,     /* daemon: no longer */
        KEEPER_FETCH,    /* daemon: send an ITEM each, then END */
        KEEPER_FAREWELL, /* daemon: I end on purpose, do not start me anew */
        KEEPER_QUIT,     /* daemon: end */
        KEEPER_ITEM,
        KEEPER_END,
};

struct keeper_message {
        uint32_t type;
        char name[STORE_NAME_MAX];
};

/* The keeper's main: fd is its connection to the daemon that started it, listening its socket. */
int keeper_run(const char *directory, int fd, char *const *restart);

int keeper_send(int fd, enum keeper_message_type type, const char *name, int passed);
/* 1: a message, ret_passed is its descriptor or -EBADF. 0: the peer closed. */
int keeper_receive(int fd, struct keeper_message *ret, int *ret_passed);
