/* SPDX-License-Identifier: Apache-2.0 */
/* What the prototypes do not say of a call's arguments: the parameters of a kernel, code, and
 * values whose size an attribute gives. The same for who records and who replays. */
#pragma once

#include <stdbool.h>

#include "cuda_trace.h"

#pragma GCC visibility push(hidden)

/* Where a call that launches a kernel, or describes such a launch for a graph, keeps what. */
struct call_launch {
        CUfunction function; /* or a CUkernel; NULL: the call names none */
        void ***parameters;  /* to the pointer that the caller passes */
        void ***extra;       /* NULL: it has none */
};

/* Whether the call is such a one. The pointers in args must be good. */
bool call_launch(unsigned entry, void *args, struct call_launch *ret);

/* The parameter of an entry that points to code, or -1. */
int call_code_parameter(unsigned entry);
/* The start and size of code as a module is loaded from: PTX, a cubin, a fat binary, or what nvcc
 * wraps around one. 0: it is none of these. */
size_t call_code_size(const void *code, const void **ret_start);

/* The parameter that is a small value, whose size is ret_size in this call; or -1. */
int call_value_parameter(unsigned entry, const void *args, size_t *ret_size);

#pragma GCC visibility pop
