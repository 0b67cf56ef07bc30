"""Attention as plain functions, and the two attention layers of the UNet.

Temporal maps are explicit: `attention_maps` makes them, `apply_maps` uses them, `rotate_maps` turns them by 180 degrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from svdjax.memory.blocking import BLOCK_BYTES, map_blocks, recomputed_if_large, stats_dtype
from svdjax.models.backward import Backward
from svdjax.models.layers import Linear, dense

# Logits of one block on a CPU; beyond the cache, attention there slows down.
CPU_LOGIT_BYTES = 2**23


def rotate_maps(maps: Array) -> Array:
    """rot180 of (..., f, f) maps: entry (j, k) becomes (f-1-j, f-1-k), attention as seen in reversed time."""
    return jnp.flip(maps, (-2, -1))


def attention_maps(q: Array, k: Array) -> Array:
    """softmax(q k / sqrt(c)) over frames for each pixel: (b, f, s, n, c) twice -> (b*s, n, f, f), at least float32."""
    return _by_pixel(_maps_by_frame(q, k))


def apply_maps(maps: Array, v: Array) -> Array:
    """Weighted sums over frames: maps (b*s, n, f, f), v (d, b, f, s, n, c) -> (d, b, f, s, n, c).

    `d` counts the sets of values that share the maps.
    """
    return _apply_by_frame(_by_frame(maps, v.shape[1]), v)


# Inside, maps lie as (b, g, f, s, n), key frame g before query frame f and pixels together, like the activations.


def _by_pixel(maps: Array) -> Array:
    b, g, f, s, n = maps.shape
    return maps.transpose(0, 3, 4, 2, 1).reshape(b * s, n, f, g)


def _by_frame(maps: Array, b: int) -> Array:
    _, n, f, g = maps.shape
    return maps.reshape(b, -1, n, f, g).transpose(0, 4, 3, 1, 2)


def _maps_by_frame(q: Array, k: Array) -> Array:
    # Not as sums of products: jaxlib 0.10.2 on a CPU gets those silently wrong for large outputs (jax-ml/jax#39103).
    logits = jnp.einsum("bfsnc,bgsnc->bgfsn", q, k, preferred_element_type=stats_dtype(q.dtype))
    return jax.nn.softmax(logits * q.shape[-1] ** -0.5, axis=1)


def _apply_by_frame(maps: Array, v: Array) -> Array:
    return lax.platform_dependent(maps.astype(v.dtype), v, cpu=_sum_frames, default=_multiply_frames)


def _multiply_frames(maps: Array, v: Array) -> Array:
    return jnp.einsum("bgfsn,dbgsnc->dbfsnc", maps, v)


@jax.custom_vjp
def _sum_frames(maps: Array, v: Array) -> Array:
    # On a CPU, sums over frames of whole rows of pixels are several times as fast as many products of tiny matrices.
    maps = lax.optimization_barrier(maps)[..., None]  # computed once, not again inside every sum
    return sum(maps[:, g] * v[:, :, g, None] for g in range(maps.shape[1]))


def _sum_frames_fwd(maps: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
    return _sum_frames(maps, v), (maps, v)


def _sum_frames_bwd(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    maps, v = kept
    # Of the values it is the same sum with key and query frames exchanged. JAX's own is ten times as slow: for each key
    # frame, a sum over another axis.
    return jnp.einsum("dbfsnc,dbgsnc->bgfsn", gradient, v), _sum_frames(maps.swapaxes(1, 2), gradient)


_sum_frames.defvjp(_sum_frames_fwd, _sum_frames_bwd)


def _on_nvidia() -> bool:
    return jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version.lower()


def spatial_attention(q: Array, k: Array, v: Array) -> Array:
    """Self-attention within each frame: (m, s, n, c) three times -> (m, s, n, c), softmax in at least float32.

    cuDNN's fused kernel where it applies (NVIDIA GPU, 16 bit, heads of at most 128 channels in eights); otherwise exact
    attention over blocks of frames and queries, whose logits never exceed `BLOCK_BYTES`.
    """
    channels = q.shape[-1]
    if _on_nvidia() and q.dtype in (jnp.bfloat16, jnp.float16) and channels <= 128 and channels % 8 == 0:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    limit = CPU_LOGIT_BYTES if jax.default_backend() == "cpu" else BLOCK_BYTES
    return blocked_attention(q, k, v, limit)


def blocked_attention(q: Array, k: Array, v: Array, limit: int = BLOCK_BYTES) -> Array:
    """`spatial_attention` with at most `limit` bytes of logits at a time: everything, or one frame's head, or some queries."""
    m, s, n, c = q.shape
    dtype = stats_dtype(q.dtype)
    query_bytes = s * jnp.dtype(dtype).itemsize
    q = q * c**-0.5

    def attend(q: Array, k: Array, v: Array) -> Array:
        """(..., s, c) three times; normalised after the product with the values, which is smaller than the weights."""
        logits = jnp.einsum("...qc,...kc->...qk", q, k, preferred_element_type=dtype)
        weights = jnp.exp(logits - logits.max(-1, keepdims=True))
        out = jnp.einsum("...qk,...kc->...qc", weights.astype(v.dtype), v, preferred_element_type=dtype)
        return (out / weights.sum(-1, keepdims=True)).astype(v.dtype)

    if m * n * s * query_bytes <= limit:
        return attend(*(x.swapaxes(1, 2) for x in (q, k, v))).swapaxes(1, 2)

    attend = recomputed_if_large(attend, m * n * s * query_bytes)

    def one_frame(qkv: tuple[Array, Array, Array]) -> Array:
        heads = [[x[:, i] for x in qkv] for i in range(n)]
        return jnp.stack(
            [map_blocks(lambda rows, k=k, v=v: attend(rows, k, v), q, query_bytes, limit) for q, k, v in heads], axis=1
        )

    return lax.map(one_frame, (q, k, v))


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
        return self.to_out(spatial_attention(q, k, v).reshape(x.shape))


