#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a second context of a process says when there is not room for it: at every remainder, from
nothing to more than it takes. Prints the errors by remainder, as JSON; natively the GPU itself is
filled.

usage: contexts.py STEP_MIB [MOST_MIB]
"""
import ctypes
import json
import sys

MIB = 1 << 20


def main():
    step, most = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 560
    cuda = ctypes.CDLL("libcuda.so.1")
    first, second = ctypes.c_void_p(), ctypes.c_void_p()
    free, total, block = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_uint64()

    def must(result, what):
        if result:
            sys.exit(f"{what}: CUDA error {result}")

    must(cuda.cuInit(0), "cuInit")
    must(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(first), 0), "cuDevicePrimaryCtxRetain")
    must(cuda.cuCtxSetCurrent(first), "cuCtxSetCurrent")
    said = {}
    for left in range(0, most, step):
        must(cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), "cuMemGetInfo")
        take = free.value - left * MIB
        while (result := cuda.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t(take))) == 2:
            take -= 2 * MIB
        must(result, "cuMemAlloc")
        must(cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), "cuMemGetInfo")
        result = cuda.cuCtxCreate_v2(ctypes.byref(second), 0, 0)
        said[free.value // MIB] = result
        if result == 0:
            must(cuda.cuCtxDestroy_v2(second), "cuCtxDestroy")
        must(cuda.cuCtxSetCurrent(first), "cuCtxSetCurrent")
        must(cuda.cuMemFree_v2(block), "cuMemFree")
    print(json.dumps(said))


if __name__ == "__main__":
    main()
