# SPDX-License-Identifier: Apache-2.0
"""The header that declares every exported symbol, and the linker's export list."""

from .text import banner


def header(d, api):
    guard = f'CLEAVE_{api.upper()}_API_H'
    out = [banner(d), f'#ifndef {guard}', f'#define {guard}', '', f'#include "{api}_types.h"', '',
           '/* No renaming macros: each symbol has the ABI of its own age. A symbol whose prototype',
           ' * is not public stands as taking no arguments, and can only be passed on. */', '',
           '#pragma GCC visibility push(default)']
    out += [f'{e.prototype()};' for e in d.entries]
    out += ['#pragma GCC visibility pop', '', '#endif', '']
    return '\n'.join(out)


def export_map(d):
    out = ['{', '  global:']
    out += [f'    {e.symbol};' for e in d.entries]
    out += ['  local:', '    *;', '};', '']
    return '\n'.join(out)
