#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Numba, which tries the name libcuda.so first in some versions."""
import numpy

if not hasattr(numpy, "row_stack"):  # numpy 2.5 dropped it, and some versions of Numba still ask
    numpy.row_stack = numpy.vstack
from numba import cuda

from quota import MIB, Program


@cuda.jit
def saxpy(a, x, y):
    i = cuda.grid(1)
    if i < y.size:
        y[i] = a * x[i] + y[i]


def main():
    p = Program()
    free, total = cuda.current_context().get_memory_info()
    p.check(total == p.quota and free < total, f"it sees {total // MIB} MiB, {free // MIB} free")

    def works():
        x = numpy.arange(1 << 20, dtype=numpy.float32)
        y = cuda.to_device(numpy.ones_like(x))
        saxpy[4096, 256](numpy.float32(2), cuda.to_device(x), y)
        return bool((y.copy_to_host() == 2 * x + 1).all())

    p.check(works(), "a kernel is right")
    p.hold()
    held = p.until_refused(lambda n: cuda.device_array(n, numpy.uint8), Exception,
                           ["OUT_OF_MEMORY", "ut of memory"])
    held.clear()
    p.check(works(), "it goes on")
    block = cuda.to_device(numpy.full(512 * MIB, 7, numpy.uint8))
    p.check(int(block[-1:].copy_to_host()[0]) == 7, "memory is to be had again")
    p.done()


if __name__ == "__main__":
    main()
