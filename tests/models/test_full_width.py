"""Parity at SVD-XT's widths, 1.5 billion parameters in float32: heavy (pytest -m heavy tests/models/test_full_width.py)."""

from __future__ import annotations

from typing import Any

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sample.benchmarking import host_memory
from svdjax import pipeline
from svdjax.config import SVDConfig, UNetConfig
from svdjax.models import svd
from svdjax.models.backward import VALUES, names_of_kinds
from svdjax.models.unet import UNet

pytestmark = pytest.mark.heavy
SEED = 7


@pytest.fixture(scope="module")
def unet():
    return goldens.drawn(UNet, UNetConfig(), jnp.float32, seed=SEED)


@pytest.mark.parametrize("shape", ["1x2x8x16", "1x14x8x16", "1x14x16x24"])
def test_full_width_golden(unet, shape):
    """Tolerance: rel-L2 1e-4 for the rounding of many wide layers; 5e-6 was measured."""
    b, f, h, w = map(int, shape.split("x"))
    sample = goldens.channels_last(goldens.draw(f"in:sample:{shape}", (b, f, 8, h, w), SEED))
    embeds = goldens.draw(f"in:ehs:{b}", (b, 1, 1024), SEED)
    ids = np.asarray([[6, 127, 0.02]], np.float32)
    out = jax.jit(lambda unet, *args: unet(*args))(unet, sample, jnp.full(b, 0.7311), embeds, ids)
    recorded = goldens.channels_last(np.load(goldens.DATA.parent / "full_width.npz")[f"{shape}/out"])
    distance = goldens.relative(out, recorded)
    print(f"{shape}: rel-L2 {distance:.1e}")
    assert distance < 1e-4


def test_interpolation_at_full_width(unet):
    """All three networks at SVD-XT's widths run from keyframes to frames: 14 frames of 192x128, 2 steps, recurrence."""
    config = SVDConfig()
    networks: dict[str, Any] = {
        name: goldens.drawn(cls, getattr(config, name), jnp.float32) for name, cls in svd.NETWORKS.items() if name != "unet"
    }
    tensors = svd.leaves(unet)
    backward = {name: tensors[name] * 1.01 for name in names_of_kinds(tensors, VALUES)}
    assert sum(x.size for n, x in backward.items() if n.endswith("kernel")) == 24_780_800
    model = svd.SVD(config=config, unet=unet, **networks, backward=backward)
    first, last = (np.random.default_rng(i).integers(0, 256, (128, 192, 3), np.uint8) for i in range(2))
    frames = pipeline.interpolate(model, first, last, num_frames=14, steps=2, recurrence=1)
    assert frames.shape == (14, 128, 192, 3)
    assert frames.std() > 1
    print(f"peak memory {host_memory.peak() / 2**30:.1f} GiB")
