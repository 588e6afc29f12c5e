#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A transformer in bf16 that serves or is trained. Prints "ready SMS"; then reads lines.

usage: torch_service.py inference|serving|training
  inference  16 requests of 128 tokens at a time, 4 layers of 1,024; some 1 to 2 ms of half an H100
  serving    a request of 128 tokens, 12 layers of 768: a small part of the device
  training   16 sequences of 512 tokens, 8 layers of 1,024, AdamW

  serve RATE SECONDS       so many a second, evenly: "N P50 P99", microseconds from when one was due
                           to its answer being in host memory
  requests KIND BEGIN END  one after the other, KIND being eager or graph (a CUDA graph); of those
                           that began and ended between two instants of CLOCK_MONOTONIC: "N P50 P99"
  train SECONDS            steps a second
"""
import gc
import sys
import time

import torch
from torch import nn
from torch.nn import functional

from torch_sms import multiprocessors

WORDS = 8192
SIZES = {"inference": (1024, 4, 16, 128), "serving": (768, 12, 1, 128),
         "training": (1024, 8, 16, 512)}  # width, layers, sequences, tokens


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.heads = width // 64
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.answer = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        n, tokens, width = x.shape
        q, k, v = self.ask(self.before(x)).view(n, tokens, 3, self.heads, 64).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.answer(seen.transpose(1, 2).reshape(n, tokens, width))
        return x + self.down(functional.gelu(self.up(self.between(x))))


class Service:
    def __init__(self, role):
        width, layers, self.sequences, self.tokens = SIZES[role]
        torch.manual_seed(1)
        with torch.device("cuda"):
            self.body = nn.Sequential(nn.Embedding(WORDS, width),
                                      *(Block(width) for _ in range(layers)))
            self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, WORDS))
        self.model = nn.Sequential(self.body, self.head).to(torch.bfloat16)
        self.training = role == "training"
        shape = (self.sequences, self.tokens)
        self.asked = torch.randint(0, WORDS, shape).pin_memory()
        self.input = self.asked.cuda()
        if self.training:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
            for _ in range(5):
                self.step()
            torch.cuda.synchronize()
            return
        self.model.eval().requires_grad_(False)
        self.said = torch.empty(self.sequences, WORDS, dtype=torch.bfloat16).pin_memory()
        side = torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            for _ in range(5):
                self.output = self.forward()
        torch.cuda.synchronize()
        wanted = self.output.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=side):
            self.output = self.forward()
        for kind in ("eager", "graph"):
            for _ in range(20):
                self.request(kind)
            torch.testing.assert_close(self.said, wanted.cpu(), rtol=5e-2, atol=5e-2)

    def forward(self):
        return self.head(self.body(self.input)[:, -1])

    def request(self, kind="eager"):
        self.input.copy_(self.asked, non_blocking=True)
        if kind == "graph":
            self.graph.replay()
            output = self.output
        else:
            output = self.forward()
        self.said.copy_(output, non_blocking=True)
        torch.cuda.current_stream().synchronize()

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        guess = self.model(self.input)
        functional.cross_entropy(guess.view(-1, WORDS), self.input.view(-1)).backward()
        self.optimizer.step()

    def serve(self, rate, seconds):
        took = []
        begin = time.monotonic() + 0.02
        for i in range(int(float(rate) * float(seconds))):
            due = begin + i / float(rate)
            while (left := due - time.monotonic()) > 0:
                time.sleep(max(0, left - 0.0005) / 2)
            self.request()
            took.append(time.monotonic() - due)
        return percentiles(took)

    def requests(self, kind, begin, end):
        begin, end, took = float(begin), float(end), []
        while (start := time.monotonic()) < end:
            self.request(kind)
            stop = time.monotonic()
            if start >= begin and stop <= end:
                took.append(stop - start)
        return percentiles(took)

    def train(self, seconds):
        """With at most two steps in the queue."""
        ends, events, until = [], [], time.monotonic() + float(seconds)
        while time.monotonic() < until or len(ends) < 2:
            self.step()
            events.append(torch.cuda.Event())
            events[-1].record()
            if len(events) > 2:
                events.pop(0).synchronize()
                ends.append(time.monotonic())
        torch.cuda.synchronize()
        return f"{(len(ends) - 1) / (ends[-1] - ends[0]):.4f}"


def percentiles(took):
    took.sort()
    n = len(took)
    return f"{n} {took[n // 2] * 1e6:.1f} {took[(n - 1) * 99 // 100] * 1e6:.1f}" if n else "0 0 0"


def main():
    torch.set_num_threads(1)
    service = Service(sys.argv[1])
    # no collection in the middle of a request
    gc.collect()
    gc.disable()
    print("ready", multiprocessors(), flush=True)
    while line := sys.stdin.readline().split():
        try:
            print(getattr(service, line[0])(*line[1:]), flush=True)
        except RuntimeError as error:
            print("error", " ".join(str(error).split())[:400], flush=True)


main()
