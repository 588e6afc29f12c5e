#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A CUDA program that also looks at itself through NVML, as nvidia-smi, nvtop and nvitop do. It reads
what to do, a line each, and answers each with a line of JSON.

look            what NVML says of device 0: memory [used, total], and the processes and their
                utilization by each of its ways, {pid: number} each
count           UUIDs of the devices that CUDA has, and that NVML has
mig             the MIG devices that NVML has of device 0, {uuid: {memory [used, total], processes {pid:
                [bytes, GPU instance, compute instance]}}}; and of what CUDA has as device 0 its
                name, memory [free, total] and SMs
spin MS PTX     a kernel that keeps the engine for so long, and waits for it; the CUDA result
alloc MIB       CUDA result; the block is kept
maps            the files named libcuda.so.1 that are loaded
Prints its pid first."""
import ctypes
import json
import os
import sys

UNKNOWN = (1 << 64) - 1


class Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong),
                ("used", ctypes.c_ulonglong)]


class Process(ctypes.Structure):
    _fields_ = [("pid", ctypes.c_uint), ("memory", ctypes.c_ulonglong),
                ("gpu_instance", ctypes.c_uint), ("compute_instance", ctypes.c_uint)]


class Detail(ctypes.Structure):
    _fields_ = [("pid", ctypes.c_uint), ("memory", ctypes.c_ulonglong),
                ("gpu_instance", ctypes.c_uint), ("compute_instance", ctypes.c_uint),
                ("protected", ctypes.c_ulonglong)]


class Details(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint), ("mode", ctypes.c_uint), ("count", ctypes.c_uint),
                ("list", ctypes.POINTER(Detail))]


class Sample(ctypes.Structure):
    _fields_ = [("pid", ctypes.c_uint), ("time", ctypes.c_ulonglong), ("sm", ctypes.c_uint),
                ("memory", ctypes.c_uint), ("encoder", ctypes.c_uint), ("decoder", ctypes.c_uint)]


class Sample2(ctypes.Structure):
    _fields_ = [("time", ctypes.c_ulonglong), ("pid", ctypes.c_uint), ("sm", ctypes.c_uint),
                ("memory", ctypes.c_uint), ("encoder", ctypes.c_uint), ("decoder", ctypes.c_uint),
                ("jpeg", ctypes.c_uint), ("ofa", ctypes.c_uint)]


class Samples2(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint), ("count", ctypes.c_uint), ("since", ctypes.c_ulonglong),
                ("list", ctypes.POINTER(Sample2))]


class Monitor:
    def __init__(self):
        self.nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self.must(self.nvml.nvmlInit_v2(), "nvmlInit")
        self.device = ctypes.c_void_p()
        self.must(self.nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)), "device")

    @staticmethod
    def must(result, what):
        if result:
            sys.exit(f"{what}: error {result}")

    def processes(self, kind):
        room, count = (Process * 256)(), ctypes.c_uint(256)
        function = getattr(self.nvml, f"nvmlDeviceGet{kind}RunningProcesses_v3")
        self.must(function(self.device, ctypes.byref(count), room), kind)
        return {p.pid: p.memory for p in room[:count.value]}

    def details(self, mode):
        room = (Detail * 256)()
        details = Details(ctypes.sizeof(Details) | 1 << 24, mode, 256, room)
        self.must(self.nvml.nvmlDeviceGetRunningProcessDetailList(
            self.device, ctypes.byref(details)), "details")
        return {p.pid: p.memory for p in room[:details.count]}

    def utilization(self):
        room, count = (Sample * 256)(), ctypes.c_uint(256)
        result = self.nvml.nvmlDeviceGetProcessUtilization(
            self.device, room, ctypes.byref(count), ctypes.c_ulonglong(0))
        if result == 6:  # there are no samples
            return {}
        self.must(result, "utilization")
        return {s.pid: s.sm for s in room[:count.value]}

    def utilization2(self):
        room = (Sample2 * 256)()
        samples = Samples2(ctypes.sizeof(Samples2) | 1 << 24, 256, 0, room)
        result = self.nvml.nvmlDeviceGetProcessesUtilizationInfo(
            self.device, ctypes.byref(samples))
        if result == 6:
            return {}
        self.must(result, "utilization info")
        return {s.pid: s.sm for s in room[:samples.count]}

    def look(self):
        memory = Memory()
        self.must(self.nvml.nvmlDeviceGetMemoryInfo(self.device, ctypes.byref(memory)), "memory")
        return {"memory": [memory.used, memory.total], "compute": self.processes("Compute"),
                "graphics": self.processes("Graphics"), "compute_details": self.details(0),
                "graphics_details": self.details(1), "utilization": self.utilization(),
                "utilization2": self.utilization2()}

    def mig(self):
        found = {}
        for i in range(8):
            device, text, memory = ctypes.c_void_p(), ctypes.create_string_buffer(96), Memory()
            if self.nvml.nvmlDeviceGetMigDeviceHandleByIndex(self.device, i, ctypes.byref(device)):
                continue
            self.must(self.nvml.nvmlDeviceGetUUID(device, text, 96), "uuid")
            self.must(self.nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)), "memory")
            room, count = (Process * 256)(), ctypes.c_uint(256)
            self.must(self.nvml.nvmlDeviceGetComputeRunningProcesses_v3(
                device, ctypes.byref(count), room), "processes")
            found[text.value.decode()] = {
                "memory": [memory.used, memory.total],
                "processes": {p.pid: [p.memory, p.gpu_instance, p.compute_instance]
                              for p in room[:count.value]}}
        return found

    def uuids(self):
        count, found = ctypes.c_uint(), []
        self.must(self.nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)), "count")
        for i in range(count.value):
            device, text = ctypes.c_void_p(), ctypes.create_string_buffer(96)
            self.must(self.nvml.nvmlDeviceGetHandleByIndex_v2(i, ctypes.byref(device)), "handle")
            self.must(self.nvml.nvmlDeviceGetUUID(device, text, 96), "uuid")
            found.append(text.value.decode())
        return found


class Cuda:
    def __init__(self):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.spin_kernel = None
        Monitor.must(self.cuda.cuInit(0), "cuInit")
        context = ctypes.c_void_p()
        if self.uuids():
            Monitor.must(self.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), "context")
            Monitor.must(self.cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")

    def uuids(self):
        count, found = ctypes.c_int(), []
        Monitor.must(self.cuda.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
        for i in range(count.value):
            raw = (ctypes.c_ubyte * 16)()
            Monitor.must(self.cuda.cuDeviceGetUuid_v2(raw, i), "cuDeviceGetUuid")
            digits = bytes(raw).hex()
            found.append("GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20],
                                            digits[20:])))
        return found

    def facts(self):
        name, sms = ctypes.create_string_buffer(128), ctypes.c_int()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        Monitor.must(self.cuda.cuDeviceGetName(name, 128, 0), "name")
        Monitor.must(self.cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), "memory")
        Monitor.must(self.cuda.cuDeviceGetAttribute(ctypes.byref(sms), 16, 0), "attribute")
        return {"name": name.value.decode(), "memory": [free.value, total.value], "sms": sms.value}

    def spin(self, ms, ptx):
        if not self.spin_kernel:
            module, self.spin_kernel = ctypes.c_void_p(), ctypes.c_void_p()
            with open(ptx, "rb") as file:
                Monitor.must(self.cuda.cuModuleLoadData(ctypes.byref(module), file.read()), "load")
            Monitor.must(self.cuda.cuModuleGetFunction(ctypes.byref(self.spin_kernel), module,
                                                       b"cleave_spin"), "function")
        nanoseconds = ctypes.c_ulonglong(ms * 1000000)
        values = (ctypes.c_void_p * 1)(ctypes.addressof(nanoseconds))
        return self.cuda.cuLaunchKernel(self.spin_kernel, 1, 1, 1, 1, 1, 1, 0, None, values,
                                        None) or self.cuda.cuCtxSynchronize()

    def alloc(self, mib):
        block = ctypes.c_uint64()
        return self.cuda.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t(mib << 20))


def main():
    def answer(value):
        print(json.dumps(value), flush=True)

    cuda, monitor = Cuda(), Monitor()
    answer(os.getpid())
    for line in sys.stdin:
        word, *values = line.split()
        if word == "look":
            answer(monitor.look())
        elif word == "count":
            answer([cuda.uuids(), monitor.uuids()])
        elif word == "mig":
            answer([monitor.mig(), cuda.facts()])
        elif word == "spin":
            answer(cuda.spin(int(values[0]), values[1]))
        elif word == "alloc":
            answer(cuda.alloc(int(values[0])))
        elif word == "maps":
            with open("/proc/self/maps", encoding="utf-8") as maps:
                answer(sorted({line.split(None, 5)[5].strip() for line in maps
                               if "libcuda.so" in line}))


if __name__ == "__main__":
    main()
