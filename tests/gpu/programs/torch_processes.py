#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch in several processes of one tenant: one quota for all, tensors passed by CUDA IPC."""
import torch
import torch.multiprocessing as multiprocessing

from quota import MIB, STEP, Program


def serve(orders, answers):
    """Does one thing after another, as it is told."""
    held = []
    weight = torch.randn(512, 512, device="cuda", requires_grad=True)
    for order, *arguments in iter(orders.get, None):
        try:
            if order == "info":
                answers.put(torch.cuda.mem_get_info())
            elif order == "take":
                held.append(torch.full((arguments[0],), 5, dtype=torch.uint8, device="cuda"))
                answers.put(True)
            elif order == "share":
                answers.put(held[0])
            elif order == "drop":
                held.clear()
                torch.cuda.empty_cache()
                answers.put(True)
            elif order == "step":
                loss = (weight @ weight).square().mean()
                loss.backward()
                answers.put(bool(torch.isfinite(weight.grad).all()))
        except torch.OutOfMemoryError as error:
            answers.put(f"OutOfMemoryError: {error}")


def main():
    p = Program()
    context = multiprocessing.get_context("spawn")
    channels = [(context.Queue(), context.Queue()) for _ in range(2)]
    processes = [context.Process(target=serve, args=pair) for pair in channels]
    for process in processes:
        process.start()

    def ask(index, *order):
        channels[index][0].put(order)
        return channels[index][1].get(timeout=120)

    for index in range(2):
        p.check(ask(index, "step") is True, f"process {index} computes")
        p.check(ask(index, "info")[1] == p.quota, f"process {index} sees the quota")
    p.check(ask(0, "take", 4 * STEP) is True, "process 0 takes 1 GiB")
    shared = ask(0, "share")
    p.check(int(shared[-1]) == 5 and shared.is_cuda, "and passes it to this one by CUDA IPC")
    p.hold()
    taken = 0
    while (answer := ask(1, "take", STEP)) is True:
        taken += STEP
        if taken > p.quota:
            p.check(False, f"process 1 got {taken // MIB} MiB")
    p.check("out of memory" in answer, f"process 1 gets its own error after {taken // MIB} MiB: "
            f"{answer.splitlines()[0][:80]}")
    p.check(taken + 4 * STEP <= p.quota, "both together are within the quota")
    refused = ask(0, "take", STEP)
    p.check(refused is not True and "out of memory" in refused, "there is none for process 0 either")
    p.check(ask(0, "step") is True and ask(1, "step") is True, "both go on")
    p.check(ask(1, "drop") is True and ask(0, "take", STEP) is True,
            "what process 1 gives back process 0 can have")
    p.check(int(shared[-1]) == 5, "what was passed has not changed")
    del shared
    for orders, _ in channels:
        orders.put(None)
    for process in processes:
        process.join(60)
    p.check([process.exitcode for process in processes] == [0, 0], "both end well")
    p.done()


if __name__ == "__main__":
    main()
