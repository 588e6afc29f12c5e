/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the driver's library asks of the resource manager, seen in its redirected ioctl slot.
 *
 * Every block of device memory that a process takes, for whatever reason (allocations of every
 * kind, pools, contexts, modules, local memory, graphs), is one RM allocation of a memory class,
 * and the sum of their sizes is NVML's count of the process to the byte (docs/benchmarks.md). So
 * this is where the quota is held: charge first, then let the driver ask, then correct the charge
 * to what RM took. A refusal is RM's own NO_MEMORY: the driver's library trims what it caches,
 * tries again, and then gives its own CUDA_ERROR_OUT_OF_MEMORY with nothing changed.
 *
 * It is also the one place through which a tenant's memory passes, object by object.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "driver.h"
#include "message.h"
#include "objects.h"
#include "rm.h"

/* RM takes at least a page of the kind that it chooses; 2 MiB is the largest that it chooses by
 * itself, so a block is at most rounded up to that. */
#define RM_ROUND_BYTES (2ull << 20)

/* Guards the tree of objects. Never held while the driver allocates or frees. */
static struct guard_lock rm_lock;
static atomic_bool rm_seen;

bool guard_rm_seen(void)
{
        return atomic_load(&rm_seen);
}

/* -- objects that go --------------------------------------------------------------------------- */

static void channel_forget(const struct object *channel);
static void group_forget(const struct object *group);

/* What removed objects were charged, collected under rm_lock. */
static uint64_t gone_units[CLEAVE_MAX_DEVICES];

static void object_gone(const struct object *object)
{
        if (object->kind == OBJECT_MEMORY && object->device < CLEAVE_MAX_DEVICES)
                gone_units[object->device] += object->units;
        if (object->kind == OBJECT_CHANNEL)
                channel_forget(object);
        if (object->kind == OBJECT_GROUP)
                group_forget(object);
}

/* Lets go of rm_lock and discharges what was removed under it. */
static void rm_unlock(void)
{
        uint64_t units[CLEAVE_MAX_DEVICES];

        memcpy(units, gone_units, sizeof(units));
        memset(gone_units, 0, sizeof(gone_units));
        guard_unlock(&rm_lock);
        for (uint32_t i = 0; i < CLEAVE_MAX_DEVICES; i++)
                guard_discharge(i, units[i]);
}

/* Adds an object that RM has just made. One of that name that we still have went by a way that we
 * did not see. rm_lock is held. */
static struct object *object_add(
        uint32_t client, uint32_t parent, uint32_t handle, enum object_kind kind)
{
        struct object *stale = objects_find(client, handle);

        if (stale && stale->kind != OBJECT_UNKNOWN)
                objects_remove(stale, object_gone);
        return objects_add(client, parent, handle, kind);
}

/* -- where memory belongs ---------------------------------------------------------------------- */

static uint32_t ask_object(
        int fd, const struct object *object, uint32_t cmd, void *params, uint32_t params_size)
{
        struct rm_control control = {
                .client = object->client,
                .object = object->handle,
                .cmd = cmd,
                .params = (uint64_t)(uintptr_t)params,
                .params_size = params_size,
        };

        if (guard_real_ioctl(
                    fd, _IOWR(RM_IOCTL_TYPE, RM_ESC_CONTROL, struct rm_control), &control) < 0)
                return RM_ERR_NOT_SUPPORTED;
        return control.status;
}

/* Asks RM for the UUID of the device that an object lies below: where the process uses a MIG
 * instance of the GPU, that of the MIG device. rm_lock is held; the calls are short and make no
 * object. */
static int device_uuid(int fd, struct object *device, uint8_t ret_uuid[16])
{
        struct object *subdevice = objects_child(device, OBJECT_SUBDEVICE), *part = NULL;
        struct rm_gid_info info = {.flags = RM_GID_BINARY};
        struct rm_compute_uuid mig = {0};

        if (!subdevice)
                return -ENODEV;
        part = objects_child(subdevice, OBJECT_GPU_INSTANCE);
        part = part ? objects_child(part, OBJECT_COMPUTE) : NULL;
        if (part) {
                if (ask_object(fd, part, RM_CTRL_COMPUTE_GET_UUID, &mig, sizeof(mig)) != RM_OK)
                        return -ENODEV;
                memcpy(ret_uuid, mig.uuid, 16);
                return 0;
        }
        if (ask_object(fd, subdevice, RM_CTRL_GPU_GET_GID_INFO, &info, sizeof(info)) != RM_OK ||
                info.length != 16)
                return -ENODEV;
        memcpy(ret_uuid, info.data, 16);
        return 0;
}

