#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/peers.py on the simulated GPU, beside a library that limits nothing.

usage: test_peers.py BUILD PEER
"""
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GIB = 1 << 30


def main():
    build, peer = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="cleave-peers-") as place:
        for name in ("run", "sim"):
            os.mkdir(f"{place}/{name}", 0o700)
        environment = dict(os.environ, CLEAVE_RUNTIME_DIR=place + "/run",
                           CLEAVE_SIM_DIR=place + "/sim", TMPDIR=place)
        done = subprocess.run(
            [sys.executable, "-B", ROOT + "/bench/peers.py", "--build", build, "--sim", "h100",
             "--quota", "6", "--seconds", "1", "--rounds", "1", "--count", "20", "--json",
             place + "/out", "--peer",
             f"none={peer},PEER_MEMORY={{quota}},PEER_COMPUTE=1,PEER_TENANT=1,UNUSED={{new}}"],
            env=environment, text=True, capture_output=True, timeout=150, check=False)
        print(done.stdout, done.stderr)
        if done.returncode:
            sys.exit(f"it ended with {done.returncode}")
        with open(place + "/out", encoding="utf-8") as file:
            said = json.load(file)
    ours, theirs = (said["quota"]["alloc"][name][0] for name in ("cleave", "none"))
    assert ours["finished"] and ours["failures"] == 0 and ours["largest"] <= 6 * GIB, ours
    assert theirs["finished"] and theirs["failures"] == 0 and theirs["largest"] > 6 * GIB, theirs
    assert set(said["startup"]["init"]) == {"native", "cleave", "cleave, a tenant each", "none"}
    for kind in said["startup"].values():
        for arm in kind.values():
            assert arm["median"] is not None and arm["median"] > 0, kind


if __name__ == "__main__":
    main()
