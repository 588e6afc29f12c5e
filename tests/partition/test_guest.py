#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Passthrough and virtual functions on a real kernel: a guest of QEMU under software emulation, with
an emulated IOMMU, a display, a card in a shared group and an NVMe device with SR-IOV.

usage: test_guest.py CLEAVE

Needs qemu-system-x86, busybox-static, cpio, kmod and one of Debian's kernels "linux-image-…-amd64"
(not the cloud one, which has no displays): installed, or unpacked by `dpkg-deb -x` and depmod into
the directory that CLEAVE_GUEST_KERNEL names. Where something is missing the test is skipped (77).
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SKIP = 77
CLEAVE = None
KERNEL = None
MODULES = ["vfio", "vfio_iommu_type1", "vfio-pci", "nvme", "bochs", "e1000"]
# Under emulation, on a machine that does other things as well.
LIMIT_SECONDS = 110

GPU, SHARED, PHYSICAL = "0000:00:05.0", "0000:02:01.0", "0000:03:00.0"

INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /var/lib /tmp
for module in $(cat /modules.order); do insmod /modules/$module 2>/dev/null; done
G=%(gpu)s S=%(shared)s P=%(physical)s
driver() { readlink /sys/bus/pci/devices/$1/driver 2>/dev/null | sed 's|.*/||'; }
result() { # name, status of what was tested
	[ "$2" = 0 ] && echo "RESULT $1 ok" || { echo "RESULT $1 failed"; cat /tmp/out; }
}
cp() { cleave passthrough "$@" >/tmp/out 2>&1; }
part() { cleave partition "$@" >/tmp/out 2>&1; }
says() { grep -q -- "$1" /tmp/out; }
# the driver of a device that has just appeared takes a moment
for i in 1 2 3 4 5 6 7 8 9 10; do [ "$(driver $P)" = nvme ] && break; sleep 0.3; done
%(cases)s
echo "RESULT end ok"
poweroff -f
"""

CASES = r"""
cp check $G; says 'the text console is drawn on'; result console-seen $?
cp attach $G; [ $? = 6 ] && [ "$(driver $G)" = bochs-drm ]; result console-kept $?

cp attach $G --allow-console-loss
[ $? = 0 ] && [ "$(driver $G)" = vfio-pci ] && [ "$(cat /sys/bus/pci/devices/$G/driver_override)" = vfio-pci ]
result attach $?
group=$(basename $(readlink /sys/bus/pci/devices/$G/iommu_group))
[ -c /dev/vfio/$group ]; result node $?
part list; says "passthrough-$G.*stands"; result list $?
cp attach $G --allow-console-loss; [ $? != 0 ] && [ "$(driver $G)" = vfio-pci ]; result attach-twice $?

sleep 1000 </dev/vfio/$group & holder=$!
sleep 0.5
cp release $G; [ $? = 6 ] && says "process $holder (sleep) has /dev/vfio/$group open" && [ "$(driver $G)" = vfio-pci ]
result held-is-refused $?
kill $holder; wait $holder 2>/dev/null
cp release $G; [ $? = 0 ] && [ "$(driver $G)" = bochs-drm ]; result release $?
[ "$(cat /sys/bus/pci/devices/$G/driver_override)" = '(null)' ]; result override-gone $?
grep -q 1 /sys/class/vtconsole/vtcon1/bind; result console-back $?

cp check $S; says 'which the host.s driver e1000 has'; result group-shared-seen $?
cp attach $S; [ $? = 6 ] && [ "$(driver $S)" = bochs-drm ]; result group-shared-refused $?

