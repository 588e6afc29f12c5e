#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bf16 matrix products without a pause. Prints "ready", and after a line on standard input, the time
(CLOCK_MONOTONIC) after each batch of ten until another line comes.

usage: torch_rate.py [SIZE]
"""
import select
import sys
import time

import torch

SIZE = int(sys.argv[1]) if len(sys.argv) > 1 else 8192
BATCH = 10

a = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
b = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
c = torch.empty_like(a)
for _ in range(3):
    torch.matmul(a, b, out=c)
torch.cuda.synchronize()
print("ready", torch.cuda.get_device_properties(0).multi_processor_count, flush=True)
sys.stdin.readline()
ends = []
previous = None
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(BATCH):
        torch.matmul(a, b, out=c)
    event = torch.cuda.Event()
    event.record()
    if previous:
        previous.synchronize()
        ends.append(time.monotonic())
    previous = event
torch.cuda.synchronize()
print(2 * SIZE ** 3 * BATCH, *ends, flush=True)
