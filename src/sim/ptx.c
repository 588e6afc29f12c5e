/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ptx.h"

/* No variable is bigger than the largest device; sizes up to here can be added without overflow. */
#define PTX_SIZE_MAX (1ull << 44)

struct token {
        const char *at;
        size_t length;
        unsigned line;
};

struct parser {
        const char *at, *end;
        unsigned line;
        struct token token; /* the one to be read next; length 0 at the end */
        struct ptx_image *image;
        struct ptx_error *error;
};

/* First words of all instructions that PTX ISA 9.0 knows. */
static const char *const opcodes[] = {"abs", "activemask", "add", "addc", "alloca", "and",
        "applypriority", "atom", "bar", "barrier", "bfe", "bfi", "bfind", "bmsk", "bra", "brev",
        "brkpt", "brx", "call", "clusterlaunchcontrol", "clz", "cnot", "copysign", "cos", "cp",
        "createpolicy", "cvt", "cvta", "discard", "div", "dp2a", "dp4a", "elect", "ex2", "exit",
        "fence", "fma", "fns", "getctarank", "griddepcontrol", "isspacep", "istypep", "ld",
        "ldmatrix", "ldu", "lg2", "lop3", "mad", "mad24", "madc", "mapa", "match", "max",
        "mbarrier", "membar", "min", "mma", "mov", "movmatrix", "mul", "mul24", "multimem",
        "nanosleep", "neg", "not", "or", "pmevent", "popc", "prefetch", "prefetchu", "prmt", "rcp",
        "red", "redux", "rem", "ret", "rsqrt", "sad", "selp", "set", "setmaxnreg", "setp", "shf",
        "shfl", "shl", "shr", "sin", "slct", "sqrt", "st", "stackrestore", "stacksave", "stmatrix",
        "sub", "subc", "suld", "suq", "sured", "sust", "szext", "tanh", "tcgen05", "tensormap",
        "testp", "tex", "tld4", "trap", "txq", "vabsdiff", "vabsdiff2", "vabsdiff4", "vadd",
        "vadd2", "vadd4", "vavrg2", "vavrg4", "vmad", "vmax", "vmax2", "vmax4", "vmin", "vmin2",
        "vmin4", "vote", "vset", "vset2", "vset4", "vshl", "vshr", "vsub", "vsub2", "vsub4",
        "wgmma", "wmma", "xor"};

static int fail(struct parser *p, const char *format, ...)
{
        va_list arguments;

        p->error->line = p->token.line;
        va_start(arguments, format);
        vsnprintf(p->error->text, sizeof(p->error->text), format, arguments);
        va_end(arguments);
        return -EINVAL;
}

static bool is_word(int c)
{
        return isalnum(c) || c == '_' || c == '$' || c == '%' || c == '.';
}

static int skip_space(struct parser *p)
{
        while (p->at < p->end) {
                if (*p->at == '\n') {
                        p->line++;
                        p->at++;
                } else if (isspace((unsigned char)*p->at)) {
                        p->at++;
                } else if (p->end - p->at >= 2 && p->at[0] == '/' && p->at[1] == '/') {
                        while (p->at < p->end && *p->at != '\n')
                                p->at++;
                } else if (p->end - p->at >= 2 && p->at[0] == '/' && p->at[1] == '*') {
                        for (p->at += 2;; p->at++) {
                                if (p->end - p->at < 2) {
                                        p->token.line = p->line;
                                        return fail(p, "comment without an end");
                                }
                                if (p->at[0] == '*' && p->at[1] == '/')
                                        break;
                                p->line += *p->at == '\n';
                        }
                        p->at += 2;
                } else {
                        break;
                }
        }
        return 0;
}

/* Words hold letters, digits and _ $ % . so ".visible", "sm_52", "ld.param.u64", "%tid.x" and
 * "1.5" are one token each; strings are one too; everything else is one character. */
static int next(struct parser *p)
{
        const char *start;
        int r = skip_space(p);

        if (r < 0)
                return r;
        p->token = (struct token){.at = p->at, .line = p->line};
        if (p->at == p->end)
                return 0;
        start = p->at;
        if (*start == '"') {
                do {
                        p->at++;
                        if (p->at >= p->end || *p->at == '\n')
                                return fail(p, "string without an end");
                } while (*p->at != '"');
                p->at++;
        } else if (is_word((unsigned char)*start)) {
                while (p->at < p->end && is_word((unsigned char)*p->at))
                        p->at++;
        } else if (isprint((unsigned char)*start)) {
                p->at++;
        } else {
                return fail(p, "unexpected byte 0x%02x", (unsigned char)*start);
        }
        p->token.length = (size_t)(p->at - start);
        return 0;
}

