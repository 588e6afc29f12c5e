#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Median time of a PyTorch training step and of a launch-bound loop, as a JSON object for each line on
standard input; two of these, one native and one inside a tenant, are run by turns (bench/cost.py)."""
import json
import statistics
import sys
import time

import torch

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 15
torch.manual_seed(1)
model = torch.nn.TransformerEncoder(
    torch.nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.0, batch_first=True), 4).cuda()
optimiser = torch.optim.AdamW(model.parameters())
data = torch.randn(32, 128, 512, device="cuda")


def train():
    optimiser.zero_grad(set_to_none=True)
    loss = model(data).square().mean()
    loss.backward()
    optimiser.step()


small = torch.zeros(64, device="cuda")


def launches():
    for _ in range(2000):
        small.add_(1.0)


def median_ms(work, repeats):
    for _ in range(2):
        work()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


train()
launches()
print("{}", flush=True)
for _ in sys.stdin:
    print(json.dumps({"train_step_ms": median_ms(train, steps),
                      "launch_loop_ms": median_ms(launches, steps)}), flush=True)
