#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_instances.py BUILD: programs and tenants on MIG instances that Cleave has made, on the simulated
GPU."""
import os
import signal
import subprocess
import sys
import time
import unittest

# pylint: disable-next=wrong-import-position
from world import GIB, MIB, HERE, Tool, World, eventually

MONITOR = [sys.executable, os.path.join(HERE, "monitor.py")]
PTX = os.path.join(HERE, "..", "kernels", "cleave.ptx")
GPU = "0000:1b:00.0"
SMALL, HALF = 9984 * MIB, 40448 * MIB  # a 1g.10gb and a 3g.40gb of an H100


class Instances(unittest.TestCase):
    sim = "h100"

    def setUp(self):
        self.world = World(BUILD, self.sim).__enter__()
        self.addCleanup(self.world.__exit__, None, None, None)
        for path, text in ((f"sys/bus/pci/devices/{GPU}/vendor", "0x10de"),
                           (f"sys/bus/pci/devices/{GPU}/device", "0x2330"),
                           (f"sys/bus/pci/devices/{GPU}/class", "0x030200"),
                           ("sys/bus/pci/drivers/nvidia/new_id", ""),
                           ("proc/driver/nvidia/capabilities/mig/config", "DeviceFileMinor: 1"),
                           ("proc/sys/kernel/random/boot_id",
                            "9a53c7a8-0000-4000-8000-000000000001")):
            path = os.path.join(self.world.place, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="ascii") as file:
                file.write(text + "\n")
        os.symlink("../../drivers/nvidia",
                   f"{self.world.place}/sys/bus/pci/devices/{GPU}/driver")

    def partition(self, *words, check=True):
        place = self.world.place
        return self.world.cleave("partition", *words, f"--sysfs={place}/sys", f"--proc={place}/proc",
                                 f"--state={place}/state", check=check)

    def cut(self, want, *words):
        """Makes instances; the names and UUIDs of all MIG devices, in their order."""
        self.partition("create", "mig", GPU, "--turn-on-mig", "--want", want, *words)
        return self.named()

    def named(self):
        return [(d["name"].rsplit(" ", 1)[1], d["uuid"]) for d in self.world.devices()]

    def program(self, visible=None, check=True):
        """One that Cleave knows nothing of."""
        env = dict(self.world.env, LD_LIBRARY_PATH=os.path.join(BUILD, "src", "sim"))
        if visible is not None:
            env["CUDA_VISIBLE_DEVICES"] = visible
        process = subprocess.Popen(MONITOR, env=env, text=True, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.world.running.append(process)
        return Tool(self.world, process) if check else process.communicate(timeout=60)[1]

    def smi(self, *words):
        place = os.path.join(BUILD, "src", "sim")
        return subprocess.run([place + "/nvidia-smi", *words], text=True, check=True, timeout=60,
                              env=dict(self.world.env, LD_LIBRARY_PATH=place),
                              stdout=subprocess.PIPE).stdout

    def tenant(self, *words):
        return Tool(self.world, self.world.run(*words, program=MONITOR))


class Programs(Instances):
    def test_a_program_has_the_instance_that_it_names(self):
        self.world.start_daemon()
        self.assertEqual(self.named(), [("HBM3", self.world.devices()[0]["uuid"])])
        devices = self.cut("1g.10gb,3g.40gb")
        self.assertEqual(sorted(name for name, _ in devices), ["1g.10gb", "3g.40gb"])
        uuids = dict(devices)
        listed = self.smi("-L")
        for name, uuid in devices:
            self.assertRegex(listed, rf"\n  MIG {name} +Device +\d: \(UUID: {uuid}\)\n")
        self.assertRegex(self.smi(), r"Enabled \|\n(.*\n)*\| MIG devices: (.*\n)*"
                         r"\|    0  +\d +0 +\d   NVIDIA H100 80GB HBM3 MIG 3g.40gb +0MiB /  40448MiB \|")
        whole = {"1g.10gb": (SMALL, 16), "3g.40gb": (HALF, 60)}
        for name, (memory, sms) in whole.items():
            for visible in (uuids[name], uuids[name][4:].upper().join(("MIG-", ""))):
                tool = self.program(visible)
                seen, facts = tool("mig")
                self.assertEqual((facts["name"], facts["sms"], facts["memory"][1]),
                                 (f"NVIDIA H100 80GB HBM3 MIG {name}", sms, memory))
                self.assertEqual([u.replace("GPU", "MIG", 1) for u in tool("count")[0]],
                                 [uuids[name]])
                # NVML tells who is in which
                (held, _, _), = seen[uuids[name]]["processes"].values()
                self.assertEqual(list(seen[uuids[name]]["processes"]), [str(tool.pid)])
                self.assertEqual(seen[uuids[name]]["memory"], [held, memory])
                other, = (u for u in seen if u != uuids[name])
                self.assertEqual(seen[other]["processes"], {})
                # the whole of it can be had, and no more
                self.assertEqual(tool("alloc", (facts["memory"][0] >> 20) - 64), 0)
                self.assertEqual(tool("alloc", 128), 2)
                tool.end()
                # a moment later it is the next one's
                self.assertTrue(eventually(
                    lambda: not any(d["memory_used"] for d in self.world.devices())))

    def test_which_one_a_program_gets(self):
        self.world.start_daemon()
        uuids = [uuid for _, uuid in self.cut("2x1g.10gb")]
        # one at most, whatever is named; nothing where there is none of that name
        for visible, expected in ((None, uuids[0]), ("0", uuids[0]), (uuids[1], uuids[1]),
                                  (",".join(reversed(uuids)), uuids[1])):
            found = self.program(visible)("count")[0]
            self.assertEqual([u.replace("GPU", "MIG", 1) for u in found], [expected], visible)
        for visible in ("MIG-ffffffff-0000-0000-0000-000000000000", "", "MIG-", "1"):
            self.assertIn("cuInit: error 100", self.program(visible, check=False), visible)

    def test_compute_instances_share_the_memory_of_theirs(self):
        self.world.start_daemon()
        devices = self.cut("3g.40gb", "--compute-instances", "3")
        self.assertEqual([name for name, _ in devices], ["1c.3g.40gb"] * 3)
        tools = [self.program(uuid) for _, uuid in devices]
        for tool in tools:
            _, facts = tool("mig")
            self.assertEqual((facts["sms"], facts["memory"][1]), (20, HALF))
        self.assertEqual(tools[0]("alloc", 30000), 0)
        self.assertLess(tools[1]("mig")[1]["memory"][0], 10448 * MIB)
        self.assertEqual(tools[1]("alloc", 10448), 2)
        # What one holds is the others' again when it has been killed.
        os.kill(tools[0].pid, signal.SIGKILL)
        self.assertTrue(eventually(lambda: tools[1]("alloc", 10448) == 0))

    def test_instances_have_engines_of_their_own(self):
        self.world.start_daemon()
        uuids = [uuid for _, uuid in self.cut("2x1g.10gb")]

        def together(*visible):
            tools = [self.program(v) for v in visible]
            start = time.monotonic()
            for tool in tools:
                print("spin", 300, PTX, file=tool.process.stdin, flush=True)
            self.assertEqual([tool.read() for tool in tools], [0] * len(tools))
            return time.monotonic() - start

        by_turns = together(uuids[0], uuids[0])
        self.assertGreater(by_turns, 0.55)
        self.assertTrue(eventually(lambda: together(*uuids) < 0.55, 60))


class Tenants(Instances):
    def test_tenants_on_instances(self):
        self.world.start_daemon()
        devices = dict(self.cut("1g.10gb,3g.40gb"))
        small, half = devices["1g.10gb"], devices["3g.40gb"]
        one = self.tenant("--device", small, "--memory", "2G", "-n", "one")
        two = self.tenant("--device", half, "--memory", "20G", "-n", "two")
        for tool, uuid, quota, sms in ((one, small, 2 * GIB, 16), (two, half, 20 * GIB, 60)):
            seen, facts = tool("mig")
            self.assertEqual((facts["memory"][1], facts["sms"]), (quota, sms))
            # inside, NVML has the instance, with the quota and the tenant's own process
            (held, _, _), = seen[uuid]["processes"].values()
            self.assertEqual(seen, {uuid: {"memory": [held, quota],
                                           "processes": {str(tool.pid): seen[uuid]["processes"][
                                               str(tool.pid)]}}})
            self.assertEqual(tool("alloc", (facts["memory"][0] >> 20) - 64), 0)
            self.assertEqual(tool("alloc", 128), 2)
        rows = {t["name"]: t["devices"][0] for t in self.world.json("ps")["tenants"]}
        for name, uuid in (("one", small), ("two", half)):
            self.assertEqual(rows[name]["device"], uuid)
            self.assertEqual(rows[name]["memory_used"], rows[name]["memory_driver"])
        table = {d["uuid"]: d for d in self.world.devices()}
        self.assertEqual({u: (d["memory_total"], d["granted"], d["used_by_others"], d["mig"])
                          for u, d in table.items()},
                         {small: (SMALL, 2 * GIB, 0, True), half: (HALF, 20 * GIB, 0, True)})

        # What is in use is not taken away; a new one can be used at once.
        status, _, err = self.partition("remove", f"mig-{GPU}", check=False)
        self.assertEqual(status, 6)
        self.assertRegex(err, r"the 1g\.10gb at slice \d of 0000:1b:00\.0 is in use: process \d+")
        self.partition("create", "mig", GPU, "--want", "2g.20gb")
        added, = (uuid for name, uuid in self.named() if name == "2g.20gb")
        three = self.tenant("--device", added, "--memory", "1G", "-n", "three")
        self.assertEqual(three("mig")[1]["sms"], 32)
        for tool in (one, two, three):
            tool.end()
        self.assertTrue(eventually(
            lambda: self.partition("remove", f"mig-{GPU}", check=False)[0] == 0))
        self.assertTrue(eventually(lambda: self.named()[0][0] == "HBM3"), self.named())
        self.assertEqual(self.tenant("--memory", "1G")("count")[0],
                         [self.world.devices()[0]["uuid"]])

    def test_what_is_not_offered(self):
        self.world.start_daemon()
        uuids = [uuid for _, uuid in self.cut("2x1g.10gb")]
        for words, sentence in (
                (["--device", uuids[0], "--memory", "1G", "--compute", "30"],
                 "shares of compute are not offered on MIG devices"),
                (["--device", uuids[0], "--memory", "1G", "--sharing", "spatial"],
                 "shares of compute are not offered on MIG devices"),
                (["--memory", "0=1G,1=1G"], "a tenant with a MIG device has that one device"),
                (["--device", uuids[0], "--memory", "10G"], "are more than device 0 has"),
                (["--device", "MIG-ffffffff", "--memory", "1G"], "there is no device")):
            status, _, err = self.world.cleave("run", *words, "--", "true", check=False)
            self.assertEqual(status, 125, words)
            self.assertIn(sentence, err)
        tool = self.tenant("--device", uuids[0], "--memory", "1G", "-n", "tool")
        status, _, err = self.world.cleave("set", "tool", "--compute", "20", check=False)
        self.assertNotEqual(status, 0)
        self.assertIn("shares of compute are not offered on MIG devices", err)
        tool.end()


if __name__ == "__main__":
    BUILD = os.path.abspath(sys.argv.pop(1))
    unittest.main()
