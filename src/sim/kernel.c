/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "environment.h"
#include "faults.h"
#include "models.h"
#include "rm.h"

/* How long a reader waits for the lock. */
#define READ_WAIT_NS 30000000ull

/* Zeroing gigabytes takes a while, in which nobody else should have to wait long for the lock. */
#define REAP_PIECE (64ull << 20)
#define REAP_NS    3000000ull

/* A file of the machine that this process keeps open. Programs close descriptors that they do not
 * know, and others then get the number: who we opened is compared before each use. */
struct kernel_file {
        int fd;
        dev_t device;
        ino_t inode;
};

static struct {
        pthread_mutex_t mutex; /* of what follows, and of opening */
        bool opened;
        struct kernel_state *state;
        char path[512];
        struct kernel_file directory, state_file, processes, memory[KERNEL_MAX_DEVICES];
        _Atomic uint32_t self;
        bool fork_handled;
        bool shared; /* with other users */
} kernel = {
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .directory.fd = -1,
        .state_file.fd = -1,
        .processes.fd = -1,
        .memory = {[0 ... KERNEL_MAX_DEVICES - 1].fd = -1},
        .self = KERNEL_NONE,
};

uint64_t kernel_now(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

struct kernel_state *kernel_state(void)
{
        return kernel.state;
}

uint32_t kernel_self(void)
{
        return atomic_load_explicit(&kernel.self, memory_order_relaxed);
}

const char *kernel_path(void)
{
        return kernel.path;
}

/* ---- files ---- */

static bool file_is_ours(const struct kernel_file *file)
{
        struct stat st;

        return file->fd >= 0 && fstat(file->fd, &st) == 0 && st.st_dev == file->device &&
               st.st_ino == file->inode;
}

/* The descriptor of a file in the machine's directory, or -errno. */
static int file_fd(struct kernel_file *file, const char *name, int flags)
{
        char path[sizeof(kernel.path) + 16];
        struct stat st;
        int fd;

        if (file_is_ours(file))
                return file->fd;
        pthread_mutex_lock(&kernel.mutex);
        if (file_is_ours(file)) {
                fd = file->fd;
                goto unlock;
        }
        snprintf(path, sizeof(path), "%s/%s", kernel.path, name);
        fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0) {
                fd = -errno;
                goto unlock;
        }
        if (fstat(fd, &st) < 0) {
                close(fd);
                fd = -EIO;
                goto unlock;
        }
        *file = (struct kernel_file){.fd = fd, .device = st.st_dev, .inode = st.st_ino};
unlock:
        pthread_mutex_unlock(&kernel.mutex);
        return fd;
}

int kernel_memory_fd(uint32_t device)
{
        char name[16];

        snprintf(name, sizeof(name), "memory%u", device);
        return file_fd(&kernel.memory[device], name, O_RDWR);
}

int kernel_directory_fd(void)
{
        return file_fd(&kernel.directory, ".", O_RDONLY | O_DIRECTORY);
}

static int state_fd(void)
{
        return file_fd(&kernel.state_file, "state", O_RDWR);
}

static int processes_fd(void)
{
        return file_fd(&kernel.processes, "processes", O_RDWR);
}

/* ---- the lock ---- */

static void rebuild(void);
static void scan_processes(void);

/* The lock has been taken: sets right what its last owner left half done. */
static void locked(int result)
{
        if (result == EOWNERDEAD) {
                rebuild();
                kernel.state->repairs++;
                pthread_mutex_consistent(&kernel.state->lock);
        }
        scan_processes();
}

void kernel_lock(void)
{
        locked(pthread_mutex_lock(&kernel.state->lock));
}

bool kernel_lock_to_read(void)
{
        struct timespec limit;
        int r = pthread_mutex_trylock(&kernel.state->lock);

        if (r == EBUSY) {
                /* not by the monotonic clock: the thread sanitizer does not know that call. Where
                 * the clock is set meanwhile, this waits longer, or not at all. */
                clock_gettime(CLOCK_REALTIME, &limit);
                limit.tv_nsec += READ_WAIT_NS;
                limit.tv_sec += limit.tv_nsec / 1000000000;
                limit.tv_nsec %= 1000000000;
                r = pthread_mutex_timedlock(&kernel.state->lock, &limit);
                if (r == ETIMEDOUT)
                        return false;
        }
        locked(r);
        return true;
}

void kernel_unlock(void)
{
        pthread_mutex_unlock(&kernel.state->lock);
}

/* ---- extents ---- */

static uint64_t granules(uint64_t bytes)
{
        return (bytes + KERNEL_GRANULE - 1) / KERNEL_GRANULE;
}

/* First bit from `from` on, below `end`, that is set (or clear); end if there is none. */
static uint64_t next_bit(const uint64_t *bitmap, uint64_t from, uint64_t end, bool set)
{
        while (from < end) {
                uint64_t word = bitmap[from / 64];

                if (!set)
                        word = ~word;
                word >>= from % 64;
                if (word) {
                        from += (uint64_t)__builtin_ctzll(word);
                        return from < end ? from : end;
                }
                from = (from / 64 + 1) * 64;
        }
        return end;
}

