/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/remake.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cuda_names.h"
#include "launch.h"
#include "trace/translate.h"
#include "trace/unseen.h"

/* Stands for all memory of the program's that the trace does not hold. */
#define SCRATCH_SIZE  (UINT64_C(16) << 30)
#define SCRATCH_LEAST (UINT64_C(64) << 20)

/* Behind pointers of which we know nothing but that the driver writes or reads a little there. */
#define OPAQUE_SIZE 65536u

/* Values that stand for something by themselves, as CU_STREAM_LEGACY, and no handle is. */
#define FIRST_HANDLE 4096u

/* Where it is noted that a handle of that kind should have been made, and was not. */
#define SPACE_LOST(space) (0x10000u + (space))

/* Of a range of which nothing says how long it is. */
#define UNKNOWN_RANGE (UINT64_C(1) << 30)

struct remake {
        const struct trace_file *file;
        void *library;
        struct unseen *unseen;
        bool values;
        char *scratch;
        uint64_t scratch_size;
        pthread_mutex_t lock; /* for what follows */
        struct translation *known;
        /* A value may be given out again as soon as the call that gives it back has begun. That
         * call means the older one: so what a call has made becomes known only when all have been
         * translated that began before it ended. */
        pthread_cond_t translated;
        bool *done; /* by event: it has been */
        size_t low; /* all before have been */
};

/* One call while it is made. */
struct attempt {
        struct remake *remake;
        const struct trace_event *event;
        struct replay_outcome *outcome;
        const struct call_entry *entry;
        unsigned number; /* of the entry */
        struct trace_parts parts;
        char *args;
        void *pointer[MARSHAL_MAX_PARAMETERS]; /* where what is followed lies now */
        struct block {
                struct block *next;
                _Alignas(16) char data[];
        } * blocks;
        enum replay_state without; /* why a handle is not known */
};

