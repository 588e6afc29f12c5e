/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "environment.h"
#include "guard.h"
#include "trace.h"

/* Our descriptor is put high, where no program's own fixed numbers are. */
#define HIGH_FD 700
/* Pieces that are mapped at once: the current one, and those in which a call has not returned. */
#define MAX_SPACES 64
#define MOST_CHUNK (16 * TRACE_STEP)

struct trace_space {
        _Atomic uint32_t users;
        bool retired; /* under the lock: to be unmapped when nobody uses it */
        char *base;
        size_t size;
        _Atomic uint64_t used; /* beyond size when it is full */
};

/* On a page that the kernel wipes in forked children: so that finding out costs a load, and a child
 * finds the lock free whatever its parent's threads were about. */
struct here {
        _Atomic int state; /* 0: not looked at */
        struct guard_lock lock;
};
enum { ON = 1, OFF = 2 };

static struct guard_lock first_lock;
static struct here *_Atomic here;
static struct trace_header *header;
static struct trace_space spaces[MAX_SPACES];
static struct trace_space *_Atomic current;
static size_t next_chunk;
static uint32_t number; /* of this process */
static int file = -1;
static dev_t file_device;
static ino_t file_inode;

uint32_t trace_options(void)
{
        return header->options;
}

uint32_t trace_process_number(void)
{
        return number;
}

/* fstat() is an old symbol only as a macro's doing, and a new one is too new for us. */
static int file_status(int fd, struct stat *ret)
{
        return (int)syscall(SYS_fstat, fd, ret);
}

/* -- the file ---------------------------------------------------------------------------------- */

static int open_file(void)
{
        const char *path = secure_getenv(CLEAVE_ENV_TRACE);
        struct stat st;
        int fd, high;

        if (!path || path[0] != '/')
                return -ENOENT;
        fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
                return -errno;
        if (file_status(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < TRACE_HEADER_BYTES ||
                (header && (st.st_dev != file_device || st.st_ino != file_inode))) {
                close(fd);
                return -ENOENT;
        }
        file_device = st.st_dev;
        file_inode = st.st_ino;
        high = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, HIGH_FD);
        if (high >= 0) {
                close(fd);
                fd = high;
        }
        return fd;
}

/* The descriptor, which the program may have closed, or given to another file. */
static int good_file(void)
{
        struct stat st;

        if (file < 0 || file_status(file, &st) < 0 || st.st_dev != file_device ||
                st.st_ino != file_inode)
                file = open_file();
        return file;
}

static void cut(enum trace_cut why, int error)
{
        uint32_t whole = TRACE_WHOLE;

        if (atomic_compare_exchange_strong(&header->cut, &whole, why)) {
                atomic_store(&header->cut_errno, (uint32_t)error);
                guard_debug("the trace is cut: %s", error ? strerror(error) : "its limit");
        }
}

/* Makes sure that the bytes are there to be written to. Never the signal that a program gets which
 * writes beyond RLIMIT_FSIZE. */
static int claim(int fd, uint64_t offset, uint64_t size)
{
        struct rlimit limit;
        static const char zeros[4096];

        if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
                offset + size > limit.rlim_cur)
                return -EFBIG;
        while (fallocate(fd, 0, (off_t)offset, (off_t)size) < 0) {
                if (errno == EINTR)
                        continue;
                if (errno != EOPNOTSUPP && errno != ENOSYS)
                        return -errno;
                for (uint64_t at = 0; at < size; at += sizeof(zeros))
                        if (pwrite(fd, zeros, sizeof(zeros), (off_t)(offset + at)) !=
                                (ssize_t)sizeof(zeros))
                                return errno ? -errno : -ENOSPC;
                return 0;
        }
        return 0;
}

/* A new chunk, mapped: under the lock. */
static char *map_chunk(size_t size)
{
        struct trace_chunk *chunk;
        uint64_t offset;
        int fd, r;

        if (atomic_load(&header->cut))
                return NULL;
        fd = good_file();
        if (fd < 0) {
                cut(TRACE_CUT_ERROR, -fd);
                return NULL;
        }
        offset = atomic_fetch_add(&header->end, size);
        if (offset + size > header->limit) {
                cut(TRACE_CUT_LIMIT, 0);
                return NULL;
        }
        r = claim(fd, offset, size);
        if (r < 0) {
                cut(TRACE_CUT_ERROR, -r);
                return NULL;
        }
        chunk = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
        if (chunk == MAP_FAILED) {
                cut(TRACE_CUT_ERROR, errno);
                return NULL;
        }
        chunk->size = size;
        chunk->process = number;
        chunk->pid = (uint32_t)getpid();
        atomic_thread_fence(memory_order_release);
        chunk->magic = TRACE_CHUNK_MAGIC;
        return (char *)chunk;
}

/* -- space ------------------------------------------------------------------------------------- */

static void unmap_if_unused(struct trace_space *space)
{
        if (space->retired && atomic_load(&space->users) == 0 && space->base) {
                munmap(space->base, space->size);
                space->base = NULL;
                space->retired = false;
        }
}

/* Puts a piece with room for size bytes in the place of full, under the lock. */
static bool grow(struct trace_space *full, size_t size)
{
        struct trace_space *space = NULL;
        size_t chunk = next_chunk ? next_chunk : TRACE_STEP;

        for (unsigned i = 0; i < MAX_SPACES && !space; i++)
                if (!spaces[i].base)
                        space = &spaces[i];
        if (!space)
                return false;
        if (chunk < sizeof(struct trace_chunk) + size)
                chunk = (sizeof(struct trace_chunk) + size + TRACE_STEP - 1) / TRACE_STEP *
                        TRACE_STEP;
        else
                next_chunk = chunk < MOST_CHUNK ? 2 * chunk : chunk;
        space->base = map_chunk(chunk);
        if (!space->base)
                return false;
        space->size = chunk;
        atomic_store(&space->used, sizeof(struct trace_chunk));
        atomic_store(&current, space);
        if (full) {
                full->retired = true;
                unmap_if_unused(full);
        }
        return true;
}

