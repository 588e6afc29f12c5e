/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells the model of an engine's switches (policy/switches.h) again what a daemon's steering
 * process was told and has written down (CLEAVE_SWITCHES), and shows what the model makes of it: of
 * each process how many of its runs were cut, ended for want of work or by disabling, or could only
 * be guessed, and by how much they were longer than the slice in force; with --runs each run. And
 * how late it was with what passes on turns and keeps to caps: by how much the daemon came later
 * than it was to, and the steering process later than it was told.
 *
 * usage: probe-replay [--runs] FILE
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "policy/switches.h"

#define DEVICES    16u
#define PROCESSES  256u
#define RUNS_MAX   (1u << 16) /* of one kind that the quantiles are of */
#define KINDS      5u
#define GUESSED    4u /* beside enum switches_end */
#define LINE_BYTES 256u

static const char *const kind_words[KINDS] = {
        [SWITCHES_NEVER] = "?",
        [SWITCHES_CUT] = "cut",
        [SWITCHES_IDLE] = "idle",
        [SWITCHES_OFF] = "off",
        [GUESSED] = "guessed",
};

static struct switches device[DEVICES];
static struct process {
        unsigned device;
        uint32_t id;
        unsigned count[KINDS];
        int64_t *over[KINDS]; /* ns that a run was longer than the last of its slices */
} process[PROCESSES];
static unsigned processes;
/* Of calls that enable or disable. */
static struct late {
        unsigned count;
        int64_t sent[RUNS_MAX], received[RUNS_MAX]; /* ns after they were due, or sent */
} late[DEVICES];
static bool show_runs;
static uint64_t first;

static struct process *process_of(unsigned d, uint32_t id)
{
        for (unsigned i = 0; i < processes; i++)
                if (process[i].device == d && process[i].id == id)
                        return &process[i];
        if (processes == PROCESSES)
                return NULL;
        process[processes] = (struct process){.device = d, .id = id};
        for (unsigned k = 0; k < KINDS; k++) {
                process[processes].over[k] = calloc(RUNS_MAX, sizeof(int64_t));
                if (!process[processes].over[k])
                        abort();
        }
        return &process[processes++];
}

/* That process's run has just ended. */
static void note_run(unsigned d, uint32_t id, uint64_t begun, uint64_t ended)
{
        struct process *p = process_of(d, id);

        for (uint32_t i = 0; p && i < device[d].free; i++) {
                const struct switches_owner *owner = &device[d].owner[i];
                unsigned kind = owner->guessed ? GUESSED : (unsigned)owner->end;
                int64_t over = (int64_t)(ended - begun), slice = (int64_t)owner->slice_ns;

                if (owner->id != id)
                        continue;
                if (slice > 0 && over > slice)
                        over = slice + over % slice;
                over -= slice;
                if (p->count[kind] < RUNS_MAX)
                        p->over[kind][p->count[kind]] = over;
                p->count[kind]++;
                if (show_runs)
                        printf("%10.3f device %u process %u ran %8.1f us, slice %8.1f us, "
                               "over %8.1f us: %s%s%s\n",
                                (double)(ended - first) / 1e6, d, id, (double)(ended - begun) / 1e3,
                                (double)slice / 1e3, (double)over / 1e3, kind_words[owner->end],
                                owner->guessed ? ", guessed" : "",
                                owner->made_room ? ", made room" : "");
        }
}

static void tell_record(unsigned d, uint32_t id, uint64_t at, bool start)
{
        const struct switches_owner *holder = device[d].holder;
        uint64_t begun = device[d].begun;
        uint32_t had = holder ? holder->id : 0;

        if (!first)
                first = at;
        switches_record(&device[d], id, at, start);
        if (had && (!start || had != id) && device[d].holder != holder)
                note_run(d, had, begun, at);
}