struct remake *remake_new(
        const struct trace_file *file, uint32_t process, void *library, bool values)
{
        struct remake *remake = calloc(1, sizeof(*remake));

        if (!remake)
                return NULL;
        *remake = (struct remake){.file = file,
                .library = library,
                .unseen = unseen_new(file, library),
                .values = values,
                .scratch_size = SCRATCH_SIZE,
                .known = translation_new(),
                .done = calloc(file->count + 1, sizeof(bool))};
        pthread_mutex_init(&remake->lock, NULL);
        pthread_cond_init(&remake->translated, NULL);
        for (size_t i = 0; remake->done && i < file->count; i++)
                remake->done[i] = file->events[i].process != process ||
                                  file->events[i].record->entry == TRACE_ENTRY_PROCESS;
        do {
                remake->scratch = mmap(NULL, remake->scratch_size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
                if (remake->scratch == MAP_FAILED)
                        remake->scratch_size /= 4;
        } while (remake->scratch == MAP_FAILED && remake->scratch_size >= SCRATCH_LEAST);
        if (!remake->known || !remake->unseen || !remake->done || remake->scratch == MAP_FAILED) {
                translation_free(remake->known);
                unseen_free(remake->unseen);
                free(remake->done);
                free(remake);
                return NULL;
        }
        return remake;
}

/* Zeroed, until the call has been made. */
static void *give(struct attempt *a, size_t size)
{
        struct block *block = calloc(1, sizeof(*block) + (size ?: 1));

        if (!block)
                return NULL;
        block->next = a->blocks;
        a->blocks = block;
        return block->data;
}

static void end(struct attempt *a)
{
        while (a->blocks) {
                struct block *block = a->blocks;

                a->blocks = block->next;
                free(block);
        }
}

/* In the place of every function of the program's; each kind of them can live with a 0. */
static size_t nothing(void)
{
        return 0;
}

static uint64_t get(const void *at, size_t size)
{
        uint64_t value = 0;

        memcpy(&value, at, size);
        return value;
}

static void put(void *at, uint64_t value, size_t size)
{
        memcpy(at, &value, size);
}

static bool reads(const struct marshal_parameter *p)
{
        return p->kind == MARSHAL_IN || p->kind == MARSHAL_INOUT;
}

static bool writes(const struct marshal_parameter *p)
{
        return p->kind == MARSHAL_OUT || p->kind == MARSHAL_INOUT;
}

/* -- translation: under the lock ----------------------------------------------------------------
 */

static bool find_address(const struct remake *r, uint64_t theirs, uint64_t *ret_ours)
{
        uint64_t left;

        return translation_find_range(r->known, CALL_SPACE_DEVICE, theirs, ret_ours, &left) ||
               translation_find_range(r->known, CALL_SPACE_HOST, theirs, ret_ours, &left);
}

/* A kernel stands for a function, and a context for a green one, in some places. */
static bool find_handle(const struct remake *r, unsigned space, uint64_t theirs, uint64_t *ret)
{
        if (translation_find(r->known, space, theirs, ret))
                return true;
        for (unsigned other = CALL_SPACE_FIRST; other < CUDA_SPACE_NUMBERS; other++)
                if (space < CUDA_SPACE_NUMBERS && translation_find(r->known, other, theirs, ret))
                        return true;
        return false;
}

static bool succeeded(const struct attempt *a)
{
        return a->parts.returned && a->parts.result == CUDA_SUCCESS;
}

/* A handle that is not known: whether it can be, being a context's that was made unseen. */
static bool appear(struct attempt *a, unsigned space, uint64_t theirs, uint64_t *ret_ours)
{
        struct remake *r = a->remake;
        uint64_t ignored;

        a->without = translation_find(r->known, SPACE_LOST(space), theirs, &ignored)
                             ? REPLAY_LOST_HANDLE
                             : REPLAY_NO_HANDLE;
        /* a call that failed may have been given anything */
        if (a->without == REPLAY_LOST_HANDLE || space != SPACE_CUctx_st || !succeeded(a) ||
                !unseen_context(r->unseen, a->event, theirs, ret_ours))
                return false;
        (void)translation_bind(r->known, space, theirs, *ret_ours);
        a->outcome->contexts++;
        return true;
}

/* inside: of a structure. Whether the value can be used. */
static bool translate_one(
        struct attempt *a, const struct call_reference *reference, char *bytes, bool inside)
{
        struct remake *r = a->remake;
        char *at = bytes + reference->offset;
        uint64_t theirs = get(at, reference->size), ours;

        if (theirs == 0)
                return true;
        switch (reference->space) {
        case CALL_SPACE_FUNCTION:
                if (reference->certain)
                        put(at, (uint64_t)(uintptr_t)nothing, reference->size);
                return true;
        case CALL_SPACE_DEVICE:
        case CALL_SPACE_HOST:
                if (find_address(r, theirs, &ours))
                        put(at, ours, reference->size);
                else if (reference->space == CALL_SPACE_HOST && reference->certain && inside)
                        put(at, (uint64_t)(uintptr_t)r->scratch, reference->size);
                return true;
        default:
                if (find_handle(r, reference->space, theirs, &ours))
                        put(at, ours, reference->size);
                else if (reference->certain && theirs >= FIRST_HANDLE &&
                         reference->space < CUDA_SPACE_NUMBERS) {
                        if (!appear(a, reference->space, theirs, &ours))
                                return false;
                        put(at, ours, reference->size);
                }
                return true;
        }
}

static bool translate(struct attempt *a, const struct call_shape *shape, char *bytes, bool inside)
{
        bool good = true;

        for (unsigned i = 0; shape && i < shape->reference_count; i++) {
                /* the members of a union lie in one place, which is translated once */
                if (i > 0 && !shape->references[i].certain) {
                        bool same = false;

                        for (unsigned j = 0; j < i; j++)
                                same = same || (shape->references[j].offset ==
                                                               shape->references[i].offset &&
                                                       shape->references[j].space ==
                                                               shape->references[i].space);
                        if (same)
                                continue;
                }
                good = translate_one(a, &shape->references[i], bytes, inside) && good;
        }
        return good;
}

/* Numbers in a kernel's parameters that are addresses which we know. */
static void translate_words(struct remake *r, char *bytes, size_t size)
{
        for (size_t at = 0; at + 8 <= size; at += 8) {
                uint64_t theirs = get(bytes + at, 8), ours;

                if (find_address(r, theirs, &ours))
                        put(bytes + at, ours, 8);
        }
}

/* -- what a call makes ------------------------------------------------------------------------- */

static int parameter_named(const struct call_entry *e, const char *name)
{
        for (unsigned i = 0; i < e->how.count; i++)
                if (strcmp(e->parameters[i].name, name) == 0)
                        return (int)i;
        return -1;
}

/* How long what a call has made is, by its other parameters; 0: they do not say. */
static uint64_t size_made(const struct attempt *a)
{
        static const char *const names[] = {"bytesize", "size", "bytes", "psize", "pSize"};
        int pitch = parameter_named(a->entry, "pPitch");
        int height = parameter_named(a->entry, "Height");

        if (pitch >= 0 && height >= 0 && a->parts.left[pitch])
                return get(a->parts.left[pitch], 8) *
                       get((const char *)a->parts.args + a->entry->how.parameters[height].offset,
                               8);
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
                int n = parameter_named(a->entry, names[i]);
                const struct marshal_parameter *p;

                if (n < 0)
                        continue;
                p = &a->entry->how.parameters[n];
                if (p->kind == MARSHAL_VALUE && (p->size == 4 || p->size == 8))
                        return get((const char *)a->parts.args + p->offset, p->size);
                if (p->kind != MARSHAL_VALUE && a->parts.left[n] && p->element <= 8)
                        return get(a->parts.left[n], p->element);
        }
        return 0;
}

