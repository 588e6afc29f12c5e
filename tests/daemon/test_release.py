#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_release.py BUILD: the daemon lets go of the driver on request, and while nothing is granted."""
import os
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
# pylint: disable-next=wrong-import-position
from world import GIB, World, eventually


class Release(unittest.TestCase):
    def start(self, config):
        self.world = World(BUILD).__enter__()
        self.addCleanup(self.world.__exit__, None, None, None)
        path = os.path.join(self.world.place, "cleave.conf")
        pathlib.Path(path).write_text(config, encoding="utf-8")
        subprocess.run([os.path.join(BUILD, "cleaved"), "--user", f"--config={path}",
                        f"--runtime-dir={self.world.runtime}"], env=self.world.env, check=True,
                       stdin=subprocess.DEVNULL, timeout=60)

    def held(self):
        """The simulated GPU's files that processes of the daemon have open or mapped."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if b"cleaved" not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    continue
                if self.world.place.encode() not in \
                        pathlib.Path(f"/proc/{pid}/environ").read_bytes():
                    continue
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
                maps = pathlib.Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
                found += [line.split(None, 5)[-1] for line in maps.splitlines()]
            except OSError:
                pass
        place = self.world.env["CLEAVE_SIM_DIR"]
        return [name for name in found if name.startswith(place)]

    def driver(self):
        info = self.world.control("daemon.info")
        self.assertEqual(info["backend"], "sim" if info["driver"] != "released" else "null")
        return info["driver"]

    def test_on_request(self):
        self.start("[daemon]\nrelease_after = infinity\n")
        self.assertEqual(len(self.world.json("devices")["devices"]), 1)
        self.assertNotEqual(self.held(), [], "or the test looks in the wrong place")
        self.world.cleave("release")
        self.assertEqual((self.held(), self.driver()), ([], "released"))
        for words in (["devices"], ["run", "--memory", "1G", "--", "true"],
                      ["run", "--memory", "1G", "--device", "0", "--", "true"]):
            status, _, error = self.world.cleave(*words, check=False)
            self.assertEqual(status, 125 if words[0] == "run" else 6, error)
            self.assertIn("has let go of the GPUs, as it was asked to", error)
            self.assertIn("cleave release --undo", error)
        self.assertIn("as it was asked to", self.world.cleave("doctor", check=False)[1])
        self.assertEqual(self.held(), [], "asking does not open it")
        self.world.cleave("release", "--undo")
        self.assertEqual(self.driver(), "open")
        with self.subTest("a tenant holds it"):
            tool = self.world.tool("--memory", "1G")
            status, _, error = self.world.cleave("release", check=False)
            self.assertEqual(status, 6)
            self.assertIn("1 tenants live", error)
            self.assertEqual(tool("info")[1], GIB)
            self.assertEqual(tool.end()[0], 0)
        events = self.world.cleave("events", "-o", "csv")[1]
        self.assertIn("devices-released", events)
        self.assertIn("devices-acquired", events)

    def test_while_nothing_is_granted(self):
        self.start("[daemon]\nrelease_after = 300ms\n")
        for _ in range(2):
            tool = self.world.tool("--memory", "1G", "--compute", "30")
            self.assertEqual(tool("alloc", 256), 0)
            self.assertEqual(self.driver(), "open")
            self.assertNotEqual(self.held(), [])
            self.assertEqual(tool.end()[0], 0)
            self.assertEqual(eventually(lambda: self.driver() == "resting"), True)
            self.assertEqual(eventually(lambda: not self.held()), True, self.held())
        self.assertIn("simulated", self.world.cleave("doctor", check=False)[1])
        self.assertEqual(eventually(lambda: self.driver() == "resting"), True)
        # opened for whoever asks, and let go of again
        self.assertEqual(self.world.json("devices")["devices"][0]["granted"], 0)
        self.assertEqual(eventually(lambda: self.driver() == "resting"), True)


if __name__ == "__main__":
    BUILD = os.path.abspath(sys.argv.pop(1))
    unittest.main()