/* The index in the grant of the device that an object is to be made below; -ENODEV. */
static int granted_device(int fd, uint32_t client, uint32_t parent)
{
        struct object *device = objects_above(objects_find(client, parent), OBJECT_DEVICE);
        uint8_t uuid[16];
        int r;

        if (!device)
                return -ENODEV;
        if (device->device == OBJECT_NO_DEVICE) {
                r = device_uuid(fd, device, uuid);
                if (r < 0)
                        return r;
                r = guard_device_by_uuid(uuid);
                if (r < 0)
                        return r;
                device->device = (uint32_t)r;
        }
        return (int)device->device;
}

/* -- memory ------------------------------------------------------------------------------------ */

/* One allocation of device memory, whichever ioctl asks for it. */
struct memory_call {
        uint32_t client, parent;
        uint64_t asked;
        /* set by memory_begin() */
        uint32_t device;
        uint64_t charged;
};

/* 0, or -errno: then the call is to be refused. */
static int memory_begin(int fd, struct memory_call *call)
{
        uint64_t bytes = call->asked;
        int r;

        if (bytes > UINT64_MAX - RM_ROUND_BYTES)
                return -ENOMEM;
        bytes = (bytes + RM_ROUND_BYTES - 1) & ~(RM_ROUND_BYTES - 1);
        guard_lock(&rm_lock);
        r = granted_device(fd, call->client, call->parent);
        guard_unlock(&rm_lock);
        if (r < 0) {
                guard_debug("memory asked on a device that is not granted");
                guard_notice(CLEAVE_NOTICE_FOREIGN, call->parent, call->asked);
                return r;
        }
        call->device = (uint32_t)r;
        call->charged = cleave_units(bytes);
        return guard_charge(call->device, call->charged);
}

static void memory_failed(const struct memory_call *call)
{
        guard_discharge(call->device, call->charged);
}

/* The driver gave a block of that size. False: it took more than was reserved, and that is beyond
 * the limit; then nothing is charged or kept, and the block is to be freed. */
static bool memory_done(const struct memory_call *call, uint32_t handle, uint64_t taken)
{
        uint64_t units = cleave_units(taken);
        struct object *object;

        if (units > call->charged && guard_charge(call->device, units - call->charged) < 0) {
                memory_failed(call);
                return false;
        }
        guard_lock(&rm_lock);
        object = object_add(call->client, call->parent, handle, OBJECT_MEMORY);
        if (object) {
                object->device = call->device;
                object->units = units;
        }
        rm_unlock();
        if (!object) {
                guard_discharge(call->device, units > call->charged ? units : call->charged);
                return false;
        }
        if (units < call->charged)
                guard_discharge(call->device, call->charged - units);
        return true;
}

static void rm_free_object(int fd, uint32_t client, uint32_t parent, uint32_t handle)
{
        struct rm_free call = {.client = client, .parent = parent, .handle = handle};

        guard_real_ioctl(fd, _IOWR(RM_IOCTL_TYPE, RM_ESC_FREE, struct rm_free), &call);
}

/* -- channel groups ---------------------------------------------------------------------------- */

static struct cleave_channel_group *group_entry(
        struct cleave_slot *slot, uint32_t client, uint32_t handle)
{
        for (unsigned i = 0; i < CLEAVE_MAX_GROUPS; i++)
                if (atomic_load_explicit(&slot->group[i].handle, memory_order_relaxed) == handle &&
                        (handle == 0 || slot->group[i].client == client))
                        return &slot->group[i];
        return NULL;
}

/* A place for a new group. Those that nobody steers, as of copy engines, make room for others. */
static struct cleave_channel_group *place_for_group(
        struct cleave_slot *slot, const struct object *group)
{
        struct cleave_channel_group *entry = group_entry(slot, 0, 0);

        for (unsigned i = 0;
                !entry && group->instance == RM_ENGINE_GRAPHICS && i < CLEAVE_MAX_GROUPS; i++)
                if (slot->group[i].engine != RM_ENGINE_GRAPHICS) {
                        entry = &slot->group[i];
                        atomic_store_explicit(&entry->handle, 0, memory_order_release);
                }
        return entry;
}

