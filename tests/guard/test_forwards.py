#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every name of NVML that the guard does not answer itself reaches the driver's library with all its
arguments, and its answer comes back; a name that an older library lacks is NVML's own error.

usage: test_forwards.py COMPILER GUARD HOOKS

The library that stands behind the guard is made here: each function adds its arguments up, each with
another weight, and a number of its own.
"""
import ctypes
import os
import re
import subprocess
import sys
import tempfile

NOT_FOUND = 13  # NVML_ERROR_FUNCTION_NOT_FOUND
ARGUMENTS = 9   # more than any processor passes in registers
LACKING = "nvmlSystemGetHicVersion"


def answer(number, arguments):
    return (number * 1000003 + sum((i + 1) * a for i, a in enumerate(arguments))) & 0x3fffffff


def main():
    compiler, guard, hooks = sys.argv[1:]
    with open(hooks, encoding="utf-8") as file:
        ours = {line.strip() for line in file if re.match(r"\w", line)}
    listed = subprocess.check_output(["nm", "-D", "--defined-only", guard], text=True)
    names = [line.split()[-1] for line in listed.splitlines()]
    passed_on = [name for name in names if name not in ours]
    assert ours <= set(names) and len(passed_on) > 300 and LACKING in passed_on, len(passed_on)
    parameters = ", ".join(f"long a{i}" for i in range(ARGUMENTS))
    total = " + ".join(f"{i + 1} * a{i}" for i in range(ARGUMENTS))
    with tempfile.TemporaryDirectory() as place:
        with open(place + "/driver.c", "w", encoding="utf-8") as file:
            for number, name in enumerate(names):
                if name in ours:
                    file.write(f"int {name}(void) {{ return 0; }}\n")
                elif name != LACKING:
                    file.write(f"int {name}({parameters})\n{{ return ({number} * 1000003l + {total})"
                               " & 0x3fffffff; }\n")
        driver = place + "/libnvidia-ml.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", driver, place + "/driver.c"],
                       check=True)
        os.environ["CLEAVE_LIBNVML"] = driver
        os.environ.pop("CLEAVE_TENANT", None)
        library = ctypes.CDLL(guard)
        for turn in range(2):  # the first call looks the name up, the next does not
            for number, name in enumerate(names):
                if name in ours:
                    continue
                arguments = [number + 7 * i + turn for i in range(ARGUMENTS)]
                got = getattr(library, name)(*map(ctypes.c_long, arguments))
                wanted = NOT_FOUND if name == LACKING else answer(number, arguments)
                assert got == wanted, f"{name}: {got}, not {wanted}"
    print(f"{len(passed_on)} names are passed on")


if __name__ == "__main__":
    main()
