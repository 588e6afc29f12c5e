/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of a tenant's JSON object, as several verbs show them. */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "cli/output.h"

#define TENANT_COMMAND_MAX 512
#define TENANT_SHORT_ID    8 /* digits of an id that tables show */

/* The command as one line of printable text. Returns buffer. */
char *tenant_command(char buffer[static TENANT_COMMAND_MAX], const json_t *tenant);

/* Colour of a state. */
enum output_tone tenant_tone(const char *state);

/* "1.5 / 8 GiB" in words, with a bar before it on a terminal. Returns buffer. */
char *tenant_memory(char *buffer, size_t size, const json_t *device);

/* "30%", "30% <50%", "<50% high": guarantee, cap and a priority that is not normal; "-" where the
 * tenant has none of them. Returns buffer. */
char *tenant_compute(char *buffer, size_t size, const json_t *tenant);

/* How long ago a time in seconds since the epoch was: "5 min". Returns buffer of
 * FORMAT_DURATION_MAX. "-" if unknown. */
char *age_of(char *buffer, const json_t *time);
/* A time as "2026-11-21 14:03:07". Returns buffer of 32 bytes. "-" if unknown. */
char *time_of(char *buffer, const json_t *time);
