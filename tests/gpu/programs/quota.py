# SPDX-License-Identifier: Apache-2.0
"""What the programs of tests/gpu/frameworks share. Each gets the quota in MiB as its first argument
(0: it runs without one, and the GPU is its quota) and knows nothing else of Cleave."""
import ctypes
import os
import sys

MIB = 1 << 20
STEP = 256 * MIB


class Program:
    def __init__(self):
        self.checks = 0
        self.quota = int(sys.argv[1]) * MIB if len(sys.argv) > 1 else 0
        self.given = self.quota > 0
        total = self.driver_total("libcuda.so.1")
        self.quota = self.quota or total
        self.check(total == self.quota, f"the driver's library tells {total // MIB} MiB")
        try:
            self.check(self.driver_total("libcuda.so") == self.quota,
                       "so does the name without a version")
        except OSError:
            print("  there is no libcuda.so here")

    @staticmethod
    def driver_total(name):
        cuda, total = ctypes.CDLL(name), ctypes.c_size_t()
        if cuda.cuInit(0) or cuda.cuDeviceTotalMem_v2(ctypes.byref(total), 0):
            sys.exit(f"FAILED: {name} cannot be used")
        return total.value

    def check(self, condition, what):
        if not condition:
            sys.exit(f"FAILED: {what}")
        self.checks += 1
        print(f"  ok: {what}", flush=True)

    def hold(self):
        """While work has been done and memory is held: the ledger is compared with NVML now."""
        print(f"holding {os.getpid()}", flush=True)
        sys.stdin.readline()

    def until_refused(self, take, refusal, words):
        """Takes STEP bytes again and again until refusal, an exception with one of words in it, is
        raised; gives back what was taken."""
        held = []
        try:
            while True:
                held.append(take(STEP))
                if len(held) * STEP > self.quota:
                    sys.exit(f"FAILED: {len(held) * STEP // MIB} MiB were given")
        except refusal as error:
            told = str(error)
            self.check(any(word in told for word in words),
                       f"beyond the quota, after {len(held) * STEP // MIB} MiB: "
                       f"{type(error).__name__}: {told.splitlines()[0][:100]}")
        return held

    def done(self):
        print(f"passed {self.checks} checks", flush=True)
