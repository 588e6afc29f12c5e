/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A second thread that wakes the event loop for what is to be done in time: a host may let one
 * thread sleep for some ms longer than it should, of two that wait for the same moment seldom both.
 * The loop is woken on that thread's CPU, as its own may be one that the host does not run. The
 * thread does nothing else, and the loop's own timers stay what they are.
 */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

struct waker;

/* By the thread that runs the loop. 0 or negative errno. */
int waker_new(sd_event *event, struct waker **ret);
struct waker *waker_free(struct waker *waker);

/* Until the calling thread may run everywhere again. Before it begins a process or a thread, which
 * may run where it may. */
void waker_wait(struct waker *waker);

/* The loop is to run at that moment, ns of CLOCK_MONOTONIC, in place of the one that was told
 * before: it is woken if it has told no other a little later. 0: at none. NULL: nothing happens. */
void waker_set(struct waker *waker, uint64_t at);
