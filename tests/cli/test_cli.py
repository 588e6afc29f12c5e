#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The command line of cleave: help, errors, exit statuses, man pages, completion.

usage: test_cli.py CLEAVE

Needs no daemon: a small double of it stands in where its answers matter (fake_daemon.py).
"""
import csv
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake_daemon import FakeDaemon  # noqa: E402

CLEAVE = None
GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
VERBS = ("run ps inspect set stop devices release advise partition passthrough mps bench trace replay events "
         "doctor version completion help").split()


def cleave(*words, directory=None, env=None, stdin=subprocess.DEVNULL):
    """Runs cleave and gives its exit status, standard output and standard error."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CLEAVE_", "LD_"))}
    environment["CLEAVE_RUNTIME_DIR"] = directory or "/nonexistent/cleave"
    environment.update(env or {})
    done = subprocess.run([CLEAVE, *words], env=environment, stdin=stdin, text=True,
                          capture_output=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


class Golden(unittest.TestCase):
    """What users read is changed on purpose only: CLEAVE_GOLDEN=update writes it anew."""

    def check(self, name, text):
        path = os.path.join(GOLDEN, name)
        if os.environ.get("CLEAVE_GOLDEN") == "update":
            os.makedirs(GOLDEN, exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), text, f"differs from {path}")

    def test_help_of_every_verb(self):
        for verb in VERBS:
            with self.subTest(verb):
                status, out, err = cleave(verb, "--help")
                self.assertEqual((status, err), (0, ""))
                self.assertEqual(cleave(verb, "-h"), (0, out, ""))
                self.assertEqual(cleave("help", verb), (0, out, ""))
                self.check(f"help-{verb}.txt", out)

    def test_overview(self):
        status, out, err = cleave("--help")
        self.assertEqual((status, err), (0, ""))
        self.check("help.txt", out)
        self.assertEqual(cleave("help"), (0, out, ""))
        self.assertEqual(cleave(), (2, "", out))

    def test_usage_errors(self):
        lines = []
        for words in USAGE_ERRORS:
            status, out, err = cleave(*words)
            with self.subTest(words):
                self.assertEqual(out, "")
                self.assertEqual(status, 125 if words[0] == "run" else 2)
                self.assertEqual(len(err.splitlines()), 2)
                self.assertRegex(err.splitlines()[1], r"^try `cleave .*--help`$")
            lines.append(f"$ cleave {' '.join(words)}\n{err}[{status}]\n")
        self.check("usage-errors.txt", "\n".join(lines))

    def test_value_errors(self):
        with FakeDaemon() as daemon:
            lines = []
            for words in VALUE_ERRORS:
                status, out, err = cleave(*words, directory=daemon.directory)
                with self.subTest(words):
                    self.assertEqual(out, "")
                    self.assertNotIn(status, (0, 1))
                    self.assertNotIn("errno", err.lower())
                lines.append(f"$ cleave {' '.join(words)}\n{err}[{status}]\n")
            self.check("value-errors.txt", "\n".join(lines).replace(daemon.directory, "DIR"))

    def test_tables(self):
        with FakeDaemon() as daemon:
            for words in (["ps"], ["ps", "-o", "csv"], ["devices"], ["devices", "-ocsv"],
                          ["inspect", "train"], ["events"], ["events", "--output=csv"]):
                # What lies on this machine's own PCI bus is no golden matter.
                more = ["--sysfs=/nonexistent"] if words[0] == "devices" else []
                status, out, err = cleave(*words, *more, directory=daemon.directory,
                                          env={"TZ": "UTC"})
                with self.subTest(words):
                    self.assertEqual((status, err), (0, ""))
                    self.assertNotIn("\033", out)
                    out = re.sub(r" *\d+ d( \d+ h)?| +AGE", " AGE", out)
                    self.check("table-" + "-".join(w.strip("-") for w in words) + ".txt", out)


USAGE_ERRORS = [
    ["rnu"],
    ["frobnicate"],
    ["--sim"],
    ["help", "frobnicate"],
    ["run"],
    ["run", "--memory", "8G"],
    ["run", "python"],
    ["run", "--memory"],
    ["run", "--memory="],
    ["run", "--memry", "8G", "python"],
    ["run", "--mem", "8G", "python"],
    ["run", "--memory", "8G", "--memory", "9G", "python"],
    ["run", "--wait=yes", "--memory", "8G", "python"],
    ["run", "-x", "--memory", "8G", "python"],
    ["ps", "extra"],
    ["ps", "-o", "xml"],
    ["ps", "-o"],
    ["ps", "--watch=often"],
    ["inspect"],
    ["inspect", "a", "b"],
    ["inspect", "-o", "csv", "a"],
    ["set", "train"],
    ["set", "--memory", "6G"],
    ["stop"],
    ["stop", "--signal", "NOSUCH", "train"],
    ["stop", "--timeout", "soon", "train"],
    ["events", "--since", "yesterday"],
    ["completion"],
    ["completion", "tcsh"],
    ["doctor", "--fix"],
]

