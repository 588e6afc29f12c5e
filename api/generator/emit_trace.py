# SPDX-License-Identifier: Apache-2.0
"""Recording and making calls: a library that stands before another and notes what passes, and what
a replay must know to make the same calls again."""

from .marshalling import parameter_rows
from .text import fill, lines

HEADER = '''\
@banner@

#ifndef CLEAVE_@API@_TRACE_H
#define CLEAVE_@API@_TRACE_H

#include "@api@_api.h"
#include "@api@_names.h"
#include "@api@_types.h"
#include "call.h"

/* The arguments and the result of each entry whose prototype is public. The _ptds and _ptsz variants
 * have those of the entry they vary. */

@structures@
/* What kinds of handle there are, beyond those of call.h: each has names of its own. */
enum @api@_space {
        @API@_SPACE_BEFORE_FIRST = CALL_SPACE_FIRST - 1,
@spaces@
        /* From here on they are numbers, and not pointers that a driver may follow. */
        @API@_SPACE_NUMBERS = @numbers@,
};

/* Changes whenever a trace of one description could not be read by another. */
#define @API@_TRACE_DIGEST UINT64_C(0x@digest@)

#pragma GCC visibility push(hidden)
extern const struct call_entry @api@_calls[@API@_ENTRY_COUNT];
@more@#pragma GCC visibility pop

#endif
'''

MORE = '''
/* Calls function, which must be that of the entry, with args, its structure of arguments, and
 * leaves the result there. -EOPNOTSUPP: its prototype is not public. */
int @api@_call(unsigned entry, void *function, void *args);
/* The name of a constant of an enumeration, by the type's name; NULL: it has none. */
const char *@api@_constant(const char *type, int64_t value);
'''

TABLES = '''\
@banner@

#include "@api@_trace.h"

@shapes@
@tables@
static const struct marshal_parameter no_marshal[1];
static const struct call_parameter no_parameters[1];

const struct call_entry @api@_calls[@API@_ENTRY_COUNT] = {
@entries@
};
'''

ENTRIES = '''\
@banner@

#include "@api@_guard_entries.h"
#include "@api@_trace.h"
#include "trace.h"

@wrappers@
'''

WRAPPER = '''\
@prototype@
{
        struct @api@_call_@of@ passed_ = {@initial@};
        struct trace_call call_;

        trace_begin(&call_, @API@_ENTRY_@symbol@, &passed_);
        passed_.returned = CLEAVE_@API@_REAL(@symbol@)(@arguments@);
        trace_end(&call_, &passed_);
        return passed_.returned;
}
'''

CALLS = '''\
@banner@

#include "@api@_trace.h"

#include <errno.h>
#include <string.h>

int @api@_call(unsigned entry, void *function, void *args)
{
        switch (entry) {
@cases@
        }
        return -EOPNOTSUPP;
}

struct constant {
        int64_t value;
        const char *name;
};

@constants@
static const struct {
        const char *type;
        const struct constant *constants;
        unsigned count;
} enumerations[] = {
@enumerations@
};

const char *@api@_constant(const char *type, int64_t value)
{
        for (unsigned i = 0; i < sizeof(enumerations) / sizeof(enumerations[0]); i++) {
                if (strcmp(enumerations[i].type, type) != 0)
                        continue;
                for (unsigned c = 0; c < enumerations[i].count; c++)
                        if (enumerations[i].constants[c].value == value)
                                return enumerations[i].constants[c].name;
        }
        return NULL;
}
'''

CASE = '''\
        case @API@_ENTRY_@symbol@: {
                struct @api@_call_@of@ *a = args;
                a->returned = ((__typeof__(&@symbol@))function)(@arguments@);
                return 0;
        }'''


def recorded(d):
    return [e for e in d.entries if e.parameters is not None]


def _behind(d, name):
    """What a type name stands for: (kind, type): a space's name, `callback`, `host` for a plain
    pointer, or `value` with the type at the end of the aliases."""
    t = d.header.types[name]
    while t.kind == 'alias':
        if t.name in d.device_addresses:
            return 'device', t
        if t.name in d.numbers or t.name in d.handles:
            return t.name, t
        if d.header.is_handle_alias(t):
            return t.of.type.tag, t
        if t.of.function:
            return 'callback', t
        if t.of.stars:
            return 'host', t
        t = t.of.type
    return 'value', t


