#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cleave bench on the simulated GPU: that every procedure runs, and what it leaves behind.

usage: test_bench.py BUILD PEER [TEST...]
"""
import html.parser
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = None
PEER = None
TOLD = ["--peer-env", "PEER_MEMORY={memory-mib}", "--peer-env", "PEER_COMPUTE={compute}",
        "--peer-env", "PEER_TENANT={tenant}"]
CATEGORIES = {"overhead": 10, "isolation": 10, "llm": 10, "bandwidth": 4, "cache": 4, "pcie": 4,
              "nccl": 4, "scheduling": 4, "fragmentation": 3, "errors": 3}


def environment():
    return {k: v for k, v in os.environ.items() if not k.startswith(("CLEAVE_", "LD_"))}


def bench(*words, timeout=300):
    """Runs cleave bench: exit status, standard output, standard error."""
    done = subprocess.run([os.path.join(BUILD, "cleave"), "bench", *words], env=environment(),
                          text=True, capture_output=True, stdin=subprocess.DEVNULL,
                          timeout=timeout, check=False)
    return done.returncode, done.stdout, done.stderr


def report(*words):
    status, out, err = bench("--sim", "--quick", "--quiet", "-o", "json", *words)
    assert out, err
    return status, json.loads(out)


def results(found):
    return {(m["id"], arm): r for m in found["metrics"] for arm, r in m["results"].items()}


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], set(), "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in ("meta", "line", "circle", "path", "html"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("line", "circle", "path", "html"):
            return
        assert self.open and self.open.pop() == tag, f"</{tag}> closes what is not open"

    def handle_data(self, data):
        self.text += data


class Bench(unittest.TestCase):
    def check_result(self, result):
        self.assertEqual(set(result), {"median", "low", "high", "difference", "ratio",
                                       "ratio_low", "ratio_high", "samples", "gap", "error", "detail"})
        if result["gap"] or result["error"]:
            self.assertTrue(re.match(r"\w.*[^.\n]$", result["gap"] or result["error"]), result)
        else:
            self.assertGreater(len(result["samples"]), 0)
            self.assertLessEqual(result["low"], result["median"])
            self.assertLessEqual(result["median"], result["high"])

    def test_everything(self):
        with tempfile.TemporaryDirectory() as place:
            page_path, json_path = place + "/b.html", place + "/b.json"
            start = time.monotonic()
            status, out, err = bench("--sim", "--quick", "--mode", "temporal", "--json", json_path,
                                     "--html", page_path)
            took = time.monotonic() - start
            with open(json_path) as file:
                found = json.load(file)
            with open(page_path, encoding="utf-8") as file:
                text = file.read()
        self.assertEqual(found["schema"], "cleave.bench/1")
        self.assertTrue(found["complete"] and found["quick"] and found["simulated"])
        self.assertEqual(found["arms"], ["native", "control", "temporal"])
        self.assertEqual(found["device"]["name"], "NVIDIA H100 80GB HBM3")
        self.assertAlmostEqual(found["seconds"], took, delta=took / 2 + 1)
        counts = {}
        for metric in found["metrics"]:
            counts[metric["category"]] = counts.get(metric["category"], 0) + 1
            self.assertIn(metric["better"], ("lower", "higher", "told"))
            for result in metric["results"].values():
                self.check_result(result)
        self.assertEqual(counts, CATEGORIES)
        seen = results(found)
        self.assertEqual(len(seen), 3 * 56)
        # what only a GPU can show is told as such, by everybody alike
        for name in ("LLM-001", "LLM-003", "LLM-008", "CACHE-001", "CACHE-004", "NCCL-003"):
            for arm in found["arms"]:
                self.assertRegex(seen[name, arm]["gap"], "simulated GPU|two GPUs")
        self.assertIn("no limit", seen["IS-001", "native"]["gap"])
        # a machine that is busy may not give the time that a share is measured in, nor any in which
        # a neighbour's work could be seen to go on
        def missed():
            return {name for (name, _), r in seen.items()
                    if r["error"] or (name == "IS-010" and r["median"] != 1)}
        self.assertEqual(status, 1 if any(r["error"] for r in seen.values()) else 0, err)
        for _ in range(3):
            if missed():
                seen.update(results(report("--mode", "temporal", "--only", ",".join(missed()))[1]))
        failed = {name for (name, _), r in seen.items() if r["error"]}
        self.assertEqual(failed, set(), {k: r["error"] for k, r in seen.items() if r["error"]})
        # figures that hold on any machine
        for arm in found["arms"]:
            for name in ("IS-005", "IS-010"):
                self.assertEqual(seen[name, arm]["median"], 1, seen[name, arm])
            self.assertEqual(seen["ERR-003", arm]["median"], 100)
            self.assertGreater(seen["FRAG-003", arm]["median"], 99)
        self.assertGreater(seen["IS-001", "temporal"]["median"], 99.9)
        self.assertLessEqual(seen["IS-001", "temporal"]["detail"]["taken_bytes"],
                             seen["IS-001", "temporal"]["detail"]["quota_bytes"])
        self.assertEqual(seen["OH-010", "native"]["median"], 0)
        # one procedure, two figures
        for arm in found["arms"]:
            self.assertEqual(seen["OH-002", arm]["detail"], seen["OH-003", arm]["detail"])
        # the table and the progress
        for name, _ in seen:
            self.assertRegex(out, rf"(?m)^{name} ")
        self.assertEqual(len(err.splitlines()), 56, err)
        # the page
        page = Page(text)
        self.assertEqual(page.open, [])
        self.assertFalse(page.tags & {"script", "link", "img", "iframe", "object", "base"})
        self.assertFalse(set(page.attributes) & {"src", "href", "onload"})
        self.assertNotRegex(text, r"https?:|url\(|@import")
        self.assertIn("prefers-color-scheme:dark", text)
        self.assertIn("svg", page.tags)
        self.assertIn("simulated", page.text)
        for metric in found["metrics"]:
            self.assertIn(metric["id"], page.text)
            self.assertIn(metric["procedure"], page.text)

    def test_choice(self):
        for _ in range(4):
            status, found = report("--only", "oh-005,SCHED,errors", "--mode", "native")
            if status == 0:
                break
        self.assertEqual(status, 0, [r["error"] for r in results(found).values()])
        self.assertEqual([m["id"] for m in found["metrics"]],
                         ["OH-005", "SCHED-001", "SCHED-002", "SCHED-003", "SCHED-004", "ERR-001",
                          "ERR-002", "ERR-003"])
        self.assertEqual(found["arms"], ["native", "control"])
        for words, sentence in (
                (["--only", "OH-011"], "'OH-011' is no metric"),
                (["--mode", "sideways"], "there is no mode 'sideways'"),
                (["--mode", "peer"], "a peer is given by"),
                (["--peer-env", "A=B"], "is for --peer-preload"),
                (["--peer-preload", "x", "--peer-env", "A"], "is not NAME=VALUE"),
                (["--peer-preload", "x", "--peer-name", "temporal"], "is the name of a mode"),
                (["--peer-preload", "x", "--peer-path", "y"], "exclude each other")):
            status, out, err = bench("--sim", *words)
            self.assertEqual((status, out), (2, ""))
            self.assertIn(sentence, err)

    def test_list(self):
        found = json.loads(bench("--list", "-o", "json")[1])
        self.assertEqual(found["schema"], "cleave.bench-metrics/1")
        out = bench("--list")[1]
        with open(os.path.join(ROOT, "docs", "bench.md"), encoding="utf-8") as file:
            documented = file.read()
        for m in found["metrics"]:
            self.assertRegex(out, rf"(?m)^{m['id']} .*{m['name']}$")
            row = f"| {m['id']} | {m['name']} | {m['unit']} | {m['measures']} | {m['procedure']} |"
            self.assertIn(row, documented, "docs/bench.md is not made from the description")

    def test_second_gpu(self):
        status, out, _ = bench("--sim=h100x2", "--quick", "--quiet", "-o", "json", "--only",
                               "NCCL,LLM-010,SCHED-002")
        seen = results(json.loads(out))
        self.assertEqual(status, 0)
        self.assertIsNotNone(seen["SCHED-002", "spatial"]["median"])
        self.assertIn("one device", seen["NCCL-001", "spatial"]["gap"])
        for arm in ("native", "control", "temporal"):
            for name in ("NCCL-001", "NCCL-002", "NCCL-003", "NCCL-004"):
                self.assertGreater(seen[name, arm]["median"], 0, seen[name, arm])
            self.assertIn("does not multiply", seen["LLM-010", arm]["gap"])

    def test_put_together(self):
        with tempfile.TemporaryDirectory() as place:
            a, b, c = (f"{place}/{name}.json" for name in "abc")
            bench("--sim", "--quick", "--quiet", "--only", "SCHED-002,OH-005", "--mode", "temporal",
                  "--json", a)
            bench("--sim", "--quick", "--quiet", "--only", "OH-001,OH-005", "--mode", "native",
                  "--json", b)
            with open(a) as first, open(b) as second:
                parts = json.load(first), json.load(second)
            status, out, err = bench("--from", a, "--from", b, "-o", "json", "--html", place + "/h")
            self.assertEqual((status, err), (0, ""))
            found = json.loads(out)
            with open(place + "/h", encoding="utf-8") as file:
                page = Page(file.read())
            self.assertEqual(page.open, [])
            self.assertIn("SCHED-002", page.text)
            self.assertEqual(found["schema"], "cleave.bench/1")
            self.assertTrue(found["complete"])
            self.assertEqual(found["arms"], ["native", "control", "temporal"])
            # in the order of the list, and of what both have the last
            self.assertEqual([m["id"] for m in found["metrics"]], ["OH-001", "OH-005", "SCHED-002"])
            seen, (first, second) = results(found), map(results, parts)
            self.assertEqual(seen["OH-005", "native"], second["OH-005", "native"])
            self.assertEqual(seen["OH-005", "temporal"], first["OH-005", "temporal"])
            self.assertEqual(seen["SCHED-002", "control"], first["SCHED-002", "control"])
            self.assertNotIn(("OH-001", "temporal"), seen)
            self.assertEqual([p["date"] for p in found["parts"]], [p["date"] for p in parts])
            self.assertAlmostEqual(found["seconds"], sum(p["seconds"] for p in parts))
            # what one did not come to is taken from another; on another card of the kind, no uuid
            parts[1]["metrics"][1]["results"]["native"] |= {"samples": [], "median": None}
            parts[1]["device"]["uuid"] = "GPU-of-another"
            with open(c, "w") as file:
                json.dump(parts[1], file)
            found = json.loads(bench("--from", a, "--from", c, "-o", "json")[1])
            self.assertEqual(results(found)["OH-005", "native"], first["OH-005", "native"])
            self.assertIsNone(found["device"]["uuid"])
            self.assertEqual([p["uuid"] for p in found["parts"]],
                             [parts[0]["device"]["uuid"], "GPU-of-another"])
            # alone it is not complete, which is a failure
            status, out, _ = bench("--from", c, "-o", "json")
            self.assertEqual((status, json.loads(out)["complete"]), (1, False))
            parts[1]["device"]["name"] = "another GPU"
            with open(c, "w") as file:
                json.dump(parts[1], file)
            for words, sentence in (
                    (["--from", a, "--from", c], "they differ in device"),
                    (["--from", a, "--quick"], "--quick is not for it"),
                    (["--from", place + "/h"], "cannot be read"),
                    (["--from", place + "/none"], "cannot be read")):
                status, out, err = bench(*words)
                self.assertNotEqual(status, 0)
                self.assertEqual(out, "")
                self.assertIn(sentence, err)
            with open(c, "w") as file:
                json.dump({"schema": "other"}, file)
            self.assertIn("is not what cleave bench --json writes", bench("--from", c)[2])

    def test_in_space(self):
        help_text = subprocess.run([os.path.join(BUILD, "cleave"), "run", "--help"], text=True,
                                   capture_output=True, check=True).stdout
        names = ["OH-005", "IS-001", "IS-008", "IS-010", "SCHED-001", "ERR-002"]
        for _ in range(4):
            found = report("--mode", "spatial", "--only", ",".join(names))[1]
            seen = results(found)
            if not any(r["error"] for r in seen.values()):
                break
        if "--sharing" not in help_text:
            for name in names:
                self.assertIn("no --sharing", seen[name, "spatial"]["gap"])
            return
        self.assertFalse([r["error"] for r in seen.values() if r["error"]])
        self.assertGreater(seen["IS-001", "spatial"]["median"], 99)
        self.assertEqual(seen["IS-010", "spatial"]["median"], 1)
        self.assertIn("nothing passes", seen["SCHED-001", "spatial"]["gap"])

    # peers

    def test_peer(self):
        status, found = report("--only", "OH-001,IS-001,IS-002,IS-003,IS-004,ERR-003", "--mode",
                               "peer", "--peer-preload", PEER, "--peer-name", "other", *TOLD)
        self.assertEqual(found["arms"], ["native", "control", "other"])
        seen = results(found)
        self.assertIn("cleave set", seen["IS-004", "other"]["gap"])
        # this one limits nothing, and that is what is told
        self.assertEqual(status, 1)
        self.assertLess(seen["IS-001", "other"]["median"], 0)
        self.assertIn("were given where they should", seen["IS-002", "other"]["error"])
        self.assertEqual(seen["ERR-003", "other"]["median"], 100)

    def test_peer_that_does_not_load(self):
        for words in (["--peer-preload", "/nonexistent/peer.so"], ["--peer-path", "/usr"]):
            status, found = report("--only", "OH-001,IS-008", "--mode", "peer", *words)
            seen = results(found)
            self.assertEqual(status, 1)
            for name in ("OH-001", "IS-008"):
                self.assertIn("is not loaded into the program", seen[name, "peer"]["error"])
                self.assertIsNone(seen[name, "native"]["error"])
                self.assertIsNotNone(seen[name, "native"]["median"])
        # one that refuses to go on says so
        status, found = report("--only", "OH-001", "--mode", "peer", "--peer-preload", PEER)
        self.assertIn("with status 3: the peer was not told its PEER_MEMORY",
                      results(found)["OH-001", "peer"]["error"])

    def test_process_that_dies(self):
        status, found = report("--only", "OH-001,OH-005,ERR-003", "--mode", "peer",
                               "--peer-preload", PEER, "--peer-env", "PEER_DIES=1", *TOLD)
        seen = results(found)
        self.assertEqual(status, 1)
        self.assertTrue(found["complete"])
        for name in ("OH-001", "OH-005"):
            self.assertEqual(seen[name, "peer"]["error"], "the process ended by signal 9")
            self.assertIsNone(seen[name, "peer"]["median"])
            self.assertIsNone(seen[name, "native"]["error"])
        # it does not sort there, so it lives
        self.assertEqual(seen["ERR-003", "peer"]["median"], 100)

    # ends

    def test_stopped(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with tempfile.TemporaryDirectory() as place:
                process = subprocess.Popen(
                    [os.path.join(BUILD, "cleave"), "bench", "--sim", "--json", place + "/b.json",
                     "--html", place + "/b.html", "--only", "OH-005,IS", "--mode", "temporal"],
                    env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                self.assertIn("OH-005", process.stderr.readline())
                children = self.children(process.pid)
                self.assertGreaterEqual(len(children), 3)
                # what there is is written as it comes
                self.assertIn("IS-001", process.stderr.readline())
                with open(place + "/b.json") as file:
                    found = json.load(file)
                self.assertFalse(found["complete"])
                self.assertIsNotNone(results(found)["OH-005", "temporal"]["median"])
                process.send_signal(number)
                out, _ = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 1)
                with open(place + "/b.json") as file:
                    found = json.load(file)
                with open(place + "/b.html", encoding="utf-8") as file:
                    self.assertIn("stopped before its end", Page(file.read()).text)
            self.assertFalse(found["complete"])
            self.assertIsNotNone(results(found)["OH-005", "temporal"]["median"])
            self.assertIsNone(results(found)["IS-010", "temporal"]["median"])
            self.assertIn("OH-005", out)
            for pid in children:
                self.assertFalse(os.path.exists(f"/proc/{pid}"), pid)

    @staticmethod
    def children(pid):
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return file.read().split()


if __name__ == "__main__":
    BUILD, PEER = os.path.abspath(sys.argv.pop(1)), os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
