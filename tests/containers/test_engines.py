#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Containers of docker and of containerd (by the interface that Kubernetes uses) as tenants, for real,
on a simulated GPU.

usage: test_engines.py BUILD

The engines are looked for in PATH, and before that below CLEAVE_EXTRAS (see .ci/extras). They run in
a mount namespace of their own, with a /run of their own, so nothing of the machine's is touched.
"""
import hashlib
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import test_containers  # noqa: E402
from test_containers import GIB, Daemon, call, eventually, facts_of, make_rootfs  # noqa: E402

SKIPPED = 77
BUILD = None
PLACE = None
PROBE = "/bin/gpu-probe"
IMAGE = "localhost/probe:1"


def missing(name, least):
    """Why this engine cannot be tested: no version of it from least on. None: it can."""
    if os.geteuid() != 0:
        return f"{name} has to be started as root"
    if not shutil.which(name):
        return f"{name} is not installed"
    if not shutil.which("runc"):
        return "runc is not installed"
    said = call([name, "--version"]).stdout
    found = re.search(r"\b(\d+)\.(\d+)\.\d+", said)
    if not found or tuple(int(n) for n in found.groups()) < least:
        return f"{name} reads specifications from {'.'.join(map(str, least))} on; this is {said.strip()}"
    return None


def image():
    """The root with the probe as an archive that docker and containerd load."""
    root = make_rootfs(PLACE + "/rootfs")
    shutil.copy("/bin/sleep", root + "/bin/sleep")
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(root, arcname=".")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    config = json.dumps({"architecture": machine, "os": "linux",
                         "config": {"Cmd": ["/bin/sleep", "600"]},
                         "rootfs": {"type": "layers", "diff_ids": [
                             "sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()]}})
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}])
    path = PLACE + "/image.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (("config.json", config.encode()), ("layer.tar", layer.getvalue()),
                           ("manifest.json", manifest.encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def start(words, ready):
    """An engine's daemon: what ends it, once ready() is true, or why it does not run."""
    log = f"{PLACE}/{words[0]}.log"
    with open(log, "w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, stdin=subprocess.DEVNULL)

    def end():
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    if not eventually(lambda: process.poll() is not None or ready(), 40) or process.poll() is not None:
        end()
        with open(log) as file:
            return None, f"{words[0]} cannot run here: " + file.read().strip()[-300:]
    return end, None


class Engine(unittest.TestCase):
    """What holds for each of them; start_engine() gives what ends it, or why it does not run."""

    @classmethod
    def setUpClass(cls):
        if cls is Engine:
            raise unittest.SkipTest("")
        why = missing(cls.program, cls.least)
        if why:
            raise unittest.SkipTest(why)
        cls.daemon = Daemon(PLACE)
        cls.addClassCleanup(cls.daemon.stop)
        done = cls.daemon.cleave("cdi", "--sim", "--write", "1500M")
        assert done.returncode == 0, done.stderr
        end, why = cls.start_engine()
        if why:
            raise unittest.SkipTest(why)
        cls.addClassCleanup(end)

    def check_one_gib(self, text):
        facts = facts_of(text)
        self.assertEqual((facts.get("cuda"), facts.get("nvml")), (GIB, GIB), text)
        self.assertEqual(facts["refused"], 2)
        self.assertGreater(facts["held"], 0)
        self.assertLessEqual(facts["used"], GIB)

    def check_outside(self, quota):
        tenant, = self.daemon.tenants()
        self.assertEqual([d["memory"] for d in tenant["devices"]], [quota])

    def check_gone(self):
        self.assertTrue(eventually(lambda: self.daemon.tenants() == []), self.daemon.tenants())


class Docker(Engine):
    program, least = "dockerd", (25, 0)
    options = ["--network=none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]

    @classmethod
    def start_engine(cls):
        with open(PLACE + "/docker.json", "w") as file:
            json.dump({"features": {"cdi": True}, "cdi-spec-dirs": ["/run/cdi"], "iptables": False,
                       "ip6tables": False, "bridge": "none", "data-root": PLACE + "/docker",
                       "exec-root": "/run/docker", "pidfile": "/run/docker.pid",
                       "hosts": ["unix:///run/docker.sock"], "storage-driver": "vfs"}, file)
        end, why = start(["dockerd", "--config-file", PLACE + "/docker.json"],
                         lambda: call(["docker", "version"]).returncode == 0)
        if end:
            loaded = call(["docker", "load", "--input", image()])
            assert loaded.returncode == 0, loaded.stderr
            tried = call(["docker", "run", "--rm", *cls.options, IMAGE, PROBE])
            if "error libcuda.so.1" not in tried.stdout:
                end()
                return None, "docker cannot run a container here: " + tried.stderr.strip()[-200:]
        return end, why

    def run_in(self, device, *more):
        return call(["docker", "run", "--rm", *self.options, "--device",
                     "cleave.dev/gpu=" + device, *more, IMAGE, PROBE])

    def test_one_option_gives_a_gpu_of_one_gib(self):
        done = self.run_in("mem-1G")
        self.check_one_gib(done.stdout + done.stderr)
        self.check_gone()

    def test_any_size(self):
        done = self.run_in("any", "--env", "CLEAVE_MEMORY=1500M")
        self.assertEqual(facts_of(done.stdout).get("cuda"), 1500 << 20, done.stderr)

    def test_exec_is_of_the_same_tenant(self):
        done = call(["docker", "run", "--detach", "--rm", *self.options, "--name", "lasting",
                     "--device", "cleave.dev/gpu=mem-1G", IMAGE])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.addCleanup(call, ["docker", "kill", "lasting"])
        self.check_outside(GIB)
        for _ in range(2):
            # which gives it nothing of the specification's environment, as podman's
            done = call(["docker", "exec", "--env", "CLEAVE_SIM=h100", "--env",
                         "CLEAVE_SIM_DIR=/run/cleave-sim", "lasting", PROBE])
            self.check_one_gib(done.stdout + done.stderr)
        self.check_outside(GIB)
        call(["docker", "kill", "lasting"])
        self.check_gone()

    def test_what_does_not_fit_does_not_start(self):
        call(["docker", "run", "--detach", "--rm", *self.options, "--name", "first", "--device",
              "cleave.dev/gpu=mem-48G", IMAGE])
        self.addCleanup(call, ["docker", "kill", "first"])
        done = self.run_in("mem-48G")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("48 GiB", done.stderr)
        self.assertEqual(done.stdout, "")
        self.check_outside(48 * GIB)


def field(number, value):
    """A field of a message of protocol buffers: bytes, a text, a number, or several of one."""
    if isinstance(value, list):
        return b"".join(field(number, each) for each in value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data):
    """The other way: what each number last held."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            found[key >> 3] = number()
        else:
            assert key & 7 == 2, key
            length = number()
            found[key >> 3] = data[at:at + length]
            at += length
    return found


class Containerd(Engine):
    """By the Container Runtime Interface (runtime.v1), as the kubelet does; its numbers of fields
    stand in k8s.io/cri-api's api.proto."""

    program, least = "containerd", (1, 7)
    socket = "/run/containerd/containerd.sock"

    @classmethod
    def start_engine(cls):
        if not shutil.which("curl"):
            return None, "curl, which speaks with containerd here, is not installed"
        for name in ("cni", "logs"):
            os.makedirs(f"{PLACE}/{name}", exist_ok=True)
        with open(PLACE + "/containerd.toml", "w") as file:
            file.write(f"""version = 2
root = "{PLACE}/containerd"
state = "/run/containerd"
[grpc]
address = "{cls.socket}"
[plugins."io.containerd.grpc.v1.cri"]
enable_cdi = true
cdi_spec_dirs = ["/run/cdi"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLACE}/cni"
conf_dir = "{PLACE}/cni"
""")
        end, why = start(["containerd", "--config", PLACE + "/containerd.toml"],
                         lambda: cls.ask("Version", b"")[0] == 0)
        if why:
            return None, why
        done = call(["ctr", "--address", cls.socket, "--namespace", "k8s.io", "images", "import",
                     "--snapshotter", "native", image()])
        assert done.returncode == 0, done.stderr
        # the node's network, so that there is nothing to set up; each its own processes, as usual
        security = field(1, field(1, 2) + field(2, 1))
        cls.sandbox = (field(1, field(1, "pod") + field(2, "1") + field(3, "default")) +
                       field(3, PLACE + "/logs") + field(8, field(2, security)))
        until = time.monotonic() + 10  # until it has heard of the image
        while True:
            status, said = cls.ask("RunPodSandbox", field(1, cls.sandbox))
            if status == 0 or time.monotonic() > until:
                break
            time.sleep(0.2)
        if status:
            end()
            return None, "containerd cannot run a container here: " + said[-300:]
        cls.pod = fields(said)[1].decode()

        def over():
            cls.ask("StopPodSandbox", field(1, cls.pod))
            cls.ask("RemovePodSandbox", field(1, cls.pod))
            end()

        return over, None

    @classmethod
    def ask(cls, method, message):
        """gRPC's status and the answer, or the sentence that came instead."""
        head = PLACE + "/head"
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--http2-prior-knowledge", "--unix-socket",
             cls.socket, "--max-time", "60", "--dump-header", head, "--header",
             "content-type: application/grpc", "--header", "te: trailers", "--data-binary", "@-",
             "http://localhost/runtime.v1.RuntimeService/" + method],
            input=b"\0" + struct.pack(">I", len(message)) + message, capture_output=True, check=False)
        if done.returncode:
            return -1, done.stderr.decode()
        with open(head) as file:
            said = {name: value.strip() for name, _, value in
                    (line.partition(":") for line in file)}
        if said.get("grpc-status") != "0":
            return int(said.get("grpc-status", -1)), said.get("grpc-message", "?")
        return 0, done.stdout[5:]

    count = 0

    def create(self, device, command, annotated=False, environment=(), shared=False):
        """A container that has started: its id and its log's path, or None and the reason. shared:
        in the pod's pid namespace."""
        Containerd.count += 1
        name = f"c{self.count}"
        device = "cleave.dev/gpu=" + device
        config = (field(1, field(1, name)) + field(2, field(1, IMAGE)) + field(3, command) +
                  field(6, [field(1, k) + field(2, v) for k, v in environment]) +
                  field(11, name + ".log") +
                  field(15, field(2, field(3, field(1, 2) + field(2, 0 if shared else 1)))))
        # as the devices of a claim, or as a device plugin of before 1.26 has it
        config += field(10, field(1, "cdi.k8s.io/cleave_gpu") + field(2, device)) if annotated \
            else field(17, field(1, device))
        status, said = self.ask("CreateContainer", field(1, self.pod) + field(2, config) +
                                field(3, self.sandbox))
        if status:
            return None, said
        container = fields(said)[1].decode()
        self.addCleanup(self.ask, "RemoveContainer", field(1, container))
        status, said = self.ask("StartContainer", field(1, container))
        if status:
            return None, said
        return container, f"{PLACE}/logs/{name}.log"

    def ended(self, container):
        status, said = self.ask("ContainerStatus", field(1, container))
        self.assertEqual(status, 0, said)
        return fields(fields(said)[1]).get(3) == 2  # CONTAINER_EXITED

    def run_in(self, *what, **how):
        container, log = self.create(*what, **how)
        self.assertTrue(container, log)
        self.assertTrue(eventually(lambda: self.ended(container)))
        with open(log) as file:
            return "".join(line.split(" ", 3)[3] for line in file)

    def test_a_device_gives_a_gpu_of_one_gib(self):
        for annotated in (False, True):
            with self.subTest(annotated=annotated):
                self.check_one_gib(self.run_in("mem-1G", [PROBE], annotated=annotated))
                self.check_gone()

    def test_any_size(self):
        said = self.run_in("any", [PROBE], environment=[("CLEAVE_MEMORY", "1500M")])
        self.assertEqual(facts_of(said).get("cuda"), 1500 << 20, said)

    def test_exec_is_of_the_same_tenant(self):
        container, why = self.create("mem-1G", ["/bin/sleep", "600"])
        self.assertTrue(container, why)
        self.check_outside(GIB)
        status, said = self.ask("ExecSync", field(1, container) + field(2, [PROBE]) + field(3, 30))
        self.assertEqual(status, 0, said)
        self.check_one_gib(fields(said)[1].decode())
        self.check_outside(GIB)
        self.ask("StopContainer", field(1, container))
        self.check_gone()

    def test_containers_of_a_pod_are_tenants_each(self):
        for shared in (False, True):
            with self.subTest(shared=shared):
                first, why = self.create("mem-2G", ["/bin/sleep", "600"], shared=shared)
                self.assertTrue(first, why)
                self.check_outside(2 * GIB)
                self.check_one_gib(self.run_in("mem-1G", [PROBE], shared=shared))
                self.ask("StopContainer", field(1, first))
                self.check_gone()

    def test_what_does_not_fit_does_not_start(self):
        first, why = self.create("mem-48G", ["/bin/sleep", "600"])
        self.assertTrue(first, why)
        self.addCleanup(self.ask, "StopContainer", field(1, first))
        second, why = self.create("mem-48G", ["/bin/sleep", "600"])
        self.assertIsNone(second)
        self.assertIn("48 GiB", urllib.parse.unquote(why))
        self.check_outside(48 * GIB)


def main():
    global BUILD, PLACE
    BUILD = sys.argv[1]
    if os.geteuid() == 0 and "--inside" not in sys.argv:
        probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
        if probe.returncode != 0:
            print("SKIP: no mount namespace can be had here:", probe.stderr.strip())
            sys.exit(SKIPPED)
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-B", __file__, BUILD,
                              "--inside", *sys.argv[2:]])
    words = [word for word in sys.argv[2:] if word != "--inside"]
    extras = os.environ.get("CLEAVE_EXTRAS")
    if extras:
        os.environ["PATH"] = ":".join(f"{extras}/usr/{name}" for name in ("bin", "sbin")) + ":" + \
            os.environ["PATH"]
    PLACE = tempfile.mkdtemp(prefix="cleave-engines-")
    os.chmod(PLACE, 0o755)
    test_containers.BUILD = BUILD
    try:
        if os.geteuid() == 0:
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
            os.makedirs("/run/cdi")
        result = unittest.main(argv=[sys.argv[0], *words], exit=False, verbosity=1).result
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)
    for why in {why for _, why in result.skipped if why}:
        print("SKIP:", why)
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(SKIPPED if result.testsRun == 0 else 0)


if __name__ == "__main__":
    main()
