# SPDX-License-Identifier: Apache-2.0
"""What the simulated driver answers where src/sim has no definition of its own: not supported, and
the per-thread variants in terms of the others.

The library must be linked with -Bsymbolic: otherwise these calls would go to whoever exports the
same names first, the guard among them."""

from .text import fill

CUDA = '''\
@banner@

#include "cuda_api.h"

#pragma GCC visibility push(hidden)
/* src/sim: notes the call and returns CUDA_ERROR_NOT_SUPPORTED. */
CUresult sim_not_supported(const char *symbol);
/* src/sim: between the two, this thread takes stream 0 for its own default stream. */
void sim_per_thread_enter(void);
void sim_per_thread_leave(void);
#pragma GCC visibility pop
'''

NVML = '''\
@banner@

#include <stddef.h>

#include "nvml_api.h"
'''

DEFAULT = '''
__attribute__((weak)) @prototype@
{
        return @value@;
}
'''

PER_THREAD = '''
@prototype@
{
        sim_per_thread_enter();
        @result@ r = @of@(@arguments@);
        sim_per_thread_leave();
        return r;
}
'''


def source(d, api):
    out = fill(CUDA if api == 'cuda' else NVML, d, api)
    for e in d.entries:
        if e.suffix:
            out += fill(PER_THREAD, d, api, prototype=e.prototype(), result=e.result,
                        of=e.of.symbol, arguments=', '.join(p.name for p in e.parameters))
            continue
        value = 'NULL'
        if e.result == d.result:
            value = 'NVML_ERROR_NOT_SUPPORTED'
            if api == 'cuda':
                value = f'sim_not_supported("{e.symbol}")'
        out += fill(DEFAULT, d, api, prototype=e.prototype(), value=value)
    return out
