#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_neighbours.py BUILD: tenants beside what else lives on a machine: a desktop, programs that look
at the GPU, namespaces, other ways of naming a GPU, other drivers' libraries."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

# pylint: disable-next=wrong-import-position
from world import GIB, MIB, HERE, Tool, World, eventually

MONITOR = [sys.executable, os.path.join(HERE, "monitor.py")]
PTX = os.path.join(HERE, "..", "kernels", "cleave.ptx")


class Neighbours(unittest.TestCase):
    sim = "h100"

    def setUp(self):
        self.world = World(BUILD, self.sim).__enter__()
        self.addCleanup(self.world.__exit__, None, None, None)
        self.world.start_daemon()

    def tenant(self, *words, program=None):
        return Tool(self.world, self.world.run(*words, program=program or MONITOR))

    def outside(self, faults=None):
        """A program that Cleave knows nothing of."""
        env = dict(self.world.env, LD_LIBRARY_PATH=os.path.join(BUILD, "src", "sim"))
        if faults:
            env["CLEAVE_SIM_FAULTS"] = faults
        process = subprocess.Popen(MONITOR, env=env, text=True, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.world.running.append(process)
        return Tool(self.world, process)

    def device(self):
        return self.world.devices()[0]


class Desktop(Neighbours):
    def test_desktop(self):
        """What draws holds memory too: nothing is granted that it has, and its processes are no
        tenant's."""
        free = self.device()["available"]
        desktop = self.outside("graphics")
        self.assertEqual(desktop("alloc", 4096), 0)
        seen = desktop("look")
        held = seen["graphics"][str(desktop.pid)]
        self.assertGreater(held, 4 * GIB)
        self.assertEqual((seen["compute"], seen["graphics_details"]), ({}, seen["graphics"]))
        self.assertTrue(eventually(lambda: self.device()["used_by_others"] >= held))
        self.assertLessEqual(self.device()["available"], free - held)
        refused = self.world.cleave("run", "--memory", f"{(free - held) // MIB + 64}M", "--",
                                    "true", check=False)
        self.assertEqual(refused[0], 125, refused)
        self.assertIn("were asked", refused[2])
        tenant = self.tenant("--memory", f"{(free - held) // MIB - 64}M")
        seen = tenant("look")
        self.assertEqual((seen["graphics"], seen["graphics_details"]), ({}, {}))
        self.assertEqual(list(seen["compute"]), [str(tenant.pid)])
        tenant.end()
        # with its end the memory is there again
        desktop.end()
        self.assertTrue(eventually(lambda: self.device()["available"] == free))


class Monitors(Neighbours):
    def test_monitors(self):
        """Every way in which NVML tells of processes, inside, agrees with cleave ps outside, and
        tells nothing of others."""
        one = self.tenant("--memory", "4G", "-n", "one")
        two = self.tenant("--memory", "2G", "-n", "two")
        stranger = self.outside()
        self.assertEqual((one("alloc", 1024), two("alloc", 512), stranger("alloc", 64)), (0, 0, 0))
        for tool in (one, two, stranger):
            self.assertEqual(tool("spin", 20, PTX), 0)
        everybody = stranger("look")
        self.assertEqual(set(everybody["compute"]), {str(t.pid) for t in (one, two, stranger)})
        for way in ("utilization", "utilization2", "compute_details"):
            self.assertEqual(set(everybody[way]), set(everybody["compute"]), way)
        for tool, name, quota in ((one, "one", 4), (two, "two", 2)):
            seen, pid = tool("look"), str(tool.pid)
            row, = (t for t in self.world.json("ps")["tenants"] if t["name"] == name)
            device, = row["devices"]
            self.assertEqual(seen["memory"], [device["memory_used"], quota * GIB])
            self.assertEqual(seen["compute"], {pid: device["memory_used"]})
            self.assertEqual(seen["compute_details"], seen["compute"])
            self.assertEqual([p["pid"] for p in row["processes"]], [tool.pid])
            for way in ("utilization", "utilization2"):
                self.assertEqual(list(seen[way]), [pid], way)
            self.assertEqual((seen["graphics"], seen["graphics_details"]), ({}, {}))

    def test_utilization(self):
        """A tenant that works, and one that does not, each about itself."""
        busy = self.tenant("--memory", "1G", "-n", "busy")
        idle = self.tenant("--memory", "1G", "-n", "idle")
        for _ in range(2):
            busy("look")
            idle("look")
            self.assertEqual(busy("spin", 300, PTX), 0)
        # what it had, of a time that is at least as long
        self.assertGreater(busy("look")["utilization"][str(busy.pid)], 5)
        self.assertEqual(idle("look")["utilization"], {str(idle.pid): 0})


class Names(Neighbours):
    sim = "h100x3"

    def test_visible_devices(self):
        """CUDA_VISIBLE_DEVICES set inside, by UUID and by a start of it; a device that is not
        granted cannot be used by any name."""
        uuids = [d["uuid"] for d in self.world.devices()]

        def inside(visible):
            process = self.world.run("-q", "--wait", "--memory", "1=1G,2=2G", program=[
                "env", f"CUDA_VISIBLE_DEVICES={visible}", *MONITOR])
            out, error = process.communicate("count\nalloc 256\n", timeout=60)
            return ([json.loads(line) for line in out.splitlines()][1:]
                    or error.strip().splitlines()[-1])

        self.assertEqual(inside(uuids[2]), [[[uuids[2]], uuids[1:]], 0])
        self.assertEqual(inside(uuids[1][:12]), [[[uuids[1]], uuids[1:]], 0])
        self.assertEqual(inside(f"{uuids[2]},{uuids[1]}"), [[[uuids[2], uuids[1]], uuids[1:]], 0])
        for kind in ("GPU", "MIG"):
            self.assertEqual(inside(f"{kind}-ffffffff-0000-0000-0000-000000000000"),
                             "cuInit: error 100")
        tool = self.world.run("--memory", "1=1G", program=[
            "env", f"CUDA_VISIBLE_DEVICES={uuids[0]}", *MONITOR])
        out, error = tool.communicate("alloc 256\n", timeout=60)
        self.assertIn("context: error 2", error, out)


class Namespaces(Neighbours):
    def setUp(self):
        super().setUp()
        probe = subprocess.run(["unshare", "-Urmp", "--fork", "--mount-proc", "true"],
                               capture_output=True, text=True, check=False)
        if probe.returncode:
            self.skipTest(probe.stderr.strip())

    def test_namespaces(self):
        """A process of the tenant in user, mount, pid, ipc and network namespaces of its own is the
        tenant's still."""
        for number, words in enumerate((["-U"], ["-Ur"], ["-Urm"], ["-Urmp", "--fork", "--mount-proc"],
                      ["-Urmpin", "--fork", "--mount-proc"])):
            with self.subTest(words):
                tool = self.tenant("-q", "--wait", "--memory", "2G", "-n", f"n{number}", program=[
                    "unshare", *words, *MONITOR])
                seen = tool("look")
                self.assertEqual(seen["memory"][1], 2 * GIB)
                self.assertEqual((tool("alloc", 512), tool("alloc", 2048)), (0, 2))
                tenant, = (t for t in self.world.tenants() if t["name"] == f"n{number}")
                self.assertGreater(tenant["devices"][0]["memory_used"], 512 * MIB)
                # as the process itself is called there
                self.assertEqual(list(tool("look")["compute"]), [str(tool.pid)])
                self.assertEqual(tool.end()[0], 0)

    def test_another_tenant_is_not_seen(self):
        other = self.tenant("--memory", "1G")
        tool = self.tenant("--memory", "1G", program=[
            "unshare", "-Urmp", "--fork", "--mount-proc", *MONITOR])
        self.assertEqual(list(tool("look")["compute"]), [str(tool.pid)])
        self.assertEqual(list(other("look")["compute"]), [str(other.pid)])


class Libraries(Neighbours):
    """A forward-compatibility package puts a newer libcuda.so.1 before the driver's: the guard must
    stand before the one that the program would have got."""

    def layout(self):
        """Two libraries of the driver's name, where packages put them."""
        places = {}
        for name in ("usr/lib/driver", "usr/local/cuda-13.0/compat"):
            place = os.path.join(self.world.place, name)
            os.makedirs(place)
            shutil.copy(os.path.join(BUILD, "src", "sim", "libcuda.so.1"),
                        os.path.join(place, "libcuda.so.580.1"))
            os.symlink("libcuda.so.580.1", os.path.join(place, "libcuda.so.1"))
            places[name.rsplit("/", 1)[-1]] = place
        return places

    def loaded(self, words, env):
        """Which of them a program gets, without and with the guard."""
        found = []
        for guard in ({}, {"LD_PRELOAD": os.path.join(BUILD, "src", "guard", "libcuda.so.1")}):
            script = ("import ctypes, os; c = ctypes.CDLL('libcuda.so.1'); c.cuDriverGetVersion("
                      "ctypes.byref(ctypes.c_int())); print(*sorted({l.split()[-1] for l in "
                      "open('/proc/self/maps') if 'libcuda.so' in l}))")
            done = subprocess.run([*words, sys.executable, "-c", script],
                                  env={**self.world.env, **env, **guard}, text=True,
                                  capture_output=True, check=True, timeout=60)
            ours = guard.get("LD_PRELOAD")
            found.append([os.path.realpath(p) for p in done.stdout.split()
                          if os.path.realpath(p) != os.path.realpath(ours or "/")])
        self.assertEqual(found[0], found[1], "the guard stands before another library")
        self.assertEqual(len(found[0]), 1)
        return found[0][0]

    def test_compatibility_package(self):
        places = self.layout()
        driver, compat = (os.path.join(places[n], "libcuda.so.580.1") for n in ("driver", "compat"))
        self.assertEqual(self.loaded([], {"LD_LIBRARY_PATH": places["driver"]}), driver)
        self.assertEqual(self.loaded([], {"LD_LIBRARY_PATH": f"{places['compat']}:"
                                                             f"{places['driver']}"}), compat)
        # the package's own way: a file in /etc/ld.so.conf.d, read before the driver's
        for first, second in (("compat", "driver"), ("driver", "compat")):
            conf = os.path.join(self.world.place, "ld.so.conf")
            cache = os.path.join(self.world.place, "ld.so.cache")
            pathlib.Path(conf).write_text(f"{places[first]}\n{places[second]}\n"
                                          "/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\n",
                                          encoding="utf-8")
            made = subprocess.run(["ldconfig", "-C", cache, "-f", conf, "-X"], capture_output=True,
                                  text=True, check=False)
            if made.returncode:
                self.skipTest(made.stderr.strip())
            words = ["unshare", "-Urm", "sh", "-c", f"mount --bind {cache} /etc/ld.so.cache && "
                     'exec "$@"', "sh"]
            if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
                self.skipTest("no mount namespace can be had here")
            self.assertEqual(self.loaded(words, {}),
                             os.path.join(places[first], "libcuda.so.580.1"))
            # and LD_LIBRARY_PATH goes before both
            self.assertEqual(self.loaded(words, {"LD_LIBRARY_PATH": places[second]}),
                             os.path.join(places[second], "libcuda.so.580.1"))


if __name__ == "__main__":
    BUILD = os.path.abspath(sys.argv.pop(1))
    unittest.main()