static bool at_end(const struct parser *p)
{
        return p->token.length == 0;
}

static bool is(const struct parser *p, const char *text)
{
        return p->token.length == strlen(text) && memcmp(p->token.at, text, p->token.length) == 0;
}

static bool starts(const struct parser *p, const char *text)
{
        return p->token.length > strlen(text) && memcmp(p->token.at, text, strlen(text)) == 0;
}

static int unexpected(struct parser *p, const char *wanted)
{
        if (at_end(p))
                return fail(p, "end of the text where %s was expected", wanted);
        return fail(p, "'%.*s' where %s was expected",
                (int)(p->token.length > 64 ? 64 : p->token.length), p->token.at, wanted);
}

static int expect(struct parser *p, const char *text)
{
        char wanted[16];

        if (!is(p, text)) {
                snprintf(wanted, sizeof(wanted), "'%s'", text);
                return unexpected(p, wanted);
        }
        return next(p);
}

static int take_name(struct parser *p, char **ret)
{
        char *name;
        int r;

        if (at_end(p) || isdigit((unsigned char)*p->token.at) || *p->token.at == '.' ||
                !is_word((unsigned char)*p->token.at))
                return unexpected(p, "a name");
        name = calloc(1, p->token.length + 1); /* the text has no end to go by */
        if (!name)
                return -ENOMEM;
        memcpy(name, p->token.at, p->token.length);
        r = next(p);
        if (r < 0) {
                free(name);
                return r;
        }
        *ret = name;
        return 0;
}

static int take_number(struct parser *p, uint64_t *ret)
{
        char text[48];
        bool negative = false;
        char *rest;
        uint64_t value;
        int r;

        if (is(p, "-")) {
                negative = true;
                r = next(p);
                if (r < 0)
                        return r;
        }
        if (at_end(p) || !isdigit((unsigned char)*p->token.at) || p->token.length >= sizeof(text))
                return unexpected(p, "a number");
        memcpy(text, p->token.at, p->token.length);
        text[p->token.length] = 0;
        /* 0fXXXXXXXX and 0dXXXXXXXXXXXXXXXX are the bits of a float and of a double */
        if (text[0] == '0' && strchr("fFdD", text[1]) && text[1])
                value = strtoull(text + 2, &rest, 16);
        else if (text[0] == '0' && (text[1] == 'b' || text[1] == 'B'))
                value = strtoull(text + 2, &rest, 2);
        else
                value = strtoull(text, &rest, 0);
        if (*rest == 'U')
                rest++;
        if (*rest)
                return unexpected(p, "a number");
        *ret = negative ? -value : value;
        return next(p);
}

/* bytes of a fundamental type, 0 if it is none */
static size_t type_size(const struct token *token)
{
        static const struct {
                const char *name;
                size_t size;
        } types[] = {{".b8", 1}, {".u8", 1}, {".s8", 1}, {".b16", 2}, {".u16", 2}, {".s16", 2},
                {".f16", 2}, {".bf16", 2}, {".f16x2", 4}, {".b32", 4}, {".u32", 4}, {".s32", 4},
                {".f32", 4}, {".b64", 8}, {".u64", 8}, {".s64", 8}, {".f64", 8}, {".b128", 16},
                {".texref", 8}, {".samplerref", 8}, {".surfref", 8}};

        for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
                if (token->length == strlen(types[i].name) &&
                        memcmp(token->at, types[i].name, token->length) == 0)
                        return types[i].size;
        return 0;
}

/* One variable as it is declared, whatever its space. */
struct declaration {
        char *name;
        size_t element, size, align;
        bool managed, sized;
};

