/* SPDX-License-Identifier: Apache-2.0 */
/* Which daemon the verbs speak with, and starting it. */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "client/client.h"
#include "cli/options.h"

/* What is simulated where nobody says more. */
#define DAEMON_SIM_MODEL "h100"
#define SIM_OPTION                                                                                 \
        {                                                                                          \
                .name = "sim", .argument = "MODEL", .optional = true,                              \
                .choices = "h100 h200 a100 a30 b200 t4",                                           \
                .help = "Use simulated GPUs: a model, or several as h100x2 or a100,h100. A "       \
                        "daemon "                                                                  \
                        "of their own serves them.",                                               \
                .preset = DAEMON_SIM_MODEL,                                                        \
        }

enum daemon_flags {
        DAEMON_START = 1, /* start this user's own daemon if none listens */
        DAEMON_QUIET = 2, /* no line that says so when starting takes a while */
        DAEMON_SIM = 4,   /* the daemon of the simulated GPU */
        DAEMON_MODEL = 8, /* and no other models than those of CLEAVE_SIM */
        DAEMON_REAL = 16, /* not the simulated GPU's daemon, unless it is asked for */
};

/* The runtime directory of the daemon that we speak with, as runtime_dir(); with DAEMON_SIM, or
 * where CLEAVE_SIM is set, that of the simulated GPU's daemon, which is apart so that simulated
 * and real GPUs can be used side by side. Without DAEMON_SIM the simulated GPU's daemon is also
 * taken where it listens and no other does, but not with DAEMON_REAL. A directory that
 * CLEAVE_RUNTIME_DIR gives is taken for either; once a daemon without a simulated GPU listens
 * there, daemon_connect() goes to one beside it. ret_system may be NULL. */
int daemon_directory(unsigned flags, char **ret, bool *ret_system, struct cleave_error *error);

/* What --sim asks for: sets CLEAVE_SIM, for this process and the daemon that it starts. models: the
 * option's value, NULL where it was not given. The flags that go with it: DAEMON_MODEL where models
 * were named, by the option or by CLEAVE_SIM. */
unsigned daemon_take_sim(const char *models);

/* Connects. ret_directory: its runtime directory in new memory, may be NULL. With DAEMON_MODEL a
 * daemon that simulates other models goes over to these, or, while those are in use, this fails
 * with BUSY.
 * 0, or negative errno with UNREACHABLE, NOT_PERMITTED or another reason in error. */
int daemon_connect(
        unsigned flags, struct client **ret, char **ret_directory, struct cleave_error *error);

/* The same for a directory that is known; only DAEMON_START and DAEMON_QUIET count. */
int daemon_connect_at(
        const char *directory, unsigned flags, struct client **ret, struct cleave_error *error);

/* Path of the daemon's program: beside ours in a build directory, else where it is installed.
 * -ENOENT. */
int daemon_program(char **ret);

/* Prints "cleave VERB: message" and the hint; returns the exit status that belongs to it. */
int cli_report(const struct cli_verb *verb, const struct cleave_error *error);
