#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""JAX; its allocator comes by XLA_PYTHON_CLIENT_PREALLOCATE and XLA_PYTHON_CLIENT_ALLOCATOR."""
import os

import jax
import jax.numpy as jnp
import numpy

from quota import MIB, Program

FRACTION = 0.75  # XLA_PYTHON_CLIENT_MEM_FRACTION when it is not set


def main():
    p = Program()
    device = jax.devices()[0]
    p.check(device.platform in ("gpu", "cuda"), f"runs on {device.device_kind}")
    a = jax.random.normal(jax.random.key(1), (1024, 1024))
    product = jax.jit(lambda x: x @ x.T)
    host = numpy.asarray(a, dtype=numpy.float64)
    wanted = host @ host.T

    def right():
        got = numpy.asarray(product(a), dtype=numpy.float64)
        return numpy.linalg.norm(got - wanted) / numpy.linalg.norm(wanted) < 1e-2

    p.check(right(), "a compiled product is right")
    stats = device.memory_stats()
    if stats and stats.get("bytes_limit") and "XLA_PYTHON_CLIENT_ALLOCATOR" not in os.environ:
        limit = stats["bytes_limit"]
        p.check(abs(limit - FRACTION * p.quota) < 0.05 * p.quota,
                f"its pool's limit, {limit // MIB} MiB, is 75 % of the quota")
    p.hold()
    held = p.until_refused(lambda n: jax.block_until_ready(jnp.ones((n,), jnp.uint8)),
                           jax.errors.JaxRuntimeError, ["RESOURCE_EXHAUSTED", "ut of memory"])
    p.check(int(held[-1][-1]) == 1, "what it holds is what it wrote")
    held.clear()
    p.check(right(), "it goes on")
    p.check(int(jax.block_until_ready(jnp.full((512 * MIB,), 7, jnp.uint8))[-1]) == 7,
            "memory is to be had again")
    kept = {name: value for name, value in os.environ.items() if name.startswith("XLA_")}
    print(f"  {kept}")
    p.done()


if __name__ == "__main__":
    main()