static void bind(struct attempt *a, const struct call_reference *reference, const char *theirs,
        const char *ours, uint64_t size)
{
        struct translation *known = a->remake->known;
        uint64_t from = get(theirs + reference->offset, reference->size);
        uint64_t to = get(ours + reference->offset, reference->size), here, left;

        if (from == 0 || to == 0 || !reference->certain)
                return;
        switch (reference->space) {
        case CALL_SPACE_FUNCTION:
                break;
        case CALL_SPACE_HOST:
        case CALL_SPACE_DEVICE:
                /* what is known already, and not made by this call */
                if (size == 0 &&
                        translation_find_range(known, reference->space, from, &here, &left) &&
                        here == to)
                        break;
                /* of unknown length, it is not taken for what is known to lie behind it */
                if (size == 0 && reference->space == CALL_SPACE_DEVICE) {
                        size = translation_room(known, reference->space, from);
                        size = size < UNKNOWN_RANGE ? size : UNKNOWN_RANGE;
                }
                (void)translation_bind_range(known, reference->space, from, to, size);
                break;
        default:
                (void)translation_bind(known, reference->space, from, to);
        }
}

/* A graph's node that allocates says in its own structure what it has made. */
static void bind_allocation(
        struct attempt *a, const char *type, const void *theirs, const void *ours)
{
        const CUDA_MEM_ALLOC_NODE_PARAMS_v1 *from = theirs, *to = ours;
        const CUgraphNodeParams *node = theirs;

