#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `cleave run` does for its command: exit status, signals, terminal, environment.

usage: test_run.py CLEAVE GUARD

A double of the daemon grants everything (fake_daemon.py); no GPU is touched.
"""
import errno
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake_daemon import FakeDaemon  # noqa: E402

CLEAVE = None
GUARD = None


def eventually(condition, seconds=20):
    """Waits until it holds; False if it does not."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > until:
            return value
        time.sleep(0.01)
    return value


class Run(unittest.TestCase):
    def setUp(self):
        self.daemon = FakeDaemon(grant={"preload": [GUARD]})
        self.daemon.__enter__()
        self.addCleanup(self.daemon.__exit__)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("CLEAVE_", "LD_"))}
        self.env["CLEAVE_RUNTIME_DIR"] = self.daemon.directory

    def words(self, *command):
        return [CLEAVE, "run", "--memory", "1G", "--device", "0", "--", *command]

    def start(self, *command, **kinds):
        return subprocess.Popen(self.words(*command), env=self.env, text=True, **kinds)

    def run_(self, *command, **kinds):
        done = subprocess.run(self.words(*command), env=self.env, text=True, timeout=60,
                              capture_output=True, check=False, **kinds)
        return done.returncode, done.stdout, done.stderr


class Status(Run):
    def test_exit_status(self):
        for status in (0, 1, 2, 77, 125, 255):
            self.assertEqual(self.run_("sh", "-c", f"exit {status}"), (status, "", ""))

    def test_not_found(self):
        status, out, err = self.run_("no-such-command-here")
        self.assertEqual((status, out), (127, ""))
        self.assertEqual(err, "cleave run: cannot execute no-such-command-here: no such command\n")

    def test_not_executable(self):
        status, _, err = self.run_("/etc/passwd")
        self.assertEqual(status, 126)
        self.assertIn("Permission denied", err)

    def test_killed_by_signal(self):
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGUSR1,
                       signal.SIGSEGV, signal.SIGABRT):
            self.assertEqual(self.run_("sh", "-c", f"kill -{int(number)} $$")[0], -number)

    def test_refused(self):
        self.daemon.grant = None
        status, out, err = self.run_("echo", "started")
        self.assertEqual((status, out), (125, ""))
        self.assertIn("the device has 40 GiB", err)

    def test_guard_missing(self):
        for preload, why in ((None, "names no guard"), (["/nonexistent/libcuda.so.1"], "cannot be read")):
            self.daemon.grant = {"preload": preload}
            status, out, err = self.run_("echo", "started")
            self.assertEqual((status, out), (125, ""))
            self.assertIn(why, err)

    def test_guard_where_the_loader_cannot_take_it(self):
        place = os.path.join(self.daemon.directory, "a b")
        os.mkdir(place)
        os.symlink(GUARD, os.path.join(place, "libcuda.so.1"))
        self.daemon.grant = {"preload": [os.path.join(place, "libcuda.so.1")]}
        status, _, err = self.run_("true")
        self.assertEqual(status, 125)
        self.assertIn("has a blank or colon", err)

    def test_cgroup_that_cannot_be_joined(self):
        self.daemon.grant["cgroup"] = "/nonexistent/cgroup"
        status, out, err = self.run_("echo", "started")
        self.assertEqual((status, out), (125, ""))
        self.assertIn("cannot move the command to /nonexistent/cgroup", err)

    def test_cgroup_is_joined_before_the_command_starts(self):
        cgroup = os.path.join(self.daemon.directory, "cgroup")
        os.mkdir(cgroup)
        procs = os.path.join(cgroup, "cgroup.procs")
        with open(procs, "w", encoding="ascii"):
            pass
        self.daemon.grant["cgroup"] = cgroup
        status, out, _ = self.run_("sh", "-c", f"cat {procs}; echo; echo $$")
        self.assertEqual(status, 0)
        joined, own = out.split()
        self.assertEqual(joined, own)

    def test_daemon_is_told(self):
        status, out, _ = self.run_("sh", "-c", "echo $$; exit 3")
        self.assertEqual(status, 3)
        self.assertEqual(self.daemon.asked("tenant.start")["pid"], int(out))
        self.assertEqual(self.daemon.asked("tenant.exit")["status"], 3 << 8)

    def test_orphans_are_reaped(self):
        # The grandchild's parent ends first; its zombie must not stay while the command runs.
        status, out, _ = self.run_("sh", "-c", "p=$( (sleep 0.1 >/dev/null & echo $!) ); sleep 0.6; "
                                   "test -e /proc/$p && echo still there; true")
        self.assertEqual((status, out), (0, ""))

    def test_without_sigchld(self):
        def ignore():
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)

        self.assertEqual(self.run_("sh", "-c", "exit 7", preexec_fn=ignore)[0], 7)
        out = self.run_("grep", "SigIgn", "/proc/self/status", preexec_fn=ignore)[1]
        self.assertEqual(int(out.split()[1], 16) >> (signal.SIGCHLD - 1) & 1, 1)

    def test_daemon_that_comes_back_is_found_again(self):
        command = self.start("sh", "-c", "echo up; read line; exit 5", stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
        self.assertEqual(command.stdout.readline(), "up\n")
        self.daemon.hang_up()
        time.sleep(0.3)
        self.assertIsNone(command.poll())
        self.daemon.listen()
        self.assertTrue(eventually(lambda: self.daemon.asked("tenant.attach")))
        self.assertEqual(self.daemon.asked("tenant.attach")["secret"], "open sesame")
        command.communicate("\n", timeout=20)
        self.assertEqual(command.returncode, 5)
        self.assertEqual(self.daemon.asked("tenant.exit")["status"], 5 << 8)

    def test_without_daemon_the_command_goes_on(self):
        command = self.start("sh", "-c", "echo up; read line; exit 6", stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
        self.assertEqual(command.stdout.readline(), "up\n")
        self.daemon.hang_up()
        command.communicate("\n", timeout=20)
        self.assertEqual(command.returncode, 6)
        self.daemon.listen()


class Surroundings(Run):
    def test_environment(self):
        self.daemon.grant.update(environment={"CLEAVE_TENANT": "0123456789abcdef"},
                                 library_path="/sim/lib", program_path="/sim/bin")
        self.env.update(LD_LIBRARY_PATH="/own/lib", LD_PRELOAD="libm.so.6", OWN="kept")
        out = self.run_("env")[1].splitlines()
        for line in (f"LD_PRELOAD={GUARD}:libm.so.6", f"PATH=/sim/bin:{self.env['PATH']}", f"CUDA_VISIBLE_DEVICES={self.daemon.uuids[0]}", "LD_LIBRARY_PATH=/sim/lib:/own/lib",
                     "CLEAVE_TENANT=0123456789abcdef", "OWN=kept",
                     f"CLEAVE_RUNTIME_DIR={self.daemon.directory}"):
            self.assertIn(line, out)

    def test_signals_and_files_are_as_before(self):
        def unusual():
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])

        script = "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd | wc -l; umask; pwd"
        plain = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True,
                               preexec_fn=unusual, restore_signals=False)
        ours = self.run_("sh", "-c", script, preexec_fn=unusual, restore_signals=False)
        self.assertEqual(ours, (0, plain.stdout, ""))

    def test_nothing_of_ours_is_printed(self):
        self.assertEqual(self.run_("sh", "-c", "echo out; echo err >&2"), (0, "out\n", "err\n"))


