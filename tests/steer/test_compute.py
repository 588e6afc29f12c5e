#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Shares, caps and priorities of real processes on the simulated GPU: what the driver is told.

usage: test_compute.py BUILD [TEST...]
"""
import json
import os
import signal
import subprocess
import sys
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
from world import Failure, World, eventually, gone  # noqa: E402

BUILD = None
DEFAULT_SLICE = 2048


class Compute(unittest.TestCase):
    sim = "h100"

    def setUp(self):
        self.world = World(BUILD, self.sim)
        self.world.__enter__()
        self.addCleanup(self.world.__exit__)
        self.world.start_daemon()

    def tenant(self, name, *words, work=5000):
        """A program with a context, and with kernels of so many microseconds queued."""
        tool = self.world.tool("--memory", "1G", "--name", name, *words)
        tool("info")
        if work:
            tool("work", work)
        return tool

    def eye(self, seconds, *tools):
        done = subprocess.run([os.path.join(BUILD, "tests/steer/eye"), str(seconds),
                               *[str(tool.pid) for tool in tools]], env=self.world.env, text=True,
                              capture_output=True, check=True, timeout=60)
        return json.loads(done.stdout)

    def seen(self, seconds, tool):
        return self.eye(seconds, tool)[str(tool.pid)]

    def assert_settles(self, tool, least, most, seconds=30):
        """The part of the time in which it may work gets there: on a machine that is busy itself,
        what came too late is made up for, so one look is not enough."""
        seen = {}

        def right():
            seen.update(self.seen(1.5, tool))
            return least < seen["on"] < most
        self.assertTrue(eventually(right, seconds), (seen, self.world.log()))

    def steering(self):
        """The steering process, or None."""
        detail = self.world.control("daemon.info")["compute"]["detail"]
        return int(detail.split()[-1]) if "process" in detail and detail[-1].isdigit() else None

    def use(self, name):
        return self.world.json("inspect", name)["devices"][0]["compute"]

    def slices(self, *tools):
        seen = self.eye(0, *tools)
        return [seen[str(tool.pid)]["slice_us"] for tool in tools]

    def ratio(self, a, b):
        one, other = self.slices(a, b)
        return one / other if DEFAULT_SLICE not in (one, other) else 0

    def events(self, kind):
        out = self.world.cleave("events", "-o", "json")[1]
        return [event for event in map(json.loads, out.splitlines()) if event["kind"] == kind]

    # terms

    def test_nothing_runs_without_terms(self):
        tool = self.tenant("plain")
        time.sleep(0.1)
        self.assertIsNone(self.steering())
        self.assertIn("not in use", self.world.control("daemon.info")["compute"]["detail"])
        self.assertEqual(self.slices(tool), [DEFAULT_SLICE])
        shown = self.world.json("inspect", "plain")
        self.assertIsNone(shown["compute"])
        self.assertIsNone(shown["devices"][0]["compute"])

    def test_guarantees_add_up_to_100(self):
        self.tenant("a", "--compute", "70")
        status, _, err = self.world.cleave("run", "--memory", "1G", "--compute", "31", "--",
                                           "/bin/true", check=False)
        self.assertEqual(status, 125)
        self.assertIn("31 % of the time were asked, 30 % can still be guaranteed", err)
        self.tenant("b", "--compute", "30")
        status, _, err = self.world.cleave("set", "--compute", "71", "a", check=False)
        self.assertEqual(status, 6, err)
        self.assertEqual(self.world.json("inspect", "a")["compute"], 70)
        # neither of two changes is made when one cannot be
        status, _, err = self.world.cleave("set", "--compute", "10", "--memory", "900G", "a",
                                           check=False)
        self.assertEqual(status, 6, err)
        self.assertEqual(self.world.json("inspect", "a")["compute"], 70)
        for words in (["--compute", "101"], ["--compute", "1.5"], ["--compute-max", "0"],
                      ["--compute", "50", "--compute-max", "40"], ["--priority", "higher"]):
            status, _, err = self.world.cleave("set", *words, "a", check=False)
            self.assertEqual(status, 2, (words, err))

    def test_shown(self):
        self.tenant("a", "--compute", "30", "--compute-max", "50%", "--priority", "high", work=0)
        shown = eventually(lambda: (t := self.world.json("inspect", "a")) and
                           t["devices"][0]["compute"]["slice_us"] and t)
        self.assertEqual((shown["compute"], shown["compute_max"], shown["priority"]),
                         (30, 50, "high"))
        self.assertEqual(shown["sharing"], "time")
        self.assertTrue(eventually(lambda: self.use("a")["source"] == "switches"))
        self.assertEqual(self.use("a")["gpu_seconds"], 0)
        self.assertIn("30% <50% high", self.world.cleave("ps")[1])
        self.assertIn("compute", self.world.cleave("inspect", "a")[1])
        doctor = self.world.cleave("doctor", check=False)[1]
        self.assertIn("channel control; use is read from the engine's context switches", doctor)

    # slices

    def test_slices_are_as_the_shares(self):
        a = self.tenant("a", "--compute", "75")
        b = self.tenant("b", "--compute", "25")
        self.assertTrue(eventually(lambda: 2.8 < self.ratio(a, b) < 3.2), self.slices(a, b))
        self.world.cleave("set", "--compute", "10", "a")
        self.world.cleave("set", "--compute", "90", "b")
        self.assertTrue(eventually(lambda: 8.4 < self.ratio(b, a) < 9.6), self.slices(a, b))
        # one without terms shares what is left, 0 here, and is not starved
        c = self.tenant("c")
        self.assertTrue(eventually(lambda: self.slices(c)[0] < self.slices(a)[0] and
                                   self.slices(c)[0] >= 200), self.slices(a, b, c))

    def test_slices_come_back(self):
        # without work, so that nothing else changes them
        a = self.tenant("a", "--compute", "75", work=0)
        self.assertTrue(eventually(lambda: self.slices(a) != [DEFAULT_SLICE]))
        time.sleep(0.5)
        subprocess.run([os.path.join(BUILD, "tests/steer/eye"), "slice", str(a.pid), "60000"],
                       env=self.world.env, check=True)
        self.assertEqual(self.slices(a), [60000])
        self.assertTrue(eventually(lambda: self.slices(a)[0] < 60000), self.slices(a))
        event = eventually(lambda: self.events("compute-restored"))[0]
        self.assertEqual(event["pid"], a.pid)
        self.assertEqual(event["detail"]["found_us"], 60000)
        # also of the last of many, of whom some are looked at each second
        for i in range(11):
            last = self.tenant(f"more{i}", "--compute", "2")
        self.assertTrue(eventually(lambda: self.slices(last) != [DEFAULT_SLICE]))
        for tool in (last, a):
            subprocess.run([os.path.join(BUILD, "tests/steer/eye"), "slice", str(tool.pid), "60000"],
                           env=self.world.env, check=True)
            self.assertTrue(eventually(lambda t=tool: self.slices(t)[0] < 60000), self.slices(tool))

    def test_a_new_context_gets_its_slice(self):
        a = self.tenant("a", "--compute", "75")
        b = self.tenant("b", "--compute", "25")
        self.assertTrue(eventually(lambda: self.ratio(a, b) > 2.8))
        with_one = self.eye(0, a)[str(a.pid)]["groups"]
        self.assertEqual(with_one, 1)
        a.process.stdin.close()
        a.process.wait()
        self.assertTrue(eventually(lambda: len(self.world.tenants()) == 1))
        again = self.tenant("again", "--compute", "75")
        self.assertTrue(eventually(lambda: 2.8 < self.ratio(again, b) < 3.2),
                        self.slices(again, b))

    # caps

    def test_cap(self):
        a = self.tenant("a", "--compute-max", "25")
        self.assert_settles(a, 0.2, 0.3)
        # changed while it runs, both ways
        self.world.cleave("set", "--compute-max", "60", "a")
        self.assert_settles(a, 0.53, 0.67)
        self.world.cleave("set", "--compute-max", "100", "a")
        time.sleep(0.2)
        seen = self.seen(0.5, a)
        self.assertEqual((seen["on"], seen["off_now"]), (1, 0), seen)
        # nothing is asked for any more: no steering process is left, and slices are as before
        self.assertTrue(eventually(lambda: self.steering() is None))
        self.assertTrue(eventually(lambda: self.slices(a) == [DEFAULT_SLICE]))

    def test_who_wants_less_than_his_cap_has_it(self):
        """Alone on the device nobody sees when he pauses; and when he wants all, the cap holds."""
        tool = self.world.tool("--quiet", "--memory", "1G", "--name", "light", "--compute-max", "90")
        tool("pace", 1000, 20000)
        time.sleep(1)
        wanted = self.rate(tool, 2)
        self.world.cleave("set", "light", "--compute-max", "10")
        self.assertTrue(eventually(lambda: self.rate(tool, 1) > 0.8 * wanted, 15), wanted)
        tool("rest")
        tool("loop", 1000)
        time.sleep(1)
        self.assertTrue(eventually(lambda: 0.07 < self.rate(tool, 1) * 0.001 < 0.12, 20))
        tool.end()

    def rate(self, tool, seconds):
        """Kernels a second."""
        start, before = time.monotonic(), tool("launched")
        time.sleep(seconds)
        return (tool("launched") - before) / (time.monotonic() - start)

    def test_a_capped_tenant_makes_contexts(self):
        """None of its channels is forgotten, at whatever moment of its period others come."""
        a = self.world.tool("--memory", "4G", "--name", "a", "--compute-max", "20")
        a("loop", 1000)
        self.assertEqual(a("contexts", 40, 500), 0)
        before = a("launched")
        self.assertTrue(eventually(lambda: a("launched") > before + 20), (self.seen(0.5, a),
                                                                         self.use("a")))

    def test_more_contexts_than_can_be_steered(self):
        """Other engines' groups make room for those with work; who has too many of these is told."""
        a = self.world.tool("--memory", "60G", "--name", "a", "--compute-max", "50")
        self.assertEqual(a("hold", 40), 0)
        self.assertTrue(eventually(lambda: self.eye(0, a)[str(a.pid)]["groups"] == 41))
        time.sleep(0.2)
        self.assertFalse(self.events("compute-refused"))
        self.assertEqual(a("hold", 20), 0)
        event = eventually(lambda: self.events("compute-refused"))[0]
        self.assertIn("more channel groups than the 48", event["message"])

    def test_use_is_counted(self):
        """By the record of context switches, beside another and alone."""
        a = self.tenant("a", "--compute", "60")
        b = self.tenant("b", "--compute", "40")
        idle = self.tenant("idle", "--compute-max", "10", work=0)
        self.assertTrue(eventually(lambda: self.use("a")["source"] == "switches" and
                                   1.3 < self.ratio(a, b) < 1.7))

        def shares():
            return [self.use(name)["gpu_share"] or 0 for name in ("a", "b", "idle")]

        def right():
            one, other, nothing = shares()
            return nothing == 0 and one + other > 0.8 and 0.52 < one / (one + other) < 0.68
        self.assertTrue(eventually(right, 30), shares())
        # idle time goes to the other
        b("rest")
        self.assertTrue(eventually(lambda: shares()[0] > 0.9 and shares()[1] == 0, 30), shares())
        # who has nothing to do is not switched off, whatever its cap
        self.assertEqual(self.seen(0.2, idle)["off_now"], 0)
        a("rest")
        self.assertTrue(eventually(lambda: shares() == [0, 0, 0], 30), shares())
        # and the counter stands still
        before = self.use("a")["gpu_seconds"]
        time.sleep(1)
        self.assertEqual(self.use("a")["gpu_seconds"], before)
        self.assertGreater(before, 1)

    def two_in_turns(self, microseconds=1000):
        """Two that wait for each kernel, once they are known to."""
        tools = [self.tenant(name, "--compute", "50", work=0) for name in "ab"]
        for tool in tools:
            tool("loop", microseconds)
        self.assertTrue(eventually(lambda: self.use("a")["turns"] and self.use("b")["turns"], 30),
                        self.use("a"))
        return tools

    def test_loops_take_turns(self):
        """Two that wait for each kernel: found out from the record, and served by turns."""
        a, b = self.two_in_turns()
        self.assertTrue(eventually(lambda: self.eye(1, a, b)["on_together"] < 0.3, 30))
        self.assertTrue(eventually(lambda: "loop" in (self.use("a")["demand"],
                                                      self.use("b")["demand"]), 30))
        # alone, nobody is kept from anything
        b("rest")
        self.assertTrue(eventually(lambda: self.seen(0.3, a)["on"] == 1, 30), self.use("a"))

    def by_clock(self):
        return [self.use(name)["by_clock"] for name in "ab"]

    def progress(self, seconds, *tools):
        before = [tool("launched") for tool in tools]
        time.sleep(seconds)
        return [tool("launched") - was for tool, was in zip(tools, before)]

    def test_short_loops_keep_their_turns_by_the_clock(self):
        """Nobody need be disabled where launches keep to what the page says."""
        a, b = self.two_in_turns(100)
        self.assertTrue(eventually(lambda: all(self.by_clock()), 30), self.use("a"))

        def undisturbed():
            # all the while enabled, and as many launches of each
            done = self.progress(1, a, b)
            seen = self.eye(1, a, b)["on_together"]
            return seen == 1 and all(self.by_clock()) and min(done) > 500 and \
                max(done) < 1.5 * min(done)
        self.assertTrue(eventually(undisturbed, 30), self.use("a"))
        # nobody waits for a daemon that is gone, nor for a steering process
        for died in range(2):
            if died:
                self.world.kill_daemon()
            else:
                os.kill(self.steering(), signal.SIGKILL)
            for _ in range(5):
                self.assertGreater(min(self.progress(0.2, a, b)), 10)
            self.assertTrue(eventually(lambda: all(self.by_clock()), 30), self.use("a"))
        # alone, nobody waits for his turn
        b("rest")
        self.assertTrue(eventually(lambda: self.by_clock() == [False, False]), self.use("a"))

    def test_who_does_not_keep_his_turns_is_disabled(self):
        """What is queued in one's turn goes on in the other's, whose launches wait."""
        a, b = self.two_in_turns(100)
        self.assertTrue(eventually(lambda: all(self.by_clock()), 30), self.use("a"))
        b("work", 100)
        self.assertTrue(eventually(lambda: not any(self.by_clock()), 30), self.use("b"))
        self.assertTrue(eventually(lambda: self.eye(1, a, b)["on_together"] < 0.5, 30))
        # of what it can use on a machine that is busy with both
        time.sleep(2)
        self.assertTrue(eventually(lambda: (self.use("a")["gpu_share"] or 0) > 0.2, 30),
                        self.use("a"))

    def test_turns_do_not_wait_for_what_the_driver_says(self):
        """It answers late while it takes down contexts; what is asked of it then is for nobody who
        waits for his turn."""
        self.world.stop_daemon()
        self.world.env["CLEAVE_SIM_FAULTS"] = "slow=400ms@nvmlDeviceGetComputeRunningProcesses_v3"
        self.world.start_daemon()
        del self.world.env["CLEAVE_SIM_FAULTS"]
        a, b = self.two_in_turns()
        end, took, seen = threading.Event(), [], []

        def ask():
            while not end.is_set():
                began = time.monotonic()
                self.use("a")
                took.append(time.monotonic() - began)
        asking = threading.Thread(target=ask)

        def undisturbed():
            # for longer than an answer may be late before it is waited for
            looked = self.eye(6, a, b)
            seen.append(looked)
            return looked["on_together"] < 0.3 and \
                max(looked[str(tool.pid)]["longest_off_ms"] for tool in (a, b)) < 200
        asking.start()
        try:
            self.assertTrue(eventually(undisturbed, 20), seen)
        finally:
            end.set()
            asking.join()
        # nor does anybody else wait for it, but for what a busy machine may do to one or two
        self.assertLess(sorted(took)[-3], 0.3)
        # and what it says is heard, and waited for: a tenant that has died goes when its memory is
        # back, which what was said before it came does not tell
        c = self.tenant("c", work=0)
        began = time.monotonic()
        os.kill(c.pid, signal.SIGKILL)
        self.assertTrue(eventually(lambda: "c" not in [t["name"] for t in self.world.tenants()],
                                   10))
        self.assertGreater(time.monotonic() - began, 0.3)
        os.kill(b.pid, signal.SIGKILL)
        self.assertTrue(eventually(lambda: [t["name"] for t in self.world.json("ps")["tenants"]] ==
                                   ["a"], 10), self.world.json("ps")["tenants"][1:])

    def test_what_is_seen_can_be_kept(self):
        """CLEAVE_SWITCHES, and what the model makes of it when it is told the same again."""
        self.world.stop_daemon()
        kept = os.path.join(self.world.place, "switches")
        self.world.env["CLEAVE_SWITCHES"] = kept
        self.world.start_daemon()
        tools = [self.tenant("a", "--compute", "40"), self.tenant("b", "--compute", "40")]
        self.assertTrue(eventually(lambda: [self.use(n)["demand"] for n in "ab"] ==
                                   ["backlog", "backlog"]), self.use("a"))
        time.sleep(0.5)
        capped = self.tenant("c", "--compute-max", "4")
        self.assertTrue(eventually(lambda: self.seen(0.2, capped)["on"] < 0.8), self.use("c"))
        pid = self.steering()
        # some of his periods
        time.sleep(0.5)
        self.world.stop_daemon()
        self.assertTrue(eventually(lambda: gone(pid), 5))
        path = f"{kept}.{pid}"
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        out = self.replay(path)
        for tool in tools:
            # words of the line of that process, and the line of its runs that were cut
            at = [i for i, line in enumerate(out) if f" process {tool.pid}:" in line]
            self.assertTrue(at, out)
            self.assertGreater(float(out[at[0]].split()[5]), 0.1, out)
            self.assertEqual(out[at[0] + 1].split()[0], "cut", out)
            self.assertGreater(int(out[at[0] + 1].split()[1]), 5, out)
        self.assertGreater(sum(": cut" in line for line in self.replay("--runs", path)), 10)
        # and how late the calls for the third were
        at = [i for i, line in enumerate(out) if line.endswith("disable or enable, late by")]
        self.assertEqual(len(at), 1, out)
        self.assertGreater(int(out[at[0]].split()[2]), 3, out)
        for line, word in zip(out[at[0] + 1:], ("sent", "received")):
            words = line.replace(",", "").split()
            self.assertEqual(words[0], word, out)
            self.assertTrue(0 < float(words[1]) <= float(words[4]) < 1e7, out)
        # what is no such file is not taken for one
        broken = os.path.join(self.world.place, "broken")
        with open(broken, "w", encoding="ascii") as file:
            file.write("record 0 1\nrecord 99 1 2 1\n")
        self.assertEqual(subprocess.run([self.probe_replay(), broken], stderr=subprocess.DEVNULL,
                                        check=False).returncode, 1)

    def probe_replay(self):
        return os.path.join(BUILD, "bench/probes/probe-replay")

    def replay(self, *words):
        return subprocess.run([self.probe_replay(), *words], text=True, capture_output=True, check=True,
                              timeout=60).stdout.splitlines()

    def test_terms_that_come_later(self):
        """Then the descriptors of its processes are taken from them."""
        a = self.tenant("a")
        self.world.cleave("set", "--compute-max", "30", "a")
        time.sleep(0.3)
        if self.events("compute-refused"):
            self.skipTest("descriptors of other processes cannot be taken here")
        self.assert_settles(a, 0.24, 0.36)

    # ends

    def test_everything_comes_back_when_tenants_end(self):
        a = self.tenant("a", "--compute-max", "10")
        plain = self.tenant("plain")
        self.assertTrue(eventually(lambda: self.seen(0.2, a)["on"] < 0.5))
        pid = self.steering()
        a.process.kill()
        self.assertTrue(eventually(lambda: not [t for t in self.world.tenants()
                                                if t["name"] == "a"] or
                                   os.kill(a.pid, signal.SIGKILL)))
        self.assertTrue(eventually(lambda: gone(pid), 5))
        seen = self.seen(0.1, plain)
        self.assertEqual((seen["off_now"], seen["slice_us"]), (0, DEFAULT_SLICE))

    def test_daemon_ends(self):
        a = self.tenant("a", "--compute-max", "10")
        self.assertTrue(eventually(lambda: self.seen(0.2, a)["on"] < 0.5))
        pid = self.steering()
        self.world.stop_daemon()
        self.assertTrue(eventually(lambda: gone(pid), 5))
        seen = self.seen(0.3, a)
        self.assertEqual((seen["on"], seen["off_now"], seen["slice_us"]), (1, 0, DEFAULT_SLICE))

    def test_steering_killed(self):
        a = self.tenant("a", "--compute-max", "20")
        self.assertTrue(eventually(lambda: self.seen(0.2, a)["on"] < 0.5))
        for pause in (0, 0.007, 0.041):
            pid = eventually(self.steering)
            time.sleep(pause)
            os.kill(pid, signal.SIGKILL)
            self.assertTrue(eventually(lambda: self.steering() not in (None, pid)), self.world.log())
            self.assert_settles(a, 0.13, 0.27)
            # also what it has used is read again, whatever was disabled when the first was killed
            self.assertTrue(eventually(lambda: self.use("a")["source"] == "switches"), self.use("a"))
        self.assertFalse(self.events("steering-failed"))

    def test_steering_killed_as_it_starts(self):
        """Once is no sign that it cannot start, however often others were killed before."""
        a = self.tenant("a", "--compute-max", "20")
        for _ in range(3):
            self.assertTrue(eventually(lambda: self.seen(0.2, a)["on"] < 0.5))
            pid = self.steering()
            os.kill(pid, signal.SIGKILL)
            again = eventually(lambda: self.steering() not in (None, pid) and self.steering(),
                               pause=0.001)
            os.kill(again, signal.SIGKILL)
            eventually(lambda: gone(again), 5, 0.001)
        self.assert_settles(a, 0.13, 0.27)
        self.assertFalse(self.events("steering-failed"))
        self.assertEqual(self.use("a")["mechanism"], "channel-control")

    def test_steering_hangs(self):
        """Whom it has disabled does not wait for it for ever."""
        a = self.tenant("a", "--compute-max", "5")
        self.assertTrue(eventually(lambda: self.seen(0.2, a)["on"] < 0.5))
        pid = self.steering()
        eventually(lambda: self.seen(0, a)["off_now"] > 0, pause=0)
        os.kill(pid, signal.SIGSTOP)
        self.assertTrue(eventually(lambda: self.steering() not in (None, pid), 20),
                        self.world.log())
        self.assertTrue(eventually(lambda: gone(pid), 5))
        self.assert_settles(a, 0.02, 0.09)
        self.assertFalse(self.events("steering-failed"))

    def test_steering_hangs_and_daemon_killed(self):
        """The next one ends the one before, which nobody else knows any more."""
        a = self.tenant("a", "--compute-max", "5")
        self.assertTrue(eventually(lambda: self.seen(0.2, a)["on"] < 0.5))
        pid = self.steering()
        eventually(lambda: self.seen(0, a)["off_now"] > 0, pause=0)
        os.kill(pid, signal.SIGSTOP)
        old = self.world.kill_daemon()
        self.assertTrue(eventually(lambda: self.world.daemon_pid() not in (None, old)))
        self.assertTrue(eventually(lambda: gone(pid), 20), self.world.log())
        if self.events("compute-refused"):
            self.skipTest("descriptors of other processes cannot be taken here")
        self.assert_settles(a, 0.02, 0.09)

    def test_tenant_killed_while_disabled(self):
        """Before and after the steering process, or the daemon: nobody else has to suffer."""
        b = self.tenant("b", "--compute-max", "30")
        for first, second in (("tenant", "steering"), ("steering", "tenant"),
                              ("tenant", "daemon"), ("daemon", "tenant")):
            a = self.tenant("a" + first + second, "--compute-max", "5")
            self.assertTrue(eventually(lambda: self.seen(0.2, a)["on"] < 0.5))
            pids = {"tenant": a.pid, "steering": self.steering(),
                    "daemon": self.world.daemon_pid()}
            eventually(lambda: self.seen(0, a)["off_now"] > 0, pause=0)
            for victim in (first, second):
                os.kill(pids[victim], signal.SIGKILL)
            self.assertTrue(eventually(
                lambda: self.world.daemon_pid() and
                [t["name"] for t in self.world.tenants()] == ["b"]), (first, second))
            self.assertTrue(eventually(self.steering), self.world.log())
            if self.events("compute-refused"):
                self.skipTest("descriptors of other processes cannot be taken here")
            self.assert_settles(b, 0.22, 0.38)

    def test_daemon_killed(self):
        a = self.tenant("a", "--compute-max", "20")
        b = self.tenant("b", "--compute", "20", work=0)
        self.assertTrue(eventually(lambda: self.seen(0.2, a)["on"] < 0.5))
        for _ in range(2):
            steering, old = self.steering(), self.world.kill_daemon()
            self.assertTrue(eventually(lambda: gone(steering), 5))
            # the keeper starts it anew
            self.assertTrue(eventually(lambda: self.world.daemon_pid() not in (None, old)))
            self.assertEqual(self.world.json("inspect", "a")["compute_max"], 20)
            self.assertTrue(eventually(self.steering), self.world.log())
            if self.events("compute-refused"):
                self.skipTest("descriptors of other processes cannot be taken here")
            self.assert_settles(a, 0.13, 0.27)
        self.assertEqual(self.seen(0.1, b)["off_now"], 0)

    def test_both_killed(self):
        a = self.tenant("a", "--compute-max", "5")
        self.assertTrue(eventually(lambda: self.seen(0.2, a)["on"] < 0.5))
        steering, daemon = self.steering(), self.world.daemon_pid()
        eventually(lambda: self.seen(0, a)["off_now"] > 0, pause=0)
        os.kill(daemon, signal.SIGSTOP)
        os.kill(steering, signal.SIGKILL)
        os.kill(daemon, signal.SIGKILL)
        self.assertTrue(eventually(lambda: self.world.daemon_pid() not in (None, daemon)))
        self.assertTrue(eventually(lambda: self.seen(0, a)["off_now"] == 0, pause=0))
        self.world.cleave("set", "--compute-max", "100", "a")
        self.assertTrue(eventually(lambda: self.steering() is None))
        time.sleep(0.1)
        self.assertEqual(self.seen(0.2, a)["on"], 1)