        if (strcmp(type, "CUgraphNodeParams") == 0 && node->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
                (void)translation_bind_range(a->remake->known, CALL_SPACE_DEVICE, node->alloc.dptr,
                        ((const CUgraphNodeParams *)ours)->alloc.dptr, node->alloc.bytesize);
        else if (strncmp(type, "CUDA_MEM_ALLOC_NODE_PARAMS", 26) == 0)
                (void)translation_bind_range(
                        a->remake->known, CALL_SPACE_DEVICE, from->dptr, to->dptr, from->bytesize);
}

static void bind_results(struct attempt *a)
{
        uint64_t size = size_made(a);

        for (unsigned i = 0; i < a->entry->how.count; i++) {
                const struct marshal_parameter *p = &a->entry->how.parameters[i];
                const struct call_shape *shape = a->entry->parameters[i].shape;

                if (!writes(p) || !shape || !a->parts.left[i] || !a->pointer[i] || p->element == 0)
                        continue;
                if (p->unit == MARSHAL_ONE)
                        bind_allocation(
                                a, a->entry->parameters[i].type, a->parts.left[i], a->pointer[i]);
                for (uint64_t at = 0; at + p->element <= a->parts.lengths[i]; at += p->element)
                        for (unsigned n = 0; n < shape->reference_count; n++)
                                bind(a, &shape->references[n], (const char *)a->parts.left[i] + at,
                                        (const char *)a->pointer[i] + at, size);
        }
}

/* What the call made there and not here. Contexts are also reported by calls that did not make
 * them, and may have been made unseen. */
static void lose_results(struct attempt *a)
{
        struct translation *known = a->remake->known;

        for (unsigned i = 0; i < a->entry->how.count; i++) {
                const struct marshal_parameter *p = &a->entry->how.parameters[i];
                const struct call_parameter *c = &a->entry->parameters[i];
                const char *theirs = a->parts.left[i];

                if (!writes(p) || !c->shape || !theirs || p->element == 0)
                        continue;
                for (uint64_t at = 0; at + p->element <= a->parts.lengths[i]; at += p->element)
                        for (unsigned n = 0; n < c->shape->reference_count; n++) {
                                const struct call_reference *reference = &c->shape->references[n];
                                uint64_t handle =
                                        get(theirs + at + reference->offset, reference->size);

                                if (handle && reference->certain &&
                                        reference->space >= CALL_SPACE_FIRST &&
                                        (c->makes || reference->space != SPACE_CUctx_st))
                                        (void)translation_bind(
                                                known, SPACE_LOST(reference->space), handle, 0);
                        }
        }
}

/* -- arguments --------------------------------------------------------------------------------- */

/* Beyond this process, or of no meaning in another. */
static bool is_outside(const char *symbol)
{
        static const char *const begins[] = {"cuIpcOpen", "cuCheckpoint", "cuVDPAU", "cuEGL",
                "cuGL", "cuGraphicsGL", "cuGraphicsEGL", "cuGraphicsVDPAU", "cuCoredump",
                "cuMemImportFromShareableHandle", "cuMemPoolImport", "cuImportExternal",
                "cuMemExportToShareableHandle", "cuMemPoolExportToShareableHandle",
                "cuMemGetHandleForAddressRange", "cuLogs"};

        for (size_t i = 0; i < sizeof(begins) / sizeof(begins[0]); i++)
                if (strncmp(symbol, begins[i], strlen(begins[i])) == 0)
                        return true;
        return false;
}

/* Program memory of that length that a copy goes to or comes from. */
static void *program_memory(struct attempt *a, unsigned i)
{
        uint64_t theirs = get((const char *)a->parts.args + a->entry->how.parameters[i].offset, 8);
        uint64_t length = a->parts.lengths[i], ours, left;

        if (translation_find_range(a->remake->known, CALL_SPACE_HOST, theirs, &ours, &left) &&
                left >= length)
                return (void *)(uintptr_t)ours;
        return length <= a->remake->scratch_size ? a->remake->scratch : NULL;
}

static bool is_async(const struct attempt *a)
{
        return strstr(a->entry->how.symbol, "Async") != NULL;
}

static enum replay_state prepare_pointer(struct attempt *a, unsigned i)
{
        const struct marshal_parameter *p = &a->entry->how.parameters[i];
        const struct call_parameter *c = &a->entry->parameters[i];
        uint64_t length = a->parts.lengths[i];
        char *to = NULL;

        if (length == MARSHAL_NULL) {
                /* a pointer with a length that cannot be: something is to be there */
                if (get(a->args + p->offset, p->size))
                        to = a->remake->scratch;
        } else if (!a->parts.data[i] || (c->content && is_async(a) && writes(p))) {
                to = program_memory(a, i);
                if (!to)
                        return REPLAY_TOO_LARGE;
                if (a->parts.data[i] && reads(p) && length > 0)
                        memcpy(to, a->parts.data[i], length);
        } else if (c->content && reads(p)) {
                /* from the trace itself, which outlives any copy that is still going on; unless it
                 * was memory that the driver knows, and by which it may go */
                char *known = program_memory(a, i);

                to = (char *)a->parts.data[i];
                if (known && known != a->remake->scratch)
                        to = memcpy(known, to, length);
        } else {
                to = give(a, length);
                if (!to)
                        return REPLAY_TOO_LARGE;
                if (reads(p))
                        memcpy(to, a->parts.data[i], length);
                if (a->number == CUDA_ENTRY_cuParamSetv)
                        translate_words(a->remake, to, length);
                if (reads(p) && c->shape)
                        for (uint64_t at = 0; at + p->element <= length; at += p->element)
                                if (!translate(a, c->shape, to + at,
                                            c->shape->reference_count != 1 ||
                                                    p->element != c->shape->references[0].size) &&
                                        p->kind == MARSHAL_IN)
                                        return a->without;
        }
        a->pointer[i] = to;
        memcpy(a->args + p->offset, &to, sizeof(to));
        return REPLAY_SAME;
}

static enum replay_state prepare_value(struct attempt *a, unsigned i)
{
        const struct marshal_parameter *p = &a->entry->how.parameters[i];
        const struct call_parameter *c = &a->entry->parameters[i];
        char *at = a->args + p->offset;
        void *to;

