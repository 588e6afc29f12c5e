#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_versions.py BUILD: the daemon is replaced by another version's while tenants run.

Daemons and guards of the versions to come are this tree's, built with a protocol version of one or
two more: the newer daemon must serve today's guard, the one after it must refuse with a sentence."""
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
# pylint: disable-next=wrong-import-position
from world import GIB, World, eventually, gone

# Version 1 as its guards speak it, in bytes: not made from the header, which may change.
HELLO_1 = struct.pack("<IHHIIQII24s24s", 0x4d564c43, 1, 1, 80, 0, 0, 0, 0, b"0.1.0", b"")
WELCOME_1 = struct.Struct("<IHHIIQII")
REFUSED_1 = struct.Struct("<IHHIIII")
GRANT_1 = struct.Struct("<8sIIQII")  # and devices from 64 on: uuid, limit, guarantee in 4 KiB
# says hello with the bytes given in hexadecimal, prints the answer and what the pages hold
OLD_GUARD = """
import array, json, mmap, os, socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(os.environ["CLEAVE_RUNTIME_DIR"] + "/guard.sock")
s.send(bytes.fromhex(sys.argv[1]))
data, control, _, _ = s.recvmsg(512, socket.CMSG_SPACE(8))
fds = array.array("i")
for _, _, text in control:
    fds.frombytes(text)
pages = [mmap.mmap(fd, 4096, prot=mmap.PROT_READ)[:192].hex() for fd in fds]
print(json.dumps([data.hex(), pages]), flush=True)
sys.stdin.read()
"""


def fold(answer):
    data, pages = answer
    return bytes.fromhex(data), [bytes.fromhex(page) for page in pages]