static void set_bits(uint64_t *bitmap, uint64_t from, uint64_t n, bool set)
{
        for (uint64_t end = from + n; from < end;) {
                uint64_t count = 64 - from % 64;
                uint64_t mask;

                if (count > end - from)
                        count = end - from;
                mask = (count == 64 ? UINT64_MAX : (1ull << count) - 1) << from % 64;
                if (set)
                        bitmap[from / 64] |= mask;
                else
                        bitmap[from / 64] &= ~mask;
                from += count;
        }
}

/* Has the file system give pages to part of the state, so that writing there cannot fault. */
static int back_state(const void *begin, size_t bytes)
{
        off_t offset = (const char *)begin - (const char *)kernel.state;
        int fd = state_fd();

        if (fd < 0)
                return fd;
        if (fallocate(fd, 0, offset, (off_t)bytes) == 0 || errno == EOPNOTSUPP)
                return 0;
        return -errno;
}

/* First fit. -ENOMEM, -ENOSPC. */
static int extent_take(uint32_t instance, uint64_t size, uint64_t *ret_offset)
{
        struct kernel_device *device = kernel.state->device + instance;
        uint64_t *bitmap = kernel.state->bitmap[instance];
        uint64_t length = (device->total * KERNEL_SPREAD) / KERNEL_GRANULE;
        uint64_t n = granules(size), at, words;
        bool first = true;

        for (at = device->hint;;) {
                uint64_t known = device->backed * 64, end;

                at = next_bit(bitmap, at, known, false);
                if (first) {
                        device->hint = at;
                        first = false;
                }
                end = next_bit(bitmap, at, at + n < known ? at + n : known, true);
                if (end == known || end - at >= n)
                        break;
                at = end;
        }
        if (at + n > length)
                return -ENOMEM;
        words = (at + n + 63) / 64;
        if (words > device->backed) {
                int r;

                words = (words + 511) / 512 * 512;
                r = back_state(bitmap + device->backed, (words - device->backed) * 8);
                if (r < 0)
                        return r;
                device->backed = words;
        }
        set_bits(bitmap, at, n, true);
        *ret_offset = at * KERNEL_GRANULE;
        return 0;
}

void kernel_punch(uint32_t device, uint64_t offset, uint64_t size)
{
        int fd = kernel_memory_fd(device);

        if (fd >= 0)
                fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                        (off_t)(granules(size) * KERNEL_GRANULE));
}

static void extent_return(uint32_t instance, uint64_t offset, uint64_t size)
{
        struct kernel_device *device = kernel.state->device + instance;

        set_bits(kernel.state->bitmap[instance], offset / KERNEL_GRANULE, granules(size), false);
        if (offset / KERNEL_GRANULE < device->hint)
                device->hint = offset / KERNEL_GRANULE;
}

/* ---- objects ---- */

static bool has_extent(const struct kernel_object *object)
{
        return (object->class_id == RM_CLASS_MEMORY_LOCAL ||
                       object->class_id == RM_CLASS_MEMORY_PRIV) &&
               !(object->flags & KERNEL_OBJECT_DUPLICATE);
}

static bool is_channel(const struct kernel_object *object)
{
        return (object->class_id & 0xff) == RM_CLASS_CHANNEL_LOW;
}

/* A channel group that takes turns on the runlist. */
static bool is_scheduled(const struct kernel_object *object)
{
        return object->class_id == RM_CLASS_CHANNEL_GROUP && object->engine == RM_ENGINE_GRAPHICS;
}

static uint32_t *bucket_of(uint32_t client, uint32_t handle)
{
        uint32_t hash = (client * 2654435761u) ^ (handle * 2246822519u);

        return kernel.state->bucket + (hash ^ hash >> 16) % KERNEL_BUCKETS;
}

uint32_t kernel_find(uint32_t client, uint32_t handle)
{
        struct kernel_object *objects = kernel.state->object;

        for (uint32_t i = *bucket_of(client, handle); i != KERNEL_NONE; i = objects[i].hash_next)
                if (objects[i].client == client && objects[i].handle == handle)
                        return i;
        return KERNEL_NONE;
}

static uint32_t *siblings_of(struct kernel_object *object)
{
        if (object->parent == KERNEL_NONE)
                return &kernel.state->process[object->process].first_root;
        return &kernel.state->object[object->parent].first_child;
}

/* Puts a valid entry into the lists and counters that are derived from it. */
static void derive(uint32_t index)
{
        struct kernel_state *state = kernel.state;
        struct kernel_object *object = state->object + index;
        struct kernel_process *process = state->process + object->process;
        uint32_t *head;

        if (has_extent(object))
                state->device[object->device].used += object->size;
        if (object->state != KERNEL_OBJECT_LIVE)
                return;

        head = bucket_of(object->client, object->handle);
        object->hash_next = *head;
        *head = index;

        head = siblings_of(object);
        object->next = *head;
        object->previous = KERNEL_NONE;
        if (*head != KERNEL_NONE)
                state->object[*head].previous = index;
        *head = index;

        if (object->flags & KERNEL_OBJECT_DUPLICATE)
                state->object[object->origin].references++;
        else if (has_extent(object))
                process->used[object->device] += object->size;
        else if (object->class_id == KERNEL_CLASS_MANAGED)
                state->device[object->device].managed += object->size;
        else if (is_channel(object))
                process->channels[object->device]++;
}

