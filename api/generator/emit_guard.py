# SPDX-License-Identifier: Apache-2.0
"""The guard's entry points: a tail jump through a slot for every symbol that no hook answers."""

from .text import banner


def header(d, api):
    up = api.upper()
    real = 'cleave_real' if api == 'cuda' else f'cleave_{api}_real'
    resolve = 'cleave_guard_resolve' if api == 'cuda' else f'cleave_guard_{api}_resolve'
    return '\n'.join([
        banner(d), f'#ifndef CLEAVE_{up}_GUARD_ENTRIES_H', f'#define CLEAVE_{up}_GUARD_ENTRIES_H', '',
        f'#include "{api}_api.h"', f'#include "{api}_names.h"', '',
        '#pragma GCC visibility push(hidden)',
        '/* Where each entry goes: at first a stub that resolves it, afterwards the real library\'s',
        ' * function. Read and written whole, from any thread: use __atomic_load_n and',
        ' * __atomic_store_n, relaxed. Hooked entries have a slot too, for the hook to call on. */',
        f'extern void *{real}[{up}_ENTRY_COUNT];', '',
        '/* The guard\'s own: called by the stub of an entry at its first call, from any thread and',
        ' * perhaps from several at once, with every argument register saved around it. Stores the',
        ' * address to go to in the slot and returns it; never NULL. */',
        f'void *{resolve}(unsigned entry);',
        '#pragma GCC visibility pop', '',
        '/* The real function behind a symbol, with its type. */',
        f'#define CLEAVE_{up}_REAL(symbol)' + ' ' * (4 - len(api) + 38) + '\\',
        f'        ((__typeof__(&symbol))__atomic_load_n(&{real}[{up}_ENTRY_##symbol], '
        '__ATOMIC_RELAXED))',
        '', '#endif', ''])


def assembler(d, api, hooked):
    real = 'cleave_real' if api == 'cuda' else f'cleave_{api}_real'
    resolve = 'cleave_guard_resolve' if api == 'cuda' else f'cleave_guard_{api}_resolve'
    out = [banner(d), _MACROS.replace('@REAL@', real).replace('@RESOLVE@', resolve)]
    out += [f'        entry {e.index}, {e.symbol}' for e in d.entries if e.symbol not in hooked]
    out += ['', f'        .irp n, {", ".join(str(e.index) for e in d.entries)}',
            '        lazy \\n', '        .endr', '',
            '        .data', '        .balign 8', f'        .hidden {real}', f'        .globl {real}',
            f'        .type {real}, %object', f'{real}:',
            f'        .irp n, {", ".join(str(e.index) for e in d.entries)}',
            '        .quad .Llazy_\\n', '        .endr', f'        .size {real}, . - {real}', '',
            '        .section .note.GNU-stack, "", %progbits', '']
    return '\n'.join(out)


_MACROS = '''\
        .text
        .hidden @RESOLVE@

#if defined(__x86_64__)

/* endbr64 for processes with indirect branch tracking; the jump itself may go anywhere then. */
        .macro entry n, symbol
        .balign 16
        .globl \\symbol
        .type \\symbol, %function
\\symbol:
        .cfi_startproc
        endbr64
        jmp *@REAL@+8*\\n(%rip)
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
        call @RESOLVE@
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
        adrp x16, @REAL@+8*\\n
        ldr x16, [x16, :lo12:@REAL@+8*\\n]
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
        bl @RESOLVE@
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
