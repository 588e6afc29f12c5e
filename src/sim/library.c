/* SPDX-License-Identifier: Apache-2.0 */
/* Libraries: code that belongs to no context, and is loaded into each where it is used. */
#include <stdlib.h>
#include <string.h>

#include "module.h"

struct kernel {
        struct library *library;
        unsigned index; /* of the image's entries */
        CUkernel handle;
};

struct library {
        CUlibrary handle;
        struct image *image;
        struct kernel *kernels;
        struct module **modules; /* one per context that has used it */
        unsigned n_modules;
        struct library *next;
};

static struct library *libraries;

void libraries_forget(struct module *module)
{
        for (struct library *one = libraries; one; one = one->next)
                for (unsigned i = 0; i < one->n_modules; i++)
                        if (one->modules[i] == module) {
                                one->modules[i] = one->modules[--one->n_modules];
                                return;
                        }
}

static CUresult library_module(
        struct library *library, struct sim_context *context, struct module **ret)
{
        struct module **grown;
        CUresult r;

        for (unsigned i = 0; i < library->n_modules; i++)
                if (library->modules[i]->context == context) {
                        *ret = library->modules[i];
                        return CUDA_SUCCESS;
                }
        r = image_check(library->image, context->device, NULL);
        if (r)
                return r;
        grown = reallocarray(library->modules, library->n_modules + 1, sizeof(*grown));
        if (!grown)
                return CUDA_ERROR_OUT_OF_MEMORY;
        library->modules = grown;
        r = module_new(context, library->image, ret);
        if (!r)
                grown[library->n_modules++] = *ret;
        return r;
}

CUresult kernel_function(CUkernel handle, struct sim_context *context, struct function **ret)
{
        struct kernel *kernel = handle_get(HANDLE_KERNEL, handle);
        struct module *module;
        CUresult r;

        if (!kernel)
                return CUDA_ERROR_INVALID_HANDLE;
        r = library_module(kernel->library, context, &module);
        if (!r)
                *ret = &module->functions[kernel->index];
        return r;
}

static CUresult load(CUlibrary *ret, const void *data, size_t bytes, CUjit_option *options,
        void **values, unsigned n)
{
        struct library *library;
        struct image *image;
        struct jit jit;
        CUresult r = jit_read(&jit, n, options, values);

        if (!r)
                r = image_new(data, bytes, NULL, &jit, &image);
        if (r)
                return r;
        library = calloc(1, sizeof(*library));
        if (library)
                library->kernels = calloc(image->ptx->n_entries + 1, sizeof(*library->kernels));
        if (library && library->kernels)
                library->handle = handle_new(HANDLE_LIBRARY, library);
        pthread_mutex_lock(&exec_lock);
        if (!library || !library->handle) {
                image_unref(image);
                if (library)
                        free(library->kernels);
                free(library);
                r = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
                library->image = image;
                for (unsigned i = 0; i < image->ptx->n_entries; i++) {
                        library->kernels[i].library = library;
                        library->kernels[i].index = i;
                }
                library->next = libraries;
                libraries = library;
                *ret = library->handle;
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

static CUresult kernel_handle(struct kernel *kernel, CUkernel *ret)
{
        if (!kernel->handle)
                kernel->handle = handle_new(HANDLE_KERNEL, kernel);
        if (!kernel->handle)
                return CUDA_ERROR_OUT_OF_MEMORY;
        *ret = kernel->handle;
        return CUDA_SUCCESS;
}

static CUresult library_of(CUlibrary handle, struct library **ret)
{
        struct library *library = handle_get(HANDLE_LIBRARY, handle);

        if (!library)
                return CUDA_ERROR_INVALID_HANDLE;
        *ret = library;
        return CUDA_SUCCESS;
}

static CUresult kernel_of(CUkernel handle, struct kernel **ret)
{
        struct kernel *kernel = handle_get(HANDLE_KERNEL, handle);

        if (!kernel)
                return CUDA_ERROR_INVALID_HANDLE;
        *ret = kernel;
        return CUDA_SUCCESS;
}

/* ---- entry points ---- */

CUresult cuLibraryLoadData(CUlibrary *ret, const void *code, CUjit_option *jit_options,
        void **jit_values, unsigned int n_jit, CUlibraryOption *options, void **values,
        unsigned int n)
{
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret || !code || (n && !options))
                return CUDA_ERROR_INVALID_VALUE;
        return load(ret, code, 0, jit_options, jit_values, n_jit);
}

CUresult cuLibraryLoadFromFile(CUlibrary *ret, const char *path, CUjit_option *jit_options,
        void **jit_values, unsigned int n_jit, CUlibraryOption *options, void **values,
        unsigned int n)
{
        size_t bytes;
        char *text;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret || !path || (n && !options))
                return CUDA_ERROR_INVALID_VALUE;
        r = file_read(path, &text, &bytes);
        if (r)
                return r;
        r = load(ret, text, 0, jit_options, jit_values, n_jit);
        free(text);
        return r;
}

