#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The portable tarball: what its programs ask of a system, and that it runs from where it lies.

usage: test_tarball.py SOURCE PROBE [CROSS-FILE | aarch64]

With CLEAVE_OLD_ROOT, the root of an older distribution, it is also run there. With a cross file it is
made for another processor and not run; aarch64 stands for the one that .ci/extras makes.
"""
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tree import GIB, Tenant, facts_of  # noqa: E402

SKIPPED = 77
SOURCE = None
PROBE = None
CROSS = None

SYSTEM = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "libsystemd.so.0",
          "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
OLDEST = {"GLIBC": (2, 31), "LIBSYSTEMD": (247,)}


class Tarball(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.place = tempfile.mkdtemp(prefix="cleave-tarball-")
        cls.addClassCleanup(shutil.rmtree, cls.place)
        done = subprocess.run([SOURCE + "/deploy/tarball", cls.place, *CROSS], text=True,
                              env=dict(os.environ, BUILD=cls.place + "/build"),
                              capture_output=True, check=False)
        if done.returncode:
            raise AssertionError(done.stdout + done.stderr)
        cls.path = done.stdout.split()[-1]
        with tarfile.open(cls.path) as tar:
            tar.extractall(cls.place)
            names = {name.split("/")[0] for name in tar.getnames()}
        assert len(names) == 1, names
        cls.tree = os.path.join(cls.place, names.pop())

    def binaries(self):
        for at, _, files in os.walk(self.tree):
            for name in files:
                path = os.path.join(at, name)
                with open(path, "rb") as file:
                    if not os.path.islink(path) and file.read(4) == b"\x7fELF":
                        yield path

    def test_needs_only_what_a_system_has(self):
        seen = 0
        for path in self.binaries():
            seen += 1
            head = subprocess.check_output(["readelf", "-h", path], text=True)
            machine = re.search(r"Machine: +(.*)", head).group(1)
            self.assertEqual("AArch64" in machine, bool(CROSS) or os.uname().machine == "aarch64")
            dynamic = subprocess.check_output(["readelf", "-dW", path], text=True)
            needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
            self.assertLessEqual(needed, SYSTEM, path)
            self.assertNotIn("RUNPATH", dynamic)
            versions = subprocess.check_output(["readelf", "-VW", path], text=True)
            for name, numbers in re.findall(r"Name: (GLIBC|LIBSYSTEMD)_([\d.]+)", versions):
                self.assertLessEqual(tuple(int(n) for n in numbers.split(".")), OLDEST[name],
                                     f"{path} needs {name}_{numbers}")
        self.assertEqual(seen, 10)

    def test_its_name_and_words(self):
        machine = "aarch64" if CROSS else os.uname().machine
        self.assertRegex(os.path.basename(self.path), rf"^cleave-[\d.]+-{machine}\.tar\.gz$")
        with open(self.tree + "/INSTALL") as file:
            self.assertIn(machine, file.readline())

    def test_runs_from_where_it_lies(self):
        if CROSS:
            self.skipTest("it is for another processor")
        with Tenant(self.tree + "/bin/cleave", [PROBE]) as tenant:
            self.assertEqual((tenant.facts.get("cuda"), tenant.facts.get("nvml")), (GIB, GIB),
                             tenant.errors)
            self.assertEqual(tenant.facts["refused"], 2)

    @unittest.skipUnless(os.environ.get("CLEAVE_OLD_ROOT"), "CLEAVE_OLD_ROOT is not set")
    def test_runs_on_an_older_distribution(self):
        root = os.environ["CLEAVE_OLD_ROOT"]
        inside = tempfile.mkdtemp(prefix="cleave-", dir=root + "/tmp")
        self.addCleanup(shutil.rmtree, inside)
        shutil.copytree(self.tree, inside + "/cleave", symlinks=True)
        shutil.copy(PROBE, inside + "/probe")
        at = inside[len(root):]
        script = (f"mount -t proc proc {root}/proc; mount -t tmpfs tmpfs {root}/dev/shm; exec chroot {root} env -i "
                  f"PATH=/usr/bin:/bin CLEAVE_RUNTIME_DIR={at}/run CLEAVE_SIM_DIR={at}/sim "
                  f"{at}/cleave/bin/cleave run --sim --memory 1G -- {at}/probe")
        os.mkdir(inside + "/run", 0o700)
        os.mkdir(inside + "/sim", 0o700)
        done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "sh", "-c", script],
                              text=True, capture_output=True, check=False, timeout=60,
                              stdin=subprocess.DEVNULL)
        facts = facts_of(done.stdout)
        self.assertEqual((facts.get("cuda"), facts.get("nvml")), (GIB, GIB),
                         done.stdout + done.stderr)


if __name__ == "__main__":
    SOURCE, PROBE, *CROSS = sys.argv[1:]
    if CROSS == ["aarch64"]:
        CROSS = [os.environ.get("CLEAVE_EXTRAS", "") + "/aarch64/cross.ini"]
        if not shutil.which("aarch64-linux-gnu-gcc") or not os.path.exists(CROSS[0]):
            print("SKIP: Debian's compiler for aarch64 or libraries for it are missing: "
                  "gcc-aarch64-linux-gnu, and .ci/extras")
            sys.exit(SKIPPED)
    unittest.main(argv=sys.argv[:1])
