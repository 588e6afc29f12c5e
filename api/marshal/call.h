/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAVE_CALL_H
#define CLEAVE_CALL_H

/* What a trace and a replay must know of each entry beyond its lengths: names, and where handles
 * and addresses stand, so that those of one run can be put in the place of another's. Generated
 * from the description, as cuda_trace.h. */

#include "marshal.h"

/* What a number that is no plain number belongs to. */
enum call_space {
        CALL_SPACE_HOST,   /* an address of the program's */
        CALL_SPACE_DEVICE, /* an address of device memory */
        CALL_SPACE_FUNCTION,
        CALL_SPACE_FIRST, /* and on: handles, of the kinds that the generated header has */
};

struct call_reference {
        uint16_t offset; /* in the value or the structure */
        uint8_t size;    /* 4 or 8 */
        uint8_t space;
        bool certain; /* not one of a union's members, of which another may be meant */
};

struct call_shape;

/* An array that a structure points to. */
struct call_array {
        uint16_t offset;                /* of the pointer in the structure */
        uint16_t count_offset;          /* of the number of elements */
        uint8_t count_size;             /* 4 or 8 */
        uint32_t element;               /* bytes */
        const struct call_shape *shape; /* of an element; NULL: nothing to translate */
};

/* The handles and addresses inside a type. Those of a union overlap: one at most is meant. */
struct call_shape {
        const struct call_reference *references;
        const struct call_array *arrays;
        uint8_t reference_count, array_count;
};

enum call_what {
        CALL_NUMBER,
        CALL_FLOAT,
        CALL_CONSTANT, /* of an enumeration */
        CALL_STRUCTURE,
        CALL_HANDLE,
        CALL_ADDRESS, /* of the program's or of device memory, not followed */
        CALL_POINTER, /* followed, as the marshalling table says */
        CALL_FUNCTION,
        CALL_OPAQUE, /* a pointer that the description does not express */
};

struct call_parameter {
        const char *name, *type; /* type: without const and stars */
        uint8_t what;            /* enum call_what */
        bool content;            /* what the pointer points to is the program's own data */
        bool makes;              /* handles that it gives back are of what the call has made */
        /* of what is passed, or pointed to where it is followed; NULL: nothing to translate */
        const struct call_shape *shape;
};

struct call_entry {
        /* As marshal.h has it, but that pointers which are not followed are plain values.
         * parameters is NULL where the prototype is not public. */
        struct marshal_entry how;
        const struct call_parameter *parameters;
};

#endif
