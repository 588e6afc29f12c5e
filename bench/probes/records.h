/* SPDX-License-Identifier: Apache-2.0 */
/* Context-switch records, read from an event buffer of our own and kept. */
#pragma once

#include "client.h"

struct reader {
        struct client rm;
        uint32_t event_buffer;
        const struct rm_event_header *header;
        const struct rm_fecs_record *ring;
        uint32_t get;
        uint16_t seqno;
        bool begun;
        uint64_t lost; /* by the numbers of the records */
};

struct seen {
        struct rm_fecs_record record;
        uint64_t age; /* ns from the event until we saw it */
};

/* All records seen since seen_count was set to 0, up to a million. */
extern struct seen *seen;
extern unsigned seen_count;

/* 0, or -errno, said on standard output. */
int reader_open(struct reader *reader, bool all_users, bool quiet);
void reader_close(struct reader *reader);

/* Takes what RM has put into the buffer. */
void reader_poll(struct reader *reader);

/* Has RM put there what the engine has recorded; ns that it took. */
uint64_t reader_flush(struct reader *reader);

/* Prints who had the engine between two times of the GPU's clock, by the records seen, of which
 * those from first on are new. */
void records_print(unsigned first, uint64_t from, uint64_t to);

/* Sorts the values, in ns. */
void print_spread(const char *what, uint64_t *values, unsigned n);