def _field(d, f, path, certain):
    """The references of one field: (path, space, whether it is not one of a union's)."""
    if f.length:
        return []
    if f.function:
        return [(path, 'function', certain)]
    if f.stars:
        return [(path, 'host', certain)]
    if f.type.name is None or f.type.kind in ('struct', 'union'):
        return _record(d, f.type, path, certain)
    kind, t = _behind(d, f.type.name)
    if kind == 'value':
        return _record(d, t, path, certain) if t.kind in ('struct', 'union') else []
    return [(path, 'function' if kind == 'callback' else kind, certain)]


def _record(d, t, path='', certain=True):
    found = []
    for f in t.fields:
        inner = '.'.join(filter(None, (path, f.name)))
        found += _field(d, f, inner, certain and t.kind != 'union')
    return found


class Shapes:
    """The handles and addresses inside each type, as tables."""

    def __init__(self, d):
        self.d = d
        self.text = []
        self.known = {}

    def of(self, ctype):
        """The index of the shape of a type, 0 for one without handles."""
        if ctype in self.known:
            return self.known[ctype]
        kind, t = _behind(self.d, ctype) if ctype != 'void *' else ('host', None)
        if kind in ('value', 'callback'):
            records = _record(self.d, t) if kind == 'value' and t.kind in ('struct', 'union') else []
            rows = [f'{{offsetof({ctype}, {path}), sizeof((({ctype} *)0)->{path}), '
                    f'{space_constant(space)}, {int(certain)}}}'
                    for path, space, certain in records]
            arrays = self._arrays(ctype, t) if records else []
        else:
            rows, arrays = [f'{{0, sizeof({ctype}), {space_constant(kind)}, 1}}'], []
        if not rows:
            self.known[ctype] = 'NULL'
            return 'NULL'
        name = f'shape_{len(self.known)}'
        self.known[ctype] = f'&{name}'
        if arrays:
            self.text.append(f'static const struct call_array arrays_{name}[] = {{\n'
                             f'{lines(arrays)}\n}};')
        self.text.append(f'static const struct call_reference references_{name}[] = {{\n'
                         f'{lines(rows)}\n}};\n'
                         f'/* {ctype} */\nstatic const struct call_shape {name} = '
                         f'{{references_{name}, {f"arrays_{name}" if arrays else "NULL"}, '
                         f'{len(rows)}, {len(arrays)}}};\n')
        return f'&{name}'

    def _arrays(self, ctype, t):
        rows = []
        for f in t.fields:
            count = self.d.arrays.get(f'{t.name}.{f.name}')
            if count:
                element = f.type.name
                rows.append(f'{{offsetof({ctype}, {f.name}), offsetof({ctype}, {count}), '
                            f'sizeof((({ctype} *)0)->{count}), sizeof({element}), '
                            f'{self.of(element)}}}')
        return rows


def space_constant(space):
    if space in ('host', 'device', 'function'):
        return f'CALL_SPACE_{space.upper()}'
    return f'SPACE_{space}'


def _spaces(d):
    """The kinds of handle; those that are plain numbers last."""
    found = []
    for name, t in d.header.types.items():
        kind = _behind(d, name)[0] if t.kind == 'alias' else 'value'
        if kind not in ('host', 'device', 'value', 'callback') and kind not in found:
            found.append(kind)
    return sorted(found, key=lambda kind: kind in d.numbers)


def _fnv(text):
    value = 0xcbf29ce484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001b3 & (1 << 64) - 1
    return value


def header(d, api):
    structures, digest = [], []
    for e in recorded(d):
        digest.append(e.prototype())
        if e.suffix:
            continue
        fields = [p.declaration() for p in e.parameters] + [f'{e.result} returned']
        structures.append(f'struct {api}_call_{e.symbol} {{\n{lines(fields, "        {};")}\n}};\n')
    # an entry's number, and the layout of the structures, are part of what is read
    digest += [e.symbol for e in d.entries] + [open(d.header.path, encoding='utf-8').read()]
    return fill(HEADER, d, api, structures='\n'.join(structures), more=fill(MORE, d, api),
                spaces=lines(space_constant(s) for s in _spaces(d)),
                numbers=space_constant(next(s for s in _spaces(d) if s in d.numbers)),
                digest=f'{_fnv(chr(10).join(digest)):016x}')


