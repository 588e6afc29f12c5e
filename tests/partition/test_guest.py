#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Passthrough and virtual functions on a real kernel: a guest of QEMU under software emulation, with
an emulated IOMMU, a display, a card in a shared group and an NVMe device with SR-IOV.

With --nested, a guest inside the guest: it gets a disk by the words that `cleave passthrough show`
prints, reads what the host has written there and writes what the host then finds.

usage: test_guest.py CLEAVE HOLD_VFIO [--nested]

Needs qemu-system-x86, busybox-static, cpio, kmod and one of Debian's kernels "linux-image-…-amd64"
(not the cloud one, which has no displays): installed, or unpacked by `dpkg-deb -x` and depmod into
the directory that CLEAVE_GUEST_KERNEL names. Where something is missing the test is skipped (77).
Mediated devices are made by a small module of our own (mdev/), which needs that kernel's headers
(linux-headers-…-amd64, linux-headers-…-common, linux-kbuild-…) and its compiler; without them that
part is skipped.
"""
import functools
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SKIP = 77
HERE = os.path.dirname(os.path.abspath(__file__))
CLEAVE = HOLD_VFIO = None
KERNEL = None
MODULES = ["vfio", "vfio_iommu_type1", "vfio-pci", "nvme", "bochs", "e1000"]
# Under emulation, on a machine that does other things as well.
LIMIT_SECONDS = 110
NESTED_SECONDS = 900

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
# a sibling that the check does not see: the kernel says that the group is not viable
g=$(basename $(readlink /sys/bus/pci/devices/$S/iommu_group))
mkdir -p /tmp/few/$S; mount --bind /tmp/few /sys/kernel/iommu_groups/$g/devices
cp attach $S --allow-console-loss; [ $? = 6 ] && says "IOMMU group $g is not viable" && [ "$(driver $S)" = bochs-drm ]
result not-viable $?
umount /sys/kernel/iommu_groups/$g/devices
[ "$(cat /sys/bus/pci/devices/$S/driver_override)" = '(null)' ]; result not-viable-given-back $?

# without that sibling's driver it can be attached; sysfs lists a way to reset it, which VFIO finds to fail
E=0000:02:02.0
echo $E >/sys/bus/pci/drivers/e1000/unbind
echo "sysfs resets it by: $(cat /sys/bus/pci/devices/$S/reset_method)"
[ -s /sys/bus/pci/devices/$S/reset_method ]; result reset-in-sysfs $?
cp check $S --allow-console-loss; [ $? = 0 ] && ! says 'cannot be reset\|tried to reset'; result reset-not-tried $?
cp attach $S --allow-console-loss
[ $? = 0 ] && says "VFIO tried to reset $S and could not"; result no-reset-found $?
cp check $S; [ $? = 6 ] && says "VFIO tried to reset $S and could not" && says 'where Cleave has put it'
result no-reset-seen-again $?
cp release $S; [ $? = 0 ] && [ "$(driver $S)" = bochs-drm ]; result no-reset-released $?
echo $E >/sys/bus/pci/drivers/e1000/bind

part create sriov $P --count 99 --any-device; [ $? = 6 ] && says 'at most 4 virtual functions'
result sriov-too-many $?
part create sriov $P --count 3; [ $? = 6 ] && says 'not a GPU'; result sriov-not-a-gpu $?
part create sriov $P --count 3 --any-device
[ $? = 0 ] && [ "$(cat /sys/bus/pci/devices/$P/sriov_numvfs)" = 3 ]; result sriov $?
V=$(basename $(readlink /sys/bus/pci/devices/$P/virtfn1))
[ -z "$(driver $V)" ]; result sriov-driverless $?
cp attach $V --any-device; [ $? = 0 ] && [ "$(driver $V)" = vfio-pci ]; result function-attached $?
! says reset; result function-resets $?
part remove sriov-$P; [ $? = 6 ] && says "in use by the partition passthrough-$V"; result function-kept $?
# somebody has the device itself, and no file of its group any more
: >/tmp/held
hold_vfio $(basename $(readlink /sys/bus/pci/devices/$V/iommu_group)) $V >/tmp/held 2>&1 & holder=$!
for i in 1 2 3 4 5 6 7 8 9 10; do grep -q held /tmp/held && break; sleep 0.3; done
cat /tmp/held
cp release $V; [ $? = 6 ] && says "process $holder (hold_vfio) has .* VFIO device.* open" && [ "$(driver $V)" = vfio-pci ]
result device-held-is-refused $?
kill $holder; wait $holder 2>/dev/null
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

# Beside the module's own units: G has four, a CLEAVE-1Q takes one, a CLEAVE-2Q two.
CASES_MDEV = r"""
U=83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 W=83b8f4f2-509f-382f-3c1e-e6bfe0fa1002
M=/sys/bus/mdev/devices
T=$(echo /sys/class/mdev_bus/$G/mdev_supported_types/*-1)
room() { cat $T/available_instances; }
part create mediated $G --type CLEAVE-9Q; [ $? = 6 ] && says 'CLEAVE-2Q'; result mdev-no-type $?
part create mediated $G --type CLEAVE-1Q --uuid $U
[ $? = 0 ] && [ -d $M/$U ] && [ "$(room)" = 3 ]; result mdev $?
part list; says "mediated-$U.*stands"; result mdev-listed $?
part create mediated $G --type CLEAVE-1Q --uuid $U; [ $? = 6 ] && [ "$(room)" = 3 ]
result mdev-twice $?
part create mediated $G --type CLEAVE-2Q --uuid $W; [ $? = 0 ] && [ "$(room)" = 1 ]; result mdev-two $?
part create mediated $G --type CLEAVE-2Q; [ $? = 6 ] && [ "$(room)" = 1 ]; result mdev-exhausted $?
cp check $G --allow-console-loss; says "has the mediated device $U"; result mdev-in-the-way $?
group=$(basename $(readlink $M/$U/iommu_group))
part show mediated-$U --for cdi; says "/dev/vfio/$group\""; result mdev-cdi $?
sleep 1000 </dev/vfio/$group & holder=$!
sleep 0.5
part remove mediated-$U; [ $? = 6 ] && says "process $holder (sleep)" && [ -d $M/$U ]; result mdev-held $?
kill $holder; wait $holder 2>/dev/null
part remove mediated-$U; [ $? = 0 ] && [ ! -d $M/$U ] && [ "$(room)" = 2 ]; result mdev-removed $?
part remove mediated-$W; [ $? = 0 ] && [ "$(room)" = 4 ]; result mdev-all-back $?
# by others: left alone, and not taken for ours
echo $U >$T/create
part create mediated $G --type CLEAVE-1Q --uuid $U; [ $? = 6 ] && [ -d $M/$U ]; result mdev-others $?
part remove mediated-$U; [ $? = 3 ] && [ -d $M/$U ]; result mdev-others-stay $?
echo 1 >$M/$U/remove
start=$(hundredths); part create mediated $G --type CLEAVE-1Q --uuid $U; took=$(($(hundredths) - start))
part remove mediated-$U
bad=0
for i in 1 2 3 4 5 6 7 8; do
	cleave partition create mediated $G --type CLEAVE-1Q --uuid $U >/dev/null 2>&1 & job=$!
	usleep $((took * 10000 * i / 8)); kill -9 $job 2>/dev/null; wait $job 2>/dev/null
	part reconcile || bad=1
	part list
	if says stands; then
		[ -d $M/$U ] || bad=2
		part remove mediated-$U || bad=3
	fi
	[ ! -d $M/$U ] && [ "$(room)" = 4 ] || bad=4
done
echo "bad $bad" >/tmp/out
[ $bad = 0 ]; result mdev-killed-anywhere $?
"""

NESTED_DISK = "0000:01:00.0"
CASES_NESTED = r"""
P=%(disk)s
ulimit -l unlimited
cp attach $P --any-device; [ $? = 0 ] && [ "$(driver $P)" = vfio-pci ]; result nested-attach $?
words=$(cleave passthrough show $P --for qemu | tr -d '\\\\\\n')
echo "words: $words"
QEMU_MODULE_DIR=%(qemu_modules)s %(qemu)s -L /usr/share/qemu -nodefaults -nographic -no-reboot \
	-accel tcg -m 256 -machine q35 -cpu qemu64 -serial stdio -kernel /inner/vmlinuz \
	-initrd /inner/initrd -append "console=ttyS0 panic=-1 quiet no_timer_check" $words \
	</dev/null 2>&1 | tee /tmp/out
grep -q 'INNER read by the host' /tmp/out; result nested-read $?
cp release $P; [ $? = 0 ] && [ "$(driver $P)" = nvme ]; result nested-release $?
"""
INNER_INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in $(cat /modules.order); do insmod /modules/$module 2>/dev/null; done
for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/nvme0n1 ] && break; sleep 1; done
echo "INNER read $(dd if=/dev/nvme0n1 bs=512 count=1 2>/dev/null | tr -d '\0')"
echo 'by the inner guest' >/text
dd if=/text of=/dev/nvme0n1 bs=512 seek=8 conv=sync,fsync 2>/dev/null
poweroff -f
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


def build_module(place):
    """Our module that makes mediated devices, for that kernel; and why not, where it cannot be."""
    headers = os.path.join(KERNEL.root, "usr/src/linux-headers-" + KERNEL.version)
    if not os.path.isdir(headers):
        return None, f"the headers of the kernel are missing (package linux-headers-{KERNEL.version})"
    # Its makefile names its other half absolutely, which need not be installed there.
    build, source = os.path.join(place, "kbuild"), os.path.join(place, "mdev")
    os.mkdir(build)
    for name in os.listdir(headers):
        os.symlink(os.path.join(headers, name), os.path.join(build, name))
    os.unlink(os.path.join(build, "Makefile"))
    common = re.sub("-[a-z0-9]+$", "-common", headers)
    with open(os.path.join(build, "Makefile"), "w", encoding="ascii") as file:
        file.write(f"include {common}/Makefile\n")
    shutil.copytree(os.path.join(HERE, "mdev"), source)
    done = subprocess.run(["make", "-C", build, f"M={source}", "modules"], text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        return None, "the module for mediated devices cannot be built: " + done.stderr[-400:]
    return os.path.join(source, "cleave_mdev.ko"), None


def put(root, source, place=None):
    target = os.path.join(root, (place or source).lstrip("/"))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy(source, target)


def pack(root, initrd):
    subprocess.run("find . | cpio -o -H newc --quiet | gzip -1 >" + initrd, shell=True, cwd=root,
                   check=True)
    return initrd


def put_modules(root, names):
    """Modules with what they need, and their order."""
    order = []
    for name in names:
        for path in KERNEL.files_of(name):
            if os.path.basename(path) not in order:
                order.append(os.path.basename(path))
                put(root, path, "/modules/" + os.path.basename(path))
    with open(os.path.join(root, "modules.order"), "w", encoding="ascii") as file:
        file.write("\n".join(order))


def put_program(root, program):
    """With its libraries, where they are here."""
    put(root, program)
    libraries = subprocess.run(["ldd", program], text=True, capture_output=True,
                               check=True).stdout
    for library in re.findall(r"(/\S+\.so\S*)", libraries):
        put(root, library)


def empty_root(place, name, init):
    root = os.path.join(place, name)
    for directory in ("bin", "proc", "sys", "dev", "modules"):
        os.makedirs(os.path.join(root, directory))
    put(root, shutil.which("busybox"), "/bin/busybox")
    with open(os.path.join(root, "init"), "w", encoding="utf-8") as file:
        file.write(init)
    os.chmod(os.path.join(root, "init"), 0o755)
    return root


def build_initrd(place, cases, module):
    root = empty_root(place, "root", INIT % {"gpu": GPU, "shared": SHARED, "physical": PHYSICAL,
                                             "cases": cases})
    for program, name in ((CLEAVE, "cleave"), (HOLD_VFIO, "hold_vfio")):
        put_program(root, program)
        put(root, program, "/bin/" + name)
    put_modules(root, MODULES + (["mdev"] if module else []))
    if module:
        name = os.path.basename(module)
        put(root, module, "/modules/" + name)
        with open(os.path.join(root, "modules.order"), "a", encoding="ascii") as file:
            file.write("\n" + name)
    return pack(root, os.path.join(place, "initrd"))


def run_guest(cases, parameters="", mdev=False):
    """What the guest printed; and why it could not make mediated devices, None if it could."""
    with tempfile.TemporaryDirectory(prefix="cleave-guest-") as place:
        module, why = build_module(place) if mdev else (None, None)
        if module:
            cases += CASES_MDEV
        command = ["nice", "-n", "10", "qemu-system-x86_64", "-nodefaults", "-nographic",
                   "-no-reboot", "-accel", "tcg", "-m", "1024", "-smp", "1", "-machine",
                   "q35,kernel-irqchip=split", "-cpu", "qemu64", "-serial", "stdio", "-kernel",
                   KERNEL.image, "-initrd", build_initrd(place, cases, module), "-append",
                   # the interrupts' timer is measured against a clock that emulation does not keep
                   f"console=ttyS0 panic=-1 quiet no_timer_check {parameters}", *DEVICES.split()]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, text=True, errors="replace",
                                  capture_output=True, timeout=LIMIT_SECONDS, check=False)
            return done.stdout + done.stderr, why
        except subprocess.TimeoutExpired as late:
            return (late.stdout or b"").decode(errors="replace") + "\n(the guest did not end)\n", why


@functools.cache
def main_guest():
    return run_guest(CASES, mdev=True)


def run_nested():
    """What the outer guest printed, and the disk's bytes afterwards."""
    qemu = shutil.which("qemu-system-x86_64")
    modules = "/usr/lib/x86_64-linux-gnu/qemu"
    cases = CASES_NESTED % {"disk": NESTED_DISK, "qemu": qemu, "qemu_modules": modules}
    with tempfile.TemporaryDirectory(prefix="cleave-nested-") as place:
        inner = empty_root(place, "inner", INNER_INIT)
        put_modules(inner, ["nvme"])
        outer = empty_root(place, "outer", INIT % {"gpu": GPU, "shared": SHARED,
                                                   "physical": NESTED_DISK, "cases": cases})
        put_modules(outer, ["vfio", "vfio_iommu_type1", "vfio-pci", "nvme"])
        put(outer, CLEAVE, "/bin/cleave")
        put_program(outer, CLEAVE)
        put_program(outer, qemu)
        for accelerator in glob.glob(modules + "/accel-tcg-*.so"):
            put(outer, accelerator)
        for name in ("bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "linuxboot.bin"):
            for directory in ("/usr/share/qemu", "/usr/share/seabios"):
                if os.path.exists(f"{directory}/{name}"):
                    put(outer, f"{directory}/{name}", f"/usr/share/qemu/{name}")
        put(outer, KERNEL.image, "/inner/vmlinuz")
        put(outer, pack(inner, os.path.join(place, "inner.gz")), "/inner/initrd")
        disk = os.path.join(place, "disk")
        with open(disk, "wb") as file:
            file.write(b"by the host".ljust(1 << 20, b"\0"))
        command = [qemu, "-nodefaults", "-nographic", "-no-reboot", "-accel", "tcg", "-m", "2048",
                   "-smp", "2", "-machine", "q35,kernel-irqchip=split", "-cpu", "qemu64",
                   "-device", "intel-iommu,intremap=on,caching-mode=on", "-serial", "stdio",
                   "-kernel", KERNEL.image,
                   "-initrd", pack(outer, os.path.join(place, "outer.gz")),
                   "-append", "console=ttyS0 panic=-1 quiet no_timer_check",
                   "-drive", f"if=none,id=n0,file={disk},format=raw",
                   "-device", "pcie-root-port,id=rp1,slot=1,chassis=1,bus=pcie.0,addr=2",
                   "-device", "nvme,serial=plain,drive=n0,bus=rp1"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, text=True, errors="replace",
                                  capture_output=True, timeout=NESTED_SECONDS, check=False)
            console = done.stdout + done.stderr
        except subprocess.TimeoutExpired as late:
            console = (late.stdout or b"").decode(errors="replace") + "\n(it did not end)\n"
        with open(disk, "rb") as file:
            return cases, console, file.read()


class Nested(unittest.TestCase):
    def test_a_guests_guest_uses_the_disk(self):
        cases, console, disk = run_nested()
        results = dict(re.findall(r"RESULT (\S+) (\S+)", console))
        for name in re.findall(r"result (\S+) \$\?", cases) + ["end"]:
            with self.subTest(name):
                self.assertEqual(results.get(name), "ok", console)
        self.assertEqual(disk[8 * 512:9 * 512].rstrip(b"\0"), b"by the inner guest\n", console)


class Guest(unittest.TestCase):
    def check(self, cases, console):
        results = dict(re.findall(r"RESULT (\S+) (\S+)", console))
        expected = re.findall(r"result (\S+) \$\?", cases) + ["end"]
        for name in expected:
            with self.subTest(name):
                self.assertEqual(results.get(name), "ok", console)

    def test_devices_are_handed_on_and_come_back(self):
        self.check(CASES, main_guest()[0])

    def test_mediated_devices(self):
        console, why = main_guest()
        if why:
            self.skipTest(why)
        self.check(CASES_MDEV, console)

    def test_without_an_iommu_nothing_is_touched(self):
        self.check(CASES_OFF, run_guest(CASES_OFF, "intel_iommu=off")[0])


if __name__ == "__main__":
    CLEAVE, HOLD_VFIO = (os.path.abspath(sys.argv.pop(1)) for _ in range(2))
    KERNEL = find_needs()
    kind = Nested if "--nested" in sys.argv else Guest
    tests = unittest.defaultTestLoader.loadTestsFromTestCase(kind)
    sys.exit(not unittest.TextTestRunner().run(tests).wasSuccessful())