/* .align 8 .v4 .u32 name[4][2], up to what follows the brackets */
static int take_declaration(struct parser *p, struct declaration *ret)
{
        struct declaration d = {.align = 0};
        size_t vector = 1;
        uint64_t number;
        int r = 0;

        while (!at_end(p) && d.element == 0) {
                if (is(p, ".align")) {
                        r = next(p);
                        if (r == 0)
                                r = take_number(p, &number);
                        if (r < 0)
                                return r;
                        if (number == 0 || (number & (number - 1)) || number > 1024)
                                return fail(p, "alignment %llu", (unsigned long long)number);
                        d.align = number;
                        continue;
                }
                if (is(p, ".attribute")) {
                        r = next(p);
                        while (r == 0 && !at_end(p) && !is(p, ")")) {
                                d.managed |= is(p, ".managed");
                                r = next(p);
                        }
                } else if (is(p, ".v2")) {
                        vector = 2;
                } else if (is(p, ".v4")) {
                        vector = 4;
                } else if (is(p, ".v8")) {
                        vector = 8;
                } else if (!is(p, ".ptr") && !is(p, ".global") && !is(p, ".const")) {
                        d.element = type_size(&p->token);
                        if (d.element == 0)
                                return unexpected(p, "a type");
                }
                if (r == 0)
                        r = next(p);
                if (r < 0)
                        return r;
        }
        /* .param .u64 .ptr .global .align 8 name says what a pointer points at */
        while (is(p, ".ptr") || is(p, ".global") || is(p, ".const") || is(p, ".shared") ||
                is(p, ".local") || is(p, ".align")) {
                bool align = is(p, ".align");

                r = next(p);
                if (r == 0 && align)
                        r = take_number(p, &number);
                if (r < 0)
                        return r;
        }
        d.element *= vector;
        if (d.align == 0)
                d.align = d.element;
        d.size = d.element;
        d.sized = true;
        r = take_name(p, &d.name);
        if (r < 0)
                return r;
        /* .reg .b32 %r<8> */
        if (is(p, "<")) {
                r = next(p);
                if (r == 0)
                        r = take_number(p, &number);
                if (r == 0 && number > 1000000)
                        r = fail(p, "%llu registers", (unsigned long long)number);
                if (r == 0)
                        r = expect(p, ">");
                if (r < 0)
                        goto failed;
                d.size *= number;
        }
        while (is(p, "[")) {
                r = next(p);
                if (r < 0)
                        goto failed;
                if (is(p, "]")) {
                        d.sized = false;
                } else {
                        r = take_number(p, &number);
                        if (r == 0 && d.size && number > PTX_SIZE_MAX / d.size)
                                r = fail(p, "array of %llu elements is too large",
                                        (unsigned long long)number);
                        if (r < 0)
                                goto failed;
                        d.size *= number;
                }
                r = expect(p, "]");
                if (r < 0)
                        goto failed;
        }
        *ret = d;
        return 0;

failed:
        free(d.name);
        return r;
}

/* = 7, = {1, 2}, = {{1, 2}, {3, 4}}. Names of other variables (their addresses) are read as 0. */
static int take_initialiser(struct parser *p, const struct declaration *d, uint8_t *bytes)
{
        size_t filled = 0;
        unsigned depth = 0;
        uint64_t value;
        int r;

        do {
                r = 0;
                if (is(p, "{")) {
                        depth++;
                        r = next(p);
                } else if (is(p, "}") && depth) {
                        depth--;
                        r = next(p);
                } else if (is(p, ",") && depth) {
                        r = next(p);
                } else if (!at_end(p) &&
                           (isalpha((unsigned char)*p->token.at) || *p->token.at == '_')) {
                        char *name = NULL;

                        r = take_name(p, &name);
                        free(name);
                        filled += d->element;
                } else {
                        size_t size = d->element < sizeof(value) ? d->element : sizeof(value);

                        r = take_number(p, &value);
                        if (r == 0 && filled + d->element > d->size)
                                r = fail(p, "more initialisers than '%s' has room for", d->name);
                        if (r == 0)
                                memcpy(bytes + filled, &value, size);
                        filled += d->element;
                }
                if (r < 0)
                        return r;
                if (at_end(p))
                        return unexpected(p, "the end of an initialiser");
        } while (depth || !(is(p, ";") || is(p, ",")));
        return 0;
}

