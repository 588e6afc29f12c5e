/* SPDX-License-Identifier: Apache-2.0 */
/* What unit tests share. */
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"

/* A directory of the test's own, its path in *state. */
static inline int unit_directory(void **state)
{
        char *path = strdup("/tmp/cleave-unit.XXXXXX");

        if (!path || !mkdtemp(path))
                return -1;
        *state = path;
        return 0;
}

static inline int unit_directory_remove(void **state)
{
        pid_t pid = fork();
        int status;

        if (pid == 0) {
                execlp("rm", "rm", "-rf", "--", (char *)*state, NULL);
                _exit(127);
        }
        if (pid < 0 || waitpid(pid, &status, 0) < 0)
                return -1;
        free(*state);
        return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}
