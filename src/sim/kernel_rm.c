/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated kernel driver's resource manager: the ioctls of rm.h. */
#include "kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "faults.h"
#include "identity.h"
#include "rm.h"

/* As much as this is zeroed before the lock is taken. */
#define PUNCH_EARLY (2ull << 20)

static pthread_mutex_t control_mutex = PTHREAD_MUTEX_INITIALIZER;
static int control_fd = -1;

int kernel_control_fd(void)
{
        int fd;

        pthread_mutex_lock(&control_mutex);
        if (control_fd < 0)
                control_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        fd = control_fd < 0 ? -errno : control_fd;
        pthread_mutex_unlock(&control_mutex);
        return fd;
}

static bool is_lost(uint32_t device)
{
        const struct kernel_state *state = kernel_state();

        return atomic_load(&state->device[state->device[device].gpu].lost);
}

static bool is_device_memory(uint32_t class_id)
{
        return class_id == RM_CLASS_MEMORY_LOCAL || class_id == RM_CLASS_MEMORY_PRIV;
}

static bool is_root(uint32_t class_id)
{
        return class_id == RM_CLASS_ROOT || class_id == RM_CLASS_ROOT_NON_PRIV ||
               class_id == RM_CLASS_ROOT_CLIENT;
}

/* Whether this process is in the table: not before it has attached, nor in the child of a fork. */
static bool attached(void)
{
        uint32_t self = kernel_self();

        return self != KERNEL_NONE && kernel_state()->process[self].state == KERNEL_PROCESS_LIVE;
}

static uint32_t alloc_root(struct rm_alloc *call)
{
        struct kernel_state *state = kernel_state();
        struct kernel_new wanted = {
                .class_id = RM_CLASS_ROOT_CLIENT,
                .parent = KERNEL_NONE,
                .device = KERNEL_NONE,
                .client = state->next_client,
                .handle = state->next_client,
        };
        uint32_t index, status;

        if (!attached())
                return RM_ERR_DENIED;
        state->next_client++; /* first: a name is never given twice, whoever dies here */
        status = kernel_new_object(&wanted, &index);
        if (status != RM_OK)
                return status;
        call->handle = call->client = wanted.handle;
        return RM_OK;
}

/* What RM takes for so much device memory. */
static uint64_t round_memory(uint64_t size)
{
        uint64_t unit = size >= KERNEL_GRANULE ? KERNEL_GRANULE : 4096;

        return (size + unit - 1) & ~(unit - 1);
}

/* A GPU instance is remembered by its id, a compute instance by its place among devices. */
static uint32_t read_instance(const struct rm_alloc *call, struct kernel_new *wanted)
{
        const struct kernel_state *state = kernel_state();
        const struct rm_instance_params *params = (const void *)(uintptr_t)call->params;
        const struct kernel_object *parent = state->object + wanted->parent;
        bool whole = call->class_id == RM_CLASS_GPU_INSTANCE;
        const struct kernel_mig *mig;

        if (!params || wanted->device >= state->devices ||
                parent->class_id != (whole ? RM_CLASS_SUBDEVICE : RM_CLASS_GPU_INSTANCE))
                return RM_ERR_INVALID;
        mig = state->mig + wanted->device;
        for (unsigned i = 0; i < KERNEL_MIG_SLICES; i++) {
                const struct kernel_mig_instance *instance = mig->instance + i;

                if (!instance->live || instance->id != (whole ? params->id : parent->engine))
                        continue;
                wanted->engine = params->id;
                if (whole)
                        return RM_OK;
                if (params->id >= KERNEL_MIG_SLICES || !instance->compute[params->id].live ||
                        instance->compute[params->id].device == KERNEL_NONE)
                        return RM_ERR_OBJECT_ABSENT;
                wanted->device = instance->compute[params->id].device;
                return RM_OK;
        }
        return RM_ERR_OBJECT_ABSENT;
}

/* From now on, what the client makes below its device is the MIG device's. None of these objects is
 * counted, so their device may change. */