static int add_variable(struct parser *p, enum ptx_space space, bool external)
{
        struct ptx_image *image = p->image;
        struct ptx_variable *grown, variable;
        struct declaration d;
        uint8_t *init = NULL;
        int r = take_declaration(p, &d);

        if (r < 0)
                return r;
        if (is(p, "=")) {
                r = next(p);
                init = r == 0 ? calloc(1, d.size) : NULL;
                if (r == 0)
                        r = init ? take_initialiser(p, &d, init) : -ENOMEM;
        } else if (!d.sized && !external) {
                r = fail(p, "'%s' has no size", d.name);
        }
        if (r == 0 && ptx_find_variable(image, d.name))
                r = fail(p, "'%s' is defined twice", d.name);
        if (r < 0 || external)
                goto done;
        grown = reallocarray(image->variables, image->n_variables + 1, sizeof(*grown));
        if (!grown) {
                r = -ENOMEM;
                goto done;
        }
        image->variables = grown;
        image->variables_size = (image->variables_size + d.align - 1) & ~(d.align - 1);
        variable = (struct ptx_variable){
                .name = d.name,
                .space = space,
                .managed = d.managed,
                .size = d.size,
                .align = d.align,
                .offset = image->variables_size,
                .init = init,
        };
        image->variables_size += d.size;
        if (image->variables_size > PTX_SIZE_MAX) {
                r = fail(p, "the variables are too large");
                goto done;
        }
        grown[image->n_variables++] = variable;
        return expect(p, ";");

done:
        free(d.name);
        free(init);
        return r < 0 ? r : expect(p, ";");
}

static int compare_words(const void *a, const void *b)
{
        return strcmp(a, *(const char *const *)b);
}

/* One statement of a body, up to its semicolon. */
static int check_instruction(struct parser *p)
{
        char word[32];
        size_t length;
        unsigned line;
        int r;

        if (is(p, "@")) {
                r = next(p);
                if (r == 0 && is(p, "!"))
                        r = next(p);
                if (r == 0)
                        r = next(p);
                if (r < 0)
                        return r;
        }
        for (length = 0; length < p->token.length && p->token.at[length] != '.'; length++)
                ;
        if (length == 0 || length >= sizeof(word))
                return unexpected(p, "an instruction");
        memcpy(word, p->token.at, length);
        word[length] = 0;
        if (!bsearch(word, opcodes, sizeof(opcodes) / sizeof(*opcodes), sizeof(*opcodes),
                    compare_words))
                return unexpected(p, "an instruction");
        line = p->token.line;
        do {
                r = next(p);
                if (r < 0)
                        return r;
        } while (!at_end(p) && !is(p, ";") && p->token.line <= line + 64);
        return expect(p, ";");
}

static size_t round_up(size_t value, size_t align)
{
        return (value + align - 1) & ~(align - 1);
}

/* What a body declares and does; entry is NULL in a function. */
static int check_body(struct parser *p, struct ptx_entry *entry)
{
        unsigned depth = 0;
        int r;

        do {
                if (at_end(p))
                        return unexpected(p, "'}'");
                if (is(p, "{")) {
                        depth++;
                        r = next(p);
                } else if (is(p, "}")) {
                        depth--;
                        r = next(p);
                } else if (is(p, ";")) {
                        r = next(p);
                } else if (is(p, ".local") || is(p, ".shared") || is(p, ".reg") ||
                           is(p, ".param")) {
                        bool local = is(p, ".local"), shared = is(p, ".shared"),
                             reg = is(p, ".reg");

                        r = next(p);
                        if (r == 0 && reg && is(p, ".pred")) {
                                while (r == 0 && !at_end(p) && !is(p, ";"))
                                        r = next(p);
                        } else {
                                do {
                                        struct declaration d;

                                        if (r == 0 && is(p, ",")) {
                                                /* further names have the same type */
                                                while (r == 0 && !at_end(p) && !is(p, ";"))
                                                        r = next(p);
                                                break;
                                        }
                                        if (r == 0)
                                                r = take_declaration(p, &d);
                                        if (r < 0)
                                                return r;
                                        if (entry && local)
                                                entry->local_bytes =
                                                        round_up(entry->local_bytes, d.align) +
                                                        d.size;
                                        if (entry && shared && d.sized)
                                                entry->shared_bytes =
                                                        round_up(entry->shared_bytes, d.align) +
                                                        d.size;
                                        if (entry && reg)
                                                entry->registers += (unsigned)((d.size + 3) / 4);
                                        free(d.name);
                                } while (is(p, ","));
                        }
                        if (r == 0)
                                r = expect(p, ";");
                } else if (is(p, ".loc")) {
                        unsigned line = p->token.line;

                        while ((r = next(p)) == 0 && !at_end(p) && p->token.line == line)
                                ;
                } else if (starts(p, ".")) {
                        /* .pragma, .branchtargets, .callprototype, .const ... */
                        do
                                r = next(p);
                        while (r == 0 && !at_end(p) && !is(p, ";"));
                        if (r == 0)
                                r = expect(p, ";");
                } else {
                        struct parser before = *p;

                        r = next(p);
                        if (r == 0 && is(p, ":")) {
                                r = next(p);
                        } else if (r == 0) {
                                *p = before;
                                r = check_instruction(p);
                        }
                }
                if (r < 0)
                        return r;
        } while (depth);
        return 0;
}