/* The contrary, for an entry that is LIVE. Its extent stays counted. */
static void underive(uint32_t index)
{
        struct kernel_state *state = kernel.state;
        struct kernel_object *object = state->object + index;
        struct kernel_process *process = state->process + object->process;
        uint32_t *link = bucket_of(object->client, object->handle);

        while (*link != index)
                link = &state->object[*link].hash_next;
        *link = object->hash_next;

        if (object->previous == KERNEL_NONE)
                *siblings_of(object) = object->next;
        else
                state->object[object->previous].next = object->next;
        if (object->next != KERNEL_NONE)
                state->object[object->next].previous = object->previous;

        if (object->flags & KERNEL_OBJECT_DUPLICATE)
                state->object[object->origin].references--;
        else if (has_extent(object))
                process->used[object->device] -= object->size;
        else if (object->class_id == KERNEL_CLASS_MANAGED)
                state->device[object->device].managed -= object->size;
        else if (is_channel(object))
                process->channels[object->device]--;
}

static void put_entry(uint32_t index)
{
        struct kernel_object *object = kernel.state->object + index;

        atomic_signal_fence(memory_order_seq_cst);
        object->state = KERNEL_OBJECT_FREE;
        object->next = kernel.state->free_object;
        kernel.state->free_object = index;
}

/* A free entry, or KERNEL_NONE. */
static uint32_t take_entry(void)
{
        struct kernel_state *state = kernel.state;
        uint32_t index = state->free_object;

        if (index != KERNEL_NONE) {
                state->free_object = state->object[index].next;
                return index;
        }
        if (state->object_high == KERNEL_MAX_OBJECTS)
                return KERNEL_NONE;
        if (state->object_high == state->object_backed) {
                if (back_state(state->object + state->object_backed,
                            1024 * sizeof(*state->object)) < 0)
                        return KERNEL_NONE;
                state->object_backed += 1024;
        }
        return state->object_high++;
}

/* Calls of one function for each place: GPUs, and MIG devices that were ever made. */
static bool is_place(uint32_t device)
{
        return device < KERNEL_MAX_DEVICES && kernel.state->device[device].total > 0;
}

/* What is taken of the memory that a device draws from: its own, and of a MIG device that of the
 * others in its GPU instance. */
static void taken(const struct kernel_device *device, uint64_t *ret_used, uint64_t *ret_managed)
{
        const struct kernel_state *state = kernel.state;

        *ret_used = device->used;
        *ret_managed = device->managed;
        for (uint32_t i = state->devices;
                device->gpu != (uint32_t)(device - state->device) && i < KERNEL_MAX_DEVICES; i++) {
                const struct kernel_device *other = state->device + i;

                if (other == device || other->total == 0 || other->gpu != device->gpu ||
                        other->gpu_instance != device->gpu_instance)
                        continue;
                *ret_used += other->used;
                *ret_managed += other->managed;
        }
}

uint64_t kernel_device_used(const struct kernel_device *device)
{
        uint64_t capacity = device->total - device->reserved, used, managed;

        taken(device, &used, &managed);

        if (used > capacity) /* read without the lock, in the middle of a change */
                return capacity;
        return used + (managed < capacity - used ? managed : capacity - used);
}

uint32_t kernel_new_object(const struct kernel_new *wanted, uint32_t *ret)
{
        struct kernel_state *state = kernel.state;
        struct kernel_object *object;
        uint32_t index;

        index = take_entry();
        if (index == KERNEL_NONE)
                return RM_ERR_NO_MEMORY;
        object = state->object + index;
        *object = (struct kernel_object){
                .class_id = wanted->class_id,
                .process = kernel_self(),
                .client = wanted->client,
                .handle = wanted->handle,
                .parent = wanted->parent,
                .device = wanted->device,
                .flags = wanted->flags,
                .origin = wanted->origin,
                .engine = wanted->engine,
                .size = wanted->size,
                .timeslice = wanted->engine == RM_ENGINE_GRAPHICS ? 2048 : 1024,
                .group = RUNLIST_NONE,
                .first_child = KERNEL_NONE,
        };
        if (is_scheduled(object)) {
                object->group =
                        runlist_add(state->runlist + object->device, index, object->process);
                if (object->group == RUNLIST_NONE) {
                        put_entry(index);
                        return RM_ERR_NO_MEMORY;
                }
        }
        if (has_extent(object)) {
                const struct kernel_device *device = state->device + object->device;
                uint64_t used, managed;

                taken(device, &used, &managed);
                if (object->size > device->total - device->reserved - used ||
                        extent_take(object->device, object->size, &object->offset) < 0) {
                        put_entry(index);
                        return RM_ERR_NO_MEMORY;
                }
        } else if (object->flags & KERNEL_OBJECT_DUPLICATE) {
                object->offset = state->object[object->origin].offset;
        }
        atomic_signal_fence(memory_order_seq_cst);
        object->state = KERNEL_OBJECT_LIVE;
        derive(index);
        if (is_channel(object))
                kernel_update_group(object->parent, false);
        *ret = index;
        return RM_OK;
}

