#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The whole of it: cleave, the daemon, the guard, the simulated GPU.

usage: test_e2e.py BUILD [TEST...]
"""
import json
import os
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from world import GIB, MIB, Tool, World, eventually  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = None
OUT_OF_MEMORY = 2


class EndToEnd(unittest.TestCase):
    sim = "h100"
    start = True

    def setUp(self):
        self.world = World(BUILD, self.sim)
        self.world.__enter__()
        self.addCleanup(self.world.__exit__)
        if self.start:
            self.world.start_daemon()

    def tenant(self, name):
        return self.world.json("inspect", name)

    def device(self, index=0):
        return self.world.devices()[index]

    def assert_empty(self):
        """Nothing is granted and nothing is held."""
        empty = eventually(lambda: not self.world.tenants() and self.device()["granted"] == 0 and
                           self.device()["used_by_tenants"] == 0, 5)
        self.assertTrue(empty, (self.world.tenants(), self.device()))


class Quota(EndToEnd):
    def test_is_the_size_of_the_gpu(self):
        tool = self.world.tool("--memory", "3G", "--name", "one")
        free, total = tool("info")
        self.assertEqual(total, 3 * GIB)
        self.assertLess(free, total)  # the context counts
        self.assertEqual(tool("total", 0), 3 * GIB)
        self.assertEqual(tool("alloc", 1024), 0)
        self.assertEqual(tool("alloc", 2048), OUT_OF_MEMORY)
        self.assertEqual(tool("alloc", 1024), 0)
        held = tool("info")
        self.assertEqual(tool("alloc", 3072), OUT_OF_MEMORY)
        self.assertEqual(tool("info"), held)  # refusal changes nothing

        shown = self.tenant("one")
        device = shown["devices"][0]
        self.assertEqual(device["memory"], 3 * GIB)
        self.assertEqual(device["memory_used"], 3 * GIB - held[0])
        self.assertLessEqual(device["memory_peak"], 3 * GIB)
        self.assertGreaterEqual(device["refusals"], 2)
        self.assertEqual([p["pid"] for p in shown["processes"]], [tool.pid])
        self.assertEqual(shown["state"], "running")
        listed = self.world.json("ps")["tenants"]
        self.assertEqual([t["id"] for t in listed], [shown["id"]])

        self.assertEqual(tool("free"), 0)
        self.assertEqual(tool("alloc", 1024), 0)
        print("quit 5", file=tool.process.stdin, flush=True)
        self.assertEqual(tool.end(), (5, "", ""))  # and nothing of ours was printed
        self.assert_empty()

    def test_by_every_name_of_the_library(self):
        for name in ("libcuda.so", "libcuda.so.1"):
            program = ["env", f"CUDA_LIBRARY={name}", sys.executable,
                       os.path.join(os.path.dirname(__file__), "cuda_tool.py")]
            tool = Tool(self.world, self.world.run("--memory", "3G", program=program))
            self.assertEqual(tool("total", 0), 3 * GIB, name)
            self.assertEqual(tool("alloc", 3072), OUT_OF_MEMORY, name)
            self.assertEqual(tool.end()[0], 0)
        program = [sys.executable, "-c", "import ctypes\n"
                   "for name in 'libnvidia-ml.so.1', 'libnvidia-ml.so':\n"
                   "    nvml, total = ctypes.CDLL(name), (ctypes.c_uint64 * 3)()\n"
                   "    device = ctypes.c_void_p()\n"
                   "    nvml.nvmlInit_v2()\n"
                   "    nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device))\n"
                   "    nvml.nvmlDeviceGetMemoryInfo(device, total)\n"
                   "    print(total[0])"]
        out, _ = self.world.run("--memory", "3G", program=program).communicate(timeout=60)
        self.assertEqual(out.split(), [str(3 * GIB)] * 2)

    def test_context_without_room_is_out_of_memory(self):
        # the driver may say otherwise of one for which it is refused memory: never to a program
        self.world.env["CLEAVE_SIM_FAULTS"] = "context=999"
        program = [sys.executable, os.path.join(ROOT, "tests/gpu/programs/contexts.py"), "128",
                   "700"]
        plain = subprocess.run(program, text=True, capture_output=True, check=True,
                               timeout=60, env={**self.world.env, "LD_LIBRARY_PATH":
                                                os.path.join(self.world.build, "src/sim")})
        self.assertIn(999, json.loads(plain.stdout).values())
        process = self.world.run("--memory", "2G", program=program)
        out, err = process.communicate(timeout=60)
        said = json.loads(out or err)
        self.assertEqual(set(said.values()), {0, OUT_OF_MEMORY}, said)
        tool = self.world.tool("--memory", "300M")  # less than the primary one takes
        self.assertEqual(tool("device", 0), OUT_OF_MEMORY)
        # what is not for want of memory stays what it is
        self.world.env["CLEAVE_SIM_FAULTS"] = "fail=999@cuDevicePrimaryCtxRetain:1+"
        self.assertEqual(self.world.tool("--memory", "2G")("device", 0), 999)

    def test_comes_back_between_processes(self):
        program = [sys.executable, os.path.join(os.path.dirname(__file__), "cuda_tool.py")]
        pair = self.world.run("--memory", "4G", "--name", "pair", program=[
            "sh", "-c", f"printf 'alloc 2048\\n' | {' '.join(program)};"
                        f"printf 'alloc 2048\\nalloc 2048\\n' | {' '.join(program)}"])
        out, err = pair.communicate(timeout=60)
        self.assertEqual(err, "")
        # One after the other: each has the whole quota, for what the first held is back.
        lines = out.splitlines()
        self.assertEqual((lines[1], lines[3:]), ("0", ["0", str(OUT_OF_MEMORY)]))

    def test_of_several_devices_in_one_machine(self):
        self.world.stop_daemon()
        self.world.env["CLEAVE_SIM"] = "h100x2"
        self.world.env["CLEAVE_SIM_DIR"] += "2"
        self.world.start_daemon()
        tool = self.world.tool("--memory", "0=1G,1=2G", "--name", "two")
        self.assertEqual(tool("count"), 2)
        self.assertEqual([tool("total", 0), tool("total", 1)], [GIB, 2 * GIB])
        self.assertEqual(tool("alloc", 1024), OUT_OF_MEMORY)
        self.assertEqual(tool("device", 1), 0)
        self.assertEqual(tool("alloc", 1024), 0)
        devices = self.tenant("two")["devices"]
        self.assertEqual([d["memory"] for d in devices], [GIB, 2 * GIB])
        self.assertGreater(devices[1]["memory_used"], GIB)
        self.assertLess(devices[0]["memory_used"], GIB)

    def test_of_one_device_of_two(self):
        self.world.stop_daemon()
        self.world.env.update(CLEAVE_SIM="h100x2", CUDA_VISIBLE_DEVICES="0")
        self.world.env["CLEAVE_SIM_DIR"] += "2"
        self.world.start_daemon()
        tool = self.world.tool("--memory", "3G", "--device", "1", "--name", "second")
        self.assertEqual((tool("count"), tool("total", 0)), (1, 3 * GIB))
        self.assertEqual(tool("alloc", 2048), 0)
        self.assertEqual([d["index"] for d in self.tenant("second")["devices"]], [1])
        self.assertEqual(self.device(0)["memory_used"], 0)

    def test_percent(self):
        total = self.device()["memory_total"]
        tool = self.world.tool("--memory", "25%", "--name", "quarter")
        quota = tool("info")[1]
        self.assertLessEqual(quota, total / 4)
        self.assertGreater(quota, total / 4 - 2 * MIB)


class Admission(EndToEnd):
    def test_devices_tell_what_is_left(self):
        before = self.device()["available"]
        tool = self.world.tool("--memory", "10G")
        self.assertEqual(tool("alloc", 1024), 0)
        device = self.device()
        self.assertEqual(device["granted"], 10 * GIB)
        self.assertEqual(device["available"], before - 10 * GIB)
        self.assertGreater(device["used_by_tenants"], GIB)
        self.assertEqual(device["used_by_others"], 0)
        self.assertIn("10 GiB is granted to tenants", self.world.cleave("devices")[1])

    def test_no_room(self):
        room = self.device()["available"] // MIB
        self.world.tool("--memory", f"{room - 1024}M")
        status, out, err = self.world.cleave("run", "--memory", "2G", "--", "true", check=False)
        self.assertEqual((status, out), (125, ""))
        self.assertIn("--wait", err)

    def test_beyond_the_device(self):
        status, _, err = self.world.cleave("run", "--memory", "500G", "--", "true", check=False)
        self.assertEqual(status, 125)
        self.assertRegex(err, r"500 GiB|\d+(\.\d)? GiB")

    def test_unknown_device(self):
        for device in ("7", "GPU-ffffffff", "nonsense"):
            status, _, err = self.world.cleave("run", "--memory", "1G", "--device", device, "--",
                                               "true", check=False)
            self.assertEqual(status, 125)
            self.assertIn("device", err)

    def test_bad_name(self):
        status, _, err = self.world.cleave("run", "--memory", "1G", "--name", "../x", "--", "true",
                                           check=False)
        self.assertEqual(status, 125)
        self.assertIn("A name has", err)
        self.world.tool("--memory", "1G", "--name", "taken")
        status, _, err = self.world.cleave("run", "--memory", "1G", "--name", "taken", "--", "true",
                                           check=False)
        self.assertEqual(status, 125)
        self.assertIn("taken", err)

    def test_wait_until_it_fits(self):
        room = self.device()["available"] // MIB
        first = self.world.tool("--memory", f"{room - 1024}M", "--name", "first")
        second = self.world.run("--wait", "--memory", "2G", "--name", "second",
                                program=["echo", "started"])
        self.assertEqual(second.stderr.readline(),
                         "cleave run: waiting until 2G can be granted\n")
        states = {t["name"]: t["state"] for t in self.world.tenants()}
        self.assertEqual(states, {"first": "running", "second": "waiting"})
        first.process.stdin.close()
        self.assertEqual(second.stdout.readline(), "started\n")
        self.assertEqual(second.wait(timeout=20), 0)

    def test_giving_up_the_wait(self):
        room = self.device()["available"] // MIB
        self.world.tool("--memory", f"{room - 1024}M", "--name", "first")
        second = self.world.run("--wait", "--memory", "2G", "--name", "second", program=["true"])
        second.stderr.readline()
        second.send_signal(signal.SIGINT)
        self.assertEqual(second.wait(timeout=20), -signal.SIGINT)
        self.assertTrue(eventually(lambda: len(self.world.tenants()) == 1))


class Live(EndToEnd):
    def test_set_grows_and_shrinks(self):
        room = self.device()["available"]
        tool = self.world.tool("--memory", "2G", "--name", "one")
        self.assertEqual(tool("alloc", 1024), 0)
        self.assertEqual(tool("alloc", 1024), OUT_OF_MEMORY)
        self.world.cleave("set", "one", "--memory", "4G")
        self.assertEqual(tool("info")[1], 4 * GIB)
        self.assertEqual(tool("alloc", 1024), 0)
        self.assertEqual(self.device()["granted"], 4 * GIB)

        status, _, err = self.world.cleave("set", "one", "--memory", "1G", check=False)
        self.assertEqual(status, 6)
        self.assertIn("--force", err)
        self.assertEqual(tool("info")[1], 4 * GIB)
        self.world.cleave("set", "one", "--memory", "1G", "--force")
        self.assertEqual(tool("alloc", 1), OUT_OF_MEMORY)
        used = self.tenant("one")["devices"][0]["memory_used"]
        self.assertEqual(self.device()["granted"], GIB)
        self.assertLessEqual(self.device()["available"], room - used)  # stays reserved
        self.assertEqual(tool("free"), 0)
        self.assertEqual(tool("free"), 0)
        self.assertEqual(tool("alloc", 64), 0)
        self.assertTrue(eventually(lambda: self.device()["available"] == room - GIB))

        status, _, err = self.world.cleave("set", "one", "--memory", "500G", check=False)
        self.assertEqual(status, 6)

    def test_stop(self):
        tool = self.world.tool("--memory", "2G", "--name", "one")
        self.assertEqual(self.world.cleave("stop", "one"), (0, "", ""))
        self.assertEqual(tool.process.wait(timeout=20), -signal.SIGTERM)
        self.assert_empty()

    def test_stop_of_one_that_does_not_listen(self):
        deaf = self.world.run("--memory", "1G", "--name", "deaf", program=[
            "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"])
        self.assertEqual(deaf.stdout.readline(), "up\n")
        begun = time.monotonic()
        self.world.cleave("stop", "--timeout", "500ms", "deaf")
        self.assertGreater(time.monotonic() - begun, 0.4)
        self.assertEqual(deaf.wait(timeout=20), -signal.SIGKILL)

    def test_events(self):
        tool = self.world.tool("--memory", "1G", "--name", "one")
        self.assertEqual(tool("alloc", 2048), OUT_OF_MEMORY)
        tool.process.stdin.close()
        tool.process.wait(timeout=20)
        self.assert_empty()

        def kinds():
            out = self.world.cleave("events", "-o", "json")[1]
            return [json.loads(line)["kind"] for line in out.splitlines()]

        wanted = ["tenant-created", "process-joined", "memory-refused", "process-left",
                  "tenant-ended"]
        self.assertTrue(eventually(lambda: set(wanted) <= set(kinds()), 5), kinds())
        self.assertEqual([k for k in kinds() if k in wanted], wanted)

    def test_events_follow(self):
        process = subprocess.Popen([self.world.cleave_path, "events", "--follow", "-o", "json"],
                                   env=self.world.env, text=True, stdout=subprocess.PIPE)
        self.world.running.append(process)
        time.sleep(0.2)
        self.world.cleave("run", "--memory", "1G", "--name", "brief", "--", "true")
        kind = None
        while kind != "tenant-ended":
            kind = json.loads(process.stdout.readline())["kind"]
        self.assertIsNone(process.poll())

    def test_killed_process_gives_back(self):
        tool = self.world.tool("--memory", "8G", "--name", "one")
        self.assertEqual(tool("alloc", 4096), 0)
        self.assertGreater(self.device()["used_by_tenants"], 4 * GIB)
        os.kill(tool.pid, signal.SIGKILL)
        self.assertEqual(tool.process.wait(timeout=20), -signal.SIGKILL)
        self.assert_empty()

    def test_killed_cleave_leaves_no_ghost(self):
        tool = self.world.tool("--memory", "2G", "--name", "one")
        tool.process.kill()
        tool.process.wait()
        os.kill(tool.pid, signal.SIGKILL)
        self.assert_empty()


class Recovery(EndToEnd):
    def test_daemon_killed(self):
        tools = [self.world.tool("--memory", f"{i + 2}G", "--name", f"t{i}") for i in range(3)]
        for tool in tools:
            self.assertEqual(tool("alloc", 512), 0)

        def ledger():
            return {t["id"]: [(d["memory"], d["memory_used"]) for d in t["devices"]] +
                    sorted(p["pid"] for p in t["processes"]) for t in self.world.tenants()}

        before, granted = ledger(), self.device()["granted"]
        self.world.kill_daemon()
        self.assertEqual(tools[0]("alloc", 4096), OUT_OF_MEMORY)  # the limit still stands
        self.assertEqual(tools[0]("alloc", 256), 0)
        self.assertEqual(tools[0]("free"), 0)
        self.world.start_daemon()
        self.assertTrue(eventually(lambda: ledger() == before, 5), (before, ledger()))
        self.assertEqual(self.device()["granted"], granted)
        time.sleep(0.3)  # each cleave run finds the daemon again
        self.world.cleave("set", "t0", "--memory", "5G")
        self.assertEqual(tools[0]("alloc", 2048), 0)
        for tool in tools:
            print("quit 0", file=tool.process.stdin, flush=True)
            self.assertEqual(tool.end(), (0, "", ""))
        self.assert_empty()

    def test_tenant_that_ends_meanwhile(self):
        tool = self.world.tool("--memory", "2G", "--name", "one")
        self.assertEqual(tool("alloc", 512), 0)
        self.world.kill_daemon()
        print("quit 3", file=tool.process.stdin, flush=True)
        self.assertEqual(tool.end(), (3, "", ""))
        self.world.start_daemon()
        self.assert_empty()


class OnDemand(EndToEnd):
    start = False

    def test_run_starts_a_daemon(self):
        self.assertEqual(self.world.cleave("run", "--memory", "1G", "--", "echo", "hi"),
                         (0, "hi\n", ""))
        info = self.world.control("daemon.info")
        self.assertEqual(info["scope"], "user")
        with open(f"/proc/{info['pid']}/stat", encoding="utf-8") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        self.assertEqual(int(fields[3]), int(fields[2]))  # of a session of its own

    def test_many_at_once_start_one(self):
        runs = [self.world.run("--memory", "1G", program=["true"]) for _ in range(8)]
        self.assertEqual([r.wait(timeout=60) for r in runs], [0] * 8,
                         [r.stderr.read() for r in runs])

    def test_doctor_and_version(self):
        status, out, _ = self.world.cleave("doctor", check=False)
        self.assertIn("none runs", out)
        self.world.cleave("ps")
        status, out, _ = self.world.cleave("doctor", check=False)
        self.assertEqual(status, 0, out)
        self.assertRegex(out, r"(?m)^OK +backend +sim")
        value = self.world.json("version")
        self.assertEqual(value["daemon"], value["client"])

    def test_directory_that_cannot_be_written(self):
        if os.geteuid() == 0:
            self.skipTest("root may write anywhere")
        os.chmod(self.world.runtime, 0o500)
        status, _, err = self.world.cleave("run", "--memory", "1G", "--", "true", check=False)
        self.assertEqual(status, 125)
        self.assertIn("daemon", err)


class BesideAnother(EndToEnd):
    """A simulated GPU where a daemon without one runs already."""
    sim = None

    def test_run_starts_one_beside(self):
        world = self.world
        world.env["CLEAVE_SIM_DIR"] = os.path.join(world.place, "sim")
        first = world.daemon_pid()
        self.assertIsNone(world.control("daemon.info").get("sim"))
        tool = world.tool("--sim", "--memory", "1G", "--name", "beside")
        self.assertEqual(tool("info")[1], GIB)
        self.assertEqual(world.tenants(), [], "a tenant of the one that was asked")
        names = [tenant["name"] for tenant in world.json("ps")["tenants"]]
        self.assertEqual(names, [], "without a word of simulated ones")
        world.env["CLEAVE_SIM"] = "h100"
        names = [tenant["name"] for tenant in world.json("ps")["tenants"]]
        self.assertEqual(names, ["beside"])
        # the next joins it
        again = world.tool("--sim", "--memory", "1G", "--name", "again")
        self.assertEqual(len(world.json("ps")["tenants"]), 2)
        self.assertEqual((tool.end()[0], again.end()[0]), (0, 0))
        self.assertEqual(world.daemon_pid(), first)
        world.runtime += "-sim"
        self.assertNotIn(world.daemon_pid(), (None, first))
        world.stop_daemon()
        world.runtime = world.runtime.removesuffix("-sim")

    def test_no_gpu_names_the_option(self):
        if self.world.control("device.list")["devices"]:
            self.skipTest("there is a GPU here")
        status, _, err = self.world.cleave("run", "--memory", "1G", "--", "true", check=False)
        self.assertEqual(status, 125)
        self.assertIn("cleave run --sim", err)


class WithoutSim(EndToEnd):
    """Whoever does not ask for a simulated GPU does not get one, whatever a daemon did before."""

    def test_one_that_simulates_has_no_real_ones(self):
        """In the only directory there is, in use or not; and it goes on simulating."""
        tool = self.world.tool("--memory", "1G")
        pid = self.world.daemon_pid()
        del self.world.env["CLEAVE_SIM"]
        for idle in (False, True):
            for device in ([], ["--device", "0"]):
                status, _, err = self.world.cleave("run", "--memory", "1G", *device, "--", "true",
                                                   check=False)
                self.assertEqual(status, 125)
                self.assertIn("the daemon simulates GPUs (h100), and a real one is asked for", err)
                self.assertIn("--sim takes a simulated one. The daemon ends a minute after", err)
            if not idle:
                self.assertEqual(tool("info")[1], GIB)
                self.assertEqual(tool.end()[0], 0)
                self.assertTrue(eventually(lambda: not self.world.tenants()))
        again = self.world.tool("--sim", "--memory", "1G")
        self.assertEqual(again.end()[0], 0)
        self.assertEqual(self.world.daemon_pid(), pid)

    def test_by_default_each_has_a_daemon(self):
        """The simulated GPU's is left alone by a run without --sim, which starts one of its own."""
        world = self.world
        if os.path.exists("/run/cleave/control.sock"):
            self.skipTest("the system's daemon serves here")
        world.stop_daemon()
        del world.env["CLEAVE_RUNTIME_DIR"], world.env["CLEAVE_SIM"]
        world.env["XDG_RUNTIME_DIR"] = world.place
        self.assertEqual(world.cleave("run", "--sim", "--memory", "1G", "--", "true")[0], 0)
        world.runtime = os.path.join(world.place, "cleave-sim")
        self.addCleanup(world.stop_daemon)
        pid = world.daemon_pid()
        status, _, err = world.cleave("run", "--memory", "1G", "--", "true", check=False)
        if status != 0:  # there is no GPU here
            self.assertEqual(status, 125)
            self.assertIn("cleave run --sim", err)
        self.assertEqual((world.daemon_pid(), world.control("daemon.info")["sim"]), (pid, "h100"))
        world.stop_daemon()
        world.runtime = os.path.join(world.place, "cleave")
        self.assertNotIn(world.daemon_pid(), (None, pid))
        self.assertIsNone(world.control("daemon.info")["sim"])
        world.stop_daemon()