void trace_leave(struct trace_space *space)
{
        struct guard_lock *lock = &atomic_load_explicit(&here, memory_order_relaxed)->lock;

        /* one that is not current any more may be ours to unmap */
        if (atomic_fetch_sub(&space->users, 1) == 1 && atomic_load(&current) != space) {
                int saved = errno;

                guard_lock(lock);
                if (atomic_load(&current) != space)
                        unmap_if_unused(space);
                guard_unlock(lock);
                errno = saved;
        }
}

void *trace_room(size_t size, struct trace_space **ret_space)
{
        struct guard_lock *lock = &atomic_load_explicit(&here, memory_order_relaxed)->lock;

        while (!atomic_load_explicit(&header->cut, memory_order_relaxed)) {
                struct trace_space *space = atomic_load(&current);
                int saved = errno;
                bool grown = true;

                if (space) {
                        atomic_fetch_add(&space->users, 1);
                        if (atomic_load(&current) == space) {
                                uint64_t at = atomic_fetch_add(&space->used, size);

                                if (at + size <= space->size) {
                                        *ret_space = space;
                                        return space->base + at;
                                }
                        }
                        trace_leave(space);
                }
                guard_lock(lock);
                if (atomic_load(&current) == space)
                        grown = grow(space, size);
                guard_unlock(lock);
                errno = saved;
                if (!grown)
                        break;
        }
        atomic_fetch_add(&header->lost, 1);
        return NULL;
}

/* -- beginning --------------------------------------------------------------------------------- */

/* The first record, in the first piece: under the lock, while nobody else writes. */
static void tell_process(uint32_t forked_from)
{
        size_t size = sizeof(struct trace_record) + sizeof(struct trace_process);
        struct trace_record *record;
        struct trace_process *process;
        struct timespec ts;
        int fd;

        if (!grow(NULL, size))
                return;
        record = (struct trace_record *)(current->base + atomic_fetch_add(&current->used, size));
        process = (struct trace_process *)(record + 1);
        process->pid = (uint32_t)getpid();
        process->parent = (uint32_t)getppid();
        process->forked_from = forked_from;
        fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
                if (read(fd, process->command, sizeof(process->command) - 2) < 0)
                        process->command[0] = 0;
                close(fd);
        }
        clock_gettime(CLOCK_MONOTONIC, &ts);
        record->begin = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
        record->size = (uint32_t)size;
        record->entry = TRACE_ENTRY_PROCESS;
        record->thread = (uint32_t)syscall(SYS_gettid);
        atomic_thread_fence(memory_order_release);
        record->magic = TRACE_RECORD_MAGIC;
}

static bool map_header(void)
{
        struct trace_header *mapped;

        file = open_file();
        if (file < 0)
                return false;
        mapped = mmap(NULL, TRACE_HEADER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (mapped == MAP_FAILED)
                return false;
        if (memcmp(mapped->magic, TRACE_MAGIC, sizeof(mapped->magic)) != 0 ||
                mapped->version != TRACE_VERSION || mapped->digest != CUDA_TRACE_DIGEST) {
                guard_debug("the trace was begun by another version of cleave");
                munmap(mapped, TRACE_HEADER_BYTES);
                return false;
        }
        header = mapped;
        return true;
}

/* In a process that writes for the first time, or a child that has its parent's pieces. */
static void begin_process(struct here *h)
{
        uint32_t forked_from = number;

        for (unsigned i = 0; i < MAX_SPACES; i++) {
                if (spaces[i].base)
                        munmap(spaces[i].base, spaces[i].size);
                spaces[i] = (struct trace_space){0};
        }
        atomic_store(&current, NULL);
        next_chunk = 0;
        if (!header && !map_header()) {
                atomic_store(&h->state, OFF);
                return;
        }
        number = atomic_fetch_add(&header->processes, 1) + 1;
        tell_process(forked_from);
        atomic_store(&h->state, ON);
}

static struct here *make_page(void)
{
        size_t size = (size_t)sysconf(_SC_PAGESIZE);
        struct here *page;

        guard_lock(&first_lock);
        page = atomic_load(&here);
        if (!page) {
                page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                if (page == MAP_FAILED)
                        page = NULL;
                else if (madvise(page, size, MADV_WIPEONFORK) < 0) {
                        /* a child would write where its parent does */
                        guard_debug("no tracing with a kernel before 4.14");
                        atomic_store(&page->state, OFF);
                }
                atomic_store(&here, page);
        }
        guard_unlock(&first_lock);
        return page;
}

static bool look(void)
{
        int saved = errno;
        struct here *h = make_page();

        if (h) {
                guard_lock(&h->lock);
                if (atomic_load(&h->state) == 0)
                        begin_process(h);
                guard_unlock(&h->lock);
        }
        errno = saved;
        return h && atomic_load(&h->state) == ON;
}

bool trace_on(void)
{
        struct here *h = atomic_load_explicit(&here, memory_order_acquire);
        int state = h ? atomic_load_explicit(&h->state, memory_order_acquire) : 0;

        return state == 0 ? look() : state == ON;
}
