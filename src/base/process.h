/* SPDX-License-Identifier: Apache-2.0 */
/* What /proc says about other processes. A process may end at any time: -ESRCH. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct process_status {
        pid_t parent;
        char state;          /* 'R', 'S', 'Z' … */
        uint64_t start_time; /* field 22 of /proc/PID/stat: with the pid it names a process for good
                              */
};

int process_status(pid_t pid, struct process_status *ret);
int process_start_time(pid_t pid, uint64_t *ret);

/* Path of its cgroup in the version 2 hierarchy, as "/user.slice/x"; -ENODATA where there is none.
 */
int process_cgroup(pid_t pid, char **ret);

/* Effective uid. */
int process_uid(pid_t pid, uid_t *ret);

/* The inode that names its pid namespace, for as long as a process is in it. */
int process_pid_namespace(pid_t pid, uint64_t *ret);

/* The user, of our own user namespace, who made the user namespace it is in. -ENOTTY before
 * Linux 4.11. */
int process_namespace_owner(pid_t pid, uid_t *ret);

/* Its command line as one line of printable text, or the name in brackets where it has none. */
int process_command(pid_t pid, char *buffer, size_t size);

/* A close-on-exec descriptor that becomes readable when the process ends. -ENOSYS before Linux 5.3.
 */
int process_open(pid_t pid);
/* Sends a signal to the process behind that descriptor, to no other. */
int process_signal(int pidfd, int signal);

/* The same process still runs: exists, is not a zombie, and started then. */
int process_is(pid_t pid, uint64_t start_time);