class Signals(Run):
    def test_passed_on(self):
        for name in ("TERM", "HUP", "USR1", "USR2", "INT", "QUIT", "WINCH"):
            script = f"trap 'echo got; exit 9' {name}; echo ready; while :; do sleep 0.02; done"
            command = self.start("sh", "-c", script, stdout=subprocess.PIPE)
            self.assertEqual(command.stdout.readline(), "ready\n")
            command.send_signal(getattr(signal, f"SIG{name}"))
            self.assertEqual(command.stdout.readline(), "got\n", name)
            command.stdout.close()
            self.assertEqual(command.wait(timeout=20), 9)

    def test_end_by_term(self):
        command = self.start("sleep", "60")
        self.assertTrue(eventually(lambda: self.daemon.asked("tenant.start")))
        time.sleep(0.1)
        command.terminate()
        self.assertEqual(command.wait(timeout=20), -signal.SIGTERM)

    def test_stopped_command_elsewhere_than_at_a_terminal(self):
        # Whoever stops and continues the command alone must not find cleave stopped for ever.
        command = self.start("sh", "-c", "sleep 0.3; exit 4", start_new_session=True)
        self.assertTrue(eventually(lambda: self.daemon.asked("tenant.start")))
        pid = self.daemon.asked("tenant.start")["pid"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.2)
        with open(f"/proc/{command.pid}/stat", encoding="utf-8") as stat:
            self.assertNotEqual(stat.read().split()[2], "T")
        os.kill(pid, signal.SIGCONT)
        self.assertEqual(command.wait(timeout=20), 4)


