# SPDX-License-Identifier: Apache-2.0
"""The coverage page: every entry with its class and versions, and who does what about it."""

import os
import re

from .marshalling import obstacles
from .text import fill, lines

_DEFINITION = re.compile(
    r'^(?:CUresult|nvmlReturn_t|const char \*)\s*((?:cu|nvml)[A-Z]\w*)\(', re.M)


def defined_in(folder):
    """The entries that the C files of a folder define, and everything looked at for that."""
    symbols, seen = set(), []
    for path, folders, names in sorted(os.walk(folder)):
        seen.append(path)
        for name in sorted(names):
            if name.endswith('.c'):
                seen.append(os.path.join(path, name))
                with open(seen[-1], encoding='utf-8') as f:
                    text = f.read()
                for m in _DEFINITION.finditer(text):
                    tail = text[m.end():]
                    end = re.search(r'[;{]', tail)
                    if end and end.group() == '{':
                        symbols.add(m.group(1))
    return symbols, seen


HEAD = '''\
# Coverage of the @title@

Generated from `api/@api@.api`, the guard's `@hooks@` and the sources of `src/sim`.

- **class**: what the description says the entry does.
- **guard**: `answers` where the guard has its own code, `passes on` where the entry is one jump to
  the real library. Device memory is limited where the driver asks the kernel for it, not at each
  entry.
- **simulator**: `yes` where the simulated GPU implements it; otherwise it answers not supported.
- **message**: whether a call can cross as a flat message.

| | entries |
|---|---|
@totals@
'''

REST = '''
## Exported without a description

The guard passes them on, the simulator answers not supported.

@names@
'''


def page(d, api, hooked, simulated):
    described = [e for e in d.entries if e.cls != 'undescribed']
    crossing = {e for e in described if not obstacles(d, e.of or e)}
    totals = [('exported', len(d.entries))]
    totals += [(f'of class {c}', sum(e.cls == c for e in d.entries)) for c in d.classes]
    totals += [('answered by the guard', len(hooked)),
               ('implemented by the simulator', sum(_simulated(e, simulated) for e in d.entries)),
               ('that can cross as a message', len(crossing))]
    out = fill(HEAD, d, api, title={'cuda': 'CUDA driver API', 'nvml': 'NVML'}[api],
               hooks='src/guard/hooks.list' if api == 'cuda' else f'src/guard/{api}_hooks.list',
               totals=lines((f'| {what} | {n} |' for what, n in totals), '{}'))
    section = None
    for f in d.functions:
        if f.cls == 'undescribed':
            continue
        if f.section != section:
            section = f.section
            columns = ['entry'] + ['since'] * d.versioned
            columns += ['class', 'guard', 'simulator', 'message']
            out += f'\n## {section}\n\n| {" | ".join(columns)} |\n{"|---" * len(columns)}|\n'
        for e in f.entries:
            cells = [e.symbol] + [_version(e.version)] * d.versioned
            cells += [e.cls, 'answers' if e.symbol in hooked else 'passes on',
                      'yes' if _simulated(e, simulated) else 'no',
                      'yes' if e in crossing else 'no']
            out += f'| {" | ".join(cells)} |\n'
    rest = [e.symbol for e in d.entries if e.cls == 'undescribed']
    if rest:
        names = (f'- {s}' + (' (answered by the guard)' if s in hooked else '') for s in rest)
        out += fill(REST, d, api, names=lines(names, '{}'))
    return out


def _simulated(e, simulated):
    """A per-thread variant is made from the entry it varies, unless it has its own definition."""
    return e.symbol in simulated or (e.of is not None and e.of.symbol in simulated)


def _version(version):
    return '' if version is None else f'{version // 1000}.{version % 1000 // 10}'