static void use_instance(uint32_t index)
{
        struct kernel_object *objects = kernel_state()->object;
        uint32_t device = objects[index].device;

        for (uint32_t at = objects[index].parent; objects[at].class_id != RM_CLASS_ROOT_CLIENT;
                at = objects[at].parent)
                objects[at].device = device;
}

/* Whether memory and channels can be had of it: a GPU in MIG mode has none of its own. */
static bool is_whole(uint32_t device)
{
        const struct kernel_state *state = kernel_state();

        return device >= state->devices || !atomic_load(&state->mig[device].on);
}

/* Reads the parameters of the class into wanted. */
static uint32_t read_params(const struct rm_alloc *call, struct kernel_new *wanted)
{
        const struct kernel_state *state = kernel_state();
        const struct kernel_object *parent = state->object + wanted->parent;
        const void *params = (const void *)(uintptr_t)call->params;

        if (call->class_id == RM_CLASS_DEVICE) {
                const struct rm_device_params *device = params;

                if (!device || !is_root(parent->class_id))
                        return RM_ERR_INVALID;
                if (device->instance >= state->devices)
                        return RM_ERR_OBJECT_ABSENT;
                wanted->device = device->instance;
        } else if (call->class_id == RM_CLASS_GPU_INSTANCE || call->class_id == RM_CLASS_COMPUTE) {
                return read_instance(call, wanted);
        } else if (call->class_id == RM_CLASS_CHANNEL_GROUP) {
                const struct rm_channel_group_params *group = params;

                if (!group || parent->class_id != RM_CLASS_DEVICE)
                        return RM_ERR_INVALID;
                wanted->engine = group->engine_type;
                if (!is_whole(wanted->device))
                        return RM_ERR_DENIED;
        } else if (is_device_memory(call->class_id) || call->class_id == KERNEL_CLASS_MANAGED ||
                   call->class_id == RM_CLASS_MEMORY_SYSTEM) {
                const struct rm_memory_params *memory = params;

                if (!memory || memory->size == 0 || parent->class_id != RM_CLASS_DEVICE)
                        return RM_ERR_INVALID;
                if (memory->size > KERNEL_MAX_MEMORY * KERNEL_SPREAD)
                        return RM_ERR_NO_MEMORY;
                if (!is_whole(wanted->device))
                        return RM_ERR_DENIED;
                wanted->size = round_memory(memory->size);
        } else if ((call->class_id & 0xff) == RM_CLASS_CHANNEL_LOW) {
                if (parent->class_id != RM_CLASS_CHANNEL_GROUP)
                        return RM_ERR_INVALID;
        } else if (call->class_id == RM_CLASS_SUBDEVICE) {
                if (parent->class_id != RM_CLASS_DEVICE)
                        return RM_ERR_INVALID;
        } else {
                return RM_ERR_NOT_SUPPORTED;
        }
        return RM_OK;
}

/* Finds client and parent of what is to be made; both must be this process's. */
static uint32_t find_parent(uint32_t client, uint32_t parent, struct kernel_new *wanted)
{
        struct kernel_state *state = kernel_state();

        wanted->client = client;
        wanted->parent = kernel_find(client, parent);
        if (wanted->parent == KERNEL_NONE)
                return RM_ERR_OBJECT_ABSENT;
        if (!attached() || state->object[wanted->parent].process != kernel_self())
                return RM_ERR_DENIED;
        wanted->device = state->object[wanted->parent].device;
        return RM_OK;
}

/* The wanted handle if it is free, or one that RM finds. */
static uint32_t find_handle(uint32_t wanted, struct kernel_new *ret)
{
        static const uint32_t first = 0xcaf00000u;

        ret->handle = wanted;
        if (wanted)
                return kernel_find(ret->client, wanted) == KERNEL_NONE ? RM_OK : RM_ERR_INVALID;
        for (ret->handle = first; kernel_find(ret->client, ret->handle) != KERNEL_NONE;)
                ret->handle++;
        return RM_OK;
}