CUresult cuLibraryUnload(CUlibrary handle)
{
        struct library *library;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = library_of(handle, &library);
        if (r)
                return r;
        for (unsigned i = 0; i < library->n_modules; i++)
                exec_synchronize(library->modules[i]->context);
        pthread_mutex_lock(&exec_lock);
        handle_free(handle);
        for (unsigned i = 0; i < library->n_modules; i++)
                module_end(library->modules[i]);
        for (unsigned i = 0; i < library->image->ptx->n_entries; i++)
                if (library->kernels[i].handle)
                        handle_free(library->kernels[i].handle);
        for (struct library **at = &libraries; *at; at = &(*at)->next)
                if (*at == library) {
                        *at = library->next;
                        break;
                }
        image_unref(library->image);
        free(library->modules);
        free(library->kernels);
        free(library);
        pthread_mutex_unlock(&exec_lock);
        return CUDA_SUCCESS;
}

CUresult cuLibraryGetKernel(CUkernel *ret, CUlibrary handle, const char *name)
{
        const struct ptx_entry *entry;
        struct library *library;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret || !name)
                return CUDA_ERROR_INVALID_VALUE;
        r = library_of(handle, &library);
        if (r)
                return r;
        entry = ptx_find_entry(library->image->ptx, name);
        if (!entry)
                return CUDA_ERROR_NOT_FOUND;
        pthread_mutex_lock(&exec_lock);
        r = kernel_handle(&library->kernels[entry - library->image->ptx->entries], ret);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuLibraryGetKernelCount(unsigned int *ret, CUlibrary handle)
{
        struct library *library;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = library_of(handle, &library);
        if (!r)
                *ret = library->image->ptx->n_entries;
        return r;
}

