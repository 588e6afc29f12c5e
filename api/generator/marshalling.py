# SPDX-License-Identifier: Apache-2.0
"""Which entries can cross as flat messages, and the tables by which they do."""

from .text import banner


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
    up = api.upper()
    out = [banner(d), f'#ifndef CLEAVE_{up}_MARSHAL_H', f'#define CLEAVE_{up}_MARSHAL_H', '',
           f'#include "{api}_names.h"', f'#include "{api}_types.h"', '#include "marshal.h"', '',
           '/* The arguments and the result of each entry that can cross as a message. The _ptds and',
           ' * _ptsz variants have those of the entry they vary. */']
    for e in _expressed(d):
        out += ['', f'struct {api}_args_{e.symbol} {{']
        out += [f'        {p.declaration()};' for p in e.parameters]
        out += [f'        {e.result} returned;', '};']
    out += ['', '#pragma GCC visibility push(hidden)',
            f'extern const struct marshal_entry {api}_marshal[{up}_ENTRY_COUNT];',
            '#pragma GCC visibility pop', '', '#endif', '']
    return '\n'.join(out)


def source(d, api):
    up = api.upper()
    out = [banner(d), f'#include "{api}_marshal.h"', '']
    expressed = _expressed(d)
    for e in expressed:
        if e.parameters:
            out += _parameters(e, api)
    symbols = {e.symbol for e in expressed}
    out += ['static const struct marshal_parameter nothing[1];', '',
            f'const struct marshal_entry {api}_marshal[{up}_ENTRY_COUNT] = {{']
    for e in d.entries:
        of = (e.of or e).symbol
        if of not in symbols:
            out += [f'        {{.symbol = "{e.symbol}"}},']
            continue
        table = f'of_{of}' if e.parameters else 'nothing'
        args = f'struct {api}_args_{of}'
        out += [f'        {{"{e.symbol}", {table}, {len(e.parameters)}, sizeof({args}),',
                f'                offsetof({args}, returned), sizeof({e.result})}},']
    out += ['};', '']
    return '\n'.join(out)


def _parameters(e, api):
    args = f'struct {api}_args_{e.symbol}'
    index = {p.name: i for i, p in enumerate(e.parameters)}
    counts = {value for p in e.parameters for _, kind, value in p.length or () if kind != 'number'}
    out = [f'static const struct marshal_parameter of_{e.symbol}[] = {{']
    for p in e.parameters:
        is_pointer = p.stars and p.direction != 'address'
        element = p.ctype + (' ' + '*' * (p.stars - 1) if p.stars > 1 else '')
        kind = f'MARSHAL_{p.direction.upper()}' if is_pointer else 'MARSHAL_VALUE'
        unit = ('STRING' if p.string else (p.length_unit or 'one').upper()) if is_pointer else 'ONE'
        sizes = '0, 1'
        if is_pointer:
            sizes = '1, 1' if p.ctype == 'void' and p.stars == 1 else f'sizeof({element}), _Alignof({element})'
        signed = f'({p.ctype})-1 < 1' if p.name in counts else '0'
        terms = []
        for sign, term, value in p.length or ():
            number = value if term == 'number' else index[value]
            name = {'number': 'NUMBER', 'value': 'PARAMETER', 'pointee': 'POINTEE'}[term]
            terms.append(f'{{MARSHAL_{name}, {sign}1, {number}}}')
        out += [f'        {{offsetof({args}, {p.name}), sizeof((({args} *)0)->{p.name}),',
                f'                {sizes}, {kind}, MARSHAL_{unit}, {signed}, {len(terms)}, '
                f'{{{", ".join(terms) or "{0, 0, 0}"}}}}},']
    return out + ['};', '']
