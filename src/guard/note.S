/* SPDX-License-Identifier: Apache-2.0 */
/* Our mark, by which libraries of ours know their like when they look for the driver. Types: 1, a
 * guard; 2, the tracer, which may stand before a guard. */
#ifndef NOTE_TYPE
#define NOTE_TYPE 1
#endif
        .section .note.cleave, "a", %note
        .balign 4
        .long 7         /* length of the name */
        .long 4         /* length of the description */
        .long NOTE_TYPE
        .asciz "Cleave"
        .balign 4
        .long 1         /* version of the shared pages */

        .section .note.GNU-stack, "", %progbits
