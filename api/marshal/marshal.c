/* SPDX-License-Identifier: Apache-2.0 */
#include "marshal.h"

#include <errno.h>
#include <string.h>
#include <limits.h>

/* The form of a message, all numbers in the byte order of both sides:
 *
 *   request  per parameter: a value's bytes; or a byte, 0 for NULL and 1 for a pointer, and for
 *            the latter a length of 8 bytes and, if the callee reads it, that many bytes
 *   reply    the result's bytes; per pointer that the callee writes and that was not NULL, a
 *            length of 8 bytes and that many bytes
 *
 * The lengths could be worked out from the arguments; they are sent all the same, so that the
 * reader can walk a message in one pass and then hold it against what the arguments say. */

struct writer {
        unsigned char *at;
        size_t size;
        size_t length; /* what a large enough buffer would hold */
};

static void put(struct writer *w, const void *data, size_t length)
{
        if (w->length <= w->size && length <= w->size - w->length && length > 0)
                memcpy(w->at + w->length, data, length);
        w->length += length;
}

struct reader {
        const unsigned char *at;
        size_t left;
};

static const void *take(struct reader *r, size_t length)
{
        const void *data = r->at;
        if (length > r->left)
                return NULL;
        r->at += length;
        r->left -= length;
        return data;
}

static bool reads(const struct marshal_parameter *p)
{
        return p->kind == MARSHAL_IN || p->kind == MARSHAL_INOUT;
}

static bool writes(const struct marshal_parameter *p)
{
        return p->kind == MARSHAL_OUT || p->kind == MARSHAL_INOUT;
}

static const void *argument(const struct marshal_parameter *p, const void *args)
{
        return (const unsigned char *)args + p->offset;
}

static void *pointer(const struct marshal_parameter *p, const void *args)
{
        void *value;
        memcpy(&value, argument(p, args), sizeof(value));
        return value;
}

/* A number of 1, 2, 4 or 8 bytes. Unsigned ones beyond INT64_MAX are lengths that cannot be. */
static int number(const void *at, size_t size, bool is_signed, int64_t *ret)
{
        uint64_t u = 0;
        switch (size) {
        case 4: {
                uint32_t v;
                memcpy(&v, at, sizeof(v));
                u = is_signed ? (uint64_t)(int64_t)(int32_t)v : v;
                break;
        }
        case 8:
                memcpy(&u, at, sizeof(u));
                break;
        default:
                return -EINVAL;
        }
        if (!is_signed && u > INT64_MAX)
                return -EINVAL;
        *ret = (int64_t)u;
        return 0;
}

/* The bytes that the arguments say parameter i points to; less than none is none. */
int marshal_length(const struct marshal_entry *entry, unsigned i, const void *args, uint64_t *ret)
{
        const struct marshal_parameter *p = &entry->parameters[i];
        const void *to = pointer(p, args);
        int64_t sum = 0;

        if (!to) {
                *ret = MARSHAL_NULL;
                return 0;
        }
        if (p->unit == MARSHAL_ONE) {
                *ret = p->element;
                return 0;
        }
        if (p->unit == MARSHAL_STRING) {
                *ret = strlen(to) + 1;
                return 0;
        }
        for (unsigned t = 0; t < p->term_count; t++) {
                const struct marshal_term *term = &p->terms[t];
                int64_t value = term->value;
                if (term->kind != MARSHAL_NUMBER) {
                        const struct marshal_parameter *of = &entry->parameters[term->value];
                        const void *at = argument(of, args);
                        size_t size = of->size;
                        if (term->kind == MARSHAL_POINTEE) {
                                at = pointer(of, args);
                                size = of->element;
                        }
                        int r = at ? number(at, size, of->is_signed, &value) : 0;
                        if (r < 0)
                                return r;
                        if (!at)
                                value = 0;
                }
                if (__builtin_mul_overflow(value, term->sign, &value) ||
                        __builtin_add_overflow(sum, value, &sum))
                        return -EINVAL;
        }
        if (sum < 0)
                sum = 0;
        uint64_t element = p->unit == MARSHAL_COUNT ? p->element : 1;
        if (__builtin_mul_overflow((uint64_t)sum, element, ret) || *ret > INT64_MAX)
                return -EINVAL;
        return 0;
}

ssize_t marshal_request_pack(const struct marshal_entry *entry, const void *args,
        struct marshal_lengths *ret_lengths, void *buffer, size_t size)
{
        struct writer w = {buffer, size, 0};
        struct marshal_lengths lengths;

        if (!entry->parameters)
                return -EOPNOTSUPP;
        for (unsigned i = 0; i < entry->count; i++) {
                const struct marshal_parameter *p = &entry->parameters[i];
                if (p->kind == MARSHAL_VALUE) {
                        lengths.of[i] = MARSHAL_NULL;
                        put(&w, argument(p, args), p->size);
                        continue;
                }
                int r = marshal_length(entry, i, args, &lengths.of[i]);
                if (r < 0)
                        return r;
                uint8_t present = lengths.of[i] != MARSHAL_NULL;
                put(&w, &present, sizeof(present));
                if (!present)
                        continue;
                put(&w, &lengths.of[i], sizeof(lengths.of[i]));
                if (reads(p)) {
                        if (lengths.of[i] > (uint64_t)(SSIZE_MAX - 4096) - w.length)
                                return -EINVAL;
                        put(&w, pointer(p, args), lengths.of[i]);
                }
        }
        *ret_lengths = lengths;
        return (ssize_t)w.length;
}

