#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The coverage page says of each entry who answers it, and counts right.

test_coverage.py API_FOLDER"""

import os
import re
import subprocess
import sys
import tempfile

SIM = '''
CUresult cuInit(unsigned int Flags)
{
        return CUDA_SUCCESS;
}
CUresult cuMemFree_v2(CUdeviceptr dptr);
static CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
        return CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream hStream, CUevent hEvent,
        unsigned int Flags)
{
        return CUDA_SUCCESS;
}
'''


def main():
    api = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        sim = os.path.join(folder, 'sim')
        os.makedirs(os.path.join(sim, 'inner'))
        source = os.path.join(sim, 'inner', 'all.c')
        hooks, page, depfile = (os.path.join(folder, n) for n in ('hooks.list', 'page', 'page.d'))
        with open(source, 'w', encoding='utf-8') as f:
            f.write(SIM)
        with open(hooks, 'w', encoding='utf-8') as f:
            f.write('cuInit\n')
        subprocess.run([sys.executable, '-B', f'{api}/generate.py', 'coverage', '--description',
                        f'{api}/cuda.api', '--types', f'{api}/cuda_types.h', '--hooks', hooks,
                        '--sim', sim, '--depfile', depfile, '-o', page], check=True)
        with open(page, encoding='utf-8') as f:
            text = f.read()
        with open(depfile, encoding='utf-8') as f:
            depends = f.read().split()
    expected = [
        '| exported | 674 |', '| answered by the guard | 1 |',
        '| implemented by the simulator | 3 |',
        '| cuInit | 2.0 | neutral | answers | yes | yes |',
        '| cuMemFree_v2 | 3.2 | free | passes on | no | yes |',
        '| cuDeviceGet | 2.0 | neutral | passes on | no | yes |',
        '| cuStreamWaitEvent | 3.2 | neutral | passes on | yes | yes |',
        '| cuStreamWaitEvent_ptsz | 7.0 | neutral | passes on | yes | yes |',
        '| cuLaunchKernel_ptsz | 7.0 | launch | passes on | no | no |',
        '| cuMemGetAttribute |  | neutral | passes on | no | no |',
    ]
    missing = [line for line in expected if line not in text.splitlines()]
    rows = len(re.findall(r'^\| cu\w+ \|', text, re.M))
    missing += [] if rows == 674 else [f'674 rows, not {rows}']
    missing += [] if {page + ':', source, sim} <= set(depends) else [f'not in {depends}']
    print('\n'.join(f'missing: {line}' for line in missing))
    return 1 if missing else 0


if __name__ == '__main__':
    sys.exit(main())
