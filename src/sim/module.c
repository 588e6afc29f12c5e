/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "models.h"
#include "module.h"

/* Code lies in blocks of this size; what a text compiles to is taken to be about as long. */
#define CODE_BLOCK     (2ull << 20)
#define REGISTERS_MAX  255u
#define REGISTERS_SM   65536u
#define SHARED_DEFAULT (48 << 10)

/* The first block is part of the context's footprint. */
static uint64_t code_blocks(uint64_t bytes)
{
        return bytes > CODE_BLOCK ? (bytes - 1) / CODE_BLOCK : 0;
}

static CUresult code_take(struct exec_context *exec, uint64_t bytes)
{
        uint64_t blocks = code_blocks(exec->code_used + bytes);

        while (exec->n_code < blocks) {
                struct sim_memory **grown =
                        reallocarray(exec->code, exec->n_code + 1, sizeof(*grown));
                CUresult r;

                if (!grown)
                        return CUDA_ERROR_OUT_OF_MEMORY;
                exec->code = grown;
                r = sim_memory_new(exec->context->device, CODE_BLOCK, &grown[exec->n_code]);
                if (r)
                        return r;
                exec->n_code++;
        }
        exec->code_used += bytes;
        return CUDA_SUCCESS;
}

static void code_give(struct exec_context *exec, uint64_t bytes)
{
        uint64_t blocks;

        exec->code_used -= bytes;
        blocks = code_blocks(exec->code_used);
        while (exec->n_code > blocks)
                sim_memory_free(exec->code[--exec->n_code]);
}

struct module *module_ref(struct module *module)
{
        module->refs++;
        return module;
}

struct module *module_unref(struct module *module)
{
        if (!module || --module->refs)
                return NULL;
        for (unsigned i = 0; i < module->image->ptx->n_entries; i++)
                free(module->functions[i].params);
        free(module->functions);
        image_unref(module->image);
        free(module);
        return NULL;
}

/* Gives back what the module holds of its context; the struct may live on in queued launches. */
void module_end(struct module *module)
{
        struct exec_context *exec = module->context->exec;

        if (module->handle)
                handle_free(module->handle);
        module->handle = NULL;
        for (unsigned i = 0; i < module->image->ptx->n_entries; i++)
                if (module->functions[i].handle) {
                        handle_free(module->functions[i].handle);
                        module->functions[i].handle = NULL;
                }
        if (module->variables)
                sim_internal_free(module->context, module->variables);
        module->variables = 0;
        code_give(exec, module->code_bytes);
        module->code_bytes = 0;
        *module->link = module->next;
        if (module->next)
                module->next->link = module->link;
        module->link = NULL;
        module_unref(module);
}

void modules_drop(struct exec_context *exec)
{
        while (exec->modules) {
                libraries_forget(exec->modules);
                module_end(exec->modules);
        }
        free(exec->code);
        exec->code = NULL;
}

static CUresult make_variables(struct module *module)
{
        const struct ptx_image *ptx = module->image->ptx;
        struct sim_range range;
        CUresult r;

        if (ptx->variables_size == 0)
                return CUDA_SUCCESS;
        r = sim_internal_alloc(module->context, ptx->variables_size, &module->variables);
        if (!r)
                r = sim_range(module->variables, ptx->variables_size, &range);
        for (unsigned i = 0; i < ptx->n_variables && !r; i++) {
                const struct ptx_variable *variable = &ptx->variables[i];

                if (!variable->init)
                        continue;
                r = sim_touch(range.host + variable->offset, variable->size);
                if (!r)
                        memcpy(range.host + variable->offset, variable->init, variable->size);
        }
        return r;
}

