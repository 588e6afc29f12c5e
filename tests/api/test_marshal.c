/* SPDX-License-Identifier: Apache-2.0 */
/* Every entry that the description expresses, there and back: arguments filled with a pattern
 * arrive as they were, so does the answer; and whatever is cut off, added or changed in a message,
 * nothing is read or written outside of it. Every buffer is of its exact size and from malloc, so
 * that a sanitizer sees one byte too many. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_marshal.h"
#include "nvml_marshal.h"

enum { MEMORY = 1 << 16, LENGTH = 5 };

static uint64_t state = 88172645463325252u;

static uint64_t draw(void)
{
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state;
}

static void *pattern(size_t length)
{
        unsigned char *p = malloc(length ? length : 1);
        assert(p);
        for (size_t i = 0; i < length; i++)
                p[i] = (unsigned char)(draw() | 1);
        return p;
}

static void *exact_copy(const void *data, size_t length)
{
        void *p = malloc(length ? length : 1);
        assert(p);
        memcpy(p, data, length);
        return p;
}

static bool is_length(const struct marshal_entry *e, unsigned index, enum marshal_term_kind kind)
{
        for (unsigned i = 0; i < e->count; i++)
                for (unsigned t = 0; t < e->parameters[i].term_count; t++)
                        if (e->parameters[i].terms[t].kind == kind &&
                                e->parameters[i].terms[t].value == (int)index)
                                return true;
        return false;
}

static void *pointer_at(const struct marshal_parameter *p, const void *args)
{
        void *value;
        memcpy(&value, (const char *)args + p->offset, sizeof(value));
        return value;
}

static void set_pointer(const struct marshal_parameter *p, void *args, void *value)
{
        memcpy((char *)args + p->offset, &value, sizeof(value));
}

static void set_number(void *at, size_t size, uint64_t value)
{
        assert(size == 4 || size == 8);
        memcpy(at, &value, size); /* little-endian, as all we run on */
}

/* The length that the filled arguments mean for a pointer. */
static size_t expected_length(const struct marshal_parameter *p)
{
        long sum = 0;
        switch ((enum marshal_unit)p->unit) {
        case MARSHAL_ONE:
                return p->element;
        case MARSHAL_STRING:
                return 12;
        default:
                for (unsigned t = 0; t < p->term_count; t++)
                        sum += p->terms[t].sign *
                               (p->terms[t].kind == MARSHAL_NUMBER ? p->terms[t].value : LENGTH);
                return (size_t)sum * (p->unit == MARSHAL_COUNT ? p->element : 1);
        }
}

static void *fill(const struct marshal_entry *e, bool null)
{
        char *args = pattern(e->args_size);
        for (unsigned i = 0; i < e->count; i++) {
                const struct marshal_parameter *p = &e->parameters[i];
                if (p->kind == MARSHAL_VALUE) {
                        if (is_length(e, i, MARSHAL_PARAMETER))
                                set_number(args + p->offset, p->size, LENGTH);
                        continue;
                }
                if (null) {
                        set_pointer(p, args, NULL);
                        continue;
                }
                size_t length = expected_length(p);
                char *to = pattern(length);
                if (p->unit == MARSHAL_STRING)
                        to[length - 1] = 0;
                if (is_length(e, i, MARSHAL_POINTEE))
                        set_number(to, p->element, LENGTH);
                set_pointer(p, args, to);
        }
        return args;
}

static void release(const struct marshal_entry *e, void *args)
{
        for (unsigned i = 0; i < e->count; i++)
                if (e->parameters[i].kind != MARSHAL_VALUE)
                        free(pointer_at(&e->parameters[i], args));
        free(args);
}

static bool all_zero(const unsigned char *p, size_t length)
{
        for (size_t i = 0; i < length; i++)
                if (p[i])
                        return false;
        return true;
}

/* The request has to arrive as it was sent. */
static void same_request(const struct marshal_entry *e, const void *sent, const void *got)
{
        for (unsigned i = 0; i < e->count; i++) {
                const struct marshal_parameter *p = &e->parameters[i];
                if (p->kind == MARSHAL_VALUE) {
                        assert(memcmp((const char *)sent + p->offset, (const char *)got + p->offset,
                                       p->size) == 0);
                        continue;
                }
                void *a = pointer_at(p, sent), *b = pointer_at(p, got);
                assert(!a == !b);
                if (!a)
                        continue;
                assert((uintptr_t)b % p->align == 0);
                if (p->kind == MARSHAL_OUT)
                        assert(all_zero(b, expected_length(p)));
                else
                        assert(memcmp(a, b, expected_length(p)) == 0);
        }
}

