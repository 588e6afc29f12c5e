/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "driver.h"

static int (*real_ioctl)(int fd, unsigned long request, ...);

int guard_real_ioctl(int fd, unsigned long request, void *arg)
{
        return real_ioctl(fd, request, arg);
}

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

int guard_redirect_ioctl(const void *inside)
{
        struct redirect redirect = {.inside = (ElfW(Addr))inside};

        dl_iterate_phdr(redirect_in, &redirect);
        return redirect.slots > 0 ? 0 : -ELIBBAD;
}
