"""Computation block by block, so that intermediates stay within a given number of bytes."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import Array, lax

from svdjax.devices.target import target

# Largest intermediate of one block. Large enough to keep a GPU busy; at SVD-XT's full size it divides attention logits and
# feed-forward activations into a handful of blocks.
BLOCK_BYTES = 2**30
# Largest intermediate that is kept for a gradient; larger ones are recomputed. A feed-forward layer
# keeps about eight of this size.
KEPT_BYTES = 2**24
# Block size on a CPU: small enough for its cache. Feed-forward layers at SVD's widths ran 1.2 to 2.2
# times as fast as without blocks.
CPU_BLOCK_BYTES = 2**22


# On a GPU XLA's loop over blocks copies each block in and out and keeps both halves: in SVD-XT's sampling step, feed-forward
# layers in blocks of 1 GiB needed 14.9 GB of scratch and moved 1,084 GB, undivided ones 8.3 GB and 1,004 GB.
UNDIVIDED = 2**62


def block_bytes() -> int:
    """Block size of cheap computations such as feed-forward layers, in bytes, on the device that is compiled for."""
    return CPU_BLOCK_BYTES if target().is_cpu else UNDIVIDED


def block_size(items: int, bytes_per_item: int, limit: int = BLOCK_BYTES) -> int:
    """Items per block: the largest divisor of `items` that keeps a block within `limit` bytes; at least 1."""
    most = max(1, min(items, limit // max(1, bytes_per_item)))
    return max(d for d in range(1, most + 1) if items % d == 0)


def map_blocks(fn: Callable[[Array], Array], x: Array, bytes_per_item: int, limit: int = BLOCK_BYTES) -> Array:
    """`fn(x)`, computed in blocks of the leading axis.

    Args:
        fn: maps (m, ...) to (m, ...), each entry of the leading axis independently.
        x: (n, ...).
        bytes_per_item: size of `fn`'s largest intermediate for one entry.
        limit: largest size of this intermediate for one block, in bytes.
    """
    size = block_size(x.shape[0], bytes_per_item, limit)
    fn = recomputed_if_large(fn, x.shape[0] * bytes_per_item)
    if size == x.shape[0]:
        return fn(x)
    out = lax.map(fn, x.reshape(x.shape[0] // size, size, *x.shape[1:]))
    return out.reshape(x.shape[0], *out.shape[2:])


def recomputed_if_large(fn: Callable[..., Array], size: int) -> Callable[..., Array]:
    """`fn`, with its intermediates recomputed for a gradient instead of kept if they take more than `KEPT_BYTES`.

    Without this, the gradient of a loop over blocks would keep the intermediates of all blocks.

    Args:
        fn: any function of arrays.
        size: bytes of the largest intermediate, all blocks together.
    """
    return jax.checkpoint(fn) if size > KEPT_BYTES else fn
