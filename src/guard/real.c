/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dl.h"
#include "environment.h"
#include "guard.h"

static struct guard_lock real_lock;
static void *_Atomic real_handle;
static int real_error; /* of the only attempt; 0 while there was none */
static int (*real_ioctl)(int fd, unsigned long request, ...);

static CUresult not_supported(void)
{
        return CUDA_ERROR_NOT_SUPPORTED;
}

int guard_real_ioctl(int fd, unsigned long request, void *arg)
{
        return real_ioctl(fd, request, arg);
}

/* -- the ioctl slot ---------------------------------------------------------------------------- */

struct redirect {
        ElfW(Addr) inside; /* an address in the library */
        unsigned slots;    /* how many were redirected */
};

#if defined(__x86_64__)
#define R_IS_SLOT(type) ((type) == R_X86_64_JUMP_SLOT || (type) == R_X86_64_GLOB_DAT)
#else
#define R_IS_SLOT(type) ((type) == R_AARCH64_JUMP_SLOT || (type) == R_AARCH64_GLOB_DAT)
#endif

static bool contains(const struct dl_phdr_info *info, ElfW(Addr) address)
{
        for (unsigned i = 0; i < info->dlpi_phnum; i++) {
                const ElfW(Phdr) *ph = &info->dlpi_phdr[i];

                if (ph->p_type == PT_LOAD && address >= info->dlpi_addr + ph->p_vaddr &&
                        address < info->dlpi_addr + ph->p_vaddr + ph->p_memsz)
                        return true;
        }
        return false;
}

static bool in_relro(const struct dl_phdr_info *info, ElfW(Addr) address)
{
        for (unsigned i = 0; i < info->dlpi_phnum; i++) {
                const ElfW(Phdr) *ph = &info->dlpi_phdr[i];

                if (ph->p_type == PT_GNU_RELRO && address >= info->dlpi_addr + ph->p_vaddr &&
                        address < info->dlpi_addr + ph->p_vaddr + ph->p_memsz)
                        return true;
        }
        return false;
}

/* Writes our ioctl into a slot of the library's table of imported functions, keeping what it held:
 * the library is loaded with RTLD_NOW, so that is the function itself. */
static bool redirect_slot(const struct dl_phdr_info *info, ElfW(Addr) at)
{
        uintptr_t page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
        void *page = (void *)(at & ~(page_size - 1));
        _Atomic uintptr_t *slot = (_Atomic uintptr_t *)at;
        bool relro = in_relro(info, at);
        uintptr_t held = atomic_load(slot);

        if (held == (uintptr_t)guard_ioctl)
                return true;
        if (mprotect(page, page_size, PROT_READ | PROT_WRITE) < 0)
                return false;
        real_ioctl = (int (*)(int, unsigned long, ...))held;
        atomic_store(slot, (uintptr_t)guard_ioctl);
        if (relro)
                mprotect(page, page_size, PROT_READ);
        return true;
}

static int redirect_in(struct dl_phdr_info *info, size_t size, void *arg)
{
        struct redirect *redirect = arg;
        const ElfW(Dyn) *dynamic = NULL;
        const ElfW(Sym) *symbols = NULL;
        const char *strings = NULL;
        struct {
                ElfW(Addr) at;
                size_t bytes;
        } table[2] = {0};

        if (!contains(info, redirect->inside))
                return 0;
        for (unsigned i = 0; i < info->dlpi_phnum; i++)
                if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
                        dynamic = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
        for (; dynamic && dynamic->d_tag != DT_NULL; dynamic++) {
                ElfW(Addr) address = dynamic->d_un.d_ptr;

                /* glibc has relocated these in place; other C libraries leave them as offsets */
                if (address < info->dlpi_addr)
                        address += info->dlpi_addr;
                switch (dynamic->d_tag) {
                case DT_SYMTAB:
                        symbols = (const ElfW(Sym) *)address;
                        break;
                case DT_STRTAB:
                        strings = (const char *)address;
                        break;
                case DT_JMPREL:
                        table[0].at = address;
                        break;
                case DT_PLTRELSZ:
                        table[0].bytes = dynamic->d_un.d_val;
                        break;
                case DT_RELA:
                        table[1].at = address;
                        break;
                case DT_RELASZ:
                        table[1].bytes = dynamic->d_un.d_val;
                        break;
                }
        }
        for (unsigned t = 0; symbols && strings && t < 2; t++) {
                const ElfW(Rela) *rela = (const ElfW(Rela) *)table[t].at;

                for (size_t i = 0; rela && i < table[t].bytes / sizeof(*rela); i++) {
                        uint32_t type = (uint32_t)rela[i].r_info;
                        uint32_t symbol = (uint32_t)(rela[i].r_info >> 32);

                        if (R_IS_SLOT(type) &&
                                strcmp(strings + symbols[symbol].st_name, "ioctl") == 0 &&
                                redirect_slot(info, info->dlpi_addr + rela[i].r_offset))
                                redirect->slots++;
                }
        }
        return 1;
}

/* -- the library ------------------------------------------------------------------------------- */

struct load {
        void *handle;
        char path[4096];
};

static bool try_load(const char *path, void *arg)
{
        struct load *load = arg;

        if (guard_is_guard(path))
                return false;
        load->handle = guard_dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!load->handle) {
                guard_debug("%s: %s", path, guard_dlerror ? guard_dlerror() : "not loaded");
                return false;
        }
        guard_debug("the driver's library is %s", path);
        return true;
}

static int load_locked(void)
{
        const char *given = secure_getenv(CLEAVE_ENV_LIBCUDA);
        struct redirect redirect = {0};
        struct load load = {0};

        if (!guard_dlopen || !guard_dlsym) {
                guard_debug("this program has no dynamic linker interface (libdl)");
                return -ENOENT;
        }
        if (!(given && given[0] == '/' && try_load(given, &load)) &&
                !guard_search("libcuda.so.1", try_load, &load)) {
                guard_debug("no libcuda.so.1 of a driver found");
                return -ENOENT;
        }
        redirect.inside = (ElfW(Addr))guard_dlsym(load.handle, "cuInit");
        if (redirect.inside)
                dl_iterate_phdr(redirect_in, &redirect);
        if (redirect.slots == 0) {
                guard_debug("the driver's library calls ioctl in a way that we cannot see");
                return -ELIBBAD;
        }
        atomic_store(&real_handle, load.handle);
        return 0;
}

int guard_real_load(void)
{
        int saved = errno, r;

        if (atomic_load_explicit(&real_handle, memory_order_acquire))
                return 0;
        guard_lock(&real_lock);
        if (!atomic_load(&real_handle) && real_error == 0)
                real_error = load_locked();
        r = real_error;
        guard_unlock(&real_lock);
        errno = saved;
        return r;
}

void *guard_real(unsigned entry)
{
        void *address = NULL;
        int saved = errno;

        if (guard_real_load() == 0)
                address = guard_dlsym(atomic_load(&real_handle), cuda_entry_name(entry));
        errno = saved;
        return address ? address : (void *)not_supported;
}
