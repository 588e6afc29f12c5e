#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cleave mps with a double of NVIDIA's control program.

usage: test_mps.py CLEAVE
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

CLEAVE = None
HERE = os.path.dirname(os.path.abspath(__file__))
DEVICE = "GPU-5ec0f4f3-0000-4000-8000-000000000001"


class Mps(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory(prefix="cleave-mps-")
        self.addCleanup(place.cleanup)
        self.place = place.name
        os.mkdir(f"{self.place}/bin")
        os.mkdir(f"{self.place}/run", 0o700)
        control = f"{self.place}/bin/nvidia-cuda-mps-control"
        with open(os.path.join(HERE, "fake_mps.py"), encoding="utf-8") as double, \
                open(control, "w", encoding="utf-8") as file:
            # it is started hundreds of times
            file.write(f"#!{sys.executable} -SE\n" + double.read().split("\n", 1)[1])
        os.chmod(control, 0o755)
        self.addCleanup(self.end_daemons)

    def cleave(self, *words, mode=""):
        environment = dict(os.environ, PATH=f"{self.place}/bin:{os.environ['PATH']}",
                           CLEAVE_RUNTIME_DIR=f"{self.place}/run", FAKE_MPS=mode)
        done = subprocess.run([CLEAVE, "mps", *words], text=True, capture_output=True, timeout=60,
                              stdin=subprocess.DEVNULL, env=environment, check=False)
        return done.returncode, done.stdout, done.stderr

    def servers(self):
        status, out, err = self.cleave("status", "-o", "json")
        self.assertEqual(status, 0, err)
        document = json.loads(out)
        self.assertEqual(document["schema"], "cleave.mps/1")
        return {s["name"]: s for s in document["servers"]}

    def end_daemons(self):
        if not os.path.isdir(f"{self.place}/run/mps"):
            return
        for name in os.listdir(f"{self.place}/run/mps"):
            try:
                with open(f"{self.place}/run/mps/{name}/pipe/nvidia-cuda-mps-control.pid",
                          encoding="ascii") as file:
                    os.kill(int(file.read()), signal.SIGKILL)
            except (OSError, ValueError):
                pass

    def pid_of_daemon(self):
        with open(f"{self.place}/run/mps/mps/pipe/nvidia-cuda-mps-control.pid",
                  encoding="ascii") as file:
            return int(file.read())

    def assert_ended(self, pid):
        """Who was told to end may need a moment; whoever has ended may still wait for its parent to
        take note of it."""
        for _ in range(500):
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                    if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                        return
            except (FileNotFoundError, ProcessLookupError):
                return
            time.sleep(0.02)
        self.fail(f"{pid} goes on")

    def test_start_status_stop(self):
        status, out, err = self.cleave("start", DEVICE, "--threads", "50", "--memory", "8G")
        self.assertEqual((status, err), (0, ""))
        pipe = f"{self.place}/run/mps/mps/pipe"
        self.assertEqual(out, f"CUDA_MPS_PIPE_DIRECTORY={pipe}\n")
        with open(f"{pipe}/memory", encoding="ascii") as file:
            self.assertEqual(file.read(), f"{DEVICE} 8192M")
        server = self.servers()["mps"]
        self.assertEqual((server["state"], server["threads"], server["memory"], server["device"]),
                         ("running", 50, 8 << 30, DEVICE))
        self.assertEqual(server["servers"], [{"pid": server["pid"], "clients": [server["pid"]]}])
        self.assertIn(f"client {server['pid']}", self.cleave("status")[1])
        self.assertEqual(self.cleave("start", DEVICE)[0], 6)
        # Another beside it, and the first is left alone.
        self.assertEqual(self.cleave("start", DEVICE, "--name", "second")[0], 0)
        self.assertEqual(self.cleave("stop", "second")[0], 0)
        self.assertEqual(list(self.servers()), ["mps"])
        self.assertEqual(self.cleave("stop"), (0, "", ""))
        self.assertEqual(os.listdir(f"{self.place}/run/mps"), [])
        self.assert_ended(server["pid"])
        self.assertEqual(self.cleave("stop")[0], 3)

    def test_what_the_next_client_may_meet(self):
        """Each is told where it can be known before a program is started."""
        for mode, code, words in (("full", 808, "as many clients as it can have"),
                                  ("starting", 807, "it starts"), ("fault", 807, "recovers"),
                                  ("", None, "")):
            self.assertEqual(self.cleave("start", DEVICE, mode=mode)[0], 0)
            refuses = self.servers()["mps"]["refuses"]
            out = self.cleave("status")[1]
            if code:
                self.assertEqual(refuses["code"], code)
                self.assertIn(f"may meet {refuses['name']} ({code}): {refuses['sentence']}", out)
                self.assertIn(words, refuses["sentence"])
            else:
                self.assertIsNone(refuses)
                self.assertNotIn("may meet", out)
            self.assertEqual(self.cleave("stop")[0], 0)
        self.assertEqual(self.cleave("start", DEVICE)[0], 0)
        pid = self.servers()["mps"]["pid"]
        os.kill(pid, signal.SIGKILL)
        self.assert_ended(pid)
        self.assertEqual(self.servers()["mps"]["refuses"]["code"], 805)
        self.assertIn("may meet CUDA_ERROR_MPS_CONNECTION_FAILED (805): no MPS server answers",
                      self.cleave("status")[1])

    def test_what_a_dead_one_left_is_cleared_away(self):
        self.assertEqual(self.cleave("start", DEVICE)[0], 0)
        pid = self.servers()["mps"]["pid"]
        os.kill(pid, signal.SIGKILL)
        self.assert_ended(pid)
        server = self.servers()["mps"]
        self.assertEqual((server["state"], server["servers"]), ("stale", None))
        self.assertEqual(self.cleave("start", DEVICE)[0], 0)
        self.assertEqual(self.servers()["mps"]["state"], "running")
        self.assertEqual(self.cleave("stop")[0], 0)

    def test_one_that_hangs_is_seen_and_ended(self):
        status, _, err = self.cleave("start", DEVICE, "--threads", "50", "--deadline", "500ms",
                                     mode="hang")
        self.assertEqual(status, 1)
        self.assertIn("MPS does not take 50 percent of the threads", err)
        self.assertEqual(self.servers(), {})
        self.assertEqual(self.cleave("start", DEVICE, mode="hang")[0], 0)
        start = time.monotonic()
        self.assertIn("mps: unresponsive", self.cleave("status", "--deadline", "500ms")[1])
        pid = self.pid_of_daemon()
        self.assertEqual(self.cleave("stop", "--deadline", "500ms")[0], 0)
        self.assertLess(time.monotonic() - start, 15)
        self.assert_ended(pid)
        self.assertEqual(self.servers(), {})

    def test_one_that_does_not_start_leaves_nothing(self):
        status, _, err = self.cleave("start", DEVICE, mode="fail")
        self.assertEqual(status, 1)
        self.assertIn("MPS did not start: An instance of this daemon is already running", err)
        status, _, err = self.cleave("start", DEVICE, "--threads", "30", mode="deaf")
        self.assertEqual(status, 1)
        self.assertIn("MPS does not take 30 percent of the threads: it says '100.0'", err)
        self.assertEqual(self.servers(), {})
        os.unlink(f"{self.place}/bin/nvidia-cuda-mps-control")
        if not shutil.which("nvidia-cuda-mps-control"):
            status, _, err = self.cleave("start", DEVICE)
            self.assertEqual(status, 1)
            self.assertIn("nvidia-cuda-mps-control is not installed", err)

    def test_killed_at_every_point_of_its_start(self):
        """What is left either is as it was wished for or says that it is not, and starts anew: with
        all settings, and in both versions."""
        for version, least in (("2", 9), ("3", 12)):
            words = ["start", DEVICE, "--threads", "40", "--memory", "2G", "--protocol", version]
            seen = set()
            for point in range(1, 40):
                self.forget_points()
                status, _, _ = self.cleave(*words, mode=f"kill={point}")
                server = self.servers().get("mps")
                seen.add(server["state"] if server else "absent")
                if status == 0:
                    break
                self.assertEqual(status, -signal.SIGKILL)
                self.assertNotEqual(server["state"], "running")
                if point % 7 == 0:
                    self.assertEqual(self.cleave(*words)[0], 0)
                    server = self.servers()["mps"]
                    self.assertEqual((server["state"], server["threads"], server["memory"]),
                                     ("running", 40, 2 << 30))
                self.assertEqual(self.cleave("stop"), (0, "", ""))
            else:
                self.fail("it is killed for ever")
            self.assertGreater(point, least)
            # "stale" is seen only where the one that was being started needs longer than the look
            # at it
            self.assertLessEqual({"cut short", "running"}, seen)
            self.assertEqual(self.cleave("stop"), (0, "", ""))

    def forget_points(self):
        if os.path.exists(f"{self.place}/bin/points"):
            os.unlink(f"{self.place}/bin/points")

    def test_killed_at_every_point_of_its_end(self):
        """It runs on, or what is left of it says so; it can be ended, and started anew."""
        for version in ("2", "3"):
            for point in range(1, 10):
                self.assertEqual(self.cleave("start", DEVICE, "--protocol", version)[0], 0)
                pid = self.pid_of_daemon()
                self.forget_points()
                status, _, _ = self.cleave("stop", mode=f"kill={point}")
                if status == 0:
                    break
                self.assertEqual(status, -signal.SIGKILL)
                server = self.servers().get("mps")
                # unresponsive: on its way out
                self.assertIn(server["state"], ("running", "stale", "unresponsive"))
                if point % 2 == 0 and server["state"] == "stale":
                    self.assertEqual(self.cleave("start", DEVICE, "--protocol", version)[0], 0)
                self.assertEqual(self.cleave("stop"), (0, "", ""))
                self.assert_ended(pid)
                self.assertEqual(os.listdir(f"{self.place}/run/mps"), [])
            else:
                self.fail("it is killed for ever")
            self.assertGreater(point, 1)

    def test_a_group_of_devices(self):
        other = DEVICE[:-1] + "2"
        status, out, err = self.cleave("start", DEVICE, other, "--memory", "8G", "--threads", "25")
        self.assertEqual((status, err), (0, ""))
        pipe = f"{self.place}/run/mps/mps/pipe"
        with open(f"{pipe}/memory", encoding="ascii") as file:
            self.assertEqual(file.read().split("\n"), [f"{DEVICE} 8192M", f"{other} 8192M"])
        self.assertEqual(self.servers()["mps"]["devices"], [DEVICE, other])
        self.assertIn("each client at most 25 % of the threads and 8 GiB of a device",
                      self.cleave("status")[1])
        proc = f"{self.place}/proc"
        for i, uuid in enumerate((DEVICE, other)):
            os.makedirs(f"{proc}/driver/nvidia/gpus/0000:0{i}:00.0")
            with open(f"{proc}/driver/nvidia/gpus/0000:0{i}:00.0/information", "w",
                      encoding="ascii") as file:
                file.write(f"Model: \t X\nGPU UUID: \t {uuid}\nDevice Minor: \t {i}\n")
        lines = self.cleave("show", "--proc", proc)[1].splitlines()
        self.assertLessEqual({"--device=/dev/nvidia0", "--device=/dev/nvidia1"}, set(lines))
        self.assertEqual(self.cleave("stop")[0], 0)

    def test_version_3(self):
        """As NVIDIA's guide for driver 615 has it: a named server, with its own pipe directory."""
        status, out, err = self.cleave("start", DEVICE, "--protocol", "3", "--threads", "50",
                                       "--memory", "8G")
        self.assertEqual((status, err), (0, ""))
        pipe = f"{self.place}/run/mps/mps/pipe/cleave"
        self.assertEqual(out, f"CUDA_MPS_PIPE_DIRECTORY={pipe}\n")
        with open(f"{pipe}/settings", encoding="ascii") as file:
            self.assertEqual(file.read(), str({"devices": DEVICE, "active-thread-percentage": "50",
                                               "pinned-memory-limit": "8192M"}))
        server = self.servers()["mps"]
        self.assertEqual((server["state"], server["protocol"], server["pipe_directory"]),
                         ("running", 3, pipe))
        self.assertEqual(server["servers"], [{"pid": server["pid"], "clients": [server["pid"]]}])
        self.assertEqual(self.cleave("stop"), (0, "", ""))
        self.assertEqual(os.listdir(f"{self.place}/run/mps"), [])
        self.assert_ended(server["pid"])
        for mode, sentence in (("old", "MPS did not start: Unknown option -p"),
                               ("older", "the MPS that is installed has no version 3")):
            status, _, err = self.cleave("start", DEVICE, "--protocol", "3", "--deadline", "2s",
                                         mode=mode)
            self.assertEqual(status, 1, err)
            self.assertIn(sentence, err)
            self.assertIn("Version 3 came with driver 615", err)
            self.assertEqual(self.servers(), {})
        for words, sentence in ((["--threads", "30"], "MPS does not take 30 percent of the threads"),
                                (["--memory", "2G"], "MPS does not take a memory limit")):
            for version in ("2", "3"):
                status, _, err = self.cleave("start", DEVICE, "--protocol", version, *words,
                                             mode="deaf")
                self.assertEqual(status, 1)
                self.assertIn(sentence, err)
                self.assertEqual(self.servers(), {})

    def test_containers_become_clients(self):
        self.assertEqual(self.cleave("show")[0], 3)
        self.assertEqual(self.cleave("start", DEVICE)[0], 0)
        proc = f"{self.place}/proc"
        status, _, err = self.cleave("show", "--proc", proc)
        self.assertEqual(status, 1)
        self.assertIn(f"NVIDIA's driver lists no GPU {DEVICE}", err)
        os.makedirs(f"{proc}/driver/nvidia/gpus/0000:01:00.0")
        with open(f"{proc}/driver/nvidia/gpus/0000:01:00.0/information", "w",
                  encoding="ascii") as file:
            file.write(f"Model: \t X\nGPU UUID: \t {DEVICE}\nDevice Minor: \t 3\n")
        pipe = f"{self.place}/run/mps/mps/pipe"
        status, out, err = self.cleave("show", "--proc", proc)
        self.assertEqual((status, err), (0, ""))
        for line in ("--device=/dev/nvidia3", "--device=/dev/nvidiactl",
                     f"--env=CUDA_MPS_PIPE_DIRECTORY={pipe}", f"--volume={pipe}:{pipe}",
                     "--volume=/dev/shm:/dev/shm"):
            self.assertIn(line, out.splitlines())
        status, out, err = self.cleave("show", "mps", "--for", "cdi", "--proc", proc)
        self.assertEqual((status, err), (0, ""))
        device, = json.loads(out)["devices"]
        self.assertEqual(device["name"], "mps")
        self.assertEqual(device["containerEdits"]["env"], [f"CUDA_MPS_PIPE_DIRECTORY={pipe}"])
        self.assertIn("cleave.dev/partition=mps",
                      self.cleave("show", "mps", "--for", "pod", "--proc", proc)[1])
        self.assertEqual(self.cleave("stop")[0], 0)

    def test_a_mig_device_has_a_server_of_its_own(self):
        self.assertEqual(self.cleave("start", DEVICE.replace("GPU-", "MIG-"))[0], 0)
        self.assertEqual(self.servers()["mps"]["device"], DEVICE.replace("GPU-", "MIG-"))
        status, _, err = self.cleave("show")
        self.assertEqual(status, 2)
        self.assertIn("mps serves a MIG device, whose files depend on its instance", err)
        self.assertIn(f"--env=CUDA_MPS_PIPE_DIRECTORY={self.place}/run/mps/mps/pipe ", err)

    def test_senseless_words(self):
        for words in (["start"], ["start", "0"], ["start", DEVICE, "--threads", "0"],
                      ["start", DEVICE, "--threads", "101"],
                      ["start", DEVICE, DEVICE], ["start", DEVICE, "1"],
                      ["start", DEVICE, "--protocol", "4"], ["start", DEVICE, "--memory", "1K"],
                      ["start", DEVICE, "--name", "../x"], ["stop", "../x"], ["status", "x"],
                      ["restart"], ["status", "--deadline", "never"]):
            with self.subTest(words):
                status, out, err = self.cleave(*words)
                self.assertEqual((status, out), (2, ""))
                self.assertTrue(err)


if __name__ == "__main__":
    CLEAVE = os.path.abspath(sys.argv.pop(1))
    unittest.main()