/* The reply has to arrive as the callee left it, and to touch nothing that it does not bring. */
static void same_reply(const struct marshal_entry *e, const void *callee, const void *caller)
{
        assert(memcmp((const char *)callee + e->result_offset,
                       (const char *)caller + e->result_offset, e->result_size) == 0);
        for (unsigned i = 0; i < e->count; i++) {
                const struct marshal_parameter *p = &e->parameters[i];
                if (p->kind == MARSHAL_VALUE || !pointer_at(p, caller))
                        continue;
                assert(memcmp(pointer_at(p, callee), pointer_at(p, caller), expected_length(p)) ==
                        0);
        }
}

/* Every shorter message, one longer, and many with bytes changed. */
static void spoil_request(
        const struct marshal_entry *e, const unsigned char *message, size_t length)
{
        void *args = malloc(e->args_size), *memory = malloc(MEMORY);
        struct marshal_lengths lengths;

        assert(args && memory);
        for (size_t n = 0; n < length; n++) {
                void *cut = exact_copy(message, n);
                assert(marshal_request_unpack(e, cut, n, args, &lengths, memory, MEMORY) ==
                        -EBADMSG);
                free(cut);
        }
        unsigned char *more = malloc(length + 1);
        assert(more);
        memcpy(more, message, length);
        more[length] = 0;
        assert(marshal_request_unpack(e, more, length + 1, args, &lengths, memory, MEMORY) ==
                -EBADMSG);
        free(more);
        for (unsigned round = 0; round < 200 && length; round++) {
                unsigned char *changed = exact_copy(message, length);
                for (unsigned n = 0; n <= round % 4; n++) {
                        static const uint8_t often[] = {0, 1, 0x7f, 0x80, 0xff};
                        uint64_t r = draw();
                        changed[r % length] = r & 1024 ? often[(r >> 20) % 5] : (uint8_t)(r >> 32);
                }
                int r = marshal_request_unpack(e, changed, length, args, &lengths, memory, MEMORY);
                assert(r == 0 || r == -EBADMSG || r == -ENOMEM);
                if (r == 0) {
                        /* What was let through can be walked again. */
                        struct marshal_lengths again;
                        assert(marshal_request_pack(e, args, &again, NULL, 0) == (ssize_t)length);
                        for (unsigned i = 0; i < e->count; i++)
                                assert(again.of[i] == lengths.of[i]);
                }
                free(changed);
        }
        free(args);
        free(memory);
}

/* What a reply may write: the result, and what each written pointer points to. */
static bool outputs_hold(const struct marshal_entry *e, const struct marshal_lengths *lengths,
        const void *args, unsigned char value)
{
        for (unsigned n = 0; n < e->result_size; n++)
                if (((const unsigned char *)args)[e->result_offset + n] != value)
                        return false;
        for (unsigned i = 0; i < e->count; i++) {
                const struct marshal_parameter *p = &e->parameters[i];
                if (p->kind != MARSHAL_OUT && p->kind != MARSHAL_INOUT)
                        continue;
                for (uint64_t n = 0; lengths->of[i] != MARSHAL_NULL && n < lengths->of[i]; n++)
                        if (((unsigned char *)pointer_at(p, args))[n] != value)
                                return false;
        }
        return true;
}

static void set_outputs(const struct marshal_entry *e, const struct marshal_lengths *lengths,
        void *args, unsigned char value)
{
        memset((char *)args + e->result_offset, value, e->result_size);
        for (unsigned i = 0; i < e->count; i++) {
                const struct marshal_parameter *p = &e->parameters[i];
                if ((p->kind == MARSHAL_OUT || p->kind == MARSHAL_INOUT) &&
                        lengths->of[i] != MARSHAL_NULL)
                        memset(pointer_at(p, args), value, lengths->of[i]);
        }
}

