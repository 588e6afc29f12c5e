/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A second thread for what need not wait for a call that takes long. RM makes no calls for up to
 * 0.1 s while it takes down the contexts of a process that has died, or makes another's: of two
 * calls made one after the other each waits for it, of two made at once both wait once.
 *
 * While nothing takes long, that thread sleeps, and what it costs is setting a timer twice a call.
 */
#pragma once

#include <stdbool.h>

struct aside;

/* overtake: does the next thing that need not wait for what is under way, in that thread. False:
 * there is none yet. 0 or negative errno; aside_free() is the caller's. */
int aside_new(bool (*overtake)(void *userdata), void *userdata, struct aside **ret);
void aside_free(struct aside *aside);

/* Something begins that may take long, and may be overtaken meanwhile. NULL: it is not. */
void aside_begin(struct aside *aside);
/* It is over, and so is what has overtaken it: waits for that. */
void aside_end(struct aside *aside);
