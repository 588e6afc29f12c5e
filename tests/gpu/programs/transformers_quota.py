#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Generation by transformers with a small model made on the spot: nothing is downloaded."""
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

from quota import MIB, Program  # noqa: E402


def main():
    p = Program()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=6, n_embd=512, n_head=8, vocab_size=8192,
                                       n_positions=1024,
                                       bos_token_id=None, eos_token_id=None)).cuda().eval()
    prompt = torch.randint(0, 8192, (4, 32), device="cuda")

    def generate(tokens, **kinds):
        return model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=48,
                              do_sample=False, pad_token_id=0, **kinds)

    first = generate(prompt)
    p.check(first.shape == (4, 80) and first.is_cuda, "48 tokens for each of 4 prompts")
    p.check(torch.equal(first, generate(prompt)), "the same once more")
    p.check(torch.cuda.mem_get_info()[1] == p.quota, "it sees the quota")
    p.hold()
    # the key-value cache alone of this many prompts is larger than the quota
    many = p.quota // (900 * 6 * 2 * 512 * 4) + 1
    try:
        generate(prompt[:1].repeat(1, 27)[:, :850].repeat(many, 1))
        p.check(False, f"{many} long prompts fit")
    except torch.OutOfMemoryError as error:
        p.check("out of memory" in str(error), f"{many} long prompts: {str(error)[:80]}")
    torch.cuda.empty_cache()
    p.check(torch.equal(first, generate(prompt)), "fewer go on, with the same answer")
    p.check(int(torch.full((512 * MIB,), 7, dtype=torch.uint8, device="cuda")[-1]) == 7,
            "memory is to be had again")
    p.done()


if __name__ == "__main__":
    main()
