"""Layers shared by all networks. Channels last: (b, f, h, w, c)."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from svdjax.config_checks import NORM_GROUPS
from svdjax.memory.blocking import block_bytes, map_blocks
from svdjax.memory.precision import stats_dtype
from svdjax.models.initialize import Keys

LayerNorm = functools.partial(nnx.LayerNorm, epsilon=1e-5, use_fast_variance=False)


def dense(x: Array, kernel: Array, bias: Array | None, dtype: Any) -> Array:
    """`x @ kernel + bias` in `dtype`, as one matrix product: (..., c) -> (..., c').

    The leading axes are merged first: otherwise XLA on a CPU takes 1.4 times as long to add the bias of a wide layer.
    """
    y = x.astype(dtype).reshape(-1, x.shape[-1]) @ kernel.astype(dtype)
    y = y if bias is None else y + bias.astype(dtype)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class Linear(nnx.Linear):
    """A dense layer over the last axis."""

    # without the `out_sharding` of nnx: models do not depend on a mesh
    def __call__(self, x: Array) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        return dense(x, self.kernel[...], None if self.bias is None else self.bias[...], self.dtype)


def gelu(x: Array) -> Array:
    """Exact GELU, x/2 (1 + erf(x / sqrt 2)), in at least float32.

    `jax.nn.gelu` uses erfc, which is no closer to PyTorch's values and takes 1.4 times as long on a CPU.
    """
    wide = x.astype(stats_dtype(x.dtype))
    return (0.5 * wide * (1 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


@jax.custom_vjp
def geglu(values: Array, gates: Array) -> Array:
    """`values` times the exact GELU of `gates`. A gradient keeps only these two arrays, half of what JAX would keep."""
    return values * gelu(gates)


def _geglu_fwd(values: Array, gates: Array) -> tuple[Array, tuple[Array, Array]]:
    return geglu(values, gates), (values, gates)


def _geglu_bwd(inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    values, gates = inputs
    wide = gates.astype(stats_dtype(gates.dtype))
    # distribution function and density of the standard normal distribution: gelu(x) = x cdf(x)
    cdf = 0.5 * (1 + jax.lax.erf(wide * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * jnp.square(wide)) * (2 * math.pi) ** -0.5
    values_gradient = gradient * (wide * cdf).astype(gradient.dtype)
    return values_gradient, gradient * values * (cdf + wide * density).astype(gradient.dtype)


geglu.defvjp(_geglu_fwd, _geglu_bwd)


def timestep_embedding(t: Array, dim: int) -> Array:
    """Sinusoids of `t`: (...,) -> (..., dim), cosines first, frequencies 10000^(-i / (dim/2)).

    Source: diffusers `Timesteps(dim, flip_sin_to_cos=True, downscale_freq_shift=0)`; an odd `dim` ends in a zero.
    """
    dtype = stats_dtype(t.dtype)
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=dtype) / half)
    angles = t.astype(dtype)[..., None] * frequencies
    out = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(out, [(0, 0)] * (out.ndim - 1) + [(0, dim % 2)])


class TimestepEmbedding(nnx.Module):
    """Two dense layers with SiLU between them (diffusers: `TimestepEmbedding`)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, **kw: Any):
        self.linear_1 = Linear(in_dim, hidden_dim, **kw)
        self.linear_2 = Linear(hidden_dim, out_dim, **kw)

    def __call__(self, x: Array) -> Array:
        """(..., in_dim) -> (..., out_dim)."""
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class GroupNorm(nnx.Module):
    """GroupNorm over 32 groups of channels, with two-pass statistics in at least float32.

    The statistics of a group span its channels and the `axes` of a call: (-3, -2) for one frame, as in the spatial layers;
    (-4, -3, -2) for the whole clip, as in the temporal layers.
    """

    def __init__(self, channels: int, eps: float, *, dtype: Any, param_dtype: Any, rngs: Keys):
        del rngs  # the initial values are constants
        self.scale = nnx.Param(jnp.ones(channels, param_dtype))
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))
        self.eps = eps
        self.dtype = dtype

    def statistics(self, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        """Mean and variance of each group, repeated over its channels: two arrays that broadcast against `x`."""

        def group_mean(per_channel: Array) -> Array:
            *lead, c = per_channel.shape
            groups = per_channel.reshape(*lead, NORM_GROUPS, c // NORM_GROUPS)
            return jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape).reshape(per_channel.shape)

        def mean_over_axes(x: Array) -> Array:
            # One axis at a time, the innermost first: short sums have less rounding error and run faster than one long sum.
            for axis in sorted(axes, reverse=True):
                x = x.mean(axis, keepdims=True)
            return x

        x = x.astype(stats_dtype(x.dtype))
        mean = group_mean(mean_over_axes(x))
        return mean, group_mean(mean_over_axes(jnp.square(x - mean)))

    def normalize(self, x: Array, mean: Array, variance: Array) -> Array:
        """`x` normalised with given statistics, scaled and shifted, in the compute dtype."""
        factor = jax.lax.rsqrt(variance + self.eps) * self.scale[...].astype(mean.dtype)
        return ((x.astype(mean.dtype) - mean) * factor + self.bias[...].astype(mean.dtype)).astype(self.dtype)

    def __call__(self, x: Array, axes: tuple[int, ...] = (-3, -2)) -> Array:
        """(b, f, h, w, c) -> (b, f, h, w, c)."""
        return self.normalize(x, *self.statistics(x, axes))


class FeedForward(nnx.Module):
    """GEGLU feed-forward: a projection to values and gates, exact GELU on the gates, a projection back."""

    def __init__(self, dim: int, **kw: Any):
        self.proj_in = Linear(dim, 8 * dim, **kw)
        self.proj_out = Linear(4 * dim, dim, **kw)

    def __call__(self, x: Array) -> Array:
        """(b, f, s, c) -> (b, f, s, c), computed in blocks: the intermediate is eight times as wide."""
        # Split the projection's weights, not its result. Where the channels are divided over devices, a split moves data
        # between them, and the weights are smaller than the result.
        assert self.proj_in.bias is not None
        dtype = self.proj_in.dtype
        kernels = jnp.split(self.proj_in.kernel[...], 2, axis=-1)
        biases = jnp.split(self.proj_in.bias[...], 2)

        def feed(x: Array) -> Array:
            values, gates = (dense(x, kernel, bias, dtype) for kernel, bias in zip(kernels, biases, strict=True))
            return self.proj_out(geglu(values, gates))

        rows = x.reshape(-1, x.shape[-1])
        bytes_per_row = 8 * x.shape[-1] * x.dtype.itemsize
        return map_blocks(feed, rows, bytes_per_row, block_bytes()).reshape(x.shape)
