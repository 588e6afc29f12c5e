#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`cleave doctor --api`, with a driver that has more than our description.

usage: test_doctor_api.py CLEAVE DRIVER PROGRAM SIM
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../packages"))
from tree import Tenant  # noqa: E402

CLEAVE = DRIVER = PROGRAM = SIM = None


class Api(unittest.TestCase):
    def doctor(self, *words, directory, environment):
        done = subprocess.run([CLEAVE, "doctor", "--api", *words], text=True, capture_output=True,
                              env=dict(environment, LD_LIBRARY_PATH=directory), check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def test_an_entry_of_the_future(self):
        with tempfile.TemporaryDirectory() as place:
            os.symlink(DRIVER, place + "/libcuda.so.1")
            with Tenant(CLEAVE, ["env", "CLEAVE_LIBCUDA=" + DRIVER, PROGRAM]) as tenant:
                self.assertEqual(tenant.facts.get("answer"), 42, tenant.errors)
                pid = tenant.ask("ps")["tenants"][0]["processes"][0]["pid"]
                out = json.loads(self.doctor("-o", "json", directory=place,
                                             environment=tenant.environment))
                self.assertEqual(out["schema"], "cleave.doctor.api/1")
                self.assertEqual(out["library"], DRIVER)
                self.assertEqual(out["unknown"],
                                 [{"name": "cuFutureThing_v2", "looked_up_by": [pid]}])
                text = self.doctor(directory=place, environment=tenant.environment)
                self.assertIn("1 of them are beyond our description", text)
                self.assertIn(f"cuFutureThing_v2  looked up by {pid}\n", text)

    def test_a_driver_that_we_know(self):
        out = json.loads(self.doctor("-o", "json", directory=SIM, environment={
            "CLEAVE_RUNTIME_DIR": "/nonexistent/cleave"}))
        self.assertEqual(out["unknown"], [])
        self.assertGreater(out["entries"], 600)

    def test_without_a_driver(self):
        done = subprocess.run([CLEAVE, "doctor", "--api"], text=True, capture_output=True, env={},
                              check=False)
        if done.returncode == 0:
            self.skipTest("this machine has a driver")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("libcuda.so.1 cannot be looked at", done.stderr)


if __name__ == "__main__":
    CLEAVE, DRIVER, PROGRAM, SIM = map(os.path.realpath, sys.argv[1:5])
    unittest.main(argv=sys.argv[:1])
