/* SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "cuda_guard_entries.h"
#include "launch.h"
#include "trace.h"

/* More of one pointer's data than this is not recorded, its length is. */
#define MOST_DATA (UINT64_C(256) << 20)

#define MAX_EXTRAS 8
#define MAX_PARAMETERS                                                                             \
        1024 /* of a kernel: the 4 KiB, newer 32 KiB, that all may take, in words                  \
              */

/* The kernels (not functions) that this process has: a launch takes either as a CUfunction, and
 * each has its own look-up. A full table leaves their parameters unrecorded. */
#define MAX_KERNELS 16384u
static _Atomic uintptr_t kernels[MAX_KERNELS];

static uint64_t now(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint32_t thread(void)
{
        static __thread uint32_t tid, process;

        /* a forked child begins with its parent's */
        if (process != trace_process_number()) {
                process = trace_process_number();
                tid = (uint32_t)syscall(SYS_gettid);
        }
        return tid;
}

static size_t padded(size_t size)
{
        return (size + 7) & ~(size_t)7;
}

/* -- what the prototypes do not say ------------------------------------------------------------ */

struct extra {
        struct trace_extra head;
        const void *data;  /* NULL: the parameters of a kernel */
        void **parameters; /* of a kernel */
        unsigned count;
        const struct trace_packed *layout;
};

struct extras {
        unsigned count;
        size_t size;
        struct extra of[MAX_EXTRAS];
        struct trace_packed layout[MAX_PARAMETERS];
};

static void add(struct extras *extras, struct extra extra)
{
        if (extras->count == MAX_EXTRAS || extra.head.length > MOST_DATA)
                return;
        extras->of[extras->count++] = extra;
        extras->size += sizeof(extra.head) + padded(extra.head.length);
}

static unsigned kernel_slot(CUkernel kernel)
{
        return (unsigned)(((uintptr_t)kernel >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 40) %
               MAX_KERNELS;
}

static bool is_kernel(uintptr_t handle)
{
        for (unsigned i = kernel_slot((CUkernel)handle), n = 0; n < 64; n++) {
                uintptr_t found =
                        atomic_load_explicit(&kernels[(i + n) % MAX_KERNELS], memory_order_relaxed);

                if (found == handle || found == 0)
                        return found == handle;
        }
        return false;
}

static void remember_kernel(CUkernel kernel)
{
        for (unsigned i = kernel_slot(kernel), n = 0; n < 64; n++) {
                uintptr_t found = 0;

                if (atomic_compare_exchange_strong(
                            &kernels[(i + n) % MAX_KERNELS], &found, (uintptr_t)kernel) ||
                        found == (uintptr_t)kernel)
                        return;
        }
}

static CUresult parameter_of(CUfunction function, unsigned i, size_t *offset, size_t *size)
{
        if (is_kernel((uintptr_t)function))
                return CLEAVE_CUDA_REAL(cuKernelGetParamInfo)((CUkernel)function, i, offset, size);
        return CLEAVE_CUDA_REAL(cuFuncGetParamInfo)(function, i, offset, size);
}

static void add_kernel(struct extras *extras, const struct call_launch *launch)
{
        struct extra extra = {.head.kind = TRACE_EXTRA_KERNEL, .parameters = *launch->parameters};
        size_t offset, size;

        if (!extra.parameters || !launch->function)
                return;
        while (extra.count < MAX_PARAMETERS &&
                parameter_of(launch->function, extra.count, &offset, &size) == CUDA_SUCCESS) {
                if (!extra.parameters[extra.count])
                        return;
                extras->layout[extra.count++] =
                        (struct trace_packed){(uint32_t)offset, (uint32_t)size};
                extra.head.length += sizeof(struct trace_packed) + padded(size);
        }
        extra.layout = extras->layout;
        add(extras, extra);
}

/* The buffer and its size out of the list that ends with CU_LAUNCH_PARAM_END. */
static void add_buffer(struct extras *extras, void **list)
{
        struct extra extra = {.head.kind = TRACE_EXTRA_BUFFER};

        for (; list && *list != CU_LAUNCH_PARAM_END; list += 2) {
                if (*list == CU_LAUNCH_PARAM_BUFFER_POINTER)
                        extra.data = list[1];
                else if (*list == CU_LAUNCH_PARAM_BUFFER_SIZE && list[1])
                        extra.head.length = *(const size_t *)list[1];
                else
                        return;
        }
        if (extra.data && extra.head.length)
                add(extras, extra);
}

static uint64_t count_at(const char *at, size_t size)
{
        uint32_t small;
        uint64_t large;

        if (size == sizeof(small)) {
                memcpy(&small, at, sizeof(small));
                return small;
        }
        memcpy(&large, at, sizeof(large));
        return large;
}

static void add_arrays(struct extras *extras, unsigned which, const struct call_shape *shape,
        const char *structure)
{
        for (unsigned i = 0; i < shape->array_count; i++) {
                const struct call_array *array = &shape->arrays[i];
                uint64_t n = count_at(structure + array->count_offset, array->count_size);
                const void *data;

                memcpy(&data, structure + array->offset, sizeof(data));
                if (data && n > 0 && n <= UINT32_MAX)
                        add(extras, (struct extra){.head = {.kind = TRACE_EXTRA_ARRAY,
                                                           .which = (uint16_t)(i * 32 + which),
                                                           .length = n * array->element},
                                            .data = data});
        }
}

static const void *pointer_at(const struct marshal_parameter *p, const void *args)
{
        const void *value;

        memcpy(&value, (const char *)args + p->offset, sizeof(value));
        return value;
}

static bool reads(const struct marshal_parameter *p)
{
        return p->kind == MARSHAL_IN || p->kind == MARSHAL_INOUT;
}

static bool writes(const struct marshal_parameter *p)
{
        return p->kind == MARSHAL_OUT || p->kind == MARSHAL_INOUT;
}

static void find_extras(struct extras *extras, unsigned entry, const void *args)
{
        const struct call_entry *e = &cuda_calls[entry];
        struct call_launch launch;
        const void *start;
        size_t size;
        int which;

        extras->count = 0;
        extras->size = 0;
        if (call_launch(entry, (void *)args, &launch)) {
                add_kernel(extras, &launch);
                if (launch.extra)
                        add_buffer(extras, *launch.extra);
        }
        which = call_code_parameter(entry);
        start = which < 0 ? NULL : pointer_at(&e->how.parameters[which], args);
        if (start && (size = call_code_size(start, &start)) > 0)
                add(extras, (struct extra){.head = {.kind = TRACE_EXTRA_BYTES,
                                                   .which = (uint16_t)which,
                                                   .length = size},
                                    .data = start});
        which = call_value_parameter(entry, args, &size);
        start = which < 0 ? NULL : pointer_at(&e->how.parameters[which], args);
        if (start)
                add(extras, (struct extra){.head = {.kind = TRACE_EXTRA_BYTES,
                                                   .which = (uint16_t)which,
                                                   .length = size},
                                    .data = start});
        for (unsigned i = 0; i < e->how.count; i++) {
                const struct call_shape *shape = e->parameters[i].shape;

                if (shape && shape->array_count && reads(&e->how.parameters[i]) &&
                        (start = pointer_at(&e->how.parameters[i], args)))
                        add_arrays(extras, i, shape, start);
        }
}

static char *put_kernel(char *at, const struct extra *extra)
{
        for (unsigned i = 0; i < extra->count; i++) {
                memcpy(at, &extra->layout[i], sizeof(struct trace_packed));
                memcpy(at + sizeof(struct trace_packed), extra->parameters[i],
                        extra->layout[i].size);
                at += sizeof(struct trace_packed) + padded(extra->layout[i].size);
        }
        return at;
}

static void put_extras(char *at, const struct extras *extras)
{
        for (unsigned i = 0; i < extras->count; i++) {
                const struct extra *extra = &extras->of[i];

                memcpy(at, &extra->head, sizeof(extra->head));
                at += sizeof(extra->head);
                if (extra->head.kind == TRACE_EXTRA_KERNEL)
                        at = put_kernel(at, extra);
                else {
                        memcpy(at, extra->data, extra->head.length);
                        at += padded(extra->head.length);
                }
        }
}

/* -- the record -------------------------------------------------------------------------------- */

/* Whether what parameter i points to stands in the record: the program's own data only if that is
 * wanted. */
static bool keeps(const struct call_entry *e, unsigned i, uint64_t length)
{
        return length != MARSHAL_NULL && length <= MOST_DATA &&
               (!e->parameters[i].content || (trace_options() & TRACE_CONTENTS));
}

/* What a copy takes may be device memory, or nothing at all, which the driver will say: it is read
 * in a way that fails and does not kill. */
static void copy_content(void *to, const void *from, size_t length)
{
        struct iovec local = {to, length}, remote = {(void *)from, length};

        syscall(SYS_process_vm_readv, getpid(), &local, 1ul, &remote, 1ul, 0ul);
}

static void copy_data(const struct call_entry *e, unsigned i, char *to, const void *from, size_t n)
{
        if (e->parameters[i].content)
                copy_content(to, from, n);
        else
                memcpy(to, from, n);
}

/* Large, and only for calls that have some: not on the stack of every call. */
__attribute__((noinline)) static void record_with_extras(
        struct trace_call *call, unsigned entry, const void *args, size_t size);

/* What stands there before the call, and after it. */
static size_t kept_size(const struct marshal_parameter *p, uint64_t length)
{
        return p->kind == MARSHAL_INOUT ? 2 * padded(length) : padded(length);
}

static void fill(struct trace_call *call, unsigned entry, const void *args, size_t size,
        const struct extras *extras)
{
        const struct call_entry *e = &cuda_calls[entry];
        struct trace_record *record;
        char *at;

        if (extras)
                size += extras->size;
        size = (size + TRACE_ALIGN - 1) & ~(size_t)(TRACE_ALIGN - 1);
        record = size <= UINT32_MAX ? trace_room(size, &call->space) : NULL;
        if (!record)
                return;
        at = (char *)(record + 1);
        memcpy(at, args, e->how.args_size);
        at += padded(e->how.args_size);
        for (unsigned i = 0; i < e->how.count; i++) {
                const struct marshal_parameter *p = &e->how.parameters[i];

                if (p->kind == MARSHAL_VALUE)
                        continue;
                memcpy(at, &call->lengths[i], sizeof(call->lengths[i]));
                at += sizeof(call->lengths[i]);
                if (!keeps(e, i, call->lengths[i]))
                        continue;
                if (reads(p))
                        copy_data(e, i, at, pointer_at(p, args), call->lengths[i]);
                at += kept_size(p, call->lengths[i]);
        }
        if (extras)
                put_extras(at, extras);
        record->size = (uint32_t)size;
        record->thread = thread();
        record->entry = (uint16_t)entry;
        record->extras = extras ? (uint16_t)extras->count : 0;
        record->begin = now();
        atomic_thread_fence(memory_order_release);
        record->magic = TRACE_RECORD_MAGIC;
        call->record = record;
}

static void record_with_extras(
        struct trace_call *call, unsigned entry, const void *args, size_t size)
{
        struct extras extras;

        find_extras(&extras, entry, args);
        fill(call, entry, args, size, &extras);
}

static bool may_have_extras(unsigned entry, const struct call_entry *e, const void *args)
{
        struct call_launch launch;
        size_t size;

        if (call_launch(entry, (void *)args, &launch) || call_code_parameter(entry) >= 0 ||
                call_value_parameter(entry, args, &size) >= 0)
                return true;
        for (unsigned i = 0; i < e->how.count; i++)
                if (e->parameters[i].shape && e->parameters[i].shape->array_count)
                        return true;
        return false;
}

void trace_begin(struct trace_call *call, unsigned entry, const void *args)
{
        const struct call_entry *e = &cuda_calls[entry];
        size_t size = sizeof(struct trace_record) + padded(e->how.args_size);

        call->record = NULL;
        call->entry = entry;
        if (!trace_on())
                return;
        for (unsigned i = 0; i < e->how.count; i++) {
                const struct marshal_parameter *p = &e->how.parameters[i];

                if (p->kind == MARSHAL_VALUE)
                        continue;
                /* lengths that cannot be are the driver's to refuse */
                if (marshal_length(&e->how, i, args, &call->lengths[i]) < 0)
                        call->lengths[i] = MARSHAL_NULL;
                size += sizeof(uint64_t);
                if (keeps(e, i, call->lengths[i]))
                        size += kept_size(p, call->lengths[i]);
        }
        if (may_have_extras(entry, e, args))
                record_with_extras(call, entry, args, size);
        else
                fill(call, entry, args, size, NULL);
}

/* What the callee wrote. On failure it may have left it alone, and it may be what failed. */
static void take_results(struct trace_call *call, const struct call_entry *e, const void *args)
{
        char *at = (char *)(call->record + 1) + padded(e->how.args_size);

        for (unsigned i = 0; i < e->how.count; i++) {
                const struct marshal_parameter *p = &e->how.parameters[i];

                if (p->kind == MARSHAL_VALUE)
                        continue;
                at += sizeof(uint64_t);
                if (!keeps(e, i, call->lengths[i]))
                        continue;
                at += kept_size(p, call->lengths[i]);
                if (writes(p))
                        copy_data(e, i, at - padded(call->lengths[i]), pointer_at(p, args),
                                call->lengths[i]);
        }
}

static void remember(unsigned entry, const void *args)
{
        if (entry == CUDA_ENTRY_cuLibraryGetKernel) {
                const struct cuda_call_cuLibraryGetKernel *a = args;

                remember_kernel(*a->pKernel);
        } else if (entry == CUDA_ENTRY_cuLibraryEnumerateKernels) {
                const struct cuda_call_cuLibraryEnumerateKernels *a = args;

                for (unsigned i = 0; i < a->numKernels; i++)
                        if (a->kernels[i])
                                remember_kernel(a->kernels[i]);
        }
}

void trace_end(struct trace_call *call, void *args)
{
        const struct call_entry *e = &cuda_calls[call->entry];
        uint64_t end;
        CUresult result;

        trace_look_up(call->entry, args);
        if (!call->record)
                return;
        end = now();
        memcpy(&result, (const char *)args + e->how.result_offset, sizeof(result));
        memcpy((char *)(call->record + 1) + e->how.result_offset, &result, sizeof(result));
        if (result == CUDA_SUCCESS)
                take_results(call, e, args);
        atomic_store_explicit(&call->record->end, end, memory_order_release);
        trace_leave(call->space);
        if (result == CUDA_SUCCESS)
                remember(call->entry, args);
}
