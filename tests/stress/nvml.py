#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What NVML counts, asked as fast as it answers.

usage: nvml.py LIBRARY sample       until standard input ends, then one JSON object: samples, the
                                    largest sum over all processes of device 0, seconds
       nvml.py LIBRARY gone PID     waits until NVML no longer counts the process, prints the
                                    monotonic time
"""
import contextlib
import ctypes
import json
import select
import sys
import threading
import time

MOST = 4096
INSUFFICIENT_SIZE = 7
UNKNOWN = (1 << 64) - 1


class Process(ctypes.Structure):
    """nvmlProcessInfo_t, of the second version and on."""
    _fields_ = [("pid", ctypes.c_uint), ("memory", ctypes.c_ulonglong),
                ("gpu_instance", ctypes.c_uint), ("compute_instance", ctypes.c_uint)]


class Nvml:
    def __init__(self, library):
        self.lib = ctypes.CDLL(library)
        self.must(self.lib.nvmlInit_v2(), "nvmlInit")
        self.device = ctypes.c_void_p()
        self.must(self.lib.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)), "device")
        self.room = (Process * MOST)()

    @staticmethod
    def must(result, what):
        if result:
            sys.exit(f"{what}: NVML error {result}")

    def processes(self):
        """{pid: bytes} of device 0."""
        count = ctypes.c_uint(MOST)
        self.must(self.lib.nvmlDeviceGetComputeRunningProcesses_v3(
            self.device, ctypes.byref(count), self.room), "processes")
        return {p.pid: p.memory for p in self.room[:count.value] if p.memory != UNKNOWN}


class Card:
    """The SMs' clock, the power drawn and what holds the clock back, while something runs."""
    HELD = {0x4: "power", 0x8: "hardware", 0x20: "heat", 0x40: "heat, hardware", 0x80: "brake"}

    def __init__(self, library):
        self.nvml = Nvml(library)

    def asked(self, name, *words, kind=ctypes.c_uint):
        value = kind()
        result = getattr(self.nvml.lib, name)(self.nvml.device, *words, ctypes.byref(value))
        return None if result else value.value

    @contextlib.contextmanager
    def watched(self, told):
        """Puts medians of clock_mhz and power_w and the set of held_by into told."""
        clocks, powers, held, end = [], [], set(), threading.Event()

        def watch():
            while not end.wait(0.05):
                clocks.append(self.asked("nvmlDeviceGetClockInfo", 1))
                powers.append(self.asked("nvmlDeviceGetPowerUsage"))
                bits = self.asked("nvmlDeviceGetCurrentClocksEventReasons",
                                  kind=ctypes.c_ulonglong) or 0
                held.update(word for bit, word in self.HELD.items() if bits & bit)

        def middle(values):
            values = sorted(v for v in values if v is not None)
            return values[len(values) // 2] if values else None

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield told
        finally:
            end.set()
            thread.join()
            watts = middle(powers)
            told["clock_mhz"] = middle(clocks)
            told["power_w"] = watts and round(watts / 1000)
            told["held_by"] = sorted(held)


def sample(nvml):
    begun, samples, largest = time.monotonic(), 0, 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        largest = max(largest, sum(nvml.processes().values()))
        samples += 1
    print(json.dumps({"samples": samples, "largest": largest,
                      "seconds": time.monotonic() - begun}))


def gone(nvml, pid):
    while pid in nvml.processes():
        time.sleep(0.0005)
    print(time.monotonic())


if __name__ == "__main__":
    if sys.argv[2] == "sample":
        sample(Nvml(sys.argv[1]))
    else:
        gone(Nvml(sys.argv[1]), int(sys.argv[3]))
