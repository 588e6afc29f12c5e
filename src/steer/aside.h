/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A second thread for what need not wait for a call that takes long, nor for a thread that is woken
 * late. RM makes no calls for up to 0.1 s while it takes down the contexts of a process that has
 * died, or makes another's: of two calls made one after the other each waits for it, of two made at
 * once both wait once. And a host may let a thread sleep for some ms longer than it should, of two
 * seldom both.
 *
 * While nothing takes long, that thread looks once for each thing that comes whether it has been
 * taken: what it costs is that, and setting a timer twice a call.
 */
#pragma once

#include <stdbool.h>

struct aside;

struct aside_work {
        /* Does the next thing that need not wait for what is under way, in that thread. False:
         * there is none yet. */
        bool (*overtake)(void *userdata);
        /* Nothing is under way, and what has come has not been taken: does it, unless it is taken
         * by now. */
        void (*take_over)(void *userdata);
        int inbox; /* can be read when something has come; stays the caller's */
        void *userdata;
};

/* 0 or negative errno; aside_free() is the caller's. */
int aside_new(const struct aside_work *work, struct aside **ret);
void aside_free(struct aside *aside);

/* Something begins that may take long, and may be overtaken meanwhile. NULL: it is not. */
void aside_begin(struct aside *aside);
/* It is over, and so is what has overtaken it: waits for that. */
void aside_end(struct aside *aside);