static uint32_t alloc_object(struct rm_alloc *call)
{
        struct kernel_state *state = kernel_state();
        struct kernel_new wanted = {.class_id = call->class_id};
        uint32_t index, status;

        if (is_root(call->class_id))
                return alloc_root(call);
        status = find_parent(call->client, call->parent, &wanted);
        if (status == RM_OK)
                status = find_handle(call->handle, &wanted);
        if (status == RM_OK)
                status = read_params(call, &wanted);
        if (status == RM_OK && wanted.device != KERNEL_NONE && is_lost(wanted.device))
                status = RM_ERR_GPU_LOST;
        if (status == RM_OK && is_device_memory(call->class_id) && sim_faults_refuse_memory())
                status = RM_ERR_NO_MEMORY;
        if (status == RM_OK)
                status = kernel_new_object(&wanted, &index);
        if (status != RM_OK)
                return status;
        call->handle = wanted.handle;
        if (call->class_id == RM_CLASS_COMPUTE)
                use_instance(index);
        if (is_device_memory(call->class_id)) {
                struct rm_memory_params *memory =
                        (struct rm_memory_params *)(uintptr_t)call->params;

                memory->size = state->object[index].size;
                memory->offset = state->object[index].offset;
                memory->limit = memory->offset + memory->size - 1;
        }
        return RM_OK;
}

static void rm_alloc(struct rm_alloc *call)
{
        kernel_lock();
        call->status = alloc_object(call);
        kernel_unlock();
}

static uint32_t find_own(uint32_t client, uint32_t handle, uint32_t *ret)
{
        *ret = kernel_find(client, handle);
        if (*ret == KERNEL_NONE)
                return RM_ERR_OBJECT_ABSENT;
        if (!attached() || kernel_state()->object[*ret].process != kernel_self())
                return RM_ERR_DENIED;
        return RM_OK;
}

static void rm_free(struct rm_free *call)
{
        struct kernel_object before;
        uint32_t index;

        kernel_lock();
        call->status = find_own(call->client, call->handle, &index);
        if (call->status == RM_OK) {
                before = kernel_state()->object[index];
                if (is_device_memory(before.class_id) && before.size >= PUNCH_EARLY &&
                        before.references == 0 && !(before.flags & KERNEL_OBJECT_DUPLICATE)) {
                        kernel_unlock();
                        kernel_punch(before.device, before.offset, before.size);
                        kernel_lock();
                        call->status = find_own(call->client, call->handle, &index);
                }
        }
        if (call->status == RM_OK)
                kernel_free_object(index);
        kernel_unlock();
}

static uint32_t dup_object(struct rm_dup *call)
{
        struct kernel_state *state = kernel_state();
        struct kernel_new wanted = {.flags = KERNEL_OBJECT_DUPLICATE};
        const struct kernel_object *source;
        uint32_t status, origin, index;

        status = find_parent(call->client, call->parent, &wanted);
        if (status == RM_OK)
                status = find_handle(call->handle, &wanted);
        if (status != RM_OK)
                return status;
        origin = kernel_find(call->client_source, call->handle_source);
        if (origin == KERNEL_NONE)
                return RM_ERR_OBJECT_ABSENT;
        source = state->object + origin;
        if (!is_device_memory(source->class_id) || source->device != wanted.device)
                return RM_ERR_INVALID;
        if (is_lost(wanted.device))
                return RM_ERR_GPU_LOST;
        wanted.class_id = source->class_id;
        wanted.size = source->size;
        wanted.origin = source->flags & KERNEL_OBJECT_DUPLICATE ? source->origin : origin;
        status = kernel_new_object(&wanted, &index);
        if (status == RM_OK)
                call->handle = wanted.handle;
        return status;
}

static void rm_dup(struct rm_dup *call)
{
        kernel_lock();
        call->status = dup_object(call);
        kernel_unlock();
}

