/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The search of the dynamic linker, done again: a dlopen of "libcuda.so.1" would give the guard
 * itself, whose name that is. Order as in ld.so(8): LD_LIBRARY_PATH, /etc/ld.so.cache, the default
 * directories; then two where drivers are installed without being told to the linker.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "environment.h"
#include "guard.h"

/* Our marks: an ELF note of this name, see note.S. */
#define NOTE_NAME "Cleave"

static int open_read(const char *path)
{
        return open(path, O_RDONLY | O_CLOEXEC);
}

static bool read_at(int fd, void *to, size_t size, uint64_t offset)
{
        return pread(fd, to, size, (off_t)offset) == (ssize_t)size;
}

/* The type of our note, or 0 */
static int note_of_ours(int fd, const ElfW(Phdr) * ph)
{
        struct {
                ElfW(Nhdr) head;
                char name[8];
        } note;
        uint64_t at = ph->p_offset, end = ph->p_offset + ph->p_filesz;

        while (at + sizeof(note.head) <= end && read_at(fd, &note.head, sizeof(note.head), at)) {
                uint64_t name = at + sizeof(note.head);
                uint64_t desc = name + ((note.head.n_namesz + 3ull) & ~3ull);

                if (note.head.n_namesz == sizeof(NOTE_NAME) &&
                        read_at(fd, note.name, sizeof(NOTE_NAME), name) &&
                        memcmp(note.name, NOTE_NAME, sizeof(NOTE_NAME)) == 0)
                        return (int)note.head.n_type;
                at = desc + ((note.head.n_descsz + 3ull) & ~3ull);
        }
        return 0;
}

/* The machine of our own process; a library of another one (a 32-bit driver, say) is passed over.
 */
#if defined(__x86_64__)
#define OUR_MACHINE EM_X86_64
#else
#define OUR_MACHINE EM_AARCH64
#endif

/* The mark of ours that it bears, 0: a library of this machine without, -errno: not such a file */
static int classify(const char *path)
{
        ElfW(Ehdr) eh;
        int fd = open_read(path), r = 0;

        if (fd < 0)
                return -errno;
        if (!read_at(fd, &eh, sizeof(eh), 0) || memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 ||
                eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != OUR_MACHINE ||
                eh.e_phentsize != sizeof(ElfW(Phdr)))
                r = -ENOEXEC;
        for (unsigned i = 0; r == 0 && i < eh.e_phnum; i++) {
                ElfW(Phdr) ph;

                if (!read_at(fd, &ph, sizeof(ph), eh.e_phoff + (uint64_t)i * sizeof(ph)))
                        r = -ENOEXEC;
                else if (ph.p_type == PT_NOTE)
                        r = note_of_ours(fd, &ph);
        }
        close(fd);
        return r;
}

enum guard_mark guard_mark_of(const char *path)
{
        int r = classify(path);

        return r > 0 ? (enum guard_mark)r : GUARD_MARK_NONE;
}

/* One directory, or one file of the cache. */
struct search {
        const char *name;
        bool (*try_path)(const char *path, void *arg);
        void *arg;
};

static bool try_file(const struct search *search, const char *path)
{
        if (classify(path) < 0)
                return false;
        return search->try_path(path, search->arg);
}

static bool try_directory(const struct search *search, const char *directory, size_t length)
{
        char path[4096];
        int n;

        /* an empty entry of LD_LIBRARY_PATH means the working directory */
        if (length == 0)
                n = snprintf(path, sizeof(path), "./%s", search->name);
        else
                n = snprintf(path, sizeof(path), "%.*s/%s", (int)length, directory, search->name);
        if (n < 0 || (size_t)n >= sizeof(path))
                return false;
        return try_file(search, path);
}

static bool try_list(const struct search *search, const char *list)
{
        while (list) {
                size_t length = strcspn(list, ":;");

                if (try_directory(search, list, length))
                        return true;
                list = list[length] ? list + length + 1 : NULL;
        }
        return false;
}

/* /etc/ld.so.cache of glibc since 2.2 (dl-cache.h): a header, entries, strings; the file may begin
 * with the older format, which has the newer one behind it. */
#define CACHE_OLD "ld.so-1.7.0"
#define CACHE_NEW "glibc-ld.so.cache1.1"

struct cache_old {
        char magic[sizeof(CACHE_OLD) - 1];
        uint32_t count; /* of entries of 12 bytes */
};

struct cache_new {
        char magic[sizeof(CACHE_NEW) - 1];
        uint32_t count;
        uint32_t strings;
        uint32_t unused[5];
};

struct cache_entry {
        int32_t flags;
        uint32_t key, value; /* offsets of strings, from the start of the newer header */
        uint32_t os_version;
        uint64_t hwcap;
};

/* The string at an offset, or NULL if it does not end inside the file. */
static const char *cache_string(const char *base, size_t size, uint32_t offset)
{
        if (offset >= size || !memchr(base + offset, 0, size - offset))
                return NULL;
        return base + offset;
}

static bool try_cache_file(const struct search *search, const char *base, size_t size)
{
        const struct cache_new *head;
        const struct cache_entry *entries;

        if (size >= sizeof(struct cache_old) &&
                memcmp(base, CACHE_OLD, sizeof(CACHE_OLD) - 1) == 0) {
                uint64_t skip =
                        sizeof(struct cache_old) + 12ull * ((const struct cache_old *)base)->count;

                skip = (skip + 7) & ~7ull;
                if (skip >= size)
                        return false;
                base += skip;
                size -= skip;
        }
        head = (const struct cache_new *)base;
        if (size < sizeof(*head) || memcmp(head->magic, CACHE_NEW, sizeof(CACHE_NEW) - 1) != 0 ||
                head->count > (size - sizeof(*head)) / sizeof(*entries))
                return false;
        entries = (const struct cache_entry *)(head + 1);
        for (uint32_t i = 0; i < head->count; i++) {
                const char *key = cache_string(base, size, entries[i].key);
                const char *value = cache_string(base, size, entries[i].value);

                if (key && value && strcmp(key, search->name) == 0 && try_file(search, value))
                        return true;
        }
        return false;
}

static bool try_cache(const struct search *search)
{
        bool found = false;
        off_t size;
        void *base;
        int fd = open_read("/etc/ld.so.cache");

        if (fd < 0)
                return false;
        size = lseek(fd, 0, SEEK_END);
        if (size > 0) {
                base = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
                if (base != MAP_FAILED) {
                        found = try_cache_file(search, base, (size_t)size);
                        munmap(base, (size_t)size);
                }
        }
        close(fd);
        return found;
}

bool guard_search(const char *name, bool (*try_path)(const char *path, void *arg), void *arg)
{
        const struct search search = {name, try_path, arg};
        const char *library_path = secure_getenv("LD_LIBRARY_PATH");

        if (library_path && *library_path && try_list(&search, library_path))
                return true;
        if (try_cache(&search))
                return true;
        return try_list(&search,
#if defined(__x86_64__)
                "/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu:"
#else
                "/lib/aarch64-linux-gnu:/usr/lib/aarch64-linux-gnu:"
#endif
                "/lib64:/usr/lib64:/lib:/usr/lib:"
                "/usr/local/nvidia/lib64:/usr/lib/wsl/lib:" CLEAVE_CONTAINER_DRIVER_DIR);
}