/* One that is steered and has no place: the daemon tells it. */
static void lose_group(struct cleave_slot *slot, const struct object *group)
{
        if (group->instance == RM_ENGINE_GRAPHICS)
                atomic_fetch_add(&slot->lost_groups, 1);
}

/* Writes a new group into the slot, for the daemon. rm_lock is held. */
static void group_report(int fd, const struct object *group)
{
        const struct guard_session *session = guard_session();
        struct object *device = objects_above(group->parent, OBJECT_DEVICE);
        struct object *subdevice = device ? objects_child(device, OBJECT_SUBDEVICE) : NULL;
        struct cleave_channel_group *entry;
        uint32_t index;
        int granted;

        if (!session)
                return;
        entry = place_for_group(session->slot, group);
        if (!entry) {
                lose_group(session->slot, group);
                return;
        }
        granted = device ? granted_device(fd, group->client, device->handle) : -ENODEV;
        entry->client = group->client;
        entry->device = granted < 0 ? UINT32_MAX : (uint32_t)granted;
        entry->subdevice = subdevice ? subdevice->handle : 0;
        entry->engine = group->instance;
        atomic_store(&entry->channels, 0);
        atomic_store_explicit(&entry->handle, group->handle, memory_order_release);
        index = (uint32_t)(entry - session->slot->group) + 1;
        if (index > atomic_load(&session->slot->groups))
                atomic_store(&session->slot->groups, index);
}

static void channel_report(const struct object *channel)
{
        const struct guard_session *session = guard_session();
        const struct object *group = channel->parent;
        struct cleave_channel_group *entry;
        uint32_t n;

        if (!session || !group || group->kind != OBJECT_GROUP)
                return;
        entry = group_entry(session->slot, group->client, group->handle);
        n = entry ? atomic_load(&entry->channels) : CLEAVE_MAX_CHANNELS;
        if (n >= CLEAVE_MAX_CHANNELS) {
                lose_group(session->slot, group);
                return;
        }
        entry->channel[n] = channel->handle;
        atomic_store_explicit(&entry->channels, n + 1, memory_order_release);
}

static void channel_forget(const struct object *channel)
{
        const struct guard_session *session = guard_session();
        const struct object *group = channel->parent;
        struct cleave_channel_group *entry;
        uint32_t n;

        if (!session || !group || group->kind != OBJECT_GROUP)
                return;
        entry = group_entry(session->slot, group->client, group->handle);
        if (!entry)
                return;
        n = atomic_load(&entry->channels);
        for (uint32_t i = 0; i < n && i < CLEAVE_MAX_CHANNELS; i++)
                if (entry->channel[i] == channel->handle) {
                        entry->channel[i] = entry->channel[n - 1];
                        atomic_store_explicit(&entry->channels, n - 1, memory_order_release);
                        return;
                }
}

static void group_forget(const struct object *group)
{
        const struct guard_session *session = guard_session();
        struct cleave_channel_group *entry =
                session ? group_entry(session->slot, group->client, group->handle) : NULL;

        if (entry)
                atomic_store_explicit(&entry->handle, 0, memory_order_release);
}

/* -- the calls --------------------------------------------------------------------------------- */

/* Where RM puts its status; the struct has had three sizes. NULL: none that we know. */
static uint32_t *alloc_status(void *arg, unsigned size)
{
        switch (size) {
        case RM_ALLOC_SIZE_NVOS64:
                return (uint32_t *)((char *)arg + 40);
        case RM_ALLOC_SIZE_NVOS64_SHORT:
                return (uint32_t *)((char *)arg + 36);
        case RM_ALLOC_SIZE_NVOS21:
                return (uint32_t *)((char *)arg + 28);
        }
        return NULL;
}

static enum object_kind kind_of_class(uint32_t class_id)
{
        switch (class_id) {
        case RM_CLASS_ROOT:
        case RM_CLASS_ROOT_NON_PRIV:
        case RM_CLASS_ROOT_CLIENT:
                return OBJECT_CLIENT;
        case RM_CLASS_DEVICE:
                return OBJECT_DEVICE;
        case RM_CLASS_SUBDEVICE:
                return OBJECT_SUBDEVICE;
        case RM_CLASS_GPU_INSTANCE:
                return OBJECT_GPU_INSTANCE;
        case RM_CLASS_COMPUTE:
                return OBJECT_COMPUTE;
        case RM_CLASS_MEMORY_LOCAL:
        case RM_CLASS_MEMORY_PRIV:
                return OBJECT_MEMORY;
        case RM_CLASS_CHANNEL_GROUP:
                return OBJECT_GROUP;
        }
        return (class_id & 0xff) == RM_CLASS_CHANNEL_LOW ? OBJECT_CHANNEL : OBJECT_UNKNOWN;
}