struct arena {
        unsigned char *at;
        size_t left;
};

static void *reserve(struct arena *a, size_t length, size_t align)
{
        size_t skip = -(uintptr_t)a->at & (align - 1);
        if (skip > a->left || length > a->left - skip)
                return NULL;
        void *memory = a->at + skip;
        a->at += skip + length;
        a->left -= skip + length;
        return memory;
}

/* Reads a pointer's part of a request into memory. */
static int take_pointer(const struct marshal_parameter *p, struct reader *r, struct arena *a,
        void *args, uint64_t *ret_length)
{
        void *to = NULL;
        uint64_t length = MARSHAL_NULL;
        const uint8_t *present = take(r, sizeof(*present));

        if (!present || *present > 1)
                return -EBADMSG;
        if (*present) {
                const void *data = take(r, sizeof(length));
                if (!data)
                        return -EBADMSG;
                memcpy(&length, data, sizeof(length));
                data = reads(p) ? take(r, length) : NULL;
                if (length > INT64_MAX || (reads(p) && !data))
                        return -EBADMSG;
                if (p->unit == MARSHAL_STRING &&
                        (length == 0 || memchr(data, 0, length) !=
                                                (const unsigned char *)data + length - 1))
                        return -EBADMSG;
                if (p->unit == MARSHAL_ONE && length != p->element)
                        return -EBADMSG;
                to = reserve(a, length, p->align);
                if (!to)
                        return -ENOMEM;
                if (data && length)
                        memcpy(to, data, length);
                else
                        memset(to, 0, length);
        }
        memcpy((unsigned char *)args + p->offset, &to, sizeof(to));
        *ret_length = length;
        return 0;
}

int marshal_request_unpack(const struct marshal_entry *entry, const void *buffer, size_t length,
        void *args, struct marshal_lengths *ret_lengths, void *memory, size_t memory_size)
{
        struct reader r = {buffer, length};
        struct arena a = {memory, memory_size};
        struct marshal_lengths lengths;

        if (!entry->parameters)
                return -EOPNOTSUPP;
        memset(args, 0, entry->args_size);
        for (unsigned i = 0; i < entry->count; i++) {
                const struct marshal_parameter *p = &entry->parameters[i];
                if (p->kind == MARSHAL_VALUE) {
                        const void *data = take(&r, p->size);
                        if (!data)
                                return -EBADMSG;
                        memcpy((unsigned char *)args + p->offset, data, p->size);
                        lengths.of[i] = MARSHAL_NULL;
                        continue;
                }
                int e = take_pointer(p, &r, &a, args, &lengths.of[i]);
                if (e < 0)
                        return e;
        }
        if (r.left > 0)
                return -EBADMSG;

        /* Only now is everything there that a length may refer to. */
        for (unsigned i = 0; i < entry->count; i++) {
                uint64_t said;
                if (entry->parameters[i].kind == MARSHAL_VALUE)
                        continue;
                if (marshal_length(entry, i, args, &said) < 0 || said != lengths.of[i])
                        return -EBADMSG;
        }
        *ret_lengths = lengths;
        return 0;
}

ssize_t marshal_reply_pack(const struct marshal_entry *entry, const void *args,
        const struct marshal_lengths *lengths, void *buffer, size_t size)
{
        struct writer w = {buffer, size, 0};

        if (!entry->parameters)
                return -EOPNOTSUPP;
        put(&w, (const unsigned char *)args + entry->result_offset, entry->result_size);
        for (unsigned i = 0; i < entry->count; i++) {
                const struct marshal_parameter *p = &entry->parameters[i];
                if (!writes(p) || lengths->of[i] == MARSHAL_NULL)
                        continue;
                put(&w, &lengths->of[i], sizeof(lengths->of[i]));
                put(&w, pointer(p, args), lengths->of[i]);
        }
        return (ssize_t)w.length;
}

/* Walks a reply; with args, writes what it brings. */
static int walk_reply(const struct marshal_entry *entry, const void *buffer, size_t length,
        const struct marshal_lengths *lengths, void *args)
{
        struct reader r = {buffer, length};
        const void *data = take(&r, entry->result_size);

        if (!data)
                return -EBADMSG;
        if (args)
                memcpy((unsigned char *)args + entry->result_offset, data, entry->result_size);
        for (unsigned i = 0; i < entry->count; i++) {
                const struct marshal_parameter *p = &entry->parameters[i];
                uint64_t said;
                if (!writes(p) || lengths->of[i] == MARSHAL_NULL)
                        continue;
                data = take(&r, sizeof(said));
                if (!data)
                        return -EBADMSG;
                memcpy(&said, data, sizeof(said));
                data = take(&r, lengths->of[i]);
                if (said != lengths->of[i] || !data)
                        return -EBADMSG;
                if (args && said)
                        memcpy(pointer(p, args), data, said);
        }
        return r.left > 0 ? -EBADMSG : 0;
}

int marshal_reply_unpack(const struct marshal_entry *entry, const void *buffer, size_t length,
        const struct marshal_lengths *lengths, void *args)
{
        if (!entry->parameters)
                return -EOPNOTSUPP;
        int r = walk_reply(entry, buffer, length, lengths, NULL);
        return r < 0 ? r : walk_reply(entry, buffer, length, lengths, args);
}
