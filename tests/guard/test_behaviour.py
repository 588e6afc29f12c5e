#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The guard inside ordinary programs (behave.c), on the simulated GPU and with a daemon of our own
(fake_daemon.py): what they see, what is charged, and that nothing else of theirs changes.

usage: test_behaviour.py BEHAVE GUARD_LIBRARY SIMULATOR_DIRECTORY [TEST…]"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake_daemon import FakeDaemon  # noqa: E402

MIB = 1 << 20
BEHAVE, GUARD, SIMULATOR = (os.path.abspath(p) for p in sys.argv[1:4])
NVML_GUARD = os.path.join(os.path.dirname(GUARD), "libnvidia-ml.so.1")


class Bench:
    """One test's own directory, simulated GPUs and daemon."""

    def __init__(self, limits=(1024 * MIB,), model="h100", refuse=0, daemon=True, mounted=False,
                 faults=None):
        self.directory = tempfile.mkdtemp(prefix="cleave-guard-")
        self.plain = {k: v for k, v in os.environ.items()
                      if not k.startswith("CLEAVE") and k not in ("LD_PRELOAD", "CUDA_VISIBLE_DEVICES")}
        self.plain |= {"CLEAVE_SIM": model, "CLEAVE_SIM_DIR": os.path.join(self.directory, "sim"),
                       "LD_LIBRARY_PATH": SIMULATOR, "XDG_RUNTIME_DIR": self.directory}
        self.uuids = [bytes.fromhex(v) for k, v in self.pairs(self.plain, "uuids")]
        if faults:
            self.plain["CLEAVE_SIM_FAULTS"] = faults
        self.inside = self.plain | {"CLEAVE_RUNTIME_DIR": self.directory,
                                    "CLEAVE_TENANT": "1122334455667788"}
        if mounted:
            # as in a container: the guard under the driver's name, the driver's library aside
            place = os.path.join(self.directory, "mounted")
            os.mkdir(place)
            shutil.copy(GUARD, os.path.join(place, "libcuda.so.1"))
            shutil.copy(os.path.join(SIMULATOR, "libcuda.so.1"), os.path.join(place, "aside"))
            self.inside["LD_LIBRARY_PATH"] = place
            self.inside["CLEAVE_LIBCUDA"] = os.path.join(place, "aside")
        else:
            self.inside["LD_PRELOAD"] = GUARD
        self.daemon = None
        if daemon:
            self.daemon = FakeDaemon(self.directory, dict(zip(self.uuids, limits)), refuse)

    def run(self, environment, *arguments, timeout=60):
        return subprocess.run([BEHAVE, *arguments], env=environment, capture_output=True, text=True,
                              timeout=timeout)

    def pairs(self, environment, *arguments):
        done = self.run(environment, *arguments)
        assert done.returncode == 0, f"behave {arguments}: {done.returncode} {done.stderr}"
        assert done.stderr == "", f"written on standard error: {done.stderr}"
        return [line.split(" ", 1) for line in done.stdout.splitlines()]

    def __call__(self, *arguments):
        return dict(self.pairs(self.inside, *arguments))

    def noticed(self, kind, seconds=5):
        """Whether the daemon hears a notice of that kind, now or soon: nobody waits for it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if any(n[0] == kind for n in self.daemon.notices):
                return True
            time.sleep(0.01)
        return False

    def close(self):
        shutil.rmtree(self.directory, ignore_errors=True)


def capacity(mounted=False):
    bench = Bench(limits=(1500 * MIB,), mounted=mounted)
    saw = bench("capacity")
    assert saw["total"] == saw["device_total"] == saw["old_total"] == str(1500 * MIB), saw
    assert 0 < int(saw["free"]) < 1500 * MIB - 100 * MIB, f"the context is not charged: {saw}"
    native = dict(bench.pairs(bench.plain, "capacity"))
    assert saw["without_context"] == native["without_context"] != "0", (saw, native)
    assert saw["bad_device"] == native["bad_device"] != "0", (saw, native)
    return bench


def capacity_mounted_over_the_driver():
    return capacity(mounted=True)


def fills_to_the_limit():
    bench = Bench(limits=(2048 * MIB,))
    saw = bench("fill")
    assert saw["refused"] == "2" and saw["again"] == "0" and saw["restored"] == "1", saw
    assert int(saw["left"]) < 64 * MIB, saw
    assert bench.daemon.slot(1)["peak"][0] <= 2048 * MIB
    assert bench.daemon.slot(1)["refusals"] >= 1
    assert bench.noticed(1), bench.daemon.notices
    return bench


def a_limit_lowered_and_raised():
    bench = Bench(limits=(1024 * MIB,))
    bench.daemon.set_limit(100 * MIB)
    done = bench.run(bench.inside, "hold", "10")
    assert done.returncode == 3 and "CUDA error 2" in done.stderr, done
    bench.daemon.set_limit(4096 * MIB)
    assert bench("hold", "3000")["held"] == "3000"
    return bench


def a_refused_pool_keeps_nothing():
    bench = Bench(limits=(2048 * MIB,))
    if "CUDA error 801" in bench.run(bench.plain, "pool-refused").stderr:
        return bench  # a device without pools
    saw = bench("pool-refused")
    assert saw == {"refused": "2", "unchanged": "1"}, saw
    return bench


def managed_memory_is_charged():
    bench = Bench(limits=(2048 * MIB,))
    saw = bench("managed")
    native = dict(bench.pairs(bench.plain, "managed"))
    assert saw["charged"] == str(256 * MIB) and saw["refused"] == "2", saw
    assert saw["bad_flags"] == native["bad_flags"] != "0", (saw, native)
    for key in ("unchanged", "returned", "twice", "reset"):
        assert saw[key] == "1", (key, saw)
    return bench


def fork_and_exec():
    bench = Bench(limits=(16384 * MIB,))
    saw = bench("fork-before")
    assert saw["child"] == "0" and bench.daemon.hellos == 2, (saw, bench.daemon.hellos)
    native = dict(bench.pairs(bench.plain, "fork-after"))
    saw = bench("fork-after")
    assert saw == native and saw["unchanged"] == "1" and saw["child"] == "3", (saw, native)
    assert bench("exec-child")["child"] == "0"
    assert bench("exec-self")["held"] == "30"
    return bench


def threads_balance():
    bench = Bench(limits=(2048 * MIB,))
    assert bench("threads") == {"balanced": "1"}
    return bench


def closed_and_opened_again():
    bench = Bench()
    assert bench("close") == {"done": "1"}
    return bench


def several_devices():
    bench = Bench(limits=(1024 * MIB, 2048 * MIB), model="h100x3")
    saw = bench("devices")
    assert saw["count"] == "3"
    assert saw["total0"] == saw["info0"] == str(1024 * MIB), saw
    assert saw["total1"] == saw["info1"] == str(2048 * MIB), saw
    # the third is not granted: it has no memory for this tenant, and says so to the daemon
    assert saw["total2"] == "0" and saw["context2"] == "refused", saw
    assert bench.noticed(4), bench.daemon.notices
    held = bench.daemon.slot(1)["held"]
    assert held[1] - held[0] == 64 * MIB, held
    bench.inside["CUDA_VISIBLE_DEVICES"] = "1,0"
    saw = bench("devices")
    assert saw["total0"] == str(2048 * MIB) and saw["total1"] == str(1024 * MIB), saw
    return bench


def manners():
    bench = Bench()
    saw, native = bench("manners"), dict(bench.pairs(bench.plain, "manners"))
    assert saw == native, (saw, native)
    assert saw["errno"] == "4243" and saw["signals"] == "0", saw
    return bench


def look_ups():
    bench = Bench()
    saw, native = bench("look-up"), dict(bench.pairs(bench.plain, "look-up"))
    assert saw.keys() == native.keys()
    for key, value in saw.items():
        result, status, owner = value.split(",")
        native_result, native_status, native_owner = native[key].split(",")
        assert (result, status) == (native_result, native_status), (key, value, native[key])
        # the guard's own entry, whether it answers or only passes on: what dlsym gives too
        want = "none" if native_owner == "none" else "guard"
        assert owner == want, (key, value, native[key])
    assert bench.daemon.slot(1)["unknown"] == 0
    return bench


def groups_are_reported():
    bench = Bench(limits=(2048 * MIB,))
    process = subprocess.Popen([BEHAVE, "threads"], env=bench.inside, stdout=subprocess.PIPE)
    groups = []
    deadline = time.monotonic() + 20
    while not groups and time.monotonic() < deadline and process.poll() is None:
        groups = [g for g in bench.daemon.groups(1) if len(g["channels"]) == 8]
    process.communicate()
    assert groups and groups[0]["engine"] == 1 and groups[0]["device"] == 0, groups
    assert groups[0]["subdevice"] != 0 and groups[0]["client"] != 0, groups
    return bench


def nvml_tells_the_tenants_own():
    # the second device alone is granted; another program holds memory on it
    bench = Bench(model="h100x3", daemon=False)
    bench.daemon = FakeDaemon(bench.directory, {bench.uuids[1]: 2048 * MIB})
    bench.inside["LD_PRELOAD"] = f"{GUARD}:{NVML_GUARD}"
    bench.inside["CUDA_VISIBLE_DEVICES"] = "1"
    bench.plain["CUDA_VISIBLE_DEVICES"] = "1"
    other = subprocess.Popen([BEHAVE, "hold-open"], env=bench.plain, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    native, saw = dict(bench.pairs(bench.plain, "nvml", "1")), bench("nvml", "0")
    other.communicate("")
    assert native["count"] == "3" and saw["count"] == "1", (native, saw)
    assert saw["index0"] == "0" and saw["same0"] == "1" and saw["v2_0"] == "1", saw
    assert saw["total0"] == str(2048 * MIB), saw
    assert saw["used0"] == saw["own"] == native["own"], (native, saw)
    assert int(saw["free0"]) == 2048 * MIB - int(saw["used0"]), saw
    assert native["processes"] == "2" and saw["processes"] == "1", (native, saw)
    assert saw["processes_result"] == "0" and saw["no_room"] == "7" and saw["wanted"] == "1", saw
    assert saw["beyond"] == native["beyond"], (native, saw)
    return bench


def refused_by_the_daemon():
    for reason, error in ((2, "800"), (1, "802"), (3, "802")):
        bench = Bench(refuse=reason)
        saw = bench("init")
        assert saw == {"init": error}, (reason, saw)
        if reason != 3:
            bench.close()
    return bench


def no_daemon():
    bench = Bench(daemon=False)
    del bench.inside["CLEAVE_TENANT"]
    start = time.monotonic()
    assert bench("init") == {"init": "802"}
    assert time.monotonic() - start < 3, "waits for a daemon although it is in no tenant"
    return bench


def no_driver():
    bench = Bench()
    bench.inside["LD_LIBRARY_PATH"] = bench.directory
    done = bench.run(bench.inside, "init")
    # a machine with a driver of its own finds that one
    if done.stdout == "init 0\n":
        return bench
    assert done.stdout == "init 100\n" and done.stderr == "", done
    return bench


def debug_goes_where_it_is_told():
    bench = Bench()
    log = os.path.join(bench.directory, "log")
    bench.inside["CLEAVE_DEBUG"] = log
    bench("capacity")
    text = open(log).read()
    assert "libcuda.so.1" in text and "tenant 1122334455667788" in text, text
    return bench


def main():
    names = sys.argv[4:]
    tests = [f for n, f in list(globals().items())
             if callable(f) and getattr(f, "__module__", "") == "__main__"
             and n not in ("Bench", "main", "capacity")] + [capacity]
    failed = 0
    for test in tests:
        if names and test.__name__ not in names:
            continue
        try:
            test().close()
            print(f"ok {test.__name__}", flush=True)
        except Exception as error:  # noqa: BLE001: a failure of any kind fails the test by its name
            failed += 1
            print(f"FAILED {test.__name__}: {type(error).__name__}: {error}", flush=True)
    sys.exit(1 if failed else 0)


main()
