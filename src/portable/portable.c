/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For programs that are built on one distribution and run on others: what glibc got after 2.31, in
 * terms of what it had. Linked in with -Dportable=true only.
 *
 * glibc 2.34 took libdl and libpthread into libc and gave their functions a new version, which an
 * older libc lacks. The old versions are still there; these definitions, hidden in the program,
 * jump to them.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEFINE(name)                                                                               \
        ".text\n.globl " #name "\n.hidden " #name "\n.type " #name ", %function\n" #name ":\n"

#if defined(__x86_64__)
#define OLD_SINCE(name, version)                                                                   \
        __asm__(DEFINE(name) "jmp *old_" #name "@GOTPCREL(%rip)\n"                                 \
                             ".symver old_" #name "," #name "@GLIBC_" version "\n")
#else
/* the port's first version */
#define OLD_SINCE(name, version)                                                                   \
        __asm__(DEFINE(name) "adrp x16, :got:old_" #name "\n"                                      \
                             "ldr x16, [x16, :got_lo12:old_" #name "]\n"                           \
                             "br x16\n"                                                            \
                             ".symver old_" #name "," #name "@GLIBC_2.17\n")
#endif
#define OLD(name) OLD_SINCE(name, "2.2.5")

OLD(__libc_start_main);
OLD(dladdr);
OLD(dlclose);
OLD(dlerror);
OLD_SINCE(dlinfo, "2.3.3");
OLD(dlopen);
OLD(dlsym);
OLD(pthread_attr_setstacksize);
OLD(pthread_condattr_setpshared);
OLD_SINCE(pthread_condattr_setclock, "2.3.3");
OLD(pthread_create);
OLD(pthread_detach);
OLD(pthread_join);
OLD(pthread_key_create);
OLD_SINCE(pthread_mutex_consistent, "2.12");
OLD(pthread_mutex_timedlock);
OLD(pthread_mutex_trylock);
OLD(pthread_mutexattr_destroy);
OLD(pthread_mutexattr_init);
OLD(pthread_mutexattr_setpshared);
OLD_SINCE(pthread_mutexattr_setrobust, "2.12");
OLD(pthread_once);
OLD(pthread_rwlock_init);
OLD(pthread_rwlock_rdlock);
OLD(pthread_rwlock_unlock);
OLD(pthread_rwlock_wrlock);
OLD(pthread_rwlockattr_destroy);
OLD(pthread_rwlockattr_init);
OLD(pthread_rwlockattr_setkind_np);
OLD_SINCE(pthread_setname_np, "2.12");
OLD(pthread_setspecific);
OLD(pthread_sigmask);
OLD_SINCE(pthread_timedjoin_np, "2.3.3");

#define HIDDEN __attribute__((visibility("hidden")))

/* Both processors' struct stat is the kernel's own. */
HIDDEN int stat64(const char *path, struct stat64 *st)
{
        return (int)syscall(SYS_newfstatat, AT_FDCWD, path, st, 0);
}

HIDDEN int lstat64(const char *path, struct stat64 *st)
{
        return (int)syscall(SYS_newfstatat, AT_FDCWD, path, st, AT_SYMLINK_NOFOLLOW);
}

HIDDEN int fstat64(int fd, struct stat64 *st)
{
        return (int)syscall(SYS_fstat, fd, st);
}

HIDDEN int fstatat64(int directory, const char *path, struct stat64 *st, int flags)
{
        return (int)syscall(SYS_newfstatat, directory, path, st, flags);
}

HIDDEN int close_range(unsigned first, unsigned last, int flags)
{
        return (int)syscall(SYS_close_range, first, last, flags);
}

HIDDEN const char *sigabbrev_np(int signal)
{
        static const char *const names[] = {
                [SIGHUP] = "HUP",
                [SIGINT] = "INT",
                [SIGQUIT] = "QUIT",
                [SIGILL] = "ILL",
                [SIGTRAP] = "TRAP",
                [SIGABRT] = "ABRT",
                [SIGBUS] = "BUS",
                [SIGFPE] = "FPE",
                [SIGKILL] = "KILL",
                [SIGUSR1] = "USR1",
                [SIGSEGV] = "SEGV",
                [SIGUSR2] = "USR2",
                [SIGPIPE] = "PIPE",
                [SIGALRM] = "ALRM",
                [SIGTERM] = "TERM",
                [SIGSTKFLT] = "STKFLT",
                [SIGCHLD] = "CHLD",
                [SIGCONT] = "CONT",
                [SIGSTOP] = "STOP",
                [SIGTSTP] = "TSTP",
                [SIGTTIN] = "TTIN",
                [SIGTTOU] = "TTOU",
                [SIGURG] = "URG",
                [SIGXCPU] = "XCPU",
                [SIGXFSZ] = "XFSZ",
                [SIGVTALRM] = "VTALRM",
                [SIGPROF] = "PROF",
                [SIGWINCH] = "WINCH",
                [SIGPOLL] = "POLL",
                [SIGPWR] = "PWR",
                [SIGSYS] = "SYS",
        };

        return signal > 0 && signal < (int)(sizeof(names) / sizeof(names[0])) ? names[signal]
                                                                              : NULL;
}
