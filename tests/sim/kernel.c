/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated kernel driver itself: its tables survive the death of whoever holds the lock. */
#include "check.h"

#include <sys/ioctl.h>
#include <sys/prctl.h>

#include "kernel.h"
#include "rm.h"

static uint32_t client, device, next_handle = 0x5c000001u;

static uint32_t allocate(uint32_t parent, uint32_t class_id, void *params, uint32_t *handle)
{
        struct rm_alloc call = {
                .client = client,
                .parent = parent,
                .handle = *handle,
                .class_id = class_id,
                .params = (uintptr_t)params,
        };

        CHECK_EQ(sim_ioctl(kernel_control_fd(), _IOWR(RM_IOCTL_TYPE, RM_ESC_ALLOC, struct rm_alloc),
                         &call),
                0);
        *handle = call.handle;
        return call.status;
}

static uint32_t release(uint32_t parent, uint32_t handle)
{
        struct rm_free call = {.client = client, .parent = parent, .handle = handle};

        CHECK_EQ(sim_ioctl(kernel_control_fd(), _IOWR(RM_IOCTL_TYPE, RM_ESC_FREE, struct rm_free),
                         &call),
                0);
        return call.status;
}

static uint32_t take(uint64_t bytes, uint32_t *ret_handle)
{
        struct rm_memory_params params = {.size = bytes};

        *ret_handle = next_handle++;
        return allocate(device, RM_CLASS_MEMORY_LOCAL, &params, ret_handle);
}

static void attach(void)
{
        struct rm_device_params params = {.instance = 0};

        CHECK_EQ(kernel_open(), 0);
        CHECK_EQ(kernel_attach(), 0);
        client = 0;
        CHECK_EQ(allocate(0, RM_CLASS_ROOT_CLIENT, NULL, &client), RM_OK);
        device = next_handle++;
        CHECK_EQ(allocate(client, RM_CLASS_DEVICE, &params, &device), RM_OK);
}

/* What is derived is what the tables say. */
static void verify(void)
{
        const struct kernel_state *state = kernel_state();
        uint64_t used = 0, bits = 0, unused = 0;

        kernel_lock();
        for (uint32_t i = 0; i < state->object_high; i++) {
                const struct kernel_object *object = state->object + i;

                if (object->state == KERNEL_OBJECT_FREE) {
                        unused++;
                        continue;
                }
                if (object->state == KERNEL_OBJECT_LIVE)
                        CHECK_EQ(kernel_find(object->client, object->handle), i);
                if (object->class_id == RM_CLASS_MEMORY_LOCAL &&
                        !(object->flags & KERNEL_OBJECT_DUPLICATE)) {
                        used += object->size;
                        bits += (object->size + KERNEL_GRANULE - 1) / KERNEL_GRANULE;
                }
        }
        CHECK_EQ(state->device[0].used, used);
        for (uint64_t i = 0; i < state->device[0].backed; i++)
                bits -= (uint64_t)__builtin_popcountll(state->bitmap[0][i]);
        CHECK_EQ(bits, 0);
        for (uint32_t i = state->free_object; i != KERNEL_NONE; i = state->object[i].next) {
                CHECK_EQ(state->object[i].state, KERNEL_OBJECT_FREE);
                unused--;
        }
        CHECK_EQ(unused, 0);
        kernel_unlock();
}

static void test_interface(void)
{
        struct rm_timeslice slice = {.microseconds = 5000};
        struct rm_channel_group_params group_params = {.engine_type = RM_ENGINE_GRAPHICS};
        struct rm_control control = {
                .client = client,
                .params = (uintptr_t)&slice,
                .params_size = sizeof(slice),
        };
        struct rm_memory_params params = {.size = 100000};
        uint32_t group = next_handle++, memory = next_handle++, other;
        uint64_t before = kernel_state()->device[0].used;

        CHECK_EQ(allocate(device, RM_CLASS_CHANNEL_GROUP, &group_params, &group), RM_OK);
        control.object = group;
        control.cmd = RM_CTRL_GROUP_SET_TIMESLICE;
        sim_ioctl(kernel_control_fd(), _IOWR(RM_IOCTL_TYPE, RM_ESC_CONTROL, struct rm_control),
                &control);
        CHECK_EQ(control.status, RM_OK);
        slice.microseconds = 0;
        control.cmd = RM_CTRL_GROUP_GET_TIMESLICE;
        sim_ioctl(kernel_control_fd(), _IOWR(RM_IOCTL_TYPE, RM_ESC_CONTROL, struct rm_control),
                &control);
        CHECK_EQ(slice.microseconds, 5000);
        control.params_size = 4;
        sim_ioctl(kernel_control_fd(), _IOWR(RM_IOCTL_TYPE, RM_ESC_CONTROL, struct rm_control),
                &control);
        CHECK(control.status != RM_OK);

        /* sizes are rounded: to 4 KiB below 64 KiB, else to 64 KiB */
        CHECK_EQ(allocate(device, RM_CLASS_MEMORY_LOCAL, &params, &memory), RM_OK);
        CHECK_EQ(params.size, 131072);
        CHECK_EQ(kernel_state()->device[0].used, before + 131072);
        other = memory;
        CHECK(allocate(device, RM_CLASS_MEMORY_LOCAL, &params, &other) != RM_OK);
        other = next_handle++;
        params.size = 5000;
        CHECK_EQ(allocate(device, RM_CLASS_MEMORY_LOCAL, &params, &other), RM_OK);
        CHECK_EQ(params.size, 8192);
        params.size = 1ull << 40;
        other = next_handle++;
        CHECK_EQ(allocate(device, RM_CLASS_MEMORY_LOCAL, &params, &other), RM_ERR_NO_MEMORY);
        CHECK_EQ(allocate(0x12345, RM_CLASS_MEMORY_LOCAL, &params, &other), RM_ERR_OBJECT_ABSENT);
        CHECK_EQ(release(device, 0x12345), RM_ERR_OBJECT_ABSENT);
        /* what is freed takes with it what is below */
        CHECK_EQ(release(client, device), RM_OK);
        CHECK_EQ(kernel_state()->device[0].used, before);
        CHECK_EQ(release(device, memory), RM_ERR_OBJECT_ABSENT);
        verify();
        CHECK_EQ(release(client, client), RM_OK);
}

