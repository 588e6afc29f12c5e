/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/child.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/options.h"

/* So long a child must have been stopped before we stop as well: when the terminal stops or
 * continues the whole group, the two of us may hear of it in any order. */
#define STOP_SETTLE_NSEC 20000000

static void run_child(struct child *child, int wait_fd, char **argv, child_prepare_t prepare,
        void *context) __attribute__((noreturn));
static void run_child(
        struct child *child, int wait_fd, char **argv, child_prepare_t prepare, void *context)
{
        char released;
        ssize_t n;
        int error;

        do
                n = read(wait_fd, &released, 1);
        while (n < 0 && errno == EINTR);
        if (n != 1)
                _exit(CLI_RUN_FAILED);
        if (prepare(context) < 0)
                _exit(CLI_RUN_FAILED);
        sigaction(SIGCHLD, &child->on_child, NULL);
        execvp(argv[0], argv);
        error = errno;
        fprintf(stderr, "cleave run: cannot execute %s: %s\n", argv[0],
                error == ENOENT ? "no such command" : strerror(error));
        _exit(error == ENOENT ? 127 : 126);
}

/* All that can be passed on. Those of the terminal's job control, and those that tell of a fault of
 * our own, keep their meaning. */
static void passed_on(sigset_t *set)
{
        static const int ours[] = {SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU, SIGSEGV, SIGBUS, SIGILL,
                SIGFPE, SIGTRAP, SIGABRT, SIGSYS, SIGPIPE};

        sigfillset(set);
        for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
                sigdelset(set, ours[i]);
}

void child_release(struct child *child)
{
        char go = 1;

        /* A child that was killed meanwhile has an exit status like any other. */
        send(child->release_fd, &go, 1, MSG_NOSIGNAL);
        child->release_fd = close_safe(child->release_fd);
}

void child_abandon(struct child *child)
{
        child->release_fd = close_safe(child->release_fd);
        kill(child->pid, SIGKILL);
        while (waitpid(child->pid, &child->status, 0) < 0 && errno == EINTR)
                ;
        child->ended = true;
}

static bool is_stopped(pid_t pid)
{
        siginfo_t info = {0};

        return waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOWAIT | WNOHANG) == 0 &&
               info.si_pid == pid;
}

static bool in_foreground(void)
{
        int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
        bool yes = fd >= 0 && tcgetpgrp(fd) == getpgrp();

        close_safe(fd);
        return yes;
}

/* The child has stopped by itself. At a terminal, whoever waits for us must see that we have
 * stopped, or the user could never get at the shell. Elsewhere the one who stopped the child will
 * continue it, and would not know that we have to be continued too. */
static void follow_stop(struct child *child)
{
        if (!is_stopped(child->pid) || !in_foreground())
                return;
        nanosleep(&(struct timespec){.tv_nsec = STOP_SETTLE_NSEC}, NULL);
        if (!is_stopped(child->pid))
                return;
        raise(SIGSTOP);
        kill(child->pid, SIGCONT);
}

static void reap(struct child *child)
{
        for (;;) {
                int status;
                pid_t pid = waitpid(-1, &status, WNOHANG);

                if (pid <= 0)
                        return;
                if (pid == child->pid) {
                        child->status = status;
                        child->ended = true;
                        return;
                }
        }
}

static void pass_on(struct child *child, const struct signalfd_siginfo *info)
{
        /* What the kernel sends for the terminal goes to the whole group. */
        if (info->ssi_code == SI_KERNEL)
                return;
        /* What the child itself sends to its group, us among it, it has got already. */
        if (info->ssi_code == SI_USER && info->ssi_pid == (uint32_t)child->pid)
                return;
        kill(child->pid, (int)info->ssi_signo);
}

int child_fork(struct child *child, char **argv, child_prepare_t prepare, void *context)
{
        struct sigaction plain = {.sa_handler = SIG_DFL};
        int fds[2], r;
        sigset_t set;

        *child = (struct child){.signal_fd = -EBADF, .release_fd = -EBADF};
        passed_on(&set);
        child->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (child->signal_fd < 0)
                return -errno;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
                r = -errno;
                child->signal_fd = close_safe(child->signal_fd);
                return r;
        }
        /* With SIGCHLD ignored, which is inherited, there would be no exit status. */
        sigaction(SIGCHLD, &plain, &child->on_child);
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        child->pid = fork();
        if (child->pid == 0) {
                close(fds[1]);
                run_child(child, fds[0], argv, prepare, context);
        }
        r = child->pid < 0 ? -errno : 0;
        close(fds[0]);
        child->release_fd = fds[1];
        /* Not before: a signal of the terminal that comes when there is no child yet has to end us,
         * and one that comes from now on reaches the child as well. */
        sigprocmask(SIG_BLOCK, &set, NULL);
        if (r == 0)
                reap(child);
        return r;
}

void child_handle_signals(struct child *child)
{
        struct signalfd_siginfo info;

        while (read(child->signal_fd, &info, sizeof(info)) == sizeof(info)) {
                if (info.ssi_signo != SIGCHLD) {
                        pass_on(child, &info);
                        continue;
                }
                reap(child);
                if (child->ended)
                        return;
                follow_stop(child);
        }
}

void child_end_alike(const struct child *child)
{
        if (WIFSIGNALED(child->status)) {
                int number = WTERMSIG(child->status);
                struct rlimit none = {0};
                sigset_t set;

                /* One core file is enough, and it is the command's. */
                setrlimit(RLIMIT_CORE, &none);
                signal(number, SIG_DFL);
                sigemptyset(&set);
                sigaddset(&set, number);
                fflush(stdout);
                raise(number);
                sigprocmask(SIG_UNBLOCK, &set, NULL);
                _exit(128 + number);
        }
        exit(WEXITSTATUS(child->status));
}
