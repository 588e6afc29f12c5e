/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command that runs in the place of this program: same process group, terminal, signals and exit
 * status, so that a shell above us sees no difference.
 *
 * It shares our process group, so what the terminal sends reaches it without us, and job control
 * works as ever. Signals that others send to us alone are passed on.
 */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

struct child {
        pid_t pid;
        int status; /* as waitpid() has it, once ended */
        bool ended;
        int signal_fd;             /* to be polled; then call child_handle_signals() */
        int release_fd;            /* the child waits at its other end */
        struct sigaction on_child; /* SIGCHLD's disposition before */
};

/* What happens in the child, after it was released and before it execs. Negative: it has said why
 * it cannot go on, and the child ends with 125. */
typedef int (*child_prepare_t)(void *context);

/* Forks the child, which waits until child_release(). Blocks signals in us and makes us the
 * subreaper of what it leaves behind. 0 or negative errno. */
int child_fork(struct child *child, char **argv, child_prepare_t prepare, void *context);

/* Lets the child exec; what it cannot execute it says itself, and ends with 126 or 127 as a shell
 * does. If we end before that, the child ends with 125. */
void child_release(struct child *child);

/* Kills a child that was not released yet, and waits for it. */
void child_abandon(struct child *child);

/* Takes the signals that have come: passes them on, reaps, stops and goes on with the child. */
void child_handle_signals(struct child *child);

/* Ends this process as the child has ended, by the same signal or with its exit status. */
void child_end_alike(const struct child *child) __attribute__((noreturn));
