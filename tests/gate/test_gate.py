#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Shares and caps of real processes on a simulated GPU whose driver refuses to be steered.

usage: test_gate.py BUILD [TEST...]

What a tenant gets is counted by the kernels that it has launched, not by what Cleave says. The
machine may be busy, and a simulated GPU runs on it: so figures are waited for, within wide bounds.
"""
import os
import subprocess
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
from world import World, eventually  # noqa: E402

BUILD = None
KERNEL = 2000  # microseconds


class Gated(unittest.TestCase):
    model = "h100"

    def setUp(self):
        self.world = World(BUILD, self.model)
        self.world.__enter__()
        self.addCleanup(self.world.__exit__)
        self.world.env["CLEAVE_SIM_FAULTS"] = "refuse"
        self.world.start_daemon()

    def tenant(self, name, *words, work="queue", kernel=KERNEL):
        tool = self.world.tool("--memory", "1G", "--name", name, *words)
        tool("info")
        if work:
            tool(work, kernel)
        return tool

    def use(self, name):
        return self.world.json("inspect", name)["devices"][0]["compute"]

    def events(self, kind):
        return kind in self.world.cleave("events")[1]

    def parts(self, seconds, *tools, kernel=KERNEL):
        """Of the time, that the kernels take which each of them launches meanwhile."""
        start, before = time.monotonic(), [tool("launched") for tool in tools]
        time.sleep(seconds)
        after, took = [tool("launched") for tool in tools], time.monotonic() - start
        return [(b - a) * kernel / 1e6 / took for a, b in zip(before, after)]

    def assert_settles(self, right, *tools, kernel=KERNEL, seconds=30):
        """right(parts) becomes true."""
        seen = []

        def look():
            seen.append(self.parts(1, *tools, kernel=kernel))
            return right(seen[-1])
        self.assertTrue(eventually(look, seconds), (seen, self.world.log()))

    def assert_capped(self, tool, cap, kernel=KERNEL):
        self.assert_settles(lambda parts: 0.8 * cap < parts[0] < 1.15 * cap, tool, kernel=kernel)


class Gate(Gated):
    def test_says_so(self):
        self.tenant("a", "--compute", "30", "--compute-max", "50")
        self.assertTrue(eventually(lambda: self.use("a")["mechanism"] == "gate"), self.use("a"))
        self.assertIn("steer nobody (permission denied)", self.use("a")["mechanism_why"])
        self.assertTrue(eventually(lambda: self.use("a")["source"] == "markers" and
                                   self.use("a")["gpu_seconds"]), self.use("a"))
        self.assertIsNone(self.use("a")["slice_us"])
        self.assertTrue(self.events("compute-gated"))
        self.assertFalse(self.events("compute-refused"))
        info = self.world.control("daemon.info")["compute"]
        self.assertEqual(info["mechanism"], "gate")
        self.assertIn("permission denied", info["detail"])
        doctor = self.world.cleave("doctor", check=False)[1]
        self.assertIn("wait for their turn at a gate", doctor)
        shown = self.world.cleave("inspect", "a")[1]
        self.assertIn("a gate in its processes: the driver lets this daemon steer nobody", shown)
        self.assertIn("markers at the gate", shown)
        # what the guard measures is what was launched
        tool = self.tenant("b", "--compute-max", "40")
        self.assertTrue(eventually(lambda: self.use("b")["gpu_seconds"]))

        def right():
            seconds, start = self.use("b")["gpu_seconds"], time.monotonic()
            launched = self.parts(1, tool)[0] * (time.monotonic() - start)
            return abs(self.use("b")["gpu_seconds"] - seconds - launched) < 0.25 * launched
        self.assertTrue(eventually(right, 30))

    def test_caps(self):
        a = self.tenant("a", "--compute-max", "10")
        self.assert_capped(a, 0.1)
        self.world.cleave("set", "--compute-max", "25", "a")
        self.assert_capped(a, 0.25)
        self.world.cleave("set", "--compute-max", "50", "a")
        self.assert_capped(a, 0.5)
        # kernels that are longer than what it may use in a period
        a("rest")
        a("queue", 40000)
        self.world.cleave("set", "--compute-max", "20", "a")
        self.assert_settles(lambda parts: 0.12 < parts[0] < 0.28, a, kernel=40000)
        # and none: the gate stands open
        a("rest")
        a("queue", KERNEL)
        self.world.cleave("set", "--compute-max", "100", "a")
        self.assert_settles(lambda parts: parts[0] > 0.75, a)

    def test_shares(self):
        a = self.tenant("a", "--compute", "25")
        b = self.tenant("b", "--compute", "75")

        def is_shared(part):
            return lambda parts: sum(parts) > 0.6 and \
                part - 0.07 < parts[0] / sum(parts) < part + 0.07
        self.assert_settles(is_shared(0.25), a, b)
        self.world.cleave("set", "--compute", "50", "b")
        self.world.cleave("set", "--compute", "50", "a")
        self.assert_settles(is_shared(0.5), a, b)
        # who rests leaves it to the other, and so does who is killed
        b("rest")
        self.assert_settles(lambda parts: parts[0] > 0.75, a)
        b("queue", KERNEL)
        self.assert_settles(is_shared(0.5), a, b)
        os.kill(b.pid, 9)
        self.assert_settles(lambda parts: parts[0] > 0.75, a)

    def test_daemon_killed(self):
        a = self.tenant("a", "--compute-max", "25")
        self.assert_capped(a, 0.25)
        old = self.world.kill_daemon()
        self.assert_settles(lambda parts: parts[0] > 0.05, a)
        # the keeper starts it anew
        self.assertTrue(eventually(lambda: self.world.daemon_pid() not in (None, old)))
        self.assert_capped(a, 0.25)
        # no daemon at all: it goes on at the rate that it had
        self.world.stop_daemon()
        time.sleep(1.2)
        self.assert_settles(lambda parts: 0.1 < parts[0] < 0.33, a)

    def test_the_api_behind_a_gate(self):
        """Captures, graphs, streams and launches are as without one."""
        program = os.path.join(self.world.build, "tests/conformance/conformance")
        cases = [name for name in subprocess.run([program, "--list"], env=self.world.env, text=True,
                                                 capture_output=True, check=True).stdout.split()
                 if name.startswith(("capture", "graph", "launch", "stream", "events"))]
        self.assertGreater(len(cases), 20)
        process = self.world.run("--memory", "40G", "--compute-max", "90", program=[program, *cases])
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, out + err)

    def test_configured(self):
        """A driver that would let itself be steered is not, if the configuration says so."""
        self.world.stop_daemon()
        del self.world.env["CLEAVE_SIM_FAULTS"]
        path = os.path.join(self.world.place, "cleave.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write("[device]\ncompute = gate\n")
        self.world.start_daemon(f"--config={path}")
        a = self.tenant("a", "--compute-max", "30")
        self.assertEqual(self.use("a")["mechanism_why"], "the configuration says so")
        self.assert_capped(a, 0.3)
        self.assertEqual(self.use("a")["source"], "markers")


class Devices(Gated):
    model = "h100x2"

    def test_one_phase(self):
        """Who has two devices has its turns on both at once: kernels that meet lose no time."""
        meeting = self.tenant("meeting", "--device", "0", "--device", "1", "--compute", "40",
                              work="meet", kernel=500)
        beside = [self.tenant("a", "--device", "0", "--compute", "60"),
                  self.tenant("b", "--device", "1", "--compute", "30"),
                  self.tenant("c", "--device", "1", "--compute", "30")]

        def right(parts):
            # of 2 ms each, as the others' are
            return parts[0] / 4 > 0.2 and parts[1] > 0.45 and min(parts[2:]) > 0.2
        self.assert_settles(right, meeting, *beside)
        devices = self.world.json("inspect", "meeting")["devices"]
        self.assertEqual([entry["compute"]["mechanism"] for entry in devices], ["gate", "gate"])
        # a cap is used up on both
        for tool in beside:
            tool("rest")
        self.world.cleave("set", "--compute", "0", "--compute-max", "25", "meeting")
        self.assert_settles(lambda parts: 0.15 < parts[0] / 4 < 0.29, meeting)


if __name__ == "__main__":
    BUILD = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