/* Memory that nobody has a name for any more. */
static void free_memory(uint32_t index)
{
        struct kernel_object *object = kernel.state->object + index;

        kernel_punch(object->device, object->offset, object->size);
        extent_return(object->device, object->offset, object->size);
        kernel.state->device[object->device].used -= object->size;
        put_entry(index);
}

/* An object without children. Each step leaves the table true. */
static void free_one(uint32_t index)
{
        struct kernel_state *state = kernel.state;
        struct kernel_object *object = state->object + index;
        struct kernel_object *origin = NULL;

        underive(index);
        if (has_extent(object)) {
                if (object->references == 0)
                        free_memory(index);
                else
                        object->state = KERNEL_OBJECT_ORPHAN;
                return;
        }
        if (object->flags & KERNEL_OBJECT_DUPLICATE)
                origin = state->object + object->origin;
        if (is_scheduled(object)) {
                uint32_t group = object->group;

                object->group = RUNLIST_NONE; /* first: a place that nobody owns is found later */
                atomic_signal_fence(memory_order_seq_cst);
                runlist_remove(state->runlist + object->device, group);
        }
        put_entry(index);
        if (origin && origin->state == KERNEL_OBJECT_ORPHAN && origin->references == 0)
                free_memory((uint32_t)(origin - state->object));
}

void kernel_free_object(uint32_t index)
{
        struct kernel_object *objects = kernel.state->object;
        uint32_t at = index, parent;

        for (;;) {
                while (objects[at].first_child != KERNEL_NONE)
                        at = objects[at].first_child;
                parent = objects[at].parent;
                free_one(at);
                if (at == index)
                        return;
                at = parent;
        }
}

void kernel_update_group(uint32_t index, bool lingers)
{
        struct kernel_state *state = kernel.state;
        struct kernel_object *objects = state->object, *object = objects + index;
        struct runlist *runlist;
        bool disabled = object->first_child != KERNEL_NONE;

        if (!is_scheduled(object) || object->group == RUNLIST_NONE)
                return;
        for (uint32_t i = object->first_child; i != KERNEL_NONE; i = objects[i].next)
                if (objects[i].disabled == 0)
                        disabled = false;
        runlist = state->runlist + object->device;
        if (disabled == (bool)atomic_load(&runlist->group[object->group].disabled))
                return;
        if (disabled && lingers)
                runlist_bar(runlist, object->group);
        else
                runlist_set_disabled(runlist, object->group, disabled);
}

/* ---- processes ---- */

/* Zeroes what an object holds, piece by piece. False: the time was up before the end; what has been
 * done takes next to no time when it is done again. */
static bool punch_until(const struct kernel_object *object, uint64_t deadline)
{
        for (uint64_t done = 0; done < object->size; done += REAP_PIECE) {
                uint64_t rest = object->size - done;

                if (done && kernel_now() > deadline)
                        return false;
                kernel_punch(object->device, object->offset + done,
                        rest < REAP_PIECE ? rest : REAP_PIECE);
        }
        return true;
}

/* Frees what a dead process held, as far as it can be done in a while: the lock is held. What is
 * left is done by those who take it later. */
static void reap(uint32_t index)
{
        struct kernel_process *process = kernel.state->process + index;
        struct kernel_object *objects = kernel.state->object;
        uint64_t deadline = kernel_now() + REAP_NS;

        while (process->first_root != KERNEL_NONE) {
                uint32_t leaf = process->first_root;

                while (objects[leaf].first_child != KERNEL_NONE)
                        leaf = objects[leaf].first_child;
                if (has_extent(&objects[leaf]) && objects[leaf].references == 0 &&
                        !punch_until(&objects[leaf], deadline))
                        return;
                kernel_free_object(leaf);
        }
        atomic_signal_fence(memory_order_seq_cst);
        process->state = KERNEL_PROCESS_FREE;
        kernel.state->processes--;
        if (kernel.state->processes == 0)
                for (uint32_t i = 0; i < KERNEL_MAX_DEVICES; i++)
                        atomic_store(&kernel.state->device[i].lost, 0);
}

static bool process_has_died(uint32_t index, int fd)
{
        struct flock lock = {
                .l_type = F_WRLCK,
                .l_whence = SEEK_SET,
                .l_start = index,
                .l_len = 1,
        };

        return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
}

/* Looks for the dead now and then: more seldom the more there are to ask, so that the price of a
 * call stays the same. */
