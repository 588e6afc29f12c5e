/* SPDX-License-Identifier: Apache-2.0 */
/* The journal's records put together: what was true at its end. */
#pragma once

#include <jansson.h>

struct recovered {
        json_t *tenants; /* by id: the tenant's record, brought up to date, with "sessions" by slot
                          */
        json_int_t serial; /* of the last event */
        char *sim;         /* CLEAVE_SIM of that daemon, or NULL */
};

void recovered_done(struct recovered *state);
/* Takes a record in; those that make no sense are passed over. */
int recovered_apply(struct recovered *state, json_t *record);
