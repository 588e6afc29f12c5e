#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A program of CUDA 12. Where a runtime of CUDA 12 is installed (libcudart.so.12, by its path as the
second argument), that one; besides, or instead, what such a runtime does with the driver: it asks
cuGetProcAddress of both kinds for entries as of CUDA 11.2 and 12.0, by the names of then, and has its
PTX compiled by the driver. The third argument is the file with the kernels."""
import ctypes
import sys

from quota import MIB, STEP, Program

PTX = sys.argv[3]
OUT_OF_MEMORY = 2


def must(result, what):
    if result:
        sys.exit(f"FAILED: {what}: CUDA error {result}")


class Then:
    """The driver as a program built with an older CUDA sees it."""

    def __init__(self, version, second):
        self.version = version
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.second = second

    def entry(self, name):
        found, status = ctypes.c_void_p(), ctypes.c_int()
        if self.second:
            must(self.cuda.cuGetProcAddress_v2(name.encode(), ctypes.byref(found), self.version,
                                               ctypes.c_uint64(0), ctypes.byref(status)), name)
        else:
            must(self.cuda.cuGetProcAddress(name.encode(), ctypes.byref(found), self.version,
                                            ctypes.c_uint64(0)), name)
        if not found.value:
            sys.exit(f"FAILED: no {name} as of {self.version}")
        return ctypes.CFUNCTYPE(ctypes.c_int)(found.value)

    def __call__(self, name, *arguments):
        return self.entry(name)(*arguments)


def as_of(p, version, second):
    c = Then(version, second)
    name = f"{version // 1000}.{version % 1000 // 10}"
    pointer, context, module, function = (ctypes.c_void_p() for _ in range(4))
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    must(c("cuInit", 0), "cuInit")
    # since 11.4 it takes a list of affinities, and its length, before the flags
    parameters = (0, 0) if version < 11040 else (None, 0, 0, 0)
    must(c("cuCtxCreate", ctypes.byref(context), *parameters), "cuCtxCreate")
    must(c("cuMemGetInfo", ctypes.byref(free), ctypes.byref(total)), "cuMemGetInfo")
    p.check(total.value == p.quota, f"as of CUDA {name}: cuMemGetInfo shows the quota")
    with open(PTX, "rb") as file:
        must(c("cuModuleLoadData", ctypes.byref(module), file.read() + b"\0"), "cuModuleLoadData")
    must(c("cuModuleGetFunction", ctypes.byref(function), module, b"cleave_fill_u32"), "function")
    alloc = c.entry("cuMemAlloc")

    def filled(bytes_):
        must(alloc(ctypes.byref(pointer), ctypes.c_size_t(bytes_)), "cuMemAlloc")
        values = [ctypes.c_void_p(pointer.value), ctypes.c_uint32(77), ctypes.c_uint64(bytes_ // 4)]
        slots = (ctypes.c_void_p * 3)(*(ctypes.cast(ctypes.byref(v), ctypes.c_void_p)
                                        for v in values))
        must(c("cuLaunchKernel", function, 256, 1, 1, 256, 1, 1, 0, None, slots, None), "launch")
        last = ctypes.c_uint32()
        must(c("cuMemcpyDtoH", ctypes.byref(last),
               ctypes.c_uint64(pointer.value + bytes_ - 4), ctypes.c_size_t(4)), "copy")
        return last.value == 77

    p.check(filled(STEP), f"as of CUDA {name}: a kernel is right")
    p.hold()
    held = [pointer.value]
    while (result := alloc(ctypes.byref(pointer), ctypes.c_size_t(STEP))) == 0:
        held.append(pointer.value)
        if len(held) * STEP > p.quota:
            sys.exit(f"FAILED: {len(held) * STEP // MIB} MiB were given")
    p.check(result == OUT_OF_MEMORY, f"as of CUDA {name}: error {result} after "
            f"{len(held) * STEP // MIB} MiB")
    for address in held:
        must(c("cuMemFree", ctypes.c_uint64(address)), "cuMemFree")
    p.check(filled(2 * STEP), f"as of CUDA {name}: it goes on")
    must(c("cuCtxDestroy", context), "cuCtxDestroy")


def runtime(p, path):
    rt = ctypes.CDLL(path)
    version = ctypes.c_int()
    must(rt.cudaRuntimeGetVersion(ctypes.byref(version)), "cudaRuntimeGetVersion")
    free, total, pointer = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_void_p()
    must(rt.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)), "cudaMemGetInfo")
    p.check(total.value == p.quota, f"a runtime of version {version.value} sees the quota")
    held = []
    while (result := rt.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(STEP))) == 0:
        must(rt.cudaMemset(pointer, 7, ctypes.c_size_t(STEP)), "cudaMemset")
        held.append(pointer.value)
        if len(held) * STEP > p.quota:
            sys.exit(f"FAILED: {len(held) * STEP // MIB} MiB were given")
    p.check(result == OUT_OF_MEMORY and held, f"it gets error {result} after "
            f"{len(held) * STEP // MIB} MiB")
    p.hold()
    rt.cudaGetLastError()
    last = ctypes.c_uint8()
    must(rt.cudaMemcpy(ctypes.byref(last), ctypes.c_void_p(held[-1] + STEP - 1), ctypes.c_size_t(1),
                       2), "cudaMemcpy")
    p.check(last.value == 7, "what it holds is what it wrote")
    for address in held:
        must(rt.cudaFree(ctypes.c_void_p(address)), "cudaFree")
    must(rt.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(2 * STEP)), "cudaMalloc")
    must(rt.cudaFree(pointer), "cudaFree")
    p.check(True, "it goes on")


def main():
    p = Program()
    as_of(p, 11030, False)
    as_of(p, 12000, True)
    if sys.argv[2]:
        runtime(p, sys.argv[2])
    p.done()


if __name__ == "__main__":
    main()
