#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""run_in_tenant.py BUILD: the guard changes nothing that a program sees.

The conformance program says the same on a simulated GPU and, on another, inside a tenant whose
quota is big enough for its cases: the same cases pass, and the same probes differ.
"""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
# pylint: disable-next=wrong-import-position
from world import World

QUOTA = "70G"


def run(words, env):
    done = subprocess.run(words, env=env, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, timeout=120, check=False)
    return done.returncode, done.stdout


def main():
    build = os.path.abspath(sys.argv[1])
    program = os.path.join(build, "tests", "conformance", "conformance")
    with World(build) as world:
        plain_env = dict(world.env, LD_LIBRARY_PATH=os.path.join(build, "src", "sim"),
                         CLEAVE_SIM_DIR=os.path.join(world.place, "plain"))
        plain = run([program], plain_env)
        tenant = run([world.cleave_path, "run", "--memory", QUOTA, "--", program], world.env)
    if plain[0] != 0:
        print(plain[1])
        print("fails without a guard too")
        return 1
    if plain != tenant:
        print(tenant[1])
        print(f"inside a tenant: status {tenant[0]}, not {plain[0]}, or other words")
        return 1
    print(plain[1].splitlines()[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
