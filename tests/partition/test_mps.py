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
        shutil.copy(os.path.join(HERE, "fake_mps.py"), control)
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
        """Whoever ended may still wait for its parent to take note of it."""
        if os.path.exists(f"/proc/{pid}/stat"):
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                self.assertEqual(file.read().rsplit(")", 1)[1].split()[0], "Z")

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

    def test_what_a_dead_one_left_is_cleared_away(self):
        self.assertEqual(self.cleave("start", DEVICE)[0], 0)
        os.kill(self.servers()["mps"]["pid"], signal.SIGKILL)
        time.sleep(0.1)
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
        """What is left either is as it was wished for or says that it is not, and starts anew."""
        seen = set()
        for point in range(1, 40):
            if os.path.exists(f"{self.place}/bin/points"):
                os.unlink(f"{self.place}/bin/points")
            status, _, _ = self.cleave("start", DEVICE, "--threads", "40",
                                       mode=f"kill={point}")
            server = self.servers().get("mps")
            seen.add(server["state"] if server else "absent")
            if status == 0:
                break
            self.assertEqual(status, -signal.SIGKILL)
            self.assertNotEqual(server["state"], "running")
            if point % 5 == 0:
                self.assertEqual(self.cleave("start", DEVICE, "--threads", "40")[0], 0)
                server = self.servers()["mps"]
                self.assertEqual((server["state"], server["threads"], server["memory"]),
                                 ("running", 40, 0))
            self.assertEqual(self.cleave("stop"), (0, "", ""))
        else:
            self.fail("it is killed for ever")
        self.assertGreater(point, 8)
        # "stale" is seen only where the one that was being started needs longer than the look at it
        self.assertLessEqual({"cut short", "running"}, seen)

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

    def test_senseless_words(self):
        for words in (["start"], ["start", "0"], ["start", DEVICE, "--threads", "0"],
                      ["start", DEVICE, "--threads", "101"], ["start", DEVICE, "--memory", "1K"],
                      ["start", DEVICE, "--name", "../x"], ["stop", "../x"], ["status", "x"],
                      ["restart"], ["status", "--deadline", "never"]):
            with self.subTest(words):
                status, out, err = self.cleave(*words)
                self.assertEqual((status, out), (2, ""))
                self.assertTrue(err)


if __name__ == "__main__":
    CLEAVE = os.path.abspath(sys.argv.pop(1))
    unittest.main()
