/* SPDX-License-Identifier: Apache-2.0 */
/* Processes share a device's time as on an H100: slices, disabling, switching. What is expected is
 * what was measured there, by the engine's own account, with the work that got done beside it. */
#include "check.h"

#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include "kernel.h"
#include "rm.h"

#define RING  128
#define DEPTH 100

/* What a tenant and the test see of each other. */
struct tenant {
        pid_t pid;
        uint64_t kernel_ns;
        bool synchronous;
        _Atomic uint64_t done; /* kernels */
        _Atomic uint32_t ready;
        /* found in the kernel's tables */
        uint32_t client, subdevice, group, place;
        uint32_t channel[64], channels;
};

static struct tenant *tenants;
static uint32_t own_client, own_subdevice;

/* ---- tenants ---- */

static void work(struct tenant *tenant)
{
        static const char text[] = ".version 6.0\n.target sm_52\n.address_size 64\n"
                                   ".entry cleave_spin(.param .u64 ns) { ret; }\n";
        void *params[] = {&tenant->kernel_ns};
        CUevent event[RING];
        CUfunction spin;
        CUcontext context;
        CUstream stream;
        CUmodule module;

        OK(cuInit(0));
        OK(cuCtxCreate_v2(&context, 0, 0));
        OK(cuModuleLoadData(&module, text));
        OK(cuModuleGetFunction(&spin, module, "cleave_spin"));
        OK(cuStreamCreate(&stream, 0));
        for (int i = 0; i < RING; i++)
                OK(cuEventCreate(&event[i], CU_EVENT_DISABLE_TIMING));
        atomic_store(&tenant->ready, 1);
        for (uint64_t n = 0;; n++) {
                OK(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL));
                if (tenant->synchronous) {
                        OK(cuStreamSynchronize(stream));
                        atomic_fetch_add(&tenant->done, 1);
                        continue;
                }
                OK(cuEventRecord(event[n % RING], stream));
                if (n >= DEPTH) {
                        OK(cuEventSynchronize(event[(n - DEPTH) % RING]));
                        atomic_fetch_add(&tenant->done, 1);
                }
        }
}

/* ---- the steering process, which has nothing of theirs ---- */

static uint32_t control(uint32_t client, uint32_t object, uint32_t cmd, void *params, uint32_t size)
{
        struct rm_control call = {
                .client = client,
                .object = object,
                .cmd = cmd,
                .params = (uintptr_t)params,
                .params_size = size,
        };

        CHECK_EQ(sim_ioctl(kernel_control_fd(),
                         _IOWR(RM_IOCTL_TYPE, RM_ESC_CONTROL, struct rm_control), &call),
                0);
        return call.status;
}

static uint32_t allocate(uint32_t parent, uint32_t class_id, void *params)
{
        struct rm_alloc call = {
                .client = own_client,
                .parent = parent,
                .class_id = class_id,
                .params = (uintptr_t)params,
        };

        CHECK_EQ(sim_ioctl(kernel_control_fd(), _IOWR(RM_IOCTL_TYPE, RM_ESC_ALLOC, struct rm_alloc),
                         &call),
                0);
        CHECK_EQ(call.status, RM_OK);
        return call.handle;
}

static void attach(void)
{
        struct rm_device_params params = {.instance = 0};

        CHECK_EQ(kernel_open(), 0);
        CHECK_EQ(kernel_attach(), 0);
        own_client = allocate(0, RM_CLASS_ROOT_CLIENT, NULL);
        own_subdevice =
                allocate(allocate(own_client, RM_CLASS_DEVICE, &params), RM_CLASS_SUBDEVICE, NULL);
}

