# SPDX-License-Identifier: Apache-2.0
"""Small helpers for writing C."""

import os


def banner(d):
    return f'/* Generated from api/{os.path.basename(d.path)} by api/generate.py. */\n'


def string_table(strings):
    """One C string literal holding all strings, and the offset of each."""
    offsets, lines, at = {}, [], 0
    for s in strings:
        if s in offsets:
            continue
        offsets[s] = at
        at += len(s) + 1
        lines.append(f'        "{s}\\0"')
    return offsets, '\n'.join(lines)


def rows(items, per_line=8):
    return '\n'.join('        ' + ' '.join(f'{i},' for i in items[n:n + per_line])
                     for n in range(0, len(items), per_line))
