/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All that policy/switches.h is told, in a text file that bench/probes/replay.c tells it again: how
 * one finds out why a tenant on some GPU is taken for what it is. Only where CLEAVE_SWITCHES says
 * so: the file is that and the pid, and no other is overwritten. A line for each call, its first
 * word the name of the function without switches_, then the device and the arguments in their
 * order; but "init" has the costs alone, of all devices, and "begin" since when one is watched.
 * "asked" is none of these: before somebody is disabled (1) or enabled (0), when the daemon was to
 * decide that, when it sent it, and when that was received. Whoever calls holds a lock. diary may
 * be NULL: nothing is done.
 */
#pragma once

#include <stdint.h>

struct diary;

/* NULL: it is not wanted, or cannot be written, which is said on standard error. */
struct diary *diary_new(void);
struct diary *diary_free(struct diary *diary);

void diary_note(struct diary *diary, const char *what, unsigned device, const char *format, ...)
        __attribute__((format(printf, 4, 5)));
