#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The verbs about hardware, on a machine of plain files: what they print, their exit statuses, their
JSON. Plain files do not answer writes as a kernel does, so what is attached here is rolled back.

usage: test_verbs.py CLEAVE
"""
import ctypes
import json
import os
import pty
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest
from xml.etree import ElementTree

CLEAVE = None
GPU = "0000:01:00.0"


class Machine:
    def __init__(self, place):
        self.place = place
        self.environment = {}
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

    def simulate(self, model, faults=""):
        """NVIDIA's driver, simulated; its first GPU is at 0000:1b:00.0."""
        self.environment = {"CLEAVE_SIM": model, "CLEAVE_SIM_FAULTS": faults,
                            "CLEAVE_SIM_DIR": os.path.join(self.place, "sim")}

    def cleave(self, verb, *words, state=True):
        roots = [f"--sysfs={self.place}/sys", f"--proc={self.place}/proc"]
        if state:
            roots.append(f"--state={self.place}/state")
        environment = dict(os.environ, CLEAVE_RUNTIME_DIR=os.path.join(self.place, "run"),
                           **self.environment)
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

    def test_apparmor_is_told_by_check_and_attach(self):
        self.machine.write("sys/module/apparmor/parameters/enabled", "Y\n")
        self.machine.write("sys/kernel/security/apparmor/profiles", "libvirtd (enforce)\n")
        status, out, err = self.machine.cleave("passthrough", "check", GPU)
        self.assertEqual(status, 0, err)
        sentence = "AppArmor's profile libvirtd is in force: QEMU under it"
        self.assertIn(sentence, out)
        self.assertIn("'/dev/vfio/vfio rw, /dev/vfio/12 rw,'. For a <hostdev> libvirt adds", out)
        for words in ([], ["--dry-run"]):  # plain files do not answer, so the first is rolled back
            err = self.machine.cleave("passthrough", "attach", GPU, *words)[2]
            self.assertEqual(err.count(sentence), 1, err)

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

    def test_words_for_libvirt_are_xml(self):
        out = self.machine.cleave("passthrough", "show", GPU, "--for", "libvirt")[1]
        domain = ElementTree.fromstring(f"<domain>{out}</domain>")
        hostdev = domain.find("hostdev")
        self.assertEqual(hostdev.attrib, {"mode": "subsystem", "type": "pci", "managed": "yes"})
        self.assertEqual(hostdev.find("source/address").attrib,
                         {"domain": "0x0000", "bus": "0x01", "slot": "0x00", "function": "0x0"})
        self.assertEqual(domain.find("numatune/memory").attrib, {"mode": "strict", "nodeset": "1"})
        self.assertIsNotNone(domain.find("memoryBacking/hugepages"))

    @unittest.skipUnless(shutil.which("qemu-system-x86_64"), "QEMU is not installed")
    def test_qemu_knows_the_words(self):
        out = self.machine.cleave("passthrough", "show", GPU, "--for", "qemu")[1]
        devices = re.findall(r"-device (\S+)", out)
        self.assertEqual([d.split(",")[0] for d in devices], ["pcie-root-port", "vfio-pci"])
        for device in devices:
            kind, *properties = device.split(",")
            known = subprocess.run(["qemu-system-x86_64", "-device", f"{kind},help"], text=True,
                                   capture_output=True, timeout=60, check=False).stdout
            for name in [p.split("=")[0] for p in properties]:
                if name not in ("id", "bus"):  # every device's
                    self.assertRegex(known, rf"(?m)^\s*{name}=")

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

    def mig_capabilities(self, numbers):
        """What the driver has in proc of its instances; gi and ci numbers to minors."""
        base = "proc/driver/nvidia/capabilities"
        self.machine.write(f"{base}/mig/config", "DeviceFileMinor: 1\n")
        for (instance, compute), minor in numbers.items():
            leaf = f"gi{instance}/access" if compute is None else f"gi{instance}/ci{compute}/access"
            self.machine.write(f"{base}/gpu0/mig/{leaf}",
                               f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\n")

    def test_mig_from_the_wish_to_the_container(self):
        gpu = "0000:1b:00.0"
        self.machine.function(gpu, 0x10de, 0x2330, 0x030200, "nvidia", 13)
        self.machine.simulate("h100")
        self.mig_capabilities({})
        # Never turned on without being asked.
        status, out, err = self.machine.cleave("partition", "create", "mig", gpu, "--want",
                                               "3x10G,rest")
        self.assertEqual((status, out), (6, ""))
        self.assertIn(f"MIG mode of {gpu} is off. With --turn-on-mig", err)
        status, out, err = self.machine.cleave("partition", "create", "mig", gpu, "--want",
                                               "3x10G,rest", "--turn-on-mig", "--dry-run")
        self.assertEqual((status, err), (0, ""))
        self.assertIn(f"1. turn on MIG mode of {gpu}\n     by NVML: 'on' as {gpu}/mode\n", out)
        self.assertIn("make a 1g.10gb at slice", out)
        self.assertIn("make a 4g.40gb at slices 0 to 3", out)
        self.assertEqual(self.machine.cleave("partition", "list", "-o", "json")[1].count("mig"), 0)
        status, out, err = self.machine.cleave("partition", "create", "mig", gpu, "--want",
                                               "3x10G,rest", "--turn-on-mig")
        self.assertEqual((status, out, err), (0, f"mig-{gpu}\n", ""))
        listed = json.loads(self.machine.cleave("partition", "list", "-o", "json")[1])
        self.assertEqual([(p["id"], p["state"], len(p["geometry"]["instances"]))
                          for p in listed["partitions"]], [(f"mig-{gpu}", "stands", 4)])
        status, out, err = self.machine.cleave("passthrough", "check", gpu)
        self.assertIn(f"in the way: {gpu} has 4 MIG instances.", out)
        # For containers: a device each, and no words for VMs.
        status, _, err = self.machine.cleave("partition", "show", f"mig-{gpu}")
        self.assertEqual(status, 2)
        self.assertIn("is given to containers, not to VMs", err)
        status, _, err = self.machine.cleave("partition", "show", f"mig-{gpu}", "--for", "cdi")
        self.assertEqual(status, 1)
        self.assertIn("the driver has no capability file of the ", err)
        numbers = {}
        for instance in range(0, 15):
            numbers[(instance, None)] = 3 + 9 * instance
            numbers[(instance, 0)] = 4 + 9 * instance
        self.mig_capabilities(numbers)
        status, out, err = self.machine.cleave("partition", "show", f"mig-{gpu}", "--for", "cdi")
        self.assertEqual((status, err), (0, ""))
        spec = json.loads(out)
        self.assertEqual((spec["cdiVersion"], spec["kind"]), ("0.3.0", "cleave.dev/partition"))
        names = [device["name"] for device in spec["devices"]]
        self.assertEqual(len(set(names)), 4)
        for device in spec["devices"]:
            edits = device["containerEdits"]
            self.assertRegex(device["name"], r"^MIG-[0-9a-f-]{36}$")
            self.assertEqual(edits["env"], [f"CUDA_VISIBLE_DEVICES={device['name']}"])
            nodes = [node["path"] for node in edits["deviceNodes"]]
            self.assertEqual(nodes[:3], ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"])
            caps = [int(node.removeprefix("/dev/nvidia-caps/nvidia-cap")) for node in nodes[3:]]
            self.assertEqual(len(caps), 2)
            self.assertEqual(caps[1], caps[0] + 1)
        status, out, _ = self.machine.cleave("partition", "show", f"mig-{gpu}", "--for", "podman")
        self.assertEqual(out.count("--device=/dev/nvidia-caps/nvidia-cap"), 8)
        status, out, _ = self.machine.cleave("partition", "show", f"mig-{gpu}", "--for", "pod")
        self.assertIn(f'cdi.k8s.io/cleave: "cleave.dev/partition={names[0]}"', out)
        # Another layout; then all of it goes, the mode too.
        status, out, err = self.machine.cleave("partition", "change", f"mig-{gpu}", "--want",
                                               "2x3g.40gb")
        self.assertEqual((status, err), (0, ""))
        listed = json.loads(self.machine.cleave("partition", "list", "-o", "json")[1])
        self.assertEqual([i["profile"] for i in listed["partitions"][0]["geometry"]["instances"]],
                         ["3g.40gb", "3g.40gb"])
        self.machine.simulate("h100", "user=4")
        status, _, err = self.machine.cleave("partition", "remove", f"mig-{gpu}")
        self.assertEqual(status, 6)
        self.assertIn("in the way: the 3g.40gb at slices 4 to 7 of 0000:1b:00.0 is in use: process "
                      "1. End the programs that use it.", err)
        self.machine.simulate("h100")
        self.assertEqual(self.machine.cleave("partition", "remove", f"mig-{gpu}"), (0, "", ""))
        status, _, err = self.machine.cleave("partition", "create", "mig", gpu, "--want", "1g.10gb")
        self.assertIn(f"MIG mode of {gpu} is off", err)

    def test_mig_mode_that_needs_a_reset_is_left_as_it_was(self):
        gpu = "0000:1b:00.0"
        self.machine.function(gpu, 0x10de, 0x20b2, 0x030200, "nvidia", 13)
        self.machine.simulate("a100", "reset@MIG")
        status, out, err = self.machine.cleave("partition", "create", "mig", gpu, "--want", "rest",
                                               "--turn-on-mig")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("it would only take effect with a reset of the GPU, so it is as it was", err)
        self.assertIn("--gpu-reset", err)
        self.assertEqual(self.machine.cleave("partition", "list")[1].split(),
                         ["ID", "TECHNIQUE", "DEVICE", "STATE"])

    def test_compute_instances_have_to_be_equal(self):
        gpu = "0000:1b:00.0"
        self.machine.function(gpu, 0x10de, 0x20b7, 0x030200, "nvidia", 13)
        self.machine.simulate("a30")
        words = ("partition", "create", "mig", gpu, "--turn-on-mig", "--dry-run", "--want", "rest")
        status, out, err = self.machine.cleave(*words, "--compute-instances", "2")
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(out.count("make a compute instance of 2 of 4 slices in the 4g.24gb"), 2)
        status, _, err = self.machine.cleave(*words, "--compute-instances", "3")
        self.assertEqual(status, 2)
        self.assertIn("the 4 compute slices of a 4g.24gb are not to be cut into 3 equal", err)

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

    def simulated(self, *words, **more):
        """With a daemon of its own."""
        self.addCleanup(self.end_daemon)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CLEAVE_")}
        environment.update(CLEAVE_RUNTIME_DIR=f"{self.machine.place}/run",
                           CLEAVE_SIM_DIR=f"{self.machine.place}/sim", **more)
        os.makedirs(environment["CLEAVE_RUNTIME_DIR"], mode=0o700, exist_ok=True)
        done = subprocess.run([CLEAVE, *words], text=True, capture_output=True, timeout=60,
                              stdin=subprocess.DEVNULL, env=environment, check=False)
        return done.returncode, done.stdout, done.stderr

    def end_daemon(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            try:
                s.connect(f"{self.machine.place}/run/control.sock")
                s.sendall(b'{"method": "daemon.stop", "id": 1, "params": {}}\n')
                s.recv(4096)
            except OSError:
                pass

    def test_a_machine_without_gpus(self):
        """What a new user reads first, on a machine that has none."""
        try:
            ctypes.CDLL("libnvidia-ml.so.1")
            self.skipTest("NVIDIA's driver is installed")
        except OSError:
            pass
        none = [f"--sysfs={self.machine.place}/none", f"--proc={self.machine.place}/none"]
        os.makedirs(f"{self.machine.place}/none/bus/pci/devices")
        status, out, err = self.simulated("devices", *none)
        self.assertEqual((status, out), (0, ""))
        self.assertIn("there is no GPU here that CUDA can use", err)
        self.assertIn("cleave devices --sim", err)
        status, out, err = self.simulated("advise", *none)
        self.assertEqual((status, err), (0, ""))
        self.assertTrue(out.startswith("There is no GPU here;"), out)
        self.assertIn("\nFor 1 tenant of one owner, in processes:\n\n1. a whole GPU for one tenant "
                      "(take this)\n", out)

    def test_advice_for_a_simulated_gpu(self):
        status, out, err = self.simulated("advise", "--sim", "--trust", "mixed", "--in", "container",
                                          "--tenants", "3", "--memory", "5G")
        self.assertEqual((status, err), (0, ""))
        self.assertTrue(out.startswith("For 3 tenants of several owners, in containers, 5 GiB of "
                                       "memory each:\n\n1. an instance cut by MIG\n"), out)
        self.assertIn("would be best, but is blocked: MIG mode is off.\n     then: $ cleave partition "
                      "create mig 0000:1b:00.0 --turn-on-mig --want 3x5G\n", out)
        status, out, err = self.simulated("devices", "--sim")
        self.assertEqual((status, err), (0, ""))
        self.assertIn("NVIDIA H100 80GB HBM3", out)
        document = json.loads(self.simulated("advise", "--sim", "-o", "json", "--tenants", "2")[1])
        self.assertEqual(document["gpus"], 1)
        self.assertRegex([r["command"] for r in document["ranked"] if r["way"] == "mps"][0],
                         r"^cleave mps start GPU-[0-9a-f-]{36} ")

    def test_advice_asks_at_a_terminal(self):
        """An answer that is not understood is asked for again; what is left empty is left open."""
        answers = ["mixed", "boat", "container", "3", "5G", "", "", "", "luck", "bursty resize"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CLEAVE_")}
        environment.update(CLEAVE_RUNTIME_DIR=f"{self.machine.place}/run", NO_COLOR="1",
                           CLEAVE_SIM_DIR=f"{self.machine.place}/sim")
        os.makedirs(environment["CLEAVE_RUNTIME_DIR"], mode=0o700, exist_ok=True)
        self.addCleanup(self.end_daemon)
        ours, theirs = pty.openpty()
        with subprocess.Popen([CLEAVE, "advise", "--sim"], stdin=theirs, stdout=theirs,
                              stderr=theirs, env=environment) as process:
            os.close(theirs)
            os.write(ours, ("\n".join(answers) + "\n").encode())
            said = b""
            try:
                while data := os.read(ours, 4096):
                    said += data
            except OSError:  # the other end is closed
                pass
            os.close(ours)
        said = said.decode().replace("\r", "")
        self.assertEqual(process.returncode, 0, said)
        self.assertIn("it is one of process container vm, not 'boat'", said)
        self.assertIn("not 'luck'", said)
        self.assertEqual(said.count("What do they live in?"), 2)
        self.assertIn("For 3 tenants of several owners, in containers, 5 GiB of memory each:", said)

    def test_advice_refuses_nonsense(self):
        for words in (["--tenants", "0"], ["--compute", "101"], ["--latency", "soon"],
                      ["--trust", "blind"], ["--need", "luck"], ["--gpu", "80Gx0"],
                      ["--memory", "lots"]):
            with self.subTest(words):
                self.assertEqual(self.machine.cleave("advise", *words, state=False)[0], 2)


if __name__ == "__main__":
    CLEAVE = os.path.abspath(sys.argv.pop(1))
    unittest.main()
