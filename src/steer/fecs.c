/* SPDX-License-Identifier: Apache-2.0 */
#include "steer/fecs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define HEADER_BYTES 4096u
#define RECORDS      16384u /* 100 ms of the most seen, 8,300 a second, take 830 */
/* The device's clock against ours is looked at anew so often: both may be slewed. */
#define CLOCK_STAYS 1000000000u
/* A sample covers 0.2 s; between two that lie further apart, one was missed. */
#define SAMPLE_LONGEST 400000000u

struct fecs {
        const struct steer_client *client;
        unsigned device;
        const struct rm_event_header *header;
        const struct rm_fecs_record *ring;
        uint32_t memory[2], buffer; /* handles */
        uint32_t get;
        uint16_t seqno;
        bool begun, all_users;
        int64_t gpu_minus_host;
        uint64_t clock_seen;
        struct rm_util_samples samples;
};

static uint32_t control(
        const struct fecs *fecs, uint32_t object, uint32_t cmd, void *params, uint32_t size)
{
        const struct steer_client *client = fecs->client;

        return steer_rm_control(client, client->fd, client->handle, object, cmd, params, size);
}

/* The shortest of some calls says best how the clocks stand. */
static uint32_t set_clock(struct fecs *fecs, unsigned calls)
{
        uint64_t best = UINT64_MAX;
        uint32_t status = RM_OK;

        for (unsigned i = 0; i < calls; i++) {
                uint64_t ns = 0, before = clock_ns(), after;

                status = control(fecs, fecs->client->subdevice[fecs->device],
                        RM_CTRL_TIMER_GET_TIME, &ns, sizeof(ns));
                after = clock_ns();
                if (status != RM_OK)
                        return status;
                if (after - before < best) {
                        best = after - before;
                        fecs->gpu_minus_host = (int64_t)(ns - (before + best / 2));
                }
        }
        fecs->clock_seen = clock_ns();
        return status;
}

static uint64_t host_time(const struct fecs *fecs, uint64_t gpu)
{
        return gpu - (uint64_t)fecs->gpu_minus_host;
}

/* System memory that RM writes and this process can only read. */
static uint32_t read_only_memory(
        const struct fecs *fecs, size_t size, uint32_t *ret_handle, const void **ret)
{
        const struct steer_client *client = fecs->client;
        struct rm_memory_params params = {
                .size = size,
                .attr = RM_ATTR_COHERENCY_WRITE_BACK,
                .attr2 = RM_ATTR2_USER_READ_ONLY,
        };
        struct rm_map map = {
                .client = client->handle,
                .device = client->handle,
                .length = size,
                .flags = RM_MAP_READ_ONLY,
        };
        _cleanup_close_ int fd = -EBADF;
        uint32_t status;
        void *p;

        status = steer_rm_alloc(client, client->handle, RM_CLASS_MEMORY_DEVICELESS, &params,
                sizeof(params), ret_handle);
        if (status != RM_OK)
                return status;
        map.memory = *ret_handle;
        /* a fresh one: a descriptor carries one mapping */
        map.fd = fd = open("/dev/nvidiactl", O_RDWR | O_CLOEXEC);
        if (fd < 0 || client->call(client->fd,
                              _IOWR(RM_IOCTL_TYPE, RM_ESC_MAP_MEMORY, struct rm_map), &map) < 0)
                return RM_ERR_CALL;
        if (map.status != RM_OK)
                return map.status;
        p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
                return RM_ERR_CALL;
        *ret = p;
        return RM_OK;
}

/* An event buffer in the memory that is there, bound and enabled: from now on there are records. */
static uint32_t bind_buffer(struct fecs *fecs)
{
        const struct steer_client *client = fecs->client;
        struct rm_event_buffer_params params = {
                .record_size = sizeof(struct rm_fecs_record),
                .record_count = RECORDS,
                .subdevice = client->subdevice[fecs->device],
                .header_memory = fecs->memory[0],
                .record_memory = fecs->memory[1],
        };
        struct rm_fecs_bind bind = {.record_size = 24, .all_users = fecs->all_users};
        struct rm_event_buffer_enable enable = {.enable = 1, .flags = RM_EVENT_BUFFER_KEEP_NEWEST};
        uint32_t status;

        status = steer_rm_alloc(client, client->handle, RM_CLASS_EVENT_BUFFER, &params,
                sizeof(params), &fecs->buffer);
        if (status != RM_OK)
                return status;
        bind.event_buffer = fecs->buffer;
        status = control(fecs, params.subdevice, RM_CTRL_GR_FECS_BIND, &bind, sizeof(bind));
        /* a new buffer begins its ring anew */
        fecs->get = __atomic_load_n(&fecs->header->put, __ATOMIC_ACQUIRE) % RECORDS;
        fecs->begun = false;
        if (status == RM_OK)
                status = control(
                        fecs, fecs->buffer, RM_CTRL_EVENT_BUFFER_ENABLE, &enable, sizeof(enable));
        return status;
}