static void scan_processes(void)
{
        struct kernel_state *state = kernel.state;
        uint64_t now, interval = 1000000 + state->processes * 20000ull;
        int fd;

        if (state->processes == 0)
                return;
        now = kernel_now();
        if (now - state->scanned < interval)
                return;
        state->scanned = now;
        fd = processes_fd();
        if (fd < 0)
                return;
        for (uint32_t i = 0; i < state->process_high; i++) {
                struct kernel_process *process = state->process + i;

                if (process->state == KERNEL_PROCESS_LIVE && i != kernel_self() &&
                        process_has_died(i, fd)) {
                        process->died = now;
                        process->state = KERNEL_PROCESS_DEAD;
                }
                if (process->state == KERNEL_PROCESS_DEAD &&
                        now - process->died >= process->release_delay)
                        reap(i);
        }
}

static bool owns_group(uint32_t index, uint32_t group)
{
        const struct kernel_object *object = kernel.state->object + index;

        return object->state == KERNEL_OBJECT_LIVE && is_scheduled(object) &&
               object->group == group;
}

/* Makes all that is derived from the tables anew. */
static void rebuild(void)
{
        struct kernel_state *state = kernel.state;

        state->processes = 0;
        for (uint32_t i = 0; i < state->process_high; i++) {
                struct kernel_process *process = state->process + i;

                process->first_root = KERNEL_NONE;
                memset(process->used, 0, sizeof(process->used));
                memset(process->channels, 0, sizeof(process->channels));
                if (process->state != KERNEL_PROCESS_FREE)
                        state->processes++;
        }
        for (uint32_t i = 0; i < KERNEL_MAX_DEVICES; i++) {
                if (!is_place(i))
                        continue;
                state->device[i].used = state->device[i].foreign;
                state->device[i].managed = 0;
                state->device[i].hint = 0;
                memset(state->bitmap[i], 0, state->device[i].backed * 8);
        }
        memset(state->bucket, 0xff, sizeof(state->bucket));
        state->free_object = KERNEL_NONE;
        for (uint32_t i = 0; i < state->object_high; i++) {
                state->object[i].first_child = KERNEL_NONE;
                state->object[i].references = 0;
        }
        for (uint32_t i = state->object_high; i-- > 0;) {
                struct kernel_object *object = state->object + i;

                if (object->state == KERNEL_OBJECT_FREE) {
                        put_entry(i);
                        continue;
                }
                derive(i);
                if (has_extent(object))
                        set_bits(state->bitmap[object->device], object->offset / KERNEL_GRANULE,
                                granules(object->size), true);
        }
        for (uint32_t i = 0; i < state->object_high; i++)
                if (state->object[i].state == KERNEL_OBJECT_ORPHAN &&
                        state->object[i].references == 0)
                        free_memory(i);
        for (uint32_t i = 0; i < KERNEL_MAX_DEVICES; i++)
                if (is_place(i))
                        runlist_check(state->runlist + i, owns_group);
        for (uint32_t i = 0; i < state->object_high; i++)
                if (state->object[i].state == KERNEL_OBJECT_LIVE)
                        kernel_update_group(i, false);
}

/* Field 22 of /proc/self/stat. */
static uint64_t own_start_time(void)
{
        char text[1024];
        char *p;
        ssize_t n;
        int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);

        if (fd < 0)
                return 0;
        n = read(fd, text, sizeof(text) - 1);
        close(fd);
        if (n <= 0)
                return 0;
        text[n] = '\0';
        p = strrchr(text, ')'); /* the name before it may hold anything */
        for (int field = 2; p && field < 22; field++)
                p = strchr(p + 1, ' ');
        return p ? strtoull(p + 1, NULL, 10) : 0;
}

static void after_fork(void)
{
        atomic_store(&kernel.self, KERNEL_NONE);
        pthread_mutex_init(&kernel.mutex, NULL);
}

/* Locks this process's byte for as long as it lives. The lock belongs to the open file, and the
 * file stays open by a mapping alone: so neither can the program close it, nor can a child take it
 * along, and the kernel drops it with the address space, at exit and at exec. */
static int lock_own_byte(uint32_t index)
{
        struct flock lock = {
                .l_type = F_WRLCK,
                .l_whence = SEEK_SET,
                .l_start = index,
                .l_len = 1,
        };
        char path[sizeof(kernel.path) + 16];
        void *anchor = MAP_FAILED;
        long page = sysconf(_SC_PAGESIZE);
        int fd, r = 0;

        snprintf(path, sizeof(path), "%s/processes", kernel.path);
        fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return -errno;
        if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
                r = -errno;
        if (r == 0) {
                anchor = mmap(NULL, (size_t)page, PROT_NONE, MAP_SHARED, fd, 0);
                if (anchor == MAP_FAILED || madvise(anchor, (size_t)page, MADV_DONTFORK) < 0)
                        r = -errno;
        }
        if (r < 0 && anchor != MAP_FAILED)
                munmap(anchor, (size_t)page);
        close(fd);
        return r;
}

/* A lock of the process itself, which tells others its pid as they know it: in a pid namespace of
 * their own, or of ours. What the program does to the descriptor costs no more than that. */
