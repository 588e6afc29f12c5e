#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stock PyTorch inside a tenant: sees the quota as the device's memory, trains, replays CUDA graphs,
compiles, gets its own out-of-memory error beyond the quota and goes on. The quota in MiB is the first
argument. Allocator variants come by PYTORCH_CUDA_ALLOC_CONF; "compile" as second argument adds
torch.compile."""
import sys

import torch

MIB = 1 << 20
quota = int(sys.argv[1]) * MIB
checks = 0


def check(condition, what):
    global checks
    if not condition:
        sys.exit(f"FAILED: {what}")
    checks += 1
    print(f"  ok: {what}")


free, total = torch.cuda.mem_get_info()
check(total == quota, f"mem_get_info total is {total // MIB} MiB")
check(torch.cuda.get_device_properties(0).total_memory == quota, "device properties show the quota")
check(free < quota - 400 * MIB, f"the context is charged: {free // MIB} MiB free")

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.BatchNorm2d(64), torch.nn.ReLU(),
    torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(), torch.nn.Linear(64, 10)).cuda()
optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
images = torch.randn(64, 3, 64, 64, device="cuda")
labels = torch.randint(0, 10, (64,), device="cuda")


def step():
    optimiser.zero_grad(set_to_none=True)
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimiser.step()
    return loss


first = step().item()
for _ in range(30):
    loss = step()
check(loss.item() < first, f"training: loss {first:.3f} -> {loss.item():.3f}")

x = torch.randn(1024, 1024, device="cuda", dtype=torch.bfloat16)
y = (x @ x).float()
check(torch.allclose(y, x.float() @ x.float(), rtol=0.05, atol=2.0), "bf16 product right")


def over_and_back(what):
    held = []
    try:
        while True:
            held.append(torch.empty(256 * MIB, dtype=torch.uint8, device="cuda"))
            if len(held) * 256 * MIB > quota:
                sys.exit(f"FAILED: {what}: {len(held) * 256} MiB were given under {quota // MIB} MiB")
    except torch.OutOfMemoryError as error:
        check("out of memory" in str(error).lower(), f"{what}: its own OutOfMemoryError after "
              f"{len(held) * 256} MiB")
    free, total = torch.cuda.mem_get_info()
    check(total == quota and free >= 0, f"{what}: {free // MIB} MiB free at the limit")
    held.clear()
    torch.cuda.empty_cache()
    check(torch.isfinite(step()).item(), f"{what}: goes on after it")
    again = torch.empty(512 * MIB, dtype=torch.uint8, device="cuda")
    again.fill_(7)
    check(int(again[-1]) == 7, f"{what}: memory is to be had again")


over_and_back("beyond the quota")
if "cudaMallocAsync" not in torch.cuda.get_allocator_backend():
    static = torch.randn(64, 3, 64, 64, device="cuda")
    model.eval()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        model(static)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        out = model(static)
    for _ in range(20):
        static.copy_(torch.randn_like(static))
        graph.replay()
    torch.cuda.synchronize()
    with torch.no_grad():
        check(torch.allclose(out, model(static), atol=1e-4), "CUDA graph replay right")
    model.train()
    over_and_back("with a graph held")
if len(sys.argv) > 2 and sys.argv[2] == "compile":
    fast = torch.compile(torch.nn.functional.gelu)
    z = torch.randn(4096, 4096, device="cuda")
    check(torch.allclose(fast(z), torch.nn.functional.gelu(z), atol=1e-5), "torch.compile right")
print(f"passed {checks} checks, allocator {torch.cuda.get_allocator_backend()}")
