#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tenants that share a device in space, from the command line to what their programs see.

usage: test_space.py BUILD [TEST...]
"""
import json
import os
import signal
import subprocess
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from world import Failure, World, eventually, gone  # noqa: E402

BUILD = None
VIEWS = [sys.executable, os.path.join(HERE, "space_views.py")]
# begins, and gets a context, twice each: what it gets, up to the second failure
TRIES = """
import ctypes, json
cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
got = [cuda.cuInit(0)]
for _ in range(2 if got[0] == 0 else 1):
    got.append(cuda.cuInit(0) if got[0] else cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
print(json.dumps(got), flush=True)
"""
SPACE = ["--memory", "2G", "--sharing", "spatial", "--device", "0"]


class Space(unittest.TestCase):
    def setUp(self):
        self.world = World(BUILD, "h100x2")
        self.world.__enter__()
        self.addCleanup(self.world.__exit__)
        self.addCleanup(self.quiet)
        self.world.start_daemon()

    def quiet(self):
        """Waits for the servers that the daemon ends, and ends what a failed test has left."""
        for tenant in self.world.tenants():
            self.world.cleave("stop", "--timeout", "0", tenant["id"], check=False)
        root = os.path.join(self.world.runtime, "mps")
        if not eventually(lambda: not self.servers(), 20):
            for name in self.servers():
                self.world.cleave("mps", "stop", name, check=False)
        self.assertEqual(self.servers(), [], root)

    def servers(self):
        root = os.path.join(self.world.runtime, "mps")
        return [n for n in os.listdir(root) if n[0] != "."] if os.path.isdir(root) else []

    def start(self, *words, program=None, base=SPACE):
        """A tenant whose program has said its first line."""
        process = self.world.run("--quiet", *base, *words, program=program or [*VIEWS, "1"])
        line = process.stdout.readline()
        if not line:
            raise Failure(process.communicate()[1])
        return process, json.loads(line)

    def end(self, *processes):
        for process in processes:
            process.communicate()
        self.assertTrue(eventually(lambda: not self.world.tenants()))

    def end_one(self, process):
        tenants = len(self.world.tenants())
        process.communicate()
        self.assertTrue(eventually(lambda: len(self.world.tenants()) < tenants))

    def space(self, name):
        return self.world.json("inspect", name)["space"]

    def refused(self, *words, status=125):
        done = subprocess.run([self.world.cleave_path, "run", *words, "--", "true"], text=True,
                              env=self.world.env, capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr

    def test_what_programs_see(self):
        process, seen = self.start("--compute", "50", program=VIEWS)
        self.end(process)
        self.assertEqual(seen, {
            "again": True, "current": True, "count": 64, "resource": 64, "of the context": 64,
            "groups": 8, "affinity": 64, "stream's": True, "stream's green": False,
            "memory's": True, "made is another": True, "made has": 64, "current after": True,
            "destroying the primary one": 201})
        # in steps of 2, a part that steps of 8 do not have
        process, seen = self.start("--compute", "30", "--sm-step", "2", program=VIEWS)
        self.end(process)
        self.assertEqual((seen["count"], seen["made has"]), (40, 40))
        # and without all this, the device is what it was
        process = self.world.run("--memory", "2G", program=VIEWS)
        seen = json.loads(process.communicate()[0])
        self.assertEqual((seen["count"], seen["stream's"], seen["resource"]), (132, True, 132))

    def test_the_runtime_begins_in_its_part(self):
        """The first of its threads and those after it, and again after a reset."""
        process, seen = self.start("--compute", "50", program=[*VIEWS, "runtime"])
        self.end(process)
        self.assertEqual(seen, {"sms": [64, 64, 64], "one context": True,
                                "it is the driver's": False, "after a reset": None})

    def test_sets(self):
        first, seen = self.start("--compute", "50", "--name", "first")
        self.assertEqual(seen["count"], 64)
        rest, seen = self.start("--name", "rest")
        self.assertEqual(seen["count"], 68)
        a, b = self.space("first"), self.space("rest")
        self.assertFalse(set(a["units"]) & set(b["units"]))
        self.assertEqual((a["sms"], a["sms_held"], a["fault_domain"]), (64, 64, ["rest"]))
        self.assertTrue(b["best_effort"])
        # what the best-effort tenant lives on is not given away
        self.assertIn("contexts of tenants without a share live on others",
                      self.refused(*SPACE, "--compute", "25"))
        self.assertIn("0 are free", self.refused(*SPACE, "--compute", "60"))
        # once its context has ended, it is; and the next context is on what is left
        print("end", file=rest.stdin, flush=True)
        self.assertEqual(json.loads(rest.stdout.readline()), {"left": 0})
        third, seen = self.start("--compute", "25", "--name", "third")
        self.assertEqual(seen["count"], 32)
        b, c = self.space("rest"), self.space("third")
        self.assertEqual((b["sms"] + c["sms"], b["sms_held"]), (68, 0))
        self.assertFalse(set(b["units"]) & set(c["units"]))
        # the set of a running tenant is fixed
        self.assertIn("fixed", self.world.cleave("set", "first", "--compute", "10", check=False)[2])
        self.end(first, rest, third)

    def test_modes_do_not_mix(self):
        side, _ = self.start("--compute", "25", "--name", "side")
        self.assertIn("in space already", self.refused("--memory", "1G", "--device", "0"))
        self.assertIn("not trusted", self.refused(*SPACE, "--untrusted"))
        self.assertIn("a cap of its own",
                      self.refused(*SPACE, "--compute-max", "50"))
        self.assertIn("is divided by 8 SMs",
                      self.refused(*SPACE, "--sm-step", "2"))
        self.assertIn("several devices", self.refused(*SPACE, "--device", "1"))
        # auto follows what runs, and inspect says so
        auto, _ = self.start("--name", "auto", base=[
            "--memory", "2G", "--sharing", "auto", "--device", "0"])
        shown = self.world.json("inspect", "auto")
        self.assertEqual((shown["sharing"], shown["sharing_why"]),
                         ("space", "other tenants share the device in space already"))
        out = self.world.cleave("inspect", "auto")[1]
        self.assertIn("fault domain      with side: a fault in one ends all", out)
        # the other device is shared in time, and stays so
        time = self.world.run("--memory", "1G", "--device", "1", program=["sleep", "60"])
        self.assertTrue(eventually(lambda: len(self.world.tenants()) == 3))
        self.assertIn("in time already", self.refused("--memory", "1G", "--sharing", "spatial", "--device", "1"))
        words = ["--sharing", "auto", "--priority", "high", "--compute", "25"]
        done = self.world.run("--memory", "1G", "--device", "1", *words, "--name", "there",
                              program=["sleep", "60"])
        self.assertTrue(eventually(lambda: len(self.world.tenants()) == 4))
        shown = self.world.json("inspect", "there")
        self.assertEqual((shown["sharing"], shown["sharing_why"]),
                         ("time", "other tenants share the device in time already"))
        for process in (time, done):
            process.terminate()
        self.end(side, auto, time, done)

    def test_shares_below_a_set(self):
        """1, 2 and 3 % have one set in common, and turns on it by their shares."""
        names = {"a": 1, "b": 2, "c": 3}

        def tool(name, share):
            one = self.world.tool("--quiet", *SPACE, "--name", name, "--compute", str(share))
            one("info")
            return one
        beside = tool("beside", 12)
        tools = {name: tool(name, share) for name, share in names.items()}
        shown = {name: self.space(name) for name in names}
        self.assertEqual([(s["sms"], s["part"]) for s in shown.values()],
                         [(8, 0.16), (8, 0.32), (8, 0.48)])
        self.assertEqual(len({tuple(s["units"]) for s in shown.values()}), 1)
        self.assertFalse(set(shown["a"]["units"]) & set(self.space("beside")["units"]))
        self.assertEqual((shown["b"]["shared_with"], self.space("beside")["shared_with"]),
                         (["a", "c"], []))
        for one in (beside, *tools.values()):
            one("queue", 2000)

        def parts(seconds=2):
            everybody = [*tools.values(), beside]
            start, before = time.monotonic(), [one("launched") for one in everybody]
            time.sleep(seconds)
            took = time.monotonic() - start
            return [(one("launched") - b) * 0.002 / took for one, b in zip(everybody, before)]

        def right():
            seen.append(parts())
            *small, large = seen[-1]
            total = sum(small)
            return 0.7 < total < 1.1 and large > 0.7 and all(
                abs(part / total - share / 6) < 0.06 for part, share in zip(small, (1, 2, 3)))
        seen = []
        self.assertTrue(eventually(right, 40), (seen, self.world.log()))
        text = self.world.cleave("inspect", "c")[1]
        self.assertIn("48 % guaranteed", text)
        self.assertIn("shared with       a, b", text)
        # with nobody beside it, one has the set to itself, and no gate
        for name in ("a", "b"):
            tools.pop(name).end()
        self.assertTrue(eventually(lambda: self.space("c")["shared_with"] == []))
        self.assertTrue(eventually(lambda: (seen.append(parts(1)), seen[-1][0] > 0.8)[1], 30), seen)
        self.assertIn("all of it, 48 % guaranteed", self.world.cleave("inspect", "c")[1])
        # another daemon finds them as they were
        again = tool("again", 2)
        self.world.kill_daemon()
        self.assertTrue(eventually(self.world.daemon_pid))
        self.assertTrue(eventually(lambda: self.space("c")["shared_with"] == ["again"]))
        self.assertEqual(self.space("again")["units"], self.space("c")["units"])
        again("queue", 2000)
        tools["again"] = again
        self.assertTrue(eventually(lambda: (seen.append(parts(1)), abs(
            seen[-1][1] / sum(seen[-1][:2]) - 0.4) < 0.1)[1], 30), (seen, self.world.log()))
        for one in (beside, *tools.values()):
            one.end()

    def test_queues_for_work(self):
        """By the share, so that all of a device's tenants find room; what the user has set stays."""
        show = ["sh", "-c", "echo '\"'$CUDA_DEVICE_MAX_CONNECTIONS'\"'; cat"]
        first, said = self.start("--compute", "7", program=show)
        self.assertEqual(said, "4")
        second, said = self.start("--compute", "50", program=show)
        self.assertEqual(said, "8")
        third, said = self.start(program=["env", "CUDA_DEVICE_MAX_CONNECTIONS=3", *show])
        self.assertEqual(said, "3")
        self.world.env["CUDA_DEVICE_MAX_CONNECTIONS"] = "5"
        fourth, said = self.start(program=show)
        del self.world.env["CUDA_DEVICE_MAX_CONNECTIONS"]
        self.assertEqual(said, "5")
        self.end(first, second, third, fourth)

    def test_a_small_share_is_no_reason_for_space(self):
        """It is known when the device's server has said how large the sets are."""
        process = self.world.run(
            "--quiet", "--memory", "2G", "--device", "0", "--name", "small", "--sharing", "auto",
            "--priority", "high", "--compute", "3", program=["sleep", "60"])
        self.assertTrue(eventually(self.world.tenants))
        shown = self.world.json("inspect", "small")
        self.assertEqual(shown["sharing"], "time")
        self.assertIn("less than the least set of SMs", shown["sharing_why"])
        self.assertTrue(eventually(lambda: not self.servers()))
        process.terminate()
        self.end(process)

    def test_run_says_what_is_shared(self):
        process = self.world.run(*SPACE, program=["true"])
        self.assertIn("on 132 of 132 SMs; tenants side by side share one MPS server: a fault in "
                      "one ends them all", process.communicate()[1])

    def test_without_the_server_there_is_no_context(self):
        process, seen = self.start(program=["env", "-u", "CUDA_MPS_PIPE_DIRECTORY", *VIEWS])
        self.assertEqual(seen, {"error": 805, "what": "cuDevicePrimaryCtxRetain"})
        self.end(process)

    def test_what_a_client_of_mps_may_meet(self):
        """Each of the codes has its sentence, the one of docs/space.md, wherever the driver says it."""
        with open(os.path.join(HERE, "../../docs/space.md"), encoding="utf-8") as file:
            rows = [line[2:].split(" | ") for line in file if line.startswith("| 8")]
        rows = {int(code): words for code, *words in rows}
        self.assertEqual(sorted(rows), [805, 806, 807, 808, 809, 810])
        holder, _ = self.start("--name", "holder", "--compute", "10")  # the server stays
        for code, entry in zip(rows, ("cuInit", "cuGreenCtxCreate") * 3):
            process, seen = self.start("--name", f"m{code}", "--compute", "10", program=[
                "env", f"CLEAVE_SIM_FAULTS=fail={code}@{entry}:1+", sys.executable, "-c", TRIES])
            self.assertIn(seen, ([code, code], [0, code, code]))
            self.end_one(process)
        events = [e for e in map(json.loads, self.world.cleave(
            "events", "-o", "json")[1].splitlines()) if e.get("kind") == "server-refused"]
        self.assertEqual([e["detail"]["code"] for e in events], list(rows))
        for event, (name, sentence, hint, _) in zip(events, rows.values()):
            code = event["detail"]["code"]
            name = name.strip("`")
            self.assertEqual((event["detail"]["name"], event["detail"]["hint"]), (name, hint))
            self.assertEqual(event["message"], f"process {event['pid']} of tenant m{code}: "
                             f"{sentence} ({name}, {code}). {hint}")
        self.end(holder)

    def test_another_daemon_goes_on(self):
        first, _ = self.start("--compute", "50", "--name", "first")
        before = self.space("first")
        self.world.kill_daemon()
        self.assertTrue(eventually(self.world.daemon_pid))
        self.assertTrue(eventually(lambda: self.space("first")["server"] == "serves"))
        after = self.space("first")
        for what in ("units", "server_pid", "sms_held", "step", "units_guaranteed"):
            self.assertEqual(after[what], before[what], what)
        second, seen = self.start("--name", "second")
        self.assertEqual(seen["count"], 68)
        self.assertFalse(set(self.space("second")["units"]) & set(after["units"]))
        self.end(first, second)

    def test_the_control_daemon_ends(self):
        first, _ = self.start("--name", "first")
        old = self.space("first")["server_pid"]
        pid = json.loads(self.world.cleave("mps", "status", "-o", "json")[1])["servers"][0]["pid"]
        os.kill(pid, signal.SIGKILL)
        self.assertTrue(eventually(lambda: self.space("first")["server_pid"] not in (None, old)))
        self.assertTrue(gone(old))
        kinds = [e["kind"] for e in map(json.loads, self.world.cleave(
            "events", "-o", "json")[1].splitlines()) if e.get("kind", "").startswith("server-")]
        self.assertEqual(kinds, ["server-lost", "server-back"])
        # who had a context has lost it; who comes now is served
        print("sync", file=first.stdin, flush=True)
        self.assertEqual(json.loads(first.stdout.readline()), {"result": 806})
        self.end(first)
        second, seen = self.start("--name", "second")
        self.assertEqual(seen["count"], 132)
        self.end(second)


if __name__ == "__main__":
    BUILD = sys.argv.pop(1)
    unittest.main()
