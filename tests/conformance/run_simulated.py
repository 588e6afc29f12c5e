#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""run_simulated.py PROGRAM LIBCUDA [ARGUMENT...]: run a program on a simulated GPU of its own."""

import os
import pathlib
import subprocess
import sys
import tempfile


def main():
    program, library, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="cleave-sim-") as state:
        environment = dict(os.environ, CLEAVE_SIM_DIR=state)
        environment.setdefault("CLEAVE_SIM", "h100")
        directory = str(pathlib.Path(library).resolve().parent)
        environment["LD_LIBRARY_PATH"] = directory
        return subprocess.run([program, *arguments], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
