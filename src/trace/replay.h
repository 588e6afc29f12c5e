/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes the calls of a trace again.
 *
 * Each traced process is replayed by a process of its own and each thread by a thread. A call is
 * made when all calls have been made that had ended before it began: so whatever it could have
 * relied on is there, and what ran at the same time may do so again. Handles and addresses are
 * translated. What a copy carried comes from the trace if it is there, else it is zeros; functions
 * of the program's that the driver would call are replaced by one that does nothing.
 */
#pragma once

#include "trace/reader.h"

struct replay_options {
        uint32_t process;  /* only this one; 0: all */
        bool values;       /* also compare what calls give back besides their result */
        uint64_t patience; /* microseconds without any call's end before those that run are given up
                            */
};

enum replay_state {
        REPLAY_PENDING, /* not made: its process had ended before */
        REPLAY_RUNNING, /* begun, and not returned: killed with its process, or given up */
        REPLAY_SAME,
        REPLAY_RESULT,   /* another result */
        REPLAY_VALUE,    /* what parameter `which` points to is another */
        REPLAY_RETURNED, /* had not returned in the trace; here it has */
        /* not made, and why: */
        REPLAY_SKIPPED,                    /* first of those */
        REPLAY_NO_HANDLE = REPLAY_SKIPPED, /* `which` is a handle that no call of the trace made */
        REPLAY_LOST_HANDLE,   /* `which` is one whose call failed, or was not made, here */
        REPLAY_NO_PARAMETERS, /* the traced driver did not tell the kernel's parameters */
        REPLAY_OUTSIDE,       /* reaches beyond the process: other processes, files, displays */
        REPLAY_ENDING,        /* its process was ending, and the driver had ended before it */
        REPLAY_TOO_LARGE,     /* parameter `which` */
        REPLAY_FORKED,        /* its process was forked from one that used CUDA already */
        REPLAY_NO_ENTRY,      /* the library here does not have it */
        REPLAY_DAMAGED,
        REPLAY_UNWANTED, /* of a process that was not asked for */
};

struct replay_outcome {
        _Atomic uint8_t state; /* enum replay_state */
        uint8_t which;         /* a parameter */
        /* What was done unseen for this call, see unseen.h: */
        uint8_t contexts; /* how many were taken for a primary one, here for the first time */
        bool current;     /* its thread was given a context */
        int32_t result;
};

/* ret: what became of each of the trace's events, in new memory. */
int replay_run(const struct trace_file *file, const struct replay_options *options,
        struct replay_outcome **ret, struct cleave_error *error);

/* A state as a word for JSON, and as a clause for people. */
const char *replay_state_word(enum replay_state state);
const char *replay_state_text(enum replay_state state);
