"""Resizing as SVD's image encoder was fed: a Gaussian blur against aliasing, then bicubic interpolation.

Source: `_resize_with_antialiasing` of diffusers' Stable Video Diffusion pipeline. Both steps are linear and separable, so
an axis is resized by one matrix, built in float64.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svdjax.memory.blocking import stats_dtype

CUBIC_A = -0.75  # PyTorch's bicubic kernel


def _blur_taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and weights of the Gaussian that is applied before `size` becomes `new_size`.

    Standard deviation (factor - 1) / 2, at least 0.001 (no blur); two standard deviations to a side.
    """
    sigma = max((size / new_size - 1) / 2, 0.001)
    width = int(max(4 * sigma, 3))
    reach = width // 2  # an even width grows by one, so that the kernel has a middle
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    return offsets, weights / weights.sum()


def _cubic_taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources and weights of each output, (new_size, 4) each; corners map to corners (`align_corners=True`)."""
    step = (size - 1) / (new_size - 1) if new_size > 1 else 0.0
    position = np.arange(new_size) * step
    start = np.floor(position)
    taps = start[:, None] + np.arange(-1, 3)
    x = np.abs(position[:, None] - taps)
    a = CUBIC_A
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1  # |x| <= 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a  # 1 < |x| <= 2
    return np.clip(taps, 0, size - 1).astype(int), np.where(x <= 1, near, far)


@functools.lru_cache(maxsize=16)
def resize_matrix(size: int, new_size: int) -> np.ndarray:
    """The weights of each of `size` inputs in each of `new_size` outputs: (new_size, size) float64.

    The blur reflects the image at its borders, without repeating the border itself; the interpolation repeats the border.
    """
    offsets, blur = _blur_taps(size, new_size)
    taps, cubic = _cubic_taps(size, new_size)
    source = np.abs(taps[:, :, None] + offsets)  # (new_size, 4, taps of the blur)
    source = (size - 1) - np.abs((size - 1) - source)
    rows = np.broadcast_to(np.arange(new_size)[:, None, None], source.shape)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (rows, source), cubic[:, :, None] * blur)
    matrix.flags.writeable = False  # the cache hands the same array to everyone
    return matrix


def resize_with_antialiasing(x: Array, size: tuple[int, int]) -> Array:
    """(b, h, w, c) -> (b, *size, c), in at least float32."""
    dtype = stats_dtype(x.dtype)
    by_row, by_column = (jnp.asarray(resize_matrix(n, new), dtype) for n, new in zip(x.shape[1:3], size, strict=True))
    # Full precision: on a GPU a float32 product would otherwise keep ten bits of a pixel.
    return jnp.einsum("yh,bhwc,xw->byxc", by_row, x.astype(dtype), by_column, precision=lax.Precision.HIGHEST)
