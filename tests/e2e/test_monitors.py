#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_monitors.py BUILD: nvtop, nvitop and nvidia-smi inside a tenant agree with cleave ps outside.
The first two are looked for in PATH, and before that below CLEAVE_EXTRAS (see .ci/extras). nvidia-smi is
the simulated GPU's own; the real one needs a private table of NVML, and all three run on a GPU:
tests/gpu/run --only monitors."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

# pylint: disable-next=wrong-import-position
from world import HERE, MIB, World

PYTHON = "/usr/bin/python3"  # Debian's, for which its modules are


def find(name):
    """The program's path, or None."""
    extras = os.environ.get("CLEAVE_EXTRAS")
    return shutil.which(name, path=extras + "/usr/bin" if extras else None) or shutil.which(name)


def nvitop_words():
    """The words that run nvitop, or None."""
    path = find("nvitop")
    extras = os.environ.get("CLEAVE_EXTRAS")
    if not path or not extras or not path.startswith(extras):
        return path
    modules = f"PYTHONPATH={extras}/usr/lib/python3/dist-packages"
    done = subprocess.run(["env", modules, PYTHON, path, "--version"], capture_output=True, check=False)
    return f"env {modules} {PYTHON} {path}" if done.returncode == 0 else None


def numbers(pattern, text):
    found = re.search(pattern, text)
    if not found:
        raise ValueError(f"no memory in: {text}")
    return found.groups()


def in_nvtop(text, pid):
    """The GPU's memory as (used, total) in MiB, and MiB by pid, as the screen has them."""
    used, total = numbers(r"([\d.]+)Gi ?/([\d.]+)Gi", text)
    row = re.search(rf"\b{pid} \S+ 0 Compute [^/]*?(\d+)MiB", text)
    return (float(used) * 1024, float(total) * 1024), {pid: int(row.group(1))} if row else {}


def in_nvitop(text, _=None):
    used, total = numbers(r"([\d.]+)MiB / ([\d.]+)MiB", text)
    rows = re.findall(r"^\| +0 +(\d+) \S+ +\S+ +([\d.]+)MiB", text, re.M)
    return (float(used), float(total)), {int(pid): float(size) for pid, size in rows}


def in_smi(text, _=None):
    """Its answers to two questions, one after the other."""
    memory, *rows = ([float(word) for word in line.split(",")] for line in text.splitlines())
    return tuple(memory), {int(pid): size for pid, size in rows}


IN = {"nvtop": in_nvtop, "nvitop": in_nvitop, "nvidia-smi": in_smi}


class Monitors(unittest.TestCase):
    def test_they_agree(self):
        nvtop, nvitop = find("nvtop"), nvitop_words()
        with World(BUILD) as world:
            world.start_daemon()
            # another tenant and a stranger, of whom nothing may be seen
            other = world.tool("--memory", "8G", "-n", "other")
            self.assertEqual(other("alloc", 4096), 0)
            watched = world.run("--memory", "4G", "-n", "watched", program=[
                sys.executable, os.path.join(HERE, "watched.py"), "1024", nvtop or "", nvitop or "",
                "nvidia-smi"])
            line = watched.stdout.readline()
            self.assertTrue(line, watched.stderr.read() if not line else "")
            said = json.loads(line)
            self.assertEqual(said["result"], 0)
            tenant, = (t for t in world.json("ps")["tenants"] if t["name"] == "watched")
            device, = tenant["devices"]
            used, total = device["memory_used"] // MIB, device["memory"] // MIB
            self.assertEqual((total, [p["pid"] for p in tenant["processes"]]), (4096, [said["pid"]]))
            self.assertEqual(in_smi(said["nvidia-smi"]), ((used, total), {said["pid"]: used}),
                             said["nvidia-smi"])
            if nvtop:
                memory, processes = in_nvtop(said["nvtop"], said["pid"])
                # three digits behind the point of GiB
                self.assertAlmostEqual(memory[0], used, delta=1)
                self.assertEqual((memory[1], processes), (total, {said["pid"]: used}), said["nvtop"])
                self.assertNotIn(str(other.pid) + " ", said["nvtop"])
            if nvitop:
                self.assertEqual(in_nvitop(said["nvitop"]),
                                 ((used, total), {said["pid"]: used}), said["nvitop"])
            other.end()
            watched.communicate(timeout=30)
        for name, path in (("nvtop", nvtop), ("nvitop", nvitop)):
            if not path:
                print(f"SKIP: {name} is not installed")


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
    BUILD = os.path.abspath(sys.argv.pop(1))
    unittest.main()
