#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Containers as tenants, with podman for real, on a simulated GPU.

usage: test_containers.py BUILD

As root it runs in a mount namespace of its own, with a /run of its own, so nothing of the machine's
containers is touched.
"""
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

SKIPPED = 77
MIB, GIB = 1 << 20, 1 << 30
MACHINE = os.uname().machine
LOADER = {"x86_64": "lib64/ld-linux-x86-64.so.2", "aarch64": "lib/ld-linux-aarch64.so.1"}[MACHINE]
MUSL = f"lib/ld-musl-{MACHINE}.so.1"
MULTIARCH = f"lib/{MACHINE}-linux-gnu"
BUILD = None
PLACE = None
RUN = None  # the words of a podman that runs here, or None
WHY = "podman is not installed"


def call(words, **kinds):
    return subprocess.run(words, text=True, capture_output=True, check=False, timeout=90,
                          stdin=subprocess.DEVNULL, **kinds)


def make_rootfs(path):
    """An image's root that has glibc and the probe."""
    for directory in ("bin", "proc", "sys", "dev", "tmp", "etc", "run", "lib64", MULTIARCH):
        os.makedirs(os.path.join(path, directory), exist_ok=True)
    probe = BUILD + "/tests/containers/gpu-probe"
    shutil.copy(probe, path + "/bin/gpu-probe")
    shutil.copy("/" + LOADER, os.path.join(path, LOADER))
    for name in ("libc.so.6", "libdl.so.2", "libpthread.so.0", "libm.so.6"):
        shutil.copy(f"/{MULTIARCH}/{name}", f"{path}/{MULTIARCH}/{name}")
    return path


def podman(place):
    return ["podman", "--root", place + "/storage", "--runroot", place + "/runroot",
            "--tmpdir", place + "/podman"]


LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]


def find_podman(rootfs):
    """The words with which podman can run something here, or why there are none."""
    why = "podman is not installed"
    if not shutil.which("podman"):
        return None, why
    for runtime in ("crun", "runc"):
        if not shutil.which(runtime):
            continue
        for more in ([], ["--cgroups=disabled"]):
            base = podman(PLACE) + ["--runtime", runtime]
            run = ["run", "--rm", "--network=none", *LIMITS, *more]
            done = call(base + run + ["--rootfs", rootfs, "/bin/gpu-probe"])
            # there is no CUDA in it: that it says so is enough
            if "error libcuda.so.1" in done.stdout:
                return (base, run), None
            why = "podman cannot run a container here: " + (done.stderr.strip() or "?")[-200:]
    return None, why


class Daemon:
    def __init__(self, place):
        self.place = place
        self.environment = {"PATH": os.environ["PATH"], "HOME": place,
                            "CLEAVE_RUNTIME_DIR": place + "/cleave", "CLEAVE_SIM_DIR": place + "/sim"}
        for name in ("/cleave", "/sim"):
            os.makedirs(place + name, 0o700, exist_ok=True)

    def cleave(self, *words):
        return call([BUILD + "/cleave", *words], env=self.environment)

    def json(self, *words):
        done = self.cleave(*words, "-o", "json")
        return json.loads(done.stdout)

    def tenants(self):
        return self.json("ps")["tenants"]

    def pid(self, number=0):
        """The daemon's, not its keeper's."""
        for name in os.listdir("/proc"):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except (OSError, ValueError):
                continue
            if words[0].endswith(b"cleaved") and b"--keeper" not in words and \
                    any(self.place.encode() in w for w in words) and int(name) != number:
                return int(name)
        return None

    def stop(self):
        with socket.socket(socket.AF_UNIX) as control:
            try:
                control.connect(self.place + "/cleave/control.sock")
            except OSError:
                return
            request = {"method": "daemon.stop", "id": 1, "params": {"force": True}}
            control.sendall(json.dumps(request).encode() + b"\n")
            control.makefile().readline()


def eventually(condition, seconds=20):
    until = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    return value


def facts_of(text):
    facts = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        facts[name] = int(value) if value.isdigit() else value
    return facts


