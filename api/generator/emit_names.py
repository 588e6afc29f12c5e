# SPDX-License-Identifier: Apache-2.0
"""The table of entries and the look-up that cuGetProcAddress answers from.

Offsets into one string instead of pointers: a library that carries the table needs no relocation
for it at load time."""

from .text import banner, rows, string_table


def header(d, api):
    up = api.upper()
    out = [banner(d), f'#ifndef CLEAVE_{up}_NAMES_H', f'#define CLEAVE_{up}_NAMES_H', '',
           '#include <stdint.h>', '',
           '/* Every exported symbol, in the order of strcmp. */', f'enum {api}_entry {{']
    out += [f'        {up}_ENTRY_{e.symbol},' for e in d.entries]
    out += [f'        {up}_ENTRY_COUNT', '};', '', f'enum {api}_class {{']
    out += [f'        {up}_CLASS_{c.upper()},' for c in d.classes]
    out += ['};', '',
            '#pragma GCC visibility push(hidden)',
            '/* The symbol of an entry below COUNT; static storage. */',
            f'const char *{api}_entry_name(unsigned entry);',
            '/* Its class, as api/' + f'{api}.api describes it. */',
            f'enum {api}_class {api}_entry_class(unsigned entry);',
            f'const char *{api}_class_name(enum {api}_class class_);',
            '/* The entry with exactly this symbol, or -ENOENT. */',
            f'int {api}_entry_by_symbol(const char *symbol);']
    if d.versioned:
        out += ['',
                '/* What cuGetProcAddress(name, version, flags) resolves to: of the entries that the',
                ' * base name has had, the newest that is not newer than version. flags is 0 or 1 for',
                ' * the legacy default stream, and 2 or 3 for the per-thread one: then a name that has',
                ' * _ptds or _ptsz variants is answered from those alone. Returns an entry, -ENOENT,',
                ' * or -EINVAL for other flags. ret_status (may be NULL) is set to a value of',
                ' * CUdriverProcAddressQueryResult: 0 found, 1 the name is unknown, 2 the name is',
                ' * younger than version; it is untouched with -EINVAL. A driver also refuses versions',
                ' * newer than its own (CUDA_ERROR_INVALID_VALUE), which is the caller\'s to do.',
                ' * Measured on driver 580.159.04 over every name, version and flag. */',
                f'int {api}_entry_find(const char *name, int version, uint64_t flags, int *ret_status);']
    out += ['#pragma GCC visibility pop', '', '#endif', '']
    return '\n'.join(out)


def source(d, api):
    up = api.upper()
    functions = sorted((f for f in d.functions), key=lambda f: f.name)
    offsets, text = string_table([e.symbol for e in d.entries] + [f.name for f in functions])
    out = [banner(d), f'#include "{api}_names.h"', '', '#include <errno.h>',
           '#include <stddef.h>', '#include <string.h>', '',
           'static const char text[] =', text + ';', '',
           f'static const uint16_t symbol_at[{up}_ENTRY_COUNT] = {{',
           rows([offsets[e.symbol] for e in d.entries]), '};', '',
           f'static const uint8_t class_of[{up}_ENTRY_COUNT] = {{',
           rows([d.classes.index(e.cls) for e in d.entries], 24), '};', '',
           f'const char *{api}_entry_name(unsigned entry)', '{',
           '        return text + symbol_at[entry];', '}', '',
           f'enum {api}_class {api}_entry_class(unsigned entry)', '{',
           f'        return (enum {api}_class)class_of[entry];', '}', '',
           f'const char *{api}_class_name(enum {api}_class class_)', '{',
           '        switch (class_) {']
    for c in d.classes:
        out += [f'        case {up}_CLASS_{c.upper()}:', f'                return "{c}";']
    out += ['        }', '        return NULL;', '}', '',
            f'int {api}_entry_by_symbol(const char *symbol)', '{',
            f'        unsigned low = 0, high = {up}_ENTRY_COUNT;',
            '        while (low < high) {',
            '                unsigned middle = (low + high) / 2;',
            f'                int order = strcmp(symbol, {api}_entry_name(middle));',
            '                if (order == 0)',
            '                        return (int)middle;',
            '                if (order < 0)',
            '                        high = middle;',
            '                else',
            '                        low = middle + 1;',
            '        }',
            '        return -ENOENT;', '}', '']
    if d.versioned:
        out += [_find(d, api, functions, offsets)]
    return '\n'.join(out)


def _find(d, api, functions, offsets):
    services, bases = [], []
    for f in functions:
        first = len(services)
        served = [e for e in f.entries if e.version is not None]
        for e in sorted((e for e in served if not e.suffix), key=lambda e: e.version):
            services.append((e, 0))
        for e in sorted((e for e in served if e.suffix), key=lambda e: e.version):
            services.append((e, 1))
        if len(services) > first:
            bases.append((f, first, len(services) - first))
    out = ['/* The entries of each base name: the legacy ones by rising version, then the per-thread',
           ' * ones by rising version. */',
           'struct service {', '        uint32_t version : 31;', '        uint32_t per_thread : 1;',
           '        uint32_t entry;', '};', '',
           'static const struct service services[] = {']
    out += [f'        {{{e.version}, {t}, {e.index}}}, /* {e.symbol} */' for e, t in services]
    out += ['};', '', 'static const struct base {', '        uint16_t name_at;',
            '        uint16_t first;', '        uint16_t count;', '} bases[] = {']
    out += [f'        {{{offsets[f.name]}, {first}, {count}}},' for f, first, count in bases]
    out += ['};', '',
            'static const struct base *find_base(const char *name)', '{',
            '        size_t low = 0, high = sizeof(bases) / sizeof(bases[0]);',
            '        while (low < high) {',
            '                size_t middle = (low + high) / 2;',
            '                int order = strcmp(name, text + bases[middle].name_at);',
            '                if (order == 0)',
            '                        return &bases[middle];',
            '                if (order < 0)',
            '                        high = middle;',
            '                else',
            '                        low = middle + 1;',
            '        }',
            '        return NULL;', '}', '',
            f'int {api}_entry_find(const char *name, int version, uint64_t flags, int *ret_status)',
            '{',
            '        enum { FOUND, UNKNOWN, TOO_YOUNG } status = UNKNOWN;',
            '        int found = -ENOENT;', '',
            '        if (flags > 3)',
            '                return -EINVAL;',
            '        const struct base *base = find_base(name);',
            '        unsigned first = base ? base->first : 0;',
            '        unsigned end = base ? first + base->count : 0;',
            '        unsigned per_thread = (flags & 2) && base && services[end - 1].per_thread;',
            '        for (unsigned i = first; i < end; i++) {',
            '                const struct service *s = &services[i];',
            '                if (s->per_thread == per_thread && version >= 0 &&',
            '                        s->version <= (unsigned)version)',
            '                        found = (int)s->entry;',
            '        }',
            '        if (base)',
            '                status = found >= 0 ? FOUND : TOO_YOUNG;',
            '        if (ret_status)',
            '                *ret_status = (int)status;',
            '        return found;', '}', '']
    return '\n'.join(out)
