# SPDX-License-Identifier: Apache-2.0
"""The header that declares every exported symbol, and the linker's export list."""

from .text import fill, lines

HEADER = '''\
@banner@

#ifndef CLEAVE_@API@_API_H
#define CLEAVE_@API@_API_H

#include "@api@_types.h"

/* No renaming macros: each symbol has the ABI of its own age. A symbol whose prototype is not
 * public stands as taking no arguments, and can only be passed on. */

#pragma GCC visibility push(default)
@prototypes@
#pragma GCC visibility pop

#endif
'''

MAP = '''\
{
  global:
@symbols@
  local:
    *;
};
'''


def header(d, api):
    return fill(HEADER, d, api, prototypes=lines((e.prototype() for e in d.entries), '{};'))


def export_map(d, api):
    return fill(MAP, d, api, symbols=lines((e.symbol for e in d.entries), '    {};'))
