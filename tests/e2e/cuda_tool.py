#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A CUDA program that reads what to do, a line each, and answers each with a line of JSON.

info            [free, total] of the current device
device N        makes device N current
count           number of devices
total N         cuDeviceTotalMem of device N
alloc MIB       CUDA result; on success the block is kept
free            gives the last block back
work US         from now on keeps kernels of that length queued on the current device
loop US         the same, but waits for each before the next
pace US PAUSE   the same, and pauses for so many microseconds after each
queue US        the same, but on one stream, and waits after each 50 ms of work
contexts N US   N times a context of its own with one such kernel, made and ended
hold N          makes N contexts that stay
rest            no longer
launched        how many kernels were launched so far by these
quit STATUS     ends
Prints its pid first. Knows nothing of Cleave. The driver's library is looked for by the name in
CUDA_LIBRARY, if that is set.
"""
import ctypes
import json
import os
import sys
import threading
import time

PTX = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "kernels", "cleave.ptx")


def main():
    cuda = ctypes.CDLL(os.environ.get("CUDA_LIBRARY", "libcuda.so.1"))
    blocks = []
    contexts = {}

    def answer(value):
        print(json.dumps(value), flush=True)

    def must(result, what):
        if result:
            sys.exit(f"{what}: CUDA error {result}")

    def use(device):
        if device not in contexts:
            context = ctypes.c_void_p()
            result = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
            if result:
                return result
            contexts[device] = context
        return cuda.cuCtxSetCurrent(contexts[device])

    def keep_busy(context, nanoseconds, depth, two, pause, resting):
        module, spin = ctypes.c_void_p(), ctypes.c_void_p()
        length = ctypes.c_uint64(nanoseconds)
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(length))
        must(cuda.cuCtxSetCurrent(context), "work")
        with open(PTX, "rb") as source:
            must(cuda.cuModuleLoadData(ctypes.byref(module), source.read() + b"\0"), "work")
        must(cuda.cuModuleGetFunction(ctypes.byref(spin), module, b"cleave_spin"), "work")
        streams = [ctypes.c_void_p() for _ in range(2)]
        for stream in streams:
            must(cuda.cuStreamCreate(ctypes.byref(stream), 1), "work")
        turn, count = 0, [0]
        launched.append(count)
        while not resting.is_set():
            stream = streams[turn % 2 if two else 0]
            for _ in range(depth):
                must(cuda.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, parameters, None),
                     "work")
                count[0] += 1
            # while one is waited for, there is work in the other
            turn += 1
            must(cuda.cuStreamSynchronize(streams[turn % 2 if two else 0]), "work")
            if pause:
                time.sleep(pause / 1e6)
        must(cuda.cuCtxSynchronize(), "work")

    def keep_meeting(nanoseconds, resting):
        """A kernel on each device, then waits for all: as a program whose devices work together."""
        length = ctypes.c_uint64(nanoseconds)
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(length))
        kernels, count = {}, [0]
        with open(PTX, "rb") as source:
            image = source.read() + b"\0"
        for device in (0, 1):
            module, kernels[device] = ctypes.c_void_p(), ctypes.c_void_p()
            must(use(device), "meet")
            must(cuda.cuModuleLoadData(ctypes.byref(module), image), "meet")
            must(cuda.cuModuleGetFunction(ctypes.byref(kernels[device]), module, b"cleave_spin"),
                 "meet")
        launched.append(count)
        while not resting.is_set():
            for device in (0, 1):
                must(cuda.cuCtxSetCurrent(contexts[device]), "meet")
                must(cuda.cuLaunchKernel(kernels[device], 1, 1, 1, 1, 1, 1, 0, None, parameters,
                                         None), "meet")
            for device in (0, 1):
                must(cuda.cuCtxSetCurrent(contexts[device]), "meet")
                must(cuda.cuCtxSynchronize(), "meet")
            count[0] += 1

    def come_and_go(times, nanoseconds):
        length = ctypes.c_uint64(nanoseconds)
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(length))
        with open(PTX, "rb") as source:
            image = source.read() + b"\0"
        for _ in range(times):
            context, module, spin = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
            must(cuda.cuCtxCreate_v2(ctypes.byref(context), 0, current), "contexts")
            must(cuda.cuModuleLoadData(ctypes.byref(module), image), "contexts")
            must(cuda.cuModuleGetFunction(ctypes.byref(spin), module, b"cleave_spin"), "contexts")
            must(cuda.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, None, parameters, None), "contexts")
            must(cuda.cuCtxSynchronize(), "contexts")
            must(cuda.cuCtxDestroy_v2(context), "contexts")

    def stop():
        resting.set()
        for worker in workers:
            worker.join()
        workers.clear()
        resting.clear()

    workers, resting, current, launched = [], threading.Event(), 0, []
    answer(os.getpid())
    must(cuda.cuInit(0), "cuInit")
    first = use(0)
    for line in sys.stdin:
        word, *values = line.split()
        number = int(values[0]) if values else 0
        if word == "info":
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            must(first or cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), word)
            answer([free.value, total.value])
        elif word == "device":
            first, current = use(number), number
            answer(first)
        elif word in ("work", "loop", "pace", "queue"):
            must(first, word)
            workers.append(threading.Thread(target=keep_busy, daemon=True, args=(
                contexts[current], number * 1000,
                1 if word in ("loop", "pace") else max(1, 50000 // number), word == "work",
                int(values[1]) if word == "pace" else 0, resting)))
            workers[-1].start()
            answer(0)
        elif word == "meet":
            must(first, word)
            workers.append(threading.Thread(target=keep_meeting, daemon=True,
                                            args=(number * 1000, resting)))
            workers[-1].start()
            answer(0)
        elif word == "contexts":
            must(first, word)
            come_and_go(number, int(values[1]) * 1000)
            answer(0)
        elif word == "hold":
            for _ in range(number):
                must(cuda.cuCtxCreate_v2(ctypes.byref(ctypes.c_void_p()), 0, current), word)
            answer(0)
        elif word == "rest":
            stop()
            answer(0)
        elif word == "launched":
            answer(sum(count[0] for count in launched))
        elif word == "count":
            count = ctypes.c_int()
            must(cuda.cuDeviceGetCount(ctypes.byref(count)), word)
            answer(count.value)
        elif word == "total":
            total = ctypes.c_size_t()
            must(cuda.cuDeviceTotalMem_v2(ctypes.byref(total), number), word)
            answer(total.value)
        elif word == "alloc":
            block = ctypes.c_uint64()
            result = first or cuda.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t(number << 20))
            if not result:
                blocks.append(block)
            answer(result)
        elif word == "free":
            answer(cuda.cuMemFree_v2(blocks.pop()))
        elif word == "quit":
            sys.exit(number)


if __name__ == "__main__":
    main()