part create sriov $P --count 99 --any-device; [ $? = 6 ] && says 'at most 4 virtual functions'
result sriov-too-many $?
part create sriov $P --count 3; [ $? = 6 ] && says 'not a GPU'; result sriov-not-a-gpu $?
part create sriov $P --count 3 --any-device
[ $? = 0 ] && [ "$(cat /sys/bus/pci/devices/$P/sriov_numvfs)" = 3 ]; result sriov $?
V=$(basename $(readlink /sys/bus/pci/devices/$P/virtfn1))
[ -z "$(driver $V)" ]; result sriov-driverless $?
cp attach $V --any-device; [ $? = 0 ] && [ "$(driver $V)" = vfio-pci ]; result function-attached $?
part remove sriov-$P; [ $? = 6 ] && says "in use by the partition passthrough-$V"; result function-kept $?
cp release $V; [ $? = 0 ] && [ -z "$(driver $V)" ]; result function-released $?
part remove sriov-$P
[ $? = 0 ] && [ "$(cat /sys/bus/pci/devices/$P/sriov_numvfs)" = 0 ] && [ "$(cat /sys/bus/pci/devices/$P/sriov_drivers_autoprobe)" = 1 ]
result sriov-removed $?

# by others, Cleave's record or not: left alone
echo 2 >/sys/bus/pci/devices/$P/sriov_numvfs
part create sriov $P --count 1 --any-device; [ $? = 6 ] && says 'which Cleave has not made'
result others-functions $?
[ "$(cat /sys/bus/pci/devices/$P/sriov_numvfs)" = 2 ]; result others-functions-stay $?
echo 0 >/sys/bus/pci/devices/$P/sriov_numvfs

# killed anywhere on the way, which is measured first
hundredths() { cut -d' ' -f1 /proc/uptime | tr -d .; }
start=$(hundredths); cp attach $G --allow-console-loss; took=$(($(hundredths) - start))
cp release $G
bad=0 cut=0 whole=0
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
	cleave passthrough attach $G --allow-console-loss >/dev/null 2>&1 & job=$!
	usleep $((took * 10000 * i / 16)); kill -9 $job 2>/dev/null; wait $job 2>/dev/null
	part reconcile || bad=1
	says 'cut short' && cut=$((cut + 1))
	part list
	if says stands; then
		whole=$((whole + 1))
		[ "$(driver $G)" = vfio-pci ] || bad=2
		cp release $G || bad=3
	fi
	[ "$(driver $G)" = bochs-drm ] || bad=4
	[ "$(cat /sys/bus/pci/devices/$G/driver_override)" = '(null)' ] || bad=5
