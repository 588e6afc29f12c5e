#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes one of the files that follow from the description of an API.

    generate.py KIND --description cuda.api --types cuda_types.h [OPTIONS] -o FILE

A mistake in the description is told as FILE:LINE: error: SENTENCE, all of them in one run, and
nothing is written then."""

import argparse
import os
import sys

from generator import (emit_coverage, emit_declarations, emit_guard, emit_names, emit_sim,
                       emit_trace, marshalling)
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


def coverage(d, a):
    hooked = read_list(a.hooks, {e.symbol for e in d.entries})
    simulated, seen = emit_coverage.defined_in(a.sim)
    if a.depfile:
        with open(a.depfile, 'w', encoding='utf-8') as f:
            f.write(f'{a.output}: {" ".join(seen)}\n')
    return emit_coverage.page(d, a.api, hooked, simulated)


def main():
    kinds = {
        'api-header': lambda d, a: emit_declarations.header(d, a.api),
        'coverage': coverage,
        'export-map': lambda d, a: emit_declarations.export_map(d, a.api),
        'names-header': lambda d, a: emit_names.header(d, a.api),
        'names-source': lambda d, a: emit_names.source(d, a.api),
        'guard-header': lambda d, a: emit_guard.header(d, a.api),
        'guard-entries': lambda d, a: emit_guard.assembler(
            d, a.api, read_list(a.hooks, {e.symbol for e in d.entries})),
        'marshal-header': lambda d, a: marshalling.header(d, a.api),
        'marshal-source': lambda d, a: marshalling.source(d, a.api),
        'trace-calls': lambda d, a: emit_trace.calls(d, a.api),
        'trace-header': lambda d, a: emit_trace.header(d, a.api),
        'trace-stubs': lambda d, a: emit_guard.assembler(
            d, a.api, {e.symbol for e in emit_trace.recorded(d)}),
        'trace-tables': lambda d, a: emit_trace.tables(d, a.api),
        'trace-wrappers': lambda d, a: emit_trace.wrappers(d, a.api),
        'sim-defaults': lambda d, a: emit_sim.source(d, a.api),
    }
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('kind', choices=sorted(kinds) + ['check'])
    p.add_argument('--description', required=True)
    p.add_argument('--types', required=True)
    p.add_argument('--hooks')
    p.add_argument('--unmarshalled', help='check this list of what cannot be expressed')
    p.add_argument('--sim', help='the folder of the simulator, for the coverage page')
    p.add_argument('--depfile')
    p.add_argument('-o', '--output')
    a = p.parse_args()
    a.api = os.path.splitext(os.path.basename(a.description))[0]
    if a.kind in ('guard-entries', 'coverage') and not a.hooks:
        p.error(f'{a.kind} needs --hooks')
    if a.kind == 'coverage' and not a.sim:
        p.error('coverage needs --sim')

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
