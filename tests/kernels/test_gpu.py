"""The kernels compiled for GPUs that are not present, where the extra `cuda` is installed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from gpu_compiler import has_gpu_compiler

from sample.planning import compiling, hbm
from sample.planning.targets import CARDS
from svdjax.kernels.choice import PALLAS, XLA, using
from svdjax.memory.programs import Program
from svdjax.models.initialize import Keys
from svdjax.models.layers import FeedForward

pytestmark = pytest.mark.skipif(not has_gpu_compiler(), reason="the extra cuda is not installed")
ROWS, WIDTH = 10_000, 320  # the last tile of rows is not full


def moved(card, kernels, dtype):
    """Bytes that a feed-forward of `ROWS` moves, by kind of GPU kernel."""
    dtype = jnp.dtype(dtype)
    module = nnx.eval_shape(lambda: FeedForward(WIDTH, dtype=dtype, param_dtype=dtype, rngs=Keys(0)))
    program = Program(
        name="feed_forward", fn=lambda module, x: module(x), args=(module, jax.ShapeDtypeStruct((1, 1, ROWS, WIDTH), dtype))
    )
    (device,) = compiling.devices_of(CARDS[card])
    with using(kernels):
        compiled = compiling.compile_for(device, program)
    assert compiled.flops == 2 * ROWS * WIDTH * (8 + 4) * WIDTH
    return {kind.kind: kind.bytes for kind in hbm.moved(compiled.program)}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("card", CARDS)
def test_feed_forward_writes_only_the_product(card, dtype):
    """It compiles, so its tiles fit in the card's shared memory, and moves what it should."""
    item = jnp.dtype(dtype).itemsize
    weights = WIDTH * 8 * WIDTH + 8 * WIDTH
    assert moved(card, PALLAS, dtype)["Pallas kernel"] == item * (ROWS * WIDTH + weights + ROWS * 4 * WIDTH)


def test_fewer_bytes_than_xla():
    ours, theirs = (sum(moved("h200", kernels, "bfloat16").values()) for kernels in (PALLAS, XLA))
    assert ours < 0.5 * theirs
