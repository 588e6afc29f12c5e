/* SPDX-License-Identifier: Apache-2.0 */
#define NOTE_TYPE 2
#include "../guard/note.S"
