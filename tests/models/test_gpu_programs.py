"""Layers as traced for an NVIDIA GPU: other operations than on a CPU, the same values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import relative
from networks import TINY, backward_tensors

from svdjax.config import UNetConfig
from svdjax.devices.target import NVIDIA_GPU, made_for
from svdjax.models import initialize, temporal_attention
from svdjax.models.backward import EVERYWHERE, NOWHERE, Backward
from svdjax.models.initialize import Keys
from svdjax.models.layers import GroupNorm
from svdjax.models.resnet import ResnetBlock
from svdjax.models.spatial_attention import blocked_attention
from svdjax.models.unet import UNet

CONFIG = UNetConfig(**TINY)
KW = {"dtype": jnp.float32, "param_dtype": jnp.float32}


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), jnp.float32)


def for_gpu(fn: Callable[..., Any], *args: Any) -> Any:
    """`fn(*args)`, traced for an NVIDIA GPU and run here."""
    with made_for(NVIDIA_GPU):
        return jax.jit(fn)(*args)


def with_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a function of the same values in the place of cuDNN's attention, which a CPU doesn't have."""
    monkeypatch.setattr(temporal_attention, "has_fused_kernel", lambda dtype, channels: True)
    monkeypatch.setattr(temporal_attention, "fused_attention", blocked_attention)


@pytest.mark.parametrize("axes", [(-3, -2), (-4, -3, -2)], ids=["frame", "clip"])
@pytest.mark.parametrize("mean", [0, 3e3])
def test_group_norm(axes, mean):
    """One pass over memory keeps its digits with a mean of three thousand standard deviations, in any part of the input."""
    norm = GroupNorm(96, 1e-6, **KW, rngs=Keys(1))
    x, offset, skip = normal(2, 3, 5, 7, 64), normal(2, 1, 1, 1, 64) + mean, normal(2, 3, 5, 7, 32) - mean / 3
    exact = jax.tree.map(lambda a: np.asarray(a, np.float64), (x, offset, skip))
    joined = np.concatenate([exact[0] + exact[1], exact[2]], -1)
    groups = joined.reshape(*joined.shape[:-1], 32, 3)
    over = (*(axis - 1 for axis in axes), -1)
    want = (groups - groups.mean(over, keepdims=True)) / np.sqrt(groups.var(over, keepdims=True) + 1e-6)
    got = for_gpu(lambda x, offset, skip: norm(x, axes, offset, skip), x, offset, skip)
    np.testing.assert_allclose(got, want.reshape(joined.shape), atol=1e-5 if mean == 0 else 1e-3)  # 3e3 has steps of 2e-4
    mean_of, variance = for_gpu(lambda x: norm.statistics(x, axes), x[..., :1] * jnp.zeros(96) + mean)
    np.testing.assert_allclose(mean_of, mean, rtol=1e-6)
    assert 0 <= float(abs(variance).max()) < 1e-6


def test_resnet_on_two_inputs_with_gradients():
    block = ResnetBlock(96, 64, 16, 1e-5, **KW, rngs=Keys(1))
    x, skip, temb, weights = normal(2, 3, 8, 8, 64), normal(2, 3, 8, 8, 32), normal(2, 16), normal(2, 3, 8, 8, 64, seed=1)

    def loss(block: ResnetBlock, x: Any, skip: Any, temb: Any) -> Any:
        return (block(x, temb, skip) * weights).sum()

    args = (block, x, skip, temb)
    ours, theirs = jax.grad(loss, (0, 1, 2, 3))(*args), for_gpu(jax.grad(loss, (0, 1, 2, 3)), *args)
    for a, b in zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True):
        assert relative(a, b) < 1e-5


@pytest.fixture(scope="module")
def unet() -> UNet:
    return initialize.random(UNet, CONFIG, jnp.float32)


@pytest.fixture(scope="module")
def inputs() -> tuple[jax.Array, ...]:
    token = CONFIG.cross_attention_dim[0]
    return normal(4, 3, 8, 8, CONFIG.in_channels), jnp.linspace(0.1, 0.4, 4), normal(4, 1, token), jnp.ones((4, 3))


@pytest.mark.parametrize("given", [EVERYWHERE, NOWHERE], ids=["forward maps", "own maps"])
def test_both_directions(unet, inputs, given, monkeypatch):
    """The whole network, with the fused attention over frames and without."""
    backward = Backward(backward_tensors(unet), given)
    plain = jax.jit(lambda unet, backward, *x: unet(*x, backward=backward))(unet, backward, *inputs)
    with_kernel(monkeypatch)
    fused = for_gpu(lambda unet, backward, *x: unet(*x, backward=backward), unet, backward, *inputs)
    assert relative(fused, plain) < 1e-5


@pytest.mark.heavy
def test_maps_are_computed_where_they_are_asked_for(unet, inputs, monkeypatch):
    with_kernel(monkeypatch)
    _, maps = for_gpu(lambda unet, *x: unet(*x, return_attn_maps=True), unet, *inputs)
    assert list(maps) == unet.temporal_attention_paths()
    with_maps = for_gpu(lambda unet, maps, *x: unet(*x, attn_maps=maps), unet, maps, *inputs)
    assert relative(with_maps, for_gpu(lambda unet, *x: unet(*x), unet, *inputs)) < 1e-5