static int call_alloc_memory(
        int fd, unsigned long request, struct rm_alloc *alloc, uint32_t *status)
{
        struct rm_memory_params *params = (struct rm_memory_params *)(uintptr_t)alloc->params;
        struct memory_call call = {
                .client = alloc->client, .parent = alloc->parent, .asked = params->size};
        int r;

        if (memory_begin(fd, &call) < 0) {
                *status = RM_ERR_NO_MEMORY;
                return 0;
        }
        r = guard_real_ioctl(fd, request, alloc);
        if (r < 0 || *status != RM_OK) {
                memory_failed(&call);
                return r;
        }
        if (!memory_done(&call, alloc->handle, params->size)) {
                rm_free_object(fd, alloc->client, alloc->parent, alloc->handle);
                *status = RM_ERR_NO_MEMORY;
        }
        return r;
}

/* Whether compute time is part of the grant. What steers a group needs the descriptor by which RM
 * knows its client; but whoever has a copy of it keeps the process's memory alive after its end, so
 * it goes to nobody who has no use for it. (Where terms come later, the daemon looks for it.) */
static bool is_steered(void)
{
        const struct guard_session *session = guard_session();

        for (uint32_t i = 0; session && i < session->grant->devices; i++)
                if (atomic_load_explicit(
                            &session->grant->device[i].compute_share, memory_order_relaxed) ||
                        atomic_load_explicit(
                                &session->grant->device[i].compute_max, memory_order_relaxed))
                        return true;
        return false;
}

/* The object now stands: keep it, and what its parameters say. */
static void object_made(int fd, const struct rm_alloc *alloc, enum object_kind kind)
{
        struct object *object;
        uint32_t client = kind == OBJECT_CLIENT ? alloc->handle : alloc->client;
        uint32_t engine = 0;

        guard_lock(&rm_lock);
        object = object_add(client, alloc->parent, alloc->handle, kind);
        if (object && kind == OBJECT_GROUP) {
                if (alloc->params)
                        object->instance =
                                ((const struct rm_channel_group_params *)(uintptr_t)alloc->params)
                                        ->engine_type;
                engine = object->instance;
                group_report(fd, object);
        }
        if (object && kind == OBJECT_CHANNEL)
                channel_report(object);
        rm_unlock();
        atomic_store(&rm_seen, true);
        if (kind == OBJECT_GROUP && engine == RM_ENGINE_GRAPHICS)
                guard_notice_fd(CLEAVE_NOTICE_GROUPS, client, 0, is_steered() ? fd : -1);
}

static int call_alloc(int fd, unsigned long request, void *arg, unsigned size)
{
        struct rm_alloc *alloc = arg;
        uint32_t *status = alloc_status(arg, size);
        enum object_kind kind;
        int r;

        if (!status)
                return guard_real_ioctl(fd, request, arg);
        kind = kind_of_class(alloc->class_id);
        if (kind == OBJECT_MEMORY && alloc->params)
                return call_alloc_memory(fd, request, alloc, status);
        r = guard_real_ioctl(fd, request, arg);
        if (r == 0 && *status == RM_OK && kind != OBJECT_UNKNOWN)
                object_made(fd, alloc, kind);
        return r;
}

static int call_vid_heap(int fd, unsigned long request, struct rm_vid_heap *heap)
{
        struct memory_call call = {
                .client = heap->client, .parent = heap->parent, .asked = heap->size};
        int r;

        if (heap->function != RM_VID_HEAP_ALLOC_SIZE &&
                heap->function != RM_VID_HEAP_ALLOC_SIZE_RANGE)
                return guard_real_ioctl(fd, request, heap);
        if (RM_ATTR_LOCATION(heap->attr) != 0)
                return guard_real_ioctl(fd, request, heap);
        if (memory_begin(fd, &call) < 0) {
                heap->status = RM_ERR_NO_MEMORY;
                return 0;
        }
        r = guard_real_ioctl(fd, request, heap);
        if (r < 0 || heap->status != RM_OK) {
                memory_failed(&call);
                return r;
        }
        if (!memory_done(&call, heap->handle, heap->size)) {
                rm_free_object(fd, heap->client, heap->parent, heap->handle);
                heap->status = RM_ERR_NO_MEMORY;
        }
        return r;
}