static void spoil_reply(const struct marshal_entry *e, const unsigned char *message, size_t length,
        const struct marshal_lengths *lengths, void *args)
{
        set_outputs(e, lengths, args, 0x5a);
        for (size_t n = 0; n < length; n++) {
                void *cut = exact_copy(message, n);
                assert(marshal_reply_unpack(e, cut, n, lengths, args) == -EBADMSG);
                free(cut);
                assert(outputs_hold(e, lengths, args, 0x5a));
        }
        unsigned char *more = malloc(length + 1);
        assert(more);
        memcpy(more, message, length);
        more[length] = 0;
        assert(marshal_reply_unpack(e, more, length + 1, lengths, args) == -EBADMSG);
        assert(outputs_hold(e, lengths, args, 0x5a));
        free(more);
        for (unsigned round = 0; round < 100; round++) {
                unsigned char *changed = exact_copy(message, length);
                changed[draw() % length] = (uint8_t)draw();
                int r = marshal_reply_unpack(e, changed, length, lengths, args);
                assert(r == 0 || r == -EBADMSG);
                free(changed);
        }
}

static void there_and_back(const struct marshal_entry *e, bool null)
{
        struct marshal_lengths sent, got;
        void *caller = fill(e, null);

        /* A buffer of every smaller size is left alone beyond its end. */
        ssize_t length = marshal_request_pack(e, caller, &sent, NULL, 0);
        assert(length >= 0);
        for (ssize_t n = 0; n <= length; n++) {
                unsigned char *message = malloc((size_t)n ? (size_t)n : 1);
                assert(message);
                assert(marshal_request_pack(e, caller, &sent, message, (size_t)n) == length);
                if (n < length) {
                        free(message);
                        continue;
                }

                void *callee = malloc(e->args_size), *memory = malloc(MEMORY);
                assert(callee && memory);
                assert(marshal_request_unpack(
                               e, message, (size_t)n, callee, &got, memory, MEMORY) == 0);
                same_request(e, caller, callee);
                for (unsigned i = 0; i < e->count; i++)
                        assert(sent.of[i] == got.of[i]);
                spoil_request(e, message, (size_t)n);

                /* The callee answers, and overwrites a length on the way. */
                for (unsigned i = 0; i < e->count; i++) {
                        const struct marshal_parameter *p = &e->parameters[i];
                        if ((p->kind != MARSHAL_OUT && p->kind != MARSHAL_INOUT) ||
                                got.of[i] == MARSHAL_NULL)
                                continue;
                        void *answer = pattern(got.of[i]);
                        memcpy(pointer_at(p, callee), answer, got.of[i]);
                        free(answer);
                }
                void *result = pattern(e->result_size);
                memcpy((char *)callee + e->result_offset, result, e->result_size);
                free(result);

                ssize_t back = marshal_reply_pack(e, callee, &got, NULL, 0);
                assert(back >= (ssize_t)e->result_size);
                unsigned char *reply = malloc((size_t)back);
                assert(reply);
                assert(marshal_reply_pack(e, callee, &got, reply, (size_t)back) == back);
                assert(marshal_reply_unpack(e, reply, (size_t)back, &sent, caller) == 0);
                same_reply(e, callee, caller);
                spoil_reply(e, reply, (size_t)back, &sent, caller);

                /* Too little memory for what the pointers need. */
                size_t need = 0;
                for (unsigned i = 0; i < e->count; i++)
                        need += got.of[i] == MARSHAL_NULL ? 0 : got.of[i];
                if (need) {
                        void *little = malloc(need - 1 ? need - 1 : 1);
                        assert(little);
                        assert(marshal_request_unpack(e, message, (size_t)n, callee, &got, little,
                                       need - 1) == -ENOMEM);
                        free(little);
                }
                free(reply);
                free(callee);
                free(memory);
                free(message);
        }
        release(e, caller);
}

static unsigned run(const struct marshal_entry *table, unsigned count)
{
        unsigned expressed = 0;
        for (unsigned i = 0; i < count; i++) {
                const struct marshal_entry *e = &table[i];
                if (!e->parameters) {
                        struct marshal_lengths lengths;
                        assert(marshal_request_pack(e, NULL, &lengths, NULL, 0) == -EOPNOTSUPP);
                        assert(marshal_request_unpack(e, NULL, 0, NULL, &lengths, NULL, 0) ==
                                -EOPNOTSUPP);
                        assert(marshal_reply_pack(e, NULL, &lengths, NULL, 0) == -EOPNOTSUPP);
                        assert(marshal_reply_unpack(e, NULL, 0, &lengths, NULL) == -EOPNOTSUPP);
                        continue;
                }
                there_and_back(e, false);
                there_and_back(e, true);
                expressed++;
        }
        return expressed;
}

