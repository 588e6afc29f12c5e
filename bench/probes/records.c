/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "probe.h"
#include "records.h"

#define HEADER_BYTES 4096u
#define RECORDS      32768u
#define MAX_SEEN     (1u << 20)

struct seen *seen;
unsigned seen_count;

int reader_open(struct reader *reader, bool all_users, bool quiet)
{
        struct rm_event_buffer_params params = {
                .record_size = sizeof(struct rm_fecs_record), .record_count = RECORDS};
        struct rm_fecs_bind bind = {.record_size = 24, .all_users = all_users};
        struct rm_event_buffer_enable enable = {.enable = 1, .flags = RM_EVENT_BUFFER_KEEP_NEWEST};
        uint32_t status;

        memset(reader, 0, sizeof(*reader));
        if (!seen)
                seen = calloc(MAX_SEEN, sizeof(*seen));
        if (!seen)
                return -ENOMEM;
        if (client_open(&reader->rm, quiet) < 0)
                return -EIO;
        reader->header = client_read_only_memory(&reader->rm, HEADER_BYTES, &params.header_memory);
        reader->ring = client_read_only_memory(
                &reader->rm, RECORDS * sizeof(*reader->ring), &params.record_memory);
        if (!reader->header || !reader->ring)
                return -EIO;
        params.subdevice = reader->rm.subdevice;
        status = client_alloc(&reader->rm, reader->rm.handle, RM_CLASS_EVENT_BUFFER, &params,
                sizeof(params), &reader->event_buffer);
        client_step(&reader->rm, "event buffer", status);
        if (status != RM_OK)
                return -EIO;
        bind.event_buffer = reader->event_buffer;
        status = client_control(
                &reader->rm, reader->rm.subdevice, RM_CTRL_GR_FECS_BIND, &bind, sizeof(bind));
        client_step(&reader->rm, all_users ? "GR_FECS_BIND, all users" : "GR_FECS_BIND, own user",
                status);
        if (status != RM_OK) {
                printf("  reason %u\n", bind.reason);
                return -EIO;
        }
        status = client_control(&reader->rm, reader->event_buffer, RM_CTRL_EVENT_BUFFER_ENABLE,
                &enable, sizeof(enable));
        client_step(&reader->rm, "EVENT_BUFFER_ENABLE, keep newest", status);
        return status == RM_OK ? 0 : -EIO;
}

void reader_close(struct reader *reader)
{
        if (reader->header)
                munmap((void *)reader->header, HEADER_BYTES);
        if (reader->ring)
                munmap((void *)reader->ring, RECORDS * sizeof(*reader->ring));
        client_close(&reader->rm);
}

void reader_poll(struct reader *reader)
{
        uint32_t put = __atomic_load_n(&reader->header->put, __ATOMIC_ACQUIRE);
        uint64_t now = client_gpu_now(&reader->rm);

        for (; reader->get != put; reader->get = (reader->get + 1) % RECORDS) {
                struct rm_fecs_record record = reader->ring[reader->get];

                if (reader->begun)
                        reader->lost += (uint16_t)(record.seqno - reader->seqno - 1);
                reader->begun = true;
                reader->seqno = record.seqno;
                if (seen_count < MAX_SEEN)
                        seen[seen_count++] = (struct seen){record, now - record.ns};
        }
}

uint64_t reader_flush(struct reader *reader)
{
        uint64_t start = now_ns();
        uint32_t status = client_control(
                &reader->rm, reader->event_buffer, RM_CTRL_EVENT_BUFFER_FLUSH, NULL, 0);

        if (status != RM_OK)
                client_step(&reader->rm, "EVENT_BUFFER_FLUSH", status);
        return now_ns() - start;
}

static int compare(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return x < y ? -1 : x > y;
}

void print_spread(const char *what, uint64_t *values, unsigned n)
{
        if (n == 0)
                return;
        qsort(values, n, sizeof(*values), compare);
        printf("    %-26s n %6u  min %9.1f  p50 %9.1f  p99 %9.1f  max %9.1f us\n", what, n,
                (double)values[0] / 1e3, (double)values[n / 2] / 1e3,
                (double)values[(uint64_t)n * 99 / 100] / 1e3, (double)values[n - 1] / 1e3);
}

struct owner {
        uint32_t pid, context;
        uint64_t resident;
        unsigned runs;
};

#define MAX_OWNERS 32
static struct owner owners[MAX_OWNERS];
static unsigned owner_count;

static struct owner *owner(uint32_t pid, uint32_t context)
{
        for (unsigned i = 0; i < owner_count; i++)
                if (owners[i].pid == pid && owners[i].context == context)
                        return &owners[i];
        if (owner_count == MAX_OWNERS)
                return &owners[MAX_OWNERS - 1];
        owners[owner_count] = (struct owner){pid, context, 0, 0};
        return &owners[owner_count++];
}

static uint64_t overlap(uint64_t a, uint64_t b, uint64_t from, uint64_t to)
{
        a = a < from ? from : a;
        b = b > to ? to : b;
        return b > a ? b - a : 0;
}

/* Who had the engine between two times, from all records so far. */
void records_print(unsigned first, uint64_t from, uint64_t to)
{
        uint64_t *gaps = calloc(MAX_SEEN, sizeof(*gaps)), *ages = calloc(MAX_SEEN, sizeof(*ages));
        uint64_t *runs = calloc(MAX_SEEN, sizeof(*runs));
        uint64_t start = 0, end = 0, backwards = 0, last = 0;
        unsigned gap_count = 0, age_count = 0, run_count = 0, odd = 0, other = 0;
        int running = -1; /* not known */
        uint32_t pid = 0, context = 0;

        owner_count = 0;
        for (unsigned i = 0; i < seen_count; i++) {
                const struct rm_fecs_record *x = &seen[i].record;

                if (i >= first)
                        ages[age_count++] = seen[i].age;
                backwards += x->ns < last;
                last = x->ns;
                if (x->tag == RM_FECS_TAG_START) {
                        odd += running == 1;
                        running = 1;
                        pid = x->pid;
                        context = x->context;
                        start = x->ns;
                        if (end && i >= first)
                                gaps[gap_count++] = start - end;
                } else if (x->tag == RM_FECS_TAG_END) {
                        struct owner *o = owner(x->pid, x->context);

                        if (running == 0 ||
                                (running == 1 && (pid != x->pid || context != x->context)))
                                odd++;
                        else
                                o->resident += overlap(running == 1 ? start : 0, x->ns, from, to);
                        o->runs += i >= first;
                        if (running == 1 && i >= first)
                                runs[run_count++] = x->ns - start;
                        running = 0;
                        end = x->ns;
                } else {
                        other++;
                }
        }
        if (running == 1)
                owner(pid, context)->resident += overlap(start, UINT64_MAX, from, to);
        for (unsigned i = 0; i < owner_count; i++)
                if (owners[i].runs || owners[i].resident)
                        printf("    pid %u context 0x%x: resident %.4f of the time, %u runs "
                               "ended\n",
                                owners[i].pid, owners[i].context,
                                (double)owners[i].resident / (double)(to - from), owners[i].runs);
        printf("    records %u, out of order %" PRIu64 ", unpaired %u, of other tags %u\n",
                seen_count - first, backwards, odd, other);
        print_spread("run", runs, run_count);
        print_spread("end to next start", gaps, gap_count);
        print_spread("age when seen", ages, age_count);
        free(gaps);
        free(ages);
        free(runs);
}
