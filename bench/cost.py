#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What Cleave costs: the same programs natively and under `cleave run`, by turns, on this machine's
GPU (or the simulated one with --sim). Prints a table of medians over the turns, and JSON with -o.

usage: bench/cost.py --build DIR [--turns N] [--torch N] [--sim h100] [--json FILE]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys


def run(command, environment):
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def by_turns(name, command, turns, under, environment):
    """Each turn runs both arms, in an order that alternates; the difference is taken per turn."""
    native, guarded = [], []
    for turn in range(turns):
        arms = [(native, []), (guarded, under)]
        for results, prefix in arms if turn % 2 == 0 else reversed(arms):
            results.append(run(prefix + command, environment))
        print(f"  {name}: turn {turn + 1} of {turns}", file=sys.stderr)
    rows = []
    for key in native[0]:
        a = [r[key] for r in native]
        b = [r[key] for r in guarded]
        rows.append({"metric": key, "native": statistics.median(a), "cleave": statistics.median(b),
                     "difference": statistics.median([y - x for x, y in zip(a, b)]),
                     "ratio": statistics.median([y / x for x, y in zip(a, b)])})
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--torch", type=int, default=0, help="turns of the PyTorch programs")
    parser.add_argument("--sim")
    parser.add_argument("--json")
    options = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    build = os.path.abspath(options.build)
    environment = dict(os.environ)
    under = [f"{build}/cleave", "run", "--memory", "8G", "--"]
    if options.sim:
        environment["CLEAVE_SIM"] = options.sim
        environment["LD_LIBRARY_PATH"] = f"{build}/src/sim"
    rows = by_turns("calls", [f"{build}/bench/calls"], options.turns, under, environment)
    if options.torch:
        rows += by_turns("torch", [sys.executable, f"{here}/torch_steps.py"], options.torch, under,
                         environment)
    print(f"{'metric':<18}{'native':>12}{'cleave':>12}{'difference':>12}{'ratio':>8}")
    for row in rows:
        print(f"{row['metric']:<18}{row['native']:>12.2f}{row['cleave']:>12.2f}"
              f"{row['difference']:>12.2f}{row['ratio']:>8.3f}")
    if options.json:
        with open(options.json, "w") as out:
            json.dump(rows, out, indent=1)


main()