done
echo "bad $bad, cut short $cut times, whole $whole times, one takes ${took}0 ms" >/tmp/out
[ $bad = 0 ] && [ $cut -gt 0 ]; result killed-anywhere $?
cat /tmp/out
"""

CASES_OFF = r"""
cp check $G --allow-console-loss; says 'the IOMMU is off'; result iommu-off-seen $?
cp attach $G --allow-console-loss; [ $? = 6 ] && [ "$(driver $G)" = bochs-drm ]; result iommu-off-refused $?
"""

DEVICES = """-device intel-iommu,intremap=on,caching-mode=on
-device pcie-root-port,id=rp2,slot=2,chassis=2,bus=pcie.0,addr=2
-device nvme-subsys,id=ss0
-device nvme,id=pf,serial=sriov,subsys=ss0,bus=rp2,sriov_max_vfs=4,sriov_vq_flexible=8,sriov_vi_flexible=4,max_ioqpairs=12,msix_qsize=12
-device pcie-root-port,id=rp3,slot=3,chassis=3,bus=pcie.0,addr=1
-device pcie-pci-bridge,id=br1,bus=rp3
-device bochs-display,bus=br1,addr=1
-device e1000,bus=br1,addr=2,romfile=
-device bochs-display,addr=5"""


def skip(sentence):
    print(f"skipped: {sentence}")
    sys.exit(SKIP)


class Kernel:
    """A kernel image and its modules."""

    def __init__(self, root):
        self.root = root
        images = [i for i in glob.glob(os.path.join(root, "boot/vmlinuz-*-amd64"))
                  if "-cloud-" not in i]
        images = [i for i in images if os.path.exists(self.modules(i))]
        if not images:
            raise LookupError
        self.image = sorted(images)[-1]
        self.version = os.path.basename(self.image)[len("vmlinuz-"):]

    def modules(self, image):
        version = os.path.basename(image)[len("vmlinuz-"):]
        return os.path.join(self.root, "lib/modules", version, "modules.dep")

    def files_of(self, module):
        done = subprocess.run(["modprobe", "-d", self.root, "-S", self.version, "--show-depends",
                               module], text=True, capture_output=True, check=False)
        return re.findall(r"^insmod (\S+)", done.stdout, re.M)


def find_needs():
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("busybox",
                             "busybox-static"), ("cpio", "cpio"), ("modprobe", "kmod")):
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            skip(f"{program} is missing (package {package})")
    for root in filter(None, (os.environ.get("CLEAVE_GUEST_KERNEL"), "/")):
        try:
            return Kernel(root)
        except LookupError:
            pass
    return skip("there is no Debian kernel with displays here; CLEAVE_GUEST_KERNEL may name an "
                "unpacked linux-image-…-amd64")


def put(root, source, place=None):
    target = os.path.join(root, (place or source).lstrip("/"))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy(source, target)


def build_initrd(place, cases):
    root = os.path.join(place, "root")
    shutil.rmtree(root, ignore_errors=True)
    for directory in ("bin", "proc", "sys", "dev", "modules"):
        os.makedirs(os.path.join(root, directory))
    put(root, shutil.which("busybox"), "/bin/busybox")
    put(root, CLEAVE, "/bin/cleave")
    libraries = subprocess.run(["ldd", CLEAVE], text=True, capture_output=True, check=True).stdout
    for library in re.findall(r"(/\S+\.so\S*)", libraries):
        put(root, library)
    order = []
    for module in MODULES:
        for path in KERNEL.files_of(module):
            if os.path.basename(path) not in order:
                order.append(os.path.basename(path))
                put(root, path, "/modules/" + os.path.basename(path))
    with open(os.path.join(root, "modules.order"), "w", encoding="ascii") as file:
        file.write("\n".join(order))
    with open(os.path.join(root, "init"), "w", encoding="utf-8") as file:
        file.write(INIT % {"gpu": GPU, "shared": SHARED, "physical": PHYSICAL, "cases": cases})
    os.chmod(os.path.join(root, "init"), 0o755)
    initrd = os.path.join(place, "initrd")
    subprocess.run("find . | cpio -o -H newc --quiet | gzip -1 >" + initrd, shell=True, cwd=root,
                   check=True)
    return initrd


def run_guest(cases, parameters=""):
    with tempfile.TemporaryDirectory(prefix="cleave-guest-") as place:
        command = ["nice", "-n", "10", "qemu-system-x86_64", "-nodefaults", "-nographic",
                   "-no-reboot", "-accel", "tcg", "-m", "1024", "-smp", "1", "-machine",
                   "q35,kernel-irqchip=split", "-cpu", "qemu64", "-serial", "stdio", "-kernel",
                   KERNEL.image, "-initrd", build_initrd(place, cases), "-append",
                   f"console=ttyS0 panic=-1 quiet {parameters}", *DEVICES.split()]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, text=True, errors="replace",
                                  capture_output=True, timeout=LIMIT_SECONDS, check=False)
            return done.stdout + done.stderr
        except subprocess.TimeoutExpired as late:
            return (late.stdout or b"").decode(errors="replace") + "\n(the guest did not end)\n"


class Guest(unittest.TestCase):
    def check(self, cases, console):
        results = dict(re.findall(r"RESULT (\S+) (\S+)", console))
        expected = re.findall(r"result (\S+) \$\?", cases) + ["end"]
        for name in expected:
            with self.subTest(name):
                self.assertEqual(results.get(name), "ok", console)

    def test_devices_are_handed_on_and_come_back(self):
        self.check(CASES, run_guest(CASES))

    def test_without_an_iommu_nothing_is_touched(self):
        self.check(CASES_OFF, run_guest(CASES_OFF, "intel_iommu=off"))


if __name__ == "__main__":
    CLEAVE = os.path.abspath(sys.argv.pop(1))
    KERNEL = find_needs()
    unittest.main()