        switch (c->what) {
        case CALL_FUNCTION:
                if (get(at, p->size))
                        put(at, (uint64_t)(uintptr_t)nothing, p->size);
                return REPLAY_SAME;
        case CALL_OPAQUE:
                if (!get(at, p->size))
                        return REPLAY_SAME;
                to = give(a, OPAQUE_SIZE);
                if (!to)
                        return REPLAY_TOO_LARGE;
                memcpy(at, &to, sizeof(to));
                return REPLAY_SAME;
        default:
                if (translate(a, c->shape, at, c->what == CALL_STRUCTURE))
                        return REPLAY_SAME;
                return a->without;
        }
}

/* The node's kind says which member of the union is meant. */
static void prepare_node(struct remake *r, CUgraphNodeParams *node)
{
        void **host[2] = {
                (void **)&node->memcpy.copyParams.srcHost, &node->memcpy.copyParams.dstHost};
        uint64_t ours;

        if (node->type == CU_GRAPH_NODE_TYPE_HOST)
                node->host.fn = (CUhostFn)(void *)nothing;
        for (unsigned i = 0; node->type == CU_GRAPH_NODE_TYPE_MEMCPY && i < 2; i++)
                if (*host[i] && !find_address(r, (uintptr_t)*host[i], &ours))
                        *host[i] = r->scratch;
}

static enum replay_state prepare_kernel(
        struct attempt *a, struct call_launch *launch, const char *data, size_t length)
{
        void **list;
        unsigned n = 0;

        list = give(a, (length / sizeof(struct trace_packed) + 1) * sizeof(*list));
        if (!list)
                return REPLAY_TOO_LARGE;
        while (length >= sizeof(struct trace_packed)) {
                struct trace_packed packed;
                size_t padded;
                char *value;

                memcpy(&packed, data, sizeof(packed));
                data += sizeof(packed);
                length -= sizeof(packed);
                padded = ((size_t)packed.size + 7) & ~(size_t)7;
                value = padded <= length ? give(a, packed.size) : NULL;
                if (!value)
                        return REPLAY_DAMAGED;
                memcpy(value, data, packed.size);
                translate_words(a->remake, value, packed.size);
                list[n++] = value;
                data += padded;
                length -= padded;
        }
        *launch->parameters = list;
        return REPLAY_SAME;
}

static enum replay_state prepare_buffer(
        struct attempt *a, struct call_launch *launch, const char *data, size_t length)
{
        void **list = give(a, 5 * sizeof(*list));
        size_t *size = give(a, sizeof(*size));
        char *buffer = give(a, length);

        if (!list || !size || !buffer || !launch->extra)
                return REPLAY_DAMAGED;
        memcpy(buffer, data, length);
        translate_words(a->remake, buffer, length);
        *size = length;
        list[0] = CU_LAUNCH_PARAM_BUFFER_POINTER;
        list[1] = buffer;
        list[2] = CU_LAUNCH_PARAM_BUFFER_SIZE;
        list[3] = size;
        list[4] = CU_LAUNCH_PARAM_END;
        *launch->extra = list;
        return REPLAY_SAME;
}

static enum replay_state prepare_array(
        struct attempt *a, unsigned which, const char *data, size_t length)
{
        unsigned parameter = which % 32, index = which / 32;
        const struct call_shape *shape;
        const struct call_array *array;
        char *copy = give(a, length);

        if (parameter >= a->entry->how.count || !a->pointer[parameter] || !copy)
                return REPLAY_DAMAGED;
        shape = a->entry->parameters[parameter].shape;
        if (!shape || index >= shape->array_count)
                return REPLAY_DAMAGED;
        array = &shape->arrays[index];
        memcpy(copy, data, length);
        for (size_t at = 0; at + array->element <= length; at += array->element)
                (void)translate(a, array->shape, copy + at, true);
        memcpy((char *)a->pointer[parameter] + array->offset, &copy, sizeof(copy));
        return REPLAY_SAME;
}

static enum replay_state prepare_bytes(
        struct attempt *a, unsigned which, const char *data, size_t length)
{
        char *copy = give(a, length + 1);