static struct flock pid_lock(uint32_t index)
{
        return (struct flock){
                .l_type = F_WRLCK,
                .l_whence = SEEK_SET,
                .l_start = index,
                .l_len = 1,
        };
}

uint32_t kernel_process_pid(uint32_t index)
{
        struct flock lock = pid_lock(index);
        int fd = state_fd();

        if (index == kernel_self())
                return (uint32_t)getpid();
        if (fd < 0 || fcntl(fd, F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
                return kernel.state->process[index].pid;
        return (uint32_t)lock.l_pid;
}

int kernel_attach(void)
{
        struct kernel_state *state = kernel.state;
        uint64_t start = own_start_time();
        uint32_t index;
        int r = -ENOSPC;

        if (kernel_self() != KERNEL_NONE)
                return 0;
        kernel_lock();
        /* One that died before it took its place may still hold the lock of it: then the next. */
        for (index = 0; index < KERNEL_MAX_PROCESSES; index++) {
                if (state->process[index].state != KERNEL_PROCESS_FREE)
                        continue;
                r = lock_own_byte(index);
                if (r != -EAGAIN)
                        break;
        }
        if (index == KERNEL_MAX_PROCESSES)
                r = -ENOSPC;
        if (r == 0) {
                struct flock lock = pid_lock(index);

                (void)fcntl(state_fd(), F_SETLK, &lock);
                state->process[index] = (struct kernel_process){
                        .pid = (uint32_t)getpid(),
                        .start_time = start,
                        .release_delay = sim_faults_release(),
                        .graphics = sim_faults_graphics(),
                        .first_root = KERNEL_NONE,
                };
                if (index >= state->process_high)
                        state->process_high = index + 1;
                atomic_signal_fence(memory_order_seq_cst);
                state->process[index].state = KERNEL_PROCESS_LIVE;
                state->processes++;
                atomic_store(&kernel.self, index);
        }
        kernel_unlock();
        return r;
}

/* ---- making the machine ---- */

/* 128 bits that depend on all of the text. */
static void hash_text(const char *text, uint8_t ret[16])
{
        uint64_t a = 0xcbf29ce484222325ull, b = 0x9ae16a3b2f90404full;

        for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
                a = (a ^ *p) * 0x100000001b3ull;
                b = (b + *p) * 0x9e3779b97f4a7c15ull;
                b ^= b >> 29;
        }
        a ^= b >> 31;
        memcpy(ret, &a, 8);
        memcpy(ret + 8, &b, 8);
        ret[6] = (ret[6] & 0x0f) | 0x50; /* the form of a name-based UUID */
        ret[8] = (ret[8] & 0x3f) | 0x80;
}

static int init_lock(pthread_mutex_t *lock)
{
        pthread_mutexattr_t attributes;
        int r;

        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
        r = pthread_mutex_init(lock, &attributes);
        pthread_mutexattr_destroy(&attributes);
        return -r;
}

bool kernel_is_used(uint32_t device)
{
        const struct kernel_state *state = kernel.state;

        if (!is_place(device))
                return false;
        for (uint32_t i = 0; i < state->process_high; i++)
                if (state->process[i].state != KERNEL_PROCESS_FREE &&
                        (state->process[i].used[device] || state->process[i].channels[device]))
                        return true;
        return state->device[device].used > 0;
}

static bool is_named(uint32_t place)
{
        for (uint32_t d = 0; d < kernel.state->devices; d++)
                for (unsigned i = 0; i < KERNEL_MIG_SLICES; i++)
                        for (unsigned j = 0; j < KERNEL_MIG_SLICES; j++) {
                                const struct kernel_mig_instance *instance =
                                        kernel.state->mig[d].instance + i;

                                if (instance->live && instance->compute[j].live &&
                                        instance->compute[j].device == place)
                                        return true;
                        }
        return false;
}

/* Where users share the machine, whatever their umask. */
static int open_to_all(int fd, mode_t mode)
{
        return kernel.shared ? fchmod(fd, mode) : 0;
}

uint32_t kernel_add_mig(const struct kernel_device *wanted)
{
        struct kernel_state *state = kernel.state;
        struct kernel_device *device;
        uint32_t place = state->devices;
        char name[16];
        int fd;

        while (place < KERNEL_MAX_DEVICES && (is_named(place) || kernel_is_used(place)))
                place++;
        if (place == KERNEL_MAX_DEVICES)
                return KERNEL_NONE;
        snprintf(name, sizeof(name), "memory%u", place);
        fd = openat(kernel_directory_fd(), name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return KERNEL_NONE;
        /* Nobody maps what was there; its extents were punched when they were freed. */
        if (ftruncate(fd, (off_t)(wanted->total * KERNEL_SPREAD)) < 0 ||
                open_to_all(fd, 0666) < 0) {
                close(fd);
                return KERNEL_NONE;
        }
        close(fd);
        device = state->device + place;
        if (device->total == 0) {
                if (init_lock(&state->runlist[place].lock) < 0)
                        return KERNEL_NONE;
                runlist_init(state->runlist + place, kernel_now());
        }
        memcpy(device->model, state->device[wanted->gpu].model, sizeof(device->model));
        memcpy(device->uuid, wanted->uuid, sizeof(device->uuid));
        memcpy(device->profile, wanted->profile, sizeof(device->profile));
        device->gpu = wanted->gpu;
        device->gpu_instance = wanted->gpu_instance;
        device->compute_instance = wanted->compute_instance;
        device->sms = wanted->sms;
        device->hint = 0;
        atomic_signal_fence(memory_order_seq_cst);
        device->total = wanted->total;
        return place;
}

static int init_state(
        struct kernel_state *state, const char *base, const struct sim_model *const *models, int n)
{
        char text[600];
        int r;

        r = init_lock(&state->lock);
        if (r < 0)
                return r;
        state->version = KERNEL_VERSION;
        state->size = sizeof(*state);
        state->devices = (uint32_t)n;
        state->next_client = 0xc1d00001u;
        state->free_object = KERNEL_NONE;
        memset(state->bucket, 0xff, sizeof(state->bucket));
        for (int i = 0; i < n; i++) {
                struct kernel_device *device = state->device + i;

                snprintf(device->model, sizeof(device->model), "%s", models[i]->key);
                device->gpu = (uint32_t)i;
                device->sms = (uint32_t)models[i]->sms;
                device->total = (uint64_t)models[i]->memory_mib << 20;
                device->reserved = (uint64_t)models[i]->reserved_mib << 20;
                device->foreign = sim_faults_foreign(i) & ~(uint64_t)4095;
                if (device->foreign > device->total - device->reserved)
                        device->foreign = device->total - device->reserved;
                device->used = device->foreign;
                snprintf(text, sizeof(text), "%s\n%s\n%d", base, models[i]->key, i);
                hash_text(text, device->uuid);
                r = init_lock(&state->runlist[i].lock);
                if (r < 0)
                        return r;
                runlist_init(state->runlist + i, kernel_now());
        }
        state->magic = KERNEL_MAGIC;
        return 0;
}

static int make_file(int directory, const char *name, uint64_t bytes, int *ret_fd)
{
        int fd = openat(directory, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        int r;

        if (fd < 0)
                return -errno;
        if (ftruncate(fd, (off_t)bytes) < 0 || open_to_all(fd, 0666) < 0) {
                r = -errno;
                close(fd);
                return r;
        }
        *ret_fd = fd;
        return 0;
}

/* All files of a machine, in a directory that nobody else knows of. */
static int fill_machine(
        int directory, const char *base, const struct sim_model *const *models, int n)
{
        struct kernel_state *state;
        char name[32];
        int fd, r;

        for (int i = 0; i < n; i++) {
                snprintf(name, sizeof(name), "memory%d", i);
                r = make_file(directory, name,
                        ((uint64_t)models[i]->memory_mib << 20) * KERNEL_SPREAD, &fd);
                if (r < 0)
                        return r;
                /* the memory of others must be zeroed without making pages of it */
                if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, KERNEL_GRANULE) <
                        0)
                        r = -errno;
                close(fd);
                if (r < 0)
                        return r;
        }
        r = make_file(directory, "processes", 0, &fd);
        if (r < 0)
                return r;
        close(fd);

        r = make_file(directory, "state", sizeof(struct kernel_state), &fd);
        if (r < 0)
                return r;
        /* what is used in any case gets its pages now, so that a full host is an error here */
        if (fallocate(fd, 0, 0, offsetof(struct kernel_state, object)) < 0 && errno != EOPNOTSUPP) {
                r = -errno;
                close(fd);
                return r;
        }
        state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        if (state == MAP_FAILED)
                return -errno;
        r = init_state(state, base, models, n);
        munmap(state, sizeof(*state));
        return r;
}

static void remove_machine(int base, const char *name)
{
        static const char *const files[] = {"state", "processes"};
        char path[256];

        for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
                snprintf(path, sizeof(path), "%s/%s", name, files[i]);
                unlinkat(base, path, 0);
        }
        for (int i = 0; i < KERNEL_MAX_DEVICES; i++) {
                snprintf(path, sizeof(path), "%s/memory%d", name, i);
                unlinkat(base, path, 0);
        }
        unlinkat(base, name, AT_REMOVEDIR);
}

