"""The spatio-temporal transformer of one UNet level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from svdjax.devices.target import target
from svdjax.memory.precision import stats_dtype
from svdjax.memory.rematerialise import RunBlock
from svdjax.models.backward import Backward
from svdjax.models.layers import FeedForward, GroupNorm, LayerNorm, Linear, TimestepEmbedding, hidden, timestep_embedding
from svdjax.models.resnet import AlphaBlender
from svdjax.models.spatial_attention import SpatialAttention
from svdjax.models.temporal_attention import TemporalAttention

Maps = dict[str, Array]  # temporal self-attention maps (b*h*w, n, f, f) by module path


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Inputs shared by all blocks of one UNet call.

    Attributes:
        temb: SiLU of the time embedding, (b, c_t).
        context: CLIP image embedding, (b, 1, c_context).
        attn_maps: maps to use instead of the layers' own, by path.
        backward: set for a batch [forward; backward]; the second half then runs as the backward direction.
        return_attn_maps: whether blocks return their maps.
        run_block: runs a resnet, transformer, down- or upsampler, see `rematerialise`.
    """

    temb: Array
    context: Array
    attn_maps: Mapping[str, Array]
    backward: Backward | None
    return_attn_maps: bool = field(metadata={"static": True})
    run_block: RunBlock = field(metadata={"static": True})


class OneTokenCrossAttention(nnx.Module):
    """Cross-attention to a single token, the CLIP image embedding.

    The softmax over one key is 1, so the output is `to_out(to_v(token))` for every query, and queries and keys are never
    computed. Their weights are kept for checkpoints and for exports to diffusers.
    """

    def __init__(self, dim: int, context_dim: int, **kw: Any):
        self.to_q = Linear(dim, dim, use_bias=False, **kw)
        self.to_k = Linear(context_dim, dim, use_bias=False, **kw)
        self.to_v = Linear(context_dim, dim, use_bias=False, **kw)
        self.to_out = Linear(dim, dim, **kw)

    def __call__(self, context: Array) -> Array:
        """(b, 1, c_context) -> (b, 1, 1, c), to be added to every frame and pixel."""
        return self.to_out(self.to_v(context))[:, :, None, :]


def _apart(x: Array, offset: Array) -> tuple[Array, Array]:
    """A sum of pixels and of what all pixels of a frame share, kept apart: the operations that read the sum add it.

    On a CPU these are too many, and it is added once: the second part is zero, which XLA removes.
    """
    return (x + offset, jnp.zeros((), x.dtype)) if target().is_cpu else (x, offset)


class SpatialBlock(nnx.Module):
    """Self-attention within frames, cross-attention to the image embedding, feed-forward (diffusers: BasicTransformerBlock)."""

    def __init__(self, dim: int, heads: int, context_dim: int, **kw: Any):
        self.norm1 = LayerNorm(dim, **kw)
        self.attn1 = SpatialAttention(dim, heads, **kw)
        self.norm2 = LayerNorm(dim, **kw)  # unused: norm of the queries of attn2, which a single token makes unnecessary
        self.attn2 = OneTokenCrossAttention(dim, context_dim, **kw)
        self.norm3 = LayerNorm(dim, **kw)
        self.ff = FeedForward(dim, **kw)

    def __call__(self, x: Array, cond: Conditions) -> tuple[Array, Array]:
        """(b, f, s, c) -> (b, f, s, c) and an offset (b, 1, 1, c): the result is their sum."""
        b, f, s, c = x.shape
        x = x + self.attn1(self.norm1(x).reshape(b * f, s, c)).reshape(x.shape)
        x, offset = _apart(x, self.attn2(cond.context))
        return x + self.ff(self.norm3(x + offset)), offset


class TemporalBlock(nnx.Module):
    """Feed-forward, self-attention over frames, cross-attention, feed-forward (diffusers: TemporalBasicTransformerBlock)."""

    def __init__(self, dim: int, heads: int, context_dim: int, path: str, **kw: Any):
        self.norm_in = LayerNorm(dim, **kw)
        self.ff_in = FeedForward(dim, **kw)
        self.norm1 = LayerNorm(dim, **kw)
        self.attn1 = TemporalAttention(dim, heads, f"{path}.attn1", **kw)
        self.norm2 = LayerNorm(dim, **kw)  # unused, as in SpatialBlock
        self.attn2 = OneTokenCrossAttention(dim, context_dim, **kw)
        self.norm3 = LayerNorm(dim, **kw)
        self.ff = FeedForward(dim, **kw)

    def __call__(self, x: Array, offset: Array, cond: Conditions) -> tuple[Array, Maps]:
        """(b, f, s, c) and an offset (b, f, 1, c), to be added -> (b, f, s, c) and the maps of attn1, if requested."""
        x, offset = _apart(x, offset)
        # hidden: cuBLAS would overwrite the residual, and it is needed again, so XLA would copy it
        x = x + hidden(self.ff_in(self.norm_in(x + offset)))
        maps = cond.attn_maps.get(self.attn1.path)
        if self.attn1.has_kernel() and maps is None and not cond.return_attn_maps:
            parts = 1 if cond.backward is None else 2
            clips = [self.norm1(x + y) for x, y in zip(jnp.split(x, parts), jnp.split(offset, parts), strict=True)]
            h = self.attn1.by_kernel(clips, cond.backward)
        elif cond.backward is None:
            h, maps = self.attn1(self.norm1(x + offset), maps)
        else:
            h, maps = self.attn1.lockstep(self.norm1(x + offset), cond.backward)
        x = x + h
        x, offset = _apart(x, offset + self.attn2(cond.context))
        x = x + self.ff(self.norm3(x + offset))
        return x + offset, {self.attn1.path: maps} if cond.return_attn_maps and maps is not None else {}


class TransformerSpatioTemporal(nnx.Module):
    """Pairs of a spatial and a temporal block, blended (diffusers: TransformerSpatioTemporalModel)."""

    def __init__(self, dim: int, heads: int, layers: int, context_dim: int, path: str, **kw: Any):
        self.norm = GroupNorm(dim, 1e-6, **kw)
        self.proj_in = Linear(dim, dim, **kw)
        self.transformer_blocks = nnx.List([SpatialBlock(dim, heads, context_dim, **kw) for _ in range(layers)])
        self.temporal_transformer_blocks = nnx.List(
            [TemporalBlock(dim, heads, context_dim, f"{path}.temporal_transformer_blocks.{i}", **kw) for i in range(layers)]
        )
        self.time_pos_embed = TimestepEmbedding(dim, 4 * dim, dim, **kw)
        self.time_mixer = AlphaBlender(switched=False, **kw)
        self.proj_out = Linear(dim, dim, **kw)

    def __call__(self, x: Array, cond: Conditions) -> tuple[Array, Maps]:
        """(b, f, h, w, c) -> (b, f, h, w, c) and its temporal maps, if requested."""
        b, f, h, w, c = x.shape
        # pixels become one axis: (b, f, s, c)
        y = self.proj_in(self.norm(x).reshape(b, f, h * w, c))
        frame_numbers = jnp.arange(f, dtype=stats_dtype(y.dtype))
        frame_embedding = self.time_pos_embed(timestep_embedding(frame_numbers, c).astype(y.dtype))[None, :, None, :]
        maps: Maps = {}
        for spatial, temporal in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            y, offset = spatial(y, cond)
            mixed, layer_maps = temporal(y, offset + frame_embedding, cond)
            y = self.time_mixer(y + offset, mixed)
            maps |= layer_maps
        return x + self.proj_out(y).reshape(x.shape), maps
