/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread of the steering process that reads the engines' records of context switches and writes
 * on the view what they tell (policy/switches.h). It has a handle of the backend of its own, so
 * that no turn waits for what it asks. Calls may come with watch NULL, and with pid 0: nothing is
 * done.
 */
#pragma once

#include "steer/steer.h"

struct watch;

/* -EBADF: there is no view; -EOPNOTSUPP: nor such a backend; or what failed. */
int watch_new(
        int view_fd, const struct steer_backend *backend, const void *argument, struct watch **ret);
struct watch *watch_free(struct watch *watch);

/* A device that is to be watched. */
void watch_device(struct watch *watch, unsigned device, const uint8_t uuid[16]);
/* As switches_call(), now. */
void watch_call(struct watch *watch, unsigned device);
/* Who has the engine at this moment, by a look at its records; 0: it is not known. */
uint32_t watch_holder(struct watch *watch, unsigned device);
/* As switches_slice(), switches_mode(), switches_keep() and switches_off(). */
void watch_slice(struct watch *watch, unsigned device, uint32_t pid, uint64_t slice_us);
void watch_mode(struct watch *watch, unsigned device, uint32_t pid, bool thread_block);
void watch_turns(struct watch *watch, unsigned device, uint32_t pid, uint64_t at,
        const struct cleave_turns *turns);
/* Somebody is to be enabled or disabled: when that was due, sent and received. */
void watch_asked(struct watch *watch, unsigned device, bool disable, uint64_t due, uint64_t sent,
        uint64_t received);
void watch_switched(struct watch *watch, unsigned device, uint32_t pid, uint64_t from, uint64_t to,
        bool disabled);
