#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes hooks.h, an X-macro of the entries in hooks.list."""
import sys

names = [line.split("#")[0].strip() for line in open(sys.argv[1])]
names = [name for name in names if name]
with open(sys.argv[2], "w") as out:
    out.write("/* Made from hooks.list by hooks.py. */\n#pragma once\n\n#define GUARD_HOOKS(X)")
    for name in names:
        out.write(f" \\\n        X({name})")
    out.write("\n")