VALUE_ERRORS = [
    ["run", "--memory", "lots", "--", "true"],
    ["run", "--memory", "0", "--", "true"],
    ["run", "--memory", "-4G", "--", "true"],
    ["run", "--memory", "8X", "--", "true"],
    ["run", "--memory", "101%", "--", "true"],
    ["run", "--memory", "99999999999T", "--", "true"],
    ["run", "--memory", "=4G", "--", "true"],
    ["run", "--memory", "0=4G,0=8G", "--", "true"],
    ["run", "--memory", "4G,8G", "--", "true"],
    ["run", "--memory", "0=4G", "--device", "0", "--", "true"],
    ["run", "--memory", "8G", "--memory-max", "4G", "--", "true"],
    ["run", "--memory", "8G", "--memory-max", "1=9G", "--", "true"],
    ["run", "--memory", "50%", "--device", "7", "--", "true"],
    ["run", "--memory", "50%", "--device", "GPU-", "--", "true"],
    ["run", "--memory", "500G", "--", "true"],
    ["run", "--memory", "8G", "--name", "no room", "--", "true"],
    ["inspect", "nobody"],
    ["set", "--memory", "1G", "train"],
    ["set", "--memory", "6G", "nobody"],
    ["stop", "nobody"],
    ["ps", "--all"],
]


class Pages(unittest.TestCase):
    """Every verb has help, a man page and completion, made from the same table."""

    def options(self, verb):
        return re.findall(r"^ +(?:-\w, )?--([a-z-]+)", cleave(verb, "--help")[1], re.M)

    def test_manual(self):
        for page in ["cleave", "cleave-environment"] + [f"cleave-{v}" for v in VERBS]:
            with self.subTest(page):
                status, source, err = cleave("__scdoc", page)
                self.assertEqual((status, err), (0, ""))
                for section in ("# NAME", "# DESCRIPTION", "# SEE ALSO"):
                    self.assertIn(section, source)
                if shutil.which("scdoc"):
                    subprocess.run(["scdoc"], input=source, text=True, check=True,
                                   stdout=subprocess.DEVNULL)
        for verb in VERBS:
            for option in self.options(verb):
                self.assertIn(f"*--{option}*", cleave("__scdoc", f"cleave-{verb}")[1])
        self.assertEqual(cleave("__scdoc", "cleave-nosuch")[0], 2)

    def test_manual_of_the_daemon(self):
        root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
        with open(os.path.join(root, "docs", "cleaved.8.scd"), encoding="utf-8") as file:
            page = file.read()
        cleaved = os.path.join(os.path.dirname(CLEAVE), "cleaved")
        done = subprocess.run([cleaved, "--help"], text=True, capture_output=True, check=True,
                              timeout=60)
        for option in re.findall(r"^ +--([a-z-]+)", done.stdout, re.M):
            self.assertIn(f"*--{option}*", page)
        with open(os.path.join(root, "docs", "cleave.conf.5.scd"), encoding="utf-8") as file:
            page = file.read()
        with open(os.path.join(root, "deploy", "cleave.conf"), encoding="utf-8") as file:
            keys = re.findall(r"^#?([a-z_]+) = ", file.read(), re.M)
        self.assertIn("interval", keys)
        for key in keys:
            self.assertIn(f"*{key}*", page)

    def test_completion_knows_all(self):
        for shell in ("bash", "zsh", "fish"):
            status, script, err = cleave("completion", shell)
            self.assertEqual((status, err), (0, ""))
            for verb in VERBS:
                self.assertRegex(script, rf"\b{verb}\b")
                for option in set(self.options(verb)) - {"help"}:
                    self.assertRegex(script, rf"(--|-l ){option}\b")
            self.assertNotIn("__scdoc", script)
            if shell != "bash" and shutil.which(shell):
                subprocess.run([shell, "-n", "/dev/stdin"], input=script, text=True, check=True)

    def complete(self, *words, directory=None):
        """What bash offers for the last of these words."""
        script = cleave("completion", "bash")[1]
        path = os.path.dirname(os.path.abspath(CLEAVE)) + ":" + os.environ["PATH"]
        text = (script + "\nCOMP_WORDS=(" + " ".join(f"'{w}'" for w in words) + ")\n"
                f"COMP_CWORD={len(words) - 1}\n_cleave\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n")
        environment = {"PATH": path, "CLEAVE_RUNTIME_DIR": directory or "/nonexistent/cleave"}
        done = subprocess.run(["bash", "--norc", "-c", text], env=environment, text=True,
                              capture_output=True, check=False, timeout=60)
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_completion_in_bash(self):
        self.assertEqual(self.complete("cleave", "in"), ["inspect"])
        self.assertEqual(self.complete("cleave", "run", "--memory-"), ["--memory-max"])
        self.assertEqual(self.complete("cleave", "ps", "-o", "j"), ["json"])
        self.assertEqual(self.complete("cleave", "completion", "f"), ["fish"])
        self.assertEqual(self.complete("cleave", "help", "dev"), ["devices"])
        with FakeDaemon() as daemon:
            self.assertEqual(self.complete("cleave", "stop", "tr", directory=daemon.directory),
                             ["train"])