static void die_with_the_lock(void)
{
        struct kernel_state *state = kernel_state();
        uint32_t handle;

        attach();
        CHECK_EQ(take(64 << 20, &handle), RM_OK);
        CHECK_EQ(take(10000, &handle), RM_OK);
        kernel_lock();
        /* all that is derived may be half-way anywhere */
        state->device[0].used = 12345;
        state->device[0].managed = UINT64_MAX;
        state->device[0].hint = 77;
        state->free_object = 5;
        memset(state->bucket, 0, sizeof(state->bucket));
        memset(state->bitmap[0], 0x5a, 4096);
        for (uint32_t i = 0; i < state->object_high; i++) {
                state->object[i].first_child = i;
                state->object[i].hash_next = 1;
                state->object[i].references = 9;
        }
        _exit(0);
}

static void test_lock_of_the_dead(void)
{
        uint64_t repairs = kernel_state()->repairs;

        CHECK_EQ(in_child(die_with_the_lock), 0);
        CHECK_EQ(nvml_used(0), (64 << 20) + 12288);
        CHECK_EQ(kernel_state()->repairs, repairs + 1);
        verify();
        CHECK(wait_used(0, 0, 10));
        verify();
}

static void stop_with_the_lock(void)
{
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        attach();
        kernel_lock();
        raise(SIGSTOP);
        kernel_unlock();
}

/* Who only reads does not wait for one who is stopped. */
static void test_lock_of_the_stopped(void)
{
        int status;
        double begin;
        pid_t pid = fork();

        CHECK(pid >= 0);
        if (pid == 0) {
                stop_with_the_lock();
                exit(0);
        }
        CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
        CHECK(WIFSTOPPED(status));
        begin = seconds();
        CHECK_EQ(nvml_used(0), 0);
        CHECK_EQ(nvml_process(0, pid), -1);
        CHECK(seconds() - begin < 5);
        CHECK_EQ(kill(pid, SIGCONT), 0);
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK_EQ(status, 0);
        verify();
}

static void work_until_killed(void)
{
        uint32_t handle[64];
        int n = 0;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        attach();
        for (;;) {
                if (n == 64)
                        while (n)
                                CHECK_EQ(release(device, handle[--n]), RM_OK);
                CHECK_EQ(take((uint64_t)(n % 7 + 1) * 300000, &handle[n]), RM_OK);
                n++;
        }
}

static void test_killed_anywhere(void)
{
        uint64_t repairs = kernel_state()->repairs;
        double end = seconds() + 2;
        int n = 0, status;

        while (seconds() < end) {
                pid_t pid[2];

                for (int i = 0; i < 2; i++) {
                        pid[i] = fork();
                        CHECK(pid[i] >= 0);
                        if (pid[i] == 0)
                                work_until_killed();
                }
                usleep(1000 + (unsigned int)(n * 37 % 3000));
                for (int i = 0; i < 2; i++) {
                        kill(pid[i], SIGKILL);
                        CHECK_EQ(waitpid(pid[i], &status, 0), pid[i]);
                        CHECK(WIFSIGNALED(status));
                        verify();
                }
                n += 2;
        }
        CHECK(wait_used(0, 0, 10));
        verify();
        printf("%d processes killed, %" PRIu64 " of them with the lock\n", n,
                kernel_state()->repairs - repairs);
}

int main(void)
{
        machine("h100");
        attach();
        test_interface();
        test_lock_of_the_dead();
        test_lock_of_the_stopped();
        test_killed_anywhere();
        return 0;
}