static void find_objects(struct tenant *tenant)
{
        const struct kernel_state *state = kernel_state();

        kernel_lock();
        for (uint32_t i = 0; i < state->object_high; i++) {
                const struct kernel_object *object = state->object + i;
                uint32_t parent = object->parent;

                if (object->state != KERNEL_OBJECT_LIVE ||
                        state->process[object->process].pid != (uint32_t)tenant->pid)
                        continue;
                if (object->class_id == RM_CLASS_SUBDEVICE)
                        tenant->subdevice = object->handle;
                if (object->class_id == RM_CLASS_CHANNEL_GROUP &&
                        object->engine == RM_ENGINE_GRAPHICS) {
                        tenant->client = object->client;
                        tenant->group = object->handle;
                        tenant->place = object->group;
                }
                if ((object->class_id & 0xff) == RM_CLASS_CHANNEL_LOW &&
                        state->object[parent].engine == RM_ENGINE_GRAPHICS)
                        tenant->channel[tenant->channels++] = object->handle;
        }
        kernel_unlock();
        CHECK(tenant->group);
        CHECK_EQ(tenant->channels, 8);
}

static struct tenant *start(int which, uint64_t kernel_ns, bool synchronous)
{
        struct tenant *tenant = tenants + which;
        pid_t pid;

        *tenant = (struct tenant){.kernel_ns = kernel_ns, .synchronous = synchronous};
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                work(tenant);
        }
        tenant->pid = pid;
        for (int i = 0; !atomic_load(&tenant->ready); i++) {
                CHECK(i < 5000);
                usleep(1000);
        }
        find_objects(tenant);
        return tenant;
}

static uint32_t groups(void)
{
        uint32_t n = 0;

        kernel_lock(); /* looks for the dead */
        for (uint32_t i = 0; i < SCHEDULE_MAX_GROUPS; i++)
                n += kernel_state()->runlist[0].schedule.group[i].present;
        kernel_unlock();
        return n;
}

static void stop(struct tenant *tenant)
{
        uint32_t before = groups();
        double end = seconds() + 2;

        kill(tenant->pid, SIGKILL);
        CHECK_EQ(waitpid(tenant->pid, NULL, 0), tenant->pid);
        while (groups() != before - 1) {
                CHECK(seconds() < end);
                usleep(1000);
        }
}

static void set_slice(const struct tenant *tenant, uint64_t us)
{
        struct rm_timeslice slice = {.microseconds = us};

        CHECK_EQ(control(tenant->client, tenant->group, RM_CTRL_GROUP_SET_TIMESLICE, &slice,
                         sizeof(slice)),
                RM_OK);
}

static void switch_channels(const struct tenant *tenant, bool disable)
{
        struct rm_disable_channels call = {.disable = disable, .channels = tenant->channels};

        for (uint32_t i = 0; i < tenant->channels; i++) {
                call.client[i] = tenant->client;
                call.channel[i] = tenant->channel[i];
        }
        CHECK_EQ(control(own_client, own_subdevice, RM_CTRL_FIFO_DISABLE_CHANNEL, &call,
                         sizeof(call)),
                RM_OK);
}

/* ---- what they got ---- */

struct shares {
        double of[2];   /* of the engine's time, as work */
        double done[2]; /* the same by kernels that were seen done */
};

struct reading {
        double at;
        uint64_t work[2], done[2];
};

/* All at one moment: again, where this thread was kept from the processor meanwhile. */
static struct reading read_all(void)
{
        struct runlist *runlist = kernel_state()->runlist;
        struct reading ret;

        do {
                ret.at = seconds();
                for (int i = 0; i < 2; i++) {
                        ret.work[i] = runlist_work(runlist, tenants[i].place);
                        ret.done[i] = atomic_load(&tenants[i].done);
                }
        } while (seconds() - ret.at > 0.0005);
        return ret;
}

static struct shares measure(double duration)
{
        struct reading before = read_all(), after;
        struct shares ret;
        double passed;

