#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_trace.py BUILD: cleave trace records what programs do, whatever becomes of them, and cleave
replay does it again."""
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
# pylint: disable-next=wrong-import-position
from world import MIB, World

# Of the conformance program: cases whose kernels wait for nothing that the program writes.
CASES = """primary_context context_stack context_ends pitched host_memory managed copies copies_2d
copies_3d arrays pool_explicit vmm event_life values stream_storm module_life module_variables
libraries arithmetic other_kernels local_memory illegal_address launch_ex old_launch linker graph_run
graph_structure graph_params graph_update graph_child graph_memory graph_generic capture_run
capture_threads capture_memory by_version""".split()


class Trace(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World(BUILD).__enter__()
        cls.calls = os.path.join(BUILD, "tests", "trace", "calls")
        cls.conformance = os.path.join(BUILD, "tests", "conformance", "conformance")
        # the simulated driver alone, with no tenant
        cls.bare = dict(cls.world.env, LD_LIBRARY_PATH=os.path.join(BUILD, "src", "sim"))

    @classmethod
    def tearDownClass(cls):
        cls.world.__exit__(None, None, None)

    def setUp(self):
        self.file = os.path.join(self.world.place, self.id().rsplit(".", 1)[-1] + ".trace")

    def trace(self, *program, words=(), env=None, status=0, **kinds):
        done = subprocess.run([self.world.cleave_path, "trace", "-o", self.file, *words, "--",
                               *program], env=env or self.bare, text=True, capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=100, check=False, **kinds)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout

    def show(self, env=None):
        """The head of the trace, its processes and its calls."""
        done = subprocess.run([self.world.cleave_path, "trace", "--show", self.file,
                               "--format", "json"], env=env or self.world.env, text=True,
                              capture_output=True, timeout=100, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        head, *events = (json.loads(line) for line in done.stdout.splitlines())
        return (head, [e for e in events if e["kind"] == "process"],
                [e for e in events if e["kind"] == "call"])

    def replay(self, *words, env=None, status=0):
        done = subprocess.run([self.world.cleave_path, "replay", "-o", "json", *words, self.file],
                              env=env or self.bare, text=True, capture_output=True, timeout=100,
                              check=False)
        self.assertEqual(done.returncode, status, done.stderr + done.stdout[:4000])
        return json.loads(done.stdout)

    def named(self, calls, name):
        return [c for c in calls if c["call"] == name]

    def test_conformance(self):
        """What is recorded in a tenant comes out the same in a tenant, on the driver alone, and
        with the trace before or behind `cleave run`."""
        plain = subprocess.run([self.conformance, *CASES], env=self.bare, text=True,
                               capture_output=True, check=True).stdout
        quota = ("-q", "--wait", "--memory", "40G")
        done = self.world.cleave("run", *quota, "--", self.world.cleave_path, "trace", "-o",
                                 self.file, "--", self.conformance, *CASES)
        self.assertEqual(done[1], plain)
        calls = self.show()[2]
        total = {c["parameters"]["total"]["value"]
                 for c in self.named(calls, "cuMemGetInfo_v2") if c["result"] == "CUDA_SUCCESS"}
        self.assertEqual(total, {40960 * MIB}, "the trace stands before the guard")
        self.assertEqual({c["result"] for c in self.named(calls, "cuInit")}, {"CUDA_SUCCESS"})
        given = {c["parameters"]["dptr"].get("value") for c in self.named(calls, "cuMemAlloc_v2")}
        words = {word for c in self.named(calls, "cuLaunchKernel") for extra in c["extras"]
                 for p in extra.get("value", ()) for word in p["words"]}
        self.assertTrue(given & words, f"what kernels were given: {words}")
        answer = json.loads(self.world.cleave("run", *quota, "--", self.world.cleave_path, "replay",
                                              "--values", "-o", "json", self.file, check=False)[1])
        self.assertEqual((answer["calls"], answer["same"]), (len(calls), len(calls)),
                         answer["differences"][:5])
        answer = self.replay()
        self.assertEqual(answer["same"], len(calls), answer["differences"][:5])

    def test_run_inside(self):
        """`cleave trace -- cleave run`: the tracer still stands first."""
        self.trace(self.world.cleave_path, "run", "-q", "--wait", "--memory", "1G", "--",
                   self.calls, "copy", env=self.world.env)
        self.assertEqual(len(self.named(self.show()[2], "cuMemAlloc_v2")), 1)

    def test_quota(self):
        """A program that is refused by its quota: in as large a tenant it is again, without one it
        is not, and that is reported."""
        run = ("run", "-q", "--wait", "--memory", "2G", "--", self.world.cleave_path)
        self.world.cleave(*run, "trace", "-o", self.file, "--", self.calls, "fill",
                          "256")
        refused = [c for c in self.named(self.show()[2], "cuMemAlloc_v2")
                   if c["result"] == "CUDA_ERROR_OUT_OF_MEMORY"]
        self.assertEqual(len(refused), 1)
        answer = json.loads(self.world.cleave(*run, "replay", "-o", "json", self.file)[1])
        self.assertEqual(answer["same"], answer["calls"])
        different = self.replay(status=1)["differences"]
        self.assertEqual([(d["state"], d["recorded"], d["replayed"]) for d in different],
                         [("result-differs", "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_SUCCESS")])
        self.assertIn("cuMemAlloc_v2(", different[0]["text"])

    def test_difference(self):
        """A fault on replay is found, and what the text says of it."""
        self.trace(self.calls, "copy")
        env = dict(self.bare, CLEAVE_SIM_FAULTS="oom@cuMemAlloc_v2:1")
        answer = self.replay(env=env, status=1)
        self.assertEqual(answer["differences"][0]["replayed"], "CUDA_ERROR_OUT_OF_MEMORY")
        text = subprocess.run([self.world.cleave_path, "replay", self.file], env=env, text=True,
                              capture_output=True, check=False)
        self.assertEqual(text.returncode, 1)
        self.assertIn("CUDA_ERROR_OUT_OF_MEMORY, not CUDA_SUCCESS", text.stdout)

    def test_ending(self):
        """What the driver answered when its process was ending is no difference."""
        self.trace(self.calls, "copy", status=1,
                   env=dict(self.bare, CLEAVE_SIM_FAULTS="fail=4@cuMemFree_v2:1"))
        answer = self.replay()
        self.assertEqual([(d["state"], d["recorded"], d["replayed"]) for d in answer["differences"]],
                         [("process-ending", "CUDA_ERROR_DEINITIALIZED", None)])
        self.assertEqual((answer["different"], answer["skipped"]), (0, 1))

    def test_contents(self):
        """What copies carry stands in the trace only if it is wanted; then it is compared too."""
        marker = b"MARKED CONTENT"
        self.trace(self.calls, "copy")
        self.assertNotIn(marker, pathlib.Path(self.file).read_bytes())
        copy = self.named(self.show()[2], "cuMemcpyHtoD_v2")[0]
        self.assertEqual(copy["parameters"]["srcHost"]["bytes"], len(marker) + 1)
        self.trace(self.calls, "copy", words=["--contents"])
        self.assertIn(marker, pathlib.Path(self.file).read_bytes())
        self.assertEqual(self.replay("--values")["different"], 0)
        # as if the device had given back something else
        data = pathlib.Path(self.file).read_bytes()
        at = data.rindex(marker)
        pathlib.Path(self.file).write_bytes(data[:at] + b"m" + data[at + 1:])
        answer = self.replay("--values", status=1)
        self.assertEqual([(d["state"], d["parameter"]) for d in answer["differences"]],
                         [("value-differs", "dstHost")])

    def test_threads(self):
        """Every call of every thread, with its times; each thread's in order."""
        self.trace(self.calls, "storm", "6", "3000")
        head, processes, calls = self.show()
        self.assertEqual((head["cut"], head["lost"], head["unreadable_bytes"]), (None, 0, 0))
        self.assertEqual(len(processes), 1)
        storm = self.named(calls, "cuDeviceGetCount")
        self.assertEqual(len(storm), 18000)
        self.assertEqual(len({c["thread"] for c in storm}), 6)
        self.assertTrue(all(c["nanoseconds"] >= 0 and c["parameters"]["count"]["value"] == 1
                            for c in storm))
        self.assertEqual(self.replay()["same"], len(calls))

    def test_crash(self):
        self.trace(self.calls, "crash", status=-signal.SIGSEGV)
        calls = self.show()[2]
        self.assertEqual((calls[-1]["call"], calls[-1]["result"]), ("cuMemFree_v2", "CUDA_SUCCESS"))

    def test_stuck(self):
        """A call that never returns is the last one; where it does not return either, replay gives
        it up."""
        with subprocess.Popen([self.world.cleave_path, "trace", "-o", self.file, "--", self.calls,
                               "stuck"], env=self.bare, text=True, stdout=subprocess.PIPE) as process:
            self.assertEqual(process.stdout.readline(), "stuck\n")
            while self.show()[2][-1]["call"] != "cuStreamSynchronize":
                pass
            process.kill()
        last = self.show()[2][-1]
        self.assertEqual((last["call"], last["result"], last["nanoseconds"]),
                         ("cuStreamSynchronize", None, None))
        answer = self.replay("--patience", "1s", status=1)
        self.assertEqual([d["state"] for d in answer["differences"]], ["not-returned"])

    def test_fork(self):
        self.trace(self.calls, "fork")
        _, processes, calls = self.show()
        self.assertEqual([p["forked_from"] for p in processes], [None, None, 2])
        self.assertEqual(len({c["pid"] for c in calls}), 3)
        self.assertEqual([c["result"] for c in calls if c["process"] == 3],
                         ["CUDA_ERROR_NOT_INITIALIZED"])
        answer = self.replay()
        self.assertEqual((answer["different"], answer["skipped"]), (0, 1))

    def test_unseen(self):
        """What is made past the trace: a primary context is the same one's on replay, on its device
        and in every thread; a stream is not to be had, and that is said."""
        two = dict(self.bare, CLEAVE_SIM="h100x2", CLEAVE_SIM_DIR=self.file + ".sim")
        driver = os.path.join(BUILD, "src", "sim", "libcuda.so.1")
        for env, device in ((self.bare, 0), (two, 1), (two, 0)):
            with self.subTest(device=device):
                self.trace(self.calls, "unseen", driver, str(device), env=env)
                calls = self.show()[2]
                self.assertFalse(self.named(calls, "cuDevicePrimaryCtxRetain"))
                self.assertEqual(len(self.named(calls, "cuCtxSetCurrent")), 1)
                answer = self.replay("--values", env=env)
                self.assertEqual([(d["state"], d["parameter"]) for d in answer["differences"]],
                                 [("unknown-handle", "hStream")], answer["differences"])
                self.assertEqual(
                    (answer["same"], answer["contexts_assumed"], answer["currents_assumed"],
                     answer["states"]),
                    (len(calls) - 1, 1, 2, {"same": len(calls) - 1, "unknown-handle": 1}))
        text = subprocess.run([self.world.cleave_path, "replay", self.file], env=two, text=True,
                              capture_output=True, check=False)
        self.assertEqual(text.returncode, 0, text.stdout)
        for line in ("1: uses a handle that no recorded call made\n",
                     "1 context that no recorded call made was taken for the primary one\n",
                     "2 times a thread was given a context that no recorded call gave it\n"):
            self.assertIn(line, text.stdout)

    def test_lost(self):
        """A context that a recorded call made, and that cannot be made here, is not taken for one
        made unseen."""
        self.trace(self.calls, "lost")
        self.assertEqual(self.replay("--values")["currents_assumed"], 0)
        answer = self.replay(env=dict(self.bare, CLEAVE_SIM_FAULTS="oom@cuCtxCreate_v4:1"), status=1)
        self.assertEqual([(d["state"], d["replayed"]) for d in answer["differences"][:2]],
                         [("result-differs", "CUDA_ERROR_OUT_OF_MEMORY"), ("lost-handle", None)])
        self.assertEqual((answer["contexts_assumed"], answer["currents_assumed"]), (0, 0))

    def test_exec(self):
        self.trace(self.calls, "exec", "100")
        _, processes, calls = self.show()
        self.assertEqual(len({p["pid"] for p in processes}), 1)
        self.assertEqual([len(self.named([c for c in calls if c["process"] == p],
                                         "cuDeviceGetCount")) for p in (1, 2)], [100, 100])

    def test_closed_descriptors(self):
        """A program that closes everything goes on being traced, and its files are its own."""
        self.trace(self.calls, "close", "20000")
        self.assertEqual(len(self.named(self.show()[2], "cuDeviceGetCount")), 20000)

    def check_cut(self, reason):
        head, _, calls = self.show()
        self.assertIn("the trace is cut", head["cut"])
        self.assertIn(reason, head["cut"])
        self.assertGreater(len(calls), 100)
        self.assertEqual(len(calls) + head["lost"], 2 * 20000 + 1, "calls there and calls lost")

    def test_limit(self):
        self.trace(self.calls, "storm", "2", "20000", words=["--limit", "1M"])
        self.check_cut("limit")
        self.assertLessEqual(os.path.getsize(self.file), MIB)
        self.assertTrue(self.replay()["cut"])

    def test_full_disk(self):
        """The program does not notice, not by a signal either."""
        self.trace(self.calls, "storm", "2", "20000", preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (MIB, MIB)))
        self.check_cut("too large")

    def test_full_file_system(self):
        place = os.path.join(self.world.place, "small")
        os.mkdir(place)
        script = (f"mount -t tmpfs -o size=1m none {place} && {self.world.cleave_path} trace "
                  f"-o {place}/t -- {self.calls} storm 2 20000 && cp {place}/t {self.file}")
        done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], env=self.bare, text=True,
                              capture_output=True, timeout=100, check=False)
        if "unshare:" in done.stderr or "mount:" in done.stderr:
            self.skipTest(done.stderr.strip())
        self.assertEqual(done.returncode, 0, done.stderr)
        self.check_cut("No space left")

    def test_damage(self):
        """A damaged trace is read as far as it goes, and is never fatal to the reader."""
        self.trace(self.conformance, "arithmetic", "graph_run", "capture_run")
        data = pathlib.Path(self.file).read_bytes()
        dice = random.Random(7)
        for round_ in range(40):
            damaged = bytearray(data)
            for _ in range(1 << dice.randrange(12)):
                # the head says what it is: damage there is told as such
                damaged[dice.randrange(65536 if round_ % 4 else 0, len(data))] ^= \
                    1 << dice.randrange(8)
            if round_ % 5 == 0:
                del damaged[dice.randrange(len(damaged)):]
            pathlib.Path(self.file).write_bytes(damaged)
            for words in (["--format", "json"], []):
                done = subprocess.run([self.world.cleave_path, "trace", "--show", self.file, *words],
                                      env=self.world.env, capture_output=True, check=False,
                                      timeout=60)
                self.assertIn(done.returncode, (0, 2), (round_, done.stderr[-2000:]))

    def test_other_version(self):
        self.trace(self.calls, "copy")
        data = bytearray(pathlib.Path(self.file).read_bytes())
        data[16] ^= 1
        pathlib.Path(self.file).write_bytes(data)
        done = subprocess.run([self.world.cleave_path, "replay", self.file], env=self.bare,
                              text=True, capture_output=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("written by cleave", done.stderr)

    def test_errors(self):
        for words, sentence in (([], "no command"), (["--show", self.file], "cannot open"),
                                (["--limit", "x", "--", "true"], "x"),
                                (["-o", "/dev/null", "--", "true"], "is no file"),
                                (["--show", self.file, "true"], "runs no command")):
            done = subprocess.run([self.world.cleave_path, "trace", *words], env=self.world.env,
                                  text=True, capture_output=True, check=False)
            self.assertEqual(done.returncode, 2, words)
            self.assertIn(sentence, done.stderr)
        self.trace("/nonexistent/program", status=127)
        env = {k: v for k, v in self.world.env.items() if k != "LD_LIBRARY_PATH"}
        self.trace(self.calls, "copy")
        if not shutil.which("nvidia-smi"):
            done = subprocess.run([self.world.cleave_path, "replay", self.file], env=env, text=True,
                                  capture_output=True, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("no driver to replay on", done.stderr)


if __name__ == "__main__":
    BUILD = os.path.abspath(sys.argv.pop(1))
    unittest.main()