static int make_machine(int base, const char *base_path, const char *name,
        const struct sim_model *const *models, int n)
{
        char draft[240];
        int directory, r;

        snprintf(draft, sizeof(draft), "%s.%d.%" PRIx64, name, getpid(), kernel_now());
        if (mkdirat(base, draft, 0700) < 0)
                return -errno;
        directory = openat(base, draft, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        r = directory < 0 || open_to_all(directory, 0777) < 0
                    ? -errno
                    : fill_machine(directory, base_path, models, n);
        if (directory >= 0)
                close(directory);
        /* where another was first, the directory is not empty and the name stays its */
        if (r == 0 && renameat(base, draft, base, name) == 0)
                return 0;
        if (r == 0 && errno != EEXIST && errno != ENOTEMPTY)
                r = -errno;
        remove_machine(base, draft);
        return r;
}

/* "h100,h100.1.BOOT": the same for all who name the same models, another after a boot, since the
 * state holds locks and times of the running system. */
static void machine_name(const struct sim_model *const *models, int n, char *ret, size_t size)
{
        char boot[9] = "00000000";
        size_t length = 0;
        int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

        if (fd >= 0) {
                if (read(fd, boot, 8) != 8)
                        memset(boot, '0', 8);
                close(fd);
        }
        for (int i = 0; i < n; i++)
                length += (size_t)snprintf(
                        ret + length, size - length, "%s%s", i ? "," : "", models[i]->key);
        snprintf(ret + length, size - length, ".%u.%s", KERNEL_VERSION, boot);
}

/* Opens the directory of all machines, makes it if need be. It must be ours alone, or root's and
 * open to all, as a real GPU's device files are. */
static int open_base(const char *path)
{
        struct stat st;
        int fd, r = 0;

        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return -errno;
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                r = -errno;
        else if (st.st_uid == 0 && (st.st_mode & 0777) == 0777)
                kernel.shared = true;
        else if (st.st_uid != geteuid() || (st.st_mode & 077))
                r = -EPERM;
        if (r < 0) {
                close(fd);
                return r;
        }
        return fd;
}

static int map_state(int n_models)
{
        struct kernel_state *state;
        struct stat st;
        char path[sizeof(kernel.path) + 16];
        int fd, r = 0;

        snprintf(path, sizeof(path), "%s/state", kernel.path);
        fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != sizeof(*state)) {
                close(fd);
                return -EPROTO;
        }
        state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (state == MAP_FAILED)
                r = -errno;
        else if (state->magic != KERNEL_MAGIC || state->version != KERNEL_VERSION ||
                 state->size != sizeof(*state) || state->devices != (uint32_t)n_models) {
                munmap(state, sizeof(*state));
                r = -EPROTO;
        }
        if (r < 0) {
                close(fd);
                return r;
        }
        kernel.state_file = (struct kernel_file){.fd = fd, .device = st.st_dev, .inode = st.st_ino};
        kernel.state = state;
        return 0;
}

