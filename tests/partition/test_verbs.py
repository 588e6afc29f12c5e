#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The verbs about hardware, on a machine of plain files: what they print, their exit statuses, their
JSON. Plain files do not answer writes as a kernel does, so what is attached here is rolled back.

usage: test_verbs.py CLEAVE
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest

CLEAVE = None
GPU = "0000:01:00.0"


class Machine:
    def __init__(self, place):
        self.place = place
        self.write("sys/class/iommu/dmar0/uevent", "")
        self.write("proc/sys/kernel/random/boot_id", "9a53c7a8-0000-4000-8000-000000000001\n")
        self.write("sys/bus/pci/drivers_probe", "")
        for driver in ("vfio-pci", "nvidia", "amdgpu"):
            self.write(f"sys/bus/pci/drivers/{driver}/new_id", "")

    def write(self, path, text):
        path = os.path.join(self.place, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def link(self, target, path):
        path = os.path.join(self.place, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)

    def function(self, address, vendor, device, kind, driver=None, group=None, **files):
        base = f"sys/bus/pci/devices/{address}"
        for name, text in dict(files, vendor=f"0x{vendor:04x}", device=f"0x{device:04x}",
                               reset="", driver_override="(null)").items():
            self.write(f"{base}/{name}", text + "\n")
        self.write(f"{base}/class", f"0x{kind:06x}\n")
        if driver:
            self.link(f"../../drivers/{driver}", f"{base}/driver")
        if group is not None:
            self.link(f"../../../../kernel/iommu_groups/{group}", f"{base}/iommu_group")
            self.link(f"../../../../bus/pci/devices/{address}",
                      f"sys/kernel/iommu_groups/{group}/devices/{address}")

    def cleave(self, verb, *words, state=True):
        roots = [f"--sysfs={self.place}/sys", f"--proc={self.place}/proc"]
        if state:
            roots.append(f"--state={self.place}/state")
        environment = dict(os.environ, CLEAVE_RUNTIME_DIR=os.path.join(self.place, "run"))
        done = subprocess.run([CLEAVE, verb, *words, *roots], text=True, capture_output=True,
                              stdin=subprocess.DEVNULL, env=environment, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr


class Verbs(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory(prefix="cleave-verbs-")
        self.addCleanup(place.cleanup)
        self.machine = Machine(place.name)
        self.machine.function(GPU, 0x10de, 0x2330, 0x030200, "nvidia", 12,
                              numa_node="1", local_cpulist="16-31",
                              current_link_speed="32.0 GT/s PCIe", current_link_width="16")
        self.machine.function("0000:05:00.0", 0x1a03, 0x2000, 0x030000, None, 3)

    def test_check_says_what_is_in_the_way(self):
        status, out, err = self.machine.cleave("passthrough", "check", GPU)
        self.assertEqual(status, 0, err)
        self.assertIn("near NUMA node 1, processors 16-31", out)
        self.assertIn("cleave passthrough attach 0000:01:00.0", out)
        self.machine.write("proc/driver/nvidia/gpus/0000:01:00.0/information", "Device Minor: 0\n")
        self.machine.write("proc/812/comm", "nvidia-persiste\n")
        self.machine.link("/dev/nvidia0", "proc/812/fd/3")
        status, out, err = self.machine.cleave("passthrough", "check", GPU)
        self.assertEqual(status, 6)
        self.assertIn("in the way: 0000:01:00.0 is in use: process 812 (nvidia-persiste) has "
                      "/dev/nvidia0 open. End what holds it.", out)
        status, out, _ = self.machine.cleave("passthrough", "check", GPU, "-o", "json")
        self.assertEqual(status, 6)
        document = json.loads(out)
        self.assertEqual(document["schema"], "cleave.passthrough/1")
        self.assertFalse(document["ready"])
        self.assertEqual([o["code"] for o in document["obstacles"] if o["blocks"]], ["held"])

    def test_dry_run_prints_every_write_and_makes_none(self):
        status, out, err = self.machine.cleave("passthrough", "attach", GPU, "--dry-run")
        self.assertEqual(status, 0, err)
        self.assertEqual([line.split(" to ")[0].strip() for line in out.splitlines()[1::2]],
                         ["write 'vfio-pci'", "write '0000:01:00.0'", "write '0000:01:00.0'"])
        self.assertFalse(os.path.exists(os.path.join(self.machine.place, "state")))
        with open(f"{self.machine.place}/sys/bus/pci/devices/{GPU}/driver_override",
                  encoding="utf-8") as file:
            self.assertEqual(file.read(), "(null)\n")

    def test_a_kernel_that_does_nothing_is_noticed(self):
        self.machine.write("sys/bus/pci/drivers/nvidia/unbind", "")
        status, out, err = self.machine.cleave("passthrough", "attach", GPU)
        self.assertEqual((status, out), (1, ""))
        self.assertIn("cannot take 0000:01:00.0 from nvidia: the kernel took it, but", err)
        self.assertEqual(self.machine.cleave("partition", "list")[1].split(),
                         ["ID", "TECHNIQUE", "DEVICE", "STATE"])

    def test_words_for_a_vm(self):
        for system, words in (("qemu", "vfio-pci,host=0000:01:00.0"), ("libvirt", "<hostdev"),
                              ("kubevirt", '"10DE:2330"'), ("nova", '"product_id": "2330"'),
                              ("esxi", "pcipassthru set -d 0000:01:00.0"),
                              ("hyperv", "Add-VMAssignableDevice")):
            status, out, err = self.machine.cleave("passthrough", "show", GPU, "--for", system)
            self.assertEqual((status, err), (0, ""))
            self.assertIn(words, out)

    def test_senseless_words(self):
        for words, status in ((["passthrough", "check", "nonsense"], 2),
                              (["passthrough", "check", "0000:99:00.0"], 3),
                              (["passthrough", "steal", GPU], 2),
                              (["passthrough", "check"], 2),
                              (["passthrough", "attach", GPU, "--deadline", "soon"], 2),
                              (["passthrough", "release", GPU], 3),
                              (["partition", "create", "magic", GPU], 2),
                              (["partition", "create", "sriov", GPU], 6),
                              (["partition", "create", "modes", GPU, "--type", "CPX"], 6),
                              (["partition", "remove", "nothing"], 3),
                              (["partition", "remove"], 2),
                              (["partition", "layouts", "riva128"], 3)):
            with self.subTest(words):
                got, out, err = self.machine.cleave(*words)
                self.assertEqual((got, out), (status, ""))
                self.assertTrue(err)

    def test_layouts(self):
        status, out, err = self.machine.cleave("partition", "layouts", "a100-40", "--want",
                                               "3x1g.5gb,3g.20gb", "-o", "json")
        self.assertEqual((status, err), (0, ""))
        document = json.loads(out)
        self.assertEqual(document["schema"], "cleave.layouts/1")
        taken = set()
        sizes = {p["name"]: p["size"] for p in document["profiles"]}
        for instance in document["layout"]:
            slices = set(range(instance["start"], instance["start"] + sizes[instance["profile"]]))
            self.assertFalse(taken & slices)
            taken |= slices
        self.assertEqual(len(document["layout"]), 4)
        status, _, err = self.machine.cleave("partition", "layouts", "a100-40", "--want",
                                             "8x1g.5gb")
        self.assertEqual(status, 6)
        self.assertIn("no layout of the A100 40GB holds 8x1g.5gb", err)

    def test_advice_knows_this_machine(self):
        status, out, err = self.machine.cleave("advise", "--trust", "untrusted", "--in", "vm",
                                               "-o", "json", state=False)
        self.assertEqual((status, err), (0, ""))
        document = json.loads(out)
        self.assertEqual(document["schema"], "cleave.advice/1")
        self.assertEqual(document["gpus"], 1)
        self.assertEqual(document["ranked"][0]["way"], "passthrough")
        self.assertIsNone(document["ranked"][0]["blocked"])
        os.rename(f"{self.machine.place}/sys/class/iommu", f"{self.machine.place}/sys/class/off")
        document = json.loads(self.machine.cleave("advise", "--trust", "untrusted", "--in", "vm",
                                                  "-o", "json", state=False)[1])
        self.assertIn("the IOMMU is off", document["ranked"][0]["blocked"])
        status, out, _ = self.machine.cleave("advise", "--model", "140G", "--gpu", "80Gx8",
                                             state=False)
        self.assertEqual(status, 0)
        self.assertIn("Split it by tensor parallelism over 4 GPUs: 35 GiB of weights on each of 4.",
                      out)

    def test_advice_refuses_nonsense(self):
        for words in (["--tenants", "0"], ["--compute", "101"], ["--latency", "soon"],
                      ["--trust", "blind"], ["--need", "luck"], ["--gpu", "80Gx0"],
                      ["--memory", "lots"]):
            with self.subTest(words):
                self.assertEqual(self.machine.cleave("advise", *words, state=False)[0], 2)


if __name__ == "__main__":
    CLEAVE = os.path.abspath(sys.argv.pop(1))
    unittest.main()
