"""The simplest layers, shared by all networks. Channels last everywhere: (b, f, h, w, c)."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from svdjax.config import NORM_GROUPS
from svdjax.memory.blocking import block_bytes, flatten_leading, map_blocks, stats_dtype
from svdjax.models.initialize import Keys

_NHWC = ("NHWC", "HWIO", "NHWC")

LayerNorm = functools.partial(nnx.LayerNorm, epsilon=1e-5, use_fast_variance=False)


def dense(x: Array, kernel: Array, bias: Array | None, dtype: Any) -> Array:
    """`x @ kernel + bias` in `dtype`, as one product of matrices: (..., c) -> (..., c').

    The leading axes are merged first: with them apart, XLA's CPU backend adds the bias of a wide layer 1.4 times as slowly.
    """
    y = x.astype(dtype).reshape(-1, x.shape[-1]) @ kernel.astype(dtype)
    y = y if bias is None else y + bias.astype(dtype)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class Linear(nnx.Linear):
    """A dense layer over the last axis."""

    def __call__(self, x: Array) -> Array:
        return dense(x, self.kernel[...], self.bias[...] if self.use_bias else None, self.dtype)


def convolve(x: Array, kernel: Array, stride: int, padding: Any) -> Array:
    """A 2-D convolution: x (m, h, w, c), kernel (y, x, c, c'), in the dtype of both.

    All windows are laid out for one product of matrices where they take no more memory than the kernel does: its gradient
    then needs no transposed copy of the kernel. They are, too, where the image is smaller than the kernel, or the result is,
    which is the gradient's image: XLA's CPU backend takes up to a hundred times as long for such a convolution.
    Windows side by side, those of a patch embedding, are the image itself in another order.
    """
    pads = ((0, 0), (0, 0)) if padding == "VALID" else padding
    sizes = list(zip(x.shape[1:3], kernel.shape[:2], pads, strict=True))
    rows, columns = ((size + sum(pad) - k) // stride + 1 for size, k, pad in sizes)
    if kernel.shape[:2] == (stride, stride) and not any(map(sum, pads)):
        patches = x[:, : rows * stride, : columns * stride].reshape(-1, rows, stride, columns, stride, x.shape[-1])
        y = patches.swapaxes(2, 3).reshape(-1, kernel[..., 0].size) @ kernel.reshape(-1, kernel.shape[-1])
        return y.reshape(x.shape[0], rows, columns, -1)
    large = all(min(size, result) >= k for (size, k, _), result in zip(sizes, (rows, columns), strict=True))
    if large and x.shape[0] * rows * columns > kernel.shape[-1]:
        if stride == 1:
            return _convolution(x, kernel, tuple(pads))
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=_NHWC)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    taps = itertools.product(range(kernel.shape[0]), range(kernel.shape[1]))
    windows = [
        x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride].reshape(-1, x.shape[-1])
        for i, j in taps
    ]
    y = jnp.concatenate(windows, -1) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(x.shape[0], rows, columns, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: Array, kernel: Array, pads: tuple[tuple[int, int], ...]) -> Array:
    """A convolution of stride 1. On a CPU the gradient for the kernel is one product of matrices: as a convolution, whose
    kernel would be the image, it takes XLA's CPU backend up to fifty times as long. The product's right side takes as many
    times the memory of the result as the kernel has taps.
    """
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=_NHWC)


def _convolution_bwd(pads: Any, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    plain = functools.partial(_convolution.fun, pads=pads)

    def by_convolution(x: Array, gradient: Array) -> Array:
        return jax.linear_transpose(lambda k: plain(x, k), kernel)(gradient)[0]

    def by_product(x: Array, gradient: Array) -> Array:
        around = [(k - 1 - before, k - 1 - after) for k, (before, after) in zip(kernel.shape, pads, strict=False)]
        padded = jnp.pad(gradient, ((0, 0), *around, (0, 0)))
        taps = itertools.product(*(range(k)[::-1] for k in kernel.shape[:2]))
        moved = jnp.concatenate([padded[:, i : i + x.shape[1], j : j + x.shape[2]] for i, j in taps], -1)
        product = x.reshape(-1, x.shape[-1]).T @ moved.reshape(-1, moved.shape[-1])
        return product.reshape(-1, *kernel.shape[:2], kernel.shape[-1]).transpose(1, 2, 0, 3)

    (of_image,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(gradient)
    return of_image, jax.lax.platform_dependent(x, gradient, cpu=by_product, default=by_convolution)


_convolution.defvjp(lambda x, kernel, pads: (_convolution(x, kernel, pads), (x, kernel)), _convolution_bwd)


class Conv(nnx.Conv):
    """A square 2-D convolution over (h, w), padded to keep the size unless told otherwise: (..., h, w, c) -> (..., c')."""

    def __init__(self, in_channels: int, out_channels: int, size: int = 3, stride: int = 1, padding: Any = None, **kw: Any):
        pad = ((size // 2, size // 2),) * 2 if padding is None else padding
        super().__init__(in_channels, out_channels, (size, size), strides=stride, padding=pad, **kw)

    def __call__(self, x: Array) -> Array:
        kernel = self.kernel[...].astype(self.dtype)
        if self.kernel_size == (1, 1):  # as a convolution it is several times slower on a CPU
            return dense(x, kernel[0, 0], self.bias[...], self.dtype)
        y = convolve(x.astype(self.dtype).reshape(-1, *x.shape[-3:]), kernel, self.strides, self.padding)
        y = y.reshape(*x.shape[:-3], *y.shape[1:])
        return y + self.bias[...].astype(self.dtype) if self.use_bias else y


def gelu(x: Array) -> Array:
    """Exact GELU, x/2 (1 + erf(x / sqrt 2)), in at least float32.

    `jax.nn.gelu` goes through erfc, which is no nearer to PyTorch's values and takes 1.4 times as long on a CPU.
    """
    wide = x.astype(stats_dtype(x.dtype))
    return (0.5 * wide * (1 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


@jax.custom_vjp
def geglu(values: Array, gates: Array) -> Array:
    """`values` times the exact GELU of `gates`. A gradient keeps these two alone, half of what JAX would keep by itself."""
    return values * gelu(gates)


def _geglu_fwd(values: Array, gates: Array) -> tuple[Array, tuple[Array, Array]]:
    return geglu(values, gates), (values, gates)


def _geglu_bwd(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    values, gates = kept
    wide = gates.astype(stats_dtype(gates.dtype))
    below = 0.5 * (1 + jax.lax.erf(wide * math.sqrt(0.5)))  # of the normal distribution, as `density`
    density = jnp.exp(-0.5 * jnp.square(wide)) * (2 * math.pi) ** -0.5
    of_values = gradient * (wide * below).astype(gradient.dtype)
    return of_values, gradient * values * (below + wide * density).astype(gradient.dtype)


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
    """Two dense layers with SiLU between, as diffusers' class of the same name."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, **kw: Any):
        self.linear_1 = Linear(in_dim, hidden_dim, **kw)
        self.linear_2 = Linear(hidden_dim, out_dim, **kw)

    def __call__(self, x: Array) -> Array:
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class GroupNorm(nnx.Module):
    """GroupNorm over 32 groups of channels, statistics in at least float32 and in two passes.

    `axes` of a call names what shares statistics besides the channels of a group: (-3, -2) is a frame, as in the spatial
    layers; (-4, -3, -2) is the whole clip, as in the temporal ones.
    """

    def __init__(self, channels: int, eps: float, *, dtype: Any, param_dtype: Any, rngs: Keys):
        del rngs  # constants: nothing to draw
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
            # One axis at a time, the innermost first: short sums, which round less and run faster than one long one.
            for axis in sorted(axes, reverse=True):
                x = x.mean(axis, keepdims=True)
            return x

        x = x.astype(stats_dtype(x.dtype))
        mean = group_mean(mean_over_axes(x))
        return mean, group_mean(mean_over_axes(jnp.square(x - mean)))

    def normalize(self, x: Array, mean: Array, variance: Array) -> Array:
        factor = jax.lax.rsqrt(variance + self.eps) * self.scale[...].astype(mean.dtype)
        return ((x.astype(mean.dtype) - mean) * factor + self.bias[...].astype(mean.dtype)).astype(self.dtype)

    def __call__(self, x: Array, axes: tuple[int, ...] = (-3, -2)) -> Array:
        return self.normalize(x, *self.statistics(x, axes))


class TemporalConv(nnx.Module):
    """A convolution over 3 neighbouring frames, diffusers' Conv3d of kernel (3, 1, 1).

    Computed as a 2-D convolution over (frame, pixel), twice as fast on a CPU as three matrix products.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dtype: Any, param_dtype: Any, rngs: Keys):
        init = nnx.initializers.lecun_normal(in_axis=(0, 1), out_axis=2)
        self.kernel = nnx.Param(init(rngs.params(), (3, in_channels, out_channels), param_dtype))
        self.bias = nnx.Param(jnp.zeros(out_channels, param_dtype))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        """(b, f, h, w, c) -> (b, f, h, w, c'); frames outside the clip are zero."""
        b, f, h, w, c = x.shape
        x = x.astype(self.dtype).reshape(b, f, h * w, c)
        y = convolve(x, self.kernel[...].astype(self.dtype)[:, None], 1, ((1, 1), (0, 0)))
        return y.reshape(b, f, h, w, -1) + self.bias[...].astype(self.dtype)


class FeedForward(nnx.Module):
    """GEGLU feed-forward: one projection to values and gates, exact GELU on the gates, one projection back."""

    def __init__(self, dim: int, **kw: Any):
        self.proj_in = Linear(dim, 8 * dim, **kw)
        self.proj_out = Linear(4 * dim, dim, **kw)

    def __call__(self, x: Array) -> Array:
        """(b, f, s, c) -> (b, f, s, c); its eightfold wide intermediate is bounded (`blocking`)."""
        # The projection's weights are taken apart rather than its result, which may be divided over devices by channels:
        # then weights are sent, which are smaller.
        dtype = self.proj_in.dtype
        kernels = jnp.split(self.proj_in.kernel[...], 2, axis=-1)
        biases = jnp.split(self.proj_in.bias[...], 2)

        def feed(x: Array) -> Array:
            values, gates = (dense(x, kernel, bias, dtype) for kernel, bias in zip(kernels, biases, strict=True))
            return self.proj_out(geglu(values, gates))

        rows = flatten_leading(x, x.ndim - 1)
        bytes_per_row = 8 * x.shape[-1] * x.dtype.itemsize
        return map_blocks(feed, rows, bytes_per_row, block_bytes()).reshape(x.shape)
