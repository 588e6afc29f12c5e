#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the Debian packages, installs them below an empty root, runs what lies there, and removes
them again. And from a root with podman and them alone, a container with a GPU of 1 GiB by one command
(clean_root.py).

usage: test_debian.py SOURCE PROBE
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tree import GIB, Tenant  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
SKIPPED = 77
SOURCE = None
PROBE = None
NAMES = ["cleave", "cleave-doc", "cleave-sim", "cleaved", "libcleave-guard"]


def call(words, **kinds):
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False, stdin=subprocess.DEVNULL, **kinds)
    if done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stdout[-4000:]}")
    return done.stdout


class Packages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.place = tempfile.mkdtemp(prefix="cleave-debian-")
        cls.addClassCleanup(shutil.rmtree, cls.place)
        tree = cls.place + "/cleave"
        shutil.copytree(SOURCE, tree, symlinks=True,
                        ignore=lambda at, names: [n for n in names if at == SOURCE and
                                                  (n.startswith("build") or n == ".git")])
        environment = dict(os.environ, DEB_BUILD_OPTIONS="nocheck noautodbgsym parallel=2",
                           PATH="/usr/sbin:/usr/bin:/sbin:/bin")
        for name in ("CFLAGS", "LDFLAGS", "LD_LIBRARY_PATH", "MALLOC_PERTURB_", "DESTDIR"):
            environment.pop(name, None)
        call(["dpkg-buildpackage", "-b", "-uc", "-us"], cwd=tree, env=environment)
        cls.files = {os.path.basename(p).split("_")[0]: p
                     for p in glob.glob(cls.place + "/*.deb")}
        cls.root = cls.place + "/root"
        os.makedirs(cls.root + "/var/lib/dpkg/info")
        os.makedirs(cls.root + "/var/lib/dpkg/updates")
        for name in ("status", "available"):
            open(f"{cls.root}/var/lib/dpkg/{name}", "w").close()
        cls.dpkg("--install", *cls.files.values())

    @classmethod
    def dpkg(cls, *words):
        # what they depend on is the machine's; their scripts keep to the root they are told
        return call(["dpkg", "--root=" + cls.root, "--log=" + cls.place + "/log",
                     "--force-not-root", "--force-depends", "--force-script-chrootless", *words],
                    env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"))

    def fields(self, name):
        return dict(line.split(": ", 1) for line in
                    call(["dpkg-deb", "-f", self.files[name]]).splitlines() if ": " in line)

    def test_1_all_are_built(self):
        self.assertEqual(sorted(self.files), NAMES)

    def test_2_what_they_need(self):
        self.assertRegex(self.fields("cleaved")["Depends"], r"libjansson4.*libsystemd0")
        self.assertRegex(self.fields("libcleave-guard")["Depends"], r"^libc6 \(>= [\d.]+\)$")
        # nobody may come to depend on a package of ours for the driver's library
        for name in NAMES:
            self.assertNotIn("Provides", self.fields(name))
            listed = call(["dpkg-deb", "--ctrl-tarfile", self.files[name]], errors="replace")
            self.assertNotIn("shlibs", listed)

    def test_3_what_is_where(self):
        for path in ("usr/bin/cleave", "usr/sbin/cleaved", "usr/lib/cleave/guard/libcuda.so.1",
                     "usr/lib/cleave/guard/libcuda.so",
                     "usr/lib/cleave/guard/libnvidia-ml.so.1", "usr/lib/cleave/sim/libcuda.so.1",
                     "usr/share/man/man1/cleave-run.1.gz", "etc/cleave/cleave.conf",
                     "usr/share/bash-completion/completions/cleave",
                     "usr/share/zsh/vendor-completions/_cleave",
                     "usr/lib/sysusers.d/cleave.conf", "usr/lib/tmpfiles.d/cleave.conf",
                     "usr/share/doc/cleave/ARCHITECTURE.md.gz"):
            self.assertTrue(os.path.exists(f"{self.root}/{path}"), path)
        units = glob.glob(self.root + "/**/systemd/system/cleaved.*", recursive=True)
        self.assertEqual({os.path.basename(u) for u in units if "/etc/" not in u},
                         {"cleaved.service", "cleaved.socket"})
        for unit in units:
            with open(unit) as file:
                for program in re.findall(r"^Exec\w+=-?(/\S+)", file.read(), re.M):
                    self.assertTrue(os.access(self.root + program, os.X_OK), program)

    def test_4_it_runs(self):
        with Tenant(self.root + "/usr/bin/cleave", [PROBE]) as tenant:
            self.assertEqual((tenant.facts.get("cuda"), tenant.facts.get("nvml")), (GIB, GIB),
                             tenant.errors)
            self.assertEqual(tenant.facts["refused"], 2)
            with open(f"/proc/{tenant.daemon_pid()}/maps") as maps:
                self.assertIn(self.root + "/usr/sbin/cleaved", maps.read())

    def test_4_podman_and_our_packages_are_enough(self):
        if os.geteuid() != 0:
            self.skipTest("who is not root can make no root file system of his own")
        place = self.place + "/clean"
        os.mkdir(place)
        done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--kill-child", sys.executable,
                               "-B", HERE + "/clean_root.py", place, *self.files.values()], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              stdin=subprocess.DEVNULL, timeout=200)
        if done.returncode == SKIPPED or "unshare failed" in done.stdout:
            self.skipTest(done.stdout.strip().splitlines()[-1])
        self.assertEqual(done.returncode, 0, done.stdout)
        before, _, said = done.stdout.partition("\n$ ")
        self.assertIn("\ncleaved install ok installed", before)
        command, _, table = said.partition("\n")
        self.assertRegex(command, r"^podman .*run .*--device cleave.dev/gpu=mem-1G \S+ nvidia-smi$")
        self.assertEqual(re.findall(r"(\d+)MiB / +(\d+)MiB", table), [("0", "1024")], table)

    def test_5_nothing_is_left(self):
        self.dpkg("--purge", *NAMES)
        left = []
        for at, directories, files in os.walk(self.root):
            if at == self.root + "/var/lib":
                directories.remove("dpkg")
            left += [os.path.join(at, f) for f in files]
        self.assertEqual(left, [])


if __name__ == "__main__":
    SOURCE, PROBE = sys.argv[1:3]
    for program, package in (("dpkg-buildpackage", "dpkg-dev"), ("dh", "debhelper")):
        if not shutil.which(program):
            print(f"SKIP: {program} is missing; install {package} to build the packages")
            sys.exit(SKIPPED)
    if subprocess.run(["dpkg-checkbuilddeps"], cwd=SOURCE, capture_output=True).returncode:
        print("SKIP: not all that the packages are built with is installed as packages")
        sys.exit(SKIPPED)
    result = unittest.main(argv=sys.argv[:1], exit=False).result
    for _, why in result.skipped:
        print("SKIP:", why)
    sys.exit(not result.wasSuccessful())
