#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""CuPy: cuBLAS, a kernel of its own by NVRTC, its pool and its out-of-memory error."""
import cupy

from quota import MIB, Program


def main():
    p = Program()
    p.check(cupy.cuda.runtime.memGetInfo()[1] == p.quota, "memGetInfo shows the quota")
    p.check(cupy.cuda.runtime.getDeviceProperties(0)["totalGlobalMem"] == p.quota,
            "so do the device's properties")
    twice = cupy.RawKernel(r"""
        extern "C" __global__ void twice(float *x, int n) {
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) x[i] *= 2;
        }""", "twice")

    def works():
        x = cupy.arange(1 << 20, dtype=cupy.float32)
        twice((4096,), (256,), (x, 1 << 20))
        y = cupy.random.rand(512, 512)
        return bool((x[:100] == 2 * cupy.arange(100)).all()) and \
            bool(cupy.allclose(y @ cupy.linalg.inv(y), cupy.eye(512), atol=1e-6))

    p.check(works(), "a kernel of its own, a product and an inverse are right")
    p.hold()
    held = p.until_refused(lambda n: cupy.full(n, 3, dtype=cupy.uint8),
                           cupy.cuda.memory.OutOfMemoryError, ["ut of memory"])
    p.check(int(held[-1][-1]) == 3, "what it holds is what it wrote")
    held.clear()
    cupy.get_default_memory_pool().free_all_blocks()
    p.check(works(), "it goes on")
    cupy.cuda.set_allocator(cupy.cuda.MemoryAsyncPool().malloc)
    held = p.until_refused(lambda n: cupy.full(n, 4, dtype=cupy.uint8),
                           cupy.cuda.memory.OutOfMemoryError, ["ut of memory"])
    held.clear()
    p.check(int(cupy.full(512 * MIB, 7, dtype=cupy.uint8)[-1]) == 7,
            "memory is to be had again, by the driver's own pool")
    p.done()


if __name__ == "__main__":
    main()
