#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_smi.py BUILD: the simulated GPU's nvidia-smi, outside and in tenants. On a GPU the real one:
tests/gpu/run --only smi."""
import os
import re
import subprocess
import sys
import unittest

# pylint: disable-next=wrong-import-position
from world import World

NAMES = {"h100": ("NVIDIA H100 80GB HBM3", 81559), "a30": ("NVIDIA A30", 24576)}


class Base(unittest.TestCase):
    sim = "h100,a30"

    def setUp(self):
        self.world = World(BUILD, self.sim).__enter__()
        self.addCleanup(self.world.__exit__, None, None, None)
        place = os.path.join(BUILD, "src", "sim")
        self.env = dict(self.world.env, LD_LIBRARY_PATH=place, PATH=place + ":" + os.environ["PATH"])
        os.makedirs(self.world.env["CLEAVE_SIM_DIR"], 0o700, exist_ok=True)

    def smi(self, *words, status=0, **more):
        """What it prints outside of any tenant."""
        done = subprocess.run(["nvidia-smi", *words], env=self.env | more, text=True, check=False,
                              capture_output=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (status, ""), done.stdout)
        return done.stdout

    def query(self, fields, *words, **more):
        return self.smi("--query-gpu=" + fields, "--format=csv,noheader,nounits", *words, **more)


class Outside(Base):
    def test_csv(self):
        header, *lines = self.smi("--query-gpu=index,gpu_name,memory.total,utilization.gpu,pstate",
                                  "--format=csv").splitlines()
        self.assertEqual(header, "index, name, memory.total [MiB], utilization.gpu [%], pstate")
        self.assertEqual(lines, [f"{i}, {name}, {mib} MiB, 0 %, P0"
                                 for i, (name, mib) in enumerate(NAMES.values())])
        self.assertEqual(self.query("memory.total"), "81559\n24576\n")
        self.assertEqual(self.smi("--query-gpu", "memory.total", "--format", "csv,nounits", "-i", "1"),
                         "memory.total [MiB]\n24576\n")
        total, reserved, used, free = map(int, self.query(
            "memory.total,memory.reserved,memory.used,memory.free", "-i", "0").split(","))
        self.assertAlmostEqual(total, reserved + used + free, delta=2)
        # what NVML of the simulated GPU does not have is no number
        self.assertEqual(self.query("name", "-i", "0", CLEAVE_SIM_FAULTS="missing@nvmlDeviceGetName"),
                         "[N/A]\n")

    def test_one_of_several(self):
        names, uuids, addresses = (self.query(field).split("\n")[:2]
                                   for field in ("name", "uuid", "pci.bus_id"))
        self.assertNotEqual(uuids[0], uuids[1])
        for word in ("1", uuids[1], addresses[1], addresses[1].lower(), addresses[1][9:], "7,1"):
            self.assertEqual(self.query("name", "--id=" + word), names[1] + "\n", word)
        self.assertEqual(self.smi("-i", "7", "-L", status=6), "No devices were found\n")

    def test_list(self):
        uuids = self.query("uuid").split()
        self.assertEqual(self.smi("-L"), "".join(
            f"GPU {i}: {name} (UUID: {uuids[i]})\n" for i, (name, _) in enumerate(NAMES.values())))

    def test_table(self):
        table = self.smi()
        self.assertIn("Simulated GPU (Cleave ", table)
        self.assertRegex(table, r"Driver Version: 580\.159\.04 +CUDA Version: 13\.0 ")
        for name, mib in NAMES.values():
            self.assertRegex(table, rf"\| +\d  {name} +On  \|.*\|.*\|\n.* 0MiB / +{mib}MiB \| +0% +Default \|")
        self.assertIn("No running processes found", table)
        lines = [line for line in table.splitlines()[1:] if line]
        self.assertEqual({len(line) for line in lines}, {91})

    def test_fields_are_listed_and_known(self):
        for kind in ("gpu", "compute-apps"):
            fields = re.findall('"(.*?)"', self.smi(f"--help-query-{kind}"))
            self.assertGreater(len(fields), 8)
            self.smi(f"--query-{kind}=" + ",".join(fields), "--format=csv")
        self.assertNotIn("[N/A]", self.query("name,uuid,serial,vbios_version,compute_cap,power.draw,"
                                             "power.limit,temperature.gpu,clocks.sm,clocks.max.sm,"
                                             "mig.mode.current,compute_mode,persistence_mode",
                                             "--id=0"))

    def test_what_it_has_not_it_says(self):
        for words, sentence in (
                (["-q"], 'Option "-q" is not known to the simulated GPU\'s nvidia-smi'),
                (["--query-gpu=name,nonsense", "--format=csv"], 'Field "nonsense" is not a valid'),
                (["--query-gpu=name"], "needs --format=csv"),
                (["--query-gpu=name", "--format=xml"], 'Format "xml" is not known'),
                (["--query-gpu=name", "--format=nounits"], "only format of a query is csv"),
                (["--format=csv"], "--format is for a query"),
                (["-L", "--query-gpu=name", "--format=csv"], "two commands"),
                (["--query-gpu"], "lacks its value")):
            self.assertIn(sentence, self.smi(*words, status=2), words)
        self.assertIn("--query-compute-apps", self.smi("--help"))

    def test_without_a_driver(self):
        self.assertIn("Failed to initialize NVML: Driver Not Loaded",
                      self.smi(status=9, CLEAVE_SIM_FAULTS="fail=9@nvmlInit_v2"))
        self.assertIn("libnvidia-ml.so", self.smi(status=12, LD_LIBRARY_PATH="/nonexistent"))


class Inside(Base):
    sim = "h100"

    def ask(self, *words):
        return self.world.cleave("run", "--memory", "1G", "--", "nvidia-smi", *words)[1]

    def test_a_tenant_sees_its_part(self):
        self.world.start_daemon()
        other = self.world.tool("--memory", "8G", "-n", "other")
        self.assertEqual(other("alloc", 4096), 0)
        # outside all of it is seen
        pid, name, used = self.smi("--query-compute-apps=pid,process_name,used_memory",
                                   "--format=csv,noheader,nounits").strip().split(", ")
        self.assertEqual(int(pid), other.pid)
        self.assertIn("python", name)
        held = self.world.tenants()[0]["devices"][0]["memory_used"] >> 20
        self.assertEqual(int(used), held)
        self.assertRegex(self.smi(), rf"\|    0   N/A  N/A +{pid}      C   .*python\S* +{held}MiB \|")
        # inside, of the program's own name, the quota, and nobody else
        self.assertEqual(self.ask("--query-gpu=memory.total,memory.used", "--format=csv"),
                         "memory.total [MiB], memory.used [MiB]\n1024 MiB, 0 MiB\n")
        self.assertEqual(self.ask("--query-compute-apps=pid", "--format=csv,noheader"), "")
        table = self.ask()
        self.assertRegex(table, r" 0MiB / +1024MiB ")
        self.assertIn("No running processes found", table)
        self.assertRegex(self.ask("-L"), r"^GPU 0: NVIDIA H100 80GB HBM3 \(UUID: GPU-\S+\)\n$")
        other.end()


if __name__ == "__main__":
    BUILD = os.path.abspath(sys.argv.pop(1))
    unittest.main()
