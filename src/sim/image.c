/* SPDX-License-Identifier: Apache-2.0 */
/* Images of code as programs give them, and the compiler's logs. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models.h"
#include "module.h"

#define NEWEST_PTX 90 /* CUDA 13.0 */

static const uint32_t elf_magic = 0x464c457f;
static const uint32_t fatbin_magic = 0xba55ed50;
static const uint32_t wrapper_magic = 0x466243b1;

CUresult jit_read(struct jit *jit, unsigned n, const CUjit_option *options, void **values)
{
        memset(jit, 0, sizeof(*jit));
        if (n && (!options || !values))
                return CUDA_ERROR_INVALID_VALUE;
        for (unsigned i = 0; i < n; i++) {
                switch (options[i]) {
                case CU_JIT_ERROR_LOG_BUFFER:
                        jit->error_log = values[i];
                        break;
                case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
                        jit->error_room = (unsigned)(uintptr_t)values[i];
                        jit->error_used = &values[i];
                        break;
                case CU_JIT_INFO_LOG_BUFFER:
                        jit->info_log = values[i];
                        break;
                case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
                        jit->info_room = (unsigned)(uintptr_t)values[i];
                        jit->info_used = &values[i];
                        break;
                default:
                        if (options[i] < 0 || options[i] >= CU_JIT_NUM_OPTIONS)
                                return CUDA_ERROR_INVALID_VALUE;
                }
        }
        if (jit->error_used)
                *jit->error_used = NULL;
        if (jit->info_used)
                *jit->info_used = NULL;
        if (jit->error_log && jit->error_room)
                jit->error_log[0] = 0;
        if (jit->info_log && jit->info_room)
                jit->info_log[0] = 0;
        return CUDA_SUCCESS;
}

void jit_error(struct jit *jit, const char *format, ...)
{
        va_list arguments;
        int length;

        if (!jit || !jit->error_log || jit->error_room == 0)
                return;
        va_start(arguments, format);
        length = vsnprintf(jit->error_log, jit->error_room, format, arguments);
        va_end(arguments);
        if (length >= (int)jit->error_room)
                length = (int)jit->error_room - 1;
        if (jit->error_used)
                *jit->error_used = (void *)(uintptr_t)length;
}

CUresult image_check(const struct image *image, const struct sim_device *device, struct jit *jit)
{
        unsigned capability = (unsigned)(device->model->major * 10 + device->model->minor);
        const struct ptx_image *ptx = image->ptx;

        if (ptx->target > capability || (ptx->arch_specific && ptx->target != capability)) {
                jit_error(jit,
                        "ptxas fatal   : SM version specified by .target (sm_%u) is higher than "
                        "default SM version assumed (sm_%u)",
                        ptx->target, capability);
                return CUDA_ERROR_INVALID_PTX;
        }
        return CUDA_SUCCESS;
}

CUresult image_new(const void *data, size_t bytes, const struct sim_device *device, struct jit *jit,
        struct image **ret)
{
        struct ptx_error error = {.line = 0};
        struct image *image;
        uint32_t magic = 0;
        const char *text = data;
        CUresult r;
        int parsed;

        if (!data)
                return CUDA_ERROR_INVALID_VALUE;
        /* text may be shorter than a magic number */
        for (unsigned i = 0; i < 4 && (bytes == 0 || i < bytes); i++) {
                magic |= (uint32_t)(uint8_t)text[i] << 8 * i;
                if (!text[i])
                        break;
        }
        if (magic == elf_magic || magic == fatbin_magic || magic == wrapper_magic) {
                jit_error(jit, "the simulated GPU compiles PTX text; this is %s",
                        magic == elf_magic ? "a cubin" : "a fat binary");
                return CUDA_ERROR_NO_BINARY_FOR_GPU;
        }
        bytes = bytes ? strnlen(text, bytes) : strlen(text);
        if (bytes == 0 || !memmem(text, bytes, ".version", strlen(".version")))
                return CUDA_ERROR_INVALID_IMAGE;
        image = calloc(1, sizeof(*image));
        if (!image)
                return CUDA_ERROR_OUT_OF_MEMORY;
        parsed = ptx_parse(text, bytes, &image->ptx, &error);
        if (parsed < 0) {
                free(image);
                if (parsed == -ENOMEM)
                        return CUDA_ERROR_OUT_OF_MEMORY;
                jit_error(jit,
                        "ptxas application ptx input, line %u; fatal   : Parsing error: %s\n"
                        "ptxas fatal   : Ptx assembly aborted due to errors",
                        error.line, error.text);
                return CUDA_ERROR_INVALID_PTX;
        }
        image->refs = 1;
        image->bytes = bytes;
        r = CUDA_SUCCESS;
        if (image->ptx->version > NEWEST_PTX) {
                jit_error(jit,
                        "ptxas application ptx input, line 1; fatal   : Unsupported .version "
                        "%u.%u; current version is '%u.%u'",
                        image->ptx->version / 10, image->ptx->version % 10, NEWEST_PTX / 10,
                        NEWEST_PTX % 10);
                r = CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
        }
        if (!r && device)
                r = image_check(image, device, jit);
        if (r) {
                ptx_image_free(image->ptx);
                free(image);
                return r;
        }
        *ret = image;
        return CUDA_SUCCESS;
}

