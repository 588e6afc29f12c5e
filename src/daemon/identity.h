/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which tenant a process belongs to, by the kernel's word alone: its cgroup, or its ancestors.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/process.h"

/* Where the version 2 hierarchy is mounted, or NULL. */
const char *cgroup_mount(void);

/*
 * Makes the cgroup of a tenant below that of the process pid (its `cleave run`), for uid to move
 * its processes into. ret: its path in the hierarchy, as /proc/PID/cgroup shows it. -ENOTSUP: that
 * process's cgroup is not ours or uid's to divide; why is a sentence for people.
 */
int cgroup_make(pid_t pid, uid_t uid, uint64_t tenant, char **ret, const char **ret_why);
/* The same path as a directory's, in new memory; NULL without memory. */
char *cgroup_directory(const char *path);
/* Moves a process there. */
int cgroup_move(const char *path, pid_t pid);
/* Removes it, if no process is in it any more. */
void cgroup_remove(const char *path);
/* Whether a process's path is that cgroup or below it. */
bool cgroup_contains(const char *path, const char *of_process);

/* A process and its ancestors up to init, nearest first; each started no later than the one before,
 * so that a pid given anew is not taken for an ancestor. Nobody beyond last; 0: everybody. */
#define ANCESTRY_MAX 64
struct ancestor {
        pid_t pid;
        uint64_t start_time;
};
int ancestry(pid_t pid, pid_t last, struct ancestor ret[static ANCESTRY_MAX], unsigned *ret_count);
