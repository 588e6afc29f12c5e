# SPDX-License-Identifier: Apache-2.0
"""A small job as people run them by the hundred: an interpreter, some modules, a GPU context."""
import asyncio  # noqa: F401  (imports are what such a job spends its start on)
import ctypes
import sys

cuda = ctypes.CDLL("libcuda.so.1")
context, block = ctypes.c_void_p(), ctypes.c_uint64()
sys.exit(cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) or
         cuda.cuCtxSetCurrent(context) or
         cuda.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t(1 << 20)))
