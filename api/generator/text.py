# SPDX-License-Identifier: Apache-2.0
"""Small helpers for writing C."""

import os


def fill(template, d, api, **words):
    """A template with @api@, @API@, @banner@ and the given @words@ put in."""
    words |= {'api': api, 'API': api.upper(),
              'banner': f'/* Generated from api/{os.path.basename(d.path)} by api/generate.py. */'}
    for word, text in words.items():
        template = template.replace(f'@{word}@', text)
    return template


def lines(items, form='        {},'):
    return '\n'.join(form.format(i) for i in items)


def string_table(strings):
    """One C string literal holding all strings, and the offset of each."""
    offsets, literals, at = {}, [], 0
    for s in strings:
        if s in offsets:
            continue
        offsets[s] = at
        at += len(s) + 1
        literals.append(f'        "{s}\\0"')
    return offsets, '\n'.join(literals)


def rows(items, per_line=8):
    return '\n'.join('        ' + ' '.join(f'{i},' for i in items[n:n + per_line])
                     for n in range(0, len(items), per_line))
