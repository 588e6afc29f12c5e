#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `make install` leaves, and that it works from wherever it comes to lie.

usage: test_install.py BUILD PROBE
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tree import GIB, Tenant  # noqa: E402

BUILD = None
PROBE = None

NEEDED = """
bin/cleave
sbin/cleaved
lib/cleave/bench/worker
lib/cleave/guard/libcuda.so
lib/cleave/guard/libcuda.so.1
lib/cleave/guard/libnvidia-ml.so
lib/cleave/guard/libnvidia-ml.so.1
lib/cleave/sim/libcuda.so.1
lib/cleave/sim/libnvidia-ml.so.1
lib/cleave/sim/nvidia-smi
lib/systemd/system/cleaved.service
lib/systemd/system/cleaved.socket
lib/sysusers.d/cleave.conf
lib/tmpfiles.d/cleave.conf
share/doc/cleave/examples/cleave.conf
share/bash-completion/completions/cleave
share/fish/vendor_completions.d/cleave.fish
share/zsh/site-functions/_cleave
""".split()


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.place = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.place)
        # no library may be found in the build tree: rpaths have to be gone
        done = subprocess.run(
            ["meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", cls.place + "/dest"],
            text=True, capture_output=True, check=False)
        if done.returncode:
            raise AssertionError(done.stdout + done.stderr)
        prefix = subprocess.check_output(["meson", "introspect", BUILD, "--buildoptions"],
                                         text=True)
        prefix = next(o["value"] for o in __import__("json").loads(prefix)
                      if o["name"] == "prefix")
        cls.installed = cls.place + "/dest" + prefix
        cls.dest = cls.place + "/dest"

    def test_everything_is_there(self):
        for name in NEEDED:
            with self.subTest(name):
                self.assertTrue(os.path.exists(os.path.join(self.installed, name)))

    def test_make_respects_destdir(self):
        """By the README's command; without its building first, under the feet of other tests."""
        dest = self.place + "/by make"
        source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        done = subprocess.run(
            ["make", "-C", source, "-o", "all", "install", "BUILD=" + BUILD, "DESTDIR=" + dest],
            text=True, capture_output=True, check=False, timeout=100)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

        def tree(root):
            return sorted(os.path.relpath(os.path.join(at, name), root)
                          for at, _, names in os.walk(root) for name in names)

        self.assertEqual(tree(dest), tree(self.dest))

    def test_system_users_and_directories(self):
        """As systemd understands them, below an empty root."""
        for program, kind in (("systemd-sysusers", "sysusers"), ("systemd-tmpfiles", "tmpfiles")):
            with self.subTest(program):
                if not shutil.which(program):
                    self.skipTest(program + " is not installed")
                root = self.place + "/" + kind
                os.makedirs(root + "/etc")
                with open(root + "/etc/group", "w") as file:
                    file.write("root:x:0:\ncleave:x:990:\n" if kind == "tmpfiles" else "root:x:0:\n")
                with open(root + "/etc/passwd", "w") as file:
                    file.write("root:x:0:0::/root:/bin/sh\n")
                done = subprocess.run(
                    [program, "--root=" + root, *(["--create"] if kind == "tmpfiles" else []),
                     f"{self.installed}/lib/{kind}.d/cleave.conf"],
                    text=True, capture_output=True, check=False)
                self.assertEqual((done.returncode, [line for line in done.stderr.splitlines()
                                                    if "cleave.conf" in line]), (0, []), done.stderr)
                if kind == "sysusers":
                    with open(root + "/etc/group") as file:
                        self.assertRegex(file.read(), r"(?m)^cleave:")
                else:
                    self.assertTrue(os.listdir(root + "/run") or os.listdir(root + "/var"))

    def test_nothing_lies_outside_the_prefix(self):
        outside = []
        for directory, _, files in os.walk(self.dest):
            outside += [os.path.join(directory, f) for f in files
                        if not directory.startswith(self.installed)]
        self.assertEqual(outside, [])

    def test_example_configuration_is_understood(self):
        # with every key that it shows switched on; users and groups are those of this machine
        with open(self.installed + "/share/doc/cleave/examples/cleave.conf") as file:
            text = file.read()
        text = re.sub(r"^#(\w+ = |\[)", r"\1", text, flags=re.M)
        text = text.replace("group = cleave", "group = root").replace("user alice", "user root")
        path = self.place + "/cleave.conf"
        run = ["timeout", "10", self.installed + "/sbin/cleaved", "--foreground", "--user",
               "--sim=h100", "--runtime-dir", self.place + "/run", "--config", path]
        environment = {"CLEAVE_SIM_DIR": self.place, "PATH": os.environ["PATH"]}
        os.makedirs(self.place + "/run", 0o700)
        for extra, words in (("idle_exit = 0s\n", ""), ("no_such_key = 1\n", "no 'no_such_key'")):
            with open(path, "w") as file:
                file.write(text.replace("idle_exit = 60s\n", extra))
            done = subprocess.run(run, env=environment, text=True, capture_output=True,
                                  check=False)
            self.assertIn(words, done.stderr)
            self.assertEqual(done.returncode, 2 if words else 0, done.stderr)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_units_are_understood(self):
        root = self.place + "/root"
        units = root + "/usr/lib/systemd/system"
        shutil.copytree(self.installed + "/lib/systemd/system", units)
        with open(units + "/cleaved.service") as file:
            program = re.search(r"^ExecStart=(\S+)", file.read(), re.M).group(1)
        self.assertTrue(os.access(self.dest + program, os.X_OK), program)
        with open(units + "/cleaved.service") as file:
            text = file.read().replace(program, "/bin/true")
        with open(units + "/cleaved.service", "w") as file:
            file.write(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
             units + "/cleaved.service", units + "/cleaved.socket"],
            text=True, capture_output=True, check=False)
        told = [line for line in done.stderr.splitlines() if "cleaved" in line]
        self.assertEqual((done.returncode, told), (0, []), done.stderr)

    def test_libraries_are_not_where_the_linker_looks(self):
        for directory in ("lib", "lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"):
            for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
                self.assertFalse(os.path.exists(os.path.join(self.installed, directory, name)))

    def test_runs_from_another_prefix(self):
        moved = self.place + "/some where/opt"
        shutil.copytree(self.installed, moved, symlinks=True)
        self.addCleanup(shutil.rmtree, moved)
        # blanks in its path are refused with a sentence, since LD_PRELOAD cannot carry them
        with Tenant(moved + "/bin/cleave", [PROBE]) as tenant:
            self.assertEqual(tenant.status, 125)
            self.assertIn("has a blank", tenant.errors)
        plain = self.place + "/opt"
        os.rename(moved, plain)
        self.addCleanup(os.rename, plain, moved)
        with Tenant(plain + "/bin/cleave", [PROBE]) as tenant:
            facts = tenant.facts
            self.assertEqual((facts.get("cuda"), facts.get("nvml")), (GIB, GIB), tenant.errors)
            self.assertEqual(facts["refused"], 2)  # CUDA_ERROR_OUT_OF_MEMORY
            self.assertLess(facts["held"], GIB)
            self.assertGreater(facts["held"], 0)
            maps = open(f"/proc/{tenant.daemon_pid()}/maps").read()
            self.assertIn(plain + "/sbin/cleaved", maps)
            self.assertNotIn(BUILD + "/", maps)
        # the bench finds its own program and the simulated GPU there, too
        done = subprocess.run([plain + "/bin/cleave", "bench", "--sim", "--quick", "--only",
                               "OH-005", "--mode", "temporal"], text=True, capture_output=True,
                              env={"PATH": os.environ["PATH"]}, check=False, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"OH-005 .* \d")


if __name__ == "__main__":
    BUILD, PROBE = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1])