/* False: the line is not understood. */
static bool tell(const char *line)
{
        char what[16];
        unsigned d;
        uint64_t a[6] = {0};
        int n = sscanf(line,
                "%15s %u %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64,
                what, &d, a, a + 1, a + 2, a + 3, a + 4, a + 5);
        struct switches *switches;

        if (n < 3 || d >= DEVICES)
                return false;
        switches = &device[d];
        if (strcmp(what, "init") == 0 && n == 6) {
                /* before all else, and of all devices */
                const struct switches_costs costs = {a[0], a[1], a[2], a[3]};

                for (unsigned i = 0; i < DEVICES; i++)
                        switches_init(&device[i], &costs, 0);
        } else if (strcmp(what, "begin") == 0) {
                switches->now = switches->sampled = a[0];
                switches_wake(switches, a[0]);
        } else if (strcmp(what, "record") == 0 && n == 5)
                tell_record(d, (uint32_t)a[0], a[1], a[2]);
        else if (strcmp(what, "look") == 0)
                switches_look(switches, a[0]);
        else if (strcmp(what, "lost") == 0)
                switches_lost(switches, a[0]);
        else if (strcmp(what, "busy") == 0 && n == 6)
                switches_busy(switches, a[0], a[1], a[2], (uint32_t)a[3]);
        else if (strcmp(what, "rest") == 0)
                switches_rest(switches, a[0]);
        else if (strcmp(what, "wake") == 0)
                switches_wake(switches, a[0]);
        else if (strcmp(what, "call") == 0)
                switches_call(switches, a[0]);
        else if (strcmp(what, "slice") == 0 && n == 5)
                switches_slice(switches, (uint32_t)a[0], a[1], a[2]);
        else if (strcmp(what, "mode") == 0 && n == 5)
                switches_mode(switches, (uint32_t)a[0], a[1], a[2]);
        else if (strcmp(what, "keep") == 0 && n == 8)
                switches_keep(switches, (uint32_t)a[0], a[1],
                        &(const struct cleave_turns){a[2], a[3], a[4], a[5]});
        else if (strcmp(what, "off") == 0 && n == 6)
                switches_off(switches, (uint32_t)a[0], a[1], a[2], a[3]);
        else if (strcmp(what, "asked") == 0 && n == 6) {
                if (late[d].count < RUNS_MAX) {
                        late[d].sent[late[d].count] = (int64_t)(a[2] - a[1]);
                        late[d].received[late[d].count++] = (int64_t)(a[3] - a[2]);
                }
        } else
                return false;
        return true;
}

static int compare(const void *a, const void *b)
{
        int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

        return (x > y) - (x < y);
}

static void show(struct process *p)
{
        struct switches_sight sight = {0};

        (void)switches_sight(&device[p->device], p->id, &sight);
        printf("device %u process %u: used %.3f s, %" PRIu64 " times out of work", p->device, p->id,
                (double)sight.used_ns / 1e9, sight.starts);
        if (sight.short_ns)
                printf(", works for %.1f us at a time", (double)sight.short_ns / 1e3);
        putchar('\n');
        for (unsigned k = 0; k < KINDS; k++) {
                unsigned count = MIN_OF(p->count[k], RUNS_MAX);
                const int64_t *over = p->over[k];

                if (!count)
                        continue;
                qsort(p->over[k], count, sizeof(*over), compare);
                printf("  %-8s %6u runs, longer than slices by %.1f, %.1f, %.1f, %.1f, %.1f us "
                       "(least, 10, 50, 90 %%, most)\n",
                        kind_words[k], p->count[k], (double)over[0] / 1e3,
                        (double)over[count / 10] / 1e3, (double)over[count / 2] / 1e3,
                        (double)over[(uint64_t)count * 9 / 10] / 1e3,
                        (double)over[count - 1] / 1e3);
        }
}

static void show_late(const char *what, int64_t *late_ns, unsigned count)
{
        qsort(late_ns, count, sizeof(*late_ns), compare);
        printf("  %-8s %8.1f, %.1f, %.1f, %.1f us (50, 90, 99 %%, most)\n", what,
                (double)late_ns[count / 2] / 1e3, (double)late_ns[(uint64_t)count * 9 / 10] / 1e3,
                (double)late_ns[(uint64_t)count * 99 / 100] / 1e3,
                (double)late_ns[count - 1] / 1e3);
}

int main(int argc, char **argv)
{
        unsigned bad = 0, lines = 0;
        char line[LINE_BYTES];
        FILE *file;

        show_runs = argc == 3 && strcmp(argv[1], "--runs") == 0;
        if (argc != 2 && !show_runs) {
                fprintf(stderr, "usage: probe-replay [--runs] FILE\n");
                return 2;
        }
        file = fopen(argv[argc - 1], "re");
        if (!file) {
                perror(argv[argc - 1]);
                return 1;
        }
        for (unsigned d = 0; d < DEVICES; d++)
                switches_init(&device[d], NULL, 0);
        while (fgets(line, sizeof(line), file)) {
                lines++;
                bad += !tell(line);
        }
        fclose(file);
        for (unsigned i = 0; i < processes; i++) {
                show(&process[i]);
                for (unsigned k = 0; k < KINDS; k++)
                        free(process[i].over[k]);
        }
        for (unsigned d = 0; d < DEVICES; d++) {
                if (!late[d].count)
                        continue;
                printf("device %u: %u calls that disable or enable, late by\n", d, late[d].count);
                show_late("sent", late[d].sent, late[d].count);
                show_late("received", late[d].received, late[d].count);
        }
        /* the last may be cut off, where the process was killed */
        if (bad > 1 || lines == 0)
                fprintf(stderr, "probe-replay: %u of %u lines are not understood\n", bad, lines);
        return bad > 1 || lines == 0;
}