static void rm_map(struct rm_map *call)
{
        const struct kernel_object *object;
        uint32_t index;

        kernel_lock();
        call->status = find_own(call->client, call->memory, &index);
        if (call->status == RM_OK) {
                object = kernel_state()->object + index;
                if (!is_device_memory(object->class_id) || call->offset > object->size ||
                        call->length > object->size - call->offset) {
                        call->status = RM_ERR_INVALID;
                } else {
                        call->address = object->offset + call->offset;
                        if (call->length == 0)
                                call->length = object->size - call->offset;
                }
        }
        kernel_unlock();
}

/* ---- controls ---- */

static uint32_t get_compute_uuid(const struct kernel_object *object, struct rm_compute_uuid *ret)
{
        char text[SIM_UUID_TEXT];

        if (object->class_id != RM_CLASS_COMPUTE)
                return RM_ERR_INVALID;
        memcpy(ret->uuid, kernel_state()->device[object->device].uuid, sizeof(ret->uuid));
        sim_uuid_text(ret->uuid, text);
        snprintf(ret->text, sizeof(ret->text), "MIG-%s", text + strlen("GPU-"));
        return RM_OK;
}

static uint32_t get_gid(const struct kernel_object *object, struct rm_gid_info *info)
{
        const uint8_t *u;

        if (object->class_id != RM_CLASS_SUBDEVICE)
                return RM_ERR_INVALID;
        u = kernel_state()->device[kernel_state()->device[object->device].gpu].uuid;
        memset(info->data, 0, sizeof(info->data));
        if (info->flags & RM_GID_BINARY) {
                memcpy(info->data, u, 16);
                info->length = 16;
                return RM_OK;
        }
        info->length =
                1 +
                (uint32_t)snprintf((char *)info->data, sizeof(info->data),
                        "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                        u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11],
                        u[12], u[13], u[14], u[15]);
        return RM_OK;
}

/* Any client's channels may be named, as with the real driver, which counts: a channel disabled
 * twice is to be enabled twice, and no more than that (docs/probes.md). */
static uint32_t disable_channels(const struct rm_disable_channels *call)
{
        struct kernel_state *state = kernel_state();
        uint32_t found[64];

        if (call->channels > 64 || call->runlist_preempt_event)
                return RM_ERR_INVALID;
        for (uint32_t i = 0; i < call->channels; i++) {
                found[i] = kernel_find(call->client[i], call->channel[i]);
                if (found[i] == KERNEL_NONE)
                        return RM_ERR_OBJECT_ABSENT;
                if ((state->object[found[i]].class_id & 0xff) != RM_CLASS_CHANNEL_LOW)
                        return RM_ERR_INVALID;
        }
        for (uint32_t i = 0; i < call->channels; i++) {
                uint32_t *disabled = &state->object[found[i]].disabled;

                if (call->disable)
                        ++*disabled;
                else
                        *disabled -= *disabled > 0;
        }
        for (uint32_t i = 0; i < call->channels; i++)
                kernel_update_group(state->object[found[i]].parent, call->only_disable_scheduling);
        return RM_OK;
}

static uint32_t set_preemption_mode(uint32_t client, const struct rm_preemption_mode *mode)
{
        struct kernel_state *state = kernel_state();
        uint32_t index = kernel_find(client, mode->object);
        const struct kernel_object *object;

        if (index == KERNEL_NONE)
                return RM_ERR_OBJECT_ABSENT;
        object = state->object + index;
        if ((object->class_id & 0xff) == RM_CLASS_CHANNEL_LOW)
                object = state->object + object->parent;
        if (object->group == RUNLIST_NONE || mode->compute > RM_PREEMPTION_INSTRUCTION)
                return RM_ERR_INVALID;
        /* waiting until all is idle, 0, was measured to be no other than thread blocks */
        if (mode->flags & RM_PREEMPTION_SET_COMPUTE)
                runlist_set_mode(state->runlist + object->device, object->group,
                        mode->compute == RM_PREEMPTION_INSTRUCTION ? SCHEDULE_INSTRUCTION
                                                                   : SCHEDULE_BLOCK);
        return RM_OK;
}

