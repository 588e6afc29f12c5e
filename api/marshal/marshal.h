/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAVE_MARSHAL_H
#define CLEAVE_MARSHAL_H

/* A call as a flat message, and its answer back, for any entry that the description expresses.
 *
 * The generated tables (cuda_marshal.h, nvml_marshal.h) say for each entry what its arguments are;
 * this walks them. The caller's side packs a request and unpacks the reply; the callee's side
 * unpacks the request, makes the call, and packs the reply. Both sides are of one build and one
 * byte order. What comes from the other side is never trusted: every length is checked against the
 * message, against the memory given, and against what the arguments themselves say. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#pragma GCC visibility push(hidden)

#define MARSHAL_MAX_PARAMETERS 20

enum marshal_kind {
        MARSHAL_VALUE, /* crosses as it is; handles and addresses too */
        MARSHAL_IN,    /* a pointer to what the callee reads */
        MARSHAL_OUT,   /* a pointer to what the callee writes */
        MARSHAL_INOUT,
};

enum marshal_unit {
        MARSHAL_ONE,    /* one element */
        MARSHAL_COUNT,  /* elements, their number is the sum of the terms */
        MARSHAL_BYTES,  /* bytes, likewise */
        MARSHAL_STRING, /* up to and with the NUL */
};

enum marshal_term_kind { MARSHAL_NUMBER, MARSHAL_PARAMETER, MARSHAL_POINTEE };

struct marshal_term {
        uint8_t kind;  /* enum marshal_term_kind */
        int8_t sign;   /* 1 or -1 */
        int16_t value; /* the number, or a parameter's index */
};

struct marshal_parameter {
        uint16_t offset;    /* in the structure of arguments */
        uint16_t size;      /* of the argument there */
        uint32_t element;   /* size of what a pointer points to */
        uint16_t align;     /* its alignment */
        uint8_t kind;       /* enum marshal_kind */
        uint8_t unit;       /* enum marshal_unit */
        uint8_t is_signed;  /* the argument, or what it points to, is a signed number */
        uint8_t term_count; /* of the length */
        struct marshal_term terms[2];
};

struct marshal_entry {
        const char *symbol;
        const struct marshal_parameter *parameters; /* NULL: not expressed, see unmarshalled.list */
        uint16_t count;
        uint16_t args_size; /* of the structure of arguments */
        uint16_t result_offset, result_size;
};

/* What each pointer of a call carries, in bytes; kept from the request to its reply. */
struct marshal_lengths {
        uint64_t of[MARSHAL_MAX_PARAMETERS]; /* MARSHAL_NULL: the pointer is NULL */
};

#define MARSHAL_NULL UINT64_MAX

/* The bytes that the arguments say parameter i, a pointer, points to, as they stand in args;
 * MARSHAL_NULL for NULL. -EINVAL: it cannot be. */
int marshal_length(const struct marshal_entry *entry, unsigned i, const void *args, uint64_t *ret);

/* Writes the request into buffer and returns its length; where that is more than size, nothing of
 * use was written, so that a first call with size 0 says what is needed. args is the entry's
 * structure of arguments. -EINVAL: a length of the arguments cannot be; -EOPNOTSUPP: the entry is
 * not expressed. */
ssize_t marshal_request_pack(const struct marshal_entry *entry, const void *args,
        struct marshal_lengths *ret_lengths, void *buffer, size_t size);

/* Fills args from a request. What pointers point to is laid out in memory, which the caller gives
 * and owns; what the callee will write is zero there. -EBADMSG: not a request of this entry;
 * -ENOMEM: memory is too small; -EOPNOTSUPP as above. */
int marshal_request_unpack(const struct marshal_entry *entry, const void *buffer, size_t length,
        void *args, struct marshal_lengths *ret_lengths, void *memory, size_t memory_size);

/* Writes the result and what the callee wrote, as marshal_request_pack does. lengths are those of
 * the request, whatever the call made of the arguments since. */
ssize_t marshal_reply_pack(const struct marshal_entry *entry, const void *args,
        const struct marshal_lengths *lengths, void *buffer, size_t size);

/* Writes the result into args and what the callee wrote where the caller's pointers in args point.
 * With -EBADMSG nothing was written. */
int marshal_reply_unpack(const struct marshal_entry *entry, const void *buffer, size_t length,
        const struct marshal_lengths *lengths, void *args);

#pragma GCC visibility pop

#endif