/* RM_ESC_ALLOC_MEMORY: system memory and the like; device memory by an old path. */
static int call_alloc_old(int fd, unsigned long request, struct rm_alloc_memory *alloc)
{
        struct memory_call call = {
                .client = alloc->client, .parent = alloc->parent, .asked = alloc->limit + 1};
        int r;

        if (kind_of_class(alloc->class_id) != OBJECT_MEMORY)
                return guard_real_ioctl(fd, request, alloc);
        if (memory_begin(fd, &call) < 0) {
                alloc->status = RM_ERR_NO_MEMORY;
                return 0;
        }
        r = guard_real_ioctl(fd, request, alloc);
        if (r < 0 || alloc->status != RM_OK) {
                memory_failed(&call);
                return r;
        }
        if (!memory_done(&call, alloc->handle, alloc->limit + 1)) {
                rm_free_object(fd, alloc->client, alloc->parent, alloc->handle);
                alloc->status = RM_ERR_NO_MEMORY;
        }
        return r;
}

static int call_free(int fd, unsigned long request, struct rm_free *call)
{
        struct object *object;
        int r;

        r = guard_real_ioctl(fd, request, call);
        if (r < 0 || call->status != RM_OK)
                return r;
        guard_lock(&rm_lock);
        object = objects_find(call->client, call->handle);
        if (object)
                objects_remove(object, object_gone);
        rm_unlock();
        return r;
}

static int dispatch(int fd, unsigned long request, unsigned nr, unsigned size, void *arg)
{
        switch (nr) {
        case RM_ESC_ALLOC:
                return call_alloc(fd, request, arg, size);
        case RM_ESC_FREE:
                if (size == sizeof(struct rm_free))
                        return call_free(fd, request, arg);
                break;
        case RM_ESC_VID_HEAP_CONTROL:
                if (size >= sizeof(struct rm_vid_heap))
                        return call_vid_heap(fd, request, arg);
                break;
        case RM_ESC_ALLOC_MEMORY:
                if (size >= sizeof(struct rm_alloc_memory))
                        return call_alloc_old(fd, request, arg);
                break;
        }
        return guard_real_ioctl(fd, request, arg);
}

/* In a forked child the driver's library is not usable and our locks may be held by a thread that
 * is not there. Nothing is counted: what the child frees was its parent's. Device memory is refused
 * all the same. */
static int forked_call(int fd, unsigned long request, unsigned nr, unsigned size, void *arg)
{
        uint32_t *status = nr == RM_ESC_ALLOC ? alloc_status(arg, size) : NULL;

        if (status && kind_of_class(((struct rm_alloc *)arg)->class_id) == OBJECT_MEMORY) {
                *status = RM_ERR_NO_MEMORY;
                return 0;
        }
        return guard_real_ioctl(fd, request, arg);
}

/* Most calls are controls, which are none of our business. */
static bool is_watched(unsigned nr)
{
        return nr == RM_ESC_ALLOC || nr == RM_ESC_FREE || nr == RM_ESC_VID_HEAP_CONTROL ||
               nr == RM_ESC_ALLOC_MEMORY;
}

int guard_ioctl(int fd, unsigned long request, ...)
{
        unsigned nr = _IOC_NR(request), size = _IOC_SIZE(request);
        va_list ap;
        void *arg;

        va_start(ap, request);
        arg = va_arg(ap, void *);
        va_end(ap);

        if (_IOC_TYPE(request) != RM_IOCTL_TYPE || !arg)
                return guard_real_ioctl(fd, request, arg);
        if (nr == RM_ESC_XFER && size >= sizeof(struct rm_xfer)) {
                /* the call proper is inside; the kernel takes it just as well from outside */
                const struct rm_xfer *xfer = arg;

                nr = xfer->nr & 0xff;
                size = xfer->size & _IOC_SIZEMASK;
                arg = (void *)(uintptr_t)xfer->arg;
                if (xfer->size > _IOC_SIZEMASK || !arg || !is_watched(nr))
                        return guard_real_ioctl(fd, request, (void *)xfer);
                request = _IOC(_IOC_READ | _IOC_WRITE, RM_IOCTL_TYPE, nr, size);
        }
        if (!is_watched(nr))
                return guard_real_ioctl(fd, request, arg);
        if (guard_forked())
                return forked_call(fd, request, nr, size, arg);
        return dispatch(fd, request, nr, size, arg);
}
