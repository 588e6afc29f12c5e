#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The guard's file: exports exactly the API, links libc alone, needs nothing newer than glibc 2.17,
cannot be unloaded, carries its mark. usage: exports.py LIBRARY MAP SONAME"""
import re
import subprocess
import sys

library, export_map, soname = sys.argv[1:4]
failed = False


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check(condition, sentence):
    global failed
    if not condition:
        failed = True
        print(f"FAILED: {sentence}")


wanted = set(re.findall(r"^\s+((?:cu|nvml)\w+);", open(export_map).read(), re.M))
got = {line.split()[-1] for line in output("nm", "-D", "--defined-only", library).splitlines()}
check(len(wanted) > 400, f"the export list has only {len(wanted)} names")
check(got == wanted, f"exported but not in the API: {sorted(got - wanted)[:5]}; "
      f"in the API but not exported: {sorted(wanted - got)[:5]}")
dynamic = output("readelf", "-dW", library)
needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
check(needed == ["libc.so.6"], f"links {needed}")
check(f"[{soname}]" in dynamic, f"its SONAME is not {soname}")
check("NODELETE" in dynamic, "it can be unloaded")
for line in output("nm", "-D", "--undefined-only", library).splitlines():
    version = re.search(r"@GLIBC_(\d+)\.(\d+)", line)
    if version:
        check((int(version[1]), int(version[2])) <= (2, 17), f"needs {line.split()[-1]}")
check("Cleave" in output("readelf", "-nW", library), "its note is missing")
sys.exit(failed)