class Output(unittest.TestCase):
    """JSON and CSV are for programs: base units, null for unknown, a schema."""

    def test_json(self):
        with FakeDaemon() as daemon:
            for words, schema in ((["ps"], "cleave.ps/1"), (["devices"], "cleave.devices/1"),
                                  (["inspect", "train"], "cleave.inspect/1"),
                                  (["version"], "cleave.version/1")):
                status, out, err = cleave(*words, "-o", "json", directory=daemon.directory)
                self.assertEqual((status, err), (0, ""))
                value = json.loads(out)
                self.assertEqual(value["schema"], schema)
                self.assertEqual(next(iter(value)), "schema")
            tenant = json.loads(cleave("inspect", "train", "-ojson",
                                       directory=daemon.directory)[1])
            self.assertEqual(tenant["devices"][0]["memory"], 8 << 30)
            self.assertIsNone(tenant["devices"][0]["memory_driver"])

    def test_events_are_lines(self):
        with FakeDaemon() as daemon:
            out = cleave("events", "-o", "json", directory=daemon.directory)[1]
            events = [json.loads(line) for line in out.splitlines()]
            self.assertEqual([e["serial"] for e in events], [1, 2])
            self.assertEqual({e["schema"] for e in events}, {"cleave.event/1"})
            self.assertEqual(cleave("events", "--since", "1h", directory=daemon.directory)[1], "")

    def test_csv(self):
        with FakeDaemon() as daemon:
            out = cleave("ps", "-o", "csv", directory=daemon.directory)[1]
            rows = list(csv.DictReader(io.StringIO(out)))
            self.assertEqual(rows[0]["memory"], str(8 << 30))
            self.assertEqual(rows[0]["memory_driver"], "")
            self.assertEqual(rows[0]["command"], "python 'a, b' '\"'")

    def test_hostile_command_is_printable(self):
        with FakeDaemon() as daemon:
            out = cleave("ps", directory=daemon.directory)[1]
            self.assertNotRegex(out, r"[\x00-\x09\x0b-\x1f\x7f]")

    def on_terminal(self, *words, directory, env=None):
        """Standard output of cleave where that is a terminal."""
        parent, child = pty.openpty()
        environment = {"CLEAVE_RUNTIME_DIR": directory, "TERM": "xterm", **(env or {})}
        process = subprocess.Popen([CLEAVE, *words], stdout=child, stdin=subprocess.DEVNULL,
                                   env=environment)
        os.close(child)
        out = b""
        try:
            while chunk := os.read(parent, 65536):
                out += chunk
        except OSError:  # the other end is closed
            pass
        os.close(parent)
        self.assertEqual(process.wait(timeout=60), 0)
        return out.decode()

    def test_colour(self):
        with FakeDaemon() as daemon:
            where = daemon.directory
            self.assertIn("\033[", self.on_terminal("ps", directory=where))
            self.assertIn("█", self.on_terminal("ps", directory=where))
            plain = self.on_terminal("ps", directory=where, env={"NO_COLOR": "1"})
            self.assertNotIn("\033", plain)
            self.assertIn("train", plain)

    def test_full_disk_is_told(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([CLEAVE, "--help"], stdout=full, stderr=subprocess.PIPE,
                                  text=True, check=False, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot write the output", done.stderr)


class Words(unittest.TestCase):
    """How options are read."""

    def test_after_operands(self):
        with FakeDaemon() as daemon:
            one = cleave("inspect", "--output=json", "train", directory=daemon.directory)
            self.assertEqual(one[0], 0)
            for words in (("train", "-o", "json"), ("train", "-ojson"), ("-o", "json", "train"),
                          ("-o", "json", "--", "train")):
                self.assertEqual(cleave("inspect", *words, directory=daemon.directory), one)
            self.assertEqual(cleave("inspect", "--", "-ojson", directory=daemon.directory)[0], 3)

    def test_requests(self):
        with FakeDaemon() as daemon:
            def asked(*words):
                daemon.requests.clear()
                cleave(*words, directory=daemon.directory)
                return {r["method"]: r.get("params") for r in daemon.requests}

            create = asked("run", "--memory", "50%", "--memory-max=30G", "-d1", "--name", "x",
                           "--wait", "--", "true", "--memory", "1G")["tenant.create"]
            self.assertEqual(create["command"], ["true", "--memory", "1G"])
            self.assertEqual(create["devices"],
                             [{"device": "1", "memory": 20 << 30, "memory_max": 30 << 30}])
            self.assertEqual((create["name"], create["wait"]), ("x", True))
            create = asked("run", "-m8G", "sh", "-c", "exit 3")["tenant.create"]
            self.assertEqual(create["command"], ["sh", "-c", "exit 3"])
            # the one with most room
            self.assertEqual(create["devices"], [{"device": daemon.uuids[1], "memory": 8 << 30}])
            create = asked("run", "-m8G", "--sim", "a100x2,h100", "true")["tenant.create"]
            self.assertEqual((create["env_sim"], create["command"]), ("a100x2,h100", ["true"]))
            create = asked("run", "-m8G", "--sim", "h100xx", "true")["tenant.create"]
            self.assertEqual((create["env_sim"], create["command"]), ("h100", ["h100xx", "true"]))
            create = asked("run", "--memory", "0=4G,GPU-b=8G", "true")["tenant.create"]
            self.assertEqual(create["devices"], [{"device": "0", "memory": 4 << 30},
                                                 {"device": "GPU-b", "memory": 8 << 30}])
            change = asked("set", "train", "--memory", "6G", "--force")["tenant.set"]
            self.assertEqual(change["devices"], [{"device": daemon.uuids[0], "memory": 6 << 30}])
            self.assertTrue(change["force"])
            stop = asked("stop", "train", "--signal", "sigint", "-t", "500ms")["tenant.stop"]
            self.assertEqual((stop["signal"], stop["timeout"]), (2, 0.5))
            stop = asked("stop", "train", "--timeout", "infinity")["tenant.stop"]
            self.assertIsNone(stop["timeout"])


    def test_models_are_the_simulators(self):
        root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "src")
        with open(os.path.join(root, "sim", "models.c"), encoding="utf-8") as file:
            keys = re.findall(r'\.key = "(\w+)"', file.read())
        with open(os.path.join(root, "cli", "daemon.h"), encoding="utf-8") as file:
            choices = re.search(r'\.name = "sim".*?\.choices = "([^"]*)"', file.read(), re.S)
        self.assertEqual(choices.group(1).split(), keys)


class Daemon(unittest.TestCase):
    """What is said when the daemon is not as it should be."""

    def lone_cleave(self, script):
        """A copy of cleave with a program of ours for its daemon; its runtime directory."""
        place = tempfile.mkdtemp(prefix="cleave-test-")
        self.addCleanup(shutil.rmtree, place)
        shutil.copy2(CLEAVE, os.path.join(place, "cleave"))
        if script:
            with open(os.path.join(place, "cleaved"), "w", encoding="utf-8") as file:
                file.write("#!/bin/sh\n" + script)
            os.chmod(os.path.join(place, "cleaved"), 0o755)
        return place

    def ask(self, place):
        environment = {"CLEAVE_RUNTIME_DIR": os.path.join(place, "run"), "PATH": "/usr/bin:/bin"}
        done = subprocess.run([os.path.join(place, "cleave"), "ps"], env=environment, text=True,
                              capture_output=True, check=False, timeout=60)
        return done.returncode, done.stderr

    def test_no_program(self):
        status, err = self.ask(self.lone_cleave(None))
        self.assertEqual(status, 5)
        self.assertIn("the program cleaved is not installed", err)

    def test_daemon_that_dies_gives_its_reason(self):
        status, err = self.ask(self.lone_cleave("echo 'cleaved: no luck today' >&2\nexit 1\n"))
        self.assertEqual(status, 5)
        self.assertIn("the daemon did not come up: no luck today", err)
        self.assertIn("cleaved.log", err)

    def test_directory_of_others(self):
        place = self.lone_cleave("exit 1\n")
        os.mkdir(os.path.join(place, "run"))
        os.chmod(os.path.join(place, "run"), 0o777)
        status, err = self.ask(place)
        self.assertEqual(status, 4)
        self.assertIn("can be written by others", err)

    def test_bad_replies(self):
        for reply, message in ((b"garbage\n", "not understood"),
                               (b'{"id": 1}\n', "not understood"),
                               (b"", "closed the connection")):
            with FakeDaemon(raw=reply) as daemon:
                status, _, err = cleave("ps", directory=daemon.directory)
                self.assertEqual(status, 5)
                self.assertIn(message, err)

    def test_relative_directory(self):
        status, _, err = cleave("ps", directory="run")
        self.assertEqual(status, 2)
        self.assertIn("not an absolute path", err)


if __name__ == "__main__":
    CLEAVE = os.path.abspath(sys.argv.pop(1))
    unittest.main()