        if (which >= a->entry->how.count || a->entry->parameters[which].what != CALL_OPAQUE ||
                !copy)
                return REPLAY_DAMAGED;
        memcpy(copy, data, length);
        memcpy(a->args + a->entry->how.parameters[which].offset, &copy, sizeof(copy));
        return REPLAY_SAME;
}

static enum replay_state prepare_extras(struct attempt *a)
{
        struct call_launch launch = {0};
        bool launches = call_launch(a->number, a->args, &launch);
        /* pointers of the traced program's, unless an extra puts ours in their place */
        bool parameters = launches && *launch.parameters,
             buffer = launches && launch.extra && *launch.extra;
        enum replay_state state = REPLAY_SAME;

        if (launches)
                *launch.parameters = NULL;
        if (launches && launch.extra)
                *launch.extra = NULL;
        for (unsigned i = 0; i < a->parts.extras && state == REPLAY_SAME; i++) {
                const struct trace_extra *head = &a->parts.extra[i].head;
                const char *data = a->parts.extra[i].data;

                if (head->kind == TRACE_EXTRA_KERNEL && launches) {
                        state = prepare_kernel(a, &launch, data, head->length);
                        parameters = false;
                } else if (head->kind == TRACE_EXTRA_BUFFER && launches) {
                        state = prepare_buffer(a, &launch, data, head->length);
                        buffer = false;
                } else if (head->kind == TRACE_EXTRA_BYTES)
                        state = prepare_bytes(a, head->which, data, head->length);
                else if (head->kind == TRACE_EXTRA_ARRAY)
                        state = prepare_array(a, head->which, data, head->length);
                else
                        state = REPLAY_DAMAGED;
        }
        if (state == REPLAY_SAME && (parameters || buffer))
                state = REPLAY_NO_PARAMETERS;
        return state;
}

/* Options are numbers or pointers to what the program gave: they are left out. */
static void drop_options(struct attempt *a)
{
        static const char *const counts[] = {"numOptions", "numJitOptions", "numLibraryOptions"};

        for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
                int n = parameter_named(a->entry, counts[i]);

                if (n >= 0)
                        memset(a->args + a->entry->how.parameters[n].offset, 0,
                                a->entry->how.parameters[n].size);
        }
}

/* Memory of the program's becomes known to the driver: some of ours does. */
static enum replay_state prepare_registered(struct attempt *a)
{
        struct cuda_call_cuMemHostRegister_v2 *args = (void *)a->args;
        uint64_t theirs = get(
                (const char *)a->parts.args + offsetof(struct cuda_call_cuMemHostRegister_v2, p),
                8);
        size_t page = (size_t)sysconf(_SC_PAGESIZE), into = theirs % page, size = args->bytesize;
        char *memory;

        /* registered before: then it has been translated, and is to be refused or not as it was */
        if (!theirs || !size || get(&args->p, 8) != theirs)
                return REPLAY_SAME;
        if (size > a->remake->scratch_size)
                return REPLAY_TOO_LARGE;
        memory =
                mmap(NULL, size + into, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
                return REPLAY_TOO_LARGE;
        args->p = memory + into;
        (void)translation_bind_range(
                a->remake->known, CALL_SPACE_HOST, theirs, (uintptr_t)args->p, size);
        return REPLAY_SAME;
}

/* A copy may name memory of the program's by a device address. */
static void prepare_copied(struct attempt *a)
{
        for (unsigned i = 0; i < a->entry->how.count; i++) {
                const struct call_shape *shape = a->entry->parameters[i].shape;
                const char *theirs =
                        (const char *)a->parts.args + a->entry->how.parameters[i].offset;
                uint64_t ours;

                if (a->entry->parameters[i].what == CALL_ADDRESS && shape &&
                        shape->references[0].space == CALL_SPACE_DEVICE && get(theirs, 8) &&
                        !find_address(a->remake, get(theirs, 8), &ours))
                        put(a->args + a->entry->how.parameters[i].offset,
                                (uint64_t)(uintptr_t)a->remake->scratch,
                                a->entry->how.parameters[i].size);
        }
}

static enum replay_state prepare(struct attempt *a)
{
        enum replay_state state = REPLAY_SAME;

