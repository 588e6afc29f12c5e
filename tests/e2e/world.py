# SPDX-License-Identifier: Apache-2.0
"""A machine of its own for a test: runtime directory, simulated GPU, daemon, and what they say."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MIB = 1 << 20
GIB = 1 << 30


def eventually(condition, seconds=20, pause=0.01):
    """Waits until condition() is true and gives its value; the last one if that does not come."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > until:
            return value
        time.sleep(pause)
    return value


def gone(pid):
    """Whether the process has ended; a zombie has."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


class Failure(AssertionError):
    """cleave did not do what was asked; its words."""


class World:
    """build: the build directory. sim: models to simulate; None: the real driver."""

    def __init__(self, build, sim="h100"):
        self.build = os.path.abspath(build)
        self.cleave_path = os.path.join(self.build, "cleave")
        self.sim = sim
        self.running = []

    def __enter__(self):
        # Short: the path of a socket has 108 bytes.
        self.place = tempfile.mkdtemp(prefix="cleave-e2e-", dir="/tmp")
        self.runtime = os.path.join(self.place, "run")
        os.mkdir(self.runtime, 0o700)
        self.env = {k: v for k, v in os.environ.items()
                    if not k.startswith(("CLEAVE_", "LD_"))}
        # Programs that are not built with the sanitizer load libraries that are.
        self.env["ASAN_OPTIONS"] = ":".join(filter(None, [
            self.env.get("ASAN_OPTIONS"), "verify_asan_link_order=0", "detect_leaks=0"]))
        self.env.update(CLEAVE_RUNTIME_DIR=self.runtime, TZ="UTC", LC_ALL="C.UTF-8")
        if self.sim:
            self.env.update(CLEAVE_SIM=self.sim, CLEAVE_SIM_DIR=os.path.join(self.place, "sim"))
        return self

    def __exit__(self, *_):
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        try:
            for tenant in self.tenants():
                for process in tenant["processes"]:
                    os.kill(process["pid"], signal.SIGKILL)
        except (Failure, OSError):
            pass
        self.stop_daemon()
        shutil.rmtree(self.place, ignore_errors=True)

    # the daemon

    def start_daemon(self, *words):
        done = subprocess.run([os.path.join(self.build, "cleaved"), "--user",
                               f"--runtime-dir={self.runtime}", *words], env=self.env, text=True,
                              capture_output=True, stdin=subprocess.DEVNULL, timeout=60,
                              check=False)
        if done.returncode != 0:
            raise Failure(f"the daemon does not start: {done.stderr}{self.log()}")
        return self

    def daemon_pid(self):
        """Of the daemon that answers, or None."""
        try:
            return self.control("daemon.info")["pid"]
        except (Failure, OSError, ValueError):
            return None

    def kill_daemon(self):
        """With SIGKILL. Its keeper may start another at once."""
        pid = self.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: gone(pid), 5, 0.001)
        return pid

    def stop_daemon(self):
        """Also one that cleave started."""
        for _ in range(3):
            pid = self.daemon_pid()
            if pid is None:
                return
            os.kill(pid, signal.SIGTERM)
            eventually(lambda: gone(pid), 5)

    def log(self):
        try:
            with open(os.path.join(self.runtime, "cleaved.log"), encoding="utf-8") as log:
                return log.read()
        except OSError:
            return ""

    def control(self, method, **params):
        """One call of the control protocol, around the command line."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(os.path.join(self.runtime, "control.sock"))
            with connection.makefile("rwb") as stream:
                request = {"method": method, "id": 1, "params": params}
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                reply = json.loads(stream.readline())
        if "result" not in reply:
            raise Failure(reply)
        return reply["result"]

    # the command

    def cleave(self, *words, check=True, timeout=60):
        """Runs cleave: its exit status, standard output, standard error."""
        done = subprocess.run([self.cleave_path, *words], env=self.env, text=True, check=False,
                              capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout)
        if check and done.returncode != 0:
            raise Failure(f"cleave {' '.join(words)}: {done.returncode}: {done.stderr}{self.log()}")
        return done.returncode, done.stdout, done.stderr

    def json(self, *words):
        return json.loads(self.cleave(*words, "-o", "json")[1])

    def tenants(self):
        return self.control("tenant.list")["tenants"]

    def devices(self):
        return self.control("device.list")["devices"]

    def run(self, *words, program, **kinds):
        """Starts `cleave run WORDS -- PROGRAM`."""
        kinds = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                 **kinds}
        process = subprocess.Popen([self.cleave_path, "run", *words, "--", *program], env=self.env,
                                   text=True, **kinds)
        self.running.append(process)
        return process

    def tool(self, *words):
        """Starts a CUDA program that does as it is told."""
        return Tool(self, self.run(*words, program=[sys.executable,
                                                    os.path.join(HERE, "cuda_tool.py")]))


class Tool:
    """The other end of cuda_tool.py."""

    def __init__(self, world, process):
        self.world = world
        self.process = process
        self.pid = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise Failure(f"ended with {self.process.returncode}: {self.process.stderr.read()}"
                          f"{self.world.log()}")
        return json.loads(line)

    def __call__(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        return self.read()

    def end(self):
        """Its exit status and what it printed besides its answers."""
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err
