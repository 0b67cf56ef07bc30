"""Arrays of a step and their shapes: shardings, memory layouts, bytes on a device."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax import Array
from jax.experimental.layout import Format


def placed_as(tree: Any, shardings: Any) -> Any:
    """The shapes of arrays, or of shapes, with these shardings: one for all, or a tree of them."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, shardings)


def in_formats(tree: Any, formats: Any) -> Any:
    """Arrays in other memory layouts, moved one after the other. Arrays that have another layout are deleted.

    Args:
        tree: the arrays.
        formats: their formats; arrays that the program doesn't use have a format without a layout.
    """
    arrays, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [_in_format(x, f) for x, f in zip(arrays, jax.tree.leaves(formats), strict=True)])


def _in_format(x: Any, format: Format) -> Array:
    if format.layout is None or x.format.layout == format.layout:
        return x
    moved = jax.device_put(x, format)
    x.delete()
    return moved


def device_bytes(tree: Any) -> int:
    """Bytes that each device stores of arrays, or of shapes with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
