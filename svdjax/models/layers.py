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
from svdjax.devices.division import frame_statistics
from svdjax.devices.target import target
from svdjax.kernels import choice
from svdjax.memory.blocking import block_bytes, map_blocks
from svdjax.memory.precision import stats_dtype
from svdjax.models.initialize import Keys

LayerNorm = functools.partial(nnx.LayerNorm, epsilon=1e-5, use_fast_variance=False)


def hidden(x: Array) -> Array:
    """`x`, behind a barrier that keeps XLA on an NVIDIA GPU from fusing it into a library call or kernel."""
    return jax.lax.optimization_barrier(x) if target().nvidia else x


def dense(x: Array, kernel: Array, bias: Array | None, dtype: Any) -> Array:
    """`x @ kernel + bias` in `dtype`, as one matrix product: (..., c) -> (..., c').

    The leading axes are merged first: otherwise XLA on a CPU takes 1.4 times as long to add the bias of a wide layer.
    """
    y = x.astype(dtype).reshape(-1, x.shape[-1]) @ kernel.astype(dtype)
    # Hidden biases keep XLA from its Triton kernels, which add a bias, but never a residual: cuBLAS adds both.
    y = y if bias is None else y + hidden(bias.astype(dtype))
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
    """GroupNorm over 32 groups of channels, with statistics in at least float32, in two passes or around a shift.

    The statistics of a group span its channels and the `axes` of a call: (-3, -2) for one frame, as in the spatial layers;
    (-4, -3, -2) for the whole clip, as in the temporal layers.
    """

    def __init__(self, channels: int, eps: float, *, dtype: Any, param_dtype: Any, rngs: Keys):
        del rngs  # the initial values are constants
        self.scale = nnx.Param(jnp.ones(channels, param_dtype))
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))
        self.eps = eps
        self.dtype = dtype

    def statistics(
        self, x: Array, axes: tuple[int, ...], offset: Array | None = None, skip: Array | None = None
    ) -> tuple[Array, Array]:
        """Mean and variance of each group, repeated over its channels: two arrays that broadcast against the input.

        Args:
            x, offset, skip: the input, see `__call__`.
            axes: axes over which the mean is taken, besides the channels of a group.
        """

        def group_mean(per_channel: Array) -> Array:
            *lead, c = per_channel.shape
            groups = per_channel.reshape(*lead, NORM_GROUPS, c // NORM_GROUPS)
            return jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape).reshape(per_channel.shape)

        if target().is_cpu:
            x = _joined(x, offset, skip)
            x = x.astype(stats_dtype(x.dtype))
            mean = group_mean(_mean_over(x, axes))
            return frame_statistics(mean, group_mean(_mean_over(jnp.square(x - mean), axes)), NORM_GROUPS)
        parts = [_moments(x, axes, offset)] + ([] if skip is None else [_moments(skip, axes)])
        means, variances = (jnp.concatenate(moments, axis=-1) for moments in zip(*parts, strict=True))
        mean = group_mean(means)
        return frame_statistics(mean, group_mean(variances + jnp.square(means - mean)), NORM_GROUPS)

    def normalize(self, x: Array, mean: Array, variance: Array) -> Array:
        """`x` normalised with given statistics, scaled and shifted, in the compute dtype."""
        factor = jax.lax.rsqrt(variance + self.eps) * self.scale[...].astype(mean.dtype)
        return ((x.astype(mean.dtype) - mean) * factor + self.bias[...].astype(mean.dtype)).astype(self.dtype)

    def __call__(
        self, x: Array, axes: tuple[int, ...] = (-3, -2), offset: Array | None = None, skip: Array | None = None
    ) -> Array:
        """The norm of [x + offset, skip], joined along the channels.

        Args:
            x: (b, f, h, w, c).
            axes: see `statistics`.
            offset: (b, 1, 1, 1, c).
            skip: (b, f, h, w, c').

        Returns:
            (b, f, h, w, c + c').
        """
        return self.normalize(_joined(x, offset, skip), *self.statistics(x, axes, offset, skip))


def _joined(x: Array, offset: Array | None, skip: Array | None) -> Array:
    x = x if offset is None else x + offset
    return x if skip is None else jnp.concatenate([x, skip], axis=-1)


def _mean_over(x: Array, axes: tuple[int, ...]) -> Array:
    # One axis at a time, the innermost first: short sums have less rounding error and run faster than one long sum.
    for axis in sorted(axes, reverse=True):
        x = x.mean(axis, keepdims=True)
    return x


def _moments(x: Array, axes: tuple[int, ...], offset: Array | None = None) -> tuple[Array, Array]:
    """Mean and variance of each channel of `x + offset` in one pass over memory.

    Sums around a value near the mean, that of the first row of pixels, lose no digits to a large mean.
    """
    dtype = stats_dtype(x.dtype)
    row = x[tuple(slice(0, 1) if axis in axes and axis != -2 else slice(None) for axis in range(-x.ndim, 0))]
    shift = jax.lax.stop_gradient(row.astype(dtype).mean(-2, keepdims=True))  # exact for any shift: no gradient needed
    if offset is not None:
        x, shift = x + offset, shift + offset.astype(dtype)
    x = x.astype(dtype) - shift
    mean = _mean_over(x, axes)
    return shift + mean, _mean_over(jnp.square(x), axes) - jnp.square(mean)


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
        if choice.kernels() == choice.PALLAS:
            assert self.proj_out.bias is not None
            weights = (self.proj_in.kernel[...], self.proj_in.bias[...], self.proj_out.kernel[...], self.proj_out.bias[...])
            return _feed_forward_by_kernel(rows, weights, dtype).reshape(x.shape)
        bytes_per_row = 8 * x.shape[-1] * x.dtype.itemsize
        return map_blocks(feed, rows, bytes_per_row, block_bytes()).reshape(x.shape)


def _feed_forward_by_kernel(x: Array, weights: tuple[Array, Array, Array, Array], dtype: Any) -> Array:
    """`FeedForward` with the kernel for its first half if that fits: (n, c) -> (n, c). The gradient is XLA's.

    Args:
        x: rows.
        weights: kernel and bias of the projection to values and gates, kernel and bias of the projection back.
        dtype: compute dtype.
    """
    from svdjax.kernels import feed_forward  # Pallas takes 0.2 s to import

    def plain(x: Array, kernel: Array, bias: Array, kernel_out: Array, bias_out: Array) -> Array:
        halves = zip(jnp.split(kernel, 2, axis=-1), jnp.split(bias, 2), strict=True)
        return dense(geglu(*(dense(x, *half, dtype) for half in halves)), kernel_out, bias_out, dtype)

    def by_kernel(x: Array, kernel: Array, bias: Array, kernel_out: Array, bias_out: Array) -> Array:
        products = feed_forward.geglu_projection(x.astype(dtype), kernel.astype(dtype), bias.astype(dtype))
        return dense(products, kernel_out, bias_out, dtype)

    if not feed_forward.fits(x.shape, weights[0].shape, dtype):
        return plain(x, *weights)
    return feed_forward.with_gradient_of(plain, by_kernel)(x, *weights)
