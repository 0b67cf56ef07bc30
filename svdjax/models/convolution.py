"""Convolutions over (h, w) and over frames, each by the algorithm that is fastest for its shape.

| algorithm | used for | effect on a CPU, against XLA's convolution |
|---|---|---|
| `dense` | 1x1 kernels | several times as fast |
| `_by_patches` | stride equal to the kernel size, no padding: CLIP's patches | CLIP compiles in 0.3 s instead of 14 s |
| `_by_windows` | an image or a result smaller than the kernel | up to 100 times as fast, gradients included |
| `_by_windows` | all windows together take no more memory than the kernel | no transposed copy of the kernel for its gradient |
| `_with_stride_1` | all others of stride 1 | kernel gradient up to 50 times as fast |
| `_by_xla` | all others | |
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from svdjax.devices.division import Pads, with_neighbours
from svdjax.models.initialize import Keys
from svdjax.models.layers import dense

NO_PADDING: Pads = ((0, 0), (0, 0))


def convolve(x: Array, kernel: Array, stride: int, pads: Pads) -> Array:
    """A 2-D convolution by the algorithms of the table above.

    Args:
        x: (m, h, w, c).
        kernel: (kh, kw, c, c'), in the dtype of `x`.
        stride: the same for rows and columns.
        pads: zeros added around the image.

    Returns:
        (m, h', w', c') in the dtype of `x`.
    """
    height, width, _, out_channels = kernel.shape
    rows = (x.shape[1] + sum(pads[0]) - height) // stride + 1
    columns = (x.shape[2] + sum(pads[1]) - width) // stride + 1
    if (height, width) == (stride, stride) and pads == NO_PADDING:
        return _by_patches(x, kernel, rows, columns)
    small = min(x.shape[1], rows) < height or min(x.shape[2], columns) < width
    windows_fit_kernel = x.shape[0] * rows * columns <= out_channels  # a window has the size of one output's weights
    if small or windows_fit_kernel:
        return _by_windows(x, kernel, stride, pads, rows, columns)
    return _with_stride_1(x, kernel, pads) if stride == 1 else _by_xla(x, kernel, stride, pads)


def _by_xla(x: Array, kernel: Array, stride: int, pads: Pads) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _by_patches(x: Array, kernel: Array, rows: int, columns: int) -> Array:
    """The image as (rows, columns) patches of the kernel's size, then one matrix product."""
    stride, c = kernel.shape[0], x.shape[-1]
    patches = x[:, : rows * stride, : columns * stride].reshape(-1, rows, stride, columns, stride, c).swapaxes(2, 3)
    y = patches.reshape(-1, stride * stride * c) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(x.shape[0], rows, columns, -1)


def _by_windows(x: Array, kernel: Array, stride: int, pads: Pads, rows: int, columns: int) -> Array:
    """Every window copied to a row of a matrix, then one matrix product."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    windows = [
        x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride].reshape(-1, x.shape[-1])
        for i, j in itertools.product(range(kernel.shape[0]), range(kernel.shape[1]))
    ]
    y = jnp.concatenate(windows, -1) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(x.shape[0], rows, columns, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_stride_1(x: Array, kernel: Array, pads: Pads) -> Array:
    """XLA's convolution with another kernel gradient on a CPU."""
    return _by_xla(x, kernel, 1, pads)


def _with_stride_1_fwd(x: Array, kernel: Array, pads: Pads) -> tuple[Array, tuple[Array, Array]]:
    return _with_stride_1(x, kernel, pads), (x, kernel)


def _with_stride_1_bwd(pads: Pads, inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = inputs
    (image_gradient,) = jax.linear_transpose(lambda x: _by_xla(x, kernel, 1, pads), x)(gradient)
    by_product = functools.partial(_kernel_gradient_by_product, kernel=kernel, pads=pads)
    by_xla = functools.partial(_kernel_gradient_by_xla, kernel=kernel, pads=pads)
    return image_gradient, jax.lax.platform_dependent(x, gradient, cpu=by_product, default=by_xla)


_with_stride_1.defvjp(_with_stride_1_fwd, _with_stride_1_bwd)


def _kernel_gradient_by_xla(x: Array, gradient: Array, kernel: Array, pads: Pads) -> Array:
    """A convolution with the whole image as its kernel."""
    return jax.linear_transpose(lambda k: _by_xla(x, k, 1, pads), kernel)(gradient)[0]


def _kernel_gradient_by_product(x: Array, gradient: Array, kernel: Array, pads: Pads) -> Array:
    """One matrix product of the image and copies of the result's gradient, one shifted copy per tap of the kernel.

    With n taps the copies take n times the memory of the result.
    """
    height, width, _, out_channels = kernel.shape
    around = [(k - 1 - before, k - 1 - after) for k, (before, after) in zip((height, width), pads, strict=True)]
    padded = jnp.pad(gradient, ((0, 0), *around, (0, 0)))
    taps = itertools.product(reversed(range(height)), reversed(range(width)))
    shifted = jnp.concatenate([padded[:, i : i + x.shape[1], j : j + x.shape[2]] for i, j in taps], -1)
    product = x.reshape(-1, x.shape[-1]).T @ shifted.reshape(-1, shifted.shape[-1])
    return product.reshape(-1, height, width, out_channels).transpose(1, 2, 0, 3)


class Conv(nnx.Conv):
    """A square 2-D convolution over (h, w); by default the padding keeps the size at stride 1."""

    def __init__(
        self, in_channels: int, out_channels: int, size: int = 3, stride: int = 1, pads: Pads | None = None, **kw: Any
    ):
        half = (size // 2, size // 2)
        self.pads = (half, half) if pads is None else pads
        self.stride = stride
        super().__init__(in_channels, out_channels, (size, size), strides=stride, padding=self.pads, **kw)

    # without the `out_sharding` of nnx: models do not depend on a mesh
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Array, residual: Array | None = None, weight: Array | None = None
    ) -> Array:
        """(..., h, w, c) -> (..., h', w', c').

        Args:
            x: the input.
            residual: added to the result.
            weight: factor of the bias, (1,), for an input that has been multiplied by it.
        """
        kernel = self.kernel[...].astype(self.dtype)
        bias = None if self.bias is None else _weighted(self.bias[...], weight, self.dtype)
        if self.kernel_size == (1, 1):
            y = dense(x, kernel[0, 0], bias, self.dtype)
            return y if residual is None else y + residual
        lead = x.shape[:-3]
        x, pads = with_neighbours(x.astype(self.dtype), kernel.shape[0], self.stride, self.pads)
        y = convolve(x.reshape(-1, *x.shape[-3:]), kernel, self.stride, pads)
        return _finished(y, bias, residual).reshape(*lead, *y.shape[1:])

    def of_parts(self, x: Array, skip: Array) -> Array:
        """A 1x1 convolution of [x, skip] without joining their channels first: (..., h, w, c) twice -> (..., h, w, c')."""
        kernel, c = self.kernel[...][0, 0], x.shape[-1]
        bias = None if self.bias is None else self.bias[...]
        return dense(x, kernel[:c], None, self.dtype) + dense(skip, kernel[c:], bias, self.dtype)

    def add_bias(self, y: Array) -> Array:
        """`y` plus the layer's bias, if it has one: (..., c') -> (..., c')."""
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class TemporalConv(nnx.Module):
    """A convolution over 3 neighbouring frames, diffusers' Conv3d of kernel (3, 1, 1).

    Computed as a 2-D convolution over (frame, pixel), which is twice as fast on a CPU as three matrix products.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dtype: Any, param_dtype: Any, rngs: Keys):
        init = nnx.initializers.lecun_normal(in_axis=(0, 1), out_axis=2)
        self.kernel = nnx.Param(init(rngs.params(), (3, in_channels, out_channels), param_dtype))
        self.bias = nnx.Param(jnp.zeros(out_channels, param_dtype))
        self.dtype = dtype

    def __call__(self, x: Array, residual: Array | None = None, weight: Array | None = None) -> Array:
        """(b, f, h, w, c) -> (b, f, h, w, c'); frames outside the clip are zero. For the arguments see `Conv`."""
        b, f, h, w, c = x.shape
        x = x.astype(self.dtype).reshape(b, f, h * w, c)
        y = convolve(x, self.kernel[...].astype(self.dtype)[:, None], 1, ((1, 1), (0, 0)))
        return _finished(y, _weighted(self.bias[...], weight, self.dtype), residual).reshape(b, f, h, w, -1)


def _weighted(bias: Array, weight: Array | None, dtype: Any) -> Array:
    return bias.astype(dtype) if weight is None else bias.astype(dtype) * weight.astype(dtype)


def _finished(y: Array, bias: Array | None, residual: Array | None) -> Array:
    """A convolution's result plus bias and residual, in the convolution's own shape, in which cuDNN adds them."""
    y = y if bias is None else y + bias
    return y if residual is None else y + residual.reshape(y.shape)
