#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cleave beside another library that limits device memory, on one machine and by turns. A peer is
named by its library: NAME=PRELOAD[,VARIABLE=VALUE…], preloaded into the same programs; in a value
{quota} is the quota in GiB, {percent} the part of the compute time (of tests/gpu/compute) and {new} the
path of a file that is not there yet.

usage: python3 bench/peers.py --build DIR --peer NAME=PRELOAD,… [--only quota,startup] [--json FILE]
                              [--quota GIB] [--seconds N] [--rounds N] [--count N] [--contexts N]
                              [--patience SECONDS] [--sim h100]

quota    8 processes of 4 threads allocate at random under the quota (tests/stress/worker.c), by
         cuMemAlloc alone and by every path; the largest sum that NVML counts meanwhile.
startup  --count processes at once that each initialise the driver and look at the GPU, and --contexts that
         each make a context, too (the kernel makes those one after another); seconds until all have
         ended. Under Cleave as one tenant, and as a tenant each. The quota has room for all.
What calls cost beside a peer: bench/cost.py.
"""
import argparse
import json
import os
import select
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
GIB = 1 << 30
CONTEXT_MIB = 640  # what a process of start-up may hold


class Peer:
    """What --peer says."""

    def __init__(self, text):
        self.name, _, rest = text.partition("=")
        self.preload, *pairs = rest.split(",")
        self.variables = [pair.partition("=")[::2] for pair in pairs]
        if not self.name or not os.path.isfile(self.preload):
            raise argparse.ArgumentTypeError(f"'{text}' names no library")

    def settings(self, quota, percent=100):
        """Its variables, for one tenant of quota GiB and so much of the compute time."""
        def value(text):
            return text.replace("{quota}", str(quota)).replace("{percent}", str(percent)).replace(
                "{new}", os.path.join(tempfile.mkdtemp(prefix="peer-"), "file"))
        return {"LD_PRELOAD": os.path.abspath(self.preload),
                **{name: value(text) for name, text in self.variables}}

    def environment(self, environment, quota):
        """environment, with the peer in it; for one tenant of quota GiB."""
        return {**environment, **self.settings(quota)}


def add_option(parser):
    parser.add_argument("--peer", type=Peer, action="append", default=[],
                        metavar="NAME=PRELOAD[,VARIABLE=VALUE…]",
                        help="another library to measure by turns with Cleave")


class Bench:
    def __init__(self, options):
        self.options = options
        self.build = os.path.abspath(options.build)
        self.cleave = os.path.join(self.build, "cleave")
        self.inside = dict(os.environ)  # for `cleave run`
        if options.sim:
            self.inside["CLEAVE_SIM"] = options.sim
        self.environment = dict(self.inside)  # for everything else
        if options.sim:
            self.environment["LD_LIBRARY_PATH"] = os.path.join(self.build, "src/sim")

    def under_cleave(self, quota, *words):
        return [self.cleave, "run", "--quiet", "--memory", quota, "--", *words]

    def start(self, command, environment, **kinds):
        return subprocess.Popen(command, env=environment, text=True, start_new_session=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, **kinds)


def end(process, seconds=30):
    """Whether it ended by itself in that time; afterwards nothing of it is left."""
    try:
        process.wait(seconds)
        ended = True
    except subprocess.TimeoutExpired:
        ended = False
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    return ended


def allocate(bench, command, environment):
    """One run of the worker: what it counted and what NVML saw."""
    seconds = bench.options.seconds
    monitor = bench.start([os.path.join(bench.build, "tests/gpu/monitor")], bench.environment)
    if monitor.stdout.readline() != "ready\n":
        sys.exit("the monitor of NVML does not start")
    worker = bench.start(command, environment, stderr=subprocess.PIPE)
    ready = select.select([worker.stdout], [], [], seconds + 25)[0]
    line = worker.stdout.readline() if ready else ""
    seen = json.loads(monitor.communicate("", timeout=30)[0])
    worker.stdin.close()
    ended = end(worker)
    told = worker.stderr.read()
    counts = json.loads(line) if line.startswith("{") else {}
    return {"largest": seen["most_bytes"], "readings": seen["samples"],
            "finished": bool(counts) and ended,
            "taken": sum(counts.get("taken", {}).values()),
            "refused": sum(counts.get("refused", {}).values()),
            "failures": counts.get("failures"),
            "said": "" if counts and not counts["failures"] else told[-300:]}


def quota(bench):
    options = bench.options
    limit = options.quota * GIB
    out = {}
    for paths in ("alloc", "all"):
        worker = [os.path.join(bench.build, "tests/stress/stress-worker"), "8", "4",
                  str(options.seconds)]
        more = ["256"] + ([paths] if paths != "all" else [])
        for turn in range(options.rounds):
            seeded = [*worker, str(turn + 1), *more]
            arms = {"cleave": lambda s=seeded: allocate(
                bench, bench.under_cleave(f"{options.quota}G", *s), bench.inside)}
            for peer in options.peer:
                arms[peer.name] = lambda s=seeded, p=peer: allocate(
                    bench, s, p.environment(bench.environment, options.quota))
            for name in list(arms) if turn % 2 == 0 else reversed(arms):
                got = arms[name]()
                got["of quota"] = round(got["largest"] / limit, 4)
                out.setdefault(paths, {}).setdefault(name, []).append(got)
                print(f"quota {paths} {name}: {json.dumps(got)}", flush=True)
    return out


# Starts so many of a command at once; fails if one of them does.
MANY = 'n=$1; shift; p=""; for i in $(seq $n); do "$@" </dev/null >/dev/null & p="$p $!"; done; ' \
       'for i in $p; do wait $i || f=1; done; exit ${f:-0}'


def together(bench, words, environment):
    """Seconds until all have ended, or None."""
    begun = time.monotonic()
    process = bench.start(words, environment, stderr=subprocess.PIPE)
    process.stdin.close()
    ended = end(process, bench.options.patience)
    seconds = time.monotonic() - begun
    if not ended or process.returncode:
        print(f"startup: {shlex.join(words)[:120]}…: "
              f"{process.returncode if ended else f'not done in {bench.options.patience} s'} {process.stderr.read()[-300:]}")
        return None
    return round(seconds, 3)


def startup(bench):
    hello = os.path.join(bench.build, "tests/e2e/hello")
    return {"init": started(bench, bench.options.count, [hello, "init"]),
            "context": started(bench, bench.options.contexts, [hello])}


def started(bench, n, program):
    room = n * CONTEXT_MIB // 1024 + 1
    many = ["sh", "-c", MANY, "many", str(n)]
    arms = {"native": (many + program, lambda: bench.environment),
            "cleave": (bench.under_cleave(f"{room}G", *many, *program), lambda: bench.inside),
            "cleave, a tenant each": (many + bench.under_cleave(f"{CONTEXT_MIB}M", *program),
                                      lambda: bench.inside)}
    for peer in bench.options.peer:
        arms[peer.name] = (many + program,
                           lambda p=peer: p.environment(bench.environment, room))
    seen = {name: [] for name in arms}
    for turn in range(bench.options.rounds):
        for name in list(arms) if turn % 2 == 0 else reversed(arms):
            words, environment = arms[name]
            seen[name].append(together(bench, words, environment()))
            print(f"startup of {n} {' '.join(program[1:])} {name}: {seen[name][-1]} s", flush=True)
    return {name: {"seconds": values, "median": statistics.median(values)
                   if None not in values else None} for name, values in seen.items()}


PARTS = {"quota": quota, "startup": startup}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--quota", type=int, default=8, help="in GiB, for the part quota")
    parser.add_argument("--seconds", type=int, default=10, help="of each run of the part quota")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--contexts", type=int, default=5, help="of the part startup, in all")
    parser.add_argument("--patience", type=int, default=60, help="seconds for a part of startup")
    parser.add_argument("--sim")
    parser.add_argument("--json")
    add_option(parser)
    options = parser.parse_args()
    bench = Bench(options)
    results = {part: PARTS[part](bench) for part in options.only.split(",")}
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump(results, out, indent=1)


if __name__ == "__main__":
    main()
