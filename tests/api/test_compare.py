#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The descriptions agree with an installed toolkit, and the comparison sees it where they do not.

test_compare.py API_FOLDER CC...      77 where no toolkit is installed."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

# What is made wrong in a copy of the description, and a word of what must be said about it.
WRONG = [
    ('cuda.api', 'cuMemAlloc_v2(out makes CUdeviceptr *dptr, size_t bytesize)',
     'cuMemAlloc_v2(out makes CUdeviceptr *dptr, unsigned int bytesize)',
     r'cuMemAlloc_v2: __typeof__\(&cuMemAlloc_v2\) is not'),
    ('cuda.api', '    5050 cuLinkDestroy(', '    5060 cuLinkDestroy(',
     r'no PFN_cuLinkDestroy_v5060'),
    ('cuda.api', '    4000 cuEventDestroy_v2(frees CUevent hEvent)\n', '',
     r'we lack cuEventDestroy_v2$'),
    ('cuda.api', '    4000 cuEventDestroy_v2(frees CUevent hEvent)\n', '',
     r'we lack cuEventDestroy of version 4000'),
    ('cuda_types.h', 'CU_CTX_SCHED_YIELD = 0x02', 'CU_CTX_SCHED_YIELD = 0x03',
     r'ours CU_CTX_SCHED_YIELD = 3, theirs CU_CTX_SCHED_YIELD = 2'),
    ('cuda_types.h', '        CU_CTX_SYNC_MEMOPS = 0x80,\n', '',
     r'we lack the constant CU_CTX_SYNC_MEMOPS'),
    ('cuda_types.h',
     '        size_t srcXInBytes;\n        size_t srcY;\n        CUmemorytype srcMemoryType;',
     '        size_t srcY;\n        size_t srcXInBytes;\n        CUmemorytype srcMemoryType;',
     r'CUDA_MEMCPY2D\.srcY = 0'),
    ('cuda_types.h', 'typedef struct CUipcMemHandle_st {\n        char reserved[64];',
     'typedef struct CUipcMemHandle_st {\n        char reserved[60];',
     r'sizeof CUipcMemHandle = 60'),
    ('cuda_types.h', '#define CU_TRSF_SRGB                                             0x10',
     '#define CU_TRSF_SRGB 0x11', r'CU_TRSF_SRGB = 17'),
]


def compare(folder, cc):
    return subprocess.run([sys.executable, '-B', os.path.join(folder, 'compare.py'), '--cc', cc],
                          capture_output=True, text=True)


def main():
    folder, ccs = sys.argv[1], sys.argv[2:]
    for cc in ccs:
        r = compare(folder, cc)
        sys.stdout.write(r.stdout + r.stderr)
        if r.returncode:
            return r.returncode
    with tempfile.TemporaryDirectory() as copy:
        copy = os.path.join(copy, 'api')
        shutil.copytree(folder, copy)
        for name, right, wrong, _ in WRONG:
            path = os.path.join(copy, name)
            with open(path, encoding='utf-8') as f:
                text = f.read()
            if right not in text and wrong not in text:
                print(f'{name} no longer has {right!r}')
                return 1
            with open(path, 'w', encoding='utf-8') as f:
                f.write(text.replace(right, wrong))
        r = compare(copy, ccs[0])
    failed = r.returncode != 1
    for _, _, _, said in WRONG:
        if not re.search(said, r.stdout, re.M):
            print(f'not seen: {said}')
            failed = True
    if failed:
        print(r.stdout + r.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