CUresult cuLibraryEnumerateKernels(CUkernel *ret, unsigned int room, CUlibrary handle)
{
        struct library *library;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = library_of(handle, &library);
        pthread_mutex_lock(&exec_lock);
        for (unsigned i = 0; !r && i < room && i < library->image->ptx->n_entries; i++)
                r = kernel_handle(&library->kernels[i], &ret[i]);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuLibraryGetModule(CUmodule *ret, CUlibrary handle)
{
        struct sim_context *context;
        struct library *library;
        struct module *module;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = library_of(handle, &library);
        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        r = library_module(library, context, &module);
        if (!r)
                *ret = module->handle;
        pthread_mutex_unlock(&exec_lock);
        return r;
}

static CUresult get_variable(const char *entry, CUdeviceptr *ret, size_t *ret_size,
        CUlibrary handle, const char *name, bool managed)
{
        const struct ptx_variable *variable;
        struct sim_context *context;
        struct library *library;
        struct module *module;
        CUresult r = exec_enter(entry, &context);

        if (r)
                return r;
        if (!name || (!ret && !ret_size))
                return CUDA_ERROR_INVALID_VALUE;
        r = library_of(handle, &library);
        if (r)
                return r;
        variable = ptx_find_variable(library->image->ptx, name);
        if (!variable || variable->managed != managed)
                return CUDA_ERROR_NOT_FOUND;
        pthread_mutex_lock(&exec_lock);
        r = library_module(library, context, &module);
        if (!r)
                r = module_variable(module, name, ret, ret_size);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuLibraryGetGlobal(CUdeviceptr *ret, size_t *ret_size, CUlibrary library, const char *name)
{
        return get_variable(__func__, ret, ret_size, library, name, false);
}

CUresult cuLibraryGetManaged(
        CUdeviceptr *ret, size_t *ret_size, CUlibrary library, const char *name)
{
        return get_variable(__func__, ret, ret_size, library, name, true);
}

CUresult cuLibraryGetUnifiedFunction(void **ret, CUlibrary handle, const char *symbol)
{
        struct library *library;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret || !symbol)
                return CUDA_ERROR_INVALID_VALUE;
        r = library_of(handle, &library);
        return r ? r : CUDA_ERROR_NOT_FOUND;
}

CUresult cuKernelGetFunction(CUfunction *ret, CUkernel handle)
{
        struct sim_context *context;
        struct function *function;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&exec_lock);
        r = kernel_function(handle, context, &function);
        if (!r) {
                if (!function->handle)
                        function->handle = handle_new(HANDLE_FUNCTION, function);
                if (function->handle)
                        *ret = function->handle;
                else
                        r = CUDA_ERROR_OUT_OF_MEMORY;
        }
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuKernelGetLibrary(CUlibrary *ret, CUkernel handle)
{
        struct kernel *kernel;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = kernel_of(handle, &kernel);
        if (!r)
                *ret = kernel->library->handle;
        return r;
}

CUresult cuKernelGetName(const char **ret, CUkernel handle)
{
        struct kernel *kernel;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = kernel_of(handle, &kernel);
        if (!r)
                *ret = kernel->library->image->ptx->entries[kernel->index].name;
        return r;
}

CUresult cuKernelGetParamInfo(CUkernel handle, size_t index, size_t *ret_offset, size_t *ret_size)
{
        const struct ptx_entry *entry;
        struct kernel *kernel;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = kernel_of(handle, &kernel);
        if (r)
                return r;
        entry = &kernel->library->image->ptx->entries[kernel->index];
        if (!ret_offset || index >= entry->n_params)
                return CUDA_ERROR_INVALID_VALUE;
        *ret_offset = entry->params[index].offset;
        if (ret_size)
                *ret_size = entry->params[index].size;
        return CUDA_SUCCESS;
}

/* The function of a kernel on a device is that of the device's primary context, or of the current
 * one if that is on the device. */
static CUresult on_device(CUkernel handle, CUdevice number, struct function **ret)
{
        struct sim_context *current, *context;
        struct sim_device *device;
        CUresult r = sim_device_of(number, &device);

        if (r)
                return r;
        context = sim_current(&current) == CUDA_SUCCESS && current->device == device
                          ? current
                          : device->primary;
        if (!context->exec)
                return CUDA_ERROR_INVALID_CONTEXT;
        pthread_mutex_lock(&exec_lock);
        r = kernel_function(handle, context, ret);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuKernelGetAttribute(
        int *ret, CUfunction_attribute attribute, CUkernel handle, CUdevice device)
{
        struct function *function;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = on_device(handle, device, &function);
        return r ? r : function_get_attribute(function, attribute, ret);
}

CUresult cuKernelSetAttribute(
        CUfunction_attribute attribute, int value, CUkernel handle, CUdevice device)
{
        struct function *function;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = on_device(handle, device, &function);
        return r ? r : function_set_attribute(function, attribute, value);
}

CUresult cuKernelSetCacheConfig(CUkernel handle, CUfunc_cache config, CUdevice device)
{
        struct function *function;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = on_device(handle, device, &function);
        if (r)
                return r;
        if (config > CU_FUNC_CACHE_PREFER_EQUAL)
                return CUDA_ERROR_INVALID_VALUE;
        function->cache = config;
        return CUDA_SUCCESS;
}
