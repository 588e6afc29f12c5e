# SPDX-License-Identifier: Apache-2.0
"""The table of entries and the look-up that cuGetProcAddress answers from.

Offsets into one string instead of pointers: a library that carries the table needs no relocation
for it at load time."""

from .text import fill, lines, rows, string_table

HEADER = '''\
@banner@

#ifndef CLEAVE_@API@_NAMES_H
#define CLEAVE_@API@_NAMES_H

#include <stdint.h>

/* Every exported symbol, in the order of strcmp. */
enum @api@_entry {
@entries@
        @API@_ENTRY_COUNT
};

enum @api@_class {
@classes@
};

#pragma GCC visibility push(hidden)
/* The symbol of an entry below COUNT; static storage. */
const char *@api@_entry_name(unsigned entry);
/* Its class, as api/@api@.api describes it. */
enum @api@_class @api@_entry_class(unsigned entry);
const char *@api@_class_name(enum @api@_class class_);
/* The entry with exactly this symbol, or -ENOENT. */
int @api@_entry_by_symbol(const char *symbol);
@find@#pragma GCC visibility pop

#endif
'''

FIND_HEADER = '''
/* What cuGetProcAddress(name, version, flags) resolves to: of the entries that the base name has
 * had, the newest that is not newer than version. flags is 0 or 1 for the legacy default stream,
 * and 2 or 3 for the per-thread one: then a name that has _ptds or _ptsz variants is answered from
 * those alone. Returns an entry, -ENOENT, or -EINVAL for other flags. ret_status (may be NULL) is
 * set to a value of CUdriverProcAddressQueryResult: 0 found, 1 the name is unknown, 2 the name is
 * younger than version; it is untouched with -EINVAL.
 *
 * What driver 580.159.04 does besides, as measured over every name, version and flag: other flags,
 * and versions newer than its own, are CUDA_ERROR_INVALID_VALUE with nothing written. For what is
 * not found, cuGetProcAddress answers CUDA_ERROR_NOT_FOUND and leaves the pointer alone, while
 * cuGetProcAddress_v2 answers CUDA_SUCCESS with a NULL pointer, whether or not a status is asked
 * for; an empty name is unknown like any other. */
int @api@_entry_find(const char *name, int version, uint64_t flags, int *ret_status);
'''

SOURCE = '''\
@banner@

#include "@api@_names.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

static const char text[] =
@text@;

static const uint16_t symbol_at[@API@_ENTRY_COUNT] = {
@symbol_at@
};

static const uint8_t class_of[@API@_ENTRY_COUNT] = {
@class_of@
};

const char *@api@_entry_name(unsigned entry)
{
        return text + symbol_at[entry];
}

enum @api@_class @api@_entry_class(unsigned entry)
{
        return (enum @api@_class)class_of[entry];
}

const char *@api@_class_name(enum @api@_class class_)
{
        switch (class_) {
@class_names@
        }
        return NULL;
}

int @api@_entry_by_symbol(const char *symbol)
{
        unsigned low = 0, high = @API@_ENTRY_COUNT;
        while (low < high) {
                unsigned middle = (low + high) / 2;
                int order = strcmp(symbol, @api@_entry_name(middle));
                if (order == 0)
                        return (int)middle;
                if (order < 0)
                        high = middle;
                else
                        low = middle + 1;
        }
        return -ENOENT;
}
@find@'''

FIND_SOURCE = '''
/* The entries of each base name: the legacy ones by rising version, then the per-thread ones by
 * rising version. */
static const struct service {
        uint32_t version : 31;
        uint32_t per_thread : 1;
        uint32_t entry;
} services[] = {
@services@
};

static const struct base {
        uint16_t name_at;
        uint16_t first;
        uint16_t count;
} bases[] = {
@bases@
};

static const struct base *find_base(const char *name)
{
        size_t low = 0, high = sizeof(bases) / sizeof(bases[0]);
        while (low < high) {
                size_t middle = (low + high) / 2;
                int order = strcmp(name, text + bases[middle].name_at);
                if (order == 0)
                        return &bases[middle];
                if (order < 0)
                        high = middle;
                else
                        low = middle + 1;
        }
        return NULL;
}

int @api@_entry_find(const char *name, int version, uint64_t flags, int *ret_status)
{
        enum { FOUND, UNKNOWN, TOO_YOUNG } status = UNKNOWN;
        int found = -ENOENT;

        if (flags > 3)
                return -EINVAL;
        const struct base *base = find_base(name);
        unsigned first = base ? base->first : 0;
        unsigned end = base ? first + base->count : 0;
        unsigned per_thread = (flags & 2) && base && services[end - 1].per_thread;
        for (unsigned i = first; i < end; i++) {
                const struct service *s = &services[i];
                if (s->per_thread == per_thread && version >= 0 && s->version <= (unsigned)version)
                        found = (int)s->entry;
        }
        if (base)
                status = found >= 0 ? FOUND : TOO_YOUNG;
        if (ret_status)
                *ret_status = (int)status;
        return found;
}
'''


def header(d, api):
    find = fill(FIND_HEADER, d, api) if d.versioned else ''
    return fill(HEADER, d, api, find=find,
                entries=lines(f'{api.upper()}_ENTRY_{e.symbol}' for e in d.entries),
                classes=lines(f'{api.upper()}_CLASS_{c.upper()}' for c in d.classes))


def source(d, api):
    functions = sorted(d.functions, key=lambda f: f.name)
    offsets, text = string_table([e.symbol for e in d.entries] + [f.name for f in functions])
    names = lines((f'case {api.upper()}_CLASS_{c.upper()}:\n                return "{c}";'
                   for c in d.classes), '        {}')
    return fill(SOURCE, d, api, text=text, class_names=names,
                symbol_at=rows([offsets[e.symbol] for e in d.entries]),
                class_of=rows([d.classes.index(e.cls) for e in d.entries], 24),
                find=_find(d, api, functions, offsets) if d.versioned else '')


def _find(d, api, functions, offsets):
    services, bases = [], []
    for f in functions:
        first = len(services)
        served = sorted((e for e in f.entries if e.version is not None), key=lambda e: e.version)
        services += [(e, 0) for e in served if not e.suffix]
        services += [(e, 1) for e in served if e.suffix]
        if served:
            bases.append((offsets[f.name], first, len(services) - first))
    return fill(FIND_SOURCE, d, api,
                services=lines((f'{{{e.version}, {per_thread}, {e.index}}}, /* {e.symbol} */'
                                for e, per_thread in services), '        {}'),
                bases=lines((f'{{{name}, {first}, {count}}}' for name, first, count in bases)))
