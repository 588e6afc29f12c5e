/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A change of the machine, from its plan to its end: recorded before anything is written, written
 * step by step, each step read back, everything taken back where one fails.
 *
 * The record holds the whole plan with what undoes it, so whoever finds it after a crash needs to
 * know nothing else. What undoes a step is only written while the machine still shows what the step
 * made of it: what others have changed since is left to them, and undoing twice is undoing once.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "partition/host.h"

#define CHANGE_ID_MAX 64

enum change_phase {
        CHANGE_APPLYING, /* writing, or cut short there: to be taken back */
        CHANGE_DONE,     /* the partition exists */
        CHANGE_UNDOING,  /* being taken back, or cut short there */
};
const char *change_phase_word(enum change_phase phase);

struct change_undo {
        char *path, *value;
        char *when_path, *when_value; /* written only while this reads so */
};

/* A change may take the place of one that was made before: then it also has steps of that one which
 * stay, and steps that clear away some of what was made. Rolling back brings back what was
 * cleared, and leaves what was kept. */
enum change_role {
        CHANGE_MAKES,
        CHANGE_KEEPS,  /* made before; not undone by a rollback */
        CHANGE_CLEARS, /* undone by a rollback only */
};

struct change_step {
        enum change_role role;
        char *what;         /* for people, a phrase: "take 0000:01:00.0 from nvidia" */
        char *path, *value; /* below sysfs, or NVIDIA's driver's (migdriver.h) */
        char *expect_path, *expect_value; /* what host_state() gives afterwards; "" is absent */
        char *before;                     /* what it gave when the plan was made */
        struct change_undo undo[2];       /* in this order */
        size_t n_undo;
};

struct change {
        char id[CHANGE_ID_MAX]; /* stable: technique and device */
        char technique[24];
        char device[48];  /* its parent: PCI address, or a UUID */
        json_t *geometry; /* what was made, an object; owned */
        enum change_phase phase;
        char boot[48];    /* boot id under which it was made */
        json_t *previous; /* the record whose place it takes, NULL; owned */
        struct change_step *steps;
        size_t n_steps;
};

void change_done(struct change *change);
#define _cleanup_change_ _cleanup_(change_done)

/* Begins a plan. device: also part of the id. */
int change_init(
        struct change *change, const struct host *host, const char *technique, const char *device);

/* Adds a step; the pointer is valid until the next one is added. expect_path NULL: the path itself
 * gives back the value. Reads what is there before. NULL: no memory. */
struct change_step *change_add(struct change *change, const struct host *host, const char *what,
        const char *path, const char *value, const char *expect_path, const char *expect_value);
/* Adds what undoes the step, at most two. 0 or -ENOMEM. */
int change_add_undo(struct change_step *step, const char *path, const char *value,
        const char *when_path, const char *when_value);

/*
 * Carries it out. 0: recorded as done, and what was cleared is forgotten. Negative: nothing is left
 * of it, or, where something could not be taken back, the record stays and the error says so.
 * -EEXIST with NAME_TAKEN: there is a record of that id, and it
 * is not the one in previous. -EBUSY: another change is under way.
 * -ETIMEDOUT: a write did not return in time.
 */
int change_apply(struct host *host, struct change *change, struct cleave_error *error);

/* Takes a change that is done back, and removes its record. Errors as above. */
int change_undo(struct host *host, struct change *change, struct cleave_error *error);

/* Takes over a step of another change as one that stays. 0 or -ENOMEM. */
int change_keep(struct change *change, const struct change_step *step);

/* Whether the machine still shows what was made: every step's, none's, or some. */
enum change_standing {
        CHANGE_STANDS,
        CHANGE_PARTLY,
        CHANGE_GONE,
        CHANGE_UNKNOWN, /* it cannot be looked at now */
};
enum change_standing change_standing(const struct host *host, const struct change *change);

/* All records, in new memory, sorted by id; ones that cannot be read are counted in ret_bad. */
int change_load_all(const struct host *host, struct change **ret, size_t *ret_n, size_t *ret_bad);
void change_free_all(struct change *changes, size_t n);
/* -ENOENT with NO_SUCH_DEVICE. */
int change_load(
        const struct host *host, const char *id, struct change *ret, struct cleave_error *error);

/*
 * After a crash or a restart of the machine: changes that were cut short are taken back; records of
 * what a restart has wiped away, or of what others have undone, are removed. each is called with
 * what became of every record that is not simply standing.
 * 0, or the last failure: its record stays.
 */
int change_reconcile(struct host *host,
        void (*each)(void *context, const struct change *change, const char *outcome,
                const struct cleave_error *error),
        void *context, struct cleave_error *error);

/* The plan for people: for each step what it does, and with paths the exact write. */
void change_print(FILE *out, const struct host *host, const struct change *change);
/* As JSON: id, technique, device, phase, geometry, steps. A new reference, or NULL. */
json_t *change_to_json(const struct change *change);
