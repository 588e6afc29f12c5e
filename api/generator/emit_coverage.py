# SPDX-License-Identifier: Apache-2.0
"""The coverage page: every entry with its class and versions, and who does what about it."""

import os
import re

from .marshalling import obstacles

_DEFINITION = re.compile(r'^(?:CUresult|nvmlReturn_t|const char \*)\s*((?:cu|nvml)[A-Z]\w*)\(', re.M)


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


def page(d, api, hooked, simulated):
    title = {'cuda': 'CUDA driver API', 'nvml': 'NVML'}[api]
    described = [e for e in d.entries if e.cls != 'undescribed']
    own = [e for e in described if not e.suffix]
    crossing = [e for e in own if not obstacles(d, e)]
    out = [f'# Coverage of the {title}', '',
           f'Generated from `api/{api}.api`, the guard\'s `{_hooks_name(api)}` and the sources of '
           '`src/sim`.', '',
           '- **class**: what the description says the entry does.',
           '- **guard**: `answers` where the guard has its own code, `passes on` where the entry is '
           'one jump to the',
           '  real library. Device memory is limited where the driver asks the kernel for it, not at '
           'each entry.',
           '- **simulator**: `yes` where the simulated GPU implements it; otherwise it answers not '
           'supported.',
           '- **message**: whether a call can cross as a flat message.', '',
           '| | entries |', '|---|---|', f'| exported | {len(d.entries)} |']
    if len(described) != len(d.entries):
        out += [f'| described | {len(described)} |']
    for c in d.classes:
        n = sum(e.cls == c for e in d.entries)
        out += [f'| of class {c} | {n} |']
    out += [f'| answered by the guard | {len(hooked)} |',
            f'| implemented by the simulator | {sum(_simulated(e, simulated) for e in d.entries)} |',
            f'| that can cross as a message | {sum((e.of or e) in crossing for e in described)} |', '']
    section = None
    for f in d.functions:
        if f.cls == 'undescribed':
            continue
        if f.section != section:
            section = f.section
            out += ['', f'## {section}', '']
            if d.versioned:
                out += ['| entry | since | class | guard | simulator | message |', '|---|---|---|---|---|---|']
            else:
                out += ['| entry | class | guard | simulator | message |', '|---|---|---|---|---|']
        for e in f.entries:
            since = f'{_version(e.version)} | ' if d.versioned else ''
            out += [f'| {e.symbol} | {since}{e.cls} | '
                    f'{"answers" if e.symbol in hooked else "passes on"} | '
                    f'{"yes" if _simulated(e, simulated) else "no"} | '
                    f'{"yes" if (e.of or e) in crossing else "no"} |']
    rest = [e.symbol for e in d.entries if e.cls == 'undescribed']
    if rest:
        out += ['', '## Exported without a description', '',
                'The guard passes them on, the simulator answers not supported.', '']
        out += [f'- {s}' + (' (answered by the guard)' if s in hooked else '') for s in rest]
    return '\n'.join(out) + '\n'


def _hooks_name(api):
    return 'src/guard/hooks.list' if api == 'cuda' else f'src/guard/{api}_hooks.list'


def _simulated(e, simulated):
    """A per-thread variant is made from the entry it varies, unless it has its own definition."""
    return e.symbol in simulated or (e.of is not None and e.of.symbol in simulated)


def _version(version):
    return '' if version is None else f'{version // 1000}.{version % 1000 // 10}'
