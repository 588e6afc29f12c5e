#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What Cleave costs. For each program three processes live side by side, two native and one under
`cleave run`, bound to the same core; they measure by turns, some tenths of a second each, so that all
meet the same clocks. Differences are taken per turn to the first native one; that of the second native
one, the control, is what the method itself cannot tell from nothing. Several such groups are made,
since where the loader puts a process also counts. Prints medians, and JSON with --json. --peer adds
an arm under another library, see bench/peers.py.

usage: python3 bench/cost.py --build DIR [--groups N] [--turns N] [--torch] [--sim h100] [--json FILE]
                             [--peer NAME=PRELOAD[,VARIABLE=VALUE…]]
"""
import argparse
import json
import os
import statistics
import sys

import peers
from arms import Arm

QUOTA = 8  # GiB


ARMS = ["native", "control", "cleave"]  # and peers


def prefix(arm):
    """Of the names of an arm's figures against the native one."""
    return {"control": "control_", "cleave": ""}.get(arm, arm + "_")


def groups(name, command, options, under, environment, core):
    """For each metric the values of the arms, turn by turn."""
    seen = {}
    beside = {peer.name: peer for peer in options.peer}
    for group in range(options.groups):
        first = group % len(ARMS)
        order = ARMS[first:] + ARMS[:first]
        arms = {arm: Arm((under if arm == "cleave" else []) + command,
                         beside[arm].environment(environment, QUOTA) if arm in beside
                         else environment, core)
                for arm in order}
        for key in arms["native"].start:
            seen.setdefault(key, []).append(tuple(arms[arm].start[key] for arm in ARMS))
        for turn in range(options.turns):
            said = {arm: arms[arm].turn() for arm in (order if turn % 2 else order[::-1])}
            if turn == 0:
                continue  # all warm up
            for key in said["native"]:
                seen.setdefault(key, []).append(tuple(said[arm][key] for arm in ARMS))
        for arm in arms.values():
            arm.end()
        print(f"  {name}: group {group + 1} of {options.groups}", file=sys.stderr)
    return [row(key, values) for key, values in seen.items()]


def row(key, values):
    out = {"metric": key, "turns": len(values)}
    for place, arm in enumerate(ARMS):
        out[arm] = statistics.median(value[place] for value in values)
    for place, arm in enumerate(ARMS[1:], 1):
        out[prefix(arm) + "difference"] = statistics.median(v[place] - v[0] for v in values)
        out[prefix(arm) + "ratio"] = statistics.median(v[place] / v[0] for v in values)
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--sim")
    parser.add_argument("--json")
    peers.add_option(parser)
    options = parser.parse_args()
    ARMS.extend(peer.name for peer in options.peer)
    here = os.path.dirname(os.path.abspath(__file__))
    build = os.path.abspath(options.build)
    environment = dict(os.environ)
    if options.sim:
        environment["CLEAVE_SIM"] = options.sim
        environment["LD_LIBRARY_PATH"] = f"{build}/src/sim"
    under = [f"{build}/cleave", "run", "--quiet", "--memory", f"{QUOTA}G", "--"]
    core = max(os.sched_getaffinity(0))
    rows = groups("calls", [f"{build}/bench/calls", "40"], options, under, environment, core)
    if options.torch:
        rows += groups("torch", [sys.executable, f"{here}/torch_steps.py"], options, under,
                        environment, core)
    columns = (*ARMS, *[prefix(arm) + kind for kind in ("difference", "ratio")
                        for arm in ARMS[1:]])
    print(f"{'metric':<18}" + "".join(f"{column.replace('_', ' '):>20}" for column in columns))
    for r in rows:
        print(f"{r['metric']:<18}" + "".join(
            f"{r[column]:>20.{4 if 'ratio' in column else 2}f}" for column in columns))
    if options.json:
        with open(options.json, "w") as out:
            json.dump(rows, out, indent=1)


try:
    main()
except ChildProcessError as ended:
    sys.exit(str(ended))
