#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes one of the files that follow from the description of an API.

    generate.py KIND --description cuda.api --types cuda_types.h [--hooks hooks.list] -o FILE

A mistake in the description is told as FILE:LINE: error: SENTENCE, all of them in one run, and
nothing is written then."""

import argparse
import os
import sys

from generator import emit_declarations, emit_guard, emit_names, emit_sim, marshalling
from generator.description import Description
from generator.errors import DescriptionError


def read_list(path, known):
    """A list of symbols, one a line, # comments; each must be one of the known."""
    names, errors = [], []
    for number, line in enumerate(open(path, encoding='utf-8'), 1):
        name = line.split('#')[0].strip()
        if not name:
            continue
        if name not in known:
            errors.append(f'{path}:{number}: error: no exported symbol {name!r}')
        elif name in names:
            errors.append(f'{path}:{number}: error: {name} stands twice')
        names.append(name)
    if errors:
        raise SystemExit('\n'.join(errors))
    return set(names)


def main():
    kinds = {
        'api-header': lambda d, a: emit_declarations.header(d, a.api),
        'export-map': lambda d, a: emit_declarations.export_map(d),
        'names-header': lambda d, a: emit_names.header(d, a.api),
        'names-source': lambda d, a: emit_names.source(d, a.api),
        'guard-header': lambda d, a: emit_guard.header(d, a.api),
        'guard-entries': lambda d, a: emit_guard.assembler(
            d, a.api, read_list(a.hooks, {e.symbol for e in d.entries})),
        'marshal-header': lambda d, a: marshalling.header(d, a.api),
        'marshal-source': lambda d, a: marshalling.source(d, a.api),
        'sim-defaults': lambda d, a: emit_sim.source(d, a.api),
    }
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('kind', choices=sorted(kinds) + ['check'])
    p.add_argument('--description', required=True)
    p.add_argument('--types', required=True)
    p.add_argument('--hooks')
    p.add_argument('--unmarshalled', help='check this list of what cannot be expressed')
    p.add_argument('-o', '--output')
    a = p.parse_args()
    a.api = os.path.splitext(os.path.basename(a.description))[0]
    if a.kind == 'guard-entries' and not a.hooks:
        p.error('guard-entries needs --hooks')

    try:
        d = Description(a.description, a.types)
    except DescriptionError as e:
        sys.exit(str(e))
    errors = d.errors
    if a.unmarshalled and not errors:
        errors = marshalling.read_unmarshalled(a.unmarshalled, d)
    if errors:
        sys.exit('\n'.join(errors))
    if a.kind == 'check':
        return
    text = kinds[a.kind](d, a)
    if a.output:
        with open(a.output, 'w', encoding='utf-8') as f:
            f.write(text)
    else:
        sys.stdout.write(text)


if __name__ == '__main__':
    main()