class Versions(unittest.TestCase):
    def setUp(self):
        self.world = World(BUILD).__enter__()
        self.addCleanup(self.world.__exit__, None, None, None)
        # an installation that can be replaced: programs are files of its own
        self.tree = os.path.join(self.world.place, "tree")
        os.mkdir(self.tree)
        for name in ("cleave", "cleaved"):
            shutil.copy2(os.path.join(BUILD, name), self.tree)
        os.symlink(os.path.join(BUILD, "src"), os.path.join(self.tree, "src"))
        self.world.build = self.tree
        self.world.cleave_path = os.path.join(self.tree, "cleave")

    def upgrade(self, ahead):
        """As a package does it: another file in the place of the daemon's, and a restart."""
        new = os.path.join(self.tree, "new")
        shutil.copy2(os.path.join(BUILD, "tests", "daemon", f"cleaved-ahead-{ahead}"), new)
        os.replace(new, os.path.join(self.tree, "cleaved"))
        old = self.world.daemon_pid()
        os.kill(old, signal.SIGTERM)
        eventually(lambda: gone(old))
        eventually(lambda: self.world.daemon_pid() not in (None, old), 2)
        if self.world.daemon_pid() is None:
            self.world.start_daemon()
        self.assertEqual(self.world.control("daemon.info")["guard_versions"], [ahead, ahead + 1])

    def refusals(self):
        events = self.world.cleave("events", "-o", "json")[1].splitlines()
        return [e["message"] for e in map(json.loads, events) if e["kind"] == "process-refused"]

    def test_upgrade(self):
        """Tenants keep their quota, their processes go on, new ones of the old guard join, and new
        grants are made."""
        tool = self.world.tool("--memory", "2G", "-n", "old")
        self.assertEqual(tool("alloc", 512), 0)
        self.upgrade(1)
        self.assertEqual(tool("info")[1], 2 * GIB)
        self.assertEqual(tool("alloc", 512), 0)
        self.assertEqual(tool("alloc", 1024), 2, "out of memory, as before")
        device, = self.world.tenants()[0]["devices"]
        self.assertGreaterEqual(device["memory_used"], GIB, device)
        self.world.cleave("set", "old", "--memory", "3G")
        self.assertEqual(tool("alloc", 1024), 0)
        # the guards of new tenants are of the old version too: libraries are replaced last
        other = self.world.tool("--memory", "1G", "-n", "new")
        self.assertEqual(other("info")[1], GIB)
        self.assertEqual(other("alloc", 2048), 2)
        # what is granted to both is not granted again
        status, _, error = self.world.cleave("run", "--memory", "78G", "--", "true", check=False)
        self.assertEqual(status, 125)
        self.assertIn("78 GiB", error)
        self.assertEqual((tool.end()[0], other.end()[0]), (0, 0))
        self.assertEqual(self.refusals(), [])

    def test_a_process_of_an_old_tenant_joins(self):
        """A shell in the tenant starts another program after the upgrade."""
        go = os.path.join(self.world.place, "go")
        script = (f"echo started; while [ ! -e {go} ]; do sleep 0.05; done; "
                  f"printf 'info\\nalloc 4096\\nquit 0\\n' | {sys.executable} {TOOL}")
        process = self.world.run("--memory", "2G", program=["sh", "-c", script])
        self.assertEqual(process.stdout.readline(), "started\n")
        self.upgrade(1)
        pathlib.Path(go).touch()
        out, err = process.communicate(timeout=60)
        self.assertEqual([json.loads(line) for line in out.splitlines()][1:],
                         [[2 * GIB - self.context(), 2 * GIB], 2], err)

    def context(self):
        """What a context takes on this GPU."""
        tool = self.world.tool("--memory", "2G")
        free, total = tool("info")
        tool.end()
        return total - free

    def test_two_versions_on(self):
        """The one after is refused, and both sides can say why."""
        tool = self.world.tool("--memory", "2G", "-n", "old")
        self.assertEqual(tool("info")[1], 2 * GIB)  # it has joined
        self.upgrade(2)
        # what runs goes on under its quota
        self.assertEqual(tool("alloc", 512), 0)
        self.assertEqual(tool("alloc", 2048), 2)
        log = os.path.join(self.world.place, "debug")
        done = subprocess.run([self.world.cleave_path, "run", "--memory", "1G", "--",
                               sys.executable, TOOL], env=dict(self.world.env, CLEAVE_DEBUG=log),
                              text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False,
                              timeout=60)
        self.assertIn("cuInit: CUDA error 802", done.stderr)
        self.assertIn("it is of another version", pathlib.Path(log).read_text(encoding="utf-8"))
        # of the new one, and of the old one that has said hello again
        refusals = self.refusals()
        self.assertEqual(len(refusals), 2)
        for sentence in refusals:
            self.assertIn("its guard speaks version 1 of the protocol", sentence)
            self.assertIn("2 to 3; end the tenant and start it anew", sentence)
        self.assertEqual(tool.end()[0], 0)

    def run_with(self, guard):
        """A program with that guard in a tenant of the daemon that runs."""
        log = os.path.join(self.world.place, "debug")
        done = subprocess.run(
            [self.world.cleave_path, "run", "--memory", "1G", "--", "env",
             f"LD_PRELOAD={BUILD}/tests/daemon/libguard-ahead-{guard}.so", sys.executable, TOOL],
            env=dict(self.world.env, CLEAVE_DEBUG=log), text=True, capture_output=True,
            input="info\nquit 0\n", check=False, timeout=60)
        return done, pathlib.Path(log).read_text(encoding="utf-8")

    def test_newer_guard(self):
        """Libraries that are newer than the daemon that still runs."""
        self.world.start_daemon()
        done, log = self.run_with(1)
        self.assertIn("cuInit: CUDA error 802", done.stderr)
        self.assertIn("it is of another version", log)
        self.assertIn("restart the daemon, which is older", self.refusals()[0])
        # after that restart it is served, and the daemon after that serves it too
        for ahead in (1, 2):
            self.upgrade(ahead)
            done, log = self.run_with(1)
            self.assertEqual((done.returncode, done.stderr), (0, ""), log)
            self.assertEqual(json.loads(done.stdout.splitlines()[1])[1], GIB)

    def test_recorded_session(self):
        """Version 1 to the byte: what is said, what is answered, and the pages. For as long as it
        is served, this must pass as it stands."""
        tenant = self.world.run("--memory", "3G",
                                program=[sys.executable, "-c", OLD_GUARD, HELLO_1.hex()])
        data, pages = fold(json.loads(tenant.stdout.readline()))
        magic, version, kind, size, _, identity, slot, _ = WELCOME_1.unpack(data)
        self.assertEqual((magic, version, kind, size, len(data)), (0x4d564c43, 1, 2, 32, 32))
        self.assertEqual(f"{identity:016x}", self.world.tenants()[0]["id"])
        self.assertGreater(slot, 0)
        grant, usage = pages
        name, version, size, owner, devices, _ = GRANT_1.unpack(grant[:GRANT_1.size])
        self.assertEqual((name, version, size, owner, devices),
                         (b"CLVGRANT", 1, 1088, identity, 1))
        self.assertEqual(struct.unpack("<Q", grant[80:88])[0], 3 * GIB // 4096)
        self.assertEqual(struct.unpack("<8sIIII", usage[:24]),
                         (b"CLVUSAGE", 1, 4096 + 4096 * 4096, 4096, 4096))
        tenant.communicate(timeout=30)
        self.assertEqual(tenant.returncode, 0)

    def test_recorded_refusal(self):
        """A refusal is understood by every version: it has the asker's."""
        for version in (0, 7, 65535):
            hello = HELLO_1[:4] + struct.pack("<H", version) + HELLO_1[6:]
            tenant = self.world.run("--memory", "1G",
                                    program=[sys.executable, "-c", OLD_GUARD, hello.hex()])
            data, pages = fold(json.loads(tenant.stdout.readline()))
            self.assertEqual(REFUSED_1.unpack(data), (0x4d564c43, version, 3, 24, 0, 1, 0))
            self.assertEqual(pages, [])
            tenant.communicate(timeout=30)


TOOL = str(pathlib.Path(__file__).resolve().parent.parent / "e2e" / "cuda_tool.py")

if __name__ == "__main__":
    BUILD = os.path.abspath(sys.argv.pop(1))
    unittest.main()
