"""Convolutions over (h, w) and over frames, with the algorithm that is fastest for each shape."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from svdjax.models.initialize import Keys
from svdjax.models.layers import dense

_NHWC = ("NHWC", "HWIO", "NHWC")


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
