/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target without a fuzzer: over the files given, and over each of them cut at every
 * byte and changed at random, the same way every time. With -fsanitize=fuzzer the target is linked
 * to libFuzzer instead.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX 65536
#define CHANGES   4000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state = 88172645463325252ull;

static uint64_t random_word(void)
{
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state;
}

/* In memory of exactly its size, so that a sanitizer sees a read beyond it. */
static void try(const uint8_t *data, size_t size)
{
        uint8_t *copy = malloc(size ? size : 1);

        memcpy(copy, data, size);
        LLVMFuzzerTestOneInput(copy, size);
        free(copy);
}

int main(int argc, char **argv)
{
        static uint8_t data[INPUT_MAX], changed[INPUT_MAX];

        for (int i = 1; i < argc; i++) {
                FILE *file = fopen(argv[i], "rb");
                size_t size;

                if (!file) {
                        perror(argv[i]);
                        return 1;
                }
                size = fread(data, 1, sizeof(data), file);
                fclose(file);
                for (size_t cut = 0; cut <= size; cut++)
                        try(data, cut);
                for (unsigned k = 0; k < CHANGES && size > 0; k++) {
                        memcpy(changed, data, size);
                        for (uint64_t n = 1 + random_word() % 4; n > 0; n--) {
                                uint64_t word = random_word();

                                changed[word % size] =
                                        word & 1 << 20 ? (uint8_t)(word >> 32)
                                                       : (uint8_t) "0123456789{}[]\":,\n -\\\xff\0"
                                                                 [(word >> 32) % 24];
                        }
                        try(changed, size);
                }
        }
        return argc > 1 ? 0 : 1;
}