def _what(d, p):
    if p.direction == 'opaque':
        return 'OPAQUE'
    if p.stars:
        return 'ADDRESS' if p.direction == 'address' else 'POINTER'
    kind, t = _behind(d, p.ctype)
    if kind == 'value':
        if t.kind in ('struct', 'union'):
            return 'STRUCTURE'
        if t.kind == 'enum':
            return 'CONSTANT'
        if t.name in ('float', 'double'):
            return 'FLOAT'
        return 'NUMBER'
    return {'device': 'ADDRESS', 'host': 'OPAQUE', 'callback': 'FUNCTION'}.get(kind, 'HANDLE')


def tables(d, api):
    shapes, out, entries = Shapes(d), [], []
    for e in recorded(d):
        if e.suffix or not e.parameters:
            continue
        rows = []
        for p in e.parameters:
            pointed = p.ctype + (' *' if p.stars > 1 else '')
            followed = p.stars and p.direction not in ('address', 'opaque')
            if followed or not p.stars:
                shape = shapes.of('void *' if pointed == 'void *' else p.ctype) \
                    if p.stars <= 1 or pointed == 'void *' else 'NULL'
            else:
                shape = shapes.of('void *') if p.direction == 'address' else 'NULL'
            content = bool(followed and e.cls == 'copy' and p.ctype == 'void' and p.length)
            rows.append(f'{{"{p.name}", "{p.ctype}", CALL_{_what(d, p)}, {int(content)}, '
                        f'{int(p.makes)}, {shape}}}')
        out.append(parameter_rows(e, f'struct {api}_call_{e.symbol}', followed_only=True))
        out.append(f'static const struct call_parameter parameters_{e.symbol}[] = {{\n'
                   f'{lines(rows)}\n}};\n')
    for e in d.entries:
        if e.parameters is None:
            entries.append(f'{{.how = {{.symbol = "{e.symbol}"}}}}')
            continue
        of = (e.of or e).symbol
        args = f'struct {api}_call_{of}'
        table, parameters = ((f'of_{of}', f'parameters_{of}') if e.parameters else
                             ('no_marshal', 'no_parameters'))
        entries.append(f'{{{{"{e.symbol}", {table}, {len(e.parameters)}, sizeof({args}),\n'
                       f'                offsetof({args}, returned), sizeof({e.result})}}, '
                       f'{parameters}}}')
    return fill(TABLES, d, api, shapes='\n'.join(shapes.text), tables='\n'.join(out),
                entries=lines(entries))


def wrappers(d, api):
    out = []
    for e in recorded(d):
        names = [p.name for p in e.parameters]
        initial = ', '.join(f'.{n} = {n}' for n in names)
        out.append(fill(WRAPPER, d, api, prototype=e.prototype(), symbol=e.symbol,
                        of=(e.of or e).symbol, initial=initial or '0',
                        arguments=', '.join(names)))
    return fill(ENTRIES, d, api, wrappers='\n'.join(out))


def calls(d, api):
    cases = [fill(CASE, d, api, symbol=e.symbol, of=(e.of or e).symbol,
                  arguments=', '.join(f'a->{p.name}' for p in e.parameters)) for e in recorded(d)]
    used = sorted({p.ctype for e in recorded(d) for p in e.parameters
                   if not p.stars and _what(d, p) == 'CONSTANT'} | {d.result})
    constants, enumerations = [], []
    for name in used:
        t = _behind(d, name)[1]
        rows = lines(f'{{{c}, "{c}"}}' for c in t.constants)
        constants.append(f'static const struct constant of_{name}[] = {{\n{rows}\n}};\n')
        enumerations.append(f'{{"{name}", of_{name}, sizeof(of_{name}) / sizeof(of_{name}[0])}}')
    return fill(CALLS, d, api, cases='\n'.join(cases), constants='\n'.join(constants),
                enumerations=lines(enumerations))