static int take_params(struct parser *p, struct ptx_entry *entry)
{
        struct ptx_param *grown;
        struct declaration d;
        int r = expect(p, "(");

        if (r < 0)
                return r;
        while (!is(p, ")")) {
                r = expect(p, ".param");
                if (r == 0)
                        r = take_declaration(p, &d);
                if (r < 0)
                        return r;
                free(d.name);
                grown = reallocarray(entry->params, entry->n_params + 1, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                entry->params = grown;
                entry->params_size = round_up(entry->params_size, d.align);
                grown[entry->n_params].offset = entry->params_size;
                grown[entry->n_params].size = d.size;
                entry->n_params++;
                entry->params_size += d.size;
                if (entry->params_size > 32764)
                        return fail(p, "parameters of '%s' are too large", entry->name);
                if (is(p, ",")) {
                        r = next(p);
                        if (r < 0)
                                return r;
                } else if (!is(p, ")")) {
                        return unexpected(p, "',' or ')'");
                }
        }
        return next(p);
}

/* .maxntid 128, 1, 1 and the like, up to the body */
static int take_directives(struct parser *p, struct ptx_entry *entry)
{
        while (starts(p, ".")) {
                bool threads = is(p, ".maxntid") || is(p, ".reqntid");
                uint64_t number, product = 1;
                int r = next(p);

                while (r == 0 && !at_end(p) && isdigit((unsigned char)*p->token.at)) {
                        r = take_number(p, &number);
                        if (r == 0 && number > 1024 && threads)
                                r = fail(p, "%llu threads", (unsigned long long)number);
                        product *= number ? number : 1;
                        if (r == 0 && is(p, ","))
                                r = next(p);
                }
                if (r == 0 && !at_end(p) && *p->token.at == '"')
                        r = next(p);
                if (r == 0 && is(p, ";"))
                        r = next(p);
                if (r < 0)
                        return r;
                if (threads)
                        entry->max_threads = product > 1024 ? 1024 : (unsigned)product;
        }
        return 0;
}

static void entry_done(struct ptx_entry *entry)
{
        free(entry->name);
        free(entry->params);
}

static int add_entry(struct parser *p)
{
        struct ptx_image *image = p->image;
        struct ptx_entry *grown, entry = {.version = image->version};
        int r = take_name(p, &entry.name);

        if (r == 0 && ptx_find_entry(image, entry.name))
                r = fail(p, "'%s' is defined twice", entry.name);
        if (r == 0 && is(p, "("))
                r = take_params(p, &entry);
        if (r == 0)
                r = take_directives(p, &entry);
        if (r == 0 && is(p, ";")) { /* a declaration alone */
                entry_done(&entry);
                return next(p);
        }
        if (r == 0 && !is(p, "{"))
                r = unexpected(p, "'{'");
        if (r == 0)
                r = check_body(p, &entry);
        if (r == 0) {
                grown = reallocarray(image->entries, image->n_entries + 1, sizeof(*grown));
                if (grown) {
                        image->entries = grown;
                        grown[image->n_entries++] = entry;
                        return 0;
                }
                r = -ENOMEM;
        }
        entry_done(&entry);
        return r;
}

static int skip_function(struct parser *p)
{
        int r = 0;

        while (r == 0 && !at_end(p) && !is(p, "{") && !is(p, ";"))
                r = next(p);
        if (r < 0)
                return r;
        if (is(p, ";"))
                return next(p);
        return check_body(p, NULL);
}

static int take_version(struct parser *p)
{
        unsigned major, minor;
        char text[16];
        int used = 0;

        snprintf(text, sizeof(text), "%.*s", (int)p->token.length, p->token.at);
        if (sscanf(text, "%3u.%3u%n", &major, &minor, &used) != 2 || text[used])
                return unexpected(p, "a version number");
        p->image->version = major * 10 + minor;
        return next(p);
}

static int take_target(struct parser *p)
{
        unsigned target;
        char text[16], suffix = 0;
        int r;

        snprintf(text, sizeof(text), "%.*s", (int)p->token.length, p->token.at);
        if (sscanf(text, "sm_%4u%c", &target, &suffix) < 1)
                return unexpected(p, "a target (sm_NN)");
        p->image->target = target;
        p->image->arch_specific = suffix == 'a';
        r = next(p);
        while (r == 0 && is(p, ",")) {
                r = next(p);
                if (r == 0)
                        r = next(p);
        }
        return r;
}

static int take_toplevel(struct parser *p)
{
        bool external = false;
        int r = 0;

        while (r == 0 &&
                (is(p, ".visible") || is(p, ".extern") || is(p, ".weak") || is(p, ".common"))) {
                external |= is(p, ".extern");
                r = next(p);
        }
        if (r < 0)
                return r;
        if (is(p, ".entry")) {
                r = next(p);
                return r < 0 ? r : add_entry(p);
        }
        if (is(p, ".func")) {
                r = next(p);
                return r < 0 ? r : skip_function(p);
        }
        if (is(p, ".global") || is(p, ".const")) {
                enum ptx_space space = is(p, ".const") ? PTX_CONST : PTX_GLOBAL;

                r = next(p);
                return r < 0 ? r : add_variable(p, space, external);
        }
        if (is(p, ".shared")) {
                do
                        r = next(p);
                while (r == 0 && !at_end(p) && !is(p, ";"));
                return r < 0 ? r : expect(p, ";");
        }
        if (is(p, ".address_size")) {
                r = next(p);
                if (r == 0 && !is(p, "64") && !is(p, "32"))
                        return unexpected(p, "32 or 64");
                return r < 0 ? r : next(p);
        }
        if (is(p, ".file") || is(p, ".loc")) {
                unsigned line = p->token.line;

                while ((r = next(p)) == 0 && !at_end(p) && p->token.line == line)
                        ;
                return r;
        }
        if (is(p, ".section")) {
                while ((r = next(p)) == 0 && !at_end(p) && !is(p, "}"))
                        ;
                return r < 0 ? r : expect(p, "}");
        }
        if (is(p, ".pragma") || is(p, ".alias")) {
                while ((r = next(p)) == 0 && !at_end(p) && !is(p, ";"))
                        ;
                return r < 0 ? r : expect(p, ";");
        }
        if (is(p, ".version")) { /* a second text was appended by the linker */
                r = next(p);
                return r < 0 ? r : take_version(p);
        }
        if (is(p, ".target")) {
                r = next(p);
                return r < 0 ? r : take_target(p);
        }
        return unexpected(p, "a directive");
}

static int parse(struct parser *p)
{
        int r = next(p);

        if (r == 0 && !is(p, ".version"))
                return fail(p, "missing .version directive at start of file");
        if (r == 0)
                r = next(p);
        if (r == 0)
                r = take_version(p);
        if (r == 0)
                r = expect(p, ".target");
        if (r == 0)
                r = take_target(p);
        while (r == 0 && !at_end(p))
                r = take_toplevel(p);
        return r;
}

int ptx_parse(const char *text, size_t size, struct ptx_image **ret, struct ptx_error *ret_error)
{
        struct parser p = {.at = text, .end = text + size, .line = 1, .error = ret_error};
        int r;

        p.image = calloc(1, sizeof(*p.image));
        if (!p.image)
                return -ENOMEM;
        r = parse(&p);
        if (r < 0) {
                ptx_image_free(p.image);
                return r;
        }
        *ret = p.image;
        return 0;
}

struct ptx_image *ptx_image_free(struct ptx_image *image)
{
        if (!image)
                return NULL;
        for (unsigned i = 0; i < image->n_entries; i++)
                entry_done(&image->entries[i]);
        for (unsigned i = 0; i < image->n_variables; i++) {
                free(image->variables[i].name);
                free(image->variables[i].init);
        }
        free(image->entries);
        free(image->variables);
        free(image);
        return NULL;
}

const struct ptx_entry *ptx_find_entry(const struct ptx_image *image, const char *name)
{
        for (unsigned i = 0; i < image->n_entries; i++)
                if (strcmp(image->entries[i].name, name) == 0)
                        return &image->entries[i];
        return NULL;
}

const struct ptx_variable *ptx_find_variable(const struct ptx_image *image, const char *name)
{
        for (unsigned i = 0; i < image->n_variables; i++)
                if (strcmp(image->variables[i].name, name) == 0)
                        return &image->variables[i];
        return NULL;
}
