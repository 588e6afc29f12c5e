#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every C file of the tree is as .clang-format wants it.

usage: test_format.py SOURCE

By version 14 of clang-format, Debian 12's: others differ in details. Without it the test is skipped.
"""
import os
import re
import shutil
import subprocess
import sys

MAJOR = 14
SKIPPED = 77  # meson's word for it


def formatter():
    """The program, or why there is none."""
    found = []
    for name in (f"clang-format-{MAJOR}", "clang-format"):
        path = shutil.which(name)
        if not path:
            continue
        said = subprocess.run([path, "--version"], text=True, capture_output=True, check=False).stdout
        version = re.search(r"version (\d+)", said)
        if version and int(version[1]) == MAJOR:
            return path, None
        found.append(said.strip() or path)
    return None, found[0] + f" is not version {MAJOR}" if found else "clang-format is not installed"


def files(root):
    """All below root, but not what lies in directories of builds."""
    for folder, below, names in os.walk(root):
        below[:] = sorted(b for b in below if b[0] != "." and not os.path.exists(
            os.path.join(folder, b, "meson-private")))
        yield from (os.path.join(folder, n) for n in sorted(names) if n.endswith((".c", ".h")))


def main(root):
    program, missing = formatter()
    if missing:
        print(f"skipped: {missing}; apt-get install clang-format-{MAJOR} has it")
        return SKIPPED
    checked = [f for part in ("api", "bench", "demo", "deploy", "src", "tests")
               for f in files(os.path.join(root, part))]
    if len(checked) < 100:
        sys.exit(f"only {len(checked)} C files in {root}: where are the others?")
    done = subprocess.run([program, "--dry-run", "-Werror", *checked], text=True,
                          capture_output=True, cwd=root, check=False)
    if done.returncode:
        wrong = sorted({os.path.relpath(f, root) for f in checked if f"{f}:" in done.stderr})
        print(done.stderr)
        print(f"run: {os.path.basename(program)} -i {' '.join(wrong)}")
        return 1
    print(f"{len(checked)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