class Base(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if RUN is None:
            raise unittest.SkipTest(WHY)
        cls.daemon = Daemon(PLACE)
        cls.addClassCleanup(cls.daemon.stop)
        done = cls.daemon.cleave("cdi", "--sim", "--write", "1500M")
        assert done.returncode == 0, done.stderr

    def run_in(self, device, *command, rootfs="/rootfs", more=()):
        base, run = RUN
        return call(base + run + ["--device", "cleave.dev/gpu=" + device, *more, "--rootfs",
                                  PLACE + rootfs, *(command or ("/bin/gpu-probe",))])

    def start(self, device, *more):
        """A container that waits, and what it has said."""
        base, run = RUN
        process = subprocess.Popen(
            base + run + ["-i", "--device", "cleave.dev/gpu=" + device, *more,
                          "--rootfs", PLACE + "/rootfs", "/bin/gpu-probe"],
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        text = ""
        for line in process.stdout:
            text += line
            if line == "ready\n":
                break

        def end():
            process.stdin.close()
            process.stdout.close()
            process.wait(timeout=30)

        self.addCleanup(end)
        return process, facts_of(text)


    def exec(self, container, *command):
        # podman gives it nothing of the specification's environment; where the simulated GPU is,
        # it cannot know then
        return call(RUN[0] + ["exec", "--env", "CLEAVE_SIM=h100", "--env",
                              "CLEAVE_SIM_DIR=/run/cleave-sim", container, *command])


class Containers(Base):
    def test_one_option_gives_a_gpu_of_one_gib(self):
        done = self.run_in("mem-1G")
        facts = facts_of(done.stdout)
        self.assertEqual((facts.get("cuda"), facts.get("nvml")), (GIB, GIB),
                         done.stdout + done.stderr)
        self.assertEqual(facts["refused"], 2)
        self.assertGreater(facts["held"], 0)
        self.assertLessEqual(facts["used"], GIB)
        # and nothing of it stays
        self.assertTrue(eventually(lambda: self.daemon.tenants() == []))

    def test_nvidia_smi_shows_one_gib(self):
        done = self.run_in("mem-1G", "nvidia-smi")
        self.assertRegex(done.stdout, r" 0MiB /   1024MiB ", done.stderr)
        self.assertEqual(done.stdout.count("MiB /"), 1)
        # beside a program that holds something, of its own container and of another one
        _, facts = self.start("mem-2G", "--name", "watched")
        self.start("mem-4G")
        for words, answer in (("--query-gpu=memory.total,memory.used", (2048, facts["used"] // MIB)),
                              ("--query-compute-apps=pid,used_memory", (1, facts["used"] // MIB))):
            done = self.exec("watched", "nvidia-smi", words, "--format=csv,noheader,nounits")
            self.assertEqual(done.stdout, "{}, {}\n".format(*answer), done.stderr)

    def test_every_name_of_the_library_leads_to_the_guard(self):
        for directory in (f"/usr/{MULTIARCH}/", "/usr/lib64/", ""):
            for number in (".1", ""):
                done = self.run_in("mem-1G", "/bin/gpu-probe", f"{directory}libcuda.so{number}",
                                   f"{directory}libnvidia-ml.so{number}")
                facts = facts_of(done.stdout)
                self.assertEqual((facts.get("cuda"), facts.get("nvml")), (GIB, GIB),
                                 f"{directory} {number}: {done.stdout}{done.stderr}")

    def test_outside_agrees(self):
        process, facts = self.start("mem-2G", "--name", "outside")
        tenant, = self.daemon.tenants()
        device, = tenant["devices"]
        self.assertEqual(tenant["command"], ["/bin/gpu-probe"])
        self.assertEqual(device["memory"], 2 * GIB)
        self.assertEqual((facts["cuda"], facts["nvml"]), (2 * GIB, 2 * GIB))
        self.assertEqual(device["memory_used"], facts["used"])
        self.assertEqual(device["memory_driver"], facts["used"])
        self.assertEqual(facts["processes"], 1)
        used, = [d["memory_used"] for d in self.daemon.json("devices")["devices"]]
        self.assertGreaterEqual(used, facts["used"])
        process.stdin.close()
        process.wait(timeout=30)
        self.assertTrue(eventually(lambda: self.daemon.tenants() == []))

    def test_exec_is_of_the_same_tenant(self):
        self.start("mem-1G", "--name", "shared")
        done = self.exec("shared", "/bin/gpu-probe")
        facts = facts_of(done.stdout)
        self.assertEqual(facts.get("cuda"), GIB, done.stdout + done.stderr)
        # the first process has all but less than the context that the second needs
        self.assertIn("error cuDevicePrimaryCtxRetain 2", done.stdout)
        tenant, = self.daemon.tenants()
        self.assertEqual(tenant["devices"][0]["memory"], GIB)

    def test_it_outlives_the_daemon(self):
        base, _ = RUN
        self.start("mem-1G", "--name", "lasting")
        before = self.daemon.pid()
        os.kill(before, 9)
        self.assertTrue(eventually(lambda: self.daemon.pid(before)), "no daemon came back")
        tenant, = eventually(lambda: self.daemon.tenants()) or [None]
        self.assertEqual(tenant["devices"][0]["memory"], GIB)
        done = self.exec("lasting", "/bin/gpu-probe")
        self.assertEqual(facts_of(done.stdout).get("cuda"), GIB, done.stdout + done.stderr)
        call(base + ["kill", "lasting"])
        self.assertTrue(eventually(lambda: self.daemon.tenants() == []))

    def test_any_size(self):
        for device, more in (("mem-1500M", ()), ("any", ("--env", "CLEAVE_MEMORY=1500M"))):
            facts = facts_of(self.run_in(device, more=more).stdout)
            self.assertEqual(facts.get("cuda"), 1500 * MIB)

    def test_what_does_not_fit_does_not_start(self):
        self.start("mem-48G")
        done = self.run_in("mem-48G")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("48 GiB", done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertEqual(len(self.daemon.tenants()), 1)

    def test_side_by_side(self):
        _, part = self.start("space-mem-1G", "--name", "part", "--env", "CLEAVE_COMPUTE=25")
        _, rest = self.start("space-mem-2G", "--name", "rest")
        self.assertEqual((part["cuda"], part["sms"]), (GIB, 32), part)
        self.assertEqual((rest["cuda"], rest["sms"]), (2 * GIB, 100), rest)
        tenants = [self.daemon.json("inspect", t["id"]) for t in self.daemon.tenants()]
        self.assertEqual([t["sharing"] for t in tenants], ["space", "space"])
        sets = [set(t["space"]["units"]) for t in tenants]
        self.assertFalse(sets[0] & sets[1])
        self.assertEqual([t["space"]["server"] for t in tenants], ["serves", "serves"])
        # what has lost the way to the server is refused, not let onto the whole device
        done = self.exec("part", "/bin/gpu-probe")
        self.assertIn("error cuDevicePrimaryCtxRetain 805", done.stdout + done.stderr)
        # one device, one way; and no share that cannot be had
        for device, compute, words in (("mem-1G", "", "in space already"),
                                       ("space-mem-1G", "50", "0 are free"),
                                       ("space-mem-1G", "many", "many")):
            done = self.run_in(device, more=["--env", "CLEAVE_COMPUTE=" + compute])
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(words, done.stderr)
            self.assertEqual(len(self.daemon.tenants()), 2)

    def test_refusals(self):
        for device, rootfs, words in (
                ("any", "/rootfs", "does not say how much memory"),
                ("mem-1G", "/musl", "C library is musl"),
                ("mem-1G", "/old", "glibc is older than 2.17"),
                ("mem-1G", "/bare", "no dynamic linker of glibc")):
            with self.subTest(words):
                done = self.run_in(device, rootfs=rootfs)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(words, done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertTrue(eventually(lambda: self.daemon.tenants() == []))


def a_user():
    """Someone who is not root, in subprocess's words; None if there is nobody."""
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return None
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def copy_build(place, user):
    """What cleave needs at run time, where that user can read it; the program's path. All of place
    is the user's then."""
    for name in ("src/guard", "src/sim"):
        shutil.copytree(f"{BUILD}/{name}", f"{place}/build/{name}", symlinks=True,
                        ignore=lambda d, names: [n for n in names if ".so" not in n and
                                                 not n.startswith("nvidia-")])
    for name in ("cleave", "cleaved"):
        shutil.copy(f"{BUILD}/{name}", f"{place}/build/{name}")
    if user:
        call(["chown", "-R", f"{user['user']}:{user['group']}", place])
    return place + "/build/cleave"


class NoRootInside(unittest.TestCase):
    """A container of root's whose processes are another user's, without capabilities. The simulated
    GPU's files are its user's alone (/dev/nvidia* are everybody's), so the daemon is that user's, too."""

    def test_user(self):
        if RUN is None:
            self.skipTest(WHY)
        user = a_user()
        if not user:
            self.skipTest("there is no user to be")
        place = tempfile.mkdtemp(prefix="cleave-user-")
        self.addCleanup(shutil.rmtree, place, ignore_errors=True)
        os.chmod(place, 0o755)
        daemon = Daemon(place)
        cleave = copy_build(place, user)
        self.addCleanup(daemon.stop)
        done = call([cleave, "ps"], env=daemon.environment | {"CLEAVE_SIM": "h100"}, **user)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = call([cleave, "cdi", "--sim", "--write"], env=daemon.environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        base, run = RUN
        done = call(base + run + ["--device", "cleave.dev/gpu=mem-1G", "--user",
                                  f"{user['user']}:{user['group']}", "--cap-drop", "all",
                                  "--security-opt", "no-new-privileges", "--rootfs",
                                  PLACE + "/rootfs", "/bin/gpu-probe"])
        facts = facts_of(done.stdout)
        self.assertEqual((facts.get("cuda"), facts.get("nvml")), (GIB, GIB),
                         done.stdout + done.stderr)
        self.assertEqual(facts["refused"], 2)


class Rootless(unittest.TestCase):
    def end_podman(self, place):
        """Its process that keeps the namespaces."""
        try:
            with open(place + "/podman/pause.pid") as file:
                os.kill(int(file.read()), 9)
        except (OSError, ValueError):
            pass

    def test_inside_of_cleave_run(self):
        if not shutil.which("podman"):
            self.skipTest(WHY)
        place = tempfile.mkdtemp(prefix="cleave-rootless-")
        self.addCleanup(shutil.rmtree, place, ignore_errors=True)
        daemon = Daemon(place)
        user = {}
        if os.geteuid() == 0:
            user = a_user()
            if not user:
                self.skipTest("there is no user to run podman as")
        make_rootfs(place + "/rootfs")
        cleave = copy_build(place, user)
        self.addCleanup(daemon.stop)
        done = call([cleave, "cdi", "--sim", "--arguments"], env=daemon.environment, **user)
        self.assertEqual(done.returncode, 0, done.stderr)
        arguments = done.stdout.split()
        tail = ["--rootfs", place + "/rootfs", "/bin/gpu-probe"]
        for attempt in ("", "v2"):
            if attempt and user:
                # the runtime may want version 2 alone; ours is a mount namespace of its own
                call(["umount", "-R", "/sys/fs/cgroup"])
                call(["mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"])
            os.mkdir(f"{place}/podman{attempt}")
            if user:
                os.chown(f"{place}/podman{attempt}", user["user"], user["group"])
            self.addCleanup(self.end_podman, f"{place}/podman{attempt}")
            run = podman(f"{place}/podman{attempt}") + ["run", "--rm", "--network=none"]
            done = call(run + tail, env=daemon.environment, cwd=place, **user)
            if "error libcuda.so.1" in done.stdout:
                break
        else:
            self.skipTest("rootless podman cannot run here: " + done.stderr.strip()[-200:])
        done = call([cleave, "run", "--sim", "--memory", "1G", "--", *run, *arguments, *tail],
                    env=daemon.environment, cwd=place, **user)
        facts = facts_of(done.stdout)
        self.assertEqual((facts.get("cuda"), facts.get("nvml")), (GIB, GIB),
                         done.stdout + done.stderr)
        self.assertEqual(facts["refused"], 2)
        done = call([cleave, "cdi", "--sim", "--arguments", "--space"], env=daemon.environment,
                    **user)
        done = call([cleave, "run", "--sim", "--memory", "1G", "--sharing", "spatial", "--compute",
                     "25", "--", *run, *done.stdout.split(), *tail],
                    env=daemon.environment, cwd=place, **user)
        facts = facts_of(done.stdout)
        self.assertEqual((facts.get("cuda"), facts.get("sms")), (GIB, 32),
                         done.stdout + done.stderr)


class Specification(unittest.TestCase):
    """By the rules of the CDI's specification, for the version that it declares."""

    def setUp(self):
        place = tempfile.mkdtemp(prefix="cleave-cdi-")
        self.addCleanup(shutil.rmtree, place)
        self.daemon = Daemon(place)
        self.addCleanup(self.daemon.stop)

    def edits(self, edits):
        self.assertLessEqual(set(edits), {"env", "deviceNodes", "mounts", "hooks"})
        for text in edits.get("env", ()):
            self.assertRegex(text, r"^[A-Z_]+=[^\n]*$")
        for node in edits.get("deviceNodes", ()):
            # hostPath came with 0.5
            self.assertLessEqual(set(node), {"path", "type", "major", "minor", "fileMode",
                                             "permissions", "uid", "gid"})
            self.assertTrue(node["path"].startswith("/dev/"))
        for mount in edits.get("mounts", ()):
            # type came with 0.4
            self.assertEqual(set(mount), {"hostPath", "containerPath", "options"})
            self.assertTrue(os.path.exists(mount["hostPath"]), mount)
            self.assertTrue(os.path.isabs(mount["containerPath"]))
        for hook in edits.get("hooks", ()):
            self.assertLessEqual(set(hook), {"hookName", "path", "args", "env", "timeout"})
            self.assertEqual(hook["hookName"], "createRuntime")
            self.assertTrue(os.access(hook["path"], os.X_OK))
            self.assertTrue(all(isinstance(a, str) for a in hook["args"]))

    def test_rules(self):
        done = self.daemon.cleave("cdi", "--sim=h100x2", "1500M", "1G")
        self.assertEqual(done.returncode, 0, done.stderr)
        spec = json.loads(done.stdout)
        self.assertEqual(set(spec), {"cdiVersion", "kind", "devices", "containerEdits"})
        self.assertEqual(spec["cdiVersion"], "0.3.0")
        self.assertRegex(spec["kind"], r"^[a-zA-Z][a-zA-Z0-9_.-]*[a-zA-Z0-9]/[a-zA-Z][\w-]*$")
        names = [d["name"] for d in spec["devices"]]
        self.assertEqual(len(names), len(set(names)))
        for name in names:
            # a digit in front came with 0.5
            self.assertRegex(name, r"^[a-zA-Z]([a-zA-Z0-9_.:-]*[a-zA-Z0-9])?$")
        for name in ("any", "mem-1G", "mem-1500M", "gpu0-mem-1G", "gpu1-any", "gpu1-space-any",
                     "gpu0-space-mem-1500M"):
            self.assertIn(name, names)
        # which server, is a matter of the device
        self.assertNotIn("space-any", names)
        edits = {d["name"]: d["containerEdits"] for d in spec["devices"]}
        pipe = self.daemon.place + "/cleave/mps/d1/pipe"
        self.assertEqual(edits["gpu1-space-any"]["env"], ["CUDA_MPS_PIPE_DIRECTORY=" + pipe])
        self.assertNotIn("env", edits["gpu1-any"])
        self.assertNotIn("mem-96G", names)  # more than the device has
        for device in spec["devices"]:
            self.assertEqual(set(device), {"name", "containerEdits"})
            self.edits(device["containerEdits"])
        self.edits(spec["containerEdits"])
        # the socket of guards is there, the one that makes tenants is not
        inside = [m["containerPath"] for m in spec["containerEdits"]["mounts"]]
        self.assertIn("/run/cleave/guard.sock", inside)
        self.assertFalse([p for p in inside if "control" in p])
        self.assertEqual(len(inside), len(set(inside)))

    def test_bad_sizes(self):
        for size, words in (("1.5G", "cannot stand in a device's name"), ("lots", "lots"),
                            ("0", "0")):
            done = self.daemon.cleave("cdi", "--sim", size)
            self.assertEqual((done.returncode, done.stdout), (2, ""), size)
            self.assertIn(words, done.stderr)

    def test_written_whole(self):
        done = self.daemon.cleave("cdi", "--sim", "--write=" + self.daemon.place + "/cdi")
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)
        path = self.daemon.place + "/cdi/cleave.json"
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o644)
        with open(path) as file:
            json.load(file)


def main():
    global BUILD, PLACE, RUN, WHY
    BUILD = sys.argv[1]
    if os.geteuid() == 0 and "--inside" not in sys.argv:
        probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
        if probe.returncode != 0:
            print("no mount namespace can be had here:", probe.stderr.strip())
            sys.exit(SKIPPED)
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-B", __file__, BUILD,
                              "--inside"])
    PLACE = tempfile.mkdtemp(prefix="cleave-containers-")
    os.chmod(PLACE, 0o755)
    try:
        if os.geteuid() == 0:
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
            os.makedirs("/run/cdi")
            rootfs = make_rootfs(PLACE + "/rootfs")
            RUN, WHY = find_podman(rootfs)
            for name, files in (("musl", {MUSL: b""}), ("bare", {}),
                                ("old", {LOADER: b"", MULTIARCH + "/libc.so.6":
                                         b"\0GLIBC_2.2.5\0GLIBC_2.170\0"})):
                for directory in ("bin", "proc", "sys", "dev", "run", "etc"):
                    os.makedirs(f"{PLACE}/{name}/{directory}")
                shutil.copy(BUILD + "/tests/containers/gpu-probe", f"{PLACE}/{name}/bin")
                for path, content in files.items():
                    os.makedirs(os.path.dirname(f"{PLACE}/{name}/{path}"), exist_ok=True)
                    with open(f"{PLACE}/{name}/{path}", "wb") as file:
                        file.write(content)
        else:
            WHY = "podman reads specifications of root's only, and this is not root"
        result = unittest.main(argv=[sys.argv[0]], exit=False, verbosity=1).result
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)
    for _, why in result.skipped:
        print("SKIP:", why)
    if not result.wasSuccessful():
        sys.exit(1)
    # part of it ran: that is a success, but where all of podman is missing it shows as skipped
    sys.exit(SKIPPED if RUN is None and WHY.startswith("podman is not") else 0)


if __name__ == "__main__":
    main()