static bool may_restart_runlist(void)
{
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

        return syscall(SYS_capget, &header, data) == 0 && data[0].effective & 1u << CAP_SYS_NICE;
}

static uint32_t restart_runlist(
        const struct kernel_object *channel, const struct rm_restart_runlist *call)
{
        struct kernel_state *state = kernel_state();
        uint32_t group = state->object[channel->parent].group;

        if (!may_restart_runlist())
                return RM_ERR_DENIED;
        if (group == RUNLIST_NONE)
                return RM_OK; /* another engine's */
        runlist_expire(state->runlist + channel->device, group, false);
        if (call->force)
                runlist_expire(state->runlist + channel->device, group, true);
        return RM_OK;
}

static uint32_t set_timeslice(struct kernel_object *group, const struct rm_timeslice *slice)
{
        if (slice->microseconds == 0)
                return RM_ERR_INVALID;
        group->timeslice = slice->microseconds;
        if (group->group != RUNLIST_NONE)
                runlist_set_slice(
                        kernel_state()->runlist + group->device, group->group, slice->microseconds);
        return RM_OK;
}

/* Steering calls take the time that was measured on an H100. */
static const struct {
        uint32_t cmd, class_id, params_size, ns;
} controls[] = {
        {RM_CTRL_GPU_GET_GID_INFO, RM_CLASS_SUBDEVICE, sizeof(struct rm_gid_info), 0},
        {RM_CTRL_COMPUTE_GET_UUID, RM_CLASS_COMPUTE, sizeof(struct rm_compute_uuid), 0},
        {RM_CTRL_FIFO_DISABLE_CHANNEL, RM_CLASS_SUBDEVICE, sizeof(struct rm_disable_channels), 0},
        {RM_CTRL_GR_SET_PREEMPTION_MODE, RM_CLASS_SUBDEVICE, sizeof(struct rm_preemption_mode),
                500000},
        {RM_CTRL_GROUP_SET_TIMESLICE, RM_CLASS_CHANNEL_GROUP, sizeof(struct rm_timeslice), 300000},
        {RM_CTRL_GROUP_GET_TIMESLICE, RM_CLASS_CHANNEL_GROUP, sizeof(struct rm_timeslice), 0},
        {RM_CTRL_GROUP_PREEMPT, RM_CLASS_CHANNEL_GROUP, sizeof(struct rm_preempt), 260000},
        {RM_CTRL_GROUP_SCHEDULE, RM_CLASS_CHANNEL_GROUP, sizeof(struct rm_schedule), 0},
        {RM_CTRL_CHANNEL_RESTART_RUNLIST, RM_CLASS_CHANNEL_LOW, sizeof(struct rm_restart_runlist),
                230000},
};

/* The index in controls, or -1. */
static int find_control(uint32_t cmd)
{
        for (int i = 0; i < (int)(sizeof(controls) / sizeof(*controls)); i++)
                if (controls[i].cmd == cmd)
                        return i;
        return -1;
}

static bool is_of_class(const struct kernel_object *object, uint32_t class_id)
{
        if (class_id == RM_CLASS_CHANNEL_LOW)
                return (object->class_id & 0xff) == class_id;
        return object->class_id == class_id;
}

