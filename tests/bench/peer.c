/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A library that another system might preload, for the tests of cleave bench. It wants to be told
 * its quota and share as numbers, and ends the process otherwise. With PEER_DIES it kills the
 * program in the middle of its work.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void qsort(void *base, size_t n, size_t size, int (*compare)(const void *a, const void *b));

static void check_number(const char *name)
{
        const char *text = getenv(name);
        static const char words[] = "the peer was not told its ";

        if (text && *text && strspn(text, "0123456789") == strlen(text))
                return;
        if (write(STDERR_FILENO, words, sizeof(words) - 1) < 0 ||
                write(STDERR_FILENO, name, strlen(name)) < 0)
                _exit(4);
        _exit(3);
}

__attribute__((constructor)) static void start(void)
{
        check_number("PEER_MEMORY");
        check_number("PEER_COMPUTE");
        check_number("PEER_TENANT");
}

/* In the place of libc's, which the program calls when it has measured. */
void qsort(void *base, size_t n, size_t size, int (*compare)(const void *a, const void *b))
{
        char *items = base, kept[64];

        if (getenv("PEER_DIES"))
                raise(SIGKILL);
        if (size > sizeof(kept))
                return;
        for (size_t i = 1; i < n; i++)
                for (size_t k = i; k > 0 && compare(items + (k - 1) * size, items + k * size) > 0;
                        k--) {
                        memcpy(kept, items + k * size, size);
                        memcpy(items + k * size, items + (k - 1) * size, size);
                        memcpy(items + (k - 1) * size, kept, size);
                }
}