        usleep((useconds_t)(duration * 1e6));
        after = read_all();
        passed = after.at - before.at;
        for (int i = 0; i < 2; i++) {
                ret.of[i] = (double)(after.work[i] - before.work[i]) / 1e9 / passed;
                ret.done[i] = (double)((after.done[i] - before.done[i]) * tenants[i].kernel_ns) /
                              1e9 / passed;
        }
        return ret;
}

static bool near(double value, double wanted, double off)
{
        if (value >= wanted - off && value <= wanted + off)
                return true;
        fprintf(stderr, "%.4f, not %.4f\n", value, wanted);
        return false;
}

static void sleep_until(double time)
{
        double rest = time - seconds();

        if (rest > 0)
                usleep((useconds_t)(rest * 1e6));
}

static void test_slices(void)
{
        struct tenant *one = start(0, 1000000, false), *other = start(1, 5000000, false);
        struct shares got = measure(0.5);

        /* measured: 0.461 and 0.460 */
        CHECK(near(got.of[0], 0.46, 0.02));
        CHECK(near(got.of[1], 0.46, 0.02));
        CHECK(near(got.done[0], got.of[0], 0.05));
        CHECK(near(got.done[1], got.of[1], 0.05));

        set_slice(one, 9000);
        set_slice(other, 3000);
        usleep(20000);
        got = measure(0.6);
        CHECK(near(got.of[0] / got.of[1], 3, 0.3));
        CHECK(near(got.of[0] + got.of[1], 0.95, 0.03));

        set_slice(one, 1000);
        set_slice(other, 1000);
        usleep(20000);
        got = measure(0.3);
        CHECK(near(got.of[0], 0.403, 0.02)); /* measured */
        CHECK(near(got.of[1], 0.403, 0.02));
        stop(one);
        stop(other);
}

static void test_disable(void)
{
        struct tenant *one = start(0, 1000000, false), *other = start(1, 1000000, false);
        struct shares got;

        switch_channels(one, true);
        usleep(20000);
        got = measure(0.2);
        CHECK(near(got.of[0], 0, 0));
        CHECK(near(got.of[1], 1, 0.01));
        /* as often as it was disabled, and an enabling more is none in store */
        switch_channels(one, true);
        switch_channels(one, false);
        got = measure(0.1);
        CHECK(near(got.of[0], 0, 0));
        switch_channels(one, false);
        switch_channels(one, false);
        got = measure(0.3);
        CHECK(near(got.of[0], 0.46, 0.03));

        /* killed while it is off: the other has all, and nothing is left of it */
        switch_channels(one, true);
        stop(one);
        CHECK_EQ(groups(), 1);
        tenants[0].place = other->place;
        got = measure(0.2);
        CHECK(near(got.of[1], 1, 0.01));

        /* a cap: 30 of 100 ms */
        uint64_t begin = runlist_work(kernel_state()->runlist, other->place);
        double start_at = seconds(), on = 0;
        for (int i = 0; i < 6; i++) {
                double at = start_at + i * 0.1, enabled = seconds();

                switch_channels(other, false);
                sleep_until(at + 0.03);
                switch_channels(other, true);
                on += seconds() - enabled; /* a busy machine wakes us late */
                sleep_until(at + 0.1);
        }
        CHECK(on >= 0.15);
        CHECK(near((double)(runlist_work(kernel_state()->runlist, other->place) - begin) / 1e9, on,
                0.02));
        stop(other);
}

/* How often the engine was switched to the group. */
static uint64_t visits(const struct tenant *tenant)
{
        const struct runlist *runlist = kernel_state()->runlist;

        runlist_work(kernel_state()->runlist, tenant->place); /* lets time pass */
        return runlist->schedule.group[tenant->place].visits;
}

