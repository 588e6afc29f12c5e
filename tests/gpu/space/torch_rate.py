#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bf16 matrix products without a pause. Prints "ready SMS"; then reads lines:

  rate KIND   multiplies until the next line, then says how many operations a batch has, and when
              each batch ended (CLOCK_MONOTONIC)
  kernel KIND the name of the kernel that multiplies

usage: torch_rate.py KIND…
A KIND is MxNxK, multiplied by what PyTorch takes for it (cuBLAS), or MxNxK:triton, by one kernel of
tiles of 128 x 256 whatever the device, without clusters; 128, 256 and 64 divide M, N and K then.
"""
import select
import sys
import time

import torch

from torch_sms import multiprocessors

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BATCH_OPERATIONS = 1e13  # some 15 ms of an H100


if triton:
    @triton.jit
    def product(a, b, c, M, N, K, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
                GROUP: tl.constexpr):
        # neighbouring blocks share rows and columns, which then are in the cache
        block = tl.program_id(0)
        rows, columns = M // ROWS, N // COLUMNS
        first = block // (GROUP * columns) * GROUP
        size = tl.minimum(rows - first, GROUP)
        row = first + (block % (GROUP * columns)) % size
        column = (block % (GROUP * columns)) // size
        i = row * ROWS + tl.arange(0, ROWS)
        j = column * COLUMNS + tl.arange(0, COLUMNS)
        k = tl.arange(0, DEPTH)
        at_a = a + i[:, None] * K + k[None, :]
        at_b = b + k[:, None] * N + j[None, :]
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for _ in range(0, K, DEPTH):
            total = tl.dot(tl.load(at_a), tl.load(at_b), total)
            at_a += DEPTH
            at_b += DEPTH * N
        tl.store(c + i[:, None] * N + j[None, :], total.to(tl.bfloat16))


def by_cublas(a, b, c):
    torch.matmul(a, b, out=c)


def by_triton(a, b, c):
    (m, k), n = a.shape, b.shape[1]
    product[(m // 128 * (n // 256),)](a, b, c, m, n, k, ROWS=128, COLUMNS=256, DEPTH=64, GROUP=8,
                                      num_warps=8, num_stages=3)


class Product:
    def __init__(self, kind):
        shape, _, by = kind.partition(":")
        m, n, k = map(int, shape.split("x"))
        self.a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
        self.b = torch.randn(k, n, device="cuda", dtype=torch.bfloat16)
        self.c = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
        self.operations = 2 * m * n * k
        self.batch = max(1, round(BATCH_OPERATIONS / self.operations))
        self.multiply = by_triton if by else by_cublas
        for _ in range(3):
            self.once()
        # a wrong product has no rate
        wanted = self.a[:64].float() @ self.b[:, :64].float()
        torch.testing.assert_close(self.c[:64, :64].float(), wanted, rtol=2e-2, atol=1.0)

    def once(self):
        self.multiply(self.a, self.b, self.c)

    def rate(self):
        ends, previous = [], None
        while not select.select([sys.stdin], [], [], 0)[0]:
            for _ in range(self.batch):
                self.once()
            event = torch.cuda.Event()
            event.record()
            if previous:
                previous.synchronize()
                ends.append(time.monotonic())
            previous = event
        torch.cuda.synchronize()
        sys.stdin.readline()
        return " ".join(map(str, [self.operations * self.batch, *ends]))

    def kernel(self):
        from torch.profiler import ProfilerActivity, profile
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            self.once()
            torch.cuda.synchronize()
        names = {event.key for event in seen.key_averages() if not event.key.startswith("cuda")}
        return " ".join(sorted(names)) or "unknown"


def main():
    products, missing = {}, {}
    for kind in sys.argv[1:]:
        if ":" not in kind:
            products[kind] = Product(kind)
            continue
        # cuBLAS there is wherever PyTorch is; a kernel that Triton cannot make here is told
        try:
            if not triton:
                raise ImportError("there is no Triton")
            products[kind] = Product(kind)
        except Exception as problem:  # pylint: disable=broad-except
            missing[kind] = " ".join(str(problem).split())[:300]
    torch.cuda.synchronize()
    print("ready", multiprocessors(), flush=True)
    while line := sys.stdin.readline().split():
        if len(line) < 2:
            continue  # what would have ended one that is not to be had
        product = products.get(line[1])
        print(getattr(product, line[0])() if product else
              f"error {line[1]} is not to be had: {missing.get(line[1], 'unknown')}", flush=True)


main()
