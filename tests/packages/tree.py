# SPDX-License-Identifier: Apache-2.0
"""A tenant of an installed tree, on a simulated GPU of its own."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

GIB = 1 << 30


def facts_of(text):
    """The probe's lines as a dictionary; stops where it stands ready."""
    facts = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        facts[name] = int(value) if value.isdigit() else value
    return facts


class Tenant:
    """`CLEAVE run --sim --memory QUOTA -- COMMAND...` with a daemon that ends with it."""

    def __init__(self, cleave, command, quota="1G", words=()):
        self.cleave = cleave
        self.command = [cleave, "run", "--sim", "--memory", quota, *words, "--", *command]

    def __enter__(self):
        self.place = tempfile.mkdtemp(prefix="cleave-test-")
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": self.place, "LANG": "C.UTF-8",
            "CLEAVE_RUNTIME_DIR": self.place + "/run", "CLEAVE_SIM_DIR": self.place + "/sim"}
        os.mkdir(self.place + "/run", 0o700)
        os.mkdir(self.place + "/sim", 0o700)
        with open(self.place + "/errors", "w") as errors:
            self.process = subprocess.Popen(
                self.command, env=self.environment, text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=errors)
        self.text = ""
        for line in self.process.stdout:
            self.text += line
            if line == "ready\n":
                break
        self.status = None if self.text.endswith("ready\n") else self.process.wait()
        self.facts = facts_of(self.text)
        with open(self.place + "/errors") as file:
            self.errors = file.read()
        return self

    def ask(self, *words):
        done = subprocess.run([self.cleave, *words, "-o", "json"], env=self.environment, text=True,
                              capture_output=True, check=False, timeout=30)
        return json.loads(done.stdout) if done.stdout else None

    def daemon_pid(self):
        return next(pid for pid, words in processes() if "cleaved" in words[0]
                    and "--keeper" not in words and self._is_ours(pid))

    def _is_ours(self, pid):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                return (self.place + "/run").encode() in file.read()
        except OSError:
            return False

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=30)
        stop_daemon(self._is_ours)
        shutil.rmtree(self.place)


def processes():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().decode(errors="replace").split("\0")
            except OSError:
                continue
            yield int(name), words


def stop_daemon(is_ours):
    """Ends the daemons that is_ours(pid) says are the test's own, and waits until they have."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        ours = [pid for pid, words in processes() if "cleaved" in words[0] and is_ours(pid)]
        if not ours:
            return
        for pid in ours:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