static uint32_t open_buffer(struct fecs *fecs)
{
        const void *header = NULL, *ring = NULL;
        uint32_t status;

        /* RM 580 follows it unchecked */
        if (!fecs->client->subdevice[fecs->device])
                return RM_ERR_INVALID;
        status = read_only_memory(fecs, HEADER_BYTES, &fecs->memory[0], &header);
        fecs->header = header;
        if (status == RM_OK)
                status = read_only_memory(
                        fecs, RECORDS * sizeof(*fecs->ring), &fecs->memory[1], &ring);
        fecs->ring = ring;
        return status == RM_OK ? bind_buffer(fecs) : status;
}

/* To the least of what may be seen: a user's processes are those of his daemon. */
int fecs_open(const struct steer_client *client, unsigned device, struct fecs **ret, bool *ret_all,
        uint32_t *ret_status)
{
        struct fecs *fecs = calloc(1, sizeof(*fecs));

        if (!fecs)
                return -ENOMEM;
        fecs->client = client;
        fecs->device = device;
        fecs->all_users = geteuid() == 0;
        *ret_status = set_clock(fecs, 20);
        if (*ret_status == RM_OK)
                *ret_status = open_buffer(fecs);
        if (*ret_status != RM_OK) {
                fecs_close(fecs);
                return steer_status_error(*ret_status);
        }
        *ret = fecs;
        *ret_all = fecs->all_users;
        return 0;
}

struct fecs *fecs_close(struct fecs *fecs)
{
        if (!fecs)
                return NULL;
        if (fecs->buffer)
                (void)steer_rm_free(fecs->client, fecs->client->handle, fecs->buffer);
        if (fecs->header)
                munmap((void *)fecs->header, HEADER_BYTES);
        if (fecs->ring)
                munmap((void *)fecs->ring, RECORDS * sizeof(*fecs->ring));
        for (unsigned i = 0; i < ARRAY_SIZE(fecs->memory); i++)
                if (fecs->memory[i])
                        (void)steer_rm_free(fecs->client, fecs->client->handle, fecs->memory[i]);
        free(fecs);
        return NULL;
}

int fecs_records(struct fecs *fecs, struct steer_record *records, unsigned room,
        uint64_t *ret_until, bool *ret_lost)
{
        uint64_t now = clock_ns();
        uint32_t put, status;
        unsigned n = 0;

        *ret_lost = false;
        if (now > fecs->clock_seen + CLOCK_STAYS)
                (void)set_clock(fecs, 3);
        *ret_until = clock_ns();
        status = control(fecs, fecs->buffer, RM_CTRL_EVENT_BUFFER_FLUSH, NULL, 0);
        if (status != RM_OK)
                return steer_status_error(status);
        put = __atomic_load_n(&fecs->header->put, __ATOMIC_ACQUIRE) % RECORDS;
        for (; fecs->get != put && n < room; fecs->get = (fecs->get + 1) % RECORDS) {
                struct rm_fecs_record record = fecs->ring[fecs->get];

                if (fecs->begun && record.seqno != (uint16_t)(fecs->seqno + 1))
                        *ret_lost = true;
                fecs->begun = true;
                fecs->seqno = record.seqno;
                if (record.tag != RM_FECS_TAG_START && record.tag != RM_FECS_TAG_END)
                        continue;
                records[n++] = (struct steer_record){
                        .at = host_time(fecs, record.ns),
                        .pid = record.pid,
                        .start = record.tag == RM_FECS_TAG_START,
                };
        }
        return (int)n;
}

int fecs_record(struct fecs *fecs, bool on, uint32_t *ret_status)
{
        *ret_status = RM_OK;
        if (on && !fecs->buffer)
                *ret_status = bind_buffer(fecs);
        else if (!on && fecs->buffer) {
                *ret_status = steer_rm_free(fecs->client, fecs->client->handle, fecs->buffer);
                if (*ret_status == RM_OK)
                        fecs->buffer = 0;
        }
        return steer_status_error(*ret_status);
}

static int by_time(const void *a, const void *b)
{
        const struct rm_util_sample *x = a, *y = b;

        return (x->ns > y->ns) - (x->ns < y->ns);
}

int fecs_samples(struct fecs *fecs, uint64_t after, struct steer_sample *samples, unsigned room)
{
        struct rm_util_samples *seen = &fecs->samples;
        uint32_t status;
        unsigned n = 0;

        memset(seen, 0, sizeof(*seen));
        seen->type = 2;
        seen->size = sizeof(seen->sample);
        status = control(fecs, fecs->client->subdevice[fecs->device], RM_CTRL_PERF_UTIL_SAMPLES,
                seen, sizeof(*seen));
        if (status != RM_OK)
                return steer_status_error(status);
        qsort(seen->sample, RM_UTIL_SAMPLES, sizeof(seen->sample[0]), by_time);
        for (unsigned i = 1; i < RM_UTIL_SAMPLES && n < room; i++) {
                const struct rm_util_sample *sample = &seen->sample[i];
                uint64_t span = sample->ns - seen->sample[i - 1].ns;

                if (!seen->sample[i - 1].ns || span == 0 || span > SAMPLE_LONGEST ||
                        host_time(fecs, sample->ns) <= after)
                        continue;
                samples[n++] = (struct steer_sample){
                        .from = host_time(fecs, sample->ns - span),
                        .to = host_time(fecs, sample->ns),
                        .busy_ns = span * MIN_OF(sample->graphics.busy, 10000u) / 10000,
                        .pid = sample->graphics.pid,
                };
        }
        return (int)n;
}
