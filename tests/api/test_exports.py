#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A library linked with an export list exports exactly what the description names.

test_exports.py API_FOLDER NM API=LIBRARY..."""

import subprocess
import sys


def main():
    sys.dont_write_bytecode = True
    folder, nm = sys.argv[1:3]
    sys.path.insert(0, folder)
    from generator.description import Description
    failed = 0
    for pair in sys.argv[3:]:
        api, library = pair.split('=', 1)
        d = Description(f'{folder}/{api}.api', f'{folder}/{api}_types.h')
        described = {e.symbol for e in d.entries}
        text = subprocess.run([nm, '-D', '--defined-only', library], capture_output=True, text=True,
                              check=True).stdout
        exported = {line.split()[-1] for line in text.splitlines()}
        for symbol in sorted(exported ^ described):
            side = 'exported' if symbol in exported else 'described'
            print(f'{library}: {symbol} is {side} only')
            failed = 1
        print(f'{library}: {len(exported)} symbols')
    return failed


if __name__ == '__main__':
    sys.exit(main())
