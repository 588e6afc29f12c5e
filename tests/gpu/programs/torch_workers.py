#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch with DataLoader workers: forked ones beside a GPU in use, with pinned memory, and spawned
ones that use the GPU themselves."""
import torch
from torch.utils.data import DataLoader, Dataset

from quota import MIB, Program


class Images(Dataset):
    def __init__(self, touch=None):
        self.touch = touch

    def __len__(self):
        return 128

    def __getitem__(self, index):
        if self.touch == "total":
            return torch.cuda.mem_get_info()[1]
        if self.touch == "cuda":
            return torch.ones(1, device="cuda").cpu()
        generator = torch.Generator().manual_seed(index)
        label = index % 4
        return torch.randn(3, 32, 32, generator=generator) + label, label


def main():
    p = Program()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(),
                                torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                                torch.nn.Linear(32, 4)).cuda()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    loader = DataLoader(Images(), batch_size=32, num_workers=4, pin_memory=True,
                        persistent_workers=True)

    def epoch():
        total = 0.0
        for images, labels in loader:
            if not images.is_pinned():
                p.check(False, "batches come pinned")
            optimiser.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(
                model(images.cuda(non_blocking=True)), labels.cuda(non_blocking=True))
            loss.backward()
            optimiser.step()
            total += loss.item()
        return total / len(loader)

    first = epoch()
    for _ in range(6):
        last = epoch()
    p.check(last < first, f"training with 4 forked workers: loss {first:.3f} -> {last:.3f}")
    p.check(torch.cuda.mem_get_info()[1] == p.quota, "mem_get_info shows the quota")
    p.hold()
    held = p.until_refused(lambda n: torch.empty(n, dtype=torch.uint8, device="cuda"),
                           torch.OutOfMemoryError, ["out of memory"])
    p.check(epoch() < first, "at the limit the workers go on")
    held.clear()
    torch.cuda.empty_cache()
    block = torch.full((512 * MIB,), 7, dtype=torch.uint8, device="cuda")
    p.check(int(block[-1]) == 7, "memory is to be had again")
    try:
        next(iter(DataLoader(Images("cuda"), num_workers=1)))
        p.check(False, "a forked worker has no CUDA, as without Cleave")
    except RuntimeError as error:
        p.check("forked subprocess" in str(error), "a forked worker that uses the GPU gets PyTorch's "
                "own error")
    totals = next(iter(DataLoader(Images("total"), batch_size=2, num_workers=1,
                                  multiprocessing_context="spawn")))
    p.check(totals.tolist() == [p.quota] * 2, "a spawned worker sees the quota")
    p.done()


if __name__ == "__main__":
    main()
