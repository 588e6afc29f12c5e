# SPDX-License-Identifier: Apache-2.0
"""What the simulated driver answers where src/sim has no definition of its own: not supported, and
the per-thread variants in terms of the others.

The library must be linked with -Bsymbolic: otherwise these calls would go to whoever exports the
same names first, the guard among them."""

from .text import banner


def source(d, api):
    out = [banner(d), f'#include "{api}_api.h"', '']
    if api == 'cuda':
        out += ['/* src/sim: notes the call and returns CUDA_ERROR_NOT_SUPPORTED. */',
                '__attribute__((visibility("hidden"))) CUresult sim_not_supported(const char *symbol);',
                '/* src/sim: between the two, this thread takes stream 0 for its own default stream. */',
                '__attribute__((visibility("hidden"))) void sim_per_thread_enter(void);',
                '__attribute__((visibility("hidden"))) void sim_per_thread_leave(void);', '']
    for e in d.entries:
        if e.suffix:
            arguments = ', '.join(p.name for p in e.parameters)
            out += [e.prototype(), '{', '        sim_per_thread_enter();',
                    f'        {e.result} r = {e.of.symbol}({arguments});',
                    '        sim_per_thread_leave();', '        return r;', '}', '']
        elif api == 'cuda':
            out += [f'__attribute__((weak)) {e.prototype()}', '{',
                    f'        return sim_not_supported("{e.symbol}");', '}', '']
        else:
            value = 'NVML_ERROR_NOT_SUPPORTED' if e.result == d.result else '0'
            out += [f'__attribute__((weak)) {e.prototype()}', '{', f'        return {value};', '}', '']
    return '\n'.join(out)