class OneTokenCrossAttention(nnx.Module):
    """Cross-attention to a single token, the CLIP image embedding.

    The softmax over one key is 1, so the output is `to_out(to_v(token))` for every query: queries and keys are never
    computed. Their weights are kept, because a checkpoint has them and an export needs them.
    """

    def __init__(self, dim: int, context_dim: int, **kw: Any):
        self.to_q = Linear(dim, dim, use_bias=False, **kw)
        self.to_k = Linear(context_dim, dim, use_bias=False, **kw)
        self.to_v = Linear(context_dim, dim, use_bias=False, **kw)
        self.to_out = Linear(dim, dim, **kw)

    def __call__(self, context: Array) -> Array:
        """(b, 1, c_context) -> (b, 1, 1, c), to be added to every frame and pixel."""
        return self.to_out(self.to_v(context))[:, :, None, :]


class TemporalAttention(nnx.Module):
    """Multi-head self-attention over the frames of each pixel, with explicit maps and an optional backward half.

    Args of the constructor:
        path: the module's path in the UNet, its key in `attn_maps` and the prefix of its tensors in `Backward.params`.
    """

    def __init__(self, dim: int, heads: int, path: str, **kw: Any):
        self.to_q = Linear(dim, dim, use_bias=False, **kw)
        self.to_k = Linear(dim, dim, use_bias=False, **kw)
        self.to_v = Linear(dim, dim, use_bias=False, **kw)
        self.to_out = Linear(dim, dim, **kw)
        self.heads = heads
        self.path = path

    def _project(self, name: str, x: Array, tuned: Mapping[str, Array]) -> Array:
        """`self.<name>(x)`, with the tensors of `tuned` in place of the layer's own where it holds any."""
        layer = getattr(self, name)
        kernel = tuned.get(f"{self.path}.{name}.kernel", layer.kernel[...])
        bias = tuned.get(f"{self.path}.{name}.bias", layer.bias[...]) if layer.use_bias else None
        return dense(x, kernel, bias, layer.dtype)

    def _heads(self, name: str, x: Array, tuned: Mapping[str, Array]) -> Array:
        return self._project(name, x, tuned).reshape(*x.shape[:3], self.heads, -1)

    def _maps(self, x: Array, tuned: Mapping[str, Array]) -> Array:
        return _maps_by_frame(self._heads("to_q", x, tuned), self._heads("to_k", x, tuned))

    def __call__(self, x: Array, maps: Array | None = None, tuned: Mapping[str, Array] | None = None) -> tuple[Array, Array]:
        """(b, f, s, c) -> the layer's output (b, f, s, c) and the maps it used (b*s, n, f, f)."""
        tuned = tuned or {}
        b, f, s, _ = x.shape
        if maps is None:
            weights = self._maps(x, tuned)
        elif maps.shape == (b * s, self.heads, f, f):
            weights = _by_frame(maps, b)
        else:
            raise ValueError(f"attn_maps[{self.path!r}] has shape {maps.shape}, expected {(b * s, self.heads, f, f)}")
        out = _apply_by_frame(weights, self._heads("to_v", x, tuned)[None])
        return self._project("to_out", out.reshape(x.shape), tuned), _by_pixel(weights)

    def lockstep(self, x: Array, backward: Backward) -> tuple[Array, Array]:
        """Both directions in one call: x (2*b, f, s, c), the forward half first -> output and forward maps.

        Where the backward half is given the forward maps, they need not be rotated: rot180(A) V = flip(A flip(V)), so
        its values join the forward ones on a direction axis, in forward time, and the same maps serve both.
        """
        fwd, bwd = jnp.split(x, 2)
        if not backward.takes_maps(self.path):
            out_f, maps = self(fwd)
            return jnp.concatenate([out_f, self(bwd, tuned=backward.params)[0]]), maps
        weights = self._maps(fwd, {})
        v_f = self._heads("to_v", fwd, {})
        v_b = self._heads("to_v", bwd, backward.params)
        out = _apply_by_frame(weights, jnp.stack([v_f, jnp.flip(v_b, 1)])).reshape(2, *fwd.shape)
        out_f = self._project("to_out", out[0], {})
        out_b = self._project("to_out", jnp.flip(out[1], 1), backward.params)
        return jnp.concatenate([out_f, out_b]), _by_pixel(weights)
