#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A kernel in Triton, whose launcher is compiled and linked with the driver's library."""
import torch
import triton
import triton.language as tl

from quota import MIB, Program


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(out + offsets, tl.load(x + offsets, mask=mask) + tl.load(y + offsets, mask=mask),
             mask=mask)


def add(x, y):
    out = torch.empty_like(x)
    add_kernel[(triton.cdiv(x.numel(), 1024),)](x, y, out, x.numel(), BLOCK=1024)
    return out


def main():
    p = Program()

    def works():
        x, y = (torch.randn(1_000_003, device="cuda") for _ in range(2))
        return bool(torch.equal(add(x, y), x + y))

    p.check(works(), "a kernel is right")
    p.check(torch.cuda.mem_get_info()[1] == p.quota, "it sees the quota")
    p.hold()

    def take(n):
        zeros = torch.zeros(n // 4, device="cuda")
        return add(zeros, zeros)

    held = p.until_refused(take, torch.OutOfMemoryError, ["out of memory"])
    held.clear()
    torch.cuda.empty_cache()
    p.check(works(), "it goes on")
    p.check(int(torch.full((512 * MIB,), 7, dtype=torch.uint8, device="cuda")[-1]) == 7,
            "memory is to be had again")
    p.done()


if __name__ == "__main__":
    main()
