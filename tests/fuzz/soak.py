#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzz targets as libFuzzer programs under the address and undefined-behaviour sanitizers.
Exit status 77 where there is no clang with libFuzzer.

usage: soak.py SOURCE [SECONDS of each target, 120]"""
import os
import shutil
import subprocess
import sys
import tempfile

source = os.path.abspath(sys.argv[1])
seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 120

with tempfile.TemporaryDirectory(prefix="cleave-fuzz-") as place:
    probe = os.path.join(place, "probe.c")
    with open(probe, "w") as out:
        out.write("int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return 0; }\n")
    if not shutil.which("clang") or subprocess.run(
            ["clang", "-fsanitize=fuzzer,address", probe, "-o", os.path.join(place, "probe")],
            capture_output=True).returncode != 0:
        print("no clang with libFuzzer here (Debian: clang, libclang-rt-14-dev)")
        sys.exit(77)
    build = os.path.join(place, "build")
    subprocess.run(["meson", "setup", build, source, "-Dfuzzers=true", "-Db_lundef=false",
                    "-Db_sanitize=address,undefined"], check=True, env=dict(os.environ, CC="clang"),
                   stdout=subprocess.DEVNULL)
    failed = 0
    for name in ("journal", "message", "claims"):
        subprocess.run(["ninja", "-C", build, "--quiet", f"tests/fuzz/fuzzer_{name}"], check=True)
        corpus = os.path.join(place, name)
        shutil.copytree(os.path.join(source, "tests/fuzz/corpus", name), corpus)
        done = subprocess.run([os.path.join(build, "tests/fuzz", f"fuzzer_{name}"), corpus,
                               f"-max_total_time={seconds}", "-print_final_stats=1"],
                              cwd=place, capture_output=True, text=True)
        stats = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        print(f"{name}: exit {done.returncode}, {' '.join(stats)}", flush=True)
        if done.returncode != 0:
            failed = 1
            print(done.stderr[-4000:])
    sys.exit(failed)
