/* SPDX-License-Identifier: Apache-2.0 */
/* Modules, libraries and the linker among themselves. */
#pragma once

#include "exec.h"
#include "ptx.h"

/* What a program asked of the compiler, as far as it shows: where logs go. */
struct jit {
        char *error_log;
        size_t error_room;
        void **error_used; /* the option's value, which is set to the bytes used */
        char *info_log;
        size_t info_room;
        void **info_used;
};

CUresult jit_read(struct jit *jit, unsigned n, const CUjit_option *options, void **values);
void jit_error(struct jit *jit, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* An image, shared by whoever has loaded it. */
struct image {
        unsigned refs;
        struct ptx_image *ptx;
        size_t bytes; /* of its text */
};

/* Reads PTX, or says why not: CUDA_ERROR_INVALID_IMAGE, _INVALID_PTX, _NO_BINARY_FOR_GPU,
 * _UNSUPPORTED_PTX_VERSION. bytes: 0 where only a NUL ends it. device: NULL to leave out what
 * depends on it. */
CUresult image_new(const void *data, size_t bytes, const struct sim_device *device, struct jit *jit,
        struct image **ret);
CUresult image_check(const struct image *image, const struct sim_device *device, struct jit *jit);
struct image *image_unref(struct image *image); /* locked */

/* Reads a whole file. *ret is NUL-terminated, the caller's. CUDA_ERROR_FILE_NOT_FOUND */
CUresult file_read(const char *path, char **ret, size_t *ret_bytes);

/* locked. Takes a reference of image on success. */
CUresult module_new(struct sim_context *context, struct image *image, struct module **ret);
void module_end(struct module *module); /* locked: its handle is gone, and our reference */
CUresult module_variable(
        struct module *module, const char *name, CUdeviceptr *ret, size_t *ret_size);

/* The function of the kernel in a context, whose module is loaded if need be. Locked. */
CUresult kernel_function(CUkernel handle, struct sim_context *context, struct function **ret);
/* locked: a context goes away, and every library's module in it. */
void libraries_forget(struct module *module);

CUresult function_get_attribute(
        const struct function *function, CUfunction_attribute attribute, int *ret);
CUresult function_set_attribute(
        struct function *function, CUfunction_attribute attribute, int value);
