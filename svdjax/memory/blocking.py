"""Work on large arrays piece by piece, so that intermediates stay within a stated number of bytes."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
from jax import Array, lax

# The most that one blocked intermediate may take. Large enough for a GPU to stay busy on one block; at SVD-XT's full size
# it divides attention logits and feed-forward activations into a handful of blocks.
BLOCK_BYTES = 2**30
# The most that one intermediate may take to be kept for a gradient. A feed-forward keeps about eight of that size.
KEPT_BYTES = 2**24
# On a CPU, a block that stays in cache: feed-forwards of the widths of SVD ran 1.2 to 2.2 times as fast as undivided.
CPU_BLOCK_BYTES = 2**22


def block_bytes() -> int:
    """The size of one block for intermediates that are cheap to divide, on the default device."""
    return CPU_BLOCK_BYTES if jax.default_backend() == "cpu" else BLOCK_BYTES


def block_size(items: int, bytes_per_item: int, limit: int = BLOCK_BYTES) -> int:
    """The largest divisor of `items` whose block stays within `limit` bytes (at least 1)."""
    most = max(1, min(items, limit // max(1, bytes_per_item)))
    return max(d for d in range(1, most + 1) if items % d == 0)


def map_blocks(fn: Callable[[Array], Array], x: Array, bytes_per_item: int, limit: int = BLOCK_BYTES) -> Array:
    """`fn(x)` for an `fn` that treats the entries of the leading axis independently, at most `limit` bytes at a time.

    Args:
        fn: maps (m, ...) to (m, ...), entry by entry.
        x: (n, ...).
        bytes_per_item: size of `fn`'s largest intermediate for one entry.
        limit: bytes that the intermediate of one block may take.
    """
    size = block_size(x.shape[0], bytes_per_item, limit)
    fn = recomputed_if_large(fn, x.shape[0] * bytes_per_item)
    if size == x.shape[0]:
        return fn(x)
    out = lax.map(fn, x.reshape(x.shape[0] // size, size, *x.shape[1:]))
    return out.reshape(x.shape[0], *out.shape[2:])


def recomputed_if_large(fn: Callable[..., Array], size: int) -> Callable[..., Array]:
    """`fn`, whose intermediates a gradient computes again instead of keeping them if they take more than `KEPT_BYTES`.

    Without this, differentiating a loop over blocks keeps what dividing the work was to avoid.

    Args:
        size: bytes of the largest intermediate, of all blocks together.
    """
    return jax.checkpoint(fn) if size > KEPT_BYTES else fn


def flatten_leading(x: Array, count: int) -> Array:
    """Merge the first `count` axes into one."""
    return x.reshape(math.prod(x.shape[:count]), *x.shape[count:])


def stats_dtype(dtype: jax.typing.DTypeLike) -> jax.typing.DTypeLike:
    """The precision of norms, softmax and sigmas: never below float32, and float64 stays float64."""
    return jax.numpy.promote_types(dtype, jax.numpy.float32)
