#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The load of tests/gpu/compute does work of each kind that the cells name, on the simulated GPU.

usage: test_load.py BUILD
"""
import importlib.machinery
import importlib.util
import os
import sys
import tempfile
import time
import types
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = None


def compute():
    loader = importlib.machinery.SourceFileLoader("compute", os.path.join(HERE, "compute"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("compute", loader))
    sys.modules["compute"] = module
    loader.exec_module(module)
    return module


class Kinds(unittest.TestCase):
    def test_each_works_until_it_is_stopped(self):
        cells = compute()
        with tempfile.TemporaryDirectory(prefix="cleave-load-") as place:
            machine = types.SimpleNamespace(
                loads=[], figures={}, load=os.path.join(BUILD, "bench/probes/probe-load"),
                environment=dict(os.environ, CLEAVE_SIM="h100",
                                 CLEAVE_SIM_DIR=os.path.join(place, "sim"),
                                 LD_LIBRARY_PATH=os.path.join(BUILD, "src/sim")))
            for kind, (microseconds, mode) in cells.KINDS.items():
                with self.subTest(kind):
                    load = cells.Load(machine, microseconds, mode, terms=None, calibration=20)
                    try:
                        # of short ones the host, simulating, takes more than the device
                        if microseconds >= 5000:
                            self.assertGreater(load.unit, 0.9e-6 * microseconds)
                        load.go()
                        until = time.monotonic() + 30
                        # until it runs, what is done is its calibration's
                        while (load.word(cells.STATE) != cells.RUNNING or load.done() < 3) and \
                                time.monotonic() < until:
                            time.sleep(0.01)
                        self.assertGreaterEqual(load.done(), 3)
                    finally:
                        load.stop()
                    self.assertEqual(load.process.returncode, 0)


if __name__ == "__main__":
    BUILD = os.path.abspath(sys.argv.pop(1))
    unittest.main()