struct image *image_unref(struct image *image)
{
        if (!image || --image->refs)
                return NULL;
        ptx_image_free(image->ptx);
        free(image);
        return NULL;
}

CUresult file_read(const char *path, char **ret, size_t *ret_bytes)
{
        FILE *file = fopen(path, "rbe");
        size_t size = 0, room = 1 << 16;
        char *text = NULL, *grown;

        if (!file)
                return CUDA_ERROR_FILE_NOT_FOUND;
        for (;;) {
                grown = realloc(text, room);
                if (!grown)
                        break;
                text = grown;
                size += fread(text + size, 1, room - size - 1, file);
                if (size < room - 1)
                        break;
                room *= 2;
        }
        if (!grown || ferror(file)) {
                free(text);
                fclose(file);
                return grown ? CUDA_ERROR_FILE_NOT_FOUND : CUDA_ERROR_OUT_OF_MEMORY;
        }
        fclose(file);
        text[size] = 0;
        *ret = text;
        *ret_bytes = size;
        return CUDA_SUCCESS;
}

/* ---- the linker: it puts texts one after another ---- */

struct link {
        char *text;
        size_t size;
        struct jit jit;
        bool complete;
};

static CUresult link_of(CUlinkState handle, struct link **ret)
{
        struct link *link = handle_get(HANDLE_LINK, handle);

        if (!link)
                return CUDA_ERROR_INVALID_HANDLE;
        *ret = link;
        return CUDA_SUCCESS;
}

CUresult cuLinkCreate_v2(unsigned int n, CUjit_option *options, void **values, CUlinkState *ret)
{
        struct sim_context *context;
        struct link *link;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        link = calloc(1, sizeof(*link));
        if (!link)
                return CUDA_ERROR_OUT_OF_MEMORY;
        r = jit_read(&link->jit, n, options, values);
        if (!r) {
                *ret = handle_new(HANDLE_LINK, link);
                if (*ret)
                        return CUDA_SUCCESS;
                r = CUDA_ERROR_OUT_OF_MEMORY;
        }
        free(link);
        return r;
}

CUresult cuLinkCreate(unsigned int n, CUjit_option *options, void **values, CUlinkState *ret)
{
        return cuLinkCreate_v2(n, options, values, ret);
}

CUresult cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void *data, size_t size,
        const char *name, unsigned int n, CUjit_option *options, void **values)
{
        struct sim_context *context;
        struct image *image;
        struct link *link;
        struct jit jit;
        size_t length;
        char *grown;
        CUresult r = exec_enter(__func__, &context);

        if (!r)
                r = link_of(state, &link);
        if (r)
                return r;
        if (!data || size == 0 || type < 0 || type >= CU_JIT_NUM_INPUT_TYPES || link->complete)
                return CUDA_ERROR_INVALID_VALUE;
        r = jit_read(&jit, n, options, values);
        if (r)
                return r;
        if (type != CU_JIT_INPUT_PTX) {
                jit_error(&link->jit, "the simulated GPU links PTX text alone");
                return CUDA_ERROR_NO_BINARY_FOR_GPU;
        }
        r = image_new(data, size, context->device, &link->jit, &image);
        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        image_unref(image);
        pthread_mutex_unlock(&exec_lock);
        length = strnlen(data, size);
        grown = realloc(link->text, link->size + length + 2);
        if (!grown)
                return CUDA_ERROR_OUT_OF_MEMORY;
        link->text = grown;
        memcpy(grown + link->size, data, length);
        link->size += length;
        grown[link->size++] = '\n';
        grown[link->size] = 0;
        return CUDA_SUCCESS;
}

CUresult cuLinkAddData(CUlinkState state, CUjitInputType type, void *data, size_t size,
        const char *name, unsigned int n, CUjit_option *options, void **values)
{
        return cuLinkAddData_v2(state, type, data, size, name, n, options, values);
}

CUresult cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char *path, unsigned int n,
        CUjit_option *options, void **values)
{
        size_t size;
        char *text;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!path)
                return CUDA_ERROR_INVALID_VALUE;
        r = file_read(path, &text, &size);
        if (r)
                return r;
        r = cuLinkAddData_v2(state, type, text, size + 1, path, n, options, values);
        free(text);
        return r;
}

CUresult cuLinkAddFile(CUlinkState state, CUjitInputType type, const char *path, unsigned int n,
        CUjit_option *options, void **values)
{
        return cuLinkAddFile_v2(state, type, path, n, options, values);
}

CUresult cuLinkComplete(CUlinkState state, void **ret, size_t *ret_size)
{
        struct sim_context *context;
        struct link *link;
        CUresult r = exec_enter(__func__, &context);

        if (!r)
                r = link_of(state, &link);
        if (r)
                return r;
        if (!ret || !link->text)
                return CUDA_ERROR_INVALID_VALUE;
        link->complete = true;
        *ret = link->text;
        if (ret_size)
                *ret_size = link->size + 1;
        return CUDA_SUCCESS;
}

CUresult cuLinkDestroy(CUlinkState state)
{
        struct link *link;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = link_of(state, &link);
        if (r)
                return r;
        handle_free(state);
        free(link->text);
        free(link);
        return CUDA_SUCCESS;
}