/* A tenant that goes idle after each kernel loses the engine each time that another wants it. */
static void test_synchronous(void)
{
        struct tenant *one = start(0, 100000, true), *other = start(1, 100000, true);
        struct shares got;
        uint64_t before = visits(one);

        got = measure(0.5);
        /* measured: 0.21 each; on a busy host they meet less often */
        CHECK(got.of[0] + got.of[1] < 0.6);
        CHECK(visits(one) - before > 100);

        /* turns: nobody is switched to while the other is off */
        switch_channels(other, true);
        before = visits(one);
        got = measure(0.2);
        CHECK(got.of[0] > 0.1);
        CHECK(visits(one) - before <= 1);
        switch_channels(other, false);
        stop(one);
        stop(other);
}

/* A wake-up ends the neighbour's slice. */
static void test_wake(void)
{
        struct tenant *one = start(0, 1000000, false), *other = start(1, 1000000, false);
        struct rm_preempt preempt = {0};
        struct shares got;
        double end = seconds() + 0.3;
        struct runlist *runlist = kernel_state()->runlist;
        uint64_t begin;

        set_slice(one, 50000);
        set_slice(other, 50000);
        begin = runlist_work(runlist, other->place);
        while (seconds() < end)
                CHECK_EQ(control(one->client, one->group, RM_CTRL_GROUP_PREEMPT, &preempt,
                                 sizeof(preempt)),
                        RM_OK);
        /* whenever it is one's turn, the turn is over within a millisecond */
        CHECK((double)(runlist_work(runlist, other->place) - begin) > 0.9 * 0.3e9);
        got = measure(0.3);
        CHECK(near(got.of[0], got.of[1], 0.2));
        CHECK_EQ(control(one->client, one->channel[0], RM_CTRL_GROUP_PREEMPT, &preempt,
                         sizeof(preempt)),
                RM_ERR_INVALID);
        stop(one);
        stop(other);
}

/* Blocks are waited for in thread-block mode: equal slices, 5 ms blocks get more. */
static void test_blocks(void)
{
        struct tenant *one = start(0, 100000, false), *other = start(1, 5000000, false);
        struct rm_preemption_mode mode = {
                .flags = RM_PREEMPTION_SET_COMPUTE,
                .compute = RM_PREEMPTION_THREAD_BLOCK,
        };
        struct shares got;

        for (int i = 0; i < 2; i++) {
                mode.object = tenants[i].group;
                CHECK_EQ(control(tenants[i].client, tenants[i].subdevice,
                                 RM_CTRL_GR_SET_PREEMPTION_MODE, &mode, sizeof(mode)),
                        RM_OK);
        }
        usleep(20000);
        got = measure(0.5);
        CHECK(near(got.of[0], 0.28, 0.04)); /* measured */
        CHECK(near(got.of[1], 0.68, 0.04));
        stop(one);
        stop(other);
}

static double time_of_calls(void)
{
        struct rm_channel_group_params params = {.engine_type = RM_ENGINE_GRAPHICS};
        struct rm_device_params device = {.instance = 0};
        struct tenant own = {.client = own_client};
        double begin;

        own.group = allocate(
                allocate(own_client, RM_CLASS_DEVICE, &device), RM_CLASS_CHANNEL_GROUP, &params);
        begin = seconds();
        for (int i = 0; i < 20; i++)
                set_slice(&own, 1000);
        return seconds() - begin;
}

static void test_free_calls(void)
{
        setenv("CLEAVE_SIM_FAULTS", "control=0ns", 1);
        attach();
        CHECK(time_of_calls() < 0.006);
}

static void test_calls(void)
{
        attach();
        CHECK(time_of_calls() >= 20 * 0.0003);
}

int main(void)
{
        tenants = mmap(NULL, 2 * sizeof(*tenants), PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(tenants != MAP_FAILED);
        machine("h100");
        CHECK_EQ(in_child(test_calls), 0);
        CHECK_EQ(in_child(test_free_calls), 0);
        attach();
        while (groups() > 0)
                usleep(1000);
        test_slices();
        test_disable();
        test_synchronous();
        test_wake();
        test_blocks();
        return 0;
}
