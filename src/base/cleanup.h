/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ownership that ends with a scope. A variable with one of these attributes is released when its
 * scope is left by any way; TAKE_PTR() and TAKE_FD() hand its value on instead.
 */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(function) __attribute__((cleanup(function)))

/* Defines function_ptr() for _cleanup_(): calls function on what the variable holds, if anything.
 */
#define DEFINE_CLEANUP(type, function)                                                             \
        static inline void function##_ptr(type *p)                                                 \
        {                                                                                          \
                if (*p)                                                                            \
                        function(*p);                                                              \
        }                                                                                          \
        struct cleave_swallow_semicolon

static inline void free_ptr(void *p)
{
        free(*(void **)p);
}

/* Closes fd unless it is negative; errno stays. Always -EBADF, to be assigned to the variable. */
static inline int close_safe(int fd)
{
        if (fd >= 0) {
                int saved = errno;

                close(fd);
                errno = saved;
        }
        return -EBADF;
}

static inline void close_ptr(int *fd)
{
        close_safe(*fd);
}

DEFINE_CLEANUP(FILE *, fclose);
DEFINE_CLEANUP(DIR *, closedir);

#define _cleanup_free_     _cleanup_(free_ptr)
#define _cleanup_close_    _cleanup_(close_ptr)
#define _cleanup_fclose_   _cleanup_(fclose_ptr)
#define _cleanup_closedir_ _cleanup_(closedir_ptr)

#define TAKE_PTR(pointer)                                                                          \
        ({                                                                                         \
                __typeof__(pointer) *_take_from = &(pointer);                                      \
                __typeof__(pointer) _take_value = *_take_from;                                     \
                *_take_from = NULL;                                                                \
                _take_value;                                                                       \
        })

#define TAKE_FD(fd)                                                                                \
        ({                                                                                         \
                int *_take_from = &(fd);                                                           \
                int _take_value = *_take_from;                                                     \
                *_take_from = -EBADF;                                                              \
                _take_value;                                                                       \
        })

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define MIN_OF(a, b)                                                                               \
        ({                                                                                         \
                __typeof__(a) _min_a = (a);                                                        \
                __typeof__(b) _min_b = (b);                                                        \
                _min_a < _min_b ? _min_a : _min_b;                                                 \
        })
#define MAX_OF(a, b)                                                                               \
        ({                                                                                         \
                __typeof__(a) _max_a = (a);                                                        \
                __typeof__(b) _max_b = (b);                                                        \
                _max_a > _max_b ? _max_a : _max_b;                                                 \
        })
