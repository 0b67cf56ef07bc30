"""Layers of the encoders as plain functions on NHWC arrays; batch norms are folded into the convolutions."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Padding = str | tuple[tuple[int, int], tuple[int, int]]  # "SAME" and "VALID" as in TensorFlow, or zeros before and after


class Conv(NamedTuple):
    """Parameters of a convolution.

    Attributes:
        kernel: (kh, kw, c, c'), or (kt, kh, kw, c, c').
        bias: (c',).
    """

    kernel: Array | np.ndarray
    bias: Array | np.ndarray


def with_batch_norm(
    kernel: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    bias: np.ndarray,
    *,
    scale: np.ndarray | float = 1,
    epsilon: float,
) -> Conv:
    """A convolution without bias followed by a batch norm, as one convolution. Computed in float64.

    Args:
        kernel: of the convolution; its last axis holds the output channels.
        mean, variance, bias, scale: of the batch norm, (c',).
        epsilon: added to the variance.
    """
    factor = scale / np.sqrt(variance.astype(np.float64) + epsilon)
    return Conv((kernel * factor).astype(np.float32), (bias - mean * factor).astype(np.float32))


def convolve(x: Array, conv: Conv, stride: int = 1, padding: Padding = "SAME", groups: int = 1) -> Array:
    """A 2-D convolution plus bias: (n, h, w, c) -> (n, h', w', c')."""
    y = jax.lax.conv_general_dilated(
        x,
        jnp.asarray(conv.kernel),
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y + conv.bias


def max_pool(x: Array, size: int, stride: int, padding: str = "VALID") -> Array:
    """Maximum over windows: (n, h, w, c) -> (n, h', w', c')."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, stride, stride, 1), padding)


def mean_pool_3x3(x: Array) -> Array:
    """Mean over windows of 3x3 at stride 1, without the pixels outside the image."""
    window, ones = (1, 3, 3, 1), jnp.ones_like(x[:1, :, :, :1])
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")
    return total / jax.lax.reduce_window(ones, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")


def resize_bilinear(x: Array, height: int, width: int) -> Array:
    """Bilinear resize without smoothing; pixel i of the result lies at `i * old / new`, as in TensorFlow 1.

    The published I3D and Inception distances use this resize.

    Args:
        x: float32 (n, h, w, c).
        height, width: size of the result.
    """
    for axis, new in ((1, height), (2, width)):
        old = x.shape[axis]
        if old == new:
            continue
        place = np.arange(new, dtype=np.float32) * np.float32(old / new)
        low = place.astype(np.int64)
        share = (place - low).reshape([-1 if a == axis else 1 for a in range(4)])
        below, above = (jnp.take(x, i, axis) for i in (low, np.minimum(low + 1, old - 1)))
        x = below + (above - below) * share
    return x
