/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of a trace.
 *
 * One file takes the calls of all processes and threads of a command. It is written through shared
 * mappings, a record when its call begins, completed when it ends: so what stands in it survives
 * the program, however that ends, and a call that never returned is there too. Space is taken piece
 * by piece and before it is written to, so a full disk ends the trace and not the program.
 *
 *   struct trace_header, TRACE_HEADER_BYTES
 *   chunks, one after another: struct trace_chunk, then records of 16-byte steps until its end
 *   a record: struct trace_record; the entry's structure of arguments; per parameter that is a
 *   followed pointer its length (8 bytes, MARSHAL_NULL for NULL) and, if it was recorded, that many
 *   bytes, twice where the callee both reads and writes; then extras, see enum trace_extra_kind.
 * Each part is padded to 8 bytes.
 *
 * Numbers are in the machine's byte order, times CLOCK_MONOTONIC nanoseconds. The reader takes
 * nothing in the file for granted.
 */
#pragma once

#include <assert.h>
#include <stdint.h>

#define TRACE_MAGIC        "CLVTRACE"
#define TRACE_VERSION      1u
#define TRACE_HEADER_BYTES 65536u
#define TRACE_CHUNK_MAGIC  UINT64_C(0x4b4e554843564c43) /* "CLVCHUNK" */
#define TRACE_RECORD_MAGIC 0x52564c43u                  /* "CLVR" */
#define TRACE_STEP         65536u /* chunks are multiples: the largest page of the machines we know */
#define TRACE_ALIGN        16u

enum trace_option {
        TRACE_CONTENTS = 1u, /* what is copied is recorded too */
};

enum trace_cut {
        TRACE_WHOLE = 0,
        TRACE_CUT_LIMIT = 1, /* the size that cleave trace was given */
        TRACE_CUT_ERROR = 2, /* the system gave no more: cut_errno */
};

struct trace_header {
        char magic[8];
        uint32_t version;
        uint32_t options; /* enum trace_option */
        uint64_t digest;  /* CUDA_TRACE_DIGEST of the writer */
        uint64_t limit;   /* bytes of the file at most */
        uint64_t began;   /* CLOCK_MONOTONIC */
        uint64_t began_realtime;
        char cleave[32]; /* version, NUL-terminated */
        char machine[32];
        /* From here on the traced processes write. */
        _Atomic uint64_t end;  /* where the next chunk goes */
        _Atomic uint64_t lost; /* calls that are not here because the trace was cut */
        _Atomic uint32_t cut;  /* enum trace_cut */
        _Atomic uint32_t cut_errno;
        _Atomic uint32_t processes; /* that have begun to write */
        uint32_t reserved;
        char command[4096]; /* arguments, each NUL-terminated; an empty one ends them */
};
static_assert(sizeof(struct trace_header) <= TRACE_HEADER_BYTES, "layout");
static_assert(sizeof(struct trace_header) == 4096 + 144, "layout");

struct trace_chunk {
        uint64_t magic;
        uint64_t size;    /* with this head; a multiple of TRACE_STEP */
        uint32_t process; /* from 1, in the order in which processes began to write */
        uint32_t pid;
        uint64_t reserved[5];
};
static_assert(sizeof(struct trace_chunk) == 64, "layout");

#define TRACE_ENTRY_PROCESS                                                                        \
        0xffffu /* no call: the first record of a process, struct trace_process */

struct trace_record {
        uint32_t magic; /* written last of what is written at the beginning */
        uint32_t size;  /* of the whole record */
        uint32_t thread;
        uint16_t entry;
        uint16_t extras;
        uint64_t begin;
        _Atomic uint64_t end; /* written last; 0: the call had not returned */
};
static_assert(sizeof(struct trace_record) == 32, "layout");

struct trace_process {
        uint32_t pid, parent;
        uint32_t forked_from; /* number of the process whose memory it began with; 0: none traced */
        uint32_t reserved;
        char command[1008]; /* as in the header, cut short if need be */
};

enum trace_extra_kind {
        /* Kernel parameters: per parameter struct trace_packed, then its bytes padded to 8. Of the
         * launch that parameter `which` of the entry describes. */
        TRACE_EXTRA_KERNEL = 1,
        /* The buffer that a launch passes by `extra`. */
        TRACE_EXTRA_BUFFER = 2,
        /* Bytes behind the opaque pointer which is parameter `which`: code, or a small value. */
        TRACE_EXTRA_BYTES = 3,
        /* Elements of array `which / 32` of the structure that parameter `which % 32` points to. */
        TRACE_EXTRA_ARRAY = 4,
};

struct trace_extra {
        uint16_t kind;
        uint16_t which;
        uint32_t reserved;
        uint64_t length; /* of what follows, without padding */
};

struct trace_packed {
        uint32_t offset, size;
};