CUresult module_new(struct sim_context *context, struct image *image, struct module **ret)
{
        struct exec_context *exec = context->exec;
        unsigned n = image->ptx->n_entries;
        struct module *module = calloc(1, sizeof(*module));
        CUresult r;

        if (!module)
                return CUDA_ERROR_OUT_OF_MEMORY;
        module->functions = calloc(n + 1, sizeof(*module->functions));
        if (!module->functions) {
                free(module);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        module->refs = 1;
        module->context = context;
        module->image = image;
        image->refs++;
        for (unsigned i = 0; i < n; i++) {
                struct function *function = &module->functions[i];

                function->module = module;
                function->entry = &image->ptx->entries[i];
                function->max_dynamic_shared = SHARED_DEFAULT - (int)function->entry->shared_bytes;
                function->carveout = -1;
                function->block[0] = function->block[1] = function->block[2] = 1;
        }
        module->next = exec->modules;
        module->link = &exec->modules;
        if (module->next)
                module->next->link = &module->next;
        exec->modules = module;
        module->handle = handle_new(HANDLE_MODULE, module);
        r = module->handle ? code_take(exec, image->bytes) : CUDA_ERROR_OUT_OF_MEMORY;
        if (!r) {
                module->code_bytes = image->bytes;
                r = make_variables(module);
        }
        if (r) {
                module_end(module);
                return r;
        }
        *ret = module;
        return CUDA_SUCCESS;
}

static CUresult module_of(CUmodule handle, struct module **ret)
{
        struct module *module = handle_get(HANDLE_MODULE, handle);

        if (!module)
                return CUDA_ERROR_INVALID_HANDLE;
        *ret = module;
        return CUDA_SUCCESS;
}

static CUresult function_handle(struct function *function, CUfunction *ret)
{
        if (!function->handle)
                function->handle = handle_new(HANDLE_FUNCTION, function);
        if (!function->handle)
                return CUDA_ERROR_OUT_OF_MEMORY;
        *ret = function->handle;
        return CUDA_SUCCESS;
}

CUresult function_of(CUfunction handle, struct sim_context *context, struct function **ret)
{
        struct function *function = handle_get(HANDLE_FUNCTION, handle);
        CUresult r;

        if (function) {
                *ret = function;
                return CUDA_SUCCESS;
        }
        if (handle_type(handle) != HANDLE_KERNEL)
                return CUDA_ERROR_INVALID_HANDLE;
        pthread_mutex_lock(&exec_lock);
        r = kernel_function((CUkernel)handle, context, ret);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

/* ---- attributes ---- */

unsigned function_registers(const struct function *function)
{
        unsigned n = 8 + function->entry->registers / 2;

        return n > REGISTERS_MAX ? REGISTERS_MAX : n;
}

int function_max_threads(const struct function *function)
{
        unsigned by_registers = REGISTERS_SM / ((function_registers(function) + 7) & ~7u) & ~31u;
        unsigned most = by_registers < 1024 ? by_registers : 1024;

        if (function->entry->max_threads && function->entry->max_threads < most)
                most = function->entry->max_threads;
        return (int)most;
}

CUresult function_get_attribute(
        const struct function *function, CUfunction_attribute attribute, int *ret)
{
        const struct ptx_image *ptx = function->module->image->ptx;
        const struct sim_model *model = function->module->context->device->model;
        size_t constants = 0;

        switch ((int)attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
                *ret = function_max_threads(function);
                break;
        case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
                *ret = (int)function->entry->shared_bytes;
                break;
        case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
                for (unsigned i = 0; i < ptx->n_variables; i++)
                        if (ptx->variables[i].space == PTX_CONST)
                                constants += ptx->variables[i].size;
                *ret = (int)constants;
                break;
        case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
                *ret = (int)function->entry->local_bytes;
                break;
        case CU_FUNC_ATTRIBUTE_NUM_REGS:
                *ret = (int)function_registers(function);
                break;
        case CU_FUNC_ATTRIBUTE_PTX_VERSION:
                *ret = (int)ptx->target;
                break;
        case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
                *ret = model->major * 10 + model->minor;
                break;
        case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
                *ret = 0;
                break;
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
                *ret = function->max_dynamic_shared;
                break;
        case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
                *ret = function->carveout;
                break;
        case CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET:
        case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
        case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
        case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
                *ret = function->cluster[attribute - CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET];
                break;
        case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
                *ret = function->non_portable_cluster;
                break;
        case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
                *ret = function->cluster_policy;
                break;
        default:
                return CUDA_ERROR_INVALID_VALUE;
        }
        return CUDA_SUCCESS;
}

CUresult function_set_attribute(
        struct function *function, CUfunction_attribute attribute, int value)
{
        const struct sim_model *model = function->module->context->device->model;

        switch ((int)attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
                if (value < 0 ||
                        value + (int)function->entry->shared_bytes > model->shared_per_block_optin)
                        return CUDA_ERROR_INVALID_VALUE;
                function->max_dynamic_shared = value;
                break;
        case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
                if (value < -1 || value > 100)
                        return CUDA_ERROR_INVALID_VALUE;
                function->carveout = value;
                break;
        case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
        case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
        case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
                if (value < 0)
                        return CUDA_ERROR_INVALID_VALUE;
                function->cluster[attribute - CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET] = value;
                break;
        case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
                if (value < 0 || value > 1)
                        return CUDA_ERROR_INVALID_VALUE;
                function->non_portable_cluster = value;
                break;
        case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
                if (value < 0 || value > 2)
                        return CUDA_ERROR_INVALID_VALUE;
                function->cluster_policy = value;
                break;
        default:
                return CUDA_ERROR_INVALID_VALUE;
        }
        return CUDA_SUCCESS;
}

/* ---- entry points: modules ---- */

static CUresult load(const char *entry, CUmodule *ret, const void *data, unsigned n,
        CUjit_option *options, void **values)
{
        struct sim_context *context;
        struct module *module;
        struct image *image;
        struct jit jit;
        CUresult r = exec_enter(entry, &context);

        if (r)
                return r;
        if (!ret || !data)
                return CUDA_ERROR_INVALID_VALUE;
        r = jit_read(&jit, n, options, values);
        if (!r)
                r = image_new(data, 0, context->device, &jit, &image);
        if (r)
                return r;
        pthread_mutex_lock(&exec_lock);
        r = module_new(context, image, &module);
        if (!r)
                *ret = module->handle;
        image_unref(image);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuModuleLoadData(CUmodule *ret, const void *image)
{
        return load(__func__, ret, image, 0, NULL, NULL);
}

CUresult cuModuleLoadDataEx(
        CUmodule *ret, const void *image, unsigned int n, CUjit_option *options, void **values)
{
        return load(__func__, ret, image, n, options, values);
}

CUresult cuModuleLoadFatBinary(CUmodule *ret, const void *fatbin)
{
        return load(__func__, ret, fatbin, 0, NULL, NULL);
}

CUresult cuModuleLoad(CUmodule *ret, const char *path)
{
        struct sim_context *context;
        size_t bytes;
        char *text;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (!ret || !path)
                return CUDA_ERROR_INVALID_VALUE;
        r = file_read(path, &text, &bytes);
        if (r)
                return r;
        r = load(__func__, ret, text, 0, NULL, NULL);
        free(text);
        return r;
}

CUresult cuModuleUnload(CUmodule handle)
{
        struct sim_context *context;
        struct module *module;
        CUresult r = exec_enter(__func__, &context);

        if (!r)
                r = module_of(handle, &module);
        if (r)
                return r;
        exec_synchronize(module->context);
        pthread_mutex_lock(&exec_lock);
        module_end(module);
        pthread_mutex_unlock(&exec_lock);
        return CUDA_SUCCESS;
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *ret)
{
        const char *mode = getenv("CUDA_MODULE_LOADING");
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = mode && strcmp(mode, "EAGER") == 0 ? CU_MODULE_EAGER_LOADING
                                                  : CU_MODULE_LAZY_LOADING;
        return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *ret, CUmodule handle, const char *name)
{
        const struct ptx_entry *entry;
        struct sim_context *context;
        struct module *module;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (!ret || !name)
                return CUDA_ERROR_INVALID_VALUE;
        r = module_of(handle, &module);
        if (r)
                return r;
        entry = ptx_find_entry(module->image->ptx, name);
        if (!entry)
                return CUDA_ERROR_NOT_FOUND;
        pthread_mutex_lock(&exec_lock);
        r = function_handle(&module->functions[entry - module->image->ptx->entries], ret);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult cuModuleGetFunctionCount(unsigned int *ret, CUmodule handle)
{
        struct sim_context *context;
        struct module *module;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = module_of(handle, &module);
        if (!r)
                *ret = module->image->ptx->n_entries;
        return r;
}

CUresult cuModuleEnumerateFunctions(CUfunction *ret, unsigned int room, CUmodule handle)
{
        struct sim_context *context;
        struct module *module;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = module_of(handle, &module);
        pthread_mutex_lock(&exec_lock);
        for (unsigned i = 0; !r && i < room && i < module->image->ptx->n_entries; i++)
                r = function_handle(&module->functions[i], &ret[i]);
        pthread_mutex_unlock(&exec_lock);
        return r;
}

CUresult module_variable(
        struct module *module, const char *name, CUdeviceptr *ret, size_t *ret_size)
{
        const struct ptx_variable *variable = ptx_find_variable(module->image->ptx, name);

        if (!variable)
                return CUDA_ERROR_NOT_FOUND;
        if (ret)
                *ret = module->variables + variable->offset;
        if (ret_size)
                *ret_size = variable->size;
        return CUDA_SUCCESS;
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr *ret, size_t *ret_size, CUmodule handle, const char *name)
{
        struct sim_context *context;
        struct module *module;
        CUresult r = exec_enter(__func__, &context);

        if (r)
                return r;
        if (!name || (!ret && !ret_size))
                return CUDA_ERROR_INVALID_VALUE;
        r = module_of(handle, &module);
        return r ? r : module_variable(module, name, ret, ret_size);
}

/* The PTX that is read has no texture and surface references that could be named. */
static CUresult no_reference(const char *entry, const void *ret, CUmodule handle, const char *name)
{
        struct sim_context *context;
        struct module *module;
        CUresult r = exec_enter(entry, &context);

        if (r)
                return r;
        if (!ret || !name)
                return CUDA_ERROR_INVALID_VALUE;
        r = module_of(handle, &module);
        return r ? r : CUDA_ERROR_NOT_FOUND;
}

CUresult cuModuleGetTexRef(CUtexref *ret, CUmodule module, const char *name)
{
        return no_reference(__func__, ret, module, name);
}

CUresult cuModuleGetSurfRef(CUsurfref *ret, CUmodule module, const char *name)
{
        return no_reference(__func__, ret, module, name);
}

/* ---- entry points: functions ---- */

static CUresult enter_function(const char *entry, CUfunction handle, struct function **ret)
{
        struct sim_context *context;
        CUresult r = exec_enter(entry, &context);

        return r ? r : function_of(handle, context, ret);
}

CUresult cuFuncGetAttribute(int *ret, CUfunction_attribute attribute, CUfunction handle)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        if (r)
                return r;
        return ret ? function_get_attribute(function, attribute, ret) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        return r ? r : function_set_attribute(function, attribute, value);
}

CUresult cuFuncSetCacheConfig(CUfunction handle, CUfunc_cache config)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        if (r)
                return r;
        if (config > CU_FUNC_CACHE_PREFER_EQUAL)
                return CUDA_ERROR_INVALID_VALUE;
        function->cache = config;
        return CUDA_SUCCESS;
}

CUresult cuFuncSetSharedMemConfig(CUfunction handle, CUsharedconfig config)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        if (r)
                return r;
        return config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE ? CUDA_ERROR_INVALID_VALUE
                                                                  : CUDA_SUCCESS;
}

CUresult cuFuncGetModule(CUmodule *ret, CUfunction handle)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = function->module->handle;
        return CUDA_SUCCESS;
}

CUresult cuFuncGetName(const char **ret, CUfunction handle)
{
        struct function *function;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        r = enter_function(__func__, handle, &function);
        if (!r)
                *ret = function->entry->name;
        return r;
}

CUresult cuFuncGetParamInfo(CUfunction handle, size_t index, size_t *ret_offset, size_t *ret_size)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        if (r)
                return r;
        if (!ret_offset || index >= function->entry->n_params)
                return CUDA_ERROR_INVALID_VALUE;
        *ret_offset = function->entry->params[index].offset;
        if (ret_size)
                *ret_size = function->entry->params[index].size;
        return CUDA_SUCCESS;
}

/* A module's code is on the device from the time it is loaded. */
CUresult cuFuncIsLoaded(CUfunctionLoadingState *ret, CUfunction handle)
{
        struct function *function;
        CUresult r = enter_function(__func__, handle, &function);

        if (r)
                return r;
        if (!ret)
                return CUDA_ERROR_INVALID_VALUE;
        *ret = CU_FUNCTION_LOADING_STATE_LOADED;
        return CUDA_SUCCESS;
}

CUresult cuFuncLoad(CUfunction handle)
{
        struct function *function;

        return enter_function(__func__, handle, &function);
}