        if (is_outside(a->entry->how.symbol))
                return REPLAY_OUTSIDE;
        if (a->parts.returned && a->parts.result == CUDA_ERROR_DEINITIALIZED)
                return REPLAY_ENDING;
        a->args = give(a, a->entry->how.args_size);
        if (!a->args)
                return REPLAY_TOO_LARGE;
        memcpy(a->args, a->parts.args, a->entry->how.args_size);
        for (unsigned i = 0; i < a->entry->how.count && state == REPLAY_SAME; i++) {
                a->outcome->which = (uint8_t)i;
                state = a->entry->how.parameters[i].kind == MARSHAL_VALUE ? prepare_value(a, i)
                                                                          : prepare_pointer(a, i);
                if (state == REPLAY_SAME && a->pointer[i] && a->parts.lengths[i] != MARSHAL_NULL &&
                        a->parts.lengths[i] >= sizeof(CUgraphNodeParams) &&
                        strcmp(a->entry->parameters[i].type, "CUgraphNodeParams") == 0)
                        prepare_node(a->remake, a->pointer[i]);
        }
        if (state == REPLAY_SAME && (a->number == CUDA_ENTRY_cuMemHostRegister ||
                                            a->number == CUDA_ENTRY_cuMemHostRegister_v2))
                state = prepare_registered(a);
        if (state == REPLAY_SAME && succeeded(a) && cuda_entry_class(a->number) == CUDA_CLASS_COPY)
                prepare_copied(a);
        if (state == REPLAY_SAME)
                state = prepare_extras(a);
        drop_options(a);
        return state;
}

/* -- comparison -------------------------------------------------------------------------------- */

static void blank(const struct call_shape *shape, char *element)
{
        for (unsigned i = 0; shape && i < shape->reference_count; i++)
                memset(element + shape->references[i].offset, 0, shape->references[i].size);
}

/* Whether what the call wrote is what it wrote then, handles and addresses apart. */
static bool same_values(struct attempt *a)
{
        for (unsigned i = 0; i < a->entry->how.count; i++) {
                const struct marshal_parameter *p = &a->entry->how.parameters[i];
                const struct call_parameter *c = &a->entry->parameters[i];
                uint64_t length = a->parts.lengths[i];
                char *theirs, *ours;

                if (!writes(p) || !a->parts.left[i] || !a->pointer[i] || length == 0)
                        continue;
                /* times, copies that may still be going on, and what a process is known by */
                if (strcmp(c->type, "float") == 0 || (c->content && is_async(a)) ||
                        strncmp(c->type, "CUipc", 5) == 0)
                        continue;
                a->outcome->which = (uint8_t)i;
                theirs = give(a, length);
                ours = give(a, length);
                if (!theirs || !ours)
                        continue;
                /* the rest of a text's place is nobody's */
                if (strcmp(c->type, "char") == 0 && p->element == 1 && p->unit != MARSHAL_ONE)
                        length = strnlen(a->parts.left[i], length);
                memcpy(theirs, a->parts.left[i], length);
                memcpy(ours, a->pointer[i], length);
                for (uint64_t at = 0; c->shape && at + p->element <= length; at += p->element) {
                        blank(c->shape, theirs + at);
                        blank(c->shape, ours + at);
                }
                if (memcmp(theirs, ours, length) != 0)
                        return false;
        }
        return true;
}

/* Whether work has ended when it is asked for is a matter of time. */
static bool same_result(int32_t theirs, int32_t ours)
{
        return theirs == ours || (theirs == CUDA_SUCCESS && ours == CUDA_ERROR_NOT_READY) ||
               (theirs == CUDA_ERROR_NOT_READY && ours == CUDA_SUCCESS);
}

/* Under the lock. */
static void set_translated(struct remake *r, const struct trace_event *event)
{
        size_t low = r->low;

        r->done[event - r->file->events] = true;
        while (r->low < r->file->count && r->done[r->low])
                r->low++;
        if (r->low != low)
                pthread_cond_broadcast(&r->translated);
}

static void await_translated(struct remake *r, const struct trace_event *event)
{
        uint64_t end = atomic_load(&((struct trace_record *)event->record)->end);

        while (r->low < r->file->count && r->file->events[r->low].record->begin < end)
                pthread_cond_wait(&r->translated, &r->lock);
}

static bool makes_any(const struct attempt *a)
{
        for (unsigned i = 0; i < a->entry->how.count; i++)
                if (writes(&a->entry->how.parameters[i]) && a->entry->parameters[i].shape)
                        return true;
        return false;
}

/* Whether the thread seems to have no context where the traced one must have had one. */
static bool lacks_context(const struct attempt *a, int32_t result)
{
        if (a->number == CUDA_ENTRY_cuCtxGetCurrent)
                return succeeded(a) && result == CUDA_SUCCESS && a->parts.left[0] &&
                       a->pointer[0] && get(a->parts.left[0], sizeof(CUcontext)) != 0 &&
                       get(a->pointer[0], sizeof(CUcontext)) == 0;
        /* some entries look at a handle first that means nothing without a context */
        if (result == CUDA_ERROR_INVALID_HANDLE)
                return succeeded(a);
        return result == CUDA_ERROR_INVALID_CONTEXT &&
               !(a->parts.returned && a->parts.result == result);
}

/* Gives the thread the context that it has been found to lack. */
static bool give_context(struct attempt *a)
{
        struct remake *remake = a->remake;
        uint64_t ours = 0;

        if (a->number == CUDA_ENTRY_cuCtxGetCurrent) {
                pthread_mutex_lock(&remake->lock);
                (void)translation_find(remake->known, SPACE_CUctx_st,
                        get(a->parts.left[0], sizeof(CUcontext)), &ours);
                pthread_mutex_unlock(&remake->lock);
        }
        return unseen_current(remake->unseen, a->event, ours);
}

/* Makes known what came out of the call, there and here or there only. */
static void learn(struct attempt *a, bool here)
{
        struct remake *remake = a->remake;

        if (!makes_any(a))
                return;
        pthread_mutex_lock(&remake->lock);
        await_translated(remake, a->event);
        if (here)
                bind_results(a);
        else
                lose_results(a);
        pthread_mutex_unlock(&remake->lock);
}

static enum replay_state make(struct attempt *a, void *function)
{
        int32_t result;

