#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds one of the guard's libraries for another processor and looks at what came out.

usage: test_cross.py COMPILER MACHINE EXPORTS MAP SONAME INCLUDE,... -- SOURCE...
"""
import os
import re
import subprocess
import sys
import tempfile

SKIPPED = 77
LINK = "-Wl,-z,now,-z,nodelete,-Bsymbolic,--as-needed,--fatal-warnings"

compiler, machine, exports, export_map, soname, includes = sys.argv[1:7]
sources = [s for s in sys.argv[8:] if s.endswith((".c", ".S"))]
with tempfile.TemporaryDirectory() as place:
    library = os.path.join(place, soname)
    probe = subprocess.run([compiler, "-xc", "-shared", "-o", library, "-"], input="#include <stdio.h>",
                           text=True, capture_output=True, check=False)
    if probe.returncode:
        print("SKIP: the C library for this compiler is not installed:", probe.stderr)
        sys.exit(SKIPPED)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror",
         "-Wno-unused-parameter", "-D_GNU_SOURCE", '-DCLEAVE_VERSION="test"',
         "-fvisibility=hidden", "-ftls-model=initial-exec", "-fno-strict-aliasing",
         "-fno-stack-protector", *[f"-I{i}" for i in includes.split(",")], *sources,
         f"-Wl,-soname={soname}", f"-Wl,--version-script={export_map}", LINK, "-o", library],
        check=True)
    head = subprocess.check_output(["readelf", "-h", library], text=True)
    if not re.search(rf"Machine:\s+{machine}", head):
        sys.exit(f"not for {machine}:\n{head}")
    sys.exit(subprocess.run([sys.executable, "-B", exports, library, export_map, soname],
                            check=False).returncode)
