# SPDX-License-Identifier: Apache-2.0
"""On how many multiprocessors a PyTorch program's kernels run, as the kernels themselves see it; in the
first thread and in another one. Each thread of the CUDA runtime comes into its context by itself."""
import threading

import torch

try:
    import triton
    from triton import language as tl
except ImportError:
    triton = None

BLOCKS, LAUNCHES = 4096, 20

if triton:
    @triton.jit
    def where(out):
        i = tl.program_id(0) * 128 + tl.arange(0, 128)
        number = tl.inline_asm_elementwise("mov.u32 $0, %smid;", "=r,r", [i], dtype=tl.int32,
                                           is_pure=False, pack=1)
        tl.store(out + i, number)


def seen():
    out = torch.empty(BLOCKS * 128, dtype=torch.int32, device="cuda")
    numbers = set()
    for _ in range(LAUNCHES):
        where[(BLOCKS,)](out)
        numbers |= set(out.unique().tolist())
    return len(numbers)


def multiprocessors():
    """What the device is said to have, unless Triton is missing made sure of by kernels."""
    said = torch.cuda.get_device_properties(0).multi_processor_count
    if not triton:
        return said
    found = [seen()]
    thread = threading.Thread(target=lambda: found.append(seen()))
    thread.start()
    thread.join()
    if found != [said, said]:
        raise SystemExit(f"{said} multiprocessors are shown, kernels run on {found} of them")
    return said