        for (;;) {
                cuda_call(a->number, function, a->args);
                memcpy(&result, a->args + a->entry->how.result_offset, sizeof(result));
                if (a->outcome->current || !lacks_context(a, result) || !give_context(a))
                        break;
                a->outcome->current = true;
        }
        a->outcome->result = result;
        if (!a->parts.returned)
                return REPLAY_RETURNED;
        if (succeeded(a))
                learn(a, result == CUDA_SUCCESS);
        if (!same_result(a->parts.result, result))
                return REPLAY_RESULT;
        if (result != CUDA_SUCCESS || !succeeded(a))
                return REPLAY_SAME;
        /* how much memory there is and is free is another matter each time */
        if (a->remake->values && cuda_entry_class(a->number) != CUDA_CLASS_CAPACITY &&
                !same_values(a))
                return REPLAY_VALUE;
        return REPLAY_SAME;
}

enum replay_state remake_call(
        struct remake *remake, const struct trace_event *event, struct replay_outcome *ret)
{
        struct attempt a = {.remake = remake,
                .event = event,
                .outcome = ret,
                .number = event->record->entry,
                .without = REPLAY_NO_HANDLE};
        enum replay_state state = REPLAY_DAMAGED;
        void *function = NULL;

        pthread_mutex_lock(&remake->lock);
        if (trace_parts(remake->file, event, &a.parts) == 0) {
                a.entry = a.parts.entry;
                function = dlsym(remake->library, a.entry->how.symbol);
                state = function ? prepare(&a) : REPLAY_NO_ENTRY;
        }
        set_translated(remake, event);
        pthread_mutex_unlock(&remake->lock);
        if (state == REPLAY_SAME)
                state = make(&a, function);
        else if (a.entry && succeeded(&a))
                learn(&a, false);
        unseen_made(event, state == REPLAY_SAME || state == REPLAY_VALUE);
        end(&a);
        return state;
}
