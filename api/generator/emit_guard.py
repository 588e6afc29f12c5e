# SPDX-License-Identifier: Apache-2.0
"""The guard's entry points: a tail jump through a slot for every symbol that no hook answers."""

from .text import fill, lines

HEADER = '''\
@banner@

#ifndef CLEAVE_@API@_GUARD_ENTRIES_H
#define CLEAVE_@API@_GUARD_ENTRIES_H

#include "@api@_api.h"
#include "@api@_names.h"

#pragma GCC visibility push(hidden)
/* Where each entry goes: at first a stub that resolves it, afterwards the real library's function.
 * Read and written whole, from any thread: use __atomic_load_n and __atomic_store_n, relaxed.
 * Hooked entries have a slot too, for the hook to call on. */
extern void *@real@[@API@_ENTRY_COUNT];

/* Where our own function behind each entry lies, in bytes from the start of this table: distances,
 * so that the library needs no relocation for them. See @address@(). */
extern const int @offset@[@API@_ENTRY_COUNT];

/* The guard's own: called by the stub of an entry at its first call, from any thread and perhaps
 * from several at once, with every argument register saved around it. Stores the address to go to
 * in the slot and returns it; never NULL. */
void *@resolve@(unsigned entry);
#pragma GCC visibility pop

/* Our own function behind an entry: what dlsym would answer. */
static inline void *@address@(unsigned entry)
{
        return (char *)@offset@ + @offset@[entry];
}

/* The real function behind a symbol, with its type. */
#define CLEAVE_@API@_REAL(symbol)                                                                  \\
        ((__typeof__(&symbol))__atomic_load_n(&@real@[@API@_ENTRY_##symbol], __ATOMIC_RELAXED))

#endif
'''


