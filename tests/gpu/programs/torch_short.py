#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A short program of PyTorch, for traces: trains a little, is refused what no quota of some GiB holds,
and goes on."""
import torch

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(),
                            torch.nn.Flatten(), torch.nn.Linear(16 * 32 * 32, 10)).cuda()
optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
images = torch.randn(32, 3, 32, 32, device="cuda")
labels = torch.randint(0, 10, (32,), device="cuda")


def step():
    optimiser.zero_grad(set_to_none=True)
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimiser.step()
    return loss.item()


first = step()
for _ in range(10):
    last = step()
try:
    torch.empty(torch.cuda.mem_get_info()[1], dtype=torch.uint8, device="cuda")
    print("not refused")
except torch.OutOfMemoryError:
    print("refused")
print("trained" if step() < first else "not trained")
