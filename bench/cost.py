#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What Cleave costs. For each program two processes live side by side, one native and one under `cleave
run`, bound to the same core; they measure by turns, some tenths of a second each, so that both meet
the same clocks. The difference is taken per pair of turns. Several such couples are made, since where
the loader puts a process also counts. Prints medians, and JSON with --json.

usage: bench/cost.py --build DIR [--couples N] [--turns N] [--torch] [--sim h100] [--json FILE]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys


class Arm:
    def __init__(self, command, environment, core):
        self.process = subprocess.Popen(["taskset", "-c", str(core), *command], env=environment,
                                        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.start = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line.startswith("{"):
            sys.exit(f"{' '.join(self.process.args)}: {line}")
        return json.loads(line)

    def turn(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def couples(name, command, options, under, environment, core):
    pairs = {}
    for couple in range(options.couples):
        order = [under, []] if couple % 2 else [[], under]
        arms = {bool(prefix): Arm(prefix + command, environment, core) for prefix in order}
        for key in arms[False].start:
            pairs.setdefault(key, []).append((arms[False].start[key], arms[True].start[key]))
        for turn in range(options.turns):
            seen = {}
            for inside in ((False, True) if turn % 2 else (True, False)):
                seen[inside] = arms[inside].turn()
            if turn == 0:
                continue  # both warm up
            for key in seen[False]:
                pairs.setdefault(key, []).append((seen[False][key], seen[True][key]))
        for arm in arms.values():
            arm.end()
        print(f"  {name}: couple {couple + 1} of {options.couples}", file=sys.stderr)
    return [{"metric": key, "native": statistics.median(a for a, _ in values),
             "cleave": statistics.median(b for _, b in values),
             "difference": statistics.median(b - a for a, b in values),
             "ratio": statistics.median(b / a for a, b in values), "pairs": len(values)}
            for key, values in pairs.items()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build")
    parser.add_argument("--couples", type=int, default=4)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--sim")
    parser.add_argument("--json")
    options = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    build = os.path.abspath(options.build)
    environment = dict(os.environ)
    if options.sim:
        environment["CLEAVE_SIM"] = options.sim
        environment["LD_LIBRARY_PATH"] = f"{build}/src/sim"
    under = [f"{build}/cleave", "run", "--quiet", "--memory", "8G", "--"]
    core = max(os.sched_getaffinity(0))
    rows = couples("calls", [f"{build}/bench/calls", "40"], options, under, environment, core)
    if options.torch:
        rows += couples("torch", [sys.executable, f"{here}/torch_steps.py"], options, under,
                        environment, core)
    print(f"{'metric':<18}{'native':>12}{'cleave':>12}{'difference':>12}{'ratio':>8}{'pairs':>7}")
    for row in rows:
        print(f"{row['metric']:<18}{row['native']:>12.2f}{row['cleave']:>12.2f}"
              f"{row['difference']:>12.2f}{row['ratio']:>8.4f}{row['pairs']:>7}")
    if options.json:
        with open(options.json, "w") as out:
            json.dump(rows, out, indent=1)


main()