ASSEMBLER = '''\
@banner@

        .text
        .hidden @resolve@

#if defined(__x86_64__)

/* endbr64 for processes with indirect branch tracking; the jump itself may go anywhere then. */
        .macro entry n, symbol
        .balign 16
        .globl \\symbol
        .type \\symbol, %function
\\symbol:
        .cfi_startproc
        endbr64
        jmp *@real@+8*\\n(%rip)
        .cfi_endproc
        .size \\symbol, . - \\symbol
        .endm

        .macro lazy n
        .balign 16
        .type .Llazy_\\n, %function
.Llazy_\\n:
        .cfi_startproc
        endbr64
        pushq $\\n
        .cfi_adjust_cfa_offset 8
        jmp .Lresolve
        .cfi_endproc
        .size .Llazy_\\n, . - .Llazy_\\n
        .endm

/* Stack on arrival: the entry's number, the caller's return address; aligned to 16. */
        .balign 16
        .type .Lresolve, %function
.Lresolve:
        .cfi_startproc
        .cfi_def_cfa_offset 16
        subq $192, %rsp
        .cfi_adjust_cfa_offset 192
        movaps %xmm0, 0(%rsp)
        movaps %xmm1, 16(%rsp)
        movaps %xmm2, 32(%rsp)
        movaps %xmm3, 48(%rsp)
        movaps %xmm4, 64(%rsp)
        movaps %xmm5, 80(%rsp)
        movaps %xmm6, 96(%rsp)
        movaps %xmm7, 112(%rsp)
        movq %rdi, 128(%rsp)
        movq %rsi, 136(%rsp)
        movq %rdx, 144(%rsp)
        movq %rcx, 152(%rsp)
        movq %r8, 160(%rsp)
        movq %r9, 168(%rsp)
        movq %rax, 176(%rsp)
        movl 192(%rsp), %edi
        call @resolve@
        movq %rax, %r11
        movaps 0(%rsp), %xmm0
        movaps 16(%rsp), %xmm1
        movaps 32(%rsp), %xmm2
        movaps 48(%rsp), %xmm3
        movaps 64(%rsp), %xmm4
        movaps 80(%rsp), %xmm5
        movaps 96(%rsp), %xmm6
        movaps 112(%rsp), %xmm7
        movq 128(%rsp), %rdi
        movq 136(%rsp), %rsi
        movq 144(%rsp), %rdx
        movq 152(%rsp), %rcx
        movq 160(%rsp), %r8
        movq 168(%rsp), %r9
        movq 176(%rsp), %rax
        addq $200, %rsp
        .cfi_adjust_cfa_offset -200
        jmp *%r11
        .cfi_endproc
        .size .Lresolve, . - .Lresolve

#elif defined(__aarch64__)

/* hint 34 is `bti c`: it also accepts the br through x16 by which these are reached. */
        .macro entry n, symbol
        .balign 16
        .globl \\symbol
        .type \\symbol, %function
\\symbol:
        .cfi_startproc
        hint 34
        adrp x16, @real@+8*\\n
        ldr x16, [x16, :lo12:@real@+8*\\n]
        br x16
        .cfi_endproc
        .size \\symbol, . - \\symbol
        .endm

        .macro lazy n
        .balign 16
        .type .Llazy_\\n, %function
.Llazy_\\n:
        .cfi_startproc
        hint 34
        mov w17, #\\n
        b .Lresolve
        .cfi_endproc
        .size .Llazy_\\n, . - .Llazy_\\n
        .endm

        .balign 16
        .type .Lresolve, %function
.Lresolve:
        .cfi_startproc
        stp x29, x30, [sp, #-224]!
        .cfi_adjust_cfa_offset 224
        .cfi_rel_offset x29, 0
        .cfi_rel_offset x30, 8
        mov x29, sp
        stp x0, x1, [sp, #16]
        stp x2, x3, [sp, #32]
        stp x4, x5, [sp, #48]
        stp x6, x7, [sp, #64]
        str x8, [sp, #80]
        stp q0, q1, [sp, #96]
        stp q2, q3, [sp, #128]
        stp q4, q5, [sp, #160]
        stp q6, q7, [sp, #192]
        mov w0, w17
        bl @resolve@
        mov x16, x0
        ldp q0, q1, [sp, #96]
        ldp q2, q3, [sp, #128]
        ldp q4, q5, [sp, #160]
        ldp q6, q7, [sp, #192]
        ldp x0, x1, [sp, #16]
        ldp x2, x3, [sp, #32]
        ldp x4, x5, [sp, #48]
        ldp x6, x7, [sp, #64]
        ldr x8, [sp, #80]
        ldp x29, x30, [sp], #224
        .cfi_adjust_cfa_offset -224
        .cfi_restore x29
        .cfi_restore x30
        br x16
        .cfi_endproc
        .size .Lresolve, . - .Lresolve

#else
#error "no entry points for this processor"
#endif
'''

TABLE = '''
@entries@

        .irp n, @every@
        lazy \\n
        .endr

        .data
        .balign 8
        .hidden @real@
        .globl @real@
        .type @real@, %object
@real@:
        .irp n, @every@
        .quad .Llazy_\\n
        .endr
        .size @real@, . - @real@

        .section .rodata
        .balign 4
        .hidden @offset@
        .globl @offset@
        .type @offset@, %object
@offset@:
@offsets@
        .size @offset@, . - @offset@

        .section .note.GNU-stack, "", %progbits
'''


def _names(api):
    """What the guard's author knows the table and the resolver by."""
    if api == 'cuda':
        return {'real': 'cleave_real', 'resolve': 'cleave_guard_resolve',
                'offset': 'cleave_entry_offset', 'address': 'cleave_entry_address'}
    return {'real': f'cleave_{api}_real', 'resolve': f'cleave_guard_{api}_resolve',
            'offset': f'cleave_{api}_entry_offset', 'address': f'cleave_{api}_entry_address'}


def header(d, api):
    return fill(HEADER, d, api, **_names(api))


def assembler(d, api, hooked):
    every = ', '.join(str(e.index) for e in d.entries)
    entries = lines((f'entry {e.index}, {e.symbol}' for e in d.entries if e.symbol not in hooked),
                    '        {}')
    names = _names(api)
    offsets = lines((f'.long {e.symbol} - {names["offset"]}' for e in d.entries), '        {}')
    return fill(ASSEMBLER + TABLE, d, api, entries=entries, every=every, offsets=offsets, **names)