class Shell:
    """An interactive bash at a terminal of its own, as a user has it."""

    def __init__(self, env):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            env = {**env, "PS1": "prompt> ", "TERM": "dumb", "HISTFILE": "/dev/null"}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], env)
        self.seen = ""

    def expect(self, pattern, seconds=20):
        """Reads until the pattern comes; what it matched. What came before is forgotten."""
        until = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            left = until - time.monotonic()
            if left < 0 or not select.select([self.fd], [], [], left)[0]:
                raise AssertionError(f"no {pattern!r} in {self.seen!r}")
            try:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                raise AssertionError(f"the shell ended: {self.seen!r}") from error
        self.seen = self.seen[found.end():]
        return found.group()

    def type(self, text):
        time.sleep(0.1)  # a shell that sets up its terminal may drop what comes meanwhile
        os.write(self.fd, text.encode())

    def close(self):
        os.close(self.fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Terminal(Run):
    def setUp(self):
        super().setUp()
        self.shell = Shell(self.env)
        self.addCleanup(self.shell.close)
        self.shell.expect("prompt> ")

    def line(self, *command):
        quoted = " ".join("'" + word + "'" for word in self.words(*command))
        self.shell.type(quoted + "\n")
        self.shell.expect("\n")

    def status(self):
        self.shell.expect("prompt> ")
        self.shell.type("echo status=$?\n")
        self.shell.expect(r"status=\$\?")
        return self.shell.expect(r"status=\d+")

    def test_is_the_commands_own(self):
        self.line("sh", "-c", "test -t 0 && test -t 1 && echo at a terminal; tty")
        self.shell.expect("at a terminal")
        self.assertEqual(self.status(), "status=0")

    def test_interrupt(self):
        self.line("sh", "-c", "echo ready; exec sleep 60")
        self.shell.expect("ready")
        self.shell.type("\x03")
        self.assertEqual(self.status(), "status=130")

    def test_interrupt_that_the_command_handles(self):
        script = os.path.join(self.daemon.directory, "script.py")
        with open(script, "w", encoding="utf-8") as file:
            file.write("import time, signal\nn = 0\n"
                       "def handle(*_):\n    global n\n    n += 1\n    print('got', n, flush=True)\n"
                       "signal.signal(signal.SIGINT, handle)\nprint('ready', flush=True)\n"
                       "end = time.monotonic() + 1\n"
                       "while time.monotonic() < end:\n    time.sleep(0.05)\n"
                       "raise SystemExit(40 + n)\n")
        self.line("python3", script)
        self.shell.expect("ready")
        self.shell.type("\x03")
        self.shell.expect("got 1")
        self.assertEqual(self.status(), "status=41")  # once, not twice

    def test_stop_and_go_on(self):
        self.line("sh", "-c", "echo ready; read line; echo got $line; exit 8")
        self.shell.expect("ready")
        time.sleep(0.1)
        self.shell.type("\x1a")
        self.shell.expect("Stopped")
        self.shell.expect("prompt> ")
        self.shell.type("jobs\n")
        self.shell.expect(r"\[1\]\+ +Stopped")
        self.shell.expect("prompt> ")
        self.shell.type("fg\n")
        self.shell.expect("cleave")
        self.shell.type("words\n")
        self.shell.expect("got words")
        self.assertEqual(self.status(), "status=8")

    def test_command_that_stops_itself(self):
        self.line("sh", "-c", "echo ready; kill -STOP $$; echo on again; exit 3")
        self.shell.expect("Stopped")
        self.shell.expect("prompt> ")
        self.shell.type("fg\n")
        self.shell.expect("on again")
        self.assertEqual(self.status(), "status=3")

    def test_shell_inside(self):
        self.line("bash", "--norc", "--noprofile", "-i")
        self.shell.expect("prompt> ")
        self.shell.type("sleep 60\n")
        time.sleep(0.3)
        self.shell.type("\x03")
        self.shell.expect("prompt> ")
        self.shell.type("exit 12\n")
        self.shell.expect("exit")
        self.assertEqual(self.status(), "status=12")

    def test_in_the_background(self):
        quoted = " ".join("'" + word + "'" for word in self.words("sh", "-c", "read x; echo got $x"))
        self.shell.type(quoted + " &\n")
        self.shell.expect("prompt> ")
        time.sleep(0.5)
        self.shell.type("jobs\n")
        self.shell.expect("Stopped")  # it reads from the terminal
        self.shell.expect("prompt> ")
        self.shell.type("fg\n")
        self.shell.expect("cleave")
        self.shell.type("later\n")
        self.shell.expect("got later")
        self.assertEqual(self.status(), "status=0")


if __name__ == "__main__":
    CLEAVE, GUARD = (os.path.abspath(word) for word in sys.argv[1:3])
    del sys.argv[1:3]
    # A shell that runs us in the background may have had these ignored, which is inherited.
    for ignored in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_DFL)
    unittest.main()
