#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""NCCL over processes of one GPU. NCCL refuses two ranks of one machine on the same GPU ("Duplicate
GPU detected"), with or without Cleave; what it allows is one rank, and ranks that pass for different
machines (NCCL_HOSTID) and so speak over sockets."""
import os
import sys
import tempfile

import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing

from quota import STEP, Program

LOCAL = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1", "NCCL_DEBUG": "WARN"}


def join(rank, size, store, apart):
    os.environ.update(LOCAL)
    if apart:
        os.environ["NCCL_HOSTID"] = f"host{rank}"
    torch.cuda.set_device(0)
    distributed.init_process_group("nccl", init_method=f"file://{store}", rank=rank,
                                   world_size=size)


def total(rank):
    x = torch.full((1 << 20,), float(rank + 1), device="cuda")
    distributed.all_reduce(x)
    return float(x[-1])


def one_of_two(rank, store, apart, answers):
    """Each says what came of it."""
    try:
        join(rank, 2, store, apart)
        result = [total(rank), torch.cuda.mem_get_info()[1]]
        distributed.barrier()
        if rank == 0:
            held = []
            try:
                while len(held) < 1000:
                    held.append(torch.empty(STEP, dtype=torch.uint8, device="cuda"))
                result.append("never refused")
            except torch.OutOfMemoryError as error:
                result.append(str(error))
            held.clear()
            torch.cuda.empty_cache()
        distributed.barrier()
        result.append(total(rank))
        answers.put((rank, result))
        distributed.destroy_process_group()
    except distributed.DistBackendError as error:
        answers.put((rank, str(error)))
        os._exit(0)  # the communicator is broken: there is nothing to take apart


def two(apart):
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as place:
        processes = [context.Process(target=one_of_two,
                                     args=(rank, place + "/store", apart, answers))
                     for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(100)
            if process.is_alive():
                process.kill()
                sys.exit("FAILED: NCCL does not come to an end")
    said = {}
    while not answers.empty():
        rank, answer = answers.get()
        said[rank] = answer
    return said


def main():
    p = Program()
    with tempfile.TemporaryDirectory() as place:
        join(0, 1, place + "/store", False)
        p.check(total(0) == 1.0, "one rank: all_reduce")
        p.hold()
        distributed.destroy_process_group()
    said = two(False)
    p.check(len(said) == 2 and all(isinstance(answer, str) and "Duplicate GPU" in answer
                                   for answer in said.values()),
            f"two ranks on one GPU are refused by NCCL itself: {str(said.get(0))[-160:]!r}")
    said = two(True)
    p.check(len(said) == 2 and all(isinstance(answer, list) for answer in said.values()),
            f"two ranks apart by NCCL_HOSTID: {said}"[:600])
    p.check(all(answer[0] == 3.0 and answer[-1] == 3.0 for answer in said.values()),
            "all_reduce is right, before a refusal and after it")
    p.check(all(answer[1] == p.quota for answer in said.values()), "both see the quota")
    p.check("out of memory" in said[0][2], f"one gets its own error: {said[0][2][:80]}")
    p.done()


if __name__ == "__main__":
    main()
