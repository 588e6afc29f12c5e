/* SPDX-License-Identifier: Apache-2.0 */
/* Steering of the simulated GPU: the same calls, answered by its kernel library in this process. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "policy/switches.h"
#include "sim/faults.h"
#include "sim/kernel.h"
#include "steer/rm.h"

#define SAMPLE 200000000u /* ns, as the real driver's */

struct sim {
        struct steer_client client;           /* first */
        uint32_t instance[STEER_MAX_DEVICES]; /* of the devices that are open */
        uint64_t next[STEER_MAX_DEVICES];     /* record */
        uint64_t sampled[STEER_MAX_DEVICES], idle[STEER_MAX_DEVICES];
};

static void sim_close(void *handle)
{
        struct sim *sim = handle;

        if (!sim)
                return;
        if (sim->client.handle)
                (void)steer_rm_free(&sim->client, 0, sim->client.handle);
        free(sim);
}
DEFINE_CLEANUP(void *, sim_close);

static int sim_open(const void *argument, void **ret_handle)
{
        _cleanup_(sim_close_ptr) void *handle = NULL;
        struct steer_client *client;
        struct sim *sim;
        uint32_t status;
        int r;

        (void)argument;
        r = kernel_open();
        if (r == 0)
                r = kernel_attach();
        if (r < 0)
                return r;
        handle = sim = calloc(1, sizeof(*sim));
        if (!sim)
                return -ENOMEM;
        client = &sim->client;
        client->call = sim_ioctl;
        client->fd = kernel_control_fd();
        if (client->fd < 0)
                return client->fd;
        status = steer_rm_alloc(client, 0, RM_CLASS_ROOT_CLIENT, NULL, 0, &client->handle);
        if (status != RM_OK)
                return steer_status_error(status);
        *ret_handle = TAKE_PTR(handle);
        return 0;
}

static int sim_open_device(
        void *handle, unsigned index, const uint8_t uuid[16], uint32_t *ret_status)
{
        struct sim *sim = handle;

        *ret_status = RM_ERR_OBJECT_ABSENT;
        for (uint32_t i = 0; i < kernel_state()->devices && *ret_status != RM_OK; i++) {
                *ret_status = steer_rm_open_device(&sim->client, index, i, uuid);
                sim->instance[index] = i;
        }
        return steer_status_error(*ret_status);
}

/* The simulated driver tells processes apart by themselves, not by their descriptors. */
static struct steer_object ours(void *handle, const struct steer_object *object)
{
        struct steer_object copy = *object;

        copy.fd = ((struct steer_client *)handle)->fd;
        return copy;
}

static int sim_set_slice(
        void *handle, const struct steer_object *group, uint64_t microseconds, uint32_t *ret_status)
{
        struct steer_object object = ours(handle, group);

        return steer_rm_set_slice(handle, &object, microseconds, ret_status);
}

static int sim_get_slice(void *handle, const struct steer_object *group, uint64_t *ret_microseconds,
        uint32_t *ret_status)
{
        struct steer_object object = ours(handle, group);

        return steer_rm_get_slice(handle, &object, ret_microseconds, ret_status);
}

static int sim_set_mode(
        void *handle, const struct steer_object *group, bool thread_block, uint32_t *ret_status)
{
        struct steer_object object = ours(handle, group);

        return steer_rm_set_mode(handle, &object, thread_block, ret_status);
}

static int sim_preempt(void *handle, const struct steer_object *group, uint32_t *ret_status)
{
        struct steer_object object = ours(handle, group);

        return steer_rm_preempt(handle, &object, ret_status);
}

static int sim_restart(void *handle, const struct steer_object *channel, uint32_t *ret_status)
{
        struct steer_object object = ours(handle, channel);

        return steer_rm_restart(handle, &object, ret_status);
}

/* -- records ----------------------------------------------------------------------------------- */

static struct runlist *runlist_of(const struct sim *sim, unsigned device)
{
        return kernel_state()->runlist + sim->instance[device];
}

/* Begins from now on; what is made until then is passed over. */
static int sim_record(void *handle, unsigned device, bool on, uint32_t *ret_status)
{
        struct sim *sim = handle;
        struct schedule_record record;
        uint64_t until;
        bool lost;

        *ret_status = RM_OK;
        if (!on)
                return 0;
        if (sim_faults_refuse_steering()) {
                *ret_status = RM_ERR_DENIED;
                return -EPERM;
        }
        sim->next[device] = UINT64_MAX;
        (void)runlist_records(
                runlist_of(sim, device), &sim->next[device], &record, 0, &until, &lost);
        while (runlist_records(
                       runlist_of(sim, device), &sim->next[device], &record, 1, &until, &lost) > 0)
                ;
        return 0;
}

static int sim_watch(void *handle, unsigned device, bool *ret_all, uint32_t *ret_status)
{
        struct sim *sim = handle;
        uint32_t process;
        int r;

        r = sim_record(handle, device, true, ret_status);
        if (r < 0)
                return r;
        runlist_busy(runlist_of(sim, device), &sim->sampled[device], &sim->idle[device], &process);
        *ret_all = true;
        *ret_status = RM_OK;
        return 0;
}

static int sim_records(void *handle, unsigned device, struct steer_record *records, unsigned room,
        uint64_t *ret_until, bool *ret_lost)
{
        struct schedule_record found[STEER_RECORDS_MAX];
        uint32_t process = RUNLIST_NONE, pid = 0;
        struct sim *sim = handle;
        unsigned n;

        n = runlist_records(runlist_of(sim, device), &sim->next[device], found,
                MIN_OF(room, STEER_RECORDS_MAX), ret_until, ret_lost);
        for (unsigned i = 0; i < n; i++) {
                if (found[i].owner != process)
                        pid = kernel_process_pid(found[i].owner);
                process = found[i].owner;
                records[i] = (struct steer_record){
                        .at = found[i].at, .pid = pid, .start = found[i].start};
        }
        return (int)n;
}

/* One for all the time since the last, where that is long enough. */
static int sim_samples(
        void *handle, unsigned device, uint64_t after, struct steer_sample *samples, unsigned room)
{
        struct sim *sim = handle;
        uint64_t now, idle;
        uint32_t process;

        runlist_busy(runlist_of(sim, device), &now, &idle, &process);
        if (room == 0 || now < sim->sampled[device] + SAMPLE || now <= after)
                return 0;
        samples[0] = (struct steer_sample){
                .from = sim->sampled[device],
                .to = now,
                .busy_ns = now - sim->sampled[device] -
                           MIN_OF(now - sim->sampled[device], idle - sim->idle[device]),
                .pid = process == RUNLIST_NONE ? 0 : kernel_process_pid(process),
        };
        sim->sampled[device] = now;
        sim->idle[device] = idle;
        return 1;
}

/* What lies in a run beside its work, in the model: a switch less the restore (sim/schedule.h). */
static const struct switches_costs costs = SCHEDULE_SWITCHES_COSTS;

const struct steer_backend steer_backend_sim = {
        .name = "sim",
        .open = sim_open,
        .close = sim_close,
        .open_device = sim_open_device,
        .disable = steer_rm_disable,
        .set_slice = sim_set_slice,
        .get_slice = sim_get_slice,
        .set_mode = sim_set_mode,
        .preempt = sim_preempt,
        .restart = sim_restart,
        .costs = &costs,
        .watch = sim_watch,
        .records = sim_records,
        .record = sim_record,
        .samples = sim_samples,
};