class TwoDevices(Compute):
    sim = "h100x2"

    def test_one_phase_on_all_devices(self):
        """A tenant's channels on two devices are off at the same time."""
        a = self.world.tool("--memory", "0=1G,1=1G", "--name", "a", "--compute-max", "30")
        a("info")
        a("work", 5000)
        a("device", 1)
        a("info")
        a("work", 5000)
        self.assertTrue(eventually(lambda: self.seen(0.2, a)["on"] < 0.5))
        self.assertEqual(self.seen(0, a)["groups"], 2)
        # "on" is all of them on: were the phases apart it would be far less
        self.assert_settles(a, 0.24, 0.36)

    def test_what_the_driver_says_late_is_heard_of_all_devices(self):
        """While turns are taken it is asked of one in a turn, and its answers are fetched later."""
        self.world.stop_daemon()
        self.world.env["CLEAVE_SIM_FAULTS"] = "slow=30ms@nvmlDeviceGetComputeRunningProcesses_v3"
        self.world.start_daemon()
        del self.world.env["CLEAVE_SIM_FAULTS"]
        a, b = [self.world.tool("--memory", "0=4G,1=4G", "--name", name, "--compute", "50")
                for name in "ab"]
        for device in (0, 1):
            for tool in (a, b):
                tool("device", device)
                tool("info")
                tool("loop", 300)
        self.assertTrue(eventually(lambda: self.use("a")["turns"] and self.use("b")["turns"], 30),
                        self.use("a"))

        for device in (0, 1):
            a("device", device)
            self.assertEqual(a("alloc", 300 + 100 * device), 0)
        # nobody asks meanwhile but the daemon itself
        time.sleep(4)
        devices = self.world.json("inspect", "a")["devices"]
        for device, least in zip(devices, (300 << 20, 400 << 20)):
            self.assertGreater(device["memory_used"], least)
            self.assertEqual(device["memory_driver"], device["memory_used"])


for name in [n for n in dir(Compute) if n.startswith("test_")]:
    setattr(TwoDevices, name, None)

if __name__ == "__main__":
    BUILD = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
