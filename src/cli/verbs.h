/* SPDX-License-Identifier: Apache-2.0 */
/* One file per verb, verb_NAME.c, holds its table and what it does. */
#pragma once

#include "cli/options.h"

extern const struct cli_verb verb_run;
extern const struct cli_verb verb_ps;
extern const struct cli_verb verb_inspect;
extern const struct cli_verb verb_set;
extern const struct cli_verb verb_stop;
extern const struct cli_verb verb_devices;
extern const struct cli_verb verb_release;
extern const struct cli_verb verb_partition;
extern const struct cli_verb verb_passthrough;
extern const struct cli_verb verb_advise;
extern const struct cli_verb verb_mps;
extern const struct cli_verb verb_bench;
extern const struct cli_verb verb_trace;
extern const struct cli_verb verb_replay;
extern const struct cli_verb verb_events;
extern const struct cli_verb verb_cdi;
extern const struct cli_verb verb_container_hook;
extern const struct cli_verb verb_doctor;
extern const struct cli_verb verb_version;
extern const struct cli_verb verb_completion;
extern const struct cli_verb verb_help;