static int open_machine(void)
{
        const struct sim_model *models[KERNEL_MAX_DEVICES];
        const char *base_path = getenv(CLEAVE_ENV_SIM_DIR);
        char fallback[64], name[160];
        int n, base, r;

        r = sim_faults_load();
        if (r < 0)
                return r;
        n = sim_models_parse(getenv(CLEAVE_ENV_SIM), models, KERNEL_MAX_DEVICES);
        if (n < 0)
                return n;
        if (n == 0)
                return -EINVAL;
        if (!base_path || !*base_path) {
                snprintf(fallback, sizeof(fallback), "/dev/shm/cleave-sim-%u", (unsigned)geteuid());
                base_path = fallback;
        }
        machine_name(models, n, name, sizeof(name));
        if ((size_t)snprintf(kernel.path, sizeof(kernel.path), "%s/%s", base_path, name) >=
                sizeof(kernel.path))
                return -ENAMETOOLONG;
        base = open_base(base_path);
        if (base < 0)
                return base;
        r = faccessat(base, name, F_OK, 0) == 0 ? 0
                                                : make_machine(base, base_path, name, models, n);
        close(base);
        return r < 0 ? r : map_state(n);
}

/* Whether this process is in the table: by this library or by the other, which has its own. */
static bool is_attached(void)
{
        for (uint32_t i = 0; i < kernel.state->process_high; i++)
                if (kernel.state->process[i].state == KERNEL_PROCESS_LIVE &&
                        kernel.state->process[i].pid == (uint32_t)getpid())
                        return true;
        return false;
}

static void close_file(struct kernel_file *file)
{
        if (file_is_ours(file))
                close(file->fd);
        file->fd = -1;
}

void kernel_close(void)
{
        pthread_mutex_lock(&kernel.mutex);
        /* to close the state would give up the lock by which a process tells its pid */
        if (kernel.opened && !is_attached()) {
                munmap(kernel.state, sizeof(*kernel.state));
                kernel.state = NULL;
                kernel.opened = false;
                close_file(&kernel.directory);
                close_file(&kernel.state_file);
                close_file(&kernel.processes);
                for (unsigned i = 0; i < KERNEL_MAX_DEVICES; i++)
                        close_file(&kernel.memory[i]);
        }
        pthread_mutex_unlock(&kernel.mutex);
}

int kernel_open(void)
{
        int r = 0;

        pthread_mutex_lock(&kernel.mutex);
        if (!kernel.fork_handled) {
                r = -pthread_atfork(NULL, NULL, after_fork);
                kernel.fork_handled = r == 0;
        }
        if (r == 0 && !kernel.opened) {
                r = open_machine();
                kernel.opened = r == 0;
        }
        pthread_mutex_unlock(&kernel.mutex);
        return r;
}
