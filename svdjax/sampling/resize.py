"""Image resizing for SVD's image encoder: a Gaussian blur against aliasing, then bicubic interpolation.

Source: `_resize_with_antialiasing` of diffusers' Stable Video Diffusion pipeline. Both steps are linear and separable, so each
axis is resized by one matrix, built in float64.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svdjax.memory.precision import stats_dtype

CUBIC_A = -0.75  # PyTorch's bicubic kernel


def _blur_taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and weights of the Gaussian blur before an axis goes from `size` to `new_size`.

    Its standard deviation is (size / new_size - 1) / 2, at least 0.001 (no blur). The kernel covers two standard deviations on
    each side.
    """
    sigma = max((size / new_size - 1) / 2, 0.001)
    width = int(max(4 * sigma, 3))
    reach = width // 2  # an even width grows by one, so that the kernel has a center
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    return offsets, weights / weights.sum()


def _cubic_taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Source indices and weights of each output, (new_size, 4) each; corners map to corners (`align_corners=True`)."""
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
    """The matrix that resizes an axis: (new_size, size) float64.

    At the borders, the blur reflects the image without repeating the edge pixel; the interpolation repeats the edge pixel.
    """
    offsets, blur = _blur_taps(size, new_size)
    taps, cubic = _cubic_taps(size, new_size)
    source = np.abs(taps[:, :, None] + offsets)  # (new_size, 4, taps of the blur)
    source = (size - 1) - np.abs((size - 1) - source)
    rows = np.broadcast_to(np.arange(new_size)[:, None, None], source.shape)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (rows, source), cubic[:, :, None] * blur)
    matrix.flags.writeable = False  # all callers share the cached array
    return matrix


def resize_with_antialiasing(x: Array, size: tuple[int, int]) -> Array:
    """Resize (b, h, w, c) to (b, *size, c), in at least float32; `size` is (height, width)."""
    dtype = stats_dtype(x.dtype)
    by_row, by_column = (jnp.asarray(resize_matrix(n, new), dtype) for n, new in zip(x.shape[1:3], size, strict=True))
    # Full precision: by default a GPU multiplies float32 in TF32, with ten bits of mantissa.
    return jnp.einsum("yh,bhwc,xw->byxc", by_row, x.astype(dtype), by_column, precision=lax.Precision.HIGHEST)