static uint32_t control_object(struct rm_control *call, int control)
{
        struct kernel_state *state = kernel_state();
        uint32_t index = kernel_find(call->client, call->object);
        void *params = (void *)(uintptr_t)call->params;
        struct kernel_object *object;

        if (index == KERNEL_NONE)
                return RM_ERR_OBJECT_ABSENT;
        object = state->object + index;
        if (control < 0)
                return RM_ERR_NOT_SUPPORTED;
        if (!is_of_class(object, controls[control].class_id) || !params ||
                call->params_size != controls[control].params_size)
                return RM_ERR_INVALID;
        if (is_lost(object->device))
                return RM_ERR_GPU_LOST;

        switch (call->cmd) {
        case RM_CTRL_GPU_GET_GID_INFO:
                return get_gid(object, params);
        case RM_CTRL_COMPUTE_GET_UUID:
                return get_compute_uuid(object, params);
        case RM_CTRL_FIFO_DISABLE_CHANNEL:
                return disable_channels(params);
        case RM_CTRL_GR_SET_PREEMPTION_MODE:
                return set_preemption_mode(call->client, params);
        case RM_CTRL_GROUP_SET_TIMESLICE:
                return set_timeslice(object, params);
        case RM_CTRL_GROUP_GET_TIMESLICE:
                ((struct rm_timeslice *)params)->microseconds = object->timeslice;
                return RM_OK;
        case RM_CTRL_GROUP_PREEMPT:
                if (object->group != RUNLIST_NONE)
                        runlist_expire(state->runlist + object->device, object->group, true);
                return RM_OK;
        case RM_CTRL_CHANNEL_RESTART_RUNLIST:
                return restart_runlist(object, params);
        default: /* SCHEDULE is answered and changes nothing, as measured */
                return RM_OK;
        }
}

/* How long the call takes. Disabling took 240 to 650 us, enabling 160 to 390, with the channels of
 * one group and of eight. */
static uint64_t control_time(const struct rm_control *call, int control)
{
        const struct rm_disable_channels *channels = (const void *)(uintptr_t)call->params;
        uint64_t ns = control < 0 ? 0 : controls[control].ns;

        if (call->cmd == RM_CTRL_FIFO_DISABLE_CHANNEL && channels &&
                call->params_size == sizeof(*channels)) {
                uint64_t n = channels->channels < 64 ? channels->channels : 64;

                ns = channels->disable ? 240000 + n * 410000 / 64 : 160000 + n * 230000 / 64;
        }
        return ns ? sim_faults_control(ns) : 0;
}

static bool is_refused(const struct rm_control *call)
{
        switch (call->cmd) {
        case RM_CTRL_FIFO_DISABLE_CHANNEL:
        case RM_CTRL_GR_SET_PREEMPTION_MODE:
        case RM_CTRL_GROUP_SET_TIMESLICE:
        case RM_CTRL_GROUP_PREEMPT:
        case RM_CTRL_CHANNEL_RESTART_RUNLIST:
                return sim_faults_refuse_steering();
        default:
                return false;
        }
}

static void rm_control(struct rm_control *call)
{
        int control = find_control(call->cmd);
        uint64_t ns = control_time(call, control);

        if (ns)
                sim_faults_delay(ns);
        if (is_refused(call)) {
                call->status = RM_ERR_DENIED;
                return;
        }
        kernel_lock();
        call->status = control_object(call, control);
        kernel_unlock();
}

int sim_ioctl(int fd, unsigned long request, ...)
{
        va_list list;
        void *arg;

        va_start(list, request);
        arg = va_arg(list, void *);
        va_end(list);

        if (_IOC_TYPE(request) != RM_IOCTL_TYPE || fd < 0 || fd != control_fd)
                return (int)syscall(SYS_ioctl, fd, request, arg);
        if (!arg) {
                errno = EFAULT;
                return -1;
        }
        switch (request) {
        case _IOWR(RM_IOCTL_TYPE, RM_ESC_ALLOC, struct rm_alloc):
                rm_alloc(arg);
                return 0;
        case _IOWR(RM_IOCTL_TYPE, RM_ESC_FREE, struct rm_free):
                rm_free(arg);
                return 0;
        case _IOWR(RM_IOCTL_TYPE, RM_ESC_CONTROL, struct rm_control):
                rm_control(arg);
                return 0;
        case _IOWR(RM_IOCTL_TYPE, RM_ESC_DUP_OBJECT, struct rm_dup):
                rm_dup(arg);
                return 0;
        case _IOWR(RM_IOCTL_TYPE, RM_ESC_MAP_MEMORY, struct rm_map):
                rm_map(arg);
                return 0;
        default:
                errno = EINVAL;
                return -1;
        }
}
