/* SPDX-License-Identifier: Apache-2.0 */
/* The guard's mark, by which it knows itself and its like when it looks for the driver. */
        .section .note.cleave, "a", %note
        .balign 4
        .long 7         /* length of the name */
        .long 4         /* length of the description */
        .long 1         /* type: guard */
        .asciz "Cleave"
        .balign 4
        .long 1         /* version of the shared pages */

        .section .note.GNU-stack, "", %progbits
