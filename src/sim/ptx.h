/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the simulated GPU reads from PTX text: names, parameters, variables and sizes; of the
 * instructions only whether they look like instructions.
 *
 * Source: NVIDIA's "PTX ISA", chapters "Syntax" and "State spaces, types and variables".
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ptx_param {
        size_t offset; /* in the entry's parameter buffer */
        size_t size;
};

struct ptx_entry {
        char *name;
        struct ptx_param *params;
        unsigned n_params;
        size_t params_size;   /* of the whole buffer, bytes */
        size_t local_bytes;   /* of one thread */
        size_t shared_bytes;  /* static, of one block */
        unsigned max_threads; /* of a block, by .maxntid or .reqntid; 0: not said */
        unsigned registers;   /* estimate, of one thread */
        unsigned version;
};

enum ptx_space {
        PTX_GLOBAL,
        PTX_CONST,
};

struct ptx_variable {
        char *name;
        enum ptx_space space;
        bool managed;
        size_t size;
        size_t align;
        size_t offset; /* in the module's image of its variables */
        void *init;    /* size bytes, or NULL: zeroes */
};

struct ptx_image {
        unsigned version;   /* 10 * major + minor */
        unsigned target;    /* of sm_52: 52 */
        bool arch_specific; /* sm_90a and the like: for that one target alone */
        struct ptx_entry *entries;
        unsigned n_entries;
        struct ptx_variable *variables;
        unsigned n_variables;
        size_t variables_size;
};

struct ptx_error {
        unsigned line;
        char text[192];
};

/* Reads text of size bytes (no NUL needed). 0, -EINVAL with *ret_error filled, -ENOMEM.
 * The image is freed by ptx_image_free(). */
int ptx_parse(const char *text, size_t size, struct ptx_image **ret, struct ptx_error *ret_error);
struct ptx_image *ptx_image_free(struct ptx_image *image);

const struct ptx_entry *ptx_find_entry(const struct ptx_image *image, const char *name);
const struct ptx_variable *ptx_find_variable(const struct ptx_image *image, const char *name);
