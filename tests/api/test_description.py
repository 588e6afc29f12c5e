#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the generator says to wrong input, word for word: each case's messages stand in bad/*.err.

test_description.py GENERATE_PY [--write]   (--write: take what it says now as right)"""

import os
import subprocess
import sys
import tempfile

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'bad')

CASES = {
    'class': ['check', '--description', 'class.api'],
    'direction': ['check', '--description', 'direction.api'],
    'type': ['check', '--description', 'type.api'],
    'length': ['check', '--description', 'length.api'],
    'version': ['check', '--description', 'version.api'],
    'duplicate': ['check', '--description', 'duplicate.api'],
    'array': ['check', '--description', 'array.api'],
    'syntax': ['check', '--description', 'syntax.api'],
    'truncated': ['check', '--description', 'good.api', '--types', 'truncated.h'],
    'conditional': ['check', '--description', 'good.api', '--types', 'conditional.h'],
    'unknown': ['check', '--description', 'good.api', '--types', 'unknown.h'],
    'hooks': ['guard-entries', '--description', 'good.api', '--hooks', 'hooks.list'],
    'unmarshalled': ['marshal-source', '--description', 'good.api', '--unmarshalled',
                     'unmarshalled.list'],
    'incomplete': ['marshal-source', '--description', 'good.api', '--unmarshalled',
                   'incomplete.list'],
}


def main():
    generate = os.path.abspath(sys.argv[1])
    failed = 0
    for name, arguments in CASES.items():
        if '--types' not in arguments:
            arguments = arguments + ['--types', 'types.h']
        with tempfile.TemporaryDirectory() as folder:
            output = os.path.join(folder, 'output')
            r = subprocess.run([sys.executable, '-B', generate, *arguments, '-o', output], cwd=HERE,
                               capture_output=True, text=True)
            written = os.path.exists(output)
        path = os.path.join(HERE, f'{name}.err')
        if '--write' in sys.argv:
            with open(path, 'w', encoding='utf-8') as f:
                f.write(r.stderr)
        with open(path, encoding='utf-8') as f:
            expected = f.read()
        if r.returncode != 1 or r.stdout or written or r.stderr != expected or not expected:
            failed += 1
            print(f'{name}: status {r.returncode}, written {written}, said:\n{r.stdout}{r.stderr}'
                  f'instead of:\n{expected}')
    r = subprocess.run([sys.executable, '-B', generate, 'check', '--description', 'good.api',
                        '--types', 'types.h'], cwd=HERE, capture_output=True, text=True)
    if r.returncode or r.stdout or r.stderr:
        failed += 1
        print(f'good: {r.returncode} {r.stdout}{r.stderr}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
