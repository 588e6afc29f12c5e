# SPDX-License-Identifier: Apache-2.0
"""Which entries can cross as flat messages, and the tables by which they do."""

from .text import fill, lines


HEADER = '''\
@banner@

#ifndef CLEAVE_@API@_MARSHAL_H
#define CLEAVE_@API@_MARSHAL_H

#include "@api@_names.h"
#include "@api@_types.h"
#include "marshal.h"

/* The arguments and the result of each entry that can cross as a message. The _ptds and _ptsz
 * variants have those of the entry they vary. */

@structures@
#pragma GCC visibility push(hidden)
extern const struct marshal_entry @api@_marshal[@API@_ENTRY_COUNT];
#pragma GCC visibility pop

#endif
'''

SOURCE = '''\
@banner@

#include "@api@_marshal.h"

@tables@
static const struct marshal_parameter nothing[1];

const struct marshal_entry @api@_marshal[@API@_ENTRY_COUNT] = {
@entries@
};
'''

_TERM = {'number': 'NUMBER', 'value': 'PARAMETER', 'pointee': 'POINTEE'}


def obstacles(d, entry):
    """What the description does not express of an entry, as (parameter, reason) pairs."""
    if entry.parameters is None:
        return [('...', 'prototype')]
    found = []
    for p in entry.parameters:
        inner = d.inner_pointers(p.ctype)
        if p.direction == 'opaque':
            found.append((p.name, 'opaque'))
        elif p.direction == 'address':
            continue
        elif inner == ['()']:
            found.append((p.name, 'callback'))
        elif inner:
            found.append((p.name, 'pointers'))
    if '*' in entry.result:
        found.append(('returns', 'pointers'))
    return found


def read_unmarshalled(path, d):
    """Checks the list of what is not expressed against the description; returns the mistakes."""
    listed, errors = {}, []
    number = 0
    for number, line in enumerate(open(path, encoding='utf-8'), 1):
        text = line.split('#')[0].strip()
        if not text:
            continue
        symbol, _, rest = text.partition(':')
        if symbol in listed:
            errors.append(f'{path}:{number}: error: {symbol} stands twice')
        listed[symbol] = ([w.strip() for w in rest.split(',')], number)
    expected = {}
    for e in d.entries:
        if not e.suffix and e.cls != 'undescribed':
            found = obstacles(d, e)
            if found:
                expected[e.symbol] = [name for name, _ in found]
    for symbol, (names, line) in listed.items():
        if symbol not in {e.symbol for e in d.entries}:
            errors.append(f'{path}:{line}: error: no exported symbol {symbol!r}')
        elif symbol not in expected:
            errors.append(f'{path}:{line}: error: {symbol} can be expressed')
        elif names != expected[symbol]:
            errors.append(f'{path}:{line}: error: {symbol} lacks {", ".join(expected[symbol])}, '
                          f'not {", ".join(names)}')
    for symbol, names in expected.items():
        if symbol not in listed:
            errors.append(f'{path}:{number}: error: {symbol} is missing, it cannot be expressed: '
                          f'{", ".join(names)}')
    return errors


def _expressed(d):
    return [e for e in d.entries if not e.suffix and not obstacles(d, e)]


def header(d, api):
    structures = []
    for e in _expressed(d):
        fields = [p.declaration() for p in e.parameters] + [f'{e.result} returned']
        structures.append(f'struct {api}_args_{e.symbol} {{\n{lines(fields, "        {};")}\n}};\n')
    return fill(HEADER, d, api, structures='\n'.join(structures))


def source(d, api):
    expressed = {e.symbol for e in _expressed(d)}
    tables = [_parameters(e, api) for e in d.entries if e.symbol in expressed and e.parameters]
    entries = []
    for e in d.entries:
        of = (e.of or e).symbol
        args = f'struct {api}_args_{of}'
        if of not in expressed:
            entries.append(f'{{.symbol = "{e.symbol}"}}')
        else:
            table = f'of_{of}' if e.parameters else 'nothing'
            entries.append(f'{{"{e.symbol}", {table}, {len(e.parameters)}, sizeof({args}),\n'
                           f'                offsetof({args}, returned), sizeof({e.result})}}')
    return fill(SOURCE, d, api, tables='\n'.join(tables), entries=lines(entries))


def _parameters(e, api):
    return parameter_rows(e, f'struct {api}_args_{e.symbol}')


def parameter_rows(e, args, followed_only=False):
    """The table of an entry's parameters, of_SYMBOL; args is its structure of arguments. With
    followed_only, pointers that the description cannot follow cross as plain addresses."""
    index = {p.name: i for i, p in enumerate(e.parameters)}
    numbers = {value for p in e.parameters for _, kind, value in p.length or () if kind != 'number'}
    rows = []
    for p in e.parameters:
        field = f'(({args} *)0)->{p.name}'
        kind, unit, element, align = 'VALUE', 'ONE', '0', '1'
        if p.stars and p.direction != 'address' and not (followed_only and p.direction == 'opaque'):
            kind = p.direction.upper()
            unit = 'STRING' if p.string else (p.length_unit or 'one').upper()
            pointed = p.ctype + ' *' * (p.stars - 1)
            element = '1' if pointed == 'void' else f'sizeof({pointed})'
            align = '1' if pointed == 'void' else f'_Alignof({pointed})'
        signed = f'({p.ctype})-1 < 1' if p.name in numbers else '0'
        terms = ', '.join(f'{{MARSHAL_{_TERM[term]}, {sign}1, '
                          f'{value if term == "number" else index[value]}}}'
                          for sign, term, value in p.length or ()) or '{0, 0, 0}'
        rows.append(f'{{offsetof({args}, {p.name}), sizeof({field}), {element}, {align},\n'
                    f'                MARSHAL_{kind}, MARSHAL_{unit}, {signed}, '
                    f'{len(p.length or ())}, {{{terms}}}}}')
    return f'static const struct marshal_parameter of_{e.symbol}[] = {{\n{lines(rows)}\n}};\n'
