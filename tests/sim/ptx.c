/* SPDX-License-Identifier: Apache-2.0 */
/* What is read from PTX, and what is refused: tables, and the good text torn and garbled. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "ptx.h"

#define HEAD ".version 6.0\n.target sm_52\n.address_size 64\n"

static const struct {
        const char *text;
        unsigned line;    /* where it is refused, 0: it is good */
        const char *part; /* of the sentence */
} table[] = {
        {HEAD, 0, NULL},
        {HEAD ".visible .entry a() { ret; }", 0, NULL},
        {HEAD ".entry a ( .param .u64 p, .param .align 8 .b8 s[24] ) { ret; }", 0, NULL},
        {HEAD ".entry a(.param .u64 .ptr .global .align 8 p) .maxntid 64 { ret; }", 0, NULL},
        {HEAD ".func (.param .b32 r) f (.param .b32 x) { ret; }\n.extern .func g;", 0, NULL},
        {HEAD ".global .align 4 .f32 v[2][2] = {{1, 2}, {0f3F800000, 4}};", 0, NULL},
        {HEAD ".global .u64 p = v; .extern .shared .b8 s[];", 0, NULL},
        {HEAD "// words\n/* more\nwords */ .entry a() { L: @!%p bra L; ret; }", 0, NULL},
        {HEAD ".entry a() { .reg .pred p, q; .reg .b32 x, y; { .reg .b64 %rd<3>; ret; } }", 0,
                NULL},
        {"", 1, ".version"},
        {"hello", 1, ".version"},
        {".version six\n", 1, "version number"},
        {".version 6.0\n.target x86\n", 2, "target"},
        {".version 6.0\n.entry a() { ret; }", 2, ".target"},
        {HEAD ".entry a() { ret;", 4, "'}'"},
        {HEAD ".entry a() {\nbogus.u32 %r1;\n}", 5, "instruction"},
        {HEAD ".entry a() { ret }", 4, "';'"},
        {HEAD ".entry a(.param .u99 x) { ret; }", 4, "a type"},
        {HEAD ".entry a(.u32 x) { ret; }", 4, ".param"},
        {HEAD ".entry a() { ret; }\n.entry a() { ret; }", 5, "twice"},
        {HEAD ".entry 7() { ret; }", 4, "a name"},
        {HEAD ".global .u32 v; .global .u32 v;", 4, "twice"},
        {HEAD ".global .u32 v[];", 4, "no size"},
        {HEAD ".global .u32 v[2] = {1, 2, 3};", 4, "room"},
        {HEAD ".global .align 3 .u32 v;", 4, "alignment"},
        {HEAD ".global .b8 v[99999999999999999999];", 4, "too large"},
        {HEAD ".global .b8 v[4000000000][4000000000][4000000000];", 4, "too large"},
        {HEAD ".global .b8 v[1048576][17592186044416];", 4, "too large"},
        {HEAD ".entry a(.param .b8 x[40000]) { ret; }", 4, "too large"},
        {HEAD ".entry a() .maxntid 4096 { ret; }", 4, "4096 threads"},
        {HEAD "/* no end", 4, "comment"},
        {HEAD ".file 1 \"no end", 4, "string"},
        {HEAD "\x01", 4, "byte 0x01"},
        {HEAD "frobnicate", 4, "a directive"},
};

static char *read_file(const char *path, size_t *ret_size)
{
        FILE *file = fopen(path, "re");
        char *text = malloc(1 << 20);

        CHECK(file && text);
        *ret_size = fread(text, 1, 1 << 20, file);
        fclose(file);
        return text;
}

static void check_kernels(const char *text, size_t size)
{
        const struct ptx_variable *variable;
        const struct ptx_entry *entry;
        struct ptx_error error;
        struct ptx_image *image;

        CHECK_EQ(ptx_parse(text, size, &image, &error), 0);
        CHECK_EQ(image->version, 60);
        CHECK_EQ(image->target, 52);
        CHECK_EQ(image->n_entries, 16);
        entry = ptx_find_entry(image, "cleave_params");
        CHECK(entry && entry->n_params == 3);
        CHECK_EQ(entry->params[1].offset, 8);
        CHECK_EQ(entry->params[1].size, 24);
        CHECK_EQ(entry->params[2].offset, 32);
        CHECK_EQ(entry->params_size, 33);
        CHECK_EQ(ptx_find_entry(image, "cleave_local")->local_bytes, 65536);
        CHECK_EQ(ptx_find_entry(image, "cleave_block_sum")->max_threads, 128);
        variable = ptx_find_variable(image, "cleave_words");
        CHECK(variable && variable->size == 32 && variable->init);
        CHECK_EQ(((uint64_t *)variable->init)[3], 4);
        CHECK_EQ(ptx_find_variable(image, "cleave_constant")->space, PTX_CONST);
        CHECK(!ptx_find_entry(image, "nothing") && !ptx_find_variable(image, "nothing"));
        ptx_image_free(image);
}

/* Whatever is done to a good text, it is read or refused with a sentence, and nothing else. */
static void garble(const char *text, size_t size)
{
        static const char bytes[] = "{}()[]<>,;:=.@\"/*%09az\n\x80";
        uint32_t seed = 1;
        unsigned refused = 0;

        for (unsigned i = 0; i < 3000; i++) {
                char *copy = malloc(size);
                struct ptx_error error = {.line = 0};
                struct ptx_image *image;
                size_t length = size;
                int r;

                CHECK(copy);
                memcpy(copy, text, size);
                for (unsigned k = 0; k <= i % 4; k++) {
                        seed = seed * 1664525u + 1013904223u;
                        copy[(seed >> 8) % size] = bytes[(seed >> 3) % (sizeof(bytes) - 1)];
                }
                if (i % 5 == 0)
                        length = (seed >> 4) % size;
                r = ptx_parse(copy, length, &image, &error);
                CHECK(r == 0 || r == -EINVAL);
                if (r == 0)
                        ptx_image_free(image);
                else
                        CHECK(error.line > 0 && error.text[0]);
                refused += r < 0;
                free(copy);
        }
        CHECK(refused > 500 && refused < 3000);
}

int main(int argc, char **argv)
{
        size_t size;
        char *text;

        CHECK_EQ(argc, 2);
        for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
                struct ptx_error error = {.line = 0};
                struct ptx_image *image;
                int r = ptx_parse(table[i].text, strlen(table[i].text), &image, &error);

                if (r == 0)
                        ptx_image_free(image);
                if (r != (table[i].line ? -EINVAL : 0) || error.line != table[i].line ||
                        (table[i].part && !strstr(error.text, table[i].part))) {
                        fprintf(stderr, "text %zu: %d, line %u: %s\n%s\n", i, r, error.line,
                                error.text, table[i].text);
                        return 1;
                }
        }
        text = read_file(argv[1], &size);
        check_kernels(text, size);
        garble(text, size);
        free(text);
        return 0;
}
