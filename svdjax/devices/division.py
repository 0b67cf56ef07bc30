"""Frames that are divided over devices: what a layer needs from the devices that have the other pixels.

A function traced within `divided_by` and `jax.shard_map` sees one device's part of each frame, a rectangle of equal size on
every device. Layers that read other pixels call the functions below. Outside of `divided_by` these change nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array, lax

Pads = tuple[tuple[int, int], tuple[int, int]]  # before and after, of rows and of columns


@dataclass(frozen=True)
class Parts:
    """The division of one side of a frame.

    Attributes:
        axes: names of the mesh axes that divide it, in the order of the mesh; none if it is not divided.
        count: number of parts.
    """

    axes: tuple[str, ...] = ()
    count: int = 1


@dataclass(frozen=True)
class Division:
    """The division of both sides of every frame."""

    rows: Parts = Parts()
    columns: Parts = Parts()

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of all mesh axes that divide frames."""
        return (*self.rows.axes, *self.columns.axes)


WHOLE = Division()
_current: ContextVar[Division] = ContextVar("division", default=WHOLE)


@contextlib.contextmanager
def divided_by(division: Division) -> Iterator[None]:
    """Within the block, trace a function for one device's part of each frame, inside `jax.shard_map`."""
    token = _current.set(division)
    try:
        yield
    finally:
        _current.reset(token)


def with_neighbours(x: Array, size: int, stride: int, pads: Pads) -> tuple[Array, Pads]:
    """The input of a convolution with the rows and columns that it reads from neighbouring devices.

    Args:
        x: (..., h, w, c), with sides that are multiples of `stride`.
        size: rows and columns of the kernel.
        stride: of the convolution.
        pads: zeros that the convolution adds around a frame. With a stride above 1, it must give h / stride rows.

    Returns:
        The input and the zeros to add to it: none on a divided side, where the outermost devices already have them.
    """
    division, left = _current.get(), list(pads)
    for i, (axis, parts) in enumerate(((-3, division.rows), (-2, division.columns))):
        if parts.axes:
            before, after = pads[i]
            x = _extended(x, axis, parts, before, after if stride == 1 else max(size - stride - before, 0))
            left[i] = (0, 0)
    return x, (left[0], left[1])


def _extended(x: Array, axis: int, parts: Parts, before: int, after: int) -> Array:
    """`x` with some rows or columns of both neighbours; zeros at the border of the frame."""
    axis += x.ndim
    length = x.shape[axis]
    pieces = [x]
    if before:  # a device without a sender gets zeros
        last = lax.slice_in_dim(x, length - before, length, axis=axis)
        pieces.insert(0, lax.ppermute(last, parts.axes, [(i, i + 1) for i in range(parts.count - 1)]))
    if after:
        first = lax.slice_in_dim(x, 0, after, axis=axis)
        pieces.append(lax.ppermute(first, parts.axes, [(i + 1, i) for i in range(parts.count - 1)]))
    return jnp.concatenate(pieces, axis)


def frame_statistics(mean: Array, variance: Array, groups: int) -> tuple[Array, Array]:
    """Mean and variance over whole frames from those of this device's part.

    Args:
        mean, variance: (..., c), repeated over the channels of each group.
        groups: number of groups.
    """
    axes = _current.get().axes
    if not axes:
        return mean, variance
    width = mean.shape[-1] // groups
    of_parts = lax.all_gather(jnp.stack([mean, variance])[..., ::width], axes)  # of each group once
    means, variances = jnp.repeat(jnp.moveaxis(of_parts, 1, 0), width, axis=-1)
    mean = means.mean(0)
    return mean, variances.mean(0) + jnp.square(means - mean).mean(0)


def all_pixels(x: Array) -> Array:
    """The pixels of whole frames from those of each device: (m, s, ...) -> (m, s', ...), in the order of the devices."""
    axes = _current.get().axes
    return lax.all_gather(x, axes, axis=1, tiled=True) if axes else x