/* Lengths that the arguments' own numbers make impossible or empty. */
static void odd_lengths(void)
{
        const struct marshal_entry *e = &cuda_marshal[CUDA_ENTRY_cuMemcpyHtoD_v2];
        struct marshal_lengths lengths;
        char byte = 1;
        struct cuda_args_cuMemcpyHtoD_v2 copy = {.srcHost = &byte, .ByteCount = SIZE_MAX};
        assert(marshal_request_pack(e, &copy, &lengths, NULL, 0) == -EINVAL);
        copy.ByteCount = (size_t)INT64_MAX;
        assert(marshal_request_pack(e, &copy, &lengths, NULL, 0) == -EINVAL);
        copy.ByteCount = 0;
        assert(marshal_request_pack(e, &copy, &lengths, NULL, 0) > 0 && lengths.of[1] == 0);
        copy.srcHost = NULL;
        copy.ByteCount = SIZE_MAX;
        assert(marshal_request_pack(e, &copy, &lengths, NULL, 0) > 0);
        assert(lengths.of[1] == MARSHAL_NULL);

        e = &cuda_marshal[CUDA_ENTRY_cuDeviceGetName];
        struct cuda_args_cuDeviceGetName name = {.name = &byte, .len = -7};
        assert(marshal_request_pack(e, &name, &lengths, NULL, 0) > 0 && lengths.of[0] == 0);

        e = &cuda_marshal[CUDA_ENTRY_cuGraphGetNodes];
        CUgraphNode node = NULL;
        size_t many = SIZE_MAX / 4;
        struct cuda_args_cuGraphGetNodes nodes = {.nodes = &node, .numNodes = &many};
        assert(marshal_request_pack(e, &nodes, &lengths, NULL, 0) == -EINVAL);
        nodes.numNodes = NULL;
        assert(marshal_request_pack(e, &nodes, &lengths, NULL, 0) > 0 && lengths.of[1] == 0);
}

/* Pointers and strings that no writer would send. */
static void odd_pointers(void)
{
        const struct marshal_entry *e = &cuda_marshal[CUDA_ENTRY_cuModuleLoad];
        CUmodule module;
        struct cuda_args_cuModuleLoad load = {.module = &module, .fname = "a.cubin"}, got;
        struct marshal_lengths lengths;
        unsigned char message[64], *memory = malloc(16); /* room for both pointers, no byte more */
        size_t first = 1 + 8, text = first + 1 + 8;

        assert(memory);
        ssize_t length = marshal_request_pack(e, &load, &lengths, message, sizeof(message));
        assert(length == (ssize_t)(text + 8));
        assert(marshal_request_unpack(e, message, (size_t)length, &got, &lengths, memory, 16) == 0);
        assert(strcmp(got.fname, "a.cubin") == 0);
        message[text + 7] = 'x';
        assert(marshal_request_unpack(e, message, (size_t)length, &got, &lengths, memory, 16) ==
                -EBADMSG);
        message[text + 7] = 0;
        message[text + 1] = 0;
        assert(marshal_request_unpack(e, message, (size_t)length, &got, &lengths, memory, 16) ==
                -EBADMSG);
        message[text + 1] = '.';
        message[first] = 2;
        assert(marshal_request_unpack(e, message, (size_t)length, &got, &lengths, memory, 16) ==
                -EBADMSG);
        message[first] = 1;
        assert(marshal_request_unpack(e, message, (size_t)length, &got, &lengths, memory, 16) == 0);
        free(memory);
}

int main(void)
{
        odd_lengths();
        odd_pointers();
        unsigned cuda = run(cuda_marshal, CUDA_ENTRY_COUNT);
        unsigned nvml = run(nvml_marshal, NVML_ENTRY_COUNT);
        printf("%u of %u CUDA entries, %u of %u NVML entries\n", cuda, CUDA_ENTRY_COUNT, nvml,
                NVML_ENTRY_COUNT);
        assert(cuda > 500 && nvml > 150);
        return 0;
}
