/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dynamic linker's calls, in the version that every glibc since 2.17 has.
 *
 * Before glibc 2.34 they live in libdl, which the guard must not ask for: it links libc alone, and
 * is preloaded into programs that never touch CUDA. So they are weak, and absent in such a program;
 * one that does use CUDA has libdl, since the driver's library needs it.
 */
#pragma once

#include <dlfcn.h>

#if defined(__x86_64__)
#define DL_VERSION "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define DL_VERSION "GLIBC_2.17"
#else
#error "unknown architecture"
#endif

extern void *guard_dlopen(const char *path, int flags) __attribute__((weak));
extern void *guard_dlsym(void *handle, const char *name) __attribute__((weak));
extern char *guard_dlerror(void) __attribute__((weak));
extern int guard_dladdr(const void *address, Dl_info *ret_info) __attribute__((weak));
__asm__(".symver guard_dlopen, dlopen@" DL_VERSION);
__asm__(".symver guard_dlsym, dlsym@" DL_VERSION);
__asm__(".symver guard_dlerror, dlerror@" DL_VERSION);
__asm__(".symver guard_dladdr, dladdr@" DL_VERSION);
