"""Arrays of a step and their shapes: shardings, bytes on a device."""

from __future__ import annotations

import math
from typing import Any

import jax


def placed_as(tree: Any, shardings: Any) -> Any:
    """The shapes of arrays, or of shapes, with these shardings: one for all, or a tree of them."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, shardings)


def device_bytes(tree: Any) -> int:
    """Bytes that each device stores of arrays, or of shapes with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
