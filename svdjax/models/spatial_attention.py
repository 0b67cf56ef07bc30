"""Self-attention within single images, for the UNet, the VAE and CLIP: exact, in bounded memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from svdjax.devices.division import all_pixels
from svdjax.devices.target import target
from svdjax.memory.blocking import BLOCK_BYTES, map_blocks, recomputed_if_large
from svdjax.memory.precision import stats_dtype
from svdjax.models.layers import Linear

# cuDNN's attention fails for more sequences at once (https://github.com/pytorch/pytorch/issues/181235). Temporal attention has
# one sequence for each pixel of each clip.
MOST_SEQUENCES = 2**16 - 1
# Largest block of logits on a CPU, in bytes: attention is slower if they exceed its cache.
CPU_LOGIT_BYTES = 2**23


def spatial_attention(q: Array, k: Array, v: Array) -> Array:
    """Self-attention within each of m images, with softmax in at least float32.

    Uses `fused_attention` where it applies.
    Otherwise exact attention over blocks of images and queries, with logits of at most `BLOCK_BYTES` at a time.

    Args:
        q: (m, s, n, c), s pixels or tokens and n heads.
        k, v: (m, s', n, c); s' is larger than s if `q` has only some of the pixels.

    Returns:
        (m, s, n, c).
    """
    if has_fused_kernel(q.dtype, q.shape[-1]):
        return fused_attention(q, k, v)
    limit = CPU_LOGIT_BYTES if target().is_cpu else BLOCK_BYTES
    return blocked_attention(q, k, v, limit)


def has_fused_kernel(dtype: DTypeLike, channels: int) -> bool:
    """Whether `fused_attention` applies: NVIDIA GPU, 16 bit, at most 128 channels per head, a multiple of 8."""
    return target().nvidia and dtype in (jnp.bfloat16, jnp.float16) and channels <= 128 and channels % 8 == 0


def fused_attention(q: Array, k: Array, v: Array) -> Array:
    """cuDNN's attention, which never stores the logits: (m, s, n, c) and (m, s', n, c) twice -> (m, s, n, c)."""
    count = -(-len(q) // MOST_SEQUENCES)
    parts = zip(*(jnp.array_split(x, count) for x in (q, k, v)), strict=True)
    out = [jax.nn.dot_product_attention(*part, implementation="cudnn") for part in parts]
    return out[0] if count == 1 else jnp.concatenate(out)


def blocked_attention(q: Array, k: Array, v: Array, limit: int = BLOCK_BYTES) -> Array:
    """`spatial_attention` with at most `limit` bytes of logits at a time: all, one head of an image, or some queries."""
    m, s, n, c = q.shape
    query_bytes = k.shape[1] * stats_dtype(q.dtype).itemsize
    q = q * c**-0.5
    if m * n * s * query_bytes <= limit:
        return _attend(*(x.swapaxes(1, 2) for x in (q, k, v))).swapaxes(1, 2)

    attend = recomputed_if_large(_attend, m * n * s * query_bytes)

    def attend_image(qkv: tuple[Array, Array, Array]) -> Array:
        """(s, n, c) and (s', n, c) twice -> (s, n, c)."""
        heads = [[x[:, i] for x in qkv] for i in range(n)]
        return jnp.stack(
            [map_blocks(lambda rows, k=k, v=v: attend(rows, k, v), q, query_bytes, limit) for q, k, v in heads], axis=1
        )

    return lax.map(attend_image, (q, k, v))


def _attend(q: Array, k: Array, v: Array) -> Array:
    """softmax(q k) v: (..., s, c) and (..., s', c) twice -> (..., s, c), with q already divided by sqrt(c).

    Normalised after the product with the values, which is smaller than the weights.
    """
    dtype = stats_dtype(q.dtype)
    logits = jnp.einsum("...qc,...kc->...qk", q, k, preferred_element_type=dtype)
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    out = jnp.einsum("...qk,...kc->...qc", weights.astype(v.dtype), v, preferred_element_type=dtype)
    return (out / weights.sum(-1, keepdims=True)).astype(v.dtype)


class SpatialAttention(nnx.Module):
    """Multi-head self-attention over the pixels of each frame."""

    def __init__(self, dim: int, heads: int, *, bias: bool = False, **kw: Any):
        self.to_q = Linear(dim, dim, use_bias=bias, **kw)
        self.to_k = Linear(dim, dim, use_bias=bias, **kw)
        self.to_v = Linear(dim, dim, use_bias=bias, **kw)
        self.to_out = Linear(dim, dim, **kw)
        self.heads = heads

    def __call__(self, x: Array) -> Array:
        """(m, s, c) -> (m, s, c), m frames of s pixels."""
        q, k, v = (to(x).reshape(*x.shape[:2], self.heads, -1) for to in (self.to_q, self.to_k, self.to_v))
        return self.to_out(spatial_attention(q, all_pixels(k), all_pixels(v)).reshape(x.shape))