class OtherModels(EndToEnd):
    """Who names a model gets that one, whichever is simulated already."""
    sim = "a30"

    def test_others_in_use(self):
        tool = self.world.tool("--memory", "1G")
        for verb, *words in (["devices"], ["devices", "-o", "csv"], ["cdi"], ["cdi", "--arguments"],
                             ["advise", "--memory", "1G"], ["run", "--memory", "1G", "--", "true"]):
            status, out, err = self.world.cleave(verb, "--sim=h200", *words, check=False)
            self.assertNotEqual(status, 0, verb)
            self.assertIn("the simulated GPU a30, and the simulated GPU h200 is asked for", err)
            self.assertEqual(out, "")
        self.world.env["CLEAVE_SIM"] = "h200"
        self.assertNotEqual(self.world.cleave("devices", check=False)[0], 0)
        self.assertEqual(len(self.world.json("ps")["tenants"]), 1)
        # nobody has named any
        del self.world.env["CLEAVE_SIM"]
        self.assertIn("NVIDIA A30", self.world.cleave("devices", "--sim")[1])
        self.assertIn("NVIDIA A30", self.world.cleave("devices", "--sim=a30")[1])
        self.assertEqual(tool.end()[0], 0)

    def test_others_idle(self):
        daemon = self.world.daemon_pid()
        self.assertEqual(self.world.tool("--memory", "1G", "--compute", "30").end()[0], 0)
        for model, name, mib in (("h200", "NVIDIA H200", 143771), ("t4", "Tesla T4", 15360)):
            self.assertTrue(eventually(lambda: not self.world.tenants()))
            self.assertIn(name, self.world.cleave("devices", "--sim=" + model)[1])
            device, = self.world.devices()
            self.assertEqual((device["name"], device["memory_total"] // MIB), (name, mib))
        # with the tenant itself, too
        for model, quota in (("h100x2", "60G"), ("b200", "160G")):
            self.assertTrue(eventually(lambda: not self.world.tenants()))
            tool = self.world.tool("--sim=" + model, "--memory", quota, "--compute", "30")
            self.assertEqual(tool("info")[1], int(quota[:-1]) * GIB)
            self.assertEqual(tool.end()[0], 0)
        self.assertEqual(self.world.daemon_pid(), daemon)


if __name__ == "__main__":
    BUILD = sys.argv.pop(1)
    # A shell that runs us in the background may have had it ignored, which is inherited.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    unittest.main()
